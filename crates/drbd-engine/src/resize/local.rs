//! What a node does with its own disk when the size changes (metadata, section 7.4).
//!
//! In memory the new size counts at once, so that peers that are faster may use the new area. Applications see it, and
//! writes go on, when it is durable. Until then the activity log is closed; before, a device that shrinks waits for what
//! is written behind its new end. If the metadata moves, the superblock at the
//! new place says first that nothing else there can be trusted: a crash costs a full resync, no data.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;

use drbd_meta::activity_log::{AlLayout, next_context_start};
use drbd_meta::flags::{LocalFlags, PeerFlags};
use drbd_meta::geometry::Geometry;
use drbd_proto::{DdsFlags, DiskState, NodeId, NodeMask, ReplState, Role, Sector, VolumeNr};

use crate::bitmap::Fill;
use crate::command::{Reply, RetCode};
use crate::control::ControlOp;
use crate::disk::DiskFault;
use crate::effect::{Effect, LogLevel, MetaBlock};
use crate::engine::{Engine, Op, PacketError};
use crate::event::OpResult;
use crate::id::CmdId;
use crate::state::change::ChangeFlags;
use crate::volume::FullSync;

use super::Commit;

/// Blocks of the ring that are written at once.
const RING_PIECE: u32 = 64;

/// A change of size that is not durable yet.
#[derive(Debug)]
pub(crate) struct Resizing {
    /// Tells the operations of this change from those of an earlier one.
    serial: u64,
    step: Step,
    /// What applications see until it is done, in sectors.
    shown: u64,
    size: u64,
    /// Where the metadata is going to be, if that changes.
    place: Option<Geometry>,
    /// What the superblock says again when everything is at its place.
    full_sync: NodeMask,
    al_disabled: bool,
    /// First transaction number of the new ring.
    first_tr: u32,
    cmd: Option<CmdId>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// The device shrinks: waiting until nobody writes behind its new end.
    Requests,
    /// Waiting until nobody writes metadata.
    Drain,
    /// The first superblock at the new place is being written.
    Superblock,
    /// The ring is being written, up to this block.
    Ring { written: u32 },
    /// The bitmap is being written; this write-out has all of it.
    Bitmap { round: u64 },
}

impl Engine {
    /// The size of the virtual device that applications may use.
    pub(crate) fn shown_size(&self, v: VolumeNr, size: u64) -> u64 {
        self.resizes.get(&v).map_or(size, |r| r.shown.min(size))
    }

    /// Carries out a decided change of size.
    pub(super) fn resize_commit(&mut self, v: VolumeNr, commit: Commit) {
        let Some(volume) = self.volumes.get_mut(&v) else {
            return self.answer_resize(commit.cmd, RetCode::ERR_MINOR_INVALID);
        };
        let old = volume.size;
        let size = commit.size;
        let attached = volume.disk.as_ref().is_some_and(|d| d.loaded)
            && self.state.disk(v) >= DiskState::Negotiating;
        if size != old {
            let text = format!("size = {} KB ({size} sectors), was {old}", size / 2);
            self.log_at(LogLevel::Info, None, Some(v), text);
        }
        // Who took part has room for it.
        let there: Vec<NodeId> = self.connected_nodes().iter().collect();
        for peer in there {
            if let Some(known) = self.peer_device_mut(peer, v) {
                let sizes = &mut known.sizes;
                if sizes.d_size != 0 {
                    sizes.d_size = sizes.d_size.max(size);
                    sizes.max_size = sizes.max_size.max(size);
                }
                sizes.c_size = size;
            }
        }
        if !attached {
            if let Some(volume) = self.volumes.get_mut(&v) {
                volume.size = size;
            }
            self.publish_device(v);
            self.update_limits();
            // The disk of this node went while the cluster agreed.
            return self.answer_resize(commit.cmd, RetCode::ERR_NO_DISK);
        }
        let clean = commit.flags.contains(DdsFlags::NO_RESYNC);
        let fill = if clean { Fill::Clear } else { Fill::Set };
        if !self.resize_bitmap(v, size, fill) {
            self.log_at(
                LogLevel::Error,
                None,
                Some(v),
                "no memory for the bitmap of the new size: detaching",
            );
            self.disk_failed(v, DiskFault::Meta);
            self.answer_resize(commit.cmd, RetCode::ERR_NOMEM);
            return;
        }
        let Some(volume) = self.volumes.get_mut(&v) else {
            return;
        };
        volume.size = size;
        let Some(disk) = volume.disk.as_mut() else {
            return;
        };
        disk.options.size = commit.user_size;
        let mut place = None;
        if let Some((measured, geometry)) = commit.place {
            disk.backing.disk_bytes = measured.disk_bytes;
            disk.backing.meta_bytes = measured.meta_bytes;
            disk.measured = None;
            place = (geometry != disk.meta.geometry).then_some(geometry);
        }
        let shrinks = size < old;
        if !shrinks {
            volume.data.close_for_resize(place.is_some());
        }
        let resizing = Resizing {
            serial: self.next_op,
            step: if shrinks { Step::Requests } else { Step::Drain },
            shown: old,
            size,
            place,
            full_sync: NodeMask::EMPTY,
            al_disabled: false,
            first_tr: 0,
            cmd: commit.cmd,
        };
        self.resizes.insert(v, resizing);
        if size > old && !clean {
            self.resync_grown(v, &commit);
        }
        self.update_limits();
        // Without anybody to wait for it is done at once.
        let _ = self.resize_settle();
    }

