//! What a device holds. `blkid` knows all signatures there are and says which one it is; the size of
//! what it names is needed for the rules about existing data (metadata, section 11.2).

use std::io;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// How much of the device is in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Size {
    /// So many bytes.
    Bytes(u64),
    /// Nobody knows.
    Unknown,
    /// Something that must not be overwritten.
    Refuse,
}

/// What `blkid` found.
#[derive(PartialEq, Eq, Debug)]
enum Content {
    Nothing,
    /// More than one signature, which contradict each other.
    Several,
    /// A file system or something like it.
    Type(Found),
    /// A partition table of this kind.
    Partitions(String),
}

#[derive(PartialEq, Eq, Debug)]
struct Found {
    /// `TYPE`, `blkid`'s name.
    kind: String,
    /// Bytes, if `blkid` tells; 2.39 and later do.
    bytes: Option<u64>,
}

/// Why nobody can tell what is on a device.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unknown {
    /// There is no such program.
    #[error("blkid cannot be run ({0}), so nobody can tell what it is: install util-linux")]
    NotRun(#[source] io::Error),
    /// It ends with an error, as the one of busybox does.
    #[error(
        "blkid cannot tell what it is ({0}): the blkid of util-linux is needed, and a readable device"
    )]
    Failed(String),
}

/// The name and the size of what is on a device; `None` if there is no signature. Metadata of DRBD is
/// looked for elsewhere. `start` is the device's first 68 KiB.
pub(super) fn recognise(path: &Path, start: &[u8]) -> Result<Option<(String, Size)>, Unknown> {
    let found = match probe(path, "nodrbd")? {
        Content::Nothing => return Ok(None),
        Content::Partitions(kind) => {
            let name = format!("some data ({kind} partition table)");
            return Ok(Some((name, Size::Unknown)));
        }
        Content::Type(found) => found,
        Content::Several => {
            // One that must not be overwritten counts, however many there are.
            let mut known = None;
            for kind in RULES.iter().flat_map(|rule| rule.kinds) {
                if let Content::Type(found) = probe(path, kind)? {
                    known = Some(found);
                    break;
                }
            }
            let several = || ("some data (more than one signature)".into(), Size::Unknown);
            return Ok(Some(
                known.map_or_else(several, |it| describe(path, it, start)),
            ));
        }
    };
    Ok(Some(describe(path, found, start)))
}

/// What the reference tool has a rule for, in its order.
struct Rule {
    /// `blkid`'s names for it.
    kinds: &'static [&'static str],
    /// The reference's.
    name: &'static str,
    size: SizeRule,
}

enum SizeRule {
    Refuse,
    /// Asked of LVM.
    Lvm,
    /// Told by `blkid`, or by the superblock.
    Superblock(fn(&[u8]) -> Option<u64>),
}

const RULES: [Rule; 7] = [
    Rule {
        kinds: &["swap", "swsuspend"],
        name: "swap space signature",
        size: SizeRule::Refuse,
    },
    Rule {
        kinds: &["LVM2_member"],
        name: "LVM2 physical volume signature",
        size: SizeRule::Lvm,
    },
    Rule {
        kinds: &["ext3", "ext4", "ext4dev"],
        name: "ext3 filesystem",
        size: SizeRule::Superblock(ext_size),
    },
    Rule {
        kinds: &["ext2"],
        name: "ext2 filesystem",
        size: SizeRule::Superblock(ext_size),
    },
    Rule {
        kinds: &["xfs"],
        name: "xfs filesystem",
        size: SizeRule::Superblock(|bytes| product(be64(bytes, 8)?, be32(bytes, 4)?)),
    },
    Rule {
        kinds: &["jfs"],
        name: "JFS filesystem",
        size: SizeRule::Superblock(|bytes| product(le64(bytes, 0x8008)?, le32(bytes, 0x8018)?)),
    },
    Rule {
        kinds: &["reiserfs"],
        name: "reiser filesystem",
        size: SizeRule::Superblock(|bytes| {
            product(le32(bytes, 0x10000)?.into(), le16(bytes, 0x1002C)?.into())
        }),
    },
];

