//! The DEVICE argument: which minor, and whether it is in use (metadata, section 8.2).

use super::failure::{Failure, USAGE};
use crate::minor_lock::MAJOR;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};

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

/// Whether a node has the minor attached: what `drbdsetup dstate` says. No such minor, or no node,
/// counts as not attached, but a node that does not answer may have it attached.
pub(super) fn is_attached(minor: u32) -> bool {
    let output = Command::new(drbdsetup())
        .arg("dstate")
        .arg(minor.to_string())
        .stdin(Stdio::null())
        .output();
    let Ok(output) = output else { return false };
    let silent = || String::from_utf8_lossy(&output.stderr).contains("the daemon");
    match output.status.code() {
        Some(10) => return false,
        // The reference tool says so without its driver.
        Some(20) => return silent(),
        _ => {}
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
