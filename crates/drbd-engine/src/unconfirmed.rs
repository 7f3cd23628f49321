//! Generations that a Primary without data has begun and that no peer has confirmed (state machine, section 7.11;
//! data path, section 21.4).
//!
//! Such a Primary cannot make a generation durable itself. Until its peers have it, no write of it is completed to
//! the application. So nothing is lost if all peers are lost before that: one that comes back at the generation
//! before is as good as ever, as long as it has every write that was completed. It gets the others again, and then
//! the new generation.
//!
//! Two deviations from the reference. While a generation is unconfirmed, another one may be begun, because a peer
//! that is lost meanwhile may have the first one and miss what follows; the whole chain is remembered. And a peer
//! confirms a generation by saying that it has it, not only by the acknowledgement of an epoch of it.

use alloc::vec::Vec;

use drbd_proto::{BarrierNr, ConnState, DiskState, NodeId, ReplState, Role, Uuid, VolumeNr};

use crate::data::{ReqId, Request};
use crate::effect::LogLevel;
use crate::engine::Engine;
use crate::options::OnNoQuorum;

/// How many generations are remembered; who is at an older one is resynced.
const CHAIN: usize = 16;

/// Generations begun one after the other, of which the last one is shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Unconfirmed {
    /// The last one.
    pub uuid: Uuid,
    /// Those before it, oldest first; the oldest one was confirmed.
    pub predecessors: Vec<Uuid>,
    /// The first epoch of the oldest unconfirmed one.
    pub epoch: BarrierNr,
}

impl Unconfirmed {
    /// The chain after one more generation.
    fn extended(chain: Option<Unconfirmed>, before: Uuid, uuid: Uuid, epoch: BarrierNr) -> Self {
        let mut chain = chain
            .filter(|c| c.uuid.same(before))
            .unwrap_or(Unconfirmed {
                uuid,
                predecessors: Vec::new(),
                epoch,
            });
        if !before.is_none() {
            chain.predecessors.push(before);
        }
        if chain.predecessors.len() > CHAIN {
            chain.predecessors.remove(0);
        }
        chain.uuid = uuid;
        chain
    }

    /// Whether an epoch belongs to it.
    pub(crate) fn covers(&self, epoch: BarrierNr) -> bool {
        (epoch.0.wrapping_sub(self.epoch.0) as i32) >= 0
    }

    /// Whether `shown` is the last one, and `uuid` one before it.
    pub(crate) fn leads_on(&self, shown: Uuid, uuid: Uuid) -> bool {
        self.uuid.same(shown) && self.follows(uuid)
    }

    fn follows(&self, uuid: Uuid) -> bool {
        self.predecessors.iter().any(|p| p.same(uuid))
    }
}

impl Engine {
    /// A generation was begun without data of its own, and its peers are about to be told.
    pub(crate) fn generation_unconfirmed(&mut self, v: VolumeNr, before: Uuid, uuid: Uuid) {
        let epoch = self.data.epoch;
        let good: Vec<NodeId> = self
            .state
            .peers_of(v)
            .filter(|(_, _, pd)| is_good(pd.pdisk, pd.repl))
            .map(|(n, _, _)| n)
            .collect();
        let Some(volume) = self.volumes.get_mut(&v) else {
            return;
        };
        let chain = Unconfirmed::extended(volume.unconfirmed.take(), before, uuid, epoch);
        volume.unconfirmed = Some(chain);
        for (n, conn) in &mut self.conns {
            if let Some(known) = conn.peers.get_mut(&v) {
                known.flags.unconfirmed = good.contains(n);
            }
        }
    }

    /// A peer has the generation that is shown.
    pub(crate) fn peer_confirms(&mut self, peer: NodeId, v: VolumeNr) {
        if let Some(known) = self.peer_device_mut(peer, v)
            && core::mem::take(&mut known.flags.unconfirmed)
        {
            self.data.recheck = true;
        }
    }

    /// A peer acknowledged an epoch. It confirms a generation whose writes it has.
    pub(crate) fn epoch_confirms(&mut self, peer: NodeId, epoch: BarrierNr) {
        let volumes: Vec<VolumeNr> = self
            .volumes
            .iter()
            .filter(|(_, x)| x.unconfirmed.as_ref().is_some_and(|c| c.covers(epoch)))
            .map(|(v, _)| *v)
            .collect();
        for v in volumes {
            let lacks = self.data.requests.values().any(|r| {
                let needed = r.volume == v && r.expect_barrier.contains(peer) && !r.completed;
                needed && !(r.ok.contains(peer) && r.done.contains(peer))
            });
            if !lacks {
                self.peer_confirms(peer, v);
            }
        }
    }

