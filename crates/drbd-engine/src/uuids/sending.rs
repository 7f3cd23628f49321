//! What peers are told of the identifiers (state machine, section 7.13).

use alloc::boxed::Box;
use alloc::vec::Vec;

use drbd_proto::{
    DiskState, NodeId, NodeMask, Packet, ReplState, Role, Stream, UuidFlags, VolumeNr,
};

use crate::connection::SentUuids;
use crate::engine::Engine;
use crate::uuid::Compose;

impl Engine {
    /// The flags of a UUIDs packet to a peer, without the reason for sending it (section 7.13).
    pub(crate) fn uuid_flags(&self, peer: NodeId, v: VolumeNr) -> UuidFlags {
        let mut flags = UuidFlags::NONE;
        let Some(volume) = self.volumes.get(&v) else {
            return flags;
        };
        let known = self.peer_device(peer, v);
        if known.is_some_and(|k| k.flags.discard_my_data) {
            flags = flags.union(UuidFlags::DISCARD_MY_DATA);
        }
        if volume.flags.crashed_primary {
            flags = flags.union(UuidFlags::CRASHED_PRIMARY);
        }
        if volume
            .disk
            .as_ref()
            .is_some_and(|d| !d.meta.was_consistent())
        {
            flags = flags.union(UuidFlags::INCONSISTENT);
        }
        if self.stable(&self.state, v).0 {
            flags = flags.union(UuidFlags::STABLE);
        }
        if self.conns.get(&peer).is_some_and(|c| c.flags.reconnect) {
            flags = flags.union(UuidFlags::RECONNECT);
        }
        if volume.flags.primary_lost_quorum {
            flags = flags.union(UuidFlags::PRIMARY_LOST_QUORUM);
        }
        if self.resolved_uuid(peer, v).1 {
            flags = flags.union(UuidFlags::SYNC_TARGET);
        }
        flags
    }

    /// "send UUIDs" (section 1): P_UUIDS110 with a disk, P_CURRENT_UUID without.
    pub(crate) fn send_uuids(&mut self, peer: NodeId, v: VolumeNr, reason: UuidFlags) {
        if !self.conns.get(&peer).is_some_and(|c| c.handshake.done()) {
            return;
        }
        let primary = self.state.role == Role::Primary;
        let weak_if = primary || reason.contains(UuidFlags::NEW_DATAGEN);
        if !self.local_disk_at_least(v, DiskState::Negotiating) {
            let uuid = self.shown_to(peer, v);
            if let Some(known) = self.peer_device_mut(peer, v) {
                known.sent = SentUuids {
                    current: uuid,
                    ..SentUuids::default()
                };
            }
            return self.send_current_uuid(peer, v, uuid);
        }
        let flags = self.uuid_flags(peer, v).union(reason);
        let (stable, authoritative) = self.stable(&self.state, v);
        let node_mask = match (stable, weak_if) {
            (true, true) => self.weak_nodes(v),
            (true, false) => NodeMask::EMPTY,
            (false, _) => authoritative,
        };
        let (resolved, _) = self.resolved_uuid(peer, v);
        let dirty_bits = self.bitmap_weight(peer, v);
        let pv = self.conns.get(&peer).map_or(0, |c| u32::from(c.apv()));
        let peers = self.peer_facts(v);
        let (Some(nodes), Some(disk)) = (self.nodes(v), self.disk_ref(v)) else {
            return;
        };
        let compose = Compose {
            to: peer,
            pv,
            resolved,
            dirty_bits,
            flags,
            node_mask,
        };
        let packet = Packet::Uuids110(Box::new(disk.gen_ids.compose(&compose, &peers, &nodes)));
        let sent = SentUuids {
            current: resolved,
            bitmap: disk.gen_ids.bitmap(peer),
            bits: dirty_bits,
            flags,
        };
        if let Some(known) = self.peer_device_mut(peer, v) {
            known.sent = sent;
        }
        let packet = if self.is_legacy(peer) {
            self.legacy_uuids(&compose, v).unwrap_or(packet)
        } else {
            packet
        };
        self.send(peer, Stream::Data, v, packet);
    }

    /// "send UUIDs" to all connected peers but one.
    pub(super) fn send_uuids_others(&mut self, v: VolumeNr, but: NodeId) {
        let peers: Vec<NodeId> = self.established_peers(v).filter(|n| *n != but).collect();
        for peer in peers {
            self.send_uuids(peer, v, UuidFlags::NONE);
        }
    }

    /// Peers with which this volume replicates.
    pub(crate) fn established_peers(&self, v: VolumeNr) -> impl Iterator<Item = NodeId> + use<> {
        let peers: Vec<NodeId> = self
            .state
            .peers_of(v)
            .filter(|(_, _, pd)| pd.repl >= ReplState::Established)
            .map(|(n, _, _)| n)
            .collect();
        peers.into_iter()
    }
}
