//! Policies and their handlers: fencing, congestion, slow disks, and what follows from them.

use std::time::Duration;

use drbd_engine::command::Command;
use drbd_engine::options::{Fencing, OnCongestion, OnIoError, SbPolicy, WireProtocol};
use drbd_proto::{ConnState, DiskState, ReplState, Role, VolumeNr};

use super::{Deed, Plan, Run};
use crate::clock::{MS, SEC, US};
use crate::cluster::{Handlers, node_id};
use crate::rng::Rng;

/// What a run has of it.
#[derive(Clone, Copy, Debug)]
pub struct Policies {
    /// `fence-peer` switches nodes off.
    shoots: bool,
    /// `fencing resource-and-stonith` everywhere.
    stonith: bool,
    /// Disks stand still now and then.
    stuck: bool,
}

/// Draws them for a plan, with chance of their own.
pub(super) fn draw(seed: u64, calm: bool, plan: &mut Plan) {
    let mut rng = Rng::new(seed ^ 0x0001_1c1e);
    let config = &mut plan.config;
    config.helper = true;
    let net = &mut config.net;
    net.fencing = rng.pick(&[
        Fencing::DontCare,
        Fencing::ResourceOnly,
        Fencing::ResourceAndStonith,
        Fencing::ResourceAndStonith,
    ]);
    if net.fencing != Fencing::ResourceAndStonith && rng.percent(60) {
        plan.asynchronous = true;
        net.protocol = WireProtocol::A;
        config.protocols.clear();
        net.on_congestion = rng.pick(&[
            OnCongestion::PullAhead,
            OnCongestion::PullAhead,
            OnCongestion::Disconnect,
        ]);
        net.congestion_fill = rng.pick(&[8, 32, 128, 1024]);
        net.congestion_extents = rng.pick(&[2, 8, 67, 1237]);
    }
    if net.fencing == Fencing::ResourceAndStonith && net.protocol == WireProtocol::A {
        // Refused together.
        net.protocol = WireProtocol::B;
    }
    if plan.asynchronous {
        // Whoever throws changes away by himself may throw away what counts: only where that is allowed to happen.
        net.after_sb_0pri = rng.pick(&[
            SbPolicy::Disconnect,
            SbPolicy::DiscardYounger,
            SbPolicy::DiscardOlder,
            SbPolicy::DiscardZeroChanges,
            SbPolicy::DiscardLeastChanges,
        ]);
        net.after_sb_1pri = rng.pick(&[
            SbPolicy::Disconnect,
            SbPolicy::Consensus,
            SbPolicy::DiscardSecondary,
            SbPolicy::CallPriLost,
        ]);
        // Not retry-connect: a Primary that would have to be a target tries for ever, as it is told.
        net.rr_conflict = rng.pick(&[SbPolicy::Disconnect, SbPolicy::AutoDiscard]);
    }
    let slow = rng.percent(40);
    if slow {
        let speeds = [(20 * US, 30 * MS), (MS, 15 * MS), (2 * MS, 40 * MS)];
        config.disk_speed = rng.pick(&speeds);
        let seconds = rng.pick(&[0, 2, 3, 5]);
        config.disk.disk_timeout = Duration::from_secs(seconds);
    }
    config.disk.on_io_error = rng.pick(&[
        OnIoError::Detach,
        OnIoError::Detach,
        OnIoError::CallLocalIoError,
        OnIoError::PassOn,
    ]);
    plan.policies = Some(Policies {
        shoots: !calm && rng.percent(60),
        stonith: config.net.fencing == Fencing::ResourceAndStonith,
        stuck: !calm && slow,
    });
}

impl Run {
    /// The handlers of the run.
    pub(super) fn hire(&mut self, seed: u64) {
        if let Some(p) = self.plan.policies {
            let mut handlers = Handlers::new(seed ^ 0xfe9ce);
            handlers.shoots = p.shoots;
            handlers.stonith = p.stonith;
            self.cluster.policies = Some(Box::new(handlers));
        }
    }

    /// Handlers fail from now on, or do so no more.
    pub(super) fn handlers_calm(&mut self, calm: bool) {
        if let Some(h) = self.cluster.policies.as_mut() {
            h.calm = calm;
        }
    }

    /// Tells the handlers whether they may switch a node off now.
    pub(super) fn watch_handlers(&mut self) {
        if self.cluster.policies.is_some() {
            let spare = self.still_fragile();
            if let Some(h) = self.cluster.policies.as_mut() {
                h.spare = spare;
            }
        }
    }

    /// What else happens in such a run.
    pub(super) fn policy_step(&mut self) {
        let Some(p) = self.plan.policies else { return };
        self.reconnect_some();
        if self.rng.percent(20) {
            (0..self.cluster.config.nodes).for_each(|n| self.renew_bad_disks(n));
        }
        // A disk that is given up is a failure, too.
        if p.stuck && self.rng.percent(15) && !self.still_fragile() {
            self.disk_stands_still();
        }
        if p.stonith && !self.plan.quorum && self.rng.percent(15) {
            self.usurp();
        }
    }

