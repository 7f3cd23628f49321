//! The recorded output of the reference tool for one and the same state, as text and as JSON.

use drbd_node::control::protocol::{ConnectionState, DeviceState, Path};
use serde_json::Value;

use super::*;

const JSON: &str = include_str!("../../../tests/data/runtime/status.json");
const TEXT: &str = include_str!("../../../tests/data/runtime/status.txt");
const COLOR: &str = include_str!("../../../tests/data/runtime/status-color.txt");
const STATISTICS: &str = include_str!("../../../tests/data/runtime/status-statistics.txt");

fn text_of(v: &Value, key: &str) -> String {
    v[key]
        .as_str()
        .unwrap_or_else(|| panic!("{key} in {v}"))
        .to_owned()
}

fn number(v: &Value, key: &str) -> u64 {
    v[key].as_u64().unwrap_or_else(|| panic!("{key} in {v}"))
}

fn flag(v: &Value, key: &str) -> bool {
    v[key].as_bool().unwrap_or_else(|| panic!("{key} in {v}"))
}

fn list<'a>(v: &'a Value, key: &str) -> &'a [Value] {
    v[key].as_array().map_or(&[], Vec::as_slice)
}

fn address(v: &Value) -> SocketAddr {
    SocketAddr::new(
        text_of(v, "address").parse().unwrap(),
        number(v, "port") as u16,
    )
}

fn peer_device_of(v: &Value) -> PeerDevice {
    let out_of_sync = number(v, "out-of-sync") * 2;
    let sync = flag(v, "has-sync-details").then(|| {
        let verify = v["ov-left"].as_u64().filter(|left| *left > 0);
        Sync {
            total: number(v, "rs-total"),
            left: verify.unwrap_or_else(|| out_of_sync - number(v, "rs-failed")),
            failed: v["rs-failed"].as_u64().unwrap_or(0),
            same_csum: v["rs-same-csum"].as_u64().unwrap_or(0),
            elapsed_ms: number(v, "rs-dt-start-ms"),
            paused_ms: number(v, "rs-paused-ms"),
            window_ms: number(v, "rs-dt1-ms"),
            window_sectors: number(v, "rs-db1-sectors"),
        }
    });
    PeerDevice {
        volume: number(v, "volume") as u16,
        state: PeerDeviceState {
            replication: text_of(v, "replication-state"),
            peer_disk: text_of(v, "peer-disk-state"),
            peer_client: flag(v, "peer-client"),
            resync_suspended: text_of(v, "resync-suspended"),
            received: number(v, "received") * 2,
            sent: number(v, "sent") * 2,
            out_of_sync,
            pending: number(v, "pending") as u32,
            unacked: number(v, "unacked") as u32,
            sync,
        },
    }
}

fn connection_of(v: &Value) -> Connection {
    let path = |p: &Value| Path {
        local: address(&p["this_host"]),
        remote: address(&p["remote_host"]),
        established: flag(p, "established"),
    };
    Connection {
        peer: number(v, "peer-node-id") as u8,
        state: ConnectionState {
            name: text_of(v, "name"),
            connection: text_of(v, "connection-state"),
            role: text_of(v, "peer-role"),
            congested: flag(v, "congested"),
            ap_in_flight: number(v, "ap-in-flight"),
            rs_in_flight: number(v, "rs-in-flight"),
            paths: list(v, "paths").iter().map(path).collect(),
        },
        peer_devices: list(v, "peer_devices").iter().map(peer_device_of).collect(),
    }
}

fn device_of(v: &Value) -> Device {
    Device {
        volume: number(v, "volume") as u16,
        state: DeviceState {
            minor: number(v, "minor") as u32,
            disk: text_of(v, "disk-state"),
            client: flag(v, "client"),
            open: flag(v, "open"),
            quorum: flag(v, "quorum"),
            backing_dev: None,
            size: number(v, "size") * 2,
            read: number(v, "read") * 2,
            written: number(v, "written") * 2,
            al_writes: number(v, "al-writes"),
            bm_writes: number(v, "bm-writes"),
            upper_pending: number(v, "upper-pending") as u32,
            lower_pending: number(v, "lower-pending") as u32,
            al_suspended: false,
        },
    }
}

