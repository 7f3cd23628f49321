//! A laboratory for the catalogue: short words for clusters, commands, states and mishaps.
//!
//! A test builds a cluster with [`Setup`], lets it come up, and from then on speaks as an administrator
//! (`t.primary(0)`, `t.disconnect(1, 0)`, `t.refuses(1, Command::.., RetCode::..)`), as an application
//! (`t.write(0, [1, 2])`, `let io = t.begin_write(0, 7)`, `t.pending(io)`), as fate (`t.cut(0, 1)`,
//! `t.isolate(2)`, `t.crash(1)`, `t.break_disk(0)`), and as an observer of events. States are written as
//! [`Is`] values: `Disk(UpToDate)`, `Repl(1, SyncTarget)`, `PeerDisk(1, Outdated)`, `Conn(1, Connected)`.
//!
//! | word | meaning |
//! |---|---|
//! | `t.expect(n, s)` | node n is in the state now |
//! | `t.wait(n, s)` | node n is in the state, or comes into it within two minutes of virtual time |
//! | `t.event(n, s)` | the next event of node n that shows the state, from where the last one was found on: the order of states is checked, and none is missed that was there for a moment only |
//! | `t.mark()` | events before now do not count any more for `event`, `seen` and `never` |
//! | `t.seen(n, s)` / `t.never(n, s)` | the state was / was not among the events since the mark |
//! | `t.healthy()` | waits until all nodes that run are connected as configured, Established, with all their disks UpToDate |
//! | `t.finish()` | the end of every test, see below |
//!
//! `finish` checks the rules for all tests (state machine, chapter 21): nobody reported Timeout,
//! ProtocolError, NetworkFailure, BrokenPipe or a Failed disk that the test did not announce
//! ([`Lab::may_see`]; mishaps announce what they cause), UpToDate replicas are identical, everything acknowledged is
//! there, no request, buffer or command is left over, and every node can be taken down.
//!
//! A volume has blocks of 4 KiB; amounts are in blocks unless the name says otherwise.
#![allow(dead_code, unreachable_pub)]

mod commands;
mod faults;
mod io;
pub mod meeting;
mod states;
pub mod uuids;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use drbd_engine::command::Command;
use drbd_engine::options::{Quorum, WireProtocol};
use drbd_engine::rows::{Row, Rows};
use drbd_proto::{ConnState, VolumeNr};
use drbd_sim::clock::SEC;
use drbd_sim::cluster::{Cluster, catch_panics};
use drbd_sim::config::{Config, Initial, VolumeConfig};
use drbd_sim::core;

pub use states::Is::{self, *};

/// How a cluster shall look like.
pub struct Setup {
    /// The simulator's configuration.
    pub config: Config,
    links: Vec<(usize, usize)>,
    volumes_at_start: usize,
}

impl Setup {
    /// Nodes with one volume each, equal content and one day-0 UUID: UpToDate from the beginning.
    pub fn new(nodes: usize) -> Setup {
        let config = Config {
            initial: Initial::Provisioned,
            drains: true,
            helper: true,
            ..Config::new(1, nodes)
        };
        let links = (0..nodes)
            .flat_map(|b| (0..b).map(move |a| (a, b)))
            .collect();
        Setup {
            config,
            links,
            volumes_at_start: 1,
        }
    }

    /// Fresh metadata over different garbage.
    pub fn fresh(mut self) -> Setup {
        self.config.initial = Initial::Fresh;
        self
    }

    /// Fresh metadata over equal content.
    pub fn blank(mut self) -> Setup {
        self.config.initial = Initial::Blank;
        self
    }

    /// These nodes are clients.
    pub fn diskless(mut self, nodes: impl IntoIterator<Item = usize>) -> Setup {
        for n in nodes {
            self.config.diskless[n] = true;
        }
        self
    }

    /// Only these connections are made; the others are configured and StandAlone.
    pub fn links(mut self, links: impl IntoIterator<Item = (usize, usize)>) -> Setup {
        self.links = links
            .into_iter()
            .map(|(a, b)| (a.min(b), a.max(b)))
            .collect();
        self
    }

    /// Each node is connected with the next one only.
    pub fn chain(self) -> Setup {
        let nodes = self.config.nodes;
        self.links((1..nodes).map(|n| (n - 1, n)))
    }

