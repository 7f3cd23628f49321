//! The DRBD node daemon: how decisions become I/O.
#![allow(dead_code)] // The reactor that uses all of this is on its way.

pub mod backing;
pub mod clock;
pub mod control;
pub mod doorway;
pub mod frontend;
pub mod mailbox;
pub mod node;
pub mod pool;
pub mod reactor;
pub mod ring;
pub mod transport;