/// The reference's words for it where there are any, and its size.
fn describe(path: &Path, found: Found, start: &[u8]) -> (String, Size) {
    let rule = |rule: &&Rule| rule.kinds.contains(&found.kind.as_str());
    let Some(rule) = RULES.iter().find(rule) else {
        return (format!("some data ({})", found.kind), Size::Unknown);
    };
    let size = match rule.size {
        SizeRule::Refuse => None,
        SizeRule::Lvm => lvm_size(path),
        SizeRule::Superblock(read) => found.bytes.or_else(|| read(start)),
    };
    (rule.name.to_owned(), size.map_or(Size::Refuse, Size::Bytes))
}

fn ext_size(bytes: &[u8]) -> Option<u64> {
    const WIDE_BLOCK_NUMBERS: u32 = 0x80;
    let wide = le32(bytes, 0x460)? & WIDE_BLOCK_NUMBERS != 0;
    let high = if wide { le32(bytes, 0x550)? } else { 0 };
    let blocks = u64::from(high) << 32 | u64::from(le32(bytes, 0x404)?);
    product(blocks, 1024u32.checked_shl(le32(bytes, 0x418)?)?)
}

fn product(blocks: u64, size: u32) -> Option<u64> {
    Some(blocks.saturating_mul(size.into()))
}

fn array<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk::<N>().copied()
}

fn le16(bytes: &[u8], offset: usize) -> Option<u16> {
    array(bytes, offset).map(u16::from_le_bytes)
}

fn le32(bytes: &[u8], offset: usize) -> Option<u32> {
    array(bytes, offset).map(u32::from_le_bytes)
}

fn le64(bytes: &[u8], offset: usize) -> Option<u64> {
    array(bytes, offset).map(u64::from_le_bytes)
}

fn be32(bytes: &[u8], offset: usize) -> Option<u32> {
    array(bytes, offset).map(u32::from_be_bytes)
}

fn be64(bytes: &[u8], offset: usize) -> Option<u64> {
    array(bytes, offset).map(u64::from_be_bytes)
}

/// Where `blkid` is; the paths of ordinary users often lack the directories of system programs.
const BLKID: [&str; 3] = ["blkid", "/usr/sbin/blkid", "/sbin/blkid"];

/// Asks `blkid` for signatures of some types.
fn probe(path: &Path, types: &str) -> Result<Content, Unknown> {
    let run = |program: &&str| {
        Command::new(program)
            .args(["--probe", "--match-types", types, "--output", "export"])
            .arg(path)
            .stdin(Stdio::null())
            .output()
    };
    let mut runs = BLKID.iter().map(run);
    let there = runs.find(|ran| !matches!(ran, Err(e) if e.kind() == io::ErrorKind::NotFound));
    let output = there
        .unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()))
        .map_err(Unknown::NotRun)?;
    const NOTHING: i32 = 2;
    const AMBIVALENT: i32 = 8;
    match output.status.code() {
        Some(0) => parse(&output),
        Some(NOTHING) => Ok(Content::Nothing),
        Some(AMBIVALENT) => Ok(Content::Several),
        _ => Err(failed(&output)),
    }
}

fn parse(output: &Output) -> Result<Content, Unknown> {
    let text = String::from_utf8_lossy(&output.stdout);
    let value = |name: &str| {
        let mut values = text.lines().filter_map(|line| line.strip_prefix(name));
        values.find(|value| !value.is_empty())
    };
    if let Some(kind) = value("TYPE=") {
        let number = |name| value(name)?.parse::<u64>().ok();
        let blocks = number("FSLASTBLOCK=").zip(number("FSBLOCKSIZE="));
        return Ok(Content::Type(Found {
            kind: kind.to_owned(),
            bytes: blocks.map(|(blocks, size)| blocks.saturating_mul(size)),
        }));
    }
    match value("PTTYPE=") {
        Some(kind) => Ok(Content::Partitions(kind.to_owned())),
        None => Err(failed(output)),
    }
}

