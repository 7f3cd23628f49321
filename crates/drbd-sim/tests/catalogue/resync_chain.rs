//! Resyncs through nodes in the middle.

use crate::words::*;

/// Nodes with a generation each: the first one has the newest data, the last one the oldest. All are down but the first,
/// which is Secondary. Returns what each lacks of the one before it.
fn generations(nodes: usize) -> (Lab, Vec<u64>) {
    let mut t = Setup::new(nodes).up();
    t.primary(0);
    t.write(0, [1]);
    t.pass(1);
    let mut lacks = vec![0; nodes];
    for n in (1..nodes).rev() {
        t.down(n);
        let at = 100 * n as u64;
        t.write(0, at..at + 2 + n as u64);
        lacks[n] = 2 + n as u64;
        t.pass(1);
    }
    t.secondary(0);
    (t, lacks)
}

/// Several generations on different nodes: a wave of resyncs through a chain, in the right direction and amount. Closing
/// the ring needs no resync.
#[test]
fn resync() {
    let (mut t, lacks) = generations(4);
    t.links = (1..4).map(|n| (n - 1, n)).collect();
    // A node that becomes a target lets its own targets begin again with a new connection (a deviation).
    for n in 1..3 {
        t.may_see(n, Bad::Conn(n + 1, NetworkFailure));
        t.may_see(n + 1, Bad::Conn(n, NetworkFailure));
        t.may_see(n + 1, Bad::Conn(n, BrokenPipe));
    }
    t.mark();
    for n in 1..4 {
        t.start(n);
    }
    t.healthy();
    t.one_generation(0..4);
    t.same_content(0..4);
    let mut most = 0;
    for n in 1..4 {
        most += lacks[n];
        t.seen(n, Repl(n - 1, SyncTarget));
        t.never(n - 1, Repl(n, SyncTarget));
        let blocks = t.resynced(n - 1, n);
        // All that anybody upstream wrote meanwhile comes through here, and a block more that was not settled.
        let all: u64 = lacks[1..].iter().sum();
        assert!(
            blocks >= lacks[n] && blocks <= all + 4,
            "node {n}: {blocks}, {most}"
        );
    }
    // Equal generations. Bits that are left over from the old days are compared here, where a kernel node drops them
    // (a deviation); nothing else is transferred, and nobody steps back.
    let before: u64 = all_pairs(&t);
    t.mark();
    for (a, b) in [(0, 3), (0, 2), (1, 3)] {
        t.connect(a, b);
    }
    t.healthy();
    let blocks = all_pairs(&t) - before;
    let all: u64 = lacks[1..].iter().sum();
    assert!(blocks <= 6 * all, "{blocks} blocks");
    t.never(0, Disk(Inconsistent));
    t.same_content(0..4);
    t.finish();
}

/// Blocks resynced between all nodes so far.
fn all_pairs(t: &Lab) -> u64 {
    let nodes = t.nodes();
    (0..nodes)
        .flat_map(|a| (0..nodes).map(move |b| (a, b)))
        .filter(|(a, b)| a != b)
        .map(|(a, b)| t.resynced(a, b))
        .sum()
}

/// Three generations; the two older nodes connect first, then the newest comes, or the other way round.
fn three_generations(downstream_first: bool) {
    let (mut t, _) = generations(3);
    t.links = [(0, 1), (1, 2)].into();
    t.c.close_link(0, 1);
    t.c.close_link(1, 2);
    t.start(1);
    t.start(2);
    t.scripts();
    t.mark();
    if downstream_first {
        t.mend(1, 2);
        t.wait(2, Conn(1, Connected));
        t.wait_until("the first resync", |c| {
            c.peer_device(2, 1, 0).0 == Established && c.peer_device(1, 2, 0).0 == Established
        });
        t.seen(2, Repl(1, SyncTarget));
        assert!(t.disk(2) < UpToDate);
        t.mend(0, 1);
    } else {
        t.mend(0, 1);
        t.wait(1, Disk(UpToDate));
        t.mend(1, 2);
    }
    t.healthy();
    t.seen(1, Repl(0, SyncTarget));
    t.never(1, Repl(2, SyncTarget));
    t.never(0, Repl(1, SyncTarget));
    t.one_generation(0..3);
    t.same_content(0..3);
    t.mark();
    t.connect(0, 2);
    t.healthy();
    t.no_resync();
    t.finish();
}

/// Three generations, downstream connects first.
#[test]
fn resync_downstream_upstream() {
    three_generations(true);
}

/// Three generations, upstream connects first.
#[test]
fn resync_upstream_downstream() {
    three_generations(false);
}

