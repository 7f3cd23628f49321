//! What the cases are made of: devices, metadata with a history, activity logs, bitmaps.

use crate::pair::Pair;
use drbd_meta::activity_log::{AlHeader, AlLayout, AlUpdate, FREE, encode_initialised};
use drbd_meta::flags::{LocalFlags, PeerFlags};
use drbd_meta::geometry::{AlStriping, BitmapBlockSize, Geometry, MdIndex, Placement};
use drbd_meta::superblock::{Format, Magic, Superblock};
use std::path::Path;

/// xorshift64*: the same cases for the same seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// In `0..n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }

    pub(crate) fn small(&mut self, n: u32) -> u32 {
        u32::try_from(self.below(n.into())).unwrap()
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        let n = u64::try_from(of.len()).unwrap();
        of[usize::try_from(self.below(n)).unwrap()]
    }
}

pub(crate) fn usize_of(value: u64) -> usize {
    usize::try_from(value).unwrap()
}

pub(crate) struct Case {
    pub(crate) format: Format,
    pub(crate) geometry: Geometry,
}

impl Case {
    pub(crate) fn random(random: &mut Random) -> Self {
        loop {
            let format = random.pick(&[Format::V09, Format::V09, Format::V09, Format::V08]);
            let slots = match format {
                Format::V08 => 1,
                Format::V09 => u8::try_from(random.below(31) + 1).unwrap(),
            };
            let index = match random.below(8) {
                0 => MdIndex::FlexExternal,
                1 => MdIndex::Indexed(u8::try_from(random.below(2)).unwrap()),
                _ => MdIndex::Internal,
            };
            let device_size = match index {
                MdIndex::Indexed(_) => 256 << 20,
                MdIndex::FlexExternal => (1 << 20) + random.below(32 << 11) * 512,
                _ => (1 << 20) + random.below(300 << 11) * 512,
            };
            let striping = if random.chance(30) {
                AlStriping::new(random.small(5) + 1, random.small(20) + 8).unwrap()
            } else {
                AlStriping::DEFAULT
            };
            let placement = Placement { index, device_size };
            let geometry = Geometry::new(placement, slots, BitmapBlockSize::DEFAULT, striping);
            if let Ok(geometry) = geometry {
                return Self { format, geometry };
            }
        }
    }

    pub(crate) fn index_argument(&self) -> String {
        match self.geometry.placement().index {
            MdIndex::Indexed(i) => i.to_string(),
            MdIndex::FlexExternal => "flex-external".to_owned(),
            _ => "internal".to_owned(),
        }
    }

    pub(crate) fn create_arguments(&self) -> Vec<String> {
        let striping = self.geometry.striping();
        let mut arguments = vec!["create-md".to_owned()];
        if self.format == Format::V09 {
            arguments.push(self.geometry.slots().to_string());
        }
        if striping != AlStriping::DEFAULT {
            arguments.push(format!("--al-stripes={}", striping.stripes()));
            arguments.push(format!(
                "--al-stripe-size-kB={}",
                striping.stripe_size_4k() * 4
            ));
        }
        arguments
    }

    /// The two devices for it.
    pub(crate) fn pair(&self, reference: &Path) -> Pair {
        let format = match self.format {
            Format::V08 => "v08",
            Format::V09 => "v09",
        };
        let size = self.geometry.placement().device_size;
        let mut pair = Pair::new(reference, format, &self.index_argument(), size);
        pair.superblock = self.geometry.superblock_sector() * 512;
        pair
    }
}

