//! Whether a device is mounted. The kernel refuses to open a mounted device exclusively, which tells
//! that it is in use but not how; and a file that a loop device stands for can always be opened.

use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Where what is on a block device or in a file is mounted, as far as this process can see.
pub(super) fn point(device: &Metadata) -> Option<PathBuf> {
    let numbers = if device.file_type().is_block_device() {
        vec![device.rdev()]
    } else {
        loops_over(device)
    };
    if numbers.is_empty() {
        return None;
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| mounted(line, &numbers))
}

/// The mount point of a line of `mountinfo` if it is about one of the devices.
fn mounted(line: &str, numbers: &[u64]) -> Option<PathBuf> {
    let (mount, source) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(2);
    let (number, point) = (fields.next()?, fields.nth(1)?);
    let (major, minor) = number.split_once(':')?;
    let number = rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?);
    // Some file systems have a number of their own; then the name of the device tells.
    let by_name = || {
        let name = unescape(source.split(' ').nth(1)?);
        let source = fs::metadata(name).ok()?;
        let same = source.file_type().is_block_device() && numbers.contains(&source.rdev());
        same.then_some(())
    };
    (numbers.contains(&number) || by_name().is_some()).then(|| unescape(point))
}

/// The loop devices that stand for a file.
fn loops_over(file: &Metadata) -> Vec<u64> {
    let Ok(devices) = fs::read_dir("/sys/block") else {
        return Vec::new();
    };
    let number = |path: &Path| {
        let backing = fs::read_to_string(path.join("loop/backing_file")).ok()?;
        let backing = fs::metadata(backing.trim_end_matches('\n')).ok()?;
        if (backing.dev(), backing.ino()) != (file.dev(), file.ino()) {
            return None;
        }
        let number = fs::read_to_string(path.join("dev")).ok()?;
        let (major, minor) = number.trim().split_once(':')?;
        Some(rustix::fs::makedev(
            major.parse().ok()?,
            minor.parse().ok()?,
        ))
    };
    let devices = devices.filter_map(Result::ok);
    devices.filter_map(|entry| number(&entry.path())).collect()
}

/// A path of `mountinfo`: blanks and the like are octal numbers.
fn unescape(text: &str) -> PathBuf {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let code = after.get(..3).and_then(|d| u8::from_str_radix(d, 8).ok());
        match code {
            Some(code) => {
                out.push(char::from(code));
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                out.push('\\');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    PathBuf::from(out)
}

#[cfg(test)]
mod tests {
    use super::{mounted, unescape};
    use std::path::PathBuf;

    #[test]
    fn lines() {
        let line = "36 35 98:7 / /mnt/a\\040b rw,noatime shared:1 - ext3 /dev/nothing rw";
        let seven = rustix::fs::makedev(98, 7);
        assert_eq!(mounted(line, &[1, seven]), Some(PathBuf::from("/mnt/a b")));
        assert_eq!(mounted(line, &[seven + 1]), None);
        for line in ["", "36 35", "36 35 98 / /mnt - ext3 x rw", "a - b"] {
            assert_eq!(mounted(line, &[seven]), None, "{line}");
        }
        assert_eq!(unescape("a\\134b\\x"), PathBuf::from("a\\b\\x"));
    }
}
