//! Application requests: admission, and what happens before a write goes onto the transfer log.
//!
//! A write passes: *waiting* for admission, *cold* (its extents are not in the activity log), *conflict*
//! (another request owns its range), *logged* (given to the peers and the local disk). See data path,
//! section 3.

use drbd_proto::{
    BarrierNr, Bytes, ConnState, Dagtag, DiskState, NodeId, NodeMask, Role, Sector, VolumeNr,
};

use crate::activity_log::ExtentNr;
use crate::data::conflicts::Owner;
use crate::data::{DataOpKind, ReqId};
use crate::effect::{Effect, IoError};
use crate::engine::Engine;
use crate::event::{DiskError, IoRequest};
use crate::id::{BufId, IoId};
use crate::interval::{IntervalId, Kind};
use crate::time::Instant;

/// Largest read or write, in bytes (data path, section 1).
pub(crate) const MAX_IO: u32 = 1 << 20;
/// Largest discard or write-zeroes, in bytes (data path, section 1).
pub(crate) const MAX_DISCARD: u32 = 128 << 20;

/// What a request does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReqKind {
    /// Read.
    Read,
    /// Write of data.
    Write {
        /// On stable storage when complete.
        fua: bool,
    },
    /// Discard.
    Discard,
    /// Write of zeroes.
    Zeroes {
        /// May give space back.
        unmap: bool,
    },
    /// Flush without data.
    Flush,
}

/// Where a request stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// In the queue for admission.
    Waiting,
    /// In the queue for activity log extents.
    Cold,
    /// In the interval tree, behind somebody else.
    Conflict,
    /// Given to the disk and the peers.
    Logged,
}

/// The local part of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Local {
    /// There is none.
    None,
    /// On the disk's way.
    Pending,
    /// Done.
    Ok,
    /// Failed.
    Failed(DiskError),
}

/// An application request.
#[derive(Debug)]
pub(crate) struct Request {
    /// Name under which it completes.
    pub io: IoId,
    /// Its volume.
    pub volume: VolumeNr,
    /// What it does.
    pub kind: ReqKind,
    /// First sector.
    pub sector: Sector,
    /// Length in bytes.
    pub len: u32,
    /// Data of a write, until completion.
    pub buf: Option<BufId>,
    /// Where it stands.
    pub stage: Stage,
    /// Extents of its range that it holds, counted from the first one.
    pub extents: u32,
    /// It has been through the activity log, for the disk that was attached then.
    pub covered: bool,
    /// Its place in the interval tree.
    pub interval: Option<IntervalId>,
    /// Its epoch.
    pub epoch: BarrierNr,
    /// Position of its end in the stream of writes.
    pub dagtag: Dagtag,
    /// The local part.
    pub local: Local,
    /// Peers whose answer completion waits for.
    pub pending: NodeMask,
    /// Peers that get P_OUT_OF_SYNC instead of the data.
    pub pending_oos: NodeMask,
    /// Peers that it was sent to, over streams that still exist.
    pub sent: NodeMask,
    /// Peers that met the condition of their protocol.
    pub ok: NodeMask,
    /// Peers of these that have only said that they received it (protocol B).
    pub received: NodeMask,
    /// Peers that set the blocks in sync.
    pub sis: NodeMask,
    /// Peers of which a barrier-ack is expected.
    pub expect_barrier: NodeMask,
    /// Peers that are finished with it.
    pub done: NodeMask,
    /// Peers that it is sent to with protocol B or C: kept over a connection loss while suspended.
    pub synchronous: NodeMask,
    /// Completion is held until I/O resumes (data path, section 4.3).
    pub held: bool,
    /// A peer said that it could not write it.
    pub refused: bool,
    /// Completed to the application.
    pub completed: bool,
    /// Nodes that failed to read it; this node for the local disk.
    pub tried: NodeMask,
    /// When it was sent.
    pub since: Instant,
}

