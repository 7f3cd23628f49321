//! Epochs of a peer's writes: when they are on stable storage, and the barrier acks that say so (data
//! path, sections 7.4, 7.5 and 8).

use alloc::vec::Vec;

use drbd_proto::packet::{BarrierAck, ConfirmStable};
use drbd_proto::{BarrierNr, BlockId, ConnState, DiskState, NodeId, Packet, Stream, VolumeNr};

use crate::data::DataOpKind;
use crate::data::receiver::Block;
use crate::effect::LogLevel;
use crate::engine::Engine;
use crate::event::{DiskError, OpResult};
use crate::status::WriteOrdering;

/// An epoch of a peer.
#[derive(Debug)]
pub(crate) struct RxEpoch {
    /// Its name here.
    pub id: u64,
    /// Its number; known once its barrier was received.
    pub number: Option<BarrierNr>,
    /// Writes received in it.
    pub size: u32,
    /// Those that are not answered.
    pub active: u32,
    /// Those reported by P_CONFIRM_STABLE.
    pub confirmed: u32,
    /// Oldest write that was not reported, and the youngest one.
    pub oldest: Option<BlockId>,
    pub youngest: BlockId,
    /// Everything in it is on stable storage.
    pub flushed: bool,
}

impl Engine {
    /// How the order of epochs is kept on the disks of this node (data path, section 8.1). Barriers as
    /// such are never used: flushing does what they do.
    pub(crate) fn data_write_ordering(&self) -> WriteOrdering {
        let mut method = if self.data.flush_failed {
            WriteOrdering::Drain
        } else {
            WriteOrdering::Flush
        };
        for disk in self.volumes.values().filter_map(|v| v.disk.as_ref()) {
            let options = &disk.options;
            let best = if options.disk_flushes {
                WriteOrdering::Flush
            } else if options.disk_drain {
                WriteOrdering::Drain
            } else {
                WriteOrdering::None
            };
            method = method.min(best);
        }
        method
    }

    /// Counts a write that arrived; returns its epoch.
    pub(crate) fn epoch_add(&mut self, peer: NodeId, block_id: BlockId, active: bool) -> u64 {
        let Some(conn) = self.conns.get_mut(&peer) else {
            return 0;
        };
        let receiver = &mut conn.data.receiver;
        if receiver.epochs.back().is_none_or(|e| e.number.is_some()) {
            receiver.next_epoch += 1;
            receiver.epochs.push_back(RxEpoch {
                id: receiver.next_epoch,
                number: None,
                size: 0,
                active: 0,
                confirmed: 0,
                oldest: None,
                youngest: block_id,
                flushed: false,
            });
        }
        let Some(epoch) = receiver.epochs.back_mut() else {
            return 0;
        };
        epoch.size = epoch.size.saturating_add(1);
        epoch.oldest.get_or_insert(block_id);
        epoch.youngest = block_id;
        if active {
            epoch.active += 1;
            receiver.active += 1;
        }
        epoch.id
    }

    /// A write of an epoch was answered.
    pub(crate) fn epoch_answered(&mut self, peer: NodeId, id: u64) {
        let Some(conn) = self.conns.get_mut(&peer) else {
            return;
        };
        let receiver = &mut conn.data.receiver;
        receiver.active = receiver.active.saturating_sub(1);
        if let Some(epoch) = receiver.epochs.iter_mut().find(|e| e.id == id) {
            epoch.active = epoch.active.saturating_sub(1);
        }
        self.data.recheck = true;
        self.finish_epochs(peer);
    }

    /// P_BARRIER: the open epoch ends (data path, section 7.4).
    pub(crate) fn got_barrier(&mut self, peer: NodeId, number: BarrierNr) {
        let method = self.data_write_ordering();
        let Some(conn) = self.conns.get_mut(&peer) else {
            return;
        };
        let receiver = &mut conn.data.receiver;
        // A barrier without writes has nothing to answer.
        let Some(epoch) = receiver.epochs.back_mut().filter(|e| e.number.is_none()) else {
            return;
        };
        epoch.number = Some(number);
        if method == WriteOrdering::None {
            epoch.flushed = true;
            self.finish_epochs(peer);
        } else {
            receiver.block = Block::Barrier;
            self.data.recheck = true;
        }
    }

