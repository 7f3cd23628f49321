//! Metadata that real kernel drivers wrote: decoded, replayed and compared with what the real tool
//! made of it (`data/disk-images`).

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod support;

use drbd_meta::activity_log::legacy::replay_pmem;
use drbd_meta::activity_log::replay::replay_area;
use drbd_meta::activity_log::{AlBlock, AlLayout, FREE, encode_initialised};
use drbd_meta::flags::LocalFlags;
use drbd_meta::geometry::{MdIndex, Placement};
use drbd_meta::superblock::{Format, Magic, Superblock};
use serde_json::Value;
use std::fs;
use std::path::Path;
use support::{block_at, sha256};

fn directory() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/disk-images")
}

fn unpack(name: &str) -> Vec<u8> {
    let packed = fs::read(directory().join(name)).unwrap();
    let mut bytes = Vec::new();
    lzma_rs::xz_decompress(&mut packed.as_slice(), &mut bytes).unwrap();
    bytes
}

fn vectors() -> Vec<Value> {
    let text = fs::read_to_string(directory().join("vectors.json")).unwrap();
    let vectors: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(vectors.len(), 16);
    vectors
}

fn number(value: &Value) -> u64 {
    match value {
        Value::String(digits) => u64::from_str_radix(digits, 16).unwrap(),
        other => other
            .as_u64()
            .unwrap_or_else(|| panic!("no number: {other}")),
    }
}

fn index(value: usize) -> u64 {
    u64::try_from(value).unwrap()
}

fn size(value: u64) -> usize {
    usize::try_from(value).unwrap()
}

struct Image {
    bytes: Vec<u8>,
    /// Byte offset of the image on the device.
    offset: u64,
    superblock: Superblock,
    geometry: drbd_meta::geometry::Geometry,
}

fn load(vector: &Value) -> Image {
    let name = vector["name"].as_str().unwrap();
    let bytes = unpack(&format!("{name}.img.xz"));
    assert_eq!(sha256(&bytes), vector["sha256"].as_str().unwrap(), "{name}");
    let offset = number(&vector["image_offset"]);
    let placement = Placement {
        index: MdIndex::Internal,
        device_size: number(&vector["device_size"]),
    };
    let at = size(placement.superblock_offset().unwrap() - offset);
    let superblock = Superblock::parse(block_at(&bytes, at), placement).unwrap();
    assert_eq!(
        superblock.encode(),
        *block_at(&bytes, at),
        "{name}: encode(decode) differs"
    );
    let geometry = superblock.geometry(placement).unwrap();
    assert_eq!(geometry.bitmap_sector() * 512, offset, "{name}");
    Image {
        bytes,
        offset,
        superblock,
        geometry,
    }
}

