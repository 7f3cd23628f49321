//! What a connection and its volumes wait for.

use drbd_control::protocol::{Connection, PeerDevice, PeerDeviceState};

use super::super::status::{done, speed};
use super::{ConnectionReport, PeerDeviceReport, Reason, Seen, name};

pub(super) fn report(seen: &Seen<'_>, connection: &Connection) -> ConnectionReport {
    ConnectionReport {
        peer_node_id: connection.peer,
        name: connection.state.name.clone(),
        connection: connection.state.connection.clone(),
        waits: waits(seen, connection),
        volumes: connection
            .peer_devices
            .iter()
            .map(|device| PeerDeviceReport {
                volume: device.volume,
                replication: device.state.replication.clone(),
                waits: volume(seen, connection, device),
            })
            .collect(),
    }
}

fn waits(seen: &Seen<'_>, connection: &Connection) -> Vec<Reason> {
    let (res, peer) = (&seen.resource.name, connection.peer);
    let paths = &connection.state.paths;
    let reason = match connection.state.connection.as_str() {
        "Connected" if connection.state.congested => Reason::new(
            "congested",
            format!(
                "the peer is slower than what is written: {} KiB are on the way",
                connection.state.ap_in_flight / 2
            ),
        ),
        "Connected" => return Vec::new(),
        "StandAlone" if paths.is_empty() => Reason::new("no-path", "it has no path to the peer")
            .remedy(format!("drbdsetup new-path {res} {peer} LOCAL REMOTE")),
        "StandAlone" => Reason::new(
            "standalone",
            "nothing is tried: it was never connected, an administrator disconnected it, or the peers refused each other \
             (split brain, unrelated data, other secret), see the log",
        )
        .remedy(format!(
            "drbdsetup connect {res} {peer}; after a split brain with --discard-my-data on the node whose changes are given up"
        )),
        "Disconnecting" => Reason::new("disconnecting", "the connection is being closed"),
        "Connecting" => {
            let to: Vec<String> = paths.iter().map(|p| format!("{} from {}", p.remote, p.local)).collect();
            let text = format!("the peer does not answer at {}", to.join(", "));
            Reason::new("no-answer", text).remedy(format!(
                "check that {res} is up and connecting on {}, and that network and firewall let it through",
                name(connection)
            ))
        }
        state => Reason::new(
            "reconnecting",
            format!("the last connection has ended ({state}); the next attempt follows by itself"),
        ),
    };
    vec![reason]
}

fn volume(seen: &Seen<'_>, connection: &Connection, device: &PeerDevice) -> Vec<Reason> {
    if connection.state.connection != "Connected" {
        return Vec::new();
    }
    let state = &device.state;
    let name = name(connection);
    let (res, peer, nr) = (&seen.resource.name, connection.peer, device.volume);
    let mut reasons = Vec::new();
    match state.replication.as_str() {
        "Off" => reasons.push(Reason::new(
            "no-replication",
            format!("{name} has no such volume, or the handshake about it is not done"),
        )),
        "WFBitMapS" | "WFBitMapT" | "WFSyncUUID" | "StartingSyncS" | "StartingSyncT" => reasons.push(
            Reason::new("bitmap-exchange", format!("waits for {name} in the exchange of what differs")),
        ),
        "SyncSource" => reasons.push(Reason::new("resync", format!("{name} is brought up to date{}", progress(state)))),
        "SyncTarget" => reasons.push(Reason::new(
            "resync",
            format!("this node is brought up to date from {name}{}", progress(state)),
        )),
        "VerifyS" | "VerifyT" => reasons.push(Reason::new("verify", format!("is compared with {name}{}", progress(state)))),
        "Ahead" => reasons.push(Reason::new(
            "ahead",
            "the network is congested: changes are only noted, and sent by a resync later",
        )),
        "Behind" => reasons.push(Reason::new(
            "behind",
            "the network is congested: this copy is old until the resync that follows",
        )),
        "PausedSyncS" | "PausedSyncT" => {
            let before = reasons.len();
            reasons.extend(state.resync_suspended.split(',').filter_map(|why| pause(seen, connection, nr, why)));
            if reasons.len() == before {
                reasons.push(Reason::new("paused", "the resync is paused; no reason is known here"));
            }
        }
        "Established" if state.out_of_sync > 0 => reasons.push(
            Reason::new(
                "out-of-sync",
                format!("{} KiB are known to differ, and no resync runs", state.out_of_sync / 2),
            )
            .remedy(format!(
                "drbdsetup disconnect {res} {peer} and connect again to resync what a verify has found"
            )),
        ),
        "Established" if state.resync_suspended.split(',').any(|why| why == "user") => {
            reasons.extend(pause(seen, connection, nr, "user"));
        }
        _ => {}
    }
    reasons
}

/// Why a resync is paused, and who can release it.
fn pause(seen: &Seen<'_>, connection: &Connection, volume: u16, why: &str) -> Option<Reason> {
    let (res, peer, name) = (&seen.resource.name, connection.peer, name(connection));
    Some(match why {
        "user" => Reason::new("paused-user", "resyncs are paused here by pause-sync")
            .remedy(format!("here: drbdsetup resume-sync {res} {peer} {volume}")),
        "peer" => Reason::new("paused-peer", format!("{name} holds the resync back, by pause-sync or resync-after there"))
            .remedy(format!("on {name}: drbdsetup why {res} tells the reason; drbdadm resume-sync {res} releases a pause-sync")),
        "dependency" => {
            let after = seen.disk(volume, "resync-after").unwrap_or("another minor");
            Reason::new("paused-dependency", format!("resync-after: the resync of minor {after} comes first"))
                .remedy("goes on by itself when that is done")
        }
        "max-parallel" => Reason::new("paused-max-parallel", "enough other resyncs run at the moment")
            .remedy("goes on by itself when one of them is done"),
        _ => return None,
    })
}

fn progress(state: &PeerDeviceState) -> String {
    let Some(sync) = &state.sync else {
        return String::new();
    };
    let percent = done(sync).map_or_else(String::new, |percent| format!(": {percent:.2} % done"));
    match speed(sync) {
        (rate, Some(seconds)) => format!("{percent}, {seconds} s left at {rate:.2} MiB/s"),
        (_, None) => format!("{percent}, nothing moves at the moment"),
    }
}
