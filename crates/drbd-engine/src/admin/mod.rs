//! Commands of the administrator (CLI, section 9).

mod changes;
mod down;
mod objects;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use drbd_proto::{DiskState, NodeId, ReplState, Role, VolumeNr};

use crate::command::{Command, Reply, RetCode};
use crate::effect::Effect;
use crate::engine::Engine;
use crate::id::CmdId;
use crate::options::{Fencing, NetOptions, OnCongestion, WireProtocol};
use crate::state::change::ChangeFlags;
use crate::status::Object;

/// Commands whose answer has to wait for something.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// `disconnect` and `del-peer`; true: remove the peer afterwards.
    pub disconnects: Vec<(NodeId, CmdId, bool)>,
    /// `attach`.
    pub attaches: BTreeMap<VolumeNr, CmdId>,
    /// `resize`.
    pub resizes: BTreeMap<VolumeNr, crate::resize::Asked>,
    /// `detach`; there may be another one, with force, while one hangs.
    pub detaches: Vec<(VolumeNr, CmdId)>,
    /// `suspend-io`.
    pub suspends: Vec<CmdId>,
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
            Command::RenameResource { name } => {
                self.name = name;
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
                    let after = options.resync_after != disk.options.resync_after;
                    // The size is changed by `resize` only.
                    let size = disk.options.size;
                    disk.options = crate::options::DiskOptions { size, ..options };
                    self.facts_changed |= after;
                    Reply::new(RetCode::NO_ERROR)
                }
                None => Reply::new(RetCode::ERR_NO_DISK),
            }),
            Command::Resize { volume, resize } => self.resize_command(cmd, volume, resize),
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
            Command::SuspendIo => self.suspend_io(cmd),
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

    /// Publishes the state of a device.
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
    if o.on_congestion != OnCongestion::Block && o.protocol != WireProtocol::A {
        return Err(Reply::new(RetCode::ERR_CONG_NOT_PROTO_A));
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
