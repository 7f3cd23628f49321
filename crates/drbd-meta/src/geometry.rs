//! Where superblock, activity log and bitmap lie, and how much room is left for data (metadata,
//! section 2). All arithmetic is checked: a geometry that does not fit is an error.

use crate::limits::{
    BLOCK_BYTES_U64, BLOCK_SECTORS, INDEXED_BYTES, INDEXED_SECTORS, MAX_AL_BLOCKS,
    MAX_DEVICE_SECTORS, MAX_SLOT_BITMAP_BYTES, MAX_SLOTS, MIN_AL_BLOCKS, MIN_DEVICE_BYTES,
    SECTOR_BYTES,
};
use core::fmt;

/// Which layout the metadata has, the tool's INDEX argument (metadata, section 1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MdIndex {
    /// At the end of the data device, sized to it.
    Internal,
    /// A whole metadata device for one volume.
    FlexExternal,
    /// The n-th 128 MiB slot of a shared metadata device.
    Indexed(u8),
    /// v07 only: 128 MiB at the end of the data device.
    FixedInternal,
}

impl MdIndex {
    /// Whether the metadata shares the device with the data.
    #[must_use]
    pub const fn is_internal(self) -> bool {
        matches!(self, Self::Internal | Self::FixedInternal)
    }

    /// The value that the netlink interface and the tool use for this layout.
    #[must_use]
    pub const fn number(self) -> i32 {
        match self {
            Self::FixedInternal => -1,
            Self::FlexExternal => -2,
            Self::Internal => -3,
            Self::Indexed(index) => index as i32,
        }
    }

    /// The layout of a number of the kernel interface, where both -1 and -3 mean internal metadata
    /// sized to the device; `None` if no layout has that number.
    #[must_use]
    pub fn from_netlink(number: i32) -> Option<Self> {
        match number {
            -1 | -3 => Some(Self::Internal),
            -2 => Some(Self::FlexExternal),
            _ => u8::try_from(number).ok().map(Self::Indexed),
        }
    }
}

impl fmt::Display for MdIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Internal => f.write_str("flexible-size internal"),
            Self::FlexExternal => f.write_str("flexible-size external"),
            Self::FixedInternal => f.write_str("internal"),
            Self::Indexed(index) => write!(f, "indexed external, index {index}"),
        }
    }
}

/// Where metadata is looked for: the layout and the size of the device that holds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placement {
    /// The layout.
    pub index: MdIndex,
    /// Size of the metadata device in bytes; for internal metadata that is the data device.
    pub device_size: u64,
}

impl Placement {
    /// Byte offset of the superblock (metadata, section 2.2).
    ///
    /// # Errors
    /// The device is under 68 KiB, or too small to hold a superblock at that place.
    pub fn superblock_offset(self) -> Result<u64, GeometryError> {
        let Self { index, device_size } = self;
        let too_small = GeometryError::DeviceTooSmall {
            size: device_size,
            need: MIN_DEVICE_BYTES,
        };
        if device_size < MIN_DEVICE_BYTES {
            return Err(too_small);
        }
        let last = device_size.checked_sub(BLOCK_BYTES_U64).ok_or(too_small)?;
        let offset = match index {
            MdIndex::Internal => align_down_block(last),
            MdIndex::FlexExternal => 0,
            MdIndex::Indexed(i) => u64::from(i).saturating_mul(INDEXED_BYTES),
            MdIndex::FixedInternal => align_down_block(device_size)
                .checked_sub(INDEXED_BYTES)
                .ok_or(GeometryError::DeviceTooSmall {
                    size: device_size,
                    need: INDEXED_BYTES,
                })?,
        };
        if offset > last {
            return Err(GeometryError::SuperblockBeyondEnd {
                offset,
                size: device_size,
            });
        }
        Ok(offset)
    }
}

/// Bytes of storage that one bitmap bit covers: a power of two, 4 KiB to 1 MiB.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BitmapBlockSize(u32);

impl BitmapBlockSize {
    /// 4 KiB: the default, and the only one of v07, v08 and indexed metadata.
    pub const DEFAULT: Self = Self(4096);
    /// 1 MiB, the coarsest.
    pub const MAX: Self = Self(1 << 20);

