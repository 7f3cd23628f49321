//! What comes next of a job that takes several requests: pieces of a discard, runs of metadata blocks.

use std::sync::Arc;

use drbd_engine::MetaBlock;

use super::{Disks, META_RUN, Rest, State, ZEROES, Zero};
use crate::backing::{Device, Piece};
use crate::pool::{Buf, Pool, Purpose};
use crate::ring::{Memory, Op, Part};

impl Disks {
    /// The next piece of a discard; `false`: there is none.
    pub(super) fn next_piece(&mut self, job: u32, device: &Arc<Device>) -> bool {
        let Some(Some(State {
            rest: Rest::Pieces { pieces, zero },
            in_flight,
            ..
        })) = self.jobs.get_mut(job as usize)
        else {
            return false;
        };
        let fd = device.fd.clone();
        let op = match pieces.front_mut() {
            None => return false,
            Some(Piece::Discard { offset, len }) if device.is_block => {
                *in_flight += 1;
                self.helper.discard(job, device.clone(), *offset, *len);
                return true;
            }
            Some(Piece::Discard { offset, len }) => {
                if *zero == Zero::Punch {
                    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                    Op::Fallocate {
                        fd,
                        mode,
                        offset: *offset,
                        len: *len,
                    }
                } else {
                    // A file system without holes: nothing to give back, and nothing has to change.
                    pieces.pop_front();
                    *zero = Zero::Punch;
                    return self.next_piece(job, device);
                }
            }
            Some(Piece::Zero { offset, len, unmap }) => {
                if *zero == Zero::Punch && !*unmap {
                    *zero = Zero::Range;
                }
                match zero {
                    Zero::Punch => {
                        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                        Op::Fallocate {
                            fd,
                            mode,
                            offset: *offset,
                            len: *len,
                        }
                    }
                    Zero::Range => {
                        let mode = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
                        Op::Fallocate {
                            fd,
                            mode,
                            offset: *offset,
                            len: *len,
                        }
                    }
                    Zero::Write => {
                        let Some(zeroes) = zeroes(&mut self.zeroes, &self.meta_pool) else {
                            self.stalled.push_back(job);
                            return true;
                        };
                        let now = (*len).min(ZEROES as u64);
                        let at = *offset;
                        *offset += now;
                        *len -= now;
                        if *len == 0 {
                            pieces.pop_front();
                            *zero = Zero::Punch;
                        }
                        let part = Part {
                            memory: Memory::Shared(zeroes),
                            at: 0,
                            len: now as usize,
                        };
                        Op::Write {
                            fd,
                            offset: at,
                            part,
                            durable: false,
                        }
                    }
                }
            }
        };
        self.push(job, op);
        true
    }

    /// The next metadata blocks; `false`: there are none.
    pub(super) fn next_blocks(&mut self, job: u32, device: &Arc<Device>) -> bool {
        let mut started = false;
        loop {
            let Some(Some(State {
                rest:
                    Rest::MetaWrite {
                        blocks,
                        barrier,
                        single,
                        final_flush,
                    },
                ..
            })) = self.jobs.get_mut(job as usize)
            else {
                return started;
            };
            let Some(first) = blocks.front() else {
                if !started && std::mem::take(final_flush) {
                    device.take_dirty();
                    self.push(
                        job,
                        Op::Flush {
                            fd: device.fd.clone(),
                        },
                    );
                    return true;
                }
                return started;
            };
            let offset = first.offset;
            let run = run_length(blocks.iter());
            let Some(mut buf) = self.meta_pool.alloc(run * 4096, Purpose::Internal) else {
                if !started {
                    self.stalled.push_back(job);
                }
                return true;
            };
            for (to, block) in buf.chunks_exact_mut(4096).zip(blocks.drain(..run)) {
                to.copy_from_slice(&*block.data);
            }
            let durable = *barrier && *single;
            let part = Part::all(Memory::Shared(buf.freeze()));
            self.push(
                job,
                Op::Write {
                    fd: device.fd.clone(),
                    offset,
                    part,
                    durable,
                },
            );
            started = true;
        }
    }
}

/// How many blocks from the first on lie one behind the other.
pub(super) fn run_length<'a>(blocks: impl Iterator<Item = &'a MetaBlock>) -> usize {
    let mut next = None;
    blocks
        .take(META_RUN / 4096)
        .take_while(|block| {
            let fits = next.is_none_or(|n| n == block.offset);
            next = block.offset.checked_add(4096);
            fits
        })
        .count()
}

fn zeroes(cached: &mut Option<Buf>, pool: &Pool) -> Option<Buf> {
    if cached.is_none() {
        let mut buf = pool.alloc(ZEROES, Purpose::Internal)?;
        buf.fill(0);
        *cached = Some(buf.freeze());
    }
    cached.clone()
}
