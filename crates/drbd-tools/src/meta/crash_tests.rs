//! A command that is killed at any of its writes leaves the old or the new metadata usable.
//!
//! Each command runs once and its writes are recorded. Then every state of the disk that a crash
//! could leave is built: all writes up to some point, in whole blocks; and, as nothing orders writes
//! between two flushes, any choice of those since the last one. From each the disk is brought back
//! with `apply-al`, as before every attach, and must say what the old or the new metadata says: the
//! same generation, and at least the same blocks out of sync.
#![allow(clippy::unwrap_used, clippy::panic)] // test code

use super::console::Outputs;
use super::device::journal::{self, Step};
use super::execute;
use super::record::{Record, Version};
use drbd_meta::activity_log::{AlHeader, AlUpdate, FREE};
use drbd_meta::flags::{LocalFlags, PeerFlags};
use drbd_meta::geometry::{MdIndex, Placement};
use drbd_meta::superblock::{Format, Superblock, V07Superblock};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;

const BLOCK: usize = 4096;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn silent() -> Outputs {
    Outputs {
        out: Box::new(std::io::sink()),
        err: Box::new(std::io::sink()),
    }
}

/// A device in a file, and what is remembered of it beside it.
struct Disk {
    directory: tempfile::TempDir,
    version: Version,
    index: &'static str,
}

impl Disk {
    fn new(version: Version, index: &'static str, size: usize) -> Self {
        let disk = Self {
            directory: tempfile::tempdir_in("/dev/shm")
                .or_else(|_| tempfile::tempdir())
                .unwrap(),
            version,
            index,
        };
        disk.store(&vec![0; size]);
        disk
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("disk")
    }

    fn lkbd(&self) -> PathBuf {
        self.directory.path().join("drbd-minor--1.lkbd")
    }

    fn store(&self, bytes: &[u8]) {
        fs::write(self.path(), bytes).unwrap();
    }

    fn load(&self) -> Vec<u8> {
        fs::read(self.path()).unwrap()
    }

    /// Runs a command; returns its exit code and what it wrote.
    fn run(&self, command: &str) -> (u8, Vec<Step>) {
        journal::take();
        let code = self.execute(command, silent());
        (code, journal::take())
    }

    fn execute(&self, command: &str, outputs: Outputs) -> u8 {
        let directory = self.directory.path().to_str().unwrap();
        let (version, device) = (self.version.to_string(), self.path());
        let mut arguments = vec![
            "--force",
            "--var-lib-drbd",
            directory,
            "-",
            &version,
            device.to_str().unwrap(),
            self.index,
        ];
        arguments.extend(command.split_whitespace());
        let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
        // A process that another thread is just starting would hold the lock of this device, too.
        let _guard = ONE_AT_A_TIME.lock();
        execute(&arguments, outputs).unwrap_or_else(|failure| failure.code())
    }

    fn ok(&self, command: &str) -> Vec<Step> {
        let (code, steps) = self.run(command);
        assert_eq!(code, 0, "{command}");
        steps
    }

    /// A dump of the metadata, in a file.
    fn dump(&self) -> PathBuf {
        let path = self.directory.path().join("dump");
        let outputs = Outputs {
            out: Box::new(fs::File::create(&path).unwrap()),
            ..silent()
        };
        assert_eq!(self.execute("dump-md", outputs), 0);
        path
    }

    fn placement(&self, bytes: &[u8]) -> Placement {
        let index = match (self.index, self.version) {
            ("internal", Version::V07) => MdIndex::FixedInternal,
            ("internal" | "flex-internal", _) => MdIndex::Internal,
            _ => MdIndex::FlexExternal,
        };
        Placement {
            index,
            device_size: u64::try_from(bytes.len()).unwrap(),
        }
    }

    /// The metadata at its place.
    fn record(&self, bytes: &[u8]) -> Option<(Record, u64)> {
        let placement = self.placement(bytes);
        let offset = usize::try_from(placement.superblock_offset().unwrap()).unwrap();
        let block = bytes[offset..].first_chunk::<BLOCK>().unwrap();
        let found = Record::parse(self.version, block, placement).ok()?;
        Some((found.record, found.geometry.bitmap_sector() * 512))
    }

    /// Changes the superblock.
    fn edit(&self, change: impl FnOnce(&mut Superblock)) {
        let mut bytes = self.load();
        let (Record::Uuids(mut superblock), _) = self.record(&bytes).unwrap() else {
            panic!("v07");
        };
        change(&mut superblock);
        let at = self.placement(&bytes).superblock_offset().unwrap();
        let at = usize::try_from(at).unwrap();
        bytes[at..at + BLOCK].copy_from_slice(&superblock.encode());
        self.store(&bytes);
    }

