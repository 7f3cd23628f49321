//! The bitmap: per slot one bit per block that is, or may be, out of sync with a peer.
//!
//! All slots of a volume lie interleaved in one array of 32-bit words, in memory as on the disk (data
//! path, section 14.1): word `(bit / 32) * max_peers + slot`, bit `bit mod 32`. [`Bitmap`] keeps the
//! array, the weight of every slot, and for every 4 KiB page two marks that say whether it has to be
//! written. [`wire`] translates from and to the 4 KiB bits of the bitmap exchange.
//!
//! Setting rounds outwards, clearing only takes blocks that are covered completely; nothing but
//! `clear*`, `copy` and shrinking ever clears a bit (data path, invariants M5 and M6). Bits at and
//! beyond the number of bits are always zero (M7).

use alloc::boxed::Box;
use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::ops::{Range, RangeInclusive};

use drbd_proto::Sector;

use crate::activity_log::{EXTENT_SECTOR_SHIFT, ExtentNr};

mod pages;
pub mod wire;

#[cfg(test)]
mod tests;

pub use pages::{Mark, PAGE_BYTES, PageNr};

/// Most slots that metadata can have (data path, section 1).
pub const MAX_SLOTS: u8 = 32;

/// Number of a bitmap slot, below the number of slots of the metadata (`max_peers`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Slot(pub u8);

/// Number of a bit, that is of a block of the data area.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BitNr(pub u64);

/// What the bits of a grown area are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fill {
    /// In sync.
    Clear,
    /// Out of sync.
    Set,
}

/// A bitmap could not be made or resized.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BitmapError {
    /// Number of slots out of range.
    #[error("metadata has {0} bitmap slots, must be 1 to 32")]
    Slots(u8),
    /// Block size out of range.
    #[error("bitmap block size is {0} bytes, must be a power of two from 4096 to 1048576")]
    BlockSize(u32),
    /// No memory.
    #[error("no memory for a bitmap of {0} bytes: use a larger bitmap block size")]
    Memory(u64),
}

/// The bitmap of one volume, all slots.
pub struct Bitmap {
    /// `rows * slots` words.
    words: Vec<u32>,
    slots: u8,
    /// log2 of the sectors per bit.
    spb_shift: u32,
    /// Size of the device in sectors.
    capacity: u64,
    bits: u64,
    weights: [u64; MAX_SLOTS as usize],
    marks: pages::Marks,
}

impl Bitmap {
    /// A bitmap without set bits for a device of `capacity` sectors, with `block_size` bytes per bit
    /// and `slots` slots (`max_peers`).
    ///
    /// # Errors
    /// Slots or block size are out of range, or there is no memory.
    pub fn new(capacity: u64, block_size: u32, slots: u8) -> Result<Self, BitmapError> {
        if !(1..=MAX_SLOTS).contains(&slots) {
            return Err(BitmapError::Slots(slots));
        }
        if !block_size.is_power_of_two() || !(4096..=1 << 20).contains(&block_size) {
            return Err(BitmapError::BlockSize(block_size));
        }
        let mut bitmap = Bitmap {
            words: Vec::new(),
            slots,
            spb_shift: block_size.trailing_zeros() - 9,
            capacity: 0,
            bits: 0,
            weights: [0; MAX_SLOTS as usize],
            marks: pages::Marks::default(),
        };
        bitmap.resize(capacity, Fill::Clear)?;
        Ok(bitmap)
    }

