//! Disks are attached and detached, fail, and are thrown away.

use crate::words::*;

/// Two Secondaries detach and attach at the same time; both end UpToDate, with and without writes in between.
#[test]
pub(crate) fn attach_concurrent() {
    for primary in [true, false] {
        for writes in [true, false] {
            let mut t = Setup::new(3).up();
            // The one that is a source for the other and then a target itself makes its target begin again.
            t.may_part(1, 2);
            t.primary(0);
            t.write(0, [1]);
            t.pass(1);
            if !primary {
                t.secondary(0);
            }
            for round in 0..3 {
                let detach = t.detach_command(0);
                for reply in t.at_once([(1, detach.clone()), (2, detach)]) {
                    assert!(reply.is_ok(), "{reply:?}");
                }
                if primary && writes {
                    t.write(0, [10 + round, 2000 + round]);
                }
                let (one, two) = (t.c.attach_command(1, 0), t.c.attach_command(2, 0));
                for reply in t.at_once([(1, one), (2, two)]) {
                    assert!(reply.is_ok(), "{reply:?}");
                }
                t.healthy();
                t.same_content(0..3);
            }
            t.finish();
        }
    }
}

/// A disk is attached between one that is newer and one that is older: it waits with the latter until it has what the
/// former has.
#[test]
pub(crate) fn attach_between_newer_and_older() {
    let mut t = Setup::new(3).chain().up();
    t.may_part(1, 2);
    t.primary(0);
    t.write(0, [1]);
    t.pass(1);
    t.expect(2, Disk(Outdated));
    t.detach(1);
    t.write(0, [2, 3]);
    t.slow_disk(0, 500);
    t.mark();
    t.attach(1);
    t.event(1, Disk(Inconsistent));
    t.seen(1, Repl(2, PausedSyncS));
    t.slow_disk(0, 0);
    t.wait(1, Disk(UpToDate));
    t.pass(10);
    t.same_content([0, 1]);
    t.finish();
}

const BLOCKS_OF_MIB: u64 = 256;

/// Re-attach after the peer grew meanwhile resyncs only the new area.
#[test]
fn attach_while_connected_not_uptodate() {
    for demoted in [true, false] {
        let mut t = Setup::new(2).sizes([8, 8]).up();
        t.primary(0);
        t.write(0, [1, 2]);
        t.pass(1);
        if demoted {
            t.secondary(0);
            t.pass(1);
        }
        t.detach(1);
        t.c.grow_devices(0, 4 << 20);
        let resize = Resize {
            assume_peer_has_space: true,
            ..Resize::default()
        };
        t.ok(
            0,
            Command::Resize {
                volume: vol(0),
                resize,
            },
        );
        assert_eq!(t.c.size(0, 0), 12 << 11);
        t.mark();
        t.attach(1);
        t.event(1, Repl(0, SyncTarget));
        t.healthy();
        assert_eq!(t.resynced(0, 1), 4 * BLOCKS_OF_MIB);
        assert_eq!(t.c.size(1, 0), 12 << 11);
        t.same_content(0..2);
        t.finish();
    }
}

/// Re-attach of a grown disk keeps the old bitmap and resyncs the new area.
#[test]
fn attach_while_connected_resize() {
    let mut t = Setup::new(2).fresh().sizes([12, 8]).up();
    t.force_primary(0);
    t.healthy();
    t.write(0, 0..5);
    t.pass(1);
    assert_eq!(t.c.size(0, 0), 8 << 11);
    t.secondary(0);
    t.pass(1);
    t.detach(1);
    t.primary(0);
    t.write(0, [100, 101, 1500]);
    let before = t.resynced(0, 1);
    t.c.grow_devices(0, 4 << 20);
    t.mark();
    t.attach(1);
    t.wait_until("both grow", |c| {
        c.size(0, 0) == 12 << 11 && c.size(1, 0) == 12 << 11
    });
    t.event(1, Repl(0, SyncTarget));
    t.healthy();
    assert_eq!(t.resynced(0, 1) - before, 3 + 4 * BLOCKS_OF_MIB);
    t.same_content(0..2);
    t.write(0, [8 * BLOCKS_OF_MIB, 12 * BLOCKS_OF_MIB - 1]);
    t.finish();
}

