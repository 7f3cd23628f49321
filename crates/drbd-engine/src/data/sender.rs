//! What each peer gets: writes, out-of-sync notices, barriers, dagtags, in the order of the transfer log
//! (data path, sections 3.5, 3.6 and 7.3).
//!
//! A packet is sent at the moment its write goes onto the log; the transport queues. So a peer's stream is
//! never behind the log, and the idle barrier of a closed epoch can follow at once.

use drbd_proto::packet::{Barrier, DagtagPosition, Data, Discard, OutOfSync};
use drbd_proto::{
    BarrierNr, Bytes, Dagtag, DigestValue, DiskState, DpFlags, Features, NodeId, Packet, ReplState,
    Sector, Stream, VolumeNr,
};

use crate::data::request::ReqKind;
use crate::data::{DataOpKind, ReqId};
use crate::effect::Effect;
use crate::engine::Engine;
use crate::options::WireProtocol;

/// Position in the stream of writes to one peer.
#[derive(Debug, Default)]
pub(crate) struct Sender {
    /// Epoch of the last write sent over these streams.
    pub epoch: Option<BarrierNr>,
    /// Writes sent in that epoch, since its last barrier.
    pub count: u32,
    /// The position that the receiver knows; none on fresh streams.
    pub dagtag: Option<Dagtag>,
}

/// Whether a replication state belongs to a running resync or verify (data path, section 3.6).
pub(crate) fn in_resync(repl: ReplState) -> bool {
    (ReplState::SyncSource..=ReplState::PausedSyncT).contains(&repl)
}

fn dagtag_at(dagtag: Dagtag) -> Packet {
    Packet::Dagtag(DagtagPosition { dagtag })
}

impl Engine {
    /// Assigns a logged write to a peer and sends it. True if it filled the epoch (data path, section
    /// 7.2, item 2).
    pub(crate) fn replicate(&mut self, id: ReqId, peer: NodeId) -> bool {
        let relies = match self.data.requests.get(&id) {
            Some(req) => self.relies_on_peers(req.volume),
            None => return false,
        };
        let Some(req) = self.data.requests.get_mut(&id) else {
            return false;
        };
        let Some(conn) = self.conns.get_mut(&peer) else {
            return false;
        };
        let data = matches!(req.kind, ReqKind::Write { .. });
        if !data && !conn.has(Features::TRIM) {
            // It cannot be told; its blocks become out of sync.
            return false;
        }
        req.pending.insert(peer);
        req.expect_barrier.insert(peer);
        if relies || conn.options.protocol != WireProtocol::A {
            req.synchronous.insert(peer);
        }
        conn.data.unconfirmed.push_back(id);
        self.send_write(id, peer);
        let epoch_writes = self.data.epoch_writes;
        let Some(conn) = self.conns.get(&peer) else {
            return false;
        };
        epoch_writes >= conn.options.max_epoch_size.max(1) || (!data && conn.apv() < 114)
    }

    /// Whether no disk here keeps what is written. Then a write is complete when a peer's disk has it, whatever
    /// the protocol: on the way, or in a peer's memory, it is nowhere if the connection breaks, and the next
    /// read would show older data. A deviation from the reference; each write says what answer it wants.
    fn relies_on_peers(&self, volume: VolumeNr) -> bool {
        self.state.disk(volume) != DiskState::UpToDate
    }

    /// Sends a write to a peer (data path, section 3.6). Also for the second time after a reconnect.
    pub(crate) fn send_write(&mut self, id: ReqId, peer: NodeId) {
        let Some(req) = self.data.requests.get(&id) else {
            return;
        };
        let (volume, epoch, dagtag, len) = (req.volume, req.epoch, req.dagtag, req.len);
        self.send_barrier_if_due(peer, epoch);
        let before = dagtag.before(Bytes(len));
        let Some(conn) = self.conns.get_mut(&peer) else {
            return;
        };
        conn.data.sender.epoch = Some(epoch);
        conn.data.sender.count = conn.data.sender.count.saturating_add(1);
        let known = conn.data.sender.dagtag.replace(dagtag);
        if conn.apv() >= 110 && known != Some(before) {
            self.send(peer, Stream::Data, VolumeNr::CONNECTION, dagtag_at(before));
        }
        self.leave_out_of_sync_mode(peer, volume);
        self.emit_write(id, peer);
    }

