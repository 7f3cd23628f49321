//! What is on the device now? New metadata must not destroy a file system unasked (metadata,
//! section 11.2).

use super::args::Args;
use super::console::Console;
use super::device::Device;
use super::failure::{FAILED, Failure, REFUSED};
use drbd_meta::geometry::Geometry;
use drbd_meta::limits::{BLOCK_BYTES, MIN_DEVICE_BYTES};
use std::process::{Command, Stdio};
use zerocopy::IntoBytes;

/// What was recognised.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Size {
    /// So many bytes are in use.
    Bytes(u64),
    /// Nobody knows.
    Unknown,
    /// Something that must not be overwritten.
    Refuse,
}

/// Looks at the first 68 KiB. Asks before something unknown or small enough is overwritten, refuses
/// when data would be lost for certain.
pub(super) fn check(
    args: &Args,
    device: &Device,
    geometry: &Geometry,
    console: &mut Console,
) -> Result<(), Failure> {
    let count = usize::try_from(MIN_DEVICE_BYTES).unwrap_or(0) / BLOCK_BYTES;
    let pages = device.read("check for existing data", 0, count)?;
    let bytes = pages.as_bytes();
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(());
    }
    let (name, mut size) = recognise(bytes);
    if name == LVM {
        size = lvm_size(&device.path).map_or(Size::Refuse, Size::Bytes);
    }
    for (label, sector) in [
        ("md_offset", geometry.superblock_sector()),
        ("al_offset", geometry.al_sector()),
        ("bm_offset", geometry.bitmap_sector()),
    ] {
        console.out(&format!("{label} {}", sector.saturating_mul(512)));
    }
    console.out(&format!("\nFound {name}"));
    let usable = geometry.usable_sectors() >> 1;
    let refused = |console: &Console, overridable: bool| {
        if overridable && args.ignore_sanity_checks {
            console.out("\nIgnoring sanity check on user request.\n");
            return Ok(());
        }
        console.out(if overridable {
            "To go on all the same, overwrite the start of the device with zeros first."
        } else {
            "Shrink what is on the device first, or keep the meta data on another device."
        });
        console.out("Operation refused.\n");
        Err(Failure::Silent(REFUSED))
    };
    match size {
        Size::Bytes(1..) if !args.index.is_internal() => {
            console.out("\nThis would corrupt existing data.");
            return refused(console, true);
        }
        Size::Refuse => {
            console.out(&format!(
                "{usable:>12} kB left usable by current configuration"
            ));
            console.out(TRUNCATED);
            return refused(console, true);
        }
        Size::Bytes(bytes) => {
            let used = bytes.div_ceil(1024);
            console.out(&format!("{used:>12} kB data area apparently used"));
            console.out(&format!(
                "{usable:>12} kB left usable by current configuration"
            ));
            if used > usable {
                console.out(&format!("\n{TRUNCATED}"));
                return refused(console, false);
            }
            console.out("\nThe new meta data seems to fit behind it; that is a guess from the signature alone.");
        }
        Size::Unknown => console.out("\n ==> This might destroy existing data! <=="),
    }
    if console.confirmed("Do you want to proceed?") {
        return Ok(());
    }
    console.out("Operation canceled.");
    Err(Failure::Silent(FAILED))
}

const TRUNCATED: &str = "Device size would be truncated, which\nwould corrupt data and result in\n\
                         'access beyond end of device' errors.";

const LVM: &str = "LVM2 physical volume signature";

/// The name and the size of what the first 68 KiB of a device tell.
fn recognise(bytes: &[u8]) -> (&'static str, Size) {
    let at = |offset: usize, text: &[u8]| {
        bytes
            .get(offset..)
            .is_some_and(|rest| rest.starts_with(text))
    };
    let le16 = |offset: usize| array(bytes, offset).map_or(0, u16::from_le_bytes);
    let le32 = |offset: usize| array(bytes, offset).map_or(0, u32::from_le_bytes);
    let le64 = |offset: usize| array(bytes, offset).map_or(0, u64::from_le_bytes);
    let be32 = |offset: usize| array(bytes, offset).map_or(0, u32::from_be_bytes);
    let be64 = |offset: usize| array(bytes, offset).map_or(0, u64::from_be_bytes);
    let product = |blocks: u64, size: u32| Size::Bytes(blocks.saturating_mul(size.into()));
    for offset in [4086, 8182] {
        if at(offset, b"SWAP-SPACE") || at(offset, b"SWAPSPACE2") {
            return ("swap space signature", Size::Refuse);
        }
    }
    if at(0x218, b"LVM2") {
        return (LVM, Size::Unknown);
    }
    if le16(0x438) == 0xEF53 {
        let has_journal = le32(0x45C) & 4 != 0;
        let name = if has_journal {
            "ext3 filesystem"
        } else {
            "ext2 filesystem"
        };
        let block = match le32(0x418) {
            0 => 1024,
            1 => 2048,
            _ => 4096,
        };
        return (name, product(le32(0x404).into(), block));
    }
    if be32(0) == 0x5846_5342 {
        return ("xfs filesystem", product(be64(8), be32(4)));
    }
    if at(0x8000, b"JFS1") {
        return ("JFS filesystem", product(le64(0x8008), le32(0x8018)));
    }
    if at(0x10034, b"ReIsErFs") || at(0x10034, b"ReIsEr2Fs") {
        return (
            "reiser filesystem",
            product(le32(0x10000).into(), le16(0x1002C).into()),
        );
    }
    ("some data", Size::Unknown)
}

fn array<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk::<N>().copied()
}

/// The size of an LVM physical volume in bytes, asked of LVM.
fn lvm_size(path: &str) -> Option<u64> {
    let arguments = [
        "-vvv",
        "--readonly",
        "--noheadings",
        "--nosuffix",
        "--units",
        "s",
        "-o",
        "pv_size",
    ];
    let output = Command::new("pvs")
        .args(arguments)
        .arg(path)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let sectors: u64 = String::from_utf8(output.stdout).ok()?.trim().parse().ok()?;
    sectors.checked_mul(512)
}

#[cfg(test)]
mod tests {
    use super::{Size, recognise};

    #[test]
    fn signatures() {
        let with = |pieces: &[(usize, &[u8])]| {
            let mut bytes = vec![0u8; 69632];
            for (offset, piece) in pieces {
                bytes[*offset..offset + piece.len()].copy_from_slice(piece);
            }
            recognise(&bytes)
        };
        let magic: (usize, &[u8]) = (0x438, &[0x53, 0xEF]);
        let blocks: (usize, &[u8]) = (0x404, &[0, 1, 0, 0]);
        assert_eq!(
            with(&[magic, blocks]),
            ("ext2 filesystem", Size::Bytes(262_144))
        );
        assert_eq!(
            with(&[magic, blocks, (0x418, &[2]), (0x45C, &[4])]),
            ("ext3 filesystem", Size::Bytes(1_048_576))
        );
        assert_eq!(
            with(&[(4086, b"SWAPSPACE2")]),
            ("swap space signature", Size::Refuse)
        );
        assert_eq!(with(&[(0x218, b"LVM2")]).0, super::LVM);
        let xfs = [&b"XFSB\0\0\x10\0"[..], &[0, 0, 0, 0, 0, 0, 0, 3]].concat();
        assert_eq!(with(&[(0, &xfs)]), ("xfs filesystem", Size::Bytes(12288)));
        assert_eq!(with(&[(5, b"x")]), ("some data", Size::Unknown));
        assert_eq!(recognise(&[]), ("some data", Size::Unknown));
    }
}
