//! Online verify: two copies are compared by digests while they are in use (data path, section 17).

use alloc::format;
use core::time::Duration;

use drbd_proto::packet::OvOutcome;
use drbd_proto::{ConnState, DigestValue, DiskState, NodeId, ReplState, Sector, VolumeNr};

use crate::bitmap::BitNr;
use crate::engine::Engine;
use crate::interval::IntervalId;
use crate::resync::marks::Marks;
use crate::resync::source::Asked;
use crate::state::change::ChangeFlags;
use crate::status::{SyncInfo, VerifyInfo};
use crate::time::Instant;
use crate::timer::Timer;
use crate::upcall::Handler;

/// Time between turns.
const TURN: Duration = Duration::from_millis(100);

/// A verify.
#[derive(Debug)]
pub(crate) struct Verify {
    /// This node asks.
    pub(super) asks: bool,
    /// Next bit to ask for.
    pub(super) cursor: u64,
    /// Sector behind the last one to compare; none: to the end.
    pub(super) stop: Option<u64>,
    /// Where it began.
    pub(super) first: u64,
    /// Its speed.
    pub(super) marks: Marks,
    /// Bits to go, and at the beginning. Not known on the answering side before the first request.
    pub(super) left: u64,
    pub(super) total: u64,
    pub(super) begun: bool,
    /// Bits that were not compared, and those that differ.
    pub(super) skipped: u64,
    pub(super) differ: u64,
    pub(super) started: Instant,
    /// Adjacent differences, to be reported in one line: first sector, sectors.
    pub(super) report: Option<(u64, u64)>,
}

impl Verify {
    /// Progress for status output. `spb`: sectors per bit; `under_way`: bits asked for and not compared.
    pub(crate) fn info(&self, now: Instant, spb: u64, under_way: u64) -> SyncInfo {
        let elapsed = u64::try_from(now.since(self.started).as_millis()).unwrap_or(u64::MAX);
        SyncInfo {
            total: self.total * spb,
            left: self.left * spb,
            failed: 0,
            same_csum: 0,
            elapsed_ms: elapsed,
            paused_ms: 0,
            windows: self
                .marks
                .windows(now, self.left)
                .map(|(ms, bits)| (ms, bits * spb)),
            want: 0,
            verify: Some(VerifyInfo {
                start: self.first * spb,
                stop: self.stop,
                position: self.cursor.saturating_sub(under_way) * spb,
                skipped: self.skipped * spb,
            }),
        }
    }
}

/// Where a comparison stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// Until a position in a Primary's stream of writes is reached.
    Parked,
    /// Being read and digested.
    Reading,
    /// With the other node.
    Sent,
}

/// A block being compared.
#[derive(Debug)]
pub(crate) struct VerifyRequest {
    pub(super) asked: Asked,
    pub(super) stage: Stage,
    pub(super) interval: Option<IntervalId>,
    /// Digest of the other node's block.
    pub(super) theirs: Option<DigestValue>,
    /// This node asks.
    pub(super) asks: bool,
}

impl Engine {
    /// The administrator gave bounds for the next verify, in sectors (data path, section 17, item 2).
    pub(crate) fn verify_range(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        start: Option<Sector>,
        stop: Option<Sector>,
    ) {
        if let Some(state) = self.resync_mut(peer, volume) {
            if let Some(start) = start {
                state.verify_from = start.0;
            }
            state.verify_stop = stop.map(|s| s.0);
        }
    }

    /// Starts or ends a verify.
    pub(super) fn verify_state_changed(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        old: ReplState,
        new: ReplState,
    ) {
        let is = |repl| matches!(repl, ReplState::VerifyS | ReplState::VerifyT);
        if is(new) && !is(old) {
            self.verify_begin(peer, volume, new == ReplState::VerifyS);
        } else if !is(new) && is(old) {
            self.verify_end(peer, volume);
        }
    }

