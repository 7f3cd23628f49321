//! Resync and online verify: two nodes make their copies equal again, or compare them (data path, sections
//! 15 to 17).
//!
//! | module | its one question |
//! | --- | --- |
//! | [`target`] | Which blocks does a SyncTarget ask for, and what does it do with the answers? |
//! | [`blocks`] | What happens to one request of it? |
//! | [`zeroes`] | How do answers without data become discards? |
//! | [`rate`] | How much may it ask for, and when? |
//! | [`throttle`] | When do applications come first? |
//! | [`requests`] | In which pieces? |
//! | [`source`] | How does a SyncSource answer? |
//! | [`flush_requests`] | When has every write of every Primary reached the bitmaps? |
//! | [`peers_in_sync`] | How do other nodes learn what was made equal? |
//! | [`verify`] | How are two copies compared while they are in use? |
//! | [`compare`] | What happens to one block of it? |

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use drbd_proto::packet::BlockAck;
use drbd_proto::{
    BlockId, ConnState, Dagtag, Features, NodeId, Packet, ReplState, Role, Sector, Stream, VolumeNr,
};

use crate::data::{DataOpKind, Owner};
use crate::effect::LogLevel;
use crate::engine::{Engine, PacketError};
use crate::event::OpResult;
use crate::id::OpId;
use crate::interval::{Interval, IntervalId, Kind};
use crate::status::{Object, SyncInfo};
use crate::timer::Timer;

mod blocks;
mod compare;
mod flush_requests;
mod marks;
mod peers_in_sync;
mod rate;
mod requests;
mod source;
mod target;
mod throttle;
mod verify;
mod zeroes;

pub(crate) use flush_requests::FlushRequests;
use source::{Asked, SourceRequest, SourceRun};
use target::{Answer, Run, TargetRequest};
use verify::{Verify, VerifyRequest};

/// Name of a resync or verify request within a peer device; the block id on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct ResyncId(pub u64);

impl ResyncId {
    fn block_id(self) -> BlockId {
        BlockId(self.0)
    }
}

/// Resync and verify of a peer device.
#[derive(Debug, Default)]
pub(crate) struct ResyncState {
    next_id: u64,
    /// A resync with this node as target.
    run: Option<Run>,
    /// Requests of this node as target; they outlive a run that is given up.
    requests: BTreeMap<ResyncId, TargetRequest>,
    /// Of these, what is to be discarded when nothing is added to it any more.
    zeroes: zeroes::Runs,
    /// Requests of the peer to this node as source.
    served: BTreeMap<ResyncId, SourceRequest>,
    /// A resync with this node as source.
    source: Option<SourceRun>,
    /// A verify.
    verify: Option<Verify>,
    /// Requests of a verify, on both sides.
    compared: BTreeMap<ResyncId, VerifyRequest>,
    /// Sector where the next verify goes on.
    verify_from: u64,
    /// Sector where the next verify ends.
    verify_stop: Option<u64>,
    /// What applications did when that was last looked at.
    applications: throttle::Applications,
    /// Steps of P_PEERS_IN_SYNC.
    in_sync: peers_in_sync::Steps,
}

/// What an operation of resync or verify is for.
#[derive(Debug)]
pub(crate) struct ResyncOp {
    /// The peer.
    pub peer: NodeId,
    /// The time of its connection.
    pub generation: u64,
    /// The request.
    pub id: ResyncId,
    /// The step.
    pub step: Step,
}

/// Step of a resync or verify request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Target: write of what the source sent.
    Write,
    /// Target: discard of what reads as zero at the source: this request and all up to another one.
    Discard(ResyncId),
    /// Target: read for a checksum.
    ChecksumRead,
    /// Target: digest of what was read.
    ChecksumDigest,
    /// Source: read.
    Read,
    /// Source: digest of what was read.
    Digest,
    /// Source: a look whether what was read is zero.
    IsZero,
    /// Verify: read.
    VerifyRead,
    /// Verify: digest of what was read.
    VerifyDigest,
}

impl ResyncOp {
    /// Whether it changes the data area.
    pub(crate) fn writes_data(&self) -> bool {
        matches!(self.step, Step::Write | Step::Discard(_))
    }

