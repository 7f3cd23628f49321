//! The good end: faults stop, and everything has to come back within bounded time.

use std::collections::BTreeMap;

use drbd_engine::command::Command;
use drbd_engine::status::ResourceStatus;
use drbd_proto::{ConnState, DiskState, ReplState, Role, VolumeNr};

use super::Run;
use crate::clock::SEC;
use crate::cluster::{IoKind, node_id};
use crate::oracle::Violation;

/// Virtual time the cluster has to come to rest.
const LIMIT: u64 = 400 * SEC;

/// How often what the administrator tries was refused.
#[derive(Default)]
struct Stuck {
    /// To connect two nodes.
    connects: BTreeMap<(usize, usize), u32>,
    /// To attach the disk of a volume on a node.
    attaches: BTreeMap<(usize, usize), u32>,
    /// How long a Primary has been without data.
    without_data: BTreeMap<usize, u32>,
}

impl Run {
    pub(super) fn settle(&mut self) {
        if self.cluster.failure.is_some() {
            return;
        }
        self.cluster.note(|| "the weather improves".into());
        self.agenda.clear();
        self.settling = true;
        self.handlers_calm(true);
        self.cluster.heal();
        self.cluster.app_stop();
        if self.plan.grow {
            for v in 0..self.cluster.config.volumes.len() {
                self.cluster.level_devices(v);
            }
        }
        for n in 0..self.cluster.config.nodes {
            for disk in self.cluster.nodes[n].disks.iter_mut().flatten() {
                disk.broken = false;
            }
            self.unstick(n);
            self.cluster.start(n);
        }
        if !self.rest() {
            return;
        }
        if self.cluster.lenient {
            self.accept_any();
        }
        self.cluster.check_converged();
        if self.cluster.failure.is_none() {
            self.cluster.check_quiet();
        }
        if self.cluster.failure.is_none() {
            self.last_reads();
        }
    }

    /// Waits for everything to come to rest. False: it does not.
    fn rest(&mut self) -> bool {
        let end = self.cluster.now() + LIMIT;
        let mut stuck = Stuck::default();
        let mut calm = 0;
        loop {
            self.pass(2 * SEC);
            if self.cluster.failure.is_some() {
                return false;
            }
            calm = if self.at_rest() { calm + 1 } else { 0 };
            if calm >= 2 {
                return true;
            }
            if self.cluster.now() >= end {
                let state = self.cluster.describe();
                let what = format!(
                    "no rest within {} s after the last fault\n{state}",
                    LIMIT / SEC
                );
                self.cluster.violation(None, Violation { rule: "L", what });
                return false;
            }
            self.help(&mut stuck);
        }
    }

    /// After losses that nobody promised to prevent, what is there counts.
    fn accept_any(&mut self) {
        for v in 0..self.cluster.config.volumes.len() {
            let found = (0..self.cluster.config.nodes)
                .find(|n| self.cluster.disk_state(*n, v) == DiskState::UpToDate);
            if let Some(n) = found
                && !self.cluster.is_current(n, v)
            {
                self.cluster.accept_content(n, v);
            }
        }
    }

    fn at_rest(&self) -> bool {
        let c = &self.cluster;
        (0..c.config.nodes).all(|n| {
            let Some(s) = c.status(n) else { return false };
            let i = &s.info;
            // A promotion may wait for a handler that began before.
            let waits = self.plan.policies.is_some() && !c.nodes[n].commands.is_empty();
            c.script_done(n)
                && !waits
                && c.open_requests(n) == 0
                && !(i.susp_user || i.susp_nod || i.susp_fen || i.susp_quorum || i.susp_uuid)
                // With protocols A and B the application has its answer before the disks of the peers do.
                && s.devices.iter().all(|(_, d)| {
                    d.lower_pending == 0
                        && (c.config.diskless[n] || d.disk == DiskState::UpToDate)
                })
                && s.connections.iter().all(|(_, i, pds)| {
                    i.cstate == ConnState::Connected
                        && pds.iter().all(|(_, d)| {
                            d.repl == ReplState::Established && d.pending == 0 && d.unacked == 0
                        })
                })
        }) && c.app_idle()
    }

