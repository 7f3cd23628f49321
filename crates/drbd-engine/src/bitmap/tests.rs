use alloc::vec;

use drbd_meta::bitmap::BitmapLayout;
use drbd_meta::geometry::BitmapBlockSize;
use proptest::prelude::*;

use super::wire::BeyondEnd;
use super::*;

const S0: Slot = Slot(0);

fn bits(range: Option<RangeInclusive<BitNr>>) -> Option<(u64, u64)> {
    range.map(|r| (r.start().0, r.end().0))
}

#[test]
fn rounding_examples() {
    // Data path, section 14.2.
    let b = Bitmap::new(2_096_888, 4096, 1).unwrap();
    let both = |s, n: u32| {
        (
            bits(b.touched(Sector(s), n * 512)),
            bits(b.covered(Sector(s), n * 512)),
        )
    };
    assert_eq!(both(1003, 40), (Some((125, 130)), Some((126, 129))));
    assert_eq!(both(1000, 8), (Some((125, 125)), Some((125, 125))));
    assert_eq!(both(1004, 8), (Some((125, 126)), None));
    assert_eq!(both(8, 1), (Some((1, 1)), None));
    assert_eq!(
        both(2_096_880, 8),
        (Some((262_110, 262_110)), Some((262_110, 262_110)))
    );

    let b = Bitmap::new(1001, 4096, 1).unwrap();
    assert_eq!(bits(b.touched(Sector(992), 9 * 512)), Some((124, 125)));
    assert_eq!(bits(b.covered(Sector(992), 9 * 512)), Some((124, 125)));
    assert_eq!(
        b.sectors(&(BitNr(125)..=BitNr(125))),
        Sector(1000)..Sector(1001)
    );

    let b = Bitmap::new(1 << 20, 65536, 1).unwrap();
    assert_eq!(bits(b.touched(Sector(1003), 40 * 512)), Some((7, 8)));
    assert_eq!(bits(b.covered(Sector(1003), 40 * 512)), None);
}

#[test]
fn layout_on_disk() {
    // Data path, section 14.2: bits 125..130 of slot 1 with three slots.
    let mut b = Bitmap::new(2_096_888, 4096, 3).unwrap();
    assert_eq!(b.set(Slot(1), Sector(1003), 40 * 512), 6);
    let page = b.take(PageNr(0)).unwrap();
    assert_eq!(page[40..44], [0, 0, 0, 0xe0]);
    assert_eq!(page[52..56], [7, 0, 0, 0]);
    assert_eq!(page.iter().map(|b| b.count_ones()).sum::<u32>(), 6);
    // Metadata, section 6.1: bits 36..43 of slot 2.
    let mut b = Bitmap::new(2_096_888, 4096, 3).unwrap();
    b.set_bits(Slot(2), BitNr(36)..=BitNr(43));
    assert_eq!(b.page(PageNr(0))[20..24], [0xf0, 0x0f, 0, 0]);
    assert_eq!(
        (b.wire_word(Slot(2), 0), b.wire_word(Slot(0), 0)),
        (0xff0_0000_0000, 0)
    );
}

#[test]
fn layout_as_the_metadata_says() {
    for (slots, shift) in [(1, 12), (3, 12), (7, 16), (32, 20)] {
        let sectors = 5_000_001;
        let block = BitmapBlockSize::new(1 << shift).unwrap();
        let layout = BitmapLayout::new(slots, block, sectors).unwrap();
        let mut b = Bitmap::new(sectors, block.bytes(), slots).unwrap();
        assert_eq!((b.bits(), b.pages()), (layout.bits(), layout.pages()));
        for slot in b.all_slots() {
            for bit in [0, 1, 31, 32, 33, 64, 1000, b.bits() - 1] {
                b.set_bits(slot, BitNr(bit)..=BitNr(bit));
                let at = layout.locate(slot.0, bit).unwrap();
                let page = b.page(PageNr(at.byte / 4096));
                assert_eq!(page[(at.byte % 4096) as usize] >> at.bit & 1, 1);
            }
        }
    }
}

