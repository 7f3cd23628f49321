//! Online verify: two copies are compared by digests while they are in use (data path, section 17).

use alloc::format;
use alloc::vec::Vec;
use core::time::Duration;

use drbd_proto::packet::{
    BlockAck, BlockRequest, DagtagRequest, OvDagtagReply, OvOutcome, OvReply, OvResult, OvResultId,
};
use drbd_proto::{
    BlockId, Bytes, ConnState, DigestAlg, DigestValue, DiskState, Features, NodeId, Packet,
    ReplState, Sector, Stream, VolumeNr,
};

use crate::bitmap::BitNr;
use crate::disk::DiskFault;
use crate::effect::Effect;
use crate::engine::{Engine, PacketError};
use crate::event::{OpOutput, OpResult};
use crate::interval::{Check, Flags, IntervalId, Kind};
use crate::resync::source::Asked;
use crate::resync::{ResyncId, Step};
use crate::state::change::ChangeFlags;
use crate::status::SyncInfo;
use crate::time::Instant;
use crate::timer::Timer;

/// Time between turns.
const TURN: Duration = Duration::from_millis(100);

/// A verify.
#[derive(Debug)]
pub(crate) struct Verify {
    /// This node asks.
    asks: bool,
    /// Next bit to ask for.
    cursor: u64,
    /// Sector behind the last one to compare; none: to the end.
    stop: Option<u64>,
    /// Bits to go, and at the beginning. Not known on the answering side before the first request.
    left: u64,
    total: u64,
    begun: bool,
    /// Bits that were not compared, and those that differ.
    skipped: u64,
    differ: u64,
    started: Instant,
    /// Adjacent differences, to be reported in one line: first sector, sectors.
    report: Option<(u64, u64)>,
}

impl Verify {
    /// Progress for status output. `spb`: sectors per bit.
    pub(crate) fn info(&self, now: Instant, spb: u64) -> SyncInfo {
        let elapsed = u64::try_from(now.since(self.started).as_millis()).unwrap_or(u64::MAX);
        SyncInfo {
            total: self.total * spb,
            left: self.left * spb,
            failed: 0,
            same_csum: 0,
            elapsed_ms: elapsed,
            paused_ms: 0,
            window_ms: elapsed,
            window_sectors: self.total.saturating_sub(self.left) * spb,
        }
    }
}

/// Where a comparison stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Until a position in a Primary's stream of writes is reached.
    Parked,
    /// Being read and digested.
    Reading,
    /// With the other node.
    Sent,
}

/// A block being compared.
#[derive(Debug)]
pub(crate) struct VerifyRequest {
    asked: Asked,
    stage: Stage,
    interval: Option<IntervalId>,
    /// Digest of the other node's block.
    theirs: Option<DigestValue>,
    /// This node asks.
    asks: bool,
}

impl Engine {
    /// The administrator gave bounds for the next verify, in sectors (data path, section 17, item 2).
    pub(crate) fn verify_range(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        start: Option<Sector>,
        stop: Option<Sector>,
    ) {
        if let Some(state) = self.resync_mut(peer, volume) {
            if let Some(start) = start {
                state.verify_from = start.0;
            }
            state.verify_stop = stop.map(|s| s.0);
        }
    }

    /// Starts or ends a verify.
    pub(super) fn verify_state_changed(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        old: ReplState,
        new: ReplState,
    ) {
        let is = |repl| matches!(repl, ReplState::VerifyS | ReplState::VerifyT);
        if is(new) && !is(old) {
            self.verify_begin(peer, volume, new == ReplState::VerifyS);
        } else if !is(new) && is(old) {
            self.verify_end(peer, volume);
        }
    }

    fn verify_begin(&mut self, peer: NodeId, volume: VolumeNr, asks: bool) {
        let now = self.now;
        let Some(disk) = self.volumes.get(&volume).and_then(|v| v.disk.as_ref()) else {
            return;
        };
        let (bits, spb) = (disk.bitmap.bits(), disk.bitmap.sectors_per_bit());
        let Some(state) = self.resync_mut(peer, volume) else {
            return;
        };
        let cursor = (state.verify_from / spb).min(bits.saturating_sub(1));
        let left = bits - cursor;
        state.verify = Some(Verify {
            asks,
            cursor,
            stop: state.verify_stop.take(),
            left,
            total: left,
            begun: asks,
            skipped: 0,
            differ: 0,
            started: now,
            report: None,
        });
        if asks {
            self.timers.set(Timer::ResyncTurn(peer, volume), now);
        }
    }

