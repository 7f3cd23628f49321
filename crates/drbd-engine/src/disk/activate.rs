//! The end of an attach: what the metadata says becomes the state of the device, with the consent of the cluster.

use alloc::format;
use alloc::vec::Vec;

use drbd_meta::flags::{LocalFlags, PeerFlags};
use drbd_proto::{ConnState, Dagtag, DiskState, NodeId, Role, VolumeNr};

use crate::bitmap::Slot;
use crate::command::{Reply, RetCode};
use crate::connection::Negotiation;
use crate::effect::{Effect, LogLevel};
use crate::engine::Engine;
use crate::state::change::ChangeFlags;
use crate::twopc::{ChangeKind, Requester};

use super::Step;

impl Engine {
    /// Everything is read: the disk can be used once its first superblock is written.
    pub(super) fn attach_ready(&mut self, v: VolumeNr) {
        let Some(a) = self.attaching.get_mut(&v) else {
            return;
        };
        a.step = Step::Final;
        let effective = a.effective_size;
        let suspended_primary = self.state.role == Role::Primary && self.state.suspended();
        let quorum = self.state.devices.get(&v).is_none_or(|d| d.quorum);
        let me = self.node_id;
        let primary = self.state.role == Role::Primary;
        let Some(volume) = self.volumes.get_mut(&v) else {
            return;
        };
        // The ring is initialised; a torn first block is harmless in its first place only.
        volume.data.al_tr_number = 0;
        let Some(disk) = volume.disk.as_mut() else {
            return;
        };
        let flags = disk.meta.sb.flags;
        let exposes = !volume.exposed.is_none() || volume.flags.new_cur_uuid;
        volume.flags.crashed_primary = flags.contains(LocalFlags::CRASHED_PRIMARY)
            && !suspended_primary
            && !(exposes && primary);
        volume.flags.primary_lost_quorum =
            flags.contains(LocalFlags::PRIMARY_LOST_QUORUM) && !quorum;
        volume.flags.restore_quorum = flags.contains(LocalFlags::HAVE_QUORUM)
            && flags.contains(LocalFlags::WAS_UP_TO_DATE)
            && disk.meta.sb.members == me.mask().0;
        let mut dagtag = Dagtag(0);
        for n in NodeId::all() {
            if !disk.gen_ids.bitmap(n).is_none() && disk.gen_ids.dagtag(n).0 > dagtag.0 {
                dagtag = disk.gen_ids.dagtag(n);
            }
        }
        if !primary {
            disk.gen_ids.mark_primary(false);
        }
        // Without an activity log nothing tells which blocks were written lately (data path, section 13.6).
        // As the metadata has it: a Primary whose disk failed attaches it again without having crashed.
        let no_log =
            flags.contains(LocalFlags::PRIMARY_IND) && flags.contains(LocalFlags::AL_DISABLED);
        // A third node can lack what this one got, although it was connected to it: it may not have seen the
        // Primary, which may be a client.
        let others = disk.meta.sb.peers.iter();
        let others = others.filter(|p| p.bitmap_index.is_some()).count();
        let third = others > 1 || self.conns.len() > 1;
        let mark_all = no_log && (third || flags.contains(LocalFlags::CRASHED_PRIMARY));
        let mut full = Vec::new();
        let mut unseen = Vec::new();
        let mut alone = Vec::new();
        for (n, entry) in NodeId::all().zip(disk.meta.sb.peers.iter()) {
            if entry.flags.contains(PeerFlags::FULL_SYNC) {
                full.push(n);
            }
            if !entry.flags.contains(PeerFlags::CONNECTED) {
                alone.push(n);
            }
            // A Secondary got writes that this peer did not; the marks were in memory (a deviation: the
            // reference forgets them). A peer that was connected may have been a Primary without disk.
            let lacks = !disk.gen_ids.bitmap(n).is_none();
            if no_log && (lacks || !entry.flags.contains(PeerFlags::CONNECTED)) {
                unseen.extend(entry.bitmap_index.map(Slot));
            }
        }
        if no_log {
            let used = |slot: Slot| {
                let mut peers = disk.meta.sb.peers.iter();
                peers.any(|p| p.bitmap_index == Some(slot.0))
            };
            unseen.extend(disk.bitmap.all_slots().filter(|slot| !used(*slot)));
        }
        let degraded = !primary && flags.contains(LocalFlags::PRIMARY_IND);
        disk.meta.sb.al_nr_extents = disk.options.al_extents;
        let fresh = effective == 0;
        let al_disabled = !disk.options.al_updates;
        disk.meta.sb.flags.set(LocalFlags::AL_DISABLED, al_disabled);
        disk.loaded = true;
        for n in alone.into_iter().filter(|_| degraded) {
            if let Some(known) = self.peer_device_mut(n, v) {
                known.flags.degraded = true;
            }
        }
        self.data_raise_dagtag(dagtag);
        self.data_attached(v);
        if let Err(text) = self.size_at_attach(v, fresh) {
            return self.attach_failed(v, RetCode::ERR_IMPLICIT_SHRINK, &text);
        }
        if no_log {
            if let Some(disk) = self.disk_mut(v) {
                if mark_all {
                    disk.bitmap.set_all_slots();
                } else {
                    for slot in unseen {
                        disk.bitmap.set_all(slot);
                    }
                }
            }
            self.data_bitmap_writeout(v);
        }
        for n in full {
            self.set_all_bits(v, n.mask());
        }
        // AL_CLEAN is gone from the disk before the disk is used (metadata, section 4.2).
        if let Some(disk) = self.disk_mut(v) {
            disk.meta.sb.flags.remove(LocalFlags::AL_CLEAN);
        }
        self.md_touch();
        self.write_dirty_superblocks();
    }

