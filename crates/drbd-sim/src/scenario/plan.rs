//! From a seed to a cluster and a kind of weather.

use drbd_engine::options::{OnNoData, OnNoQuorum, PeerDeviceOptions, Quorum, WireProtocol};

use drbd_proto::max_request_size;

use super::policies::Policies;
use crate::app::Profile;
use crate::clock::{MS, SEC, Time, US};
use crate::config::{Config, Initial, VolumeConfig};
use crate::disk::Tearing;
use crate::net::NetSpeed;
use crate::rng::Rng;

/// What may happen in a run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The cluster.
    pub config: Config,
    /// Applications.
    pub profile: Profile,
    /// Requests of all applications together.
    pub requests: u64,
    /// Number of things that happen.
    pub steps: u64,
    /// Longest pause between two of them.
    pub pause: Time,
    /// Machines may lose power.
    pub power: bool,
    /// Several machines may lose power at the same time. Then even what was acknowledged may be gone, and
    /// the rules of the handshake do not promise that replicas become equal by themselves.
    pub blackouts: bool,
    /// Machines may crash.
    pub crashes: bool,
    /// Disks may fail.
    pub disk_errors: bool,
    /// The network may fail.
    pub network: bool,
    /// Administrators do more than necessary.
    pub admin: bool,
    /// With quorum, anybody may try to become Primary at any time.
    pub quorum: bool,
    /// The Primary's loss of acknowledged writes at a takeover is allowed: protocol A or B.
    pub asynchronous: bool,
    /// Volumes whose metadata is elsewhere grow.
    pub grow: bool,
    /// Policies and handlers.
    pub policies: Option<Policies>,
}

/// What the command line fixes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wishes {
    /// Number of nodes.
    pub nodes: Option<usize>,
    /// No faults at all.
    pub calm: bool,
    /// Volumes grow.
    pub grow: bool,
    /// Nodes of different protocol versions.
    pub mixed: bool,
    /// Policies and handlers at random.
    pub policies: bool,
}

/// The plan of a seed.
pub fn plan(seed: u64, wishes: &Wishes) -> Plan {
    let mut rng = Rng::new(seed ^ 0x5eed);
    let nodes = wishes
        .nodes
        .unwrap_or_else(|| rng.pick(&[2, 2, 2, 3, 3, 3, 4]))
        .clamp(1, 7);
    let mut config = Config::new(seed, nodes);
    let volumes = if rng.percent(25) { 2 } else { 1 };
    let large = rng.percent(15);
    config.volumes = (0..volumes)
        .map(|_| volume(&mut rng, nodes, large))
        .collect();
    if nodes > 2 && rng.percent(25) {
        config.diskless[rng.below(nodes as u64) as usize] = true;
    }
    if wishes.grow {
        config.volumes.iter_mut().for_each(|v| v.internal = false);
    }
    config.initial = if large || rng.percent(60) {
        // Who declares disks identical has made them alike.
        for v in &mut config.volumes {
            let least = v.device_bytes.iter().copied().min().unwrap_or(0);
            v.device_bytes.fill(least);
        }
        Initial::Provisioned
    } else {
        Initial::Fresh
    };
    config.spare_slots = rng.pick(&[0, 0, 1]);
    let quorum = nodes >= 3 && rng.percent(50);
    if quorum {
        config.resource.quorum = Quorum::Majority;
        config.resource.on_no_quorum = rng.pick(&[OnNoQuorum::SuspendIo, OnNoQuorum::IoError]);
    }
    config.resource.on_no_data =
        rng.pick(&[OnNoData::IoError, OnNoData::IoError, OnNoData::SuspendIo]);
    config.resource.auto_promote = rng.percent(70);
    let asynchronous = rng.percent(20);
    if asynchronous {
        config.net.protocol = rng.pick(&[WireProtocol::A, WireProtocol::B]);
        if nodes > 2 && rng.percent(50) {
            config.protocols.push((0, 1, WireProtocol::C));
        }
    }
    config.net.connect_int = std::time::Duration::from_secs(rng.range(1, 3));
    config.net.ping_int = std::time::Duration::from_secs(rng.pick(&[1, 2, 10]));
    config.net.max_epoch_size = rng.pick(&[1, 3, 2048, 2048]);
    config.net.max_buffers = rng.pick(&[32, 2048, 2048]);
    config.net.use_rle = rng.percent(70);
    if rng.percent(20) {
        config.net.csums_alg = "sha1".into();
    }
    config.net.verify_alg = "md5".into();
    config.disk.al_extents = rng.pick(&[67, 67, 1237]);
    config.disk.al_updates = !rng.percent(3);
    config.peer_device = PeerDeviceOptions {
        resync_rate: 20_000,
        c_min_rate: rng.pick(&[0, 250, 20_000]),
        resync_without_replication: rng.percent(50),
        ..PeerDeviceOptions::default()
    };
    thin_and_throttled(seed, large, &mut config);
    config.net_speed = match rng.below(4) {
        0 => NetSpeed {
            least: 10 * US,
            most: 50 * US,
            split_percent: 5,
        },
        1 => NetSpeed {
            least: 100 * US,
            most: 20 * MS,
            split_percent: 30,
        },
        _ => NetSpeed::default(),
    };
    config.disk_speed = rng.pick(&[(20 * US, 200 * US), (50 * US, 2 * MS), (MS, 15 * MS)]);
    config.volatile_cache = rng.percent(80);
    config.tearing = if rng.percent(30) {
        Tearing::Sectors
    } else {
        Tearing::Never
    };
    let profile = Profile {
        workers: rng.range(1, 5) as usize,
        think: (
            rng.pick(&[0, 100 * US, 5 * MS]),
            rng.pick(&[2 * MS, 30 * MS, 300 * MS]),
        ),
        reads: rng.pick(&[10, 30]),
        hot: if large { 10 } else { rng.pick(&[20, 50, 90]) },
        discards: rng.pick(&[0, 3]),
        ..Profile::default()
    };
    let calm = wishes.calm || rng.percent(4);
    if wishes.mixed {
        config.versions = versions(seed, nodes, config.volumes.len());
        for (_, version) in &config.versions {
            config.device.max_bio_size = max_request_size(*version);
        }
    }
    let mut plan = Plan {
        requests: rng.range(50, 500),
        steps: if calm { 3 } else { rng.range(3, 25) },
        pause: rng.pick(&[200 * MS, 2 * SEC, 5 * SEC]),
        power: !calm && rng.percent(40),
        blackouts: rng.percent(10),
        crashes: !calm && rng.percent(70),
        disk_errors: !calm && rng.percent(15),
        network: !calm && rng.percent(80),
        admin: !calm && rng.percent(40),
        quorum,
        asynchronous,
        grow: wishes.grow,
        policies: None,
        config,
        profile,
    };
    if wishes.policies {
        super::policies::draw(seed, calm, &mut plan);
    }
    plan
}

