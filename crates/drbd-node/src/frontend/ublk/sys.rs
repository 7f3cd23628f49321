//! Calls of the ublk driver: control commands and a queue, both over io_uring.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::uapi::{CtrlCmd, IO_DESC, IoDesc, MAX_QUEUE_DEPTH, io_cmd, queue};

/// `/dev/ublk-control`.
pub(super) struct Control {
    device: File,
    ring: IoUring<squeue::Entry128, cqueue::Entry>,
}

impl Control {
    pub(super) fn open() -> io::Result<Control> {
        let path = "/dev/ublk-control";
        let device = File::options()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|e| io::Error::new(e.kind(), format!("{path}: {e}")))?;
        let ring = IoUring::<squeue::Entry128, cqueue::Entry>::builder().build(4)?;
        Ok(Control { device, ring })
    }

    /// Carries out a command and waits for its end. `buffer` is what the command reads and writes.
    pub(super) fn command(
        &mut self,
        command: u32,
        device: u32,
        data: u64,
        buffer: &mut [u8],
    ) -> io::Result<i32> {
        let len = u16::try_from(buffer.len()).map_err(io::Error::other)?;
        let argument = CtrlCmd {
            device,
            buffer: (buffer.as_mut_ptr().addr() as u64, len),
            data,
        };
        let entry = opcode::UringCmd80::new(types::Fd(self.device.as_raw_fd()), command)
            .cmd(argument.encode())
            .build();
        // SAFETY: the descriptor and the buffer, which the caller lends mutably, live until the completion was taken
        // below; nothing returns before that.
        unsafe { self.ring.submission().push(&entry) }.map_err(io::Error::other)?;
        loop {
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // The entry may be with the kernel: the buffer must stay, and so must we.
                Err(e) => tracing::error!("ublk control: io_uring_enter: {e}"),
            }
            if let Some(done) = self.ring.completion().next() {
                let result = done.result();
                return if result < 0 {
                    Err(io::Error::from_raw_os_error(-result))
                } else {
                    Ok(result)
                };
            }
        }
    }
}

/// What came of waiting at a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Woken {
    /// There is a request in this slot, or the driver gives the slot back with an error number.
    Slot(u16, i32),
    /// A descriptor given to [`Queue::poll`] is readable.
    Poll(u64),
}

/// Bit in the user data of polls.
const POLL: u64 = 1 << 32;

/// The only queue of a device. Belongs to the thread that made it.
pub(super) struct Queue {
    ring: IoUring,
    device: Arc<OwnedFd>,
    descriptors: NonNull<u64>,
    mapped: usize,
    depth: u16,
    polled: Vec<Arc<OwnedFd>>,
}

impl Queue {
    /// Takes over the queue of the opened character device.
    pub(super) fn new(device: Arc<OwnedFd>, depth: u16) -> io::Result<Queue> {
        let ring = IoUring::builder()
            .setup_clamp()
            .setup_cqsize(u32::from(depth) * 4)
            .build(u32::from(depth) * 2)?;
        let page = rustix::param::page_size();
        let mapped = (MAX_QUEUE_DEPTH.min(usize::from(depth)) * IO_DESC).div_ceil(page) * page;
        // SAFETY: a fresh mapping, which nobody else knows; the driver only allows reading it.
        let address = unsafe {
            mmap(
                ptr::null_mut(),
                mapped,
                ProtFlags::READ,
                MapFlags::SHARED,
                &device,
                0,
            )?
        };
        let descriptors =
            NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mmap gave null"))?;
        Ok(Queue {
            ring,
            device,
            descriptors,
            mapped,
            depth,
            polled: Vec::new(),
        })
    }

    /// Offers all slots to the driver for the first time.
    pub(super) fn fetch(&mut self) -> io::Result<()> {
        for slot in 0..self.depth {
            self.push(queue::FETCH, slot, 0)?;
        }
        Ok(())
    }

    /// The request in a slot has ended; the slot is offered again.
    pub(super) fn commit(&mut self, slot: u16, result: i32) -> io::Result<()> {
        self.push(queue::COMMIT_AND_FETCH, slot, result)
    }

    fn push(&mut self, command: u32, slot: u16, result: i32) -> io::Result<()> {
        let entry = opcode::UringCmd16::new(types::Fd(self.device.as_raw_fd()), command)
            .cmd(io_cmd(slot, result))
            .build()
            .user_data(u64::from(slot));
        self.submit(&entry)
    }

    /// Asks to be woken when a descriptor is readable, once.
    pub(super) fn poll(&mut self, token: u32, fd: &Arc<OwnedFd>) -> io::Result<()> {
        if !self.polled.iter().any(|p| Arc::ptr_eq(p, fd)) {
            self.polled.push(fd.clone());
        }
        let entry = opcode::PollAdd::new(types::Fd(fd.as_raw_fd()), libc::POLLIN as u32)
            .build()
            .user_data(POLL | u64::from(token));
        self.submit(&entry)
    }

    fn submit(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: the entries point to no memory; their descriptors are kept open by this structure until the ring is
        // closed.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            self.ring.submit()?;
        }
        Ok(())
    }

    /// Submits what was pushed and collects what has ended; waits for something if asked to.
    pub(super) fn wait(&mut self, block: bool, out: &mut Vec<Woken>) -> io::Result<()> {
        match self.ring.submit_and_wait(usize::from(block)) {
            Ok(_) => {}
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::EBUSY)) => {}
            Err(e) => return Err(e),
        }
        out.extend(self.ring.completion().map(|done| {
            if done.user_data() & POLL != 0 {
                Woken::Poll(done.user_data() & !POLL)
            } else {
                Woken::Slot(done.user_data() as u16, done.result())
            }
        }));
        Ok(())
    }

    /// What the block layer wants in a slot that was reported by [`Queue::wait`].
    pub(super) fn request(&self, slot: u16) -> IoDesc {
        let slot = slot.min(self.depth.saturating_sub(1));
        let mut bytes = [0; IO_DESC];
        for (n, to) in bytes.chunks_exact_mut(8).enumerate() {
            let index = usize::from(slot) * (IO_DESC / 8) + n;
            // SAFETY: the slot is below the depth, for which the mapping has room, and it is aligned to pages. The
            // kernel may write other slots meanwhile, and through a mistake even this one: an atomic load is sound
            // in any case.
            let word = unsafe { AtomicU64::from_ptr(self.descriptors.as_ptr().add(index)) };
            to.copy_from_slice(&word.load(Ordering::Acquire).to_ne_bytes());
        }
        IoDesc::decode(&bytes)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length; no reference into it outlives `request`.
        let _ = unsafe { munmap(self.descriptors.as_ptr().cast(), self.mapped) };
    }
}
