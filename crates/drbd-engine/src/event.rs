//! What may happen to a resource: everything the engine ever learns comes through [`Event`].

use alloc::boxed::Box;
use alloc::vec::Vec;

use drbd_proto::{NodeId, Packet, Sector, Stream, VolumeNr};

use crate::command::Command;
use crate::id::{BufId, CmdId, IoId, OpId, OpenId};
use crate::resync_after::ResyncHold;

/// One thing that happened. The driver delivers events one at a time and carries out the effects of one
/// before it delivers the next.
#[derive(Debug)]
pub enum Event {
    /// The deadline named by `next_deadline` has passed. May also come early or late.
    Tick,
    /// An application submitted a request to a volume.
    Io {
        /// Name under which the request completes.
        io: IoId,
        /// The volume.
        volume: VolumeNr,
        /// What is asked for.
        request: IoRequest,
    },
    /// Someone opened the virtual device of a volume. Answered by `Effect::OpenDone`.
    Open {
        /// Name of the opener.
        open: OpenId,
        /// The volume.
        volume: VolumeNr,
        /// Whether the opener may write (this is what auto-promote looks at).
        write: bool,
        /// Give up at once instead of waiting for auto-promote-timeout.
        nonblock: bool,
    },
    /// An opener is gone. All of its requests have completed before.
    Close {
        /// Name of the opener.
        open: OpenId,
    },
    /// An operation asked for by an effect with an [`OpId`] has ended.
    Done {
        /// The operation.
        op: OpId,
        /// Its outcome.
        result: OpResult,
    },
    /// Both streams to a peer exist; first packets are exchanged, nothing else was sent or received.
    Established {
        /// The peer.
        peer: NodeId,
        /// Which of the connection's paths carries the streams (index in order of configuration).
        path: usize,
        /// This node accepted the control stream (wire protocol, section 3.3).
        resolve_conflicts: bool,
        /// Fresh random bytes for the authentication challenge, should it be needed.
        challenge: Box<[u8; 64]>,
    },
    /// A complete packet arrived.
    Packet {
        /// Sender.
        peer: NodeId,
        /// Stream it came on.
        stream: Stream,
        /// Volume number of the header.
        volume: VolumeNr,
        /// The packet without bulk payload.
        packet: Packet,
        /// The payload, for packets that have one.
        payload: Option<BufId>,
    },
    /// The streams to a peer broke, or what came over them made no sense. They are closed already;
    /// nothing more comes from them.
    Lost {
        /// The peer.
        peer: NodeId,
        /// Why.
        reason: LostReason,
    },
    /// A send with `notify` has been handed over to the transport completely.
    Sent {
        /// The operation named in the effect.
        op: OpId,
    },
    /// The [`Schedule`](crate::resync_after::Schedule) of the node says whether a volume has to wait.
    ResyncHold {
        /// The volume.
        volume: VolumeNr,
        /// Whether it has to wait.
        hold: ResyncHold,
    },
    /// An administrator's command. Answered by exactly one `Effect::Reply`.
    Command {
        /// Name of the command.
        cmd: CmdId,
        /// The command.
        command: Command,
    },
}

/// Why the streams to a peer ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LostReason {
    /// The peer closed the control stream in order.
    Closed,
    /// Reset, unreachable, timeout of the network.
    Network,
    /// A send could not make progress for too long.
    SendTimeout,
    /// What came in could not be decoded, or a digest did not match.
    Protocol,
}

/// An application's request. All ranges are multiples of the logical block size; the engine checks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoRequest {
    /// Read `len` bytes.
    Read {
        /// First sector.
        sector: Sector,
        /// Length in bytes.
        len: u32,
    },
    /// Write `len` bytes out of `buf`.
    Write {
        /// First sector.
        sector: Sector,
        /// Length in bytes.
        len: u32,
        /// The data.
        buf: BufId,
        /// On stable storage when complete.
        fua: bool,
    },
    /// Make everything completed before durable.
    Flush,
    /// Forget the content of the range.
    Discard {
        /// First sector.
        sector: Sector,
        /// Length in bytes.
        len: u32,
    },
    /// Make the range read as zeroes.
    WriteZeroes {
        /// First sector.
        sector: Sector,
        /// Length in bytes.
        len: u32,
        /// Space may be given back.
        unmap: bool,
    },
}

/// Outcome of an operation.
pub type OpResult = Result<OpOutput, DiskError>;

/// What an operation produced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OpOutput {
    /// Nothing but success.
    Nothing,
    /// A buffer with the data read from the disk.
    Buf(BufId),
    /// Bytes of the metadata area.
    Bytes(Vec<u8>),
    /// A digest.
    Digest(Vec<u8>),
    /// Whether a buffer is zero.
    Zero(bool),
    /// Exit code of a helper.
    Exit(i32),
    /// Sizes of the data device and of the metadata device in bytes.
    Sizes {
        /// Data device.
        disk_bytes: u64,
        /// Metadata device; the same for internal metadata.
        meta_bytes: u64,
    },
}

/// How a disk operation failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DiskError {
    /// The device reported an input/output error.
    #[error("input/output error")]
    Io,
    /// No space left in the backing store.
    #[error("no space left in the backing store")]
    NoSpace,
    /// The device cannot do this.
    #[error("not supported by the backing store")]
    NotSupported,
}
