//! When a new generation begins (state machine, sections 7.3 to 7.6).

use alloc::format;
use alloc::vec::Vec;

use drbd_proto::{ConnState, DiskState, NodeId, ReplState, Role, Uuid, UuidFlags, VolumeNr};

use crate::connection::PingWaiter;
use crate::effect::LogLevel;
use crate::engine::Engine;
use crate::state::State;
use crate::state::after::Deferred;

impl Engine {
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

    /// Whether a generation that is due waits for the answers of peers, so that a lost connection must not be
    /// cleaned up yet: its writes would complete.
    pub(crate) fn new_uuid_before_cleanup(&mut self) -> bool {
        let due = self.volumes.values().any(|v| v.flags.new_cur_uuid);
        let primary = self.state.role == Role::Primary;
        let others = !self.connected_nodes().is_empty();
        if !due || !primary || !others || self.state.suspended() || self.data_tl_empty() {
            return false;
        }
        let volumes: Vec<VolumeNr> = self.volumes.keys().copied().collect();
        for v in volumes {
            self.new_uuid_wanted(v);
        }
        !self.new_uuid_pings.is_empty()
    }

    fn make_new_uuids(&mut self) {
        // While I/O is suspended the generation stays due; it is made when I/O resumes.
        if !self.state.suspended() {
            let volumes: Vec<VolumeNr> = self.volumes.keys().copied().collect();
            for v in volumes {
                self.new_uuid_now_if_due(v);
            }
        }
        self.lost_connections_go_on();
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
        let primary = self.state.role == Role::Primary;
        if primary && !self.data_accessible(&self.state, v) {
            // The reference drops it here. A peer that comes back alone would then get writes of a generation
            // that the others take for theirs (a deviation).
            return;
        }
        if let Some(volume) = self.volumes.get_mut(&v) {
            volume.flags.new_cur_uuid = false;
        }
        self.data.recheck = true;
        if !primary {
            return;
        }
        // A DRBD 8 does not follow into a new generation while it is connected: it begins when that peer is
        // lost, as between two of them.
        let stays = |peer| {
            self.state.repl(peer, v) >= ReplState::Established
                && self.state.pdisk(peer, v) >= DiskState::Inconsistent
        };
        if self.legacy_peers().iter().any(stays) {
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
            // Nobody is told to follow. One that is known to lack something is not to pass for a stranger later (a
            // deviation: the reference means only those that are Inconsistent).
            let lacks = |n, pdisk| match pdisk {
                DiskState::Inconsistent => true,
                DiskState::Outdated | DiskState::Consistent => self.bitmap_weight(n, v) != 0,
                _ => false,
            };
            self.state
                .peers_of(v)
                .filter(|(n, _, pd)| pd.repl == ReplState::Established && lacks(*n, pd.pdisk))
                .map(|(n, _, _)| n)
                .collect()
        } else {
            // What is written from now on they get marks of, whether they have said that they are Behind or not
            // (a deviation: the reference waits for that).
            self.state
                .peers_of(v)
                .filter(|(_, _, pd)| pd.repl == ReplState::Ahead)
                .map(|(n, _, _)| n)
                .collect()
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

    /// A Primary of the 8 series that has no disk, or not any more, names no generation for what it writes from now on:
    /// the node that has the data begins one, as soon as it hears of it (section 7.6, 4).
    pub(crate) fn generation_for_diskless_peer(
        &mut self,
        peer: NodeId,
        v: VolumeNr,
        done: &Deferred,
    ) {
        let (old, new) = (&done.old, &done.new);
        let role = |s: &State| s.conns.get(&peer).map_or(Role::Unknown, |c| c.peer_role);
        let (was, is) = (old.pdisk(peer, v), new.pdisk(peer, v));
        let without = is < DiskState::Inconsistent || is == DiskState::Outdated;
        let lost = without
            && matches!(
                was,
                DiskState::Inconsistent | DiskState::Consistent | DiskState::UpToDate
            );
        let promoted = is < DiskState::Inconsistent && role(old) == Role::Secondary;
        if self.is_legacy(peer)
            && (lost || promoted)
            && role(new) == Role::Primary
            && new.cstate(peer) == ConnState::Connected
            && self.state.disk(v) == DiskState::UpToDate
            && self
                .disk_ref(v)
                .is_some_and(|d| d.gen_ids.bitmap(peer).is_none())
        {
            self.new_current_uuid(v, false);
        }
    }

    /// Section 7.4: a Primary without UpToDate disk begins a new generation through its peers.
    fn new_exposed_uuid(&mut self, v: VolumeNr) {
        let Some(volume) = self.volumes.get(&v) else {
            return;
        };
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
            // A sync target, too: it may have reached the generation since it was heard of (a deviation).
            let target = known.uuids.flags.contains(UuidFlags::SYNC_TARGET);
            if absent
                && (known.uuids.current.is_none() && !target || known.uuids.current.same(exposed))
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
        self.generation_unconfirmed(v, exposed, uuid);
        let to: Vec<NodeId> = self.established_peers(v).collect();
        for peer in &to {
            // One that is Consistent yet does not get what is written, and must not pass for one that has it (a
            // deviation).
            let passed_by = self.state.pdisk(*peer, v) == DiskState::Consistent;
            if let Some(known) = self.peer_device_mut(*peer, v)
                && !passed_by
            {
                known.uuids.current = uuid;
            }
        }
        for peer in to {
            self.send_current_uuid(peer, v, uuid);
        }
    }
}
