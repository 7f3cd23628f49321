//! Handlers of random runs: programs that take their time, fail now and then, and tell the truth where the administrator's
//! program has to (state machine, sections 12.1 and 18).

use std::collections::BTreeSet;

use drbd_engine::command::{Command, Reply};
use drbd_engine::event::{Event, OpOutput};
use drbd_engine::id::OpId;
use drbd_proto::{ConnState, DiskState, Role, VolumeNr};

use super::{Cluster, Occurrence};
use crate::clock::{MS, SEC, Time};
use crate::rng::Rng;

/// The longest time a handler takes.
const LONGEST: Time = 6 * SEC;
/// How long `fence-peer` waits for a peer that it asked to outdate itself.
const PATIENCE: Time = 5 * SEC;
/// Percentage of handlers that fail.
const BROKEN: u64 = 12;

/// The call of a handler: node, its life, and the operation that waits for the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(super) node: usize,
    pub(super) life: u32,
    op: u64,
}

/// A peer that was asked to outdate its disks.
#[derive(Debug)]
struct Asked {
    call: Call,
    peer: usize,
    life: u32,
    /// The commands that it has not answered yet.
    commands: Vec<u64>,
}

/// What handlers do in this run.
#[derive(Debug)]
pub struct Handlers {
    rng: Rng,
    /// All succeed soon.
    pub calm: bool,
    /// `fence-peer` switches peers off now and then.
    pub shoots: bool,
    /// No node may be switched off now: another one is not whole again yet.
    pub spare: bool,
    /// Every connection has `fencing resource-and-stonith`.
    pub stonith: bool,
    asked: Vec<Asked>,
    /// Completed writes since both nodes are Primary and do not see each other: of the first node, beside the second.
    alone: BTreeSet<(usize, usize)>,
}

impl Handlers {
    /// Handlers with their own chance.
    pub fn new(seed: u64) -> Handlers {
        Handlers {
            rng: Rng::new(seed),
            calm: true,
            shoots: false,
            spare: false,
            stonith: false,
            asked: Vec::new(),
            alone: BTreeSet::new(),
        }
    }
}

impl Cluster {
    /// An engine calls a handler. False: handlers do not act at random here.
    pub(super) fn call_at_random(
        &mut self,
        n: usize,
        op: OpId,
        handler: &str,
        peer: Option<usize>,
    ) -> bool {
        if self.policies.is_none() {
            return false;
        }
        if !self.new_op(n, op) {
            return true;
        }
        let call = Call {
            node: n,
            life: self.nodes[n].life,
            op: op.0,
        };
        let Some(h) = self.policies.as_mut() else {
            return false;
        };
        let most = if h.calm { 200 * MS } else { LONGEST };
        let delay = h.rng.latency(MS, most);
        let fails = !h.calm && h.rng.percent(BROKEN);
        match peer {
            Some(peer) if handler == "fence-peer" => {
                self.queue.after(delay, Occurrence::Fence(call, peer));
            }
            _ => {
                let exit = if fails {
                    h.rng.pick(&[1, 2, 3, 127])
                } else {
                    0
                };
                self.answer_call(call, exit, delay);
            }
        }
        true
    }

    fn answer_call(&mut self, call: Call, exit: i32, delay: Time) {
        let event = Event::Done {
            op: OpId(call.op),
            result: Ok(OpOutput::Exit(exit)),
        };
        self.queue.after(
            delay,
            Occurrence::Event(call.node, call.life, Box::new(event)),
        );
    }

    /// `fence-peer` acts.
    pub(super) fn fence_peer(&mut self, call: Call, peer: usize) {
        let (up, role) = (self.nodes[peer].up(), self.role(peer));
        let volumes = 0..self.config.volumes.len();
        let worst: Vec<DiskState> = volumes.map(|v| self.disk_state(peer, v)).collect();
        let Some(h) = self.policies.as_mut() else {
            return;
        };
        if !h.calm && h.rng.percent(BROKEN) {
            let exit = h.rng.pick(&[0, 1, 2, 8, 127]);
            return self.answer_call(call, exit, 0);
        }
        let gun = h.shoots && !h.spare && !h.calm;
        let exit = if !up {
            h.rng.pick(&[5, 5, 7])
        } else if gun && h.rng.percent(40) {
            self.shoot(peer);
            7
        } else if role == Role::Primary {
            6
        } else if worst.iter().all(|d| *d == DiskState::Inconsistent) {
            3
        } else if worst.iter().all(|d| *d > DiskState::Negotiating) {
            return self.ask_to_outdate(call, peer, &worst);
        } else {
            // Nobody knows what the disk has that it will get.
            1
        };
        self.note(|| {
            format!(
                "fence-peer of node {} against node {peer}: {exit}",
                call.node
            )
        });
        self.answer_call(call, exit, 0);
    }

