//! Superblocks as the real tool writes them (metadata, section 14: TV-1 to TV-9 and TV-16).

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod support;

use drbd_meta::activity_log::encode_initialised;
use drbd_meta::flags::{LocalFlags, PeerFlags};
use drbd_meta::geometry::{AlStriping, Geometry, MdIndex, Placement};
use drbd_meta::superblock::{Format, Magic, Superblock, SuperblockError, V07Superblock};
use support::{block, geometry, hex, sha256};

const SIZE_64M: u64 = 67_108_864;

fn internal(slots: u8) -> Geometry {
    geometry(MdIndex::Internal, SIZE_64M, slots, AlStriping::DEFAULT)
}

/// Fresh v09 metadata, laid out by its geometry: the bytes from the first metadata sector on.
fn created(superblock: &Superblock, geometry: &Geometry) -> Vec<u8> {
    let first = geometry.first_sector();
    let at = |sector: u64| usize::try_from((sector - first) * 512).unwrap();
    let mut bytes = vec![0; usize::try_from(geometry.md_size_sect()).unwrap() * 512];
    for block in 0..usize::try_from(geometry.striping().blocks()).unwrap() {
        let start = at(geometry.al_sector()) + block * 4096;
        bytes[start..start + 4096].copy_from_slice(&encode_initialised());
    }
    let start = at(geometry.superblock_sector());
    bytes[start..start + 4096].copy_from_slice(&superblock.encode());
    bytes
}

#[test]
fn tv01_internal_one_slot() {
    let g = internal(1);
    let sb = Superblock::create(Format::V09, &g);
    let encoded = sb.encode();
    let mut expected = block(&[
        (0x000, "00000000 00000000 00000000 00000004"),
        (0x030, "00000000 00000000 00000080 8374026d"),
        (0x040, "00000050 ffffffc0 00000101 ffffffb8"),
        (0x050, "00001000 00000000 00000001 ffffffff"),
        (0x060, "00000001 00000008 00000000 00000000"),
    ]);
    for n in 0..32 {
        expected[112 + 32 * n + 20..][..4].fill(0xff);
    }
    assert_eq!(hex(&encoded), hex(&expected));
    assert_eq!(
        sha256(&encoded),
        "a538080baf6812080f25beea5a37bee9dfa394f17abb85313d54d2c40e930e21"
    );
    let al = encode_initialised();
    assert_eq!(hex(&al[..16]), "69cb65a200000000709cc651ffff0000");
    assert_eq!(
        sha256(&al),
        "52cd904d58f207a32113d76020e96c5fcc8c573dc71878cb581d14f7d41af15e"
    );
    assert_eq!(g.first_sector() * 512, 67_067_904);
    assert_eq!(
        sha256(&created(&sb, &g)),
        "902ffdf7e0bea4f7a31baf62b425908607627c20cdd3abf6f503df016c0fb897"
    );
    assert_eq!(Superblock::parse(&encoded, g.placement()).unwrap(), sb);
}

#[test]
fn tv02_internal_three_slots() {
    let g = internal(3);
    let encoded = Superblock::create(Format::V09, &g).encode();
    assert_eq!(hex(&encoded[0x40..0x44]), "00000058");
    assert_eq!(hex(&encoded[0x4c..0x50]), "ffffffb0");
    assert_eq!(hex(&encoded[0x58..0x5c]), "00000003");
    assert_eq!(
        sha256(&encoded),
        "0bde93f3c02d1f6d064636073c3f9e2e7cd5e681d7a623c11f8e37b0e85521e6"
    );
    assert_eq!(g.bitmap_sector() * 512, 67_063_808);
    assert_eq!(g.bitmap_sectors() * 512, 8192);
}

#[test]
fn tv03_v08_internal() {
    let g = internal(1);
    let sb = Superblock::create(Format::V08, &g);
    let encoded = sb.encode();
    let expected = block(&[
        (0x000, "00000000 00000000 00000000 00000004"),
        (0x030, "00000000 00000000 00000080 8374026b"),
        (0x040, "00000050 ffffffc0 00000101 ffffffb8"),
        (0x050, "00001000 00000000 00000001 00000008"),
    ]);
    assert_eq!(hex(&encoded), hex(&expected));
    assert_eq!(
        sha256(&encoded),
        "525a7dd3f54ba9ea27f7984f95eb52df2e702b069691ecb74bd11666a999ed1a"
    );
    assert_eq!(Superblock::parse(&encoded, g.placement()).unwrap(), sb);
}

