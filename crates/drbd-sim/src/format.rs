//! `create-md` of the simulator, and reading metadata back: real bytes through drbd-meta.

use std::ops::Range;

use drbd_engine::command::{Backing, MetaPlace};
use drbd_meta::activity_log::{AlLayout, encode_initialised, replay};
use drbd_meta::flags::LocalFlags;
use drbd_meta::geometry::{
    AlStriping, BitmapBlockSize, Geometry, GeometryError, MdIndex, Placement,
};
use drbd_meta::superblock::{Format, Superblock};

use crate::buffer::Version;
use crate::config::{Config, Initial};
use crate::disk::Disk;

/// Size of an external metadata device, bytes.
const EXTERNAL_META: u64 = 1 << 20;
/// The first data generation of provisioned disks.
const DAY0: u64 = 0xd0d0_d0d0_d0d0_d0d0;

fn placement(config: &Config, node: usize, volume: usize) -> Placement {
    let v = &config.volumes[volume];
    if v.internal {
        Placement {
            index: MdIndex::Internal,
            device_size: v.device_bytes[node],
        }
    } else {
        Placement {
            index: MdIndex::FlexExternal,
            device_size: EXTERNAL_META,
        }
    }
}

/// Bitmap block size of a node's metadata.
fn bitmap_block(config: &Config, node: usize) -> Result<BitmapBlockSize, GeometryError> {
    let found = config.bitmap_blocks.iter().find(|(n, _)| *n == node);
    found.map_or(Ok(BitmapBlockSize::DEFAULT), |(_, bytes)| {
        BitmapBlockSize::new(*bytes)
    })
}

/// Bytes of the metadata region from its first byte on, and where that is.
fn region(geometry: &Geometry) -> (u64, usize) {
    let start = geometry.first_sector() * 512 / 4096 * 4096;
    let end = (geometry.superblock_sector() + 8)
        .max(geometry.bitmap_sector() + geometry.bitmap_sectors())
        .max(geometry.al_sector() + u64::from(geometry.striping().sectors()));
    (start, (end * 512 - start).div_ceil(4096) as usize * 4096)
}

/// Creates a disk with its metadata.
pub fn create(
    config: &Config,
    node: usize,
    volume: usize,
    garbage: Version,
) -> Result<Disk, String> {
    let placement = placement(config, node, volume);
    let internal = config.volumes[volume].internal;
    let geometry = Geometry::new(
        placement,
        config.slots(node),
        bitmap_block(config, node).map_err(|e| e.to_string())?,
        AlStriping::DEFAULT,
    )
    .map_err(|e| e.to_string())?;
    let data_bytes = config.volumes[volume].device_bytes[node];
    let data_sectors = if internal {
        geometry.usable_sectors()
    } else {
        data_bytes / 512
    };
    let mut superblock = Superblock::create(Format::V09, &geometry);
    if config.initial == Initial::Provisioned {
        superblock.current_uuid = DAY0;
        superblock.flags.insert(LocalFlags::CONSISTENT);
        superblock.flags.insert(LocalFlags::WAS_UP_TO_DATE);
        superblock.effective_size = (0..config.nodes)
            .filter(|n| !config.diskless[*n])
            .filter_map(|n| usable(config, n, volume))
            .min()
            .unwrap_or(0);
    }
    let (start, len) = region(&geometry);
    let mut meta = vec![0; len];
    let at = (geometry.superblock_sector() * 512 - start) as usize;
    meta[at..at + 4096].copy_from_slice(&superblock.encode());
    let al = (geometry.al_sector() * 512 - start) as usize;
    let initialised = encode_initialised();
    for i in 0..geometry.striping().blocks() as usize {
        meta[al + i * 4096..al + (i + 1) * 4096].copy_from_slice(&initialised);
    }
    let mut disk = Disk::new(
        data_sectors,
        garbage,
        start,
        geometry.superblock_sector() * 512,
        meta,
        internal,
    );
    disk.cached = config.volatile_cache;
    Ok(disk)
}

/// Sectors of data a node's device has room for.
pub fn usable(config: &Config, node: usize, volume: usize) -> Option<u64> {
    let placement = placement(config, node, volume);
    let geometry = Geometry::new(
        placement,
        config.slots(node),
        bitmap_block(config, node).ok()?,
        AlStriping::DEFAULT,
    )
    .ok()?;
    let external = config.volumes[volume].device_bytes[node] / 512;
    Some(if config.volumes[volume].internal {
        geometry.usable_sectors()
    } else {
        external.min(geometry.usable_sectors())
    })
}

