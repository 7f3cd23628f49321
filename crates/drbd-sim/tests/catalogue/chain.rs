//! Nodes that do not all see each other, and who may be Primary.

use crate::words::*;

/// Chain: weak nodes become Outdated at promotion and UpToDate after demotion, also if the last node had lost the
/// Primary.
#[test]
fn lost_primary_after_no_writes() {
    let mut t = Setup::new(3).chain().up();
    for _ in 0..2 {
        t.mark();
        t.primary(0);
        t.event(2, Disk(Outdated));
        t.event(1, PeerDisk(2, Outdated));
        t.secondary(0);
        t.event(2, Disk(UpToDate));
        t.event(1, PeerDisk(2, UpToDate));
    }
    t.healthy();
    t.no_resync();
    t.finish();

    for grace in [true, false] {
        let mut t = Setup::new(3).up();
        t.primary(0);
        t.mark();
        if grace {
            t.disconnect(2, 0);
        } else {
            t.sever(0, 2);
        }
        t.event(2, Disk(Outdated));
        t.event(1, PeerDisk(2, Outdated));
        t.secondary(0);
        t.event(2, Disk(UpToDate));
        t.event(1, PeerDisk(2, UpToDate));
        t.no_resync();
        t.mend(0, 2);
        t.connect(0, 2);
        t.healthy();
        t.finish();
    }
}

/// A chain node is Outdated while the Primary is not directly connected, UpToDate once it is; Outdated on link loss and
/// on graceful disconnect from either side; UpToDate after demotion.
#[test]
fn outdate() {
    let mut t = Setup::new(3).chain().up();
    t.primary(0);
    t.wait(2, Disk(Outdated));
    t.write(0, [1, 2]);
    t.connect(0, 2);
    t.wait(2, Disk(UpToDate));
    t.healthy();
    t.same_content(0..3);
    for way in 0..3 {
        t.mark();
        match way {
            0 => t.sever(0, 2),
            1 => t.disconnect(0, 2),
            _ => t.disconnect(2, 0),
        }
        t.event(2, Disk(Outdated));
        t.event(1, PeerDisk(2, Outdated));
        t.no_primary(2, RetCode::CW_FAILED_BY_PEER);
        t.write(0, [10 + way]);
        if way == 1 {
            t.secondary(0);
            t.wait(2, Disk(UpToDate));
            t.wait(1, PeerDisk(2, UpToDate));
            t.primary(0);
            t.wait(2, Disk(Outdated));
        }
        t.mend(0, 2);
        t.connect(0, 2);
        t.wait(2, Disk(UpToDate));
        t.healthy();
        t.same_content(0..3);
    }
    t.secondary(0);
    t.finish();
}

/// A node that missed the loss of the former Primary is Outdated and refuses promotion.
#[test]
fn outdate_early() {
    for written in [false, true] {
        let mut t = Setup::new(3).quorum(Quorum::Majority).up();
        t.primary(0);
        t.write(0, [1]);
        t.pass(1);
        // Node 2 sees the Primary only, which takes its other partner with it.
        t.sever(1, 2);
        t.pass(1);
        t.sever(0, 2);
        t.wait(2, Quorate(false));
        t.no_primary(2, RetCode::NO_QUORUM);
        if written {
            t.write(0, [2, 3]);
        }
        t.secondary(0);
        t.primary(1);
        t.wait(0, PeerRole(1, Primary));
        t.mark();
        // Now it meets the one that is not Primary.
        t.mend(0, 2);
        t.wait(2, Conn(0, Connected));
        t.wait(2, Disk(Outdated));
        t.pass(5);
        // A resync from a source that has a Primary itself is not the last word.
        let state = if written { Inconsistent } else { Outdated };
        t.expect(2, Disk(state));
        t.expect(0, PeerDisk(2, state));
        t.no_primary(2, RetCode::CW_FAILED_BY_PEER);
        t.expect(2, Am(Secondary));
        t.mend(1, 2);
        t.healthy();
        t.same_content(0..3);
        t.finish();
    }
}

/// Connecting a resync target to a diskless Primary must not outdate its source.
#[test]
fn outdate_not_all() {
    let mut t = Setup::new(3).diskless([2]).up();
    t.primary(2);
    t.write(2, 0..4);
    t.pass(1);
    t.disconnect(1, 2);
    t.disconnect(1, 0);
    t.write(2, 4..20);
    t.pause_sync(0, 1, true);
    t.mark();
    t.connect_begin(0, 1);
    t.wait(1, Repl(0, PausedSyncT));
    t.connect(1, 2);
    t.pass(2);
    t.expect(1, Repl(0, PausedSyncT));
    t.expect(2, PeerDisk(1, Inconsistent));
    t.write(2, [30]);
    t.pause_sync(0, 1, false);
    t.healthy();
    t.never(0, Disk(Outdated));
    t.never(0, Disk(Consistent));
    t.never(2, PeerDisk(0, Outdated));
    t.never(2, PeerDisk(0, Consistent));
    t.same_content([0, 1]);
    t.finish();
}

