//! `drbdsetup` beside a real daemon: what it says to wrong command lines, who may use it, its answers to "why", and whether its
//! numbers are true.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use common::{PATIENCE, small, told};
use drbd_testkit::wait::until;
use drbd_testkit::{Cluster, Node, Result, binaries};

/// Command lines, their exit codes, and what they say; `MINOR` stands for that of the volume.
const BAD: &[(&str, i32, &str)] = &[
    // Refused by the program.
    ("", 20, "USAGE"),
    ("nosuch", 20, "USAGE"),
    ("primary", 20, "Missing argument"),
    ("new-minor bad", 20, "Missing argument"),
    ("primary bad more", 20, "Excess arguments: more"),
    ("primary bad --nosuch", 20, "unrecognized option '--nosuch'"),
    ("status --nosuch", 20, "unrecognized option '--nosuch'"),
    ("events2 -x", 20, "invalid option"),
    (
        "new-minor bad x 0",
        20,
        "Cannot determine minor device number of device 'x'",
    ),
    (
        "dstate x",
        20,
        "Cannot determine minor device number of device 'x'",
    ),
    ("new-peer bad x", 20, "x is not a valid number"),
    (
        "net-options bad 1 --protocol=D",
        20,
        "Option --protocol: invalid argument 'D'",
    ),
    (
        "net-options bad 1 --timeout=x",
        20,
        "Option --timeout: invalid argument 'x'",
    ),
    ("net-options bad 1 --timeout", 20, "requires an argument"),
    (
        "attach MINOR /dev/null /dev/null else",
        20,
        "else is not a valid number",
    ),
    (
        "new-path bad 1 ipv4:host.invalid:1 ipv4:127.0.0.1:1",
        20,
        "host.invalid",
    ),
    (
        "wait-connect-resource bad --wfc-timeout=300001",
        20,
        "wfc_timeout => 300001 out of range [0..300000]",
    ),
    // Refused by the daemon.
    ("new-resource other 32", 10, "node id out of range"),
    ("new-resource o/ther 0", 10, "(162)"),
    ("new-peer bad 32", 10, "peer node id out of range"),
    (
        "new-peer bad 0",
        10,
        "peer node id cannot be my own node id",
    ),
    (
        "new-minor bad 1048576 1",
        10,
        "requested minor out of range",
    ),
    (
        "new-minor bad 1048575 65535",
        10,
        "requested volume id out of range",
    ),
    ("new-minor bad MINOR 1", 10, "(161)"),
    ("new-peer bad 1 --ping-timeout=70000", 10, "(162)"),
    ("resource-options bad --quorum=99", 10, "(162)"),
    ("net-options bad 7 --timeout=60", 10, "(162)"),
    ("connect bad 7", 10, "unknown connection"),
    ("disk-options 1048575 --al-extents=67", 10, "unknown minor"),
    (
        "attach MINOR /nonexistent /nonexistent internal",
        10,
        "(104)",
    ),
    ("attach MINOR /dev/zero /dev/zero internal", 10, "(107)"),
    ("primary nosuch", 10, "(158) Unknown resource"),
    ("primary bad", 17, "(-2) Need access to UpToDate data"),
    ("verify bad 7 0", 10, "unknown"),
    ("resize MINOR", 10, "(138)"),
    ("del-resource bad", 10, "(159)"),
    // Things that are not there.
    ("status nosuch", 10, "nosuch: No such resource"),
    ("role nosuch", 10, "Unknown resource"),
    ("cstate bad 7", 10, "No such connection"),
    ("dstate 1048575", 10, "No such device"),
];

#[test]
fn bad_input() -> Result<()> {
    told(Cluster::new("bad", small())?, |c| {
        c.node_mut(0).start()?;
        let node = c.node(0);
        let minor = node.minor(0).to_string();
        node.drbdsetup(&["new-resource", "bad", "0"])?.ok()?;
        node.drbdsetup(&["new-minor", "bad", &minor, "0"])?.ok()?;
        let before = node.drbdsetup(&["show", "--json"])?.ok()?;
        let mut failures = Vec::new();
        for (line, code, wanted) in BAD {
            let line = line.replace("MINOR", &minor);
            let words: Vec<&str> = line.split_whitespace().collect();
            let output = node.drbdsetup(&words)?;
            let said = format!("{}{}", output.stderr, output.stdout);
            if output.code != Some(*code) || !said.contains(wanted) {
                failures.push(format!("{line}: {:?} {said}", output.code));
            }
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
        let after = node.drbdsetup(&["show", "--json"])?.ok()?;
        assert_eq!(before, after, "nothing has changed");
        Ok(())
    })
}

/// Members of the group that the daemon was told may use it, others may not.
#[test]
fn group() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("commands: NOT tested as members of a group: that needs root");
        return Ok(());
    }
    told(Cluster::new("group", small())?, |c| {
        let node = c.node(0);
        // Programs and sockets of tests are below directories that others may not read.
        let open = std::env::temp_dir().join(format!("drbd-group-{}", std::process::id()));
        std::fs::create_dir_all(&open)?;
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o755))?;
        let program = open.join("drbdsetup");
        std::fs::copy(binaries::program("drbdsetup")?, &program)?;
        let socket = open.join("socket").display().to_string();
        let mut daemon = node.spawn(
            "drbdd",
            &[
                "--control",
                &socket,
                "--frontend",
                "none",
                "--group",
                "65533",
            ],
        )?;
        let run = |words: &[&str], gid: u32| {
            // `node.run` would name the node's own socket.
            let mut command = Command::new(&program);
            command.args(words).env("DRBD_CONTROL", &socket);
            command.uid(65534).gid(gid).current_dir("/").output()
        };
        let tested = until("members are served", PATIENCE, || {
            let output = run(&["new-resource", "group", "0"], 65533)?;
            Ok(output.status.success().then_some(()))
        })
        .and_then(|()| {
            let role = run(&["role", "group"], 65533)?;
            let other = run(&["role", "group"], 65534)?;
            Ok((role, other))
        });
        daemon.kill()?;
        daemon.wait()?;
        std::fs::remove_dir_all(&open)?;
        let (role, other) = tested?;
        assert_eq!(role.stdout, b"Secondary\n");
        let told = String::from_utf8_lossy(&other.stderr).to_lowercase();
        assert_eq!(other.status.code(), Some(20), "{told}");
        assert!(told.contains("permission denied"), "{told}");
        Ok(())
    })
}

