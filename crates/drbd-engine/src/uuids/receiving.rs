//! What peers say about their identifiers (state machine, sections 7.8 to 7.11).

use alloc::format;
use alloc::vec::Vec;

use drbd_meta::flags::PeerFlags;
use drbd_proto::packet::CurrentUuid;
use drbd_proto::{
    ConnState, DiskState, NodeId, NodeMask, ReplState, Role, Uuid, UuidFlags, VolumeNr,
};

use crate::effect::LogLevel;
use crate::engine::Engine;
use crate::state::change::ChangeFlags;
use crate::status::Object;
use crate::uuid::{Learned, MissedEnd, PeerUuids};

impl Engine {
    /// P_UUIDS110, or P_UUIDS.
    pub(crate) fn uuids_packet(&mut self, peer: NodeId, v: VolumeNr, new: PeerUuids) {
        let connecting = self.state.cstate(peer) < ConnState::Connected;
        let Some(known) = self.peer_device_mut(peer, v) else {
            return self.unknown_volume(peer, v);
        };
        let caught_up = known.uuids.caught_up(&new);
        let stable = |flags: UuidFlags| flags.contains(UuidFlags::STABLE);
        let other_stability = stable(known.uuids.flags) != stable(new.flags);
        known.uuids = new.clone();
        known.flags.uuids_received = true;
        // It was started anew: what it acknowledged may be gone with its memory.
        known.flags.missed |= connecting && !new.flags.contains(UuidFlags::RECONNECT);
        for n in caught_up.iter() {
            // Unless that one went on meanwhile, and has told so (a deviation).
            if let Some(other) = self.peer_device_mut(n, v)
                && other.uuids.current.same(new.current)
            {
                other.uuids.set_bitmap(peer, Uuid::NONE);
            }
        }
        self.note_existing(v, new.existing());
        if new
            .current
            .same(self.volumes.get(&v).map(|x| x.exposed).unwrap_or_default())
        {
            self.peer_confirms(peer, v);
        }
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
        // Whether this node may be promoted depends on it, and whether a disk that waits for a good source waits on.
        if other_stability {
            self.watch_stuck_disks();
            let info = self.peer_device_info(peer, v);
            let volume = v;
            self.publish_objects(
                alloc::vec![Object::PeerDevice { peer, volume, info }],
                false,
            );
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
        if !equal || self.state.disk(v) != DiskState::Inconsistent {
            let keep = self.third_nodes_to_keep(peer, v);
            let Some(disk) = self.disk_mut(v) else { return };
            let learned = disk.gen_ids.learn(peer, new, equal, keep, &peers, &nodes);
            self.apply_learned(peer, v, &learned);
        }
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

    /// Third nodes that are not in sync with this node because the peer says that they are with it.
    fn third_nodes_to_keep(&self, peer: NodeId, v: VolumeNr) -> NodeMask {
        // What this node just gave to the peer, or is about to give, need not be on the third node: equal
        // generations do not say that. Marks that are kept cost a resync at worst.
        let gave = self.bitmap_weight(peer, v) != 0
            || self
                .peer_device(peer, v)
                .is_some_and(|k| k.flags.slot_touched);
        // The same for what a Primary has just written: the peer learns later that the third node has missed it.
        let primary = self.state.role == Role::Primary;
        let kept = |n: &NodeId| gave || primary && self.state.repl(*n, v) < ReplState::Established;
        NodeId::all()
            .filter(kept)
            .fold(NodeMask::EMPTY, NodeMask::with)
    }

    fn apply_learned(&mut self, peer: NodeId, v: VolumeNr, learned: &Learned) {
        if !learned.changed() {
            return;
        }
        let slot = |e: &Engine, n: NodeId| e.slot_of(n, v);
        for n in learned.clear.iter() {
            self.clear_bitmap(n, v);
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
        // A Primary names the generation itself; to one without disk a peer of the 8 series does (section 7.6, 4).
        let follows = self.state.role == Role::Secondary || self.is_legacy(peer);
        let exposed = self.volumes.get(&v).map(|x| x.exposed).unwrap_or_default();
        if established
            && up_to_date
            && follows
            && !new.current.same(exposed)
            && let Some(volume) = self.volumes.get_mut(&v)
        {
            volume.exposed = new.current;
        }
        // It was distrusted for its generation. One that calls itself Consistent serves no read, and follows no
        // generation of this node (a deviation: the reference does not ask).
        let says_so = self
            .peer_device(peer, v)
            .and_then(|k| k.last_state)
            .is_some_and(|s| s.disk == DiskState::UpToDate);
        if established
            && says_so
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
        // One that is about to be a target has not got it either (a deviation: the reference adopts it then, and passes
        // for its source's equal if it never becomes one).
        let stale = self.state.disk(v) < DiskState::UpToDate;
        let targets: Vec<NodeId> = self
            .state
            .peers_of(v)
            .filter(|(_, _, pd)| {
                pd.is_sync_target()
                    || pd.repl == ReplState::Behind
                    || (pd.repl == ReplState::WFBitMapT && stale)
            })
            .map(|(n, _, _)| n)
            .collect();
        for n in targets {
            target = true;
            // The source gets it as well, and what it has is what this node will have.
            if (n == from || !weak.contains(n))
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
        let diskful = known.options.bitmap;
        known.uuids.current = packet.uuid;
        known.uuids.flags = known.uuids.flags.union(UuidFlags::STABLE);
        known.flags.uuids_received = true;
        let weak = packet.weak_nodes.with(peer);
        if has_disk {
            self.note_existing(v, peer.mask());
        }
        let moved_on = self
            .disk_ref(v)
            .is_some_and(|d| d.gen_ids.moved_on(before, packet.uuid))
            && (diskful || !before.is_none());
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
        // A target has what its source has when it is done, also if the source tells of it too late (a deviation).
        let target = self
            .state
            .peers_of(v)
            .any(|(n, _, pd)| pd.is_sync_target() && !weak.contains(n));
        let without_me = packet.weak_nodes.contains(self.node_id);
        if established && primary && target && !without_me {
            self.follow_generation(peer, v, packet.uuid, weak);
        } else if established && self.state.disk(v) == DiskState::UpToDate {
            // It may not have known yet that this disk is UpToDate, and does not write here (a deviation: the reference
            // adopts the generation all the same).
            if primary && !without_me {
                self.follow_generation(peer, v, packet.uuid, weak);
            } else if primary || moved_on {
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
            // What a Secondary without disk has seen says nothing about what the applications here have (a
            // deviation: the reference believes it, and refuses its own disk from then on).
            && (primary || volume.exposed.is_none())
        {
            volume.exposed = packet.uuid;
        }
    }
}