#[test]
fn superblocks() {
    for vector in vectors() {
        let name = &vector["name"];
        let sb = load(&vector).superblock;
        let expect = &vector["expect"]["superblock"];
        let is_v09 = sb.magic.format() == Format::V09;
        assert_eq!(if is_v09 { "v09" } else { "v08" }, vector["format"]);
        assert_eq!(
            sb.magic.number(),
            u32::try_from(number(&expect["magic"])).unwrap()
        );
        for (field, value) in [
            ("effective_size", sb.effective_size),
            ("current_uuid", sb.current_uuid),
            ("flags", sb.flags.bits().into()),
            ("md_size_sect", sb.md_size_sect.into()),
            ("al_nr_extents", sb.al_nr_extents.into()),
            ("bm_bytes_per_bit", sb.block_size.bytes().into()),
            ("la_peer_max_bio_size", sb.la_peer_max_bio_size.into()),
            ("al_stripes", sb.striping.stripes().into()),
            ("al_stripe_size_4k", sb.striping.stripe_size_4k().into()),
            ("device_uuid", sb.device_uuid),
        ] {
            assert_eq!(value, number(&expect[field]), "{name} {field}");
        }
        assert_eq!(
            i64::from(sb.al_offset),
            expect["al_offset"].as_i64().unwrap(),
            "{name}"
        );
        assert_eq!(
            i64::from(sb.bm_offset),
            expect["bm_offset"].as_i64().unwrap(),
            "{name}"
        );
        let history: Vec<u64> = expect["history"]
            .as_array()
            .unwrap()
            .iter()
            .map(number)
            .collect();
        for (i, uuid) in sb.history.iter().enumerate() {
            assert_eq!(
                *uuid,
                history.get(i).copied().unwrap_or(0),
                "{name} history {i}"
            );
        }
        if !is_v09 {
            assert_eq!(
                sb.peers[0].bitmap_uuid,
                number(&expect["bitmap_uuid"]),
                "{name}"
            );
            continue;
        }
        assert_eq!(sb.members, number(&expect["members"]), "{name}");
        assert_eq!(
            u64::from(sb.max_peers),
            number(&expect["max_peers"]),
            "{name}"
        );
        let id = |id: Option<u8>| id.map_or(-1, i64::from);
        assert_eq!(
            id(sb.node_id),
            expect["node_id"].as_i64().unwrap(),
            "{name}"
        );
        let mut seen = 0;
        for run in expect["peers"].as_array().unwrap() {
            let nodes = &run["nodes"];
            for node in number(&nodes[0])..=number(&nodes[1]) {
                let peer = &sb.peers[size(node)];
                assert_eq!(
                    peer.bitmap_uuid,
                    number(&run["bitmap_uuid"]),
                    "{name} {node}"
                );
                assert_eq!(
                    peer.bitmap_dagtag,
                    number(&run["bitmap_dagtag"]),
                    "{name} {node}"
                );
                assert_eq!(
                    u64::from(peer.flags.bits()),
                    number(&run["flags"]),
                    "{name} {node}"
                );
                assert_eq!(id(peer.bitmap_index), run["bitmap_index"].as_i64().unwrap());
                seen += 1;
            }
        }
        assert_eq!(seen, 32);
    }
}

fn al_area(image: &Image) -> &[u8] {
    let at = size(image.geometry.al_sector() * 512 - image.offset);
    &image.bytes[at..at + size(u64::from(image.geometry.striping().blocks()) * 4096)]
}

#[test]
fn activity_log_blocks() {
    for vector in vectors() {
        let name = &vector["name"];
        let image = load(&vector);
        let area = al_area(&image);
        let blocks = vector["expect"]["activity_log"].as_array().unwrap();
        assert_eq!(blocks.len() * 4096, area.len());
        for expect in blocks {
            let at = size(number(&expect["block"])) * 4096;
            let raw = block_at(area, at);
            let transaction = match AlBlock::decode(raw).unwrap() {
                AlBlock::Initialised => {
                    assert_eq!(expect["type"], "initialised", "{name} {expect}");
                    assert_eq!(*raw, encode_initialised());
                    continue;
                }
                AlBlock::Transaction(transaction) => transaction,
            };
            let header = transaction.header();
            assert_eq!(
                u64::from(header.tr_number),
                number(&expect["tr_number"]),
                "{name}"
            );
            assert_eq!(
                u64::from(transaction.crc32c()),
                number(&expect["crc"]),
                "{name}"
            );
            assert_eq!(
                u64::from(transaction.n_updates()),
                number(&expect["n_updates"])
            );
            assert_eq!(
                u64::from(header.context_size),
                number(&expect["context_size"])
            );
            assert_eq!(
                u64::from(header.context_start),
                number(&expect["context_start"])
            );
            let pairs = |value: &Value| -> Vec<(u64, u64)> {
                let pairs = value.as_array().unwrap().iter();
                pairs.map(|p| (number(&p[0]), number(&p[1]))).collect()
            };
            let updates: Vec<_> = transaction.updates().collect();
            let found: Vec<_> = updates
                .iter()
                .map(|u| (u.slot.into(), u.extent.into()))
                .collect();
            assert_eq!(found, pairs(&expect["updates"]), "{name}");
            let context: Vec<_> = transaction.context().collect();
            let held: Vec<(u64, u64)> = context
                .iter()
                .filter(|(_, extent)| *extent != FREE)
                .map(|(slot, extent)| ((*slot).into(), (*extent).into()))
                .collect();
            assert_eq!(held, pairs(&expect["context"]), "{name}");
            // Encoding the same content gives the same bytes.
            let mut again = [0; 4096];
            let extents = context.iter().map(|(_, extent)| *extent);
            header.encode(&updates, extents, &mut again).unwrap();
            assert_eq!(again, *raw, "{name} {header:?}");
        }
        assert_eq!(replay_pmem(area, 257), None);
    }
}

