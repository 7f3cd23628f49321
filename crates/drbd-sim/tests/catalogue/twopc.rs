//! Cluster-wide transactions that meet, are overtaken, or time out.

use drbd_engine::rows::Row::R6;
use drbd_sim::clock::SEC;

use crate::words::*;

/// A connect transaction of a larger initiator yields to a smaller one, and is repeated. A link lost while its reply is
/// outstanding aborts the transaction long before twopc-timeout.
#[test]
fn twopc_abort_connect() {
    let mut t = Setup::new(3).up();
    for (n, p) in [(0, 1), (1, 2), (0, 2)] {
        t.disconnect(n, p);
    }
    t.mark();
    t.delay(2, 1, Cmd::TwopcYes, 300);
    t.connect_begin(1, 2);
    t.packet(1, 2, Cmd::TwopcPrepare);
    let before = t.c.now();
    t.connect_begin(0, 1);
    t.packet(0, 1, Cmd::TwopcPrepare);
    t.delay(2, 1, Cmd::TwopcYes, 0);
    t.connected();
    assert!(t.c.now() - before < 10 * SEC);
    t.connect(0, 2);
    t.healthy();
    t.finish();
    // The link is lost.
    let mut t = Setup::new(3).up();
    t.disconnect(1, 2);
    t.delay(2, 1, Cmd::TwopcYes, 3_600_000);
    t.connect_begin(1, 2);
    t.packet(2, 1, Cmd::TwopcYes);
    t.sever(1, 2);
    let before = t.c.now();
    t.primary(0);
    assert!(t.c.now() - before < 2 * SEC);
    t.delay(2, 1, Cmd::TwopcYes, 0);
    t.mend(1, 2);
    t.healthy();
    t.finish();
}

/// A connect transaction overtaken by another one is forgotten completely: when it is repeated, one end becomes the
/// source and the other one the target.
#[test]
fn twopc_abort_connect2() {
    for older in [1, 2] {
        let newer = 3 - older;
        let mut t = Setup::new(3).up();
        t.primary(newer);
        t.write(newer, [1]);
        t.pass(1);
        for p in [0, newer] {
            t.disconnect(older, p);
        }
        t.write(newer, [2, 3]);
        t.pass(1);
        t.secondary(newer);
        t.disconnect(0, newer);
        t.mark();
        t.delay(2, 1, Cmd::TwopcYes, 300);
        t.connect_begin(1, 2);
        t.packet(1, 2, Cmd::TwopcPrepare);
        t.connect_begin(0, 1);
        t.packet(0, 1, Cmd::TwopcPrepare);
        t.delay(2, 1, Cmd::TwopcYes, 0);
        t.event(newer, Repl(older, WFBitMapS));
        t.event(older, Repl(newer, WFBitMapT));
        t.connect_begin(0, 2);
        t.healthy();
        t.same_content(0..3);
        t.finish();
    }
}

/// YES and ABORT are lost: both ends time out after twopc-timeout. The participant lets go of its UUIDs.
#[test]
pub(crate) fn twopc_timeout() {
    use core::time::Duration;
    let mut t = Setup::new(2)
        .with(|c| {
            c.resource.twopc_timeout = Duration::from_secs(5);
            c.net.ping_timeout = Duration::from_secs(30);
        })
        .up();
    t.disconnect(0, 1);
    t.mark();
    t.delay(1, 0, Cmd::TwopcYes, 100_000);
    t.delay(0, 1, Cmd::TwopcAbort, 100_000);
    t.connect_begin(0, 1);
    t.packet(1, 0, Cmd::TwopcYes);
    t.pass(4);
    let aborts = t.packets(0, 1, Cmd::TwopcAbort);
    t.pass(3);
    assert!(t.packets(0, 1, Cmd::TwopcAbort) > aborts, "it gave up");
    t.never(1, Conn(0, Connected));
    // The participant has let go of its identifiers.
    let before = t.c.now();
    t.ok(1, t.new_current_uuid(0, false, false));
    assert!(t.c.now() - before < 5 * SEC);
    t.delay(1, 0, Cmd::TwopcYes, 0);
    t.delay(0, 1, Cmd::TwopcAbort, 0);
    // What is late already makes pings late.
    for (n, p) in [(0, 1), (1, 0)] {
        t.may_see(n, Bad::Conn(p, NetworkFailure));
        t.may_see(n, Bad::Conn(p, BrokenPipe));
    }
    t.healthy();
    t.one_generation([0, 1]);
    t.finish();
}

/// Own UUIDs change during the handshake: it is repeated, and both get Established.
#[test]
fn uuid_send_receive_race() {
    for (from, to) in [(0, 1), (1, 0)] {
        for moment in [Cmd::Uuids110, Cmd::State] {
            let mut t = Setup::new(3).up();
            t.disconnect(0, 1);
            t.disconnect(0, 2);
            t.primary(2);
            // What is late makes pings late, too.
            for (n, p) in [(0, 1), (1, 0)] {
                t.may_see(n, Bad::Conn(p, NetworkFailure));
                t.may_see(n, Bad::Conn(p, BrokenPipe));
            }
            t.delay(from, to, moment, 300);
            t.connect_begin(0, 1);
            t.packet(from, to, moment);
            // A new generation: node 0 is not there for the Primary.
            let io = t.begin_write(2, 5);
            t.pass(3);
            t.delay(from, to, moment, 0);
            t.succeeds(io);
            t.connect_begin(0, 2);
            t.healthy();
            t.one_generation(0..3);
            t.same_content(0..3);
            t.finish();
        }
    }
}

