//! The TCP transport (wire protocol, sections 3, 5 and 21).
//!
//! [`Tcp`] holds everything of one resource that has to do with TCP: listeners, attempts to connect, and the streams of
//! established connections. It runs on the reactor's ring and is driven like the engine: operations that ended go in
//! ([`Tcp::complete`]), time goes in ([`Tcp::handle_timeouts`]), events come out one at a time
//! ([`Tcp::next_event`]), because what the engine does with one packet may change how the next is to be decoded.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use drbd_engine::{ConnectOptions, Event, Instant, LostReason, OpId, Path};
use drbd_proto::{Ctx, DigestAlg, NodeId, Packet, Stream, VolumeNr, first_packet};

use super::connect::{Connector, Timing};
use crate::mailbox::Wake;
use crate::names::Names;
use crate::netns::{self, Netns};
use crate::pool::{Buf, Pool};
use crate::ring::{Fd, Op, OpKey, Part};

mod low_water;
mod memory;
mod opening;
mod receiver;
mod sender;
mod socket;
mod streams;
#[cfg(test)]
mod tests;

use socket::TcpSocket;
use streams::Streams;

/// How long a closing connection may take to deliver what is queued.
const LINGER: Duration = Duration::from_secs(1);

/// Pause between attempts to listen.
const LISTEN_AGAIN: Duration = Duration::from_millis(200);

/// Names an operation of the transport.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Token {
    /// Listener, attempt, accepted socket or connection; never used twice.
    id: u64,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// A listener has something to accept.
    Accept,
    /// An attempt to connect has ended.
    Dial,
    /// The first packet of an accepted socket.
    First,
    Receive(Stream),
    Send(Stream),
}

/// Where operations go.
pub trait Submit {
    /// Starts an operation.
    fn push(&mut self, token: Token, op: Op) -> OpKey;
    /// Asks to end an operation early.
    fn cancel(&mut self, key: OpKey);
}

/// What the transport works with.
pub struct Context<'a> {
    /// The ring.
    pub ring: &'a mut dyn Submit,
    /// Now.
    pub now: Instant,
    /// Where payload goes.
    pub pool: &'a Pool,
    /// Woken when a buffer is released after the pool was exhausted.
    pub wake: &'a Arc<dyn Wake>,
    /// For log lines.
    pub names: &'a Names,
}

/// A peer to which streams exist or are to exist.
struct Link {
    paths: Vec<Path>,
    options: ConnectOptions,
    netns: Option<Arc<Netns>>,
    state: LinkState,
}

/// Where somebody listens. The same address may be used in several network namespaces.
type Place = (Option<netns::Id>, SocketAddr);

#[allow(clippy::large_enum_variant)] // There are few of them.
enum LinkState {
    Connecting {
        connector: Connector<TcpSocket>,
        attempt: Option<Attempt>,
        told: bool,
    },
    Established(u64),
}

/// An outgoing attempt under way.
struct Attempt {
    id: u64,
    fd: Fd,
    key: OpKey,
}

struct Listener {
    id: u64,
    fd: Fd,
    key: OpKey,
}

/// An accepted socket whose first packet is awaited.
struct Arrival {
    id: u64,
    peer: NodeId,
    path: usize,
    socket: TcpSocket,
    key: OpKey,
    deadline: Instant,
}

/// All TCP of one resource.
pub struct Tcp {
    links: BTreeMap<NodeId, Link>,
    /// Network namespaces of connections, if it is not the daemon's own.
    networks: BTreeMap<NodeId, Arc<Netns>>,
    listeners: BTreeMap<Place, Listener>,
    arrivals: Vec<Arrival>,
    /// Established connections and those that are being closed.
    streams: BTreeMap<u64, Streams>,
    events: VecDeque<Event>,
    next_id: u64,
    /// The streams whose turn it was last.
    served: u64,
    random: u64,
    /// Emptied vectors of parts, for reuse.
    spare: Vec<Vec<Part>>,
    /// When the next attempt to listen is due, after one has failed, and what was said about it.
    listen_again: Option<Instant>,
    listen_failed: BTreeSet<Place>,
}

