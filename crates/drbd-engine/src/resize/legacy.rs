//! Changes of size beside a peer that knows no cluster-wide ones (state machine, sections 15.4 and 15.5, "traditional").
//!
//! Both nodes tell each other with P_SIZES what they have room for, and each follows. This node asks for an answer (a
//! c_size of 0, wire protocol, section 25) and follows the peer: whatever that writes into the new area, or has written
//! behind the new end, comes before or after the answer. Only a Primary that shrinks goes first. Who is source of the new
//! area both know: the Primary, or who has accepted the control stream; the target waits for P_SYNC_UUID.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use drbd_meta::geometry::Geometry;
use drbd_proto::packet::SyncUuid;
use drbd_proto::{
    ConnState, DdsFlags, DiskState, NodeId, NodeMask, ReplState, Role, UuidFlags, VolumeNr,
};

use super::{Commit, Measured, MeasuredFor};
use crate::command::{Reply, Resize, RetCode};
use crate::effect::LogLevel;
use crate::engine::{Engine, PacketError};
use crate::id::CmdId;
use crate::state::change::ChangeFlags;

/// The first version that can leave the new area alone.
const NO_RESYNC: u16 = 93;

impl Engine {
    /// Whether the connected peers of the 8 series allow a change of size.
    pub(super) fn legacy_may_resize(&self, v: VolumeNr, resize: &Resize) -> Result<(), RetCode> {
        for peer in self.legacy_peers().iter() {
            let own = self.state.role == Role::Primary && self.state.disk(v) == DiskState::UpToDate;
            let role = self.state.conns.get(&peer).map(|c| c.peer_role);
            let peers =
                role == Some(Role::Primary) && self.state.pdisk(peer, v) == DiskState::UpToDate;
            if !own && !peers {
                return Err(RetCode::ERR_NEED_PRIMARY);
            }
            let old = self.conns.get(&peer).is_none_or(|c| c.apv() < NO_RESYNC);
            if resize.assume_clean && old {
                return Err(RetCode::ERR_NEED_APV_93);
            }
        }
        Ok(())
    }

    /// The own `resize`, after the devices are measured.
    pub(super) fn legacy_resize(
        &mut self,
        v: VolumeNr,
        cmd: CmdId,
        resize: Resize,
        place: (Measured, Geometry),
        flags: DdsFlags,
    ) {
        let allowed = self.may_resize(v).map(drop);
        if let Err(code) = allowed.and_then(|()| self.legacy_may_resize(v, &resize)) {
            self.pending.resizes.remove(&v);
            return self.reply(cmd, Reply::new(code));
        }
        let current = self.volumes.get(&v).map_or(0, |x| x.size);
        let peers: Vec<NodeId> = self.legacy_peers().iter().collect();
        if let Some(disk) = self.disk_mut(v) {
            disk.measured = Some(place);
            disk.options.size = resize.size;
        }
        let shrinks = resize.size != 0 && resize.size < current;
        if shrinks && self.state.role == Role::Primary {
            self.pending.resizes.remove(&v);
            self.resize_commit(v, self.legacy_commit(v, resize.size, flags, Some(cmd)));
        } else if let Some(asked) = self.pending.resizes.get_mut(&v) {
            asked.waits_for = peers.first().copied();
        }
        for peer in peers {
            self.send_uuids(peer, v, UuidFlags::NONE);
            self.send_sizes_as(peer, v, flags, Some(0));
        }
    }

    /// P_SIZES of a connected peer.
    pub(crate) fn legacy_sizes(
        &mut self,
        peer: NodeId,
        v: VolumeNr,
        flags: DdsFlags,
    ) -> Result<(), PacketError> {
        let asked = self.pending.resizes.get(&v);
        if asked.is_some_and(|asked| asked.waits_for == Some(peer)) {
            return self.legacy_follow(peer, v, flags).map_err(PacketError::new);
        }
        // The own disk may have grown, too.
        if let Some(known) = self.peer_device_mut(peer, v) {
            known.sizes_wait = true;
        }
        self.measure(v, MeasuredFor::Sizes(peer, flags));
        Ok(())
    }

    /// The devices are measured because a connected peer has told its sizes.
    pub(super) fn measured_for_sizes(&mut self, peer: NodeId, v: VolumeNr, flags: DdsFlags) {
        let Some(known) = self.peer_device_mut(peer, v) else {
            return;
        };
        if !core::mem::take(&mut known.sizes_wait) {
            return;
        }
        let early = known.early_sync_uuid.take();
        if let Err(text) = self.legacy_follow(peer, v, flags) {
            return self.fail_connection(peer, ConnState::ProtocolError, &text);
        }
        if let Some(uuid) = early {
            self.sync_uuid_packet(peer, v, SyncUuid { uuid });
        }
    }

    /// P_SYNC_UUID comes too early if P_SIZES of the peer waits for the own devices to be measured, or if it overtakes,
    /// on the other stream, the peer's consent to a resync that was asked for.
    pub(crate) fn early_sync_uuid(&mut self, peer: NodeId, v: VolumeNr, packet: SyncUuid) -> bool {
        let asked = self.awaits_vote(peer);
        match self.peer_device_mut(peer, v) {
            Some(known) if known.sizes_wait || asked => {
                known.early_sync_uuid = Some(packet.uuid);
                true
            }
            _ => false,
        }
    }

