//! The comparison of the generation identifiers (state machine, section 8.2).

use drbd_proto::{NodeId, Uuid, UuidFlags};

use super::{Facts, Fixup, Rule, Strategy, Strategy::*};
use crate::options::WireProtocol;
use crate::uuid::SYNC_UUID_STEP;

/// Result of the comparison.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Compared {
    /// What to do.
    pub strategy: Strategy,
    /// Which rule says so.
    pub rule: Rule,
    /// What was found to be missing in the identifiers, below protocol 110.
    pub fixup: Option<Fixup>,
}

fn hit(strategy: Strategy, rule: Rule) -> Option<Compared> {
    Some(Compared {
        strategy,
        rule,
        fixup: None,
    })
}

/// Compares the identifiers; the first rule that applies decides. The numbers are the rows of the table
/// in state machine, section 8.2.
pub fn compare(f: &Facts<'_>) -> Compared {
    let created = |uuid: Uuid| uuid.is_just_created() || uuid.is_none();
    let s = f.resolved;
    let p = f.theirs.current;
    let found = if changed(f) {
        hit(RetryConnect, Rule::InitialHandshakeChanged) // 1
    } else {
        match (s.is_just_created(), created(p)) {
            (true, true) => hit(NoSync, Rule::JustCreatedBoth), // 2
            (true, false) => hit(TargetSetBitmap, Rule::JustCreatedSelf), // 3
            (false, true) => hit(SourceSetBitmap, Rule::JustCreatedPeer), // 4
            _ if s.same(p) => equal(f),
            _ => different(f, s, p),
        }
    };
    found.unwrap_or(Compared {
        strategy: UnrelatedData,
        rule: Rule::HistoryBoth,
        fixup: None,
    }) // 31
}

/// Whether what was sent in this handshake is no longer true.
fn changed(f: &Facts<'_>) -> bool {
    f.sent.is_some_and(|sent| {
        // Which node stands for day 0 says nothing about the data.
        let ignored = UuidFlags::INCONSISTENT.with_unallocated_node(NodeId::MAX);
        let relevant = |flags: UuidFlags| flags.minus(ignored);
        !sent.current.same(f.resolved)
            || !sent.bitmap.same(f.b())
            || relevant(sent.flags) != relevant(f.flags)
    })
}

fn equal(f: &Facts<'_>) -> Option<Compared> {
    let both = |flag| f.i_have(flag) && f.peer_has(flag);
    // 5
    if let Some(found) = missed_end_legacy(f) {
        return Some(found);
    }
    if f.source_missed_end {
        return hit(SourceUseBitmap, Rule::SyncSourceMissedFinish); // 6
    }
    if f.peer_missed_end {
        return hit(TargetUseBitmap, Rule::SyncTargetPeerMissedFinish); // 7
    }
    if f.pv >= 120 && both(UuidFlags::RECONNECT) {
        return hit(NoSync, Rule::Reconnected); // 8
    }
    let i_crashed = f.i_have(UuidFlags::CRASHED_PRIMARY);
    let peer_crashed = f.peer_has(UuidFlags::CRASHED_PRIMARY);
    if f.pv >= 121 && f.policies.protocol != WireProtocol::C {
        // What the crashed Primary had completed must survive.
        match (i_crashed, peer_crashed) {
            (true, false) => return hit(SourceUseBitmap, Rule::CrashedPrimary), // 9
            (false, true) => return hit(TargetUseBitmap, Rule::CrashedPrimary), // 10
            _ => {}
        }
    }
    let lost = UuidFlags::PRIMARY_LOST_QUORUM;
    match (f.i_have(lost), f.peer_has(lost)) {
        (false, true) => return hit(TargetIfBothFailed, Rule::LostQuorum), // 11
        (true, false) => return hit(SourceIfBothFailed, Rule::LostQuorum), // 12
        // 13
        (true, true) if f.resolve_conflicts => return hit(SourceIfBothFailed, Rule::LostQuorum),
        (true, true) => return hit(TargetIfBothFailed, Rule::LostQuorum),
        (false, false) => {}
    }
    if f.pv < 120 && both(UuidFlags::RECONNECT) {
        return hit(NoSync, Rule::Reconnected); // 14
    }
    let last = if f.pv >= 120 {
        Rule::LostQuorum
    } else {
        Rule::Reconnected
    };
    let (i_reconnect, peer_reconnects) = (
        f.i_have(UuidFlags::RECONNECT),
        f.peer_has(UuidFlags::RECONNECT),
    );
    if peer_crashed && i_reconnect {
        return hit(SourceIfBothFailed, last); // 15
    }
    if i_crashed && peer_reconnects {
        return hit(TargetIfBothFailed, last); // 16
    }
    if i_reconnect || peer_reconnects {
        return hit(NoSync, last); // 17
    }
    match (i_crashed, peer_crashed) {
        (true, true) if f.resolve_conflicts => hit(TargetIfBothFailed, Rule::BothOff), // 18
        (true, _) => hit(SourceIfBothFailed, Rule::BothOff),
        (false, true) => hit(TargetIfBothFailed, Rule::BothOff), // 19
        (false, false) => hit(NoSync, Rule::BothOff),            // 20
    }
}

