//! How the two streams of a connection come about: listeners, attempts, accepted sockets, and which pair of crossed
//! attempts stays (wire protocol, section 3).

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use drbd_engine::{ConnectOptions, Event};
use drbd_proto::{NodeId, Stream, first_packet};

use super::socket::{self, TcpSocket};
use super::streams::Streams;
use super::{
    Arrival, Attempt, Context, Kind, LISTEN_AGAIN, Link, LinkState, Listener, Place, Tcp, Token,
};
use crate::names::Names;
use crate::netns::Netns;
use crate::ring::{Fd, Memory, Op, Part};
use crate::transport::connect::{Action, Failure, Pair};

impl Link {
    fn place(&self, local: &SocketAddr) -> Place {
        (self.netns.as_ref().map(|netns| netns.id()), *local)
    }
}

impl Tcp {
    /// Opens the listeners that are wanted, and closes the others.
    pub(super) fn update_listeners(&mut self, cx: &mut Context<'_>) {
        let wanted: BTreeMap<Place, (ConnectOptions, Option<Arc<Netns>>)> = self
            .links
            .values()
            .filter(|link| matches!(link.state, LinkState::Connecting { .. }))
            .flat_map(|link| {
                let places = link.paths.iter().map(|path| link.place(&path.local));
                places.map(|place| (place, (link.options, link.netns.clone())))
            })
            .collect();
        self.listeners.retain(|place, listener| {
            let keep = wanted.contains_key(place);
            if !keep {
                cx.ring.cancel(listener.key);
            }
            keep
        });
        for (place, (options, netns)) in wanted {
            if self.listeners.contains_key(&place) {
                continue;
            }
            let id = self.new_id();
            let (_, local) = &place;
            match socket::listen(netns.as_deref(), local, &options) {
                Ok(fd) => {
                    let fd: Fd = Arc::new(fd);
                    let key = cx.ring.push(
                        Token {
                            id,
                            kind: Kind::Accept,
                        },
                        poll(&fd, libc::POLLIN),
                    );
                    self.listen_failed.remove(&place);
                    self.listeners.insert(place, Listener { id, fd, key });
                }
                Err(e) => {
                    // A listener of ours for the same address may be on its way out.
                    let serious =
                        e.kind() != io::ErrorKind::AddrInUse || self.listen_again.is_some();
                    if serious && self.listen_failed.insert(place) {
                        let head = cx.names.head(None, None);
                        tracing::error!("{head}: cannot listen on {local}: {e}");
                    }
                    self.listen_again = Some(cx.now + LISTEN_AGAIN);
                }
            }
        }
    }

    pub(super) fn accept(&mut self, cx: &mut Context<'_>, id: u64) {
        let Some((place, fd)) = self
            .listeners
            .iter()
            .find(|(_, l)| l.id == id)
            .map(|(place, l)| (*place, l.fd.clone()))
        else {
            return;
        };
        while let Some((socket, remote)) = socket::accept(&fd) {
            let found = self.links.iter().find_map(|(peer, link)| {
                let LinkState::Connecting { .. } = link.state else {
                    return None;
                };
                let path = link
                    .paths
                    .iter()
                    .position(|p| link.place(&p.local) == place && same_host(&p.remote, &remote))?;
                Some((*peer, path, link.options.ping_timeout))
            });
            let Some((peer, path, ping_timeout)) = found else {
                let head = cx.names.head(None, None);
                tracing::debug!("{head}: closed a connection from {remote}: no such peer");
                continue;
            };
            let id = self.new_id();
            let part = Part::all(Memory::Bytes(vec![0; first_packet::LEN]));
            let receive = Op::Receive {
                fd: socket.fd.clone(),
                parts: vec![part],
            };
            let key = cx.ring.push(
                Token {
                    id,
                    kind: Kind::First,
                },
                receive,
            );
            let deadline = cx.now + ping_timeout * 4;
            self.arrivals.push(Arrival {
                id,
                peer,
                path,
                socket,
                key,
                deadline,
            });
        }
        if let Some(listener) = self.listeners.get_mut(&place) {
            listener.key = cx.ring.push(
                Token {
                    id,
                    kind: Kind::Accept,
                },
                poll(&fd, libc::POLLIN),
            );
        }
    }

    pub(super) fn first(&mut self, cx: &mut Context<'_>, id: u64, result: io::Result<u32>, op: Op) {
        let Some(n) = self.arrivals.iter().position(|a| a.id == id) else {
            return;
        };
        let Op::Receive { fd, mut parts } = op else {
            return;
        };
        if let (Ok(count), [part]) = (&result, parts.as_mut_slice())
            && *count > 0
            && (*count as usize) < part.len
        {
            part.at += *count as usize;
            part.len -= *count as usize;
            if let Some(arrival) = self.arrivals.get_mut(n) {
                arrival.key = cx.ring.push(
                    Token {
                        id,
                        kind: Kind::First,
                    },
                    Op::Receive { fd, parts },
                );
            }
            return;
        }
        let arrival = self.arrivals.swap_remove(n);
        let bytes = match (&result, parts.first().map(|p| &p.memory)) {
            (Ok(count), Some(Memory::Bytes(bytes))) if *count > 0 => bytes.first_chunk().copied(),
            _ => None,
        };
        let stream = bytes.and_then(|bytes| match first_packet::decode(&bytes) {
            Ok(stream) => Some(stream),
            Err(e) => {
                tracing::warn!("{}: first packet: {e}", cx.names.peer(arrival.peer));
                None
            }
        });
        self.arrived(
            cx,
            arrival.peer,
            arrival.path,
            stream.map(|stream| (stream, arrival.socket)),
        );
    }

