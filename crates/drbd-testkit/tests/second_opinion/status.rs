//! `status`, as text with `--verbose` and as JSON.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Object, Objects, check_value};

/// Reads the text of `status --verbose`.
///
/// # Errors
/// It is not as the specification says.
pub fn text(text: &str) -> Result<Objects, String> {
    let mut objects = Objects::new();
    let (mut resource, mut peer, mut at) = (String::new(), None, None);
    for line in text
        .lines()
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
    {
        let indent = line.len() - line.trim_start().len();
        let mut words = line.split_whitespace().peekable();
        let first = *words.peek().unwrap_or(&"");
        let volume = first
            .strip_prefix("volume:")
            .and_then(|n| n.parse::<u16>().ok());
        match (indent, volume) {
            (0, _) => {
                words.next();
                first.clone_into(&mut resource);
                (peer, at) = (
                    None,
                    Some(Object::Resource {
                        name: resource.clone(),
                    }),
                );
            }
            (2, Some(volume)) => {
                words.next();
                at = Some(Object::Device {
                    name: resource.clone(),
                    volume,
                });
            }
            (2, None) => {
                words.next();
                let id = words.next().and_then(|w| w.strip_prefix("node-id:"));
                let id: u8 = id
                    .and_then(|n| n.parse().ok())
                    .ok_or_else(|| format!("no node id: {line}"))?;
                peer = Some(id);
                let object = Object::Connection {
                    name: resource.clone(),
                    peer: id,
                };
                let name = BTreeMap::from([("conn-name".to_owned(), first.to_owned())]);
                if objects.insert(object.clone(), name).is_some() {
                    return Err(format!("twice: {line}"));
                }
                at = Some(object);
            }
            (4, Some(volume)) => {
                words.next();
                let peer = peer.ok_or_else(|| format!("no connection: {line}"))?;
                at = Some(Object::PeerDevice {
                    name: resource.clone(),
                    peer,
                    volume,
                });
            }
            // The line before goes on.
            _ => {}
        }
        let object = at.clone().ok_or_else(|| format!("of what: {line}"))?;
        let values = objects.entry(object).or_default();
        for word in words {
            let (key, value) = word
                .split_once(':')
                .ok_or_else(|| format!("'{word}' in {line}"))?;
            if !matches!(key, "node-id" | "minor") {
                check_value(key, value).map_err(|e| format!("{e}: {line}"))?;
            }
            if values.insert(key.to_owned(), value.to_owned()).is_some() {
                return Err(format!("{key} twice: {line}"));
            }
        }
    }
    Ok(objects)
}

fn yes_no(v: &Value) -> String {
    if v.as_bool() == Some(true) {
        "yes"
    } else {
        "no"
    }
    .to_owned()
}

fn plain(v: &Value) -> String {
    v.as_str().map_or_else(|| v.to_string(), str::to_owned)
}

fn list<'a>(v: &'a Value, key: &str) -> Result<&'a Vec<Value>, String> {
    v.get(key)
        .and_then(Value::as_array)
        .ok_or_else(|| format!("no {key} in {v}"))
}

fn number<T: TryFrom<u64>>(v: &Value, key: &str) -> Result<T, String> {
    let found = v
        .get(key)
        .and_then(Value::as_u64)
        .and_then(|n| n.try_into().ok());
    found.ok_or_else(|| format!("no {key} in {v}"))
}

fn pairs(v: &Value, keys: &[(&str, &str)], flags: &[(&str, &str)]) -> BTreeMap<String, String> {
    let texts = keys
        .iter()
        .map(|(key, name)| ((*name).to_owned(), plain(&v[*key])));
    let flags = flags
        .iter()
        .map(|(key, name)| ((*name).to_owned(), yes_no(&v[*key])));
    texts.chain(flags).collect()
}

fn address(v: &Value) -> String {
    let (family, host) = (plain(&v["family"]), plain(&v["address"]));
    let host = if family == "ipv6" {
        format!("[{host}]")
    } else {
        host
    };
    format!("{family}:{host}:{}", v["port"])
}

/// Reads `status --json`.
///
/// # Errors
/// It is not as the specification says.
pub fn json(text: &str) -> Result<Objects, String> {
    let value: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let mut objects = Objects::new();
    for r in value.as_array().ok_or("no list")? {
        let name = plain(&r["name"]);
        let mut values = pairs(
            r,
            &[("role", "role")],
            &[("force-io-failures", "force-io-failures")],
        );
        let reasons = ["user", "no-data", "fencing", "quorum"];
        let on: Vec<&str> = reasons
            .into_iter()
            .filter(|reason| r[format!("suspended-{reason}")] == Value::Bool(true))
            .collect();
        if r["suspended"] != Value::Bool(!on.is_empty()) {
            return Err(format!("suspended, but why: {r}"));
        }
        let suspended = if on.is_empty() {
            "no".to_owned()
        } else {
            on.join(",")
        };
        values.insert("suspended".into(), suspended);
        objects.insert(Object::Resource { name: name.clone() }, values);
        for d in list(r, "devices")? {
            let id = Object::Device {
                name: name.clone(),
                volume: number(d, "volume")?,
            };
            let flags = [("client", "client"), ("open", "open"), ("quorum", "quorum")];
            objects.insert(
                id,
                pairs(d, &[("minor", "minor"), ("disk-state", "disk")], &flags),
            );
        }
        for c in list(r, "connections")? {
            let peer = number(c, "peer-node-id")?;
            let id = Object::Connection {
                name: name.clone(),
                peer,
            };
            let keys = [
                ("name", "conn-name"),
                ("connection-state", "connection"),
                ("peer-role", "role"),
            ];
            objects.insert(id, pairs(c, &keys, &[]));
            for p in list(c, "paths")? {
                let id = Object::Path {
                    name: name.clone(),
                    peer,
                    local: address(&p["this_host"]),
                    remote: address(&p["remote_host"]),
                };
                objects.insert(id, pairs(p, &[], &[("established", "established")]));
            }
            for d in list(c, "peer_devices")? {
                let id = Object::PeerDevice {
                    name: name.clone(),
                    peer,
                    volume: number(d, "volume")?,
                };
                let keys = [
                    ("replication-state", "replication"),
                    ("peer-disk-state", "peer-disk"),
                    ("resync-suspended", "resync-suspended"),
                ];
                objects.insert(id, pairs(d, &keys, &[("peer-client", "peer-client")]));
            }
        }
    }
    Ok(objects)
}

/// Where what was observed differs from a status: only keys that both have count, but objects have to be the same ones.
pub fn differences(observed: &Objects, status: &Objects, paths: bool) -> Vec<String> {
    let counts = |o: &&Object| paths || !matches!(o, Object::Path { .. });
    let mut found = Vec::new();
    for object in observed.keys().filter(counts) {
        if !status.contains_key(object) {
            found.push(format!("{object:?} is in the events only"));
        }
    }
    for (object, values) in status.iter().filter(|(o, _)| counts(o)) {
        let Some(known) = observed.get(object) else {
            found.push(format!("{object:?} is in the status only"));
            continue;
        };
        for (key, value) in values {
            let differs = known.get(key).is_some_and(|seen| seen != value);
            // Statistics are as they were when their object changed last: whether requests wait; how far a resync
            // has come, which is not taken back at its end.
            if differs && !matches!(key.as_str(), "done" | "blocked") {
                let seen = &known[key];
                found.push(format!(
                    "{object:?}: {key} is {seen} in the events, {value} in the status"
                ));
            }
        }
    }
    found
}
