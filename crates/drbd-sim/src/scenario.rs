//! Random scenarios: a seed becomes a cluster, some bad weather, and a time for everything to heal.

mod admin;
mod plan;
mod policies;
mod settle;

use drbd_engine::command::Command;
use drbd_engine::rows::Rows;
use drbd_proto::{DiskState, Role};

pub use plan::{Plan, Wishes, plan};
pub use policies::Policies;

use crate::clock::{MS, SEC, Time};
use crate::cluster::{Cluster, Stats};
use crate::config::Initial;
use crate::core::Factory;
use crate::oracle::{Failure, Violation};
use crate::rng::Rng;
use crate::trace::Sink;

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was broken.
    pub failure: Option<Failure>,
    /// What the nodes looked like then.
    pub state: String,
    /// Virtual time that passed.
    pub time: Time,
    /// Events handled by engines.
    pub events: u64,
    /// The rows of the decision tables that engines went through.
    pub rows: Rows,
    /// Numbers.
    pub stats: Stats,
}

/// Runs the scenario of a seed.
pub fn run(seed: u64, wishes: &Wishes, factory: Factory, sink: Option<Sink>) -> Outcome {
    let plan = plan(seed, wishes);
    let mut cluster = match Cluster::new(plan.config.clone(), factory) {
        Ok(c) => c,
        Err(what) => {
            let violation = Violation {
                rule: "setup",
                what,
            };
            let failure = Some(Failure {
                at: 0,
                node: None,
                violation,
            });
            return Outcome {
                failure,
                state: String::new(),
                time: 0,
                events: 0,
                rows: Rows::default(),
                stats: Stats::default(),
            };
        }
    };
    if let Some(sink) = sink {
        cluster.trace_to(sink);
    }
    let mut run = Run::new(cluster, plan, seed);
    run.hire(seed);
    run.whole();
    let c = run.cluster;
    let state = if c.failure.is_some() {
        c.describe()
    } else {
        String::new()
    };
    Outcome {
        failure: c.failure.clone(),
        state,
        time: c.now(),
        events: c.events,
        rows: c.rows,
        stats: c.stats,
    }
}

/// A run under way.
struct Run {
    cluster: Cluster,
    plan: Plan,
    rng: Rng,
    /// What is going to be done: (time, order) -> deed.
    agenda: std::collections::BTreeMap<(Time, u64), Deed>,
    order: u64,
    /// A promotion that has not been answered.
    promoting: Option<(usize, u64)>,
    /// The weather has improved; applications do not start any more.
    settling: bool,
    /// A node that lost its cache, until it has everything again.
    fragile: Option<usize>,
    /// The one node whose data may be thrown away on purpose in this run.
    expendable: Option<usize>,
    /// A demotion that has not been answered.
    demoting: Option<(usize, u64)>,
    /// Until then a disk may be given up because it is late.
    late_disks: Time,
}

/// Something an administrator or fate does later.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Start(usize),
    Promote,
    Connect(usize, usize),
    Attach(usize, usize),
    Repair(usize, usize),
    ResumeIo(usize),
    ResumeSync(usize, usize),
    Demoted(usize),
    Unstick(usize),
}

impl Run {
    fn new(mut cluster: Cluster, plan: Plan, seed: u64) -> Run {
        cluster.set_profile(plan.profile.clone(), plan.requests);
        cluster.lenient = plan.asynchronous;
        Run {
            cluster,
            plan,
            rng: Rng::new(seed ^ 0xfa7e),
            agenda: Default::default(),
            order: 0,
            promoting: None,
            settling: false,
            fragile: None,
            expendable: None,
            demoting: None,
            late_disks: 0,
        }
    }

    fn whole(&mut self) {
        let n = self.cluster.config.nodes;
        for node in 0..n {
            let delay = self.rng.below(SEC);
            self.later(delay, Deed::Start(node));
        }
        self.pass(SEC + MS);
        if !self.wait(60 * SEC, "all nodes connected", Run::all_connected) {
            return;
        }
        if self.cluster.config.initial == Initial::Fresh && !self.initial_sync() {
            return;
        }
        self.handlers_calm(false);
        self.later(0, Deed::Promote);
        let steps = self.plan.steps;
        for _ in 0..steps {
            let pause = self.rng.below(self.plan.pause);
            self.pass(pause);
            if self.cluster.failure.is_some() {
                return;
            }
            if self.rng.percent(15) {
                self.cluster.check_coverage();
            }
            self.misfortune();
            self.policy_step();
        }
        self.pass(500 * MS);
        self.settle();
    }

