//! P_PEERS_IN_SYNC: what a resync made equal is told to the other nodes, so that they need not resync it
//! once more (data path, section 14.4).

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use drbd_proto::packet::PeersInSync;
use drbd_proto::{
    Bytes, ConnState, DiskState, NodeId, NodeMask, Packet, ReplState, Sector, Stream, VolumeNr,
};

use crate::activity_log::{EXTENT_SECTOR_SHIFT, ExtentNr};
use crate::connection::PingWaiter;
use crate::engine::{Engine, PacketError};
use crate::interval::Kind;

/// Steps of 4 MiB in which requests have ended and of which nobody was told.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    open: BTreeSet<u64>,
    /// As a source: the target has ended the resync, and tells of its last step behind that, over the other stream.
    last: bool,
}

impl Engine {
    /// A resync request has ended.
    pub(super) fn in_sync_step(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        sector: Sector,
        len: u32,
    ) {
        let step = sector.0 >> EXTENT_SECTOR_SHIFT;
        let end = (step + 1) << EXTENT_SECTOR_SHIFT;
        let _ = len;
        let Some(state) = self.resync_mut(peer, volume) else {
            return;
        };
        state.in_sync.open.insert(step);
        let busy = state.steps_busy(step);
        let passed = self
            .target_position(peer, volume)
            .is_none_or(|at| at >= end);
        if !busy && passed {
            if let Some(state) = self.resync_mut(peer, volume) {
                state.in_sync.open.remove(&step);
            }
            self.announce_step(peer, volume, step);
        }
    }

    /// The target has ended the resync: its last step is still to be answered.
    pub(crate) fn expect_last_in_sync_step(&mut self, target: NodeId, volume: VolumeNr) {
        if let Some(state) = self.resync_mut(target, volume) {
            state.in_sync.last = true;
        }
    }

    /// The resync ends: tell about what is left over.
    pub(super) fn finish_in_sync_steps(&mut self, peer: NodeId, volume: VolumeNr) {
        let Some(state) = self.resync_mut(peer, volume) else {
            return;
        };
        for step in core::mem::take(&mut state.in_sync.open) {
            self.announce_step(peer, volume, step);
        }
    }

    fn announce_step(&mut self, peer: NodeId, volume: VolumeNr, step: u64) {
        let Some(v) = self.volumes.get(&volume) else {
            return;
        };
        let sector = Sector(step << EXTENT_SECTOR_SHIFT);
        let sectors = v
            .size
            .saturating_sub(sector.0)
            .min(1 << EXTENT_SECTOR_SHIFT);
        if let Ok(len) = u32::try_from(sectors * 512) {
            self.announce_in_sync(peer, volume, sector, len);
        }
    }

    /// A resync with a peer begins. What is known of the others may be old: one that was started anew, which this
    /// node has not noticed yet, has other blocks than before, and the peer may know better. Until it is heard of
    /// nothing is reported of it (a deviation: the reference believes its connections).
    pub(crate) fn ask_who_lives(&mut self, peer: NodeId) {
        let others: Vec<NodeId> = self.connected_nodes().without(peer).iter().collect();
        for other in others {
            if let Some(conn) = self.conns.get_mut(&other) {
                conn.heard_in_resync.remove(peer);
            }
            self.ping_for(other, PingWaiter::ResyncStart { with: peer });
        }
    }