    /// Reports what was found and writes it down (data path, section 17, item 7).
    fn verify_end(&mut self, peer: NodeId, volume: VolumeNr) {
        self.verify_report(peer, volume);
        let block = self.volumes.get(&volume).and_then(|v| v.disk.as_ref());
        let (spb, block) = block.map_or((8, 4), |d| {
            (d.bitmap.sectors_per_bit(), d.bitmap.block_size() / 1024)
        });
        let now = self.now;
        let Some(state) = self.resync_mut(peer, volume) else {
            return;
        };
        let Some(verify) = state.verify.take() else {
            return;
        };
        let done = verify.left == 0 || verify.stop.is_some_and(|s| verify.cursor * spb >= s);
        let at = (verify.cursor - state.compared.len() as u64).saturating_mul(spb);
        state.verify_from = if done { 0 } else { at };
        self.timers.cancel(Timer::ResyncTurn(peer, volume));
        self.drop_compared(peer, volume);
        let text = if done {
            let seconds = now.since(verify.started).as_secs();
            let skipped = match verify.skipped {
                0 => alloc::string::String::new(),
                n => format!(" but {n} {block}k blocks skipped"),
            };
            format!("Online verify done{skipped} (total {seconds} sec)")
        } else {
            format!("Online Verify reached sector {at}")
        };
        self.log_resync(peer, volume, &text);
        if self.bits_towards(peer, volume) > 0 {
            let found = verify.differ;
            let text = format!("Online verify found {found} {block}k blocks out of sync!");
            self.log_resync(peer, volume, &text);
            let op = self.op(crate::engine::Op::Control(
                crate::control::ControlOp::Upcall,
            ));
            self.push(Effect::Upcall {
                op,
                handler: "out-of-sync",
                about: (Some(peer), Some(volume)),
            });
        }
        self.data_bitmap_writeout(volume);
    }

    /// The asking side has ended the verify.
    pub(crate) fn data_verify_finished(&mut self, peer: NodeId, volume: VolumeNr) {
        if let Some(verify) = self
            .resync_mut(peer, volume)
            .and_then(|s| s.verify.as_mut())
        {
            // What the asking side did not ask for is not our business.
            verify.left = 0;
        }
    }

    /// One turn of the asking side.
    pub(super) fn verify_turn(&mut self, peer: NodeId, volume: VolumeNr) {
        if !self.local_disk_at_least(volume, DiskState::Inconsistent) {
            return;
        }
        self.timers
            .set(Timer::ResyncTurn(peer, volume), self.now + TURN);
        let Some(disk) = self.volumes.get(&volume).and_then(|v| v.disk.as_ref()) else {
            return;
        };
        let (bits, spb) = (disk.bitmap.bits(), disk.bitmap.sectors_per_bit());
        let Some(pd) = self.conns.get(&peer).and_then(|c| c.peers.get(&volume)) else {
            return;
        };
        // As many blocks as c-max-rate allows in a turn.
        let most = (u64::from(pd.options.c_max_rate) * 2 / 10 / spb).clamp(1, 1024);
        let state = &pd.data.resync;
        let Some(verify) = &state.verify else { return };
        let room = most.saturating_sub(state.compared.len() as u64);
        let first = verify.cursor;
        let end = verify
            .stop
            .map_or(bits, |stop| stop.div_ceil(spb).max(first + 1).min(bits));
        for bit in first..end.min(first + room) {
            let Some(disk) = self.volumes.get(&volume).and_then(|v| v.disk.as_ref()) else {
                return;
            };
            let range = disk.bitmap.sectors(&(BitNr(bit)..=BitNr(bit)));
            let len = (range.end.0 - range.start.0) * 512;
            self.verify_ask(peer, volume, range.start, len as u32);
            if let Some(verify) = self
                .resync_mut(peer, volume)
                .and_then(|s| s.verify.as_mut())
            {
                verify.cursor = bit + 1;
            }
        }
        self.verify_check_end(peer, volume);
    }

