//! What becomes of requests when a peer is lost or comes back, a disk goes, or I/O is suspended and resumed
//! (data path, sections 4.3, 7.6, 12.4, 20.4 and 21; state machine, sections 3.7, 3.8 and 6.6).

use alloc::format;
use alloc::vec::Vec;
use core::time::Duration;

use drbd_proto::{BarrierNr, ConnState, DiskState, NodeId, ReplState, Role, VolumeNr};

use crate::data::request::ReqKind;
use crate::data::sender::Sender;
use crate::data::{DataOp, DataOpKind, ReqId};
use crate::engine::{Engine, Op};
use crate::state::State;
use crate::time::Instant;
use crate::timer::Timer;

/// What a committed state asks for once the packets of the change are out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Consequence {
    /// This peer starts to get writes: tell it the position.
    Announce(NodeId),
    /// This peer is connected again: what was kept for it goes out or is given up.
    Reconnected(NodeId),
    /// Send the bitmap, as source.
    SendBitmap(NodeId, VolumeNr),
    /// A bitmap may be complete that the state was not ready for.
    Exchange(NodeId, VolumeNr),
    /// A resync or verify started, changed or ended.
    Resync(NodeId, VolumeNr, ReplState),
}

impl Engine {
    /// A state transaction was committed; `self.state` is the new one.
    pub(crate) fn data_state_committed(&mut self, old: &State) {
        self.data.recheck = true;
        let mut replication_changed = false;
        let peers: Vec<NodeId> = self.state.conns.keys().copied().collect();
        for peer in peers {
            if old.cstate(peer) < ConnState::Connected
                && self.state.cstate(peer) == ConnState::Connected
            {
                self.data.consequences.push(Consequence::Reconnected(peer));
            }
            let volumes: Vec<VolumeNr> = match self.state.conns.get(&peer) {
                Some(c) => c.peers.keys().copied().collect(),
                None => continue,
            };
            for volume in volumes {
                replication_changed |= self.peer_device_committed(old, peer, volume);
            }
        }
        // Writes of one epoch go to the same peers (data path, section 7.2, item 3).
        if replication_changed {
            self.close_epoch();
        }
        let volumes: Vec<VolumeNr> = self.state.devices.keys().copied().collect();
        for volume in volumes {
            self.disks_may_be_read_again(old, volume);
            let (before, now) = (old.disk(volume), self.state.disk(volume));
            if before >= DiskState::Inconsistent && now < DiskState::Inconsistent {
                self.data_detach(volume);
            }
        }
        if old.role == Role::Primary && self.state.role != Role::Primary {
            self.close_epoch();
            self.data_flush_peer_acks();
        }
        // A forced demotion: nothing waits for the return of a peer any more.
        let fails = !old.fail_io && self.state.fail_io;
        if fails || (old.suspended() && !self.state.suspended()) {
            self.resume_held();
        }
    }

    /// Disks that are good again may be asked for what they could not read before they went.
    fn disks_may_be_read_again(&mut self, old: &State, volume: VolumeNr) {
        let good = |s: &State, n: NodeId| match n == self.node_id {
            true => s.disk(volume) == DiskState::UpToDate,
            false => s.pdisk(n, volume) == DiskState::UpToDate,
        };
        let all = self.state.conns.keys().copied().chain([self.node_id]);
        let again: Vec<NodeId> = all
            .filter(|n| good(&self.state, *n) && !good(old, *n))
            .collect();
        let requests = self.data.requests.values_mut();
        for req in requests.filter(|r| r.volume == volume && !again.is_empty()) {
            again.iter().for_each(|n| {
                req.tried.remove(*n);
            });
        }
    }

