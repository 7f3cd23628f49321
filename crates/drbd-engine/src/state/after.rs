//! What a change causes after it took effect (state machine, section 3.8): packets, bitmap writes, follow-up
//! changes. Runs when the event that made the change has been handled, in the order of the changes.

use alloc::vec::Vec;

use drbd_proto::Packet;
use drbd_proto::{
    ConnState, Dagtag, DiskState, NodeId, ReplState, Role, State as WireState, Stream, Uuid,
    UuidFlags, VolumeNr,
};

use crate::engine::Engine;
use crate::state::State;
use crate::state::sanitize::Derived;
use crate::upcall::Handler;

/// A committed change whose consequences are still to be drawn.
#[derive(Clone, Debug)]
pub(crate) struct Deferred {
    /// The state before.
    pub old: State,
    /// The state after.
    pub new: State,
    /// What the derivation found out.
    pub derived: Derived,
}

impl Engine {
    /// Draws the consequences of the changes of this event.
    pub(crate) fn run_deferred(&mut self) {
        while let Some(done) = self.deferred.pop_front() {
            self.after_change(&done);
        }
    }

    fn after_change(&mut self, done: &Deferred) {
        let volumes: Vec<VolumeNr> = done.new.devices.keys().copied().collect();
        let peers: Vec<NodeId> = done.new.conns.keys().copied().collect();
        for &v in &volumes {
            for &peer in &peers {
                if self.state.cstate(peer) == ConnState::Connected {
                    self.after_peer_device(done, peer, v);
                }
            }
            self.after_device(done, v);
        }
        self.after_resource(done);
        self.watch_stuck_disks();
        self.update_limits();
    }

