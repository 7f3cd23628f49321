//! Our `drbdmeta` beside the reference tool, if that is installed: generated metadata and commands,
//! compared by bytes on the disk, standard output, messages and exit codes.
//!
//! The cases differ with `DRBDMETA_SEED`, their number with `DRBDMETA_CASES`. Known defects of the
//! reference (metadata, section 12) are masked: what `masked_*` leave out is ours on purpose.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests

mod cases;

use cases::{Case, Random, random_bitmap, random_gi, random_ring, random_superblock, usize_of};
use drbd_meta::activity_log::encode_initialised;
use drbd_meta::geometry::{AlStriping, BitmapBlockSize, Geometry, MdIndex, Placement};
use drbd_meta::superblock::{Format, Superblock};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const OURS: &str = env!("CARGO_BIN_EXE_drbdmeta");
/// Where the reference remembers the device of DEVICE `-`; in the way of the next case.
const REFERENCE_LKBD: &str = "/var/lib/drbd/drbd-minor--1.lkbd";

fn reference() -> Option<PathBuf> {
    let found = ["/usr/sbin/drbdmeta", "/sbin/drbdmeta"].map(PathBuf::from);
    let found = found.into_iter().find(|path| path.is_file());
    if found.is_none() {
        eprintln!(
            "\n*** NOT TESTED: the reference drbdmeta is not installed (package drbd-utils) ***\n"
        );
    }
    found
}

fn reference_version() -> String {
    let output = Command::new("drbdadm").arg("--version").output();
    let text = output
        .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
        .unwrap_or_default();
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("DRBDADM_VERSION="));
    version.unwrap_or("unknown").to_owned()
}

/// The same device twice.
struct Pair {
    directory: tempfile::TempDir,
    reference: PathBuf,
    case: Case,
    log: Vec<String>,
    /// Whether lines of explanation may differ: of those, only these beginnings are compared.
    only: Option<&'static [&'static str]>,
}

const SIDES: [&str; 2] = ["reference", "ours"];

impl Pair {
    fn new(reference: &Path, case: Case) -> Self {
        // Direct I/O wants a real file system; the build's directory has one.
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        for side in SIDES {
            fs::create_dir(directory.path().join(side)).unwrap();
            let file = File::create(directory.path().join(side).join("disk")).unwrap();
            file.set_len(case.geometry.placement().device_size).unwrap();
        }
        Self {
            directory,
            reference: reference.to_owned(),
            case,
            log: Vec::new(),
            only: None,
        }
    }

    fn disk(&self, side: &str) -> PathBuf {
        self.directory.path().join(side).join("disk")
    }

    /// Writes the same to both.
    fn poke(&self, offset: u64, bytes: &[u8]) {
        for side in SIDES {
            let file = OpenOptions::new()
                .write(true)
                .open(self.disk(side))
                .unwrap();
            file.write_all_at(bytes, offset).unwrap();
        }
    }

    fn bytes(&self, side: &str) -> Vec<u8> {
        let (start, length) = self.case.window();
        let mut bytes = vec![0; length];
        File::open(self.disk(side))
            .unwrap()
            .read_exact_at(&mut bytes, start)
            .unwrap();
        bytes
    }

    fn run_side(&self, side: &str, arguments: &[String]) -> Output {
        let program = if side == "ours" {
            Path::new(OURS)
        } else {
            &self.reference
        };
        let mut command = Command::new(program);
        command.arg("--force");
        if side == "ours" {
            command.arg("--var-lib-drbd").arg(self.directory.path());
        } else {
            let _ = fs::remove_file(REFERENCE_LKBD);
        }
        command
            .args([
                "-",
                &self.case.format.to_string(),
                "disk",
                &self.case.index_argument(),
            ])
            .args(arguments)
            .current_dir(self.directory.path().join(side))
            .stdin(std::process::Stdio::null())
            .env("TZ", "UTC");
        command.output().unwrap()
    }

