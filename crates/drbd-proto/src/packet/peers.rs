//! What more than two nodes tell each other: positions in the stream of writes, who has which write,
//! flushes (wire protocol, chapters 15 and 20).

use super::data::check_end;
use crate::units::{Bytes, Dagtag, NodeId, NodeMask, Sector};
use crate::wire::Fault;

wire_struct! {
    body
    /// P_DAGTAG: the next write of the sender starts at this position.
    pub struct DagtagPosition [8] {
        /// The position.
        pub dagtag: Dagtag = 0,
    }
}

wire_struct! {
    body
    /// P_PEER_DAGTAG: how far the sender has come in the stream of another node.
    pub struct PeerDagtag [12] {
        /// The position.
        pub dagtag: Dagtag = 0,
        /// The other node.
        pub node_id: NodeId = 8,
    }
}

wire_struct! {
    body
    /// P_PEER_ACK: `nodes` have all writes up to and including the one with this dagtag.
    pub struct PeerAck [16] {
        /// The nodes that have them.
        pub nodes: NodeMask = 0,
        /// The dagtag of a write the receiver got.
        pub dagtag: Dagtag = 8,
    }
}

wire_struct! {
    body if PeersInSync::check;
    /// P_PEERS_IN_SYNC: in this range `nodes` are in sync with the sender.
    pub struct PeersInSync [24] {
        /// Where.
        pub sector: Sector = 0,
        /// Who.
        pub nodes: NodeMask = 8,
        /// How much.
        pub size: Bytes = 16,
    }
}

impl PeersInSync {
    fn check(&self) -> Result<(), Fault> {
        check_end(self.sector, self.size)
    }
}

wire_struct! {
    body if OutOfSync::check;
    /// P_OUT_OF_SYNC: the sender wrote here and does not send the data.
    pub struct OutOfSync [16] {
        /// Where.
        pub sector: Sector = 0,
        /// How much.
        pub size: Bytes = 8,
    }
}

impl OutOfSync {
    fn check(&self) -> Result<(), Fault> {
        check_end(self.sector, self.size)
    }
}

wire_struct! {
    body
    /// P_FLUSH_REQUESTS: a sync target asks a Primary to confirm everything written so far.
    pub struct FlushRequests [8] {
        /// The initiator's sequence number, never 0.
        pub sequence: u64 = 0,
    }
}

wire_struct! {
    body
    /// P_FLUSH_FORWARD: the Primary passes the request on to its other peers.
    pub struct FlushForward [12] {
        /// The initiator's sequence number.
        pub sequence: u64 = 0,
        /// Who asked.
        pub initiator: NodeId = 8,
    }
}

wire_struct! {
    body
    /// P_FLUSH_REQUESTS_ACK: to the initiator, from everyone who was told.
    pub struct FlushRequestsAck [12] {
        /// The initiator's sequence number.
        pub sequence: u64 = 0,
        /// The Primary whose writes are confirmed.
        pub primary: NodeId = 8,
    }
}

wire_struct! {
    body
    /// P_DELAY_PROBE: never sent, to be ignored.
    pub struct DelayProbe [8] {
        /// A number.
        pub seq_num: u32 = 0,
        /// Microseconds.
        pub offset: u32 = 4,
    }
}
