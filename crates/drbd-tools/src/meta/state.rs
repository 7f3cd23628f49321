//! Whether the data is good: `dstate`, `outdate`, `invalidate` (metadata, sections 9.1 and 9.2).

use super::console::Console;
use super::failure::{Failure, INCONSISTENT, OK};
use super::record::Record;
use super::store::Store;
use drbd_meta::flags::{LocalFlags, PeerFlags};
use drbd_meta::superblock::{Format, V07Superblock};

pub(super) fn show(mut store: Store, console: &Console) -> Result<u8, Failure> {
    let (record, _) = store.take()?;
    // No node can use v07 metadata as it is.
    let flags = match &record {
        Record::V07(_) => LocalFlags::NONE,
        Record::Uuids(superblock) => superblock.flags,
    };
    console.out(if !flags.contains(LocalFlags::CONSISTENT) {
        "Inconsistent"
    } else if !flags.contains(LocalFlags::WAS_UP_TO_DATE) {
        "Outdated"
    } else if flags.contains(LocalFlags::PEER_OUT_DATED) {
        "UpToDate"
    } else {
        "Consistent"
    });
    Ok(OK)
}

pub(super) fn outdate(mut store: Store, console: &Console) -> Result<u8, Failure> {
    let (mut record, geometry) = store.take()?;
    match &mut record {
        Record::Uuids(superblock) if superblock.flags.contains(LocalFlags::CONSISTENT) => {
            superblock.flags.remove(LocalFlags::WAS_UP_TO_DATE);
        }
        record => {
            if matches!(record, Record::V07(_)) {
                console.err("Can not outdate GC based meta data!");
            }
            return Err(Failure::new(INCONSISTENT, "Device is inconsistent."));
        }
    }
    store.save(&record, &geometry, console)?;
    Ok(OK)
}

pub(super) fn invalidate(mut store: Store, console: &Console) -> Result<u8, Failure> {
    let (mut record, geometry) = store.take()?;
    match &mut record {
        Record::V07(superblock) => {
            superblock.flags &= !V07Superblock::CONSISTENT;
            superblock.flags |= V07Superblock::FULL_SYNC;
        }
        Record::Uuids(superblock) => {
            superblock
                .flags
                .remove(LocalFlags::CONSISTENT | LocalFlags::WAS_UP_TO_DATE);
            match superblock.magic.format() {
                Format::V08 => superblock.flags.insert(LocalFlags::FULL_SYNC),
                Format::V09 => {
                    for peer in &mut superblock.peers {
                        peer.flags.insert(PeerFlags::FULL_SYNC);
                    }
                }
            }
        }
    }
    store.save(&record, &geometry, console)?;
    Ok(OK)
}
