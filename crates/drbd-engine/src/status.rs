//! What can be seen of a resource from outside: snapshots for `status` and the changes for `events2`.

use alloc::string::String;
use alloc::vec::Vec;

use drbd_proto::{ConnState, DiskState, NodeId, ReplState, Role, VolumeNr};

use crate::effect::Path;

/// A change of something visible; `None` in the info means that the object is gone.
#[derive(Clone, PartialEq, Debug)]
pub struct Change {
    /// Set on the first appearance of the object.
    pub created: bool,
    /// More changes of the same transaction follow.
    pub continues: bool,
    /// What it is now.
    pub object: Object,
}

/// An object and its state after a change.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs)] // Keys and states are those of CLI section 16.1.
pub enum Object {
    Resource(Option<ResourceInfo>),
    Connection {
        peer: NodeId,
        info: Option<ConnectionInfo>,
    },
    Device {
        volume: VolumeNr,
        info: Option<DeviceInfo>,
    },
    PeerDevice {
        peer: NodeId,
        volume: VolumeNr,
        info: Option<PeerDeviceInfo>,
    },
    Path {
        peer: NodeId,
        path: Path,
        established: Option<bool>,
    },
}

/// State of the resource as a whole.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // The fields of CLI sections 13 to 16.
pub struct ResourceInfo {
    pub role: Role,
    pub susp_user: bool,
    pub susp_nod: bool,
    pub susp_fen: bool,
    pub susp_quorum: bool,
    pub susp_uuid: bool,
    pub fail_io: bool,
    pub write_ordering: WriteOrdering,
}

/// How the order of writes is kept on the disk of a receiver (data path, section 8.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[allow(missing_docs)] // The names of the methods.
pub enum WriteOrdering {
    None,
    Drain,
    Flush,
    Barrier,
}

/// State of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // The fields of CLI sections 13 to 16.
pub struct ConnectionInfo {
    pub name: String,
    pub cstate: ConnState,
    pub peer_role: Role,
    pub congested: bool,
    /// The streams are encrypted.
    pub tls: bool,
    /// Sectors written by applications and not yet acknowledged by this peer.
    pub ap_in_flight: u64,
    /// Sectors of resync requests in flight.
    pub rs_in_flight: u64,
    pub paths: Vec<(Path, bool)>,
}

/// State of a volume.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // The fields of CLI sections 13 to 16.
pub struct DeviceInfo {
    pub minor: u32,
    pub disk: DiskState,
    /// Configured to have no disk.
    pub client: bool,
    pub quorum: bool,
    pub open: bool,
    pub backing: Option<String>,
    /// Size in sectors.
    pub size: u64,
    /// Size asked for in sectors, here or by a peer; 0: none.
    pub user_size: u64,
    /// Sectors read from the backing device by applications.
    pub read: u64,
    /// Sectors written to the backing device.
    pub written: u64,
    pub al_writes: u64,
    pub bm_writes: u64,
    pub upper_pending: u32,
    pub lower_pending: u32,
    pub al_suspended: bool,
    /// New requests of applications have to wait.
    pub upper_blocked: bool,
}

/// State of a volume with respect to one peer.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // The fields of CLI sections 13 to 16.
pub struct PeerDeviceInfo {
    pub repl: ReplState,
    pub peer_disk: DiskState,
    pub peer_client: bool,
    pub resync_susp_user: bool,
    pub resync_susp_peer: bool,
    pub resync_susp_dependency: bool,
    pub resync_susp_max_parallel: bool,
    /// Sectors received from this peer.
    pub received: u64,
    /// Sectors sent to this peer.
    pub sent: u64,
    /// Sectors out of sync.
    pub out_of_sync: u64,
    pub pending: u32,
    pub unacked: u32,
    /// The peer says that its data are stable.
    pub stable: bool,
    /// How long to wait for the peer.
    pub wait: WaitTimeout,
    /// Details of a running resync or verify.
    pub sync: Option<SyncInfo>,
}

/// Progress of a resync or verify. All amounts in sectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // The fields of CLI section 13.
pub struct SyncInfo {
    pub total: u64,
    pub left: u64,
    pub failed: u64,
    pub same_csum: u64,
    /// Milliseconds since the start, pauses included.
    pub elapsed_ms: u64,
    pub paused_ms: u64,
    /// Length in milliseconds of the long and of the short measuring window, and what was done in each.
    pub windows: [(u64, u64); 2],
    /// The speed that a target aims at in KiB/s; 0 elsewhere.
    pub want: u64,
    /// Of a verify.
    pub verify: Option<VerifyInfo>,
}

/// Where a verify stands. In sectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // The fields of CLI section 13.
pub struct VerifyInfo {
    pub start: u64,
    /// None: to the end.
    pub stop: Option<u64>,
    pub position: u64,
    pub skipped: u64,
}

/// Which of the timeouts of `wait-connect` applies to a peer (state machine, section 17).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WaitTimeout {
    /// `wfc-timeout`.
    #[default]
    Normal,
    /// `degr-wfc-timeout`: this node was Primary without that peer before it was restarted.
    Degraded,
    /// `outdated-wfc-timeout`.
    Outdated,
}

/// Everything visible of one resource.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs, clippy::type_complexity)] // The objects of CLI section 14.
pub struct ResourceStatus {
    pub name: String,
    pub node_id: NodeId,
    pub info: ResourceInfo,
    pub devices: Vec<(VolumeNr, DeviceInfo)>,
    pub connections: Vec<(NodeId, ConnectionInfo, Vec<(VolumeNr, PeerDeviceInfo)>)>,
}
