//! Resync as a matter of state: start, end, abort (state machine, section 9). The data move in
//! [`crate::resync`].

use alloc::format;
use alloc::vec::Vec;

use drbd_meta::flags::LocalFlags;
use drbd_proto::{
    ConnState, DiskState, NodeId, NodeMask, ReplState, State as WireState, UuidFlags, VolumeNr,
};

use crate::connection::{PingWaiter, ResyncCall};
use crate::effect::LogLevel;
use crate::engine::{Engine, PacketError};
use crate::state::change::ChangeFlags;
use crate::timer::Timer;
use crate::upcall::{Handler, Then};

/// How many times ping-timeout a bitmap exchange may stand still.
const EXCHANGE_PATIENCE: u32 = 20;

impl Engine {
    /// StartingSyncS or StartingSyncT: everything is different (section 9.2).
    pub(crate) fn start_full_sync(&mut self, peer: NodeId, v: VolumeNr, source: bool) {
        let nodes = if source { peer.mask() } else { NodeMask::ALL };
        self.set_all_bits(v, nodes);
        self.resync_start(peer, v);
    }

    /// Both sides of a bitmap exchange have to want it: if nothing comes, the peer sees things differently,
    /// and a new handshake decides.
    pub(crate) fn watch_bitmap_exchange(&mut self, v: VolumeNr) {
        let waiting: Vec<(NodeId, bool)> = self
            .state
            .peers_of(v)
            .map(|(n, c, _)| {
                let waits = c
                    .peers
                    .values()
                    .any(|pd| matches!(pd.repl, ReplState::WFBitMapS | ReplState::WFBitMapT));
                (n, waits)
            })
            .collect();
        for (peer, waits) in waiting {
            let timer = Timer::BitmapExchange(peer);
            if !waits {
                self.timers.cancel(timer);
            } else if let Some(conn) = self.conns.get(&peer) {
                let patience = conn.options.ping_timeout * EXCHANGE_PATIENCE;
                self.timers.set_if_idle(timer, self.now + patience);
            }
        }
    }

    /// No bitmap came.
    pub(crate) fn bitmap_exchange_timeout(&mut self, peer: NodeId) {
        // This side keeps the peer waiting.
        let called = self.conns.get(&peer).is_some_and(|c| {
            c.peers
                .values()
                .any(|k| k.resync_call == ResyncCall::Running)
        });
        if called {
            let volumes: Vec<VolumeNr> = self.volumes.keys().copied().collect();
            return volumes
                .into_iter()
                .for_each(|v| self.watch_bitmap_exchange(v));
        }
        self.fail_connection(
            peer,
            ConnState::NetworkFailure,
            "the peer does not take part in the bitmap exchange",
        );
    }

    /// A paused resync has drained: another source may take over (section 9.3).
    pub(crate) fn hand_over_resync(&mut self) {
        let drained = self.state.conns.iter().any(|(n, c)| {
            c.peers.iter().any(|(v, pd)| {
                pd.resync_active
                    && pd.repl != ReplState::SyncTarget
                    && self.resync_pending(*n, *v) == 0
            })
        });
        if drained {
            let _ = self.change(ChangeFlags::RECALC, |_| {});
        }
    }

