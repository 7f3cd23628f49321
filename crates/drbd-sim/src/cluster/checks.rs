//! Checks that look at whole nodes: promotion, coverage by metadata, convergence.

use std::rc::Rc;

use drbd_proto::{ConnState, DiskState, Features, ReplState, Role};

use super::Cluster;
use crate::buffer::{Version, ZEROES};
use crate::clock::Time;
use crate::format::Decoded;
use crate::oracle::Violation;
use crate::oracle::coverage;
use crate::oracle::flow::Received;
use crate::ranges::{RangeMap, differences};

impl Cluster {
    /// The agreed size of a volume as a node sees it, in sectors.
    pub fn size(&self, n: usize, volume: usize) -> u64 {
        self.device(n, volume).map_or(0, |d| d.size)
    }

    /// Disk state of a volume on a node; Diskless if it is down.
    pub fn disk_state(&self, n: usize, volume: usize) -> DiskState {
        self.device(n, volume)
            .map_or(DiskState::Diskless, |d| d.disk)
    }

    fn device(&self, n: usize, volume: usize) -> Option<drbd_engine::status::DeviceInfo> {
        let status = self.status(n)?;
        status
            .devices
            .into_iter()
            .find(|(v, _)| usize::from(v.to_wire()) == volume)
            .map(|(_, d)| d)
    }

    /// Role of a node; Unknown if it is down.
    pub fn role(&self, n: usize) -> Role {
        self.status(n).map_or(Role::Unknown, |s| s.info.role)
    }

    /// State of the connection from a node to a peer.
    pub fn connection(&self, n: usize, peer: usize) -> ConnState {
        let found = self
            .status(n)
            .and_then(|s| s.connections.into_iter().find(|(p, ..)| p.index() == peer));
        found.map_or(ConnState::StandAlone, |(_, i, _)| i.cstate)
    }

    /// Replication state of a volume between a node and a peer, the peer's disk state, and the number of
    /// sectors out of sync.
    pub fn peer_device(&self, n: usize, peer: usize, volume: usize) -> (ReplState, DiskState, u64) {
        let found = self
            .status(n)
            .and_then(|s| s.connections.into_iter().find(|(p, ..)| p.index() == peer));
        let found = found.and_then(|(_, _, pds)| {
            pds.into_iter()
                .find(|(v, _)| usize::from(v.to_wire()) == volume)
        });
        found.map_or((ReplState::Off, DiskState::Unknown, 0), |(_, i)| {
            (i.repl, i.peer_disk, i.out_of_sync)
        })
    }

    /// The durable superblock of a node's volume.
    pub fn superblock(&self, n: usize, volume: usize) -> Option<drbd_meta::superblock::Superblock> {
        let disk = self.nodes[n].disks[volume].as_ref()?;
        Decoded::durable(&self.config, n, volume, disk)
            .ok()
            .map(|d| d.superblock)
    }

    /// Whether what a node's disk shows is what a reader may see now.
    pub fn is_current(&self, n: usize, volume: usize) -> bool {
        let Some(disk) = self.nodes[n].disks[volume].as_ref() else {
            return false;
        };
        let size = disk.data_sectors.min(self.least_size(volume));
        self.histories[volume]
            .check_all(disk.visible(), size, self.now())
            .is_ok()
    }

    /// Sectors that every disk of a volume has.
    pub fn least_size(&self, volume: usize) -> u64 {
        let room = (0..self.config.nodes)
            .filter(|n| !self.config.diskless[*n])
            .filter_map(|n| crate::format::usable(&self.config, n, volume))
            .min()
            .unwrap_or(0);
        if !self.grown {
            return room;
        }
        // Not all that there is room for is in use.
        let agreed = (0..self.config.nodes).filter_map(|n| self.superblock(n, volume));
        agreed
            .map(|s| s.effective_size)
            .filter(|s| *s != 0)
            .fold(room, u64::min)
    }

