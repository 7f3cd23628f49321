//! Superblocks of any content at any place: parsing may fail but not panic, and what parses is
//! written back to what parses as the same. The input patches a valid block of each version, so
//! that the checks behind the magic number are reached.
#![no_main]

use drbd_meta::geometry::{AlStriping, BitmapBlockSize, Geometry, MdIndex, Placement};
use drbd_meta::superblock::{AttachRequest, Format, Superblock, V07Superblock};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: (u8, u64, u8, u8, Vec<(u16, u32)>)| {
    let (index, device_size, base, node_id, patches) = data;
    let index = match index {
        0..=99 => MdIndex::Internal,
        100..=149 => MdIndex::FlexExternal,
        150..=169 => MdIndex::FixedInternal,
        i => MdIndex::Indexed(i - 170),
    };
    let placement = Placement { index, device_size };
    let slots = base % 31 + 1;
    let layout = Geometry::new(placement, slots, BitmapBlockSize::DEFAULT, AlStriping::DEFAULT);
    let mut block = match (layout, base >> 6) {
        (Ok(layout), 0) => Superblock::create(Format::V09, &layout).encode(),
        (Ok(layout), 1) => Superblock::create(Format::V08, &layout).encode(),
        (Ok(_), 2) => V07Superblock::create(placement).map_or([0; 4096], |v07| v07.encode()),
        _ => [0; 4096],
    };
    for (at, value) in patches {
        let at = usize::from(at) % 4093;
        block[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }

    if let Ok(v07) = V07Superblock::parse(&block, placement) {
        assert_eq!(V07Superblock::parse(&v07.encode(), placement), Ok(v07));
    }
    let Ok(superblock) = Superblock::decode(&block) else { return };
    assert_eq!(Superblock::decode(&superblock.encode()).as_ref(), Ok(&superblock));
    let request = AttachRequest { placement, node_id, drbd8_compat: true };
    let _ = superblock.check_attach(&request);
    let _ = superblock.to_format(Format::V08);
    let _ = superblock.to_format(Format::V09);
    if let Ok(geometry) = superblock.geometry(placement) {
        assert!(geometry.first_sector() < device_size.div_ceil(512));
        assert!(geometry.attach_limit(u64::MAX) <= geometry.usable_sectors());
    }
    if let Some(bitmap) = superblock.bitmap_layout() {
        for extent in [0, 1, node_id.into(), u32::MAX - 1] {
            if let Ok(span) = bitmap.extent_span(extent) {
                assert!(span.bytes.end <= bitmap.area_bytes());
            }
        }
    }
});
