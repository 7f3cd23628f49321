//! The transfer log: writes from the moment they are given to disk and peers until everybody who got
//! them has confirmed them, in order; and the epochs they are grouped into (data path, sections 3.4, 3.7
//! and 7).

use alloc::vec::Vec;

use drbd_proto::{Bytes, DiskState, NodeId, NodeMask, ReplState, Role, VolumeNr};

use crate::activity_log::ExtentNr;
use crate::bitmap::Slot;
use crate::data::ReqId;
use crate::data::request::{Local, Stage};
use crate::effect::{Effect, IoError, LogLevel};
use crate::engine::Engine;

impl Engine {
    /// Fourth step of a write: it gets its place in the stream of writes, and goes to the peers and to
    /// the local disk at once (data path, section 3.4).
    pub(crate) fn log_write(&mut self, id: ReqId) {
        let Some(req) = self.data.requests.get(&id) else {
            return;
        };
        let (volume, sector, len, covered) = (req.volume, req.sector, req.len, req.covered);
        // A peer was lost while the extents were made active: the generation that this write belongs to is
        // not made yet, and whoever connects meanwhile would not learn that the peer lacks it.
        let due = self.state.role == Role::Primary
            && self.data_accessible(&self.state, volume)
            && self
                .volumes
                .get(&volume)
                .is_some_and(|v| v.flags.new_cur_uuid);
        if self.state.suspended() || due {
            self.postpone(id);
            return;
        }
        self.check_congestion(volume);
        let disk = self.local_disk_at_least(volume, DiskState::Inconsistent);
        if disk && !covered {
            // The disk came while the request waited: it needs its extents now.
            self.restart(id);
            return;
        }
        if !self.may_write(volume) {
            self.refuse(id);
            return;
        }
        self.data.dagtag = self.data.dagtag.advance(Bytes(len));
        self.data.epoch_writes = self.data.epoch_writes.saturating_add(1);
        let (dagtag, epoch, now) = (self.data.dagtag, self.data.epoch, self.now);
        if let Some(req) = self.data.requests.get_mut(&id) {
            req.dagtag = dagtag;
            req.epoch = epoch;
            req.since = now;
            req.stage = Stage::Logged;
        }
        self.data.log.push_back(id);
        let peers: Vec<(NodeId, bool)> = self
            .state
            .peers_of(volume)
            .filter(|(_, _, pd)| pd.replicates() || pd.sends_out_of_sync())
            .map(|(peer, _, pd)| (peer, pd.replicates()))
            .collect();
        let mut full = false;
        for (peer, replicate) in peers {
            if replicate {
                full |= self.replicate(id, peer);
            } else if let Some(req) = self.data.requests.get_mut(&id) {
                req.pending_oos.insert(peer);
            }
        }
        // Completion may wait for the acknowledgement of the epoch.
        let confirms = self
            .volumes
            .get(&volume)
            .is_some_and(|v| v.unconfirmed.is_some());
        if full || confirms {
            self.close_epoch();
        }
        if disk {
            self.submit_local(id);
        }
        let _ = sector;
        self.try_complete(id);
    }

    /// Whether a write has a place to go to (state machine, section 2.7).
    fn may_write(&self, volume: VolumeNr) -> bool {
        self.state.disk(volume) == DiskState::UpToDate
            || self
                .state
                .peers_of(volume)
                .any(|(_, _, pd)| pd.pdisk == DiskState::UpToDate)
    }

    /// Fails a write that has no place to go to (data path, section 3.4, item 9.3).
    fn refuse(&mut self, id: ReqId) {
        self.put_extents_of(id);
        let Some(req) = self.data.requests.remove(&id) else {
            return;
        };
        if let Some(interval) = req.interval {
            self.interval_leave(req.volume, interval);
        }
        self.log_at(
            LogLevel::Error,
            None,
            Some(req.volume),
            alloc::format!(
                "IO ERROR: neither local nor remote data, sector {}+{}",
                req.sector.0,
                req.sectors()
            ),
        );
        self.push(Effect::CompleteIo {
            io: req.io,
            result: Err(IoError::Io),
            data: None,
        });
        if let Some(buf) = req.buf {
            self.release(buf);
        }
        self.leave_progress(req.volume, req.kind);
    }

    /// Takes a write back to the activity log step.
    fn restart(&mut self, id: ReqId) {
        let Some(req) = self.data.requests.get_mut(&id) else {
            return;
        };
        let volume = req.volume;
        if let Some(interval) = req.interval.take() {
            self.interval_leave(volume, interval);
        }
        self.put_extents_of(id);
        self.activate(id);
    }

    /// Closes the open epoch unless it is empty, and says so to every peer that has writes of it (data
    /// path, sections 7.2 and 7.3).
    pub(crate) fn close_epoch(&mut self) {
        if self.data.epoch_writes == 0 {
            return;
        }
        self.data.epoch = self.data.epoch.next();
        self.data.epoch_writes = 0;
        let peers: Vec<NodeId> = self.conns.keys().copied().collect();
        for peer in peers {
            self.send_barrier_if_due(peer, self.data.epoch);
        }
    }

    /// The control plane's door to [`close_epoch`](Self::close_epoch): a new data generation, the last
    /// opener, demotion.
    pub(crate) fn data_close_epoch(&mut self) {
        self.close_epoch();
    }

