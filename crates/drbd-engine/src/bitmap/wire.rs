//! The bitmap as it travels: 4 KiB per bit whatever the granularity here (data path, section 14.6;
//! wire protocol, section 19).
//!
//! A bit of ours expands to all the wire bits of its block; a wire bit that is set sets the bit of
//! ours it lies in. So the exchange only ever adds bits.

use super::{BitNr, Bitmap, Slot};

/// Sectors per bit on the wire.
const WIRE_SHIFT: u32 = 3;

/// A run of equal bits on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// Whether the bits are set.
    pub set: bool,
    /// How many; at least 1.
    pub len: u64,
}

/// What came over the wire lies outside the bitmap.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("bitmap of the peer has bits beyond {0} of its 4 KiB bits, the end of the device")]
pub struct BeyondEnd(pub u64);

impl Bitmap {
    /// Number of bits on the wire, for one slot.
    pub fn wire_bits(&self) -> u64 {
        self.capacity.div_ceil(1 << WIRE_SHIFT)
    }

    /// Number of 64-bit words on the wire, for one slot.
    pub fn wire_words(&self) -> u64 {
        self.wire_bits().div_ceil(64)
    }

    /// log2 of the wire bits per bit of ours.
    fn scale(&self) -> u32 {
        self.spb_shift - WIRE_SHIFT
    }

    /// The 64-bit word `index` of the wire's bit stream; bits beyond the end are zero.
    pub fn wire_word(&self, slot: Slot, index: u64) -> u64 {
        let first = index.saturating_mul(64);
        let mut word = 0;
        if self.scale() == 0 {
            let half = |row| {
                if row < self.rows() {
                    u64::from(self.word(row, slot))
                } else {
                    0
                }
            };
            word = half(index.saturating_mul(2))
                | half(index.saturating_mul(2).saturating_add(1)) << 32;
        } else {
            let mut at = first;
            while let Some(run) = self.wire_run(slot, at).filter(|_| at - first < 64) {
                let len = run.len.min(64 - (at - first));
                if run.set {
                    word |= (u64::MAX >> (64 - len)) << (at - first);
                }
                at += len;
            }
        }
        word
    }

    /// The run of equal wire bits that starts at `from`, as long as possible; `None` at the end.
    pub fn wire_run(&self, slot: Slot, from: u64) -> Option<Run> {
        let left = self.wire_bits().checked_sub(from).filter(|&n| n > 0)?;
        let bit = BitNr(from >> self.scale());
        let set = self.is_set(slot, bit);
        let end = if set {
            self.next_clear(slot, bit)
        } else {
            self.next_set(slot, bit)
        };
        let len = end.map_or(left, |end| ((end.0 << self.scale()) - from).min(left));
        Some(Run { set, len })
    }

    /// All runs from `from` on, set and clear ones in turn.
    pub fn wire_runs(&self, slot: Slot, from: u64) -> impl Iterator<Item = Run> + '_ {
        let mut at = from;
        core::iter::from_fn(move || {
            let run = self.wire_run(slot, at)?;
            at += run.len;
            Some(run)
        })
    }

    /// Merges the 64-bit words from word `index` on. Returns how many bits of ours were clear.
    ///
    /// # Errors
    /// The words reach beyond the end; nothing is merged then. Padding bits of the last word are
    /// ignored.
    pub fn merge_words(
        &mut self,
        slot: Slot,
        index: u64,
        words: impl ExactSizeIterator<Item = u64>,
    ) -> Result<u64, BeyondEnd> {
        if index.saturating_add(words.len() as u64) > self.wire_words() {
            return Err(BeyondEnd(self.wire_bits()));
        }
        let mut changed = 0;
        for (word, first) in words.zip((index * 64..).step_by(64)) {
            let mut at = 0;
            // One call per run of ones: plain transfers are mostly all ones or all zeroes.
            while at < 64 && word >> at != 0 {
                let start = at + (word >> at).trailing_zeros();
                let len = (!(word >> start)).trailing_zeros();
                changed += self.merge(slot, first + u64::from(start), u64::from(len));
                at = start + len;
            }
        }
        Ok(changed)
    }

    /// Merges a run of `len` set wire bits from `first` on. Returns how many bits of ours were clear.
    ///
    /// # Errors
    /// The run reaches beyond the end; nothing is merged then.
    pub fn merge_run(&mut self, slot: Slot, first: u64, len: u64) -> Result<u64, BeyondEnd> {
        match first.checked_add(len) {
            Some(end) if end <= self.wire_bits() => Ok(self.merge(slot, first, len)),
            _ => Err(BeyondEnd(self.wire_bits())),
        }
    }

    fn merge(&mut self, slot: Slot, first: u64, len: u64) -> u64 {
        let scale = self.scale();
        match len.min(self.wire_bits().saturating_sub(first)) {
            0 => 0,
            n => self.set_bits(
                slot,
                BitNr(first >> scale)..=BitNr((first + n - 1) >> scale),
            ),
        }
    }
}