    /// The bitmaps are exchanged: the resync begins (section 9.1).
    pub(crate) fn resync_start(&mut self, peer: NodeId, v: VolumeNr) {
        let repl = self.state.repl(peer, v);
        let source = matches!(
            repl,
            ReplState::WFBitMapS | ReplState::StartingSyncS | ReplState::Ahead
        );
        let target = matches!(
            repl,
            ReplState::WFBitMapT | ReplState::StartingSyncT | ReplState::Behind
        );
        if !source && !target {
            return;
        }
        if target && self.is_legacy(peer) {
            return self.await_sync_uuid(peer, v);
        }
        if !self.may_begin_resync(peer, v, source) {
            return;
        }
        if target {
            self.target_starts(peer, v);
        } else {
            self.send_sync_uuid(peer, v);
        }
        let done_early = self
            .peer_device_mut(peer, v)
            .and_then(|k| k.finished_early.take())
            .filter(|_| source);
        let to = if source {
            ReplState::SyncSource
        } else {
            ReplState::SyncTarget
        };
        let bits = self.bitmap_weight(peer, v);
        self.log_at(
            LogLevel::Info,
            Some(peer),
            Some(v),
            format!(
                "Began resync as {to} (will sync {} KB [{bits} bits set]).",
                bits * 4
            ),
        );
        let hold = self.volumes.get(&v).map(|x| x.resync_hold);
        let hold = hold.unwrap_or_default();
        let _ = self.change(ChangeFlags::HARD, |s| {
            if let Some(pd) = s.pd_mut(peer, v) {
                pd.repl = to;
                pd.susp_dependency = hold.dependency;
                pd.susp_max_parallel = hold.limit;
            }
        });
        self.ask_who_lives(peer);
        if target {
            self.judge_source(v);
        }
        if let Some((state, pdisk)) = done_early {
            let _ = self.source_finished(peer, v, &state, pdisk);
        }
    }

    /// Whether a resync may begin now: its handler has let it (section 9.1, 2). False as long as that runs.
    pub(crate) fn may_begin_resync(&mut self, peer: NodeId, v: VolumeNr, source: bool) -> bool {
        let Some(conn) = self.conns.get(&peer) else {
            return false;
        };
        let generation = conn.data.generation;
        match conn.peers.get(&v).map(|k| k.resync_call) {
            Some(ResyncCall::Running) | None => return false,
            Some(ResyncCall::Done) => {
                self.set_resync_call(peer, v, ResyncCall::No);
                return true;
            }
            Some(ResyncCall::No) => {}
        }
        let handler = if source {
            Handler::BeforeResyncSource
        } else {
            Handler::BeforeResyncTarget
        };
        let then = Then::Resync {
            peer,
            volume: v,
            generation,
        };
        let called = self.call_then(handler, Some(peer), Some(v), then);
        if called {
            self.set_resync_call(peer, v, ResyncCall::Running);
        }
        !called
    }

    fn set_resync_call(&mut self, peer: NodeId, v: VolumeNr, call: ResyncCall) {
        if let Some(known) = self.peer_device_mut(peer, v) {
            known.resync_call = call;
        }
    }

    /// The handler that goes before a resync has ended.
    pub(crate) fn resync_called(
        &mut self,
        peer: NodeId,
        v: VolumeNr,
        generation: u64,
        handler: Handler,
        exit: i32,
    ) {
        let same = self
            .conns
            .get(&peer)
            .is_some_and(|c| c.data.generation == generation);
        if !same {
            return;
        }
        self.set_resync_call(peer, v, ResyncCall::No);
        let source = handler == Handler::BeforeResyncSource;
        if exit == 3 && source {
            let text = "before-resync-source handler returned 3, which is ignored";
            self.log_at(LogLevel::Info, Some(peer), Some(v), text);
        } else if exit != 0 {
            let text = format!(
                "{} handler returned {exit}, dropping connection",
                handler.name()
            );
            self.log_at(LogLevel::Warn, Some(peer), Some(v), text);
            return self.go_standalone(peer);
        }
        let waits = match self.state.repl(peer, v) {
            ReplState::WFBitMapS | ReplState::StartingSyncS | ReplState::Ahead => source,
            ReplState::WFBitMapT
            | ReplState::StartingSyncT
            | ReplState::WFSyncUUID
            | ReplState::Behind => !source,
            _ => false,
        };
        // The source may have gone Ahead while the handler of its target ran.
        let ahead = !source
            && self
                .peer_device(peer, v)
                .and_then(|k| k.last_state)
                .is_some_and(|s| s.repl == ReplState::Ahead);
        if ahead && self.state.repl(peer, v) == ReplState::Behind {
            // The next start calls the handler again.
        } else if waits && self.is_legacy(peer) && !source {
            self.legacy_target_begins(peer, v);
        } else if waits {
            self.set_resync_call(peer, v, ResyncCall::Done);
            self.resync_start(peer, v);
        }
        if ahead && self.state.repl(peer, v).is_sync_target() {
            let _ = self.change(ChangeFlags::HARD, |s| {
                if let Some(pd) = s.pd_mut(peer, v) {
                    pd.repl = ReplState::Behind;
                }
            });
        }
    }

