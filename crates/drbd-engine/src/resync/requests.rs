//! Which requests does a turn of a SyncTarget make? (data path, section 15.2)
//!
//! Requests start where their size allows, grow as long as there are bits to sync, and double from one
//! to the next, so that a long dirty area is soon fetched in pieces of 1 MiB.

use core::ops::RangeInclusive;

use drbd_proto::Sector;

use crate::bitmap::{BitNr, Bitmap, Slot};
use crate::command::Backing;

#[cfg(test)]
mod tests;

/// Largest request in bytes.
pub(crate) const MAX_REQUEST: u32 = 1 << 20;

/// One request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Request {
    /// Its bits; the first one is where to go on if the request cannot be made.
    pub(crate) bits: RangeInclusive<BitNr>,
    /// First sector.
    pub(crate) sector: Sector,
    /// Length in bytes, cut at the end of the device.
    pub(crate) len: u32,
    /// It has exactly the discard granularity: to be asked for as a thin one.
    pub(crate) thin: bool,
}

/// The requests of one turn, an iterator.
#[derive(Clone, Debug)]
pub(crate) struct Requests<'a> {
    bitmap: &'a Bitmap,
    slot: Slot,
    cursor: BitNr,
    /// Bits left in this turn.
    left: u64,
    /// Bits that are only asked for together: the peer's bits may be larger than ours.
    step: u64,
    /// Bits of a thin request.
    thin: Option<u64>,
    /// Bits of the largest request.
    most: u64,
    /// Size of the previous request in bits, and where it ended.
    previous: Option<(u64, BitNr)>,
}

impl<'a> Requests<'a> {
    /// A turn that begins at `cursor`. `sectors` is what the rate controller allows, `peer_block` the
    /// peer's bitmap block size in bytes, `thin` the `rs-discard-granularity` in bytes if thin requests
    /// may be made.
    pub(crate) fn new(
        bitmap: &'a Bitmap,
        slot: Slot,
        cursor: BitNr,
        sectors: u64,
        peer_block: u32,
        thin: Option<u32>,
    ) -> Self {
        let block = bitmap.block_size();
        let thin = thin
            .filter(|bytes| bytes.is_multiple_of(block))
            .map(|bytes| u64::from(bytes / block))
            .filter(|&bits| bits > 0);
        let left = sectors.div_ceil(bitmap.sectors_per_bit());
        Requests {
            bitmap,
            slot,
            cursor,
            left: left.max(thin.unwrap_or(0)),
            step: u64::from(peer_block / block).max(1),
            thin,
            most: u64::from(MAX_REQUEST / block),
            previous: None,
        }
    }

    /// No request is larger than this, in bytes: the agreed protocol version has a limit.
    pub(crate) fn at_most(mut self, bytes: u32) -> Self {
        self.most = u64::from(bytes.min(MAX_REQUEST) / self.bitmap.block_size());
        self.thin = self.thin.filter(|thin| *thin <= self.most);
        self
    }

    /// Where the next turn begins.
    pub(crate) fn cursor(&self) -> BitNr {
        self.cursor
    }

    /// The largest size in bits of a request that starts here.
    fn limit(&self, start: BitNr) -> u64 {
        let most = self.most;
        let alignment = match start.0 {
            0 => most,
            n => 1 << n.trailing_zeros().min(20),
        };
        let limit = alignment.min(most).min(nearest_power_of_two(self.left));
        self.thin
            .map_or(limit, |thin| limit.min(thin))
            .max(self.step)
    }
}

impl Iterator for Requests<'_> {
    type Item = Request;

    fn next(&mut self) -> Option<Request> {
        if self.left < self.thin.unwrap_or(1) {
            return None;
        }
        let Some(found) = self.bitmap.next_set(self.slot, self.cursor) else {
            self.cursor = BitNr(self.bitmap.bits());
            return None;
        };
        let start = BitNr(found.0 / self.step * self.step);
        self.cursor = start;
        // Sizes do not shrink within an area: the next turn goes on with an aligned, large one.
        if self
            .previous
            .is_some_and(|(size, end)| end == start && self.left < size)
        {
            return None;
        }
        let limit = self.limit(start);
        let mut size = self.step;
        while size < limit {
            let next = start.0 + size;
            if !self
                .bitmap
                .any_bits(self.slot, BitNr(next)..=BitNr(next + self.step - 1))
            {
                break;
            }
            size += self.step;
        }
        let end = BitNr(start.0 + size);
        let bits = start..=BitNr((end.0 - 1).min(self.bitmap.bits() - 1));
        let sectors = self.bitmap.sectors(&bits);
        self.cursor = end;
        self.left = self.left.saturating_sub(size);
        self.previous = Some((size, end));
        let len = u32::try_from((sectors.end.0 - sectors.start.0) * 512).unwrap_or(MAX_REQUEST);
        let thin = self.thin == Some(u64::from(len / self.bitmap.block_size()))
            && len.is_multiple_of(self.bitmap.block_size());
        Some(Request {
            bits,
            sector: sectors.start,
            len,
            thin,
        })
    }
}

/// Size in bytes of a thin request: `rs-discard-granularity` in bytes as the backing device can use it; `None`: thin
/// requests are not made (data path, section 10.3).
pub(crate) fn thin_request(configured: u32, backing: &Backing) -> Option<u32> {
    let granularity = backing.discard_granularity;
    if configured == 0 || granularity == 0 {
        return None;
    }
    let most = MAX_REQUEST.min(backing.max_discard);
    let size = configured.checked_next_multiple_of(granularity)?.min(most);
    let usable = size >= granularity || size > 0 && granularity.is_multiple_of(size);
    usable.then_some(size)
}

/// The power of two nearest to a number, the larger one if there are two.
fn nearest_power_of_two(n: u64) -> u64 {
    let Some(above) = n.checked_next_power_of_two() else {
        return 1 << 63;
    };
    let below = (above / 2).max(1);
    if n.saturating_sub(below) < above - n {
        below
    } else {
        above
    }
}