/// A node that becomes a target lets its own targets begin again with a new connection (a deviation), so that they
/// have its new bits, too.
fn targets_begin_again(t: &mut Lab) {
    t.may_see(1, Bad::Conn(2, NetworkFailure));
    t.may_see(2, Bad::Conn(1, NetworkFailure));
    t.may_see(2, Bad::Conn(1, BrokenPipe));
}

/// Two stale nodes sync with each other: downstream is paused while upstream is a target, and continued; so after a
/// temporary loss; a forced promotion reverts to their data.
#[test]
fn resync_between_targets() {
    for variant in ["continued", "loss", "forced"] {
        let (mut t, _) = generations(3);
        t.links = [(0, 1), (1, 2)].into();
        t.c.close_link(0, 1);
        targets_begin_again(&mut t);
        t.slow_disk(1, 3000);
        t.mark();
        t.start(1);
        t.start(2);
        t.event(2, Repl(1, SyncTarget));
        if variant == "forced" {
            t.slow_disk(1, 0);
            t.stale_data_expected();
            t.wait_until("the resync", |c| {
                c.peer_device(2, 1, 0).0 == Established && c.peer_device(1, 2, 0).0 == Established
            });
            t.accept(1);
            t.force_primary(1);
            t.write(1, [50]);
            t.pass(3);
            t.expect(2, Disk(UpToDate));
            t.same_content([1, 2]);
            t.mend(0, 1);
            t.wait(0, Conn(1, StandAlone));
            t.wait_until("refused", |c| c.connection(1, 0) != Connected);
            t.pass(3);
            t.connect_discarding(0, 1);
            t.healthy();
            t.seen(0, Repl(1, SyncTarget));
        } else {
            t.mend(0, 1);
            t.slow_disk(0, 2000);
            t.event(1, Repl(0, SyncTarget));
            t.event(2, Repl(1, PausedSyncT));
            t.seen(1, Repl(2, PausedSyncS));
            if variant == "loss" {
                t.sever(1, 2);
                t.mend(1, 2);
            }
            t.slow_disk(0, 0);
            t.slow_disk(1, 0);
            t.event(1, Disk(UpToDate));
            t.event(2, Repl(1, SyncTarget));
            t.healthy();
        }
        t.one_generation(0..3);
        t.same_content(0..3);
        t.finish();
    }
}

/// A running downstream resync pauses while its source is a target upstream.
#[test]
fn resync_source_becomes_target() {
    let (mut t, _) = generations(3);
    t.links = [(0, 1), (1, 2)].into();
    t.c.close_link(0, 1);
    targets_begin_again(&mut t);
    t.slow_disk(1, 2000);
    t.mark();
    t.start(1);
    t.start(2);
    t.events(1, [Repl(2, SyncSource)]);
    t.events(2, [Repl(1, SyncTarget)]);
    t.slow_disk(0, 4000);
    t.mend(0, 1);
    t.events(1, [Repl(2, PausedSyncS)]);
    t.expect(1, Repl(0, SyncTarget));
    t.event(2, Repl(1, PausedSyncT));
    let before = t.resynced(1, 2);
    t.pass(1);
    t.expect(2, Repl(1, PausedSyncT));
    assert_eq!(t.resynced(1, 2), before, "nothing while it is paused");
    t.slow_disk(0, 0);
    t.slow_disk(1, 0);
    t.events(2, [Repl(1, SyncTarget), Disk(UpToDate)]);
    t.healthy();
    t.same_content(0..3);
    t.finish();
}

/// Closing a chain uses the right bitmap slot.
#[test]
fn resync_chain_close() {
    let mut t = Setup::new(3).chain().up();
    t.primary(0);
    t.wait(2, Disk(Outdated));
    t.write(0, 1..4);
    t.secondary(0);
    t.healthy();
    t.same_content(0..3);
    t.sever(1, 2);
    t.primary(0);
    t.write(0, 100..108);
    t.pass(1);
    t.secondary(0);
    t.mark();
    let before = t.resynced(0, 2) + t.resynced(1, 2);
    t.connect(0, 2);
    t.wait(2, Disk(UpToDate));
    t.seen(2, Repl(0, SyncTarget));
    let blocks = t.resynced(0, 2) + t.resynced(1, 2) - before;
    assert!((8..=12).contains(&blocks), "{blocks} blocks");
    t.mark();
    t.mend(1, 2);
    t.healthy();
    t.no_resync();
    t.same_content(0..3);
    t.finish();
}

