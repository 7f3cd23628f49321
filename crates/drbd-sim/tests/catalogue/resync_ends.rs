//! Resyncs that are interrupted, and how they end.

use crate::words::*;

/// Two nodes; node 1 was away while node 0, the Primary, wrote blocks 100 and up.
fn behind(blocks: u64) -> Lab {
    behind_at(blocks, 124)
}

/// The same, and the highest protocol version of node 0.
fn behind_at(blocks: u64, version: u16) -> Lab {
    let mut t = Setup::new(2).with(|c| c.versions = vec![(0, version)]).up();
    t.primary(0);
    t.write(0, [1]);
    t.pass(1);
    t.down(1);
    t.write(0, 100..100 + blocks);
    t.pass(1);
    t
}

/// Node 1 is done with a resync, but what it says about that does not arrive.
pub(crate) fn end_is_lost(version: u16) -> Lab {
    let mut t = behind_at(20, version);
    t.start(1);
    t.wait(1, Repl(0, SyncTarget));
    t.wait_until("the end, for the target", |c| {
        c.disk_state(1, 0) == UpToDate && c.peer_device(0, 1, 0).2 == 0
    });
    t.expect(0, Repl(1, SyncSource));
    t.c.stall(1, 0, 3_600_000_000_000);
    t.sever(0, 1);
    t.mark();
    t
}

/// The UUIDs at the end got lost: the next connect resyncs again.
#[test]
fn resync_finish() {
    let mut t = end_is_lost(124);
    t.write(0, [105, 400]);
    t.c.heal();
    t.mend(0, 1);
    t.healthy();
    t.seen(0, Repl(1, SyncSource));
    t.seen(1, Repl(0, SyncTarget));
    t.one_generation([0, 1]);
    assert_eq!(t.uuids(0).bitmap[1], 0);
    t.same_content([0, 1]);
    t.no_bits();
    t.finish();
}

/// A missed end without bits: Established without resync, the source UpToDate.
#[test]
fn resync_missed_end_no_bits() {
    let mut t = end_is_lost(124);
    t.c.heal();
    t.mend(0, 1);
    t.healthy();
    t.no_resync();
    for n in [0, 1] {
        t.never(n, Disk(Inconsistent));
    }
    t.one_generation([0, 1]);
    assert_eq!(t.uuids(0).bitmap[1], 0);
    t.finish();
}

/// A faster target does not outdate a slower one.
#[test]
fn resync_finish2() {
    for (fast, slow) in [(1, 2), (2, 1)] {
        let mut t = Setup::new(3).up();
        t.primary(0);
        t.write(0, [1]);
        t.pass(1);
        t.down(1);
        t.down(2);
        t.write(0, 100..130);
        t.pass(1);
        t.slow_disk(slow, 500);
        t.mark();
        t.start(fast);
        t.start(slow);
        t.wait(slow, Repl(0, SyncTarget));
        t.wait(fast, Disk(UpToDate));
        t.expect(slow, Disk(Inconsistent));
        t.mark();
        t.pass(2);
        t.slow_disk(slow, 0);
        t.healthy();
        t.never(slow, Disk(Outdated));
        t.never(slow, Repl(0, Off));
        t.one_generation(0..3);
        t.same_content(0..3);
        t.finish();
    }
}

/// An interruption at any moment, by various causes, a verify included: the data are identical in the end.
#[test]
fn resync_interrupt_variants() {
    for cause in [
        "cut",
        "target",
        "power",
        "source",
        "disconnect",
        "detach",
        "pause",
    ] {
        for ms in [0, 30, 120, 250] {
            let mut t = behind(60);
            t.c.config.disk_speed.1 *= 4;
            t.start(1);
            t.wait(1, Repl(0, SyncTarget));
            t.pass_ms(ms);
            match cause {
                "cut" => t.cut(0, 1),
                "target" => {
                    t.crash(1);
                    t.start(1);
                }
                "power" => {
                    t.power_off(1);
                    t.pass(30);
                    t.start(1);
                }
                "source" => {
                    t.power_off(0);
                    t.pass(30);
                    t.start(0);
                }
                "disconnect" => {
                    t.disconnect(1, 0);
                    t.connect(1, 0);
                }
                "detach" => {
                    let volume = vol(0);
                    let (force, diskless) = (false, false);
                    t.ok(
                        1,
                        Command::Detach {
                            volume,
                            force,
                            diskless,
                        },
                    );
                    t.write(0, [110, 700]);
                    t.attach(1);
                }
                _ => {
                    if t.ask(
                        1,
                        Command::PauseSync {
                            peer: node_id(0),
                            volume: vol(0),
                        },
                    )
                    .is_ok()
                    {
                        t.write(0, [110, 700]);
                        t.pass(1);
                        t.pause_sync(1, 0, false);
                    }
                }
            }
            t.healthy();
            t.same_content([0, 1]);
            t.finish();
        }
    }
    // A verify is interrupted as well.
    let mut t = Setup::new(2)
        .with(|c| c.net.verify_alg = "crc32c".into())
        .up();
    let (peer, volume) = (node_id(1), vol(0));
    let (start, stop) = (None, None);
    t.ok(
        0,
        Command::Verify {
            peer,
            volume,
            start,
            stop,
        },
    );
    t.wait(1, Repl(0, VerifyT));
    t.cut(0, 1);
    t.healthy();
    t.same_content([0, 1]);
    t.finish();
}

