//! NBD: the device as a network block device, for QEMU, libnbd, and users without privileges.
//!
//! [`codec`] and [`handshake`] are the protocol without I/O; [`client`] is a small blocking client.

pub mod address;
pub mod client;
pub mod codec;
pub mod handshake;
#[cfg(test)]
mod tests;
