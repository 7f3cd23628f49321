//! What goes over the control socket: one JSON object per line.
//!
//! A client sends one [`Request`]; the daemon answers with [`Answer`]s, the last of which is
//! [`Answer::Reply`], and then expects the next request. After an `events2` request the answers are
//! [`Answer::Event`]s until the client closes the connection; an [`Answer::Reply`]
//! among them says that the client did not read them fast enough, that some are lost, and that no more come. Unknown fields are ignored, so that both sides can
//! gain some; a change of meaning changes [`VERSION`].

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Version of the protocol.
pub const VERSION: u32 = 2;

/// Longest request in bytes.
pub const MAX_REQUEST: usize = 1 << 20;

/// A command of `drbdsetup`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Request {
    /// [`VERSION`].
    pub version: u32,
    /// Name of the command.
    pub command: String,
    /// Its arguments.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// Its options, by full name; a flag may have no value.
    #[serde(default)]
    pub options: Vec<(String, Option<String>)>,
    /// `--set-defaults`.
    #[serde(default)]
    pub set_defaults: bool,
}

/// A line of the daemon.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(clippy::large_enum_variant)] // There is one at a time.
pub enum Answer {
    /// To `status`.
    Status(Vec<Resource>),
    /// To `show`.
    Show(Vec<Config>),
    /// To `events2`.
    Event(Event),
    /// The end of the answer.
    Reply {
        /// Result code (CLI, section 10).
        code: i32,
        /// Further lines.
        info: Vec<String>,
    },
}

/// Something observed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // The fields are the keys of CLI section 16.1.
pub enum Event {
    /// State of a resource at the start of the observation, or of one that was created later.
    Snapshot(Box<Resource>),
    /// All resources there are have been shown.
    SnapshotsEnd,
    Resource {
        resource: String,
        state: Option<ResourceState>,
        continues: bool,
    },
    Connection {
        resource: String,
        peer: u8,
        state: Option<ConnectionState>,
        continues: bool,
    },
    Device {
        resource: String,
        volume: u16,
        state: Option<DeviceState>,
        continues: bool,
    },
    PeerDevice {
        resource: String,
        peer: u8,
        volume: u16,
        state: Option<PeerDeviceState>,
        continues: bool,
    },
    Path {
        resource: String,
        peer: u8,
        local: SocketAddr,
        remote: SocketAddr,
        established: Option<bool>,
        continues: bool,
    },
    /// A helper program is called, or has ended with `status`.
    Helper {
        resource: String,
        helper: String,
        peer: Option<u8>,
        volume: Option<u16>,
        status: Option<i32>,
    },
    /// The resource has another name from now on.
    Renamed { resource: String, new: String },
    /// The resource is gone.
    Gone { resource: String },
}

/// A resource with everything in it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)] // The keys of CLI section 14.
pub struct Resource {
    pub name: String,
    pub node_id: u8,
    pub state: ResourceState,
    pub devices: Vec<Device>,
    pub connections: Vec<Connection>,
}

/// State of a resource as a whole.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)] // The keys of CLI section 14.
pub struct ResourceState {
    pub role: String,
    pub suspended_user: bool,
    pub suspended_no_data: bool,
    pub suspended_fencing: bool,
    pub suspended_quorum: bool,
    pub force_io_failures: bool,
    pub write_ordering: String,
}

/// A volume.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)] // The keys of CLI section 14.
pub struct Device {
    pub volume: u16,
    pub state: DeviceState,
}

/// State of a volume. Sizes in sectors.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)] // The keys of CLI section 14.
pub struct DeviceState {
    pub minor: u32,
    pub disk: String,
    pub client: bool,
    pub open: bool,
    pub quorum: bool,
    pub backing_dev: Option<String>,
    pub size: u64,
    pub read: u64,
    pub written: u64,
    pub al_writes: u64,
    pub bm_writes: u64,
    pub upper_pending: u32,
    pub lower_pending: u32,
    pub al_suspended: bool,
    /// `no` or a comma list.
    pub blocked: String,
}

