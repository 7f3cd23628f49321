//! The control protocol: how commands reach the daemon, and a client.
//!
//! A client connects to the Unix socket at [`default_path`] and writes one JSON object per line, a
//! [`Request`](protocol::Request); the daemon answers with lines that are [`Answer`](protocol::Answer)s. With
//! [`client::Client`] nobody has to care.
//!
//! ```no_run
//! use drbd_control::client::Client;
//!
//! # fn main() -> Result<(), drbd_control::client::ClientError> {
//! let mut client = Client::connect(&drbd_control::default_path())?;
//! let outcome = client.request("secondary", &["r0"], Vec::new(), false)?;
//! println!("{} {:?}", outcome.code, outcome.info);
//! # Ok(())
//! # }
//! ```

use std::path::PathBuf;

pub mod address;
pub mod client;
#[cfg(feature = "engine")]
mod engine;
pub mod protocol;

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
