//! What a change must not do (state machine, sections 3.5 and 3.6).

use drbd_proto::{ConnState, DiskState, NodeId, ReplState, Role, VolumeNr};

use crate::command::RetCode;
use crate::engine::Engine;
use crate::options::Fencing;
use crate::rows::Row;
use crate::state::State;
use crate::state::change::ChangeFlags;

impl Engine {
    /// A rule forbids it.
    fn no(&self, row: Row, code: RetCode) -> Result<(), RetCode> {
        self.note(row);
        Err(code)
    }

    /// Rules that hold even for facts.
    pub(crate) fn hard_check(&self, new: &State) -> Result<(), RetCode> {
        for (peer, conn) in &new.conns {
            let old = self.state.cstate(*peer);
            let to = conn.cstate;
            if old == to {
                continue;
            }
            match old {
                ConnState::StandAlone if to == ConnState::Disconnecting => {
                    return self.no(Row::H1, RetCode::ALREADY_STANDALONE);
                }
                ConnState::StandAlone if to != ConnState::Unconnected => {
                    return self.no(Row::H2, RetCode::NEED_CONNECTION);
                }
                ConnState::Timeout
                | ConnState::BrokenPipe
                | ConnState::NetworkFailure
                | ConnState::ProtocolError
                | ConnState::TearDown
                    if to != ConnState::Unconnected && to != ConnState::Disconnecting =>
                {
                    return self.no(Row::H3, RetCode::IN_TRANSIENT_STATE);
                }
                ConnState::Disconnecting if to != ConnState::StandAlone => {
                    return self.no(Row::H4, RetCode::IN_TRANSIENT_STATE);
                }
                _ => {}
            }
        }
        for (v, device) in &new.devices {
            if self.state.disk(*v) == DiskState::Diskless
                && matches!(device.disk, DiskState::Failed | DiskState::Detaching)
            {
                return self.no(Row::H5, RetCode::IS_DISKLESS);
            }
        }
        Ok(())
    }

    /// Rules for changes that somebody asks for; the first one broken counts.
    pub(crate) fn soft_check(&self, flags: ChangeFlags, new: &State) -> Result<(), RetCode> {
        let old = &self.state;
        let promoting = old.role != Role::Primary && new.role == Role::Primary;
        let demoting = old.role == Role::Primary && new.role == Role::Secondary;
        if promoting {
            for (peer, conn) in &new.conns {
                if conn.peer_role == Role::Primary && !self.two_primaries(*peer) {
                    return self.no(Row::T1, RetCode::TWO_PRIMARIES);
                }
            }
            if self.handshaking().is_some() {
                return self.no(Row::T2, RetCode::IN_TRANSIENT_STATE);
            }
            if old.fail_io {
                return self.no(Row::T3, RetCode::DEVICE_IN_USE);
            }
        }
        for (peer, conn) in &new.conns {
            self.check_connection(*peer, conn.cstate, conn.peer_role, new)?;
        }
        for v in new.devices.keys() {
            self.check_device(flags, new, *v, demoting)?;
        }
        Ok(())
    }

    fn check_connection(
        &self,
        peer: NodeId,
        to: ConnState,
        peer_role: Role,
        new: &State,
    ) -> Result<(), RetCode> {
        let from = self.state.cstate(peer);
        let old_role = self
            .state
            .conns
            .get(&peer)
            .map_or(Role::Unknown, |c| c.peer_role);
        // What else rule 4 says about connections is said by the hard checks, which come first.
        if from == ConnState::Unconnected && to == ConnState::Disconnecting {
            return self.no(Row::T4c, RetCode::IN_TRANSIENT_STATE);
        }
        if old_role != Role::Primary && peer_role == Role::Primary && !self.two_primaries(peer) {
            if new.role == Role::Primary {
                return self.no(Row::T4d, RetCode::TWO_PRIMARIES);
            }
            let read_only = self
                .volumes
                .values()
                .any(|v| v.openers.values().any(|w| !w));
            if read_only && !new.fail_io {
                return self.no(Row::T4e, RetCode::PRIMARY_READER);
            }
        }
        Ok(())
    }

