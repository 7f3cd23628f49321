//! `apply-al`: marks what the activity log calls hot as out of sync, and makes the log clean
//! (metadata, sections 5.5 to 5.8).

use super::args::Args;
use super::console::{Console, human_size};
use super::device::Device;
use super::failure::{FAILED, Failure, OK};
use super::record::{Record, Version};
use super::resize;
use super::store::{self, Store};
use drbd_meta::activity_log::legacy::{replay_pmem, replay_sectors};
use drbd_meta::activity_log::{AlBlock, AlBlockError, AlLayout, ReplayError, replay};
use drbd_meta::bitmap::ExtentSpan;
use drbd_meta::flags::LocalFlags;
use drbd_meta::geometry::Geometry;
use drbd_meta::superblock::Magic;
use std::collections::BTreeSet;
use zerocopy::IntoBytes;

/// What the log says.
struct Log {
    hot: Vec<u32>,
    /// Whether there was any record of it.
    found: bool,
    /// Whether the ring has to be initialised again.
    reinitialise: bool,
}

pub(super) fn apply(args: &Args, mut store: Store, console: &Console) -> Result<u8, Failure> {
    // Every attach begins with this command, also the first one after the device has grown.
    if !resize::bring_home(args, &mut store, console)? {
        return Ok(OK);
    }
    let (mut record, geometry) = store.take()?;
    let needed = record.must_apply_al();
    let log = match read_log(&store.device, &record, &geometry, console) {
        Ok(log) => log,
        Err(Replayed::Failed(failure)) => return Err(failure),
        Err(Replayed::Unusable(message)) => {
            console.err(&message);
            if needed {
                return Err(Failure::Silent(FAILED));
            }
            console.err("Error ignored, no need to apply the AL");
            Log {
                hot: Vec::new(),
                found: false,
                reinitialise: true,
            }
        }
    };
    let mut applied = false;
    if needed && log.found {
        if log.hot.is_empty() {
            console.err("Nothing to do.");
        } else {
            let bits = mark(&mut store.device, &record, &geometry, &log.hot, console)?;
            let kib = bits.saturating_mul(record.block_size().bytes().into()) >> 10;
            let size = human_size(kib);
            console.err(&format!(
                "Marked additional {size} as out-of-sync based on AL."
            ));
            applied = true;
        }
    }
    // Each step is durable before the next, so that this can be repeated after a crash anywhere.
    store.device.sync()?;
    if log.reinitialise && record.version() != Version::V07 {
        store
            .device
            .initialise_log(&geometry, record.version().fresh_log_block())?;
    }
    let save = match &mut record {
        Record::V07(_) => applied,
        Record::Uuids(superblock) => {
            let was_clean = superblock.flags.contains(LocalFlags::AL_CLEAN);
            let save = !was_clean || applied || superblock.magic != Magic::V08;
            superblock.flags.insert(LocalFlags::AL_CLEAN);
            if superblock.magic == Magic::V08Unclean {
                superblock.magic = Magic::V08;
            }
            save
        }
    };
    if save {
        store.save(&record, &geometry, console)?;
    }
    Ok(OK)
}

/// Why there is no replay.
enum Replayed {
    /// The log is unusable, which matters only if it must be applied.
    Unusable(String),
    Failed(Failure),
}

