//! Commands about volumes and their disks.

use std::path::Path;
use std::sync::mpsc;

use drbd_config::options::Argument;
use drbd_engine::{Backing as EngineBacking, Command, MetaPlace, Reply, RetCode};
use drbd_proto::VolumeNr;

use super::commands::Call;
use super::config::Volume;
use super::{Node, Refusal, Resource, lock, no, options};
use crate::backing::{Backing, OpenError};
use crate::control::protocol::BackingConfig;
use crate::frontend::{Volume as Which, VolumeHandle};
use crate::reactor::Message;

impl Node {
    pub(super) fn new_minor(
        &self,
        call: &Call<'_>,
        minor: u32,
        volume: VolumeNr,
    ) -> Result<Reply, Refusal> {
        let resource = self.resource(call.argument(Argument::Resource))?;
        let _changes = lock(&resource.changes);
        let nr = volume.to_wire();
        let exists = |what| no(RetCode::ERR_MINOR_OR_VOLUME_EXISTS, what);
        if self.minor(minor).is_ok() {
            return Err(exists("requested minor exists already"));
        }
        if lock(&resource.config).volumes.contains_key(&nr) {
            return Err(exists("requested volume exists already"));
        }
        let which = Which {
            resource: resource.name(),
            volume,
            minor,
        };
        let (pool, sender) = (resource.handle.pool.clone(), resource.handle.sender.clone());
        let handle = VolumeHandle::new(which, pool, sender);
        resource
            .handle
            .sender
            .send(Message::AddVolume(handle.clone()));
        let options = options::device(&call.options);
        let reply = resource.give(Command::NewMinor {
            volume,
            minor,
            options,
        });
        if !reply.is_ok() {
            resource.handle.sender.send(Message::RemoveVolume(volume));
            return Ok(reply);
        }
        let config = Volume {
            minor,
            device: call.options.clone(),
            backing: None,
            disk: Default::default(),
            diskless: false,
        };
        lock(&resource.config).volumes.insert(nr, config);
        let mut attached = Vec::new();
        for frontend in &self.settings.frontends {
            match frontend.attach(handle.clone()) {
                Ok(volume) => {
                    tracing::info!(
                        "drbd {}/{nr} drbd{minor}: {}",
                        resource.name(),
                        volume.place()
                    );
                    attached.push(volume);
                }
                Err(e) => {
                    let name = frontend.name();
                    tracing::error!("drbd {}/{nr} drbd{minor}: {name}: {e}", resource.name());
                }
            }
        }
        lock(&resource.attached).insert(nr, attached);
        Ok(reply)
    }

    pub(super) fn del_minor(&self, resource: &Resource, volume: VolumeNr) -> Reply {
        let _changes = lock(&resource.changes);
        resource.release_unused();
        let reply = resource.give(Command::DelMinor { volume });
        if reply.is_ok() {
            resource.handle.sender.send(Message::RemoveVolume(volume));
            resource.detach_frontends(Some(volume.to_wire()));
            lock(&resource.config).volumes.remove(&volume.to_wire());
        }
        reply
    }

    pub(super) fn attach(
        &self,
        call: &Call<'_>,
        resource: &Resource,
        volume: VolumeNr,
    ) -> Result<Reply, Refusal> {
        let _changes = lock(&resource.changes);
        let disk = call.argument(Argument::LowerDev);
        let meta_disk = call.argument(Argument::MetaDataDev);
        let index = call.argument(Argument::MetaDataIndex);
        let meta = match index {
            "internal" => MetaPlace::Internal,
            "flexible" | "flex-external" => MetaPlace::FlexExternal,
            number => MetaPlace::Indexed(number.parse().map_err(|_| {
                let text = format!("'{number}' is neither internal, flexible nor a number");
                no(RetCode::ERR_MD_IDX_INVALID, text)
            })?),
        };
        let internal = meta == MetaPlace::Internal;
        if internal != (disk == meta_disk) {
            let text = "internal meta data lies on the disk itself, other meta data elsewhere";
            return Err(no(RetCode::ERR_MD_IDX_INVALID, text));
        }
        let own = resource.devices(volume.to_wire());
        if own.iter().any(|device| device == Path::new(disk)) {
            return Err(no(RetCode::ERR_BDCLAIM_DISK, "this is the volume itself"));
        }
        for (path, code) in [
            (disk, RetCode::ERR_OPEN_DISK),
            (meta_disk, RetCode::ERR_OPEN_MD_DISK),
        ] {
            let frontends = &self.settings.frontends;
            if frontends.iter().any(|f| f.serves(Path::new(path))) {
                let text = format!(
                    "{path}: served by this daemon over FUSE, which must not use it itself"
                );
                return Err(no(code, text));
            }
        }
        let backing =
            Backing::open(Path::new(disk), Path::new(meta_disk)).map_err(|(meta, e)| {
                let code = match (&e, meta) {
                    (OpenError::Open { .. }, false) => RetCode::ERR_OPEN_DISK,
                    (OpenError::Open { .. }, true) => RetCode::ERR_OPEN_MD_DISK,
                    (OpenError::Kind(_), false) => RetCode::ERR_DISK_NOT_BDEV,
                    (OpenError::Kind(_), true) => RetCode::ERR_MD_NOT_BDEV,
                    (OpenError::Claimed(_), false) => RetCode::ERR_BDCLAIM_DISK,
                    (OpenError::Claimed(_), true) => RetCode::ERR_BDCLAIM_MD_DISK,
                };
                no(code, e.to_string())
            })?;
        let data = &backing.data;
        let measured = EngineBacking {
            disk: disk.to_owned(),
            meta_disk: meta_disk.to_owned(),
            meta,
            disk_bytes: data.bytes,
            meta_bytes: backing.meta.bytes,
            logical_block: data.logical_block,
            physical_block: data.physical_block,
            discard_granularity: data.discard_granularity,
            max_discard: data.max_discard,
            volatile_cache: data.volatile_cache,
        };
        let options = options::disk(&call.options);
        self.check_resync_after(resource, volume.to_wire(), &options)?;
        let command = Command::Attach {
            volume,
            backing: measured,
            options,
        };
        let (reply, answer) = mpsc::channel();
        resource.handle.sender.send(Message::Attach {
            volume,
            backing,
            command,
            reply,
        });
        let reply = answer.recv().map_err(|_| {
            no(
                RetCode::ERR_RES_NOT_KNOWN,
                "the resource has ended unexpectedly",
            )
        })?;
        if reply.is_ok()
            && let Some(config) = lock(&resource.config).volumes.get_mut(&volume.to_wire())
        {
            config.backing = Some(BackingConfig {
                disk: disk.to_owned(),
                meta_disk: meta_disk.to_owned(),
                index: index.to_owned(),
            });
            config.disk = call.options.clone();
            config.diskless = false;
        }
        Ok(reply)
    }

    pub(super) fn detach(
        &self,
        resource: &Resource,
        volume: VolumeNr,
        force: bool,
        diskless: bool,
    ) -> Reply {
        let _changes = lock(&resource.changes);
        let reply = resource.give(Command::Detach {
            volume,
            force,
            diskless,
        });
        if reply.is_ok()
            && let Some(config) = lock(&resource.config).volumes.get_mut(&volume.to_wire())
        {
            config.backing = None;
            config.disk = Default::default();
            config.diskless |= diskless;
        }
        reply
    }
}