/// If each node finds the other one ahead of it, both would wait for a bitmap: the peer looks through
/// what is reported to it in the same way as this node does, apart from slots that it is not told of.
fn different(f: &Facts<'_>, s: Uuid, p: Uuid) -> Option<Compared> {
    let (b, q) = (f.b(), f.q());
    let peer_is_ahead = if s.same(q) {
        hit(TargetUseBitmap, Rule::BitmapPeer) // 21
    } else if f.theirs.node_of(s).is_some() {
        hit(TargetClearBitmap, Rule::BitmapPeerOther) // 22
    } else {
        missed_start_at_target(f) // 23
    };
    let i_am_ahead = if b.same(p) {
        hit(SourceUseBitmap, Rule::BitmapSelf) // 24
    } else if let Some(node) = own_slots(f, p).next() {
        hit(SourceCopyOtherBitmap(node), Rule::BitmapSelfOther) // 25
    } else {
        missed_start_at_source(f) // 26
    };
    match (peer_is_ahead, i_am_ahead) {
        (Some(_), Some(_)) if b.same(p) || own_slots(f, p).any(|n| f.reported.contains(n)) => {
            return hit(Contradiction, Rule::Contradiction);
        }
        (Some(_), Some(found)) if found.rule == Rule::SyncSourceMissedStart => {
            return hit(Contradiction, Rule::Contradiction);
        }
        (Some(found), _) | (None, Some(found)) => return Some(found),
        (None, None) => {}
    }
    match (f.theirs.in_history(s), f.mine.in_history(p)) {
        (true, false) => return hit(TargetSetBitmap, Rule::HistoryPeer), // 27
        (false, true) => return hit(SourceSetBitmap, Rule::HistorySelf), // 28
        _ => {}
    }
    if b.same(q) && !b.is_none() {
        return hit(SplitBrainAutoRecover, Rule::BitmapBoth); // 29
    }
    let ancestors = |list: &[Uuid]| list.iter().position(|u| u.is_none()).unwrap_or(list.len());
    let mine = f.mine.history();
    let theirs = f.theirs.history();
    let theirs = theirs.iter().take(ancestors(theirs));
    let common = mine
        .iter()
        .take(ancestors(mine))
        .any(|a| theirs.clone().any(|b| a.same(*b)));
    if common {
        hit(SplitBrainDisconnect, Rule::HistoryBoth)
    } else {
        None
    } // 30
}

/// The nodes whose slots track changes since this generation.
fn own_slots(f: &Facts<'_>, uuid: Uuid) -> impl Iterator<Item = NodeId> {
    NodeId::all().filter(move |&n| {
        let tracked = f.mine.bitmap(n);
        let known = f.pv >= 116 || f.with_slot.contains(n);
        n != f.mine.me() && known && !tracked.is_none() && tracked.same(uuid)
    })
}

/// One of the two has not heard of the end of a resync (state machine, section 8.3 a).
fn missed_end_legacy(f: &Facts<'_>) -> Option<Compared> {
    let (b, q) = (f.b(), f.q());
    let mine = f.mine.history();
    let theirs = f.theirs.history();
    let (strategy, rule, fixup) = match (b.is_none(), q.is_none()) {
        (false, true) if b.same(theirs[0]) && mine[0].same(theirs[0]) => (
            SourceUseBitmap,
            Rule::SyncSourceMissedFinish,
            Some(Fixup::ClearBitmapUuid),
        ),
        (false, true) => (SourceUseBitmap, Rule::SyncSourcePeerMissedFinish, None),
        (true, false) if mine[0].same(q) && mine[1].same(theirs[0]) => (
            TargetUseBitmap,
            Rule::SyncTargetPeerMissedFinish,
            Some(Fixup::PeerShiftDown),
        ),
        (true, false) => (TargetUseBitmap, Rule::SyncTargetMissedFinish, None),
        _ => return None,
    };
    if f.pv >= 110 {
        return None;
    }
    Some(needs_91(
        f,
        Compared {
            strategy,
            rule,
            fixup,
        },
    ))
}

/// This node has not heard of the start of a resync (state machine, section 8.3 b).
fn missed_start_at_target(f: &Facts<'_>) -> Option<Compared> {
    let mine = f.mine.history();
    let theirs = f.theirs.history();
    let missed = f.pv < 110
        && f.mine.current().same(theirs[0])
        && if f.pv < 96 {
            mine[0].same(theirs[1])
        } else {
            sync_uuid(theirs[0]).same(f.q())
        };
    let found = Compared {
        strategy: TargetUseBitmap,
        rule: Rule::SyncTargetMissedStart,
        fixup: Some(Fixup::PeerShiftUp),
    };
    missed.then(|| needs_91(f, found))
}

/// The peer has not heard of the start of a resync (state machine, section 8.3 c).
fn missed_start_at_source(f: &Facts<'_>) -> Option<Compared> {
    let mine = f.mine.history();
    let missed = f.pv < 110
        && mine[0].same(f.theirs.current)
        && if f.pv < 96 {
            mine[1].same(f.theirs.history()[0])
        } else {
            sync_uuid(mine[0]).same(f.b())
        };
    let found = Compared {
        strategy: SourceUseBitmap,
        rule: Rule::SyncSourceMissedStart,
        fixup: Some(Fixup::PullBack),
    };
    missed.then(|| needs_91(f, found))
}

fn sync_uuid(uuid: Uuid) -> Uuid {
    Uuid(uuid.0.wrapping_add(SYNC_UUID_STEP))
}

/// The corrections are only understood from protocol 91 on.
fn needs_91(f: &Facts<'_>, found: Compared) -> Compared {
    if f.pv < 91 {
        Compared {
            strategy: RequiresProto(91),
            fixup: None,
            ..found
        }
    } else {
        found
    }
}