/// Interrupted syncs resume where they were.
#[test]
fn resync_multiple_interrupt() {
    let mut t = behind(200);
    t.slow_disk(0, 150);
    t.start(1);
    for _ in 0..5 {
        t.wait(1, Repl(0, SyncTarget));
        let left = t.out_of_sync(1, 0);
        t.pass_ms(600);
        assert!(t.out_of_sync(1, 0) < left || left == 0, "it goes on");
        t.cut(0, 1);
        t.apart(0, 1);
        t.wait(1, Conn(0, Connected));
    }
    t.slow_disk(0, 0);
    t.healthy();
    // Only what was on its way at a cut is sent twice.
    let sent = t.resynced(0, 1);
    assert!((200..400).contains(&sent), "{sent} blocks");
    t.same_content([0, 1]);
    t.finish();
}

/// Resync requests that conflict with application writes while the link breaks: all counters of what is in flight
/// return to 0, and the data are identical.
#[test]
fn resync_interrupt_conflict() {
    let mut t = behind(64);
    t.c.set_profile(
        drbd_sim::app::Profile {
            workers: 6,
            think: (0, 1_000_000),
            reads: 0,
            hot: 100,
            ..Default::default()
        },
        2000,
    );
    t.start(1);
    t.c.app_start(0);
    for round in 0..8 {
        t.wait(1, Conn(0, Connected));
        t.pass_ms(20 + 30 * round);
        t.cut(0, 1);
        t.apart(0, 1);
    }
    t.c.app_stop();
    t.wait_until("applications stop", |c| c.app_idle());
    t.healthy();
    t.pass(2);
    for n in [0, 1] {
        for (_, connection, volumes) in t.c.status(n).unwrap().connections {
            assert_eq!((connection.ap_in_flight, connection.rs_in_flight), (0, 0));
            assert!(
                volumes
                    .iter()
                    .all(|(_, v)| v.pending == 0 && v.unacked == 0)
            );
        }
    }
    t.same_content([0, 1]);
    t.finish();
}

/// Peers-in-sync and out-of-sync bookkeeping with two targets; no bits remain.
#[test]
fn resync_double_target() {
    for primary_is_source in [true, false] {
        let mut t = Setup::new(3).up();
        t.primary(0);
        t.write(0, [1]);
        t.pass(1);
        t.down(1);
        t.down(2);
        t.write(0, 100..160);
        t.pass(1);
        if !primary_is_source {
            t.secondary(0);
        }
        t.slow_disk(0, 100);
        t.start(1);
        t.start(2);
        t.wait(0, Repl(1, SyncSource));
        t.wait(0, Repl(2, SyncSource));
        if primary_is_source {
            t.write(0, [100, 130, 159, 300]);
        }
        t.slow_disk(0, 0);
        t.healthy();
        if primary_is_source {
            t.write(0, [5]);
        }
        t.pass(3);
        t.no_bits();
        t.one_generation(0..3);
        t.same_content(0..3);
        t.finish();
    }
}

/// Writes while the target is paused, or Outdated, are tracked and delivered.
#[test]
fn resync_write_during_pause() {
    for pauser in [0, 1] {
        let mut t = behind(30);
        t.slow_disk(0, 300);
        t.start(1);
        t.wait(1, Repl(0, SyncTarget));
        t.wait(0, Repl(1, SyncSource));
        t.pause_sync(pauser, 1 - pauser, true);
        t.wait(1, Repl(0, PausedSyncT));
        t.wait(0, Repl(1, PausedSyncS));
        t.slow_disk(0, 0);
        t.write(0, [105, 110, 400]);
        t.pass(3);
        t.expect(1, Repl(0, PausedSyncT));
        assert_ne!(t.content(0, 129), t.content(1, 129));
        t.pause_sync(pauser, 1 - pauser, false);
        t.healthy();
        t.same_content([0, 1]);
        t.finish();
    }
    // Outdated: the end of a chain.
    let mut t = Setup::new(3).chain().up();
    t.primary(0);
    t.wait(2, Disk(Outdated));
    t.write(0, [10, 11]);
    t.pass(1);
    assert_ne!(t.content(0, 10), t.content(2, 10));
    t.connect(0, 2);
    t.healthy();
    t.same_content(0..3);
    t.finish();
}

