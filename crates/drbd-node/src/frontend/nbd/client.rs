//! A small NBD client: blocking, any number of requests under way at once.
//!
//! For tests, the demo without privileges, and the benchmark. Requests are named by their cookies:
//! [`Client::submit`] queues one, [`Client::complete`] sends what is queued and waits for one reply.

use std::collections::HashMap;
use std::io::{self, BufReader, Read, Write};
use std::time::Duration;

use super::address::{Address, Stream};
use super::codec::{
    Command, Errno, IHAVEOPT, MAX_PAYLOAD, MAX_STRING, NBDMAGIC, REP_MAGIC, Request,
    SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, chunk, hs, info, opt, rep,
};
use super::handshake::ExportInfo;

/// Why the client could not go on.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The socket failed.
    #[error("NBD connection: {0}")]
    Io(#[from] io::Error),
    /// The server refused.
    #[error("the NBD server refused (error {code:#x}): {text}")]
    Refused {
        /// Reply code ([`rep`]).
        code: u32,
        /// The server's words.
        text: String,
    },
    /// A request failed.
    #[error("NBD request failed: {0}")]
    Request(Errno),
    /// What came makes no sense.
    #[error("NBD server sent nonsense: {0}")]
    Protocol(&'static str),
}

/// Outcome of one request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Completion {
    /// The cookie that [`Client::submit`] returned.
    pub cookie: u64,
    /// Success or the error of the server.
    pub result: Result<(), Errno>,
    /// The data of a read.
    pub data: Vec<u8>,
}

/// A connection to an export.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<Stream>,
    /// What is not sent yet.
    out: Vec<u8>,
    export: ExportInfo,
    structured: bool,
    next_cookie: u64,
    /// Length of the answer of every request under way: bytes for reads, 0 for others.
    pending: HashMap<u64, usize>,
}

/// Names of all exports of a server.
///
/// # Errors
/// When the server cannot be reached, refuses, or talks nonsense.
pub fn list(address: &Address) -> Result<Vec<String>, ClientError> {
    let mut stream = greet(address)?;
    send_option(&mut stream, opt::LIST, &[])?;
    let mut names = Vec::new();
    loop {
        let (code, data) = read_reply(&mut stream, opt::LIST)?;
        match code {
            rep::ACK => break,
            rep::SERVER => {
                let (len, rest) = data
                    .split_first_chunk::<4>()
                    .ok_or(ClientError::Protocol("short SERVER reply"))?;
                let name = usize::try_from(u32::from_be_bytes(*len))
                    .ok()
                    .and_then(|len| rest.get(..len))
                    .ok_or(ClientError::Protocol("short name of an export"))?;
                names.push(String::from_utf8_lossy(name).into_owned());
            }
            code => return Err(refused(code, &data)),
        }
    }
    send_option(&mut stream, opt::ABORT, &[])?;
    Ok(names)
}

impl Client {
    /// Connects and opens an export.
    ///
    /// # Errors
    /// When the server cannot be reached, refuses, or talks nonsense.
    pub fn connect(address: &Address, export: &str) -> Result<Client, ClientError> {
        let mut stream = greet(address)?;
        send_option(&mut stream, opt::STRUCTURED_REPLY, &[])?;
        let (code, _) = read_reply(&mut stream, opt::STRUCTURED_REPLY)?;
        let structured = code == rep::ACK;

        let mut data = Vec::new();
        data.extend_from_slice(
            &u32::try_from(export.len())
                .unwrap_or(u32::MAX)
                .to_be_bytes(),
        );
        data.extend_from_slice(export.as_bytes());
        data.extend_from_slice(&2u16.to_be_bytes());
        data.extend_from_slice(&info::NAME.to_be_bytes());
        data.extend_from_slice(&info::BLOCK_SIZE.to_be_bytes());
        send_option(&mut stream, opt::GO, &data)?;
        let mut export = ExportInfo {
            name: export.into(),
            size: 0,
            flags: 0,
            min_block: 512,
            preferred_block: 4096,
            max_block: MAX_PAYLOAD,
        };
        loop {
            let (code, data) = read_reply(&mut stream, opt::GO)?;
            match code {
                rep::ACK => break,
                rep::INFO => take_info(&mut export, &data)?,
                code => return Err(refused(code, &data)),
            }
        }
        Ok(Client {
            stream: BufReader::with_capacity(256 << 10, stream),
            out: Vec::new(),
            export,
            structured,
            next_cookie: 0,
            pending: HashMap::new(),
        })
    }

    /// What the server said about the export.
    pub fn export(&self) -> &ExportInfo {
        &self.export
    }

    /// How many requests are under way.
    pub fn under_way(&self) -> usize {
        self.pending.len()
    }

