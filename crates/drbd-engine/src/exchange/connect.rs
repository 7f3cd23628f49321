//! The connect transaction: what both sides decided, and what its commit does.

use alloc::vec::Vec;

use drbd_proto::{ConnState, DiskState, NodeId, NodeMask, ReplState, Role, UuidFlags, VolumeNr};

use crate::command::RetCode;
use crate::connection::Negotiation;
use crate::engine::Engine;
use crate::handshake::Handshake;
use crate::options::OnNoData;
use crate::state::change::ChangeFlags;
use crate::timer::Timer;
use crate::twopc::Active;

use super::HandshakeResult;

impl Engine {
    /// Whether every volume of the connection has its initial state, or a verdict is known.
    pub(crate) fn exchange_complete(&self, peer: NodeId) -> bool {
        let Some(conn) = self.conns.get(&peer) else {
            return false;
        };
        conn.verdict.is_some() || conn.peers.values().all(|k| k.flags.initial_state)
    }

    /// What the exchange found against the connect: HANDSHAKE_RETRY or HANDSHAKE_DISCONNECT.
    pub(crate) fn handshake_verdict(&self, peer: NodeId) -> Option<RetCode> {
        self.conns.get(&peer).and_then(|c| c.verdict)
    }

    /// Notes a verdict; a disconnect outranks a retry.
    pub(crate) fn set_verdict(&mut self, peer: NodeId, verdict: RetCode) {
        if let Some(conn) = self.conns.get_mut(&peer)
            && conn.verdict != Some(RetCode::HANDSHAKE_DISCONNECT)
        {
            conn.verdict = Some(verdict);
        }
    }

    /// The connect transaction was given up; its results mean nothing.
    pub(crate) fn forget_exchange(&mut self, peer: NodeId) {
        let Some(conn) = self.conns.get_mut(&peer) else {
            return;
        };
        if conn.handshake == Handshake::Exchange && self.state.cstate(peer) == ConnState::Connecting
        {
            conn.handshake = Handshake::Ready;
        }
        for known in conn.peers.values_mut() {
            known.flags.initial_state = false;
        }
    }

    /// A node that learned it would have become sync target knows that its data is old (section 6.5).
    pub(crate) fn handshake_outdate(&mut self, peer: NodeId) {
        let secondary = self.state.role == Role::Secondary;
        let force = self.options.force_secondary_when_outdated && self.state.suspended();
        let may = secondary
            || (self.state.suspended() && (self.options.on_no_data == OnNoData::IoError || force));
        if !may {
            return;
        }
        let Some(conn) = self.conns.get(&peer) else {
            return;
        };
        let volumes: Vec<VolumeNr> = conn
            .peers
            .iter()
            .filter(|(_, k)| {
                k.would_be_target
                    || k.handshake_result.is_some_and(|r| {
                        matches!(r.repl, ReplState::WFBitMapT) || r.repl.is_sync_target()
                    })
            })
            .map(|(v, _)| *v)
            .collect();
        if volumes.is_empty() {
            return;
        }
        let _ = self.change(
            ChangeFlags {
                ignore_openers: true,
                ..ChangeFlags::HARD
            },
            |s| {
                for v in volumes {
                    if let Some(d) = s.devices.get_mut(&v)
                        && d.disk > DiskState::Outdated
                    {
                        d.disk = DiskState::Outdated;
                    }
                }
                if force && s.role == Role::Primary {
                    s.role = Role::Secondary;
                }
            },
        );
    }

    /// The others have gone on without this suspended Primary: it gives its role up, if that is wanted (section 13, 7;
    /// on-suspended-primary-outdated force-secondary).
    pub(crate) fn force_secondary(&mut self, peer: NodeId) {
        let wanted = self.options.force_secondary_when_outdated
            && self.state.role == Role::Primary
            && self.state.suspended()
            && !self.state.fail_io;
        if !wanted {
            return;
        }
        self.log_at(
            crate::effect::LogLevel::Warn,
            Some(peer),
            None,
            "the peer has newer data: forced to become Secondary",
        );
        let flags = ChangeFlags {
            ignore_openers: true,
            ..ChangeFlags::HARD
        };
        let _ = self.change(flags, |s| s.role = Role::Secondary);
        self.promoted_by_command = false;
    }

    /// The peer coordinated the connect and ended it (a deviation: in the reference only the node that coordinates
    /// draws this conclusion).
    pub(crate) fn refused_while_suspended(&mut self, peer: NodeId) {
        if self.options.force_secondary_when_outdated && self.state.role == Role::Primary {
            self.handshake_outdate(peer);
        }
    }

