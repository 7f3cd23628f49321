//! `SO_RCVLOWAT`: the number of bytes that makes a socket ready for receiving.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd as _, OwnedFd};

/// Sets it; the end of the stream and errors make a socket ready all the same. False if the system refuses.
pub(super) fn set(fd: &OwnedFd, bytes: usize) -> bool {
    let value = libc::c_int::try_from(bytes).unwrap_or(1);
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option's value is an int that lives until the call returns, and `len` is its length.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const value).cast(),
            len,
        )
    };
    result == 0
}
