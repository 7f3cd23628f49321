//! The SyncSource: it reads what the target asks for, not before it has seen the writes that the target has
//! seen, and keeps writes away until the target has written it (data path, section 15.7).

use alloc::vec::Vec;

use drbd_proto::packet::{BlockAck, BlockRequest, DagtagRequest, DataReply, Deallocated};
use drbd_proto::{
    BlockId, Bytes, Dagtag, DigestAlg, DigestValue, DiskState, NodeId, Packet, ReplState, Sector,
    Stream, VolumeNr,
};

use crate::effect::Effect;
use crate::engine::{Engine, PacketError};
use crate::event::{OpOutput, OpResult};
use crate::id::BufId;
use crate::interval::{IntervalId, Kind};
use crate::resync::marks::Marks;
use crate::resync::{ResyncId, Step};
use crate::status::SyncInfo;
use crate::time::Instant;
use crate::timer::Timer;

/// A resync with this node as source.
#[derive(Debug)]
pub(crate) struct SourceRun {
    /// When it began.
    started: Instant,
    /// Bits at the beginning.
    total: u64,
    /// Its speed.
    pub(super) marks: Marks,
}

impl SourceRun {
    /// Progress for status output. `spb`: sectors per bit.
    pub(crate) fn info(&self, now: Instant, weight: u64, spb: u64) -> SyncInfo {
        let elapsed = u64::try_from(now.since(self.started).as_millis()).unwrap_or(u64::MAX);
        let windows = self.marks.windows(now, weight);
        SyncInfo {
            total: self.total.max(weight) * spb,
            left: weight * spb,
            failed: 0,
            same_csum: 0,
            elapsed_ms: elapsed,
            paused_ms: 0,
            windows: windows.map(|(ms, bits)| (ms, bits * spb)),
            want: 0,
            verify: None,
        }
    }
}

/// What a target or a verify source asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(super) sector: Sector,
    pub(super) size: Bytes,
    pub(super) block_id: BlockId,
    /// Not before this position in that node's stream of writes.
    pub(super) node: Option<NodeId>,
    pub(super) dagtag: Dagtag,
    digest: Option<DigestValue>,
    /// Zeroes need not be sent.
    thin: bool,
}

impl From<BlockRequest> for Asked {
    fn from(r: BlockRequest) -> Self {
        Asked {
            sector: r.sector,
            size: r.size,
            block_id: r.block_id,
            node: None,
            dagtag: Dagtag::ZERO,
            digest: None,
            thin: false,
        }
    }
}

impl From<DagtagRequest> for Asked {
    fn from(r: DagtagRequest) -> Self {
        Asked {
            sector: r.sector,
            size: r.size,
            block_id: r.block_id,
            node: Some(r.dagtag_node_id),
            dagtag: r.dagtag,
            digest: None,
            thin: false,
        }
    }
}

impl Asked {
    /// Equal content need not be sent.
    pub(super) fn checksum(self, digest: DigestValue) -> Self {
        Asked {
            digest: Some(digest),
            ..self
        }
    }

    /// Zeroes need not be sent.
    pub(super) fn thin(self) -> Self {
        Asked { thin: true, ..self }
    }
}

/// Where a request of the target stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// In favour of applications.
    Slowed,
    /// Until a position in somebody's stream of writes is reached.
    Parked,
    /// A write to the same place goes first.
    Conflict,
    /// Being read, digested, or looked at.
    Reading(Option<BufId>),
    /// Answered with data; the target has not acknowledged it.
    Answered,
}

/// A request of the target.
#[derive(Debug)]
pub(crate) struct SourceRequest {
    asked: Asked,
    stage: Stage,
    /// Its place in the interval tree.
    pub(crate) interval: Option<IntervalId>,
}

