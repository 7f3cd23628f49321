//! A volume as an application uses it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use drbd_node::frontend::nbd::address::Address;
use drbd_node::frontend::nbd::client::Client;

use crate::{Context, Error, Result};

/// How long a request may take before it counts as hung.
const REQUEST: Duration = Duration::from_secs(60);
/// Alignment that suits every disk.
const ALIGN: usize = 4096;

/// An open volume. Requests bypass all caches; offsets and lengths are multiples of 4096.
#[derive(Debug)]
pub struct Volume {
    kind: Kind,
    size: u64,
}

#[derive(Debug)]
enum Kind {
    Device(File, Aligned),
    Nbd(Client),
}

/// Memory for direct I/O.
#[derive(Debug, Default)]
struct Aligned(Vec<u8>);

impl Aligned {
    fn get(&mut self, len: usize) -> &mut [u8] {
        if self.0.len() < len + ALIGN {
            self.0.resize(len + ALIGN, 0);
        }
        let start = self.0.as_ptr().align_offset(ALIGN);
        self.0.get_mut(start..start + len).unwrap_or_default()
    }
}

impl Volume {
    pub(crate) fn device(path: &Path) -> Result<Volume> {
        let flags = rustix::fs::OFlags::DIRECT.bits().cast_signed();
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open(path);
        let file = file.context(path.display())?;
        let size = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0)).context(path.display())?;
        Ok(Volume {
            kind: Kind::Device(file, Aligned::default()),
            size,
        })
    }

    pub(crate) fn nbd(address: &Address, export: &str) -> Result<Volume> {
        let client = Client::connect(address, export)?;
        client.set_timeout(Some(REQUEST))?;
        let size = client.export().size;
        Ok(Volume {
            kind: Kind::Nbd(client),
            size,
        })
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Writes.
    ///
    /// # Errors
    /// When the node could not, or took too long.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        match &mut self.kind {
            Kind::Device(file, buffer) => {
                let buffer = buffer.get(data.len());
                buffer.copy_from_slice(data);
                let written = rustix::io::pwrite(&*file, buffer, offset);
                match written.context(format!("write of {} at {offset}", data.len()))? {
                    n if n == data.len() => Ok(()),
                    n => Err(Error::new(format!(
                        "write of {} at {offset}: only {n}",
                        data.len()
                    ))),
                }
            }
            Kind::Nbd(client) => client
                .write(offset, data, false)
                .context(format!("write at {offset}")),
        }
    }

    /// Reads.
    ///
    /// # Errors
    /// When the node could not, or took too long.
    pub fn read(&mut self, offset: u64, len: usize) -> Result<Vec<u8>> {
        match &mut self.kind {
            Kind::Device(file, buffer) => {
                let buffer = buffer.get(len);
                let read = rustix::io::pread(&*file, &mut *buffer, offset);
                match read.context(format!("read of {len} at {offset}"))? {
                    n if n == len => Ok(buffer.to_vec()),
                    n => Err(Error::new(format!("read of {len} at {offset}: only {n}"))),
                }
            }
            Kind::Nbd(client) => {
                let bytes = u32::try_from(len).context("length of a read")?;
                client
                    .read(offset, bytes)
                    .context(format!("read at {offset}"))
            }
        }
    }

    /// Makes everything written durable.
    ///
    /// # Errors
    /// When the node could not, or took too long.
    pub fn flush(&mut self) -> Result<()> {
        match &mut self.kind {
            Kind::Device(file, _) => file.sync_all().context("flush"),
            Kind::Nbd(client) => client.flush().context("flush"),
        }
    }
}
