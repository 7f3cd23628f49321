//! Directions of resyncs that identifiers alone do not tell.

use crate::words::*;

/// Nodes with equal UUIDs that both lost quorum as Primary: the tie is decided by the disks and the role, not by the
/// connection.
#[test]
fn resync_based_on_disk_states() {
    for (lost, kept) in [(0, 1), (1, 0)] {
        for written in [false, true] {
            let mut t = Setup::new(3)
                .quorum(Quorum::Majority)
                .on_no_quorum(OnNoQuorum::SuspendIo)
                .with(|c| c.net.two_primaries = true)
                .up();
            t.primary(lost);
            t.primary(kept);
            t.write(kept, [1]);
            t.pass(1);
            let generation = t.one_generation(0..3);
            t.isolate(2);
            t.sever(0, 1);
            for n in [lost, kept] {
                t.expect(n, Quorate(false));
                t.expect(n, Suspended(true));
            }
            let io = written.then(|| t.begin_write(kept, 2));
            t.pass(1);
            // One of the two steps down and comes back with an old disk.
            t.ok(lost, Command::Secondary { force: true });
            t.down(lost);
            t.start(lost);
            t.pass(2);
            t.ok(lost, Command::Outdate { volume: vol(0) });
            t.expect(lost, Disk(Outdated));
            assert_eq!(t.current(lost), generation);
            t.mark();
            t.mend(0, 1);
            t.wait(lost, Conn(kept, Connected));
            t.wait(kept, Suspended(false));
            if let Some(io) = io {
                t.succeeds(io);
            }
            t.wait(lost, Disk(UpToDate));
            for state in [WFBitMapT, SyncTarget] {
                t.never(kept, Repl(lost, state));
            }
            t.never(kept, Disk(Outdated));
            t.write(kept, [3]);
            t.rejoin(2);
            t.healthy();
            t.same_content(0..3);
            t.finish();
        }
    }
}

/// A target of a crashed Primary, whose resync ended Outdated, is resynced again, from the Primary of today.
#[test]
fn resync_after_primary_crash() {
    for source_first in [false, true] {
        let mut t = Setup::new(3).up();
        t.primary(0);
        t.write(0, [1]);
        t.pass(1);
        // Node 1 misses some of what the Primary writes, and node 0 what the next Primary writes.
        t.isolate(1);
        t.write(0, [2, 3]);
        t.pass(1);
        t.crash(0);
        t.primary(2);
        t.write(2, [3, 4]);
        t.pass(1);
        t.isolate(0);
        t.isolate(2);
        t.start(0);
        t.pass(1);
        t.ok(0, Command::Outdate { volume: vol(0) });
        t.expect(0, Disk(Outdated));
        t.mark();
        t.mend(0, 1);
        t.event(1, Repl(0, SyncTarget));
        t.event(1, Repl(0, Established));
        t.pass(1);
        t.expect(1, Disk(Outdated));
        assert_eq!(t.content(1, 2), t.content(0, 2));
        t.mark();
        let (first, then) = match source_first {
            true => (0, 1),
            false => (1, 0),
        };
        t.mend(first, 2);
        t.event(first, Repl(2, SyncTarget));
        t.mend(then, 2);
        t.event(1, Disk(UpToDate));
        t.healthy();
        t.read(2, [1, 2, 3, 4]);
        t.same_content(0..3);
        t.finish();
    }
}
