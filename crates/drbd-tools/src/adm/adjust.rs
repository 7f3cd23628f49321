//! `adjust`: from what runs to what is configured, with as few commands as possible ("Command line
//! tools", section 4.3).

use drbd_config::Config;
use drbd_config::expand::peer_device_extras;
use drbd_config::model::{Connection, Resource, Volume};
use drbd_config::options::{Group, OptionSet};

use super::Adm;
use super::calls::{self, peer_id, setup, words};
use super::helper::Call;
use super::running::{
    Wanted, differing, is_connected, is_standalone, is_unknown, path_words, this_host, wanted,
};
use super::schedule::{Schedule, Stage};
use super::select::Target;

impl Adm {
    /// Schedules what is needed for all targets; `sh-list-adjustable` prints names instead.
    pub(super) fn schedule_adjust(
        &self,
        schedule: &mut Schedule,
        targets: &[Target],
        command: &str,
    ) -> Result<(), i32> {
        let single = match targets {
            [only] => self.resource(only.resource).map(|r| &*r.name),
            _ => None,
        };
        let running = self.running(single)?;
        for target in targets {
            let Some(resource) = self.resource(target.resource) else {
                continue;
            };
            if command == "sh-list-adjustable" {
                let mut own = Schedule::default();
                self.adjust_one(&mut own, target, resource, &running);
                if !own.is_empty() {
                    println!("{}", resource.name);
                }
                continue;
            }
            self.adjust_one(schedule, target, resource, &running);
        }
        Ok(())
    }

    fn adjust_one(
        &self,
        schedule: &mut Schedule,
        target: &Target,
        resource: &Resource,
        running: &Config,
    ) {
        let skip_net = self.invocation.is_set("skip-net");
        let run = running.resource(&resource.name);
        // What the node does not know must not be sent.
        let mut resource = resource.clone();
        if let Some(run) = run {
            forget_unknown(&mut resource, run);
        }
        let adjust = Adjust {
            adm: self,
            index: target.resource,
            resource: &resource,
            run,
        };
        match run {
            None => self.schedule_resource(schedule, target.resource, &resource),
            Some(run) => adjust.resource_options(schedule, run),
        }
        adjust.volumes(schedule, target, skip_net);
        if !skip_net {
            adjust.connections(schedule, target);
        }
    }
}

/// Removes from the wanted options those the node does not know.
fn forget_unknown(resource: &mut Resource, run: &Resource) {
    let strip = |set: &mut OptionSet, running: &OptionSet| {
        let names: Vec<_> = running
            .iter()
            .filter(|i| i.value.is_none())
            .map(|i| i.def.name)
            .collect();
        for name in names {
            set.remove(name);
        }
    };
    strip(&mut resource.sections.resource, &run.sections.resource);
    let me = resource.me;
    if let Some(host) = me.and_then(|m| resource.hosts.get_mut(m)) {
        for volume in &mut host.volumes {
            if let Some(running) = this_host(run).and_then(|h| h.volume(volume.number)) {
                strip(&mut volume.disk_options, &running.disk_options);
                strip(&mut volume.device_options, &running.device_options);
            }
        }
    }
    let Resource {
        connections, hosts, ..
    } = resource;
    for connection in connections {
        let id = connection
            .peer
            .and_then(|p| hosts.get(p))
            .and_then(|h| h.node_id);
        let running = run
            .connections
            .iter()
            .find(|c| c.peer_node_id == id && id.is_some());
        let Some(running) = running else { continue };
        strip(&mut connection.net, &running.net);
        for device in &mut connection.peer_devices {
            let running = running
                .peer_devices
                .iter()
                .find(|d| d.volume == device.volume);
            if let Some(running) = running {
                strip(&mut device.options, &running.options);
            }
        }
    }
}

struct Adjust<'a> {
    adm: &'a Adm,
    index: usize,
    resource: &'a Resource,
    run: Option<&'a Resource>,
}

