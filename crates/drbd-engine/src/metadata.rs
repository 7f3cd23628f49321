//! The superblock on its way to the disk.
//!
//! Nothing in the engine asks for a superblock write. Whoever changes something that the superblock holds
//! says [`Engine::md_touch`]; at the end of the event the block is built, and if it differs from the one on
//! the disk it is written while the outbox holds everything that may depend on it.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use drbd_meta::flags::LocalFlags;
use drbd_meta::geometry::Geometry;
use drbd_meta::superblock::{PeerEntry, Superblock};
use drbd_proto::{DiskState, NodeId, Role, VolumeNr};

use crate::control::ControlOp;
use crate::effect::{Effect, MetaBlock};
use crate::engine::{Engine, Op};
use crate::event::OpResult;

/// A block of the metadata device.
type Block = Box<[u8; 4096]>;

/// The superblock of an attached disk.
#[derive(Debug)]
pub(crate) struct MetaWriter {
    /// Everything but the generation identifiers, which are merged in when it is built.
    pub sb: Superblock,
    /// Where things lie.
    pub geometry: Geometry,
    /// PRIMARY_IND goes when the bitmap is written and no peer's write is in flight.
    pub clear_primary_ind_when_written: bool,
    /// The only peer, if the disk has metadata of the 8 series; the superblock is then held in the
    /// form of version 9 and written in that of the disk (metadata, section 3.7).
    pub v08_peer: Option<NodeId>,
    /// The block on the disk, as far as known.
    durable: Option<Block>,
    /// The block being written.
    writing: Option<Block>,
}

impl MetaWriter {
    /// For a superblock that was read from `geometry`'s place.
    pub(crate) fn new(sb: Superblock, geometry: Geometry) -> Self {
        MetaWriter {
            sb,
            geometry,
            clear_primary_ind_when_written: false,
            v08_peer: None,
            durable: None,
            writing: None,
        }
    }

    /// The block as it goes to the disk.
    fn encode(&self) -> [u8; 4096] {
        match self.v08_peer {
            Some(peer) => self.sb.to_v08_in_use(peer.get()).encode(),
            None => self.sb.encode(),
        }
    }

    /// From now on the metadata is somewhere else; nothing is known to be there.
    pub(crate) fn relocate(&mut self, geometry: Geometry) {
        self.geometry = geometry;
        self.sb.md_size_sect = geometry.md_size_sect();
        self.sb.al_offset = geometry.al_offset();
        self.sb.bm_offset = geometry.bm_offset();
        self.sb.striping = geometry.striping();
        self.durable = None;
    }

    /// Bitmap slot of a node.
    pub(crate) fn slot(&self, node: NodeId) -> Option<u8> {
        self.sb.peers.get(node.index()).and_then(|p| p.bitmap_index)
    }

    /// Entry of a node.
    pub(crate) fn peer(&self, node: NodeId) -> PeerEntry {
        self.sb.peers.get(node.index()).copied().unwrap_or_default()
    }

    /// CONSISTENT as it is known to the metadata.
    pub(crate) fn was_consistent(&self) -> bool {
        self.sb.flags.contains(LocalFlags::CONSISTENT)
    }

    /// WAS_UP_TO_DATE as it is known to the metadata.
    pub(crate) fn was_up_to_date(&self) -> bool {
        self.sb.flags.contains(LocalFlags::WAS_UP_TO_DATE)
    }

    /// Whether the disk has the superblock of this moment, as far as it was ever asked for.
    pub(crate) fn is_settled(&self) -> bool {
        self.writing.is_none()
    }

    /// Byte offset of the superblock on the metadata device.
    pub(crate) fn superblock_offset(&self) -> u64 {
        self.geometry.superblock_sector() << 9
    }
}

impl Engine {
    /// Something that the superblock holds has changed.
    pub(crate) fn md_touch(&mut self) {
        self.md_dirty = true;
    }

    /// Writes the superblocks that differ from what is on the disk.
    pub(crate) fn write_dirty_superblocks(&mut self) {
        if !core::mem::take(&mut self.md_dirty) {
            return;
        }
        let volumes: Vec<VolumeNr> = self.volumes.keys().copied().collect();
        for v in volumes {
            self.clear_primary_ind(v);
            self.write_superblock(v);
        }
        self.hold_or_release();
    }

    fn write_superblock(&mut self, v: VolumeNr) {
        let given_up = self.volumes.get(&v).is_some_and(|x| x.data.given_up);
        let Some(disk) = self.disk_mut(v) else { return };
        if disk.meta.writing.is_some() || !disk.loaded || given_up {
            return;
        }
        disk.gen_ids.store(&mut disk.meta.sb);
        let block: Block = Box::new(disk.meta.encode());
        if disk.meta.durable.as_ref() == Some(&block) {
            return;
        }
        disk.meta.writing = Some(block.clone());
        let offset = disk.meta.superblock_offset();
        let barrier = disk.options.md_flushes;
        let op = self.op(Op::Control(ControlOp::Superblock(v)));
        let blocks = vec![MetaBlock {
            offset,
            data: block,
        }];
        self.push(Effect::MetaWrite {
            op,
            volume: v,
            blocks,
            barrier,
        });
    }

    fn hold_or_release(&mut self) {
        let writing = self
            .volumes
            .values()
            .any(|v| v.disk.as_ref().is_some_and(|d| d.meta.writing.is_some()));
        if writing {
            self.out.hold();
        } else {
            self.out.release();
        }
    }

    /// A superblock write has ended.
    pub(crate) fn superblock_written(&mut self, v: VolumeNr, result: OpResult) {
        let failed = result.is_err();
        if let Some(disk) = self.disk_mut(v) {
            let written = disk.meta.writing.take();
            disk.meta.durable = if failed { None } else { written };
        }
        if failed {
            self.disk_failed(v, crate::disk::DiskFault::Meta);
        }
        // What changed meanwhile is written now; if nothing did, what waited goes out.
        self.md_dirty = true;
        self.attach_superblock_written(v);
    }

    /// PRIMARY_IND goes only after everything it covers is on the disk (metadata, section 4.2; data path,
    /// section 13.5): nobody is Primary, or the disk is let go in order; no peer's write is in flight, the bitmap is
    /// written.
    fn clear_primary_ind(&mut self, v: VolumeNr) {
        let leaving = self.state.disk(v) == DiskState::Detaching;
        let any_primary =
            !leaving && (self.state.role == Role::Primary || self.state.any_peer_primary());
        let failed = self.state.disk(v) == DiskState::Failed || self.forced_detach.contains(&v);
        let busy = self.data_peer_writes_in_flight() || !self.data_quiet(v);
        let written = self.data_bitmap_written(v);
        let wanted = self
            .disk_ref(v)
            .is_some_and(|d| d.meta.clear_primary_ind_when_written)
            && !any_primary;
        let clean = wanted && written && !busy && self.data_cache_clean(v);
        let Some(disk) = self.disk_mut(v) else { return };
        if !disk.meta.clear_primary_ind_when_written {
            return;
        }
        // A disk that failed since then may have kept nothing of its bitmap: what was taken out to be written
        // does not count as dirty any more.
        if any_primary || failed {
            disk.meta.clear_primary_ind_when_written = false;
        } else if written && !busy && clean {
            disk.meta.clear_primary_ind_when_written = false;
            disk.meta.sb.flags.remove(LocalFlags::PRIMARY_IND);
        } else {
            self.data_bitmap_writeout(v);
        }
    }
}
