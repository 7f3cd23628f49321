//! Backing disks with a volatile write cache.
//!
//! What the disk has acknowledged is *visible*; what survives a loss of power is *durable*. A flush, or a
//! write with FUA, makes visible content durable; the cache may also write any sector back at any time. A
//! loss of power keeps any subset of what was not durable, and any subset of the sectors of writes that
//! were still under way. Metadata is real bytes and lives in the same cache when it is internal.

use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;

use crate::buffer::{Payload, Version, ZEROES};
use crate::ranges::RangeMap;
use crate::rng::Rng;

/// Size of a block of metadata in bytes.
pub const META_BLOCK: usize = 4096;

/// An operation the disk has accepted.
#[derive(Clone, Debug)]
pub enum DiskOp {
    /// Read data.
    Read {
        /// First sector.
        sector: u64,
        /// Number of sectors.
        sectors: u64,
    },
    /// Write data.
    Write {
        /// First sector.
        sector: u64,
        /// The content.
        payload: Rc<Payload>,
        /// Durable when done.
        fua: bool,
    },
    /// Discard or zero data.
    Discard {
        /// First sector.
        sector: u64,
        /// Number of sectors.
        sectors: u64,
    },
    /// Make what is visible durable. Holds what was to be flushed when it was accepted.
    Flush {
        /// Sectors of data.
        data: RangeMap<()>,
        /// Blocks of metadata.
        meta: BTreeSet<u64>,
    },
    /// Read metadata.
    MetaRead {
        /// Byte offset on the metadata device.
        offset: u64,
        /// Length in bytes.
        len: usize,
    },
    /// Write metadata.
    MetaWrite {
        /// Blocks by byte offset.
        blocks: Vec<(u64, Box<[u8; META_BLOCK]>)>,
        /// Flush before and durable when done; holds what was to be flushed when it was accepted.
        barrier: Option<(RangeMap<()>, BTreeSet<u64>)>,
    },
}

/// What a finished operation brought.
#[derive(Debug)]
pub enum DiskOutput {
    /// Nothing.
    Nothing,
    /// Data.
    Data(Payload),
    /// Metadata.
    Bytes(Vec<u8>),
}

/// How much of the sectors of metadata blocks a loss of power may mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tearing {
    /// Blocks of 4 KiB are written or not.
    Never,
    /// Every 512 bytes on their own, except in the superblock.
    Sectors,
}

/// A backing device with its metadata.
#[derive(Clone, Debug)]
pub struct Disk {
    /// Sectors of data in front of (or beside) the metadata.
    pub data_sectors: u64,
    /// Byte offset of the metadata region on its device; nothing below it is ever written.
    pub meta_start: u64,
    /// Byte offset of the superblock.
    pub superblock: u64,
    /// Metadata is on the same device as the data: one cache, one flush.
    pub internal: bool,
    /// The device has a volatile cache at all.
    pub cached: bool,
    /// Reads and writes of data fail.
    pub broken: bool,
    /// It failed at some time: flushes may have been lost.
    pub was_broken: bool,
    /// Discards in the order in which they ended: sector and number of sectors.
    pub discards: Vec<(u64, u64)>,
    /// Discarded, and not written since.
    discarded: RangeMap<()>,
    // Shared: copies of disks are made often, to ask what a loss of power would leave, and changed little.
    visible: Rc<RangeMap<Version>>,
    durable: Rc<RangeMap<Version>>,
    dirty: RangeMap<()>,
    meta_visible: Rc<Vec<u8>>,
    meta_durable: Rc<Vec<u8>>,
    meta_dirty: BTreeSet<u64>,
    /// How often each block of the metadata changed on stable storage.
    meta_changes: Vec<u64>,
}

impl Disk {
    /// A disk whose data sectors all hold `content` and whose metadata region holds `meta`.
    pub fn new(
        data_sectors: u64,
        content: Version,
        meta_start: u64,
        superblock: u64,
        meta: Vec<u8>,
        internal: bool,
    ) -> Disk {
        let data = Rc::new(RangeMap::filled(data_sectors, content));
        let meta = Rc::new(meta);
        Disk {
            data_sectors,
            meta_start,
            superblock,
            internal,
            cached: true,
            broken: false,
            was_broken: false,
            discards: Vec::new(),
            discarded: RangeMap::new(),
            visible: data.clone(),
            durable: data,
            dirty: RangeMap::new(),
            meta_changes: vec![0; meta.len() / META_BLOCK],
            meta_durable: meta.clone(),
            meta_visible: meta,
            meta_dirty: BTreeSet::new(),
        }
    }

