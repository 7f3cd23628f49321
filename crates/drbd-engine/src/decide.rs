//! The handshake decision in the life of the resource: its facts, and what follows from it (state machine,
//! section 8). The decision itself is in [`crate::decision`].

use alloc::format;

use drbd_meta::flags::PeerFlags;
use drbd_proto::{
    ConnState, DiskState, Features, NodeId, NodeMask, ReplState, Role, State as WireState,
    UuidFlags, VolumeNr,
};

use crate::bitmap::Slot;
use crate::command::RetCode;
use crate::decision::{
    BitmapAction, Decision, Facts, LostPrimary, Occasion, Outcome, Policies, Rule, Sent, Side,
    Strategy, decide,
};
use crate::effect::LogLevel;
use crate::engine::Engine;
use crate::rows::Row;
use crate::state::change::ChangeFlags;
use crate::volume::FullSync;

impl Engine {
    /// What the meeting of two copies leads to: replication state, peer disk, and whether the own disk is
    /// outdated by it. `Err`: HANDSHAKE_RETRY or HANDSHAKE_DISCONNECT.
    pub(crate) fn decide(
        &mut self,
        peer: NodeId,
        v: VolumeNr,
        state: &WireState,
        pdisk: DiskState,
    ) -> Result<(ReplState, DiskState, bool), RetCode> {
        let own_diskful = self.local_disk_at_least(v, DiskState::Negotiating);
        let peer_diskful = pdisk >= DiskState::Inconsistent && pdisk != DiskState::Unknown;
        match (own_diskful, peer_diskful) {
            (true, true) => {
                let occasion = if self.state.cstate(peer) == ConnState::Connected
                    && (self.state.disk(v) == DiskState::Negotiating
                        || state.disk == DiskState::Negotiating)
                {
                    Occasion::Attach
                } else {
                    Occasion::Connect
                };
                let repl = self.decide_diskful(peer, v, state, pdisk, occasion)?;
                Ok((repl, pdisk, false))
            }
            (false, true) => self.meet_disk_without_own(peer, v, state, pdisk),
            (true, false) => {
                let outdate = self.peer_device(peer, v).is_some_and(|k| k.moved_on)
                    && self.state.disk(v) > DiskState::Outdated;
                if outdate {
                    self.note(Row::M10);
                }
                Ok((ReplState::Established, pdisk, outdate))
            }
            (false, false) => Ok((ReplState::Established, pdisk, false)),
        }
    }

    fn decide_diskful(
        &mut self,
        peer: NodeId,
        v: VolumeNr,
        state: &WireState,
        pdisk: DiskState,
        occasion: Occasion,
    ) -> Result<ReplState, RetCode> {
        let decision = self.decision(peer, v, state, pdisk, occasion)?;
        self.log_at(
            LogLevel::Info,
            Some(peer),
            Some(v),
            format!(
                "uuid_compare()={:?} by rule={}",
                decision.strategy,
                decision.rule.name()
            ),
        );
        if decision.strategy.is_target() && self.is_older_than_shown(peer, v) {
            let text = "has older data than those in use here: it has to be resynced first";
            self.log_at(LogLevel::Info, Some(peer), Some(v), text);
            return Err(RetCode::HANDSHAKE_RETRY);
        }
        if decision.strategy.is_target() && self.is_about_to_be_resynced(peer, v) {
            return Err(RetCode::HANDSHAKE_RETRY);
        }
        for handler in &decision.handlers {
            self.call(*handler, Some(peer), Some(v));
        }
        // The generation of a node that met a crashed Primary is the same: it is not old.
        // Nor is that of one that has what a Primary has.
        let served = self.state.role == Role::Secondary
            && decision.strategy == Strategy::SyncTargetPrimaryReconnect;
        let would_be_target = decision.rule != Rule::CrashedPrimary
            && !served
            && (decision.strategy.is_target() || decision.found.is_target());
        if let Some(known) = self.peer_device_mut(peer, v) {
            known.would_be_target = would_be_target;
        }
        match decision.outcome {
            Outcome::Repl(repl) => {
                if decision.demote {
                    let flags = ChangeFlags {
                        ignore_openers: true,
                        ..ChangeFlags::HARD
                    };
                    let _ = self.change(flags, |s| s.role = Role::Secondary);
                }
                self.apply_decision(peer, v, &decision);
                Ok(repl)
            }
            Outcome::Retry => {
                if would_be_target {
                    self.force_secondary(peer);
                }
                Err(RetCode::HANDSHAKE_RETRY)
            }
            Outcome::Disconnect => {
                let overwrite = "connect --discard-my-data";
                let (what, means) = match decision.strategy {
                    // Section 8.7: not even the wish to discard decides here.
                    Strategy::UnrelatedData => ("unrelated data: no common history", "create-md"),
                    s if s.is_split_brain() => {
                        let what = "split brain: both sides were written without the other";
                        (what, overwrite)
                    }
                    _ => ("no way to bring both to the same data", overwrite),
                };
                self.log_at(
                    LogLevel::Error,
                    Some(peer),
                    Some(v),
                    format!(
                        "{what} ({:?}, rule {}): not connecting; see the data on both nodes, then \
                         use {means} on the one to be overwritten",
                        decision.strategy,
                        decision.rule.name()
                    ),
                );
                Err(RetCode::HANDSHAKE_DISCONNECT)
            }
            Outcome::NoResult => Err(RetCode::HANDSHAKE_DISCONNECT),
        }
    }

