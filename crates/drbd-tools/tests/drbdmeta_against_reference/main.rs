//! Our `drbdmeta` beside the reference tool, if that is installed: generated metadata and commands,
//! compared by bytes on the disk, standard output, messages and exit codes.
//!
//! The cases differ with `DRBDMETA_SEED`, their number with `DRBDMETA_CASES`. Where ours differs on
//! purpose (docs/drbdmeta.md) the comparison is masked, in `pair`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests

mod blocks;
mod cases;
mod dumps;
mod generated;
mod pair;

use cases::Case;
use drbd_meta::geometry::{AlStriping, BitmapBlockSize, Geometry, MdIndex, Placement};
use drbd_meta::superblock::Format;
use pair::{Pair, REFERENCE_IN_USE, reference};

fn number_from(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is no number")),
        Err(_) => default,
    }
}

fn internal(device_size: u64, format: Format, slots: u8) -> Case {
    let placement = Placement {
        index: MdIndex::Internal,
        device_size,
    };
    let block_size = BitmapBlockSize::DEFAULT;
    let geometry = Geometry::new(placement, slots, block_size, AlStriping::DEFAULT).unwrap();
    Case { format, geometry }
}

#[test]
fn command_lines_and_exit_codes() {
    let Some(reference) = reference() else { return };
    let _guard = REFERENCE_IN_USE.lock();
    for (format, lines) in [
        (
            Format::V09,
            &[
                ("dump-md", 1),
                ("get-gi --node-id 0", 1),
                ("wipe-md", 0),
                ("outdate", 1),
                ("invalidate", 1),
                ("dstate", 1),
                ("apply-al", 1),
                ("create-md", 20),
                ("create-md 0", 20),
                ("create-md 32", 20),
                ("create-md 2 3", 0),
                ("create-md 3 -p 4k", 0),
                ("show-gi -i 3", 0),
                ("create-md 3 --peer-max-bio-size=1s", 0),
                ("show-gi", 10),
                ("dump-md --node-id 3", 10),
                ("dump-md extra", 0),
                ("dump-md -p 4096", 10),
                ("dump-md --al-stripes 2", 10),
                ("create-md 3 --al-stripes 0", 10),
                ("create-md 3 --al-stripe-size-kB 64M", 10),
                ("create-md 3 --al-stripe-size-kB x", 20),
                ("get-gi --node-id=32", 10),
                ("set-gi -i 1", 10),
                ("set-gi -i 1 5:6:7:8:2", 10),
                ("set-gi -i 1 5:6:7:8:1:0:1:1:1:1:1:1:1:1:1:1:9:9", 0),
                ("show-gi --node-id 1", 0),
                ("dump-md", 0),
                ("write-dev-uuid 12aG", 0),
                ("read-dev-uuid", 0),
                ("outdate", 0),
                ("invalidate", 0),
                ("outdate", 5),
                ("no-such-command", 20),
                ("wipe-md", 0),
                ("wipe-md", 0),
            ][..],
        ),
        (
            Format::V08,
            &[
                ("create-md", 0),
                ("create-md", 0),
                ("set-gi 1:2:3:4:1:1:1:1:1:1:1", 0),
                ("get-gi", 0),
                ("show-gi", 0),
                ("dump-md", 0),
                ("dstate", 0),
                ("outdate", 0),
                ("dstate", 0),
                ("invalidate", 0),
                ("outdate", 5),
                ("show-gi", 0),
                ("apply-al", 0),
            ][..],
        ),
    ] {
        let mut pair = internal(64 << 20, format, 3).pair(&reference);
        for (line, code) in lines {
            assert_eq!(pair.command(line), *code, "{line}");
        }
    }
}

