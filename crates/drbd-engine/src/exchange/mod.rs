//! What two nodes tell each other about a volume, and what the first exchange leads to (state machine,
//! sections 6.3 and 6.4; wire protocol, sections 7.2 to 7.5).

mod connect;
mod receiving;
mod sending;

use drbd_proto::{DiskState, ReplState, Role};

/// What the exchange decided for a volume; applied by the commit of the connect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct HandshakeResult {
    /// Replication state to go to; Off: the connect has to be refused.
    pub repl: ReplState,
    /// Role of the peer.
    pub peer_role: Role,
    /// Disk of the peer.
    pub pdisk: DiskState,
    /// The peer pauses resync.
    pub susp_peer: bool,
    /// Own disk becomes Outdated with the commit (state machine, section 7.11).
    pub outdate: bool,
}