    pub(super) fn answer_resize(&mut self, cmd: Option<CmdId>, code: RetCode) {
        if let Some(cmd) = cmd {
            self.reply(cmd, Reply::new(code));
        }
    }

    /// One end of each connection fetches the new area from the other one. The target begins; its source follows
    /// when it hears of it, so that no write is left out in between.
    fn resync_grown(&mut self, v: VolumeNr, commit: &Commit) {
        let own = self.state.disk(v);
        let peers: Vec<(NodeId, DiskState)> = self
            .state
            .peers_of(v)
            .filter(|(_, _, pd)| {
                pd.repl == ReplState::Established
                    && pd.pdisk >= DiskState::Inconsistent
                    && pd.pdisk != DiskState::Unknown
            })
            .map(|(n, _, pd)| (n, pd.pdisk))
            .collect();
        for (peer, pdisk) in peers {
            let source = match (own, pdisk) {
                (DiskState::UpToDate, DiskState::UpToDate) => self.grows_as_source(peer, commit),
                (DiskState::UpToDate, _) => Some(true),
                (_, DiskState::UpToDate) => Some(false),
                _ => None,
            };
            match source {
                Some(true) => {
                    if let Some(known) = self.peer_device_mut(peer, v) {
                        known.flags.grow_source = true;
                    }
                }
                Some(false) => self.fetch_new_area(peer, v),
                None => {}
            }
        }
    }

    fn fetch_new_area(&mut self, peer: NodeId, v: VolumeNr) {
        self.target_starts(peer, v);
        let _ = self.change(ChangeFlags::HARD, |s| {
            if let Some(d) = s.devices.get_mut(&v) {
                d.disk = DiskState::Inconsistent;
            }
            if let Some(pd) = s.pd_mut(peer, v) {
                pd.repl = ReplState::SyncTarget;
            }
        });
        self.judge_source(v);
    }

    /// A peer is connected, and one of the devices, or both, have grown: one end fetches the new area from the
    /// other one (section 15.4, 6). Who has grown while the other was away knows what is there.
    pub(crate) fn fetch_grown(&mut self, peer: NodeId, v: VolumeNr) {
        let primary = self.state.role == Role::Primary;
        let peer_primary = self.peer_is_primary(peer);
        let first = self.node_id < peer;
        let own = self.state.disk(v);
        let pdisk = self.state.pdisk(peer, v);
        let Some(known) = self.peer_device_mut(peer, v) else {
            return;
        };
        let (grew, peer_grew) = (known.flags.grew, known.flags.peer_grew);
        known.flags.grew = false;
        known.flags.peer_grew = false;
        let source = match (grew, peer_grew) {
            (false, false) => return,
            (true, true) if primary != peer_primary => primary,
            (true, true) => first,
            _ => !grew,
        };
        if source {
            known.flags.grow_source = true;
        } else if self.state.repl(peer, v) == ReplState::Established
            && pdisk == DiskState::UpToDate
            && own >= DiskState::Inconsistent
        {
            self.fetch_new_area(peer, v);
        }
    }

    /// A peer has another size, and this device follows (section 15.4, 2).
    pub(crate) fn resize_for_peer(
        &mut self,
        v: VolumeNr,
        size: u64,
        flags: DdsFlags,
    ) -> Result<(), PacketError> {
        if self.resizes.contains_key(&v) {
            return Err(PacketError::new(format!(
                "volume {v}: another change of size is under way"
            )));
        }
        let disk = self.disk_ref(v);
        // Nobody coordinates it. What both ends of a connection know decides between them: the Primary, else the
        // one with the smaller id, knows what is in the new area (section 15.4, 6).
        let primary = self.state.role == Role::Primary;
        let knows = |n: &NodeId| match self.peer_is_primary(*n) {
            theirs if theirs != primary => theirs,
            _ => *n < self.node_id,
        };
        let peers = || self.conns.keys().copied();
        let parents = peers().filter(knows).collect();
        let children = peers().filter(|n| !knows(n)).collect();
        let commit = Commit {
            size,
            user_size: disk.map_or(0, |d| d.options.size),
            flags,
            primaries: NodeMask::EMPTY,
            parents,
            children,
            place: disk.and_then(|d| d.measured),
            cmd: None,
        };
        self.resize_commit(v, commit);
        Ok(())
    }