    fn verify_ask(&mut self, peer: NodeId, volume: VolumeNr, sector: Sector, len: u32) {
        let Some(id) = self.new_resync_id(peer, volume) else {
            return;
        };
        let interval = self.verify_interval(peer, volume, id, Kind::VerifySource, sector, len);
        let request = BlockRequest {
            sector,
            block_id: id.block_id(),
            size: Bytes(len),
        };
        let asked = Asked::from(request);
        if let Some(state) = self.resync_mut(peer, volume) {
            let stage = Stage::Sent;
            let request = VerifyRequest {
                asked,
                stage,
                interval,
                theirs: None,
                asks: true,
            };
            state.compared.insert(id, request);
        }
        let packet = if self.has_feature(peer, Features::RESYNC_DAGTAG) {
            let (dagtag_node_id, dagtag) = self.own_position();
            let (block_id, size) = (id.block_id(), Bytes(len));
            Packet::OvDagtagReq(DagtagRequest {
                sector,
                block_id,
                size,
                dagtag_node_id,
                dagtag,
            })
        } else {
            Packet::OvRequest(request)
        };
        self.send(peer, Stream::Data, volume, packet);
    }

    /// Adds an interval that blocks nobody but notices writes.
    fn verify_interval(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        id: ResyncId,
        kind: Kind,
        sector: Sector,
        len: u32,
    ) -> Option<IntervalId> {
        let interval = self.resync_interval(peer, volume, id, kind, sector, len)?;
        let v = self.volumes.get_mut(&volume)?;
        let mut flags = Flags::SUBMITTED;
        if v.data.intervals.conflict(interval, Check::Submit).is_some() {
            flags = flags.with(Flags::CONFLICT);
        }
        v.data.intervals.set(interval, flags);
        Some(interval)
    }

    /// Whether a write came in between.
    fn crossed(&self, volume: VolumeNr, interval: Option<IntervalId>) -> bool {
        let v = self.volumes.get(&volume);
        let flags = v
            .zip(interval)
            .and_then(|(v, id)| v.data.intervals.get(id))
            .map(|i| i.flags);
        flags.is_none_or(|f| f.has(Flags::CONFLICT))
    }

    /// P_OV_REQUEST or P_OV_DAGTAG_REQ: the other side asks.
    ///
    /// # Errors
    /// The range is not inside the device.
    pub(super) fn got_verify_request(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        asked: Asked,
    ) -> Result<(), PacketError> {
        self.check_inside(volume, asked.sector, asked.size)?;
        let disk = self.volumes.get(&volume).and_then(|v| v.disk.as_ref());
        let bits = disk.map(|d| (d.bitmap.bits(), d.bitmap.sectors_per_bit()));
        let verify = self
            .resync_mut(peer, volume)
            .and_then(|s| s.verify.as_mut());
        if let (Some(verify), Some((bits, spb))) = (verify, bits) {
            if !core::mem::replace(&mut verify.begun, true) {
                verify.left = bits.saturating_sub(asked.sector.0 / spb);
                verify.total = verify.left;
                verify.cursor = asked.sector.0 / spb;
            }
            verify.cursor += 1;
        }
        if !self.local_disk_at_least(volume, DiskState::Outdated) {
            self.verify_cancel(peer, volume, asked);
            return Ok(());
        }
        let Some(id) = self.new_resync_id(peer, volume) else {
            return Ok(());
        };
        if let Some(state) = self.resync_mut(peer, volume) {
            let stage = Stage::Parked;
            let interval = None;
            let request = VerifyRequest {
                asked,
                stage,
                interval,
                theirs: None,
                asks: false,
            };
            state.compared.insert(id, request);
        }
        self.try_compare(peer, volume, id);
        Ok(())
    }

    /// Refuses a block; it counts as skipped on both sides.
    fn verify_cancel(&mut self, peer: NodeId, volume: VolumeNr, asked: Asked) {
        let (sector, len) = (asked.sector, asked.size.0);
        self.send_rs_ack(peer, volume, sector, len, asked.block_id, Packet::RsCancel);
        self.verify_count(peer, volume, sector, len, OvOutcome::Skipped);
    }

