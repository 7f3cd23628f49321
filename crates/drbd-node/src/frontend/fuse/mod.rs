//! FUSE: the device as a file that programs and QEMU open directly, `<run directory>/fuse/RES/VOL`.
//!
//! Every volume is a file system of its own whose root is a regular file, mounted over an empty file. [`codec`] is the
//! protocol without I/O; the file is a guest of the reactor (`serve`). It is opened like the device: for writing it may
//! promote the resource (auto-promote), and an open is refused with the error numbers DRBD's device gives (state machine,
//! section 10.3). The page cache is bypassed. Reads and writes may have any offset and length; a write that does not
//! cover whole blocks is slow. A write is durable after `fsync`, or with `O_DSYNC` when it returns.

pub mod codec;
mod mount;
mod serve;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mount::Mount;
use serve::File;

use super::device_users::Link;
use super::{Attached, Frontend, VolumeHandle};

/// Offers every volume as a file.
pub struct FuseFrontend {
    dir: PathBuf,
}

impl FuseFrontend {
    /// Files appear below `<run_dir>/fuse`.
    ///
    /// # Errors
    /// When `/dev/fuse` is missing or may not be used; the error says which.
    pub fn new(run_dir: &Path) -> io::Result<FuseFrontend> {
        std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .map_err(|e| io::Error::new(e.kind(), format!("/dev/fuse: {e}")))?;
        if !rustix::process::geteuid().is_root() && !super::programs::installed("fusermount3") {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "FUSE needs root or the program fusermount3",
            ));
        }
        std::fs::create_dir_all(run_dir)?;
        // Mounts are found again under their absolute names.
        Ok(FuseFrontend {
            dir: std::fs::canonicalize(run_dir)?.join("fuse"),
        })
    }

    /// Offers a volume; with the link, a loop device can be put on top.
    pub(super) fn mount(&self, volume: &VolumeHandle) -> io::Result<(Mounted, Arc<Link>)> {
        let v = volume.volume();
        let number = v.volume.to_wire();
        let path = self.dir.join(&*v.resource).join(number.to_string());
        let label = format!("{}/{number}", v.resource);
        let head = format!("drbd {label} drbd{}", v.minor);
        let link = Arc::new(Link::new()?);
        let (mount, fd) = Mount::new(&path, &label)?;
        let uid = rustix::process::geteuid().as_raw();
        let (gid, mode) = match disk_group() {
            Some(gid) if uid == 0 => (gid, 0o660),
            _ => (rustix::process::getegid().as_raw(), 0o600),
        };
        let file = File::new(Arc::new(fd), link.clone(), head, (uid, gid), mode);
        volume.install(Box::new(file));
        Ok((Mounted { path, mount }, link))
    }
}

/// Unmounts the files below a directory whose daemon is gone.
pub(super) fn remove_stale(dir: &Path) -> io::Result<()> {
    for path in mount::below(dir)? {
        if let Err(e) = mount::clean_up(&path) {
            tracing::warn!("cannot remove the stale mount {}: {e}", path.display());
        }
        if let Some(parent) = path.parent() {
            let _ = std::fs::remove_dir(parent);
        }
    }
    Ok(())
}

/// The group that block devices belong to.
fn disk_group() -> Option<u32> {
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    let line = groups.lines().find_map(|l| l.strip_prefix("disk:"))?;
    line.split(':').nth(1)?.parse().ok()
}

/// A volume that is offered as a file.
pub(super) struct Mounted {
    path: PathBuf,
    mount: Mount,
}

impl Mounted {
    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Frontend for FuseFrontend {
    fn name(&self) -> &'static str {
        "fuse"
    }

    fn attach(&self, volume: VolumeHandle) -> io::Result<Box<dyn Attached>> {
        let (mounted, _link) = self.mount(&volume)?;
        Ok(Box::new(mounted))
    }

    /// The files, and any loop device on one of them.
    fn serves(&self, path: &Path) -> bool {
        let Ok(path) = std::fs::canonicalize(path) else {
            return false;
        };
        match super::loopdev::backing_file(&path) {
            Some(file) => file.starts_with(&self.dir),
            None => path.starts_with(&self.dir),
        }
    }
}

impl Attached for Mounted {
    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn path(&self) -> Option<PathBuf> {
        Some(self.path.clone())
    }

    fn detach(self: Box<Self>) {
        drop(self.mount);
        // The directory goes with its last volume.
        if let Some(dir) = self.path.parent() {
            let _ = std::fs::remove_dir(dir);
        }
    }
}
