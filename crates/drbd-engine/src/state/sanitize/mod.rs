//! What follows from a change: the derived values (state machine, section 3.4).
//!
//! The steps are those of the specification, in its order; the letters name its blocks.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use drbd_proto::{ConnState, DiskState, NodeId, ReplState, Role, VolumeNr};

use crate::connection::Negotiation;
use crate::engine::Engine;
use crate::options::{Fencing, OnNoData, OnNoQuorum};
use crate::rows::Row;
use crate::state::State;
use crate::state::change::ChangeFlags;

mod peers;
mod source;

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