    /// Checks a size in bytes.
    ///
    /// # Errors
    /// `bytes` is no power of two in 4096 ..= 1048576.
    pub fn new(bytes: u32) -> Result<Self, GeometryError> {
        if bytes.is_power_of_two() && (Self::DEFAULT.0..=Self::MAX.0).contains(&bytes) {
            Ok(Self(bytes))
        } else {
            Err(GeometryError::BlockSize(bytes))
        }
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        self.0
    }

    /// The size in sectors, as a shift: bit = sector >> shift.
    #[must_use]
    pub const fn sector_shift(self) -> u32 {
        self.0.ilog2().saturating_sub(9)
    }

    /// Bits that cover `sectors`; a block that is only started counts.
    #[must_use]
    pub const fn bits(self, sectors: u64) -> u64 {
        let shift = self.sector_shift();
        let whole = sectors >> shift;
        if whole << shift == sectors {
            whole
        } else {
            whole.saturating_add(1)
        }
    }

    /// Bits of one 4 MiB activity log extent: 1024 (4 KiB blocks) to 4 (1 MiB blocks).
    #[must_use]
    pub const fn bits_per_extent(self) -> u32 {
        (1 << 22) >> self.0.ilog2()
    }
}

impl Default for BitmapBlockSize {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// How the activity log is spread: so many stripes of so many 4 KiB blocks (metadata, section 5.4).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AlStriping {
    stripes: u32,
    stripe_size_4k: u32,
}

impl AlStriping {
    /// One stripe of 32 KiB.
    pub const DEFAULT: Self = Self {
        stripes: 1,
        stripe_size_4k: 8,
    };

    /// Checks a striping: `stripes` of `stripe_size_4k` blocks of 4 KiB.
    ///
    /// # Errors
    /// The product is not in 8 ..= 4194304 blocks.
    pub fn new(stripes: u32, stripe_size_4k: u32) -> Result<Self, GeometryError> {
        match stripes.checked_mul(stripe_size_4k) {
            Some(blocks) if (MIN_AL_BLOCKS..=MAX_AL_BLOCKS).contains(&blocks) => Ok(Self {
                stripes,
                stripe_size_4k,
            }),
            _ => Err(GeometryError::Striping {
                stripes,
                stripe_size_4k,
            }),
        }
    }

    /// Number of stripes, at least 1.
    #[must_use]
    pub const fn stripes(self) -> u32 {
        self.stripes
    }

    /// 4 KiB blocks per stripe, at least 1.
    #[must_use]
    pub const fn stripe_size_4k(self) -> u32 {
        self.stripe_size_4k
    }

    /// All 4 KiB blocks of the ring, 8 ..= 4194304.
    #[must_use]
    pub const fn blocks(self) -> u32 {
        self.stripes.saturating_mul(self.stripe_size_4k)
    }

    /// All sectors of the ring.
    #[must_use]
    pub const fn sectors(self) -> u32 {
        self.blocks().saturating_mul(8)
    }
}

impl Default for AlStriping {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What does not fit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GeometryError {
    /// The device cannot hold metadata of this layout.
    #[error("the device has {size} bytes, the metadata needs at least {need}: use a larger device")]
    DeviceTooSmall {
        /// Bytes of the device.
        size: u64,
        /// Bytes needed.
        need: u64,
    },
    /// The superblock would lie behind the end of the device.
    #[error(
        "the superblock belongs at byte {offset}, but the device has only {size} bytes: \
         use a smaller index or a larger device"
    )]
    SuperblockBeyondEnd {
        /// Byte offset of the superblock.
        offset: u64,
        /// Bytes of the device.
        size: u64,
    },
    /// Sizes or offsets do not fit into the fields of the superblock.
    #[error(
        "a device of {size} bytes with {slots} bitmap slots needs more metadata than the format \
         can describe: use fewer slots, a larger bitmap block size or a smaller device"
    )]
    TooLarge {
        /// Bytes of the device.
        size: u64,
        /// Bitmap slots.
        slots: u8,
    },
    /// A bad number of bitmap slots.
    #[error("{0} bitmap slots: there must be 1 to 32")]
    Slots(u32),
    /// A bad bitmap block size.
    #[error("bitmap block size {0}: it must be a power of two, 4096 to 1048576")]
    BlockSize(u32),
    /// A bad activity log striping.
    #[error(
        "activity log of {stripes} stripes of {stripe_size_4k} blocks: \
         it must have 8 to 4194304 blocks of 4 KiB"
    )]
    Striping {
        /// Stripes.
        stripes: u32,
        /// 4 KiB blocks per stripe.
        stripe_size_4k: u32,
    },
    /// The activity log fills the whole external metadata.
    #[error("the activity log leaves no room for a bitmap: use fewer or smaller stripes")]
    NoBitmapRoom,
}

