//! Recorded lines, and objects that come and go.

use drbd_control::protocol::{
    Connection, ConnectionState, Device, DeviceState, Path, PeerDevice, PeerDeviceState, Resource,
    ResourceState, Sync, WaitTimeout,
};

use super::*;

fn resource() -> Resource {
    let path = Path {
        local: "10.1.1.31:7000".parse().unwrap(),
        remote: "10.1.1.32:7000".parse().unwrap(),
        established: true,
    };
    Resource {
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
                minor: 1,
                disk: "UpToDate".into(),
                client: false,
                open: false,
                quorum: true,
                backing_dev: Some("/dev/vg0/r0".into()),
                size: 20_971_520,
                read: 2048,
                written: 4096,
                al_writes: 7,
                bm_writes: 3,
                upper_pending: 1,
                lower_pending: 0,
                al_suspended: false,
                blocked: "no".into(),
            },
        }],
        connections: vec![Connection {
            peer: 1,
            state: ConnectionState {
                name: "bravo".into(),
                connection: "Connected".into(),
                role: "Secondary".into(),
                congested: false,

                tls: false,
                ap_in_flight: 16,
                rs_in_flight: 32,
                paths: vec![path],
            },
            peer_devices: vec![PeerDevice {
                volume: 0,
                state: peer_device("Established"),
            }],
        }],
    }
}

fn peer_device(replication: &str) -> PeerDeviceState {
    PeerDeviceState {
        replication: replication.into(),
        peer_disk: "UpToDate".into(),
        peer_client: false,
        resync_suspended: "no".into(),
        received: 1024,
        sent: 0,
        out_of_sync: 0,
        pending: 0,
        unacked: 0,

        stable: true,
        wait: WaitTimeout::Normal,
        sync: None,
    }
}

/// The lines of the recorded example: exists, a promotion, an outage.
#[test]
fn recorded_lines() {
    let mut p = Printer::new(Wanted::default());
    let mut lines = p.lines(Event::Snapshot(Box::new(resource())));
    lines.extend(p.lines(Event::SnapshotsEnd));
    assert_eq!(
        lines,
        [
            "exists resource name:r0 role:Secondary suspended:no force-io-failures:no may_promote:yes promotion_score:10102",
            "exists connection name:r0 peer-node-id:1 conn-name:bravo connection:Connected role:Secondary",
            "exists device name:r0 volume:0 minor:1 backing_dev:/dev/vg0/r0 disk:UpToDate client:no open:no quorum:yes",
            "exists peer-device name:r0 peer-node-id:1 conn-name:bravo volume:0 replication:Established peer-disk:UpToDate peer-client:no resync-suspended:no",
            "exists path name:r0 peer-node-id:1 conn-name:bravo local:ipv4:10.1.1.31:7000 peer:ipv4:10.1.1.32:7000 established:yes",
            "exists -",
        ]
    );
    let mut r = resource();
    r.state.role = "Primary".into();
    let state = Some(r.state.clone());
    assert_eq!(
        p.lines(Event::Resource {
            resource: "r0".into(),
            state,
            continues: false
        }),
        ["change resource name:r0 role:Primary may_promote:no promotion_score:10102"]
    );
    let mut connection = r.connections[0].state.clone();
    connection.connection = "NetworkFailure".into();
    connection.role = "Unknown".into();
    let state = Some(connection);
    let lines = p.lines(Event::Connection {
        resource: "r0".into(),
        peer: 1,
        state,
        continues: true,
    });
    assert!(lines.is_empty(), "the batch is not complete");
    let mut lost = peer_device("Off");
    lost.peer_disk = "DUnknown".into();
    let event = Event::PeerDevice {
        resource: "r0".into(),
        peer: 1,
        volume: 0,
        state: Some(lost),
        continues: false,
    };
    assert_eq!(
        p.lines(event),
        [
            "change resource name:r0 may_promote:no promotion_score:10101",
            "change connection name:r0 peer-node-id:1 conn-name:bravo connection:NetworkFailure role:Unknown",
            "change peer-device name:r0 peer-node-id:1 conn-name:bravo volume:0 replication:Off peer-disk:DUnknown peer-client:no",
        ]
    );
    let mut sync = peer_device("SyncSource");
    sync.peer_disk = "Inconsistent".into();
    let progress = Sync {
        total: 1000,
        left: 500,
        failed: 0,
        same_csum: 0,
        elapsed_ms: 1000,
        paused_ms: 0,
        windows: [(1000, 500); 2],
        want: 0,
        verify: None,
    };
    for (left, expected) in [
        (
            1000,
            "change peer-device name:r0 peer-node-id:1 conn-name:bravo volume:0 replication:SyncSource peer-disk:Inconsistent peer-client:no done:0.00",
        ),
        (
            500,
            "change peer-device name:r0 peer-node-id:1 conn-name:bravo volume:0 done:50.00",
        ),
    ] {
        sync.sync = Some(Sync { left, ..progress });
        let state = Some(sync.clone());
        let event = Event::PeerDevice {
            resource: "r0".into(),
            peer: 1,
            volume: 0,
            state,
            continues: false,
        };
        assert_eq!(p.lines(event), [expected]);
    }
}

