//! Telling a scenario: a cluster, and what its nodes' metadata says in symbols.

use std::collections::BTreeMap;

use drbd_engine::command::Command;
use drbd_meta::flags::LocalFlags;
use drbd_meta::superblock::Superblock;
use drbd_proto::{ConnState, DiskState, ReplState, Role, VolumeNr};
use drbd_sim::clock::SEC;
use drbd_sim::cluster::{Cluster, NAMES, node_id};
use drbd_sim::config::{Config, Initial};

use crate::common::*;

/// The current UUID of fresh metadata.
const JUST_CREATED: u64 = 4;

/// A scenario: the cluster, and the names of its generations.
pub(crate) struct Story {
    pub(crate) c: Cluster,
    names: BTreeMap<String, u64>,
}

impl Story {
    /// Nodes with fresh metadata over different garbage, started and connected.
    pub(crate) fn fresh(config: Config) -> Story {
        let mut s = Story::off(config);
        s.start_all();
        s
    }

    /// Nodes with fresh metadata over equal content, not started.
    pub(crate) fn equal(config: Config) -> Story {
        let mut s = Story::off(Config {
            initial: Initial::Provisioned,
            ..config
        });
        for n in 0..s.c.config.nodes {
            s.fresh_metadata(n);
        }
        s
    }

    /// The start of most scenarios: fresh disks, all connected, the initial sync skipped on A.
    pub(crate) fn ready(config: Config) -> Story {
        let mut s = Story::equal(config);
        s.start_all();
        s.skip_initial_sync(A);
        s
    }

    /// Machines that are switched off.
    pub(crate) fn off(config: Config) -> Story {
        let c = cluster(config);
        let names = BTreeMap::from([("0".into(), 0), ("J".into(), JUST_CREATED)]);
        Story { c, names }
    }

    pub(crate) fn start_all(&mut self) {
        for n in 0..self.c.config.nodes {
            self.c.start(n);
        }
        wait(&mut self.c, "all connected", all_connected);
        pass(&mut self.c, 1);
    }

    /// `create-md` on a disk that keeps its data.
    fn fresh_metadata(&mut self, n: usize) {
        if self.c.nodes[n].disks[0].is_some() {
            let fresh = |s: &mut Superblock| {
                s.current_uuid = JUST_CREATED;
                s.flags = LocalFlags::default();
                s.effective_size = 0;
                s.history.fill(0);
                for peer in &mut s.peers {
                    *peer = Default::default();
                }
            };
            self.c.edit_superblock(n, 0, fresh).unwrap();
        }
    }

    pub(crate) fn skip_initial_sync(&mut self, n: usize) {
        let command = Command::NewCurrentUuid {
            volume: VolumeNr::ZERO,
            clear_bitmap: true,
            force_resync: false,
        };
        ok(&mut self.c, n, command);
        wait(&mut self.c, "nobody needs a sync", healthy);
        pass(&mut self.c, 1);
    }

    /// Waits until the metadata of the nodes is as told.
    pub(crate) fn sees(&mut self, lines: &[&str]) {
        let end = self.c.now() + 30 * SEC;
        loop {
            let Err(why) = self.compare(lines) else {
                return sound(&self.c);
            };
            let over = self.c.now() >= end || !self.c.step();
            if let Some(f) = self.c.failure() {
                eprintln!("{f}");
            }
            assert!(!over, "{why}\n{}\n{}", self.all(), self.c.describe());
        }
    }

    /// Everything comes to rest, and then the metadata of the nodes is as told.
    pub(crate) fn ends(&mut self, lines: &[&str]) {
        wait(&mut self.c, "healthy", healthy);
        pass(&mut self.c, 5);
        self.c.check_converged();
        self.sees(lines);
        sound(&self.c);
    }

    fn all(&self) -> String {
        let line = |n| format!("  {}", self.line(n));
        let lines: Vec<String> = (0..self.c.config.nodes).map(line).collect();
        lines.join("\n")
    }

