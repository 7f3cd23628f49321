//! A change takes effect: what happens at once (state machine, section 3.7).

use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;

use drbd_meta::flags::{LocalFlags, PeerFlags};
use drbd_proto::{ConnState, DiskState, NodeId, ReplState, Role, VolumeNr};

use crate::effect::{Effect, LogLevel};
use crate::engine::Engine;
use crate::options::Fencing;
use crate::state::State;
use crate::state::after::Deferred;
use crate::state::sanitize::Derived;
use crate::status::{Change, Object};

impl Engine {
    /// Makes `new` the state, with everything that has to happen in the same instant.
    pub(crate) fn commit(&mut self, new: State, derived: Derived) {
        let old = core::mem::replace(&mut self.state, new);
        let volumes: Vec<VolumeNr> = self.state.devices.keys().copied().collect();
        for &v in &volumes {
            self.commit_flags(&old, v);
            self.commit_new_uuid_due(&old, v);
            self.commit_metadata_flags(&old, v);
            self.commit_exposed_uuid(&old, v);
        }
        self.commit_connections(&old);
        self.facts_changed = true;
        self.publish(&old);
        self.data_state_committed(&old);
        self.deferred.push_back(Deferred {
            old,
            new: self.state.clone(),
            derived,
        });
        self.md_touch();
    }

