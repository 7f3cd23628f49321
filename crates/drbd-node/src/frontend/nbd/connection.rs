//! One client in the transmission phase: a [`Guest`] of the reactor that owns the volume.
//!
//! Bytes are received into a buffer that holds many small requests; the payload of a write goes from there into a
//! pool buffer, and what is missing of it is received straight into that pool buffer. So a large write is not copied,
//! and a queue of small ones costs one system call. Replies of one wake-up are sent together.

use std::io;

use crate::doorway::{IoError, Limits, OpenError};
use crate::pool::BufMut;
use crate::ring::{Completion, Fd, Memory, Op, Part};

use super::super::requests::{Failure, Finished, Kind, Requests, data_piece};
use super::super::{Guest, GuestContext, Notice, Session};
use super::codec::{Command, Errno, REQUEST_LEN, ReplyHead, Request};
use super::export_info;
use super::handshake::ExportInfo;
use super::output::Output;

/// Bytes received at once into the buffer for requests.
const RECEIVE: usize = 128 << 10;
/// The same behind a payload that is longer than [`LARGE`]: the next is long, too, and must not be copied.
const RECEIVE_BEHIND_LARGE: usize = 4096;
/// Length from which a payload counts as large, in bytes.
const LARGE: usize = 64 << 10;
/// Requests of one client under way at most; the others wait in its socket.
const MAX_REQUESTS: usize = 256;
/// Payload of one client under way, in bytes, from which on nothing more is taken.
const MAX_BYTES: usize = 4 << 20;

/// Tokens of the ring's operations.
const RECEIVING: u64 = 0;
const SENDING: u64 = 1;
/// The connection's only opener.
const OPENER: u64 = 0;

/// A client in the transmission phase.
pub(super) struct Connection {
    fd: Fd,
    structured: bool,
    write: bool,
    export: ExportInfo,
    limits: Limits,
    /// Keeps the volume open until this guest's own opener is let in.
    held: Option<Session>,
    open: bool,
    /// The client said good-bye: end when everything is answered.
    leaving: bool,
    ended: bool,
    input: Input,
    output: Output,
    requests: Requests<u64>,
}

/// What was received and not used yet.
struct Input {
    buf: Vec<u8>,
    start: usize,
    end: usize,
    receiving: bool,
    /// Payload to throw away.
    skip: usize,
    /// The write whose payload comes in.
    write: Option<Incoming>,
    behind_large: bool,
    spare: Vec<Part>,
}

/// A write whose payload is not complete.
struct Incoming {
    /// Its place in [`Requests`].
    index: u32,
    /// Bytes of payload that are in no buffer yet.
    missing: usize,
    /// The buffer being filled and how far it is; away while the ring fills it.
    part: Option<(BufMut, usize)>,
}

fn errno(e: Failure) -> Errno {
    match e {
        Failure::Io(IoError::Io) => Errno::Io,
        Failure::Io(IoError::NotPrimary) => Errno::Perm,
        Failure::Io(IoError::Invalid) => Errno::Invalid,
        Failure::Io(IoError::NoSpace) => Errno::NoSpace,
        Failure::NotSupported => Errno::NotSupported,
    }
}

impl Connection {
    /// `leftover` is what was received behind the handshake.
    pub(super) fn new(
        fd: Fd,
        export: ExportInfo,
        structured: bool,
        write: bool,
        leftover: &[u8],
        held: Session,
    ) -> Connection {
        let mut buf = vec![0; RECEIVE.max(leftover.len())];
        for (to, from) in buf.iter_mut().zip(leftover) {
            *to = *from;
        }
        Connection {
            fd,
            structured,
            write,
            export,
            limits: Limits::default(),
            held: Some(held),
            open: false,
            leaving: false,
            ended: false,
            input: Input {
                buf,
                start: 0,
                end: leftover.len(),
                receiving: false,
                skip: 0,
                write: None,
                behind_large: false,
                spare: Vec::new(),
            },
            output: Output::default(),
            requests: Requests::default(),
        }
    }

    fn end(&mut self, cx: &mut GuestContext<'_>) {
        if !self.ended {
            self.ended = true;
            cx.end();
        }
    }

    fn full(&self) -> bool {
        self.requests.len() >= MAX_REQUESTS
            || self.requests.bytes() + self.output.payload() >= MAX_BYTES
    }

