//! The states of the engine as the control protocol has them.

use drbd_engine::status::{
    self, ConnectionInfo, DeviceInfo, PeerDeviceInfo, ResourceInfo, ResourceStatus, SyncInfo,
    WriteOrdering,
};

use crate::protocol::{
    Connection, ConnectionState, Device, DeviceState, Path, PeerDevice, PeerDeviceState, Resource,
    ResourceState, Sync, Verify, WaitTimeout,
};

impl From<&ResourceInfo> for ResourceState {
    fn from(i: &ResourceInfo) -> Self {
        ResourceState {
            role: i.role.name().into(),
            suspended_user: i.susp_user,
            suspended_no_data: i.susp_nod,
            suspended_fencing: i.susp_fen,
            suspended_quorum: i.susp_quorum,
            force_io_failures: i.fail_io,
            write_ordering: match i.write_ordering {
                WriteOrdering::None => "none",
                WriteOrdering::Drain => "drain",
                WriteOrdering::Flush => "flush",
                WriteOrdering::Barrier => "barrier",
            }
            .into(),
        }
    }
}

impl From<&DeviceInfo> for DeviceState {
    fn from(i: &DeviceInfo) -> Self {
        DeviceState {
            minor: i.minor,
            disk: i.disk.name().into(),
            client: i.client,
            open: i.open,
            quorum: i.quorum,
            backing_dev: i.backing.clone(),
            size: i.size,
            read: i.read,
            written: i.written,
            al_writes: i.al_writes,
            bm_writes: i.bm_writes,
            upper_pending: i.upper_pending,
            lower_pending: i.lower_pending,
            al_suspended: i.al_suspended,
            // That the backing device would block no system tells any more.
            blocked: if i.upper_blocked { "upper" } else { "no" }.into(),
        }
    }
}

impl From<&ConnectionInfo> for ConnectionState {
    fn from(i: &ConnectionInfo) -> Self {
        let path = |(path, established): &(drbd_engine::Path, bool)| Path {
            local: path.local,
            remote: path.remote,
            established: *established,
        };
        ConnectionState {
            name: i.name.clone(),
            connection: i.cstate.name().into(),
            role: i.peer_role.name().into(),
            congested: i.congested,
            tls: i.tls,
            ap_in_flight: i.ap_in_flight,
            rs_in_flight: i.rs_in_flight,
            paths: i.paths.iter().map(path).collect(),
        }
    }
}

impl From<&SyncInfo> for Sync {
    fn from(i: &SyncInfo) -> Self {
        Sync {
            total: i.total,
            left: i.left,
            failed: i.failed,
            same_csum: i.same_csum,
            elapsed_ms: i.elapsed_ms,
            paused_ms: i.paused_ms,
            windows: i.windows,
            want: i.want,
            verify: i.verify.map(|v| Verify {
                start: v.start,
                stop: v.stop,
                position: v.position,
                skipped: v.skipped,
            }),
        }
    }
}

impl From<&PeerDeviceInfo> for PeerDeviceState {
    fn from(i: &PeerDeviceInfo) -> Self {
        let reasons = [
            (i.resync_susp_user, "user"),
            (i.resync_susp_peer, "peer"),
            (i.resync_susp_dependency, "dependency"),
            (i.resync_susp_max_parallel, "max-parallel"),
        ];
        let list: Vec<&str> = reasons
            .iter()
            .filter(|(on, _)| *on)
            .map(|(_, name)| *name)
            .collect();
        PeerDeviceState {
            replication: i.repl.name().into(),
            peer_disk: i.peer_disk.name().into(),
            peer_client: i.peer_client,
            resync_suspended: if list.is_empty() {
                "no".into()
            } else {
                list.join(",")
            },
            received: i.received,
            sent: i.sent,
            out_of_sync: i.out_of_sync,
            pending: i.pending,
            unacked: i.unacked,
            stable: i.stable,
            wait: match i.wait {
                status::WaitTimeout::Normal => WaitTimeout::Normal,
                status::WaitTimeout::Degraded => WaitTimeout::Degraded,
                status::WaitTimeout::Outdated => WaitTimeout::Outdated,
            },
            sync: i.sync.as_ref().map(Sync::from),
        }
    }
}

impl From<&ResourceStatus> for Resource {
    fn from(s: &ResourceStatus) -> Self {
        let device = |(volume, info): &(drbd_proto::VolumeNr, DeviceInfo)| Device {
            volume: volume.to_wire(),
            state: info.into(),
        };
        let connections = s
            .connections
            .iter()
            .map(|(peer, info, devices)| Connection {
                peer: peer.get(),
                state: info.into(),
                peer_devices: devices
                    .iter()
                    .map(|(volume, info)| PeerDevice {
                        volume: volume.to_wire(),
                        state: info.into(),
                    })
                    .collect(),
            });
        Resource {
            name: s.name.clone(),
            node_id: s.node_id.get(),
            state: (&s.info).into(),
            devices: s.devices.iter().map(device).collect(),
            connections: connections.collect(),
        }
    }
}