impl Request {
    /// A request that was not looked at yet.
    pub(crate) fn new(io: IoId, volume: VolumeNr, kind: ReqKind, sector: Sector, len: u32) -> Self {
        Request {
            io,
            volume,
            kind,
            sector,
            len,
            buf: None,
            stage: Stage::Waiting,
            extents: 0,
            covered: false,
            interval: None,
            epoch: BarrierNr(0),
            dagtag: Dagtag::ZERO,
            local: Local::None,
            pending: NodeMask::EMPTY,
            pending_oos: NodeMask::EMPTY,
            sent: NodeMask::EMPTY,
            ok: NodeMask::EMPTY,
            received: NodeMask::EMPTY,
            sis: NodeMask::EMPTY,
            expect_barrier: NodeMask::EMPTY,
            done: NodeMask::EMPTY,
            synchronous: NodeMask::EMPTY,
            held: false,
            refused: false,
            completed: false,
            tried: NodeMask::EMPTY,
            since: Instant::ZERO,
        }
    }

    /// Whether it changes data.
    pub(crate) fn is_write(&self) -> bool {
        matches!(
            self.kind,
            ReqKind::Write { .. } | ReqKind::Discard | ReqKind::Zeroes { .. }
        )
    }

    /// Sectors of its range.
    pub(crate) fn sectors(&self) -> u64 {
        u64::from(self.len / 512)
    }

    /// What it counts for in `ap_in_flight`, in sectors (data path, section 10.1).
    pub(crate) fn weight(&self) -> u64 {
        match self.kind {
            ReqKind::Write { .. } => self.sectors(),
            _ => 1,
        }
    }
}

/// Whether a request may start.
enum Admission {
    Go,
    Wait,
    Fail(IoError),
}

impl Engine {
    /// An application submitted a request (data path, section 3.1).
    pub(crate) fn io_submit(&mut self, io: IoId, volume: VolumeNr, request: IoRequest) {
        let (kind, sector, len, buf) = match request {
            IoRequest::Read { sector, len } => (ReqKind::Read, sector, len, None),
            IoRequest::Write {
                sector,
                len,
                buf,
                fua,
            } => (ReqKind::Write { fua }, sector, len, Some(buf)),
            IoRequest::Flush => (ReqKind::Flush, Sector(0), 0, None),
            IoRequest::Discard { sector, len } => (ReqKind::Discard, sector, len, None),
            IoRequest::WriteZeroes { sector, len, unmap } => {
                (ReqKind::Zeroes { unmap }, sector, len, None)
            }
        };
        let early = self.check_request(volume, kind, sector, len);
        if let Some(result) = early {
            self.push(Effect::CompleteIo {
                io,
                result,
                data: None,
            });
            if let Some(buf) = buf {
                self.release(buf);
            }
            return;
        }
        let id = self.data.new_req();
        let request = Request {
            buf,
            ..Request::new(io, volume, kind, sector, len)
        };
        self.data.requests.insert(id, request);
        self.park(volume, id);
    }

    /// What can be said about a request without looking at the state of the cluster.
    fn check_request(
        &self,
        volume: VolumeNr,
        kind: ReqKind,
        sector: Sector,
        len: u32,
    ) -> Option<Result<(), IoError>> {
        let Some(v) = self.volumes.get(&volume) else {
            return Some(Err(IoError::Invalid));
        };
        if !matches!(kind, ReqKind::Read) && self.state.role != Role::Primary {
            return Some(Err(IoError::NotPrimary));
        }
        if kind == ReqKind::Flush {
            return None;
        }
        if len == 0 {
            return Some(Ok(()));
        }
        let max = match kind {
            ReqKind::Read | ReqKind::Write { .. } => MAX_IO,
            _ => MAX_DISCARD,
        };
        let inside = sector.end(Bytes(len)).is_some_and(|end| end.0 <= v.size);
        if len > max || !len.is_multiple_of(512) || !inside {
            return Some(Err(IoError::Invalid));
        }
        None
    }

