//! Data generation identifiers: who has which data, and since when two copies differ.
//!
//! A volume's *current* UUID names its data as a whole. The *bitmap* UUID of a node says: the bitmap
//! slot for that node has every change since that generation. The *history* has the ancestors (state
//! machine, section 7.1). This module has the operations on these identifiers as plain functions over
//! facts that the caller knows ([`Nodes`], [`PeerFacts`]); nothing here sends, writes or draws random
//! numbers.

use drbd_proto::{Dagtag, DiskState, NodeId, NodeMask, ReplState, Uuid};

use crate::bitmap::Slot;

mod learn;
mod packet;
mod resync;

#[cfg(test)]
mod tests;

pub use learn::{Learned, MissedEnd};
pub use packet::{Compose, PeerUuids};

/// Highest number of nodes; also the length of the history.
const NODES: usize = drbd_proto::units::MAX_NODES;

/// The generation identifiers of a volume, as in its metadata (state machine, section 7.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GenIds {
    me: NodeId,
    current: Uuid,
    bitmap: [Uuid; NODES],
    dagtag: [Dagtag; NODES],
    history: [Uuid; NODES],
}

/// What the metadata says about the other nodes (state machine, section 7.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Nodes {
    /// The bitmap slot of each node that has one (peer flag HAVE_BITMAP).
    pub slots: [Option<Slot>; NODES],
    /// Nodes known to exist (peer flag NODE_EXISTS); this node is one once a peer has said so.
    pub exist: NodeMask,
    /// Number of bitmap slots of the metadata (`max_peers`).
    pub max_peers: u8,
}

impl Nodes {
    /// The bitmap slot of a node.
    pub fn slot(&self, node: NodeId) -> Option<Slot> {
        self.slots.get(node.index()).copied().flatten()
    }

    /// The nodes with a bitmap slot.
    pub fn with_slot(&self) -> NodeMask {
        NodeId::all()
            .filter(|&n| self.slot(n).is_some())
            .fold(NodeMask::EMPTY, NodeMask::with)
    }

    /// The nodes that UUIDs packets report, apart from an unallocated one.
    pub fn reported(&self) -> NodeMask {
        NodeMask(self.with_slot().0 | self.exist.0)
    }

    /// The lowest slot that no node has.
    pub fn free_slot(&self) -> Option<Slot> {
        (0..self.max_peers)
            .map(Slot)
            .find(|&slot| !self.slots.contains(&Some(slot)))
    }
}

/// What is known about a configured peer just now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerFacts {
    /// The peer.
    pub node: NodeId,
    /// State of its disk.
    pub disk: DiskState,
    /// State of the replication.
    pub repl: ReplState,
    /// Its current UUID as last heard; `Uuid::NONE` if unknown.
    pub current: Uuid,
    /// That is the UUID of its sync source: it does not have all of that data yet (flag SYNC_TARGET).
    pub sync_target: bool,
}

impl PeerFacts {
    /// Whether its disk is known and has data.
    fn has_data(&self) -> bool {
        self.disk >= DiskState::Inconsistent && self.disk != DiskState::Unknown
    }
}

impl GenIds {
    /// Identifiers as read from the metadata.
    pub fn new(
        me: NodeId,
        current: Uuid,
        bitmap: [Uuid; NODES],
        dagtag: [Dagtag; NODES],
        history: [Uuid; NODES],
    ) -> Self {
        GenIds {
            me,
            current,
            bitmap,
            dagtag,
            history,
        }
    }

    /// Identifiers of fresh metadata.
    pub fn just_created(me: NodeId) -> Self {
        let none = [Uuid::NONE; NODES];
        Self::new(me, Uuid::JUST_CREATED, none, [Dagtag::ZERO; NODES], none)
    }

    /// This node.
    pub fn me(&self) -> NodeId {
        self.me
    }

    /// The current UUID, bit 0 as stored.
    pub fn current(&self) -> Uuid {
        self.current
    }

