//! ublk: a block device through the kernel's ublk driver, `/dev/ublkbN`.
//!
//! A thin layer over the driver's interface: `uapi` has its numbers and layouts, `sys` its calls, `queue` the thread that
//! serves a device. Needs Linux 6.5 or later (`UBLK_F_USER_COPY`); from 6.16 on the size can change while the device is in
//! use. As with the loop device, the driver does not say when the device is opened: the first read or write opens the
//! volume, and it is closed when the device has no users any more.
//!
//! The encodings are tested against the kernel's header. `cargo xtask interop 10-` runs all of it against the driver, in
//! a guest.

mod queue;
mod sys;
mod uapi;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::doorway::Limits;
use crate::pool::MAX_LEN;

use super::device_users::{FollowSize, Follower, Link, Users};
use super::{Attached, Frontend, VolumeHandle};
use queue::Server;
use sys::Control;
use uapi::{DevInfo, Params, ctrl, feature};

/// Requests of a device under way at most.
const DEPTH: u16 = 128;

/// Offers every volume as `/dev/ublkbN`.
pub struct UblkFrontend {
    update_size: bool,
}

impl UblkFrontend {
    /// Looks whether the driver is there.
    ///
    /// # Errors
    /// When there is no `/dev/ublk-control`, it may not be used, or the driver is too old.
    pub fn new() -> io::Result<UblkFrontend> {
        let mut features = [0; 8];
        let mut control = Control::open()?;
        control
            .command(ctrl::GET_FEATURES, u32::MAX, 0, &mut features)
            .map_err(|e| io::Error::new(e.kind(), format!("the ublk driver is too old: {e}")))?;
        let features = u64::from_ne_bytes(features);
        if features & feature::USER_COPY == 0 {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the ublk driver is too old: Linux 6.5 is needed",
            ));
        }
        Ok(UblkFrontend {
            update_size: features & feature::UPDATE_SIZE != 0,
        })
    }
}

fn params(limits: &Limits) -> Params {
    Params {
        sectors: limits.sectors,
        logical_block: limits.logical_block,
        physical_block: limits.physical_block,
        max_io: limits.max_io.clamp(4096, MAX_LEN as u32),
        max_discard: limits.max_discard,
        discard_granularity: limits.discard_granularity,
        max_write_zeroes: limits.max_write_zeroes,
        volatile_cache: limits.volatile_cache,
    }
}

/// A device of the driver. Dropping it stops and deletes it.
struct Device {
    control: Mutex<Control>,
    number: u32,
    started: AtomicBool,
}

impl Device {
    fn add(flags: u64) -> io::Result<Device> {
        let mut control = Control::open()?;
        let wanted = DevInfo {
            depth: DEPTH,
            max_io: MAX_LEN as u32,
            device: u32::MAX,
            flags,
        };
        let mut info = wanted.encode();
        control
            .command(ctrl::ADD_DEV, u32::MAX, 0, &mut info)
            .map_err(|e| io::Error::new(e.kind(), format!("ublk ADD_DEV: {e}")))?;
        let made = DevInfo::decode(&info);
        let device = Device {
            control: Mutex::new(control),
            number: made.device,
            started: AtomicBool::new(false),
        };
        if made.depth != DEPTH || made.flags & flags != flags {
            return Err(io::Error::other(format!(
                "ublk made another device: {made:?}"
            )));
        }
        Ok(device)
    }

    fn command(&self, command: u32, data: u64, buffer: &mut [u8]) -> io::Result<i32> {
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        control.command(command, self.number, data, buffer)
    }

    /// Makes the block device appear. The queue must be served already: the kernel looks for partitions.
    fn start(&self, limits: &Limits) -> io::Result<()> {
        self.command(ctrl::SET_PARAMS, 0, &mut params(limits).encode())?;
        self.command(ctrl::START_DEV, u64::from(std::process::id()), &mut [])?;
        self.started.store(true, Ordering::SeqCst);
        Ok(())
    }

    fn path(&self) -> PathBuf {
        format!("/dev/ublkb{}", self.number).into()
    }

