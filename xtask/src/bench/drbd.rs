//! Two `drbdd` as a mirror with protocol C.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use drbd_node::control::client::Client;
use drbd_node::control::protocol::{Answer, Resource};
use drbd_node::frontend::nbd::address::Address;

use super::Contender;
use super::files::WorkDir;
use super::process::{Process, Programs, SOON, free_port};

/// How a mirror keeps its writes in order.
pub(super) struct Kind {
    /// Its name in the table.
    pub(super) name: &'static str,
    /// Of its files and sockets.
    key: &'static str,
    /// Added to the ids that tell its nodes' minors apart.
    first: u32,
    /// Options of `attach`.
    disk: &'static [(&'static str, &'static str)],
}

/// As it comes: the peer flushes its disk between writes that depend on each other.
pub(super) const DEFAULT: Kind = Kind {
    name: "drbd-rs, protocol C",
    key: "drbd",
    first: 0,
    disk: &[],
};

/// For disks that lose nothing when the power fails, and what QEMU's mirror does: it neither flushes nor orders.
pub(super) const UNORDERED: Kind = Kind {
    name: "drbd-rs, C, no flushes",
    key: "unordered",
    first: 2,
    disk: &[
        ("disk-flushes", "no"),
        ("md-flushes", "no"),
        ("disk-drain", "no"),
    ],
};

const RESOURCE: &str = "bench";
/// Any that nobody else uses: drbdmeta locks by it.
const MINOR: u32 = 0xb_e000;

struct Node {
    minor: String,
    socket: PathBuf,
    nbd: PathBuf,
    process: Process,
}

impl Node {
    fn start(programs: &Programs, dir: &WorkDir, id: u32, disk: &Path) -> Result<Node, String> {
        let minor = (MINOR + (std::process::id() & 0xfff) * 4 + id).to_string();
        let output = Command::new(&programs.drbdmeta)
            .args(["--force", &minor, "v09"])
            .arg(disk)
            .args(["internal", "create-md", "1"])
            .output()
            .map_err(|e| format!("drbdmeta: {e}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("drbdmeta create-md: {}: {said}", output.status));
        }
        let (socket, nbd) = (
            dir.run(&format!("n{id}.sock")),
            dir.run(&format!("n{id}.nbd")),
        );
        let mut command = Command::new(&programs.drbdd);
        command
            .arg("--control")
            .arg(&socket)
            .arg("--nbd")
            .arg(format!("unix:{}", nbd.display()));
        command.args(["--frontend", "nbd"]).env("NO_COLOR", "1");
        let mut process = Process::start(command, dir.run(&format!("n{id}.log")))?;
        process.wait("drbdd opens its socket", || {
            Client::connect(&socket).is_ok()
        })?;
        Ok(Node {
            minor,
            socket,
            nbd,
            process,
        })
    }

    /// A command that must succeed.
    fn give(
        &self,
        command: &str,
        arguments: &[&str],
        options: &[(&str, &str)],
    ) -> Result<Vec<Answer>, String> {
        let options = options
            .iter()
            .map(|(name, value)| {
                let value = (!value.is_empty()).then(|| (*value).to_owned());
                ((*name).to_owned(), value)
            })
            .collect();
        let mut client = Client::connect(&self.socket).map_err(|e| e.to_string())?;
        client.set_timeout(Some(SOON)).map_err(|e| e.to_string())?;
        let outcome = client
            .request(command, arguments, options, false)
            .map_err(|e| format!("{command}: {e}"))?;
        // 101 says that there was no error, 1 to 4 are changes of state that succeeded (CLI, section 10).
        if !matches!(outcome.code, 1..=4 | 101) {
            return Err(format!(
                "{command}: code {} {}",
                outcome.code,
                outcome.info.join("; ")
            ));
        }
        Ok(outcome.answers)
    }

    fn status(&self) -> Result<Resource, String> {
        let answers = self.give("status", &[], &[])?;
        let resources = answers.into_iter().find_map(|a| match a {
            Answer::Status(list) => Some(list),
            _ => None,
        });
        resources
            .and_then(|list| list.into_iter().find(|r| r.name == RESOURCE))
            .ok_or_else(|| "status does not show the resource".into())
    }

    fn wait(&self, what: &str, is: impl Fn(&Resource) -> bool) -> Result<(), String> {
        let start = Instant::now();
        loop {
            let status = self.status()?;
            if is(&status) {
                return Ok(());
            }
            if start.elapsed() > SOON {
                return Err(format!("{what}: not within {SOON:?}; it is {status:?}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Both disks as a node sees them.
fn disks(status: &Resource) -> Option<(&str, &str)> {
    let device = status.devices.first()?;
    let peer = status.connections.first()?.peer_devices.first()?;
    Some((&device.state.disk, &peer.state.peer_disk))
}

/// Starts the mirror; the second node is Secondary.
pub(super) fn start(
    programs: &Programs,
    dir: &WorkDir,
    size: u64,
    kind: &Kind,
) -> Result<Contender, String> {
    let key = kind.key;
    let stores = vec![
        dir.disk(&format!("{key}-1.img"), size)?,
        dir.disk(&format!("{key}-2.img"), size)?,
    ];
    let mut nodes = Vec::new();
    for (id, disk) in (kind.first..).zip(&stores) {
        nodes.push(Node::start(programs, dir, id, disk)?);
    }
    let addresses = [free_port()?, free_port()?].map(|port| format!("127.0.0.1:{port}"));
    let [first, second] = &addresses;
    let ends = [("0", "1", first, second), ("1", "0", second, first)];
    for ((own, peer, local, remote), (node, disk)) in
        ends.into_iter().zip(nodes.iter().zip(&stores))
    {
        let minor = node.minor.as_str();
        let disk = disk.to_string_lossy();
        node.give("new-resource", &[RESOURCE, own], &[])?;
        node.give("new-minor", &[RESOURCE, minor, "0"], &[])?;
        node.give(
            "new-peer",
            &[RESOURCE, peer],
            &[("_name", "peer"), ("protocol", "C")],
        )?;
        node.give("new-path", &[RESOURCE, peer, local, remote], &[])?;
        node.give("attach", &[minor, &disk, &disk, "internal"], kind.disk)?;
        node.give("connect", &[RESOURCE, peer], &[])?;
    }
    let [primary, _] = nodes.as_slice() else {
        return Err("two nodes are two".into());
    };
    primary.wait("the nodes connect", |s| {
        disks(s) == Some(("Inconsistent", "Inconsistent"))
    })?;
    primary.give(
        "new-current-uuid",
        &[&primary.minor],
        &[("clear-bitmap", "")],
    )?;
    primary.wait("the copies count as equal", |s| {
        disks(s) == Some(("UpToDate", "UpToDate"))
    })?;
    primary.give("primary", &[RESOURCE], &[])?;
    let sectors = primary
        .status()?
        .devices
        .first()
        .map_or(0, |d| d.state.size);
    Ok(Contender {
        name: kind.name,
        address: Address::Unix(primary.nbd.clone()),
        export: format!("{RESOURCE}/0"),
        processes: nodes.into_iter().map(|n| n.process).collect(),
        idle_memory: 0,
        size: sectors << 9,
        stores,
        second: None,
        runs: Vec::new(),
    })
}