#[test]
fn tv04_v07() {
    let flexible = Placement {
        index: MdIndex::Internal,
        device_size: SIZE_64M,
    };
    let head = (0x000, "00000000 00000000 00000000 00000001");
    let second = (0x010, "00000001 00000001 00000001 8374026a");
    let encoded = V07Superblock::create(flexible).unwrap().encode();
    let expected = block(&[head, second, (0x020, "00000028 ffffffc0 00000101 ffffffb8")]);
    assert_eq!(hex(&encoded), hex(&expected));
    let fixed = Placement {
        index: MdIndex::FixedInternal,
        device_size: 268_435_456,
    };
    assert_eq!(fixed.superblock_offset().unwrap(), 134_217_728);
    let sb = V07Superblock::create(fixed).unwrap();
    let expected = block(&[head, second, (0x020, "00020000 00000008 00000101 00000048")]);
    assert_eq!(hex(&sb.encode()), hex(&expected));
    assert_eq!(V07Superblock::parse(&sb.encode(), fixed).unwrap(), sb);
    assert!(V07Superblock::parse(&sb.encode(), flexible).is_err());
}

#[test]
fn tv05_flex_external() {
    let g = geometry(MdIndex::FlexExternal, SIZE_64M, 2, AlStriping::DEFAULT);
    let encoded = Superblock::create(Format::V09, &g).encode();
    assert_eq!((g.superblock_sector(), g.al_sector() * 512), (0, 4096));
    assert_eq!(
        hex(&encoded[0x40..0x50]),
        "00020000000000080000010100000048"
    );
    assert_eq!(
        hex(&encoded[0x50..0x60]),
        "000010000000000000000002ffffffff"
    );
    assert_eq!(
        hex(&encoded[0x60..0x70]),
        "00000001000000080000000000000000"
    );
}

#[test]
fn tv06_indexed() {
    let g = geometry(MdIndex::Indexed(1), 268_435_456, 2, AlStriping::DEFAULT);
    let encoded = Superblock::create(Format::V09, &g).encode();
    assert_eq!(g.superblock_sector() * 512, 134_217_728);
    assert_eq!(g.al_sector() * 512, 134_221_824);
    assert_eq!(
        hex(&encoded[0x40..0x50]),
        "00040000000000080000010100000048"
    );
}

#[test]
fn tv07_odd_device_size() {
    let g = geometry(MdIndex::Internal, SIZE_64M - 1536, 1, AlStriping::DEFAULT);
    assert_eq!(g.superblock_sector() * 512, 67_100_672);
    assert_eq!(g.al_sector() * 512, 67_067_904);
    assert_eq!(g.bitmap_sector() * 512, 67_063_808);
    let same = Superblock::create(Format::V09, &internal(1)).encode();
    assert_eq!(Superblock::create(Format::V09, &g).encode(), same);
}

#[test]
fn tv08_hand_made() {
    let mut bytes = block(&[(
        0,
        "00000000 00030d40 01020304 05060708 00000000 00000025 00000000 00000000
         00000000 00000000 00000000 00000000 a1a2a3a4 a5a6a7a8 00000093 8374026d
         00000130 fffffef8 000004d5 fffffed8 00001000 00100000 00000005 00000004
         00000003 0000000b 00000000 00000000",
    )]);
    for n in 0..32u32 {
        let at = 112 + 32 * usize::try_from(n).unwrap();
        bytes[at..at + 8].copy_from_slice(&u64::from(0x1000 + n).to_be_bytes());
        bytes[at + 8..at + 16].copy_from_slice(&u64::from(0x2000 + n).to_be_bytes());
        bytes[at + 16..at + 20].copy_from_slice(&n.to_be_bytes());
        let index = if n < 4 { n } else { u32::MAX };
        bytes[at + 20..at + 24].copy_from_slice(&index.to_be_bytes());
        let at = 0x470 + 8 * usize::try_from(n).unwrap();
        bytes[at..at + 8].copy_from_slice(&u64::from(0xb000 + n).to_be_bytes());
    }
    let placement = Placement {
        index: MdIndex::Internal,
        device_size: 104_860_160,
    };
    let sb = Superblock::parse(&bytes, placement).unwrap();
    assert_eq!((sb.max_peers, sb.node_id, sb.members), (5, Some(4), 0x25));
    assert_eq!(sb.current_uuid, 0x0102_0304_0506_0708);
    assert_eq!(sb.flags.bits(), 0x93);
    assert_eq!((sb.al_nr_extents, sb.effective_size), (1237, 200_000));
    assert_eq!(sb.device_uuid, 0xa1a2_a3a4_a5a6_a7a8);
    assert_eq!(sb.la_peer_max_bio_size, 1_048_576);
    assert_eq!(sb.striping, AlStriping::new(3, 11).unwrap());
    let g = sb.geometry(placement).unwrap();
    assert_eq!(g.md_size_sect(), 304);
    assert_eq!(g.superblock_sector() * 512, 104_853_504);
    assert_eq!(g.al_sector() * 512, 104_718_336);
    assert_eq!(g.bitmap_sector() * 512, 104_701_952);
    assert_eq!(sb.bitmap_layout().unwrap().area_bytes(), 16384);
    let peer = &sb.peers[31];
    assert_eq!((peer.bitmap_uuid, peer.bitmap_dagtag), (0x101f, 0x201f));
    assert_eq!(
        peer.flags.to_string(),
        "connected | <=outdated | fencing | full-sync | seen"
    );
    assert_eq!(
        (sb.peers[3].bitmap_index, sb.peers[4].bitmap_index),
        (Some(3), None)
    );
    assert_eq!(sb.history[31], 0xb01f);
    assert_eq!(sb.encode(), bytes);
}

