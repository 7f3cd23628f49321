//! R1 and D1: what a read may return, given everything applications did.
//!
//! A write is an interval in time: submitted, and at some point over (completed, failed, or its node
//! crashed). A sector may show a write unless another write that began after it was over, and succeeded,
//! was complete before the read began. A write that was not completed successfully may show or not.
//!
//! Where losing writes is allowed, a node may be promoted that does not have the latest content. Then the
//! line of writes forks: what that node shows is the base of a new line. The old line is kept, because the
//! nodes that have its end are still there, and one of them may be promoted next.

use std::collections::{BTreeMap, BTreeSet};

use crate::buffer::Version;
use crate::clock::Time;
use crate::ranges::RangeMap;

/// Sectors per entry of the index.
const CELL: u64 = 64;

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Not yet.
    Open,
    /// Completed with success.
    Ok(Time),
    /// Failed, or its node crashed: it may have happened or not.
    Limbo(Time),
}

/// A write of an application.
#[derive(Clone, Debug)]
pub struct WriteRecord {
    /// What its sectors contain afterwards.
    pub version: Version,
    /// First sector.
    pub start: u64,
    /// One past the last sector.
    pub end: u64,
    /// The node it was submitted on.
    pub node: usize,
    /// When it was submitted.
    pub submitted: Time,
    /// How it ended.
    pub outcome: End,
    /// The nodes whose disks had it when it was completed.
    pub holders: Vec<usize>,
}

impl WriteRecord {
    fn over_at(&self) -> Option<Time> {
        match self.outcome {
            End::Open => None,
            End::Ok(t) | End::Limbo(t) => Some(t),
        }
    }
}

/// What applications did to one volume since its content was last known exactly.
#[derive(Clone, Debug, Default)]
pub struct History {
    base: RangeMap<Version>,
    writes: Vec<WriteRecord>,
    index: BTreeMap<u64, Vec<u32>>,
    /// When the last completed flush was submitted, by node.
    flushed: BTreeMap<usize, Time>,
    /// Nodes that wrote, and lost the cache of their disk afterwards.
    cache_lost: BTreeSet<usize>,
    /// The lines that were given up for this one.
    past: Vec<History>,
    /// The node that this line began on.
    origin: Option<usize>,
}

/// What sectors hold by which devices grew, by node.
pub const GROWN: std::ops::Range<Version> = 30..37;
/// What fresh disks hold, by node.
pub const FRESH: std::ops::Range<Version> = 10..17;

/// A sector with a content it must not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadContent {
    /// First of the sectors.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// What was found.
    pub found: Version,
    /// What would have been right.
    pub allowed: Vec<Version>,
}

impl std::fmt::Display for BadContent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let BadContent {
            start,
            end,
            found,
            allowed,
        } = self;
        write!(
            f,
            "sectors {start}..{end} contain write {found}, allowed are {allowed:?}"
        )
    }
}

impl History {
    /// The content of this node is what counts from now on.
    pub fn begin_line(&mut self, node: usize, content: RangeMap<Version>) {
        self.rebase(content);
        self.origin = Some(node);
    }

    /// The content is known exactly: a new line begins, and everything before counts no more.
    pub fn rebase(&mut self, content: RangeMap<Version>) {
        let mut old = std::mem::take(self);
        let mut past = std::mem::take(&mut old.past);
        past.push(old);
        *self = History {
            base: content,
            past,
            ..History::default()
        };
    }

    /// The devices are to grow from here on: what disks hold there was in no use.
    pub fn forget_from(&mut self, sector: u64) {
        self.base.clear(sector, u64::MAX);
        for line in &mut self.past {
            line.base.clear(sector, u64::MAX);
        }
    }

    /// A write begins; the answer names it.
    pub fn begin(&mut self, version: Version, start: u64, end: u64, node: usize, now: Time) -> u32 {
        let id = self.writes.len() as u32;
        self.writes.push(WriteRecord {
            version,
            start,
            end,
            node,
            submitted: now,
            outcome: End::Open,
            holders: Vec::new(),
        });
        for cell in start / CELL..=(end.max(1) - 1) / CELL {
            self.index.entry(cell).or_default().push(id);
        }
        id
    }