    /// The part about one peer device. True if writes start or stop to go to it.
    fn peer_device_committed(&mut self, old: &State, peer: NodeId, volume: VolumeNr) -> bool {
        let Some(new_pd) = self.state.pd(peer, volume) else {
            return false;
        };
        let (repl, replicates) = (new_pd.repl, new_pd.replicates());
        let resync = (
            new_pd.resync_active,
            new_pd.peer_replication,
            new_pd.replication,
        );
        let old_pd = old.pd(peer, volume);
        let (old_repl, replicated) =
            old_pd.map_or((ReplState::Off, false), |pd| (pd.repl, pd.replicates()));
        let old_resync = old_pd.map(|pd| (pd.resync_active, pd.peer_replication, pd.replication));
        if replicates && !replicated {
            self.data.consequences.push(Consequence::Announce(peer));
        }
        if repl == ReplState::WFBitMapS && old_repl != ReplState::WFBitMapS {
            self.data
                .consequences
                .push(Consequence::SendBitmap(peer, volume));
        }
        if repl != old_repl && matches!(repl, ReplState::WFBitMapT | ReplState::WFBitMapS) {
            self.data
                .consequences
                .push(Consequence::Exchange(peer, volume));
        }
        if repl != old_repl || old_resync != Some(resync) {
            self.data
                .consequences
                .push(Consequence::Resync(peer, volume, old_repl));
        }
        replicates != replicated
    }

    /// Does what committed changes ask for.
    pub(crate) fn settle_consequences(&mut self) {
        for consequence in core::mem::take(&mut self.data.consequences) {
            match consequence {
                Consequence::Announce(peer) => self.announce_dagtag(peer),
                Consequence::Reconnected(peer) => self.reconnected(peer),
                Consequence::SendBitmap(peer, volume) => {
                    if self.state.repl(peer, volume) == ReplState::WFBitMapS {
                        self.start_exchange_as_source(peer, volume);
                    }
                }
                Consequence::Exchange(peer, volume) => self.exchange_progress(peer, volume),
                Consequence::Resync(peer, volume, old) => {
                    self.resync_state_changed(peer, volume, old);
                }
            }
            self.data.recheck = true;
        }
    }

    /// Fresh streams to a peer (wire protocol, section 13.4; data path, section 12.1).
    pub(crate) fn data_connection_reset(&mut self, peer: NodeId) {
        let now = self.now;
        let Some(conn) = self.conns.get_mut(&peer) else {
            return;
        };
        conn.data.generation += 1;
        conn.data.sender = Sender::default();
        conn.data.since = now;
        conn.data.barrier_sent = now;
        for pd in conn.peers.values_mut() {
            pd.data.packet_seq = 0;
            pd.data.peer_seq = 0;
            pd.data.told_out_of_sync = false;
            pd.data.exchange = Default::default();
        }
    }

    /// The streams to a peer are gone (data path, section 4.3; state machine, section 6.6).
    pub(crate) fn data_connection_lost(&mut self, peer: NodeId) {
        self.timers.cancel(Timer::RequestTimeout(peer));
        self.ops.retain(|_, op| {
            !matches!(op, Op::Data(DataOp { what: DataOpKind::Sent(_, p), .. }) if *p == peer)
        });
        let Some(conn) = self.conns.get_mut(&peer) else {
            return;
        };
        conn.data.generation += 1;
        conn.data.sender = Sender::default();
        conn.data.ap_in_flight = 0;
        conn.data.rs_in_flight = 0;
        conn.data.congested = false;
        conn.data.parked_reads.clear();
        conn.data.unconfirmed.clear();
        // What a status shows is of one connection, as in the reference.
        for pd in conn.peers.values_mut() {
            pd.data.sent = 0;
            pd.data.received = 0;
        }
        let receiver = core::mem::take(&mut conn.data.receiver);
        let volumes: Vec<VolumeNr> = conn.peers.keys().copied().collect();
        for buf in receiver
            .queue
            .iter()
            .filter_map(super::receiver::RxItem::payload)
        {
            self.release(buf);
        }
        for volume in &volumes {
            self.reset_exchange(peer, *volume);
            self.resync_peer_lost(peer, *volume);
        }
        self.flush_requests_peer_lost(peer);
        self.received_writes_lost(peer);
        self.requests_lost(peer);
        for volume in volumes {
            self.data_bitmap_writeout(volume);
        }
        self.data.recheck = true;
    }

