//! A received write on its way to the disk and back to its sender (data path, sections 5.2 and 5.3).

use drbd_proto::{
    BlockId, DiskState, DpFlags, NodeId, Packet, ReplState, Sector, Stream, VolumeNr,
};

use crate::activity_log::ExtentNr;
use crate::data::peer_request::PeerStage;
use crate::data::sender::in_resync;
use crate::data::submitter::extent_count;
use crate::data::{DataOpKind, PeerReqId};
use crate::disk::DiskFault;
use crate::effect::Effect;
use crate::engine::Engine;
use crate::event::{DiskError, OpResult};
use crate::interval::Kind;

impl Engine {
    /// Whether a received write still waits for its range.
    pub(crate) fn peer_write_waits(&self, id: PeerReqId) -> bool {
        self.data
            .peer_requests
            .get(&id)
            .is_some_and(|r| r.stage == PeerStage::Conflict)
    }

    /// A received write owns its range: its extents have to be in the activity log.
    pub(crate) fn activate_peer_write(&mut self, id: PeerReqId) {
        let Some(req) = self.data.peer_requests.get_mut(&id) else {
            return;
        };
        let (volume, sector, len) = (req.volume, req.sector, req.len);
        let hot_path = req.discard.is_none();
        let Some(v) = self.volumes.get_mut(&volume) else {
            return;
        };
        let mut extents = ExtentNr::covering(sector, len);
        let hot = match (&mut v.data.al, extents.next(), extents.next()) {
            (Some(al), Some(extent), None) if hot_path => al.get_active(extent),
            _ => false,
        };
        if hot {
            req.extents = 1;
            self.submit_peer_write(id);
        } else {
            req.stage = PeerStage::Cold;
            v.data.al_queue.peer.push_back(id);
            v.data.al_queue.waiting_extents += extent_count(sector, len);
            v.data.al_queue.turn = true;
            self.data.recheck = true;
        }
    }

    /// Range of a received write that waits for extents, and how many it has.
    pub(crate) fn peer_write_extents(&self, id: PeerReqId) -> Option<(Sector, u32, u32)> {
        let req = self.data.peer_requests.get(&id)?;
        (req.stage == PeerStage::Cold).then_some((req.sector, req.len, req.extents))
    }

    /// How many extents a received write has now, and whether that is all of them.
    pub(crate) fn set_peer_write_extents(&mut self, id: PeerReqId, extents: u32, all: bool) {
        if let Some(req) = self.data.peer_requests.get_mut(&id) {
            req.extents = extents;
            if all {
                req.stage = PeerStage::Ready;
            }
        }
    }

    /// Gives a received write to the disk (data path, section 5.2).
    pub(crate) fn submit_peer_write(&mut self, id: PeerReqId) {
        let Some(req) = self.data.peer_requests.get_mut(&id) else {
            return;
        };
        req.stage = PeerStage::Disk;
        let (peer, volume, sector, len) = (req.peer, req.volume, req.sector, req.len);
        let (discard, flags, marks_sender) = (req.discard, req.flags, req.marks_sender);
        let buf = req.buf.take();
        if !self.local_disk_at_least(volume, DiskState::Inconsistent) {
            if let Some(buf) = buf {
                self.release(buf);
            }
            self.peer_write_ended(id, Err(DiskError::Io), false);
            return;
        }
        if marks_sender {
            self.set_towards(peer, volume, sector, len);
        }
        if let Some(v) = self.volumes.get_mut(&volume) {
            v.data.written += u64::from(len / 512);
        }
        let op = self.data_op(volume, DataOpKind::PeerWrite(id));
        match (discard, buf) {
            (Some(kind), _) => self.push(Effect::DiskDiscard {
                op,
                volume,
                sector,
                len,
                kind,
            }),
            (None, Some(buf)) => {
                let preflush = flags.contains(DpFlags::FLUSH);
                let fua = flags.contains(DpFlags::FUA);
                self.push(Effect::DiskWrite {
                    op,
                    volume,
                    sector,
                    len,
                    buf,
                    preflush,
                    fua,
                });
                self.release(buf);
            }
            (None, None) => self.peer_write_done(id, Err(DiskError::Io)),
        }
    }

    /// The disk has finished with a received write.
    pub(crate) fn peer_write_done(&mut self, id: PeerReqId, result: OpResult) {
        self.peer_write_ended(id, result, true);
    }

