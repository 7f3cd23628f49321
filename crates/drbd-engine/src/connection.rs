//! A connection and its peer devices: what the engine keeps beyond their state values.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use drbd_proto::{Ctx, Dagtag, Features, NodeId, Uuid, VolumeNr};

use crate::data::{ConnectionData, PeerDeviceData};
use crate::effect::Path;
use crate::handshake::Handshake;
use crate::options::{NetOptions, PeerDeviceOptions};
use crate::uuid::PeerUuids;

/// A connection to a peer node.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The peer.
    pub peer: NodeId,
    /// Name of the connection.
    pub name: String,
    /// Net options.
    pub options: NetOptions,
    /// The paths and which of them is in use.
    pub paths: Vec<(Path, bool)>,
    /// How far the handshake has come, while there are streams.
    pub handshake: Handshake,
    /// Agreed version and features.
    pub ctx: Ctx,
    /// This node accepted the control stream last.
    pub resolve_conflicts: bool,
    /// Fresh random bytes for the authentication challenge.
    pub challenge: Box<[u8; 64]>,
    /// A P_PING is unanswered.
    pub ping_pending: bool,
    /// Who waits for the answer to a ping.
    pub ping_waiters: Vec<PingWaiter>,
    /// Sticky flags.
    pub flags: ConnectionFlags,
    /// Position in this peer's stream of writes (data path, section 12.1); kept when the connection is lost.
    pub last_dagtag: Dagtag,
    /// `last_dagtag` was received over the present streams.
    pub dagtag_received: bool,
    /// The volumes.
    pub peers: BTreeMap<VolumeNr, PeerDevice>,
    /// The data plane's part.
    pub data: ConnectionData,
}

/// Who waits for the answer to a ping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PingWaiter {
    /// A promotion.
    RoleChange,
    /// A new current UUID that is due.
    NewUuid,
    /// The end of a resync as target of this volume.
    ResyncFinish(VolumeNr),
}

/// Sticky flags of a connection (state machine, section 2.6).
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct ConnectionFlags {
    /// RECONNECT: was Connected before, since start.
    pub reconnect: bool,
    /// DISCARD_MY_DATA.
    pub discard_my_data: bool,
    /// CONN_DRY_RUN.
    pub dry_run: bool,
    /// NOTIFY_PEERS_LOST_PRIMARY.
    pub notify_lost_primary: bool,
    /// The peer agreed to the end of the connection; its closing is no error.
    pub disconnect_expected: bool,
}

/// A volume with respect to one peer.
#[derive(Debug)]
pub(crate) struct PeerDevice {
    /// Options.
    pub options: PeerDeviceOptions,
    /// Bitmap slot of this peer on the own disk.
    pub slot: Option<u8>,
    /// The peer's generation identifiers, as received last.
    pub uuids: PeerUuids,
    /// The peer's sizes, as received last.
    pub sizes: PeerSizes,
    /// Sticky flags.
    pub flags: PeerDeviceFlags,
    /// What was sent in this handshake: current UUID, bitmap UUID towards the peer, uuid_flags.
    pub sent: SentUuids,
    /// The data plane's part: resync, statistics.
    pub data: PeerDeviceData,
}

/// Sizes a peer announced, in sectors (wire protocol, section 10.2).
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct PeerSizes {
    /// HAVE_SIZES: received on the present streams.
    pub known: bool,
    /// Largest d_size ever seen.
    pub max_size: u64,
    /// d_size.
    pub d_size: u64,
    /// u_size.
    pub u_size: u64,
    /// c_size.
    pub c_size: u64,
    /// Largest request in bytes.
    pub max_bio: u32,
    /// Bytes per bitmap bit of the peer.
    pub bm_block: u32,
    /// The peer's backing device discards.
    pub discard: bool,
    /// Logical block size of the peer in bytes.
    pub logical_block: u32,
}

/// Generation identifiers as this node sent them last.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct SentUuids {
    /// Current (resolved) UUID.
    pub current: Uuid,
    /// Bitmap UUID towards the peer.
    pub bitmap: Uuid,
    /// Number of set bits.
    pub bits: u64,
    /// uuid_flags.
    pub flags: u64,
}

/// Sticky flags of a peer device (state machine, section 2.6).
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct PeerDeviceFlags {
    /// UUIDS_RECEIVED or CURRENT_UUID_RECEIVED.
    pub uuids_received: bool,
    /// INITIAL_STATE_RECEIVED.
    pub initial_state: bool,
    /// CONSIDER_RESYNC.
    pub consider_resync: bool,
    /// UNSTABLE_RESYNC.
    pub unstable_resync: bool,
    /// RECONCILIATION_RESYNC.
    pub reconciliation_resync: bool,
    /// RECONCILE_PENDING.
    pub reconcile_pending: bool,
    /// DISCARD_MY_DATA, copied from the connection.
    pub discard_my_data: bool,
    /// SYNC_SRC_CRASHED_PRI.
    pub sync_src_crashed_pri: bool,
    /// RS_SOURCE_MISSED_END.
    pub source_missed_end: bool,
    /// RS_PEER_MISSED_END.
    pub peer_missed_end: bool,
    /// PEER_QUORATE.
    pub quorate: bool,
    /// GOT_NEG_ACK.
    pub got_neg_ack: bool,
}

impl Connection {
    /// Agreed protocol version.
    pub(crate) fn apv(&self) -> u16 {
        self.ctx.version
    }

    /// Whether a feature is agreed.
    pub(crate) fn has(&self, feature: Features) -> bool {
        self.ctx.has(feature)
    }
}
