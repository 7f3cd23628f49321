//! The worked examples of the metadata chapter, section 2.8, and properties of every geometry.

use super::{
    AlStriping, BitmapBlockSize, Geometry, GeometryError, MdIndex, Placement, bitmap_bytes,
};
use crate::limits::{BLOCK_BYTES_U64, MAX_DEVICE_SECTORS};
use proptest::prelude::*;

fn geometry(
    index: MdIndex,
    device_size: u64,
    slots: u8,
    block: u32,
    stripes: u32,
    stripe_kib: u32,
) -> Result<Geometry, GeometryError> {
    Geometry::new(
        Placement { index, device_size },
        slots,
        BitmapBlockSize::new(block).unwrap(),
        AlStriping::new(stripes, stripe_kib / 4).unwrap(),
    )
}

/// S, P, B, stripes, stripe KiB, md_offset, AL start, BM start, al, bm, size, bitmap bytes, usable.
type Row = (
    u64,
    u8,
    u32,
    u32,
    u32,
    u64,
    u64,
    u64,
    i32,
    i32,
    u32,
    u64,
    u64,
);

#[rustfmt::skip]
const INTERNAL: &[Row] = &[
    (1048576, 1, 4096, 1, 32, 1044480, 1011712, 1007616, -64, -72, 80, 4096, 1968),
    (67108864, 1, 4096, 1, 32, 67104768, 67072000, 67067904, -64, -72, 80, 4096, 130992),
    (67108864, 3, 4096, 1, 32, 67104768, 67072000, 67063808, -64, -80, 88, 8192, 130984),
    (67108864, 7, 4096, 1, 32, 67104768, 67072000, 67055616, -64, -96, 104, 16384, 130968),
    (67107328, 1, 4096, 1, 32, 67100672, 67067904, 67063808, -64, -72, 80, 4096, 130984),
    (104860160, 5, 4096, 3, 44, 104853504, 104718336, 104701952, -264, -296, 304, 16384, 204496),
    (134217728, 1, 4096, 1, 32, 134213632, 134180864, 134176768, -64, -72, 80, 4096, 262064),
    (1073741824, 1, 4096, 1, 32, 1073737728, 1073704960, 1073672192, -64, -128, 136, 32768, 2097016),
    (1073741824, 2, 4096, 1, 32, 1073737728, 1073704960, 1073639424, -64, -192, 200, 65536, 2096952),
    (1073741824, 7, 4096, 1, 32, 1073737728, 1073704960, 1073475584, -64, -512, 520, 229376, 2096632),
    (1073741824, 31, 4096, 1, 32, 1073737728, 1073704960, 1072689152, -64, -2048, 2056, 1015808, 2095096),
    (1073741824, 1, 4096, 7, 64, 1073737728, 1073278976, 1073246208, -896, -960, 968, 32768, 2096184),
    (4294967296, 2, 4096, 1, 1024, 4294963200, 4293914624, 4293652480, -2048, -2560, 2568, 262144, 8386040),
    (4294967296, 2, 65536, 1, 32, 4294963200, 4294930432, 4294914048, -64, -96, 104, 16384, 8388504),
    (10737418240, 3, 4096, 1, 32, 10737414144, 10737381376, 10736398336, -64, -1984, 1992, 983040, 20969528),
    (1099511627776, 1, 4096, 1, 32, 1099511623680, 1099511590912, 1099478036480, -64, -65600, 65608, 33554432, 2147418040),
    (1099511627776, 7, 4096, 1, 32, 1099511623680, 1099511590912, 1099276709888, -64, -458816, 458824, 234881024, 2147024824),
    (1099511631360, 2, 4096, 1, 32, 1099511623680, 1099511590912, 1099444477952, -64, -131144, 131152, 67112960, 2147352496),
    (1099511627776, 3, 65536, 1, 32, 1099511623680, 1099511590912, 1099505299456, -64, -12352, 12360, 6291456, 2147471288),
    (1099511627776, 31, 1048576, 1, 32, 1099511623680, 1099511590912, 1099507527680, -64, -8000, 8008, 4063232, 2147475640),
];

#[rustfmt::skip]
const FLEX_EXTERNAL: &[Row] = &[
    (1048576, 1, 4096, 1, 32, 0, 4096, 36864, 8, 72, 2048, 1011712, 64749568),
    (67108864, 1, 4096, 1, 32, 0, 4096, 36864, 8, 72, 131072, 67072000, 4292608000),
    (67108864, 2, 4096, 1, 32, 0, 4096, 36864, 8, 72, 131072, 67072000, 2146304000),
    (268435456, 3, 4096, 1, 32, 0, 4096, 36864, 8, 72, 524288, 268398592, 5725836288),
    (268435456, 3, 65536, 1, 32, 0, 4096, 36864, 8, 72, 524288, 268398592, 91613380608),
    (268435456, 1, 4096, 4, 256, 0, 4096, 1052672, 8, 2056, 524288, 267382784, 17112498176),
];

fn check(index: MdIndex, rows: &[Row]) {
    for &(size, slots, block, stripes, kib, md, al_at, bm_at, al, bm, sect, bytes, usable) in rows {
        let g = geometry(index, size, slots, block, stripes, kib).unwrap();
        assert_eq!(g.superblock_sector() * 512, md, "{g:?}");
        assert_eq!(g.al_sector() * 512, al_at, "{g:?}");
        assert_eq!(g.bitmap_sector() * 512, bm_at, "{g:?}");
        assert_eq!(
            (g.al_offset(), g.bm_offset(), g.md_size_sect()),
            (al, bm, sect),
            "{g:?}"
        );
        assert_eq!(g.bitmap_sectors() * 512, bytes, "{g:?}");
        assert_eq!(g.usable_sectors(), usable, "{g:?}");
    }
}