/// The place and the size of all metadata regions of one volume.
///
/// Positions are sectors from the start of the metadata device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    placement: Placement,
    slots: u8,
    block_size: BitmapBlockSize,
    striping: AlStriping,
    md_offset: u64,
    md_size_sect: u32,
    al_offset: i32,
    bm_offset: i32,
}

impl Geometry {
    /// Lays out metadata with `slots` bitmap slots (1 ..= 32).
    ///
    /// # Errors
    /// The metadata does not fit on the device, or its description not into the superblock.
    pub fn new(
        placement: Placement,
        slots: u8,
        block_size: BitmapBlockSize,
        striping: AlStriping,
    ) -> Result<Self, GeometryError> {
        if slots == 0 || slots > MAX_SLOTS {
            return Err(GeometryError::Slots(u32::from(slots)));
        }
        let size = placement.device_size;
        let too_large = GeometryError::TooLarge { size, slots };
        let md_offset = placement.superblock_offset()?;
        let al_sectors = striping.sectors();
        let al = i32::try_from(al_sectors).map_err(|_| too_large)?;
        let (md_size_sect, al_offset, bm_offset);
        if placement.index == MdIndex::Internal {
            let bytes = bitmap_bytes(size >> 9, block_size, slots).ok_or(too_large)?;
            if bytes > MAX_SLOT_BITMAP_BYTES.saturating_mul(u64::from(slots)) {
                return Err(too_large);
            }
            let sectors = (bytes >> 9)
                .checked_add(BLOCK_SECTORS)
                .and_then(|s| s.checked_add(u64::from(al_sectors)))
                .ok_or(too_large)?;
            let signed = i32::try_from(sectors).map_err(|_| too_large)?;
            md_size_sect = u32::try_from(sectors).map_err(|_| too_large)?;
            al_offset = al.checked_neg().ok_or(too_large)?;
            bm_offset = signed
                .checked_neg()
                .and_then(|s| s.checked_add(8))
                .ok_or(too_large)?;
        } else {
            md_size_sect = match placement.index {
                MdIndex::FlexExternal => u32::try_from(size >> 9).map_err(|_| too_large)?,
                _ => INDEXED_SECTORS,
            };
            al_offset = 8;
            bm_offset = al.checked_add(8).ok_or(too_large)?;
            if u32::try_from(bm_offset).map_err(|_| too_large)? >= md_size_sect {
                return Err(GeometryError::NoBitmapRoom);
            }
        }
        let geometry = Self {
            placement,
            slots,
            block_size,
            striping,
            md_offset,
            md_size_sect,
            al_offset,
            bm_offset,
        };
        // Internal metadata may need more than the whole device.
        let need = u64::from(md_size_sect).saturating_mul(SECTOR_BYTES);
        let first = (md_offset >> 9).checked_add_signed(i64::from(bm_offset.min(0)));
        let fits_behind = placement.index == MdIndex::Internal
            || md_offset
                .checked_add(need)
                .is_some_and(|end| end <= align_up_sector(size));
        if first.is_none() || !fits_behind {
            let need = match placement.index {
                MdIndex::Internal => need,
                _ => md_offset.saturating_add(need),
            };
            return Err(GeometryError::DeviceTooSmall { size, need });
        }
        Ok(geometry)
    }

    /// The same layout on a flexible metadata device of which only `sectors` are in use.
    pub(crate) fn with_md_size_sect(mut self, sectors: u32) -> Result<Self, GeometryError> {
        if self.placement.index == MdIndex::FlexExternal {
            self.md_size_sect = self.md_size_sect.min(sectors);
            if i64::from(self.md_size_sect) <= i64::from(self.bm_offset) {
                return Err(GeometryError::NoBitmapRoom);
            }
        }
        Ok(self)
    }

    /// Layout and device.
    #[must_use]
    pub const fn placement(&self) -> Placement {
        self.placement
    }

    /// Bitmap slots, 1 ..= 32.
    #[must_use]
    pub const fn slots(&self) -> u8 {
        self.slots
    }

    /// Bytes of storage per bitmap bit.
    #[must_use]
    pub const fn block_size(&self) -> BitmapBlockSize {
        self.block_size
    }

