//! The types of the engine and the protocol that frontends need, in one place.

pub use drbd_engine::{BufId, IoError, Limits, OpenError};
pub use drbd_proto::{Sector, VolumeNr};
