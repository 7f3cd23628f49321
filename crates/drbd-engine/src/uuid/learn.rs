//! What a UUIDs packet of a peer says about resyncs that have ended elsewhere (state machine, section
//! 7.10).

use alloc::vec::Vec;

use drbd_proto::{Dagtag, NodeId, NodeMask, ReplState, Uuid};

use super::{GenIds, Nodes, PeerFacts, PeerUuids};

/// The end of a resync that one side has not heard of, found in the handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MissedEnd {
    /// By neither.
    None,
    /// The peer, source of that resync, missed it. `flag`: RS_PEER_MISSED_END, to be resynced once
    /// more; else there is no bit to sync, and it is worth a line in the log only.
    ByPeer {
        /// Sets RS_PEER_MISSED_END.
        flag: bool,
    },
    /// This node, source of that resync, missed it. `cleared`: there was no bit to sync, the bitmap
    /// UUID is cleared and counts as sent that way.
    ByMe {
        /// Sets RS_SOURCE_MISSED_END.
        flag: bool,
        /// The bitmap UUID towards the peer is 0 now.
        cleared: bool,
    },
}

/// What has changed after a UUIDs packet.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Learned {
    /// Nodes whose bitmap UUID is 0 now.
    pub ended: NodeMask,
    /// Third nodes among them: their bitmap slots are to be cleared.
    pub clear: NodeMask,
    /// Nodes whose slot is to become a copy: (from, to). To be done in this order, after clearing;
    /// a node without slot is passed over.
    pub copy: Vec<(NodeId, NodeId)>,
}

impl Learned {
    /// Whether identifiers have changed: write them, tell the other peers, and all peers if something
    /// was copied.
    pub fn changed(&self) -> bool {
        !self.ended.is_empty() || !self.copy.is_empty()
    }
}

impl GenIds {
    /// During the handshake with equal UUIDs, neither side being SyncTarget: was the end of a resync
    /// missed? `sent` is the bitmap UUID towards the peer as sent, `bits` the own set bits.
    pub fn missed_end(
        &mut self,
        from: NodeId,
        peer: &PeerUuids,
        sent: Uuid,
        bits: u64,
        pv: u32,
    ) -> MissedEnd {
        let Some(theirs) = peer.bitmap(self.me) else {
            return MissedEnd::None;
        };
        let no_bits = bits == 0 && peer.dirty_bits == 0;
        let flag = !no_bits || pv < 124;
        if !theirs.is_none() && sent.is_none() && !theirs.same(peer.current) {
            return MissedEnd::ByPeer { flag };
        }
        if theirs.is_none() && !sent.is_none() && !sent.same(peer.current) {
            if no_bits {
                self.set_bitmap(from, Uuid::NONE, Dagtag::ZERO);
            }
            return MissedEnd::ByMe {
                flag,
                cleared: no_bits,
            };
        }
        MissedEnd::None
    }

    /// After the handshake, or in it with different UUIDs: what peer `from` says about resyncs that
    /// have ended. `equal`: its current UUID is the resolved one of this node towards it, and neither
    /// side is SyncTarget. `keep` has third nodes that lack blocks of this node which the peer may lack, or not have
    /// heard of: that they are in sync with it says nothing (a deviation).
    pub fn learn(
        &mut self,
        from: NodeId,
        peer: &PeerUuids,
        equal: bool,
        keep: NodeMask,
        peers: &[PeerFacts],
        nodes: &Nodes,
    ) -> Learned {
        let mut learned = Learned::default();
        let resyncing = |node| {
            peers
                .iter()
                .any(|p| p.node == node && node != from && p.repl > ReplState::Established)
        };
        for node in self
            .others()
            .filter(|&n| nodes.reported().contains(n) && !resyncing(n))
        {
            if peer.bitmap(node) != Some(Uuid::NONE) || self.bitmap(node).is_none() {
                continue;
            }
            if equal && node != from && keep.contains(node) {
                continue;
            }
            if equal {
                self.set_bitmap(node, Uuid::NONE, Dagtag::ZERO);
                learned.ended.insert(node);
                if node != from && nodes.slot(node).is_some() {
                    learned.clear.insert(node);
                }
            } else if let Some(other) = self.node_tracking(peer.current, nodes) {
                // The node has got what the other one has.
                if other != node && newer(self.dagtag(other), self.dagtag(node)) {
                    self.copy(other, node, &mut learned);
                }
            }
        }
        self.detect_copies(from, peer, peers, nodes, &mut learned);
        learned
    }

    /// The peer has the same UUID for two nodes: one slot was copied to the other there.
    fn detect_copies(
        &mut self,
        from: NodeId,
        peer: &PeerUuids,
        peers: &[PeerFacts],
        nodes: &Nodes,
        learned: &mut Learned,
    ) {
        let absent = |n: &NodeId| {
            nodes.slot(*n).is_some()
                && *n != from
                && !peers
                    .iter()
                    .any(|p| p.node == *n && p.repl >= ReplState::Established)
        };
        let candidates: Vec<NodeId> = self.others().filter(absent).collect();
        for (i, &first) in candidates.iter().enumerate() {
            let Some(uuid) = peer.bitmap(first).filter(|u| !u.is_none()) else {
                continue;
            };
            for &second in candidates.iter().skip(i + 1) {
                if !peer.bitmap(second).is_some_and(|u| u.same(uuid)) {
                    continue;
                }
                let holder = self
                    .others()
                    .find(|&n| nodes.slot(n).is_some() && self.bitmap(n).same(uuid));
                let Some(holder) = holder else { continue };
                for to in [first, second] {
                    // A node that has this node's generation cannot have fallen back, whatever a peer that is behind
                    // knows of it: a new generation would not be begun because of it (a deviation).
                    if !self.bitmap(to).is_none() && !self.bitmap(to).same(uuid) {
                        self.copy(holder, to, learned);
                    }
                }
            }
        }
    }

    fn copy(&mut self, from: NodeId, to: NodeId, learned: &mut Learned) {
        let old = self.bitmap(to);
        self.put(to, self.bitmap(from), self.dagtag(from));
        self.push(old);
        learned.copy.push((from, to));
    }

    /// The node whose slot tracks changes since this generation, one with a slot if possible.
    fn node_tracking(&self, uuid: Uuid, nodes: &Nodes) -> Option<NodeId> {
        let tracking = |n: &NodeId| !uuid.is_none() && self.bitmap(*n).same(uuid);
        self.others()
            .find(|n| tracking(n) && nodes.slot(*n).is_some())
            .or_else(|| self.others().find(tracking))
    }
}

/// Whether a dagtag is later than another; they wrap.
fn newer(a: Dagtag, b: Dagtag) -> bool {
    (a.0.wrapping_sub(b.0) as i64) > 0
}
