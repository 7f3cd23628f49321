//! The ring: transaction numbers, blocks, stripes and the context window (metadata, sections 5.2
//! and 5.4).

use super::{CONTEXT_SLOTS, MAX_SLOTS};
use crate::geometry::{AlStriping, Geometry};

/// Above this many blocks the ring can describe any number of slots.
const BLOCKS_FOR_ALL_SLOTS: u32 = 72;

/// Where the blocks of the ring lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AlLayout {
    first_sector: u64,
    striping: AlStriping,
}

impl AlLayout {
    /// A ring whose first block is at sector `first_sector` of the metadata device.
    #[must_use]
    pub const fn new(first_sector: u64, striping: AlStriping) -> Self {
        Self {
            first_sector,
            striping,
        }
    }

    /// Blocks of the ring, at least 8.
    #[must_use]
    pub const fn blocks(&self) -> u32 {
        self.striping.blocks()
    }

    /// First sector of the ring.
    #[must_use]
    pub const fn first_sector(&self) -> u64 {
        self.first_sector
    }

    /// Most slots (`al-extents`) that this ring can describe: the newest block may be torn, and the
    /// context of the others must still name every slot.
    #[must_use]
    pub fn max_slots(&self) -> u16 {
        let blocks = self.blocks();
        if blocks > BLOCKS_FOR_ALL_SLOTS {
            return MAX_SLOTS;
        }
        let slots = blocks
            .saturating_sub(1)
            .saturating_mul(u32::from(CONTEXT_SLOTS));
        u16::try_from(slots).unwrap_or(MAX_SLOTS).min(MAX_SLOTS)
    }

    /// The block, in the order of the disk, at logical position `position` of the ring: consecutive
    /// transactions go round-robin to the stripes. Positions count modulo the ring.
    #[must_use]
    pub fn block_of_position(&self, position: u32) -> u32 {
        let position = position.checked_rem(self.blocks()).unwrap_or(0);
        let stripes = self.striping.stripes();
        let stripe = position.checked_rem(stripes).unwrap_or(0);
        let row = position.checked_div(stripes).unwrap_or(0);
        stripe
            .saturating_mul(self.striping.stripe_size_4k())
            .saturating_add(row)
    }

    /// The sector at which block `block` (order of the disk) begins.
    #[must_use]
    pub fn block_sector(&self, block: u32) -> u64 {
        self.first_sector
            .saturating_add(u64::from(block).saturating_mul(8))
    }

    /// The sector at which transaction `tr_number` is written.
    #[must_use]
    pub fn transaction_sector(&self, tr_number: u32) -> u64 {
        self.block_sector(self.block_of_position(tr_number))
    }
}

impl From<&Geometry> for AlLayout {
    fn from(geometry: &Geometry) -> Self {
        Self::new(geometry.al_sector(), geometry.striping())
    }
}

/// The first slot of the context window after the one that started at `current`: the window moves by
/// 919 slots with every transaction and wraps at `slots` (the `al-extents` in use).
#[must_use]
pub fn next_context_start(current: u16, slots: u16) -> u16 {
    current
        .checked_add(CONTEXT_SLOTS)
        .filter(|next| *next < slots)
        .unwrap_or(0)
}
