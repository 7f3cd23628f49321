//! What the nodes tell each other about a volume (wire protocol, chapters 10 and 11).

use crate::ctx::{AlgName, Ctx, MAX_ALG_NAME};
use crate::flags::{DdsFlags, Features, UuidFlags};
use crate::state::{State, StateWord};
use crate::units::{Bytes, MAX_NODES, NodeId, NodeMask, Sectors, Uuid};
use crate::wire::{Body, Fault, Put, Wire, exactly, get, set, within};

/// P_SYNC_PARAM and P_SYNC_PARAM89. Which fields are on the wire depends on the version: up to 87 the
/// rate, 88 also the verify algorithm, 89 both algorithms, 95 everything. Fields that are not on
/// the wire have their default after decoding. The numbers are history: DRBD 9.2 and up ignore them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncParam {
    /// resync-rate, KiB/s.
    pub rate: u32,
    /// verify-alg.
    pub verify_alg: AlgName,
    /// csums-alg.
    pub csums_alg: AlgName,
    /// c-plan-ahead, 0.1 s.
    pub c_plan_ahead: u32,
    /// c-delay-target, 0.1 s.
    pub c_delay_target: u32,
    /// c-fill-target, sectors.
    pub c_fill_target: u32,
    /// c-max-rate, KiB/s.
    pub c_max_rate: u32,
}

impl Default for SyncParam {
    fn default() -> Self {
        SyncParam {
            rate: 250,
            verify_alg: AlgName::NONE,
            csums_alg: AlgName::NONE,
            c_plan_ahead: 20,
            c_delay_target: 10,
            c_fill_target: 100,
            c_max_rate: 102_400,
        }
    }
}

const SYNC_PARAM_RATE: u32 = 4;
const SYNC_PARAM_88_MAX: u32 = SYNC_PARAM_RATE + MAX_ALG_NAME as u32;
const SYNC_PARAM_89: u32 = 132;
const SYNC_PARAM_95: u32 = 148;

impl Body for SyncParam {
    fn fixed_len(ctx: &Ctx, length: u32) -> Result<u32, Fault> {
        match ctx.version {
            0..=87 => exactly(length, SYNC_PARAM_RATE),
            88 => within(length, SYNC_PARAM_RATE, SYNC_PARAM_88_MAX),
            89..=94 => exactly(length, SYNC_PARAM_89),
            _ => exactly(length, SYNC_PARAM_95),
        }
    }
    fn load(_: &Ctx, bytes: &[u8], length: u32) -> Result<Self, Fault> {
        let mut p = SyncParam {
            rate: get(bytes, 0, "rate")?,
            ..SyncParam::default()
        };
        if length < SYNC_PARAM_89 {
            let rest = bytes.get(4..).unwrap_or_default();
            p.verify_alg = AlgName::load_rest(rest, "verify algorithm length")?;
            return Ok(p);
        }
        p.verify_alg = get(bytes, 4, "verify-alg")?;
        p.csums_alg = get(bytes, 68, "csums-alg")?;
        if length >= SYNC_PARAM_95 {
            p.c_plan_ahead = get(bytes, 132, "c-plan-ahead")?;
            p.c_delay_target = get(bytes, 136, "c-delay-target")?;
            p.c_fill_target = get(bytes, 140, "c-fill-target")?;
            p.c_max_rate = get(bytes, 144, "c-max-rate")?;
        }
        Ok(p)
    }
    fn store(&self, ctx: &Ctx, out: &mut impl Put) {
        let mut buf = [0; SYNC_PARAM_95 as usize];
        set(&mut buf, 0, &self.rate);
        set(&mut buf, 4, &self.verify_alg);
        set(&mut buf, 68, &self.csums_alg);
        set(&mut buf, 132, &self.c_plan_ahead);
        set(&mut buf, 136, &self.c_delay_target);
        set(&mut buf, 140, &self.c_fill_target);
        set(&mut buf, 144, &self.c_max_rate);
        // The shorter forms are the beginning of the long one; the name of 88 ends with its NUL.
        out.put(buf.get(..self.stored_len(ctx)).unwrap_or_default());
    }
    fn stored_len(&self, ctx: &Ctx) -> usize {
        match ctx.version {
            0..=87 => SYNC_PARAM_RATE as usize,
            88 => self
                .verify_alg
                .terminated_len()
                .saturating_add(SYNC_PARAM_RATE as usize),
            89..=94 => SYNC_PARAM_89 as usize,
            _ => SYNC_PARAM_95 as usize,
        }
    }
}

