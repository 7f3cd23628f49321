//! Constructed states, and what is said about them.

use std::collections::BTreeMap;

use drbd_control::protocol::{
    ConnectionConfig, ConnectionState, DeviceState, Path, PeerDeviceState, ResourceState, Sync,
    WaitTimeout,
};

use drbd_proto::DiskState;

use super::*;

/// Three nodes with a disk, everything in order; `quorum majority`.
fn good() -> (Resource, Config) {
    let connection = |peer: u8, name: &str| Connection {
        peer,
        state: ConnectionState {
            name: name.into(),
            connection: "Connected".into(),
            role: "Secondary".into(),
            congested: false,

            tls: false,
            ap_in_flight: 0,
            rs_in_flight: 0,
            paths: vec![Path {
                local: "10.0.0.1:7000".parse().unwrap(),
                remote: format!("10.0.0.{}:7000", peer + 1).parse().unwrap(),
                established: true,
            }],
        },
        peer_devices: vec![PeerDevice {
            volume: 0,
            state: PeerDeviceState {
                replication: "Established".into(),
                peer_disk: "UpToDate".into(),
                peer_client: false,
                resync_suspended: "no".into(),
                received: 0,
                sent: 0,
                out_of_sync: 0,
                pending: 0,
                unacked: 0,

                stable: true,
                wait: WaitTimeout::Normal,
                sync: None,
            },
        }],
    };
    let peer_config = |peer: u8| ConnectionConfig {
        peer,
        paths: Vec::new(),
        cstate: "Connected".into(),
        net: BTreeMap::new(),
        volumes: vec![(0, BTreeMap::new())],
    };
    let resource = Resource {
        name: "r0".into(),
        node_id: 0,
        state: ResourceState {
            role: "Secondary".into(),
            suspended_user: false,
            suspended_no_data: false,
            suspended_fencing: false,
            suspended_quorum: false,
            force_io_failures: false,
            write_ordering: "flush".into(),
        },
        devices: vec![Device {
            volume: 0,
            state: DeviceState {
                minor: 7,
                disk: "UpToDate".into(),
                client: false,
                open: false,
                quorum: true,
                backing_dev: Some("/dev/vg/r0".into()),
                size: 2048,
                read: 0,
                written: 0,
                al_writes: 0,
                bm_writes: 0,
                upper_pending: 0,
                lower_pending: 0,
                al_suspended: false,
                blocked: "no".into(),
            },
        }],
        connections: vec![connection(1, "bravo"), connection(2, "charlie")],
    };
    let config = Config {
        resource: "r0".into(),
        options: [("quorum".to_owned(), "majority".to_owned())].into(),
        node_id: 0,
        volumes: Vec::new(),
        connections: vec![peer_config(1), peer_config(2)],
    };
    (resource, config)
}

/// A peer goes away.
fn lose(resource: &mut Resource, peer: u8) {
    for connection in resource.connections.iter_mut().filter(|c| c.peer == peer) {
        connection.state.connection = "Connecting".into();
        connection.state.role = "Unknown".into();
        for device in &mut connection.peer_devices {
            device.state.replication = "Off".into();
            device.state.peer_disk = "DUnknown".into();
        }
    }
}

fn codes(list: &[Reason]) -> Vec<&str> {
    list.iter().map(|r| r.code).collect()
}

fn rows(count: &Count) -> Vec<(u8, &str, bool)> {
    count
        .votes
        .iter()
        .map(|v| (v.node_id, v.vote, v.here))
        .collect()
}

#[test]
fn nothing_to_wait_for() {
    let (resource, config) = good();
    let report = report(&resource, Some(&config));
    assert!(report.suspended.is_empty());
    assert!(report.devices[0].waits.is_empty());
    assert!(
        report
            .connections
            .iter()
            .all(|c| c.waits.is_empty() && c.volumes[0].waits.is_empty())
    );
    assert!(report.promotion.possible && report.promotion.reasons.is_empty());
    let text = text::text(&report);
    assert!(text.contains("I/O is not suspended"), "{text}");
    assert!(
        text.contains("promotion: nothing here is against it"),
        "{text}"
    );
    let count = report.devices[0].quorum.as_ref().unwrap();
    assert_eq!((count.here, count.voters, count.needed), (3, 3, 2));
    assert_eq!(
        rows(count),
        [
            (0, "up-to-date", true),
            (1, "up-to-date", true),
            (2, "up-to-date", true)
        ]
    );
}

