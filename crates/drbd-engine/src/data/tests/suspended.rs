//! A Primary without disk, and writes that nobody has confirmed.

use alloc::vec::Vec;

use drbd_proto::packet::BlockAck;
use drbd_proto::{BlockId, Bytes, DiskState, NodeId, Packet, Role, Sector, Stream, Uuid};

use crate::engine::Engine;
use crate::event::{Event, IoRequest, LostReason};
use crate::id::{BufId, IoId};
use crate::options::{OnNoData, ResourceOptions};
use crate::state::change::ChangeFlags;
use crate::testkit::{V, diskless_node, happens, node, packets_to};
use crate::{Effect, IoError};

/// Connected with two peers; writing is possible at once.
fn primary() -> Engine {
    let mut engine = diskless_node(
        2,
        ResourceOptions {
            on_no_data: OnNoData::SuspendIo,
            ..ResourceOptions::default()
        },
    );
    engine
        .change(ChangeFlags::HARD, |s| s.role = Role::Primary)
        .unwrap();
    let volume = engine.volumes.get_mut(&V).unwrap();
    volume.flags.new_cur_uuid = false;
    volume.exposed = Uuid(0x10);
    for peer in [1, 2] {
        let known = engine.peer_device_mut(node(peer), V).unwrap();
        known.options.bitmap = true;
        known.uuids.current = Uuid(0x10);
        known.flags.missed = false;
    }
    engine
}

/// The peers are told of another generation.
fn begin_generation(engine: &mut Engine) {
    engine.volumes.get_mut(&V).unwrap().exposed = Uuid(0x20);
    engine.generation_unconfirmed(V, Uuid(0x10), Uuid(0x20));
    for peer in [1, 2] {
        engine.peer_device_mut(node(peer), V).unwrap().uuids.current = Uuid(0x20);
    }
}

fn write(engine: &mut Engine) -> Vec<Effect> {
    let request = IoRequest::Write {
        sector: Sector(8),
        len: 4096,
        buf: BufId(7),
        fua: false,
    };
    let event = Event::Io {
        io: IoId(1),
        volume: V,
        request,
    };
    happens(engine, event)
}

fn block_of_write(effects: &[Effect], to: NodeId) -> Option<BlockId> {
    packets_to(effects, to).iter().find_map(|p| match p {
        Packet::Data(data) => Some(data.block_id),
        _ => None,
    })
}

fn ack(engine: &mut Engine, peer: NodeId, block_id: BlockId) -> Vec<Effect> {
    let ack = BlockAck {
        sector: Sector(8),
        block_id,
        size: Bytes(4096),
        seq_num: 1,
    };
    let event = Event::Packet {
        peer,
        stream: Stream::Control,
        volume: V,
        packet: Packet::WriteAck(ack),
        payload: None,
    };
    happens(engine, event)
}

fn lose(engine: &mut Engine, peer: NodeId) -> Vec<Effect> {
    let event = Event::Lost {
        peer,
        reason: LostReason::Network,
    };
    happens(engine, event)
}

fn set_pdisk(engine: &mut Engine, peer: NodeId, disk: DiskState) -> Vec<Effect> {
    engine
        .change(ChangeFlags::HARD, |s| {
            s.pd_mut(peer, V).unwrap().pdisk = disk;
        })
        .unwrap();
    if disk < DiskState::UpToDate {
        // The generation that follows from it is not what is tested here.
        engine.volumes.get_mut(&V).unwrap().flags.new_cur_uuid = false;
    }
    happens(engine, Event::Tick)
}

fn completion(effects: &[Effect]) -> Option<Result<(), IoError>> {
    effects.iter().find_map(|e| match e {
        Effect::CompleteIo { io, result, .. } if *io == IoId(1) => Some(*result),
        _ => None,
    })
}

/// Invariant C5: the policy says that requests wait for data.
#[test]
fn a_write_that_lost_its_only_copy_is_written_again() {
    let mut engine = primary();
    set_pdisk(&mut engine, node(2), DiskState::Outdated);
    let effects = write(&mut engine);
    assert!(block_of_write(&effects, node(1)).is_some());
    assert!(block_of_write(&effects, node(2)).is_none());

    let effects = lose(&mut engine, node(1));
    assert!(engine.state.suspended());
    assert_eq!(completion(&effects), None, "it waits");

    let effects = set_pdisk(&mut engine, node(2), DiskState::UpToDate);
    assert!(!engine.state.suspended());
    assert_eq!(completion(&effects), None);
    let block = block_of_write(&effects, node(2)).unwrap();
    // The generation that was begun for this is confirmed by the peer.
    engine.peer_confirms(node(2), V);
    let effects = ack(&mut engine, node(2), block);
    assert_eq!(completion(&effects), Some(Ok(())));
}

#[test]
fn a_write_waits_until_its_generation_is_confirmed() {
    let mut engine = primary();
    begin_generation(&mut engine);
    let effects = write(&mut engine);
    let barrier = |p: &&&Packet| matches!(p, Packet::Barrier(_));
    assert_eq!(
        packets_to(&effects, node(1)).iter().filter(barrier).count(),
        1,
        "its epoch is closed at once"
    );
    let block = block_of_write(&effects, node(1)).unwrap();
    assert_eq!(completion(&ack(&mut engine, node(1), block)), None);
    assert_eq!(completion(&ack(&mut engine, node(2), block)), None);
    engine.peer_confirms(node(1), V);
    assert_eq!(completion(&happens(&mut engine, Event::Tick)), None);
    engine.peer_confirms(node(2), V);
    let effects = happens(&mut engine, Event::Tick);
    assert_eq!(completion(&effects), Some(Ok(())));
    assert_eq!(engine.volumes[&V].unconfirmed, None);
}

#[test]
fn who_may_get_an_unconfirmed_generation() {
    let mut engine = primary();
    begin_generation(&mut engine);
    lose(&mut engine, node(2));
    lose(&mut engine, node(1));
    let (one, two) = (node(1), node(2));
    // They did not get it.
    for peer in [one, two] {
        engine.peer_device_mut(peer, V).unwrap().uuids.current = Uuid(0x10);
    }
    assert!(engine.may_relabel(one, V) && engine.may_relabel(two, V));
    engine.peer_device_mut(one, V).unwrap().flags.missed = true;
    assert!(!engine.may_relabel(one, V), "it lacks a completed write");
    engine.peer_device_mut(two, V).unwrap().uuids.current = Uuid(0x30);
    assert!(!engine.may_relabel(two, V), "it has something else");
    engine.peer_device_mut(two, V).unwrap().uuids.current = Uuid(0x11);
    engine.volumes.get_mut(&V).unwrap().exposed = Uuid(0x40);
    assert!(!engine.may_relabel(two, V), "the generation is forgotten");
}

/// What a peer lacks is counted from the moment that writes are completed without a disk here.
#[test]
fn completed_writes_are_missed_by_those_that_did_not_get_them() {
    let mut engine = primary();
    set_pdisk(&mut engine, node(2), DiskState::Outdated);
    let block = block_of_write(&write(&mut engine), node(1)).unwrap();
    let effects = ack(&mut engine, node(1), block);
    assert_eq!(completion(&effects), Some(Ok(())));
    let missed = |n| engine.peer_device(node(n), V).unwrap().flags.missed;
    assert!(!missed(1) && missed(2));
}
