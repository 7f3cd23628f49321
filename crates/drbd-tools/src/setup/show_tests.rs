//! `show` as the reference tool was recorded (CLI, section 15): its JSON is read, and both forms are printed from it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use drbd_node::control::protocol::BackingConfig;
use serde_json::Value;

use super::*;

const JSON: &str = include_str!("../../tests/data/runtime/show.json");
const TEXT: &str = include_str!("../../tests/data/runtime/show.txt");

/// Options that differ from their defaults; the daemon keeps no others.
fn options(value: &Value, tables: &[&'static [OptionDef]]) -> Options {
    let mut found = Options::new();
    for def in tables.iter().copied().flatten() {
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

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value
        .get(key)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn text(value: &Value, key: &str) -> Option<String> {
    value.get(key).and_then(Value::as_str).map(str::to_owned)
}

fn number(value: &Value, key: &str) -> u64 {
    value.get(key).and_then(Value::as_u64).unwrap()
}

fn address(value: &Value) -> SocketAddr {
    let ip = text(value, "address").unwrap().parse().unwrap();
    SocketAddr::new(ip, number(value, "port") as u16)
}

fn volume(value: &Value) -> VolumeConfig {
    let disk = &value["disk"];
    let mut device = options(disk, &[DEVICE]);
    let diskless = device.remove("diskless").is_some_and(|v| v == "yes");
    VolumeConfig {
        volume: number(value, "volume_nr") as u16,
        minor: number(value, "device_minor") as u32,
        diskless,
        backing: text(value, "backing-disk").map(|disk| {
            let meta = text(value, "meta-disk").unwrap();
            let index = value.get("meta-disk-index").and_then(Value::as_u64);
            let index = match (meta.as_str(), index) {
                ("internal", _) => "internal".to_owned(),
                (_, None) => "flexible".to_owned(),
                (_, Some(n)) => n.to_string(),
            };
            BackingConfig {
                disk,
                meta_disk: meta,
                index,
            }
        }),
        disk: options(disk, &[DISK]),
        device,
        places: Vec::new(),
    }
}

fn connection(value: &Value) -> ConnectionConfig {
    ConnectionConfig {
        peer: number(value, "_peer_node_id") as u8,
        paths: list(value, "paths")
            .map(|p| (address(&p["this_host"]), address(&p["remote_host"])))
            .collect(),
        cstate: text(value, "_cstate").unwrap(),
        net: options(&value["net"], &[NET]),
        volumes: list(value, "volumes")
            .map(|v| {
                let options = options(&v["disk"], &[PEER_DEVICE]);
                (number(v, "volume_nr") as u16, options)
            })
            .collect(),
    }
}

fn recorded() -> Vec<Config> {
    let value: Value = serde_json::from_str(JSON).unwrap();
    let resources = value.as_array().unwrap().iter();
    resources
        .map(|r| Config {
            resource: text(r, "resource").unwrap(),
            options: options(&r["options"], &[RESOURCE]),
            node_id: number(&r["_this_host"], "node-id") as u8,
            volumes: list(&r["_this_host"], "volumes").map(volume).collect(),
            connections: list(r, "connections").map(connection).collect(),
        })
        .collect()
}

fn same(ours: &str, recorded: &str) {
    for (n, (ours, recorded)) in ours.lines().zip(recorded.lines()).enumerate() {
        assert_eq!(ours, recorded, "line {}", n + 1);
    }
    assert_eq!(ours.lines().count(), recorded.lines().count());
}

#[test]
fn json_as_recorded() {
    super::super::schema::is_show(JSON);
    let ours = json(&recorded());
    super::super::schema::is_show(&ours);
    same(&ours, JSON);
}

#[test]
fn text_as_recorded() {
    same(&super::text(&recorded(), false), TEXT);
}
