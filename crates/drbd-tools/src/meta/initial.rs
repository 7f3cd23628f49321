//! The values that `create-md` takes from its options (metadata, section 8.1).

use super::args::{Args, InitialUuid};
use super::failure::{BAD, Failure};
use drbd_meta::bitmap::BitmapLayout;
use drbd_meta::flags::{LocalFlags, PeerFlags};
use drbd_meta::geometry::Geometry;
use drbd_meta::limits::{UUID_JUST_CREATED, UUID_PRIMARY};
use drbd_meta::superblock::Superblock;

/// Applies the values given as options.
pub(super) fn apply(
    args: &Args,
    superblock: &mut Superblock,
    geometry: &Geometry,
) -> Result<(), Failure> {
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
