//! Properties of the decoders: what is written is read back, and no input makes them panic.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod support;

use drbd_meta::Block;
use drbd_meta::activity_log::legacy::{replay_pmem, replay_sectors};
use drbd_meta::activity_log::replay::replay_area;
use drbd_meta::activity_log::{
    AlBlock, AlEncodeError, AlHeader, AlLayout, AlUpdate, CONTEXT_SLOTS, FREE, encode_initialised,
    next_context_start,
};
use drbd_meta::flags::{LocalFlags, PeerFlags};
use drbd_meta::geometry::{AlStriping, BitmapBlockSize, Geometry, MdIndex, Placement};
use drbd_meta::superblock::{
    AttachError, AttachRequest, Format, Magic, PeerEntry, Superblock, V07Superblock,
};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn any_index() -> impl Strategy<Value = MdIndex> {
    prop_oneof![
        Just(MdIndex::Internal),
        Just(MdIndex::FlexExternal),
        Just(MdIndex::FixedInternal),
        any::<u8>().prop_map(MdIndex::Indexed),
    ]
}

prop_compose! {
    fn any_geometry()(
        index in prop_oneof![
            Just(MdIndex::Internal), Just(MdIndex::FlexExternal), (0u8..3).prop_map(MdIndex::Indexed)
        ],
        size in (1u64 << 27)..(1 << 42),
        slots in 1u8..=31,
        block in 12u32..=20,
        stripes in 1u32..5,
        stripe in 8u32..65,
    ) -> Option<Geometry> {
        let block = BitmapBlockSize::new(1 << block).unwrap();
        let striping = AlStriping::new(stripes, stripe).unwrap();
        Geometry::new(Placement { index, device_size: size }, slots, block, striping).ok()
    }
}

prop_compose! {
    fn any_peer()(uuid: u64, dagtag: u64, flags: u32, index in proptest::option::of(0u8..32))
    -> PeerEntry {
        PeerEntry {
            bitmap_uuid: uuid,
            bitmap_dagtag: dagtag,
            flags: PeerFlags::from_bits(flags & 0x7fff_ffff),
            bitmap_index: index,
        }
    }
}

/// A block of noise, with one of the magic numbers and plausible fields often enough.
fn noisy_block() -> impl Strategy<Value = Block> {
    let noise = (any::<u64>(), 0u32..6, any::<bool>());
    noise.prop_map(|(seed, kind, plausible)| {
        let mut x = seed | 1;
        let mut block = [0u8; 4096];
        for byte in &mut block {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            *byte = x.to_le_bytes()[3];
        }
        if plausible {
            for (at, value) in [(80, 4096u32), (88, 3), (92, 2), (96, 1), (100, 8)] {
                block[at..at + 4].copy_from_slice(&value.to_be_bytes());
            }
            for peer in 0..32 {
                block[112 + 32 * peer + 20..][..4].fill(0xff);
            }
        }
        match kind {
            0..=2 => block[60..64].copy_from_slice(&(0x8374_026b + kind).to_be_bytes()),
            3 => block[28..32].copy_from_slice(&0x8374_026au32.to_be_bytes()),
            4 => {
                block[..4].copy_from_slice(&0x69cb_65a2u32.to_be_bytes());
                block[8..12].fill(0);
                let crc = drbd_meta::crc32c::update(0, &block);
                block[8..12].copy_from_slice(&crc.to_be_bytes());
            }
            _ => {}
        }
        block
    })
}

