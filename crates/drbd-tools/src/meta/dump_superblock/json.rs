//! The superblock decoded, field by field, as JSON (metadata, section 10.4). Every byte is shown as
//! it is, also where no valid metadata could have it.

use super::{Shown, Validity};
use crate::meta::device::Device;
use crate::meta::failure::{BAD, Failure};
use drbd_meta::Block;
use drbd_meta::superblock::{Format, raw};
use serde::Serialize;
use std::collections::BTreeMap;
use std::mem::offset_of;
use zerocopy::byteorder::big_endian::{U32, U64};
use zerocopy::transmute_ref;

/// The order of the fields is that of the output.
#[derive(Serialize)]
struct Decoded {
    #[serde(flatten)]
    head: Head,
    peers: Vec<Peer>,
    #[serde(flatten)]
    v09: Option<OnlyV09>,
    history_uuids: Vec<String>,
    padding: Padding,
    #[serde(rename = "#meta")]
    origin: Origin,
}

/// What both versions have, at different places.
#[derive(Serialize)]
struct Head {
    effective_size: u64,
    current_uuid: String,
    device_uuid: String,
    flags: String,
    magic: String,
    md_size_sect: u32,
    al_offset: i32,
    al_nr_extents: u32,
    bm_offset: i32,
    bm_bytes_per_bit: u32,
    la_peer_max_bio_size: u32,
    al_stripes: u32,
    al_stripe_size_4k: u32,
}

/// The head of a block in either version; `first` are size, generation and device UUID.
fn head(first: [U64; 3], common: &raw::Common, striping: (u32, u32)) -> Head {
    let [size, current, device] = first;
    Head {
        effective_size: size.get(),
        current_uuid: uuid(current),
        device_uuid: uuid(device),
        flags: word(common.flags),
        magic: word(common.magic),
        md_size_sect: common.md_size_sect.get(),
        al_offset: common.al_offset.get(),
        al_nr_extents: common.al_nr_extents.get(),
        bm_offset: common.bm_offset.get(),
        bm_bytes_per_bit: common.bm_bytes_per_bit.get(),
        la_peer_max_bio_size: common.la_peer_max_bio_size.get(),
        al_stripes: striping.0,
        al_stripe_size_4k: striping.1,
    }
}

#[derive(Serialize)]
struct Peer {
    bitmap_uuid: String,
    #[serde(flatten)]
    v09: Option<PeerV09>,
}

#[derive(Serialize)]
struct PeerV09 {
    bitmap_dagtag: u64,
    flags: String,
    bitmap_index: i32,
    reserved_u32: [u32; 2],
}

#[derive(Serialize)]
struct OnlyV09 {
    bm_max_peers: u32,
    node_id: i32,
    members: String,
    reserved_u64: [u64; 3],
    reserved_u32: [u32; 2],
}

/// What should be zero, and where it is not.
#[derive(Serialize)]
struct Padding {
    start: usize,
    end: usize,
    #[serde(rename = "non-zero")]
    odd: BTreeMap<usize, String>,
}

#[derive(Serialize)]
struct Origin {
    dump_time_utc: String,
    dump_host: String,
    md_device_name: String,
    dump_offset: u64,
    bd_size: u64,
    dumped_as: String,
    looks_like: String,
    valid: &'static str,
}

pub(super) fn text(format: Format, shown: &Shown, device: &Device) -> Result<String, Failure> {
    let origin = origin(format, shown, device);
    let decoded = match format {
        Format::V08 => v08(&shown.block, origin),
        Format::V09 => v09(&shown.block, origin),
    };
    let mut text = serde_json::to_string_pretty(&decoded)
        .map_err(|error| Failure::new(BAD, error.to_string()))?;
    text.push('\n');
    Ok(text)
}

fn v08(block: &Block, origin: Origin) -> Decoded {
    let raw: &raw::V08 = transmute_ref!(block);
    // DRBD up to 8.3 did not store the striping.
    let striping = match (raw.al_stripes.get(), raw.al_stripe_size_4k.get()) {
        (0, 0) => (1, 8),
        striping => striping,
    };
    let first = [raw.effective_size, raw.current_uuid, raw.device_uuid];
    Decoded {
        head: head(first, &raw.common, striping),
        peers: vec![Peer {
            bitmap_uuid: uuid(raw.bitmap_uuid),
            v09: None,
        }],
        v09: None,
        history_uuids: raw.history_uuids.map(uuid).into(),
        padding: padding(block, offset_of!(raw::V08, zero)),
        origin,
    }
}

fn v09(block: &Block, origin: Origin) -> Decoded {
    let raw: &raw::V09 = transmute_ref!(block);
    let peers = raw.peers.iter().map(|peer| Peer {
        bitmap_uuid: uuid(peer.bitmap_uuid),
        v09: Some(PeerV09 {
            bitmap_dagtag: peer.bitmap_dagtag.get(),
            flags: word(peer.flags),
            bitmap_index: peer.bitmap_index.get(),
            reserved_u32: peer.reserved_u32.map(U32::get),
        }),
    });
    let first = [raw.effective_size, raw.current_uuid, raw.device_uuid];
    let striping = (raw.al_stripes.get(), raw.al_stripe_size_4k.get());
    Decoded {
        head: head(first, &raw.common, striping),
        peers: peers.collect(),
        v09: Some(OnlyV09 {
            bm_max_peers: raw.bm_max_peers.get(),
            node_id: raw.node_id.get(),
            members: uuid(raw.members),
            reserved_u64: raw.reserved_u64.map(U64::get),
            reserved_u32: raw.reserved_u32.map(U32::get),
        }),
        history_uuids: raw.history_uuids.map(uuid).into(),
        padding: padding(block, offset_of!(raw::V09, zero)),
        origin,
    }
}

fn uuid(value: U64) -> String {
    format!("0x{:016X}", value.get())
}

fn word(value: U32) -> String {
    format!("0x{:08X}", value.get())
}

fn padding(block: &Block, start: usize) -> Padding {
    let odd = block
        .iter()
        .enumerate()
        .skip(start)
        .filter(|(_, byte)| **byte != 0)
        .map(|(offset, byte)| (offset, format!("0x{byte:02X}")));
    Padding {
        start,
        end: block.len(),
        odd: odd.collect(),
    }
}

fn origin(format: Format, shown: &Shown, device: &Device) -> Origin {
    let host = rustix::system::uname();
    let now = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%SZ");
    let looks_like = shown.looks_like.map(|version| version.to_string());
    Origin {
        dump_time_utc: now.to_string(),
        dump_host: host.nodename().to_string_lossy().into_owned(),
        md_device_name: device.path.clone(),
        dump_offset: shown.offset,
        bd_size: device.size,
        dumped_as: format.to_string(),
        looks_like: looks_like.unwrap_or_else(|| "UNKNOWN".to_owned()),
        valid: match shown.validity {
            Validity::Valid => "VALID_MD_FOUND",
            Validity::AtLastKnown => "VALID_MD_FOUND_AT_LAST_KNOWN_LOCATION",
            Validity::NotValid => "NO_VALID_MD_FOUND",
        },
    }
}