    /// The first superblock of this attach is on the disk.
    pub(crate) fn attach_superblock_written(&mut self, v: VolumeNr) {
        if self
            .attaching
            .get(&v)
            .is_some_and(|a| a.step == Step::Final)
        {
            self.attach_final(v);
        }
    }

    /// Whether a step of an attach is under way: until it ends, the disk is not let go of.
    pub(super) fn attach_under_way(&self, v: VolumeNr) -> bool {
        let step = self.attaching.get(&v).map(|a| a.step);
        step.is_some_and(|step| step != Step::Negotiating)
    }

    /// The disk is being detached by force while it is attached: there is no next step. Whoever attaches it learns that
    /// when it has been let go of.
    pub(super) fn attach_ends_early(&mut self, v: VolumeNr) -> bool {
        let early = self.state.disk(v) != DiskState::Attaching;
        if early && let Some(a) = self.attaching.get_mut(&v) {
            a.step = Step::Negotiating;
        }
        early
    }

    /// The last step: Negotiating if a connected peer has a disk, else the state of the metadata.
    fn attach_final(&mut self, v: VolumeNr) {
        if self.attach_ends_early(v) {
            return;
        }
        let current = self.current_uuid(v);
        let exposed = self.volumes.get(&v).map(|x| x.exposed).unwrap_or_default();
        let peer_has_data = self
            .state
            .peers_of(v)
            .any(|(_, _, pd)| pd.pdisk == DiskState::UpToDate);
        if self.state.role == Role::Primary
            && !exposed.is_none()
            && !exposed.same(current)
            && !peer_has_data
        {
            let text = "this disk does not have the data the Primary works with";
            return self.attach_failed(v, RetCode::ERR_DATA_NOT_CURRENT, text);
        }
        let ask = self.may_negotiate(v);
        for conn in self.conns.values_mut() {
            if let Some(known) = conn.peers.get_mut(&v) {
                known.negotiation = Negotiation::NotYet;
            }
        }
        if let Some(a) = self.attaching.get_mut(&v) {
            a.step = Step::Negotiating;
        }
        if ask {
            return self.twopc_request(ChangeKind::Attach { volume: v }, Requester::Attach);
        }
        self.attach_without_peers(v);
    }

    /// Whether a connected peer has a disk to compare with.
    pub(crate) fn may_negotiate(&self, v: VolumeNr) -> bool {
        self.state.peers_of(v).any(|(_, c, pd)| {
            c.cstate == ConnState::Connected
                && pd.pdisk > DiskState::Diskless
                && pd.pdisk != DiskState::Unknown
        })
    }