    /// Looks at parked comparisons again.
    pub(super) fn retry_parked_verify(&mut self) {
        let mut parked = Vec::new();
        for (peer, conn) in &self.conns {
            for (volume, pd) in &conn.peers {
                let compared = &pd.data.resync.compared;
                for (id, _) in compared.iter().filter(|(_, r)| r.stage == Stage::Parked) {
                    parked.push((*peer, *volume, *id));
                }
            }
        }
        for (peer, volume, id) in parked {
            self.try_compare(peer, volume, id);
        }
    }

    /// Reads the own block once the position is reached.
    fn try_compare(&mut self, peer: NodeId, volume: VolumeNr, id: ResyncId) {
        let Some(request) = self.resync(peer, volume).and_then(|s| s.compared.get(&id)) else {
            return;
        };
        let (asked, asks) = (request.asked, request.asks);
        let reached = asked
            .node
            .is_none_or(|node| self.dagtag_reached(node, asked.dagtag));
        if request.stage != Stage::Parked || !reached {
            return;
        }
        let (sector, len) = (asked.sector, asked.size.0);
        if !asks {
            let interval = self.verify_interval(peer, volume, id, Kind::VerifyTarget, sector, len);
            if let Some(r) = self
                .resync_mut(peer, volume)
                .and_then(|s| s.compared.get_mut(&id))
            {
                r.interval = interval;
            }
        }
        if let Some(r) = self
            .resync_mut(peer, volume)
            .and_then(|s| s.compared.get_mut(&id))
        {
            r.stage = Stage::Reading;
        }
        let op = self.resync_op(peer, volume, id, Step::VerifyRead);
        self.push(Effect::DiskRead {
            op,
            volume,
            sector,
            len,
        });
    }

    /// The own block was read, or digested.
    pub(super) fn verify_step(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        id: ResyncId,
        step: Step,
        same: bool,
        result: OpResult,
    ) {
        let request = self.resync(peer, volume).and_then(|s| s.compared.get(&id));
        let known = request
            .filter(|_| same)
            .map(|r| (r.asked, r.asks, r.interval, r.theirs));
        let algorithm = self
            .conns
            .get(&peer)
            .and_then(|c| DigestAlg::from_name(&c.options.verify_alg));
        let mine = match result {
            Ok(OpOutput::Buf(buf)) => {
                if let (Some(_), Some(algorithm), Step::VerifyRead) = (known, algorithm, step) {
                    let op = self.resync_op(peer, volume, id, Step::VerifyDigest);
                    self.push(Effect::Digest { op, buf, algorithm });
                }
                self.release(buf);
                if algorithm.is_some() {
                    return;
                }
                None
            }
            Ok(OpOutput::Digest(bytes)) => DigestValue::new(&bytes),
            Ok(_) => None,
            Err(_) => {
                self.disk_failed(volume, DiskFault::Read);
                None
            }
        };
        let Some((asked, asks, interval, theirs)) = known else {
            return;
        };
        let crossed = self.crossed(volume, interval);
        if asks {
            let outcome = match (crossed, mine, theirs) {
                (true, ..) => OvOutcome::Skipped,
                (false, Some(mine), Some(theirs)) if mine == theirs => OvOutcome::InSync,
                _ => OvOutcome::OutOfSync,
            };
            self.end_compared(peer, volume, id);
            self.send_outcome(peer, volume, asked, outcome);
            self.verify_count(peer, volume, asked.sector, asked.size.0, outcome);
            self.verify_check_end(peer, volume);
            return;
        }
        let modern = self.conns.get(&peer).is_some_and(|c| c.apv() >= 110);
        if crossed && modern {
            self.end_compared(peer, volume, id);
            self.verify_cancel(peer, volume, asked);
            return;
        }
        // The interval has served its purpose: the position of the digest is known.
        self.leave_interval(volume, interval);
        if let Some(r) = self
            .resync_mut(peer, volume)
            .and_then(|s| s.compared.get_mut(&id))
        {
            r.interval = None;
            r.stage = Stage::Sent;
        }
        let zeroes = || DigestValue::zeroes(algorithm.map_or(0, DigestAlg::digest_len));
        let Some(digest) = mine.or_else(zeroes) else {
            return;
        };
        let (sector, block_id, size) = (asked.sector, asked.block_id, asked.size);
        let packet = if self.has_feature(peer, Features::RESYNC_DAGTAG) {
            let (dagtag_node_id, dagtag) = self.own_position();
            let request = DagtagRequest {
                sector,
                block_id,
                size,
                dagtag_node_id,
                dagtag,
            };
            Packet::OvDagtagReply(OvDagtagReply { request, digest })
        } else {
            Packet::OvReply(OvReply {
                request: BlockRequest {
                    sector,
                    block_id,
                    size,
                },
                digest,
            })
        };
        self.send(peer, Stream::Data, volume, packet);
    }