fn why(node: &Node) -> Result<(String, String)> {
    let text = node.drbdsetup(&["why", "why"])?.ok()?;
    let json = node.drbdsetup(&["why", "why", "--json"])?.ok()?;
    Ok((text, json))
}

#[test]
fn reasons() -> Result<()> {
    let mut options = small();
    options.nodes = 3;
    options.options.push("quorum majority".into());
    options.options.push("on-no-quorum suspend-io".into());
    told(Cluster::new("why", options)?, |c| {
        c.bring_up_in_sync(0)?;
        let (text, json) = why(c.node(0))?;
        assert!(text.contains("I/O is not suspended"), "{text}");
        assert!(json.contains("\"held\": true"), "{json}");
        // A second Primary would be refused.
        let (text, _) = why(c.node(1))?;
        assert!(text.contains("node1") && text.contains("Primary"), "{text}");
        for id in [1, 2] {
            c.node_mut(id).kill();
        }
        c.node(0).wait("no quorum", PATIENCE, |s| {
            s.peer(1, 0).is_some_and(|p| p.replication == "Off")
                && s.peer(2, 0).is_some_and(|p| p.replication == "Off")
        })?;
        let status = c.node(0).drbdsetup(&["status", "why"])?.ok()?;
        assert!(status.contains("suspended:quorum"), "{status}");
        let (text, json) = why(c.node(0))?;
        for wanted in ["I/O is suspended", "is not held", "node2", "node3"] {
            assert!(text.contains(wanted), "'{wanted}' is missing in\n{text}");
        }
        assert!(json.contains("\"held\": false"), "{json}");
        // Who asks can let it go on, or bring a node back.
        c.node_mut(1).start()?;
        c.node(1).adm("up")?;
        c.node(0).wait("quorum again", PATIENCE, |s| {
            s.peer(1, 0).is_some_and(|p| p.disk == "UpToDate")
        })?;
        let (text, json) = why(c.node(0))?;
        assert!(text.contains("I/O is not suspended"), "{text}");
        assert!(json.contains("\"held\": true"), "{json}");
        Ok(())
    })
}

/// Amounts of the one volume with `--statistics`: of the device, and of it on the peer.
fn amounts(node: &Node) -> Result<impl Fn(&str, &str) -> i64> {
    let text = node
        .drbdsetup(&["status", "--json", "--statistics"])?
        .ok()?;
    let status: serde_json::Value = serde_json::from_str(&text).unwrap();
    Ok(move |of: &str, name: &str| {
        let object = match of {
            "device" => &status[0]["devices"][0],
            "peer" => &status[0]["connections"][0]["peer_devices"][0],
            _ => &status[0]["connections"][0],
        };
        let number = object[name].as_i64();
        number.unwrap_or_else(|| panic!("no {name} in {object}"))
    })
}

#[test]
fn statistics() -> Result<()> {
    told(Cluster::new("amounts", small())?, |c| {
        c.bring_up_in_sync(0)?;
        let (here, there) = (amounts(c.node(0))?, amounts(c.node(1))?);
        let mut volume = c.node(0).open(0)?;
        volume.write(1 << 20, &vec![7; 1 << 20])?;
        volume.flush()?;
        let _ = volume.read(1 << 20, 512 << 10)?;
        let (now, then) = (amounts(c.node(0))?, amounts(c.node(1))?);
        // In KiB.
        assert_eq!(now("device", "written") - here("device", "written"), 1024);
        assert_eq!(then("device", "written") - there("device", "written"), 1024);
        assert!(now("device", "read") - here("device", "read") >= 512);
        assert_eq!(now("peer", "sent") - here("peer", "sent"), 1024);
        assert_eq!(then("peer", "received") - there("peer", "received"), 1024);
        assert!(now("device", "al-writes") > here("device", "al-writes"));
        for name in ["out-of-sync", "pending", "unacked"] {
            assert_eq!(now("peer", name), 0, "{name}");
        }
        for name in ["upper-pending", "lower-pending"] {
            assert_eq!(now("device", name), 0, "{name}");
        }
        assert_eq!(
            now("device", "size"),
            i64::try_from(volume.size() >> 10).unwrap()
        );

        // Alone, what the peer lacks is counted; reads and old blocks are not.
        c.node(1).adm("down")?;
        c.node(0)
            .wait("alone", PATIENCE, |s| s.connection(1) != "Connected")?;
        volume.write(1 << 20, &vec![8; 64 << 10])?;
        volume.write(1 << 20, &vec![9; 32 << 10])?;
        volume.flush()?;
        let alone = amounts(c.node(0))?;
        assert_eq!(alone("peer", "out-of-sync"), 64);
        assert_eq!(alone("device", "written") - now("device", "written"), 96);
        drop(volume);
        Ok(())
    })
}