#[test]
fn internal_examples() {
    check(MdIndex::Internal, INTERNAL);
}

#[test]
fn flex_external_examples() {
    check(MdIndex::FlexExternal, FLEX_EXTERNAL);
}

#[test]
fn indexed_examples() {
    for (slots, usable) in [
        (1, 8587575296),
        (2, 4293787648),
        (7, 1226796032),
        (31, 277018112),
    ] {
        let g = geometry(MdIndex::Indexed(1), 268435456, slots, 4096, 1, 32).unwrap();
        assert_eq!(g.superblock_sector() * 512, 134217728);
        assert_eq!(g.al_sector() * 512, 134221824);
        assert_eq!(g.bitmap_sector() * 512, 134217728 + 36864);
        assert_eq!(
            (g.al_offset(), g.bm_offset(), g.md_size_sect()),
            (8, 72, 262144)
        );
        assert_eq!(g.bitmap_sectors() * 512, 134180864);
        assert_eq!(g.usable_sectors(), usable);
    }
}

#[test]
fn what_does_not_fit() {
    let e = |g: Result<Geometry, GeometryError>| g.unwrap_err();
    use GeometryError as G;
    assert!(matches!(
        e(geometry(MdIndex::Internal, 69631, 1, 4096, 1, 32)),
        G::DeviceTooSmall { .. }
    ));
    assert!(matches!(
        e(geometry(MdIndex::Internal, 69632, 1, 4096, 1, 1024)),
        G::DeviceTooSmall { .. }
    ));
    assert!(matches!(
        e(geometry(MdIndex::Indexed(2), 268435456, 1, 4096, 1, 32)),
        G::SuperblockBeyondEnd {
            offset: 268435456,
            ..
        }
    ));
    assert!(matches!(
        e(geometry(MdIndex::Indexed(0), 268435456, 1, 4096, 1, 131072)),
        G::NoBitmapRoom
    ));
    assert_eq!(
        e(geometry(MdIndex::Internal, 1 << 30, 33, 4096, 1, 32)),
        G::Slots(33)
    );
    assert_eq!(
        e(geometry(MdIndex::Internal, 1 << 30, 0, 4096, 1, 32)),
        G::Slots(0)
    );
    assert!(matches!(
        e(geometry(MdIndex::Internal, u64::MAX, 31, 4096, 1, 32)),
        G::TooLarge { .. }
    ));
    assert!(matches!(
        e(geometry(MdIndex::FlexExternal, u64::MAX, 31, 4096, 1, 32)),
        G::TooLarge { .. }
    ));
    assert_eq!(
        AlStriping::new(1, 7).unwrap_err(),
        G::Striping {
            stripes: 1,
            stripe_size_4k: 7
        }
    );
    assert!(AlStriping::new(0, 8).is_err() && AlStriping::new(1 << 16, 1 << 16).is_err());
    for bad in [0, 1, 2048, 4097, 12288, 2 << 20, u32::MAX] {
        assert_eq!(BitmapBlockSize::new(bad).unwrap_err(), G::BlockSize(bad));
    }
}

proptest! {
    /// Regions lie in order inside the device, do not overlap, and the data that counts as usable
    /// has a bit for each of its blocks in every slot.
    #[test]
    fn regions_are_disjoint_and_sufficient(
        size in prop_oneof![0u64..1 << 33, 0u64..1 << 50, any::<u64>()],
        index in prop_oneof![
            Just(MdIndex::Internal), Just(MdIndex::FlexExternal), Just(MdIndex::FixedInternal),
            (0u8..4).prop_map(MdIndex::Indexed)
        ],
        slots in 0u8..40,
        block in (12u32..=20).prop_map(|s| BitmapBlockSize::new(1 << s).unwrap()),
        stripes in 1u32..9,
        stripe in 8u32..300,
    ) {
        let striping = AlStriping::new(stripes, stripe).unwrap();
        let Ok(g) = Geometry::new(Placement { index, device_size: size }, slots, block, striping) else {
            return Ok(());
        };
        let (sb, al, bm) = (g.superblock_sector(), g.al_sector(), g.bitmap_sector());
        let al_end = al + u64::from(striping.sectors());
        let bm_end = bm + g.bitmap_sectors();
        if index == MdIndex::Internal {
            prop_assert!(bm < bm_end && bm_end == al && al_end == sb && (sb + 8) * 512 <= size);
            prop_assert!(size - (sb + 8) * 512 < BLOCK_BYTES_U64);
        } else {
            prop_assert!(sb + 8 == al && al_end == bm && bm < bm_end && bm_end * 512 <= size);
        }
        for sector in [sb, al, bm] {
            prop_assert_eq!(sector % 8, 0);
        }
        let usable = g.usable_sectors();
        // A fixed size may be too small for the device.
        if usable <= MAX_DEVICE_SECTORS && index != MdIndex::FixedInternal {
            let bits = block.bits(usable);
            prop_assert!(bits.div_ceil(64) * 8 * u64::from(slots) <= g.bitmap_sectors() * 512);
        }
        let limit = g.attach_limit(u64::MAX);
        prop_assert!(limit <= usable || index == MdIndex::FixedInternal);
        let area = bitmap_bytes(limit, block, slots).unwrap();
        prop_assert!(area <= g.bitmap_sectors() * 512, "{area} {limit}");
        let words = g.bitmap_sectors() * 64 / u64::from(slots);
        prop_assert!(block.bits(limit) <= words * 64);
    }
}