proptest! {
    #[test]
    fn superblock_round_trip(
        geometry in any_geometry(),
        v09: bool,
        peers in proptest::collection::vec(any_peer(), 32),
        history: [u64; 32],
        uuids: [u64; 3],
        words: [u32; 3],
        size: u64,
        node in proptest::option::of(0u8..32),
    ) {
        let Some(geometry) = geometry else { return Ok(()) };
        let v08_fits = geometry.slots() == 1 && geometry.block_size() == BitmapBlockSize::DEFAULT;
        let format = if v09 || !v08_fits { Format::V09 } else { Format::V08 };
        let mut sb = Superblock::create(format, &geometry);
        sb.effective_size = size;
        [sb.current_uuid, sb.device_uuid, _] = uuids;
        sb.flags = LocalFlags::from_bits(words[0]);
        [_, sb.al_nr_extents, sb.la_peer_max_bio_size] = words;
        if format == Format::V09 {
            sb.members = uuids[2];
            sb.node_id = node;
            sb.peers.copy_from_slice(&peers);
            sb.history = history;
        } else {
            sb.peers[0].bitmap_uuid = uuids[2];
            sb.history[..2].copy_from_slice(&history[..2]);
        }
        let block = sb.encode();
        let read = Superblock::parse(&block, geometry.placement()).unwrap();
        prop_assert_eq!(&read, &sb);
        prop_assert_eq!(read.geometry(geometry.placement()).unwrap(), geometry);
        // The in-core bit never reaches the disk and is ignored when it is found there.
        if format == Format::V09 {
            let mut marked = block;
            marked[112 + 16] |= 0x80;
            prop_assert_eq!(Superblock::decode(&marked).unwrap(), sb);
        }
    }

    #[test]
    fn superblock_decoder_never_panics(
        block in noisy_block(), index in any_index(), device_size: u64, own in 0u8..40, compat: bool,
    ) {
        let placement = Placement { index, device_size };
        let _ = V07Superblock::parse(&block, placement);
        let _ = Superblock::parse(&block, placement);
        if let Ok(sb) = Superblock::decode(&block) {
            let _ = sb.bitmap_layout();
            let _ = sb.is_clean();
            let _ = sb.check_attach(&AttachRequest { placement, node_id: own, drbd8_compat: compat });
            let mut clean = sb.clone();
            clean.flags.insert(LocalFlags::AL_CLEAN);
            let _ = clean.check_attach(&AttachRequest { placement, node_id: own, drbd8_compat: true });
            let _ = sb.to_format(Format::V08);
            let again = Superblock::decode(&sb.encode()).unwrap();
            prop_assert_eq!(again, sb);
        }
    }

    #[test]
    fn transaction_round_trip(
        tr_number: u32,
        size in 67u16..=65534,
        windows in 0u16..72,
        updates in proptest::collection::vec((0u16..65534, any::<u32>()), 0..=64),
        context in proptest::collection::vec(any::<u32>(), 0..1000),
    ) {
        let start = (0..windows).fold(0, |start, _| next_context_start(start, size));
        prop_assert!(start < size && start % CONTEXT_SLOTS == 0);
        let header = AlHeader { tr_number, context_size: size, context_start: start };
        let updates: Vec<_> =
            updates.into_iter().map(|(slot, extent)| AlUpdate { slot, extent }).collect();
        let mut block = [0; 4096];
        header.encode(&updates, context.iter().copied(), &mut block).unwrap();
        let AlBlock::Transaction(read) = AlBlock::decode(&block).unwrap() else { panic!() };
        prop_assert_eq!(read.header(), header);
        prop_assert_eq!(read.updates().collect::<Vec<_>>(), updates);
        let window = usize::from((size - start).min(CONTEXT_SLOTS));
        let mut expected = context;
        expected.resize(window.max(expected.len()), FREE);
        expected.truncate(window);
        let slots: Vec<_> = (u32::from(start)..).zip(expected).collect();
        prop_assert_eq!(read.context().collect::<Vec<_>>(), slots);
        // Any change of a byte is noticed.
        let mut torn = block;
        let at = usize::try_from(tr_number).unwrap() % 4096;
        torn[at] ^= 0x10;
        prop_assert!(AlBlock::decode(&torn).is_err());
    }

    #[test]
    fn replay_never_panics(
        blocks in proptest::collection::vec(noisy_block(), 8..20), stripes in 1u32..3,
    ) {
        let area: Vec<u8> = blocks.iter().flatten().copied().collect();
        let layout = AlLayout::new(0, AlStriping::new(stripes, 8).unwrap());
        if let Ok(result) = replay_area(&layout, &area) {
            prop_assert!(result.hot.is_sorted_by(|a, b| a < b));
        }
        let _ = replay_sectors(&area, u32::from(area[9]) << 3);
        let _ = replay_pmem(&area, u32::MAX);
    }

    /// A writer that keeps the rules, stopped at any point, with its newest block torn or not: the
    /// replay names every extent that was active, and none that never was.
    #[test]
    fn replay_covers_the_active_set(
        stripes in 1u32..4,
        slots in prop_oneof![67u16..200, 800u16..2500],
        changes in proptest::collection::vec(
            proptest::collection::vec((any::<u16>(), 0u32..100_000), 1..=64), 1..40),
        first_number: u32,
        torn: bool,
    ) {
        let layout = AlLayout::new(0, AlStriping::new(stripes, 8).unwrap());
        prop_assume!(slots <= layout.max_slots());
        let blocks = usize::try_from(layout.blocks()).unwrap();
        let mut area: Vec<u8> = (0..blocks).flat_map(|_| encode_initialised()).collect();
        let mut held = vec![FREE; usize::from(slots)];
        let mut before_last = held.clone();
        let mut ever = BTreeSet::new();
        let (mut start, mut number) = (0, first_number);
        let mut last_at = 0;
        for change in &changes {
            before_last.clone_from(&held);
            let mut updates: Vec<AlUpdate> = Vec::new();
            for (slot, extent) in change {
                let slot = slot % slots;
                if updates.iter().all(|u| u.slot != slot) {
                    updates.push(AlUpdate { slot, extent: *extent });
                }
            }
            let mut block = [0; 4096];
            AlHeader { tr_number: number, context_size: slots, context_start: start }
                .encode(&updates, held[usize::from(start)..].iter().copied(), &mut block)
                .unwrap();
            last_at = usize::try_from(layout.block_of_position(number)).unwrap() * 4096;
            area[last_at..last_at + 4096].copy_from_slice(&block);
            for update in &updates {
                held[usize::from(update.slot)] = update.extent;
                ever.insert(update.extent);
            }
            start = next_context_start(start, slots);
            number = number.wrapping_add(1);
        }
        if torn {
            area[last_at + 2048] ^= 1;
            held = before_last;
        }
        let Ok(result) = replay_area(&layout, &area) else {
            // The first transaction, torn: nothing was active, and the rest tells as much only if
            // it stands at the start of the ring.
            prop_assert!(torn && changes.len() == 1);
            return Ok(());
        };
        let hot: BTreeSet<u32> = result.hot.iter().copied().collect();
        let windows = usize::from(slots.div_ceil(CONTEXT_SLOTS));
        if !torn || changes.len() > windows {
            for extent in held.iter().filter(|e| **e != FREE) {
                prop_assert!(hot.contains(extent), "extent {extent} was active");
            }
        }
        prop_assert!(hot.is_subset(&ever));
        if !torn {
            prop_assert_eq!(result.next_tr_number(), number);
        }
    }
}

