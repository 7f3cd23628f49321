//! Disk operations of the engine as sequences of ring operations.

mod helper;
mod steps;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use drbd_engine::{DiskError, MetaBlock, OpId};

use helper::Helper;
use steps::run_length;

use super::{Device, Piece};
use crate::pool::{Buf, BufMut, Pool, Purpose};
use crate::ring::{Memory, Op, Part};

/// Memory for metadata: apart from the pool of the payload, because payload waits for metadata.
const META_POOL: usize = 8 << 20;
/// Longest run of metadata blocks written by one operation, in bytes.
const META_RUN: usize = 256 << 10;
/// Buffer of zeroes for devices that cannot zero by themselves, in bytes.
const ZEROES: usize = 256 << 10;

/// A ring operation to start for a job.
#[derive(Debug)]
pub struct Job {
    /// Goes into the token: the job and what the operation is for it.
    pub job: u32,
    /// The operation.
    pub op: Op,
}

/// An operation of the engine that has ended.
#[derive(Debug)]
pub struct Finished {
    /// The operation.
    pub op: OpId,
    /// What it produced.
    pub result: Result<Output, DiskError>,
}

/// What a disk operation produced.
#[derive(Debug)]
pub enum Output {
    /// Nothing but success.
    Nothing,
    /// Data.
    Data(Buf),
    /// Metadata.
    Bytes(Vec<u8>),
}

#[derive(Debug)]
struct State {
    op: OpId,
    device: Arc<Device>,
    in_flight: u32,
    error: Option<DiskError>,
    rest: Rest,
}

/// What remains to be done when the operations under way have ended.
#[derive(Debug)]
enum Rest {
    Nothing,
    /// The read itself is under way.
    Read {
        meta: bool,
        filled: Option<BufMut>,
    },
    /// A flush is under way, then this write.
    Write {
        offset: u64,
        part: Part,
        fua: bool,
    },
    Pieces {
        pieces: VecDeque<Piece>,
        zero: Zero,
    },
    MetaWrite {
        blocks: VecDeque<MetaBlock>,
        barrier: bool,
        single: bool,
        final_flush: bool,
    },
}

/// How zeroing is tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Zero {
    Punch,
    Range,
    Write,
}

/// Up to how many bytes are copied at once; more keep the reactor busy for too long.
const COPIED: usize = 64 << 10;

/// All disk operations under way in one reactor.
pub struct Disks {
    jobs: Vec<Option<State>>,
    free: Vec<u32>,
    meta_pool: Pool,
    zeroes: Option<Buf>,
    helper: Helper,
    start: Vec<Job>,
    /// What is done by the reactor's thread itself.
    copies: VecDeque<Job>,
    finished: VecDeque<Finished>,
    /// Jobs that wait for metadata memory.
    stalled: VecDeque<u32>,
}

/// The engine's view of an error.
pub(crate) fn disk_error(error: &io::Error) -> DiskError {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => DiskError::NoSpace,
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY) => DiskError::NotSupported,
        _ => DiskError::Io,
    }
}

impl Disks {
    /// `report` is called from a helper thread and must bring its arguments to
    /// [`helper_done`](Self::helper_done).
    pub fn new(report: Arc<dyn Fn(u32, io::Result<()>) + Send + Sync>) -> Disks {
        Disks {
            jobs: Vec::new(),
            free: Vec::new(),
            meta_pool: Pool::new(META_POOL),
            zeroes: None,
            helper: Helper::new(report),
            start: Vec::new(),
            copies: VecDeque::new(),
            finished: VecDeque::new(),
            stalled: VecDeque::new(),
        }
    }

    /// Ring operations to start now.
    pub fn to_start(&mut self) -> Vec<Job> {
        std::mem::take(&mut self.start)
    }

    /// The next operation of the engine that has ended.
    pub fn next_finished(&mut self) -> Option<Finished> {
        self.finished.pop_front()
    }

    /// Carries out at most `limit` operations that only copy memory (and flushes where there is nothing to flush), in
    /// the order in which they came. `false`: there was none.
    pub fn copy(&mut self, limit: usize) -> bool {
        let count = self.copies.len().min(limit);
        for _ in 0..count {
            let Some(Job { job, mut op }) = self.copies.pop_front() else {
                break;
            };
            let result = match &mut op {
                Op::Read { fd, offset, part } => rustix::io::pread(fd, part.bytes_mut(), *offset),
                Op::Write {
                    fd, offset, part, ..
                } => rustix::io::pwrite(fd, part.bytes(), *offset),
                Op::Flush { fd } => rustix::fs::fdatasync(fd).map(|()| 0),
                _ => Err(rustix::io::Errno::INVAL),
            };
            let moved = result.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
            self.complete(job, moved.map_err(io::Error::from), op);
        }
        count > 0
    }

    /// Whether there are operations for [`copy`](Self::copy).
    pub fn has_copies(&self) -> bool {
        !self.copies.is_empty()
    }

    /// Operations of the engine under way.
    pub fn busy(&self) -> usize {
        self.jobs.len() - self.free.len()
    }

