//! The handshake decision: do two nodes have the same data, and if not, who follows whom?
//!
//! Both nodes compare their generation identifiers on their own, with the same facts mirrored, and must
//! come to mirrored results (state machine, section 8). [`decide`] takes the facts and returns what
//! follows from them; it changes nothing. [`compare`] is the comparison of the identifiers proper
//! (section 8.2); after it come the disk states, policies for split brain and conflicts with the role
//! (sections 8.5 to 8.7).

use alloc::vec::Vec;

use drbd_proto::{DiskState, NodeId, NodeMask, ReplState, Role, Uuid, UuidFlags};

use crate::options::{SbPolicy, WireProtocol};
use crate::rows::{Row, Rows};
use crate::uuid::{GenIds, PeerUuids};

mod adjust;
mod compare;
mod policy;

#[cfg(test)]
mod tests;

pub use crate::upcall::Handler;
pub use compare::compare;

/// What to do about the data (state machine, section 8.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Strategy {
    /// Both have the same data.
    NoSync,
    /// This node is the source of the blocks in the bitmaps.
    SourceUseBitmap,
    /// This node is the source of all blocks.
    SourceSetBitmap,
    /// This node is the source, of the blocks in the slot of that node.
    SourceCopyOtherBitmap(NodeId),
    /// This node is the source, unless a Primary decides otherwise.
    SourceIfBothFailed,
    /// This node is the target of the blocks in the bitmaps.
    TargetUseBitmap,
    /// This node is the target of all blocks.
    TargetSetBitmap,
    /// This node is the target; the source knows the blocks.
    TargetClearBitmap,
    /// This node is the target, unless a Primary decides otherwise.
    TargetIfBothFailed,
    /// Two generations with a common base: a policy may decide; resync by bitmap.
    SplitBrainAutoRecover,
    /// Two generations with a common ancestor: a policy may decide; full resync.
    SplitBrainDisconnect,
    /// Nothing in common.
    UnrelatedData,
    /// Each node has the other one's current generation as an ancestor. Rotation never makes such
    /// identifiers; both sides would wait for the other one's bitmap.
    Contradiction,
    /// Something has changed since the identifiers were sent.
    RetryConnect,
    /// Only nodes of this protocol version can tell.
    RequiresProto(u32),
    /// A Primary would have to become target: try again.
    SyncTargetPrimaryReconnect,
    /// A Primary would have to become target: disconnect.
    SyncTargetPrimaryDisconnect,
}

use Strategy::*;

impl Strategy {
    /// Whether this node becomes the source.
    pub fn is_source(self) -> bool {
        matches!(
            self,
            SourceUseBitmap | SourceSetBitmap | SourceCopyOtherBitmap(_) | SourceIfBothFailed
        )
    }

    /// Whether this node becomes the target.
    pub fn is_target(self) -> bool {
        matches!(
            self,
            TargetUseBitmap | TargetSetBitmap | TargetClearBitmap | TargetIfBothFailed
        )
    }

    /// Whether a Primary decides the direction.
    pub fn is_if_both_failed(self) -> bool {
        matches!(self, SourceIfBothFailed | TargetIfBothFailed)
    }

    /// Whether this is a split brain that no policy has solved yet.
    pub fn is_split_brain(self) -> bool {
        matches!(self, SplitBrainAutoRecover | SplitBrainDisconnect)
    }

    /// Whether it says what to do.
    pub fn is_determined(self) -> bool {
        self == NoSync || self.is_source() || self.is_target()
    }

    /// The same with all blocks.
    fn full(self) -> Strategy {
        match self {
            SourceUseBitmap => SourceSetBitmap,
            TargetUseBitmap => TargetSetBitmap,
            other => other,
        }
    }

