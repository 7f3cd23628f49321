//! Devices, peers and paths come and go.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

use drbd_proto::{ConnState, DiskState, NodeId, Role, VolumeNr};

use crate::command::{Reply, RetCode};
use crate::connection::{Connection, PeerDevice};
use crate::data::VolumeData;
use crate::effect::Path;
use crate::engine::Engine;
use crate::options::{DeviceOptions, NetOptions};
use crate::state::change::ChangeFlags;
use crate::state::{ConnectionState, DeviceState};
use crate::status::Object;
use crate::volume::{DeviceFlags, Volume};

use super::check_net_options;

impl Engine {
    pub(super) fn new_minor(&mut self, nr: VolumeNr, minor: u32, options: DeviceOptions) -> Reply {
        if nr.is_connection_wide() {
            return Reply::with(
                RetCode::ERR_INVALID_REQUEST,
                "requested volume id out of range",
            );
        }
        if self.volumes.contains_key(&nr) {
            return Reply::new(RetCode::ERR_MINOR_OR_VOLUME_EXISTS);
        }
        self.volumes.insert(
            nr,
            Volume {
                nr,
                minor,
                options,
                disk: None,
                size: 0,
                flags: DeviceFlags::default(),
                exposed: Default::default(),
                unconfirmed: None,
                openers: BTreeMap::new(),
                resync_hold: Default::default(),
                told_facts: None,
                data: VolumeData::default(),
            },
        );
        self.facts_changed = true;
        self.state.devices.insert(nr, DeviceState::default());
        let peers: Vec<NodeId> = self.conns.keys().copied().collect();
        for &peer in &peers {
            if let Some(conn) = self.conns.get_mut(&peer) {
                conn.peers.insert(nr, PeerDevice::default());
            }
            if let Some(conn) = self.state.conns.get_mut(&peer) {
                conn.peers.insert(nr, Default::default());
            }
        }
        let mut objects = alloc::vec![Object::Device {
            volume: nr,
            info: self.device_info(nr)
        }];
        for &peer in &peers {
            let info = self.peer_device_info(peer, nr);
            objects.push(Object::PeerDevice {
                peer,
                volume: nr,
                info,
            });
        }
        self.publish_objects(objects, true);
        let _ = self.change(ChangeFlags::RECALC, |_| {});
        for peer in peers {
            if self.state.cstate(peer) == ConnState::Connected {
                self.send_volume_parameters(peer, nr);
            }
        }
        Reply::new(RetCode::NO_ERROR)
    }

    pub(super) fn del_minor(&mut self, nr: VolumeNr) -> Reply {
        if !self.volumes.contains_key(&nr) {
            return Reply::new(RetCode::ERR_MINOR_INVALID);
        }
        let open = self.volumes.get(&nr).is_some_and(|v| !v.openers.is_empty());
        if self.state.disk(nr) != DiskState::Diskless || self.disk_ref(nr).is_some() || open {
            return Reply::new(RetCode::ERR_MINOR_CONFIGURED);
        }
        self.remove_volume(nr);
        Reply::new(RetCode::NO_ERROR)
    }

    pub(super) fn remove_volume(&mut self, nr: VolumeNr) {
        let mut objects = Vec::new();
        for (peer, conn) in &mut self.conns {
            if conn.peers.remove(&nr).is_some() {
                objects.push(Object::PeerDevice {
                    peer: *peer,
                    volume: nr,
                    info: None,
                });
            }
        }
        for conn in self.state.conns.values_mut() {
            conn.peers.remove(&nr);
        }
        self.volumes.remove(&nr);
        self.push(crate::effect::Effect::ResyncFacts {
            volume: nr,
            facts: None,
        });
        self.state.devices.remove(&nr);
        objects.push(Object::Device {
            volume: nr,
            info: None,
        });
        self.publish_objects(objects, false);
    }

