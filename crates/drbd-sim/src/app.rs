//! Applications: random reads, writes, flushes and discards on a Primary, several at a time.

use std::collections::BTreeMap;

use crate::clock::{MS, Time, US};
use crate::cluster::IoKind;
use crate::cluster::{Cluster, Occurrence};
use crate::rng::Rng;

/// How applications behave.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Requests in flight per volume.
    pub workers: usize,
    /// Pause between two requests of a worker.
    pub think: (Time, Time),
    /// Percentages; the rest are plain writes.
    pub reads: u64,
    /// Writes that have to be on stable storage.
    pub fua: u64,
    /// Flushes.
    pub flushes: u64,
    /// Discards.
    pub discards: u64,
    /// Percentage of requests within a small hot area, so that they overlap.
    pub hot: u64,
    /// Percentage of requests not aligned to 4 KiB.
    pub unaligned: u64,
}

impl Default for Profile {
    fn default() -> Self {
        Profile {
            workers: 3,
            think: (100 * US, 30 * MS),
            reads: 20,
            fua: 5,
            flushes: 3,
            discards: 3,
            hot: 50,
            unaligned: 10,
        }
    }
}

#[derive(Debug)]
struct Worker {
    node: usize,
    volume: usize,
    open: u64,
    busy: bool,
    retired: bool,
}

/// All applications.
pub(crate) struct App {
    rng: Rng,
    pub(crate) profile: Profile,
    workers: Vec<Worker>,
    /// Openers of ours that were asked for or are open: (node, volume).
    opens: BTreeMap<u64, (usize, usize)>,
    stopping: bool,
    /// Requests that may still be made in the whole run.
    pub(crate) budget: u64,
}

impl App {
    pub(crate) fn new(rng: Rng) -> App {
        App {
            rng,
            profile: Profile::default(),
            workers: Vec::new(),
            opens: BTreeMap::new(),
            stopping: false,
            budget: u64::MAX,
        }
    }
}

impl Cluster {
    /// How applications behave from now on, and how many requests they make in all.
    pub fn set_profile(&mut self, profile: Profile, budget: u64) {
        self.app.profile = profile;
        self.app.budget = budget;
    }

    /// Applications start on a node: its volumes are opened for writing.
    pub fn app_start(&mut self, n: usize) {
        self.app.stopping = false;
        for v in 0..self.config.volumes.len() {
            if !self.app.opens.values().any(|o| *o == (n, v)) {
                let open = self.open(n, v, true);
                self.app.opens.insert(open, (n, v));
            }
        }
    }

    /// Applications stop everywhere: no new requests, and devices are closed when the last has completed.
    pub fn app_stop(&mut self) {
        self.app.stopping = true;
        let idle: Vec<u64> = self.app.opens.keys().copied().collect();
        for open in idle {
            self.close_if_idle(open);
        }
    }

    /// Whether no application has a device open, or is about to.
    pub fn app_idle(&self) -> bool {
        self.app.opens.is_empty()
    }

    /// Whether some application waits for a device to open: it may still promote its node.
    pub fn app_opening(&self) -> bool {
        let opens = self.app.opens.iter();
        opens
            .into_iter()
            .any(|(open, (n, _))| !self.nodes[*n].openers.contains_key(open))
    }

    /// The nodes applications run on.
    pub fn app_nodes(&self) -> Vec<usize> {
        let mut nodes: Vec<usize> = self.app.opens.values().map(|o| o.0).collect();
        nodes.dedup();
        nodes
    }

    pub(crate) fn app_opened(&mut self, n: usize, open: u64, ok: bool) {
        let Some(&(_, volume)) = self.app.opens.get(&open) else {
            return;
        };
        if !ok {
            self.app.opens.remove(&open);
            return;
        }
        for _ in 0..self.app.profile.workers {
            let w = self.app.workers.len();
            self.app.workers.push(Worker {
                node: n,
                volume,
                open,
                busy: false,
                retired: false,
            });
            self.schedule_worker(w, 0);
        }
        if self.app.stopping {
            self.close_if_idle(open);
        }
    }

