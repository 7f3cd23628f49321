//! The DRBD node daemon.