    /// Limits how long a single read or write of the socket may take; `None` waits forever.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn set_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        self.stream.get_ref().set_timeout(limit)
    }

    /// Queues a request and returns its cookie. `data` goes with a write and is empty otherwise; `len` is the
    /// number of bytes of everything else.
    pub fn submit(&mut self, command: Command, offset: u64, len: u32, data: &[u8]) -> u64 {
        let cookie = self.next_cookie;
        self.next_cookie = self.next_cookie.wrapping_add(1);
        let payload = matches!(command, Command::Write { .. });
        let len = if payload {
            u32::try_from(data.len()).unwrap_or(u32::MAX)
        } else {
            len
        };
        let request = Request {
            command,
            cookie,
            offset,
            len,
            payload,
        };
        self.out.extend_from_slice(&request.encode());
        if payload {
            self.out.extend_from_slice(data);
        }
        let expect = if command == Command::Read {
            len as usize
        } else {
            0
        };
        self.pending.insert(cookie, expect);
        cookie
    }

    /// Sends what is queued.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn send(&mut self) -> Result<(), ClientError> {
        self.stream.get_mut().write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }

    /// Waits for one reply. What is queued is sent first, unless replies that were received already are still to be
    /// looked at: so a caller that submits one request for each reply sends many at once.
    ///
    /// # Errors
    /// When the connection broke or the server talks nonsense; an error of the request is in the completion.
    pub fn complete(&mut self) -> Result<Completion, ClientError> {
        if !self.out.is_empty() && self.stream.buffer().is_empty() {
            self.send()?;
        }
        let mut data = Vec::new();
        let mut covered = 0usize;
        let mut failed = None;
        loop {
            let magic = u32::from_be_bytes(self.read_array()?);
            if magic == SIMPLE_REPLY_MAGIC {
                let error = u32::from_be_bytes(self.read_array()?);
                let cookie = u64::from_be_bytes(self.read_array()?);
                let len = self.pending.remove(&cookie).ok_or(UNKNOWN)?;
                if error != 0 {
                    return Ok(Completion {
                        cookie,
                        result: Err(Errno::from_wire(error)),
                        data,
                    });
                }
                if self.structured && len != 0 {
                    return Err(ClientError::Protocol(
                        "simple reply with data after structured",
                    ));
                }
                data.resize(len, 0);
                self.stream.read_exact(&mut data)?;
                return Ok(Completion {
                    cookie,
                    result: Ok(()),
                    data,
                });
            }
            if magic != STRUCTURED_REPLY_MAGIC || !self.structured {
                return Err(ClientError::Protocol("wrong magic number of a reply"));
            }
            let flags = u16::from_be_bytes(self.read_array()?);
            let kind = u16::from_be_bytes(self.read_array()?);
            let cookie = u64::from_be_bytes(self.read_array()?);
            let len = u32::from_be_bytes(self.read_array()?) as usize;
            let expect = *self.pending.get(&cookie).ok_or(UNKNOWN)?;
            if data.is_empty() {
                data.resize(expect, 0);
            }
            match kind {
                chunk::NONE if len == 0 => {}
                chunk::OFFSET_DATA | chunk::OFFSET_HOLE => {
                    let _offset: [u8; 8] = self.read_array()?;
                    let piece = if kind == chunk::OFFSET_DATA {
                        len.checked_sub(8)
                            .ok_or(ClientError::Protocol("short chunk"))?
                    } else {
                        u32::from_be_bytes(self.read_array()?) as usize
                    };
                    // Our own server sends one chunk, others send them in order: that is all we take.
                    let end = covered.checked_add(piece).ok_or(LONG)?;
                    let part = data.get_mut(covered..end).ok_or(LONG)?;
                    if kind == chunk::OFFSET_DATA {
                        self.stream.read_exact(part)?;
                    }
                    covered = end;
                }
                chunk::ERROR | chunk::ERROR_OFFSET if len <= MAX_STRING => {
                    let mut body = vec![0; len];
                    self.stream.read_exact(&mut body)?;
                    let code = body
                        .first_chunk::<4>()
                        .map_or(22, |b| u32::from_be_bytes(*b));
                    failed = Some(Errno::from_wire(code));
                }
                _ => return Err(ClientError::Protocol("unknown chunk of a structured reply")),
            }
            if flags & chunk::FLAG_DONE != 0 {
                self.pending.remove(&cookie);
                if failed.is_none() && covered != expect {
                    return Err(ClientError::Protocol("a read's reply is incomplete"));
                }
                return Ok(Completion {
                    cookie,
                    result: failed.map_or(Ok(()), Err),
                    data,
                });
            }
        }
    }

    fn read_array<const N: usize>(&mut self) -> Result<[u8; N], ClientError> {
        let mut b = [0; N];
        self.stream.read_exact(&mut b)?;
        Ok(b)
    }

    /// One request, start to end. Nothing else may be under way.
    fn one(
        &mut self,
        command: Command,
        offset: u64,
        len: u32,
        data: &[u8],
    ) -> Result<Vec<u8>, ClientError> {
        let cookie = self.submit(command, offset, len, data);
        let done = self.complete()?;
        if done.cookie != cookie {
            return Err(ClientError::Protocol("reply to another request"));
        }
        done.result.map_err(ClientError::Request)?;
        Ok(done.data)
    }

    /// Reads.
    ///
    /// # Errors
    /// [`ClientError`]; so do all the following.
    pub fn read(&mut self, offset: u64, len: u32) -> Result<Vec<u8>, ClientError> {
        self.one(Command::Read, offset, len, &[])
    }

    /// Writes; with `fua`, to stable storage.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn write(&mut self, offset: u64, data: &[u8], fua: bool) -> Result<(), ClientError> {
        self.one(Command::Write { fua }, offset, 0, data).map(drop)
    }

    /// Makes everything written durable.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn flush(&mut self) -> Result<(), ClientError> {
        self.one(Command::Flush, 0, 0, &[]).map(drop)
    }

    /// Discards.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn trim(&mut self, offset: u64, len: u32) -> Result<(), ClientError> {
        self.one(Command::Trim { fua: false }, offset, len, &[])
            .map(drop)
    }

    /// Zeroes; with `unmap`, space may be given back.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn write_zeroes(&mut self, offset: u64, len: u32, unmap: bool) -> Result<(), ClientError> {
        self.one(Command::WriteZeroes { fua: false, unmap }, offset, len, &[])
            .map(drop)
    }

    /// Leaves in order.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn disconnect(mut self) -> Result<(), ClientError> {
        self.submit(Command::Disconnect, 0, 0, &[]);
        self.send()
    }
}