/// The ring's content and its place give the hot extents; marked in all slots of the bitmap, with
/// ring and superblock made clean, they give the very bytes that the real tool left.
#[test]
fn apply_al() {
    for vector in vectors() {
        let name = vector["name"].as_str().unwrap();
        let mut image = load(&vector);
        let layout = AlLayout::from(&image.geometry);
        let result = replay_area(&layout, al_area(&image)).unwrap();
        let hot: Vec<u64> = vector["expect"]["hot_extents"]
            .as_array()
            .unwrap()
            .iter()
            .map(number)
            .collect();
        let found: Vec<u64> = result.hot.iter().map(|e| u64::from(*e)).collect();
        assert_eq!(found, hot, "{name}");

        check_bitmap(&image, &vector["expect"]["bitmap"], name);
        if image.superblock.must_apply_al() {
            let bitmap = image.superblock.bitmap_layout().unwrap();
            for extent in result.hot {
                let span = bitmap.extent_span(extent).unwrap();
                for page in span.pages() {
                    let at = size(page) * 4096;
                    let block = (&mut image.bytes[at..at + 4096]).try_into().unwrap();
                    span.set_in_page(page, block);
                }
            }
        }
        check_bitmap(&image, &vector["apply_al"]["bitmap"], name);
        let al = size(image.geometry.al_sector() * 512 - image.offset);
        for block in 0..size(image.geometry.striping().blocks().into()) {
            image.bytes[al + block * 4096..][..4096].copy_from_slice(&encode_initialised());
        }
        let sb = &mut image.superblock;
        sb.flags.insert(LocalFlags::AL_CLEAN);
        if sb.magic == Magic::V08Unclean {
            sb.magic = Magic::V08;
        }
        sb.members = 0; // the tool of these vectors does not know the field
        let at = size(image.geometry.superblock_sector() * 512 - image.offset);
        image.bytes[at..at + 4096].copy_from_slice(&image.superblock.encode());
        assert_eq!(
            image.bytes,
            unpack(&format!("{name}.applied.img.xz")),
            "{name}"
        );
        assert_eq!(
            sha256(&image.bytes),
            vector["apply_al"]["sha256"].as_str().unwrap()
        );
    }
}

/// Compares the bits of each slot, ranges of set bits, padding left out.
fn check_bitmap(image: &Image, expect: &Value, name: &str) {
    let Some(layout) = image.superblock.bitmap_layout() else {
        panic!("{name}")
    };
    for slot in 0..layout.slots() {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for page in 0..layout.pages() {
            let words = layout.slot_words(page, slot).unwrap();
            let block = block_at(&image.bytes, size(page) * 4096);
            for (i, word) in words.words(block).enumerate() {
                for bit in (0..32).filter(|bit| word >> bit & 1 == 1) {
                    let bit = (words.first_word + index(i)) * 32 + bit;
                    if bit >= layout.bits() {
                        continue;
                    }
                    match ranges.last_mut() {
                        Some((_, last)) if *last + 1 == bit => *last = bit,
                        _ => ranges.push((bit, bit)),
                    }
                }
            }
        }
        let expected: Vec<(u64, u64)> = match expect.get(slot.to_string()) {
            Some(pairs) => {
                let pairs = pairs.as_array().unwrap().iter();
                // Bits behind the end of the device are padding.
                pairs
                    .map(|p| (number(&p[0]), number(&p[1]).min(layout.bits() - 1)))
                    .filter(|(first, last)| first <= last)
                    .collect()
            }
            None => Vec::new(),
        };
        assert_eq!(ranges, expected, "{name} slot {slot}");
    }
}