    /// The bitmap UUID of a node; `Uuid::NONE` if there is none.
    pub fn bitmap(&self, node: NodeId) -> Uuid {
        self.bitmap.get(node.index()).copied().unwrap_or(Uuid::NONE)
    }

    /// Where the stream of writes was when the bitmap UUID of a node was set.
    pub fn dagtag(&self, node: NodeId) -> Dagtag {
        self.dagtag
            .get(node.index())
            .copied()
            .unwrap_or(Dagtag::ZERO)
    }

    /// The ancestors, newest first; `Uuid::NONE` in unused places.
    pub fn history(&self) -> &[Uuid; NODES] {
        &self.history
    }

    /// Whether a generation is among the ancestors.
    pub fn in_history(&self, uuid: Uuid) -> bool {
        contains(&self.history, uuid)
    }

    /// The other nodes.
    fn others(&self) -> impl Iterator<Item = NodeId> + use<> {
        let me = self.me;
        NodeId::all().filter(move |&n| n != me)
    }

    fn put(&mut self, node: NodeId, uuid: Uuid, dagtag: Dagtag) {
        if let (Some(u), Some(d)) = (
            self.bitmap.get_mut(node.index()),
            self.dagtag.get_mut(node.index()),
        ) {
            *u = uuid;
            *d = if uuid == Uuid::NONE {
                Dagtag::ZERO
            } else {
                dagtag
            };
        }
    }

    /// Adds an ancestor: *push* of state machine, section 7.2.
    pub fn push(&mut self, uuid: Uuid) {
        let uuid = uuid.identity();
        if uuid.is_none() || uuid.is_just_created() || uuid.same(self.current) {
            return;
        }
        // The first ancestor is stored even if a bitmap slot has it.
        if !self.history[0].is_none()
            && (self.others().any(|n| self.bitmap(n).same(uuid)) || self.in_history(uuid))
        {
            return;
        }
        if !self.history[0].is_none() {
            self.history.rotate_right(1);
        }
        self.history[0] = uuid;
    }

    /// Sets a bitmap UUID; the old one becomes an ancestor (*set_bitmap*). `dagtag` is the resource's.
    pub fn set_bitmap(&mut self, node: NodeId, uuid: Uuid, dagtag: Dagtag) {
        let old = self.bitmap(node);
        self.put(node, uuid, dagtag);
        self.push(old);
    }

    /// Sets the bitmap UUIDs of those nodes of `mask` that have a bitmap slot (*set_slots*). Returns
    /// the nodes whose UUID has changed.
    pub fn set_slots(
        &mut self,
        uuid: Uuid,
        mask: NodeMask,
        dagtag: Dagtag,
        nodes: &Nodes,
    ) -> NodeMask {
        let mut changed = NodeMask::EMPTY;
        for node in self.others() {
            let has_slot = nodes.slot(node).is_some();
            if mask.contains(node) && has_slot && !self.bitmap(node).same(uuid) {
                self.set_bitmap(node, uuid, dagtag);
                changed.insert(node);
            }
        }
        changed
    }

    /// Sets the current UUID (*set_current*); bit 0 says whether this node is Primary. The exposed
    /// UUID follows it, which is the caller's business.
    pub fn set_current(&mut self, uuid: Uuid, primary: bool) {
        self.current = uuid.with_primary(primary);
    }

    /// Marks the current UUID as a Primary's, or no more (state machine, section 7.1). Freshly created
    /// data is never marked.
    pub fn mark_primary(&mut self, primary: bool) {
        if !self.current.is_just_created() {
            self.current = self.current.with_primary(primary);
        }
    }

    /// Whether the data are as provisioned: no change was ever tracked (*is_day0*).
    pub fn is_day0(&self) -> bool {
        !self.current.is_none()
            && !self.current.is_just_created()
            && self.history.iter().all(|u| u.is_none())
            && self.others().all(|n| self.bitmap(n).is_none())
    }