    /// Whether it keeps the disk busy.
    pub(crate) fn uses_disk(&self) -> bool {
        !matches!(
            self.step,
            Step::ChecksumDigest | Step::Digest | Step::IsZero | Step::VerifyDigest
        )
    }
}

impl ResyncState {
    /// Whether a request of this node as target lies in a step of 4 MiB.
    fn steps_busy(&self, step: u64) -> bool {
        self.requests.values().any(|r| r.touches_step(step))
    }
}

impl Engine {
    /// The resync state of a peer device.
    fn resync(&self, peer: NodeId, volume: VolumeNr) -> Option<&ResyncState> {
        Some(&self.conns.get(&peer)?.peers.get(&volume)?.data.resync)
    }

    /// The resync state of a peer device, to change it.
    fn resync_mut(&mut self, peer: NodeId, volume: VolumeNr) -> Option<&mut ResyncState> {
        Some(
            &mut self
                .conns
                .get_mut(&peer)?
                .peers
                .get_mut(&volume)?
                .data
                .resync,
        )
    }

    /// A fresh name for a request.
    fn new_resync_id(&mut self, peer: NodeId, volume: VolumeNr) -> Option<ResyncId> {
        let state = self.resync_mut(peer, volume)?;
        state.next_id += 1;
        Some(ResyncId(state.next_id))
    }

    /// An operation for a request.
    fn resync_op(&mut self, peer: NodeId, volume: VolumeNr, id: ResyncId, step: Step) -> OpId {
        let generation = self.conns.get(&peer).map_or(0, |c| c.data.generation);
        self.data_op(
            volume,
            DataOpKind::Resync(ResyncOp {
                peer,
                generation,
                id,
                step,
            }),
        )
    }

    /// A packet of resync or verify, on either stream.
    ///
    /// # Errors
    /// It answers nothing that was asked, or lies outside the device, or belongs nowhere.
    pub(crate) fn resync_packet(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        packet: Packet,
    ) -> Result<(), PacketError> {
        match packet {
            Packet::RsDataRequest(r) => self.got_rs_request(peer, volume, r.into()),
            Packet::RsDagtagReq(r) => self.got_rs_request(peer, volume, r.into()),
            Packet::RsThinReq(r) => self.got_rs_request(peer, volume, Asked::from(r).thin()),
            Packet::RsThinDagtagReq(r) => self.got_rs_request(peer, volume, Asked::from(r).thin()),
            Packet::CsumRsRequest(r) => {
                self.got_rs_request(peer, volume, Asked::from(r.request).checksum(r.digest))
            }
            Packet::RsCsumDagtagReq(r) => {
                self.got_rs_request(peer, volume, Asked::from(r.request).checksum(r.digest))
            }
            Packet::RsWriteAck(ack) => self.got_rs_ack(peer, volume, ack, true),
            Packet::RsNegAck(ack) | Packet::NegAck(ack) => {
                self.got_rs_ack(peer, volume, ack, false)
            }
            Packet::RsIsInSync(ack) => self.got_rs_answer(peer, volume, ack, Answer::InSync),
            Packet::NegRsDreply(ack) => self.got_rs_answer(peer, volume, ack, Answer::Failed),
            Packet::RsCancel(ack) | Packet::RsCancelAhead(ack)
                if self.is_verify_request(peer, volume, &ack) =>
            {
                self.verify_cancelled(peer, volume, ack)
            }
            Packet::RsCancel(ack) => self.got_rs_answer(peer, volume, ack, Answer::Cancelled),
            Packet::RsCancelAhead(ack) => self.got_rs_answer(peer, volume, ack, Answer::Ahead),
            Packet::RsDeallocatedId(ack) => {
                self.got_rs_answer(peer, volume, ack, Answer::Deallocated)
            }
            Packet::RsDeallocated(range) => {
                let ack = BlockAck {
                    sector: range.sector,
                    block_id: BlockId::SYNCER,
                    size: range.size,
                    seq_num: 0,
                };
                self.got_rs_answer(peer, volume, ack, Answer::Deallocated)
            }
            Packet::OvRequest(r) => self.got_verify_request(peer, volume, r.into()),
            Packet::OvDagtagReq(r) => self.got_verify_request(peer, volume, r.into()),
            Packet::OvReply(r) => self.got_verify_reply(peer, volume, r.request.into(), r.digest),
            Packet::OvDagtagReply(r) => {
                self.got_verify_reply(peer, volume, r.request.into(), r.digest)
            }
            Packet::OvResult(r) => {
                self.got_verify_result(peer, volume, r.sector, r.size.0, None, r.result)
            }
            Packet::OvResultId(r) => {
                self.got_verify_result(peer, volume, r.sector, r.size.0, Some(r.block_id), r.result)
            }
            Packet::PeersInSync(p) => self.got_peers_in_sync(peer, volume, p),
            Packet::FlushRequests(p) => {
                self.got_flush_requests(peer, p.sequence);
                Ok(())
            }
            Packet::FlushForward(p) => {
                self.got_flush_forward(peer, p.sequence, p.initiator);
                Ok(())
            }
            Packet::FlushRequestsAck(p) => {
                self.got_flush_ack(peer, p.sequence, p.primary);
                Ok(())
            }
            other => Err(Self::unexpected(&other)),
        }
    }

