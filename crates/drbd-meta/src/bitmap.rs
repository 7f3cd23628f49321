//! Where the bits lie in the bitmap area (metadata, section 6).
//!
//! A bit says that a block of storage is, or may be, out of sync with one peer. Each peer has a
//! *slot*. A slot's bits form 32-bit little-endian words, and the words of all slots are interleaved:
//! bit `b` of slot `s` of `n` slots is bit `b mod 32` of word `(b / 32) * n + s` of the area. The
//! area is read and written in pages of 4 KiB.

use crate::Block;
use crate::geometry::{BitmapBlockSize, bitmap_bytes};
use crate::limits::{BLOCK_BYTES_U64, MAX_DEVICE_SECTORS, MAX_SLOTS};
use core::ops::Range;

/// 32-bit words of a page.
pub const WORDS_PER_PAGE: usize = 1024;
const WORDS_PER_PAGE_U64: u64 = 1024;

/// The bitmap of a device of a given size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BitmapLayout {
    slots: u8,
    block_size: BitmapBlockSize,
    sectors: u64,
    area_bytes: u64,
}

/// One bit's place in the area.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BitPosition {
    /// Byte offset from the start of the area.
    pub byte: u64,
    /// Bit in this byte, 0 = least significant.
    pub bit: u8,
}

/// The bits of one activity log extent, in all slots: the same `mask` in every 32-bit word of a
/// contiguous piece of the area.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExtentSpan {
    /// Bytes from the start of the area; whole 32-bit words.
    pub bytes: Range<u64>,
    /// The bits of each word.
    pub mask: u32,
}

/// An extent that starts behind the end of the bitmap.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("activity log extent {extent} is beyond the end of the bitmap ({byte} >= {area_bytes})")]
pub struct OutsideBitmap {
    /// The extent.
    pub extent: u32,
    /// Byte offset at which its bits would begin.
    pub byte: u64,
    /// Bytes of the bitmap.
    pub area_bytes: u64,
}

/// One slot's words within a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotWords {
    /// Number of the first of these words in the slot's own bit stream: it holds bits
    /// `32 * first_word ..`.
    pub first_word: u64,
    /// Position of the first word in the page, in words.
    pub offset: usize,
    /// Distance to the next, in words: the number of slots.
    pub stride: usize,
    /// Number of words of this slot in the page.
    pub count: usize,
}

impl BitmapLayout {
    /// The bitmap for a device of `sectors` sectors with `slots` slots, 1 ..= 32; `None` if there
    /// cannot be such a bitmap.
    #[must_use]
    pub fn new(slots: u8, block_size: BitmapBlockSize, sectors: u64) -> Option<Self> {
        if slots == 0 || slots > MAX_SLOTS || sectors > MAX_DEVICE_SECTORS {
            return None;
        }
        let area_bytes = bitmap_bytes(sectors, block_size, slots)?;
        Some(Self {
            slots,
            block_size,
            sectors,
            area_bytes,
        })
    }

    /// Slots, 1 ..= 32.
    #[must_use]
    pub const fn slots(&self) -> u8 {
        self.slots
    }

    /// Bytes of storage per bit.
    #[must_use]
    pub const fn block_size(&self) -> BitmapBlockSize {
        self.block_size
    }

    /// Size of the device in sectors.
    #[must_use]
    pub const fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Meaningful bits of a slot. What lies behind them is padding without meaning: it must be
    /// ignored when counting or sending.
    #[must_use]
    pub const fn bits(&self) -> u64 {
        self.block_size.bits(self.sectors)
    }

    /// 32-bit words of a slot, whole 64-bit words: the meaningful bits and the padding after them.
    #[must_use]
    pub const fn words(&self) -> u64 {
        (self.bits().saturating_add(63) >> 6) << 1
    }

    /// Bytes of all slots together, whole pages.
    #[must_use]
    pub const fn area_bytes(&self) -> u64 {
        self.area_bytes
    }