wire_struct! {
    /// The tail of P_SIZES: limits of the sender's backing disk.
    #[derive(Default)]
    pub struct QueueLimits [24] {
        /// Physical block size, bytes.
        pub physical_block_size: u32 = 0,
        /// Logical block size, bytes.
        pub logical_block_size: u32 = 4,
        /// Alignment offset, bytes.
        pub alignment_offset: u32 = 8,
        /// Smallest efficient I/O, bytes.
        pub io_min: u32 = 12,
        /// Best I/O size, bytes.
        pub io_opt: u32 = 16,
        /// Are discards possible? 0 or 1.
        pub discard_enabled: u8 = 20,
        /// Obsolete, 0.
        pub discard_zeroes_data: u8 = 21,
        /// Obsolete, 0.
        pub write_same_capable: u8 = 22,
        /// log2 of the bitmap block size minus 12: 0 (4 KiB) to 8 (1 MiB); with FF_BM_BLOCK_SHIFT.
        pub bm_block_shift: u8 = 23,
    }
}

/// P_SIZES.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Space for data on the backing disk; 0 if diskless.
    pub d_size: Sectors,
    /// Configured disk-size; 0 = none.
    pub u_size: Sectors,
    /// Size of the device as it is; 0 if never configured.
    pub c_size: Sectors,
    /// Largest request of the backing disk.
    pub max_bio_size: Bytes,
    /// 0.
    pub queue_order_type: u16,
    /// How to understand the sizes.
    pub dds_flags: DdsFlags,
    /// On the wire with FF_WSAME only, and always then: `None` is sent as zeroes.
    pub limits: Option<QueueLimits>,
}

const SIZES_LEN: usize = 32;

impl Sizes {
    fn has_limits(ctx: &Ctx) -> bool {
        ctx.has(Features::WSAME)
    }
    fn len(ctx: &Ctx) -> usize {
        if Self::has_limits(ctx) {
            SIZES_LEN + QueueLimits::WIRE_LEN
        } else {
            SIZES_LEN
        }
    }
}

impl Body for Sizes {
    fn fixed_len(ctx: &Ctx, length: u32) -> Result<u32, Fault> {
        exactly(length, Self::len(ctx) as u32)
    }
    fn load(ctx: &Ctx, bytes: &[u8], _: u32) -> Result<Self, Fault> {
        let limits = match bytes.get(SIZES_LEN..) {
            Some(tail) if Self::has_limits(ctx) => Some(QueueLimits::parse(tail)?),
            _ => None,
        };
        Ok(Sizes {
            d_size: get(bytes, 0, "d_size")?,
            u_size: get(bytes, 8, "u_size")?,
            c_size: get(bytes, 16, "c_size")?,
            max_bio_size: get(bytes, 24, "max_bio_size")?,
            queue_order_type: get(bytes, 28, "queue_order_type")?,
            dds_flags: get(bytes, 30, "dds_flags")?,
            limits,
        })
    }
    fn store(&self, ctx: &Ctx, out: &mut impl Put) {
        let mut buf = [0; SIZES_LEN];
        set(&mut buf, 0, &self.d_size);
        set(&mut buf, 8, &self.u_size);
        set(&mut buf, 16, &self.c_size);
        set(&mut buf, 24, &self.max_bio_size);
        set(&mut buf, 28, &self.queue_order_type);
        set(&mut buf, 30, &self.dds_flags);
        out.put(&buf);
        if Self::has_limits(ctx) {
            out.put(&self.limits.unwrap_or_default().bytes());
        }
    }
    fn stored_len(&self, ctx: &Ctx) -> usize {
        Self::len(ctx)
    }
}

