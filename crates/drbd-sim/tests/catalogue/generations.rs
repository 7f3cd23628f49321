//! Generations of data on disks that go and come, old copies included.

use drbd_meta::flags::LocalFlags;

use crate::words::*;

/// Two nodes with disks; node 2 is a client, and Primary.
fn client_primary() -> Lab {
    let mut t = Setup::new(3).diskless([2]).up();
    t.primary(2);
    t.write(2, [1]);
    t.pass(1);
    t
}

/// A detach under a diskless Primary: a new generation at the next write, and a bitmap resync on attach.
#[test]
fn uuid_detach_resync() {
    for n in [0, 1] {
        let mut t = client_primary();
        let before = t.one_generation([0, 1]);
        t.detach(n);
        t.pass(1);
        assert_eq!(t.current(1 - n), before, "not before a write");
        t.write(2, [10, 11, 12]);
        t.pass(1);
        assert_ne!(t.current(1 - n), before);
        assert_eq!(t.uuids(1 - n).bitmap[n], before);
        let sent = t.resynced(1 - n, n);
        t.attach(n);
        t.healthy();
        let sent = t.resynced(1 - n, n) - sent;
        assert!((3..=1100).contains(&sent), "{sent} blocks");
        t.one_generation([0, 1]);
        t.same_content([0, 1]);
        t.finish();
    }
}

/// The same for a disconnect.
#[test]
fn uuid_disconnect_resync() {
    for n in [0, 1] {
        let mut t = client_primary();
        let before = t.one_generation([0, 1]);
        t.disconnect(n, 2);
        t.disconnect(n, 1 - n);
        t.pass(1);
        assert_eq!(t.current(1 - n), before, "not before a write");
        t.write(2, [10, 11, 12]);
        t.pass(1);
        assert_ne!(t.current(1 - n), before);
        assert_eq!(t.uuids(1 - n).bitmap[n], before);
        let sent = t.resynced(1 - n, n);
        t.connect_begin(n, 2);
        t.connect_begin(n, 1 - n);
        t.healthy();
        let sent = t.resynced(1 - n, n) - sent;
        assert!((3..=8).contains(&sent), "{sent} blocks");
        t.one_generation([0, 1]);
        t.same_content([0, 1]);
        t.finish();
    }
}

/// With disk and without in turns: the expected amounts are resynced, and no stale bits stay.
#[test]
fn toggle_disk() {
    for primary in [0, 2] {
        let mut t = Setup::new(3).up();
        t.primary(primary);
        t.write(primary, [1]);
        t.pass(1);
        for round in 0..4u64 {
            for n in [1, 0] {
                let volume = vol(0);
                let (force, diskless) = (false, round % 2 == 1);
                t.ok(
                    n,
                    Command::Detach {
                        volume,
                        force,
                        diskless,
                    },
                );
                let at = 100 * (round + 1) + 20 * n as u64;
                t.write(primary, at..at + 5);
                t.pass(1);
                let count = |t: &Lab| {
                    (0..3)
                        .filter(|p| *p != n)
                        .map(|p| t.resynced(p, n))
                        .sum::<u64>()
                };
                let before = count(&t);
                t.attach(n);
                t.healthy();
                let blocks = count(&t) - before;
                assert!(
                    // Extents of the activity log may come along, never the whole device.
                    (5..=2100).contains(&blocks),
                    "round {round}, node {n}: {blocks} blocks"
                );
            }
        }
        t.write(primary, [7]);
        t.pass(2);
        t.no_bits();
        t.same_content(0..3);
        t.finish();
    }
}

/// An older snapshot of a disk is put back: it is resynced.
#[test]
fn revert_older_data() {
    let mut t = Setup::new(2).up();
    t.primary(0);
    t.write(0, [1]);
    t.pass(1);
    t.down(1);
    let snapshot = t.c.nodes[1].disks[0].clone();
    t.write(0, [2, 3]);
    t.start(1);
    t.healthy();
    t.write(0, [4]);
    t.pass(1);
    t.down(1);
    t.write(0, [5]);
    t.pass(1);
    t.c.nodes[1].disks[0] = snapshot;
    t.mark();
    t.start(1);
    t.healthy();
    t.seen(1, Repl(0, SyncTarget));
    t.same_content([0, 1]);
    t.one_generation([0, 1]);
    t.finish();
}

