//! The packets of the bitmap exchange (wire protocol, chapter 19). Their code is in [`crate::vli`].

use alloc::vec::Vec;

use crate::ctx::Ctx;
use crate::vli::{RunEncoder, Runs};
use crate::wire::{Body, Fault, Put, get, within};

/// P_BITMAP: plain bitmap words in wire order: bit *i* of the volume is bit *i* mod 8 of byte *i*/8.
/// Empty at the end of a transfer. Whether the length is the one due at this position is for the
/// engine to check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BitmapWords {
    /// Whole 64-bit words, at most [`Ctx::max_bitmap_payload`] bytes.
    pub bytes: Vec<u8>,
}

impl Body for BitmapWords {
    fn fixed_len(ctx: &Ctx, length: u32) -> Result<u32, Fault> {
        within(length, 0, ctx.max_bitmap_payload())?;
        if length.is_multiple_of(8) {
            Ok(length)
        } else {
            Err(Fault::Field {
                field: "length of bitmap words",
                value: length.into(),
            })
        }
    }
    fn load(_: &Ctx, bytes: &[u8], _: u32) -> Result<Self, Fault> {
        Ok(BitmapWords {
            bytes: bytes.into(),
        })
    }
    fn store(&self, _: &Ctx, out: &mut impl Put) {
        out.put(&self.bytes);
    }
    fn stored_len(&self, _: &Ctx) -> usize {
        self.bytes.len()
    }
}

/// P_COMPRESSED_BITMAP: runs of clear and set bits from the current position on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompressedBitmap {
    /// Is the first run one of set bits?
    pub first_set: bool,
    /// Unused bits at the end of the last byte, 0..=7.
    pub pad_bits: u8,
    /// The bit string; at least one byte.
    pub code: Vec<u8>,
}

/// The one encoding there is: run lengths in variable-length integers.
const RLE_VLI: u8 = 2;

impl CompressedBitmap {
    /// The runs, starting at bit `start` of `total` (in bits of 4 KiB).
    pub fn runs(&self, start: u64, total: u64) -> Runs<'_> {
        Runs::new(&self.code, self.pad_bits, self.first_set, start, total)
    }
    /// An encoder that fills one packet at this agreed version.
    pub fn encoder(ctx: &Ctx, first_set: bool) -> RunEncoder {
        RunEncoder::new(
            first_set,
            (ctx.max_bitmap_payload() as usize).saturating_sub(1),
        )
    }
}

impl Body for CompressedBitmap {
    fn fixed_len(ctx: &Ctx, length: u32) -> Result<u32, Fault> {
        within(length, 2, ctx.max_bitmap_payload())
    }
    fn load(_: &Ctx, bytes: &[u8], _: u32) -> Result<Self, Fault> {
        let encoding: u8 = get(bytes, 0, "bitmap encoding")?;
        if encoding & 0xf != RLE_VLI {
            return Err(Fault::Field {
                field: "bitmap encoding",
                value: encoding.into(),
            });
        }
        Ok(CompressedBitmap {
            first_set: encoding & 0x80 != 0,
            pad_bits: encoding >> 4 & 7,
            code: bytes.get(1..).unwrap_or_default().into(),
        })
    }
    fn store(&self, _: &Ctx, out: &mut impl Put) {
        let first = if self.first_set { 0x80 } else { 0 };
        out.put(&[RLE_VLI | (self.pad_bits & 7) << 4 | first]);
        out.put(&self.code);
    }
    fn stored_len(&self, _: &Ctx) -> usize {
        self.code.len().saturating_add(1)
    }
}
