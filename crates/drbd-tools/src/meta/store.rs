//! The metadata on its device: found, validated, written back (metadata, sections 2.6, 8.3, 9.3).

use super::args::{self, Args};
use super::console::Console;
use super::device::{Device, Page};
use super::failure::{BAD, Failure};
use super::lkbd::{self, LastKnown};
use drbd_meta::bitmap::BitmapLayout;
use drbd_meta::geometry::{Geometry, GeometryError, Placement};
use drbd_meta::limits::BLOCK_BYTES_U64;
use drbd_meta::superblock::{Superblock, SuperblockError};
use std::path::PathBuf;

/// An opened metadata device and what was found on it.
pub(super) struct Store {
    pub(super) device: Device,
    pub(super) placement: Placement,
    /// Byte offset of the superblock.
    pub(super) md_offset: u64,
    /// Valid metadata of the requested format at its place.
    pub(super) found: Option<(Superblock, Geometry)>,
    /// Whether valid metadata lies where it belonged when the device had another size.
    pub(super) at_last_known: bool,
    lkbd: PathBuf,
    dry_run: bool,
}

impl Store {
    /// Opens the device and looks for metadata of the requested format.
    pub(super) fn open(
        args: &Args,
        minor: Option<u32>,
        console: &mut Console,
    ) -> Result<Self, Failure> {
        let device = Device::open(args, console)?;
        let placement = Placement {
            index: args.index,
            device_size: device.size,
        };
        let md_offset = placement.superblock_offset().map_err(|error| {
            let (path, size) = (&device.path, device.size);
            let text = match error {
                GeometryError::SuperblockBeyondEnd { offset, .. } => format!(
                    "Device too small: expecting meta data block at\n\
                     byte offset {offset}, but {path} is only {size} bytes."
                ),
                _ => format!("{path} is only {size} bytes. That's not enough."),
            };
            Failure::new(BAD, text)
        })?;
        let mut store = Self {
            device,
            placement,
            md_offset,
            found: None,
            at_last_known: false,
            lkbd: lkbd::path(&args.var_lib, minor),
            dry_run: args.dry_run,
        };
        let block = store.device.read_block("superblock", md_offset)?;
        let found = Superblock::parse(&block, placement)
            .and_then(|superblock| Ok((superblock.geometry(placement)?, superblock)));
        match found {
            Ok((geometry, superblock)) if superblock.magic.format() == args.format => {
                store.device.restrict_to(&geometry);
                store.found = Some((clip(superblock, &geometry, console), geometry));
            }
            Ok(_) if console.verbose > 0 => {
                console.err(&format!("{} Magic number not found", args.format));
            }
            Err(SuperblockError::Magic { .. }) if console.verbose > 0 => {
                console.err(&format!("{} Magic number not found", args.format));
            }
            Err(error) if !matches!(error, SuperblockError::Magic { .. }) => {
                console.err(&format!("{}: {error}", args.format));
            }
            _ => {}
        }
        if store.found.is_none() && args.index.is_internal() {
            store.at_last_known = store.look_at_last_known(args);
        }
        Ok(store)
    }

    /// Whether there is metadata where the device ended when it had another size.
    fn look_at_last_known(&self, args: &Args) -> bool {
        let Some(known) = lkbd::read(&self.lkbd) else {
            return false;
        };
        let old = Placement {
            index: args.index,
            device_size: known.size,
        };
        let Ok(offset) = old.superblock_offset() else {
            return false;
        };
        let inside = offset
            .checked_add(BLOCK_BYTES_U64)
            .is_some_and(|end| end <= self.device.size);
        if known.size == self.device.size || !inside {
            return false;
        }
        let Ok(block) = self.device.read_block("last known superblock", offset) else {
            return false;
        };
        Superblock::parse(&block, old).is_ok_and(|superblock| {
            superblock.magic.format() == args.format
                && (known.device_uuid == 0
                    || known.device_uuid == superblock.device_uuid
                    || args.force)
        })
    }

    /// The metadata found, or the failure of commands that need it.
    pub(super) fn take(&mut self) -> Result<(Superblock, Geometry), Failure> {
        self.found.take().ok_or_else(|| {
            if self.at_last_known {
                let text = "Found meta data at last known location only: the device was resized. \
                            Run check-resize first.";
                return Failure::new(super::failure::FAILED, text);
            }
            args::no_valid_metadata()
        })
    }

    /// Writes the superblock durably and remembers the device's size. Everything written before is
    /// made durable first: the superblock is what declares it valid.
    pub(super) fn save(
        &mut self,
        superblock: &Superblock,
        geometry: &Geometry,
        console: &Console,
    ) -> Result<(), Failure> {
        let block = superblock.encode();
        Superblock::parse(&block, geometry.placement())
            .map_err(|error| Failure::new(BAD, format!("{error}")))?;
        self.device.restrict_to(geometry);
        self.device.sync()?;
        let offset = geometry.superblock_sector().saturating_mul(512);
        self.device.write("superblock", offset, &[Page(block)])?;
        self.device.sync()?;
        self.remember(superblock.device_uuid, console);
        Ok(())
    }

    /// Updates the file of the last known size. It is a help for later; failing is only reported.
    fn remember(&self, device_uuid: u64, console: &Console) {
        if self.dry_run {
            return;
        }
        let path = self.lkbd.display();
        if self.placement.index.is_internal() {
            let known = LastKnown {
                size: self.device.size,
                name: self.device.path.clone(),
                device_uuid,
            };
            if let Err(error) = lkbd::write(&self.lkbd, &known) {
                console.err(&format!("cannot write {path}: {error}"));
            }
        } else {
            self.forget(console);
        }
    }

    /// Removes the file of the last known size.
    pub(super) fn forget(&self, console: &Console) {
        if self.dry_run {
            return;
        }
        if let Err(error) = lkbd::remove(&self.lkbd) {
            console.err(&format!("cannot remove {}: {error}", self.lkbd.display()));
        }
    }
}

/// An effective size that the device cannot have is cut; a later write stores the cut value.
fn clip(mut superblock: Superblock, geometry: &Geometry, console: &Console) -> Superblock {
    let usable = geometry.usable_sectors();
    if superblock.effective_size > usable {
        console.err(&format!(
            "# la-size-sect was too big ({}), truncated ({usable})!",
            superblock.effective_size
        ));
        superblock.effective_size = usable;
    }
    superblock
}

/// The bitmap that belongs to the superblock's effective size.
pub(super) fn bitmap(superblock: &Superblock) -> Result<BitmapLayout, Failure> {
    superblock.bitmap_layout().ok_or_else(|| {
        let size = superblock.effective_size;
        Failure::new(
            BAD,
            format!("a device of {size} sectors cannot have a bitmap"),
        )
    })
}