    /// Section 7.9, start.
    pub(crate) fn target_starts(&mut self, peer: NodeId, v: VolumeNr) {
        let already_target = self
            .state
            .peers_of(v)
            .any(|(n, _, pd)| n != peer && pd.is_sync_target());
        let peers = self.peer_facts(v);
        let Some(nodes) = self.nodes(v) else { return };
        let dagtag = self.data_dagtag();
        let mut rng = self.rng.clone();
        let mut random = || drbd_proto::Uuid(rng.next()).identity();
        let Some(volume) = self.volumes.get_mut(&v) else {
            return;
        };
        if !already_target {
            volume.flags.stable_resync = false;
        }
        let Some(disk) = volume.disk.as_mut() else {
            return;
        };
        let Some(known) = self.conns.get_mut(&peer).and_then(|c| c.peers.get_mut(&v)) else {
            return;
        };
        known.flags.unstable_resync = false;
        known.flags.sync_src_crashed_pri = known.uuids.flags.contains(UuidFlags::CRASHED_PRIMARY);
        known.start_uuid =
            disk.gen_ids
                .start_resync(&known.uuids, dagtag, &peers, &nodes, &mut random);
        self.rng = rng;
        self.md_touch();
    }

    /// Marks resyncs whose source is not, or no more, good enough (section 9.6).
    pub(crate) fn judge_source(&mut self, v: VolumeNr) {
        let sources: Vec<NodeId> = self
            .state
            .peers_of(v)
            .filter(|(_, _, pd)| pd.is_sync_target())
            .map(|(n, _, _)| n)
            .collect();
        for source in sources {
            if !self.source_is_good(source, v)
                && let Some(known) = self.peer_device_mut(source, v)
            {
                known.flags.unstable_resync = true;
            }
        }
    }

    /// Whether nobody this node cannot see changes the data of a source behind its back (section 9.6).
    pub(crate) fn source_is_good(&self, source: NodeId, v: VolumeNr) -> bool {
        let Some(known) = self.peer_device(source, v) else {
            return false;
        };
        if known.uuids.flags.contains(UuidFlags::STABLE) {
            return true;
        }
        let authoritative = known.uuids.node_mask;
        let two_primaries = self.two_primaries(source);
        authoritative.contains(self.node_id)
            || self.state.peers_of(v).any(|(n, c, pd)| {
                if n == source {
                    return false;
                }
                let live = matches!(pd.repl, ReplState::Established | ReplState::WFBitMapS)
                    || (ReplState::SyncSource..=ReplState::PausedSyncT).contains(&pd.repl);
                let stable_source = pd.repl == ReplState::SyncTarget
                    && self
                        .peer_device(n, v)
                        .is_some_and(|k| k.uuids.flags.contains(UuidFlags::STABLE));
                live && (authoritative.contains(n)
                    || (c.peer_role == drbd_proto::Role::Primary && !two_primaries)
                    || stable_source)
            })
    }

    /// The target found nothing more to do. The source is pinged first: all acks sent before are processed
    /// there when it answers (data path, section 16.6).
    pub(crate) fn resync_finished(&mut self, peer: NodeId, v: VolumeNr, failed: bool) {
        let waits = self.conns.get(&peer).is_some_and(|c| {
            c.ping_waiters
                .iter()
                .any(|w| matches!(w, PingWaiter::ResyncFinish { volume, .. } if *volume == v))
        });
        if !waits {
            self.ping_for(peer, PingWaiter::ResyncFinish { volume: v, failed });
        }
    }

    /// The source has seen all acks: the resync is over (section 9.5; UUIDs section 7.9).
    pub(crate) fn resync_finish_confirmed(&mut self, peer: NodeId, v: VolumeNr, failed: bool) {
        if self.state.repl(peer, v) != ReplState::SyncTarget {
            return;
        }
        if !failed && self.bitmap_weight(peer, v) != 0 {
            // Bits were set meanwhile: another pass finds them.
            return self.data_resync_again(peer, v);
        }
        self.end_as_target(peer, v, failed);
        // The reference tells its peers after this handler has ended (a deviation: nobody waits for it).
        self.call(Handler::AfterResyncTarget, Some(peer), Some(v));
    }

