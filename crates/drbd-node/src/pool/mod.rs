//! Payload buffers: where the bytes are while the engine moves only their names (design rule 1).
//!
//! One [`Pool`] belongs to one resource. All buffers are aligned to 4096 bytes, so that what arrives from a socket or an
//! application is written to a disk with `O_DIRECT` out of the same memory. Memory is allocated on first use, kept,
//! and used again: the data path allocates nothing once the pool is warm.
//!
//! The pool is bounded. When it is exhausted, [`Pool::alloc`] gives `None` and the caller stops reading - requests
//! from an application, or the data stream of a peer - until [`Pool::wake_on_release`] tells it to try again. This
//! cannot deadlock: acknowledgements need no buffers, and applications may hold only half of the pool, so that
//! what comes from peers always finds room.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::doorway::BufId;

use crate::mailbox::Wake;

mod memory;
#[cfg(test)]
mod tests;

use memory::Block;

/// Alignment of every buffer, in bytes.
pub const ALIGN: usize = 4096;

/// Largest buffer in bytes: the largest read, write or resync request (wire protocol, section 1).
pub const MAX_LEN: usize = 1 << 20;

/// Sizes are powers of two from 4 KiB to 1 MiB.
const CLASSES: usize = 9;

/// For whom a buffer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Data of a local application's write. At most half of the pool.
    Application,
    /// Data from a peer or from the disk.
    Internal,
}

/// A bounded store of buffers. Cloning gives another handle of the same store.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    slots: Box<[Slot]>,
    lists: Mutex<Lists>,
    capacity: usize,
    application: AtomicUsize,
}

struct Lists {
    /// Slots with memory nobody uses, by class.
    free: [Vec<u32>; CLASSES],
    /// Slots without memory.
    empty: Vec<u32>,
    /// Bytes of memory in all slots.
    allocated: usize,
    /// Who waits for a release.
    waiting: Vec<Arc<dyn Wake>>,
}

/// State of a slot: generation (32 bits), references held by the engine (8), references held by [`Buf`]s (24).
struct Slot {
    state: AtomicU64,
    block: Block,
    len: AtomicU32,
    class: AtomicU8,
    application: AtomicU8,
}

const ENGINE: u64 = 1 << 24;
const LOCAL: u64 = 1;
const LOCAL_MASK: u64 = ENGINE - 1;
const ENGINE_MASK: u64 = 0xff << 24;
const GENERATION_SHIFT: u32 = 32;

/// Class of a length: the smallest power of two from 4 KiB that holds it.
fn class_of(len: usize) -> Option<usize> {
    if len > MAX_LEN {
        return None;
    }
    let pages = len.max(1).div_ceil(ALIGN).next_power_of_two();
    Some(pages.trailing_zeros() as usize)
}

fn class_size(class: usize) -> usize {
    ALIGN << class
}

impl Pool {
    /// A pool that uses at most `capacity` bytes of memory (at least 4 MiB).
    pub fn new(capacity: usize) -> Pool {
        let capacity = capacity.max(4 << 20);
        let count = u32::try_from(capacity / ALIGN).unwrap_or(u32::MAX);
        let slots = (0..count)
            .map(|_| Slot {
                state: AtomicU64::new(0),
                block: Block::none(),
                len: AtomicU32::new(0),
                class: AtomicU8::new(0),
                application: AtomicU8::new(0),
            })
            .collect();
        let free = std::array::from_fn(|_| Vec::new());
        let lists = Lists {
            free,
            empty: (0..count).rev().collect(),
            allocated: 0,
            waiting: Vec::new(),
        };
        Pool {
            shared: Arc::new(Shared {
                slots,
                lists: Mutex::new(lists),
                capacity,
                application: AtomicUsize::new(0),
            }),
        }
    }

