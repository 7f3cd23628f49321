//! Replay: which extents were hot when the ring was last written (metadata, section 5.5).
//!
//! The ring is read twice, first for the oldest and the newest transaction, then from the one to the
//! other, so that a ring of any size needs no memory for its blocks.

use super::layout::AlLayout;
use super::transaction::AlBlock;
use super::{FREE, MAX_SLOTS};
use crate::Block;
use crate::limits::BLOCK_BYTES;
use alloc::vec::Vec;

/// What the ring says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Replay {
    /// The hot extents, ascending, each once. The bits of each must be set in **every** bitmap slot,
    /// assigned or not.
    pub hot: Vec<u32>,
    /// Valid transactions.
    pub transactions: u32,
    /// Blocks of an initialised ring.
    pub initialised: u32,
    /// Invalid blocks. A torn newest block is normal and harmless.
    pub corrupt: u32,
    /// Number of the newest transaction.
    pub newest: Option<u32>,
    /// Slot numbers out of range, which were ignored: (transaction, slot, in an update).
    pub ignored_slots: Vec<(u32, u32, bool)>,
    /// Transactions of an unknown type, which were taken as updates: (transaction, type).
    pub unknown_types: Vec<(u32, u16)>,
}

impl Replay {
    /// The number that a writer continues with if it goes on with this ring as it is. Its block is
    /// [`AlLayout::transaction_sector`]. After re-initialising the ring, numbers begin with 0.
    #[must_use]
    pub fn next_tr_number(&self) -> u32 {
        self.newest.map_or(0, |newest| newest.wrapping_add(1))
    }
}

/// Why the ring cannot be replayed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReplayError<E> {
    /// No block is valid.
    #[error("no usable activity log found: create the metadata with create-md")]
    NoUsableLog {
        /// Invalid blocks, the whole ring.
        corrupt: u32,
    },
    /// No valid transaction, and not just the first one torn.
    #[error("no valid activity log transaction found, and {corrupt} blocks are corrupt")]
    NoTransaction {
        /// Invalid blocks.
        corrupt: u32,
    },
    /// Memory for the slots was refused.
    #[error("out of memory while replaying the activity log")]
    OutOfMemory,
    /// A block could not be read.
    #[error("cannot read activity log block {block}: {error}")]
    Read {
        /// The block, in the order of the disk.
        block: u32,
        /// What the reader said.
        error: E,
    },
}

/// Most diagnostics that are kept of one kind.
const MAX_DIAGNOSTICS: usize = 64;

