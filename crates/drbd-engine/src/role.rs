//! Promotion and demotion (state machine, section 10).

use alloc::vec::Vec;
use core::time::Duration;

use drbd_proto::{ConnState, DiskState, NodeId, NodeMask, Role, UuidFlags, VolumeNr};

use crate::command::{Reply, RetCode};
use crate::connection::PingWaiter;
use crate::effect::OpenError;
use crate::engine::Engine;
use crate::fencing::Fenced;
use crate::id::{CmdId, OpenId};
use crate::time::Instant;
use crate::timer::Timer;
use crate::twopc::{ChangeKind, Requester};

/// Attempts before a promotion gives up.
const MAX_ATTEMPTS: u32 = 4;

/// A promotion or demotion under way.
#[derive(Debug)]
pub(crate) struct RoleChange {
    /// Who asked.
    asker: Asker,
    /// The role to have.
    to: Role,
    force: bool,
    /// An opener does not wait for a second attempt.
    once: bool,
    /// Own disks become UpToDate with it.
    lift: bool,
    /// Unknown peers are declared Outdated with it.
    outdate: bool,
    /// Peers that could not be reached are fenced already, or cannot be.
    fencing: Fencing,
    attempts: u32,
    stage: Stage,
    /// Peers whose answer to a ping is missing.
    pinged: NodeMask,
    /// Until when settling may last.
    settle_until: Instant,
    /// Until when an automatic promotion may be retried.
    give_up: Instant,
}

impl RoleChange {
    /// Whether this node is to be Secondary.
    pub(crate) fn demotes(&self) -> bool {
        self.to == Role::Secondary
    }
}

/// Who wants another role.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asker {
    /// A command.
    Command(CmdId),
    /// Somebody who opens the device for writing (auto-promote).
    Opener(OpenId),
    /// The last writer has closed the device.
    LastClose,
    /// `down` demotes first.
    Down,
}

/// How far the fencing of unreachable peers has come.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Fencing {
    /// Peers whose handler runs.
    running: NodeMask,
    /// Own data is not known to be the newest: only then is it taken for that.
    for_data: bool,
    /// It was tried, for want of data and because a peer is neither there nor outdated.
    tried_for_data: bool,
    tried: bool,
    /// Some peer is known to be harmless; some is not.
    any: bool,
    failed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Waiting for answers to pings.
    Pinging,
    /// Waiting for fence-peer handlers.
    Fencing,
    /// Waiting for states that are about to change by themselves, or for writes to finish.
    Settling,
    /// The cluster-wide change is under way.
    Proposing,
    /// Waiting before the next attempt.
    Backoff,
}

impl RoleChange {
    /// Whether the cluster is being asked.
    pub(crate) fn is_proposing(&self) -> bool {
        self.stage == Stage::Proposing
    }
}

impl Engine {
    /// `primary` and `secondary`.
    pub(crate) fn role_command(&mut self, cmd: CmdId, to: Role, force: bool) {
        self.request_role(Asker::Command(cmd), to, force);
    }

    /// Somebody opens the device for writing; with `once` there is no second attempt.
    pub(crate) fn promote_for(&mut self, open: OpenId, once: bool) {
        self.request_role(Asker::Opener(open), Role::Primary, false);
        if let Some(r) = self.role_change.as_mut()
            && r.asker == Asker::Opener(open)
        {
            r.once = once;
        }
    }

    /// The last writer has closed the device.
    pub(crate) fn demote_after_close(&mut self) {
        self.request_role(Asker::LastClose, Role::Secondary, false);
    }

