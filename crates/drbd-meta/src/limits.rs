//! Every fixed number of the on-disk format, declared once (metadata, section 1).

/// Bytes of a sector.
pub const SECTOR_BYTES: u64 = 512;
/// Bytes of a metadata block: superblock, activity log block, bitmap page.
pub const BLOCK_BYTES: usize = 4096;
/// [`BLOCK_BYTES`] for 64-bit arithmetic.
pub const BLOCK_BYTES_U64: u64 = 4096;
/// Sectors of a metadata block.
pub const BLOCK_SECTORS: u64 = 8;
/// Node ids are `0..MAX_NODES`; the superblock has an entry for each.
pub const MAX_NODES: usize = 32;
/// Most bitmap slots the format can hold.
pub const MAX_SLOTS: u8 = 32;
/// Most bitmap slots the tools create (a node needs none for itself).
pub const MAX_CREATE_SLOTS: u8 = 31;
/// History UUIDs of a v09 superblock.
pub const HISTORY_UUIDS: usize = 32;
/// History UUIDs of a v08 superblock.
pub const HISTORY_UUIDS_V08: usize = 2;
/// Bytes covered by one activity log extent: 4 MiB.
pub const EXTENT_BYTES: u64 = 1 << 22;
/// Sectors covered by one activity log extent, as a shift: extent = sector >> 13.
pub const EXTENT_SECTOR_SHIFT: u32 = 13;
/// Bytes of one slot of an indexed external metadata device: 128 MiB.
pub const INDEXED_BYTES: u64 = 128 << 20;
/// Sectors of one slot of an indexed external metadata device.
pub const INDEXED_SECTORS: u32 = 262_144;
/// Smallest metadata device the offline tool accepts: 68 KiB.
pub const MIN_DEVICE_BYTES: u64 = 69_632;
/// Smallest flexible or internal metadata device that can be attached, in sectors.
pub const MIN_ATTACH_SECTORS: u64 = 2048;
/// Largest device: 2^41 sectors, 1 PiB.
pub const MAX_DEVICE_SECTORS: u64 = 1 << 41;
/// Largest bitmap of one slot that the offline tool accepts for internal metadata, in bytes.
pub const MAX_SLOT_BITMAP_BYTES: u64 = 1 << 35;
/// Smallest activity log, in 4 KiB blocks.
pub const MIN_AL_BLOCKS: u32 = 8;
/// Largest activity log that can be attached, in 4 KiB blocks (16 GiB).
pub const MAX_AL_BLOCKS: u32 = 4_194_304;
/// Largest activity log the offline tool creates, in 4 KiB blocks (32 MiB).
pub const MAX_CREATE_AL_BLOCKS: u32 = 8192;
/// `al_nr_extents` of freshly created metadata.
pub const DEFAULT_AL_EXTENTS: u32 = 257;
/// Current UUID of freshly created metadata ("just created").
pub const UUID_JUST_CREATED: u64 = 4;
/// Bit of a UUID that marks a generation begun as Primary; comparisons ignore it.
pub const UUID_PRIMARY: u64 = 1;
