//! What a dump says before its bitmaps.

use crate::meta::record::{Record, Version};
use drbd_meta::flags::LocalFlags;
use drbd_meta::geometry::{AlStriping, BitmapBlockSize, Geometry};
use drbd_meta::limits::{DEFAULT_AL_EXTENTS, HISTORY_UUIDS, MAX_NODES};
use drbd_meta::superblock::{PeerEntry, Superblock, V07Superblock};

/// What stands before the bitmaps, apart from what follows from the layout.
#[derive(Debug)]
pub(in crate::meta) struct Header {
    pub(in crate::meta) max_peers: u8,
    pub(in crate::meta) striping: AlStriping,
    pub(in crate::meta) block_size: BitmapBlockSize,
    pub(super) node_id: Option<u8>,
    pub(super) current_uuid: u64,
    pub(super) flags: LocalFlags,
    pub(super) members: u64,
    pub(super) peers: [PeerEntry; MAX_NODES],
    pub(super) history: [u64; HISTORY_UUIDS],
    pub(super) effective_size: u64,
    pub(super) device_uuid: u64,
    pub(super) la_peer_max_bio_size: u32,
    /// v07: flags, human, timeout, connected and arbitrary count.
    pub(super) counters: [u32; 5],
}

impl Default for Header {
    fn default() -> Self {
        Self {
            max_peers: 1,
            striping: AlStriping::DEFAULT,
            block_size: BitmapBlockSize::DEFAULT,
            node_id: None,
            current_uuid: 0,
            flags: LocalFlags::NONE,
            members: 0,
            peers: [PeerEntry::default(); MAX_NODES],
            history: [0; HISTORY_UUIDS],
            effective_size: 0,
            device_uuid: 0,
            la_peer_max_bio_size: 0,
            counters: [0; 5],
        }
    }
}

impl Header {
    /// The metadata in this layout.
    pub(in crate::meta) fn record(&self, version: Version, geometry: &Geometry) -> Record {
        let Some(format) = version.format() else {
            let [flags, human, timeout, connected, arbitrary] = self.counters;
            return Record::V07(V07Superblock {
                effective_size: self.effective_size,
                flags,
                human,
                timeout,
                connected,
                arbitrary,
                md_size_sect: geometry.md_size_sect(),
                al_offset: geometry.al_offset(),
                al_nr_extents: DEFAULT_AL_EXTENTS,
                bm_offset: geometry.bm_offset(),
            });
        };
        Superblock {
            node_id: self.node_id,
            current_uuid: self.current_uuid,
            flags: self.flags,
            members: self.members,
            peers: self.peers,
            history: self.history,
            effective_size: self.effective_size,
            device_uuid: self.device_uuid,
            la_peer_max_bio_size: self.la_peer_max_bio_size,
            ..Superblock::create(format, geometry)
        }
        .into()
    }
}
