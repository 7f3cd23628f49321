//! Backing devices: where the data and the metadata of a volume lie.
//!
//! A backing device is a block device or a regular file. It is opened with `O_DIRECT`, so that what is complete has
//! left this machine's memory, and claimed, so that nobody else writes it: block devices with `O_EXCL` (which also
//! fails while they are mounted), files with an exclusive `flock`. A file system that cannot do direct I/O is used
//! without, which is logged; flushes keep their meaning.
//!
//! How the flags of a request reach the device:
//!
//! | asked for | done |
//! | --- | --- |
//! | FUA | the write carries `RWF_DSYNC`; the kernel uses the device's FUA or writes and flushes |
//! | PREFLUSH, flush | `fdatasync`, which flushes the volatile cache of the device below |
//! | PREFLUSH of a metadata barrier | `fdatasync` of the metadata device, left out when nothing was written to that device without FUA since the last one |
//! | zero-out | `fallocate(FALLOC_FL_PUNCH_HOLE)` if space may be given back, else or if that fails `FALLOC_FL_ZERO_RANGE`; if the device knows neither, zeroes are written |
//! | discard | `BLKDISCARD` on devices (in a helper thread, as it blocks), `FALLOC_FL_PUNCH_HOLE` on files |

use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, FlockOperation, StatxFlags, flock, statx};

use crate::ring::Fd;

mod discard;
mod ioctl;
mod job;
#[cfg(test)]
mod tests;

pub use discard::{Piece, plan};
pub use job::{Disks, Finished, Job, Output};

/// Largest single discard or zero-out in bytes: 2^22 sectors (data path, section 10.2).
pub const MAX_DISCARD: u32 = 1 << 31;

/// The type of `tmpfs`, as `fstatfs` reports it.
const TMPFS: rustix::fs::FsWord = 0x0102_1994;

/// Why a device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It could not be opened or measured.
    #[error("cannot open {path}: {error}", path = path.display())]
    Open {
        /// The device.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// Neither a block device nor a regular file.
    #[error("{} is neither a block device nor a regular file", .0.display())]
    Kind(PathBuf),
    /// Somebody else uses it.
    #[error("{} is in use: it is mounted, or another resource or program has claimed it", .0.display())]
    Claimed(PathBuf),
}

/// An open, claimed device.
#[derive(Debug)]
pub struct Device {
    /// The descriptor of all I/O.
    pub fd: Fd,
    /// As it was named.
    pub path: PathBuf,
    /// A block device, not a file.
    pub is_block: bool,
    /// Size in bytes.
    pub bytes: u64,
    /// Logical block size in bytes: the alignment of all I/O.
    pub logical_block: u32,
    /// Physical block size in bytes.
    pub physical_block: u32,
    /// Discard granularity in bytes; 0: it cannot discard.
    pub discard_granularity: u32,
    /// Offset of the discard granularity's grid, in bytes.
    pub discard_alignment: u32,
    /// Largest discard in bytes.
    pub max_discard: u32,
    /// It has a volatile write cache.
    pub volatile_cache: bool,
    /// A file that lies in memory: `io_uring` would hand each operation to a thread, which costs more than to copy.
    in_memory: bool,
    /// Something was written without FUA since the last flush.
    dirty: AtomicBool,
}

/// The devices of one volume.
#[derive(Clone, Debug)]
pub struct Backing {
    /// The data.
    pub data: Arc<Device>,
    /// The metadata; the same device if the metadata is internal.
    pub meta: Arc<Device>,
}

