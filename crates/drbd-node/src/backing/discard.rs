//! Which parts of a range are discarded and which are zeroed (data path, section 10.2).

use super::{Device, MAX_DISCARD};

/// A step of a discard; offsets and lengths in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Piece {
    /// Discard: an aligned range the device may forget.
    Discard {
        /// First byte.
        offset: u64,
        /// Length.
        len: u64,
    },
    /// Make it read as zeroes.
    Zero {
        /// First byte.
        offset: u64,
        /// Length.
        len: u64,
        /// Space may be given back.
        unmap: bool,
    },
}

/// The steps for a range, in order.
pub fn plan(device: &Device, offset: u64, len: u64, trim: bool, zero: bool) -> Vec<Piece> {
    let everything = Piece::Zero {
        offset,
        len,
        unmap: trim,
    };
    if zero || !trim || len == 0 {
        return vec![everything];
    }
    let granularity = u64::from(device.discard_granularity.max(512));
    let max = u64::from(device.max_discard.min(MAX_DISCARD)) / granularity * granularity;
    if device.discard_granularity == 0 || max == 0 || len < granularity {
        return vec![everything];
    }
    let Some(end) = offset.checked_add(len) else {
        return vec![everything];
    };
    let grid = u64::from(device.discard_alignment) % granularity;
    let mut pieces = Vec::new();
    let mut at = offset;
    let beyond = (at + granularity - grid) % granularity;
    if beyond != 0 {
        if len < 2 * granularity {
            return vec![everything];
        }
        let head = granularity - beyond;
        pieces.push(Piece::Zero {
            offset: at,
            len: head,
            unmap: true,
        });
        at += head;
    }
    while end - at >= granularity {
        let len = ((end - at) / granularity * granularity).min(max);
        pieces.push(Piece::Discard { offset: at, len });
        at += len;
    }
    if at < end {
        pieces.push(Piece::Zero {
            offset: at,
            len: end - at,
            unmap: true,
        });
    }
    pieces
}