    pub(super) fn arrived(
        &mut self,
        cx: &mut Context<'_>,
        peer: NodeId,
        path: usize,
        first: Option<(Stream, TcpSocket)>,
    ) {
        if let Some(LinkState::Connecting { connector, .. }) =
            self.links.get_mut(&peer).map(|l| &mut l.state)
        {
            connector.handle_accepted(cx.now, path, first);
            self.act(cx, peer);
        }
    }

    pub(super) fn dialed(&mut self, cx: &mut Context<'_>, id: u64, result: io::Result<u32>) {
        let found = self
            .links
            .iter_mut()
            .find_map(|(peer, link)| match &mut link.state {
                LinkState::Connecting {
                    connector,
                    attempt,
                    told,
                } => attempt
                    .take_if(|a| a.id == id)
                    .map(|a| (*peer, a.fd, connector, told)),
                LinkState::Established(_) => None,
            });
        let Some((peer, fd, connector, told)) = found else {
            return;
        };
        let result = result.and_then(|_| socket::connected(fd));
        let result = result.map_err(|e| log_failure(cx.names, peer, &e, told));
        connector.handle_connected(cx.now, result);
        self.act(cx, peer);
    }

    /// Does what the connect loop wants.
    pub(super) fn act(&mut self, cx: &mut Context<'_>, peer: NodeId) {
        loop {
            let id = self.new_id();
            let Some(link) = self.links.get_mut(&peer) else {
                return;
            };
            let LinkState::Connecting {
                connector,
                attempt,
                told,
            } = &mut link.state
            else {
                return;
            };
            match connector.next_action() {
                None => return,
                Some(Action::CancelConnect) => {
                    if let Some(attempt) = attempt.take() {
                        cx.ring.cancel(attempt.key);
                    }
                }
                Some(Action::Connect(path)) => {
                    if let Some(attempt) = attempt.take() {
                        cx.ring.cancel(attempt.key);
                    }
                    let Some(path) = link.paths.get(path) else {
                        continue;
                    };
                    match socket::dial(
                        link.netns.as_deref(),
                        &path.local,
                        &path.remote,
                        &link.options,
                    ) {
                        Ok(fd) => {
                            let key = cx.ring.push(
                                Token {
                                    id,
                                    kind: Kind::Dial,
                                },
                                poll(&fd, libc::POLLOUT),
                            );
                            *attempt = Some(Attempt { id, fd, key });
                        }
                        Err(e) => {
                            let failure = log_failure(cx.names, peer, &e, told);
                            connector.handle_connected(cx.now, Err(failure));
                        }
                    }
                }
                Some(Action::Established(pair)) => {
                    self.establish(cx, peer, pair);
                    return;
                }
            }
        }
    }

    pub(super) fn establish(&mut self, cx: &mut Context<'_>, peer: NodeId, pair: Pair<TcpSocket>) {
        let id = self.new_id();
        let Some(link) = self.links.get_mut(&peer) else {
            return;
        };
        link.state = LinkState::Established(id);
        socket::tune(&pair.data, Stream::Data);
        socket::tune(&pair.control, Stream::Control);
        self.streams.insert(
            id,
            Streams::new(id, peer, &link.options, pair.data.fd, pair.control.fd),
        );
        self.arrivals.retain(|arrival| {
            if arrival.peer == peer {
                cx.ring.cancel(arrival.key);
            }
            arrival.peer != peer
        });
        let mut challenge = Box::new([0; 64]);
        if let Err(e) =
            rustix::rand::getrandom(&mut challenge[..], rustix::rand::GetRandomFlags::empty())
        {
            tracing::error!("{}: no random numbers: {e}", cx.names.peer(peer));
        }
        let (path, resolve_conflicts) = (pair.path, pair.resolve_conflicts);
        self.events.push_back(Event::Established {
            peer,
            path,
            resolve_conflicts,
            challenge,
        });
        self.update_listeners(cx);
    }
}

fn poll(fd: &Fd, events: libc::c_short) -> Op {
    Op::Poll {
        fd: fd.clone(),
        events: events as u32,
    }
}

/// The peer's address without the port; link-local ones with the scope.
fn same_host(path: &SocketAddr, remote: &SocketAddr) -> bool {
    match (path, remote) {
        (SocketAddr::V6(a), SocketAddr::V6(b)) if a.ip().is_unicast_link_local() => {
            a.ip() == b.ip() && a.scope_id() == b.scope_id()
        }
        _ => IpAddr::to_canonical(&path.ip()) == IpAddr::to_canonical(&remote.ip()),
    }
}

/// Lasting failures are worth a line, once; a peer that is down is not.
fn log_failure(names: &Names, peer: NodeId, error: &io::Error, told: &mut bool) -> Failure {
    let failure = socket::classify(error);
    if failure == Failure::Lasting && !std::mem::replace(told, true) {
        tracing::warn!("{}: cannot connect: {error}", names.peer(peer));
    }
    failure
}
