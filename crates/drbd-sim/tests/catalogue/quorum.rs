//! Quorum.

use crate::words::*;

/// Three nodes with disks that need a majority.
fn three(on_no_quorum: OnNoQuorum) -> Setup {
    Setup::new(3)
        .quorum(Quorum::Majority)
        .on_no_quorum(on_no_quorum)
}

/// Majority lost: I/O errors. The old Primary rejoins as Inconsistent, then UpToDate. Service moves between nodes. The
/// last man standing after graceful leaves keeps quorum.
#[test]
fn quorum() {
    let mut t = three(OnNoQuorum::IoError).up();
    t.primary(0);
    t.write(0, [1]);
    t.isolate(0);
    t.expect(0, Quorate(false));
    let io = t.begin_write(0, 7);
    t.fails(io);
    t.wait(1, Disk(UpToDate));
    t.primary(1);
    t.write(1, [8]);
    t.secondary(0);
    t.no_primary(0, RetCode::NO_QUORUM);
    t.mark();
    t.rejoin(0);
    t.events(0, [Disk(Inconsistent), Disk(UpToDate)]);
    t.healthy();
    let mut primary = 1;
    for next in [2, 0, 1] {
        t.secondary(primary);
        t.primary(next);
        t.write(next, [10 + next as u64]);
        primary = next;
    }
    for leaver in [0, 2] {
        t.down(leaver);
        t.wait(1, PeerDisk(leaver, Outdated));
        t.expect(1, Quorate(true));
        t.write(1, [20 + leaver as u64]);
    }
    t.start(0);
    t.start(2);
    t.healthy();
    t.same_content(0..3);
    t.finish();
}

/// A partition that knows the isolated node to be without quorum keeps quorum when another node leaves. No double
/// promotion. Disconnecting a peer that is not connected does not outdate it.
#[test]
pub(crate) fn quorum_check_quorumless() {
    let mut t = Setup::new(4).quorum(Quorum::Majority).up();
    t.primary(1);
    t.write(1, [1]);
    t.isolate(0);
    t.expect(0, Quorate(false));
    t.wait(1, Quorate(true));
    t.pass(2);
    t.down(3);
    t.wait(1, PeerDisk(3, Outdated));
    for n in [1, 2] {
        t.expect(n, Quorate(true));
    }
    t.write(1, [2]);
    t.no_primary(0, RetCode::NO_QUORUM);
    t.disconnect(1, 0);
    t.disconnect(0, 1);
    t.expect(1, PeerDisk(0, DiskState::Unknown));
    t.expect(0, Disk(UpToDate));
    t.write(1, [3]);
    t.no_primary(0, RetCode::NO_QUORUM);
    t.rejoin(0);
    t.connect_begin(0, 1);
    t.start(3);
    t.healthy();
    t.same_content(0..4);
    t.finish();
}

/// A node that joins a degraded cluster: quorum is gained, or kept, exactly as counted.
#[test]
fn quorum_degraded_join() {
    {
        let (first, second, third) = (0, 1, 2);
        let mut t = three(OnNoQuorum::SuspendIo).build();
        t.start(first);
        t.scripts();
        t.expect(first, Quorate(false));
        t.no_primary(first, RetCode::NO_QUORUM);
        t.start(second);
        t.wait(first, Quorate(true));
        t.wait(second, Quorate(true));
        t.primary(first);
        t.write(first, [1]);
        t.crash(second);
        t.wait(first, Quorate(false));
        let io = t.begin_write(first, 2);
        t.pass(5);
        t.pending(io);
        t.start(third);
        t.wait(first, Quorate(true));
        t.succeeds(io);
        // The one that was in the partition with data is not needed for what comes now.
        t.start(second);
        t.healthy();
        t.crash(third);
        t.expect(first, Quorate(true));
        t.write(first, [3]);
        t.start(third);
        t.healthy();
        t.same_content(0..3);
        t.finish();
    }
}

