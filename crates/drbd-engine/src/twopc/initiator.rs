//! The coordinating side (state machine, section 5.3).

use alloc::vec::Vec;

use drbd_proto::TwopcFlags;
use drbd_proto::packet::{TwopcHead, TwopcPhase2, TwopcPrepResize, TwopcPrepare, TwopcReply};
use drbd_proto::{
    ConnState, Features, NodeId, NodeMask, Packet, Role, Sectors, StateChange, Stream, VolumeNr,
};

use crate::command::RetCode;
use crate::effect::LogLevel;
use crate::engine::Engine;
use crate::rows::Row;
use crate::timer::Timer;
use crate::twopc::{Active, ChangeKind, Request, Requester};

/// A transaction of this node.
#[derive(Debug)]
pub(crate) struct Initiated {
    /// What shall change, and for whom.
    pub request: Request,
    /// Its random, non-zero number.
    pub tid: u32,
    /// What the packets say.
    pub change: StateChange,
    /// Nodes that got the PREPARE.
    pub prepared: NodeMask,
    /// Those that have not answered.
    pub waiting: NodeMask,
    /// Somebody said NO.
    pub no: bool,
    /// Somebody said RETRY, or a link broke.
    pub retry: bool,
    /// Nodes reachable without the target's partition.
    pub reachable: NodeMask,
    /// Nodes reachable in the target's partition.
    pub target_reachable: NodeMask,
    /// Primaries that were found.
    pub primary_nodes: NodeMask,
    /// Nodes that some Primary with data cannot reach.
    pub weak_nodes: NodeMask,
    /// Of a resize: the largest size that is possible everywhere, then the size agreed on, in sectors.
    pub size: u64,
}

impl Engine {
    /// Starts an own change.
    pub(super) fn initiator_start(&mut self, request: Request) {
        let kind = request.kind;
        match self.check_locally(kind) {
            Ok(RetCode::NOTHING_TO_DO) if kind != ChangeKind::Empty => {
                return self.initiator_report(&request, Ok(RetCode::NOTHING_TO_DO));
            }
            Ok(_) => {}
            Err(code) => return self.initiator_report(&request, Err(code)),
        }
        // The peers may have gone while this waited for its turn: nobody would end the negotiation.
        if let ChangeKind::Attach { volume } = kind
            && !self.may_negotiate(volume)
        {
            return self.initiator_report(&request, Err(RetCode::NEED_CONNECTION));
        }
        let mut direct = self.connected_nodes();
        let target = kind.target();
        if let Some(peer) = target {
            let cstate = self.state.cstate(peer);
            let connecting = matches!(kind, ChangeKind::Connect { .. });
            // Meanwhile the streams may be gone, and new ones begun their handshake.
            let agreed = self.conns.get(&peer).is_some_and(|c| c.handshake.done());
            let fits = cstate == ConnState::Connected && !connecting
                || cstate == ConnState::Connecting && connecting && agreed;
            if !fits {
                self.note(Row::I2);
                return self.initiator_report(&request, Err(RetCode::NEED_CONNECTION));
            }
            direct.insert(peer);
        }
        let me = self.node_id;
        let mut reachable = direct.with(me);
        let mut target_reachable = reachable;
        if let ChangeKind::Disconnect { peer } = kind {
            target_reachable = peer.mask();
            reachable.remove(peer);
        }
        let tid = loop {
            let tid = self.rng.next() as u32;
            if tid != 0 {
                break tid;
            }
        };
        // A DRBD 8 is asked in its own way, and not about everything.
        let legacy = self.legacy_peers();
        let asked = if Engine::legacy_has_a_say(kind) {
            direct & legacy
        } else {
            NodeMask::EMPTY
        };
        let direct = direct.minus(legacy);
        let (primary_nodes, weak_nodes) = self.legacy_primaries();
        let initiated = Initiated {
            change: kind.change(self),
            request,
            tid,
            prepared: direct,
            waiting: direct | asked,
            no: false,
            retry: false,
            reachable,
            target_reachable,
            primary_nodes,
            weak_nodes,
            size: self.possible_size(kind),
        };
        let nodes_to_reach = !direct.with(me);
        let head = TwopcHead {
            tid,
            flags: match kind {
                ChangeKind::Resize { .. } => TwopcFlags::NONE,
                _ => TwopcFlags::HAS_REACHABLE,
            },
            initiator: me,
            target,
            nodes_to_reach,
        };
        let prepare = match kind {
            ChangeKind::Resize {
                user_size, flags, ..
            } => Packet::TwopcPrepRsz(TwopcPrepResize {
                head,
                user_size: Sectors(user_size),
                dds_flags: flags,
            }),
            _ => Packet::TwopcPrepare(TwopcPrepare {
                head,
                change: initiated.change,
            }),
        };
        let change = initiated.change;
        let volume = kind.volume();
        self.twopc.lost_meanwhile = NodeMask::EMPTY;
        self.twopc.active = Some(Active::Initiator(initiated));
        self.timers
            .set(Timer::TwoPcTimeout, self.now + self.options.twopc_timeout);
        for peer in direct.iter() {
            self.send(peer, Stream::Data, volume, prepare.clone());
            self.ping(peer);
        }
        for peer in asked.iter() {
            self.ask_legacy(peer, volume, change);
        }
        if let ChangeKind::Connect { peer } = kind {
            self.start_volume_exchange(peer);
        }
        self.initiator_check();
    }

