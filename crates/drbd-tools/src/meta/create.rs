//! `create-md`: fresh metadata, or that of another version converted (metadata, sections 9.3, 9.4).

use super::args::{self, Args, InitBitmap, InitialUuid};
use super::console::{Console, human_size};
use super::device::Page;
use super::existing;
use super::failure::{BAD, FAILED, Failure, OK, USAGE};
use super::resize;
use super::store::Store;
use drbd_meta::activity_log::encode_initialised;
use drbd_meta::bitmap::BitmapLayout;
use drbd_meta::flags::{LocalFlags, PeerFlags};
use drbd_meta::geometry::{AlStriping, BitmapBlockSize, Geometry, MdIndex, Placement};
use drbd_meta::limits::{UUID_JUST_CREATED, UUID_PRIMARY};
use drbd_meta::superblock::{Format, Superblock, V07Superblock};

/// Metadata that is already there.
enum Present {
    Nothing,
    /// Of the requested version.
    Same,
    /// Of another version, in the form of the closest that can be attached.
    Other {
        name: &'static str,
        layout: String,
        superblock: Box<Superblock>,
        old_offset: u64,
    },
}

pub(super) fn create(args: &Args, mut store: Store, console: &mut Console) -> Result<u8, Failure> {
    let slots = args::max_peers(args)?;
    let striping = args::striping(args)?.unwrap_or_default();
    if let Some((_, old)) = &store.at_last_known {
        if old.striping() != striping {
            let text = "The meta data of this device is at its last known location, with another \
                        activity log layout. Run check-resize first.";
            return Err(Failure::new(USAGE, text));
        }
        let question = "Move internal meta data from last-known position?";
        if !args.force && console.confirmed(question) {
            let (superblock, old) = store.at_last_known.take().ok_or(Failure::Silent(FAILED))?;
            existing::check(args, &store.device, &old, console)?;
            return resize::relocate(&mut store, superblock, &old, console);
        }
    }
    let layout = |slots, block_size, striping| {
        Geometry::new(store.placement, slots, block_size, striping)
            .map_err(|error| Failure::new(BAD, error.to_string()))
    };
    let block_size = args.bitmap_block_size.unwrap_or_default();
    let geometry = layout(slots, block_size, striping)?;
    let (mut superblock, geometry, converted) = match present(args, &store)? {
        Present::Nothing => (Superblock::create(args.format, &geometry), geometry, None),
        Present::Same => {
            let question = if args.index.is_internal() {
                introduce(
                    args,
                    &store,
                    &args.format.to_string(),
                    "flexible-size internal",
                    console,
                );
                "Do you really want to overwrite the existing meta-data?"
            } else {
                "Valid meta data seems to be in place.\nDo you really want to overwrite?"
            };
            if !console.confirmed(question) {
                console.out("Operation cancelled.");
                return Err(Failure::Silent(FAILED));
            }
            (Superblock::create(args.format, &geometry), geometry, None)
        }
        Present::Other {
            name,
            layout: place,
            superblock,
            old_offset,
        } => {
            introduce(args, &store, name, &place, console);
            let to = args.format;
            if console.confirmed(&format!("Valid {name} meta-data found, convert to {to}?")) {
                if slots != 1 {
                    console.err(&format!(
                        "Warning: setting max_peers to 1 instead of {slots}\n"
                    ));
                }
                let geometry = layout(1, BitmapBlockSize::DEFAULT, superblock.striping)?;
                (*superblock, geometry, Some(old_offset))
            } else {
                let question = format!(
                    "So you want me to replace the {name} meta-data\n\
                     with newly initialized {to} meta-data?"
                );
                if !console.confirmed(&question) {
                    console.out("Operation cancelled.");
                    return Err(Failure::Silent(FAILED));
                }
                (Superblock::create(to, &geometry), geometry, None)
            }
        }
    };
    existing::check(args, &store.device, &geometry, console)?;
    store.device.restrict_to(&geometry);
    if converted.is_none() {
        console.out("initializing activity log");
        let blocks = usize::try_from(geometry.striping().blocks()).unwrap_or(0);
        let ring = vec![Page(encode_initialised()); blocks];
        store.device.write(
            "activity log",
            geometry.al_sector().saturating_mul(512),
            &ring,
        )?;
        initialise_bitmap(args, &mut store, &geometry, console)?;
    }
    options(args, &mut superblock, &geometry)?;
    console.out("Writing meta data...");
    store.save(&superblock, &geometry, console)?;
    if let Some(old_offset) = converted.filter(|offset| *offset != store.md_offset) {
        store.device.unrestrict();
        store
            .device
            .write("old superblock", old_offset, &[Page::ZERO])?;
        store.device.sync()?;
    }
    console.out("New drbd meta data block successfully created.");
    Ok(OK)
}

