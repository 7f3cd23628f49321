//! `drbdsetup events2`: the current state and every change of it as lines (CLI, section 16).

use std::collections::BTreeMap;
use std::net::SocketAddr;

use drbd_node::control::address::colons;
use drbd_node::control::protocol::{
    ConnectionState, DeviceState, Event, PeerDeviceState, Resource, ResourceState,
};

use super::status::{done, speed, suspended, yes_no};

/// What is wanted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted {
    /// `--statistics`.
    pub(super) statistics: bool,
    /// `--full`.
    pub(super) full: bool,
    /// `--diff`.
    pub(super) diff: bool,
}

/// Keys and values that are printed together.
type Group = Vec<(&'static str, String)>;

type PathKey = (SocketAddr, SocketAddr);

/// What is known of a resource.
#[derive(Default)]
struct Known {
    state: Option<ResourceState>,
    devices: BTreeMap<u16, DeviceState>,
    connections: BTreeMap<u8, ConnectionState>,
    peer_devices: BTreeMap<(u8, u16), PeerDeviceState>,
    paths: BTreeMap<(u8, PathKey), bool>,
    /// What was printed last of each object.
    shown: BTreeMap<Key, Shown>,
}

struct Shown {
    /// Keys that identify the object, for the line that says it is gone.
    identity: String,
    groups: Vec<Group>,
}

/// An object of a resource; the order is that of a batch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Key {
    Resource,
    Connection(u8),
    Device(u16),
    PeerDevice(u8, u16),
    Path(u8, PathKey),
}

impl Key {
    fn kind(self) -> &'static str {
        match self {
            Key::Resource => "resource",
            Key::Connection(_) => "connection",
            Key::Device(_) => "device",
            Key::PeerDevice(..) => "peer-device",
            Key::Path(..) => "path",
        }
    }

    /// Order in which objects are reported gone.
    fn end_rank(self) -> u8 {
        match self {
            Key::PeerDevice(..) | Key::Path(..) => 0,
            Key::Connection(_) => 1,
            Key::Device(_) => 2,
            Key::Resource => 3,
        }
    }

    fn peer(self) -> Option<u8> {
        match self {
            Key::PeerDevice(peer, _) | Key::Path(peer, _) => Some(peer),
            _ => None,
        }
    }
}

