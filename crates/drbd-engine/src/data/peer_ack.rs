//! Peer-acks: telling every node that got a write who else has it, so that it can let go of the extent
//! (data path, sections 12.2 to 12.4).

use alloc::collections::VecDeque;
use alloc::format;
use alloc::vec::Vec;

use drbd_proto::packet::{OutOfSync, PeerAck};
use drbd_proto::{
    Dagtag, DiskState, NodeId, NodeMask, Packet, ReplState, Sector, Stream, VolumeNr,
};

use crate::data::peer_request::PeerStage;
use crate::data::request::Local;
use crate::data::{PeerReqId, ReqId};
use crate::engine::{Engine, PacketError};
use crate::timer::Timer;

/// Peer-acks to be sent.
#[derive(Debug, Default)]
pub(crate) struct PeerAcks {
    /// The last settled write, whose ack also covers those before it.
    pub(crate) pending: Option<PendingAck>,
    /// Dagtag of the write at which the accumulator was last empty.
    last: Dagtag,
}

/// A peer-ack that accumulates.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingAck {
    /// Position of the last write it covers.
    pub(crate) dagtag: Dagtag,
    /// Who has these writes; the own node included.
    nodes: NodeMask,
    /// Peers that were sent the last one.
    pub(crate) sent: NodeMask,
}

impl Engine {
    /// A write is settled here (data path, section 12.3).
    pub(crate) fn accumulate_peer_ack(&mut self, id: ReqId, last_in_extent: bool) {
        let Some(req) = self.data.requests.get(&id) else {
            return;
        };
        let mut nodes = req.ok;
        if req.local == Local::Ok {
            nodes.insert(self.node_id);
        }
        let ack = PendingAck {
            dagtag: req.dagtag,
            nodes,
            sent: req.sent,
        };
        let wanted = last_in_extent
            && self
                .volumes
                .get(&req.volume)
                .is_some_and(|v| !v.data.al_queue.local.is_empty());
        let window = self.options.peer_ack_window;
        if let Some(pending) = self.data.peer_acks.pending {
            let far = ack.dagtag.0.wrapping_sub(self.data.peer_acks.last.0) >= window;
            // A peer that was left out of this write does not know its dagtag.
            if pending.nodes != ack.nodes || wanted || far || !ack.sent.contains_all(pending.sent) {
                self.send_peer_ack(pending);
                self.data.peer_acks.pending = None;
            }
        }
        if self.data.peer_acks.pending.is_none() {
            self.data.peer_acks.last = ack.dagtag;
        }
        self.data.peer_acks.pending = Some(ack);
        self.timers
            .set(Timer::PeerAck, self.now + self.options.peer_ack_delay);
    }

    /// Sends what has accumulated: the delay is over, demotion, last close, P_CONFIRM_STABLE, flush
    /// requests.
    pub(crate) fn data_flush_peer_acks(&mut self) {
        self.send_accumulated_peer_ack();
        self.flush_requests_progress();
    }

    /// Sends the accumulated peer-ack, if there is one.
    pub(crate) fn send_accumulated_peer_ack(&mut self) {
        self.timers.cancel(Timer::PeerAck);
        if let Some(pending) = self.data.peer_acks.pending.take() {
            self.send_peer_ack(pending);
        }
    }

    fn send_peer_ack(&mut self, ack: PendingAck) {
        let peers: Vec<NodeId> = self
            .conns
            .iter()
            .filter(|(peer, c)| ack.sent.contains(**peer) && c.apv() >= 110)
            .map(|(peer, _)| *peer)
            .collect();
        for peer in peers {
            let packet = Packet::PeerAck(PeerAck {
                nodes: ack.nodes,
                dagtag: ack.dagtag,
            });
            self.send(peer, Stream::Control, VolumeNr::CONNECTION, packet);
        }
    }

    /// P_PEER_ACK: for all writes of this peer up to a position it is known who has them (data path,
    /// section 12.4).
    ///
    /// # Errors
    /// A write up to there is not answered.
    pub(crate) fn got_peer_ack(&mut self, peer: NodeId, ack: PeerAck) -> Result<(), PacketError> {
        let Some(conn) = self.conns.get(&peer) else {
            return Ok(());
        };
        let covered: Vec<PeerReqId> = conn
            .data
            .received
            .iter()
            .copied()
            .take_while(|id| {
                self.data.peer_requests.get(id).is_none_or(|r| {
                    // Serial arithmetic: positions wrap.
                    (ack.dagtag.0.wrapping_sub(r.dagtag.0) as i64) >= 0
                })
            })
            .collect();
        let unfinished = covered
            .iter()
            .find_map(|id| self.data.peer_requests.get(id).filter(|r| !r.is_written()));
        if let Some(req) = unfinished {
            return Err(PacketError::new(format!(
                "peer-ack {} for the write {} of sector {} that has no answer yet",
                ack.dagtag, req.dagtag, req.sector
            )));
        }
        for id in covered {
            if let Some(conn) = self.conns.get_mut(&peer) {
                conn.data.received.pop_front();
            }
            self.settle_peer_write(id, ack.nodes);
            self.drop_peer_request(id);
        }
        Ok(())
    }

    /// Applies to the bitmap who has a received write (data path, section 12.4, item 1), and tells those
    /// who are being resynced from here and lack it (item 3).
    fn settle_peer_write(&mut self, id: PeerReqId, nodes: NodeMask) {
        let Some(req) = self.data.peer_requests.get(&id) else {
            return;
        };
        let (peer, volume, sector, len) = (req.peer, req.volume, req.sector, req.len);
        let has = if req.failed { NodeMask::EMPTY } else { nodes };
        self.apply_to_others(peer, volume, sector, len, has);
    }

