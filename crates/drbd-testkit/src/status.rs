//! What `drbdsetup status --json` says.

use serde_json::Value;

use crate::{Context, Result};

/// State of one resource on one node.
#[derive(Debug, Clone)]
pub struct Status(Value);

/// A volume on a peer, as a node sees it. Sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerVolume {
    /// `Established`, `SyncSource` and so on.
    pub replication: String,
    /// State of the peer's disk.
    pub disk: String,
    /// What the peer lacks.
    pub out_of_sync: u64,
    /// Received from the peer since the connection was made.
    pub received: u64,
    /// Sent to the peer since the connection was made.
    pub sent: u64,
}

impl Status {
    /// Reads the output of the command for one resource.
    ///
    /// # Errors
    /// When it is not JSON, or does not have that resource.
    pub fn parse(text: &str, resource: &str) -> Result<Status> {
        let all: Value = serde_json::from_str(text).context("drbdsetup status --json")?;
        let named = |r: &&Value| r.get("name").and_then(Value::as_str) == Some(resource);
        all.as_array()
            .and_then(|all| all.iter().find(named))
            .map(|r| Status(r.clone()))
            .context(format!("resource {resource} is not in the status"))
    }

    fn text<'a>(value: Option<&'a Value>, key: &str) -> &'a str {
        value
            .and_then(|v| v.get(key))
            .and_then(Value::as_str)
            .unwrap_or("")
    }

    fn kib(value: Option<&Value>, key: &str) -> u64 {
        let kib = value.and_then(|v| v.get(key)).and_then(Value::as_u64);
        kib.unwrap_or(0).saturating_mul(1024)
    }

    fn list<'a>(value: Option<&'a Value>, key: &str) -> &'a [Value] {
        value
            .and_then(|v| v.get(key))
            .and_then(Value::as_array)
            .map_or(&[], Vec::as_slice)
    }

    fn device(&self, volume: u16) -> Option<&Value> {
        let number = |d: &&Value| d.get("volume").and_then(Value::as_u64) == Some(volume.into());
        Status::list(Some(&self.0), "devices").iter().find(number)
    }

    fn connection_value(&self, peer: u8) -> Option<&Value> {
        let id = |c: &&Value| c.get("peer-node-id").and_then(Value::as_u64) == Some(peer.into());
        Status::list(Some(&self.0), "connections").iter().find(id)
    }

    /// Role of the node.
    pub fn role(&self) -> &str {
        Status::text(Some(&self.0), "role")
    }

    /// State of the node's own disk.
    pub fn disk(&self, volume: u16) -> &str {
        Status::text(self.device(volume), "disk-state")
    }

    /// Size of the device in bytes.
    pub fn size(&self, volume: u16) -> u64 {
        Status::kib(self.device(volume), "size")
    }

    /// State of the connection with a node; empty if there is none.
    pub fn connection(&self, peer: u8) -> &str {
        Status::text(self.connection_value(peer), "connection-state")
    }

    /// Role of a peer.
    pub fn peer_role(&self, peer: u8) -> &str {
        Status::text(self.connection_value(peer), "peer-role")
    }

    /// A volume on a peer.
    pub fn peer(&self, peer: u8, volume: u16) -> Option<PeerVolume> {
        let number = |d: &&Value| d.get("volume").and_then(Value::as_u64) == Some(volume.into());
        let d = Status::list(self.connection_value(peer), "peer_devices")
            .iter()
            .find(number);
        d?;
        Some(PeerVolume {
            replication: Status::text(d, "replication-state").to_owned(),
            disk: Status::text(d, "peer-disk-state").to_owned(),
            out_of_sync: Status::kib(d, "out-of-sync"),
            received: Status::kib(d, "received"),
            sent: Status::kib(d, "sent"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_tool_prints() {
        let text = r#"[{"name":"r0","role":"Primary","devices":[{"volume":0,"disk-state":"UpToDate","size":1024}],
            "connections":[{"peer-node-id":1,"connection-state":"Connected","peer-role":"Secondary","peer_devices":[
            {"volume":0,"replication-state":"SyncSource","peer-disk-state":"Inconsistent","out-of-sync":4,"sent":8}]}]}]"#;
        let status = Status::parse(text, "r0").unwrap();
        assert_eq!(
            (status.role(), status.disk(0), status.size(0)),
            ("Primary", "UpToDate", 1 << 20)
        );
        assert_eq!(
            (status.connection(1), status.connection(2)),
            ("Connected", "")
        );
        let peer = status.peer(1, 0).unwrap();
        assert_eq!(
            (&*peer.replication, peer.out_of_sync, peer.sent),
            ("SyncSource", 4096, 8192)
        );
        assert!(status.peer(1, 1).is_none() && Status::parse(text, "r1").is_err());
    }
}
