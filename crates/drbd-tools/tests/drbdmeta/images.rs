//! Metadata that real kernel drivers left behind: what `apply-al` makes of it is, byte for byte, what the
//! reference made of it, and dumps of it can be restored.

use crate::disk::Disk;
use drbd_meta::superblock::Superblock;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../drbd-meta/tests/data/disk-images")
}

fn unpack(name: &str) -> Vec<u8> {
    let packed = fs::read(directory().join(name)).unwrap();
    let mut bytes = Vec::new();
    lzma_rs::xz_decompress(&mut packed.as_slice(), &mut bytes).unwrap();
    bytes
}

fn bitmap_bytes(image: &[u8]) -> usize {
    let superblock = image.last_chunk::<4096>().unwrap();
    let superblock = Superblock::decode(superblock).unwrap();
    let layout = superblock.bitmap_layout().unwrap();
    usize::try_from(layout.area_bytes()).unwrap()
}

#[test]
fn what_the_kernel_left() {
    let text = fs::read_to_string(directory().join("vectors.json")).unwrap();
    let vectors: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(vectors.len(), 16);
    for vector in &vectors {
        let name = vector["name"].as_str().unwrap();
        let size = vector["device_size"].as_u64().unwrap();
        let start = vector["image_offset"].as_u64().unwrap();
        let mut disk = Disk::new(size);
        disk.format = if vector["format"] == "v08" {
            "v08"
        } else {
            "v09"
        };
        disk.file()
            .write_all_at(&unpack(&format!("{name}.img.xz")), start)
            .unwrap();
        let output = disk.run("apply-al");
        let expected = &vector["apply_al"];
        assert_eq!(
            output.status.code().map(i64::from),
            expected["exit"].as_i64().or(Some(0)),
            "{name}: {output:?}"
        );
        let applied = unpack(&format!("{name}.applied.img.xz"));
        let read = || {
            let mut bytes = vec![0; applied.len()];
            disk.file().read_exact_at(&mut bytes, start).unwrap();
            // The tool of these vectors clears the field `members`.
            if disk.format == "v09" {
                let end = bytes.len() - 4096;
                bytes[end + 16..end + 24].fill(0);
            }
            bytes
        };
        assert!(read() == applied, "{name}");

        // As text, and back onto nothing.
        let dump = disk.ok("dump-md");
        fs::write(disk.directory.path().join("dump"), dump).unwrap();
        disk.ok("wipe-md");
        // A dump has the bitmap of the size in use; what lies behind it stays.
        let used = bitmap_bytes(&applied);
        let mut other = applied.clone();
        other[..used].fill(0x33);
        let al = other.len() - 4096 - 32768;
        other[al..].fill(0x33);
        disk.file().write_all_at(&other, start).unwrap();
        disk.ok("restore-md dump");
        let (restored, end) = (read(), applied.len() - 4096);
        assert!(restored[..end] == applied[..end], "{name}: log or bitmap");
        // al_nr_extents becomes that of fresh metadata.
        assert!(restored[end..end + 72] == applied[end..end + 72], "{name}");
        assert!(restored[end + 76..] == applied[end + 76..], "{name}");
    }
}
