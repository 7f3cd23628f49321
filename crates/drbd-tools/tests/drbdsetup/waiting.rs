//! Waiting commands and their timeouts (CLI, section 11).

use std::time::{Duration, Instant};

use drbd_control::protocol::{Event, Resource, WaitTimeout};

use crate::daemon::{Daemon, Objects};
use crate::recorded::resources;

/// `r0`, whose peers have no connection: for the first a different timeout applies than for the second.
fn apart(first: WaitTimeout, second: WaitTimeout) -> Resource {
    let mut r0 = resources().into_iter().find(|r| r.name == "r0").unwrap();
    r0.connections.truncate(2);
    for (connection, wait) in r0.connections.iter_mut().zip([first, second]) {
        connection.state.connection = "Connecting".into();
        for device in &mut connection.peer_devices {
            device.state.replication = "Off".into();
            device.state.wait = wait;
        }
    }
    r0
}

fn daemon(resource: Resource, events: Vec<Event>) -> Daemon {
    Daemon::new(Objects {
        resources: vec![resource],
        events,
        ..Objects::default()
    })
}

/// Exit code, what is said, and whole seconds.
fn wait(daemon: &Daemon, line: &str) -> (i32, String, u64) {
    let start = Instant::now();
    let output = daemon.drbdsetup(line);
    let seconds = start.elapsed().as_secs();
    (output.exit, output.stderr, seconds)
}

#[test]
fn each_peer_has_its_timeout() {
    use WaitTimeout::{Degraded, Normal, Outdated};
    let line = "wait-connect-resource r0 -t 30 -d 2 -o 1";
    for (first, second, seconds) in [
        (Degraded, Degraded, 2),
        (Outdated, Outdated, 1),
        (Outdated, Degraded, 2),
    ] {
        let daemon = daemon(apart(first, second), Vec::new());
        let (exit, said, took) = wait(&daemon, line);
        assert_eq!((exit, said.as_str()), (5, ""), "{first:?} {second:?}");
        assert!(
            (seconds..seconds + 20).contains(&took),
            "{took} instead of {seconds}"
        );
    }
    // The one with the long timeout connects after the other's has passed.
    let r0 = apart(Outdated, Normal);
    let mut events = Vec::new();
    let second = &r0.connections[1];
    for device in &second.peer_devices {
        let mut state = device.state.clone();
        state.replication = "Established".into();
        events.push(Event::PeerDevice {
            resource: "r0".into(),
            peer: second.peer,
            volume: device.volume,
            state: Some(state),
            continues: false,
        });
    }
    let daemon = daemon(r0, events);
    assert_eq!(wait(&daemon, line).0, 0);
    // In the scope of one peer only that one counts.
    let (exit, _, took) = wait(&daemon, "wait-connect-connection r0 1 -t 30 -d 20 -o 1");
    assert!(exit == 5 && took < 20, "{exit} after {took}");
    assert_eq!(wait(&daemon, "wait-connect-volume r0 2 1 -t 30").0, 0);
}

#[test]
fn shorter_timeouts_stay_shorter() {
    let daemon = daemon(
        apart(WaitTimeout::Outdated, WaitTimeout::Outdated),
        Vec::new(),
    );
    let (exit, said, took) = wait(&daemon, "wait-connect-resource r0 -t 1 -d 100 -o 200");
    assert_eq!(exit, 5);
    assert!(took < 60);
    assert_eq!(
        said,
        "degr-wfc-timeout has to be shorter than wfc-timeout\n\
         degr-wfc-timeout implicitly set to wfc-timeout (1s)\n\
         outdated-wfc-timeout has to be shorter than degr-wfc-timeout\n\
         outdated-wfc-timeout implicitly set to degr-wfc-timeout (1s)\n"
    );
    // What was not asked for is not talked about, and is no longer either.
    let (exit, said, _) = wait(&daemon, "wait-connect-resource r0 --wfc-timeout=1");
    assert_eq!((exit, said.as_str()), (5, ""));
    let (exit, said, _) = wait(
        &daemon,
        "wait-connect-resource r0 --degr-wfc-timeout=300001",
    );
    assert_eq!(exit, 20);
    assert!(
        said.starts_with("degr_wfc_timeout => 300001 out of range [0..300000]\n"),
        "{said}"
    );
}

#[test]
fn ends_of_waiting() {
    // Sync waits for the end of a resync, connect does not.
    let r0 = resources().into_iter().find(|r| r.name == "r0").unwrap();
    let synced = daemon(r0, Vec::new());
    assert_eq!(wait(&synced, "wait-connect-connection r0 1 -t 30").0, 0);
    assert_eq!(wait(&synced, "wait-sync-connection r0 1 -t 1").0, 5);
    // Nothing to wait for.
    assert_eq!(wait(&synced, "wait-connect-connection r0 9").0, 0);
    assert_eq!(wait(&synced, "wait-connect-resource nosuch").0, 0);
    // A peer that is not tried any more.
    let mut r0 = apart(WaitTimeout::Normal, WaitTimeout::Normal);
    r0.connections[0].state.connection = "StandAlone".into();
    let alone = daemon(r0, Vec::new());
    assert_eq!(wait(&alone, "wait-connect-resource r0").0, 0);
    let (exit, said, took) = wait(&alone, "wait-connect-resource r0 --wait-after-sb -t 1");
    assert_eq!(
        (exit, said.as_str()),
        (5, "r0: peer 1 is StandAlone, still waiting\n")
    );
    assert!(Duration::from_secs(took) >= Duration::from_secs(1));
}