/// The protocol versions of nodes that are older than this software. Chance of its own, so that everything else about the
/// seed is as it is without.
fn versions(seed: u64, nodes: usize, volumes: usize) -> Vec<(usize, u16)> {
    let mut rng = Rng::new(seed ^ 0x0dd_4e55);
    if nodes == 2 && rng.percent(30) {
        // A node of the 8 series has one peer; before 100 a connection is about one volume, and before 91 a missed start
        // or end of a resync cannot be made up for.
        let version = match volumes {
            1 => rng.pick(&[101, 101, 101, 100, 97, 96, 95, 94, 93, 92, 91]),
            _ => rng.pick(&[101, 100]),
        };
        return vec![(rng.below(2) as usize, version)];
    }
    let mut found = Vec::new();
    for n in 0..nodes {
        if rng.percent(50) {
            found.push((n, rng.pick(&[118, 119, 120, 121, 122, 123])));
        }
    }
    found
}

/// Thin resyncs, and resyncs that make way for applications, in some of the runs: the others keep their meaning.
fn thin_and_throttled(seed: u64, large: bool, config: &mut Config) {
    if seed % 8 != 7 {
        config.peer_device.c_min_rate = 0;
        return;
    }
    let thin = Rng::new(seed ^ 0x7419).pick(&[0, 8 << 10, 64 << 10]);
    config.disk.rs_discard_granularity = if large { thin * 16 } else { thin };
}

fn volume(rng: &mut Rng, nodes: usize, large: bool) -> VolumeConfig {
    let mib = if large {
        rng.range(300, 400)
    } else {
        rng.range(2, 24)
    };
    let mut device_bytes = vec![mib << 20; nodes];
    match rng.below(3) {
        // All alike, all alike but odd, or each different.
        0 => {}
        1 => device_bytes.fill((mib << 20) + 512 * rng.range(1, 127)),
        _ => device_bytes
            .iter_mut()
            .for_each(|b| *b += 512 * rng.below(4000)),
    }
    VolumeConfig {
        device_bytes,
        internal: rng.percent(70),
    }
}
