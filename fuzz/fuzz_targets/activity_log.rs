//! Rings of any content: replay may fail but not panic, and names each hot extent once. Checksums
//! are made right for most blocks, so that the content behind them is reached.
#![no_main]

use drbd_meta::activity_log::legacy::{replay_pmem, replay_sectors};
use drbd_meta::activity_log::replay::replay_area;
use drbd_meta::activity_log::{AlBlock, AlHeader, AlLayout, AlUpdate, encode_initialised};
use drbd_meta::{crc32c, geometry::AlStriping};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input {
    stripes: u8,
    al_nr_extents: u32,
    blocks: Vec<Content>,
}

#[derive(Arbitrary, Debug)]
struct Content {
    position: u8,
    header: Option<(u32, u16, u16)>,
    updates: Vec<(u16, u32)>,
    context: Vec<u32>,
    patches: Vec<(u16, u32)>,
    seal: bool,
}

fuzz_target!(|input: Input| {
    let stripes = u32::from(input.stripes % 4) + 1;
    let Ok(striping) = AlStriping::new(stripes, 8) else { return };
    let layout = AlLayout::new(0, striping);
    let blocks = usize::try_from(layout.blocks()).unwrap();
    let mut ring: Vec<[u8; 4096]> = vec![encode_initialised(); blocks];
    for content in &input.blocks {
        let block = &mut ring[usize::from(content.position) % blocks];
        if let Some((tr_number, context_size, context_start)) = content.header {
            let updates: Vec<AlUpdate> = content
                .updates
                .iter()
                .map(|&(slot, extent)| AlUpdate { slot, extent })
                .collect();
            let header = AlHeader { tr_number, context_size, context_start };
            let encoded = header.encode(&updates, content.context.iter().copied(), block);
            if encoded.is_ok() {
                let Ok(AlBlock::Transaction(read)) = AlBlock::decode(block) else {
                    panic!("what was encoded does not decode");
                };
                assert_eq!(read.header(), header);
                assert!(read.updates().eq(updates));
            }
        }
        for (at, value) in &content.patches {
            let at = usize::from(*at) % 4093;
            block[at..at + 4].copy_from_slice(&value.to_be_bytes());
        }
        if content.seal {
            block[8..12].fill(0);
            let crc = crc32c::update(0, block);
            block[8..12].copy_from_slice(&crc.to_be_bytes());
        }
    }
    let area = ring.concat();
    if let Ok(found) = replay_area(&layout, &area) {
        assert!(found.hot.is_sorted_by(|a, b| a < b));
        assert_eq!(found.transactions + found.initialised + found.corrupt, layout.blocks());
    }
    let old = replay_sectors(&area, input.al_nr_extents);
    assert!(old.hot.is_sorted_by(|a, b| a < b) && old.valid <= old.ring);
    let _ = replay_pmem(&area, input.al_nr_extents);
});
