//! Peers of the 8 series, protocol 86 to 101: one peer per resource, no node ids, no cluster-wide
//! transactions (wire protocol, section 25; state machine, section 5.10).
//!
//! Such a connection is established by an exchange without a transaction. A change that the peer has to
//! agree to is asked for with a request; its answer counts as the vote of the only other node, so that
//! the rest of a transaction's life is the ordinary one. A resync begins with an identifier that its
//! source makes up.

use alloc::format;

use drbd_proto::packet::{StateChgReply, StateChgReq, SyncUuid, Uuids};
use drbd_proto::{
    ConnState, DiskState, NodeId, NodeMask, Packet, ReplState, Role, StateChange, Stream, Uuid,
    UuidFlags, VolumeNr,
};

use crate::command::RetCode;
use crate::effect::LogLevel;
use crate::engine::{Engine, PacketError};
use crate::handshake::Handshake;
use crate::state::change::ChangeFlags;
use crate::twopc::ChangeKind;
use crate::uuid::{Compose, PeerUuids};

/// Added to a bitmap UUID that becomes the identifier of a resync (state machine, section 7.12).
const SYNC_UUID_STEP: u64 = 0x0001_0000_0000_0000;

/// The first version that answers requests for a whole connection.
const CONNECTION_REQUESTS: u16 = 100;

impl Engine {
    /// Whether the agreed version with a peer is one of the 8 series.
    pub(crate) fn is_legacy(&self, peer: NodeId) -> bool {
        self.conns
            .get(&peer)
            .is_some_and(|c| c.handshake > Handshake::Features && !c.ctx.is_modern())
    }

    /// Connected peers of the 8 series; there is one at most.
    pub(crate) fn legacy_peers(&self) -> NodeMask {
        self.connected_nodes()
            .iter()
            .filter(|n| self.is_legacy(*n))
            .fold(NodeMask::EMPTY, NodeMask::with)
    }

    // ----- connecting -----------------------------------------------------------------------------------

    /// P_PROTOCOL fits: both sides tell what they have, at once.
    pub(crate) fn legacy_exchange(&mut self, peer: NodeId) {
        self.start_volume_exchange(peer);
    }

    /// Whether the first states of a peer of the 8 series are due.
    pub(crate) fn in_legacy_exchange(&self, peer: NodeId) -> bool {
        self.is_legacy(peer)
            && self.state.cstate(peer) == ConnState::Connecting
            && self
                .conns
                .get(&peer)
                .is_some_and(|c| c.handshake.in_exchange())
    }

    /// A peer without disk sends no identifiers before its first state.
    pub(crate) fn legacy_without_disk(&mut self, peer: NodeId, v: VolumeNr, disk: DiskState) {
        if disk > DiskState::Attaching {
            return;
        }
        if let Some(known) = self.peer_device_mut(peer, v)
            && !known.flags.uuids_received
        {
            known.uuids = PeerUuids::default();
            known.flags.uuids_received = true;
        }
    }

    /// Concludes the exchange when every volume has its first state.
    pub(crate) fn legacy_connected(&mut self, peer: NodeId) {
        if !self.exchange_complete(peer) {
            return;
        }
        match self.handshake_verdict(peer) {
            Some(RetCode::HANDSHAKE_RETRY) => {
                self.handshake_outdate(peer);
                self.fail_connection(peer, ConnState::NetworkFailure, "connect to be tried again");
            }
            Some(code) => {
                self.handshake_outdate(peer);
                self.refuse_peer(peer, &format!("connect refused (code {})", code.0));
            }
            None => {
                self.members.insert(peer);
                if let Err(code) = self.apply_connect(peer, false, NodeMask::EMPTY) {
                    self.refuse_peer(peer, &format!("connect impossible (code {})", code.0));
                }
            }
        }
    }

    // ----- identifiers ----------------------------------------------------------------------------------

    /// P_UUIDS, in the place of P_UUIDS110.
    pub(crate) fn legacy_uuids(&mut self, compose: &Compose, v: VolumeNr) -> Option<Packet> {
        let disk = self.disk_ref(v)?;
        let packet = disk
            .gen_ids
            .compose_legacy(compose.to, compose.dirty_bits, compose.flags);
        Some(Packet::Uuids(packet))
    }

    /// P_UUIDS.
    pub(crate) fn legacy_uuids_packet(&mut self, peer: NodeId, v: VolumeNr, packet: &Uuids) {
        let new = PeerUuids::from_legacy(packet, self.node_id);
        self.uuids_packet(peer, v, new);
    }

