//! Writes received from a peer (data path, section 5).

use alloc::format;

use drbd_proto::{
    BlockId, Bytes, Dagtag, DiskState, DpFlags, Features, NodeId, Packet, Role, Sector, Stream,
    VolumeNr,
};

use crate::data::PeerReqId;
use crate::data::conflicts::Owner;
use crate::data::receiver::{Block, Handled};
use crate::data::request::{MAX_DISCARD, MAX_IO};
use crate::effect::DiscardKind;
use crate::engine::{Engine, PacketError};
use crate::id::BufId;
use crate::interval::{Check, IntervalId, Kind};
use crate::options::WireProtocol;

/// Received writes of one peer that may wait for their peer-ack; more than any peer has under way.
const MAX_RECEIVED: usize = 1 << 20;

/// Where a received write stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PeerStage {
    /// Behind another request at the same place.
    Conflict,
    /// In the queue for activity log extents.
    Cold,
    /// Its extents come with the running transaction.
    Ready,
    /// On the disk's way.
    Disk,
    /// Answered; kept until its peer-ack.
    Written,
}

/// A received write.
#[derive(Debug)]
pub(crate) struct PeerRequest {
    /// Who sent it.
    pub peer: NodeId,
    /// Its volume.
    pub volume: VolumeNr,
    /// First sector.
    pub sector: Sector,
    /// Length in bytes.
    pub len: u32,
    /// The data, until submitted; none for discards.
    pub buf: Option<BufId>,
    /// What a discard has to achieve.
    pub discard: Option<DiscardKind>,
    /// The sender's handle.
    pub block_id: BlockId,
    /// How.
    pub flags: DpFlags,
    /// Position of its end in the peer's stream of writes.
    pub dagtag: Dagtag,
    /// Its epoch.
    pub epoch: u64,
    /// Where it stands.
    pub stage: PeerStage,
    /// Its place in the interval tree.
    pub interval: Option<IntervalId>,
    /// Extents that it holds, counted from the first one.
    pub extents: u32,
    /// The local disk does not have it.
    pub failed: bool,
    /// The sender had no disk: its copy differs from now on (data path, section 5.1, item 11).
    pub marks_sender: bool,
    /// The connection it came over is gone: nobody waits for an answer.
    pub orphan: bool,
}

impl PeerRequest {
    /// Whether the local disk is finished with it.
    pub(crate) fn is_written(&self) -> bool {
        self.stage == PeerStage::Written
    }

    /// Whether it was given to the disk.
    pub(crate) fn is_submitted(&self) -> bool {
        matches!(self.stage, PeerStage::Disk | PeerStage::Written)
    }
}

/// What the three packets of writes say.
struct Incoming {
    sector: Sector,
    size: Bytes,
    block_id: BlockId,
    seq: u32,
    flags: DpFlags,
    discard: Option<DiscardKind>,
}

impl Engine {
    /// P_DATA, P_TRIM, P_ZEROES (data path, section 5.1).
    ///
    /// # Errors
    /// Range, flags or order are not acceptable. The buffer is given back then.
    pub(crate) fn got_write(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        packet: Packet,
        payload: Option<BufId>,
        waited: bool,
    ) -> Result<Handled, PacketError> {
        let incoming = match self.check_write(peer, volume, &packet, payload.is_some()) {
            Ok(incoming) => incoming,
            Err(error) => {
                if let Some(buf) = payload {
                    self.release(buf);
                }
                return Err(error);
            }
        };
        let (sector, len) = (incoming.sector, incoming.size.0);
        let disk = self.local_disk_at_least(volume, DiskState::Inconsistent);
        let two_primaries = self.state.role == Role::Primary
            && self
                .conns
                .get(&peer)
                .is_some_and(|c| c.options.two_primaries);
        if two_primaries && !waited && self.must_wait_for_seq(peer, volume, incoming.seq) {
            return Ok(Handled::Later(
                Block::Sequence(volume, incoming.seq),
                packet,
                payload,
            ));
        }
        let alone = self.conns.get(&peer).is_some_and(|c| {
            c.data.receiver.active == 0
                && c.data
                    .receiver
                    .epochs
                    .back()
                    .is_none_or(|e| e.size == e.confirmed)
        });
        if disk && !waited && !alone && self.al_pressure(volume, sector, len) {
            return Ok(Handled::Later(Block::AlPressure, packet, payload));
        }
        self.note_seq(peer, volume, incoming.seq);
        self.accept_write(peer, volume, incoming, payload, disk, two_primaries)?;
        Ok(Handled::Yes)
    }