    /// A node became Primary by command. Its data is what everybody will see from now on.
    pub(super) fn promoted(&mut self, n: usize, force: bool) {
        self.stats.promotions += 1;
        for v in 0..self.config.volumes.len() {
            let Some(shown) = self.shows(n, v) else {
                continue;
            };
            let Some(disk) = self.nodes[shown].disks[v].as_ref() else {
                continue;
            };
            let size = disk.data_sectors.min(self.least_size(v));
            let now = self.now();
            let content = disk.visible().clone();
            let checked = self.histories[v].check_all(&content, size, now);
            if checked.is_err() && self.fork_undone(v, &content, size) {
                continue;
            }
            let disk = self.nodes[shown].disks[v].as_ref();
            let Some(disk) = disk else { continue };
            let Err(bad) = checked else {
                let complete: Vec<usize> = (0..self.config.nodes)
                    .filter(|m| self.disk_state(*m, v) == DiskState::UpToDate)
                    .filter(|m| self.is_current(*m, v))
                    .collect();
                for m in complete {
                    self.histories[v].complete_again(m);
                }
                continue;
            };
            let gone = |m: usize| {
                let broken = |d: &crate::disk::Disk| d.broken;
                let connected = m == n || self.connection(n, m) == ConnState::Connected;
                !connected || self.nodes[m].disks[v].as_ref().is_none_or(broken)
            };
            let stands_for = |m: usize| match self.sources.get(&(m, v)) {
                Some(source) if self.disk_state(m, v) == DiskState::Inconsistent => *source,
                _ => m,
            };
            let history = &self.histories[v];
            let excused = history.promises(disk.visible(), size, now, stands_for, gone);
            if !force && !self.lenient && !excused {
                let what = format!(
                    "promoted to Primary with UpToDate data of volume {v} that lacks an acknowledged write: {bad}"
                );
                return self.fail(n, "D1", what);
            }
            if !force && let Err(bad) = self.histories[v].check_takeover(disk.visible(), size) {
                let what = format!(
                    "volume {v} of the new Primary shows a write without one that was complete before it: {bad}"
                );
                return self.fail(n, "O1", what);
            }
            self.note(|| {
                format!("node {n}: volume {v} is older than what was acknowledged: {bad}")
            });
            self.accept_content(shown, v);
        }
    }

    /// The node whose disk a Primary reads: its own, or that of a connected peer. Of several peers the best: which
    /// of them answers shows at the first read.
    fn shows(&self, n: usize, volume: usize) -> Option<usize> {
        if self.disk_state(n, volume) == DiskState::UpToDate {
            return Some(n);
        }
        let status = self.status(n)?;
        let good: Vec<usize> = status
            .connections
            .iter()
            .filter(|(_, _, pds)| {
                pds.iter().any(|(v, d)| {
                    usize::from(v.to_wire()) == volume
                        && d.peer_disk == DiskState::UpToDate
                        && d.repl >= ReplState::Established
                })
            })
            .map(|(peer, _, _)| peer.index())
            .collect();
        let best = good.iter().copied().find(|m| self.is_current(*m, volume));
        best.or_else(|| good.first().copied())
    }

    /// The nodes whose disks have a write. A sync target is no copy: its disk is of no use without its source.
    pub(super) fn holders(&self, volume: usize, id: u32) -> Vec<usize> {
        let Some(write) = self.histories[volume].writes().get(id as usize) else {
            return Vec::new();
        };
        let has = |n: &usize| {
            self.nodes[*n].disks[volume].as_ref().is_some_and(|disk| {
                let mut found = disk.visible().overlapping(write.start, write.end);
                found.any(|r| r.value == write.version)
            })
        };
        let whole = |n: &usize| self.disk_state(*n, volume) > DiskState::Inconsistent;
        let all = 0..self.config.nodes;
        all.filter(has).filter(whole).collect()
    }

    /// A node is overwritten by another one from now on. If that one has everything, it is the only one of the two
    /// that counts: the target's disk is of no use without it.
    pub(super) fn is_target_of(&mut self, n: usize, source: usize, volume: usize) {
        if self.is_current(source, volume) {
            self.sources.insert((n, volume), source);
        } else {
            self.sources.remove(&(n, volume));
        }
    }

