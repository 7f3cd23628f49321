//! What the file and the loop device on top of it tell each other.
//!
//! The loop device keeps the file open all the time; whether *its* users want the volume open is seen by the thread
//! that watches it. The file's guest never waits for that thread, and the thread never holds anything the guest
//! needs.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// Shared by the guest of a file and the watcher of its loop device.
pub(crate) struct Link {
    /// The thread that opens the file for the loop device, while it does; 0: none.
    opener: AtomicU32,
    in_use: AtomicBool,
    ios: AtomicU64,
    to_guest: Arc<OwnedFd>,
    to_watcher: Arc<OwnedFd>,
}

impl Link {
    pub(crate) fn new() -> io::Result<Link> {
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map(Arc::new);
        Ok(Link {
            opener: AtomicU32::new(0),
            in_use: AtomicBool::new(false),
            ios: AtomicU64::new(0),
            to_guest: event()?,
            to_watcher: event()?,
        })
    }

    /// Whether a thread opens the file on behalf of the loop device.
    pub(super) fn is_loop_opener(&self, pid: u32) -> bool {
        pid != 0 && self.opener.load(Ordering::SeqCst) == pid
    }

    /// Runs `f`, during which opens of the calling thread are the loop device's.
    pub(crate) fn as_loop_opener<T>(&self, f: impl FnOnce() -> T) -> T {
        let me = rustix::thread::gettid().as_raw_pid();
        self.opener
            .store(u32::try_from(me).unwrap_or(0), Ordering::SeqCst);
        let result = f();
        self.opener.store(0, Ordering::SeqCst);
        result
    }

    /// Whether the loop device has users.
    pub(super) fn in_use(&self) -> bool {
        self.in_use.load(Ordering::SeqCst)
    }

    /// A request came through the loop device.
    pub(super) fn count_io(&self) {
        self.ios.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests that came through the loop device so far.
    pub(crate) fn ios(&self) -> u64 {
        self.ios.load(Ordering::Relaxed)
    }

    /// The watcher found out whether the loop device has users; the guest looks at every change to "no".
    pub(crate) fn set_in_use(&self, in_use: bool) {
        self.in_use.store(in_use, Ordering::SeqCst);
        if !in_use {
            ring(&self.to_guest);
        }
    }

    /// Becomes readable for the guest when [`Link::in_use`] may have changed.
    pub(super) fn event(&self) -> &Arc<OwnedFd> {
        &self.to_guest
    }

    /// Quiets [`Link::event`].
    pub(super) fn quiet(&self) {
        quiet(&self.to_guest);
    }

    /// The size changed, or the loop device's I/O opened the volume: the watcher should look.
    pub(super) fn touched(&self) {
        ring(&self.to_watcher);
    }

    /// Becomes readable for the watcher when it should look, or stop.
    pub(crate) fn watcher_event(&self) -> &Arc<OwnedFd> {
        &self.to_watcher
    }

    /// Wakes the watcher.
    pub(crate) fn wake_watcher(&self) {
        ring(&self.to_watcher);
    }

    /// Quiets [`Link::watcher_event`].
    pub(crate) fn watcher_quiet(&self) {
        quiet(&self.to_watcher);
    }
}

fn ring(event: &OwnedFd) {
    // A full counter means that it is readable anyway.
    let _ = rustix::io::write(event, &1u64.to_ne_bytes());
}

fn quiet(event: &OwnedFd) {
    let _ = rustix::io::read(event, &mut [0u8; 8][..]);
}