    /// The data device grows; what is new holds `content`.
    pub fn grow(&mut self, sectors: u64, content: Version) {
        let old = self.data_sectors;
        if sectors > old {
            self.data_sectors = sectors;
            Rc::make_mut(&mut self.visible).set(old, sectors, content);
            Rc::make_mut(&mut self.durable).set(old, sectors, content);
        }
    }

    /// The content of a range is something else from now on, and nobody did that.
    pub fn corrupt(&mut self, sector: u64, sectors: u64, content: Version) {
        self.put(sector, sectors, content, true);
    }

    /// Sectors that take no space.
    pub fn deallocated(&self) -> u64 {
        self.discarded.iter().map(|r| r.end - r.start).sum()
    }

    /// What a reader sees.
    pub fn visible(&self) -> &RangeMap<Version> {
        &self.visible
    }

    /// What survives a loss of power.
    pub fn durable(&self) -> &RangeMap<Version> {
        &self.durable
    }

    /// The metadata region as a reader sees it.
    pub fn metadata(&self) -> &[u8] {
        &self.meta_visible
    }

    /// The metadata region that survives a loss of power.
    pub fn durable_metadata(&self) -> &[u8] {
        &self.meta_durable
    }

    /// Counts changes on stable storage of the metadata outside a range, so that decoded forms can be kept.
    pub fn meta_generation(&self, except: &Range<usize>) -> u64 {
        let outside = |at: usize| at + META_BLOCK <= except.start || at >= except.end;
        let blocks = self.meta_changes.iter().enumerate();
        blocks
            .filter(|(i, _)| outside(i * META_BLOCK))
            .map(|(_, n)| n)
            .sum()
    }

    /// An operation as it is accepted, or why a driver could not even submit it.
    pub fn accept(&self, mut op: DiskOp) -> Result<DiskOp, String> {
        match &mut op {
            DiskOp::Read { sector, sectors } | DiskOp::Discard { sector, sectors } => {
                self.check(*sector, *sectors)?
            }
            DiskOp::Write {
                sector, payload, ..
            } => self.check(*sector, payload.sectors())?,
            DiskOp::Flush { data, meta } => {
                *data = self.dirty.clone();
                if self.internal {
                    *meta = self.meta_dirty.clone();
                }
            }
            DiskOp::MetaRead { offset, len } => {
                let ok = (1..=1 << 20).contains(len) && len.is_multiple_of(META_BLOCK);
                if !ok || !offset.is_multiple_of(META_BLOCK as u64) {
                    return Err(format!(
                        "metadata read of {len} bytes at {offset} is not aligned or too large"
                    ));
                }
            }
            DiskOp::MetaWrite { blocks, barrier } => {
                for (offset, _) in blocks.iter() {
                    if !offset.is_multiple_of(META_BLOCK as u64)
                        || self.meta_index(*offset).is_none()
                    {
                        return Err(format!(
                            "metadata write at {offset} lies outside the metadata"
                        ));
                    }
                }
                if let Some((data, meta)) = barrier {
                    *meta = self.meta_dirty.clone();
                    if self.internal {
                        *data = self.dirty.clone();
                    }
                }
            }
        }
        Ok(op)
    }

    fn check(&self, sector: u64, sectors: u64) -> Result<(), String> {
        if sectors == 0
            || sector
                .checked_add(sectors)
                .is_none_or(|end| end > self.data_sectors)
        {
            return Err(format!(
                "{sectors} sectors at {sector} lie outside the data area of {} sectors",
                self.data_sectors
            ));
        }
        Ok(())
    }

    fn meta_index(&self, offset: u64) -> Option<usize> {
        let at = usize::try_from(offset.checked_sub(self.meta_start)?).ok()?;
        (at + META_BLOCK <= self.meta_visible.len()).then_some(at)
    }

    fn put(&mut self, sector: u64, sectors: u64, version: Version, durable: bool) {
        let end = sector + sectors;
        self.discarded.clear(sector, end);
        Rc::make_mut(&mut self.visible).set(sector, end, version);
        if durable || !self.cached {
            Rc::make_mut(&mut self.durable).set(sector, end, version);
            self.dirty.clear(sector, end);
        } else {
            self.dirty.set(sector, end, ());
        }
    }

    fn put_meta(&mut self, at: usize, data: &[u8], durable: bool) {
        Rc::make_mut(&mut self.meta_visible)[at..at + data.len()].copy_from_slice(data);
        if durable || !self.cached {
            self.stable(at..at + data.len());
            self.meta_dirty.remove(&(at as u64));
        } else {
            self.meta_dirty.insert(at as u64);
        }
    }

