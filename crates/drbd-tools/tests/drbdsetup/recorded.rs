//! The objects of the recorded outputs: states from `status.json`, settings from `show.json`.

use std::net::SocketAddr;

use drbd_config::options::{DEVICE, DISK, Kind, NET, OptionDef, PEER_DEVICE, RESOURCE};
use drbd_control::protocol::{
    BackingConfig, Config, Connection, ConnectionConfig, ConnectionState, Device, DeviceState,
    Options, Path, PeerDevice, PeerDeviceState, Resource, ResourceState, Sync, Verify,
    VolumeConfig, WaitTimeout,
};
use serde_json::Value;

/// A recording.
macro_rules! recorded {
    ($name:literal) => {
        include_str!(concat!("../data/runtime/", $name))
    };
}
pub(crate) use recorded;

fn text(v: &Value, key: &str) -> String {
    let found = v[key].as_str();
    found.unwrap_or_else(|| panic!("{key} in {v}")).to_owned()
}

fn number<T: TryFrom<u64, Error: std::fmt::Debug>>(v: &Value, key: &str) -> T {
    let found = v[key].as_u64();
    found
        .unwrap_or_else(|| panic!("{key} in {v}"))
        .try_into()
        .unwrap()
}

fn flag(v: &Value, key: &str) -> bool {
    v[key].as_bool().unwrap_or_else(|| panic!("{key} in {v}"))
}

fn list<'a>(v: &'a Value, key: &str) -> &'a [Value] {
    v[key].as_array().map_or(&[], Vec::as_slice)
}

fn address(v: &Value) -> SocketAddr {
    SocketAddr::new(text(v, "address").parse().unwrap(), number(v, "port"))
}

fn sync(v: &Value) -> Sync {
    let verify = v.get("ov-left").map(|_| Verify {
        start: number(v, "ov-start-sector"),
        stop: v["ov-stop-sector"].as_u64(),
        position: number(v, "ov-position"),
        skipped: number(v, "ov-skipped"),
    });
    let failed = v["rs-failed"].as_u64().unwrap_or(0);
    let left = v["ov-left"].as_u64();
    Sync {
        total: number(v, "rs-total"),
        left: left.unwrap_or_else(|| number::<u64>(v, "out-of-sync") * 2 - failed),
        failed,
        same_csum: v["rs-same-csum"].as_u64().unwrap_or(0),
        elapsed_ms: number(v, "rs-dt-start-ms"),
        paused_ms: number(v, "rs-paused-ms"),
        windows: [
            (number(v, "rs-dt0-ms"), number(v, "rs-db0-sectors")),
            (number(v, "rs-dt1-ms"), number(v, "rs-db1-sectors")),
        ],
        want: (v["want"].as_f64().unwrap() * 1024.0) as u64,
        verify,
    }
}

fn peer_device(v: &Value) -> PeerDevice {
    PeerDevice {
        volume: number(v, "volume"),
        state: PeerDeviceState {
            replication: text(v, "replication-state"),
            peer_disk: text(v, "peer-disk-state"),
            peer_client: flag(v, "peer-client"),
            resync_suspended: text(v, "resync-suspended"),
            received: number::<u64>(v, "received") * 2,
            sent: number::<u64>(v, "sent") * 2,
            out_of_sync: number::<u64>(v, "out-of-sync") * 2,
            pending: number(v, "pending"),
            unacked: number(v, "unacked"),
            stable: true,
            wait: WaitTimeout::Normal,
            sync: flag(v, "has-sync-details").then(|| sync(v)),
        },
    }
}

fn connection(v: &Value) -> Connection {
    let path = |p: &Value| Path {
        local: address(&p["this_host"]),
        remote: address(&p["remote_host"]),
        established: flag(p, "established"),
    };
    Connection {
        peer: number(v, "peer-node-id"),
        state: ConnectionState {
            name: text(v, "name"),
            connection: text(v, "connection-state"),
            role: text(v, "peer-role"),
            congested: flag(v, "congested"),
            tls: flag(v, "tls"),
            ap_in_flight: number(v, "ap-in-flight"),
            rs_in_flight: number(v, "rs-in-flight"),
            paths: list(v, "paths").iter().map(path).collect(),
        },
        peer_devices: list(v, "peer_devices").iter().map(peer_device).collect(),
    }
}

