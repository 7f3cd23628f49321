//! The SyncTarget: it drives the resync, asking for block after block that is out of sync (data path,
//! sections 15.1, 15.2, 15.8 and 16.5).

use alloc::format;
use alloc::vec::Vec;
use core::time::Duration;

use drbd_proto::{
    ConnState, DigestAlg, DigestValue, DiskState, Features, NodeId, ReplState, Sector, VolumeNr,
    max_request_size,
};

use crate::activity_log::EXTENT_SECTOR_SHIFT;
use crate::bitmap::BitNr;
use crate::data::DataOpKind;
use crate::data::cache::metadata_flushes_data;
use crate::engine::Engine;
use crate::event::OpResult;
use crate::id::BufId;
use crate::interval::IntervalId;
use crate::resync::marks::Marks;
use crate::resync::rate::{Rate, RateOptions, TURN};
use crate::resync::requests::{MAX_REQUEST, Request, Requests, thin_request};
use crate::state::change::ChangeFlags;
use crate::status::SyncInfo;
use crate::time::Instant;
use crate::timer::Timer;

/// A resync with this node as target.
#[derive(Debug)]
pub(crate) struct Run {
    /// Where the next bit is looked for.
    pub(super) cursor: BitNr,
    /// Bits at the beginning, and at the end of the previous pass.
    pub(super) total: u64,
    pub(super) previous: u64,
    /// Bits whose blocks could not be transferred.
    pub(super) failed: u64,
    /// Bits that turned out to be equal.
    pub(super) same: u64,
    /// The source is Ahead: no requests until the state changes.
    pub(super) ahead: bool,
    /// How much to ask for, and when.
    pub(super) rate: Rate,
    pub(super) started: Instant,
    pub(super) marks: Marks,
    pub(super) paused: Duration,
    pub(super) paused_since: Option<Instant>,
    /// All peers replicate to this node.
    pub(super) replicated: bool,
    /// The end was reported to the control plane.
    pub(super) finishing: bool,
    /// The bits towards other nodes are on the disk after this write-out of the bitmap.
    pub(super) prepared: u64,
    /// The first turn was taken.
    pub(super) begun: bool,
    /// Compare digests instead of asking for data.
    pub(super) checksums: Option<DigestAlg>,
}

/// Where a request stands.
#[derive(Debug)]
pub(super) enum Stage {
    /// A write to the same place goes first.
    WaitSend(Option<DigestValue>),
    /// Own content is read and digested.
    Checksum,
    /// Sent.
    Sent,
    /// Answered; a write to the same place goes first.
    WaitWrite(Option<BufId>),
    /// Known to be all zero, with nobody in the way: discarded together with its neighbours.
    Zeroes,
    /// On the disk's way.
    Writing,
}

/// A request.
#[derive(Debug)]
pub(crate) struct TargetRequest {
    pub(super) sector: Sector,
    pub(super) len: u32,
    pub(super) stage: Stage,
    pub(super) thin: bool,
    /// What was sent may be written after this write-out of the bitmap.
    pub(super) wait_bitmap: Option<u64>,
    /// The source said meanwhile that it differs.
    pub(super) differs: bool,
    /// Its place in the interval tree.
    pub(crate) interval: Option<IntervalId>,
}

impl TargetRequest {
    /// Whether it shares sectors with a request that is planned.
    pub(super) fn overlaps(&self, other: &Request) -> bool {
        self.shares(other.sector, other.len)
    }

    /// Sector behind it.
    pub(super) fn end(&self) -> u64 {
        self.sector.0 + u64::from(self.len / 512)
    }

    /// Whether it shares sectors with a range.
    pub(super) fn shares(&self, sector: Sector, len: u32) -> bool {
        self.sector.0 < sector.0.saturating_add(u64::from(len / 512)) && sector.0 < self.end()
    }