#[test]
fn v07_in_all_places() {
    let Some(reference) = reference() else { return };
    let _guard = REFERENCE_IN_USE.lock();
    const SIZE: u64 = 144 << 20;
    for (index, superblock) in [
        ("internal", SIZE - (128 << 20)),
        ("flex-internal", SIZE - 4096),
        ("flex-external", 0),
        ("0", 0),
    ] {
        let mut pair = Pair::new(&reference, "v07", index, SIZE);
        pair.superblock = superblock;
        for (line, code) in [
            ("create-md", 0),
            ("dump-md", 0),
            ("get-gi", 0),
            ("set-gi 1:7:8:9:10:1:1:1", 0),
            ("show-gi", 0),
            ("dstate", 0),
            ("outdate", 5),
            ("apply-al", 0),
            ("invalidate", 0),
            ("get-gi --node-id 3", 0),
            ("read-dev-uuid", 0),
            ("write-dev-uuid 12", 0),
            ("set-gi 2", 10),
            ("set-gi 1:0x10:010:99999999999", 10),
            ("check-resize", 1),
            ("create-md --al-stripes=2", 0),
            ("create-md", 0),
        ] {
            assert_eq!(pair.command(line), code, "{line}");
        }
        let al = if index == "flex-internal" {
            superblock - 32768
        } else {
            superblock + 4096
        };
        // An old-style log: slot 0 has extent 3, then 5.
        for (n, extent) in [3u32, 5].into_iter().enumerate() {
            let mut sector = [0xff; 512];
            let number = u32::try_from(n).unwrap();
            sector[..4].copy_from_slice(&0x8374_0267u32.to_be_bytes());
            sector[4..8].copy_from_slice(&number.to_be_bytes());
            sector[8..12].copy_from_slice(&0u32.to_be_bytes());
            sector[12..16].copy_from_slice(&extent.to_be_bytes());
            let xor = extent ^ u32::MAX;
            sector[504..508].copy_from_slice(&xor.to_be_bytes());
            pair.poke(al + u64::from(number) * 512, &sector);
        }
        pair.poke(superblock, &60_000u64.to_be_bytes());
        assert_eq!(pair.command("set-gi 1:1:1:1:1:1"), 0);
        assert_eq!(pair.command("apply-al"), 0);
        assert_eq!(pair.command("dump-md"), 0);
        // A dump of v07 says that it must not be restored; without that line it can be.
        let dump = pair.run_side("reference", &pair::words("dump-md")).stdout;
        let dump = String::from_utf8(dump)
            .unwrap()
            .replace("This_is", "# This_is");
        pair.put("dump", dump.as_bytes());
        assert_eq!(pair.command("wipe-md"), 0);
        assert_eq!(pair.command("dump-md"), 1);
        assert_eq!(pair.command("wipe-md"), 0);
        // The reference leaves the log as it is; ours initialises it.
        pair.poke(al, &[0; 32768]);
        pair.only = Some(&["Found ", "Successfully restored meta data"]);
        assert_eq!(pair.command("restore-md dump"), 0);
        pair.only = None;
        assert_eq!(pair.command("dump-md"), 0);
        // To a version that can be attached; 128 MiB of fixed size keep log and bitmap elsewhere.
        if index == "internal" {
            continue;
        }
        pair.format = "v09";
        assert_eq!(pair.command("create-md 3"), 0);
        assert_eq!(pair.command("dump-md"), 0);
        pair.format = "v08";
        assert_eq!(pair.command("create-md"), 0);
        assert_eq!(pair.command("get-gi"), 0);
    }
}

/// Single fields of a good superblock that are not good.
#[test]
fn damaged_superblocks() {
    let Some(reference) = reference() else { return };
    let _guard = REFERENCE_IN_USE.lock();
    for (format, index, create, fields) in [
        (
            "v09",
            "internal",
            "create-md 3",
            &[56, 60, 64, 68, 72, 76, 84, 88, 92, 96, 100, 132, 164][..],
        ),
        (
            "v09",
            "flex-external",
            "create-md 3",
            &[60, 68, 76, 88, 92, 96, 100][..],
        ),
        (
            "v08",
            "internal",
            "create-md",
            &[60, 64, 68, 76, 88, 92][..],
        ),
        (
            "v07",
            "flex-internal",
            "create-md",
            &[28, 32, 36, 40, 44][..],
        ),
    ] {
        const SIZE: u64 = 8 << 20;
        let mut pair = Pair::new(&reference, format, index, SIZE);
        pair.superblock = if index == "flex-external" {
            0
        } else {
            SIZE - 4096
        };
        for field in fields {
            for value in [0u32, 1, 31, 77, 999, 0xffff_fffe] {
                // The reference takes more slots than it knows for as many as it knows, and cuts a
                // size in KiB that is too large in sectors.
                if format == "v09" && *field == 88 && value > 31
                    || format == "v07" && *field == 32 && value > 999
                {
                    continue;
                }
                // Ours says that the striping is impossible, not what follows from it.
                let striping = match format {
                    "v09" => &[96, 100][..],
                    "v08" => &[88, 92],
                    _ => &[],
                };
                // What was damaged before is found now.
                pair.messages = false;
                pair.command(create);
                pair.messages = !striping.contains(field);
                pair.poke(pair.superblock + field, &value.to_be_bytes());
                pair.log.push(format!("field {field} = {value}"));
                let node = if format == "v09" { " --node-id 1" } else { "" };
                // More of the log than there is: the reference reads behind the device.
                if format == "v09" && [96, 100].contains(field) && value > 1000 {
                    continue;
                }
                pair.command(&format!("get-gi{node}"));
                pair.command(&format!("show-gi{node}"));
                pair.command("dstate");
            }
        }
    }
}