/// Fail-over with quorum, and reconnecting without split brain, again and again.
#[test]
fn quorum_failover_reconnect() {
    let mut t = three(OnNoQuorum::IoError).up();
    let mut primary = 0;
    t.primary(primary);
    for next in [1, 2, 0, 2] {
        t.write(primary, [primary as u64, 9]);
        t.isolate(primary);
        let io = t.begin_write(primary, 5);
        t.fails(io);
        t.wait(next, Disk(UpToDate));
        t.primary(next);
        t.write(next, [next as u64]);
        t.secondary(primary);
        t.mark();
        t.rejoin(primary);
        t.healthy();
        t.seen(primary, Disk(Inconsistent));
        for n in 0..3 {
            assert_eq!(t.upcalls(n, "initial-split-brain"), 0);
            for p in 0..3 {
                t.never(n, Conn(p, StandAlone));
            }
        }
        primary = next;
    }
    t.same_content(0..3);
    t.finish();
}

/// A far-away node is Outdated however the link broke, and still counts as outdated after del-peer.
#[test]
fn quorum_far_away_and_down() {
    for how in ["link", "primary leaves it", "it leaves"] {
        let mut t = three(OnNoQuorum::SuspendIo).up();
        t.primary(0);
        t.write(0, [1]);
        t.pass(1);
        match how {
            "link" => t.sever(0, 2),
            "it leaves" => t.disconnect(2, 0),
            _ => t.disconnect(0, 2),
        }
        t.wait(2, Disk(Outdated));
        t.wait(0, PeerDisk(2, Outdated));
        t.crash(2);
        t.pass(1);
        t.expect(0, PeerDisk(2, Outdated));
        t.write(0, [2]);
        let peer = node_id(2);
        if t.is(0, Conn(2, Connecting)) {
            t.disconnect(0, 2);
        }
        t.ok(0, Command::DelPeer { peer, force: false });
        t.expect(0, Quorate(true));
        // Two outdated nodes cannot be a partition of their own: the Primary goes on alone.
        t.down(1);
        t.pass(1);
        t.expect(0, Quorate(true));
        t.write(0, [3]);
        t.finish();
    }
}

/// A write between two disconnects fails without a new UUID. The others reconcile and promote; the old Primary resyncs.
#[test]
fn quorum_isolate_primary() {
    for (first, second) in [(1, 2), (2, 1)] {
        let mut t = three(OnNoQuorum::IoError).up();
        t.primary(0);
        t.write(0, [1]);
        t.pass(1);
        let before = t.current(0);
        t.block(0, first);
        t.block(0, second);
        t.c.close_link(0, first);
        let io = t.begin_write(0, 7);
        t.c.close_link(0, second);
        t.apart(0, first);
        t.apart(0, second);
        t.fails(io);
        assert_eq!(t.current(0), before);
        t.wait(first, Disk(UpToDate));
        t.primary(first);
        t.write(first, [8]);
        t.secondary(0);
        t.mark();
        t.rejoin(0);
        t.events(0, [Disk(Inconsistent), Disk(UpToDate)]);
        t.healthy();
        t.same_content(0..3);
        t.finish();
    }
}

/// A UUID that was written but not delivered: a split brain, which discard-zero-changes resolves.
#[test]
fn quorum_lost_uuid() {
    use drbd_engine::options::SbPolicy;
    let mut t = three(OnNoQuorum::IoError)
        .with(|c| {
            c.net.after_sb_0pri = SbPolicy::DiscardZeroChanges;
            c.net.after_sb_1pri = SbPolicy::DiscardSecondary;
            c.net.always_asbp = true;
        })
        .up();
    t.primary(0);
    t.write(0, [1]);
    t.pass(1);
    let before = t.current(0);
    t.sever(0, 2);
    t.delay(0, 1, Cmd::Uuids110, 3_600_000);
    let io = t.begin_write(0, 7);
    t.packet(0, 1, Cmd::Uuids110);
    t.sever(0, 1);
    t.delay(0, 1, Cmd::Uuids110, 0);
    t.fails(io);
    t.pass(2);
    assert_ne!(t.current(0), before, "it has its own generation");
    assert_eq!(t.current(1), before);
    t.wait(1, Disk(UpToDate));
    t.primary(1);
    t.write(1, [8, 9]);
    t.secondary(0);
    t.rejoin(0);
    t.healthy();
    t.one_generation(0..3);
    t.same_content(0..3);
    assert!(t.upcalls(0, "initial-split-brain") > 0);
    assert_eq!(t.upcalls(0, "split-brain"), 0, "resolved");
    t.finish();
}