    /// Whether it lies in a step of 4 MiB.
    pub(super) fn touches_step(&self, step: u64) -> bool {
        self.sector.0 >> EXTENT_SECTOR_SHIFT <= step
            && step < self.end().div_ceil(1 << EXTENT_SECTOR_SHIFT)
    }
}

/// An answer without data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    /// Digests are equal.
    InSync,
    /// All zero.
    Deallocated,
    /// Could not be read.
    Failed,
    /// Come back later.
    Cancelled,
    /// Come back when the source is not Ahead any more.
    Ahead,
}

impl Run {
    /// Progress for status output. `spb`: sectors per bit.
    pub(crate) fn info(&self, now: Instant, weight: u64, spb: u64) -> SyncInfo {
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let paused = self.paused + self.paused_since.map_or(Duration::ZERO, |s| now.since(s));
        let elapsed = now.since(self.started);
        SyncInfo {
            total: self.total.max(weight) * spb,
            left: weight * spb,
            failed: self.failed * spb,
            same_csum: self.same * spb,
            elapsed_ms: ms(elapsed),
            paused_ms: ms(paused),
            windows: self
                .marks
                .windows(now, weight)
                .map(|(ms, bits)| (ms, bits * spb)),
            want: self.rate.wanted(),
            verify: None,
        }
    }
}

impl Engine {
    /// Starts, pauses, resumes or ends the part of the target.
    pub(super) fn target_state_changed(&mut self, peer: NodeId, volume: VolumeNr) {
        let repl = self.state.repl(peer, volume);
        let timer = Timer::ResyncTurn(peer, volume);
        let now = self.now;
        if repl != ReplState::SyncTarget {
            // No more neighbours come.
            self.discard_all_zeroes(peer, volume);
        }
        if !matches!(repl, ReplState::SyncTarget | ReplState::PausedSyncT) {
            let Some(state) = self.resync_mut(peer, volume) else {
                return;
            };
            if state.run.take().is_some() {
                if repl != ReplState::VerifyS {
                    self.timers.cancel(timer);
                }
                self.drop_unsent(peer, volume);
                self.finish_in_sync_steps(peer, volume);
                self.data_bitmap_writeout(volume);
            }
            return;
        }
        let weight = self.bits_towards(peer, volume);
        let replicated = self.all_replicate(volume);
        let checksums = self.checksum_algorithm(peer, volume);
        let Some(state) = self.resync_mut(peer, volume) else {
            return;
        };
        let fresh = state.run.is_none();
        let run = state.run.get_or_insert_with(|| Run {
            cursor: BitNr(0),
            total: weight,
            previous: weight,
            failed: 0,
            same: 0,
            ahead: false,
            rate: Rate::new(now),
            started: now,
            marks: Marks::new(now, weight),
            paused: Duration::ZERO,
            paused_since: None,
            replicated: false,
            finishing: false,
            prepared: 0,
            begun: false,
            checksums,
        });
        let newly_replicated = replicated && !core::mem::replace(&mut run.replicated, replicated);
        run.ahead = false;
        if repl == ReplState::SyncTarget {
            if let Some(since) = run.paused_since.take() {
                run.paused += now.since(since);
            }
        } else {
            run.paused_since.get_or_insert(now);
            // An end that was being agreed on is not confirmed while paused: it is sought again.
            run.finishing = false;
        }
        if newly_replicated {
            // Writes from before replication must be accounted for (data path, section 12.6).
            self.request_flush();
        }
        if repl == ReplState::SyncTarget {
            self.timers.set_if_idle(timer, now);
        } else {
            self.timers.cancel(timer);
        }
        if fresh {
            self.mark_towards_others(peer, volume);
            let text = format!("Began resync as target (will sync {weight} bits)");
            self.log_resync(peer, volume, &text);
        }
    }

