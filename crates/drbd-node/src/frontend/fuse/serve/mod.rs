//! The file: a [`Guest`] of the reactor that answers the kernel's requests.
//!
//! The descriptor of `/dev/fuse` never blocks; the ring only says when it is readable. The data of a write is read
//! straight into an aligned pool buffer: what comes before it has a fixed length and goes elsewhere.

mod openers;
mod unaligned;

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::io::{Errno, readv, writev};

use crate::doorway::{IoError, Limits, OpenError};
use crate::pool::{Buf, BufMut, MAX_LEN};
use crate::ring::{Completion, Fd, Op as RingOp};

use super::super::device_users::Link;
use super::super::requests::{Failure, Finished, Kind, Requests, data_piece};
use super::super::{Guest, GuestContext, Notice};
use super::codec::{
    Attributes, MAJOR, MIN_MINOR, Op, Request, WRITE_HEAD, attr_reply, fattr, init_reply,
    lseek_reply, out_header, statfs_reply, write_reply,
};
use openers::{Open, Openers};
use unaligned::{Exclusive, Unaligned};

/// Tokens of the ring's operations.
const POLL_FUSE: u64 = 0;
const POLL_LINK: u64 = 1;

/// Requests taken before others get their turn.
const TURN: usize = 64;
/// Data of a write from this length on stays in the buffer it was read into; less is copied out of it.
const KEEP: usize = 64 << 10;

/// What the answer to a request needs.
struct Name {
    unique: u64,
    /// Bytes read before those asked for, to keep to whole blocks.
    skip: usize,
    /// Bytes asked for.
    size: usize,
    role: Role,
}

/// What a request is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// It is what the kernel asked for.
    Plain,
    /// The first block of a write that does not cover it.
    First,
    /// The same with the last block.
    Last,
}

enum Data {
    None,
    One(Buf),
    Many(Vec<Buf>),
}

/// A request on its way to the volume.
struct Io {
    name: Name,
    kind: Kind,
    offset: u64,
    len: u64,
    data: Data,
}

/// The file of one volume.
pub(super) struct File {
    fd: Fd,
    link: Arc<Link>,
    /// What its log lines begin with.
    about: String,
    limits: Limits,
    mode: u32,
    uid: u32,
    gid: u32,
    openers: Openers,
    exclusive: Exclusive,
    requests: Requests<Name>,
    head: [u8; WRITE_HEAD],
    body: Option<BufMut>,
    /// A write whose data waits in `body` for smaller buffers.
    stalled: Option<Request>,
    polling: bool,
    ended: bool,
}

fn errno(e: Failure) -> Errno {
    match e {
        Failure::Io(IoError::Io) => Errno::IO,
        Failure::Io(IoError::NotPrimary) => Errno::ROFS,
        Failure::Io(IoError::Invalid) => Errno::INVAL,
        Failure::Io(IoError::NoSpace) => Errno::NOSPC,
        Failure::NotSupported => Errno::OPNOTSUPP,
    }
}

impl File {
    /// `fd` is a mounted `/dev/fuse` that does not block.
    pub(super) fn new(
        fd: Fd,
        link: Arc<Link>,
        about: String,
        owner: (u32, u32),
        mode: u32,
    ) -> File {
        File {
            fd,
            link,
            about,
            limits: Limits::default(),
            mode,
            uid: owner.0,
            gid: owner.1,
            openers: Openers::default(),
            exclusive: Exclusive::default(),
            requests: Requests::default(),
            head: [0; WRITE_HEAD],
            body: None,
            stalled: None,
            polling: false,
            ended: false,
        }
    }

    fn end(&mut self, cx: &mut GuestContext<'_>) {
        if !self.ended {
            self.ended = true;
            cx.end();
        }
    }

    fn size(&self) -> u64 {
        self.limits.sectors.saturating_mul(512)
    }

    fn block(&self) -> u64 {
        u64::from(self.limits.logical_block.max(512))
    }

    /// Sends a reply; what the kernel does not want to hear any more is dropped.
    fn reply(&self, unique: u64, body: &[u8]) {
        let header = out_header(unique, 0, body.len());
        self.send(&[IoSlice::new(&header), IoSlice::new(body)]);
    }

    fn error(&self, unique: u64, e: Errno) {
        self.send(&[IoSlice::new(&out_header(unique, e.raw_os_error(), 0))]);
    }

