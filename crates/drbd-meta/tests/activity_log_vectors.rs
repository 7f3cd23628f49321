//! Activity log blocks and replays of the metadata chapter, section 14: TV-10 to TV-13.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod support;

use drbd_meta::Block;
use drbd_meta::activity_log::legacy::{replay_pmem, replay_sectors, ring_sectors};
use drbd_meta::activity_log::replay::replay_area;
use drbd_meta::activity_log::{
    AlBlock, AlBlockError, AlHeader, AlLayout, AlUpdate, FREE, Replay, ReplayError,
    encode_initialised,
};
use drbd_meta::bitmap::BitmapLayout;
use drbd_meta::geometry::{AlStriping, BitmapBlockSize};
use support::{hex, sha256, unhex};

fn transaction(tr_number: u32, updates: &[(u16, u32)], size: u16, context: &[u32]) -> Block {
    let updates: Vec<AlUpdate> = updates
        .iter()
        .map(|&(slot, extent)| AlUpdate { slot, extent })
        .collect();
    let mut block = [0xAA; 4096];
    AlHeader {
        tr_number,
        context_size: size,
        context_start: 0,
    }
    .encode(&updates, context.iter().copied(), &mut block)
    .unwrap();
    block
}

/// A ring with the given blocks; the others are initialised.
fn ring(blocks: &[(usize, Block)]) -> Vec<u8> {
    let mut area: Vec<u8> = (0..8).flat_map(|_| encode_initialised()).collect();
    for (number, block) in blocks {
        area[number * 4096..][..4096].copy_from_slice(block);
    }
    area
}

fn layout() -> AlLayout {
    AlLayout::new(0, AlStriping::DEFAULT)
}

fn run(area: &[u8]) -> Replay {
    replay_area(&layout(), area).unwrap()
}

#[test]
fn tv10_blocks() {
    let rows = [
        (
            transaction(0, &[(0, 3), (1, 7)], 1237, &[]),
            "69cb65a2 00000000 75324c21 00000002 04d50000",
        ),
        (
            transaction(0, &[(0, 3), (1, 7)], 67, &[]),
            "69cb65a2 00000000 385c3884 00000002 00430000",
        ),
        (
            transaction(1, &[(2, 9)], 67, &[3, 7]),
            "69cb65a2 00000001 c33db389 00000001 00430000",
        ),
        (
            transaction(2, &[(0, 5)], 67, &[3, 7, 9]),
            "69cb65a2 00000002 d2259bb8 00000001 00430000",
        ),
        (
            transaction(7, &[], 67, &[]),
            "69cb65a2 00000007 49feb5fe 00000000 00430000",
        ),
        (
            transaction(u32::MAX, &[(0, 0)], 67, &[]),
            "69cb65a2 ffffffff 18b61d40 00000001 00430000",
        ),
    ];
    for (block, head) in &rows {
        assert_eq!(block[..20], unhex(head));
        assert!(AlBlock::decode(block).is_ok());
    }
    for (row, sum) in [
        (
            1,
            "0fb19304b872fe52483e2b115643cee96472db7d30b6e4355bb2a327fe1a172f",
        ),
        (
            2,
            "48b4607c9ece35ea8641a55d181869e826b450629cc87aaaabe0716cef301281",
        ),
        (
            3,
            "af317f7a66f227a7eb8450bb42cfa477a041d0cb8424466cadd308bc07ac580b",
        ),
    ] {
        assert_eq!(sha256(&rows[row].0), sum);
    }
    let row = &rows[2].0;
    assert!(row[20..36].iter().all(|b| *b == 0));
    assert_eq!(hex(&row[36..40]), "0002ffff");
    assert_eq!(hex(&row[164..172]), "00000009ffffffff");
    assert_eq!(hex(&row[420..432]), "0000000300000007ffffffff");
    let AlBlock::Transaction(decoded) = AlBlock::decode(row).unwrap() else {
        panic!()
    };
    assert_eq!(
        decoded.header(),
        AlHeader {
            tr_number: 1,
            context_size: 67,
            context_start: 0
        }
    );
    assert_eq!(
        decoded.updates().collect::<Vec<_>>(),
        [AlUpdate { slot: 2, extent: 9 }]
    );
    let context: Vec<_> = decoded.context().collect();
    assert_eq!(context.len(), 67);
    assert_eq!(context[..3], [(0, 3), (1, 7), (2, FREE)]);
    assert!(matches!(
        AlBlock::decode(&encode_initialised()),
        Ok(AlBlock::Initialised)
    ));
}

