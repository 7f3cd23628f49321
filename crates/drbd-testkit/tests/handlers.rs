//! Programs that the daemon runs: what they are told, and what their exit code does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::{PATIENCE, small, told};
use drbd_testkit::load::{Expected, Load};
use drbd_testkit::rng::Rng;
use drbd_testkit::wait::until;
use drbd_testkit::{Cluster, Options, Result};

const SPAN: u64 = 8 << 20;

/// A directory with one script for all handlers. It writes down its environment as `HANDLER.NODE-ID`, and ends with the
/// code that stands in the file `HANDLER`, if there is one.
struct Scripts(PathBuf);

impl Scripts {
    fn new(name: &str) -> Scripts {
        let dir = std::env::temp_dir().join(format!("drbd-handlers-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let script = format!(
            "#!/bin/sh\nenv > {dir}/$1.new.$$\nmv {dir}/$1.new.$$ {dir}/$1.$DRBD_MY_NODE_ID\n\
             [ ! -e {dir}/$1 ] || exit $(cat {dir}/$1)\n",
            dir = dir.display()
        );
        let path = dir.join("script");
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Scripts(dir)
    }

    fn options(&self, handlers: &[&str]) -> Options {
        let mut options = small();
        options.handlers = handlers
            .iter()
            .map(|h| format!("{h} \"{}/script {h}\"", self.0.display()))
            .collect();
        options
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The handler ends with this code from now on.
    fn ends_with(&self, handler: &str, code: i32) {
        std::fs::write(self.path(handler), code.to_string()).unwrap();
    }

    /// What the handler was told on a node, once it was called; then it counts as not called.
    fn called(&self, handler: &str, node: u8) -> Result<BTreeMap<String, String>> {
        let path = self.path(&format!("{handler}.{node}"));
        until(&format!("node {node} calls {handler}"), PATIENCE, || {
            Ok(path.exists().then_some(()))
        })?;
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        Ok(pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
    }

    fn was_called(&self, handler: &str, node: u8) -> bool {
        self.path(&format!("{handler}.{node}")).exists()
    }
}

impl Drop for Scripts {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Whether I/O of a node is suspended.
fn suspended(c: &Cluster, id: u8) -> Result<bool> {
    let text = c.node(id).drbdsetup(&["status", "--json"])?.ok()?;
    Ok(text.contains("\"suspended-fencing\": true"))
}

#[test]
fn fence_peer() -> Result<()> {
    let scripts = Scripts::new("fence");
    let mut options = scripts.options(&["fence-peer", "unfence-peer", "disconnected"]);
    options.net.push("fencing resource-and-stonith".to_owned());
    told(Cluster::new("fence", options)?, |c| {
        c.bring_up_in_sync(0)?;
        let mut expected = Expected::default();
        expected.write(&mut c.node(0).open(0)?, &mut Rng::new(1), SPAN, 4)?;
        scripts.called("unfence-peer", 0)?;
        assert!(!scripts.was_called("fence-peer", 0));

        // A broken handler: writes wait until the administrator says otherwise.
        scripts.ends_with("fence-peer", 1);
        let load = Load::start(c.node(0).open(0)?, expected, 2, SPAN);
        let more = |load: &Load, count: u64| {
            let from = load.batches();
            until("the load makes progress", PATIENCE, || {
                Ok((load.batches() >= from + count || load.has_ended()).then_some(()))
            })
        };
        more(&load, 5)?;
        c.node_mut(1).kill();
        let told = scripts.called("fence-peer", 0)?;
        let said = |name: &str| told.get(name).map_or("", String::as_str);
        assert_eq!(said("DRBD_RESOURCE"), "fence");
        assert_eq!(said("DRBD_PEER_NODE_ID"), "1");
        assert_eq!(said("DRBD_MY_NODE_ID"), "0");
        assert_eq!(said("UP_TO_DATE_NODES"), "0x00000001");
        assert_eq!(said("DRBD_CSTATE"), "NetworkFailure");
        assert_eq!(said("DRBD_MINOR"), c.node(0).minor(0).to_string());
        assert_eq!(said("DRBD_MINOR_0"), c.node(0).minor(0).to_string());
        assert_eq!(Path::new(said("DRBD_BACKING_DEV_0")), c.node(0).disk(0));
        assert_eq!(Path::new(said("DRBD_LL_DISK")), c.node(0).disk(0));
        assert_eq!(Path::new(said("DRBD_CONF")), c.node(0).config());
        assert_eq!((said("DRBD_MY_AF"), said("DRBD_PEER_AF")), ("ipv4", "ipv4"));
        assert!(
            said("DRBD_PEER_ADDRESS")
                .parse::<std::net::Ipv4Addr>()
                .is_ok()
        );
        scripts.called("disconnected", 0)?;
        let stands = load.batches();
        std::thread::sleep(std::time::Duration::from_secs(2));
        assert_eq!(load.batches(), stands, "writes go on without the peer");
        assert!(suspended(c, 0)?);
        c.node(0).adm("resume-io")?;
        more(&load, 5)?;
        let (after, error) = load.stop();
        assert_eq!(error, None);
        expected = after;

        // The peer comes back; next time the handler does what it should.
        c.node_mut(1).start()?;
        c.node(1).adm("up")?;
        c.wait_in_sync(PATIENCE)?;
        scripts.called("unfence-peer", 0)?;
        scripts.ends_with("fence-peer", 7);
        c.node_mut(1).kill();
        scripts.called("fence-peer", 0)?;
        c.node(0).wait("the peer is fenced", PATIENCE, |s| {
            s.peer(1, 0).is_some_and(|p| p.disk == "Outdated")
        })?;
        assert!(!suspended(c, 0)?);
        expected.write(&mut c.node(0).open(0)?, &mut Rng::new(3), SPAN, 4)?;
        c.node_mut(1).start()?;
        c.node(1).adm("up")?;
        c.wait_in_sync(PATIENCE)?;
        expected.check(&mut c.node(0).open(0)?)?;
        c.compare(&[0, 1], 0)
    })
}

#[test]
fn before_resync_target() -> Result<()> {
    let scripts = Scripts::new("resync");
    let options = scripts.options(&["before-resync-target", "after-resync-target"]);
    told(Cluster::new("resync", options)?, |c| {
        scripts.ends_with("before-resync-target", 1);
        c.bring_up()?;
        c.node(0).adm_with("primary", &["--force"])?;
        let told = scripts.called("before-resync-target", 1)?;
        let said = |name: &str| told.get(name).map_or("", String::as_str);
        assert_eq!((said("DRBD_VOLUME"), said("DRBD_PEER_NODE_ID")), ("0", "0"));
        assert_eq!(Path::new(said("DRBD_BACKING_DEV")), c.node(1).disk(0));
        c.node(1)
            .wait("gives up", PATIENCE, |s| s.connection(0) == "StandAlone")?;
        assert!(!scripts.was_called("after-resync-target", 1));
        scripts.ends_with("before-resync-target", 0);
        c.node(1).adm("connect")?;
        c.wait_in_sync(PATIENCE)?;
        scripts.called("before-resync-target", 1)?;
        scripts.called("after-resync-target", 1)?;
        c.compare(&[0, 1], 0)
    })
}
