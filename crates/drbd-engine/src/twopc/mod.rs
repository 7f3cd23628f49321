//! Cluster-wide changes: the two-phase commit (state machine, section 5; wire protocol, section 12).
//!
//! One transaction at a time per resource, own or foreign. [`initiator`] coordinates the own ones,
//! [`participant`] answers those of others, [`apply`] is what a committed change does here.

mod apply;
mod early;
mod initiator;
mod participant;
#[cfg(test)]
mod tests;

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use drbd_proto::{
    ConnState, DdsFlags, DiskState, NodeId, NodeMask, ReplState, Role, StateChange, VolumeNr,
};

use crate::command::RetCode;
use crate::engine::Engine;
use crate::id::CmdId;
use crate::rows::Row;
use crate::time::Instant;
pub(crate) use apply::{apply_view, outdate_disks};
pub(crate) use initiator::Initiated;
pub(crate) use participant::{Answered, Participation};

/// The resource's cluster-wide changes.
#[derive(Debug, Default)]
pub(crate) struct TwoPc {
    /// The transaction under way.
    pub active: Option<Active>,
    /// Own changes that wait for their turn.
    pub queue: VecDeque<Request>,
    /// Peers that were lost since the transaction under way began.
    pub lost_meanwhile: NodeMask,
    /// PREPAREs that have overtaken the end of the transaction before them; one of a link at most.
    pub early: Vec<early::Early>,
}

/// The transaction under way.
#[derive(Debug)]
pub(crate) enum Active {
    /// This node coordinates it.
    Initiator(Initiated),
    /// Another node does.
    Participant(Participation),
}

/// An own change that needs the cluster's consent.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// What shall change.
    pub kind: ChangeKind,
    /// Who wants to know the outcome.
    pub requester: Requester,
    /// Attempts that ended in a conflict with another transaction.
    pub retries: u32,
    /// Not to be started earlier.
    pub not_before: Option<Instant>,
}

/// Who wants to know the outcome of a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Requester {
    /// An administrator's command.
    Command(CmdId),
    /// The promotion or demotion under way.
    RoleChange,
    /// The connect attempt of the connection concerned.
    Connect,
    /// The attach of the volume concerned.
    Attach,
    /// Nobody.
    Nobody,
}

/// The kinds of cluster-wide changes (state machine, section 5.8).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ChangeKind {
    /// Become Primary; `lift` makes own disks UpToDate, `outdate` declares unknown peers Outdated.
    Promote { lift: bool, outdate: bool },
    /// Become Secondary; `force` ignores openers.
    Demote { force: bool },
    /// Make a connecting peer a member.
    Connect { peer: NodeId },
    /// Part from a peer in agreement.
    Disconnect { peer: NodeId },
    /// Let go of a disk.
    Detach { volume: VolumeNr },
    /// A disk was attached; compare it with the peers'.
    Attach { volume: VolumeNr },
    /// Start a resync or verify with a peer.
    Resync {
        peer: NodeId,
        volume: VolumeNr,
        repl: ReplState,
    },
    /// Change the size of a volume (section 15.5).
    Resize {
        volume: VolumeNr,
        /// Size asked for in sectors; 0: as large as possible.
        user_size: u64,
        flags: DdsFlags,
    },
    /// Change nothing; learn who is Primary and who is there (section 5.9).
    Empty,
}

impl ChangeKind {
    /// Node that the change is about, if not all.
    pub(crate) fn target(self) -> Option<NodeId> {
        match self {
            ChangeKind::Connect { peer }
            | ChangeKind::Disconnect { peer }
            | ChangeKind::Resync { peer, .. } => Some(peer),
            ChangeKind::Promote { .. }
            | ChangeKind::Demote { .. }
            | ChangeKind::Detach { .. }
            | ChangeKind::Attach { .. }
            | ChangeKind::Resize { .. }
            | ChangeKind::Empty => None,
        }
    }

