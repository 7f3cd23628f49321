//! Reads: from the own disk or from a peer, and for peers (data path, section 11).

use alloc::format;
use alloc::vec::Vec;

use drbd_proto::packet::{BlockAck, BlockRequest, DataReply};
use drbd_proto::{
    BlockId, Bytes, DigestValue, DiskState, NodeId, NodeMask, Packet, Sector, Stream, VolumeNr,
};

use crate::data::request::{Local, ReqKind, Stage};
use crate::data::{DataOpKind, ReqId};
use crate::disk::DiskFault;
use crate::effect::{Effect, IoError};
use crate::engine::{Engine, PacketError};
use crate::event::{OpOutput, OpResult};
use crate::id::BufId;
use crate::options::{ReadBalancing, WireProtocol};

/// A read for a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PeerRead {
    /// The peer, and in which time of its connection it asked.
    pub peer: NodeId,
    pub generation: u64,
    /// What to read.
    pub volume: VolumeNr,
    pub sector: Sector,
    pub len: u32,
    /// The peer's handle.
    pub block_id: BlockId,
}

impl Engine {
    /// Starts an admitted read, or starts it again on another path.
    pub(crate) fn start_read(&mut self, id: ReqId) {
        let Some(req) = self.data.requests.get_mut(&id) else {
            return;
        };
        req.stage = Stage::Logged;
        let (volume, sector, len, tried) = (req.volume, req.sector, req.len, req.tried);
        let local = !tried.contains(self.node_id) && self.may_read_here(volume, sector, len);
        let remote = self.read_candidate(volume, tried);
        if local && !(remote.is_some() && self.prefers_remote(volume, sector, remote)) {
            if let Some(req) = self.data.requests.get_mut(&id) {
                req.local = Local::Pending;
            }
            if let Some(v) = self.volumes.get_mut(&volume) {
                v.data.read += u64::from(len / 512);
            }
            let op = self.data_op(volume, DataOpKind::Local(id));
            self.push(Effect::DiskRead {
                op,
                volume,
                sector,
                len,
            });
            return;
        }
        let Some(peer) = remote else {
            self.finish_read(id, Err(IoError::Io), None);
            return;
        };
        if let Some(v) = self.volumes.get_mut(&volume) {
            v.data.read_candidates.remove(peer);
        }
        if let Some(req) = self.data.requests.get_mut(&id) {
            req.pending.insert(peer);
            req.sent.insert(peer);
            req.since = self.now;
        }
        let packet = Packet::DataRequest(BlockRequest {
            sector,
            block_id: id.block_id(),
            size: Bytes(len),
        });
        self.send(peer, Stream::Data, volume, packet);
        self.watch_requests(peer);
    }

    /// Whether the own disk may serve a read (data path, section 11.1).
    fn may_read_here(&self, volume: VolumeNr, sector: Sector, len: u32) -> bool {
        match self.state.disk(volume) {
            DiskState::UpToDate => true,
            DiskState::Inconsistent => {
                let slots = self.slots_of(volume);
                let disk = self.volumes.get(&volume).and_then(|v| v.disk.as_ref());
                disk.is_some_and(|d| {
                    !slots.is_empty()
                        && slots
                            .iter()
                            .all(|(_, slot)| !d.bitmap.any(*slot, sector, len))
                })
            }
            _ => false,
        }
    }

    /// The peer whose turn it is to serve a read (data path, section 11.1).
    fn read_candidate(&mut self, volume: VolumeNr, tried: NodeMask) -> Option<NodeId> {
        let mut best = WireProtocol::A;
        let mut group = NodeMask::EMPTY;
        for (peer, _, pd) in self.state.peers_of(volume) {
            let Some(conn) = self.conns.get(&peer) else {
                continue;
            };
            if pd.pdisk != DiskState::UpToDate
                || !conn.options.allow_remote_read
                || tried.contains(peer)
            {
                continue;
            }
            let protocol = conn.options.protocol;
            if group.is_empty() || protocol as u8 > best as u8 {
                best = protocol;
                group = NodeMask::EMPTY;
            }
            if protocol == best {
                group.insert(peer);
            }
        }
        let v = self.volumes.get_mut(&volume)?;
        let mut left = v.data.read_candidates & group;
        if left.is_empty() {
            v.data.read_candidates = group;
            left = group;
        }
        left.iter().next()
    }

