//! The DEVICE argument: which minor, its lock file, and whether it is in use (metadata, section 8.2).

use super::failure::{Failure, USAGE};
use rustix::fs::FlockOperation;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// DRBD's block device major.
const MAJOR: u32 = 147;
/// Where lock files are: of current tools, and of those before 9.24. Both are taken, so that tools of
/// either kind are kept out.
const LOCK_DIRS: [&str; 2] = ["/run/drbd/lock", "/var/lock"];
/// How long to wait for another holder.
const PATIENCE: Duration = Duration::from_secs(1);

/// The minor number of a DEVICE argument; `None` for `-`.
pub(super) fn minor(device: &str) -> Result<Option<u32>, Failure> {
    if device == "-" {
        return Ok(None);
    }
    let digits = device.strip_prefix("/dev/drbd").unwrap_or(device);
    if !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit()) {
        if let Some(minor) = digits.parse::<u32>().ok().filter(|minor| *minor < 1 << 20) {
            return Ok(Some(minor));
        }
    } else if let Ok(metadata) = fs::metadata(device) {
        let number = metadata.rdev();
        if metadata.file_type().is_block_device() && rustix::fs::major(number) == MAJOR {
            return Ok(Some(rustix::fs::minor(number)));
        }
    }
    Err(Failure::new(
        USAGE,
        format!("'{device}' is no DRBD device: give its minor number, /dev/drbdN, or -"),
    ))
}

/// Takes the lock of a minor; it is held until the value is dropped.
pub(super) fn lock(minor: u32) -> Result<Vec<File>, Failure> {
    let mut held = Vec::new();
    let mut failure = None;
    for dir in LOCK_DIRS {
        let path = Path::new(dir).join(format!("drbd-{MAJOR}-{minor}"));
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600);
        match options.open(&path) {
            Ok(file) => {
                lock_file(&file, &path)?;
                held.push(file);
            }
            Err(error) => {
                failure = Some(Failure::new(
                    USAGE,
                    format!("open({}): {error}", path.display()),
                ));
            }
        }
    }
    match failure {
        // One of the directories is enough: not every system has both.
        Some(failure) if held.is_empty() => Err(failure),
        _ => Ok(held),
    }
}

fn lock_file(file: &File, path: &Path) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let errno = match rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(errno) => errno,
        };
        use rustix::io::Errno;
        let busy = errno == Errno::ACCESS || errno == Errno::AGAIN || errno == Errno::INTR;
        if !busy {
            let error = std::io::Error::from(errno);
            return Err(Failure::new(
                USAGE,
                format!("fcntl({}): {error}", path.display()),
            ));
        }
        if Instant::now() >= deadline {
            let query = rustix::process::Flock::from(rustix::process::FlockType::WriteLock);
            let holder = rustix::process::fcntl_getlk(file, &query).ok().flatten();
            let pid = holder.and_then(|lock| lock.pid);
            let pid = pid.map_or_else(|| "?".to_owned(), |p| p.as_raw_nonzero().to_string());
            let text = format!("lock on {} currently held by pid:{pid}", path.display());
            return Err(Failure::new(USAGE, text));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a node has the minor attached: what `drbdsetup dstate` says. No such minor, or no node,
/// counts as not attached.
pub(super) fn is_attached(minor: u32) -> bool {
    let output = Command::new(drbdsetup())
        .arg("dstate")
        .arg(minor.to_string())
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let Ok(output) = output else { return false };
    if matches!(output.status.code(), Some(10 | 20)) {
        return false;
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let state = text
        .lines()
        .next()
        .unwrap_or("")
        .split('/')
        .next()
        .unwrap_or("");
    const ATTACHED: [&str; 9] = [
        "Attaching",
        "Detaching",
        "Failed",
        "Negotiating",
        "Inconsistent",
        "Outdated",
        "DUnknown",
        "Consistent",
        "UpToDate",
    ];
    ATTACHED.contains(&state)
}

/// `drbdsetup` beside this program, else the one of the search path.
fn drbdsetup() -> PathBuf {
    let beside = std::env::current_exe()
        .ok()
        .map(|exe| exe.with_file_name("drbdsetup"));
    beside
        .filter(|path| path.is_file())
        .unwrap_or_else(|| PathBuf::from("drbdsetup"))
}

#[cfg(test)]
mod tests {
    use super::minor;

    #[test]
    fn device_arguments() {
        assert_eq!(minor("-").unwrap(), None);
        assert_eq!(minor("7").unwrap(), Some(7));
        assert_eq!(minor("/dev/drbd12").unwrap(), Some(12));
        for bad in [
            "",
            "x",
            "/dev/null",
            "drbd1",
            "-1",
            "99999999999",
            "/dev/drbd",
            "1048576",
        ] {
            assert_eq!(minor(bad).unwrap_err().code(), 20, "{bad}");
        }
    }
}