#[test]
fn pages_of_extents() {
    // Three slots, 4 KiB blocks: an extent is 32 rows of 3 words, 384 bytes.
    let b = Bitmap::new(1 << 24, 4096, 3).unwrap();
    let pages = |e| {
        b.pages_of_extent(ExtentNr(e))
            .map(|p| p.0)
            .collect::<Vec<_>>()
    };
    assert_eq!(pages(0), [0]);
    assert_eq!(pages(10), [0, 1], "bytes 3840 to 4223");
    assert_eq!(
        pages(100),
        [9],
        "bytes 38400 to 38783, data path, section 13.7"
    );
    assert_eq!(pages(2047), [191]);
    assert_eq!(pages(2048), [], "beyond the device");
    assert_eq!(b.pages(), 192);
    // 1 MiB blocks: an extent is a nibble.
    let b = Bitmap::new(1 << 24, 1 << 20, 3).unwrap();
    assert_eq!(bits(b.bits_of_extent(ExtentNr(7))), Some((28, 31)));
    assert_eq!(
        b.pages_of_extent(ExtentNr(7)).collect::<Vec<_>>(),
        [PageNr(0)]
    );
}

#[test]
fn marks() {
    let mut b = Bitmap::new(1 << 24, 4096, 1).unwrap();
    assert!(b.is_clean());
    b.set_bits(S0, BitNr(40_000)..=BitNr(40_001));
    b.set_bits(S0, BitNr(40_000)..=BitNr(40_001));
    let marked = |b: &Bitmap, m| b.marked(m).map(|p| p.0).collect::<Vec<_>>();
    assert_eq!(marked(&b, None), [1]);
    assert_eq!(marked(&b, Some(Mark::Lazy)), []);
    assert!(b.take(PageNr(0)).is_none());
    let page = b.take(PageNr(1)).unwrap();
    assert_eq!(page[(40_000 - 32_768) / 8], 3);
    assert!(b.is_clean() && b.take(PageNr(1)).is_none());
    b.clear_bits(S0, BitNr(0)..=BitNr(39_999));
    assert!(b.is_clean(), "nothing was set there");
    b.clear_bits(S0, BitNr(40_000)..=BitNr(40_000));
    assert_eq!(marked(&b, Some(Mark::Lazy)), [1]);
    assert_eq!(marked(&b, Some(Mark::Need)), []);
    b.take(PageNr(1)).unwrap();
    b.mark(PageNr(1));
    b.mark(PageNr(99));
    assert_eq!(marked(&b, Some(Mark::Need)), [1]);
    b.mark_all();
    assert_eq!(marked(&b, None).len() as u64, b.pages());
    b.resize(1 << 20, Fill::Clear).unwrap();
    assert_eq!(marked(&b, None).len() as u64, b.pages());
    b.unmark_all();
    assert!(b.is_clean());
}

#[test]
fn wire_of_coarse_blocks() {
    // 64 KiB blocks: 16 wire bits each. 1001 sectors: 126 wire bits, 8 of ours.
    let mut b = Bitmap::new(1001, 65536, 2).unwrap();
    assert_eq!((b.bits(), b.wire_bits(), b.wire_words()), (8, 126, 2));
    b.set_bits(S0, BitNr(1)..=BitNr(1));
    b.set_bits(S0, BitNr(7)..=BitNr(7));
    assert_eq!(b.wire_word(S0, 0), 0xffff_0000);
    assert_eq!(b.wire_word(S0, 1), 0x3fff_0000_0000_0000, "padding is zero");
    let runs: Vec<_> = b.wire_runs(S0, 0).map(|r| (r.set, r.len)).collect();
    assert_eq!(runs, [(false, 16), (true, 16), (false, 80), (true, 14)]);
    assert_eq!(b.wire_run(S0, 126), None);

    let s1 = Slot(1);
    assert_eq!(b.merge_run(s1, 47, 2), Ok(2));
    assert!(b.is_set(s1, BitNr(2)) && b.is_set(s1, BitNr(3)) && b.weight(s1) == 2);
    assert_eq!(b.merge_run(s1, 125, 2), Err(BeyondEnd(126)));
    assert_eq!(b.merge_run(s1, u64::MAX, 2), Err(BeyondEnd(126)));
    assert_eq!(
        b.merge_words(s1, 1, [0, 0].into_iter()),
        Err(BeyondEnd(126))
    );
    assert_eq!(
        b.merge_words(s1, 1, [0xc000_0000_0000_0000].into_iter()),
        Ok(0),
        "padding"
    );
    assert_eq!(
        b.merge_words(s1, 1, [0x8000_0000_0000_0001].into_iter()),
        Ok(1)
    );
}