    /// Goes on with changes of size; called after each event. Whether anything
    /// happened.
    pub(crate) fn resize_settle(&mut self) -> bool {
        let mut went_on = false;
        let volumes: Vec<VolumeNr> = self.resizes.keys().copied().collect();
        for v in volumes {
            while self.resize_step(v) {
                went_on = true;
            }
        }
        went_on
    }

    /// One step; false if it has to wait, or there are no more.
    fn resize_step(&mut self, v: VolumeNr) -> bool {
        let Some(resizing) = self.resizes.get(&v) else {
            return false;
        };
        if self.state.disk(v) < DiskState::Inconsistent {
            self.resize_given_up(v);
            return false;
        }
        let settled = !self.md_dirty && self.disk_ref(v).is_some_and(|d| d.meta.is_settled());
        match resizing.step {
            Step::Requests => return self.resize_quiet(v),
            Step::Drain if resizing.place.is_none() => self.resize_bitmap_out(v),
            Step::Drain if settled && self.metadata_idle(v) => self.move_metadata(v),
            Step::Superblock if settled => self.resize_write_ring(v, 0),
            Step::Bitmap { round }
                if self
                    .volumes
                    .get(&v)
                    .is_none_or(|x| x.data.bitmap_done >= round) =>
            {
                self.resize_done(v);
            }
            Step::Drain | Step::Superblock | Step::Ring { .. } | Step::Bitmap { .. } => {
                return false;
            }
        }
        true
    }

    /// What follows the device may belong to somebody else when the command has ended: nothing is written there any more.
    /// Then the activity log is closed.
    fn resize_quiet(&mut self, v: VolumeNr) -> bool {
        let (Some(resizing), Some(volume)) = (self.resizes.get_mut(&v), self.volumes.get_mut(&v))
        else {
            return false;
        };
        if volume.data.intervals.writes_behind(Sector(resizing.size)) {
            return false;
        }
        volume.data.close_for_resize(resizing.place.is_some());
        resizing.step = Step::Drain;
        true
    }

    /// Whether nothing but superblocks is on its way to the metadata.
    fn metadata_idle(&self, v: VolumeNr) -> bool {
        self.volumes.get(&v).is_some_and(|x| {
            x.data.bitmap_writes == 0
                && !x.data.al.as_ref().is_some_and(|al| al.is_running())
                && x.disk.as_ref().is_some_and(|d| d.full_sync == FullSync::No)
        })
    }

    /// Nothing is trusted at the new place until everything is there.
    fn move_metadata(&mut self, v: VolumeNr) {
        let Some(resizing) = self.resizes.get_mut(&v) else {
            return;
        };
        let Some(volume) = self.volumes.get_mut(&v) else {
            return;
        };
        let (Some(place), Some(disk)) = (resizing.place, volume.disk.as_mut()) else {
            return;
        };
        disk.meta.relocate(place);
        let sb = &mut disk.meta.sb;
        resizing.al_disabled = sb.flags.contains(LocalFlags::AL_DISABLED);
        sb.flags.insert(LocalFlags::AL_DISABLED);
        for (n, entry) in NodeId::all().zip(sb.peers.iter_mut()) {
            if entry.flags.contains(PeerFlags::FULL_SYNC) {
                resizing.full_sync.insert(n);
            }
            entry.flags.insert(PeerFlags::FULL_SYNC);
        }
        resizing.first_tr = volume.data.al_tr_number;
        resizing.step = Step::Superblock;
        let text = format!(
            "Moving the metadata: superblock at sector {}, activity log at {}, bitmap at {}",
            place.superblock_sector(),
            place.al_sector(),
            place.bitmap_sector()
        );
        self.log_at(LogLevel::Info, None, Some(v), text);
        self.md_touch();
    }