    /// The comparison that a packet is about.
    fn find_compared(
        &self,
        peer: NodeId,
        volume: VolumeNr,
        sector: Sector,
        len: u32,
        block_id: Option<BlockId>,
        asks: bool,
    ) -> Option<ResyncId> {
        let by_id = self.conns.get(&peer).is_some_and(|c| c.apv() >= 122);
        let block_id = block_id.filter(|id| by_id && *id != BlockId::SYNCER);
        let state = self.resync(peer, volume)?;
        let fits = |r: &VerifyRequest| {
            r.asks == asks
                && r.stage == Stage::Sent
                && r.asked.sector == sector
                && r.asked.size.0 == len
                && block_id.is_none_or(|id| r.asked.block_id == id)
        };
        state
            .compared
            .iter()
            .find(|(_, r)| fits(r))
            .map(|(id, _)| *id)
    }

    /// P_OV_REPLY or P_OV_DAGTAG_REPLY: the other side's digest.
    ///
    /// # Errors
    /// It was not asked for.
    pub(super) fn got_verify_reply(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        reply: Asked,
        digest: DigestValue,
    ) -> Result<(), PacketError> {
        let (sector, len) = (reply.sector, reply.size.0);
        let found = self.find_compared(peer, volume, sector, len, Some(reply.block_id), true);
        let id = found.ok_or_else(|| not_asked(sector, len))?;
        if let Some(r) = self
            .resync_mut(peer, volume)
            .and_then(|s| s.compared.get_mut(&id))
        {
            r.theirs = Some(digest);
            r.stage = Stage::Parked;
            r.asked.node = reply.node;
            r.asked.dagtag = reply.dagtag;
        }
        self.try_compare(peer, volume, id);
        Ok(())
    }

    /// P_OV_RESULT or P_OV_RESULT_ID: what the comparison came to.
    ///
    /// # Errors
    /// There was none.
    pub(super) fn got_verify_result(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        sector: Sector,
        len: u32,
        block_id: Option<BlockId>,
        outcome: OvOutcome,
    ) -> Result<(), PacketError> {
        let found = self.find_compared(peer, volume, sector, len, block_id, false);
        let id = found.ok_or_else(|| not_asked(sector, len))?;
        self.end_compared(peer, volume, id);
        self.verify_count(peer, volume, sector, len, outcome);
        Ok(())
    }

    /// Whether a refusal is about a block of a verify.
    pub(super) fn is_verify_request(&self, peer: NodeId, volume: VolumeNr, ack: &BlockAck) -> bool {
        let (sector, len) = (ack.sector, ack.size.0);
        self.find_compared(peer, volume, sector, len, Some(ack.block_id), true)
            .is_some()
    }

    /// P_RS_CANCEL or P_RS_CANCEL_AHEAD for a block of a verify.
    pub(super) fn verify_cancelled(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        ack: BlockAck,
    ) -> Result<(), PacketError> {
        self.note_seq(peer, volume, ack.seq_num);
        let (sector, len) = (ack.sector, ack.size.0);
        let found = self.find_compared(peer, volume, sector, len, Some(ack.block_id), true);
        let id = found.ok_or_else(|| not_asked(sector, len))?;
        self.end_compared(peer, volume, id);
        self.verify_count(peer, volume, sector, len, OvOutcome::Skipped);
        self.verify_check_end(peer, volume);
        Ok(())
    }

