//! Loop devices: what a daemon that was killed leaves behind, and disks for tests.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use crate::{Context, Result};

const SET_FD: libc::Ioctl = 0x4c00;
const CLR_FD: libc::Ioctl = 0x4c01;
const GET_FREE: libc::Ioctl = 0x4c82;

fn call(file: &File, request: libc::Ioctl, argument: libc::c_ulong) -> std::io::Result<i32> {
    // SAFETY: the three requests take an integer or nothing, and the descriptor is open during the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request, argument) };
    if result < 0 {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// A loop device on a file, taken off when dropped.
#[derive(Debug)]
pub struct Loop {
    path: PathBuf,
}

impl Loop {
    /// Puts a free loop device on a file. Needs root.
    ///
    /// # Errors
    /// Those of the system.
    pub fn new(file: &Path) -> Result<Loop> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let file = options.open(file).context(file.display())?;
        let control = options
            .open("/dev/loop-control")
            .context("/dev/loop-control")?;
        loop {
            let number = call(&control, GET_FREE, 0).context("no free loop device")?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = options.open(&path).context(path.display())?;
            let fd = libc::c_ulong::try_from(file.as_raw_fd()).context("descriptor")?;
            match call(&device, SET_FD, fd) {
                Ok(_) => return Ok(Loop { path }),
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {}
                Err(e) => return Err(e).context(path.display()),
            }
        }
    }

    /// The device.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        detach(&self.path);
    }
}

/// Loop devices on files below a directory, with those files.
pub fn below(dir: &Path) -> Vec<(PathBuf, PathBuf)> {
    let Ok(entries) = std::fs::read_dir("/sys/block") else {
        return Vec::new();
    };
    let names = entries
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok());
    names
        .filter(|name| name.starts_with("loop"))
        .filter_map(|name| {
            let file =
                std::fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok()?;
            let file = PathBuf::from(file.trim_end());
            file.starts_with(dir)
                .then(|| (PathBuf::from(format!("/dev/{name}")), file))
        })
        .collect()
}

/// Takes the loop devices off files below a directory: at once, or when their last users have gone.
pub fn detach_below(dir: &Path) {
    for (device, _) in below(dir) {
        detach(&device);
    }
}

/// Takes a loop device off its file: at once, or when its last user has gone.
pub(crate) fn detach(device: &Path) {
    if let Ok(device) = File::open(device) {
        let _ = call(&device, CLR_FD, 0);
    }
}
