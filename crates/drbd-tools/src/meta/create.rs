//! `create-md`: fresh metadata, or that of another version converted (metadata, sections 9.3, 9.4).

use super::args::{self, Args, InitBitmap};
use super::console::{Console, human_size};
use super::device::Page;
use super::existing;
use super::failure::{BAD, FAILED, Failure, OK, UNSUPPORTED, USAGE};
use super::initial;
use super::record::{Record, Version};
use super::resize;
use super::store::Store;
use drbd_meta::geometry::{AlStriping, BitmapBlockSize, Geometry, MdIndex, Placement};
use drbd_meta::superblock::{Superblock, V07Superblock};

/// Metadata that is already there.
struct Present {
    record: Record,
    /// Its layout: v07 has two internal ones.
    index: MdIndex,
    /// Byte offset of its superblock.
    offset: u64,
}

/// What is to be written.
struct Plan {
    record: Record,
    geometry: Geometry,
    /// Activity log and bitmap stay as they are.
    converted: bool,
    /// The superblock that is replaced, if there is one.
    old_offset: Option<u64>,
}

pub(super) fn create(args: &Args, mut store: Store, console: &mut Console) -> Result<u8, Failure> {
    let striping = args::striping(args)?.unwrap_or_default();
    if let Some((_, old)) = &store.at_last_known {
        if old.striping() != striping {
            let text = "The meta data of this device is at its last known location, with another \
                        activity log layout. Run check-resize first.";
            return Err(Failure::new(USAGE, text));
        }
        let question = "Move internal meta data from last-known position?";
        if !args.force && console.confirmed(question) {
            let (record, old) = store.at_last_known.take().ok_or(Failure::Silent(FAILED))?;
            existing::check(args, &store.device, &old, console)?;
            return resize::relocate(&mut store, record, &old, console);
        }
    }
    let plan = plan(args, &store, striping, console)?;
    existing::check(args, &store.device, &plan.geometry, console)?;
    write(args, &mut store, plan, console)?;
    console.out("New drbd meta data block successfully created.");
    Ok(OK)
}

/// Asks what is to become of metadata that is there.
fn plan(
    args: &Args,
    store: &Store,
    striping: AlStriping,
    console: &mut Console,
) -> Result<Plan, Failure> {
    let slots = args::max_peers(args)?;
    let layout = |slots, block_size, striping| {
        Geometry::new(store.placement, slots, block_size, striping)
            .map_err(|error| Failure::new(BAD, error.to_string()))
    };
    let geometry = layout(slots, args.bitmap_block_size.unwrap_or_default(), striping)?;
    let fresh = |old_offset| -> Result<Plan, Failure> {
        let record = match args.format.format() {
            Some(format) => Superblock::create(format, &geometry).into(),
            None => V07Superblock::create(store.placement)
                .map(Record::V07)
                .map_err(|error| Failure::new(BAD, error.to_string()))?,
        };
        Ok(Plan {
            record,
            geometry,
            converted: false,
            old_offset,
        })
    };
    let Some(present) = present(args, store)? else {
        return fresh(None);
    };
    let declined = |console: &Console| {
        console.out("Operation cancelled.");
        Err(Failure::Silent(FAILED))
    };
    let (from, to) = (present.record.version(), args.format);
    let internal = args.index.is_internal();
    if internal {
        introduce(args, store, &present, console);
    }
    if from == to {
        // Confirming everything by --force must not end here: there is no way to do only this.
        let restripe = match &present.record {
            Record::Uuids(superblock) => internal && superblock.striping != striping,
            Record::V07(_) => false,
        };
        let question = "Do you want to change the activity log stripe settings *only*?";
        if restripe && !args.force && console.confirmed(question) {
            let text = "Sorry, not yet fully implemented\n\
                        Try dump-md > dump.txt; restore-md -s x -z y dump.txt";
            return Err(Failure::new(UNSUPPORTED, text));
        }
        let question = if internal {
            "Do you really want to overwrite the existing meta-data?"
        } else {
            "Valid meta data seems to be in place.\nDo you really want to overwrite?"
        };
        if !console.confirmed(question) {
            return declined(console);
        }
        return fresh(Some(present.offset));
    }
    if console.confirmed(&format!("Valid {from} meta-data found, convert to {to}?")) {
        let record = convert(&present, store, to, console)?;
        if to == Version::V09 && slots != 1 {
            console.out(&format!(
                "Warning: setting max_peers to 1 instead of {slots}\n"
            ));
        }
        let striping = match &record {
            Record::Uuids(superblock) => superblock.striping,
            Record::V07(_) => AlStriping::DEFAULT,
        };
        return Ok(Plan {
            record,
            geometry: layout(1, BitmapBlockSize::DEFAULT, striping)?,
            converted: true,
            old_offset: Some(present.offset),
        });
    }
    let question = format!(
        "So you want me to replace the {from} meta-data\n\
         with newly initialized {to} meta-data?"
    );
    if !console.confirmed(&question) {
        return declined(console);
    }
    fresh(Some(present.offset))
}

/// Says what is there and what is wanted.
fn introduce(args: &Args, store: &Store, present: &Present, console: &Console) {
    let size = |index| match index {
        MdIndex::FixedInternal => "fixed-size",
        _ => "flexible-size",
    };
    let plus = match (args.format, args.index) {
        (Version::V07, MdIndex::Internal) => "(plus)",
        _ => "",
    };
    console.err(&format!(
        "You want me to create a {}{plus} style {} internal meta data block.",
        args.format,
        size(args.index)
    ));
    console.err(&format!(
        "There appears to be a {} {} internal meta data block",
        present.record.version(),
        size(present.index)
    ));
    console.err(&format!(
        "already in place on {} at byte offset {}",
        store.device.path, present.offset
    ));
}

