//! The loop device: a real block device, `/dev/loopN`, on top of the FUSE file, where the kernel has neither ublk
//! nor nbd.
//!
//! The loop driver keeps the file open all the time. So that the volume can still be demoted and promoted as if its users
//! opened it themselves, the file is open for the loop device only in name; the first read or write opens the volume, and
//! it is closed when the device has no users any more. Auto-promote thus happens at the first write, and
//! where it is refused, that write fails.
//!
//! An open cannot be held until the promotion is decided. Permission events of fanotify, which could do that, come with an
//! open file, and the kernel has such events for regular files and directories only: a mark with `FAN_OPEN_PERM` on a
//! device node is accepted, alone or for the whole file system, and nothing ever arrives (tried with Linux 6.18). Groups
//! that report handles instead of files (`FAN_REPORT_FID`) may not ask for permission events. inotify tells of opens and
//! closes of the node, after the fact; it is what the last user is known by.
//!
//! When the daemon is killed, the device stays with its users, fails their I/O, and is taken away at the next start
//! ([`remove_stale`]). The daemon never keeps the device open, because a process that serves a device must not be the
//! one whose last close writes back what is cached.

mod sys;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::doorway::Limits;

use super::device_users::{FollowSize, Follower, Link, Users};
use super::fuse::{FuseFrontend, Mounted};
use super::{Attached, Frontend, VolumeHandle};

/// Major number of loop devices.
const MAJOR: u32 = 7;

/// Tells the kernel that this process serves block devices, so that its allocations never wait for its own device. Call
/// it first of all, before threads are started. Needs privileges; without them the system must not be driven out of
/// memory.
///
/// # Errors
/// When it is not permitted or the kernel is older than 5.6.
pub fn set_io_flusher() -> io::Result<()> {
    sys::set_io_flusher()
}

/// What the driver has to know of the limits.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Size {
    bytes: u64,
    block: u32,
}

impl Size {
    fn of(limits: &Limits) -> Size {
        Size {
            bytes: limits.sectors.saturating_mul(512),
            block: limits.logical_block.max(512),
        }
    }
}

/// Offers every volume as a file and as a loop device on top.
pub struct LoopFrontend {
    fuse: FuseFrontend,
}

impl LoopFrontend {
    /// Files appear below `<run_dir>/fuse`.
    ///
    /// # Errors
    /// When there is no loop driver, or FUSE or the driver may not be used.
    pub fn new(run_dir: &Path) -> io::Result<LoopFrontend> {
        open_control()?;
        Ok(LoopFrontend {
            fuse: FuseFrontend::new(run_dir)?,
        })
    }
}

fn open_control() -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/loop-control")
        .map_err(|e| io::Error::new(e.kind(), format!("/dev/loop-control: {e}")))
}

/// A volume that is offered as a loop device. The order of the fields is the order of taking it down.
struct Attachment {
    link: Arc<Link>,
    follower: Follower,
    device: Device,
    mounted: Mounted,
}

/// A loop device on a file. Dropping it takes it off: at once, or when its last user has gone.
struct Device {
    path: PathBuf,
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Err(e) = take_off(&self.path) {
            tracing::warn!("cannot take {} off its file: {e}", self.path.display());
        }
    }
}

fn take_off(device: &Path) -> io::Result<()> {
    let device = OpenOptions::new().read(true).open(device)?;
    match sys::clear(&device) {
        Err(e) if e.raw_os_error() == Some(libc::ENXIO) => Ok(()),
        result => result,
    }
}

impl Device {
    /// Puts a free loop device on an open file.
    fn set_up(file: &File, block: u32, name: &str) -> io::Result<(Device, Users)> {
        let control = open_control()?;
        for _ in 0..64 {
            let number = sys::get_free(&control)?;
            let path = node(number)?;
            // From before the device is announced: those who look at every new device are counted.
            let users = Users::watch(&path)?;
            let device = OpenOptions::new().read(true).write(true).open(&path)?;
            match sys::configure(&device, file, block, name) {
                Ok(()) => return Ok((Device { path }, users)),
                // Somebody else was faster: take the next.
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {}
                Err(e) => {
                    let what = format!("{}: LOOP_CONFIGURE: {e}", path.display());
                    return Err(io::Error::new(e.kind(), what));
                }
            }
        }
        Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "no loop device stays free",
        ))
    }
}

