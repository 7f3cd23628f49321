//! The SyncTarget: it drives the resync, asking for block after block that is out of sync (data path,
//! sections 15.1, 15.2, 15.8 and 16.5).

use alloc::format;
use alloc::vec::Vec;
use core::time::Duration;

use drbd_proto::packet::{
    BlockAck, BlockRequest, CsumDagtagRequest, CsumRequest, DagtagRequest, DataReply,
};
use drbd_proto::{
    BlockId, Bytes, ConnState, DigestAlg, DigestValue, DiskState, Features, NodeId, NodeMask,
    Packet, ReplState, Sector, Stream, VolumeNr,
};

use crate::activity_log::EXTENT_SECTOR_SHIFT;
use crate::bitmap::{BitNr, Bitmap, Slot};
use crate::effect::{DiscardKind, Effect};
use crate::engine::{Engine, PacketError};
use crate::event::{OpOutput, OpResult};
use crate::id::BufId;
use crate::interval::{Check, Flags, IntervalId, Kind};
use crate::resync::{ResyncId, Step};
use crate::state::change::ChangeFlags;
use crate::status::SyncInfo;
use crate::time::Instant;
use crate::timer::Timer;

/// Time between turns.
const TURN: Duration = Duration::from_millis(100);
/// Largest request, in bytes.
const MAX_REQUEST: u32 = 1 << 20;

/// A resync with this node as target.
#[derive(Debug)]
pub(crate) struct Run {
    /// Where the next bit is looked for.
    cursor: BitNr,
    /// Bits at the beginning, and at the end of the previous pass.
    total: u64,
    previous: u64,
    /// Bits whose blocks could not be transferred.
    failed: u64,
    /// Bits that turned out to be equal.
    same: u64,
    /// The source asked to come back later.
    unsuccessful: bool,
    /// The source is Ahead: no requests until the state changes.
    ahead: bool,
    /// Sectors asked for and not answered.
    in_flight: u64,
    /// Sectors answered since the last turn.
    answered: u64,
    last_turn: Instant,
    started: Instant,
    paused: Duration,
    paused_since: Option<Instant>,
    /// All peers replicate to this node.
    replicated: bool,
    /// The end was reported to the control plane.
    finishing: bool,
    /// Compare digests instead of asking for data.
    checksums: Option<DigestAlg>,
}

/// Where a request stands.
#[derive(Debug)]
enum Stage {
    /// A write to the same place goes first.
    WaitSend(Option<DigestValue>),
    /// Own content is read and digested.
    Checksum,
    /// Sent.
    Sent,
    /// Answered; a write to the same place goes first.
    WaitWrite(Option<BufId>),
    /// On the disk's way.
    Writing,
}

/// A request.
#[derive(Debug)]
pub(crate) struct TargetRequest {
    sector: Sector,
    len: u32,
    stage: Stage,
    thin: bool,
    /// Its place in the interval tree.
    pub(crate) interval: Option<IntervalId>,
}

impl TargetRequest {
    /// Whether it lies in a step of 4 MiB.
    pub(super) fn touches_step(&self, step: u64) -> bool {
        let end = self.sector.0 + u64::from(self.len / 512);
        self.sector.0 >> EXTENT_SECTOR_SHIFT <= step
            && step < end.div_ceil(1 << EXTENT_SECTOR_SHIFT)
    }
}

/// An answer without data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    /// Digests are equal.
    InSync,
    /// All zero.
    Deallocated,
    /// Could not be read.
    Failed,
    /// Come back later.
    Cancelled,
    /// Come back when the source is not Ahead any more.
    Ahead,
}

impl Run {
    /// Progress for status output. `spb`: sectors per bit.
    pub(crate) fn info(&self, now: Instant, weight: u64, spb: u64) -> SyncInfo {
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let paused = self.paused + self.paused_since.map_or(Duration::ZERO, |s| now.since(s));
        let elapsed = now.since(self.started);
        SyncInfo {
            total: self.total.max(weight) * spb,
            left: weight * spb,
            failed: self.failed * spb,
            same_csum: self.same * spb,
            elapsed_ms: ms(elapsed),
            paused_ms: ms(paused),
            window_ms: ms(elapsed.saturating_sub(paused)),
            window_sectors: self.total.saturating_sub(weight) * spb,
        }
    }
}

