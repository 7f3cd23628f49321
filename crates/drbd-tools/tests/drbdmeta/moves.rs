//! Metadata that moves, and slots that change hands.

use crate::disk::used;
use drbd_meta::geometry::Placement;
use drbd_meta::superblock::PeerEntry;
use std::fs;
use std::os::unix::fs::FileExt;

#[test]
fn a_grown_device_keeps_its_metadata() {
    let old_size = 64 << 20;
    for (slots, growth) in [
        (1, 512),
        (31, 512),
        (3, 4096),
        (3, 36864),
        (7, 45056),
        (2, 1 << 20),
        (1, 140 << 20),
        (31, 200 << 20),
    ] {
        let disk = used(old_size, slots);
        let before = disk.superblock();
        let old = before.geometry(disk.placement()).unwrap();
        let bits: Vec<_> = (0..slots).map(|slot| disk.words(slot)).collect();
        let mut al = vec![0; 32768];
        disk.file()
            .read_exact_at(&mut al, old.al_sector() * 512)
            .unwrap();
        assert_eq!(disk.ok("check-resize"), "");

        disk.file().set_len(old_size + growth).unwrap();
        if disk.placement().superblock_offset()
            != (Placement {
                device_size: old_size,
                ..disk.placement()
            })
            .superblock_offset()
        {
            assert_eq!(disk.run("get-gi --node-id 1").status.code(), Some(1));
        }
        // Where it is found, it is shown; where it belongs, it is brought by what every attach
        // begins with, too.
        let dump = disk.ok("dump-md");
        assert!(dump.contains("### Device seems to have been resized!\n") || growth < 4096);
        if slots == 2 {
            disk.ok("apply-al");
        } else {
            disk.ok("check-resize");
        }
        let mut after = disk.superblock();
        let new = after.geometry(disk.placement()).unwrap();
        for (slot, bits) in (0..slots).zip(&bits) {
            assert_eq!(
                disk.words(slot),
                *bits,
                "{slots} slots, {growth} more, slot {slot}"
            );
        }
        let mut moved = vec![0; 32768];
        disk.file()
            .read_exact_at(&mut moved, new.al_sector() * 512)
            .unwrap();
        assert_eq!(moved, al);
        let offsets = (before.md_size_sect, before.al_offset, before.bm_offset);
        (after.md_size_sect, after.al_offset, after.bm_offset) = offsets;
        assert_eq!(after, before);
        // What grew is clean, and nothing of the old place is left.
        let kept = old.bitmap_sectors() * 512;
        let mut grown = vec![1; usize::try_from(new.bitmap_sectors() * 512 - kept).unwrap()];
        disk.file()
            .read_exact_at(&mut grown, new.bitmap_sector() * 512 + kept)
            .unwrap();
        assert!(grown.iter().all(|byte| *byte == 0));
        let old_range = old.first_sector() * 512..(old.superblock_sector() + 8) * 512;
        let left = old_range
            .end
            .min(new.first_sector() * 512)
            .saturating_sub(old_range.start);
        let mut left = vec![1; usize::try_from(left).unwrap()];
        disk.file()
            .read_exact_at(&mut left, old_range.start)
            .unwrap();
        assert!(left.iter().all(|byte| *byte == 0));
        let lkbd = fs::read_to_string(disk.directory.path().join("drbd-minor--1.lkbd")).unwrap();
        assert_eq!(
            lkbd,
            format!("{}\tdisk\nuuid:\t1122334455667788\n", old_size + growth)
        );
    }
}

#[test]
fn without_a_last_known_size_nothing_is_found() {
    let disk = used(64 << 20, 1);
    let lkbd = disk.directory.path().join("drbd-minor--1.lkbd");
    fs::remove_file(&lkbd).unwrap();
    disk.file().set_len(256 << 20).unwrap();
    let output = disk.run("check-resize");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "no suitable meta data found :(
"
    );
    // The size that the device had tells it; another device UUID gives way to --force.
    fs::write(
        &lkbd,
        "67108864	disk
uuid:	9999999999999999
",
    )
    .unwrap();
    disk.ok("check-resize");
    assert_eq!(disk.superblock().node_id, Some(0));
}

#[test]
fn forgotten_peers_leave_a_slot_for_day_0() {
    // Four slots, three of them assigned: the freed one becomes a copy of the fourth.
    let disk = used(64 << 20, 4);
    let day0 = disk.words(3);
    let others = [disk.words(0), disk.words(2)];
    assert_ne!(disk.words(1), day0);
    disk.ok("forget-peer --node-id 2");
    assert_eq!(disk.words(1), day0);
    assert_eq!([disk.words(0), disk.words(2)], others);
    let superblock = disk.superblock();
    assert_eq!(
        superblock.peers[2],
        PeerEntry {
            bitmap_uuid: 0xdead,
            bitmap_dagtag: 77,
            ..PeerEntry::default()
        }
    );
    assert_eq!(superblock.peers[1].bitmap_index, Some(0));
    // All slots assigned: all ones.
    let disk = used(64 << 20, 3);
    disk.ok("forget-peer --node-id 2");
    assert!(disk.words(1).iter().all(|word| *word == u32::MAX));
    assert!(disk.words(0).iter().any(|word| *word != u32::MAX));
}

#[test]
fn day_0_entries_are_made_to_agree() {
    let disk = used(64 << 20, 4);
    let mut superblock = disk.superblock();
    let mut bad = superblock.clone();
    for node in [4, 9] {
        bad.peers[node].bitmap_uuid = 0xbad;
    }
    // Only 31 has a value; the others of the helper are 0 and differ from it.
    disk.save(&bad);
    let before = fs::read(disk.path()).unwrap();
    let output = disk.run("repair-md --dry-run");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    let line = "Peer slot 9 has \"day0\" UUID 0x0000000000000BAD, expected 0x000000000000DEAD";
    assert!(text.contains(line), "{text}");
    assert!(fs::read(disk.path()).unwrap() == before);
    disk.ok("repair-md");
    for peer in superblock
        .peers
        .iter_mut()
        .skip(1)
        .filter(|peer| peer.is_day0())
    {
        (peer.bitmap_uuid, peer.bitmap_dagtag) = (0xdead, 77);
    }
    assert_eq!(disk.superblock(), superblock);
    disk.ok("repair-md --tentative");
    // A grown device is set right, too.
    disk.file().set_len(100 << 20).unwrap();
    disk.ok("repair-md");
    assert_eq!(disk.superblock().peers, superblock.peers);
}