#[test]
fn made_with_care() {
    assert_eq!(Bitmap::new(8, 4096, 0).err(), Some(BitmapError::Slots(0)));
    assert_eq!(Bitmap::new(8, 4096, 33).err(), Some(BitmapError::Slots(33)));
    assert_eq!(
        Bitmap::new(8, 512, 1).err(),
        Some(BitmapError::BlockSize(512))
    );
    assert_eq!(
        Bitmap::new(8, 12288, 1).err(),
        Some(BitmapError::BlockSize(12288))
    );
    assert!(matches!(
        Bitmap::new(u64::MAX, 4096, 32),
        Err(BitmapError::Memory(_))
    ));
    let mut b = Bitmap::new(0, 4096, 1).unwrap();
    assert_eq!(
        (b.bits(), b.set_all(S0), b.next_set(S0, BitNr(0))),
        (0, 0, None)
    );
    assert!(b.resize(u64::MAX, Fill::Set).is_err());
    assert_eq!((b.bits(), b.capacity()), (0, 0));
}

#[test]
fn growth_of_a_partial_block() {
    let mut b = Bitmap::new(1001, 4096, 1).unwrap();
    b.resize(2000, Fill::Set).unwrap();
    assert_eq!(
        b.next_set(S0, BitNr(0)),
        Some(BitNr(125)),
        "sectors 1001 to 1007 are new"
    );
    assert_eq!(b.weight(S0), 250 - 125);
    b.resize(1001, Fill::Set).unwrap();
    b.resize(2000, Fill::Clear).unwrap();
    assert_eq!(b.weight(S0), 1);
}

/// The same with one `bool` per bit.
struct Model {
    slots: Vec<Vec<bool>>,
    spb: u64,
    capacity: u64,
}

impl Model {
    fn bits(&self) -> u64 {
        self.capacity.div_ceil(self.spb)
    }

    fn block(&self, bit: u64) -> Range<u64> {
        bit * self.spb..((bit + 1) * self.spb).min(self.capacity)
    }
}

