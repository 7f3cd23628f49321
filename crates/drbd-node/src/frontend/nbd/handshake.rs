//! The server's side of the NBD handshake (fixed newstyle), without I/O.
//!
//! Feed bytes with [`Handshake::input`]; it appends what has to be sent to a buffer and says when the owner
//! has to decide something ([`Step::Open`]), when the transmission phase begins, and when to hang up.

use super::codec::{IHAVEOPT, MAX_STRING, NBDMAGIC, REP_MAGIC, hs, info, opt, rep, tx};

/// Longest option that is answered rather than ending the session, in bytes.
const MAX_OPTION: usize = 64 << 10;

/// What a client learns about an export.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExportInfo {
    /// Canonical name, `RES/VOL`.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// Transmission flags ([`tx`]).
    pub flags: u16,
    /// Every offset and length is a multiple of this; a power of two, 1 to 65536.
    pub min_block: u32,
    /// Requests of this size work well; a power of two.
    pub preferred_block: u32,
    /// Largest read or write in bytes.
    pub max_block: u32,
}

/// What the handshake has to know about the server's exports.
pub trait Exports {
    /// Names of all exports.
    fn list(&self) -> Vec<String>;
    /// Describes one export, by any name that means it; the empty name is the default export.
    fn find(&self, name: &str) -> Option<ExportInfo>;
}

/// What came of the bytes so far.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// More bytes are needed.
    More,
    /// An option was answered: send the answer, then call again with the same input. (One answer at a time
    /// keeps the memory for answers bounded, whatever a client piles up.)
    Send,
    /// The client chose an export: open it and call [`Handshake::opened`]. No input is taken before.
    Open {
        /// The canonical name.
        name: String,
    },
    /// The client leaves in order; send what there is to send and close.
    Leave,
}

/// What was agreed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Agreed {
    /// Replies to reads are structured.
    pub structured: bool,
}

/// Why a session ended in the handshake.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The client does not know fixed newstyle, or wants what the server did not offer.
    #[error(
        "NBD client flags {0:#x}: fixed newstyle is needed, nothing beyond it and no-zeroes is offered"
    )]
    ClientFlags(u32),
    /// Not an option.
    #[error("NBD option does not start with the magic number but with {0:#018x}")]
    Magic(u64),
    /// An option longer than anything that makes sense.
    #[error("NBD option {option} of {len} bytes; at most {MAX_OPTION} are allowed")]
    TooLong {
        /// The option.
        option: u32,
        /// Its length.
        len: u32,
    },
    /// `EXPORT_NAME` for something that does not exist or cannot be opened: there is no error reply to it.
    #[error("NBD export `{0}` asked for without a way to answer: {1}")]
    Export(String, String),
    /// Input while an open was pending, or the open's outcome without one.
    #[error("the handshake was driven out of order")]
    Order,
}

/// Why an export could not be opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// Error code of the reply ([`rep`]).
    pub code: u32,
    /// Text for the client.
    pub text: String,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum State {
    ClientFlags,
    Options,
    Opening {
        option: u32,
        name: String,
        wanted: Vec<u16>,
    },
    Done,
}

/// State of one handshake.
#[derive(Debug)]
pub struct Handshake {
    state: State,
    no_zeroes: bool,
    agreed: Agreed,
}

impl Handshake {
    /// Starts; appends the greeting to `out`.
    pub fn new(out: &mut Vec<u8>) -> Handshake {
        out.extend_from_slice(&NBDMAGIC.to_be_bytes());
        out.extend_from_slice(&IHAVEOPT.to_be_bytes());
        out.extend_from_slice(&(hs::FIXED_NEWSTYLE | hs::NO_ZEROES).to_be_bytes());
        Handshake {
            state: State::ClientFlags,
            no_zeroes: false,
            agreed: Agreed::default(),
        }
    }

