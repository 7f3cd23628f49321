//! The same device twice, one for each tool, and what of their doings is compared.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

pub(crate) const OURS: &str = env!("CARGO_BIN_EXE_drbdmeta");
/// Where the reference remembers the device of DEVICE `-`; in the way of the next case.
const REFERENCE_LKBD: &str = "/var/lib/drbd/drbd-minor--1.lkbd";

/// The reference keeps one file for DEVICE `-`: one test at a time.
pub(crate) static REFERENCE_IN_USE: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// The reference tool; says loudly if there is none.
pub(crate) fn reference() -> Option<PathBuf> {
    let found = ["/usr/sbin/drbdmeta", "/sbin/drbdmeta"].map(PathBuf::from);
    let found = found.into_iter().find(|path| path.is_file());
    if found.is_none() {
        eprintln!(
            "\n*** NOT TESTED: the reference drbdmeta is not installed (package drbd-utils) ***\n"
        );
    }
    found
}

pub(crate) const SIDES: [&str; 2] = ["reference", "ours"];

/// The blocks of a device that are not all zero.
type Content = BTreeMap<u64, Box<[u8; 4096]>>;

pub(crate) struct Pair {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) reference: PathBuf,
    /// FORMAT argument.
    pub(crate) format: &'static str,
    /// INDEX argument.
    pub(crate) index: String,
    /// Where the superblock is, in bytes, for what is masked there.
    pub(crate) superblock: u64,
    /// Devices in place of the files.
    pub(crate) devices: Option<[String; 2]>,
    /// Whether `--force` is given.
    pub(crate) force: bool,
    pub(crate) log: Vec<String>,
    /// Whether lines of explanation may differ: of those, only these parts are compared.
    pub(crate) only: Option<&'static [&'static str]>,
    /// Whether messages are compared.
    pub(crate) messages: bool,
}

impl Pair {
    /// In memory if possible: both tools flush after every write.
    pub(crate) fn new(reference: &Path, format: &'static str, index: &str, size: u64) -> Self {
        let memory = Path::new("/dev/shm");
        Self::new_in(
            if memory.is_dir() {
                memory
            } else {
                Path::new(env!("CARGO_TARGET_TMPDIR"))
            },
            reference,
            format,
            index,
            size,
        )
        .unwrap()
    }

    pub(crate) fn new_in(
        parent: &Path,
        reference: &Path,
        format: &'static str,
        index: &str,
        size: u64,
    ) -> std::io::Result<Self> {
        let directory = tempfile::tempdir_in(parent)?;
        for side in SIDES {
            fs::create_dir(directory.path().join(side))?;
            File::create(directory.path().join(side).join("disk"))?.set_len(size)?;
        }
        Ok(Self {
            directory,
            reference: reference.to_owned(),
            format,
            index: index.to_owned(),
            superblock: 0,
            devices: None,
            force: true,
            log: Vec::new(),
            only: None,
            messages: true,
        })
    }

    pub(crate) fn path(&self, side: &str, name: &str) -> PathBuf {
        self.directory.path().join(side).join(name)
    }