impl Engine {
    /// Starts, pauses, resumes or ends the part of the target.
    pub(super) fn target_state_changed(&mut self, peer: NodeId, volume: VolumeNr) {
        let repl = self.state.repl(peer, volume);
        let timer = Timer::ResyncTurn(peer, volume);
        let now = self.now;
        if !matches!(repl, ReplState::SyncTarget | ReplState::PausedSyncT) {
            let Some(state) = self.resync_mut(peer, volume) else {
                return;
            };
            if state.run.take().is_some() {
                if repl != ReplState::VerifyS {
                    self.timers.cancel(timer);
                }
                self.drop_unsent(peer, volume);
                self.finish_in_sync_steps(peer, volume);
                self.data_bitmap_writeout(volume);
            }
            return;
        }
        let weight = self.bits_towards(peer, volume);
        let replicated = self.all_replicate(volume);
        let checksums = self.checksum_algorithm(peer, volume);
        let Some(state) = self.resync_mut(peer, volume) else {
            return;
        };
        let fresh = state.run.is_none();
        let run = state.run.get_or_insert_with(|| Run {
            cursor: BitNr(0),
            total: weight,
            previous: weight,
            failed: 0,
            same: 0,
            unsuccessful: false,
            ahead: false,
            in_flight: 0,
            answered: 0,
            last_turn: now,
            started: now,
            paused: Duration::ZERO,
            paused_since: None,
            replicated: false,
            finishing: false,
            checksums,
        });
        let newly_replicated = replicated && !core::mem::replace(&mut run.replicated, replicated);
        run.ahead = false;
        if repl == ReplState::SyncTarget {
            if let Some(since) = run.paused_since.take() {
                run.paused += now.since(since);
            }
        } else {
            run.paused_since.get_or_insert(now);
        }
        if newly_replicated {
            // Writes from before replication must be accounted for (data path, section 12.6).
            self.request_flush();
        }
        if repl == ReplState::SyncTarget {
            self.timers.set_if_idle(timer, now);
        } else {
            self.timers.cancel(timer);
        }
        if fresh {
            let text = format!("Began resync as target (will sync {weight} bits)");
            self.log_resync(peer, volume, &text);
        }
    }

    /// Whether all peers send their application's writes here (data path, section 16.4).
    fn all_replicate(&self, volume: VolumeNr) -> bool {
        self.state
            .peers_of(volume)
            .filter(|(_, c, pd)| {
                c.cstate == ConnState::Connected && pd.repl >= ReplState::Established
            })
            .all(|(_, _, pd)| pd.peer_replication)
    }

    /// The algorithm of a checksum based resync, if this one is to be one (data path, section 15.9).
    fn checksum_algorithm(&self, peer: NodeId, volume: VolumeNr) -> Option<DigestAlg> {
        let conn = self.conns.get(&peer).filter(|c| c.apv() >= 89)?;
        let algorithm = DigestAlg::from_name(&conn.options.csums_alg)?;
        let crashed = self
            .volumes
            .get(&volume)
            .is_some_and(|v| v.flags.crashed_primary);
        let reconcile = conn
            .peers
            .get(&volume)
            .is_some_and(|pd| pd.flags.reconciliation_resync);
        (!conn.options.csums_after_crash_only || crashed || reconcile).then_some(algorithm)
    }