    /// The connect is committed: both are members now (section 6.4). `primary_nodes` are those of the transaction.
    pub(crate) fn apply_connect(
        &mut self,
        peer: NodeId,
        far_primary: bool,
        primary_nodes: NodeMask,
    ) -> Result<RetCode, RetCode> {
        // What was decided is about data that nobody has any more; both begin anew.
        if self.moved_on_in_exchange(peer) {
            let text = "the generation changed during the handshake";
            self.fail_connection(peer, ConnState::NetworkFailure, text);
            return Err(RetCode::HANDSHAKE_RETRY);
        }
        let Some(conn) = self.conns.get_mut(&peer) else {
            return Err(RetCode::NEED_CONNECTION);
        };
        // Without volumes there are no state packets that say it.
        let role = match conn.peers.is_empty() {
            true if primary_nodes.contains(peer) => Role::Primary,
            true => Role::Secondary,
            false => conn.exchange_role,
        };
        conn.verdict = None;
        conn.flags.discard_my_data = false;
        let mut results = Vec::new();
        for (v, known) in &mut conn.peers {
            known.flags.discard_my_data = false;
            if let Some(result) = known.handshake_result.take() {
                results.push((*v, result));
            }
        }
        self.timers.cancel(Timer::Handshake(peer));
        self.timers.cancel(Timer::ConnectRetry(peer));
        for (v, result) in &results {
            if self.state.disk(*v) == DiskState::Negotiating
                && let Some(known) = self.peer_device_mut(peer, *v)
            {
                known.negotiation = Negotiation::Repl(result.repl);
            }
        }
        for (v, result) in &mut results {
            if self.follows_at_once(peer, *v, result) {
                result.pdisk = DiskState::UpToDate;
            }
        }
        let flags = ChangeFlags {
            recalc: true,
            ..ChangeFlags::HARD
        };
        self.change(flags, |s| {
            let negotiating: Vec<VolumeNr> = s
                .devices
                .iter()
                .filter(|(_, d)| d.disk == DiskState::Negotiating)
                .map(|(v, _)| *v)
                .collect();
            for (v, result) in &results {
                if (result.outdate || far_primary)
                    && let Some(d) = s.devices.get_mut(v)
                    && d.disk > DiskState::Outdated
                {
                    d.disk = DiskState::Outdated;
                }
            }
            let Some(conn) = s.conns.get_mut(&peer) else {
                return;
            };
            conn.cstate = ConnState::Connected;
            conn.peer_role = role;
            for (v, result) in results {
                let Some(pd) = conn.peers.get_mut(&v) else {
                    continue;
                };
                pd.repl = if negotiating.contains(&v) {
                    ReplState::Established
                } else {
                    result.repl
                };
                pd.pdisk = result.pdisk;
                pd.susp_peer = result.susp_peer;
            }
        })
    }

    /// Whether this node has, or shows to its applications, another generation than it said in the exchange.
    fn moved_on_in_exchange(&self, peer: NodeId) -> bool {
        self.conns.get(&peer).is_some_and(|conn| {
            conn.peers.iter().any(|(v, known)| {
                let sent = known.sent;
                let now = match self.state.disk(*v) {
                    disk if disk >= DiskState::Inconsistent => self.current_uuid(*v),
                    DiskState::Diskless if self.state.role == Role::Primary => {
                        self.shown_to(peer, *v)
                    }
                    _ => sent.current,
                };
                known.handshake_result.is_some()
                    && !sent.flags.contains(UuidFlags::SYNC_TARGET)
                    && !sent.current.is_none()
                    && !sent.current.same(now)
            })
        })
    }

    /// Whether the peer's disk becomes UpToDate by the same commit, because it has this node's data (state
    /// machine, section 3.4, E7 and E9). It says so a moment later; a write that is not sent to it until
    /// then would be missing there, and nothing would ever bring it (a deviation: the reference waits for
    /// the state packet).
    fn follows_at_once(&self, peer: NodeId, v: VolumeNr, result: &HandshakeResult) -> bool {
        result.repl == ReplState::Established
            && matches!(result.pdisk, DiskState::Outdated | DiskState::Consistent)
            && self.state.disk(v) == DiskState::UpToDate
            && self.stable(&self.state, v).0
            && !result.outdate
            && self.same_generation(peer, v)
    }

    /// Whether a connect transaction between this node and `peer` is under way.
    pub(super) fn connect_transaction(&self, peer: NodeId) -> bool {
        match &self.twopc.active {
            Some(Active::Initiator(i)) => {
                i.request.kind == crate::twopc::ChangeKind::Connect { peer }
            }
            Some(Active::Participant(p)) => p.is_connect && p.initiator == peer,
            None => false,
        }
    }
}