    /// What this node sent to the peer, and reads that it was to answer.
    fn requests_lost(&mut self, peer: NodeId) {
        if let Some(pending) = &mut self.data.peer_acks.pending {
            pending.sent.remove(peer);
        }
        let suspended = self.state.suspended();
        let mut reads = Vec::new();
        for (id, req) in &mut self.data.requests {
            req.sent.remove(peer);
            if req.kind == ReqKind::Read && req.pending.contains(peer) {
                reads.push(*id);
            }
            if suspended && req.pending.contains(peer) && req.synchronous.contains(peer) {
                req.held = true;
            }
        }
        // While suspended, writes with protocol B and C are kept for the peer's return.
        let keep = if suspended {
            Keep::Synchronous
        } else {
            Keep::Nothing
        };
        self.give_up(peer, keep);
        for id in reads {
            if let Some(req) = self.data.requests.get_mut(&id) {
                req.tried.insert(peer);
            }
            self.retry_read(id);
        }
    }

    /// Gives up what a peer has not confirmed: it becomes out of sync when the writes are settled (data
    /// path, section 4.3, item 3).
    fn give_up(&mut self, peer: NodeId, keep: Keep) {
        let ids: Vec<ReqId> = self.data.log.iter().copied().collect();
        self.give_up_these(&ids, peer, keep);
    }

    fn give_up_these(&mut self, ids: &[ReqId], peer: NodeId, keep: Keep) {
        let mut touched = Vec::new();
        for id in ids {
            let Some(req) = self.data.requests.get_mut(id) else {
                continue;
            };
            if !req.expect_barrier.contains(peer)
                || req.done.contains(peer)
                || (keep == Keep::Synchronous && req.synchronous.contains(peer))
            {
                continue;
            }
            req.pending.remove(peer);
            req.ok.remove(peer);
            req.sis.remove(peer);
            req.done.insert(peer);
            touched.push(*id);
        }
        for id in touched {
            self.try_complete(id);
        }
        self.advance_log();
    }

    /// A peer is back: what was kept for it goes out again, unless a resync towards it covers it (data path,
    /// section 7.6). A resync from it covers nothing: it would replace what only this node has.
    fn reconnected(&mut self, peer: NodeId) {
        for req in self.data.requests.values_mut() {
            req.tried.remove(peer);
        }
        let kept = |r: &super::Request| {
            r.expect_barrier.contains(peer) && !r.done.contains(peer) && !r.sent.contains(peer)
        };
        let ids: Vec<(ReqId, bool)> = self
            .data
            .log
            .iter()
            .filter_map(|id| {
                let req = self.data.requests.get(id).filter(|r| kept(r))?;
                let repl = self.state.repl(peer, req.volume);
                let source = repl > ReplState::Established
                    && repl != ReplState::WFBitMapT
                    && !repl.is_sync_target();
                // A disk that is not good may be replaced by another node's data: the write would be lost there.
                let bad = self.state.pdisk(peer, req.volume) != DiskState::UpToDate;
                Some((*id, source || bad))
            })
            .collect();
        if ids.is_empty() {
            return;
        }
        let covered: Vec<ReqId> = ids.iter().filter(|(_, s)| *s).map(|(id, _)| *id).collect();
        self.give_up_these(&covered, peer, Keep::Nothing);
        for (id, _) in ids.into_iter().filter(|(_, source)| !source) {
            let Some(req) = self.data.requests.get_mut(&id) else {
                continue;
            };
            // It may have lost this with the connection, before its disk had it (a deviation: the reference takes
            // it for written).
            let only_received = req.ok.contains(peer) && req.received.contains(peer);
            if only_received && req.buf.is_none() {
                req.ok.remove(peer);
                req.done.insert(peer);
            } else if !only_received && (req.ok.contains(peer) || !req.pending.contains(peer)) {
                // The handshake says that the peer did not restart: it has it, or has refused it for good.
                req.done.insert(peer);
            } else if let Some(conn) = self.conns.get_mut(&peer) {
                if only_received && !req.completed {
                    req.ok.remove(peer);
                    req.pending.insert(peer);
                }
                conn.data.unconfirmed.push_back(id);
                self.send_write(id, peer);
            }
        }
        let epoch: BarrierNr = self.data.epoch;
        self.send_barrier_if_due(peer, epoch);
        self.advance_log();
    }