    /// Number of votes.
    pub fn quorum(mut self, quorum: Quorum) -> Setup {
        self.config.resource.quorum = quorum;
        self
    }

    /// No quorum: requests wait or fail. They wait unless said otherwise.
    pub fn on_no_quorum(mut self, what: drbd_engine::options::OnNoQuorum) -> Setup {
        self.config.resource.on_no_quorum = what;
        self
    }

    /// Wire protocol of all connections.
    pub fn protocol(mut self, protocol: WireProtocol) -> Setup {
        self.config.net.protocol = protocol;
        self
    }

    /// That many volumes, of which `at_start` are configured when a node starts.
    pub fn volumes(mut self, volumes: usize, at_start: usize) -> Setup {
        let one = self.config.volumes[0].clone();
        self.config.volumes = vec![one; volumes];
        self.volumes_at_start = at_start;
        self
    }

    /// Size of each node's device of volume 0 in MiB; metadata on a device of its own.
    pub fn sizes<const N: usize>(mut self, mib: [u64; N]) -> Setup {
        assert_eq!(N, self.config.nodes);
        self.config.volumes[0] = VolumeConfig {
            device_bytes: mib.iter().map(|m| m << 20).collect(),
            internal: false,
        };
        self
    }

    /// Anything else about the configuration.
    pub fn with(mut self, change: impl FnOnce(&mut Config)) -> Setup {
        change(&mut self.config);
        self
    }

    /// The machines, not started.
    pub fn build(self) -> Lab {
        catch_panics();
        let mut c = Cluster::new(self.config, core::engine).expect("a configuration that can be");
        if std::env::var_os("DRBD_SIM_TRACE").is_some() {
            c.trace_to(Box::new(|line| eprintln!("{line}")));
        }
        c.record();
        Lab {
            links: self.links.into_iter().collect(),
            volumes: self.volumes_at_start,
            excused: BTreeSet::new(),
            cursors: vec![0; c.config.nodes],
            mark: 0,
            finished: false,
            notes: BTreeMap::new(),
            c,
        }
    }

    /// The cluster, up and connected.
    pub fn up(self) -> Lab {
        let mut t = self.build();
        t.up();
        t
    }
}

thread_local! {
    /// The rows of the decision tables that the clusters of this thread's test went through.
    pub static MET: RefCell<Rows> = RefCell::default();
}

/// A running test. See the module's documentation.
pub struct Lab {
    /// The simulated cluster.
    pub c: Cluster,
    /// Connections that are meant to be there.
    pub links: BTreeSet<(usize, usize)>,
    /// Volumes configured when a node starts.
    pub volumes: usize,
    excused: BTreeSet<(usize, Bad)>,
    /// How far the events of each node were looked at.
    cursors: Vec<usize>,
    mark: usize,
    finished: bool,
    notes: BTreeMap<usize, String>,
}

/// A state that no test shows unless it provokes it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Bad {
    /// The connection to a peer was lost like that.
    Conn(usize, ConnState),
    /// The own disk failed.
    Failed,
    /// A peer's disk failed.
    PeerFailed(usize),
}

pub fn vol(v: usize) -> VolumeNr {
    VolumeNr::from_wire(v as u16)
}

impl Lab {
    /// Number of nodes.
    pub fn nodes(&self) -> usize {
        self.c.config.nodes
    }

    /// Nodes that run.
    pub fn running(&self) -> Vec<usize> {
        (0..self.nodes())
            .filter(|n| self.c.nodes[*n].up())
            .collect()
    }

    /// Starts all nodes and waits until all configured connections are there.
    pub fn up(&mut self) {
        for n in 0..self.nodes() {
            self.start(n);
        }
        self.connected();
        self.pass(1);
    }

    /// Boots a node: volumes, peers, disks, and the connections that are meant to be there.
    pub fn start(&mut self, n: usize) {
        self.boot(n);
        let commands = self.boot_commands(n);
        self.c.script(n, commands);
    }

    /// Boots a node and configures it, without disks and connections.
    pub fn start_detached(&mut self, n: usize) {
        self.boot(n);
        let commands = self.configure_commands(n);
        self.c.script(n, commands);
        self.scripts();
    }

    /// Boots a node without any configuration.
    pub fn boot_only(&mut self, n: usize) {
        self.boot(n);
    }

    fn boot(&mut self, n: usize) {
        assert!(!self.c.nodes[n].up(), "node {n} runs already");
        self.c.boot(n);
    }

