//! The bytes of the NBD protocol: constants, request header, replies. No I/O, no decisions.
//!
//! Everything is big endian. What a client sends is parsed into [`Request`] or a typed [`ParseError`];
//! what it may ask for within an export is checked by [`Request::check`].

use super::handshake::ExportInfo;

/// First eight bytes a server sends.
pub const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second eight bytes of the greeting, and the start of every option.
pub const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
/// Start of every reply to an option.
pub const REP_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Start of every request in the transmission phase.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Start of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Start of a chunk of a structured reply.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// Length of a request header in bytes.
pub const REQUEST_LEN: usize = 28;
/// Length of a simple reply in bytes, without data.
pub const SIMPLE_REPLY_LEN: usize = 16;
/// Length of the header of a structured reply chunk in bytes.
pub const STRUCTURED_REPLY_LEN: usize = 20;
/// Longest name or text of the protocol in bytes.
pub const MAX_STRING: usize = 4096;
/// Largest payload of one read or write in bytes; what clients assume of a server that says nothing.
pub const MAX_PAYLOAD: u32 = 32 << 20;
/// Largest read in bytes that is answered: its data is held until all of it is there.
pub const MAX_READ: u32 = 8 << 20;

/// Flags of the greeting and of the client's answer.
pub mod hs {
    /// Fixed newstyle.
    pub const FIXED_NEWSTYLE: u16 = 1;
    /// No padding after the answer to `EXPORT_NAME`.
    pub const NO_ZEROES: u16 = 2;
}