    /// What a line about a node would be now, unknown generations as numbers.
    fn line(&self, n: usize) -> String {
        let name = |v: u64| {
            let known = self.names.iter().find(|(_, value)| **value == v);
            known.map_or(format!("{v:x}"), |(name, _)| name.clone())
        };
        let head = format!("{} {}", NAMES[n], self.state(n).join(" "));
        let Some(found) = Found::of(&self.c, n) else {
            return head;
        };
        let bitmap: Vec<String> = found
            .bitmap
            .iter()
            .map(|(k, v)| format!("{k}:{}", name(*v)))
            .collect();
        let history: Vec<String> = found.history.iter().map(|v| name(*v)).collect();
        let current = name(found.current);
        format!(
            "{head} {current} {{{}}} [{}]",
            bitmap.join(" "),
            history.join(" ")
        )
    }

    fn state(&self, n: usize) -> Vec<&'static str> {
        if !self.c.nodes[n].up() {
            return vec!["off"];
        }
        let disk = match self.c.disk_state(n, 0) {
            DiskState::Diskless => "Diskless",
            DiskState::Inconsistent => "Inconsistent",
            DiskState::Outdated => "Outdated",
            DiskState::Consistent => "Consistent",
            DiskState::UpToDate => "UpToDate",
            _ => "in-between",
        };
        let role = match self.c.role(n) {
            Role::Primary => "P",
            _ => "S",
        };
        vec![disk, role]
    }

    /// All lines hold at once, with one meaning of the names in them. New names get their meaning here.
    fn compare(&mut self, lines: &[&str]) -> Result<(), String> {
        let mut names = self.names.clone();
        for line in lines {
            let told = Told::parse(line);
            let wrong = |what: &str| {
                let is = self.line(told.node);
                format!("told: {line}\n  is: {is}\n      ({what})")
            };
            if told.state != self.state(told.node) {
                return Err(wrong("disk and role"));
            }
            let Some(current) = told.current else {
                continue;
            };
            let found = Found::of(&self.c, told.node).ok_or_else(|| wrong("no metadata"))?;
            let mut same = |name: &str, value: u64| is_named(&mut names, name, value);
            if !same(current, found.current) {
                return Err(wrong("current UUID"));
            }
            for (key, name) in &told.bitmap {
                if !found.bitmap.get(*key).is_some_and(|v| same(name, *v)) {
                    return Err(wrong("bitmap UUIDs"));
                }
            }
            // What is told is there in this order; what else is there is an ancestor that has a name.
            let mut left = told.history.iter().peekable();
            for value in &found.history {
                if left
                    .next_if(|name| is_named(&mut names, name, *value))
                    .is_none()
                    && !names.values().any(|v| v == value)
                {
                    return Err(wrong("history"));
                }
            }
            if left.next().is_some() {
                return Err(wrong("history"));
            }
        }
        self.names = names;
        Ok(())
    }

    /// A node leaves in order: `down`, and its machine is switched off.
    pub(crate) fn down(&mut self, n: usize) {
        ok(&mut self.c, n, Command::Down);
        self.c.crash(n, false);
        pass(&mut self.c, 1);
    }

    /// A machine loses its power; the others find out.
    pub(crate) fn dies(&mut self, n: usize) {
        self.c.crash(n, true);
        wait(&mut self.c, "the others find out", |c| {
            let mut others = (0..c.config.nodes).filter(|m| *m != n && c.nodes[*m].up());
            others.all(|m| c.connection(m, n) != ConnState::Connected)
        });
    }

    /// The link between two nodes breaks, and both know it.
    pub(crate) fn lose(&mut self, a: usize, b: usize) {
        self.c.close_link(a, b);
        wait(&mut self.c, "both know it", |c| {
            c.connection(a, b) != ConnState::Connected && c.connection(b, a) != ConnState::Connected
        });
    }

    /// The link between two nodes is there again, and they connect.
    pub(crate) fn regain(&mut self, a: usize, b: usize) {
        self.c.open_link(a, b);
        wait(&mut self.c, "connected again", |c| {
            c.connection(a, b) == ConnState::Connected && c.connection(b, a) == ConnState::Connected
        });
    }

    /// A node that was off comes up with links to some nodes only.
    pub(crate) fn back_with(&mut self, n: usize, peers: &[usize]) {
        for peer in (0..self.c.config.nodes).filter(|p| *p != n) {
            self.c.close_link(n, peer);
        }
        self.c.start(n);
        pass(&mut self.c, 1);
        for peer in peers {
            self.regain(n, *peer);
        }
    }

    /// A resync from a node goes no further: reading its disk takes that long.
    pub(crate) fn slow_source(&mut self, n: usize, slow: bool) {
        self.c.nodes[n].slow_disk = slow.then_some(20 * SEC);
    }

    /// Boots a node that knows only some of the others.
    pub(crate) fn start_with(&mut self, n: usize, peers: &[usize]) {
        self.c.boot(n);
        let known = |c: &Command| peer_of(c).is_none_or(|p| peers.contains(&p));
        let commands = self.c.configure_commands(n).into_iter().filter(known);
        let mut commands: Vec<Command> = commands.collect();
        if self.c.nodes[n].disks[0].is_some() {
            commands.push(self.c.attach_command(n, 0));
        }
        commands.extend(peers.iter().map(|p| self.c.connect_command(*p)));
        self.c.script(n, commands);
    }

    /// A peer is configured on a running node.
    pub(crate) fn new_peer(&mut self, n: usize, peer: usize) {
        let all = self.c.configure_commands(n).into_iter();
        for command in all.filter(|c| peer_of(c) == Some(peer)) {
            ok(&mut self.c, n, command);
        }
        connect(&mut self.c, n, peer);
    }

    pub(crate) fn repl(&mut self, n: usize, peer: usize, state: ReplState) {
        let what = format!("{} {state} towards {}", NAMES[n], NAMES[peer]);
        wait(&mut self.c, &what, |c| c.peer_device(n, peer, 0).0 == state);
    }

    pub(crate) fn connect(&mut self, n: usize, peer: usize, discard_my_data: bool) {
        let command = Command::Connect {
            peer: node_id(peer),
            discard_my_data,
            tentative: false,
        };
        ok(&mut self.c, n, command);
    }
}