    /// Whether this disk is Outdated only because a node that outlived a crashed Primary is about to resync it, and
    /// the crashed one asks to be its source for that. Neither knows it of the other yet; once the resync runs, the
    /// comparison takes care of it.
    fn is_about_to_be_resynced(&self, peer: NodeId, v: VolumeNr) -> bool {
        let crashed = |flags: UuidFlags| flags.contains(UuidFlags::CRASHED_PRIMARY);
        let exchanges = |repl| matches!(repl, ReplState::WFBitMapT | ReplState::WFSyncUUID);
        let theirs = self.peer_device(peer, v).map(|k| k.uuids.flags);
        theirs.is_some_and(crashed)
            && self
                .volumes
                .get(&v)
                .is_some_and(|x| !x.flags.crashed_primary)
            && self
                .state
                .peers_of(v)
                .any(|(n, _, pd)| n != peer && exchanges(pd.repl))
    }

    /// Everything the decision depends on.
    pub(crate) fn decision(
        &mut self,
        peer: NodeId,
        v: VolumeNr,
        state: &WireState,
        pdisk: DiskState,
        occasion: Occasion,
    ) -> Result<Decision, RetCode> {
        let connecting = self.state.cstate(peer) < ConnState::Connected;
        let mut own_disk = self.state.disk(v);
        let negotiating = |disk| disk == DiskState::Negotiating;
        let attaching = match (negotiating(own_disk), negotiating(state.disk)) {
            (mine, theirs) if mine != theirs => Some(mine),
            _ => None,
        };
        if own_disk == DiskState::Negotiating {
            own_disk = self.disk_state_from_md(&self.state, v);
        }
        let flags = self.uuid_flags(peer, v);
        let resolved = self.resolved_uuid(peer, v).0;
        let bits = self.bitmap_weight(peer, v);
        let other_resync = self
            .state
            .peers_of(v)
            .any(|(n, _, pd)| n != peer && pd.repl.is_sync_target());
        let reconcile = self.common_lost_primary(peer);
        let me = Side {
            role: self.state.role,
            disk: own_disk,
            quorum: self.state.devices.get(&v).is_some_and(|d| d.have_quorum),
        };
        let other = Side {
            role: state.role,
            disk: pdisk,
            quorum: state.quorum,
        };
        let can_demote = self.volumes.values().all(|x| x.openers.is_empty());
        let quorum = self.quorum_configured();
        let (Some(nodes), Some(disk), Some(conn)) =
            (self.nodes(v), self.disk_ref(v), self.conns.get(&peer))
        else {
            return Err(RetCode::HANDSHAKE_DISCONNECT);
        };
        let Some(known) = conn.peers.get(&v) else {
            return Err(RetCode::HANDSHAKE_DISCONNECT);
        };
        let follows_nobody = !known.uuids.flags.contains(UuidFlags::STABLE)
            && known.uuids.node_mask.iter().any(|n| {
                self.state
                    .conns
                    .get(&n)
                    .is_some_and(|c| c.peer_role == Role::Secondary)
            });
        let served = me.disk == DiskState::UpToDate
            && me.role == Role::Secondary
            && self.state.conns.iter().any(|(n, c)| {
                *n != peer
                    && c.peer_role == Role::Primary
                    && c.peers.get(&v).is_some_and(|pd| {
                        pd.repl == ReplState::Established && pd.pdisk == DiskState::UpToDate
                    })
                    && self.same_generation(*n, v)
            });
        // Of a peer that is connecting only the peer knows that. Not if fencing keeps it from it: that ends with this peer.
        let connected = |n: &NodeId| self.state.cstate(*n) == ConnState::Connected;
        let allowed = self.owes_reconciliation(v) || self.may_be_up_to_date(&self.state, v);
        let finds_out = [
            allowed && self.state.conns.keys().any(connected),
            connected(&peer),
        ];
        let sent = Sent {
            current: known.sent.current,
            bitmap: known.sent.bitmap,
            flags: known.sent.flags,
            bits: known.sent.bits,
        };
        let facts = Facts {
            occasion,
            peer,
            pv: u32::from(conn.apv()),
            resolve_conflicts: conn.resolve_conflicts,
            mine: &disk.gen_ids,
            resolved,
            flags,
            sent: connecting.then_some(sent),
            with_slot: nodes.with_slot(),
            reported: nodes.reported(),
            bits,
            theirs: &known.uuids,
            me,
            other,
            source_missed_end: known.flags.source_missed_end,
            peer_missed_end: known.flags.peer_missed_end,
            reconcile,
            compare_leftover: self.has_feature(peer, Features::COMPARE_LEFTOVER),
            other_resync,
            follows_nobody,
            finds_out,
            served,
            attaching,
            can_demote,
            dry_run: conn.flags.dry_run,
            policies: Policies {
                after_sb: [
                    conn.options.after_sb_0pri,
                    conn.options.after_sb_1pri,
                    conn.options.after_sb_2pri,
                ],
                always_asbp: conn.options.always_asbp,
                rr_conflict: conn.options.rr_conflict,
                protocol: conn.options.protocol,
                quorum,
            },
        };
        let decision = decide(&facts);
        self.rows.add(&decision.rows);
        Ok(decision)
    }