/// Quorum lost on one volume blocks I/O on all volumes.
#[test]
pub(crate) fn quorum_multi_volume() {
    let mut t = three(OnNoQuorum::SuspendIo)
        .volumes(2, 2)
        .with(|c| c.resource.quorum_min_redundancy = Quorum::Count(2))
        .up();
    t.primary(0);
    for v in [0, 1] {
        t.write_volume(0, v, [1]);
    }
    for n in [1, 2] {
        t.break_disk(n);
        // An epoch that cannot be made durable ends the connection.
        t.may_see(n, Bad::Conn(0, NetworkFailure));
        t.may_see(0, Bad::Conn(n, NetworkFailure));
    }
    let on_first = t.begin_write(0, 2);
    t.wait(0, PeerDisk(1, Diskless));
    t.wait(0, PeerDisk(2, Diskless));
    t.wait(0, Quorate(false));
    t.expect(0, Suspended(true));
    let on_second = t.c.write(0, 1, 2);
    t.pass(5);
    t.pending(on_second);
    t.resource_options(0, |o| o.quorum_min_redundancy = Quorum::Off);
    t.succeeds(on_second);
    t.succeeds(on_first);
    t.expect(0, Suspended(false));
    for n in [1, 2] {
        t.mend_disk(n);
        t.attach(n);
    }
    t.healthy();
    t.same_content_of(1, 0..3);
    t.finish();
}

/// A frozen disk of the peer: Timeout. Writes go on when it returns, or another node; or a change of on-no-quorum
/// releases them.
#[test]
fn quorum_suspend_timeout() {
    for way in ["it returns", "another node", "on-no-quorum"] {
        let mut t = three(OnNoQuorum::SuspendIo).up();
        t.primary(0);
        t.write(0, [1]);
        t.pass(1);
        t.down(2);
        t.slow_disk(1, 300_000);
        let io = t.begin_write(0, 2);
        t.may_see(0, Bad::Conn(1, Timeout));
        t.may_see(1, Bad::Conn(0, NetworkFailure));
        t.event(0, Conn(1, Timeout));
        t.c.close_link(0, 1);
        t.wait(0, Suspended(true));
        t.pass(5);
        t.pending(io);
        match way {
            "another node" => {
                t.start(2);
                t.succeeds(io);
            }
            "on-no-quorum" => {
                t.errors_expected();
                t.resource_options(0, |o| o.on_no_quorum = OnNoQuorum::IoError);
                t.fails(io);
                t.start(2);
            }
            _ => {}
        }
        t.slow_disk(1, 0);
        t.mend(0, 1);
        if way == "it returns" {
            // What its disk works on still takes its time.
            t.c.run_until(600 * 1_000_000_000, |c| c.outcome(io).is_some())
                .unwrap();
            t.succeeds(io);
            t.start(2);
        }
        t.c.run_until(600 * 1_000_000_000, |c| {
            c.disk_state(1, 0) == UpToDate
                && c.connection(1, 0) == Connected
                && c.peer_device(0, 1, 0).0 == Established
        })
        .unwrap();
        t.healthy();
        t.write(0, [3]);
        t.healthy();
        t.same_content(0..3);
        t.finish();
    }
}

/// Switching on-no-quorum to io-error ends blocked I/O with errors.
#[test]
fn quorum_suspended_cancel() {
    let mut t = three(OnNoQuorum::SuspendIo).up();
    t.errors_expected();
    t.primary(0);
    t.write(0, [1]);
    t.isolate(0);
    let ios = [t.begin_write(0, 2), t.begin_read(0, 1), t.begin_write(0, 3)];
    t.pass(5);
    ios.iter().for_each(|io| t.pending(*io));
    t.resource_options(0, |o| o.on_no_quorum = OnNoQuorum::IoError);
    ios.iter().for_each(|io| t.fails(*io));
    t.expect(0, Suspended(false));
    let io = t.begin_write(0, 4);
    t.fails(io);
    t.resource_options(0, |o| o.on_no_quorum = OnNoQuorum::SuspendIo);
    let io = t.begin_write(0, 5);
    t.rejoin(0);
    t.succeeds(io);
    t.healthy();
    t.same_content(0..3);
    t.finish();
}

