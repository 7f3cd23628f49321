//! Questions about a state that several rules ask (state machine, section 2.7).

use drbd_meta::flags::PeerFlags;
use drbd_proto::{ConnState, DiskState, NodeId, NodeMask, ReplState, Role, Uuid, VolumeNr};

use crate::connection::{Negotiation, PeerDevice};
use crate::engine::Engine;
use crate::options::{OnNoData, OnNoQuorum, Quorum};
use crate::state::State;
use crate::volume::Disk;

impl Engine {
    /// The attached disk of a volume.
    pub(crate) fn disk_ref(&self, v: VolumeNr) -> Option<&Disk> {
        self.volumes.get(&v)?.disk.as_ref()
    }

    /// The attached disk of a volume, to change it.
    pub(crate) fn disk_mut(&mut self, v: VolumeNr) -> Option<&mut Disk> {
        self.volumes.get_mut(&v)?.disk.as_mut()
    }

    /// Whether there is a disk at least this good ("has ldev at state X").
    pub(crate) fn local_disk_at_least(&self, v: VolumeNr, min: DiskState) -> bool {
        self.disk_ref(v).is_some() && self.state.disk(v) >= min
    }

    /// The peer device of a peer and a volume.
    pub(crate) fn peer_device(&self, peer: NodeId, v: VolumeNr) -> Option<&PeerDevice> {
        self.conns.get(&peer)?.peers.get(&v)
    }

    /// The peer device of a peer and a volume, to change it.
    pub(crate) fn peer_device_mut(&mut self, peer: NodeId, v: VolumeNr) -> Option<&mut PeerDevice> {
        self.conns.get_mut(&peer)?.peers.get_mut(&v)
    }

    /// Number of bits set towards a peer; 0 without disk or slot.
    pub(crate) fn bitmap_weight(&self, peer: NodeId, v: VolumeNr) -> u64 {
        let Some(disk) = self.disk_ref(v) else {
            return 0;
        };
        disk.meta
            .slot(peer)
            .map_or(0, |slot| disk.bitmap.weight(crate::bitmap::Slot(slot)))
    }

    /// The current UUID of the own disk; the exposed UUID without disk.
    pub(crate) fn current_uuid(&self, v: VolumeNr) -> Uuid {
        let Some(volume) = self.volumes.get(&v) else {
            return Uuid::NONE;
        };
        volume
            .disk
            .as_ref()
            .map_or(volume.exposed, |d| d.gen_ids.current())
    }

    /// Result of the handshake with a peer while the own disk is Negotiating.
    pub(crate) fn negotiation(&self, peer: NodeId, v: VolumeNr) -> Negotiation {
        self.peer_device(peer, v)
            .map_or(Negotiation::NoResult, |k| k.negotiation)
    }

    /// Whether two primaries are allowed on a connection.
    pub(crate) fn two_primaries(&self, peer: NodeId) -> bool {
        self.conns
            .get(&peer)
            .is_some_and(|c| c.options.two_primaries)
    }

    /// The connection that is in the middle of a connect transaction.
    pub(crate) fn handshaking(&self) -> Option<NodeId> {
        self.conns
            .iter()
            .find(|(p, c)| {
                c.handshake.in_exchange() && self.state.cstate(**p) == ConnState::Connecting
            })
            .map(|(p, _)| *p)
    }

    /// Whether applications can reach UpToDate data of a volume.
    pub(crate) fn data_accessible(&self, state: &State, v: VolumeNr) -> bool {
        state.disk(v) == DiskState::UpToDate
            || state.peers_of(v).any(|(n, _, pd)| {
                pd.pdisk == DiskState::UpToDate
                    && self
                        .conns
                        .get(&n)
                        .is_some_and(|c| c.options.allow_remote_read)
            })
    }

    /// Whether requests of a volume fail at once.
    pub(crate) fn error_io(&self, v: VolumeNr) -> bool {
        let have_quorum = self.state.devices.get(&v).is_none_or(|d| d.have_quorum);
        (self.options.on_no_quorum == OnNoQuorum::IoError && !have_quorum)
            || (self.options.on_no_data == OnNoData::IoError
                && !self.data_accessible(&self.state, v))
            || self.state.fail_io
    }

    /// Whether new requests of a volume have to wait for a handshake.
    pub(crate) fn unstable_for_io(&self, v: VolumeNr) -> bool {
        matches!(
            self.state.disk(v),
            DiskState::Attaching | DiskState::Negotiating
        ) || self.state.peers_of(v).any(|(n, _, pd)| {
            matches!(pd.repl, ReplState::WFBitMapT | ReplState::WFSyncUUID)
                || (pd.repl == ReplState::WFBitMapS
                    && self.conns.get(&n).is_some_and(|c| c.apv() < 96))
        })
    }

    /// stable(device): no node we cannot see changes the data behind our back. Together with the connected
    /// Primaries (the authoritative nodes).
    pub(crate) fn stable(&self, state: &State, v: VolumeNr) -> (bool, NodeMask) {
        let primaries: NodeMask = state
            .peers_of(v)
            .filter(|(_, c, pd)| c.peer_role == Role::Primary && pd.repl >= ReplState::Established)
            .map(|(n, _, _)| n)
            .collect();
        (
            state.role == Role::Primary || primaries.is_empty(),
            primaries,
        )
    }