    pub(crate) fn disk(&self, side: &str) -> File {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.path(side, "disk"))
            .unwrap()
    }

    /// Tells our tool that the device had another size.
    pub(crate) fn remember(&self, size: u64) {
        let path = self.directory.path().join("drbd-minor--1.lkbd");
        fs::write(path, format!("{size}\tdisk\n")).unwrap();
    }

    /// Writes the same to both.
    pub(crate) fn poke(&self, offset: u64, bytes: &[u8]) {
        for side in SIDES {
            self.disk(side).write_all_at(bytes, offset).unwrap();
        }
    }

    /// Puts the same file beside both.
    pub(crate) fn put(&self, name: &str, text: &[u8]) {
        for side in SIDES {
            fs::write(self.path(side, name), text).unwrap();
        }
    }

    /// All of the device, whatever its size.
    fn content(&self, side: &str) -> Content {
        use rustix::fs::{SeekFrom, seek};
        let file = self.disk(side);
        let size = file.metadata().unwrap().len();
        let mut content = Content::new();
        let mut at = 0;
        while let Ok(start) = seek(&file, SeekFrom::Data(at)) {
            let end = seek(&file, SeekFrom::Hole(start)).unwrap_or(size);
            let mut offset = start & !4095;
            while offset < end {
                let mut block = [0; 4096];
                let length = usize::try_from((size - offset).min(4096)).unwrap();
                file.read_exact_at(&mut block[..length], offset).unwrap();
                if block != [0; 4096] {
                    content.insert(offset, Box::new(block));
                }
                offset += 4096;
            }
            at = offset;
        }
        if self.format == "v09"
            && let Some(block) = content.get_mut(&self.superblock)
        {
            // 9.22 does not know the field `members` and clears it.
            block[16..24].fill(0);
        }
        content
    }

    pub(crate) fn command_of(&self, side: &str, arguments: &[String]) -> Command {
        let n = usize::from(side == "ours");
        let mut command = Command::new(if n == 1 {
            Path::new(OURS)
        } else {
            &self.reference
        });
        if self.force {
            command.arg("--force");
        }
        if n == 1 {
            command.arg("--var-lib-drbd").arg(self.directory.path());
        } else {
            let _ = fs::remove_file(REFERENCE_LKBD);
        }
        let device = self.devices.as_ref().map_or("disk", |devices| &devices[n]);
        command
            .args(["-", self.format, device, &self.index])
            .args(arguments)
            .current_dir(self.directory.path().join(side))
            .stdin(Stdio::null())
            .env("PATH", with_system_programs())
            .env("TZ", "UTC");
        command
    }

    pub(crate) fn run_side(&self, side: &str, arguments: &[String]) -> Output {
        self.command_of(side, arguments).output().unwrap()
    }

    pub(crate) fn command(&mut self, line: &str) -> i32 {
        self.run(&words(line))
    }

    /// Runs a command on both sides and compares everything.
    pub(crate) fn run(&mut self, arguments: &[String]) -> i32 {
        self.log.push(arguments.join(" "));
        let outputs = SIDES.map(|side| self.run_side(side, arguments));
        self.compare(&outputs)
    }

    /// Compares exit codes, output, messages and the devices.
    pub(crate) fn compare(&self, [theirs, ours]: &[Output; 2]) -> i32 {
        let context = || format!("{} {}\n{:#?}", self.format, self.index, self.log);
        let code = |output: &Output| match output.status.code() {
            // The generic failure is 1 in 9.22 and 255 in 9.34.
            Some(255) => 1,
            Some(code) => code,
            None => panic!("killed: {output:?}\n{}", context()),
        };
        let (their_code, our_code) = (code(theirs), code(ours));
        let text = |bytes: &[u8]| {
            let mut text = String::from_utf8_lossy(bytes).into_owned();
            if let Some(devices) = &self.devices {
                text = text
                    .replace(&devices[0], "disk")
                    .replace(&devices[1], "disk");
            }
            text
        };
        assert_eq!(
            their_code,
            our_code,
            "exit code\n{}\ntheirs: {}\nours: {}",
            context(),
            text(&theirs.stderr),
            text(&ours.stderr)
        );
        let v08 = self.format == "v08";
        let only = |mut lines: Vec<String>| {
            if let Some(only) = self.only {
                lines.retain(|line| only.iter().any(|part| line.contains(part)));
            }
            lines
        };
        let their_text = only(masked_output(&text(&theirs.stdout), v08));
        let our_text = only(masked_output(&text(&ours.stdout), v08));
        if let Some(at) = (0..their_text.len().max(our_text.len()))
            .find(|at| their_text.get(*at) != our_text.get(*at))
        {
            let (theirs, ours) = (their_text.get(at), our_text.get(at));
            panic!(
                "output line {at}: theirs {theirs:?}, ours {ours:?}\n{}",
                context()
            );
        }
        if self.messages {
            assert_eq!(
                masked_messages(&text(&theirs.stderr)),
                masked_messages(&text(&ours.stderr)),
                "messages (left: theirs)\n{}",
                context()
            );
        }
        self.compare_devices();
        our_code
    }

    pub(crate) fn compare_devices(&self) {
        let [theirs, ours] = SIDES.map(|side| self.content(side));
        if theirs == ours {
            return;
        }
        let offsets = theirs.keys().chain(ours.keys());
        let offset = offsets
            .filter(|offset| theirs.get(offset) != ours.get(offset))
            .min()
            .unwrap();
        let zero = [0; 4096];
        let block = |content: &Content| *content.get(offset).map_or(&zero, |block| block);
        let (theirs, ours) = (block(&theirs), block(&ours));
        let at = theirs.iter().zip(&ours).position(|(a, b)| a != b).unwrap();
        let line = at & !15..(at & !15) + 16;
        panic!(
            "byte {} (block {:+} from the superblock): theirs {:02x?}, ours {:02x?}\n{} {}\n{:#?}",
            offset + u64::try_from(at).unwrap(),
            (i128::from(*offset) - i128::from(self.superblock)) / 4096,
            &theirs[line.clone()],
            &ours[line],
            self.format,
            self.index,
            self.log
        );
    }
}