    /// The identifier of a resync whose source this node is.
    pub(crate) fn send_sync_uuid(&mut self, peer: NodeId, v: VolumeNr) {
        if !self.is_legacy(peer) {
            return;
        }
        let dagtag = self.data_dagtag();
        let random = self.random_uuid();
        let Some(disk) = self.disk_mut(v) else { return };
        let bitmap = disk.gen_ids.bitmap(peer);
        let uuid = if bitmap.is_none() || bitmap.is_just_created() {
            random
        } else {
            Uuid(bitmap.0.wrapping_add(SYNC_UUID_STEP))
        };
        disk.gen_ids.set_bitmap(peer, uuid, dagtag);
        self.md_touch();
        self.send(peer, Stream::Data, v, Packet::SyncUuid(SyncUuid { uuid }));
    }

    /// Both sides know the target's bitmap, and this node is the target: it waits for P_SYNC_UUID.
    pub(crate) fn await_sync_uuid(&mut self, peer: NodeId, v: VolumeNr) {
        let _ = self.change(ChangeFlags::HARD, |s| {
            if let Some(pd) = s.pd_mut(peer, v) {
                pd.repl = ReplState::WFSyncUUID;
            }
        });
        let early = self
            .peer_device_mut(peer, v)
            .and_then(|known| known.early_sync_uuid.take());
        if let (Some(uuid), ReplState::WFSyncUUID) = (early, self.state.repl(peer, v)) {
            self.sync_uuid_packet(peer, v, SyncUuid { uuid });
        }
    }

    /// P_SYNC_UUID: the resync begins here.
    pub(crate) fn sync_uuid_packet(&mut self, peer: NodeId, v: VolumeNr, packet: SyncUuid) {
        if self.early_sync_uuid(peer, v, packet) {
            return;
        }
        let repl = self.state.repl(peer, v);
        if !matches!(repl, ReplState::WFSyncUUID | ReplState::Behind) {
            self.log_at(
                LogLevel::Warn,
                Some(peer),
                Some(v),
                format!("ignored P_SYNC_UUID while {repl}"),
            );
            return;
        }
        let dagtag = self.data_dagtag();
        let Some(disk) = self.disk_mut(v) else { return };
        disk.gen_ids.set_current(packet.uuid, false);
        disk.gen_ids.set_bitmap(peer, Uuid::NONE, dagtag);
        if let Some(known) = self.peer_device_mut(peer, v) {
            known.flags.unstable_resync = false;
            known.flags.sync_src_crashed_pri =
                known.uuids.flags.contains(UuidFlags::CRASHED_PRIMARY);
            known.start_uuid = packet.uuid;
        }
        self.md_touch();
        if self.may_begin_resync(peer, v, false) {
            self.legacy_target_begins(peer, v);
        }
    }

    /// The resync towards this node begins.
    pub(crate) fn legacy_target_begins(&mut self, peer: NodeId, v: VolumeNr) {
        let _ = self.change(ChangeFlags::HARD, |s| {
            if let Some(pd) = s.pd_mut(peer, v) {
                pd.repl = ReplState::SyncTarget;
            }
        });
    }

    /// A target of the 8 series sends no state when a resync begins; that it ends is known from what was done.
    pub(crate) fn legacy_target_ends(&self, peer: NodeId, v: VolumeNr) -> bool {
        self.is_legacy(peer)
            && self.state.repl(peer, v).is_sync_source()
            && (self.bitmap_weight(peer, v) == 0 || self.data_resync_failed(peer, v))
    }

    /// The target has everything: it says nothing about identifiers, both sides know what they are.
    pub(crate) fn legacy_source_finished(&mut self, peer: NodeId, v: VolumeNr) {
        if !self.is_legacy(peer) || self.data_resync_failed(peer, v) {
            return;
        }
        let own = self.current_uuid(v);
        let dagtag = self.data_dagtag();
        let Some(disk) = self.disk_mut(v) else { return };
        disk.gen_ids.set_bitmap(peer, Uuid::NONE, dagtag);
        if let Some(known) = self.peer_device_mut(peer, v) {
            known.uuids.current = own;
        }
        self.md_touch();
    }

    // ----- state changes --------------------------------------------------------------------------------