    /// Nobody answers any more.
    pub(crate) fn legacy_sizes_gone(&mut self, peer: NodeId) {
        let mut left = Vec::new();
        self.pending.resizes.retain(|_, asked| {
            let gone = asked.waits_for == Some(peer);
            if gone {
                left.push(asked.cmd);
            }
            !gone
        });
        for cmd in left {
            self.reply(cmd, Reply::new(RetCode::ERR_INTR));
        }
        if let Some(conn) = self.conns.get_mut(&peer) {
            for known in conn.peers.values_mut() {
                known.sizes_wait = false;
                known.early_sync_uuid = None;
            }
        }
    }

    /// Follows what a connected peer has said.
    fn legacy_follow(&mut self, peer: NodeId, v: VolumeNr, flags: DdsFlags) -> Result<(), String> {
        let Some(sizes) = self.peer_device(peer, v).map(|k| k.sizes) else {
            return Ok(());
        };
        let asked = self.pending.resizes.get(&v).copied();
        let asked = asked.filter(|asked| asked.waits_for == Some(peer));
        if asked.is_some() {
            self.pending.resizes.remove(&v);
        }
        let cmd = asked.map(|asked| asked.cmd);
        if !self.disk_ref(v).is_some_and(|d| d.loaded)
            || self.state.repl(peer, v) < ReplState::Established
        {
            self.answer_resize(cmd, RetCode::ERR_NO_DISK);
            return Ok(());
        }
        let local_max = self.local_max(v);
        if local_max < sizes.c_size {
            let c = sizes.c_size;
            self.answer_resize(cmd, RetCode::ERR_DISK_TOO_SMALL);
            return Err(format!(
                "volume {v}: the peer's device has {c} sectors, here fit {local_max}"
            ));
        }
        // A peer without disk has nothing to say about it.
        let user = match (sizes.u_size, sizes.d_size) {
            (0, 0) => self.user_size(v),
            (user, _) => user,
        };
        let current = self.volumes.get(&v).map_or(0, |x| x.size);
        let agreed = self.disk_ref(v).map_or(0, |d| d.meta.sb.effective_size);
        let size = self.new_size(v, user);
        if size == 0 || (size < agreed && size != user) {
            self.answer_resize(cmd, RetCode::ERR_IMPLICIT_SHRINK);
            let text = format!(
                "volume {v}: the peer's disk size is too small! ({size} < {agreed} sectors)"
            );
            return if size == 0 { Ok(()) } else { Err(text) };
        }
        if size < current && self.state.pdisk(peer, v) <= DiskState::Diskless {
            self.answer_resize(cmd, RetCode::ERR_IMPLICIT_SHRINK);
            return Err(format!(
                "volume {v}: a peer without disk wants to shrink the device"
            ));
        }
        let moved = self.disk_ref(v).is_some_and(|d| {
            let there = d.measured.map(|(_, geometry)| geometry);
            there.is_some_and(|there| there != d.meta.geometry)
        });
        if let Some(disk) = self.disk_mut(v) {
            disk.options.size = user;
        }
        if size != current || moved || cmd.is_some() {
            if self.resizes.contains_key(&v) {
                self.answer_resize(cmd, RetCode::IN_TRANSIENT_STATE);
                return Err(format!("volume {v}: another change of size is under way"));
            }
            self.resize_commit(v, self.legacy_commit(v, size, flags, cmd));
        }
        if sizes.c_size == 0 || size != current || moved {
            self.send_sizes_as(peer, v, flags, None);
        }
        let disks = [self.state.disk(v), self.state.pdisk(peer, v)];
        if size > current
            && current != 0
            && !flags.contains(DdsFlags::NO_RESYNC)
            && self.state.repl(peer, v) == ReplState::Established
            && disks
                .iter()
                .all(|d| *d >= DiskState::Inconsistent && *d != DiskState::Unknown)
        {
            self.legacy_resync_grown(peer, v);
        }
        Ok(())
    }

    fn legacy_commit(&self, v: VolumeNr, size: u64, flags: DdsFlags, cmd: Option<CmdId>) -> Commit {
        let disk = self.disk_ref(v);
        Commit {
            size,
            user_size: disk.map_or(0, |d| d.options.size),
            flags,
            primaries: NodeMask::EMPTY,
            parents: NodeMask::EMPTY,
            children: NodeMask::EMPTY,
            place: disk.and_then(|d| d.measured),
            cmd,
        }
    }

    /// One end fetches the new area from the other one; both know which, and begin by themselves.
    fn legacy_resync_grown(&mut self, peer: NodeId, v: VolumeNr) {
        let Some(conn) = self.conns.get(&peer) else {
            return;
        };
        let role = self.state.conns.get(&peer).map(|c| c.peer_role);
        let source = match (
            self.state.role == Role::Primary,
            role == Some(Role::Primary),
        ) {
            (own, peers) if own != peers => own,
            _ => conn.resolve_conflicts,
        };
        let text = match source {
            true => "the device has grown: the peer fetches the new area from here",
            false => "the device has grown: the new area is fetched from the peer",
        };
        self.log_at(LogLevel::Info, Some(peer), Some(v), text);
        if !source {
            return self.await_sync_uuid(peer, v);
        }
        self.send_sync_uuid(peer, v);
        let _ = self.change(ChangeFlags::HARD, |s| {
            if let Some(pd) = s.pd_mut(peer, v) {
                pd.repl = ReplState::SyncSource;
                pd.pdisk = DiskState::Inconsistent;
            }
        });
    }
}
