//! What can be wrong with bytes from a peer, and with a packet about to be sent.

use crate::ctx::Stream;
use crate::header::Format;
use crate::packet::Cmd;

/// A header or packet from the peer is not acceptable. Every one of these ends the connection
/// (wire protocol, chapter 24).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The first bytes are no packet header.
    #[error("bad magic {0:02x?}: the stream is out of step or the peer does not speak DRBD")]
    BadMagic([u8; 4]),
    /// A header format that must not be used at the agreed version.
    #[error("{format} header on the data stream at protocol {version}")]
    HeaderNotAllowed {
        /// The format found.
        format: Format,
        /// The agreed version.
        version: u16,
    },
    /// The pad field of a 16-byte header is not zero.
    #[error("header pad is {0:#x}, must be 0")]
    HeaderPad(u32),
    /// A command this protocol does not have.
    #[error("unknown command {0:#06x}")]
    UnknownCommand(u16),
    /// A command on the stream it does not belong to.
    #[error("{cmd} received on the {stream} stream")]
    WrongStream {
        /// The command.
        cmd: Cmd,
        /// Where it came in.
        stream: Stream,
    },
    /// A command which the agreed version and features do not have.
    #[error("{cmd} received, which was not agreed at protocol {version}")]
    NotAgreed {
        /// The command.
        cmd: Cmd,
        /// The agreed version.
        version: u16,
    },
    /// The length field does not fit the command.
    #[error("{cmd}: length {length}, must be {min}..={max}")]
    Length {
        /// The command.
        cmd: Cmd,
        /// The header's length field.
        length: u32,
        /// The smallest legal value.
        min: u32,
        /// The largest legal value.
        max: u32,
    },
    /// Fewer or more bytes were handed in than [`crate::Packet::fixed_len`] asks for.
    #[error("{cmd}: {got} bytes to decode, must be {want}")]
    FixedPart {
        /// The command.
        cmd: Cmd,
        /// The bytes handed in.
        got: usize,
        /// The bytes asked for.
        want: usize,
    },
    /// A field holds a value it must not hold.
    #[error("{cmd}: bad {field} {value} ({value:#x})")]
    Field {
        /// The command.
        cmd: Cmd,
        /// The name of the field.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
}

impl DecodeError {
    /// An unknown command above 0x100, once meant to be skipped by whoever does not know it
    /// (P_MAY_IGNORE). No released node does that: it ends the connection like any other.
    pub const fn is_may_ignore(&self) -> bool {
        matches!(self, DecodeError::UnknownCommand(0x101..=0xffef))
    }
}

/// A packet cannot be sent as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The agreed version and features do not have this packet.
    #[error("{cmd} cannot be sent: not agreed at protocol {version}")]
    NotAgreed {
        /// The command.
        cmd: Cmd,
        /// The agreed version.
        version: u16,
    },
    /// Longer than the header or the receiver allows.
    #[error("{cmd} cannot be sent: {length} bytes, at most {max}")]
    TooLong {
        /// The command.
        cmd: Cmd,
        /// Bytes after the header.
        length: usize,
        /// The limit.
        max: usize,
    },
}
