//! Discards of block devices: calls that block, in a thread of their own.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::{Arc, mpsc};

use crate::backing::{Device, ioctl};

/// A job's discard: device, first byte, length.
type Call = (u32, Arc<Device>, u64, u64);

/// Hears how the discard of a job has ended.
type Report = Arc<dyn Fn(u32, io::Result<()>) + Send + Sync>;

/// The thread for calls that block.
pub(super) struct Helper {
    report: Report,
    sender: Option<mpsc::Sender<Call>>,
}

impl Helper {
    pub(super) fn new(report: Report) -> Helper {
        Helper {
            report,
            sender: None,
        }
    }

    pub(super) fn discard(&mut self, job: u32, device: Arc<Device>, offset: u64, len: u64) {
        let report = self.report.clone();
        let sender = self.sender.get_or_insert_with(|| {
            let (sender, receiver) = mpsc::channel::<Call>();
            let thread = std::thread::Builder::new()
                .name("drbd-discard".into())
                .spawn(move || {
                    for (job, device, offset, len) in receiver {
                        report(job, ioctl::discard(device.fd.as_fd(), offset, len));
                    }
                });
            if let Err(e) = thread {
                tracing::error!("no thread for discards: {e}");
            }
            sender
        });
        if sender.send((job, device, offset, len)).is_err() {
            (self.report)(job, Err(io::Error::from(io::ErrorKind::OutOfMemory)));
        }
    }
}
