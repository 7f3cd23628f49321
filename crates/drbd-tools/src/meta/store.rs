//! The metadata on its device: found, validated, written back (metadata, sections 2.6, 8.3, 9.3).

use super::args::{self, Args};
use super::console::Console;
use super::device::{Device, Page};
use super::failure::{BAD, Failure};
use super::lkbd::{self, LastKnown};
use drbd_meta::bitmap::BitmapLayout;
use drbd_meta::geometry::{Geometry, GeometryError, Placement};
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
    /// Valid metadata where it belonged when the device was smaller.
    pub(super) at_last_known: Option<(Superblock, Geometry)>,
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
            at_last_known: None,
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

    /// Looks again at the place where the metadata belongs, after it was moved there.
    pub(super) fn find_again(&mut self, args: &Args, console: &Console) -> Result<(), Failure> {
        let block = self.device.read_block("superblock", self.md_offset)?;
        let superblock = Superblock::parse(&block, self.placement)
            .map_err(|error| Failure::new(BAD, error.to_string()))?;
        let geometry = superblock
            .geometry(self.placement)
            .map_err(|error| Failure::new(BAD, error.to_string()))?;
        if superblock.magic.format() == args.format {
            self.found = Some((clip(superblock, &geometry, console), geometry));
        }
        Ok(())
    }

    /// The metadata where the device ended when it was smaller. A device that shrank has lost its
    /// metadata, or will once something is written behind its new end.
    fn look_at_last_known(&self, args: &Args) -> Option<(Superblock, Geometry)> {
        let known = lkbd::read(&self.lkbd)?;
        let old = Placement {
            index: args.index,
            device_size: known.size,
        };
        let offset = old.superblock_offset().ok()?;
        if known.size >= self.device.size {
            return None;
        }
        let block = self
            .device
            .read_block("last known superblock", offset)
            .ok()?;
        let superblock = Superblock::parse(&block, old).ok()?;
        let same = known.device_uuid == 0 || known.device_uuid == superblock.device_uuid;
        if superblock.magic.format() != args.format || !(same || args.force) {
            return None;
        }
        let geometry = superblock.geometry(old).ok()?;
        Some((superblock, geometry))
    }

    /// The metadata found, or the failure of commands that need it.
    pub(super) fn take(&mut self) -> Result<(Superblock, Geometry), Failure> {
        self.found.take().ok_or_else(|| {
            if self.at_last_known.is_some() {
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
    pub(super) fn remember(&self, device_uuid: u64, console: &Console) {
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
pub(super) fn clip(
    mut superblock: Superblock,
    geometry: &Geometry,
    console: &Console,
) -> Superblock {
    let usable = geometry.usable_sectors().min(geometry.bitmap_limit());
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