#[test]
fn tv09_fields_of_set_gi_and_write_dev_uuid() {
    let mut sb = Superblock::create(Format::V09, &internal(3));
    sb.current_uuid = 0x1111_1111_1111_1111;
    sb.history[0] = 0x3333_3333_3333_3333;
    sb.history[1] = 0x4444_4444_4444_4444;
    sb.flags = LocalFlags::CONSISTENT
        | LocalFlags::WAS_UP_TO_DATE
        | LocalFlags::CRASHED_PRIMARY
        | LocalFlags::AL_CLEAN;
    sb.peers[1].bitmap_uuid = 0x2222_2222_2222_2222;
    sb.peers[1].flags =
        PeerFlags::CONNECTED | PeerFlags::FENCING | PeerFlags::DEVICE_SEEN | PeerFlags::IN_CORE;
    sb.device_uuid = 0x0123_4567_89ab_cdef;
    let bytes = sb.encode();
    assert_eq!(hex(&bytes[0x08..0x10]), "1111111111111111");
    assert_eq!(hex(&bytes[0x38..0x3c]), "000000d1");
    assert_eq!(
        hex(&bytes[0x90..0xa8]),
        "22222222222222220000000000000000\
         00000015ffffffff"
    );
    assert_eq!(
        hex(&bytes[0x470..0x480]),
        "33333333333333334444444444444444"
    );
    assert_eq!(hex(&bytes[0x30..0x38]), "0123456789abcdef");

    let mut sb = Superblock::create(Format::V08, &internal(1));
    sb.current_uuid = 0x1111_1111_1111_1111;
    sb.peers[0].bitmap_uuid = 0x2222_2222_2222_2222;
    sb.history[0] = 0x3333_3333_3333_3333;
    sb.history[1] = 0x4444_4444_4444_4444;
    sb.flags = LocalFlags::from_bits(0xf5);
    sb.device_uuid = 0x0123_4567_89ab_cdef;
    let bytes = sb.encode();
    assert_eq!(
        hex(&bytes[0x08..0x30]),
        "11111111111111112222222222222222333333333333333344444444444444440123456789abcdef"
    );
    assert_eq!(hex(&bytes[0x38..0x3c]), "000000f5");
    assert_eq!(Superblock::decode(&bytes).unwrap(), sb);
}

