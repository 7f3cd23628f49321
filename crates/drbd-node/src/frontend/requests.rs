//! Requests of an application under way: cut into pieces the volume takes, and put together again.
//!
//! Frontends name their requests in their own way (a cookie, a unique number): that is the `X` here. A request is
//! finished when all of its pieces are.

use crate::doorway::{IoError, Limits, Sector};
use crate::pool::{Buf, MAX_LEN};

use super::{GuestContext, Request, Session};

/// Pieces of one long discard or write-zeroes under way at once.
const WINDOW: u32 = 4;

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Read.
    Read,
    /// Write; the data comes in pieces with [`Requests::write`].
    Write {
        /// On stable storage when finished.
        fua: bool,
    },
    /// Flush.
    Flush,
    /// Discard.
    Discard {
        /// On stable storage when finished.
        fua: bool,
    },
    /// Write zeroes.
    Zero {
        /// On stable storage when finished.
        fua: bool,
        /// Space may be given back.
        unmap: bool,
    },
}

/// Why a request failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Failure {
    /// The volume's error.
    Io(IoError),
    /// The volume cannot do this (any more).
    NotSupported,
}

/// Something that takes the pieces.
pub(super) trait Submit {
    fn submit(&mut self, opener: u64, tag: u64, request: Request);
}

impl Submit for GuestContext<'_> {
    fn submit(&mut self, opener: u64, tag: u64, request: Request) {
        GuestContext::submit(self, opener, tag, request);
    }
}

impl Submit for Session {
    fn submit(&mut self, _opener: u64, tag: u64, request: Request) {
        Session::submit(self, tag, request);
    }
}

struct Pending<X> {
    name: X,
    opener: u64,
    kind: Kind,
    offset: u64,
    len: u64,
    /// Bytes handed to the volume.
    submitted: u64,
    outstanding: u32,
    failure: Option<Failure>,
    /// The flush of a `Flush`, or the one behind a long operation with FUA.
    flushed: bool,
    data: Option<Buf>,
    more: Vec<Option<Buf>>,
}

/// A request that has ended.
pub(super) struct Finished<X> {
    /// The frontend's name for it.
    pub(super) name: X,
    /// What it was.
    pub(super) kind: Kind,
    /// First byte.
    pub(super) offset: u64,
    /// Length in bytes.
    pub(super) len: u64,
    /// Outcome.
    pub(super) result: Result<(), Failure>,
    data: Option<Buf>,
    more: Vec<Option<Buf>>,
}

impl<X> Finished<X> {
    /// The data of a read that succeeded, in order.
    pub(super) fn into_data(self) -> impl Iterator<Item = Buf> {
        self.data.into_iter().chain(self.more.into_iter().flatten())
    }
}

/// The requests of one connection or file that are under way.
pub(super) struct Requests<X> {
    slots: Vec<Option<Pending<X>>>,
    free: Vec<u32>,
    bytes: usize,
}

impl<X> Default for Requests<X> {
    fn default() -> Requests<X> {
        Requests {
            slots: Vec::new(),
            free: Vec::new(),
            bytes: 0,
        }
    }
}

/// Tag of the `part`th piece of a request.
fn tag(index: u32, part: u32) -> u64 {
    u64::from(part) << 32 | u64::from(index)
}

fn sector(offset: u64) -> Sector {
    Sector(offset >> 9)
}

/// Length of the longest piece: a multiple of the block size and at least one block.
pub(super) fn piece(limit: u32, limits: &Limits) -> u32 {
    let block = limits.logical_block.max(512);
    (limit / block * block).max(block)
}

/// Length of the longest read or write.
pub(super) fn data_piece(limits: &Limits) -> u32 {
    piece(limits.max_io.min(MAX_LEN as u32), limits)
}

impl<X> Requests<X> {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Bytes of data of all reads and writes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Notes a request. Anything but a write goes on with [`Requests::advance`].
    pub(super) fn insert(
        &mut self,
        name: X,
        opener: u64,
        kind: Kind,
        offset: u64,
        len: u64,
    ) -> u32 {
        let pending = Pending {
            name,
            opener,
            kind,
            offset,
            len,
            submitted: 0,
            outstanding: 0,
            failure: None,
            flushed: false,
            data: None,
            more: Vec::new(),
        };
        self.bytes += pending.payload();
        if let Some(index) = self.free.pop() {
            if let Some(slot) = self.slots.get_mut(index as usize) {
                *slot = Some(pending);
            }
            return index;
        }
        self.slots.push(Some(pending));
        // Frontends keep far below 2^32 requests.
        (self.slots.len() - 1) as u32
    }

    fn get(&mut self, index: u32) -> Option<&mut Pending<X>> {
        self.slots.get_mut(index as usize)?.as_mut()
    }

