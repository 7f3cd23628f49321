//! The activity log: which 4 MiB extents may hold writes that the bitmap does not show yet.
//!
//! An extent must be in the durable log before a write touches it (data path, invariant M1). The log
//! has a fixed number of slots; bringing in a cold extent evicts the one that was released longest
//! ago, and costs one transaction: bitmap pages of the evicted extents first, then the block with the
//! changes (data path, section 13.3). This module keeps the slots and says what the next transaction
//! contains. It writes nothing; suspension and `al-updates` are its user's business.
//!
//! All memory is taken when the log is made; nothing here allocates afterwards.

use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use drbd_meta::Block;
use drbd_meta::activity_log::{AlHeader, AlUpdate};
use drbd_proto::Sector;

#[cfg(test)]
mod tests;

/// Most slots that one transaction changes (data path, section 1).
pub const MAX_CHANGES: usize = 64;
/// Slots that one transaction describes as context (data path, section 1).
pub const CONTEXT_SLOTS: u16 = 919;
/// Allowed numbers of slots, `al-extents` (data path, section 13.1).
pub const SLOTS: RangeInclusive<u16> = 67..=65534;
/// An extent is `1 << EXTENT_SECTOR_SHIFT` sectors long: 4 MiB.
pub const EXTENT_SECTOR_SHIFT: u32 = 13;

/// Number of a 4 MiB extent of the data area.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ExtentNr(pub u32);

impl ExtentNr {
    /// The extents touched by `len` bytes from `sector` on; none if `len` is 0. Sectors beyond the
    /// largest device (2^41 sectors) count as its last extent.
    pub fn covering(sector: Sector, len: u32) -> impl Iterator<Item = ExtentNr> + Clone {
        let sectors = u64::from(len).div_ceil(512);
        let nr = |s: u64| u32::try_from(s >> EXTENT_SECTOR_SHIFT).unwrap_or(FREE - 1);
        let first = nr(sector.0);
        let count = match sectors {
            0 => 0,
            n => nr(sector.0.saturating_add(n - 1)) - first + 1,
        };
        (0..count).map(move |i| ExtentNr(first + i))
    }

    /// Its first sector; it has `1 << EXTENT_SECTOR_SHIFT` of them, or fewer at the device's end.
    pub fn first_sector(self) -> Sector {
        Sector(u64::from(self.0) << EXTENT_SECTOR_SHIFT)
    }
}

/// Why there is no room for an extent just now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Busy {
    /// Every slot is referenced, or someone is waiting since this was so. Try again when
    /// [`ActivityLog::put`] returned true.
    Starving,
    /// A transaction is on its way to the disk. Try again after [`ActivityLog::commit`].
    Running,
    /// The transaction being built has 64 changes. Write it, then try again.
    Full,
}

/// How far an extent is, that was got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Got {
    /// The durable log has it: writes may go ahead.
    Active,
    /// It becomes active with the next [`ActivityLog::commit`].
    Pending,
}

/// An activity log could not be made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AlError {
    /// `al-extents` is out of range.
    #[error("al-extents is {0}, must be 67 to 65534")]
    Slots(u16),
    /// No memory.
    #[error("no memory for the activity log: use fewer al-extents")]
    Memory,
}

impl From<TryReserveError> for AlError {
    fn from(_: TryReserveError) -> Self {
        AlError::Memory
    }
}

/// On disk and here: no extent.
const FREE: u32 = u32::MAX;
/// End of a list or of a hash chain.
const NIL: u16 = u16::MAX;

#[derive(Clone, Copy)]
struct Slot {
    /// What the durable log says.
    committed: u32,
    /// What it says after the next commit; the same unless a change is pending.
    new: u32,
    refs: u32,
    /// Next slot in the chain of the hash bucket of `new`.
    chain: u16,
    /// Neighbours in the lru list; meaningful if unreferenced, committed and not free.
    older: u16,
    newer: u16,
}

impl Slot {
    fn changing(&self) -> bool {
        self.committed != self.new
    }
}

/// The slots of the activity log of one volume (data path, section 13.1).
pub struct ActivityLog {
    slots: Vec<Slot>,
    /// Heads of the hash chains; a power of two of them.
    buckets: Vec<u16>,
    /// Free slots, handed out from the end.
    free: Vec<u16>,
    /// Ends of the lru list.
    oldest: u16,
    newest: u16,
    /// Slots with a pending change, in the order of activation.
    changes: Vec<u16>,
    referenced: u16,
    starving: bool,
    frozen: bool,
    running: bool,
    tr_number: u32,
    context_start: u16,
}