    /// Opens the character device, which may take a moment to appear.
    fn open_queue(&self) -> io::Result<OwnedFd> {
        let path = PathBuf::from(format!("/dev/ublkc{}", self.number));
        for _ in 0..200 {
            if std::fs::metadata(&path).is_ok_and(|m| m.file_type().is_char_device()) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let file = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        Ok(file.into())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Err(e) = self.command(ctrl::DEL_DEV, 0, &mut []) {
            tracing::warn!("cannot delete {}: {e}", self.path().display());
        }
    }
}

impl Frontend for UblkFrontend {
    fn name(&self) -> &'static str {
        "ublk"
    }

    fn attach(&self, volume: VolumeHandle) -> io::Result<Box<dyn Attached>> {
        let mut flags = feature::IOCTL_ENCODE | feature::USER_COPY;
        if self.update_size {
            flags |= feature::UPDATE_SIZE;
        }
        let device = Arc::new(Device::add(flags)?);
        let link = Arc::new(Link::new()?);
        let fd = Arc::new(device.open_queue()?);
        let (ready, made) = mpsc::channel();
        let server = {
            let (volume, link) = (volume.clone(), link.clone());
            let name = format!("ublk{}", device.number);
            std::thread::Builder::new()
                .name(name.clone())
                .spawn(move || {
                    let server = Server::new(volume, link, fd, DEPTH);
                    let mut server = match server {
                        Ok(server) => {
                            let _ = ready.send(Ok(()));
                            server
                        }
                        Err(e) => {
                            let _ = ready.send(Err(e));
                            return;
                        }
                    };
                    if let Err(e) = server.run() {
                        tracing::error!("{name} is not served any more: {e}");
                    }
                })?
        };
        made.recv().map_err(io::Error::other)??;
        let follow_size = UblkSize {
            device: device.clone(),
            limits: Limits::default(),
            update_size: self.update_size,
        };
        let follower = Follower::start(link.clone(), volume, None, follow_size)?;
        Ok(Box::new(Attachment {
            link,
            follower,
            device,
            server,
        }))
    }
}

/// A volume that is offered as a ublk device.
struct Attachment {
    link: Arc<Link>,
    follower: Follower,
    device: Arc<Device>,
    server: JoinHandle<()>,
}

impl Attached for Attachment {
    fn place(&self) -> String {
        self.device.path().display().to_string()
    }

    fn device(&self) -> Option<PathBuf> {
        Some(self.device.path())
    }

    fn release_unused(&self) {
        self.link.release_unused();
    }

    fn detach(self: Box<Self>) {
        let Attachment {
            follower,
            device,
            server,
            ..
        } = *self;
        drop(follower);
        // Ends what the queue fetched, and with it the queue's thread. Only then, with the queue closed, can the
        // device be deleted.
        match device.command(ctrl::STOP_DEV, 0, &mut []) {
            Ok(_) => {
                let _ = server.join();
                drop(device);
            }
            Err(e) => tracing::error!("cannot stop {}: {e}", device.path().display()),
        }
    }
}

/// Starts the device when the volume has a size, and follows the size from then on.
struct UblkSize {
    device: Arc<Device>,
    limits: Limits,
    update_size: bool,
}

impl FollowSize for UblkSize {
    fn follow(&mut self, limits: &Limits) -> io::Result<Option<Users>> {
        let before = self.limits.sectors;
        if limits.sectors == before {
            return Ok(None);
        }
        if self.device.started.load(Ordering::SeqCst) {
            if !self.update_size {
                return Err(io::Error::other(
                    "the driver cannot change the size (Linux 6.16 can)",
                ));
            }
            self.device
                .command(ctrl::UPDATE_SIZE, limits.sectors, &mut [])?;
            self.limits = *limits;
            return Ok(None);
        }
        self.device.start(limits)?;
        self.limits = *limits;
        Users::watch(&self.device.path()).map(Some)
    }

    fn device(&self) -> String {
        self.device.path().display().to_string()
    }
}
