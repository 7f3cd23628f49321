//! Devices that others use.

use crate::disk::Disk;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

#[test]
fn a_file_in_use_is_refused() {
    let disk = Disk::new(64 << 20);
    disk.ok("create-md 1");
    let user = disk.file();
    user.try_lock().unwrap();
    let output = disk.run("wipe-md");
    assert_eq!(output.status.code(), Some(20));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("is in use")
    );
    drop(user);
    disk.ok("wipe-md");
}

/// Another holder of the minor's lock is named, and nothing happens.
#[test]
fn a_locked_minor_is_refused() {
    const MINOR: &str = "1048575";
    let path = format!("/var/lock/drbd-147-{MINOR}");
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path);
    let Ok(lock) = lock else {
        eprintln!("*** NOT TESTED: cannot create {path}, which needs root ***");
        return;
    };
    let disk = Disk::new(64 << 20);
    rustix::fs::fcntl_lock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let run = || {
        Command::new(env!("CARGO_BIN_EXE_drbdmeta"))
            .args([
                "--force",
                MINOR,
                "v09",
                "disk",
                "internal",
                "--var-lib-drbd",
                ".",
            ])
            .args(["create-md", "1"])
            .current_dir(disk.directory.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    };
    let expected = format!("currently held by pid:{}", std::process::id());
    let refused = |output: Output| {
        assert_eq!(output.status.code(), Some(20));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(&expected), "{text}");
    };
    refused(run());
    // The node's tool keeps out of the way, too, except where nothing changes.
    let setup = |line: &str| {
        let socket = disk.directory.path().join("no-node");
        Command::new(env!("CARGO_BIN_EXE_drbdsetup"))
            .args(line.split(' '))
            .env("DRBD_CONTROL", socket)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    };
    let attach = format!("attach {MINOR} /dev/null /dev/null internal");
    let changes = [
        attach.as_str(),
        &format!("detach {MINOR}"),
        &format!("new-minor r {MINOR} 0"),
    ];
    for line in changes {
        refused(setup(line));
    }
    assert_eq!(setup(&format!("dstate {MINOR}")).status.code(), Some(10));
    drop(lock);
    assert!(run().status.success());
    // The others would start a node.
    let detached = setup(&format!("detach {MINOR}"));
    assert!(detached.status.success(), "{detached:?}");
    for directory in ["/var/lock", "/run/drbd/lock"] {
        let _ = fs::remove_file(format!("{directory}/drbd-147-{MINOR}"));
    }
}

/// On a block device without `--force`: exclusive use, questions that nobody answers.
#[test]
fn block_devices() {
    let disk = Disk::new(64 << 20);
    let attach = Command::new("losetup")
        .args(["--sector-size", "4096", "--find", "--show"])
        .arg(disk.path())
        .output();
    let device = match attach {
        Ok(output) if output.status.success() => {
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        }
        _ => {
            eprintln!("*** NOT TESTED: no loop device, which needs root and losetup ***");
            return;
        }
    };
    struct Detach(String);
    impl Drop for Detach {
        fn drop(&mut self) {
            let _ = Command::new("losetup").args(["--detach", &self.0]).status();
        }
    }
    let _detach = Detach(device.clone());
    let run = |command: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_drbdmeta"))
            .args(["-", "v09", &device, "internal", "--var-lib-drbd", "."])
            .args(command.split_whitespace())
            .current_dir(disk.directory.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    // The reference clears the bitmap even then.
    let before = vec![0x5a; 16 << 10];
    let near_end = disk.file().metadata().unwrap().len() - (56 << 10);
    let block = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&device)
        .unwrap();
    block.write_all_at(&before, near_end).unwrap();
    block.sync_all().unwrap();
    assert_eq!(run("--dry-run create-md 3").0, Some(0));
    let mut after = vec![0; before.len()];
    block.read_exact_at(&mut after, near_end).unwrap();
    assert!(after == before);
    drop(block);
    assert_eq!(run("create-md 3").0, Some(0));
    assert_eq!(run("dump-md").0, Some(0));
    // There is metadata now, and nobody says yes.
    let (code, text) = run("create-md 3");
    assert_eq!(code, Some(1));
    assert!(text.contains("stdin not a TTY"), "{text}");
    assert_eq!(run("wipe-md").0, Some(1));
    assert_eq!(run("apply-al").0, Some(0));
    // Somebody uses the device.
    use std::os::unix::fs::OpenOptionsExt;
    let exclusive = 0o200;
    let user = OpenOptions::new()
        .read(true)
        .custom_flags(exclusive)
        .open(&device)
        .unwrap();
    let (code, text) = run("apply-al");
    assert_eq!(code, Some(20));
    assert_eq!(
        text,
        format!("open({device}) failed: Device or resource busy\n")
    );
    assert_eq!(run("dstate").0, Some(20));
    drop(user);
    assert_eq!(run("dstate").0, Some(0));
}

