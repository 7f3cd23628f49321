//! One request of a SyncTarget: sent, answered, written, acknowledged (data path, sections 15.8 and 15.9).

use alloc::format;
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use drbd_proto::packet::{
    BlockAck, BlockRequest, CsumDagtagRequest, CsumRequest, DagtagRequest, DataReply,
};
use drbd_proto::{
    BlockId, Bytes, DigestValue, DiskState, Features, NodeId, NodeMask, Packet, ReplState, Sector,
    Stream, VolumeNr,
};

use crate::effect::Effect;
use crate::engine::{Engine, PacketError};
use crate::event::{OpOutput, OpResult};
use crate::id::BufId;
use crate::interval::{Check, Flags, Kind};
use crate::resync::rate::TURN;
use crate::resync::target::{Answer, Outcome, Stage, TargetRequest};
use crate::resync::{ResyncId, Step};
use crate::timer::Timer;

impl Engine {
    /// Starts one request.
    pub(super) fn make_request(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        sector: Sector,
        len: u32,
        thin: bool,
    ) {
        let Some(id) = self.new_resync_id(peer, volume) else {
            return;
        };
        let interval = self.resync_interval(peer, volume, id, Kind::ResyncWrite, sector, len);
        let Some(state) = self.resync_mut(peer, volume) else {
            return;
        };
        let checksum = state.run.as_ref().is_some_and(|r| r.checksums.is_some());
        if let Some(run) = &mut state.run {
            run.rate.asked(u64::from(len / 512));
        }
        let stage = if checksum {
            Stage::Checksum
        } else {
            Stage::WaitSend(None)
        };
        state.requests.insert(
            id,
            TargetRequest {
                sector,
                len,
                stage,
                thin,
                wait_bitmap: None,
                differs: false,
                interval,
            },
        );
        self.zeroes_beside(peer, volume, id);
        if checksum {
            let op = self.resync_op(peer, volume, id, Step::ChecksumRead);
            self.push(Effect::DiskRead {
                op,
                volume,
                sector,
                len,
            });
        } else {
            self.try_send(peer, volume, id);
        }
    }

    /// Sends a request unless a write to the same place goes first.
    pub(super) fn try_send(&mut self, peer: NodeId, volume: VolumeNr, id: ResyncId) {
        let Some(request) = self.resync(peer, volume).and_then(|s| s.requests.get(&id)) else {
            return;
        };
        let Stage::WaitSend(digest) = request.stage else {
            return;
        };
        let (sector, len, thin, interval) =
            (request.sector, request.len, request.thin, request.interval);
        let (Some(interval), Some(v)) = (interval, self.volumes.get_mut(&volume)) else {
            return;
        };
        if v.data.intervals.conflict(interval, Check::Send).is_some() {
            return;
        }
        v.data.intervals.set(interval, Flags::READY_TO_SEND);
        if let Some(request) = self
            .resync_mut(peer, volume)
            .and_then(|s| s.requests.get_mut(&id))
        {
            request.stage = Stage::Sent;
        }
        let (block_id, size) = (id.block_id(), Bytes(len));
        let packet = if self.has_feature(peer, Features::RESYNC_DAGTAG) {
            let (dagtag_node_id, dagtag) = self.own_position(peer, volume);
            let request = DagtagRequest {
                sector,
                block_id,
                size,
                dagtag_node_id,
                dagtag,
            };
            match digest {
                Some(digest) => Packet::RsCsumDagtagReq(CsumDagtagRequest { request, digest }),
                None if thin => Packet::RsThinDagtagReq(request),
                None => Packet::RsDagtagReq(request),
            }
        } else {
            let request = BlockRequest {
                sector,
                block_id,
                size,
            };
            match digest {
                Some(digest) => Packet::CsumRsRequest(CsumRequest { request, digest }),
                None if thin => Packet::RsThinReq(request),
                None => Packet::RsDataRequest(request),
            }
        };
        self.send(peer, Stream::Data, volume, packet);
    }

