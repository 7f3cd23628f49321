//! The generation identifiers of a resync's target (state machine, section 7.9).

use alloc::vec::Vec;

use drbd_proto::{Dagtag, DiskState, NodeId, NodeMask, Uuid};

use super::{GenIds, Nodes, PeerFacts, PeerUuids};

impl GenIds {
    /// A resync from a source begins here. Returns the UUID to keep for
    /// [`end_resync`](Self::end_resync).
    pub fn start_resync(
        &mut self,
        source: &PeerUuids,
        dagtag: Dagtag,
        peers: &[PeerFacts],
        nodes: &Nodes,
        random: &mut dyn FnMut() -> Uuid,
    ) -> Uuid {
        // So that an initial sync which is interrupted can be continued.
        let tracked = source.bitmap(self.me).filter(|u| !u.is_none());
        if let Some(uuid) = tracked.filter(|_| self.current.is_just_created()) {
            self.set_current(uuid, false);
        }
        let start = self.current;
        self.rotate(NodeMask::EMPTY, dagtag, peers, nodes, random);
        start
    }

    /// A stable resync has ended here: the source's generation is ours. `start` is what
    /// [`start_resync`](Self::start_resync) returned. Returns the peers that are older than this node
    /// now: those with usable data become Outdated in its view.
    ///
    /// The old current UUID does not become an ancestor; the reference's attempt to keep it has no
    /// effect.
    #[allow(clippy::too_many_arguments)] // The facts of one resync.
    pub fn end_resync(
        &mut self,
        source: &PeerUuids,
        start: Uuid,
        dagtag: Dagtag,
        primary: bool,
        peers: &[PeerFacts],
        nodes: &Nodes,
    ) -> NodeMask {
        for uuid in source.history() {
            self.push(*uuid);
        }
        let mut tracked = NodeMask::EMPTY;
        for node in NodeId::all() {
            if let Some(uuid) = source.bitmap(node).filter(|u| !u.is_none()) {
                self.push(uuid);
                tracked.insert(node);
            }
        }
        // A peer that is on its way to this generation may stop half-way: its bitmap UUID is still needed. One
        // that is UpToDate has arrived, though another source of it has not noticed yet.
        let equal = peers
            .iter()
            .filter(|p| {
                p.has_data()
                    && (!p.sync_target || p.disk == DiskState::UpToDate)
                    && p.current.same(source.current)
            })
            .fold(NodeMask::EMPTY, |mask, p| mask.with(p.node));
        let replaced: Vec<Uuid> = nodes.with_slot().iter().map(|n| self.bitmap(n)).collect();
        let newer = self.set_slots(start, tracked.minus(equal), dagtag, nodes);
        self.set_slots(Uuid::NONE, NodeMask(!tracked.0 | equal.0), dagtag, nodes);
        for uuid in replaced {
            self.keep(uuid, nodes);
        }
        self.set_current(source.current, primary);
        newer
    }

    /// Keeps an ancestor that *push* leaves out because a node that does not exist has it as its day-0 UUID: no
    /// UUIDs packet tells of such a node, and a peer at that generation would seem unrelated (a deviation).
    fn keep(&mut self, uuid: Uuid, nodes: &Nodes) {
        let reported = nodes.with_slot().iter().any(|n| self.bitmap(n).same(uuid));
        let known = uuid.is_none() || uuid.same(self.current) || self.in_history(uuid);
        if !known && !reported && !uuid.is_just_created() {
            self.history.rotate_right(1);
            self.history[0] = uuid.identity();
        }
    }
}