    pub(super) fn new_peer(
        &mut self,
        peer: NodeId,
        name: alloc::string::String,
        options: NetOptions,
    ) -> Reply {
        if peer == self.node_id {
            return Reply::with(
                RetCode::ERR_INVALID_REQUEST,
                "peer node id cannot be my own node id",
            );
        }
        if self.conns.contains_key(&peer) {
            let text = alloc::format!("Connection for peer node id {peer} already exists");
            return Reply::with(RetCode::ERR_INVALID_REQUEST, text);
        }
        if let Err(reply) = check_net_options(&options) {
            return reply;
        }
        let mut conn = Connection::new(name, options);
        let mut state = ConnectionState::default();
        let volumes: Vec<VolumeNr> = self.volumes.keys().copied().collect();
        for &v in &volumes {
            conn.peers.insert(v, PeerDevice::default());
            state.peers.insert(v, Default::default());
        }
        self.conns.insert(peer, conn);
        self.state.conns.insert(peer, state);
        for &v in &volumes {
            if !self.assign_slot(peer, v) {
                self.remove_peer(peer);
                return Reply::with(
                    RetCode::ERR_INVALID_REQUEST,
                    "no free bitmap slot in the metadata for this peer",
                );
            }
        }
        let mut objects = alloc::vec![Object::Connection {
            peer,
            info: self.connection_info(peer)
        }];
        for &v in &volumes {
            let info = self.peer_device_info(peer, v);
            objects.push(Object::PeerDevice {
                peer,
                volume: v,
                info,
            });
        }
        self.publish_objects(objects, true);
        let _ = self.change(ChangeFlags::RECALC, |_| {});
        Reply::new(RetCode::NO_ERROR)
    }

    pub(super) fn remove_peer(&mut self, peer: NodeId) {
        let known = self.conns.remove(&peer).is_some();
        self.state.conns.remove(&peer);
        if known {
            self.publish_objects(alloc::vec![Object::Connection { peer, info: None }], false);
        }
        let _ = self.change(ChangeFlags::RECALC, |_| {});
    }

    pub(super) fn net_options(&mut self, peer: NodeId, options: NetOptions) -> Reply {
        if let Err(reply) = check_net_options(&options) {
            return reply;
        }
        let Some(conn) = self.conns.get_mut(&peer) else {
            return Reply::with(RetCode::ERR_INVALID_REQUEST, "unknown connection");
        };
        conn.options = options;
        let _ = self.change(ChangeFlags::RECALC, |_| {});
        Reply::new(RetCode::NO_ERROR)
    }

    pub(super) fn new_path(&mut self, peer: NodeId, path: Path) -> Reply {
        let collides = self
            .conns
            .values()
            .flat_map(|c| c.paths.iter())
            .any(|(p, _)| p.local == path.local && p.remote == path.remote);
        let Some(conn) = self.conns.get_mut(&peer) else {
            return Reply::with(RetCode::ERR_INVALID_REQUEST, "unknown connection");
        };
        if collides {
            return Reply::new(RetCode::ERR_LOCAL_AND_PEER_ADDR);
        }
        conn.paths.push((path, false));
        self.publish_objects(
            alloc::vec![Object::Path {
                peer,
                path,
                established: Some(false)
            }],
            true,
        );
        Reply::new(RetCode::NO_ERROR)
    }

    pub(super) fn del_path(&mut self, peer: NodeId, path: Path) -> Reply {
        let standalone = self.state.cstate(peer) == ConnState::StandAlone;
        let Some(conn) = self.conns.get_mut(&peer) else {
            return Reply::with(RetCode::ERR_INVALID_REQUEST, "unknown connection");
        };
        let Some(i) = conn.paths.iter().position(|(p, _)| *p == path) else {
            return Reply::with(RetCode::ERR_INVALID_REQUEST, "no such path");
        };
        if conn.paths.len() == 1 && !standalone {
            return Reply::with(
                RetCode::ERR_INVALID_REQUEST,
                "Can not delete last path, use disconnect first!",
            );
        }
        conn.paths.remove(i);
        self.publish_objects(
            alloc::vec![Object::Path {
                peer,
                path,
                established: None
            }],
            false,
        );
        Reply::new(RetCode::NO_ERROR)
    }

    pub(super) fn connect_command(
        &mut self,
        peer: NodeId,
        discard: bool,
        tentative: bool,
    ) -> Reply {
        let Some(conn) = self.conns.get_mut(&peer) else {
            return Reply::with(RetCode::ERR_INVALID_REQUEST, "unknown connection");
        };
        if self.state.cstate(peer) != ConnState::StandAlone {
            return Reply::new(RetCode::ERR_NET_CONFIGURED);
        }
        if conn.paths.is_empty() {
            return Reply::with(
                RetCode::ERR_INVALID_REQUEST,
                "connection endpoint(s) missing",
            );
        }
        if discard && self.state.role == Role::Primary {
            return Reply::new(RetCode::ERR_DISCARD_IMPOSSIBLE);
        }
        conn.flags.discard_my_data = discard;
        conn.flags.tentative = tentative;
        self.start_connecting(peer, Duration::ZERO);
        Reply::new(RetCode::SUCCESS)
    }
}