/// What a status report says, and what is true.
fn may_promote_is(t: &mut Lab, n: usize, expected: bool) {
    let s = t.c.status(n).unwrap();
    let good = |d: DiskState| d == UpToDate;
    let replicas = s.connections.iter().flat_map(|c| &c.2);
    let any = good(s.devices[0].1.disk) || replicas.clone().any(|(_, pd)| good(pd.peer_disk));
    let nobody = s.info.role != Primary && s.connections.iter().all(|c| c.1.peer_role != Primary);
    let quorum = s.devices[0].1.quorum;
    let said = any && nobody && quorum && !s.info.fail_io;
    assert_eq!(said, expected, "node {n}\n{}", t.c.describe());
    if t.is(n, Am(Secondary)) {
        let reply = t.ask(n, Command::Primary { force: false });
        assert_eq!(reply.is_ok(), expected, "node {n}: {reply:?}");
        if reply.is_ok() {
            t.secondary(n);
            t.pass(1);
        }
    }
}

/// may_promote is reported correctly in chain, mesh, disconnected and outdated cases.
#[test]
fn may_promote() {
    for chain in [false, true] {
        let setup = Setup::new(3);
        let mut t = if chain { setup.chain() } else { setup }.up();
        for n in 0..3 {
            may_promote_is(&mut t, n, true);
        }
        t.primary(0);
        t.pass(1);
        for n in 0..3 {
            // At the end of the chain nobody sees the Primary, but the disk is Outdated and that of the middle is not.
            if !(chain && n == 2) {
                may_promote_is(&mut t, n, false);
            }
        }
        t.secondary(0);
        t.pass(1);
        may_promote_is(&mut t, 2, true);
        t.finish();
    }
    // Disconnected, then outdated.
    let mut t = Setup::new(2).up();
    t.disconnect(0, 1);
    may_promote_is(&mut t, 0, true);
    t.ok(1, Command::Outdate { volume: vol(0) });
    may_promote_is(&mut t, 1, false);
    t.connect(0, 1);
    t.wait(1, Disk(UpToDate));
    may_promote_is(&mut t, 1, true);
    t.finish();
    // A client depends on others, and everybody on quorum.
    let mut t = Setup::new(3).diskless([2]).quorum(Quorum::Majority).up();
    may_promote_is(&mut t, 2, true);
    t.isolate(2);
    t.wait(2, Quorate(false));
    may_promote_is(&mut t, 2, false);
    may_promote_is(&mut t, 0, true);
    t.rejoin(2);
    t.healthy();
    may_promote_is(&mut t, 2, true);
    t.isolate(0);
    t.wait(0, Quorate(false));
    may_promote_is(&mut t, 0, false);
    may_promote_is(&mut t, 1, true);
    t.rejoin(0);
    t.healthy();
    t.finish();
}

/// A promotion that waits for another Primary succeeds after that one demotes; the ex-Primary later resyncs, and
/// connects to the third node without "unrelated data".
#[test]
fn concurrent_promote_demote() {
    let mut t = Setup::new(3).up();
    t.primary(0);
    t.write(0, [1]);
    t.pass(1);
    let promotion = t.begin(1, Command::Primary { force: false });
    t.pass_ms(200);
    let demotion = t.begin(0, Command::Secondary { force: false });
    let demoted = t.reply(0, demotion);
    assert!(demoted.is_ok(), "{demoted:?}");
    let promoted = t.reply(1, promotion);
    assert!(promoted.is_ok(), "{promoted:?}");
    t.expect(1, Am(Primary));
    t.isolate(0);
    t.write(1, [2, 3]);
    t.mark();
    t.mend(0, 1);
    t.events(0, [Repl(1, SyncTarget), Disk(UpToDate)]);
    t.mend(0, 2);
    t.healthy();
    t.never(0, Conn(2, StandAlone));
    t.never(2, Conn(0, StandAlone));
    t.same_content(0..3);
    t.finish();
}

/// Dual-primary hand-over between nodes with and without disk keeps all replicas UpToDate.
#[test]
fn migrate() {
    let setup = Setup::new(4)
        .diskless([2, 3])
        .with(|c| c.net.two_primaries = true);
    let mut t = setup.up();
    t.primary(0);
    t.write(0, [1]);
    t.mark();
    let mut last = 0;
    for (block, next) in [(10, 2), (20, 3), (30, 1), (40, 2), (50, 0)] {
        t.primary(next);
        t.expect(last, Am(Primary));
        t.write(last, [block]);
        t.write(next, [block + 1]);
        t.read(next, [block, block + 1, 1]);
        t.secondary(last);
        t.write(next, [block + 2]);
        last = next;
    }
    for n in [0, 1] {
        for bad in [Outdated, Consistent, Inconsistent] {
            t.never(n, Disk(bad));
        }
    }
    t.no_resync();
    t.healthy();
    t.same_content([0, 1]);
    t.finish();
}
