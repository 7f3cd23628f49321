//! Commands of the administrator (CLI, section 9).

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

use drbd_proto::{ConnState, DiskState, NodeId, ReplState, Role, VolumeNr};

use crate::command::{Command, Reply, RetCode};
use crate::connection::{Connection, PeerDevice};
use crate::data::VolumeData;
use crate::effect::{Effect, Path};
use crate::engine::Engine;
use crate::id::CmdId;
use crate::options::{DeviceOptions, Fencing, NetOptions, WireProtocol};
use crate::state::change::ChangeFlags;
use crate::state::{ConnectionState, DeviceState};
use crate::status::Object;
use crate::twopc::{ChangeKind, Requester};
use crate::volume::{DeviceFlags, Volume};

/// Commands whose answer has to wait for something.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// `disconnect` and `del-peer`; true: remove the peer afterwards.
    pub disconnects: Vec<(NodeId, CmdId, bool)>,
    /// `attach`.
    pub attaches: BTreeMap<VolumeNr, CmdId>,
    /// `detach`.
    pub detaches: BTreeMap<VolumeNr, CmdId>,
    /// `down`.
    pub down: Option<CmdId>,
}

impl Engine {
    /// Answers a command.
    pub(crate) fn reply(&mut self, cmd: CmdId, reply: Reply) {
        self.push(Effect::Reply { cmd, reply });
    }

    fn reply_code(&mut self, cmd: CmdId, code: RetCode) {
        self.reply(cmd, Reply::new(code));
    }

    /// Carries out a command.
    pub(crate) fn command(&mut self, cmd: CmdId, command: Command) {
        if self.pending.down.is_some() {
            return self.reply_code(cmd, RetCode::CONCURRENT_ST_CHG);
        }
        let answer = match command {
            Command::ResourceOptions { options } => {
                self.options = options;
                let _ = self.change(ChangeFlags::RECALC, |_| {});
                Some(Reply::new(RetCode::NO_ERROR))
            }
            Command::NewMinor {
                volume,
                minor,
                options,
            } => Some(self.new_minor(volume, minor, options)),
            Command::DelMinor { volume } => Some(self.del_minor(volume)),
            Command::NewPeer {
                peer,
                name,
                options,
            } => Some(self.new_peer(peer, name, options)),
            Command::DelPeer { peer, force } => self.disconnect(cmd, peer, force, true),
            Command::NetOptions { peer, options } => Some(self.net_options(peer, options)),
            Command::PeerDeviceOptions {
                peer,
                volume,
                options,
            } => {
                let reply = match self.peer_device_mut(peer, volume) {
                    Some(known) => {
                        known.options = options;
                        Reply::new(RetCode::NO_ERROR)
                    }
                    None => unknown(self, Some(peer), volume),
                };
                let _ = self.change(ChangeFlags::RECALC, |_| {});
                Some(reply)
            }
            Command::NewPath { peer, path } => Some(self.new_path(peer, path)),
            Command::DelPath { peer, path } => Some(self.del_path(peer, path)),
            Command::Attach {
                volume,
                backing,
                options,
            } => self.attach_command(cmd, volume, backing, options),
            Command::DiskOptions { volume, options } => Some(match self.disk_mut(volume) {
                Some(disk) => {
                    disk.options = options;
                    Reply::new(RetCode::NO_ERROR)
                }
                None => Reply::new(RetCode::ERR_NO_DISK),
            }),
            Command::Detach {
                volume,
                force,
                diskless,
            } => self.detach_command(cmd, volume, force, diskless),
            Command::Connect {
                peer,
                discard_my_data,
                tentative,
            } => Some(self.connect_command(peer, discard_my_data, tentative)),
            Command::Disconnect { peer, force } => self.disconnect(cmd, peer, force, false),
            Command::Primary { force } => {
                self.role_command(cmd, Role::Primary, force);
                None
            }
            Command::Secondary { force } => {
                self.role_command(cmd, Role::Secondary, force);
                None
            }
            Command::Invalidate {
                volume,
                from,
                reset_bitmap,
            } => self.invalidate(cmd, volume, from, reset_bitmap),
            Command::InvalidateRemote {
                peer,
                volume,
                reset_bitmap,
            } => self.invalidate_remote(cmd, peer, volume, reset_bitmap),
            Command::Verify {
                peer,
                volume,
                start,
                stop,
            } => {
                if self.peer_device(peer, volume).is_none() {
                    Some(unknown(self, Some(peer), volume))
                } else {
                    self.data_verify_range(peer, volume, start, stop);
                    let repl = ReplState::VerifyS;
                    self.resync_command(cmd, peer, volume, repl)
                }
            }
            Command::PauseSync { peer, volume } => Some(self.pause_sync(peer, volume, true)),
            Command::ResumeSync { peer, volume } => Some(self.pause_sync(peer, volume, false)),
            Command::SuspendIo => {
                Some(code(self.change(ChangeFlags::SOFT, |s| s.susp_user = true)))
            }
            Command::ResumeIo => Some(self.resume_io()),
            Command::Outdate { volume } => Some(code(self.change(ChangeFlags::SOFT, |s| {
                if let Some(d) = s.devices.get_mut(&volume) {
                    d.disk = DiskState::Outdated;
                }
            }))),
            Command::NewCurrentUuid {
                volume,
                clear_bitmap,
                force_resync,
            } => Some(self.new_current_uuid_command(volume, clear_bitmap, force_resync)),
            Command::ForgetPeer { peer } => Some(self.forget_peer(peer)),
            Command::Down => {
                self.pending.down = Some(cmd);
                None
            }
        };
        if let Some(reply) = answer {
            self.reply(cmd, reply);
        }
    }