fn failed(output: &Output) -> Unknown {
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().next().unwrap_or_default();
    Unknown::Failed(if first.is_empty() {
        output.status.to_string()
    } else {
        first.to_owned()
    })
}

/// The size of an LVM physical volume in bytes, asked of LVM.
fn lvm_size(path: &Path) -> Option<u64> {
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
    use super::{Content, Found, Size, describe, parse};
    use std::os::unix::process::ExitStatusExt;
    use std::path::Path;
    use std::process::{ExitStatus, Output};

    /// The size of what `blkid` names, read from the superblock.
    #[test]
    fn sizes() {
        let with = |kind: &str, pieces: &[(usize, &[u8])]| {
            let mut bytes = vec![0u8; 69632];
            for (offset, piece) in pieces {
                bytes[*offset..offset + piece.len()].copy_from_slice(piece);
            }
            let kind = kind.to_owned();
            describe(Path::new("/"), Found { kind, bytes: None }, &bytes)
        };
        let named = |name: &str, size| (name.to_owned(), size);
        let blocks: (usize, &[u8]) = (0x404, &[0, 1, 0, 0]);
        assert_eq!(
            with("ext2", &[blocks]),
            named("ext2 filesystem", Size::Bytes(262_144))
        );
        assert_eq!(
            with("ext4", &[blocks, (0x418, &[2])]),
            named("ext3 filesystem", Size::Bytes(1_048_576))
        );
        let wide = [blocks, (0x418, &[2][..]), (0x550, &[1])];
        assert_eq!(with("ext4", &wide).1, Size::Bytes(1_048_576));
        let wide = [&wide[..], &[(0x460, &[0x80])]].concat();
        assert_eq!(with("ext4", &wide).1, Size::Bytes((1 << 44) + 1_048_576));
        // Nonsense is no reason to go on.
        assert_eq!(with("ext4", &[(0x418, &[32])]).1, Size::Refuse);
        let xfs = [&b"XFSB\0\0\x10\0"[..], &[0, 0, 0, 0, 0, 0, 0, 3]].concat();
        assert_eq!(
            with("xfs", &[(0, &xfs)]),
            named("xfs filesystem", Size::Bytes(12288))
        );
        let jfs: [(usize, &[u8]); 2] = [(0x8008, &[5]), (0x8019, &[0x10])];
        assert_eq!(
            with("jfs", &jfs),
            named("JFS filesystem", Size::Bytes(20480))
        );
        let reiser: [(usize, &[u8]); 2] = [(0x10000, &[7]), (0x1002D, &[0x10])];
        assert_eq!(
            with("reiserfs", &reiser),
            named("reiser filesystem", Size::Bytes(28672))
        );
        assert_eq!(
            with("swap", &[]),
            named("swap space signature", Size::Refuse)
        );
        assert_eq!(
            with("btrfs", &[]),
            named("some data (btrfs)", Size::Unknown)
        );
        let kind = "xfs".to_owned();
        let short = describe(Path::new("/"), Found { kind, bytes: None }, &[]);
        assert_eq!(short.1, Size::Refuse);
    }

    #[test]
    fn answers_of_blkid() {
        let answer = |text: &str| {
            parse(&Output {
                status: ExitStatus::from_raw(0),
                stdout: text.into(),
                stderr: Vec::new(),
            })
        };
        assert_eq!(
            answer("DEVNAME=x\nFSSIZE=1\nFSLASTBLOCK=16\nFSBLOCKSIZE=4096\nTYPE=xfs\n").unwrap(),
            Content::Type(Found {
                kind: "xfs".into(),
                bytes: Some(65536)
            })
        );
        assert_eq!(
            answer("DEVNAME=x\nPTTYPE=gpt\n").unwrap(),
            Content::Partitions("gpt".into())
        );
        assert!(answer("").is_err());
    }
}