    /// Uses what was received as far as possible, then receives more.
    fn advance(&mut self, cx: &mut GuestContext<'_>) {
        if !self.open || self.ended || self.input.receiving || self.leaving {
            return;
        }
        loop {
            let available = self.input.end - self.input.start;
            if self.input.skip > 0 {
                let n = self.input.skip.min(available);
                self.input.skip -= n;
                self.input.start += n;
                if self.input.skip > 0 {
                    break;
                }
                continue;
            }
            if self.input.write.is_some() {
                match self.fill(cx) {
                    Fill::Again => continue,
                    Fill::Receive => break,
                    // `retry` comes back here.
                    Fill::NoBuffer => return,
                }
            }
            let header = self.input.buf.get(self.input.start..self.input.end);
            let Some(header) = header.and_then(|b| b.first_chunk::<REQUEST_LEN>()) else {
                break;
            };
            if self.full() {
                // The end of a request comes back here.
                return;
            }
            match Request::parse(header) {
                Ok(request) => {
                    self.input.start += REQUEST_LEN;
                    self.begin(cx, &request);
                    if self.leaving {
                        return self.leave(cx);
                    }
                }
                Err(e) => {
                    tracing::warn!("drbd {}: NBD client hung up on: {e}", self.export.name);
                    return self.end(cx);
                }
            }
        }
        self.receive(cx);
    }

    fn leave(&mut self, cx: &mut GuestContext<'_>) {
        if self.leaving && self.requests.len() == 0 && self.output.is_empty() {
            self.end(cx);
        }
    }

    fn receive(&mut self, cx: &mut GuestContext<'_>) {
        let input = &mut self.input;
        input.buf.copy_within(input.start..input.end, 0);
        input.end -= input.start;
        input.start = 0;
        let mut parts = std::mem::take(&mut input.spare);
        let mut ahead = if input.behind_large {
            RECEIVE_BEHIND_LARGE
        } else {
            RECEIVE
        };
        if let Some((buf, filled)) = input.write.as_mut().and_then(|w| w.part.take()) {
            let len = buf.len() - filled;
            parts.push(Part {
                memory: Memory::Fill(buf),
                at: filled,
                len,
            });
        } else {
            ahead = RECEIVE;
        }
        parts.push(Part {
            memory: Memory::Bytes(std::mem::take(&mut input.buf)),
            at: input.end,
            len: ahead.saturating_sub(input.end).max(REQUEST_LEN),
        });
        input.receiving = true;
        let fd = self.fd.clone();
        cx.push(RECEIVING, Op::Receive { fd, parts });
    }

    fn received(&mut self, mut parts: Vec<Part>, mut count: usize) {
        let input = &mut self.input;
        input.receiving = false;
        for part in parts.drain(..) {
            let done = part.len.min(count);
            count -= done;
            match part.memory {
                Memory::Bytes(buf) => {
                    input.buf = buf;
                    input.end = part.at + done;
                }
                Memory::Fill(buf) => {
                    if let Some(write) = &mut input.write {
                        write.part = Some((buf, part.at + done));
                    }
                }
                Memory::Shared(_) => {}
            }
        }
        input.spare = parts;
    }

    /// Moves payload from the receive buffer into the write's pool buffer.
    fn fill(&mut self, cx: &mut GuestContext<'_>) -> Fill {
        let input = &mut self.input;
        let Some(write) = &mut input.write else {
            return Fill::Again;
        };
        let (mut buf, mut filled) = match write.part.take() {
            Some(part) => part,
            None => {
                let limit = data_piece(&self.limits);
                let Some(buf) = cx.alloc(write.missing.min(limit as usize)) else {
                    return Fill::NoBuffer;
                };
                write.missing -= buf.len();
                (buf, 0)
            }
        };
        if let (Some(to), Some(from)) =
            (buf.get_mut(filled..), input.buf.get(input.start..input.end))
        {
            let n = to.len().min(from.len());
            if let (Some(to), Some(from)) = (to.get_mut(..n), from.get(..n)) {
                to.copy_from_slice(from);
            }
            filled += n;
            input.start += n;
        }
        if filled < buf.len() {
            write.part = Some((buf, filled));
            return Fill::Receive;
        }
        let index = write.index;
        if write.missing == 0 {
            input.write = None;
        }
        self.requests.write(cx, index, buf.freeze());
        Fill::Again
    }

