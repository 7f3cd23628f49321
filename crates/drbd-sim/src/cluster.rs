//! A whole cluster: nodes, disks, network, applications, and the loop that drives them.

mod checks;
mod drive;
mod effects;
mod handlers;
mod io;
mod node;
mod power;
mod record;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use drbd_engine::EngineConfig;
use drbd_engine::command::{Command, Reply};
use drbd_engine::event::Event;
use drbd_engine::id::{CmdId, OpId};
use drbd_engine::resync_after::Schedule;
use drbd_engine::rows::Rows;
use drbd_engine::status::ResourceStatus;
use drbd_engine::time::Instant;
use drbd_proto::NodeId;

pub use handlers::Handlers;
pub use io::{IoKind, IoOutcome};
pub use node::Node;
pub use record::{HandlerCall, Record, Seen};

use crate::app::App;
use crate::buffer::{Buffers, Version};
use crate::clock::{Queue, Time};
use crate::config::{Config, Initial};
use crate::core::Factory;
use crate::net::{Later, NetEvent, Network};
use crate::oracle::flow::Flow;
use crate::oracle::history::{FRESH, GROWN, History};
use crate::oracle::{Failure, Violation};
use crate::rng::Rng;
use crate::trace::{self, Trace};

/// Events an engine may handle without virtual time going on, before that counts as a livelock.
const MAX_STEPS_PER_INSTANT: u32 = 50_000;

/// Something that is going to happen.
pub(crate) enum Occurrence {
    /// An event for an engine, if it still lives the same life.
    Event(usize, u32, Box<Event>),
    Tick(usize, u32),
    DiskDone(usize, u32, u64),
    /// The transport has taken all of a packet: node, life, peer, session, operation.
    Sent(usize, u32, usize, u64, u64),
    /// The disk operation fails.
    DiskFails(usize, u32, u64),
    Net(NetEvent),
    /// A stream of this session was closed a while ago: node, life, peer, session.
    Grace(usize, u32, usize, u64),
    /// A worker of the application goes on.
    App(usize, u32, usize),
    /// Whoever drives the scenario wanted to be woken.
    Wake(u64),
    /// A `fence-peer` handler acts against a peer.
    Fence(handlers::Call, usize),
    /// A `fence-peer` handler waits no longer for the peer it asked.
    Unanswered(handlers::Call),
    /// A node that was switched off starts.
    Start(usize),
}

