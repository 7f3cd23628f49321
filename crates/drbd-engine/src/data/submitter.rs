//! How extents get into the activity log: one transaction for all requests that wait (data path, section
//! 13.3).

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use drbd_meta::activity_log::{AlHeader, AlLayout, AlUpdate, FREE};
use drbd_proto::{Sector, VolumeNr};

use crate::activity_log::{ActivityLog, Busy, ExtentNr, Got, SLOTS};
use crate::bitmap::PageNr;
use crate::data::cache::metadata_flushes_data;
use crate::data::{DataOpKind, PeerReqId, ReqId};
use crate::disk::DiskFault;
use crate::effect::{Effect, LogLevel, MetaBlock};
use crate::engine::Engine;
use crate::event::OpResult;

/// Who waits for extents of a volume, and the transaction under way.
#[derive(Debug, Default)]
pub(crate) struct AlQueue {
    /// Received writes, in order.
    pub peer: VecDeque<PeerReqId>,
    /// Own writes, in order.
    pub local: VecDeque<ReqId>,
    /// Extents that the received writes in the queue touch (data path, section 5.1, item 9).
    pub waiting_extents: u32,
    /// Something changed: try again.
    pub turn: bool,
    /// Writes whose extents come with the running transaction.
    ready_peer: Vec<PeerReqId>,
    ready_local: Vec<ReqId>,
    /// The running transaction waits for bitmap pages under way.
    pub wait_bitmap: bool,
    /// Bitmap pages of the running transaction, to be written after the flush under way.
    held: Vec<MetaBlock>,
    /// Counts attached disks: an operation of an earlier one is worthless.
    pub attached: u64,
}

/// What a request got of its extents.
struct Taken {
    /// How many it has now.
    got: u32,
    /// That is all of them.
    all: bool,
    /// Some become active with the transaction being built or running.
    cold: bool,
}

impl Engine {
    /// A disk is being attached: start with an empty activity log (data path, section 13.2).
    pub(crate) fn data_attached(&mut self, volume: VolumeNr) {
        let now = self.now;
        let Some(v) = self.volumes.get_mut(&volume) else {
            return;
        };
        let Some(disk) = v.disk.as_ref() else { return };
        let most = al_layout(disk).max_slots().min(*SLOTS.end());
        let slots = u16::try_from(disk.options.al_extents).unwrap_or(u16::MAX);
        let slots = slots.min(most).max(*SLOTS.start());
        v.data.al_queue.attached += 1;
        v.data.attached_at = now;
        v.data.closing = false;
        // What an earlier run of this node left in the cache is not known.
        v.data.unflushed = true;
        v.data.al = match ActivityLog::new(slots, v.data.al_tr_number) {
            Ok(al) => Some(al),
            Err(error) => {
                self.log_at(
                    LogLevel::Error,
                    None,
                    Some(volume),
                    alloc::format!("{error}"),
                );
                self.disk_failed(volume, DiskFault::Meta);
                return;
            }
        };
    }

    /// Takes the turns of the volumes where something changed.
    pub(crate) fn settle_activity_logs(&mut self) {
        let volumes: Vec<VolumeNr> = self
            .volumes
            .iter()
            .filter(|(_, v)| v.data.al_queue.turn)
            .map(|(nr, _)| *nr)
            .collect();
        for volume in volumes {
            self.al_turn(volume);
        }
    }

