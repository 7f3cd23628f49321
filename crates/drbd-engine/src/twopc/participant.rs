//! The answering side (state machine, section 5.4; wire protocol, section 12.4).

use drbd_proto::packet::{TwopcHead, TwopcPhase2, TwopcPrepResize, TwopcPrepare, TwopcReply};
use drbd_proto::{
    ConnState, NodeId, NodeMask, Packet, Role, Sectors, StateChange, Stream, TwopcFlags, VolumeNr,
};

use crate::command::RetCode;
use crate::effect::LogLevel;
use crate::engine::Engine;
use crate::resize::{MeasuredFor, PeerAsks};
use crate::rows::Row;
use crate::timer::Timer;
use crate::twopc::Active;

/// A transaction of another node.
#[derive(Debug)]
pub(crate) struct Participation {
    /// Its number.
    pub tid: u32,
    /// Who coordinates it.
    pub initiator: NodeId,
    /// Whom it is about; `None`: everybody.
    pub target: Option<NodeId>,
    /// Volume of the header.
    pub volume: VolumeNr,
    /// Flags of the request; copied when forwarding.
    pub flags: TwopcFlags,
    /// The change as the initiator sees it.
    pub change: StateChange,
    /// Links it came in on.
    pub parents: NodeMask,
    /// Nodes it was forwarded to.
    pub children: NodeMask,
    /// Children that have not answered.
    pub waiting: NodeMask,
    /// What the initiator wants reached below us.
    pub nodes_to_reach: NodeMask,
    /// The connection the change applies to, if it concerns this node.
    pub affected: Option<NodeId>,
    /// A connect that makes us a neighbour of the initiator.
    pub is_connect: bool,
    /// The local check or a child said no.
    pub no: bool,
    /// A child said retry.
    pub retry: bool,
    /// The answer that was given.
    pub answered: Option<Answered>,
    /// What the reply says.
    pub reply: TwopcReply,
    /// It is about the size of the volume.
    pub resize: Option<PeerAsks>,
}

/// The answer that a participant gave to its parents.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answered {
    Yes,
    No,
    Retry,
}

impl Engine {
    /// A PREPARE arrived.
    pub(crate) fn twopc_prepare(&mut self, from: NodeId, volume: VolumeNr, prepare: &TwopcPrepare) {
        if self.twopc_prepared(from, volume, prepare.head) {
            self.participate(from, volume, prepare);
        }
    }

    /// A PREP_RSZ arrived.
    pub(crate) fn twopc_prepare_resize(
        &mut self,
        from: NodeId,
        volume: VolumeNr,
        prepare: &TwopcPrepResize,
    ) {
        if self.twopc_prepared(from, volume, prepare.head) {
            self.participate_in_resize(from, volume, prepare);
        }
    }

    /// Whether this node takes part in a transaction; if not, it is answered.
    fn twopc_prepared(&mut self, from: NodeId, volume: VolumeNr, head: TwopcHead) -> bool {
        if head.initiator == self.node_id {
            // Our own transaction came back through a loop of links: it has prepared itself.
            self.note(Row::R2);
            let reply = TwopcReply::empty(head.tid, head.initiator);
            self.send_reply(from, volume, reply, Answered::Yes);
            return false;
        }
        match &mut self.twopc.active {
            None => self.rows.note(Row::R1),
            Some(Active::Initiator(_)) if head.initiator < self.node_id => {
                self.note(Row::R3);
                // The smaller id wins: give our own up, it tries again later.
                self.initiator_end(Err(RetCode::CONCURRENT_ST_CHG));
            }
            Some(Active::Participant(p)) if p.initiator == head.initiator && p.tid == head.tid => {
                p.parents.insert(from);
                let counted_child = p.waiting.contains(from);
                p.waiting.remove(from);
                self.rows.note(match (p.answered, counted_child) {
                    (Some(_), _) => Row::R4a,
                    (None, true) => Row::R4b,
                    (None, false) => Row::R4c,
                });
                if let Some(answer) = p.answered {
                    let reply = p.reply;
                    self.send_reply(from, volume, reply, answer);
                } else if counted_child {
                    self.participant_check();
                }
                return false;
            }
            Some(active @ (Active::Initiator(_) | Active::Participant(_))) => {
                self.rows.note(match active {
                    Active::Initiator(_) => Row::R5a,
                    Active::Participant(_) => Row::R5b,
                });
                self.log_at(
                    LogLevel::Info,
                    Some(from),
                    None,
                    alloc::format!("Rejecting concurrent remote state change {}", head.tid),
                );
                let reply = TwopcReply::empty(head.tid, head.initiator);
                self.send_reply(from, volume, reply, Answered::Retry);
                return false;
            }
        }
        true
    }