    fn request_role(&mut self, asker: Asker, to: Role, force: bool) {
        if self.role_change.is_some() {
            return self.tell_asker(asker, Err(RetCode::CONCURRENT_ST_CHG));
        }
        if self.state.role == to && !(to == Role::Secondary && force) {
            return self.tell_asker(asker, Ok(RetCode::NOTHING_TO_DO));
        }
        let max_ping = self
            .conns
            .values()
            .map(|c| c.options.ping_timeout)
            .max()
            .unwrap_or(Duration::ZERO);
        let patience = self.options.auto_promote_timeout + max_ping;
        self.role_change = Some(RoleChange {
            asker,
            to,
            force,
            once: false,
            lift: false,
            outdate: false,
            fencing: Fencing::default(),
            attempts: 0,
            stage: Stage::Pinging,
            pinged: NodeMask::EMPTY,
            settle_until: self.now + patience,
            give_up: self.now + patience,
        });
        self.role_change_begin();
    }

    fn role_change_begin(&mut self) {
        let connected = self.connected_nodes();
        let Some(r) = self.role_change.as_mut() else {
            return;
        };
        r.attempts += 1;
        if r.to != Role::Primary {
            r.stage = Stage::Settling;
            return self.role_change_step();
        }
        r.stage = Stage::Pinging;
        r.pinged = connected;
        if connected.is_empty() {
            r.stage = Stage::Settling;
            return self.role_change_step();
        }
        for peer in connected.iter() {
            self.ping_for(peer, PingWaiter::RoleChange);
        }
    }

    /// A peer answered, or is gone.
    pub(crate) fn role_change_ping(&mut self, peer: NodeId) {
        let Some(r) = self.role_change.as_mut() else {
            return;
        };
        r.pinged.remove(peer);
        if r.stage == Stage::Pinging && r.pinged.is_empty() {
            r.stage = Stage::Settling;
            self.role_change_step();
        }
    }

    /// Tries to go on; called when anything changed, and by its timer.
    pub(crate) fn role_change_step(&mut self) {
        let Some(r) = &self.role_change else { return };
        match r.stage {
            Stage::Pinging | Stage::Proposing | Stage::Fencing => {}
            Stage::Backoff => {
                if !self.timers.is_set(Timer::RoleChange) {
                    self.role_change_begin();
                }
            }
            Stage::Settling if r.to == Role::Primary => {
                let until = r.settle_until;
                if self.settled() || self.now >= until {
                    self.timers.cancel(Timer::RoleChange);
                    self.role_change_propose();
                } else {
                    self.timers.set(Timer::RoleChange, until);
                }
            }
            Stage::Settling => {
                // Demotion: all writes are finished first.
                if self.data_idle() || r.force {
                    self.role_change_propose();
                } else {
                    self.data_close_epoch();
                }
            }
        }
    }

    /// Whether no state is about to get better by itself (section 10.2, 1).
    fn settled(&self) -> bool {
        let consistent = |d: DiskState| d == DiskState::Consistent;
        !self.state.devices.iter().any(|(v, d)| {
            consistent(d.disk)
                || self
                    .state
                    .peers_of(*v)
                    .any(|(_, c, pd)| c.cstate == ConnState::Connected && consistent(pd.pdisk))
                || (self.owes_reconciliation(*v)
                    && matches!(d.disk, DiskState::Outdated | DiskState::Inconsistent))
        })
    }

    fn role_change_propose(&mut self) {
        let Some(r) = self.role_change.as_mut() else {
            return;
        };
        r.stage = Stage::Proposing;
        let kind = match r.to {
            Role::Primary => ChangeKind::Promote {
                lift: r.lift,
                outdate: r.outdate,
            },
            _ => ChangeKind::Demote { force: r.force },
        };
        self.twopc_request(kind, Requester::RoleChange);
    }