    /// The same in the other direction, if there is such a thing.
    fn reversed(self) -> Option<Strategy> {
        Some(match self {
            SourceUseBitmap => TargetUseBitmap,
            SourceSetBitmap => TargetSetBitmap,
            SourceIfBothFailed => TargetIfBothFailed,
            TargetUseBitmap => SourceUseBitmap,
            TargetSetBitmap => SourceSetBitmap,
            TargetIfBothFailed => SourceIfBothFailed,
            _ => return None,
        })
    }
}

/// The rule that decided, by the name the reference logs (state machine, section 8.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // The names of the rules.
pub enum Rule {
    InitialHandshakeChanged,
    JustCreatedBoth,
    JustCreatedSelf,
    JustCreatedPeer,
    SyncSourceMissedFinish,
    SyncSourcePeerMissedFinish,
    SyncTargetMissedFinish,
    SyncTargetPeerMissedFinish,
    SyncTargetMissedStart,
    SyncSourceMissedStart,
    Reconnected,
    CrashedPrimary,
    LostQuorum,
    BothOff,
    BitmapPeer,
    BitmapPeerOther,
    BitmapSelf,
    BitmapSelfOther,
    HistoryPeer,
    HistorySelf,
    BitmapBoth,
    HistoryBoth,
    ReconcileBitmap,
    ReconcileDagtag,
    Contradiction,
}

impl Rule {
    /// The name for the log.
    pub fn name(self) -> &'static str {
        match self {
            Rule::InitialHandshakeChanged => "initial-handshake-changed",
            Rule::JustCreatedBoth => "just-created-both",
            Rule::JustCreatedSelf => "just-created-self",
            Rule::JustCreatedPeer => "just-created-peer",
            Rule::SyncSourceMissedFinish => "sync-source-missed-finish",
            Rule::SyncSourcePeerMissedFinish => "sync-source-peer-missed-finish",
            Rule::SyncTargetMissedFinish => "sync-target-missed-finish",
            Rule::SyncTargetPeerMissedFinish => "sync-target-peer-missed-finish",
            Rule::SyncTargetMissedStart => "sync-target-missed-start",
            Rule::SyncSourceMissedStart => "sync-source-missed-start",
            Rule::Reconnected => "reconnected",
            Rule::CrashedPrimary => "crashed-primary",
            Rule::LostQuorum => "lost-quorum",
            Rule::BothOff => "both-off",
            Rule::BitmapPeer => "bitmap-peer",
            Rule::BitmapPeerOther => "bitmap-peer-other",
            Rule::BitmapSelf => "bitmap-self",
            Rule::BitmapSelfOther => "bitmap-self-other",
            Rule::HistoryPeer => "history-peer",
            Rule::HistorySelf => "history-self",
            Rule::BitmapBoth => "bitmap-both",
            Rule::HistoryBoth => "history-both",
            Rule::ReconcileBitmap => "reconcile-bitmap",
            Rule::ReconcileDagtag => "reconcile-dagtag",
            Rule::Contradiction => "contradiction",
        }
    }
}

/// What asks for a decision.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Occasion {
    /// The first state packet of a connect, or a new evaluation with all policies (state machine,
    /// sections 8.7 and 8.11).
    Connect,
    /// A disk is attached on an established connection (state machine, section 8.10).
    Attach,
    /// A UUIDs packet with GOT_STABLE or RESYNC (state machine, section 8.11); `disk_states`: it has
    /// DISKLESS_PRIMARY, too.
    Resync {
        /// Look at the disk states as well.
        disk_states: bool,
    },
}

/// What was sent in this handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sent {
    /// The resolved current UUID.
    pub current: Uuid,
    /// The bitmap UUID towards the peer.
    pub bitmap: Uuid,
    /// The flags.
    pub flags: UuidFlags,
    /// Number of set bits towards the peer.
    pub bits: u64,
}

/// What only one of the two nodes knows about itself, and both know about each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Side {
    /// Role.
    pub role: Role,
    /// State of the disk. Of this node: that of the last state word sent, where Negotiating stands for
    /// what the metadata says.
    pub disk: DiskState,
    /// Whether its state word says it has quorum.
    pub quorum: bool,
}

