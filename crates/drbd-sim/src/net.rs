//! The network: links between nodes, sessions of two streams each way, and everything that can go wrong.
//!
//! Packets travel as the bytes that drbd-proto makes of them, cut into pieces at random places; only bulk
//! payload travels as a token that stands for its bytes. A session ends with a `Fin` in the streams: some
//! prefix of what was under way is delivered before it, on each stream on its own.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use crate::buffer::Payload;
use crate::clock::{MS, Time, US};
use crate::rng::Rng;

/// Which of the two streams, as an index: 0 data, 1 control.
pub type StreamIndex = usize;

/// Why a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinReason {
    /// The other side closed it.
    Closed,
    /// The network or the other side is gone.
    Network,
}

/// A piece of a stream.
#[derive(Clone, Debug)]
pub enum Chunk {
    /// Bytes.
    Bytes(Vec<u8>),
    /// Some of the bytes of a bulk payload.
    Part {
        /// The payload.
        payload: Rc<Payload>,
        /// How many bytes.
        bytes: u32,
        /// These are its last bytes.
        last: bool,
    },
    /// Nothing more comes.
    Fin(FinReason),
}

/// One direction of one stream.
#[derive(Debug, Default)]
struct Pipe {
    under_way: VecDeque<Chunk>,
    /// Arrivals that were due while the direction was stalled.
    parked: u64,
    last_at: Time,
}

/// Two nodes talking.
#[derive(Debug)]
pub struct Session {
    /// The two nodes, smaller first. A node is named by its index here, its *side*.
    pub nodes: [usize; 2],
    /// Whether each side still takes part.
    pub alive: [bool; 2],
    /// Pipes by sending side and stream.
    pipes: [[Pipe; 2]; 2],
}

impl Session {
    /// The side a node is on.
    pub fn side(&self, node: usize) -> usize {
        usize::from(self.nodes[1] == node)
    }
}

/// What one end of a link wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndState {
    /// Nothing.
    Idle,
    /// To be connected, not before this time.
    Wanting(Time),
    /// It is in this session.
    In(u64),
}

/// The wire between two nodes.
#[derive(Debug)]
struct Link {
    ends: [EndState; 2],
    /// Each direction (by sending side) delivers nothing before this time.
    stalled_until: [Time; 2],
    /// An attempt to establish is already scheduled for this time.
    attempt: Option<Time>,
    /// Nobody gets through until further notice.
    closed: bool,
}

/// Something the network wants to happen later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetEvent {
    /// Both ends may be connected now.
    Attempt {
        /// Smaller node.
        a: usize,
        /// Greater node.
        b: usize,
    },
    /// The next chunk of a pipe arrives.
    Arrive {
        /// The session.
        session: u64,
        /// The sending side.
        from: usize,
        /// The stream.
        stream: StreamIndex,
    },
    /// A direction may deliver again.
    Unstall {
        /// Sending node.
        from: usize,
        /// Receiving node.
        to: usize,
    },
}

/// How fast and how steady the network is.
#[derive(Clone, Copy, Debug)]
pub struct NetSpeed {
    /// Least one-way latency.
    pub least: Time,
    /// Greatest one-way latency.
    pub most: Time,
    /// Percentage of sends that are cut into pieces.
    pub split_percent: u64,
}

impl Default for NetSpeed {
    fn default() -> Self {
        NetSpeed {
            least: 30 * US,
            most: 300 * US,
            split_percent: 10,
        }
    }
}

/// Events that are to be queued, with their delay.
pub type Later = Vec<(Time, NetEvent)>;

/// The whole network.
pub struct Network {
    rng: Rng,
    /// Latencies.
    pub speed: NetSpeed,
    links: BTreeMap<(usize, usize), Link>,
    sessions: BTreeMap<u64, Session>,
    next_session: u64,
    /// Chunks delivered.
    pub delivered: u64,
}

impl Network {
    /// A fully meshed network of some nodes.
    pub fn new(nodes: usize, speed: NetSpeed, rng: Rng) -> Network {
        let mut links = BTreeMap::new();
        for b in 0..nodes {
            for a in 0..b {
                let link = Link {
                    ends: [EndState::Idle; 2],
                    stalled_until: [0; 2],
                    attempt: None,
                    closed: false,
                };
                links.insert((a, b), link);
            }
        }
        Network {
            rng,
            speed,
            links,
            sessions: BTreeMap::new(),
            next_session: 1,
            delivered: 0,
        }
    }