    /// Whether a read that could be local goes to a peer (data path, section 11.2).
    fn prefers_remote(&mut self, volume: VolumeNr, sector: Sector, peer: Option<NodeId>) -> bool {
        let Some(v) = self.volumes.get_mut(&volume) else {
            return false;
        };
        let Some(disk) = v.disk.as_ref() else {
            return true;
        };
        match disk.options.read_balancing {
            ReadBalancing::PreferLocal | ReadBalancing::WhenCongestedRemote => false,
            ReadBalancing::PreferRemote => true,
            ReadBalancing::RoundRobin => {
                v.data.read_turn = v.data.read_turn.wrapping_add(1);
                v.data.read_turn % 2 == 0
            }
            ReadBalancing::Striping(shift) => {
                let shift = u32::from(shift).clamp(9, 63) - 9;
                sector.0 >> shift & 1 == 1
            }
            ReadBalancing::LeastPending => {
                let busy = u64::from(v.data.disk_ops);
                let Some(peer) = peer else { return false };
                let pending = self
                    .data
                    .requests
                    .values()
                    .filter(|r| r.volume == volume && r.pending.contains(peer))
                    .count() as u64;
                busy > pending + self.resync_pending(peer, volume)
            }
        }
    }

    /// The own disk answered.
    pub(crate) fn local_read_done(&mut self, id: ReqId, result: OpResult) {
        let Some(req) = self.data.requests.get_mut(&id) else {
            return;
        };
        req.local = Local::None;
        let (volume, sector, len) = (req.volume, req.sector, req.len);
        match result {
            Ok(OpOutput::Buf(buf)) => self.finish_read(id, Ok(()), Some(buf)),
            _ => {
                // The block is bad here: whoever has it is different (data path, section 11.4).
                if let Some(disk) = self.volumes.get_mut(&volume).and_then(|v| v.disk.as_mut()) {
                    disk.bitmap.set_in_all(sector, len);
                }
                let own = self.node_id;
                if let Some(req) = self.data.requests.get_mut(&id) {
                    req.tried.insert(own);
                }
                self.disk_failed(volume, DiskFault::Read);
                self.retry_read(id);
            }
        }
    }

    /// A path failed: the read takes another one, or waits for one (data path, section 11.4).
    pub(crate) fn retry_read(&mut self, id: ReqId) {
        let Some(req) = self.data.requests.get_mut(&id) else {
            return;
        };
        req.pending = NodeMask::EMPTY;
        req.sent = NodeMask::EMPTY;
        let (volume, kind) = (req.volume, req.kind);
        self.leave_progress(volume, kind);
        self.park(volume, id);
    }

    /// Ends a read.
    fn finish_read(&mut self, id: ReqId, result: Result<(), IoError>, data: Option<BufId>) {
        let Some(req) = self.data.requests.remove(&id) else {
            if let Some(buf) = data {
                self.release(buf);
            }
            return;
        };
        self.push(Effect::CompleteIo {
            io: req.io,
            result,
            data,
        });
        if let Some(buf) = data {
            self.release(buf);
        }
        self.leave_progress(req.volume, req.kind);
    }

    /// P_DATA_REPLY: a peer answered a read.
    ///
    /// # Errors
    /// There is no such read. The buffer is given back in any case.
    pub(crate) fn got_data_reply(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        reply: DataReply,
        payload: Option<BufId>,
    ) -> Result<(), PacketError> {
        let id = ReqId(reply.block_id.0);
        let fits = self.data.requests.get(&id).is_some_and(|r| {
            r.kind == ReqKind::Read
                && r.volume == volume
                && r.sector == reply.sector
                && r.len == reply.size.0
                && r.pending.contains(peer)
        });
        match (fits, payload) {
            (true, Some(buf)) => {
                if let Some(pd) = self
                    .conns
                    .get_mut(&peer)
                    .and_then(|c| c.peers.get_mut(&volume))
                {
                    pd.data.received += u64::from(reply.size.0 / 512);
                }
                self.finish_read(id, Ok(()), Some(buf));
                Ok(())
            }
            (_, payload) => {
                if let Some(buf) = payload {
                    self.release(buf);
                }
                Err(PacketError::new(format!(
                    "data for a read that is not under way: block {:?}, sector {}, size {}",
                    reply.block_id, reply.sector, reply.size
                )))
            }
        }
    }

    /// P_NEG_DREPLY: a peer could not read.
    ///
    /// # Errors
    /// There is no such read.
    pub(crate) fn got_neg_dreply(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        ack: BlockAck,
    ) -> Result<(), PacketError> {
        self.note_seq(peer, volume, ack.seq_num);
        let id = ReqId(ack.block_id.0);
        match self.data.requests.get_mut(&id) {
            Some(r)
                if r.kind == ReqKind::Read
                    && r.volume == volume
                    && r.sector == ack.sector
                    && r.pending.contains(peer) =>
            {
                r.tried.insert(peer);
                self.retry_read(id);
                Ok(())
            }
            _ => Err(PacketError::new(format!(
                "refusal of a read that is not under way: block {:?}, sector {}",
                ack.block_id, ack.sector
            ))),
        }
    }

