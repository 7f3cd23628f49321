//! Resync and online verify (wire protocol, chapters 9, 17, 18).

use core::fmt;

use super::data::{BlockRequest, check_end, check_range};
use crate::ctx::{Ctx, MAX_REQUEST_SIZE};
use crate::digest::DigestValue;
use crate::units::{BlockId, Bytes, Dagtag, NodeId, Sector};
use crate::wire::{Body, Fault, Put, Wire, exactly, get, set, within};

wire_struct! {
    body if DagtagRequest::check;
    /// P_RS_DAGTAG_REQ, P_RS_THIN_DAGTAG_REQ, P_OV_DAGTAG_REQ: asks for a range as of a position.
    pub struct DagtagRequest [32] {
        /// Where.
        pub sector: Sector = 0,
        /// The requester's handle.
        pub block_id: BlockId = 8,
        /// How much: whole sectors, at most 1 MiB.
        pub size: Bytes = 16,
        /// Whose stream of writes `dagtag` is a position in.
        pub dagtag_node_id: NodeId = 20,
        /// Not before this position was reached; 0 = no dependency.
        pub dagtag: Dagtag = 24,
    }
}

impl DagtagRequest {
    fn check(&self) -> Result<(), Fault> {
        check_range(self.sector, self.size, MAX_REQUEST_SIZE)
    }
}

wire_struct! {
    body if Deallocated::check;
    /// P_RS_DEALLOCATED, below protocol 122.
    pub struct Deallocated [16] {
        /// Where.
        pub sector: Sector = 0,
        /// How much.
        pub size: Bytes = 8,
    }
}

impl Deallocated {
    fn check(&self) -> Result<(), Fault> {
        check_end(self.sector, self.size)
    }
}

macro_rules! with_digest {
    ($(#[$m:meta])* $name:ident, $request:ident) => {
        $(#[$m])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name {
            /// The range.
            pub request: $request,
            /// The digest, 1..=64 bytes.
            pub digest: DigestValue,
        }

        impl Body for $name {
            fn fixed_len(_: &Ctx, length: u32) -> Result<u32, Fault> {
                let fixed = $request::WIRE_LEN as u32;
                let max = fixed.saturating_add(DigestValue::MAX_LEN as u32);
                within(length, fixed.saturating_add(1), max)
            }
            fn load(ctx: &Ctx, bytes: &[u8], length: u32) -> Result<Self, Fault> {
                let digest = bytes.get($request::WIRE_LEN..).unwrap_or_default();
                Ok($name {
                    request: $request::load(ctx, bytes, length)?,
                    digest: DigestValue::load(digest)?,
                })
            }
            fn store(&self, ctx: &Ctx, out: &mut impl Put) {
                self.request.store(ctx, out);
                out.put(self.digest.as_bytes());
            }
            fn stored_len(&self, _: &Ctx) -> usize {
                $request::WIRE_LEN.saturating_add(self.digest.len())
            }
        }
    };
}

with_digest! {
    /// P_CSUM_RS_REQUEST: send this range unless its csums-alg digest is the same.
    CsumRequest, BlockRequest
}
with_digest! {
    /// P_RS_CSUM_DAGTAG_REQ: the same with a dagtag dependency.
    CsumDagtagRequest, DagtagRequest
}
with_digest! {
    /// P_OV_REPLY: the verify-alg digest of a range; all zero if it could not be read.
    OvReply, BlockRequest
}
with_digest! {
    /// P_OV_DAGTAG_REPLY: the same, with the position it was taken at.
    OvDagtagReply, DagtagRequest
}

/// What a comparison of two blocks came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum OvOutcome {
    /// Not compared.
    Skipped = 0,
    /// The same.
    InSync = 1,
    /// Different.
    OutOfSync = 2,
}

impl OvOutcome {
    fn from_number(number: u64) -> Option<OvOutcome> {
        match number {
            0 => Some(OvOutcome::Skipped),
            1 => Some(OvOutcome::InSync),
            2 => Some(OvOutcome::OutOfSync),
            _ => None,
        }
    }
}

impl fmt::Display for OvOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OvOutcome::Skipped => "skipped",
            OvOutcome::InSync => "in sync",
            OvOutcome::OutOfSync => "out of sync",
        })
    }
}

impl Wire for OvOutcome {
    const LEN: usize = 4;
    fn load(bytes: &[u8]) -> Result<Self, u64> {
        let number = u32::load(bytes)?.into();
        OvOutcome::from_number(number).ok_or(number)
    }
    fn store(&self, out: &mut [u8]) {
        (*self as u32).store(out);
    }
}

/// The first of the numbers 4710, 4711, 4712 that stand for the outcomes 0, 1, 2.
const OUTCOME_ID: u64 = 4710;
const OV_RESULT_LEN: usize = 24;

/// P_OV_RESULT, below protocol 122; the result is where other packets have their block id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OvResult {
    /// Echoed.
    pub sector: Sector,
    /// The result.
    pub result: OvOutcome,
    /// Echoed.
    pub size: Bytes,
    /// See wire protocol, section 13.4.
    pub seq_num: u32,
}

impl Body for OvResult {
    fn fixed_len(_: &Ctx, length: u32) -> Result<u32, Fault> {
        exactly(length, OV_RESULT_LEN as u32)
    }
    fn load(_: &Ctx, bytes: &[u8], _: u32) -> Result<Self, Fault> {
        let id: u64 = get(bytes, 8, "result")?;
        let result = id.checked_sub(OUTCOME_ID).and_then(OvOutcome::from_number);
        let packet = OvResult {
            sector: get(bytes, 0, "sector")?,
            result: result.ok_or(Fault::Field {
                field: "result",
                value: id,
            })?,
            size: get(bytes, 16, "size")?,
            seq_num: get(bytes, 20, "seq_num")?,
        };
        check_end(packet.sector, packet.size)?;
        Ok(packet)
    }
    fn store(&self, _: &Ctx, out: &mut impl Put) {
        let mut buf = [0; OV_RESULT_LEN];
        set(&mut buf, 0, &self.sector);
        set(&mut buf, 8, &OUTCOME_ID.saturating_add(self.result as u64));
        set(&mut buf, 16, &self.size);
        set(&mut buf, 20, &self.seq_num);
        out.put(&buf);
    }
    fn stored_len(&self, _: &Ctx) -> usize {
        OV_RESULT_LEN
    }
}

wire_struct! {
    body if OvResultId::check;
    /// P_OV_RESULT_ID.
    pub struct OvResultId [32] {
        /// Echoed.
        pub sector: Sector = 0,
        /// The handle of the verify request.
        pub block_id: BlockId = 8,
        /// Echoed.
        pub size: Bytes = 16,
        /// See wire protocol, section 13.4.
        pub seq_num: u32 = 20,
        /// The result.
        pub result: OvOutcome = 24,
    }
}

impl OvResultId {
    fn check(&self) -> Result<(), Fault> {
        check_end(self.sector, self.size)
    }
}
