//! Intervals: who works on which sectors of a volume, and who has to wait for whom.
//!
//! Every write, resync request and verify request of a volume is an interval from the moment it is
//! known until it is over (data path, section 6.1). One that may go ahead *owns* its range: it is
//! [`SUBMITTED`](Flags::SUBMITTED). The rules of [`Intervals::conflict`] (data path, section 6.2) see to
//! it that writes that overlap never run at once on a backing disk, nor on the wire (invariant O7).
//!
//! Nobody polls: who finishes or leaves gets the list of those that waited and must be checked again.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use drbd_proto::{NodeId, Sector};

#[cfg(test)]
mod tests;

/// Name of an interval, given out by its owner in rising order and unique within a volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IntervalId(pub u64);

/// What an interval is for (data path, section 6.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A write of an application on this node.
    LocalWrite,
    /// A write replicated by a peer.
    PeerWrite,
    /// SyncTarget: from the request until the data are written.
    ResyncWrite,
    /// SyncSource: from the read until the peer's acknowledgement.
    ResyncRead,
    /// The side of an online verify that asks.
    VerifySource,
    /// The side of an online verify that compares.
    VerifyTarget,
    /// Keeps writes away while others are told what is in sync (data path, section 14.4).
    PeersInSync,
}

impl Kind {
    fn is_application(self) -> bool {
        matches!(self, Kind::LocalWrite | Kind::PeerWrite)
    }

    fn is_write(self) -> bool {
        matches!(self, Kind::LocalWrite | Kind::PeerWrite | Kind::ResyncWrite)
    }

    fn is_resync(self) -> bool {
        matches!(self, Kind::ResyncWrite | Kind::ResyncRead)
    }

    fn is_verify(self) -> bool {
        matches!(self, Kind::VerifySource | Kind::VerifyTarget)
    }
}

/// How far an interval is (data path, section 6.1).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Flags(u8);

impl Flags {
    /// Nothing has happened yet.
    pub const NONE: Flags = Flags(0);
    /// It owns its range.
    pub const SUBMITTED: Flags = Flags(1);
    /// The request to the peer may be sent, or was.
    pub const READY_TO_SEND: Flags = Flags(2);
    /// The peer's reply is here.
    pub const RECEIVED: Flags = Flags(4);
    /// Completed to the application.
    pub const COMPLETED: Flags = Flags(8);
    /// The local disk has finished with it.
    pub const BACKING_COMPLETED: Flags = Flags(16);
    /// A write came in between: the result of this verify request means nothing.
    pub const CONFLICT: Flags = Flags(32);

    /// Whether all of `other` are set.
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// These and `other`.
    pub const fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

/// A range of sectors that someone works on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interval {
    /// First sector.
    pub sector: Sector,
    /// Length in bytes, a multiple of 512, at least 512.
    pub len: u32,
    /// What for.
    pub kind: Kind,
    /// The peer it came from or goes to; `None` for a local write.
    pub peer: Option<NodeId>,
    /// How far it is.
    pub flags: Flags,
}

impl Interval {
    /// An interval that has not started.
    pub fn new(kind: Kind, peer: Option<NodeId>, sector: Sector, len: u32) -> Self {
        Interval {
            sector,
            len,
            kind,
            peer,
            flags: Flags::NONE,
        }
    }

    fn sectors(&self) -> u64 {
        u64::from(self.len).div_ceil(512)
    }

    /// First sector behind it.
    fn end(&self) -> u64 {
        self.sector.0.saturating_add(self.sectors())
    }

    /// A request that was sent and waits for its reply; nothing here can help it along.
    fn waits_for_peer(&self) -> bool {
        self.flags.has(Flags::READY_TO_SEND) && !self.flags.has(Flags::RECEIVED)
    }
}

/// Which conflicts count (data path, section 6.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Check {
    /// May this interval have its range?
    Submit,
    /// May this resync request be sent? Writes of the peer that it goes to do not count: the data
    /// stream keeps them in order.
    Send,
    /// Two primaries: does this write collide with another node's write? If so, the connection is
    /// closed (data path, section 6.3).
    TwoPrimaries,
}

/// The intervals of one volume.
///
/// Sorted by start within classes of length, so that a search looks at no more than twice the length
/// of the intervals of a class: one long discard does not make searching for short writes slow.
#[derive(Default, Debug)]
pub struct Intervals {
    intervals: BTreeMap<IntervalId, Interval>,
    classes: [BTreeMap<(u64, IntervalId), u64>; CLASSES],
}

