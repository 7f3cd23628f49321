//! One block of an online verify: asked for, read, digested, compared (data path, section 17, items 3 to 6).

use alloc::format;
use alloc::vec::Vec;

use drbd_proto::packet::{
    BlockAck, BlockRequest, DagtagRequest, OvDagtagReply, OvOutcome, OvReply, OvResult, OvResultId,
};
use drbd_proto::{
    BlockId, Bytes, DigestAlg, DigestValue, DiskState, Features, NodeId, Packet, ReplState, Sector,
    Stream, VolumeNr,
};

use crate::disk::DiskFault;
use crate::effect::Effect;
use crate::engine::{Engine, PacketError};
use crate::event::{OpOutput, OpResult};
use crate::interval::{Check, Flags, IntervalId, Kind};
use crate::resync::marks::Marks;
use crate::resync::source::Asked;
use crate::resync::verify::{Stage, VerifyRequest};
use crate::resync::{ResyncId, Step};

impl Engine {
    pub(super) fn verify_ask(&mut self, peer: NodeId, volume: VolumeNr, sector: Sector, len: u32) {
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
            let (dagtag_node_id, dagtag) = self.own_position(peer, volume);
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
    pub(super) fn verify_interval(
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
    pub(super) fn crossed(&self, volume: VolumeNr, interval: Option<IntervalId>) -> bool {
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
        let now = self.now;
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
                verify.first = verify.cursor;
                verify.marks = Marks::new(now, verify.left);
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
    pub(super) fn verify_cancel(&mut self, peer: NodeId, volume: VolumeNr, asked: Asked) {
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
    pub(super) fn try_compare(&mut self, peer: NodeId, volume: VolumeNr, id: ResyncId) {
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
            let (dagtag_node_id, dagtag) = self.own_position(peer, volume);
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
    pub(super) fn find_compared(
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
        match found {
            Some(id) => self.end_compared(peer, volume, id),
            // The end of the verify was told on the other stream, and came first.
            None if self.state.repl(peer, volume) != ReplState::VerifyT => {}
            None => return Err(not_asked(sector, len)),
        }
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

    pub(super) fn send_outcome(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        asked: Asked,
        result: OvOutcome,
    ) {
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
    pub(super) fn end_compared(&mut self, peer: NodeId, volume: VolumeNr, id: ResyncId) {
        if let Some(r) = self
            .resync_mut(peer, volume)
            .and_then(|s| s.compared.remove(&id))
        {
            self.leave_interval(volume, r.interval);
        }
    }
}

fn not_asked(sector: Sector, len: u32) -> PacketError {
    PacketError::new(format!(
        "verify answer for sector {sector}, size {len}, not asked for"
    ))
}