    /// A buffer of `len` bytes (at most [`MAX_LEN`]) with arbitrary content; `None` if the pool is exhausted for
    /// this purpose, or the length is too large.
    pub fn alloc(&self, len: usize, purpose: Purpose) -> Option<BufMut> {
        let class = class_of(len)?;
        let size = class_size(class);
        let shared = &*self.shared;
        let application = purpose == Purpose::Application;
        if application {
            let before = shared.application.fetch_add(size, Ordering::Relaxed);
            if before + size > shared.capacity / 2 {
                shared.application.fetch_sub(size, Ordering::Relaxed);
                return None;
            }
        }
        let Some(index) = shared.take_slot(class) else {
            if application {
                shared.application.fetch_sub(size, Ordering::Relaxed);
            }
            return None;
        };
        let slot = shared.slots.get(index as usize)?;
        slot.len.store(len as u32, Ordering::Relaxed);
        slot.application
            .store(u8::from(application), Ordering::Relaxed);
        // Nobody else knows the slot now: no reference exists and its generation is new.
        let generation = slot.state.load(Ordering::Acquire) >> GENERATION_SHIFT;
        slot.state
            .store(generation << GENERATION_SHIFT | LOCAL, Ordering::Release);
        Some(BufMut {
            buf: Buf {
                pool: self.shared.clone(),
                index,
            },
        })
    }

    /// Another reference to a buffer that somebody holds; `None` if the name is stale.
    pub fn get(&self, id: BufId) -> Option<Buf> {
        self.change(id, |state| {
            (state & (LOCAL_MASK | ENGINE_MASK) != 0).then_some(state + LOCAL)
        })
    }

    /// Takes back the reference that [`Buf::into_id`] gave away; `None` if there is none.
    pub fn reclaim(&self, id: BufId) -> Option<Buf> {
        self.change(id, |state| {
            (state & ENGINE_MASK != 0).then(|| state - ENGINE + LOCAL)
        })
    }

    fn change(&self, id: BufId, f: impl Fn(u64) -> Option<u64>) -> Option<Buf> {
        let index = id.0 as u32;
        let generation = id.0 >> 32;
        let slot = self.shared.slots.get(index as usize)?;
        slot.state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
                if state >> GENERATION_SHIFT == generation {
                    f(state)
                } else {
                    None
                }
            })
            .ok()?;
        Some(Buf {
            pool: self.shared.clone(),
            index,
        })
    }

    /// Calls `wake` once, at the next release of a buffer. Ask before the last attempt to allocate, not after it.
    pub fn wake_on_release(&self, wake: Arc<dyn Wake>) {
        let mut lists = self.shared.lists();
        if !lists
            .waiting
            .iter()
            .any(|waiting| Arc::ptr_eq(waiting, &wake))
        {
            lists.waiting.push(wake);
        }
    }

    /// Bytes of memory that are in use by somebody.
    pub fn in_use(&self) -> usize {
        let lists = self.shared.lists();
        let free: usize = lists
            .free
            .iter()
            .enumerate()
            .map(|(class, list)| list.len() * class_size(class))
            .sum();
        lists.allocated - free
    }
}

impl Shared {
    fn lists(&self) -> MutexGuard<'_, Lists> {
        // The lists are consistent between any two statements that can panic.
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot with memory of this class, out of the free ones or freshly allocated.
    fn take_slot(&self, class: usize) -> Option<u32> {
        let size = class_size(class);
        let mut lists = self.lists();
        if let Some(index) = lists.free.get_mut(class)?.pop() {
            return Some(index);
        }
        // Room is made by giving back free memory of other classes, the largest first.
        while lists.allocated + size > self.capacity {
            let (other, index) = (0..CLASSES)
                .rev()
                .find_map(|c| Some((c, lists.free.get_mut(c)?.pop()?)))?;
            if let Some(slot) = self.slots.get(index as usize) {
                slot.block.release();
            }
            lists.allocated -= class_size(other);
            lists.empty.push(index);
        }
        let index = lists.empty.pop()?;
        let slot = self.slots.get(index as usize)?;
        if !slot.block.allocate(size) {
            lists.empty.push(index);
            return None;
        }
        slot.class.store(class as u8, Ordering::Relaxed);
        lists.allocated += size;
        Some(index)
    }

