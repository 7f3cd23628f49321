//! One block of the ring: a transaction, or the mark of an initialised ring (metadata, section 5.1).

use super::{CONTEXT_SLOTS, FREE, MAX_SLOTS, MAX_UPDATES};
use crate::{Block, crc32c};
use core::mem::{offset_of, size_of};
use zerocopy::byteorder::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};
use zerocopy::{transmute_mut, transmute_ref};

const MAGIC: u32 = 0x69CB_65A2;
const TYPE_UPDATE: u16 = 0;
const TYPE_INITIALISED: u16 = 0xFFFF;
/// The slot number of an unused update entry.
const NO_SLOT: u16 = u16::MAX;

/// The layout of a block, big endian.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    magic: U32,
    tr_number: U32,
    crc32c: U32,
    transaction_type: U16,
    n_updates: U16,
    context_size: U16,
    context_start_slot_nr: U16,
    reserved: [U32; 4],
    update_slot_nr: [U16; MAX_UPDATES],
    update_extent_nr: [U32; MAX_UPDATES],
    context: [U32; CONTEXT_SLOTS as usize],
}

const _: () = {
    assert!(size_of::<Raw>() == 4096);
    assert!(offset_of!(Raw, crc32c) == 8 && offset_of!(Raw, transaction_type) == 12);
    assert!(offset_of!(Raw, reserved) == 20 && offset_of!(Raw, update_slot_nr) == 36);
    assert!(offset_of!(Raw, update_extent_nr) == 164 && offset_of!(Raw, context) == 420);
};

/// The fixed part of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AlHeader {
    /// Transaction number; counts up by one per block written and wraps.
    pub tr_number: u32,
    /// Slots in use, the configured `al-extents`.
    pub context_size: u16,
    /// First slot of the context window.
    pub context_start: u16,
}

/// One slot gets another extent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AlUpdate {
    /// The slot.
    pub slot: u16,
    /// The extent that it holds from now on, or [`FREE`].
    pub extent: u32,
}

/// A transaction that cannot be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AlEncodeError {
    /// Too many changes for one block.
    #[error("{0} changes do not fit into one activity log transaction: 64 do, use several")]
    TooManyUpdates(usize),
    /// A slot number that no reader would accept.
    #[error("activity log slot {0} is out of range: slots are numbered 0 to 65533")]
    Slot(u16),
}

impl AlHeader {
    /// Writes the transaction's block: `updates` (at most 64) over the slots' old content `context`,
    /// which begins with slot [`context_start`](Self::context_start) and is what the slots held
    /// *before* the updates. Of `context` at most 919 entries, and none beyond `context_size`, are
    /// taken.
    ///
    /// # Errors
    /// There are too many updates, or a slot number is out of range; `block` is then unspecified.
    pub fn encode(
        &self,
        updates: &[AlUpdate],
        context: impl IntoIterator<Item = u32>,
        block: &mut Block,
    ) -> Result<(), AlEncodeError> {
        if updates.len() > MAX_UPDATES {
            return Err(AlEncodeError::TooManyUpdates(updates.len()));
        }
        let n_updates = u16::try_from(updates.len())
            .map_err(|_| AlEncodeError::TooManyUpdates(updates.len()))?;
        block.fill(0);
        let raw: &mut Raw = transmute_mut!(block);
        raw.magic = MAGIC.into();
        raw.tr_number = self.tr_number.into();
        raw.transaction_type = TYPE_UPDATE.into();
        raw.n_updates = n_updates.into();
        raw.context_size = self.context_size.into();
        raw.context_start_slot_nr = self.context_start.into();
        raw.update_slot_nr = [NO_SLOT.into(); MAX_UPDATES];
        raw.update_extent_nr = [FREE.into(); MAX_UPDATES];
        raw.context = [FREE.into(); CONTEXT_SLOTS as usize];
        let entries = raw.update_slot_nr.iter_mut().zip(&mut raw.update_extent_nr);
        for (update, (slot, extent)) in updates.iter().zip(entries) {
            if update.slot >= MAX_SLOTS {
                return Err(AlEncodeError::Slot(update.slot));
            }
            *slot = update.slot.into();
            *extent = update.extent.into();
        }
        let window = usize::from(self.context_size.saturating_sub(self.context_start));
        for (to, from) in raw.context.iter_mut().take(window).zip(context) {
            *to = from.into();
        }
        seal(block);
        Ok(())
    }
}

/// The block of an initialised ring: no transaction, nothing hot.
#[must_use]
pub fn encode_initialised() -> Block {
    let mut block = [0; size_of::<Raw>()];
    let raw: &mut Raw = transmute_mut!(&mut block);
    raw.magic = MAGIC.into();
    raw.transaction_type = TYPE_INITIALISED.into();
    seal(&mut block);
    block
}

