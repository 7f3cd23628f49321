//! Random metadata and random commands.

use crate::cases::{
    Case, Random, random_bitmap, random_gi, random_ring, random_superblock, usize_of,
};
use crate::pair::{Pair, REFERENCE_IN_USE, SIDES, reference, words};
use drbd_meta::activity_log::encode_initialised;
use drbd_meta::geometry::MdIndex;
use drbd_meta::superblock::{Format, Superblock};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

fn reference_version() -> String {
    let output = Command::new("drbdadm").arg("--version").output();
    let text = output
        .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
        .unwrap_or_default();
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("DRBDADM_VERSION="));
    version.unwrap_or("unknown").to_owned()
}

/// The part of the bitmap that belongs to the effective size: offset, length, and how much of it is
/// padding at the end.
fn bitmap_range(pair: &Pair, case: &Case) -> (u64, usize, u64) {
    let mut block = [0; 4096];
    pair.disk("ours")
        .read_exact_at(&mut block, pair.superblock)
        .unwrap();
    let mut superblock = Superblock::decode(&block).unwrap();
    let usable = case.geometry.usable_sectors();
    superblock.effective_size = superblock.effective_size.min(usable);
    let layout = superblock.bitmap_layout().unwrap();
    let padding = layout.area_bytes() - layout.words() * 4 * u64::from(layout.slots());
    let start = case.geometry.bitmap_sector() * 512;
    (start, usize_of(layout.area_bytes()), padding)
}

/// 9.22 forgets the flags of v08 in its dumps; taken from ours they are in both.
fn theirs_knows_flags(pair: &Pair, dump: Vec<u8>) -> Vec<u8> {
    let ours = pair.run_side("ours", &words("dump-md")).stdout;
    if ours.is_empty() { dump } else { ours }
}

fn one_case(reference: &Path, seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    for _ in 0..8 {
        random.next();
    }
    let case = Case::random(&mut random);
    let mut pair = case.pair(reference);
    pair.log.push(format!("seed {seed}"));
    if random.chance(20) {
        // Something in the way, that --force overwrites.
        pair.poke(random.below(30_000), b"precious");
    }
    let create = case.create_arguments();
    if pair.run(&create) != 0 {
        // External metadata over data, for example.
        return;
    }
    let v09 = case.format == Format::V09;
    for _ in 0..random.below(3) + 1 {
        let sb = random_superblock(&mut random, &case);
        let sector = |sector: u64| sector * 512;
        pair.poke(sector(case.geometry.superblock_sector()), &sb.encode());
        let ring = random_ring(&mut random, &case);
        pair.poke(sector(case.geometry.al_sector()), &ring);
        let mut clipped = sb.clone();
        clipped.effective_size = sb.effective_size.min(case.geometry.usable_sectors());
        let bitmap = random_bitmap(&mut random, &clipped);
        pair.poke(sector(case.geometry.bitmap_sector()), &bitmap);
        pair.log
            .push(format!("size {} flags {:?}", sb.effective_size, sb.flags));
        for _ in 0..random.below(6) + 2 {
            let node = if v09 {
                format!(" --node-id {}", random.below(32))
            } else {
                String::new()
            };
            if random.chance(10)
                && pair
                    .run_side("reference", &["dump-md".to_owned()])
                    .status
                    .success()
            {
                // Each side restores the same dump over something else. Of the padding at the end
                // the reference restores as much as the last slot has.
                let (start, length, padding) = bitmap_range(&pair, &case);
                let tail = usize_of(padding);
                pair.poke(
                    start + u64::try_from(length - tail).unwrap(),
                    &vec![0; tail],
                );
                // The dump is made by either tool.
                let author = SIDES[usize_of(random.below(2))];
                let dump = pair.run_side(author, &words("dump-md")).stdout;
                let dump = if v09 {
                    dump
                } else {
                    theirs_knows_flags(&pair, dump)
                };
                pair.put("dump", &dump);
                pair.log.push(format!("dump by {author}"));
                if pair.command("verify-dump dump") != 0 {
                    continue; // ours does not ask before it knows that the dump is good
                }
                pair.poke(start, &vec![0x42; length]);
                // The reference leaves the log as it is; ours initialises it.
                let blocks = case.geometry.striping().blocks();
                let ring: Vec<u8> = (0..blocks).flat_map(|_| encode_initialised()).collect();
                pair.poke(case.geometry.al_sector() * 512, &ring);
                // The reference shows the offsets of the default layout, before it has read on.
                pair.only = Some(&["Found ", "Successfully restored meta data"]);
                pair.command("restore-md dump");
                pair.only = None;
                continue;
            }
            let line = match random.below(13) {
                0 => format!("get-gi{node}"),
                1 => format!("show-gi{node}"),
                2 | 3 => "dump-md".to_owned(),
                4 => "dstate".to_owned(),
                5 => "outdate".to_owned(),
                6 => "invalidate".to_owned(),
                7 => format!("set-gi {}{node}", random_gi(&mut random)),
                8 => "read-dev-uuid".to_owned(),
                9 => format!("write-dev-uuid {:x}", random.next() >> random.below(60)),
                _ => "apply-al".to_owned(),
            };
            pair.command(&line);
        }
    }
    pair.command("dump-md");
    // With the activity log; the reference also traces its accesses. Of a log in sectors ours says
    // nothing.
    if v09 {
        pair.messages = false;
        pair.command(&format!("dump-md {}", "-v ".repeat(10)));
        pair.messages = true;
    }
    if random.chance(50) {
        pair.command("wipe-md");
    }
    // 9.22 clears only the start of an external bitmap area.
    if case.geometry.placement().index == MdIndex::Internal && random.chance(50) {
        pair.run(&create);
    }
}

#[test]
fn generated_cases() {
    let Some(reference) = reference() else { return };
    let _guard = REFERENCE_IN_USE.lock();
    let first = crate::number_from("DRBDMETA_SEED", 1);
    let cases = crate::number_from("DRBDMETA_CASES", 300);
    eprintln!("reference: {} {}", reference.display(), reference_version());
    for seed in first..first + cases {
        one_case(&reference, seed);
    }
}
