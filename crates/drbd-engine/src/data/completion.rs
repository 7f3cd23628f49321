//! How an application's request ends: the disk's part, the peers' part, the answer to the application
//! (data path, section 4).

use drbd_proto::{DiskState, VolumeNr};

use crate::data::request::{Local, ReqKind, Request, Stage};
use crate::data::{DataOpKind, ReqId};
use crate::disk::DiskFault;
use crate::effect::{DiscardKind, Effect, IoError};
use crate::engine::Engine;
use crate::event::{DiskError, OpOutput, OpResult};
use crate::options::{OnNoData, OnNoQuorum};

impl Engine {
    /// Hands the local part of a logged write to the disk.
    pub(crate) fn submit_local(&mut self, id: ReqId) {
        let Some(req) = self.data.requests.get_mut(&id) else {
            return;
        };
        req.local = Local::Pending;
        let (volume, sector, len, kind, buf) = (req.volume, req.sector, req.len, req.kind, req.buf);
        let sectors = req.sectors();
        if let Some(v) = self.volumes.get_mut(&volume) {
            v.data.written += sectors;
        }
        let op = self.data_op(volume, DataOpKind::Local(id));
        match (kind, buf) {
            (ReqKind::Write { fua }, Some(buf)) => {
                self.push(Effect::DiskWrite {
                    op,
                    volume,
                    sector,
                    len,
                    buf,
                    preflush: false,
                    fua,
                });
            }
            (ReqKind::Zeroes { unmap }, _) => {
                let kind = DiscardKind {
                    trim: unmap,
                    zero: true,
                };
                self.push(Effect::DiskDiscard {
                    op,
                    volume,
                    sector,
                    len,
                    kind,
                });
            }
            _ => {
                let kind = DiscardKind {
                    trim: true,
                    zero: false,
                };
                self.push(Effect::DiskDiscard {
                    op,
                    volume,
                    sector,
                    len,
                    kind,
                });
            }
        }
    }

    /// The disk has finished the local part of a request.
    pub(crate) fn local_done(&mut self, volume: VolumeNr, id: ReqId, result: OpResult) {
        let Some(req) = self.data.requests.get_mut(&id) else {
            // Given up meanwhile; only a buffer may be left over.
            if let Ok(OpOutput::Buf(buf)) = result {
                self.release(buf);
            }
            return;
        };
        let (kind, interval) = (req.kind, req.interval);
        if kind == ReqKind::Read {
            self.local_read_done(id, result);
            return;
        }
        req.local = match result {
            Ok(_) => Local::Ok,
            Err(error) => Local::Failed(error),
        };
        if let Some(interval) = interval {
            self.interval_on_disk(volume, interval);
        }
        // A failed discard or flush says nothing about the disk (data path, section 20.2).
        if result_is_fatal(&result) && matches!(kind, ReqKind::Write { .. }) {
            self.disk_failed(volume, DiskFault::Write);
        }
        self.try_complete(id);
    }

