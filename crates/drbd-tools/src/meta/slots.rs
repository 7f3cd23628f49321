//! Bitmap slots and the nodes they belong to: `forget-peer` and `repair-md` (metadata, sections 6.3,
//! 9.2 and 9.7).

use super::args::Args;
use super::console::Console;
use super::failure::{BAD, FAILED, Failure, OK};
use super::resize;
use super::store::{self, Store};
use drbd_meta::geometry::Geometry;
use drbd_meta::superblock::{Format, PeerEntry, Superblock};
use zerocopy::IntoBytes;

pub(super) fn forget_peer(args: &Args, mut store: Store, console: &Console) -> Result<u8, Failure> {
    if args.format != Format::V09 {
        let text = format!(
            "{} meta data has one peer, which cannot be forgotten",
            args.format
        );
        return Err(Failure::new(BAD, text));
    }
    let (mut superblock, geometry) = store.take()?;
    let node = args.node_id.unwrap_or(0);
    let slot = superblock
        .peers
        .get(usize::from(node))
        .and_then(|entry| entry.bitmap_index);
    if let Some(slot) = slot {
        free_slot(&mut store, &superblock, &geometry, slot)?;
    }
    // A node that comes back, or another in its place, can be resynchronised from day 0 on.
    let mut others = superblock.peers.iter().enumerate().rev();
    let day0 = others.find(|(n, entry)| {
        let own = superblock.node_id.map(usize::from);
        entry.is_day0() && *n != usize::from(node) && Some(*n) != own
    });
    let fresh = day0.map_or_else(PeerEntry::default, |(_, entry)| PeerEntry {
        bitmap_uuid: entry.bitmap_uuid,
        bitmap_dagtag: entry.bitmap_dagtag,
        ..PeerEntry::default()
    });
    if let Some(entry) = superblock.peers.get_mut(usize::from(node)) {
        *entry = fresh;
    }
    store.save(&superblock, &geometry, console)?;
    Ok(OK)
}

/// Makes the day-0 entries agree: all collect the same generation, so one that differs is damaged.
/// Without `--dry-run` the damage is repaired. Metadata that a grown device left behind is moved
/// first, so that what follows finds it.
pub(super) fn repair(args: &Args, mut store: Store, console: &Console) -> Result<u8, Failure> {
    if let (None, Some((superblock, old))) = (&store.found, &store.at_last_known) {
        let (superblock, old) = (superblock.clone(), *old);
        let moved = resize::relocate(&mut store, superblock, &old, console)?;
        if args.dry_run {
            return Ok(moved);
        }
        store.find_again(args, console)?;
    }
    let (mut superblock, geometry) = store.take()?;
    if args.format != Format::V09 {
        return Ok(OK);
    }
    let own = superblock.node_id.map(usize::from);
    let is_day0 = |n: usize, entry: &PeerEntry| entry.is_day0() && Some(n) != own;
    let reference = superblock
        .peers
        .iter()
        .enumerate()
        .rev()
        .find(|(n, entry)| is_day0(*n, entry));
    let Some(reference) = reference.map(|(_, entry)| *entry) else {
        return Ok(OK);
    };
    let expected = reference.bitmap_uuid;
    let mut damaged = false;
    for (n, entry) in superblock.peers.iter_mut().enumerate() {
        if is_day0(n, entry) && entry.bitmap_uuid != expected {
            console.err(&format!(
                "Peer slot {n} has \"day0\" UUID 0x{:016X}, expected 0x{expected:016X}",
                entry.bitmap_uuid
            ));
            *entry = reference;
            damaged = true;
        }
    }
    if !damaged {
        return Ok(OK);
    }
    if args.dry_run {
        return Err(Failure::Silent(FAILED));
    }
    console.err("Repairing metadata");
    store.save(&superblock, &geometry, console)?;
    Ok(OK)
}

/// Makes the content of a slot that loses its node that of an unassigned one: a copy of another
/// unassigned slot, which has every change since day 0, else all ones.
fn free_slot(
    store: &mut Store,
    superblock: &Superblock,
    geometry: &Geometry,
    slot: u8,
) -> Result<(), Failure> {
    let assigned = |slot: u8| {
        superblock
            .peers
            .iter()
            .any(|e| e.bitmap_index == Some(slot))
    };
    let source = (0..superblock.max_peers).find(|slot| !assigned(*slot));
    let layout = store::bitmap(superblock)?;
    // So many pages hold whole groups, a word of each slot.
    let piece = u64::from(layout.slots()).saturating_mul(8);
    let mut first = 0u64;
    while first < layout.pages() {
        let count = layout.pages().saturating_sub(first).min(piece);
        let offset = geometry
            .bitmap_sector()
            .saturating_mul(512)
            .saturating_add(first.saturating_mul(4096));
        let mut pages = store
            .device
            .read("bitmap", offset, usize::try_from(count).unwrap_or(0))?;
        let (words, _) = pages.as_mut_slice().as_mut_bytes().as_chunks_mut::<4>();
        for group in words.chunks_mut(usize::from(layout.slots())) {
            let word = match source {
                Some(source) => group.get(usize::from(source)).copied(),
                None => Some([0xFF; 4]),
            };
            if let (Some(to), Some(word)) = (group.get_mut(usize::from(slot)), word) {
                *to = word;
            }
        }
        store.device.write("bitmap", offset, &pages)?;
        first = first.saturating_add(count);
    }
    Ok(())
}