    /// What a node's disk shows is what counts from now on.
    pub fn accept_content(&mut self, n: usize, volume: usize) {
        let Some(disk) = self.nodes[n].disks[volume].as_ref() else {
            return;
        };
        let content = disk.visible().clone();
        self.note(|| format!("the content of volume {volume} on node {n} is accepted"));
        self.forks += 1;
        if self.unseen_forks[volume].is_none() {
            let before = self.histories[volume].clone();
            self.unseen_forks[volume] = Some((self.history_epochs[volume], before));
        }
        self.histories[volume].begin_line(n, content);
        self.history_epochs[volume] += 1;
    }

    /// An application has seen what a volume contains, or changed it.
    pub(super) fn content_seen(&mut self, volume: usize) {
        self.unseen_forks[volume] = None;
    }

    /// A content that was accepted, and that nobody has seen, is gone; what counted before is there again.
    fn fork_undone(&mut self, volume: usize, content: &RangeMap<Version>, size: u64) -> bool {
        let now = self.now();
        let Some((epoch, before)) = self.unseen_forks[volume].take() else {
            return false;
        };
        let there = before.check_all(content, size, now).is_ok();
        if there {
            self.note(|| format!("volume {volume}: nobody has seen what was accepted, and what was before is back"));
            self.histories[volume] = before;
            self.history_epochs[volume] = epoch;
        } else {
            self.unseen_forks[volume] = Some((epoch, before));
        }
        there
    }

    /// First sectors of all cells of 64 sectors that applications wrote to.
    pub fn written_cells(&self, volume: usize) -> Vec<u64> {
        self.histories[volume].cells()
    }

    /// D4: after a flush what was complete before it is durable here, if this node has the data.
    pub(super) fn flush_completed(&mut self, n: usize, volume: usize, submitted: Time) {
        if self.disk_state(n, volume) != DiskState::UpToDate {
            return;
        }
        let Some(disk) = self.nodes[n].disks[volume].as_ref() else {
            return;
        };
        let size = disk.data_sectors.min(self.least_size(volume));
        if disk.was_broken {
            return;
        }
        self.histories[volume].flush_completed(n, submitted);
        if let Err(bad) = self.histories[volume].check_durable(disk.durable(), size, submitted) {
            let what = format!("a flush of volume {volume} completed, but on stable storage {bad}");
            self.violation(Some(n), Violation { rule: "D4", what });
        }
    }

    /// M1 and M10: a write may be submitted now.
    pub(super) fn check_covered(
        &mut self,
        n: usize,
        volume: usize,
        sector: u64,
        sectors: u64,
        what: &str,
    ) {
        let config = &self.config;
        if !config.disk.al_updates || config.diskless[n] {
            return;
        }
        let node = &mut self.nodes[n];
        if !node.attached.get(volume).copied().unwrap_or(false) {
            return;
        }
        let Some(Some(disk)) = node.disks.get(volume) else {
            return;
        };
        let kept = node.decoded.get(&volume);
        let mut unusable = None;
        if kept.is_none_or(|(g, d)| *g != disk.meta_generation(&d.bitmap)) {
            match Decoded::durable(config, n, volume, disk) {
                Ok(d) => {
                    let generation = disk.meta_generation(&d.bitmap);
                    node.decoded.insert(volume, (generation, d));
                }
                Err(e) => unusable = Some(format!("the durable metadata is unusable: {e}")),
            }
        }
        let bad = match (unusable, node.decoded.get(&volume)) {
            (Some(text), _) => Err(text),
            (None, Some((_, d))) => coverage::covered(d, disk.durable_metadata(), sector, sectors),
            (None, None) => return,
        };
        // A disk that is on its way out is not written to, whatever lies on it.
        if let Err(bad) = bad
            && (what == "local write" || self.disk_state(n, volume) >= DiskState::Inconsistent)
        {
            self.fail(
                n,
                "M1",
                format!("{what} of {sectors} sectors at {sector} of volume {volume}: {bad}"),
            );
        }
    }