    /// A reply to a transaction of this node.
    pub(super) fn initiator_reply(&mut self, peer: NodeId, reply: &TwopcReply, answer: Answer) {
        let Some(Active::Initiator(i)) = &mut self.twopc.active else {
            return;
        };
        if reply.tid != i.tid || !i.waiting.contains(peer) {
            return;
        }
        i.waiting.remove(peer);
        match answer {
            Answer::Yes => {
                if i.request.kind.target() == Some(peer) {
                    self.rows.note(Row::I6b);
                    i.target_reachable |= reply.reachable_nodes;
                } else {
                    self.rows.note(Row::I6a);
                    i.reachable |= reply.reachable_nodes;
                }
                i.primary_nodes |= reply.primary_nodes;
                if matches!(i.request.kind, ChangeKind::Resize { .. }) {
                    i.size = i.size.min(reply.max_possible_size().0);
                } else {
                    i.weak_nodes |= reply.weak_nodes();
                }
            }
            Answer::No => {
                self.rows.note(Row::I6c);
                i.no = true;
            }
            Answer::Retry => {
                self.rows.note(Row::I6d);
                i.retry = true;
            }
        }
        self.initiator_check();
    }

    /// Whether this node has asked a peer, and it has not answered.
    pub(crate) fn awaits_vote(&self, peer: NodeId) -> bool {
        match &self.twopc.active {
            Some(Active::Initiator(i)) => i.waiting.contains(peer) && !i.prepared.contains(peer),
            _ => false,
        }
    }

    /// A peer without transactions agreed, or did not.
    pub(crate) fn initiator_vote(&mut self, peer: NodeId, agreed: bool) {
        let Some(Active::Initiator(i)) = &mut self.twopc.active else {
            return;
        };
        if !i.waiting.contains(peer) || i.prepared.contains(peer) {
            return;
        }
        i.waiting.remove(peer);
        i.no |= !agreed;
        self.rows.note(if agreed { Row::I6e } else { Row::I6f });
        self.initiator_check();
    }

    /// Decides when everything needed is known.
    pub(super) fn initiator_check(&mut self) {
        let Some(Active::Initiator(i)) = &self.twopc.active else {
            return;
        };
        if i.retry {
            self.note(Row::I7a);
            return self.initiator_end(Err(RetCode::CONCURRENT_ST_CHG));
        }
        if !(i.waiting.is_empty() || i.no) {
            return;
        }
        let no = i.no;
        if let ChangeKind::Connect { peer } = i.request.kind {
            if !self.exchange_complete(peer) {
                return;
            }
            match self.handshake_verdict(peer) {
                Some(code) => {
                    self.note(if code == RetCode::HANDSHAKE_RETRY {
                        Row::I7b
                    } else {
                        Row::I7c
                    });
                    return self.initiator_end(Err(code));
                }
                None if no => {
                    self.note(Row::I7d);
                    return self.initiator_end(Err(RetCode::CW_FAILED_BY_PEER));
                }
                None => {}
            }
        }
        if no {
            self.note(Row::I7d);
            return self.initiator_end(Err(RetCode::CW_FAILED_BY_PEER));
        }
        if let ChangeKind::Resize { .. } = i.request.kind {
            return self.resize_agreed();
        }
        let result = self.initiator_masks();
        self.initiator_end(result);
    }