    /// Housekeeping of the sticky flags (section 2.6).
    fn commit_flags(&mut self, old: &State, v: VolumeNr) {
        let disk = self.state.disk(v);
        let quorum = self.state.devices.get(&v).is_none_or(|d| d.have_quorum);
        let had_quorum = old.devices.get(&v).is_none_or(|d| d.have_quorum);
        let both_up_to_date = |s: &State| {
            s.disk(v) == DiskState::UpToDate
                && s.peers_of(v)
                    .any(|(_, _, pd)| pd.pdisk == DiskState::UpToDate)
        };
        let met = both_up_to_date(&self.state) && !both_up_to_date(old);
        let primary = self.state.role == Role::Primary;
        let primary_peer = self.state.any_peer_primary();
        let lost_primary = old.any_peer_primary() && !primary_peer;
        let Some(volume) = self.volumes.get_mut(&v) else {
            return;
        };
        if met {
            volume.flags.crashed_primary = false;
        }
        if primary && !quorum {
            volume.flags.primary_lost_quorum = true;
        } else if quorum && !had_quorum {
            volume.flags.primary_lost_quorum = false;
        }
        let real_quorum = self.state.devices.get(&v).is_some_and(|d| d.quorum);
        if real_quorum || disk < DiskState::UpToDate {
            volume.flags.restore_quorum = false;
        }
        let left_alone = old.disk(v) == DiskState::UpToDate && disk < DiskState::UpToDate;
        let promoted = old.role != Role::Primary && self.state.role == Role::Primary;
        for (peer, conn) in &mut self.conns {
            let Some(known) = conn.peers.get_mut(&v) else {
                continue;
            };
            let Some(pd) = self.state.pd(*peer, v) else {
                continue;
            };
            let was = old.pd(*peer, v).map_or(ReplState::Off, |p| p.repl);
            let owed = known.flags.reconciliation_resync || known.flags.reconcile_pending;
            if pd.repl < ReplState::Established || (was.is_sync() && !pd.repl.is_sync()) {
                known.flags.reconciliation_resync = false;
            }
            if pd.repl < ReplState::Established || pd.repl.is_sync() {
                known.flags.reconcile_pending = false;
            }
            // The lost Primary is back, and its own handshake has decided: a peer that never lost it will
            // not answer the notification.
            let back = |n: NodeId| self.state.cstate(n) == ConnState::Connected;
            if known.flags.reconcile_about.is_some_and(back) {
                known.flags.reconcile_pending = false;
                known.flags.reconcile_about = None;
            }
            if owed && !known.flags.reconciliation_resync && !known.flags.reconcile_pending {
                self.debt_paid.insert(*peer);
            }
            if pd.pdisk < DiskState::UpToDate {
                known.flags.got_neg_ack = false;
            }
            if pd.repl != ReplState::Established {
                known.flags.lacks_reconciled = false;
                known.flags.told_lacking = false;
            }
            let lost = was >= ReplState::Established && pd.repl < ReplState::Established;
            if lost || pd.repl > ReplState::Established {
                known.flags.grow_source = false;
                known.flags.grew = false;
                known.flags.peer_grew = false;
            }
            if was < ReplState::Established && pd.repl >= ReplState::Established {
                // The connect has dealt with it. A later comparison would begin an empty resync, whose end is
                // the reason for the next one.
                known.flags.source_missed_end = false;
                known.flags.peer_missed_end = false;
            }
            if pd.repl < ReplState::Established {
                known.flags.unconfirmed = false;
            } else if pd.pdisk == DiskState::UpToDate && known.uuids.current.same(volume.exposed) {
                known.flags.missed = false;
            }
            // What was completed before with the own disk, or by another Primary, nobody has counted.
            if (left_alone || promoted) && pd.pdisk != DiskState::UpToDate {
                known.flags.missed = true;
            }
            if pd.repl < ReplState::Established {
                known.flags.had_exposed = false;
            } else if pd.pdisk == DiskState::UpToDate {
                known.flags.had_exposed = known.uuids.current.same(volume.exposed);
            }
            if pd.repl > ReplState::Off {
                known.flags.degraded = false;
            }
            // Its slot does not get what is written to a disk with gaps, and loses what a resync brings there.
            let written = pd.repl >= ReplState::Established && pd.pdisk == DiskState::Inconsistent;
            if pd.is_sync_source() || written {
                known.flags.slot_touched = true;
            }
            if disk == DiskState::UpToDate && pd.pdisk == DiskState::UpToDate {
                known.flags.slot_touched = false;
                known.uuids.flags = known
                    .uuids
                    .flags
                    .minus(drbd_proto::UuidFlags::CRASHED_PRIMARY);
            }
            // Section 3.7, 15: a Primary is gone, so a resync from a source that depended on it is not stable.
            if lost_primary
                && pd.repl.is_sync_target()
                && !known.uuids.flags.contains(drbd_proto::UuidFlags::STABLE)
            {
                known.flags.unstable_resync = true;
            }
            if was.is_sync_target() && !pd.repl.is_sync_target() {
                known.flags.sync_src_crashed_pri = false;
            }
            // Section 3.7, 8: the initial sync after a forced promotion.
            let old_role = old.conns.get(peer).map_or(Role::Unknown, |c| c.peer_role);
            let role = self
                .state
                .conns
                .get(peer)
                .map_or(Role::Unknown, |c| c.peer_role);
            // Outdated disks, too: this one would count as UpToDate beside the peer's, and lack what is written now (a
            // deviation).
            let bad = |d: DiskState| matches!(d, DiskState::Inconsistent | DiskState::Outdated);
            if bad(old.disk(v))
                && old.pd(*peer, v).is_some_and(|p| bad(p.pdisk))
                && pd.pdisk == DiskState::UpToDate
                && old_role == Role::Secondary
                && role == Role::Primary
            {
                known.flags.consider_resync = true;
            }
        }
    }