    /// Changes the size of the device. New bits of all slots are set or clear as `fill` says; bits
    /// beyond a smaller device are gone. Pages are marked where bits changed; the caller marks
    /// [all](Self::mark_all) if the bitmap moves on the medium.
    ///
    /// # Errors
    /// No memory; nothing has changed then.
    pub fn resize(&mut self, capacity: u64, fill: Fill) -> Result<(), BitmapError> {
        let bits = capacity.div_ceil(1 << self.spb_shift);
        // The medium has words up to the next multiple of 64 bits (metadata, section 6.1).
        let words = bits.div_ceil(64).saturating_mul(2 * u64::from(self.slots));
        let memory = |_: TryReserveError| BitmapError::Memory(words.saturating_mul(4));
        let len = usize::try_from(words).map_err(|_| BitmapError::Memory(u64::MAX))?;
        if bits < self.bits {
            for slot in self.all_slots() {
                self.clear_bits(slot, BitNr(bits)..=BitNr(self.bits - 1));
            }
        }
        self.words
            .try_reserve_exact(len.saturating_sub(self.words.len()))
            .map_err(memory)?;
        self.marks.resize(len).map_err(memory)?;
        self.words.resize(len, 0);
        self.bits = bits;
        let old = core::mem::replace(&mut self.capacity, capacity);
        if fill == Fill::Set && old < capacity {
            // A partial last block gets new sectors, too.
            let first = BitNr(old >> self.spb_shift);
            for slot in self.all_slots() {
                self.set_bits(slot, first..=BitNr(bits - 1));
            }
        }
        Ok(())
    }

    /// Size of the device in sectors.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Bits per slot.
    pub fn bits(&self) -> u64 {
        self.bits
    }

    /// Number of slots, `max_peers`.
    pub fn slots(&self) -> u8 {
        self.slots
    }

    /// All slots, assigned or not.
    pub fn all_slots(&self) -> impl Iterator<Item = Slot> + use<> {
        (0..self.slots).map(Slot)
    }

    /// Sectors per bit.
    pub fn sectors_per_bit(&self) -> u64 {
        1 << self.spb_shift
    }

    /// Bytes per bit.
    pub fn block_size(&self) -> u32 {
        512 << self.spb_shift
    }

    /// The sectors of a run of bits, cut at the end of the device.
    pub fn sectors(&self, bits: &RangeInclusive<BitNr>) -> Range<Sector> {
        let end = bits
            .end()
            .0
            .saturating_add(1)
            .saturating_mul(self.sectors_per_bit());
        let end = end.min(self.capacity);
        let start = bits
            .start()
            .0
            .saturating_mul(self.sectors_per_bit())
            .min(end);
        Sector(start)..Sector(end)
    }

    /// The bits that `len` bytes from `sector` on touch: rounding of setting and counting (data path,
    /// section 14.2). Cut at the end of the device; `None` if nothing is left.
    pub fn touched(&self, sector: Sector, len: u32) -> Option<RangeInclusive<BitNr>> {
        let end = self.end_sector(sector, len)?;
        Some(BitNr(sector.0 >> self.spb_shift)..=BitNr((end - 1) >> self.spb_shift))
    }

    /// The bits that `len` bytes from `sector` on cover completely: rounding of clearing (data path,
    /// section 14.2). The last block of the device may be a partial one.
    pub fn covered(&self, sector: Sector, len: u32) -> Option<RangeInclusive<BitNr>> {
        let end = self.end_sector(sector, len)?;
        let first = sector.0.div_ceil(self.sectors_per_bit());
        let behind = if end == self.capacity {
            self.bits
        } else {
            end >> self.spb_shift
        };
        (first < behind).then(|| BitNr(first)..=BitNr(behind - 1))
    }

    /// The bits of an activity log extent, cut at the end of the device.
    pub fn bits_of_extent(&self, extent: ExtentNr) -> Option<RangeInclusive<BitNr>> {
        self.touched(extent.first_sector(), 512 << EXTENT_SECTOR_SHIFT)
    }

    /// First sector behind the range, at most the capacity.
    fn end_sector(&self, sector: Sector, len: u32) -> Option<u64> {
        let sectors = u64::from(len).div_ceil(512);
        let end = sector.0.saturating_add(sectors).min(self.capacity);
        (sectors > 0 && sector.0 < end).then_some(end)
    }

    /// Marks every block out of sync that the range touches. Returns how many were in sync.
    ///
    /// # Panics
    /// Here and below: if there is no such slot.
    pub fn set(&mut self, slot: Slot, sector: Sector, len: u32) -> u64 {
        self.touched(sector, len)
            .map_or(0, |bits| self.set_bits(slot, bits))
    }

