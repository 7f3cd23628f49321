//! Generation identifiers as text: `get-gi`, `show-gi`, `set-gi` (metadata, section 10.2).

pub(super) mod gc;

use super::args::Args;
use super::console::{Console, human_size};
use super::failure::{BAD, FAILED, Failure, OK};
use super::record::{Record, Version};
use super::store::Store;
use drbd_meta::flags::{LocalFlags, PeerFlags};
use drbd_meta::superblock::{Format, PeerEntry, Superblock};
use std::fmt::Write;

/// A flag of the list: a local one, or one of the chosen peer.
#[derive(Clone, Copy)]
enum Flag {
    Local(LocalFlags),
    Peer(PeerFlags),
}

const V09_FLAGS: &[Flag] = &[
    Flag::Local(LocalFlags::CONSISTENT),
    Flag::Local(LocalFlags::WAS_UP_TO_DATE),
    Flag::Local(LocalFlags::PRIMARY_IND),
    Flag::Local(LocalFlags::CRASHED_PRIMARY),
    Flag::Local(LocalFlags::AL_CLEAN),
    Flag::Local(LocalFlags::AL_DISABLED),
    Flag::Local(LocalFlags::PRIMARY_LOST_QUORUM),
    Flag::Peer(PeerFlags::CONNECTED),
    Flag::Peer(PeerFlags::OUTDATED),
    Flag::Peer(PeerFlags::FENCING),
    Flag::Peer(PeerFlags::FULL_SYNC),
    Flag::Peer(PeerFlags::DEVICE_SEEN),
];

const V08_FLAGS: &[Flag] = &[
    Flag::Local(LocalFlags::CONSISTENT),
    Flag::Local(LocalFlags::WAS_UP_TO_DATE),
    Flag::Local(LocalFlags::PRIMARY_IND),
    Flag::Local(LocalFlags::CONNECTED_IND),
    Flag::Local(LocalFlags::FULL_SYNC),
    Flag::Local(LocalFlags::PEER_OUT_DATED),
    Flag::Local(LocalFlags::CRASHED_PRIMARY),
];

fn flags(format: Format) -> &'static [Flag] {
    match format {
        Format::V08 => V08_FLAGS,
        Format::V09 => V09_FLAGS,
    }
}

/// The entry of a node; the parser of the arguments allows no other number.
fn peer(superblock: &Superblock, node: usize) -> PeerEntry {
    superblock.peers.get(node).copied().unwrap_or_default()
}

/// v07 and v08 have one peer; there the option is ignored.
fn node(args: &Args) -> usize {
    match args.format {
        Version::V07 | Version::V08 => 0,
        Version::V09 => args.node_id.unwrap_or(0).into(),
    }
}

fn line(superblock: &Superblock, node: usize) -> String {
    let peer = peer(superblock, node);
    let [younger, older, ..] = superblock.history;
    let mut text = format!(
        "{:016X}:{:016X}:{younger:016X}:{older:016X}",
        superblock.current_uuid, peer.bitmap_uuid
    );
    for flag in flags(superblock.magic.format()) {
        let set = match flag {
            Flag::Local(flag) => superblock.flags.contains(*flag),
            Flag::Peer(flag) => peer.flags.contains(*flag),
        };
        let _ = write!(text, ":{}", u8::from(set));
    }
    text
}

pub(super) fn get(args: &Args, mut store: Store, console: &Console) -> Result<u8, Failure> {
    let (record, _) = store.take().map_err(|_| Failure::Silent(FAILED))?;
    console.out(&record_line(&record, node(args)));
    Ok(OK)
}

/// The list of one record, as seen by one peer.
pub(super) fn record_line(record: &Record, node: usize) -> String {
    match record {
        Record::V07(superblock) => gc::line(superblock),
        Record::Uuids(superblock) => line(superblock, node),
    }
}

pub(super) fn show(args: &Args, mut store: Store, console: &Console) -> Result<u8, Failure> {
    let (record, _) = store.take().map_err(|_| Failure::Silent(FAILED))?;
    describe(&record, node(args), console);
    Ok(OK)
}

/// The list with an explanation.
pub(super) fn describe(record: &Record, node: usize, console: &Console) {
    match record {
        Record::V07(superblock) => gc::show(superblock, console),
        Record::Uuids(superblock) => {
            console.out(HEAD);
            console.out(&line(superblock, node));
            match superblock.magic.format() {
                Format::V09 => console.out(V09_LEGEND),
                Format::V08 => {
                    console.out(V08_LEGEND);
                    show_v08(superblock, console);
                }
            }
        }
    }
    let size = record.effective_size();
    if size == 0 {
        console.out("zero size device -- never seen peer yet?");
    } else {
        let kib = human_size(size >> 1);
        console.out(&format!("last agreed size: {kib} ({size} sectors)"));
        let bio = match record {
            Record::V07(_) => 0,
            Record::Uuids(superblock) => superblock.la_peer_max_bio_size,
        };
        console.out(&format!("last agreed max bio size: {bio} Byte"));
    }
}

