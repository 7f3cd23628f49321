use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

const S: Slot = Slot(0);

fn bitmap(set: &[RangeInclusive<u64>]) -> Bitmap {
    let mut bitmap = Bitmap::new(8 * 100_000, 4096, 1).unwrap();
    for bits in set {
        bitmap.set_bits(S, BitNr(*bits.start())..=BitNr(*bits.end()));
    }
    bitmap
}

/// Sizes in KiB of the requests of a turn of n bits, and where it stopped.
fn turn(bitmap: &Bitmap, cursor: u64, n: u64, thin: Option<u32>) -> (Vec<u32>, u64) {
    let mut requests = Requests::new(bitmap, S, BitNr(cursor), n * 8, 4096, thin);
    let sizes = requests.by_ref().map(|r| r.len / 1024).collect();
    (sizes, requests.cursor().0)
}

#[test]
fn examples() {
    // Data path, section 15.2.
    let b = bitmap(&[3..=5000]);
    assert_eq!(
        turn(&b, 0, 301, None),
        (vec![4, 16, 32, 64, 128, 256, 512], 256)
    );
    assert_eq!(turn(&b, 256, 2048, None), (vec![1024; 8], 256 + 2048));
    assert_eq!(turn(&b, 0, 40, Some(65536)), (vec![4, 16, 32, 64], 32));
    let thin: Vec<_> = Requests::new(&b, S, BitNr(0), 40 * 8, 4096, Some(65536))
        .map(|r| r.thin)
        .collect();
    assert_eq!(thin, [false, false, false, true]);

    let b = bitmap(&[10..=11, 20..=24, 40..=40]);
    assert_eq!(turn(&b, 0, 301, None), (vec![8, 16, 4, 4], 100_000));
}

#[test]
fn as_seen_on_real_nodes() {
    let b = bitmap(&[3..=4, 10..=11, 20..=24, 40..=40, 1024..=5000]);
    assert_eq!(turn(&b, 0, 30, None), (vec![4, 4, 8, 16, 4, 4, 64], 1040));
    assert_eq!(turn(&b, 1040, 30, None), (vec![64], 1056));
    assert_eq!(turn(&b, 1056, 30, None), (vec![128], 1088));
    assert_eq!(turn(&bitmap(&[100..=102]), 0, 301, None).0, [12]);
    // Only what continues the previous request is left for the next turn.
    assert_eq!(turn(&bitmap(&[16..=31, 40..=40]), 0, 20, None).0, [64, 4]);
    let all = bitmap(&[0..=99_999]);
    assert_eq!(turn(&all, 0, 6, None), (vec![32], 8));
    assert_eq!(turn(&all, 8, 504, None).0, [32, 64, 128, 256, 512, 1024]);
}

#[test]
fn nearest() {
    let nearest = [1, 2, 3, 5, 6, 20, 30, 48, 297].map(nearest_power_of_two);
    assert_eq!(nearest, [1, 2, 4, 4, 8, 16, 32, 64, 256]);
    assert_eq!(nearest_power_of_two(u64::MAX), 1 << 63);
}

#[test]
fn end_of_the_device_and_large_blocks() {
    let mut b = Bitmap::new(1001, 4096, 1).unwrap();
    b.set_all(S);
    let last = Requests::new(&b, S, BitNr(124), 800, 4096, None).collect::<Vec<_>>();
    let lens: Vec<_> = last.iter().map(|r| (r.sector.0, r.len)).collect();
    assert_eq!(lens, [(992, 9 * 512)], "124 and the partial block 125");

    // The peer has 64 KiB blocks: 16 bits at a time.
    let b = bitmap(&[3..=3, 40..=40, 50..=50, 1000..=1000]);
    let requests: Vec<_> = Requests::new(&b, S, BitNr(0), 3000, 65536, None)
        .map(|r| (r.bits.start().0, r.len / 1024))
        .collect();
    assert_eq!(requests, [(0, 64), (32, 128), (992, 64)]);
    // Ours are larger: nothing special.
    let mut b = Bitmap::new(1 << 20, 1 << 20, 1).unwrap();
    b.set_all(S);
    let requests: Vec<_> = Requests::new(&b, S, BitNr(0), 1, 4096, None)
        .map(|r| r.len)
        .collect();
    assert_eq!(requests, [1 << 20]);
}

proptest! {
    /// Pass after pass of turns: every set bit is asked for once, in order, with legal requests.
    #[test]
    fn covers_every_bit_once(
        set in prop::collection::vec((0u64..3000, 1u64..600), 0..12),
        capacity in 1u64..24_000,
        shift in 0u32..=8,
        peer_shift in 0u32..=8,
        budgets in prop::collection::vec(1u64..20_000, 1..20),
        thin in prop::option::of(12u32..=20),
    ) {
        let block = 4096 << shift;
        let mut b = Bitmap::new(capacity, block, 1).unwrap();
        for (first, len) in set {
            b.set_bits(S, BitNr(first)..=BitNr(first + len - 1));
        }
        let larger = u64::from(block.max(4096 << peer_shift)) / 512;
        let mut cursor = BitNr(0);
        let mut asked = Bitmap::new(capacity, block, 1).unwrap();
        let mut end = 0;
        let mut budgets = budgets.into_iter().cycle();
        while b.next_set(S, cursor).is_some() {
            let before = cursor;
            let n = budgets.next().unwrap().next_multiple_of(larger);
            let mut requests = Requests::new(&b, S, cursor, n, 4096 << peer_shift, thin.map(|t| 1 << t));
            for r in requests.by_ref() {
                prop_assert!(r.sector.0 >= end, "in order");
                prop_assert!(r.sector.0.is_multiple_of(larger));
                end = r.sector.0 + u64::from(r.len) / 512;
                prop_assert!(end.is_multiple_of(larger) || end == capacity);
                prop_assert!((1..=MAX_REQUEST).contains(&r.len) && end <= capacity);
                prop_assert!(b.any_bits(S, r.bits.clone()));
                asked.set_bits(S, r.bits);
            }
            cursor = requests.cursor();
            prop_assert!(cursor > before, "no turn without progress");
        }
        for bit in 0..b.bits() {
            prop_assert!(!b.is_set(S, BitNr(bit)) || asked.is_set(S, BitNr(bit)));
        }
    }
}