/// I/O error on Secondary or Primary: Failed, then Diskless, and the peers see it; re-attach: a bitmap resync of about one
/// extent of the activity log; read errors are served by a peer; a replaced disk gets a full sync.
#[test]
fn io_errors() {
    for victim in [1, 0] {
        let mut t = Setup::new(3).fresh().up();
        t.force_primary(0);
        t.healthy();
        t.write(0, 0..5);
        t.pass(1);
        // An epoch that cannot be made durable ends the connection.
        t.may_see(1, Bad::Conn(0, NetworkFailure));
        t.may_see(0, Bad::Conn(1, NetworkFailure));
        t.break_disk(victim);
        t.mark();
        if victim == 0 {
            // The error shows at a read, which a peer answers.
            t.read(0, [2]);
        } else {
            t.write(0, [6]);
        }
        t.events(victim, [Disk(Failed), Disk(Diskless)]);
        for p in (0..3).filter(|p| *p != victim) {
            t.events(p, [PeerDisk(victim, Failed), PeerDisk(victim, Diskless)]);
        }
        t.write(0, [6, 7, 8]);
        t.read(0, 0..9);
        t.mend_disk(victim);
        let before: u64 = (0..3).map(|n| t.resynced(n, victim)).sum();
        t.attach(victim);
        t.event(victim, Disk(Inconsistent));
        t.healthy();
        let amount: u64 = (0..3).map(|n| t.resynced(n, victim)).sum::<u64>() - before;
        // From each of the two peers.
        assert!((3..=2 * 1024 + 3).contains(&amount), "{amount} blocks");
        t.same_content(0..3);
        t.break_disk(victim);
        t.write(0, [9]);
        t.wait(victim, Disk(Diskless));
        t.fresh_disk(victim);
        let before: u64 = (0..3).map(|n| t.resynced(n, victim)).sum();
        t.attach(victim);
        t.healthy();
        let amount: u64 = (0..3).map(|n| t.resynced(n, victim)).sum::<u64>() - before;
        let all = t.c.size(0, 0) / 8;
        assert!((all..2 * all + 5).contains(&amount), "{amount} blocks");
        t.same_content(0..3);
        t.finish();
    }
}

/// Applications on clients see no error while storage nodes fail one after the other; no spurious timeouts.
#[test]
fn io_errors_diskless() {
    let mut t = Setup::new(4).diskless([3]).up();
    t.primary(3);
    t.write(3, 0..5);
    for victim in [0, 1] {
        // A node that cannot make durable what it confirmed says so by leaving, and comes back without disk.
        t.may_part(victim, 3);
        let writes: Vec<u64> = (0..10).map(|b| t.begin_write(3, 100 + b)).collect();
        let reads: Vec<u64> = (0..5).map(|b| t.begin_read(3, b)).collect();
        t.break_disk(victim);
        let more: Vec<u64> = (0..10).map(|b| t.begin_write(3, 200 + b)).collect();
        let reads_too: Vec<u64> = (0..5).map(|b| t.begin_read(3, b)).collect();
        for io in [writes, reads, more, reads_too].concat() {
            t.succeeds(io);
        }
        t.wait(victim, Disk(Diskless));
        t.read(3, 100..105);
    }
    t.pass(60);
    t.write(3, [7]);
    t.expect(2, Disk(UpToDate));
    for victim in [0, 1] {
        t.mend_disk(victim);
        t.attach(victim);
    }
    t.healthy();
    t.same_content(0..3);
    t.finish();
}

