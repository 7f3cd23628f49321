use super::{BitPosition, BitmapLayout, ExtentSpan};
use crate::geometry::BitmapBlockSize;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

fn layout(slots: u8, block: u32, sectors: u64) -> BitmapLayout {
    BitmapLayout::new(slots, BitmapBlockSize::new(block).unwrap(), sectors).unwrap()
}

/// Sets bits of a slot in a whole area by `locate`.
fn set(layout: &BitmapLayout, area: &mut [u8], slot: u8, bits: impl IntoIterator<Item = u64>) {
    for bit in bits {
        let BitPosition { byte, bit } = layout.locate(slot, bit).unwrap();
        area[usize::try_from(byte).unwrap()] |= 1 << bit;
    }
}

#[test]
fn interleaving_examples() {
    // Metadata, section 6.1: bits 36..=43 of slot 2 of 3.
    let l = layout(3, 4096, 131_072);
    let mut area = vec![0; usize::try_from(l.area_bytes()).unwrap()];
    set(&l, &mut area, 2, 36..=43);
    assert_eq!(area[20..24], [0xf0, 0x0f, 0, 0]);
    assert_eq!(area.iter().filter(|b| **b != 0).count(), 2);
    // Data path, section 14.2: bits 125..=130 of slot 1 of 3.
    area.fill(0);
    set(&l, &mut area, 1, 125..=130);
    assert_eq!(area[40..44], [0, 0, 0, 0xe0]);
    assert_eq!(area[52..56], [7, 0, 0, 0]);
    assert_eq!(l.locate(3, 0), None);
    assert_eq!(l.locate(0, l.bits()), None);
}

#[test]
fn sizes() {
    let l = layout(3, 4096, 131_072);
    assert_eq!(
        (l.bits(), l.words(), l.area_bytes(), l.pages()),
        (16384, 512, 8192, 2)
    );
    let l = layout(1, 4096, 1);
    assert_eq!((l.bits(), l.words(), l.area_bytes()), (1, 2, 4096));
    let l = layout(1, 4096, 0);
    assert_eq!(
        (l.bits(), l.words(), l.area_bytes(), l.pages()),
        (0, 0, 0, 0)
    );
    assert!(BitmapLayout::new(0, BitmapBlockSize::DEFAULT, 8).is_none());
    assert!(BitmapLayout::new(33, BitmapBlockSize::DEFAULT, 8).is_none());
    assert!(BitmapLayout::new(1, BitmapBlockSize::DEFAULT, u64::MAX).is_none());
}

#[test]
fn extents_of_coarse_bitmaps() {
    // Block size, slots, extent, bytes, mask (metadata, section 14, TV-15).
    for (block, slots, extent, bytes, mask) in [
        (65536, 1, 3, 24..32, u32::MAX),
        (131_072, 3, 3, 36..48, u32::MAX),
        (262_144, 1, 3, 4..8, 0xffff_0000),
        (262_144, 3, 2, 12..24, 0x0000_ffff),
        (262_144, 3, 3, 12..24, 0xffff_0000),
        (1 << 20, 1, 0, 0..4, 0xf),
        (1 << 20, 1, 5, 0..4, 0x00f0_0000),
        (1 << 20, 3, 7, 0..12, 0xf000_0000),
        (1 << 20, 3, 8, 12..24, 0xf),
    ] {
        let span = layout(slots, block, 131_072).extent_span(extent).unwrap();
        assert_eq!(span, ExtentSpan { bytes, mask }, "{block} {slots} {extent}");
    }
}

#[test]
fn the_last_extent_is_inside_and_the_next_is_not() {
    // 128 MiB, one slot: the last extent ends exactly at the end of the bitmap.
    let l = layout(1, 4096, 262_144);
    assert_eq!(l.extent_span(31).unwrap().bytes, 3968..4096);
    let error = l.extent_span(32).unwrap_err();
    assert_eq!(
        (error.extent, error.byte, error.area_bytes),
        (32, 4096, 4096)
    );
    assert!(l.extent_span(u32::MAX).is_err());
    assert!(layout(1, 4096, 0).extent_span(0).is_err());
}

fn any_layout() -> impl Strategy<Value = BitmapLayout> {
    (1u8..=32, 12u32..=20, 1u64..3_000_000)
        .prop_map(|(slots, shift, sectors)| layout(slots, 1 << shift, sectors))
}

proptest! {
    /// An extent's span covers exactly the bits of its sectors, in every slot, and no other bit.
    #[test]
    fn extent_span_equals_bit_by_bit(l in any_layout(), extent in any::<prop::sample::Index>()) {
        let per_extent = u64::from(l.block_size().bits_per_extent());
        let extents = usize::try_from(l.bits().div_ceil(per_extent)).unwrap();
        let extent = u32::try_from(extent.index(extents)).unwrap();
        let first = u64::from(extent) * per_extent;
        let mut expected = vec![0u8; usize::try_from(l.area_bytes()).unwrap()];
        for slot in 0..l.slots() {
            set(&l, &mut expected, slot, first..(first + per_extent).min(l.bits()));
        }
        let span = l.extent_span(extent).unwrap();
        let mut count = 0;
        let mut area = vec![0u8; expected.len()];
        for (number, page) in area.as_chunks_mut::<4096>().0.iter_mut().enumerate() {
            let number = u64::try_from(number).unwrap();
            let set = span.set_in_page(number, page);
            prop_assert_eq!(set != 0, span.pages().contains(&number));
            prop_assert_eq!(span.set_in_page(number, page), 0);
            count += set;
        }
        let words = (span.bytes.end - span.bytes.start) / 4;
        prop_assert_eq!(u64::from(count), words * u64::from(span.mask.count_ones()));
        prop_assert!(words <= u64::from(l.slots()) * per_extent.div_ceil(32));
        // Beyond the last meaningful bit the area may hold more ones.
        for slot in 0..l.slots() {
            for bit in 0..l.bits() {
                let p = l.locate(slot, bit).unwrap();
                let at = usize::try_from(p.byte).unwrap();
                prop_assert_eq!(area[at] >> p.bit & 1, expected[at] >> p.bit & 1);
            }
        }
    }

    /// Splitting a page into its slots and putting them together again changes nothing; the words
    /// are those that `locate_word` names.
    #[test]
    fn slots_of_a_page(l in any_layout(), seed in any::<u64>(), at in any::<prop::sample::Index>()) {
        let page_number = u64::try_from(at.index(usize::try_from(l.pages()).unwrap())).unwrap();
        let mut page = [0u8; 4096];
        let mut x = seed | 1;
        for b in &mut page {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            *b = x.to_le_bytes()[7];
        }
        let mut copy = [0u8; 4096];
        let mut total = 0;
        for slot in 0..l.slots() {
            let words = l.slot_words(page_number, slot).unwrap();
            let mut out: Vec<u32> = vec![0; words.count];
            prop_assert_eq!(words.extract(&page, &mut out), words.count);
            prop_assert_eq!(words.insert(&out, &mut copy), words.count);
            total += words.count;
            for (i, word) in (words.first_word..).zip(&out) {
                if let Some((p, offset)) = l.locate_word(slot, i) {
                    prop_assert_eq!(p, page_number);
                    prop_assert_eq!(&page[offset * 4..offset * 4 + 4], &word.to_le_bytes());
                }
            }
        }
        prop_assert_eq!(total, 1024);
        prop_assert_eq!(copy, page);
        prop_assert_eq!(l.slot_words(l.pages(), 0), None);
    }
}