    /// Reads data.
    pub fn read(&mut self, op: OpId, device: &Arc<Device>, offset: u64, buf: BufMut) {
        let job = self.add(
            op,
            device,
            Rest::Read {
                meta: false,
                filled: None,
            },
        );
        self.push(
            job,
            Op::Read {
                fd: device.fd.clone(),
                offset,
                part: Part::all(Memory::Fill(buf)),
            },
        );
    }

    /// Writes the first `len` bytes of a buffer.
    #[allow(clippy::too_many_arguments)] // The fields of the effect.
    pub fn write(
        &mut self,
        op: OpId,
        device: &Arc<Device>,
        offset: u64,
        buf: Buf,
        len: usize,
        preflush: bool,
        fua: bool,
    ) {
        let part = Part {
            memory: Memory::Shared(buf),
            at: 0,
            len,
        };
        if preflush && device.take_dirty() {
            let job = self.add(op, device, Rest::Write { offset, part, fua });
            self.push(
                job,
                Op::Flush {
                    fd: device.fd.clone(),
                },
            );
        } else {
            let job = self.add(op, device, Rest::Nothing);
            self.push(
                job,
                Op::Write {
                    fd: device.fd.clone(),
                    offset,
                    part,
                    durable: fua,
                },
            );
        }
    }

    /// Flushes the cache of a device.
    pub fn flush(&mut self, op: OpId, device: &Arc<Device>) {
        let job = self.add(op, device, Rest::Nothing);
        device.take_dirty();
        self.push(
            job,
            Op::Flush {
                fd: device.fd.clone(),
            },
        );
    }

    /// Carries out the pieces of a discard, one after the other.
    pub fn discard(&mut self, op: OpId, device: &Arc<Device>, pieces: Vec<Piece>) {
        let job = self.add(
            op,
            device,
            Rest::Pieces {
                pieces: pieces.into(),
                zero: Zero::Punch,
            },
        );
        self.advance(job);
    }

    /// Reads `len` bytes of metadata.
    pub fn meta_read(&mut self, op: OpId, device: &Arc<Device>, offset: u64, len: u32) {
        match self.meta_pool.alloc(len as usize, Purpose::Internal) {
            Some(buf) => {
                let job = self.add(
                    op,
                    device,
                    Rest::Read {
                        meta: true,
                        filled: None,
                    },
                );
                self.push(
                    job,
                    Op::Read {
                        fd: device.fd.clone(),
                        offset,
                        part: Part::all(Memory::Fill(buf)),
                    },
                );
            }
            // Longer than a buffer, or the system is out of memory.
            None => self.finished.push_back(Finished {
                op,
                result: Err(DiskError::Io),
            }),
        }
    }

    /// Writes blocks of metadata.
    pub fn meta_write(
        &mut self,
        op: OpId,
        device: &Arc<Device>,
        blocks: Vec<MetaBlock>,
        barrier: bool,
    ) {
        let mut blocks = blocks;
        blocks.sort_by_key(|b| b.offset);
        let single = run_length(blocks.iter()) == blocks.len();
        let rest = Rest::MetaWrite {
            blocks: blocks.into(),
            barrier,
            single,
            final_flush: barrier && !single,
        };
        let job = self.add(op, device, rest);
        if barrier && device.take_dirty() {
            self.push(
                job,
                Op::Flush {
                    fd: device.fd.clone(),
                },
            );
        } else {
            self.advance(job);
        }
    }