    fn apply_to_others(
        &mut self,
        initiator: NodeId,
        volume: VolumeNr,
        sector: Sector,
        len: u32,
        has: NodeMask,
    ) {
        let slots = self.slots_of(volume);
        let Some(disk) = self.volumes.get_mut(&volume).and_then(|v| v.disk.as_mut()) else {
            return;
        };
        for slot in disk.bitmap.all_slots() {
            let node = slots
                .iter()
                .find(|(_, s)| *s == slot)
                .map(|(node, _)| *node);
            match node {
                Some(node) if node == initiator => {}
                Some(node) if has.contains(node) => {
                    disk.bitmap.clear(slot, sector, len);
                }
                _ => {
                    disk.bitmap.set(slot, sector, len);
                }
            }
        }
        self.resync_bits_changed(volume);
        self.tell_resync_targets(volume, sector, len, has.with(initiator));
    }

    /// Tells the nodes that are being resynced from here that blocks differ (data path, sections 12.4 and
    /// 15.8), all but those in `except`. After an invalidate a target asks nodes that do not count as its sources:
    /// whoever is Inconsistent is told (a deviation).
    pub(crate) fn tell_resync_targets(
        &mut self,
        volume: VolumeNr,
        sector: Sector,
        len: u32,
        except: NodeMask,
    ) {
        let targets: Vec<NodeId> = self
            .state
            .peers_of(volume)
            .filter(|(peer, _, pd)| {
                !except.contains(*peer)
                    && match pd.repl {
                        ReplState::Established => pd.pdisk == DiskState::Inconsistent,
                        repl => matches!(
                            repl,
                            ReplState::SyncSource | ReplState::PausedSyncS | ReplState::WFBitMapS
                        ),
                    }
            })
            .map(|(peer, _, _)| peer)
            .collect();
        for target in targets {
            let packet = Packet::OutOfSync(OutOfSync {
                sector,
                size: drbd_proto::Bytes(len),
            });
            self.send(target, Stream::Data, volume, packet);
        }
    }

    /// P_OUT_OF_SYNC: the sender wrote here and does not send the data (data path, section 14.3).
    ///
    /// # Errors
    /// The range is not inside the device.
    pub(crate) fn got_out_of_sync(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        range: OutOfSync,
    ) -> Result<(), PacketError> {
        self.check_inside(volume, range.sector, range.size)?;
        self.set_towards(peer, volume, range.sector, range.size.0);
        if let Some(v) = self.volumes.get_mut(&volume) {
            v.data.told_unsaved = true;
        }
        self.resync_differs(peer, volume, range.sector, range.size.0);
        self.told_lacking(peer, volume);
        Ok(())
    }

    /// The connection of an initiator is gone: nobody will say who has its last writes, so everybody may
    /// lack them (data path, section 12.4).
    pub(crate) fn received_writes_lost(&mut self, peer: NodeId) {
        let Some(conn) = self.conns.get_mut(&peer) else {
            return;
        };
        let received: VecDeque<PeerReqId> = core::mem::take(&mut conn.data.received);
        self.note_marks_before_loss();
        let mut dropped = false;
        for id in received {
            let Some(req) = self.data.peer_requests.get(&id) else {
                continue;
            };
            let (stage, dagtag, len) = (req.stage, req.dagtag, req.len);
            self.settle_peer_write(id, NodeMask::EMPTY);
            match stage {
                PeerStage::Disk => {
                    // The disk still works on it; its extents and its range stay taken.
                    if let Some(req) = self.data.peer_requests.get_mut(&id) {
                        req.orphan = true;
                    }
                }
                PeerStage::Written => self.drop_peer_request(id),
                PeerStage::Conflict | PeerStage::Cold | PeerStage::Ready => {
                    // Never written: the position falls back, so that this node counts as the one
                    // that lacks it (data path, section 28, hazard 4).
                    if !core::mem::replace(&mut dropped, true)
                        && let Some(conn) = self.conns.get_mut(&peer)
                    {
                        conn.last_dagtag = dagtag.before(drbd_proto::Bytes(len));
                    }
                    self.drop_peer_request(id);
                }
            }
        }
        self.data.recheck = true;
    }

    /// A node is lost, and the writes that it has not peer-acked are about to be marked.
    fn note_marks_before_loss(&mut self) {
        let volumes: Vec<VolumeNr> = self.volumes.keys().copied().collect();
        for volume in volumes {
            for (node, slot) in self.slots_of(volume) {
                let marked = (self.disk_ref(volume)).is_some_and(|d| d.bitmap.weight(slot) != 0);
                if let Some(known) = self.peer_device_mut(node, volume) {
                    known.flags.marked_before_loss = marked;
                }
            }
        }
    }

    /// Received writes that are not peer-acked may be missing anywhere: before a resync towards a node is
    /// prepared while a Primary is connected, they go into the bitmap (data path, section 7.6).
    pub(crate) fn mark_received_writes(&mut self, volume: VolumeNr) {
        if !self.local_disk_at_least(volume, DiskState::Inconsistent) {
            return;
        }
        let writes: Vec<(NodeId, Sector, u32)> = self
            .data
            .peer_requests
            .values()
            .filter(|r| r.volume == volume && !r.orphan)
            .map(|r| (r.peer, r.sector, r.len))
            .collect();
        let slots = self.slots_of(volume);
        let Some(disk) = self.volumes.get_mut(&volume).and_then(|v| v.disk.as_mut()) else {
            return;
        };
        for (initiator, sector, len) in writes {
            for (node, slot) in &slots {
                if *node != initiator {
                    disk.bitmap.set(*slot, sector, len);
                }
            }
        }
    }
}
