//! `up` ("Command line tools", section 4.2).

use drbd_config::model::{Connection, Resource, Volume};

use super::Adm;
use super::calls;
use super::schedule::{After, Schedule, Stage};
use super::select::Target;

impl Adm {
    /// Everything a resource consists of, in stages.
    pub(super) fn schedule_up(
        &self,
        schedule: &mut Schedule,
        target: &Target,
        resource: &Resource,
    ) {
        let index = target.resource;
        self.schedule_resource(schedule, index, resource);
        for volume in target.volumes(resource) {
            self.schedule_minor(schedule, index, resource, volume);
            self.schedule_attach(schedule, index, resource, volume);
        }
        for i in target.connections(resource) {
            let Some(connection) = resource.connections.get(i) else {
                continue;
            };
            self.schedule_peer(schedule, index, resource, connection);
            for device in &connection.peer_devices {
                self.schedule_peer_device(
                    schedule,
                    index,
                    resource,
                    connection,
                    device.volume,
                    false,
                );
            }
        }
    }

    pub(super) fn schedule_resource(
        &self,
        schedule: &mut Schedule,
        index: usize,
        resource: &Resource,
    ) {
        let call = calls::new_resource(resource, &[]);
        let task = schedule.add(Stage::Resource, index, "new-resource", vec![call]);
        if let Some(task) = schedule.task(task) {
            task.after = After::RegisterResource(resource.name.to_string());
        }
    }

    /// `new-minor`; the index of the task.
    pub(super) fn schedule_minor(
        &self,
        schedule: &mut Schedule,
        index: usize,
        resource: &Resource,
        volume: &Volume,
    ) -> Option<usize> {
        let call = calls::new_minor(resource, volume, &[]);
        let task = schedule.add(Stage::DiskUp, index, "new-minor", vec![call]);
        if let (Some(task), Some(minor)) = (schedule.task(task), volume.minor) {
            task.after = After::RegisterMinor(minor);
        }
        task
    }

    /// `attach` with its preparations, if the volume has a disk; the index of the task.
    pub(super) fn schedule_attach(
        &self,
        schedule: &mut Schedule,
        index: usize,
        resource: &Resource,
        volume: &Volume,
    ) -> Option<usize> {
        let tentative = self.invocation.is_set("tentative");
        let calls = calls::attach(resource, volume, tentative, &[]);
        schedule.add(Stage::Disk, index, "attach", calls)
    }

    /// `new-peer`, `new-path` and `connect`.
    pub(super) fn schedule_peer(
        &self,
        schedule: &mut Schedule,
        index: usize,
        resource: &Resource,
        connection: &Connection,
    ) {
        let call = calls::net("new-peer", resource, connection, false, &[]);
        schedule.add(Stage::NetUp, index, "new-peer", vec![call]);
        let paths = calls::paths("new-path", resource, connection);
        schedule.add(Stage::Paths, index, "new-path", paths);
        self.schedule_connect(schedule, index, resource, connection);
    }

    /// `connect` with what the command line has for it.
    pub(super) fn schedule_connect(
        &self,
        schedule: &mut Schedule,
        index: usize,
        resource: &Resource,
        connection: &Connection,
    ) -> Option<usize> {
        let given: Vec<_> = self
            .given()
            .iter()
            .filter(|g| matches!(&*g.name, "discard-my-data" | "tentative"))
            .cloned()
            .collect();
        let call = calls::connect(resource, connection, &given);
        schedule.add(Stage::Connect, index, "connect", vec![call])
    }

    /// `peer-device-options` if there are any.
    pub(super) fn schedule_peer_device(
        &self,
        schedule: &mut Schedule,
        index: usize,
        resource: &Resource,
        connection: &Connection,
        volume: u32,
        defaults: bool,
    ) {
        if calls::peer_device_words(resource, connection, volume, &[]).is_empty() {
            return;
        }
        let call = calls::peer_device(resource, connection, volume, defaults, &[]);
        schedule.add(
            Stage::PeerDeviceOptions,
            index,
            "peer-device-options",
            vec![call],
        );
    }
}