/// A detach hangs as long as the disk does; a forced one beside it is answered, too.
#[test]
fn hanging_detach_and_forced_one_are_answered() {
    for primary in [0, 1] {
        let mut t = Setup::new(2).up();
        t.primary(primary);
        t.write(primary, [1]);
        t.pass(1);
        t.slow_disk(0, 30_000);
        let io = t.begin_write(primary, 2);
        t.pass_ms(100);
        let hanging = t.begin(0, t.detach_command(0));
        t.pass(20);
        assert!(t.unanswered(0, hanging));
        let force = Command::Detach {
            volume: vol(0),
            force: true,
            diskless: false,
        };
        // An epoch that cannot be made durable ends the connection.
        t.may_see(0, Bad::Conn(1, NetworkFailure));
        t.may_see(1, Bad::Conn(0, NetworkFailure));
        let forced = t.begin(0, force);
        t.slow_disk(0, 0);
        for command in [hanging, forced] {
            let reply = t.reply(0, command);
            assert!(reply.is_ok(), "{reply:?}");
        }
        t.succeeds(io);
        t.expect(0, Disk(Diskless));
        t.write(primary, [3]);
        // What it was asked for before it was given up comes back at last.
        t.pass(15);
        t.attach(0);
        t.healthy();
        t.same_content(0..2);
        t.finish();
    }
}

fn invalidate_it(from: Option<usize>, reset_bitmap: bool) -> Command {
    Command::Invalidate {
        volume: vol(0),
        from: from.map(node_id),
        reset_bitmap,
    }
}

fn invalidate_peer(p: usize, reset_bitmap: bool) -> Command {
    Command::InvalidateRemote {
        peer: node_id(p),
        volume: vol(0),
        reset_bitmap,
    }
}

/// All forms of invalidate and invalidate-remote, with and without reset-bitmap; the bitmap form only transfers the
/// blocks that are marked.
#[test]
pub(crate) fn invalidate() {
    let mut t = Setup::new(3)
        .with(|c| c.net.verify_alg = "crc32c".into())
        .up();
    let all = t.c.size(0, 0) / 8;
    t.primary(0);
    t.write(0, [1, 2]);
    t.pass(1);
    let received = |t: &Lab, n: usize| (0..3).map(|p| t.resynced(p, n)).sum::<u64>();
    // Who, which command where, the source if it is named.
    let full = [
        (1, 1, invalidate_it(None, true), None),
        (2, 2, invalidate_it(Some(1), true), Some(1)),
        (0, 0, invalidate_it(None, true), None),
        (1, 0, invalidate_peer(1, true), Some(0)),
        (2, 1, invalidate_peer(2, true), Some(1)),
    ];
    for (who, at, command, source) in full {
        let before = received(&t, who);
        t.mark();
        t.ok(at, command.clone());
        t.events(who, [Disk(Inconsistent), Disk(UpToDate)]);
        t.healthy();
        // What a second source is not known to share with the first one is fetched from it, too.
        let amount = received(&t, who) - before;
        assert!((all..=2 * all).contains(&amount), "{command:?}: {amount}");
        if let Some(source) = source {
            t.seen(who, Repl(source, SyncTarget));
            t.seen(source, Repl(who, SyncSource));
        }
        t.same_content(0..3);
        t.disconnect(1, 2);
        t.connect(1, 2);
        t.healthy();
    }
    // Blocks that were found different, and only those.
    for (at, command) in [
        (1, invalidate_it(Some(0), false)),
        (0, invalidate_peer(1, false)),
    ] {
        for block in [50, 60, 70] {
            t.corrupt(1, block);
        }
        let verify = Command::Verify {
            peer: node_id(1),
            volume: vol(0),
            start: None,
            stop: None,
        };
        t.mark();
        t.ok(0, verify);
        t.events(0, [Repl(1, VerifyS), Repl(1, Established)]);
        t.wait(1, Repl(0, Established));
        assert_eq!(t.out_of_sync(0, 1), 3);
        let before = received(&t, 1);
        t.ok(at, command);
        t.events(1, [Repl(0, WFBitMapT), Repl(0, SyncTarget), Disk(UpToDate)]);
        t.healthy();
        assert_eq!(received(&t, 1) - before, 3);
        t.same_content(0..3);
    }
    // Disconnected, on either side, and without a disk.
    t.disconnect(1, 0);
    t.disconnect(1, 2);
    t.ok(1, invalidate_it(None, true));
    t.expect(1, Disk(Inconsistent));
    let before = received(&t, 1);
    t.connect(0, 1);
    t.connect(1, 2);
    t.healthy();
    assert!(received(&t, 1) - before >= all);
    t.disconnect(1, 0);
    t.disconnect(1, 2);
    t.ok(0, invalidate_peer(1, true));
    t.expect(0, PeerDisk(1, Inconsistent));
    let before = t.resynced(0, 1);
    t.connect(0, 1);
    t.healthy();
    assert_eq!(t.resynced(0, 1) - before, all);
    t.connect(1, 2);
    t.healthy();
    t.detach(1);
    t.refuses(1, invalidate_it(None, true), RetCode::ERR_NO_DISK);
    t.refuses(1, invalidate_peer(0, true), RetCode::ERR_NO_DISK);
    t.attach(1);
    t.healthy();
    t.same_content(0..3);
    t.finish();
}

