//! Command lines of version 8.4 (CLI, section 19): what reaches the daemon.

use drbd_control::protocol::{Config, VolumeConfig};

use crate::daemon::{Daemon, Objects};

fn daemon(node_id: u8) -> Daemon {
    let volume = VolumeConfig {
        volume: 0,
        minor: 7,
        diskless: false,
        backing: None,
        disk: Default::default(),
        device: Default::default(),
        places: Vec::new(),
    };
    Daemon::new(Objects {
        code: 101,
        configs: vec![Config {
            resource: "r0".into(),
            options: Default::default(),
            node_id,
            volumes: vec![volume],
            connections: Vec::new(),
        }],
        ..Objects::default()
    })
}

/// Runs a command line that must succeed; what the daemon was asked for, questions left out.
#[track_caller]
fn asked(daemon: &Daemon, line: &str) -> Vec<String> {
    let output = daemon.drbdsetup(line);
    assert_eq!(output.exit, 0, "{line}: {}", output.stderr);
    let mut asked = daemon.asked();
    asked.retain(|line| !line.starts_with("show") && !line.starts_with("status"));
    asked
}

#[test]
fn object_before_command() {
    let daemon = daemon(0);
    assert_eq!(
        asked(&daemon, "r0 primary --force"),
        ["primary r0 --force=yes"]
    );
    assert_eq!(asked(&daemon, "/dev/drbd7 detach"), ["detach 7"]);
    assert_eq!(
        asked(&daemon, "7 attach /dev/sda /dev/sda internal"),
        ["attach 7 /dev/sda /dev/sda internal"]
    );
    // Neither word is a command.
    let output = daemon.drbdsetup("r0 promote");
    assert_eq!(output.exit, 20);
    assert!(
        output.stdout.ends_with("\nunknown command: 'r0'\n"),
        "{}",
        output.stdout
    );
}

#[test]
fn the_life_of_a_resource() {
    let daemon = daemon(0);
    let compat = daemon.dir().join("compat-84");
    let output = daemon.drbdsetup("new-resource r0");
    assert_eq!(
        output.stderr,
        "new-resource called without node-id: enabling drbd8 compat mode\n"
    );
    assert_eq!(
        (output.exit, daemon.asked()),
        (0, vec!["new-resource r0 0".to_owned()])
    );
    assert!(compat.join("res-r0").is_dir());
    assert_eq!(asked(&daemon, "new-minor r0 7 0"), ["new-minor r0 7 0"]);
    assert_eq!(
        compat.join("minor-7").canonicalize().unwrap(),
        compat.join("res-r0/vol-0").canonicalize().unwrap()
    );
    // Options of the disk that belong to the peer today.
    assert_eq!(
        asked(
            &daemon,
            "attach 7 /dev/sda /dev/sda internal --fencing=resource-only --c-max-rate 100M --on-io-error=detach"
        ),
        ["attach 7 /dev/sda /dev/sda internal --on-io-error=detach"]
    );
    assert_eq!(
        asked(
            &daemon,
            "connect r0 ipv4:10.1.1.31:7000 ipv4:10.1.1.32:7000 --protocol=C --discard-my-data"
        ),
        [
            // The addresses want node id 1 here: the resource is made anew with it.
            "del-minor 7",
            "del-resource r0",
            "new-resource r0 1",
            "new-minor r0 7 0",
            "new-peer r0 0 --_name=remote --protocol=C --fencing=resource-only",
            "peer-device-options r0 0 0 --c-max-rate=100M",
            "new-path r0 0 ipv4:10.1.1.31:7000 ipv4:10.1.1.32:7000",
            "connect r0 0 --discard-my-data=yes",
        ]
    );
    // Nothing of it is left for the next connection.
    assert!(!compat.join("res-r0/new-peer-opts").exists());
    asked(&daemon, "down r0");
    assert!(!compat.join("res-r0").exists() && !compat.join("minor-7").exists());
}

#[test]
fn addresses_for_a_node_id() {
    // The side with the greater hash is node 0.
    let (one, other) = ("10.1.1.31", "10.1.1.32");
    let daemon = daemon(0);
    assert_eq!(
        asked(&daemon, &format!("connect r0 {one} {other} --protocol=A")),
        [
            "new-peer r0 1 --_name=remote --protocol=A",
            "new-path r0 1 10.1.1.31 10.1.1.32",
            "connect r0 1",
        ]
    );
    assert_eq!(
        asked(&daemon, &format!("disconnect r0 {one} {other}")),
        ["disconnect r0 1", "del-peer r0 1"]
    );
    assert_eq!(
        asked(&daemon, &format!("connect r0 {other} {one}"))[0],
        "new-peer r0 0 --_name=remote"
    );
    // Today's form stays what it is.
    assert_eq!(asked(&daemon, "connect r0 1"), ["connect r0 1"]);
    assert_eq!(
        asked(&daemon, "disconnect r0 1 --force"),
        ["disconnect r0 1 --force=yes"]
    );
    assert_eq!(
        daemon.drbdsetup(&format!("connect r0 {one} {one}")).exit,
        20
    );
}