    pub(super) fn verify_begin(&mut self, peer: NodeId, volume: VolumeNr, asks: bool) {
        let now = self.now;
        let Some(disk) = self.volumes.get(&volume).and_then(|v| v.disk.as_ref()) else {
            return;
        };
        let (bits, spb) = (disk.bitmap.bits(), disk.bitmap.sectors_per_bit());
        let Some(state) = self.resync_mut(peer, volume) else {
            return;
        };
        let cursor = (state.verify_from / spb).min(bits.saturating_sub(1));
        let left = bits - cursor;
        state.verify = Some(Verify {
            asks,
            cursor,
            stop: state.verify_stop.take(),
            first: cursor,
            marks: Marks::new(now, left),
            left,
            total: left,
            begun: asks,
            skipped: 0,
            differ: 0,
            started: now,
            report: None,
        });
        if asks {
            self.timers.set(Timer::ResyncTurn(peer, volume), now);
        }
    }

    /// Reports what was found and writes it down (data path, section 17, item 7).
    pub(super) fn verify_end(&mut self, peer: NodeId, volume: VolumeNr) {
        self.verify_report(peer, volume);
        let block = self.volumes.get(&volume).and_then(|v| v.disk.as_ref());
        let (spb, block) = block.map_or((8, 4), |d| {
            (d.bitmap.sectors_per_bit(), d.bitmap.block_size() / 1024)
        });
        let now = self.now;
        let Some(state) = self.resync_mut(peer, volume) else {
            return;
        };
        let Some(verify) = state.verify.take() else {
            return;
        };
        let done = verify.left == 0 || verify.stop.is_some_and(|s| verify.cursor * spb >= s);
        let at = (verify.cursor - state.compared.len() as u64).saturating_mul(spb);
        state.verify_from = if done { 0 } else { at };
        self.timers.cancel(Timer::ResyncTurn(peer, volume));
        self.drop_compared(peer, volume);
        let text = if done {
            let seconds = now.since(verify.started).as_secs();
            let skipped = match verify.skipped {
                0 => alloc::string::String::new(),
                n => format!(" but {n} {block}k blocks skipped"),
            };
            format!("Online verify done{skipped} (total {seconds} sec)")
        } else {
            format!("Online Verify reached sector {at}")
        };
        self.log_resync(peer, volume, &text);
        if self.bits_towards(peer, volume) > 0 {
            let found = verify.differ;
            let text = format!("Online verify found {found} {block}k blocks out of sync!");
            self.log_resync(peer, volume, &text);
            self.call(Handler::OutOfSync, Some(peer), Some(volume));
        }
        self.data_bitmap_writeout(volume);
    }

    /// The asking side has ended the verify.
    pub(crate) fn data_verify_finished(&mut self, peer: NodeId, volume: VolumeNr) {
        if let Some(verify) = self
            .resync_mut(peer, volume)
            .and_then(|s| s.verify.as_mut())
        {
            // What the asking side did not ask for is not our business.
            verify.left = 0;
        }
    }

    /// One turn of the asking side.
    pub(super) fn verify_turn(&mut self, peer: NodeId, volume: VolumeNr) {
        if !self.local_disk_at_least(volume, DiskState::Inconsistent) {
            return;
        }
        self.timers
            .set(Timer::ResyncTurn(peer, volume), self.now + TURN);
        // At least one request is made, so that every verify comes to its end.
        let begun = self.resync(peer, volume).and_then(|s| s.verify.as_ref());
        let begun = begun.is_some_and(|v| v.cursor > v.first);
        let share = self.beside_applications(peer, volume);
        if begun && share == Some(0) {
            return;
        }
        let Some(disk) = self.volumes.get(&volume).and_then(|v| v.disk.as_ref()) else {
            return;
        };
        let (bits, spb) = (disk.bitmap.bits(), disk.bitmap.sectors_per_bit());
        let Some(pd) = self.conns.get(&peer).and_then(|c| c.peers.get(&volume)) else {
            return;
        };
        // As many blocks as c-max-rate allows in a turn.
        let most = u64::from(pd.options.c_max_rate) * 2 / 10;
        let most = (most.min(share.unwrap_or(most)) / spb).clamp(1, 1024);
        let state = &pd.data.resync;
        let Some(verify) = &state.verify else { return };
        let room = most.saturating_sub(state.compared.len() as u64);
        let first = verify.cursor;
        let end = verify
            .stop
            .map_or(bits, |stop| stop.div_ceil(spb).max(first + 1).min(bits));
        for bit in first..end.min(first + room) {
            let Some(disk) = self.volumes.get(&volume).and_then(|v| v.disk.as_ref()) else {
                return;
            };
            let range = disk.bitmap.sectors(&(BitNr(bit)..=BitNr(bit)));
            let len = (range.end.0 - range.start.0) * 512;
            self.verify_ask(peer, volume, range.start, len as u32);
            if let Some(verify) = self
                .resync_mut(peer, volume)
                .and_then(|s| s.verify.as_mut())
            {
                verify.cursor = bit + 1;
            }
        }
        self.verify_check_end(peer, volume);
    }