#[derive(Clone, Debug)]
enum Op {
    Set(u8, u64, u32),
    SetInAll(u64, u32),
    Clear(u8, u64, u32),
    SetAll(u8),
    ClearAll(u8),
    Copy(u8, u8),
    Resize(u64, bool),
    MergeRun(u8, u64, u64),
    MergeWord(u8, u64, u64),
    Take(u64),
    Reload(u64),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let slot = any::<u8>;
    let sector = 0u64..6000;
    let len = (0u32..1500).prop_map(|n| n * 512);
    let op = prop_oneof![
        8 => (slot(), sector.clone(), len.clone()).prop_map(|(s, a, n)| Op::Set(s, a, n)),
        2 => (sector.clone(), len.clone()).prop_map(|(a, n)| Op::SetInAll(a, n)),
        8 => (slot(), sector.clone(), len).prop_map(|(s, a, n)| Op::Clear(s, a, n)),
        1 => slot().prop_map(Op::SetAll),
        1 => slot().prop_map(Op::ClearAll),
        1 => (slot(), slot()).prop_map(|(a, b)| Op::Copy(a, b)),
        1 => (1..6000u64, any::<bool>()).prop_map(|(c, f)| Op::Resize(c, f)),
        2 => (slot(), 0..700u64, 0..200u64).prop_map(|(s, f, n)| Op::MergeRun(s, f, n)),
        2 => (slot(), 0..10u64, any::<u64>()).prop_map(|(s, i, w)| Op::MergeWord(s, i, w)),
        1 => (0..4u64).prop_map(Op::Take),
        1 => (0..4u64).prop_map(Op::Reload),
    ];
    prop::collection::vec(op, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn like_the_model(
        slots in 1u8..=32,
        shift in 0u32..=8,
        capacity in 1u64..6000,
        probe in 0u64..6000,
        ops in ops(),
    ) {
        let spb = 8u64 << shift;
        let mut b = Bitmap::new(capacity, 4096 << shift, slots).unwrap();
        let bits = capacity.div_ceil(spb) as usize;
        let mut m = Model { slots: vec![vec![false; bits]; usize::from(slots)], spb, capacity };
        // What the disk would hold, page by page.
        let mut disk = vec![[0u8; PAGE_BYTES]; 64];
        for op in ops {
            let pick = |s: u8| (Slot(s % slots), usize::from(s % slots));
            match op {
                Op::Set(s, at, len) => {
                    let (slot, i) = pick(s);
                    let end = at + u64::from(len) / 512;
                    let mut changed = 0;
                    for bit in 0..m.bits() {
                        let block = m.block(bit);
                        if len > 0 && block.start < end && at < block.end && !m.slots[i][bit as usize] {
                            m.slots[i][bit as usize] = true;
                            changed += 1;
                        }
                    }
                    prop_assert_eq!(b.set(slot, Sector(at), len), changed);
                }
                Op::SetInAll(at, len) => {
                    let end = at + u64::from(len) / 512;
                    for bit in 0..m.bits() {
                        let block = m.block(bit);
                        if len > 0 && block.start < end && at < block.end {
                            m.slots.iter_mut().for_each(|s| s[bit as usize] = true);
                        }
                    }
                    b.set_in_all(Sector(at), len);
                }
                Op::Clear(s, at, len) => {
                    let (slot, i) = pick(s);
                    let end = at + u64::from(len) / 512;
                    let mut changed = 0;
                    for bit in 0..m.bits() {
                        let block = m.block(bit);
                        if at <= block.start && block.end <= end && m.slots[i][bit as usize] {
                            m.slots[i][bit as usize] = false;
                            changed += 1;
                        }
                    }
                    prop_assert_eq!(b.clear(slot, Sector(at), len), changed);
                }
                Op::SetAll(s) => {
                    let (slot, i) = pick(s);
                    b.set_all(slot);
                    m.slots[i].fill(true);
                }
                Op::ClearAll(s) => {
                    let (slot, i) = pick(s);
                    b.clear_all(slot);
                    m.slots[i].fill(false);
                }
                Op::Copy(from, to) => {
                    b.copy(pick(from).0, pick(to).0);
                    m.slots[pick(to).1] = m.slots[pick(from).1].clone();
                }
                Op::Resize(capacity, set) => {
                    b.resize(capacity, if set { Fill::Set } else { Fill::Clear }).unwrap();
                    let old = m.capacity;
                    m.capacity = capacity;
                    let bits = m.bits() as usize;
                    for s in &mut m.slots {
                        s.resize(bits, false);
                        if set && old < capacity {
                            s[(old / spb) as usize..].fill(true);
                        }
                    }
                }
                Op::MergeRun(s, first, len) => {
                    let (slot, i) = pick(s);
                    let fits = first + len <= b.wire_bits();
                    prop_assert_eq!(b.merge_run(slot, first, len).is_ok(), fits);
                    if fits {
                        (first..first + len).for_each(|w| m.slots[i][(w >> shift) as usize] = true);
                    }
                }
                Op::MergeWord(s, index, word) => {
                    let (slot, i) = pick(s);
                    let merged = b.merge_words(slot, index, [word].into_iter());
                    prop_assert_eq!(merged.is_ok(), index < b.wire_words());
                    for w in (0..64).filter(|w| word >> w & 1 == 1).map(|w| index * 64 + w) {
                        if w < b.wire_bits() {
                            m.slots[i][(w >> shift) as usize] = true;
                        }
                    }
                }
                Op::Take(page) => {
                    if let Some(content) = b.take(PageNr(page)) {
                        disk[page as usize] = *content;
                    }
                }
                Op::Reload(page) => {
                    // Garbage in the padding must not come in.
                    let mut bytes = *b.page(PageNr(page));
                    let words = b.words_of_page(page);
                    for (i, byte) in bytes.iter_mut().enumerate() {
                        *byte |= !(words.get(i / 4).copied().unwrap_or(0).to_le_bytes()[i % 4]);
                    }
                    b.load(PageNr(page), &bytes);
                }
            }
            // Pages without a mark are on the disk.
            let marked: Vec<_> = b.marked(None).collect();
            for page in (0..b.pages()).filter(|&p| !marked.contains(&PageNr(p))) {
                prop_assert_eq!(&*b.page(PageNr(page)), &disk[page as usize]);
            }
            for (i, model) in m.slots.iter().enumerate() {
                let slot = Slot(i as u8);
                prop_assert_eq!(b.bits(), model.len() as u64);
                prop_assert_eq!(b.weight(slot), model.iter().filter(|&&x| x).count() as u64);
            }
        }
        for (i, model) in m.slots.iter().enumerate() {
            let slot = Slot(i as u8);
            for (bit, &set) in model.iter().enumerate() {
                prop_assert_eq!(b.is_set(slot, BitNr(bit as u64)), set);
            }
            let from = |x: bool| model.iter().enumerate().position(|(n, &s)| s == x && n as u64 >= probe);
            prop_assert_eq!(b.next_set(slot, BitNr(probe)), from(true).map(|n| BitNr(n as u64)));
            prop_assert_eq!(b.next_clear(slot, BitNr(probe)), from(false).map(|n| BitNr(n as u64)));
            let touched = model.iter().skip((probe / spb) as usize).take(
                if probe < m.capacity { ((probe + 19) / spb - probe / spb + 1) as usize } else { 0 });
            let count = touched.filter(|&&x| x).count() as u64;
            prop_assert_eq!(b.count(slot, Sector(probe), 20 * 512), count);
            prop_assert_eq!(b.any(slot, Sector(probe), 20 * 512), count > 0);
            // The wire, word by word and run by run, merges into an equal slot.
            let wire: Vec<bool> = b.wire_runs(slot, 0)
                .flat_map(|r| core::iter::repeat_n(r.set, r.len as usize)).collect();
            prop_assert_eq!(wire.len() as u64, b.wire_bits());
            for (w, &set) in wire.iter().enumerate() {
                prop_assert_eq!(set, model[w >> shift]);
                prop_assert_eq!(b.wire_word(slot, w as u64 / 64) >> (w % 64) & 1 == 1, set);
            }
            let words: Vec<u64> = (0..b.wire_words()).map(|n| b.wire_word(slot, n)).collect();
            prop_assert!(wire.len().is_multiple_of(64) || words[words.len() - 1] >> (wire.len() % 64) == 0);
            let mut copy = Bitmap::new(m.capacity, 4096 << shift, 1).unwrap();
            copy.merge_words(S0, 0, words.into_iter()).unwrap();
            prop_assert!((0..b.bits()).all(|n| copy.is_set(S0, BitNr(n)) == model[n as usize]));
        }
        // Reading back what the pages hold gives the same bitmap.
        let mut other = Bitmap::new(m.capacity, 4096 << shift, slots).unwrap();
        for page in 0..b.pages() {
            other.load(PageNr(page), &b.page(PageNr(page)));
        }
        prop_assert_eq!(&other.words, &b.words);
        prop_assert_eq!(other.weights, b.weights);
    }
}

impl Bitmap {
    /// The masks of valid bits of the words of a page.
    fn words_of_page(&self, page: u64) -> Vec<u32> {
        let start = page as usize * 1024;
        (start..(start + 1024).min(self.words.len()))
            .map(|i| self.valid(i))
            .collect()
    }
}

#[test]
fn merging_a_slot_keeps_what_is_set() {
    let mut bitmap = Bitmap::new(8 * 200, 4096, 3).unwrap();
    bitmap.set_bits(Slot(0), BitNr(3)..=BitNr(70));
    bitmap.set_bits(Slot(0), BitNr(199)..=BitNr(199));
    bitmap.set_bits(Slot(2), BitNr(60)..=BitNr(80));
    bitmap.merge_slot(Slot(0), Slot(2));
    assert_eq!(bitmap.weight(Slot(2)), 79);
    assert_eq!(bitmap.count_bits(Slot(2), BitNr(3)..=BitNr(80)), 78);
    assert!(bitmap.is_set(Slot(2), BitNr(199)));
    assert_eq!(bitmap.weight(Slot(0)), 69);
    assert_eq!(bitmap.weight(Slot(1)), 0);
}