    /// The own content was read, or digested (data path, section 15.9).
    pub(super) fn checksum_step(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        id: ResyncId,
        step: Step,
        same: bool,
        result: OpResult,
    ) {
        let buf = match &result {
            Ok(OpOutput::Buf(buf)) => Some(*buf),
            _ => None,
        };
        let known = self
            .resync(peer, volume)
            .is_some_and(|s| s.requests.contains_key(&id));
        let algorithm = self
            .resync(peer, volume)
            .and_then(|s| s.run.as_ref())
            .and_then(|r| r.checksums);
        if let (true, true, Step::ChecksumRead, Some(buf), Some(algorithm)) =
            (same, known, step, buf, algorithm)
        {
            let op = self.resync_op(peer, volume, id, Step::ChecksumDigest);
            self.push(Effect::Digest { op, buf, algorithm });
            self.release(buf);
            return;
        }
        if let Some(buf) = buf {
            self.release(buf);
        }
        if !same || !known {
            return;
        }
        let digest = match result {
            Ok(OpOutput::Digest(bytes)) if step == Step::ChecksumDigest => DigestValue::new(&bytes),
            Ok(_) => None,
            Err(_) => {
                self.disk_failed(volume, crate::disk::DiskFault::Read);
                None
            }
        };
        match digest {
            Some(digest) => {
                if let Some(request) = self
                    .resync_mut(peer, volume)
                    .and_then(|s| s.requests.get_mut(&id))
                {
                    request.stage = Stage::WaitSend(Some(digest));
                }
                self.try_send(peer, volume, id);
            }
            // Counted as failed, so that the pass can end (data path, section 28, hazard 10).
            None => self.end_request(peer, volume, id, Outcome::Failed),
        }
    }

    /// The way of a request may be free.
    pub(super) fn target_woken(&mut self, peer: NodeId, volume: VolumeNr, id: ResyncId) {
        let Some(request) = self.resync(peer, volume).and_then(|s| s.requests.get(&id)) else {
            return;
        };
        match request.stage {
            Stage::WaitSend(_) => self.try_send(peer, volume, id),
            Stage::WaitWrite(_) => self.try_write(peer, volume, id),
            Stage::Checksum | Stage::Sent | Stage::Zeroes | Stage::Writing => {}
        }
    }

    /// The request that an answer is for. Before protocol 122 ids say nothing.
    pub(super) fn find_request(
        &self,
        peer: NodeId,
        volume: VolumeNr,
        sector: Sector,
        len: u32,
        block_id: BlockId,
    ) -> Result<ResyncId, PacketError> {
        let by_id =
            self.conns.get(&peer).is_some_and(|c| c.apv() >= 122) && block_id != BlockId::SYNCER;
        let fits = |id: &ResyncId, r: &TargetRequest| {
            r.sector == sector
                && r.len == len
                && (!by_id || id.block_id() == block_id)
                && matches!(r.stage, Stage::Sent)
        };
        self.resync(peer, volume)
            .and_then(|s| {
                s.requests
                    .iter()
                    .find(|(id, r)| fits(id, r))
                    .map(|(id, _)| *id)
            })
            .ok_or_else(|| {
                PacketError::new(format!(
                    "resync answer for sector {sector}, size {len}, that was not asked for"
                ))
            })
    }

    /// P_RS_DATA_REPLY (data path, section 15.8).
    ///
    /// # Errors
    /// Nobody asked for it. The buffer is given back then.
    pub(crate) fn got_rs_data_reply(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        reply: DataReply,
        payload: Option<BufId>,
    ) -> Result<(), PacketError> {
        let found = self.find_request(peer, volume, reply.sector, reply.size.0, reply.block_id);
        let (id, buf) = match (found, payload) {
            (Ok(id), Some(buf)) => (id, buf),
            (found, payload) => {
                if let Some(buf) = payload {
                    self.release(buf);
                }
                return Err(found
                    .err()
                    .unwrap_or_else(|| PacketError::new("data is missing")));
            }
        };
        if let Some(pd) = self
            .conns
            .get_mut(&peer)
            .and_then(|c| c.peers.get_mut(&volume))
        {
            pd.data.received += u64::from(reply.size.0 / 512);
        }
        self.answer_to_write(peer, volume, id, Some(buf));
        Ok(())
    }

    /// An answer without data.
    ///
    /// # Errors
    /// Nobody asked for it.
    pub(super) fn got_rs_answer(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        ack: BlockAck,
        answer: Answer,
    ) -> Result<(), PacketError> {
        self.note_seq(peer, volume, ack.seq_num);
        let id = self.find_request(peer, volume, ack.sector, ack.size.0, ack.block_id)?;
        match answer {
            Answer::Deallocated => self.answer_to_write(peer, volume, id, None),
            // What was the same is no longer: the news overtook this answer, which came on the other stream.
            Answer::InSync if self.differs_again(peer, volume, id) => {
                self.end_request(peer, volume, id, Outcome::Later);
            }
            Answer::InSync => {
                self.clear_towards(peer, volume, ack.sector, ack.size.0);
                self.end_request(peer, volume, id, Outcome::Same);
            }
            Answer::Failed => self.end_request(peer, volume, id, Outcome::Failed),
            Answer::Cancelled => self.end_request(peer, volume, id, Outcome::Later),
            Answer::Ahead => {
                if let Some(run) = self.resync_mut(peer, volume).and_then(|s| s.run.as_mut()) {
                    run.ahead = true;
                }
                self.end_request(peer, volume, id, Outcome::Later);
            }
        }
        Ok(())
    }

