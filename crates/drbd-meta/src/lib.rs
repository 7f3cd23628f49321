//! What lies on the disk: DRBD's metadata.
//!
//! Every volume with a backing disk keeps three regions of metadata (metadata, section 2.1):
//!
//! * one 4 KiB [superblock](superblock::Superblock): sizes, generation UUIDs, flags, one entry per node;
//! * the [activity log](activity_log): a ring of 4 KiB blocks that journals which 4 MiB extents may
//!   hold writes that the bitmap does not show yet;
//! * the [bitmap](bitmap::BitmapLayout): per peer slot one bit per block that is out of sync.
//!
//! [`geometry::Geometry`] says where they lie. This crate encodes, decodes and computes; it does no
//! I/O and decides nothing. Superblock and activity log are big endian, the bitmap is little endian.
//! "Sector" always means 512 bytes, "block" of metadata always 4096 bytes.
//!
//! # Order of writes
//!
//! The promises of the metadata depend on the order in which its parts become durable. The writer
//! of this crate's blocks has to keep these rules (metadata, sections 3.6, 5.3, 5.6 and 7.4):
//!
//! 1. Activation of extents: bitmap pages of the evicted extents, then a flush, then the
//!    transaction block (with FUA), and only then the data writes to the new extents.
//! 2. Replay: bitmap, flush, then the ring's re-initialisation, flush, then the superblock with
//!    [`AL_CLEAN`](flags::LocalFlags::AL_CLEAN). A crash in between repeats the replay.
//! 3. The superblock is written with preflush and FUA. `PRIMARY_IND` is durable before the first
//!    write reaches the backing disk, on a Secondary too.
//! 4. A peer's `FULL_SYNC` flag is durable before its slot is filled with ones, and is cleared only
//!    after the slot is durable.
//! 5. When metadata moves, the superblock at the new place is written first, with `AL_DISABLED` and
//!    `FULL_SYNC` for all peers; then activity log and bitmap; then the superblock again without.
#![no_std]
#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]
extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod activity_log;
pub mod bitmap;
pub mod crc32c;
pub mod flags;
pub mod geometry;
pub mod limits;
pub mod superblock;

/// One 4 KiB block of metadata, the unit of all metadata I/O (metadata, section 2.7).
pub type Block = [u8; limits::BLOCK_BYTES];