/// Replays the ring. `read` fetches a block by its number in the order of the disk
/// (`0..layout.blocks()`, at [`AlLayout::block_sector`]).
///
/// A fresh ring is expected to be written from block 0 on: only there a single torn block among
/// initialised ones is known to be a first transaction that did not complete. A writer that starts
/// elsewhere in a fresh ring risks [`ReplayError::NoTransaction`] after a crash.
///
/// # Errors
/// Nothing can be said about the hot extents. That is fatal only if the superblock demands the
/// replay ([`must_apply_al`](crate::superblock::Superblock::must_apply_al)); otherwise the ring is
/// simply to be initialised again.
pub fn replay<E>(
    layout: &AlLayout,
    mut read: impl FnMut(u32, &mut Block) -> Result<(), E>,
) -> Result<Replay, ReplayError<E>> {
    let mut result = Replay::default();
    let mut block = [0; BLOCK_BYTES];
    let mut read_at = |position: u32, block: &mut Block| {
        let number = layout.block_of_position(position);
        read(number, block).map_err(|error| ReplayError::Read {
            block: number,
            error,
        })
    };

    // (transaction number, position in the ring)
    let mut oldest: Option<(u32, u32)> = None;
    let mut newest: Option<(u32, u32)> = None;
    let mut first_is_corrupt = false;
    for position in 0..layout.blocks() {
        read_at(position, &mut block)?;
        match AlBlock::decode(&block) {
            Err(_) => {
                result.corrupt = result.corrupt.saturating_add(1);
                first_is_corrupt |= position == 0;
            }
            Ok(AlBlock::Initialised) => result.initialised = result.initialised.saturating_add(1),
            Ok(AlBlock::Transaction(transaction)) => {
                result.transactions = result.transactions.saturating_add(1);
                let number = transaction.header().tr_number;
                if oldest.is_none_or(|(old, _)| is_before(number, old)) {
                    oldest = Some((number, position));
                }
                if newest.is_none_or(|(new, _)| is_before(new, number)) {
                    newest = Some((number, position));
                }
            }
        }
    }
    let (Some((_, oldest)), Some((number, newest))) = (oldest, newest) else {
        // Only the very first transaction can have been torn in a fresh ring.
        let torn_first = result.corrupt == 1 && first_is_corrupt;
        return match (result.initialised, result.corrupt) {
            (0, corrupt) => Err(ReplayError::NoUsableLog { corrupt }),
            (_, 0) => Ok(result),
            (_, _) if torn_first => Ok(result),
            (_, corrupt) => Err(ReplayError::NoTransaction { corrupt }),
        };
    };
    result.newest = Some(number);

    // As long as the highest slot in use.
    let mut slots: Vec<u32> = Vec::new();
    let mut position = oldest;
    loop {
        read_at(position, &mut block)?;
        if let Ok(AlBlock::Transaction(transaction)) = AlBlock::decode(&block) {
            let number = transaction.header().tr_number;
            if !transaction.has_known_type() && result.unknown_types.len() < MAX_DIAGNOSTICS {
                result
                    .unknown_types
                    .push((number, transaction.transaction_type()));
            }
            let context = transaction
                .context()
                .map(|(slot, extent)| (slot, extent, false));
            let updates = transaction
                .updates()
                .map(|u| (u32::from(u.slot), u.extent, true));
            for (slot, extent, is_update) in context.chain(updates) {
                let slot_index = usize::try_from(slot)
                    .ok()
                    .filter(|i| *i < usize::from(MAX_SLOTS));
                if let Some(len) = slot_index.map(|i| i.saturating_add(1))
                    && len > slots.len()
                {
                    (slots.try_reserve(len.saturating_sub(slots.len())))
                        .map_err(|_| ReplayError::OutOfMemory)?;
                    slots.resize(len, FREE);
                }
                match slot_index.and_then(|i| slots.get_mut(i)) {
                    Some(held) => *held = extent,
                    None if result.ignored_slots.len() < MAX_DIAGNOSTICS => {
                        result.ignored_slots.push((number, slot, is_update));
                    }
                    None => {}
                }
            }
        }
        if position == newest {
            break;
        }
        position = position.wrapping_add(1);
        if position >= layout.blocks() {
            position = 0;
        }
    }
    slots.retain(|extent| *extent != FREE);
    slots.sort_unstable();
    slots.dedup();
    result.hot = slots;
    Ok(result)
}

/// Whether transaction `a` is older than `b`, across the wrap of the numbers.
fn is_before(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() < 0
}

/// Replays a ring that lies in memory, in the order of the disk. `area` has `layout.blocks()` blocks.
///
/// # Errors
/// Those of [`replay`]; a missing block counts as a failed read.
pub fn replay_area(layout: &AlLayout, area: &[u8]) -> Result<Replay, ReplayError<ShortArea>> {
    let (blocks, _) = area.as_chunks::<BLOCK_BYTES>();
    replay(layout, |number, block| {
        let found = usize::try_from(number)
            .ok()
            .and_then(|n| blocks.get(n))
            .ok_or(ShortArea)?;
        block.copy_from_slice(found);
        Ok(())
    })
}

/// The memory given as the ring has fewer blocks than the ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the activity log was not given completely")]
pub struct ShortArea;
