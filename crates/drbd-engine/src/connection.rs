//! A connection and its peer devices: what the engine keeps beyond their state values.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use drbd_proto::{
    ConnState, Ctx, Dagtag, DiskState, Features, NodeId, NodeMask, ReplState, Role,
    State as WireState, Uuid, UuidFlags, VolumeNr,
};

use crate::command::RetCode;
use crate::exchange::HandshakeResult;

use crate::data::{ConnectionData, PeerDeviceData};
use crate::effect::Path;
use crate::handshake::Handshake;
use crate::options::{NetOptions, PeerDeviceOptions};
use crate::uuid::PeerUuids;

/// A connection to a peer node.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Name of the connection.
    pub name: String,
    /// Net options.
    pub options: NetOptions,
    /// The paths and which of them is in use.
    pub paths: Vec<(Path, bool)>,
    /// How far the handshake has come, while there are streams.
    pub handshake: Handshake,
    /// What the exchange found against the connect.
    pub verdict: Option<RetCode>,
    /// The peer's role as its states in the exchange said.
    pub exchange_role: Role,
    /// The lost Primary the peer named in the exchange, and its position there.
    pub named_lost_primary: Option<(NodeId, Dagtag)>,
    /// This node named a lost Primary to the peer in the exchange.
    pub named_to_peer: bool,
    /// Position in a lost Primary's stream that is ours when the reconciliation resync has ended.
    pub adopt_dagtag: Option<(NodeId, Dagtag)>,
    /// The peer's verify-alg.
    pub peer_verify_alg: String,
    /// Agreed version and features.
    pub ctx: Ctx,
    /// This node accepted the control stream last.
    pub resolve_conflicts: bool,
    /// Fresh random bytes for the authentication challenge.
    pub challenge: Box<[u8; 64]>,
    /// A P_PING is unanswered.
    pub ping_pending: bool,
    /// The peers whose resync with this node began before this one was heard of last.
    pub heard_in_resync: NodeMask,
    /// Who waits for the answer to a ping.
    pub ping_waiters: Vec<PingWaiter>,
    /// How often it became Connected.
    pub connects: u64,
    /// The fence-peer handler runs, called after so many connects.
    pub fence_call: Option<u64>,
    /// Sticky flags.
    pub flags: ConnectionFlags,
    /// Position in this peer's stream of writes (data path, section 12.1); kept when the connection is lost.
    pub last_dagtag: Dagtag,
    /// `last_dagtag` was received over the present streams.
    pub dagtag_received: bool,
    /// It is lost, and what that leaves behind waits for pings of other peers.
    pub lost: Option<LostConnection>,
    /// The volumes.
    pub peers: BTreeMap<VolumeNr, PeerDevice>,
    /// The data plane's part.
    pub data: ConnectionData,
}

/// How a connection was lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LostConnection {
    /// The state that it went to.
    pub reason: ConnState,
    /// It was Connected.
    pub was_connected: bool,
    /// The administrator wanted it to end.
    pub leaving: bool,
}

/// Who waits for the answer to a ping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PingWaiter {
    /// A promotion.
    RoleChange,
    /// A new current UUID that is due.
    NewUuid,
    /// The reports of what is in sync in a resync with another peer.
    ResyncStart {
        /// That peer.
        with: NodeId,
    },
    /// Somebody who opens a volume for reading.
    Reader,
    /// The end of a resync as target of this volume.
    ResyncFinish {
        /// The volume.
        volume: VolumeNr,
        /// Some blocks could not be synced.
        failed: bool,
    },
}

/// Sticky flags of a connection (state machine, section 2.6).
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct ConnectionFlags {
    /// RECONNECT: was Connected before, since start.
    pub reconnect: bool,
    /// DISCARD_MY_DATA.
    pub discard_my_data: bool,
    /// `connect --tentative` was asked for here.
    pub tentative: bool,
    /// CONN_DRY_RUN: asked for here or there.
    pub dry_run: bool,
    /// The peer came with discard-my-data.
    pub peer_discards: bool,
    /// NOTIFY_PEERS_LOST_PRIMARY.
    pub notify_lost_primary: bool,
    /// The peer agreed to the end of the connection; its closing is no error.
    pub disconnect_expected: bool,
}