impl ActivityLog {
    /// An empty log of `slots` slots. `tr_number` is the number of its first transaction: 0 for a new
    /// volume, [`tr_number`](Self::tr_number) of the previous log if the volume was attached before
    /// (metadata, section 5.3).
    ///
    /// # Errors
    /// The number of slots is out of range, or there is no memory.
    pub fn new(slots: u16, tr_number: u32) -> Result<Self, AlError> {
        if !SLOTS.contains(&slots) {
            return Err(AlError::Slots(slots));
        }
        let n = usize::from(slots);
        let empty = Slot {
            committed: FREE,
            new: FREE,
            refs: 0,
            chain: NIL,
            older: NIL,
            newer: NIL,
        };
        let mut log = ActivityLog {
            slots: filled(n, empty)?,
            buckets: filled(n.next_power_of_two(), NIL)?,
            free: filled(n, 0)?,
            oldest: NIL,
            newest: NIL,
            changes: Vec::new(),
            referenced: 0,
            starving: false,
            frozen: false,
            running: false,
            tr_number,
            context_start: 0,
        };
        log.changes.try_reserve_exact(MAX_CHANGES)?;
        // The highest slot number is handed out first.
        log.free
            .iter_mut()
            .zip(0..)
            .for_each(|(free, nr)| *free = nr);
        Ok(log)
    }

    /// Takes a reference on an extent that is active already: the hot path, allowed at any time.
    /// False if it is not active, or if a cold extent starves.
    pub fn get_active(&mut self, extent: ExtentNr) -> bool {
        match self.find(extent.0) {
            Some(slot) if !self.starving && !self.frozen && !self.slot(slot).changing() => {
                self.reference(slot);
                true
            }
            _ => false,
        }
    }

    /// Takes a reference on an extent, adding it to the transaction being built if it is cold.
    ///
    /// # Errors
    /// Says what to wait for.
    pub fn get(&mut self, extent: ExtentNr) -> Result<Got, Busy> {
        if self.starving || self.frozen {
            return Err(Busy::Starving);
        }
        if let Some(slot) = self.find(extent.0) {
            self.reference(slot);
            return Ok(if self.slot(slot).changing() {
                Got::Pending
            } else {
                Got::Active
            });
        }
        if self.running {
            return Err(Busy::Running);
        }
        if self.free.is_empty() && self.oldest == NIL {
            // From now on hits are refused, too: a stream of them must not keep the cold extent out.
            self.starving = true;
            return Err(Busy::Starving);
        }
        if self.changes.len() >= MAX_CHANGES {
            return Err(Busy::Full);
        }
        let nr = match self.free.pop() {
            Some(nr) => nr,
            None => {
                let nr = self.oldest;
                self.lru_remove(nr);
                self.unhash(nr);
                nr
            }
        };
        let slot = self.slot_mut(nr);
        slot.new = extent.0;
        slot.refs = 1;
        self.referenced += 1;
        self.hash(nr);
        self.changes.push(nr);
        Ok(Got::Pending)
    }

    /// Gives a reference back. True if it was the extent's last one: who waits for
    /// [`Busy::Starving`] may try again.
    ///
    /// # Panics
    /// If nobody holds a reference on the extent.
    pub fn put(&mut self, extent: ExtentNr) -> bool {
        let found = self.find(extent.0).filter(|&nr| self.slot(nr).refs > 0);
        assert!(
            found.is_some(),
            "put of extent {} without a reference",
            extent.0
        );
        let Some(nr) = found else { return false };
        let slot = self.slot_mut(nr);
        slot.refs -= 1;
        if slot.refs > 0 {
            return false;
        }
        let changing = slot.changing();
        self.referenced -= 1;
        self.starving = false;
        if !changing {
            self.lru_push(nr);
        }
        true
    }

    /// Closes the transaction being built; it is then [running](Self::transaction) until
    /// [`commit`](Self::commit). False if there is nothing to write or one is running already.
    pub fn begin(&mut self) -> bool {
        if self.running || self.changes.is_empty() {
            return false;
        }
        self.running = true;
        true
    }