    /// A ring operation of a job has ended.
    pub fn complete(&mut self, job: u32, result: io::Result<u32>, op: Op) {
        let Some(Some(state)) = self.jobs.get_mut(job as usize) else {
            return;
        };
        state.in_flight -= 1;
        match (result, op) {
            (
                Ok(moved),
                Op::Read {
                    fd,
                    offset,
                    mut part,
                },
            ) => {
                let moved = moved as usize;
                if moved >= part.len {
                    if let (Rest::Read { filled, .. }, Memory::Fill(buf)) =
                        (&mut state.rest, part.memory)
                    {
                        *filled = Some(buf);
                    }
                } else if moved == 0 {
                    // The end of the device lies before the end of the request.
                    state.error = Some(DiskError::Io);
                } else {
                    part.at += moved;
                    part.len -= moved;
                    let offset = offset + moved as u64;
                    self.push(job, Op::Read { fd, offset, part });
                    return;
                }
            }
            (
                Ok(moved),
                Op::Write {
                    fd,
                    offset,
                    mut part,
                    durable,
                },
            ) => {
                let moved = moved as usize;
                if !durable {
                    state.device.wrote();
                }
                if moved == 0 && part.len > 0 {
                    state.error = Some(DiskError::NoSpace);
                } else if moved < part.len {
                    part.at += moved;
                    part.len -= moved;
                    self.push(
                        job,
                        Op::Write {
                            fd,
                            offset: offset + moved as u64,
                            part,
                            durable,
                        },
                    );
                    return;
                }
            }
            (Ok(_), Op::Fallocate { .. }) => {
                state.device.wrote();
                if let Rest::Pieces { pieces, zero } = &mut state.rest {
                    pieces.pop_front();
                    *zero = Zero::Punch;
                }
            }
            (Ok(_), _) => {}
            (Err(e), op) => {
                let unsupported = matches!(
                    e.raw_os_error(),
                    Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL | libc::ENODEV)
                );
                match (&mut state.rest, &op) {
                    (Rest::Pieces { zero, .. }, Op::Fallocate { .. }) if unsupported => {
                        *zero = match zero {
                            Zero::Punch => Zero::Range,
                            _ => Zero::Write,
                        };
                    }
                    _ if matches!(e.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) => {
                        self.push(job, op);
                        return;
                    }
                    _ => {
                        let path = state.device.path.display();
                        tracing::error!("{path}: {} failed: {e}", what(&op));
                        // A failed flush leaves the cache in an unknown state.
                        state.device.wrote();
                        state.error = Some(disk_error(&e));
                    }
                }
            }
        }
        self.advance(job);
    }

    /// A call in the helper thread has ended.
    pub fn helper_done(&mut self, job: u32, result: io::Result<()>) {
        let Some(Some(state)) = self.jobs.get_mut(job as usize) else {
            return;
        };
        state.in_flight -= 1;
        if let Rest::Pieces { pieces, .. } = &mut state.rest
            && let Some(piece) = pieces.pop_front()
        {
            match result {
                Ok(()) => state.device.wrote(),
                // What cannot be discarded is zeroed: a discard has no other visible effect to offer.
                Err(e) if disk_error(&e) == DiskError::NotSupported => {
                    if let Piece::Discard { offset, len } = piece {
                        pieces.push_front(Piece::Zero {
                            offset,
                            len,
                            unmap: true,
                        });
                    }
                }
                Err(e) => {
                    tracing::error!("{}: discard failed: {e}", state.device.path.display());
                    state.error = Some(disk_error(&e));
                }
            }
        }
        self.advance(job);
    }

    fn add(&mut self, op: OpId, device: &Arc<Device>, rest: Rest) -> u32 {
        let state = State {
            op,
            device: device.clone(),
            in_flight: 0,
            error: None,
            rest,
        };
        match self.free.pop() {
            Some(job) => {
                if let Some(slot) = self.jobs.get_mut(job as usize) {
                    *slot = Some(state);
                }
                job
            }
            None => {
                self.jobs.push(Some(state));
                self.jobs.len() as u32 - 1
            }
        }
    }

    fn push(&mut self, job: u32, op: Op) {
        if let Some(Some(state)) = self.jobs.get_mut(job as usize) {
            state.in_flight += 1;
            if state.device.in_memory && is_short(&op) {
                self.copies.push_back(Job { job, op });
                return;
            }
        }
        self.start.push(Job { job, op });
    }

    /// Starts what comes next, or ends the job.
    fn advance(&mut self, job: u32) {
        let Some(Some(state)) = self.jobs.get_mut(job as usize) else {
            return;
        };
        if state.in_flight > 0 {
            return;
        }
        let device = state.device.clone();
        if state.error.is_none() {
            match &mut state.rest {
                Rest::Nothing | Rest::Read { .. } => {}
                Rest::Write { .. } => {
                    if let Rest::Write { offset, part, fua } =
                        std::mem::replace(&mut state.rest, Rest::Nothing)
                    {
                        self.push(
                            job,
                            Op::Write {
                                fd: device.fd.clone(),
                                offset,
                                part,
                                durable: fua,
                            },
                        );
                        return;
                    }
                }
                Rest::Pieces { .. } => {
                    if self.next_piece(job, &device) {
                        return;
                    }
                }
                Rest::MetaWrite { .. } => {
                    if self.next_blocks(job, &device) {
                        return;
                    }
                }
            }
        }
        self.finish(job);
    }

    fn finish(&mut self, job: u32) {
        let Some(state) = self.jobs.get_mut(job as usize).and_then(Option::take) else {
            return;
        };
        self.free.push(job);
        let result = match (state.error, state.rest) {
            (Some(error), _) => Err(error),
            (
                None,
                Rest::Read {
                    meta: false,
                    filled: Some(buf),
                },
            ) => Ok(Output::Data(buf.freeze())),
            (
                None,
                Rest::Read {
                    meta: true,
                    filled: Some(buf),
                },
            ) => Ok(Output::Bytes(buf.to_vec())),
            (None, Rest::Read { filled: None, .. }) => Err(DiskError::Io),
            (None, _) => Ok(Output::Nothing),
        };
        self.finished.push_back(Finished {
            op: state.op,
            result,
        });
        if let Some(stalled) = self.stalled.pop_front() {
            self.advance(stalled);
        }
    }
}

fn is_short(op: &Op) -> bool {
    match op {
        Op::Read { part, .. } | Op::Write { part, .. } => part.len <= COPIED,
        Op::Flush { .. } => true,
        _ => false,
    }
}

fn what(op: &Op) -> &'static str {
    match op {
        Op::Read { .. } => "read",
        Op::Write { .. } => "write",
        Op::Flush { .. } => "flush",
        Op::Fallocate { .. } => "zeroing",
        _ => "operation",
    }
}