    /// Tells everybody concerned that a range is equal here, on `partner`, and on whom else it is; unless
    /// something is going on there.
    fn announce_in_sync(&mut self, partner: NodeId, volume: VolumeNr, sector: Sector, len: u32) {
        if len == 0 {
            return;
        }
        let Some(v) = self.volumes.get(&volume) else {
            return;
        };
        let Some(disk) = &v.disk else { return };
        let occupied = v.data.intervals.overlapping(sector, len).any(|(_, i)| {
            matches!(
                i.kind,
                Kind::LocalWrite | Kind::PeerWrite | Kind::ResyncWrite
            )
        });
        let active = v.data.al.as_ref().is_some_and(|al| {
            ExtentNr::covering(sector, len).any(|extent| al.is_referenced(extent))
        });
        let slots = self.slots_of(volume);
        let clean = |node: NodeId| {
            slots
                .iter()
                .find(|(n, _)| *n == node)
                .is_some_and(|(_, slot)| !disk.bitmap.any(*slot, sector, len))
        };
        if occupied || active || !clean(partner) {
            return;
        }
        let mut nodes = NodeMask::EMPTY.with(partner);
        // What the blocks are of: as a target, those of the source.
        let own = self.current_uuid(volume);
        let generation = if self.state.repl(partner, volume).is_sync_target() {
            self.peer_device(partner, volume)
                .map_or(own, |k| k.uuids.current)
        } else {
            own
        };
        let disk = self.state.disk(volume);
        for (peer, _, pd) in self.state.peers_of(volume) {
            let joined = matches!(
                pd.repl,
                ReplState::Established
                    | ReplState::SyncSource
                    | ReplState::SyncTarget
                    | ReplState::PausedSyncS
                    | ReplState::PausedSyncT
            );
            // The target of somebody else gets blocks that this node does not hear of, and a disk that is
            // not UpToDate after that may have got them from a source that was not, either. Its own marks
            // tell when its blocks are not those of this node, its generation that it has newer ones. Among
            // Outdated disks nobody would ever report anything otherwise.
            let as_good = pd.pdisk == DiskState::UpToDate
                || pd.pdisk == DiskState::Outdated && disk == DiskState::Outdated;
            let elsewhere = pd.repl == ReplState::Established
                && (!as_good
                    || self.peer_device(peer, volume).is_none_or(|k| {
                        k.uuids.dirty_bits != 0 || !k.uuids.current.same(generation)
                    }));
            let heard = self
                .conns
                .get(&peer)
                .is_some_and(|c| c.heard_in_resync.contains(partner));
            if joined && !elsewhere && heard && clean(peer) {
                nodes.insert(peer);
            }
        }
        let peers: Vec<NodeId> = nodes
            .iter()
            .filter(|peer| {
                self.state.cstate(*peer) == ConnState::Connected
                    && self.conns.get(peer).is_some_and(|c| c.apv() >= 110)
            })
            .collect();
        for peer in peers {
            let packet = Packet::PeersInSync(PeersInSync {
                sector,
                nodes,
                size: Bytes(len),
            });
            self.send(peer, Stream::Control, volume, packet);
        }
    }

    /// P_PEERS_IN_SYNC: the sender has the same data as these nodes.
    ///
    /// # Errors
    /// The range is not inside the device.
    pub(super) fn got_peers_in_sync(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        packet: PeersInSync,
    ) -> Result<(), PacketError> {
        self.check_inside(volume, packet.sector, packet.size)?;
        let (sector, len) = (packet.sector, packet.size.0);
        // This node has other blocks than the sender, perhaps from a resync that it has not heard of: what
        // it is equal to says nothing about this node (invariant S10; a deviation).
        let differs = self.slot_of(peer, volume).is_some_and(|slot| {
            self.disk_ref(volume)
                .is_some_and(|d| d.bitmap.any(slot, sector, len))
        });
        if differs {
            return Ok(());
        }
        // A Primary that does not write here sends marks instead, which the sender may not have got yet: only a
        // resync from it clears them (a deviation).
        let marks = |node: NodeId| {
            node != peer
                && self.peer_is_primary(node)
                && self
                    .state
                    .pd(node, volume)
                    .is_some_and(|pd| pd.repl >= ReplState::Established && !pd.peer_replication)
        };
        let mut changed = 0;
        for node in packet
            .nodes
            .iter()
            .filter(|n| *n != self.node_id && !marks(*n))
            .collect::<Vec<_>>()
        {
            changed += self.clear_towards(node, volume, sector, len);
        }
        // The target hears from its source that others have the blocks, too, although they changed nothing here: a
        // report that came by way of another node may have cleared their bits before.
        let last = (self.resync_mut(peer, volume))
            .is_some_and(|state| core::mem::take(&mut state.in_sync.last));
        if changed > 0 || last || self.state.repl(peer, volume) == ReplState::SyncSource {
            for extent in ExtentNr::covering(sector, len).collect::<Vec<_>>() {
                let first = (u64::from(extent.0) << EXTENT_SECTOR_SHIFT).max(sector.0);
                let end = sector.0 + u64::from(len / 512);
                let behind = (u64::from(extent.0) + 1) << EXTENT_SECTOR_SHIFT;
                let part = end.min(behind).saturating_sub(first) * 512;
                if let Ok(part) = u32::try_from(part) {
                    self.announce_in_sync(peer, volume, Sector(first), part);
                }
            }
        }
        Ok(())
    }
}
