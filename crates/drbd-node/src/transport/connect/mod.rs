//! The connect loop: how two nodes that call each other at the same time end up with the same two sockets (wire
//! protocol, section 3.3).
//!
//! [`Connector`] takes all the decisions and does no I/O: sockets are of a type of the caller's ([`Socket`]), time is an
//! argument, and what is to be done comes out as [`Action`]s. The random waits come from a seed.
//!
//! One deviation from the order of the steps: a socket that comes in while an outgoing attempt is still unanswered is
//! looked at immediately. A peer that can reach this node, but cannot be reached, need not wait for that attempt to
//! time out.

use std::collections::VecDeque;
use std::time::Duration;

use drbd_engine::Instant;

use super::StreamKind;

#[cfg(test)]
mod tests;

/// What the loop needs of a connected socket.
pub trait Socket {
    /// Sends the first packet that names the stream (wire protocol, section 3.2); `false` if that fails.
    fn send_first(&mut self, stream: StreamKind) -> bool;

    /// Whether the socket is in state ESTABLISHED.
    fn is_alive(&self) -> bool;
}

/// Why an outgoing attempt failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// Refused, reset, unreachable, timed out, host down, interrupted: the next try may work.
    Transient,
    /// The local address does not exist now, or something else that will not pass quickly.
    Lasting,
}

/// Intervals of the loop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// `connect-int`: limit of an attempt, wait for an incoming connection (plus or minus a seventh).
    pub connect_int: Duration,
    /// `sock-check-timeo`, or `ping-timeout`: how long a fresh pair must stay established.
    pub sock_check: Duration,
}

/// What is to be done.
#[derive(Debug)]
pub enum Action<S> {
    /// Try to connect on this path; an earlier attempt still under way is to be dropped.
    Connect(usize),
    /// Drop the attempt under way.
    CancelConnect,
    /// The loop has ended.
    Established(Pair<S>),
}

/// The two sockets of a connection.
#[derive(Debug)]
pub struct Pair<S> {
    /// The data stream.
    pub data: S,
    /// The control stream.
    pub control: S,
    /// Index of the path they use.
    pub path: usize,
    /// This node accepted the control stream (RESOLVE_CONFLICTS).
    pub resolve_conflicts: bool,
}

#[derive(Debug)]
enum Phase {
    /// Nothing until then, then a new start from the first path.
    Pause(Instant),
    /// An attempt on `path` is under way (step 2).
    Connecting(Instant),
    /// Both sockets exist and must stay alive until then (step 4). Afterwards comes a wait, or (7) an attempt.
    Checking { until: Instant, then_wait: bool },
    /// Waiting for an incoming connection (step 5).
    Waiting(Instant),
    /// Over (step 8).
    Ended,
}

/// An accepted socket, after its first packet was read or waited for.
#[derive(Debug)]
struct Incoming<S> {
    path: usize,
    /// `None`: the first packet was missing or wrong; the socket is closed already.
    first: Option<(StreamKind, S)>,
}

/// The connect loop of one connection.
#[derive(Debug)]
pub struct Connector<S> {
    /// For each path: the first packet of an opener without any socket (rule 2 of section 3.2).
    opens_with: Vec<StreamKind>,
    timing: Timing,
    random: u64,
    phase: Phase,
    path: usize,
    first_path: Option<usize>,
    data: Option<S>,
    control: Option<S>,
    resolve_conflicts: bool,
    incoming: VecDeque<Incoming<S>>,
    actions: VecDeque<Action<S>>,
}

impl<S: Socket> Connector<S> {
    /// A loop over paths, of which there is at least one; starts at `start`. `opens_with` has the stream to open first
    /// for each path.
    pub fn new(
        opens_with: Vec<StreamKind>,
        timing: Timing,
        seed: u64,
        start: Instant,
    ) -> Connector<S> {
        Connector {
            opens_with,
            timing,
            random: seed | 1,
            phase: Phase::Pause(start),
            path: 0,
            first_path: None,
            data: None,
            control: None,
            resolve_conflicts: false,
            incoming: VecDeque::new(),
            actions: VecDeque::new(),
        }
    }