    fn schedule_worker(&mut self, w: usize, extra: Time) {
        let (low, high) = self.app.profile.think;
        let delay = self.app.rng.latency(low, high) + extra;
        let n = self.app.workers[w].node;
        let life = self.nodes[n].life;
        self.queue.after(delay, Occurrence::App(n, life, w));
    }

    pub(crate) fn app_request_over(&mut self, w: usize, ok: bool) {
        self.app.workers[w].busy = false;
        if self.app.stopping {
            let open = self.app.workers[w].open;
            self.close_if_idle(open);
        } else {
            self.schedule_worker(w, if ok { 0 } else { 50 * MS });
        }
    }

    pub(crate) fn app_node_gone(&mut self, n: usize) {
        for w in self.app.workers.iter_mut().filter(|w| w.node == n) {
            w.retired = true;
            w.busy = false;
        }
        self.app.opens.retain(|_, o| o.0 != n);
    }

    fn close_if_idle(&mut self, open: u64) {
        if self
            .app
            .workers
            .iter()
            .any(|w| w.open == open && w.busy && !w.retired)
        {
            return;
        }
        let Some(&(n, _)) = self.app.opens.get(&open) else {
            return;
        };
        if !self.nodes[n].openers.contains_key(&open) {
            return; // Not answered yet.
        }
        self.app.opens.remove(&open);
        for w in self.app.workers.iter_mut().filter(|w| w.open == open) {
            w.retired = true;
        }
        self.close(n, open);
    }

    pub(crate) fn app_turn(&mut self, w: usize) {
        let worker = &self.app.workers[w];
        if worker.retired || worker.busy || self.app.stopping {
            return;
        }
        let (n, volume) = (worker.node, worker.volume);
        let limits = self.nodes[n].limits[volume];
        if self.app.budget == 0 {
            return;
        }
        if limits.sectors < 64 {
            self.schedule_worker(w, 20 * MS);
            return;
        }
        self.app.budget -= 1;
        let (kind, sector, sectors) =
            self.app
                .next_request(limits.sectors, limits.max_io, limits.max_discard);
        self.app.workers[w].busy = true;
        self.submit_for(Some(w), n, volume, kind, sector, sectors);
    }
}

impl App {
    fn next_request(&mut self, size: u64, max_io: u32, max_discard: u32) -> (IoKind, u64, u64) {
        let p = self.profile.clone();
        let rng = &mut self.rng;
        let dice = rng.below(100);
        let kind = if dice < p.reads {
            IoKind::Read
        } else if dice < p.reads + p.fua {
            IoKind::Write { fua: true }
        } else if dice < p.reads + p.fua + p.flushes {
            return (IoKind::Flush, 0, 0);
        } else if dice < p.reads + p.fua + p.flushes + p.discards && max_discard > 0 {
            IoKind::Discard
        } else {
            IoKind::Write { fua: false }
        };
        let most = u64::from(if max_io == 0 { 128 << 10 } else { max_io }) / 512;
        let mut sectors = match rng.below(20) {
            0 => rng.range(1, 256),
            1..4 => 8 * rng.range(1, 8),
            _ => 8,
        }
        .min(most);
        if kind == IoKind::Discard {
            sectors = 8 * rng
                .range(1, 128)
                .min((u64::from(max_discard) / 4096).max(1));
        }
        let area = if rng.percent(p.hot) {
            size.min(256)
        } else {
            size
        };
        let mut sector = rng.below(area);
        if rng.percent(p.unaligned) {
            sectors = if rng.percent(50) {
                sectors
            } else {
                rng.range(1, 20).min(most)
            };
        } else {
            sector = sector / 8 * 8;
        }
        if rng.percent(2) {
            sector = size.saturating_sub(sectors); // The end of the device.
        }
        if sector + sectors > size {
            sector = size.saturating_sub(sectors);
        }
        (kind, sector, sectors.min(size))
    }
}