/// Options of the handshake.
pub mod opt {
    /// Choose an export and start; no way to report an error.
    pub const EXPORT_NAME: u32 = 1;
    /// End the session.
    pub const ABORT: u32 = 2;
    /// List the exports.
    pub const LIST: u32 = 3;
    /// Start TLS.
    pub const STARTTLS: u32 = 5;
    /// Describe an export.
    pub const INFO: u32 = 6;
    /// Choose an export and start.
    pub const GO: u32 = 7;
    /// Structured replies please.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// List metadata contexts.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Choose metadata contexts.
    pub const SET_META_CONTEXT: u32 = 10;
    /// Extended headers please.
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Replies to options.
pub mod rep {
    /// Done.
    pub const ACK: u32 = 1;
    /// One export.
    pub const SERVER: u32 = 2;
    /// One piece of information.
    pub const INFO: u32 = 3;
    /// One metadata context.
    pub const META_CONTEXT: u32 = 4;
    /// Bit of all errors.
    pub const ERROR: u32 = 1 << 31;
    /// Option not known.
    pub const ERR_UNSUP: u32 = ERROR | 1;
    /// Forbidden.
    pub const ERR_POLICY: u32 = ERROR | 2;
    /// Malformed.
    pub const ERR_INVALID: u32 = ERROR | 3;
    /// No such export.
    pub const ERR_UNKNOWN: u32 = ERROR | 6;
    /// The server is going away.
    pub const ERR_SHUTDOWN: u32 = ERROR | 7;
    /// The request is too large.
    pub const ERR_TOO_BIG: u32 = ERROR | 9;
}

/// Kinds of information about an export.
pub mod info {
    /// Size and flags.
    pub const EXPORT: u16 = 0;
    /// Canonical name.
    pub const NAME: u16 = 1;
    /// Description for humans.
    pub const DESCRIPTION: u16 = 2;
    /// Minimum, preferred and maximum block size.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags: what an export can do.
pub mod tx {
    /// Always set.
    pub const HAS_FLAGS: u16 = 1;
    /// No writes.
    pub const READ_ONLY: u16 = 1 << 1;
    /// `FLUSH` works.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// The FUA flag works.
    pub const SEND_FUA: u16 = 1 << 3;
    /// `TRIM` works.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// `WRITE_ZEROES` works.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// The DF flag works (structured replies only).
    pub const SEND_DF: u16 = 1 << 7;
    /// A flush on one connection covers what completed on the others.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
}

/// Commands.
pub mod cmd {
    /// Read.
    pub const READ: u16 = 0;
    /// Write.
    pub const WRITE: u16 = 1;
    /// Disconnect.
    pub const DISC: u16 = 2;
    /// Flush.
    pub const FLUSH: u16 = 3;
    /// Discard.
    pub const TRIM: u16 = 4;
    /// Write zeroes.
    pub const WRITE_ZEROES: u16 = 6;
    /// Flag: on stable storage before the reply.
    pub const FLAG_FUA: u16 = 1;
    /// Flag of `WRITE_ZEROES`: do not punch a hole.
    pub const FLAG_NO_HOLE: u16 = 1 << 1;
    /// Flag of `READ`: one chunk.
    pub const FLAG_DF: u16 = 1 << 2;
}

/// Structured reply chunks.
pub mod chunk {
    /// Last chunk of the reply.
    pub const FLAG_DONE: u16 = 1;
    /// Nothing but the header.
    pub const NONE: u16 = 0;
    /// Offset and data.
    pub const OFFSET_DATA: u16 = 1;
    /// Offset and length of a range of zeroes.
    pub const OFFSET_HOLE: u16 = 2;
    /// An error and a text.
    pub const ERROR: u16 = (1 << 15) | 1;
    /// An error, a text and an offset.
    pub const ERROR_OFFSET: u16 = (1 << 15) | 2;
}

/// An error as the protocol numbers it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[repr(u32)]
pub enum Errno {
    /// EPERM: the export is read-only.
    #[error("operation not permitted")]
    Perm = 1,
    /// EIO.
    #[error("input/output error")]
    Io = 5,
    /// ENOMEM.
    #[error("out of memory")]
    NoMem = 12,
    /// EINVAL.
    #[error("invalid request")]
    Invalid = 22,
    /// ENOSPC.
    #[error("no space left")]
    NoSpace = 28,
    /// EOVERFLOW.
    #[error("too large for one chunk")]
    Overflow = 75,
    /// ENOTSUP.
    #[error("not supported")]
    NotSupported = 95,
    /// ESHUTDOWN.
    #[error("the server is shutting down")]
    Shutdown = 108,
}

impl Errno {
    /// The error for a number a server sent; numbers that the protocol does not have mean `Invalid`.
    pub fn from_wire(n: u32) -> Errno {
        match n {
            1 => Errno::Perm,
            5 => Errno::Io,
            12 => Errno::NoMem,
            28 => Errno::NoSpace,
            75 => Errno::Overflow,
            95 => Errno::NotSupported,
            108 => Errno::Shutdown,
            _ => Errno::Invalid,
        }
    }
}

/// What a client asks for in the transmission phase.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Read `len` bytes at `offset`.
    Read,
    /// Write `len` bytes, which follow the header, at `offset`.
    Write {
        /// On stable storage before the reply.
        fua: bool,
    },
    /// The client leaves; no reply.
    Disconnect,
    /// Make everything that was answered before durable.
    Flush,
    /// Discard.
    Trim {
        /// On stable storage before the reply.
        fua: bool,
    },
    /// Write zeroes.
    WriteZeroes {
        /// On stable storage before the reply.
        fua: bool,
        /// Space may be given back.
        unmap: bool,
    },
    /// Something the protocol may have and we do not; or flags that do not belong to the command.
    Unknown,
}

/// A request header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// What.
    pub command: Command,
    /// Name of the request, repeated in the reply.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u32,
    /// Whether `len` bytes of payload follow, whatever becomes of the request.
    pub payload: bool,
}

/// Why the stream from a client makes no sense any more; the connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ParseError {
    /// Wrong magic number.
    #[error("NBD request does not start with the magic number but with {0:#010x}")]
    Magic(u32),
    /// A write so large that it can neither be taken nor skipped.
    #[error("NBD write of {0} bytes; at most {MAX_PAYLOAD} are allowed")]
    TooLong(u32),
}

