//! Why a promotion would be refused (state machine, sections 3.6 and 10.1).

use super::{Promotion, Reason, Seen, name};

pub(super) fn report(seen: &Seen<'_>) -> Promotion {
    let resource = seen.resource;
    let res = &resource.name;
    if resource.state.role == "Primary" {
        let reason = Reason::new("is-primary", "this node is Primary already");
        return Promotion {
            possible: true,
            reasons: vec![reason],
        };
    }
    let mut against = Vec::new();
    let mut notes = Vec::new();
    if resource.devices.is_empty() {
        against.push(Reason::new("no-volumes", "there is no volume"));
    }
    if resource.state.force_io_failures {
        let text = "it was made Secondary by force, and is still open";
        against.push(Reason::new("force-io-failures", text).remedy("close it first"));
    }
    for connection in &resource.connections {
        let (peer, id) = (name(connection), connection.peer);
        if connection.state.role == "Primary" && seen.net(id, "allow-two-primaries") != Some("yes")
        {
            let text = format!("{peer} is Primary, and allow-two-primaries is not set");
            against.push(
                Reason::new("other-primary", text)
                    .remedy(format!("on {peer}: drbdadm secondary {res}")),
            );
        }
        let fencing = seen
            .net(id, "fencing")
            .filter(|f| matches!(*f, "resource-only" | "resource-and-stonith"));
        let unfenced = connection.peer_devices.iter().any(|d| {
            d.state.replication == "Off"
                && matches!(&*d.state.peer_disk, "DUnknown" | "Consistent" | "UpToDate")
        });
        if let (Some(policy), true) = (fencing, unfenced) {
            let text = format!(
                "{peer} is away and fencing is {policy}: the fence-peer handler has to succeed first"
            );
            notes.push(Reason::new("needs-fencing", text));
        }
    }
    for device in &resource.devices {
        let nr = device.volume;
        if !seen.has_data(device) {
            let disk = &device.state.disk;
            let text = format!("volume {nr}: no up-to-date data can be reached (own disk {disk})");
            let forced = matches!(disk.as_str(), "Inconsistent" | "Outdated" | "Consistent");
            let force =
                format!("; to declare this copy the good one: drbdsetup primary {res} --force");
            let remedy = format!(
                "{}{}",
                seen.absent().map_or_else(
                    || "connect a peer that has it".to_owned(),
                    |absent| format!("bring back: {absent}")
                ),
                if forced { force.as_str() } else { "" }
            );
            let reason = Reason::new("no-up-to-date-data", text).remedy(remedy);
            // A consistent disk is asked about first: peers or the fence-peer handler may make it up to date.
            if disk == "Consistent"
                && resource
                    .connections
                    .iter()
                    .any(|c| seen.net(c.peer, "fencing").is_some())
            {
                notes.push(reason);
            } else {
                against.push(reason);
            }
        }
        if !device.state.quorum {
            let text = format!("volume {nr}: no quorum");
            let back = seen
                .absent()
                .map_or_else(String::new, |absent| format!("bring back: {absent}; "));
            let remedy =
                format!("{back}if the others are surely lost: drbdsetup primary {res} --force");
            against.push(Reason::new("no-quorum", text).remedy(remedy));
        }
        for (connection, peer) in seen.peers(nr) {
            if matches!(
                &*peer.state.replication,
                "WFBitMapS" | "WFBitMapT" | "WFSyncUUID"
            ) {
                let text = format!(
                    "volume {nr}: the handshake with {} is under way",
                    name(connection)
                );
                notes.push(Reason::new("handshake", text).remedy("waits until it is done"));
            }
        }
    }
    let possible = against.is_empty();
    against.extend(notes);
    Promotion {
        possible,
        reasons: against,
    }
}
