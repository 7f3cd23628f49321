//! What a device holds, told by its signatures.
//!
//! Four file systems also tell how large they are, so that metadata may be put behind them; for
//! these and for what must never be overwritten the reference tool has fixed rules (metadata, section
//! 11.2). Everything else is left to `blkid`, which knows all signatures there are.

use std::path::Path;
use std::process::{Command, Stdio};

/// What was recognised.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Size {
    /// So many bytes are in use.
    Bytes(u64),
    /// Nobody knows.
    Unknown,
    /// Something that must not be overwritten.
    Refuse,
}

pub(super) const LVM: &str = "LVM2 physical volume signature";

/// The name and the size of what the first 68 KiB of a device tell, as far as the reference knows it.
pub(super) fn recognise(bytes: &[u8]) -> Option<(&'static str, Size)> {
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
            return Some(("swap space signature", Size::Refuse));
        }
    }
    if at(0x218, b"LVM2") {
        return Some((LVM, Size::Unknown));
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
        return Some((name, product(le32(0x404).into(), block)));
    }
    if be32(0) == 0x5846_5342 {
        return Some(("xfs filesystem", product(be64(8), be32(4))));
    }
    if at(0x8000, b"JFS1") {
        return Some(("JFS filesystem", product(le64(0x8008), le32(0x8018))));
    }
    if at(0x10034, b"ReIsErFs") || at(0x10034, b"ReIsEr2Fs") {
        let size = product(le32(0x10000).into(), le16(0x1002C).into());
        return Some(("reiser filesystem", size));
    }
    None
}

fn array<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk::<N>().copied()
}

/// What `blkid` calls the content of a device, wherever its signature lies; `None` if there is none,
/// or no `blkid`. Metadata of DRBD is looked for elsewhere.
pub(super) fn blkid(path: &Path) -> Option<String> {
    let output = Command::new("blkid")
        .args(["--probe", "--match-types", "nodrbd", "--output", "export"])
        .arg(path)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    // More than one thing may be true of a device.
    const AMBIVALENT: Option<i32> = Some(8);
    if output.status.code() == AMBIVALENT {
        return Some("more than one signature".to_owned());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let value = |name: &str| {
        let mut values = text.lines().filter_map(|line| line.strip_prefix(name));
        values.find(|value| !value.is_empty()).map(str::to_owned)
    };
    let table = || Some(format!("{} partition table", value("PTTYPE=")?));
    output
        .status
        .success()
        .then(|| value("TYPE=").or_else(table))?
}

/// The size of an LVM physical volume in bytes, asked of LVM.
pub(super) fn lvm_size(path: &str) -> Option<u64> {
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
            recognise(&bytes).unwrap_or(("", Size::Unknown))
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
        assert_eq!(with(&[(5, b"x")]).0, "");
        assert_eq!(recognise(&[]), None);
    }
}