    /// What this node gets from its source differs from what other nodes have, until they are known to be
    /// equal. The marks have to be on the disk before the first block is: no activity log covers a resync
    /// (invariant M2).
    pub(super) fn mark_towards_others(&mut self, peer: NodeId, volume: VolumeNr) {
        let Some(source) = self.slot_of(peer, volume) else {
            return;
        };
        let Some(disk) = self.disk_mut(volume) else {
            return;
        };
        let bitmap = &mut disk.bitmap;
        for slot in bitmap.all_slots().filter(|slot| *slot != source) {
            bitmap.merge_slot(source, slot);
        }
        let round = self.bitmap_barrier(volume);
        if let Some(run) = self.run_mut(peer, volume) {
            run.prepared = round;
        }
        self.restart_own_targets(peer, volume);
    }

    /// This node has been a source itself: what it gave its targets is older than what it gets now, and they know
    /// nothing of the new marks. They have to fetch the bitmap again.
    fn restart_own_targets(&mut self, source: NodeId, volume: VolumeNr) {
        let targets: Vec<NodeId> = self
            .state
            .peers_of(volume)
            .filter(|(n, c, pd)| {
                *n != source
                    && c.cstate == ConnState::Connected
                    && (pd.is_sync_source() || pd.repl == ReplState::WFBitMapS)
            })
            .map(|(n, _, _)| n)
            .collect();
        for target in targets {
            let text = "this node is a sync target itself now: its targets have to begin again";
            self.fail_connection(target, ConnState::NetworkFailure, text);
        }
    }

    /// Whether all peers send their application's writes here (data path, section 16.4).
    pub(super) fn all_replicate(&self, volume: VolumeNr) -> bool {
        self.state
            .peers_of(volume)
            .filter(|(_, c, pd)| {
                c.cstate == ConnState::Connected && pd.repl >= ReplState::Established
            })
            .all(|(_, _, pd)| pd.peer_replication)
    }

    /// The algorithm of a checksum based resync, if this one is to be one (data path, section 15.9).
    pub(super) fn checksum_algorithm(&self, peer: NodeId, volume: VolumeNr) -> Option<DigestAlg> {
        let conn = self.conns.get(&peer).filter(|c| c.apv() >= 89)?;
        let algorithm = DigestAlg::from_name(&conn.options.csums_alg)?;
        let crashed = self
            .volumes
            .get(&volume)
            .is_some_and(|v| v.flags.crashed_primary);
        let reconcile = conn
            .peers
            .get(&volume)
            .is_some_and(|pd| pd.flags.reconciliation_resync);
        (!conn.options.csums_after_crash_only || crashed || reconcile).then_some(algorithm)
    }

    /// One turn of the request generator (data path, section 15.2).
    pub(super) fn target_turn(&mut self, peer: NodeId, volume: VolumeNr) {
        if !self.local_disk_at_least(volume, DiskState::Inconsistent) {
            return;
        }
        let written = self.volumes.get(&volume).map_or(0, |v| v.data.bitmap_done);
        if self
            .run_mut(peer, volume)
            .is_none_or(|run| written < run.prepared)
        {
            // The next turn comes when the bitmap is written.
            return;
        }
        self.repeat_flush();
        if self.pass_over(peer, volume) {
            self.end_of_pass(peer, volume);
            return;
        }
        if let Some(run) = self.run_mut(peer, volume) {
            run.begun = true;
        }
        let made = self.plan_requests(peer, volume);
        if made.is_empty() {
            self.discard_all_zeroes(peer, volume);
        }
        for request in made {
            self.make_request(peer, volume, request.sector, request.len, request.thin);
        }
        let pause = self
            .run_mut(peer, volume)
            .map_or(TURN, |run| run.rate.pause());
        let at = self.now + pause;
        self.timers.set(Timer::ResyncTurn(peer, volume), at);
    }

