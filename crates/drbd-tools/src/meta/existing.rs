//! What is on the device now? New metadata must not destroy a file system unasked (metadata,
//! section 11.2).

mod signature;

use super::args::Args;
use super::console::Console;
use super::device::Device;
use super::failure::{FAILED, Failure, REFUSED};
use drbd_meta::geometry::Geometry;
use drbd_meta::limits::{BLOCK_BYTES, MIN_DEVICE_BYTES};
use signature::{Size, recognise};
use std::path::Path;
use zerocopy::IntoBytes;

/// Asks before something unknown or small enough is overwritten, refuses
/// when data would be lost for certain.
pub(super) fn check(
    args: &Args,
    device: &Device,
    geometry: &Geometry,
    console: &mut Console,
) -> Result<(), Failure> {
    let count = usize::try_from(MIN_DEVICE_BYTES).unwrap_or(0) / BLOCK_BYTES;
    let pages = device.read("check for existing data", 0, count)?;
    let empty = pages.as_bytes().iter().all(|byte| *byte == 0);
    let (name, size) = match recognise(Path::new(&device.path), pages.as_bytes()) {
        Ok(Some(found)) => found,
        Ok(None) | Err(_) if empty => return Ok(()),
        Ok(None) => ("some data".to_owned(), Size::Unknown),
        Err(reason) => {
            console.err(&format!("There is something on {}; {reason}.", device.path));
            ("some data".to_owned(), Size::Refuse)
        }
    };
    for (label, sector) in [
        ("md_offset", geometry.superblock_sector()),
        ("al_offset", geometry.al_sector()),
        ("bm_offset", geometry.bitmap_sector()),
    ] {
        console.out(&format!("{label} {}", sector.saturating_mul(512)));
    }
    console.out(&format!("\nFound {name}"));
    let usable = geometry.usable_sectors() >> 1;
    let refused = |console: &Console, overridable: bool| {
        if overridable && args.ignore_sanity_checks {
            console.out("\nIgnoring sanity check on user request.\n");
            return Ok(());
        }
        console.out(if overridable {
            "To go on all the same, overwrite the start of the device with zeros first."
        } else {
            "Shrink what is on the device first, or keep the meta data on another device."
        });
        console.out("Operation refused.\n");
        Err(Failure::Silent(REFUSED))
    };
    match size {
        Size::Bytes(1..) if !args.index.is_internal() => {
            console.out("\nThis would corrupt existing data.");
            return refused(console, true);
        }
        Size::Refuse => {
            console.out(&format!(
                "{usable:>12} kB left usable by current configuration"
            ));
            console.out(TRUNCATED);
            return refused(console, true);
        }
        Size::Bytes(bytes) => {
            let used = bytes.div_ceil(1024);
            console.out(&format!("{used:>12} kB data area apparently used"));
            console.out(&format!(
                "{usable:>12} kB left usable by current configuration"
            ));
            if used > usable {
                console.out(&format!("\n{TRUNCATED}"));
                return refused(console, false);
            }
            console.out("\nThe new meta data seems to fit behind it; that is a guess from the signature alone.");
        }
        Size::Unknown => console.out("\n ==> This might destroy existing data! <=="),
    }
    if console.confirmed("Do you want to proceed?") {
        return Ok(());
    }
    console.out("Operation canceled.");
    Err(Failure::Silent(FAILED))
}

const TRUNCATED: &str = "Device size would be truncated, which\nwould corrupt data and result in\n\
                         'access beyond end of device' errors.";
