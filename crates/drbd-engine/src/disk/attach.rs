//! Attaching: the metadata is read and checked, the activity log applied (metadata, section 6).

use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;

use drbd_meta::Block;
use drbd_meta::activity_log::{AlBlock, AlLayout, encode_initialised, replay::replay_area};
use drbd_meta::flags::LocalFlags;
use drbd_meta::geometry::{Geometry, MdIndex, Placement, bitmap_bytes};
use drbd_meta::superblock::{Format, Superblock};
use drbd_proto::{DiskState, NodeId, VolumeNr};

use crate::activity_log::ExtentNr;
use crate::bitmap::{Bitmap, PageNr, Slot};
use crate::command::{Backing, MetaPlace, Reply, RetCode};
use crate::control::ControlOp;
use crate::effect::{Effect, LogLevel, MetaBlock};
use crate::engine::{Engine, Op};
use crate::event::{OpOutput, OpResult};
use crate::id::CmdId;
use crate::metadata::MetaWriter;
use crate::options::DiskOptions;
use crate::state::change::ChangeFlags;
use crate::uuid::GenIds;
use crate::volume::{Disk, FullSync};

use super::{Attaching, READ_PIECE, RING_PIECE, Step, check_slots};

impl Engine {
    /// `attach`.
    pub(crate) fn attach_command(
        &mut self,
        cmd: CmdId,
        v: VolumeNr,
        backing: Backing,
        options: DiskOptions,
    ) -> Option<Reply> {
        let Some(volume) = self.volumes.get(&v) else {
            return Some(Reply::new(RetCode::ERR_MINOR_INVALID));
        };
        if volume.disk.is_some() || self.state.disk(v) != DiskState::Diskless {
            return Some(Reply::new(RetCode::ERR_DISK_CONFIGURED));
        }
        if self.disk_still_works(v) {
            let text = "requests to the disk that was given up are still under way";
            return Some(Reply::with(RetCode::ERR_DISK_CONFIGURED, text));
        }
        let placement = Placement {
            index: match backing.meta {
                MetaPlace::Internal => MdIndex::Internal,
                MetaPlace::FlexExternal => MdIndex::FlexExternal,
                MetaPlace::Indexed(n) => match u8::try_from(n) {
                    Ok(n) => MdIndex::Indexed(n),
                    Err(_) => return Some(Reply::new(RetCode::ERR_MD_IDX_INVALID)),
                },
            },
            device_size: backing.meta_bytes,
        };
        let offset = match placement.superblock_offset() {
            Ok(offset) => offset,
            Err(error) => {
                let text = format!("{}: {error}", backing.meta_disk);
                return Some(Reply::with(RetCode::ERR_MD_DISK_TOO_SMALL, text));
            }
        };
        // A placeholder until the superblock is known; nothing is written before.
        let Ok(geometry) = Geometry::new(
            placement,
            1,
            drbd_meta::geometry::BitmapBlockSize::DEFAULT,
            drbd_meta::geometry::AlStriping::DEFAULT,
        ) else {
            let text = format!("{} is too small for DRBD metadata", backing.meta_disk);
            return Some(Reply::with(RetCode::ERR_MD_DISK_TOO_SMALL, text));
        };
        if let Err(code) = self.change(ChangeFlags::SOFT, |s| {
            if let Some(d) = s.devices.get_mut(&v) {
                d.disk = DiskState::Attaching;
            }
        }) {
            return Some(Reply::new(code));
        }
        let bitmap = match Bitmap::new(0, 4096, 1) {
            Ok(bitmap) => bitmap,
            Err(_) => return Some(Reply::new(RetCode::ERR_NOMEM)),
        };
        let sb = Superblock::create(Format::V09, &geometry);
        let gen_ids = GenIds::just_created(self.node_id);
        if let Some(volume) = self.volumes.get_mut(&v) {
            volume.disk = Some(Disk {
                backing,
                options,
                meta: MetaWriter::new(sb, geometry),
                gen_ids,
                bitmap,
                measured: None,
                loaded: false,
                full_sync: FullSync::No,
            });
        }
        self.attaching.insert(
            v,
            Attaching {
                step: Step::Superblock,
                effective_size: 0,
                ring: Vec::new(),
                ring_written: 0,
                first_transaction: None,
                replayed: false,
            },
        );
        self.pending.attaches.insert(v, cmd);
        self.attach_read(v, offset, 4096);
        None
    }

