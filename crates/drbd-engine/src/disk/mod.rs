//! A disk comes and goes (state machine, section 14; metadata, section 7).

mod activate;
mod attach;
mod detach;
mod timeout;

use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;

use drbd_meta::Block;
use drbd_meta::superblock::Superblock;
use drbd_proto::{NodeId, VolumeNr};

use crate::bitmap::Fill;
use crate::engine::Engine;

/// Largest piece of the metadata area that is read at once, in bytes.
const READ_PIECE: u64 = 1 << 20;
/// Blocks of the activity log ring that are written at once.
const RING_PIECE: usize = 64;

/// What went wrong on a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DiskFault {
    /// Reading data.
    Read,
    /// Writing data.
    Write,
    /// Metadata.
    Meta,
    /// It does not answer.
    Timeout,
}

/// An attach under way, until the disk can be used.
#[derive(Debug)]
pub(crate) struct Attaching {
    step: Step,
    /// What the superblock said about the size, in sectors.
    effective_size: u64,
    /// Content of the ring, while it is being read.
    ring: Vec<u8>,
    /// Blocks of the ring that are initialised again.
    ring_written: u32,
    /// What the first block is overwritten with before all others: it has no transaction, and others have.
    first_transaction: Option<Box<Block>>,
    /// Was the activity log replayed?
    replayed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Superblock,
    /// Reading the bitmap from this byte of its area on.
    Bitmap {
        at: u64,
        bytes: u64,
    },
    /// Reading the ring.
    Ring,
    /// The replayed bits are being written.
    ReplayedBitmap,
    /// The ring is being initialised.
    InitRing,
    /// The first superblock of this attach is being written.
    Final,
    /// Peers are being asked.
    Negotiating,
}

impl Engine {
    /// Gives a peer a bitmap slot on the own disk, if it needs one and has none.
    pub(crate) fn assign_slot(&mut self, peer: NodeId, v: VolumeNr) -> bool {
        let wants = self.peer_device(peer, v).is_none_or(|k| k.options.bitmap);
        let Some(nodes) = self.nodes(v) else {
            return true;
        };
        if nodes.slot(peer).is_some() || !wants {
            return true;
        }
        let Some(free) = nodes.free_slot() else {
            return false;
        };
        if let Some(disk) = self.disk_mut(v)
            && let Some(entry) = disk.meta.sb.peers.get_mut(peer.index())
        {
            entry.bitmap_index = Some(free.0);
        }
        self.md_touch();
        true
    }

    /// Grows or shrinks the bitmap with the device.
    pub(crate) fn resize_bitmap(&mut self, v: VolumeNr, sectors: u64, fill: Fill) -> bool {
        let Some(disk) = self.disk_mut(v) else {
            return true;
        };
        if disk.bitmap.capacity() == sectors {
            return true;
        }
        disk.bitmap.resize(sectors, fill).is_ok()
    }
}

/// Slots of the superblock: in range, not our own, each once.
fn check_slots(sb: &Superblock, me: NodeId) -> Result<(), alloc::string::String> {
    let mut used = 0u32;
    for (n, entry) in NodeId::all().zip(&sb.peers) {
        let Some(slot) = entry.bitmap_index else {
            continue;
        };
        if n == me {
            return Err(format!(
                "the metadata has a bitmap slot for this node's own id {n}"
            ));
        }
        if slot >= sb.max_peers {
            return Err(format!(
                "node {n} has bitmap slot {slot} of {}",
                sb.max_peers
            ));
        }
        let bit = 1u32.checked_shl(slot.into()).unwrap_or(0);
        if used & bit != 0 {
            return Err(format!("bitmap slot {slot} belongs to two nodes"));
        }
        used |= bit;
    }
    Ok(())
}
