//! What a cluster-wide change does on this node: checked in the first phase, applied in the second
//! (state machine, sections 5.4, 5.6 and 5.8).

use alloc::vec::Vec;

use drbd_meta::flags::PeerFlags;
use drbd_proto::packet::TwopcPhase2;
use drbd_proto::{ConnState, DiskState, NodeId, NodeMask, ReplState, Role, TwopcFlags, VolumeNr};

use crate::command::RetCode;
use crate::effect::LogLevel;
use crate::engine::Engine;
use crate::rows::Row;
use crate::state::State;
use crate::state::change::ChangeFlags;
use crate::twopc::{ChangeKind, OutdateOnDisconnect, Participation};

impl Engine {
    /// The initiator's own check before it asks anybody.
    pub(super) fn check_locally(&self, kind: ChangeKind) -> Result<RetCode, RetCode> {
        if kind == ChangeKind::Empty {
            return Ok(RetCode::SUCCESS);
        }
        if let ChangeKind::Resize { volume, .. } = kind {
            return self.may_resize(volume);
        }
        if let ChangeKind::Connect { peer } = kind {
            // What the connect does to the volumes is known after the exchange only.
            return self.would_change(ChangeFlags::SOFT, |s| {
                if let Some(c) = s.conns.get_mut(&peer) {
                    c.cstate = ConnState::Connected;
                }
            });
        }
        let (flags, modify) = self.own_modification(kind, NodeMask::EMPTY);
        self.would_change(flags, modify)
    }

    /// What an own change does to the state. `reachable`: nodes that took part.
    fn own_modification(
        &self,
        kind: ChangeKind,
        reachable: NodeMask,
    ) -> (ChangeFlags, impl FnOnce(&mut State) + use<>) {
        let mut flags = ChangeFlags::SOFT;
        if let ChangeKind::Demote { force } = kind {
            flags.ignore_openers = force;
        }
        if let ChangeKind::Disconnect { .. } = kind {
            flags.ignore_outdate_failure = true;
        }
        let outdate = match kind {
            ChangeKind::Disconnect { peer } => self.outdate_on_disconnect(peer),
            _ => OutdateOnDisconnect::Nobody,
        };
        let with_bitmap: Vec<(NodeId, VolumeNr)> = self
            .conns
            .iter()
            .flat_map(|(n, c)| c.peers.iter().map(move |(v, k)| (*n, *v, k.options.bitmap)))
            .filter(|(_, _, bitmap)| *bitmap)
            .map(|(n, v, _)| (n, v))
            .collect();
        let modify = move |s: &mut State| match kind {
            ChangeKind::Promote { lift, outdate } => {
                s.role = Role::Primary;
                for (n, v) in &with_bitmap {
                    let Some(pd) = s.pd_mut(*n, *v) else { continue };
                    // A node that took part but is no neighbour outdates itself (section 5.6).
                    if pd.pdisk == DiskState::Unknown && (outdate || reachable.contains(*n)) {
                        pd.pdisk = DiskState::Outdated;
                    }
                }
                if lift {
                    lift_disks(s);
                }
            }
            ChangeKind::Demote { .. } => s.role = Role::Secondary,
            ChangeKind::Disconnect { peer } => {
                if outdate == OutdateOnDisconnect::Own {
                    outdate_disks(s);
                }
                if let Some(c) = s.conns.get_mut(&peer) {
                    c.cstate = ConnState::Disconnecting;
                    if outdate == OutdateOnDisconnect::Peer {
                        for pd in c
                            .peers
                            .values_mut()
                            .filter(|p| p.pdisk > DiskState::Outdated)
                        {
                            pd.pdisk = DiskState::Outdated;
                        }
                    }
                }
            }
            ChangeKind::Detach { volume } => set_disk(s, volume, DiskState::Detaching),
            // A disk that is being detached by force stays on its way out.
            ChangeKind::Attach { volume } if s.disk(volume) != DiskState::Detaching => {
                set_disk(s, volume, DiskState::Negotiating);
            }
            ChangeKind::Resync { peer, volume, repl } => {
                if let Some(pd) = s.pd_mut(peer, volume) {
                    pd.repl = repl;
                }
            }
            ChangeKind::Attach { .. }
            | ChangeKind::Connect { .. }
            | ChangeKind::Resize { .. }
            | ChangeKind::Empty => {}
        };
        (flags, modify)
    }