    /// A write ends. Ids from before the last `rebase` must not be used.
    pub fn finish(&mut self, id: u32, outcome: End) {
        if let Some(w) = self.writes.get_mut(id as usize) {
            w.outcome = outcome;
        }
    }

    /// A write has just been completed: these nodes have it.
    pub fn held_by(&mut self, id: u32, nodes: Vec<usize>) {
        if let Some(w) = self.writes.get_mut(id as usize) {
            w.holders = nodes;
        }
    }

    /// The history as far as D1 promises it while some nodes cannot be reached: a write is readable as long as one
    /// node that had it is. Those that only such a node had may show or not.
    ///
    /// `stands_for` names the node that has what another one had: its source, for a sync target.
    pub fn without(
        &self,
        stands_for: impl Fn(usize) -> usize,
        gone: impl Fn(usize) -> bool,
    ) -> History {
        let mut promised = self.clone();
        for w in &mut promised.writes {
            let holders: BTreeSet<usize> = w.holders.iter().map(|n| stands_for(*n)).collect();
            if let End::Ok(at) = w.outcome
                && holders.len() == 1
                && holders.iter().all(|n| gone(*n))
            {
                w.outcome = End::Limbo(at);
            }
        }
        promised
    }

    /// Every write submitted on this node that is still open will never be completed.
    pub fn node_crashed(&mut self, node: usize, now: Time) {
        for w in &mut self.writes {
            if w.node == node && w.outcome == End::Open {
                w.outcome = End::Limbo(now);
            }
        }
    }

    /// A flush has completed on a node that has the data: what was complete when it was submitted is durable
    /// there.
    pub fn flush_completed(&mut self, node: usize, submitted: Time) {
        let at = self.flushed.entry(node).or_default();
        *at = (*at).max(submitted);
    }

    /// The disk of a node has lost its cache. If the node wrote, its own copy need not be a state its writes
    /// went through: only flushes order what a disk keeps.
    pub fn cache_lost(&mut self, node: usize) {
        for line in self.past.iter_mut() {
            line.cache_lost(node);
        }
        if self.writes.iter().any(|w| w.node == node) {
            self.cache_lost.insert(node);
        }
    }

    /// A node has everything again.
    pub fn complete_again(&mut self, node: usize) {
        self.cache_lost.remove(&node);
    }

    /// Whether content is what D1 promises while some nodes cannot be reached. If all of this line is only there, it
    /// is what was promised before.
    pub fn promises(
        &self,
        content: &RangeMap<Version>,
        size: u64,
        now: Time,
        stands_for: impl Fn(usize) -> usize,
        gone: impl Fn(usize) -> bool,
    ) -> bool {
        for line in std::iter::once(self).chain(self.past.iter().rev()) {
            let promised = line.without(&stands_for, &gone);
            if promised.check_all(content, size, now).is_ok() {
                return true;
            }
            let lost = |w: &WriteRecord| !matches!(w.outcome, End::Ok(_));
            if !line.origin.is_some_and(&gone) || !promised.writes.iter().all(lost) {
                return false;
            }
        }
        false
    }

    /// Whether the first of two writes was not over when the second one began: they may be done in any order.
    pub fn overtaken(&self, first: Version, second: Version) -> bool {
        let find = |v| self.writes.iter().find(|w| w.version == v);
        let here = match (find(first), find(second)) {
            (Some(a), Some(b)) => a.over_at().is_none_or(|t| t >= b.submitted),
            _ => false,
        };
        here || self.past.iter().any(|p| p.overtaken(first, second))
    }

    /// All writes since the last rebase.
    pub fn writes(&self) -> &[WriteRecord] {
        &self.writes
    }

    /// First sectors of the cells of 64 sectors that were written to.
    pub fn cells(&self) -> Vec<u64> {
        self.index.keys().map(|c| c * CELL).collect()
    }