    /// Writes a block of metadata to stable storage, from outside.
    pub fn write_metadata(&mut self, offset: u64, block: &[u8; META_BLOCK]) -> Result<(), String> {
        let at = self.meta_index(offset).ok_or("outside the metadata")?;
        self.put_meta(at, block, true);
        Ok(())
    }

    fn persist(&mut self, start: u64, end: u64) {
        let runs: Vec<_> = self.visible.overlapping(start, end).collect();
        let durable = Rc::make_mut(&mut self.durable);
        for r in runs {
            durable.set(r.start, r.end, r.value);
        }
        self.dirty.clear(start, end);
    }

    fn persist_meta(&mut self, at: u64) {
        self.stable(at as usize..at as usize + META_BLOCK);
        self.meta_dirty.remove(&at);
    }

    /// What is visible of a part of a metadata block becomes durable.
    fn stable(&mut self, range: Range<usize>) {
        self.meta_changes[range.start / META_BLOCK] += 1;
        let visible = &self.meta_visible[range.clone()];
        Rc::make_mut(&mut self.meta_durable)[range].copy_from_slice(visible);
    }

    fn flush(&mut self, data: &RangeMap<()>, meta: &BTreeSet<u64>) {
        for r in data.iter() {
            self.persist(r.start, r.end);
        }
        for at in meta {
            self.persist_meta(*at);
        }
    }

    /// An operation ends successfully.
    pub fn complete(&mut self, op: &DiskOp, rng: &mut Rng) -> DiskOutput {
        match op {
            DiskOp::Read { sector, sectors } => {
                let mut payload = Payload::new();
                for r in self.visible.overlapping(*sector, sector + sectors) {
                    payload.push(r.end - r.start, r.value);
                }
                return DiskOutput::Data(payload);
            }
            DiskOp::Write {
                sector,
                payload,
                fua,
            } => {
                let mut at = *sector;
                for (n, version) in payload.runs() {
                    self.put(at, *n, *version, *fua);
                    at += n;
                }
                self.write_back(rng);
            }
            DiskOp::Discard { sector, sectors } => {
                self.put(*sector, *sectors, ZEROES, false);
                self.discarded.set(*sector, sector + sectors, ());
                self.discards.push((*sector, *sectors));
            }
            DiskOp::Flush { data, meta } => self.flush(data, meta),
            DiskOp::MetaRead { offset, len } => {
                // Outside the region there are zeroes.
                let before = self.meta_start.saturating_sub(*offset) as usize;
                let mut bytes = vec![0; before.min(*len)];
                let from = offset.saturating_sub(self.meta_start) as usize;
                let there = self.meta_visible.get(from..).unwrap_or_default();
                bytes.extend_from_slice(&there[..there.len().min(len - bytes.len())]);
                bytes.resize(*len, 0);
                return DiskOutput::Bytes(bytes);
            }
            DiskOp::MetaWrite { blocks, barrier } => {
                if let Some((data, meta)) = barrier {
                    self.flush(data, meta);
                }
                for (offset, block) in blocks {
                    if let Some(at) = self.meta_index(*offset) {
                        self.put_meta(at, &block[..], barrier.is_some());
                    }
                }
                self.write_back(rng);
            }
        }
        DiskOutput::Nothing
    }

    /// The cache writes something back on its own account.
    fn write_back(&mut self, rng: &mut Rng) {
        if !rng.percent(10) {
            return;
        }
        let first = self.dirty.iter().next();
        if let Some(r) = first {
            let cut = rng.range(r.start + 1, r.end);
            self.persist(r.start, cut);
        }
        let first = self.meta_dirty.first().copied();
        if let Some(at) = first {
            self.persist_meta(at);
        }
    }

    /// An operation was under way when the node went down: any part of it may have happened.
    pub fn interrupt(&mut self, op: &DiskOp, tearing: Tearing, rng: &mut Rng) {
        match op {
            DiskOp::Write {
                sector, payload, ..
            } => {
                let mut at = *sector;
                for (n, version) in payload.runs() {
                    match rng.below(3) {
                        0 => {}
                        1 => self.put(at, *n, *version, false),
                        _ => {
                            for s in at..at + n {
                                if rng.percent(50) {
                                    self.put(s, 1, *version, false);
                                }
                            }
                        }
                    }
                    at += n;
                }
            }
            DiskOp::Discard { sector, sectors } => {
                self.put(*sector, rng.below(sectors + 1), ZEROES, false);
            }
            DiskOp::MetaWrite { blocks, barrier } => {
                if let Some((data, meta)) = barrier {
                    // The preflush is over before the first of the blocks is touched.
                    if rng.percent(50) {
                        return;
                    }
                    self.flush(data, meta);
                }
                for (offset, block) in blocks {
                    let Some(at) = self.meta_index(*offset) else {
                        continue;
                    };
                    let torn = tearing == Tearing::Sectors
                        && *offset != self.superblock
                        && rng.percent(50);
                    if torn {
                        for s in (0..META_BLOCK).step_by(512) {
                            if rng.percent(50) {
                                self.tear(at, s, &block[s..s + 512], barrier.is_some());
                            }
                        }
                    } else if rng.percent(50) {
                        self.put_meta(at, &block[..], barrier.is_some());
                    }
                }
            }
            DiskOp::Read { .. } | DiskOp::MetaRead { .. } | DiskOp::Flush { .. } => {}
        }
    }