    /// Lost Primaries that were named in this handshake (section 8.6).
    fn common_lost_primary(&self, peer: NodeId) -> Option<LostPrimary> {
        let conn = self.conns.get(&peer)?;
        if !conn.has(Features::RECONCILE_RECONNECT) {
            return None;
        }
        let offset = conn.named_lost_primary.and_then(|(node, theirs)| {
            let own = self.conns.get(&node)?.last_dagtag;
            Some(own.0.wrapping_sub(theirs.0) as i64)
        });
        Some(LostPrimary {
            named: conn.named_to_peer,
            offset,
        })
    }

    /// What a decision does to identifiers and bitmaps (section 8.8).
    pub(crate) fn apply_decision(&mut self, peer: NodeId, v: VolumeNr, decision: &Decision) {
        let dagtag = self.data_dagtag();
        for fixup in &decision.fixups {
            let Some(volume) = self.volumes.get_mut(&v) else {
                return;
            };
            let Some(disk) = volume.disk.as_mut() else {
                return;
            };
            let Some(known) = self.conns.get_mut(&peer).and_then(|c| c.peers.get_mut(&v)) else {
                return;
            };
            fixup.apply(peer, &mut disk.gen_ids, &mut known.uuids, dagtag);
            // Own identifiers may change here; that is no surprise to this handshake.
            known.sent.bitmap = disk.gen_ids.bitmap(peer);
        }
        if !decision.fixups.is_empty() {
            self.md_touch();
        }
        if decision.reconciliation
            && let Some(known) = self.peer_device_mut(peer, v)
        {
            known.flags.reconciliation_resync = true;
        }
        let Some(slot) = self.slot_of(peer, v) else {
            return;
        };
        // A crashed Primary may have lost what it wrote, and an Inconsistent disk has gaps: only their own marks
        // tell where, whatever the source knows about other nodes (a deviation).
        let crashed = self
            .volumes
            .get(&v)
            .is_some_and(|x| x.flags.crashed_primary);
        // The same holds for what this disk got from a crashed Primary meanwhile, and the source never had. The bits
        // of a disk that never had another generation than the first one mean nothing.
        let got = decision.strategy.is_target()
            && self
                .disk_ref(v)
                .is_some_and(|d| d.gen_ids.history().iter().any(|u| !u.is_none()));
        let own_marks_count = crashed || got || self.state.disk(v) == DiskState::Inconsistent;
        match decision.bitmap {
            BitmapAction::Keep => return,
            BitmapAction::Clear if own_marks_count => return,
            BitmapAction::Clear => self.clear_bitmap(peer, v),
            BitmapAction::SetAll => return self.set_all_bits(v, peer.mask()),
            BitmapAction::SetAllSlots => return self.set_all_bits(v, NodeMask::ALL),
            BitmapAction::CopyFrom(node) => {
                let from: Option<Slot> = self
                    .slot_of(node, v)
                    .or_else(|| self.nodes(v).and_then(|n| n.free_slot()));
                // A resync of that node has taken marks away which this peer needs.
                if self
                    .peer_device(node, v)
                    .is_some_and(|k| k.flags.slot_touched)
                {
                    return self.set_all_bits(v, peer.mask());
                }
                match (from, self.disk_mut(v)) {
                    // Not instead of what is known about this peer: a resync of the other node may have
                    // cleared bits since (invariant M6).
                    (Some(from), Some(disk)) => disk.bitmap.merge_slot(from, slot),
                    (None, _) => return self.set_all_bits(v, peer.mask()),
                    _ => {}
                }
            }
        }
        self.data_bitmap_writeout(v);
    }

