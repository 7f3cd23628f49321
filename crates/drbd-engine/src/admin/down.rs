//! `down`, stage by stage.

use alloc::vec::Vec;

use drbd_proto::{ConnState, DiskState, NodeId, Role, VolumeNr};

use crate::command::RetCode;
use crate::engine::Engine;
use crate::state::change::ChangeFlags;
use crate::status::Object;
use crate::twopc::{ChangeKind, Requester};

impl Engine {
    /// Goes on with `down`: demote, disconnect, detach, remove. `true` if something was done that may make
    /// the next stage possible at once.
    pub(crate) fn down_step(&mut self) -> bool {
        let Some(cmd) = self.pending.down else {
            return false;
        };
        if self.role_change.is_some() || !self.pending.disconnects.is_empty() {
            return false;
        }
        if self.state.role == Role::Primary {
            if self
                .volumes
                .values()
                .any(|v| v.openers.values().any(|w| *w))
            {
                self.down_failed(RetCode::DEVICE_IN_USE);
                return false;
            }
            self.demote_for_down();
            return self.role_change.is_none();
        }
        let connected: Option<NodeId> = self
            .state
            .conns
            .iter()
            .find(|(_, c)| c.cstate != ConnState::StandAlone)
            .map(|(n, _)| *n);
        if let Some(peer) = connected {
            if self.state.cstate(peer) == ConnState::Connected {
                self.pending.disconnects.push((peer, cmd, false));
                self.twopc_request(ChangeKind::Disconnect { peer }, Requester::Command(cmd));
                return self.pending.disconnects.is_empty();
            }
            self.go_standalone(peer);
            return self.state.cstate(peer) == ConnState::StandAlone;
        }
        let attached: Vec<VolumeNr> = self
            .volumes
            .values()
            .filter(|v| v.disk.is_some())
            .map(|v| v.nr)
            .collect();
        if !attached.is_empty() {
            let mut begun = false;
            for v in attached {
                if self.state.disk(v) > DiskState::Detaching {
                    begun = true;
                    let _ = self.change(ChangeFlags::HARD, |s| {
                        if let Some(d) = s.devices.get_mut(&v) {
                            d.disk = DiskState::Detaching;
                        }
                    });
                }
            }
            return begun;
        }
        let peers: Vec<NodeId> = self.conns.keys().copied().collect();
        for peer in peers {
            self.remove_peer(peer);
        }
        let volumes: Vec<VolumeNr> = self.volumes.keys().copied().collect();
        for v in volumes {
            self.remove_volume(v);
        }
        self.publish_objects(alloc::vec![Object::Resource(None)], false);
        self.pending.down = None;
        self.reply_code(cmd, RetCode::SUCCESS);
        false
    }

    /// `down` cannot go on: everything stays as it is now.
    pub(crate) fn down_failed(&mut self, code: RetCode) {
        if let Some(cmd) = self.pending.down.take() {
            self.reply_code(cmd, code);
        }
    }
}