    /// Volume of the packets' headers.
    pub(crate) fn volume(self) -> VolumeNr {
        match self {
            ChangeKind::Detach { volume }
            | ChangeKind::Attach { volume }
            | ChangeKind::Resize { volume, .. }
            | ChangeKind::Resync { volume, .. } => volume,
            _ => VolumeNr::CONNECTION,
        }
    }

    /// Whether the commit goes out before the own change (section 5.3, 11).
    pub(crate) fn local_last(self) -> bool {
        match self {
            ChangeKind::Demote { .. }
            | ChangeKind::Connect { .. }
            | ChangeKind::Disconnect { .. }
            | ChangeKind::Detach { .. }
            | ChangeKind::Attach { .. }
            | ChangeKind::Resize { .. } => true,
            ChangeKind::Resync { repl, .. } => {
                matches!(repl, ReplState::WFBitMapS | ReplState::VerifyS)
            }
            ChangeKind::Promote { .. } | ChangeKind::Empty => false,
        }
    }

    /// Mask and value of the packets (section 5.8).
    fn change(self, engine: &Engine) -> StateChange {
        let none = StateChange::EMPTY;
        match self {
            ChangeKind::Promote { lift: false, .. } => none.role(Role::Primary),
            ChangeKind::Promote { lift: true, .. } => {
                none.role(Role::Primary).disk(DiskState::UpToDate)
            }
            ChangeKind::Demote { .. } => none.role(Role::Secondary),
            ChangeKind::Connect { .. } => none.conn(ConnState::Connected).role(engine.state.role),
            ChangeKind::Disconnect { peer } => {
                let change = none.conn(ConnState::Disconnecting);
                match engine.outdate_on_disconnect(peer) {
                    OutdateOnDisconnect::Nobody => change,
                    OutdateOnDisconnect::Peer => change.peer_disk(DiskState::Outdated),
                    OutdateOnDisconnect::Own => change.disk(DiskState::Outdated),
                }
            }
            ChangeKind::Detach { .. } => none.disk(DiskState::Detaching),
            ChangeKind::Attach { .. } => none.disk(DiskState::Negotiating),
            ChangeKind::Resync { repl, .. } => none.repl(repl),
            ChangeKind::Resize { .. } | ChangeKind::Empty => none,
        }
    }
}

/// Whose disks become Outdated by a graceful disconnect (state machine, section 12.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OutdateOnDisconnect {
    Nobody,
    Peer,
    Own,
}

impl Engine {
    /// Queues an own change.
    pub(crate) fn twopc_request(&mut self, kind: ChangeKind, requester: Requester) {
        self.twopc.queue.push_back(Request {
            kind,
            requester,
            retries: 0,
            not_before: None,
        });
    }

    /// Queues an own change that failed a moment ago and shall be tried again.
    pub(crate) fn twopc_request_after(
        &mut self,
        kind: ChangeKind,
        requester: Requester,
        delay: Duration,
    ) {
        // Never in the same event: what is in the way must get a chance to go away.
        let delay = delay.max(Duration::from_millis(1));
        self.twopc.queue.push_back(Request {
            kind,
            requester,
            retries: 0,
            not_before: Some(self.now + delay),
        });
    }

    /// Takes back own changes that were not begun, without an answer to anybody.
    pub(crate) fn twopc_withdraw(&mut self, kind: ChangeKind) {
        self.twopc.queue.retain(|r| r.kind != kind);
    }

    /// Runs the empty transaction soon, unless one waits already (section 5.9).
    pub(crate) fn want_empty_twopc(&mut self) {
        let waits = self.twopc.queue.iter().any(|r| r.kind == ChangeKind::Empty);
        if !waits {
            self.twopc_request(ChangeKind::Empty, Requester::Nobody);
        }
    }

    /// Whether a change concerns this connection, waiting or under way as its initiator.
    pub(crate) fn twopc_connecting(&self, peer: NodeId) -> bool {
        let kind = ChangeKind::Connect { peer };
        self.twopc.queue.iter().any(|r| r.kind == kind)
            || matches!(&self.twopc.active, Some(Active::Initiator(i)) if i.request.kind == kind)
    }

