//! The thread that serves a device's queue.
//!
//! It has a ring of its own, because the driver ties a queue to the thread that fetches from it, and talks to the reactor
//! through sessions. Data is copied once, between the block layer's pages and our buffers.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::doorway::{IoError, Limits};
use crate::mailbox::Mailbox;
use crate::pool::{Buf, Purpose};

use super::super::device_users::Link;
use super::super::requests::{Failure, Finished, Kind, Requests, Submit, data_piece};
use super::super::{Notice, Request, Session, VolumeHandle};
use super::sys::{Queue, Woken};
use super::uapi::{IoDesc, IoOp, data_offset};

/// The two ways in which the device is open.
const READER: u64 = 0;
const WRITER: u64 = 1;

/// Tokens of polls; those of the sides are their openers.
const POLL_LINK: u64 = 2;

/// The volume, open in one of the ways or not.
struct Side {
    session: Option<Session>,
    let_in: bool,
    mailbox: Mailbox<Notice>,
}

impl Side {
    fn new() -> io::Result<Side> {
        Ok(Side {
            session: None,
            let_in: false,
            mailbox: Mailbox::new()?,
        })
    }
}

struct Sides([Side; 2]);

impl Sides {
    fn side(&mut self, opener: u64) -> &mut Side {
        let [reader, writer] = &mut self.0;
        if opener == WRITER { writer } else { reader }
    }
}

impl Submit for Sides {
    fn submit(&mut self, opener: u64, tag: u64, request: Request) {
        let side = self.side(opener);
        match &side.session {
            Some(session) => session.submit(tag, request),
            None => {
                // Closed meanwhile: answer as the volume would.
                let result = Err(IoError::Io);
                side.mailbox.sender().send(Notice::Done {
                    tag,
                    result,
                    data: None,
                });
            }
        }
    }
}

/// The server of a queue.
pub(super) struct Server {
    volume: VolumeHandle,
    limits: Limits,
    link: Arc<Link>,
    device: Arc<OwnedFd>,
    queue: Queue,
    sides: Sides,
    requests: Requests<u16>,
    /// Slots whose request waits for an opener.
    parked: Vec<u16>,
    /// Slots whose write waits for buffers.
    starved: Vec<u16>,
    /// Slots that are with the driver or with us.
    slots: u16,
}

fn error_number(e: Failure) -> i32 {
    match e {
        Failure::Io(IoError::Io) => libc::EIO,
        Failure::Io(IoError::NotPrimary) => libc::EROFS,
        Failure::Io(IoError::Invalid) => libc::EINVAL,
        Failure::Io(IoError::NoSpace) => libc::ENOSPC,
        Failure::NotSupported => libc::EOPNOTSUPP,
    }
}

fn writes(op: IoOp) -> bool {
    matches!(
        op,
        IoOp::Write { .. } | IoOp::Discard | IoOp::WriteZeroes { .. }
    )
}

impl Server {
    /// To be called in the thread that goes on with [`Server::run`].
    pub(super) fn new(
        volume: VolumeHandle,
        link: Arc<Link>,
        device: Arc<OwnedFd>,
        depth: u16,
    ) -> io::Result<Server> {
        let mut queue = Queue::new(device.clone(), depth)?;
        queue.fetch()?;
        // The driver counts the fetches when the device is started.
        queue.wait(false, &mut Vec::new())?;
        Ok(Server {
            limits: volume.limits(),
            volume,
            link,
            device,
            queue,
            sides: Sides([Side::new()?, Side::new()?]),
            requests: Requests::default(),
            parked: Vec::new(),
            starved: Vec::new(),
            slots: depth,
        })
    }

    /// Serves until the device is stopped.
    pub(super) fn run(&mut self) -> io::Result<()> {
        for token in [READER, WRITER, POLL_LINK] {
            self.poll(token)?;
        }
        let (mut woken, mut notices) = (Vec::new(), Vec::new());
        while self.slots > 0 {
            let [reader, writer] = &self.sides.0;
            // Both have to be told, so that both ring.
            let idle = [reader, writer].map(|s| s.mailbox.prepare_sleep()) == [true, true];
            let waited = self.queue.wait(idle, &mut woken);
            self.sides.0.iter().for_each(|s| s.mailbox.awake());
            waited?;
            for event in woken.drain(..) {
                match event {
                    Woken::Slot(slot, 0) => self.request(slot)?,
                    // Stopped: the slot does not come back.
                    Woken::Slot(_, e) => {
                        self.slots -= 1;
                        if e != -libc::ENODEV {
                            tracing::warn!("ublk: the driver gave a slot back with error {}", -e);
                        }
                    }
                    Woken::Poll(token) => {
                        match token {
                            POLL_LINK => {
                                self.link.quiet();
                                self.close_if_unused();
                            }
                            opener => self.sides.side(opener).mailbox.quiet(),
                        }
                        self.poll(token)?;
                    }
                }
            }
            for opener in [READER, WRITER] {
                self.sides.side(opener).mailbox.drain(&mut notices);
                for notice in notices.drain(..) {
                    self.notice(opener, notice)?;
                }
            }
            for slot in std::mem::take(&mut self.starved) {
                self.request(slot)?;
            }
        }
        Ok(())
    }

    fn poll(&mut self, token: u64) -> io::Result<()> {
        let fd = match token {
            POLL_LINK => self.link.event().clone(),
            opener => self.sides.side(opener).mailbox.descriptor(),
        };
        self.queue.poll(token as u32, &fd)
    }

