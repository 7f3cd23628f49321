//! The control socket: how commands reach the daemon.

use std::path::PathBuf;

pub mod address;
pub mod client;
pub mod protocol;
pub mod server;
#[cfg(test)]
mod tests;

/// Environment variable that names the socket.
pub const ENVIRONMENT: &str = "DRBD_CONTROL";

/// Where the daemon listens: what [`ENVIRONMENT`] says, else `/run/drbd/drbdd.sock` for root and for others a
/// file in `$XDG_RUNTIME_DIR` or `/tmp/drbd-UID`.
pub fn default_path() -> PathBuf {
    if let Some(path) = std::env::var_os(ENVIRONMENT).filter(|path| !path.is_empty()) {
        return path.into();
    }
    let user = rustix::process::geteuid();
    if user.is_root() {
        return "/run/drbd/drbdd.sock".into();
    }
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir).join("drbd/drbdd.sock"),
        None => format!("/tmp/drbd-{}/drbdd.sock", user.as_raw()).into(),
    }
}