    /// Moves the current UUID into the bitmap UUIDs of all who will miss what comes now (*rotate* of
    /// state machine, section 7.2): peers without usable data, the `weak` ones, and all nodes not
    /// configured, so that a free slot knows what changed since day 0. Returns the nodes that count.
    pub fn rotate(
        &mut self,
        weak: NodeMask,
        dagtag: Dagtag,
        peers: &[PeerFacts],
        nodes: &Nodes,
        random: &mut dyn FnMut() -> Uuid,
    ) -> NodeMask {
        let previous = if self.current.is_just_created() {
            random().identity()
        } else {
            self.current
        };
        let mut counted = NodeMask::EMPTY;
        let mut configured = NodeMask::EMPTY;
        let mut handled = 0u64;
        for peer in peers {
            let node = peer.node;
            configured.insert(node);
            let slot = nodes.slot(node);
            handled |= slot.map_or(0, |s| 1 << (s.0 & 63));
            if self.tracks_other(node, previous) {
                continue;
            }
            let client = peer.disk == DiskState::Diskless && slot.is_none();
            let misses = peer.disk <= DiskState::Unknown && peer.disk != DiskState::Negotiating;
            if !client && (misses || weak.contains(node)) {
                self.put(node, previous, dagtag);
                counted.insert(node);
            }
        }
        for node in self.others().filter(|&n| !configured.contains(n)) {
            let slot = nodes.slot(node).map(|s| 1u64 << (s.0 & 63));
            if let Some(bit) = slot {
                if handled & bit != 0 {
                    continue;
                }
                handled |= bit;
            }
            if self.tracks_other(node, previous) {
                continue;
            }
            // A node without slot stands for the lowest one that is free, if only in theory.
            let bit = slot.unwrap_or(1u64.checked_shl((!handled).trailing_zeros()).unwrap_or(0));
            handled |= bit;
            self.put(node, previous, dagtag);
            if bit.trailing_zeros() < u32::from(nodes.max_peers) {
                counted.insert(node);
            }
        }
        counted
    }

    /// Whether the slot of a node tracks changes since another generation than this.
    fn tracks_other(&self, node: NodeId, uuid: Uuid) -> bool {
        let tracked = self.bitmap(node);
        !tracked.is_none() && !tracked.same(uuid)
    }

    /// Begins a new data generation (state machine, section 7.3, steps 1 to 3). `weak` has the peers
    /// that do not follow although they are connected. `None` if every node has all data: nothing
    /// happens. Else the nodes that got a bitmap UUID; the caller makes it durable, closes the epoch
    /// and tells the peers.
    pub fn new_current(
        &mut self,
        weak: NodeMask,
        dagtag: Dagtag,
        primary: bool,
        peers: &[PeerFacts],
        nodes: &Nodes,
        random: &mut dyn FnMut() -> Uuid,
    ) -> Option<NodeMask> {
        let day0 = self.is_day0();
        let counted = self.rotate(weak, dagtag, peers, nodes, random);
        if counted.is_empty() && !day0 {
            return None;
        }
        let old = self.current;
        self.set_current(random(), primary);
        if day0 {
            self.push(old);
        }
        Some(counted)
    }

