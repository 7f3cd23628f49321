//! Pacemaker's resource agent `ocf:linbit:drbd`, as Debian installs it, on a cluster of our nodes: start, monitor, notify, promote,
//! demote, the loss of a node, stop. Only the cluster manager is made up, by scripts that keep the scores.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::ffi::OsString;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{PATIENCE, small, told};
use drbd_testkit::{Cluster, Context, Error, Node, Result, Story, binaries};

const AGENT: &str = "/usr/lib/ocf/resource.d/linbit/drbd";
const FUNCTIONS: &str = "/usr/lib/ocf/lib/heartbeat/ocf-shellfuncs";

// Exit codes of agents.
const SUCCESS: i32 = 0;
const ERR_CONFIGURED: i32 = 6;
const NOT_RUNNING: i32 = 7;
const RUNNING_PRIMARY: i32 = 8;

/// `crm_master`: keeps the score of this node in a file.
const CRM_MASTER: &str = r#"#!/bin/sh
while [ $# -gt 0 ]; do
    case "$1" in
    -v) echo "$2" > "$CRM_DIR/score"; exit 0;;
    -D) rm -f "$CRM_DIR/score"; exit 0;;
    -G) cat "$CRM_DIR/score"; exit;;
    esac
    shift
done
exit 1
"#;

/// `crm_resource --locate`: who is promoted as far as the cluster manager knows.
const CRM_RESOURCE: &str = r#"#!/bin/sh
for host in $(cat "$CRM_DIR/primary" 2>/dev/null); do
    echo "resource $OCF_RESOURCE_INSTANCE is running on: $host Master"
done
"#;

/// What the cluster manager knows and says in its calls.
struct Manager {
    dir: PathBuf,
    /// Links in `/dev` that udev would make.
    links: Vec<PathBuf>,
}

impl Drop for Manager {
    fn drop(&mut self) {
        for link in &self.links {
            let _ = std::fs::remove_file(link);
        }
    }
}

impl Manager {
    fn new(cluster: &Cluster) -> Result<Manager> {
        let dir = cluster.dir().join("crm");
        std::fs::create_dir_all(dir.join("bin")).context(dir.display())?;
        for (name, text) in [("crm_master", CRM_MASTER), ("crm_resource", CRM_RESOURCE)] {
            let path = dir.join("bin").join(name);
            std::fs::write(&path, text).context(path.display())?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
                .context(path.display())?;
        }
        let mut manager = Manager {
            dir,
            links: Vec::new(),
        };
        for node in &cluster.nodes {
            std::fs::create_dir_all(manager.of(node)).context("a node's directory")?;
            // These daemons are not the system's and make their links elsewhere.
            let link = PathBuf::from(format!("/dev/drbd{}", node.minor(0)));
            let _ = std::fs::remove_file(&link);
            symlink(node.device(0), &link).context(link.display())?;
            manager.links.push(link);
            pretend_driver(node)?;
        }
        Ok(manager)
    }

    fn of(&self, node: &Node) -> PathBuf {
        self.dir.join(&node.name)
    }

    /// The node that the manager takes for promoted, on all nodes.
    fn promoted(&self, cluster: &Cluster, name: Option<&str>) -> Result<()> {
        for node in &cluster.nodes {
            let path = self.of(node).join("primary");
            std::fs::write(&path, name.unwrap_or("")).context(path.display())?;
        }
        Ok(())
    }

    /// How much the agent wants this node to be promoted.
    fn score(&self, node: &Node) -> Option<i32> {
        let text = std::fs::read_to_string(self.of(node).join("score")).ok()?;
        text.trim().parse().ok()
    }

    /// Calls the agent; its exit code. `more` is part of its environment.
    fn call(&self, node: &Node, action: &str, more: &[(&str, &str)]) -> Result<i32> {
        let mut path = OsString::from(binaries::directory()?);
        path.push(":");
        path.push(self.dir.join("bin"));
        path.push(":/usr/sbin:/usr/bin:/sbin:/bin");
        let log = self.of(node).join("agent.log");
        let mut command = Command::new(AGENT);
        command
            .arg(action)
            .env("PATH", path)
            .env("HA_SBIN_DIR", self.dir.join("bin"))
            .env("HA_LOGFACILITY", "none")
            .env("HA_LOGFILE", &log)
            .env("HA_RSCTMP", self.of(node).join("tmp"))
            .env("CRM_DIR", self.of(node))
            .env("OCF_ROOT", "/usr/lib/ocf")
            .env("OCF_RA_VERSION_MAJOR", "1")
            .env("OCF_RA_VERSION_MINOR", "0")
            .env("OCF_RESOURCE_INSTANCE", "p_drbd:0")
            .env("OCF_RESOURCE_TYPE", "drbd")
            .env("OCF_RESKEY_drbd_resource", "agent")
            .env("OCF_RESKEY_drbdconf", node.config())
            .env("OCF_RESKEY_crm_feature_set", "3.16.2")
            .env("OCF_RESKEY_CRM_meta_interval", "10000");
        for (name, value) in [
            ("clone_max", "2"),
            ("clone_node_max", "1"),
            ("master_max", "1"),
            ("master_node_max", "1"),
            ("notify", "true"),
        ] {
            command.env(format!("OCF_RESKEY_CRM_meta_{name}"), value);
        }
        for (name, value) in more {
            command.env(name, value);
        }
        let output = node.run(command, PATIENCE)?;
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        let code = output
            .code
            .context(format!("{action} on {}: killed\n{log}", node.name))?;
        eprintln!("{}: {action} {code}", node.name);
        Ok(code)
    }