wire_struct! {
    body
    /// P_UUIDS, below protocol 110.
    pub struct Uuids [48] {
        /// Current UUID.
        pub current: Uuid = 0,
        /// Bitmap UUID of the one peer.
        pub bitmap: Uuid = 8,
        /// History, newest first.
        pub history: [Uuid; 2] = 16,
        /// Bits set in the sender's bitmap.
        pub dirty_bits: u64 = 32,
        /// Only bits 0..=3 exist.
        pub flags: UuidFlags = 40,
    }
}

impl Wire for [Uuid; 2] {
    const LEN: usize = 16;
    fn load(bytes: &[u8]) -> Result<Self, u64> {
        let (newer, older) = bytes.split_at_checked(8).ok_or(0u64)?;
        Ok([Uuid::load(newer)?, Uuid::load(older)?])
    }
    fn store(&self, out: &mut [u8]) {
        for (out, uuid) in out.chunks_exact_mut(8).zip(self) {
            uuid.store(out);
        }
    }
}

/// History UUIDs a node keeps.
pub const HISTORY_UUIDS: usize = 32;
/// The history of data generations, newest first; 0 in unused places.
pub type UuidHistory = [Uuid; HISTORY_UUIDS];

/// P_UUIDS110.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uuids110 {
    /// Current UUID; with flag SYNC_TARGET that of the sender's sync source.
    pub current: Uuid,
    /// Bits set in the sender's bitmap for the receiver.
    pub dirty_bits: u64,
    /// Flags, with the id of an unallocated slot.
    pub flags: UuidFlags,
    /// With STABLE: weak nodes; without: authoritative nodes.
    pub node_mask: NodeMask,
    /// The nodes whose bitmap UUID is on the wire; ids 0..=31 only.
    pub bitmap_mask: NodeMask,
    /// Bitmap UUIDs by node id; [`Uuid::UNKNOWN`] for nodes that are not in `bitmap_mask`.
    pub bitmap_uuids: [Uuid; MAX_NODES],
    /// History; entries missing on the wire are 0.
    pub history: UuidHistory,
}

const UUIDS110_LEN: usize = 40;
const UUID_LEN: usize = 8;

impl Default for Uuids110 {
    fn default() -> Self {
        Uuids110 {
            current: Uuid::NONE,
            dirty_bits: 0,
            flags: UuidFlags::NONE,
            node_mask: NodeMask::EMPTY,
            bitmap_mask: NodeMask::EMPTY,
            bitmap_uuids: [Uuid::UNKNOWN; MAX_NODES],
            history: [Uuid::NONE; HISTORY_UUIDS],
        }
    }
}

impl Uuids110 {
    /// The bitmap UUID reported for `node`; `None` if there is none on the wire or it reads "unknown".
    pub fn bitmap_uuid(&self, node: NodeId) -> Option<Uuid> {
        let uuid = *self.bitmap_uuids.get(node.index())?;
        (self.bitmap_mask.contains(node) && uuid != Uuid::UNKNOWN).then_some(uuid)
    }
    /// Report this bitmap UUID for `node`.
    pub fn set_bitmap_uuid(&mut self, node: NodeId, uuid: Uuid) {
        self.bitmap_mask.insert(node);
        if let Some(slot) = self.bitmap_uuids.get_mut(node.index()) {
            *slot = uuid;
        }
    }
}