    /// Takes bytes off the front of `input` as long as they make complete messages, and answers into `out`.
    /// Bytes behind an [`Step::Open`] stay in `input`: they belong to the transmission phase.
    ///
    /// # Errors
    /// When the session has to end at once. What is in `out` may still be sent.
    pub fn input(
        &mut self,
        input: &mut Vec<u8>,
        exports: &dyn Exports,
        out: &mut Vec<u8>,
    ) -> Result<Step, HandshakeError> {
        loop {
            match self.state {
                State::ClientFlags => {
                    let Some(flags) = input.first_chunk::<4>().map(|b| u32::from_be_bytes(*b))
                    else {
                        return Ok(Step::More);
                    };
                    let known = u32::from(hs::FIXED_NEWSTYLE | hs::NO_ZEROES);
                    if flags & !known != 0 || flags & u32::from(hs::FIXED_NEWSTYLE) == 0 {
                        return Err(HandshakeError::ClientFlags(flags));
                    }
                    self.no_zeroes = flags & u32::from(hs::NO_ZEROES) != 0;
                    input.drain(..4);
                    self.state = State::Options;
                }
                State::Options => {
                    let Some(header) = input.first_chunk::<16>() else {
                        return Ok(Step::More);
                    };
                    let [m @ .., o0, o1, o2, o3, l0, l1, l2, l3] = *header;
                    let magic = u64::from_be_bytes(m);
                    if magic != IHAVEOPT {
                        return Err(HandshakeError::Magic(magic));
                    }
                    let option = u32::from_be_bytes([o0, o1, o2, o3]);
                    let len = u32::from_be_bytes([l0, l1, l2, l3]);
                    let too_long = HandshakeError::TooLong { option, len };
                    let len = match usize::try_from(len) {
                        Ok(len) if len <= MAX_OPTION => len,
                        _ => return Err(too_long),
                    };
                    let Some(data) = input.get(16..16 + len) else {
                        return Ok(Step::More);
                    };
                    let data = data.to_vec();
                    input.drain(..16 + len);
                    let step = self.option(option, &data, exports, out)?;
                    return Ok(step.unwrap_or(Step::Send));
                }
                State::Opening { .. } | State::Done => return Err(HandshakeError::Order),
            }
        }
    }

    fn option(
        &mut self,
        option: u32,
        data: &[u8],
        exports: &dyn Exports,
        out: &mut Vec<u8>,
    ) -> Result<Option<Step>, HandshakeError> {
        match option {
            opt::ABORT => {
                reply(out, option, rep::ACK, &[]);
                self.state = State::Done;
                return Ok(Some(Step::Leave));
            }
            opt::EXPORT_NAME => {
                let name = std::str::from_utf8(data)
                    .ok()
                    .filter(|n| n.len() <= MAX_STRING);
                let Some(export) = name.and_then(|n| exports.find(n)) else {
                    let name = String::from_utf8_lossy(data).into_owned();
                    return Err(HandshakeError::Export(name, "no such export".into()));
                };
                let name = export.name;
                self.state = State::Opening {
                    option,
                    name: name.clone(),
                    wanted: Vec::new(),
                };
                return Ok(Some(Step::Open { name }));
            }
            opt::LIST if !data.is_empty() => {
                reply(out, option, rep::ERR_INVALID, b"LIST takes no data");
            }
            opt::LIST => {
                for name in exports.list() {
                    let mut body = Vec::with_capacity(4 + name.len());
                    body.extend_from_slice(&wire_len(name.len()).to_be_bytes());
                    body.extend_from_slice(name.as_bytes());
                    reply(out, option, rep::SERVER, &body);
                }
                reply(out, option, rep::ACK, &[]);
            }
            opt::INFO | opt::GO => return Ok(self.info_or_go(option, data, exports, out)),
            opt::STRUCTURED_REPLY if !data.is_empty() => {
                reply(
                    out,
                    option,
                    rep::ERR_INVALID,
                    b"STRUCTURED_REPLY takes no data",
                );
            }
            opt::STRUCTURED_REPLY => {
                self.agreed.structured = true;
                reply(out, option, rep::ACK, &[]);
            }
            opt::STARTTLS => reply(out, option, rep::ERR_POLICY, b"no TLS on this server"),
            _ => reply(out, option, rep::ERR_UNSUP, b"option not known"),
        }
        Ok(None)
    }

    fn info_or_go(
        &mut self,
        option: u32,
        data: &[u8],
        exports: &dyn Exports,
        out: &mut Vec<u8>,
    ) -> Option<Step> {
        let Some((name, wanted)) = parse_info_request(data) else {
            reply(
                out,
                option,
                rep::ERR_INVALID,
                b"malformed request for an export",
            );
            return None;
        };
        if name.len() > MAX_STRING {
            reply(
                out,
                option,
                rep::ERR_TOO_BIG,
                b"name of the export is too long",
            );
            return None;
        }
        let Some(export) = exports.find(name) else {
            reply(
                out,
                option,
                rep::ERR_UNKNOWN,
                format!("no export `{name}`").as_bytes(),
            );
            return None;
        };
        if option == opt::INFO {
            self.describe(option, &export, &wanted, out);
            return None;
        }
        let name = export.name;
        self.state = State::Opening {
            option,
            name: name.clone(),
            wanted,
        };
        Some(Step::Open { name })
    }