    fn expect(&self, node: &Node, action: &str, more: &[(&str, &str)], code: i32) -> Result<()> {
        let got = self.call(node, action, more)?;
        if got == code {
            return Ok(());
        }
        let log = std::fs::read_to_string(self.of(node).join("agent.log")).unwrap_or_default();
        Err(Error::new(format!(
            "{action} on {} ended with {got}, not {code}; the agent's log:\n{log}",
            node.name
        )))
    }

    fn monitor(&self, node: &Node, code: i32) -> Result<()> {
        self.expect(node, "monitor", &[], code)
    }

    /// Tells all nodes that run something before or after a step.
    fn notify(
        &self,
        cluster: &Cluster,
        nodes: &[u8],
        when: &str,
        operation: &str,
        more: &[(&str, &str)],
    ) -> Result<()> {
        let mut environment = vec![
            ("OCF_RESKEY_CRM_meta_notify_type", when),
            ("OCF_RESKEY_CRM_meta_notify_operation", operation),
        ];
        environment.extend(more);
        for id in nodes {
            self.expect(cluster.node(*id), "notify", &environment, SUCCESS)?;
        }
        Ok(())
    }
}

/// The agent takes DRBD for available if there is `/proc/drbd`, which only a kernel module can make: in this node's mounts `/proc`
/// is one that has everything of the real one and this.
fn pretend_driver(node: &Node) -> Result<()> {
    use rustix::mount::{MountFlags, mount, mount_bind};
    let real = node.dir().join("proc");
    node.place().run(move || -> Result<()> {
        std::fs::create_dir_all(&real).context(real.display())?;
        mount_bind("/proc", &real).context("bind /proc")?;
        let entries: Vec<_> = std::fs::read_dir(&real)
            .context(real.display())?
            .flatten()
            .map(|e| e.file_name())
            .filter(|n| {
                !n.to_string_lossy()
                    .starts_with(|c: char| c.is_ascii_digit())
            })
            .collect();
        mount("tmpfs", "/proc", "tmpfs", MountFlags::NOSUID, None).context("mount on /proc")?;
        for name in entries {
            let link = Path::new("/proc").join(&name);
            symlink(real.join(&name), &link).context(link.display())?;
        }
        std::fs::write("/proc/drbd", "").context("/proc/drbd")
    })?
}

fn lacking() -> Option<&'static str> {
    if !Path::new(AGENT).exists() {
        return Some("there is no resource agent ocf:linbit:drbd: install drbd-utils");
    }
    if !Path::new(FUNCTIONS).exists() {
        return Some("there are no ocf-shellfuncs: install resource-agents");
    }
    None
}

#[test]
fn a_cluster_managers_day() -> Result<()> {
    if let Some(what) = lacking() {
        eprintln!("*** NOT TESTED: {what} ***");
        return Ok(());
    }
    let options = small();
    if options.story != Story::BlockDevice {
        eprintln!(
            "*** NOT TESTED: the agent wants block devices and host names, which needs root ***"
        );
        return Ok(());
    }
    told(Cluster::new("agent", options)?, |c| {
        let m = Manager::new(c)?;
        c.start()?;
        c.create_md()?;
        life(c, &m)
    })
}

