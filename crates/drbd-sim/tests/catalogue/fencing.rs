//! Handlers, and what fencing makes of them.

use drbd_engine::options::{Fencing, OnIoError};
use drbd_sim::clock::{MS, SEC};
use drbd_sim::cluster::HandlerCall;

use crate::words::*;

const OUTDATED: i32 = 4;
const FENCED: i32 = 7;
/// Longer than a test waits on purpose.
const LONG: u64 = 600 * SEC;

fn setup(nodes: usize, fencing: Fencing) -> Setup {
    Setup::new(nodes).with(|c| {
        c.net.fencing = fencing;
        c.resource.on_no_data = OnNoData::SuspendIo;
    })
}

/// Two nodes or more, the first one Primary with a write done, with this policy.
fn primary(nodes: usize, fencing: Fencing) -> Lab {
    let mut t = setup(nodes, fencing).up();
    t.primary(0);
    t.write(0, [1]);
    t.pass(1);
    t
}

/// What a handler does from now on.
fn answers(t: &mut Lab, n: usize, handler: &'static str, exit: i32, time: u64) {
    t.c.handlers.insert((n, handler), (exit, time));
}

fn calls<'a>(t: &'a Lab, n: usize, handler: &str) -> Vec<&'a HandlerCall> {
    let all = t.c.recorded().map_or(&[][..], |r| &r.upcalls);
    all.iter()
        .filter(|c| c.node == n && c.handler == handler)
        .collect()
}

fn called(t: &mut Lab, n: usize, handler: &str, times: usize) {
    let what = format!("node {n} calls {handler}");
    t.wait_until(&what, |c| {
        let calls = c.recorded().map_or(&[][..], |r| &r.upcalls);
        let of = calls.iter().filter(|c| c.node == n && c.handler == handler);
        of.count() >= times
    });
    assert_eq!(t.upcalls(n, handler), times, "calls of {handler}");
}

/// fence-peer calls and exit codes per policy; with stonith I/O is frozen until the peer is Outdated; unfence-peer after
/// UpToDate, also at the first connect.
#[test]
fn fencing() {
    // Nobody cares.
    let mut t = primary(2, Fencing::DontCare);
    t.sever(0, 1);
    t.write(0, [2]);
    t.expect(0, PeerDisk(1, DiskState::Unknown));
    assert_eq!(t.upcalls(0, "fence-peer"), 0);
    t.mend(0, 1);
    t.healthy();
    assert_eq!(t.upcalls(0, "unfence-peer"), 0);
    t.finish();

    // The handler is called, and nobody waits for it.
    let mut t = primary(2, Fencing::ResourceOnly);
    answers(&mut t, 0, "fence-peer", OUTDATED, 5 * SEC);
    t.mark();
    t.sever(0, 1);
    called(&mut t, 0, "fence-peer", 1);
    t.write(0, [2]);
    t.expect(0, PeerDisk(1, DiskState::Unknown));
    t.wait(0, PeerDisk(1, Outdated));
    t.never(0, Suspended(true));
    let call = calls(&t, 0, "fence-peer")[0].clone();
    assert_eq!(call.about, (Some(1), None));
    assert_eq!(call.facts.up_to_date_nodes, Some(1));
    assert!(call.facts.cstate.unwrap() < Connecting);
    t.mend(0, 1);
    t.healthy();
    called(&mut t, 0, "unfence-peer", 2);
    called(&mut t, 0, "fence-peer", 1);
    assert_eq!(
        calls(&t, 0, "unfence-peer")[1].facts.up_to_date_nodes,
        Some(3)
    );
    t.finish();

    // Everything waits for it.
    let mut t = primary(2, Fencing::ResourceAndStonith);
    answers(&mut t, 0, "fence-peer", FENCED, 5 * SEC);
    let generation = t.current(0);
    t.sever(0, 1);
    t.expect(0, Suspended(true));
    let write = t.begin_write(0, 2);
    t.pass(4);
    t.pending(write);
    assert_eq!(t.current(0), generation);
    t.wait(0, Suspended(false));
    t.expect(0, PeerDisk(1, Outdated));
    t.succeeds(write);
    t.pass(1);
    assert_ne!(t.current(0), generation);
    assert_eq!(t.uuids(0).bitmap[1], generation);
    t.mend(0, 1);
    t.healthy();
    called(&mut t, 0, "unfence-peer", 2);
    t.finish();
}