    /// What an administrator does who wants everything to be connected and UpToDate.
    fn help(&mut self, stuck: &mut Stuck) {
        self.end_rivalry();
        let nodes = self.cluster.config.nodes;
        for n in 0..nodes {
            let Some(s) = self.cluster.status(n) else {
                continue;
            };
            if !self.cluster.script_done(n) {
                continue;
            }
            if s.info.susp_user && !self.resume_would_fail(n) {
                self.cluster.script(n, vec![Command::ResumeIo]);
            }
            // What its applications know is not what the disks have, and they may not go on with that.
            let waits = stuck.without_data.entry(n).or_default();
            *waits = if s.info.susp_nod { *waits + 1 } else { 0 };
            if waits.is_multiple_of(20) && *waits > 0 {
                self.cluster
                    .note(|| format!("node {n} gives up: its data are nowhere"));
                self.cluster.forced_down = true;
                let secondary = Command::Secondary { force: true };
                self.cluster.script(n, vec![secondary]);
            }
            for (v, d) in &s.devices {
                let v = usize::from(v.to_wire());
                if d.disk == DiskState::Diskless && self.cluster.nodes[n].disks[v].is_some() {
                    let times = stuck.attaches.entry((n, v)).or_default();
                    *times += 1;
                    // The peers refuse it: it is attached without them, and what becomes of it is decided when
                    // they connect.
                    if times.is_multiple_of(6) {
                        self.leave_all(n, &s);
                    }
                    let attach = self.cluster.attach_command(n, v);
                    self.cluster.script(n, vec![attach]);
                }
            }
            self.renew_bad_disks(n);
            for (p, i, pds) in &s.connections {
                let peer = p.index();
                for (v, d) in pds {
                    if d.resync_susp_user {
                        self.cluster.script(
                            n,
                            vec![Command::ResumeSync {
                                peer: *p,
                                volume: *v,
                            }],
                        );
                    }
                }
                if i.cstate != ConnState::StandAlone {
                    continue;
                }
                let pair = (n.min(peer), n.max(peer));
                let times = stuck.connects.entry(pair).or_default();
                *times += 1;
                // Plain attempts first; a true split brain needs a victim: whoever has not the data that counts.
                let loser = *times > 8 && self.loses_against(n, peer);
                if loser && s.info.role == Role::Primary {
                    self.cluster.forced_down = true;
                    self.cluster
                        .script(n, vec![Command::Secondary { force: true }]);
                }
                // Before protocol 121 nobody who gives his data up makes a decision the other way round: the Primary whose
                // data are older in the eyes of the rules has to step down.
                let (version, _) = self.cluster.config.dialect(n, peer);
                if *times > 16 && version < 121 && s.info.role == Role::Primary {
                    self.cluster
                        .note(|| format!("node {n} steps down for node {peer}"));
                    self.cluster.forced_down = true;
                    self.cluster
                        .script(n, vec![Command::Secondary { force: true }]);
                }
                let connect = Command::Connect {
                    peer: *p,
                    discard_my_data: loser,
                    tentative: false,
                };
                if loser {
                    self.cluster
                        .note(|| format!("node {n} gives its data up for that of node {peer}"));
                }
                self.cluster.script(n, vec![connect]);
            }
        }
    }

    /// Cuts a node off; if it is in use, by force.
    fn leave_all(&mut self, n: usize, s: &ResourceStatus) {
        self.cluster
            .note(|| format!("node {n} attaches its disk without its peers"));
        if s.info.role == Role::Primary {
            self.cluster.forced_down = true;
            self.cluster
                .script(n, vec![Command::Secondary { force: true }]);
        }
        for (p, ..) in &s.connections {
            let leave = Command::Disconnect {
                peer: *p,
                force: true,
            };
            self.cluster.script(n, vec![leave]);
        }
    }

    pub(super) fn loses_against(&self, n: usize, peer: usize) -> bool {
        let c = &self.cluster;
        let worth = |x: usize| {
            (0..c.config.volumes.len())
                .filter(|v| c.is_current(x, *v))
                .count()
        };
        (worth(n), c.role(n) == Role::Primary, n)
            < (worth(peer), c.role(peer) == Role::Primary, peer)
    }

    /// Somebody becomes Primary, and reads everything that was ever written.
    fn last_reads(&mut self) {
        let n = match self.primary() {
            Some(p) => p,
            None => {
                let n = self.rng.below(self.cluster.config.nodes as u64) as usize;
                let id = self.cluster.command(n, Command::Primary { force: false });
                self.pass(10 * SEC);
                match self.cluster.take_reply(n, id) {
                    Some(r) if r.is_ok() => n,
                    other => {
                        let state = self.cluster.describe();
                        let what = format!("promotion in a healthy cluster: {other:?}\n{state}");
                        return self
                            .cluster
                            .violation(Some(n), Violation { rule: "L", what });
                    }
                }
            }
        };
        for v in 0..self.cluster.config.volumes.len() {
            let size = self.cluster.size(n, v);
            for sector in self.cluster.written_cells(v).into_iter().take(50) {
                if sector + 64 <= size {
                    self.cluster.submit(n, v, IoKind::Read, sector, 64);
                }
            }
            for i in 0..5 {
                self.cluster
                    .submit(n, v, IoKind::Write { fua: false }, i * 8, 8);
            }
        }
        self.pass(5 * SEC);
        // These writes may have been too many for a peer; whom it left has to be connected again.
        if self.plan.policies.is_some() && !self.rest() {
            return;
        }
        if self.cluster.failure.is_none() && self.cluster.open_requests(n) > 0 {
            let state = self.cluster.describe();
            let what = format!("requests in a healthy cluster do not complete\n{state}");
            return self
                .cluster
                .violation(Some(n), Violation { rule: "L3", what });
        }
        self.pass(5 * SEC);
        if self.cluster.failure.is_none() {
            self.cluster.check_converged();
        }
        if self.cluster.failure.is_none() {
            self.cluster.check_quiet();
        }
        let _ = (node_id(n), VolumeNr::ZERO);
    }
}