/// Clones of the disks, made while I/O is suspended, are equal and sync correctly.
#[test]
fn resync_snapshot() {
    let mut t = Setup::new(2).up();
    t.primary(0);
    t.write(0, 1..20);
    t.begin_write(0, 30);
    t.ok(0, Command::SuspendIo);
    let later = t.begin_write(0, 31);
    t.pass(1);
    t.same_content([0, 1]);
    let snapshots = [0, 1].map(|n| t.c.nodes[n].disks[0].clone());
    t.ok(0, Command::ResumeIo);
    t.succeeds(later);
    t.write(0, 40..50);
    t.pass(1);
    // Node 1 goes back to its clone while node 0 goes on.
    t.down(1);
    t.write(0, [60]);
    t.pass(1);
    let [first, second] = snapshots;
    t.c.nodes[1].disks[0] = second;
    t.mark();
    t.start(1);
    t.wait(1, Conn(0, Connected));
    t.wait_until("node 1 has what is new", |c| c.disk_state(1, 0) == UpToDate);
    t.pass(1);
    assert_eq!(t.content(1, 60), t.content(0, 60));
    assert!(first.is_some());
    t.abandon();
}

/// The target of a storage migration comes with the day-0 generation: it resyncs.
#[test]
pub(crate) fn storage_migration_uuid() {
    for primary in [0, 2] {
        let mut t = Setup::new(3).diskless([2]).up();
        t.primary(primary);
        t.write(primary, 10..20);
        t.pass(1);
        t.down(1);
        t.write(primary, [30]);
        t.pass(1);
        // Metadata with the day-0 generation over other content.
        t.replace_disk(1);
        t.mark();
        t.start(1);
        t.event(1, Repl(0, SyncTarget));
        t.healthy();
        t.never(0, Disk(Inconsistent));
        t.never(0, Disk(Outdated));
        t.same_content([0, 1]);
        t.one_generation([0, 1]);
        t.finish();
    }
}

/// The disk of a node is created again with the day-0 generation, over the content of day 0.
fn recreate(t: &mut Lab, n: usize, day0: u64) {
    let size = t.c.size(0, 0);
    t.c.replace_disk(n, 0, 1).unwrap();
    t.c.edit_superblock(n, 0, |sb| {
        sb.current_uuid = day0;
        sb.effective_size = size;
        sb.flags = LocalFlags::CONSISTENT | LocalFlags::WAS_UP_TO_DATE;
    })
    .unwrap();
}

/// The peer is forgotten on a node, and configured again.
fn forget(t: &mut Lab, n: usize, p: usize) {
    let peer = node_id(p);
    if !t.is(n, Conn(p, StandAlone)) {
        t.disconnect(n, p);
    }
    t.ok(n, Command::DelPeer { peer, force: false });
    t.ok(n, Command::ForgetPeer { peer });
    let all = t.configure_commands(n);
    for command in all {
        let about = match &command {
            Command::NewPeer { peer, .. }
            | Command::NewPath { peer, .. }
            | Command::PeerDeviceOptions { peer, .. } => *peer == node_id(p),
            _ => false,
        };
        if about {
            t.ok(n, command);
        }
    }
    t.connect_begin(n, p);
}

/// Blocks that node `n` got from anybody.
fn got(t: &Lab, n: usize) -> u64 {
    let others = (0..t.nodes()).filter(|p| *p != n);
    others.map(|p| t.resynced(p, n)).sum()
}

fn recreated(client: bool) {
    for forgotten in [false, true] {
        let nodes = if client { 4 } else { 3 };
        let setup = Setup::new(nodes).with(|c| c.spare_slots = 1);
        let mut t = if client { setup.diskless([3]) } else { setup }.up();
        let day0 = t.one_generation(0..3);
        let primary = if client { 3 } else { 0 };
        t.primary(primary);
        t.write(primary, [10, 11]);
        t.pass(1);
        assert_ne!(t.one_generation(0..3), day0);
        t.down(2);
        t.write(primary, [40, 41, 42]);
        t.pass(1);
        if forgotten {
            for n in [0, 1] {
                forget(&mut t, n, 2);
                let slot = t.uuids(n).bitmap[2];
                assert_eq!(slot, day0, "node {n} counts from day 0 again");
            }
        }
        recreate(&mut t, 2, day0);
        // One source after the other: a target counts its own marks, too.
        t.c.close_link(1, 2);
        t.mark();
        t.start(2);
        t.event(2, Repl(0, SyncTarget));
        t.wait(2, Disk(UpToDate));
        let blocks = got(&t, 2);
        assert!(
            (5..=12).contains(&blocks),
            "{blocks} blocks, forgotten: {forgotten}"
        );
        t.mend(1, 2);
        t.healthy();
        t.same_content(0..3);
        t.one_generation(0..3);
        t.finish();
    }
}