pub(crate) fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// Standard output without what differs on purpose or by chance.
fn masked_output(text: &str, v08: bool) -> Vec<String> {
    let many_slots = text.contains("bitmap[1] {");
    let lines = text.lines().enumerate().filter(|(i, line)| {
        let varies = line.starts_with("# 20") && *i < 4 || line.contains("> drbdmeta ");
        // Ours goes to standard error, where it does not hurt scripts.
        let clipped = line.starts_with("# la-size-sect was too big");
        // 9.22 loses the field.
        let members = line.starts_with("# members ");
        // The reference counts the last slot only.
        let bits = many_slots && line.starts_with("# bits-set");
        // Advice on the activity log.
        let advice = line.starts_with("###");
        // 9.22 prints no flags for v08.
        let flags = v08 && line.starts_with("    flags 0x");
        // Commands that 9.22 does not have, in the usage text.
        let newer = [
            "  dump-superblock ",
            "  hexdump-superblock ",
            "  repair-md ",
        ];
        let newer = newer.iter().any(|name| line.starts_with(name));
        !(varies || clipped || advice || members || bits || flags || newer)
    });
    lines.map(|(_, line)| line.to_owned()).collect()
}

/// The path of programs, with those that ordinary users often do not have in theirs.
pub(crate) fn with_system_programs() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/sbin:/sbin")
}

/// Messages without those about plain files and the system calls used.
pub(crate) fn masked_messages(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| {
        !(line.contains("BLKSSZGET")
            || line.contains("BLKZEROOUT")
            || line.contains("initializing bitmap")
            || line.starts_with("# la-size-sect was too big")
            || line.contains(": ASSERT(")
            // Its directory belongs to root; ours gets one of its own.
            || line.starts_with("lk_bdev_save(/var/lib/drbd/")
            // Some commands of the reference fail without a word.
            || *line == "No valid meta data found"
            || line.starts_with("You can safely ignore this")
            // Where in the line the error is.
            || line.starts_with("line ") && line.contains(", column ")
            || line.contains("O_DIRECT")
            || line.contains("BLKFLSBUF"))
    });
    // The reference names the last field, or none, where ours names the field that is wrong.
    let field = |line: &str| match line.split_once("' is ") {
        Some((_, rest)) if line.starts_with('\'') => format!("'FIELD' is {rest}"),
        // 9.22 does not know about a largest value.
        _ => line
            .split_once(": value must be a power-of-two")
            .map_or(line, |(beginning, _)| beginning)
            .to_owned(),
    };
    let mut lines: Vec<String> = lines.map(field).collect();
    // An extent that two slots hold is reported twice by the reference.
    lines.dedup();
    lines
}
