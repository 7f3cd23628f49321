use super::*;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

fn compress(first_set: bool, runs: &[u64]) -> CompressedBitmap {
    let mut encoder = RunEncoder::new(first_set, 4079);
    for run in runs {
        assert!(encoder.push(*run));
    }
    assert_eq!(encoder.covered(), runs.iter().sum::<u64>());
    encoder.finish().unwrap()
}

/// Wire protocol, section 19.5.
#[test]
fn levels() {
    let table = [
        (1, 2, 2),
        (3, 4, 3),
        (5, 8, 5),
        (9, 16, 7),
        (17, 48, 10),
        (49, 304, 14),
        (305, 0x2130, 21),
        (8497, 0x20_2130, 29),
        (2_105_649, 0x4_0020_2130, 42),
        (17_181_974_833, 0x0100_0004_0020_2130, 64),
    ];
    for (smallest, largest, bits) in table {
        for run in [smallest, largest] {
            let (code, len) = encode_run(run).unwrap();
            assert_eq!(len, bits);
            assert_eq!(decode_run(code, bits), Some((run, bits)));
            assert_eq!(decode_run(code, bits - 1), None);
        }
    }
    assert_eq!(MAX_RUN, 0x0100_0004_0020_2130);
    assert_eq!(encode_run(0), None);
    assert_eq!(encode_run(MAX_RUN + 1), None);
}

/// Wire protocol, section 19.7.
#[test]
fn examples() {
    let table: [(&[u64], bool, &[u8], u8); 12] = [
        (&[1], false, &[0x00], 6),
        (&[2], false, &[0x02], 6),
        (&[3], false, &[0x01], 5),
        (&[5], false, &[0x03], 3),
        (&[9], false, &[0x07], 1),
        (&[17], false, &[0x0f, 0x00], 6),
        (&[49], false, &[0x1f, 0x00], 2),
        (&[305], false, &[0x3f, 0x00, 0x00], 3),
        (&[1, 1, 1, 1], false, &[0x00], 0),
        (&[3, 64, 5], false, &[0xf9, 0x1e, 0x06], 2),
        (&[262_144], true, &[0x7f, 0xcf, 0xde, 0x03], 3),
        (
            &[100, 8, 262_036],
            false,
            &[0xdf, 0xcc, 0xfe, 0x1b, 0xf3, 0x1e],
            0,
        ),
    ];
    for (runs, first_set, code, pad_bits) in table {
        let packet = compress(first_set, runs);
        assert_eq!(
            packet,
            CompressedBitmap {
                first_set,
                pad_bits,
                code: code.to_vec()
            }
        );
        let total = runs.iter().sum();
        let mut decoder = packet.runs(0, total);
        let lens: Vec<u64> = decoder.by_ref().map(|run| run.unwrap().len).collect();
        assert_eq!(lens, runs);
        assert_eq!(decoder.position(), total);
    }
}

#[test]
fn set_bits_beyond_the_device_are_an_error_clear_ones_are_not() {
    let packet = compress(false, &[10, 6, 100]);
    let runs: Vec<_> = packet.runs(4, 20).collect();
    assert_eq!(runs.len(), 3);
    assert_eq!(
        runs[1],
        Ok(Run {
            start: 14,
            len: 6,
            set: true
        })
    );
    assert_eq!(
        packet.runs(5, 20).nth(1),
        Some(Err(RunError::BeyondDevice { end: 21, total: 20 }))
    );
    let far = compress(true, &[MAX_RUN]);
    assert!(far.runs(u64::MAX - 5, 1 << 40).next().unwrap().is_err());
}

#[test]
fn incomplete_codes_are_an_error() {
    let mut packet = compress(false, &[1, 305]);
    packet.pad_bits += 1;
    let runs: Vec<_> = packet.runs(0, 1000).collect();
    assert_eq!(runs[1], Err(RunError::InvalidCode(2)));
    assert_eq!(runs.len(), 2);
}

#[test]
fn a_full_packet_takes_no_more() {
    let mut encoder = RunEncoder::new(true, 2);
    assert!(encoder.push(49));
    assert!(!encoder.push(3), "17 bits into 2 bytes");
    assert!(encoder.push(1));
    assert!(!encoder.push(1));
    let packet = encoder.finish().unwrap();
    assert_eq!((packet.code.len(), packet.pad_bits), (2, 0));
    assert_eq!(RunEncoder::new(true, 2).finish(), None);
    assert!(!RunEncoder::new(true, 2).push(0));
}

proptest! {
    #[test]
    fn runs_round_trip(
        first_set: bool,
        runs in prop::collection::vec(
            prop_oneof![1..10u64, 1..400u64, 1..10_000u64, 1..1u64 << 45], 1..400),
        start in 0..1u64 << 40,
    ) {
        let packet = compress(first_set, &runs);
        let total = start + runs.iter().sum::<u64>();
        let mut set = first_set;
        let mut at = start;
        let mut back = vec![];
        for run in packet.runs(start, total) {
            let run = run.unwrap();
            prop_assert_eq!((run.start, run.set), (at, set));
            at += run.len;
            set = !set;
            back.push(run.len);
        }
        prop_assert_eq!(back, runs);
    }

    #[test]
    fn runs_of_words_are_those_of_the_bits(
        words in prop::collection::vec(
            prop_oneof![Just(0u64), Just(u64::MAX), any::<u64>(), Just(1 << 63), Just(1)], 1..8),
        start in 0..64u64,
        cut in 0..200u64,
    ) {
        let total = (words.len() as u64 * 64 + 64).saturating_sub(cut);
        let bit = |i: u64| words.get((i / 64) as usize).is_some_and(|w| w >> (i % 64) & 1 != 0);
        let mut at = start;
        let mut last = None;
        for run in runs_in_words(words.iter().copied(), start, total) {
            prop_assert_eq!(run.start, at);
            prop_assert!(run.len > 0 && last != Some(run.set));
            prop_assert!((at..at + run.len).all(|i| bit(i) == run.set));
            at += run.len;
            last = Some(run.set);
        }
        prop_assert_eq!(at, total.max(start));
    }

    #[test]
    fn any_code_decodes_to_an_end(code in prop::collection::vec(any::<u8>(), 0..64), pad in 0..8u8) {
        let runs = Runs::new(&code, pad, false, 0, 1 << 30).count();
        prop_assert!(runs <= code.len() * 4 + 1);
    }

    #[test]
    fn every_window_has_a_level(window: u64) {
        let (run, bits) = decode_run(window, 64).unwrap();
        let (code, len) = encode_run(run).unwrap();
        prop_assert_eq!(bits, len);
        let mask = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
        prop_assert_eq!(code, window & mask);
    }
}