    /// Sends the packet of a write.
    fn emit_write(&mut self, id: ReqId, peer: NodeId) {
        let repl = match self.data.requests.get(&id) {
            Some(req) => self.state.repl(peer, req.volume),
            None => return,
        };
        let seq = match self.data.requests.get(&id) {
            Some(req) => self.next_seq(peer, req.volume),
            None => return,
        };
        let relies = match self.data.requests.get(&id) {
            Some(req) => self.relies_on_peers(req.volume),
            None => return,
        };
        let (Some(req), Some(conn)) = (self.data.requests.get_mut(&id), self.conns.get_mut(&peer))
        else {
            return;
        };
        let (volume, apv) = (req.volume, conn.apv());
        let protocol = match (req.synchronous.contains(peer), conn.options.protocol) {
            (false, _) => WireProtocol::A,
            (true, WireProtocol::B) if !relies => WireProtocol::B,
            (true, _) => WireProtocol::C,
        };
        let mut flags = DpFlags::RW_SYNC;
        flags = flags.with(DpFlags::MAY_SET_IN_SYNC, in_resync(repl));
        if apv >= 95 {
            flags = flags.with(
                DpFlags::FUA,
                matches!(req.kind, ReqKind::Write { fua: true }),
            );
        }
        if apv >= 100 {
            flags = flags.with(DpFlags::SEND_RECEIVE_ACK, protocol == WireProtocol::B);
            let write_ack = protocol == WireProtocol::C || in_resync(repl);
            flags = flags.with(DpFlags::SEND_WRITE_ACK, write_ack);
        }
        let zeroes = conn.has(Features::WZEROES);
        conn.data.ap_in_flight += req.weight();
        if let Some(pd) = conn.peers.get_mut(&volume) {
            pd.data.sent += req.sectors();
        }
        req.sent.insert(peer);
        let (sector, size, kind, buf) = (req.sector, Bytes(req.len), req.kind, req.buf);
        let block_id = id.block_id();
        let discard = |more: DpFlags| Discard {
            sector,
            block_id,
            seq_num: seq,
            dp_flags: flags | more,
            size,
        };
        let packet = match kind {
            ReqKind::Write { .. } => Packet::Data(Data {
                sector,
                block_id,
                seq_num: seq,
                dp_flags: flags,
                size,
                digest: DigestValue::EMPTY,
            }),
            ReqKind::Zeroes { unmap } if zeroes => {
                Packet::Zeroes(discard(DpFlags::ZEROES.with(DpFlags::DISCARD, unmap)))
            }
            _ => Packet::Trim(discard(DpFlags::DISCARD)),
        };
        // Protocol A is content when the transport has the data.
        let notify =
            (protocol == WireProtocol::A).then(|| self.data_op(volume, DataOpKind::Sent(id, peer)));
        self.push(Effect::Send {
            peer,
            stream: Stream::Data,
            volume,
            packet,
            payload: buf.filter(|_| matches!(kind, ReqKind::Write { .. })),
            notify,
        });
        self.watch_requests(peer);
    }

    /// Sends the barrier of the sender's epoch if writes were sent in it and `epoch` is another one
    /// (data path, section 7.3).
    pub(crate) fn send_barrier_if_due(&mut self, peer: NodeId, epoch: BarrierNr) {
        let Some(conn) = self.conns.get_mut(&peer) else {
            return;
        };
        let sender = &mut conn.data.sender;
        let Some(sent) = sender.epoch.filter(|e| *e != epoch && sender.count > 0) else {
            return;
        };
        sender.count = 0;
        sender.epoch = Some(epoch);
        conn.data.barrier_sent = self.now;
        self.send(
            peer,
            Stream::Data,
            VolumeNr::CONNECTION,
            Packet::Barrier(Barrier { barrier: sent }),
        );
    }

    /// Tells a peer that blocks differ from now on (data path, sections 3.6 and 14.3).
    pub(crate) fn send_out_of_sync(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        sector: Sector,
        len: u32,
    ) {
        if self.state.repl(peer, volume) < ReplState::Established {
            return;
        }
        let Some(pd) = self
            .conns
            .get_mut(&peer)
            .filter(|c| c.apv() >= 96)
            .and_then(|c| c.peers.get_mut(&volume))
        else {
            return;
        };
        if !core::mem::replace(&mut pd.data.told_out_of_sync, true) {
            self.send_state(peer, volume);
        }
        let packet = Packet::OutOfSync(OutOfSync {
            sector,
            size: Bytes(len),
        });
        self.send(peer, Stream::Data, volume, packet);
    }

    /// The next thing said about writes of this peer device is data: say in which state first.
    fn leave_out_of_sync_mode(&mut self, peer: NodeId, volume: VolumeNr) {
        let told = self
            .conns
            .get_mut(&peer)
            .and_then(|c| c.peers.get_mut(&volume))
            .is_some_and(|pd| core::mem::take(&mut pd.data.told_out_of_sync));
        if told {
            self.send_state(peer, volume);
        }
    }

    /// Announces the position in the stream of writes to a peer that starts to get them (data path,
    /// section 3.5).
    pub(crate) fn announce_dagtag(&mut self, peer: NodeId) {
        let dagtag = self.data.dagtag;
        let Some(conn) = self.conns.get_mut(&peer).filter(|c| c.apv() >= 110) else {
            return;
        };
        if conn.data.sender.dagtag.replace(dagtag) != Some(dagtag) {
            self.send(peer, Stream::Data, VolumeNr::CONNECTION, dagtag_at(dagtag));
        }
    }

    /// The next sequence number of a peer device (wire protocol, section 13.4).
    pub(crate) fn next_seq(&mut self, peer: NodeId, volume: VolumeNr) -> u32 {
        let Some(pd) = self
            .conns
            .get_mut(&peer)
            .and_then(|c| c.peers.get_mut(&volume))
        else {
            return 0;
        };
        pd.data.packet_seq = pd.data.packet_seq.wrapping_add(1);
        pd.data.packet_seq
    }
}