fn device(v: &Value, configs: &[Config]) -> Device {
    let minor = number(v, "minor");
    let mut volumes = configs.iter().flat_map(|c| &c.volumes);
    let config = volumes.find(|c| c.minor == minor).unwrap();
    Device {
        volume: number(v, "volume"),
        state: DeviceState {
            minor,
            disk: text(v, "disk-state"),
            client: flag(v, "client"),
            open: flag(v, "open"),
            quorum: flag(v, "quorum"),
            backing_dev: config.backing.as_ref().map(|b| b.disk.clone()),
            size: number::<u64>(v, "size") * 2,
            read: number::<u64>(v, "read") * 2,
            written: number::<u64>(v, "written") * 2,
            al_writes: number(v, "al-writes"),
            bm_writes: number(v, "bm-writes"),
            upper_pending: number(v, "upper-pending"),
            lower_pending: number(v, "lower-pending"),
            al_suspended: false,
            blocked: "no".into(),
        },
    }
}

/// The states.
pub(crate) fn resources() -> Vec<Resource> {
    let configs = configs();
    let value: Value = serde_json::from_str(recorded!("status.json")).unwrap();
    let one = |v: &Value| Resource {
        name: text(v, "name"),
        node_id: number(v, "node-id"),
        state: ResourceState {
            role: text(v, "role"),
            suspended_user: flag(v, "suspended-user"),
            suspended_no_data: flag(v, "suspended-no-data"),
            suspended_fencing: flag(v, "suspended-fencing"),
            suspended_quorum: flag(v, "suspended-quorum"),
            force_io_failures: flag(v, "force-io-failures"),
            write_ordering: text(v, "write-ordering"),
        },
        devices: list(v, "devices")
            .iter()
            .map(|d| device(d, &configs))
            .collect(),
        connections: list(v, "connections").iter().map(connection).collect(),
    };
    // In whatever order: sorting is the tool's work.
    let mut all: Vec<Resource> = value.as_array().unwrap().iter().map(one).collect();
    assert_eq!(all.len(), 3);
    all.reverse();
    all
}

fn default_text(def: &OptionDef) -> String {
    match def.kind {
        Kind::Text { .. } | Kind::Key => String::new(),
        _ => def.show(&def.default_value()),
    }
}

/// Options that differ from their defaults; a daemon keeps no others.
fn options(value: &Value, table: &'static [OptionDef]) -> Options {
    let mut found = Options::new();
    for def in table {
        let text = match value.get(def.name) {
            Some(Value::Bool(yes)) => if *yes { "yes" } else { "no" }.to_owned(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => panic!("{}: {other}", def.name),
            None => continue,
        };
        if text != default_text(def) {
            found.insert(def.name.to_owned(), text);
        }
    }
    found
}

fn volume(v: &Value) -> VolumeConfig {
    let disk = &v["disk"];
    let mut device = options(disk, DEVICE);
    let diskless = device.remove("diskless").is_some_and(|v| v == "yes");
    let backing = v.get("backing-disk").map(|_| {
        let meta = text(v, "meta-disk");
        let index = v.get("meta-disk-index").map(Value::to_string);
        BackingConfig {
            disk: text(v, "backing-disk"),
            index: match (meta.as_str(), index) {
                ("internal", _) => "internal".into(),
                (_, index) => index.unwrap_or_else(|| "flexible".into()),
            },
            meta_disk: meta,
        }
    });
    VolumeConfig {
        volume: number(v, "volume_nr"),
        minor: number(v, "device_minor"),
        diskless,
        backing,
        disk: options(disk, DISK),
        device,
        places: Vec::new(),
    }
}

/// The settings.
pub(crate) fn configs() -> Vec<Config> {
    let value: Value = serde_json::from_str(recorded!("show.json")).unwrap();
    let path = |p: &Value| (address(&p["this_host"]), address(&p["remote_host"]));
    let connection = |c: &Value| ConnectionConfig {
        peer: number(c, "_peer_node_id"),
        paths: list(c, "paths").iter().map(path).collect(),
        cstate: text(c, "_cstate"),
        net: options(&c["net"], NET),
        volumes: list(c, "volumes")
            .iter()
            .map(|v| (number(v, "volume_nr"), options(&v["disk"], PEER_DEVICE)))
            .collect(),
    };
    let resources = value.as_array().unwrap().iter();
    resources
        .map(|r| Config {
            resource: text(r, "resource"),
            options: options(&r["options"], RESOURCE),
            node_id: number(&r["_this_host"], "node-id"),
            volumes: list(&r["_this_host"], "volumes")
                .iter()
                .map(volume)
                .collect(),
            connections: list(r, "connections").iter().map(connection).collect(),
        })
        .collect()
}