/// Names of lost Primaries that were exchanged (state machine, section 8.6).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct LostPrimary {
    /// This node named one to the peer.
    pub named: bool,
    /// The peer named one: this node's last dagtag from that Primary less the peer's.
    pub offset: Option<i64>,
}

/// The policies in force (state machine, section 8.7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policies {
    /// `after-sb-0pri`, `after-sb-1pri`, `after-sb-2pri`: by number of Primaries.
    pub after_sb: [SbPolicy; 3],
    /// `always-asbp`.
    pub always_asbp: bool,
    /// `rr-conflict`.
    pub rr_conflict: SbPolicy,
    /// `protocol`.
    pub protocol: WireProtocol,
    /// Whether `quorum` is configured.
    pub quorum: bool,
}

/// All that the decision depends on.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// What asks.
    pub occasion: Occasion,
    /// The peer.
    pub peer: NodeId,
    /// Agreed protocol version.
    pub pv: u32,
    /// RESOLVE_CONFLICTS: set on exactly one of the two nodes.
    pub resolve_conflicts: bool,
    /// Own identifiers.
    pub mine: &'a GenIds,
    /// The resolved current UUID towards the peer (state machine, section 2.7).
    pub resolved: Uuid,
    /// The flags this node would send now.
    pub flags: UuidFlags,
    /// What was sent, while the connection is Connecting.
    pub sent: Option<Sent>,
    /// Nodes with a bitmap slot here.
    pub with_slot: NodeMask,
    /// Nodes whose bitmap UUIDs this node reports.
    pub reported: NodeMask,
    /// Own set bits towards the peer.
    pub bits: u64,
    /// The peer's identifiers.
    pub theirs: &'a PeerUuids,
    /// This node.
    pub me: Side,
    /// The peer.
    pub other: Side,
    /// RS_SOURCE_MISSED_END.
    pub source_missed_end: bool,
    /// RS_PEER_MISSED_END.
    pub peer_missed_end: bool,
    /// Lost Primaries, if the feature RECONCILE_RECONNECT is agreed.
    pub reconcile: Option<LostPrimary>,
    /// Both nodes compare left-over bits: the feature COMPARE_LEFTOVER is agreed. A kernel's DRBD drops them.
    pub compare_leftover: bool,
    /// A resync with another peer is running here.
    pub other_resync: bool,
    /// The peer still follows a Primary that this node sees as Secondary: it was restarted or demoted, and the peer
    /// has not noticed that yet.
    pub follows_nobody: bool,
    /// Which sides may yet learn from others whether their data is the newest, as far as this node can tell: itself,
    /// the peer.
    pub finds_out: [bool; 2],
    /// In an attach: whether it is this node's disk; none if both are being attached.
    pub attaching: Option<bool>,
    /// This node is UpToDate, with the data of a connected Primary that is not the peer.
    pub served: bool,
    /// This node, if Primary, could become Secondary at once: nobody has it open.
    pub can_demote: bool,
    /// `connect --tentative` on either side.
    pub dry_run: bool,
    /// The policies.
    pub policies: Policies,
}

impl Facts<'_> {
    /// b of the table: own bitmap UUID for the peer.
    fn b(&self) -> Uuid {
        self.mine.bitmap(self.peer)
    }

    /// q of the table: the peer's bitmap UUID for this node; 0 if it did not say.
    fn q(&self) -> Uuid {
        self.theirs.bitmap(self.mine.me()).unwrap_or(Uuid::NONE)
    }

    fn i_have(&self, flag: UuidFlags) -> bool {
        self.flags.contains(flag)
    }

    fn peer_has(&self, flag: UuidFlags) -> bool {
        self.theirs.flags.contains(flag)
    }

    fn any_bits(&self) -> bool {
        self.bits != 0 || self.theirs.dirty_bits != 0
    }
}

