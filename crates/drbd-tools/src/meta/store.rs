//! The metadata on its device: found, validated, written back (metadata, sections 2.6, 8.3, 9.3).

use super::args::{self, Args};
use super::console::Console;
use super::device::{Device, Page};
use super::failure::{BAD, Failure};
use super::lkbd::{self, LastKnown};
use super::record::{Record, Version};
use drbd_meta::bitmap::BitmapLayout;
use drbd_meta::geometry::{Geometry, GeometryError, MdIndex, Placement};
use std::path::PathBuf;

/// An opened metadata device and what was found on it.
pub(super) struct Store {
    pub(super) device: Device,
    pub(super) placement: Placement,
    /// Byte offset of the superblock.
    pub(super) md_offset: u64,
    /// Valid metadata of the requested version at its place.
    pub(super) found: Option<(Record, Geometry)>,
    /// Valid metadata where it belonged when the device had another size.
    pub(super) at_last_known: Option<(Record, Geometry)>,
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
        store.look(args, console)?;
        // v07 has no device UUID to know its own by.
        if store.found.is_none() && args.index == MdIndex::Internal && args.format != Version::V07 {
            store.at_last_known = store.look_at_last_known(args, console);
        }
        Ok(store)
    }

    /// Looks at the place where the metadata belongs.
    pub(super) fn look(&mut self, args: &Args, console: &Console) -> Result<(), Failure> {
        let block = self.device.read_block("superblock", self.md_offset)?;
        let parsed = Record::parse(args.format, &block, self.placement).or_else(|reason| {
            // Our node attaches the metadata of the 8 series, and every attach begins with these commands.
            let attaching = matches!(args.command.name, "apply-al" | "repair-md");
            if attaching && args.format == Version::V09 {
                return Record::parse(Version::V08, &block, self.placement).map_err(|_| reason);
            }
            Err(reason)
        });
        match parsed {
            Ok(found) => {
                if let Some(warning) = found.warning {
                    console.err(&warning);
                }
                self.device.restrict_to(&found.geometry);
                let record = clip(found.record, &found.geometry, console);
                self.found = Some((record, found.geometry));
            }
            Err(reason) if console.verbose > 0 || !reason.is_other() => {
                console.err(&reason.to_string());
            }
            Err(_) => {}
        }
        Ok(())
    }

    /// The metadata where the device ended when it had another size.
    fn look_at_last_known(&self, args: &Args, console: &Console) -> Option<(Record, Geometry)> {
        let known = lkbd::read(&self.lkbd)?;
        if console.verbose > 0 {
            console.err(&format!(" last known info: {} {}", known.size, known.name));
        }
        let old = Placement {
            index: args.index,
            device_size: known.size,
        };
        let offset = old.superblock_offset().ok()?;
        // A device that shrank has lost its metadata, or will once it is written behind its end.
        if known.size >= self.device.size {
            return None;
        }
        let block = self
            .device
            .read_block("last known superblock", offset)
            .ok()?;
        let found = Record::parse(args.format, &block, old).ok()?;
        let same = known.device_uuid == 0 || known.device_uuid == found.record.device_uuid();
        (same || args.force).then_some((found.record, found.geometry))
    }

    /// Whether there is metadata of any version that would be found if the command ended now.
    pub(super) fn has_any(&self) -> Result<bool, Failure> {
        let block = self.device.read_block("superblock", self.md_offset)?;
        let valid = |version| Record::parse(version, &block, self.placement).is_ok();
        Ok(self.at_last_known.is_some() || Version::ALL.into_iter().any(valid))
    }

    /// The metadata found, or the failure of commands that need it.
    pub(super) fn take(&mut self) -> Result<(Record, Geometry), Failure> {
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
        record: &Record,
        geometry: &Geometry,
        console: &Console,
    ) -> Result<(), Failure> {
        let block = record.encode();
        Record::parse(record.version(), &block, geometry.placement())
            .map_err(|reason| Failure::new(BAD, reason.to_string()))?;
        self.device.restrict_to(geometry);
        self.device.sync()?;
        let offset = geometry.superblock_sector().saturating_mul(512);
        self.device.write("superblock", offset, &[Page(block)])?;
        self.device.sync()?;
        self.remember(record.device_uuid(), console);
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
pub(super) fn clip(mut record: Record, geometry: &Geometry, console: &Console) -> Record {
    let usable = geometry.usable_sectors().min(geometry.bitmap_limit());
    let size = record.effective_size();
    if size > usable {
        console.err(&format!(
            "# la-size-sect was too big ({size}), truncated ({usable})!"
        ));
        record.set_effective_size(usable);
    }
    record
}

/// The bitmap that belongs to the effective size.
pub(super) fn bitmap(record: &Record) -> Result<BitmapLayout, Failure> {
    record.bitmap_layout().ok_or_else(|| {
        let size = record.effective_size();
        Failure::new(
            BAD,
            format!("a device of {size} sectors cannot have a bitmap"),
        )
    })
}
