//! Flush requests: a SyncTarget makes sure that every write of every Primary is accounted for in the
//! bitmaps before it calls itself UpToDate (data path, section 12.6; wire protocol, section 20.1).

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

use drbd_proto::packet::{self, FlushForward, FlushRequestsAck};
use drbd_proto::{ConnState, Dagtag, DiskState, NodeId, NodeMask, Packet, Role, Stream, VolumeNr};

use crate::data::request::{Local, Request};
use crate::engine::Engine;
use crate::time::Instant;

/// How long an acknowledgement may be missing before it is asked for again.
const PATIENCE: Duration = Duration::from_secs(3);

/// Flush requests of a resource.
#[derive(Debug, Default)]
pub(crate) struct FlushRequests {
    /// Number of the newest one of this node; never 0.
    sequence: u64,
    /// Per Primary the nodes whose acknowledgement is missing.
    awaited: BTreeMap<NodeId, NodeMask>,
    /// When it was asked.
    asked: Instant,
    /// Requests to this node as Primary.
    forwards: Vec<Forward>,
}

/// A request to this node as Primary.
#[derive(Clone, Copy, Debug)]
struct Forward {
    initiator: NodeId,
    sequence: u64,
    /// Peer-acks up to here go first.
    dagtag: Dagtag,
}

impl Engine {
    /// Whether a peer understands flush requests.
    fn flushes(&self, peer: NodeId) -> bool {
        self.state.cstate(peer) == ConnState::Connected
            && self.conns.get(&peer).is_some_and(|c| c.apv() >= 123)
    }

    fn is_up_to_date(&self, peer: NodeId) -> bool {
        self.state
            .conns
            .get(&peer)
            .is_some_and(|c| c.peers.values().any(|pd| pd.pdisk == DiskState::UpToDate))
    }

    /// Asks all Primaries; the resync does not end before the answers are here.
    pub(super) fn request_flush(&mut self) {
        let flush = &mut self.data.flush;
        flush.sequence = flush.sequence.wrapping_add(1).max(1);
        flush.awaited.clear();
        flush.asked = self.now;
        let sequence = flush.sequence;
        let peers: Vec<NodeId> = self
            .conns
            .keys()
            .copied()
            .filter(|p| self.flushes(*p))
            .collect();
        let nodes: NodeMask = peers
            .iter()
            .copied()
            .filter(|p| self.is_up_to_date(*p))
            .collect();
        for peer in peers {
            let role = self.state.conns.get(&peer).map(|c| c.peer_role);
            if role == Some(Role::Primary) {
                self.data.flush.awaited.insert(peer, nodes);
                let packet = Packet::FlushRequests(packet::FlushRequests { sequence });
                self.send(peer, Stream::Data, VolumeNr::CONNECTION, packet);
            }
        }
    }

    /// A Primary passes a request on to the peers it has at that moment. Who was UpToDate, but not connected to
    /// it, answers only when asked again.
    pub(super) fn repeat_flush(&mut self) {
        if self.flush_outstanding() && self.now.since(self.data.flush.asked) >= PATIENCE {
            self.request_flush();
        }
    }

    /// Whether an acknowledgement is missing.
    pub(super) fn flush_outstanding(&self) -> bool {
        self.data.flush.awaited.values().any(|nodes| {
            nodes
                .iter()
                .any(|node| self.flushes(node) && self.is_up_to_date(node))
        })
    }

    /// P_FLUSH_REQUESTS, to this node as Primary.
    pub(super) fn got_flush_requests(&mut self, peer: NodeId, sequence: u64) {
        let dagtag = self.data.dagtag;
        let forwards = &mut self.data.flush.forwards;
        forwards.retain(|f| f.initiator != peer);
        forwards.push(Forward {
            initiator: peer,
            sequence,
            dagtag,
        });
        self.flush_requests_progress();
    }

    /// Passes flush requests on whose writes are settled and peer-acked.
    pub(crate) fn flush_requests_progress(&mut self) {
        if self.data.flush.forwards.is_empty() {
            return;
        }
        // Writes held by a suspension wait for peers that are away. The target that asks does not lack them more
        // than its bits say, and it may be what the suspension waits for (a deviation).
        let suspended = self.state.suspended();
        let connected = self.connected_nodes();
        let waits_for_absent = |r: &Request| {
            suspended && r.local != Local::Pending && !r.pending.intersects(connected)
        };
        let oldest = self
            .data
            .log
            .iter()
            .filter_map(|id| self.data.requests.get(id))
            .find(|r| !waits_for_absent(r))
            .map(|r| r.dagtag);
        let ready = |f: &Forward| oldest.is_none_or(|d| super::is_behind(f.dagtag, d));
        let due: Vec<Forward> = self
            .data
            .flush
            .forwards
            .iter()
            .copied()
            .filter(ready)
            .collect();
        if due.is_empty() {
            return;
        }
        self.data.flush.forwards.retain(|f| !ready(f));
        self.send_accumulated_peer_ack();
        let peers: Vec<NodeId> = self
            .conns
            .keys()
            .copied()
            .filter(|p| self.flushes(*p))
            .collect();
        let primary = self.node_id;
        for Forward {
            initiator,
            sequence,
            ..
        } in due
        {
            for peer in &peers {
                if *peer == initiator {
                    let packet = Packet::FlushRequestsAck(FlushRequestsAck { sequence, primary });
                    self.send(*peer, Stream::Data, VolumeNr::CONNECTION, packet);
                } else {
                    let packet = Packet::FlushForward(FlushForward {
                        sequence,
                        initiator,
                    });
                    self.send(*peer, Stream::Control, VolumeNr::CONNECTION, packet);
                }
            }
        }
    }

    /// P_FLUSH_FORWARD: what peer-acks caused is on its way already, so the answer can follow.
    pub(super) fn got_flush_forward(&mut self, primary: NodeId, sequence: u64, initiator: NodeId) {
        if self.flushes(initiator) {
            let packet = Packet::FlushRequestsAck(FlushRequestsAck { sequence, primary });
            self.send(initiator, Stream::Data, VolumeNr::CONNECTION, packet);
        }
    }

    /// P_FLUSH_REQUESTS_ACK.
    pub(super) fn got_flush_ack(&mut self, peer: NodeId, sequence: u64, primary: NodeId) {
        if sequence < self.data.flush.sequence {
            return;
        }
        if let Some(nodes) = self.data.flush.awaited.get_mut(&primary) {
            nodes.remove(peer);
        }
    }

    /// A peer is gone: nothing comes from it, and nothing is owed to it.
    pub(crate) fn flush_requests_peer_lost(&mut self, peer: NodeId) {
        let flush = &mut self.data.flush;
        flush.awaited.remove(&peer);
        flush
            .awaited
            .values_mut()
            .for_each(|nodes| nodes.remove(peer));
        flush.forwards.retain(|f| f.initiator != peer);
    }
}