    /// I/O is resumed: peers that did not come back are given up, and held completions go out (data path,
    /// section 21.3).
    fn resume_held(&mut self) {
        let away: Vec<NodeId> = self
            .conns
            .keys()
            .copied()
            .filter(|peer| self.state.cstate(*peer) < ConnState::Connected)
            .collect();
        // What is held stays so until all is given up that will not come: it may have to be written again.
        for peer in away {
            self.give_up(peer, Keep::Nothing);
        }
        let held: Vec<ReqId> = self
            .data
            .requests
            .iter_mut()
            .filter(|(_, r)| r.held)
            .map(|(id, r)| {
                r.held = false;
                *id
            })
            .collect();
        for id in held {
            self.try_complete(id);
        }
    }

    /// The disk of a volume is on its way out: it gets no further requests. Those under way end by
    /// themselves.
    pub(crate) fn data_detach(&mut self, volume: VolumeNr) {
        let Some(v) = self.volumes.get_mut(&volume) else {
            return;
        };
        if core::mem::replace(&mut v.data.closing, true) {
            return;
        }
        self.resync_disk_lost(volume);
        self.drop_activity_log(volume);
        self.flush_idle_disk(volume);
    }

    /// Whether no operation on the disk of a volume is outstanding.
    pub(crate) fn data_disk_idle(&self, volume: VolumeNr) -> bool {
        let busy = self
            .volumes
            .get(&volume)
            .is_some_and(|v| v.data.disk_ops > 0);
        !busy && !self.owes_flush(volume)
    }

    /// A deadline of the data plane has passed.
    pub(crate) fn data_timer(&mut self, timer: Timer) {
        match timer {
            Timer::PeerAck => self.data_flush_peer_acks(),
            Timer::RequestTimeout(peer) => self.request_timeout(peer),
            Timer::LazyBitmap(volume) => self.lazy_writeout_due(volume),
            Timer::ResyncTurn(peer, volume) => self.resync_turn(peer, volume),
            Timer::ResyncSlowed(peer, volume) => self.serve_slowed(peer, volume),
            _ => {}
        }
    }

    /// Something was sent that has to be answered (data path, section 20.4).
    pub(crate) fn watch_requests(&mut self, peer: NodeId) {
        let Some(limit) = self.request_limit(peer) else {
            return;
        };
        self.timers
            .set_if_idle(Timer::RequestTimeout(peer), self.now + limit);
    }

    /// How long a peer may take for an answer; `None` without limit.
    fn request_limit(&self, peer: NodeId) -> Option<Duration> {
        let options = &self.conns.get(&peer)?.options;
        let limit = options.timeout.checked_mul(options.ko_count)?;
        (!limit.is_zero()).then_some(limit)
    }

    /// Looks whether the oldest unanswered request of a peer is too old (data path, section 20.4).
    fn request_timeout(&mut self, peer: NodeId) {
        let Some(limit) = self.request_limit(peer) else {
            return;
        };
        let Some(conn) = self.conns.get(&peer) else {
            return;
        };
        let since = conn.data.since;
        let unanswered = self
            .data
            .requests
            .values()
            .find(|r| r.pending.contains(peer) && r.sent.contains(peer))
            .map(|r| (r.since, "finish a request"));
        let unconfirmed = || {
            let open = conn.data.sender.count > 0
                && conn.data.unconfirmed.len() as u64 == u64::from(conn.data.sender.count);
            let oldest = conn.data.unconfirmed.front().filter(|_| !open)?;
            let sent = self.data.requests.get(oldest)?.since;
            Some((sent.max(conn.data.barrier_sent), "answer a P_BARRIER"))
        };
        let Some((start, what)) = unanswered.or_else(unconfirmed) else {
            // Nothing waits; the next request sets the timer again.
            if !conn.data.unconfirmed.is_empty() {
                self.timers
                    .set(Timer::RequestTimeout(peer), self.now + limit);
            }
            return;
        };
        let deadline: Instant = start.max(since) + limit;
        if self.now < deadline {
            self.timers.set(Timer::RequestTimeout(peer), deadline);
            return;
        }
        let text = format!(
            "Remote failed to {what} within {}ms > ko-count * timeout",
            self.now.since(start).as_millis()
        );
        self.fail_connection(peer, ConnState::Timeout, &text);
    }
}

/// What is not given up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    Nothing,
    /// Writes with protocol B and C.
    Synchronous,
}