impl From<Failure> for Replayed {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

fn read_log(
    device: &Device,
    record: &Record,
    geometry: &Geometry,
    console: &Console,
) -> Result<Log, Replayed> {
    let layout = AlLayout::from(geometry);
    let start = geometry.al_sector().saturating_mul(512);
    let first = device.read("activity log", start, 2)?;
    if record.version() != Version::V07 && replay_pmem(first.as_bytes(), 1).is_some() {
        let blocks = usize::try_from(layout.blocks()).unwrap_or(0);
        let area = device.read("activity log", start, blocks)?;
        let hot = replay_pmem(area.as_bytes(), record.al_nr_extents()).unwrap_or_default();
        return Ok(Log {
            hot,
            found: true,
            reinitialise: true,
        });
    }
    // Plain v08 metadata may have a log of the style before 8.4, which has no blocks.
    let has_block = first
        .iter()
        .any(|page| !matches!(AlBlock::decode(&page.0), Err(AlBlockError::Magic(_))));
    let sectors = record
        .may_have_sector_log()
        .is_none_or(|may| may && !has_block);
    if sectors {
        let area = device.read("activity log", start, 8)?;
        let old = replay_sectors(area.as_bytes(), record.al_nr_extents());
        if old.valid == 0 {
            console.err("No usable activity log found.");
        } else if old.valid < old.ring {
            let bad = old.ring.saturating_sub(old.valid);
            console.err(&format!(
                "{bad} corrupt or uninitialized AL transactions found"
            ));
        }
        return Ok(Log {
            hot: old.hot,
            found: old.valid > 0,
            reinitialise: true,
        });
    }
    let replayed = replay(&layout, |number, block| {
        let offset = layout.block_sector(number).saturating_mul(512);
        *block = device.read_block("activity log", offset)?;
        Ok(())
    });
    let report = |corrupt: u32| {
        if corrupt > 0 {
            console.err(&format!("{corrupt} corrupt AL transactions found"));
        }
    };
    match replayed {
        Ok(found) => {
            report(found.corrupt);
            for (number, slot, is_update) in &found.ignored_slots {
                let what = if *is_update { "update slot" } else { "slot" };
                console.err(&format!(
                    "{what} number out of range: tr:{number} slot:{slot}"
                ));
            }
            for (number, kind) in &found.unknown_types {
                console.err(&format!(
                    "unknown transaction type {kind} in transaction {number}"
                ));
            }
            Ok(Log {
                hot: found.hot,
                found: found.transactions > 0,
                reinitialise: found.transactions > 0,
            })
        }
        Err(ReplayError::Read { error, .. }) => Err(Replayed::Failed(error)),
        Err(ReplayError::NoUsableLog { .. }) => {
            let text = "No usable activity log found. Do you need to create-md?";
            Err(Replayed::Unusable(text.into()))
        }
        Err(ReplayError::NoTransaction { corrupt }) => {
            report(corrupt);
            Err(Replayed::Unusable(
                "No valid AL update transaction found.".into(),
            ))
        }
        Err(error @ ReplayError::OutOfMemory) => Err(Replayed::Failed(Failure::new(
            super::failure::UNSUPPORTED,
            error.to_string(),
        ))),
    }
}

/// Sets the bits of the hot extents in every slot; returns how many were clear.
fn mark(
    device: &mut Device,
    record: &Record,
    geometry: &Geometry,
    hot: &[u32],
    console: &Console,
) -> Result<u64, Failure> {
    /// Pages of one access.
    const PIECE: usize = 256;
    let layout = store::bitmap(record)?;
    let mut spans: Vec<ExtentSpan> = Vec::new();
    for extent in hot {
        match layout.extent_span(*extent) {
            Ok(span) => spans.push(span),
            Err(outside) => console.err(&format!(
                "extent {extent} beyond end of bitmap! ({} >= {})",
                outside.byte, outside.area_bytes
            )),
        }
    }
    let pages: BTreeSet<u64> = spans.iter().flat_map(ExtentSpan::pages).collect();
    let pages: Vec<u64> = pages.into_iter().collect();
    let base = geometry.bitmap_sector().saturating_mul(512);
    let mut newly_set = 0u64;
    // Spans ascend, so those before the current page are done.
    let mut first_span = 0usize;
    for run in pages
        .chunk_by(|a, b| a.checked_add(1) == Some(*b))
        .flat_map(|r| r.chunks(PIECE))
    {
        let Some(first) = run.first() else { continue };
        let offset = base.saturating_add(first.saturating_mul(4096));
        let mut content = device.read("bitmap", offset, run.len())?;
        for (page, block) in run.iter().zip(&mut content) {
            let ahead = spans.get(first_span..).unwrap_or_default();
            let done = ahead
                .iter()
                .take_while(|span| span.pages().end <= *page)
                .count();
            first_span = first_span.saturating_add(done);
            let ahead = ahead.get(done..).unwrap_or_default();
            for span in ahead.iter().take_while(|span| span.pages().start <= *page) {
                newly_set = newly_set.saturating_add(span.set_in_page(*page, &mut block.0).into());
            }
        }
        device.write("bitmap", offset, &content)?;
    }
    Ok(newly_set)
}