    /// What a write says, checked (data path, section 5.1, items 1 and 3).
    fn check_write(
        &self,
        peer: NodeId,
        volume: VolumeNr,
        packet: &Packet,
        payload: bool,
    ) -> Result<Incoming, PacketError> {
        let conn = self.conns.get(&peer);
        if !conn.is_some_and(|c| c.peers.contains_key(&volume)) {
            return Err(PacketError::new(format!(
                "write to volume {volume}, not configured here"
            )));
        }
        if conn.is_some_and(|c| c.data.received.len() >= MAX_RECEIVED) {
            return Err(PacketError::new("a million writes without a peer-ack"));
        }
        let (sector, size, block_id, seq, flags, discard, max) = match packet {
            Packet::Data(d) if payload => (
                d.sector, d.size, d.block_id, d.seq_num, d.dp_flags, None, MAX_IO,
            ),
            Packet::Trim(d) => {
                // An older sender may mean zeroes (data path, section 10.2).
                let zero = !conn.is_some_and(|c| c.has(Features::WZEROES));
                let kind = DiscardKind { trim: true, zero };
                (
                    d.sector,
                    d.size,
                    d.block_id,
                    d.seq_num,
                    d.dp_flags,
                    Some(kind),
                    MAX_DISCARD,
                )
            }
            Packet::Zeroes(d) => {
                let trim = d.dp_flags.contains(DpFlags::DISCARD);
                let kind = DiscardKind { trim, zero: true };
                (
                    d.sector,
                    d.size,
                    d.block_id,
                    d.seq_num,
                    d.dp_flags,
                    Some(kind),
                    MAX_DISCARD,
                )
            }
            other => return Err(Self::unexpected(other)),
        };
        self.check_inside(volume, sector, size)?;
        if size.0 > max || flags.contains(DpFlags::WSAME) {
            return Err(PacketError::new(format!(
                "write of {size} with flags {flags} at sector {sector} is not allowed"
            )));
        }
        let discard = discard.map(|kind| self.received_discard(volume, kind));
        Ok(Incoming {
            sector,
            size,
            block_id,
            seq,
            flags,
            discard,
        })
    }

    /// Where discards leave undefined content behind, received ones write zeroes (data path, section
    /// 10.2).
    pub(crate) fn received_discard(&self, volume: VolumeNr, kind: DiscardKind) -> DiscardKind {
        let disk = self.volumes.get(&volume).and_then(|v| v.disk.as_ref());
        let exact = disk.is_some_and(|d| {
            d.backing.discard_granularity == 0 || !d.options.discard_zeroes_if_aligned
        });
        DiscardKind {
            zero: kind.zero || exact,
            ..kind
        }
    }

    /// Whether acks with lower sequence numbers are still on their way (data path, section 6.3).
    fn must_wait_for_seq(&self, peer: NodeId, volume: VolumeNr, seq: u32) -> bool {
        let Some(conn) = self.conns.get(&peer).filter(|c| c.resolve_conflicts) else {
            return false;
        };
        let Some(pd) = conn.peers.get(&volume) else {
            return false;
        };
        (pd.data.peer_seq.wrapping_sub(seq.wrapping_sub(1)) as i32) < 0
    }