    /// Whether the cache flushes that a block needs are done; starts them if they were not.
    pub(crate) fn flushed(&mut self, peer: NodeId) -> bool {
        let method = self.data_write_ordering();
        let Some(conn) = self.conns.get_mut(&peer) else {
            return false;
        };
        let generation = conn.data.generation;
        if let Some(left) = conn.data.receiver.flushes {
            return left == 0;
        }
        let volumes: Vec<VolumeNr> = if method >= WriteOrdering::Flush {
            self.volumes
                .keys()
                .copied()
                .filter(|nr| self.local_disk_at_least(*nr, DiskState::Detaching))
                .collect()
        } else {
            Vec::new()
        };
        if let Some(conn) = self.conns.get_mut(&peer) {
            conn.data.receiver.flushes = Some(volumes.len() as u32);
        }
        for volume in &volumes {
            self.flush_cache(*volume, DataOpKind::EpochFlush { peer, generation });
        }
        volumes.is_empty()
    }

    /// One of the flushes has ended. A device that does not know flushes lowers the method (data path,
    /// section 8.2). Any other failure may have lost what was written and acked: the disk goes, and the
    /// sender learns from the broken connection that these writes are not safe here.
    pub(crate) fn epoch_flush_done(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        generation: u64,
        result: OpResult,
    ) {
        if matches!(result, Err(DiskError::NotSupported))
            && !core::mem::replace(&mut self.data.flush_failed, true)
        {
            let text = "Method to ensure write ordering: drain";
            self.log_at(LogLevel::Warn, None, None, text);
        }
        let good = self.flush_succeeded(volume, &result);
        let Some(conn) = self
            .conns
            .get_mut(&peer)
            .filter(|c| c.data.generation == generation)
        else {
            return;
        };
        if !good {
            let text = "the writes of an epoch could not be made durable";
            self.fail_connection(peer, ConnState::NetworkFailure, text);
        } else if let Some(left) = &mut conn.data.receiver.flushes {
            *left = left.saturating_sub(1);
            self.data.recheck = true;
        }
    }

    /// The writes of all ended epochs are on stable storage.
    pub(crate) fn epoch_flushed(&mut self, peer: NodeId) {
        let Some(conn) = self.conns.get_mut(&peer) else {
            return;
        };
        for epoch in conn
            .data
            .receiver
            .epochs
            .iter_mut()
            .filter(|e| e.number.is_some())
        {
            epoch.flushed = true;
        }
        self.finish_epochs(peer);
    }

    /// Answers the epochs that are finished, oldest first.
    fn finish_epochs(&mut self, peer: NodeId) {
        loop {
            let Some(conn) = self.conns.get_mut(&peer) else {
                return;
            };
            let epochs = &mut conn.data.receiver.epochs;
            let finished = epochs
                .front()
                .is_some_and(|e| e.number.is_some() && e.active == 0 && e.size > 0 && e.flushed);
            if !finished {
                return;
            }
            let Some((barrier, epoch)) = epochs.pop_front().and_then(|e| Some((e.number?, e)))
            else {
                return;
            };
            let set_size = epoch.size.saturating_sub(epoch.confirmed);
            let packet = Packet::BarrierAck(BarrierAck { barrier, set_size });
            self.send(peer, Stream::Control, VolumeNr::CONNECTION, packet);
        }
    }

    /// Reports the open epoch's writes, which are on stable storage, so that the peer lets go of their
    /// extents (data path, section 7.5).
    pub(crate) fn send_confirm_stable(&mut self, peer: NodeId) {
        let Some(conn) = self.conns.get_mut(&peer).filter(|c| c.apv() >= 114) else {
            return;
        };
        let Some(epoch) = conn
            .data
            .receiver
            .epochs
            .back_mut()
            .filter(|e| e.number.is_none())
        else {
            return;
        };
        let set_size = epoch.size.saturating_sub(epoch.confirmed);
        let Some(oldest) = epoch.oldest.take_if(|_| set_size > 0) else {
            return;
        };
        epoch.confirmed = epoch.size;
        let packet = Packet::ConfirmStable(ConfirmStable {
            oldest,
            youngest: epoch.youngest,
            set_size,
        });
        self.send(peer, Stream::Control, VolumeNr::CONNECTION, packet);
    }
}
