//! Clients: nodes without a disk.

use crate::words::*;

/// With `allow-remote-read no` a Primary whose disk failed gets errors for reads and writes.
#[test]
fn allow_remote_read() {
    let setup = Setup::new(3)
        .quorum(Quorum::Majority)
        .on_no_quorum(OnNoQuorum::IoError);
    let mut t = setup.with(|c| c.net.allow_remote_read = false).up();
    t.primary(0);
    t.write(0, [1]);
    t.break_disk(0);
    let io = t.begin_write(0, 2);
    t.wait(0, Disk(Diskless));
    let _ = t.outcome(io);
    let read = t.begin_read(0, 1);
    t.fails(read);
    let write = t.begin_write(0, 3);
    t.fails(write);
    t.mend_disk(0);
    t.secondary(0);
    t.attach(0);
    t.healthy();
    t.primary(0);
    t.write(0, [3]);
    t.read(0, [1, 3]);
    t.finish();
}

/// Client I/O survives losing all but one storage node in turn; disconnecting the last data while Primary is refused
/// from either end.
#[test]
pub(crate) fn diskless() {
    let mut t = Setup::new(4).diskless([3]).up();
    t.primary(3);
    t.write(3, [0]);
    for survivor in 0..3 {
        let others: Vec<usize> = (0..3).filter(|n| *n != survivor).collect();
        for &n in &others {
            let io = t.begin_write(3, 100 + n as u64);
            t.isolate(n);
            t.succeeds(io);
            t.write(3, [10 + n as u64]);
            t.read(3, [0, 10 + n as u64, 100 + n as u64]);
        }
        let refusals = [
            (3, survivor, RetCode::NO_UP_TO_DATE_DISK),
            (survivor, 3, RetCode::CW_FAILED_BY_PEER),
        ];
        for (n, p, code) in refusals {
            t.refuses(n, t.disconnect_command(p), code);
        }
        t.refuses(survivor, t.detach_command(0), RetCode::CW_FAILED_BY_PEER);
        t.write(3, [50]);
        t.read(3, [50]);
        for &n in &others {
            t.rejoin(n);
        }
        t.healthy();
        t.same_content(0..3);
    }
    t.finish();
}

/// An older node that meets a diskless Primary is kept as Consistent or Outdated; with a Secondary client the old node
/// outdates itself; later it is resynced, and there is no split brain.
#[test]
fn diskless_connect_older() {
    for primary in [true, false] {
        let mut t = Setup::new(3).diskless([2]).up();
        t.primary(2);
        t.write(2, [1]);
        t.pass(1);
        t.isolate(1);
        t.write(2, [1, 2, 3]);
        t.pass(1);
        if !primary {
            t.secondary(2);
        }
        t.mark();
        t.mend(1, 2);
        t.wait(1, Conn(2, Connected));
        t.pass(3);
        if primary {
            let kept = t.peer_disk(2, 1);
            assert!(matches!(kept, Consistent | Outdated), "{kept}");
        } else {
            t.expect(1, Disk(Outdated));
            t.expect(2, PeerDisk(1, Outdated));
        }
        t.never(2, PeerDisk(1, UpToDate));
        if primary {
            t.read(2, [1, 2, 3]);
            t.write(2, [4]);
        }
        t.mend(0, 1);
        t.event(1, Repl(0, SyncTarget));
        t.healthy();
        assert!(t.resynced(0, 1) <= 5, "{} blocks", t.resynced(0, 1));
        for (n, p) in [(0, 1), (1, 0), (1, 2), (2, 1)] {
            t.never(n, Conn(p, StandAlone));
        }
        t.same_content([0, 1]);
        t.finish();
    }
}

