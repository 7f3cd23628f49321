//! Commands that change the state: disconnect, invalidate, pause, resume.

use alloc::vec::Vec;

use drbd_proto::{ConnState, DiskState, NodeId, ReplState, Role, VolumeNr};

use crate::command::{Reply, RetCode};
use crate::engine::Engine;
use crate::id::CmdId;
use crate::state::change::ChangeFlags;
use crate::twopc::{ChangeKind, Requester};

use super::{code, unknown};

impl Engine {
    pub(super) fn disconnect(
        &mut self,
        cmd: CmdId,
        peer: NodeId,
        force: bool,
        remove: bool,
    ) -> Option<Reply> {
        if !self.conns.contains_key(&peer) {
            return Some(Reply::with(
                RetCode::ERR_INVALID_REQUEST,
                "unknown connection",
            ));
        }
        match self.state.cstate(peer) {
            ConnState::StandAlone => {
                if remove {
                    self.remove_peer(peer);
                }
                return Some(Reply::new(RetCode::SUCCESS));
            }
            ConnState::Connected if !force => {
                self.pending.disconnects.push((peer, cmd, remove));
                self.twopc_request(ChangeKind::Disconnect { peer }, Requester::Command(cmd));
            }
            _ => {
                self.go_standalone(peer);
                if remove {
                    self.remove_peer(peer);
                }
                return Some(Reply::new(RetCode::SUCCESS));
            }
        }
        None
    }

    /// A cluster-wide change asked for by a command has ended.
    pub(crate) fn change_command_done(
        &mut self,
        cmd: CmdId,
        kind: ChangeKind,
        result: Result<RetCode, RetCode>,
    ) {
        match kind {
            ChangeKind::Disconnect { peer } => self.disconnect_decided(cmd, peer, result),
            ChangeKind::Detach { volume } => self.detach_decided(cmd, volume, result),
            ChangeKind::Resize { volume, .. } => self.resize_decided(volume, result),
            _ => {
                let (Ok(code) | Err(code)) = result;
                if self.pending.down != Some(cmd) {
                    self.reply_code(cmd, code);
                }
            }
        }
    }

    fn disconnect_decided(&mut self, cmd: CmdId, peer: NodeId, result: Result<RetCode, RetCode>) {
        let entry = self
            .pending
            .disconnects
            .iter()
            .position(|(p, c, _)| *p == peer && *c == cmd);
        let remove = entry
            .map(|i| self.pending.disconnects.remove(i).2)
            .unwrap_or(false);
        let gone = self.state.cstate(peer) < ConnState::Connected
            && self.state.cstate(peer) != ConnState::Disconnecting;
        let code = match result {
            Ok(code) => code,
            Err(RetCode::ALREADY_STANDALONE) => RetCode::SUCCESS,
            Err(RetCode::CW_FAILED_BY_PEER | RetCode::NEED_CONNECTION) if gone => RetCode::SUCCESS,
            Err(RetCode::IS_DISKLESS | RetCode::LOWER_THAN_OUTDATED) => RetCode::SUCCESS,
            Err(code) => {
                if self.pending.down == Some(cmd) {
                    return self.down_failed(code);
                }
                return self.reply_code(cmd, code);
            }
        };
        self.go_standalone(peer);
        if remove {
            self.remove_peer(peer);
        }
        if self.pending.down != Some(cmd) {
            self.reply_code(cmd, code);
        }
    }

    pub(super) fn invalidate(
        &mut self,
        cmd: CmdId,
        v: VolumeNr,
        from: Option<NodeId>,
        reset: bool,
    ) -> Option<Reply> {
        if !self.volumes.contains_key(&v) {
            return Some(unknown(self, None, v));
        }
        if self.disk_ref(v).is_none() {
            return Some(Reply::new(RetCode::ERR_NO_DISK));
        }
        let peer = from.or_else(|| {
            self.state
                .peers_of(v)
                .find(|(_, _, pd)| {
                    pd.repl >= ReplState::Established && pd.pdisk == DiskState::UpToDate
                })
                .map(|(n, _, _)| n)
        });
        if let Some(peer) = peer {
            let repl = if reset {
                ReplState::StartingSyncT
            } else {
                ReplState::WFBitMapT
            };
            return self.resync_command(cmd, peer, v, repl);
        }
        // Others are to get their data from here, and there is no other copy.
        let serves = |pd: &crate::state::PeerDeviceState| {
            pd.is_sync_source() || pd.repl == ReplState::WFBitMapS
        };
        if self.state.peers_of(v).any(|(_, _, pd)| serves(pd)) {
            return Some(Reply::new(RetCode::RESYNC_RUNNING));
        }
        let reply = code(self.change(ChangeFlags::SOFT, |s| {
            if let Some(d) = s.devices.get_mut(&v) {
                d.disk = DiskState::Inconsistent;
            }
        }));
        if reply.is_ok() {
            if let Some(disk) = self.disk_mut(v) {
                disk.bitmap.set_all_slots();
            }
            self.data_bitmap_writeout(v);
        }
        Some(reply)
    }