    /// Whether no request moves any more while I/O is suspended. What was sent to a peer that is gone since waits for
    /// the end of the suspension, and what waits behind that, too.
    pub(crate) fn io_settled(&self) -> bool {
        let (mut behind, mut stuck) = (false, false);
        for req in self.data.requests.values().filter(|r| !r.completed) {
            match req.stage {
                Stage::Waiting => {}
                Stage::Cold => return false,
                Stage::Conflict => behind = true,
                Stage::Logged => {
                    let answers = |p: NodeId| self.state.cstate(p) == ConnState::Connected;
                    if req.local == Local::Pending || req.pending.iter().any(answers) {
                        return false;
                    }
                    stuck = true;
                }
            }
        }
        !behind || stuck
    }

    /// Puts a request into the queue for admission.
    pub(crate) fn park(&mut self, volume: VolumeNr, id: ReqId) {
        if let Some(req) = self.data.requests.get_mut(&id) {
            req.stage = Stage::Waiting;
        }
        if let Some(v) = self.volumes.get_mut(&volume) {
            v.data.waiting.push_back(id);
            self.data.recheck = true;
        }
    }

    /// Whether a new request may start now (data path, section 3.1, item 3).
    fn admission(&mut self, volume: VolumeNr, write: bool) -> Admission {
        if self.error_io(volume) {
            return Admission::Fail(IoError::Io);
        }
        if self.state.suspended() {
            return Admission::Wait;
        }
        if self.unstable_for_io(volume) {
            return Admission::Wait;
        }
        let Some(v) = self.volumes.get(&volume) else {
            return Admission::Fail(IoError::Invalid);
        };
        let in_progress = if write { v.data.writes } else { v.data.reads };
        if in_progress >= v.options.max_io_depth {
            return Admission::Wait;
        }
        // Without data the request fails below, and the generation stays due.
        if v.flags.new_cur_uuid
            && self.state.role == Role::Primary
            && self.data_accessible(&self.state, volume)
        {
            self.new_uuid_wanted(volume);
            return Admission::Wait;
        }
        Admission::Go
    }

    /// Starts what may start of the waiting requests.
    pub(crate) fn settle_admission(&mut self) {
        let volumes: alloc::vec::Vec<VolumeNr> = self
            .volumes
            .iter()
            .filter(|(_, v)| !v.data.waiting.is_empty())
            .map(|(nr, _)| *nr)
            .collect();
        for volume in volumes {
            // Requests that come back to the queue meanwhile get their turn in the next round.
            let mut queue = match self.volumes.get_mut(&volume) {
                Some(v) => core::mem::take(&mut v.data.waiting),
                None => continue,
            };
            while let Some(&id) = queue.front() {
                let Some(req) = self.data.requests.get(&id) else {
                    queue.pop_front();
                    continue;
                };
                let write = req.is_write();
                // The device may have become smaller while it waited.
                let end = req.sector.end(Bytes(req.len)).map(|end| end.0);
                let size = self.volumes.get(&volume).map_or(0, |v| v.size);
                let outside = size != 0 && end.is_none_or(|end| end > size);
                let admission = match self.admission(volume, write) {
                    Admission::Go if outside => Admission::Fail(IoError::Invalid),
                    admission => admission,
                };
                match admission {
                    Admission::Wait => break,
                    Admission::Go => {
                        queue.pop_front();
                        self.start(id);
                    }
                    Admission::Fail(error) => {
                        queue.pop_front();
                        self.finish_early(id, error);
                    }
                }
            }
            if let Some(v) = self.volumes.get_mut(&volume) {
                let late = core::mem::replace(&mut v.data.waiting, queue);
                v.data.waiting.extend(late);
            }
        }
    }

    /// Starts an admitted request.
    fn start(&mut self, id: ReqId) {
        let Some(req) = self.data.requests.get(&id) else {
            return;
        };
        let (volume, kind) = (req.volume, req.kind);
        if let Some(v) = self.volumes.get_mut(&volume) {
            match kind {
                ReqKind::Read => v.data.reads += 1,
                _ => v.data.writes += 1,
            }
        }
        match kind {
            ReqKind::Read => self.start_read(id),
            ReqKind::Flush => self.start_flush(id),
            _ => self.activate(id),
        }
    }

