use drbd_meta::bitmap::BitmapLayout;

use super::*;
use crate::disk::{DiskOp, Tearing};
use crate::oracle::coverage::{Image, check, covered};
use crate::rng::Rng;

fn config() -> Config {
    let mut config = Config::new(1, 3);
    config.initial = Initial::Provisioned;
    config.volumes[0].device_bytes = vec![(9 << 20) + 512; 3];
    config
}

fn write_meta(disk: &mut Disk, offset: u64, block: &[u8; 4096]) {
    let op = DiskOp::MetaWrite {
        blocks: vec![(offset, Box::new(*block))],
        barrier: Some((Default::default(), Default::default())),
    };
    let op = disk.accept(op).unwrap();
    disk.complete(&op, &mut Rng::new(1));
}

/// Changes the superblock of a disk.
fn with_superblock(
    config: &Config,
    disk: &mut Disk,
    node: usize,
    change: impl FnOnce(&mut Superblock),
) {
    let mut sb = Decoded::durable(config, node, 0, disk).unwrap().superblock;
    change(&mut sb);
    write_meta(disk, disk.superblock, &sb.encode());
}

#[test]
fn fresh_metadata_is_clean_and_unmarked() {
    for internal in [true, false] {
        let mut config = config();
        config.volumes[0].internal = internal;
        let disk = create(&config, 0, 0, 7).unwrap();
        let meta = Decoded::durable(&config, 0, 0, &disk).unwrap();
        assert!(meta.superblock.is_clean());
        assert_eq!(
            meta.superblock.effective_size,
            usable(&config, 0, 0).unwrap()
        );
        assert!(meta.hot.is_empty());
        assert!(!meta.marked(disk.durable_metadata(), 1, 0));
        assert!(
            covered(&meta, disk.durable_metadata(), 0, 8).is_err(),
            "no primary indicator"
        );
    }
}

/// Our reading of the bitmap against the layout of drbd-meta.
#[test]
fn bits_are_where_the_layout_puts_them() {
    let config = config();
    let mut disk = create(&config, 0, 0, 7).unwrap();
    with_superblock(&config, &mut disk, 0, |sb| {
        sb.peers[1].bitmap_index = Some(1);
        sb.peers[2].bitmap_index = Some(0);
    });
    let placement = placement(&config, 0, 0);
    let meta = Decoded::durable(&config, 0, 0, &disk).unwrap();
    let geometry = meta.superblock.geometry(placement).unwrap();
    let layout: BitmapLayout = meta.superblock.bitmap_layout().unwrap();
    let mut page = [0; 4096];
    let position = layout.locate(1, 77).unwrap();
    page[position.byte as usize % 4096] |= 1 << position.bit;
    write_meta(
        &mut disk,
        geometry.bitmap_sector() * 512 + position.byte / 4096 * 4096,
        &page,
    );
    let meta = Decoded::durable(&config, 0, 0, &disk).unwrap();
    let region = disk.durable_metadata();
    let marked: Vec<u64> = (0..2000).filter(|b| meta.marked(region, 1, *b)).collect();
    assert_eq!(marked, [77]);
    assert!((0..2000).all(|b| !meta.marked(region, 2, b)));
}

/// M2 notices a difference that nobody knows of, and accepts one that is marked on either side.
#[test]
fn unmarked_differences_are_found() {
    let config = config();
    let mut disks: Vec<Disk> = (0..2).map(|n| create(&config, n, 0, 7).unwrap()).collect();
    let mut rng = Rng::new(2);
    let payload = std::rc::Rc::new(crate::buffer::Payload::uniform(8, 1001));
    let op = disks[0]
        .accept(DiskOp::Write {
            sector: 80,
            payload,
            fua: true,
        })
        .unwrap();
    disks[0].complete(&op, &mut rng);
    disks
        .iter_mut()
        .for_each(|d| d.lose_power(Tearing::Never, &mut rng));
    let images = |disks: &[Disk]| -> Vec<Image> {
        let image = |node: usize| {
            let meta = Decoded::durable(&config, node, 0, &disks[node]).unwrap();
            Image {
                node,
                disk: disks[node].clone(),
                meta,
            }
        };
        vec![image(0), image(1)]
    };
    let size = usable(&config, 0, 0).unwrap();
    assert!(
        check(&images(&disks), size)
            .unwrap_err()
            .contains("block 10 ")
    );
    with_superblock(&config, &mut disks[1], 1, |sb| {
        sb.peers[0]
            .flags
            .insert(drbd_meta::flags::PeerFlags::FULL_SYNC);
    });
    assert_eq!(check(&images(&disks), size), Ok(()));
}