    fn send_outcome(&mut self, peer: NodeId, volume: VolumeNr, asked: Asked, result: OvOutcome) {
        let seq_num = self.next_seq(peer, volume);
        let (sector, block_id, size) = (asked.sector, asked.block_id, asked.size);
        let packet = if self.conns.get(&peer).is_some_and(|c| c.apv() >= 122) {
            Packet::OvResultId(OvResultId {
                sector,
                block_id,
                size,
                seq_num,
                result,
            })
        } else {
            Packet::OvResult(OvResult {
                sector,
                result,
                size,
                seq_num,
            })
        };
        self.send(peer, Stream::Control, volume, packet);
    }

    /// A comparison is over.
    fn end_compared(&mut self, peer: NodeId, volume: VolumeNr, id: ResyncId) {
        if let Some(r) = self
            .resync_mut(peer, volume)
            .and_then(|s| s.compared.remove(&id))
        {
            self.leave_interval(volume, r.interval);
        }
    }

    /// Counts a block and marks it if it differs (data path, section 17, items 6 and 8).
    fn verify_count(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        sector: Sector,
        len: u32,
        outcome: OvOutcome,
    ) {
        if outcome == OvOutcome::OutOfSync {
            self.set_towards(peer, volume, sector, len);
        }
        let sectors = u64::from(len / 512);
        let Some(verify) = self
            .resync_mut(peer, volume)
            .and_then(|s| s.verify.as_mut())
        else {
            return;
        };
        verify.left = verify.left.saturating_sub(1);
        match outcome {
            OvOutcome::Skipped => verify.skipped += 1,
            OvOutcome::OutOfSync => {
                verify.differ += 1;
                match &mut verify.report {
                    Some((start, count)) if *start + *count == sector.0 => *count += sectors,
                    _ => {
                        self.verify_report(peer, volume);
                        let state = self.resync_mut(peer, volume);
                        if let Some(verify) = state.and_then(|s| s.verify.as_mut()) {
                            verify.report = Some((sector.0, sectors));
                        }
                    }
                }
            }
            OvOutcome::InSync => {}
        }
    }

    fn verify_report(&mut self, peer: NodeId, volume: VolumeNr) {
        let state = self.resync_mut(peer, volume);
        let report = state
            .and_then(|s| s.verify.as_mut())
            .and_then(|v| v.report.take());
        if let Some((start, size)) = report {
            let text = format!("Out of sync: start={start}, size={size} (sectors)");
            self.log_resync(peer, volume, &text);
        }
    }

    /// The asking side ends the verify when everything is compared.
    fn verify_check_end(&mut self, peer: NodeId, volume: VolumeNr) {
        let spb = self.volumes.get(&volume).and_then(|v| v.disk.as_ref());
        let spb = spb.map_or(8, |d| d.bitmap.sectors_per_bit());
        let now = self.now;
        let Some(state) = self.resync(peer, volume) else {
            return;
        };
        let Some(verify) = state.verify.as_ref().filter(|v| v.asks) else {
            return;
        };
        let stopped = verify.stop.is_some_and(|stop| verify.cursor * spb >= stop);
        if !state.compared.is_empty() {
            return;
        }
        if verify.left > 0 && !stopped {
            // Everything is back: go on at once.
            self.timers.set(Timer::ResyncTurn(peer, volume), now);
            return;
        }
        let _ = self.change(ChangeFlags::HARD, |s| {
            if let Some(pd) = s.pd_mut(peer, volume) {
                pd.repl = ReplState::Established;
            }
        });
        if self.state.cstate(peer) == ConnState::Connected {
            self.send_state(peer, volume);
        }
    }

    fn drop_compared(&mut self, peer: NodeId, volume: VolumeNr) {
        let Some(state) = self.resync_mut(peer, volume) else {
            return;
        };
        for request in core::mem::take(&mut state.compared).into_values() {
            self.leave_interval(volume, request.interval);
        }
    }

    /// The streams are gone; the next run goes on where this one was.
    pub(super) fn verify_lost(&mut self, peer: NodeId, volume: VolumeNr) {
        if self
            .resync(peer, volume)
            .is_some_and(|s| s.verify.is_some())
        {
            self.verify_end(peer, volume);
        }
        self.drop_compared(peer, volume);
    }
}

fn not_asked(sector: Sector, len: u32) -> PacketError {
    PacketError::new(format!(
        "verify answer for sector {sector}, size {len}, not asked for"
    ))
}