    /// [`set`](Self::set) in all slots, unassigned ones included. Returns how many bits were in sync,
    /// summed over the slots.
    pub fn set_in_all(&mut self, sector: Sector, len: u32) -> u64 {
        self.all_slots()
            .map(|slot| self.set(slot, sector, len))
            .sum()
    }

    /// Marks every block in sync that the range covers completely. Returns how many were not.
    pub fn clear(&mut self, slot: Slot, sector: Sector, len: u32) -> u64 {
        self.covered(sector, len)
            .map_or(0, |bits| self.clear_bits(slot, bits))
    }

    /// Sets a run of bits, cut at the end of the bitmap. Returns how many were clear.
    pub fn set_bits(&mut self, slot: Slot, bits: RangeInclusive<BitNr>) -> u64 {
        let mut changed = 0;
        for (row, mask) in self.masks(bits) {
            let index = self.index(row, slot);
            let word = self.words[index];
            if mask & !word != 0 {
                changed += u64::from((mask & !word).count_ones());
                self.words[index] = word | mask;
                self.marks.mark(index, Mark::Need);
            }
        }
        self.weights[usize::from(slot.0)] += changed;
        changed
    }

    /// Clears a run of bits, cut at the end of the bitmap. Returns how many were set.
    pub fn clear_bits(&mut self, slot: Slot, bits: RangeInclusive<BitNr>) -> u64 {
        let mut changed = 0;
        for (row, mask) in self.masks(bits) {
            let index = self.index(row, slot);
            let word = self.words[index];
            if mask & word != 0 {
                changed += u64::from((mask & word).count_ones());
                self.words[index] = word & !mask;
                self.marks.mark(index, Mark::Lazy);
            }
        }
        self.weights[usize::from(slot.0)] -= changed;
        changed
    }

    /// Sets all bits of a slot.
    pub fn set_all(&mut self, slot: Slot) -> u64 {
        self.set_bits(slot, BitNr(0)..=BitNr(u64::MAX))
    }

    /// Sets all bits of all slots.
    pub fn set_all_slots(&mut self) {
        for slot in self.all_slots() {
            self.set_all(slot);
        }
    }

    /// Clears all bits of a slot.
    pub fn clear_all(&mut self, slot: Slot) -> u64 {
        self.clear_bits(slot, BitNr(0)..=BitNr(u64::MAX))
    }

    /// Clears all bits of all slots.
    pub fn clear_all_slots(&mut self) {
        for slot in self.all_slots() {
            self.clear_all(slot);
        }
    }

    /// Makes slot `to` equal to slot `from`.
    pub fn copy(&mut self, from: Slot, to: Slot) {
        for row in 0..self.rows() {
            let word = self.words[self.index(row, from)];
            let index = self.index(row, to);
            if self.words[index] != word {
                self.words[index] = word;
                self.marks.mark(index, Mark::Need);
            }
        }
        self.weights[usize::from(to.0)] = self.weight(from);
    }

    /// Sets in slot `to` all bits that are set in slot `from`.
    pub fn merge_slot(&mut self, from: Slot, to: Slot) {
        let mut at = self.next_set(from, BitNr(0));
        while let Some(first) = at {
            let end = self.next_clear(from, first).map_or(self.bits, |end| end.0);
            self.set_bits(to, first..=BitNr(end - 1));
            at = self.next_set(from, BitNr(end));
        }
    }

    /// Number of set bits of a slot; costs nothing.
    pub fn weight(&self, slot: Slot) -> u64 {
        assert!(slot.0 < self.slots, "slot {} of {}", slot.0, self.slots);
        self.weights[usize::from(slot.0)]
    }

    /// Whether all bits of all slots are set (data path, section 13.6: the activity log can rest).
    pub fn is_full(&self) -> bool {
        self.all_slots().all(|slot| self.weight(slot) == self.bits)
    }

