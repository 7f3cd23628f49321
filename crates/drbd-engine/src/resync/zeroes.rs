//! What reads as zero at the source of a thin resync: the target discards it, neighbours together (data path, section
//! 15.8).
//!
//! Answers without data that follow each other in the order of the requests, and on the disk, become one discard. It
//! goes out when nothing can be added to it any more: the requests before and after it lie elsewhere or were answered
//! otherwise, a boundary is reached, or no further requests are made.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Bound;

use drbd_proto::{DiskState, NodeId, ReplState, Sector, VolumeNr};

use crate::effect::{DiscardKind, Effect};
use crate::engine::Engine;
use crate::resync::target::{Stage, TargetRequest};
use crate::resync::{ResyncId, ResyncState, Step};

/// Discards do not cross multiples of this, in bytes, unless the granularity of the disk is larger.
const BOUNDARY: u64 = 128 << 20;

/// Requests that were answered without data, and are not on the disk's way yet.
#[derive(Debug, Default)]
pub(super) struct Runs(BTreeMap<ResyncId, Run>);

/// Neighbours; they stand under the first of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Run {
    last: ResyncId,
    start: u64,
    end: u64,
}

impl Runs {
    /// The connection is gone.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The run that begins with this request or the nearest one before it.
    fn upto(&self, id: ResyncId) -> Option<(ResyncId, Run)> {
        let (first, run) = self.0.range(..=id).next_back()?;
        Some((*first, *run))
    }

    /// Adds a request. `before`, `after`: its neighbours in order; runs end at multiples of `step` sectors.
    fn add(
        &mut self,
        id: ResyncId,
        request: &TargetRequest,
        before: Option<ResyncId>,
        after: Option<ResyncId>,
        step: u64,
    ) {
        let start = request.sector.0;
        let end = request.end();
        let mut run = Run {
            last: id,
            start,
            end,
        };
        let mut first = id;
        if let Some((begin, left)) = before.and_then(|b| self.upto(b))
            && Some(left.last) == before
            && left.end == start
            && !start.is_multiple_of(step)
        {
            first = begin;
            run.start = left.start;
        }
        if let Some(right) = after.and_then(|a| self.0.get(&a).copied())
            && right.start == end
            && !end.is_multiple_of(step)
            && let Some(after) = after
        {
            self.0.remove(&after);
            run.last = right.last;
            run.end = right.end;
        }
        self.0.insert(first, run);
    }
}

impl ResyncState {
    /// The request after this one.
    fn next_request(&self, id: ResyncId) -> Option<(ResyncId, &TargetRequest)> {
        let later = (Bound::Excluded(id), Bound::Unbounded);
        let (id, request) = self.requests.range(later).next()?;
        Some((*id, request))
    }

    /// The request before this one.
    fn previous_request(&self, id: ResyncId) -> Option<(ResyncId, &TargetRequest)> {
        let (id, request) = self.requests.range(..id).next_back()?;
        Some((*id, request))
    }

    /// Whether nothing can be added to a run any more, at either end: answers come in any order.
    fn is_closed(&self, first: ResyncId, run: &Run, step: u64) -> bool {
        let open = |r: &TargetRequest| {
            !matches!(
                r.stage,
                Stage::WaitWrite(Some(_)) | Stage::Zeroes | Stage::Writing
            )
        };
        let before = |(_, r): (ResyncId, &TargetRequest)| r.end() == run.start && open(r);
        let after = |(_, r): (ResyncId, &TargetRequest)| r.sector.0 != run.end || !open(r);
        let start =
            run.start.is_multiple_of(step) || !self.previous_request(first).is_some_and(before);
        let end = run.end.is_multiple_of(step) || self.next_request(run.last).is_some_and(after);
        start && end
    }
}

impl Engine {
    fn discard_boundary(&self, volume: VolumeNr) -> u64 {
        let disk = self.volumes.get(&volume).and_then(|v| v.disk.as_ref());
        let granularity = disk.map_or(0, |d| u64::from(d.backing.discard_granularity));
        BOUNDARY.max(granularity) / 512
    }

    /// A request was answered without data, and owns its range.
    pub(super) fn zeroes_known(&mut self, peer: NodeId, volume: VolumeNr, id: ResyncId) {
        let step = self.discard_boundary(volume);
        let Some(state) = self.resync_mut(peer, volume) else {
            return;
        };
        let before = state.previous_request(id).map(|(id, _)| id);
        let after = state.next_request(id).map(|(id, _)| id);
        let Some(request) = state.requests.get(&id) else {
            return;
        };
        state.zeroes.add(id, request, before, after, step);
        if self.state.repl(peer, volume) == ReplState::SyncTarget {
            self.zeroes_beside(peer, volume, id);
        } else {
            // The resync has been paused: nothing more is asked for.
            self.discard_all_zeroes(peer, volume);
        }
    }

    /// The runs beside this place in the order of requests may have come to their end.
    pub(super) fn zeroes_beside(&mut self, peer: NodeId, volume: VolumeNr, id: ResyncId) {
        let Some(state) = self.resync(peer, volume) else {
            return;
        };
        let step = self.discard_boundary(volume);
        let upto = state.zeroes.upto(id);
        let next = state.next_request(id).map(|(next, _)| next);
        let next = next.and_then(|next| Some((next, *state.zeroes.0.get(&next)?)));
        let closed = [upto, next].map(|run| {
            run.filter(|(first, run)| state.is_closed(*first, run, step))
                .map(|(first, _)| first)
        });
        for first in closed.into_iter().flatten() {
            self.discard_zeroes(peer, volume, first);
        }
    }

    /// Nothing is added to any run any more.
    pub(super) fn discard_all_zeroes(&mut self, peer: NodeId, volume: VolumeNr) {
        while let Some(first) = self
            .resync(peer, volume)
            .and_then(|s| s.zeroes.0.keys().next().copied())
        {
            self.discard_zeroes(peer, volume, first);
        }
    }

    fn discard_zeroes(&mut self, peer: NodeId, volume: VolumeNr, first: ResyncId) {
        let Some(state) = self.resync_mut(peer, volume) else {
            return;
        };
        let Some(Run { last, start, end }) = state.zeroes.0.remove(&first) else {
            return;
        };
        let mut requests = Vec::new();
        for (id, request) in state.requests.range_mut(first..=last) {
            request.stage = Stage::Writing;
            requests.push((*id, request.sector, request.len));
        }
        if !self.local_disk_at_least(volume, DiskState::Inconsistent) {
            for (id, sector, len) in requests {
                self.acknowledge(peer, volume, id, sector, len, false);
            }
            return;
        }
        let sectors = end.saturating_sub(start);
        if let Some(v) = self.volumes.get_mut(&volume) {
            v.data.written += sectors;
            v.data.synced += sectors;
        }
        let kind = self.received_discard(
            volume,
            DiscardKind {
                trim: true,
                zero: false,
            },
        );
        let op = self.resync_op(peer, volume, first, Step::Discard(last));
        self.push(Effect::DiskDiscard {
            op,
            volume,
            sector: Sector(start),
            len: u32::try_from(sectors * 512).unwrap_or(u32::MAX),
            kind,
        });
    }
}