    fn participate(&mut self, from: NodeId, volume: VolumeNr, prepare: &TwopcPrepare) {
        let head = prepare.head;
        let me = self.node_id;
        let concerns_me = head.target.is_none() || head.target == Some(me);
        let to_initiator = self.state.cstate(head.initiator);
        let names_conn = prepare.change.mask.conn() != 0;
        let affected = (concerns_me
            && self.conns.contains_key(&head.initiator)
            && (to_initiator == ConnState::Connected
                || (names_conn && to_initiator == ConnState::Connecting)))
            .then_some(head.initiator);
        let connection_wide = volume.is_connection_wide();
        let connects = connection_wide && prepare.change.get_conn() == Some(ConnState::Connected);
        let disconnects =
            connection_wide && prepare.change.get_conn() == Some(ConnState::Disconnecting);
        let is_connect = connects && head.target == Some(me) && affected.is_some();

        let mut reachable = self.reach();
        if is_connect {
            reachable.insert(head.initiator);
        }
        if disconnects && head.target == Some(me) {
            reachable.remove(head.initiator);
        }
        let mut reply = TwopcReply::empty(head.tid, head.initiator);
        reply.reachable_nodes = reachable;
        if self.state.role == Role::Primary {
            reply.primary_nodes = me.mask();
            if self.primary_with_data() {
                reply.tail = (!reachable).0;
            }
        }
        let direct = self.connected_nodes().without(from);
        let children = direct & head.nodes_to_reach;
        let participation = Participation {
            tid: head.tid,
            initiator: head.initiator,
            target: head.target,
            volume,
            flags: head.flags,
            change: prepare.change,
            parents: from.mask(),
            children,
            waiting: children,
            nodes_to_reach: head.nodes_to_reach.minus(children).without(me),
            affected,
            is_connect,
            no: false,
            retry: false,
            answered: None,
            reply,
            resize: None,
        };
        if is_connect {
            self.start_volume_exchange(head.initiator);
        }
        let local = self.check_remote(&participation, from);
        if local == Err(RetCode::IN_TRANSIENT_STATE) {
            self.note(Row::Q1);
            if is_connect {
                self.forget_exchange(head.initiator);
            }
            return self.send_reply(from, volume, reply, Answered::Retry);
        }
        let forward = TwopcPrepare {
            head: TwopcHead {
                nodes_to_reach: participation.nodes_to_reach,
                ..head
            },
            change: prepare.change,
        };
        let mut participation = participation;
        if let Err(code) = local {
            participation.no = true;
            self.note(Row::Q2);
            self.log_at(
                LogLevel::Info,
                Some(from),
                None,
                alloc::format!("Refusing remote state change {}: code {}", head.tid, code.0),
            );
        }
        self.twopc.lost_meanwhile = NodeMask::EMPTY;
        self.twopc.active = Some(Active::Participant(participation));
        self.timers
            .set(Timer::TwoPcTimeout, self.now + self.options.twopc_timeout);
        for peer in children.iter() {
            self.note(Row::Q3);
            self.send(peer, Stream::Data, volume, Packet::TwopcPrepare(forward));
            self.ping(peer);
        }
        self.participant_check();
    }

