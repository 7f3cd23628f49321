//! One client in the transmission phase: a [`Guest`] of the reactor that owns the volume.
//!
//! Bytes are received into a buffer that holds many small requests; the payload of a write goes from there into a
//! pool buffer, and what is missing of it is received straight into that pool buffer. So a large write is not copied,
//! and a queue of small ones costs one system call. Replies of one wake-up are sent together.

use std::io;

use crate::doorway::{IoError, Limits, OpenError, Sector};
use crate::pool::{Buf, BufMut, MAX_LEN};
use crate::ring::{Completion, Fd, Memory, Op, Part};

use super::super::{Guest, GuestContext, Notice, Request as VolumeRequest, Session};
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
/// Parts of one long trim or write-zeroes under way at once.
const WINDOW: u32 = 4;

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
    requests: Requests,
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
    /// Byte offset of the next part on the volume.
    offset: u64,
    /// Bytes of payload that are in no buffer yet.
    missing: usize,
    /// The buffer being filled and how far it is; away while the ring fills it.
    part: Option<(BufMut, usize)>,
}

/// A request under way.
struct Pending {
    command: Command,
    cookie: u64,
    offset: u64,
    len: u32,
    /// Bytes handed to the volume.
    submitted: u32,
    outstanding: u32,
    error: Option<Errno>,
    /// The flush behind a long operation with FUA.
    flushed: bool,
    data: Option<Buf>,
    more: Vec<Option<Buf>>,
}

#[derive(Default)]
struct Requests {
    slots: Vec<Option<Pending>>,
    free: Vec<u32>,
    bytes: usize,
}

impl Requests {
    fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn insert(&mut self, request: &Request) -> u32 {
        let pending = Pending {
            command: request.command,
            cookie: request.cookie,
            offset: request.offset,
            len: request.len,
            submitted: 0,
            outstanding: 0,
            error: None,
            flushed: false,
            data: None,
            more: Vec::new(),
        };
        self.bytes += pending.payload();
        if let Some(index) = self.free.pop() {
            if let Some(slot) = self.slots.get_mut(index as usize) {
                *slot = Some(pending);
            }
            return index;
        }
        self.slots.push(Some(pending));
        // At most MAX_REQUESTS and a few.
        (self.slots.len() - 1) as u32
    }

    fn get(&mut self, index: u32) -> Option<&mut Pending> {
        self.slots.get_mut(index as usize)?.as_mut()
    }

    fn remove(&mut self, index: u32) -> Option<Pending> {
        let pending = self.slots.get_mut(index as usize)?.take()?;
        self.free.push(index);
        self.bytes -= pending.payload();
        Some(pending)
    }
}

impl Pending {
    fn payload(&self) -> usize {
        match self.command {
            Command::Read | Command::Write { .. } => self.len as usize,
            _ => 0,
        }
    }
}

/// Tag of the `part`th piece of a request.
fn tag(index: u32, part: u32) -> u64 {
    u64::from(part) << 32 | u64::from(index)
}

fn sector(offset: u64) -> Sector {
    Sector(offset >> 9)
}

fn errno(e: IoError) -> Errno {
    match e {
        IoError::Io => Errno::Io,
        IoError::NotPrimary => Errno::Perm,
        IoError::Invalid => Errno::Invalid,
        IoError::NoSpace => Errno::NoSpace,
    }
}

