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
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue, types};

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
    fn bytes(&self) -> &[u8] {
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

    fn bytes_mut(&mut self) -> &mut [u8] {
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

/// Parts of one vectored operation at most.
pub const MAX_PARTS: usize = 128;

/// Stable addresses for what the kernel reads besides the payload. Reused.
struct Scratch {
    iovecs: Vec<libc::iovec>,
    message: libc::msghdr,
}

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
                // SAFETY: `msghdr` is a C structure of integers and pointers, for which zero is a valid value.
                let message = unsafe { std::mem::zeroed() };
                let scratch = Box::new(Scratch {
                    iovecs: Vec::new(),
                    message,
                });
                self.slots.push(Slot {
                    generation: 0,
                    scratch,
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

/// Fills in the message header for these ranges.
fn message(scratch: &mut Scratch) -> *mut libc::msghdr {
    scratch.message.msg_iov = scratch.iovecs.as_mut_ptr();
    scratch.message.msg_iovlen = scratch.iovecs.len() as _;
    &raw mut scratch.message
}

fn entry(op: &mut Op, scratch: &mut Scratch, receive: u16) -> squeue::Entry {
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

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _, Write as _};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::pool::{Pool, Purpose};

    fn run(ring: &mut Ring<u32>) -> Completion<u32> {
        let mut out = Vec::new();
        for _ in 0..1000 {
            ring.wait(Some(Duration::from_secs(5))).unwrap();
            ring.completions(&mut out);
            if let Some(done) = out.pop() {
                assert!(out.is_empty());
                return done;
            }
        }
        panic!("no completion");
    }

    #[test]
    fn vectored_send_and_receive() {
        let mut ring = Ring::new(8).unwrap();
        let pool = Pool::new(0);
        let (a, mut b) = UnixStream::pair().unwrap();
        let a: Fd = Arc::new(a.into());
        let mut payload = pool.alloc(4096, Purpose::Internal).unwrap();
        payload.fill(9);
        let parts = vec![
            Part::all(Memory::Bytes(b"head".to_vec())),
            Part {
                memory: Memory::Shared(payload.freeze()),
                at: 4000,
                len: 1000,
            },
        ];
        ring.push(
            1,
            Op::Send {
                fd: a.clone(),
                parts,
                more: false,
            },
        );
        let done = run(&mut ring);
        assert_eq!((done.token, done.result.unwrap()), (1, 100));
        let mut got = [0; 100];
        b.read_exact(&mut got).unwrap();
        assert_eq!(&got[..4], b"head");
        assert_eq!(got[4..], [9; 96]);

        b.write_all(&[5; 30]).unwrap();
        let parts = vec![
            Part {
                memory: Memory::Bytes(vec![0; 16]),
                at: 6,
                len: 10,
            },
            Part::all(Memory::Fill(pool.alloc(4096, Purpose::Internal).unwrap())),
        ];
        ring.push(2, Op::Receive { fd: a, parts });
        let done = run(&mut ring);
        assert_eq!((done.token, done.result.unwrap()), (2, 30));
        let Op::Receive { parts, .. } = done.op else {
            panic!()
        };
        assert_eq!(
            parts[0].memory.bytes(),
            [0, 0, 0, 0, 0, 0, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5]
        );
        assert_eq!(
            parts[1].memory.bytes()[..21],
            [
                5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 0
            ]
        );
    }

    #[test]
    fn files_and_cancel() {
        let mut ring = Ring::new(8).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        let fd: Fd = Arc::new(file.try_clone().unwrap().into());
        let part = Part::all(Memory::Bytes(vec![7; 512]));
        ring.push(
            1,
            Op::Write {
                fd: fd.clone(),
                offset: 1024,
                part,
                durable: true,
            },
        );
        assert_eq!(run(&mut ring).result.unwrap(), 512);
        ring.push(2, Op::Flush { fd: fd.clone() });
        assert!(run(&mut ring).result.is_ok());
        let mut got = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut got).unwrap();
        assert_eq!((got.len(), got[1023], got[1024]), (1536, 0, 7));
        let part = Part::all(Memory::Bytes(vec![1; 1024]));
        ring.push(
            3,
            Op::Read {
                fd,
                offset: 1024,
                part,
            },
        );
        assert_eq!(
            run(&mut ring).result.unwrap(),
            512,
            "a read at the end is short"
        );

        let (a, _b) = UnixStream::pair().unwrap();
        let key = ring.push(
            4,
            Op::Poll {
                fd: Arc::new(a.into()),
                events: libc::POLLIN as u32,
            },
        );
        ring.wait(Some(Duration::ZERO)).unwrap();
        ring.cancel(key);
        let done = run(&mut ring);
        assert_eq!(done.key, key);
        assert_eq!(
            done.result.unwrap_err().raw_os_error(),
            Some(libc::ECANCELED)
        );
        assert_eq!(ring.in_flight(), 0);
    }

    #[test]
    fn more_operations_than_entries() {
        let mut ring = Ring::new(4).unwrap();
        let file = tempfile::tempfile().unwrap();
        let fd: Fd = Arc::new(file.into());
        for n in 0..500u32 {
            let part = Part::all(Memory::Bytes(n.to_le_bytes().to_vec()));
            ring.push(
                n,
                Op::Write {
                    fd: fd.clone(),
                    offset: u64::from(n) * 4,
                    part,
                    durable: false,
                },
            );
        }
        let mut out = Vec::new();
        while out.len() < 500 {
            ring.wait(Some(Duration::from_secs(5))).unwrap();
            ring.completions(&mut out);
        }
        let mut tokens: Vec<_> = out.iter().map(|c| c.token).collect();
        tokens.sort_unstable();
        assert_eq!(tokens, (0..500).collect::<Vec<_>>());
    }

    #[test]
    fn patience_ends() {
        let mut ring = Ring::new(8).unwrap();
        let (a, mut b) = UnixStream::pair().unwrap();
        let (c, _d) = UnixStream::pair().unwrap();
        for (token, fd) in [(1, a), (2, c)] {
            let events = libc::POLLIN as u32;
            let fd = Arc::new(fd.into());
            ring.push(token, Op::Poll { fd, events });
        }
        b.write_all(&[0]).unwrap();
        let start = std::time::Instant::now();
        // Ten are announced and one comes.
        ring.wait_for(10, Some(Duration::from_secs(20))).unwrap();
        let mut out = Vec::new();
        ring.completions(&mut out);
        assert_eq!(out.iter().map(|c| c.token).collect::<Vec<_>>(), [1]);
        assert!(start.elapsed() < Duration::from_secs(10));
        let start = std::time::Instant::now();
        ring.wait_for(10, Some(Duration::from_millis(30))).unwrap();
        assert!(
            start.elapsed() >= Duration::from_millis(25),
            "the timeout counts"
        );
        ring.completions(&mut out);
        assert_eq!(out.len(), 1);
    }

    #[test]
    fn dropping_a_busy_ring_ends_its_operations() {
        let mut ring = Ring::new(4).unwrap();
        let (a, b) = UnixStream::pair().unwrap();
        let a: Fd = Arc::new(a.into());
        let parts = vec![Part::all(Memory::Bytes(vec![0; 64]))];
        ring.push(
            0,
            Op::Receive {
                fd: a.clone(),
                parts,
            },
        );
        ring.wait(Some(Duration::ZERO)).unwrap();
        drop(ring);
        assert_eq!(
            Arc::strong_count(&a),
            1,
            "the operation and its descriptor are gone"
        );
        drop(b);
    }
}
