//! The io_uring of one reactor thread, behind a safe interface.
//!
//! An operation ([`Op`]) owns everything the kernel touches on its behalf: the memory and the descriptor. They come
//! back with its [`Completion`]. So nothing can be freed or written while the kernel still uses it, and the rest of
//! the daemon needs no `unsafe` to do I/O.
//!
//! Entries collect until [`Ring::wait`], which submits all of them with one system call and waits for the first
//! completion. A portable reactor (threads and `poll`, for systems without io_uring) would take this module's place:
//! nothing outside knows how an `Op` is carried out.
#![allow(unsafe_code)]

use std::io;
use std::time::Duration;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};

mod op;
#[cfg(test)]
mod tests;

pub use op::{Fd, MAX_PARTS, Memory, Op, Part};
use op::{Scratch, entry};

/// Name of an operation under way.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct OpKey {
    index: u32,
    generation: u32,
}

impl OpKey {
    fn user_data(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }
}

/// An operation that has ended.
#[derive(Debug)]
pub struct Completion<T> {
    /// What was given to [`Ring::push`].
    pub token: T,
    /// Its name.
    pub key: OpKey,
    /// Bytes moved, or what the operation's description says.
    pub result: io::Result<u32>,
    /// The operation with everything it owned.
    pub op: Op,
}