#[test]
fn isolated_primary() {
    let (mut resource, config) = good();
    resource.state.role = "Primary".into();
    resource.state.suspended_quorum = true;
    resource.devices[0].state.quorum = false;
    lose(&mut resource, 1);
    lose(&mut resource, 2);
    let report = report(&resource, Some(&config));
    assert_eq!(codes(&report.suspended), ["quorum"]);
    let remedy = report.suspended[0].remedy.as_deref().unwrap();
    assert!(
        remedy.contains("bravo (Connecting), charlie (Connecting)"),
        "{remedy}"
    );
    assert!(
        remedy.contains("drbdsetup secondary r0 --force"),
        "{remedy}"
    );
    assert_eq!(codes(&report.devices[0].waits), ["no-quorum"]);
    assert!(
        report.devices[0].waits[0]
            .text
            .contains("1 of 3 votes are here, 2 are needed"),
        "{}",
        report.devices[0].waits[0].text
    );
    let count = report.devices[0].quorum.as_ref().unwrap();
    assert_eq!(
        rows(count),
        [
            (0, "up-to-date", true),
            (1, "unknown", false),
            (2, "unknown", false)
        ]
    );
    assert_eq!(codes(&report.connections[0].waits), ["no-answer"]);
    assert!(
        report.connections[0].waits[0]
            .text
            .contains("10.0.0.2:7000 from 10.0.0.1:7000")
    );
    assert_eq!(codes(&report.promotion.reasons), ["is-primary"]);
    let text = text::text(&report);
    assert!(text.contains("I/O is suspended: quorum"), "{text}");
    assert!(
        text.contains("quorum (majority) is not held: 1 of 3 votes here, 2 needed"),
        "{text}"
    );
}

/// Who left gracefully is outdated, and does not count if nobody is unknown.
#[test]
fn last_man_standing() {
    let (mut resource, config) = good();
    lose(&mut resource, 1);
    lose(&mut resource, 2);
    for connection in &mut resource.connections {
        connection.peer_devices[0].state.peer_disk = "Outdated".into();
    }
    let report = report(&resource, Some(&config));
    let count = report.devices[0].quorum.as_ref().unwrap();
    assert_eq!((count.here, count.voters, count.needed), (1, 1, 1));
    assert_eq!(
        rows(count),
        [
            (0, "up-to-date", true),
            (1, "outdated", false),
            (2, "outdated", false)
        ]
    );
    assert_eq!(count.note, None);
    assert!(report.promotion.possible);
}

#[test]
fn tie_breaker_keeps_quorum() {
    let (mut resource, mut config) = good();
    lose(&mut resource, 1);
    let client = &mut resource.connections[1].peer_devices[0].state;
    client.peer_disk = "Diskless".into();
    client.peer_client = true;
    config.connections[1].volumes[0]
        .1
        .insert("bitmap".into(), "no".into());
    let kept = report(&resource, Some(&config));
    let count = kept.devices[0].quorum.clone().unwrap();
    assert_eq!(
        rows(&count),
        [
            (0, "up-to-date", true),
            (1, "unknown", false),
            (2, "tie-breaker", false)
        ]
    );
    assert_eq!((count.here, count.voters, count.needed), (1, 2, 2));
    assert!(count.note.unwrap().contains("tie-breaker"));
    // It is no help to a node that has no quorum, or if it must not.
    resource.devices[0].state.quorum = false;
    let gone = report(&resource, Some(&config)).devices[0]
        .quorum
        .clone()
        .unwrap();
    assert_eq!(gone.note, None);
    config.connections[1].volumes[0]
        .1
        .insert("peer-tiebreaker".into(), "no".into());
    let count = report(&resource, Some(&config)).devices[0]
        .quorum
        .clone()
        .unwrap();
    assert_eq!(rows(&count)[2], (2, "none", false));
}

