//! What a resource wants done: everything the engine ever causes goes out as an [`Effect`].

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::SocketAddr;

use drbd_proto::{ConnState, Ctx, DigestAlg, NodeId, Packet, Sector, Stream, VolumeNr};

use crate::command::Reply;
use crate::id::{BufId, CmdId, IoId, OpId, OpenId};
use crate::resync_after::ResyncFacts;
use crate::status::Change;

/// One thing to do. The driver carries effects out in the order given; operations with an [`OpId`] may
/// overlap and end in any order, each with exactly one `Event::Done`.
#[derive(Debug)]
pub enum Effect {
    /// Complete an application's request. A read that succeeded has its data in `data`; the driver copies
    /// it out before it carries out the `Release` that follows.
    CompleteIo {
        /// The request.
        io: IoId,
        /// Outcome.
        result: Result<(), IoError>,
        /// Where the data of a read is.
        data: Option<BufId>,
    },
    /// Answer to `Event::Open`.
    OpenDone {
        /// The opener.
        open: OpenId,
        /// Whether it may use the device.
        result: Result<(), OpenError>,
    },
    /// Read from the data area into a fresh buffer: `OpOutput::Buf`.
    DiskRead {
        /// The operation.
        op: OpId,
        /// The volume.
        volume: VolumeNr,
        /// First sector.
        sector: Sector,
        /// Length in bytes.
        len: u32,
    },
    /// Write a buffer to the data area.
    DiskWrite {
        /// The operation.
        op: OpId,
        /// The volume.
        volume: VolumeNr,
        /// First sector.
        sector: Sector,
        /// Length in bytes.
        len: u32,
        /// The data.
        buf: BufId,
        /// Flush the device's cache before.
        preflush: bool,
        /// Done means on stable storage.
        fua: bool,
    },
    /// Flush the volatile cache of the data area's device.
    DiskFlush {
        /// The operation.
        op: OpId,
        /// The volume.
        volume: VolumeNr,
    },
    /// Discard or zero a range of the data area.
    DiskDiscard {
        /// The operation.
        op: OpId,
        /// The volume.
        volume: VolumeNr,
        /// First sector.
        sector: Sector,
        /// Length in bytes.
        len: u32,
        /// What it has to look like afterwards (data path, section 10.2).
        kind: DiscardKind,
    },
    /// Read `len` bytes of the metadata device at byte `offset`: `OpOutput::Bytes`. Both are multiples of
    /// 4096, `len` is at most 1 MiB.
    MetaRead {
        /// The operation.
        op: OpId,
        /// The volume.
        volume: VolumeNr,
        /// Byte offset on the metadata device.
        offset: u64,
        /// Length in bytes.
        len: u32,
    },
    /// Write blocks of the metadata device.
    MetaWrite {
        /// The operation.
        op: OpId,
        /// The volume.
        volume: VolumeNr,
        /// The blocks; those of one effect may be written in any order.
        blocks: Vec<MetaBlock>,
        /// Flush the device's cache before, and be on stable storage when done (data path, section 8.3).
        barrier: bool,
    },
    /// Measure the backing devices of a volume, which may have grown since: `OpOutput::Sizes`.
    Measure {
        /// The operation.
        op: OpId,
        /// The volume.
        volume: VolumeNr,
    },
    /// Compute a digest over a whole buffer: `OpOutput::Digest`.
    Digest {
        /// The operation.
        op: OpId,
        /// The data.
        buf: BufId,
        /// The algorithm.
        algorithm: DigestAlg,
    },
    /// Look whether a whole buffer is zero: `OpOutput::Zero`.
    IsZero {
        /// The operation.
        op: OpId,
        /// The data.
        buf: BufId,
    },
    /// The engine needs this buffer no more.
    Release {
        /// The buffer.
        buf: BufId,
    },
    /// The backing device of a volume is not used any more: finish what is under way, then close it.
    Detach {
        /// The volume.
        volume: VolumeNr,
    },
    /// Connect to a peer over one of these paths, and accept from it; keep trying until it works
    /// (`Event::Established`) or `Close` says to stop.
    Connect {
        /// The peer.
        peer: NodeId,
        /// The paths, in order of configuration.
        paths: Vec<Path>,
        /// How long one attempt may take, and the pause between attempts.
        options: ConnectOptions,
    },
    /// Send what is queued, then close the streams to a peer, or stop trying to connect. No event about
    /// this peer follows until the next `Connect`.
    Close {
        /// The peer.
        peer: NodeId,
    },
    /// From the next byte on, in both directions and on both streams, packets of this peer look like this.
    /// Takes effect before the next packet is decoded.
    Framing {
        /// The peer.
        peer: NodeId,
        /// Version, features and length of received integrity digests.
        context: Ctx,
        /// Algorithm of the integrity digests that are sent and received.
        integrity: Option<DigestAlg>,
    },
    /// Send a packet. Packets of one stream keep their order.
    Send {
        /// The peer.
        peer: NodeId,
        /// On which stream.
        stream: Stream,
        /// Volume number of the header.
        volume: VolumeNr,
        /// The packet without bulk payload.
        packet: Packet,
        /// The payload, for packets that have one.
        payload: Option<BufId>,
        /// Report with `Event::Sent` when the transport has taken all of it. Dropped silently if the
        /// streams are lost before.
        notify: Option<OpId>,
    },
    /// Run a helper (state machine, section 18): `OpOutput::Exit`.
    Upcall {
        /// The operation.
        op: OpId,
        /// Name of the handler, as in the configuration.
        handler: &'static str,
        /// Peer and volume it is about.
        about: (Option<NodeId>, Option<VolumeNr>),
        /// What else it is told.
        facts: CallFacts,
    },
    /// Answer a command.
    Reply {
        /// The command.
        cmd: CmdId,
        /// The answer.
        reply: Reply,
    },
    /// Something observers can see has changed. Changes of one transaction come in one batch, in the order
    /// resource, connections, devices, peer devices.
    Changed(Box<Change>),
    /// The virtual device of a volume has (new) limits; size 0 means it cannot be used now.
    Limits {
        /// The volume.
        volume: VolumeNr,
        /// Its limits.
        limits: Limits,
    },
    /// How the resyncs of a volume are, for the [`Schedule`](crate::resync_after::Schedule) of the node.
    ResyncFacts {
        /// The volume.
        volume: VolumeNr,
        /// How it is; `None`: it is gone.
        facts: Option<ResyncFacts>,
    },
    /// A line for the log.
    Log(LogLine),
}

