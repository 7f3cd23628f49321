//! Writes that do not cover whole blocks: read the blocks at the edges, put the data between, write it all.
//!
//! Nothing else is written meanwhile; other writes wait in order of arrival. Slow, but only programs that neither use
//! `O_DIRECT` nor align their memory come here.

use std::collections::VecDeque;

use rustix::io::Errno;

use crate::pool::{Buf, BufMut};

use super::super::super::GuestContext;
use super::super::super::requests::{Kind, data_piece};
use super::{Data, File, Io, Name, Role};

/// The write under way, and what waits for its end.
#[derive(Default)]
pub(super) struct Exclusive {
    active: Option<Unaligned>,
    waiting: VecDeque<(u64, Waiting)>,
    /// Writes the volume works on.
    writes: usize,
}

enum Waiting {
    Io(Io),
    Unaligned(Unaligned),
}

/// A write that needs the blocks at its edges.
pub(super) struct Unaligned {
    pub(super) unique: u64,
    pub(super) offset: u64,
    pub(super) size: usize,
    pub(super) dsync: bool,
    /// The data, from the start of the buffer.
    pub(super) data: BufMut,
    opener: u64,
    first: Option<Buf>,
    last: Option<Buf>,
    reading: u32,
}

impl Unaligned {
    pub(super) fn new(unique: u64, offset: u64, size: usize, dsync: bool, data: BufMut) -> Self {
        let (opener, reading, first, last) = (0, 0, None, None);
        Unaligned {
            unique,
            offset,
            size,
            dsync,
            data,
            opener,
            first,
            last,
            reading,
        }
    }

    fn end(&self) -> u64 {
        self.offset.saturating_add(self.size as u64)
    }
}

fn writes(kind: Kind) -> bool {
    !matches!(kind, Kind::Read | Kind::Flush)
}

impl File {
    /// Hands a request to the volume, in its turn if it writes.
    pub(super) fn in_turn(&mut self, cx: &mut GuestContext<'_>, opener: u64, io: Io) {
        let exclusive = &mut self.exclusive;
        if writes(io.kind) {
            if exclusive.active.is_some() || !exclusive.waiting.is_empty() {
                exclusive.waiting.push_back((opener, Waiting::Io(io)));
                return;
            }
            exclusive.writes += 1;
        }
        self.submit(cx, opener, io);
    }

    /// Takes a write that does not cover whole blocks.
    pub(super) fn write_unaligned(
        &mut self,
        cx: &mut GuestContext<'_>,
        opener: u64,
        request: Unaligned,
    ) {
        self.exclusive
            .waiting
            .push_back((opener, Waiting::Unaligned(request)));
        self.next_turn(cx);
    }

    /// A write has ended.
    pub(super) fn write_ended(&mut self, cx: &mut GuestContext<'_>, unique: u64) {
        self.exclusive.writes = self.exclusive.writes.saturating_sub(1);
        if self
            .exclusive
            .active
            .as_ref()
            .is_some_and(|a| a.unique == unique)
        {
            self.exclusive.active = None;
        }
        self.next_turn(cx);
    }

    fn next_turn(&mut self, cx: &mut GuestContext<'_>) {
        while self.exclusive.active.is_none() {
            let exclusive = &mut self.exclusive;
            if let Some((_, Waiting::Unaligned(_))) = exclusive.waiting.front()
                && exclusive.writes > 0
            {
                return;
            }
            match exclusive.waiting.pop_front() {
                Some((opener, Waiting::Io(io))) => {
                    exclusive.writes += 1;
                    self.submit(cx, opener, io);
                }
                Some((opener, Waiting::Unaligned(request))) => self.read_edges(cx, opener, request),
                None => return,
            }
        }
    }

