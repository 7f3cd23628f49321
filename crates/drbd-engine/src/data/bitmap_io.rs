//! When bitmap pages are written outside of activity log transactions (data path, section 14.5).

use alloc::vec::Vec;
use core::time::Duration;

use drbd_proto::VolumeNr;

use crate::bitmap::{Mark, PageNr};
use crate::data::DataOpKind;
use crate::data::submitter::bitmap_offset;
use crate::disk::DiskFault;
use crate::effect::{Effect, MetaBlock};
use crate::engine::Engine;
use crate::event::OpResult;
use crate::timer::Timer;

/// Time between write-outs of cleared bits during a resync.
const LAZY_INTERVAL: Duration = Duration::from_secs(2);
/// Pages per operation.
const BATCH: usize = 256;

/// Pages as they were before a flush: a bit that is cleared while the flush is under way may stand for data that
/// it does not cover.
#[derive(Debug, Default)]
pub(crate) struct HeldPages {
    pages: Vec<PageNr>,
    blocks: Vec<MetaBlock>,
    barrier: bool,
}

impl Engine {
    /// Writes all marked pages. Marks set meanwhile stay for the next time.
    pub(crate) fn data_bitmap_writeout(&mut self, volume: VolumeNr) {
        self.write_marked(volume, None);
    }

    /// Writes all marked pages, to stable storage; the number of the write-out that has every bit set so far, to be compared
    /// with `bitmap_done`.
    pub(crate) fn bitmap_barrier(&mut self, volume: VolumeNr) -> u64 {
        let round = self
            .volumes
            .get(&volume)
            .map_or(0, |v| v.data.bitmap_round + 1);
        if let Some(v) = self.volumes.get_mut(&volume) {
            v.data.bitmap_durable = true;
        }
        self.data_bitmap_writeout(volume);
        round
    }

    /// Whether no page is marked or being written.
    pub(crate) fn data_bitmap_written(&self, volume: VolumeNr) -> bool {
        self.volumes.get(&volume).is_none_or(|v| {
            v.data.bitmap_writes == 0 && v.disk.as_ref().is_none_or(|d| d.bitmap.is_clean())
        })
    }

    fn write_marked(&mut self, volume: VolumeNr, mark: Option<Mark>) {
        let dirty = self.cache_dirty(volume);
        let Some(v) = self.volumes.get_mut(&volume) else {
            return;
        };
        let Some(disk) = v.disk.as_ref() else { return };
        if v.data.bitmap_writes > 0 || v.data.bitmap_locked {
            // Two writes of one page must not overtake each other.
            v.data.bitmap_again = true;
            return;
        }
        if disk.bitmap.marked(mark).next().is_none() {
            if mark.is_none() {
                v.data.bitmap_round += 1;
                v.data.bitmap_done = v.data.bitmap_round;
                self.resync_bitmap_written(volume);
            }
            return;
        }
        let held = self.take_pages(volume, mark);
        if dirty {
            // A cleared bit says that the data is there.
            if let Some(v) = self.volumes.get_mut(&volume) {
                v.data.bitmap_writes = 1;
                v.data.bitmap_held = held;
            }
            self.flush_cache(volume, DataOpKind::BitmapFlush);
        } else {
            self.write_pages(volume, held);
        }
    }

    /// The data that cleared bits stand for is safe.
    pub(crate) fn bitmap_flushed(&mut self, volume: VolumeNr, result: OpResult) {
        let good = self.flush_succeeded(volume, &result);
        let Some(v) = self.volumes.get_mut(&volume) else {
            return;
        };
        v.data.bitmap_writes = v.data.bitmap_writes.saturating_sub(1);
        let held = core::mem::take(&mut v.data.bitmap_held);
        // Also on a disk that is on its way out: it goes when no operation is under way, so it is the same one.
        if let Some(disk) = v.disk.as_mut() {
            if good {
                self.write_pages(volume, held);
            } else {
                held.pages.iter().for_each(|page| disk.bitmap.mark(*page));
            }
        }
        self.bitmap_idle(volume);
    }

