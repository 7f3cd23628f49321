//! Snapshots of the state for observers.

use alloc::vec::Vec;

use drbd_proto::{DiskState, NodeId, ReplState, UuidFlags, VolumeNr};

use crate::engine::Engine;
use crate::status::{
    ConnectionInfo, DeviceInfo, PeerDeviceInfo, ResourceInfo, ResourceStatus, WaitTimeout,
};

impl Engine {
    /// The resource as a whole.
    pub(crate) fn resource_info(&self) -> ResourceInfo {
        let s = &self.state;
        ResourceInfo {
            role: s.role,
            susp_user: s.susp_user,
            susp_nod: s.susp_nod,
            susp_fen: s.conns.values().any(|c| c.susp_fen),
            susp_quorum: s.susp_quorum,
            susp_uuid: s.susp_uuid,
            fail_io: s.fail_io,
            write_ordering: self.data_write_ordering(),
        }
    }

    /// A connection.
    pub(crate) fn connection_info(&self, peer: NodeId) -> Option<ConnectionInfo> {
        let conn = self.conns.get(&peer)?;
        let state = self.state.conns.get(&peer)?;
        let stats = self.data_conn_stats(peer);
        Some(ConnectionInfo {
            name: conn.name.clone(),
            cstate: state.cstate,
            peer_role: state.peer_role,
            congested: false,
            tls: false,
            ap_in_flight: stats.ap_in_flight,
            rs_in_flight: stats.rs_in_flight,
            paths: conn.paths.clone(),
        })
    }

    /// A volume.
    pub(crate) fn device_info(&self, v: VolumeNr) -> Option<DeviceInfo> {
        let volume = self.volumes.get(&v)?;
        let state = self.state.devices.get(&v)?;
        let stats = self.data_volume_stats(v);
        Some(DeviceInfo {
            minor: volume.minor,
            disk: state.disk,
            client: volume.options.diskless,
            quorum: state.have_quorum,
            open: !volume.openers.is_empty(),
            backing: volume.disk.as_ref().map(|d| d.backing.disk.clone()),
            size: volume.size,
            user_size: volume.disk.as_ref().map_or(0, |d| d.options.size),
            read: stats.read,
            written: stats.written,
            al_writes: stats.al_writes,
            bm_writes: stats.bm_writes,
            upper_pending: stats.upper_pending,
            lower_pending: stats.lower_pending,
            al_suspended: false,
            upper_blocked: self.state.suspended() || self.unstable_for_io(v),
        })
    }

    /// A peer device.
    pub(crate) fn peer_device_info(&self, peer: NodeId, v: VolumeNr) -> Option<PeerDeviceInfo> {
        let known = self.peer_device(peer, v)?;
        let pd = self.state.pd(peer, v)?;
        let stats = self.data_peer_stats(peer, v);
        let bits = self.bitmap_weight(peer, v);
        let per_bit = self
            .disk_ref(v)
            .map_or(8, |d| u64::from(d.meta.sb.block_size.bytes() >> 9));
        let disk = self.state.disk(v);
        let comb_dep = pd.susp_dependency
            || pd.susp_other_c
            || (pd.is_sync_source() && disk <= DiskState::Inconsistent);
        let resyncing = (ReplState::SyncSource..=ReplState::PausedSyncT).contains(&pd.repl);
        Some(PeerDeviceInfo {
            repl: pd.repl,
            peer_disk: pd.pdisk,
            peer_client: !known.options.bitmap,
            resync_susp_user: pd.susp_user,
            resync_susp_peer: pd.susp_peer,
            resync_susp_dependency: comb_dep,
            resync_susp_max_parallel: pd.susp_max_parallel,
            received: stats.received,
            sent: stats.sent,
            out_of_sync: (bits * per_bit).min(self.volumes.get(&v).map_or(u64::MAX, |x| x.size)),
            pending: stats.pending,
            unacked: stats.unacked,
            stable: pd.repl > ReplState::Off && known.uuids.flags.contains(UuidFlags::STABLE),
            wait: match (pd.pdisk, known.flags.degraded) {
                (DiskState::Outdated, _) => WaitTimeout::Outdated,
                (_, true) => WaitTimeout::Degraded,
                _ => WaitTimeout::Normal,
            },
            sync: if resyncing { stats.sync } else { None },
        })
    }

    /// Everything.
    pub(crate) fn build_status(&self) -> ResourceStatus {
        let devices: Vec<_> = self
            .volumes
            .keys()
            .filter_map(|v| Some((*v, self.device_info(*v)?)))
            .collect();
        let connections = self
            .conns
            .keys()
            .filter_map(|n| {
                let volumes = self
                    .volumes
                    .keys()
                    .filter_map(|v| Some((*v, self.peer_device_info(*n, *v)?)))
                    .collect();
                Some((*n, self.connection_info(*n)?, volumes))
            })
            .collect();
        ResourceStatus {
            name: self.name.clone(),
            node_id: self.node_id,
            info: self.resource_info(),
            devices,
            connections,
        }
    }
}