    /// Sets all bits towards some nodes; the full-sync flag covers it until the bitmap is written
    /// (metadata, section 4.3). Every slot, also unassigned ones, for all nodes.
    pub(crate) fn set_all_bits(&mut self, v: VolumeNr, nodes: NodeMask) {
        let Some(disk) = self.disk_mut(v) else { return };
        if nodes == NodeMask::ALL {
            disk.bitmap.set_all_slots();
        }
        for n in NodeId::all().filter(|n| nodes.contains(*n)) {
            let Some(entry) = disk.meta.sb.peers.get_mut(n.index()) else {
                continue;
            };
            let Some(slot) = entry.bitmap_index else {
                continue;
            };
            entry.flags.insert(PeerFlags::FULL_SYNC);
            disk.bitmap.set_all(Slot(slot));
        }
        disk.full_sync = FullSync::Flagged;
        self.md_touch();
    }

    /// The flags are durable: the bitmap follows. It is on the disk: it speaks for itself again.
    pub(crate) fn full_sync_progress(&mut self) {
        let volumes: alloc::vec::Vec<VolumeNr> = self.volumes.keys().copied().collect();
        for v in volumes {
            let Some(disk) = self.disk_ref(v) else {
                continue;
            };
            match disk.full_sync {
                FullSync::No => {}
                FullSync::Flagged => {
                    if !self.md_dirty && disk.meta.is_settled() {
                        if let Some(disk) = self.disk_mut(v) {
                            disk.full_sync = FullSync::Writing;
                        }
                        self.data_bitmap_writeout(v);
                    }
                }
                FullSync::Writing => {
                    if !self.data_bitmap_written(v) {
                        continue;
                    }
                    if let Some(disk) = self.disk_mut(v) {
                        disk.full_sync = FullSync::No;
                        for entry in &mut disk.meta.sb.peers {
                            entry.flags.remove(PeerFlags::FULL_SYNC);
                        }
                    }
                    self.md_touch();
                }
            }
        }
    }

