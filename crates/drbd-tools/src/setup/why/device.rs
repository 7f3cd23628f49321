//! What a volume of this node waits for.

use drbd_control::protocol::Device;

use super::{DeviceReport, Reason, Seen, name, votes};

pub(super) fn report(seen: &Seen<'_>, device: &Device) -> DeviceReport {
    let quorum = votes::count(seen, device);
    let mut waits: Vec<Reason> = disk(seen, device).into_iter().collect();
    if !device.state.quorum {
        let text = match &quorum {
            Some(count) => format!(
                "no quorum: {} of {} votes are here, {} are needed (quorum {})",
                count.here, count.voters, count.needed, count.asked
            ),
            None => "no quorum".to_owned(),
        };
        let remedy = match seen.absent() {
            Some(absent) => format!("bring back: {absent}"),
            None => "attach the disks that are missing".to_owned(),
        };
        waits.push(Reason::new("no-quorum", text).remedy(remedy));
    }
    DeviceReport {
        volume: device.volume,
        minor: device.state.minor,
        disk: device.state.disk.clone(),
        waits,
        quorum,
    }
}

fn disk(seen: &Seen<'_>, device: &Device) -> Option<Reason> {
    let (res, minor) = (&seen.resource.name, device.state.minor);
    let with = |states: &[&str]| {
        let found = seen
            .peers(device.volume)
            .find(|(_, d)| states.contains(&d.state.replication.as_str()));
        found.map(|(connection, _)| name(connection))
    };
    let absent = || match seen.absent() {
        Some(absent) => format!("not connected: {absent}"),
        None => "all configured peers are connected".to_owned(),
    };
    let force = format!("to declare this copy the good one: drbdsetup primary {res} --force");
    Some(match device.state.disk.as_str() {
        "Diskless" if device.state.client => return None,
        "Diskless" => Reason::new(
            "diskless",
            "no disk is attached, or it failed; data comes from the peers",
        )
        .remedy(format!(
            "drbdadm attach {res}/{}, see the log for why it was lost",
            device.volume
        )),
        "Attaching" => Reason::new("attaching", "the metadata is being read"),
        "Detaching" => Reason::new("detaching", "requests to the disk have to end first"),
        "Failed" => Reason::new("failed", "the disk had an error and is being let go")
            .remedy(format!("replace the disk of minor {minor}; see the log")),
        "Negotiating" => Reason::new(
            "negotiating",
            "attached while connected: waits for the peers' answers",
        ),
        "Inconsistent" => {
            if let Some(source) = with(&["SyncTarget", "VerifyT"]) {
                Reason::new(
                    "resync",
                    format!("part of the data is old until the resync from {source} is done"),
                )
            } else if let Some(source) = with(&["PausedSyncT"]) {
                Reason::new(
                    "resync-paused",
                    format!("the resync from {source} is paused, see the connection"),
                )
            } else if let Some(source) = with(&["WFBitMapT", "StartingSyncT", "WFSyncUUID"]) {
                Reason::new(
                    "resync-starting",
                    format!("a resync from {source} is about to start"),
                )
            } else {
                let text = format!("part of the data is old, and no resync runs; {}", absent());
                Reason::new("needs-resync", text)
                    .remedy(format!("connect a peer with up-to-date data; {force}"))
            }
        }
        "Outdated" => {
            let text = format!("there is newer data on another node; {}", absent());
            Reason::new("outdated", text)
                .remedy(format!("connect a peer with up-to-date data; {force}"))
        }
        "Consistent" => {
            let text = format!(
                "another node may have newer data, which only a peer can tell; {}",
                absent()
            );
            Reason::new("consistent", text).remedy(format!("connect a peer; {force}"))
        }
        _ => return None,
    })
}
