//! Conversions between v08 and v09, as `create-md` over metadata of the other version does them
//! (metadata, section 9.4). Activity log and bitmap stay where they are: v08 has the layout of v09
//! with one slot.

use super::{Format, Magic, Superblock};
use crate::flags::{LocalFlags, PeerFlags};
use crate::geometry::BitmapBlockSize;
use crate::limits::HISTORY_UUIDS_V08;

/// Which v08 bit is which peer flag.
const PEER_BITS: [(LocalFlags, PeerFlags); 3] = [
    (LocalFlags::CONNECTED_IND, PeerFlags::CONNECTED),
    (LocalFlags::FULL_SYNC, PeerFlags::FULL_SYNC),
    (LocalFlags::PEER_OUT_DATED, PeerFlags::OUTDATED),
];

/// Metadata that the other format cannot express.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("v08 metadata has one bitmap slot of 4 KiB blocks, this has {slots} of {block_size} bytes")]
pub struct ConvertError {
    /// Bitmap slots.
    pub slots: u8,
    /// Bytes per bit.
    pub block_size: u32,
}

/// The flags that v08 has; those of later versions are not written to it (metadata, section 3.7).
const V08_FLAGS: LocalFlags = LocalFlags::from_bits(0x1ff);

impl Superblock {
    /// v08 metadata in the form in which a node holds it that has one peer: that peer's entry has the
    /// bitmap slot, the bitmap UUID and the flags (metadata, section 3.7). A Primary of the 8 series
    /// does not write CRASHED_PRIMARY; that it did not demote itself says it. v09 metadata is not changed.
    #[must_use]
    pub fn with_only_peer(&self, own: u8, only_peer: u8) -> Self {
        let mut to = self.clone();
        if self.magic.format() != Format::V08 {
            return to;
        }
        let [first, ..] = &self.peers;
        let mut entry = super::PeerEntry {
            bitmap_uuid: first.bitmap_uuid,
            bitmap_index: Some(0),
            ..Default::default()
        };
        for (local, remote) in PEER_BITS {
            entry.flags.set(remote, self.flags.contains(local));
        }
        to.magic = Magic::V09;
        to.node_id = Some(own);
        to.flags = self.flags & !LocalFlags::V08_PEER_BITS;
        to.flags.set(LocalFlags::AL_CLEAN, self.is_clean());
        if self.flags.contains(LocalFlags::PRIMARY_IND) {
            to.flags.insert(LocalFlags::CRASHED_PRIMARY);
        }
        to.peers = Default::default();
        if let Some(place) = to.peers.get_mut(usize::from(only_peer)) {
            *place = entry;
        }
        to
    }

    /// The reverse of [`with_only_peer`](Self::with_only_peer): v08 metadata of a device that is in use,
    /// with the magic number that says so.
    #[must_use]
    pub fn to_v08_in_use(&self, only_peer: u8) -> Self {
        let mut to = self.clone();
        let entry = self.peers.get(usize::from(only_peer)).copied();
        let entry = entry.unwrap_or_default();
        to.magic = Magic::V08Unclean;
        to.flags = self.flags & V08_FLAGS & !LocalFlags::V08_PEER_BITS;
        for (local, remote) in PEER_BITS {
            to.flags.set(local, entry.flags.contains(remote));
        }
        to.peers = Default::default();
        let [first, ..] = &mut to.peers;
        first.bitmap_uuid = entry.bitmap_uuid;
        to.members = 0;
        to.node_id = None;
        for uuid in to.history.iter_mut().skip(HISTORY_UUIDS_V08) {
            *uuid = 0;
        }
        to
    }