    fn check_device(
        &self,
        flags: ChangeFlags,
        new: &State,
        v: VolumeNr,
        demoting: bool,
    ) -> Result<(), RetCode> {
        let old = &self.state;
        let (from, to) = (old.disk(v), new.disk(v));
        let openers = self.volumes.get(&v).map(|vol| &vol.openers);
        let write_open = openers.is_some_and(|o| o.values().any(|w| *w));
        let read_open = openers.is_some_and(|o| o.values().any(|w| !*w));
        if self.handshaking().is_some()
            && ((from == DiskState::Diskless && to == DiskState::Attaching)
                || (from > DiskState::Detaching && to == DiskState::Detaching))
        {
            return self.no(Row::T51, RetCode::IN_TRANSIENT_STATE);
        }
        if demoting && write_open && !flags.ignore_openers {
            return self.no(Row::T52, RetCode::DEVICE_IN_USE);
        }
        if from == DiskState::Diskless && to > DiskState::Attaching {
            return self.no(Row::T53, RetCode::IS_DISKLESS);
        }
        let target_done = old.peers_of(v).any(|(n, _, pd)| {
            pd.repl == ReplState::SyncTarget && new.repl(n, v) == ReplState::Established
        });
        if to == DiskState::Outdated
            && from < DiskState::Outdated
            && !matches!(from, DiskState::Attaching | DiskState::Negotiating)
            && !target_done
        {
            return self.no(Row::T54, RetCode::LOWER_THAN_OUTDATED);
        }
        let had_data = self.data_accessible(old, v);
        let has_data = self.data_accessible(new, v);
        if new.role == Role::Primary && !has_data && (old.role != Role::Primary || had_data) {
            return self.no(Row::T55, RetCode::NO_UP_TO_DATE_DISK);
        }
        if read_open && had_data && !has_data {
            return self.no(Row::T56, RetCode::NO_UP_TO_DATE_DISK);
        }
        let quorum = |s: &State| s.devices.get(&v).is_none_or(|d| d.have_quorum);
        if (old.role == Role::Secondary || quorum(old)) && new.role == Role::Primary && !quorum(new)
        {
            return self.no(Row::T57, RetCode::NO_QUORUM);
        }
        self.check_peers(new, v, from, to)
    }

    fn check_peers(
        &self,
        new: &State,
        v: VolumeNr,
        from: DiskState,
        to: DiskState,
    ) -> Result<(), RetCode> {
        let old = &self.state;
        let negotiating = usize::from(to == DiskState::Negotiating)
            + new
                .peers_of(v)
                .filter(|(_, _, pd)| pd.pdisk == DiskState::Negotiating)
                .count();
        let was = usize::from(from == DiskState::Negotiating)
            + old
                .peers_of(v)
                .filter(|(_, _, pd)| pd.pdisk == DiskState::Negotiating)
                .count();
        if negotiating > 1 && negotiating > was {
            return self.no(Row::T58a, RetCode::IN_TRANSIENT_STATE);
        }
        for (peer, _, pd) in new.peers_of(v) {
            let before = old.pd(peer, v).cloned().unwrap_or_default();
            let net = self.conns.get(&peer).map(|c| &c.options);
            let fencing = net.map_or(Fencing::DontCare, |o| o.fencing);
            let unfenced = |s: &State, pd: &crate::state::PeerDeviceState| {
                s.role == Role::Primary
                    && pd.repl < ReplState::Established
                    && pd.pdisk > DiskState::Outdated
            };
            if fencing >= Fencing::ResourceOnly && unfenced(new, pd) && !unfenced(old, &before) {
                return self.no(Row::T58b, RetCode::PRIMARY_NOP);
            }
            // No resync comes here without its two disks: blocks C and E have ended it, or made them Inconsistent.
            if from > DiskState::Outdated && to == DiskState::Outdated && !self.outdatable(new, v) {
                return self.no(Row::T58e, RetCode::CONNECTED_OUTDATES);
            }
            let changes = pd.repl != before.repl;
            if changes
                && pd.repl == ReplState::VerifyS
                && net.is_none_or(|o| o.verify_alg.is_empty())
            {
                return self.no(Row::T58f, RetCode::NO_VERIFY_ALG);
            }
            // The reference names a source that is to be source again, and a target likewise. Two offers that
            // cross would turn a running resync round: both disks end Inconsistent.
            let bitmaps = matches!(pd.repl, ReplState::WFBitMapS | ReplState::WFBitMapT);
            if changes && bitmaps && before.repl > ReplState::Established {
                return self.no(Row::T58g, RetCode::RESYNC_RUNNING);
            }
            let starting = matches!(pd.repl, ReplState::StartingSyncS | ReplState::StartingSyncT);
            let verifying = matches!(pd.repl, ReplState::VerifyS | ReplState::VerifyT);
            if changes && (starting || verifying) {
                if before.repl > ReplState::Established {
                    return self.no(Row::T58h, RetCode::RESYNC_RUNNING);
                }
                if before.repl < ReplState::Established {
                    return self.no(Row::T58i, RetCode::NEED_CONNECTION);
                }
            }
            let wants_bitmap = self.peer_device(peer, v).is_none_or(|k| k.options.bitmap);
            if !wants_bitmap
                && before.pdisk == DiskState::Diskless
                && pd.pdisk > DiskState::Diskless
                && pd.pdisk != DiskState::Unknown
            {
                return self.no(Row::T58j, RetCode::ATTACH_NO_BITMAP);
            }
        }
        Ok(())
    }

    /// Whether a volume may be outdated (state machine, section 14.6).
    fn outdatable(&self, new: &State, v: VolumeNr) -> bool {
        let target_like = |r: ReplState| {
            matches!(
                r,
                ReplState::WFBitMapT
                    | ReplState::WFSyncUUID
                    | ReplState::StartingSyncT
                    | ReplState::SyncTarget
                    | ReplState::PausedSyncT
                    | ReplState::Behind
            )
        };
        if new.role == Role::Primary {
            return new.peers_of(v).any(|(_, _, pd)| {
                pd.repl == ReplState::WFBitMapT && pd.pdisk == DiskState::UpToDate
            });
        }
        !new.any_peer_primary() || new.peers_of(v).any(|(_, _, pd)| target_like(pd.repl))
    }
}
