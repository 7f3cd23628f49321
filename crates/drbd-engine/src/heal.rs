//! States that nobody would leave: a disk that is not UpToDate although a peer with the data is connected
//! and no resync is under way or paused.
//!
//! The reference leaves such a disk alone until the next connect (state machine, section 9.6, has a case seen
//! live). Here every wait has an owner and a deadline: after a while this node asks again.
//!
//! Outdated means that another node may have newer data. When every node is here and none has, that is known to
//! be wrong, and the disk with the newest data is UpToDate again; the reference waits for `primary --force`.

use alloc::vec::Vec;
use core::time::Duration;

use drbd_meta::flags::PeerFlags;
use drbd_proto::{ConnState, DiskState, NodeId, ReplState, Role, UuidFlags, VolumeNr};

use crate::decision::{Occasion, Strategy};
use crate::effect::LogLevel;
use crate::engine::Engine;
use crate::options::OnIoError;
use crate::state::change::ChangeFlags;
use crate::timer::Timer;
use crate::twopc::{ChangeKind, Requester};

/// How long such a state may last.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long other business goes before blocks that a peer lacks: until then the marks are all that tells of
/// them.
const OFFER: Duration = Duration::from_millis(50);

impl Engine {
    /// Starts or stops the watch; called after changes of state.
    pub(crate) fn watch_stuck_disks(&mut self) {
        if self.stuck_volumes().is_empty() {
            self.timers.cancel(Timer::Heal);
        } else {
            self.timers.set_if_idle(Timer::Heal, self.now + PATIENCE);
        }
        let due = |v: &VolumeNr| {
            !self.lacking_peers(*v).is_empty()
                || self.waiting_source(*v).is_some()
                || self.source_of_lacking(*v).is_some()
        };
        if self.volumes.keys().any(due) {
            self.timers.set_if_idle(Timer::Offer, self.now + OFFER);
        } else {
            self.timers.cancel(Timer::Offer);
        }
    }

    /// The volumes whose disk waits for nothing.
    fn stuck_volumes(&self) -> Vec<VolumeNr> {
        self.volumes
            .keys()
            .copied()
            .filter(|v| {
                let disk = self.state.disk(*v);
                let waits = matches!(
                    disk,
                    DiskState::Inconsistent | DiskState::Outdated | DiskState::Consistent
                );
                waits && self.is_stuck(*v, disk)
                    || self.distrusted_for_nothing(*v).is_some()
                    || self.lost_generation_is_in_the_way(*v)
                    || self.relabel_candidate(*v).is_some()
                    || self.confirmation_is_late(*v)
            })
            .collect()
    }

    /// A Primary said that this node lacks a write. If the disk is UpToDate and nothing is being transferred, it
    /// thought of it as it was a moment ago: it became UpToDate with the connection, which the Primary learns when it
    /// has let suspended writes go. Or the disk is Consistent, and will be UpToDate without a resync. Nothing would
    /// bring these blocks (a deviation: the reference stays so).
    pub(crate) fn told_lacking(&mut self, peer: NodeId, v: VolumeNr) {
        let unexpected = self.local_disk_at_least(v, DiskState::Outdated)
            && self.state.repl(peer, v) == ReplState::Established
            && self.peer_is_primary(peer);
        if unexpected && let Some(known) = self.peer_device_mut(peer, v) {
            known.flags.told_lacking = true;
            self.watch_stuck_disks();
        }
    }

    /// The Primary that has what this node was told to lack.
    fn source_of_lacking(&self, v: VolumeNr) -> Option<NodeId> {
        if self.state.disk(v) != DiskState::UpToDate {
            return None;
        }
        self.state
            .peers_of(v)
            .find(|(n, _, pd)| {
                pd.repl == ReplState::Established
                    && pd.pdisk == DiskState::UpToDate
                    && self.peer_is_primary(*n)
                    && self.bitmap_weight(*n, v) != 0
                    && self
                        .peer_device(*n, v)
                        .is_some_and(|k| k.flags.told_lacking)
            })
            .map(|(n, _, _)| n)
    }

    /// Peers that lack blocks which this node got in a reconciliation. Their generation is the same, so no
    /// comparison brings them.
    fn lacking_peers(&self, v: VolumeNr) -> Vec<NodeId> {
        let disk = self.state.disk(v);
        self.state
            .peers_of(v)
            .filter(|(n, c, pd)| {
                disk == DiskState::UpToDate
                    && pd.pdisk == DiskState::UpToDate
                    && pd.repl == ReplState::Established
                    && c.peer_role != Role::Primary
                    && self.peer_device(*n, v).is_some_and(|k| {
                        k.flags.lacks_reconciled
                            && (k.uuids.dirty_bits != 0 || self.bitmap_weight(*n, v) != 0)
                    })
                    && self.stable(&self.state, v).0
                    && self.same_generation(*n, v)
            })
            .map(|(n, _, _)| n)
            .collect()
    }