    /// One turn: takes extents for waiting requests, received ones first, and starts a transaction if
    /// any extent was cold (data path, section 13.3).
    fn al_turn(&mut self, volume: VolumeNr) {
        let Some(v) = self.volumes.get_mut(&volume) else {
            return;
        };
        v.data.al_queue.turn = false;
        if v.data.al.is_none() {
            self.al_bypass(volume);
            return;
        }
        let (mut peers, mut locals) = (Vec::new(), Vec::new());
        let (mut cold_peers, mut cold_locals) = (Vec::new(), Vec::new());
        while let Some(&id) = self.al_queue(volume).and_then(|q| q.peer.front()) {
            let Some((sector, len, held)) = self.peer_write_extents(id) else {
                self.al_queue_mut(volume, |q| q.peer.pop_front());
                continue;
            };
            let Taken { got, all, cold } = self.take_extents(volume, sector, len, held);
            self.set_peer_write_extents(id, got, all);
            if !all {
                break;
            }
            let count = extent_count(sector, len);
            self.al_queue_mut(volume, |q| {
                q.peer.pop_front();
                q.waiting_extents = q.waiting_extents.saturating_sub(count);
            });
            if cold { &mut cold_peers } else { &mut peers }.push(id);
        }
        while let Some(&id) = self.al_queue(volume).and_then(|q| q.local.front()) {
            let Some((sector, len, held)) = self
                .data
                .requests
                .get(&id)
                .map(|r| (r.sector, r.len, r.extents))
            else {
                self.al_queue_mut(volume, |q| q.local.pop_front());
                continue;
            };
            let Taken { got, all, cold } = self.take_extents(volume, sector, len, held);
            if let Some(req) = self.data.requests.get_mut(&id) {
                req.extents = got;
                req.covered = all;
            }
            if !all {
                break;
            }
            self.al_queue_mut(volume, |q| q.local.pop_front());
            if cold { &mut cold_locals } else { &mut locals }.push(id);
        }
        let Some(v) = self.volumes.get_mut(&volume) else {
            return;
        };
        let Some(al) = v.data.al.as_mut() else { return };
        // A transaction that is running already carries its cold extents.
        v.data.al_queue.ready_peer.extend(cold_peers);
        v.data.al_queue.ready_local.extend(cold_locals);
        let begun = al.begin();
        self.al_go(peers, locals);
        if begun {
            self.al_transaction(volume);
        }
    }

    /// Takes references on the extents of a range from number `held` on.
    fn take_extents(&mut self, volume: VolumeNr, sector: Sector, len: u32, held: u32) -> Taken {
        let mut taken = Taken {
            got: held,
            all: true,
            cold: false,
        };
        let Some(al) = self
            .volumes
            .get_mut(&volume)
            .and_then(|v| v.data.al.as_mut())
        else {
            return taken;
        };
        // Those taken before may be part of the running transaction.
        taken.cold = held > 0 && al.is_running();
        for extent in ExtentNr::covering(sector, len).skip(held as usize) {
            match al.get(extent) {
                Ok(got) => {
                    taken.got += 1;
                    taken.cold |= got == Got::Pending;
                }
                Err(Busy::Starving | Busy::Running | Busy::Full) => {
                    taken.all = false;
                    break;
                }
            }
        }
        taken
    }

    /// Without an activity log there is nothing to wait for.
    fn al_bypass(&mut self, volume: VolumeNr) {
        let (peers, locals) = match self.volumes.get_mut(&volume) {
            Some(v) => {
                let queue = &mut v.data.al_queue;
                queue.waiting_extents = 0;
                let mut peers = core::mem::take(&mut queue.ready_peer);
                peers.extend(queue.peer.drain(..));
                let mut locals = core::mem::take(&mut queue.ready_local);
                locals.extend(queue.local.drain(..));
                (peers, locals)
            }
            None => return,
        };
        self.al_go(peers, locals);
    }

    /// Lets writes go on whose extents are active.
    fn al_go(&mut self, peers: Vec<PeerReqId>, locals: Vec<ReqId>) {
        for id in peers {
            self.submit_peer_write(id);
        }
        for id in locals {
            self.enter(id);
        }
    }

    /// First part of a transaction: what evicted extents left in the bitmap, and in a volatile cache,
    /// becomes durable (data path, section 13.3, item 6a, and section 28, hazard 27).
    pub(crate) fn al_transaction(&mut self, volume: VolumeNr) {
        let dirty = self.cache_dirty(volume);
        let Some(v) = self.volumes.get_mut(&volume) else {
            return;
        };
        let queue = &mut v.data.al_queue;
        queue.wait_bitmap = false;
        let attached = queue.attached;
        let (Some(disk), Some(al)) = (v.disk.as_ref(), v.data.al.as_ref()) else {
            self.al_bypass(volume);
            return;
        };
        if !disk.options.al_updates {
            self.al_commit(volume, false);
            return;
        }
        let evicts = al
            .transaction()
            .is_some_and(|t| t.evicted().next().is_some());
        if v.data.bitmap_writes > 0 && evicts {
            // Pages under way may be the very ones.
            queue.wait_bitmap = true;
            return;
        }
        let needed = !metadata_flushes_data(disk) || !disk.bitmap.is_clean();
        if evicts && dirty && needed {
            // As they are before the flush: what is cleared meanwhile it does not cover. Nobody else writes
            // them until then.
            let held = self.al_take_pages(volume);
            if let Some(v) = self.volumes.get_mut(&volume) {
                v.data.al_queue.held = held;
                v.data.bitmap_writes += 1;
            }
            self.flush_cache(volume, DataOpKind::AlFlush { attached });
        } else {
            let blocks = self.al_take_pages(volume);
            self.al_write_pages(volume, blocks);
        }
    }