    /// The last reference is gone.
    fn give_back(&self, index: u32) {
        let Some(slot) = self.slots.get(index as usize) else {
            return;
        };
        let class = usize::from(slot.class.load(Ordering::Relaxed));
        if slot.application.load(Ordering::Relaxed) != 0 {
            self.application
                .fetch_sub(class_size(class), Ordering::Relaxed);
        }
        let waiting = {
            let mut lists = self.lists();
            if let Some(list) = lists.free.get_mut(class) {
                list.push(index);
            }
            if lists.waiting.is_empty() {
                Vec::new()
            } else {
                std::mem::take(&mut lists.waiting)
            }
        };
        for wake in waiting {
            wake.wake();
        }
    }
}

/// A buffer that nobody writes any more. Cloning counts a reference; the memory is reused after the last one.
pub struct Buf {
    pool: Arc<Shared>,
    index: u32,
}

impl Buf {
    fn slot(&self) -> &Slot {
        // A `Buf` is only made for an index that exists.
        &self.pool.slots[self.index as usize]
    }

    /// The name of the buffer, as long as somebody holds a reference.
    pub fn id(&self) -> BufId {
        let generation = self.slot().state.load(Ordering::Relaxed) >> GENERATION_SHIFT;
        BufId(generation << 32 | u64::from(self.index))
    }

    /// Turns this reference into the engine's, which is given back with `Effect::Release` ([`Pool::reclaim`]).
    pub fn into_id(self) -> BufId {
        let id = self.id();
        self.slot().state.fetch_add(ENGINE, Ordering::AcqRel);
        drop(self);
        id
    }
}

impl Deref for Buf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let slot = self.slot();
        slot.block.bytes(slot.len.load(Ordering::Relaxed) as usize)
    }
}

impl Clone for Buf {
    fn clone(&self) -> Buf {
        self.slot().state.fetch_add(LOCAL, Ordering::AcqRel);
        Buf {
            pool: self.pool.clone(),
            index: self.index,
        }
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        let slot = self.slot();
        let before = slot
            .state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
                let after = state - LOCAL;
                if after & (LOCAL_MASK | ENGINE_MASK) == 0 {
                    // A new generation makes every name of the old one stale.
                    let generation =
                        (after >> GENERATION_SHIFT).wrapping_add(1) & u64::from(u32::MAX);
                    Some(generation << GENERATION_SHIFT)
                } else {
                    Some(after)
                }
            });
        if before.is_ok_and(|state| (state - LOCAL) & (LOCAL_MASK | ENGINE_MASK) == 0) {
            self.pool.give_back(self.index);
        }
    }
}

impl std::fmt::Debug for Buf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buf({:#x}, {} bytes)", self.id().0, self.len())
    }
}

/// A buffer with one owner, who fills it.
pub struct BufMut {
    buf: Buf,
}

impl BufMut {
    /// Makes the buffer shorter; it keeps its memory.
    pub fn truncate(&mut self, len: usize) {
        // What was allocated fits into 32 bits; longer means no change.
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        self.buf.slot().len.fetch_min(len, Ordering::Relaxed);
    }

    /// No more writes: from now on the buffer can be shared.
    pub fn freeze(self) -> Buf {
        self.buf
    }
}

impl Deref for BufMut {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buf
    }
}

impl DerefMut for BufMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        let slot = self.buf.slot();
        slot.block
            .bytes_mut(self, slot.len.load(Ordering::Relaxed) as usize)
    }
}

impl std::fmt::Debug for BufMut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BufMut({:#x}, {} bytes)", self.buf.id().0, self.len())
    }
}