/// What becomes of the replication (state machine, section 8.9).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It goes on in this state: WFBitMapS, WFBitMapT or Established.
    Repl(ReplState),
    /// The handshake fails; no automatic reconnect.
    Disconnect,
    /// The handshake fails; try again.
    Retry,
    /// No result: the disk stays out, or nothing happens.
    NoResult,
}

/// What to do to the bitmap slot of the peer before a resync (state machine, section 8.8).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BitmapAction {
    /// Nothing: the exchange merges both sides' bits.
    Keep,
    /// Clear it; the source has the bits.
    Clear,
    /// Set all bits of it, under the flag FULL_SYNC in the metadata.
    SetAll,
    /// Set all bits of every slot that a node has.
    SetAllSlots,
    /// Copy the slot of this node, or a free one if it has none; set all bits if there is no free one.
    CopyFrom(NodeId),
}

/// A change of identifiers that the comparison with a peer below protocol 110 found to be due (state
/// machine, section 8.3), or that follows from a missed end of a resync.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fixup {
    /// Clear the own bitmap UUID for the peer; it becomes an ancestor.
    ClearBitmapUuid,
    /// The peer's bitmap UUID is an ancestor already.
    PeerShiftDown,
    /// The peer's newest ancestor is its bitmap UUID.
    PeerShiftUp,
    /// The own newest ancestor is the bitmap UUID for the peer.
    PullBack,
    /// The own bitmap UUID for the peer becomes the peer's current UUID.
    SetBitmapUuid,
}

impl Fixup {
    /// Applies it. `dagtag` is the resource's.
    pub fn apply(
        self,
        peer: NodeId,
        mine: &mut GenIds,
        theirs: &mut PeerUuids,
        dagtag: drbd_proto::Dagtag,
    ) {
        match self {
            Fixup::ClearBitmapUuid => mine.set_bitmap(peer, Uuid::NONE, dagtag),
            Fixup::PeerShiftDown => theirs.shift_down(mine.me()),
            Fixup::PeerShiftUp => theirs.shift_up(mine.me()),
            Fixup::PullBack => mine.pull_back(peer),
            Fixup::SetBitmapUuid => mine.set_bitmap(peer, theirs.current, dagtag),
        }
    }
}

/// What follows from the facts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// What the comparison of the identifiers alone said, for the log.
    pub found: Strategy,
    /// What to do.
    pub strategy: Strategy,
    /// The rule that led to it.
    pub rule: Rule,
    /// What becomes of the replication.
    pub outcome: Outcome,
    /// What to do to the bitmap.
    pub bitmap: BitmapAction,
    /// Changes of identifiers, in this order. The caller applies them unless the handshake fails.
    pub fixups: Vec<Fixup>,
    /// Handlers to run, in this order.
    pub handlers: Vec<Handler>,
    /// RECONCILIATION_RESYNC: checksum based if possible.
    pub reconciliation: bool,
    /// Become Secondary first, at once and alone (after-sb policy call-pri-lost-after-sb).
    pub demote: bool,
    /// The rows of the tables that it went through.
    pub rows: Rows,
}

impl Decision {
    fn note(&mut self, row: Row) {
        self.rows.insert(row);
    }
}

/// Decides (state machine, section 8.7; step numbers are those given there).
pub fn decide(facts: &Facts<'_>) -> Decision {
    let compared = compare(facts);
    let mut d = Decision {
        found: compared.strategy,
        strategy: compared.strategy,
        rule: compared.rule,
        outcome: Outcome::NoResult,
        bitmap: BitmapAction::Keep,
        fixups: compared.fixup.into_iter().collect(),
        handlers: Vec::new(),
        reconciliation: false,
        demote: false,
        rows: compared.rows,
    };
    match facts.occasion {
        Occasion::Connect => policy::connect(facts, &mut d),
        Occasion::Attach => policy::attach(facts, &mut d),
        Occasion::Resync { disk_states } => {
            // Without this an UpToDate disk would become the target of one that is Outdated, and with the next
            // offers all would be Outdated (a deviation: the reference does not look at the disks here).
            let crashed = d.strategy.is_if_both_failed() || adjust::worse_source(facts, &d);
            let forsaken = adjust::forsaken(facts, &d);
            if forsaken && !disk_states {
                d.note(Row::D6);
            }
            if disk_states || crashed || forsaken {
                adjust::by_disk_states(facts, &mut d);
            }
            if disk_states {
                adjust::reconcile(facts, &mut d);
            }
            // The two nodes have worked side by side: the one with the better disk wins.
            if d.strategy == SplitBrainAutoRecover {
                if facts.other.disk == DiskState::UpToDate {
                    d.strategy = TargetUseBitmap;
                } else if facts.me.disk == DiskState::UpToDate {
                    d.strategy = SourceUseBitmap;
                }
            }
        }
    }
    conclude(facts, &mut d);
    d
}