fn life(c: &mut Cluster, m: &Manager) -> Result<()> {
    let probe = [("OCF_RESKEY_CRM_meta_interval", "0")];
    let both = [0, 1];

    // Before anything runs.
    for id in both {
        let node = c.node(id);
        m.expect(node, "meta-data", &[], SUCCESS)?;
        m.expect(node, "validate-all", &[], SUCCESS)?;
        m.expect(node, "monitor", &probe, NOT_RUNNING)?;
        assert_eq!(m.score(node), None);
    }
    let two = [("OCF_RESKEY_CRM_meta_master_max", "2")];
    m.expect(c.node(0), "start", &two, ERR_CONFIGURED)?;

    // Start, one after the other; the second one is announced to the first one.
    m.expect(c.node(0), "start", &[], SUCCESS)?;
    let start = [("OCF_RESKEY_CRM_meta_notify_start_uname", "node2")];
    m.notify(c, &[0], "pre", "start", &start)?;
    m.expect(c.node(1), "start", &[], SUCCESS)?;
    m.notify(c, &both, "post", "start", &start)?;
    c.wait_connected(PATIENCE)?;
    for id in both {
        m.monitor(c.node(id), SUCCESS)?;
        assert_eq!(m.score(c.node(id)), None, "nobody has data yet");
    }

    // The administrator chooses the data.
    c.node(0).adm_with("primary", &["--force"])?;
    c.wait_in_sync(PATIENCE)?;
    c.node(0).demote()?;
    for id in both {
        m.monitor(c.node(id), SUCCESS)?;
        assert_eq!(m.score(c.node(id)), Some(10000));
        m.expect(c.node(id), "reload", &[], SUCCESS)?;
    }

    // Promote.
    let promote = [("OCF_RESKEY_CRM_meta_notify_promote_uname", "node1")];
    m.notify(c, &both, "pre", "promote", &promote)?;
    m.expect(c.node(0), "promote", &[], SUCCESS)?;
    m.promoted(c, Some("node1"))?;
    m.notify(c, &both, "post", "promote", &promote)?;
    m.monitor(c.node(0), RUNNING_PRIMARY)?;
    m.monitor(c.node(1), SUCCESS)?;
    c.node(0).open(0)?.write(0, &[0x5a; 4096])?;

    // A Primary that the manager does not know keeps the other one from being promoted, if that is wished.
    m.promoted(c, None)?;
    let careful = [(
        "OCF_RESKEY_remove_master_score_if_peer_primary",
        "unexpected",
    )];
    m.expect(c.node(1), "monitor", &careful, SUCCESS)?;
    assert_eq!(m.score(c.node(1)), None);
    m.monitor(c.node(1), SUCCESS)?;
    assert_eq!(m.score(c.node(1)), Some(10000));

    // Move it.
    let demote = [("OCF_RESKEY_CRM_meta_notify_demote_uname", "node1")];
    m.notify(c, &both, "pre", "demote", &demote)?;
    m.expect(c.node(0), "demote", &[], SUCCESS)?;
    m.notify(c, &both, "post", "demote", &demote)?;
    m.monitor(c.node(0), SUCCESS)?;
    m.expect(c.node(1), "promote", &[], SUCCESS)?;
    m.promoted(c, Some("node2"))?;
    m.monitor(c.node(1), RUNNING_PRIMARY)?;
    assert_eq!(c.node(1).open(0)?.read(0, 4096)?, [0x5a; 4096]);

    // Lose the other node, get it back.
    c.node_mut(0).kill();
    c.node(1)
        .wait("alone", PATIENCE, |s| s.connection(0) != "Connected")?;
    let primary = ("OCF_RESKEY_CRM_meta_notify_master_uname", "node2");
    let stop = [primary, ("OCF_RESKEY_CRM_meta_notify_stop_uname", "node1")];
    m.notify(c, &[1], "post", "stop", &stop)?;
    m.monitor(c.node(1), RUNNING_PRIMARY)?;
    assert_eq!(m.score(c.node(1)), Some(10000));
    c.node(1).open(0)?.write(4096, &[0xa5; 4096])?;
    c.node_mut(0).start()?;
    m.expect(c.node(0), "monitor", &probe, NOT_RUNNING)?;
    let start = [primary, ("OCF_RESKEY_CRM_meta_notify_start_uname", "node1")];
    m.notify(c, &[1], "pre", "start", &start)?;
    m.expect(c.node(0), "start", &[], SUCCESS)?;
    m.notify(c, &both, "post", "start", &start)?;
    c.wait_in_sync(PATIENCE)?;
    m.monitor(c.node(0), SUCCESS)?;
    assert_eq!(m.score(c.node(0)), Some(10000));

    // Stopped beside a Primary it outdates itself.
    let outdates = [primary, ("OCF_RESKEY_stop_outdates_secondary", "true")];
    m.expect(c.node(0), "stop", &outdates, SUCCESS)?;
    m.expect(c.node(0), "monitor", &probe, NOT_RUNNING)?;
    let state = c.node(0).drbdadm(&["dstate", "agent"])?.ok()?;
    assert!(state.starts_with("Outdated"), "{state}");

    // The end: a Primary is demoted on the way.
    m.expect(c.node(1), "stop", &[], SUCCESS)?;
    m.expect(c.node(1), "stop", &[], SUCCESS)?;
    m.expect(c.node(1), "monitor", &probe, NOT_RUNNING)?;
    for id in both {
        assert_eq!(m.score(c.node(id)), None);
        let left = c.node(id).drbdsetup(&["status"])?.ok()?;
        assert!(!left.contains("agent"), "{left}");
    }
    Ok(())
}