    /// The source says that a range differs from now on. Whoever asked for a comparison does not rely on it.
    pub(crate) fn resync_differs(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        sector: Sector,
        len: u32,
    ) {
        if let Some(state) = self.resync_mut(peer, volume) {
            for request in state.requests.values_mut() {
                request.differs |= request.shares(sector, len);
            }
        }
    }

    fn differs_again(&self, peer: NodeId, volume: VolumeNr, id: ResyncId) -> bool {
        self.resync(peer, volume)
            .and_then(|s| s.requests.get(&id))
            .is_some_and(|r| r.differs)
    }

    /// What the source has is here: nobody is known to have the same until it is written.
    pub(super) fn answer_to_write(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        id: ResyncId,
        buf: Option<BufId>,
    ) {
        let Some(request) = self
            .resync_mut(peer, volume)
            .and_then(|s| s.requests.get_mut(&id))
        else {
            return;
        };
        request.stage = Stage::WaitWrite(buf);
        let (sector, len, interval) = (request.sector, request.len, request.interval);
        let mut fresh = 0;
        if let Some(v) = self.volumes.get_mut(&volume) {
            if let Some(disk) = &mut v.disk {
                fresh = disk.bitmap.set_in_all(sector, len);
            }
            if let Some(interval) = interval {
                v.data.intervals.set(interval, Flags::RECEIVED);
            }
        }
        self.resync_bits_changed(volume);
        self.tell_resync_targets(volume, sector, len, NodeMask::EMPTY.with(peer));
        self.note_answered(peer, volume, len);
        // Bits that are not on the disk: the block waits for them. The source drops its own when it is written.
        let data = self.volumes.get_mut(&volume).map(|v| &mut v.data);
        let (told, mut wait) = data.map_or((false, 0), |d| {
            let told = core::mem::take(&mut d.told_unsaved);
            (
                told,
                if d.bitmap_done < d.told_round {
                    d.told_round
                } else {
                    0
                },
            )
        });
        if fresh > 0 || told {
            wait = self.bitmap_barrier(volume);
        }
        if told && let Some(v) = self.volumes.get_mut(&volume) {
            v.data.told_round = wait;
        }
        if buf.is_some() {
            self.zeroes_beside(peer, volume, id);
        }
        if wait != 0
            && let Some(request) = self
                .resync_mut(peer, volume)
                .and_then(|s| s.requests.get_mut(&id))
        {
            request.wait_bitmap = Some(wait);
        }
        self.try_write(peer, volume, id);
    }

    /// A write-out of the bitmap has ended: what waited for it goes on.
    pub(crate) fn resync_bitmap_written(&mut self, volume: VolumeNr) {
        let peers: Vec<NodeId> = self.conns.keys().copied().collect();
        for peer in peers {
            let Some(state) = self.resync(peer, volume) else {
                continue;
            };
            let unprepared = state.run.as_ref().is_some_and(|run| !run.begun);
            let waiting: Vec<ResyncId> = state
                .requests
                .iter()
                .filter(|(_, r)| r.wait_bitmap.is_some())
                .map(|(id, _)| *id)
                .collect();
            for id in waiting {
                self.try_write(peer, volume, id);
            }
            if unprepared && self.state.repl(peer, volume) == ReplState::SyncTarget {
                self.timers.set(Timer::ResyncTurn(peer, volume), self.now);
            }
        }
    }

