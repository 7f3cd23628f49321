//! The few questions the control plane asks the data plane beyond its main interface.

use drbd_proto::{Dagtag, DiskState, NodeId, Sector, VolumeNr};

use crate::engine::Engine;
use drbd_meta::flags::PeerFlags;

use crate::quorum::{Voter, count_diskless, count_with_disk};
use crate::state::State;

impl Engine {
    /// Position of this node's own stream of writes.
    pub(crate) fn data_dagtag(&self) -> Dagtag {
        self.data.dagtag
    }

    /// The stream of writes goes on where the metadata last saw it (data path, section 12.1).
    /// Who follows it already learns of the gap; a third node may ask for a read at the new position.
    pub(crate) fn data_raise_dagtag(&mut self, dagtag: Dagtag) {
        if dagtag.0.wrapping_sub(self.data.dagtag.0) as i64 > 0 {
            self.data.dagtag = dagtag;
            for peer in self.connected_nodes().iter() {
                self.announce_dagtag(peer);
            }
        }
    }

    /// Whether received writes are on their way to the disk or not acknowledged by their sender, or wait for their turn,
    /// which comes even if the peer has taken its leave meanwhile.
    pub(crate) fn data_peer_writes_in_flight(&self) -> bool {
        !self.data.peer_requests.is_empty() || self.conns.values().any(|c| c.data.receiver.waits())
    }

    /// Whether no application write of a volume is under way.
    pub(crate) fn data_quiet(&self, v: VolumeNr) -> bool {
        !self
            .data
            .requests
            .values()
            .any(|r| r.volume == v && r.is_write())
    }

    /// A volume exchange begins: sequence numbers start over (wire protocol, section 13.4).
    pub(crate) fn data_exchange_started(&mut self, peer: NodeId) {
        let Some(conn) = self.conns.get_mut(&peer) else {
            return;
        };
        for known in conn.peers.values_mut() {
            known.data.packet_seq = 0;
            known.data.peer_seq = 0;
        }
    }

    /// The disk of a volume is gone.
    pub(crate) fn data_disk_gone(&mut self, v: VolumeNr) {
        self.drop_activity_log(v);
    }

    /// Where a verify starts and stops; sectors.
    pub(crate) fn data_verify_range(
        &mut self,
        peer: NodeId,
        v: VolumeNr,
        start: Option<Sector>,
        stop: Option<Sector>,
    ) {
        self.verify_range(peer, v, start, stop);
    }

    /// Whether blocks of a resync could not be read or written.
    pub(crate) fn data_resync_failed(&self, peer: NodeId, v: VolumeNr) -> bool {
        self.resync_info(peer, v)
            .is_some_and(|info| info.failed != 0)
    }

    /// What quorum depends on, and the result (state machine, section 11).
    pub(crate) fn compute_quorum(&self, state: &State, v: VolumeNr) -> bool {
        let own = state.disk(v);
        let held = self.state.devices.get(&v).is_none_or(|d| d.quorum);
        let client = self.volumes.get(&v).is_some_and(|x| x.options.diskless);
        let voter = |n: NodeId| {
            let known = self.peer_device(n, v);
            let conn = self.conns.get(&n);
            if conn.is_some_and(|c| !c.options.allow_remote_read) {
                return None;
            }
            let entry = self.disk_ref(v).map(|d| d.meta.peer(n)).unwrap_or_default();
            let listed = entry.bitmap_index.is_some()
                || entry.flags.contains(PeerFlags::NODE_EXISTS)
                || entry.flags.contains(PeerFlags::DEVICE_SEEN);
            if own > DiskState::Attaching && !listed && known.is_none() {
                return None;
            }
            let pd = state.pd(n, v).cloned().unwrap_or_default();
            Some(Voter {
                client: match known {
                    Some(k) => !k.options.bitmap,
                    None => !entry.flags.contains(PeerFlags::DEVICE_SEEN),
                },
                tiebreaker: known.is_none_or(|k| k.options.peer_tiebreaker),
                repl: pd.repl,
                disk: pd.pdisk,
                outdated: entry.flags.contains(PeerFlags::OUTDATED),
                member: self.members.contains(n),
                quorate: known.is_some_and(|k| k.flags.quorate),
            })
        };
        let me = self.node_id;
        let votes = if own > DiskState::Attaching {
            let others = NodeId::all().filter(|n| *n != me).filter_map(voter);
            count_with_disk(own, held, others)
        } else {
            let others = self.conns.keys().copied().filter_map(voter);
            count_diskless(own, client, held, others)
        };
        let verdict = votes.verdict(
            self.options.quorum,
            self.options.quorum_min_redundancy,
            held,
        );
        if self.quorum_configured() {
            self.rows.add(&votes.rows());
            self.rows.add(&verdict.rows);
        }
        verdict.tracked
    }
}