/// Whether the value is the one of that name; a name nobody has used takes it.
fn is_named(names: &mut BTreeMap<String, u64>, name: &str, value: u64) -> bool {
    match names.get(name) {
        Some(v) => *v == value,
        None if names.values().any(|v| *v == value) => false,
        None => names.insert(name.into(), value).is_none(),
    }
}

/// The peer that a command is about.
fn peer_of(command: &Command) -> Option<usize> {
    match command {
        Command::NewPeer { peer, .. }
        | Command::NewPath { peer, .. }
        | Command::PeerDeviceOptions { peer, .. } => Some(peer.index()),
        _ => None,
    }
}

/// A line of a table.
struct Told<'a> {
    node: usize,
    state: Vec<&'a str>,
    current: Option<&'a str>,
    bitmap: Vec<(&'a str, &'a str)>,
    history: Vec<&'a str>,
}

impl<'a> Told<'a> {
    fn parse(line: &'a str) -> Told<'a> {
        let (head, rest) = line.split_once('{').unwrap_or((line, "} []"));
        let (bitmap, history) = rest.split_once('}').unwrap();
        let history = history.trim().strip_prefix('[').unwrap();
        let mut words = head.split_whitespace();
        let name = words.next().unwrap();
        let node = NAMES.iter().position(|n| *n == name).unwrap();
        let mut state: Vec<&str> = words.collect();
        let current = line.contains('{').then(|| state.pop().unwrap());
        let entry = |word: &'a str| word.split_once(':').unwrap();
        Told {
            node,
            state,
            current,
            bitmap: bitmap.split_whitespace().map(entry).collect(),
            history: history
                .strip_suffix(']')
                .unwrap()
                .split_whitespace()
                .collect(),
        }
    }
}

/// What lies on a disk, without bit 0.
struct Found {
    current: u64,
    bitmap: BTreeMap<String, u64>,
    history: Vec<u64>,
}

impl Found {
    fn of(c: &Cluster, n: usize) -> Option<Found> {
        let sb = c.superblock(n, 0)?;
        let mut bitmap = BTreeMap::new();
        for (id, peer) in sb.peers.iter().enumerate().filter(|(id, _)| *id != n) {
            let value = peer.bitmap_uuid & !1;
            match NAMES.get(id).filter(|_| id < c.config.nodes) {
                Some(name) => bitmap.insert((*name).into(), value),
                // All of them have the same value; one that differs shows as a value that has no name.
                None => match bitmap.get("*").copied() {
                    Some(other) if other != value => bitmap.insert("*".into(), u64::MAX),
                    _ => bitmap.insert("*".into(), value),
                },
            };
        }
        let history = sb.history.iter().map(|h| h & !1);
        Some(Found {
            current: sb.current_uuid & !1,
            bitmap,
            history: history.take_while(|h| *h != 0).collect(),
        })
    }
}