/// What the environment of a helper says beyond what the call is about (state machine, section 18).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct CallFacts {
    /// DRBD_CSTATE, for calls about a peer.
    pub cstate: Option<ConnState>,
    /// UP_TO_DATE_NODES, a mask of node ids, for handlers of fencing.
    pub up_to_date_nodes: Option<u32>,
}

/// One block of the metadata device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MetaBlock {
    /// Byte offset on the metadata device, a multiple of 4096.
    pub offset: u64,
    /// The content.
    pub data: Box<[u8; 4096]>,
}

/// What a discard has to achieve (data path, section 10.2: the flags TRIM and ZERO).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiscardKind {
    /// Space should be given back.
    pub trim: bool,
    /// The range must read as zeroes afterwards.
    pub zero: bool,
}

/// A way to a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Path {
    /// This node's address.
    pub local: SocketAddr,
    /// The peer's address.
    pub remote: SocketAddr,
}

/// What the transport needs to know to build a connection (wire protocol, section 3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectOptions {
    /// `connect-int`.
    pub connect_int: core::time::Duration,
    /// `ping-timeout`; four times as long for first packets.
    pub ping_timeout: core::time::Duration,
    /// `sock-check-timeo`; the pause before the check that both streams are alive.
    pub sock_check: core::time::Duration,
    /// `timeout`: a send without progress for `ko_count` times as long ends the connection.
    pub timeout: core::time::Duration,
    /// `ko-count`.
    pub ko_count: u32,
    /// `sndbuf-size` in bytes; 0 leaves it to the kernel.
    pub sndbuf: u32,
    /// `rcvbuf-size` in bytes; 0 leaves it to the kernel.
    pub rcvbuf: u32,
    /// How long to wait before the first attempt (1 s after a failed handshake).
    pub delay: core::time::Duration,
}

/// What the virtual device can take (data path, section 23).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// Size in sectors.
    pub sectors: u64,
    /// Logical block size in bytes.
    pub logical_block: u32,
    /// Physical block size in bytes.
    pub physical_block: u32,
    /// Largest read or write in bytes.
    pub max_io: u32,
    /// Largest discard in bytes; 0: none.
    pub max_discard: u32,
    /// Discards are multiples of this many bytes.
    pub discard_granularity: u32,
    /// Largest write-zeroes in bytes; 0: none.
    pub max_write_zeroes: u32,
    /// Whether the device wants flushes.
    pub volatile_cache: bool,
    /// This node may write now without promotion.
    pub writable: bool,
}

/// Why a request failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum IoError {
    /// No copy of the data could be reached, or all of them failed.
    #[error("input/output error")]
    Io,
    /// The resource is not Primary here.
    #[error("not Primary")]
    NotPrimary,
    /// The request lies outside the device or is not aligned.
    #[error("request outside the device or not aligned to its blocks")]
    Invalid,
    /// Space ran out.
    #[error("no space left in the backing store")]
    NoSpace,
}

/// Why an open was refused (state machine, section 10.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// Not Primary and not to be promoted: EROFS.
    #[error("read-only: the resource is not Primary here")]
    ReadOnly,
    /// Another node is Primary: EMEDIUMTYPE.
    #[error("another node is Primary")]
    ForeignPrimary,
    /// No UpToDate data, or no quorum, for a reader: ENODATA.
    #[error("no UpToDate data in reach")]
    NoData,
    /// Forced demotion is under way: ENOTRECOVERABLE.
    #[error("requests fail until the last opener has gone")]
    FailIo,
    /// A change of the whole cluster is under way, and takes too long: EAGAIN.
    #[error("a change of the cluster is under way")]
    Busy,
    /// No such volume.
    #[error("no such volume")]
    NoVolume,
}

/// A line for the log, with the objects it is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogLine {
    /// How loud.
    pub level: LogLevel,
    /// The peer it is about.
    pub peer: Option<NodeId>,
    /// The volume it is about.
    pub volume: Option<VolumeNr>,
    /// The text.
    pub text: String,
}

/// How loud a log line is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LogLevel {
    /// For those who debug.
    Debug,
    /// What happens in normal life.
    Info,
    /// Something an administrator may have to look at.
    Warn,
    /// Something failed.
    Error,
}