impl Tcp {
    /// Nothing yet. The seed must differ between nodes.
    pub fn new(seed: u64) -> Tcp {
        Tcp {
            links: BTreeMap::new(),
            networks: BTreeMap::new(),
            listeners: BTreeMap::new(),
            arrivals: Vec::new(),
            streams: BTreeMap::new(),
            events: VecDeque::new(),
            next_id: 1,
            served: 0,
            random: seed | 1,
            spare: Vec::new(),
            listen_again: None,
            listen_failed: BTreeSet::new(),
        }
    }

    /// Where the sockets to a peer are made from now on; `None`: in the daemon's own network namespace.
    pub fn set_network(&mut self, peer: NodeId, netns: Option<Arc<Netns>>) {
        match netns {
            Some(netns) => self.networks.insert(peer, netns),
            None => self.networks.remove(&peer),
        };
    }

    /// Connects to a peer, and accepts from it, until that has worked.
    pub fn connect(
        &mut self,
        cx: &mut Context<'_>,
        peer: NodeId,
        paths: Vec<Path>,
        options: ConnectOptions,
    ) {
        self.forget(cx, peer);
        let opens_with = paths
            .iter()
            .map(|p| first_packet::first_to_open(&p.local, &p.remote))
            .collect::<Vec<_>>();
        if opens_with.is_empty() {
            tracing::error!("{}: there is no path", cx.names.peer(peer));
            return;
        }
        let check = if options.sock_check.is_zero() {
            options.ping_timeout
        } else {
            options.sock_check
        };
        let timing = Timing {
            connect_int: options.connect_int,
            sock_check: check,
        };
        let seed = self.random();
        let connector = Connector::new(opens_with, timing, seed, cx.now + options.delay);
        let state = LinkState::Connecting {
            connector,
            attempt: None,
            told: false,
        };
        self.links.insert(
            peer,
            Link {
                paths,
                options,
                netns: self.networks.get(&peer).cloned(),
                state,
            },
        );
        self.update_listeners(cx);
    }

    /// Sends what is queued and closes the streams to a peer, or stops connecting. No event about this
    /// peer follows.
    pub fn close(&mut self, cx: &mut Context<'_>, peer: NodeId) {
        self.forget(cx, peer);
        self.update_listeners(cx);
    }

    /// As `close`, but the listeners stay.
    fn forget(&mut self, cx: &mut Context<'_>, peer: NodeId) {
        let Some(link) = self.links.remove(&peer) else {
            return;
        };
        self.arrivals.retain(|arrival| {
            if arrival.peer == peer {
                cx.ring.cancel(arrival.key);
            }
            arrival.peer != peer
        });
        self.events.retain(|event| !about(event, peer));
        match link.state {
            LinkState::Connecting { attempt, .. } => {
                if let Some(attempt) = attempt {
                    cx.ring.cancel(attempt.key);
                }
            }
            LinkState::Established(id) => {
                if let Some(streams) = self.streams.get_mut(&id) {
                    streams.close(cx, cx.now + LINGER, &mut self.spare);
                    if streams.is_finished() {
                        self.drop_streams(cx, id);
                    }
                }
            }
        }
    }

    /// Changes how packets look from the next byte on.
    pub fn framing(&mut self, peer: NodeId, context: Ctx, integrity: Option<DigestAlg>) {
        if let Some(streams) = self.established(peer) {
            streams.context = context;
            streams.integrity = integrity;
        }
    }