/// A node without disk trusts a peer that has quorum, and shows itself in the table.
#[test]
fn a_client_counts() {
    let (mut resource, config) = good();
    resource.devices[0].state.disk = "Diskless".into();
    resource.devices[0].state.client = true;
    lose(&mut resource, 2);
    let report = report(&resource, Some(&config));
    let count = report.devices[0].quorum.as_ref().unwrap();
    assert_eq!(
        rows(count),
        [
            (0, "tie-breaker", false),
            (1, "up-to-date", true),
            (2, "unknown", false)
        ]
    );
    assert!(
        report.devices[0].waits.is_empty(),
        "it has no disk on purpose"
    );
    assert!(report.promotion.possible, "the data is on a peer");
}

#[test]
fn no_table_without_quorum() {
    let (resource, mut config) = good();
    config.options.clear();
    assert_eq!(report(&resource, Some(&config)).devices[0].quorum, None);
    assert_eq!(report(&resource, None).devices[0].quorum, None);
}

#[test]
fn paused_resyncs() {
    let (mut resource, mut config) = good();
    resource.devices[0].state.disk = "Inconsistent".into();
    let state = &mut resource.connections[0].peer_devices[0].state;
    state.replication = "PausedSyncT".into();
    state.resync_suspended = "user,peer,dependency".into();
    config.volumes.push(drbd_control::protocol::VolumeConfig {
        volume: 0,
        minor: 7,
        diskless: false,
        backing: None,
        disk: [("resync-after".to_owned(), "3".to_owned())].into(),
        device: BTreeMap::new(),
        places: Vec::new(),
    });
    let paused = report(&resource, Some(&config));
    let waits = &paused.connections[0].volumes[0].waits;
    assert_eq!(
        codes(waits),
        ["paused-user", "paused-peer", "paused-dependency"]
    );
    assert!(
        waits[0]
            .remedy
            .as_deref()
            .unwrap()
            .contains("drbdsetup resume-sync r0 1 0")
    );
    assert!(waits[1].remedy.as_deref().unwrap().starts_with("on bravo:"));
    assert!(waits[2].text.contains("minor 3"));
    assert_eq!(codes(&paused.devices[0].waits), ["resync-paused"]);

    let state = &mut resource.connections[0].peer_devices[0].state;
    state.replication = "SyncTarget".into();
    state.resync_suspended = "no".into();
    state.sync = Some(Sync {
        total: 4096,
        left: 1024,
        failed: 0,
        same_csum: 0,
        elapsed_ms: 3000,
        paused_ms: 0,
        windows: [(1000, 1024); 2],
        want: 0,
        verify: None,
    });
    let running = report(&resource, Some(&config));
    assert_eq!(codes(&running.devices[0].waits), ["resync"]);
    let text = &running.connections[0].volumes[0].waits[0].text;
    assert_eq!(
        text,
        "this node is brought up to date from bravo: 75.00 % done, 1 s left at 0.50 MiB/s"
    );
}