    /// D5: a peer says that these writes are on stable storage.
    pub(super) fn check_stable(&mut self, n: usize, peer: usize, writes: &[Received]) {
        if !self.config.disk.disk_flushes {
            return;
        }
        for (v, sector, payload) in writes {
            let attached = self.nodes[n].attached.get(*v).copied().unwrap_or(false);
            let Some(disk) = self.nodes[n].disks[*v]
                .as_ref()
                .filter(|d| attached && !d.was_broken)
            else {
                continue;
            };
            let mut at = *sector;
            for (sectors, version) in payload.runs() {
                let older = |x: u64| {
                    x < *version && x != ZEROES && !self.histories[*v].overtaken(x, *version)
                };
                let found = disk
                    .durable()
                    .overlapping(at, at + sectors)
                    .find(|r| older(r.value));
                if let Some(r) = found {
                    let what = format!(
                        "write {version} of node {peer} was confirmed as stable, but sectors {}..{} of volume {v} durably hold {}",
                        r.start, r.end, r.value
                    );
                    return self.fail(n, "D5", what);
                }
                at += sectors;
            }
        }
    }

    /// M2: if the power of the whole cluster failed now, would metadata tell where replicas differ?
    pub fn check_coverage(&mut self) {
        if self.divergence_tolerated {
            return;
        }
        self.stats.coverage_checks += 1;
        let tearing = self.config.tearing;
        for v in 0..self.config.volumes.len() {
            let mut images = Vec::new();
            for n in 0..self.config.nodes {
                let Some(disk) = self.nodes[n].disks[v].as_ref() else {
                    continue;
                };
                let mut disk = disk.clone();
                for p in self.nodes[n].pending.values().filter(|p| p.volume == v) {
                    disk.interrupt(&p.op, tearing, &mut self.rng);
                }
                disk.lose_power(tearing, &mut self.rng);
                match Decoded::durable(&self.config, n, v, &disk) {
                    Ok(meta) => images.push(coverage::Image {
                        node: n,
                        disk,
                        meta,
                    }),
                    Err(e) => {
                        return self.fail(
                            n,
                            "M4",
                            format!("metadata of volume {v} after a loss of power: {e}"),
                        );
                    }
                }
            }
            let mut size = self.least_size(v);
            if self.grown {
                let sizes = images.iter().map(|i| i.meta.superblock.effective_size);
                size = sizes.fold(size, u64::min);
            }
            if let Err(what) = coverage::check(&images, size) {
                return self.violation(
                    None,
                    Violation {
                        rule: "M2",
                        what: format!("volume {v}: {what}"),
                    },
                );
            }
        }
    }

    /// A node forgets which blocks differ from those of a peer because their generations are equal. A release before
    /// this one does so without comparing the blocks, and the copies of two such nodes stay different where they were
    /// (state machine, section 8.6): what a protocol without means against it does is no failure.
    pub(super) fn bits_dropped(&mut self, n: usize, peer: usize, volume: usize) {
        let (_, features) = self.config.dialect(n, peer);
        if features.contains(Features::COMPARE_LEFTOVER) || self.divergence_tolerated {
            return;
        }
        let size = self.size(n, volume);
        let disk = |m: usize| {
            let disk = self.nodes.get(m)?.disks.get(volume)?.as_ref()?;
            Some(disk.visible())
        };
        let (Some(mine), Some(theirs)) = (disk(n), disk(peer)) else {
            return;
        };
        if !differences(mine, theirs, 0, size).is_empty() {
            self.note(|| format!("nodes {n} and {peer} forget that volume {volume} differs"));
            self.divergence_tolerated = true;
        }
    }

