//! Discards, and resyncs that leave thin disks thin.

use drbd_sim::cluster::IoKind;

use crate::words::*;

const KIB: u32 = 1 << 10;

/// Discards a range of blocks on a Primary.
fn discard(t: &mut Lab, n: usize, block: u64, blocks: u64) {
    let io = t.c.submit(n, 0, IoKind::Discard, block * 8, blocks * 8);
    t.succeeds(io);
}

/// Blocks of a node's disk that take no space.
fn deallocated(t: &Lab, n: usize) -> u64 {
    t.c.nodes[n].disks[0].as_ref().unwrap().deallocated() / 8
}

/// Discards of a node's disk from the given one on: block and number of blocks.
fn discards(t: &Lab, n: usize, from: usize) -> Vec<(u64, u64)> {
    let all = &t.c.nodes[n].disks[0].as_ref().unwrap().discards;
    all[from..].iter().map(|(s, l)| (s / 8, l / 8)).collect()
}

/// All blocks of the volume are transferred to a node.
fn full_resync(t: &mut Lab, n: usize) {
    let reset_bitmap = true;
    t.ok(
        n,
        Command::Invalidate {
            volume: vol(0),
            from: None,
            reset_bitmap,
        },
    );
    t.wait(n, Disk(UpToDate));
}

/// A thin resync leaves the target thin: what reads as zero at the source takes no space at the target, and is not
/// transferred.
#[test]
fn resync_discard() {
    // What is configured, and the granularity of both disks: the size of thin requests in blocks, if there are any.
    for (configured, source, target, thin) in [
        (0, 4 * KIB, 4 * KIB, None),
        (64 * KIB, 4 * KIB, 4 * KIB, Some(16)),
        (64 * KIB, 0, 4 * KIB, Some(16)),
        (64 * KIB, 4 * KIB, 0, None),
        (20 * KIB, 4 * KIB, 16 * KIB, Some(8)),
    ] {
        let mut t = Setup::new(2)
            .with(|c| {
                c.disk.rs_discard_granularity = configured;
                c.discard_granularities = vec![(0, source), (1, target)];
            })
            .up();
        t.primary(0);
        let all = t.c.size(0, 0) / 8;
        // A hole, with a block in it, and one that begins and ends in the midst of a request.
        let holes = [(256, 1024), (2049, 512)];
        for (block, blocks) in holes {
            discard(&mut t, 0, block, blocks);
        }
        t.write(0, [600]);
        for block in [300, 1200, 2100] {
            t.corrupt(1, block);
        }
        let (sent, thick) = (t.resynced(0, 1), t.packets(1, 0, Cmd::RsThinDagtagReq));
        let named = t.packets(0, 1, Cmd::RsDeallocatedId);
        let before = discards(&t, 1, 0).len();
        t.may_part(0, 1);
        full_resync(&mut t, 1);
        let sent = t.resynced(0, 1) - sent;
        let asked = t.packets(1, 0, Cmd::RsThinDagtagReq) - thick;
        let named = t.packets(0, 1, Cmd::RsDeallocatedId) - named;
        let done = discards(&t, 1, before);
        let what = format!("{configured}, {source}, {target}: {sent}, {asked}, {named}, {done:?}");
        match thin {
            None => {
                assert_eq!((sent, asked, named), (all, 0, 0), "{what}");
                assert!(done.is_empty(), "{what}");
            }
            Some(size) => {
                assert!(asked > all / size - 2 * 1024 / size, "{what}");
                // The block in the hole costs one request, and each end of the second hole another one.
                let (first, second) = (1024 - size, 512 - size);
                let saved = done.iter().map(|(_, blocks)| blocks).sum::<u64>();
                assert_eq!(saved, first + second, "{what}");
                assert_eq!((named * size, sent), (saved, all - saved), "{what}");
                assert_eq!(deallocated(&t, 1), saved, "{what}");
            }
        }
        t.healthy();
        t.same_content(0..2);
        t.finish();
    }
}