fn resources() -> Vec<Resource> {
    let value: Value = serde_json::from_str(JSON).unwrap();
    let resources = value.as_array().unwrap();
    assert_eq!(resources.len(), 3);
    let one = |v: &Value| Resource {
        name: text_of(v, "name"),
        node_id: number(v, "node-id") as u8,
        state: ResourceState {
            role: text_of(v, "role"),
            suspended_user: flag(v, "suspended-user"),
            suspended_no_data: flag(v, "suspended-no-data"),
            suspended_fencing: flag(v, "suspended-fencing"),
            suspended_quorum: flag(v, "suspended-quorum"),
            force_io_failures: flag(v, "force-io-failures"),
            write_ordering: text_of(v, "write-ordering"),
        },
        devices: list(v, "devices").iter().map(device_of).collect(),
        connections: list(v, "connections").iter().map(connection_of).collect(),
    };
    resources.iter().map(one).collect()
}

/// The recorded state has TLS, which no connection has here.
fn without_tls(text: &str) -> String {
    text.replace(" tls:yes", "")
        .replace("\"tls\": true", "\"tls\": false")
}

#[test]
fn text_as_recorded() {
    let mut resources = resources();
    sort(&mut resources);
    let detail = Detail {
        width: 80,
        ..Detail::default()
    };
    assert_eq!(text(&resources, detail), without_tls(TEXT));
    let color = Detail {
        color: true,
        ..detail
    };
    // The recording writes the escape character as two visible ones.
    let recorded = without_tls(COLOR).replace("^[", "\x1b");
    assert_eq!(text(&resources, color), recorded);
    let detail = Detail {
        statistics: true,
        ..detail
    };
    assert_eq!(text(&resources, detail), without_tls(STATISTICS));
}

#[test]
fn json_as_recorded() {
    // The reference measures two windows, this one has one; and it does not tell the speed it aims at.
    let lines = |text: &str| {
        let windows = [
            "\"rs-dt0-ms\"",
            "\"rs-db0-sectors\"",
            "\"db0/dt0 [MiB/s]\"",
            "\"want\"",
        ];
        let kept = text
            .lines()
            .filter(|line| !windows.iter().any(|w| line.trim().starts_with(w)));
        kept.map(str::to_owned)
            .filter(|line| !line.is_empty())
            .collect::<Vec<_>>()
    };
    let (ours, recorded) = (lines(&json(&resources())), lines(&without_tls(JSON)));
    for (n, (a, b)) in ours.iter().zip(&recorded).enumerate() {
        assert_eq!(a, b, "line {n}");
    }
    assert_eq!(ours.len(), recorded.len());
    super::super::schema::is_status(&json(&resources()));
    let empty: Value = serde_json::from_str(&json(&[])).unwrap();
    assert_eq!(empty, Value::Array(Vec::new()));
}

/// The fields of a volume of a peer, wherever the lines break.
fn fields_of<'a>(text: &'a str, from: &str) -> Vec<&'a str> {
    let start = text.find(from).unwrap();
    let rest = &text[start..];
    let end = rest.find("\n    volume:1 ").unwrap();
    // One window is measured, which is both the older and the newer; and the speed aimed at is not told.
    let windows = ["rs-dt0-ms:", "rs-db0-sectors:", "dbdt0:"];
    rest[..end]
        .split_whitespace()
        .filter(|f| !windows.iter().any(|w| f.starts_with(w)))
        .collect()
}

#[test]
fn details_of_a_resync_as_recorded() {
    let detail = Detail {
        verbose: 2,
        statistics: true,
        width: 80,
        ..Detail::default()
    };
    let ours = text(&resources(), detail);
    let from = "    volume:0 replication:SyncSource";
    let recorded = include_str!("../../../tests/data/runtime/status-vv-statistics-r0.txt");
    assert_eq!(fields_of(&ours, from), fields_of(recorded, from));
}
