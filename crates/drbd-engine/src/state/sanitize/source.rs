//! Which peer a volume is resynced from (state machine, section 3.4, block D).

use alloc::collections::BTreeMap;

use drbd_proto::{DiskState, NodeId, ReplState, VolumeNr};

use crate::engine::Engine;
use crate::rows::Row;
use crate::state::State;

impl Engine {
    /// Block D: one active source per target (section 9.3).
    pub(super) fn choose_sync_source(&self, new: &mut State, v: VolumeNr) {
        let mut candidates: BTreeMap<NodeId, u64> = BTreeMap::new();
        let mut active = None;
        let mut current = None;
        let mut any_target = false;
        for (peer, _, pd) in new.peers_of(v) {
            if pd.resync_active {
                active = Some(peer);
            }
            if !pd.is_sync_target() {
                continue;
            }
            any_target = true;
            let paused = pd.susp_dependency || pd.susp_peer || pd.susp_user || pd.susp_max_parallel;
            if paused || pd.pdisk < DiskState::Outdated || pd.pdisk == DiskState::Unknown {
                continue;
            }
            candidates.insert(peer, self.bitmap_weight(peer, v));
            if self.state.repl(peer, v) == ReplState::SyncTarget {
                current = Some(peer);
            }
        }
        // An outdated source has older blocks than an UpToDate one, and than the writes of a Primary that come
        // meanwhile: it is the last resort, also while the better one is paused (a deviation, the fewest bits decide
        // there).
        let good = |n: &NodeId| {
            new.pd(*n, v)
                .is_some_and(|pd| pd.is_sync_target() && pd.pdisk == DiskState::UpToDate)
        };
        if new.peers_of(v).any(|(n, _, _)| good(&n)) {
            let all = candidates.len();
            candidates.retain(|n, _| good(n));
            if candidates.len() < all {
                self.note(Row::X2);
            }
        }
        if !any_target {
            for conn in new.conns.values_mut() {
                if let Some(pd) = conn.peers.get_mut(&v) {
                    if pd.susp_other_c {
                        self.note(Row::X1);
                    }
                    pd.susp_other_c = false;
                }
            }
            return;
        }
        let mut desired: Option<(NodeId, u64)> = None;
        for (peer, weight) in &candidates {
            if desired.is_none_or(|(_, w)| *weight <= w) {
                desired = Some((*peer, *weight));
            }
        }
        if let (Some(c), Some((_, w))) = (current, desired) {
            let weight = candidates.get(&c).copied().unwrap_or(u64::MAX);
            if weight < w.saturating_add(256) {
                if desired != Some((c, weight)) {
                    self.note(Row::X4);
                }
                desired = Some((c, weight));
            }
        }
        // Ownership changes hands only when the requests of the old one are answered (data path, section 16.1).
        let busy = active
            .filter(|a| desired.is_none_or(|(d, _)| d != *a) && self.resync_pending(*a, v) != 0);
        let desired = match busy {
            Some(_) => {
                self.note(Row::X5);
                None
            }
            None => desired.map(|(d, _)| d),
        };
        if desired.is_some() && desired != active {
            self.note(Row::X3);
        }
        for (peer, conn) in &mut new.conns {
            let Some(pd) = conn.peers.get_mut(&v) else {
                continue;
            };
            if busy.is_none() {
                pd.resync_active = desired == Some(*peer);
            }
            pd.susp_other_c = desired.is_some() && desired != Some(*peer);
            if pd.is_sync_target() {
                pd.repl = if desired == Some(*peer) {
                    ReplState::SyncTarget
                } else {
                    if pd.susp_other_c {
                        self.note(Row::X6);
                    }
                    ReplState::PausedSyncT
                };
            }
        }
    }
}