    /// Counts a block and marks it if it differs (data path, section 17, items 6 and 8).
    pub(super) fn verify_count(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        sector: Sector,
        len: u32,
        outcome: OvOutcome,
    ) {
        if outcome == OvOutcome::OutOfSync {
            self.set_towards(peer, volume, sector, len);
        }
        let sectors = u64::from(len / 512);
        let Some(verify) = self
            .resync_mut(peer, volume)
            .and_then(|s| s.verify.as_mut())
        else {
            return;
        };
        verify.left = verify.left.saturating_sub(1);
        match outcome {
            OvOutcome::Skipped => verify.skipped += 1,
            OvOutcome::OutOfSync => {
                verify.differ += 1;
                match &mut verify.report {
                    Some((start, count)) if *start + *count == sector.0 => *count += sectors,
                    _ => {
                        self.verify_report(peer, volume);
                        let state = self.resync_mut(peer, volume);
                        if let Some(verify) = state.and_then(|s| s.verify.as_mut()) {
                            verify.report = Some((sector.0, sectors));
                        }
                    }
                }
            }
            OvOutcome::InSync => {}
        }
        self.note_progress(peer, volume);
    }

    pub(super) fn verify_report(&mut self, peer: NodeId, volume: VolumeNr) {
        let state = self.resync_mut(peer, volume);
        let report = state
            .and_then(|s| s.verify.as_mut())
            .and_then(|v| v.report.take());
        if let Some((start, size)) = report {
            let text = format!("Out of sync: start={start}, size={size} (sectors)");
            self.log_resync(peer, volume, &text);
        }
    }

    /// The asking side ends the verify when everything is compared.
    pub(super) fn verify_check_end(&mut self, peer: NodeId, volume: VolumeNr) {
        let spb = self.volumes.get(&volume).and_then(|v| v.disk.as_ref());
        let spb = spb.map_or(8, |d| d.bitmap.sectors_per_bit());
        let now = self.now;
        let Some(state) = self.resync(peer, volume) else {
            return;
        };
        let Some(verify) = state.verify.as_ref().filter(|v| v.asks) else {
            return;
        };
        let stopped = verify.stop.is_some_and(|stop| verify.cursor * spb >= stop);
        if !state.compared.is_empty() {
            return;
        }
        if verify.left > 0 && !stopped {
            // Everything is back: go on at once.
            self.timers.set(Timer::ResyncTurn(peer, volume), now);
            return;
        }
        let _ = self.change(ChangeFlags::HARD, |s| {
            if let Some(pd) = s.pd_mut(peer, volume) {
                pd.repl = ReplState::Established;
            }
        });
        if self.state.cstate(peer) == ConnState::Connected {
            self.send_state(peer, volume);
        }
    }

    pub(super) fn drop_compared(&mut self, peer: NodeId, volume: VolumeNr) {
        let Some(state) = self.resync_mut(peer, volume) else {
            return;
        };
        for request in core::mem::take(&mut state.compared).into_values() {
            self.leave_interval(volume, request.interval);
        }
    }

    /// The streams are gone; the next run goes on where this one was.
    pub(super) fn verify_lost(&mut self, peer: NodeId, volume: VolumeNr) {
        if self
            .resync(peer, volume)
            .is_some_and(|s| s.verify.is_some())
        {
            self.verify_end(peer, volume);
        }
        self.drop_compared(peer, volume);
    }
}