    /// Completes the masks and checks the distance of Primaries (section 5.3, 8).
    fn initiator_masks(&mut self) -> Result<RetCode, RetCode> {
        let mut direct = self.reach();
        let with_data = self.primary_with_data();
        let role = self.state.role;
        let two_primaries: Vec<(NodeId, bool)> = self
            .conns
            .iter()
            .map(|(n, c)| (*n, c.options.two_primaries))
            .collect();
        let diskful = self.volumes.values().any(|v| v.disk.is_some());
        let read_open = self
            .volumes
            .values()
            .any(|v| v.openers.values().any(|w| !*w));
        let me = self.node_id;
        let Some(Active::Initiator(i)) = &mut self.twopc.active else {
            return Err(RetCode::UNKNOWN_ERROR);
        };
        let kind = i.request.kind;
        match kind {
            ChangeKind::Connect { peer } => direct.insert(peer),
            ChangeKind::Disconnect { peer } => direct.remove(peer),
            _ => {}
        }
        let promotes = matches!(kind, ChangeKind::Promote { .. });
        let stays = role == Role::Primary && !matches!(kind, ChangeKind::Demote { .. });
        if promotes || stays {
            i.primary_nodes.insert(me);
            if with_data || promotes {
                i.weak_nodes |= !direct;
            }
        }
        if promotes || matches!(kind, ChangeKind::Connect { .. }) {
            if i.primary_nodes.len() > 1 {
                if !two_primaries.iter().any(|(_, allowed)| *allowed) {
                    self.rows.note(Row::I8a);
                    return Err(RetCode::TWO_PRIMARIES);
                }
                if i.primary_nodes.intersects(i.weak_nodes) {
                    let servers = NodeMask(!i.weak_nodes.0 & u64::from(u32::MAX));
                    if servers.is_empty() || (i.primary_nodes.contains(me) && diskful) {
                        self.rows.note(Row::I8b);
                        return Err(RetCode::WEAKLY_CONNECTED);
                    }
                    if two_primaries
                        .iter()
                        .any(|(n, ok)| servers.contains(*n) && !ok)
                    {
                        self.rows.note(Row::I8c);
                        return Err(RetCode::TWO_PRIMARIES);
                    }
                    self.rows.note(Row::I8d);
                } else {
                    self.rows.note(Row::I8e);
                }
            }
            if matches!(kind, ChangeKind::Connect { .. })
                && read_open
                && role != Role::Primary
                && two_primaries
                    .iter()
                    .any(|(n, ok)| i.primary_nodes.contains(*n) && !ok)
            {
                self.rows.note(Row::I8f);
                return Err(RetCode::PRIMARY_READER);
            }
        }
        let splits = matches!(kind, ChangeKind::Disconnect { .. })
            && !i.reachable.intersects(i.target_reachable);
        if !splits {
            let union = i.reachable | i.target_reachable;
            i.reachable = union;
            i.target_reachable = union;
        } else {
            self.rows.note(Row::I8g);
        }
        Ok(RetCode::CW_SUCCESS)
    }

    /// Second phase.
    pub(crate) fn initiator_end(&mut self, result: Result<RetCode, RetCode>) {
        let Some(Active::Initiator(i)) = self.twopc.active.take() else {
            return;
        };
        self.timers.cancel(Timer::TwoPcTimeout);
        let kind = i.request.kind;
        let Ok(success) = result else {
            self.send_second_phase(&i, false);
            return self.initiator_failed(i, result);
        };
        let commit_members = i.reachable;
        if kind.local_last() {
            // Meanwhile somebody may have opened the device: who says COMMIT must be able to follow.
            if let Err(code) = self.check_locally(kind) {
                self.note(Row::I11);
                self.send_second_phase(&i, false);
                return self.initiator_failed(i, Err(code));
            }
            self.send_second_phase(&i, true);
        }
        self.members = commit_members;
        let applied = self.apply_own(kind, i.primary_nodes, i.weak_nodes, i.reachable);
        if !kind.local_last() {
            // Phase two of this transaction precedes whatever the next one sends.
            match applied {
                Ok(_) => self.send_second_phase(&i, true),
                Err(_) => self.send_second_phase(&i, false),
            }
        }
        self.initiator_report(&i.request, applied.map(|_| success));
    }