    /// Runs a command on both sides and compares everything.
    fn run(&mut self, arguments: &[String]) -> i32 {
        self.log.push(arguments.join(" "));
        let [theirs, ours] = SIDES.map(|side| self.run_side(side, arguments));
        let context = || {
            format!(
                "{} {:?}\n{:#?}",
                self.case.format, self.case.geometry, self.log
            )
        };
        let code = |output: &Output| match output.status.code() {
            // The generic failure is 1 in 9.22 and 255 in 9.34.
            Some(255) => 1,
            Some(code) => code,
            None => panic!("killed: {output:?}\n{}", context()),
        };
        let (their_code, our_code) = (code(&theirs), code(&ours));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(
            their_code,
            our_code,
            "exit code\n{}\ntheirs: {}\nours: {}",
            context(),
            text(&theirs.stderr),
            text(&ours.stderr)
        );
        let v08 = self.case.format == Format::V08;
        let many = self.case.geometry.slots() > 1;
        let their_text = masked_output(&text(&theirs.stdout), v08, many);
        let our_text = masked_output(&text(&ours.stdout), v08, many);
        let only = |mut lines: Vec<String>| {
            if let Some(only) = self.only {
                lines.retain(|line| only.iter().any(|part| line.contains(part)));
            }
            lines
        };
        let (their_text, our_text) = (only(their_text), only(our_text));
        if let Some(at) = (0..their_text.len().max(our_text.len()))
            .find(|at| their_text.get(*at) != our_text.get(*at))
        {
            let (theirs, ours) = (their_text.get(at), our_text.get(at));
            panic!(
                "output line {at}: theirs {theirs:?}, ours {ours:?}\n{}",
                context()
            );
        }
        assert_eq!(
            masked_messages(&text(&theirs.stderr)),
            masked_messages(&text(&ours.stderr)),
            "messages (left: theirs)\n{}",
            context()
        );
        let (start, _) = self.case.window();
        let superblock = usize_of(self.case.geometry.superblock_sector() * 512 - start);
        let [theirs, ours] = SIDES.map(|side| {
            let mut bytes = self.bytes(side);
            if !v08 {
                // 9.22 does not know the field and clears it.
                bytes[superblock + 16..superblock + 24].fill(0);
            }
            bytes
        });
        if theirs != ours {
            let at = theirs.iter().zip(&ours).position(|(a, b)| a != b).unwrap();
            let offset = start + u64::try_from(at).unwrap();
            let line = at & !15;
            panic!(
                "byte {offset} (superblock {:+}): theirs {:02x?}, ours {:02x?}\n{}",
                i64::try_from(at).unwrap() - i64::try_from(superblock).unwrap(),
                &theirs[line..(line + 16).min(theirs.len())],
                &ours[line..(line + 16).min(ours.len())],
                context()
            );
        }
        our_code
    }

    /// The reference's dump, beside each disk.
    fn dump_to_file(&self) {
        let dump = self.run_side("reference", &["dump-md".to_owned()]).stdout;
        for side in SIDES {
            fs::write(self.directory.path().join(side).join("dump"), &dump).unwrap();
        }
    }

    /// The part of the bitmap that belongs to the effective size: offset, length, and how much of
    /// it is padding at the end.
    fn bitmap_range(&self) -> (u64, usize, u64) {
        let offset = self.case.geometry.superblock_sector() * 512;
        let mut block = [0; 4096];
        File::open(self.disk("ours"))
            .unwrap()
            .read_exact_at(&mut block, offset)
            .unwrap();
        let mut superblock = Superblock::decode(&block).unwrap();
        let usable = self.case.geometry.usable_sectors();
        superblock.effective_size = superblock.effective_size.min(usable);
        let layout = superblock.bitmap_layout().unwrap();
        let padding = layout.area_bytes() - layout.words() * 4 * u64::from(layout.slots());
        let start = self.case.geometry.bitmap_sector() * 512;
        (start, usize_of(layout.area_bytes()), padding)
    }

    fn command(&mut self, line: &str) -> i32 {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        self.run(&arguments)
    }
}

/// Standard output without what differs on purpose or by chance.
fn masked_output(text: &str, v08: bool, many_slots: bool) -> Vec<String> {
    let lines = text.lines().enumerate().filter(|(i, line)| {
        let varies = line.starts_with("# 20") && *i < 4 || line.contains("> drbdmeta ");
        // Ours goes to standard error, where it does not hurt scripts.
        let clipped = line.starts_with("# la-size-sect was too big");
        // 9.22 loses the field.
        let members = line.starts_with("# members ");
        // The reference counts the last slot only.
        let bits = many_slots && line.starts_with("# bits-set");
        // 9.22 prints no flags for v08.
        let flags = v08 && line.starts_with("    flags 0x");
        !(varies || clipped || members || bits || flags)
    });
    lines.map(|(_, line)| line.to_owned()).collect()
}

/// Messages without those about plain files and the system calls used.
fn masked_messages(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| {
        !(line.contains("BLKSSZGET")
            || line.contains("BLKZEROOUT")
            || line.starts_with("initializing bitmap")
            || line.starts_with("# la-size-sect was too big")
            || line.contains(": ASSERT(")
            // Some commands of the reference fail without a word.
            || *line == "No valid meta data found"
            // Where in the line the error is.
            || line.starts_with("line ") && line.contains(", column ")
            || line.contains("O_DIRECT")
            || line.contains("BLKFLSBUF"))
    });
    let mut lines: Vec<String> = lines.map(str::to_owned).collect();
    // An extent that two slots hold is reported twice by the reference.
    lines.dedup();
    lines
}

