//! Dumps and what is restored from them.

use crate::disk::{Disk, used};
use drbd_meta::flags::LocalFlags;
use std::fs;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

#[test]
fn a_pipe_that_closes_early_is_no_failure() {
    let disk = used(64 << 20, 31);
    let mut child = Command::new(env!("CARGO_BIN_EXE_drbdmeta"))
        .args(["--force", "-", "v09", "disk", "internal", "dump-md"])
        .current_dir(disk.directory.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Metadata, section 14, TV-14: how a dump's words lie in the bitmap.
#[test]
fn restored_bitmaps_interleave() {
    let disk = Disk::new(64 << 20);
    disk.ok("create-md 3");
    let dump = disk.ok("dump-md");
    let (head, _) = dump.split_once("# bm-bytes").unwrap();
    let text = head.replace("la-size-sect 0;", "la-size-sect 130984;")
        + "bitmap[0] { 0x0000000000000001; 0x8000000000000000; 0x0123456789ABCDEF;
               338 times 0x0000000000000000; }
           bitmap[1] { 341 times 0x00000000FFFFFFFF; }
           bitmap[2] { 0x00000FF000000000; 340 times 0x0000000000000000; }\n";
    fs::write(disk.directory.path().join("dump"), &text).unwrap();
    assert_eq!(disk.ok("verify-dump dump"), "input file parsed ok\n");
    assert_eq!(
        disk.ok("restore-md dump"),
        "Successfully restored meta data\n"
    );
    let mut bitmap = vec![0; 8192];
    disk.file().read_exact_at(&mut bitmap, 67_063_808).unwrap();
    assert_eq!(
        sha256(&bitmap),
        "15fc7c2665fa3bd3851864fed4ee36b566720c173b7d92848a5af4fa8498f394"
    );
    let again = disk.ok("dump-md");
    assert!(again.contains("    336 times 0x0000000000000000;\n    0x0000000000000000;\n}"));
}

#[test]
fn a_dump_restores_everything_elsewhere() {
    for options in ["", "-B 64k", "-s 3 -z 64"] {
        let disk = Disk::new(256 << 20);
        disk.ok(&format!("create-md 5 --effective-size 500000s {options}"));
        let layout = disk.superblock().bitmap_layout().unwrap();
        for slot in 0..5 {
            disk.set_bits(
                &layout,
                slot,
                (0..layout.bits()).step_by(usize::from(slot) * 7 + 3),
            );
        }
        let mut superblock = disk.superblock();
        superblock.flags.insert(LocalFlags::PRIMARY_IND);
        superblock.members = 0x1f;
        disk.save(&superblock);
        let dump = disk.ok("dump-md");

        let other = Disk::new(256 << 20);
        fs::write(other.directory.path().join("dump"), &dump).unwrap();
        // Something in the way that must not shine through.
        other
            .file()
            .write_all_at(&vec![0x99; 200 << 10], 255 << 20)
            .unwrap();
        other.ok("restore-md dump");
        assert_eq!(other.superblock(), superblock, "{options}");
        for slot in 0..5 {
            assert_eq!(other.words(slot), disk.words(slot), "{options} slot {slot}");
        }
        // The activity log is usable, though PRIMARY_IND demands that it be applied.
        other.ok("apply-al");
        assert_eq!(other.words(1), disk.words(1));
    }
}

/// The reference restores the first 32 MiB of a bitmap and leaves the rest as it was.
#[test]
fn a_bitmap_of_more_than_32_mib() {
    let disk = Disk::new(200 << 30);
    disk.ok("create-md 8 --initialize-bitmap=skip --effective-size 190G");
    let layout = disk.superblock().bitmap_layout().unwrap();
    assert!(layout.area_bytes() > 40 << 20);
    let bits = [0, 77, layout.bits() / 2, layout.bits() - 1];
    for slot in [0, 5, 7] {
        disk.set_bits(&layout, slot, bits);
    }
    let words = [0, 5, 6, 7].map(|slot| disk.words(slot));
    let dump = disk.ok("dump-md");
    fs::write(disk.directory.path().join("dump"), dump).unwrap();
    disk.ok("create-md 8 --initialize-bitmap=set-all");
    disk.ok("restore-md dump");
    for (slot, words) in [0, 5, 6, 7].into_iter().zip(words) {
        assert!(disk.words(slot) == words, "slot {slot}");
    }
}

/// A bad dump leaves what is there alone.
#[test]
fn a_bad_dump_changes_nothing() {
    let disk = used(64 << 20, 3);
    let before = fs::read(disk.path()).unwrap();
    let dump = String::from_utf8(disk.run("dump-md").stdout).unwrap();
    for bad in [
        &dump[..dump.len() - 40],
        &dump.replace("bitmap[2]", "bitmap[1]"),
        "",
    ] {
        fs::write(disk.directory.path().join("dump"), bad).unwrap();
        assert_eq!(disk.run("restore-md dump").status.code(), Some(10));
    }
    assert_eq!(disk.run("restore-md missing").status.code(), Some(20));
    assert!(fs::read(disk.path()).unwrap() == before);
    // More words than any device has are cut, without counting them all.
    let endless = dump.replacen(
        "bitmap[1] {",
        "bitmap[1] { 9223372036854775807 times 0x0000000100000002;",
        1,
    );
    fs::write(disk.directory.path().join("dump"), endless).unwrap();
    disk.ok("verify-dump dump");
    let output = disk.run("restore-md dump");
    assert!(output.status.success());
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("Bitmap info too large, truncated!")
    );
}