    /// Answers a received write (data path, section 5.3). `disk` is false if the disk never saw it.
    fn peer_write_ended(&mut self, id: PeerReqId, result: OpResult, disk: bool) {
        let Some(req) = self.data.peer_requests.get_mut(&id) else {
            return;
        };
        req.stage = PeerStage::Written;
        req.failed = result.is_err();
        let (peer, volume, sector, len) = (req.peer, req.volume, req.sector, req.len);
        let (flags, block_id, epoch) = (req.flags, req.block_id, req.epoch);
        let (orphan, data, failed) = (req.orphan, req.discard.is_none(), req.failed);
        let interval = req.interval.take();
        if failed {
            self.set_towards(peer, volume, sector, len);
            if disk && data {
                self.disk_failed(volume, DiskFault::Write);
            }
        }
        if let Some(interval) = interval {
            self.interval_leave(volume, interval);
        }
        if orphan {
            self.drop_peer_request(id);
            self.data.recheck = true;
            return;
        }
        self.answer_write(peer, volume, sector, len, block_id, flags, failed);
        self.forget_if_legacy(id);
        self.epoch_answered(peer, epoch);
        self.release_parked_reads(peer);
    }

    /// Sends the answer to a received write.
    #[allow(clippy::too_many_arguments)] // They are the fields of one packet.
    fn answer_write(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        sector: Sector,
        len: u32,
        block_id: BlockId,
        flags: DpFlags,
        failed: bool,
    ) {
        let repl = self.state.repl(peer, volume);
        let apv = self.conns.get(&peer).map_or(0, |c| c.apv());
        if repl < ReplState::Established || !(failed || flags.contains(DpFlags::SEND_WRITE_ACK)) {
            return;
        }
        let ack = self.block_ack(peer, volume, sector, len, block_id);
        let packet = if failed {
            Packet::NegAck(ack)
        } else if in_resync(repl) && flags.contains(DpFlags::MAY_SET_IN_SYNC) {
            self.clear_towards(peer, volume, sector, len);
            if apv >= 122 {
                Packet::WriteAckInSync(ack)
            } else {
                Packet::RsWriteAck(ack)
            }
        } else {
            Packet::WriteAck(ack)
        };
        self.send(peer, Stream::Control, volume, packet);
    }

    /// Removes a received write and gives back its extents.
    pub(crate) fn drop_peer_request(&mut self, id: PeerReqId) {
        let Some(req) = self.data.peer_requests.remove(&id) else {
            return;
        };
        let extents = ExtentNr::covering(req.sector, req.len).take(req.extents as usize);
        self.put_extents(req.volume, extents);
        if let Some(interval) = req.interval {
            self.interval_leave(req.volume, interval);
        }
        if let Some(buf) = req.buf {
            self.release(buf);
        }
        if req.stage == PeerStage::Cold
            && let Some(v) = self.volumes.get_mut(&req.volume)
        {
            let queue = &mut v.data.al_queue;
            let count = extent_count(req.sector, req.len);
            queue.waiting_extents = queue.waiting_extents.saturating_sub(count);
        }
    }

    /// Whether a received write of a peer to this place is not on the disk.
    pub(crate) fn unwritten_overlap(
        &self,
        peer: NodeId,
        volume: VolumeNr,
        sector: Sector,
        len: u32,
    ) -> bool {
        self.volumes.get(&volume).is_some_and(|v| {
            v.data
                .intervals
                .overlapping(sector, len)
                .any(|(_, i)| i.kind == Kind::PeerWrite && i.peer == Some(peer))
        })
    }

    /// Sets bits towards one peer.
    pub(crate) fn set_towards(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        sector: Sector,
        len: u32,
    ) -> u64 {
        let Some(slot) = self.slot_of(peer, volume) else {
            return 0;
        };
        let Some(disk) = self.volumes.get_mut(&volume).and_then(|v| v.disk.as_mut()) else {
            return 0;
        };
        let changed = disk.bitmap.set(slot, sector, len);
        if changed > 0 {
            self.resync_bits_changed(volume);
        }
        changed
    }

    /// Clears the bits towards one peer that the range covers completely.
    pub(crate) fn clear_towards(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        sector: Sector,
        len: u32,
    ) -> u64 {
        let Some(slot) = self.slot_of(peer, volume) else {
            return 0;
        };
        match self.volumes.get_mut(&volume).and_then(|v| v.disk.as_mut()) {
            Some(disk) => disk.bitmap.clear(slot, sector, len),
            None => 0,
        }
    }
}