    /// Writes something over the bitmap, in a pattern that differs in each slot.
    fn scribble(&self, seed: u8) {
        let mut bytes = self.load();
        let (record, start) = self.record(&bytes).unwrap();
        let length = record.bitmap_layout().unwrap().area_bytes();
        let start = usize::try_from(start).unwrap();
        for (i, byte) in bytes[start..start + usize::try_from(length).unwrap()]
            .iter_mut()
            .enumerate()
        {
            let n = u8::try_from(i * 7 % 251).unwrap().wrapping_add(seed);
            *byte = if n.is_multiple_of(5) { n } else { 0 };
        }
        self.store(&bytes);
    }

    /// Metadata of a crashed node with hot extents.
    fn crashed(&self) {
        self.edit(|superblock| {
            superblock.flags = LocalFlags::from_bits(0x453);
            superblock.current_uuid = 0x1111_2222_3333_4444;
            superblock.history[0] = 0x5555;
        });
        let mut bytes = self.load();
        let (record, bitmap) = self.record(&bytes).unwrap();
        let Record::Uuids(superblock) = &record else {
            panic!("v07");
        };
        let superblock_at = self.placement(&bytes).superblock_offset().unwrap();
        let al = superblock_at.wrapping_add_signed(i64::from(superblock.al_offset) * 512);
        let al = usize::try_from(al).unwrap();
        assert_ne!(bitmap, 0);
        let mut held = vec![FREE; 67];
        for number in 0..5u32 {
            let (slot, extent) = (u16::try_from(number).unwrap(), number * 3);
            let updates = [AlUpdate { slot, extent }];
            let header = AlHeader {
                tr_number: number,
                context_size: 67,
                context_start: 0,
            };
            let at = al + usize::try_from(number).unwrap() * BLOCK;
            let block = bytes[at..].first_chunk_mut::<BLOCK>().unwrap();
            header
                .encode(&updates, held.iter().copied(), block)
                .unwrap();
            held[usize::from(slot)] = extent;
        }
        self.store(&bytes);
    }

    /// What the disk says once it is ready for an attach; `None` without metadata.
    fn view(&self, bytes: &[u8]) -> Option<View> {
        self.store(bytes);
        let recovers = self.run("check-resize").0;
        self.record(&self.load())?;
        assert_eq!(recovers, u8::from(self.version == Version::V07));
        if self.run("apply-al").0 != 0 {
            return None;
        }
        let bytes = self.load();
        let (record, start) = self.record(&bytes)?;
        Some(View::new(&record, &bytes, start))
    }
}

/// What matters of metadata.
#[derive(PartialEq, Eq, Debug)]
struct View {
    /// Everything about generations, sizes and the state of the data.
    identity: String,
    /// The bitmap, a set bit for every block that is out of sync, whyever that is known.
    out_of_sync: Vec<u8>,
}

impl View {
    fn new(record: &Record, bytes: &[u8], start: u64) -> Self {
        let layout = record.bitmap_layout().unwrap();
        let start = usize::try_from(start).unwrap();
        let length = usize::try_from(layout.area_bytes()).unwrap();
        let mut out_of_sync = bytes[start..start + length].to_vec();
        let slots = usize::from(layout.slots());
        // Whoever belongs to no slot takes one over as it is, flag and all.
        let (identity, full): (String, BTreeSet<usize>) = match record {
            Record::V07(v07) => {
                let mut same = *v07;
                same.flags &= V07Superblock::CONSISTENT;
                let full = v07.flags & V07Superblock::FULL_SYNC != 0;
                (format!("{same:?}"), full.then_some(0).into_iter().collect())
            }
            Record::Uuids(superblock) => {
                let mut same = superblock.clone();
                same.flags &= LocalFlags::CONSISTENT
                    | LocalFlags::WAS_UP_TO_DATE
                    | LocalFlags::CRASHED_PRIMARY;
                for peer in &mut same.peers {
                    peer.flags.remove(PeerFlags::FULL_SYNC);
                }
                let has = |peer: &drbd_meta::superblock::PeerEntry| {
                    peer.flags.contains(PeerFlags::FULL_SYNC)
                };
                let full = match superblock.magic.format() {
                    Format::V08 => {
                        let all = superblock.flags.contains(LocalFlags::FULL_SYNC);
                        all.then_some(0).into_iter().collect()
                    }
                    Format::V09 if superblock.peers.iter().all(has) => (0..slots).collect(),
                    Format::V09 => {
                        let peers = superblock.peers.iter().filter(|peer| has(peer));
                        peers
                            .filter_map(|peer| peer.bitmap_index.map(usize::from))
                            .collect()
                    }
                };
                (format!("{same:?}"), full)
            }
        };
        for (n, word) in out_of_sync.chunks_mut(4).enumerate() {
            if full.contains(&(n % slots)) {
                word.fill(0xff);
            }
        }
        Self {
            identity,
            out_of_sync,
        }
    }

