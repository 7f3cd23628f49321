//! The control socket: how commands reach the daemon.

pub use drbd_control::{ENVIRONMENT, address, client, default_path, protocol};

pub mod server;
#[cfg(test)]
mod tests;
