//! Requests of applications: submitting them, and judging how they end.

use std::collections::BTreeMap;
use std::rc::Rc;

use drbd_engine::effect::{IoError, OpenError};
use drbd_engine::event::{Event, IoRequest};
use drbd_engine::id::{BufId, IoId, OpenId};
use drbd_engine::options::{OnNoData, OnNoQuorum};
use drbd_proto::{DiskState, Role, Sector, VolumeNr};

use super::{Cluster, Occurrence};
use crate::buffer::{Origin, Payload, Version, ZEROES};
use crate::clock::Time;
use crate::oracle::Violation;
use crate::oracle::history::End;
use crate::ranges::RangeMap;

/// What an application asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoKind {
    /// Read.
    Read,
    /// Write.
    Write {
        /// On stable storage when complete.
        fua: bool,
    },
    /// Flush the whole device.
    Flush,
    /// Discard.
    Discard,
}

/// How a request ended.
pub type IoOutcome = Result<(), IoError>;

/// A request under way.
#[derive(Debug)]
pub(crate) struct IoRecord {
    node: usize,
    volume: usize,
    kind: IoKind,
    sector: u64,
    sectors: u64,
    submitted: Time,
    /// Epoch of the history, and the number of the write in it.
    write: Option<(u64, u32)>,
    worker: Option<usize>,
    /// The node's own disk was UpToDate at submission.
    local: bool,
}

/// All requests.
#[derive(Debug, Default)]
pub(crate) struct Ios {
    pub(crate) open: BTreeMap<u64, IoRecord>,
    outcomes: BTreeMap<u64, IoOutcome>,
    opening: BTreeMap<u64, (usize, usize)>,
    open_outcomes: BTreeMap<u64, Result<(), OpenError>>,
}

impl Ios {
    /// Requests of a node that have not completed.
    pub(crate) fn on_node(&self, node: usize) -> usize {
        self.open.values().filter(|r| r.node == node).count()
    }

    pub(crate) fn forget_node(&mut self, node: usize) -> Vec<usize> {
        let workers = self
            .open
            .values()
            .filter(|r| r.node == node)
            .filter_map(|r| r.worker)
            .collect();
        self.open.retain(|_, r| r.node != node);
        self.opening.retain(|_, (n, _)| *n != node);
        workers
    }
}

fn volume_nr(v: usize) -> VolumeNr {
    VolumeNr::from_wire(v as u16)
}

impl Cluster {
    /// Opens a volume on a node; see [`Cluster::open_outcome`].
    pub fn open(&mut self, n: usize, volume: usize, write: bool) -> u64 {
        let id = self.fresh_id();
        self.ios.opening.insert(id, (n, volume));
        let event = Event::Open {
            open: OpenId(id),
            volume: volume_nr(volume),
            write,
            nonblock: false,
        };
        let life = self.nodes[n].life;
        self.queue
            .after(0, Occurrence::Event(n, life, Box::new(event)));
        id
    }

    /// How an open ended, once it has.
    pub fn open_outcome(&self, open: u64) -> Option<Result<(), OpenError>> {
        self.ios.open_outcomes.get(&open).copied()
    }

    /// Closes what was opened.
    pub fn close(&mut self, n: usize, open: u64) {
        if self.nodes[n].openers.remove(&open).is_some() {
            let life = self.nodes[n].life;
            self.queue.after(
                0,
                Occurrence::Event(n, life, Box::new(Event::Close { open: OpenId(open) })),
            );
        }
    }

    pub(super) fn open_done(&mut self, n: usize, open: u64, result: Result<(), OpenError>) {
        let Some((node, volume)) = self.ios.opening.remove(&open) else {
            return self.fail(
                n,
                "C1",
                format!("open {open} answered twice, or never asked"),
            );
        };
        if node != n {
            return self.fail(n, "C1", format!("open {open} belongs to node {node}"));
        }
        if result.is_ok() {
            self.nodes[n].openers.insert(open, volume);
            if self.role(n) == Role::Primary {
                self.promoted(n, false);
            }
        }
        self.ios.open_outcomes.insert(open, result);
        self.app_opened(n, open, result.is_ok());
    }

    /// Submits a request; the sectors are those of a range of the volume.
    pub fn submit(
        &mut self,
        n: usize,
        volume: usize,
        kind: IoKind,
        sector: u64,
        sectors: u64,
    ) -> u64 {
        self.submit_for(None, n, volume, kind, sector, sectors)
    }

