//! What the peers' answers to writes mean (data path, sections 4.1, 5.4, 7.4 and 7.5).

use alloc::format;

use drbd_proto::packet::{BarrierAck, BlockAck, ConfirmStable};
use drbd_proto::{DiskState, NodeId, VolumeNr};

use crate::data::ReqId;
use crate::engine::{Engine, PacketError};

/// An answer to a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WriteAck {
    /// P_RECV_ACK.
    Received,
    /// P_WRITE_ACK.
    Written,
    /// P_WRITE_ACK_IN_SYNC, or P_RS_WRITE_ACK with a real block id: the peer also cleared its bits.
    InSync,
}

impl Engine {
    /// A write reached its goal on a peer.
    ///
    /// # Errors
    /// There is no such write.
    pub(crate) fn got_write_ack(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        ack: BlockAck,
        what: WriteAck,
    ) -> Result<(), PacketError> {
        self.note_seq(peer, volume, ack.seq_num);
        let id = self.find_write(peer, volume, ack).ok_or_else(|| {
            PacketError::new(format!(
                "ack for a write that is not under way: block {:?}, sector {}",
                ack.block_id, ack.sector
            ))
        })?;
        if let Some(req) = self.data.requests.get_mut(&id) {
            req.ok.insert(peer);
            req.pending.remove(peer);
            match what {
                WriteAck::Received => req.received.insert(peer),
                WriteAck::Written | WriteAck::InSync => req.received.remove(peer),
            };
            if what == WriteAck::InSync {
                req.sis.insert(peer);
            }
        }
        self.try_complete(id);
        Ok(())
    }

    /// A peer could not write (data path, section 5.4). With protocols A and B the write may be long
    /// settled.
    pub(crate) fn got_neg_ack(&mut self, peer: NodeId, volume: VolumeNr, ack: BlockAck) {
        self.note_seq(peer, volume, ack.seq_num);
        if self.state.pdisk(peer, volume) == DiskState::UpToDate
            && let Some(pd) = self
                .conns
                .get_mut(&peer)
                .and_then(|c| c.peers.get_mut(&volume))
        {
            pd.flags.got_neg_ack = true;
        }
        let Some(id) = self.find_write(peer, volume, ack) else {
            if let Some(slot) = self.slot_of(peer, volume) {
                if let Some(disk) = self.volumes.get_mut(&volume).and_then(|v| v.disk.as_mut()) {
                    disk.bitmap.set(slot, ack.sector, ack.size.0);
                }
                self.resync_bits_changed(volume);
            }
            return;
        };
        if let Some(req) = self.data.requests.get_mut(&id) {
            req.ok.remove(peer);
            req.sis.remove(peer);
            req.pending.remove(peer);
            req.refused = true;
        }
        self.try_complete(id);
    }

    /// The write that an ack names, if the peer still owes something for it.
    fn find_write(&self, peer: NodeId, volume: VolumeNr, ack: BlockAck) -> Option<ReqId> {
        let id = ReqId(ack.block_id.0);
        let req = self.data.requests.get(&id)?;
        let matches = req.is_write()
            && req.volume == volume
            && req.sector == ack.sector
            && req.sent.contains(peer)
            && !req.done.contains(peer);
        matches.then_some(id)
    }

    /// The transport has taken all of a protocol A write.
    pub(crate) fn handed_over(&mut self, id: ReqId, peer: NodeId) {
        let Some(req) = self.data.requests.get_mut(&id) else {
            return;
        };
        if req.pending.contains(peer) {
            req.pending.remove(peer);
            req.ok.insert(peer);
            self.try_complete(id);
        }
    }

    /// An epoch is settled on a peer (data path, section 7.4).
    ///
    /// # Errors
    /// It is not the oldest one that was sent, or the number of writes differs.
    pub(crate) fn got_barrier_ack(
        &mut self,
        peer: NodeId,
        ack: BarrierAck,
    ) -> Result<(), PacketError> {
        let Some(conn) = self.conns.get(&peer) else {
            return Ok(());
        };
        let writes = &conn.data.unconfirmed;
        let epoch_of = |id: &ReqId| self.data.requests.get(id).map(|r| r.epoch);
        let oldest = writes.front().and_then(epoch_of);
        let open = conn.data.sender.epoch == Some(ack.barrier) && conn.data.sender.count > 0;
        let count = writes
            .iter()
            .take_while(|id| epoch_of(id) == oldest)
            .count();
        if oldest != Some(ack.barrier) || count as u64 != u64::from(ack.set_size) || open {
            return Err(PacketError::new(format!(
                "BAD! BarrierAck #{} received with n_writes={}, expected #{:?} with {count}",
                ack.barrier, ack.set_size, oldest
            )));
        }
        self.confirm(peer, count);
        self.epoch_confirms(peer, ack.barrier);
        Ok(())
    }

    /// Part of an open epoch is settled on a peer (data path, section 7.5).
    ///
    /// # Errors
    /// The range does not begin with the oldest write, leaves its epoch, or has another length.
    pub(crate) fn got_confirm_stable(
        &mut self,
        peer: NodeId,
        ack: ConfirmStable,
    ) -> Result<(), PacketError> {
        let Some(conn) = self.conns.get(&peer) else {
            return Ok(());
        };
        let writes = &conn.data.unconfirmed;
        let epoch_of = |id: &ReqId| self.data.requests.get(id).map(|r| r.epoch);
        let oldest = writes.front().copied();
        let epoch = oldest.as_ref().and_then(epoch_of);
        let youngest = writes.iter().position(|id| id.block_id() == ack.youngest);
        let count = youngest.map_or(0, |at| at as u64 + 1);
        let good = oldest.is_some_and(|id| id.block_id() == ack.oldest)
            && count == u64::from(ack.set_size)
            && writes
                .iter()
                .take(count as usize)
                .all(|id| epoch_of(id) == epoch);
        if !good {
            return Err(PacketError::new(format!(
                "BAD! ConfirmStable of {} writes from {:?} to {:?} does not fit",
                ack.set_size, ack.oldest, ack.youngest
            )));
        }
        self.confirm(peer, count as usize);
        self.data_flush_peer_acks();
        Ok(())
    }

    /// The oldest `count` writes given to a peer are settled there.
    fn confirm(&mut self, peer: NodeId, count: usize) {
        for _ in 0..count {
            let Some(conn) = self.conns.get_mut(&peer) else {
                return;
            };
            let Some(id) = conn.data.unconfirmed.pop_front() else {
                break;
            };
            let Some(req) = self.data.requests.get_mut(&id) else {
                continue;
            };
            conn.data.ap_in_flight = conn.data.ap_in_flight.saturating_sub(req.weight());
            req.done.insert(peer);
            if req.pending.contains(peer) {
                // All acks of an epoch go before its barrier ack (invariant O4); one that is missing
                // now will not come. With protocol A only the transport's word is late.
                req.pending.remove(peer);
                if !req.synchronous.contains(peer) {
                    req.ok.insert(peer);
                }
                self.try_complete(id);
            }
        }
        self.watch_ahead(peer);
        self.advance_log();
    }

    /// Remembers the highest sequence number of a peer device (wire protocol, section 13.4).
    pub(crate) fn note_seq(&mut self, peer: NodeId, volume: VolumeNr, seq: u32) {
        let Some(pd) = self
            .conns
            .get_mut(&peer)
            .and_then(|c| c.peers.get_mut(&volume))
        else {
            return;
        };
        if (seq.wrapping_sub(pd.data.peer_seq) as i32) > 0 {
            pd.data.peer_seq = seq;
            self.data.recheck = true;
        }
    }
}