impl Engine {
    /// A request of the target (data path, section 15.7).
    ///
    /// # Errors
    /// It does not lie inside the device.
    pub(super) fn got_rs_request(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        asked: Asked,
    ) -> Result<(), PacketError> {
        self.check_inside(volume, asked.sector, asked.size)?;
        self.note_progress(peer, volume);
        let repl = self.state.repl(peer, volume);
        let ahead = self.conns.get(&peer).is_some_and(|c| c.apv() >= 115);
        let answer: Option<fn(BlockAck) -> Packet> = match repl {
            ReplState::WFBitMapS | ReplState::StartingSyncS => Some(Packet::RsCancel),
            ReplState::Ahead if ahead => Some(Packet::RsCancelAhead),
            ReplState::Ahead => Some(Packet::RsCancel),
            _ if self.local_disk_at_least(volume, DiskState::Outdated) => None,
            ReplState::PausedSyncS => Some(Packet::RsCancel),
            _ => Some(Packet::NegRsDreply),
        };
        if let Some(answer) = answer {
            self.send_rs_ack(
                peer,
                volume,
                asked.sector,
                asked.size.0,
                asked.block_id,
                answer,
            );
            return Ok(());
        }
        let Some(id) = self.new_resync_id(peer, volume) else {
            return Ok(());
        };
        let slowed = self.slows_down(peer, volume);
        if let Some(state) = self.resync_mut(peer, volume) {
            let request = SourceRequest {
                asked,
                stage: if slowed { Stage::Slowed } else { Stage::Parked },
                interval: None,
            };
            state.served.insert(id, request);
        }
        self.try_serve(peer, volume, id);
        Ok(())
    }

    /// The next request that waited in favour of applications has its turn.
    pub(crate) fn serve_slowed(&mut self, peer: NodeId, volume: VolumeNr) {
        loop {
            let slowed = self.resync_mut(peer, volume).and_then(|s| {
                let (id, request) = s
                    .served
                    .iter_mut()
                    .find(|(_, r)| r.stage == Stage::Slowed)?;
                request.stage = Stage::Parked;
                Some(*id)
            });
            let Some(id) = slowed else { return };
            self.try_serve(peer, volume, id);
            if self.slows_down(peer, volume) {
                return;
            }
        }
    }

    /// Takes the range of a request whose position is reached.
    fn try_serve(&mut self, peer: NodeId, volume: VolumeNr, id: ResyncId) {
        let Some(request) = self.resync(peer, volume).and_then(|s| s.served.get(&id)) else {
            return;
        };
        let asked = request.asked;
        let lacking = asked
            .node
            .is_some_and(|node| self.lacks_writes(node, asked.dagtag));
        let reached = asked
            .node
            .is_none_or(|node| self.dagtag_reached(node, asked.dagtag));
        let reached = reached && self.lost_position_reached(peer);
        if request.stage != Stage::Parked || !reached {
            return;
        }
        if lacking {
            let (sector, len) = (asked.sector, asked.size.0);
            self.send_rs_ack(peer, volume, sector, len, asked.block_id, Packet::RsCancel);
            self.forget_served(peer, volume, id);
            return;
        }
        let (sector, len) = (asked.sector, asked.size.0);
        let interval = self.resync_interval(peer, volume, id, Kind::ResyncRead, sector, len);
        if let Some(request) = self
            .resync_mut(peer, volume)
            .and_then(|s| s.served.get_mut(&id))
        {
            request.stage = Stage::Conflict;
            request.interval = interval;
        }
        self.source_woken(peer, volume, id);
    }

    /// Looks at parked requests again.
    pub(super) fn retry_parked_requests(&mut self) {
        let mut parked = Vec::new();
        for (peer, conn) in &self.conns {
            for (volume, pd) in &conn.peers {
                let served = &pd.data.resync.served;
                for (id, _) in served.iter().filter(|(_, r)| r.stage == Stage::Parked) {
                    parked.push((*peer, *volume, *id));
                }
            }
        }
        for (peer, volume, id) in parked {
            self.try_serve(peer, volume, id);
        }
        self.retry_parked_verify();
    }

    /// Reads unless a write to the same place goes first.
    pub(super) fn source_woken(&mut self, peer: NodeId, volume: VolumeNr, id: ResyncId) {
        let Some(request) = self.resync(peer, volume).and_then(|s| s.served.get(&id)) else {
            return;
        };
        let (asked, interval) = (request.asked, request.interval);
        if request.stage != Stage::Conflict
            || !interval.is_some_and(|i| self.interval_submit(volume, i))
        {
            return;
        }
        if let Some(request) = self
            .resync_mut(peer, volume)
            .and_then(|s| s.served.get_mut(&id))
        {
            request.stage = Stage::Reading(None);
        }
        let (sector, len) = (asked.sector, asked.size.0);
        let op = self.resync_op(peer, volume, id, Step::Read);
        self.push(Effect::DiskRead {
            op,
            volume,
            sector,
            len,
        });
    }