    fn touching(&self, start: u64, end: u64) -> Vec<&WriteRecord> {
        let mut ids: Vec<u32> = self
            .index
            .range(start / CELL..=(end.max(1) - 1) / CELL)
            .flat_map(|(_, v)| v.iter().copied())
            .collect();
        ids.sort_unstable();
        ids.dedup();
        let overlap = |w: &&WriteRecord| w.start < end && start < w.end;
        ids.iter()
            .map(|id| &self.writes[*id as usize])
            .filter(overlap)
            .collect()
    }

    /// What a read of one sector between two points in time may return.
    fn allowed(
        &self,
        touching: &[&WriteRecord],
        sector: u64,
        from: Time,
        to: Time,
    ) -> Vec<Version> {
        let here = || {
            touching
                .iter()
                .filter(|w| w.start <= sector && sector < w.end && w.submitted <= to)
        };
        // The youngest beginning of a write that was successfully over before the read began.
        let sure = here()
            .filter(|w| matches!(w.outcome, End::Ok(t) if t < from))
            .map(|w| w.submitted)
            .max();
        let mut allowed: Vec<Version> = here()
            .filter(|w| w.over_at().is_none_or(|t| sure.is_none_or(|s| t >= s)))
            .map(|w| w.version)
            .collect();
        if sure.is_none() {
            match self.base.get(sector) {
                Some(version) => allowed.push(version),
                // An area by which the devices grew holds anybody's garbage until it is written. A larger disk may
                // have kept there what it came with.
                None => allowed.extend(GROWN.chain(FRESH)),
            }
        }
        allowed
    }

    /// Checks content that was read between two points in time.
    pub fn check(
        &self,
        content: &RangeMap<Version>,
        start: u64,
        end: u64,
        from: Time,
        to: Time,
    ) -> Result<(), BadContent> {
        let touching = self.touching(start, end);
        let mut edges: Vec<u64> = touching.iter().flat_map(|w| [w.start, w.end]).collect();
        edges.extend(content.overlapping(start, end).map(|r| r.start));
        edges.extend(self.base.overlapping(start, end).map(|r| r.start));
        edges.retain(|s| (start..end).contains(s));
        edges.push(start);
        edges.sort_unstable();
        edges.dedup();
        for (i, &at) in edges.iter().enumerate() {
            let found = content.get(at).unwrap_or(Version::MAX);
            let to_sector = edges.get(i + 1).copied().unwrap_or(end);
            // Only the writes near this edge matter; the list is in order of submission.
            let allowed = self.allowed(&touching, at, from, to);
            if !allowed.contains(&found) {
                return Err(BadContent {
                    start: at,
                    end: to_sector,
                    found,
                    allowed,
                });
            }
        }
        Ok(())
    }

    /// Checks the whole content of a disk at rest.
    pub fn check_all(
        &self,
        content: &RangeMap<Version>,
        size: u64,
        now: Time,
    ) -> Result<(), BadContent> {
        self.check_between(content, size, now, now)
    }

    /// Checks that content is not older than what was complete at some time.
    pub fn check_durable(
        &self,
        content: &RangeMap<Version>,
        size: u64,
        from: Time,
    ) -> Result<(), BadContent> {
        self.check_between(content, size, from, Time::MAX)
    }

    fn check_between(
        &self,
        content: &RangeMap<Version>,
        size: u64,
        from: Time,
        to: Time,
    ) -> Result<(), BadContent> {
        // Piecewise, so that every piece has to look at few writes only.
        let mut at = 0;
        let mut cells = self.index.keys().copied().peekable();
        while at < size {
            let end = match cells.peek() {
                Some(c) if c * CELL <= at => {
                    cells.next();
                    (at / CELL + 1) * CELL
                }
                Some(c) => c * CELL,
                None => size,
            };
            self.check(content, at, end.min(size), from, to)?;
            at = end;
        }
        Ok(())
    }