/// Adding and removing clients in a quorum cluster keeps quorum.
#[test]
fn diskless_join_leave() {
    for storage in [2, 3] {
        let clients = [storage, storage + 1];
        let setup = Setup::new(storage + 2)
            .diskless(clients)
            .quorum(Quorum::Majority);
        let mut t = setup.build();
        for n in 0..storage {
            t.start(n);
        }
        t.healthy();
        t.primary(0);
        t.write(0, [1]);
        t.mark();
        t.start(clients[0]);
        t.healthy();
        t.start(clients[1]);
        t.healthy();
        t.write(0, [2]);
        t.down(clients[0]);
        t.write(0, [3]);
        t.down(clients[1]);
        t.write(0, [4]);
        for c in clients {
            t.start(c);
        }
        t.healthy();
        t.crash(clients[0]);
        t.write(0, [5]);
        t.crash(clients[1]);
        t.write(0, [6]);
        for n in 0..storage {
            t.never(n, Quorate(false));
        }
        t.finish();
    }
}

/// After a restart the UUID of an absent peer is unknown: the first write makes a new generation.
#[test]
fn diskless_primary_lost_peer_same_uuid() {
    let mut t = Setup::new(3).diskless([2]).up();
    t.primary(2);
    t.write(2, [1]);
    t.pass(1);
    t.isolate(1);
    t.write(2, [2]);
    t.pass(1);
    let before = t.current(0);
    t.down(2);
    t.start(2);
    t.wait(2, PeerDisk(0, UpToDate));
    t.primary(2);
    assert_eq!(t.current(0), before);
    t.write(2, [3]);
    t.pass(1);
    let after = t.current(0);
    assert_ne!(after, before);
    t.write(2, [4]);
    t.pass(1);
    assert_eq!(t.current(0), after);
    t.rejoin(1);
    t.healthy();
    assert_eq!(t.one_generation([0, 1]), after);
    t.same_content([0, 1]);
    t.finish();
}

/// Absent peer: a new generation at the next write; on its return a bitmap resync only.
#[test]
fn diskless_primary_resync_absent_peer() {
    for crash in [true, false] {
        let mut t = Setup::new(3).diskless([2]).up();
        t.primary(2);
        t.write(2, 0..10);
        t.pass(1);
        let before = t.one_generation([0, 1]);
        if crash {
            t.crash(1)
        } else {
            t.down(1)
        };
        t.pass(1);
        assert_eq!(t.current(0), before, "before a write nothing is new");
        t.write(2, [3, 20]);
        t.pass(1);
        assert_ne!(t.current(0), before);
        assert_eq!(t.uuids(0).bitmap[1], before);
        t.mark();
        t.start(1);
        t.event(1, Repl(0, SyncTarget));
        t.healthy();
        // What was in the activity log of the one that crashed counts as different.
        let most = if crash { 1024 } else { 2 };
        assert!(t.resynced(0, 1) <= most, "{}", t.resynced(0, 1));
        t.one_generation([0, 1]);
        t.same_content([0, 1]);
        t.finish();
    }
}

/// Each period as diskless Primary makes its generation; a stale client reconnects and adopts the current one.
#[test]
fn diskless_primary_split_brain() {
    let mut t = Setup::new(3).diskless([1, 2]).up();
    t.primary(1);
    t.write(1, [1]);
    t.pass(1);
    let first = t.current(0);
    t.secondary(1);
    t.isolate(1);
    t.primary(2);
    t.write(2, [2]);
    t.pass(1);
    let second = t.current(0);
    assert_ne!(first, second);
    t.secondary(2);
    t.mark();
    t.rejoin(1);
    t.healthy();
    t.never(0, Disk(Outdated));
    t.never(0, Disk(Consistent));
    t.never(1, Conn(0, StandAlone));
    assert_eq!(t.current(0), second);
    t.primary(1);
    t.read(1, [1, 2]);
    t.write(1, [3]);
    t.finish();
}

/// One new generation per absence, not per promotion; the absent node is reintegrated by a resync.
#[test]
fn diskless_primary_uuid_bump() {
    let mut t = Setup::new(3).diskless([2]).up();
    t.primary(2);
    t.write(2, [1]);
    t.pass(1);
    for round in 0..2 {
        let before = t.one_generation([0, 1]);
        t.isolate(1);
        t.write(2, [10 + round]);
        t.pass(1);
        let after = t.current(0);
        assert_ne!(after, before);
        for again in 0..3 {
            t.secondary(2);
            t.primary(2);
            t.write(2, [20 + again]);
            t.pass(1);
            assert_eq!(t.current(0), after, "promotion {again}");
        }
        t.mark();
        t.rejoin(1);
        t.event(1, Repl(0, SyncTarget));
        t.healthy();
        assert_eq!(t.one_generation([0, 1]), after);
        t.same_content([0, 1]);
    }
    t.finish();
}