#[test]
fn converts_between_v08_and_v09() {
    let Some(reference) = reference() else { return };
    let _guard = REFERENCE_IN_USE.lock();
    let mut pair = internal(64 << 20, Format::V08, 1).pair(&reference);
    pair.command("create-md");
    pair.command("set-gi 1110:2220:3330:4440:1:1:1:1:1:1:1");
    pair.command("write-dev-uuid dededededededede");
    pair.poke(pair.superblock - 36864, &[0x5a; 100]);
    pair.format = "v09";
    assert_eq!(pair.command("create-md 1"), 0);
    pair.command("dump-md");
    pair.command("set-gi --node-id 0 :aaaaaaaaaaaaaaa0");
    pair.format = "v08";
    assert_eq!(pair.command("create-md"), 0);
    pair.command("get-gi");
    pair.command("dump-md");
}

/// The lines about existing data that scripts may look for.
const KEY_LINES: &[&str] = &[
    "_offset ",
    "Found ",
    " kB ",
    "This would corrupt existing data.",
    "Device size would be truncated, which",
    "would corrupt data and result in",
    "'access beyond end of device' errors.",
    "Ignoring sanity check",
    "Operation refused.",
    "initializing activity log",
    "Writing meta data...",
    "New drbd meta data block successfully created.",
];

#[test]
fn existing_data() {
    let Some(reference) = reference() else { return };
    let _guard = REFERENCE_IN_USE.lock();
    let ext = |kib: u32| {
        let mut bytes = vec![0u8; 69632];
        bytes[0x438..0x43a].copy_from_slice(&0xEF53u16.to_le_bytes());
        bytes[0x404..0x408].copy_from_slice(&(kib / 4).to_le_bytes());
        bytes[0x418] = 2;
        bytes
    };
    let mut swap = vec![0u8; 69632];
    swap[4086..4096].copy_from_slice(b"SWAPSPACE2");
    // Its version, and its last page: `blkid` looks at both.
    (swap[1024], swap[1028]) = (1, 100);
    for (data, line, code) in [
        (ext(65_000), "create-md 1", 0),
        (ext(65_536), "create-md 1", 40),
        (ext(65_536), "create-md 1 --ignore-sanity-checks", 40),
        (swap.clone(), "create-md 1", 40),
        (swap, "create-md 1 --ignore-sanity-checks", 0),
    ] {
        let mut pair = internal(64 << 20, Format::V09, 1).pair(&reference);
        pair.poke(0, &data);
        pair.only = Some(KEY_LINES);
        assert_eq!(pair.command(line), code, "{line}");
    }
    let placement = Placement {
        index: MdIndex::FlexExternal,
        device_size: 4 << 20,
    };
    let block_size = BitmapBlockSize::DEFAULT;
    let geometry = Geometry::new(placement, 1, block_size, AlStriping::DEFAULT).unwrap();
    let format = Format::V09;
    let mut pair = Case { format, geometry }.pair(&reference);
    pair.only = Some(KEY_LINES);
    pair.poke(0, &ext(1024));
    assert_eq!(pair.command("create-md 1"), 40);
}

/// The counters of DRBD 0.6 can be looked at; the reference does not manage to write them.
#[test]
fn v06() {
    let Some(reference) = reference() else { return };
    let _guard = REFERENCE_IN_USE.lock();
    const MINOR: &str = "253";
    const PATH: &str = "/var/lib/drbd/drbd253";
    let counters: [u32; 6] = [0x3d, 2, 30, 4, 5, 0x8374_0269];
    let bytes: Vec<u8> = counters.into_iter().flat_map(u32::to_be_bytes).collect();
    let not_magic = vec![0; 24];
    let short = vec![0; 23];
    for content in [Some(bytes), Some(not_magic), Some(short), None] {
        match &content {
            Some(bytes) if std::fs::write(PATH, bytes).is_err() => {
                eprintln!("*** NOT TESTED: cannot write {PATH}, which needs root ***");
                return;
            }
            Some(_) => {}
            None => std::fs::remove_file(PATH).unwrap(),
        }
        for (line, same_text) in [
            ("get-gi", true),
            ("show-gi", true),
            ("dstate", true),
            ("outdate", true),
            ("read-dev-uuid", true),
            ("apply-al", true),
            ("invalidate", false),
            ("set-gi 1:2:3:4:5", false),
            ("create-md", false),
        ] {
            let run = |program: &std::path::Path| {
                let mut command = std::process::Command::new(program);
                command.args(["--force", "-", "v06", MINOR]);
                let output = command.args(line.split(' ')).output().unwrap();
                let lines = String::from_utf8(output.stderr).unwrap();
                (output.status.code(), output.stdout, lines)
            };
            let [theirs, ours] = [reference.as_path(), std::path::Path::new(pair::OURS)].map(run);
            assert_eq!(ours.0, theirs.0, "{line}: {theirs:?} {ours:?}");
            if same_text {
                assert_eq!(ours.1, theirs.1, "{line}");
            }
            let is_short = content.as_ref().is_some_and(|bytes| bytes.len() < 24);
            if same_text && !is_short && line != "apply-al" {
                assert_eq!(ours.2, theirs.2, "{line}");
            }
        }
        let now = std::fs::read(PATH).ok();
        assert_eq!(now, content);
    }
}