    /// Whether a new data generation is due (section 7.6).
    fn commit_new_uuid_due(&mut self, old: &State, v: VolumeNr) {
        let new = &self.state;
        let primary = new.role == Role::Primary;
        let accessible_now = self.data_accessible(new, v);
        let accessible = accessible_now || self.data_accessible(old, v);
        let mut due = old.role != Role::Primary && primary;
        if !old.susp_uuid {
            for (peer, _, pd) in new.peers_of(v) {
                let was = old.pd(peer, v).cloned().unwrap_or_default();
                if was.repl != ReplState::Ahead && pd.repl == ReplState::Ahead {
                    due = true;
                }
                let had = matches!(
                    was.pdisk,
                    DiskState::Inconsistent | DiskState::Consistent | DiskState::UpToDate
                );
                let lost = pd.pdisk < DiskState::Inconsistent
                    || matches!(pd.pdisk, DiskState::Outdated | DiskState::Unknown);
                // Another node resyncs it, and it may have become UpToDate without this one hearing of it. Without
                // data of its own this node has no marks that tell what it missed (a deviation).
                let target = new.disk(v) < DiskState::UpToDate
                    && was.pdisk == DiskState::Inconsistent
                    && was.repl == ReplState::Established
                    && pd.repl < ReplState::Established;
                if had && (lost || target) && primary && accessible {
                    due = true;
                }
                let returned_without = was.pdisk == DiskState::Unknown
                    && matches!(
                        pd.pdisk,
                        DiskState::Diskless | DiskState::Failed | DiskState::Outdated
                    );
                let bitmap = self
                    .disk_ref(v)
                    .map(|d| d.gen_ids.bitmap(peer))
                    .unwrap_or_default();
                if returned_without
                    && bitmap.is_none()
                    && primary
                    && new.disk(v) == DiskState::UpToDate
                    && self.peer_device(peer, v).is_none_or(|k| k.options.bitmap)
                {
                    due = true;
                }
            }
            let (was, is) = (old.disk(v), new.disk(v));
            if was > DiskState::Failed && is == DiskState::Failed && primary && accessible_now {
                due = true;
            }
            if was >= DiskState::Inconsistent
                && is < DiskState::Inconsistent
                && primary
                && accessible_now
            {
                due = true;
            }
        } else {
            due = false;
        }
        let demoted = old.role == Role::Primary && !primary;
        if let Some(volume) = self.volumes.get_mut(&v) {
            if demoted {
                volume.flags.new_cur_uuid = false;
            } else if due {
                volume.flags.new_cur_uuid = true;
            }
        }
    }

    /// The flags in the superblock (metadata, section 4; state machine, section 14.7).
    fn commit_metadata_flags(&mut self, old: &State, v: VolumeNr) {
        let state = &self.state;
        let disk_state = state.disk(v);
        if disk_state < DiskState::Detaching || disk_state == DiskState::Negotiating {
            return;
        }
        let primary = state.role == Role::Primary;
        let any_primary = primary || state.any_peer_primary();
        let graceful = disk_state == DiskState::Detaching && !self.forced_detach.contains(&v);
        let data_elsewhere = state
            .peers_of(v)
            .any(|(_, _, pd)| pd.pdisk == DiskState::UpToDate);
        let peer_writes = self.data_peer_writes_in_flight();
        let have_quorum = state.devices.get(&v).is_none_or(|d| d.have_quorum);
        let members = self.members.0;
        let peers: Vec<(NodeId, ReplState, DiskState, bool, bool)> = state
            .peers_of(v)
            .map(|(n, _, pd)| {
                let fencing = self
                    .conns
                    .get(&n)
                    .is_some_and(|c| c.options.fencing != Fencing::DontCare);
                let bitmap = self.peer_device(n, v).is_none_or(|k| k.options.bitmap);
                (n, pd.repl, pd.pdisk, fencing, bitmap)
            })
            .collect();
        let Some(volume) = self.volumes.get_mut(&v) else {
            return;
        };
        let crashed = volume.flags.crashed_primary;
        let lost_quorum = volume.flags.primary_lost_quorum;
        let Some(disk) = volume.disk.as_mut() else {
            return;
        };
        let flags = &mut disk.meta.sb.flags;
        flags.remove(LocalFlags::AL_CLEAN);
        flags.set(
            LocalFlags::CRASHED_PRIMARY,
            crashed || (primary && !graceful),
        );
        flags.set(LocalFlags::PRIMARY_LOST_QUORUM, lost_quorum);
        flags.set(LocalFlags::HAVE_QUORUM, have_quorum);
        if disk_state >= DiskState::Inconsistent {
            flags.set(LocalFlags::CONSISTENT, disk_state > DiskState::Inconsistent);
            flags.set(LocalFlags::WAS_UP_TO_DATE, disk_state > DiskState::Outdated);
        } else if any_primary && data_elsewhere {
            // The copy here is about to become stale.
            flags.remove(LocalFlags::WAS_UP_TO_DATE);
        }
        if any_primary && !graceful {
            flags.insert(LocalFlags::PRIMARY_IND);
        } else if !peer_writes && (graceful || disk_state >= DiskState::Inconsistent) {
            disk.meta.clear_primary_ind_when_written = true;
        }
        disk.meta.sb.members = members;
        for (n, repl, pdisk, fencing, bitmap) in peers {
            let Some(entry) = disk.meta.sb.peers.get_mut(n.index()) else {
                continue;
            };
            if entry.bitmap_index.is_none() {
                continue;
            }
            entry.flags.set(PeerFlags::CONNECTED, repl > ReplState::Off);
            entry.flags.set(
                PeerFlags::OUTDATED,
                matches!(pdisk, DiskState::Inconsistent | DiskState::Outdated),
            );
            entry.flags.set(PeerFlags::FENCING, fencing);
            if pdisk >= DiskState::Inconsistent && pdisk != DiskState::Unknown {
                entry.flags.insert(PeerFlags::DEVICE_SEEN);
            } else if pdisk == DiskState::Diskless && !bitmap {
                entry.flags.remove(PeerFlags::DEVICE_SEEN);
            }
        }
        let _ = old;
    }

