//! The memory of one slot of the pool.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use super::{ALIGN, BufMut};

/// Memory of a slot, or none. Allocated and released only by the holder of the pool's lists while no reference to
/// the slot exists.
pub(super) struct Block {
    start: AtomicPtr<u8>,
    size: AtomicUsize,
}

impl Block {
    pub(super) fn none() -> Block {
        Block {
            start: AtomicPtr::new(ptr::null_mut()),
            size: AtomicUsize::new(0),
        }
    }

    /// Allocates `size` zeroed bytes; `false` if the system has none. Must not be called while there is memory.
    pub(super) fn allocate(&self, size: usize) -> bool {
        debug_assert!(self.start.load(Ordering::Relaxed).is_null());
        let Ok(layout) = Layout::from_size_align(size.max(1), ALIGN) else {
            return false;
        };
        // SAFETY: the layout has a size of at least one byte.
        let start = unsafe { alloc_zeroed(layout) };
        if start.is_null() {
            return false;
        }
        self.size.store(size, Ordering::Relaxed);
        self.start.store(start, Ordering::Release);
        true
    }

    /// Gives the memory back. No reference into it may exist: the pool calls this only for slots on a free list.
    pub(super) fn release(&self) {
        let start = self.start.swap(ptr::null_mut(), Ordering::AcqRel);
        let size = self.size.swap(0, Ordering::Relaxed);
        if let (false, Ok(layout)) = (start.is_null(), Layout::from_size_align(size.max(1), ALIGN))
        {
            // SAFETY: allocated above with the same layout; the swap makes sure that it is freed only once.
            unsafe { dealloc(start, layout) };
        }
    }

    /// The first `len` bytes.
    pub(super) fn bytes(&self, len: usize) -> &[u8] {
        let start = self.start.load(Ordering::Acquire);
        let len = len.min(self.size.load(Ordering::Relaxed));
        if start.is_null() {
            return &[];
        }
        // SAFETY: the caller holds a reference to the slot (`Buf`), so the memory stays allocated for as long as the
        // result is borrowed; it was zeroed, so it is initialized; writes happen only through a `BufMut`, which is
        // the only reference and borrowed mutably, or by the kernel into a `BufMut` that the ring owns meanwhile.
        unsafe { std::slice::from_raw_parts(start, len) }
    }

    /// The first `len` bytes, for the one owner.
    #[allow(clippy::mut_from_ref)] // The owner is borrowed mutably, which is what makes this exclusive.
    pub(super) fn bytes_mut<'a>(&self, _owner: &'a BufMut, len: usize) -> &'a mut [u8] {
        let start = self.start.load(Ordering::Acquire);
        let len = len.min(self.size.load(Ordering::Relaxed));
        if start.is_null() {
            return &mut [];
        }
        // SAFETY: as above, and `BufMut` is not `Clone`: its owner calls this only out of `deref_mut`, which has it
        // borrowed mutably for as long as the result lives.
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.release();
    }
}