/// A volume with respect to one peer.
#[derive(Debug, Default)]
pub(crate) struct PeerDevice {
    /// Options.
    pub options: PeerDeviceOptions,
    /// The peer's generation identifiers, as received last.
    pub uuids: PeerUuids,
    /// The peer's sizes, as received last.
    pub sizes: PeerSizes,
    /// Sticky flags.
    pub flags: PeerDeviceFlags,
    /// What was sent in this handshake: current UUID, bitmap UUID towards the peer, uuid_flags.
    pub sent: SentUuids,
    /// What the exchange decided.
    pub handshake_result: Option<HandshakeResult>,
    /// Result of the handshake while the own disk is Negotiating.
    pub negotiation: Negotiation,
    /// The last state this peer sent.
    pub last_state: Option<WireState>,
    /// In the exchange we saw that the peer's data are newer.
    pub would_be_target: bool,
    /// The generation this diskless node showed when it refused this peer, which did not have it.
    pub refused_for: Uuid,
    /// An earlier generation, which this peer has, is shown to it while it connects (predecessor relabel).
    pub shown: Uuid,
    /// The diskless peer went on to a generation that our disk does not have.
    pub moved_on: bool,
    /// The target reported the end before we left the bitmap exchange: its state then, and that of its disk.
    pub finished_early: Option<(WireState, DiskState)>,
    /// Where the handler that goes before a resync stands.
    pub resync_call: ResyncCall,
    /// Our current UUID when the resync from this peer began.
    pub start_uuid: Uuid,
    /// P_SIZES of a connected peer of the 8 series waits for the own devices to be measured.
    pub sizes_wait: bool,
    /// P_SYNC_UUID that came meanwhile.
    pub early_sync_uuid: Option<Uuid>,
    /// What we announced with P_ENABLE_REPLICATION_NEXT.
    pub replication_next_sent: bool,
    /// What the peer announced with P_ENABLE_REPLICATION_NEXT.
    pub replication_next_received: bool,
    /// The data plane's part: resync, statistics.
    pub data: PeerDeviceData,
}

/// Where the handler that goes before a resync stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum ResyncCall {
    /// It was not called.
    #[default]
    No,
    /// It runs.
    Running,
    /// It has let the resync begin.
    Done,
}

/// Result of a handshake while the own disk is Negotiating (state machine, section 2.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Negotiation {
    /// Not yet.
    #[default]
    NotYet,
    /// To go on in this state.
    Repl(ReplState),
    /// No usable result.
    NoResult,
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
    pub flags: UuidFlags,
}

/// Sticky flags of a peer device (state machine, section 2.6).
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct PeerDeviceFlags {
    /// A resync to this peer has begun, or its disk was written to while it had gaps: its slot does not name all
    /// that has changed since its bitmap UUID.
    pub slot_touched: bool,
    /// This node was Primary without the peer before it was started anew; until they meet.
    pub degraded: bool,
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
    /// The lost Primary which that is about.
    pub reconcile_about: Option<NodeId>,
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
    /// This node got blocks in a resync that left its generation alone; the peer, at the same one, may lack
    /// them.
    pub lacks_reconciled: bool,
    /// When a Primary was lost, there were marks towards the peer already: they are about something else than the
    /// writes of that Primary.
    pub marked_before_loss: bool,
    /// The peer, a Primary, did not send a write to this node's UpToDate disk, but that it lacks it.
    pub told_lacking: bool,
    /// The device has grown, and the peer is to fetch the new area from here.
    pub grow_source: bool,
    /// This node's device has grown in the handshake.
    pub grew: bool,
    /// The peer's device grows in the handshake.
    pub peer_grew: bool,
    /// Where the new area begins, in sectors.
    pub grow_from: u64,
    /// The size of the peer's device at the beginning of the handshake, in sectors; 0 before that.
    pub first_size: u64,
    /// A good peer that was told of the shown generation and has not said that it has it.
    pub unconfirmed: bool,
    /// The peer lacks a write that this node completed without data of its own, or may have forgotten one.
    pub missed: bool,
    /// In this connection the peer had the data this diskless node exposes.
    pub had_exposed: bool,
}

impl Connection {
    /// A connection that was never tried.
    pub(crate) fn new(name: String, options: NetOptions) -> Self {
        Connection {
            name,
            options,
            paths: Vec::new(),
            handshake: Handshake::NoStreams,
            verdict: None,
            exchange_role: Role::Unknown,
            named_lost_primary: None,
            named_to_peer: false,
            adopt_dagtag: None,
            peer_verify_alg: String::new(),
            ctx: Ctx::INITIAL,
            resolve_conflicts: false,
            challenge: Box::new([0; 64]),
            ping_pending: false,
            heard_in_resync: NodeMask::ALL,
            ping_waiters: Vec::new(),
            connects: 0,
            fence_call: None,
            lost: None,
            flags: ConnectionFlags::default(),
            last_dagtag: Dagtag::ZERO,
            dagtag_received: false,
            peers: BTreeMap::new(),
            data: ConnectionData::default(),
        }
    }

    /// Agreed protocol version.
    pub(crate) fn apv(&self) -> u16 {
        self.ctx.version
    }

    /// Whether a feature is agreed.
    pub(crate) fn has(&self, feature: Features) -> bool {
        self.ctx.has(feature)
    }
}
