//! A node without disk and the generation it shows to its applications (state machine, sections 7.11 and 8.9).
//!
//! Such a node believes only data of that generation, or of a later one. But a Primary begins a generation before
//! it can tell anybody: if all its peers are lost at that moment, nobody will ever have it. The reference refuses
//! all peers from then on, until it is restarted. Here a node that nobody uses lets go of the generation, once
//! every node that could have it was met and has not.

use alloc::vec::Vec;

use drbd_proto::{
    ConnState, DiskState, NodeId, ReplState, Role, State as WireState, Uuid, UuidFlags, VolumeNr,
};

use crate::command::RetCode;
use crate::connection::PeerDevice;
use crate::effect::LogLevel;
use crate::engine::Engine;
use crate::options::OnNoQuorum;
use crate::rows::Row;
use crate::state::PeerDeviceState;
use crate::state::change::ChangeFlags;

impl Engine {
    /// Section 8.9: a node without disk meets one with data.
    pub(crate) fn meet_disk_without_own(
        &mut self,
        peer: NodeId,
        v: VolumeNr,
        state: &WireState,
        pdisk: DiskState,
    ) -> Result<(ReplState, DiskState, bool), RetCode> {
        let exposed = self.volumes.get(&v).map(|x| x.exposed).unwrap_or_default();
        let Some(known) = self.peer_device(peer, v) else {
            return Err(RetCode::HANDSHAKE_DISCONNECT);
        };
        let theirs = known.uuids.current;
        let established = Ok((ReplState::Established, pdisk, false));
        if pdisk != DiskState::UpToDate {
            self.note(Row::M0);
            // It will be UpToDate with the connection; what is written until it says so goes to others, and nobody
            // would know that it lacks that. So it gets it from the start (a deviation).
            let others = self
                .state
                .peers_of(v)
                .any(|(n, _, pd)| n != peer && pd.pdisk == DiskState::UpToDate);
            let writes = self.state.role == Role::Primary && others;
            if writes && pdisk == DiskState::Consistent && exposed.same(theirs) {
                return Ok((ReplState::Established, DiskState::UpToDate, false));
            }
            return established;
        }
        if exposed.is_none() {
            self.note(Row::M1);
            self.adopt_exposed(peer, v, theirs);
            return established;
        }
        if exposed.same(theirs) {
            self.note(Row::M2);
            return established;
        }
        let successor = known.uuids.node_of(exposed).is_some() || known.uuids.in_history(exposed);
        if successor {
            if self.state.role == Role::Primary {
                self.note(Row::M3a);
                self.force_secondary(peer);
                return Err(RetCode::HANDSHAKE_RETRY);
            }
            self.note(Row::M3b);
            self.adopt_exposed(peer, v, theirs);
            return established;
        }
        if self.may_relabel(peer, v) {
            // It would take its disk for old when it learns what is shown here: the next attempt shows it what it
            // has (a deviation).
            if let Some(known) = self.peer_device_mut(peer, v)
                && !known.shown.same(theirs)
            {
                known.shown = theirs;
                self.note(Row::M5a);
                return Err(RetCode::HANDSHAKE_RETRY);
            }
            self.note(Row::M5b);
            return established;
        }
        let ancestor = self.conns.iter().any(|(n, c)| {
            *n != peer
                && c.peers.get(&v).is_some_and(|k| {
                    k.uuids.node_of(theirs).is_some() || k.uuids.in_history(theirs)
                })
        });
        let unconfirmed = self
            .volumes
            .get(&v)
            .is_some_and(|x| x.unconfirmed.is_some())
            && self.options.on_no_quorum == OnNoQuorum::SuspendIo;
        if ancestor || unconfirmed || theirs.is_just_created() {
            self.note(match (ancestor, unconfirmed) {
                (true, _) => Row::M4,
                (_, true) => Row::M6,
                _ => Row::M7,
            });
            return Ok((ReplState::Established, DiskState::Outdated, false));
        }
        let _ = state;
        if let Some(known) = self.peer_device_mut(peer, v) {
            known.refused_for = exposed;
        }
        if self.generation_is_lost(v) {
            self.note(Row::M8);
            self.follow_after_loss(peer, v);
            return established;
        }
        self.note(Row::M9);
        self.log_at(
            LogLevel::Error,
            Some(peer),
            Some(v),
            "Current UUID of peer does not match my exposed UUID.",
        );
        Err(RetCode::HANDSHAKE_DISCONNECT)
    }