    fn shoot(&mut self, n: usize) {
        self.note(|| format!("node {n} is switched off by a handler"));
        self.crash(n, false);
        let Some(h) = self.policies.as_mut() else {
            return;
        };
        let delay = h.rng.latency(SEC, 15 * SEC);
        self.queue.after(delay, Occurrence::Start(n));
    }

    fn ask_to_outdate(&mut self, call: Call, peer: usize, disks: &[DiskState]) {
        let better = |d: &DiskState| *d > DiskState::Outdated;
        let mut commands = Vec::new();
        for (v, _) in disks.iter().enumerate().filter(|(_, d)| better(d)) {
            let volume = VolumeNr::from_wire(v as u16);
            commands.push(self.command(peer, Command::Outdate { volume }));
        }
        if commands.is_empty() {
            return self.answer_call(call, 4, 0);
        }
        let life = self.nodes[peer].life;
        let asked = Asked {
            call,
            peer,
            life,
            commands,
        };
        if let Some(h) = self.policies.as_mut() {
            h.asked.push(asked);
            self.queue.after(PATIENCE, Occurrence::Unanswered(call));
        }
    }

    /// A command was answered. True if it was one of a handler's.
    pub(super) fn answers_handler(&mut self, n: usize, command: u64, reply: &Reply) -> bool {
        let life = self.nodes[n].life;
        let Some(h) = self.policies.as_mut() else {
            return false;
        };
        let mine = |a: &Asked| (a.peer, a.life) == (n, life) && a.commands.contains(&command);
        let Some(at) = h.asked.iter().position(mine) else {
            return false;
        };
        h.asked[at].commands.retain(|c| *c != command);
        if reply.is_ok() && !h.asked[at].commands.is_empty() {
            return true;
        }
        let asked = h.asked.swap_remove(at);
        let outdated =
            (0..self.config.volumes.len()).all(|v| self.disk_state(n, v) <= DiskState::Outdated);
        let exit = match self.role(n) {
            Role::Primary => 6,
            _ if reply.is_ok() && outdated => 4,
            _ => 1,
        };
        let from = asked.call.node;
        self.note(|| format!("fence-peer of node {from}: node {n} answered {reply:?}: {exit}"));
        self.answer_call(asked.call, exit, 0);
        true
    }

    /// A peer that was asked to outdate itself has had its time.
    pub(super) fn unanswered(&mut self, call: Call) {
        let Some(h) = self.policies.as_mut() else {
            return;
        };
        let Some(at) = h.asked.iter().position(|a| a.call == call) else {
            return;
        };
        let asked = h.asked.swap_remove(at);
        let exit = if self.nodes[asked.peer].up() { 1 } else { 5 };
        self.answer_call(call, exit, 0);
    }

    /// F1: with `resource-and-stonith`, and handlers that tell the truth, no two Primaries that do not see each other both
    /// complete writes.
    pub(super) fn check_alone(&mut self, n: usize) {
        if self.policies.as_ref().is_none_or(|h| !h.stonith) {
            return;
        }
        for m in (0..self.config.nodes).filter(|m| *m != n) {
            let sees = |a, b| self.connection(a, b) == ConnState::Connected;
            let apart = self.role(m) == Role::Primary && !(sees(n, m) && sees(m, n));
            let Some(h) = self.policies.as_mut() else {
                return;
            };
            if !apart {
                h.alone.remove(&(n, m));
                h.alone.remove(&(m, n));
                continue;
            }
            h.alone.insert((n, m));
            if h.alone.contains(&(m, n)) {
                let what = format!(
                    "a write completed here and one on node {m}, both are Primary and do not see each other"
                );
                return self.fail(n, "F1", what);
            }
        }
    }
}