    fn after_peer_device(&mut self, done: &Deferred, peer: NodeId, v: VolumeNr) {
        let (old, new) = (&done.old, &done.new);
        let was = old.pd(peer, v).cloned().unwrap_or_default();
        let Some(is) = new.pd(peer, v).cloned() else {
            return;
        };
        let (disk_was, disk_is) = (old.disk(v), new.disk(v));
        let known = |p: DiskState| p != DiskState::Unknown;
        let connects = was.repl < ReplState::Established && is.repl >= ReplState::Established;

        // Connected or attached without resync: both have the same data now.
        if disk_is >= DiskState::Outdated
            && is.repl == ReplState::Established
            && ((was.repl < ReplState::Established
                && is.pdisk >= DiskState::Outdated
                && known(is.pdisk))
                || (was.pdisk <= DiskState::Negotiating
                    && is.pdisk >= DiskState::Outdated
                    && known(is.pdisk)))
            && self.same_generation(peer, v)
        {
            self.drop_bitmap_uuid(peer, v);
        }

        if connects && is.repl == ReplState::Established {
            self.fetch_grown(peer, v);
        }

        // A paused resync that another source made superfluous: both have its data now (section 9.3).
        let paused = matches!(was.repl, ReplState::PausedSyncS | ReplState::PausedSyncT);
        if paused
            && is.repl == ReplState::Established
            && disk_is == DiskState::UpToDate
            && is.pdisk == DiskState::UpToDate
            && self.same_generation(peer, v)
        {
            // The generation the peer comes from is an ancestor, as at the end of any resync.
            if let Some(disk) = self.disk_mut(v) {
                disk.gen_ids.set_bitmap(peer, Uuid::NONE, Dagtag::ZERO);
            }
            self.drop_bitmap_uuid(peer, v);
        }

        let resync_finished_elsewhere = new.peers_of(v).any(|(n, _, pd)| {
            let before = old.repl(n, v);
            before.is_sync() && pd.repl == ReplState::Established
        });
        let stable_was = self.stable(old, v);
        let stable_is = self.stable(new, v);
        let uuid_differs = self
            .peer_device(peer, v)
            .is_some_and(|k| connects && !k.sent.current.same(self.resolved_uuid(peer, v).0));
        let finished_as_target = new
            .peers_of(v)
            .any(|(n, _, pd)| old.repl(n, v).is_sync_target() && pd.repl == ReplState::Established);
        if is.repl > ReplState::Off
            && ((resync_finished_elsewhere && !finished_as_target && known(is.pdisk))
                || uuid_differs
                || stable_was != stable_is)
        {
            self.send_uuids(peer, v, UuidFlags::NONE);
        }

        self.generation_for_diskless_peer(peer, v, done);

        // The peer attached a disk.
        let attached = if self.is_legacy(peer) {
            // Nobody was asked about it: only the state packet says it, and by then it is decided what that disk is. The
            // peer cannot decide before it has heard of this one.
            !connects && was.pdisk < DiskState::Negotiating && known(is.pdisk)
        } else {
            was.pdisk < DiskState::Negotiating && is.pdisk == DiskState::Negotiating
        };
        if attached {
            self.send_uuids(peer, v, UuidFlags::NONE);
            self.send_state(peer, v);
        }
        // Our own attach while Connected.
        if disk_was == DiskState::Attaching && disk_is >= DiskState::Negotiating {
            self.send_sizes(peer, v, 0);
            self.send_uuids(peer, v, UuidFlags::NONE);
            self.send_state(peer, v);
        }
        if is.repl == ReplState::StartingSyncT && was.repl != is.repl {
            self.start_full_sync(peer, v, false);
        }
        if is.repl == ReplState::StartingSyncS && was.repl != is.repl {
            self.start_full_sync(peer, v, true);
        }

        let paused = |pd: &crate::state::PeerDeviceState| {
            let limited = pd.susp_max_parallel;
            (pd.susp_user, pd.susp_dependency, pd.susp_other_c, limited)
        };
        let pausing = paused(&was) != paused(&is);
        let resync_started = !(ReplState::SyncSource..=ReplState::PausedSyncT).contains(&was.repl)
            && (ReplState::SyncSource..=ReplState::PausedSyncT).contains(&is.repl);
        let target_finished = was.repl.is_sync_target() && is.repl == ReplState::Established;
        if was.repl == ReplState::SyncSource && is.repl == ReplState::Established {
            self.expect_last_in_sync_step(peer, v);
        }
        let own_disk_changed = disk_is >= DiskState::Inconsistent
            && disk_was != disk_is
            && was.repl >= ReplState::Established
            && is.repl >= ReplState::Established
            && !(old.role != Role::Primary && new.role == Role::Primary);
        let quorum_changed = old.devices.get(&v).map(|d| d.have_quorum)
            != new.devices.get(&v).map(|d| d.have_quorum)
            && disk_is >= DiskState::Inconsistent;
        if resync_started
            || pausing
            || target_finished
            || connects
            || (is.repl == ReplState::Ahead && was.repl != is.repl)
            || own_disk_changed
            || quorum_changed
        {
            self.send_state(peer, v);
        }

        // Offer data that became trustworthy (section 9.7, 2).
        let was_target = old.peers_of(v).any(|(_, _, pd)| pd.is_sync_target());
        let is_target = new.peers_of(v).any(|(_, _, pd)| pd.is_sync_target());
        let became_stable =
            (!stable_was.0 && stable_is.0) || (was_target && !is_target && stable_is.0);
        let old_role = old.conns.get(&peer).map_or(Role::Unknown, |c| c.peer_role);
        if became_stable
            && !was.repl.is_sync_target()
            && old_role != Role::Primary
            && disk_is >= DiskState::Outdated
            && is.repl >= ReplState::Established
        {
            self.send_uuids(peer, v, UuidFlags::GOT_STABLE);
        }

        if !was.peer_replication && is.peer_replication && is.repl >= ReplState::Established {
            self.send_enable_replication(peer, v);
        }
    }

