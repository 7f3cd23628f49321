//! The state of a DRBD of the 8 series, from `/proc/drbd`, in the form that newer tools give it.

use drbd_testkit::{Context, Result, Status};
use serde_json::json;

use super::side::RESOURCE;

/// Reads the state of minor 0.
pub(super) fn status(text: &str, peer: u8) -> Result<Status> {
    let line = text
        .lines()
        .map(str::trim)
        .find(|l| l.starts_with("0: cs:"))
        .context("no volume in /proc/drbd")?;
    let word = |key: &str| {
        text.split_whitespace()
            .find_map(|w| w.strip_prefix(key))
            .unwrap_or("")
    };
    let state = line
        .split_whitespace()
        .find_map(|w| w.strip_prefix("cs:"))
        .unwrap_or("");
    let (role, peer_role) = word("ro:").split_once('/').unwrap_or(("", ""));
    let (disk, peer_disk) = word("ds:").split_once('/').unwrap_or(("", ""));
    let number = |key: &str| word(key).parse::<u64>().unwrap_or(0);
    // From Connected on, the one state of the 8 series tells what is replicated.
    let early = [
        "StandAlone",
        "Disconnecting",
        "Unconnected",
        "Timeout",
        "BrokenPipe",
        "NetworkFailure",
        "ProtocolError",
        "TearDown",
        "WFConnection",
        "WFReportParams",
    ];
    let (connection, replication) = match state {
        "WFConnection" | "WFReportParams" => ("Connecting", "Off"),
        "Connected" => ("Connected", "Established"),
        s if early.contains(&s) => (s, "Off"),
        s => ("Connected", s),
    };
    let value = json!([{
        "name": RESOURCE,
        "role": role,
        "devices": [{"volume": 0, "disk-state": disk}],
        "connections": [{
            "peer-node-id": peer,
            "connection-state": connection,
            "peer-role": peer_role,
            "peer_devices": [{
                "volume": 0,
                "replication-state": replication,
                "peer-disk-state": peer_disk,
                "out-of-sync": number("oos:"),
                "sent": number("ns:"),
                "received": number("nr:"),
            }],
        }],
    }]);
    Status::parse(&value.to_string(), RESOURCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_proc_drbd() {
        let text = "version: 8.4.11 (api:1/proto:86-101)\n\n 0: cs:SyncSource ro:Primary/Secondary ds:UpToDate/Inconsistent C r-----\n    \
                    ns:1 nr:2 dw:0 dr:664 al:0 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f oos:64\n";
        let s = status(text, 1).unwrap();
        assert_eq!(
            (s.role(), s.disk(0), s.connection(1)),
            ("Primary", "UpToDate", "Connected")
        );
        let peer = s.peer(1, 0).unwrap();
        assert_eq!(
            (&*peer.replication, &*peer.disk, peer.out_of_sync),
            ("SyncSource", "Inconsistent", 65536)
        );
    }
}