/// A connection with the peer devices.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)] // The keys of CLI section 14.
pub struct Connection {
    pub peer: u8,
    pub state: ConnectionState,
    pub peer_devices: Vec<PeerDevice>,
}

/// State of a connection. In-flight amounts in sectors.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)] // The keys of CLI section 14.
pub struct ConnectionState {
    pub name: String,
    pub connection: String,
    pub role: String,
    pub congested: bool,
    pub tls: bool,
    pub ap_in_flight: u64,
    pub rs_in_flight: u64,
    pub paths: Vec<Path>,
}

/// A path of a connection.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)] // The keys of CLI section 14.
pub struct Path {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub established: bool,
}

/// A volume on one peer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)] // The keys of CLI section 14.
pub struct PeerDevice {
    pub volume: u16,
    pub state: PeerDeviceState,
}

/// State of a volume on one peer. Sizes in sectors.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)] // The keys of CLI section 14.
pub struct PeerDeviceState {
    pub replication: String,
    pub peer_disk: String,
    pub peer_client: bool,
    /// `no` or a comma list.
    pub resync_suspended: String,
    pub received: u64,
    pub sent: u64,
    pub out_of_sync: u64,
    pub pending: u32,
    pub unacked: u32,
    /// The peer says that its data are stable (CLI, section 16.3).
    pub stable: bool,
    pub wait: WaitTimeout,
    pub sync: Option<Sync>,
}

/// Progress of a resync or verify, in sectors and milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)] // The keys of CLI section 13.
pub struct Sync {
    pub total: u64,
    pub left: u64,
    pub failed: u64,
    pub same_csum: u64,
    pub elapsed_ms: u64,
    pub paused_ms: u64,
    /// Milliseconds and sectors of the long measuring window and of the short one.
    pub windows: [(u64, u64); 2],
    /// Speed that a target aims at, in KiB/s.
    pub want: u64,
    pub verify: Option<Verify>,
}

/// Where a verify stands, in sectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)] // The keys of CLI section 13.
pub struct Verify {
    pub start: u64,
    /// None: to the end.
    pub stop: Option<u64>,
    pub position: u64,
    pub skipped: u64,
}

/// Which timeout of `wait-connect-*` applies to a peer (CLI, section 11).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WaitTimeout {
    /// `wfc-timeout`.
    #[default]
    Normal,
    /// `degr-wfc-timeout`.
    Degraded,
    /// `outdated-wfc-timeout`.
    Outdated,
}

/// Options by name, as `show` spells the values; defaults are not there.
pub type Options = BTreeMap<String, String>;

/// What a resource was configured with.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)] // The statements of configuration section 12.
pub struct Config {
    pub resource: String,
    pub options: Options,
    pub node_id: u8,
    pub volumes: Vec<VolumeConfig>,
    pub connections: Vec<ConnectionConfig>,
}

/// What a volume was configured with.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)] // The statements of configuration section 12.
pub struct VolumeConfig {
    pub volume: u16,
    pub minor: u32,
    pub diskless: bool,
    pub backing: Option<BackingConfig>,
    /// Disk options (only if attached) and device options.
    pub disk: Options,
    pub device: Options,
    /// Where applications find the volume.
    #[serde(default)]
    pub places: Vec<String>,
}

/// Backing devices of a volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)] // The statements of configuration section 12.
pub struct BackingConfig {
    pub disk: String,
    pub meta_disk: String,
    /// `internal`, `flexible` or a number.
    pub index: String,
}

/// What a connection was configured with.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)] // The statements of configuration section 12.
pub struct ConnectionConfig {
    pub peer: u8,
    pub paths: Vec<(SocketAddr, SocketAddr)>,
    pub cstate: String,
    pub net: Options,
    pub volumes: Vec<(u16, Options)>,
}
