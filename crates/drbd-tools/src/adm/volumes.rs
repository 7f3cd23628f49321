//! Commands with special logic ("Command line tools", section 5).

use std::time::{Duration, Instant};

use drbd_config::model::{Connection, Resource, Volume};
use drbd_config::options::{Scale, parse_number};

use super::Adm;
use super::calls::{self, meta, peer_id, setup, words};
use super::cli::Passed;
use super::helper::Call;
use super::select::Target;

impl Adm {
    /// A `drbdmeta` command with the `--force` of the command line.
    pub(super) fn meta_command(
        &self,
        resource: &Resource,
        volume: &Volume,
        command: &[&str],
    ) -> i32 {
        let Some(mut call) = meta(resource, volume, None, command) else {
            return self.no_disk();
        };
        call.args.extend(self.given().iter().map(Passed::word));
        self.call(&call)
    }

    /// The connections of this host whose peer has a disk for some volume.
    fn diskful<'r>(&self, resource: &'r Resource, volume: Option<u32>) -> Vec<&'r Connection> {
        resource
            .my_connections()
            .filter(|c| {
                resource.peer_of(c).is_some_and(|h| {
                    h.volumes
                        .iter()
                        .filter(|v| volume.is_none_or(|n| n == v.number))
                        .any(|v| v.disk_path().is_some())
                })
            })
            .collect()
    }

    pub(super) fn create_md(&self, target: &Target, resource: &Resource) -> i32 {
        let peers = match self
            .invocation
            .option("max-peers")
            .and_then(|o| o.value.clone())
        {
            Some(peers) => peers,
            None => self.diskful(resource, None).len().max(1).to_string(),
        };
        self.each_volume(target, resource, |volume| {
            let Some(mut call) = meta(resource, volume, None, &["create-md", &peers]) else {
                return 10;
            };
            let options = self.given().iter().filter(|o| o.name != "max-peers");
            call.args.extend(options.map(Passed::word));
            let sized = self.invocation.option("effective-size").is_some();
            if sized && self.invocation.option("diskful-peers").is_none() {
                let ids: Vec<String> = self
                    .diskful(resource, Some(volume.number))
                    .into_iter()
                    .map(|c| peer_id(resource, c))
                    .collect();
                call.args.push(format!("--diskful-peers={}", ids.join(",")));
            }
            // The device keeps the number it is known by.
            let known = self.device_uuid(resource, volume);
            match self.call(&call) {
                0 => self.name_device(resource, volume, known),
                code => code,
            }
        })
    }

    /// The device UUID of the meta data that a volume has; none in dry runs, which write none either.
    fn device_uuid(&self, resource: &Resource, volume: &Volume) -> Option<u64> {
        if self.invocation.dry_run {
            return None;
        }
        let mut call = meta(resource, volume, None, &["read-dev-uuid"])?;
        let force = self.given().iter().filter(|o| o.name == "force");
        call.args.extend(force.map(Passed::word));
        let answer = self.helpers.ask(&Call {
            quiet: true,
            ..call
        });
        let text = String::from_utf8(answer.ok()?).ok()?;
        let uuid = u64::from_str_radix(text.trim(), 16).ok()?;
        (uuid != 0).then_some(uuid)
    }

    /// Gives fresh meta data its device UUID, a random one if there was none.
    fn name_device(&self, resource: &Resource, volume: &Volume, known: Option<u64>) -> i32 {
        if self.invocation.dry_run {
            return 0;
        }
        let mut bytes = [0; 8];
        let uuid = known.or_else(|| {
            let flags = rustix::rand::GetRandomFlags::empty();
            rustix::rand::getrandom(&mut bytes, flags).ok()?;
            Some(u64::from_ne_bytes(bytes))
        });
        // Nothing depends on it.
        let Some(uuid) = uuid.filter(|uuid| *uuid != 0) else {
            return 0;
        };
        let command = ["write-dev-uuid", &format!("{uuid:016X}")];
        meta(resource, volume, None, &command).map_or(0, |call| self.call(&call))
    }

    pub(super) fn set_gi(&self, target: &Target, resource: &Resource) -> i32 {
        let values: Vec<&str> = self.invocation.words.iter().map(|w| &**w).collect();
        let command = [&["set-gi"], &values[..]].concat();
        self.each_volume(target, resource, |volume| {
            let one = |id| match meta(resource, volume, id, &command) {
                Some(mut call) => {
                    call.args.extend(self.given().iter().map(Passed::word));
                    self.call(&call)
                }
                None => 10,
            };
            if resource.hosts.len() == 1 {
                return one(resource.my_host().and_then(|h| h.node_id));
            }
            self.each_connection(target, resource, |c| {
                one(resource.peer_of(c).and_then(|h| h.node_id))
            })
        })
    }

    pub(super) fn invalidate(&self, target: &Target, resource: &Resource) -> i32 {
        self.each_volume(target, resource, |volume| {
            let mut call = self.plain(resource, ["invalidate", &calls::number(volume.minor)]);
            if let Some(c) = target.connection.and_then(|i| resource.connections.get(i)) {
                call.args
                    .push(format!("--sync-from-peer-node-id={}", peer_id(resource, c)));
            }
            let fallback = meta(resource, volume, None, &["invalidate"]);
            self.or_meta(call, fallback.into_iter().collect(), &[11, 17])
        })
    }

    pub(super) fn outdate(&self, target: &Target, resource: &Resource) -> i32 {
        self.each_volume(target, resource, |volume| {
            // The reference names the resource as well, which drbdsetup never accepted.
            let call = setup(resource, words(["outdate", &calls::number(volume.minor)]));
            let quiet = !self.invocation.dry_run;
            let code = self.call(&Call { quiet, ..call });
            if !self.invocation.dry_run && matches!(code, 0 | 17) {
                return code;
            }
            let fallback: Vec<Call> = meta(resource, volume, None, &["outdate"])
                .into_iter()
                .collect();
            if fallback.is_empty() {
                return code;
            }
            match self.calls(&fallback) {
                0 => 0,
                _ if code == 5 => 5,
                failed => failed,
            }
        })
    }

    /// The size of a device in sectors as the system sees it.
    fn device_sectors(volume: &Volume) -> Option<u64> {
        let path = format!("/sys/block/drbd{}/size", volume.minor?);
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    }

    pub(super) fn resize(&self, resource: &Resource, volume: &Volume, quiet: bool) -> i32 {
        let minor = calls::number(volume.minor);
        let mut args = words(["resize", &minor]);
        let configured = volume.disk_options.text("size");
        args.extend(configured.map(|s| format!("--size={s}")));
        if self.command.name == "resize" {
            args.extend(self.given().iter().map(Passed::word));
        }
        let before = Self::device_sectors(volume);
        let given = self
            .invocation
            .option("size")
            .and_then(|o| o.value.as_deref());
        let wanted = given
            .or(configured)
            .and_then(|s| parse_number(s, Scale::Sector).ok());
        let code = self.call(&Call {
            quiet,
            ..setup(resource, args)
        });
        if code != 0 && !(wanted.is_some() && wanted == before) {
            return code;
        }
        let check = setup(resource, words(["check-resize", &minor]));
        self.call(&Call { quiet, ..check });
        let (Some(before), false) = (before, self.invocation.dry_run) else {
            return 0;
        };
        // The peers must agree; the device changes a little later.
        let limit = Duration::from_secs(if wanted.is_some() { 10 } else { 3 });
        let start = Instant::now();
        loop {
            let now = Self::device_sectors(volume).unwrap_or(before);
            if wanted.map_or(now != before, |w| now >= w) {
                return 0;
            }
            if start.elapsed() > limit {
                return 1;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    pub(super) fn check_resize(&self, resource: &Resource, volume: &Volume) -> i32 {
        let code = self.resize(resource, volume, !self.invocation.dry_run);
        if code == 0 {
            return 0;
        }
        match meta(resource, volume, None, &["check-resize"]) {
            Some(call) => self.call(&call),
            None => code,
        }
    }
}
