//! The v07 superblock of DRBD 0.7 (metadata, section 3.2). It cannot be attached; the offline tool
//! reads it in order to convert it.

use super::{Format, Superblock, SuperblockError, raw};
use crate::Block;
use crate::flags::LocalFlags;
use crate::geometry::{AlStriping, BitmapBlockSize, Geometry, Placement};
use crate::limits::{BLOCK_BYTES, DEFAULT_AL_EXTENTS};
use zerocopy::{transmute_mut, transmute_ref};

/// v07's magic number, at byte 28.
const MAGIC: u32 = 0x8374_026A;

/// A decoded v07 superblock: generation counters instead of UUIDs, one peer, 4 KiB per bit, an
/// activity log of 64 old-style sectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct V07Superblock {
    /// Last agreed size in sectors; stored in KiB.
    pub effective_size: u64,
    /// Bit 0 consistent, 1 primary, 2 connected, 3 full sync.
    pub flags: u32,
    /// Counts decisions by the administrator.
    pub human: u32,
    /// Counts timeouts.
    pub timeout: u32,
    /// Counts lost connections.
    pub connected: u32,
    /// Counts other changes.
    pub arbitrary: u32,
    /// Sectors of all metadata; stored in KiB.
    pub md_size_sect: u32,
    /// Activity log's first sector, relative to the superblock.
    pub al_offset: i32,
    /// Extents of the activity log.
    pub al_nr_extents: u32,
    /// Bitmap's first sector, relative to the superblock.
    pub bm_offset: i32,
}

impl V07Superblock {
    /// v07's consistent flag.
    pub const CONSISTENT: u32 = 1;
    /// v07's primary flag: the activity log must be applied.
    pub const PRIMARY_IND: u32 = 2;
    /// v07's connected flag.
    pub const CONNECTED_IND: u32 = 4;
    /// v07's full sync flag.
    pub const FULL_SYNC: u32 = 8;

    /// Fresh metadata: counters 1, flags 0.
    ///
    /// # Errors
    /// The metadata does not fit on the device.
    pub fn create(placement: Placement) -> Result<Self, SuperblockError> {
        let geometry = layout(placement)?;
        Ok(Self {
            effective_size: 0,
            flags: 0,
            human: 1,
            timeout: 1,
            connected: 1,
            arbitrary: 1,
            md_size_sect: geometry.md_size_sect(),
            al_offset: geometry.al_offset(),
            al_nr_extents: DEFAULT_AL_EXTENTS,
            bm_offset: geometry.bm_offset(),
        })
    }

    /// Decodes and validates a block that was read at the superblock position of `placement`.
    ///
    /// # Errors
    /// The magic number is another, or offsets do not fit the place.
    pub fn parse(block: &Block, placement: Placement) -> Result<Self, SuperblockError> {
        let raw: &raw::V07 = transmute_ref!(block);
        if raw.magic.get() != MAGIC {
            return Err(SuperblockError::Magic {
                found: raw.magic.get(),
            });
        }
        let field = |field, found: i64| SuperblockError::Field {
            field,
            found,
            expected: "at most the largest device size",
        };
        let kib = raw.la_size_kib.get();
        let effective_size = kib
            .checked_mul(2)
            .ok_or_else(|| field("la-size", i64::try_from(kib).unwrap_or(i64::MAX)))?;
        let md_size_sect = raw
            .md_size_kib
            .get()
            .checked_mul(2)
            .ok_or_else(|| field("md-size", raw.md_size_kib.get().into()))?;
        let superblock = Self {
            effective_size,
            flags: raw.flags.get(),
            human: raw.human.get(),
            timeout: raw.timeout.get(),
            connected: raw.connected.get(),
            arbitrary: raw.arbitrary.get(),
            md_size_sect,
            al_offset: raw.al_offset.get(),
            al_nr_extents: raw.al_nr_extents.get(),
            bm_offset: raw.bm_offset.get(),
        };
        superblock.geometry(placement)?;
        Ok(superblock)
    }

    /// The geometry of this superblock at `placement`.
    ///
    /// # Errors
    /// The stored offsets are not those of this layout on a device of this size.
    pub fn geometry(&self, placement: Placement) -> Result<Geometry, SuperblockError> {
        let geometry = layout(placement)?;
        for (field, found, expected) in [
            ("al_offset", self.al_offset, geometry.al_offset()),
            ("bm_offset", self.bm_offset, geometry.bm_offset()),
        ] {
            if found != expected {
                return Err(SuperblockError::Place {
                    field,
                    found: found.into(),
                    expected: expected.into(),
                });
            }
        }
        Ok(geometry)
    }

    /// The block for the disk.
    #[must_use]
    pub fn encode(&self) -> Block {
        let mut block = [0; BLOCK_BYTES];
        let raw: &mut raw::V07 = transmute_mut!(&mut block);
        raw.la_size_kib = (self.effective_size >> 1).into();
        raw.flags = self.flags.into();
        raw.human = self.human.into();
        raw.timeout = self.timeout.into();
        raw.connected = self.connected.into();
        raw.arbitrary = self.arbitrary.into();
        raw.magic = MAGIC.into();
        raw.md_size_kib = (self.md_size_sect >> 1).into();
        raw.al_offset = self.al_offset.into();
        raw.al_nr_extents = self.al_nr_extents.into();
        raw.bm_offset = self.bm_offset.into();
        block
    }

    /// The v08 form (metadata, section 9.4): UUIDs are made of the counters. The result is not clean
    /// and needs its activity log applied. `bits_set` tells whether the bitmap has bits set, which
    /// makes the previous generation the bitmap UUID.
    #[must_use]
    pub fn to_v08(&self, geometry: &Geometry, bits_set: bool) -> Superblock {
        const GENERATION: u64 = 0x1_0000;
        let low = |counter: u32| u64::from(counter & 0xFFFF);
        let current = low(self.human) << 48
            | low(self.timeout) << 32
            | low(self.connected.wrapping_add(self.arbitrary)) << 16
            | 0xBABE;
        let before = |n: u64| current.wrapping_sub(GENERATION.wrapping_mul(n));
        let mut superblock = Superblock::create(Format::V08, geometry);
        superblock.effective_size = self.effective_size;
        superblock.current_uuid = current;
        superblock.flags = LocalFlags::from_bits(self.flags);
        superblock.al_nr_extents = self.al_nr_extents;
        let [peer, ..] = &mut superblock.peers;
        let [younger, older, ..] = &mut superblock.history;
        if bits_set {
            peer.bitmap_uuid = before(1);
            (*younger, *older) = (before(2), before(3));
        } else {
            (*younger, *older) = (before(1), before(2));
        }
        superblock
    }
}

/// v07 metadata has one slot and the default activity log; unlike v08 it may be of fixed size.
fn layout(placement: Placement) -> Result<Geometry, SuperblockError> {
    Ok(Geometry::new(
        placement,
        1,
        BitmapBlockSize::DEFAULT,
        AlStriping::DEFAULT,
    )?)
}