    pub(super) fn invalidate_remote(
        &mut self,
        cmd: CmdId,
        peer: NodeId,
        v: VolumeNr,
        reset: bool,
    ) -> Option<Reply> {
        if self.peer_device(peer, v).is_none() {
            return Some(unknown(self, Some(peer), v));
        }
        if self.disk_ref(v).is_none() {
            return Some(Reply::new(RetCode::ERR_NO_DISK));
        }
        let repl = if reset {
            ReplState::StartingSyncS
        } else {
            ReplState::WFBitMapS
        };
        let away = self.state.repl(peer, v) < ReplState::Established;
        if away && self.state.role == Role::Primary {
            return Some(self.invalidate_absent(peer, v));
        }
        self.resync_command(cmd, peer, v, repl)
    }

    /// The peer gets a resync anyway when it returns: make that a full one (state machine, section 9.2).
    fn invalidate_absent(&mut self, peer: NodeId, v: VolumeNr) -> Reply {
        let reply = code(self.change(ChangeFlags::SOFT, |s| {
            if let Some(pd) = s.pd_mut(peer, v) {
                pd.pdisk = DiskState::Inconsistent;
            }
        }));
        if reply.is_ok() {
            let slot = self.slot_of(peer, v);
            if let (Some(disk), Some(slot)) = (self.disk_mut(v), slot) {
                disk.bitmap.set_all(slot);
            }
            self.data_bitmap_writeout(v);
        }
        reply
    }

    pub(super) fn resync_command(
        &mut self,
        cmd: CmdId,
        peer: NodeId,
        volume: VolumeNr,
        repl: ReplState,
    ) -> Option<Reply> {
        if self.state.repl(peer, volume) < ReplState::Established {
            return Some(Reply::new(RetCode::NEED_CONNECTION));
        }
        self.twopc_request(
            ChangeKind::Resync { peer, volume, repl },
            Requester::Command(cmd),
        );
        None
    }

    pub(super) fn pause_sync(&mut self, peer: NodeId, v: VolumeNr, pause: bool) -> Reply {
        let Some(pd) = self.state.pd(peer, v) else {
            return unknown(self, Some(peer), v);
        };
        if pd.susp_user == pause {
            return Reply::new(match (pause, pd.susp_dependency, pd.susp_peer) {
                (true, _, _) => RetCode::ERR_PAUSE_IS_SET,
                (false, true, _) => RetCode::ERR_PIC_AFTER_DEP,
                (false, false, true) => RetCode::ERR_PIC_PEER_DEP,
                (false, false, false) => RetCode::ERR_PAUSE_IS_CLEAR,
            });
        }
        code(self.change(ChangeFlags::HARD, |s| {
            if let Some(pd) = s.pd_mut(peer, v) {
                pd.susp_user = pause;
            }
        }))
    }

    /// `suspend-io` is answered when nothing moves any more on any node (state machine, section 13, item 1).
    pub(super) fn suspend_io(&mut self, cmd: CmdId) -> Option<Reply> {
        let reply = code(self.change(ChangeFlags::SOFT, |s| s.susp_user = true));
        if !reply.is_ok() {
            return Some(reply);
        }
        self.pending.suspends.push(cmd);
        None
    }

    /// Answers `suspend-io` if it is time.
    pub(crate) fn suspend_settle(&mut self) {
        if self.pending.suspends.is_empty() || self.state.susp_user && !self.io_settled() {
            return;
        }
        for cmd in core::mem::take(&mut self.pending.suspends) {
            self.reply_code(cmd, RetCode::SUCCESS);
        }
    }

    pub(super) fn resume_io(&mut self) -> Reply {
        let volumes: Vec<VolumeNr> = self.volumes.keys().copied().collect();
        for v in volumes {
            self.new_uuid_now_if_due(v);
        }
        code(self.change(ChangeFlags::HARD, |s| {
            s.susp_user = false;
            s.susp_nod = false;
            s.susp_quorum = false;
            for c in s.conns.values_mut() {
                c.susp_fen = false;
            }
        }))
    }
}