/// Two nodes with disks, and a client.
fn with_client() -> Setup {
    Setup::new(3)
        .diskless([2])
        .quorum(Quorum::Majority)
        .on_no_quorum(OnNoQuorum::IoError)
}

/// A client keeps quorum as a tie-breaker but never gives it. The restart of a node that alone was quorate restores it.
#[test]
fn quorum_tiebreaker() {
    let mut t = with_client().up();
    t.primary(0);
    t.write(0, [1]);
    t.isolate(1);
    t.pass(1);
    t.expect(0, Quorate(true));
    t.write(0, [2]);
    t.expect(1, Quorate(false));
    t.no_primary(1, RetCode::NO_QUORUM);
    t.rejoin(1);
    t.healthy();
    // The Primary loses both at once: the partner and the tie-breaker have quorum.
    t.isolate(0);
    t.wait(1, Disk(UpToDate));
    t.expect(0, Quorate(false));
    t.expect(1, Quorate(true));
    let io = t.begin_write(0, 3);
    t.fails(io);
    t.secondary(0);
    t.primary(1);
    t.write(1, [4]);
    t.rejoin(0);
    t.healthy();
    t.secondary(1);
    // Alone after graceful leaves, and after a restart.
    t.primary(0);
    t.down(1);
    t.down(2);
    t.expect(0, Quorate(true));
    t.write(0, [5]);
    t.crash(0);
    t.start(0);
    t.scripts();
    t.expect(0, Disk(UpToDate));
    t.expect(0, Quorate(true));
    t.primary(0);
    t.write(0, [6]);
    t.start(1);
    t.start(2);
    t.healthy();
    t.same_content([0, 1]);
    t.finish();
    // Quorum is not gained with it.
    let mut t = with_client().build();
    t.start(0);
    t.start(2);
    t.connected();
    t.pass(2);
    t.expect(0, Quorate(false));
    t.no_primary(0, RetCode::NO_QUORUM);
    t.no_primary(2, RetCode::NO_QUORUM);
    t.start(1);
    t.wait(0, Quorate(true));
    t.primary(0);
    t.finish();
}

/// `peer-tiebreaker no` takes a client out of the count.
#[test]
fn quorum_tiebreaker_flag() {
    for counts in [true, false] {
        let mut t = with_client()
            .with(|c| c.peer_device.peer_tiebreaker = counts)
            .up();
        t.primary(0);
        t.write(0, [1]);
        t.isolate(1);
        t.wait(0, Quorate(counts));
        t.pass(1);
        t.expect(0, Quorate(counts));
        let io = t.begin_write(0, 2);
        assert_eq!(t.outcome(io).is_ok(), counts);
        t.rejoin(1);
        t.healthy();
        t.write(0, [3]);
        t.finish();
    }
}

/// A diskless node does not let a disk with an old generation become UpToDate after data of a newer one were written.
/// The newer disk is accepted later, and the stale one resynced by bitmap.
#[test]
fn quorate_data_divergence() {
    for (stale, newer) in [(0, 1), (1, 0)] {
        let mut t = Setup::new(3)
            .diskless([2])
            .with(|c| c.resource.on_no_data = OnNoData::SuspendIo)
            .up();
        t.primary(2);
        t.write(2, [1]);
        t.pass(1);
        t.isolate(stale);
        t.write(2, [2, 3]);
        t.pass(1);
        t.sever(2, newer);
        t.wait(2, Suspended(true));
        let io = t.begin_write(2, 4);
        t.mark();
        t.mend(2, stale);
        t.pass(20);
        t.pending(io);
        t.never(2, PeerDisk(stale, UpToDate));
        assert!(t.disk(stale) < UpToDate, "{:?}", t.disk(stale));
        t.mend(2, newer);
        t.succeeds(io);
        let before = t.resynced(newer, stale);
        t.mend(stale, newer);
        t.connect_begin(2, stale);
        t.healthy();
        let blocks = t.resynced(newer, stale) - before;
        assert!((2..20).contains(&blocks), "{blocks} blocks");
        t.same_content([0, 1]);
        t.finish();
    }
}