/// Data path, section 13.7: reproduced by a running node.
#[test]
fn worked_example_of_the_data_path() {
    let free = [FREE; 67];
    let mut second = free;
    second[66] = 0;
    let mut third = second;
    (third[64], third[65]) = (2, 1);
    for (block, crc) in [
        (transaction(0, &[(66, 0)], 67, &free), "9891bbd7"),
        (transaction(1, &[(64, 2), (65, 1)], 67, &second), "167e4197"),
        (transaction(2, &[(63, 100)], 67, &third), "4b3572a5"),
    ] {
        assert_eq!(hex(&block[8..12]), crc);
    }
    let bitmap = BitmapLayout::new(3, BitmapBlockSize::DEFAULT, 1_048_408).unwrap();
    let spans: Vec<_> = [0, 1, 2, 100]
        .iter()
        .map(|e| bitmap.extent_span(*e).unwrap().bytes)
        .collect();
    assert_eq!(spans, [0..384, 384..768, 768..1152, 38400..38784]);
}

fn rows_2_3_4() -> Vec<u8> {
    ring(&[
        (0, transaction(0, &[(0, 3), (1, 7)], 67, &[])),
        (1, transaction(1, &[(2, 9)], 67, &[3, 7])),
        (2, transaction(2, &[(0, 5)], 67, &[3, 7, 9])),
    ])
}

#[test]
fn tv11_replay() {
    let result = run(&rows_2_3_4());
    assert_eq!(result.hot, [5, 7, 9]);
    assert_eq!(
        (result.transactions, result.initialised, result.corrupt),
        (3, 5, 0)
    );
    assert_eq!((result.newest, result.next_tr_number()), (Some(2), 3));
    // Marked in the bitmap of the 64 MiB device.
    let bitmap = BitmapLayout::new(1, BitmapBlockSize::DEFAULT, 130_992).unwrap();
    let mut page = [0; 4096];
    let mut bits = 0;
    for extent in result.hot {
        bits += bitmap
            .extent_span(extent)
            .unwrap()
            .set_in_page(0, &mut page);
    }
    assert_eq!(bits * 4, 12 * 1024); // KiB
    for (byte, value) in page.iter().enumerate() {
        let hot = [640..768, 896..1024, 1152..1280]
            .iter()
            .any(|r| r.contains(&byte));
        assert_eq!(*value, if hot { 0xff } else { 0 }, "byte {byte}");
    }
}

#[test]
fn tv11_ring_wrapped() {
    let mut slots = [FREE; 67];
    let mut area = ring(&[]);
    for t in 0..14u16 {
        let slot = t % 5;
        let block = transaction(t.into(), &[(slot, t.into())], 67, &slots);
        let at = usize::from(t % 8) * 4096;
        area[at..at + 4096].copy_from_slice(&block);
        slots[usize::from(slot)] = t.into();
    }
    assert_eq!(run(&area).hot, [9, 10, 11, 12, 13]);
}

#[test]
fn tv11_numbers_wrapped() {
    let area = ring(&[
        (6, transaction(u32::MAX - 1, &[(0, 1)], 67, &[])),
        (7, transaction(u32::MAX, &[(1, 2)], 67, &[1])),
        (0, transaction(0, &[(0, 3)], 67, &[1, 2])),
        (1, transaction(1, &[(1, 4)], 67, &[3, 2])),
    ]);
    let result = run(&area);
    assert_eq!(result.hot, [3, 4]);
    assert_eq!(result.newest, Some(1));
}

#[test]
fn tv11_torn_newest() {
    let mut torn = transaction(1, &[(2, 9)], 67, &[3, 7]);
    torn[9] ^= 1;
    assert!(matches!(
        AlBlock::decode(&torn),
        Err(AlBlockError::Checksum { .. })
    ));
    let result = run(&ring(&[
        (0, transaction(0, &[(0, 3), (1, 7)], 67, &[])),
        (1, torn),
    ]));
    assert_eq!((result.hot, result.corrupt), (vec![3, 7], 1));
}

#[test]
fn tv11_free_context_empties_slots() {
    let result = run(&ring(&[
        (0, transaction(0, &[(0, 3), (1, 7)], 67, &[])),
        (1, transaction(1, &[(0, 4)], 67, &[FREE; 67])),
    ]));
    assert_eq!(result.hot, [4]);
}

/// A block with fields that `encode` would not write.
fn patched(mut block: Block, at: usize, bytes: &[u8]) -> Block {
    block[at..at + bytes.len()].copy_from_slice(bytes);
    block[8..12].fill(0);
    let crc = drbd_meta::crc32c::update(0, &block);
    block[8..12].copy_from_slice(&crc.to_be_bytes());
    block
}

#[test]
fn tv11_slots_out_of_range() {
    let block = transaction(0, &[(0, 3), (1, 7), (2, 8)], 67, &[]);
    let block = patched(block, 38, &[0xff, 0xfe, 0xff, 0xff]);
    let result = run(&ring(&[(0, block)]));
    assert_eq!(result.hot, [3]);
    assert_eq!(result.ignored_slots, [(0, 65534, true), (0, 65535, true)]);
}

#[test]
fn context_window_may_reach_beyond_the_slots() {
    let block = transaction(0, &[(0, 3)], 67, &[]);
    let block = patched(block, 16, &[0xff, 0xff, 0xff, 0xf0]);
    let result = run(&ring(&[(0, block)]));
    assert_eq!(result.hot, [3]);
    assert!(
        result
            .ignored_slots
            .iter()
            .all(|(_, slot, update)| *slot >= 65534 && !update)
    );
}