    /// The exposed UUID follows the data that applications see (section 3.7, 11).
    fn commit_exposed_uuid(&mut self, old: &State, v: VolumeNr) {
        let own = self.disk_ref(v).map(|d| d.gen_ids.current());
        let is = self.state.disk(v);
        if is == DiskState::UpToDate
            || (old.disk(v) < DiskState::Consistent && is >= DiskState::Consistent)
        {
            if let (Some(current), Some(volume)) = (own, self.volumes.get_mut(&v))
                && !current.is_just_created()
            {
                volume.exposed = current;
                volume.flags.exposed_without_disk = false;
            }
            return;
        }
        let from_peer = self
            .state
            .peers_of(v)
            .filter(|(_, _, pd)| pd.pdisk == DiskState::UpToDate)
            .find_map(|(n, _, _)| self.peer_device(n, v).map(|k| k.uuids.current));
        if let (Some(current), Some(volume)) = (from_peer, self.volumes.get_mut(&v))
            && !current.is_none()
            && !current.is_just_created()
            // A peer with the generation before gets the one that is shown, not the other way round.
            && !volume.unconfirmed.as_ref().is_some_and(|c| c.leads_on(volume.exposed, current))
        {
            volume.exposed = current;
        }
    }

    fn commit_connections(&mut self, old: &State) {
        for (peer, conn) in &mut self.conns {
            let was = old.conns.get(peer);
            let is = self.state.conns.get(peer);
            let connected = |c: Option<&crate::state::ConnectionState>| {
                c.is_some_and(|c| c.cstate == ConnState::Connected)
            };
            if !connected(was) && connected(is) {
                conn.connects += 1;
            }
            if connected(was) && !connected(is) {
                conn.flags.reconnect = true;
                if was.is_some_and(|c| c.peer_role == Role::Primary)
                    && is.is_some_and(|c| c.cstate != ConnState::TearDown)
                {
                    conn.flags.notify_lost_primary = true;
                }
            }
        }
        if old.role != Role::Primary && self.state.role == Role::Primary {
            for conn in self.conns.values_mut() {
                conn.flags.discard_my_data = false;
            }
        }
    }