    /// Takes the marked pages as they are now.
    fn take_pages(&mut self, volume: VolumeNr, mark: Option<Mark>) -> HeldPages {
        let mut held = HeldPages::default();
        let Some(v) = self.volumes.get_mut(&volume) else {
            return held;
        };
        let Some(disk) = v.disk.as_mut() else {
            return held;
        };
        if mark.is_none() {
            v.data.bitmap_round += 1;
        }
        // Nobody else writes with a flush what a resync relies on.
        held.barrier = mark.is_none() && core::mem::take(&mut v.data.bitmap_durable);
        let base = bitmap_offset(disk);
        let pages: Vec<PageNr> = disk.bitmap.marked(mark).collect();
        for page in pages {
            if let Some(data) = disk.bitmap.take(page) {
                held.pages.push(page);
                held.blocks.push(MetaBlock {
                    offset: base + page.0 * 4096,
                    data,
                });
            }
        }
        held
    }

    fn write_pages(&mut self, volume: VolumeNr, held: HeldPages) {
        let Some(v) = self.volumes.get_mut(&volume) else {
            return;
        };
        let barrier = held.barrier;
        let mut blocks = held.blocks.into_iter();
        let mut batches = Vec::new();
        for chunk in held.pages.chunks(BATCH) {
            let blocks: Vec<MetaBlock> = blocks.by_ref().take(chunk.len()).collect();
            v.data.bm_writes += blocks.len() as u64;
            v.data.bitmap_writes += 1;
            batches.push((chunk.to_vec(), blocks));
        }
        for (pages, blocks) in batches {
            let op = self.data_op(volume, DataOpKind::BitmapPages(pages));
            self.push(Effect::MetaWrite {
                op,
                volume,
                blocks,
                barrier,
            });
        }
    }

    /// Pages are written. If that failed they stay marked.
    pub(crate) fn bitmap_pages_written(
        &mut self,
        volume: VolumeNr,
        pages: Vec<PageNr>,
        result: OpResult,
    ) {
        if result.is_err() {
            if let Some(disk) = self.disk_mut(volume) {
                for page in pages {
                    disk.bitmap.mark(page);
                }
            }
            self.disk_failed(volume, DiskFault::Meta);
        }
        self.bitmap_write_ended(volume);
    }

    /// A write of pages has ended.
    pub(crate) fn bitmap_write_ended(&mut self, volume: VolumeNr) {
        if let Some(v) = self.volumes.get_mut(&volume) {
            v.data.bitmap_writes = v.data.bitmap_writes.saturating_sub(1);
        }
        self.bitmap_idle(volume);
    }

    /// If no page is under way: who waited for that goes on, the activity log first.
    pub(crate) fn bitmap_idle(&mut self, volume: VolumeNr) {
        let Some(v) = self.volumes.get_mut(&volume) else {
            return;
        };
        if v.data.bitmap_writes > 0 {
            return;
        }
        v.data.bitmap_done = v.data.bitmap_round;
        if v.data.al_queue.wait_bitmap {
            self.al_transaction(volume);
        } else if core::mem::take(&mut v.data.bitmap_again) {
            self.write_marked(volume, None);
        }
        self.resync_bitmap_written(volume);
        // The control plane may wait for the bitmap.
        self.md_touch();
    }

    /// Bits were cleared by a resync: write them out some time.
    pub(crate) fn lazy_writeout(&mut self, volume: VolumeNr) {
        self.timers
            .set_if_idle(Timer::LazyBitmap(volume), self.now + LAZY_INTERVAL);
    }

    /// The time has come.
    pub(crate) fn lazy_writeout_due(&mut self, volume: VolumeNr) {
        self.write_marked(volume, Some(Mark::Lazy));
    }
}