    /// The disk answered, or the digest is there.
    pub(super) fn source_step(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        id: ResyncId,
        step: Step,
        same: bool,
        result: OpResult,
    ) {
        let request = self.resync(peer, volume).and_then(|s| s.served.get(&id));
        let Some((asked, stage)) = request.filter(|_| same).map(|r| (r.asked, r.stage)) else {
            if let Ok(OpOutput::Buf(buf)) = result {
                self.release(buf);
            }
            return;
        };
        match (step, result) {
            (Step::Read, Ok(OpOutput::Buf(buf))) => {
                let algorithm = self
                    .conns
                    .get(&peer)
                    .filter(|_| asked.digest.is_some())
                    .and_then(|c| DigestAlg::from_name(&c.options.csums_alg));
                if algorithm.is_none() && !asked.thin {
                    self.send_resync_data(peer, volume, id, asked, buf, false);
                    return;
                }
                if let Some(request) = self
                    .resync_mut(peer, volume)
                    .and_then(|s| s.served.get_mut(&id))
                {
                    request.stage = Stage::Reading(Some(buf));
                }
                if let Some(algorithm) = algorithm {
                    let op = self.resync_op(peer, volume, id, Step::Digest);
                    self.push(Effect::Digest { op, buf, algorithm });
                } else {
                    let op = self.resync_op(peer, volume, id, Step::IsZero);
                    self.push(Effect::IsZero { op, buf });
                }
            }
            (Step::IsZero, result) => {
                if let Stage::Reading(Some(buf)) = stage {
                    let zero = result == Ok(OpOutput::Zero(true));
                    self.send_resync_data(peer, volume, id, asked, buf, zero);
                }
            }
            (Step::Digest, result) => {
                let Stage::Reading(Some(buf)) = stage else {
                    return;
                };
                let digest = match result {
                    Ok(OpOutput::Digest(bytes)) => DigestValue::new(&bytes),
                    _ => None,
                };
                if digest.is_some() && digest == asked.digest {
                    self.release(buf);
                    let (sector, len) = (asked.sector, asked.size.0);
                    self.clear_towards(peer, volume, sector, len);
                    let id_back = asked.block_id;
                    self.send_rs_ack(peer, volume, sector, len, id_back, Packet::RsIsInSync);
                    self.forget_served(peer, volume, id);
                } else {
                    self.send_resync_data(peer, volume, id, asked, buf, false);
                }
            }
            (_, Ok(_)) => {}
            (_, Err(_)) => {
                self.disk_failed(volume, crate::disk::DiskFault::Read);
                let (sector, len) = (asked.sector, asked.size.0);
                self.send_rs_ack(
                    peer,
                    volume,
                    sector,
                    len,
                    asked.block_id,
                    Packet::NegRsDreply,
                );
                self.forget_served(peer, volume, id);
            }
        }
    }

    /// Sends what was read, or that it is `zero`, unless that became pointless meanwhile. Gives the buffer back.
    fn send_resync_data(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        id: ResyncId,
        asked: Asked,
        buf: BufId,
        zero: bool,
    ) {
        let (sector, size) = (asked.sector, asked.size);
        let gone = self.state.pdisk(peer, volume) < DiskState::Inconsistent;
        if gone || self.state.repl(peer, volume) == ReplState::Ahead {
            self.release(buf);
            // Whatever its version: it counts the request as under way until it has an answer, and attaches again on
            // the same connection (a deviation: the reference says nothing to a peer without RESYNC_DAGTAG).
            if self.conns.get(&peer).is_some_and(|c| c.apv() >= 96) {
                self.send_rs_ack(
                    peer,
                    volume,
                    sector,
                    size.0,
                    asked.block_id,
                    Packet::RsCancel,
                );
            }
            self.forget_served(peer, volume, id);
            return;
        }
        let sectors = size.sectors().0;
        if let Some(conn) = self.conns.get_mut(&peer) {
            conn.data.rs_in_flight += sectors;
            if let Some(pd) = conn.peers.get_mut(&volume) {
                if !zero {
                    pd.data.sent += sectors;
                }
                if let Some(request) = pd.data.resync.served.get_mut(&id) {
                    request.stage = Stage::Answered;
                }
            }
        }
        let block_id = asked.block_id;
        if zero {
            self.release(buf);
            let by_id = self.conns.get(&peer).is_some_and(|c| c.apv() >= 122);
            let packet = if by_id {
                Packet::RsDeallocatedId(BlockAck {
                    sector,
                    block_id,
                    size,
                    seq_num: 0,
                })
            } else {
                Packet::RsDeallocated(Deallocated { sector, size })
            };
            self.send(peer, Stream::Data, volume, packet);
            return;
        }
        let digest = DigestValue::EMPTY;
        let packet = Packet::RsDataReply(DataReply {
            sector,
            block_id,
            size,
            digest,
        });
        self.send_payload(peer, volume, packet, buf, None);
        self.release(buf);
    }