#[test]
fn tv16_conversions() {
    let g = internal(1);
    let mut v08 = Superblock::create(Format::V08, &g);
    v08.effective_size = 130_000;
    v08.current_uuid = 0x1111_1111_1111_1110;
    v08.peers[0].bitmap_uuid = 0x2222_2222_2222_2220;
    v08.history[0] = 0x3333_3333_3333_3330;
    v08.history[1] = 0x4444_4444_4444_4440;
    v08.device_uuid = 0xdede_dede_dede_dede;
    v08.flags = LocalFlags::from_bits(0x1ff);
    let mut v09 = v08.to_format(Format::V09).unwrap();
    assert_eq!(v09.magic, Magic::V09);
    assert_eq!(v09.flags.bits(), 0x1d3);
    assert_eq!((v09.max_peers, v09.node_id), (1, None));
    assert_eq!(v09.peers[0].bitmap_uuid, 0);
    assert_eq!(v09.peers[0].flags.bits(), 0xb);
    assert_eq!(v09.peers[0].bitmap_index, None);
    assert_eq!(v09.effective_size, 130_000);
    assert_eq!(v09.current_uuid, v08.current_uuid);
    assert_eq!(v09.history, v08.history);
    assert_eq!(v09.device_uuid, v08.device_uuid);
    assert_eq!(v09.geometry(g.placement()).unwrap(), g);

    v09.peers[0].bitmap_uuid = 0xaaaa_aaaa_aaaa_aaa0;
    let back = v09.to_format(Format::V08).unwrap();
    assert_eq!(back.peers[0].bitmap_uuid, 0xaaaa_aaaa_aaaa_aaa0);
    assert_eq!(back.flags.bits(), 0x1ff);
    assert!(
        Superblock::create(Format::V09, &internal(3))
            .to_format(Format::V08)
            .is_err()
    );

    let mut v07 = V07Superblock::create(g.placement()).unwrap();
    (v07.effective_size, v07.flags) = (130_000, 1);
    (v07.human, v07.timeout, v07.connected, v07.arbitrary) = (2, 3, 4, 5);
    assert_eq!(v07.encode()[..8], 65_000u64.to_be_bytes());
    let v08 = v07.to_v08(&g, false);
    assert_eq!(v08.effective_size, 130_000);
    assert_eq!(v08.current_uuid, 0x0002_0003_0009_babe);
    assert_eq!(v08.peers[0].bitmap_uuid, 0);
    assert_eq!(
        v08.history[..2],
        [0x0002_0003_0008_babe, 0x0002_0003_0007_babe]
    );
    assert_eq!(v08.flags.bits(), 1);
}

#[test]
fn what_is_not_valid() {
    let g = internal(3);
    let good = Superblock::create(Format::V09, &g).encode();
    let with = |offset: usize, value: u32| {
        let mut block = good;
        block[offset..offset + 4].copy_from_slice(&value.to_be_bytes());
        Superblock::parse(&block, g.placement())
    };
    use SuperblockError as E;
    assert_eq!(with(60, 0).unwrap_err(), E::Magic { found: 0 });
    for (offset, value, name) in [
        (0x58, 0, "max-peers"),
        (0x58, 33, "max-peers"),
        (0x5c, 32, "node-id"),
        (0x5c, u32::MAX - 1, "node-id"),
        (0x50, 8191, "bm-byte-per-bit"),
    ] {
        let error = with(offset, value).unwrap_err();
        assert!(
            matches!(error, E::Field { field, .. } if field == name),
            "{error}"
        );
        assert!(error.to_string().contains(name), "{error}");
    }
    let error = with(112 + 32 * 7 + 20, 32).unwrap_err();
    assert!(matches!(
        error,
        E::PeerField {
            node: 7,
            field: "bitmap-index",
            found: 32,
            ..
        }
    ));
    for (offset, value, name) in [
        (0x40, 89, "md_size_sect"),
        (0x44, 0, "al_offset"),
        (0x4c, 0, "bm_offset"),
        (0x58, 7, "bm_offset"),
        (0x64, 9, "al_offset"),
    ] {
        let error = with(offset, value).unwrap_err();
        assert!(
            matches!(error, E::Place { field, .. } if field == name),
            "{offset:#x}: {error}"
        );
    }
    assert!(matches!(with(0x60, 0).unwrap_err(), E::Geometry(_)));
    assert!(matches!(with(0x64, u32::MAX).unwrap_err(), E::Geometry(_)));
    // A device of another size is another place.
    let sb = Superblock::decode(&good).unwrap();
    let larger = Placement {
        index: MdIndex::Internal,
        device_size: SIZE_64M * 4,
    };
    assert!(matches!(
        sb.geometry(larger).unwrap_err(),
        E::Place {
            field: "bm_offset",
            ..
        }
    ));
    let external = Placement {
        index: MdIndex::FlexExternal,
        device_size: SIZE_64M,
    };
    assert!(matches!(
        sb.geometry(external).unwrap_err(),
        E::Place {
            field: "al_offset",
            ..
        }
    ));
}

#[test]
fn stripes_of_zero_by_zero_are_the_default() {
    let mut bytes = Superblock::create(Format::V08, &internal(1)).encode();
    bytes[88..96].fill(0);
    assert_eq!(
        Superblock::decode(&bytes).unwrap().striping,
        AlStriping::DEFAULT
    );
}