    /// The cluster-wide change has ended.
    pub(crate) fn role_change_decided(&mut self, result: Result<RetCode, RetCode>) {
        let Some(r) = self.role_change.as_mut() else {
            return;
        };
        let code = match result {
            Ok(code) => return self.role_change_done(code),
            Err(code) => code,
        };
        let promote = r.to == Role::Primary;
        let again = r.attempts < MAX_ATTEMPTS;
        let auto = matches!(r.asker, Asker::Opener(_)) && !r.once;
        match code {
            RetCode::TIMEOUT | RetCode::CONCURRENT_ST_CHG | RetCode::IN_TRANSIENT_STATE => {
                // Conflicts with others pass; they do not count as attempts.
                r.attempts -= 1;
                let delay = self.twopc_backoff(1).max(Duration::from_millis(20));
                return self.role_change_retry(delay);
            }
            RetCode::NO_UP_TO_DATE_DISK if r.force && promote && !r.lift && again => {
                r.lift = true;
                return self.role_change_retry(Duration::ZERO);
            }
            // A peer was fenced, and now there it is.
            RetCode::CW_FAILED_BY_PEER if promote && r.fencing.any && r.lift && again => {
                r.lift = false;
                return self.role_change_retry(Duration::ZERO);
            }
            RetCode::NO_UP_TO_DATE_DISK
                if promote && !r.lift && !r.fencing.tried_for_data && again =>
            {
                r.fencing = Fencing {
                    for_data: true,
                    tried_for_data: true,
                    ..r.fencing
                };
                if self.role_change_fence() {
                    return;
                }
                return self.role_change_decided(result);
            }
            RetCode::PRIMARY_NOP if r.force && promote && r.lift && !r.outdate && again => {
                r.outdate = true;
                return self.role_change_retry(Duration::ZERO);
            }
            RetCode::PRIMARY_NOP if promote && !r.fencing.tried && again => {
                r.fencing = Fencing {
                    for_data: false,
                    tried: true,
                    ..r.fencing
                };
                if !self.role_change_fence() {
                    self.role_change_fencing_done();
                }
                return;
            }
            RetCode::NO_QUORUM if r.force && promote && !r.outdate && again => {
                r.outdate = true;
                return self.role_change_retry(Duration::ZERO);
            }
            RetCode::TWO_PRIMARIES if promote && r.attempts == 1 => {
                return self.role_change_retry(Duration::from_millis(500));
            }
            RetCode::CW_FAILED_BY_PEER | RetCode::TWO_PRIMARIES | RetCode::NO_UP_TO_DATE_DISK
                if auto && self.now < r.give_up =>
            {
                r.attempts = 1;
                return self.role_change_retry(Duration::from_millis(100));
            }
            _ => {}
        }
        let Some(r) = self.role_change.take() else {
            return;
        };
        self.tell_asker(r.asker, Err(code));
    }

    /// Has peers fenced that are in the way of a promotion (section 10.2, 2). False: there is none.
    fn role_change_fence(&mut self) -> bool {
        let Some(for_data) = self.role_change.as_ref().map(|r| r.fencing.for_data) else {
            return false;
        };
        let unsure = |e: &Engine| {
            let mut disks = e.state.devices.values();
            disks.any(|d| d.disk == DiskState::Consistent)
        };
        // Who does not care for fencing is no reason to take own data for the newest (a deviation).
        let peers: Vec<NodeId> = self
            .conns
            .iter()
            .filter(|(n, c)| {
                self.state.cstate(**n) < ConnState::Connected
                    && c.options.fencing != crate::options::Fencing::DontCare
                    && (!for_data || self.best_peer_disk(**n) == DiskState::Unknown)
            })
            .map(|(n, _)| *n)
            .collect();
        if peers.is_empty() || (for_data && !unsure(self)) {
            return false;
        }
        if let Some(r) = self.role_change.as_mut() {
            r.stage = Stage::Fencing;
            r.fencing.any = false;
            r.fencing.failed = false;
        }
        for peer in peers {
            let fenced = self.fence(peer);
            let Some(r) = self.role_change.as_mut() else {
                return true;
            };
            match fenced {
                Fenced::Running => r.fencing.running.insert(peer),
                Fenced::Yes => r.fencing.any = true,
                Fenced::No => r.fencing.failed = true,
            }
        }
        if self
            .role_change
            .as_ref()
            .is_some_and(|r| r.fencing.running.is_empty())
        {
            self.role_change_fencing_done();
        }
        true
    }