    pub(crate) fn send_second_phase(&mut self, i: &Initiated, commit: bool) {
        let resize = matches!(i.request.kind, ChangeKind::Resize { .. });
        let mut flags = if resize {
            TwopcFlags::NONE
        } else {
            TwopcFlags::HAS_REACHABLE
        };
        if !resize && !i.primary_nodes.is_empty() && i.weak_nodes.is_empty() {
            flags |= TwopcFlags::PRI_INCAPABLE;
        }
        let mut to = self.connected_nodes();
        if let Some(peer) = i.request.kind.target()
            && self.state.cstate(peer) >= ConnState::Connecting
        {
            to.insert(peer);
        }
        // Those that never saw the PREPARE have nothing to end.
        let to = to & i.prepared;
        let head = TwopcHead {
            tid: i.tid,
            flags,
            initiator: self.node_id,
            target: i.request.kind.target(),
            nodes_to_reach: !to.with(self.node_id),
        };
        let phase2 = |peer_v2: bool| {
            if resize {
                TwopcPhase2::with_size(head, i.primary_nodes, Sectors(i.size))
            } else if peer_v2 {
                TwopcPhase2::with_reachable(head, i.primary_nodes, i.target_reachable)
            } else {
                TwopcPhase2::with_change(head, i.primary_nodes, i.change)
            }
        };
        let volume: VolumeNr = i.request.kind.volume();
        for peer in to.iter() {
            let v2 = self
                .conns
                .get(&peer)
                .is_some_and(|c| c.has(Features::TWOPC_V2));
            let packet = if commit {
                Packet::TwopcCommit(phase2(v2))
            } else {
                Packet::TwopcAbort(phase2(v2))
            };
            self.send(peer, Stream::Data, volume, packet);
        }
    }

    fn initiator_failed(&mut self, i: Initiated, result: Result<RetCode, RetCode>) {
        let code = result.err().unwrap_or(RetCode::UNKNOWN_ERROR);
        if let ChangeKind::Connect { peer } = i.request.kind {
            self.forget_exchange(peer);
        }
        let transient = matches!(code, RetCode::CONCURRENT_ST_CHG | RetCode::TIMEOUT);
        // Role changes and connects have their own loops.
        let own_loop = matches!(
            i.request.requester,
            Requester::RoleChange | Requester::Connect
        );
        if transient && !own_loop {
            let mut request = i.request;
            request.retries += 1;
            let delay = self.twopc_backoff(request.retries);
            self.log_at(
                LogLevel::Info,
                None,
                None,
                alloc::format!(
                    "Retrying cluster-wide state change after {} ms",
                    delay.as_millis()
                ),
            );
            request.not_before = Some(self.now + delay);
            self.twopc.queue.push_back(request);
            return;
        }
        self.initiator_report(&i.request, Err(code));
    }

    /// Random back-off before attempt number `n` + 1 (section 5.7).
    pub(crate) fn twopc_backoff(&mut self, n: u32) -> core::time::Duration {
        let conns = self
            .state
            .conns
            .values()
            .filter(|c| c.cstate >= ConnState::Connecting)
            .count() as u64;
        let unit = self.options.twopc_retry_timeout.as_micros() as u64;
        let span = unit.saturating_mul(conns).saturating_mul(1 << n.min(5));
        core::time::Duration::from_micros(self.rng.below(span))
    }

    pub(crate) fn initiator_report(&mut self, request: &Request, result: Result<RetCode, RetCode>) {
        match request.requester {
            Requester::Command(cmd) => self.change_command_done(cmd, request.kind, result),
            Requester::RoleChange => self.role_change_decided(result),
            Requester::Connect => {
                if let ChangeKind::Connect { peer } = request.kind {
                    self.connect_decided(peer, result);
                }
            }
            Requester::Attach => {
                if let ChangeKind::Attach { volume } = request.kind {
                    self.attach_negotiation_decided(volume, result);
                }
            }
            Requester::Nobody => {}
        }
    }
}

/// The three answers to a PREPARE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    /// P_TWOPC_YES.
    Yes,
    /// P_TWOPC_NO.
    No,
    /// P_TWOPC_RETRY.
    Retry,
}