    /// Takes a write in (data path, section 5.1, items 2 and 4 to 15).
    fn accept_write(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        incoming: Incoming,
        payload: Option<BufId>,
        disk: bool,
        two_primaries: bool,
    ) -> Result<(), PacketError> {
        let Incoming {
            sector,
            size,
            block_id,
            mut flags,
            discard,
            ..
        } = incoming;
        let pdisk = self.state.pdisk(peer, volume);
        let epoch = self.epoch_add(peer, block_id, disk);
        let id = self.data.new_peer_req();
        let Some(conn) = self.conns.get_mut(&peer) else {
            return Ok(());
        };
        let dagtag = conn.last_dagtag.advance(size);
        conn.data.received.push_back(id);
        if conn.apv() < 100 {
            let protocol = conn.options.protocol;
            flags = flags.with(DpFlags::SEND_WRITE_ACK, protocol == WireProtocol::C);
            flags = flags.with(DpFlags::SEND_RECEIVE_ACK, protocol == WireProtocol::B);
        }
        if let Some(pd) = conn.peers.get_mut(&volume) {
            pd.data.received += size.sectors().0;
        }
        let request = PeerRequest {
            peer,
            volume,
            sector,
            len: size.0,
            buf: payload,
            discard,
            block_id,
            flags,
            dagtag,
            epoch,
            stage: PeerStage::Conflict,
            interval: None,
            extents: 0,
            failed: !disk,
            marks_sender: pdisk < DiskState::Inconsistent,
            orphan: false,
        };
        self.data.peer_requests.insert(id, request);
        if !disk {
            // Answered at once, counted in its epoch, and kept so that its peer-ack is known (data
            // path, section 28, hazard 3).
            if let Some(conn) = self.conns.get_mut(&peer) {
                conn.last_dagtag = dagtag;
            }
            if let Some(req) = self.data.peer_requests.get_mut(&id) {
                req.stage = PeerStage::Written;
                req.buf = None;
            }
            if let Some(buf) = payload {
                self.release(buf);
            }
            let ack = self.block_ack(peer, volume, sector, size.0, block_id);
            self.send(peer, Stream::Control, volume, Packet::NegAck(ack));
            self.forget_if_legacy(id);
            return Ok(());
        }
        if flags.contains(DpFlags::SEND_RECEIVE_ACK) {
            let ack = self.block_ack(peer, volume, sector, size.0, block_id);
            self.send(peer, Stream::Control, volume, Packet::RecvAck(ack));
        }
        let owner = Owner::PeerWrite(id);
        let (interval, free) =
            self.interval_enter(volume, Kind::PeerWrite, sector, size.0, Some(peer), owner);
        if let Some(req) = self.data.peer_requests.get_mut(&id) {
            req.interval = interval;
        }
        let collides = two_primaries
            && interval.is_some_and(|interval| {
                self.volumes.get_mut(&volume).is_some_and(|v| {
                    v.data
                        .intervals
                        .conflict(interval, Check::TwoPrimaries)
                        .is_some()
                })
            });
        if collides {
            return Err(PacketError::new(format!(
                "Concurrent writes detected: sector {sector}, size {size}"
            )));
        }
        if let Some(conn) = self.conns.get_mut(&peer) {
            conn.last_dagtag = dagtag;
            self.data.recheck = true;
        }
        if free {
            self.activate_peer_write(id);
        }
        Ok(())
    }

    /// Peers before protocol 110 send no peer-acks: an answered write is over.
    pub(super) fn forget_if_legacy(&mut self, id: PeerReqId) {
        let Some(req) = self.data.peer_requests.get(&id) else {
            return;
        };
        let peer = req.peer;
        let Some(conn) = self.conns.get_mut(&peer).filter(|c| c.apv() < 110) else {
            return;
        };
        conn.data.received.retain(|r| *r != id);
        self.drop_peer_request(id);
    }
}