    /// Hands the next piece of a write to the volume.
    pub(super) fn write(&mut self, to: &mut impl Submit, index: u32, data: Buf) {
        let Some(pending) = self.get(index) else {
            return;
        };
        let Kind::Write { fua } = pending.kind else {
            return;
        };
        let sector = sector(pending.offset.saturating_add(pending.submitted));
        pending.submitted += data.len() as u64;
        pending.outstanding += 1;
        to.submit(
            pending.opener,
            tag(index, 0),
            Request::Write { sector, data, fua },
        );
    }

    /// Hands the next pieces of anything but a write to the volume. Returns the request if it has ended already.
    pub(super) fn advance(
        &mut self,
        to: &mut impl Submit,
        limits: &Limits,
        index: u32,
    ) -> Option<Finished<X>> {
        let pending = self.get(index)?;
        let (limit, window) = match pending.kind {
            Kind::Read => (data_piece(limits), u32::MAX),
            Kind::Discard { .. } => (limits.max_discard, WINDOW),
            Kind::Zero { .. } => (limits.max_write_zeroes, WINDOW),
            Kind::Flush => {
                pending.flush(to, index);
                return self.finish(to, index);
            }
            Kind::Write { .. } => return self.finish(to, index),
        };
        if limit == 0 && pending.len > 0 {
            // The frontend offered it; since then a peer came that cannot do it.
            pending.failure = Some(Failure::NotSupported);
        }
        let limit = u64::from(piece(limit, limits));
        let mut part = 0;
        while pending.submitted < pending.len
            && pending.outstanding < window
            && pending.failure.is_none()
        {
            // A piece is at most 4 GiB - 1.
            let len = (pending.len - pending.submitted).min(limit) as u32;
            let sector = sector(pending.offset.saturating_add(pending.submitted));
            pending.submitted += u64::from(len);
            pending.outstanding += 1;
            let request = match pending.kind {
                Kind::Discard { .. } => Request::Discard { sector, len },
                Kind::Zero { unmap, .. } => Request::WriteZeroes { sector, len, unmap },
                _ => {
                    // All pieces of a read are submitted in one go: the parts count from 0.
                    if part > 0 {
                        pending.more.push(None);
                    }
                    Request::Read { sector, len }
                }
            };
            to.submit(pending.opener, tag(index, part), request);
            part += 1;
        }
        self.finish(to, index)
    }

    /// A piece has ended. Returns the request if it has ended with it.
    pub(super) fn done(
        &mut self,
        to: &mut impl Submit,
        limits: &Limits,
        tag: u64,
        result: Result<(), IoError>,
        data: Option<Buf>,
    ) -> Option<Finished<X>> {
        let (index, part) = (tag as u32, (tag >> 32) as usize);
        let pending = self.get(index)?;
        pending.outstanding = pending.outstanding.saturating_sub(1);
        match (result, data) {
            (Err(e), _) => pending.failure = pending.failure.or(Some(Failure::Io(e))),
            (Ok(()), Some(data)) => match part.checked_sub(1) {
                None => pending.data = Some(data),
                Some(n) => {
                    if let Some(slot) = pending.more.get_mut(n) {
                        *slot = Some(data);
                    }
                }
            },
            (Ok(()), None) => {}
        }
        self.advance(to, limits, index)
    }

    fn finish(&mut self, to: &mut impl Submit, index: u32) -> Option<Finished<X>> {
        let pending = self.get(index)?;
        let writes = matches!(pending.kind, Kind::Write { .. });
        let all = pending.submitted >= pending.len || pending.kind == Kind::Flush;
        // All data of a write is taken off the stream before it is answered, even if it failed.
        if pending.outstanding > 0 || (!all && (writes || pending.failure.is_none())) {
            return None;
        }
        let fua = matches!(
            pending.kind,
            Kind::Discard { fua: true } | Kind::Zero { fua: true, .. }
        );
        if fua && pending.failure.is_none() && pending.flush(to, index) {
            return None;
        }
        let pending = self.slots.get_mut(index as usize)?.take()?;
        self.free.push(index);
        self.bytes = self.bytes.saturating_sub(pending.payload());
        let mut finished = Finished {
            name: pending.name,
            kind: pending.kind,
            offset: pending.offset,
            len: pending.len,
            result: pending.failure.map_or(Ok(()), Err),
            data: pending.data,
            more: pending.more,
        };
        if finished.kind == Kind::Read && finished.result.is_ok() {
            let got = finished.data.iter().chain(finished.more.iter().flatten());
            if got.map(|b| b.len() as u64).sum::<u64>() != finished.len {
                finished.result = Err(Failure::Io(IoError::Io));
            }
        }
        Some(finished)
    }
}

impl<X> Pending<X> {
    fn payload(&self) -> usize {
        match self.kind {
            Kind::Read | Kind::Write { .. } => usize::try_from(self.len).unwrap_or(usize::MAX),
            _ => 0,
        }
    }

    /// Submits a flush, once.
    fn flush(&mut self, to: &mut impl Submit, index: u32) -> bool {
        if self.flushed {
            return false;
        }
        self.flushed = true;
        self.outstanding += 1;
        to.submit(self.opener, tag(index, 0), Request::Flush);
        true
    }
}
