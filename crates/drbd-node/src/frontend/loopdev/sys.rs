//! The loop driver's control calls.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

const LOOP_CLR_FD: libc::Ioctl = 0x4c01;
const LOOP_SET_CAPACITY: libc::Ioctl = 0x4c07;
const LOOP_SET_BLOCK_SIZE: libc::Ioctl = 0x4c09;
const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;
const LO_FLAGS_DIRECT_IO: u32 = 16;
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// `struct loop_info64`.
#[repr(C)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

fn call(fd: impl AsFd, request: libc::Ioctl, argument: libc::c_ulong) -> io::Result<i32> {
    // SAFETY: the descriptor is open for the duration of the call. The requests made with this function take an
    // integer or nothing, and the one that takes a pointer (`configure`) passes one to a structure of the
    // kernel's layout that lives longer than the call; the kernel only reads it.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, argument) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Number of a loop device that is free now; the kernel makes one if there is none.
pub(super) fn get_free(control: impl AsFd) -> io::Result<u32> {
    let number = call(control, LOOP_CTL_GET_FREE, 0)?;
    u32::try_from(number).map_err(io::Error::other)
}

/// Puts a loop device on a file, with direct I/O. The device shows `name` (at most 63 bytes) to those who ask.
pub(super) fn configure(
    device: impl AsFd,
    file: impl AsFd,
    block_size: u32,
    name: &str,
) -> io::Result<()> {
    let mut file_name = [0; 64];
    for (to, from) in file_name.iter_mut().take(63).zip(name.bytes()) {
        *to = from;
    }
    let info = Info {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        sizelimit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: LO_FLAGS_DIRECT_IO,
        file_name,
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
    let fd = u32::try_from(file.as_fd().as_raw_fd()).map_err(io::Error::other)?;
    let config = Config {
        fd,
        block_size,
        info,
        reserved: [0; 8],
    };
    call(
        device,
        LOOP_CONFIGURE,
        (&raw const config).addr() as libc::c_ulong,
    )
    .map(drop)
}

/// The file behind the device has a new size.
pub(super) fn set_capacity(device: impl AsFd) -> io::Result<()> {
    call(device, LOOP_SET_CAPACITY, 0).map(drop)
}

/// Changes the logical block size.
pub(super) fn set_block_size(device: impl AsFd, size: u32) -> io::Result<()> {
    call(device, LOOP_SET_BLOCK_SIZE, libc::c_ulong::from(size)).map(drop)
}

/// Takes the device off its file: at once, or when its last user has gone.
pub(super) fn clear(device: impl AsFd) -> io::Result<()> {
    call(device, LOOP_CLR_FD, 0).map(drop)
}

/// Tells the kernel that this process serves block devices: when it allocates memory, the kernel must not write
/// back to a block device, which could be its own. Threads started from now on inherit this.
pub(super) fn set_io_flusher() -> io::Result<()> {
    let (on, none): (libc::c_ulong, libc::c_ulong) = (1, 0);
    // SAFETY: takes integers, changes an attribute of the calling thread.
    let result = unsafe { libc::prctl(PR_SET_IO_FLUSHER, on, none, none, none) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_the_kernels_structures() {
        assert_eq!(size_of::<Info>(), 232);
        assert_eq!(size_of::<Config>(), 304);
        assert_eq!(std::mem::offset_of!(Info, file_name), 56);
    }
}