    /// The running transaction.
    pub fn transaction(&self) -> Option<Transaction<'_>> {
        self.running.then_some(Transaction { log: self })
    }

    /// The changes are durable: pending extents become active. `written` is false if no block was
    /// written because `al-updates` is off. After a failed write there is nothing to commit: the
    /// disk is detached, and the log goes with it.
    pub fn commit(&mut self, written: bool) {
        debug_assert!(self.running, "commit without begin");
        for i in 0..self.changes.len() {
            let nr = self.changes[i];
            let slot = self.slot_mut(nr);
            slot.committed = slot.new;
            if slot.refs == 0 {
                self.lru_push(nr);
            }
        }
        self.changes.clear();
        self.running = false;
        if written {
            self.tr_number = self.tr_number.wrapping_add(1);
            let next = self.context_start.saturating_add(CONTEXT_SLOTS);
            self.context_start = if usize::from(next) >= self.slots.len() {
                0
            } else {
                next
            };
        }
    }

    /// Empties all unreferenced slots, without a transaction: the durable log keeps them, which is
    /// safe. True if the log is empty now. For changes of its size or of `al-updates`, and for
    /// suspension (data path, section 13.6).
    pub fn shrink(&mut self) -> bool {
        while self.oldest != NIL {
            let nr = self.oldest;
            self.lru_remove(nr);
            self.unhash(nr);
            let slot = self.slot_mut(nr);
            slot.committed = FREE;
            slot.new = FREE;
            self.free.push(nr);
        }
        self.free.len() == self.slots.len()
    }

    /// From now on nobody gets an extent, active or not: the log moves on the medium. Those who have one keep it.
    pub fn freeze(&mut self) {
        self.frozen = true;
    }

    /// The log can be used again. Who was refused may try again.
    pub fn thaw(&mut self) {
        self.frozen = false;
    }

    /// The next transaction gets this number: the ring was written anew.
    pub fn set_tr_number(&mut self, tr_number: u32) {
        self.tr_number = tr_number;
    }

    /// A block without changes that describes the slots from `context_start` on (metadata, section 7.4).
    pub fn context_block(&self, tr_number: u32, context_start: u16, block: &mut Block) {
        let header = AlHeader {
            tr_number,
            context_size: self.len(),
            context_start,
        };
        let context = self.slots.iter().skip(usize::from(context_start));
        let encoded = header.encode(&[], context.map(|slot| slot.committed), block);
        // No updates: nothing is left that it could refuse.
        debug_assert!(encoded.is_ok(), "{encoded:?}");
    }

    /// Number of the running or next transaction.
    pub fn tr_number(&self) -> u32 {
        self.tr_number
    }

    /// Whether a transaction is between [`begin`](Self::begin) and [`commit`](Self::commit).
    pub fn is_running(&self) -> bool {
        self.running
    }

    /// Whether a cold extent waits for a reference count to reach zero.
    pub fn is_starving(&self) -> bool {
        self.starving
    }

    /// Number of changes in the transaction being built or running.
    pub fn pending_changes(&self) -> usize {
        self.changes.len()
    }

    /// Whether someone holds a reference on the extent (data path, section 14.4 asks).
    pub fn is_referenced(&self, extent: ExtentNr) -> bool {
        self.find(extent.0).is_some_and(|nr| self.slot(nr).refs > 0)
    }

    /// Number of extents with references.
    pub fn referenced(&self) -> u16 {
        self.referenced
    }

    /// Number of slots, `al-extents`.
    pub fn len(&self) -> u16 {
        u16::try_from(self.slots.len()).unwrap_or(u16::MAX)
    }

    /// Whether no extent is active or pending.
    pub fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    // Slot numbers below come from our own lists and are always in range.

    fn slot(&self, nr: u16) -> &Slot {
        &self.slots[usize::from(nr)]
    }

    fn slot_mut(&mut self, nr: u16) -> &mut Slot {
        &mut self.slots[usize::from(nr)]
    }

    fn bucket(&self, extent: u32) -> usize {
        // Neighbouring extents go to neighbouring buckets: the usual case has no collisions at all.
        extent as usize & (self.buckets.len() - 1)
    }

    fn find(&self, extent: u32) -> Option<u16> {
        let mut nr = self.buckets[self.bucket(extent)];
        while nr != NIL {
            let slot = self.slot(nr);
            if slot.new == extent {
                return Some(nr);
            }
            nr = slot.chain;
        }
        None
    }

    fn hash(&mut self, nr: u16) {
        let bucket = self.bucket(self.slot(nr).new);
        self.slot_mut(nr).chain = self.buckets[bucket];
        self.buckets[bucket] = nr;
    }

    fn unhash(&mut self, nr: u16) {
        let bucket = self.bucket(self.slot(nr).new);
        let next = self.slot(nr).chain;
        if self.buckets[bucket] == nr {
            self.buckets[bucket] = next;
            return;
        }
        let mut before = self.buckets[bucket];
        while self.slot(before).chain != nr {
            before = self.slot(before).chain;
        }
        self.slot_mut(before).chain = next;
    }

    fn reference(&mut self, nr: u16) {
        let slot = self.slot_mut(nr);
        slot.refs += 1;
        if slot.refs > 1 {
            return;
        }
        let changing = slot.changing();
        self.referenced += 1;
        if !changing {
            self.lru_remove(nr);
        }
    }

    fn lru_push(&mut self, nr: u16) {
        let before = self.newest;
        let slot = self.slot_mut(nr);
        slot.older = before;
        slot.newer = NIL;
        match before {
            NIL => self.oldest = nr,
            _ => self.slot_mut(before).newer = nr,
        }
        self.newest = nr;
    }

    fn lru_remove(&mut self, nr: u16) {
        let Slot { older, newer, .. } = *self.slot(nr);
        match older {
            NIL => self.oldest = newer,
            _ => self.slot_mut(older).newer = newer,
        }
        match newer {
            NIL => self.newest = older,
            _ => self.slot_mut(newer).older = older,
        }
    }
}