    /// A peer that sent its bitmap and waits for this node's, although this node does not see a resync: they
    /// compared at different moments. What the peer knows to be missing here is missing.
    fn waiting_source(&self, v: VolumeNr) -> Option<NodeId> {
        let disk = self.state.disk(v);
        let target = |repl: ReplState| {
            repl.is_sync_target() || matches!(repl, ReplState::WFBitMapT | ReplState::StartingSyncT)
        };
        let busy = self.state.peers_of(v).any(|(_, _, pd)| target(pd.repl));
        if self.state.role == Role::Primary || disk < DiskState::Inconsistent || busy {
            return None;
        }
        self.state
            .peers_of(v)
            .find(|(n, _, pd)| {
                pd.repl == ReplState::Established
                    && matches!(pd.pdisk, DiskState::Consistent | DiskState::UpToDate)
                    && self.same_generation(*n, v)
                    && self.peer_device(*n, v).is_some_and(|k| {
                        k.data.exchange.complete
                            && k.last_state.is_some_and(|s| s.repl == ReplState::WFBitMapS)
                    })
            })
            .map(|(n, _, _)| n)
    }

    fn is_stuck(&self, v: VolumeNr, disk: DiskState) -> bool {
        // A resync that gets on, or is paused by somebody who can end that. What this node is to send to
        // others later, or to get from a disk that is bad itself, helps nobody.
        let busy = self.state.peers_of(v).any(|(_, _, pd)| match pd.repl {
            ReplState::PausedSyncT => pd.pdisk >= DiskState::Outdated,
            ReplState::SyncSource | ReplState::PausedSyncS => false,
            repl => repl > ReplState::Established,
        });
        if busy {
            return false;
        }
        match disk {
            DiskState::Consistent => true,
            // With pass_on the administrator decides when a bad disk is written again.
            DiskState::Inconsistent => {
                self.disk_ref(v)
                    .is_some_and(|d| d.options.on_io_error != OnIoError::PassOn)
                    && !self.data_peers(v).is_empty()
            }
            _ => !self.data_peers(v).is_empty() || self.all_are_here(v),
        }
    }

    /// Whether every node that may have data is connected, and none of them has good data.
    fn all_are_here(&self, v: VolumeNr) -> bool {
        let Some(disk) = self.disk_ref(v) else {
            return false;
        };
        let known = |n: NodeId| {
            let entry = disk.meta.peer(n);
            entry.bitmap_index.is_some() || entry.flags.contains(PeerFlags::DEVICE_SEEN)
        };
        let all_configured = NodeId::all()
            .filter(|n| *n != self.node_id && known(*n))
            .all(|n| self.conns.contains_key(&n));
        let exposed = self.current_uuid(v);
        all_configured
            && self.state.peers_of(v).all(|(n, c, pd)| {
                let Some(k) = self.peer_device(n, v) else {
                    return false;
                };
                let usable = match pd.pdisk {
                    DiskState::Inconsistent | DiskState::Outdated => true,
                    // A client.
                    DiskState::Diskless => !k.options.bitmap,
                    _ => false,
                };
                // A Primary shows which data its applications have seen.
                let usable = usable
                    && (c.peer_role != Role::Primary
                        || k.uuids.current.same(exposed)
                        || k.uuids.current.is_none());
                c.cstate == ConnState::Connected && pd.repl == ReplState::Established && usable
            })
    }

    /// Whether no peer has newer data than this node; among equals one goes first.
    fn nobody_has_newer(&mut self, v: VolumeNr) -> bool {
        let peers: Vec<(NodeId, DiskState)> = self
            .state
            .peers_of(v)
            .filter(|(_, _, pd)| pd.pdisk != DiskState::Diskless)
            .map(|(n, _, pd)| (n, pd.pdisk))
            .collect();
        peers.into_iter().all(|(peer, pdisk)| {
            let Some(state) = self.peer_device(peer, v).and_then(|k| k.last_state) else {
                return false;
            };
            let occasion = Occasion::Resync { disk_states: false };
            let strategy = match self.decision(peer, v, &state, pdisk, occasion) {
                Ok(decision) => decision.strategy,
                Err(_) => return false,
            };
            match strategy {
                // Who is source if both have failed depends on the pair: among three that may be a circle.
                s if s == Strategy::NoSync || s.is_if_both_failed() => {
                    pdisk < DiskState::Outdated || self.goes_first(v, peer)
                }
                s => s.is_source(),
            }
        })
    }

    /// Which of two equal disks is UpToDate first. A Secondary, and the Primary follows when it learns that: its
    /// writes go to both then. But if bits are set, it is the Primary's data that count. Beside a Primary all
    /// Secondaries without such bits may go at once: an order among them could be a circle with it.
    fn goes_first(&self, v: VolumeNr, peer: NodeId) -> bool {
        let bits = |n: NodeId| {
            let theirs = self.peer_device(n, v).map_or(0, |k| k.uuids.dirty_bits);
            theirs != 0 || self.bitmap_weight(n, v) != 0
        };
        match (self.state.role == Role::Primary, self.peer_is_primary(peer)) {
            (true, false) => bits(peer),
            (false, true) => !bits(peer),
            _ => self.node_id < peer || (self.state.any_peer_primary() && !bits(peer)),
        }
    }