    fn attach_read(&mut self, v: VolumeNr, offset: u64, len: u32) {
        let op = self.op(Op::Control(ControlOp::Attach(v)));
        self.push(Effect::MetaRead {
            op,
            volume: v,
            offset,
            len,
        });
    }

    /// A step of an attach has ended.
    pub(crate) fn attach_step(&mut self, v: VolumeNr, result: OpResult) {
        let Some(step) = self.attaching.get(&v).map(|a| a.step) else {
            return;
        };
        if self.attach_ends_early(v) {
            return;
        }
        let output = match result {
            Ok(output) => output,
            Err(error) => {
                let text = format!("{error} in the metadata area");
                return self.attach_failed(v, RetCode::ERR_IO_MD_DISK, &text);
            }
        };
        match (step, output) {
            (Step::Superblock, OpOutput::Bytes(bytes)) => self.attach_superblock(v, &bytes),
            (Step::Bitmap { at, bytes }, OpOutput::Bytes(data)) => {
                self.attach_bitmap(v, at, bytes, &data);
            }
            (Step::Ring, OpOutput::Bytes(data)) => self.attach_ring(v, data),
            (Step::InitRing, OpOutput::Nothing) => self.attach_init_ring(v),
            _ => self.attach_failed(v, RetCode::ERR_IO_MD_DISK, "unexpected answer of the disk"),
        }
    }

    fn attach_superblock(&mut self, v: VolumeNr, bytes: &[u8]) {
        let Some(block) = bytes.first_chunk::<4096>() else {
            return self.attach_failed(v, RetCode::ERR_IO_MD_DISK, "short read of the superblock");
        };
        let Some(disk) = self.disk_ref(v) else { return };
        let placement = disk.meta.geometry.placement();
        let (sb, geometry) = match Superblock::decode(block)
            .and_then(|sb| sb.geometry(placement).map(|geometry| (sb, geometry)))
        {
            Ok(ok) => ok,
            Err(error) => {
                return self.attach_failed(v, RetCode::ERR_MD_INVALID, &format!("{error}"));
            }
        };
        let v08_peer = match self.only_peer() {
            _ if sb.magic.format() != Format::V08 => None,
            Some(peer) => Some(peer),
            None => {
                let text = "v08 metadata has room for one peer: convert it with drbdmeta create-md";
                return self.attach_failed(v, RetCode::ERR_MD_INVALID, text);
            }
        };
        let sb = match v08_peer {
            Some(peer) => sb.with_only_peer(self.node_id.get(), peer.get()),
            None => sb,
        };
        if let Some(stored) = sb.node_id.filter(|n| *n != self.node_id.get()) {
            let text = format!(
                "the metadata belongs to node {stored}, but this is node {}",
                self.node_id
            );
            return self.attach_failed(v, RetCode::ERR_INVALID_REQUEST, &text);
        }
        if let Err(text) = check_slots(&sb, self.node_id) {
            return self.attach_failed(v, RetCode::ERR_MD_INVALID, &text);
        }
        let data_sectors = disk.backing.disk_bytes >> 9;
        let limit = geometry.attach_limit(data_sectors);
        let wanted = sb
            .effective_size
            .max(self.volumes.get(&v).map_or(0, |x| x.size));
        if limit < wanted {
            let text = format!(
                "{} has room for {limit} sectors, the device has {wanted}",
                disk.backing.disk
            );
            return self.attach_failed(v, RetCode::ERR_DISK_TOO_SMALL, &text);
        }
        let effective = sb.effective_size;
        let slots = sb.max_peers;
        let bitmap = match Bitmap::new(effective, sb.block_size.bytes(), slots) {
            Ok(bitmap) => bitmap,
            Err(error) => {
                return self.attach_failed(v, RetCode::ERR_NOMEM, &format!("bitmap: {error}"));
            }
        };
        let area = bitmap_bytes(effective, sb.block_size, slots).unwrap_or(0);
        let gen_ids = GenIds::load(self.node_id, &sb);
        let me = self.node_id.get();
        if let Some(disk) = self.disk_mut(v) {
            disk.gen_ids = gen_ids;
            disk.bitmap = bitmap;
            disk.meta = MetaWriter::new(sb, geometry);
            disk.meta.sb.node_id = Some(me);
            disk.meta.v08_peer = v08_peer;
        }
        let peers: Vec<NodeId> = self.conns.keys().copied().collect();
        for peer in peers {
            if !self.assign_slot(peer, v) {
                let text = format!("no free bitmap slot in the metadata for node {peer}");
                return self.attach_failed(v, RetCode::ERR_INVALID_REQUEST, &text);
            }
        }
        if let Some(a) = self.attaching.get_mut(&v) {
            a.effective_size = effective;
        }
        if area == 0 {
            return self.attach_bitmap_loaded(v);
        }
        self.attach_read_bitmap(v, 0, area);
    }