    /// The data of evicted extents is safe.
    pub(crate) fn al_flushed(&mut self, volume: VolumeNr, attached: u64, result: OpResult) {
        let Some(v) = self.volumes.get_mut(&volume) else {
            return;
        };
        let held = core::mem::take(&mut v.data.al_queue.held);
        if !self.al_is_current(volume, attached) {
            // The disk is on its way out, and takes along what its bitmap says.
            if let Some(disk) = self.disk_mut(volume) {
                let base = bitmap_offset(disk);
                for block in held {
                    let page = block.offset.saturating_sub(base) / 4096;
                    disk.bitmap.mark(PageNr(page));
                }
            }
            return self.bitmap_write_ended(volume);
        }
        if self.flush_succeeded(volume, &result) {
            self.al_write_pages(volume, held);
        } else {
            self.al_failed(volume);
        }
        self.bitmap_write_ended(volume);
    }

    fn al_is_current(&self, volume: VolumeNr, attached: u64) -> bool {
        self.volumes
            .get(&volume)
            .is_some_and(|v| v.data.al_queue.attached == attached)
    }

    /// The changed bitmap pages of evicted extents.
    fn al_take_pages(&mut self, volume: VolumeNr) -> Vec<MetaBlock> {
        let mut blocks = Vec::new();
        let Some(v) = self.volumes.get_mut(&volume) else {
            return blocks;
        };
        let (Some(disk), Some(al)) = (v.disk.as_mut(), v.data.al.as_ref()) else {
            return blocks;
        };
        let base = bitmap_offset(disk);
        let evicted: Vec<ExtentNr> = al
            .transaction()
            .map_or_else(Vec::new, |t| t.evicted().collect());
        for extent in evicted {
            let pages: Vec<PageNr> = disk.bitmap.pages_of_extent(extent).collect();
            for page in pages {
                if let Some(data) = disk.bitmap.take(page) {
                    blocks.push(MetaBlock {
                        offset: base + page.0 * 4096,
                        data,
                    });
                }
            }
        }
        blocks
    }

    /// Writes the changed bitmap pages of evicted extents.
    fn al_write_pages(&mut self, volume: VolumeNr, blocks: Vec<MetaBlock>) {
        let Some(v) = self.volumes.get_mut(&volume) else {
            return;
        };
        let attached = v.data.al_queue.attached;
        if blocks.is_empty() {
            self.al_write_block(volume);
            return;
        }
        v.data.bm_writes += blocks.len() as u64;
        v.data.bitmap_writes += 1;
        let op = self.data_op(volume, DataOpKind::AlPages { attached });
        self.push(Effect::MetaWrite {
            op,
            volume,
            blocks,
            barrier: false,
        });
    }

    /// The bitmap pages of evicted extents are written.
    pub(crate) fn al_pages_written(&mut self, volume: VolumeNr, attached: u64, result: OpResult) {
        if result.is_err() {
            self.disk_failed(volume, DiskFault::Meta);
        }
        self.bitmap_write_ended(volume);
        if !self.al_is_current(volume, attached) {
            return;
        }
        if result.is_err() {
            self.al_failed(volume);
        } else {
            self.al_write_block(volume);
        }
    }

    /// Second part of a transaction: the block (data path, section 13.2).
    fn al_write_block(&mut self, volume: VolumeNr) {
        let Some(v) = self.volumes.get_mut(&volume) else {
            return;
        };
        let (Some(disk), Some(al)) = (v.disk.as_ref(), v.data.al.as_ref()) else {
            return;
        };
        let Some(transaction) = al.transaction() else {
            return;
        };
        let header = AlHeader {
            tr_number: transaction.tr_number(),
            context_size: transaction.context_size(),
            context_start: transaction.context_start(),
        };
        let updates: Vec<AlUpdate> = transaction
            .updates()
            .map(|(slot, extent)| AlUpdate {
                slot,
                extent: extent.0,
            })
            .collect();
        let mut block = Box::new([0; 4096]);
        let context = transaction.context().map(|e| e.map_or(FREE, |e| e.0));
        if let Err(error) = header.encode(&updates, context, &mut block) {
            self.log_at(
                LogLevel::Error,
                None,
                Some(volume),
                alloc::format!("{error}"),
            );
            self.disk_failed(volume, DiskFault::Meta);
            self.al_failed(volume);
            return;
        }
        let offset = al_layout(disk).transaction_sector(header.tr_number) * 512;
        let barrier = disk.options.md_flushes;
        let attached = v.data.al_queue.attached;
        v.data.al_writes += 1;
        let op = self.data_op(volume, DataOpKind::AlBlock { attached });
        let blocks = alloc::vec![MetaBlock {
            offset,
            data: block
        }];
        self.push(Effect::MetaWrite {
            op,
            volume,
            blocks,
            barrier,
        });
    }

