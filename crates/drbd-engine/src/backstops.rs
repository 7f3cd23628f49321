//! Rules that no running engine gets to, because an earlier step leaves nothing for them: they hold if that step is
//! changed, and for what peers say that are no engine of ours. Their tables are asked here about states and packets made
//! up for them.
//!
//! For tests only (feature `testkit`).
#![allow(clippy::unwrap_used)]

use alloc::vec::Vec;

use drbd_proto::packet::{TwopcHead, TwopcPrepare};
use drbd_proto::{
    ConnState, DiskState, Packet, ReplState, Role, StateChange, Stream, TwopcFlags, VolumeNr,
};

use crate::command::RetCode;
use crate::engine::Engine;
use crate::event::Event;
use crate::options::ResourceOptions;
use crate::rows::{Row, Rows};
use crate::state::change::ChangeFlags;
use crate::state::{ConnectionState, PeerDeviceState, State};
use crate::testkit::{V, diskless_node, happens, node, packets_to};

/// Asks them all. The rows that the engine noted with the right result; a wrong one panics.
pub fn check() -> Rows {
    let mut met = Rows::default();
    connections_in_between(&mut met);
    disconnect_of_a_connection_that_is_not_up(&mut met);
    failure_of_no_disk(&mut met);
    attach_of_a_disk_that_is_gone(&mut met);
    resync_without_its_disks();
    start_without_connection(&mut met);
    dependency_without_disk(&mut met);
    own_transaction_comes_back(&mut met);
    connect_of_what_is_connected(&mut met);
    met
}

/// This node, connected with node 1, which is an UpToDate Secondary, in a state that the caller changes first.
fn in_state(change: impl FnOnce(&mut State)) -> Engine {
    let mut engine = diskless_node(1, ResourceOptions::default());
    change(&mut engine.state);
    engine
}

fn conn(s: &mut State) -> &mut ConnectionState {
    s.conns.get_mut(&node(1)).unwrap()
}

fn peer_device(s: &mut State) -> &mut PeerDeviceState {
    conn(s).peers.get_mut(&V).unwrap()
}

fn set_disk(s: &mut State, disk: DiskState) {
    s.devices.get_mut(&V).unwrap().disk = disk;
}

/// What `what` does goes through a row.
fn through<T>(
    met: &mut Rows,
    engine: &mut Engine,
    row: Row,
    what: impl FnOnce(&mut Engine) -> T,
) -> T {
    assert!(!engine.rows().contains(row), "{row:?} before");
    let result = what(engine);
    assert!(engine.rows().contains(row), "not through {row:?}");
    met.insert(row);
    result
}

/// A change is refused by a row.
fn refused(
    met: &mut Rows,
    mut engine: Engine,
    (row, code): (Row, RetCode),
    flags: ChangeFlags,
    change: impl FnOnce(&mut State),
) {
    let result = through(met, &mut engine, row, |e| e.would_change(flags, change));
    assert_eq!(result, Err(code), "{row:?}");
}

/// Hard checks: a connection that broke, or is being left, is cleaned up first. Here that takes one event.
fn connections_in_between(met: &mut Rows) {
    use ConnState::{
        BrokenPipe, Connected, Connecting, Disconnecting, NetworkFailure, ProtocolError,
        StandAlone, TearDown, Timeout, Unconnected,
    };
    let no = RetCode::IN_TRANSIENT_STATE;
    let hard = ChangeFlags::HARD;
    for broken in [Timeout, BrokenPipe, NetworkFailure, ProtocolError, TearDown] {
        for to in [Connected, Connecting, StandAlone] {
            let engine = in_state(|s| conn(s).cstate = broken);
            refused(met, engine, (Row::H3, no), hard, |s| conn(s).cstate = to);
        }
        for to in [Unconnected, Disconnecting] {
            let engine = in_state(|s| conn(s).cstate = broken);
            assert!(engine.would_change(hard, |s| conn(s).cstate = to).is_ok());
        }
    }
    for to in [Unconnected, Connecting, Connected, TearDown] {
        let engine = in_state(|s| conn(s).cstate = Disconnecting);
        refused(met, engine, (Row::H4, no), hard, |s| conn(s).cstate = to);
    }
    let engine = in_state(|s| conn(s).cstate = Disconnecting);
    assert!(
        engine
            .would_change(hard, |s| conn(s).cstate = StandAlone)
            .is_ok()
    );
}

/// Soft checks, rule 4: a connection goes from Unconnected to Connecting in one event, and `disconnect` asks the cluster
/// only about one that is Connected.
fn disconnect_of_a_connection_that_is_not_up(met: &mut Rows) {
    let leave = |s: &mut State| conn(s).cstate = ConnState::Disconnecting;
    let unconnected = || in_state(|s| conn(s).cstate = ConnState::Unconnected);
    let row = (Row::T4c, RetCode::IN_TRANSIENT_STATE);
    refused(met, unconnected(), row, ChangeFlags::SOFT, leave);
    assert!(unconnected().would_change(ChangeFlags::HARD, leave).is_ok());
}

/// Hard check of disks: an operation that fails when its disk has gone is forgotten with it.
fn failure_of_no_disk(met: &mut Rows) {
    let row = (Row::H5, RetCode::IS_DISKLESS);
    refused(met, in_state(|_| {}), row, ChangeFlags::HARD, |s| {
        set_disk(s, DiskState::Failed)
    });
}

