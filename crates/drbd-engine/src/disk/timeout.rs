//! A disk that does not answer (state machine, section 14.4; data path, section 20.3): it is given up, and what it was
//! asked for counts as failed.

use alloc::format;
use alloc::vec::Vec;
use core::time::Duration;

use drbd_proto::{DiskState, VolumeNr};

use crate::control::ControlOp;
use crate::effect::{Effect, LogLevel};
use crate::engine::{Engine, Op};
use crate::event::DiskError;
use crate::id::OpId;
use crate::timer::Timer;

use super::DiskFault;

/// How long a forced detach waits for a disk.
const FORCED: Duration = Duration::from_secs(1);

/// The operation of an effect that a disk has to carry out.
fn disk_op(effect: &Effect) -> Option<(OpId, VolumeNr)> {
    match effect {
        Effect::DiskRead { op, volume, .. }
        | Effect::DiskWrite { op, volume, .. }
        | Effect::DiskFlush { op, volume }
        | Effect::DiskDiscard { op, volume, .. }
        | Effect::MetaRead { op, volume, .. }
        | Effect::MetaWrite { op, volume, .. } => Some((*op, *volume)),
        _ => None,
    }
}

impl Engine {
    /// Looks at an effect before it goes out. False: it is for a disk that was given up, and has failed already.
    pub(crate) fn disk_answers(&mut self, effect: &Effect) -> bool {
        let Some((op, v)) = disk_op(effect) else {
            return true;
        };
        let Some(volume) = self.volumes.get(&v) else {
            return true;
        };
        if volume.data.given_up {
            self.stillborn.push(op);
            return false;
        }
        let limit = volume.disk.as_ref().map(|d| d.options.disk_timeout);
        if let Some(limit) = limit.filter(|l| !l.is_zero()) {
            self.disk_ops.insert(op, (v, self.now));
            self.timers
                .set_if_idle(Timer::DiskTimeout(v), self.now + limit);
        }
        true
    }

    /// What a disk that was given up was asked for has failed.
    pub(crate) fn end_stillborn(&mut self) {
        for op in core::mem::take(&mut self.stillborn) {
            if let Some(what) = self.ops.remove(&op) {
                self.op_ended(what, Err(DiskError::Io));
            }
        }
    }

    /// A forced detach does not wait for ever.
    pub(crate) fn watch_forced_detach(&mut self, v: VolumeNr) {
        self.timers.set(Timer::DiskTimeout(v), self.now + FORCED);
    }

    /// Looks whether the disk of a volume takes too long.
    pub(crate) fn disk_timeout(&mut self, v: VolumeNr) {
        let state = self.state.disk(v);
        if state == DiskState::Detaching && self.forced_detach.contains(&v) {
            return self.give_disk_up(v);
        }
        let mut pending = self.disk_ops.values().filter(|(of, _)| *of == v);
        let Some(oldest) = pending.next().map(|(_, since)| *since) else {
            // The next operation sets the timer again.
            return;
        };
        let oldest = pending.fold(oldest, |least, (_, since)| least.min(*since));
        let Some(volume) = self.volumes.get(&v) else {
            return;
        };
        let Some(limit) = volume.disk.as_ref().map(|d| d.options.disk_timeout) else {
            return;
        };
        if limit.is_zero() {
            return;
        }
        let deadline = oldest.max(volume.data.attached_at) + limit;
        if self.now < deadline || state == DiskState::Attaching {
            let at = deadline.max(self.now + limit / 4);
            self.timers.set(Timer::DiskTimeout(v), at);
            return;
        }
        let text = format!(
            "the disk has not answered for {} ms (disk-timeout)",
            self.now.since(oldest).as_millis()
        );
        self.log_at(LogLevel::Error, None, Some(v), text);
        self.give_disk_up(v);
    }

    /// Whether operations of a disk that was given up are still under way.
    pub(crate) fn disk_still_works(&self, v: VolumeNr) -> bool {
        self.given_up.values().any(|of| *of == v)
    }

    fn give_disk_up(&mut self, v: VolumeNr) {
        let Some(volume) = self.volumes.get_mut(&v) else {
            return;
        };
        volume.data.given_up = true;
        self.disk_failed(v, DiskFault::Timeout);
        let ops: Vec<OpId> = self
            .ops
            .iter()
            .filter(|(_, what)| match what {
                Op::Control(ControlOp::Superblock(of) | ControlOp::Resize(of, _)) => *of == v,
                Op::Control(_) => false,
                Op::Data(what) => what.volume == v && (what.flush || what.what.uses_disk()),
            })
            .map(|(op, _)| *op)
            .collect();
        for op in ops {
            self.disk_ops.remove(&op);
            if let Some(what) = self.ops.remove(&op) {
                self.given_up.insert(op, v);
                self.op_ended(what, Err(DiskError::Io));
            }
        }
    }
}
