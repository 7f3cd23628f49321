//! UUIDs packets: what this node says about its generations, and what it has heard from a peer (state
//! machine, section 7.13).

use drbd_proto::packet::{Uuids, Uuids110};
use drbd_proto::{NodeId, NodeMask, ReplState, Uuid, UuidFlags};

use super::{GenIds, NODES, Nodes, PeerFacts};

/// What a UUIDs packet needs beyond the identifiers themselves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Compose {
    /// Receiver.
    pub to: NodeId,
    /// Agreed protocol version.
    pub pv: u32,
    /// The resolved UUID towards the receiver (state machine, section 2.7).
    pub resolved: Uuid,
    /// Set bits towards the receiver.
    pub dirty_bits: u64,
    /// Flags; SYNC_TARGET if the resolved UUID is that of the sync source.
    pub flags: UuidFlags,
    /// With STABLE weak, without it authoritative nodes.
    pub node_mask: NodeMask,
}

impl GenIds {
    /// The content of P_UUIDS110.
    pub fn compose(&self, compose: &Compose, peers: &[PeerFacts], nodes: &Nodes) -> Uuids110 {
        let mut packet = Uuids110 {
            current: compose.resolved,
            dirty_bits: compose.dirty_bits,
            flags: compose.flags,
            node_mask: compose.node_mask,
            history: self.history,
            ..Uuids110::default()
        };
        // Among the reported nodes is this one, with 0, as soon as a peer has mentioned it: only by
        // this entry a sync source learns the end of its resync.
        for node in nodes.reported().iter().filter(|n| n.index() < NODES) {
            packet.set_bitmap_uuid(node, self.reported(node, peers));
        }
        if compose.pv >= 116 && nodes.free_slot().is_some() {
            let unallocated = self.others().find(|&n| {
                n != compose.to && !nodes.reported().contains(n) && !self.bitmap(n).is_none()
            });
            if let Some(node) = unallocated {
                packet.set_bitmap_uuid(node, self.bitmap(node));
                packet.flags = packet.flags.with_unallocated_node(node);
            }
        }
        packet
    }

    /// The bitmap UUID of a node as told to others.
    fn reported(&self, node: NodeId, peers: &[PeerFacts]) -> Uuid {
        let uuid = self.bitmap(node);
        let target_of = peers.iter().any(|p| {
            p.node == node
                && matches!(p.repl, ReplState::SyncTarget | ReplState::PausedSyncT)
                && !p.current.is_none()
                && !p.current.same(self.current)
        });
        if uuid.is_none() && target_of {
            Uuid::UNKNOWN
        } else {
            uuid
        }
    }

    /// The content of P_UUIDS, for a peer below protocol 110.
    pub fn compose_legacy(&self, to: NodeId, dirty_bits: u64, flags: UuidFlags) -> Uuids {
        Uuids {
            current: self.current,
            bitmap: self.bitmap(to),
            history: [self.history[0], self.history[1]],
            dirty_bits,
            flags: legacy(flags),
        }
    }
}

/// Those flags that exist below protocol 110.
fn legacy(flags: UuidFlags) -> UuidFlags {
    flags.minus(flags.minus(UuidFlags::LEGACY))
}

/// The generation identifiers of a peer, as last heard from it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerUuids {
    /// Its current UUID, or its sync source's; `Uuid::NONE` if unknown.
    pub current: Uuid,
    /// Set bits in its bitmap towards this node.
    pub dirty_bits: u64,
    /// Flags.
    pub flags: UuidFlags,
    /// With STABLE weak, without it authoritative nodes.
    pub node_mask: NodeMask,
    bitmap: [Uuid; NODES],
    history: [Uuid; NODES],
    reported: NodeMask,
}

impl Default for PeerUuids {
    /// Nothing heard.
    fn default() -> Self {
        PeerUuids {
            current: Uuid::NONE,
            dirty_bits: 0,
            flags: UuidFlags::NONE,
            node_mask: NodeMask::EMPTY,
            bitmap: [Uuid::UNKNOWN; NODES],
            history: [Uuid::NONE; NODES],
            reported: NodeMask::EMPTY,
        }
    }
}