    /// The block is durable: the writes may go.
    pub(crate) fn al_block_written(&mut self, volume: VolumeNr, attached: u64, result: OpResult) {
        let Some(v) = self.volumes.get(&volume) else {
            return;
        };
        if v.data.al_queue.attached != attached {
            return;
        }
        if result.is_err() {
            self.disk_failed(volume, DiskFault::Meta);
            self.al_failed(volume);
            return;
        }
        self.al_commit(volume, true);
    }

    fn al_commit(&mut self, volume: VolumeNr, written: bool) {
        let Some(v) = self.volumes.get_mut(&volume) else {
            return;
        };
        let Some(al) = v.data.al.as_mut().filter(|al| al.is_running()) else {
            return;
        };
        al.commit(written);
        v.data.al_tr_number = al.tr_number();
        let queue = &mut v.data.al_queue;
        queue.turn = true;
        let peers = core::mem::take(&mut queue.ready_peer);
        let locals = core::mem::take(&mut queue.ready_local);
        self.data.recheck = true;
        self.al_go(peers, locals);
    }

    /// The metadata cannot be written: the disk goes, and the writes go on without it.
    fn al_failed(&mut self, volume: VolumeNr) {
        self.drop_activity_log(volume);
        self.al_bypass(volume);
    }

    /// Lets go of the activity log together with the disk. Nobody holds extents any more.
    pub(crate) fn drop_activity_log(&mut self, volume: VolumeNr) {
        let Some(v) = self.volumes.get_mut(&volume) else {
            return;
        };
        if let Some(al) = v.data.al.take() {
            // A transaction on its way may have reached the disk.
            let running = u32::from(al.is_running());
            v.data.al_tr_number = al.tr_number().wrapping_add(running);
        }
        v.data.al_queue.attached += 1;
        v.data.al_queue.turn = true;
        self.data.recheck = true;
        for req in self
            .data
            .requests
            .values_mut()
            .filter(|r| r.volume == volume)
        {
            req.extents = 0;
            req.covered = false;
        }
        for req in self
            .data
            .peer_requests
            .values_mut()
            .filter(|r| r.volume == volume)
        {
            req.extents = 0;
        }
    }

    /// Whether received writes wait for more extents than there are (data path, section 5.1, item 9).
    pub(crate) fn al_pressure(&self, volume: VolumeNr, sector: Sector, len: u32) -> bool {
        let Some(v) = self.volumes.get(&volume) else {
            return false;
        };
        let Some(al) = v.data.al.as_ref() else {
            return false;
        };
        let free = u32::from(al.len().saturating_sub(al.referenced()));
        v.data
            .al_queue
            .waiting_extents
            .saturating_add(extent_count(sector, len))
            > free
    }

    fn al_queue(&self, volume: VolumeNr) -> Option<&AlQueue> {
        self.volumes.get(&volume).map(|v| &v.data.al_queue)
    }

    fn al_queue_mut<T>(
        &mut self,
        volume: VolumeNr,
        f: impl FnOnce(&mut AlQueue) -> T,
    ) -> Option<T> {
        self.volumes
            .get_mut(&volume)
            .map(|v| f(&mut v.data.al_queue))
    }
}

/// How many extents a range touches.
pub(crate) fn extent_count(sector: Sector, len: u32) -> u32 {
    u32::try_from(ExtentNr::covering(sector, len).count()).unwrap_or(u32::MAX)
}

/// Where the activity log of a disk lies.
fn al_layout(disk: &crate::volume::Disk) -> AlLayout {
    let geometry = disk.meta.geometry;
    AlLayout::new(geometry.al_sector(), geometry.striping())
}

/// Byte offset of the bitmap on the metadata device.
pub(crate) fn bitmap_offset(disk: &crate::volume::Disk) -> u64 {
    disk.meta.geometry.bitmap_sector() * 512
}