/// Looks for metadata of any version; the highest valid one counts.
fn present(args: &Args, store: &Store) -> Result<Option<Present>, Failure> {
    if let (false, Some((record, _))) = (args.index.is_internal(), &store.found) {
        return Ok(Some(Present {
            record: record.clone(),
            index: args.index,
            offset: store.md_offset,
        }));
    }
    let at = |index| Placement {
        index,
        ..store.placement
    };
    let indexes = if args.index.is_internal() {
        vec![MdIndex::Internal, MdIndex::FixedInternal]
    } else {
        vec![args.index]
    };
    for (version, index) in Version::ALL
        .into_iter()
        .flat_map(|version| indexes.iter().map(move |index| (version, *index)))
        .filter(|(version, index)| *version == Version::V07 || *index != MdIndex::FixedInternal)
    {
        let Ok(offset) = at(index).superblock_offset() else {
            continue;
        };
        let block = store.device.read_block("superblock", offset)?;
        if let Ok(found) = Record::parse(version, &block, at(index)) {
            return Ok(Some(Present {
                record: found.record,
                index,
                offset,
            }));
        }
    }
    Ok(None)
}

/// The same metadata in another version.
fn convert(
    present: &Present,
    store: &Store,
    to: Version,
    console: &Console,
) -> Result<Record, Failure> {
    let from = present.record.version();
    let Some(format) = to.format() else {
        let text = format!(
            "Generation counters cannot be made of UUIDs, so {from} cannot be converted to {to}. \
             Use wipe-md first if you do not need the {from} meta data."
        );
        return Err(Failure::new(BAD, text));
    };
    let uuids = match &present.record {
        Record::Uuids(superblock) => superblock.as_ref().clone(),
        Record::V07(v07) => {
            console.out("Converting meta data...");
            let layout = Geometry::new(
                store.placement,
                1,
                BitmapBlockSize::DEFAULT,
                AlStriping::DEFAULT,
            );
            let layout = layout.map_err(|error| Failure::new(BAD, error.to_string()))?;
            v07.to_v08(&layout, false)
        }
    };
    let converted = uuids.to_format(format).map_err(|error| {
        let text = format!("{error}: use wipe-md first if you do not need it");
        Failure::new(BAD, text)
    })?;
    let converted = Record::from(converted);
    // Log and bitmap stay where they are, which is not where the new metadata looks for them.
    if present.offset != store.md_offset {
        return Ok(converted.unfinished());
    }
    Ok(converted)
}

/// Writes what was planned. Old metadata in the same place is replaced first by metadata that calls
/// everything out of sync: neither the old one nor the new one may be found beside an activity log
/// and a bitmap that are not theirs.
fn write(args: &Args, store: &mut Store, mut plan: Plan, console: &Console) -> Result<(), Failure> {
    if let Record::Uuids(superblock) = &mut plan.record {
        initial::apply(args, superblock, &plan.geometry)?;
    }
    store.device.restrict_to(&plan.geometry);
    if !plan.converted {
        if store.has_any()? {
            store.save(&plan.record.unfinished(), &plan.geometry, console)?;
        }
        console.out("initializing activity log");
        store
            .device
            .initialise_log(&plan.geometry, plan.record.version().fresh_log_block())?;
        initialise_bitmap(args, store, &plan.geometry, console)?;
    }
    console.out("Writing meta data...");
    store.save(&plan.record, &plan.geometry, console)?;
    if let Some(old_offset) = plan.old_offset.filter(|offset| *offset != store.md_offset) {
        store.device.unrestrict();
        store
            .device
            .write("old superblock", old_offset, &[Page::ZERO])?;
        store.device.sync()?;
    }
    Ok(())
}

/// Fills the whole bitmap area; what it held before would otherwise become meaningful when the
/// device grows.
fn initialise_bitmap(
    args: &Args,
    store: &mut Store,
    geometry: &Geometry,
    console: &Console,
) -> Result<(), Failure> {
    let start = geometry.bitmap_sector().saturating_mul(512);
    // An external device may end with a part of a block, which no bitmap uses.
    let length = geometry.bitmap_sectors().saturating_mul(512) & !4095;
    let range = start..start.saturating_add(length);
    let size = human_size(length >> 10);
    match args.init_bitmap {
        InitBitmap::Skip => {
            console.err("SKIPPED initializing bitmap area");
            return Ok(());
        }
        InitBitmap::SetAll => {
            console.err(&format!("initializing bitmap ({size}) to all one"));
            return store.device.fill("bitmap", range, 0xFF);
        }
        InitBitmap::Automatic | InitBitmap::ZeroOut => {
            console.err(&format!("initializing bitmap ({size}) to all zero"));
            if store.device.zero_out(range.clone())? {
                return Ok(());
            }
            if args.init_bitmap == InitBitmap::ZeroOut {
                return Err(Failure::new(BAD, "fast zero-out failed, fallback disabled"));
            }
        }
        InitBitmap::Write => {}
    }
    console.err(&format!(
        "initializing bitmap ({size}) to all zero using pwrite"
    ));
    store.device.fill("bitmap", range, 0)
}