    /// Pages of the area.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        self.area_bytes / BLOCK_BYTES_U64
    }

    /// Where bit `bit` of slot `slot` lies; `None` if there is no such bit or slot.
    #[must_use]
    pub fn locate(&self, slot: u8, bit: u64) -> Option<BitPosition> {
        if slot >= self.slots || bit >= self.bits() {
            return None;
        }
        let word = (bit >> 5)
            .checked_mul(u64::from(self.slots))?
            .checked_add(u64::from(slot))?;
        let byte = word.checked_mul(4)?.checked_add((bit >> 3) & 3)?;
        Some(BitPosition {
            byte,
            bit: u8::try_from(bit & 7).ok()?,
        })
    }

    /// The page that holds word `word` (bits `32 * word ..`) of slot `slot`, and the word's position
    /// in the page in words; `None` if there is no such word or slot.
    #[must_use]
    pub fn locate_word(&self, slot: u8, word: u64) -> Option<(u64, usize)> {
        if slot >= self.slots || word >= self.words() {
            return None;
        }
        let word = word
            .checked_mul(u64::from(self.slots))?
            .checked_add(u64::from(slot))?;
        let offset = usize::try_from(word % WORDS_PER_PAGE_U64).ok()?;
        Some((word / WORDS_PER_PAGE_U64, offset))
    }

    /// The words of slot `slot` that page `page` holds, including padding up to the end of the
    /// area; `None` if there is no such page or slot.
    #[must_use]
    pub fn slot_words(&self, page: u64, slot: u8) -> Option<SlotWords> {
        if slot >= self.slots || page >= self.pages() {
            return None;
        }
        let stride = u64::from(self.slots);
        let slot = u64::from(slot);
        let start = page.checked_mul(WORDS_PER_PAGE_U64)?;
        // The first word number >= start that is congruent to the slot.
        let first_word = steps(start.saturating_sub(slot), stride)?;
        let position = first_word
            .checked_mul(stride)?
            .checked_add(slot)?
            .checked_sub(start)?;
        let left = WORDS_PER_PAGE_U64.saturating_sub(position);
        Some(SlotWords {
            first_word,
            offset: usize::try_from(position).ok()?,
            stride: usize::from(self.slots),
            count: usize::try_from(steps(left, stride)?).ok()?,
        })
    }

    /// The bits of the 4 MiB extent `extent`, in every slot, for marking a hot extent out of sync.
    /// Bits behind the end of the device, but in the same extent, are included.
    ///
    /// # Errors
    /// The extent starts at or after the end of the bitmap.
    pub fn extent_span(&self, extent: u32) -> Result<ExtentSpan, OutsideBitmap> {
        let per_extent = self.block_size.bits_per_extent();
        let slots = u64::from(self.slots);
        let first = u64::from(extent).saturating_mul(u64::from(per_extent));
        let group = slots.saturating_mul(4);
        let start = (first >> 5).saturating_mul(group);
        if start >= self.area_bytes {
            return Err(OutsideBitmap {
                extent,
                byte: start,
                area_bytes: self.area_bytes,
            });
        }
        let (words, mask) = if per_extent >= u32::BITS {
            (u64::from(per_extent >> 5), u32::MAX)
        } else {
            let ones = (1u32 << per_extent).wrapping_sub(1);
            let shift = u32::try_from(first & 31).unwrap_or(0);
            (1, ones << shift)
        };
        let end = start
            .saturating_add(words.saturating_mul(group))
            .min(self.area_bytes);
        Ok(ExtentSpan {
            bytes: start..end,
            mask,
        })
    }
}

/// How many steps of `stride` it takes to reach `distance` or go beyond; `None` for a stride of 0.
fn steps(distance: u64, stride: u64) -> Option<u64> {
    distance
        .checked_next_multiple_of(stride)?
        .checked_div(stride)
}

impl ExtentSpan {
    /// The pages that the span touches.
    #[must_use]
    pub const fn pages(&self) -> Range<u64> {
        self.bytes.start / BLOCK_BYTES_U64..self.bytes.end.div_ceil(BLOCK_BYTES_U64)
    }

    /// Sets the span's bits in the part of it that page `page` holds. Returns how many of the bits
    /// were clear before, over all slots.
    pub fn set_in_page(&self, page: u64, content: &mut Block) -> u32 {
        let base = page.saturating_mul(BLOCK_BYTES_U64);
        let within = |byte: u64| {
            let byte = byte.saturating_sub(base).min(BLOCK_BYTES_U64) / 4;
            usize::try_from(byte).unwrap_or(WORDS_PER_PAGE)
        };
        let (start, end) = (within(self.bytes.start), within(self.bytes.end));
        let (words, _) = content.as_chunks_mut::<4>();
        let mut newly_set = 0u32;
        for word in words.iter_mut().take(end).skip(start) {
            let old = u32::from_le_bytes(*word);
            *word = (old | self.mask).to_le_bytes();
            newly_set = newly_set.saturating_add((self.mask & !old).count_ones());
        }
        newly_set
    }
}

impl SlotWords {
    /// The slot's words in `page`, in the order of its bits.
    pub fn words<'a>(&self, page: &'a Block) -> impl Iterator<Item = u32> + use<'a> {
        let (words, _) = page.as_chunks::<4>();
        let picked = words
            .iter()
            .skip(self.offset)
            .step_by(self.stride.max(1))
            .take(self.count);
        picked.map(|word| u32::from_le_bytes(*word))
    }

    /// Copies the slot's words from `page` into `out`; returns how many were copied, which is less
    /// than [`count`](Self::count) only if `out` is shorter.
    pub fn extract(&self, page: &Block, out: &mut [u32]) -> usize {
        let mut copied = 0usize;
        for (to, from) in out.iter_mut().zip(self.words(page)) {
            *to = from;
            copied = copied.saturating_add(1);
        }
        copied
    }

    /// Stores `words` as the slot's words into `page` and leaves the other slots alone; returns how
    /// many were stored.
    pub fn insert(&self, words: &[u32], page: &mut Block) -> usize {
        let (chunks, _) = page.as_chunks_mut::<4>();
        let places = chunks
            .iter_mut()
            .skip(self.offset)
            .step_by(self.stride.max(1));
        let mut stored = 0usize;
        for (to, from) in places.take(self.count).zip(words) {
            *to = from.to_le_bytes();
            stored = stored.saturating_add(1);
        }
        stored
    }
}

#[cfg(test)]
mod tests;