    /// Settles the writes at the head of the log that are finished everywhere, in order (data path,
    /// section 3.7, invariant O6).
    pub(crate) fn advance_log(&mut self) {
        while let Some(&id) = self.data.log.front() {
            let finished = self
                .data
                .requests
                .get(&id)
                .is_none_or(|r| r.completed && r.done.contains_all(r.expect_barrier));
            if !finished {
                return;
            }
            self.data.log.pop_front();
            self.settle_write(id);
        }
    }

    /// A write is *done*: it leaves the interval tree and the activity log, and what it means for the
    /// bitmap becomes known (data path, section 3.7).
    fn settle_write(&mut self, id: ReqId) {
        let Some(req) = self.data.requests.get_mut(&id) else {
            return;
        };
        let (volume, sector, len) = (req.volume, req.sector, req.len);
        let (ok, sis, oos, local) = (req.ok, req.sis, req.pending_oos, req.local);
        let sent = req.sent;
        let interval = req.interval.take();
        if let Some(interval) = interval {
            self.interval_leave(volume, interval);
        }
        let slots = self.slots_of(volume);
        let mut changed = NodeMask::EMPTY;
        if let Some(disk) = self.volumes.get_mut(&volume).and_then(|v| v.disk.as_mut()) {
            let bitmap = &mut disk.bitmap;
            for slot in bitmap.all_slots() {
                let node = slots
                    .iter()
                    .find(|(_, s)| *s == slot)
                    .map(|(node, _)| *node);
                let has = node.is_some_and(|n| ok.contains(n));
                if local != Local::Ok {
                    // The own disk lacks it: it differs from everybody (data path, section 28,
                    // hazard 1).
                    let bits = bitmap.set(slot, sector, len);
                    note_change(&mut changed, node, bits);
                } else if !has {
                    let bits = bitmap.set(slot, sector, len);
                    note_change(&mut changed, node, bits);
                } else if node.is_some_and(|n| sis.contains(n)) {
                    bitmap.clear(slot, sector, len);
                }
            }
        }
        // Who connected after this write was logged has been told of it in the bitmap exchange, and may
        // have been resynced since. The bits that it leaves now must be known there, too: later writes to
        // the same place rely on it.
        let tell = oos | self.late_peers(volume).minus(sent);
        for peer in tell.iter().filter(|peer| changed.contains(*peer)) {
            self.send_out_of_sync(peer, volume, sector, len);
        }
        let last_in_extent = self.put_extents_of(id);
        self.accumulate_peer_ack(id, last_in_extent);
        self.data.requests.remove(&id);
        self.resync_bits_changed(volume);
    }

    /// Connected peers with a disk.
    fn late_peers(&self, volume: VolumeNr) -> NodeMask {
        self.state
            .peers_of(volume)
            .filter(|(_, _, pd)| {
                pd.repl >= ReplState::Established
                    && pd.pdisk >= DiskState::Inconsistent
                    && pd.pdisk != DiskState::Unknown
            })
            .map(|(peer, _, _)| peer)
            .collect()
    }

    /// Gives back the activity log extents of a request. True if one of them has no user left.
    pub(crate) fn put_extents_of(&mut self, id: ReqId) -> bool {
        let Some(req) = self.data.requests.get_mut(&id) else {
            return false;
        };
        let held = core::mem::take(&mut req.extents);
        let (volume, sector, len) = (req.volume, req.sector, req.len);
        req.covered = false;
        self.put_extents(volume, ExtentNr::covering(sector, len).take(held as usize))
    }

    /// Gives back activity log extents. True if one of them has no user left.
    pub(crate) fn put_extents(
        &mut self,
        volume: VolumeNr,
        extents: impl Iterator<Item = ExtentNr>,
    ) -> bool {
        let Some(v) = self.volumes.get_mut(&volume) else {
            return false;
        };
        let Some(al) = v.data.al.as_mut() else {
            return false;
        };
        let mut last = false;
        for extent in extents {
            last |= al.put(extent);
        }
        if last {
            v.data.al_queue.turn = true;
            self.data.recheck = true;
        }
        last
    }

    /// The nodes that have a slot in the bitmap of a volume.
    pub(crate) fn slots_of(&self, volume: VolumeNr) -> Vec<(NodeId, Slot)> {
        NodeId::all()
            .filter_map(|node| Some((node, self.slot_of(node, volume)?)))
            .collect()
    }

    /// The slot of a peer in the bitmap of a volume.
    pub(crate) fn slot_of(&self, peer: NodeId, volume: VolumeNr) -> Option<Slot> {
        let disk = self.volumes.get(&volume)?.disk.as_ref()?;
        disk.meta
            .slot(peer)
            .filter(|slot| *slot < disk.bitmap.slots())
            .map(Slot)
    }

    /// No application write is on its way (data path, section 7.1).
    pub(crate) fn data_tl_empty(&self) -> bool {
        self.data.log.is_empty()
    }

    /// Neither own nor received writes are on their way.
    pub(crate) fn data_idle(&self) -> bool {
        self.data.log.is_empty()
            && !self
                .data
                .requests
                .values()
                .any(|r| r.is_write() && r.stage != Stage::Waiting)
            && !self.data.peer_requests.values().any(|p| !p.is_written())
    }
}

/// Remembers the node of a slot in which bits changed.
fn note_change(changed: &mut NodeMask, node: Option<NodeId>, bits: u64) {
    if let Some(node) = node.filter(|_| bits > 0) {
        changed.insert(node);
    }
}