    /// One turn of the request generator (data path, section 15.2).
    pub(super) fn target_turn(&mut self, peer: NodeId, volume: VolumeNr) {
        if !self.local_disk_at_least(volume, DiskState::Inconsistent) {
            return;
        }
        if self.pass_over(peer, volume) {
            self.end_of_pass(peer, volume);
            return;
        }
        let (now, timer) = (self.now, Timer::ResyncTurn(peer, volume));
        self.timers.set(timer, now + TURN);
        let Some(sectors) = self.turn_budget(peer, volume) else {
            return;
        };
        let Some(slot) = self.slot_of(peer, volume) else {
            return;
        };
        let peer_block = self.conns.get(&peer).and_then(|c| c.peers.get(&volume));
        let peer_block = peer_block.map_or(4096, |pd| pd.sizes.bm_block.max(4096));
        let mut made = Vec::new();
        let Some(disk) = self.volumes.get(&volume).and_then(|v| v.disk.as_ref()) else {
            return;
        };
        let bitmap = &disk.bitmap;
        let thin = disk.options.rs_discard_granularity;
        let Some(run) = self.resync(peer, volume).and_then(|s| s.run.as_ref()) else {
            return;
        };
        let thin = if run.checksums.is_none() && self.has_feature(peer, Features::THIN_RESYNC) {
            thin
        } else {
            0
        };
        let mut cursor = run.cursor;
        let step = u64::from(peer_block / bitmap.block_size()).max(1);
        let mut left = sectors.div_ceil(bitmap.sectors_per_bit());
        while left > 0 {
            let Some(found) = find_request(bitmap, slot, cursor, left, step, thin) else {
                cursor = BitNr(bitmap.bits());
                break;
            };
            // Requests of an earlier pass may still be under way.
            let clash = self.resync(peer, volume).is_some_and(|s| {
                s.requests.values().any(|r| {
                    r.sector.0 < found.sector.0 + u64::from(found.len / 512)
                        && found.sector.0 < r.sector.0 + u64::from(r.len / 512)
                })
            });
            cursor = found.next;
            left = left.saturating_sub(found.bits);
            if !clash {
                made.push((found.sector, found.len, thin != 0 && found.len == thin));
            }
        }
        if let Some(run) = self.resync_mut(peer, volume).and_then(|s| s.run.as_mut()) {
            run.cursor = cursor;
        }
        for (sector, len, thin) in made {
            self.make_request(peer, volume, sector, len, thin);
        }
    }

    /// How many sectors may be asked for in this turn; `None`: none at all.
    fn turn_budget(&mut self, peer: NodeId, volume: VolumeNr) -> Option<u64> {
        let now = self.now;
        let conn = self.conns.get_mut(&peer)?;
        let max_buffers = u64::from(conn.options.max_buffers) * 8;
        let pd = conn.peers.get_mut(&volume)?;
        let max_rate = u64::from(pd.options.c_max_rate) * 2 / 10;
        let run = pd.data.resync.run.as_mut()?;
        run.last_turn = now;
        run.answered = 0;
        if run.ahead || (core::mem::take(&mut run.unsuccessful) && run.in_flight > 0) {
            return None;
        }
        let room = max_buffers.saturating_sub(run.in_flight);
        let budget = if max_rate > 0 {
            room.min(max_rate)
        } else {
            room
        };
        (budget > 0).then_some(budget)
    }