    /// The next thing to do.
    pub fn next_action(&mut self) -> Option<Action<S>> {
        self.actions.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) has to be called.
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Pause(until) | Phase::Connecting(until) | Phase::Waiting(until) => Some(until),
            Phase::Checking { until, .. } => Some(until),
            Phase::Ended => None,
        }
    }

    /// An outgoing attempt has ended.
    pub fn handle_connected(&mut self, now: Instant, result: Result<S, Failure>) {
        if !matches!(self.phase, Phase::Connecting(_)) {
            return;
        }
        match result {
            Ok(socket) => self.adopt_outgoing(socket),
            Err(Failure::Transient) => self.advance_path(),
            Err(Failure::Lasting) => {
                self.restart(now);
                return;
            }
        }
        self.check_or(now, true);
    }

    /// A socket was accepted on a path and its first packet read, in vain (`None`, the socket is closed) or not.
    pub fn handle_accepted(&mut self, now: Instant, path: usize, first: Option<(StreamKind, S)>) {
        if matches!(self.phase, Phase::Ended) {
            return;
        }
        self.incoming.push_back(Incoming { path, first });
        match self.phase {
            Phase::Waiting(_) => self.take_incoming(now),
            Phase::Connecting(_) => {
                // Crossing sockets are left to the ordinary order of steps.
                let crossing = match self.incoming.front() {
                    Some(Incoming {
                        first: Some((stream, _)),
                        ..
                    }) => self.slot(*stream).is_some(),
                    _ => true,
                };
                if !crossing {
                    self.take_one();
                    if self.data.is_some() && self.control.is_some() {
                        self.actions.push_back(Action::CancelConnect);
                        self.check_or(now, true);
                    }
                }
            }
            _ => {}
        }
    }

    /// A deadline has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.deadline().is_none_or(|until| now < until) {
            return;
        }
        match self.phase {
            Phase::Pause(_) => self.attempt(now),
            Phase::Connecting(_) => {
                self.actions.push_back(Action::CancelConnect);
                self.advance_path();
                self.check_or(now, true);
            }
            Phase::Checking { then_wait, .. } => {
                self.drop_dead();
                match (self.data.take(), self.control.take()) {
                    (Some(data), Some(control)) => {
                        let path = self.first_path.unwrap_or(self.path);
                        let resolve_conflicts = self.resolve_conflicts;
                        self.phase = Phase::Ended;
                        self.incoming.clear();
                        self.actions.push_back(Action::Established(Pair {
                            data,
                            control,
                            path,
                            resolve_conflicts,
                        }));
                        return;
                    }
                    rest => (self.data, self.control) = rest,
                }
                if then_wait {
                    self.wait(now);
                } else {
                    self.attempt(now);
                }
            }
            Phase::Waiting(_) => self.check_or(now, false),
            Phase::Ended => {}
        }
    }

    fn slot(&mut self, stream: StreamKind) -> &mut Option<S> {
        match stream {
            StreamKind::Data => &mut self.data,
            StreamKind::Control => &mut self.control,
        }
    }

    fn restart(&mut self, now: Instant) {
        self.drop_pair();
        self.first_path = None;
        self.path = 0;
        self.phase = Phase::Pause(now + self.timing.connect_int);
    }

    /// Step 2.
    fn attempt(&mut self, now: Instant) {
        self.phase = Phase::Connecting(now + self.timing.connect_int);
        self.actions.push_back(Action::Connect(self.path));
        if !self.incoming.is_empty() && self.data.is_none() && self.control.is_none() {
            self.take_one();
        }
    }

    /// End of step 2: another path only as long as no socket was obtained.
    fn advance_path(&mut self) {
        if self.data.is_none() && self.control.is_none() {
            self.path = (self.path + 1) % self.opens_with.len().max(1);
        }
    }

    /// Step 3.
    fn adopt_outgoing(&mut self, mut socket: S) {
        self.use_path(self.path);
        let stream = match (&self.data, &self.control) {
            (None, Some(_)) => StreamKind::Data,
            (Some(_), None) => StreamKind::Control,
            _ => self
                .opens_with
                .get(self.path)
                .copied()
                .unwrap_or(StreamKind::Data),
        };
        if stream == StreamKind::Control {
            self.resolve_conflicts = false;
        }
        if socket.send_first(stream) {
            *self.slot(stream) = Some(socket);
        }
    }

    /// Sockets of another path than the first one are dropped.
    fn use_path(&mut self, path: usize) {
        if self.first_path.is_some_and(|first| first != path) {
            self.drop_pair();
        }
        self.first_path = Some(path);
        self.path = path;
    }

    fn drop_pair(&mut self) {
        self.data = None;
        self.control = None;
    }

    fn drop_dead(&mut self) {
        for socket in [&mut self.data, &mut self.control] {
            if socket.as_ref().is_some_and(|s| !s.is_alive()) {
                *socket = None;
            }
        }
    }

    /// Step 4 (`then_wait`) and the check of step 7.
    fn check_or(&mut self, now: Instant, then_wait: bool) {
        if self.data.is_some() && self.control.is_some() {
            self.phase = Phase::Checking {
                until: now + self.timing.sock_check,
                then_wait,
            };
        } else if then_wait {
            self.wait(now);
        } else {
            self.attempt(now);
        }
    }

    /// Step 5: connect-int, plus or minus a seventh.
    fn wait(&mut self, now: Instant) {
        let seventh = self.timing.connect_int / 7;
        let limit = match self.coin() {
            true => self.timing.connect_int + seventh,
            false => self.timing.connect_int - seventh,
        };
        self.phase = Phase::Waiting(now + limit);
        self.take_incoming(now);
    }

    /// Step 6 for everything that has come in; ends in step 5 or 7.
    fn take_incoming(&mut self, now: Instant) {
        while !self.incoming.is_empty() {
            if !self.take_one() {
                self.check_or(now, false);
                return;
            }
        }
    }

    /// Step 6 for one socket; `true`: back to step 5.
    fn take_one(&mut self) -> bool {
        let Some(incoming) = self.incoming.pop_front() else {
            return true;
        };
        let Some((stream, socket)) = incoming.first else {
            return self.coin();
        };
        self.use_path(incoming.path);
        self.drop_dead();
        if stream == StreamKind::Control {
            self.resolve_conflicts = true;
        }
        let crossed = self.slot(stream).replace(socket).is_some();
        crossed && self.coin()
    }

    /// An even chance.
    fn coin(&mut self) -> bool {
        // xorshift64: only needs to differ between two nodes.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random & (1 << 33) != 0
    }
}
