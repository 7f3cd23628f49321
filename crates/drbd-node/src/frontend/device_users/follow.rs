//! The thread beside a block device: it follows the size of the volume and tells the device's server when the device has no
//! users any more.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::doorway::Limits;

use super::super::VolumeHandle;
use super::{Link, Users};

/// How long there must be no I/O after the last user has left.
const PAUSE: Duration = Duration::from_millis(10);
/// The same for users that cannot be seen, who may only be idle. Less than auto-promote-timeout (2 s), for which a reader
/// here can hold up a promotion elsewhere (state machine, section 10.3).
const UNSEEN_PAUSE: Duration = Duration::from_secs(1);
/// How often to look for what sends no event: swap and devices on top.
const LOOK: Duration = Duration::from_secs(1);

/// How often to look whether the volume has a size by now, so that the device can appear: as long as nobody has it open, nobody
/// is told of its limits.
const LOOK_FOR_SIZE: Duration = Duration::from_millis(100);

/// How a device follows the limits of its volume.
pub(in super::super) trait FollowSize: Send + 'static {
    /// Called at the start and after changes. If the device has appeared now, returns the watch on its users.
    fn follow(&mut self, limits: &Limits) -> io::Result<Option<Users>>;

    /// The device, for log lines.
    fn device(&self) -> String;
}

/// The thread. Dropping it ends it.
pub(in super::super) struct Follower {
    link: Arc<Link>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct Follow<S> {
    link: Arc<Link>,
    volume: VolumeHandle,
    users: Option<Users>,
    size: S,
}

impl Follower {
    /// Starts the thread. `users` is there already if the device is.
    pub(in super::super) fn start(
        link: Arc<Link>,
        volume: VolumeHandle,
        users: Option<Users>,
        size: impl FollowSize,
    ) -> io::Result<Follower> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut follow = Follow {
            link: link.clone(),
            volume,
            users,
            size,
        };
        let thread = {
            let stop = stop.clone();
            std::thread::Builder::new()
                .name("device-users".into())
                .spawn(move || {
                    if let Err(e) = follow.run(&stop) {
                        tracing::error!("{} is not watched any more: {e}", follow.size.device());
                    }
                })?
        };
        Ok(Follower {
            link,
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.link.wake_follower();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl<S: FollowSize> Follow<S> {
    fn run(&mut self, stop: &AtomicBool) -> io::Result<()> {
        let mounts = std::fs::File::open("/proc/self/mountinfo")?;
        // Whether somebody was seen since the server was told that nobody is there.
        let (mut seen, mut pending, mut ios) = (false, false, 0);
        let mut timeout = Some(Duration::ZERO);
        self.follow_size();
        loop {
            let wait = match &self.users {
                Some(_) => timeout,
                None => Some(timeout.map_or(LOOK_FOR_SIZE, |t| t.min(LOOK_FOR_SIZE))),
            };
            let spec = wait.map(|t| Timespec {
                tv_sec: i64::try_from(t.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(t.subsec_nanos()),
            });
            let link = self.link.follower_event();
            let mut fds = vec![
                PollFd::new(link, PollFlags::IN),
                PollFd::from_borrowed_fd(mounts.as_fd(), PollFlags::PRI),
            ];
            if let Some(users) = &self.users {
                fds.push(PollFd::from_borrowed_fd(users.as_fd(), PollFlags::IN));
            }
            let woken = match poll(&mut fds, spec.as_ref()) {
                Ok(n) => n > 0,
                Err(rustix::io::Errno::INTR) => true,
                Err(e) => return Err(e.into()),
            };
            if stop.load(Ordering::SeqCst) {
                return Ok(());
            }
            if woken {
                self.link.follower_quiet();
                if let Some(users) = &mut self.users {
                    users.update();
                }
            }
            if woken || self.users.is_none() {
                self.follow_size();
            }
            if self.users.as_ref().is_some_and(Users::any) {
                self.link.set_in_use(true);
                (seen, pending) = (true, false);
                timeout = Some(LOOK);
                continue;
            }
            // Nobody is there. What was written may still be on its way.
            let now = self.link.ios();
            if pending && !woken && now == ios {
                self.link.set_in_use(false);
                (seen, pending) = (false, false);
                timeout = None;
            } else {
                (pending, ios) = (true, now);
                timeout = Some(if seen { PAUSE } else { UNSEEN_PAUSE });
            }
        }
    }

    fn follow_size(&mut self) {
        match self.size.follow(&self.volume.limits()) {
            Ok(None) => {}
            Ok(users) => self.users = users,
            Err(e) => {
                let volume = self.volume.volume();
                tracing::warn!(
                    "{} cannot follow the size of {}/{}: {e}",
                    self.size.device(),
                    volume.resource,
                    volume.volume.to_wire()
                );
            }
        }
    }
}
