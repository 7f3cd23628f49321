//! ublk: a block device through the kernel's ublk driver. Not there yet.

use std::io;

use super::{Attached, Frontend, VolumeHandle};

/// Would offer every volume as `/dev/ublkbN`.
pub struct UblkFrontend;

impl UblkFrontend {
    /// Sets the frontend up.
    ///
    /// # Errors
    /// Always, for now.
    pub fn new() -> io::Result<UblkFrontend> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "ublk: not there yet",
        ))
    }
}

impl Frontend for UblkFrontend {
    fn name(&self) -> &'static str {
        "ublk"
    }

    fn attach(&self, _volume: VolumeHandle) -> io::Result<Box<dyn Attached>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