/// Stores the checksum; the field is zero while it is computed.
fn seal(block: &mut Block) {
    let crc = crc32c::update(0, block);
    let raw: &mut Raw = transmute_mut!(block);
    raw.crc32c = crc.into();
}

/// A valid block of the ring.
#[derive(Clone, Copy, Debug)]
pub enum AlBlock<'a> {
    /// The ring was initialised and not written here since.
    Initialised,
    /// A transaction.
    Transaction(AlTransaction<'a>),
}

/// Why a block is not valid. A torn write leaves such a block; replay tolerates it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AlBlockError {
    /// Not an activity log block.
    #[error("no activity log block: magic is {0:#010x}")]
    Magic(u32),
    /// Damaged, or torn while it was written.
    #[error("corrupt activity log block: checksum is {computed:#010x}, {stored:#010x} is stored")]
    Checksum {
        /// The stored checksum.
        stored: u32,
        /// The checksum of the content.
        computed: u32,
    },
}

impl<'a> AlBlock<'a> {
    /// Checks magic and checksum and looks at the content.
    ///
    /// # Errors
    /// The block is not valid.
    pub fn decode(block: &'a Block) -> Result<Self, AlBlockError> {
        let raw: &Raw = transmute_ref!(block);
        if raw.magic.get() != MAGIC {
            return Err(AlBlockError::Magic(raw.magic.get()));
        }
        // The sum over the block with a zero in place of the stored checksum.
        let after = block.get(12..).unwrap_or_default();
        let mut crc = crc32c::update(0, block.get(..8).unwrap_or_default());
        crc = crc32c::update(crc, &[0; 4]);
        crc = crc32c::update(crc, after);
        if crc != raw.crc32c.get() {
            return Err(AlBlockError::Checksum {
                stored: raw.crc32c.get(),
                computed: crc,
            });
        }
        if raw.transaction_type.get() == TYPE_INITIALISED {
            return Ok(Self::Initialised);
        }
        Ok(Self::Transaction(AlTransaction { raw }))
    }
}

/// A valid transaction, seen in its block.
#[derive(Clone, Copy)]
pub struct AlTransaction<'a> {
    raw: &'a Raw,
}

impl<'a> AlTransaction<'a> {
    /// The fixed part.
    #[must_use]
    pub fn header(&self) -> AlHeader {
        AlHeader {
            tr_number: self.raw.tr_number.get(),
            context_size: self.raw.context_size.get(),
            context_start: self.raw.context_start_slot_nr.get(),
        }
    }

    /// The stored checksum, which is right.
    #[must_use]
    pub fn crc32c(&self) -> u32 {
        self.raw.crc32c.get()
    }

    /// Whether the type is the one of transactions; another is taken for one all the same.
    #[must_use]
    pub fn has_known_type(&self) -> bool {
        self.raw.transaction_type.get() == TYPE_UPDATE
    }

    /// The transaction type as stored.
    #[must_use]
    pub fn transaction_type(&self) -> u16 {
        self.raw.transaction_type.get()
    }

    /// The number of updates as stored; more than 64 means 64.
    #[must_use]
    pub fn n_updates(&self) -> u16 {
        self.raw.n_updates.get()
    }

    /// The changes. Entries beyond the stored count are left out if they are unused.
    pub fn updates(&self) -> impl Iterator<Item = AlUpdate> + use<'a> {
        let count = self.raw.n_updates.get();
        let entries = self
            .raw
            .update_slot_nr
            .iter()
            .zip(&self.raw.update_extent_nr);
        (0u16..)
            .zip(entries)
            .filter_map(move |(i, (slot, extent))| {
                let update = AlUpdate {
                    slot: slot.get(),
                    extent: extent.get(),
                };
                (i < count || update.slot != NO_SLOT).then_some(update)
            })
    }

    /// What the slots of the window held before the changes, as pairs of slot number and extent;
    /// [`FREE`] for a free slot. Free entries beyond the slots in use are left out.
    pub fn context(&self) -> impl Iterator<Item = (u32, u32)> + use<'a> {
        let start = u32::from(self.raw.context_start_slot_nr.get());
        let size = u32::from(self.raw.context_size.get());
        (start..)
            .zip(&self.raw.context)
            .filter_map(move |(slot, extent)| {
                let extent = extent.get();
                (extent != FREE || slot < size).then_some((slot, extent))
            })
    }
}

impl core::fmt::Debug for AlTransaction<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("AlTransaction")
            .field("header", &self.header())
            .field("n_updates", &self.n_updates())
            .finish_non_exhaustive()
    }
}