#[test]
fn refused_promotions() {
    let (mut resource, mut config) = good();
    resource.connections[0].state.role = "Primary".into();
    let refused = report(&resource, Some(&config)).promotion;
    assert!(!refused.possible);
    assert_eq!(codes(&refused.reasons), ["other-primary"]);
    config.connections[0]
        .net
        .insert("allow-two-primaries".into(), "yes".into());
    assert!(report(&resource, Some(&config)).promotion.possible);

    let (mut resource, mut config) = good();
    resource.devices[0].state.disk = "Outdated".into();
    assert!(
        report(&resource, Some(&config)).promotion.possible,
        "the peers have the data"
    );
    config.connections[0]
        .net
        .insert("allow-remote-read".into(), "no".into());
    lose(&mut resource, 2);
    let refused = report(&resource, Some(&config));
    assert_eq!(codes(&refused.promotion.reasons), ["no-up-to-date-data"]);
    let remedy = refused.promotion.reasons[0].remedy.as_deref().unwrap();
    assert!(
        remedy.contains("charlie (Connecting)") && remedy.contains("primary r0 --force"),
        "{remedy}"
    );
    let count = refused.devices[0].quorum.as_ref().unwrap();
    assert_eq!(
        rows(count)[1],
        (1, "none", false),
        "bravo may not be read from"
    );

    let (mut resource, mut config) = good();
    lose(&mut resource, 1);
    config.connections[0]
        .net
        .insert("fencing".into(), "resource-only".into());
    let fenced = report(&resource, Some(&config)).promotion;
    assert!(fenced.possible, "if the handler succeeds");
    assert_eq!(codes(&fenced.reasons), ["needs-fencing"]);
    resource.state.force_io_failures = true;
    let report = report(&resource, Some(&config));
    assert!(!report.promotion.possible);
    assert_eq!(codes(&report.suspended), ["force-io-failures"]);
}

#[test]
fn other_suspensions() {
    let (mut resource, mut config) = good();
    resource.state.suspended_user = true;
    resource.state.suspended_no_data = true;
    resource.state.suspended_fencing = true;
    resource.devices[0].state.disk = "Diskless".into();
    config.connections[1]
        .net
        .insert("fencing".into(), "resource-and-stonith".into());
    lose(&mut resource, 1);
    lose(&mut resource, 2);
    let report = report(&resource, Some(&config));
    assert_eq!(codes(&report.suspended), ["user", "no-data", "fencing"]);
    assert_eq!(
        report.suspended[0].remedy.as_deref(),
        Some("drbdsetup resume-io 7")
    );
    assert!(
        report.suspended[2].text.starts_with("charlie was lost"),
        "{}",
        report.suspended[2].text
    );
    assert_eq!(codes(&report.devices[0].waits), ["diskless"]);
}

/// Every state of a connection and of a disk has an answer.
#[test]
fn every_state() {
    let (good, config) = good();
    for state in drbd_proto::ConnState::ALL {
        let mut resource = good.clone();
        resource.connections[0].state.connection = state.name().into();
        let waits = report(&resource, Some(&config)).connections[0].waits.len();
        assert_eq!(waits, usize::from(state.name() != "Connected"), "{state:?}");
    }
    for state in DiskState::ALL {
        let mut resource = good.clone();
        resource.devices[0].state.disk = state.name().into();
        let waits = &report(&resource, Some(&config)).devices[0].waits;
        let fine = matches!(state.name(), "UpToDate" | "DUnknown");
        assert_eq!(waits.len(), usize::from(!fine), "{state:?}");
    }
    for state in drbd_proto::ReplState::ALL {
        let mut resource = good.clone();
        resource.connections[0].peer_devices[0].state.replication = state.name().into();
        let waits = &report(&resource, Some(&config)).connections[0].volumes[0].waits;
        assert_eq!(
            waits.len(),
            usize::from(state.name() != "Established"),
            "{state:?}"
        );
    }
}

#[test]
fn json() {
    let (mut resource, config) = good();
    resource.devices[0].state.quorum = false;
    lose(&mut resource, 1);
    lose(&mut resource, 2);
    let value = serde_json::to_value([report(&resource, Some(&config))]).unwrap();
    super::super::schema::is_why(&value);
    let one = &value[0];
    assert_eq!(one["name"], "r0");
    assert_eq!(one["devices"][0]["waits"][0]["code"], "no-quorum");
    assert_eq!(one["devices"][0]["quorum"]["needed"], 2);
    assert_eq!(one["devices"][0]["quorum"]["votes"][2]["vote"], "unknown");
    assert_eq!(one["connections"][0]["peer-node-id"], 1);
    assert_eq!(one["promotion"]["possible"], false);
    assert_eq!(one["promotion"]["reasons"][0]["code"], "no-quorum");
}
