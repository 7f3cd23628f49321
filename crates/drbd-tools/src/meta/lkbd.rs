//! The file that remembers size and name of a backing device with internal metadata, so that the
//! metadata can be found after the device was resized while DRBD was down (metadata, section 7.5).

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// What the file says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct LastKnown {
    /// Bytes of the device.
    pub(super) size: u64,
    /// Its name.
    pub(super) name: String,
    /// Device UUID, 0 for none.
    pub(super) device_uuid: u64,
}

/// The file of a minor; `-` as DEVICE counts as minor -1.
pub(super) fn path(dir: &Path, minor: Option<u32>) -> PathBuf {
    let minor = minor.map_or_else(|| "-1".to_owned(), |minor| minor.to_string());
    dir.join(format!("drbd-minor-{minor}.lkbd"))
}

/// Reads a file; `None` if there is none or it does not begin with a size.
pub(super) fn read(path: &Path) -> Option<LastKnown> {
    // Two short lines; a file of another size is none of ours.
    if fs::metadata(path).ok()?.len() > 65536 {
        return None;
    }
    parse(&fs::read_to_string(path).ok()?)
}

fn parse(text: &str) -> Option<LastKnown> {
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    let mut words = first.split_whitespace();
    let size = words.next()?.parse().ok()?;
    let name = words.next().unwrap_or("").to_owned();
    let device_uuid = rest
        .trim_start()
        .strip_prefix("uuid:")
        .and_then(|uuid| u64::from_str_radix(uuid.trim(), 16).ok())
        .unwrap_or(0);
    Some(LastKnown {
        size,
        name,
        device_uuid,
    })
}

/// Writes the file durably, unless it says the same already.
pub(super) fn write(path: &Path, content: &LastKnown) -> io::Result<()> {
    if read(path).as_ref() == Some(content) {
        return Ok(());
    }
    let mut text = format!("{}\t{}\n", content.size, content.name);
    if content.device_uuid != 0 {
        text.push_str(&format!("uuid:\t{:016X}\n", content.device_uuid));
    }
    let mut file = File::create(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Removes the file; it may be missing.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{LastKnown, parse, path};
    use std::path::Path;

    #[test]
    fn forms() {
        let known = |size, name: &str, device_uuid| {
            Some(LastKnown {
                size,
                name: name.to_owned(),
                device_uuid,
            })
        };
        assert_eq!(
            parse("67108864\tF\nuuid:\t1122334455667788\n"),
            known(67_108_864, "F", 0x1122_3344_5566_7788)
        );
        assert_eq!(parse("67108864\tF\n"), known(67_108_864, "F", 0));
        assert_eq!(parse("5"), known(5, "", 0));
        assert_eq!(parse("5 F\nuuid: zz"), known(5, "F", 0));
        assert_eq!((parse(""), parse("x\n")), (None, None));
        assert_eq!(
            path(Path::new("/d"), None),
            Path::new("/d/drbd-minor--1.lkbd")
        );
        assert_eq!(
            path(Path::new("/d"), Some(9)),
            Path::new("/d/drbd-minor-9.lkbd")
        );
    }
}