/// Plausible metadata of a device with a history.
pub(crate) fn random_superblock(random: &mut Random, case: &Case) -> Superblock {
    let mut sb = Superblock::create(case.format, &case.geometry);
    let usable = case.geometry.usable_sectors();
    let largest = 600 << 11;
    sb.effective_size = match random.below(10) {
        0 => 0,
        1 if usable < largest => usable + random.below(100),
        2 => usable.min(largest),
        _ => random.below(usable.min(largest) + 1),
    };
    sb.current_uuid = random.next();
    sb.device_uuid = random.next();
    sb.flags = LocalFlags::from_bits(random.small(0x800));
    if random.chance(40) {
        sb.flags.insert(LocalFlags::PRIMARY_IND);
    }
    // With an old-style log and more extents than its 64 sectors hold, 9.22 crashes.
    sb.al_nr_extents = random.pick(&[67, 257, 1237]);
    sb.la_peer_max_bio_size = random.pick(&[0, 4096, 1 << 20]);
    if case.format == Format::V08 {
        sb.magic = random.pick(&[Magic::V08, Magic::V08Unclean]);
        sb.peers[0].bitmap_uuid = random.next();
        sb.history[0] = random.next();
        sb.history[1] = random.next();
        return sb;
    }
    sb.members = random.next();
    sb.node_id = random.pick(&[None, Some(0), Some(7), Some(31)]);
    for (node, peer) in sb.peers.iter_mut().enumerate() {
        if random.chance(30) {
            peer.bitmap_uuid = random.next();
            peer.bitmap_dagtag = random.below(1 << 40);
            let known = random.small(32) | if random.chance(20) { 0x40 } else { 0 };
            peer.flags = PeerFlags::from_bits(known);
            let slot = u8::try_from(node).unwrap();
            peer.bitmap_index = (slot < case.geometry.slots()).then_some(slot);
        }
    }
    for uuid in &mut sb.history {
        *uuid = random.next();
    }
    sb
}

/// An activity log as a crash may leave it, or worse.
pub(crate) fn random_ring(random: &mut Random, case: &Case) -> Vec<u8> {
    let layout = AlLayout::from(&case.geometry);
    let blocks = usize::try_from(layout.blocks()).unwrap();
    let mut ring: Vec<u8> = (0..blocks).flat_map(|_| encode_initialised()).collect();
    let slots = random.pick(&[67u16, 257, 1237]).min(layout.max_slots());
    let mut held = vec![FREE; usize::from(slots)];
    let mut number = random.pick(&[0, 0, 0, u32::MAX - 3]);
    let mut start = 0;
    for _ in 0..random.below(30) {
        let updates: Vec<AlUpdate> = (0..random.below(5) + 1)
            .map(|_| AlUpdate {
                slot: u16::try_from(random.below(slots.into())).unwrap(),
                extent: if random.chance(3) {
                    FREE
                } else {
                    random.small(90)
                },
            })
            .collect();
        let mut block = [0; 4096];
        AlHeader {
            tr_number: number,
            context_size: slots,
            context_start: start,
        }
        .encode(
            &updates,
            held[usize::from(start)..].iter().copied(),
            &mut block,
        )
        .unwrap();
        let at = usize::try_from(layout.block_of_position(number)).unwrap() * 4096;
        ring[at..at + 4096].copy_from_slice(&block);
        for update in updates {
            held[usize::from(update.slot)] = update.extent;
        }
        start = drbd_meta::activity_log::next_context_start(start, slots);
        number = number.wrapping_add(1);
    }
    for _ in 0..random.pick(&[0, 0, 0, 1, 1, 2]) {
        let at = usize_of(random.below(u64::try_from(blocks).unwrap())) * 4096;
        if random.chance(50) {
            ring[at + usize_of(random.below(4096))] ^= 0x40;
        } else {
            ring[at..at + 4096].fill(0x77);
        }
    }
    if random.chance(4) {
        ring.fill(0x13);
    }
    ring
}

/// A bitmap with runs and noise, of the size of the device.
pub(crate) fn random_bitmap(random: &mut Random, sb: &Superblock) -> Vec<u8> {
    let length = sb.bitmap_layout().map_or(0, |layout| layout.area_bytes());
    let mut bitmap = vec![0u8; usize_of(length)];
    let mut at = 0;
    while at < bitmap.len() {
        let end = (at + usize_of(random.below(600)) * 4).min(bitmap.len());
        match random.below(3) {
            0 => bitmap[at..end].fill(random.pick(&[0, 0xff, 0x11])),
            1 => bitmap[at..end].fill_with(|| random.next().to_le_bytes()[2]),
            _ => {}
        }
        at = end + 4;
    }
    bitmap
}

pub(crate) fn random_gi(random: &mut Random) -> String {
    let fields = random.below(19);
    let field = |random: &mut Random, i: u64| match (i, random.below(30)) {
        (_, 0) => String::new(),
        (4.., 1) => "2".to_owned(),
        (0..4, 1..9) => format!("0x{:x}", random.next()),
        (0..4, _) => format!("{:016X}", random.next()),
        _ => random.below(2).to_string(),
    };
    let fields: Vec<String> = (0..fields).map(|i| field(random, i)).collect();
    fields.join(":")
}
