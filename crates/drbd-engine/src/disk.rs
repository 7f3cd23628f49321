//! A disk comes and goes (state machine, section 14; metadata, section 7).

use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;

use drbd_meta::activity_log::{AlLayout, encode_initialised, replay::replay_area};
use drbd_meta::flags::{LocalFlags, PeerFlags};
use drbd_meta::geometry::{Geometry, MdIndex, Placement, bitmap_bytes};
use drbd_meta::superblock::{Format, Superblock};
use drbd_proto::{ConnState, Dagtag, DiskState, NodeId, Role, VolumeNr};

use crate::activity_log::ExtentNr;
use crate::bitmap::{Bitmap, Fill, PageNr, Slot};
use crate::command::{Backing, MetaPlace, Reply, RetCode};
use crate::connection::Negotiation;
use crate::control::ControlOp;
use crate::effect::{Effect, LogLevel, MetaBlock};
use crate::engine::{Engine, Op};
use crate::event::{OpOutput, OpResult};
use crate::id::CmdId;
use crate::metadata::MetaWriter;
use crate::options::{DiskOptions, OnIoError};
use crate::state::change::ChangeFlags;
use crate::twopc::{ChangeKind, Requester};
use crate::uuid::GenIds;
use crate::volume::{Disk, FullSync};

/// Largest piece of the metadata area that is read at once, in bytes.
const READ_PIECE: u64 = 1 << 20;
/// Blocks of the activity log ring that are written at once.
const RING_PIECE: usize = 64;

/// What went wrong on a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DiskFault {
    /// Reading data.
    Read,
    /// Writing data.
    Write,
    /// Metadata.
    Meta,
}