    fn tear(&mut self, block: usize, offset: usize, data: &[u8], durable: bool) {
        let at = block + offset;
        Rc::make_mut(&mut self.meta_visible)[at..at + data.len()].copy_from_slice(data);
        if durable || !self.cached {
            self.stable(at..at + data.len());
        } else {
            self.meta_dirty.insert(block as u64);
        }
    }

    /// The power fails: of what is not durable, any subset survives.
    pub fn lose_power(&mut self, tearing: Tearing, rng: &mut Rng) {
        let dirty: Vec<_> = self.dirty.iter().collect();
        for r in dirty {
            match rng.below(3) {
                0 => {}
                1 => self.persist(r.start, r.end),
                _ => {
                    let step = rng.pick(&[1, 8, 64]);
                    let mut at = r.start;
                    while at < r.end {
                        let to = (at + step).min(r.end);
                        if rng.percent(50) {
                            self.persist(at, to);
                        }
                        at = to;
                    }
                }
            }
        }
        let blocks: Vec<_> = self.meta_dirty.iter().copied().collect();
        for at in blocks {
            let torn = tearing == Tearing::Sectors
                && at + self.meta_start != self.superblock
                && rng.percent(30);
            if torn {
                for s in (at as usize..at as usize + META_BLOCK).step_by(512) {
                    if rng.percent(50) {
                        self.stable(s..s + 512);
                    }
                }
            } else if rng.percent(50) {
                self.persist_meta(at);
            }
        }
        self.visible = self.durable.clone();
        self.meta_visible = self.meta_durable.clone();
        self.dirty = RangeMap::new();
        self.meta_dirty.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> Disk {
        Disk::new(1000, 7, 512_000, 512_000, vec![0; 8192], true)
    }

    fn write(disk: &mut Disk, rng: &mut Rng, sector: u64, version: u64, fua: bool) {
        let op = DiskOp::Write {
            sector,
            payload: Rc::new(Payload::uniform(8, version)),
            fua,
        };
        let op = disk.accept(op).unwrap();
        disk.complete(&op, rng);
    }

    #[test]
    fn flushed_and_fua_writes_survive_and_lost_ones_are_old_or_new() {
        let (mut old, mut new) = (0, 0);
        for seed in 0..200 {
            let (mut d, mut rng) = (disk(), Rng::new(seed));
            write(&mut d, &mut rng, 0, 100, false);
            let flush = d
                .accept(DiskOp::Flush {
                    data: RangeMap::new(),
                    meta: BTreeSet::new(),
                })
                .unwrap();
            d.complete(&flush, &mut rng);
            write(&mut d, &mut rng, 8, 101, true);
            write(&mut d, &mut rng, 16, 102, false);
            assert_eq!(d.visible().get(16), Some(102));
            d.lose_power(Tearing::Never, &mut rng);
            assert_eq!(d.visible().get(0), Some(100));
            assert_eq!(d.visible().get(8), Some(101));
            match d.visible().get(16) {
                Some(102) => new += 1,
                Some(7) => old += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!(old > 20 && new > 20);
    }

    #[test]
    fn metadata_barrier_flushes_data_of_the_same_device() {
        let (mut d, mut rng) = (disk(), Rng::new(3));
        write(&mut d, &mut rng, 0, 100, false);
        let op = DiskOp::MetaWrite {
            blocks: vec![(516_096, Box::new([9; META_BLOCK]))],
            barrier: Some((RangeMap::new(), BTreeSet::new())),
        };
        let op = d.accept(op).unwrap();
        d.complete(&op, &mut rng);
        d.lose_power(Tearing::Sectors, &mut rng);
        assert_eq!(d.visible().get(7), Some(100));
        assert_eq!(d.metadata()[4096], 9);
        assert!(
            d.accept(DiskOp::MetaRead {
                offset: 1,
                len: 4096
            })
            .is_err()
        );
        assert!(
            d.accept(DiskOp::Read {
                sector: 999,
                sectors: 2
            })
            .is_err()
        );
    }
}
