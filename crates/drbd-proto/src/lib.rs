//! What goes over the wire between two DRBD nodes.
//!
//! This crate encodes and decodes: packet headers of all three generations ([`header`]), every
//! packet ([`packet`]), the state word ([`state`]), the flags ([`flags`]), the run-length code of
//! the bitmap ([`vli`]), the digests of handshake and data ([`digest`], [`auth`]) and the framing of
//! the transports that have their own ([`transport`]). It takes no decisions and does no I/O.
//!
//! Receiving a packet takes two reads and never an unbounded one:
//!
//! ```
//! use drbd_proto::{Ctx, Features, Packet, Stream, VolumeNr};
//! use drbd_proto::header::Header;
//!
//! let ctx = Ctx::new(124, Features::ALL);
//! let mut wire = Vec::new();
//! Packet::Ping.encode(&ctx, VolumeNr::CONNECTION, &mut wire)?;
//!
//! // 1. The header: how many bytes to read is known before anything arrived.
//! let (header, used) = Header::parse(ctx.version, Stream::Control, &wire)?.unwrap();
//! // 2. The fixed part: bounded by `MAX_FIXED_LEN`.
//! let fixed = Packet::fixed_len(&ctx, Stream::Control, &header)?;
//! let packet = Packet::decode(&ctx, &header, &wire[used..used + fixed])?;
//! assert_eq!(packet, Packet::Ping);
//! // 3. Bulk data, which goes straight into an aligned buffer and is no part of the packet.
//! assert_eq!(packet.payload_len(), 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! "Wire protocol, section N" in the comments of this crate cites the project's description of the
//! DRBD network protocol.
#![no_std]
#![cfg_attr(
    not(test),
    warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

extern crate alloc;
#[cfg(any(test, feature = "std"))]
extern crate std;

#[macro_use]
mod wire;

pub mod auth;
mod ctx;
pub mod digest;
mod error;
pub mod first_packet;
pub mod flags;
pub mod header;
pub mod packet;
pub mod state;
pub mod transport;
pub mod units;
pub mod vli;

pub use ctx::{
    AGREEABLE_LEGACY, AGREEABLE_MODERN, AlgName, Ctx, INITIAL_VERSION, MAX_ALG_NAME,
    MAX_DISCARD_SIZE, MAX_DISCARD_SIZE_LEGACY, MAX_FIXED_LEN, MAX_REQUEST_SIZE, Stream,
    VERSION_MAX, VERSION_MIN, max_request_size,
};
pub use digest::{Digest, DigestAlg, DigestValue};
pub use error::{DecodeError, EncodeError};
pub use flags::{ConnFlags, DdsFlags, DpFlags, Features, TwopcFlags, UuidFlags};
pub use header::Header;
pub use packet::{Cmd, Packet, Received};
pub use state::{ConnState, DiskState, ReplState, Role, State, StateChange, StateWord};
pub use units::{
    BarrierNr, BlockId, Bytes, Dagtag, NodeId, NodeMask, Sector, Sectors, Uuid, VolumeNr,
};
pub use wire::Put;