/// The longest piece of a request: a multiple of the block size and at least one block.
fn piece(limit: u32, limits: &Limits) -> u32 {
    let block = limits.logical_block.max(512);
    (limit / block * block).max(block)
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
            || self.requests.bytes + self.output.payload() >= MAX_BYTES
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
                    tracing::warn!(export = %self.export.name, "NBD client hung up on: {e}");
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
        let Some(pending) = self.requests.get(write.index) else {
            input.skip = write.missing;
            input.write = None;
            return Fill::Again;
        };
        let (mut buf, mut filled) = match write.part.take() {
            Some(part) => part,
            None => {
                let limit = piece(self.limits.max_io.min(MAX_LEN as u32), &self.limits);
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
        let (index, offset) = (write.index, write.offset);
        let fua = matches!(pending.command, Command::Write { fua: true });
        let data = buf.freeze();
        pending.submitted += data.len() as u32;
        pending.outstanding += 1;
        write.offset += data.len() as u64;
        if write.missing == 0 {
            input.write = None;
        }
        let request = VolumeRequest::Write {
            sector: sector(offset),
            data,
            fua,
        };
        cx.submit(OPENER, tag(index, 0), request);
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
        let index = self.requests.insert(request);
        if let Command::Write { .. } = request.command {
            self.input.behind_large = request.len as usize > LARGE;
            self.input.write = Some(Incoming {
                index,
                offset: request.offset,
                missing: request.len as usize,
                part: None,
            });
        } else {
            self.push_on(cx, index);
        }
    }

    /// Hands the next pieces of anything but a write to the volume.
    fn push_on(&mut self, cx: &mut GuestContext<'_>, index: u32) {
        let limits = self.limits;
        let Some(pending) = self.requests.get(index) else {
            return;
        };
        if pending.command == Command::Flush {
            if !pending.flushed {
                pending.flushed = true;
                pending.outstanding += 1;
                cx.submit(OPENER, tag(index, 0), VolumeRequest::Flush);
            }
            return;
        }
        let (limit, window) = match pending.command {
            Command::Read => (limits.max_io.min(MAX_LEN as u32), u32::MAX),
            Command::Trim { .. } => (limits.max_discard, WINDOW),
            Command::WriteZeroes { .. } => (limits.max_write_zeroes, WINDOW),
            _ => return,
        };
        if limit == 0 {
            // A peer that cannot do this came since the client was told that it works.
            pending.error = Some(Errno::NotSupported);
            return self.check_finished(cx, index);
        }
        let limit = piece(limit, &limits);
        let mut part = pending.submitted / limit;
        while pending.submitted < pending.len
            && pending.outstanding < window
            && pending.error.is_none()
        {
            let len = (pending.len - pending.submitted).min(limit);
            let sector = sector(pending.offset + u64::from(pending.submitted));
            pending.submitted += len;
            pending.outstanding += 1;
            let request = match pending.command {
                Command::Trim { .. } => VolumeRequest::Discard { sector, len },
                Command::WriteZeroes { unmap, .. } => {
                    VolumeRequest::WriteZeroes { sector, len, unmap }
                }
                _ => {
                    if part > 0 {
                        pending.more.push(None);
                    }
                    VolumeRequest::Read { sector, len }
                }
            };
            cx.submit(OPENER, tag(index, part), request);
            part += 1;
        }
    }

    fn done(
        &mut self,
        cx: &mut GuestContext<'_>,
        tag: u64,
        result: Result<(), IoError>,
        data: Option<Buf>,
    ) {
        let (index, part) = (tag as u32, (tag >> 32) as usize);
        let Some(pending) = self.requests.get(index) else {
            return;
        };
        pending.outstanding = pending.outstanding.saturating_sub(1);
        match (result, data) {
            (Err(e), _) => pending.error = pending.error.or(Some(errno(e))),
            (Ok(()), Some(data)) => match part.checked_sub(1) {
                None => pending.data = Some(data),
                Some(n) => {
                    if let Some(slot) = pending.more.get_mut(n) {
                        *slot = Some(data);
                    }
                }
            },
            (Ok(()), None) => {}
        }
        self.push_on(cx, index);
        self.check_finished(cx, index);
    }

    fn check_finished(&mut self, cx: &mut GuestContext<'_>, index: u32) {
        let structured = self.structured;
        let Some(pending) = self.requests.get(index) else {
            return;
        };
        let writes = matches!(pending.command, Command::Write { .. });
        let all = pending.submitted == pending.len || pending.command == Command::Flush;
        // The payload of a write that failed is taken off the stream before it is answered.
        if pending.outstanding > 0 || (!all && (writes || pending.error.is_none())) {
            return;
        }
        let fua = matches!(
            pending.command,
            Command::Trim { fua: true } | Command::WriteZeroes { fua: true, .. }
        );
        if fua && !pending.flushed && pending.error.is_none() {
            pending.flushed = true;
            pending.outstanding = 1;
            cx.submit(OPENER, tag(index, 0), VolumeRequest::Flush);
            return;
        }
        let Some(pending) = self.requests.remove(index) else {
            return;
        };
        let reads = pending.command == Command::Read;
        let got = pending.data.iter().chain(pending.more.iter().flatten());
        let got: usize = got.map(|b| b.len()).sum();
        if let Some(e) = pending.error {
            self.output
                .head(&ReplyHead::status(structured, pending.cookie, Err(e)));
        } else if !reads {
            self.output
                .head(&ReplyHead::status(structured, pending.cookie, Ok(())));
        } else if got != pending.len as usize {
            self.output.head(&ReplyHead::status(
                structured,
                pending.cookie,
                Err(Errno::Io),
            ));
        } else {
            let head = ReplyHead::read(structured, pending.cookie, pending.offset, pending.len);
            self.output.head(&head);
            pending.data.into_iter().for_each(|b| self.output.data(b));
            pending
                .more
                .into_iter()
                .flatten()
                .for_each(|b| self.output.data(b));
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
            tracing::warn!(export = %self.export.name, "NBD client hung up on: {e}");
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
                    tracing::debug!(export = %self.export.name, "NBD client lost: {e}");
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
                self.done(cx, tag, result, data);
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
