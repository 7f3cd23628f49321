//! What each side tells the other about a volume when they connect (wire protocol, section 11).

use alloc::boxed::Box;
use alloc::vec::Vec;

use drbd_proto::packet::{CurrentUuid, EnableReplication, PeerDagtag, SyncParam};
use drbd_proto::{
    AlgName, ConnState, DiskState, Features, NodeId, Packet, State as WireState, Stream, Uuid,
    UuidFlags, VolumeNr,
};

use crate::engine::Engine;
use crate::handshake::Handshake;

impl Engine {
    /// Begins the exchange of a connect transaction (wire protocol, section 7.2).
    pub(crate) fn start_volume_exchange(&mut self, peer: NodeId) {
        let Some(conn) = self.conns.get_mut(&peer) else {
            return;
        };
        conn.handshake = Handshake::Exchange;
        conn.verdict = None;
        conn.named_lost_primary = None;
        conn.named_to_peer = false;
        let discard = conn.flags.discard_my_data;
        // Without the feature nobody says so: writes are always replicated during a resync.
        let always = !conn.has(Features::RESYNC_WITHOUT_REPLICATION);
        for known in conn.peers.values_mut() {
            if always {
                known.replication_next_sent = true;
                known.replication_next_received = true;
            }
            known.flags.uuids_received = false;
            known.flags.initial_state = false;
            known.flags.quorate = false;
            known.flags.discard_my_data = discard;
            known.flags.source_missed_end = false;
            known.flags.peer_missed_end = false;
            known.sizes.known = false;
            known.handshake_result = None;
        }
        let reconcile = conn.has(Features::RECONCILE_RECONNECT);
        self.data_exchange_started(peer);
        if reconcile {
            self.send_common_lost_primary(peer);
        }
        let volumes: Vec<VolumeNr> = self.volumes.keys().copied().collect();
        for v in volumes {
            self.send_volume_parameters(peer, v);
        }
    }

    /// The five packets about one volume, in their order.
    pub(crate) fn send_volume_parameters(&mut self, peer: NodeId, v: VolumeNr) {
        self.send_sync_param(peer, v);
        let without = self
            .peer_device(peer, v)
            .is_none_or(|k| k.options.resync_without_replication);
        if self
            .conns
            .get(&peer)
            .is_some_and(|c| c.has(Features::RESYNC_WITHOUT_REPLICATION))
        {
            let packet = Packet::EnableReplicationNext(EnableReplication { enable: !without });
            self.send(peer, Stream::Data, v, packet);
            if let Some(known) = self.peer_device_mut(peer, v) {
                known.replication_next_sent = !without;
            }
        }
        self.send_sizes(peer, v, 0);
        self.send_uuids(peer, v, UuidFlags::NONE);
        self.send_state(peer, v);
    }

    /// P_PEER_DAGTAG: how far this node is in the stream of a Primary both may have lost.
    fn send_common_lost_primary(&mut self, peer: NodeId) {
        let mut lost = self.conns.iter().filter(|(n, c)| {
            **n != peer && self.state.cstate(**n) < ConnState::Connected && c.last_dagtag.0 != 0
        });
        let (Some((node_id, conn)), None) = (lost.next(), lost.next()) else {
            return;
        };
        let packet = PeerDagtag {
            dagtag: conn.last_dagtag,
            node_id: *node_id,
        };
        if let Some(conn) = self.conns.get_mut(&peer) {
            conn.named_to_peer = true;
        }
        self.send(
            peer,
            Stream::Data,
            VolumeNr::CONNECTION,
            Packet::PeerDagtag(packet),
        );
    }

    fn send_sync_param(&mut self, peer: NodeId, v: VolumeNr) {
        let Some(conn) = self.conns.get(&peer) else {
            return;
        };
        let Some(known) = conn.peers.get(&v) else {
            return;
        };
        let o = &known.options;
        let param = SyncParam {
            rate: o.resync_rate,
            verify_alg: AlgName::new(&conn.options.verify_alg).unwrap_or(AlgName::NONE),
            csums_alg: AlgName::new(&conn.options.csums_alg).unwrap_or(AlgName::NONE),
            c_plan_ahead: o.c_plan_ahead,
            c_delay_target: o.c_delay_target,
            c_fill_target: o.c_fill_target,
            c_max_rate: o.c_max_rate,
        };
        self.send(peer, Stream::Data, v, Packet::SyncParam89(Box::new(param)));
    }

    /// "send state": the complete state of a volume, in this node's view.
    pub(crate) fn send_state(&mut self, peer: NodeId, v: VolumeNr) {
        if !self.conns.get(&peer).is_some_and(|c| c.handshake.done()) {
            return;
        }
        let state = self.wire_state(peer, v);
        self.send(peer, Stream::Data, v, Packet::State(state));
    }

    /// "send state" to every connected peer.
    pub(crate) fn send_state_all(&mut self, v: VolumeNr) {
        let peers: Vec<NodeId> = self.connected_nodes().iter().collect();
        for peer in peers {
            self.send_state(peer, v);
        }
    }

    /// The state word of a volume towards a peer (state machine, section 2.8).
    pub(crate) fn wire_state(&self, peer: NodeId, v: VolumeNr) -> WireState {
        let s = &self.state;
        let pd = s.pd(peer, v).cloned().unwrap_or_default();
        let conn = s.conns.get(&peer).cloned().unwrap_or_default();
        let disk = s.disk(v);
        let comb_dep = pd.susp_dependency
            || pd.susp_other_c
            || (pd.is_sync_source() && disk <= DiskState::Inconsistent);
        WireState {
            role: s.role,
            peer: conn.peer_role,
            conn: conn.cstate,
            repl: pd.repl,
            disk,
            peer_disk: pd.pdisk,
            susp: s.susp_user || s.susp_quorum || s.susp_uuid,
            aftr_isp: comb_dep,
            peer_isp: pd.susp_peer,
            user_isp: pd.susp_user || pd.susp_max_parallel,
            susp_nod: s.susp_nod,
            susp_fen: conn.susp_fen,
            quorum: s.devices.get(&v).is_some_and(|d| d.have_quorum),
        }
    }

    /// P_CURRENT_UUID.
    pub(crate) fn send_current_uuid(&mut self, peer: NodeId, v: VolumeNr, uuid: Uuid) {
        let mut weak_nodes = self.weak_nodes(v);
        if self.begun_without_disk(v, uuid) {
            // Who is not trusted is not told, and does not follow.
            for (n, _, pd) in self.state.peers_of(v) {
                let at = self.peer_device(n, v).map(|k| k.uuids.current);
                if pd.pdisk == DiskState::Consistent && !at.is_some_and(|at| at.same(uuid)) {
                    weak_nodes.insert(n);
                }
            }
        }
        let packet = Packet::CurrentUuid(CurrentUuid { uuid, weak_nodes });
        self.send(peer, Stream::Data, v, packet);
    }

    /// P_ENABLE_REPLICATION with 1.
    pub(crate) fn send_enable_replication(&mut self, peer: NodeId, v: VolumeNr) {
        if self
            .conns
            .get(&peer)
            .is_some_and(|c| c.has(Features::RESYNC_WITHOUT_REPLICATION))
        {
            let packet = Packet::EnableReplication(EnableReplication { enable: true });
            self.send(peer, Stream::Data, v, packet);
        }
    }
}
