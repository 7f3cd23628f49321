//! Metadata of a device that a node has attached: read beside the node, never written. What the node has changed a moment
//! ago is there as soon as it is durable, as all of it is before anybody may rely on it.

use super::console::{Console, Outputs};
use super::device::Page;
use super::gi;
use super::lkbd::{self, LastKnown};
use super::record::{Record, Version};
use drbd_meta::geometry::{MdIndex, Placement};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;
use zerocopy::IntoBytes;

/// Where `drbdmeta` keeps what it remembers of devices.
const VAR_LIB: &str = "/var/lib/drbd";

/// Why the metadata cannot be told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotRead {
    /// The device cannot be opened or read.
    #[error("Could not open {path}: {error}.")]
    Device {
        /// The device.
        path: String,
        /// The reason.
        error: io::Error,
    },
    /// There is no metadata where it should be.
    #[error("{path}: {reason}")]
    NotValid {
        /// The device.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// What is remembered of the device cannot be written.
    #[error("cannot write {path}: {error}")]
    NotRemembered {
        /// The file.
        path: String,
        /// The reason.
        error: io::Error,
    },
}

/// The index of a configuration.
fn index(text: &str) -> Option<MdIndex> {
    match text {
        "internal" => Some(MdIndex::Internal),
        "flexible" | "flex-external" => Some(MdIndex::FlexExternal),
        number => number.parse().ok().map(MdIndex::Indexed),
    }
}

/// Reads the superblock, and the size of the device in bytes.
fn read(path: &str, which: &str) -> Result<(Record, u64), NotRead> {
    let device = |error| NotRead::Device {
        path: path.to_owned(),
        error,
    };
    let not_valid = |reason: String| NotRead::NotValid {
        path: path.to_owned(),
        reason,
    };
    let index = index(which).ok_or_else(|| not_valid(format!("'{which}' is no metadata index")))?;
    let open = |flags| {
        rustix::fs::open(
            path,
            OFlags::RDONLY | OFlags::CLOEXEC | flags,
            Mode::empty(),
        )
    };
    // The node writes past the page cache.
    let opened = match open(OFlags::DIRECT) {
        Err(Errno::INVAL) => open(OFlags::empty()),
        other => other,
    };
    let mut file = File::from(opened.map_err(|e| device(e.into()))?);
    let size = file.seek(SeekFrom::End(0)).map_err(device)?;
    let placement = Placement {
        index,
        device_size: size,
    };
    let offset = placement
        .superblock_offset()
        .map_err(|e| not_valid(e.to_string()))?;
    let mut block = Page::ZERO;
    file.read_exact_at(block.as_mut_bytes(), offset)
        .map_err(device)?;
    let found = Record::parse(Version::V09, &block.0, placement)
        .or_else(|reason| Record::parse(Version::V08, &block.0, placement).map_err(|_| reason));
    match found {
        Ok(found) => Ok((found.record, size)),
        Err(reason) => Err(not_valid(reason.to_string())),
    }
}

/// The node id in the metadata of a device; `None` if there is none.
pub(crate) fn node_id(meta_disk: &str, index: &str) -> Option<u8> {
    match read(meta_disk, index).ok()?.0 {
        Record::Uuids(superblock) => superblock.node_id,
        Record::V07(_) => None,
    }
}

/// `get-gi` of an attached device, or with `explained` `show-gi`.
///
/// # Errors
/// The metadata cannot be read.
pub(crate) fn gi(meta_disk: &str, index: &str, node: u8, explained: bool) -> Result<(), NotRead> {
    let (record, _) = read(meta_disk, index)?;
    // The older versions have one peer.
    let node = if record.version() == Version::V09 {
        node.into()
    } else {
        0
    };
    let outputs = Outputs {
        out: Box::new(io::stdout()),
        err: Box::new(io::stderr()),
    };
    let console = Console::new(outputs, false, false, 0);
    if explained {
        gi::describe(&record, node, &console);
    } else {
        console.out(&gi::record_line(&record, node));
    }
    Ok(())
}

/// `check-resize` of an attached device: remembers size and name of a disk with internal metadata, which is found by them if
/// the disk grows while no node uses it, and forgets any other.
///
/// # Errors
/// The disk cannot be read, or the file not be written.
pub(crate) fn remember(minor: u32, disk: &str, index: &str) -> Result<(), NotRead> {
    remember_in(Path::new(VAR_LIB), minor, disk, index)
}

fn remember_in(directory: &Path, minor: u32, disk: &str, index: &str) -> Result<(), NotRead> {
    let path = lkbd::path(directory, Some(minor));
    let done = if index == "internal" {
        let (record, size) = read(disk, index)?;
        let known = LastKnown {
            size,
            name: disk.to_owned(),
            device_uuid: record.device_uuid(),
        };
        lkbd::write(&path, &known)
    } else {
        lkbd::remove(&path)
    };
    done.map_err(|error| NotRead::NotRemembered {
        path: path.display().to_string(),
        error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(path: &Path) {
        let var_lib = format!("--var-lib-drbd={}", path.parent().unwrap().display());
        let path = path.to_str().unwrap();
        for last in [["create-md", "3"], ["write-dev-uuid", "1122334455667788"]] {
            let words = ["--force", &var_lib, "-", "v09", path, "internal"];
            let words = words.into_iter().chain(last).map(str::to_owned);
            assert_eq!(crate::meta::run_with(words, io::sink, io::sink), 0);
        }
    }

    #[test]
    fn reads_beside_the_node() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk");
        File::create(&disk).unwrap().set_len(16 << 20).unwrap();
        let text = disk.to_str().unwrap();
        assert!(matches!(
            read(text, "internal"),
            Err(NotRead::NotValid { .. })
        ));
        assert!(matches!(
            read("/nowhere", "internal"),
            Err(NotRead::Device { .. })
        ));
        create(&disk);
        let (record, size) = read(text, "internal").unwrap();
        assert_eq!(size, 16 << 20);
        let line = gi::record_line(&record, 1);
        assert!(
            line.starts_with("0000000000000004:0000000000000000:"),
            "{line}"
        );
        assert_eq!(line.split(':').count(), 16, "{line}");
        assert!(gi(text, "0", 1, false).is_err(), "it is internal");
        assert!(gi(text, "nonsense", 1, false).is_err());
    }

    #[test]
    fn remembers_internal_metadata() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk");
        File::create(&disk).unwrap().set_len(16 << 20).unwrap();
        create(&disk);
        let text = disk.to_str().unwrap();
        remember_in(dir.path(), 9, text, "internal").unwrap();
        let file = lkbd::path(dir.path(), Some(9));
        let known = lkbd::read(&file).unwrap();
        assert_eq!((known.size, known.name.as_str()), (16 << 20, text));
        assert_eq!(known.device_uuid, 0x1122_3344_5566_7788);
        remember_in(dir.path(), 9, text, "flexible").unwrap();
        assert!(!file.exists(), "only internal metadata moves");
    }
}