/// Soft checks, rule 5.3: when a disk goes, a request of its attach that waits for its turn is withdrawn.
fn attach_of_a_disk_that_is_gone(met: &mut Rows) {
    for to in [DiskState::Negotiating, DiskState::UpToDate] {
        let row = (Row::T53, RetCode::IS_DISKLESS);
        refused(met, in_state(|_| {}), row, ChangeFlags::SOFT, |s| {
            set_disk(s, to)
        });
    }
    let attach = |s: &mut State| set_disk(s, DiskState::Attaching);
    assert!(
        in_state(|_| {})
            .would_change(ChangeFlags::SOFT, attach)
            .is_ok()
    );
}

/// Soft checks, rule 5.8: whoever wants to start a resync or a verify looks whether the volume is replicated at all, and
/// without connection the state is Off again (block C).
fn start_without_connection(met: &mut Rows) {
    let not_there = || {
        in_state(|s| {
            set_disk(s, DiskState::UpToDate);
            peer_device(s).repl = ReplState::Off;
        })
    };
    for repl in [
        ReplState::StartingSyncS,
        ReplState::StartingSyncT,
        ReplState::VerifyT,
    ] {
        let row = (Row::T58i, RetCode::NEED_CONNECTION);
        refused(met, not_there(), row, ChangeFlags::SOFT, |s| {
            peer_device(s).repl = repl;
        });
    }
}

/// Block C, rule 4: the dependency on another resync is forgotten when the disk goes, and that was before.
fn dependency_without_disk(met: &mut Rows) {
    let waits = |role: Role, disk: DiskState| {
        in_state(move |s| {
            s.role = role;
            set_disk(s, disk);
            conn(s).cstate = ConnState::Disconnecting;
            peer_device(s).susp_dependency = true;
        })
    };
    let parts = |engine: &Engine| {
        let mut new = engine.state.clone();
        conn(&mut new).cstate = ConnState::StandAlone;
        engine.sanitize(ChangeFlags::HARD, &mut new);
        peer_device(&mut new).susp_dependency
    };
    let mut engine = waits(Role::Secondary, DiskState::Diskless);
    let still = through(met, &mut engine, Row::P4, |e| parts(e));
    assert!(!still, "it waits for another resync");
    assert!(parts(&waits(Role::Secondary, DiskState::UpToDate)));
    assert!(parts(&waits(Role::Primary, DiskState::Diskless)));
}

fn prepare(initiator: u32, change: StateChange) -> Event {
    let head = TwopcHead {
        tid: 7,
        flags: TwopcFlags::HAS_REACHABLE,
        initiator: node(initiator),
        target: Some(node(0)),
        nodes_to_reach: !node(0).mask().with(node(1)),
    };
    Event::Packet {
        peer: node(1),
        stream: Stream::Data,
        volume: VolumeNr::CONNECTION,
        packet: Packet::TwopcPrepare(TwopcPrepare { head, change }),
        payload: None,
    }
}

/// The packets that answer a PREPARE.
fn answers(engine: &mut Engine, event: Event) -> Vec<Packet> {
    let effects = happens(engine, event);
    let sent = packets_to(&effects, node(1));
    sent.into_iter().cloned().collect()
}

/// A PREPARE is not passed on to its initiator: it is no more among the nodes to reach. If it comes, this node has
/// prepared itself.
fn own_transaction_comes_back(met: &mut Rows) {
    let mut engine = in_state(|_| {});
    let event = prepare(0, StateChange::EMPTY.role(Role::Primary));
    let sent = through(met, &mut engine, Row::R2, |e| answers(e, event));
    let yes = |p: &Packet| matches!(p, Packet::TwopcYes(r) if r.tid == 7);
    assert_eq!(sent.iter().filter(|p| yes(p)).count(), 1, "{sent:?}");
    assert!(engine.twopc.active.is_none());
}

/// A connect is asked for by a node that sees the connection waiting, and then its peer does, too.
fn connect_of_what_is_connected(met: &mut Rows) {
    let mut engine = in_state(|_| {});
    let change = StateChange::EMPTY.conn(ConnState::Connected);
    let event = prepare(1, change.role(Role::Secondary));
    let before = engine.state.clone();
    let sent = through(met, &mut engine, Row::V2, |e| answers(e, event));
    let retry = |p: &Packet| matches!(p, Packet::TwopcRetry(r) if r.tid == 7);
    assert_eq!(sent.iter().filter(|p| retry(p)).count(), 1, "{sent:?}");
    assert!(engine.twopc.active.is_none());
    assert_eq!(engine.state, before);
}

/// Soft checks, rule 5.8, have no row for a resync without one of its disks: whatever is asked for, blocks C and E have
/// ended it, or made the disks Inconsistent, before anything is checked.
fn resync_without_its_disks() {
    for &disk in DiskState::ALL {
        for &pdisk in DiskState::ALL {
            for &repl in ReplState::ALL {
                let engine = in_state(|_| {});
                let mut new = engine.state.clone();
                set_disk(&mut new, disk);
                peer_device(&mut new).pdisk = pdisk;
                peer_device(&mut new).repl = repl;
                engine.sanitize(ChangeFlags::HARD, &mut new);
                let worst = new.disk(V).min(new.pdisk(node(1), V));
                let resync = new.repl(node(1), V) > ReplState::Established;
                assert!(
                    !resync || worst >= DiskState::Inconsistent,
                    "{disk:?} {pdisk:?} {repl:?}: {new:?}"
                );
            }
        }
    }
}

#[test]
fn they_hold() {
    assert!(check().iter().count() > 0);
}