/// The devices of a volume as a driver measures them.
pub fn backing(config: &Config, node: usize, volume: usize) -> Backing {
    let v = &config.volumes[volume];
    let disk = format!("/dev/disk{volume}");
    let discard_granularity = (config.discard_granularities.iter())
        .find(|(n, _)| *n == node)
        .map_or(4096, |(_, size)| *size);
    Backing {
        meta_disk: if v.internal {
            disk.clone()
        } else {
            format!("/dev/meta{volume}")
        },
        disk,
        meta: if v.internal {
            MetaPlace::Internal
        } else {
            MetaPlace::FlexExternal
        },
        disk_bytes: v.device_bytes[node],
        meta_bytes: if v.internal {
            v.device_bytes[node]
        } else {
            EXTERNAL_META
        },
        logical_block: (config.logical_blocks.iter())
            .find(|(n, _)| *n == node)
            .map_or(512, |(_, size)| *size),
        physical_block: 4096,
        discard_granularity,
        max_discard: if discard_granularity == 0 {
            0
        } else {
            128 << 20
        },
        volatile_cache: config.volatile_cache,
    }
}

/// Metadata as another node, or the next start, would read it.
#[derive(Clone, Debug)]
pub struct Decoded {
    /// The superblock.
    pub superblock: Superblock,
    /// Extents in the activity log.
    pub hot: Vec<u32>,
    /// Where the bitmap area is in the region.
    pub bitmap: Range<usize>,
}

impl Decoded {
    /// Reads a metadata region.
    pub fn read(disk: &Disk, bytes: &[u8], placement: Placement) -> Result<Decoded, String> {
        let block = |offset: u64| -> Result<&[u8; 4096], String> {
            let at = offset
                .checked_sub(disk.meta_start)
                .and_then(|a| usize::try_from(a).ok());
            at.and_then(|a| bytes.get(a..a + 4096))
                .and_then(|b| b.try_into().ok())
                .ok_or_else(|| format!("no block at {offset}"))
        };
        let superblock =
            Superblock::parse(block(disk.superblock)?, placement).map_err(|e| e.to_string())?;
        let geometry = superblock.geometry(placement).map_err(|e| e.to_string())?;
        let al = geometry.al_sector() * 512;
        let layout = AlLayout::new(geometry.al_sector(), geometry.striping());
        let replayed = replay(&layout, |i, out| {
            out.copy_from_slice(block(al + u64::from(i) * 4096)?);
            Ok::<(), String>(())
        });
        let hot = match replayed {
            Ok(r) => r.hot,
            Err(_) if !superblock.must_apply_al() => Vec::new(),
            Err(e) => return Err(format!("activity log cannot be replayed: {e}")),
        };
        let from = (geometry.bitmap_sector() * 512 - disk.meta_start) as usize;
        let to = from + (geometry.bitmap_sectors() * 512) as usize;
        if bytes.get(from..to).is_none() {
            return Err("bitmap outside the region".into());
        }
        Ok(Decoded {
            superblock,
            hot,
            bitmap: from..to,
        })
    }

    /// Of a node's volume, what is durable.
    pub fn durable(
        config: &Config,
        node: usize,
        volume: usize,
        disk: &Disk,
    ) -> Result<Decoded, String> {
        Decoded::read(
            disk,
            disk.durable_metadata(),
            placement(config, node, volume),
        )
    }

    /// Whether an attach would mark the extents of the activity log.
    pub fn replays(&self) -> bool {
        self.superblock.must_apply_al()
    }

    /// Whether the 4 KiB block with this number is marked towards a node, after a replay; `region` holds the bitmap.
    pub fn marked(&self, region: &[u8], towards: usize, block: u64) -> bool {
        if self.replays() && self.hot.contains(&((block >> 10) as u32)) {
            return true;
        }
        let entry = &self.superblock.peers[towards];
        if entry.flags.contains(drbd_meta::flags::PeerFlags::FULL_SYNC) {
            return true;
        }
        let Some(slot) = entry.bitmap_index else {
            return false;
        };
        self.bit(region, slot.into(), block)
    }

    /// The bit of a slot for a 4 KiB block; bits may stand for more than one.
    fn bit(&self, region: &[u8], slot: u64, block: u64) -> bool {
        let bit = block >> (self.superblock.block_size.sector_shift() - 3);
        let word = (bit / 32) * u64::from(self.superblock.max_peers) + slot;
        let at = (word * 4 + (bit % 32) / 8) as usize;
        let bitmap = region.get(self.bitmap.clone()).unwrap_or_default();
        bitmap.get(at).is_some_and(|b| b >> (bit % 8) & 1 == 1)
    }

    /// Whether every bit of the range of blocks is set in every slot.
    pub fn all_marked(&self, region: &[u8], blocks: Range<u64>) -> bool {
        let slots = u64::from(self.superblock.max_peers);
        (blocks.into_iter()).all(|b| (0..slots).all(|s| self.bit(region, s, b)))
    }
}

#[cfg(test)]
mod tests;