    /// Whether a write that is otherwise complete waits for the confirmation of its generation.
    pub(crate) fn waits_for_confirmation(&self, req: &Request) -> bool {
        req.is_write()
            && self.options.on_no_quorum == OnNoQuorum::SuspendIo
            && self
                .volumes
                .get(&req.volume)
                .and_then(|x| x.unconfirmed.as_ref())
                .is_some_and(|c| c.covers(req.epoch))
    }

    /// A write is completed to the application: who does not have it is behind.
    pub(crate) fn note_missed(&mut self, id: ReqId) {
        let Some(req) = self.data.requests.get(&id) else {
            return;
        };
        let (v, ok) = (req.volume, req.ok);
        if self.state.disk(v) == DiskState::UpToDate {
            return;
        }
        for (n, conn) in &mut self.conns {
            if let Some(known) = conn.peers.get_mut(&v) {
                known.flags.missed |= !ok.contains(*n);
            }
        }
    }

    /// Predecessor relabel: whether the data of a peer are those that this node shows, but for writes that no
    /// application knows to be done.
    pub(crate) fn may_relabel(&self, peer: NodeId, v: VolumeNr) -> bool {
        let (Some(volume), Some(known)) = (self.volumes.get(&v), self.peer_device(peer, v)) else {
            return false;
        };
        let Some(chain) = &volume.unconfirmed else {
            return false;
        };
        let successor = self.state.peers_of(v).any(|(n, _, pd)| {
            n != peer
                && is_good(pd.pdisk, pd.repl)
                && self
                    .peer_device(n, v)
                    .is_some_and(|k| k.uuids.current.same(volume.exposed))
        });
        self.state.role == Role::Primary
            && self.state.disk(v) <= DiskState::Attaching
            && chain.uuid.same(volume.exposed)
            && chain.follows(known.uuids.current)
            && known.options.bitmap
            && !known.flags.missed
            && !successor
    }

    /// Whether a generation was begun by this node, which has no disk, and waits to be confirmed.
    pub(crate) fn begun_without_disk(&self, v: VolumeNr, uuid: Uuid) -> bool {
        self.volumes
            .get(&v)
            .and_then(|x| x.unconfirmed.as_ref())
            .is_some_and(|chain| chain.uuid.same(uuid))
    }

    /// The generation that a node without data shows to a peer.
    pub(crate) fn shown_to(&self, peer: NodeId, v: VolumeNr) -> Uuid {
        let (Some(volume), Some(known)) = (self.volumes.get(&v), self.peer_device(peer, v)) else {
            return Uuid::NONE;
        };
        let earlier = self.state.cstate(peer) < ConnState::Connected
            && known.shown.same(known.uuids.current)
            && self.may_relabel(peer, v);
        if earlier { known.shown } else { volume.exposed }
    }

    /// Connected peers that say they are UpToDate, and could get the generation, but are not believed.
    pub(crate) fn relabel_candidate(&self, v: VolumeNr) -> Option<NodeId> {
        self.volumes.get(&v)?.unconfirmed.as_ref()?;
        self.state
            .peers_of(v)
            .find(|(n, _, pd)| {
                let says = self.peer_device(*n, v).and_then(|k| k.last_state);
                pd.repl == ReplState::Established
                    && matches!(pd.pdisk, DiskState::Outdated | DiskState::Consistent)
                    && says.is_some_and(|s| s.disk == DiskState::UpToDate)
                    && self.may_relabel(*n, v)
            })
            .map(|(n, _, _)| n)
    }

    /// Whether good peers were told of a generation and say nothing.
    pub(crate) fn confirmation_is_late(&self, v: VolumeNr) -> bool {
        self.volumes
            .get(&v)
            .is_some_and(|x| x.unconfirmed.is_some())
            && self.state.peers_of(v).any(|(n, _, pd)| {
                is_good(pd.pdisk, pd.repl)
                    && self.peer_device(n, v).is_some_and(|k| k.flags.unconfirmed)
            })
    }

    /// They are told again.
    pub(crate) fn ask_for_confirmation(&mut self, v: VolumeNr) {
        let uuid = self.current_uuid(v);
        let late: Vec<NodeId> = self
            .established_peers(v)
            .filter(|n| self.peer_device(*n, v).is_some_and(|k| k.flags.unconfirmed))
            .collect();
        for peer in late {
            self.send_current_uuid(peer, v, uuid);
        }
    }