/// What is mounted is left alone, also a file that a loop device stands for, and the message says so.
#[test]
fn mounted_devices() {
    let disk = Disk::new(64 << 20);
    let made = Command::new("mkfs.ext2")
        .args(["-q", "-F", "-b", "4096"])
        .arg(disk.path())
        .arg("8192")
        .status();
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("*** NOT TESTED: there is no mkfs.ext2 ***");
        return;
    }
    let point = disk.directory.path().join("mount point");
    fs::create_dir(&point).unwrap();
    let mount = |options: &[&str]| {
        let mut command = Command::new("mount");
        command.args(options).arg(disk.path()).arg(&point);
        command.output().is_ok_and(|output| output.status.success())
    };
    if !mount(&["-o", "loop"]) {
        eprintln!("*** NOT TESTED: cannot mount, which needs root and loop devices ***");
        return;
    }
    struct Unmount(PathBuf);
    impl Drop for Unmount {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg(&self.0).status();
        }
    }
    let mounted = Unmount(point.clone());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let escaped = point.to_str().unwrap().replace(' ', "\\040");
    let line = mounts.lines().find(|line| line.contains(&escaped)).unwrap();
    let device = line.split(" - ").nth(1).unwrap().split(' ').nth(1).unwrap();
    let before = fs::read(disk.path()).unwrap();
    // The file, whatever the layout; the device, with an index and without.
    for (what, index, force, code) in [
        ("disk", "internal", true, 20),
        ("disk", "0", true, 20),
        (device, "0", false, 20),
        (device, "internal", false, 20),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_drbdmeta"))
            .args(force.then_some("--force"))
            .args(["-", "v09", what, index, "--var-lib-drbd", "."])
            .args(["create-md", "1"])
            .current_dir(disk.directory.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{what} {index}: {text}");
        let expected = format!("{what} is mounted on {}", point.display());
        assert!(text.contains(&expected), "{what} {index}: {text}");
    }
    assert!(fs::read(disk.path()).unwrap() == before);
    drop(mounted);
    disk.ok("create-md 1");
}

/// A minor whose disk a node has attached is left alone.
#[test]
fn an_attached_minor() {
    use std::os::unix::fs::PermissionsExt;
    const MINOR: &str = "1048574";
    let disk = Disk::new(64 << 20);
    disk.ok("create-md 1");
    let own = disk.directory.path().join("drbdmeta");
    fs::copy(env!("CARGO_BIN_EXE_drbdmeta"), &own).unwrap();
    let setup = disk.directory.path().join("drbdsetup");
    // What the node says of the minor's disk, and what follows for a command that writes.
    for (answer, exit, refused) in [
        ("UpToDate/UpToDate", 0, true),
        ("Inconsistent/DUnknown", 0, true),
        ("Diskless/DUnknown", 0, false),
        ("Unconfigured", 0, false),
        ("", 10, false),
        ("", 20, false),
    ] {
        let script = format!("#!/bin/sh\necho {answer}\nexit {exit}\n");
        fs::write(&setup, script).unwrap();
        fs::set_permissions(&setup, fs::Permissions::from_mode(0o755)).unwrap();
        let run = |command: &str| {
            let output = Command::new(&own)
                .args(["--force", "--var-lib-drbd", ".", MINOR, "v09", "disk"])
                .arg("internal")
                .args(command.split_whitespace())
                .current_dir(disk.directory.path())
                .stdin(Stdio::null())
                .output()
                .unwrap();
            let text = String::from_utf8(output.stderr).unwrap();
            (output.status.code(), text)
        };
        let before = fs::read(disk.path()).unwrap();
        let (code, text) = run("set-gi --node-id 1 1:2:3:4");
        if text.contains("Permission denied") {
            eprintln!("*** NOT TESTED: no lock file can be made, which needs root ***");
            return;
        }
        assert_eq!(code, Some(if refused { 20 } else { 0 }), "{answer}: {text}");
        let says = text.contains(&format!("Device '{MINOR}' is configured!"));
        assert_eq!(says, refused, "{answer}: {text}");
        if refused {
            assert!(fs::read(disk.path()).unwrap() == before);
        }
        let (code, text) = run("get-gi --node-id 1");
        assert_eq!(code, Some(0), "{text}");
        assert_eq!(text.contains("# Output might be stale"), refused, "{text}");
    }
    for directory in ["/var/lock", "/run/drbd/lock"] {
        let _ = fs::remove_file(format!("{directory}/drbd-147-{MINOR}"));
    }
}
