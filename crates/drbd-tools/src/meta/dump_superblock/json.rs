//! The superblock decoded, field by field, as JSON (metadata, section 10.4). Every byte is shown as
//! it is, also where no valid metadata could have it.

use super::{Shown, Validity};
use crate::meta::device::Device;
use crate::meta::failure::{BAD, Failure};
use drbd_meta::Block;
use drbd_meta::limits::{HISTORY_UUIDS, MAX_NODES};
use drbd_meta::superblock::Format;
use serde::Serialize;
use std::collections::BTreeMap;

/// Reads fields one after the other.
struct Fields<'a> {
    block: &'a Block,
    at: usize,
}

impl Fields<'_> {
    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let rest = self.block.get(self.at..).unwrap_or_default();
        self.at = self.at.saturating_add(N);
        rest.first_chunk::<N>().copied().unwrap_or([0; N])
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.bytes())
    }

    fn i32(&mut self) -> i32 {
        i32::from_be_bytes(self.bytes())
    }

    fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.bytes())
    }

    fn uuid(&mut self) -> String {
        format!("0x{:016X}", self.u64())
    }

    fn flags(&mut self) -> String {
        format!("0x{:08X}", self.u32())
    }

    fn uuids(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.uuid()).collect()
    }
}

/// The order of the fields is that of the output.
#[derive(Serialize)]
struct Decoded {
    effective_size: u64,
    current_uuid: String,
    device_uuid: String,
    #[serde(flatten)]
    sizes: Sizes,
    al_stripes: u32,
    al_stripe_size_4k: u32,
    peers: Vec<Peer>,
    #[serde(flatten)]
    v09: Option<OnlyV09>,
    history_uuids: Vec<String>,
    padding: Padding,
    #[serde(rename = "#meta")]
    origin: Origin,
}

/// The fields from byte 56 on, which both layouts have in the same places.
#[derive(Serialize)]
struct Sizes {
    flags: String,
    magic: String,
    md_size_sect: u32,
    al_offset: i32,
    al_nr_extents: u32,
    bm_offset: i32,
    bm_bytes_per_bit: u32,
    la_peer_max_bio_size: u32,
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
    let mut f = Fields { block, at: 0 };
    let effective_size = f.u64();
    let current_uuid = f.uuid();
    let bitmap_uuid = f.uuid();
    let history_uuids = f.uuids(2);
    let device_uuid = f.uuid();
    f.u64();
    let sizes = sizes(&mut f);
    // DRBD up to 8.3 did not store the striping.
    let (al_stripes, al_stripe_size_4k) = match (f.u32(), f.u32()) {
        (0, 0) => (1, 8),
        striping => striping,
    };
    Decoded {
        effective_size,
        current_uuid,
        device_uuid,
        sizes,
        al_stripes,
        al_stripe_size_4k,
        peers: vec![Peer {
            bitmap_uuid,
            v09: None,
        }],
        v09: None,
        history_uuids,
        padding: padding(block, 100),
        origin,
    }
}

fn v09(block: &Block, origin: Origin) -> Decoded {
    let mut f = Fields { block, at: 0 };
    let effective_size = f.u64();
    let current_uuid = f.uuid();
    let members = f.uuid();
    let reserved_u64 = [f.u64(), f.u64(), f.u64()];
    let device_uuid = f.uuid();
    let sizes = sizes(&mut f);
    let (bm_max_peers, node_id) = (f.u32(), f.i32());
    let (al_stripes, al_stripe_size_4k) = (f.u32(), f.u32());
    let reserved_u32 = [f.u32(), f.u32()];
    let peers = (0..MAX_NODES).map(|_| Peer {
        bitmap_uuid: f.uuid(),
        v09: Some(PeerV09 {
            bitmap_dagtag: f.u64(),
            flags: f.flags(),
            bitmap_index: f.i32(),
            reserved_u32: [f.u32(), f.u32()],
        }),
    });
    let peers = peers.collect();
    Decoded {
        effective_size,
        current_uuid,
        device_uuid,
        sizes,
        al_stripes,
        al_stripe_size_4k,
        peers,
        v09: Some(OnlyV09 {
            bm_max_peers,
            node_id,
            members,
            reserved_u64,
            reserved_u32,
        }),
        history_uuids: f.uuids(HISTORY_UUIDS),
        padding: padding(block, 1392),
        origin,
    }
}

fn sizes(f: &mut Fields<'_>) -> Sizes {
    Sizes {
        flags: f.flags(),
        magic: f.flags(),
        md_size_sect: f.u32(),
        al_offset: f.i32(),
        al_nr_extents: f.u32(),
        bm_offset: f.i32(),
        bm_bytes_per_bit: f.u32(),
        la_peer_max_bio_size: f.u32(),
    }
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
