//! The activity log: a ring of 4 KiB blocks that says which 4 MiB extents may be hot, that is, hold
//! writes that the bitmap does not show yet (metadata, section 5).
//!
//! * [`transaction`]: one block, encoded and decoded.
//! * [`layout`]: which block of the ring belongs to a transaction number.
//! * [`mod@replay`]: what was hot when the node crashed.
//! * [`legacy`]: the formats of DRBD 0.7 to 8.3 and of persistent memory, for reading.
//!
//! Which extents become hot, and which slot each takes, is decided elsewhere.

pub mod layout;
pub mod legacy;
pub mod replay;
pub mod transaction;

pub use layout::{AlLayout, next_context_start};
pub use replay::{Replay, ReplayError, replay};
pub use transaction::{
    AlBlock, AlBlockError, AlEncodeError, AlHeader, AlTransaction, AlUpdate, encode_initialised,
};

use crate::limits::EXTENT_SECTOR_SHIFT;

/// The extent number that marks a slot as free.
pub const FREE: u32 = u32::MAX;
/// Changes that fit into one transaction.
pub const MAX_UPDATES: usize = 64;
/// Slots that the context of one transaction describes.
pub const CONTEXT_SLOTS: u16 = 919;
/// Most slots: slot numbers are `0..MAX_SLOTS`.
pub const MAX_SLOTS: u16 = 65534;
/// Fewest slots (`al-extents`).
pub const MIN_SLOTS: u16 = 67;

/// The extent that sector `sector` lies in; `None` beyond the largest device.
#[must_use]
pub fn extent_of_sector(sector: u64) -> Option<u32> {
    u32::try_from(sector >> EXTENT_SECTOR_SHIFT)
        .ok()
        .filter(|extent| *extent != FREE)
}
