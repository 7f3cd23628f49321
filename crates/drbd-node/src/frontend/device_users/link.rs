//! What the server of a block device and the thread that follows its users tell each other.
//!
//! Neither waits for the other: the thread must never hold what the server needs to serve the device.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// Shared by the server of a device and the thread that follows its users.
pub(in super::super) struct Link {
    /// The thread that opens the file for the loop device, while it does; 0: none.
    opener: AtomicU32,
    in_use: AtomicBool,
    ios: AtomicU64,
    to_server: Arc<OwnedFd>,
    to_follower: Arc<OwnedFd>,
}

impl Link {
    pub(in super::super) fn new() -> io::Result<Link> {
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map(Arc::new);
        Ok(Link {
            opener: AtomicU32::new(0),
            in_use: AtomicBool::new(false),
            ios: AtomicU64::new(0),
            to_server: event()?,
            to_follower: event()?,
        })
    }

    /// Whether a thread opens the file on behalf of the loop device.
    pub(in super::super) fn is_loop_opener(&self, pid: u32) -> bool {
        pid != 0 && self.opener.load(Ordering::SeqCst) == pid
    }

    /// Runs `f`, during which opens of the calling thread are the loop device's.
    pub(in super::super) fn as_loop_opener<T>(&self, f: impl FnOnce() -> T) -> T {
        let me = rustix::thread::gettid().as_raw_pid();
        self.opener
            .store(u32::try_from(me).unwrap_or(0), Ordering::SeqCst);
        let result = f();
        self.opener.store(0, Ordering::SeqCst);
        result
    }

    /// Whether the loop device has users.
    pub(in super::super) fn in_use(&self) -> bool {
        self.in_use.load(Ordering::SeqCst)
    }

    /// A request came through the loop device.
    pub(in super::super) fn count_io(&self) {
        self.ios.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests that came through the loop device so far.
    pub(in super::super) fn ios(&self) -> u64 {
        self.ios.load(Ordering::Relaxed)
    }

    /// The follower found out whether the loop device has users; the server looks at every change to "no".
    pub(in super::super) fn set_in_use(&self, in_use: bool) {
        self.in_use.store(in_use, Ordering::SeqCst);
        if !in_use {
            ring(&self.to_server);
        }
    }

    /// Becomes readable for the server when [`Link::in_use`] may have changed.
    pub(in super::super) fn event(&self) -> &Arc<OwnedFd> {
        &self.to_server
    }

    /// Quiets [`Link::event`].
    pub(in super::super) fn quiet(&self) {
        quiet(&self.to_server);
    }

    /// The size changed, or the loop device's I/O opened the volume: the follower should look.
    pub(in super::super) fn touched(&self) {
        ring(&self.to_follower);
    }

    /// Becomes readable for the follower when it should look, or stop.
    pub(in super::super) fn follower_event(&self) -> &Arc<OwnedFd> {
        &self.to_follower
    }

    /// Wakes the follower.
    pub(in super::super) fn wake_follower(&self) {
        ring(&self.to_follower);
    }

    /// Quiets [`Link::follower_event`].
    pub(in super::super) fn follower_quiet(&self) {
        quiet(&self.to_follower);
    }
}

fn ring(event: &OwnedFd) {
    // A full counter means that it is readable anyway.
    let _ = rustix::io::write(event, &1u64.to_ne_bytes());
}

fn quiet(event: &OwnedFd) {
    let _ = rustix::io::read(event, &mut [0u8; 8][..]);
}
