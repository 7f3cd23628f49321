//! Fresh metadata and its options.

use crate::disk::Disk;
use drbd_meta::flags::{LocalFlags, PeerFlags};
use drbd_meta::superblock::Superblock;
use std::fs;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

#[test]
fn coarse_bitmaps() {
    let disk = Disk::new(64 << 20);
    disk.ok("create-md 3 -B 256k --diskful-peers 0,5 --effective-size 1M");
    let superblock = disk.superblock();
    assert_eq!(superblock.block_size.bytes(), 262_144);
    assert_eq!(superblock.effective_size, 2048);
    let seen: Vec<_> = (0..32)
        .filter(|n| superblock.peers[*n].flags.contains(PeerFlags::DEVICE_SEEN))
        .collect();
    assert_eq!(seen, [0, 5]);
    assert!(disk.ok("dump-md").contains("bm-byte-per-bit 262144;\n"));
    assert_eq!(
        disk.run("create-md 1 --effective-size 65M").status.code(),
        Some(10)
    );
}

#[test]
fn dry_run_writes_nothing() {
    let disk = Disk::new(64 << 20);
    disk.ok("create-md 1 --dry-run");
    assert!(fs::read(disk.path()).unwrap().iter().all(|byte| *byte == 0));
    assert!(!disk.directory.path().join("drbd-minor--1.lkbd").exists());
}

#[test]
fn the_whole_external_bitmap_is_cleared() {
    let mut disk = Disk::new(4 << 20);
    disk.index = "flex-external";
    let end = 4 << 20;
    disk.file().write_all_at(&[0x77; 4096], end - 4096).unwrap();
    for how in ["automatic", "zeroout", "pwrite"] {
        disk.file().write_all_at(&[0x77; 4096], end - 8192).unwrap();
        let output = disk.run(&format!("create-md 2 --initialize-bitmap {how}"));
        if how == "zeroout" && !output.status.success() {
            eprintln!("*** NOT TESTED: this file system cannot zero a range of a file ***");
            continue;
        }
        let mut last = vec![1; 8192];
        disk.file().read_exact_at(&mut last, end - 8192).unwrap();
        assert!(last.iter().all(|byte| *byte == 0), "{how}");
    }
    disk.ok("create-md 2 --initialize-bitmap=set-all");
    let mut last = vec![1; 8192];
    disk.file().read_exact_at(&mut last, end - 8192).unwrap();
    assert!(last.iter().all(|byte| *byte == 0xff));
}

#[test]
fn a_generation_to_begin_with() {
    let disk = Disk::new(64 << 20);
    disk.ok("create-md 2 --initial-current-uuid 0x1235 --uptodate --peers-outdated");
    let superblock = disk.superblock();
    assert_eq!(superblock.current_uuid, 0x1234);
    assert_eq!(superblock.flags.bits(), 0x91);
    assert!(
        superblock
            .peers
            .iter()
            .all(|peer| peer.flags == PeerFlags::OUTDATED)
    );
    disk.ok("create-md 2 --initial-current-uuid 0x1234 --rotate-uuids");
    let superblock = disk.superblock();
    assert!(superblock.current_uuid > 4 && superblock.current_uuid != 0x1234);
    assert_eq!(superblock.current_uuid & 1, 0);
    assert_eq!(superblock.history[..2], [0x1234, 0]);
    assert!(
        superblock
            .peers
            .iter()
            .all(|peer| peer.bitmap_uuid == 0x1234)
    );
    disk.ok("create-md 2 --consistent");
    let superblock = disk.superblock();
    assert!(superblock.current_uuid > 4 && superblock.flags.bits() == 0x81);
    for bad in [
        "create-md 2 --initial-current-uuid 0",
        "create-md 2 --initial-current-uuid x",
    ] {
        assert_eq!(disk.run(bad).status.code(), Some(10));
    }
    assert_eq!(disk.run("dump-md --uptodate").status.code(), Some(10));
}

/// The last part of a device that is no whole block has no bits in it.
#[test]
fn a_partial_last_block_is_not_used() {
    let mut disk = Disk::new(36864 + 512 * 77);
    disk.index = "flex-external";
    disk.ok("create-md 31");
    let mut block = [0; 4096];
    disk.file().read_exact_at(&mut block, 0).unwrap();
    let mut superblock = Superblock::decode(&block).unwrap();
    superblock.effective_size = u64::MAX;
    superblock.flags.insert(LocalFlags::PRIMARY_IND);
    disk.file().write_all_at(&superblock.encode(), 0).unwrap();
    let dump = disk.ok("dump-md");
    assert!(dump.contains("# bm-bytes 36864;"), "{dump}");
    fs::write(disk.directory.path().join("dump"), dump).unwrap();
    disk.ok("restore-md dump");
    disk.ok("apply-al");
    assert_eq!(disk.file().metadata().unwrap().len(), 36864 + 512 * 77);
}

/// What only `blkid` knows is asked about, wherever it lies.
#[test]
fn other_signatures() {
    if !Command::new("blkid")
        .arg("-V")
        .output()
        .is_ok_and(|o| o.status.success())
    {
        eprintln!("*** NOT TESTED: there is no blkid ***");
        return;
    }
    let disk = Disk::new(64 << 20);
    let mut luks = *b"LUKS\xba\xbe\0\x01aes\0";
    disk.file().write_all_at(&luks, 0).unwrap();
    assert!(
        disk.ok("create-md 1")
            .contains("\nFound some data (crypto_LUKS)\n")
    );
    // Metadata of DRBD itself is no signature of something else.
    luks.fill(0);
    disk.file().write_all_at(&luks, 0).unwrap();
    assert!(!disk.ok("create-md 1").contains("Found"));
    // What nobody knows is asked about, too.
    let disk = Disk::new(64 << 20);
    disk.file().write_all_at(b"XFSB", 0).unwrap();
    let asked = disk.run("create-md 1");
    let text = String::from_utf8(asked.stdout).unwrap();
    assert!(text.contains("\nFound some data\n"), "{text}");
    let text = String::from_utf8(asked.stderr).unwrap();
    assert!(text.contains("Do you want to proceed?"), "{text}");
}

/// Where nobody can tell what is on the device, it is not overwritten.
#[test]
fn without_blkid() {
    let broken = tempfile::tempdir().unwrap();
    let script = broken.path().join("blkid");
    fs::write(&script, "#!/bin/sh\necho usage >&2\nexit 1\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    // One that is missing is looked for in the directories of system programs, too.
    let useless = tempfile::tempdir().unwrap();
    fs::write(useless.path().join("blkid"), "").unwrap();
    for (path, reason) in [
        (useless.path(), "install util-linux"),
        (broken.path(), "blkid cannot tell what it is (usage)"),
    ] {
        let disk = Disk::new(64 << 20);
        let run = |command: &str| {
            let mut tool = disk.command(command);
            tool.env("PATH", path).output().unwrap()
        };
        disk.file().write_all_at(b"precious", 5000).unwrap();
        let before = fs::read(disk.path()).unwrap();
        let refused = run("create-md 1");
        assert_eq!(refused.status.code(), Some(40), "{refused:?}");
        let text = String::from_utf8(refused.stderr).unwrap();
        assert!(text.contains(reason), "{text}");
        assert!(fs::read(disk.path()).unwrap() == before);
        let forced = run("create-md 1 --ignore-sanity-checks");
        assert!(forced.status.success(), "{forced:?}");
        // An empty one needs nobody who tells.
        let disk = Disk::new(64 << 20);
        let created = disk.command("create-md 1").env("PATH", path).output();
        assert!(created.unwrap().status.success());
    }
}
