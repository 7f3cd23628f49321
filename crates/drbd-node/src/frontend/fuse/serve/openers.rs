//! Who has the file open: programs, and the loop device on behalf of its users.

use std::collections::{HashMap, VecDeque};

use rustix::io::Errno;

use crate::doorway::OpenError;

use super::super::super::GuestContext;
use super::super::super::requests::Kind;
use super::super::codec::open_reply;
use super::{File, Io};

/// Openers for what comes through the loop device; those of programs are numbered from 1.
const LOOP_READ: u64 = u64::MAX - 1;
const LOOP_WRITE: u64 = u64::MAX;

/// An open file of a program, or of the loop device.
pub(super) enum Open {
    /// The volume has not answered yet.
    Waiting { unique: u64 },
    /// A program's.
    Program,
    /// The loop device's: opened for as long as the loop device is in use.
    Loop,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum LoopOpener {
    Closed,
    Opening,
    Open,
}

/// All openers of a file.
pub(super) struct Openers {
    pub(super) files: HashMap<u64, Open>,
    next: u64,
    loop_read: LoopOpener,
    loop_write: LoopOpener,
    /// Requests of the loop device that wait for its opener.
    parked: VecDeque<Io>,
    /// The loop device has no users, but requests are under way.
    close_when_idle: bool,
}

impl Default for Openers {
    fn default() -> Openers {
        Openers {
            files: HashMap::new(),
            next: 1,
            loop_read: LoopOpener::Closed,
            loop_write: LoopOpener::Closed,
            parked: VecDeque::new(),
            close_when_idle: false,
        }
    }
}

fn open_errno(e: OpenError) -> Errno {
    match e {
        OpenError::ReadOnly => Errno::ROFS,
        OpenError::ForeignPrimary => Errno::MEDIUMTYPE,
        OpenError::NoData => Errno::NODATA,
        OpenError::FailIo => Errno::NOTRECOVERABLE,
        OpenError::Busy => Errno::AGAIN,
        OpenError::NoVolume => Errno::NXIO,
    }
}

impl File {
    /// Opens the file.
    pub(super) fn open(&mut self, cx: &mut GuestContext<'_>, unique: u64, pid: u32, flags: u32) {
        let fh = self.openers.next;
        self.openers.next += 1;
        if self.link.is_loop_opener(pid) {
            self.openers.files.insert(fh, Open::Loop);
            return self.reply(unique, &open_reply(fh));
        }
        self.openers.files.insert(fh, Open::Waiting { unique });
        let write = flags & libc::O_ACCMODE as u32 != libc::O_RDONLY as u32;
        cx.open(fh, write, flags & libc::O_NONBLOCK as u32 != 0);
    }

    /// Hands a request to the volume, or notes it until the loop device's opener is let in.
    pub(super) fn begin(&mut self, cx: &mut GuestContext<'_>, fh: u64, request: Io) {
        match self.openers.files.get(&fh) {
            Some(Open::Program) => self.in_turn(cx, fh, request),
            Some(Open::Loop) => {
                self.link.count_io();
                match self.loop_opener(cx, &request) {
                    Some(opener) => self.in_turn(cx, opener, request),
                    None => self.openers.parked.push_back(request),
                }
            }
            _ => self.error(request.name.unique, Errno::BADF),
        }
    }

    /// The opener for a request of the loop device; `None` if it is being opened.
    fn loop_opener(&mut self, cx: &mut GuestContext<'_>, request: &Io) -> Option<u64> {
        if self.openers.loop_write == LoopOpener::Open {
            return Some(LOOP_WRITE);
        }
        // A flush with no writer has nothing to flush, but must not promote.
        let write = !matches!(request.kind, Kind::Read | Kind::Flush);
        let (state, opener) = if write {
            (&mut self.openers.loop_write, LOOP_WRITE)
        } else {
            (&mut self.openers.loop_read, LOOP_READ)
        };
        if *state == LoopOpener::Open {
            return Some(opener);
        }
        if *state == LoopOpener::Closed {
            *state = LoopOpener::Opening;
            self.link.set_held(true);
            cx.open(opener, write, false);
        }
        None
    }

    /// The loop device is in use, or not any more.
    pub(super) fn link_changed(&mut self, cx: &mut GuestContext<'_>) {
        self.openers.close_when_idle = false;
        if self.link.in_use() {
            return;
        }
        // An opener that is closed hears nothing any more.
        if self.requests.len() > 0 || !self.openers.parked.is_empty() {
            self.openers.close_when_idle = true;
            return;
        }
        for (state, opener) in [
            (&mut self.openers.loop_read, LOOP_READ),
            (&mut self.openers.loop_write, LOOP_WRITE),
        ] {
            if *state == LoopOpener::Open {
                *state = LoopOpener::Closed;
                cx.close(opener);
            }
        }
        self.note_held();
    }

    /// A request has ended.
    pub(super) fn maybe_idle(&mut self, cx: &mut GuestContext<'_>) {
        if self.openers.close_when_idle && self.requests.len() == 0 {
            self.link_changed(cx);
        }
    }

    fn note_held(&self) {
        let Openers {
            loop_read,
            loop_write,
            ..
        } = &self.openers;
        let held = [loop_read, loop_write]
            .iter()
            .any(|state| **state != LoopOpener::Closed);
        self.link.set_held(held);
    }

    /// The volume has let an opener in, or not.
    pub(super) fn let_in(
        &mut self,
        cx: &mut GuestContext<'_>,
        opener: u64,
        result: Result<(), OpenError>,
    ) {
        if opener != LOOP_READ && opener != LOOP_WRITE {
            let Some(open) = self.openers.files.get_mut(&opener) else {
                return;
            };
            let Open::Waiting { unique } = *open else {
                return;
            };
            *open = Open::Program;
            match result {
                Ok(()) => self.reply(unique, &open_reply(opener)),
                Err(e) => {
                    self.openers.files.remove(&opener);
                    self.error(unique, open_errno(e));
                }
            }
            return;
        }
        let state = if opener == LOOP_WRITE {
            &mut self.openers.loop_write
        } else {
            &mut self.openers.loop_read
        };
        *state = if result.is_ok() {
            LoopOpener::Open
        } else {
            LoopOpener::Closed
        };
        if let Err(e) = result {
            let how = if opener == LOOP_WRITE {
                "writing"
            } else {
                "reading"
            };
            tracing::info!(
                "{}: the loop device is not let in for {how}: {e}",
                self.about
            );
        }
        self.note_held();
        for request in std::mem::take(&mut self.openers.parked) {
            let write = !matches!(request.kind, Kind::Read | Kind::Flush);
            match result {
                Ok(()) if opener == LOOP_WRITE || !write => self.in_turn(cx, opener, request),
                Err(e) if write == (opener == LOOP_WRITE) => {
                    self.error(request.name.unique, open_errno(e));
                }
                _ => self.openers.parked.push_back(request),
            }
        }
        self.link.touched();
    }
}