/// A write under way when the peer is lost waits for the handler, too.
#[test]
fn a_write_without_answer_waits_for_the_handler() {
    let mut t = primary(2, Fencing::ResourceAndStonith);
    answers(&mut t, 0, "fence-peer", OUTDATED, 3 * SEC);
    t.block(0, 1);
    let write = t.begin_write(0, 7);
    t.wait(0, Suspended(true));
    t.pass(2);
    t.pending(write);
    t.wait(0, Suspended(false));
    t.succeeds(write);
    t.mend(0, 1);
    t.healthy();
    t.same_content([0, 1]);
    t.finish();
}

/// Whoever leaves in good order is Outdated, without a handler.
#[test]
fn a_graceful_disconnect_outdates_without_a_handler() {
    for leaver in [0, 1] {
        let mut t = primary(2, Fencing::ResourceAndStonith);
        t.mark();
        t.disconnect(leaver, 1 - leaver);
        t.wait(1, Disk(Outdated));
        t.wait(0, PeerDisk(1, Outdated));
        t.write(0, [2]);
        t.never(0, Suspended(true));
        assert_eq!(t.upcalls(0, "fence-peer"), 0);
        t.connect(0, 1);
        t.healthy();
        t.finish();
    }
}

/// A broken handler leaves I/O frozen until resume-io.
#[test]
fn a_broken_handler_keeps_io_frozen() {
    for exit in [0, 1, 2, 8, 127] {
        let mut t = primary(2, Fencing::ResourceAndStonith);
        answers(&mut t, 0, "fence-peer", exit, MS);
        let generation = t.current(0);
        t.sever(0, 1);
        let write = t.begin_write(0, 2);
        t.pass(30);
        t.pending(write);
        t.expect(0, PeerDisk(1, DiskState::Unknown));
        called(&mut t, 0, "fence-peer", 1);
        t.ok(0, Command::ResumeIo);
        t.succeeds(write);
        t.pass(1);
        assert_ne!(t.current(0), generation);
        t.mend(0, 1);
        t.healthy();
        t.finish();
    }
}

/// A handler that says that the peer is Inconsistent, or down.
#[test]
fn exit_codes_of_fence_peer() {
    for (exit, disk) in [(3, Inconsistent), (5, Outdated), (7, Outdated)] {
        let mut t = primary(2, Fencing::ResourceAndStonith);
        answers(&mut t, 0, "fence-peer", exit, MS);
        t.sever(0, 1);
        t.wait(0, PeerDisk(1, disk));
        t.wait(0, Suspended(false));
        t.write(0, [3]);
        t.mend(0, 1);
        t.healthy();
        t.finish();
    }
}

/// A peer that comes back while its handler runs is not fenced, and I/O goes on in the same generation.
#[test]
fn reconnect_while_the_handler_runs() {
    let mut t = primary(2, Fencing::ResourceAndStonith);
    answers(&mut t, 0, "fence-peer", FENCED, 10 * SEC);
    let generation = t.current(0);
    t.cut(0, 1);
    t.wait(0, Suspended(true));
    let write = t.begin_write(0, 2);
    t.wait(0, Conn(1, Connected));
    t.succeeds(write);
    t.healthy();
    t.mark();
    t.pass(15);
    t.never(0, PeerDisk(1, Outdated));
    assert_eq!(t.current(0), generation);
    t.finish();

    // Back, and gone again: the first handler says nothing about the second loss.
    let mut t = primary(2, Fencing::ResourceAndStonith);
    answers(&mut t, 0, "fence-peer", FENCED, 10 * SEC);
    t.mark();
    t.cut(0, 1);
    t.events(0, [Conn(1, Unconnected), Conn(1, Connected)]);
    t.pass(1);
    answers(&mut t, 0, "fence-peer", 1, LONG);
    t.sever(0, 1);
    called(&mut t, 0, "fence-peer", 2);
    t.pass(15);
    t.expect(0, PeerDisk(1, DiskState::Unknown));
    t.expect(0, Suspended(true));
    t.mend(0, 1);
    t.healthy();
    t.expect(0, Suspended(false));
    t.finish();
}

