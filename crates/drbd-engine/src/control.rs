//! The control plane's packets and operations: who handles what.

use alloc::format;

use drbd_proto::packet::SyncParam;
use drbd_proto::{ConnState, NodeId, Packet, Stream, VolumeNr};

use crate::engine::{Engine, PacketError};
use crate::event::OpResult;
use crate::resize::MeasuredFor;
use crate::timer::Timer;
use crate::twopc::Answered;
use crate::upcall::{Handler, Then};

/// What an operation of the control plane was for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ControlOp {
    /// Superblock of a volume.
    Superblock(VolumeNr),
    /// A step of an attach.
    Attach(VolumeNr),
    /// The backing devices of a volume are measured.
    Measure(VolumeNr, MeasuredFor),
    /// A piece of the activity log ring, of the change of size with this number.
    Resize(VolumeNr, u64),
    /// A helper.
    Upcall(Handler, Then),
}

impl Engine {
    /// An operation has ended.
    pub(crate) fn control_op_done(&mut self, op: ControlOp, result: OpResult) {
        match op {
            ControlOp::Superblock(v) => self.superblock_written(v, result),
            ControlOp::Attach(v) => self.attach_step(v, result),
            ControlOp::Measure(v, whom) => self.measured(v, whom, result),
            ControlOp::Resize(v, serial) => self.resize_ring_written(v, serial, result),
            ControlOp::Upcall(handler, then) => self.called(handler, then, &result),
        }
    }

    /// Handles a packet of the control plane. `Ok(false)`: it belongs to the data plane.
    pub(crate) fn control_packet(
        &mut self,
        peer: NodeId,
        stream: Stream,
        volume: VolumeNr,
        packet: &Packet,
    ) -> Result<bool, PacketError> {
        if stream == Stream::Control {
            self.arm_ping(peer);
        }
        if stream == Stream::Data {
            self.heard_in_handshake(peer);
        }
        match packet {
            Packet::Ping => {
                self.send(peer, Stream::Control, VolumeNr::CONNECTION, Packet::PingAck);
                return Ok(true);
            }
            Packet::PingAck => {
                self.ping_ack(peer);
                return Ok(true);
            }
            _ => {}
        }
        if self.handshake_packet(peer, packet)? {
            return Ok(true);
        }
        match packet {
            Packet::DelayProbe(_) => {}
            Packet::Disconnect => {
                self.refused_while_suspended(peer);
                self.refuse_peer(peer, "the peer refused the connection (P_DISCONNECT)");
            }
            Packet::SyncParam89(p) | Packet::SyncParam(p) => self.sync_param(peer, volume, p),
            Packet::Sizes(sizes) => self.sizes_packet(peer, volume, sizes)?,
            Packet::Uuids110(uuids) => self.uuids_packet(peer, volume, (&**uuids).into()),
            Packet::Uuids(uuids) => self.legacy_uuids_packet(peer, volume, uuids),
            Packet::SyncUuid(uuid) => self.sync_uuid_packet(peer, volume, *uuid),
            Packet::StateChgReq(request) => self.legacy_request(peer, volume, request)?,
            Packet::ConnStChgReq(request) => {
                self.legacy_request(peer, VolumeNr::CONNECTION, request)?;
            }
            Packet::StateChgReply(reply) | Packet::ConnStChgReply(reply) => {
                self.legacy_reply(peer, *reply);
            }
            Packet::CurrentUuid(u) => self.current_uuid_packet(peer, volume, u),
            Packet::State(state) => self.state_packet(peer, volume, state)?,
            Packet::EnableReplicationNext(e) => match self.peer_device_mut(peer, volume) {
                Some(known) => known.replication_next_received = e.enable,
                None => self.unknown_volume(peer, volume),
            },
            Packet::EnableReplication(e) => self.enable_replication(peer, volume, e.enable),
            Packet::PeerDagtag(p) => self.peer_dagtag(peer, p),
            Packet::TwopcPrepare(p) => self.twopc_prepare(peer, volume, p),
            Packet::TwopcPrepRsz(p) => self.twopc_prepare_resize(peer, volume, p),
            Packet::TwopcCommit(p) => self.twopc_phase2(peer, volume, p, true),
            Packet::TwopcAbort(p) => self.twopc_phase2(peer, volume, p, false),
            Packet::TwopcYes(r) => self.twopc_reply(peer, r, Answered::Yes),
            Packet::TwopcNo(r) => self.twopc_reply(peer, r, Answered::No),
            Packet::TwopcRetry(r) => self.twopc_reply(peer, r, Answered::Retry),
            Packet::ConnectionFeatures(_)
            | Packet::AuthChallenge(_)
            | Packet::AuthResponse(_)
            | Packet::Protocol(_)
            | Packet::InitialData
            | Packet::InitialMeta => {
                return Err(PacketError::new(format!(
                    "{} is out of place",
                    packet.cmd()
                )));
            }
            _ => {
                if matches!(packet, Packet::Bitmap(_) | Packet::CompressedBitmap(_)) {
                    self.timers.cancel(Timer::BitmapExchange(peer));
                    self.watch_bitmap_exchange(volume);
                }
                if self.state.cstate(peer) != ConnState::Connected {
                    return Err(PacketError::new(format!(
                        "{} before the connection is established",
                        packet.cmd()
                    )));
                }
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn sync_param(&mut self, peer: NodeId, v: VolumeNr, param: &SyncParam) {
        let Some(conn) = self.conns.get_mut(&peer) else {
            return;
        };
        if !conn.peers.contains_key(&v) {
            return self.unknown_volume(peer, v);
        }
        let csums = param.csums_alg.as_str().unwrap_or("?");
        let verify = param.verify_alg.as_str().unwrap_or("?");
        let handshaking = self.state.cstate(peer) < ConnState::Connected;
        if csums != conn.options.csums_alg {
            if handshaking {
                let text = format!(
                    "different csums-alg settings: me {:?}, peer {csums:?}",
                    conn.options.csums_alg
                );
                return self.refuse_peer(peer, &text);
            }
            conn.options.csums_alg = csums.into();
        }
        conn.peer_verify_alg = verify.into();
    }

    /// P_ENABLE_REPLICATION (wire protocol, section 20.2).
    fn enable_replication(&mut self, peer: NodeId, v: VolumeNr, enable: bool) {
        let _ = self.change(crate::state::change::ChangeFlags::HARD, |s| {
            if let Some(pd) = s.pd_mut(peer, v) {
                pd.replication = enable;
            }
        });
    }
}