    /// Completes a request to the application once nothing is missing (data path, section 4).
    pub(crate) fn try_complete(&mut self, id: ReqId) {
        let Some(req) = self.data.requests.get(&id) else {
            return;
        };
        if req.stage != Stage::Logged
            || req.completed
            || req.held
            || req.local == Local::Pending
            || !req.pending.is_empty()
        {
            return;
        }
        if self.waits_for_confirmation(req) {
            return;
        }
        let (io, volume, kind, epoch) = (req.io, req.volume, req.kind, req.epoch);
        let good = self.is_kept(req);
        let is_write = req.is_write();
        if !good && self.may_wait(req) {
            return match (is_write, self.state.suspended()) {
                // Whoever has it may come back.
                (true, true) => {
                    if let Some(req) = self.data.requests.get_mut(&id) {
                        req.held = true;
                        req.refused = false;
                    }
                }
                (true, false) => self.write_again(id),
                (false, _) => self.flush_again(id),
            };
        }
        let result = if !good || self.fails_writes(volume) {
            Err(match req.local {
                Local::Failed(DiskError::NoSpace) => IoError::NoSpace,
                _ => IoError::Io,
            })
        } else {
            Ok(())
        };
        // The application may write something that depends on this one (data path, section 7.2).
        if is_write && epoch == self.data.epoch {
            self.close_epoch();
        }
        // Nobody relies on one that failed.
        if is_write && result.is_ok() {
            self.note_missed(id);
        }
        let Some(req) = self.data.requests.get_mut(&id) else {
            return;
        };
        req.completed = true;
        let (buf, interval) = (req.buf.take(), req.interval);
        self.push(Effect::CompleteIo {
            io,
            result,
            data: None,
        });
        if let Some(buf) = buf {
            self.release(buf);
        }
        self.leave_progress(volume, kind);
        if let Some(interval) = interval {
            self.interval_completed(volume, interval);
        }
        if is_write {
            self.advance_log();
        } else {
            self.data.requests.remove(&id);
        }
    }

    /// Whether a write or flush that reached nobody who counts waits for data to become accessible again (data
    /// path, invariant C5; a deviation: the reference fails it).
    fn may_wait(&self, req: &Request) -> bool {
        let failed = match req.local {
            Local::Failed(DiskError::Io) => {
                self.local_disk_at_least(req.volume, DiskState::Inconsistent)
            }
            Local::Failed(_) => true,
            _ => false,
        };
        // A peer that refused it may have been the last one with data, and be on its way out.
        !failed
            && (!req.refused || self.state.suspended())
            && self.options.on_no_data == OnNoData::SuspendIo
            && !self.fails_writes(req.volume)
    }

    /// A write is written again, to whom there is now. What it left behind is settled as a write of its own.
    fn write_again(&mut self, id: ReqId) {
        let Some(old) = self.data.requests.get_mut(&id) else {
            return;
        };
        old.completed = true;
        let (volume, kind, interval) = (old.volume, old.kind, old.interval);
        let fresh = Request {
            buf: old.buf.take(),
            ..Request::new(old.io, volume, kind, old.sector, old.len)
        };
        let new = self.data.new_req();
        self.data.requests.insert(new, fresh);
        self.leave_progress(volume, kind);
        if let Some(interval) = interval {
            self.interval_completed(volume, interval);
        }
        self.park(volume, new);
        self.advance_log();
    }

    /// A flush begins again: what it is to cover has to be with somebody.
    fn flush_again(&mut self, id: ReqId) {
        let Some(req) = self.data.requests.get_mut(&id) else {
            return;
        };
        req.local = Local::None;
        let (volume, kind) = (req.volume, req.kind);
        self.leave_progress(volume, kind);
        self.park(volume, id);
    }

    /// Whether a copy that counts has a request's data (data path, section 4.2). A deviation: a disk that is being
    /// resynced, missed writes, or has been let go meanwhile is no such copy. When its source is gone and comes
    /// back, or it is attached again, the block is replaced by the peer's.
    fn is_kept(&self, req: &Request) -> bool {
        let counts = |disk: DiskState| disk > DiskState::Outdated && disk != DiskState::Unknown;
        (req.local == Local::Ok && counts(self.state.disk(req.volume)))
            || req
                .ok
                .iter()
                .any(|n| counts(self.state.pdisk(n, req.volume)))
    }

    /// Whether writes that reach their goal are failed all the same (data path, section 4.2).
    fn fails_writes(&self, volume: VolumeNr) -> bool {
        self.state.fail_io
            || (self.options.on_no_quorum == OnNoQuorum::IoError
                && self
                    .state
                    .devices
                    .get(&volume)
                    .is_some_and(|d| !d.have_quorum))
    }
}

/// Whether a result is an error of the disk, not of the request.
fn result_is_fatal(result: &OpResult) -> bool {
    matches!(result, Err(DiskError::Io | DiskError::NoSpace))
}
