//! What the kernel can be asked to do, with the memory that it works on.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use io_uring::{opcode, squeue, types};

use crate::pool::{Buf, BufMut};

/// A descriptor, kept open while an operation uses it.
pub type Fd = Arc<OwnedFd>;

/// Memory that an operation reads or fills.
#[derive(Debug)]
pub enum Memory {
    /// Ordinary bytes: packet headers, small packets.
    Bytes(Vec<u8>),
    /// A pool buffer being filled.
    Fill(BufMut),
    /// A pool buffer with data. Only as a source.
    Shared(Buf),
}

impl Memory {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Memory::Bytes(bytes) => bytes,
            Memory::Fill(buf) => buf,
            Memory::Shared(buf) => buf,
        }
    }

    fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        match self {
            Memory::Bytes(bytes) => Some(bytes),
            Memory::Fill(buf) => Some(buf),
            Memory::Shared(_) => None,
        }
    }
}

/// A range of some memory.
#[derive(Debug)]
pub struct Part {
    /// The memory.
    pub memory: Memory,
    /// First byte of the range.
    pub at: usize,
    /// Length of the range; what lies behind the end of the memory is left out.
    pub len: usize,
}

impl Part {
    /// All of some memory.
    pub fn all(memory: Memory) -> Part {
        let len = memory.bytes().len();
        Part { memory, at: 0, len }
    }

    /// The bytes of the range.
    pub fn bytes(&self) -> &[u8] {
        let bytes = self.memory.bytes();
        let end = self.at.saturating_add(self.len).min(bytes.len());
        bytes.get(self.at..end).unwrap_or(&[])
    }

    /// The bytes of the range, to be filled; none if the memory is only a source.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let (at, len) = (self.at, self.len);
        let bytes = self.memory.bytes_mut().unwrap_or(&mut []);
        let end = at.saturating_add(len).min(bytes.len());
        bytes.get_mut(at..end).unwrap_or(&mut [])
    }
}

/// What the kernel is asked to do.
#[derive(Debug)]
pub enum Op {
    /// Receive from a stream socket into the parts, in order, as much as there is (at least one byte; 0 is the end).
    Receive {
        /// The socket.
        fd: Fd,
        /// Where to put it.
        parts: Vec<Part>,
    },
    /// Send the parts, in order, on a stream socket. May send less than all: the result counts.
    Send {
        /// The socket.
        fd: Fd,
        /// What to send.
        parts: Vec<Part>,
        /// More follows at once (`MSG_MORE`).
        more: bool,
    },
    /// Read from a file or device. May read less than asked.
    Read {
        /// The file.
        fd: Fd,
        /// Byte offset.
        offset: u64,
        /// Where to put it.
        part: Part,
    },
    /// Write to a file or device. May write less than asked.
    Write {
        /// The file.
        fd: Fd,
        /// Byte offset.
        offset: u64,
        /// What to write.
        part: Part,
        /// On stable storage when done (`RWF_DSYNC`).
        durable: bool,
    },
    /// `fdatasync`: flushes the volatile cache of the device below.
    Flush {
        /// The file.
        fd: Fd,
    },
    /// `fallocate`.
    Fallocate {
        /// The file.
        fd: Fd,
        /// `FALLOC_FL_*`.
        mode: i32,
        /// Byte offset.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Wait until the descriptor is ready. The result is the mask of ready events.
    Poll {
        /// The descriptor.
        fd: Fd,
        /// `POLL*`.
        events: u32,
    },
}

/// Parts of one vectored operation at most.
pub const MAX_PARTS: usize = 128;

/// Stable addresses for what the kernel reads besides the payload. Reused.
pub(super) struct Scratch {
    iovecs: Vec<libc::iovec>,
    message: libc::msghdr,
}

impl Scratch {
    pub(super) fn new() -> Scratch {
        Scratch {
            iovecs: Vec::new(),
            // SAFETY: `msghdr` is a C structure of integers and pointers, for which zero is a valid value.
            message: unsafe { std::mem::zeroed() },
        }
    }
}

/// Fills in the message header for these ranges.
fn message(scratch: &mut Scratch) -> *mut libc::msghdr {
    scratch.message.msg_iov = scratch.iovecs.as_mut_ptr();
    scratch.message.msg_iovlen = scratch.iovecs.len() as _;
    &raw mut scratch.message
}

pub(super) fn entry(op: &mut Op, scratch: &mut Scratch, receive: u16) -> squeue::Entry {
    match op {
        Op::Receive { fd, parts } => {
            let fd = types::Fd(fd.as_raw_fd());
            if let [part] = parts.as_mut_slice() {
                let bytes = part.bytes_mut();
                return opcode::Recv::new(fd, bytes.as_mut_ptr(), bytes.len() as u32)
                    .ioprio(receive)
                    .build();
            }
            scratch.iovecs.clear();
            scratch
                .iovecs
                .extend(parts.iter_mut().take(MAX_PARTS).map(|part| {
                    let bytes = part.bytes_mut();
                    libc::iovec {
                        iov_base: bytes.as_mut_ptr().cast(),
                        iov_len: bytes.len(),
                    }
                }));
            opcode::RecvMsg::new(fd, message(scratch))
                .ioprio(receive)
                .build()
        }
        Op::Send { fd, parts, more } => {
            let fd = types::Fd(fd.as_raw_fd());
            let more = if *more && parts.len() <= MAX_PARTS {
                libc::MSG_MORE
            } else {
                0
            };
            let flags = libc::MSG_NOSIGNAL | more;
            if let [part] = parts.as_slice() {
                let bytes = part.bytes();
                return opcode::Send::new(fd, bytes.as_ptr(), bytes.len() as u32)
                    .flags(flags)
                    .build();
            }
            scratch.iovecs.clear();
            scratch
                .iovecs
                .extend(parts.iter().take(MAX_PARTS).map(|part| {
                    let bytes = part.bytes();
                    libc::iovec {
                        iov_base: bytes.as_ptr().cast_mut().cast(),
                        iov_len: bytes.len(),
                    }
                }));
            opcode::SendMsg::new(fd, message(scratch))
                .flags(flags as u32)
                .build()
        }
        Op::Read { fd, offset, part } => {
            let bytes = part.bytes_mut();
            opcode::Read::new(
                types::Fd(fd.as_raw_fd()),
                bytes.as_mut_ptr(),
                bytes.len() as u32,
            )
            .offset(*offset)
            .build()
        }
        Op::Write {
            fd,
            offset,
            part,
            durable,
        } => {
            let bytes = part.bytes();
            opcode::Write::new(
                types::Fd(fd.as_raw_fd()),
                bytes.as_ptr(),
                bytes.len() as u32,
            )
            .offset(*offset)
            .rw_flags(if *durable { libc::RWF_DSYNC } else { 0 })
            .build()
        }
        Op::Flush { fd } => opcode::Fsync::new(types::Fd(fd.as_raw_fd()))
            .flags(types::FsyncFlags::DATASYNC)
            .build(),
        Op::Fallocate {
            fd,
            mode,
            offset,
            len,
        } => opcode::Fallocate::new(types::Fd(fd.as_raw_fd()), *len)
            .offset(*offset)
            .mode(*mode)
            .build(),
        Op::Poll { fd, events } => opcode::PollAdd::new(types::Fd(fd.as_raw_fd()), *events).build(),
    }
}