    /// This superblock in another format. To v09, the bitmap UUID is dropped and no slot is
    /// assigned; to v08, the peer is the one that the slot belongs to, or node 0 if there is none.
    ///
    /// # Errors
    /// To v08: there is more than one slot, or a block size other than 4 KiB.
    pub fn to_format(&self, format: Format) -> Result<Self, ConvertError> {
        let mut to = self.clone();
        match (self.magic.format(), format) {
            (Format::V08, Format::V08) | (Format::V09, Format::V09) => {}
            (Format::V08, Format::V09) => {
                to.magic = Magic::V09;
                to.flags = self.flags & !LocalFlags::V08_PEER_BITS;
                let [peer, ..] = &mut to.peers;
                peer.bitmap_uuid = 0;
                for (local, remote) in PEER_BITS {
                    peer.flags.set(remote, self.flags.contains(local));
                }
            }
            (Format::V09, Format::V08) => {
                if self.max_peers != 1 || self.block_size != BitmapBlockSize::DEFAULT {
                    return Err(ConvertError {
                        slots: self.max_peers,
                        block_size: self.block_size.bytes(),
                    });
                }
                to.magic = Magic::V08;
                if let Some(owner) = to.peers.iter().position(|p| p.bitmap_index == Some(0)) {
                    to.peers.swap(0, owner);
                }
                let [peer, others @ ..] = &mut to.peers;
                for (local, remote) in PEER_BITS {
                    to.flags.set(local, peer.flags.contains(remote));
                }
                *peer = super::PeerEntry {
                    bitmap_uuid: peer.bitmap_uuid,
                    ..Default::default()
                };
                others.fill(super::PeerEntry::default());
                to.members = 0;
                to.node_id = None;
                for uuid in to.history.iter_mut().skip(HISTORY_UUIDS_V08) {
                    *uuid = 0;
                }
            }
        }
        Ok(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::{AlStriping, BitmapBlockSize, Geometry, MdIndex, Placement};

    fn v08() -> Superblock {
        let place = Placement {
            index: MdIndex::Internal,
            device_size: 64 << 20,
        };
        let geometry =
            Geometry::new(place, 1, BitmapBlockSize::DEFAULT, AlStriping::DEFAULT).unwrap();
        let mut sb = Superblock::create(Format::V08, &geometry);
        sb.magic = Magic::V08Unclean;
        // A Primary of the 8 series whose peer was inconsistent.
        sb.flags = LocalFlags::from_bits(0x37);
        sb.current_uuid = 0x1111_1111_1111_1111;
        sb.peers[0].bitmap_uuid = 0x2222_2222_2222_2222;
        sb.history[..2].copy_from_slice(&[3, 4]);
        sb
    }

    #[test]
    fn held_for_a_peer_and_written_back() {
        let disk = v08();
        let held = disk.with_only_peer(3, 5);
        assert_eq!((held.magic, held.node_id), (Magic::V09, Some(3)));
        assert_eq!(held.peers[5].bitmap_uuid, 0x2222_2222_2222_2222);
        assert_eq!(held.peers[5].bitmap_index, Some(0));
        assert_eq!(
            held.peers[5].flags,
            PeerFlags::CONNECTED | PeerFlags::OUTDATED
        );
        assert_eq!(held.peers[0], super::super::PeerEntry::default());
        assert_eq!(held.flags.bits(), 0x53);
        let mut back = held.to_v08_in_use(5);
        assert_eq!(back.flags.bits(), 0x77);
        back.flags.remove(LocalFlags::CRASHED_PRIMARY);
        assert_eq!(back, disk);
        assert_eq!(Superblock::decode(&back.encode()), Ok(disk));
    }

    #[test]
    fn what_v08_cannot_say_is_not_written() {
        let mut held = v08().with_only_peer(0, 1);
        held.flags.insert(LocalFlags::HAVE_QUORUM);
        held.history[2] = 7;
        held.peers[4].bitmap_uuid = 9;
        let back = held.to_v08_in_use(1);
        assert!(!back.flags.contains(LocalFlags::HAVE_QUORUM));
        assert_eq!(Superblock::decode(&back.encode()), Ok(back.clone()));
        assert_eq!(back.history[2], 0);
    }

    #[test]
    fn the_owner_of_the_bitmap_is_the_peer_of_v08() {
        let held = v08().with_only_peer(0, 5);
        let back = held.to_format(Format::V08).unwrap();
        assert_eq!(back.peers[0].bitmap_uuid, 0x2222_2222_2222_2222);
        assert_eq!(back.peers[5], super::super::PeerEntry::default());
        let bits = LocalFlags::from_bits(0x24);
        assert_eq!(back.flags & LocalFlags::V08_PEER_BITS, bits);
        // Not assigned yet: as converted from v08.
        let fresh = v08().to_format(Format::V09).unwrap();
        let back = fresh.to_format(Format::V08).unwrap();
        assert_eq!(back.flags & LocalFlags::V08_PEER_BITS, bits);
    }

    #[test]
    fn clean_only_with_the_clean_magic() {
        let mut disk = v08();
        disk.flags = LocalFlags::AL_CLEAN;
        assert!(!disk.with_only_peer(0, 1).is_clean());
        disk.magic = Magic::V08;
        assert!(disk.with_only_peer(0, 1).is_clean());
    }
}