/// Metadata, section 10.4: exit codes say what was found, and everything is shown whatever it is.
#[test]
fn superblocks_alone() {
    let disk = used(64 << 20, 3);
    let mut block = vec![0; 4096];
    let at = (64 << 20) - 4096;
    disk.file().read_exact_at(&mut block, at).unwrap();
    assert_eq!(disk.run("dump-superblock").stdout, block);
    assert_eq!(disk.run("dump-superblock -o binary").stdout, block);
    let hex = disk.ok("hexdump-superblock");
    assert!(
        hex.starts_with("03fff000  00 00 00 00 00 01 ff a8  "),
        "{hex}"
    );
    assert!(hex.ends_with("\n04000000\n"));
    assert_eq!(hex, disk.ok("dump-superblock --output-format=hex"));

    let json = disk.ok("dump-superblock -o json");
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["magic"], "0x8374026D");
    assert_eq!(value["bm_max_peers"], 3);
    assert_eq!(value["peers"][1]["bitmap_uuid"], "0x0000000000001000");
    assert_eq!(value["peers"].as_array().unwrap().len(), 32);
    assert_eq!(value["#meta"]["valid"], "VALID_MD_FOUND");
    assert_eq!(value["#meta"]["looks_like"], "v09");
    // In the order of the reference.
    let order = [
        "effective_size",
        "current_uuid",
        "device_uuid",
        "flags",
        "magic",
        "md_size_sect",
        "al_offset",
        "al_nr_extents",
        "bm_offset",
        "bm_bytes_per_bit",
        "la_peer_max_bio_size",
        "al_stripes",
        "al_stripe_size_4k",
        "peers",
        "bm_max_peers",
        "node_id",
        "members",
        "reserved_u64",
        "history_uuids",
        "padding",
        "#meta",
    ];
    let places = order.map(|name| json.find(&format!("\n  \"{name}\":")).unwrap());
    assert!(places.is_sorted(), "{json}");

    // At the last known place, and nowhere.
    disk.file().set_len(65 << 20).unwrap();
    let output = disk.run("dump-superblock");
    assert_eq!((output.status.code(), output.stdout), (Some(2), block));
    fs::remove_file(disk.directory.path().join("drbd-minor--1.lkbd")).unwrap();
    let output = disk.run("dump-superblock -o json");
    assert_eq!(output.status.code(), Some(3));
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["#meta"]["valid"], "NO_VALID_MD_FOUND");
    assert_eq!(value["#meta"]["looks_like"], "UNKNOWN");
    assert_eq!(disk.run("dump-superblock -o xml").status.code(), Some(10));
    assert_eq!(disk.run("dump-md -o json").status.code(), Some(10));
}