/// A node synced from the former Primary can be the source for the older node.
#[test]
fn resync_to_older() {
    let mut t = Setup::new(3).up();
    t.primary(0);
    t.write(0, [1]);
    t.pass(1);
    t.down(2);
    t.write(0, 100..160);
    t.pass(1);
    t.down(1);
    t.write(0, 300..310);
    t.pass(1);
    t.start(1);
    t.healthy();
    let first = t.resynced(0, 1);
    assert!((10..=14).contains(&first), "{first} blocks");
    t.down(0);
    t.start(2);
    t.wait(2, Disk(UpToDate));
    let second = t.resynced(1, 2);
    assert!(second >= 70, "{second} blocks");
    t.primary(2);
    t.read(2, [1, 100, 159, 305]);
    t.write(2, [400]);
    t.mark();
    t.start(0);
    t.healthy();
    t.never(2, Repl(0, SyncTarget));
    t.same_content(0..3);
    t.finish();
}

/// The source is lost: another UpToDate node becomes the source, and the resync completes.
#[test]
fn switch_sync_source() {
    for primary in [Some(0), None] {
        let mut t = Setup::new(3).up();
        t.primary(0);
        t.write(0, [1]);
        t.pass(1);
        t.down(2);
        t.write(0, 100..140);
        t.pass(1);
        if primary.is_none() {
            t.secondary(0);
        }
        for n in [0, 1] {
            t.slow_disk(n, 1000);
        }
        t.mark();
        t.start(2);
        t.connected();
        t.wait_until("a source", |c| {
            [0, 1]
                .iter()
                .any(|s| c.peer_device(2, *s, 0).0 == SyncTarget)
        });
        let source = [0, 1]
            .into_iter()
            .find(|s| t.is(2, Repl(*s, SyncTarget)))
            .unwrap();
        let other = 1 - source;
        t.wait(2, Repl(other, PausedSyncT));
        t.sever(source, 2);
        t.wait(2, Repl(other, SyncTarget));
        for n in [0, 1] {
            t.slow_disk(n, 0);
        }
        t.wait(2, Repl(other, Established));
        t.mend(source, 2);
        t.healthy();
        t.same_content(0..3);
        t.finish();
    }
}

/// A source that becomes weak has its resync aborted; the Primary is the source then.
#[test]
fn resync_from_weak() {
    let mut t = Setup::new(3).up();
    t.primary(0);
    t.write(0, [1]);
    t.pass(1);
    t.down(2);
    t.write(0, 100..140);
    t.pass(1);
    t.c.close_link(0, 2);
    t.slow_disk(1, 2000);
    t.start(2);
    t.wait(2, Repl(1, SyncTarget));
    t.mend(0, 2);
    t.wait(2, Repl(0, PausedSyncT));
    t.mark();
    // Node 1 does not see the Primary any more: what it sends would be older than what the Primary writes.
    t.sever(0, 1);
    t.write(0, [120, 500]);
    t.event(2, Repl(1, Established));
    t.wait(2, Repl(0, SyncTarget));
    t.slow_disk(1, 0);
    t.wait(2, Disk(UpToDate));
    assert!(t.disk(1) < UpToDate);
    t.mark();
    t.mend(0, 1);
    t.healthy();
    t.seen(1, Disk(Inconsistent));
    t.same_content(0..3);
    // A crashed node gets part of the data only.
    t.crash(1);
    t.write(0, [7]);
    let before = t.resynced(0, 1) + t.resynced(2, 1);
    t.start(1);
    t.healthy();
    let blocks = t.resynced(0, 1) + t.resynced(2, 1) - before;
    assert!(blocks < t.c.size(0, 0) / 8, "{blocks} blocks");
    t.same_content(0..3);
    t.finish();
}

/// An unstable resync ends UpToDate after the Primary is met.
#[test]
fn unstable_retry() {
    let mut t = Setup::new(3).up();
    t.primary(0);
    t.write(0, [1]);
    t.pass(1);
    t.down(2);
    t.write(0, 100..110);
    t.c.close_link(0, 2);
    t.start(2);
    t.wait(2, Conn(1, Connected));
    t.wait_until("the resync from a node that is not stable", |c| {
        c.peer_device(2, 1, 0).0 == Established && c.peer_device(2, 1, 0).2 == 0
    });
    t.pass(5);
    assert!(t.disk(2) < UpToDate, "{:?}", t.disk(2));
    t.no_primary(2, RetCode::CW_FAILED_BY_PEER);
    t.write(0, [105, 300]);
    t.mend(0, 2);
    t.wait(2, Disk(UpToDate));
    t.healthy();
    t.same_content(0..3);
    t.finish();
}