    /// weak nodes(device): all but those that hold the current data.
    pub(crate) fn weak_nodes(&self, v: VolumeNr) -> NodeMask {
        let mut strong = NodeMask::EMPTY;
        if self.state.disk(v) == DiskState::UpToDate {
            strong.insert(self.node_id);
        }
        for (n, _, pd) in self.state.peers_of(v) {
            // A disk with gaps that is not connected gets nothing either (a deviation).
            let away = pd.pdisk == DiskState::Inconsistent && pd.repl < ReplState::Established;
            if pd.pdisk > DiskState::Failed
                && !matches!(pd.pdisk, DiskState::Unknown | DiskState::Outdated)
                && pd.repl != ReplState::Ahead
                && !away
            {
                strong.insert(n);
            }
        }
        !strong
    }

    /// resolved UUID(P): what this node tells P it is at. True with it: SYNC_TARGET applies.
    pub(crate) fn resolved_uuid(&self, peer: NodeId, v: VolumeNr) -> (Uuid, bool) {
        let source = self
            .state
            .peers_of(v)
            .find(|(n, _, pd)| *n != peer && pd.repl == ReplState::SyncTarget)
            .map(|(n, _, _)| n);
        match source.and_then(|n| self.peer_device(n, v)) {
            Some(known) => (known.uuids.current, true),
            None => (self.current_uuid(v), false),
        }
    }

    /// Disk state from the metadata (state machine, section 14.1).
    pub(crate) fn disk_state_from_md(&self, state: &State, v: VolumeNr) -> DiskState {
        let Some(disk) = self.disk_ref(v) else {
            return DiskState::Diskless;
        };
        if !disk.meta.was_consistent() {
            DiskState::Inconsistent
        } else if !disk.meta.was_up_to_date() {
            DiskState::Outdated
        } else if self.may_be_up_to_date(state, v) {
            DiskState::UpToDate
        } else {
            DiskState::Consistent
        }
    }

    /// may-be-UpToDate (state machine, section 14.1).
    pub(crate) fn may_be_up_to_date(&self, state: &State, v: VolumeNr) -> bool {
        let current = self.current_uuid(v);
        let other_generation = state.peers_of(v).any(|(n, c, pd)| {
            c.peer_role == Role::Primary
                && pd.pdisk == DiskState::Diskless
                && pd.repl >= ReplState::Established
                && self
                    .peer_device(n, v)
                    .is_some_and(|k| !k.uuids.current.same(current))
        });
        if other_generation || self.owes_in(state, v) {
            return false;
        }
        let Some(disk) = self.disk_ref(v) else {
            return false;
        };
        for n in NodeId::all().filter(|n| *n != self.node_id) {
            let entry = disk.meta.peer(n);
            let exists =
                entry.bitmap_index.is_some() || entry.flags.contains(PeerFlags::NODE_EXISTS);
            if !exists || !entry.flags.contains(PeerFlags::FENCING) {
                continue;
            }
            let known = state.pd(n, v).map_or(DiskState::Unknown, |pd| pd.pdisk);
            let good = match known {
                DiskState::Inconsistent
                | DiskState::Outdated
                | DiskState::Consistent
                | DiskState::UpToDate => true,
                DiskState::Diskless => !entry.flags.contains(PeerFlags::DEVICE_SEEN),
                _ => false,
            };
            let wants = self.peer_device(n, v).is_none_or(|k| k.options.bitmap);
            if !good && wants && !entry.flags.contains(PeerFlags::OUTDATED) {
                return false;
            }
        }
        true
    }

    /// Owing a reconciliation (state machine, section 5.9).
    pub(crate) fn owes_reconciliation(&self, v: VolumeNr) -> bool {
        self.owes_in(&self.state, v)
    }

    /// Owing a reconciliation in a state that is being entered: not any more if it brings the lost Primary back.
    fn owes_in(&self, state: &State, v: VolumeNr) -> bool {
        let back = |n: NodeId| state.cstate(n) == ConnState::Connected;
        self.conns.values().any(|c| {
            c.flags.notify_lost_primary
                || c.peers.get(&v).is_some_and(|k| {
                    let settled = k.flags.reconcile_about.is_some_and(back);
                    (k.flags.reconcile_pending && !settled) || k.flags.reconciliation_resync
                })
        })
    }

    /// A neighbour that is UpToDate and STABLE on our current UUID (section 3.4, E8).
    pub(crate) fn stable_neighbour_on_my_data(&self, state: &State, v: VolumeNr) -> bool {
        let current = self.current_uuid(v);
        state.peers_of(v).any(|(n, _, pd)| {
            pd.pdisk == DiskState::UpToDate
                && self.peer_device(n, v).is_some_and(|k| {
                    k.uuids.flags.contains(drbd_proto::UuidFlags::STABLE)
                        && k.uuids.current.same(current)
                })
        })
    }

    /// Whether quorum is enforced.
    pub(crate) fn quorum_configured(&self) -> bool {
        self.options.quorum != Quorum::Off
    }

    /// Directly connected nodes.
    pub(crate) fn connected_nodes(&self) -> NodeMask {
        self.state
            .conns
            .iter()
            .filter(|(_, c)| c.cstate == ConnState::Connected)
            .map(|(n, _)| *n)
            .collect()
    }
}
