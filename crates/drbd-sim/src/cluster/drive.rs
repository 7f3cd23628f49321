//! Delivering what disks and the network bring to the engines.

use std::rc::Rc;

use drbd_engine::event::{DiskError, Event, LostReason, OpOutput};
use drbd_engine::id::{BufId, OpId};
use drbd_proto::Packet;

use super::{Cluster, Occurrence, effects, node, node_id};
use crate::buffer::Origin;
use crate::clock::{MS, Time};
use crate::disk::{DiskOutput, Tearing};
use crate::net::{FinReason, NetEvent};
use crate::wire::{self, Step};

/// How long the other stream is read after one was closed.
const GRACE: Time = 500 * MS;

impl Cluster {
    pub(super) fn disk_done(&mut self, n: usize, op: u64, error: Option<DiskError>) {
        let Some(pending) = self.nodes[n].pending.remove(&op) else {
            return;
        };
        let Some(disk) = self.nodes[n].disks[pending.volume].as_mut() else {
            return;
        };
        let result = match error {
            Some(e) => {
                disk.interrupt(&pending.op, Tearing::Never, &mut self.rng);
                Err(e)
            }
            None => match disk.complete(&pending.op, &mut self.rng) {
                DiskOutput::Nothing => Ok(OpOutput::Nothing),
                DiskOutput::Bytes(b) => Ok(OpOutput::Bytes(b)),
                DiskOutput::Data(p) => {
                    let buf = self.buffers.give(n, Rc::new(p), Origin::Disk, None);
                    Ok(OpOutput::Buf(BufId(buf)))
                }
            },
        };
        self.feed(
            n,
            Event::Done {
                op: OpId(op),
                result,
            },
        );
    }

    pub(super) fn net_event(&mut self, event: NetEvent) {
        let now = self.queue.now();
        match event {
            NetEvent::Attempt { a, b } => match self.net.attempt(a, b, now) {
                Err(later) => self.later(later),
                Ok((session, flip)) => self.established(a, b, session, flip),
            },
            NetEvent::Unstall { from, to } => {
                let later = self.net.unstall(from, to, now);
                self.later(later);
            }
            NetEvent::Arrive {
                session,
                from,
                stream,
            } => {
                let Some((n, peer, chunk)) = self.net.arrive(session, from, stream, now) else {
                    return;
                };
                let Some(p) = self.nodes[n]
                    .peers
                    .get_mut(&peer)
                    .filter(|p| p.session == session)
                else {
                    return;
                };
                p.decoders[stream].feed(chunk);
                self.drain(n, peer, session, stream);
            }
        }
    }

    fn established(&mut self, a: usize, b: usize, session: u64, flip: bool) {
        for (n, peer) in [(a, b), (b, a)] {
            let stream = node::PeerStream {
                session,
                ctx: drbd_proto::Ctx::INITIAL,
                decoders: Default::default(),
                ended: [false; 2],
            };
            self.nodes[n].peers.insert(peer, stream);
            self.flow.session_begins(n, peer, session);
        }
        let order = if self.rng.percent(50) {
            [(a, b, flip), (b, a, !flip)]
        } else {
            [(b, a, !flip), (a, b, flip)]
        };
        for (n, peer, resolve_conflicts) in order {
            let challenge = Box::new(std::array::from_fn(|_| self.rng.next() as u8));
            self.feed(
                n,
                Event::Established {
                    peer: node_id(peer),
                    path: 0,
                    resolve_conflicts,
                    challenge,
                },
            );
        }
    }

    /// Delivers all complete packets of a stream.
    fn drain(&mut self, n: usize, peer: usize, session: u64, stream: usize) {
        while self.failure.is_none() {
            let Some(p) = self.nodes[n]
                .peers
                .get_mut(&peer)
                .filter(|p| p.session == session)
            else {
                return;
            };
            match p.decoders[stream].step(&p.ctx, wire::stream(stream)) {
                Step::Wait => return,
                Step::Packet(received) => self.received(n, peer, session, stream, *received),
                Step::End(FinReason::Closed) if self.config.drains && p.ended == [false; 2] => {
                    p.ended[stream] = true;
                    let life = self.nodes[n].life;
                    self.queue
                        .after(GRACE, Occurrence::Grace(n, life, peer, session));
                    return;
                }
                Step::End(reason) => {
                    self.lost(
                        n,
                        peer,
                        if reason == FinReason::Closed {
                            LostReason::Closed
                        } else {
                            LostReason::Network
                        },
                    );
                    return;
                }
                Step::Garbage(what) => {
                    self.fail(
                        n,
                        "wire",
                        format!("from node {peer} on stream {stream}: {what}"),
                    );
                    return;
                }
            }
        }
    }

    fn received(
        &mut self,
        n: usize,
        peer: usize,
        session: u64,
        stream: usize,
        received: wire::Received,
    ) {
        let (volume, packet, payload) = received;
        if let Err(v) = self.flow.received(n, peer, session, &packet) {
            self.violation(Some(n), v);
            return;
        }
        let payload = payload.map(|p| {
            let origin = match packet {
                Packet::Data(_) => Origin::Replicated,
                Packet::RsDataReply(_) => Origin::Resync,
                _ => Origin::Other,
            };
            if let Packet::Data(d) = &packet {
                let write = (effects::volume_index(volume), d.sector.0, p.clone());
                self.flow.received_data(n, peer, d.block_id.0, write);
            }
            BufId(self.buffers.give(n, p, origin, None))
        });
        self.feed(
            n,
            Event::Packet {
                peer: node_id(peer),
                stream: wire::stream(stream),
                volume,
                packet,
                payload,
            },
        );
    }

    /// One stream was closed a while ago: nothing more is expected from the other one.
    pub(super) fn grace_over(&mut self, n: usize, peer: usize, session: u64) {
        if self.nodes[n].peers.get(&peer).map(|p| p.session) == Some(session) {
            self.lost(n, peer, LostReason::Closed);
        }
    }

    /// The streams of a node to a peer are gone.
    fn lost(&mut self, n: usize, peer: usize, reason: LostReason) {
        self.net.ended(n, peer);
        self.nodes[n].peers.remove(&peer);
        self.flow.session_ends(n, peer);
        self.feed(
            n,
            Event::Lost {
                peer: node_id(peer),
                reason,
            },
        );
    }
}
