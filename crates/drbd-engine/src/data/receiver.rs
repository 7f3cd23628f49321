//! The packets of the data plane, and the order in which those of a data stream are handled.
//!
//! The reference's receiver blocks while an epoch drains and is flushed. Here nothing blocks: what arrives
//! on the data stream meanwhile waits in a queue, in order; the control stream goes on (data path, section
//! 2, invariant L1).

use alloc::collections::VecDeque;
use alloc::format;
use alloc::vec::Vec;

use drbd_proto::packet::BlockAck;
use drbd_proto::{BlockId, ConnState, NodeId, Packet, Stream, VolumeNr};

use crate::data::acks::WriteAck;
use crate::data::receiver_epoch::RxEpoch;
use crate::engine::{Engine, PacketError};
use crate::id::BufId;

/// Packets of one peer that may wait at a time; more than any peer has under way.
const MAX_QUEUED: usize = 1 << 17;

/// Receiving side of a connection.
#[derive(Debug, Default)]
pub(crate) struct Receiver {
    /// Packets of the data stream that wait.
    pub queue: VecDeque<RxItem>,
    /// Why they wait.
    pub block: Block,
    /// Cache flushes outstanding for the block; none before they are started.
    pub flushes: Option<u32>,
    /// The epochs that are not finished; the last one without a number is open.
    pub epochs: VecDeque<RxEpoch>,
    pub next_epoch: u64,
    /// Received writes whose answer is not sent.
    pub active: u32,
}

impl Receiver {
    /// Whether a write is among the packets that wait.
    pub(crate) fn waits(&self) -> bool {
        self.queue.iter().any(|item| {
            matches!(
                item.packet,
                Packet::Data(_) | Packet::Trim(_) | Packet::Zeroes(_)
            )
        })
    }
}

/// A packet of the data stream that waits.
#[derive(Debug)]
pub(crate) struct RxItem {
    volume: VolumeNr,
    packet: Packet,
    payload: Option<BufId>,
    /// What it had to wait for has happened.
    waited: bool,
}

impl RxItem {
    /// Its payload.
    pub(crate) fn payload(&self) -> Option<BufId> {
        self.payload
    }
}

/// Why a data stream waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Block {
    /// It does not.
    #[default]
    None,
    /// An epoch ended: its writes have to be written and flushed (data path, section 7.4).
    Barrier,
    /// Out-of-sync notices come after the answers to all earlier writes (data path, section 28, hazard
    /// 24).
    Drain,
    /// The activity log is short of extents (data path, section 5.1, item 9).
    AlPressure,
    /// Two primaries: acks with lower sequence numbers go first (data path, section 6.3).
    Sequence(VolumeNr, u32),
}

/// What became of a packet that was looked at.
pub(crate) enum Handled {
    /// It is done with.
    Yes,
    /// It has to wait; here it is again.
    Later(Block, Packet, Option<BufId>),
}

impl Engine {
    /// A packet of the data plane arrived. Takes over `payload`.
    ///
    /// # Errors
    /// Something about it is not acceptable; the connection ends.
    pub(crate) fn data_packet(
        &mut self,
        peer: NodeId,
        stream: Stream,
        volume: VolumeNr,
        packet: Packet,
        payload: Option<BufId>,
    ) -> Result<(), PacketError> {
        if stream == Stream::Control {
            if let Some(buf) = payload {
                self.release(buf);
            }
            return self.control_stream_packet(peer, volume, packet);
        }
        let Some(conn) = self.conns.get_mut(&peer) else {
            if let Some(buf) = payload {
                self.release(buf);
            }
            return Ok(());
        };
        let receiver = &mut conn.data.receiver;
        let item = RxItem {
            volume,
            packet,
            payload,
            waited: false,
        };
        if receiver.block != Block::None || !receiver.queue.is_empty() {
            if receiver.queue.len() >= MAX_QUEUED {
                if let Some(buf) = item.payload {
                    self.release(buf);
                }
                return Err(PacketError::new(
                    "too many packets while an epoch is being flushed",
                ));
            }
            receiver.queue.push_back(item);
            return Ok(());
        }
        self.take_item(peer, item)
    }

    /// Handles a packet of the data stream, or puts it back to the head of the queue.
    fn take_item(&mut self, peer: NodeId, item: RxItem) -> Result<(), PacketError> {
        let RxItem {
            volume,
            packet,
            payload,
            waited,
        } = item;
        match self.data_stream_packet(peer, volume, packet, payload, waited)? {
            Handled::Yes => {}
            Handled::Later(block, packet, payload) => {
                if let Some(conn) = self.conns.get_mut(&peer) {
                    let item = RxItem {
                        volume,
                        packet,
                        payload,
                        waited: true,
                    };
                    conn.data.receiver.queue.push_front(item);
                    conn.data.receiver.block = block;
                    self.data.recheck = true;
                }
            }
        }
        Ok(())
    }

    /// Lets data streams go on whose reason to wait is gone.
    pub(crate) fn settle_receivers(&mut self) {
        let peers: Vec<NodeId> = self
            .conns
            .iter()
            .filter(|(_, c)| {
                c.data.receiver.block != Block::None || !c.data.receiver.queue.is_empty()
            })
            .map(|(peer, _)| *peer)
            .collect();
        for peer in peers {
            while self.unblock(peer) {
                let next = self
                    .conns
                    .get_mut(&peer)
                    .and_then(|c| c.data.receiver.queue.pop_front());
                let Some(item) = next else { break };
                if let Err(PacketError(text)) = self.take_item(peer, item) {
                    self.fail_connection(peer, ConnState::ProtocolError, &text);
                    break;
                }
            }
        }
    }

