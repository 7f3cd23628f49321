//! What a volume learns from its peers, and they from it (state machine, section 3.4, block E).

use alloc::vec::Vec;

use drbd_proto::{ConnState, DiskState, NodeId, ReplState, Role, UuidFlags, VolumeNr};

use super::Derived;
use crate::engine::Engine;
use crate::rows::Row;
use crate::state::{PeerDeviceState, State};

/// Limits of the own and the peer's disk that a replication state implies (block E, rule 5).
fn clamp_range(repl: ReplState) -> ((DiskState, DiskState), (DiskState, DiskState)) {
    use DiskState::{Consistent, Diskless, Inconsistent, Outdated, Unknown, UpToDate};
    match repl {
        ReplState::Off => ((Diskless, UpToDate), (Inconsistent, Unknown)),
        ReplState::Established => ((Diskless, UpToDate), (Diskless, UpToDate)),
        ReplState::StartingSyncT
        | ReplState::WFBitMapT
        | ReplState::WFSyncUUID
        | ReplState::Behind => ((Inconsistent, Outdated), (Inconsistent, UpToDate)),
        ReplState::SyncTarget | ReplState::PausedSyncT => {
            ((Inconsistent, Inconsistent), (Inconsistent, UpToDate))
        }
        ReplState::StartingSyncS
        | ReplState::WFBitMapS
        | ReplState::PausedSyncS
        | ReplState::Ahead => ((Inconsistent, UpToDate), (Inconsistent, Consistent)),
        ReplState::SyncSource => ((Inconsistent, UpToDate), (Inconsistent, Inconsistent)),
        ReplState::VerifyS | ReplState::VerifyT => {
            ((Inconsistent, UpToDate), (Inconsistent, UpToDate))
        }
    }
}

impl Engine {
    /// Block E.
    pub(super) fn sanitize_peers_second(
        &self,
        new: &mut State,
        v: VolumeNr,
        derived: &mut Derived,
    ) {
        let peers: Vec<NodeId> = new.conns.keys().copied().collect();
        for &peer in &peers {
            self.sanitize_peer_resync(new, peer, v);
        }
        for &peer in &peers {
            self.sanitize_peer_disk(new, peer, v, derived);
        }
        for &peer in &peers {
            self.sanitize_replication(new, peer, v);
        }
    }

    /// Block E, rules 1 to 6: pausing, and the limits a replication state sets to the disks.
    fn sanitize_peer_resync(&self, new: &mut State, peer: NodeId, v: VolumeNr) {
        let old = self.state.pd(peer, v).cloned().unwrap_or_default();
        let target_elsewhere = new
            .peers_of(v)
            .any(|(n, _, pd)| n != peer && pd.is_sync_target());
        let disk = new.disk(v);
        let legacy = self.conns.get(&peer).is_some_and(|c| !c.ctx.is_modern());
        let Some(pd) = new.pd_mut(peer, v) else {
            return;
        };
        if pd.repl == ReplState::SyncSource && old.repl != ReplState::SyncSource && target_elsewhere
        {
            self.note(Row::E1);
            pd.susp_other_c = true;
        }
        let comb_dep = pd.susp_dependency
            || pd.susp_other_c
            || (pd.is_sync_source() && disk <= DiskState::Inconsistent);
        let suspended = pd.susp_user || pd.susp_peer || pd.susp_max_parallel || comb_dep;
        match pd.repl {
            ReplState::SyncSource if suspended => {
                self.note(Row::E2a);
                pd.repl = ReplState::PausedSyncS;
            }
            ReplState::PausedSyncS if !suspended => {
                self.note(Row::E2b);
                pd.repl = ReplState::SyncSource;
            }
            _ => {}
        }
        let entering_full = pd.repl == ReplState::StartingSyncT && old.repl != pd.repl;
        let repl = pd.repl;
        if legacy
            && (ReplState::Established..ReplState::Ahead).contains(&repl)
            && pd.pdisk == DiskState::Consistent
        {
            self.note(Row::E4b);
            pd.pdisk = DiskState::UpToDate;
        }
        let ((min, max), (pmin, pmax)) = clamp_range(repl);
        let pdisk = pd.pdisk.clamp(pmin, pmax);
        if pdisk != pd.pdisk {
            self.limited(repl);
        }
        pd.pdisk = pdisk;
        if old.pdisk == DiskState::Diskless
            && matches!(pd.pdisk, DiskState::Failed | DiskState::Detaching)
        {
            self.note(Row::E6);
            pd.pdisk = DiskState::Diskless;
        }
        if let Some(device) = new.devices.get_mut(&v) {
            if legacy
                && (ReplState::Established..ReplState::Ahead).contains(&repl)
                && device.disk == DiskState::Consistent
            {
                self.note(Row::E4a);
                device.disk = DiskState::UpToDate;
            }
            // Going away is not held back by a resync that ends with it.
            if device.disk != DiskState::Detaching && device.disk != DiskState::Failed {
                let disk = device.disk.clamp(min, max);
                if disk != device.disk {
                    self.limited(repl);
                }
                device.disk = disk;
            }
        }
        if entering_full {
            for (n, conn) in &mut new.conns {
                if *n == peer {
                    continue;
                }
                if let Some(other) = conn.peers.get_mut(&v)
                    && other.repl == ReplState::Established
                    && other.pdisk >= DiskState::Inconsistent
                    && other.pdisk != DiskState::Unknown
                {
                    self.note(Row::E3);
                    other.repl = ReplState::PausedSyncT;
                }
            }
        }
    }

