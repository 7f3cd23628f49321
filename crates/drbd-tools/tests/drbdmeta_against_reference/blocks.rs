//! Block devices: without `--force`, with questions asked on a terminal, with sectors of 4 KiB, in
//! use by others; and devices of sizes that no disk here has.

use crate::pair::{OURS, Pair, REFERENCE_IN_USE, SIDES, reference, words};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Loop devices over the files of a pair; detached when dropped.
struct Loops([String; 2]);

impl Loops {
    fn new(pair: &Pair, sector: u32) -> Option<Self> {
        let attach = |side: &str| {
            let output = Command::new("losetup")
                .args(["--find", "--show", "--sector-size", &sector.to_string()])
                .arg(pair.path(side, "disk"))
                .output()
                .ok()?;
            let name = String::from_utf8(output.stdout).ok()?;
            output.status.success().then(|| name.trim().to_owned())
        };
        let Some(first) = attach(SIDES[0]) else {
            eprintln!("*** NOT TESTED: cannot make a loop device, which needs root ***");
            return None;
        };
        let second = attach(SIDES[1]).unwrap();
        Some(Self([first, second]))
    }
}

impl Drop for Loops {
    fn drop(&mut self) {
        for device in &self.0 {
            let _ = Command::new("losetup").args(["--detach", device]).status();
        }
    }
}

/// A pair of loop devices on which `--force` is not given.
fn pair(reference: &Path, format: &'static str, index: &str, sector: u32) -> Option<(Pair, Loops)> {
    const SIZE: u64 = 16 << 20;
    let mut pair = Pair::new(reference, format, index, SIZE);
    let loops = Loops::new(&pair, sector)?;
    pair.devices = Some(loops.0.clone());
    pair.superblock = if index == "internal" { SIZE - 4096 } else { 0 };
    pair.force = false;
    Some((pair, loops))
}

/// Runs a command whose questions are answered on a terminal, and compares.
fn answered(pair: &mut Pair, line: &str, answers: &str) -> i32 {
    pair.log.push(format!("{line} << {answers:?}"));
    let outputs: [Output; 2] = SIDES.map(|side| {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap();
        let stdin = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(i32::try_from(rustix::fs::OFlags::NOCTTY.bits()).unwrap())
            .open(name.to_str().unwrap())
            .unwrap();
        let mut terminal = File::from(terminal);
        terminal.write_all(answers.as_bytes()).unwrap();
        let mut command = pair.command_of(side, &words(line));
        command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.output().unwrap()
    });
    pair.compare(&outputs)
}

#[test]
fn questions_and_answers() {
    let Some(reference) = reference() else { return };
    let _guard = REFERENCE_IN_USE.lock();
    let Some((mut v09, _loops)) = pair(&reference, "v09", "internal", 512) else {
        return;
    };
    assert_eq!(v09.command("create-md 1"), 0);
    assert_eq!(v09.command("create-md 1"), 1);
    for (line, answers, code) in [
        ("create-md 1", "no\n", 1),
        ("create-md 1", "Yes\n", 1),
        ("create-md 1", "yes \n", 1),
        ("create-md 1", "yes\n", 0),
        ("create-md 1 -s 2", "yes\n", 30),
        ("create-md 1 -s 2", "no\nno\n", 1),
        ("create-md 1 -s 2", "no\nyes\n", 0),
        ("create-md 1", "no\nyes\n", 0),
        ("set-gi -i 1 5:6:7:8", "no\n", 0),
        ("set-gi -i 1 5:6:7:8", "yes\n", 0),
        ("wipe-md", "no\n", 1),
    ] {
        assert_eq!(answered(&mut v09, line, answers), code, "{line} {answers}");
    }
    v09.put("dump", &v09.run_side("ours", &words("dump-md")).stdout);
    assert_eq!(answered(&mut v09, "restore-md dump", "no\n"), 1);
    v09.format = "v08";
    for (line, answers, code) in [
        ("create-md", "no\nno\n", 1),
        ("create-md", "no\nyes\n", 0),
        ("wipe-md", "no\n", 1),
    ] {
        assert_eq!(answered(&mut v09, line, answers), code, "{line} {answers}");
    }
    v09.format = "v09";
    assert_eq!(answered(&mut v09, "create-md 2", "yes\n"), 0);
    assert_eq!(answered(&mut v09, "wipe-md", "yes\n"), 0);
    assert_eq!(answered(&mut v09, "wipe-md", "yes\n"), 0);
    // Something is in the way.
    for device in v09.devices.as_ref().unwrap() {
        let mut device = OpenOptions::new().write(true).open(device).unwrap();
        device.write_all(&[b'y'; 8192]).unwrap();
        device.sync_all().unwrap();
    }
    assert_eq!(v09.command("create-md 2"), 1);
    assert_eq!(answered(&mut v09, "create-md 2", "no\n"), 1);
    assert_eq!(answered(&mut v09, "create-md 2", "yes\n"), 0);
}

