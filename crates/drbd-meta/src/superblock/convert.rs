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

impl Superblock {
    /// This superblock in another format. To v09, the bitmap UUID is dropped and no slot is
    /// assigned; to v08, node 0 is taken as the peer.
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