impl Request {
    /// Parses a header.
    ///
    /// # Errors
    /// [`ParseError`] when the connection cannot go on. A command or flag that is not known is no error here:
    /// it yields [`Command::Unknown`], which [`Request::check`] refuses.
    pub fn parse(b: &[u8; REQUEST_LEN]) -> Result<Request, ParseError> {
        let [m0, m1, m2, m3, f0, f1, t0, t1, rest @ ..] = *b;
        let magic = u32::from_be_bytes([m0, m1, m2, m3]);
        if magic != REQUEST_MAGIC {
            return Err(ParseError::Magic(magic));
        }
        let flags = u16::from_be_bytes([f0, f1]);
        let kind = u16::from_be_bytes([t0, t1]);
        let [c0, c1, c2, c3, c4, c5, c6, c7, rest @ ..] = rest;
        let cookie = u64::from_be_bytes([c0, c1, c2, c3, c4, c5, c6, c7]);
        let [o0, o1, o2, o3, o4, o5, o6, o7, l0, l1, l2, l3] = rest;
        let offset = u64::from_be_bytes([o0, o1, o2, o3, o4, o5, o6, o7]);
        let len = u32::from_be_bytes([l0, l1, l2, l3]);

        let payload = kind == cmd::WRITE;
        if payload && len > MAX_PAYLOAD {
            return Err(ParseError::TooLong(len));
        }
        let fua = flags & cmd::FLAG_FUA != 0;
        let only = |allowed: u16| flags & !allowed == 0;
        // FUA is allowed on every command and means nothing where nothing is written.
        let command = match kind {
            cmd::READ if only(cmd::FLAG_FUA | cmd::FLAG_DF) => Command::Read,
            cmd::WRITE if only(cmd::FLAG_FUA) => Command::Write { fua },
            cmd::DISC => Command::Disconnect,
            cmd::FLUSH if only(cmd::FLAG_FUA) => Command::Flush,
            cmd::TRIM if only(cmd::FLAG_FUA) => Command::Trim { fua },
            cmd::WRITE_ZEROES if only(cmd::FLAG_FUA | cmd::FLAG_NO_HOLE) => Command::WriteZeroes {
                fua,
                unmap: flags & cmd::FLAG_NO_HOLE == 0,
            },
            _ => Command::Unknown,
        };
        Ok(Request {
            command,
            cookie,
            offset,
            len,
            payload,
        })
    }

