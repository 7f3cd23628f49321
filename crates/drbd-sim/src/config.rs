//! What a simulated cluster looks like.

use drbd_engine::options::{
    DeviceOptions, DiskOptions, NetOptions, PeerDeviceOptions, ResourceOptions, WireProtocol,
};

use drbd_proto::{Features, VERSION_MAX};

use crate::clock::{MS, Time, US};
use crate::disk::Tearing;
use crate::net::NetSpeed;

/// A volume.
#[derive(Clone, Debug)]
pub struct VolumeConfig {
    /// Size of the backing device of each node, in bytes.
    pub device_bytes: Vec<u64>,
    /// Metadata at the end of the data device, or on a device of its own.
    pub internal: bool,
}

/// What the disks contain at the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initial {
    /// Fresh metadata over different garbage on each node.
    Fresh,
    /// Fresh metadata over equal content.
    Blank,
    /// Metadata with one day-0 UUID, UpToDate, over equal content.
    Provisioned,
}

/// A cluster.
#[derive(Clone, Debug)]
pub struct Config {
    /// Everything random follows from it.
    pub seed: u64,
    /// Number of nodes.
    pub nodes: usize,
    /// Which of them have no disk.
    pub diskless: Vec<bool>,
    /// The volumes.
    pub volumes: Vec<VolumeConfig>,
    /// What the disks contain.
    pub initial: Initial,
    /// Bitmap slots more than peers with a disk.
    pub spare_slots: u8,
    /// Bitmap slots of single nodes, whatever the rule says.
    pub slots: Vec<(usize, u8)>,
    /// Options of the resource.
    pub resource: ResourceOptions,
    /// Options of the connections.
    pub net: NetOptions,
    /// Wire protocols of single connections.
    pub protocols: Vec<(usize, usize, WireProtocol)>,
    /// Options of the disks.
    pub disk: DiskOptions,
    /// Options of the peer devices.
    pub peer_device: PeerDeviceOptions,
    /// Options of the volumes.
    pub device: DeviceOptions,
    /// Logical block sizes of the devices of single nodes in bytes; 512 otherwise.
    pub logical_blocks: Vec<(usize, u32)>,
    /// Bitmap block sizes of the metadata of single nodes in bytes; 4096 otherwise.
    pub bitmap_blocks: Vec<(usize, u32)>,
    /// Granularity of discards of the devices of single nodes in bytes, 0: they cannot discard; 4096 otherwise.
    pub discard_granularities: Vec<(usize, u32)>,
    /// A node whose peer closed one stream still reads what the other one brings, for a moment.
    pub drains: bool,
    /// The network's speed.
    pub net_speed: NetSpeed,
    /// Least and greatest time a disk operation takes.
    pub disk_speed: (Time, Time),
    /// The disks have a volatile cache.
    pub volatile_cache: bool,
    /// What a loss of power may do to metadata blocks.
    pub tearing: Tearing,
    /// Nodes have a program for handlers.
    pub helper: bool,
    /// The minor that each volume waits for with its resyncs.
    pub resync_after: Vec<Option<u32>>,
    /// Volumes a node resyncs at a time; 0: no limit.
    pub max_parallel_resyncs: usize,
    /// The highest protocol version of nodes that are older than this software.
    pub versions: Vec<(usize, u16)>,
}

impl Config {
    /// Nodes with one volume of 16 MiB each, default options.
    pub fn new(seed: u64, nodes: usize) -> Config {
        Config {
            seed,
            nodes,
            diskless: vec![false; nodes],
            volumes: vec![VolumeConfig {
                device_bytes: vec![16 << 20; nodes],
                internal: true,
            }],
            initial: Initial::Fresh,
            spare_slots: 0,
            slots: Vec::new(),
            resource: ResourceOptions::default(),
            net: NetOptions::default(),
            protocols: Vec::new(),
            disk: DiskOptions::default(),
            peer_device: PeerDeviceOptions::default(),
            device: DeviceOptions::default(),
            logical_blocks: Vec::new(),
            bitmap_blocks: Vec::new(),
            discard_granularities: Vec::new(),
            drains: false,
            net_speed: NetSpeed::default(),
            disk_speed: (50 * US, 2 * MS),
            volatile_cache: true,
            tearing: Tearing::Never,
            helper: false,
            resync_after: Vec::new(),
            max_parallel_resyncs: 0,
            versions: Vec::new(),
        }
    }

    /// Bitmap slots of the metadata of a node.
    pub fn slots(&self, node: usize) -> u8 {
        if let Some((_, slots)) = self.slots.iter().find(|(n, _)| *n == node) {
            return *slots;
        }
        let disks = self.diskless.iter().filter(|d| !**d).count() as u8;
        (disks.saturating_sub(1) + self.spare_slots).max(1)
    }

    /// The highest protocol version that both of two nodes speak, and the features that come with it. A version that
    /// is not the newest is that of a release, which knows no more features than that release.
    pub fn dialect(&self, a: usize, b: usize) -> (u16, Features) {
        let of = |n| {
            let found = self.versions.iter().find(|(m, _)| *m == n);
            found.map_or(VERSION_MAX, |(_, version)| *version)
        };
        let version = of(a).min(of(b));
        let of_9_0 = Features::TRIM | Features::THIN_RESYNC | Features::WSAME | Features::WZEROES;
        let of_9_2 = of_9_0
            | Features::RESYNC_DAGTAG
            | Features::TWOPC_V2
            | Features::RS_SKIP_UUID
            | Features::RESYNC_WITHOUT_REPLICATION;
        let features = match version {
            ..=100 => Features::NONE,
            101..=121 => of_9_0,
            122..VERSION_MAX => of_9_2,
            _ => Features::ALL | Features::COMPARE_LEFTOVER,
        };
        (version, features)
    }

    /// Options of the connection between two nodes.
    pub fn net_options(&self, a: usize, b: usize) -> NetOptions {
        let mut options = self.net.clone();
        for (x, y, protocol) in &self.protocols {
            if (*x, *y) == (a, b) || (*y, *x) == (a, b) {
                options.protocol = *protocol;
            }
        }
        options
    }
}