    /// Whether a peer of the 8 series has to agree to a change of this node.
    pub(crate) fn legacy_has_a_say(kind: ChangeKind) -> bool {
        match kind {
            ChangeKind::Promote { .. }
            | ChangeKind::Demote { .. }
            | ChangeKind::Disconnect { .. }
            | ChangeKind::Detach { .. }
            | ChangeKind::Resync { .. } => true,
            // An attached disk is announced, and nobody else can be asked about.
            ChangeKind::Attach { .. }
            | ChangeKind::Connect { .. }
            | ChangeKind::Resize { .. }
            | ChangeKind::Empty => false,
        }
    }

    /// Asks the peer to agree.
    pub(crate) fn ask_legacy(&mut self, peer: NodeId, volume: VolumeNr, change: StateChange) {
        let whole = self
            .conns
            .get(&peer)
            .is_some_and(|c| c.apv() >= CONNECTION_REQUESTS);
        let request = StateChgReq { change };
        if !volume.is_connection_wide() {
            return self.send(peer, Stream::Data, volume, Packet::StateChgReq(request));
        }
        if whole {
            self.send(peer, Stream::Data, volume, Packet::ConnStChgReq(request));
        } else {
            let first = VolumeNr::new(0).unwrap_or(volume);
            self.send(peer, Stream::Data, first, Packet::StateChgReq(request));
        }
    }

    /// Primaries among the connected peers of the 8 series, and the nodes that these cannot see.
    pub(crate) fn legacy_primaries(&self) -> (NodeMask, NodeMask) {
        let primaries = self
            .legacy_peers()
            .iter()
            .filter(|n| {
                self.state
                    .conns
                    .get(n)
                    .is_some_and(|c| c.peer_role == Role::Primary)
            })
            .fold(NodeMask::EMPTY, NodeMask::with);
        if primaries.is_empty() {
            return (NodeMask::EMPTY, NodeMask::EMPTY);
        }
        (primaries, !primaries.with(self.node_id))
    }

    /// P_STATE_CHG_REQ and P_CONN_ST_CHG_REQ: answered first, then done.
    pub(crate) fn legacy_request(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        request: &StateChgReq,
    ) -> Result<(), PacketError> {
        if !self.is_legacy(peer) {
            return Err(PacketError::new("a request for a state change from DRBD 9"));
        }
        let whole = volume.is_connection_wide();
        let code = self.legacy_verdict(peer, volume, request.change);
        let reply = StateChgReply {
            code: match code {
                Ok(code) | Err(code) => code.0,
            },
        };
        let packet = if whole {
            Packet::ConnStChgReply(reply)
        } else {
            Packet::StateChgReply(reply)
        };
        self.send(peer, Stream::Control, volume, packet);
        if code.is_err() {
            return Ok(());
        }
        let view = request.change.peer_view();
        if whole
            && view.get_conn() == Some(ConnState::TearDown)
            && let Some(conn) = self.conns.get_mut(&peer)
        {
            conn.flags.disconnect_expected = true;
        }
        let flags = ChangeFlags {
            ignore_outdate_failure: true,
            recalc: true,
            ..ChangeFlags::HARD
        };
        let _ = self.change(flags, |s| {
            crate::twopc::apply_view(s, peer, volume, view);
        });
        Ok(())
    }

    fn legacy_verdict(
        &self,
        peer: NodeId,
        volume: VolumeNr,
        change: StateChange,
    ) -> Result<RetCode, RetCode> {
        if self.twopc.active.is_some() {
            return Err(RetCode::CONCURRENT_ST_CHG);
        }
        let view = change.peer_view();
        let flags = ChangeFlags {
            ignore_outdate_failure: true,
            ..ChangeFlags::SOFT
        };
        self.would_change(flags, |s| {
            crate::twopc::apply_view(s, peer, volume, view);
        })
    }

    /// P_STATE_CHG_REPLY and P_CONN_ST_CHG_REPLY.
    pub(crate) fn legacy_reply(&mut self, peer: NodeId, reply: StateChgReply) {
        if !reply.is_success() {
            self.log_at(
                LogLevel::Info,
                Some(peer),
                None,
                format!("the peer refused the state change (code {reply})"),
            );
            // No resync was begun.
            if let Some(conn) = self.conns.get_mut(&peer) {
                for known in conn.peers.values_mut() {
                    known.early_sync_uuid = None;
                }
            }
        }
        self.initiator_vote(peer, reply.is_success());
    }

    /// Whether a packet means something to this peer; others are not sent.
    pub(crate) fn understands(&self, peer: NodeId, packet: &Packet) -> bool {
        self.conns.get(&peer).is_none_or(|c| {
            c.ctx.is_modern()
                || c.handshake <= Handshake::Features
                || packet.cmd().is_agreed(&c.ctx)
        })
    }
}