    fn begin(&mut self, cx: &mut GuestContext<'_>, request: &Request) {
        if request.command == Command::Disconnect {
            self.leaving = true;
            return;
        }
        if let Err(e) = request.check(&self.export) {
            self.input.skip = if request.payload {
                request.len as usize
            } else {
                0
            };
            self.output
                .head(&ReplyHead::status(self.structured, request.cookie, Err(e)));
            return;
        }
        let kind = match request.command {
            Command::Read => Kind::Read,
            Command::Write { fua } => Kind::Write { fua },
            Command::Trim { fua } => Kind::Discard { fua },
            Command::WriteZeroes { fua, unmap } => Kind::Zero { fua, unmap },
            // Nothing else is left after the check.
            _ => Kind::Flush,
        };
        let (offset, len) = (request.offset, u64::from(request.len));
        let index = self
            .requests
            .insert(request.cookie, OPENER, kind, offset, len);
        if request.payload {
            let missing = request.len as usize;
            self.input.behind_large = missing > LARGE;
            self.input.write = Some(Incoming {
                index,
                missing,
                part: None,
            });
        } else if let Some(finished) = self.requests.advance(cx, &self.limits, index) {
            self.answer(finished);
        }
    }

    fn answer(&mut self, finished: Finished<u64>) {
        let (cookie, structured) = (finished.name, self.structured);
        let head = match finished.result {
            Ok(()) if finished.kind == Kind::Read => {
                // No longer than MAX_READ.
                ReplyHead::read(structured, cookie, finished.offset, finished.len as u32)
            }
            result => ReplyHead::status(structured, cookie, result.map_err(errno)),
        };
        self.output.head(&head);
        if finished.result.is_ok() {
            finished.into_data().for_each(|data| self.output.data(data));
        }
    }
}

/// What came of filling a write's buffer.
enum Fill {
    /// Go on with what was received.
    Again,
    /// More has to be received.
    Receive,
    /// The pool is exhausted.
    NoBuffer,
}

impl Guest for Connection {
    fn start(&mut self, cx: &mut GuestContext<'_>) {
        cx.open(OPENER, self.write, false);
    }

    fn opened(&mut self, cx: &mut GuestContext<'_>, _: u64, result: Result<(), OpenError>) {
        self.held = None;
        if let Err(e) = result {
            tracing::warn!("drbd {}: NBD client hung up on: {e}", self.export.name);
            return self.end(cx);
        }
        self.open = true;
        self.limits = cx.volume().limits();
        self.export = export_info(&self.export.name, &self.limits, !self.write);
        self.advance(cx);
    }

    fn complete(&mut self, cx: &mut GuestContext<'_>, completion: Completion<u64>) {
        match (completion.op, completion.result) {
            (Op::Send { parts, .. }, Ok(sent)) => {
                self.output.sent(parts, sent as usize);
                self.leave(cx);
            }
            (Op::Receive { .. }, Ok(0)) => return self.end(cx),
            (Op::Receive { parts, .. }, Ok(count)) => self.received(parts, count as usize),
            (_, Err(e)) => {
                if !self.ended && e.kind() != io::ErrorKind::ConnectionReset {
                    tracing::debug!("drbd {}: NBD client lost: {e}", self.export.name);
                }
                return self.end(cx);
            }
            _ => {}
        }
        self.advance(cx);
    }

    fn notice(&mut self, cx: &mut GuestContext<'_>, notice: Notice) {
        match notice {
            Notice::Done { tag, result, data } => {
                let limits = self.limits;
                if let Some(finished) = self.requests.done(cx, &limits, tag, result, data) {
                    self.answer(finished);
                }
                self.advance(cx);
                self.leave(cx);
            }
            Notice::Limits(limits) => {
                self.limits = limits;
                self.export = export_info(&self.export.name, &limits, !self.write);
            }
            Notice::Gone => self.end(cx),
            Notice::Opened(_) => {}
        }
    }

    fn retry(&mut self, cx: &mut GuestContext<'_>) {
        self.advance(cx);
    }

    fn settle(&mut self, cx: &mut GuestContext<'_>) {
        if self.ended {
            return;
        }
        if let Some(parts) = self.output.take() {
            let fd = self.fd.clone();
            cx.push(
                SENDING,
                Op::Send {
                    fd,
                    parts,
                    more: false,
                },
            );
        }
    }
}