fn show_v08(superblock: &Superblock, console: &Console) {
    let has = |flag| superblock.flags.contains(flag);
    let pick = |condition, yes, no| if condition { yes } else { no };
    let data = match (has(LocalFlags::CONSISTENT), has(LocalFlags::WAS_UP_TO_DATE)) {
        (true, true) => "UpToDate",
        (true, false) => "Outdated",
        (false, _) => "Inconsistent",
    };
    console.out(&format!(
        "flags:{} {}, {}, {data}{}{}",
        pick(has(LocalFlags::CRASHED_PRIMARY), " crashed", ""),
        pick(has(LocalFlags::PRIMARY_IND), "Primary", "Secondary"),
        pick(has(LocalFlags::CONNECTED_IND), "Connected", "StandAlone"),
        pick(has(LocalFlags::FULL_SYNC), ", need full sync", ""),
        pick(has(LocalFlags::PEER_OUT_DATED), ", peer Outdated", ""),
    ));
    console.out(&format!(
        "meta-data: {}",
        pick(has(LocalFlags::AL_CLEAN), "clean", "need apply-al")
    ));
}

pub(super) fn set(args: &Args, mut store: Store, console: &mut Console) -> Result<u8, Failure> {
    let (mut record, geometry) = store.take()?;
    let node = node(args);
    let before = record_line(&record, node);
    let given = args.rest.first().map(String::as_str).unwrap_or_default();
    match &mut record {
        Record::V07(superblock) => gc::apply(superblock, given)?,
        Record::Uuids(superblock) => apply(superblock, node, given)?,
    }
    console.out(&format!("previously {before}"));
    console.out(&format!("set GI to  {}", record_line(&record, node)));
    if !console.confirmed("Write new GI to disk?") {
        console.out("Operation canceled.");
        return Ok(OK);
    }
    store.save(&record, &geometry, console)?;
    Ok(OK)
}

/// Takes over the fields of a list. An empty field keeps its value, and so do those that the list
/// does not reach; more fields than there are do not count.
fn apply(superblock: &mut Superblock, node: usize, list: &str) -> Result<(), Failure> {
    let format = superblock.magic.format();
    let mut local = superblock.flags;
    let mut entry = peer(superblock, node);
    for (i, field) in list
        .split(':')
        .enumerate()
        .filter(|(_, field)| !field.is_empty())
    {
        if i < 4 {
            let digits = field.strip_prefix("0x").unwrap_or(field);
            let value = u64::from_str_radix(digits, 16)
                .map_err(|_| Failure::new(BAD, format!("'{field}' is not a number.")))?;
            let [younger, older, ..] = &mut superblock.history;
            match i {
                0 => superblock.current_uuid = value,
                1 => entry.bitmap_uuid = value,
                2 => *younger = value,
                _ => *older = value,
            }
            continue;
        }
        let Some(flag) = flags(format).get(i.saturating_sub(4)) else {
            break;
        };
        let on = parse_bit(field)?;
        match *flag {
            Flag::Local(flag) => local.set(flag, on),
            Flag::Peer(flag) => entry.flags.set(flag, on),
        }
    }
    superblock.flags = local;
    if let Some(place) = superblock.peers.get_mut(node) {
        *place = entry;
    }
    Ok(())
}

fn parse_bit(field: &str) -> Result<bool, Failure> {
    match field.parse::<u64>() {
        Ok(0) => Ok(false),
        Ok(1) => Ok(true),
        Ok(_) => Err(Failure::new(BAD, format!("'{field}' is not 0 or 1."))),
        Err(_) => Err(Failure::new(BAD, format!("'{field}' is not a number."))),
    }
}

const HEAD: &str = "
       +--<  Current data generation UUID  >-
       |               +--<  Bitmap's base data generation UUID  >-
       |               |                 +--<  younger history UUID  >-
       |               |                 |         +-<  older history  >-
       V               V                 V         V";

const V09_LEGEND: &str =
    "                                                                    ^ ^ ^ ^ ^ ^ ^ ^ ^ ^ ^ ^
                                      -<  Data consistency flag  >--+ | | | | | | | | | | |
                             -<  Data was/is currently up-to-date  >--+ | | | | | | | | | |
                                  -<  Node was/is currently primary  >--+ | | | | | | | | |
 -<  This node was a crashed primary, and has not seen its peer since  >--+ | | | | | | | |
             -<  The activity-log was applied, the disk can be attached  >--+ | | | | | | |
        -<  The activity-log was disabled, peer is completely out of sync  >--+ | | | | | |
                              -<  This node was primary when it lost quorum  >--+ | | | | |
                                          -<  Node was/is currently connected  >--+ | | | |
                              -<  The peer's disk was out-dated or inconsistent  >--+ | | |
                                 -<   A fence policy other the dont-care was used  >--+ | |
                  -<  Node was in the progress of marking all blocks as out of sync  >--+ |
                     -<  At least once we saw this node with a backing device attached >--+
";

const V08_LEGEND: &str =
    "                                                                    ^ ^ ^ ^ ^ ^ ^
                                      -<  Data consistency flag  >--+ | | | | | |
                             -<  Data was/is currently up-to-date  >--+ | | | | |
                                  -<  Node was/is currently primary  >--+ | | | |
                                  -<  Node was/is currently connected  >--+ | | |
         -<  Node was in the progress of setting all bits in the bitmap  >--+ | |
                        -<  The peer's disk was out-dated or inconsistent  >--+ |
      -<  This node was a crashed primary, and has not seen its peer since   >--+
";
