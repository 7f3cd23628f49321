//! Data generations in the life of the resource: when they rotate, what is told to whom (state machine,
//! section 7). The operations on the identifiers themselves are in [`crate::uuid`].

mod admin;
mod generations;
mod receiving;
mod sending;

use alloc::vec::Vec;

use drbd_meta::flags::PeerFlags;
use drbd_meta::superblock::Superblock;
use drbd_proto::{Dagtag, NodeId, Uuid, UuidFlags, VolumeNr};

use crate::bitmap::BitNr;
use crate::effect::LogLevel;
use crate::engine::Engine;
use crate::uuid::{GenIds, Nodes, PeerFacts};

impl GenIds {
    /// From the superblock.
    pub(crate) fn load(me: NodeId, sb: &Superblock) -> Self {
        let entry = |i: usize| sb.peers.get(i).copied().unwrap_or_default();
        GenIds::new(
            me,
            Uuid(sb.current_uuid),
            core::array::from_fn(|i| Uuid(entry(i).bitmap_uuid)),
            core::array::from_fn(|i| Dagtag(entry(i).bitmap_dagtag)),
            core::array::from_fn(|i| Uuid(sb.history.get(i).copied().unwrap_or(0))),
        )
    }

    /// Into the superblock.
    pub(crate) fn store(&self, sb: &mut Superblock) {
        sb.current_uuid = self.current().0;
        for n in NodeId::all() {
            if let Some(entry) = sb.peers.get_mut(n.index()) {
                entry.bitmap_uuid = self.bitmap(n).0;
                entry.bitmap_dagtag = self.dagtag(n).0;
            }
        }
        for (to, from) in sb.history.iter_mut().zip(self.history()) {
            *to = from.0;
        }
    }
}

impl Engine {
    /// What the metadata says about other nodes.
    pub(crate) fn nodes(&self, v: VolumeNr) -> Option<Nodes> {
        let disk = self.disk_ref(v)?;
        let sb = &disk.meta.sb;
        let entry = |n: NodeId| sb.peers.get(n.index()).copied().unwrap_or_default();
        Some(Nodes {
            slots: core::array::from_fn(|i| {
                sb.peers
                    .get(i)
                    .and_then(|p| p.bitmap_index)
                    .map(crate::bitmap::Slot)
            }),
            exist: NodeId::all()
                .filter(|n| entry(*n).flags.contains(PeerFlags::NODE_EXISTS))
                .collect(),
            max_peers: sb.max_peers,
        })
    }

    /// What is known about the configured peers of a volume.
    pub(crate) fn peer_facts(&self, v: VolumeNr) -> Vec<PeerFacts> {
        self.state
            .peers_of(v)
            .map(|(node, _, pd)| PeerFacts {
                node,
                disk: pd.pdisk,
                repl: pd.repl,
                current: self
                    .peer_device(node, v)
                    .map(|k| k.uuids.current)
                    .unwrap_or_default(),
                sync_target: self
                    .peer_device(node, v)
                    .is_some_and(|k| k.uuids.flags.contains(UuidFlags::SYNC_TARGET)),
            })
            .collect()
    }

    /// A fresh random generation.
    pub(crate) fn random_uuid(&mut self) -> Uuid {
        loop {
            let uuid = Uuid(self.rng.next()).identity();
            if !uuid.is_none() && !uuid.is_just_created() && uuid != Uuid::UNKNOWN.identity() {
                return uuid;
            }
        }
    }

    /// Whether both are at the same generation now.
    pub(crate) fn same_generation(&self, peer: NodeId, v: VolumeNr) -> bool {
        self.peer_device(peer, v)
            .is_some_and(|k| k.uuids.current.same(self.current_uuid(v)))
            && !self.current_uuid(v).is_none()
    }

    /// Both have the same data: what the bitmap towards this peer said is over (section 3.8, first row).
    pub(crate) fn drop_bitmap_uuid(&mut self, peer: NodeId, v: VolumeNr) {
        let Some(disk) = self.disk_mut(v) else { return };
        disk.gen_ids.drop_bitmap(peer);
        let bits = self.bitmap_weight(peer, v);
        let compared = self.peer_device(peer, v).map_or(0, |k| k.sent.bits);
        if bits > compared {
            // Writes that ended after the comparison, and that the peer was not sent: a resync brings them (a
            // deviation: the reference forgets them).
            if let Some(known) = self.peer_device_mut(peer, v) {
                known.flags.lacks_reconciled = true;
            }
        } else if bits != 0 {
            self.clear_bitmap(peer, v);
            self.log_at(LogLevel::Info, Some(peer), Some(v), "cleared bitmap");
            self.data_bitmap_writeout(v);
        }
        self.md_touch();
    }

    /// Clears the bits towards a peer that has the same data. If both have just agreed on a larger size, they know
    /// nothing about the new area: its bits stay set.
    pub(crate) fn clear_bitmap(&mut self, peer: NodeId, v: VolumeNr) {
        let grown = self
            .peer_device(peer, v)
            .filter(|k| k.flags.grew || k.flags.peer_grew)
            .map(|k| k.flags.grow_from);
        if let Some(slot) = self.slot_of(peer, v)
            && let Some(disk) = self.disk_mut(v)
        {
            disk.bitmap.clear_all(slot);
            if let Some(from) = grown {
                let first = BitNr(from / disk.bitmap.sectors_per_bit());
                disk.bitmap.set_bits(slot, first..=BitNr(u64::MAX));
            }
        }
    }

    /// Bit 0 of the current UUID goes with the role.
    pub(crate) fn clear_primary_bit(&mut self) {
        for volume in self.volumes.values_mut() {
            if let Some(disk) = volume.disk.as_mut() {
                disk.gen_ids.mark_primary(false);
            }
        }
        self.md_touch();
    }
}