    /// Whether a bit is set; false beyond the end.
    pub fn is_set(&self, slot: Slot, bit: BitNr) -> bool {
        bit.0 < self.bits && self.word(bit.0 / 32, slot) >> (bit.0 % 32) & 1 == 1
    }

    /// Number of blocks that are out of sync among those the range touches.
    pub fn count(&self, slot: Slot, sector: Sector, len: u32) -> u64 {
        self.touched(sector, len)
            .map_or(0, |bits| self.count_bits(slot, bits))
    }

    /// Whether the range touches a block that is out of sync.
    pub fn any(&self, slot: Slot, sector: Sector, len: u32) -> bool {
        self.touched(sector, len)
            .is_some_and(|bits| self.any_bits(slot, bits))
    }

    /// Number of set bits in a run.
    pub fn count_bits(&self, slot: Slot, bits: RangeInclusive<BitNr>) -> u64 {
        self.masks(bits)
            .map(|(row, mask)| u64::from((self.word(row, slot) & mask).count_ones()))
            .sum()
    }

    /// Whether a bit of a run is set.
    pub fn any_bits(&self, slot: Slot, bits: RangeInclusive<BitNr>) -> bool {
        self.masks(bits)
            .any(|(row, mask)| self.word(row, slot) & mask != 0)
    }

    /// The first set bit at or after `from`.
    pub fn next_set(&self, slot: Slot, from: BitNr) -> Option<BitNr> {
        if self.weight(slot) == 0 {
            return None;
        }
        self.find(slot, from, |word| word)
    }

    /// The first clear bit at or after `from`.
    pub fn next_clear(&self, slot: Slot, from: BitNr) -> Option<BitNr> {
        self.find(slot, from, |word| !word)
    }

    fn find(&self, slot: Slot, from: BitNr, view: impl Fn(u32) -> u32) -> Option<BitNr> {
        self.masks(from..=BitNr(u64::MAX)).find_map(|(row, mask)| {
            let word = view(self.word(row, slot)) & mask;
            (word != 0).then(|| BitNr(row * 32 + u64::from(word.trailing_zeros())))
        })
    }

    /// The rows of words that a run of bits lies in, each with the mask of the run in that row.
    fn masks(&self, bits: RangeInclusive<BitNr>) -> impl Iterator<Item = (u64, u32)> + use<> {
        let (first, last) = (bits.start().0, bits.end().0);
        let behind = last.saturating_add(1).min(self.bits);
        let rows = if first < behind {
            first / 32..behind.div_ceil(32)
        } else {
            0..0
        };
        rows.map(move |row| {
            let start = row * 32;
            let mut mask = u32::MAX;
            if first > start {
                mask &= u32::MAX << (first - start);
            }
            if behind < start + 32 {
                mask &= !(u32::MAX << (behind - start));
            }
            (row, mask)
        })
    }

    /// Rows of words that hold bits of the device.
    fn rows(&self) -> u64 {
        self.bits.div_ceil(32)
    }

    fn index(&self, row: u64, slot: Slot) -> usize {
        assert!(slot.0 < self.slots, "slot {} of {}", slot.0, self.slots);
        // Rows are below the length of the array, which is a `usize`.
        row as usize * usize::from(self.slots) + usize::from(slot.0)
    }

    fn word(&self, row: u64, slot: Slot) -> u32 {
        self.words[self.index(row, slot)]
    }

    /// The mask of valid bits of the word at an index of the array.
    fn valid(&self, index: usize) -> u32 {
        let start = (index / usize::from(self.slots)) as u64 * 32;
        match self.bits.saturating_sub(start) {
            0 => 0,
            n @ 1..32 => !(u32::MAX << n),
            _ => u32::MAX,
        }
    }
}

/// A page of zeroes on the heap.
fn zero_page() -> Box<[u8; PAGE_BYTES]> {
    Box::new([0; PAGE_BYTES])
}

impl core::fmt::Debug for Bitmap {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Bitmap")
            .field("bits", &self.bits)
            .field("weights", &&self.weights[..usize::from(self.slots)])
            .finish_non_exhaustive()
    }
}