/// Says what is there and what is wanted.
fn introduce(args: &Args, store: &Store, name: &str, layout: &str, console: &Console) {
    if !args.index.is_internal() {
        return;
    }
    console.err(&format!(
        "You want me to create a {} style flexible-size internal meta data block.",
        args.format
    ));
    console.err(&format!(
        "There appears to be a {name} {layout} meta data block"
    ));
    console.err(&format!(
        "already in place on {} at byte offset {}",
        store.device.path, store.md_offset
    ));
}

/// Looks for metadata of any version; the highest valid one counts.
fn present(args: &Args, store: &Store) -> Result<Present, Failure> {
    if store.found.is_some() {
        return Ok(Present::Same);
    }
    let block = store.device.read_block("superblock", store.md_offset)?;
    let unsupported = |error: &dyn std::fmt::Display| Failure::new(BAD, error.to_string());
    if let Ok(superblock) = Superblock::parse(&block, store.placement) {
        let from = superblock.magic.format();
        let name = match from {
            Format::V08 => "v08",
            Format::V09 => "v09",
        };
        let to = superblock.to_format(args.format).map_err(|error| {
            let text = format!("{error}: use wipe-md first if you do not need it");
            Failure::new(BAD, text)
        })?;
        return Ok(Present::Other {
            name,
            layout: store.placement.index.to_string(),
            superblock: Box::new(to),
            old_offset: store.md_offset,
        });
    }
    let mut places = vec![store.placement];
    if args.index == MdIndex::Internal {
        places.insert(
            0,
            Placement {
                index: MdIndex::FixedInternal,
                ..store.placement
            },
        );
    }
    for place in places {
        let Ok(offset) = place.superblock_offset() else {
            continue;
        };
        let block = store.device.read_block("v07 superblock", offset)?;
        let Ok(v07) = V07Superblock::parse(&block, place) else {
            continue;
        };
        let one = Geometry::new(
            store.placement,
            1,
            BitmapBlockSize::DEFAULT,
            AlStriping::DEFAULT,
        );
        let geometry = one.map_err(|error| unsupported(&error))?;
        let superblock = v07.to_v08(&geometry, false).to_format(args.format);
        return Ok(Present::Other {
            name: "v07",
            layout: place.index.to_string(),
            superblock: Box::new(superblock.map_err(|error| unsupported(&error))?),
            old_offset: offset,
        });
    }
    Ok(Present::Nothing)
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

/// Applies the values given as options.
fn options(args: &Args, superblock: &mut Superblock, geometry: &Geometry) -> Result<(), Failure> {
    if let Some(size) = args.peer_max_bio_size {
        superblock.la_peer_max_bio_size = size;
    }
    if let Some(size) = args.effective_size {
        let usable = geometry.usable_sectors().min(geometry.bitmap_limit());
        if size > usable || BitmapLayout::new(1, geometry.block_size(), size).is_none() {
            let text = format!(
                "effective size of {size} sectors is too large: {usable} sectors are usable"
            );
            return Err(Failure::new(BAD, text));
        }
        superblock.effective_size = size;
    }
    for (node, entry) in (0u32..).zip(&mut superblock.peers) {
        if args.diskful_peers >> node & 1 == 1 {
            entry.flags.insert(PeerFlags::DEVICE_SEEN);
        }
    }
    generation(args, superblock)
}

/// Begins with another data generation than "just created".
fn generation(args: &Args, superblock: &mut Superblock) -> Result<(), Failure> {
    match args.initial_current_uuid {
        Some(InitialUuid::Generate) => superblock.current_uuid = random_uuid()?,
        Some(InitialUuid::Given(uuid)) => superblock.current_uuid = uuid & !UUID_PRIMARY,
        None => {}
    }
    if args.consistent || args.uptodate {
        superblock.flags.insert(LocalFlags::CONSISTENT);
        if superblock.current_uuid == UUID_JUST_CREATED {
            superblock.current_uuid = random_uuid()?;
        }
    }
    if args.uptodate {
        superblock.flags.insert(LocalFlags::WAS_UP_TO_DATE);
    }
    let former = superblock.current_uuid;
    for peer in &mut superblock.peers {
        peer.flags.set(
            PeerFlags::OUTDATED,
            args.peers_outdated || peer.flags.contains(PeerFlags::OUTDATED),
        );
        if args.rotate_uuids {
            peer.bitmap_uuid = former;
        }
    }
    if args.rotate_uuids {
        let [youngest, ..] = &mut superblock.history;
        *youngest = former;
        superblock.current_uuid = random_uuid()?;
    }
    Ok(())
}

/// A random UUID without the primary mark, neither 0 nor "just created".
fn random_uuid() -> Result<u64, Failure> {
    loop {
        let mut bytes = [0; 8];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .map_err(|errno| Failure::io("getrandom", "", errno.into()))?;
        let uuid = u64::from_ne_bytes(bytes) & !UUID_PRIMARY;
        if uuid > UUID_JUST_CREATED {
            return Ok(uuid);
        }
    }
}
