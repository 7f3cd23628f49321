//! Carrying out what an engine wants.

use std::rc::Rc;

use drbd_engine::command::{Command, RetCode};
use drbd_engine::effect::{Effect, LogLevel};
use drbd_engine::event::{Event, OpOutput};
use drbd_engine::id::OpId;
use drbd_engine::options::WireProtocol;
use drbd_engine::resync_after::Told;
use drbd_proto::{Features, NodeId, Packet, Stream, VolumeNr};

use super::node::Pending;
use super::{Cluster, HandlerCall, Occurrence};
use crate::buffer::{Origin, ZEROES};
use crate::clock::{MS, Time, US};
use crate::disk::{DiskOp, META_BLOCK};
use crate::net::FinReason;
use crate::ranges::RangeMap;
use crate::wire;

/// Index of a volume, if it is one of the cluster's.
pub(super) fn volume_index(volume: VolumeNr) -> usize {
    usize::from(volume.to_wire())
}

fn peer_index(peer: NodeId) -> usize {
    peer.index()
}

impl Cluster {
    pub(super) fn carry_out(&mut self, n: usize, effect: Effect) {
        match effect {
            Effect::CompleteIo { io, result, data } => {
                self.io_completed(n, io.0, result, data.map(|b| b.0))
            }
            Effect::OpenDone { open, result } => self.open_done(n, open.0, result),
            Effect::DiskRead {
                op,
                volume,
                sector,
                len,
            } => {
                self.disk_op(
                    n,
                    op,
                    volume,
                    DiskOp::Read {
                        sector: sector.0,
                        sectors: u64::from(len) / 512,
                    },
                );
            }
            Effect::DiskWrite {
                op,
                volume,
                sector,
                len,
                buf,
                preflush,
                fua,
            } => {
                let buffer = match self.buffers.get(n, buf.0) {
                    Ok(b) => b.clone(),
                    Err(e) => return self.fail(n, "buffers", format!("disk write: {e}")),
                };
                if buffer.payload.sectors() * 512 != u64::from(len) {
                    return self.fail(
                        n,
                        "driver",
                        format!(
                            "write of {len} bytes out of a buffer of {} sectors",
                            buffer.payload.sectors()
                        ),
                    );
                }
                let sectors = u64::from(len) / 512;
                if buffer.origin != Origin::Resync {
                    self.check_covered(n, volume_index(volume), sector.0, sectors, "local write");
                }
                if preflush {
                    // Modelled as a flush that is over before the write begins.
                    self.flush_now(n, volume_index(volume));
                }
                self.disk_op(
                    n,
                    op,
                    volume,
                    DiskOp::Write {
                        sector: sector.0,
                        payload: buffer.payload,
                        fua,
                    },
                );
            }
            Effect::DiskFlush { op, volume } => {
                self.disk_op(
                    n,
                    op,
                    volume,
                    DiskOp::Flush {
                        data: RangeMap::new(),
                        meta: Default::default(),
                    },
                );
            }
            Effect::DiskDiscard {
                op,
                volume,
                sector,
                len,
                ..
            } => {
                let sectors = u64::from(len) / 512;
                self.disk_op(
                    n,
                    op,
                    volume,
                    DiskOp::Discard {
                        sector: sector.0,
                        sectors,
                    },
                );
            }
            Effect::MetaRead {
                op,
                volume,
                offset,
                len,
            } => {
                self.disk_op(
                    n,
                    op,
                    volume,
                    DiskOp::MetaRead {
                        offset,
                        len: len as usize,
                    },
                );
            }
            Effect::MetaWrite {
                op,
                volume,
                blocks,
                barrier,
            } => {
                let blocks: Vec<(u64, Box<[u8; META_BLOCK]>)> =
                    blocks.into_iter().map(|b| (b.offset, b.data)).collect();
                let barrier = barrier.then(|| (RangeMap::new(), Default::default()));
                self.disk_op(n, op, volume, DiskOp::MetaWrite { blocks, barrier });
            }
            Effect::Measure { op, volume } => {
                let backing = crate::format::backing(&self.config, n, volume_index(volume));
                let sizes = OpOutput::Sizes {
                    disk_bytes: backing.disk_bytes,
                    meta_bytes: backing.meta_bytes,
                };
                self.done_later(n, op, sizes, 20 * US);
            }
            Effect::Digest { op, buf, algorithm } => match self.buffers.get(n, buf.0) {
                Ok(b) => {
                    let digest = b.payload.digest(algorithm.name(), algorithm.digest_len());
                    self.done_later(n, op, OpOutput::Digest(digest), 20 * US);
                }
                Err(e) => self.fail(n, "buffers", format!("digest: {e}")),
            },
            Effect::IsZero { op, buf } => match self.buffers.get(n, buf.0) {
                Ok(b) => {
                    let zero = b.payload.runs().iter().all(|(_, v)| *v == ZEROES);
                    self.done_later(n, op, OpOutput::Zero(zero), 20 * US);
                }
                Err(e) => self.fail(n, "buffers", format!("look for zeroes: {e}")),
            },
            Effect::Release { buf } => {
                if let Err(e) = self.buffers.release(n, buf.0) {
                    self.fail(n, "buffers", format!("release: {e}"));
                }
            }
            Effect::Detach { volume } => {
                if let Some(a) = self.nodes[n].attached.get_mut(volume_index(volume)) {
                    *a = false;
                }
            }
            Effect::Connect { peer, options, .. } => {
                let now = self.now();
                let delay = u64::try_from(options.delay.as_nanos()).unwrap_or(Time::MAX);
                let later = self.net.want(n, peer_index(peer), now, delay);
                self.later(later);
            }
            Effect::Close { peer } => {
                let (peer, now) = (peer_index(peer), self.now());
                let later = self.net.leave(n, peer, FinReason::Closed, now);
                self.later(later);
                self.nodes[n].peers.remove(&peer);
                self.flow.session_ends(n, peer);
            }
            Effect::Framing { peer, context, .. } => {
                if let Some(p) = self.nodes[n].peers.get_mut(&peer_index(peer)) {
                    p.ctx = context;
                }
            }
            Effect::Send {
                peer,
                stream,
                volume,
                packet,
                payload,
                notify,
            } => {
                self.send(
                    n,
                    peer_index(peer),
                    stream,
                    volume,
                    packet,
                    payload.map(|b| b.0),
                    notify,
                );
            }
            Effect::Upcall {
                op,
                handler,
                about,
                facts,
            } => {
                let call = HandlerCall {
                    at: self.queue.now(),
                    node: n,
                    handler,
                    about: (about.0.map(peer_index), about.1.map(volume_index)),
                    facts,
                };
                if self.call_at_random(n, op, handler, call.about.0) {
                    return;
                }
                let scripted = self.handlers.get(&(n, handler)).copied();
                let (exit, delay) = match (scripted, self.record.as_mut()) {
                    (Some(scripted), _) => scripted,
                    (None, Some(_)) => (0, MS),
                    (None, None) => (0, self.rng.range(MS, 300 * MS)),
                };
                if let Some(r) = self.record.as_mut() {
                    r.upcalls.push(call);
                }
                self.done_later(n, op, OpOutput::Exit(exit), delay);
            }
            Effect::Reply { cmd, reply } => self.replied(n, cmd.0, reply),
            Effect::Changed(change) => self.changed(n, &change),
            Effect::Limits { volume, limits } => {
                if let Some(l) = self.nodes[n].limits.get_mut(volume_index(volume)) {
                    *l = limits;
                }
            }
            Effect::ResyncFacts { volume, facts } => {
                let told = self.nodes[n].schedule.update(&(), volume, facts);
                self.tell_schedule(n, told);
            }
            Effect::Log(line) => {
                if let Some(r) = self.record.as_mut() {
                    r.log.push((self.queue.now(), n, line.text.clone()));
                }
                if let (Some(peer), Some(v)) = (line.peer, line.volume)
                    && line.text == "cleared bitmap"
                {
                    self.bits_dropped(n, peer.index(), usize::from(v.to_wire()));
                }
                if line.level == LogLevel::Error && line.text.contains("BUG") {
                    self.fail(n, "log", line.text);
                }
            }
        }
    }