const UNKNOWN: ClientError = ClientError::Protocol("reply to a request never made");
const LONG: ClientError = ClientError::Protocol("more data than asked for");

fn greet(address: &Address) -> Result<Stream, ClientError> {
    let mut stream = Stream::connect(address)?;
    let mut b = [0; 18];
    stream.read_exact(&mut b)?;
    let [greeting @ .., f0, f1] = b;
    let expect = (u128::from(NBDMAGIC) << 64) | u128::from(IHAVEOPT);
    if u128::from_be_bytes(greeting) != expect {
        return Err(ClientError::Protocol("this is no newstyle NBD server"));
    }
    let flags = u16::from_be_bytes([f0, f1]) & (hs::FIXED_NEWSTYLE | hs::NO_ZEROES);
    if flags & hs::FIXED_NEWSTYLE == 0 {
        return Err(ClientError::Protocol("no fixed newstyle"));
    }
    stream.write_all(&u32::from(flags).to_be_bytes())?;
    Ok(stream)
}

fn send_option(stream: &mut Stream, option: u32, data: &[u8]) -> Result<(), ClientError> {
    let mut b = Vec::with_capacity(16 + data.len());
    b.extend_from_slice(&IHAVEOPT.to_be_bytes());
    b.extend_from_slice(&option.to_be_bytes());
    b.extend_from_slice(&u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
    b.extend_from_slice(data);
    Ok(stream.write_all(&b)?)
}

fn read_reply(stream: &mut Stream, option: u32) -> Result<(u32, Vec<u8>), ClientError> {
    let mut b = [0; 20];
    stream.read_exact(&mut b)?;
    let [
        m0,
        m1,
        m2,
        m3,
        m4,
        m5,
        m6,
        m7,
        o0,
        o1,
        o2,
        o3,
        c0,
        c1,
        c2,
        c3,
        l0,
        l1,
        l2,
        l3,
    ] = b;
    if u64::from_be_bytes([m0, m1, m2, m3, m4, m5, m6, m7]) != REP_MAGIC
        || u32::from_be_bytes([o0, o1, o2, o3]) != option
    {
        return Err(ClientError::Protocol("this is no reply to the option"));
    }
    let len = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    if len > 2 * MAX_STRING {
        return Err(ClientError::Protocol("reply to an option is too long"));
    }
    let mut data = vec![0; len];
    stream.read_exact(&mut data)?;
    Ok((u32::from_be_bytes([c0, c1, c2, c3]), data))
}

fn refused(code: u32, data: &[u8]) -> ClientError {
    ClientError::Refused {
        code,
        text: String::from_utf8_lossy(data).into_owned(),
    }
}

fn take_info(export: &mut ExportInfo, data: &[u8]) -> Result<(), ClientError> {
    let short = ClientError::Protocol("short INFO reply");
    let Some((kind, data)) = data.split_first_chunk::<2>() else {
        return Err(short);
    };
    match u16::from_be_bytes(*kind) {
        info::EXPORT => {
            let Some(&[s0, s1, s2, s3, s4, s5, s6, s7, f0, f1]) = data.first_chunk() else {
                return Err(short);
            };
            export.size = u64::from_be_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
            export.flags = u16::from_be_bytes([f0, f1]);
        }
        info::BLOCK_SIZE => {
            let Some(&[a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3]) = data.first_chunk() else {
                return Err(short);
            };
            export.min_block = u32::from_be_bytes([a0, a1, a2, a3]);
            export.preferred_block = u32::from_be_bytes([b0, b1, b2, b3]);
            export.max_block = u32::from_be_bytes([c0, c1, c2, c3]);
        }
        info::NAME => export.name = String::from_utf8_lossy(data).into_owned(),
        _ => {}
    }
    Ok(())
}