    fn end_as_target(&mut self, peer: NodeId, v: VolumeNr, failed: bool) {
        let Some(known) = self.peer_device(peer, v) else {
            return;
        };
        let unstable = known.flags.unstable_resync;
        let crashed_source = known.flags.sync_src_crashed_pri;
        let stable_before = self.volumes.get(&v).is_some_and(|x| x.flags.stable_resync);
        let stable = !unstable || stable_before;
        let source_disk = self.state.pdisk(peer, v);
        self.log_at(
            LogLevel::Info,
            Some(peer),
            Some(v),
            format!(
                "Resync done{}",
                if stable { "" } else { " (unstable source)" }
            ),
        );
        if failed {
            let _ = self.change(ChangeFlags::HARD, |s| {
                if let Some(pd) = s.pd_mut(peer, v) {
                    pd.repl = ReplState::Established;
                    pd.resync_active = false;
                    pd.pdisk = DiskState::UpToDate;
                }
            });
            return;
        }
        if !stable {
            let _ = self.change(ChangeFlags::HARD, |s| {
                if let Some(pd) = s.pd_mut(peer, v) {
                    pd.repl = ReplState::Established;
                    pd.resync_active = false;
                }
            });
            // The source may have become good enough meanwhile, and will not offer again by itself (section
            // 9.6). It has to hear of this end first: the watch over stuck disks asks again.
            return;
        }
        // A reconciliation, or blocks of a crashed Primary: the generation stays, so that nothing but the marks
        // tells others what they lack now.
        if self.same_generation(peer, v) {
            for (_, conn) in self.conns.iter_mut().filter(|(n, _)| **n != peer) {
                if let Some(known) = conn.peers.get_mut(&v) {
                    known.flags.lacks_reconciled = true;
                }
            }
        }
        let outdated = self.adopt_source(peer, v);
        let differing = if source_disk == DiskState::UpToDate {
            self.differing_sources(peer, v)
        } else {
            NodeMask::EMPTY
        };
        if let Some(volume) = self.volumes.get_mut(&v) {
            volume.flags.stable_resync = true;
            if source_disk < DiskState::UpToDate && crashed_source {
                volume.flags.crashed_primary = true;
            }
        }
        // What the state will be after this is what the flags of the UUIDs are about.
        if let Some(disk) = self
            .disk_mut(v)
            .filter(|_| source_disk > DiskState::Inconsistent)
        {
            disk.meta.sb.flags.insert(LocalFlags::CONSISTENT);
        }
        // All UUIDs go out before any state (wire protocol, section 10.4).
        let peers: Vec<NodeId> = self.established_peers(v).collect();
        for n in peers {
            self.send_uuids(n, v, UuidFlags::NONE);
        }
        let _ = self.change(ChangeFlags::HARD, |s| {
            if let Some(d) = s.devices.get_mut(&v)
                && differing.is_empty()
            {
                d.disk = source_disk;
            }
            for (n, c) in &mut s.conns {
                let Some(pd) = c.peers.get_mut(&v) else {
                    continue;
                };
                let superfluous = source_disk == DiskState::UpToDate
                    && pd.repl == ReplState::PausedSyncT
                    && !differing.contains(*n);
                if *n == peer || superfluous {
                    pd.repl = ReplState::Established;
                    pd.resync_active = false;
                }
                if outdated.contains(*n) && pd.pdisk >= DiskState::Consistent {
                    pd.pdisk = DiskState::Outdated;
                }
            }
        });
    }