    /// Whether a peer lacks the generation that applications of this Primary see through another peer, while
    /// the own disk is not up to date. Its data would be newer than the own disk's, and still older than
    /// what applications have read and written. So would be those of a crashed Primary of that generation: it may
    /// have writes that were under way, and that applications have since read as not done. The reference becomes
    /// their target.
    pub(crate) fn is_older_than_shown(&self, peer: NodeId, v: VolumeNr) -> bool {
        let exposed = self.volumes.get(&v).map(|x| x.exposed).unwrap_or_default();
        let lags = self.state.role == Role::Primary
            && self.state.disk(v) < DiskState::UpToDate
            && !exposed.is_none()
            && !exposed.same(self.current_uuid(v));
        let has = |n: NodeId| {
            self.peer_device(n, v).is_some_and(|k| {
                k.uuids.current.same(exposed)
                    || k.uuids.node_of(exposed).is_some()
                    || k.uuids.in_history(exposed)
            })
        };
        let crashed = |n: NodeId| {
            self.peer_device(n, v)
                .is_some_and(|k| k.uuids.flags.contains(UuidFlags::CRASHED_PRIMARY))
        };
        let shown = |n: NodeId| has(n) && !crashed(n);
        lags && !shown(peer)
            && self
                .state
                .peers_of(v)
                .any(|(n, _, pd)| n != peer && pd.pdisk == DiskState::UpToDate && shown(n))
    }

    /// A diskless node shows the generation of the data it met, and tells the others.
    fn adopt_exposed(&mut self, from: NodeId, v: VolumeNr, uuid: Uuid) {
        if uuid.is_none() || uuid.is_just_created() {
            return;
        }
        if let Some(volume) = self.volumes.get_mut(&v) {
            volume.exposed = uuid;
            volume.flags.exposed_without_disk = false;
        }
        let others: alloc::vec::Vec<NodeId> = self
            .connected_nodes()
            .iter()
            .filter(|n| *n != from)
            .collect();
        for peer in others {
            self.send_current_uuid(peer, v, uuid);
        }
    }

    /// Whether nobody has the generation this node shows, and nobody here needs it.
    fn generation_is_lost(&self, v: VolumeNr) -> bool {
        let Some(volume) = self.volumes.get(&v) else {
            return false;
        };
        // The own disk, which is detached, may have it.
        let own = !volume.options.diskless && !volume.flags.exposed_without_disk;
        !own && !self.is_used(v)
            && self.state.disk(v) <= DiskState::Attaching
            && self.conns.iter().all(|(n, c)| {
                let connected = self.state.cstate(*n) == ConnState::Connected;
                match (c.peers.get(&v), self.state.pd(*n, v)) {
                    (Some(known), Some(pd)) => {
                        lacks(known, connected.then_some(pd), volume.exposed)
                    }
                    _ => true,
                }
            })
    }

    /// Whether applications may still know what they have read and written.
    fn is_used(&self, v: VolumeNr) -> bool {
        self.state.role == Role::Primary
            && self.volumes.get(&v).is_some_and(|x| {
                !x.openers.is_empty() || self.data.requests.values().any(|r| r.volume == v)
            })
    }

    /// The data of this peer is the best there is.
    fn follow_after_loss(&mut self, peer: NodeId, v: VolumeNr) {
        let Some(uuid) = self.peer_device(peer, v).map(|k| k.uuids.current) else {
            return;
        };
        self.log_at(
            LogLevel::Warn,
            Some(peer),
            Some(v),
            "No node has the generation that was shown here: following this peer",
        );
        self.adopt_exposed(peer, v, uuid);
    }

    /// Connected peers whose data this diskless node distrusts for a generation that is lost.
    pub(crate) fn distrusted_for_nothing(&self, v: VolumeNr) -> Option<NodeId> {
        let distrusted = self.state.peers_of(v).find(|(n, c, pd)| {
            let usable = matches!(pd.pdisk, DiskState::Outdated | DiskState::Consistent);
            let says = self
                .peer_device(*n, v)
                .and_then(|k| k.last_state)
                .is_some_and(|s| s.disk == DiskState::UpToDate);
            c.cstate == ConnState::Connected && pd.repl == ReplState::Established && usable && says
        });
        let peer = distrusted.map(|(n, _, _)| n)?;
        self.generation_is_lost(v).then_some(peer)
    }

    /// Whether no peer is UpToDate, perhaps only because this diskless Primary shows a generation that is lost.
    pub(crate) fn lost_generation_is_in_the_way(&self, v: VolumeNr) -> bool {
        let shows = self.volumes.get(&v).is_some_and(|x| !x.exposed.is_none());
        let disks: Vec<DiskState> = self.state.peers_of(v).map(|(_, _, pd)| pd.pdisk).collect();
        let known = |d: DiskState| d >= DiskState::Inconsistent && d != DiskState::Unknown;
        shows
            && self.state.role == Role::Primary
            && disks.iter().any(|d| known(*d))
            && !disks.contains(&DiskState::UpToDate)
            && self.generation_is_lost(v)
    }