    /// A replication state has changed the state of a disk. Those without a row here come after rules that leave nothing
    /// to be limited.
    fn limited(&self, repl: ReplState) {
        match repl {
            ReplState::StartingSyncT
            | ReplState::WFBitMapT
            | ReplState::WFSyncUUID
            | ReplState::Behind => self.note(Row::E5a),
            ReplState::SyncTarget | ReplState::PausedSyncT => self.note(Row::E5b),
            ReplState::StartingSyncS
            | ReplState::WFBitMapS
            | ReplState::PausedSyncS
            | ReplState::Ahead => self.note(Row::E5c),
            ReplState::SyncSource => self.note(Row::E5d),
            ReplState::Off | ReplState::Established | ReplState::VerifyS | ReplState::VerifyT => {}
        }
    }

    /// Block E, rules 7 to 13: what the own disk learns from a peer.
    fn sanitize_peer_disk(
        &self,
        new: &mut State,
        peer: NodeId,
        v: VolumeNr,
        derived: &mut Derived,
    ) {
        let old_pd = self.state.pd(peer, v).cloned().unwrap_or_default();
        let Some(pd) = new.pd(peer, v).cloned() else {
            return;
        };
        let peer_role = new.conns.get(&peer).map_or(Role::Unknown, |c| c.peer_role);
        let old_role = self
            .state
            .conns
            .get(&peer)
            .map_or(Role::Unknown, |c| c.peer_role);
        let Some(known) = self.peer_device(peer, v) else {
            return;
        };
        let stable = known.uuids.flags.contains(UuidFlags::STABLE);
        let got_stable = known.uuids.flags.contains(UuidFlags::GOT_STABLE);
        let disk = new.disk(v);
        let mut set = None;
        // Known differences are made up for by a resync.
        let no_bits = self.bitmap_weight(peer, v) == 0 && known.uuids.dirty_bits == 0;
        let lifted = old_pd.pdisk == DiskState::Outdated;
        // Only this Primary keeps the peer from being stable: both go on together, before anything is written (a
        // deviation: in the reference nothing lifts the peer either).
        let with_mine = new.role == Role::Primary
            && old_pd.repl == ReplState::Established
            && lifted
            && pd.pdisk == DiskState::UpToDate
            && no_bits
            && self.same_generation(peer, v);
        // About to be the target of another one, which would take it back at once: two such nodes would follow each other
        // up and down (a deviation).
        let held = pd.pdisk == DiskState::Consistent
            && new.peers_of(v).any(|(n, _, other)| {
                n != peer && clamp_range(other.repl).0.1 == DiskState::Outdated
            });
        if pd.repl == ReplState::Established
            && disk == DiskState::Outdated
            && pd.pdisk >= DiskState::Consistent
            && !held
            && known.flags.uuids_received
            && (with_mine
                || stable
                    && (old_pd.repl < ReplState::Established
                        || ((got_stable || lifted) && no_bits)))
        {
            self.note(match old_pd.repl < ReplState::Established {
                _ if with_mine => Row::E7c,
                true => Row::E7a,
                false => Row::E7b,
            });
            set = Some(pd.pdisk);
        } else {
            let undone = old_pd.repl == ReplState::WFBitMapT
                && pd.repl == ReplState::Off
                && disk == DiskState::Outdated
                && self.stable_neighbour_on_my_data(new, v)
                && self.may_be_up_to_date(new, v);
            // What a Primary has is current, whatever is still to be reconciled with others: it will not send
            // what it writes before this disk is UpToDate (a deviation: the reference waits for the others).
            let like_primary = pd.repl == ReplState::Established
                && peer_role == Role::Primary
                && pd.pdisk == DiskState::UpToDate
                && self.same_generation(peer, v);
            let connected = old_pd.repl < ReplState::Established
                && pd.repl >= ReplState::Established
                && disk == DiskState::Consistent
                && (like_primary || self.may_be_up_to_date(new, v));
            let followed = disk == DiskState::Consistent
                && old_pd.pdisk == DiskState::Consistent
                && pd.pdisk == DiskState::UpToDate
                && stable;
            if undone || connected || followed {
                self.note(match (undone, connected) {
                    (true, _) => Row::E8,
                    (_, true) if like_primary => Row::E9b,
                    (_, true) => Row::E9a,
                    _ => Row::E10,
                });
                set = Some(DiskState::UpToDate);
            }
        }
        if peer_role == Role::Primary
            && old_role == Role::Unknown
            && pd.pdisk == DiskState::Diskless
            && pd.repl >= ReplState::Established
            && disk >= DiskState::Negotiating
        {
            let same = known.uuids.current.same(self.current_uuid(v));
            let target = new
                .peers_of(v)
                .any(|(n, _, p)| n != peer && p.is_sync_target());
            if same && !target {
                if (DiskState::Outdated..DiskState::UpToDate).contains(&disk) {
                    self.note(Row::E12a);
                    set = Some(DiskState::UpToDate);
                }
            } else if !same {
                self.note(Row::E12b);
                derived.get_resynced.push(v);
                if disk == DiskState::UpToDate {
                    self.note(Row::E12c);
                    set = Some(DiskState::Consistent);
                }
            }
        }
        if let (Some(disk), Some(device)) = (set, new.devices.get_mut(&v)) {
            device.disk = disk;
        }
        self.distrust(new, peer, v, &old_pd);
    }

