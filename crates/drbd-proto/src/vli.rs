//! The run-length code of compressed bitmaps (wire protocol, sections 19.4 and 19.5): alternating runs
//! of clear and set bits, each length a variable-length integer, least significant bit first.

use alloc::vec::Vec;

use crate::packet::CompressedBitmap;

/// One length class of the code.
#[derive(Clone, Copy, Debug)]
struct Level {
    prefix: u64,
    prefix_bits: u32,
    total_bits: u32,
    smallest: u64,
}

/// The levels, in the order of the lengths they stand for.
#[allow(clippy::indexing_slicing)] // Evaluated by the compiler.
const LEVELS: [Level; 10] = {
    // (prefix value, prefix bits, data bits); the first length of a level follows the last of the one
    // before.
    let table: [(u64, u32, u32); 10] = [
        (0x00, 1, 1),
        (0x01, 2, 1),
        (0x03, 3, 2),
        (0x07, 4, 3),
        (0x0f, 5, 5),
        (0x1f, 6, 8),
        (0x3f, 8, 13),
        (0x7f, 8, 21),
        (0xbf, 8, 34),
        (0xff, 8, 56),
    ];
    let mut levels = [Level {
        prefix: 0,
        prefix_bits: 0,
        total_bits: 0,
        smallest: 0,
    }; 10];
    let mut smallest = 1;
    let mut i = 0;
    while i < table.len() {
        let (prefix, prefix_bits, data_bits) = table[i];
        levels[i] = Level {
            prefix,
            prefix_bits,
            total_bits: prefix_bits + data_bits,
            smallest,
        };
        smallest += 1 << data_bits;
        i += 1;
    }
    levels
};

impl Level {
    const fn data_mask(&self) -> u64 {
        (1u64 << self.total_bits.saturating_sub(self.prefix_bits)).wrapping_sub(1)
    }
    /// The longest run of this level.
    const fn largest(&self) -> u64 {
        self.smallest.saturating_add(self.data_mask())
    }
}

/// The longest run there is a code for.
pub const MAX_RUN: u64 = LEVELS[9].largest();

/// The code of a run and its length in bits (at most 64); `None` for 0 and beyond [`MAX_RUN`].
pub fn encode_run(run: u64) -> Option<(u64, u32)> {
    let level = LEVELS.iter().find(|level| run <= level.largest())?;
    let data = run.checked_sub(level.smallest)?;
    Some((data << level.prefix_bits | level.prefix, level.total_bits))
}

/// The run at the low end of `window` and the length of its code in bits; `None` if no code fits into
/// the `available` valid bits.
pub fn decode_run(window: u64, available: u32) -> Option<(u64, u32)> {
    let level = LEVELS.iter().find(|level| {
        let mask = (1u64 << level.prefix_bits).wrapping_sub(1);
        window & mask == level.prefix
    })?;
    if level.total_bits > available {
        return None;
    }
    let data = window >> level.prefix_bits & level.data_mask();
    Some((level.smallest.saturating_add(data), level.total_bits))
}

/// Consecutive bits of equal value; a bit stands for 4 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first bit.
    pub start: u64,
    /// How many bits, at least one.
    pub len: u64,
    /// Their value.
    pub set: bool,
}

/// The runs of a bitmap given as 64-bit words (bit 0 of a word is the first): bits `start..total`, in
/// alternating runs. `words` begins with the word that holds bit `start`; words that are missing at the
/// end count as clear.
pub fn runs_in_words<I>(words: I, start: u64, total: u64) -> WordRuns<I::IntoIter>
where
    I: IntoIterator<Item = u64>,
{
    let mut words = words.into_iter();
    let word = words.next().unwrap_or(0);
    WordRuns {
        words,
        word,
        bit: start,
        total,
    }
}

/// See [`runs_in_words`].
#[derive(Clone, Debug)]
pub struct WordRuns<I> {
    words: I,
    /// The word that holds `bit`.
    word: u64,
    bit: u64,
    total: u64,
}

impl<I: Iterator<Item = u64>> Iterator for WordRuns<I> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        let start = self.bit;
        if start >= self.total {
            return None;
        }
        let set = self.word >> (start & 63) & 1 != 0;
        loop {
            let at = (self.bit & 63) as u32;
            // A one for every bit that ends the run, at `at` and above.
            let ends = if set { !self.word } else { self.word } >> at << at;
            let end = ends.trailing_zeros();
            self.bit = self.bit.saturating_add(end.saturating_sub(at).into());
            if self.bit >= self.total {
                self.bit = self.total;
                break;
            }
            if end < u64::BITS {
                break;
            }
            self.word = self.words.next().unwrap_or(0);
        }
        Some(Run {
            start,
            len: self.bit.saturating_sub(start),
            set,
        })
    }
}