    /// Tells relabelled peers of the generation, and lets writes complete whose generation is confirmed.
    pub(crate) fn settle_generations(&mut self) {
        let volumes: Vec<VolumeNr> = self
            .volumes
            .iter()
            .filter(|(_, x)| x.unconfirmed.is_some())
            .map(|(v, _)| *v)
            .collect();
        for v in volumes {
            self.relabel(v);
            if self.is_confirmed(v) {
                if let Some(volume) = self.volumes.get_mut(&v) {
                    volume.unconfirmed = None;
                }
                let held: Vec<ReqId> = self.data.log.iter().copied().collect();
                for id in held {
                    self.try_complete(id);
                }
            }
        }
    }

    fn relabel(&mut self, v: VolumeNr) {
        let Some(volume) = self.volumes.get(&v) else {
            return;
        };
        let (Some(chain), uuid) = (volume.unconfirmed.clone(), volume.exposed) else {
            return;
        };
        if self.state.role != Role::Primary || !chain.uuid.same(uuid) {
            return;
        }
        let peers: Vec<NodeId> = self
            .state
            .peers_of(v)
            .filter(|(n, _, pd)| {
                is_good(pd.pdisk, pd.repl)
                    && self
                        .peer_device(*n, v)
                        .is_some_and(|k| !k.flags.unconfirmed && chain.follows(k.uuids.current))
            })
            .map(|(n, _, _)| n)
            .collect();
        for peer in peers {
            self.log_at(
                LogLevel::Info,
                Some(peer),
                Some(v),
                "has the data of the generation before: it gets the present one",
            );
            if let Some(known) = self.peer_device_mut(peer, v) {
                known.uuids.current = uuid;
                known.flags.unconfirmed = true;
            }
            self.send_current_uuid(peer, v, uuid);
        }
    }

    fn is_confirmed(&self, v: VolumeNr) -> bool {
        let Some(volume) = self.volumes.get(&v) else {
            return true;
        };
        let Some(chain) = &volume.unconfirmed else {
            return true;
        };
        // There is nothing to confirm any more.
        if self.state.role != Role::Primary
            || self.state.disk(v) == DiskState::UpToDate
            || !chain.uuid.same(volume.exposed)
        {
            return true;
        }
        let quorum = self.options.on_no_quorum == OnNoQuorum::IoError
            || self.state.devices.get(&v).is_none_or(|d| d.have_quorum);
        let (mut some, mut all) = (false, true);
        for (n, _, pd) in self.state.peers_of(v) {
            if is_good(pd.pdisk, pd.repl) {
                let open = self.peer_device(n, v).is_some_and(|k| k.flags.unconfirmed);
                some |= !open;
                all &= !open;
            }
        }
        quorum && some && all
    }
}

/// Whether a peer has the data, as far as is known.
fn is_good(pdisk: DiskState, repl: ReplState) -> bool {
    pdisk == DiskState::UpToDate && repl >= ReplState::Established
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_of_generations() {
        let (a, b, c) = (Uuid(0x10), Uuid(0x20), Uuid(0x30));
        let first = Unconfirmed::extended(None, a, b, BarrierNr(5));
        assert!(first.follows(Uuid(0x11)), "bit 0 is the role");
        assert!(!first.follows(b));
        assert!(!first.covers(BarrierNr(4)) && first.covers(BarrierNr(5)));

        let second = Unconfirmed::extended(Some(first.clone()), b, c, BarrierNr(9));
        assert!(second.follows(a) && second.follows(b) && !second.follows(c));
        assert!(
            second.covers(BarrierNr(5)),
            "nothing of the first was completed"
        );

        // Something else was shown in between: the chain begins anew.
        let other = Unconfirmed::extended(Some(first), c, a, BarrierNr(9));
        assert!(other.follows(c) && !other.follows(b));
        assert!(!other.covers(BarrierNr(8)));
        let wrapped = Unconfirmed::extended(None, a, b, BarrierNr(u32::MAX));
        assert!(wrapped.covers(BarrierNr(0)) && !wrapped.covers(BarrierNr(u32::MAX - 1)));
        assert!(
            Unconfirmed::extended(None, Uuid::NONE, b, BarrierNr(0))
                .predecessors
                .is_empty()
        );
    }

    #[test]
    fn the_chain_is_bounded() {
        let mut chain = None;
        for i in 1..100 {
            let next = Unconfirmed::extended(chain, Uuid(i << 4), Uuid((i + 1) << 4), BarrierNr(1));
            chain = Some(next);
        }
        assert_eq!(chain.map(|c| c.predecessors.len()), Some(CHAIN));
    }
}