/// Promotion without the peer calls the handler.
#[test]
fn promotion_without_the_peer_calls_the_handler() {
    for fencing in [Fencing::ResourceOnly, Fencing::ResourceAndStonith] {
        let mut t = setup(2, fencing).up();
        t.sever(0, 1);
        answers(&mut t, 0, "fence-peer", 1, 2 * SEC);
        t.no_primary(0, RetCode::PRIMARY_NOP);
        called(&mut t, 0, "fence-peer", 1);
        t.expect(0, PeerDisk(1, DiskState::Unknown));
        answers(&mut t, 0, "fence-peer", OUTDATED, 2 * SEC);
        t.primary(0);
        called(&mut t, 0, "fence-peer", 2);
        t.expect(0, PeerDisk(1, Outdated));
        t.expect(0, Suspended(false));
        t.write(0, [1]);
        t.mend(0, 1);
        t.healthy();
        t.finish();
    }
}

/// A node that starts without its peer does not know whether its data is the newest; the peer's fencing says so.
#[test]
fn a_lone_node_is_promoted_when_the_peer_is_fenced() {
    let mut t = primary(2, Fencing::ResourceOnly);
    t.secondary(0);
    t.pass(1);
    t.crash(1);
    t.crash(0);
    t.c.close_link(0, 1);
    t.start(0);
    t.wait(0, Disk(Consistent));
    answers(&mut t, 0, "fence-peer", 1, MS);
    t.no_primary(0, RetCode::NO_UP_TO_DATE_DISK);
    answers(&mut t, 0, "fence-peer", OUTDATED, MS);
    t.primary(0);
    t.expect(0, Disk(UpToDate));
    t.write(0, [2]);
    t.start(1);
    t.mend(0, 1);
    t.healthy();
    t.finish();
}

/// `primary --force` goes on without the handler's blessing.
#[test]
fn force_overrides_fencing() {
    let mut t = setup(2, Fencing::ResourceAndStonith).up();
    t.sever(0, 1);
    answers(&mut t, 0, "fence-peer", 1, MS);
    t.force_primary(0);
    called(&mut t, 0, "fence-peer", 1);
    t.expect(0, PeerDisk(1, Outdated));
    t.write(0, [1]);
    t.mend(0, 1);
    t.healthy();
    t.finish();
}

/// The handler finds the peer to be Primary: the own data is old.
#[test]
fn the_peer_is_primary() {
    let mut t = setup(2, Fencing::ResourceOnly).up();
    t.sever(0, 1);
    answers(&mut t, 1, "fence-peer", OUTDATED, MS);
    t.primary(1);
    answers(&mut t, 0, "fence-peer", 6, MS);
    let reply = t.ask(0, Command::Primary { force: false });
    assert!(!reply.is_ok());
    t.expect(0, Disk(Outdated));
    t.write(1, [1]);
    t.mend(0, 1);
    t.healthy();
    t.finish();
}

/// Protocol A cannot be combined with resource-and-stonith.
#[test]
fn stonith_needs_answers() {
    let mut t = setup(2, Fencing::DontCare).up();
    let mut options = t.c.config.net_options(0, 1);
    options.protocol = WireProtocol::A;
    options.fencing = Fencing::ResourceAndStonith;
    let peer = node_id(1);
    t.refuses(
        0,
        Command::NetOptions { peer, options },
        RetCode::ERR_STONITH_AND_PROT_A,
    );
    t.finish();
}