impl Device {
    /// Opens, claims and measures a device.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(path: &Path) -> Result<Device, OpenError> {
        let failed = |error: io::Error| OpenError::Open {
            path: path.to_owned(),
            error,
        };
        let kind = std::fs::metadata(path).map_err(failed)?.file_type();
        let is_block = kind.is_block_device();
        if !is_block && !kind.is_file() {
            return Err(OpenError::Kind(path.to_owned()));
        }
        let exclusive = if is_block { libc::O_EXCL } else { 0 };
        let open = |direct: i32| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(direct | exclusive | libc::O_CLOEXEC)
                .open(path)
        };
        let file = match open(libc::O_DIRECT) {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                tracing::warn!(
                    "{}: no direct I/O on this file system, the page cache is used",
                    path.display()
                );
                open(0)
            }
            other => other,
        };
        let file = file.map_err(|e| match e.raw_os_error() {
            Some(libc::EBUSY) => OpenError::Claimed(path.to_owned()),
            _ => failed(e),
        })?;
        if !is_block && flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(OpenError::Claimed(path.to_owned()));
        }
        // Each direct write would have to look for pages of its range in the cache and throw them out. This is advice:
        // a failure means nothing.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        Device::measure(file, path, is_block).map_err(failed)
    }

    fn measure(mut file: File, path: &Path, is_block: bool) -> io::Result<Device> {
        let bytes = file.seek(SeekFrom::End(0))?;
        let metadata = file.metadata()?;
        let mut device = Device {
            fd: Arc::new(OwnedFd::from(file)),
            path: path.to_owned(),
            is_block,
            bytes,
            logical_block: 512,
            physical_block: 4096,
            discard_granularity: 4096,
            discard_alignment: 0,
            max_discard: MAX_DISCARD,
            volatile_cache: true,
            in_memory: false,
            dirty: AtomicBool::new(true),
        };
        if is_block {
            device.logical_block = rustix::fs::ioctl_blksszget(&device.fd)?;
            device.physical_block = rustix::fs::ioctl_blkpbszget(&device.fd)?;
            device.read_queue_limits(metadata.rdev());
        } else {
            device.logical_block = direct_alignment(&device.fd).unwrap_or(512).clamp(512, 4096);
            device.physical_block = u32::try_from(metadata.blksize())
                .unwrap_or(4096)
                .clamp(512, 4096);
            device.discard_granularity = device.physical_block;
            device.in_memory = rustix::fs::fstatfs(&device.fd).is_ok_and(|s| s.f_type == TMPFS);
        }
        Ok(device)
    }

    /// Limits only sysfs knows. A device it does not know cannot discard.
    fn read_queue_limits(&mut self, rdev: u64) {
        let (major, minor) = (rustix::fs::major(rdev), rustix::fs::minor(rdev));
        let base = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
        let number = |name: &str| {
            // A partition has its disk's queue one level up.
            let text = [
                base.join("queue").join(name),
                base.join("../queue").join(name),
                base.join(name),
            ]
            .iter()
            .find_map(|path| std::fs::read_to_string(path).ok())?;
            text.trim().parse::<u64>().ok()
        };
        let limit = |value: Option<u64>| u32::try_from(value.unwrap_or(0)).unwrap_or(u32::MAX);
        self.max_discard = limit(number("discard_max_bytes")).min(MAX_DISCARD);
        self.discard_granularity = limit(number("discard_granularity"));
        self.discard_alignment = limit(number("discard_alignment"));
        if self.max_discard == 0 || self.discard_granularity == 0 {
            (self.max_discard, self.discard_granularity) = (0, 0);
        }
        let cache = [
            base.join("queue/write_cache"),
            base.join("../queue/write_cache"),
        ];
        let cache = cache
            .iter()
            .find_map(|path| std::fs::read_to_string(path).ok());
        self.volatile_cache = cache.is_none_or(|text| text.trim() != "write through");
    }

    /// Size in bytes as it is now: the device may have grown.
    ///
    /// # Errors
    /// The system call failed.
    pub fn size(&self) -> io::Result<u64> {
        rustix::fs::seek(&self.fd, rustix::fs::SeekFrom::End(0)).map_err(io::Error::from)
    }

    /// Notes a write without FUA.
    fn wrote(&self) {
        self.dirty.store(true, Ordering::Relaxed);
    }

    /// Whether a flush is needed to have everything on stable storage; from now on it counts as done.
    fn take_dirty(&self) -> bool {
        self.dirty.swap(false, Ordering::Relaxed)
    }
}

impl Backing {
    /// Sizes of the data and the metadata device in bytes as they are now.
    ///
    /// # Errors
    /// One of them cannot be measured.
    pub fn sizes(&self) -> io::Result<(u64, u64)> {
        Ok((self.data.size()?, self.meta.size()?))
    }

    /// Opens the devices of a volume; the same path twice is internal metadata.
    ///
    /// # Errors
    /// With the device in question: `false` is the data device, `true` the metadata device.
    pub fn open(disk: &Path, meta_disk: &Path) -> Result<Backing, (bool, OpenError)> {
        let data = Arc::new(Device::open(disk).map_err(|e| (false, e))?);
        let same = disk == meta_disk
            || matches!((disk.canonicalize(), meta_disk.canonicalize()), (Ok(a), Ok(b)) if a == b);
        let meta = if same {
            data.clone()
        } else {
            Arc::new(Device::open(meta_disk).map_err(|e| (true, e))?)
        };
        Ok(Backing { data, meta })
    }
}

/// What a file needs for direct I/O, in bytes (`STATX_DIOALIGN`, Linux 6.1); `None` if the kernel does not say.
fn direct_alignment(fd: impl AsFd) -> Option<u32> {
    const STATX_DIOALIGN: u32 = 0x2000;
    let flags = StatxFlags::from_bits_retain(STATX_DIOALIGN);
    let stat = statx(fd, "", AtFlags::EMPTY_PATH, flags).ok()?;
    (stat.stx_mask & STATX_DIOALIGN != 0 && stat.stx_dio_offset_align > 0)
        .then_some(stat.stx_dio_offset_align)
}
