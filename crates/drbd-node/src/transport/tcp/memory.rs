//! `SO_MEMINFO`: how much of a socket's memory is taken.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd as _, OwnedFd};

/// Places in the kernel's answer (`SK_MEMINFO_*`).
const LIMIT: usize = 3;
const QUEUED: usize = 5;
/// Numbers in the answer.
const COUNT: usize = 9;

/// Memory for what is to be sent, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    /// Taken, with what the kernel needs for its own.
    pub(super) queued: u32,
    /// At most; it grows with the speed of the connection.
    pub(super) limit: u32,
}

/// That of a socket, if the system tells.
pub(super) fn of(fd: &OwnedFd) -> Option<Memory> {
    let mut numbers = [0_u32; COUNT];
    let mut len = size_of_val(&numbers) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes of integers to an array of that size, which outlives the call.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            numbers.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    let told = len as usize >= (QUEUED + 1) * size_of::<u32>();
    (result == 0 && told).then_some(Memory {
        queued: *numbers.get(QUEUED)?,
        limit: *numbers.get(LIMIT)?,
    })
}