    /// Writes what the source sent unless a write to the same place goes first.
    pub(super) fn try_write(&mut self, peer: NodeId, volume: VolumeNr, id: ResyncId) {
        let Some(request) = self.resync(peer, volume).and_then(|s| s.requests.get(&id)) else {
            return;
        };
        let Stage::WaitWrite(buf) = request.stage else {
            return;
        };
        let written = self.volumes.get(&volume).map_or(0, |v| v.data.bitmap_done);
        if request.wait_bitmap.is_some_and(|round| written < round) {
            return;
        }
        let (sector, len, interval) = (request.sector, request.len, request.interval);
        if !interval.is_some_and(|i| self.interval_submit(volume, i)) {
            return;
        }
        let usable = self.local_disk_at_least(volume, DiskState::Inconsistent);
        if let Some(request) = self
            .resync_mut(peer, volume)
            .and_then(|s| s.requests.get_mut(&id))
        {
            request.stage = match buf {
                None if usable => Stage::Zeroes,
                _ => Stage::Writing,
            };
        }
        if !usable {
            if let Some(buf) = buf {
                self.release(buf);
            }
            self.acknowledge(peer, volume, id, sector, len, false);
            return;
        }
        let Some(buf) = buf else {
            return self.zeroes_known(peer, volume, id);
        };
        if let Some(v) = self.volumes.get_mut(&volume) {
            v.data.written += u64::from(len / 512);
            v.data.synced += u64::from(len / 512);
        }
        let op = self.resync_op(peer, volume, id, Step::Write);
        let (preflush, fua) = (false, false);
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

    /// The disk has what these requests brought. `same` is false if the connection it came over is gone.
    pub(super) fn resync_written(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        ids: RangeInclusive<ResyncId>,
        same: bool,
        result: OpResult,
    ) {
        let Some(state) = self.resync(peer, volume) else {
            return;
        };
        let written: Vec<(ResyncId, Sector, u32)> = state
            .requests
            .range(ids)
            .filter(|(_, r)| matches!(r.stage, Stage::Writing))
            .map(|(id, r)| (*id, r.sector, r.len))
            .collect();
        if result.is_err() && !written.is_empty() {
            self.disk_failed(volume, crate::disk::DiskFault::Write);
        }
        for (id, sector, len) in written {
            if same {
                self.acknowledge(peer, volume, id, sector, len, result.is_ok());
            } else {
                // The bits stay: the source does not know that it was written.
                self.remove_request(peer, volume, id);
            }
        }
    }

    pub(super) fn acknowledge(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        id: ResyncId,
        sector: Sector,
        len: u32,
        good: bool,
    ) {
        let block_id = self.rs_ack_id(peer, id.block_id());
        if good {
            self.clear_towards(peer, volume, sector, len);
            self.send_rs_ack(peer, volume, sector, len, block_id, Packet::RsWriteAck);
            self.end_request(peer, volume, id, Outcome::Written);
        } else {
            let apv = self.conns.get(&peer).map_or(0, |c| c.apv());
            let packet = if apv >= 122 {
                Packet::RsNegAck
            } else {
                Packet::NegAck
            };
            self.send_rs_ack(peer, volume, sector, len, block_id, packet);
            self.end_request(peer, volume, id, Outcome::Failed);
        }
    }

    /// A request is over.
    pub(super) fn end_request(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        id: ResyncId,
        outcome: Outcome,
    ) {
        let Some((sector, len)) = self.remove_request(peer, volume, id) else {
            return;
        };
        self.zeroes_beside(peer, volume, id);
        if outcome != Outcome::Written {
            self.note_answered(peer, volume, len);
        }
        let spb = self.volumes.get(&volume).and_then(|v| v.disk.as_ref());
        let spb = spb.map_or(8, |d| d.bitmap.sectors_per_bit());
        let bits = u64::from(len / 512).div_ceil(spb);
        if let Some(run) = self.resync_mut(peer, volume).and_then(|s| s.run.as_mut()) {
            match outcome {
                Outcome::Written => {}
                Outcome::Same => run.same += bits,
                Outcome::Failed => run.failed += bits,
                Outcome::Later => run.rate.unsuccessful(),
            }
        }
        self.in_sync_step(peer, volume, sector, len);
        self.lazy_writeout(volume);
        if outcome == Outcome::Later {
            let at = self.now + TURN;
            if self.state.repl(peer, volume) == ReplState::SyncTarget {
                self.timers.set(Timer::ResyncTurn(peer, volume), at);
            }
        }
    }

    pub(super) fn remove_request(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        id: ResyncId,
    ) -> Option<(Sector, u32)> {
        let request = self.resync_mut(peer, volume)?.requests.remove(&id)?;
        if let Stage::WaitWrite(Some(buf)) = request.stage {
            self.release(buf);
        }
        self.leave_interval(volume, request.interval);
        Some((request.sector, request.len))
    }

    /// Forgets the requests that were not sent.
    pub(super) fn drop_unsent(&mut self, peer: NodeId, volume: VolumeNr) {
        self.drop_requests(peer, volume, |stage| {
            matches!(stage, Stage::WaitSend(_) | Stage::Checksum)
        });
    }

    pub(super) fn drop_requests(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        which: fn(&Stage) -> bool,
    ) {
        let Some(state) = self.resync(peer, volume) else {
            return;
        };
        let ids: Vec<ResyncId> = state
            .requests
            .iter()
            .filter(|(_, r)| which(&r.stage))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.remove_request(peer, volume, id);
        }
    }
}
