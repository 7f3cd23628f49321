//! The byte layouts of the superblock, declared once (metadata, section 3). Every type is a view of
//! the 4096 bytes as they lie on the disk, in big endian.

use crate::limits::{HISTORY_UUIDS, HISTORY_UUIDS_V08, MAX_NODES};
use core::mem::{offset_of, size_of};
use zerocopy::byteorder::big_endian::{I32, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// v09, DRBD 9 (metadata, section 3.4).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct V09 {
    pub(super) effective_size: U64,
    pub(super) current_uuid: U64,
    pub(super) members: U64,
    pub(super) reserved_u64: [U64; 3],
    pub(super) device_uuid: U64,
    pub(super) flags: U32,
    pub(super) magic: U32,
    pub(super) md_size_sect: U32,
    pub(super) al_offset: I32,
    pub(super) al_nr_extents: U32,
    pub(super) bm_offset: I32,
    pub(super) bm_bytes_per_bit: U32,
    pub(super) la_peer_max_bio_size: U32,
    pub(super) bm_max_peers: U32,
    pub(super) node_id: I32,
    pub(super) al_stripes: U32,
    pub(super) al_stripe_size_4k: U32,
    pub(super) reserved_u32: [U32; 2],
    pub(super) peers: [V09Peer; MAX_NODES],
    pub(super) history_uuids: [U64; HISTORY_UUIDS],
    pub(super) zero: [u8; 2704],
}

/// One peer entry of [`V09`].
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct V09Peer {
    pub(super) bitmap_uuid: U64,
    pub(super) bitmap_dagtag: U64,
    pub(super) flags: U32,
    pub(super) bitmap_index: I32,
    pub(super) reserved_u32: [U32; 2],
}

/// v08, DRBD 8.0 to 8.4 (metadata, section 3.3).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct V08 {
    pub(super) effective_size: U64,
    pub(super) current_uuid: U64,
    pub(super) bitmap_uuid: U64,
    pub(super) history_uuids: [U64; HISTORY_UUIDS_V08],
    pub(super) device_uuid: U64,
    pub(super) reserved_u64: U64,
    pub(super) flags: U32,
    pub(super) magic: U32,
    pub(super) md_size_sect: U32,
    pub(super) al_offset: I32,
    pub(super) al_nr_extents: U32,
    pub(super) bm_offset: I32,
    pub(super) bm_bytes_per_bit: U32,
    pub(super) la_peer_max_bio_size: U32,
    pub(super) al_stripes: U32,
    pub(super) al_stripe_size_4k: U32,
    pub(super) reserved_u32: U32,
    pub(super) zero: [u8; 3996],
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
    assert!(offset_of!(V09, device_uuid) == 48 && offset_of!(V09, flags) == 56);
    assert!(offset_of!(V09, magic) == 60 && offset_of!(V09, bm_bytes_per_bit) == 80);
    assert!(offset_of!(V09, bm_max_peers) == 88 && offset_of!(V09, al_stripes) == 96);
    assert!(offset_of!(V09, peers) == 112 && size_of::<V09Peer>() == 32);
    assert!(offset_of!(V09, history_uuids) == 1136 && offset_of!(V09, zero) == 1392);
    assert!(offset_of!(V08, device_uuid) == 40 && offset_of!(V08, flags) == 56);
    assert!(offset_of!(V08, magic) == 60 && offset_of!(V08, al_stripes) == 88);
    assert!(offset_of!(V08, zero) == 100);
    assert!(offset_of!(V07, magic) == 28 && offset_of!(V07, zero) == 48);
};
