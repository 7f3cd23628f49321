//! What follows from a change: the derived values (state machine, section 3.4).
//!
//! The steps are those of the specification, in its order; the letters name its blocks.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use drbd_proto::{ConnState, DiskState, NodeId, ReplState, Role, UuidFlags, VolumeNr};

use crate::connection::Negotiation;
use crate::engine::Engine;
use crate::options::{Fencing, OnNoData, OnNoQuorum};
use crate::rows::Row;
use crate::state::change::ChangeFlags;
use crate::state::{PeerDeviceState, State};

/// What the derivation found out besides the new values.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Derived {
    /// Primary volumes that lost access to data.
    pub lost_data: Vec<VolumeNr>,
    /// Some volume gained access to data.
    pub gained_data: bool,
    /// Diskful volumes that met a diskless Primary with another generation (section 9.7).
    pub get_resynced: Vec<VolumeNr>,
    /// Connections whose peer may have crashed as Primary.
    pub maybe_crashed_primary: bool,
}

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
    /// Derives the implied values of `new`, a change of `self.state`.
    pub(crate) fn sanitize(&self, flags: ChangeFlags, new: &mut State) -> Derived {
        let mut derived = Derived::default();
        let old = &self.state;
        self.sanitize_connections(flags, new, &mut derived);
        let volumes: Vec<VolumeNr> = new.devices.keys().copied().collect();
        for &v in &volumes {
            self.sanitize_disk(flags, new, v);
        }
        let mut lost_connection = BTreeSet::new();
        for &v in &volumes {
            if self.sanitize_peers_first(new, v) {
                lost_connection.insert(v);
            }
            self.choose_sync_source(new, v);
            self.sanitize_peers_second(new, v, &mut derived);
        }
        for &v in &volumes {
            self.sanitize_device_last(new, v, lost_connection.contains(&v), &mut derived);
        }
        self.sanitize_resource(flags, old, new, &derived);
        derived
    }

    /// Block A.
    fn sanitize_connections(&self, flags: ChangeFlags, new: &mut State, derived: &mut Derived) {
        for (peer, conn) in &mut new.conns {
            if conn.cstate < ConnState::Connected && conn.peer_role != Role::Unknown {
                self.note(Row::A1);
                conn.peer_role = Role::Unknown;
            }
            let Some(old) = self.state.conns.get(peer) else {
                continue;
            };
            let broke = matches!(
                conn.cstate,
                ConnState::Timeout
                    | ConnState::BrokenPipe
                    | ConnState::NetworkFailure
                    | ConnState::ProtocolError
            ) || (conn.cstate == ConnState::Disconnecting && flags.hard);
            if old.peer_role == Role::Primary && old.cstate == ConnState::Connected && broke {
                self.note(Row::A2);
                derived.maybe_crashed_primary = true;
            }
        }
    }

    /// Block B: the own disk.
    fn sanitize_disk(&self, flags: ChangeFlags, new: &mut State, v: VolumeNr) {
        let old_disk = self.state.disk(v);
        let Some(device) = new.devices.get_mut(&v) else {
            return;
        };
        if old_disk == DiskState::Diskless && device.disk == DiskState::Detaching {
            self.note(Row::B1);
            device.disk = DiskState::Diskless;
        }
        if flags.ignore_outdate_failure
            && old_disk < DiskState::Outdated
            && device.disk == DiskState::Outdated
        {
            self.note(Row::B2);
            device.disk = old_disk;
        }
        if device.disk == DiskState::Negotiating && old_disk == DiskState::Negotiating {
            self.finish_negotiation(new, v);
        }
    }

    /// Block B, rule 3: an attach while connected ends when every peer with a disk gave its result.
    fn finish_negotiation(&self, new: &mut State, v: VolumeNr) {
        let mut results: Vec<(NodeId, Negotiation)> = Vec::new();
        let mut uptodate_neighbour = false;
        for (peer, _, pd) in new.peers_of(v) {
            if pd.pdisk < DiskState::Negotiating
                || pd.pdisk == DiskState::Unknown
                || pd.repl == ReplState::Off
            {
                continue;
            }
            uptodate_neighbour |= pd.pdisk == DiskState::UpToDate;
            results.push((peer, self.negotiation(peer, v)));
        }
        if results.iter().any(|(_, r)| *r == Negotiation::NotYet) {
            self.note(Row::B3a);
            return;
        }
        let all_failed =
            !results.is_empty() && results.iter().all(|(_, r)| *r == Negotiation::NoResult);
        // Data that have nothing to do with the good ones here are not let in because an Inconsistent disk would
        // take them (a deviation).
        let mut good = results.iter().filter(|(n, _)| {
            new.pd(*n, v)
                .is_some_and(|pd| pd.pdisk == DiskState::UpToDate)
        });
        let all_failed =
            all_failed || uptodate_neighbour && good.all(|(_, r)| *r == Negotiation::NoResult);
        let target = results
            .iter()
            .any(|(_, r)| *r == Negotiation::Repl(ReplState::WFBitMapT));
        let (disk, row) = if all_failed {
            (DiskState::Detaching, Row::B3b)
        } else if target {
            (DiskState::Inconsistent, Row::B3c)
        } else if uptodate_neighbour {
            (DiskState::UpToDate, Row::B3d)
        } else {
            (self.disk_state_from_md(new, v), Row::B3e)
        };
        self.note(row);
        if let Some(device) = new.devices.get_mut(&v) {
            device.disk = disk;
        }
        for (peer, result) in results {
            let Some(pd) = new.pd_mut(peer, v) else {
                continue;
            };
            pd.repl = match result {
                Negotiation::Repl(ReplState::WFBitMapS) if disk == DiskState::Inconsistent => {
                    self.note(Row::B3f);
                    pd.susp_other_c = true;
                    ReplState::PausedSyncS
                }
                Negotiation::Repl(repl) => repl,
                Negotiation::NoResult | Negotiation::NotYet => ReplState::Established,
            };
        }
    }

    /// Block C. Returns whether a connection was lost.
    fn sanitize_peers_first(&self, new: &mut State, v: VolumeNr) -> bool {
        let role = new.role;
        let disk = new.disk(v);
        let mut lost = false;
        for (peer, conn) in &mut new.conns {
            let standalone = conn.cstate == ConnState::StandAlone;
            let fencing = self
                .conns
                .get(peer)
                .map_or(Fencing::DontCare, |c| c.options.fencing);
            let old = self.state.pd(*peer, v).cloned().unwrap_or_default();
            let Some(pd) = conn.peers.get_mut(&v) else {
                continue;
            };
            if conn.cstate < ConnState::Connected {
                pd.repl = ReplState::Off;
            }
            if pd.repl < ReplState::Established {
                if pd.susp_peer {
                    self.note(Row::P2a);
                }
                pd.susp_peer = false;
                if pd.pdisk > DiskState::Unknown || pd.pdisk < DiskState::Inconsistent {
                    self.note(Row::P2b);
                    pd.pdisk = DiskState::Unknown;
                }
            }
            if old.repl >= ReplState::Established && pd.repl < ReplState::Established {
                self.note(Row::P3);
                pd.resync_active = false;
                lost = true;
            }
            if standalone && disk == DiskState::Diskless && role == Role::Secondary {
                if pd.susp_dependency {
                    self.note(Row::P4);
                }
                pd.susp_dependency = false;
            }
            if pd.repl > ReplState::Established
                && (disk <= DiskState::Failed || pd.pdisk <= DiskState::Failed)
            {
                self.note(if disk <= DiskState::Failed {
                    Row::P5a
                } else {
                    Row::P5b
                });
                pd.repl = ReplState::Established;
                pd.resync_active = false;
            }
            if fencing == Fencing::ResourceAndStonith
                && role == Role::Primary
                && pd.repl < ReplState::Established
                && pd.pdisk == DiskState::Unknown
                && (self.state.role != Role::Primary || old.pdisk != DiskState::Unknown)
            {
                self.note(Row::P6);
                conn.susp_fen = true;
            }
        }
        lost
    }

    /// Block D: one active source per target (section 9.3).
    fn choose_sync_source(&self, new: &mut State, v: VolumeNr) {
        let mut candidates: BTreeMap<NodeId, u64> = BTreeMap::new();
        let mut active = None;
        let mut current = None;
        let mut any_target = false;
        for (peer, _, pd) in new.peers_of(v) {
            if pd.resync_active {
                active = Some(peer);
            }
            if !pd.is_sync_target() {
                continue;
            }
            any_target = true;
            let paused = pd.susp_dependency || pd.susp_peer || pd.susp_user || pd.susp_max_parallel;
            if paused || pd.pdisk < DiskState::Outdated || pd.pdisk == DiskState::Unknown {
                continue;
            }
            candidates.insert(peer, self.bitmap_weight(peer, v));
            if self.state.repl(peer, v) == ReplState::SyncTarget {
                current = Some(peer);
            }
        }
        // An outdated source has older blocks than an UpToDate one, and than the writes of a Primary that come
        // meanwhile: it is the last resort (a deviation, the fewest bits decide there).
        let good = |n: &NodeId| {
            new.pd(*n, v)
                .is_some_and(|pd| pd.pdisk == DiskState::UpToDate)
        };
        if candidates.keys().any(good) {
            let all = candidates.len();
            candidates.retain(|n, _| good(n));
            if candidates.len() < all {
                self.note(Row::X2);
            }
        }
        if !any_target {
            for conn in new.conns.values_mut() {
                if let Some(pd) = conn.peers.get_mut(&v) {
                    if pd.susp_other_c {
                        self.note(Row::X1);
                    }
                    pd.susp_other_c = false;
                }
            }
            return;
        }
        let mut desired: Option<(NodeId, u64)> = None;
        for (peer, weight) in &candidates {
            if desired.is_none_or(|(_, w)| *weight <= w) {
                desired = Some((*peer, *weight));
            }
        }
        if let (Some(c), Some((_, w))) = (current, desired) {
            let weight = candidates.get(&c).copied().unwrap_or(u64::MAX);
            if weight < w.saturating_add(256) {
                if desired != Some((c, weight)) {
                    self.note(Row::X4);
                }
                desired = Some((c, weight));
            }
        }
        // Ownership changes hands only when the requests of the old one are answered (data path, section 16.1).
        let busy = active
            .filter(|a| desired.is_none_or(|(d, _)| d != *a) && self.resync_pending(*a, v) != 0);
        let desired = match busy {
            Some(_) => {
                self.note(Row::X5);
                None
            }
            None => desired.map(|(d, _)| d),
        };
        if desired.is_some() && desired != active {
            self.note(Row::X3);
        }
        for (peer, conn) in &mut new.conns {
            let Some(pd) = conn.peers.get_mut(&v) else {
                continue;
            };
            if busy.is_none() {
                pd.resync_active = desired == Some(*peer);
            }
            pd.susp_other_c = desired.is_some() && desired != Some(*peer);
            if pd.is_sync_target() {
                pd.repl = if desired == Some(*peer) {
                    ReplState::SyncTarget
                } else {
                    if pd.susp_other_c {
                        self.note(Row::X6);
                    }
                    ReplState::PausedSyncT
                };
            }
        }
    }

    /// Block E.
    fn sanitize_peers_second(&self, new: &mut State, v: VolumeNr, derived: &mut Derived) {
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
        if pd.repl == ReplState::Established
            && disk == DiskState::Outdated
            && pd.pdisk >= DiskState::Consistent
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

    /// Block F.
    fn sanitize_device_last(
        &self,
        new: &mut State,
        v: VolumeNr,
        lost_connection: bool,
        derived: &mut Derived,
    ) {
        if lost_connection && new.disk(v) == DiskState::Negotiating {
            self.note(Row::F4);
            let disk = self.disk_state_from_md(new, v);
            if let Some(device) = new.devices.get_mut(&v) {
                device.disk = disk;
            }
        }
        let peer_primary = new.any_peer_primary();
        if derived.maybe_crashed_primary
            && !peer_primary
            && new.disk(v) == DiskState::UpToDate
            && self.state.role == Role::Secondary
            && new.role == Role::Secondary
        {
            if self.sole_authority(new, v) {
                self.note(Row::F5b);
            } else if let Some(device) = new.devices.get_mut(&v) {
                self.note(Row::F5a);
                device.disk = DiskState::Consistent;
            }
        }
        let quorum = self.compute_quorum(new, v);
        let configured = self.quorum_configured();
        let restore = self
            .volumes
            .get(&v)
            .is_some_and(|vol| vol.flags.restore_quorum);
        if let Some(device) = new.devices.get_mut(&v) {
            if configured && device.quorum != quorum {
                self.note(if quorum { Row::F1b } else { Row::F1a });
            }
            device.quorum = quorum;
            device.have_quorum = !configured || quorum;
            if !device.have_quorum && device.disk == DiskState::UpToDate && restore {
                self.note(Row::F2);
                device.have_quorum = true;
            }
        }
        let had = self.data_accessible(&self.state, v);
        let has = self.data_accessible(new, v);
        if new.role == Role::Primary && !has && (had || self.state.role != Role::Primary) {
            self.note(Row::F3a);
            derived.lost_data.push(v);
        }
        if !had && has {
            self.note(Row::F3b);
            derived.gained_data = true;
        }
    }

    /// Sole authority (block F, rule 5): the lost Primary had no good disk, and no surviving peer has one.
    fn sole_authority(&self, new: &State, v: VolumeNr) -> bool {
        let lost_had_data = self.state.peers_of(v).any(|(n, c, pd)| {
            c.peer_role == Role::Primary
                && new.cstate(n) < ConnState::Connected
                && pd.pdisk > DiskState::Outdated
        });
        let survivor = new.peers_of(v).any(|(_, c, pd)| {
            c.cstate == ConnState::Connected && pd.pdisk >= DiskState::Consistent
        });
        !lost_had_data && !survivor
    }

    /// Block G.
    fn sanitize_resource(
        &self,
        flags: ChangeFlags,
        old: &State,
        new: &mut State,
        derived: &Derived,
    ) {
        let all_accessible = new.devices.keys().all(|v| self.data_accessible(new, *v));
        if new.role != Role::Primary || all_accessible {
            if new.susp_nod {
                self.note(Row::G1);
            }
            new.susp_nod = false;
        }
        if !derived.lost_data.is_empty() && self.options.on_no_data == OnNoData::SuspendIo {
            self.note(Row::G2);
            new.susp_nod = true;
        }
        new.susp_quorum = self.options.on_no_quorum == OnNoQuorum::SuspendIo
            && new.devices.values().any(|d| !d.have_quorum);
        match (old.susp_quorum, new.susp_quorum) {
            (false, true) => self.note(Row::G3a),
            (true, false) => self.note(Row::G3b),
            _ => {}
        }
        let owes = self.volumes.values().any(|vol| vol.flags.new_cur_uuid);
        if !old.susp_uuid && old.suspended() && !new.suspended() && owes {
            self.note(Row::G4);
            new.susp_uuid = true;
        }
        let write_open = self
            .volumes
            .values()
            .any(|vol| vol.openers.values().any(|write| *write));
        if old.role == Role::Primary
            && new.role == Role::Secondary
            && flags.ignore_openers
            && write_open
        {
            self.note(Row::G5);
            new.fail_io = true;
        }
    }
}