    /// Whether the data stream may go on.
    fn unblock(&mut self, peer: NodeId) -> bool {
        let Some(conn) = self.conns.get_mut(&peer) else {
            return false;
        };
        let receiver = &mut conn.data.receiver;
        let drained = receiver.active == 0;
        let free = match receiver.block {
            Block::None => return true,
            Block::Drain => drained,
            Block::Barrier | Block::AlPressure if !drained => false,
            Block::Barrier | Block::AlPressure => self.flushed(peer),
            Block::Sequence(volume, seq) => conn
                .peers
                .get(&volume)
                .is_none_or(|pd| (pd.data.peer_seq.wrapping_sub(seq.wrapping_sub(1)) as i32) >= 0),
        };
        if free {
            self.end_block(peer);
        }
        free
    }

    /// Does what the end of a block calls for.
    fn end_block(&mut self, peer: NodeId) {
        let Some(conn) = self.conns.get_mut(&peer) else {
            return;
        };
        let receiver = &mut conn.data.receiver;
        receiver.flushes = None;
        match core::mem::take(&mut receiver.block) {
            Block::Barrier => self.epoch_flushed(peer),
            Block::AlPressure => self.send_confirm_stable(peer),
            Block::None | Block::Drain | Block::Sequence(..) => {}
        }
    }

    /// Handles a packet of the data stream whose turn it is. `waited` is true if it had to wait once.
    fn data_stream_packet(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        packet: Packet,
        payload: Option<BufId>,
        waited: bool,
    ) -> Result<Handled, PacketError> {
        let (packet, payload) = match packet {
            Packet::Data(_) | Packet::Trim(_) | Packet::Zeroes(_) => {
                return self.got_write(peer, volume, packet, payload, waited);
            }
            Packet::DataReply(reply) => {
                self.got_data_reply(peer, volume, reply, payload)?;
                return Ok(Handled::Yes);
            }
            Packet::RsDataReply(reply) => {
                self.got_rs_data_reply(peer, volume, reply, payload)?;
                return Ok(Handled::Yes);
            }
            other => (other, payload),
        };
        // Nothing else has a payload.
        if let Some(buf) = payload {
            self.release(buf);
        }
        match packet {
            Packet::Barrier(barrier) => self.got_barrier(peer, barrier.barrier),
            Packet::Dagtag(position) => {
                if let Some(conn) = self.conns.get_mut(&peer) {
                    conn.last_dagtag = position.dagtag;
                    conn.dagtag_received = true;
                    self.data.recheck = true;
                }
            }
            Packet::OutOfSync(range) => {
                let active = self
                    .conns
                    .get(&peer)
                    .is_some_and(|c| c.data.receiver.active > 0);
                if active && !waited {
                    return Ok(Handled::Later(Block::Drain, Packet::OutOfSync(range), None));
                }
                self.got_out_of_sync(peer, volume, range)?;
            }
            Packet::DataRequest(request) => self.got_data_request(peer, volume, request)?,
            Packet::UnplugRemote | Packet::DelayProbe(_) => {}
            Packet::Bitmap(words) => self.got_bitmap(peer, volume, words)?,
            Packet::CompressedBitmap(runs) => self.got_compressed_bitmap(peer, volume, runs)?,
            other => self.resync_packet(peer, volume, other)?,
        }
        Ok(Handled::Yes)
    }

    /// Handles a packet of the control stream.
    fn control_stream_packet(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        packet: Packet,
    ) -> Result<(), PacketError> {
        let apv = self.conns.get(&peer).map_or(0, |c| c.apv());
        let resync = |ack: &BlockAck| apv >= 122 || ack.block_id == BlockId::SYNCER;
        match packet {
            Packet::RecvAck(ack) => self.got_write_ack(peer, volume, ack, WriteAck::Received),
            Packet::WriteAck(ack) => self.got_write_ack(peer, volume, ack, WriteAck::Written),
            Packet::WriteAckInSync(ack) => self.got_write_ack(peer, volume, ack, WriteAck::InSync),
            Packet::RsWriteAck(ack) if !resync(&ack) => {
                self.got_write_ack(peer, volume, ack, WriteAck::InSync)
            }
            Packet::NegAck(ack) if apv >= 122 || ack.block_id != BlockId::SYNCER => {
                self.got_neg_ack(peer, volume, ack);
                Ok(())
            }
            Packet::NegDreply(ack) => self.got_neg_dreply(peer, volume, ack),
            Packet::BarrierAck(ack) => self.got_barrier_ack(peer, ack),
            Packet::ConfirmStable(ack) => self.got_confirm_stable(peer, ack),
            Packet::PeerAck(ack) => self.got_peer_ack(peer, ack),
            Packet::DelayProbe(_) => Ok(()),
            other => self.resync_packet(peer, volume, other),
        }
    }

    /// A packet that belongs nowhere.
    pub(crate) fn unexpected(packet: &Packet) -> PacketError {
        PacketError::new(format!("{} is not expected here", packet.cmd().name()))
    }
}