    /// The initiator applies its own change.
    pub(super) fn apply_own(
        &mut self,
        kind: ChangeKind,
        primary_nodes: NodeMask,
        weak_nodes: NodeMask,
        reachable: NodeMask,
    ) -> Result<RetCode, RetCode> {
        let incapable = !primary_nodes.is_empty() && weak_nodes.is_empty();
        match kind {
            ChangeKind::Connect { peer } => {
                // A Primary without any data changes none behind our back; also with a connect.
                let far = !incapable && self.far_primary(primary_nodes, Some(peer));
                self.members.insert(peer);
                self.forget_waiting_dagtags(self.node_id, peer);
                self.apply_connect(peer, far, primary_nodes)
            }
            ChangeKind::Empty => {
                self.apply_empty(primary_nodes, incapable);
                Ok(RetCode::SUCCESS)
            }
            ChangeKind::Disconnect { peer } => {
                let far = self.far_primary_without(primary_nodes, peer);
                let (flags, modify) = self.own_modification(kind, reachable);
                self.change(
                    ChangeFlags {
                        recalc: true,
                        ..flags
                    },
                    |s| {
                        modify(s);
                        if far {
                            outdate_disks(s);
                        }
                    },
                )
            }
            _ => {
                let (flags, modify) = self.own_modification(kind, reachable);
                self.change(flags, modify)
            }
        }
    }

    /// Whether a Primary exists that this node does not see directly; `also` counts as seen.
    ///
    /// A Primary that was lost after it had answered is no news: it may be gone altogether, and the empty
    /// transaction that follows its loss finds out (a deviation: the reference outdates itself).
    fn far_primary(&self, primary_nodes: NodeMask, also: Option<NodeId>) -> bool {
        let mut seen = self.reach() | self.twopc.lost_meanwhile;
        if let Some(peer) = also {
            seen.insert(peer);
        }
        !primary_nodes.minus(seen).is_empty()
    }

    fn far_primary_without(&self, primary_nodes: NodeMask, without: NodeId) -> bool {
        !primary_nodes
            .minus(self.reach().without(without))
            .is_empty()
    }

    /// A participant's check in the first phase.
    pub(super) fn check_remote(&self, p: &Participation, from: NodeId) -> Result<RetCode, RetCode> {
        if p.is_connect {
            return self.check_remote_connect(p);
        }
        let Some(peer) = p.affected else {
            return self.check_far_away(p, from);
        };
        if p.change.is_empty() {
            return Ok(RetCode::SUCCESS);
        }
        let flags = ChangeFlags {
            ignore_outdate_failure: true,
            ..ChangeFlags::SOFT
        };
        let view = p.change.peer_view();
        let volume = p.volume;
        self.would_change(flags, |s| apply_view(s, peer, volume, view))
    }

    fn check_remote_connect(&self, p: &Participation) -> Result<RetCode, RetCode> {
        let peer = p.initiator;
        if self.state.cstate(peer) != ConnState::Connecting {
            self.note(Row::V2);
            return Err(RetCode::IN_TRANSIENT_STATE);
        }
        if self.role_change.as_ref().is_some_and(|r| r.is_proposing()) {
            self.note(Row::V3);
            return Err(RetCode::IN_TRANSIENT_STATE);
        }
        let role = p.change.get_role().unwrap_or(Role::Unknown);
        if role == Role::Primary && !self.two_primaries(peer) {
            if self.state.role == Role::Primary {
                self.note(Row::V4);
                return Err(RetCode::TWO_PRIMARIES);
            }
            let read_open = self
                .volumes
                .values()
                .any(|v| v.openers.values().any(|w| !*w));
            if read_open {
                self.note(Row::V5);
                return Err(RetCode::PRIMARY_READER);
            }
        }
        Ok(RetCode::SUCCESS)
    }

    /// A change between others (section 5.6, 1).
    fn check_far_away(&self, p: &Participation, from: NodeId) -> Result<RetCode, RetCode> {
        if p.volume.is_connection_wide()
            && p.change.get_role() == Some(Role::Primary)
            && p.change.mask.conn() == 0
            && self.state.role == Role::Primary
        {
            if !self.two_primaries(from) {
                self.note(Row::V6);
                return Err(RetCode::TWO_PRIMARIES);
            }
            if self.volumes.values().any(|v| v.disk.is_some()) {
                self.note(Row::V7);
                return Err(RetCode::WEAKLY_CONNECTED);
            }
        }
        Ok(RetCode::SUCCESS)
    }

