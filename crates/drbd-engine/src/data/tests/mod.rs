//! Tests of the data plane's parts that need no second node. What several nodes do together is tested in the
//! simulator.
#![allow(clippy::unwrap_used)]

mod suspended;

use drbd_proto::{Ctx, Features, NodeId, Sector};
use proptest::prelude::*;

use super::exchange::compress;
use super::sender::in_resync;
use super::submitter::extent_count;
use crate::bitmap::{BitNr, Bitmap, Slot};
use crate::engine::{Engine, EngineConfig};
use crate::event::{Event, IoRequest};
use crate::id::IoId;
use crate::options::ResourceOptions;
use crate::time::Instant;
use crate::{Effect, IoError};

/// Sends a slot in compressed packets and merges what arrives into an empty bitmap.
fn transfer(from: &Bitmap, to_block: u32, ctx: &Ctx) -> Bitmap {
    let mut to = Bitmap::new(from.capacity(), to_block, 2).unwrap();
    let (total, mut at) = (from.wire_bits(), 0);
    while at < total {
        let (packet, covered) = compress(from, Slot(1), at, ctx).unwrap();
        assert!(packet.code.len() < ctx.max_bitmap_payload() as usize);
        let mut runs = packet.runs(at, total);
        for run in runs.by_ref() {
            let run = run.unwrap();
            if run.set {
                to.merge_run(Slot(0), run.start, run.len).unwrap();
            }
        }
        assert_eq!(runs.position(), at + covered);
        at += covered;
    }
    to
}

proptest! {
    #[test]
    fn a_compressed_bitmap_arrives_complete(
        sectors in 1u64..200_000,
        from_shift in 0u32..5,
        to_shift in 0u32..5,
        ranges in prop::collection::vec((0u64..200_000, 1u32..64), 0..40),
    ) {
        let ctx = Ctx::new(124, Features::ALL);
        let mut from = Bitmap::new(sectors, 4096 << from_shift, 2).unwrap();
        for (sector, blocks) in ranges {
            from.set(Slot(1), Sector(sector), blocks * 4096);
        }
        let to = transfer(&from, 4096 << to_shift, &ctx);
        // Every block that was out of sync is so on the other side; with equal granularity no other is.
        for bit in 0..from.bits() {
            let range = from.sectors(&(BitNr(bit)..=BitNr(bit)));
            let len = ((range.end.0 - range.start.0) * 512) as u32;
            let set = from.is_set(Slot(1), BitNr(bit));
            prop_assert!(!set || to.any(Slot(0), range.start, len));
            if from_shift == to_shift {
                prop_assert_eq!(set, to.is_set(Slot(0), BitNr(bit)));
            }
        }
    }
}

#[test]
fn a_long_alternating_bitmap_takes_several_packets() {
    let ctx = Ctx::new(124, Features::ALL);
    let mut from = Bitmap::new(8 * 100_000, 4096, 2).unwrap();
    for bit in (0..100_000).step_by(2) {
        from.set_bits(Slot(1), BitNr(bit)..=BitNr(bit));
    }
    let (_, covered) = compress(&from, Slot(1), 0, &ctx).unwrap();
    assert!(covered < 100_000);
    assert_eq!(transfer(&from, 4096, &ctx).weight(Slot(0)), 50_000);
}

#[test]
fn extents_are_counted_at_both_ends() {
    assert_eq!(extent_count(Sector(0), 512), 1);
    assert_eq!(extent_count(Sector(8191), 512), 1);
    assert_eq!(extent_count(Sector(8191), 1024), 2);
    // An unaligned discard of the largest size (data path, section 10.1).
    assert_eq!(extent_count(Sector(1), 128 << 20), 33);
}

#[test]
fn verify_counts_as_resync_for_acks() {
    use drbd_proto::ReplState::*;
    for repl in [
        SyncSource,
        SyncTarget,
        VerifyS,
        VerifyT,
        PausedSyncS,
        PausedSyncT,
    ] {
        assert!(in_resync(repl), "{repl:?}");
    }
    for repl in [Off, Established, WFBitMapS, WFBitMapT, Ahead, Behind] {
        assert!(!in_resync(repl), "{repl:?}");
    }
}

/// A resource without volumes answers every request at once and gives every buffer back.
#[test]
fn requests_to_nowhere_are_answered() {
    let mut engine = Engine::new(EngineConfig {
        name: "r".into(),
        node_id: NodeId::new(0).unwrap(),
        options: ResourceOptions::default(),
        seed: 1,
        helper: false,
    });
    let buf = crate::BufId(7);
    let request = IoRequest::Write {
        sector: Sector(0),
        len: 4096,
        buf,
        fua: false,
    };
    let volume = drbd_proto::VolumeNr::ZERO;
    let mut effects = alloc::vec::Vec::new();
    let event = Event::Io {
        io: IoId(1),
        volume,
        request,
    };
    engine.handle(Instant::ZERO, event, &mut effects);
    let completed = effects.iter().any(|e| {
        matches!(
            e,
            Effect::CompleteIo {
                io: IoId(1),
                result: Err(IoError::Invalid),
                data: None
            }
        )
    });
    let released = effects
        .iter()
        .filter(|e| matches!(e, Effect::Release { buf: b } if *b == buf));
    assert!(completed);
    assert_eq!(released.count(), 1);
}