    /// Waiting sources of the generation that this node has now, with marks left: they are not in sync with the
    /// source that has finished, or its reports of peers in sync would have cleared the marks. No comparison of
    /// generations would bring these blocks, so these resyncs are not superfluous (section 9.3 cancels them).
    fn differing_sources(&self, finished: NodeId, v: VolumeNr) -> NodeMask {
        let mut differing = NodeMask::EMPTY;
        for (n, _, pd) in self.state.peers_of(v) {
            if n != finished
                && pd.repl == ReplState::PausedSyncT
                && pd.pdisk == DiskState::UpToDate
                && !(pd.susp_user || pd.susp_peer || pd.susp_dependency || pd.susp_max_parallel)
                && self.same_generation(n, v)
                && self.bitmap_weight(n, v) != 0
            {
                differing.insert(n);
            }
        }
        differing
    }

    /// The source's generation is ours now (section 7.9, end).
    fn adopt_source(&mut self, peer: NodeId, v: VolumeNr) -> NodeMask {
        let peers = self.peer_facts(v);
        let Some(nodes) = self.nodes(v) else {
            return NodeMask::EMPTY;
        };
        let dagtag = self.data_dagtag();
        let primary = self.state.role == drbd_proto::Role::Primary;
        let Some(disk) = self.volumes.get_mut(&v).and_then(|x| x.disk.as_mut()) else {
            return NodeMask::EMPTY;
        };
        let Some(known) = self.conns.get_mut(&peer).and_then(|c| c.peers.get_mut(&v)) else {
            return NodeMask::EMPTY;
        };
        let newer = disk.gen_ids.end_resync(
            &known.uuids,
            known.start_uuid,
            dagtag,
            primary,
            &peers,
            &nodes,
        );
        known.uuids.set_like(&disk.gen_ids);
        self.md_touch();
        newer
    }

    /// The target reports the end of the resync (section 9.5).
    pub(crate) fn source_finished(
        &mut self,
        peer: NodeId,
        v: VolumeNr,
        state: &WireState,
        pdisk: DiskState,
    ) -> Result<(), PacketError> {
        let failed = self.data_resync_failed(peer, v);
        let role = state.role;
        self.log_at(LogLevel::Info, Some(peer), Some(v), "Resync done");
        self.legacy_source_finished(peer, v);
        let susp_peer = state.aftr_isp || state.user_isp;
        let _ = self.change(ChangeFlags::HARD, |s| {
            let Some(c) = s.conns.get_mut(&peer) else {
                return;
            };
            c.peer_role = role;
            let Some(pd) = c.peers.get_mut(&v) else {
                return;
            };
            pd.repl = ReplState::Established;
            pd.pdisk = if failed {
                DiskState::Inconsistent
            } else {
                pdisk
            };
            pd.susp_peer = susp_peer;
        });
        Ok(())
    }

    /// A Primary says that these nodes lack writes: a resync from one of them would bring old data back
    /// (section 9.7, 1).
    pub(crate) fn abort_resync_from(&mut self, v: VolumeNr, weak: NodeMask) {
        let sources: Vec<NodeId> = self
            .state
            .peers_of(v)
            .filter(|(n, _, pd)| pd.is_sync_target() && weak.contains(*n))
            .map(|(n, _, _)| n)
            .collect();
        for source in sources {
            self.log_at(
                LogLevel::Info,
                Some(source),
                Some(v),
                "My sync source became a weak node, aborting resync!",
            );
            let _ = self.change(ChangeFlags::HARD, |s| {
                if let Some(pd) = s.pd_mut(source, v) {
                    pd.repl = ReplState::Established;
                    pd.resync_active = false;
                }
            });
        }
    }

    /// A diskless Primary shows another generation: find the peer that has it (section 9.7, 3).
    pub(crate) fn get_resynced(&mut self, v: VolumeNr) {
        let candidates: Vec<NodeId> = self
            .state
            .peers_of(v)
            .filter(|(_, c, pd)| {
                c.cstate == ConnState::Connected
                    && pd.pdisk == DiskState::UpToDate
                    && pd.repl == ReplState::Established
            })
            .map(|(n, _, _)| n)
            .collect();
        for peer in candidates {
            self.compare_again(peer, v, true);
            if self.state.repl(peer, v) != ReplState::Established {
                self.send_uuids(
                    peer,
                    v,
                    UuidFlags::RESYNC.union(UuidFlags::DISKLESS_PRIMARY),
                );
                return;
            }
        }
    }
}
