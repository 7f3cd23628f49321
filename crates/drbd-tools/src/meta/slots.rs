//! Bitmap slots and the nodes they belong to: `forget-peer` and `repair-md` (metadata, sections 6.3,
//! 9.2 and 9.7).

use super::args::Args;
use super::console::Console;
use super::failure::{FAILED, Failure, OK};
use super::record::Record;
use super::resize;
use super::store::{self, Store};
use drbd_meta::flags::PeerFlags;
use drbd_meta::geometry::Geometry;
use drbd_meta::superblock::{Format, PeerEntry, Superblock};
use zerocopy::IntoBytes;

/// Forgets a node, and frees its slot for a node to come.
pub(super) fn forget_peer(args: &Args, mut store: Store, console: &Console) -> Result<u8, Failure> {
    let (mut record, geometry) = store.take()?;
    match &mut record {
        Record::Uuids(superblock) if superblock.magic.format() == Format::V09 => {
            let node = usize::from(args.node_id.unwrap_or(0));
            let forgotten = forgotten(superblock, node);
            let entry = superblock.peers.get_mut(node);
            let slot = entry.as_ref().and_then(|entry| entry.bitmap_index);
            if let (Some(slot), Some(entry)) = (slot, entry) {
                // The slot must not be trusted while it changes.
                entry.flags.insert(PeerFlags::FULL_SYNC);
                store.save(&record, &geometry, console)?;
                let assigned = |superblock: &Superblock, slot| {
                    let mut entries = superblock.peers.iter();
                    entries.any(|entry| entry.bitmap_index == Some(slot))
                };
                let Record::Uuids(superblock) = &record else {
                    return Err(Failure::Silent(FAILED));
                };
                let source = (0..superblock.max_peers).find(|n| !assigned(superblock, *n));
                fill_slot(&mut store, &record, &geometry, slot, source)?;
            }
            if let Record::Uuids(superblock) = &mut record
                && let Some(entry) = superblock.peers.get_mut(node)
            {
                *entry = forgotten;
            }
        }
        Record::Uuids(superblock) => {
            let [peer, ..] = &mut superblock.peers;
            peer.bitmap_uuid = 0;
            fill_slot(&mut store, &record, &geometry, 0, None)?;
        }
        Record::V07(_) => fill_slot(&mut store, &record, &geometry, 0, None)?,
    }
    store.save(&record, &geometry, console)?;
    Ok(OK)
}

/// What becomes of the entry of a forgotten node: a node that comes back, or another in its place,
/// can be resynchronised from day 0 on.
fn forgotten(superblock: &Superblock, node: usize) -> PeerEntry {
    let own = superblock.node_id.map(usize::from);
    let mut others = superblock.peers.iter().enumerate().rev();
    let day0 = others.find(|(n, entry)| entry.is_day0() && *n != node && Some(*n) != own);
    day0.map_or_else(PeerEntry::default, |(_, entry)| PeerEntry {
        bitmap_uuid: entry.bitmap_uuid,
        bitmap_dagtag: entry.bitmap_dagtag,
        ..PeerEntry::default()
    })
}

/// Makes the day-0 entries agree: all collect the same generation, so one that differs is damaged.
/// Without `--dry-run` the damage is repaired. Metadata that a grown device left behind is moved
/// first, so that what follows finds it.
pub(super) fn repair(args: &Args, mut store: Store, console: &Console) -> Result<u8, Failure> {
    if !resize::bring_home(args, &mut store, console)? {
        return Ok(OK);
    }
    let (mut record, geometry) = store.take()?;
    let superblock = match &mut record {
        Record::Uuids(superblock) if superblock.magic.format() == Format::V09 => superblock,
        _ => return Ok(OK),
    };
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
    store.save(&record, &geometry, console)?;
    Ok(OK)
}

/// Makes the content of a slot that loses its node that of an unassigned one: a copy of another
/// unassigned slot, which has every change since day 0, else all ones.
fn fill_slot(
    store: &mut Store,
    record: &Record,
    geometry: &Geometry,
    slot: u8,
    source: Option<u8>,
) -> Result<(), Failure> {
    let layout = store::bitmap(record)?;
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
