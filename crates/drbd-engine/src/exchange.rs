//! What two nodes tell each other about a volume, and what the first exchange leads to (state machine,
//! sections 6.3 and 6.4; wire protocol, sections 7.2 to 7.5).

use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;

use drbd_proto::packet::{CurrentUuid, EnableReplication, PeerDagtag, SyncParam};
use drbd_proto::{
    AlgName, ConnState, DiskState, Features, NodeId, Packet, ReplState, Role, State as WireState,
    Stream, Uuid, UuidFlags, VolumeNr,
};

use crate::command::RetCode;
use crate::connection::Negotiation;
use crate::effect::LogLevel;
use crate::engine::{Engine, PacketError};
use crate::handshake::Handshake;
use crate::options::OnNoData;
use crate::state::change::ChangeFlags;
use crate::timer::Timer;
use crate::twopc::Active;

/// What the exchange decided for a volume; applied by the commit of the connect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct HandshakeResult {
    /// Replication state to go to; Off: the connect has to be refused.
    pub repl: ReplState,
    /// Role of the peer.
    pub peer_role: Role,
    /// Disk of the peer.
    pub pdisk: DiskState,
    /// The peer pauses resync.
    pub susp_peer: bool,
    /// Own disk becomes Outdated with the commit (state machine, section 7.11).
    pub outdate: bool,
}

