//! Proof that the core needs no operating system: it is linked into a library with its own panic handler
//! and allocator. With `std` anywhere below there would be a second panic handler, which is an error.
#![no_std]

extern crate alloc;

use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};

struct NoMemory;

// SAFETY: never hands out memory, so nothing can be misused.
unsafe impl GlobalAlloc for NoMemory {
    unsafe fn alloc(&self, _: Layout) -> *mut u8 {
        core::ptr::null_mut()
    }
    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static ALLOCATOR: NoMemory = NoMemory;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Makes the linker look at the engine, and through it at the protocol and the metadata.
#[unsafe(no_mangle)]
pub extern "C" fn drbd_engine_is_freestanding(engine: &mut drbd_engine::Engine) -> usize {
    let mut effects = Vec::new();
    engine.handle(drbd_engine::Instant::ZERO, drbd_engine::Event::Tick, &mut effects);
    effects.len()
}