    fn later(&mut self, delay: Time, deed: Deed) {
        if self.settling {
            return; // Nothing new is begun any more.
        }
        self.order += 1;
        self.agenda
            .insert((self.cluster.now() + delay, self.order), deed);
    }

    /// Lets time pass, and does what is due.
    fn pass(&mut self, duration: Time) {
        let end = self.cluster.now() + duration;
        while self.cluster.failure.is_none() {
            self.look_at_replies();
            match self.agenda.first_key_value() {
                Some((&(at, order), &deed)) if at <= end => {
                    self.cluster.run_to(at);
                    self.agenda.remove(&(at, order));
                    if self.cluster.failure.is_none() {
                        self.do_it(deed);
                    }
                }
                _ => {
                    self.cluster.run_to(end);
                    self.look_at_replies();
                    return;
                }
            }
        }
    }

    /// Waits for something; not getting it is a failure.
    fn wait(&mut self, limit: Time, what: &'static str, holds: fn(&Run) -> bool) -> bool {
        let end = self.cluster.now() + limit;
        while self.cluster.failure.is_none() {
            if holds(self) {
                return true;
            }
            if self.cluster.now() >= end {
                let state = self.cluster.describe();
                let what = format!("{what}: not within {} s\n{state}", limit / SEC);
                self.cluster.violation(None, Violation { rule: "L", what });
                return false;
            }
            if self.plan.policies.is_some() {
                self.reconnect_some();
            }
            self.pass(100 * MS);
        }
        false
    }

    fn all_connected(run: &Run) -> bool {
        let c = &run.cluster;
        (0..c.config.nodes).all(|n| {
            c.script_done(n)
                && c.status(n).is_some_and(|s| {
                    s.connections
                        .iter()
                        .all(|(_, i, _)| i.cstate == drbd_proto::ConnState::Connected)
                })
        })
    }

    fn all_up_to_date(run: &Run) -> bool {
        let c = &run.cluster;
        (0..c.config.nodes).all(|n| {
            (0..c.config.volumes.len())
                .all(|v| c.config.diskless[n] || c.disk_state(n, v) == DiskState::UpToDate)
        })
    }

    /// A fresh cluster gets its data by force, perhaps without waiting for the end of the first sync.
    fn initial_sync(&mut self) -> bool {
        let disks: Vec<usize> = (0..self.cluster.config.nodes)
            .filter(|n| !self.cluster.config.diskless[*n])
            .collect();
        let source = self.rng.pick(&disks);
        let id = self
            .cluster
            .command(source, Command::Primary { force: true });
        self.promoting = Some((source, id));
        self.pass(3 * SEC);
        if self.cluster.role(source) != Role::Primary {
            let state = self.cluster.describe();
            let what = format!("forced promotion of a fresh node failed\n{state}");
            self.cluster
                .violation(Some(source), Violation { rule: "L", what });
            return false;
        }
        if self.rng.percent(60) {
            return self.wait(120 * SEC, "first full sync", Run::all_up_to_date);
        }
        true
    }

    fn look_at_replies(&mut self) {
        self.watch_handlers();
        if let Some((n, id)) = self.promoting {
            match self.cluster.take_reply(n, id) {
                Some(reply) if reply.is_ok() => {
                    self.promoting = None;
                    if !self.settling {
                        self.cluster.app_start(n);
                    }
                }
                Some(reply) => {
                    self.cluster
                        .note(|| format!("node {n} not promoted: {reply:?}"));
                    self.promoting = None;
                    let delay = self.rng.range(300 * MS, 3 * SEC);
                    self.later(delay, Deed::Promote);
                }
                None if !self.cluster.nodes[n].commands_waiting(id) => self.promoting = None,
                None => {}
            }
        }
        if let Some((n, id)) = self.demoting {
            let answered = self.cluster.take_reply(n, id).is_some();
            if answered || !self.cluster.nodes[n].commands_waiting(id) {
                self.demoting = None;
            }
        }
    }

    fn primary(&self) -> Option<usize> {
        (0..self.cluster.config.nodes).find(|n| self.cluster.role(*n) == Role::Primary)
    }
}
