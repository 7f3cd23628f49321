//! The lock of a minor (metadata, section 8.2): whoever writes metadata and whoever has a node attach
//! it holds the same lock files, so that they keep each other out, also the reference's tools.

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::process::{Flock, FlockType};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// DRBD's block device major.
pub(crate) const MAJOR: u32 = 147;
/// Where lock files are: of current tools, and of those before 9.24. Both are taken, so that tools of
/// either kind are kept out.
const DIRECTORIES: [&str; 2] = ["/run/drbd/lock", "/var/lock"];
/// How long to wait for another holder.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoLock {
    /// Somebody else has it.
    #[error("lock on {} currently held by pid:{pid}", path.display())]
    Held {
        /// The lock file.
        path: PathBuf,
        /// The holder, `?` if it is not known.
        pid: String,
    },
    /// The file cannot be opened.
    #[error("open({}): {error}", path.display())]
    NotOpened {
        /// The lock file.
        path: PathBuf,
        /// The reason.
        error: io::Error,
    },
    /// The file cannot be locked.
    #[error("fcntl({}): {error}", path.display())]
    NotLocked {
        /// The lock file.
        path: PathBuf,
        /// The reason.
        error: io::Error,
    },
}

/// Takes the lock of a minor; it is held until the value is dropped. Another holder is given a second.
///
/// # Errors
/// Somebody else holds it, or there can be no lock file.
pub(crate) fn take(minor: u32) -> Result<Vec<File>, NoLock> {
    let mut held = Vec::new();
    let mut failure = None;
    for directory in DIRECTORIES {
        let path = Path::new(directory).join(format!("drbd-{MAJOR}-{minor}"));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path);
        match file {
            Ok(file) => {
                lock(&file, path)?;
                held.push(file);
            }
            Err(error) => failure = Some(NoLock::NotOpened { path, error }),
        }
    }
    match failure {
        // One of the directories is enough: not every system has both.
        Some(failure) if held.is_empty() => Err(failure),
        _ => Ok(held),
    }
}

fn lock(file: &File, path: PathBuf) -> Result<(), NoLock> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let errno = match rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(errno) => errno,
        };
        if !matches!(errno, Errno::ACCESS | Errno::AGAIN | Errno::INTR) {
            let error = errno.into();
            return Err(NoLock::NotLocked { path, error });
        }
        if Instant::now() >= deadline {
            let query = Flock::from(FlockType::WriteLock);
            let holder = rustix::process::fcntl_getlk(file, &query).ok().flatten();
            let pid = holder.and_then(|lock| lock.pid);
            let pid = pid.map_or_else(|| "?".to_owned(), |p| p.as_raw_nonzero().to_string());
            return Err(NoLock::Held { path, pid });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
