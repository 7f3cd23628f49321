//! States that nobody would leave: a disk that is not UpToDate although a peer with the data is connected
//! and no resync is under way or paused.
//!
//! The reference leaves such a disk alone until the next connect (state machine, section 9.6, has a case seen
//! live). Here every wait has an owner and a deadline: after a while this node asks again.

use alloc::vec::Vec;
use core::time::Duration;

use drbd_proto::{DiskState, NodeId, ReplState, UuidFlags, VolumeNr};

use crate::engine::Engine;
use crate::options::OnIoError;
use crate::timer::Timer;

/// How long such a state may last.
const PATIENCE: Duration = Duration::from_secs(3);

impl Engine {
    /// Starts or stops the watch; called after changes of state.
    pub(crate) fn watch_stuck_disks(&mut self) {
        if self.stuck_volumes().is_empty() {
            self.timers.cancel(Timer::Heal);
        } else {
            self.timers.set_if_idle(Timer::Heal, self.now + PATIENCE);
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
            })
            .collect()
    }

    fn is_stuck(&self, v: VolumeNr, disk: DiskState) -> bool {
        let busy = self
            .state
            .peers_of(v)
            .any(|(_, _, pd)| pd.repl > ReplState::Established);
        if busy || self.twopc.active.is_some() {
            return false;
        }
        match disk {
            DiskState::Consistent => true,
            // With pass_on the administrator decides when a bad disk is written again.
            DiskState::Inconsistent => {
                self.disk_ref(v)
                    .is_some_and(|d| d.options.on_io_error != OnIoError::PassOn)
                    && self.data_peer(v).is_some()
            }
            _ => self.data_peer(v).is_some(),
        }
    }

    /// A connected peer with UpToDate data that may be copied; a Primary if there is one.
    fn data_peer(&self, v: VolumeNr) -> Option<NodeId> {
        let good: Vec<NodeId> = self
            .state
            .peers_of(v)
            .filter(|(n, _, pd)| {
                pd.repl == ReplState::Established
                    && pd.pdisk == DiskState::UpToDate
                    && self.source_is_good(*n, v)
            })
            .map(|(n, _, _)| n)
            .collect();
        good.iter()
            .copied()
            .find(|n| self.peer_is_primary(*n))
            .or_else(|| good.first().copied())
    }

    /// It lasted too long.
    pub(crate) fn heal(&mut self) {
        for v in self.stuck_volumes() {
            if self.state.disk(v) == DiskState::Consistent {
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
            let Some(peer) = self.data_peer(v) else {
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