    /// Hands what the schedule of a node says to its engine.
    pub(super) fn tell_schedule(&mut self, n: usize, told: Told<()>) {
        let life = self.nodes[n].life;
        for ((), volume, hold) in told {
            let event = Event::ResyncHold { volume, hold };
            self.queue
                .after(0, Occurrence::Event(n, life, Box::new(event)));
        }
    }

    /// From now on the node resyncs so many volumes at a time.
    pub fn limit_resyncs(&mut self, n: usize, limit: usize) {
        let told = self.nodes[n].schedule.set_limit(limit);
        self.tell_schedule(n, told);
    }

    fn flush_now(&mut self, n: usize, v: usize) {
        if let Some(Some(disk)) = self.nodes[n].disks.get_mut(v)
            && let Ok(op) = disk.accept(DiskOp::Flush {
                data: RangeMap::new(),
                meta: Default::default(),
            })
        {
            disk.complete(&op, &mut self.rng);
        }
    }

    /// Uses the operation's number, which must be new.
    pub(super) fn new_op(&mut self, n: usize, op: OpId) -> bool {
        if !self.nodes[n].used_ops.insert(op.0) {
            self.fail(n, "driver", format!("operation {} used twice", op.0));
            return false;
        }
        true
    }

    fn done_later(&mut self, n: usize, op: OpId, output: OpOutput, delay: Time) {
        if self.new_op(n, op) {
            let life = self.nodes[n].life;
            let event = Event::Done {
                op,
                result: Ok(output),
            };
            self.queue
                .after(delay, Occurrence::Event(n, life, Box::new(event)));
        }
    }