    /// Writes the header, as a client does.
    pub fn encode(&self) -> [u8; REQUEST_LEN] {
        let fua_flag = |fua: bool| if fua { cmd::FLAG_FUA } else { 0 };
        let (kind, flags) = match self.command {
            Command::Read => (cmd::READ, 0),
            Command::Write { fua } => (cmd::WRITE, fua_flag(fua)),
            Command::Disconnect => (cmd::DISC, 0),
            Command::Flush => (cmd::FLUSH, 0),
            Command::Trim { fua } => (cmd::TRIM, fua_flag(fua)),
            Command::WriteZeroes { fua, unmap } => (
                cmd::WRITE_ZEROES,
                fua_flag(fua) | if unmap { 0 } else { cmd::FLAG_NO_HOLE },
            ),
            Command::Unknown => (u16::MAX, 0),
        };
        let mut b = [0; REQUEST_LEN];
        b[0..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        b[4..6].copy_from_slice(&flags.to_be_bytes());
        b[6..8].copy_from_slice(&kind.to_be_bytes());
        b[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        b[16..24].copy_from_slice(&self.offset.to_be_bytes());
        b[24..28].copy_from_slice(&self.len.to_be_bytes());
        b
    }

    /// Whether the export can be asked for this.
    ///
    /// # Errors
    /// The error to answer with. A payload has to be taken off the stream all the same.
    pub fn check(&self, export: &ExportInfo) -> Result<(), Errno> {
        let writes = match self.command {
            Command::Unknown => return Err(Errno::Invalid),
            Command::Disconnect | Command::Flush => return Ok(()),
            Command::Read => false,
            Command::Write { .. } => true,
            Command::Trim { .. } if export.flags & tx::SEND_TRIM != 0 => true,
            Command::WriteZeroes { .. } if export.flags & tx::SEND_WRITE_ZEROES != 0 => true,
            Command::Trim { .. } | Command::WriteZeroes { .. } => return Err(Errno::Invalid),
        };
        if writes && export.flags & tx::READ_ONLY != 0 {
            return Err(Errno::Perm);
        }
        let beyond = if writes {
            Errno::NoSpace
        } else {
            Errno::Invalid
        };
        let end = self.offset.checked_add(u64::from(self.len)).ok_or(beyond)?;
        if end > export.size {
            return Err(beyond);
        }
        let mask = u64::from(export.min_block.max(1)).saturating_sub(1);
        if self.offset & mask != 0 || u64::from(self.len) & mask != 0 || self.len == 0 {
            return Err(Errno::Invalid);
        }
        if self.command == Command::Read && self.len > MAX_READ {
            return Err(Errno::Invalid);
        }
        Ok(())
    }
}

/// A simple reply without data.
pub fn simple_reply(cookie: u64, result: Result<(), Errno>) -> [u8; SIMPLE_REPLY_LEN] {
    let mut b = [0; SIMPLE_REPLY_LEN];
    b[0..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    let error = result.map_or_else(|e| e as u32, |()| 0);
    b[4..8].copy_from_slice(&error.to_be_bytes());
    b[8..16].copy_from_slice(&cookie.to_be_bytes());
    b
}

/// Header of a structured reply chunk.
pub fn chunk_header(flags: u16, kind: u16, cookie: u64, len: u32) -> [u8; STRUCTURED_REPLY_LEN] {
    let mut b = [0; STRUCTURED_REPLY_LEN];
    b[0..4].copy_from_slice(&STRUCTURED_REPLY_MAGIC.to_be_bytes());
    b[4..6].copy_from_slice(&flags.to_be_bytes());
    b[6..8].copy_from_slice(&kind.to_be_bytes());
    b[8..16].copy_from_slice(&cookie.to_be_bytes());
    b[16..20].copy_from_slice(&len.to_be_bytes());
    b
}

/// What goes before the data of a successful read. At most [`ReplyHead::MAX`] bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplyHead {
    bytes: [u8; ReplyHead::MAX],
    len: usize,
}

impl ReplyHead {
    /// Longest head in bytes: a chunk header with an offset.
    pub const MAX: usize = STRUCTURED_REPLY_LEN + 8;

    fn from_slice(s: &[u8]) -> ReplyHead {
        let mut bytes = [0; ReplyHead::MAX];
        let len = s.len().min(ReplyHead::MAX);
        for (to, from) in bytes.iter_mut().zip(s) {
            *to = *from;
        }
        ReplyHead { bytes, len }
    }

    /// Before the `len` bytes of data of a read at `offset`.
    pub fn read(structured: bool, cookie: u64, offset: u64, len: u32) -> ReplyHead {
        if !structured {
            return ReplyHead::from_slice(&simple_reply(cookie, Ok(())));
        }
        // `len` is at most MAX_PAYLOAD: no overflow.
        let head = chunk_header(
            chunk::FLAG_DONE,
            chunk::OFFSET_DATA,
            cookie,
            len.saturating_add(8),
        );
        let mut r = ReplyHead::from_slice(&head);
        r.bytes[STRUCTURED_REPLY_LEN..].copy_from_slice(&offset.to_be_bytes());
        r.len = ReplyHead::MAX;
        r
    }

    /// A reply without data: success of anything but a read, or an error of anything.
    pub fn status(structured: bool, cookie: u64, result: Result<(), Errno>) -> ReplyHead {
        match result {
            Err(e) if structured => {
                let mut b = [0; STRUCTURED_REPLY_LEN + 6];
                let head = chunk_header(chunk::FLAG_DONE, chunk::ERROR, cookie, 6);
                b[..STRUCTURED_REPLY_LEN].copy_from_slice(&head);
                b[STRUCTURED_REPLY_LEN..STRUCTURED_REPLY_LEN + 4]
                    .copy_from_slice(&(e as u32).to_be_bytes());
                ReplyHead::from_slice(&b)
            }
            // A simple reply is allowed for everything but a read that succeeds.
            _ => ReplyHead::from_slice(&simple_reply(cookie, result)),
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}