/// An attach under way, until the disk can be used.
#[derive(Debug)]
pub(crate) struct Attaching {
    step: Step,
    /// What the superblock said about the size, in sectors.
    effective_size: u64,
    /// Content of the ring, while it is being read.
    ring: Vec<u8>,
    /// Blocks of the ring that are initialised again.
    ring_written: u32,
    /// Was the activity log replayed?
    replayed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Superblock,
    /// Reading the bitmap from this byte of its area on.
    Bitmap {
        at: u64,
        bytes: u64,
    },
    /// Reading the ring.
    Ring,
    /// The replayed bits are being written.
    ReplayedBitmap,
    /// The ring is being initialised.
    InitRing,
    /// The first superblock of this attach is being written.
    Final,
    /// Peers are being asked.
    Negotiating,
}

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
        if sb.magic.format() != Format::V09 {
            let text = "v08 metadata: convert it with drbdmeta create-md";
            return self.attach_failed(v, RetCode::ERR_MD_INVALID, text);
        }
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
        let primary_ind = disk.meta.sb.flags.contains(LocalFlags::PRIMARY_IND);
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
        if waits && self.data_bitmap_written(v) {
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
        let n = (blocks - done).min(RING_PIECE as u32);
        let content = encode_initialised();
        let list: Vec<MetaBlock> = (done..done + n)
            .map(|i| MetaBlock {
                offset: start + u64::from(i) * 4096,
                data: Box::new(content),
            })
            .collect();
        if let Some(a) = self.attaching.get_mut(&v) {
            a.ring_written = done + n;
        }
        let op = self.op(Op::Control(ControlOp::Attach(v)));
        self.push(Effect::MetaWrite {
            op,
            volume: v,
            blocks: list,
            barrier: true,
        });
    }

    /// Everything is read: the disk can be used once its first superblock is written.
    fn attach_ready(&mut self, v: VolumeNr) {
        let Some(a) = self.attaching.get_mut(&v) else {
            return;
        };
        a.step = Step::Final;
        let effective = a.effective_size;
        let suspended_primary = self.state.role == Role::Primary && self.state.suspended();
        let quorum = self.state.devices.get(&v).is_none_or(|d| d.quorum);
        let me = self.node_id;
        let primary = self.state.role == Role::Primary;
        let Some(volume) = self.volumes.get_mut(&v) else {
            return;
        };
        // The ring is initialised; a torn first block is harmless in its first place only.
        volume.data.al_tr_number = 0;
        let Some(disk) = volume.disk.as_mut() else {
            return;
        };
        let flags = disk.meta.sb.flags;
        let exposes = !volume.exposed.is_none() || volume.flags.new_cur_uuid;
        volume.flags.crashed_primary = flags.contains(LocalFlags::CRASHED_PRIMARY)
            && !suspended_primary
            && !(exposes && primary);
        volume.flags.primary_lost_quorum =
            flags.contains(LocalFlags::PRIMARY_LOST_QUORUM) && !quorum;
        volume.flags.restore_quorum = flags.contains(LocalFlags::HAVE_QUORUM)
            && flags.contains(LocalFlags::WAS_UP_TO_DATE)
            && disk.meta.sb.members == me.mask().0;
        let mut dagtag = Dagtag(0);
        for n in NodeId::all() {
            if !disk.gen_ids.bitmap(n).is_none() && disk.gen_ids.dagtag(n).0 > dagtag.0 {
                dagtag = disk.gen_ids.dagtag(n);
            }
        }
        if !primary {
            disk.gen_ids.mark_primary(false);
        }
        // Without an activity log nothing tells which blocks were written lately (data path, section 13.6).
        // As the metadata has it: a Primary whose disk failed attaches it again without having crashed.
        let no_log =
            flags.contains(LocalFlags::PRIMARY_IND) && flags.contains(LocalFlags::AL_DISABLED);
        let was_primary = no_log && flags.contains(LocalFlags::CRASHED_PRIMARY);
        let mut full = Vec::new();
        let mut unseen = Vec::new();
        for (n, entry) in NodeId::all().zip(disk.meta.sb.peers.iter()) {
            if entry.flags.contains(PeerFlags::FULL_SYNC) {
                full.push(n);
            }
            // A Secondary got writes that this peer did not; the marks were in memory (a deviation: the
            // reference forgets them).
            if no_log && !entry.flags.contains(PeerFlags::CONNECTED) {
                unseen.extend(entry.bitmap_index.map(Slot));
            }
        }
        if no_log {
            let used = |slot: Slot| {
                let mut peers = disk.meta.sb.peers.iter();
                peers.any(|p| p.bitmap_index == Some(slot.0))
            };
            unseen.extend(disk.bitmap.all_slots().filter(|slot| !used(*slot)));
        }
        disk.meta.sb.al_nr_extents = disk.options.al_extents;
        let fresh = effective == 0;
        let al_disabled = !disk.options.al_updates;
        disk.meta.sb.flags.set(LocalFlags::AL_DISABLED, al_disabled);
        disk.loaded = true;
        self.data_raise_dagtag(dagtag);
        self.data_attached(v);
        if let Err(text) = self.size_at_attach(v, fresh) {
            return self.attach_failed(v, RetCode::ERR_IMPLICIT_SHRINK, &text);
        }
        if no_log {
            if let Some(disk) = self.disk_mut(v) {
                if was_primary {
                    disk.bitmap.set_all_slots();
                } else {
                    for slot in unseen {
                        disk.bitmap.set_all(slot);
                    }
                }
            }
            self.data_bitmap_writeout(v);
        }
        for n in full {
            self.set_all_bits(v, n.mask());
        }
        // AL_CLEAN is gone from the disk before the disk is used (metadata, section 4.2).
        if let Some(disk) = self.disk_mut(v) {
            disk.meta.sb.flags.remove(LocalFlags::AL_CLEAN);
        }
        self.md_touch();
        self.write_dirty_superblocks();
    }

    /// The first superblock of this attach is on the disk.
    pub(crate) fn attach_superblock_written(&mut self, v: VolumeNr) {
        if self
            .attaching
            .get(&v)
            .is_some_and(|a| a.step == Step::Final)
        {
            self.attach_final(v);
        }
    }

    /// The last step: Negotiating if a connected peer has a disk, else the state of the metadata.
    fn attach_final(&mut self, v: VolumeNr) {
        let current = self.current_uuid(v);
        let exposed = self.volumes.get(&v).map(|x| x.exposed).unwrap_or_default();
        let peer_has_data = self
            .state
            .peers_of(v)
            .any(|(_, _, pd)| pd.pdisk == DiskState::UpToDate);
        if self.state.role == Role::Primary
            && !exposed.is_none()
            && !exposed.same(current)
            && !peer_has_data
        {
            let text = "this disk does not have the data the Primary works with";
            return self.attach_failed(v, RetCode::ERR_DATA_NOT_CURRENT, text);
        }
        let ask = self.state.peers_of(v).any(|(_, c, pd)| {
            c.cstate == ConnState::Connected
                && pd.pdisk > DiskState::Diskless
                && pd.pdisk != DiskState::Unknown
        });
        for conn in self.conns.values_mut() {
            if let Some(known) = conn.peers.get_mut(&v) {
                known.negotiation = Negotiation::NotYet;
            }
        }
        if let Some(a) = self.attaching.get_mut(&v) {
            a.step = Step::Negotiating;
        }
        if ask {
            return self.twopc_request(ChangeKind::Attach { volume: v }, Requester::Attach);
        }
        self.attach_without_peers(v);
    }

    fn attach_without_peers(&mut self, v: VolumeNr) {
        let disk = self.disk_state_from_md(&self.state, v);
        let outdated: Vec<NodeId> = self
            .conns
            .keys()
            .copied()
            .filter(|n| {
                self.disk_ref(v)
                    .is_some_and(|d| d.meta.peer(*n).flags.contains(PeerFlags::OUTDATED))
            })
            .collect();
        let result = self.change(ChangeFlags::HARD, |s| {
            if let Some(d) = s.devices.get_mut(&v) {
                d.disk = disk;
            }
            for n in outdated {
                if let Some(pd) = s.pd_mut(n, v)
                    && pd.pdisk == DiskState::Unknown
                {
                    pd.pdisk = DiskState::Outdated;
                }
            }
        });
        if let Err(code) = result {
            return self.attach_failed(v, code, "the state change was refused");
        }
        self.attach_done(v);
    }

    /// The cluster has agreed to the attach, or not.
    pub(crate) fn attach_negotiation_decided(
        &mut self,
        v: VolumeNr,
        result: Result<RetCode, RetCode>,
    ) {
        match result {
            Ok(_) => {}
            Err(RetCode::NEED_CONNECTION) => self.attach_final(v),
            // One disk negotiates at a time in a cluster (section 4.3): a peer's has the turn.
            Err(RetCode::IN_TRANSIENT_STATE) => {
                let kind = ChangeKind::Attach { volume: v };
                let delay = self.twopc_backoff(3);
                self.twopc_request_after(kind, Requester::Attach, delay);
            }
            Err(code) => self.attach_failed(v, code, "the peers refused the attach"),
        }
    }

    /// Answers attaches whose negotiation has ended; called after each event.
    pub(crate) fn attach_settle(&mut self) {
        let volumes: Vec<VolumeNr> = self.attaching.keys().copied().collect();
        for v in volumes {
            self.attach_progress(v);
            let step = self.attaching.get(&v).map(|a| a.step);
            if step == Some(Step::Negotiating) {
                match self.state.disk(v) {
                    // A failed attach is answered when the device has been let go of.
                    DiskState::Attaching
                    | DiskState::Negotiating
                    | DiskState::Detaching
                    | DiskState::Failed => {}
                    DiskState::Diskless => {
                        self.attaching.remove(&v);
                        if let Some(cmd) = self.pending.attaches.remove(&v) {
                            self.reply(cmd, Reply::new(RetCode::ERR_DATA_NOT_CURRENT));
                        }
                    }
                    _ => self.attach_done(v),
                }
            }
        }
    }

    fn attach_done(&mut self, v: VolumeNr) {
        self.attaching.remove(&v);
        self.update_limits();
        if let Some(cmd) = self.pending.attaches.remove(&v) {
            self.reply(cmd, Reply::new(RetCode::NO_ERROR));
        }
    }

    fn attach_failed(&mut self, v: VolumeNr, code: RetCode, text: &str) {
        self.attaching.remove(&v);
        self.log_at(
            LogLevel::Error,
            None,
            Some(v),
            format!("attach failed: {text}"),
        );
        if self
            .volumes
            .get_mut(&v)
            .and_then(|x| x.disk.take())
            .is_some()
        {
            self.push(Effect::Detach { volume: v });
        }
        self.md_dirty = true;
        let _ = self.change(ChangeFlags::HARD, |s| {
            if let Some(d) = s.devices.get_mut(&v) {
                d.disk = DiskState::Diskless;
            }
        });
        if let Some(cmd) = self.pending.attaches.remove(&v) {
            self.reply(cmd, Reply::with(code, text));
        }
    }

    /// Gives a peer a bitmap slot on the own disk, if it needs one and has none.
    pub(crate) fn assign_slot(&mut self, peer: NodeId, v: VolumeNr) -> bool {
        let wants = self.peer_device(peer, v).is_none_or(|k| k.options.bitmap);
        let Some(nodes) = self.nodes(v) else {
            return true;
        };
        if nodes.slot(peer).is_some() || !wants {
            return true;
        }
        let Some(free) = nodes.free_slot() else {
            return false;
        };
        if let Some(disk) = self.disk_mut(v)
            && let Some(entry) = disk.meta.sb.peers.get_mut(peer.index())
        {
            entry.bitmap_index = Some(free.0);
        }
        self.md_touch();
        true
    }

    // ----- detach -------------------------------------------------------------------------------------

    /// `detach`.
    pub(crate) fn detach_command(
        &mut self,
        cmd: CmdId,
        v: VolumeNr,
        force: bool,
        diskless: bool,
    ) -> Option<Reply> {
        let Some(volume) = self.volumes.get_mut(&v) else {
            return Some(Reply::new(RetCode::ERR_MINOR_INVALID));
        };
        if diskless {
            volume.options.diskless = true;
        }
        if volume.disk.is_none() {
            return Some(Reply::new(RetCode::NOTHING_TO_DO));
        }
        self.pending.detaches.insert(v, cmd);
        if force {
            self.forced_detach.insert(v);
            let _ = self.change(ChangeFlags::HARD, |s| {
                if let Some(d) = s.devices.get_mut(&v) {
                    d.disk = DiskState::Detaching;
                }
            });
            return None;
        }
        self.twopc_request(ChangeKind::Detach { volume: v }, Requester::Command(cmd));
        None
    }

    /// The cluster has agreed to the detach, or not.
    pub(crate) fn detach_decided(&mut self, v: VolumeNr, result: Result<RetCode, RetCode>) {
        if let Err(code) = result
            && let Some(cmd) = self.pending.detaches.remove(&v)
        {
            self.reply(cmd, Reply::new(code));
        }
    }

    /// I/O on a disk failed (section 14.4).
    pub(crate) fn disk_failed(&mut self, v: VolumeNr, fault: DiskFault) {
        let disk = self.state.disk(v);
        if self.attaching.contains_key(&v) && disk == DiskState::Attaching {
            return self.attach_failed(v, RetCode::ERR_IO_MD_DISK, "I/O error while attaching");
        }
        if disk <= DiskState::Failed {
            return;
        }
        let policy = self
            .disk_ref(v)
            .map_or(OnIoError::Detach, |d| d.options.on_io_error);
        let what = match fault {
            DiskFault::Read => "read error",
            DiskFault::Write => "write error",
            DiskFault::Meta => "metadata I/O error",
        };
        let to = match policy {
            OnIoError::PassOn if fault != DiskFault::Meta => DiskState::Inconsistent,
            _ => DiskState::Failed,
        };
        self.log_at(
            LogLevel::Error,
            None,
            Some(v),
            format!("Local IO failed: {what}."),
        );
        if policy == OnIoError::CallLocalIoError {
            let op = self.op(Op::Control(ControlOp::Upcall));
            let about = (None, Some(v));
            self.push(Effect::Upcall {
                op,
                handler: "local-io-error",
                about,
            });
        }
        if disk > DiskState::Inconsistent || to == DiskState::Failed {
            let _ = self.change(ChangeFlags::HARD, |s| {
                if let Some(d) = s.devices.get_mut(&v) {
                    d.disk = to;
                }
            });
        }
    }

    /// The data plane has nothing under way on a disk any more; looked at in `disk_settle`.
    pub(crate) fn disk_idle(&mut self, _v: VolumeNr) {}

    /// Lets go of disks that are on their way out and idle; called after each event.
    pub(crate) fn disk_settle(&mut self) {
        let leaving: Vec<VolumeNr> = self
            .volumes
            .values()
            .filter(|x| x.disk.is_some())
            .map(|x| x.nr)
            .filter(|v| {
                matches!(
                    self.state.disk(*v),
                    DiskState::Failed | DiskState::Detaching
                )
            })
            .collect();
        for v in leaving {
            let failed = self.state.disk(v) == DiskState::Failed;
            let bitmap = failed || self.data_bitmap_written(v);
            let superblock = self.disk_ref(v).is_none_or(|d| d.meta.is_settled());
            if self.data_disk_idle(v) && bitmap && superblock && !self.md_dirty {
                self.finish_detach(v);
            } else if !bitmap {
                self.data_bitmap_writeout(v);
            }
        }
    }

    fn finish_detach(&mut self, v: VolumeNr) {
        self.forced_detach.remove(&v);
        if let Some(volume) = self.volumes.get_mut(&v) {
            volume.disk = None;
            volume.flags.crashed_primary = false;
        }
        self.data_disk_gone(v);
        self.push(Effect::Detach { volume: v });
        let _ = self.change(ChangeFlags::HARD, |s| {
            if let Some(d) = s.devices.get_mut(&v) {
                d.disk = DiskState::Diskless;
            }
        });
        if let Some(cmd) = self.pending.detaches.remove(&v) {
            self.reply(cmd, Reply::new(RetCode::SUCCESS));
        }
    }

    /// Grows or shrinks the bitmap with the device.
    pub(crate) fn resize_bitmap(&mut self, v: VolumeNr, sectors: u64, fill: Fill) -> bool {
        let Some(disk) = self.disk_mut(v) else {
            return true;
        };
        if disk.bitmap.capacity() == sectors {
            return true;
        }
        disk.bitmap.resize(sectors, fill).is_ok()
    }
}

/// Slots of the superblock: in range, not our own, each once.
fn check_slots(sb: &Superblock, me: NodeId) -> Result<(), alloc::string::String> {
    let mut used = 0u32;
    for (n, entry) in NodeId::all().zip(&sb.peers) {
        let Some(slot) = entry.bitmap_index else {
            continue;
        };
        if n == me {
            return Err(format!(
                "the metadata has a bitmap slot for this node's own id {n}"
            ));
        }
        if slot >= sb.max_peers {
            return Err(format!(
                "node {n} has bitmap slot {slot} of {}",
                sb.max_peers
            ));
        }
        let bit = 1u32.checked_shl(slot.into()).unwrap_or(0);
        if used & bit != 0 {
            return Err(format!("bitmap slot {slot} belongs to two nodes"));
        }
        used |= bit;
    }
    Ok(())
}