/// Many nodes come, go and change their role at once: it always converges.
#[test]
pub(crate) fn stress_connect_and_2pc() {
    for seed in 0..6 {
        let mut t = Setup::new(4).with(|c| c.seed = seed).up();
        let mut rng = drbd_sim::rng::Rng::new(seed);
        for _ in 0..6 {
            let mut commands = Vec::new();
            for n in 0..4 {
                let peer = (n + 1 + rng.below(3) as usize) % 4;
                commands.push((
                    n,
                    match rng.below(4) {
                        0 => Command::Primary { force: false },
                        1 => Command::Secondary { force: false },
                        2 => t.disconnect_command(peer),
                        _ => t.c.connect_command(peer),
                    },
                ));
            }
            let before = t.c.now();
            t.at_once(commands);
            assert!(t.c.now() - before < 40 * SEC, "all answered in time");
        }
        for n in 0..4 {
            t.ask(n, Command::Secondary { force: false });
        }
        for b in 0..4 {
            for a in 0..b {
                t.connect_begin(a, b);
            }
        }
        t.healthy();
        let primary = rng.below(4) as usize;
        t.primary(primary);
        t.write(primary, [1, 2]);
        t.healthy();
        t.same_content(0..4);
        t.finish();
    }
}

/// A PREPARE of the same initiator over another link, while its previous transaction lacks the COMMIT: the participant
/// waits for that instead of answering RETRY, and the transaction keeps its number. It does not wait for ever.
#[test]
pub(crate) fn twopc_conflict_one_initiator() {
    // A new link: what follows the PREPARE waits with it.
    for (late, again) in [(1400, false), (8000, true)] {
        let mut t = Setup::new(3).chain().up();
        t.delay(1, 2, Cmd::TwopcCommit, late);
        let prepares = t.packets(0, 2, Cmd::TwopcPrepare);
        let retries = t.packets(2, 0, Cmd::TwopcRetry);
        t.primary(0);
        assert_eq!(t.packets(1, 2, Cmd::TwopcCommit), 2);
        t.connect_begin(0, 2);
        t.packet(0, 2, Cmd::TwopcPrepare);
        t.pass_ms(5);
        t.expect(2, PeerRole(0, Role::Unknown));
        t.met(&[R6]);
        t.connected();
        let prepares = t.packets(0, 2, Cmd::TwopcPrepare) - prepares;
        let retries = t.packets(2, 0, Cmd::TwopcRetry) - retries;
        if again {
            assert!(retries > 0 && prepares > 1, "{retries}, {prepares}");
        } else {
            assert_eq!((retries, prepares), (0, 1), "it was not repeated");
        }
        t.delay(1, 2, Cmd::TwopcCommit, 0);
        t.pass(10);
        t.write(0, [1]);
        t.healthy();
        t.same_content(0..3);
        t.finish();
    }
    // A link that was there: the COMMIT of its end is late, the next PREPARE comes through the third node.
    let mut t = Setup::new(3).up();
    for (n, p) in [(0, 2), (2, 0)] {
        t.may_see(n, Bad::Conn(p, NetworkFailure));
        t.may_see(n, Bad::Conn(p, BrokenPipe));
    }
    t.links.remove(&(0, 2));
    t.delay(0, 2, Cmd::TwopcCommit, 1000);
    let prepares = t.packets(0, 1, Cmd::TwopcPrepare);
    let retries = t.packets(2, 1, Cmd::TwopcRetry);
    let parting = t.begin(0, t.disconnect_command(2));
    t.packet(0, 2, Cmd::TwopcCommit);
    let promotion = t.begin(0, Command::Primary { force: false });
    t.packet(1, 2, Cmd::TwopcPrepare);
    t.pass_ms(5);
    t.expect(2, Conn(0, Connected));
    t.met(&[R6]);
    let reply = t.reply(0, promotion);
    assert!(reply.is_ok(), "{reply:?}");
    let reply = t.reply(0, parting);
    assert!(reply.is_ok(), "{reply:?}");
    let prepares = t.packets(0, 1, Cmd::TwopcPrepare) - prepares;
    let retries = t.packets(2, 1, Cmd::TwopcRetry) - retries;
    assert_eq!((retries, prepares), (0, 2), "none of them was repeated");
    t.delay(0, 2, Cmd::TwopcCommit, 0);
    t.expect(0, Am(Primary));
    t.wait(2, PeerRole(1, Secondary));
    t.pass(10);
    t.write(0, [1]);
    t.connect(0, 2);
    t.healthy();
    t.same_content(0..3);
    t.finish();
}
