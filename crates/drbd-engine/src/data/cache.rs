//! The volatile cache of the data device: what was written may be lost with it until a flush.
//!
//! Metadata must not say that data is safe before it is. A superblock or activity log block is written with
//! a flush of its own, but that reaches the data only if both lie on one device; and bitmap pages are
//! written plainly. So the data device is flushed first where that matters (data path, section 28, hazard
//! 27): before extents leave the activity log, before cleared bits go to the disk, before a resync ends,
//! before the primary indicator is cleared.

use drbd_proto::{DiskState, VolumeNr};

use crate::command::MetaPlace;
use crate::data::{DataOp, DataOpKind};
use crate::disk::DiskFault;
use crate::effect::Effect;
use crate::engine::{Engine, Op};
use crate::event::{DiskError, OpResult};
use crate::volume::Disk;

/// Whether a block of metadata that is written with a flush takes the data with it.
pub(crate) fn metadata_flushes_data(disk: &Disk) -> bool {
    disk.backing.meta == MetaPlace::Internal && disk.options.md_flushes
}

impl Engine {
    /// Whether something written may still be lost with the cache.
    pub(crate) fn cache_dirty(&self, volume: VolumeNr) -> bool {
        self.volumes.get(&volume).is_some_and(|v| {
            v.disk.as_ref().is_some_and(|d| d.backing.volatile_cache)
                && (v.data.unflushed || v.data.flushes > 0)
        })
    }

    /// Whether a disk that is let go in order still has something in its cache: epochs were, or will be,
    /// confirmed that count on it.
    pub(crate) fn owes_flush(&self, volume: VolumeNr) -> bool {
        let given_up = self.volumes.get(&volume).is_some_and(|v| v.data.given_up);
        self.state.disk(volume) == DiskState::Detaching && self.cache_dirty(volume) && !given_up
    }

    /// Flushes the cache; what for says the operation.
    pub(crate) fn flush_cache(&mut self, volume: VolumeNr, what: DataOpKind) {
        let Some(v) = self.volumes.get_mut(&volume) else {
            return;
        };
        v.data.unflushed = false;
        v.data.flushes += 1;
        v.data.disk_ops += 1;
        let op = self.op(Op::Data(DataOp {
            volume,
            what,
            flush: true,
        }));
        self.push(Effect::DiskFlush { op, volume });
    }

    /// A flush has ended.
    pub(crate) fn cache_flushed(&mut self, volume: VolumeNr, good: bool) {
        let Some(v) = self.volumes.get_mut(&volume) else {
            return;
        };
        v.data.flushes = v.data.flushes.saturating_sub(1);
        v.data.unflushed |= !good;
    }

    /// A flush that metadata waits for has ended. False if the data may be lost: the disk has failed then.
    /// A device that knows no flushes has nothing to flush.
    pub(crate) fn flush_succeeded(&mut self, volume: VolumeNr, result: &OpResult) -> bool {
        match result {
            Ok(_) | Err(DiskError::NotSupported) => true,
            Err(_) => {
                self.disk_failed(volume, DiskFault::Write);
                false
            }
        }
    }

    /// Whether a superblock that is written now takes all data with it, or all of it is safe already. If
    /// not, a flush is started; the superblocks are looked at again when it is done.
    pub(crate) fn data_cache_clean(&mut self, volume: VolumeNr) -> bool {
        let Some(v) = self.volumes.get(&volume) else {
            return true;
        };
        let covered = v.disk.as_ref().is_none_or(metadata_flushes_data);
        let flushing = v.data.flushes > 0;
        if covered || !self.cache_dirty(volume) {
            return true;
        }
        if !flushing {
            self.flush_cache(volume, DataOpKind::CacheFlush);
        }
        false
    }
}