/// Three nodes: each lost peer has a handler of its own, and all of them have to answer.
#[test]
fn two_peers_are_fenced() {
    let mut t = primary(3, Fencing::ResourceAndStonith);
    answers(&mut t, 0, "fence-peer", OUTDATED, 5 * SEC);
    t.isolate(0);
    let write = t.begin_write(0, 2);
    called(&mut t, 0, "fence-peer", 2);
    t.pass(2);
    t.pending(write);
    t.wait(0, Suspended(false));
    t.expect(0, PeerDisk(1, Outdated));
    t.expect(0, PeerDisk(2, Outdated));
    t.succeeds(write);
    t.rejoin(0);
    t.healthy();
    t.finish();
}

/// One of two lost peers comes back, the other one is fenced: it has to learn of what it missed.
#[test]
fn one_peer_returns_and_the_other_is_fenced() {
    let mut t = primary(3, Fencing::ResourceAndStonith);
    answers(&mut t, 0, "fence-peer", OUTDATED, 20 * SEC);
    let generation = t.current(0);
    t.isolate(0);
    t.isolate(2);
    t.mend(0, 1);
    t.wait(0, Conn(1, Connected));
    let write = t.begin_write(0, 2);
    t.pass(5);
    t.pending(write);
    t.wait(0, PeerDisk(2, Outdated));
    t.succeeds(write);
    t.pass(1);
    assert_ne!(t.current(0), generation);
    t.rejoin(2);
    t.healthy();
    t.same_content([0, 1, 2]);
    t.finish();
}

/// A write frozen by a broken fence handler makes no new UUID.
#[test]
pub(crate) fn suspend_io() {
    let mut t = primary(2, Fencing::ResourceAndStonith);
    answers(&mut t, 0, "fence-peer", 1, MS);
    let generation = t.current(0);
    t.sever(0, 1);
    let write = t.begin_write(0, 2);
    t.pass(10);
    t.pending(write);
    assert_eq!(t.current(0), generation);
    t.mend(0, 1);
    t.wait(0, Conn(1, Connected));
    t.succeeds(write);
    t.healthy();
    assert_eq!(t.current(0), generation);
    assert_eq!(t.current(1), generation);
    // What the administrator suspends waits, too, and goes on by his word.
    t.ok(0, Command::SuspendIo);
    let write = t.begin_write(0, 3);
    t.pass(10);
    t.pending(write);
    t.ok(0, Command::ResumeIo);
    t.succeeds(write);
    assert_eq!(t.current(0), generation);
    t.finish();
}

/// The handler before a resync has the last word, and the resync waits for it.
#[test]
fn handlers_before_a_resync() {
    let behind = |t: &mut Lab| {
        t.primary(0);
        t.write(0, [1]);
        t.pass(1);
        t.disconnect(0, 1);
        t.write(0, [2, 3]);
    };
    let mut t = Setup::new(2).up();
    behind(&mut t);
    answers(&mut t, 1, "before-resync-target", 1, 5 * SEC);
    t.connect_begin(0, 1);
    called(&mut t, 1, "before-resync-target", 1);
    t.mark();
    t.pass(4);
    t.expect(1, Repl(0, WFBitMapT));
    t.wait(1, Conn(0, StandAlone));
    t.never(1, Repl(0, SyncTarget));
    assert_eq!(t.resynced(0, 1), 0);
    answers(&mut t, 1, "before-resync-target", 0, 40 * SEC);
    t.may_see(0, Bad::Conn(1, NetworkFailure));
    t.connect_begin(0, 1);
    called(&mut t, 1, "before-resync-target", 2);
    t.pass(35);
    t.expect(1, Conn(0, Connected));
    assert_eq!(t.resynced(0, 1), 0);
    t.healthy();
    assert_eq!(t.resynced(0, 1), 2);
    called(&mut t, 1, "after-resync-target", 1);
    assert_eq!(
        calls(&t, 1, "after-resync-target")[0].about,
        (Some(0), Some(0))
    );
    t.finish();

    // At the source; 3 is an old tool's way to say nothing.
    let mut t = Setup::new(2).up();
    behind(&mut t);
    answers(&mut t, 0, "before-resync-source", 2, 3 * SEC);
    t.connect_begin(0, 1);
    t.wait(0, Repl(1, WFBitMapS));
    t.may_see(1, Bad::Conn(0, NetworkFailure));
    t.wait(0, Conn(1, StandAlone));
    answers(&mut t, 0, "before-resync-source", 3, 3 * SEC);
    t.connect_begin(0, 1);
    t.healthy();
    called(&mut t, 0, "before-resync-source", 2);
    t.finish();

    // A full resync by command.
    let mut t = Setup::new(2).up();
    answers(&mut t, 1, "before-resync-target", 0, 15 * SEC);
    let invalidate = Command::Invalidate {
        volume: vol(0),
        from: None,
        reset_bitmap: true,
    };
    t.ok(1, invalidate);
    t.wait(1, Repl(0, StartingSyncT));
    t.pass(10);
    t.expect(1, Repl(0, StartingSyncT));
    t.healthy();
    assert_eq!(t.resynced(0, 1), t.c.size(1, 0) / 8);
    t.finish();
}