/// File systems as their own tools make them.
#[test]
fn real_file_systems() {
    let Some(reference) = reference() else { return };
    let _guard = REFERENCE_IN_USE.lock();
    for (maker, line, code) in [
        ("mkfs.ext2 -q", "create-md 1", 40),
        ("mkfs.ext3 -q", "create-md 1", 40),
        ("mkfs.ext4 -q", "create-md 1 --ignore-sanity-checks", 40),
        ("mkfs.ext4 -q -b 4096", "create-md 1", 40),
        ("mkfs.xfs -q -f", "create-md 1", 40),
        ("mkswap -q", "create-md 1", 40),
        ("mkswap -q", "create-md 1 --ignore-sanity-checks", 0),
        // It leaves room, except for more peers.
        ("mkfs.ext4 -q -b 1024", "create-md 1 SMALL", 0),
        ("mkfs.ext2 -q -b 2048", "create-md 31 SMALL", 0),
    ] {
        let mut pair = internal(320 << 20, Format::V09, 1).pair(&reference);
        pair.only = Some(KEY_LINES);
        let (line, small) = match line.strip_suffix(" SMALL") {
            Some(line) => (line, true),
            None => (line, false),
        };
        let [first, second] = pair::SIDES.map(|side| pair.path(side, "disk"));
        let mut words = maker.split(' ');
        let mut command = std::process::Command::new(words.next().unwrap());
        command.args(words).arg(&first);
        if small {
            let block: u64 = maker.rsplit(' ').next().unwrap().parse().unwrap();
            command.arg(((319 << 20) / block).to_string());
        }
        let Ok(made) = command.output() else {
            eprintln!("*** NOT TESTED: there is no {maker} ***");
            continue;
        };
        assert!(made.status.success(), "{made:?}");
        std::fs::copy(first, second).unwrap();
        assert_eq!(pair.command(line), code, "{maker}: {line}");
    }
}

/// The reference reads what ours moved to the end of a device that has grown.
#[test]
fn a_grown_device() {
    let Some(reference) = reference() else { return };
    let _guard = REFERENCE_IN_USE.lock();
    for (slots, growth) in [(1, 1 << 20), (3, 8192), (3, 400 << 20)] {
        const SIZE: u64 = 64 << 20;
        let mut pair = internal(SIZE, Format::V09, slots).pair(&reference);
        assert_eq!(pair.command(&format!("create-md {slots}")), 0);
        assert_eq!(pair.command("set-gi --node-id 1 5:6:7:8:1:1"), 0);
        pair.poke(pair.superblock, &100_000u64.to_be_bytes());
        for n in 0..9u8 {
            pair.poke(pair.superblock - 36_864 - u64::from(n) * 311, &[n]);
        }
        let dump = |pair: &Pair, tool: &str| {
            let mut command = std::process::Command::new(tool);
            command.args(["--force", "-", "v09", "disk", "internal", "dump-md"]);
            command.current_dir(pair.path("ours", "."));
            let text = String::from_utf8(command.output().unwrap().stdout).unwrap();
            let changes = ["# bits-set", "# 20", "# md_", "# al_", "# bm_"];
            text.lines()
                .filter(|line| !changes.iter().any(|start| line.starts_with(start)))
                .filter(|line| !line.contains("> drbdmeta "))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let before = dump(&pair, pair::OURS);
        pair.remember(SIZE);
        pair.disk("ours").set_len(SIZE + growth).unwrap();
        let moved = pair.run_side("ours", &pair::words("check-resize"));
        assert_eq!(moved.status.code(), Some(0), "{moved:?}");
        let after = dump(&pair, reference.to_str().unwrap());
        assert!(after.len() > 200);
        assert_eq!(after, before);
    }
}