    /// O1, D3, D4: content found on a replica that takes over must be a state that some line of writes went
    /// through, be it one that was given up. If it comes from the own disk of an initiator that lost its cache,
    /// it must have everything that was complete before the last flush there.
    pub fn check_takeover(&self, content: &RangeMap<Version>, size: u64) -> Result<(), BadContent> {
        let Err(bad) = self.check_line(content, size) else {
            return Ok(());
        };
        match self
            .past
            .iter()
            .any(|p| p.check_line(content, size).is_ok())
        {
            true => Ok(()),
            false => Err(bad),
        }
    }

    fn check_line(&self, content: &RangeMap<Version>, size: u64) -> Result<(), BadContent> {
        let Err(bad) = self.check_epochs(content, size) else {
            return Ok(());
        };
        let flushed = |node: &usize| {
            let from = self.flushed.get(node).copied().unwrap_or_default();
            self.check_between(content, size, from, Time::MAX).is_ok()
        };
        match self.cache_lost.iter().any(flushed) {
            true => Ok(()),
            false => Err(bad),
        }
    }

    /// O1: with a write goes every write that was complete when it was submitted.
    fn check_epochs(&self, content: &RangeMap<Version>, size: u64) -> Result<Time, BadContent> {
        let mut youngest = 0;
        for w in &self.writes {
            let present = w.version != crate::buffer::ZEROES
                && content
                    .overlapping(w.start, w.end)
                    .any(|r| r.value == w.version);
            if present {
                youngest = youngest.max(w.submitted);
            }
        }
        self.check_between(content, size, youngest, Time::MAX)?;
        Ok(youngest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history() -> History {
        let mut h = History::default();
        h.rebase(RangeMap::filled(200, 1));
        h
    }

    fn disk(writes: &[(u64, u64, Version)]) -> RangeMap<Version> {
        let mut d = RangeMap::filled(200, 1);
        writes.iter().for_each(|(s, e, v)| d.set(*s, *e, *v));
        d
    }

    #[test]
    fn completed_writes_show_and_old_ones_do_not() {
        let mut h = history();
        let a = h.begin(10, 0, 8, 0, 100);
        // Under way: old or new.
        assert!(h.check(&disk(&[]), 0, 8, 110, 120).is_ok());
        assert!(h.check(&disk(&[(0, 8, 10)]), 0, 8, 110, 120).is_ok());
        h.finish(a, End::Ok(150));
        assert!(
            h.check(&disk(&[]), 0, 8, 140, 160).is_ok(),
            "overlaps in time"
        );
        let bad = h.check(&disk(&[(4, 8, 10)]), 0, 8, 151, 160).unwrap_err();
        assert_eq!(
            (bad.start, bad.end, bad.found, &bad.allowed[..]),
            (0, 4, 1, &[10][..])
        );
        // A write of the future is nowhere.
        h.begin(11, 0, 8, 0, 300);
        assert!(h.check(&disk(&[(0, 8, 11)]), 0, 8, 151, 160).is_err());
    }

    #[test]
    fn limbo_shows_or_not_until_overwritten() {
        let mut h = history();
        h.begin(10, 0, 8, 0, 100);
        h.node_crashed(0, 120);
        assert!(h.check_all(&disk(&[]), 200, 500).is_ok());
        assert!(h.check_all(&disk(&[(0, 4, 10)]), 200, 500).is_ok());
        let b = h.begin(11, 2, 6, 1, 130);
        h.finish(b, End::Ok(140));
        assert!(
            h.check_all(&disk(&[(0, 2, 10), (2, 6, 11)]), 200, 500)
                .is_ok()
        );
        assert!(h.check_all(&disk(&[(0, 8, 10)]), 200, 500).is_err());
    }

    #[test]
    fn epochs_are_closed() {
        let mut h = history();
        let a = h.begin(10, 0, 8, 0, 100);
        h.finish(a, End::Ok(110));
        let b = h.begin(11, 100, 108, 0, 120);
        h.finish(b, End::Ok(130));
        assert!(h.check_epochs(&disk(&[]), 200).is_ok(), "all lost");
        assert!(
            h.check_epochs(&disk(&[(0, 8, 10)]), 200).is_ok(),
            "a prefix"
        );
        assert!(
            h.check_epochs(&disk(&[(0, 8, 10), (100, 108, 11)]), 200)
                .is_ok()
        );
        assert!(
            h.check_epochs(&disk(&[(100, 108, 11)]), 200).is_err(),
            "the second without the first"
        );
    }

    #[test]
    fn a_takeover_shows_one_line() {
        let mut h = history();
        let a = h.begin(10, 0, 8, 0, 100);
        h.finish(a, End::Ok(110));
        // The other node takes over without it.
        h.rebase(disk(&[]));
        let b = h.begin(11, 100, 108, 1, 120);
        h.finish(b, End::Ok(130));
        let check =
            |h: &History, w: &[(u64, u64, Version)]| h.check_takeover(&disk(w), 200).is_ok();
        assert!(check(&h, &[(100, 108, 11)]), "the new line");
        assert!(check(&h, &[(0, 8, 10)]), "the old line");
        assert!(!check(&h, &[(0, 8, 10), (100, 108, 11)]), "a mixture");
    }

    #[test]
    fn what_only_nodes_out_of_reach_have_is_not_promised() {
        let mut h = history();
        let a = h.begin(10, 0, 8, 0, 100);
        h.finish(a, End::Ok(110));
        h.held_by(a, vec![0, 1]);
        let promised =
            |h: &History, w: &[(u64, u64, Version)], sources: &[(usize, usize)], gone| {
                let stands_for = |n| sources.iter().find(|s| s.0 == n).map_or(n, |s| s.1);
                h.promises(&disk(w), 200, 500, stands_for, |n| n == gone)
            };
        assert!(!promised(&h, &[], &[], 0), "node 1 has it, too");
        assert!(promised(&h, &[], &[(1, 0)], 0), "not as a target of node 0");
        // Node 2 goes on without it, and alone.
        h.begin_line(2, disk(&[]));
        let b = h.begin(11, 100, 108, 2, 120);
        h.finish(b, End::Ok(130));
        h.held_by(b, vec![2]);
        let first = [(0, 8, 10)];
        assert!(!promised(&h, &first, &[], 0));
        assert!(promised(&h, &first, &[], 2), "the line before is back");
        h.held_by(b, vec![2, 1]);
        assert!(!promised(&h, &first, &[], 2), "node 1 has what came since");
    }

    #[test]
    fn writes_at_the_same_time_may_be_done_in_any_order() {
        let mut h = history();
        let a = h.begin(10, 0, 16, 0, 100);
        let b = h.begin(11, 8, 16, 0, 120);
        assert!(h.overtaken(10, 11), "still open");
        h.finish(a, End::Ok(150));
        h.finish(b, End::Ok(140));
        assert!(h.overtaken(10, 11));
        h.begin(12, 8, 16, 0, 160);
        assert!(!h.overtaken(11, 12));
        h.rebase(disk(&[]));
        assert!(h.overtaken(10, 11), "also of a line given up");
    }

    #[test]
    fn a_lost_cache_keeps_what_was_flushed() {
        let mut h = history();
        for (version, at) in [(10, 100), (11, 120), (12, 140)] {
            let w = h.begin(version, version * 8, version * 8 + 8, 0, at);
            h.finish(w, End::Ok(at + 10));
        }
        h.flush_completed(0, 115);
        let check =
            |h: &History, w: &[(u64, u64, Version)]| h.check_takeover(&disk(w), 200).is_ok();
        let holes = [(80, 88, 10), (96, 104, 12)];
        assert!(!check(&h, &holes), "no reason for a hole");
        h.cache_lost(1);
        assert!(!check(&h, &holes), "another node's cache");
        h.cache_lost(0);
        assert!(check(&h, &holes));
        assert!(!check(&h, &[(88, 96, 11)]), "without what was flushed");
        h.complete_again(0);
        assert!(!check(&h, &holes));
    }
}