    /// A change of size: nobody is concerned more than others (section 15.5).
    fn participate_in_resize(&mut self, from: NodeId, volume: VolumeNr, prepare: &TwopcPrepResize) {
        let head = prepare.head;
        let local = self.may_resize(volume);
        let mut reply = TwopcReply::empty(head.tid, head.initiator);
        if local == Err(RetCode::IN_TRANSIENT_STATE) {
            self.note(Row::Q1);
            return self.send_reply(from, volume, reply, Answered::Retry);
        }
        reply.reachable_nodes = self.reach();
        let asks = self.peer_asks_resize(volume, prepare, &mut reply);
        let children = self.connected_nodes().without(from) & head.nodes_to_reach;
        let nodes_to_reach = head.nodes_to_reach.minus(children).without(self.node_id);
        let participation = Participation {
            tid: head.tid,
            initiator: head.initiator,
            target: None,
            volume,
            flags: head.flags,
            change: StateChange::EMPTY,
            parents: from.mask(),
            children,
            waiting: children,
            nodes_to_reach,
            affected: None,
            is_connect: false,
            no: local.is_err(),
            retry: false,
            answered: None,
            reply,
            resize: Some(asks),
        };
        self.twopc.lost_meanwhile = NodeMask::EMPTY;
        self.twopc.active = Some(Active::Participant(participation));
        self.timers
            .set(Timer::TwoPcTimeout, self.now + self.options.twopc_timeout);
        let forward = TwopcPrepResize {
            head: TwopcHead {
                nodes_to_reach,
                ..head
            },
            user_size: Sectors(prepare.user_size.0),
            dds_flags: prepare.dds_flags,
        };
        for peer in children.iter() {
            self.note(Row::Q3);
            self.send(peer, Stream::Data, volume, Packet::TwopcPrepRsz(forward));
            self.ping(peer);
        }
        if asks.measuring {
            self.measure(volume, MeasuredFor::Peer(head.tid));
        }
        self.participant_check();
    }

    /// A child answered.
    fn participant_reply(&mut self, from: NodeId, reply: &TwopcReply, answer: Answered) {
        let Some(Active::Participant(p)) = &mut self.twopc.active else {
            return;
        };
        if p.tid != reply.tid || p.initiator != reply.initiator || !p.waiting.contains(from) {
            return;
        }
        p.waiting.remove(from);
        self.rows.note(match answer {
            Answered::Yes => Row::Q4a,
            Answered::No => Row::Q4b,
            Answered::Retry => Row::Q4c,
        });
        match answer {
            Answered::Yes => {
                p.reply.reachable_nodes |= reply.reachable_nodes;
                p.reply.primary_nodes |= reply.primary_nodes;
                p.reply.tail = match p.resize {
                    Some(_) => p.reply.tail.min(reply.tail),
                    None => p.reply.tail | reply.tail,
                };
            }
            Answered::No => p.no = true,
            Answered::Retry => p.retry = true,
        }
        self.participant_check();
    }

    /// A P_TWOPC_YES, NO or RETRY arrived.
    pub(crate) fn twopc_reply(&mut self, from: NodeId, reply: &TwopcReply, answer: Answered) {
        if reply.initiator == self.node_id {
            let answer = match answer {
                Answered::Yes => super::initiator::Answer::Yes,
                Answered::No => super::initiator::Answer::No,
                Answered::Retry => super::initiator::Answer::Retry,
            };
            self.initiator_reply(from, reply, answer);
        } else {
            self.participant_reply(from, reply, answer);
        }
    }

    /// Answers the parents once everything needed is known.
    pub(crate) fn participant_check(&mut self) {
        let Some(Active::Participant(p)) = &self.twopc.active else {
            return;
        };
        if p.answered.is_some() || p.resize.is_some_and(|r| r.measuring && !p.no) {
            return;
        }
        let (initiator, is_connect) = (p.initiator, p.is_connect);
        let handshake_done = !is_connect || self.exchange_complete(initiator);
        let (answer, row) = if p.retry {
            (Answered::Retry, Row::Q5c)
        } else if !handshake_done || !(p.waiting.is_empty() || p.no) {
            return;
        } else if is_connect {
            match self.handshake_verdict(initiator) {
                Some(RetCode::HANDSHAKE_RETRY) => (Answered::Retry, Row::Q5d),
                Some(_) => (Answered::No, Row::Q5e),
                None if p.no => (Answered::No, Row::Q5b),
                None => (Answered::Yes, Row::Q5a),
            }
        } else if p.no {
            (Answered::No, Row::Q5b)
        } else {
            (Answered::Yes, Row::Q5a)
        };
        self.note(row);
        let (parents, volume, reply) = (p.parents, p.volume, p.reply);
        if let Some(Active::Participant(p)) = &mut self.twopc.active {
            p.answered = Some(answer);
        }
        for parent in parents.iter() {
            self.send_reply(parent, volume, reply, answer);
        }
    }