    /// The peer that metadata of the 8 series is about: the configured one, or before there is one, of
    /// nodes 0 and 1 the other.
    fn only_peer(&self) -> Option<NodeId> {
        let mut peers = self.conns.keys().copied();
        match (peers.next(), peers.next()) {
            (Some(peer), None) => Some(peer),
            (None, _) => NodeId::new(1u32.checked_sub(self.node_id.get().into())?),
            _ => None,
        }
    }

    fn attach_read_bitmap(&mut self, v: VolumeNr, at: u64, bytes: u64) {
        let Some(disk) = self.disk_ref(v) else { return };
        let start = disk.meta.geometry.bitmap_sector() << 9;
        let len = bytes
            .saturating_sub(at)
            .min(READ_PIECE)
            .next_multiple_of(4096);
        if let Some(a) = self.attaching.get_mut(&v) {
            a.step = Step::Bitmap { at, bytes };
        }
        self.attach_read(v, start + at, u32::try_from(len).unwrap_or(4096));
    }

    fn attach_bitmap(&mut self, v: VolumeNr, at: u64, bytes: u64, data: &[u8]) {
        if let Some(disk) = self.disk_mut(v) {
            for (i, page) in data.chunks_exact(4096).enumerate() {
                let nr = at / 4096 + i as u64;
                if let (Some(page), true) = (page.first_chunk(), nr < disk.bitmap.pages()) {
                    disk.bitmap.load(PageNr(nr), page);
                }
            }
        }
        let next = at + data.len() as u64;
        if data.is_empty() {
            return self.attach_failed(v, RetCode::ERR_IO_MD_DISK, "short read of the bitmap");
        }
        if next < bytes {
            return self.attach_read_bitmap(v, next, bytes);
        }
        self.attach_bitmap_loaded(v);
    }

    fn attach_bitmap_loaded(&mut self, v: VolumeNr) {
        let Some(disk) = self.disk_ref(v) else { return };
        let flags = disk.meta.sb.flags;
        if flags.contains(LocalFlags::AL_CLEAN) {
            return self.attach_ready(v);
        }
        // Unclean: this node went down while the disk was in use.
        let start = disk.meta.geometry.al_sector() << 9;
        let bytes = u64::from(disk.meta.geometry.striping().sectors()) << 9;
        if let Some(a) = self.attaching.get_mut(&v) {
            a.step = Step::Ring;
            if a.ring.try_reserve_exact(bytes as usize).is_err() {
                return self.attach_failed(v, RetCode::ERR_NOMEM, "activity log");
            }
        }
        let len = bytes.min(READ_PIECE);
        self.attach_read(v, start, u32::try_from(len).unwrap_or(4096));
    }

