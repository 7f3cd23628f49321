//! Survivors of a lost Primary agree on who has more of its writes (state machine, section 9.8).

use alloc::format;
use alloc::vec::Vec;

use drbd_proto::packet::PeerDagtag;
use drbd_proto::{ConnState, Dagtag, DiskState, NodeId, ReplState, VolumeNr};

use crate::decision::Occasion;
use crate::effect::LogLevel;
use crate::engine::Engine;
use crate::state::change::ChangeFlags;

/// What a peer said of a lost Primary that this node has not lost yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WaitingDagtag {
    /// Who said it.
    pub peer: NodeId,
    /// Of whom.
    pub lost: NodeId,
    /// How far the peer got in the writes of the lost one.
    pub dagtag: Dagtag,
    /// The two are connected again. There will be no reconciliation, but what one of the survivors has more than the
    /// other stays.
    pub outdated: bool,
}

impl Engine {
    /// P_PEER_DAGTAG.
    pub(crate) fn peer_dagtag(&mut self, peer: NodeId, packet: &PeerDagtag) {
        let lost = packet.node_id;
        if self.state.cstate(peer) != ConnState::Connected {
            if let Some(conn) = self.conns.get_mut(&peer) {
                conn.named_lost_primary = Some((lost, packet.dagtag));
            }
            return;
        }
        if !self.conns.contains_key(&lost) {
            return;
        }
        if self.state.cstate(lost) == ConnState::Connected {
            // Perhaps we did not notice yet: the answer to a ping, or its absence, tells.
            self.ping(lost);
        }
        self.waiting_dagtags
            .retain(|w| (w.peer, w.lost) != (peer, lost));
        self.waiting_dagtags.push(WaitingDagtag {
            peer,
            lost,
            dagtag: packet.dagtag,
            outdated: false,
        });
        if self.state.cstate(lost) < ConnState::Connected {
            self.reconcile_waiting(lost);
        }
    }

    /// Two nodes are connected again: what one of them said when it lost the other is out of date.
    pub(crate) fn forget_waiting_dagtags(&mut self, a: NodeId, b: NodeId) {
        let own = self.node_id;
        // To this node: what was said over the connection before, too.
        let gone =
            |w: &WaitingDagtag, x: NodeId, y: NodeId| x == own && (w.peer == y || w.lost == y);
        self.waiting_dagtags
            .retain(|w| !gone(w, a, b) && !gone(w, b, a));
        for w in &mut self.waiting_dagtags {
            w.outdated |= (w.peer, w.lost) == (a, b) || (w.peer, w.lost) == (b, a);
        }
        self.data.recheck = true;
    }

    /// The own cleanup of a lost connection is complete.
    pub(crate) fn reconcile_waiting(&mut self, lost: NodeId) {
        let (now, later): (Vec<_>, Vec<_>) = core::mem::take(&mut self.waiting_dagtags)
            .into_iter()
            .partition(|w| w.lost == lost);
        self.waiting_dagtags = later;
        for w in now {
            if self.state.cstate(w.peer) != ConnState::Connected {
                continue;
            }
            if w.outdated {
                let own = self.conns.get(&w.lost).map(|c| c.last_dagtag);
                let offset = own.map_or(0, |own| own.0.wrapping_sub(w.dagtag.0) as i64);
                if offset > 0 {
                    self.reconcile_later(w.peer, offset);
                }
            } else {
                self.reconcile(w.peer, w.lost, w.dagtag);
            }
        }
    }

