//! Connections in other network namespaces than the daemon's. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use common::{PATIENCE, small, told};
use drbd_testkit::wait::until;
use drbd_testkit::{Cluster, Error, Node, Output, Place, Result, Spaces, Story, binaries, connect};

const HERE: Ipv4Addr = Ipv4Addr::new(10, 99, 7, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(10, 99, 7, 2);

/// A network that is connected with that of the second node only.
fn network(c: &Cluster) -> Result<Place> {
    // Also the host name, which `drbdadm` goes by.
    let place = Place::new(&c.node(0).name, Spaces::Own)?;
    connect((&place, "aside", HERE), (c.node(1).place(), "aside", THERE))?;
    Ok(place)
}

/// Runs a command for the first node from another place.
fn from(place: &Place, node: &Node, program: &str, args: &[&str]) -> Result<Output> {
    let mut command = Command::new(binaries::program(program)?);
    if program == "drbdadm" {
        command.arg("-c").arg(node.config());
    }
    command
        .args(args)
        .env("DRBD_CONTROL", node.dir().join("drbdd.sock"));
    let line = format!("{command:?}");
    let output = place.run(move || command.output())??;
    Ok(Output {
        line,
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Sockets of DRBD's port in a network.
fn sockets(place: &Place) -> Result<usize> {
    let table = place.run(|| std::fs::read_to_string("/proc/thread-self/net/tcp"))??;
    Ok(table.lines().filter(|l| l.contains(":1E6C ")).count())
}

/// Both nodes have daemons; the path leads through the network aside.
fn prepare(c: &mut Cluster) -> Result<()> {
    let (a, b) = (c.address(0, 1).ip(), c.address(1, 0).ip());
    for node in &c.nodes {
        node.edit_config(|text| {
            let text = text.replace(&format!("{a}:"), &format!("{HERE}:"));
            text.replace(&format!("{b}:"), &format!("{THERE}:"))
        })?;
    }
    c.start()?;
    c.create_md()
}

fn possible() -> Result<bool> {
    let possible = small().story == Story::BlockDevice;
    if !possible {
        eprintln!("networks: NOT tested: that needs root, to make network namespaces");
    }
    Ok(possible)
}

/// The row `net-namespaces`.
#[test]
fn connections_live_in_a_network_namespace() -> Result<()> {
    if !possible()? {
        return Ok(());
    }
    told(Cluster::new("netns", small())?, |c| {
        prepare(c)?;
        let aside = network(c)?;
        c.node(1).adm("up")?;
        let node = c.node(0);
        let setup = |args: &[&str]| from(&aside, node, "drbdsetup", args);
        // Everything but the path from the daemon's own network, where that address does not exist.
        node.adm("new-resource")?;
        node.adm("new-minor")?;
        node.adm("attach")?;
        node.adm("new-peer")?;
        from(&aside, node, "drbdadm", &["new-path", "netns"])?.ok()?;
        let refused = |args: &[&str], text: &str| {
            let output = node.drbdsetup(args)?;
            assert_eq!(output.code, Some(10), "{output:?}");
            assert!(output.stderr.contains("(162)"), "{output:?}");
            assert!(output.stderr.contains(text), "{output:?}");
            Ok::<(), Error>(())
        };
        let elsewhere = "connection assigned to a different network namespace";
        let already = "connection already assigned to a different network namespace";
        let (here, there) = (format!("{HERE}:7788"), format!("{THERE}:7788"));
        refused(&["connect", "netns", "1"], elsewhere)?;
        refused(&["new-path", "netns", "1", "10.1.1.1", "10.1.1.2"], already)?;
        refused(&["del-path", "netns", "1", &here, &there], elsewhere)?;
        setup(&["connect", "netns", "1"])?.ok()?;
        node.wait("connected", PATIENCE, |s| s.connection(1) == "Connected")?;
        assert_eq!(sockets(node.place())?, 0);
        assert!(sockets(&aside)? >= 2);
        refused(&["disconnect", "netns", "1"], elsewhere)?;
        refused(&["del-peer", "netns", "1"], elsewhere)?;
        // What is not about sockets is for everybody.
        node.adm_with("primary", &["--force"])?;
        c.wait_in_sync(PATIENCE)?;
        c.compare(&[0, 1], 0)?;
        setup(&["net-options", "netns", "1", "--ping-int=3"])?.ok()?;
        assert_eq!(setup(&["role", "netns"])?.ok()?, "Primary\n");

        // It is accepted from in there, too: the other one comes back when this one does not call.
        c.node(1).adm("disconnect")?;
        c.node(1).adm("connect")?;
        node.wait("connected again", PATIENCE, |s| {
            s.connection(1) == "Connected"
        })?;
        assert_eq!(sockets(node.place())?, 0);

        // Without paths it is in none: the next path decides.
        setup(&["disconnect", "netns", "1"])?.ok()?;
        setup(&["del-path", "netns", "1", &here, &there])?.ok()?;
        node.drbdsetup(&["new-path", "netns", "1", "10.1.1.1", "10.1.1.2"])?
            .ok()?;
        let output = setup(&["connect", "netns", "1"])?;
        assert!(output.stderr.contains(elsewhere), "{output:?}");
        node.adm("down").map(drop)
    })
}

/// The row `net-namespaces-config-change`.
#[test]
fn a_network_namespace_is_deleted() -> Result<()> {
    if !possible()? {
        return Ok(());
    }
    told(Cluster::new("netgone", small())?, |c| {
        prepare(c)?;
        c.node(1).adm("up")?;
        for round in 0..2 {
            let aside = network(c)?;
            let node = c.node(0);
            from(&aside, node, "drbdadm", &["adjust", "netgone"])?.ok()?;
            if round == 0 {
                node.adm_with("primary", &["--force"])?;
            }
            c.wait_in_sync(PATIENCE)?;
            // It stays as long as somebody is inside.
            std::thread::sleep(Duration::from_secs(5));
            assert_eq!(node.status()?.connection(1), "Connected");
            drop(aside);
            node.wait("the connection is given up", PATIENCE, |s| {
                s.connection(1) == "StandAlone"
            })?;
            until("its paths are removed", PATIENCE, || {
                let shown = node.drbdsetup(&["show", "netgone"])?.ok()?;
                Ok((!shown.contains("path")).then_some(()))
            })?;
            assert!(node.logged("Disconnect because network namespace is exiting"));
            // The namespace is really gone, and with it both ends of the cable.
            until("the device at the other end vanishes", PATIENCE, || {
                let list = "/proc/thread-self/net/dev";
                let list = c
                    .node(1)
                    .place()
                    .run(move || std::fs::read_to_string(list))??;
                Ok((!list.contains("aside")).then_some(()))
            })?;
            c.node(1).wait("the other one is alone", PATIENCE, |s| {
                s.connection(0) != "Connected"
            })?;
        }
        Ok(())
    })
}