    fn disk_op(&mut self, n: usize, op: OpId, volume: VolumeNr, what: DiskOp) {
        if !self.new_op(n, op) {
            return;
        }
        let v = volume_index(volume);
        let node = &mut self.nodes[n];
        let Some(disk) = node
            .disks
            .get(v)
            .and_then(|d| d.as_ref())
            .filter(|_| node.attached[v])
        else {
            return self.fail(
                n,
                "driver",
                format!("disk operation on volume {v}, which has no disk"),
            );
        };
        let what = match disk.accept(what) {
            Ok(w) => w,
            Err(e) => return self.fail(n, "driver", e),
        };
        let writes = match &what {
            DiskOp::Write {
                sector, payload, ..
            } => Some((*sector, sector + payload.sectors())),
            DiskOp::Discard { sector, sectors } => Some((*sector, sector + sectors)),
            _ => None,
        };
        let is_data = writes.is_some() || matches!(what, DiskOp::Read { .. });
        let fails = disk.broken && (is_data || matches!(what, DiskOp::Flush { .. }));
        if let Some((start, end)) = writes {
            let clash = node
                .pending
                .values()
                .find(|p| p.volume == v && p.writes.is_some_and(|(s, e)| s < end && start < e));
            if let Some(other) = clash {
                let what = format!(
                    "write to {start}..{end} of volume {v} while {:?} is under way",
                    other.writes
                );
                return self.fail(n, "O7", what);
            }
        }
        let (least, most) = self.config.disk_speed;
        let delay = if self.rng.percent(2) {
            self.rng.range(most, 10 * most)
        } else {
            self.rng.latency(least, most)
        };
        let delay = match self.nodes[n].slow_disk {
            Some(slow) if is_data => slow,
            _ => self.nodes[n]
                .slow_meta
                .filter(|_| !is_data)
                .unwrap_or(delay),
        };
        let node = &mut self.nodes[n];
        node.pending.insert(
            op.0,
            Pending {
                volume: v,
                op: what,
                writes,
            },
        );
        let life = node.life;
        let done = if fails {
            Occurrence::DiskFails(n, life, op.0)
        } else {
            Occurrence::DiskDone(n, life, op.0)
        };
        self.queue.after(delay, done);
    }