fn one_case(reference: &Path, seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    for _ in 0..8 {
        random.next();
    }
    let case = Case::random(&mut random);
    let mut pair = Pair::new(reference, case);
    pair.log.push(format!("seed {seed}"));
    if random.chance(20) {
        // Something in the way, that --force overwrites.
        pair.poke(random.below(30_000), b"precious");
    }
    let create = pair.case.create_arguments();
    if pair.run(&create) != 0 {
        // External metadata over data, for example.
        return;
    }
    let v09 = pair.case.format == Format::V09;
    for _ in 0..random.below(3) + 1 {
        let sb = random_superblock(&mut random, &pair.case);
        let sector = |sector: u64| sector * 512;
        pair.poke(sector(pair.case.geometry.superblock_sector()), &sb.encode());
        let ring = random_ring(&mut random, &pair.case);
        pair.poke(sector(pair.case.geometry.al_sector()), &ring);
        let mut clipped = sb.clone();
        clipped.effective_size = sb.effective_size.min(pair.case.geometry.usable_sectors());
        let bitmap = random_bitmap(&mut random, &clipped);
        pair.poke(sector(pair.case.geometry.bitmap_sector()), &bitmap);
        pair.log
            .push(format!("size {} flags {:?}", sb.effective_size, sb.flags));
        for _ in 0..random.below(6) + 2 {
            let node = if v09 {
                format!(" --node-id {}", random.below(32))
            } else {
                String::new()
            };
            if random.chance(10)
                && pair
                    .run_side("reference", &["dump-md".to_owned()])
                    .status
                    .success()
            {
                // Each side restores the same dump over something else. Of the padding at the end
                // the reference restores as much as the last slot has.
                let (start, length, padding) = pair.bitmap_range();
                let tail = usize_of(padding);
                pair.poke(
                    start + u64::try_from(length - tail).unwrap(),
                    &vec![0; tail],
                );
                pair.dump_to_file();
                if pair.command("verify-dump dump") != 0 {
                    continue; // ours does not ask before it knows that the dump is good
                }
                pair.poke(start, &vec![0x42; length]);
                // The reference leaves the log as it is; ours initialises it.
                let blocks = pair.case.geometry.striping().blocks();
                let ring: Vec<u8> = (0..blocks).flat_map(|_| encode_initialised()).collect();
                pair.poke(pair.case.geometry.al_sector() * 512, &ring);
                // The reference shows the offsets of the default layout, before it has read on.
                pair.only = Some(&["Found ", "Successfully restored meta data"]);
                pair.command("restore-md dump");
                pair.only = None;
                continue;
            }
            let line = match random.below(13) {
                0 => format!("get-gi{node}"),
                1 => format!("show-gi{node}"),
                2 | 3 => "dump-md".to_owned(),
                4 => "dstate".to_owned(),
                5 => "outdate".to_owned(),
                6 => "invalidate".to_owned(),
                7 => format!("set-gi {}{node}", random_gi(&mut random)),
                8 => "read-dev-uuid".to_owned(),
                9 => format!("write-dev-uuid {:x}", random.next() >> random.below(60)),
                _ => "apply-al".to_owned(),
            };
            pair.command(&line);
        }
    }
    pair.command("dump-md");
    if random.chance(50) {
        pair.command("wipe-md");
    }
    // 9.22 clears only the start of an external bitmap area.
    if pair.case.geometry.placement().index == MdIndex::Internal && random.chance(50) {
        pair.run(&create);
    }
}

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

/// The reference keeps one file for DEVICE `-`: one test at a time.
static REFERENCE_IN_USE: std::sync::Mutex<()> = std::sync::Mutex::new(());

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
        let mut pair = Pair::new(&reference, internal(64 << 20, format, 3));
        if format == Format::V08 {
            pair = Pair::new(&reference, internal(64 << 20, format, 1));
        }
        for (line, code) in lines {
            assert_eq!(pair.command(line), *code, "{line}");
        }
    }
}

#[test]
fn converts_between_v08_and_v09() {
    let Some(reference) = reference() else { return };
    let _guard = REFERENCE_IN_USE.lock();
    let mut pair = Pair::new(&reference, internal(64 << 20, Format::V08, 1));
    pair.command("create-md");
    pair.command("set-gi 1110:2220:3330:4440:1:1:1:1:1:1:1");
    pair.command("write-dev-uuid dededededededede");
    pair.poke(pair.case.geometry.bitmap_sector() * 512, &[0x5a; 100]);
    pair.case.format = Format::V09;
    assert_eq!(pair.command("create-md 1"), 0);
    pair.command("dump-md");
    pair.command("set-gi --node-id 0 :aaaaaaaaaaaaaaa0");
    pair.case.format = Format::V08;
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
    for (data, line, code) in [
        (ext(65_000), "create-md 1", 0),
        (ext(65_536), "create-md 1", 40),
        (ext(65_536), "create-md 1 --ignore-sanity-checks", 40),
        (swap.clone(), "create-md 1", 40),
        (swap, "create-md 1 --ignore-sanity-checks", 0),
    ] {
        let mut pair = Pair::new(&reference, internal(64 << 20, Format::V09, 1));
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
    let mut pair = Pair::new(
        &reference,
        Case {
            format: Format::V09,
            geometry,
        },
    );
    pair.only = Some(KEY_LINES);
    pair.poke(0, &ext(1024));
    assert_eq!(pair.command("create-md 1"), 40);
}

#[test]
fn generated_cases() {
    let Some(reference) = reference() else { return };
    let _guard = REFERENCE_IN_USE.lock();
    let first = number_from("DRBDMETA_SEED", 1);
    let cases = number_from("DRBDMETA_CASES", 60);
    eprintln!("reference: {} {}", reference.display(), reference_version());
    for seed in first..first + cases {
        one_case(&reference, seed);
    }
}