    /// The administrator connects again what a handler or a policy has parted.
    pub(super) fn reconnect_some(&mut self) {
        for n in 0..self.cluster.config.nodes {
            let Some(s) = self.cluster.status(n) else {
                continue;
            };
            for (p, i, _) in &s.connections {
                if i.cstate == ConnState::StandAlone && self.rng.percent(30) {
                    let delay = self.rng.latency(50 * MS, 5 * SEC);
                    self.later(delay, Deed::Connect(n, p.index()));
                }
            }
        }
    }

    /// The disks of a node answer late what they are asked for during some time.
    fn disk_stands_still(&mut self) {
        let n = self.rng.below(self.cluster.config.nodes as u64) as usize;
        let late = self.rng.latency(500 * MS, 10 * SEC);
        let duration = self.rng.latency(100 * MS, 3 * SEC);
        let which = self.rng.below(4);
        self.cluster
            .note(|| format!("the disks of node {n} take {} ms", late / MS));
        if !self.cluster.config.disk.disk_timeout.is_zero() {
            self.cluster.forced_down = true;
        }
        if which != 0 {
            self.cluster.nodes[n].slow_disk = Some(late);
        }
        if which != 1 {
            self.cluster.nodes[n].slow_meta = Some(late);
        }
        self.late_disks = self.late_disks.max(self.cluster.now() + duration + late);
        self.later(duration, Deed::Unstick(n));
        for v in 0..self.cluster.config.volumes.len() {
            let delay = self.rng.latency(SEC, 10 * SEC);
            self.later(duration + late + delay, Deed::Attach(n, v));
        }
    }

    pub(super) fn unstick(&mut self, n: usize) {
        self.cluster.nodes[n].slow_disk = None;
        self.cluster.nodes[n].slow_meta = None;
    }

    /// A node whose data is complete is promoted although the Primary may live: fencing decides.
    fn usurp(&mut self) {
        if self.promoting.is_some() || self.demoting.is_some() || self.cluster.app_opening() {
            return;
        }
        let c = &self.cluster;
        let good = |n: &usize| {
            c.role(*n) == Role::Secondary
                && c.script_done(*n)
                && !c.config.diskless[*n]
                && (0..c.config.volumes.len()).all(|v| c.is_current(*n, v))
        };
        let able: Vec<usize> = (0..c.config.nodes).filter(good).collect();
        if able.is_empty() {
            return;
        }
        let n = self.rng.pick(&able);
        self.cluster
            .note(|| format!("node {n} is to take over, whatever the others do"));
        let id = self.cluster.command(n, Command::Primary { force: false });
        self.promoting = Some((n, id));
    }

    /// Whether the disk of a node may fail: what pass_on makes of it nobody but the administrator mends, so never of two.
    pub(super) fn may_fail(&self, n: usize, v: usize) -> bool {
        let c = &self.cluster;
        self.plan.policies.is_none()
            || c.config.disk.on_io_error != OnIoError::PassOn
            || (0..c.config.nodes)
                .filter(|m| *m != n && !c.config.diskless[*m])
                .all(|m| c.disk_state(m, v) == DiskState::UpToDate && c.is_current(m, v))
    }

    /// Two Primaries do not connect: the one that lacks data gives way, if need be by force.
    pub(super) fn end_rivalry(&mut self) {
        let c = &self.cluster;
        let primaries: Vec<usize> = (0..c.config.nodes)
            .filter(|n| c.role(*n) == Role::Primary)
            .collect();
        let [a, b] = primaries[..] else { return };
        let loser = if self.loses_against(a, b) { a } else { b };
        if self.plan.policies.is_some() && self.cluster.script_done(loser) {
            self.cluster
                .note(|| format!("node {loser} is not to be Primary beside another one"));
            self.cluster.forced_down = true;
            let secondary = Command::Secondary { force: true };
            self.cluster.script(loser, vec![secondary]);
        }
    }

    /// With pass_on the administrator decides when a bad disk is written again.
    pub(super) fn renew_bad_disks(&mut self, n: usize) {
        if self.plan.policies.is_none()
            || self.cluster.config.disk.on_io_error != OnIoError::PassOn
            || !self.cluster.script_done(n)
        {
            return;
        }
        for v in 0..self.cluster.config.volumes.len() {
            if self.cluster.disk_state(n, v) != DiskState::Inconsistent {
                continue;
            }
            let nodes = 0..self.cluster.config.nodes;
            let pds: Vec<_> = nodes
                .filter(|m| *m != n)
                .map(|m| (m, self.cluster.peer_device(n, m, v)))
                .collect();
            // What waits for a bad disk, and what it is to send later, is no reason to leave it so.
            let idle = |(repl, disk): (ReplState, DiskState)| match repl {
                ReplState::PausedSyncS => true,
                ReplState::PausedSyncT => disk <= DiskState::Inconsistent,
                _ => repl <= ReplState::Established,
            };
            let rests = pds.iter().all(|(_, pd)| idle((pd.0, pd.1)));
            let source = pds.iter().find(|(_, (repl, disk, _))| {
                *repl == ReplState::Established && *disk == DiskState::UpToDate
            });
            if let (true, Some((m, _))) = (rests, source) {
                let invalidate = Command::Invalidate {
                    volume: VolumeNr::from_wire(v as u16),
                    from: Some(node_id(*m)),
                    reset_bitmap: true,
                };
                self.cluster.script(n, vec![invalidate]);
            }
        }
    }
}