    /// P_DATA_REQUEST: a peer wants to read here (data path, section 11.3).
    ///
    /// # Errors
    /// The range is not inside the device.
    pub(crate) fn got_data_request(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        request: BlockRequest,
    ) -> Result<(), PacketError> {
        self.check_inside(volume, request.sector, request.size)?;
        let Some(conn) = self.conns.get(&peer) else {
            return Ok(());
        };
        let read = PeerRead {
            peer,
            generation: conn.data.generation,
            volume,
            sector: request.sector,
            len: request.size.0,
            block_id: request.block_id,
        };
        self.serve_read(read);
        Ok(())
    }

    /// Reads for a peer, after the writes of this peer to the same place.
    fn serve_read(&mut self, read: PeerRead) {
        if self.state.disk(read.volume) != DiskState::UpToDate {
            self.refuse_read(read);
            return;
        }
        if self.unwritten_overlap(read.peer, read.volume, read.sector, read.len) {
            if let Some(conn) = self.conns.get_mut(&read.peer) {
                conn.data.parked_reads.push(read);
            }
            return;
        }
        let (volume, sector, len) = (read.volume, read.sector, read.len);
        if let Some(v) = self.volumes.get_mut(&volume) {
            v.data.read += u64::from(len / 512);
        }
        let op = self.data_op(volume, DataOpKind::PeerRead(read));
        self.push(Effect::DiskRead {
            op,
            volume,
            sector,
            len,
        });
    }

    /// A received write was written: reads that waited for it may go.
    pub(crate) fn release_parked_reads(&mut self, peer: NodeId) {
        let Some(conn) = self.conns.get_mut(&peer) else {
            return;
        };
        if conn.data.parked_reads.is_empty() {
            return;
        }
        let parked: Vec<PeerRead> = core::mem::take(&mut conn.data.parked_reads);
        for read in parked {
            self.serve_read(read);
        }
    }

    fn refuse_read(&mut self, read: PeerRead) {
        let ack = self.block_ack(read.peer, read.volume, read.sector, read.len, read.block_id);
        self.send(
            read.peer,
            Stream::Control,
            read.volume,
            Packet::NegDreply(ack),
        );
    }

    /// The disk answered a read for a peer.
    pub(crate) fn peer_read_done(&mut self, read: PeerRead, result: OpResult) {
        let same = self
            .conns
            .get(&read.peer)
            .is_some_and(|c| c.data.generation == read.generation);
        match result {
            Ok(OpOutput::Buf(buf)) => {
                if same {
                    if let Some(pd) = self
                        .conns
                        .get_mut(&read.peer)
                        .and_then(|c| c.peers.get_mut(&read.volume))
                    {
                        pd.data.sent += u64::from(read.len / 512);
                    }
                    let packet = Packet::DataReply(DataReply {
                        sector: read.sector,
                        block_id: read.block_id,
                        size: Bytes(read.len),
                        digest: DigestValue::EMPTY,
                    });
                    self.send_payload(read.peer, read.volume, packet, buf, None);
                }
                self.release(buf);
            }
            _ => {
                if let Some(disk) = self
                    .volumes
                    .get_mut(&read.volume)
                    .and_then(|v| v.disk.as_mut())
                {
                    disk.bitmap.set_in_all(read.sector, read.len);
                }
                self.disk_failed(read.volume, DiskFault::Read);
                if same {
                    self.refuse_read(read);
                }
            }
        }
    }

    /// An acknowledgement or refusal with the next sequence number.
    pub(crate) fn block_ack(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        sector: Sector,
        len: u32,
        block_id: BlockId,
    ) -> BlockAck {
        let seq_num = self.next_seq(peer, volume);
        BlockAck {
            sector,
            block_id,
            size: Bytes(len),
            seq_num,
        }
    }

    /// Checks that a range lies inside a volume.
    ///
    /// # Errors
    /// It does not.
    pub(crate) fn check_inside(
        &self,
        volume: VolumeNr,
        sector: Sector,
        size: Bytes,
    ) -> Result<(), PacketError> {
        let Some(v) = self.volumes.get(&volume) else {
            return Err(PacketError::new(format!(
                "volume {volume} is not configured here"
            )));
        };
        let end = sector.end(size).map_or(u64::MAX, |end| end.0);
        if size.0 == 0 || !size.is_sector_aligned() || end > v.size {
            return Err(PacketError::new(format!(
                "request for sector {sector}, size {size}, beyond the device of {} sectors",
                v.size
            )));
        }
        Ok(())
    }
}
