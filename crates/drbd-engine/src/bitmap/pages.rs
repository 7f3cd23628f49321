//! The pages of the bitmap as they lie on the disk, and which of them have to be written.
//!
//! A page has two marks (data path, section 14.5): *need* if bits were set since it was last taken,
//! *lazy* if bits were cleared. A write clears both.

use alloc::boxed::Box;
use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use super::{Bitmap, Slot, zero_page};
use crate::activity_log::ExtentNr;

/// Bytes of a page.
pub const PAGE_BYTES: usize = 4096;
const PAGE_WORDS: usize = PAGE_BYTES / 4;

/// Number of a page of the bitmap area.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PageNr(pub u64);

/// Why a page has to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    /// Bits were set.
    Need,
    /// Bits were cleared: losing that only costs work.
    Lazy,
}

/// One bit per page and mark.
#[derive(Default)]
pub(super) struct Marks {
    need: Vec<u64>,
    lazy: Vec<u64>,
}

impl Marks {
    /// For a bitmap of `words` words.
    pub(super) fn resize(&mut self, words: usize) -> Result<(), TryReserveError> {
        let pages = words.div_ceil(PAGE_WORDS);
        let len = pages.div_ceil(64);
        self.need
            .try_reserve_exact(len.saturating_sub(self.need.len()))?;
        self.lazy
            .try_reserve_exact(len.saturating_sub(self.lazy.len()))?;
        for marks in [&mut self.need, &mut self.lazy] {
            marks.resize(len, 0);
            // No marks beyond the end after shrinking.
            if let Some(last) = marks.last_mut().filter(|_| !pages.is_multiple_of(64)) {
                *last &= !(u64::MAX << (pages % 64));
            }
        }
        Ok(())
    }

    /// Marks the page of the word at `index`.
    pub(super) fn mark(&mut self, index: usize, mark: Mark) {
        let page = index / PAGE_WORDS;
        let marks = match mark {
            Mark::Need => &mut self.need,
            Mark::Lazy => &mut self.lazy,
        };
        if let Some(word) = marks.get_mut(page / 64) {
            *word |= 1 << (page % 64);
        }
    }

    fn either(&self, chunk: usize) -> u64 {
        self.need.get(chunk).unwrap_or(&0) | self.lazy.get(chunk).unwrap_or(&0)
    }

    /// Removes both marks; whether there was one.
    fn unmark(&mut self, page: usize) -> bool {
        let bit = 1 << (page % 64);
        let marked = self.either(page / 64) & bit != 0;
        for marks in [&mut self.need, &mut self.lazy] {
            if let Some(word) = marks.get_mut(page / 64) {
                *word &= !bit;
            }
        }
        marked
    }
}

impl Bitmap {
    /// Number of pages on the medium; the last one may reach beyond the end of the bitmap, with zeroes.
    pub fn pages(&self) -> u64 {
        self.words.len().div_ceil(PAGE_WORDS) as u64
    }

    /// The pages that hold the bits of an activity log extent, for all slots.
    pub fn pages_of_extent(&self, extent: ExtentNr) -> impl Iterator<Item = PageNr> + use<> {
        let range = self.bits_of_extent(extent).map(|bits| self.pages_of(&bits));
        range.into_iter().flatten().map(PageNr)
    }

    fn pages_of(&self, bits: &RangeInclusive<super::BitNr>) -> RangeInclusive<u64> {
        let first = self.index(bits.start().0 / 32, Slot(0));
        let last = self.index(bits.end().0 / 32, Slot(self.slots - 1));
        (first / PAGE_WORDS) as u64..=(last / PAGE_WORDS) as u64
    }

    /// The pages with a mark, in ascending order; given one, only those that carry it.
    pub fn marked(&self, mark: Option<Mark>) -> impl Iterator<Item = PageNr> + '_ {
        let chunks = self.marks.need.len();
        (0..chunks).flat_map(move |chunk| {
            let mut rest = match mark {
                None => self.marks.either(chunk),
                Some(Mark::Need) => self.marks.need[chunk],
                Some(Mark::Lazy) => self.marks.lazy[chunk],
            };
            core::iter::from_fn(move || {
                let bit = (rest != 0).then(|| u64::from(rest.trailing_zeros()))?;
                rest &= rest - 1;
                Some(PageNr(chunk as u64 * 64 + bit))
            })
        })
    }

    /// Whether no page has a mark.
    pub fn is_clean(&self) -> bool {
        self.marks
            .need
            .iter()
            .chain(&self.marks.lazy)
            .all(|&word| word == 0)
    }

    /// Takes a page for writing: its content, with both marks removed. `None` if it has no mark.
    pub fn take(&mut self, page: PageNr) -> Option<Box<[u8; PAGE_BYTES]>> {
        let nr = usize::try_from(page.0).ok()?;
        self.marks.unmark(nr).then(|| self.page(page))
    }

    /// Marks a page again whose write failed, or one to be written whatever it holds.
    pub fn mark(&mut self, page: PageNr) {
        if page.0 < self.pages() {
            self.marks.mark(page.0 as usize * PAGE_WORDS, Mark::Need);
        }
    }

    /// Marks all pages, as when the bitmap moves on the medium.
    pub fn mark_all(&mut self) {
        (0..self.pages()).for_each(|page| self.mark(PageNr(page)));
    }

    /// Forgets all marks, as after reading the bitmap from the disk.
    pub fn unmark_all(&mut self) {
        self.marks.need.fill(0);
        self.marks.lazy.fill(0);
    }

    /// The words of a page: their indices in the array.
    fn words_of(&self, page: PageNr) -> core::ops::Range<usize> {
        let len = self.words.len();
        let start =
            usize::try_from(page.0).map_or(len, |nr| nr.saturating_mul(PAGE_WORDS).min(len));
        start..start.saturating_add(PAGE_WORDS).min(len)
    }

    /// The content of a page as it lies on the disk; zeroes beyond the end of the bitmap.
    pub fn page(&self, page: PageNr) -> Box<[u8; PAGE_BYTES]> {
        let mut bytes = zero_page();
        let words = &self.words[self.words_of(page)];
        for (bytes, word) in bytes.chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Replaces the content of a page by what the disk has; marks stay as they are. Bits beyond the
    /// end of the bitmap are ignored: the medium may hold anything there (metadata, section 6.1).
    pub fn load(&mut self, page: PageNr, bytes: &[u8; PAGE_BYTES]) {
        let slots = usize::from(self.slots);
        for (index, bytes) in self.words_of(page).zip(bytes.chunks_exact(4)) {
            let new = bytes.try_into().map_or(0, u32::from_le_bytes) & self.valid(index);
            let old = core::mem::replace(&mut self.words[index], new);
            let weight = &mut self.weights[index % slots];
            *weight = *weight + u64::from(new.count_ones()) - u64::from(old.count_ones());
        }
    }
}