    /// A participant applies a committed change.
    pub(super) fn apply_remote(&mut self, p: &Participation, phase2: &TwopcPhase2) {
        let initiator = p.initiator;
        let reachable = phase2.reachable_nodes();
        let incapable = phase2.head.flags.contains(TwopcFlags::PRI_INCAPABLE);
        self.learn_members(p, reachable);
        if p.is_connect {
            let far = !incapable && self.far_primary(phase2.primary_nodes, Some(initiator));
            if let Err(code) = self.apply_connect(initiator, far, phase2.primary_nodes) {
                self.log_at(
                    LogLevel::Error,
                    Some(initiator),
                    None,
                    alloc::format!("cannot apply a committed connect: code {}", code.0),
                );
            }
            return;
        }
        if p.change.is_empty() && p.volume.is_connection_wide() {
            self.note_invisible_to(p);
            return self.apply_empty(phase2.primary_nodes, incapable);
        }
        let disconnects =
            p.volume.is_connection_wide() && p.change.get_conn() == Some(ConnState::Disconnecting);
        let view = p.change.peer_view();
        let (affected, volume) = (p.affected, p.volume);
        let far = match affected {
            Some(peer) if disconnects => self.far_primary_without(phase2.primary_nodes, peer),
            Some(_) => self.far_primary(phase2.primary_nodes, None),
            None => !incapable && self.far_primary(phase2.primary_nodes, None),
        };
        let outdate: Vec<VolumeNr> = self
            .volumes
            .values_mut()
            .filter_map(|v| core::mem::take(&mut v.flags.outdate_on_commit).then_some(v.nr))
            .collect();
        if let (true, Some(peer)) = (disconnects, affected)
            && let Some(conn) = self.conns.get_mut(&peer)
        {
            conn.flags.disconnect_expected = true;
        }
        // The check was in the first phase; now it is a fact.
        let flags = ChangeFlags {
            ignore_outdate_failure: true,
            recalc: true,
            ..ChangeFlags::HARD
        };
        let result = self.change(flags, |s| {
            if let Some(peer) = affected {
                apply_view(s, peer, volume, view);
            }
            if far {
                outdate_disks(s);
            }
            for v in outdate {
                if s.disk(v) > DiskState::Outdated {
                    set_disk(s, v, DiskState::Outdated);
                }
            }
        });
        if let Err(code) = result {
            self.log_at(
                LogLevel::Error,
                Some(initiator),
                None,
                alloc::format!("cannot apply a committed change: code {}", code.0),
            );
        }
    }

    /// Who is a member now (section 5.6, 5). A mask that lacks its own initiator means nothing (section 5.2).
    fn learn_members(&mut self, p: &Participation, reachable: Option<NodeMask>) {
        let quorate = self.state.devices.values().all(|d| d.have_quorum)
            || self
                .conns
                .values()
                .any(|c| !c.peers.is_empty() && c.peers.values().all(|k| k.flags.quorate));
        if let Some(mask) = reachable {
            if quorate && mask.contains(p.initiator) && mask.contains(self.node_id) {
                self.members = mask;
            } else if quorate && p.target == Some(self.node_id) && mask.contains(self.node_id) {
                // The partition of a disconnect's target.
                self.members = mask;
            }
        }
        if p.volume.is_connection_wide() && p.change.get_conn() == Some(ConnState::Connected) {
            self.members.insert(p.initiator);
            if let Some(target) = p.target {
                self.members.insert(target);
                self.forget_waiting_dagtags(p.initiator, target);
            }
        }
        self.members.insert(self.node_id);
    }

    /// An empty change of a node that cannot see this Primary: that node will outdate itself
    /// (section 5.6, 2).
    fn note_invisible_to(&mut self, p: &Participation) {
        if self.state.role != Role::Primary || p.affected.is_some() {
            return;
        }
        let initiator = p.initiator;
        if self.conns.contains_key(&initiator) {
            let _ = self.change(ChangeFlags::HARD, |s| {
                if let Some(c) = s.conns.get_mut(&initiator) {
                    for pd in c
                        .peers
                        .values_mut()
                        .filter(|x| x.pdisk > DiskState::Outdated)
                    {
                        pd.pdisk = DiskState::Outdated;
                    }
                }
            });
            return;
        }
        for volume in self.volumes.values_mut() {
            let Some(disk) = volume.disk.as_mut() else {
                continue;
            };
            if let Some(entry) = disk.meta.sb.peers.get_mut(initiator.index()) {
                entry.flags.insert(PeerFlags::OUTDATED);
            }
        }
        self.md_touch();
    }