    fn key(a: usize, b: usize) -> (usize, usize) {
        (a.min(b), a.max(b))
    }

    fn link(&mut self, a: usize, b: usize) -> &mut Link {
        // All pairs exist from the beginning.
        self.links.entry(Self::key(a, b)).or_insert(Link {
            ends: [EndState::Idle; 2],
            stalled_until: [0; 2],
            attempt: None,
            closed: false,
        })
    }

    /// What this node's end of the link to a peer is in.
    pub fn end(&self, node: usize, peer: usize) -> EndState {
        let side = usize::from(node > peer);
        self.links
            .get(&Self::key(node, peer))
            .map_or(EndState::Idle, |l| l.ends[side])
    }

    /// The session this node is in with a peer.
    pub fn session_of(&self, node: usize, peer: usize) -> Option<u64> {
        match self.end(node, peer) {
            EndState::In(id) => Some(id),
            _ => None,
        }
    }

    /// A session by its number.
    pub fn session(&self, id: u64) -> Option<&Session> {
        self.sessions.get(&id)
    }

    /// A node wants to be connected to a peer.
    pub fn want(&mut self, node: usize, peer: usize, now: Time, delay: Time) -> Later {
        let side = usize::from(node > peer);
        let link = self.link(node, peer);
        if matches!(link.ends[side], EndState::In(_)) {
            return Vec::new();
        }
        link.ends[side] = EndState::Wanting(now + delay);
        self.plan_attempt(node, peer, now)
    }

    fn plan_attempt(&mut self, a: usize, b: usize, now: Time) -> Later {
        let (a, b) = Self::key(a, b);
        // The streams are checked before they count as established, so nothing is faster than that.
        let pause = self.rng.latency(MS, 700 * MS);
        let link = self.link(a, b);
        let (EndState::Wanting(ta), EndState::Wanting(tb)) = (link.ends[0], link.ends[1]) else {
            return Vec::new();
        };
        let at = ta
            .max(tb)
            .max(link.stalled_until[0])
            .max(link.stalled_until[1])
            .max(now)
            + pause;
        if link.closed || link.attempt.is_some_and(|t| t >= now && t <= at) {
            return Vec::new();
        }
        link.attempt = Some(at);
        vec![(at - now, NetEvent::Attempt { a, b })]
    }

    /// Tries to establish a session; `Ok` is its number, and whether the first of the nodes gets to
    /// resolve conflicts.
    pub fn attempt(&mut self, a: usize, b: usize, now: Time) -> Result<(u64, bool), Later> {
        let id = self.next_session;
        let flip = self.rng.percent(50);
        let link = self.link(a, b);
        link.attempt = None;
        let ready = |e: EndState| matches!(e, EndState::Wanting(t) if t <= now);
        let free = !link.closed && link.stalled_until.iter().all(|t| *t <= now);
        if !ready(link.ends[0]) || !ready(link.ends[1]) || !free {
            return Err(self.plan_attempt(a, b, now));
        }
        link.ends = [EndState::In(id); 2];
        self.next_session += 1;
        self.sessions.insert(
            id,
            Session {
                nodes: [a, b],
                alive: [true; 2],
                pipes: Default::default(),
            },
        );
        Ok((id, flip))
    }

    fn schedule(
        &mut self,
        session: u64,
        from: usize,
        stream: StreamIndex,
        chunk: Chunk,
        now: Time,
        extra: Time,
    ) -> Option<(Time, NetEvent)> {
        let delay = self.rng.latency(self.speed.least, self.speed.most) + extra;
        let pipe = &mut self.sessions.get_mut(&session)?.pipes[from][stream];
        let at = (now + delay).max(pipe.last_at);
        pipe.last_at = at;
        pipe.under_way.push_back(chunk);
        Some((
            at - now,
            NetEvent::Arrive {
                session,
                from,
                stream,
            },
        ))
    }