    /// Queues a packet. Without streams to the peer it is dropped.
    #[allow(clippy::too_many_arguments)] // The fields of the effect.
    pub fn send(
        &mut self,
        cx: &mut Context<'_>,
        peer: NodeId,
        stream: Stream,
        volume: VolumeNr,
        packet: Packet,
        payload: Option<Buf>,
        notify: Option<OpId>,
    ) {
        let Some(LinkState::Established(id)) = self.links.get(&peer).map(|l| &l.state) else {
            return;
        };
        let id = *id;
        let Some(streams) = self.streams.get_mut(&id) else {
            return;
        };
        if let Err(e) = streams.send(stream, volume, packet, payload, notify) {
            tracing::error!("{}: {e}", cx.names.peer(peer));
            self.lose(cx, id, LostReason::Protocol);
        }
    }

    /// Starts what has to be started: sends for everything queued, receives where nothing is under way or left. To be called
    /// once per wake-up.
    pub fn flush(&mut self, cx: &mut Context<'_>) {
        for streams in self.streams.values_mut() {
            streams.flush(cx, &mut self.spare);
        }
    }

    /// The earliest time at which [`handle_timeouts`](Self::handle_timeouts) has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        let connecting = self.links.values().filter_map(|link| match &link.state {
            LinkState::Connecting { connector, .. } => connector.deadline(),
            LinkState::Established(_) => None,
        });
        let arrivals = self.arrivals.iter().map(|a| a.deadline);
        let streams = self.streams.values().filter_map(Streams::deadline);
        connecting
            .chain(arrivals)
            .chain(streams)
            .chain(self.listen_again)
            .min()
    }

    /// Does what is due.
    pub fn handle_timeouts(&mut self, cx: &mut Context<'_>) {
        if self.deadline().is_none_or(|deadline| cx.now < deadline) {
            return;
        }
        if self.listen_again.is_some_and(|at| at <= cx.now) {
            self.update_listeners(cx);
            if self.listen_again.is_some_and(|at| at <= cx.now) {
                self.listen_again = None;
            }
        }
        while let Some(n) = self.arrivals.iter().position(|a| a.deadline <= cx.now) {
            let arrival = self.arrivals.swap_remove(n);
            cx.ring.cancel(arrival.key);
            self.arrived(cx, arrival.peer, arrival.path, None);
        }
        let peers: Vec<NodeId> = self.links.keys().copied().collect();
        for peer in peers {
            if let Some(LinkState::Connecting { connector, .. }) =
                self.links.get_mut(&peer).map(|l| &mut l.state)
            {
                connector.handle_timeout(cx.now);
                self.act(cx, peer);
            }
        }
        let due: Vec<u64> = self
            .streams
            .iter()
            .filter(|(_, s)| s.deadline().is_some_and(|at| at <= cx.now))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            match self.streams.get(&id).map(|s| s.timed_out(cx.now)) {
                Some(Some(reason)) => {
                    if reason == LostReason::SendTimeout {
                        self.log_lost(cx, id, "sending makes no progress");
                    }
                    self.lose(cx, id, reason);
                }
                _ => self.drop_streams(cx, id),
            }
        }
    }

    /// An operation has ended.
    pub fn complete(
        &mut self,
        cx: &mut Context<'_>,
        token: Token,
        result: io::Result<u32>,
        op: Op,
    ) {
        match token.kind {
            Kind::Accept => self.accept(cx, token.id),
            Kind::Dial => self.dialed(cx, token.id, result),
            Kind::First => self.first(cx, token.id, result, op),
            Kind::Receive(stream) => {
                let Some(streams) = self.streams.get_mut(&token.id) else {
                    return;
                };
                if let Err(error) = streams.received(cx.now, stream, result, op, &mut self.spare) {
                    self.log_lost(cx, token.id, &format!("{stream} stream: {error}"));
                    self.lose(cx, token.id, LostReason::Network);
                }
            }
            Kind::Send(stream) => {
                let Some(streams) = self.streams.get_mut(&token.id) else {
                    return;
                };
                match streams.sent(cx.now, stream, result, op, &mut self.spare) {
                    Ok(()) if streams.is_closing() => {
                        streams.flush(cx, &mut self.spare);
                        if streams.is_finished() {
                            self.drop_streams(cx, token.id);
                        }
                    }
                    Ok(()) => {}
                    Err(error) => {
                        self.log_lost(cx, token.id, &format!("{stream} stream: {error}"));
                        self.lose(cx, token.id, LostReason::Network);
                    }
                }
            }
        }
    }

    /// The next thing the engine has to hear. The engine's effects must be carried out before the next call.
    pub fn next_event(&mut self, cx: &mut Context<'_>) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            let (id, found) = self.next_found(cx)?;
            match found {
                streams::Found::Event(event) => return Some(event),
                streams::Found::Finished => self.drop_streams(cx, id),
                streams::Found::Lost(reason, text) => {
                    if let Some(text) = text {
                        self.log_lost(cx, id, &text);
                    }
                    self.lose(cx, id, reason);
                }
            }
        }
    }

    /// Peers take turns: one with much to say must not keep the others waiting.
    fn next_found(&mut self, cx: &mut Context<'_>) -> Option<(u64, streams::Found)> {
        let (served, streams) = (self.served, &mut self.streams);
        let mut next = |(id, s): (&u64, &mut Streams)| Some((*id, s.next(cx)?));
        let found = streams
            .range_mut(served + 1..)
            .find_map(&mut next)
            .or_else(|| streams.range_mut(..=served).find_map(&mut next))?;
        self.served = found.0;
        Some(found)
    }

    /// Whether [`flush`](Self::flush) would start sending something.
    pub fn has_to_send(&self) -> bool {
        self.streams.values().any(Streams::has_to_send)
    }

    /// Closes everything; for the end of the resource.
    pub fn close_all(&mut self, cx: &mut Context<'_>) {
        let peers: Vec<NodeId> = self.links.keys().copied().collect();
        for peer in peers {
            self.close(cx, peer);
        }
    }

    /// Whether what is to be sent to a peer waits for room in the socket of the data stream, of which more than 80% is
    /// taken.
    pub fn is_congested(&self, peer: NodeId) -> bool {
        match self.links.get(&peer).map(|link| &link.state) {
            Some(LinkState::Established(id)) => {
                self.streams.get(id).is_some_and(Streams::is_congested)
            }
            _ => false,
        }
    }

    /// Whether connections are still being closed.
    pub fn is_closing(&self) -> bool {
        !self.streams.is_empty()
    }

    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn established(&mut self, peer: NodeId) -> Option<&mut Streams> {
        match self.links.get(&peer)?.state {
            LinkState::Established(id) => self.streams.get_mut(&id),
            LinkState::Connecting { .. } => None,
        }
    }

    fn log_lost(&self, cx: &Context<'_>, id: u64, text: &str) {
        if let Some(streams) = self.streams.get(&id).filter(|s| !s.is_closing()) {
            let head = cx.names.peer(streams.peer);
            tracing::warn!("{head}: connection lost: {text}");
        }
    }

    /// Ends a connection that broke, and tells the engine.
    fn lose(&mut self, cx: &mut Context<'_>, id: u64, reason: LostReason) {
        let Some(streams) = self.streams.get(&id) else {
            return;
        };
        let (peer, closing) = (streams.peer, streams.is_closing());
        self.drop_streams(cx, id);
        if !closing {
            self.links.remove(&peer);
            self.events.push_back(Event::Lost { peer, reason });
        }
    }

    fn drop_streams(&mut self, cx: &mut Context<'_>, id: u64) {
        if let Some(streams) = self.streams.remove(&id) {
            streams.cancel(cx);
        }
    }
}

fn about(event: &Event, whom: NodeId) -> bool {
    match event {
        Event::Established { peer, .. } | Event::Lost { peer, .. } | Event::Packet { peer, .. } => {
            *peer == whom
        }
        _ => false,
    }
}