    fn after_device(&mut self, done: &Deferred, v: VolumeNr) {
        let (old, new) = (&done.old, &done.new);
        let (was, is) = (old.disk(v), new.disk(v));
        let resync_ended = new.peers_of(v).any(|(n, _, pd)| {
            let before = old.repl(n, v);
            (before.is_sync() || before.is_verify()) && !pd.repl.is_sync() && !pd.repl.is_verify()
        });
        let demotion = (old.role == Role::Primary && new.role != Role::Primary)
            || (old.any_peer_primary() && !new.any_peer_primary());
        if resync_ended || demotion {
            self.data_bitmap_writeout(v);
        }
        // A disk that got better through one source tells everybody.
        let finished = new.peers_of(v).any(|(n, _, pd)| {
            old.repl(n, v) >= ReplState::SyncSource && pd.repl == ReplState::Established
        });
        if was < DiskState::UpToDate && finished {
            self.send_state_all(v);
        }
        if was == DiskState::UpToDate && is == DiskState::Inconsistent {
            self.send_state_all(v);
        }
        if was > DiskState::Failed && matches!(is, DiskState::Failed | DiskState::Detaching) {
            if is == DiskState::Failed && new.role == Role::Primary {
                self.new_uuid_now_if_due(v);
            }
            self.send_state_all(v);
            self.data_bitmap_writeout(v);
            self.data_detach(v);
        }
        if was > DiskState::Diskless && is == DiskState::Diskless {
            self.send_state_all(v);
        }
        for (n, _, pd) in new.peers_of(v) {
            let before = old.pdisk(n, v);
            if before == DiskState::UpToDate
                && matches!(pd.pdisk, DiskState::Failed | DiskState::Inconsistent)
            {
                self.new_uuid_now_if_due(v);
            }
        }
        // It may return, perhaps, or a peer's disk has come that could have been newer.
        let came = new.peers_of(v).any(|(n, _, pd)| {
            let before = old.pd(n, v).filter(|b| b.repl >= ReplState::Established);
            let attached = before.is_some_and(|b| b.pdisk < DiskState::Inconsistent);
            attached && pd.pdisk >= DiskState::Inconsistent && pd.pdisk != DiskState::Unknown
        });
        if is == DiskState::Consistent && (was == DiskState::UpToDate || came) {
            self.want_empty_twopc();
        }
        if done.derived.lost_data.contains(&v) {
            let peers: Vec<NodeId> = new.peers_of(v).map(|(n, _, _)| n).collect();
            for peer in peers {
                self.call(Handler::PriOnInconDegr, Some(peer), Some(v));
            }
        }
        let quorum = |s: &State| s.devices.get(&v).is_none_or(|d| d.have_quorum);
        if new.role == Role::Primary && quorum(old) && !quorum(new) {
            self.call(Handler::QuorumLost, None, Some(v));
        }
        self.watch_bitmap_exchange(v);
        if done.derived.get_resynced.contains(&v) {
            self.get_resynced(v);
        }
        self.maybe_persist_size(v);
    }

    fn after_resource(&mut self, done: &Deferred) {
        let (old, new) = (&done.old, &done.new);
        if old.role == Role::Primary && new.role == Role::Secondary {
            self.clear_primary_bit();
            self.send_demotion();
        }
        self.after_fencing(done);
        if new.susp_uuid && !old.susp_uuid {
            let volumes: Vec<VolumeNr> = self.volumes.keys().copied().collect();
            for v in volumes {
                self.new_uuid_now_if_due(v);
            }
            let _ = self.change(super::change::ChangeFlags::HARD, |s| s.susp_uuid = false);
        }
    }

    /// A demotion is announced for the connection as a whole and for every volume (wire protocol, 11.5).
    fn send_demotion(&mut self) {
        let peers: Vec<NodeId> = self.connected_nodes().iter().collect();
        for peer in peers {
            if self.conns.get(&peer).is_some_and(|c| c.ctx.is_modern()) {
                let state = WireState {
                    role: Role::Secondary,
                    ..WireState::INITIAL
                };
                self.send(
                    peer,
                    Stream::Data,
                    VolumeNr::CONNECTION,
                    Packet::State(state),
                );
            }
            let volumes: Vec<VolumeNr> = self.volumes.keys().copied().collect();
            for v in volumes {
                self.send_state(peer, v);
            }
        }
    }
}