/// What the block of the running transaction has to contain (metadata, section 5.1).
#[derive(Clone, Copy)]
pub struct Transaction<'a> {
    log: &'a ActivityLog,
}

impl<'a> Transaction<'a> {
    /// Its number; says also where in the ring the block goes.
    pub fn tr_number(&self) -> u32 {
        self.log.tr_number
    }

    /// The changed slots and the extents they hold from now on, latest change first; 1 to 64.
    pub fn updates(&self) -> impl Iterator<Item = (u16, ExtentNr)> + 'a {
        let log = self.log;
        log.changes
            .iter()
            .rev()
            .map(move |&nr| (nr, ExtentNr(log.slot(nr).new)))
    }

    /// The extents that leave the log. Changed bitmap pages that cover them must be written before
    /// the block (data path, invariant M3). One that was asked for again meanwhile is among the
    /// updates, too, with another slot.
    pub fn evicted(&self) -> impl Iterator<Item = ExtentNr> + 'a {
        let log = self.log;
        log.changes
            .iter()
            .map(move |&nr| log.slot(nr).committed)
            .filter(|&extent| extent != FREE)
            .map(ExtentNr)
    }

    /// The block as it goes to the disk.
    pub fn encode(&self, block: &mut Block) {
        let mut updates = [AlUpdate { slot: 0, extent: 0 }; MAX_CHANGES];
        let mut count = 0;
        for (to, (slot, extent)) in updates.iter_mut().zip(self.updates()) {
            *to = AlUpdate {
                slot,
                extent: extent.0,
            };
            count += 1;
        }
        let header = AlHeader {
            tr_number: self.tr_number(),
            context_size: self.context_size(),
            context_start: self.context_start(),
        };
        let context = self.context().map(|extent| extent.map_or(FREE, |e| e.0));
        let encoded = header.encode(&updates[..count], context, block);
        // At most 64 updates, and slots below 65534: nothing is left that it could refuse.
        debug_assert!(encoded.is_ok(), "{encoded:?}");
    }

    /// Number of slots of the log.
    pub fn context_size(&self) -> u16 {
        self.log.len()
    }

    /// First slot that [`context`](Self::context) describes.
    pub fn context_start(&self) -> u16 {
        self.log.context_start
    }

    /// What the slots from [`context_start`](Self::context_start) on hold **before** this
    /// transaction; at most 919.
    pub fn context(&self) -> impl Iterator<Item = Option<ExtentNr>> + 'a {
        self.log
            .slots
            .iter()
            .skip(usize::from(self.log.context_start))
            .take(usize::from(CONTEXT_SLOTS))
            .map(|slot| (slot.committed != FREE).then_some(ExtentNr(slot.committed)))
    }
}

fn filled<T: Clone>(n: usize, value: T) -> Result<Vec<T>, TryReserveError> {
    let mut vec = Vec::new();
    vec.try_reserve_exact(n)?;
    vec.resize(n, value);
    Ok(vec)
}

impl core::fmt::Debug for ActivityLog {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("ActivityLog")
            .field("slots", &self.slots.len())
            .field("referenced", &self.referenced)
            .field("pending", &self.changes.len())
            .field("starving", &self.starving)
            .field("running", &self.running)
            .field("tr_number", &self.tr_number)
            .finish_non_exhaustive()
    }
}
