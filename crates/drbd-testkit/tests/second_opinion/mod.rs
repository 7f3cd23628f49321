//! A second opinion on `events2` and `status`: read from the words of the specification alone (CLI, sections 12, 13, 14
//! and 16), with nothing of the tools' code.
#![allow(dead_code, unreachable_pub)] // Each test program uses some of it.

use std::collections::BTreeMap;

pub mod events;
pub mod status;

/// An object: its kind and what identifies it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Object {
    Resource {
        name: String,
    },
    Connection {
        name: String,
        peer: u8,
    },
    Device {
        name: String,
        volume: u16,
    },
    PeerDevice {
        name: String,
        peer: u8,
        volume: u16,
    },
    Path {
        name: String,
        peer: u8,
        local: String,
        remote: String,
    },
}

impl Object {
    pub fn resource(&self) -> &str {
        match self {
            Object::Resource { name }
            | Object::Connection { name, .. }
            | Object::Device { name, .. }
            | Object::PeerDevice { name, .. }
            | Object::Path { name, .. } => name,
        }
    }

    fn renamed(&self, new: &str) -> Object {
        let mut object = self.clone();
        match &mut object {
            Object::Resource { name }
            | Object::Connection { name, .. }
            | Object::Device { name, .. }
            | Object::PeerDevice { name, .. }
            | Object::Path { name, .. } => new.clone_into(name),
        }
        object
    }
}

/// Objects with their keys and values.
pub type Objects = BTreeMap<Object, BTreeMap<String, String>>;

/// Which values a key may have.
fn words(key: &str, role_of_connection: bool) -> Option<&'static [&'static str]> {
    let _ = role_of_connection;
    Some(match key {
        "role" => &["Unknown", "Primary", "Secondary"],
        "connection" => &[
            "StandAlone",
            "Disconnecting",
            "Unconnected",
            "Timeout",
            "BrokenPipe",
            "NetworkFailure",
            "ProtocolError",
            "TearDown",
            "Connecting",
            "Connected",
        ],
        "replication" => &[
            "Off",
            "Established",
            "StartingSyncS",
            "StartingSyncT",
            "WFBitMapS",
            "WFBitMapT",
            "WFSyncUUID",
            "SyncSource",
            "SyncTarget",
            "VerifyS",
            "VerifyT",
            "PausedSyncS",
            "PausedSyncT",
            "Ahead",
            "Behind",
        ],
        "disk" | "peer-disk" => &[
            "Diskless",
            "Attaching",
            "Detaching",
            "Failed",
            "Negotiating",
            "Inconsistent",
            "Outdated",
            "DUnknown",
            "Consistent",
            "UpToDate",
        ],
        "write-ordering" => &["none", "drain", "flush", "barrier"],
        "client" | "peer-client" | "open" => &["no", "yes", "unknown"],
        "force-io-failures" | "may_promote" | "quorum" | "congested" | "established"
        | "al-suspended" | "tls" => &["no", "yes"],
        _ => return None,
    })
}

/// Members of a comma list, in their order.
fn list(key: &str) -> Option<&'static [&'static str]> {
    Some(match key {
        "suspended" => &["user", "no-data", "fencing", "quorum"],
        "resync-suspended" => &["user", "peer", "dependency", "max-parallel"],
        "blocked" => &["upper", "lower"],
        _ => return None,
    })
}

/// Whether a value is one that the specification knows for the key.
///
/// # Errors
/// What is wrong with it.
pub fn check_value(key: &str, value: &str) -> Result<(), String> {
    let bad = || Err(format!("{key}:{value} is no value of this key"));
    if let Some(words) = words(key, false) {
        return if words.contains(&value) {
            Ok(())
        } else {
            bad()
        };
    }
    if let Some(members) = list(key) {
        if value == "no" {
            return Ok(());
        }
        let mut rest = members.iter();
        let ordered = value.split(',').all(|word| rest.any(|m| *m == word));
        return if ordered { Ok(()) } else { bad() };
    }
    let fits = match key {
        "done" => {
            let percent = value.parse::<f64>();
            let decimals = value.split_once('.').map(|(_, d)| d.len());
            decimals == Some(2) && percent.is_ok_and(|p| (0.0..=100.0).contains(&p))
        }
        "dbdt1" => value.parse::<f64>().is_ok_and(|v| v >= 0.0),
        "eta" => value == "nan" || value.parse::<u64>().is_ok(),
        "backing_dev" => value == "none" || value.starts_with('/'),
        "promotion_score" | "size" | "read" | "written" | "al-writes" | "bm-writes"
        | "upper-pending" | "lower-pending" | "ap-in-flight" | "rs-in-flight" | "received"
        | "sent" | "out-of-sync" | "pending" | "unacked" => value.parse::<u64>().is_ok(),
        _ => return Err(format!("{key} is no key")),
    };
    if fits { Ok(()) } else { bad() }
}
