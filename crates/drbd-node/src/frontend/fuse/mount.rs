//! Mounting one file: with mount(2) as root, otherwise with the helper `fusermount3`.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};

/// File system type under which the mounts appear.
const TYPE: &str = "fuse.drbd";

/// A mounted file. Dropping it unmounts, at once for new users and lazily for old ones, and removes the file below.
pub(super) struct Mount {
    at: PathBuf,
    helper: bool,
}

impl Mount {
    /// Mounts over the file `at`, which is created. Returns the descriptor on which the kernel asks.
    ///
    /// # Errors
    /// When FUSE is missing or mounting is not permitted.
    pub(super) fn new(at: &Path, label: &str) -> io::Result<(Mount, OwnedFd)> {
        clean_up(at)?;
        if let Some(dir) = at.parent() {
            std::fs::create_dir_all(dir)?;
        }
        File::create(at)?;
        let mount = |helper| Mount {
            at: at.to_owned(),
            helper,
        };
        if rustix::process::geteuid().is_root() {
            match mount_directly(at, label) {
                Ok(fd) => Ok((mount(false), fd)),
                Err(e) => {
                    let _ = std::fs::remove_file(at);
                    Err(e)
                }
            }
        } else {
            match mount_with_helper(at, label) {
                Ok(fd) => Ok((mount(true), fd)),
                Err(e) => {
                    let _ = std::fs::remove_file(at);
                    Err(e)
                }
            }
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(e) = unmount_lazily(&self.at, self.helper) {
            tracing::warn!("cannot unmount {}: {e}", self.at.display());
            return;
        }
        let _ = std::fs::remove_file(&self.at);
    }
}

fn unmount_lazily(at: &Path, helper: bool) -> io::Result<()> {
    if helper {
        let done = Command::new("fusermount3")
            .args(["-u", "-z", "--"])
            .arg(at)
            .status()?;
        return if done.success() {
            Ok(())
        } else {
            Err(io::Error::other(done.to_string()))
        };
    }
    Ok(unmount(at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?)
}

/// Takes away what an earlier daemon left here when it was killed. Nothing else is touched.
///
/// # Errors
/// When something is there that is not ours, or the stale mount cannot be removed.
pub(super) fn clean_up(at: &Path) -> io::Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    // As often as it was mounted over.
    for _ in mounts.lines().filter(|line| is_ours(line, at)) {
        unmount_lazily(at, !rustix::process::geteuid().is_root())?;
        tracing::info!("removed the stale mount {}", at.display());
    }
    match std::fs::symlink_metadata(at) {
        Ok(meta) if meta.is_file() && meta.len() == 0 => std::fs::remove_file(at),
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("{} is in the way: remove it", at.display()),
        )),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// Whether a line of mountinfo is a mount of ours at this path.
fn is_ours(line: &str, at: &Path) -> bool {
    ours(line).is_some_and(|place| place == at)
}

/// Where a line of mountinfo has a mount of ours.
fn ours(line: &str) -> Option<PathBuf> {
    let (mount, file_system) = line.split_once(" - ")?;
    let place = mount.split(' ').nth(4).map(unescape)?;
    file_system
        .starts_with(&format!("{TYPE} "))
        .then(|| place.into())
}

/// Mounts of ours below a directory.
pub(super) fn below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let mut places: Vec<_> = mounts.lines().filter_map(ours).collect();
    places.retain(|place| place.starts_with(dir));
    places.dedup();
    Ok(places)
}

/// Octal escapes of mountinfo.
fn unescape(s: &str) -> String {
    s.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

fn open_device() -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::open("/dev/fuse", flags, Mode::empty())
        .map_err(|e| io::Error::new(e.kind(), format!("/dev/fuse: {e}")))
}

fn mount_directly(at: &Path, label: &str) -> io::Result<OwnedFd> {
    let fd = open_device()?;
    // A regular file as root of the file system; the kernel checks its permissions.
    let options = format!(
        "fd={},rootmode=100000,user_id=0,group_id=0,allow_other,default_permissions",
        fd.as_raw_fd()
    );
    let options = std::ffi::CString::new(options)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount(label, at, TYPE, flags, Some(options.as_c_str()))
        .map_err(|e| io::Error::new(e.kind(), format!("mount {}: {e}", at.display())))?;
    Ok(fd)
}

/// `fusermount3` opens the device, mounts, and sends the descriptor back over a socket.
fn mount_with_helper(at: &Path, label: &str) -> io::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    // The helper inherits its end.
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty())?;
    let options = format!(
        "rw,nosuid,nodev,fsname={},subtype=drbd",
        label.replace(',', "_")
    );
    let out = Command::new("fusermount3")
        .arg("-o")
        .arg(options)
        .arg("--")
        .arg(at)
        .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .output()
        .map_err(|e| io::Error::new(e.kind(), format!("fusermount3: {e}")))?;
    drop(theirs);
    if !out.status.success() {
        let text = String::from_utf8_lossy(&out.stderr).trim().to_owned();
        return Err(io::Error::other(format!("fusermount3: {text}")));
    }
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received = recvmsg(
        &ours,
        &mut [IoSliceMut::new(&mut byte)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    debug_assert!(!received.flags.contains(ReturnFlags::CTRUNC));
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message
            && let Some(fd) = fds.next()
        {
            let flags = rustix::fs::fcntl_getfl(&fd)?;
            rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
            return Ok(fd);
        }
    }
    Err(io::Error::other("fusermount3 sent no descriptor"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_mounts_are_recognized() {
        let line =
            "36 35 0:31 / /run/drbd/fuse/a\\040b/0 rw,nosuid - fuse.drbd a\\040b/0 rw,user_id=0";
        assert!(is_ours(line, Path::new("/run/drbd/fuse/a b/0")));
        assert!(!is_ours(line, Path::new("/run/drbd/fuse/a")));
        let other = line.replace("fuse.drbd", "ext4");
        assert!(!is_ours(&other, Path::new("/run/drbd/fuse/a b/0")));
        assert!(!is_ours("nonsense", Path::new("/")));
    }

    #[test]
    fn what_is_in_the_way_stays() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("0");
        std::fs::write(&at, "data").unwrap();
        let error = clean_up(&at).unwrap_err();
        assert!(error.to_string().contains("in the way"), "{error}");
        std::fs::write(&at, "").unwrap();
        clean_up(&at).unwrap();
        assert!(!at.exists());
    }
}