/// Why a compressed bitmap is not acceptable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// Bits that are no complete code.
    #[error("compressed bitmap: invalid code at bit {0} of the bit string")]
    InvalidCode(usize),
    /// A run of set bits beyond the end of the device.
    #[error("compressed bitmap: set bits up to {end} on a device of {total}")]
    BeyondDevice {
        /// End of the run.
        end: u64,
        /// Bits of the device.
        total: u64,
    },
}

/// The runs of one compressed bitmap packet. Stops after the first error.
#[derive(Clone, Debug)]
pub struct Runs<'a> {
    code: &'a [u8],
    /// Position in `code`, bits.
    pos: usize,
    /// Valid bits in `code`.
    end: usize,
    set: bool,
    bit: u64,
    total: u64,
}

impl<'a> Runs<'a> {
    /// Decode `code` without its last `pad_bits` bits. The first run starts at bit `start` of a device
    /// of `total` bits and has the value `first_set`.
    pub fn new(code: &'a [u8], pad_bits: u8, first_set: bool, start: u64, total: u64) -> Runs<'a> {
        let end = code.len().saturating_mul(8).saturating_sub(pad_bits.into());
        Runs {
            code,
            pos: 0,
            end,
            set: first_set,
            bit: start,
            total,
        }
    }
    /// The bit after the last run: when the iterator is exhausted without an error, the position the
    /// next packet starts at. Equal to the size of the device at the end of the transfer.
    pub const fn position(&self) -> u64 {
        self.bit
    }
    /// The next 64 bits of the code; zeroes beyond its end.
    fn window(&self) -> u64 {
        let skip = self.pos & 7;
        let bytes = self.code.get(self.pos >> 3..).unwrap_or_default();
        let mut window = 0u128;
        for (i, byte) in bytes.iter().take(9).enumerate() {
            window |= u128::from(*byte) << (i << 3);
        }
        (window >> skip) as u64
    }
}

impl Iterator for Runs<'_> {
    type Item = Result<Run, RunError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.pos >= self.end {
            return None;
        }
        let at = self.pos;
        let available = self.end.saturating_sub(at).min(64) as u32;
        let Some((len, bits)) = decode_run(self.window(), available) else {
            self.pos = self.end;
            return Some(Err(RunError::InvalidCode(at)));
        };
        let run = Run {
            start: self.bit,
            len,
            set: self.set,
        };
        let end = run.start.saturating_add(len);
        if run.set && end > self.total {
            self.pos = self.end;
            return Some(Err(RunError::BeyondDevice {
                end,
                total: self.total,
            }));
        }
        self.pos = at.saturating_add(bits as usize);
        self.set = !self.set;
        self.bit = end;
        Some(Ok(run))
    }
}

/// Fills one compressed bitmap packet with runs.
#[derive(Clone, Debug)]
pub struct RunEncoder {
    first_set: bool,
    max_bytes: usize,
    code: Vec<u8>,
    /// Bits in `code`.
    len: usize,
    covered: u64,
}

impl RunEncoder {
    /// An empty packet whose first run has the value `first_set`, for at most `max_bytes` bytes of code.
    pub fn new(first_set: bool, max_bytes: usize) -> RunEncoder {
        RunEncoder {
            first_set,
            max_bytes,
            code: Vec::new(),
            len: 0,
            covered: 0,
        }
    }

    /// Add the next run; runs alternate in value. `false` if the run (0, or beyond [`MAX_RUN`], or too
    /// long for the space left) was not added: send the packet and begin another with this run.
    #[must_use]
    pub fn push(&mut self, run: u64) -> bool {
        let Some((code, bits)) = encode_run(run) else {
            return false;
        };
        let len = self.len.saturating_add(bits as usize);
        if len > self.max_bytes.saturating_mul(8) {
            return false;
        }
        let skip = self.len & 7;
        let mut rest = u128::from(code) << skip;
        let mut left = (bits as usize).saturating_add(skip);
        if skip != 0
            && let Some(last) = self.code.last_mut()
        {
            *last |= rest as u8;
            rest >>= 8;
            left = left.saturating_sub(8);
        }
        while left > 0 {
            self.code.push(rest as u8);
            rest >>= 8;
            left = left.saturating_sub(8);
        }
        self.len = len;
        self.covered = self.covered.saturating_add(run);
        true
    }
    /// Was no run added?
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Bits of the bitmap covered by the runs added.
    pub const fn covered(&self) -> u64 {
        self.covered
    }
    /// Bytes of code so far.
    pub fn code_len(&self) -> usize {
        self.code.len()
    }
    /// The packet; `None` if no run was added, because an empty packet must not be sent.
    pub fn finish(self) -> Option<CompressedBitmap> {
        if self.is_empty() {
            return None;
        }
        let pad_bits = (self.len.wrapping_neg() & 7) as u8;
        Some(CompressedBitmap {
            first_set: self.first_set,
            pad_bits,
            code: self.code,
        })
    }
}

#[cfg(test)]
mod tests;