    /// The requests of this turn.
    pub(super) fn plan_requests(&mut self, peer: NodeId, volume: VolumeNr) -> Vec<Request> {
        self.note_progress(peer, volume);
        let share = self.beside_applications(peer, volume);
        let now = self.now;
        let slot = self.slot_of(peer, volume);
        let disk = self.volumes.get(&volume).and_then(|v| v.disk.as_ref());
        let (Some(slot), Some(disk), Some(conn)) = (slot, disk, self.conns.get_mut(&peer)) else {
            return Vec::new();
        };
        let thin_agreed = conn.has(Features::THIN_RESYNC);
        let largest = max_request_size(conn.apv());
        let Some(pd) = conn.peers.get_mut(&volume) else {
            return Vec::new();
        };
        let options = RateOptions::new(&conn.options, &pd.options);
        let peer_block = pd.sizes.bm_block.max(4096);
        let own_block = disk.bitmap.block_size();
        let state = &mut pd.data.resync;
        let Some(run) = state.run.as_mut().filter(|run| !run.ahead) else {
            return Vec::new();
        };
        let block = u64::from(peer_block.max(own_block)) / 512;
        let most = share.unwrap_or(u64::MAX);
        let Some(sectors) = run.rate.turn(now, &options, block, most) else {
            return Vec::new();
        };
        let thin = thin_request(disk.options.rs_discard_granularity, &disk.backing)
            .filter(|_| thin_agreed && run.checksums.is_none());
        let mut plan = Requests::new(&disk.bitmap, slot, run.cursor, sectors, peer_block, thin)
            .at_most(largest);
        // Requests of an earlier pass, or of a run that was given up, may still be under way.
        let made: Vec<Request> = plan
            .by_ref()
            .filter(|request| !state.requests.values().any(|old| old.overlaps(request)))
            .collect();
        run.cursor = plan.cursor();
        made
    }

    /// The run of a peer device, to change it.
    pub(super) fn run_mut(&mut self, peer: NodeId, volume: VolumeNr) -> Option<&mut Run> {
        self.resync_mut(peer, volume)?.run.as_mut()
    }

    /// Sectors came back; if these were the last ones the next turn may be due early (data path, section
    /// 15.4).
    pub(super) fn note_answered(&mut self, peer: NodeId, volume: VolumeNr, len: u32) {
        let now = self.now;
        let max_bio = self
            .volumes
            .get(&volume)
            .map_or(MAX_REQUEST, |v| v.options.max_bio_size);
        let Some(conn) = self.conns.get_mut(&peer) else {
            return;
        };
        let Some(pd) = conn.peers.get_mut(&volume) else {
            return;
        };
        let options = RateOptions::new(&conn.options, &pd.options);
        let Some(run) = pd.data.resync.run.as_mut() else {
            return;
        };
        run.rate.came_back(u64::from(len / 512));
        let early = run
            .rate
            .early_turn(now, &options, max_bio)
            .filter(|_| !run.ahead && !pd.data.resync.applications.are_busy(now));
        if let Some(at) = early.filter(|_| self.state.repl(peer, volume) == ReplState::SyncTarget) {
            self.timers
                .set(Timer::ResyncTurn(peer, volume), at.max(now));
        }
    }

    /// The streams are gone; what the disk works on keeps its place until it is done.
    pub(super) fn target_lost(&mut self, peer: NodeId, volume: VolumeNr) {
        if let Some(state) = self.resync_mut(peer, volume) {
            state.run = None;
            state.zeroes.clear();
        }
        self.drop_requests(peer, volume, |stage| !matches!(stage, Stage::Writing));
    }

    /// Sector up to which the running pass has asked.
    pub(super) fn target_position(&self, peer: NodeId, volume: VolumeNr) -> Option<u64> {
        let run = self.resync(peer, volume)?.run.as_ref()?;
        let disk = self.volumes.get(&volume)?.disk.as_ref()?;
        (run.cursor.0 < disk.bitmap.bits()).then(|| run.cursor.0 * disk.bitmap.sectors_per_bit())
    }