    /// A fence-peer handler has ended.
    pub(crate) fn role_change_fenced(&mut self, peer: NodeId, harmless: bool) {
        let Some(r) = self.role_change.as_mut() else {
            return;
        };
        if r.stage != Stage::Fencing || !r.fencing.running.contains(peer) {
            return;
        }
        r.fencing.running.remove(peer);
        r.fencing.any |= harmless;
        r.fencing.failed |= !harmless;
        if r.fencing.running.is_empty() {
            self.role_change_fencing_done();
        }
    }

    fn role_change_fencing_done(&mut self) {
        let Some(r) = self.role_change.as_mut() else {
            return;
        };
        let (any, failed) = (r.fencing.any, r.fencing.failed);
        if r.fencing.for_data && (failed || !any) {
            return self.role_change_decided(Err(RetCode::NO_UP_TO_DATE_DISK));
        }
        if r.fencing.for_data || (failed && r.force) {
            r.lift = true;
        }
        self.role_change_retry(Duration::ZERO);
    }

    fn role_change_retry(&mut self, delay: Duration) {
        if let Some(r) = self.role_change.as_mut() {
            r.stage = Stage::Backoff;
        }
        self.timers.set(Timer::RoleChange, self.now + delay);
    }

    fn role_change_done(&mut self, code: RetCode) {
        let Some(r) = self.role_change.take() else {
            return;
        };
        self.timers.cancel(Timer::RoleChange);
        if r.to == Role::Primary {
            if let Asker::Command(_) = r.asker {
                self.promoted_by_command = true;
            }
            if r.lift {
                self.forced_generation();
            }
        } else {
            self.promoted_by_command = false;
        }
        if r.to == Role::Primary {
            let peers: Vec<NodeId> = self.connected_nodes().iter().collect();
            let volumes: Vec<VolumeNr> = self.volumes.keys().copied().collect();
            for &v in &volumes {
                for &peer in &peers {
                    if r.lift {
                        self.send_uuids(peer, v, UuidFlags::NONE);
                        self.consider_resync_after_force(peer, v);
                    }
                    self.send_state(peer, v);
                }
            }
        }
        self.update_limits();
        self.tell_asker(r.asker, Ok(code));
    }

    /// Both Inconsistent nodes start the initial sync after a forced promotion (section 10.2, 5).
    fn consider_resync_after_force(&mut self, peer: NodeId, v: VolumeNr) {
        let inconsistent = self.state.pdisk(peer, v) == DiskState::Inconsistent
            || self.state.pdisk(peer, v) == DiskState::Outdated;
        if let (true, Some(known)) = (inconsistent, self.peer_device_mut(peer, v)) {
            known.flags.consider_resync = true;
        }
    }

    /// The new generation of a forced promotion (section 10.2, 4).
    fn forced_generation(&mut self) {
        let volumes: Vec<VolumeNr> = self.volumes.keys().copied().collect();
        for v in volumes {
            if self.state.disk(v) == DiskState::UpToDate {
                self.new_current_uuid(v, true);
            }
            if let Some(volume) = self.volumes.get_mut(&v) {
                volume.flags.new_cur_uuid = false;
            }
        }
    }

    /// `down` of a Primary.
    pub(crate) fn demote_for_down(&mut self) {
        self.request_role(Asker::Down, Role::Secondary, false);
    }

    fn tell_asker(&mut self, asker: Asker, result: Result<RetCode, RetCode>) {
        let code = match result {
            Ok(code) | Err(code) => code,
        };
        match asker {
            Asker::Command(cmd) => self.reply(cmd, Reply::new(code)),
            Asker::Opener(open) => {
                // Whatever is in the way of a writer: the device is read-only (section 10.3).
                let answer = result.map(drop).map_err(|_| OpenError::ReadOnly);
                self.finish_open(open, answer);
            }
            Asker::LastClose => {}
            Asker::Down => {
                if let Err(code) = result {
                    self.down_failed(code);
                }
            }
        }
    }
}
