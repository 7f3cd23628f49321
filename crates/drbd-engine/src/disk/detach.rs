//! Detaching, on command or because the disk failed.

use alloc::format;
use alloc::vec::Vec;

use drbd_proto::{DiskState, VolumeNr};

use crate::command::{Reply, RetCode};
use crate::effect::{Effect, LogLevel};
use crate::engine::Engine;
use crate::id::CmdId;
use crate::options::OnIoError;
use crate::state::change::ChangeFlags;
use crate::timer::Timer;
use crate::twopc::{ChangeKind, Requester};
use crate::upcall::Handler;

use super::DiskFault;

impl Engine {
    /// `detach`.
    pub(crate) fn detach_command(
        &mut self,
        cmd: CmdId,
        v: VolumeNr,
        force: bool,
        diskless: bool,
    ) -> Option<Reply> {
        let Some(volume) = self.volumes.get_mut(&v) else {
            return Some(Reply::new(RetCode::ERR_MINOR_INVALID));
        };
        if diskless {
            volume.options.diskless = true;
        }
        if volume.disk.is_none() {
            return Some(Reply::new(RetCode::NOTHING_TO_DO));
        }
        self.pending.detaches.push((v, cmd));
        if force {
            self.forced_detach.insert(v);
            self.watch_forced_detach(v);
            let _ = self.change(ChangeFlags::HARD, |s| {
                if let Some(d) = s.devices.get_mut(&v) {
                    d.disk = DiskState::Detaching;
                }
            });
            self.twopc_withdraw(ChangeKind::Attach { volume: v });
            return None;
        }
        self.twopc_request(ChangeKind::Detach { volume: v }, Requester::Command(cmd));
        None
    }

    /// The cluster has agreed to the detach, or not.
    pub(crate) fn detach_decided(
        &mut self,
        cmd: CmdId,
        v: VolumeNr,
        result: Result<RetCode, RetCode>,
    ) {
        let waits = self.pending.detaches.contains(&(v, cmd));
        if let (Err(code), true) = (result, waits) {
            self.pending.detaches.retain(|d| *d != (v, cmd));
            self.reply(cmd, Reply::new(code));
        }
    }

    /// I/O on a disk failed (section 14.4).
    pub(crate) fn disk_failed(&mut self, v: VolumeNr, fault: DiskFault) {
        let disk = self.state.disk(v);
        if self.attaching.contains_key(&v) && disk == DiskState::Attaching {
            return self.attach_failed(v, RetCode::ERR_IO_MD_DISK, "I/O error while attaching");
        }
        if disk <= DiskState::Failed {
            return;
        }
        let policy = self
            .disk_ref(v)
            .map_or(OnIoError::Detach, |d| d.options.on_io_error);
        let what = match fault {
            DiskFault::Read => "read error",
            DiskFault::Write => "write error",
            DiskFault::Meta => "metadata I/O error",
            DiskFault::Timeout => "no answer in time",
        };
        let to = match policy {
            OnIoError::PassOn if matches!(fault, DiskFault::Read | DiskFault::Write) => {
                DiskState::Inconsistent
            }
            _ => DiskState::Failed,
        };
        self.log_at(
            LogLevel::Error,
            None,
            Some(v),
            format!("Local IO failed: {what}."),
        );
        if policy == OnIoError::CallLocalIoError {
            self.call(Handler::LocalIoError, None, Some(v));
        }
        if disk > DiskState::Inconsistent || to == DiskState::Failed {
            let _ = self.change(ChangeFlags::HARD, |s| {
                if let Some(d) = s.devices.get_mut(&v) {
                    d.disk = to;
                }
            });
        }
    }

    /// Lets go of disks that are on their way out and idle; called after each event.
    pub(crate) fn disk_settle(&mut self) {
        let leaving: Vec<VolumeNr> = self
            .volumes
            .values()
            .filter(|x| x.disk.is_some())
            .map(|x| x.nr)
            .filter(|v| {
                matches!(
                    self.state.disk(*v),
                    DiskState::Failed | DiskState::Detaching
                )
            })
            .filter(|v| !self.attach_under_way(*v))
            .collect();
        for v in leaving {
            let failed = self.state.disk(v) == DiskState::Failed;
            let given_up = self.volumes.get(&v).is_some_and(|x| x.data.given_up);
            let bitmap = failed || given_up || self.data_bitmap_written(v);
            let superblock = self.disk_ref(v).is_none_or(|d| d.meta.is_settled());
            let alone = failed || given_up || !self.only_here(v);
            if self.data_disk_idle(v) && bitmap && superblock && !self.md_dirty && alone {
                self.finish_detach(v);
            } else if !bitmap {
                self.data_bitmap_writeout(v);
            }
        }
    }

    /// Whether a write that is complete for the application may be on no other disk yet (protocols A and B). A
    /// Primary that let go of its disk could not send it again: if the connection broke it would go on with
    /// data that lack it, as the reference does.
    fn only_here(&self, v: VolumeNr) -> bool {
        self.data.requests.values().any(|r| {
            r.volume == v
                && r.completed
                && r.is_write()
                && r.sent.iter().any(|n| !r.done.contains(n))
        })
    }

    fn finish_detach(&mut self, v: VolumeNr) {
        self.forced_detach.remove(&v);
        self.timers.cancel(Timer::DiskTimeout(v));
        if let Some(volume) = self.volumes.get_mut(&v) {
            volume.disk = None;
            volume.data.given_up = false;
            volume.flags.crashed_primary = false;
        }
        self.data_disk_gone(v);
        self.push(Effect::Detach { volume: v });
        let _ = self.change(ChangeFlags::HARD, |s| {
            if let Some(d) = s.devices.get_mut(&v) {
                d.disk = DiskState::Diskless;
            }
        });
        let answered = core::mem::take(&mut self.pending.detaches);
        for (volume, cmd) in answered {
            if volume == v {
                self.reply(cmd, Reply::new(RetCode::SUCCESS));
            } else {
                self.pending.detaches.push((volume, cmd));
            }
        }
    }
}