    /// A node sends a packet: its bytes, and the payload behind them. It takes `extra` longer than usual.
    pub fn send(
        &mut self,
        node: usize,
        peer: usize,
        stream: StreamIndex,
        (bytes, payload): (Vec<u8>, Option<(Rc<Payload>, u32)>),
        now: Time,
        extra: Time,
    ) -> Later {
        let mut later = Vec::new();
        let Some(id) = self.session_of(node, peer) else {
            return later;
        };
        let from = usize::from(node > peer);
        let split = self.rng.percent(self.speed.split_percent);
        if split && bytes.len() > 1 {
            let at = self.rng.range(1, bytes.len() as u64 - 1) as usize;
            let (head, tail) = bytes.split_at(at);
            later.extend(self.schedule(id, from, stream, Chunk::Bytes(head.to_vec()), now, extra));
            later.extend(self.schedule(id, from, stream, Chunk::Bytes(tail.to_vec()), now, extra));
        } else {
            later.extend(self.schedule(id, from, stream, Chunk::Bytes(bytes), now, extra));
        }
        if let Some((payload, len)) = payload {
            let mut left = len;
            // One nanosecond per byte: eight gigabit per second.
            if split && left > 1 {
                let bytes = self.rng.range(1, u64::from(left) - 1) as u32;
                left -= bytes;
                let part = Chunk::Part {
                    payload: payload.clone(),
                    bytes,
                    last: false,
                };
                later.extend(self.schedule(id, from, stream, part, now, bytes.into()));
            }
            let part = Chunk::Part {
                payload,
                bytes: left,
                last: true,
            };
            later.extend(self.schedule(id, from, stream, part, now, left.into()));
        }
        later
    }

    /// The time until everything this node has queued on a stream has arrived; what a transport with a
    /// small send buffer would need to take it all.
    pub fn backlog(&self, node: usize, peer: usize, stream: StreamIndex, now: Time) -> Time {
        let from = usize::from(node > peer);
        let Some(session) = self
            .session_of(node, peer)
            .and_then(|id| self.sessions.get(&id))
        else {
            return 0;
        };
        session.pipes[from][stream].last_at.saturating_sub(now)
    }

    /// The next chunk of a pipe, if its receiver is still there to take it.
    pub fn arrive(
        &mut self,
        session: u64,
        from: usize,
        stream: StreamIndex,
        now: Time,
    ) -> Option<(usize, usize, Chunk)> {
        let s = self.sessions.get_mut(&session)?;
        let (sender, receiver) = (s.nodes[from], s.nodes[1 - from]);
        let link = self.links.get_mut(&Self::key(sender, receiver))?;
        let pipe = &mut s.pipes[from][stream];
        if now < link.stalled_until[from] {
            pipe.parked += 1;
            return None;
        }
        let chunk = pipe.under_way.pop_front()?;
        self.delivered += 1;
        s.alive[1 - from].then_some((receiver, sender, chunk))
    }

    /// This node takes no further part in its session with a peer; what it had sent may still arrive.
    /// Returns the Fins for the peer.
    pub fn leave(&mut self, node: usize, peer: usize, reason: FinReason, now: Time) -> Later {
        let side = usize::from(node > peer);
        let end = &mut self.link(node, peer).ends[side];
        let state = std::mem::replace(end, EndState::Idle);
        let mut later = Vec::new();
        if let EndState::In(id) = state {
            if let Some(s) = self.sessions.get_mut(&id) {
                s.alive[side] = false;
            }
            for stream in 0..2 {
                later.extend(self.schedule(id, side, stream, Chunk::Fin(reason), now, 0));
            }
            self.bury(id);
        }
        later
    }

    /// This node learned that its session is over; it has nothing to say any more.
    pub fn ended(&mut self, node: usize, peer: usize) {
        let side = usize::from(node > peer);
        let end = &mut self.link(node, peer).ends[side];
        if let EndState::In(id) = std::mem::replace(end, EndState::Idle) {
            if let Some(s) = self.sessions.get_mut(&id) {
                s.alive[side] = false;
            }
            self.bury(id);
        }
    }

    fn bury(&mut self, id: u64) {
        if self
            .sessions
            .get(&id)
            .is_some_and(|s| s.alive == [false; 2])
        {
            self.sessions.remove(&id);
        }
    }

    /// Drops some of the chunks under way from one side, keeping a random prefix, cut at any byte.
    fn lose_suffix(&mut self, id: u64, from: usize) {
        let rng = &mut self.rng;
        let Some(s) = self.sessions.get_mut(&id) else {
            return;
        };
        for pipe in &mut s.pipes[from] {
            let keep = rng.below(pipe.under_way.len() as u64 + 1) as usize;
            pipe.under_way.truncate(keep);
            match pipe.under_way.back_mut() {
                Some(Chunk::Bytes(bytes)) => {
                    bytes.truncate(rng.below(bytes.len() as u64 + 1) as usize)
                }
                Some(Chunk::Part { last, bytes, .. }) if rng.percent(50) => {
                    *last = false;
                    *bytes = rng.below(u64::from(*bytes)) as u32;
                }
                _ => {}
            }
        }
    }