    fn attach_without_peers(&mut self, v: VolumeNr) {
        let mut disk = self.disk_state_from_md(&self.state, v);
        let newer = self.saw_newer(v);
        if newer && disk > DiskState::Outdated {
            let text = "this disk lacks what peers have got while it was detached";
            self.log_at(LogLevel::Warn, None, Some(v), text);
            disk = DiskState::Outdated;
        }
        // That was noted before the disk was detached.
        let still = |n: &NodeId| {
            let exposed = self.volumes.get(&v).map(|x| x.exposed).unwrap_or_default();
            let known = self.peer_device(*n, v);
            !(newer && known.is_some_and(|k| k.uuids.current.same(exposed)))
        };
        let outdated: Vec<NodeId> = self
            .conns
            .keys()
            .copied()
            .filter(|n| {
                self.disk_ref(v)
                    .is_some_and(|d| d.meta.peer(*n).flags.contains(PeerFlags::OUTDATED))
            })
            .filter(still)
            .collect();
        let result = self.change(ChangeFlags::HARD, |s| {
            if let Some(d) = s.devices.get_mut(&v) {
                d.disk = disk;
            }
            for n in outdated {
                if let Some(pd) = s.pd_mut(n, v)
                    && pd.pdisk == DiskState::Unknown
                {
                    pd.pdisk = DiskState::Outdated;
                }
            }
        });
        if let Err(code) = result {
            return self.attach_failed(v, code, "the state change was refused");
        }
        self.attach_done(v);
    }

    /// Whether this node, while it had no disk, saw data of a generation that the disk has never had (a deviation: the
    /// reference takes what the metadata says, and two nodes with old data may have a quorum).
    fn saw_newer(&self, v: VolumeNr) -> bool {
        let exposed = self.volumes.get(&v).map(|x| x.exposed).unwrap_or_default();
        self.disk_ref(v).is_some_and(|d| {
            let ids = &d.gen_ids;
            let known = ids.current().same(exposed)
                || ids.in_history(exposed)
                || NodeId::all().any(|n| ids.bitmap(n).same(exposed));
            !exposed.is_none() && !ids.current().is_just_created() && !known
        })
    }

    /// The cluster has agreed to the attach, or not.
    pub(crate) fn attach_negotiation_decided(
        &mut self,
        v: VolumeNr,
        result: Result<RetCode, RetCode>,
    ) {
        match result {
            Ok(_) => {}
            Err(RetCode::NEED_CONNECTION) => self.attach_final(v),
            // One disk negotiates at a time in a cluster (section 4.3): a peer's has the turn.
            Err(RetCode::IN_TRANSIENT_STATE) => {
                let kind = ChangeKind::Attach { volume: v };
                let delay = self.twopc_backoff(3);
                self.twopc_request_after(kind, Requester::Attach, delay);
            }
            Err(code) => self.attach_failed(v, code, "the peers refused the attach"),
        }
    }

    /// Answers attaches whose negotiation has ended; called after each event.
    pub(crate) fn attach_settle(&mut self) {
        let volumes: Vec<VolumeNr> = self.attaching.keys().copied().collect();
        for v in volumes {
            self.attach_progress(v);
            let step = self.attaching.get(&v).map(|a| a.step);
            if step == Some(Step::Negotiating) {
                match self.state.disk(v) {
                    // A failed attach is answered when the device has been let go of.
                    DiskState::Attaching
                    | DiskState::Negotiating
                    | DiskState::Detaching
                    | DiskState::Failed => {}
                    DiskState::Diskless => {
                        self.attach_over(v);
                        if let Some(cmd) = self.pending.attaches.remove(&v) {
                            self.reply(cmd, Reply::new(RetCode::ERR_DATA_NOT_CURRENT));
                        }
                    }
                    _ => self.attach_done(v),
                }
            }
        }
    }

    /// An attach has ended, well or not. A request that still waits for its turn must not meet the next one.
    fn attach_over(&mut self, v: VolumeNr) {
        self.attaching.remove(&v);
        self.twopc_withdraw(ChangeKind::Attach { volume: v });
    }

    fn attach_done(&mut self, v: VolumeNr) {
        self.attach_over(v);
        self.update_limits();
        if let Some(cmd) = self.pending.attaches.remove(&v) {
            self.reply(cmd, Reply::new(RetCode::NO_ERROR));
        }
    }

    pub(super) fn attach_failed(&mut self, v: VolumeNr, code: RetCode, text: &str) {
        self.attach_over(v);
        self.log_at(
            LogLevel::Error,
            None,
            Some(v),
            format!("attach failed: {text}"),
        );
        if self
            .volumes
            .get_mut(&v)
            .and_then(|x| x.disk.take())
            .is_some()
        {
            self.push(Effect::Detach { volume: v });
        }
        self.md_dirty = true;
        let _ = self.change(ChangeFlags::HARD, |s| {
            if let Some(d) = s.devices.get_mut(&v) {
                d.disk = DiskState::Diskless;
            }
        });
        if let Some(cmd) = self.pending.attaches.remove(&v) {
            self.reply(cmd, Reply::with(code, text));
        }
    }
}