/// A simulated cluster.
pub struct Cluster {
    /// How it was built.
    pub config: Config,
    pub(crate) factory: Factory,
    pub(crate) queue: Queue<Occurrence>,
    /// Chance of disks; other parts have their own.
    pub(crate) rng: Rng,
    /// The machines.
    pub nodes: Vec<Node>,
    /// The network between them.
    pub net: Network,
    pub(crate) buffers: Buffers,
    pub(crate) app: App,
    /// What applications did, per volume.
    pub(crate) histories: Vec<History>,
    /// What counted before an older content was accepted, with its epoch, until somebody has seen that content.
    pub(crate) unseen_forks: Vec<Option<(u64, History)>>,
    /// The last source of a resync that had everything, by target and volume.
    pub(crate) sources: std::collections::BTreeMap<(usize, usize), usize>,
    /// Counts the rebases of each history.
    pub(crate) history_epochs: Vec<u64>,
    pub(crate) flow: Flow,
    pub(crate) ios: io::Ios,
    pub(crate) trace: Trace,
    pub(crate) record: Option<Box<Record>>,
    pub(crate) next_id: u64,
    pub(crate) next_version: Version,
    steps_at_now: u32,
    pub(crate) failure: Option<Failure>,
    pub(crate) woken: Vec<u64>,
    /// Events handled by engines.
    pub events: u64,
    /// A promotion to stale data, and what follows from it, is the administrator's fault.
    pub lenient: bool,
    /// Backing devices have grown.
    pub grown: bool,
    /// Several caches were lost at once: replicas may differ without anybody knowing.
    pub divergence_tolerated: bool,
    /// Somebody forced a demotion, or disks fail: requests may fail.
    pub forced_down: bool,
    /// How often an administrator chose data that lacked acknowledged writes.
    pub forks: u64,
    /// What handlers do that are not to end with success at once, by node and name: exit code, and the time they take.
    pub handlers: std::collections::BTreeMap<(usize, &'static str), (i32, Time)>,
    /// What handlers do at random.
    pub policies: Option<Box<Handlers>>,
    /// The rows of the decision tables that engines went through.
    pub rows: Rows,
    /// Numbers about the run, for those who tune scenarios.
    pub stats: Stats,
}

/// What happened during a run.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)] // Counters named after what they count.
pub struct Stats {
    pub writes: u64,
    pub reads: u64,
    pub io_errors: u64,
    pub crashes: u64,
    pub cuts: u64,
    pub resyncs: u64,
    pub promotions: u64,
    pub coverage_checks: u64,
    pub leftover_bits: u64,
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Panics of this thread are remembered instead of printed. To be called once per thread.
pub fn catch_panics() {
    std::panic::set_hook(Box::new(|info| {
        let at = info
            .location()
            .map_or(String::new(), |l| format!(" at {}:{}", l.file(), l.line()));
        let what = info.payload();
        let text = what
            .downcast_ref::<&str>()
            .map(|s| (*s).to_string())
            .or_else(|| what.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        if IN_ENGINE.with(|f| *f.borrow()) {
            PANIC.with(|p| *p.borrow_mut() = Some(format!("{text}{at}")));
        } else {
            eprintln!("panic: {text}{at}");
        }
    }));
}

thread_local! {
    static IN_ENGINE: RefCell<bool> = const { RefCell::new(false) };
}

impl Cluster {
    /// A cluster of machines that are not started yet.
    pub fn new(config: Config, factory: Factory) -> Result<Cluster, String> {
        let mut rng = Rng::new(config.seed);
        let mut nodes = Vec::new();
        for n in 0..config.nodes {
            let mut disks = Vec::new();
            for v in 0..config.volumes.len() {
                let garbage = match config.initial {
                    Initial::Fresh => FRESH.start + n as Version,
                    Initial::Provisioned | Initial::Blank => 1,
                };
                let disk =
                    (!config.diskless[n]).then(|| crate::format::create(&config, n, v, garbage));
                disks.push(disk.transpose()?);
            }
            nodes.push(Node::new(n, disks));
        }
        let net = Network::new(config.nodes, config.net_speed, rng.fork());
        let app = App::new(rng.fork());
        let mut histories: Vec<History> =
            config.volumes.iter().map(|_| History::default()).collect();
        for (v, h) in histories.iter_mut().enumerate() {
            if let Some(d) = nodes.iter().find_map(|n| n.disks[v].as_ref()) {
                h.rebase(d.visible().clone());
            }
        }
        Ok(Cluster {
            factory,
            queue: Queue::default(),
            rng,
            nodes,
            net,
            buffers: Buffers::default(),
            app,
            unseen_forks: vec![None; histories.len()],
            sources: std::collections::BTreeMap::new(),
            histories,
            history_epochs: vec![0; config.volumes.len()],
            flow: Flow::default(),
            ios: io::Ios::default(),
            trace: Trace::default(),
            record: None,
            next_id: 1,
            next_version: 1000,
            steps_at_now: 0,
            failure: None,
            woken: Vec::new(),
            events: 0,
            lenient: false,
            grown: false,
            divergence_tolerated: false,
            forced_down: false,
            forks: 0,
            handlers: Default::default(),
            policies: None,
            rows: Rows::default(),
            stats: Stats::default(),
            config,
        })
    }

    /// The backing devices of a volume grow by so many bytes, with different garbage on each node; only with metadata
    /// elsewhere.
    pub fn grow_devices(&mut self, volume: usize, bytes: u64) {
        self.expect_growth(volume);
        for n in 0..self.config.nodes {
            self.grow_device(n, volume, bytes);
        }
    }

    /// Gives all devices of a volume room for what the largest has: one that was detached while the cluster grew
    /// could not be attached any more.
    pub fn level_devices(&mut self, volume: usize) {
        self.expect_growth(volume);
        let bytes = self.config.volumes[volume].device_bytes.clone();
        let most = bytes.iter().copied().max().unwrap_or_default();
        for (n, bytes) in bytes.into_iter().enumerate() {
            self.grow_device(n, volume, most - bytes);
        }
    }

    fn expect_growth(&mut self, volume: usize) {
        let size = self.least_size(volume);
        self.histories[volume].forget_from(size);
        self.grown = true;
    }

    fn grow_device(&mut self, n: usize, volume: usize, bytes: u64) {
        let config = &mut self.config.volumes[volume];
        config.device_bytes[n] += bytes;
        let sectors = config.device_bytes[n] / 512;
        if let Some(disk) = self.nodes[n].disks[volume].as_mut() {
            disk.grow(sectors, GROWN.start + n as Version);
        }
    }

    /// Writes a trace from now on.
    pub fn trace_to(&mut self, sink: trace::Sink) {
        self.trace = Trace::to(sink);
    }

    /// The present, in nanoseconds.
    pub fn now(&self) -> Time {
        self.queue.now()
    }

    /// What went wrong, if anything did.
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    /// A note in the trace.
    pub fn note(&mut self, what: impl FnOnce() -> String) {
        self.trace.line(self.queue.now(), "--", what);
    }

    pub(crate) fn violation(&mut self, node: Option<usize>, v: Violation) {
        let at = self.queue.now();
        self.trace.line(at, "!!", || v.to_string());
        self.failure.get_or_insert(Failure {
            at,
            node,
            violation: v,
        });
    }

    pub(crate) fn fail(&mut self, node: usize, rule: &'static str, what: impl Into<String>) {
        self.violation(
            Some(node),
            Violation {
                rule,
                what: what.into(),
            },
        );
    }

    pub(crate) fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Something is to be seen in [`Cluster::take_woken`] later.
    pub fn wake_after(&mut self, delay: Time, token: u64) {
        self.queue.after(delay, Occurrence::Wake(token));
    }

    /// The tokens whose time has come.
    pub fn take_woken(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.woken)
    }

    pub(crate) fn later(&mut self, later: Later) {
        for (delay, event) in later {
            self.queue.after(delay, Occurrence::Net(event));
        }
    }

    /// What can be seen of a node, if it is up.
    pub fn status(&self, node: usize) -> Option<Box<ResourceStatus>> {
        self.nodes[node].core.as_ref().map(|c| c.status())
    }

    /// Gives a node a command; the reply can be fetched with [`Cluster::take_reply`].
    pub fn command(&mut self, node: usize, command: Command) -> u64 {
        let id = self.fresh_id();
        let life = self.nodes[node].life;
        self.nodes[node].commands.insert(id, command.clone());
        let event = Event::Command {
            cmd: CmdId(id),
            command,
        };
        self.queue
            .after(0, Occurrence::Event(node, life, Box::new(event)));
        id
    }

    /// The reply to a command, once it is there.
    pub fn take_reply(&mut self, node: usize, command: u64) -> Option<Reply> {
        self.nodes[node].replies.remove(&command)
    }

    /// Gives a node a command and waits for its reply, a minute at most.
    pub fn ask(&mut self, node: usize, command: Command) -> Result<Reply, String> {
        let text = format!("{command:?}");
        let id = self.command(node, command);
        let limit = 60 * crate::clock::SEC;
        self.run_until(limit, |c| c.nodes[node].replies.contains_key(&id))
            .map_err(|e| format!("node {node}: {text}: {e}"))?;
        self.take_reply(node, id)
            .ok_or_else(|| format!("node {node}: {text}: no reply"))
    }

    /// Waits for the end of a request, a minute at most.
    pub fn finish(&mut self, io: u64) -> Result<IoOutcome, String> {
        self.run_until(60 * crate::clock::SEC, |c| c.outcome(io).is_some())?;
        self.outcome(io).ok_or_else(|| "no outcome".into())
    }

    /// Gives a node commands, each after the reply to the one before.
    pub fn script(&mut self, node: usize, commands: Vec<Command>) {
        self.nodes[node].script.extend(commands);
        self.next_of_script(node);
    }

    /// Whether all commands of a node's script have been answered.
    pub fn script_done(&self, node: usize) -> bool {
        self.nodes[node].script.is_empty() && self.nodes[node].script_waits_for.is_none()
    }

    pub(crate) fn next_of_script(&mut self, node: usize) {
        if self.nodes[node].script_waits_for.is_none()
            && self.nodes[node].up()
            && let Some(command) = self.nodes[node].script.pop_front()
        {
            let id = self.command(node, command);
            self.nodes[node].script_waits_for = Some(id);
        }
    }

    /// Starts the engine of a node; nothing is configured yet.
    pub fn boot(&mut self, node: usize) {
        let config = EngineConfig {
            name: "sim".into(),
            node_id: node_id(node),
            options: self.config.resource.clone(),
            seed: self.rng.next(),
            helper: self.config.helper,
        };
        self.note(|| format!("node {node} boots"));
        self.nodes[node].schedule = Schedule::new(self.config.max_parallel_resyncs);
        self.nodes[node].core = Some((self.factory)(config));
    }

    /// Lets one thing happen. False if nothing is left, or something has failed.
    pub fn step(&mut self) -> bool {
        if self.failure.is_some() {
            return false;
        }
        let before = self.queue.now();
        let Some(what) = self.queue.pop() else {
            return false;
        };
        if self.queue.now() > before {
            self.steps_at_now = 0;
        }
        match what {
            Occurrence::Event(n, life, event) => {
                if self.alive(n, life) {
                    self.feed(n, *event);
                }
            }
            Occurrence::Tick(n, life) => self.tick(n, life),
            Occurrence::DiskDone(n, life, op) => {
                if self.alive(n, life) {
                    self.disk_done(n, op, None);
                }
            }
            Occurrence::Sent(n, life, peer, session, op) => {
                let same =
                    |c: &Cluster| c.nodes[n].peers.get(&peer).map(|p| p.session) == Some(session);
                if self.alive(n, life) && same(self) {
                    self.feed(n, Event::Sent { op: OpId(op) });
                }
            }
            Occurrence::DiskFails(n, life, op) => {
                if self.alive(n, life) {
                    self.disk_done(n, op, Some(drbd_engine::event::DiskError::Io));
                }
            }
            Occurrence::Net(event) => self.net_event(event),
            Occurrence::Grace(n, life, peer, session) => {
                if self.alive(n, life) {
                    self.grace_over(n, peer, session);
                }
            }
            Occurrence::App(n, life, worker) => {
                if self.alive(n, life) {
                    self.app_turn(worker);
                }
            }
            Occurrence::Wake(token) => self.woken.push(token),
            Occurrence::Fence(call, peer) => {
                if self.alive(call.node, call.life) {
                    self.fence_peer(call, peer);
                }
            }
            Occurrence::Unanswered(call) => self.unanswered(call),
            Occurrence::Start(n) => self.start(n),
        }
        self.failure.is_none()
    }

    fn alive(&self, node: usize, life: u32) -> bool {
        self.nodes[node].life == life && self.nodes[node].up()
    }

    fn tick(&mut self, n: usize, life: u32) {
        if !self.alive(n, life) {
            return;
        }
        let now = self.queue.now();
        if self.nodes[n].tick_at.is_some_and(|t| t > now) {
            return;
        }
        self.nodes[n].tick_at = None;
        let due = self.nodes[n].core.as_ref().and_then(|c| c.next_deadline());
        match due {
            Some(t) if t.as_nanos() <= now => self.feed(n, Event::Tick),
            _ => self.arm(n),
        }
    }

    /// Sees to it that the engine gets its tick in time.
    fn arm(&mut self, n: usize) {
        let now = self.queue.now();
        let node = &mut self.nodes[n];
        let Some(at) = node.core.as_ref().and_then(|c| c.next_deadline()) else {
            return;
        };
        let at = at.as_nanos().max(now);
        if node.tick_at.is_none_or(|t| at < t || t < now) {
            node.tick_at = Some(at);
            let life = node.life;
            self.queue.at(at, Occurrence::Tick(n, life));
        }
    }

    /// Hands an event to an engine and carries out what it wants.
    pub(crate) fn feed(&mut self, n: usize, event: Event) {
        self.steps_at_now += 1;
        if self.steps_at_now > MAX_STEPS_PER_INSTANT {
            self.fail(
                n,
                "L",
                format!(
                    "{MAX_STEPS_PER_INSTANT} events without time going on, the last {}",
                    trace::event(&event)
                ),
            );
            return;
        }
        let now = self.queue.now();
        let name = NAMES[n % NAMES.len()];
        self.trace.line(now, name, || trace::event(&event));
        if let Event::Command {
            command: Command::Attach { volume, .. },
            ..
        } = &event
            && let Some(attached) = self.nodes[n]
                .attached
                .get_mut(effects::volume_index(*volume))
        {
            // The driver has opened the devices.
            *attached = true;
        }
        let Some(mut core) = self.nodes[n].core.take() else {
            return;
        };
        self.events += 1;
        let mut effects = Vec::new();
        IN_ENGINE.with(|f| *f.borrow_mut() = true);
        let result = catch_unwind(AssertUnwindSafe(|| {
            core.handle(Instant::from_nanos(now), event, &mut effects)
        }));
        IN_ENGINE.with(|f| *f.borrow_mut() = false);
        let rows = core.rows();
        if !self.rows.contains_all(&rows) {
            for row in rows.iter().filter(|row| !self.rows.contains(*row)) {
                let text = || format!("first at {row:?}: {}, {}", row.table(), row.name());
                self.trace.line(now, name, text);
            }
            self.rows.add(&rows);
        }
        self.nodes[n].core = Some(core);
        if result.is_err() {
            let text = PANIC.with(|p| p.borrow_mut().take()).unwrap_or_default();
            self.fail(n, "panic", text);
            return;
        }
        for effect in effects {
            self.trace.line(now, name, || trace::effect(&effect));
            self.carry_out(n, effect);
            if self.failure.is_some() {
                return;
            }
        }
        self.arm(n);
    }

    /// Runs until a point in time.
    pub fn run_to(&mut self, at: Time) {
        while self.queue.next_at().is_some_and(|t| t <= at) {
            if !self.step() {
                return;
            }
        }
        self.queue.advance(at);
    }

    /// Runs for some time.
    pub fn run_for(&mut self, duration: Time) {
        self.run_to(self.queue.now() + duration);
    }

    /// Runs until something holds; the error says what did not within the time.
    pub fn run_until(
        &mut self,
        limit: Time,
        mut holds: impl FnMut(&Cluster) -> bool,
    ) -> Result<(), String> {
        let end = self.queue.now() + limit;
        loop {
            if holds(self) {
                return Ok(());
            }
            if let Some(f) = &self.failure {
                return Err(f.to_string());
            }
            if self.queue.next_at().is_none_or(|t| t > end) || !self.step() {
                return match &self.failure {
                    Some(f) => Err(f.to_string()),
                    None => Err(format!(
                        "not within {} s:\n{}",
                        limit / crate::clock::SEC,
                        self.describe()
                    )),
                };
            }
        }
    }
}

/// Names of the nodes in traces.
pub const NAMES: [&str; 8] = ["A", "B", "C", "D", "E", "F", "G", "H"];

/// The node id of a node.
pub fn node_id(node: usize) -> NodeId {
    NodeId::new(node as u32).unwrap_or(NodeId::MAX)
}