    /// An operation of resync or verify has ended.
    pub(crate) fn resync_op_done(&mut self, volume: VolumeNr, op: ResyncOp, result: OpResult) {
        let ResyncOp {
            peer,
            generation,
            id,
            step,
        } = op;
        let same = self
            .conns
            .get(&peer)
            .is_some_and(|c| c.data.generation == generation);
        match step {
            Step::Write => self.resync_written(peer, volume, id..=id, same, result),
            Step::Discard(last) => self.resync_written(peer, volume, id..=last, same, result),
            Step::ChecksumRead | Step::ChecksumDigest => {
                self.checksum_step(peer, volume, id, step, same, result);
            }
            Step::Read | Step::Digest | Step::IsZero => {
                self.source_step(peer, volume, id, step, same, result);
            }
            Step::VerifyRead | Step::VerifyDigest => {
                self.verify_step(peer, volume, id, step, same, result);
            }
        }
    }

    /// The way of an interval may be free.
    pub(crate) fn resync_woken(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        id: ResyncId,
        interval: IntervalId,
    ) {
        let Some(state) = self.resync(peer, volume) else {
            return;
        };
        if state
            .requests
            .get(&id)
            .is_some_and(|r| r.interval == Some(interval))
        {
            self.target_woken(peer, volume, id);
        } else if state
            .served
            .get(&id)
            .is_some_and(|r| r.interval == Some(interval))
        {
            self.source_woken(peer, volume, id);
        }
    }

    /// Something changed that parked requests may wait for.
    pub(crate) fn settle_resync(&mut self) {
        self.release_drained();
        self.retry_parked_requests();
        self.flush_requests_progress();
    }

    /// The replication state of a peer device changed, or who replicates.
    pub(crate) fn resync_state_changed(&mut self, peer: NodeId, volume: VolumeNr, old: ReplState) {
        let new = self.state.repl(peer, volume);
        self.target_state_changed(peer, volume);
        self.source_state_changed(peer, volume);
        self.verify_state_changed(peer, volume, old, new);
    }

    /// The streams of a peer are gone.
    pub(crate) fn resync_peer_lost(&mut self, peer: NodeId, volume: VolumeNr) {
        self.timers.cancel(Timer::ResyncTurn(peer, volume));
        self.target_lost(peer, volume);
        self.source_lost(peer, volume);
        self.verify_lost(peer, volume);
    }

    /// The disk of a volume is gone.
    pub(crate) fn resync_disk_lost(&mut self, volume: VolumeNr) {
        let peers: Vec<NodeId> = self.conns.keys().copied().collect();
        for peer in peers {
            self.timers.cancel(Timer::ResyncTurn(peer, volume));
            self.discard_all_zeroes(peer, volume);
            if let Some(state) = self.resync_mut(peer, volume) {
                state.run = None;
            }
        }
    }