/// Adjacent discards of a thin resync are merged, up to 128 MiB.
#[test]
fn resync_merge_discards() {
    const BLOCKS_128: u64 = (128 << 20) / 4096;
    let mut t = Setup::new(2)
        .sizes([300, 300])
        .with(|c| c.disk.rs_discard_granularity = 64 * KIB)
        .up();
    t.primary(0);
    let all = t.c.size(0, 0) / 8;
    let mut at = 0;
    while at < all {
        let most = (all - at).min(8192);
        discard(&mut t, 0, at, most);
        at += most;
    }
    t.corrupt(1, 77);
    let before = discards(&t, 1, 0).len();
    full_resync(&mut t, 1);
    let done = discards(&t, 1, before);
    let named = t.packets(0, 1, Cmd::RsDeallocatedId);
    let acks = t.packets(1, 0, Cmd::RsWriteAck);
    let all_of_it = [
        (0, BLOCKS_128),
        (BLOCKS_128, BLOCKS_128),
        (2 * BLOCKS_128, all - 2 * BLOCKS_128),
    ];
    assert_eq!(done, all_of_it);
    assert_eq!((named, acks), (all / 16, all / 16));
    assert_eq!(t.resynced(0, 1), 0);
    t.same_content(0..2);
    // Data in the midst ends a discard; only neighbours are merged.
    t.write(0, [1000]);
    let before = discards(&t, 1, 0).len();
    full_resync(&mut t, 1);
    let done = discards(&t, 1, before);
    let beyond = 1000 / 16 * 16 + 16;
    assert_eq!(done[0], (0, beyond - 16));
    assert_eq!(done[1], (beyond, BLOCKS_128 - beyond));
    assert_eq!(done.len(), 4, "{done:?}");
    // An interruption: what is known to be zero is discarded at once, or asked for again.
    let before = discards(&t, 1, 0).len();
    t.ok(
        1,
        Command::Invalidate {
            volume: vol(0),
            from: None,
            reset_bitmap: true,
        },
    );
    t.wait(1, Repl(0, SyncTarget));
    t.pass_ms(600);
    t.pause_sync(1, 0, true);
    t.pass(3);
    let done = discards(&t, 1, before);
    let sum: u64 = done.iter().map(|(_, blocks)| blocks).sum();
    assert!(sum > 1000 && sum < all / 2, "{done:?}");
    t.expect(1, Repl(0, PausedSyncT));
    t.pause_sync(1, 0, false);
    t.wait(1, Repl(0, SyncTarget));
    t.pass_ms(300);
    t.cut(0, 1);
    t.healthy();
    t.same_content(0..2);
    t.finish();
}

/// Configured values of discard-granularity show up in the device's limits.
#[test]
fn discard_granularity() {
    for (configured, below, expected) in [
        (None, 4 * KIB, 4 * KIB),
        (None, 0, 0),
        (Some(0), 4 * KIB, 0),
        (Some(12 * KIB), 4 * KIB, 12 * KIB),
        (Some(12 * KIB), 16 * KIB, 16 * KIB),
        // Zeroes are written instead.
        (Some(12 * KIB), 0, 12 * KIB),
    ] {
        let mut t = Setup::new(2)
            .with(|c| {
                c.device.discard_granularity = configured;
                c.discard_granularities = vec![(0, below)];
            })
            .up();
        t.primary(0);
        let limits = t.c.nodes[0].limits[0];
        let what = format!("{configured:?} on {below}: {limits:?}");
        assert_eq!(limits.discard_granularity, expected, "{what}");
        assert_eq!(limits.max_discard > 0, expected > 0, "{what}");
        t.write(0, [3]);
        if expected > 0 {
            discard(&mut t, 0, 3, 3);
            assert_eq!(t.content(0, 3), Some(0));
        }
        t.same_content(0..2);
        t.finish();
    }
}
