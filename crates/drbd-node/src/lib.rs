//! The DRBD node daemon: how decisions become I/O.

pub mod backing;
pub mod clock;
pub mod control;
pub mod doorway;
pub mod frontend;
pub mod log;
pub mod mailbox;
pub mod names;
pub mod netns;
pub mod node;
pub mod pool;
pub mod reactor;
mod resyncs;
pub mod ring;
pub mod signals;
pub mod transport;