    fn send(&self, parts: &[IoSlice<'_>]) {
        match writev(self.fd.as_fd(), parts) {
            // ENOENT: the asker was killed.
            Ok(_) | Err(Errno::NOENT | Errno::NODEV) => {}
            Err(e) => tracing::warn!("{}: FUSE reply refused: {e}", self.about),
        }
    }

    /// Takes requests until there are none, or something has to be waited for.
    fn pump(&mut self, cx: &mut GuestContext<'_>) {
        if self.ended {
            return;
        }
        if let Some(request) = self.stalled.take() {
            self.write(cx, request);
        }
        for _ in 0..TURN {
            if self.ended || self.stalled.is_some() {
                return;
            }
            if self.body.is_none() {
                self.body = cx.alloc(MAX_LEN);
            }
            // Otherwise `retry` comes back here.
            let Some(body) = &mut self.body else { return };
            let mut parts = [IoSliceMut::new(&mut self.head), IoSliceMut::new(body)];
            match readv(self.fd.as_fd(), &mut parts) {
                Ok(len) => self.request(cx, len),
                Err(Errno::AGAIN) => break,
                // The request was given up while it was read.
                Err(Errno::INTR | Errno::NOENT) => {}
                Err(Errno::NODEV) => return self.end(cx),
                Err(e) => {
                    tracing::error!("{}: FUSE device: {e}", self.about);
                    return self.end(cx);
                }
            }
        }
        if !self.polling {
            self.polling = true;
            let (fd, events) = (self.fd.clone(), libc::POLLIN as u32);
            cx.push(POLL_FUSE, RingOp::Poll { fd, events });
        }
    }

    fn request(&mut self, cx: &mut GuestContext<'_>, len: usize) {
        // Only one kind of request that has no data to write is longer than the head: 128 bytes.
        let mut start = [0; 160];
        let body = self.body.as_deref().unwrap_or_default();
        for (to, from) in start.iter_mut().zip(self.head.iter().chain(body)) {
            *to = *from;
        }
        let known = start.get(..len.min(start.len())).unwrap_or_default();
        let request = match Request::parse(known, len) {
            Ok(request) => request,
            Err(e) => {
                tracing::error!("{}: {e}", self.about);
                if let Some(unique) = known.get(8..16).and_then(|b| b.first_chunk()) {
                    self.error(u64::from_ne_bytes(*unique), Errno::INVAL);
                }
                return;
            }
        };
        let unique = request.unique;
        match request.op {
            Op::Write { .. } => self.write(cx, request),
            Op::Read { fh, offset, size } => self.read(cx, unique, fh, offset, size),
            Op::Fsync { fh } => {
                let name = Name {
                    unique,
                    skip: 0,
                    size: 0,
                    role: Role::Plain,
                };
                self.begin(
                    cx,
                    fh,
                    Io {
                        name,
                        kind: Kind::Flush,
                        offset: 0,
                        len: 0,
                        data: Data::None,
                    },
                );
            }
            Op::Fallocate {
                fh,
                offset,
                len,
                mode,
            } => {
                self.fallocate(cx, unique, fh, offset, len, mode);
            }
            Op::Open { flags } => self.open(cx, unique, request.pid, flags),
            Op::Release { fh } => {
                if let Some(Open::Program) = self.openers.files.remove(&fh) {
                    cx.close(fh);
                }
                self.reply(unique, &[]);
            }
            Op::Getattr => self.reply(unique, &attr_reply(&self.attributes())),
            Op::Setattr {
                valid,
                size,
                mode,
                uid,
                gid,
            } => {
                // A device keeps its size; what `O_TRUNC` does to it is nothing.
                if valid & fattr::SIZE != 0 && size != 0 && size != self.size() {
                    return self.error(unique, Errno::INVAL);
                }
                if valid & fattr::MODE != 0 {
                    self.mode = mode & 0o7777;
                }
                if valid & fattr::UID != 0 {
                    self.uid = uid;
                }
                if valid & fattr::GID != 0 {
                    self.gid = gid;
                }
                self.reply(unique, &attr_reply(&self.attributes()));
            }
            Op::Statfs => {
                let block = self.limits.logical_block.max(512);
                self.reply(unique, &statfs_reply(self.size(), block));
            }
            Op::Lseek { offset, whence } => match i32::try_from(whence) {
                _ if offset >= self.size() => self.error(unique, Errno::NXIO),
                Ok(libc::SEEK_DATA) => self.reply(unique, &lseek_reply(offset)),
                Ok(libc::SEEK_HOLE) => self.reply(unique, &lseek_reply(self.size())),
                _ => self.error(unique, Errno::INVAL),
            },
            Op::Init { major, minor, .. } if major != MAJOR || minor < MIN_MINOR => {
                tracing::error!(
                    "{}: the kernel speaks FUSE {major}.{minor}, {MAJOR}.{MIN_MINOR} is needed",
                    self.about
                );
                self.error(unique, Errno::PROTO);
            }
            Op::Init {
                readahead, flags, ..
            } => {
                self.reply(unique, &init_reply(readahead, flags, MAX_LEN as u32));
            }
            Op::Destroy => {
                self.reply(unique, &[]);
                self.end(cx);
            }
            // I/O ends by itself, an open waits no longer than auto-promote-timeout.
            Op::Forget | Op::Interrupt { .. } => {}
            // What `FLUSH` would ask for - write back what is cached - has nothing to do here.
            Op::Flush | Op::Other(_) => self.error(unique, Errno::NOSYS),
        }
    }

    fn attributes(&self) -> Attributes {
        Attributes {
            size: self.size(),
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            block: self.limits.physical_block.max(4096),
        }
    }

    fn read(&mut self, cx: &mut GuestContext<'_>, unique: u64, fh: u64, offset: u64, size: u32) {
        let device = self.size();
        if offset >= device || size == 0 {
            return self.reply(unique, &[]);
        }
        let end = offset
            .saturating_add(u64::from(size.min(MAX_LEN as u32)))
            .min(device);
        let block = self.block();
        let start = offset / block * block;
        let len = end.div_ceil(block) * block - start;
        // Both differ by less than MAX_LEN.
        let name = Name {
            unique,
            skip: (offset - start) as usize,
            size: (end - offset) as usize,
            role: Role::Plain,
        };
        self.begin(
            cx,
            fh,
            Io {
                name,
                kind: Kind::Read,
                offset: start,
                len,
                data: Data::None,
            },
        );
    }

    fn write(&mut self, cx: &mut GuestContext<'_>, request: Request) {
        let Op::Write {
            fh,
            offset,
            size,
            dsync,
        } = request.op
        else {
            return;
        };
        let (unique, device, block) = (request.unique, self.size(), self.block());
        if size == 0 {
            return self.reply(unique, &write_reply(0));
        }
        if offset >= device {
            return self.error(unique, Errno::NOSPC);
        }
        let len = u64::from(size).min(device - offset);
        let size = len as usize;
        if !offset.is_multiple_of(block) || !len.is_multiple_of(block) {
            // The loop device keeps to blocks.
            let Some(Open::Program) = self.openers.files.get(&fh) else {
                return self.error(unique, Errno::INVAL);
            };
            let Some(body) = self.body.take() else {
                return self.error(unique, Errno::IO);
            };
            let request = Unaligned::new(unique, offset, size, dsync, body);
            return self.write_unaligned(cx, fh, request);
        }
        let piece = data_piece(&self.limits) as usize;
        let Some(mut body) = self.body.take() else {
            return self.error(unique, Errno::IO);
        };
        let data = if size >= KEEP && size <= piece {
            body.truncate(size);
            Data::One(body.freeze())
        } else {
            let copied = copy_out(cx, body.get(..size).unwrap_or_default(), piece);
            self.body = Some(body);
            let Some(data) = copied else {
                self.stalled = Some(request);
                return;
            };
            data
        };
        let name = Name {
            unique,
            skip: 0,
            size,
            role: Role::Plain,
        };
        self.begin(
            cx,
            fh,
            Io {
                name,
                kind: Kind::Write { fua: dsync },
                offset,
                len,
                data,
            },
        );
    }

    fn fallocate(
        &mut self,
        cx: &mut GuestContext<'_>,
        unique: u64,
        fh: u64,
        offset: u64,
        len: u64,
        mode: u32,
    ) {
        let keep = libc::FALLOC_FL_KEEP_SIZE as u32;
        let punch = libc::FALLOC_FL_PUNCH_HOLE as u32;
        let zero = libc::FALLOC_FL_ZERO_RANGE as u32;
        let unmap = match mode & !keep {
            // Everything is allocated.
            0 => {
                let inside = offset
                    .checked_add(len)
                    .is_some_and(|end| end <= self.size());
                return if inside {
                    self.reply(unique, &[])
                } else {
                    self.error(unique, Errno::NOSPC)
                };
            }
            m if m == punch => true,
            m if m == zero => false,
            _ => return self.error(unique, Errno::OPNOTSUPP),
        };
        if self.limits.max_write_zeroes == 0 {
            return self.error(unique, Errno::OPNOTSUPP);
        }
        if offset >= self.size() {
            return self.reply(unique, &[]);
        }
        let len = len.min(self.size() - offset);
        if !offset.is_multiple_of(self.block()) || !len.is_multiple_of(self.block()) {
            return self.error(unique, Errno::INVAL);
        }
        let name = Name {
            unique,
            skip: 0,
            size: 0,
            role: Role::Plain,
        };
        let kind = Kind::Zero { fua: false, unmap };
        self.begin(
            cx,
            fh,
            Io {
                name,
                kind,
                offset,
                len,
                data: Data::None,
            },
        );
    }

    fn submit(&mut self, cx: &mut GuestContext<'_>, opener: u64, request: Io) {
        let Io {
            name,
            kind,
            offset,
            len,
            data,
        } = request;
        let index = self.requests.insert(name, opener, kind, offset, len);
        match data {
            Data::None => {
                if let Some(finished) = self.requests.advance(cx, &self.limits, index) {
                    self.answer(cx, finished);
                }
            }
            Data::One(buf) => self.requests.write(cx, index, buf),
            Data::Many(bufs) => {
                for buf in bufs {
                    self.requests.write(cx, index, buf);
                }
            }
        }
    }

    fn answer(&mut self, cx: &mut GuestContext<'_>, finished: Finished<Name>) {
        let (unique, role) = (finished.name.unique, finished.name.role);
        if role != Role::Plain {
            let result = finished.result.map_err(errno);
            let result = result.map(|()| finished.into_data().next());
            return self.edge(cx, unique, role, result);
        }
        let wrote = !matches!(finished.kind, Kind::Read | Kind::Flush);
        self.tell(finished);
        if wrote {
            self.write_ended(cx, unique);
        }
    }

    fn tell(&mut self, finished: Finished<Name>) {
        let unique = finished.name.unique;
        if let Err(e) = finished.result {
            return self.error(unique, errno(e));
        }
        let size = finished.name.size;
        match finished.kind {
            Kind::Write { .. } => self.reply(unique, &write_reply(size as u32)),
            Kind::Read => {
                let header = out_header(unique, 0, size);
                let (mut skip, mut left) = (finished.name.skip, size);
                let data: Vec<Buf> = finished.into_data().collect();
                let mut parts = vec![IoSlice::new(&header)];
                for buf in &data {
                    let from = skip.min(buf.len());
                    let until = buf.len().min(from.saturating_add(left));
                    skip -= from;
                    left -= until - from;
                    parts.push(IoSlice::new(buf.get(from..until).unwrap_or_default()));
                }
                self.send(&parts);
            }
            _ => self.reply(unique, &[]),
        }
    }

    fn poll_link(&mut self, cx: &mut GuestContext<'_>) {
        let (fd, events) = (self.link.event().clone(), libc::POLLIN as u32);
        cx.push(POLL_LINK, RingOp::Poll { fd, events });
    }
}

/// Data in buffers of its own, none longer than `piece`; `None` if the pool has too few.
fn copy_out(cx: &mut GuestContext<'_>, data: &[u8], piece: usize) -> Option<Data> {
    let mut copy = |part: &[u8]| {
        let mut buf = cx.alloc(part.len())?;
        buf.copy_from_slice(part);
        Some(buf.freeze())
    };
    if data.len() <= piece {
        return Some(Data::One(copy(data)?));
    }
    data.chunks(piece)
        .map(copy)
        .collect::<Option<Vec<_>>>()
        .map(Data::Many)
}

impl Guest for File {
    fn start(&mut self, cx: &mut GuestContext<'_>) {
        self.limits = cx.volume().limits();
        self.poll_link(cx);
        self.pump(cx);
    }

    fn opened(&mut self, cx: &mut GuestContext<'_>, opener: u64, result: Result<(), OpenError>) {
        self.let_in(cx, opener, result);
    }

    fn complete(&mut self, cx: &mut GuestContext<'_>, completion: Completion<u64>) {
        if self.ended {
            return;
        }
        if completion.token == POLL_LINK {
            self.link.quiet();
            self.link_changed(cx);
            self.poll_link(cx);
        } else {
            self.polling = false;
            self.pump(cx);
        }
    }

    fn notice(&mut self, cx: &mut GuestContext<'_>, notice: Notice) {
        match notice {
            Notice::Done { tag, result, data } => {
                let limits = self.limits;
                if let Some(finished) = self.requests.done(cx, &limits, tag, result, data) {
                    self.answer(cx, finished);
                    self.maybe_idle(cx);
                }
            }
            Notice::Limits(limits) => {
                self.limits = limits;
                self.link.touched();
            }
            Notice::Gone => self.end(cx),
            Notice::Opened(_) => {}
        }
    }

    fn retry(&mut self, cx: &mut GuestContext<'_>) {
        self.write_whole(cx);
        self.pump(cx);
    }

    fn settle(&mut self, _cx: &mut GuestContext<'_>) {}
}