    /// That lasted too long: nothing is shown any more, and the peers' data are judged without it.
    pub(crate) fn show_nothing(&mut self, v: VolumeNr) {
        self.log_at(
            LogLevel::Warn,
            None,
            Some(v),
            "No node has the generation that was shown here: nobody waits for it any more",
        );
        if let Some(volume) = self.volumes.get_mut(&v) {
            volume.exposed = Uuid::NONE;
            volume.flags.exposed_without_disk = false;
        }
        let peers: Vec<NodeId> = self.connected_nodes().iter().collect();
        for peer in peers {
            self.send_current_uuid(peer, v, Uuid::NONE);
        }
    }

    /// That lasted too long: all that have the data of this peer are UpToDate.
    pub(crate) fn trust_again(&mut self, peer: NodeId, v: VolumeNr) {
        self.follow_after_loss(peer, v);
        self.trust_equals(v);
    }

    /// A peer's disk with newer data is attached while this Secondary without disk is connected: it follows, as it
    /// does when they connect (section 8.9; a deviation: the reference distrusts that disk).
    pub(crate) fn follow_attached(&mut self, peer: NodeId, v: VolumeNr, disk: DiskState) {
        let (Some(volume), Some(known)) = (self.volumes.get(&v), self.peer_device(peer, v)) else {
            return;
        };
        let (exposed, theirs) = (volume.exposed, known.uuids.current);
        let newer = known.uuids.node_of(exposed).is_some() || known.uuids.in_history(exposed);
        if disk == DiskState::UpToDate
            && newer
            && !exposed.is_none()
            && !exposed.same(theirs)
            && self.state.role == Role::Secondary
            && self.state.disk(v) == DiskState::Diskless
            && self.state.repl(peer, v) == ReplState::Established
            && self.state.pdisk(peer, v) < DiskState::UpToDate
        {
            self.adopt_exposed(peer, v, theirs);
            self.trust_equals(v);
        }
    }

    /// All that have the generation shown, and call themselves UpToDate, are.
    fn trust_equals(&mut self, v: VolumeNr) {
        let exposed = self.current_uuid(v);
        let same: Vec<NodeId> = self
            .state
            .peers_of(v)
            .map(|(n, _, _)| n)
            .filter(|n| {
                self.peer_device(*n, v).is_some_and(|k| {
                    k.uuids.current.same(exposed)
                        && k.last_state.is_some_and(|s| s.disk == DiskState::UpToDate)
                })
            })
            .collect();
        let _ = self.change(ChangeFlags::HARD, |s| {
            for n in &same {
                if let Some(pd) = s.pd_mut(*n, v)
                    && pd.repl == ReplState::Established
                {
                    pd.pdisk = DiskState::UpToDate;
                }
            }
        });
    }
}

/// Whether a peer surely lacks a generation: it has none, is connected without it, or came without it.
fn lacks(known: &PeerDevice, connected: Option<&PeerDeviceState>, exposed: Uuid) -> bool {
    if !known.options.bitmap {
        return true;
    }
    let has = known.uuids.current.same(exposed)
        || known.uuids.node_of(exposed).is_some()
        || known.uuids.in_history(exposed);
    if has {
        return false;
    }
    match connected {
        Some(pd) => {
            let gets = known.uuids.flags.contains(UuidFlags::SYNC_TARGET);
            pd.pdisk >= DiskState::Outdated && pd.pdisk != DiskState::Unknown
                || pd.pdisk == DiskState::Inconsistent && !gets
        }
        None => known.refused_for.same(exposed) && !known.refused_for.is_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(pdisk: DiskState) -> PeerDeviceState {
        PeerDeviceState {
            pdisk,
            ..PeerDeviceState::default()
        }
    }

    #[test]
    fn who_surely_lacks_a_generation() {
        let lost = Uuid(0x30);
        let mut peer = PeerDevice::default();
        peer.options.bitmap = true;
        peer.uuids.current = Uuid(0x10);
        assert!(!lacks(&peer, None, lost), "never met since");
        peer.refused_for = Uuid(0x20);
        assert!(!lacks(&peer, None, lost), "refused for an older one");
        peer.refused_for = Uuid(0x31);
        assert!(lacks(&peer, None, lost), "bit 0 is the role");

        let (outdated, diskless) = (state(DiskState::Outdated), state(DiskState::Diskless));
        peer.refused_for = Uuid::NONE;
        assert!(lacks(&peer, Some(&outdated), lost));
        assert!(
            !lacks(&peer, Some(&diskless), lost),
            "its detached disk may have it"
        );
        peer.uuids.flags = UuidFlags::SYNC_TARGET;
        let inconsistent = state(DiskState::Inconsistent);
        assert!(
            !lacks(&peer, Some(&inconsistent), lost),
            "it may be getting it"
        );
        assert!(lacks(&peer, Some(&outdated), lost), "that is over");
        peer.options.bitmap = false;
        assert!(lacks(&peer, Some(&diskless), lost), "a client");

        peer.options.bitmap = true;
        peer.uuids.flags = UuidFlags::NONE;
        peer.uuids.current = Uuid(0x31);
        assert!(!lacks(&peer, Some(&outdated), lost), "it has it");
    }
}