    fn reconcile(&mut self, peer: NodeId, lost: NodeId, theirs: Dagtag) {
        // A volume that has no disk on one of the two has nothing to compare, and its marks stay.
        let volumes: Vec<VolumeNr> = self
            .volumes
            .keys()
            .copied()
            .filter(|v| {
                self.state.disk(*v) > DiskState::Diskless
                    && self.state.pdisk(peer, *v) > DiskState::Diskless
            })
            .collect();
        let busy = volumes.iter().any(|v| {
            self.state.repl(peer, *v) > ReplState::Established
                || !matches!(
                    self.state.disk(*v),
                    DiskState::Consistent | DiskState::UpToDate
                )
        });
        let Some(own) = self.conns.get(&lost).map(|c| c.last_dagtag) else {
            return;
        };
        let offset = own.0.wrapping_sub(theirs.0) as i64;
        if busy {
            return self.reconcile_later(peer, offset);
        }
        let mut direction = None;
        for &v in &volumes {
            let Some(state) = self.peer_device(peer, v).and_then(|k| k.last_state) else {
                continue;
            };
            let pdisk = self.state.pdisk(peer, v);
            let occasion = Occasion::Resync { disk_states: false };
            let Ok(decision) = self.decision(peer, v, &state, pdisk, occasion) else {
                return self.reconcile_later(peer, offset);
            };
            use crate::decision::Strategy;
            let this = match decision.strategy {
                Strategy::NoSync | Strategy::SourceIfBothFailed | Strategy::TargetIfBothFailed => 0,
                Strategy::SourceUseBitmap => 1,
                Strategy::TargetUseBitmap => -1,
                _ => return self.reconcile_later(peer, offset),
            };
            if direction.is_some_and(|d| d != this) {
                return self.reconcile_later(peer, offset);
            }
            direction = Some(this);
        }
        let sign = match direction {
            Some(0) | None => offset.signum(),
            Some(d) => d,
        };
        let name = self.conn_name(lost);
        // Marks that are older say that the two differ in something else, and are not to be cleared (a deviation).
        let others = volumes.iter().any(|v| {
            self.peer_device(peer, *v)
                .is_some_and(|k| k.flags.marked_before_loss)
        });
        if sign == 0 && others {
            return self.reconcile_later(peer, offset);
        }
        if sign == 0 {
            self.log_at(
                LogLevel::Info,
                Some(peer),
                None,
                format!("No reconciliation resync even though '{name}' disappeared. (o={offset})"),
            );
            for &v in &volumes {
                if let Some(slot) = self.slot_of(peer, v) {
                    if let Some(disk) = self.disk_mut(v) {
                        disk.bitmap.clear_all(slot);
                    }
                    self.data_bitmap_writeout(v);
                }
            }
            return self.reconciled(peer, None);
        }
        self.log_at(
            LogLevel::Info,
            Some(peer),
            None,
            format!("Reconciliation resync because '{name}' disappeared. (o={offset})"),
        );
        let repl = if sign > 0 {
            ReplState::WFBitMapS
        } else {
            ReplState::WFBitMapT
        };
        if let Some(conn) = self.conns.get_mut(&peer) {
            for known in conn.peers.values_mut() {
                known.flags.reconciliation_resync = true;
                known.flags.reconcile_pending = false;
            }
        }
        if sign < 0
            && let Some(conn) = self.conns.get_mut(&peer)
        {
            conn.adopt_dagtag = Some((lost, theirs));
        }
        let _ = self.change(ChangeFlags::HARD, |s| {
            for v in volumes {
                if let Some(pd) = s.pd_mut(peer, v) {
                    pd.repl = repl;
                }
            }
        });
    }

    /// One volume stands against a reconciliation of all. The others still differ in what the lost Primary sent to
    /// one node only: who got further offers these blocks later (a deviation, the reference leaves the copies
    /// different).
    fn reconcile_later(&mut self, peer: NodeId, offset: i64) {
        if offset > 0 || (offset == 0 && self.node_id < peer) {
            let volumes: Vec<VolumeNr> = self.volumes.keys().copied().collect();
            for v in volumes {
                let equal = self.same_generation(peer, v)
                    && self.state.repl(peer, v) == ReplState::Established;
                if let Some(known) = self.peer_device_mut(peer, v).filter(|_| equal) {
                    known.flags.lacks_reconciled = true;
                }
            }
        }
        self.reconciled(peer, None);
    }

    fn reconciled(&mut self, peer: NodeId, _repl: Option<ReplState>) {
        if let Some(conn) = self.conns.get_mut(&peer) {
            for known in conn.peers.values_mut() {
                known.flags.reconcile_pending = false;
            }
        }
        let owes = self.volumes.keys().any(|v| self.owes_reconciliation(*v));
        let consistent = self
            .state
            .devices
            .values()
            .any(|d| d.disk == DiskState::Consistent);
        if !owes && consistent {
            self.want_empty_twopc();
        }
    }

    /// A reconciliation resync has ended: when nothing is owed any more the disks can be trusted again.
    pub(crate) fn after_reconciliation(&mut self, peer: NodeId) {
        let adopt = self
            .conns
            .get_mut(&peer)
            .and_then(|c| c.adopt_dagtag.take());
        if let Some((lost, dagtag)) = adopt
            && self.state.cstate(lost) < ConnState::Connected
            && let Some(conn) = self.conns.get_mut(&lost)
        {
            conn.last_dagtag = dagtag;
        }
        self.reconciled(peer, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::ResourceOptions;
    use crate::testkit::{diskless_node, node};

    #[test]
    fn what_a_peer_said_of_a_primary_is_forgotten_when_it_sees_it_again() {
        let mut engine = diskless_node(3, ResourceOptions::default());
        let say = |engine: &mut Engine, peer, lost| {
            let packet = PeerDagtag {
                dagtag: Dagtag(8),
                node_id: node(lost),
            };
            engine.peer_dagtag(node(peer), &packet);
        };
        let waiting = |engine: &Engine| -> Vec<(NodeId, NodeId)> {
            let all = engine.waiting_dagtags.iter().filter(|w| !w.outdated);
            all.map(|w| (w.peer, w.lost)).collect()
        };
        // This node still sees node 2.
        say(&mut engine, 1, 2);
        say(&mut engine, 3, 2);
        assert_eq!(waiting(&engine), [(node(1), node(2)), (node(3), node(2))]);
        engine.forget_waiting_dagtags(node(1), node(3));
        assert_eq!(waiting(&engine).len(), 2, "node 2 has no part in that");
        engine.forget_waiting_dagtags(node(2), node(1));
        assert_eq!(waiting(&engine), [(node(3), node(2))]);
        engine.forget_waiting_dagtags(node(0), node(2));
        assert_eq!(waiting(&engine), [], "it came back to this node");
    }
}