    fn describe(&self, option: u32, export: &ExportInfo, wanted: &[u16], out: &mut Vec<u8>) {
        let mut body = Vec::with_capacity(14);
        body.extend_from_slice(&info::EXPORT.to_be_bytes());
        body.extend_from_slice(&export.size.to_be_bytes());
        body.extend_from_slice(&self.flags(export).to_be_bytes());
        reply(out, option, rep::INFO, &body);
        // Sent whether asked for or not: clients that do not ask keep to 512 bytes anyway.
        body.clear();
        body.extend_from_slice(&info::BLOCK_SIZE.to_be_bytes());
        for size in [export.min_block, export.preferred_block, export.max_block] {
            body.extend_from_slice(&size.to_be_bytes());
        }
        reply(out, option, rep::INFO, &body);
        if wanted.contains(&info::NAME) {
            body.clear();
            body.extend_from_slice(&info::NAME.to_be_bytes());
            body.extend_from_slice(export.name.as_bytes());
            reply(out, option, rep::INFO, &body);
        }
        reply(out, option, rep::ACK, &[]);
    }

    fn flags(&self, export: &ExportInfo) -> u16 {
        let df = if self.agreed.structured {
            tx::SEND_DF
        } else {
            0
        };
        export.flags | df | tx::HAS_FLAGS
    }

    /// The outcome of a [`Step::Open`]. `Ok(Some(_))`: the transmission phase begins after `out` is sent.
    /// `Ok(None)`: the client was told why not and may try something else; call [`Handshake::input`] again.
    ///
    /// # Errors
    /// The session has to end, because the option has no error reply or nothing was being opened.
    pub fn opened(
        &mut self,
        result: Result<&ExportInfo, Refused>,
        out: &mut Vec<u8>,
    ) -> Result<Option<Agreed>, HandshakeError> {
        let State::Opening {
            option,
            name,
            wanted,
        } = std::mem::replace(&mut self.state, State::Options)
        else {
            self.state = State::Done;
            return Err(HandshakeError::Order);
        };
        match result {
            Ok(export) if option == opt::EXPORT_NAME => {
                out.extend_from_slice(&export.size.to_be_bytes());
                out.extend_from_slice(&self.flags(export).to_be_bytes());
                if !self.no_zeroes {
                    out.extend_from_slice(&[0; 124]);
                }
            }
            Ok(export) => self.describe(option, export, &wanted, out),
            Err(refused) if option == opt::EXPORT_NAME => {
                return Err(HandshakeError::Export(name, refused.text));
            }
            Err(refused) => {
                reply(
                    out,
                    option,
                    refused.code | rep::ERROR,
                    refused.text.as_bytes(),
                );
                return Ok(None);
            }
        }
        self.state = State::Done;
        Ok(Some(self.agreed))
    }
}

/// Name and wanted kinds of information out of the data of `INFO` and `GO`.
fn parse_info_request(data: &[u8]) -> Option<(&str, Vec<u16>)> {
    let (len, rest) = data.split_first_chunk::<4>()?;
    let len = usize::try_from(u32::from_be_bytes(*len)).ok()?;
    let (name, rest) = rest.split_at_checked(len)?;
    let (count, mut rest) = rest.split_first_chunk::<2>()?;
    let count = usize::from(u16::from_be_bytes(*count));
    if rest.len() != count.checked_mul(2)? {
        return None;
    }
    let mut wanted = Vec::with_capacity(count);
    while let Some((kind, tail)) = rest.split_first_chunk::<2>() {
        wanted.push(u16::from_be_bytes(*kind));
        rest = tail;
    }
    Some((std::str::from_utf8(name).ok()?, wanted))
}

fn reply(out: &mut Vec<u8>, option: u32, kind: u32, data: &[u8]) {
    out.extend_from_slice(&REP_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&wire_len(data.len()).to_be_bytes());
    out.extend_from_slice(data);
}

/// Lengths here are bounded by [`MAX_OPTION`] and the names of resources.
fn wire_len(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