impl From<&Uuids110> for PeerUuids {
    fn from(packet: &Uuids110) -> Self {
        PeerUuids {
            current: packet.current,
            dirty_bits: packet.dirty_bits,
            flags: packet.flags,
            node_mask: packet.node_mask,
            bitmap: packet.bitmap_uuids,
            history: packet.history,
            reported: packet.bitmap_mask,
        }
    }
}

impl PeerUuids {
    /// What a P_UUIDS packet says to node `me`. Such a peer counts as stable.
    pub fn from_legacy(packet: &Uuids, me: NodeId) -> Self {
        let mut uuids = PeerUuids {
            current: packet.current,
            dirty_bits: packet.dirty_bits,
            flags: legacy(packet.flags).union(UuidFlags::STABLE),
            reported: me.mask(),
            ..PeerUuids::default()
        };
        uuids.set_bitmap(me, packet.bitmap);
        for (to, from) in uuids.history.iter_mut().zip(packet.history) {
            *to = from;
        }
        uuids
    }

    /// Becomes equal to this node's own identifiers, after a resync from this peer (state machine,
    /// section 7.9).
    pub fn set_like(&mut self, own: &GenIds) {
        self.current = own.current;
        self.bitmap = own.bitmap;
        self.history = own.history;
    }

    /// Its bitmap UUID for a node; `None` if it did not say, or said "unknown".
    pub fn bitmap(&self, node: NodeId) -> Option<Uuid> {
        self.bitmap
            .get(node.index())
            .copied()
            .filter(|&u| u != Uuid::UNKNOWN)
    }

    /// Changes the view of its bitmap UUID for a node.
    pub fn set_bitmap(&mut self, node: NodeId, uuid: Uuid) {
        if let Some(entry) = self.bitmap.get_mut(node.index()) {
            *entry = uuid;
        }
    }

    /// Its ancestors, newest first.
    pub fn history(&self) -> &[Uuid; NODES] {
        &self.history
    }

    /// Whether a generation is among its ancestors.
    pub fn in_history(&self, uuid: Uuid) -> bool {
        super::contains(&self.history, uuid)
    }

    /// The first node whose bitmap UUID at the peer is this generation.
    pub fn node_of(&self, uuid: Uuid) -> Option<NodeId> {
        NodeId::all().find(|&n| self.bitmap(n).is_some_and(|u| !u.is_none() && u.same(uuid)))
    }

    /// The nodes it has reported, without an unallocated one: they exist.
    pub fn existing(&self) -> NodeMask {
        match self.flags.unallocated_node() {
            Some(node) => self.reported.without(node),
            None => self.reported,
        }
    }

    /// The nodes whose entry was set and is 0 in `newer`: their entries for this peer can be taken as
    /// 0, too (state machine, section 7.10).
    pub fn caught_up(&self, newer: &PeerUuids) -> NodeMask {
        NodeId::all()
            .filter(|&n| self.bitmap(n).is_some_and(|u| !u.is_none()))
            .filter(|&n| newer.bitmap(n) == Some(Uuid::NONE))
            .fold(NodeMask::EMPTY, NodeMask::with)
    }

    /// The peer's UUID of the end of a resync got lost on its side (state machine, section 8.3 a): its
    /// bitmap UUID for `me` is an ancestor already.
    pub(crate) fn shift_down(&mut self, me: NodeId) {
        let uuid = self.bitmap(me).unwrap_or(Uuid::NONE);
        self.history.rotate_right(1);
        self.history[0] = uuid;
        self.set_bitmap(me, Uuid::NONE);
    }

    /// The peer began a resync that `me` never heard of (state machine, section 8.3 b): as it was
    /// before.
    pub(crate) fn shift_up(&mut self, me: NodeId) {
        let uuid = self.history[0];
        self.history.rotate_left(1);
        self.history[NODES - 1] = Uuid::NONE;
        self.set_bitmap(me, uuid);
    }
}