    /// The ring says what the activity log holds: in each block a part of it, over and over.
    fn resize_write_ring(&mut self, v: VolumeNr, written: u32) {
        let Some(resizing) = self.resizes.get_mut(&v) else {
            return;
        };
        let Some(volume) = self.volumes.get_mut(&v) else {
            return;
        };
        let Some(disk) = volume.disk.as_ref() else {
            return;
        };
        let layout = AlLayout::from(&disk.meta.geometry);
        let Some(al) = volume
            .data
            .al
            .as_ref()
            .filter(|_| written < layout.blocks())
        else {
            return self.resize_bitmap_moved(v);
        };
        let n = (layout.blocks() - written).min(RING_PIECE);
        let mut start = 0;
        let parts = u32::from(al.len().div_ceil(drbd_meta::activity_log::CONTEXT_SLOTS)).max(1);
        for _ in 0..written % parts {
            start = next_context_start(start, al.len());
        }
        let mut blocks = Vec::new();
        for i in written..written + n {
            let tr_number = resizing.first_tr.wrapping_add(i);
            let mut data = Box::new([0; 4096]);
            al.context_block(tr_number, start, &mut data);
            start = next_context_start(start, al.len());
            let offset = layout.transaction_sector(tr_number) << 9;
            blocks.push(MetaBlock { offset, data });
        }
        resizing.step = Step::Ring {
            written: written + n,
        };
        let serial = resizing.serial;
        let op = self.op(Op::Control(ControlOp::Resize(v, serial)));
        self.push(Effect::MetaWrite {
            op,
            volume: v,
            blocks,
            barrier: true,
        });
    }

    /// A piece of the ring is written.
    pub(crate) fn resize_ring_written(&mut self, v: VolumeNr, serial: u64, result: OpResult) {
        let Some(resizing) = self.resizes.get(&v).filter(|r| r.serial == serial) else {
            return;
        };
        let Step::Ring { written } = resizing.step else {
            return;
        };
        if result.is_err() {
            return self.disk_failed(v, DiskFault::Meta);
        }
        self.resize_write_ring(v, written);
    }

    /// The bitmap follows to its new place.
    fn resize_bitmap_moved(&mut self, v: VolumeNr) {
        self.unlock_bitmap(v);
        self.resize_bitmap_out(v);
    }

    fn unlock_bitmap(&mut self, v: VolumeNr) {
        if let Some(volume) = self.volumes.get_mut(&v) {
            volume.data.bitmap_locked = false;
        }
    }

    fn resize_bitmap_out(&mut self, v: VolumeNr) {
        if let Some(disk) = self.disk_mut(v) {
            // Of a device that was never used the bits are in memory only (metadata, section 7.1).
            disk.bitmap.mark_all();
        }
        let round = self.bitmap_barrier(v);
        if let Some(resizing) = self.resizes.get_mut(&v) {
            resizing.step = Step::Bitmap { round };
        }
    }

    /// Everything is at its place: the superblock says so, and what waited goes on behind it.
    fn resize_done(&mut self, v: VolumeNr) {
        let Some(resizing) = self.resizes.remove(&v) else {
            return;
        };
        let any = self.state.disk(v) == DiskState::UpToDate
            || self
                .state
                .peers_of(v)
                .any(|(_, _, pd)| pd.pdisk == DiskState::UpToDate);
        let Some(volume) = self.volumes.get_mut(&v) else {
            return;
        };
        if let Some(disk) = volume.disk.as_mut() {
            let sb = &mut disk.meta.sb;
            if resizing.place.is_some() {
                sb.flags.set(LocalFlags::AL_DISABLED, resizing.al_disabled);
                for (n, entry) in NodeId::all().zip(sb.peers.iter_mut()) {
                    entry
                        .flags
                        .set(PeerFlags::FULL_SYNC, resizing.full_sync.contains(n));
                }
            }
            if sb.effective_size != 0 || any {
                sb.effective_size = resizing.size;
            }
        }
        if let (Some(place), Some(al)) = (resizing.place, volume.data.al.as_mut()) {
            let next = resizing.first_tr.wrapping_add(place.striping().blocks());
            al.set_tr_number(next);
            volume.data.al_tr_number = next;
        }
        self.thaw_activity_log(v);
        self.md_touch();
        self.publish_device(v);
        self.update_limits();
        self.answer_resize(resizing.cmd, RetCode::NO_ERROR);
    }

    fn thaw_activity_log(&mut self, v: VolumeNr) {
        if let Some(volume) = self.volumes.get_mut(&v) {
            if let Some(al) = volume.data.al.as_mut() {
                al.thaw();
            }
            volume.data.al_queue.turn = true;
        }
        self.data.recheck = true;
    }

    /// The disk failed, or goes.
    fn resize_given_up(&mut self, v: VolumeNr) {
        let Some(resizing) = self.resizes.remove(&v) else {
            return;
        };
        self.thaw_activity_log(v);
        if resizing.place.is_some() {
            self.unlock_bitmap(v);
        }
        self.publish_device(v);
        self.update_limits();
        self.answer_resize(resizing.cmd, RetCode::ERR_IO_MD_DISK);
    }
}