impl Body for Uuids110 {
    fn fixed_len(ctx: &Ctx, length: u32) -> Result<u32, Fault> {
        // Surplus history is to be skipped, but not without limit.
        within(length, UUIDS110_LEN as u32, ctx.max_bitmap_payload())
    }
    fn load(_: &Ctx, bytes: &[u8], _: u32) -> Result<Self, Fault> {
        let bitmap_mask: NodeMask = get(bytes, 32, "bitmap UUID mask")?;
        let bad_mask = Fault::Field {
            field: "bitmap UUID mask",
            value: bitmap_mask.0,
        };
        if bitmap_mask.0 >> MAX_NODES != 0 {
            return Err(bad_mask);
        }
        let mut uuids = Uuids110 {
            current: get(bytes, 0, "current UUID")?,
            dirty_bits: get(bytes, 8, "dirty bits")?,
            flags: get(bytes, 16, "UUID flags")?,
            node_mask: get(bytes, 24, "node mask")?,
            ..Uuids110::default()
        };
        let mut words = bytes
            .get(UUIDS110_LEN..)
            .unwrap_or_default()
            .chunks_exact(UUID_LEN);
        for node in bitmap_mask.iter() {
            let word = words.next().ok_or(bad_mask)?;
            uuids.set_bitmap_uuid(node, get(word, 0, "bitmap UUID")?);
        }
        for (slot, word) in uuids.history.iter_mut().zip(words) {
            *slot = get(word, 0, "history UUID")?;
        }
        Ok(uuids)
    }
    fn store(&self, _: &Ctx, out: &mut impl Put) {
        let mut buf = [0; UUIDS110_LEN];
        let mask = NodeMask(self.bitmap_mask.0 & u64::from(u32::MAX));
        set(&mut buf, 0, &self.current);
        set(&mut buf, 8, &self.dirty_bits);
        set(&mut buf, 16, &self.flags);
        set(&mut buf, 24, &self.node_mask);
        set(&mut buf, 32, &mask);
        out.put(&buf);
        for (node, uuid) in NodeId::all().zip(&self.bitmap_uuids) {
            if mask.contains(node) {
                out.put(&uuid.0.to_be_bytes());
            }
        }
        for uuid in &self.history {
            out.put(&uuid.0.to_be_bytes());
        }
    }
    fn stored_len(&self, _: &Ctx) -> usize {
        let words = (self.bitmap_mask.len() as usize).saturating_add(HISTORY_UUIDS);
        words.saturating_mul(UUID_LEN).saturating_add(UUIDS110_LEN)
    }
}

wire_struct! {
    body
    /// P_CURRENT_UUID: the data generation a node without disk works with.
    pub struct CurrentUuid [16] {
        /// The exposed UUID.
        pub uuid: Uuid = 0,
        /// Nodes that do not have this generation.
        pub weak_nodes: NodeMask = 8,
    }
}

wire_struct! {
    body
    /// P_SYNC_UUID, below protocol 110: the UUID of the resync that begins.
    pub struct SyncUuid [8] {
        /// The UUID.
        pub uuid: Uuid = 0,
    }
}

impl Wire for bool {
    const LEN: usize = 1;
    fn load(bytes: &[u8]) -> Result<Self, u64> {
        u8::load(bytes).map(|b| b != 0)
    }
    fn store(&self, out: &mut [u8]) {
        u8::from(*self).store(out);
    }
}

wire_struct! {
    body
    /// P_ENABLE_REPLICATION and P_ENABLE_REPLICATION_NEXT (wire protocol, section 20.2).
    pub struct EnableReplication [4] {
        /// Send application writes as data although the sender's disk is Inconsistent?
        pub enable: bool = 0,
    }
}

impl Body for State {
    fn fixed_len(_: &Ctx, length: u32) -> Result<u32, Fault> {
        exactly(length, 4)
    }
    fn load(ctx: &Ctx, bytes: &[u8], _: u32) -> Result<Self, Fault> {
        let word: StateWord = get(bytes, 0, "state")?;
        State::from_wire(word, ctx.version).map_err(|(field, value)| Fault::Field {
            field,
            value: value.into(),
        })
    }
    fn store(&self, ctx: &Ctx, out: &mut impl Put) {
        out.put(&self.to_wire(ctx.version).0.to_be_bytes());
    }
    fn stored_len(&self, _: &Ctx) -> usize {
        4
    }
}