#[test]
fn transactions_that_cannot_be_written() {
    let header = AlHeader {
        tr_number: 0,
        context_size: 67,
        context_start: 0,
    };
    let update = |slot| AlUpdate { slot, extent: 1 };
    let mut block = [0; 4096];
    assert_eq!(
        header.encode(&[update(1); 65], [], &mut block),
        Err(AlEncodeError::TooManyUpdates(65))
    );
    assert_eq!(
        header.encode(&[update(65534)], [], &mut block),
        Err(AlEncodeError::Slot(65534))
    );
}

#[test]
fn slots_that_a_ring_can_describe() {
    for (stripes, size, slots) in [(1, 8, 6433), (1, 72, 65249), (1, 73, 65534), (4, 8, 28489)] {
        let layout = AlLayout::new(0, AlStriping::new(stripes, size).unwrap());
        assert_eq!(layout.max_slots(), slots);
    }
}

#[test]
fn who_may_attach() {
    let placement = Placement {
        index: MdIndex::Internal,
        device_size: 1 << 30,
    };
    let geometry =
        Geometry::new(placement, 3, BitmapBlockSize::DEFAULT, AlStriping::DEFAULT).unwrap();
    let good = Superblock::create(Format::V09, &geometry);
    let request = AttachRequest {
        placement,
        node_id: 2,
        drbd8_compat: false,
    };
    good.check_attach(&request).unwrap();
    let refused = |change: &dyn Fn(&mut Superblock)| {
        let mut sb = good.clone();
        change(&mut sb);
        sb.check_attach(&request).unwrap_err()
    };
    let error = refused(&|sb| sb.flags.remove(LocalFlags::AL_CLEAN));
    assert_eq!((error, error.code()), (AttachError::Unclean, 165));
    let error = refused(&|sb| sb.magic = Magic::V08);
    assert_eq!((error, error.code()), (AttachError::Format, 119));
    assert_eq!(
        refused(&|sb| sb.magic = Magic::V08Unclean),
        AttachError::Unclean
    );
    let error = refused(&|sb| sb.node_id = Some(1));
    assert_eq!(
        error,
        AttachError::NodeId {
            stored: 1,
            configured: 2
        }
    );
    assert_eq!(
        refused(&|sb| sb.peers[2].bitmap_index = Some(0)),
        AttachError::OwnSlot(2)
    );
    let error = refused(&|sb| sb.peers[5].bitmap_index = Some(3));
    assert_eq!(
        error,
        AttachError::SlotRange {
            node: 5,
            slot: 3,
            slots: 3
        }
    );
    let error = refused(&|sb| {
        sb.peers[5].bitmap_index = Some(1);
        sb.peers[6].bitmap_index = Some(1);
    });
    assert_eq!(
        error,
        AttachError::SlotShared {
            first: 5,
            second: 6,
            slot: 1
        }
    );
    for change in [
        &(|sb: &mut Superblock| sb.al_offset = 8) as &dyn Fn(&mut Superblock),
        &|sb| sb.al_offset = -72,
        &|sb| sb.bm_offset = -8,
        &|sb| sb.bm_offset = i32::MIN,
        &|sb| sb.bm_offset -= 1,
        &|sb| sb.md_size_sect = u32::MAX,
        &|sb| sb.effective_size = 1 << 30,
        &|sb| sb.effective_size = u64::MAX,
    ] {
        let error = refused(change);
        assert!(matches!(error, AttachError::Layout { .. }), "{error}");
        assert_eq!(error.code(), 119);
    }
    let small = Placement {
        index: MdIndex::Internal,
        device_size: 1_000_000,
    };
    let geometry = Geometry::new(small, 1, BitmapBlockSize::DEFAULT, AlStriping::DEFAULT).unwrap();
    let sb = Superblock::create(Format::V09, &geometry);
    let error = sb
        .check_attach(&AttachRequest {
            placement: small,
            node_id: 0,
            drbd8_compat: false,
        })
        .unwrap_err();
    assert_eq!(
        error,
        AttachError::DeviceTooSmall {
            found: 1953,
            need: 2048
        }
    );
    assert_eq!(error.code(), 112);
}