    fn send_reply(&mut self, to: NodeId, volume: VolumeNr, reply: TwopcReply, answer: Answered) {
        let packet = match answer {
            Answered::Yes => Packet::TwopcYes(reply),
            Answered::No => Packet::TwopcNo(reply),
            Answered::Retry => Packet::TwopcRetry(reply),
        };
        self.send(to, Stream::Control, volume, packet);
    }

    /// A COMMIT or ABORT arrived.
    pub(crate) fn twopc_phase2(
        &mut self,
        from: NodeId,
        volume: VolumeNr,
        phase2: &TwopcPhase2,
        commit: bool,
    ) {
        let head = phase2.head;
        let matches = matches!(&self.twopc.active, Some(Active::Participant(p))
            if p.tid == head.tid && p.initiator == head.initiator);
        if !matches {
            // An ABORT may have to catch up with a PREPARE below us (section 5.4).
            self.note(if commit { Row::Q6d } else { Row::Q6c });
            if !commit && head.initiator != self.node_id {
                self.forward_phase2(from, volume, phase2, commit, head.nodes_to_reach);
            }
            return;
        }
        let Some(Active::Participant(p)) = self.twopc.active.take() else {
            return;
        };
        self.note(if commit { Row::Q6a } else { Row::Q6b });
        self.timers.cancel(Timer::TwoPcTimeout);
        let resize = p.resize.filter(|_| commit);
        if resize.is_some() {
            // The others first: what follows takes a while here.
        } else if commit {
            self.apply_remote(&p, phase2);
        } else if p.is_connect {
            self.forget_exchange(p.initiator);
        }
        self.forward_phase2(
            from,
            volume,
            phase2,
            commit,
            head.nodes_to_reach | p.children,
        );
        if let Some(asks) = resize {
            self.resize_committed(&p, asks, phase2);
        }
    }

    fn forward_phase2(
        &mut self,
        from: NodeId,
        volume: VolumeNr,
        phase2: &TwopcPhase2,
        commit: bool,
        wanted: NodeMask,
    ) {
        let to = self
            .connected_nodes()
            .without(from)
            .without(phase2.head.initiator)
            & wanted;
        let nodes_to_reach = phase2.head.nodes_to_reach.minus(to).without(self.node_id);
        let head = TwopcHead {
            nodes_to_reach,
            ..phase2.head
        };
        for peer in to.iter() {
            let mut out = *phase2;
            out.head = head;
            let packet = if commit {
                Packet::TwopcCommit(out)
            } else {
                Packet::TwopcAbort(out)
            };
            self.send(peer, Stream::Data, volume, packet);
        }
    }

    /// A node below is lost whose answer is needed. Whoever asked learns it: silence would keep them, and all
    /// others, from any change until twopc-timeout.
    pub(super) fn participant_gives_up(&mut self) {
        if let Some(Active::Participant(p)) = &mut self.twopc.active {
            p.retry = true;
        }
        self.participant_check();
        self.participant_abort();
    }

    /// Gives a foreign transaction up on our own: its initiator is out of reach or silent.
    pub(crate) fn participant_abort(&mut self) {
        let Some(Active::Participant(p)) = self.twopc.active.take() else {
            return;
        };
        self.timers.cancel(Timer::TwoPcTimeout);
        if p.is_connect {
            self.forget_exchange(p.initiator);
        }
        let head = TwopcHead {
            tid: p.tid,
            flags: p.flags,
            initiator: p.initiator,
            target: p.target,
            nodes_to_reach: p.nodes_to_reach,
        };
        let phase2 = TwopcPhase2::with_reachable(head, NodeMask::EMPTY, NodeMask::EMPTY);
        let to = p.children & self.connected_nodes();
        for peer in to.iter() {
            self.send(peer, Stream::Data, p.volume, Packet::TwopcAbort(phase2));
        }
    }
}