/// From the strategy to what has to be done (state machine, sections 8.8 and 8.9).
fn conclude(facts: &Facts<'_>, d: &mut Decision) {
    let connecting = facts.occasion == Occasion::Connect;
    d.outcome = match d.strategy {
        RetryConnect | SyncTargetPrimaryReconnect if connecting => Outcome::Retry,
        s if s.is_determined() => Outcome::Repl(repl_state(facts, d)),
        _ if connecting => Outcome::Disconnect,
        _ => Outcome::NoResult,
    };
    if connecting && facts.dry_run {
        d.note(Row::K13);
        d.outcome = Outcome::Disconnect;
    }
    if !matches!(d.outcome, Outcome::Repl(_)) {
        d.fixups.clear();
        return;
    }
    d.bitmap = bitmap_action(facts, d.strategy);
    d.note(match d.bitmap {
        BitmapAction::Keep if d.strategy == TargetSetBitmap => Row::BSetRunning,
        BitmapAction::Keep => Row::BKeep,
        BitmapAction::Clear => Row::BClear,
        BitmapAction::SetAll => Row::BSet,
        BitmapAction::SetAllSlots => Row::BSetSlots,
        BitmapAction::CopyFrom(_) => Row::BCopy,
    });
    let created = facts.resolved.is_just_created() || facts.theirs.current.is_just_created();
    if d.strategy == SourceSetBitmap && !created && !facts.theirs.current.is_none() {
        d.note(Row::BSetUuid);
        d.fixups.push(Fixup::SetBitmapUuid);
    }
}

fn bitmap_action(facts: &Facts<'_>, strategy: Strategy) -> BitmapAction {
    let created = facts.mine.current().is_just_created();
    match strategy {
        SourceCopyOtherBitmap(node) => BitmapAction::CopyFrom(node),
        TargetClearBitmap => BitmapAction::Clear,
        TargetSetBitmap if created && facts.other_resync => BitmapAction::Keep,
        TargetSetBitmap | SourceSetBitmap if created => BitmapAction::SetAllSlots,
        TargetSetBitmap | SourceSetBitmap => BitmapAction::SetAll,
        _ => BitmapAction::Keep,
    }
}

fn repl_state(facts: &Facts<'_>, d: &mut Decision) -> ReplState {
    let me_primary = facts.me.role == Role::Primary && !d.demote;
    if d.strategy.is_if_both_failed() {
        d.note(match (me_primary, facts.other.role) {
            (true, Role::Primary) => Row::FBoth,
            (true, _) => Row::FSelf,
            (false, Role::Primary) => Row::FPeer,
            _ if d.strategy.is_source() => Row::FSource,
            _ => Row::FTarget,
        });
    }
    let source = match (d.strategy.is_if_both_failed(), me_primary, facts.other.role) {
        (true, true, Role::Primary) => return ReplState::Established,
        (true, true, _) => true,
        (true, false, Role::Primary) => false,
        _ if d.strategy.is_source() => true,
        _ if d.strategy.is_target() => false,
        _ => return ReplState::Established,
    };
    if source {
        ReplState::WFBitMapS
    } else {
        ReplState::WFBitMapT
    }
}