    /// Whether a node that starts with this loses nothing of what `other` knows.
    fn is_as_good_as(&self, other: &Self) -> bool {
        let enough = |(mine, theirs): (&u8, &u8)| mine & theirs == *theirs;
        self.identity == other.identity
            && self.out_of_sync.len() == other.out_of_sync.len()
            && self.out_of_sync.iter().zip(&other.out_of_sync).all(enough)
    }
}

fn put(bytes: &mut [u8], offset: u64, piece: &[u8]) {
    let at = usize::try_from(offset).unwrap();
    bytes[at..at + piece.len()].copy_from_slice(piece);
}

/// Every state of the disk that a crash in the middle of these steps may leave.
fn crashes(before: &[u8], steps: &[Step], mut check: impl FnMut(&str, &[u8])) {
    let mut durable = before.to_vec();
    let mut pending: Vec<(u64, &[u8])> = Vec::new();
    let mut random = 0x9E37_79B9_7F4A_7C15u64;
    check("before", before);
    for (number, step) in steps.iter().enumerate() {
        match step {
            Step::Sync => {
                for (offset, block) in pending.drain(..) {
                    put(&mut durable, offset, block);
                }
            }
            Step::Write { offset, bytes } => {
                let mut offset = *offset;
                for block in bytes.chunks(BLOCK) {
                    pending.push((offset, block));
                    offset += u64::try_from(block.len()).unwrap();
                    let mut prefix = durable.clone();
                    for (offset, block) in &pending {
                        put(&mut prefix, *offset, block);
                    }
                    check(&format!("step {number}, block at {offset}"), &prefix);
                }
                for choice in 0..4 {
                    let mut some = durable.clone();
                    for (offset, block) in &pending {
                        random ^= random << 13;
                        random ^= random >> 7;
                        random ^= random << 17;
                        if random & 1 == 1 {
                            put(&mut some, *offset, block);
                        }
                    }
                    check(&format!("step {number}, choice {choice}"), &some);
                }
            }
        }
    }
    assert!(pending.is_empty(), "the command ended without a flush");
}

/// Runs `command` and tries all crashes of it.
fn survives(disk: &Disk, command: &str) {
    let before = disk.load();
    let lkbd = fs::read(disk.lkbd()).ok();
    let remember = || match &lkbd {
        Some(text) => fs::write(disk.lkbd(), text).unwrap(),
        None => drop(fs::remove_file(disk.lkbd())),
    };
    let steps = disk.ok(command);
    let after = disk.load();
    remember();
    let old = disk.view(&before);
    remember();
    let new = disk.view(&after);
    let good = [&old, &new];
    let mut tried = 0u32;
    crashes(&before, &steps, |when, bytes| {
        remember();
        let found = disk.view(bytes);
        let usable = match &found {
            None => good.iter().any(|side| side.is_none()),
            Some(found) => good
                .iter()
                .filter_map(|side| side.as_ref())
                .any(|side| found.is_as_good_as(side)),
        };
        assert!(
            usable,
            "{command}: {when}: {found:?}\nold {old:?}\nnew {new:?}"
        );
        // Killed or not, the command can be given again.
        if tried.is_multiple_of(8) {
            assert_eq!(disk.run(command).0, 0, "{command}, again, after {when}");
        }
        tried += 1;
    });
    assert!(tried > 1 || steps.is_empty(), "{command} wrote nothing");
}

const MIB: usize = 1 << 20;

fn used(version: Version, index: &'static str, create: &str) -> Disk {
    let disk = Disk::new(version, index, 2 * MIB);
    disk.ok(create);
    match version {
        Version::V07 => {
            disk.ok("set-gi 1:2:3:4:5:1");
        }
        _ => {
            disk.ok("write-dev-uuid 77");
            disk.edit(|superblock| {
                superblock.effective_size = if index == "flex-external" {
                    80_000
                } else {
                    2_500
                };
                superblock.current_uuid = 0xAAAA;
                superblock.node_id = (version == Version::V09).then_some(0);
                superblock.peers[0].bitmap_uuid = 0xBBBA;
                if version == Version::V09 {
                    superblock.peers[0] = Default::default();
                    for slot in 0..superblock.max_peers.min(2) {
                        let peer = &mut superblock.peers[usize::from(slot) + 1];
                        peer.bitmap_index = Some(slot);
                        peer.bitmap_uuid = 0xCCC0 + u64::from(slot);
                        peer.flags = PeerFlags::DEVICE_SEEN;
                    }
                    superblock.peers[31].bitmap_uuid = 0xDA70;
                }
                superblock.flags = LocalFlags::from_bits(0x491);
            });
            disk.scribble(3);
        }
    }
    disk
}