    /// The commands that configure a node.
    pub fn configure_commands(&self, n: usize) -> Vec<Command> {
        let mut commands = self.c.configure_commands(n);
        commands.retain(|c| match c {
            Command::NewMinor { volume, .. } | Command::PeerDeviceOptions { volume, .. } => {
                usize::from(volume.to_wire()) < self.volumes
            }
            _ => true,
        });
        commands
    }

    fn boot_commands(&self, n: usize) -> Vec<Command> {
        let mut commands = self.configure_commands(n);
        for v in (0..self.volumes).filter(|v| self.c.nodes[n].disks[*v].is_some()) {
            commands.push(self.c.attach_command(n, v));
        }
        let peers = (0..self.nodes()).filter(|p| *p != n && self.linked(n, *p));
        commands.extend(peers.map(|p| self.c.connect_command(p)));
        commands
    }

    /// Waits until all boot scripts have run.
    pub fn scripts(&mut self) {
        let limit = 120 * SEC;
        let result = self
            .c
            .run_until(limit, |c| (0..c.config.nodes).all(|n| c.script_done(n)));
        result.unwrap_or_else(|e| self.panic(&format!("commands of the start: {e}")));
    }

    /// Whether two nodes are meant to be connected.
    pub fn linked(&self, a: usize, b: usize) -> bool {
        self.links.contains(&(a.min(b), a.max(b)))
    }

    /// Waits until all running nodes are connected as they are meant to be.
    pub fn connected(&mut self) {
        self.scripts();
        let links: Vec<(usize, usize)> = self.links.iter().copied().collect();
        for (a, b) in links {
            if self.c.nodes[a].up() && self.c.nodes[b].up() {
                self.wait(a, Conn(b, ConnState::Connected));
                self.wait(b, Conn(a, ConnState::Connected));
            }
        }
    }

    /// Lets time pass, in which nothing may go wrong.
    pub fn pass(&mut self, seconds: u64) {
        self.pass_ms(seconds * 1000);
    }

    /// Lets milliseconds pass.
    pub fn pass_ms(&mut self, ms: u64) {
        self.c.run_for(ms * drbd_sim::clock::MS);
        self.sound();
    }

    /// Nothing has gone wrong so far.
    pub fn sound(&self) {
        if let Some(f) = self.c.failure() {
            panic!("{f}\n{}", self.c.describe());
        }
    }

    /// Ends the test with the state of the cluster.
    #[track_caller]
    pub fn panic(&self, what: &str) -> ! {
        let failure = self.c.failure().map_or(String::new(), |f| format!("\n{f}"));
        panic!(
            "at {:.3} s: {what}{failure}\n{}",
            self.c.now() as f64 / 1e9,
            self.c.describe()
        );
    }

    /// Engines went through these rows of the decision tables.
    #[track_caller]
    pub fn met(&self, rows: &[Row]) {
        for row in rows {
            if !self.c.rows.contains(*row) {
                let met: Vec<Row> = self.c.rows.iter().collect();
                self.panic(&format!("not {row:?}, but {met:?}"));
            }
        }
    }

    /// This node may report this state from now on.
    pub fn may_see(&mut self, n: usize, bad: Bad) {
        self.excused.insert((n, bad));
    }

    /// The end of every test: see the module's documentation.
    #[track_caller]
    pub fn finish(mut self) {
        self.finished = true;
        self.pass(5);
        self.c.check_converged();
        self.sound();
        for n in self.running() {
            if self.c.open_requests(n) > 0 {
                self.panic(&format!("node {n} has requests that never completed"));
            }
        }
        self.no_bad_states();
        for n in self.running() {
            if self.c.role(n) == drbd_proto::Role::Primary {
                self.secondary(n);
            }
        }
        for n in self.running() {
            self.down(n);
        }
        self.pass(1);
        self.c.check_quiet();
        self.sound();
    }

    /// The end of a test that leaves requests waiting or data behind on purpose: only the rule about states that were
    /// not announced is checked.
    pub fn abandon(mut self) {
        self.finished = true;
        self.sound();
        self.no_bad_states();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        MET.with_borrow_mut(|met| met.add(&self.c.rows));
        assert!(
            self.finished || std::thread::panicking(),
            "a test has to end with finish"
        );
    }
}
