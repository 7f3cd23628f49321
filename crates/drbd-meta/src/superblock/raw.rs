//! The byte layouts of the superblock, declared once (metadata, section 3). Every type is a view of
//! the 4096 bytes as they lie on the disk, in big endian.

use crate::limits::{HISTORY_UUIDS, HISTORY_UUIDS_V08, MAX_NODES};
use core::mem::{offset_of, size_of};
use zerocopy::byteorder::big_endian::{I32, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What v08 and v09 have at the same place.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Common {
    /// Flags.
    pub flags: U32,
    /// Magic number.
    pub magic: U32,
    /// Sectors of all metadata.
    pub md_size_sect: U32,
    /// Activity log's first sector, from the superblock.
    pub al_offset: I32,
    /// Extents of the activity log.
    pub al_nr_extents: U32,
    /// Bitmap's first sector, from the superblock.
    pub bm_offset: I32,
    /// Bytes of storage per bit.
    pub bm_bytes_per_bit: U32,
    /// Last agreed maximum request size in bytes.
    pub la_peer_max_bio_size: U32,
}

/// v09, DRBD 9 (metadata, section 3.4).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct V09 {
    /// Last agreed size in sectors.
    pub effective_size: U64,
    /// Current data generation.
    pub current_uuid: U64,
    /// Mask of member nodes.
    pub members: U64,
    /// Zero.
    pub reserved_u64: [U64; 3],
    /// Random id from the administration tool.
    pub device_uuid: U64,
    /// What v08 has at the same place.
    pub common: Common,
    /// Bitmap slots.
    pub bm_max_peers: U32,
    /// Own node id, -1 for none.
    pub node_id: I32,
    /// Stripes of the activity log.
    pub al_stripes: U32,
    /// 4 KiB blocks of a stripe.
    pub al_stripe_size_4k: U32,
    /// Zero.
    pub reserved_u32: [U32; 2],
    /// An entry per node id.
    pub peers: [V09Peer; MAX_NODES],
    /// Former generations, youngest first.
    pub history_uuids: [U64; HISTORY_UUIDS],
    /// Zero.
    pub zero: [u8; 2704],
}

/// One peer entry of [`V09`].
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct V09Peer {
    /// Data generation since which the bits count.
    pub bitmap_uuid: U64,
    /// Dagtag of that moment.
    pub bitmap_dagtag: U64,
    /// Flags.
    pub flags: U32,
    /// Bitmap slot, -1 for none.
    pub bitmap_index: I32,
    /// Zero.
    pub reserved_u32: [U32; 2],
}

/// v08, DRBD 8.0 to 8.4 (metadata, section 3.3).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct V08 {
    /// Last agreed size in sectors.
    pub effective_size: U64,
    /// Current data generation.
    pub current_uuid: U64,
    /// Data generation since which the bits count.
    pub bitmap_uuid: U64,
    /// Former generations, youngest first.
    pub history_uuids: [U64; HISTORY_UUIDS_V08],
    /// Random id from the administration tool.
    pub device_uuid: U64,
    /// Zero.
    pub reserved_u64: U64,
    /// What v09 has at the same place.
    pub common: Common,
    /// Stripes of the activity log.
    pub al_stripes: U32,
    /// 4 KiB blocks of a stripe.
    pub al_stripe_size_4k: U32,
    /// Zero.
    pub reserved_u32: U32,
    /// Zero.
    pub zero: [u8; 3996],
}

/// v07, DRBD 0.7 (metadata, section 3.2): known to the offline tool alone.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct V07 {
    pub(super) la_size_kib: U64,
    pub(super) flags: U32,
    pub(super) human: U32,
    pub(super) timeout: U32,
    pub(super) connected: U32,
    pub(super) arbitrary: U32,
    pub(super) magic: U32,
    pub(super) md_size_kib: U32,
    pub(super) al_offset: I32,
    pub(super) al_nr_extents: U32,
    pub(super) bm_offset: I32,
    pub(super) zero: [u8; 4048],
}

const _: () = {
    assert!(size_of::<V09>() == 4096 && size_of::<V08>() == 4096 && size_of::<V07>() == 4096);
    assert!(offset_of!(Common, magic) == 4 && offset_of!(Common, bm_bytes_per_bit) == 24);
    assert!(offset_of!(V09, device_uuid) == 48 && offset_of!(V09, common) == 56);
    assert!(offset_of!(V09, bm_max_peers) == 88 && offset_of!(V09, al_stripes) == 96);
    assert!(offset_of!(V09, peers) == 112 && size_of::<V09Peer>() == 32);
    assert!(offset_of!(V09, history_uuids) == 1136 && offset_of!(V09, zero) == 1392);
    assert!(offset_of!(V08, device_uuid) == 40 && offset_of!(V08, common) == 56);
    assert!(offset_of!(V08, al_stripes) == 88 && offset_of!(V08, zero) == 100);
    assert!(offset_of!(V07, magic) == 28 && offset_of!(V07, zero) == 48);
};