    fn notice(&mut self, opener: u64, notice: Notice) -> io::Result<()> {
        match notice {
            Notice::Opened(result) => {
                let side = self.sides.side(opener);
                side.let_in = result.is_ok();
                if side.let_in {
                    // When the device was made the volume had no disk yet.
                    self.limits = self.volume.limits();
                }
                if let Err(e) = result {
                    side.session = None;
                    tracing::info!(
                        write = opener == WRITER,
                        "the ublk device is not let in: {e}"
                    );
                }
                self.note_held();
                self.link.touched();
                for slot in std::mem::take(&mut self.parked) {
                    let write = writes(self.queue.request(slot).op);
                    if result.is_err() && write == (opener == WRITER) {
                        self.queue.commit(slot, -libc::EIO)?;
                    } else {
                        self.request(slot)?;
                    }
                }
            }
            Notice::Done { tag, result, data } => {
                let limits = self.limits;
                if let Some(done) = self
                    .requests
                    .done(&mut self.sides, &limits, tag, result, data)
                {
                    self.finish(done)?;
                }
            }
            Notice::Limits(limits) => {
                self.limits = limits;
                self.link.touched();
            }
            Notice::Gone => self.sides.side(opener).let_in = false,
        }
        Ok(())
    }

    fn close_if_unused(&mut self) {
        if self.link.in_use() {
            return;
        }
        if self.requests.len() > 0 || !self.parked.is_empty() {
            // An opener that is closed hears nothing any more: look again later.
            self.link.touched();
        } else {
            for side in self.sides.0.iter_mut().filter(|s| s.let_in) {
                side.session = None;
                side.let_in = false;
            }
        }
        self.note_held();
    }

    fn note_held(&self) {
        self.link
            .set_held(self.sides.0.iter().any(|side| side.session.is_some()));
    }

    /// The opener for a request; `None` if it is being opened.
    fn opener(&mut self, write: bool) -> Option<u64> {
        if self.sides.side(WRITER).let_in {
            return Some(WRITER);
        }
        let opener = if write { WRITER } else { READER };
        let volume = self.volume.clone();
        let side = self.sides.side(opener);
        if side.let_in {
            return Some(opener);
        }
        if side.session.is_none() {
            side.session = Some(volume.open(write, false, side.mailbox.sender()));
            self.note_held();
        }
        None
    }

    fn request(&mut self, slot: u16) -> io::Result<()> {
        let IoDesc {
            op,
            sector,
            sectors,
        } = self.queue.request(slot);
        let (offset, len) = (sector.saturating_mul(512), u64::from(sectors) * 512);
        let kind = match op {
            IoOp::Read => Kind::Read,
            IoOp::Write { fua } => Kind::Write { fua },
            IoOp::Flush => Kind::Flush,
            IoOp::Discard => Kind::Discard { fua: false },
            IoOp::WriteZeroes { unmap } => Kind::Zero { fua: false, unmap },
            IoOp::Unknown(op) => {
                tracing::warn!("ublk: request {op} is not known");
                return self.queue.commit(slot, -libc::EOPNOTSUPP);
            }
        };
        self.link.count_io();
        let Some(opener) = self.opener(writes(op)) else {
            self.parked.push(slot);
            return Ok(());
        };
        let mut data = Vec::new();
        if let Kind::Write { .. } = kind {
            match self.take_data(slot, len)? {
                Some(bufs) => data = bufs,
                None => {
                    self.starved.push(slot);
                    return Ok(());
                }
            }
        }
        let index = self.requests.insert(slot, opener, kind, offset, len);
        for buf in data {
            self.requests.write(&mut self.sides, index, buf);
        }
        match self.requests.advance(&mut self.sides, &self.limits, index) {
            Some(done) => self.finish(done),
            None => Ok(()),
        }
    }

    /// Copies the data of a write out of the block layer's pages; `None` if the pool has too few buffers.
    fn take_data(&mut self, slot: u16, len: u64) -> io::Result<Option<Vec<Buf>>> {
        let (pool, piece) = (self.volume.pool(), u64::from(data_piece(&self.limits)));
        pool.wake_on_release(self.sides.side(WRITER).mailbox.sender().waker());
        let mut bufs = Vec::new();
        let mut at = 0;
        while at < len {
            let part = piece.min(len - at) as usize;
            let Some(mut buf) = pool.alloc(part, Purpose::Application) else {
                return Ok(None);
            };
            let mut filled = 0;
            while let Some(rest) = buf.get_mut(filled..).filter(|r| !r.is_empty()) {
                let from = data_offset(slot) + at + filled as u64;
                match rustix::io::pread(&self.device, rest, from)? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    n => filled += n,
                }
            }
            bufs.push(buf.freeze());
            at += part as u64;
        }
        Ok(Some(bufs))
    }

    fn finish(&mut self, done: Finished<u16>) -> io::Result<()> {
        let slot = done.name;
        let mut result = match done.result {
            // What a request has moved, in bytes; of those without data, nothing is expected.
            Ok(()) => i32::try_from(done.len).unwrap_or(i32::MAX),
            Err(e) => -error_number(e),
        };
        if done.kind == Kind::Read && result > 0 {
            let mut at = data_offset(slot);
            for buf in done.into_data() {
                let mut rest: &[u8] = &buf;
                while !rest.is_empty() {
                    match rustix::io::pwrite(&self.device, rest, at) {
                        Ok(n) if n > 0 => {
                            at += n as u64;
                            rest = rest.get(n..).unwrap_or_default();
                        }
                        _ => {
                            result = -libc::EIO;
                            rest = &[];
                        }
                    }
                }
            }
        }
        self.queue.commit(slot, result)
    }
}