/// Exactly one new generation at the first write of a diskless Primary; one more for the first write with an absent
/// client; none for further Primary periods; again one after a restart of the Primary.
#[test]
fn diskless_primary_uuid_bump_diskless_peer() {
    let mut t = Setup::new(3).diskless([1, 2]).up();
    let mut generations = vec![t.current(0)];
    let mut period = |t: &mut Lab, new: bool, what: &str| {
        t.primary(1);
        for block in [1, 2, 3] {
            t.write(1, [block]);
            t.pass(1);
        }
        let (now, before) = (t.current(0), *generations.last().unwrap());
        assert_eq!(now != before, new, "{what}: {generations:x?} {now:x}");
        if new {
            let g = t.uuids(0);
            let known = g.history[0] == before || g.bitmap.contains(&before);
            assert!(known, "{what}: more than one, {g:x?}");
            generations.push(now);
        }
        t.secondary(1);
    };
    period(&mut t, true, "the first write");
    t.crash(2);
    period(&mut t, true, "the client is absent");
    period(&mut t, false, "still absent");
    period(&mut t, false, "still absent");
    t.down(1);
    t.start(1);
    t.wait(1, PeerDisk(0, UpToDate));
    period(&mut t, true, "the Primary was restarted");
    t.start(2);
    t.healthy();
    t.finish();
}

/// Two periods as diskless Primary while one node is isolated; it is reintegrated by a resync.
#[test]
fn double_promote_diskless() {
    let mut t = Setup::new(4).diskless([2, 3]).up();
    t.primary(2);
    t.write(2, [1]);
    t.pass(1);
    t.secondary(2);
    t.isolate(1);
    for (n, block) in [(2, 10), (3, 20)] {
        t.primary(n);
        t.write(n, [block, 5]);
        t.pass(1);
        t.secondary(n);
    }
    t.mark();
    t.rejoin(1);
    t.event(1, Repl(0, SyncTarget));
    t.healthy();
    assert!(t.resynced(0, 1) <= 3);
    for n in [0, 2, 3] {
        t.never(n, Conn(1, StandAlone));
        t.never(1, Conn(n, StandAlone));
    }
    t.same_content([0, 1]);
    t.one_generation([0, 1]);
    t.finish();
}

/// A client adopts the largest logical block size, and keeps it compatible with later peers.
#[test]
fn diskless_logical_block_size() {
    for order in [[0, 1], [1, 0]] {
        let setup = Setup::new(3).diskless([2]);
        let mut t = setup.with(|c| c.logical_blocks = vec![(1, 4096)]).build();
        t.start(2);
        t.start(order[0]);
        t.healthy();
        let first = if order[0] == 1 { 4096 } else { 512 };
        assert_eq!(t.c.nodes[2].limits[0].logical_block, first);
        t.start(order[1]);
        t.healthy();
        for n in 0..3 {
            assert_eq!(t.c.nodes[n].limits[0].logical_block, 4096, "node {n}");
        }
        t.primary(2);
        t.write(2, [1, 2]);
        t.same_content([0, 1]);
        t.finish();
    }
}

/// A Secondary without disk was away when a generation began; then the disk that has it is attached beside it.
#[test]
fn client_follows_an_attached_disk() {
    let mut t = Setup::new(2).up();
    t.primary(0);
    t.write(0, [1]);
    t.secondary(0);
    t.pass(1);
    t.detach(1);
    t.disconnect(0, 1);
    t.primary(0);
    t.write(0, [2]);
    t.secondary(0);
    t.detach(0);
    t.connect(0, 1);
    t.expect(1, PeerDisk(0, Diskless));
    t.attach(0);
    t.wait(1, PeerDisk(0, UpToDate));
    t.primary(1);
    t.read(1, [1, 2]);
    t.attach(1);
    t.healthy();
    t.same_content([0, 1]);
    t.finish();
}
