//! Older and other forms of the activity log, for replay only: the sectors of DRBD 0.7 to 8.3
//! (metadata, section 5.7) and the slot table in persistent memory (section 5.8).

use super::{FREE, MAX_SLOTS};
use crate::limits::DEFAULT_AL_EXTENTS;
use alloc::vec;
use alloc::vec::Vec;
use zerocopy::byteorder::big_endian::U32;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// Magic number of an old-style sector.
const SECTOR_MAGIC: u32 = 0x8374_0267;
/// Magic number of the slot table in persistent memory.
const PMEM_MAGIC: u32 = 0x6AA6_67A6;
/// Sectors of the old ring's area.
const RING_SECTORS: u32 = 64;
/// Entries of a sector that repeat the content of slots.
const CONTEXT_ENTRIES: u32 = 61;

/// One old-style sector: an update and 61 entries of context.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSector {
    magic: U32,
    tr_number: U32,
    entries: [[U32; 2]; 62],
    xor: U32,
    padding: U32,
}

/// What an old ring says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LegacyReplay {
    /// The hot extents, ascending, each once.
    pub hot: Vec<u32>,
    /// Valid sectors; 0 means that no activity log was found, which is no error here.
    pub valid: u32,
    /// Sectors that make up the ring.
    pub ring: u32,
}

/// Sectors that a ring for `al_nr_extents` extents uses.
#[must_use]
pub fn ring_sectors(al_nr_extents: u32) -> u32 {
    al_nr_extents
        .div_ceil(CONTEXT_ENTRIES)
        .saturating_add(1)
        .min(RING_SECTORS)
}

/// Replays an old-style ring: `area` is the activity log's 64 sectors, `al_nr_extents` comes from
/// the superblock.
#[must_use]
pub fn replay_sectors(area: &[u8], al_nr_extents: u32) -> LegacyReplay {
    let ring = ring_sectors(al_nr_extents);
    let ring_size = usize::try_from(ring).unwrap_or(0);
    let (sectors, _) = area.as_chunks::<512>();
    let sectors: Vec<Option<&RawSector>> = sectors
        .iter()
        .take(ring_size)
        .map(|sector| {
            let raw: &RawSector = zerocopy::transmute_ref!(sector);
            let xor = raw
                .entries
                .iter()
                .fold(0, |xor, [_, extent]| xor ^ extent.get());
            (raw.magic.get() == SECTOR_MAGIC && xor == raw.xor.get()).then_some(raw)
        })
        .collect();
    let before = |a: &RawSector, b: &RawSector| {
        a.tr_number
            .get()
            .wrapping_sub(b.tr_number.get())
            .cast_signed()
            < 0
    };
    let mut result = LegacyReplay {
        ring,
        ..LegacyReplay::default()
    };
    let mut oldest: Option<(usize, &RawSector)> = None;
    let mut newest: Option<(usize, &RawSector)> = None;
    for (position, sector) in sectors.iter().enumerate() {
        let Some(sector) = *sector else { continue };
        result.valid = result.valid.saturating_add(1);
        if oldest.is_none_or(|(_, old)| before(sector, old)) {
            oldest = Some((position, sector));
        }
        if newest.is_none_or(|(_, new)| before(new, sector)) {
            newest = Some((position, sector));
        }
    }
    let (Some((oldest, _)), Some((newest, _))) = (oldest, newest) else {
        return result;
    };
    let mut slots = vec![FREE; usize::from(MAX_SLOTS)];
    let mut apply = |range: core::ops::RangeInclusive<usize>| {
        let positions = sectors
            .iter()
            .enumerate()
            .filter(|(i, _)| range.contains(i));
        for sector in positions.filter_map(|(_, sector)| *sector) {
            // The update is entry 0 and comes last.
            for [slot, extent] in sector.entries.iter().rev() {
                let held = usize::try_from(slot.get())
                    .ok()
                    .and_then(|slot| slots.get_mut(slot));
                if let (Some(held), true) = (held, extent.get() != FREE) {
                    *held = extent.get();
                }
            }
        }
    };
    if oldest <= newest {
        apply(oldest..=newest);
    } else {
        apply(oldest..=ring_size);
        apply(0..=newest);
    }
    slots.retain(|extent| *extent != FREE);
    slots.sort_unstable();
    slots.dedup();
    result.hot = slots;
    result
}

/// Replays a slot table in persistent memory; `None` if `area` does not begin with its magic number.
/// Only the first `al_nr_extents` slots count.
#[must_use]
pub fn replay_pmem(area: &[u8], al_nr_extents: u32) -> Option<Vec<u32>> {
    let (words, _) = area.as_chunks::<4>();
    let (magic, slots) = words.split_first()?;
    if u32::from_be_bytes(*magic) != PMEM_MAGIC {
        return None;
    }
    let count = usize::try_from(al_nr_extents).unwrap_or(usize::MAX);
    let mut hot: Vec<u32> = slots
        .iter()
        .take(count)
        .map(|extent| u32::from_be_bytes(*extent))
        .filter(|extent| *extent != FREE)
        .collect();
    hot.sort_unstable();
    hot.dedup();
    Some(hot)
}

/// Sectors of a default ring, for tests of the formula.
const _: () = assert!(DEFAULT_AL_EXTENTS.div_ceil(CONTEXT_ENTRIES) + 1 == 6);