    /// A request leaves the requests in progress.
    pub(crate) fn leave_progress(&mut self, volume: VolumeNr, kind: ReqKind) {
        if let Some(v) = self.volumes.get_mut(&volume) {
            let count = match kind {
                ReqKind::Read => &mut v.data.reads,
                _ => &mut v.data.writes,
            };
            *count = count.saturating_sub(1);
            if !v.data.waiting.is_empty() {
                self.data.recheck = true;
            }
        }
    }

    /// Fails a request that never got anywhere.
    fn finish_early(&mut self, id: ReqId, error: IoError) {
        let Some(req) = self.data.requests.remove(&id) else {
            return;
        };
        self.push(Effect::CompleteIo {
            io: req.io,
            result: Err(error),
            data: None,
        });
        if let Some(buf) = req.buf {
            self.release(buf);
        }
    }

    /// Second step of a write: its extents have to be in the activity log (data path, section 3.2).
    pub(crate) fn activate(&mut self, id: ReqId) {
        let Some(req) = self.data.requests.get_mut(&id) else {
            return;
        };
        let (volume, sector, len) = (req.volume, req.sector, req.len);
        let hot_path = matches!(req.kind, ReqKind::Write { .. });
        req.covered = false;
        if !self.local_disk_at_least(volume, DiskState::Inconsistent) {
            self.enter(id);
            return;
        }
        let Some(v) = self.volumes.get_mut(&volume) else {
            return;
        };
        let mut extents = ExtentNr::covering(sector, len);
        let single = match (extents.next(), extents.next()) {
            (Some(extent), None) if hot_path => Some(extent),
            _ => None,
        };
        let hot = match (&mut v.data.al, single) {
            (Some(al), Some(extent)) => al.get_active(extent),
            _ => false,
        };
        if let Some(req) = self.data.requests.get_mut(&id) {
            if hot {
                req.extents = 1;
                req.covered = true;
            } else {
                req.stage = Stage::Cold;
            }
        }
        if hot {
            self.enter(id);
        } else {
            v.data.al_queue.local.push_back(id);
            v.data.al_queue.turn = true;
            self.data.recheck = true;
        }
    }

    /// Third step of a write: it takes its range (data path, section 3.3).
    pub(crate) fn enter(&mut self, id: ReqId) {
        let Some(req) = self.data.requests.get(&id) else {
            return;
        };
        let (volume, sector, len) = (req.volume, req.sector, req.len);
        let (interval, free) = self.interval_enter(
            volume,
            Kind::LocalWrite,
            sector,
            len,
            None,
            Owner::Request(id),
        );
        if let Some(req) = self.data.requests.get_mut(&id) {
            req.interval = interval;
            req.stage = Stage::Conflict;
        }
        if free {
            self.log_write(id);
        }
    }

    /// Takes a write that was not logged back to admission, untouched (data path, section 3.4, item
    /// 9.2).
    pub(crate) fn postpone(&mut self, id: ReqId) {
        self.put_extents_of(id);
        let Some(req) = self.data.requests.get_mut(&id) else {
            return;
        };
        let (volume, kind) = (req.volume, req.kind);
        let interval = req.interval.take();
        if let Some(interval) = interval {
            self.interval_leave(volume, interval);
        }
        self.leave_progress(volume, kind);
        self.park(volume, id);
    }

    /// A request without data: flush the own disk; the peers have their barriers (data path, section
    /// 9).
    pub(super) fn start_flush(&mut self, id: ReqId) {
        let Some(req) = self.data.requests.get(&id) else {
            return;
        };
        let volume = req.volume;
        let up_to_date: NodeMask = self
            .state
            .peers_of(volume)
            .filter(|(_, _, pd)| pd.pdisk == DiskState::UpToDate)
            .map(|(peer, _, _)| peer)
            .collect();
        let local = self.local_disk_at_least(volume, DiskState::Inconsistent);
        if let Some(req) = self.data.requests.get_mut(&id) {
            req.ok = up_to_date;
            req.stage = Stage::Logged;
            if local {
                req.local = Local::Pending;
            }
        }
        if local {
            self.flush_cache(volume, DataOpKind::Local(id));
        } else {
            self.try_complete(id);
        }
    }
}