    /// Block E, rule 13: a diskless node believes only data of the generation it exposes.
    fn distrust(&self, new: &mut State, peer: NodeId, v: VolumeNr, old: &PeerDeviceState) {
        if new.disk(v) != DiskState::Diskless || new.pdisk(peer, v) != DiskState::UpToDate {
            return;
        }
        let exposed = self
            .volumes
            .get(&v)
            .map(|vol| vol.exposed)
            .unwrap_or_default();
        let Some(known) = self.peer_device(peer, v) else {
            return;
        };
        let good_peer = new.peers_of(v).any(|(n, _, pd)| {
            n != peer
                && pd.pdisk == DiskState::UpToDate
                && self
                    .peer_device(n, v)
                    .is_some_and(|k| k.uuids.current.same(exposed))
        });
        // It had what this node exposes, and gave that up for the data of another one, as after a split brain.
        // Nobody looks at the old data here any more (a deviation: the reference holds on to it until a restart).
        let gave_up = new.role == Role::Secondary
            && old.pdisk == DiskState::Inconsistent
            && known.flags.had_exposed
            && !good_peer;
        if (good_peer || !exposed.is_none())
            && old.pdisk != DiskState::UpToDate
            && !exposed.same(known.uuids.current)
            && !self.may_relabel(peer, v)
            && let Some(pd) = new.pd_mut(peer, v)
        {
            if gave_up {
                return self.note(Row::E13b);
            }
            self.note(Row::E13a);
            pd.pdisk = DiskState::Consistent;
        }
    }

    /// Block E, rule 14: whether writes are replicated while one side is Inconsistent.
    fn sanitize_replication(&self, new: &mut State, peer: NodeId, v: VolumeNr) {
        let old = self.state.pd(peer, v).cloned().unwrap_or_default();
        let old_disk = self.state.disk(v);
        let disk = new.disk(v);
        let was_connected = self.state.cstate(peer) == ConnState::Connected;
        let connected = new.cstate(peer) == ConnState::Connected;
        let next_here = self
            .peer_device(peer, v)
            .is_none_or(|k| k.replication_next_sent);
        let next_there = self
            .peer_device(peer, v)
            .is_none_or(|k| k.replication_next_received);
        let Some(pd) = new.pd_mut(peer, v) else {
            return;
        };
        let becomes = |old: DiskState, new: DiskState| {
            !(old == DiskState::Inconsistent && was_connected)
                && new == DiskState::Inconsistent
                && connected
        };
        if becomes(old_disk, disk) || (!old.is_sync_target() && pd.is_sync_target()) {
            self.note(Row::E14a);
            pd.peer_replication = next_here;
        }
        if becomes(old.pdisk, pd.pdisk) || (!old.is_sync_source() && pd.is_sync_source()) {
            self.note(Row::E14b);
            pd.replication = next_there;
        }
        if old.pdisk == DiskState::Inconsistent && pd.pdisk != DiskState::Inconsistent {
            if !pd.replication {
                self.note(Row::E14c);
            }
            pd.replication = true;
        }
    }
}