    fn read_edges(&mut self, cx: &mut GuestContext<'_>, opener: u64, mut request: Unaligned) {
        let block = self.block();
        let (offset, end) = (request.offset, request.end());
        let (first, last) = (offset / block * block, end / block * block);
        let mut edges = Vec::with_capacity(2);
        if offset != first {
            edges.push((first, Role::First));
        }
        // One block may be both edges; then it is read once.
        if end != last && (last != first || offset == first) {
            edges.push((last, Role::Last));
        }
        request.opener = opener;
        request.reading = edges.len() as u32;
        let unique = request.unique;
        self.exclusive.active = Some(request);
        for (offset, role) in edges {
            let name = Name {
                unique,
                skip: 0,
                size: 0,
                role,
            };
            let io = Io {
                name,
                kind: Kind::Read,
                offset,
                len: block,
                data: Data::None,
            };
            self.submit(cx, opener, io);
        }
    }

    /// A block at an edge is there, or not.
    pub(super) fn edge(
        &mut self,
        cx: &mut GuestContext<'_>,
        unique: u64,
        role: Role,
        result: Result<Option<Buf>, Errno>,
    ) {
        // The other edge of a write that failed finds nobody.
        let Some(active) = self
            .exclusive
            .active
            .as_mut()
            .filter(|a| a.unique == unique)
        else {
            return;
        };
        active.reading = active.reading.saturating_sub(1);
        match result {
            Ok(buf) if role == Role::First => active.first = buf,
            Ok(buf) => active.last = buf,
            Err(e) => {
                self.exclusive.active = None;
                self.error(unique, e);
                return self.next_turn(cx);
            }
        }
        self.write_whole(cx);
    }

    /// Writes the blocks once both edges are there. Comes again from `retry` if the pool has no buffers.
    pub(super) fn write_whole(&mut self, cx: &mut GuestContext<'_>) {
        let block = self.block();
        let piece = data_piece(&self.limits) as usize;
        let Some(active) = &self.exclusive.active else {
            return;
        };
        if active.reading > 0 || self.exclusive.writes > 0 {
            return;
        }
        let start = active.offset / block * block;
        let len = active.end().div_ceil(block) * block - start;
        // Less than a block, and at most the data and two blocks.
        let (before, total) = ((active.offset - start) as usize, len as usize);
        let last_at = total - block as usize;
        let data = active.data.get(..active.size).unwrap_or_default();
        let mut bufs = Vec::new();
        let mut at = 0;
        while at < total {
            let Some(mut buf) = cx.alloc(piece.min(total - at)) else {
                return;
            };
            let here = buf.len();
            let edges = [(0, &active.first), (last_at, &active.last)];
            for (from, edge) in edges
                .into_iter()
                .filter_map(|(n, e)| Some((n, e.as_deref()?)))
            {
                overlay(&mut buf, at, edge, from);
            }
            overlay(&mut buf, at, data, before);
            bufs.push(buf.freeze());
            at += here;
        }
        let name = Name {
            unique: active.unique,
            skip: 0,
            size: active.size,
            role: Role::Plain,
        };
        let kind = Kind::Write { fua: active.dsync };
        let opener = active.opener;
        self.exclusive.writes += 1;
        let io = Io {
            name,
            kind,
            offset: start,
            len,
            data: Data::Many(bufs),
        };
        self.submit(cx, opener, io);
    }
}

/// Copies what of `source`, which begins at `from`, lies within `target`, which begins at `at`.
fn overlay(target: &mut [u8], at: usize, source: &[u8], from: usize) {
    let start = at.max(from);
    let end = (at + target.len()).min(from + source.len());
    if start < end
        && let (Some(to), Some(what)) = (
            target.get_mut(start - at..end - at),
            source.get(start - from..end - from),
        )
    {
        to.copy_from_slice(what);
    }
}

#[cfg(test)]
mod tests {
    use super::overlay;

    #[test]
    fn overlays() {
        for (at, from, expect) in [
            (10, 8, [3, 4, 0, 0]),
            (10, 12, [0, 0, 1, 2]),
            (10, 6, [0, 0, 0, 0]),
            (10, 14, [0, 0, 0, 0]),
            (10, 10, [1, 2, 3, 4]),
        ] {
            let mut target = [0; 4];
            overlay(&mut target, at, &[1, 2, 3, 4], from);
            assert_eq!(target, expect);
        }
    }
}
