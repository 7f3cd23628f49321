//! `check-resize`: internal metadata lies at the end of the device. When the device has grown while
//! DRBD was down, it is moved to the new end (metadata, section 9.6).

use super::args::Args;
use super::console::Console;
use super::device::Page;
use super::failure::{BAD, FAILED, Failure, OK};
use super::record::{Record, Version};
use super::store::Store;
use drbd_meta::geometry::Geometry;

pub(super) fn check(args: &Args, mut store: Store, console: &Console) -> Result<u8, Failure> {
    match &store.found {
        Some((Record::V07(_), _)) => return Err(Failure::Silent(FAILED)),
        Some((record, _)) => {
            store.remember(record.device_uuid(), console);
            return Ok(OK);
        }
        None => {}
    }
    // v07 is of fixed size, or has nothing by which it could be known again.
    if args.format == Version::V07 || !args.index.is_internal() {
        let text = "Operation only supported for >= v8 internal meta data";
        return Err(Failure::new(FAILED, text));
    }
    let Some((record, old)) = store.at_last_known.take() else {
        return Err(Failure::new(FAILED, "no suitable meta data found :("));
    };
    relocate(&mut store, record, &old, console)
}

/// Moves metadata that was left behind when the device grew, so that what follows finds it. Returns
/// whether it is at its place now; with `--dry-run` it is not.
pub(super) fn bring_home(
    args: &Args,
    store: &mut Store,
    console: &Console,
) -> Result<bool, Failure> {
    let (None, Some((record, old))) = (&store.found, &store.at_last_known) else {
        return Ok(true);
    };
    let (record, old) = (record.clone(), *old);
    relocate(store, record, &old, console)?;
    if args.dry_run {
        return Ok(false);
    }
    store.look(args, console)?;
    Ok(true)
}

/// Moves the metadata from its old place to the end of the device.
///
/// Old and new place may overlap, so there is no order of copying that a crash could not hit. Until
/// the bitmap is complete at its new place, the superblock there says that everything is out of sync
/// and that the activity log has nothing to tell: a crash costs a full resync and no data.
pub(super) fn relocate(
    store: &mut Store,
    mut record: Record,
    old: &Geometry,
    console: &Console,
) -> Result<u8, Failure> {
    let new = Geometry::new(
        store.placement,
        old.slots(),
        old.block_size(),
        old.striping(),
    )
    .map_err(|error| Failure::new(BAD, error.to_string()))?;
    console.err("Moving the internal meta data to its proper location");
    let byte = |sector: u64| sector.saturating_mul(512);
    let al_blocks = usize::try_from(old.striping().blocks()).unwrap_or(0);
    let al = store
        .device
        .read("activity log", byte(old.al_sector()), al_blocks)?;

    record.place(&new);
    store.save(&record.unfinished(), &new, console)?;
    store
        .device
        .write("activity log", byte(new.al_sector()), &al)?;
    move_bitmap(store, old, &new)?;
    store.save(&record, &new, console)?;
    console.out("Internal drbd meta data successfully moved.");

    // What is left of the old place would be found by those who look for it.
    let end = byte(old.first_sector()).saturating_add(byte(old.md_size_sect().into()));
    let left = byte(old.first_sector())..end.min(byte(new.first_sector()));
    if left.start < left.end {
        store.device.unrestrict();
        store.device.fill("old meta data", left, 0)?;
        store.device.sync()?;
        console.err("Old meta data region zeroed.");
    }
    Ok(OK)
}

/// Copies the bitmap so that its first byte stays the first, and clears what is new behind it.
fn move_bitmap(store: &mut Store, old: &Geometry, new: &Geometry) -> Result<(), Failure> {
    const PIECE: u64 = 8192;
    let pages = |geometry: &Geometry| geometry.bitmap_sectors() / 8;
    let base = |geometry: &Geometry| geometry.bitmap_sector().saturating_mul(512);
    let at =
        |geometry: &Geometry, page: u64| base(geometry).saturating_add(page.saturating_mul(4096));
    let count = pages(old).min(pages(new));
    let pieces = count.div_ceil(PIECE);
    for n in 0..pieces {
        // Never over what is still to be read.
        let n = if base(new) > base(old) {
            pieces.saturating_sub(n).saturating_sub(1)
        } else {
            n
        };
        let first = n.saturating_mul(PIECE);
        let length = usize::try_from(count.saturating_sub(first).min(PIECE)).unwrap_or(0);
        let content: Vec<Page> = store.device.read("bitmap", at(old, first), length)?;
        store.device.write("bitmap", at(new, first), &content)?;
    }
    store
        .device
        .fill("bitmap", at(new, count)..at(new, pages(new)), 0)
}