    pub(crate) fn submit_for(
        &mut self,
        worker: Option<usize>,
        n: usize,
        volume: usize,
        kind: IoKind,
        sector: u64,
        sectors: u64,
    ) -> u64 {
        let io = self.fresh_id();
        let now = self.now();
        let len = (sectors * 512) as u32;
        let at = Sector(sector);
        let mut write = None;
        let mut begin = |c: &mut Cluster, version: Version| {
            c.content_seen(volume);
            let id = c.histories[volume].begin(version, sector, sector + sectors, n, now);
            write = Some((c.history_epochs[volume], id));
        };
        let request = match kind {
            IoKind::Read => IoRequest::Read { sector: at, len },
            IoKind::Flush => IoRequest::Flush,
            IoKind::Discard => {
                begin(self, ZEROES);
                let zeroes = self.nodes[n].limits[volume].max_write_zeroes;
                if io.is_multiple_of(2) && len <= zeroes {
                    IoRequest::WriteZeroes {
                        sector: at,
                        len,
                        unmap: io.is_multiple_of(4),
                    }
                } else {
                    IoRequest::Discard { sector: at, len }
                }
            }
            IoKind::Write { fua } => {
                self.next_version += 1;
                let version = self.next_version;
                begin(self, version);
                let payload = Rc::new(Payload::uniform(sectors, version));
                let buf = self.buffers.give(n, payload, Origin::App, Some(io));
                IoRequest::Write {
                    sector: at,
                    len,
                    buf: BufId(buf),
                    fua,
                }
            }
        };
        match kind {
            IoKind::Read => self.stats.reads += 1,
            _ => self.stats.writes += 1,
        }
        let local = kind == IoKind::Flush && self.disk_state(n, volume) == DiskState::UpToDate;
        self.ios.open.insert(
            io,
            IoRecord {
                node: n,
                volume,
                kind,
                sector,
                sectors,
                submitted: now,
                write,
                worker,
                local,
            },
        );
        let life = self.nodes[n].life;
        let event = Event::Io {
            io: IoId(io),
            volume: volume_nr(volume),
            request,
        };
        self.queue
            .after(0, Occurrence::Event(n, life, Box::new(event)));
        io
    }

    /// Writes a block of 4 KiB.
    pub fn write(&mut self, n: usize, volume: usize, block: u64) -> u64 {
        self.submit(n, volume, IoKind::Write { fua: false }, block * 8, 8)
    }

    /// Reads a block of 4 KiB; its content is checked.
    pub fn read(&mut self, n: usize, volume: usize, block: u64) -> u64 {
        self.submit(n, volume, IoKind::Read, block * 8, 8)
    }

    /// How a request ended, once it has.
    pub fn outcome(&self, io: u64) -> Option<IoOutcome> {
        self.ios.outcomes.get(&io).copied()
    }

    /// Number of requests submitted on a node that have not completed.
    pub fn open_requests(&self, n: usize) -> usize {
        self.ios.on_node(n)
    }

    pub(super) fn io_completed(&mut self, n: usize, io: u64, result: IoOutcome, data: Option<u64>) {
        let now = self.now();
        let Some(r) = self.ios.open.remove(&io) else {
            return self.fail(
                n,
                "C1",
                format!("request {io} completed twice, or never submitted"),
            );
        };
        if r.node != n {
            return self.fail(
                n,
                "C1",
                format!("request {io} was submitted on node {}", r.node),
            );
        }
        if let Err(e) = result {
            self.stats.io_errors += 1;
            if let Some(what) = self.error_not_allowed(e) {
                return self.fail(n, "C5", format!("request {io} failed with {e:?}: {what}"));
            }
        }
        if let Some((epoch, id)) = r.write {
            if result.is_ok()
                && let Err(v) = self.flow.completes(n, io)
            {
                return self.violation(Some(n), v);
            }
            if epoch == self.history_epochs[r.volume] {
                let end = if result.is_ok() {
                    End::Ok(now)
                } else {
                    End::Limbo(now)
                };
                self.histories[r.volume].finish(id, end);
                let holders = self.holders(r.volume, id);
                self.histories[r.volume].held_by(id, holders);
            }
        }
        if result.is_ok() && r.write.is_some() {
            self.check_alone(n);
        }
        match (r.kind, result, data) {
            (IoKind::Read, Ok(()), Some(buf)) => self.read_completed(n, &r, buf),
            (IoKind::Read, Ok(()), None) => {
                self.fail(n, "C1", format!("read {io} succeeded without data"))
            }
            (IoKind::Flush, Ok(()), _) if r.local => self.flush_completed(n, r.volume, r.submitted),
            _ => {}
        }
        match r.worker {
            Some(w) => self.app_request_over(w, result.is_ok()),
            None => {
                self.ios.outcomes.insert(io, result);
            }
        }
    }

    /// C5: whether a request must not fail like that.
    fn error_not_allowed(&self, error: IoError) -> Option<&'static str> {
        let options = &self.config.resource;
        let suspends = options.on_no_quorum == OnNoQuorum::SuspendIo
            && options.on_no_data == OnNoData::SuspendIo;
        match error {
            _ if self.forced_down => None,
            IoError::Io if suspends => Some("requests wait for quorum and data here"),
            IoError::Invalid => Some("it is within the announced limits"),
            IoError::NotPrimary => Some("the device is open for writing"),
            IoError::Io | IoError::NoSpace => None,
        }
    }

    /// R1.
    fn read_completed(&mut self, n: usize, r: &IoRecord, buf: u64) {
        let payload = match self.buffers.get(n, buf) {
            Ok(b) => Rc::clone(&b.payload),
            Err(e) => return self.fail(n, "buffers", format!("read: {e}")),
        };
        if payload.sectors() != r.sectors {
            return self.fail(
                n,
                "R1",
                format!("read of {} sectors got {}", r.sectors, payload.sectors()),
            );
        }
        let mut content = RangeMap::new();
        let mut at = r.sector;
        for (sectors, version) in payload.runs() {
            content.set(at, at + sectors, *version);
            at += sectors;
        }
        let now = self.now();
        if let Err(bad) = self.histories[r.volume].check(&content, r.sector, at, r.submitted, now) {
            let what = format!(
                "read of volume {} submitted at {:.6} s: {bad}",
                r.volume,
                r.submitted as f64 / 1e9
            );
            self.violation(Some(n), Violation { rule: "R1", what });
        }
        self.content_seen(r.volume);
    }
}
