//! Application writes and reads, their answers, epochs (wire protocol, chapters 9, 13, 14, 16).

use crate::ctx::{Ctx, MAX_DISCARD_SIZE, MAX_REQUEST_SIZE};
use crate::digest::DigestValue;
use crate::flags::DpFlags;
use crate::units::{BarrierNr, BlockId, Bytes, SECTOR_SIZE, Sector};
use crate::wire::{Body, Fault, Put, get, set, within};

const DATA_LEN: usize = 24;
const SIZE_LEN: usize = 4;

/// The range must not wrap around the end of the address space.
pub(super) fn check_end(sector: Sector, size: Bytes) -> Result<(), Fault> {
    match sector.end(size) {
        Some(_) => Ok(()),
        None => Err(Fault::Field {
            field: "sector",
            value: sector.0,
        }),
    }
}

/// A request: whole sectors, at least one, at most `max` bytes. Whether it lies inside the device is
/// for the engine to check.
pub(super) fn check_range(sector: Sector, size: Bytes, max: u32) -> Result<(), Fault> {
    if size.0 == 0 || size.0 > max || !size.is_sector_aligned() {
        return Err(Fault::Field {
            field: "size",
            value: size.0.into(),
        });
    }
    check_end(sector, size)
}

/// Length rule of packets with data: fixed part, digest, then whole sectors.
fn data_len(ctx: &Ctx, fixed: usize, length: u32) -> Result<u32, Fault> {
    let fixed = (fixed as u32).saturating_add(ctx.integrity_len.into());
    let min = fixed.saturating_add(SECTOR_SIZE);
    within(length, min, fixed.saturating_add(MAX_REQUEST_SIZE))?;
    let size = length.saturating_sub(fixed);
    if !size.is_multiple_of(SECTOR_SIZE) {
        return Err(Fault::Field {
            field: "payload size",
            value: size.into(),
        });
    }
    Ok(fixed)
}

/// What [`data_len`] left for the payload.
fn data_size(bytes: &[u8], length: u32) -> Bytes {
    Bytes(length.saturating_sub(bytes.len() as u32))
}

fn digest(bytes: &[u8], fixed: usize) -> Result<DigestValue, Fault> {
    DigestValue::load(bytes.get(fixed..).unwrap_or_default())
}

/// The flags that exist on the wire: RW_SYNC alone below 95, no wishes for acks below 100.
fn dp_flags_on_wire(flags: DpFlags, ctx: &Ctx) -> DpFlags {
    match ctx.version {
        0..=94 => flags & DpFlags::RW_SYNC,
        95..=99 => flags.minus(DpFlags::SEND_RECEIVE_ACK | DpFlags::SEND_WRITE_ACK),
        _ => flags,
    }
}

/// P_DATA: a write. Payload: [`Data::size`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data {
    /// Where.
    pub sector: Sector,
    /// The writer's handle, echoed in every ack; unique among unacknowledged writes.
    pub block_id: BlockId,
    /// See wire protocol, section 13.4.
    pub seq_num: u32,
    /// How.
    pub dp_flags: DpFlags,
    /// How much: the size of the payload, whole sectors, at most 1 MiB.
    pub size: Bytes,
    /// Integrity digest of the payload; empty without data-integrity-alg.
    pub digest: DigestValue,
}

impl Body for Data {
    fn fixed_len(ctx: &Ctx, length: u32) -> Result<u32, Fault> {
        data_len(ctx, DATA_LEN, length)
    }
    fn load(ctx: &Ctx, bytes: &[u8], length: u32) -> Result<Self, Fault> {
        let data = Data {
            sector: get(bytes, 0, "sector")?,
            block_id: get(bytes, 8, "block id")?,
            seq_num: get(bytes, 16, "seq_num")?,
            dp_flags: dp_flags_on_wire(get(bytes, 20, "dp_flags")?, ctx),
            size: data_size(bytes, length),
            digest: digest(bytes, DATA_LEN)?,
        };
        check_end(data.sector, data.size)?;
        Ok(data)
    }
    fn store(&self, ctx: &Ctx, out: &mut impl Put) {
        let mut buf = [0; DATA_LEN];
        set(&mut buf, 0, &self.sector);
        set(&mut buf, 8, &self.block_id);
        set(&mut buf, 16, &self.seq_num);
        set(&mut buf, 20, &dp_flags_on_wire(self.dp_flags, ctx));
        out.put(&buf);
        out.put(self.digest.as_bytes());
    }
    fn stored_len(&self, _: &Ctx) -> usize {
        DATA_LEN.saturating_add(self.digest.len())
    }
    fn bulk_len(&self) -> u32 {
        self.size.0
    }
}

/// P_DATA_REPLY and P_RS_DATA_REPLY: data that was asked for. Payload: [`DataReply::size`] bytes.
/// The wire has room for seq_num and dp_flags, always 0 here and ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataReply {
    /// Where.
    pub sector: Sector,
    /// The request's handle.
    pub block_id: BlockId,
    /// How much: the size of the payload, whole sectors, at most 1 MiB.
    pub size: Bytes,
    /// Integrity digest of the payload; empty without data-integrity-alg.
    pub digest: DigestValue,
}