/// A sync target may be Primary; its data are right, and so are later resyncs.
#[test]
fn resync_target_primary() {
    let mut t = behind(40);
    t.secondary(0);
    t.slow_disk(0, 500);
    t.start(1);
    t.wait(1, Repl(0, SyncTarget));
    t.primary(1);
    t.expect(1, Disk(Inconsistent));
    t.read(1, [100, 139, 1]);
    t.write(1, [120, 500]);
    t.read(1, [120, 500]);
    t.slow_disk(0, 0);
    t.healthy();
    t.same_content([0, 1]);
    t.mark();
    t.down(0);
    t.write(1, [600]);
    t.start(0);
    t.healthy();
    t.seen(0, Repl(1, SyncTarget));
    t.never(1, Repl(0, SyncTarget));
    t.same_content([0, 1]);
    t.finish();
}

/// A sync target is promoted, the link is cut, it is demoted: the resync starts again in the same direction.
#[test]
fn resync_target_promote_interrupt() {
    let mut t = behind(40);
    t.secondary(0);
    t.slow_disk(0, 500);
    t.start(1);
    t.wait(1, Repl(0, SyncTarget));
    t.primary(1);
    t.sever(0, 1);
    t.secondary(1);
    t.mark();
    t.mend(0, 1);
    t.event(1, Repl(0, SyncTarget));
    t.slow_disk(0, 0);
    t.healthy();
    t.never(0, Repl(1, SyncTarget));
    t.same_content([0, 1]);
    t.finish();
}

/// The target of an initial sync is promoted and written to in the middle, and the whole cluster restarted: the resync
/// completes.
#[test]
fn resync_target_promote() {
    for power in [false, true] {
        let mut t = Setup::new(2).fresh().up();
        t.slow_disk(0, 200);
        t.force_primary(0);
        t.write(0, [5]);
        t.wait(1, Repl(0, SyncTarget));
        t.secondary(0);
        t.primary(1);
        t.write(1, [6, 3000]);
        t.pass(1);
        t.expect(1, Disk(Inconsistent));
        for n in [0, 1] {
            if power {
                t.power_off(n);
            } else {
                t.crash(n);
            }
        }
        t.slow_disk(0, 0);
        t.pass(25);
        t.slow_disk(0, 0);
        t.start(0);
        t.start(1);
        t.healthy();
        t.same_content([0, 1]);
        t.finish();
    }
}

/// Late joiners get their initial sync from a running Primary.
#[test]
fn resync_initial() {
    let mut t = Setup::new(3).fresh().build();
    t.start(0);
    t.scripts();
    t.force_primary(0);
    t.write(0, [1, 2]);
    t.mark();
    t.start(1);
    t.event(1, Repl(0, SyncTarget));
    t.write(0, [3, 4000]);
    t.start(2);
    t.wait(2, Disk(Inconsistent));
    t.write(0, [4, 4001]);
    t.healthy();
    t.seen(0, Repl(1, SyncSource));
    t.one_generation(0..3);
    t.same_content(0..3);
    t.finish();
}

/// After the crash of a Primary its Secondaries are brought to the same data, and a promotion waits for that.
#[test]
pub(crate) fn resync_reconciliation() {
    for (ahead, behind) in [(1, 2), (2, 1)] {
        let mut t = Setup::new(3).up();
        t.primary(0);
        t.write(0, [1]);
        t.pass(1);
        t.block_one_way(0, behind);
        for block in 40..56 {
            t.begin_write(0, block);
        }
        t.pass_ms(300);
        assert_ne!(t.content(1, 41), t.content(2, 41));
        t.slow_disk(ahead, 2000);
        t.mark();
        t.power_off(0);
        t.event(behind, Repl(ahead, SyncTarget));
        let promotion = t.begin(behind, Command::Primary { force: false });
        t.pass_ms(500);
        assert!(t.unanswered(behind, promotion), "it waits");
        t.slow_disk(ahead, 0);
        let answer = t.reply(behind, promotion);
        t.wait(behind, Disk(UpToDate));
        if !answer.is_ok() {
            t.primary(behind);
        }
        t.same_content([1, 2]);
        t.write(behind, [60]);
        t.c.heal();
        t.start(0);
        t.healthy();
        t.same_content(0..3);
        t.finish();
    }
}