impl Known {
    fn learn(&mut self, resource: Resource) {
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

    fn learn_connection(&mut self, peer: u8, state: ConnectionState) {
        self.paths.retain(|(p, _), _| *p != peer);
        for path in &state.paths {
            self.paths
                .insert((peer, (path.local, path.remote)), path.established);
        }
        self.connections.insert(peer, state);
    }

    /// May the resource be promoted here, and how well would that be (section 16.3).
    fn promotion(&self) -> (bool, u32) {
        let nothing = (false, 0);
        let Some(resource) = &self.state else {
            return nothing;
        };
        let quorum = self.devices.values().all(|d| d.quorum);
        if self.devices.is_empty() || resource.force_io_failures || !quorum {
            return nothing;
        }
        let up_to_date = |disk: &str| disk == "UpToDate";
        let replicas = |(volume, device): (&u16, &DeviceState)| {
            let peers = self.peer_devices.iter().filter(|((_, nr), _)| nr == volume);
            let peers = peers
                .filter(|(_, state)| up_to_date(&state.peer_disk))
                .count();
            usize::from(up_to_date(&device.disk)) + peers
        };
        let least = self.devices.iter().map(replicas).min().unwrap_or(0);
        if least == 0 {
            return nothing;
        }
        let nobody =
            resource.role != "Primary" && self.connections.values().all(|c| c.role != "Primary");
        let usable = |disk: &str| matches!(disk, "Inconsistent" | "Consistent" | "UpToDate");
        let own_disks = self.devices.values().all(|d| usable(&d.disk));
        let own = self
            .devices
            .values()
            .filter(|d| up_to_date(&d.disk))
            .count();
        let count = |n: usize| u32::try_from(n.min(99)).unwrap_or(99);
        (
            nobody,
            u32::from(own_disks) * 10_000 + 100 * count(own) + count(least),
        )
    }

    /// Every object with its identity and state.
    fn objects(&self, name: &str, statistics: bool) -> BTreeMap<Key, Shown> {
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
                groups.push(vec![("blocked", "no".into())]);
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

fn peer_device_groups(state: &PeerDeviceState, statistics: bool) -> Vec<Group> {
    let mut groups = vec![
        vec![("replication", state.replication.clone())],
        vec![
            ("peer-disk", state.peer_disk.clone()),
            ("peer-client", yes_no(state.peer_client).into()),
        ],
        vec![("resync-suspended", state.resync_suspended.clone())],
    ];
    let percent = state.sync.as_ref().and_then(done);
    groups.push(
        percent
            .map(|percent| ("done", format!("{percent:.2}")))
            .into_iter()
            .collect(),
    );
    if statistics {
        let mut group = vec![
            ("received", (state.received / 2).to_string()),
            ("sent", (state.sent / 2).to_string()),
            ("out-of-sync", (state.out_of_sync / 2).to_string()),
            ("pending", state.pending.to_string()),
            ("unacked", state.unacked.to_string()),
        ];
        if let Some(sync) = &state.sync {
            let (speed, eta) = speed(sync);
            group.push(("dbdt1", format!("{speed:.2}")));
            group.push((
                "eta",
                eta.map_or_else(|| "nan".into(), |eta| eta.to_string()),
            ));
        }
        groups.push(group);
    }
    groups
}

/// Turns events into lines.
pub(super) struct Printer {
    wanted: Wanted,
    known: BTreeMap<String, Known>,
    initial: bool,
}

impl Printer {
    pub(super) fn new(wanted: Wanted) -> Printer {
        Printer {
            wanted,
            known: BTreeMap::new(),
            initial: true,
        }
    }

    /// The lines that an event gives, without time stamps. Changes that continue give theirs with the last.
    pub(super) fn lines(&mut self, event: Event) -> Vec<String> {
        let (resource, continues) = match event {
            Event::SnapshotsEnd => {
                self.initial = false;
                return vec!["exists -".to_owned()];
            }
            Event::Helper {
                resource,
                helper,
                peer,
                volume,
                status,
            } => {
                return vec![self.helper(&resource, &helper, peer, volume, status)];
            }
            Event::Snapshot(snapshot) => {
                let name = snapshot.name.clone();
                self.known.entry(name.clone()).or_default().learn(*snapshot);
                (name, false)
            }
            Event::Gone { resource } => {
                let known = self.known.entry(resource.clone()).or_default();
                let shown = std::mem::take(&mut known.shown);
                *known = Known {
                    shown,
                    ..Known::default()
                };
                (resource, false)
            }
            Event::Resource {
                resource,
                state,
                continues,
            } => {
                self.known.entry(resource.clone()).or_default().state = state;
                (resource, continues)
            }
            Event::Connection {
                resource,
                peer,
                state,
                continues,
            } => {
                let known = self.known.entry(resource.clone()).or_default();
                match state {
                    Some(state) => known.learn_connection(peer, state),
                    None => {
                        known.connections.remove(&peer);
                        known.peer_devices.retain(|(p, _), _| *p != peer);
                        known.paths.retain(|(p, _), _| *p != peer);
                    }
                }
                (resource, continues)
            }
            Event::Device {
                resource,
                volume,
                state,
                continues,
            } => {
                set(
                    &mut self.known.entry(resource.clone()).or_default().devices,
                    volume,
                    state,
                );
                (resource, continues)
            }
            Event::PeerDevice {
                resource,
                peer,
                volume,
                state,
                continues,
            } => {
                let known = self.known.entry(resource.clone()).or_default();
                set(&mut known.peer_devices, (peer, volume), state);
                (resource, continues)
            }
            Event::Path {
                resource,
                peer,
                local,
                remote,
                established,
                continues,
            } => {
                let known = self.known.entry(resource.clone()).or_default();
                set(&mut known.paths, (peer, (local, remote)), established);
                (resource, continues)
            }
        };
        if continues {
            Vec::new()
        } else {
            self.batch(&resource)
        }
    }

    /// What differs from what was shown of a resource.
    fn batch(&mut self, name: &str) -> Vec<String> {
        let statistics = self.wanted.statistics || self.wanted.full;
        let Some(known) = self.known.get_mut(name) else {
            return Vec::new();
        };
        let now = known.objects(name, statistics);
        let before = std::mem::replace(&mut known.shown, now);
        let mut lines = Vec::new();
        for (key, shown) in &known.shown {
            let old = before.get(key).map(|old| old.groups.as_slice());
            let kind = match (old, self.initial) {
                (None, true) => "exists",
                (None, false) => "create",
                (Some(_), _) => "change",
            };
            let fields = fields(old, &shown.groups, self.wanted);
            if old.is_none() || !fields.is_empty() {
                lines.push(format!("{kind} {} {}{fields}", key.kind(), shown.identity));
            }
        }
        let mut gone: Vec<_> = before
            .iter()
            .filter(|(key, _)| !known.shown.contains_key(key))
            .collect();
        gone.sort_by_key(|(key, _)| (key.end_rank(), **key));
        for (key, shown) in gone {
            // With a connection everything in it goes without saying.
            if key
                .peer()
                .is_some_and(|peer| !known.connections.contains_key(&peer))
            {
                continue;
            }
            let mut identity = shown.identity.as_str();
            if let (Key::Device(_), Some((short, _))) = (key, identity.split_once(" minor:")) {
                identity = short;
            }
            lines.push(format!("destroy {} {identity}", key.kind()));
        }
        if known.state.is_none() && known.shown.is_empty() {
            self.known.remove(name);
        }
        lines
    }

    fn helper(
        &self,
        resource: &str,
        helper: &str,
        peer: Option<u8>,
        volume: Option<u16>,
        status: Option<i32>,
    ) -> String {
        let kind = if status.is_some() { "response" } else { "call" };
        let mut line = format!("{kind} helper name:{resource}");
        let known = self.known.get(resource);
        if let Some(peer) = peer {
            let connection = known.and_then(|k| k.connections.get(&peer));
            let name = connection.map_or("", |c| c.name.as_str());
            line.push_str(&format!(" peer-node-id:{peer} conn-name:{name}"));
        }
        if let Some(volume) = volume {
            line.push_str(&format!(" volume:{volume}"));
            if let Some(device) = known.and_then(|k| k.devices.get(&volume)) {
                line.push_str(&format!(" minor:{}", device.minor));
            }
        }
        line.push_str(&format!(" helper:{helper}"));
        if let Some(status) = status {
            line.push_str(&format!(" status:{status}"));
        }
        line
    }
}

fn set<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => {
            map.insert(key, value);
        }
        None => {
            map.remove(&key);
        }
    }
}

/// The fields to print, each with a blank before it; empty if nothing changed.
fn fields(old: Option<&[Group]>, new: &[Group], wanted: Wanted) -> String {
    let mut out = String::new();
    let changed = old.is_none_or(|old| old != new);
    for (n, group) in new.iter().enumerate() {
        let before = old.and_then(|old| old.get(n));
        if !changed || (before == Some(group) && !wanted.full) {
            continue;
        }
        for (key, value) in group {
            let previous = before
                .and_then(|b| b.iter().find(|(k, _)| k == key))
                .map(|(_, v)| v.as_str());
            out.push(' ');
            // Unchanged fields of a device are printed plainly, but for the disk state.
            let device = group.iter().any(|(key, _)| *key == "backing_dev") && *key != "disk";
            if wanted.diff && (previous != Some(value) || !device) {
                let nothing = if *key == "promotion_score" {
                    "0"
                } else {
                    "UNKNOWN"
                };
                out.push_str(&format!("{key}:{}->{value}", previous.unwrap_or(nothing)));
            } else {
                out.push_str(&format!("{key}:{value}"));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use drbd_node::control::protocol::{Connection, Device, Path, PeerDevice, Sync};

    use super::*;

    fn resource() -> Resource {
        let path = Path {
            local: "10.1.1.31:7000".parse().unwrap(),
            remote: "10.1.1.32:7000".parse().unwrap(),
            established: true,
        };
        Resource {
            name: "r0".into(),
            node_id: 0,
            state: ResourceState {
                role: "Secondary".into(),
                suspended_user: false,
                suspended_no_data: false,
                suspended_fencing: false,
                suspended_quorum: false,
                force_io_failures: false,
                write_ordering: "flush".into(),
            },
            devices: vec![Device {
                volume: 0,
                state: DeviceState {
                    minor: 1,
                    disk: "UpToDate".into(),
                    client: false,
                    open: false,
                    quorum: true,
                    backing_dev: Some("/dev/vg0/r0".into()),
                    size: 20_971_520,
                    read: 2048,
                    written: 4096,
                    al_writes: 7,
                    bm_writes: 3,
                    upper_pending: 1,
                    lower_pending: 0,
                    al_suspended: false,
                },
            }],
            connections: vec![Connection {
                peer: 1,
                state: ConnectionState {
                    name: "bravo".into(),
                    connection: "Connected".into(),
                    role: "Secondary".into(),
                    congested: false,
                    ap_in_flight: 16,
                    rs_in_flight: 32,
                    paths: vec![path],
                },
                peer_devices: vec![PeerDevice {
                    volume: 0,
                    state: peer_device("Established"),
                }],
            }],
        }
    }

    fn peer_device(replication: &str) -> PeerDeviceState {
        PeerDeviceState {
            replication: replication.into(),
            peer_disk: "UpToDate".into(),
            peer_client: false,
            resync_suspended: "no".into(),
            received: 1024,
            sent: 0,
            out_of_sync: 0,
            pending: 0,
            unacked: 0,
            sync: None,
        }
    }

    /// The lines of the recorded example: exists, a promotion, an outage.
    #[test]
    fn recorded_lines() {
        let mut p = Printer::new(Wanted::default());
        let mut lines = p.lines(Event::Snapshot(Box::new(resource())));
        lines.extend(p.lines(Event::SnapshotsEnd));
        assert_eq!(
            lines,
            [
                "exists resource name:r0 role:Secondary suspended:no force-io-failures:no may_promote:yes promotion_score:10102",
                "exists connection name:r0 peer-node-id:1 conn-name:bravo connection:Connected role:Secondary",
                "exists device name:r0 volume:0 minor:1 backing_dev:/dev/vg0/r0 disk:UpToDate client:no open:no quorum:yes",
                "exists peer-device name:r0 peer-node-id:1 conn-name:bravo volume:0 replication:Established peer-disk:UpToDate peer-client:no resync-suspended:no",
                "exists path name:r0 peer-node-id:1 conn-name:bravo local:ipv4:10.1.1.31:7000 peer:ipv4:10.1.1.32:7000 established:yes",
                "exists -",
            ]
        );
        let mut r = resource();
        r.state.role = "Primary".into();
        let state = Some(r.state.clone());
        assert_eq!(
            p.lines(Event::Resource {
                resource: "r0".into(),
                state,
                continues: false
            }),
            ["change resource name:r0 role:Primary may_promote:no promotion_score:10102"]
        );
        let mut connection = r.connections[0].state.clone();
        connection.connection = "NetworkFailure".into();
        connection.role = "Unknown".into();
        let state = Some(connection);
        let lines = p.lines(Event::Connection {
            resource: "r0".into(),
            peer: 1,
            state,
            continues: true,
        });
        assert!(lines.is_empty(), "the batch is not complete");
        let mut lost = peer_device("Off");
        lost.peer_disk = "DUnknown".into();
        let event = Event::PeerDevice {
            resource: "r0".into(),
            peer: 1,
            volume: 0,
            state: Some(lost),
            continues: false,
        };
        assert_eq!(
            p.lines(event),
            [
                "change resource name:r0 may_promote:no promotion_score:10101",
                "change connection name:r0 peer-node-id:1 conn-name:bravo connection:NetworkFailure role:Unknown",
                "change peer-device name:r0 peer-node-id:1 conn-name:bravo volume:0 replication:Off peer-disk:DUnknown peer-client:no",
            ]
        );
        let mut sync = peer_device("SyncSource");
        sync.peer_disk = "Inconsistent".into();
        let progress = Sync {
            total: 1000,
            left: 500,
            failed: 0,
            same_csum: 0,
            elapsed_ms: 1000,
            paused_ms: 0,
            window_ms: 1000,
            window_sectors: 500,
        };
        for (left, expected) in [
            (
                1000,
                "change peer-device name:r0 peer-node-id:1 conn-name:bravo volume:0 replication:SyncSource peer-disk:Inconsistent peer-client:no done:0.00",
            ),
            (
                500,
                "change peer-device name:r0 peer-node-id:1 conn-name:bravo volume:0 done:50.00",
            ),
        ] {
            sync.sync = Some(Sync { left, ..progress });
            let state = Some(sync.clone());
            let event = Event::PeerDevice {
                resource: "r0".into(),
                peer: 1,
                volume: 0,
                state,
                continues: false,
            };
            assert_eq!(p.lines(event), [expected]);
        }
    }

    #[test]
    fn objects_end() {
        let mut p = Printer::new(Wanted::default());
        p.lines(Event::Snapshot(Box::new(resource())));
        p.lines(Event::SnapshotsEnd);
        let event = Event::Connection {
            resource: "r0".into(),
            peer: 1,
            state: None,
            continues: false,
        };
        let lines = p.lines(event);
        assert_eq!(
            lines[1],
            "destroy connection name:r0 peer-node-id:1 conn-name:bravo"
        );
        assert_eq!(lines.len(), 2, "{lines:?}");
        let lines = p.lines(Event::Gone {
            resource: "r0".into(),
        });
        assert_eq!(
            lines,
            [
                "destroy device name:r0 volume:0",
                "destroy resource name:r0"
            ]
        );
        let lines = p.lines(Event::Snapshot(Box::new(resource())));
        assert!(lines[0].starts_with("create resource name:r0"));
    }

    #[test]
    fn differences_and_statistics() {
        let mut p = Printer::new(Wanted {
            diff: true,
            ..Wanted::default()
        });
        let lines = p.lines(Event::Snapshot(Box::new(resource())));
        assert!(lines[0].contains("role:UNKNOWN->Secondary"));
        let mut state = resource().state;
        state.role = "Primary".into();
        let event = Event::Resource {
            resource: "r0".into(),
            state: Some(state),
            continues: false,
        };
        assert_eq!(
            p.lines(event),
            [
                "change resource name:r0 role:Secondary->Primary may_promote:yes->no promotion_score:10102->10102"
            ]
        );
        let mut p = Printer::new(Wanted {
            statistics: true,
            ..Wanted::default()
        });
        let lines = p.lines(Event::Snapshot(Box::new(resource())));
        assert!(lines[0].contains("write-ordering:flush"));
        assert!(
            lines[2].contains("size:10485760 read:1024 written:2048 al-writes:7"),
            "{}",
            lines[2]
        );
    }
}