/// The device node of a loop device, made here if nobody else makes it.
fn node(number: u32) -> io::Result<PathBuf> {
    let path = PathBuf::from(format!("/dev/loop{number}"));
    for _ in 0..20 {
        if std::fs::metadata(&path).is_ok_and(|m| m.file_type().is_block_device()) {
            return Ok(path);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let device = rustix::fs::makedev(MAJOR, number);
    let mode = rustix::fs::Mode::from_raw_mode(0o660);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::BlockDevice,
        mode,
        device,
    )?;
    Ok(path)
}

/// Takes loop devices off files below `<run_dir>/fuse` whose daemon is gone, and unmounts the files. Those of a daemon
/// that lives must not be there: ask only when no other daemon uses this directory.
///
/// # Errors
/// When `/sys` or the mounts cannot be read. What cannot be removed is logged.
pub fn remove_stale(run_dir: &Path) -> io::Result<()> {
    let dir = std::fs::canonicalize(run_dir)?.join("fuse");
    for entry in std::fs::read_dir("/sys/block")? {
        let name = entry?.file_name();
        let Some(name) = name.to_str().filter(|n| n.starts_with("loop")) else {
            continue;
        };
        let file = std::fs::read_to_string(format!("/sys/block/{name}/loop/backing_file"));
        if file.is_ok_and(|f| Path::new(f.trim_end()).starts_with(&dir)) {
            match take_off(Path::new(&format!("/dev/{name}"))) {
                Ok(()) => tracing::info!("took the stale device /dev/{name} off its file"),
                Err(e) => tracing::warn!("cannot take the stale device /dev/{name} off: {e}"),
            }
        }
    }
    super::fuse::remove_stale(&dir)
}

/// The file that a loop device is on; `None` for anything else.
pub(super) fn backing_file(device: &Path) -> Option<PathBuf> {
    let meta = std::fs::metadata(device).ok()?;
    if !meta.file_type().is_block_device() || rustix::fs::major(meta.rdev()) != MAJOR {
        return None;
    }
    let number = rustix::fs::minor(meta.rdev());
    let file = format!("/sys/dev/block/{MAJOR}:{number}/loop/backing_file");
    let file = std::fs::read_to_string(file).ok()?;
    Some(PathBuf::from(file.trim_end()))
}

impl Frontend for LoopFrontend {
    fn name(&self) -> &'static str {
        "loop"
    }

    fn attach(&self, volume: VolumeHandle) -> io::Result<Box<dyn Attached>> {
        let (mounted, link) = self.fuse.mount(&volume)?;
        let size = Size::of(&volume.limits());
        let v = volume.volume();
        let name = format!("{}/{}", v.resource, v.volume.to_wire());
        let open = || {
            OpenOptions::new()
                .read(true)
                .write(true)
                .open(mounted.path())
        };
        let file = link.as_loop_opener(open)?;
        let (device, users) = Device::set_up(&file, size.block, &name)?;
        drop(file);
        let loop_size = LoopSize {
            device: device.path.clone(),
            file: mounted.path().to_owned(),
            size,
        };
        let follower = Follower::start(link.clone(), volume, Some(users), loop_size)?;
        Ok(Box::new(Attachment {
            link,
            follower,
            device,
            mounted,
        }))
    }

    fn serves(&self, path: &Path) -> bool {
        self.fuse.serves(path)
    }
}

impl Attached for Attachment {
    fn place(&self) -> String {
        format!(
            "{} on {}",
            self.device.path.display(),
            self.mounted.path().display()
        )
    }

    fn device(&self) -> Option<PathBuf> {
        Some(self.device.path.clone())
    }

    fn release_unused(&self) {
        self.link.release_unused();
    }

    fn detach(self: Box<Self>) {
        let Attachment {
            follower,
            device,
            mounted,
            ..
        } = *self;
        drop(follower);
        drop(device);
        Box::new(mounted).detach();
    }
}

/// The size of a loop device.
struct LoopSize {
    device: PathBuf,
    file: PathBuf,
    size: Size,
}

impl FollowSize for LoopSize {
    fn follow(&mut self, limits: &Limits) -> io::Result<Option<Users>> {
        let size = Size::of(limits);
        if size == self.size {
            return Ok(None);
        }
        // The loop driver takes the size that the kernel remembers of the file: make it ask. The file may not have heard of
        // the new size yet; when it has, this is called again.
        if std::fs::metadata(&self.file)?.len() != size.bytes {
            return Ok(None);
        }
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&self.device)?;
        if size.block != self.size.block && size.bytes > 0 {
            sys::set_block_size(&device, size.block)?;
        }
        sys::set_capacity(&device)?;
        self.size = size;
        Ok(None)
    }

    fn device(&self) -> String {
        self.device.display().to_string()
    }
}
