//! What the administrator does to identifiers: a new generation, a peer forgotten.

use alloc::vec::Vec;

use drbd_meta::flags::PeerFlags;
use drbd_proto::{DiskState, NodeId, ReplState, Uuid, UuidFlags, VolumeNr};

use crate::command::{Reply, RetCode};
use crate::effect::LogLevel;
use crate::engine::Engine;
use crate::state::change::ChangeFlags;

impl Engine {
    /// `new-current-uuid` (section 7.14).
    pub(crate) fn new_current_uuid_command(
        &mut self,
        v: VolumeNr,
        clear_bitmap: bool,
        force_resync: bool,
    ) -> Reply {
        if self.disk_ref(v).is_none() {
            return Reply::new(RetCode::ERR_NO_DISK);
        }
        let just_created = self.current_uuid(v).is_just_created();
        let skip = clear_bitmap || force_resync;
        for (_, _, pd) in self.state.peers_of(v) {
            let fits = pd.repl == ReplState::Off
                || (skip && pd.repl == ReplState::Established && just_created);
            if !fits {
                return Reply::new(RetCode::ERR_CONNECTED);
            }
        }
        if let Some(disk) = self.disk_mut(v) {
            disk.gen_ids.clear_bitmap_uuids();
        }
        self.new_current_uuid(v, true);
        let peers: Vec<NodeId> = self.established_peers(v).collect();
        if clear_bitmap {
            let configured: Vec<NodeId> = self.conns.keys().copied().collect();
            if let Some(disk) = self.disk_mut(v) {
                disk.bitmap.clear_all_slots();
                for n in configured {
                    disk.gen_ids.drop_bitmap(n);
                }
            }
            self.data_bitmap_writeout(v);
            for &peer in &peers {
                self.send_uuids(peer, v, UuidFlags::SKIP_INITIAL_SYNC);
            }
        }
        if skip {
            let _ = self.change(ChangeFlags::HARD, |s| {
                if let Some(d) = s.devices.get_mut(&v) {
                    d.disk = DiskState::UpToDate;
                }
                for c in s.conns.values_mut().filter(|_| clear_bitmap) {
                    if let Some(pd) = c.peers.get_mut(&v) {
                        let diskful =
                            pd.pdisk >= DiskState::Inconsistent && pd.pdisk != DiskState::Unknown;
                        if pd.repl >= ReplState::Established && diskful {
                            pd.pdisk = DiskState::UpToDate;
                        }
                    }
                }
            });
        }
        if force_resync {
            for &peer in &peers {
                self.send_uuids(peer, v, UuidFlags::RESYNC);
                self.send_state(peer, v);
                // The peer compares when it reads that, and so does this node now: nothing comes back.
                self.compare_again(peer, v, false);
            }
        }
        self.md_touch();
        Reply::new(RetCode::NO_ERROR)
    }

    /// UUIDs with SKIP_INITIAL_SYNC reached a node with fresh metadata.
    pub(super) fn skip_initial_sync(&mut self, peer: NodeId, v: VolumeNr, uuid: Uuid) {
        self.log_at(
            LogLevel::Info,
            Some(peer),
            Some(v),
            "Accepted new current UUID, preparing to skip initial sync",
        );
        let configured: Vec<NodeId> = self.conns.keys().copied().collect();
        if let Some(disk) = self.disk_mut(v) {
            disk.bitmap.clear_all_slots();
            disk.gen_ids.set_current(uuid, false);
            for n in configured {
                disk.gen_ids.drop_bitmap(n);
            }
        }
        self.data_bitmap_writeout(v);
        self.md_touch();
        let _ = self.change(ChangeFlags::HARD, |s| {
            if let Some(d) = s.devices.get_mut(&v) {
                d.disk = DiskState::UpToDate;
            }
            if let Some(pd) = s.pd_mut(peer, v) {
                pd.pdisk = DiskState::UpToDate;
            }
        });
        let diskless: Vec<NodeId> = self
            .state
            .peers_of(v)
            .filter(|(_, _, pd)| {
                pd.repl >= ReplState::Established && pd.pdisk == DiskState::Diskless
            })
            .map(|(n, _, _)| n)
            .collect();
        for peer in diskless {
            self.send_uuids(peer, v, UuidFlags::SKIP_INITIAL_SYNC);
        }
    }

    /// `forget-peer` (section 7.14).
    pub(crate) fn forget_peer(&mut self, peer: NodeId) -> Reply {
        if self.conns.contains_key(&peer) || peer == self.node_id {
            return Reply::with(
                RetCode::ERR_INVALID_PEER_NODE_ID,
                "peer is still configured",
            );
        }
        let volumes: Vec<VolumeNr> = self.volumes.keys().copied().collect();
        for v in volumes {
            let slot = self.slot_of(peer, v);
            let Some(nodes) = self.nodes(v) else { continue };
            let free = nodes.free_slot();
            let Some(disk) = self.disk_mut(v) else {
                continue;
            };
            if let Some(entry) = disk.meta.sb.peers.get_mut(peer.index()) {
                entry.flags = PeerFlags::NONE;
                entry.bitmap_index = None;
            }
            if let Some(slot) = slot {
                match free {
                    Some(free) => disk.bitmap.copy(free, slot),
                    None => {
                        disk.bitmap.set_all(slot);
                    }
                }
            }
            let Some(nodes) = self.nodes(v) else { continue };
            if let Some(disk) = self.disk_mut(v) {
                disk.gen_ids.forget(peer, &nodes);
            }
            self.data_bitmap_writeout(v);
        }
        self.md_touch();
        Reply::new(RetCode::NO_ERROR)
    }
}