    fn fin_both_streams(
        &mut self,
        id: u64,
        from: usize,
        reason: FinReason,
        now: Time,
        delay: Time,
    ) -> Later {
        let mut later = Vec::new();
        for stream in 0..2 {
            let extra = self.rng.below(delay + 1);
            later.extend(self.schedule(id, from, stream, Chunk::Fin(reason), now, extra));
        }
        later
    }

    /// The connection between two nodes is reset: on each of the four pipes a suffix is lost.
    pub fn cut(&mut self, a: usize, b: usize, now: Time) -> Later {
        let mut later = Vec::new();
        let ids: Vec<u64> = self
            .sessions
            .iter()
            .filter(|(_, s)| s.nodes == [a.min(b), a.max(b)])
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            for from in 0..2 {
                self.lose_suffix(id, from);
                let delay = self.rng.pick(&[0, MS, 300 * MS]);
                later.extend(self.fin_both_streams(id, from, FinReason::Network, now, delay));
            }
        }
        later
    }

    /// A node is gone. With `silent` the peers learn it late: no reset is sent for them.
    pub fn node_gone(&mut self, node: usize, silent: bool, now: Time) -> Later {
        let mut later = Vec::new();
        let peers: Vec<usize> = self
            .links
            .keys()
            .filter(|(a, b)| *a == node || *b == node)
            .map(|(a, b)| a + b - node)
            .collect();
        for peer in peers {
            if let Some(id) = self.session_of(node, peer) {
                let side = usize::from(node > peer);
                if silent || self.rng.percent(50) {
                    self.lose_suffix(id, side);
                }
                let delay = if silent { 20_000 * MS } else { MS };
                later.extend(self.fin_both_streams(id, side, FinReason::Network, now, delay));
            }
            self.ended(node, peer);
        }
        later
    }

    /// One direction delivers nothing for some time.
    pub fn stall(&mut self, from: usize, to: usize, duration: Time, now: Time) -> Later {
        let side = usize::from(from > to);
        let until = &mut self.link(from, to).stalled_until[side];
        *until = (*until).max(now + duration);
        vec![(*until - now, NetEvent::Unstall { from, to })]
    }

    /// From now on no session between two nodes comes about, or it may again.
    pub fn close(&mut self, a: usize, b: usize, closed: bool, now: Time) -> Later {
        self.link(a, b).closed = closed;
        self.plan_attempt(a, b, now)
    }

    /// One direction delivers again.
    pub fn end_stall(&mut self, from: usize, to: usize, now: Time) -> Later {
        let side = usize::from(from > to);
        let until = &mut self.link(from, to).stalled_until[side];
        *until = (*until).min(now);
        vec![(0, NetEvent::Unstall { from, to })]
    }

    /// All stalls are over.
    pub fn heal(&mut self, now: Time) -> Later {
        let mut later = Vec::new();
        for (&(a, b), link) in &mut self.links {
            for (side, from, to) in [(0, a, b), (1, b, a)] {
                if link.stalled_until[side] > now {
                    link.stalled_until[side] = now;
                    later.push((0, NetEvent::Unstall { from, to }));
                }
            }
        }
        later
    }

    /// A stall may be over: what was held back arrives now.
    pub fn unstall(&mut self, from: usize, to: usize, now: Time) -> Later {
        let side = usize::from(from > to);
        if self.link(from, to).stalled_until[side] > now {
            return Vec::new();
        }
        let mut later = Vec::new();
        for (&session, s) in &mut self.sessions {
            if s.nodes != [from.min(to), from.max(to)] {
                continue;
            }
            for (stream, pipe) in s.pipes[side].iter_mut().enumerate() {
                for i in 0..std::mem::take(&mut pipe.parked) {
                    later.push((
                        i * US,
                        NetEvent::Arrive {
                            session,
                            from: side,
                            stream,
                        },
                    ));
                    pipe.last_at = pipe.last_at.max(now + i * US);
                }
            }
        }
        later.extend(self.plan_attempt(from, to, now));
        later
    }

    /// Whether any direction between the two is stalled now.
    pub fn stalled(&self, a: usize, b: usize, now: Time) -> bool {
        self.links
            .get(&Self::key(a, b))
            .is_some_and(|l| l.stalled_until.iter().any(|t| *t > now))
    }
}

#[cfg(test)]
mod tests;