    /// Starts one request.
    fn make_request(
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
            run.in_flight += u64::from(len / 512);
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
                interval,
            },
        );
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
    fn try_send(&mut self, peer: NodeId, volume: VolumeNr, id: ResyncId) {
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
            let (dagtag_node_id, dagtag) = self.own_position();
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
            Stage::Checksum | Stage::Sent | Stage::Writing => {}
        }
    }

    /// The request that an answer is for. Before protocol 122 ids say nothing.
    fn find_request(
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

    /// What the source has is here: nobody is known to have the same until it is written.
    fn answer_to_write(
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
        if let Some(v) = self.volumes.get_mut(&volume) {
            if let Some(disk) = &mut v.disk {
                disk.bitmap.set_in_all(sector, len);
            }
            if let Some(interval) = interval {
                v.data.intervals.set(interval, Flags::RECEIVED);
            }
        }
        self.resync_bits_changed(volume);
        self.tell_resync_targets(volume, sector, len, NodeMask::EMPTY.with(peer));
        self.note_answered(peer, volume, len);
        self.try_write(peer, volume, id);
    }

    /// Writes what the source sent unless a write to the same place goes first.
    fn try_write(&mut self, peer: NodeId, volume: VolumeNr, id: ResyncId) {
        let Some(request) = self.resync(peer, volume).and_then(|s| s.requests.get(&id)) else {
            return;
        };
        let Stage::WaitWrite(buf) = request.stage else {
            return;
        };
        let (sector, len, interval) = (request.sector, request.len, request.interval);
        if !interval.is_some_and(|i| self.interval_submit(volume, i)) {
            return;
        }
        if let Some(request) = self
            .resync_mut(peer, volume)
            .and_then(|s| s.requests.get_mut(&id))
        {
            request.stage = Stage::Writing;
        }
        if !self.local_disk_at_least(volume, DiskState::Inconsistent) {
            if let Some(buf) = buf {
                self.release(buf);
            }
            self.acknowledge(peer, volume, id, sector, len, false);
            return;
        }
        if let Some(v) = self.volumes.get_mut(&volume) {
            v.data.written += u64::from(len / 512);
        }
        let op = self.resync_op(peer, volume, id, Step::Write);
        match buf {
            Some(buf) => {
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
            None => {
                let kind = DiscardKind {
                    trim: true,
                    zero: true,
                };
                self.push(Effect::DiskDiscard {
                    op,
                    volume,
                    sector,
                    len,
                    kind,
                });
            }
        }
    }

    /// The disk has it. `same` is false if the connection it came over is gone.
    pub(super) fn resync_written(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        id: ResyncId,
        same: bool,
        result: OpResult,
    ) {
        let request = self.resync(peer, volume).and_then(|s| s.requests.get(&id));
        let Some((sector, len)) = request.map(|r| (r.sector, r.len)) else {
            return;
        };
        if result.is_err() {
            self.disk_failed(volume, crate::disk::DiskFault::Write);
        }
        if same {
            self.acknowledge(peer, volume, id, sector, len, result.is_ok());
        } else {
            // The bits stay: the source does not know that it was written.
            self.remove_request(peer, volume, id);
        }
    }

    fn acknowledge(
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

    /// Sectors came back.
    fn note_answered(&mut self, peer: NodeId, volume: VolumeNr, len: u32) {
        let now = self.now;
        let Some(pd) = self
            .conns
            .get_mut(&peer)
            .and_then(|c| c.peers.get_mut(&volume))
        else {
            return;
        };
        let max_rate = u64::from(pd.options.c_max_rate);
        let Some(run) = pd.data.resync.run.as_mut() else {
            return;
        };
        let sectors = u64::from(len / 512);
        run.in_flight = run.in_flight.saturating_sub(sectors);
        run.answered += sectors;
        if run.in_flight == 0 && !run.unsuccessful && !run.ahead {
            // Everything is back: an early turn, as far as c-max-rate allows (data path, section 15.4).
            let micros = (run.answered / 2 * 1_000_000)
                .checked_div(max_rate)
                .unwrap_or(0);
            let at = (run.last_turn + Duration::from_micros(micros)).max(now);
            self.timers.set(Timer::ResyncTurn(peer, volume), at);
        }
    }

    /// A request is over.
    fn end_request(&mut self, peer: NodeId, volume: VolumeNr, id: ResyncId, outcome: Outcome) {
        let Some((sector, len)) = self.remove_request(peer, volume, id) else {
            return;
        };
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
                Outcome::Later => run.unsuccessful = true,
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

    fn remove_request(
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
    fn drop_unsent(&mut self, peer: NodeId, volume: VolumeNr) {
        self.drop_requests(peer, volume, |stage| {
            matches!(stage, Stage::WaitSend(_) | Stage::Checksum)
        });
    }

    fn drop_requests(&mut self, peer: NodeId, volume: VolumeNr, which: fn(&Stage) -> bool) {
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

    /// The streams are gone; what the disk works on keeps its place until it is done.
    pub(super) fn target_lost(&mut self, peer: NodeId, volume: VolumeNr) {
        if let Some(state) = self.resync_mut(peer, volume) {
            state.run = None;
        }
        self.drop_requests(peer, volume, |stage| !matches!(stage, Stage::Writing));
    }

    /// Sector up to which the running pass has asked.
    pub(super) fn target_position(&self, peer: NodeId, volume: VolumeNr) -> Option<u64> {
        let run = self.resync(peer, volume)?.run.as_ref()?;
        let disk = self.volumes.get(&volume)?.disk.as_ref()?;
        (run.cursor.0 < disk.bitmap.bits()).then(|| run.cursor.0 * disk.bitmap.sectors_per_bit())
    }

    /// Whether no bit is left behind the cursor and nothing is under way (data path, section 16.5).
    fn pass_over(&self, peer: NodeId, volume: VolumeNr) -> bool {
        let (Some(slot), Some(state)) = (self.slot_of(peer, volume), self.resync(peer, volume))
        else {
            return false;
        };
        let Some(run) = &state.run else { return false };
        let Some(disk) = self.volumes.get(&volume).and_then(|v| v.disk.as_ref()) else {
            return false;
        };
        state.requests.is_empty()
            && !run.finishing
            && !self.flush_outstanding()
            && disk.bitmap.next_set(slot, run.cursor).is_none()
    }

    /// Bits were set while the end was being agreed on: another pass.
    pub(crate) fn data_resync_again(&mut self, peer: NodeId, volume: VolumeNr) {
        let now = self.now;
        if let Some(run) = self.resync_mut(peer, volume).and_then(|s| s.run.as_mut()) {
            run.finishing = false;
            run.cursor = BitNr(0);
            self.timers.set(Timer::ResyncTurn(peer, volume), now);
        }
    }

    /// Another pass, or the end (data path, section 16.5).
    fn end_of_pass(&mut self, peer: NodeId, volume: VolumeNr) {
        let weight = self.bits_towards(peer, volume);
        let replicated = self.all_replicate(volume);
        let (now, timer) = (self.now, Timer::ResyncTurn(peer, volume));
        let Some(run) = self.resync_mut(peer, volume).and_then(|s| s.run.as_mut()) else {
            return;
        };
        let failed = run.failed > 0;
        let shrinks = !failed && weight > 0 && weight < run.previous / 2;
        run.previous = weight;
        if !replicated && !shrinks {
            run.cursor = BitNr(0);
            self.timers.set(timer, now + TURN);
            let _ = self.change(ChangeFlags::HARD, |s| {
                for conn in s.conns.values_mut() {
                    if let Some(pd) = conn.peers.get_mut(&volume) {
                        pd.peer_replication = true;
                    }
                }
            });
        } else if !failed && weight > 0 {
            run.cursor = BitNr(0);
            self.timers.set(timer, now);
        } else {
            run.finishing = true;
            self.finish_in_sync_steps(peer, volume);
            self.resync_finished(peer, volume, failed);
        }
    }
}

/// How a request ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Written,
    Same,
    Failed,
    Later,
}

/// A range worth a request.
struct Found {
    sector: Sector,
    len: u32,
    /// Bits it covers, and where to go on.
    bits: u64,
    next: BitNr,
}

/// The next request at or after `cursor` (data path, section 15.2, item 6). `left`: bits that may be asked
/// for; `step`: own bits per bit of the coarser side; `thin`: size of thin requests in bytes, 0 for none.
fn find_request(
    bitmap: &Bitmap,
    slot: Slot,
    cursor: BitNr,
    left: u64,
    step: u64,
    thin: u32,
) -> Option<Found> {
    let first = bitmap.next_set(slot, cursor)?.0;
    let first = first - first % step;
    let most = (u64::from(MAX_REQUEST / bitmap.block_size())).max(step);
    let aligned = if first == 0 {
        most
    } else {
        (1 << first.trailing_zeros()).min(most)
    };
    let budget = left.max(1).next_power_of_two().min(most);
    let mut limit = aligned.min(budget).max(step);
    if thin >= bitmap.block_size() {
        limit = limit.min(u64::from(thin / bitmap.block_size()).max(step));
    }
    let mut bits = step;
    while bits + step <= limit {
        let next = first + bits;
        if !bitmap.any_bits(slot, BitNr(next)..=BitNr(next + step - 1)) {
            break;
        }
        bits += step;
    }
    let range = bitmap.sectors(&(BitNr(first)..=BitNr(first + bits - 1)));
    let len = u32::try_from((range.end.0 - range.start.0) * 512)
        .ok()
        .filter(|len| *len > 0)?;
    Some(Found {
        sector: range.start,
        len,
        bits,
        next: BitNr(first + bits),
    })
}
