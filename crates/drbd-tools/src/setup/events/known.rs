//! What is known of a resource, and which objects does it have? (CLI, section 16.1)

use std::collections::BTreeMap;
use std::net::SocketAddr;

use drbd_control::address::colons;
use drbd_control::protocol::{
    ConnectionState, DeviceState, PeerDeviceState, Resource, ResourceState,
};

use super::super::color::Side;
use super::super::status::{suspended, yes_no};
use super::fields::{Group, peer_device_groups};

pub(super) type PathKey = (SocketAddr, SocketAddr);

/// What is known of a resource.
#[derive(Default)]
pub(super) struct Known {
    pub(super) state: Option<ResourceState>,
    pub(super) devices: BTreeMap<u16, DeviceState>,
    pub(super) connections: BTreeMap<u8, ConnectionState>,
    pub(super) peer_devices: BTreeMap<(u8, u16), PeerDeviceState>,
    pub(super) paths: BTreeMap<(u8, PathKey), bool>,
    /// What was printed last of each object.
    pub(super) shown: BTreeMap<Key, Shown>,
}

pub(super) struct Shown {
    /// Keys that identify the object, for the line that says it is gone.
    pub(super) identity: String,
    pub(super) groups: Vec<Group>,
}

/// An object of a resource; the order is that of a batch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Key {
    Resource,
    Connection(u8),
    Device(u16),
    PeerDevice(u8, u16),
    Path(u8, PathKey),
}

impl Key {
    pub(super) fn kind(self) -> &'static str {
        match self {
            Key::Resource => "resource",
            Key::Connection(_) => "connection",
            Key::Device(_) => "device",
            Key::PeerDevice(..) => "peer-device",
            Key::Path(..) => "path",
        }
    }

    /// Whose states it has.
    pub(super) fn side(self) -> Side {
        match self {
            Key::Resource | Key::Device(_) => Side::Local,
            Key::Connection(_) | Key::PeerDevice(..) | Key::Path(..) => Side::Peer,
        }
    }

    /// Order in which objects are reported gone.
    pub(super) fn end_rank(self) -> u8 {
        match self {
            Key::PeerDevice(..) | Key::Path(..) => 0,
            Key::Connection(_) => 1,
            Key::Device(_) => 2,
            Key::Resource => 3,
        }
    }

    pub(super) fn peer(self) -> Option<u8> {
        match self {
            Key::PeerDevice(peer, _) | Key::Path(peer, _) => Some(peer),
            _ => None,
        }
    }
}

impl Known {
    pub(super) fn learn(&mut self, resource: Resource) {
        self.state = Some(resource.state);
        self.devices = resource
            .devices
            .into_iter()
            .map(|d| (d.volume, d.state))
            .collect();
        self.connections.clear();
        self.peer_devices.clear();
        self.paths.clear();
        for connection in resource.connections {
            for device in connection.peer_devices {
                self.peer_devices
                    .insert((connection.peer, device.volume), device.state);
            }
            self.learn_connection(connection.peer, connection.state);
        }
    }

    pub(super) fn learn_connection(&mut self, peer: u8, state: ConnectionState) {
        self.paths.retain(|(p, _), _| *p != peer);
        for path in &state.paths {
            self.paths
                .insert((peer, (path.local, path.remote)), path.established);
        }
        self.connections.insert(peer, state);
    }

    /// Every object with its identity and state.
    pub(super) fn objects(&self, name: &str, statistics: bool) -> BTreeMap<Key, Shown> {
        let mut all = BTreeMap::new();
        let connection_name = |peer: &u8| {
            let name = self.connections.get(peer).map_or("", |c| c.name.as_str());
            format!("peer-node-id:{peer} conn-name:{name}")
        };
        let mut add = |key, identity, groups| {
            all.insert(key, Shown { identity, groups });
        };
        if let Some(state) = &self.state {
            let (may, score) = self.promotion();
            let mut groups = vec![
                vec![("role", state.role.clone())],
                vec![("suspended", suspended(state))],
                vec![("force-io-failures", yes_no(state.force_io_failures).into())],
            ];
            if statistics {
                groups.push(vec![("write-ordering", state.write_ordering.clone())]);
            }
            groups.push(vec![
                ("may_promote", yes_no(may).into()),
                ("promotion_score", score.to_string()),
            ]);
            add(Key::Resource, format!("name:{name}"), groups);
        }
        for (peer, state) in &self.connections {
            let mut groups = vec![
                vec![("connection", state.connection.clone())],
                vec![("role", state.role.clone())],
            ];
            if statistics {
                groups.push(vec![("congested", yes_no(state.congested).into())]);
                groups.push(vec![
                    ("ap-in-flight", state.ap_in_flight.to_string()),
                    ("rs-in-flight", state.rs_in_flight.to_string()),
                ]);
            }
            add(
                Key::Connection(*peer),
                format!("name:{name} {}", connection_name(peer)),
                groups,
            );
        }
        for (volume, state) in &self.devices {
            let backing = state.backing_dev.clone().unwrap_or_else(|| "none".into());
            let mut groups = vec![vec![
                ("backing_dev", backing),
                ("disk", state.disk.clone()),
                ("client", yes_no(state.client).into()),
                ("open", yes_no(state.open).into()),
                ("quorum", yes_no(state.quorum).into()),
            ]];
            if statistics {
                groups.push(vec![
                    ("size", (state.size / 2).to_string()),
                    ("read", (state.read / 2).to_string()),
                    ("written", (state.written / 2).to_string()),
                    ("al-writes", state.al_writes.to_string()),
                    ("bm-writes", state.bm_writes.to_string()),
                    ("upper-pending", state.upper_pending.to_string()),
                    ("lower-pending", state.lower_pending.to_string()),
                ]);
                groups.push(vec![("al-suspended", yes_no(state.al_suspended).into())]);
                groups.push(vec![("blocked", state.blocked.clone())]);
            }
            let identity = format!("name:{name} volume:{volume} minor:{}", state.minor);
            add(Key::Device(*volume), identity, groups);
        }
        for ((peer, volume), state) in &self.peer_devices {
            let identity = format!("name:{name} {} volume:{volume}", connection_name(peer));
            let groups = peer_device_groups(state, statistics);
            add(Key::PeerDevice(*peer, *volume), identity, groups);
        }
        for ((peer, (local, remote)), established) in &self.paths {
            let (from, to) = (colons(local), colons(remote));
            let identity = format!(
                "name:{name} {} local:{from} peer:{to}",
                connection_name(peer)
            );
            let groups = vec![vec![("established", yes_no(*established).into())]];
            add(Key::Path(*peer, (*local, *remote)), identity, groups);
        }
        all
    }
}