    /// P_RS_WRITE_ACK or P_RS_NEG_ACK: the target is finished with a block.
    ///
    /// # Errors
    /// It was not sent.
    pub(super) fn got_rs_ack(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        ack: BlockAck,
        written: bool,
    ) -> Result<(), PacketError> {
        self.note_seq(peer, volume, ack.seq_num);
        let found = self.resync(peer, volume).and_then(|s| {
            s.served
                .iter()
                .find(|(_, r)| {
                    r.stage == Stage::Answered
                        && r.asked.sector == ack.sector
                        && r.asked.size == ack.size
                        && (ack.block_id == BlockId::SYNCER || r.asked.block_id == ack.block_id)
                })
                .map(|(id, _)| *id)
        });
        let Some(id) = found else {
            return Err(PacketError::new(alloc::format!(
                "resync ack for sector {}, size {}, that was not sent",
                ack.sector,
                ack.size
            )));
        };
        if let Some(conn) = self.conns.get_mut(&peer) {
            let sectors = ack.size.sectors().0;
            conn.data.rs_in_flight = conn.data.rs_in_flight.saturating_sub(sectors);
        }
        if written {
            self.clear_towards(peer, volume, ack.sector, ack.size.0);
            self.lazy_writeout(volume);
        }
        self.forget_served(peer, volume, id);
        Ok(())
    }

    /// A request is over: writes may come to its range again.
    fn forget_served(&mut self, peer: NodeId, volume: VolumeNr, id: ResyncId) {
        let Some(request) = self
            .resync_mut(peer, volume)
            .and_then(|s| s.served.remove(&id))
        else {
            return;
        };
        self.leave_interval(volume, request.interval);
    }

    /// Starts or ends the part of the source.
    pub(super) fn source_state_changed(&mut self, peer: NodeId, volume: VolumeNr) {
        let is_source = matches!(
            self.state.repl(peer, volume),
            ReplState::SyncSource | ReplState::PausedSyncS
        );
        let (total, started) = (self.bits_towards(peer, volume), self.now);
        let Some(state) = self.resync_mut(peer, volume) else {
            return;
        };
        if is_source {
            let marks = Marks::new(started, total);
            state.source.get_or_insert(SourceRun {
                started,
                total,
                marks,
            });
        } else if state.source.take().is_some() {
            self.cancel_parked(peer, volume, |_| true);
            self.data_bitmap_writeout(volume);
        }
    }

    /// Whether requests of a peer are being answered.
    pub(crate) fn serves_resync(&self, peer: NodeId, volume: VolumeNr) -> bool {
        self.resync(peer, volume)
            .is_some_and(|s| !s.served.is_empty())
    }

    /// Cancels requests that wait for a position.
    fn cancel_parked(&mut self, peer: NodeId, volume: VolumeNr, which: impl Fn(&Asked) -> bool) {
        let Some(state) = self.resync(peer, volume) else {
            return;
        };
        let parked: Vec<(ResyncId, Asked)> = state
            .served
            .iter()
            .filter(|(_, r)| matches!(r.stage, Stage::Slowed | Stage::Parked) && which(&r.asked))
            .map(|(id, r)| (*id, r.asked))
            .collect();
        for (id, asked) in parked {
            let (sector, len) = (asked.sector, asked.size.0);
            self.send_rs_ack(peer, volume, sector, len, asked.block_id, Packet::RsCancel);
            self.forget_served(peer, volume, id);
        }
    }

    /// The streams of a peer are gone: its own requests with them, and those of others that waited for its
    /// writes are cancelled.
    pub(super) fn source_lost(&mut self, peer: NodeId, volume: VolumeNr) {
        let others: Vec<NodeId> = self.conns.keys().copied().filter(|n| *n != peer).collect();
        for other in others {
            self.cancel_parked(other, volume, |asked| asked.node == Some(peer));
        }
        self.timers.cancel(Timer::ResyncSlowed(peer, volume));
        let Some(state) = self.resync_mut(peer, volume) else {
            return;
        };
        state.source = None;
        for request in core::mem::take(&mut state.served).into_values() {
            if let Stage::Reading(Some(buf)) = request.stage {
                self.release(buf);
            }
            self.leave_interval(volume, request.interval);
        }
    }
}