/// A node created again with the day-0 generation gets a partial resync from the free slot; forget-peer resets slots.
#[test]
fn recreate_node_day0() {
    recreated(false);
}

/// The same with a diskless Primary.
#[test]
fn recreate_node_day0_diskless() {
    recreated(true);
}

/// A preset generation and a diskless Primary: a server that joins late is Outdated, then syncs.
#[test]
fn pre_existing_data() {
    for late in [0, 1] {
        let mut t = Setup::new(3).diskless([2]).build();
        let early = 1 - late;
        t.c.close_link(late, early);
        t.start(early);
        t.start(2);
        t.scripts();
        t.wait(2, PeerDisk(early, UpToDate));
        t.primary(2);
        t.write(2, [1, 2]);
        t.pass(1);
        t.mark();
        t.start(late);
        t.wait(late, Conn(2, Connected));
        t.pass(2);
        assert!(t.disk(late) < UpToDate, "{:?}", t.disk(late));
        t.never(2, PeerDisk(late, UpToDate));
        t.write(2, [3]);
        t.read(2, [1, 2, 3]);
        t.mend(late, early);
        t.event(late, Repl(early, SyncTarget));
        t.healthy();
        t.same_content([0, 1]);
        t.finish();
    }
}

/// With peer-acks in time Secondaries keep no bits for each other; writes that were not acked become bits when the
/// Primary is lost.
#[test]
fn peer_acks() {
    for in_time in [true, false] {
        // The Secondaries do not see each other.
        let mut t = Setup::new(3).links([(0, 1), (0, 2)]).up();
        t.primary(0);
        t.write(0, [1]);
        t.pass(1);
        for n in [1, 2] {
            assert_eq!(t.out_of_sync(n, 3 - n), 0);
        }
        t.write(0, [10, 11, 12]);
        if in_time {
            t.pass(1);
        }
        t.crash(0);
        t.pass(1);
        for n in [1, 2] {
            let bits = if in_time { 0 } else { 3 };
            assert_eq!(t.out_of_sync(n, 3 - n), bits, "node {n}");
            assert_eq!(t.out_of_sync(n, 0), 0, "not towards the Primary");
        }
        t.start(0);
        t.healthy();
        t.same_content(0..3);
        t.finish();
    }
}

/// A crashed node syncs from a storage node, and becomes UpToDate when it meets the diskless Primary.
#[test]
fn resync_after_failover_to_dless() {
    let mut t = Setup::new(3).diskless([2]).up();
    t.primary(0);
    t.write(0, [1, 2]);
    t.crash(0);
    t.wait(1, Disk(UpToDate));
    t.primary(2);
    t.write(2, [3, 4]);
    t.pass(1);
    t.c.close_link(0, 2);
    t.mark();
    t.start(0);
    t.event(0, Repl(1, SyncTarget));
    t.wait_until("the resync", |c| c.peer_device(0, 1, 0).0 == Established);
    t.write(2, [5]);
    t.mend(0, 2);
    t.wait(0, Disk(UpToDate));
    t.healthy();
    t.write(2, [6]);
    t.healthy();
    t.same_content([0, 1]);
    t.finish();
}

/// Orders in which storage nodes come back to a diskless Primary.
#[test]
fn resync_w_dless_pri() {
    // Who was away, and in which order the links come back: to the Primary (2), to the other node, ...
    for stale in [0, 1] {
        let other = 1 - stale;
        let orders: [&[(usize, usize)]; 5] = [
            &[(stale, 2), (stale, other)],
            &[(stale, other), (stale, 2)],
            // The Primary has lost the good node, too, for a moment.
            &[(other, 2), (stale, 2), (stale, other)],
            &[(stale, other), (other, 2), (stale, 2)],
            &[(other, 2), (stale, other), (stale, 2)],
        ];
        for order in orders {
            let mut t = Setup::new(3)
                .diskless([2])
                .with(|c| c.resource.on_no_data = OnNoData::SuspendIo)
                .up();
            t.primary(2);
            t.write(2, [1]);
            t.pass(1);
            t.isolate(stale);
            t.write(2, [10, 11]);
            t.pass(1);
            let lost = order.contains(&(other, 2));
            if lost {
                t.sever(other, 2);
                t.expect(2, Suspended(true));
            }
            let io = t.begin_write(2, 12);
            for &(a, b) in order {
                t.mend(a, b);
                t.pass(3);
            }
            for &(a, b) in order {
                t.connect_begin(a, b);
            }
            t.succeeds(io);
            t.healthy();
            t.same_content([0, 1]);
            t.one_generation([0, 1]);
            t.finish();
        }
    }
}
