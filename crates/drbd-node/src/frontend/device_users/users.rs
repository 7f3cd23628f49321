//! Who uses a block device.
//!
//! The drivers do not tell. Programs that open the device node are counted with inotify; what the kernel holds
//! itself - mounts, swap, devices on top - is looked up. Users in other mount name spaces are seen by neither: their
//! I/O is.
//!
//! The device itself is never opened to find out: if it were the last opener, closing it would write back what is
//! cached, through this very process.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

/// Watches the users of one device.
pub(in super::super) struct Users {
    inotify: OwnedFd,
    open: u64,
    device: PathBuf,
    /// Major and minor number, as the kernel writes them.
    numbers: String,
    /// Devices on top.
    holders: PathBuf,
}

impl Users {
    pub(in super::super) fn watch(device: &Path) -> io::Result<Users> {
        let meta = std::fs::metadata(device)?;
        if !meta.file_type().is_block_device() {
            return Err(io::Error::other(format!(
                "{} is no block device",
                device.display()
            )));
        }
        let (major, minor) = (
            rustix::fs::major(meta.rdev()),
            rustix::fs::minor(meta.rdev()),
        );
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let events = WatchFlags::OPEN | WatchFlags::CLOSE_WRITE | WatchFlags::CLOSE_NOWRITE;
        inotify::add_watch(&inotify, device, events)?;
        Ok(Users {
            inotify,
            open: 0,
            device: device.to_owned(),
            numbers: format!("{major}:{minor}"),
            holders: format!("/sys/dev/block/{major}:{minor}/holders").into(),
        })
    }

    /// Becomes readable when somebody opens or closes.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// Counts who came and went.
    pub(super) fn update(&mut self) {
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.inotify, &mut space);
        while let Ok(event) = reader.next() {
            let what = event.events();
            if what.contains(ReadFlags::OPEN) {
                self.open += 1;
            } else if what.intersects(ReadFlags::CLOSE_WRITE | ReadFlags::CLOSE_NOWRITE) {
                self.open = self.open.saturating_sub(1);
            } else if what.contains(ReadFlags::QUEUE_OVERFLOW) {
                // Lost count. Those who are there show by their I/O.
                self.open = 0;
            }
        }
    }

    /// Whether there are users, as far as can be seen.
    pub(super) fn any(&self) -> bool {
        self.open > 0 || self.held_by_kernel()
    }

    fn held_by_kernel(&self) -> bool {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        std::fs::read_dir(&self.holders).is_ok_and(|mut dir| dir.next().is_some())
            || is_mounted(&read("/proc/self/mountinfo"), &self.device, &self.numbers)
            || is_swap(&read("/proc/swaps"), &self.device)
    }
}

fn is_mounted(mountinfo: &str, device: &Path, numbers: &str) -> bool {
    mountinfo.lines().any(|line| {
        let Some((mount, file_system)) = line.split_once(" - ") else {
            return false;
        };
        // Some file systems have numbers of their own; then the source tells.
        mount.split(' ').nth(2) == Some(numbers)
            || file_system
                .split(' ')
                .nth(1)
                .is_some_and(|source| Path::new(source) == device)
    })
}

fn is_swap(swaps: &str, device: &Path) -> bool {
    swaps
        .lines()
        .any(|line| line.split_whitespace().next().map(Path::new) == Some(device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_and_swap() {
        let info =
            "40 1 7:3 / /mnt rw - ext4 /dev/loop3 rw\n41 1 0:50 / /b rw - btrfs /dev/loop4 rw\n";
        let loop_n = |n: u32| PathBuf::from(format!("/dev/loop{n}"));
        assert!(is_mounted(info, &loop_n(3), "7:3"));
        assert!(is_mounted(info, &loop_n(4), "7:4"));
        assert!(!is_mounted(info, &loop_n(33), "7:33"));
        let swaps =
            "Filename\t\tType\nn/dev/x partition\n/dev/loop5                partition 1 0 -2\n";
        assert!(is_swap(swaps, &loop_n(5)) && !is_swap(swaps, &loop_n(50)));
    }
}
