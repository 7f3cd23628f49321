//! NBD: the device as a network block device, for QEMU, libnbd, and users without privileges.
//!
//! [`codec`] and [`handshake`] are the protocol without I/O; [`client`] is a small blocking client. [`NbdFrontend`]
//! listens; a thread leads each new client through the handshake and hands it over to the reactor of the resource it
//! chose, where a guest (`connection`) serves it without any change of thread.
//!
//! A connection is an opener of the device: to choose an export (`NBD_OPT_GO`) means to open it for writing, which
//! may promote the resource (auto-promote). If that is refused but reading is allowed, the export is read-only; if
//! both are refused, so is the option, with DRBD's reason as text.

pub mod address;
pub mod client;
pub mod codec;
mod connection;
pub mod handshake;
mod output;
mod server;
#[cfg(test)]
mod tests;

pub use server::NbdFrontend;

use crate::doorway::Limits;

use codec::tx;
use handshake::ExportInfo;

/// Largest block size told to clients, in bytes. Larger requests of clients that do not look are split.
const MAX_BLOCK: u32 = 1 << 20;

/// What a client learns about a volume.
fn export_info(name: &str, limits: &Limits, read_only: bool) -> ExportInfo {
    let mut flags = tx::HAS_FLAGS | tx::SEND_FLUSH | tx::SEND_FUA | tx::CAN_MULTI_CONN;
    if read_only {
        flags |= tx::READ_ONLY;
    }
    if limits.max_discard > 0 {
        flags |= tx::SEND_TRIM;
    }
    if limits.max_write_zeroes > 0 {
        flags |= tx::SEND_WRITE_ZEROES;
    }
    let min_block = limits.logical_block.max(512);
    ExportInfo {
        name: name.into(),
        size: limits.sectors.saturating_mul(512),
        flags,
        min_block,
        preferred_block: limits.physical_block.max(4096).max(min_block),
        max_block: MAX_BLOCK,
    }
}