impl Body for DataReply {
    fn fixed_len(ctx: &Ctx, length: u32) -> Result<u32, Fault> {
        data_len(ctx, DATA_LEN, length)
    }
    fn load(_: &Ctx, bytes: &[u8], length: u32) -> Result<Self, Fault> {
        let reply = DataReply {
            sector: get(bytes, 0, "sector")?,
            block_id: get(bytes, 8, "block id")?,
            size: data_size(bytes, length),
            digest: digest(bytes, DATA_LEN)?,
        };
        check_end(reply.sector, reply.size)?;
        Ok(reply)
    }
    fn store(&self, _: &Ctx, out: &mut impl Put) {
        let mut buf = [0; DATA_LEN];
        set(&mut buf, 0, &self.sector);
        set(&mut buf, 8, &self.block_id);
        out.put(&buf);
        out.put(self.digest.as_bytes());
    }
    fn stored_len(&self, _: &Ctx) -> usize {
        DATA_LEN.saturating_add(self.digest.len())
    }
    fn bulk_len(&self) -> u32 {
        self.size.0
    }
}

wire_struct! {
    body if Discard::check;
    /// P_TRIM and P_ZEROES: a write without data. At most 128 MiB.
    pub struct Discard [28] {
        /// Where.
        pub sector: Sector = 0,
        /// The writer's handle.
        pub block_id: BlockId = 8,
        /// See wire protocol, section 13.4.
        pub seq_num: u32 = 16,
        /// How: DISCARD or ZEROES is among them.
        pub dp_flags: DpFlags = 20,
        /// How much: whole sectors.
        pub size: Bytes = 24,
    }
}

impl Discard {
    fn check(&self) -> Result<(), Fault> {
        check_range(self.sector, self.size, MAX_DISCARD_SIZE)
    }
}

/// P_WSAME: one block of payload, to be written over a range. Dead: DRBD 9.3 takes it for a protocol
/// error and so should everyone; it is decoded so that the error can say what came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteSame {
    /// The write; its `size` is that of the payload.
    pub data: Data,
    /// The range to fill.
    pub size: Bytes,
}

impl Body for WriteSame {
    fn fixed_len(ctx: &Ctx, length: u32) -> Result<u32, Fault> {
        data_len(ctx, DATA_LEN + SIZE_LEN, length)
    }
    fn load(_: &Ctx, bytes: &[u8], length: u32) -> Result<Self, Fault> {
        let same = WriteSame {
            data: Data {
                sector: get(bytes, 0, "sector")?,
                block_id: get(bytes, 8, "block id")?,
                seq_num: get(bytes, 16, "seq_num")?,
                dp_flags: get(bytes, 20, "dp_flags")?,
                size: data_size(bytes, length),
                digest: digest(bytes, DATA_LEN + SIZE_LEN)?,
            },
            size: get(bytes, 24, "size")?,
        };
        check_range(same.data.sector, same.size, MAX_DISCARD_SIZE)?;
        Ok(same)
    }
    fn store(&self, _: &Ctx, out: &mut impl Put) {
        let mut buf = [0; DATA_LEN + SIZE_LEN];
        set(&mut buf, 0, &self.data.sector);
        set(&mut buf, 8, &self.data.block_id);
        set(&mut buf, 16, &self.data.seq_num);
        set(&mut buf, 20, &self.data.dp_flags);
        set(&mut buf, 24, &self.size);
        out.put(&buf);
        out.put(self.data.digest.as_bytes());
    }
    fn stored_len(&self, _: &Ctx) -> usize {
        (DATA_LEN + SIZE_LEN).saturating_add(self.data.digest.len())
    }
    fn bulk_len(&self) -> u32 {
        self.data.size.0
    }
}

wire_struct! {
    body if BlockAck::check;
    /// All acks and refusals of one block, and P_RS_DEALLOCATED_ID.
    pub struct BlockAck [24] {
        /// Echoed.
        pub sector: Sector = 0,
        /// Echoed, with exceptions: wire protocol, chapter 9, "Block-id rules".
        pub block_id: BlockId = 8,
        /// Echoed.
        pub size: Bytes = 16,
        /// See wire protocol, section 13.4.
        pub seq_num: u32 = 20,
    }
}

impl BlockAck {
    fn check(&self) -> Result<(), Fault> {
        check_end(self.sector, self.size)
    }
}

wire_struct! {
    body if BlockRequest::check;
    /// P_DATA_REQUEST, P_RS_DATA_REQUEST, P_RS_THIN_REQ, P_OV_REQUEST: asks for a range.
    pub struct BlockRequest [24] {
        /// Where.
        pub sector: Sector = 0,
        /// The requester's handle.
        pub block_id: BlockId = 8,
        /// How much: whole sectors, at most 1 MiB.
        pub size: Bytes = 16,
    }
}

impl BlockRequest {
    fn check(&self) -> Result<(), Fault> {
        check_range(self.sector, self.size, MAX_REQUEST_SIZE)
    }
}

wire_struct! {
    body
    /// P_BARRIER: everything sent so far belongs to this epoch or an earlier one.
    pub struct Barrier [8] {
        /// The epoch.
        pub barrier: BarrierNr = 0,
    }
}

wire_struct! {
    body
    /// P_BARRIER_ACK: the epoch is on stable storage.
    pub struct BarrierAck [8] {
        /// The epoch, echoed.
        pub barrier: BarrierNr = 0,
        /// Number of writes in it, without those already confirmed by P_CONFIRM_STABLE.
        pub set_size: u32 = 4,
    }
}

wire_struct! {
    body
    /// P_CONFIRM_STABLE: a range of the running epoch is on stable storage.
    pub struct ConfirmStable [24] {
        /// The oldest write not confirmed before.
        pub oldest: BlockId = 0,
        /// The youngest write of the range.
        pub youngest: BlockId = 8,
        /// Number of writes in the range, in the order received.
        pub set_size: u32 = 16,
    }
}