#[test]
fn single_blocks() {
    for (version, create, commands) in [
        (
            Version::V09,
            "create-md 3",
            &[
                "set-gi -i 1 1:2:3:4:0:0",
                "outdate",
                "invalidate",
                "write-dev-uuid 99",
                "repair-md",
                "check-resize",
                "wipe-md",
            ][..],
        ),
        (
            Version::V08,
            "create-md",
            &["set-gi 1:2", "outdate", "wipe-md"],
        ),
        (
            Version::V07,
            "create-md",
            &["set-gi 1:2", "invalidate", "wipe-md"],
        ),
    ] {
        for command in commands {
            let index = if version == Version::V07 {
                "flex-internal"
            } else {
                "internal"
            };
            survives(&used(version, index, create), command);
        }
    }
}

#[test]
fn apply_al() {
    for (version, index, create) in [
        (Version::V09, "internal", "create-md 3"),
        (Version::V09, "flex-external", "create-md 2 -s 2"),
        (Version::V08, "internal", "create-md"),
    ] {
        let disk = used(version, index, create);
        disk.crashed();
        survives(&disk, "apply-al");
    }
}

#[test]
fn forget_peer() {
    for create in ["create-md 3", "create-md 2"] {
        let disk = used(Version::V09, "flex-external", create);
        survives(&disk, "forget-peer -i 2");
    }
    survives(&used(Version::V08, "internal", "create-md"), "forget-peer");
}

#[test]
fn create_md() {
    survives(&Disk::new(Version::V09, "internal", MIB), "create-md 3");
    survives(&Disk::new(Version::V07, "flex-internal", MIB), "create-md");
    for (index, create) in [
        ("internal", "create-md 3"),
        ("internal", "create-md 1 -s 3 -z 64"),
        ("flex-external", "create-md 5"),
    ] {
        let disk = used(Version::V09, index, "create-md 2");
        disk.crashed();
        survives(&disk, create);
    }
}

#[test]
fn conversions() {
    for (from, to, create) in [
        (Version::V08, Version::V09, "create-md 1"),
        (Version::V09, Version::V08, "create-md"),
        (Version::V07, Version::V08, "create-md"),
        (Version::V07, Version::V09, "create-md 1"),
    ] {
        let index = "flex-internal";
        let first = if from == Version::V09 {
            "create-md 1"
        } else {
            "create-md"
        };
        let mut disk = used(from, index, first);
        disk.version = to;
        // A single block again: the old version is there, or the new one.
        let steps = disk.ok(create);
        let writes = steps
            .iter()
            .filter(|step| matches!(step, Step::Write { .. }));
        assert_eq!(writes.count(), 1, "{from} to {to}");
    }
}

#[test]
fn restore_md() {
    for (index, other) in [
        ("internal", None),
        ("internal", Some("create-md 3")),
        ("internal", Some("create-md 1 -s 2")),
        ("flex-external", Some("create-md 2")),
    ] {
        let source = used(Version::V09, index, "create-md 3");
        let text = source.dump();
        let disk = match other {
            Some(create) => {
                let disk = used(Version::V09, index, create);
                disk.crashed();
                disk
            }
            None => Disk::new(Version::V09, index, 2 * MIB),
        };
        survives(&disk, &format!("restore-md {}", text.display()));
    }
}

#[test]
fn a_grown_device() {
    for (create, growth, command) in [
        ("create-md 1", 4096, "check-resize"),
        ("create-md 3", 8192, "check-resize"),
        ("create-md 3", 8192, "apply-al"),
        ("create-md 3", 36864, "check-resize"),
        ("create-md 31", 3 * MIB, "check-resize"),
        ("create-md 2", 5 * MIB, "apply-al"),
        ("create-md 2", 16384, "create-md 2"),
    ] {
        let disk = used(Version::V09, "internal", create);
        disk.crashed();
        let mut bytes = disk.load();
        bytes.resize(bytes.len() + growth, 0);
        disk.store(&bytes);
        survives(&disk, command);
    }
}