    // ----- re-evaluation without reconnect (section 8.11) ---------------------------------------------

    /// A connected peer offers, or asks for, a comparison.
    pub(crate) fn offers(&mut self, peer: NodeId, v: VolumeNr, new: &crate::uuid::PeerUuids) {
        let established = self.state.repl(peer, v) == ReplState::Established;
        let has_disk = self.local_disk_at_least(v, DiskState::Inconsistent);
        if !established || !has_disk {
            return;
        }
        if new.flags.contains(UuidFlags::GOT_STABLE) && self.stable(&self.state, v).0 {
            self.send_uuids(peer, v, UuidFlags::RESYNC);
            self.compare_again(peer, v, false);
        } else if new.flags.contains(UuidFlags::RESYNC) {
            let disk_states = new.flags.contains(UuidFlags::DISKLESS_PRIMARY);
            self.compare_again(peer, v, disk_states);
        }
    }

    /// Compares with an Established peer and starts what follows.
    pub(crate) fn compare_again(&mut self, peer: NodeId, v: VolumeNr, disk_states: bool) {
        let Some(state) = self.peer_device(peer, v).and_then(|k| k.last_state) else {
            return;
        };
        let pdisk = self.state.pdisk(peer, v);
        let diskful = pdisk >= DiskState::Inconsistent && pdisk != DiskState::Unknown;
        if !diskful {
            return;
        }
        let occasion = Occasion::Resync { disk_states };
        let Ok(decision) = self.decision(peer, v, &state, pdisk, occasion) else {
            return;
        };
        self.log_at(
            LogLevel::Info,
            Some(peer),
            Some(v),
            format!(
                "compared again: {:?} by rule={}",
                decision.strategy,
                decision.rule.name()
            ),
        );
        let Outcome::Repl(mut repl) = decision.outcome else {
            return;
        };
        let own = self.state.disk(v);
        // Both crashed, and there is nothing to transfer between disks that are worth the same: a resync
        // would change nothing, and its end would be offered to all others again, for ever.
        let theirs = self.peer_device(peer, v).map_or(0, |k| k.uuids.dirty_bits);
        let bits = theirs != 0 || self.bitmap_weight(peer, v) != 0;
        let pointless = matches!(
            decision.strategy,
            crate::decision::Strategy::SourceIfBothFailed
                | crate::decision::Strategy::TargetIfBothFailed
        ) && own == pdisk
            && !bits;
        if pointless {
            return;
        }
        self.apply_decision(peer, v, &decision);
        // Equal generations, but one side knows that it missed writes of this one, or may have: it was resynced by
        // a node that was not connected to the Primary of that time. The bitmaps tell which. A kernel's DRBD would
        // not take part: to it they are equal.
        let both = self.has_feature(peer, Features::COMPARE_LEFTOVER);
        if (disk_states || bits) && both && repl == ReplState::Established {
            repl = match (own, pdisk) {
                (DiskState::UpToDate, DiskState::Outdated) => ReplState::WFBitMapS,
                (DiskState::Outdated, DiskState::UpToDate) => ReplState::WFBitMapT,
                // It has just lost the Primary, and the marks are of that.
                (DiskState::Consistent, DiskState::Outdated) if bits => ReplState::WFBitMapS,
                (DiskState::Outdated, DiskState::Consistent) if bits => ReplState::WFBitMapT,
                _ => repl,
            };
        }
        let _ = self.change(ChangeFlags::HARD, |s| {
            if let Some(pd) = s.pd_mut(peer, v) {
                pd.repl = repl;
            }
            if repl == ReplState::Established
                && own == DiskState::Outdated
                && pdisk >= DiskState::Consistent
                && let Some(d) = s.devices.get_mut(&v)
            {
                d.disk = pdisk;
            }
        });
    }
}