    /// A resync that was paused in favour of another one is over once its requests are answered: then the
    /// other one may begin (data path, section 16.1).
    pub(super) fn release_drained(&mut self) {
        let mut drained = Vec::new();
        for (peer, conn) in &self.state.conns {
            for (volume, pd) in &conn.peers {
                let idle = self
                    .resync(*peer, *volume)
                    .is_none_or(|s| s.requests.is_empty());
                if pd.resync_active && pd.repl != ReplState::SyncTarget && idle {
                    drained.push((*peer, *volume));
                }
            }
        }
        for (peer, volume) in drained {
            let _ = self.change(ChangeFlags::HARD, |s| {
                if let Some(pd) = s.pd_mut(peer, volume) {
                    pd.resync_active = false;
                }
            });
        }
    }

    /// Whether no bit is left behind the cursor and nothing is under way (data path, section 16.5).
    pub(super) fn pass_over(&self, peer: NodeId, volume: VolumeNr) -> bool {
        let (Some(slot), Some(state)) = (self.slot_of(peer, volume), self.resync(peer, volume))
        else {
            return false;
        };
        let Some(run) = &state.run else { return false };
        let Some(disk) = self.volumes.get(&volume).and_then(|v| v.disk.as_ref()) else {
            return false;
        };
        state.requests.is_empty()
            && !run.finishing
            && !self.flush_outstanding()
            && disk.bitmap.next_set(slot, run.cursor).is_none()
    }

    /// Bits were set while the end was being agreed on: another pass.
    pub(crate) fn data_resync_again(&mut self, peer: NodeId, volume: VolumeNr) {
        let now = self.now;
        if let Some(run) = self.resync_mut(peer, volume).and_then(|s| s.run.as_mut()) {
            run.finishing = false;
            run.cursor = BitNr(0);
            self.timers.set(Timer::ResyncTurn(peer, volume), now);
        }
    }

    /// Another pass, or the end (data path, section 16.5).
    pub(super) fn end_of_pass(&mut self, peer: NodeId, volume: VolumeNr) {
        let weight = self.bits_towards(peer, volume);
        let replicated = self.all_replicate(volume);
        let (now, timer) = (self.now, Timer::ResyncTurn(peer, volume));
        let Some(run) = self.resync_mut(peer, volume).and_then(|s| s.run.as_mut()) else {
            return;
        };
        let failed = run.failed > 0;
        let shrinks = !failed && weight > 0 && weight < run.previous / 2;
        run.previous = weight;
        if !replicated && !shrinks {
            run.cursor = BitNr(0);
            self.timers.set(timer, now + TURN);
            let _ = self.change(ChangeFlags::HARD, |s| {
                for conn in s.conns.values_mut() {
                    if let Some(pd) = conn.peers.get_mut(&volume) {
                        pd.peer_replication = true;
                    }
                }
            });
        } else if !failed && weight > 0 {
            run.cursor = BitNr(0);
            self.timers.set(timer, now);
        } else {
            run.finishing = true;
            self.finish_in_sync_steps(peer, volume);
            let disk = self.disk_ref(volume);
            if disk.is_some_and(|d| !metadata_flushes_data(d)) && self.cache_dirty(volume) {
                // The superblock must not say UpToDate before the data is safe.
                let generation = self.conns.get(&peer).map_or(0, |c| c.data.generation);
                let what = DataOpKind::ResyncFlush {
                    peer,
                    generation,
                    failed,
                };
                self.flush_cache(volume, what);
            } else {
                self.resync_finished(peer, volume, failed);
            }
        }
    }

    /// What a resync wrote is safe.
    pub(crate) fn resync_flushed(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        generation: u64,
        failed: bool,
        result: OpResult,
    ) {
        let good = self.flush_succeeded(volume, &result);
        let same = self
            .conns
            .get(&peer)
            .is_some_and(|c| c.data.generation == generation);
        if good && same && self.run_mut(peer, volume).is_some_and(|run| run.finishing) {
            self.resync_finished(peer, volume, failed);
        }
    }
}

/// How a request ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Written,
    Same,
    Failed,
    Later,
}