    /// The activity log's striping.
    #[must_use]
    pub const fn striping(&self) -> AlStriping {
        self.striping
    }

    /// The superblock's `md_size_sect` field: sectors of all metadata.
    #[must_use]
    pub const fn md_size_sect(&self) -> u32 {
        self.md_size_sect
    }

    /// The superblock's `al_offset` field: sectors from the superblock, signed.
    #[must_use]
    pub const fn al_offset(&self) -> i32 {
        self.al_offset
    }

    /// The superblock's `bm_offset` field: sectors from the superblock, signed.
    #[must_use]
    pub const fn bm_offset(&self) -> i32 {
        self.bm_offset
    }

    /// First sector of the superblock.
    #[must_use]
    pub const fn superblock_sector(&self) -> u64 {
        self.md_offset >> 9
    }

    /// First sector of the activity log.
    #[must_use]
    pub fn al_sector(&self) -> u64 {
        self.superblock_sector()
            .saturating_add_signed(i64::from(self.al_offset))
    }

    /// First sector of the bitmap.
    #[must_use]
    pub fn bitmap_sector(&self) -> u64 {
        self.superblock_sector()
            .saturating_add_signed(i64::from(self.bm_offset))
    }

    /// First sector of all metadata: internal the bitmap, external the superblock.
    #[must_use]
    pub fn first_sector(&self) -> u64 {
        self.superblock_sector().min(self.bitmap_sector())
    }

    /// Sectors of the area that is available for the bitmap.
    #[must_use]
    pub fn bitmap_sectors(&self) -> u64 {
        let bm = i64::from(self.bm_offset);
        let end = if self.bm_offset < 0 {
            i64::from(self.al_offset)
        } else {
            i64::from(self.md_size_sect)
        };
        u64::try_from(end.saturating_sub(bm)).unwrap_or(0)
    }

    /// Sectors of data that the offline tool counts as usable (metadata, section 2.5).
    #[must_use]
    pub fn usable_sectors(&self) -> u64 {
        if self.placement.index.is_internal() {
            return self.first_sector();
        }
        // Whole 64-bit words per slot.
        let words = self.bitmap_sectors().saturating_mul(SECTOR_BYTES / 8);
        let per_slot = words.checked_div(u64::from(self.slots)).unwrap_or(0);
        per_slot.saturating_mul(64) << self.block_size.sector_shift()
    }

    /// Sectors of data for which the bitmap area has bits in whole pages and in whole 64-bit words
    /// per slot. Only an external device whose size is no multiple of 4 KiB has fewer than
    /// [`usable_sectors`](Self::usable_sectors) counts.
    #[must_use]
    pub fn bitmap_limit(&self) -> u64 {
        let area = align_down_block(self.bitmap_sectors().saturating_mul(SECTOR_BYTES));
        let words = (area / 8).checked_div(u64::from(self.slots)).unwrap_or(0);
        let blocks = words.saturating_mul(64);
        blocks.saturating_mul(1 << self.block_size.sector_shift())
    }

    /// Sectors of data that an attached device can have (metadata, section 2.5; of the two limits
    /// there this is the stricter). `data_sectors` is the capacity of the data device.
    #[must_use]
    pub fn attach_limit(&self, data_sectors: u64) -> u64 {
        let remaining = if self.placement.index == MdIndex::Internal {
            self.bitmap_sector()
        } else {
            data_sectors
        };
        remaining.min(MAX_DEVICE_SECTORS).min(self.bitmap_limit())
    }
}

/// Bytes of a bitmap with `slots` slots for a device of `sectors` sectors: whole 64-bit words per
/// slot, whole 4 KiB blocks together (metadata, section 2.3). `None` if 64 bits do not hold it.
#[must_use]
pub fn bitmap_bytes(sectors: u64, block_size: BitmapBlockSize, slots: u8) -> Option<u64> {
    let bits = block_size.bits(sectors).checked_add(63)? & !63;
    let bytes = (bits >> 3).checked_mul(u64::from(slots))?;
    Some(bytes.checked_add(BLOCK_BYTES_U64 - 1)? & !(BLOCK_BYTES_U64 - 1))
}

const fn align_down_block(bytes: u64) -> u64 {
    bytes & !(BLOCK_BYTES_U64 - 1)
}

const fn align_up_sector(bytes: u64) -> u64 {
    bytes.saturating_add(SECTOR_BYTES - 1) & !(SECTOR_BYTES - 1)
}

#[cfg(test)]
mod tests;