/// Large peer requests are handled: they are written and resynced as a whole.
#[test]
fn multi_bio_peer_reqs() {
    let mut t = Setup::new(2).up();
    t.primary(0);
    t.write(0, [0]);
    let ios: Vec<u64> = (0..8)
        .map(|i| t.begin_large_write(0, 3 + i * 256, 256))
        .collect();
    for io in ios {
        t.succeeds(io);
    }
    t.pass(1);
    t.same_content(0..2);
    t.sever(0, 1);
    let ios: Vec<u64> = (0..8)
        .map(|i| t.begin_large_write(0, 7 + i * 256, 256))
        .collect();
    for io in ios {
        t.succeeds(io);
    }
    t.mend(0, 1);
    t.healthy();
    t.same_content(0..2);
    t.finish();
}

/// suspend-io returns only after I/O in flight has settled on all nodes, so snapshots of all replicas are equal.
#[test]
fn consistent_snapshots() {
    for slow in [0, 1, 2] {
        let mut t = Setup::new(3).up();
        t.primary(0);
        t.write(0, 0..5);
        for round in 0..5 {
            t.slow_disk(slow, 300);
            let ios: Vec<u64> = (0..20).map(|b| t.begin_write(0, 10 * round + b)).collect();
            t.pass_ms(10 * round);
            let before = t.c.now();
            t.ok(0, Command::SuspendIo);
            assert!(t.c.now() - before > 200 * drbd_sim::clock::MS);
            t.expect(0, Suspended(true));
            let late = t.begin_write(0, 3000 + round);
            t.same_content(0..3);
            t.pass(3);
            t.same_content(0..3);
            t.pending(late);
            t.slow_disk(slow, 0);
            t.ok(0, Command::ResumeIo);
            for io in ios {
                t.succeeds(io);
            }
            t.succeeds(late);
        }
        t.healthy();
        t.finish();
    }
    // A peer that is lost meanwhile holds nobody up.
    let mut t = Setup::new(2).up();
    t.primary(0);
    t.write(0, [1]);
    t.slow_disk(1, 3_600_000);
    let io = t.begin_write(0, 2);
    let suspend = t.begin(0, Command::SuspendIo);
    t.pass(1);
    assert!(t.unanswered(0, suspend));
    t.sever(0, 1);
    t.reply(0, suspend);
    t.pending(io);
    t.ok(0, Command::ResumeIo);
    t.succeeds(io);
    t.slow_disk(1, 0);
    t.crash(1);
    t.finish();
}
