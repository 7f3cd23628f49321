//! M1, M2, M10: metadata on stable storage tells where replicas may differ.

use drbd_meta::flags::{LocalFlags, PeerFlags};

use crate::disk::Disk;
use crate::format::Decoded;
use crate::ranges::differences;

/// Sectors of an activity log extent.
const EXTENT: u64 = 8192;
/// Sectors of a bitmap block.
const BLOCK: u64 = 8;

/// Whether a write may reach the data area, given durable metadata and the region it is from.
pub fn covered(meta: &Decoded, region: &[u8], sector: u64, sectors: u64) -> Result<(), String> {
    let flags = meta.superblock.flags;
    if !flags.contains(LocalFlags::PRIMARY_IND) {
        return Err("the primary indicator is not durable (M10)".into());
    }
    if flags.contains(LocalFlags::AL_CLEAN) {
        return Err("the durable superblock says that the activity log is clean (M10)".into());
    }
    if flags.contains(LocalFlags::AL_DISABLED) {
        return Ok(());
    }
    for extent in sector / EXTENT..=(sector + sectors - 1) / EXTENT {
        if meta.hot.contains(&(extent as u32)) {
            continue;
        }
        // A suspended activity log is right only if the durable bitmap is all ones.
        let first = (extent * EXTENT).max(sector) / BLOCK;
        let last = ((extent + 1) * EXTENT)
            .min(sector + sectors)
            .div_ceil(BLOCK);
        if !meta.all_marked(region, first..last) {
            return Err(format!(
                "extent {extent} is not in the durable activity log {:?}",
                meta.hot
            ));
        }
    }
    Ok(())
}

/// What a node would find after a loss of power.
pub struct Image {
    /// The node.
    pub node: usize,
    /// Its disk.
    pub disk: Disk,
    /// Its metadata.
    pub meta: Decoded,
}

impl Image {
    fn marked(&self, towards: usize, block: u64) -> bool {
        let region = self.disk.durable_metadata();
        self.meta.marked(region, towards, block)
    }
}

/// Whether the generation identifiers make a comparison of bitmaps decide what is transferred between two
/// nodes. Otherwise it is a full sync, or refused.
fn bitmaps_decide(a: &Image, b: &Image) -> bool {
    let id = |uuid: u64| uuid & !1;
    let (sa, sb) = (&a.meta.superblock, &b.meta.superblock);
    let (ca, cb) = (id(sa.current_uuid), id(sb.current_uuid));
    if ca == 4 || cb == 4 || ca == 0 || cb == 0 {
        return false;
    }
    ca == cb || id(sa.peers[b.node].bitmap_uuid) == cb || id(sb.peers[a.node].bitmap_uuid) == ca
}

/// M2: where two replicas differ, one of the nodes knows.
pub fn check(images: &[Image], size: u64) -> Result<(), String> {
    for (i, a) in images.iter().enumerate() {
        for b in &images[i + 1..] {
            let known = marks_all(a, b.node) || marks_all(b, a.node);
            if !bitmaps_decide(a, b) || known || relies(a, b.node) || relies(b, a.node) {
                continue;
            }
            for d in differences(a.disk.durable(), b.disk.durable(), 0, size) {
                for block in d.start / BLOCK..d.end.div_ceil(BLOCK) {
                    if !a.marked(b.node, block) && !b.marked(a.node, block) {
                        return Err(format!(
                            "after a loss of power nodes {} and {} differ in block {block} (sectors {}..{}: writes {:?} and {:?}), and neither would know",
                            a.node, b.node, d.start, d.end, d.value.0, d.value.1
                        ));
                    }
                }
            }
        }
    }
    Ok(())
}

/// Without an activity log (`al-updates no`) nothing durable tells where writes were on their way. At attach a
/// crashed Primary marks everything, a crashed Secondary everything towards peers it was not connected to
/// (data path, section 13.6), or that lacked something. What others lack, the Primary knows.
fn without_log(image: &Image) -> bool {
    let f = image.meta.superblock.flags;
    f.contains(LocalFlags::AL_DISABLED) && f.contains(LocalFlags::PRIMARY_IND)
}

/// Whether `image` will mark everything towards `peer` when it is attached.
fn marks_all(image: &Image, peer: usize) -> bool {
    let connected = image.meta.superblock.peers[peer]
        .flags
        .contains(PeerFlags::CONNECTED);
    let crashed = image
        .meta
        .superblock
        .flags
        .contains(LocalFlags::CRASHED_PRIMARY);
    let lacks = image.meta.superblock.peers[peer].bitmap_uuid & !1 != 0;
    without_log(image) && (crashed || !connected || lacks)
}

/// Whether `image` relies on a Primary that knows what `peer` lacks.
fn relies(image: &Image, peer: usize) -> bool {
    without_log(image) && !marks_all(image, peer)
}