#[test]
fn in_use_by_others() {
    let Some(reference) = reference() else { return };
    let _guard = REFERENCE_IN_USE.lock();
    let Some((mut pair, _loops)) = pair(&reference, "v09", "internal", 512) else {
        return;
    };
    assert_eq!(pair.command("create-md 1"), 0);
    let exclusive = i32::try_from(rustix::fs::OFlags::EXCL.bits()).unwrap();
    let users = pair.devices.clone().unwrap().map(|device| {
        OpenOptions::new()
            .read(true)
            .custom_flags(exclusive)
            .open(device)
            .unwrap()
    });
    assert_eq!(pair.command("get-gi -i 1"), 20);
    assert_eq!(pair.command("apply-al"), 20);
    assert_eq!(pair.command("wipe-md"), 20);
    assert_eq!(answered(&mut pair, "create-md 2", "no\n"), 20);
    assert_eq!(answered(&mut pair, "apply-al", "yes\n"), 20);
    assert_eq!(answered(&mut pair, "dstate", "yes\n"), 0);
    // As somebody who watches a node with its disk attached does.
    pair.force = true;
    assert_eq!(pair.command("get-gi -i 1"), 0);
    drop(users);
    pair.force = false;
    assert_eq!(pair.command("get-gi -i 1"), 0);
}

#[test]
fn sectors_of_4_kib() {
    let Some(reference) = reference() else { return };
    let _guard = REFERENCE_IN_USE.lock();
    for (format, index, create) in [
        ("v09", "internal", "create-md 5"),
        ("v09", "flex-external", "create-md 2 -s 3"),
        ("v08", "internal", "create-md"),
    ] {
        let Some((mut pair, _loops)) = pair(&reference, format, index, 4096) else {
            return;
        };
        assert_eq!(pair.command(create), 0);
        let node = if format == "v09" { "-i 1 " } else { "" };
        assert_eq!(
            answered(&mut pair, &format!("set-gi {node}5:6:7:8:1:1:1"), "yes\n"),
            0
        );
        assert_eq!(pair.command("apply-al"), 0);
        assert_eq!(pair.command("dump-md"), 0);
        pair.put("dump", &pair.run_side("ours", &words("dump-md")).stdout);
        assert_eq!(answered(&mut pair, "wipe-md", "yes\n"), 0);
        if index == "internal" {
            pair.only = Some(&["Successfully restored meta data"]);
            assert_eq!(pair.command("restore-md dump"), 0);
            pair.only = None;
            assert_eq!(pair.command("dump-md"), 0);
        }
    }
}

#[test]
fn missing_and_small_devices() {
    let Some(reference) = reference() else { return };
    let _guard = REFERENCE_IN_USE.lock();
    for (size, index, code) in [
        (4096, "internal", 10),
        (69_120, "internal", 10),
        (69_632, "internal", 0),
        (1 << 20, "1", 10),
        (128 << 20, "1", 10),
    ] {
        let mut pair = Pair::new(&reference, "v09", index, size);
        pair.superblock = size.saturating_sub(4096);
        assert_eq!(pair.command("create-md 1"), code, "{size} {index}");
    }
    let mut pair = Pair::new(&reference, "v09", "internal", 1 << 20);
    pair.force = false;
    assert_eq!(pair.command("create-md 1"), 20);
    pair.force = true;
    for device in ["missing", "/dev/null", "/", "/proc/self/mem"] {
        let line = words("create-md 1");
        let run = |program: &Path| {
            let mut command = Command::new(program);
            command
                .args(["--force", "-", "v09", device, "internal"])
                .args(&line);
            command.stdin(Stdio::null()).output().unwrap()
        };
        let [theirs, ours] = [reference.as_path(), Path::new(OURS)].map(run);
        assert_eq!(theirs.status.code(), Some(20), "{device}");
        assert_eq!(ours.status.code(), Some(20), "{device}: {ours:?}");
        assert!(!ours.stderr.is_empty());
    }
}

/// Sparse files of tens of TiB.
#[test]
fn huge_devices() {
    let Some(reference) = reference() else { return };
    let _guard = REFERENCE_IN_USE.lock();
    for (tib, slots, options) in [(15, 1, ""), (40, 3, " -s 4 -z 256"), (64, 31, "")] {
        let size = (tib << 40) + 512 * 5;
        let made = Pair::new_in(Path::new("/dev/shm"), &reference, "v09", "internal", size);
        let Ok(mut pair) = made else {
            eprintln!("*** NOT TESTED: /dev/shm has no sparse files of {tib} TiB ***");
            return;
        };
        pair.superblock = (size - 4096) & !4095;
        let create = format!("create-md {slots} --initialize-bitmap=skip{options}");
        assert_eq!(pair.command(&create), 0, "{tib} TiB");
        assert_eq!(pair.command("get-gi -i 3"), 0);
        assert_eq!(pair.command("dump-md"), 0);
        // A used one: as large as it can be.
        pair.poke(pair.superblock, &u64::MAX.to_be_bytes());
        assert_eq!(pair.command("set-gi -i 3 1:2:3:4:1:1"), 0);
        assert_eq!(pair.command("show-gi -i 3"), 0);
    }
}
