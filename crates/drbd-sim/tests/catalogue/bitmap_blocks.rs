//! Bitmaps whose bits stand for more than 4 KiB, not as much on every node.

use crate::words::*;

/// Sizes of the bitmap blocks of two nodes.
const SIZES: [(u32, u32); 7] = [
    (4096, 8192),
    (4096, 64 << 10),
    (64 << 10, 4096),
    (16 << 10, 1 << 20),
    (1 << 20, 4096),
    (64 << 10, 64 << 10),
    (1 << 20, 128 << 10),
];

/// Two nodes, and a client that has a bitmap nowhere.
fn setup((a, b): (u32, u32), change: impl FnOnce(&mut drbd_sim::config::Config)) -> Lab {
    let setup = Setup::new(3).diskless([2]);
    let setup = setup.with(|c| c.bitmap_blocks = vec![(0, a), (1, b)]);
    setup.with(change).up()
}

/// A write marks a block of the own size; the resync transfers blocks of the larger size, and no bit is left on either
/// side.
fn resynced_after_absence(t: &mut Lab, source: usize, blocks: &[u64], sizes: (u32, u32)) {
    let target = 1 - source;
    let per_bit = u64::from([sizes.0, sizes.1][source] / 4096);
    let larger = u64::from(sizes.0.max(sizes.1) / 4096);
    let runs = |size: u64| {
        let found: std::collections::BTreeSet<u64> = blocks.iter().map(|b| b / size).collect();
        found.len() as u64 * size
    };
    t.primary(source);
    t.isolate(target);
    t.write(source, blocks.iter().copied());
    t.pass(1);
    let marked = t.out_of_sync(source, target);
    let most = runs(per_bit);
    assert!(
        marked <= most && marked + per_bit > most,
        "{marked} blocks are marked, {most} are touched"
    );
    // A peer without slot is not counted for, and has nothing to fetch.
    assert_eq!(t.out_of_sync(source, 2), 0);
    let before = t.resynced(source, target);
    t.mark();
    t.rejoin(target);
    t.event(target, Repl(source, SyncTarget));
    t.healthy();
    let fetched = t.resynced(source, target) - before;
    let most = runs(larger);
    assert!(
        fetched <= most && fetched + larger > most,
        "{fetched} blocks were fetched, {most} are due"
    );
    t.never(2, Repl(source, SyncTarget));
    t.pass(1);
    t.no_bits();
    t.same_content([0, 1]);
    t.secondary(source);
}

/// Nodes whose bitmaps have different granularity: resyncs both ways with plain and compressed bitmaps, a full sync, a
/// verify, and what is in the activity log of a node that loses power. A client (`bitmap no`) has no bitmap anywhere.
#[test]
fn resync_var_bm_bsize() {
    for sizes in SIZES {
        for rle in [false, true] {
            let mut t = setup(sizes, |c| {
                c.net.use_rle = rle;
                c.net.verify_alg = "crc32c".into();
            });
            let last = t.c.size(0, 0).div_ceil(8) - 2;
            for source in [0, 1] {
                resynced_after_absence(&mut t, source, &[3, 17, 18, 700, 2049, last], sizes);
            }
            // All of it.
            for n in [0, 1] {
                t.mark();
                let command = Command::Invalidate {
                    volume: vol(0),
                    from: None,
                    reset_bitmap: true,
                };
                t.ok(n, command);
                t.event(n, Disk(Inconsistent));
                t.healthy();
                t.pass(1);
                t.no_bits();
                t.same_content([0, 1]);
            }
            // What a verify finds is marked on both sides, and fetched.
            t.corrupt(1, 100);
            t.mark();
            let (peer, volume) = (node_id(1), vol(0));
            t.ok(
                0,
                Command::Verify {
                    peer,
                    volume,
                    start: None,
                    stop: None,
                },
            );
            t.events(0, [Repl(1, VerifyS), Repl(1, Established)]);
            assert_eq!(t.out_of_sync(0, 1), u64::from(sizes.0 / 4096));
            t.disconnect(0, 1);
            t.primary(0);
            t.write(0, [1]);
            t.connect(0, 1);
            t.healthy();
            t.pass(1);
            t.no_bits();
            t.same_content([0, 1]);
            t.finish();
        }
    }
}

/// The extents of the activity log are marked with bits of the own size when a Primary comes back.
#[test]
fn bitmap_blocks_of_a_crashed_primary() {
    for sizes in SIZES {
        let mut t = setup(sizes, |_| {});
        t.primary(0);
        t.write(0, [5, 1500]);
        t.crash(0);
        t.start(0);
        t.healthy();
        t.pass(1);
        t.no_bits();
        t.same_content([0, 1]);
        t.finish();
    }
}