    #[allow(clippy::too_many_arguments)] // The fields of one effect.
    fn send(
        &mut self,
        n: usize,
        peer: usize,
        stream: Stream,
        volume: VolumeNr,
        mut packet: Packet,
        payload: Option<u64>,
        notify: Option<OpId>,
    ) {
        if let Packet::ConnectionFeatures(offer) = &mut packet {
            let (version, features) = self.config.dialect(n, peer);
            offer.protocol_max = offer.protocol_max.min(u32::from(version));
            offer.features = Features(offer.features.0 & features.0);
        }
        let buffer = match payload.map(|b| self.buffers.get(n, b)).transpose() {
            Ok(b) => b.cloned(),
            Err(e) => return self.fail(n, "buffers", format!("send: {e}")),
        };
        let len = packet.payload_len();
        if buffer.as_ref().map_or(0, |b| b.payload.sectors() * 512) != u64::from(len) {
            return self.fail(
                n,
                "driver",
                format!("payload of {packet:?} does not have its length"),
            );
        }
        if let Some(op) = notify
            && !self.new_op(n, op)
        {
            return;
        }
        let Some(p) = self.nodes[n].peers.get(&peer) else {
            return;
        };
        let session = p.session;
        let bytes = match wire::encode(&p.ctx, volume, &packet) {
            Ok(b) => b,
            Err(e) => return self.fail(n, "wire", format!("{packet:?} to node {peer}: {e}")),
        };
        if !packet.cmd().allowed_on(stream) {
            return self.fail(
                n,
                "wire",
                format!("{packet:?} does not belong on the {stream} stream"),
            );
        }
        if let (Packet::Data(d), Some(b)) = (&packet, &buffer)
            && b.origin == Origin::App
        {
            let v = volume_index(volume);
            self.check_covered(
                n,
                v,
                d.sector.0,
                u64::from(d.size.0) / 512,
                "replicated write",
            );
        }
        let io = buffer.as_ref().and_then(|b| b.io);
        let waits = self.config.net_options(n, peer).protocol != WireProtocol::A;
        match self.flow.sent(n, peer, &packet, io, waits) {
            Ok(stable) => self.check_stable(n, peer, &stable),
            Err(v) => return self.violation(Some(n), v),
        }
        let now = self.now();
        let payload = buffer.map(|b| (Rc::clone(&b.payload), len));
        let index = wire::index(stream);
        let backlog = self.net.backlog(n, peer, index, now);
        let extra = self.count_packet(n, peer, packet.cmd(), len.into());
        let later = self.net.send(n, peer, index, (bytes, payload), now, extra);
        self.later(later);
        if let Some(op) = notify {
            // The transport takes it at once, unless its buffer is full.
            let delay = if backlog > 20 * MS {
                backlog
            } else {
                self.rng.latency(5 * US, 100 * US)
            };
            let life = self.nodes[n].life;
            self.queue
                .after(delay, Occurrence::Sent(n, life, peer, session, op.0));
        }
    }

    fn replied(&mut self, n: usize, cmd: u64, reply: drbd_engine::command::Reply) {
        let Some(command) = self.nodes[n].commands.remove(&cmd) else {
            return self.fail(
                n,
                "admin",
                format!("command {cmd} answered twice, or never given"),
            );
        };
        match &command {
            Command::Attach { volume, .. }
                if !reply.is_ok() && reply.code != RetCode::ERR_DISK_CONFIGURED =>
            {
                self.nodes[n].attached[volume_index(*volume)] = false;
            }
            Command::Primary { force } if reply.is_ok() => self.promoted(n, *force),
            _ => {}
        }
        if self.answers_handler(n, cmd, &reply) {
            return;
        }
        if self.nodes[n].script_waits_for == Some(cmd) {
            self.nodes[n].script_waits_for = None;
            if !reply.is_ok() {
                self.note(|| format!("node {n}: {command:?} answered {reply:?}"));
            }
            self.nodes[n].script_replies.push((command, reply));
            self.next_of_script(n);
        } else {
            self.nodes[n].replies.insert(cmd, reply);
        }
    }

    fn changed(&mut self, n: usize, change: &drbd_engine::status::Change) {
        use drbd_engine::status::Object;
        if let Object::PeerDevice {
            peer,
            volume,
            info: Some(info),
        } = &change.object
            && info.repl == drbd_proto::ReplState::SyncTarget
        {
            self.stats.resyncs += 1;
            self.is_target_of(n, peer.index(), volume.to_wire().into());
        }
        if let Some(r) = self.record.as_mut() {
            r.seen.push(super::Seen {
                at: self.queue.now(),
                node: n,
                life: self.nodes[n].life,
                change: change.clone(),
            });
        }
    }
}