#[test]
fn objects_end() {
    let mut p = Printer::new(Wanted::default());
    p.lines(Event::Snapshot(Box::new(resource())));
    p.lines(Event::SnapshotsEnd);
    let event = Event::Connection {
        resource: "r0".into(),
        peer: 1,
        state: None,
        continues: false,
    };
    let lines = p.lines(event);
    assert_eq!(
        lines[1],
        "destroy connection name:r0 peer-node-id:1 conn-name:bravo"
    );
    assert_eq!(lines.len(), 2, "{lines:?}");
    let lines = p.lines(Event::Gone {
        resource: "r0".into(),
    });
    assert_eq!(
        lines,
        [
            "destroy device name:r0 volume:0",
            "destroy resource name:r0"
        ]
    );
    let lines = p.lines(Event::Snapshot(Box::new(resource())));
    assert!(lines[0].starts_with("create resource name:r0"));
}

#[test]
fn differences_and_statistics() {
    let mut p = Printer::new(Wanted {
        diff: true,
        ..Wanted::default()
    });
    let lines = p.lines(Event::Snapshot(Box::new(resource())));
    assert!(lines[0].contains("role:UNKNOWN->Secondary"));
    let mut state = resource().state;
    state.role = "Primary".into();
    let event = Event::Resource {
        resource: "r0".into(),
        state: Some(state),
        continues: false,
    };
    assert_eq!(
        p.lines(event),
        [
            "change resource name:r0 role:Secondary->Primary may_promote:yes->no promotion_score:10102->10102"
        ]
    );
    let mut p = Printer::new(Wanted {
        statistics: true,
        ..Wanted::default()
    });
    let lines = p.lines(Event::Snapshot(Box::new(resource())));
    assert!(lines[0].contains("write-ordering:flush"));
    assert!(
        lines[2].contains("size:10485760 read:1024 written:2048 al-writes:7"),
        "{}",
        lines[2]
    );
}

#[test]
fn colors() {
    let mut p = Printer::new(Wanted {
        color: true,
        ..Wanted::default()
    });
    let mut r = resource();
    r.state.role = "Primary".into();
    r.devices[0].state.disk = "Diskless".into();
    r.devices[0].state.client = true;
    r.connections[0].peer_devices[0].state.replication = "SyncSource".into();
    let lines = p.lines(Event::Snapshot(Box::new(r)));
    assert!(
        lines[0].contains(" role:\x1b[1;36mPrimary\x1b[0m "),
        "{}",
        lines[0]
    );
    assert!(
        lines[1].ends_with("connection:Connected role:Secondary"),
        "{}",
        lines[1]
    );
    assert!(
        lines[2].contains(" disk:\x1b[1;32mDiskless\x1b[0m "),
        "{}",
        lines[2]
    );
    assert!(
        lines[3].contains(" replication:\x1b[31mSyncSource\x1b[0m "),
        "{}",
        lines[3]
    );
    assert!(
        lines[3].contains(" peer-disk:\x1b[32mUpToDate\x1b[0m "),
        "{}",
        lines[3]
    );
}

/// CLI, section 16.5.
#[test]
fn a_new_name() {
    let mut printer = Printer::new(Wanted::default());
    printer.lines(Event::Snapshot(Box::new(resource())));
    printer.lines(Event::SnapshotsEnd);
    let renamed = Event::Renamed {
        resource: "r0".into(),
        new: "r1".into(),
    };
    assert_eq!(
        printer.lines(renamed),
        ["rename resource name:r0 new_name:r1"]
    );
    let gone = printer.lines(Event::Gone {
        resource: "r1".into(),
    });
    assert!(
        gone.iter().all(|line| line.contains(" name:r1")),
        "{gone:?}"
    );
    assert_eq!(gone.last().unwrap(), "destroy resource name:r1");
}
