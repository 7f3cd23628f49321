//! A node between others in a transaction.
#![allow(clippy::unwrap_used)]

use drbd_proto::packet::{TwopcHead, TwopcPhase2, TwopcPrepResize, TwopcPrepare};
use drbd_proto::{ConnState, DdsFlags, Packet, Sectors, StateChange, Stream, TwopcFlags, VolumeNr};

use super::Active;
use crate::event::{Event, LostReason};
use crate::options::ResourceOptions;
use crate::testkit::{diskless_node, happens, node, packets_to};

#[test]
fn who_asked_learns_that_a_node_below_is_lost() {
    let mut engine = diskless_node(2, ResourceOptions::default());
    let (asks, below) = (node(1), node(2));
    let head = TwopcHead {
        tid: 7,
        flags: TwopcFlags::HAS_REACHABLE,
        initiator: asks,
        target: None,
        nodes_to_reach: !(asks.mask().with(node(0))),
    };
    let prepare = TwopcPrepare {
        head,
        change: StateChange::EMPTY,
    };
    let event = Event::Packet {
        peer: asks,
        stream: Stream::Data,
        volume: VolumeNr::CONNECTION,
        packet: Packet::TwopcPrepare(prepare),
        payload: None,
    };
    let effects = happens(&mut engine, event);
    assert!(
        packets_to(&effects, below)
            .iter()
            .any(|p| matches!(p, Packet::TwopcPrepare(f) if f.head.tid == 7))
    );
    let answers = |p: &&&Packet| {
        matches!(
            p,
            Packet::TwopcYes(_) | Packet::TwopcNo(_) | Packet::TwopcRetry(_)
        )
    };
    assert_eq!(packets_to(&effects, asks).iter().filter(answers).count(), 0);

    let effects = happens(
        &mut engine,
        Event::Lost {
            peer: below,
            reason: LostReason::Network,
        },
    );
    let sent = packets_to(&effects, asks);
    let mut answers = sent.iter().filter(answers);
    assert!(matches!(answers.next(), Some(Packet::TwopcRetry(r)) if r.tid == 7));
    assert_eq!(answers.next(), None);
    assert!(!matches!(&engine.twopc.active, Some(Active::Participant(p)) if p.tid == 7));
}

#[test]
fn no_device_grows_beyond_what_a_disk_can_have() {
    let volume = VolumeNr::ZERO;
    for (size, taken) in [(1 << 60, false), (0, false), (1 << 30, true)] {
        let mut engine = diskless_node(1, ResourceOptions::default());
        let before = engine.volumes.get(&volume).unwrap().size;
        let asks = node(1);
        let head = TwopcHead {
            tid: 7,
            flags: TwopcFlags::NONE,
            initiator: asks,
            target: None,
            nodes_to_reach: !(asks.mask().with(node(0))),
        };
        let prepare = TwopcPrepResize {
            head,
            user_size: Sectors(size),
            dds_flags: DdsFlags::NONE,
        };
        let commit = TwopcPhase2::with_size(head, asks.mask(), Sectors(size));
        let says = |packet| Event::Packet {
            peer: asks,
            stream: Stream::Data,
            volume,
            packet,
            payload: None,
        };
        let effects = happens(&mut engine, says(Packet::TwopcPrepRsz(prepare)));
        let yes = |p: &&Packet| matches!(p, Packet::TwopcYes(r) if r.tid == 7);
        assert!(packets_to(&effects, asks).iter().any(yes));
        happens(&mut engine, says(Packet::TwopcCommit(commit)));
        let after = engine.volumes.get(&volume).unwrap().size;
        assert_eq!(after, if taken { size } else { before });
        let connected = engine.state.cstate(asks) == ConnState::Connected;
        assert_eq!(connected, taken, "{size}");
    }
}
