//! Short words for scenarios written by hand.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic)]

use drbd_engine::command::{Command, RetCode};
use drbd_proto::{ConnState, DiskState, ReplState, Role};
use drbd_sim::clock::SEC;
use drbd_sim::cluster::{Cluster, catch_panics, node_id};
use drbd_sim::config::{Config, Initial};
use drbd_sim::core;

pub const A: usize = 0;
pub const B: usize = 1;
pub const C: usize = 2;

/// A configuration whose disks are UpToDate and equal from the beginning.
pub fn provisioned(nodes: usize) -> Config {
    Config {
        initial: Initial::Provisioned,
        ..Config::new(1, nodes)
    }
}

/// A cluster with these machines, not started. With DRBD_SIM_TRACE in the environment it traces.
pub fn cluster(config: Config) -> Cluster {
    catch_panics();
    let mut c = Cluster::new(config, core::engine).unwrap();
    if std::env::var_os("DRBD_SIM_TRACE").is_some() {
        c.trace_to(Box::new(|line| eprintln!("{line}")));
    }
    c
}

/// A cluster that is up and connected.
pub fn connected(config: Config) -> Cluster {
    let mut c = cluster(config);
    for n in 0..c.config.nodes {
        c.start(n);
    }
    wait(&mut c, "all connected", all_connected);
    c
}

pub fn wait(c: &mut Cluster, what: &str, holds: impl FnMut(&Cluster) -> bool) {
    if let Err(e) = c.run_until(120 * SEC, holds) {
        panic!("{what}: {e}");
    }
}

/// Lets time pass, in which nothing may go wrong.
pub fn pass(c: &mut Cluster, seconds: u64) {
    c.run_for(seconds * SEC);
    sound(c);
}

pub fn sound(c: &Cluster) {
    if let Some(f) = c.failure() {
        panic!("{f}\n{}", c.describe());
    }
}

pub fn all_connected(c: &Cluster) -> bool {
    let up: Vec<usize> = (0..c.config.nodes).filter(|n| c.nodes[*n].up()).collect();
    up.iter().all(|n| {
        c.script_done(*n)
            && up
                .iter()
                .all(|m| n == m || c.connection(*n, *m) == ConnState::Connected)
    })
}

pub fn up_to_date(c: &Cluster, n: usize) -> bool {
    c.disk_state(n, 0) == DiskState::UpToDate
}

/// Everybody is connected, has all data, and no resync is running.
pub fn healthy(c: &Cluster) -> bool {
    let up: Vec<usize> = (0..c.config.nodes).filter(|n| c.nodes[*n].up()).collect();
    all_connected(c)
        && up
            .iter()
            .all(|n| c.config.diskless[*n] || up_to_date(c, *n))
        && up.iter().all(|n| {
            up.iter()
                .all(|m| n == m || c.peer_device(*n, *m, 0).0 == ReplState::Established)
        })
}

/// Waits for everybody to be healthy, and checks replicas, requests and buffers at rest.
pub fn rest(c: &mut Cluster) {
    wait(c, "healthy", healthy);
    pass(c, 5);
    c.check_converged();
    c.check_quiet();
    sound(c);
}

pub fn ok(c: &mut Cluster, n: usize, command: Command) {
    let text = format!("{command:?}");
    let reply = c.ask(n, command).unwrap();
    assert!(
        reply.is_ok(),
        "node {n}: {text}: {reply:?}\n{}",
        c.describe()
    );
}

pub fn refused(c: &mut Cluster, n: usize, command: Command, code: RetCode) {
    let text = format!("{command:?}");
    let reply = c.ask(n, command).unwrap();
    assert_eq!(
        reply.code,
        code,
        "node {n}: {text}: {reply:?}\n{}",
        c.describe()
    );
}

pub fn primary(c: &mut Cluster, n: usize) {
    ok(c, n, Command::Primary { force: false });
    assert_eq!(c.role(n), Role::Primary);
}

pub fn force_primary(c: &mut Cluster, n: usize) {
    ok(c, n, Command::Primary { force: true });
}

pub fn secondary(c: &mut Cluster, n: usize) {
    ok(c, n, Command::Secondary { force: false });
}

pub fn disconnect(c: &mut Cluster, n: usize, peer: usize) {
    ok(
        c,
        n,
        Command::Disconnect {
            peer: node_id(peer),
            force: false,
        },
    );
}

pub fn connect(c: &mut Cluster, n: usize, peer: usize) {
    let command = c.connect_command(peer);
    ok(c, n, command);
}

/// Writes blocks one after the other, each successfully.
pub fn write(c: &mut Cluster, n: usize, blocks: impl IntoIterator<Item = u64>) {
    for block in blocks {
        let io = c.write(n, 0, block);
        let outcome = c.finish(io).unwrap();
        assert_eq!(
            outcome,
            Ok(()),
            "write of block {block} on node {n}\n{}",
            c.describe()
        );
    }
}

/// Reads blocks; their content is checked by the simulator.
pub fn read(c: &mut Cluster, n: usize, blocks: impl IntoIterator<Item = u64>) {
    for block in blocks {
        let io = c.read(n, 0, block);
        let outcome = c.finish(io).unwrap();
        assert_eq!(
            outcome,
            Ok(()),
            "read of block {block} on node {n}\n{}",
            c.describe()
        );
    }
}

/// What a node's disk holds in the first sector of a block.
pub fn content(c: &Cluster, n: usize, block: u64) -> Option<u64> {
    c.nodes[n].disks[0].as_ref()?.visible().get(block * 8)
}

/// Blocks out of sync on a node towards a peer.
pub fn out_of_sync(c: &Cluster, n: usize, peer: usize) -> u64 {
    c.peer_device(n, peer, 0).2 / 8
}

/// Data generation identifiers of a node, without bit 0, as on stable storage.
pub struct Generations {
    pub current: u64,
    bitmap: Vec<u64>,
    pub history: Vec<u64>,
}

impl Generations {
    pub fn bitmap(&self, peer: usize) -> u64 {
        self.bitmap[peer]
    }
}

pub fn generations(c: &Cluster, n: usize) -> Generations {
    let sb = c.superblock(n, 0).unwrap();
    Generations {
        current: sb.current_uuid & !1,
        bitmap: sb.peers.iter().map(|p| p.bitmap_uuid & !1).collect(),
        history: sb
            .history
            .iter()
            .map(|h| h & !1)
            .take_while(|h| *h != 0)
            .collect(),
    }
}