    /// A peer has begun a new data generation and this node follows (state machine, section 7.8, step
    /// 3). `up_to_date` says whether this node's disk is, `dagtag` how far the sender's writes have
    /// come. Returns the nodes to be told, beyond those that follow the sender.
    #[allow(clippy::too_many_arguments)] // The facts of one packet.
    pub fn follow(
        &mut self,
        uuid: Uuid,
        weak: NodeMask,
        dagtag: Dagtag,
        up_to_date: bool,
        primary: bool,
        peers: &[PeerFacts],
        nodes: &Nodes,
        random: &mut dyn FnMut() -> Uuid,
    ) -> NodeMask {
        // The sender does not write here: this disk stays at the generation that it has just noted for
        // this node. With the new one it would pass for equal at the next comparison (a deviation: the
        // reference adopts it, and relies on the bitmap UUID of the sender).
        if weak.contains(self.me) {
            return NodeMask::EMPTY;
        }
        let old = self.current;
        let mut tell = NodeMask::EMPTY;
        if up_to_date {
            tell = self.rotate(weak, dagtag, peers, nodes, random);
        }
        let tracked = self
            .others()
            .filter(|&n| !self.bitmap(n).is_none() && !weak.contains(n));
        let strong = tracked.fold(NodeMask::EMPTY, NodeMask::with);
        self.set_slots(uuid, strong, dagtag, nodes);
        self.set_current(uuid, primary);
        self.push(old);
        tell
    }

    /// Whether a diskless node that reports `reported` after `before` has gone on to a generation that
    /// this node does not have (*moved on* of state machine, section 7.11). One that is heard of for the first
    /// time may have it from a disk that is detached now (a deviation: to the reference it says nothing, and a
    /// disk that was away for long counts as good).
    pub fn moved_on(&self, before: Uuid, reported: Uuid) -> bool {
        !reported.is_none()
            && !reported.same(before)
            && (before.same(self.current) || before.is_none())
            && !self.others().any(|n| self.bitmap(n).same(reported))
            && !self.in_history(reported)
    }

    /// The UUID of a resync below protocol 110 (state machine, section 7.12); it becomes the bitmap
    /// UUID of the target.
    pub fn sync_uuid(
        &mut self,
        target: NodeId,
        dagtag: Dagtag,
        random: &mut dyn FnMut() -> Uuid,
    ) -> Uuid {
        let old = self.bitmap(target);
        let uuid = if old.is_none() || old.is_just_created() {
            random()
        } else {
            Uuid(old.0.wrapping_add(SYNC_UUID_STEP))
        };
        self.set_bitmap(target, uuid, dagtag);
        uuid
    }

    /// Clears all bitmap UUIDs, for `new-current-uuid` (state machine, section 7.14). The old ones
    /// become ancestors; for `--clear-bitmap` clear those of the peers with
    /// [`drop_bitmap`](Self::drop_bitmap) afterwards.
    pub fn clear_bitmap_uuids(&mut self) {
        for node in self.others() {
            self.set_bitmap(node, Uuid::NONE, Dagtag::ZERO);
        }
    }

    /// Clears a bitmap UUID without making it an ancestor.
    pub fn drop_bitmap(&mut self, node: NodeId) {
        self.put(node, Uuid::NONE, Dagtag::ZERO);
    }

    /// A node is forgotten (state machine, section 7.14): it counts from day 0 again, as the nodes
    /// never heard of do. `nodes` is without it already.
    pub fn forget(&mut self, node: NodeId, nodes: &Nodes) {
        let day0 = self
            .others()
            .find(|&n| n != node && !nodes.reported().contains(n) && !self.bitmap(n).is_none());
        match day0 {
            Some(n) => self.put(node, self.bitmap(n), self.dagtag(n)),
            None => self.drop_bitmap(node),
        }
    }

    /// Applies what the comparison with an old peer found to be missing here (state machine, section
    /// 8.3 c): the newest ancestor is the bitmap UUID of the peer after all.
    pub fn pull_back(&mut self, peer: NodeId) {
        let uuid = self.history[0];
        self.history.rotate_left(1);
        self.history[NODES - 1] = Uuid::NONE;
        self.put(peer, uuid, Dagtag::ZERO);
    }
}

/// Distance between the bitmap UUID and the sync UUID below protocol 110 (state machine, section 7.12).
pub const SYNC_UUID_STEP: u64 = 0x0001_0000_0000_0000;

/// Whether a list of UUIDs has this generation.
fn contains(list: &[Uuid], uuid: Uuid) -> bool {
    !uuid.is_none() && list.iter().any(|u| u.same(uuid))
}