    /// Tells observers and the log what changed.
    fn publish(&mut self, old: &State) {
        let mut objects = Vec::new();
        let new = self.state.clone();
        let flags = |s: &State| {
            (
                s.role,
                s.susp_user,
                s.susp_nod,
                s.susp_quorum,
                s.susp_uuid,
                s.conns.values().any(|c| c.susp_fen),
                s.fail_io,
                s.suspended(),
            )
        };
        if flags(old) != flags(&new) {
            if old.role != new.role {
                let text = format!("role( {} -> {} )", old.role, new.role);
                self.log_at(LogLevel::Info, None, None, text);
            }
            if old.suspended() != new.suspended() {
                let word = |s: &State| if s.suspended() { "yes" } else { "no" };
                let text = format!("susp-io( {} -> {} )", word(old), word(&new));
                self.log_at(LogLevel::Info, None, None, text);
            }
            objects.push(Object::Resource(Some(self.resource_info())));
        }
        for (n, conn) in &new.conns {
            let Some(was) = old.conns.get(n) else {
                continue;
            };
            if (was.cstate, was.peer_role) == (conn.cstate, conn.peer_role) {
                continue;
            }
            let mut text = alloc::string::String::new();
            if was.cstate != conn.cstate {
                text = format!("conn( {} -> {} )", was.cstate, conn.cstate);
            }
            if was.peer_role != conn.peer_role {
                let sep = if text.is_empty() { "" } else { " " };
                text = format!("{text}{sep}peer( {} -> {} )", was.peer_role, conn.peer_role);
            }
            self.log_at(LogLevel::Info, Some(*n), None, text);
            objects.push(Object::Connection {
                peer: *n,
                info: self.connection_info(*n),
            });
        }
        for (v, dev) in &new.devices {
            let Some(was) = old.devices.get(v) else {
                continue;
            };
            if was == dev {
                continue;
            }
            if was.disk != dev.disk {
                let text = format!("disk( {} -> {} )", was.disk, dev.disk);
                self.log_at(LogLevel::Info, None, Some(*v), text);
            }
            if was.have_quorum != dev.have_quorum {
                let word = |q: bool| if q { "yes" } else { "no" };
                let text = format!(
                    "quorum( {} -> {} )",
                    word(was.have_quorum),
                    word(dev.have_quorum)
                );
                self.log_at(LogLevel::Info, None, Some(*v), text);
            }
            objects.push(Object::Device {
                volume: *v,
                info: self.device_info(*v),
            });
        }
        for (n, conn) in &new.conns {
            for (v, pd) in &conn.peers {
                let Some(was) = old.pd(*n, *v) else { continue };
                if was == pd {
                    continue;
                }
                let mut parts = Vec::new();
                if was.pdisk != pd.pdisk {
                    parts.push(format!("pdsk( {} -> {} )", was.pdisk, pd.pdisk));
                }
                if was.repl != pd.repl {
                    parts.push(format!("repl( {} -> {} )", was.repl, pd.repl));
                }
                if was.replication != pd.replication {
                    let word = |r: bool| if r { "yes" } else { "no" };
                    parts.push(format!(
                        "replication( {} -> {} )",
                        word(was.replication),
                        word(pd.replication)
                    ));
                }
                if !parts.is_empty() {
                    self.log_at(LogLevel::Info, Some(*n), Some(*v), parts.join(" "));
                }
                objects.push(Object::PeerDevice {
                    peer: *n,
                    volume: *v,
                    info: self.peer_device_info(*n, *v),
                });
            }
        }
        self.publish_objects(objects, false);
    }

    /// Hands changes to the observers as one batch.
    pub(crate) fn publish_objects(&mut self, objects: Vec<Object>, created: bool) {
        let last = objects.len().saturating_sub(1);
        for (i, object) in objects.into_iter().enumerate() {
            self.push(Effect::Changed(Box::new(Change {
                created,
                continues: i < last,
                object,
            })));
        }
    }
}