    /// S4, M12: everything is at rest and connected.
    pub fn check_converged(&mut self) {
        if self.divergence_tolerated {
            return;
        }
        for v in 0..self.config.volumes.len() {
            let with_data: Vec<usize> = (0..self.config.nodes)
                .filter(|n| self.disk_state(*n, v) == DiskState::UpToDate)
                .collect();
            let Some(&first) = with_data.first() else {
                continue;
            };
            let size = self.size(first, v);
            let content = |c: &Cluster, n: usize| {
                c.nodes[n].disks[v]
                    .as_ref()
                    .map(|d| Rc::new(d.visible().clone()))
            };
            let Some(reference) = content(self, first) else {
                continue;
            };
            for &n in &with_data[1..] {
                let Some(other) = content(self, n) else {
                    continue;
                };
                if let Some(d) = differences(&reference, &other, 0, size).first() {
                    let what = format!(
                        "volume {v}: nodes {first} and {n} are UpToDate and differ in sectors {}..{}: {:?} and {:?}",
                        d.start, d.end, d.value.0, d.value.1
                    );
                    return self.violation(Some(n), Violation { rule: "S4", what });
                }
            }
            let now = self.now();
            if let Err(bad) = self.histories[v].check_all(&reference, size, now)
                && !self.fork_undone(v, &reference, size)
            {
                return self.violation(
                    Some(first),
                    Violation {
                        rule: "D1",
                        what: format!("volume {v} at rest: {bad}"),
                    },
                );
            }
            for &n in &with_data {
                for &m in &with_data {
                    let (repl, _, out_of_sync) = self.peer_device(n, m, v);
                    // The other side may keep bits of a resync from several sources: they only cost
                    // an unnecessary transfer later.
                    let primary = self.role(n) == Role::Primary;
                    if n != m && primary && repl == ReplState::Established && out_of_sync != 0 {
                        // A goal, not a promise: it costs an unnecessary transfer later.
                        self.stats.leftover_bits += 1;
                        self.note(|| format!("M12: volume {v}: {out_of_sync} sectors marked on node {n} towards node {m} at rest"));
                    }
                }
            }
        }
    }

    /// Buffers and requests at rest.
    pub fn check_quiet(&mut self) {
        for n in 0..self.config.nodes {
            let held: Vec<String> = self
                .buffers
                .held_by(n)
                .take(5)
                .map(|(id, b)| format!("{id} ({:?})", b.origin))
                .collect();
            if !held.is_empty() {
                return self.fail(
                    n,
                    "buffers",
                    format!("not released at rest: {}", held.join(", ")),
                );
            }
            if self.nodes[n].up() && self.ios.on_node(n) > 0 {
                let first = self.ios.open.iter().next();
                return self.fail(
                    n,
                    "C1",
                    format!("requests never completed, such as {first:?}"),
                );
            }
            if let Some(command) = self.nodes[n].commands.values().next() {
                return self.fail(n, "admin", format!("never answered: {command:?}"));
            }
        }
    }

    /// The state of all nodes in a few lines.
    pub fn describe(&self) -> String {
        use std::fmt::Write;
        let mut out = String::new();
        for n in 0..self.config.nodes {
            let name = super::NAMES[n % 8];
            let Some(s) = self.status(n) else {
                let _ = writeln!(out, "  {name} down");
                continue;
            };
            let i = &s.info;
            let _ = write!(out, "  {name} {}", i.role);
            for (set, text) in [
                (i.susp_user, "user"),
                (i.susp_nod, "no-data"),
                (i.susp_fen, "fencing"),
                (i.susp_quorum, "quorum"),
                (i.susp_uuid, "uuid"),
            ] {
                if set {
                    let _ = write!(out, " suspended:{text}");
                }
            }
            let _ = write!(out, " open requests {}", self.ios.on_node(n));
            for (v, d) in &s.devices {
                let _ = write!(
                    out,
                    " | v{v} {} quorum {} size {} upper {} lower {}",
                    d.disk, d.quorum, d.size, d.upper_pending, d.lower_pending
                );
            }
            let _ = writeln!(out);
            for (p, c, pds) in &s.connections {
                let _ = write!(
                    out,
                    "    to {} {} {}",
                    super::NAMES[p.index() % 8],
                    c.cstate,
                    c.peer_role
                );
                for (v, d) in pds {
                    let pause: String = [
                        (d.resync_susp_user, " user"),
                        (d.resync_susp_peer, " peer"),
                        (d.resync_susp_dependency, " dependency"),
                    ]
                    .iter()
                    .filter(|x| x.0)
                    .map(|x| x.1)
                    .collect();
                    let _ = write!(
                        out,
                        " | v{v} {} {} oos {} pending {} unacked {}{pause}",
                        d.repl, d.peer_disk, d.out_of_sync, d.pending, d.unacked
                    );
                }
                let _ = writeln!(out);
            }
        }
        out
    }
}