/// Why there is no ring.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot set up io_uring ({0}): the daemon needs Linux 5.11 or later, the sysctl kernel.io_uring_disabled = 0, and a \
     seccomp policy that allows it"
)]
pub struct NoRing(#[source] pub io::Error);

/// `user_data` of entries whose completion nobody wants.
const UNNAMED: u64 = u64::MAX;

struct Slot<T> {
    generation: u32,
    scratch: Box<Scratch>,
    busy: Option<(T, Op)>,
}

/// How long the first of several completions may wait for others, in microseconds: less than a disk or a peer
/// takes, and about what it costs to fall asleep and wake up a few times.
const PATIENCE: u32 = 50;
/// Which part of the operations that are due soon is waited for together. Not all: what has been served goes on - to
/// the peer, to the application and back - while the disk works on the rest. Waiting for all of them makes disks
/// and processors take turns.
const SHARE: usize = 4;
/// `IORING_RECVSEND_POLL_FIRST`: a receive operation comes after everything that was there has been taken, so it first
/// waits for the socket to be ready, which a low-water mark can delay, and then tries.
const POLL_FIRST: u16 = 1;
/// Never more than this number is waited for.
const MANY: usize = 32;

/// A ring whose operations carry tokens of type `T`.
pub struct Ring<T> {
    ring: IoUring,
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    in_flight: usize,
    /// Entries that found no room in the submission queue.
    overflow: Vec<squeue::Entry>,
    /// The kernel can wait a moment for several completions.
    batches: bool,
    /// Flags of receive operations.
    receive: u16,
}

impl<T> Ring<T> {
    /// A ring for the calling thread with room for `entries` submissions at once (a power of two).
    ///
    /// # Errors
    /// When the system has no io_uring or forbids it.
    pub fn new(entries: u32) -> Result<Ring<T>, NoRing> {
        // Completions are only looked at when the thread asks for them; older systems do not know these flags.
        let newest = IoUring::builder()
            .setup_clamp()
            .setup_cqsize(entries.saturating_mul(4))
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .build(entries);
        let (ring, modern) = match newest {
            Ok(ring) => (ring, true),
            Err(_) => {
                let ring = IoUring::builder()
                    .setup_clamp()
                    .setup_cqsize(entries.saturating_mul(4))
                    .build(entries)
                    .map_err(NoRing)?;
                (ring, false)
            }
        };
        if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
            return Err(NoRing(io::Error::from(io::ErrorKind::Unsupported)));
        }
        let batches = ring.params().is_feature_min_timeout();
        Ok(Ring {
            ring,
            batches,
            receive: if modern { POLL_FIRST } else { 0 },
            slots: Vec::new(),
            free: Vec::new(),
            in_flight: 0,
            overflow: Vec::new(),
        })
    }

    /// Operations under way.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Starts an operation with the next [`wait`](Self::wait).
    pub fn push(&mut self, token: T, op: Op) -> OpKey {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                let index = self.slots.len() as u32;
                self.slots.push(Slot {
                    generation: 0,
                    scratch: Box::new(Scratch::new()),
                    busy: None,
                });
                index
            }
        };
        // The index is one of `slots` in both cases.
        let slot = &mut self.slots[index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        let key = OpKey {
            index,
            generation: slot.generation,
        };
        let (_, op) = slot.busy.insert((token, op));
        let entry = entry(op, &mut slot.scratch, self.receive).user_data(key.user_data());
        self.in_flight += 1;
        self.enqueue(entry);
        key
    }

    /// Asks the kernel to end an operation early. Its completion still comes.
    pub fn cancel(&mut self, key: OpKey) {
        self.enqueue(
            opcode::AsyncCancel::new(key.user_data())
                .build()
                .user_data(UNNAMED),
        );
    }

    fn enqueue(&mut self, entry: squeue::Entry) {
        if !self.overflow.is_empty() {
            self.overflow.push(entry);
            return;
        }
        // SAFETY: everything the entry points to is owned by the slot of its operation, has a stable address (heap
        // memory of vectors, pool buffers and the boxed scratch) and stays there until the completion is taken.
        if unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.overflow.push(entry);
        }
    }

    /// Submits everything and waits for a completion, at most for `timeout` (`None`: without limit).
    ///
    /// # Errors
    /// Those of `io_uring_enter`; timeouts and interruptions are none.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.wait_for(1, timeout)
    }

    /// As [`wait`](Self::wait), when `soon` operations are expected to end within a short time: the first of them
    /// waits a moment for some of the others, so that one turn of the reactor serves them. Where the kernel cannot do
    /// that (before Linux 6.12), and when there are few, it is the same as `wait`.
    ///
    /// # Errors
    /// Those of `io_uring_enter`; timeouts and interruptions are none.
    pub fn wait_for(&mut self, soon: usize, timeout: Option<Duration>) -> io::Result<()> {
        while !self.overflow.is_empty() {
            self.enter(1, Some(Duration::ZERO))?;
            for entry in std::mem::take(&mut self.overflow) {
                self.enqueue(entry);
            }
        }
        let want = (soon / SHARE).clamp(1, MANY);
        let patient = self.batches
            && want > 1
            && timeout.is_none_or(|t| t > Duration::from_micros(u64::from(PATIENCE)));
        self.enter(if patient { want } else { 1 }, timeout)
    }

    fn enter(&mut self, want: usize, timeout: Option<Duration>) -> io::Result<()> {
        let spec = timeout.map(|t| Timespec::new().sec(t.as_secs()).nsec(t.subsec_nanos()));
        let mut args = SubmitArgs::new();
        if let Some(spec) = &spec {
            args = args.timespec(spec);
        }
        if want > 1 {
            args = args.min_wait_usec(PATIENCE);
        }
        match self.ring.submitter().submit_with_args(want, &args) {
            Ok(_) => Ok(()),
            // EBUSY: completions have to be taken first.
            Err(e)
                if matches!(
                    e.raw_os_error(),
                    Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)
                ) =>
            {
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    /// Moves the operations that have ended to the end of `out`.
    pub fn completions(&mut self, out: &mut Vec<Completion<T>>) {
        let completions = self.ring.completion();
        for entry in completions {
            if entry.user_data() == UNNAMED {
                continue;
            }
            let key = OpKey {
                index: entry.user_data() as u32,
                generation: (entry.user_data() >> 32) as u32,
            };
            let Some(slot) = self.slots.get_mut(key.index as usize) else {
                continue;
            };
            if slot.generation != key.generation {
                continue;
            }
            let Some((token, op)) = slot.busy.take() else {
                continue;
            };
            self.free.push(key.index);
            self.in_flight -= 1;
            let result = u32::try_from(entry.result())
                .map_err(|_| io::Error::from_raw_os_error(-entry.result()));
            out.push(Completion {
                token,
                key,
                result,
                op,
            });
        }
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        // The memory of operations under way must outlive the kernel's use of it: end them, and if that takes too
        // long, give the memory up for good.
        let keys: Vec<OpKey> = (0u32..)
            .zip(&self.slots)
            .filter(|(_, slot)| slot.busy.is_some())
            .map(|(index, slot)| OpKey {
                index,
                generation: slot.generation,
            })
            .collect();
        for key in keys {
            self.cancel(key);
        }
        let mut ended = Vec::new();
        for _ in 0..200 {
            if self.in_flight == 0 {
                return;
            }
            if self.wait(Some(Duration::from_millis(10))).is_err() {
                break;
            }
            self.completions(&mut ended);
            ended.clear();
        }
        if self.in_flight > 0 {
            std::mem::forget(std::mem::take(&mut self.slots));
        }
    }
}