#[test]
fn unknown_type_is_an_update() {
    let block = patched(transaction(0, &[(0, 3)], 67, &[]), 12, &[0, 9]);
    let result = run(&ring(&[(0, block)]));
    assert_eq!((result.hot, result.unknown_types), (vec![3], vec![(0, 9)]));
}

#[test]
fn tv11_garbage() {
    let garbage = [0x5a; 4096];
    let all: Vec<_> = (0..8).map(|n| (n, garbage)).collect();
    assert_eq!(
        replay_area(&layout(), &ring(&all)).unwrap_err(),
        ReplayError::NoUsableLog { corrupt: 8 }
    );
    assert_eq!(
        replay_area(&layout(), &ring(&[(3, garbage), (4, garbage)])).unwrap_err(),
        ReplayError::NoTransaction { corrupt: 2 }
    );
    assert_eq!(
        replay_area(&layout(), &ring(&[(1, garbage)])).unwrap_err(),
        ReplayError::NoTransaction { corrupt: 1 }
    );
    // Only the first transaction of a fresh ring can have been torn.
    let result = run(&ring(&[(0, garbage)]));
    assert_eq!(result.next_tr_number(), 0);
    assert_eq!(
        (result.hot, result.corrupt, result.newest),
        (vec![], 1, None)
    );
    assert!(matches!(
        replay_area(&layout(), &[]),
        Err(ReplayError::Read { block: 0, .. })
    ));
}

#[test]
fn tv12_striped() {
    let striping = AlStriping::new(4, 8).unwrap();
    let layout = AlLayout::new(66_973_696 / 512, striping);
    let mut area: Vec<u8> = (0..32).flat_map(|_| encode_initialised()).collect();
    let mut context = Vec::new();
    for (t, block, byte, crc) in [
        (0u16, 0, 66_973_696, "2f676269"),
        (1, 8, 67_006_464, "58a77ac8"),
        (2, 16, 67_039_232, "d979a0fa"),
        (3, 24, 67_072_000, "bbba0df4"),
        (4, 1, 66_977_792, "99758986"),
        (5, 9, 67_010_560, "f7e0c74d"),
    ] {
        let number = u32::from(t);
        let encoded = transaction(number, &[(t, number + 1)], 67, &context);
        context.push(number + 1);
        assert_eq!(layout.block_of_position(number), block);
        assert_eq!(layout.transaction_sector(number) * 512, byte);
        assert_eq!(hex(&encoded[8..12]), crc);
        let at = usize::try_from(block).unwrap() * 4096;
        area[at..at + 4096].copy_from_slice(&encoded);
    }
    assert_eq!(replay_area(&layout, &area).unwrap().hot, [1, 2, 3, 4, 5, 6]);
}

#[test]
fn tv13_old_sectors() {
    let sector = |number: u32, entries: &[(u32, u32)], xor: u32| {
        let mut sector = [0u8; 512];
        sector[..4].copy_from_slice(&0x8374_0267u32.to_be_bytes());
        sector[4..8].copy_from_slice(&number.to_be_bytes());
        sector[8..504].fill(0xff);
        for (i, (slot, extent)) in entries.iter().enumerate() {
            sector[8 + 8 * i..][..4].copy_from_slice(&slot.to_be_bytes());
            sector[12 + 8 * i..][..4].copy_from_slice(&extent.to_be_bytes());
        }
        sector[504..508].copy_from_slice(&xor.to_be_bytes());
        sector
    };
    let mut area = vec![0u8; 32768];
    for (k, s) in [
        sector(0, &[(0, 3)], 0xffff_fffc),
        sector(1, &[(1, 5), (0, 3)], 6),
        sector(2, &[(0, 6), (1, 5)], 3),
    ]
    .iter()
    .enumerate()
    {
        area[k * 512..][..512].copy_from_slice(s);
    }
    assert_eq!(ring_sectors(257), 6);
    let result = replay_sectors(&area, 257);
    assert_eq!((result.hot, result.valid, result.ring), (vec![5, 6], 3, 6));
    assert_eq!(replay_sectors(&[0; 32768], 257).valid, 0);
    assert_eq!(replay_sectors(&area, u32::MAX).ring, 64);
}

#[test]
fn tv13_pmem() {
    let mut area = vec![0xffu8; 32768];
    area[..4].copy_from_slice(&0x6aa6_67a6u32.to_be_bytes());
    for (slot, extent) in [(0, 3u32), (1, 7), (256, 9), (257, 11)] {
        area[4 + 4 * slot..][..4].copy_from_slice(&extent.to_be_bytes());
    }
    assert_eq!(replay_pmem(&area, 257).unwrap(), [3, 7, 9]);
    assert_eq!(replay_pmem(&[0; 4096], 257), None);
    assert_eq!(replay_pmem(&[], 257), None);
}