    fn new_minor(&mut self, nr: VolumeNr, minor: u32, options: DeviceOptions) -> Reply {
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
                openers: BTreeMap::new(),
                data: VolumeData::default(),
            },
        );
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
                if let Some(known) = self.peer_device_mut(peer, nr) {
                    known.hot_added = true;
                }
                self.send_volume_parameters(peer, nr);
            }
        }
        Reply::new(RetCode::NO_ERROR)
    }

    fn del_minor(&mut self, nr: VolumeNr) -> Reply {
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

    fn remove_volume(&mut self, nr: VolumeNr) {
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
        self.state.devices.remove(&nr);
        objects.push(Object::Device {
            volume: nr,
            info: None,
        });
        self.publish_objects(objects, false);
    }

    fn new_peer(
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

    fn remove_peer(&mut self, peer: NodeId) {
        let known = self.conns.remove(&peer).is_some();
        self.state.conns.remove(&peer);
        if known {
            self.publish_objects(alloc::vec![Object::Connection { peer, info: None }], false);
        }
        let _ = self.change(ChangeFlags::RECALC, |_| {});
    }

    fn net_options(&mut self, peer: NodeId, options: NetOptions) -> Reply {
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

    fn new_path(&mut self, peer: NodeId, path: Path) -> Reply {
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

    fn del_path(&mut self, peer: NodeId, path: Path) -> Reply {
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

    fn connect_command(&mut self, peer: NodeId, discard: bool, tentative: bool) -> Reply {
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

    fn disconnect(&mut self, cmd: CmdId, peer: NodeId, force: bool, remove: bool) -> Option<Reply> {
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
            ChangeKind::Detach { volume } => self.detach_decided(volume, result),
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

    fn invalidate(
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

    fn invalidate_remote(
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
        self.resync_command(cmd, peer, v, repl)
    }

    fn resync_command(
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

    fn pause_sync(&mut self, peer: NodeId, v: VolumeNr, pause: bool) -> Reply {
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

    fn resume_io(&mut self) -> Reply {
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

    // ----- down ---------------------------------------------------------------------------------------

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

    /// An option's new value may not be used with the others.
    pub(crate) fn publish_device(&mut self, v: VolumeNr) {
        let info = self.device_info(v);
        self.publish_objects(alloc::vec![Object::Device { volume: v, info }], false);
    }
}

/// Combinations of net options that the kernel side refuses (configuration, section 14).
fn check_net_options(o: &NetOptions) -> Result<(), Reply> {
    if o.two_primaries && o.protocol != WireProtocol::C {
        return Err(Reply::new(RetCode::ERR_NOT_PROTO_C));
    }
    if o.fencing == Fencing::ResourceAndStonith && o.protocol == WireProtocol::A {
        return Err(Reply::new(RetCode::ERR_STONITH_AND_PROT_A));
    }
    let digest = |name: &str| name.is_empty() || drbd_proto::DigestAlg::from_name(name).is_some();
    if !o.cram_hmac_alg.is_empty()
        && drbd_proto::auth::HmacAlg::from_name(&o.cram_hmac_alg).is_none()
    {
        return Err(Reply::new(RetCode::ERR_AUTH_ALG));
    }
    if !digest(&o.integrity_alg) {
        return Err(Reply::new(RetCode::ERR_INTEGRITY_ALG));
    }
    if !digest(&o.csums_alg) {
        return Err(Reply::new(RetCode::ERR_CSUMS_ALG));
    }
    if !digest(&o.verify_alg) {
        return Err(Reply::new(RetCode::ERR_VERIFY_ALG));
    }
    Ok(())
}

fn code(result: Result<RetCode, RetCode>) -> Reply {
    let (Ok(code) | Err(code)) = result;
    Reply::new(code)
}

fn unknown(engine: &Engine, peer: Option<NodeId>, _v: VolumeNr) -> Reply {
    let what = match peer {
        Some(p) if !engine.conns.contains_key(&p) => "unknown connection",
        _ => "unknown volume",
    };
    Reply::with(RetCode::ERR_INVALID_REQUEST, what)
}