    /// Connected peers with UpToDate data that may be copied, a Primary first.
    fn data_peers(&self, v: VolumeNr) -> Vec<NodeId> {
        let mut good: Vec<NodeId> = self
            .state
            .peers_of(v)
            .filter(|(n, _, pd)| {
                pd.repl == ReplState::Established
                    && pd.pdisk == DiskState::UpToDate
                    && self.source_is_good(*n, v)
            })
            .map(|(n, _, _)| n)
            .collect();
        good.sort_by_key(|n| !self.peer_is_primary(*n));
        good
    }

    /// The one to compare with: the first whose data are known to be related to those here. They remember
    /// different ancestors; the first one may know nothing of this disk's generation.
    fn best_data_peer(&mut self, v: VolumeNr) -> Option<NodeId> {
        let peers = self.data_peers(v);
        let related = peers.iter().copied().find(|peer| {
            let Some(state) = self.peer_device(*peer, v).and_then(|k| k.last_state) else {
                return false;
            };
            let occasion = Occasion::Resync { disk_states: true };
            self.decision(*peer, v, &state, DiskState::UpToDate, occasion)
                .is_ok_and(|d| d.strategy == Strategy::NoSync || d.strategy.is_target())
        });
        related.or_else(|| peers.first().copied())
    }

    /// Resyncs the peers that lack blocks, and lets those resync this node that wait for it.
    pub(crate) fn offer(&mut self) {
        let volumes: Vec<VolumeNr> = self.volumes.keys().copied().collect();
        for volume in volumes {
            if let Some(peer) = self.waiting_source(volume) {
                let text = "waits for the bitmap of this node: joining the resync";
                self.log_at(LogLevel::Info, Some(peer), Some(volume), text);
                let _ = self.change(ChangeFlags::HARD, |s| {
                    if let Some(pd) = s.pd_mut(peer, volume) {
                        pd.repl = ReplState::WFBitMapT;
                    }
                });
                continue;
            }
            if let Some(peer) = self.source_of_lacking(volume) {
                if let Some(known) = self.peer_device_mut(peer, volume) {
                    known.flags.told_lacking = false;
                }
                let text = "did not send what it wrote: this node is resynced";
                self.log_at(LogLevel::Info, Some(peer), Some(volume), text);
                let repl = ReplState::WFBitMapT;
                self.twopc_request(ChangeKind::Resync { peer, volume, repl }, Requester::Nobody);
                continue;
            }
            for peer in self.lacking_peers(volume) {
                if let Some(known) = self.peer_device_mut(peer, volume) {
                    known.flags.lacks_reconciled = false;
                }
                let repl = ReplState::WFBitMapS;
                self.twopc_request(ChangeKind::Resync { peer, volume, repl }, Requester::Nobody);
            }
        }
    }

    /// It lasted too long.
    pub(crate) fn heal(&mut self) {
        // What is being agreed on may change it.
        if self.twopc.active.is_some() {
            return self.watch_stuck_disks();
        }
        for v in self.stuck_volumes() {
            if let Some(peer) = self.relabel_candidate(v) {
                let _ = self.change(ChangeFlags::HARD, |s| {
                    if let Some(pd) = s.pd_mut(peer, v) {
                        pd.pdisk = DiskState::UpToDate;
                    }
                });
            } else if self.confirmation_is_late(v) {
                self.ask_for_confirmation(v);
            } else if let Some(peer) = self.distrusted_for_nothing(v) {
                self.trust_again(peer, v);
            } else if self.lost_generation_is_in_the_way(v) {
                self.show_nothing(v);
            }
            let disk = self.state.disk(v);
            if disk == DiskState::UpToDate || disk < DiskState::Inconsistent {
                continue;
            }
            // Good data of another generation are what it waits for, and they do not come by themselves.
            let moved_on = self.data_peers(v);
            let moved_on = moved_on.iter().any(|n| !self.same_generation(*n, v));
            if disk == DiskState::Consistent && !moved_on {
                // A peer that still sees the Primary we lost never tells us its position.
                for conn in self.conns.values_mut() {
                    if let Some(known) = conn.peers.get_mut(&v) {
                        known.flags.reconcile_pending = false;
                        known.flags.reconciliation_resync = false;
                    }
                }
                self.want_empty_twopc();
                continue;
            }
            let Some(peer) = self.best_data_peer(v) else {
                if self.all_are_here(v) && self.nobody_has_newer(v) {
                    self.log_at(
                        LogLevel::Info,
                        None,
                        Some(v),
                        "All nodes are here, and none has newer data than this one",
                    );
                    let _ = self.change(ChangeFlags::HARD, |s| {
                        if let Some(d) = s.devices.get_mut(&v) {
                            d.disk = DiskState::UpToDate;
                        }
                    });
                }
                continue;
            };
            // Both sides compare, with their disk states.
            let reason = UuidFlags::RESYNC.union(UuidFlags::DISKLESS_PRIMARY);
            self.send_uuids(peer, v, reason);
            self.compare_again(peer, v, true);
        }
        self.watch_stuck_disks();
    }
}