    fn attach_ring(&mut self, v: VolumeNr, data: Vec<u8>) {
        let Some(disk) = self.disk_ref(v) else { return };
        let geometry = disk.meta.geometry;
        let start = geometry.al_sector() << 9;
        let bytes = u64::from(geometry.striping().sectors()) << 9;
        // Without a log its place may hold anything: it was to be moved there.
        let primary_ind = disk.meta.sb.flags.contains(LocalFlags::PRIMARY_IND)
            && !disk.meta.sb.flags.contains(LocalFlags::AL_DISABLED);
        let Some(a) = self.attaching.get_mut(&v) else {
            return;
        };
        if data.is_empty() {
            return self.attach_failed(v, RetCode::ERR_IO_MD_DISK, "short read of the log");
        }
        a.ring.extend_from_slice(&data);
        let have = a.ring.len() as u64;
        if have < bytes {
            let len = (bytes - have).min(READ_PIECE);
            return self.attach_read(v, start + have, u32::try_from(len).unwrap_or(4096));
        }
        let ring = core::mem::take(&mut a.ring);
        let layout = AlLayout::new(geometry.al_sector(), geometry.striping());
        let hot = match replay_area(&layout, &ring) {
            Ok(replay) => replay.hot,
            Err(error) if primary_ind => {
                return self.attach_failed(v, RetCode::ERR_MD_UNCLEAN, &format!("{error}"));
            }
            Err(_) => Vec::new(),
        };
        let hot = if primary_ind { hot } else { Vec::new() };
        let (blocks, _) = ring.as_chunks::<4096>();
        let is_transaction =
            |block: &&Block| matches!(AlBlock::decode(block), Ok(AlBlock::Transaction(_)));
        // A ring with transactions keeps one in its first place until all others are gone.
        let first_transaction = match blocks.first().filter(is_transaction) {
            Some(_) => None,
            None => blocks.iter().find(is_transaction).map(|b| Box::new(*b)),
        };
        self.log_at(
            LogLevel::Info,
            None,
            Some(v),
            format!(
                "applied the activity log: {} extents were active",
                hot.len()
            ),
        );
        if let Some(disk) = self.disk_mut(v) {
            for extent in hot {
                let Some(bits) = disk.bitmap.bits_of_extent(ExtentNr(extent)) else {
                    continue;
                };
                let slots: Vec<Slot> = disk.bitmap.all_slots().collect();
                for slot in slots {
                    disk.bitmap.set_bits(slot, bits.clone());
                }
            }
        }
        if let Some(a) = self.attaching.get_mut(&v) {
            a.replayed = true;
            a.first_transaction = first_transaction;
            a.step = Step::ReplayedBitmap;
        }
        // The bits are durable before the log forgets them.
        self.data_bitmap_writeout(v);
        self.attach_progress(v);
    }

    /// Goes on with attaches that wait for the bitmap.
    pub(crate) fn attach_progress(&mut self, v: VolumeNr) {
        let waits = self
            .attaching
            .get(&v)
            .is_some_and(|a| a.step == Step::ReplayedBitmap);
        if waits && self.attach_ends_early(v) {
            // Nothing more is done for it.
        } else if waits && self.data_bitmap_written(v) {
            if let Some(a) = self.attaching.get_mut(&v) {
                a.step = Step::InitRing;
            }
            self.attach_init_ring(v);
        } else if waits {
            // Bits of writes that a peer has completed meanwhile.
            self.data_bitmap_writeout(v);
        }
    }

    fn attach_init_ring(&mut self, v: VolumeNr) {
        let Some(disk) = self.disk_ref(v) else { return };
        let geometry = disk.meta.geometry;
        let blocks = geometry.striping().blocks();
        let start = geometry.al_sector() << 9;
        let done = self.attaching.get(&v).map_or(0, |a| a.ring_written);
        if done >= blocks {
            return self.attach_ready(v);
        }
        let Some(a) = self.attaching.get_mut(&v) else {
            return;
        };
        let (pieces, content) = match a.first_transaction.take() {
            Some(block) => (0..1, block),
            None => {
                // The first block comes last, and alone: what a loss of power leaves can be replayed at any time,
                // for either that block is whole, or it is the only one that is torn.
                let left = blocks - done;
                let from = left.saturating_sub(RING_PIECE as u32).max(1).min(left - 1);
                a.ring_written = blocks - from;
                (from..left, Box::new(encode_initialised()))
            }
        };
        let list: Vec<MetaBlock> = pieces
            .map(|i| MetaBlock {
                offset: start + u64::from(i) * 4096,
                data: content.clone(),
            })
            .collect();
        let op = self.op(Op::Control(ControlOp::Attach(v)));
        self.push(Effect::MetaWrite {
            op,
            volume: v,
            blocks: list,
            barrier: true,
        });
    }
}