    /// Bits of a volume changed in memory.
    pub(crate) fn resync_bits_changed(&mut self, volume: VolumeNr) {
        let running = self.conns.values().any(|c| {
            c.peers
                .get(&volume)
                .is_some_and(|pd| pd.data.resync.run.is_some())
        });
        if running {
            self.lazy_writeout(volume);
        }
    }

    /// Next turn of the request generator.
    pub(crate) fn resync_turn(&mut self, peer: NodeId, volume: VolumeNr) {
        match self.state.repl(peer, volume) {
            ReplState::SyncTarget => self.target_turn(peer, volume),
            ReplState::VerifyS => self.verify_turn(peer, volume),
            _ => {}
        }
    }

    /// Whether the writes of `node` up to `dagtag` own their ranges here, so that a read that respects
    /// intervals sees them (data path, sections 5.1, item 13, and 15.7, item 3).
    fn dagtag_reached(&self, node: NodeId, dagtag: Dagtag) -> bool {
        if dagtag == Dagtag::ZERO || node == self.node_id {
            return true;
        }
        let Some(conn) = self.conns.get(&node) else {
            return true;
        };
        // No more of its writes will come. One that has restarted counts from anew: a position in its former
        // life, from a peer that has not noticed, would not be reached.
        if self.sends_no_writes(node) {
            return true;
        }
        if is_behind(conn.last_dagtag, dagtag) {
            return false;
        }
        // One that still waits for its range does not protect it yet.
        !conn.data.received.iter().any(|id| {
            self.data
                .peer_requests
                .get(id)
                .is_some_and(|r| !r.is_submitted() && !is_behind(dagtag, r.dagtag))
        })
    }

    /// The same for writes that a peer got of a Primary before it lost it: its requests do not name them any more,
    /// and what this node answered would overwrite them. It named them when it lost the Primary (a deviation: the
    /// reference forgets that as long as it is connected to it).
    fn lost_position_reached(&self, peer: NodeId) -> bool {
        let all = self.waiting_dagtags.iter();
        let waiting = all.filter(|w| w.peer == peer && !w.outdated);
        let mut waiting = waiting.map(|w| (w.lost, w.dagtag));
        waiting.all(|(lost, dagtag)| self.dagtag_reached(lost, dagtag))
    }

    /// Whether `node` is not connected as a Primary.
    fn sends_no_writes(&self, node: NodeId) -> bool {
        let conn = self.state.conns.get(&node);
        self.state.cstate(node) < ConnState::Connected
            || conn.is_none_or(|c| c.peer_role != Role::Primary)
    }

    /// Whether writes of `node` up to `dagtag` are missing here and will not come for now. The reference
    /// serves a resync all the same (data path, section 15.7, item 3), and so overwrites, at a target that
    /// is still connected to that Primary, writes which are nowhere else; the Primary sends them only to
    /// those that it has not heard from.
    fn lacks_writes(&self, node: NodeId, dagtag: Dagtag) -> bool {
        node != self.node_id
            && dagtag != Dagtag::ZERO
            && self.sends_no_writes(node)
            && self
                .conns
                .get(&node)
                .is_some_and(|c| is_behind(c.last_dagtag, dagtag))
    }

    /// What this node knows of the one Primary's stream of writes: node and position, zero if nothing is
    /// known (data path, section 15.7). A peer that gets none of this node's writes would wait for ever.
    fn own_position(&self, peer: NodeId, volume: VolumeNr) -> (NodeId, Dagtag) {
        if self.state.role == Role::Primary {
            let replicates = self
                .state
                .pd(peer, volume)
                .is_some_and(|pd| pd.replicates());
            let position = if replicates {
                self.data.dagtag
            } else {
                Dagtag::ZERO
            };
            return (self.node_id, position);
        }
        let primary = self.conns.iter().find(|(peer, c)| {
            c.dagtag_received
                && self
                    .state
                    .conns
                    .get(*peer)
                    .is_some_and(|s| s.peer_role == Role::Primary)
        });
        primary.map_or((self.node_id, Dagtag::ZERO), |(peer, c)| {
            (*peer, c.last_dagtag)
        })
    }

