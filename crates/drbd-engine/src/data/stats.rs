//! Counters of the data plane for status output (CLI, section 13).

use drbd_proto::{NodeId, VolumeNr};

use crate::data::request::{Local, Stage};
use crate::engine::Engine;
use crate::status::SyncInfo;

/// Counters of a volume; amounts in sectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct VolumeStats {
    /// Read from the own disk.
    pub read: u64,
    /// Written to the own disk.
    pub written: u64,
    /// Activity log transactions written.
    pub al_writes: u64,
    /// Bitmap pages written.
    pub bm_writes: u64,
    /// Application requests not completed.
    pub upper_pending: u32,
    /// Requests on the own disk.
    pub lower_pending: u32,
}

/// Counters of a peer device; amounts in sectors.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(crate) struct PeerStats {
    /// Received from the peer.
    pub received: u64,
    /// Sent to the peer.
    pub sent: u64,
    /// Out of sync.
    pub out_of_sync: u64,
    /// Requests that wait for an answer of the peer.
    pub pending: u32,
    /// Requests of the peer that are not answered.
    pub unacked: u32,
    /// A resync or verify under way.
    pub sync: Option<SyncInfo>,
}

/// Counters of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct ConnStats {
    /// Sectors of writes that the peer has not confirmed.
    pub ap_in_flight: u64,
    /// Sectors of resync data that the peer has not acknowledged.
    pub rs_in_flight: u64,
}

impl Engine {
    /// Counters of a volume.
    pub(crate) fn data_volume_stats(&self, volume: VolumeNr) -> VolumeStats {
        let Some(v) = self.volumes.get(&volume) else {
            return VolumeStats::default();
        };
        let mut stats = VolumeStats {
            read: v.data.read,
            written: v.data.written,
            al_writes: v.data.al_writes,
            bm_writes: v.data.bm_writes,
            ..VolumeStats::default()
        };
        for req in self.data.requests.values().filter(|r| r.volume == volume) {
            stats.upper_pending += u32::from(!req.completed);
            stats.lower_pending += u32::from(req.local == Local::Pending);
        }
        for req in self
            .data
            .peer_requests
            .values()
            .filter(|r| r.volume == volume)
        {
            stats.lower_pending += u32::from(!req.is_written());
        }
        stats
    }

    /// Counters of a peer device.
    pub(crate) fn data_peer_stats(&self, peer: NodeId, volume: VolumeNr) -> PeerStats {
        let Some(pd) = self.conns.get(&peer).and_then(|c| c.peers.get(&volume)) else {
            return PeerStats::default();
        };
        let disk = self.volumes.get(&volume).and_then(|v| v.disk.as_ref());
        let bits = match (disk, self.slot_of(peer, volume)) {
            (Some(disk), Some(slot)) => {
                let bitmap = &disk.bitmap;
                (bitmap.weight(slot) * bitmap.sectors_per_bit()).min(bitmap.capacity())
            }
            _ => 0,
        };
        let pending = self
            .data
            .requests
            .values()
            .filter(|r| r.volume == volume && r.stage == Stage::Logged && r.pending.contains(peer))
            .count();
        let unacked = self
            .data
            .peer_requests
            .values()
            .filter(|r| r.volume == volume && r.peer == peer && !r.is_written() && !r.orphan)
            .count();
        PeerStats {
            received: pd.data.received,
            sent: pd.data.sent,
            out_of_sync: bits,
            pending: u32::try_from(pending).unwrap_or(u32::MAX)
                + self.resync_pending(peer, volume) as u32,
            unacked: u32::try_from(unacked).unwrap_or(u32::MAX) + self.resync_unacked(peer, volume),
            sync: self.resync_info(peer, volume),
        }
    }

    /// Counters of a connection.
    pub(crate) fn data_conn_stats(&self, peer: NodeId) -> ConnStats {
        let Some(conn) = self.conns.get(&peer) else {
            return ConnStats::default();
        };
        ConnStats {
            ap_in_flight: conn.data.ap_in_flight,
            rs_in_flight: conn.data.rs_in_flight,
        }
    }
}