impl Adjust<'_> {
    fn say(&self, level: u32, text: impl FnOnce() -> String) {
        if self.adm.invocation.verbose >= level {
            eprintln!("{}", text());
        }
    }

    /// With `--skip-disk` the options of new peer devices go with the connections.
    fn skip_disk(&self) -> bool {
        self.adm.invocation.is_set("skip-disk")
    }

    fn selected(&self, target: &Target) -> Vec<&Connection> {
        let selected = target.connections(self.resource);
        selected
            .into_iter()
            .filter_map(|i| self.resource.connections.get(i))
            .collect()
    }

    fn differ(&self, what: &str, running: &OptionSet, want: &Wanted) -> Vec<&'static str> {
        let names = differing(running, want);
        if names.is_empty() {
            self.say(4, || {
                format!("{}: {what} is as configured", self.resource.name)
            });
        } else {
            self.say(3, || {
                format!(
                    "{}: {what} differs: {}",
                    self.resource.name,
                    names.join(", ")
                )
            });
        }
        names
    }

    fn resource_options(&self, schedule: &mut Schedule, run: &Resource) {
        let options = &self.resource.sections.resource;
        if self
            .differ("options", &run.sections.resource, &wanted(options))
            .is_empty()
        {
            return;
        }
        let mut args = words(["resource-options", &self.resource.name, "--set-defaults"]);
        args.extend(calls::option_words(options, &[], &[]));
        let call = setup(self.resource, args);
        schedule.add(
            Stage::ResourceOptions,
            self.index,
            "resource-options",
            vec![call],
        );
    }

    fn detach(&self, schedule: &mut Schedule, minor: Option<u32>) {
        let args = words(["detach", "--diskless", &calls::number(minor)]);
        let call = setup(self.resource, args);
        schedule.add(Stage::DiskDown, self.index, "detach", vec![call]);
    }

    fn del_minor(&self, schedule: &mut Schedule, minor: Option<u32>) {
        let call = setup(self.resource, words(["del-minor", &calls::number(minor)]));
        schedule.add(Stage::DiskDown, self.index, "del-minor", vec![call]);
    }

    fn volumes(&self, schedule: &mut Schedule, target: &Target, skip_net: bool) {
        let skip_disk = self.skip_disk();
        let empty: &[Volume] = &[];
        let running = self.run.and_then(this_host).map_or(empty, |h| &h.volumes);
        let configured = target.volumes(self.resource);
        for old in running {
            let gone = !configured.iter().any(|v| v.number == old.number)
                && target.volume.is_none_or(|n| n == old.number);
            if gone && !skip_disk {
                if old.disk_path().is_some() {
                    self.detach(schedule, old.minor);
                }
                self.del_minor(schedule, old.minor);
            }
        }
        for volume in configured {
            match running.iter().find(|v| v.number == volume.number) {
                Some(old) if old.minor == volume.minor => {
                    if !skip_disk {
                        self.disk(schedule, old, volume);
                    }
                }
                old => {
                    if let Some(old) = old {
                        if skip_disk {
                            continue;
                        }
                        if old.disk_path().is_some() {
                            self.detach(schedule, old.minor);
                        }
                        self.del_minor(schedule, old.minor);
                    }
                    self.adm
                        .schedule_minor(schedule, self.index, self.resource, volume);
                    if !skip_net && !skip_disk {
                        let stays = |c: &&Connection| !self.is_recreated(c);
                        for connection in self.selected(target).into_iter().filter(stays) {
                            self.peer_device(schedule, connection, volume.number);
                        }
                    }
                    if !skip_disk {
                        self.adm
                            .schedule_attach(schedule, self.index, self.resource, volume);
                    }
                }
            }
        }
    }

    fn peer_device(&self, schedule: &mut Schedule, connection: &Connection, volume: u32) {
        self.adm.schedule_peer_device(
            schedule,
            self.index,
            self.resource,
            connection,
            volume,
            true,
        );
    }

    /// The disk of a volume that exists on both sides.
    fn disk(&self, schedule: &mut Schedule, old: &Volume, volume: &Volume) {
        let attach = |schedule: &mut Schedule| {
            self.adm
                .schedule_attach(schedule, self.index, self.resource, volume)
        };
        match (old.disk_path(), volume.disk_path()) {
            (None, None) => {}
            (None, Some(_)) => {
                attach(schedule);
            }
            (Some(_), None) => self.detach(schedule, old.minor),
            (Some(a), Some(b)) => {
                let meta = |v: &Volume| {
                    v.meta_disk
                        .as_ref()
                        .and_then(|m| m.path().map(str::to_owned))
                };
                if a != b || meta(old) != meta(volume) {
                    self.say(3, || format!("volume {}: the disk differs", volume.number));
                    self.detach(schedule, old.minor);
                    attach(schedule);
                    return;
                }
                self.disk_options(schedule, old, volume);
            }
        }
    }

    fn disk_options(&self, schedule: &mut Schedule, old: &Volume, volume: &Volume) {
        let mut names = self.differ("disk", &old.disk_options, &wanted(&volume.disk_options));
        let minor = calls::number(volume.minor);
        if names.contains(&"size") {
            names.retain(|n| *n != "size");
            let mut args = words(["resize", &minor]);
            let size = volume.disk_options.text("size");
            args.extend(size.map(|s| format!("--size={s}")));
            let check = setup(self.resource, words(["check-resize", &minor]));
            let calls = vec![setup(self.resource, args), check];
            schedule.add(Stage::Disk, self.index, "resize", calls);
        }
        if names.is_empty() {
            return;
        }
        let on = |set: &OptionSet| set.text("bitmap") != Some("no");
        // The bitmap must be there before peers that need one.
        let stage = if !on(&old.disk_options) && on(&volume.disk_options) {
            Stage::DiskUp
        } else {
            Stage::Disk
        };
        let call = calls::disk_options(self.resource, volume, true, &[]);
        schedule.add(stage, self.index, "disk-options", vec![call]);
    }

    fn connections(&self, schedule: &mut Schedule, target: &Target) {
        let empty: &[Connection] = &[];
        let running = self.run.map_or(empty, |r| &r.connections);
        let configured = self.selected(target);
        let id = |c: &Connection| self.resource.peer_of(c).and_then(|h| h.node_id);
        for old in running {
            let wanted = configured.iter().any(|c| id(c) == old.peer_node_id);
            if !wanted && target.connection.is_none() {
                let args = words([
                    "del-peer",
                    &self.resource.name,
                    &calls::number(old.peer_node_id),
                ]);
                let call = setup(self.resource, args);
                schedule.add(Stage::NetDown, self.index, "del-peer", vec![call]);
            }
        }
        let mut pairs: Vec<(&Connection, Option<&Connection>)> = configured
            .iter()
            .map(|c| (*c, running.iter().find(|r| r.peer_node_id == id(c))))
            .collect();
        // Links that are down are repaired before others are interrupted.
        pairs.sort_by_key(|(_, old)| old.is_some_and(is_connected));
        let interrupted = pairs
            .iter()
            .filter(|(c, old)| old.is_some_and(|old| is_connected(old) && self.interrupts(c, old)))
            .count();
        let mut left = interrupted;
        let mut wait = None;
        for (connection, old) in pairs {
            let first = schedule.len();
            let cuts = old.is_some_and(|old| is_connected(old) && self.interrupts(connection, old));
            match old {
                None => self.new_peer(schedule, connection, false),
                Some(old) => self.connection(schedule, connection, old),
            }
            self.adm
                .schedule_proxy(schedule, self.index, self.resource, connection);
            if !cuts {
                continue;
            }
            left -= 1;
            // One link at a time: each waits for the one before.
            schedule.hold_back(first, wait);
            if left > 0 {
                wait = self.wait(schedule, connection);
                schedule.hold_back_last(wait);
            }
        }
    }

    /// True if an option differs that a connection is born with.
    fn is_recreated(&self, connection: &Connection) -> bool {
        let id = self.resource.peer_of(connection).and_then(|h| h.node_id);
        let running = self.run.into_iter().flat_map(|r| &r.connections);
        let mut same = running.filter(|r| r.peer_node_id == id);
        same.any(|old| {
            differing(&old.net, &self.net(connection))
                .iter()
                .any(|n| is_fixed(n))
        })
    }

    /// `wait-connect-connection` after a connection was interrupted; running into the timeout is
    /// no error.
    fn wait(&self, schedule: &mut Schedule, connection: &Connection) -> Option<usize> {
        let net = &self.resource.sections.net;
        let configured = |name: &str| {
            net.text(name)?;
            Group::Net
                .find(name)
                .and_then(|def| net.value(def).as_number())
        };
        let tenths = configured("socket-check-timeout").or_else(|| configured("ping-timeout"));
        let seconds = tenths
            .map_or(1, |t| t.saturating_mul(2) / 10)
            .max(1)
            .to_string();
        let args = words([
            "wait-connect-connection",
            &self.resource.name,
            &peer_id(self.resource, connection),
            "--wfc-timeout",
            &seconds,
            "--degr-wfc-timeout",
            &seconds,
            "--outdated-wfc-timeout",
            &seconds,
        ]);
        let call = Call {
            tolerate: Some(5),
            ..setup(self.resource, args)
        };
        schedule.add(Stage::Wait, self.index, "wait-connect", vec![call])
    }

    /// The configured net options, the name included.
    fn net(&self, connection: &Connection) -> Wanted {
        let mut net = wanted(&connection.net);
        if connection.net.get("_name").is_none()
            && let Some(def) = Group::Net.find("_name")
        {
            net.push((def, calls::connection_name(self.resource, connection)));
        }
        net
    }

    fn path_lists(&self, connection: &Connection, old: &Connection) -> PathLists {
        let want: Vec<[String; 2]> = connection
            .paths
            .iter()
            .filter_map(|p| calls::path_words(self.resource, p))
            .collect();
        let have: Vec<[String; 2]> = old.paths.iter().filter_map(path_words).collect();
        PathLists {
            new: want.iter().filter(|w| !have.contains(w)).cloned().collect(),
            gone: have.iter().filter(|h| !want.contains(h)).cloned().collect(),
            had: have.len(),
        }
    }

    /// True if a connection must be taken down on the way.
    fn interrupts(&self, connection: &Connection, old: &Connection) -> bool {
        let fixed = differing(&old.net, &self.net(connection))
            .iter()
            .any(|n| matches!(*n, "transport" | "load-balance-paths"));
        let paths = self.path_lists(connection, old);
        fixed || paths.loses_all()
    }

    /// `recreated`: it was there and is made anew, which may be later than the new volumes.
    fn new_peer(&self, schedule: &mut Schedule, connection: &Connection, recreated: bool) {
        self.adm
            .schedule_peer(schedule, self.index, self.resource, connection);
        let empty: &[Volume] = &[];
        let running = self.run.and_then(this_host).map_or(empty, |h| &h.volumes);
        for device in &connection.peer_devices {
            // Those of new volumes were scheduled with the volume.
            let minor = self
                .resource
                .my_host()
                .and_then(|h| h.volume(device.volume));
            let known = running
                .iter()
                .any(|v| v.number == device.volume && minor.is_some_and(|m| m.minor == v.minor));
            if known || recreated || self.skip_disk() {
                self.peer_device(schedule, connection, device.volume);
            }
        }
    }

    /// A connection that exists on both sides.
    fn connection(&self, schedule: &mut Schedule, connection: &Connection, old: &Connection) {
        let name = &*self.resource.name;
        let id = peer_id(self.resource, connection);
        let words_of = |first: &str| setup(self.resource, words([first, name, &id]));
        let differ = self.differ("net", &old.net, &self.net(connection));
        if differ.iter().any(|n| is_fixed(n)) {
            schedule.add(
                Stage::NetDown,
                self.index,
                "del-peer",
                vec![words_of("del-peer")],
            );
            self.new_peer(schedule, connection, true);
            return;
        }
        if !differ.is_empty() {
            let call = calls::net("net-options", self.resource, connection, true, &[]);
            schedule.add(Stage::NetOptions, self.index, "net-options", vec![call]);
        }
        self.peer_devices(schedule, connection, old);
        let paths = self.path_lists(connection, old);
        let mut connect = is_standalone(old);
        if paths.loses_all() {
            if !is_standalone(old) {
                let call = words_of("disconnect");
                schedule.add(Stage::Disconnect, self.index, "disconnect", vec![call]);
            }
            connect = true;
        }
        for (command, stage, list) in [
            ("del-path", Stage::NetDown, &paths.gone),
            ("new-path", Stage::Paths, &paths.new),
        ] {
            let calls = list
                .iter()
                .map(|[own, peer]| setup(self.resource, words([command, name, &id, own, peer])))
                .collect();
            schedule.add(stage, self.index, command, calls);
        }
        if connect {
            self.adm
                .schedule_connect(schedule, self.index, self.resource, connection);
        }
    }

    fn peer_devices(&self, schedule: &mut Schedule, connection: &Connection, old: &Connection) {
        let nothing = OptionSet::default();
        let running_volumes = self.run.and_then(this_host);
        for device in &connection.peer_devices {
            let mine = self
                .resource
                .my_host()
                .and_then(|h| h.volume(device.volume));
            let theirs = running_volumes.and_then(|h| h.volume(device.volume));
            let same_minor = matches!((mine, theirs), (Some(a), Some(b)) if a.minor == b.minor);
            if !same_minor && !self.skip_disk() {
                // Scheduled with the new volume.
                continue;
            }
            let running = old
                .peer_devices
                .iter()
                .find(|d| d.volume == device.volume)
                .map_or(&nothing, |d| &d.options);
            let mut want = wanted(&device.options);
            for (name, value) in peer_device_extras(self.resource, connection, device.volume) {
                if let Some(def) = Group::PeerDevice.find(name)
                    && !is_unknown(running, name)
                {
                    want.push((def, value.to_owned()));
                }
            }
            if self.differ("peer device", running, &want).is_empty() {
                continue;
            }
            let call = calls::peer_device(self.resource, connection, device.volume, true, &[]);
            schedule.add(
                Stage::PeerDeviceOptions,
                self.index,
                "peer-device-options",
                vec![call],
            );
        }
    }
}

/// Net options that cannot change.
fn is_fixed(name: &str) -> bool {
    Group::Net.find(name).is_some_and(|def| def.fixed)
}

/// How the paths of a connection change.
struct PathLists {
    new: Vec<[String; 2]>,
    gone: Vec<[String; 2]>,
    had: usize,
}

impl PathLists {
    /// All paths the connection has are removed: it must be down for that.
    fn loses_all(&self) -> bool {
        !self.gone.is_empty() && self.gone.len() == self.had
    }
}
