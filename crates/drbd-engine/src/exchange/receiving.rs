//! State packets: the one that ends the exchange, and those of members (wire protocol, section 11.5).

use alloc::format;

use drbd_proto::{
    ConnState, DiskState, NodeId, ReplState, Role, State as WireState, UuidFlags, VolumeNr,
};

use crate::connection::Negotiation;
use crate::effect::LogLevel;
use crate::engine::{Engine, PacketError};
use crate::state::PeerDeviceState;
use crate::state::change::ChangeFlags;
use crate::timer::Timer;

use super::HandshakeResult;

impl Engine {
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
            self.follow_attached(peer, volume, pdisk);
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
    pub(super) fn initial_state(
        &mut self,
        peer: NodeId,
        v: VolumeNr,
        state: &WireState,
        pdisk: DiskState,
    ) {
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

        let known = self
            .peer_device(peer, v)
            .is_some_and(|k| k.flags.uuids_received);
        if repl == ReplState::Off && (state.repl <= ReplState::Off || known) {
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
        if self.attached_unseen(peer, v, &old, pdisk, state) {
            let text = "both sides attached their disks at the same time";
            self.fail_connection(peer, ConnState::NetworkFailure, text);
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
            && let Some(known) = self.peer_device_mut(peer, v)
        {
            // It says so again when its disk changes.
            let again = known.finished_early.is_some();
            let ended = state.repl == ReplState::Established && (again || was_target);
            known.finished_early = ended.then_some((*state, pdisk));
        }
        // It begins to fetch the area by which the device has grown (section 15.5).
        if repl == ReplState::Established
            && state.repl.is_sync_target()
            && self
                .peer_device(peer, v)
                .is_some_and(|k| k.flags.grow_source)
        {
            repl = ReplState::SyncSource;
        }
        let follows = old.is_sync_target()
            || matches!(
                repl,
                ReplState::Established | ReplState::VerifyS | ReplState::VerifyT
            );
        if state.repl == ReplState::Ahead && follows {
            repl = ReplState::Behind;
        }
        // It lets this node catch up (section 9.9): it sends data again from now on.
        let catches_up = repl == ReplState::Behind
            && matches!(state.repl, ReplState::SyncSource | ReplState::PausedSyncS)
            && !self.is_legacy(peer);
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
            && state.repl <= ReplState::Established
            // It is told with the rest of what an attaching disk waits for.
            && !(state.disk == DiskState::Negotiating && self.is_legacy(peer));
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
                if let Some(d) = s.devices.get_mut(&v).filter(|_| catches_up) {
                    d.disk = DiskState::Inconsistent;
                }
            },
        );
        if catches_up {
            self.resync_start(peer, v);
        }
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

    /// Whether both disks came while neither side saw the other's, so that nobody compared them (section 8.10).
    /// With equal generations and no marks there is nothing to compare. (A deviation: the reference takes such
    /// disks for replicas of each other.)
    fn attached_unseen(
        &self,
        peer: NodeId,
        v: VolumeNr,
        old: &PeerDeviceState,
        pdisk: DiskState,
        state: &WireState,
    ) -> bool {
        let came = old.pdisk < DiskState::Negotiating
            && pdisk >= DiskState::Inconsistent
            && pdisk != DiskState::Unknown;
        let idle = old.repl == ReplState::Established && state.repl == ReplState::Established;
        let marks = self
            .peer_device(peer, v)
            .map_or(0, |known| known.uuids.dirty_bits);
        came && idle
            && state.disk != DiskState::Negotiating
            && self.local_disk_at_least(v, DiskState::Inconsistent)
            && !(self.same_generation(peer, v) && marks == 0 && self.bitmap_weight(peer, v) == 0)
    }

    /// A volume that the peer created on an established connection (section 6.7).
    fn hot_add(
        &mut self,
        peer: NodeId,
        v: VolumeNr,
        state: &WireState,
        pdisk: DiskState,
    ) -> Result<(), PacketError> {
        // What this node sent when it created the volume itself may have come to a peer that did not have it then.
        if state.repl <= ReplState::Off {
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