    /// Answers a request on the control stream.
    fn send_rs_ack(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        sector: Sector,
        len: u32,
        block_id: BlockId,
        packet: fn(BlockAck) -> Packet,
    ) {
        let ack = self.block_ack(peer, volume, sector, len, block_id);
        self.send(peer, Stream::Control, volume, packet(ack));
    }

    /// The id that an ack carries: before protocol 122 it is always the same (wire protocol, chapter 9).
    fn rs_ack_id(&self, peer: NodeId, id: BlockId) -> BlockId {
        if self.conns.get(&peer).is_some_and(|c| c.apv() >= 122) {
            id
        } else {
            BlockId::SYNCER
        }
    }

    /// Whether a feature is agreed with a peer.
    pub(crate) fn has_feature(&self, peer: NodeId, feature: Features) -> bool {
        self.conns.get(&peer).is_some_and(|c| c.has(feature))
    }

    /// Removes an interval if there is one.
    fn leave_interval(&mut self, volume: VolumeNr, interval: Option<IntervalId>) {
        if let Some(interval) = interval {
            self.interval_leave(volume, interval);
        }
    }

    /// Adds the interval of a request.
    fn resync_interval(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        id: ResyncId,
        kind: Kind,
        sector: Sector,
        len: u32,
    ) -> Option<IntervalId> {
        let interval = Interval::new(kind, Some(peer), sector, len);
        self.interval_add(volume, interval, Owner::Resync(peer, id))
    }

    /// Requests of this node that the peer has not answered.
    pub(crate) fn resync_pending(&self, peer: NodeId, volume: VolumeNr) -> u64 {
        self.resync(peer, volume)
            .map_or(0, |s| s.requests.len() as u64)
    }

    /// Requests of the peer that are not over.
    pub(crate) fn resync_unacked(&self, peer: NodeId, volume: VolumeNr) -> u32 {
        let count = self.resync(peer, volume).map_or(0, |s| s.served.len());
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Progress for status output.
    pub(crate) fn resync_info(&self, peer: NodeId, volume: VolumeNr) -> Option<SyncInfo> {
        let state = self.resync(peer, volume)?;
        let spb = self
            .volumes
            .get(&volume)?
            .disk
            .as_ref()?
            .bitmap
            .sectors_per_bit();
        let weight = self.bits_towards(peer, volume);
        if let Some(run) = &state.run {
            return Some(run.info(self.now, weight, spb));
        }
        if let Some(verify) = &state.verify {
            return Some(verify.info(self.now, spb, state.compared.len() as u64));
        }
        state
            .source
            .as_ref()
            .map(|source| source.info(self.now, weight, spb))
    }

    /// Marks how far a resync or verify has come, and now and then tells observers.
    fn note_progress(&mut self, peer: NodeId, volume: VolumeNr) {
        let (now, left) = (self.now, self.bits_towards(peer, volume));
        let Some(state) = self.resync_mut(peer, volume) else {
            return;
        };
        let due = if let Some(run) = &mut state.run {
            run.marks.note(now, left)
        } else if let Some(verify) = &mut state.verify {
            let left = verify.left;
            verify.marks.note(now, left)
        } else if let Some(source) = &mut state.source {
            source.marks.note(now, left)
        } else {
            false
        };
        if due {
            let info = self.peer_device_info(peer, volume);
            let progress = Object::PeerDevice { peer, volume, info };
            self.publish_objects(alloc::vec![progress], false);
        }
    }

    /// Bits set towards a peer.
    fn bits_towards(&self, peer: NodeId, volume: VolumeNr) -> u64 {
        let Some(slot) = self.slot_of(peer, volume) else {
            return 0;
        };
        let disk = self.volumes.get(&volume).and_then(|v| v.disk.as_ref());
        disk.map_or(0, |d| d.bitmap.weight(slot))
    }

    /// Writes a line about a resync to the log.
    fn log_resync(&mut self, peer: NodeId, volume: VolumeNr, text: &str) {
        self.log_at(LogLevel::Info, Some(peer), Some(volume), text);
    }
}

/// Whether position `a` lies before `b` in a stream of writes; positions wrap.
fn is_behind(a: Dagtag, b: Dagtag) -> bool {
    (b.0.wrapping_sub(a.0) as i64) > 0
}