/// Losing the connection while a handler before a resync runs leaves nothing behind.
#[test]
fn the_connection_is_lost_while_a_handler_before_a_resync_runs() {
    let mut t = Setup::new(2).up();
    t.primary(0);
    t.write(0, [1]);
    t.disconnect(0, 1);
    t.write(0, [2, 3]);
    answers(&mut t, 1, "before-resync-target", 0, 5 * SEC);
    t.connect_begin(0, 1);
    called(&mut t, 1, "before-resync-target", 1);
    t.cut(0, 1);
    t.apart(0, 1);
    answers(&mut t, 1, "before-resync-target", 1, MS);
    t.wait(1, Conn(0, StandAlone));
    answers(&mut t, 1, "before-resync-target", 0, MS);
    t.connect(0, 1);
    t.healthy();
    called(&mut t, 1, "before-resync-target", 3);
    t.finish();
}

/// Handlers that only tell: each is called once, where and when it should.
#[test]
fn handlers_that_tell() {
    // Quorum.
    let mut t = Setup::new(3).quorum(Quorum::Majority).up();
    t.primary(0);
    t.write(0, [1]);
    t.isolate(0);
    called(&mut t, 0, "quorum-lost", 1);
    assert_eq!(calls(&t, 0, "quorum-lost")[0].about, (None, Some(0)));
    called(&mut t, 0, "disconnected", 2);
    assert_eq!(t.upcalls(1, "quorum-lost"), 0);
    t.rejoin(0);
    t.healthy();
    t.finish();

    // Data.
    let mut t = Setup::new(3)
        .diskless([0])
        .with(|c| c.resource.on_no_data = OnNoData::SuspendIo)
        .up();
    t.primary(0);
    t.write(0, [1]);
    t.sever(0, 1);
    t.pass(1);
    assert_eq!(t.upcalls(0, "pri-on-incon-degr"), 0);
    t.sever(0, 2);
    called(&mut t, 0, "pri-on-incon-degr", 2);
    let mut peers: Vec<_> = calls(&t, 0, "pri-on-incon-degr")
        .iter()
        .map(|c| c.about)
        .collect();
    peers.sort();
    assert_eq!(peers, [(Some(1), Some(0)), (Some(2), Some(0))]);
    t.mend(0, 1);
    t.mend(0, 2);
    t.healthy();
    t.finish();

    // The disk.
    let mut t = Setup::new(2)
        .with(|c| c.disk.on_io_error = OnIoError::CallLocalIoError)
        .up();
    t.primary(0);
    t.write(0, [1]);
    // An epoch that cannot be made durable ends the connection.
    t.may_see(0, Bad::Conn(1, NetworkFailure));
    t.may_see(1, Bad::Conn(0, NetworkFailure));
    t.break_disk(1);
    t.write(0, [2]);
    called(&mut t, 1, "local-io-error", 1);
    assert_eq!(calls(&t, 1, "local-io-error")[0].about, (None, Some(0)));
    t.wait(1, Disk(Diskless));
    t.mend_disk(1);
    t.attach(1);
    t.healthy();
    t.finish();
}
