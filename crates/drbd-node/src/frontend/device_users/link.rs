//! What the server of a block device and the thread that follows its users tell each other.
//!
//! Neither waits for the other: the thread must never hold what the server needs to serve the device.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};

/// How long to wait for a device that nobody uses to be closed.
const RELEASE: Duration = Duration::from_secs(1);

/// Shared by the server of a device and the thread that follows its users.
pub(in super::super) struct Link {
    /// The thread that opens the file for the loop device, while it does; 0: none.
    opener: AtomicU32,
    in_use: AtomicBool,
    ios: AtomicU64,
    /// The volume is open on behalf of the device's users.
    held: AtomicBool,
    /// How often the follower has seen users.
    seen: AtomicU64,
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
            held: AtomicBool::new(false),
            seen: AtomicU64::new(0),
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
        if in_use {
            self.seen.fetch_add(1, Ordering::SeqCst);
        } else {
            ring(&self.to_server);
        }
    }

    /// The server has opened the volume for the device's users, or closed it.
    pub(in super::super) fn set_held(&self, held: bool) {
        self.held.store(held, Ordering::SeqCst);
    }

    /// Waits until the volume is closed, if the device has no users any more: the last of them may have left a moment ago.
    pub(in super::super) fn release_unused(&self) {
        let start = Instant::now();
        let mut seen = self.seen.load(Ordering::SeqCst);
        // The follower may be in the middle of a look that began before: only the second counts.
        for _ in 0..2 {
            self.wake_follower();
            loop {
                if !self.held.load(Ordering::SeqCst) || start.elapsed() > RELEASE {
                    return;
                }
                let now = self.seen.load(Ordering::SeqCst);
                if now != seen {
                    seen = now;
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
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