/// Class c has the intervals of up to `1 << c` sectors; 2^32 bytes are 2^23 sectors.
const CLASSES: usize = 24;

fn class(interval: &Interval) -> usize {
    (interval.sectors().next_power_of_two().trailing_zeros() as usize).min(CLASSES - 1)
}

impl Intervals {
    /// No intervals.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an interval.
    ///
    /// # Panics
    /// If there is one of this name, or its length is 0.
    pub fn insert(&mut self, id: IntervalId, interval: Interval) {
        assert!(interval.len > 0, "empty interval {id:?}");
        assert!(!self.intervals.contains_key(&id), "second interval {id:?}");
        self.classes[class(&interval)].insert((interval.sector.0, id), interval.end());
        self.intervals.insert(id, interval);
    }

    /// Looks an interval up.
    pub fn get(&self, id: IntervalId) -> Option<&Interval> {
        self.intervals.get(&id)
    }

    /// Number of intervals.
    pub fn len(&self) -> usize {
        self.intervals.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.intervals.is_empty()
    }

    /// All intervals by name.
    pub fn iter(&self) -> impl Iterator<Item = (IntervalId, &Interval)> {
        self.intervals.iter().map(|(id, interval)| (*id, interval))
    }

    /// Those that share a sector with the range, in no particular order.
    pub fn overlapping(
        &self,
        sector: Sector,
        len: u32,
    ) -> impl Iterator<Item = (IntervalId, &Interval)> {
        let start = sector.0;
        let end = start.saturating_add(u64::from(len).div_ceil(512));
        self.overlaps(start, end)
            .filter_map(|id| Some((id, self.intervals.get(&id)?)))
    }

    fn overlaps(&self, start: u64, end: u64) -> impl Iterator<Item = IntervalId> + '_ {
        self.classes
            .iter()
            .enumerate()
            .filter(|(_, members)| !members.is_empty())
            .flat_map(move |(class, members)| {
                let from = start.saturating_sub((1 << class) - 1).min(end);
                members
                    .range((from, IntervalId(0))..(end, IntervalId(0)))
                    .filter(move |(_, member_end)| **member_end > start)
                    .map(|((_, id), _)| *id)
            })
    }

    /// The peer's request or reply this is about: the interval of exactly this peer, kind and range.
    pub fn find(
        &self,
        kind: Kind,
        peer: NodeId,
        sector: Sector,
        len: u32,
    ) -> Option<(IntervalId, &Interval)> {
        self.overlapping(sector, len).find(|(_, i)| {
            i.kind == kind && i.peer == Some(peer) && i.sector == sector && i.len == len
        })
    }

    /// Whether a write of an application reaches behind a sector, and the local disk has not finished with it.
    pub fn writes_behind(&self, sector: Sector) -> bool {
        self.overlaps(sector.0, u64::MAX)
            .filter_map(|id| self.intervals.get(&id))
            .any(|i| i.kind.is_application() && !i.flags.has(Flags::BACKING_COMPLETED))
    }

    /// Sets flags. Unknown names are ignored.
    pub fn set(&mut self, id: IntervalId, flags: Flags) {
        if let Some(interval) = self.intervals.get_mut(&id) {
            interval.flags = interval.flags.with(flags);
        }
    }

    /// What an interval has to wait for, if anything (data path, section 6.2). A write marks the
    /// verify requests it runs into as [`CONFLICT`](Flags::CONFLICT).
    pub fn conflict(&mut self, id: IntervalId, check: Check) -> Option<IntervalId> {
        let new = *self.intervals.get(&id)?;
        let mut crossed = Vec::new();
        let found = self.overlaps(new.sector.0, new.end()).find(|&other| {
            let Some(i) = self.intervals.get(&other).filter(|_| other != id) else {
                return false;
            };
            match verdict(id, &new, other, i, check) {
                Verdict::Wait => true,
                Verdict::Pass => false,
                Verdict::Cross => {
                    crossed.push(other);
                    false
                }
            }
        });
        for other in crossed {
            self.set(other, Flags::CONFLICT);
        }
        found
    }

    /// Gives the interval its range if nothing is in the way; else says what is.
    ///
    /// # Errors
    /// The interval to wait for.
    pub fn submit(&mut self, id: IntervalId) -> Result<(), IntervalId> {
        match self.conflict(id, Check::Submit) {
            Some(other) => Err(other),
            None => {
                self.set(id, Flags::SUBMITTED);
                Ok(())
            }
        }
    }

    /// Sets [`COMPLETED`](Flags::COMPLETED) or [`BACKING_COMPLETED`](Flags::BACKING_COMPLETED), and
    /// adds to `waiting` whom to check again, oldest first.
    pub fn completed(&mut self, id: IntervalId, flags: Flags, waiting: &mut Vec<IntervalId>) {
        self.set(id, flags);
        if let Some(interval) = self.intervals.get(&id).copied() {
            self.release(id, &interval, waiting);
        }
    }

    /// Removes an interval, and adds to `waiting` whom to check again, oldest first.
    pub fn remove(&mut self, id: IntervalId, waiting: &mut Vec<IntervalId>) -> Option<Interval> {
        let interval = self.intervals.remove(&id)?;
        self.classes[class(&interval)].remove(&(interval.sector.0, id));
        self.release(id, &interval, waiting);
        Some(interval)
    }

    fn release(&self, id: IntervalId, interval: &Interval, waiting: &mut Vec<IntervalId>) {
        let start = waiting.len();
        waiting.extend(
            self.overlaps(interval.sector.0, interval.end())
                .filter(|other| {
                    *other != id
                        && self
                            .intervals
                            .get(other)
                            .is_some_and(|i| !i.flags.has(Flags::SUBMITTED) && !i.waits_for_peer())
                }),
        );
        if let Some(added) = waiting.get_mut(start..) {
            added.sort_unstable();
        }
    }
}

