//! The thread beside a loop device: it follows the size of the volume and tells the file's guest when the device has no
//! users any more.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::super::VolumeHandle;
use super::super::fuse::link::Link;
use super::users::Users;
use super::{Size, sys};

/// How long there must be no I/O after the last user has left.
const PAUSE: Duration = Duration::from_millis(10);
/// The same for users that cannot be seen, who may only be idle.
const UNSEEN_PAUSE: Duration = Duration::from_secs(5);
/// How often to look for what sends no event: swap and devices on top.
const LOOK: Duration = Duration::from_secs(1);

/// The thread. Dropping it ends it.
pub(super) struct Watcher {
    link: Arc<Link>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct Watch {
    link: Arc<Link>,
    volume: VolumeHandle,
    device: PathBuf,
    file: PathBuf,
    users: Users,
    size: Size,
}

impl Watcher {
    pub(super) fn start(
        link: Arc<Link>,
        volume: VolumeHandle,
        device: &Path,
        number: u32,
        file: &Path,
        size: Size,
    ) -> io::Result<Watcher> {
        let users = Users::watch(device, number)?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut watch = Watch {
            link: link.clone(),
            volume,
            device: device.to_owned(),
            file: file.to_owned(),
            users,
            size,
        };
        let thread = {
            let stop = stop.clone();
            std::thread::Builder::new()
                .name(format!("loop{number}"))
                .spawn(move || {
                    if let Err(e) = watch.run(&stop) {
                        tracing::error!("{} is not watched any more: {e}", watch.device.display());
                    }
                })?
        };
        Ok(Watcher {
            link,
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.link.wake_watcher();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Watch {
    fn run(&mut self, stop: &AtomicBool) -> io::Result<()> {
        let mounts = std::fs::File::open("/proc/self/mountinfo")?;
        // Whether somebody was seen since the guest was told that nobody is there.
        let (mut seen, mut pending, mut ios) = (false, false, 0);
        let mut timeout = Some(Duration::ZERO);
        loop {
            let spec = timeout.map(|t| Timespec {
                tv_sec: t.as_secs() as i64,
                tv_nsec: i64::from(t.subsec_nanos()),
            });
            let mut fds = [
                PollFd::new(self.link.watcher_event(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.users.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(mounts.as_fd(), PollFlags::PRI),
            ];
            let woken = match poll(&mut fds, spec.as_ref()) {
                Ok(n) => n > 0,
                Err(rustix::io::Errno::INTR) => true,
                Err(e) => return Err(e.into()),
            };
            if stop.load(Ordering::SeqCst) {
                return Ok(());
            }
            if woken {
                self.link.watcher_quiet();
                self.users.update();
                self.follow_size();
            }
            let any = self.users.any();
            if any {
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
        let size = Size::of(&self.volume.limits());
        if size == self.size {
            return;
        }
        match self.set_size(size) {
            Ok(()) => self.size = size,
            Err(e) => tracing::warn!(
                "{} cannot follow the size of {}: {e}",
                self.device.display(),
                self.file.display()
            ),
        }
    }

    fn set_size(&self, size: Size) -> io::Result<()> {
        // The loop driver takes the size that the kernel remembers of the file: make it ask.
        std::fs::metadata(&self.file)?;
        let device = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&self.device)?;
        if size.block != self.size.block && size.bytes > 0 {
            sys::set_block_size(&device, size.block)?;
        }
        sys::set_capacity(&device)
    }
}