    /// The empty change is committed (section 5.9).
    fn apply_empty(&mut self, primary_nodes: NodeMask, incapable: bool) {
        let far = !incapable && self.far_primary(primary_nodes, None);
        // One that was lost meanwhile is still a reason not to return.
        let unsure = !incapable && !primary_nodes.minus(self.reach()).is_empty();
        let returning: Vec<VolumeNr> = self
            .volumes
            .keys()
            .copied()
            .filter(|v| {
                self.state.disk(*v) == DiskState::Consistent
                    && self.may_be_up_to_date(&self.state, *v)
            })
            .collect();
        let flags = ChangeFlags::RECALC;
        let _ = self.change(flags, |s| {
            if far {
                outdate_disks(s);
            } else if !unsure {
                for v in returning {
                    set_disk(s, v, DiskState::UpToDate);
                }
            }
        });
    }
}

/// Applies a change that concerns the connection to its initiator, in this node's view.
pub(crate) fn apply_view(
    s: &mut State,
    peer: NodeId,
    volume: VolumeNr,
    view: drbd_proto::StateChange,
) {
    if let Some(disk) = view.get_disk() {
        let volumes: Vec<VolumeNr> = match volume.get() {
            Some(_) => alloc::vec![volume],
            None => s.devices.keys().copied().collect(),
        };
        // A worse disk does not become Outdated (section 3.4, B2).
        for v in volumes {
            set_disk(s, v, disk);
        }
    }
    let Some(conn) = s.conns.get_mut(&peer) else {
        return;
    };
    if let Some(role) = view.get_peer() {
        conn.peer_role = role;
    }
    if volume.is_connection_wide() {
        if let Some(cstate) = view.get_conn() {
            conn.cstate = cstate;
        }
        if let Some(pdisk) = view.get_peer_disk() {
            for pd in conn.peers.values_mut() {
                let sinks = pdisk == DiskState::Outdated && pd.pdisk > pdisk;
                let rises = pdisk == DiskState::UpToDate
                    && (DiskState::Inconsistent..DiskState::UpToDate).contains(&pd.pdisk)
                    && pd.pdisk != DiskState::Unknown;
                if sinks || rises {
                    pd.pdisk = pdisk;
                }
            }
        }
        return;
    }
    let Some(pd) = conn.peers.get_mut(&volume) else {
        return;
    };
    if let Some(pdisk) = view.get_peer_disk() {
        pd.pdisk = pdisk;
    }
    if let Some(repl) = view.get_repl() {
        pd.repl = repl;
    }
}

fn set_disk(s: &mut State, v: VolumeNr, disk: DiskState) {
    if let Some(d) = s.devices.get_mut(&v) {
        d.disk = disk;
    }
}

/// All own disks above Outdated become Outdated (section 5.6, 3).
pub(crate) fn outdate_disks(s: &mut State) {
    for d in s.devices.values_mut() {
        if d.disk > DiskState::Outdated {
            d.disk = DiskState::Outdated;
        }
    }
}

/// The lift of a forced promotion (section 10.2, 3).
fn lift_disks(s: &mut State) {
    let volumes: Vec<VolumeNr> = s.devices.keys().copied().collect();
    for v in volumes {
        let disk = s.disk(v);
        let peer_has = s
            .peers_of(v)
            .any(|(_, _, pd)| pd.pdisk == DiskState::UpToDate);
        if !(DiskState::Inconsistent..DiskState::UpToDate).contains(&disk) || peer_has {
            continue;
        }
        set_disk(s, v, DiskState::UpToDate);
        for conn in s.conns.values_mut() {
            let target = conn
                .peers
                .get(&v)
                .is_some_and(|pd| pd.is_sync_target() || pd.repl == ReplState::WFBitMapT);
            if target && conn.cstate == ConnState::Connected {
                conn.cstate = ConnState::TearDown;
            }
        }
    }
}