    /// Starts what waits, decides what is complete.
    pub(crate) fn twopc_settle(&mut self) {
        match self.twopc.active {
            Some(Active::Initiator(_)) => self.initiator_check(),
            Some(Active::Participant(_)) => self.participant_check(),
            None => self.twopc_early_go_on(),
        }
        // A start that is decided at once (nobody to ask) makes room for the next.
        while self.twopc.active.is_none() {
            let now = self.now;
            let due = self
                .twopc
                .queue
                .iter()
                .position(|r| r.not_before.is_none_or(|t| t <= now));
            let Some(request) = due.and_then(|i| self.twopc.queue.remove(i)) else {
                break;
            };
            self.initiator_start(request);
        }
        let next = self.twopc.queue.iter().filter_map(|r| r.not_before).min();
        match (self.twopc.active.is_none(), next) {
            (true, Some(at)) => self.timers.set(crate::timer::Timer::TwoPcRetry, at),
            _ => self.timers.cancel(crate::timer::Timer::TwoPcRetry),
        }
    }

    /// Whether an own change waits that could start now.
    pub(crate) fn twopc_startable(&self) -> bool {
        self.twopc.active.is_none()
            && self
                .twopc
                .queue
                .iter()
                .any(|r| r.not_before.is_none_or(|at| at <= self.now))
    }

    /// The transaction under way took too long (twopc-timeout).
    pub(crate) fn twopc_timeout(&mut self) {
        match self.twopc.active {
            Some(Active::Initiator(_)) => {
                self.note(Row::I7e);
                self.initiator_end(Err(RetCode::TIMEOUT));
            }
            Some(Active::Participant(_)) => {
                self.note(Row::Q7c);
                self.participant_abort();
            }
            None => {}
        }
    }

    /// A peer's streams are gone (section 5.5).
    pub(crate) fn twopc_peer_lost(&mut self, peer: NodeId) {
        if self.state.cstate(peer) == ConnState::Connected {
            self.twopc.lost_meanwhile.insert(peer);
        }
        self.twopc_early_lost(peer);
        match &mut self.twopc.active {
            Some(Active::Initiator(i)) if i.waiting.contains(peer) => {
                self.rows.note(Row::ILost);
                i.waiting.remove(peer);
                i.retry = true;
            }
            Some(Active::Initiator(i)) if i.request.kind.target() == Some(peer) => {
                self.rows.note(Row::ILostTarget);
                i.retry = true;
            }
            Some(Active::Participant(p)) => {
                let lost_child = p.waiting.contains(peer);
                p.parents.remove(peer);
                p.waiting.remove(peer);
                if lost_child {
                    self.rows.note(Row::Q7b);
                    self.participant_gives_up();
                } else if p.parents.is_empty() {
                    self.rows.note(Row::Q7a);
                    self.participant_abort();
                }
            }
            _ => {}
        }
    }

    /// Whose disks a graceful disconnect outdates (section 12.5).
    fn outdate_on_disconnect(&self, peer: NodeId) -> OutdateOnDisconnect {
        let Some(conn) = self.conns.get(&peer) else {
            return OutdateOnDisconnect::Nobody;
        };
        let wanted = conn.options.fencing >= crate::options::Fencing::ResourceOnly
            || self.quorum_configured();
        let peer_role = self
            .state
            .conns
            .get(&peer)
            .map_or(Role::Unknown, |c| c.peer_role);
        match (wanted, self.state.role, peer_role) {
            (true, Role::Primary, Role::Secondary) => OutdateOnDisconnect::Peer,
            (true, Role::Secondary, Role::Primary) => OutdateOnDisconnect::Own,
            _ => OutdateOnDisconnect::Nobody,
        }
    }

    /// Whether this node is Primary and can reach UpToDate data on some volume.
    fn primary_with_data(&self) -> bool {
        self.state.role == Role::Primary
            && self
                .volumes
                .keys()
                .any(|v| self.data_accessible(&self.state, *v))
    }

    /// Directly connected nodes that understand cluster-wide changes, and this node.
    pub(crate) fn reach(&self) -> NodeMask {
        self.connected_nodes().with(self.node_id)
    }
}