impl Engine {
    // ----- sending ------------------------------------------------------------------------------------

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
            user_isp: pd.susp_user,
            susp_nod: s.susp_nod,
            susp_fen: conn.susp_fen,
            quorum: s.devices.get(&v).is_some_and(|d| d.have_quorum),
        }
    }

    /// P_CURRENT_UUID.
    pub(crate) fn send_current_uuid(&mut self, peer: NodeId, v: VolumeNr, uuid: Uuid) {
        let weak_nodes = self.weak_nodes(v);
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

    // ----- the connect transaction --------------------------------------------------------------------

    /// Whether every volume of the connection has its initial state, or a verdict is known.
    pub(crate) fn exchange_complete(&self, peer: NodeId) -> bool {
        let Some(conn) = self.conns.get(&peer) else {
            return false;
        };
        conn.verdict.is_some() || conn.peers.values().all(|k| k.flags.initial_state)
    }

    /// What the exchange found against the connect: HANDSHAKE_RETRY or HANDSHAKE_DISCONNECT.
    pub(crate) fn handshake_verdict(&self, peer: NodeId) -> Option<RetCode> {
        self.conns.get(&peer).and_then(|c| c.verdict)
    }

    /// Notes a verdict; a disconnect outranks a retry.
    pub(crate) fn set_verdict(&mut self, peer: NodeId, verdict: RetCode) {
        if let Some(conn) = self.conns.get_mut(&peer)
            && conn.verdict != Some(RetCode::HANDSHAKE_DISCONNECT)
        {
            conn.verdict = Some(verdict);
        }
    }

    /// The connect transaction was given up; its results mean nothing.
    pub(crate) fn forget_exchange(&mut self, peer: NodeId) {
        let Some(conn) = self.conns.get_mut(&peer) else {
            return;
        };
        if conn.handshake == Handshake::Exchange && self.state.cstate(peer) == ConnState::Connecting
        {
            conn.handshake = Handshake::Ready;
        }
        for known in conn.peers.values_mut() {
            known.flags.initial_state = false;
        }
    }

    /// A node that learned it would have become sync target knows that its data is old (section 6.5).
    pub(crate) fn handshake_outdate(&mut self, peer: NodeId) {
        let secondary = self.state.role == Role::Secondary;
        let force = self.options.force_secondary_when_outdated && self.state.suspended();
        let may = secondary
            || (self.state.suspended() && (self.options.on_no_data == OnNoData::IoError || force));
        if !may {
            return;
        }
        let Some(conn) = self.conns.get(&peer) else {
            return;
        };
        let volumes: Vec<VolumeNr> = conn
            .peers
            .iter()
            .filter(|(_, k)| {
                k.would_be_target
                    || k.handshake_result.is_some_and(|r| {
                        matches!(r.repl, ReplState::WFBitMapT) || r.repl.is_sync_target()
                    })
            })
            .map(|(v, _)| *v)
            .collect();
        if volumes.is_empty() {
            return;
        }
        let _ = self.change(
            ChangeFlags {
                ignore_openers: true,
                ..ChangeFlags::HARD
            },
            |s| {
                for v in volumes {
                    if let Some(d) = s.devices.get_mut(&v)
                        && d.disk > DiskState::Outdated
                    {
                        d.disk = DiskState::Outdated;
                    }
                }
                if force {
                    s.role = Role::Secondary;
                }
            },
        );
    }

    /// The connect is committed: both are members now (section 6.4).
    pub(crate) fn apply_connect(
        &mut self,
        peer: NodeId,
        far_primary: bool,
    ) -> Result<RetCode, RetCode> {
        let Some(conn) = self.conns.get_mut(&peer) else {
            return Err(RetCode::NEED_CONNECTION);
        };
        conn.verdict = None;
        conn.flags.discard_my_data = false;
        let mut results = Vec::new();
        for (v, known) in &mut conn.peers {
            known.flags.discard_my_data = false;
            if let Some(result) = known.handshake_result.take() {
                results.push((*v, result));
            }
        }
        self.timers.cancel(Timer::Handshake(peer));
        self.timers.cancel(Timer::ConnectRetry(peer));
        for (v, result) in &results {
            if self.state.disk(*v) == DiskState::Negotiating
                && let Some(known) = self.peer_device_mut(peer, *v)
            {
                known.negotiation = Negotiation::Repl(result.repl);
            }
        }
        for (v, result) in &mut results {
            if self.follows_at_once(peer, *v, result) {
                result.pdisk = DiskState::UpToDate;
            }
        }
        let role = self.peer_role_in_exchange(peer);
        let flags = ChangeFlags {
            recalc: true,
            ..ChangeFlags::HARD
        };
        self.change(flags, |s| {
            let negotiating: Vec<VolumeNr> = s
                .devices
                .iter()
                .filter(|(_, d)| d.disk == DiskState::Negotiating)
                .map(|(v, _)| *v)
                .collect();
            for (v, result) in &results {
                if (result.outdate || far_primary)
                    && let Some(d) = s.devices.get_mut(v)
                    && d.disk > DiskState::Outdated
                {
                    d.disk = DiskState::Outdated;
                }
            }
            let Some(conn) = s.conns.get_mut(&peer) else {
                return;
            };
            conn.cstate = ConnState::Connected;
            conn.peer_role = role;
            for (v, result) in results {
                let Some(pd) = conn.peers.get_mut(&v) else {
                    continue;
                };
                pd.repl = if negotiating.contains(&v) {
                    ReplState::Established
                } else {
                    result.repl
                };
                pd.pdisk = result.pdisk;
                pd.susp_peer = result.susp_peer;
            }
        })
    }

    /// Whether the peer's disk becomes UpToDate by the same commit, because it has this node's data (state
    /// machine, section 3.4, E7 and E9). It says so a moment later; a write that is not sent to it until
    /// then would be missing there, and nothing would ever bring it (a deviation: the reference waits for
    /// the state packet).
    fn follows_at_once(&self, peer: NodeId, v: VolumeNr, result: &HandshakeResult) -> bool {
        result.repl == ReplState::Established
            && matches!(result.pdisk, DiskState::Outdated | DiskState::Consistent)
            && self.state.disk(v) == DiskState::UpToDate
            && self.stable(&self.state, v).0
            && !result.outdate
            && self.same_generation(peer, v)
    }

    fn peer_role_in_exchange(&self, peer: NodeId) -> Role {
        self.conns
            .get(&peer)
            .map_or(Role::Secondary, |c| c.exchange_role)
    }

    /// Whether a connect transaction between this node and `peer` is under way.
    fn connect_transaction(&self, peer: NodeId) -> bool {
        match &self.twopc.active {
            Some(Active::Initiator(i)) => {
                i.request.kind == crate::twopc::ChangeKind::Connect { peer }
            }
            Some(Active::Participant(p)) => p.is_connect && p.initiator == peer,
            None => false,
        }
    }

    // ----- receiving ----------------------------------------------------------------------------------

    /// P_STATE.
    pub(crate) fn state_packet(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        state: &WireState,
    ) -> Result<(), PacketError> {
        if volume.is_connection_wide() {
            if state.role == Role::Secondary && self.state.cstate(peer) == ConnState::Connected {
                let _ = self.change(ChangeFlags::HARD, |s| {
                    if let Some(c) = s.conns.get_mut(&peer) {
                        c.peer_role = Role::Secondary;
                    }
                });
            }
            return Ok(());
        }
        let Some(known) = self.peer_device_mut(peer, volume) else {
            self.unknown_volume(peer, volume);
            return Ok(());
        };
        known.flags.quorate = state.quorum;
        if !known.options.bitmap && state.disk > DiskState::Diskless {
            self.refuse_peer(
                peer,
                "the peer has a disk although it is configured without bitmap",
            );
            return Ok(());
        }
        let pdisk = match state.disk {
            DiskState::Negotiating if known.uuids.flags.contains(UuidFlags::INCONSISTENT) => {
                DiskState::Inconsistent
            }
            DiskState::Negotiating => DiskState::Consistent,
            other => other,
        };
        // Its first state as a member: a peer that drops left-over bits did not decide for a resync.
        let first = known
            .last_state
            .is_none_or(|before| before.conn < ConnState::Connected);
        let agrees = !first || state.repl != ReplState::Established;
        let was_target = known.last_state.is_some_and(|before| {
            before.repl.is_sync_target() || before.repl == ReplState::WFBitMapT
        });
        known.last_state = Some(*state);
        let was_target = was_target || self.legacy_target_ends(peer, volume);
        if self.state.cstate(peer) == ConnState::Connected {
            // Or it became the target of another node meanwhile, and will not take part in this resync.
            let elsewhere = !was_target
                && state.repl == ReplState::Established
                && pdisk == DiskState::Inconsistent
                && self.state.pdisk(peer, volume) > DiskState::Inconsistent;
            if !agrees || elsewhere {
                self.give_up_leftover(peer, volume);
            }
            return self.state_of_member(peer, volume, state, pdisk, was_target);
        }
        let legacy = self.in_legacy_exchange(peer);
        if !legacy && !self.connect_transaction(peer) {
            return Ok(());
        }
        if legacy {
            self.legacy_without_disk(peer, volume, pdisk);
            self.initial_state(peer, volume, state, pdisk);
            self.legacy_connected(peer);
            return Ok(());
        }
        self.initial_state(peer, volume, state, pdisk);
        self.twopc_settle();
        Ok(())
    }

    /// The reference drops bits that we would compare: there is no resync with such a peer.
    fn give_up_leftover(&mut self, peer: NodeId, v: VolumeNr) {
        let waits = matches!(
            self.state.repl(peer, v),
            ReplState::WFBitMapS | ReplState::WFBitMapT
        );
        let leftover = self
            .peer_device(peer, v)
            .is_some_and(|k| k.flags.reconciliation_resync);
        if waits && leftover {
            let _ = self.change(ChangeFlags::HARD, |s| {
                if let Some(pd) = s.pd_mut(peer, v) {
                    pd.repl = ReplState::Established;
                }
            });
        }
    }

    /// The state that completes a volume's exchange.
    fn initial_state(&mut self, peer: NodeId, v: VolumeNr, state: &WireState, pdisk: DiskState) {
        let susp_peer = state.aftr_isp || state.user_isp;
        let Some(known) = self.peer_device_mut(peer, v) else {
            return;
        };
        if !known.flags.uuids_received {
            return;
        }
        known.flags.initial_state = true;
        if let Some(result) = &mut known.handshake_result {
            // The first one decided; later ones only update the pause.
            result.susp_peer = susp_peer;
            return;
        }
        if let Some(conn) = self.conns.get_mut(&peer) {
            conn.exchange_role = state.role;
        }
        match self.decide(peer, v, state, pdisk) {
            Ok((repl, pdisk, outdate)) => {
                let result = HandshakeResult {
                    repl,
                    peer_role: state.role,
                    pdisk,
                    susp_peer,
                    outdate,
                };
                if let Some(known) = self.peer_device_mut(peer, v) {
                    known.handshake_result = Some(result);
                }
            }
            Err(verdict) => self.set_verdict(peer, verdict),
        }
        // The wait for the exchange is over; what follows is bounded by twopc-timeout.
        if self.exchange_complete(peer) {
            self.timers.cancel(Timer::Handshake(peer));
        }
    }

    /// A state packet of a connected peer (wire protocol, section 11.5). `was_target`: its last one said that
    /// it is, or is about to be, the target of a resync.
    fn state_of_member(
        &mut self,
        peer: NodeId,
        v: VolumeNr,
        state: &WireState,
        pdisk: DiskState,
        was_target: bool,
    ) -> Result<(), PacketError> {
        let old = self.state.pd(peer, v).cloned().unwrap_or_default();
        let old_pdisk = old.pdisk;
        let mut repl = old.repl;
        let mut pdisk = pdisk;
        let has_disk = self.local_disk_at_least(v, DiskState::Negotiating);

        if repl == ReplState::Off && state.repl <= ReplState::Off {
            return self.hot_add(peer, v, state, pdisk);
        }
        // Each takes the other one for the target, and nobody asks for anything.
        if old.is_sync_source()
            && matches!(state.repl, ReplState::SyncSource | ReplState::PausedSyncS)
        {
            self.fail_connection(
                peer,
                ConnState::NetworkFailure,
                "both sides are the source of a resync",
            );
            return Ok(());
        }
        // The end of a resync, seen by its source. A packet from before the resync says the same.
        if old.is_sync_source()
            && was_target
            && state.repl == ReplState::Established
            && matches!(old_pdisk, DiskState::Inconsistent | DiskState::Consistent)
            && pdisk >= DiskState::Inconsistent
        {
            return self.source_finished(peer, v, state, pdisk);
        }
        // The target is done before we even left the bitmap exchange.
        if old.repl == ReplState::WFBitMapS
            && was_target
            && state.repl == ReplState::Established
            && let Some(known) = self.peer_device_mut(peer, v)
        {
            known.finished_early = pdisk == DiskState::UpToDate;
        }
        if state.repl == ReplState::Ahead && repl == ReplState::Established {
            repl = ReplState::Behind;
        }
        if state.repl == ReplState::SyncSource && repl == ReplState::Behind {
            repl = ReplState::SyncTarget;
        }
        if old.repl == ReplState::VerifyT && state.repl == ReplState::Established {
            self.data_verify_finished(peer, v);
            repl = ReplState::Established;
        }
        let consider = {
            let peer_starts = matches!(
                state.repl,
                ReplState::StartingSyncS | ReplState::StartingSyncT
            );
            let attached = state.disk == DiskState::Negotiating
                || self.state.disk(v) == DiskState::Negotiating;
            let flagged = self
                .peer_device(peer, v)
                .is_some_and(|k| k.flags.consider_resync);
            let crashed_waits = state.repl == ReplState::WFBitMapT
                && self
                    .peer_device(peer, v)
                    .is_some_and(|k| k.uuids.flags.contains(UuidFlags::CRASHED_PRIMARY))
                && !old.is_sync_source()
                && old.repl == ReplState::Established;
            (attached && repl == ReplState::Established)
                || flagged
                || (peer_starts && repl == ReplState::Established)
                || crashed_waits
        };
        let peer_diskful = pdisk >= DiskState::Inconsistent && pdisk != DiskState::Unknown;
        if consider && has_disk && peer_diskful && repl == ReplState::Established {
            if let Some(known) = self.peer_device_mut(peer, v) {
                known.flags.consider_resync = false;
            }
            match self.decide(peer, v, state, pdisk) {
                Ok((decided, decided_pdisk, _)) => {
                    pdisk = decided_pdisk;
                    if self.state.disk(v) == DiskState::Negotiating {
                        if let Some(known) = self.peer_device_mut(peer, v) {
                            known.negotiation = Negotiation::Repl(decided);
                        }
                    } else {
                        repl = decided;
                    }
                }
                Err(_) if self.state.disk(v) == DiskState::Negotiating => {
                    if let Some(known) = self.peer_device_mut(peer, v) {
                        known.negotiation = Negotiation::NoResult;
                    }
                }
                Err(_) if state.disk == DiskState::Negotiating => pdisk = DiskState::Negotiating,
                Err(code) => {
                    self.refuse_peer(peer, &format!("volume {v}: cannot go on (code {})", code.0));
                    return Ok(());
                }
            }
        }
        // The peer may not know yet that there is something to sync (wire protocol, section 11.5).
        let unaware = old.repl == ReplState::Established
            && matches!(repl, ReplState::WFBitMapS | ReplState::WFBitMapT)
            && state.repl <= ReplState::Established;
        let susp_peer = state.aftr_isp || state.user_isp;
        let role = state.role;
        let result = self.change(
            ChangeFlags {
                recalc: true,
                ..ChangeFlags::HARD
            },
            |s| {
                let Some(conn) = s.conns.get_mut(&peer) else {
                    return;
                };
                conn.peer_role = role;
                let Some(pd) = conn.peers.get_mut(&v) else {
                    return;
                };
                pd.repl = repl;
                pd.pdisk = pdisk;
                pd.susp_peer = susp_peer;
            },
        );
        if let Err(code) = result {
            self.log_at(
                LogLevel::Warn,
                Some(peer),
                Some(v),
                format!("cannot apply the peer's state: code {}", code.0),
            );
        } else if unaware {
            self.send_uuids(peer, v, UuidFlags::NONE);
            self.send_state(peer, v);
        }
        Ok(())
    }

    /// A volume that the peer created on an established connection (section 6.7).
    fn hot_add(
        &mut self,
        peer: NodeId,
        v: VolumeNr,
        state: &WireState,
        pdisk: DiskState,
    ) -> Result<(), PacketError> {
        let first = self.peer_device(peer, v).is_some_and(|k| !k.hot_added);
        if first {
            if let Some(known) = self.peer_device_mut(peer, v) {
                known.hot_added = true;
            }
            self.send_volume_parameters(peer, v);
        }
        let Some(known) = self.peer_device(peer, v) else {
            return Ok(());
        };
        if !known.flags.uuids_received {
            return Ok(());
        }
        let (repl, pdisk, _) = match self.decide(peer, v, state, pdisk) {
            Ok(decided) => decided,
            Err(code) => {
                self.refuse_peer(
                    peer,
                    &format!("volume {v}: cannot connect (code {})", code.0),
                );
                return Ok(());
            }
        };
        let role = state.role;
        let _ = self.change(ChangeFlags::HARD, |s| {
            let Some(conn) = s.conns.get_mut(&peer) else {
                return;
            };
            conn.peer_role = role;
            if let Some(pd) = conn.peers.get_mut(&v) {
                pd.repl = repl;
                pd.pdisk = pdisk;
            }
        });
        Ok(())
    }

    /// Parameters of a volume this node does not have are skipped (wire protocol, section 7.7).
    pub(crate) fn unknown_volume(&mut self, peer: NodeId, v: VolumeNr) {
        self.log_at(
            LogLevel::Warn,
            Some(peer),
            None,
            format!("ignored a packet about volume {v}, which is not configured here"),
        );
    }
}
