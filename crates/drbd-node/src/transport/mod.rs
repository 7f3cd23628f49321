//! Transports: how two nodes' packets travel.

pub mod connect;
pub mod tcp;

/// Which of the two streams of a connection (wire protocol, section 3.1).
pub use drbd_proto::Stream as StreamKind;
