//! Data generations in the life of the resource: when they rotate, what is told to whom (state machine,
//! section 7). The operations on the identifiers themselves are in [`crate::uuid`].

use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;

use drbd_meta::flags::PeerFlags;
use drbd_meta::superblock::Superblock;
use drbd_proto::packet::CurrentUuid;
use drbd_proto::{
    ConnState, Dagtag, DiskState, NodeId, NodeMask, Packet, ReplState, Role, Stream, Uuid,
    UuidFlags, VolumeNr,
};

use crate::command::{Reply, RetCode};
use crate::connection::{PingWaiter, SentUuids};
use crate::effect::LogLevel;
use crate::engine::Engine;
use crate::options::OnNoQuorum;
use crate::state::change::ChangeFlags;
use crate::uuid::{Compose, GenIds, Learned, MissedEnd, Nodes, PeerFacts, PeerUuids};

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
        let slot = self.slot_of(peer, v);
        let Some(disk) = self.disk_mut(v) else { return };
        disk.gen_ids.drop_bitmap(peer);
        if let Some(slot) = slot
            && disk.bitmap.weight(slot) != 0
        {
            disk.bitmap.clear_all(slot);
            self.log_at(LogLevel::Info, Some(peer), Some(v), "cleared bitmap");
            self.data_bitmap_writeout(v);
        }
        self.md_touch();
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

    // ----- sending ------------------------------------------------------------------------------------

    /// The flags of a UUIDs packet to a peer, without the reason for sending it (section 7.13).
    pub(crate) fn uuid_flags(&self, peer: NodeId, v: VolumeNr) -> UuidFlags {
        let mut flags = UuidFlags::NONE;
        let Some(volume) = self.volumes.get(&v) else {
            return flags;
        };
        let known = self.peer_device(peer, v);
        if known.is_some_and(|k| k.flags.discard_my_data) {
            flags = flags.union(UuidFlags::DISCARD_MY_DATA);
        }
        if volume.flags.crashed_primary {
            flags = flags.union(UuidFlags::CRASHED_PRIMARY);
        }
        if volume
            .disk
            .as_ref()
            .is_some_and(|d| !d.meta.was_consistent())
        {
            flags = flags.union(UuidFlags::INCONSISTENT);
        }
        if self.stable(&self.state, v).0 {
            flags = flags.union(UuidFlags::STABLE);
        }
        if self.conns.get(&peer).is_some_and(|c| c.flags.reconnect) {
            flags = flags.union(UuidFlags::RECONNECT);
        }
        if volume.flags.primary_lost_quorum {
            flags = flags.union(UuidFlags::PRIMARY_LOST_QUORUM);
        }
        if self.resolved_uuid(peer, v).1 {
            flags = flags.union(UuidFlags::SYNC_TARGET);
        }
        flags
    }

    /// "send UUIDs" (section 1): P_UUIDS110 with a disk, P_CURRENT_UUID without.
    pub(crate) fn send_uuids(&mut self, peer: NodeId, v: VolumeNr, reason: UuidFlags) {
        if !self.conns.get(&peer).is_some_and(|c| c.handshake.done()) {
            return;
        }
        let primary = self.state.role == Role::Primary;
        let weak_if = primary || reason.contains(UuidFlags::NEW_DATAGEN);
        if !self.local_disk_at_least(v, DiskState::Negotiating) {
            let uuid = self.volumes.get(&v).map(|x| x.exposed).unwrap_or_default();
            if let Some(known) = self.peer_device_mut(peer, v) {
                known.sent = SentUuids {
                    current: uuid,
                    ..SentUuids::default()
                };
            }
            return self.send_current_uuid(peer, v, uuid);
        }
        let flags = self.uuid_flags(peer, v).union(reason);
        let (stable, authoritative) = self.stable(&self.state, v);
        let node_mask = match (stable, weak_if) {
            (true, true) => self.weak_nodes(v),
            (true, false) => NodeMask::EMPTY,
            (false, _) => authoritative,
        };
        let (resolved, _) = self.resolved_uuid(peer, v);
        let dirty_bits = self.bitmap_weight(peer, v);
        let pv = self.conns.get(&peer).map_or(0, |c| u32::from(c.apv()));
        let peers = self.peer_facts(v);
        let (Some(nodes), Some(disk)) = (self.nodes(v), self.disk_ref(v)) else {
            return;
        };
        let compose = Compose {
            to: peer,
            pv,
            resolved,
            dirty_bits,
            flags,
            node_mask,
        };
        let packet = Packet::Uuids110(Box::new(disk.gen_ids.compose(&compose, &peers, &nodes)));
        let sent = SentUuids {
            current: resolved,
            bitmap: disk.gen_ids.bitmap(peer),
            bits: dirty_bits,
            flags,
        };
        if let Some(known) = self.peer_device_mut(peer, v) {
            known.sent = sent;
        }
        let packet = if self.is_legacy(peer) {
            self.legacy_uuids(&compose, v).unwrap_or(packet)
        } else {
            packet
        };
        self.send(peer, Stream::Data, v, packet);
    }

    /// "send UUIDs" to all connected peers but one.
    fn send_uuids_others(&mut self, v: VolumeNr, but: NodeId) {
        let peers: Vec<NodeId> = self.established_peers(v).filter(|n| *n != but).collect();
        for peer in peers {
            self.send_uuids(peer, v, UuidFlags::NONE);
        }
    }

    /// Peers with which this volume replicates.
    pub(crate) fn established_peers(&self, v: VolumeNr) -> impl Iterator<Item = NodeId> + use<> {
        let peers: Vec<NodeId> = self
            .state
            .peers_of(v)
            .filter(|(_, _, pd)| pd.repl >= ReplState::Established)
            .map(|(n, _, _)| n)
            .collect();
        peers.into_iter()
    }

    // ----- new generations ----------------------------------------------------------------------------

    /// A request found that a new generation is due: all peers are asked whether they are still there,
    /// then it is made (section 7.7).
    pub(crate) fn new_uuid_wanted(&mut self, _v: VolumeNr) {
        if !self.new_uuid_pings.is_empty() {
            return;
        }
        let peers = self.connected_nodes();
        if peers.is_empty() {
            return self.make_new_uuids();
        }
        self.new_uuid_pings = peers;
        for peer in peers.iter() {
            self.ping_for(peer, PingWaiter::NewUuid);
        }
    }

    /// A peer answered, or is gone.
    pub(crate) fn new_uuid_ping(&mut self, peer: NodeId) {
        if !self.new_uuid_pings.contains(peer) {
            return;
        }
        self.new_uuid_pings.remove(peer);
        if self.new_uuid_pings.is_empty() {
            self.make_new_uuids();
        }
    }

    fn make_new_uuids(&mut self) {
        let volumes: Vec<VolumeNr> = self.volumes.keys().copied().collect();
        for v in volumes {
            self.new_uuid_now_if_due(v);
        }
    }

    /// Makes a new generation that is due.
    pub(crate) fn new_uuid_now_if_due(&mut self, v: VolumeNr) {
        let Some(volume) = self.volumes.get_mut(&v) else {
            return;
        };
        if !volume.flags.new_cur_uuid {
            return;
        }
        let lost_quorum = volume.flags.primary_lost_quorum;
        let quorum = self.state.devices.get(&v).is_none_or(|d| d.have_quorum);
        if lost_quorum && !quorum {
            // Requests wait or fail; the generation is made when quorum is back.
            return;
        }
        if let Some(volume) = self.volumes.get_mut(&v) {
            volume.flags.new_cur_uuid = false;
        }
        self.data.recheck = true;
        if self.state.role != Role::Primary || !self.data_accessible(&self.state, v) {
            return;
        }
        if self.state.disk(v) == DiskState::UpToDate {
            self.new_current_uuid(v, false);
        } else {
            self.new_exposed_uuid(v);
        }
    }

    /// Section 7.3: a node with UpToDate disk begins a new generation.
    pub(crate) fn new_current_uuid(&mut self, v: VolumeNr, forced: bool) {
        let weak = if forced {
            self.state
                .peers_of(v)
                .filter(|(_, _, pd)| {
                    pd.pdisk == DiskState::Inconsistent && pd.repl == ReplState::Established
                })
                .map(|(n, _, _)| n)
                .collect()
        } else {
            NodeMask::EMPTY
        };
        let peers = self.peer_facts(v);
        let Some(nodes) = self.nodes(v) else { return };
        let dagtag = self.data_dagtag();
        let primary = self.state.role == Role::Primary;
        let mut rng = self.rng.clone();
        let mut random = || Uuid(rng.next()).identity();
        let Some(disk) = self.disk_mut(v) else { return };
        let made = disk
            .gen_ids
            .new_current(weak, dagtag, primary, &peers, &nodes, &mut random);
        let current = disk.gen_ids.current();
        self.rng = rng;
        if made.is_none() {
            return;
        }
        if let Some(volume) = self.volumes.get_mut(&v) {
            volume.exposed = current;
        }
        self.log_at(
            LogLevel::Info,
            None,
            Some(v),
            format!(
                "new current UUID: {current} weak: {:016X}",
                self.weak_nodes(v).0
            ),
        );
        self.data_close_epoch();
        self.md_touch();
        let reason = if forced {
            UuidFlags::NONE
        } else {
            UuidFlags::NEW_DATAGEN
        };
        let to: Vec<NodeId> = self.established_peers(v).collect();
        if !forced {
            for peer in to {
                self.send_uuids(peer, v, reason);
            }
        }
    }

    /// Section 7.4: a Primary without UpToDate disk begins a new generation through its peers.
    fn new_exposed_uuid(&mut self, v: VolumeNr) {
        let Some(volume) = self.volumes.get(&v) else {
            return;
        };
        if volume.flags.exposed_unconfirmed && self.options.on_no_quorum != OnNoQuorum::IoError {
            return;
        }
        let exposed = volume.exposed;
        let client = volume.options.diskless;
        let me = self.node_id;
        let configured: Vec<(NodeId, bool)> = self
            .conns
            .iter()
            .filter_map(|(n, c)| c.peers.get(&v).map(|k| (*n, k.options.bitmap)))
            .collect();
        let mut due = false;
        for (n, _, pd) in self.state.peers_of(v) {
            let Some(known) = self.peer_device(n, v) else {
                continue;
            };
            if pd.repl >= ReplState::Established && pd.pdisk == DiskState::UpToDate {
                let is_client = |m: NodeId| configured.iter().any(|(c, bitmap)| *c == m && !bitmap);
                let zero = NodeId::all().any(|m| {
                    m != n
                        && (m != me || !client)
                        && !is_client(m)
                        && known.uuids.existing().contains(m)
                        && known
                            .uuids
                            .bitmap(m)
                            // Marks since this very generation: the peer never met that node, and its
                            // disk would come back as good (a deviation).
                            .is_some_and(|u| u.is_none() || u.same(exposed))
                });
                let none_tracked = client
                    && configured.iter().all(|(m, _)| {
                        *m == n || known.uuids.bitmap(*m).is_none_or(|u| u.is_none())
                    });
                due |= zero || none_tracked;
            }
            let absent = pd.repl < ReplState::Established
                && pd.pdisk >= DiskState::Inconsistent
                && pd.pdisk <= DiskState::Unknown;
            if absent
                && !known.uuids.flags.contains(UuidFlags::SYNC_TARGET)
                && (known.uuids.current.is_none() || known.uuids.current.same(exposed))
            {
                due = true;
            }
        }
        if !due {
            return;
        }
        let uuid = self.random_uuid().with_primary(true);
        self.data_close_epoch();
        if let Some(volume) = self.volumes.get_mut(&v) {
            volume.exposed = uuid;
            volume.flags.exposed_without_disk = self.state.disk(v) == DiskState::Diskless;
        }
        self.log_at(
            LogLevel::Info,
            None,
            Some(v),
            format!("new exposed UUID: {uuid}"),
        );
        let to: Vec<NodeId> = self.established_peers(v).collect();
        for peer in to {
            if let Some(known) = self.peer_device_mut(peer, v) {
                known.uuids.current = uuid;
            }
            self.send_current_uuid(peer, v, uuid);
        }
    }

    // ----- receiving ----------------------------------------------------------------------------------

    /// P_UUIDS110, or P_UUIDS.
    pub(crate) fn uuids_packet(&mut self, peer: NodeId, v: VolumeNr, new: PeerUuids) {
        let Some(known) = self.peer_device_mut(peer, v) else {
            return self.unknown_volume(peer, v);
        };
        let caught_up = known.uuids.caught_up(&new);
        known.uuids = new.clone();
        known.flags.uuids_received = true;
        for n in caught_up.iter() {
            if let Some(other) = self.peer_device_mut(n, v) {
                other.uuids.set_bitmap(peer, Uuid::NONE);
            }
        }
        self.note_existing(v, new.existing());
        // A disk that is still being attached, or on its way out, follows nobody: what comes now is not on it.
        if self.local_disk_at_least(v, DiskState::Inconsistent) {
            self.uuids_with_disk(peer, v, &new);
        } else {
            self.uuids_without_disk(peer, v, &new);
        }
        // A Primary names weak nodes: a resync from one of them would repair with old data (section 9.7).
        if new.flags.contains(UuidFlags::STABLE) && self.peer_is_primary(peer) {
            self.abort_resync_from(v, new.node_mask);
        }
        self.judge_source(v);
        let _ = self.change(ChangeFlags::RECALC, |_| {});
        if let Some(known) = self.peer_device_mut(peer, v) {
            known.uuids.flags = known.uuids.flags.minus(UuidFlags::GOT_STABLE);
        }
    }

    /// Nodes that a peer reports exist; this node's own entry among them (section 7.13).
    fn note_existing(&mut self, v: VolumeNr, existing: NodeMask) {
        let mut changed = false;
        if let Some(disk) = self.disk_mut(v) {
            for n in existing.iter() {
                if let Some(entry) = disk.meta.sb.peers.get_mut(n.index())
                    && entry.bitmap_index.is_none()
                    && !entry.flags.contains(PeerFlags::NODE_EXISTS)
                {
                    entry.flags.insert(PeerFlags::NODE_EXISTS);
                    changed = true;
                }
            }
        }
        if changed {
            self.md_touch();
        }
    }

    fn uuids_with_disk(&mut self, peer: NodeId, v: VolumeNr, new: &PeerUuids) {
        let repl = self.state.repl(peer, v);
        let own = self.current_uuid(v);
        let connected = self.state.cstate(peer) == ConnState::Connected;
        if new.flags.contains(UuidFlags::SKIP_INITIAL_SYNC)
            && repl == ReplState::Established
            && own.is_just_created()
        {
            return self.skip_initial_sync(peer, v, new.current);
        }
        if new.flags.contains(UuidFlags::NEW_DATAGEN) && connected {
            self.follow_generation(peer, v, new.current, new.node_mask);
        }
        let (resolved, sync_target) = self.resolved_uuid(peer, v);
        let equal = new.current.same(resolved)
            && !sync_target
            && !new.flags.contains(UuidFlags::SYNC_TARGET);
        let pv = self.conns.get(&peer).map_or(0, |c| u32::from(c.apv()));
        let peers = self.peer_facts(v);
        let Some(nodes) = self.nodes(v) else { return };
        if repl < ReplState::Established && equal {
            let sent = self
                .peer_device(peer, v)
                .map(|k| k.sent)
                .unwrap_or_default();
            let bits = self.bitmap_weight(peer, v);
            let Some(disk) = self.disk_mut(v) else { return };
            let missed = disk.gen_ids.missed_end(peer, new, sent.bitmap, bits, pv);
            self.note_missed_end(peer, v, missed);
            return;
        }
        // A disk with gaps is not at its generation, whatever the identifiers say: its marks stay (a deviation).
        if equal && self.state.disk(v) == DiskState::Inconsistent {
            return;
        }
        let Some(disk) = self.disk_mut(v) else { return };
        let learned = disk.gen_ids.learn(peer, new, equal, &peers, &nodes);
        self.apply_learned(peer, v, &learned);
        if connected {
            self.offers(peer, v, new);
        }
    }

    fn note_missed_end(&mut self, peer: NodeId, v: VolumeNr, missed: MissedEnd) {
        let (text, source, by_peer) = match missed {
            MissedEnd::None => return,
            MissedEnd::ByPeer { flag } => ("Peer missed end of resync", false, flag),
            MissedEnd::ByMe { flag, cleared } => {
                if cleared {
                    self.md_touch();
                    if let Some(known) = self.peer_device_mut(peer, v) {
                        known.sent.bitmap = Uuid::NONE;
                    }
                }
                ("Missed end of resync as sync-source", flag, false)
            }
        };
        if let Some(known) = self.peer_device_mut(peer, v) {
            known.flags.source_missed_end = source;
            known.flags.peer_missed_end = by_peer;
        }
        self.log_at(LogLevel::Info, Some(peer), Some(v), text);
    }

    fn apply_learned(&mut self, peer: NodeId, v: VolumeNr, learned: &Learned) {
        if !learned.changed() {
            return;
        }
        let slot = |e: &Engine, n: NodeId| e.slot_of(n, v);
        // What this node just gave to the peer need not be on the third node: equal generations do not say
        // that. Marks that are kept cost a resync at worst (a deviation).
        let gave = self
            .peer_device(peer, v)
            .is_some_and(|k| k.flags.slot_touched);
        for n in learned.clear.iter().filter(|_| !gave) {
            if let (Some(slot), Some(disk)) = (slot(self, n), self.disk_mut(v)) {
                disk.bitmap.clear_all(slot);
            }
        }
        for &(from, to) in &learned.copy {
            let (a, b) = (slot(self, from), slot(self, to));
            // A resync of that node has taken marks away which the other one needs (invariant M6; a deviation).
            if self
                .peer_device(from, v)
                .is_some_and(|k| k.flags.slot_touched)
            {
                self.set_all_bits(v, to.mask());
                continue;
            }
            if let (Some(a), Some(b), Some(disk)) = (a, b, self.disk_mut(v)) {
                disk.bitmap.copy(a, b);
                self.log_at(
                    LogLevel::Info,
                    None,
                    Some(v),
                    format!("node {to} synced up to node {from}: copying its bitmap slot"),
                );
            }
        }
        self.data_bitmap_writeout(v);
        self.md_touch();
        if learned.copy.is_empty() {
            self.send_uuids_others(v, peer);
        } else {
            let peers: Vec<NodeId> = self.established_peers(v).collect();
            for peer in peers {
                self.send_uuids(peer, v, UuidFlags::NONE);
            }
        }
    }

    fn uuids_without_disk(&mut self, peer: NodeId, v: VolumeNr, new: &PeerUuids) {
        let established = self.state.repl(peer, v) >= ReplState::Established;
        let up_to_date = self.state.pdisk(peer, v) == DiskState::UpToDate;
        let secondary = self.state.role == Role::Secondary;
        let exposed = self.volumes.get(&v).map(|x| x.exposed).unwrap_or_default();
        if established
            && up_to_date
            && secondary
            && !new.current.same(exposed)
            && let Some(volume) = self.volumes.get_mut(&v)
        {
            volume.exposed = new.current;
        }
        if established
            && self.state.pdisk(peer, v) == DiskState::Consistent
            && new.current.same(exposed)
        {
            let _ = self.change(ChangeFlags::HARD, |s| {
                if let Some(pd) = s.pd_mut(peer, v) {
                    pd.pdisk = DiskState::UpToDate;
                }
            });
        }
    }

    /// Section 7.8: a peer began a new generation.
    fn follow_generation(&mut self, from: NodeId, v: VolumeNr, uuid: Uuid, weak: NodeMask) {
        let mut target = false;
        let targets: Vec<NodeId> = self
            .state
            .peers_of(v)
            .filter(|(_, _, pd)| pd.is_sync_target() || pd.repl == ReplState::Behind)
            .map(|(n, _, _)| n)
            .collect();
        for n in targets {
            target = true;
            if n == from
                && let Some(known) = self.peer_device_mut(n, v)
            {
                known.uuids.current = uuid;
            }
        }
        let mut tell: NodeMask = self
            .state
            .peers_of(v)
            .filter(|(_, _, pd)| {
                matches!(
                    pd.repl,
                    ReplState::WFBitMapS
                        | ReplState::SyncSource
                        | ReplState::PausedSyncS
                        | ReplState::Established
                ) || pd.pdisk == DiskState::Diskless
            })
            .map(|(n, _, _)| n)
            .collect();
        if !target {
            let up_to_date = self.state.disk(v) == DiskState::UpToDate;
            let dagtag = self
                .conns
                .get(&from)
                .map(|c| c.last_dagtag)
                .unwrap_or_default();
            let primary = self.state.role == Role::Primary;
            let peers = self.peer_facts(v);
            let Some(nodes) = self.nodes(v) else { return };
            let mut rng = self.rng.clone();
            let mut random = || Uuid(rng.next()).identity();
            let Some(disk) = self.disk_mut(v) else { return };
            let rotated = disk.gen_ids.follow(
                uuid,
                weak,
                dagtag,
                up_to_date,
                primary,
                &peers,
                &nodes,
                &mut random,
            );
            let current = disk.gen_ids.current();
            self.rng = rng;
            tell |= rotated;
            if up_to_date && let Some(volume) = self.volumes.get_mut(&v) {
                volume.exposed = current;
            }
            self.md_touch();
        }
        let to: Vec<NodeId> = self
            .connected_nodes()
            .iter()
            .filter(|n| tell.contains(*n))
            .collect();
        for peer in to {
            self.send_uuids(peer, v, UuidFlags::NONE);
        }
    }

    /// P_CURRENT_UUID (section 7.11).
    pub(crate) fn current_uuid_packet(&mut self, peer: NodeId, v: VolumeNr, packet: &CurrentUuid) {
        let own = self.current_uuid(v);
        let has_disk = self.local_disk_at_least(v, DiskState::Inconsistent);
        let Some(known) = self.peer_device_mut(peer, v) else {
            return self.unknown_volume(peer, v);
        };
        let before = known.uuids.current;
        known.uuids.current = packet.uuid;
        known.uuids.flags = known.uuids.flags.union(UuidFlags::STABLE);
        known.flags.uuids_received = true;
        let weak = packet.weak_nodes.with(peer);
        if has_disk {
            self.note_existing(v, peer.mask());
        }
        let moved_on = self
            .disk_ref(v)
            .is_some_and(|d| d.gen_ids.moved_on(before, packet.uuid));
        let primary = self.peer_is_primary(peer);
        if primary {
            self.abort_resync_from(v, weak);
        }
        if self.state.cstate(peer) < ConnState::Connected {
            if let Some(known) = self.peer_device_mut(peer, v) {
                known.moved_on = moved_on && has_disk;
            }
            return;
        }
        if packet.uuid == own {
            return;
        }
        let established = self.state.repl(peer, v) >= ReplState::Established;
        if established && self.state.disk(v) == DiskState::UpToDate {
            if primary {
                self.follow_generation(peer, v, packet.uuid, weak);
            } else if moved_on {
                if self.twopc.active.is_some() {
                    if let Some(volume) = self.volumes.get_mut(&v) {
                        volume.flags.outdate_on_commit = true;
                    }
                } else {
                    let _ = self.change(ChangeFlags::HARD, |s| {
                        if let Some(d) = s.devices.get_mut(&v) {
                            d.disk = DiskState::Outdated;
                        }
                    });
                }
            }
        } else if !has_disk
            && self.state.role == Role::Primary
            && let Some(volume) = self.volumes.get_mut(&v)
        {
            volume.exposed = packet.uuid;
        }
    }

    // ----- administration -----------------------------------------------------------------------------

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
                if let Some(known) = self.peer_device_mut(peer, v) {
                    known.flags.consider_resync = true;
                }
                self.send_uuids(peer, v, UuidFlags::RESYNC);
                self.send_state(peer, v);
            }
        }
        self.md_touch();
        Reply::new(RetCode::NO_ERROR)
    }

    /// UUIDs with SKIP_INITIAL_SYNC reached a node with fresh metadata.
    fn skip_initial_sync(&mut self, peer: NodeId, v: VolumeNr, uuid: Uuid) {
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
