//! The state of a resource and the one way to change it (state machine, sections 2 and 3).
//!
//! [`State`] holds exactly the values that a transaction may change. A change copies it, modifies the copy,
//! derives what follows ([`sanitize`]), checks it ([`check`]) and commits it as a whole. Nothing else in the
//! engine assigns a state field.

pub(crate) mod after;
pub(crate) mod change;
mod check;
mod commit;
mod predicates;
pub(crate) mod sanitize;

use alloc::collections::BTreeMap;

use drbd_proto::{ConnState, DiskState, NodeId, ReplState, Role, VolumeNr};

/// All state values of a resource (state machine, sections 2.1 to 2.5).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct State {
    /// Role of this node.
    pub role: Role,
    /// The administrator suspended I/O.
    pub susp_user: bool,
    /// Primary without access to UpToDate data, and `on-no-data-accessible suspend-io`.
    pub susp_nod: bool,
    /// A volume lost quorum, and `on-no-quorum suspend-io`.
    pub susp_quorum: bool,
    /// I/O would resume, but a new current UUID must be durable first.
    pub susp_uuid: bool,
    /// Forced demotion while open: every request fails until the last opener left.
    pub fail_io: bool,
    /// The volumes.
    pub devices: BTreeMap<VolumeNr, DeviceState>,
    /// The connections.
    pub conns: BTreeMap<NodeId, ConnectionState>,
}

/// State values of a volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct DeviceState {
    /// The own disk.
    pub disk: DiskState,
    /// Enforced quorum; always true without the `quorum` option.
    pub have_quorum: bool,
    /// Tracked quorum.
    pub quorum: bool,
}

impl Default for DeviceState {
    fn default() -> Self {
        DeviceState {
            disk: DiskState::Diskless,
            have_quorum: true,
            quorum: true,
        }
    }
}

/// State values of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ConnectionState {
    /// The connection.
    pub cstate: ConnState,
    /// Role of the peer; Unknown below Connected.
    pub peer_role: Role,
    /// A fence-peer handler is outstanding and holds I/O.
    pub susp_fen: bool,
    /// One entry per volume of the resource.
    pub peers: BTreeMap<VolumeNr, PeerDeviceState>,
}

impl Default for ConnectionState {
    fn default() -> Self {
        ConnectionState {
            cstate: ConnState::StandAlone,
            peer_role: Role::Unknown,
            susp_fen: false,
            peers: BTreeMap::new(),
        }
    }
}

/// State values of a volume with respect to one peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PeerDeviceState {
    /// Replication state.
    pub repl: ReplState,
    /// The peer's disk.
    pub pdisk: DiskState,
    /// Resync paused by the local administrator.
    pub susp_user: bool,
    /// Resync paused by the peer.
    pub susp_peer: bool,
    /// Resync waits for a `resync-after` dependency.
    pub susp_dependency: bool,
    /// Another peer is the chosen sync source of this volume.
    pub susp_other_c: bool,
    /// As many volumes are being resynced as the node allows.
    pub susp_max_parallel: bool,
    /// This sync target owns the "one active target per volume" slot.
    pub resync_active: bool,
    /// While the peer is Inconsistent: we replicate application writes to it.
    pub replication: bool,
    /// While we are Inconsistent: the peer replicates to us.
    pub peer_replication: bool,
}

impl Default for PeerDeviceState {
    fn default() -> Self {
        PeerDeviceState {
            repl: ReplState::Off,
            pdisk: DiskState::Unknown,
            susp_user: false,
            susp_peer: false,
            susp_dependency: false,
            susp_other_c: false,
            susp_max_parallel: false,
            resync_active: false,
            replication: true,
            peer_replication: true,
        }
    }
}

impl State {
    /// The state of a resource without volumes and connections.
    pub(crate) fn new() -> Self {
        State {
            role: Role::Secondary,
            susp_user: false,
            susp_nod: false,
            susp_quorum: false,
            susp_uuid: false,
            fail_io: false,
            devices: BTreeMap::new(),
            conns: BTreeMap::new(),
        }
    }

    /// Whether application I/O is suspended (state machine, section 2.5).
    pub(crate) fn suspended(&self) -> bool {
        self.susp_user
            || self.susp_nod
            || self.susp_quorum
            || self.susp_uuid
            || self.conns.values().any(|c| c.susp_fen)
    }

    /// The own disk of a volume; Diskless for an unknown one.
    pub(crate) fn disk(&self, volume: VolumeNr) -> DiskState {
        self.devices
            .get(&volume)
            .map_or(DiskState::Diskless, |d| d.disk)
    }

    /// The connection state towards a peer; StandAlone for an unknown one.
    pub(crate) fn cstate(&self, peer: NodeId) -> ConnState {
        self.conns
            .get(&peer)
            .map_or(ConnState::StandAlone, |c| c.cstate)
    }

    /// The peer device of a peer and a volume.
    pub(crate) fn pd(&self, peer: NodeId, volume: VolumeNr) -> Option<&PeerDeviceState> {
        self.conns.get(&peer)?.peers.get(&volume)
    }

    /// The peer device of a peer and a volume, to change it.
    pub(crate) fn pd_mut(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
    ) -> Option<&mut PeerDeviceState> {
        self.conns.get_mut(&peer)?.peers.get_mut(&volume)
    }

    /// Replication state; Off for an unknown peer device.
    pub(crate) fn repl(&self, peer: NodeId, volume: VolumeNr) -> ReplState {
        self.pd(peer, volume).map_or(ReplState::Off, |p| p.repl)
    }

    /// Peer disk state; Unknown for an unknown peer device.
    pub(crate) fn pdisk(&self, peer: NodeId, volume: VolumeNr) -> DiskState {
        self.pd(peer, volume)
            .map_or(DiskState::Unknown, |p| p.pdisk)
    }

    /// All peer devices of a volume.
    pub(crate) fn peers_of(
        &self,
        volume: VolumeNr,
    ) -> impl Iterator<Item = (NodeId, &ConnectionState, &PeerDeviceState)> + '_ {
        self.conns
            .iter()
            .filter_map(move |(n, c)| c.peers.get(&volume).map(|p| (*n, c, p)))
    }

    /// Whether some connected peer is Primary.
    pub(crate) fn any_peer_primary(&self) -> bool {
        self.conns.values().any(|c| c.peer_role == Role::Primary)
    }
}

impl PeerDeviceState {
    /// Whether application writes are sent to this peer (state machine, section 2.7).
    pub(crate) fn replicates(&self) -> bool {
        self.pdisk == DiskState::UpToDate
            || (self.pdisk == DiskState::Inconsistent
                && self.replication
                && (self.repl == ReplState::Established
                    || (self.repl >= ReplState::WFBitMapT && self.repl < ReplState::Ahead)))
    }

    /// Whether this peer is told about writes with P_OUT_OF_SYNC instead (state machine, section 2.7).
    pub(crate) fn sends_out_of_sync(&self) -> bool {
        matches!(self.repl, ReplState::Ahead | ReplState::WFBitMapS)
            || (self.repl >= ReplState::Established
                && (self.pdisk == DiskState::Outdated
                    || (self.pdisk == DiskState::Inconsistent && !self.replication)))
    }

    /// SyncTarget or PausedSyncT.
    pub(crate) fn is_sync_target(&self) -> bool {
        matches!(self.repl, ReplState::SyncTarget | ReplState::PausedSyncT)
    }

    /// SyncSource or PausedSyncS.
    pub(crate) fn is_sync_source(&self) -> bool {
        matches!(self.repl, ReplState::SyncSource | ReplState::PausedSyncS)
    }
}
