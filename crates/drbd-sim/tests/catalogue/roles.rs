//! Who is Primary.

use drbd_engine::options::SbPolicy;

use crate::words::*;

/// Repeated role changes are visible on every node.
#[test]
fn switch_primaries() {
    for nodes in [2, 3] {
        let mut t = Setup::new(nodes).up();
        for round in 0..6 {
            let n = round % nodes;
            t.mark();
            t.primary(n);
            for p in (0..nodes).filter(|p| *p != n) {
                t.event(p, PeerRole(n, Primary));
                t.no_primary(p, RetCode::TWO_PRIMARIES);
            }
            t.write(n, [round as u64, 50]);
            t.secondary(n);
            for p in (0..nodes).filter(|p| *p != n) {
                t.event(p, PeerRole(n, Secondary));
            }
        }
        t.healthy();
        t.same_content(0..nodes);
        t.finish();
    }
}

/// A promotion, and a new UUID, during the handshake of a connect: no deadlock.
#[test]
fn promote_while_connecting() {
    for moment in [
        Cmd::TwopcPrepare,
        Cmd::Uuids110,
        Cmd::State,
        Cmd::TwopcCommit,
    ] {
        for promoted in [0, 1, 2] {
            let mut t = Setup::new(3).up();
            t.disconnect(2, 0);
            t.primary(1);
            t.write(1, [1]);
            t.secondary(1);
            t.wait(2, Disk(UpToDate));
            t.delay(0, 2, moment, 1500);
            t.connect_begin(2, 0);
            t.packet(0, 2, moment);
            let before = t.c.now();
            let promotion = t.begin(promoted, Command::Primary { force: false });
            let reply = t.reply(promoted, promotion);
            assert!(t.c.now() - before < 20_000_000_000, "{moment:?}");
            if !reply.is_ok() {
                t.delay(0, 2, moment, 0);
                t.healthy();
                t.primary(promoted);
            }
            t.write(promoted, [2, 3]);
            t.delay(0, 2, moment, 0);
            t.healthy();
            t.same_content(0..3);
            t.finish();
        }
    }
}

/// Both Primary while apart. rr-conflict disconnect: StandAlone at both ends; retry-connect: Connecting, until one gives
/// in; then a resync, or the handling of a split brain.
#[test]
fn two_primaries_reject() {
    for (policy, second_writes) in [
        (SbPolicy::Disconnect, false),
        (SbPolicy::RetryConnect, false),
        (SbPolicy::Disconnect, true),
    ] {
        let mut t = Setup::new(2).with(|c| c.net.rr_conflict = policy).up();
        t.stale_data_expected();
        t.primary(0);
        t.write(0, [1]);
        t.pass(1);
        t.sever(0, 1);
        t.write(0, [2]);
        t.wait(1, Disk(UpToDate));
        t.primary(1);
        if second_writes {
            t.write(1, [3]);
        }
        t.mark();
        t.mend(0, 1);
        t.pass(10);
        t.never(0, Conn(1, Connected));
        if policy == SbPolicy::Disconnect {
            t.wait(0, Conn(1, StandAlone));
            t.wait(1, Conn(0, StandAlone));
        } else {
            t.never(0, Conn(1, StandAlone));
            t.never(1, Conn(0, StandAlone));
        }
        t.secondary(1);
        t.accept(0);
        if second_writes {
            t.connect_begin(0, 1);
            t.wait_until("a split brain", |c| {
                c.connection(0, 1) == StandAlone && c.connection(1, 0) == StandAlone
            });
            assert!(t.upcalls(0, "split-brain") > 0);
            t.connect_discarding(1, 0);
        } else {
            t.connect_begin(0, 1);
        }
        t.healthy();
        t.seen(1, Repl(0, SyncTarget));
        t.expect(0, Am(Primary));
        t.same_content([0, 1]);
        t.finish();
    }
}

/// Both nodes detect a split brain; discard-my-data resolves it.
#[test]
fn split_brain() {
    for victim in [0, 1] {
        for both_primary in [false, true] {
            let mut t = Setup::new(2).up();
            t.stale_data_expected();
            t.primary(0);
            t.write(0, [1]);
            t.pass(1);
            t.sever(0, 1);
            t.write(0, [2]);
            t.wait(1, Disk(UpToDate));
            t.primary(1);
            t.write(1, [3, 4]);
            if !both_primary {
                t.secondary(0);
                t.secondary(1);
            }
            t.mend(0, 1);
            for n in [0, 1] {
                t.wait(n, Conn(1 - n, StandAlone));
                assert_eq!(t.upcalls(n, "initial-split-brain"), 1);
                assert_eq!(t.upcalls(n, "split-brain"), 1);
            }
            t.pass(5);
            if both_primary {
                t.secondary(victim);
            }
            t.accept(1 - victim);
            t.mark();
            t.connect_discarding(victim, 1 - victim);
            t.healthy();
            t.seen(victim, Repl(1 - victim, SyncTarget));
            t.same_content([0, 1]);
            t.one_generation([0, 1]);
            t.finish();
        }
    }
}