enum Verdict {
    Pass,
    Wait,
    /// Pass, but the other's result is worthless.
    Cross,
}

/// Does `n`, which wants to start, have to wait for `i`, which overlaps it? The numbers are those of
/// data path, section 6.2.
fn verdict(
    n_id: IntervalId,
    n: &Interval,
    i_id: IntervalId,
    i: &Interval,
    check: Check,
) -> Verdict {
    // 1. It is over already, as far as `n` is concerned.
    let over = match (check, n.kind) {
        (Check::TwoPrimaries, _) | (_, Kind::LocalWrite) => Flags::COMPLETED,
        _ => Flags::BACKING_COMPLETED,
    };
    if i.flags.has(over) {
        return Verdict::Pass;
    }
    // 2. It has not started, and has no precedence.
    if !defers(n_id, n, i_id, i, check) {
        return Verdict::Pass;
    }
    match check {
        Check::Submit => {}
        // 3. The data stream keeps the order.
        Check::Send if i.kind == Kind::PeerWrite && i.peer == n.peer => return Verdict::Pass,
        Check::Send => {}
        // 4. Only writes of other nodes' applications count.
        Check::TwoPrimaries if !i.kind.is_application() || i.peer == n.peer => {
            return Verdict::Pass;
        }
        Check::TwoPrimaries => {}
    }
    match (n.kind.is_write(), i.kind) {
        // 5. Verify never blocks a write.
        (true, kind) if kind.is_verify() => Verdict::Cross,
        // 6. Readers do not block each other.
        (false, Kind::ResyncRead | Kind::PeersInSync) => Verdict::Pass,
        (false, kind) if kind.is_verify() => Verdict::Pass,
        _ => Verdict::Wait,
    }
}

fn defers(n_id: IntervalId, n: &Interval, i_id: IntervalId, i: &Interval, check: Check) -> bool {
    // a.
    if i.flags.has(Flags::SUBMITTED) {
        return true;
    }
    if check == Check::TwoPrimaries {
        return false;
    }
    // b. Resync must not starve behind a busy application. As long as the reply is not here, writes of
    // the same peer may pass: they were sent before it.
    if n.kind.is_application() && i.kind.is_resync() {
        return i.flags.has(Flags::RECEIVED) || i.peer != n.peer;
    }
    // c.
    if n.kind == Kind::ResyncWrite && i.kind == Kind::ResyncWrite {
        return i.flags.has(Flags::READY_TO_SEND);
    }
    // Beyond section 6.2: writes of one peer that overlap keep their order even if the earlier one
    // waits for something the later one does not touch (invariant O8; protocols A and B need this).
    n.kind == Kind::PeerWrite && i.kind == Kind::PeerWrite && i.peer == n.peer && i_id < n_id
}
