//! The comparison of the generation identifiers (state machine, section 8.2).

use drbd_proto::{NodeId, Uuid, UuidFlags};

use super::{Facts, Fixup, Rule, Strategy, Strategy::*};
use crate::options::WireProtocol;
use crate::rows::{Row, Rows};
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
    /// The rows of the table that say so.
    pub rows: Rows,
}

fn hit(strategy: Strategy, rule: Rule, row: Row) -> Option<Compared> {
    Some(found(strategy, rule, None, row))
}

fn found(strategy: Strategy, rule: Rule, fixup: Option<Fixup>, row: Row) -> Compared {
    let mut rows = Rows::default();
    rows.insert(row);
    Compared {
        strategy,
        rule,
        fixup,
        rows,
    }
}

/// Compares the identifiers; the first rule that applies decides. The numbers are the rows of the table
/// in state machine, section 8.2.
pub fn compare(f: &Facts<'_>) -> Compared {
    let created = |uuid: Uuid| uuid.is_just_created() || uuid.is_none();
    let s = f.resolved;
    let p = f.theirs.current;
    let found = if changed(f) {
        hit(RetryConnect, Rule::InitialHandshakeChanged, Row::C1) // 1
    } else {
        match (s.is_just_created(), created(p)) {
            (true, true) => hit(NoSync, Rule::JustCreatedBoth, Row::C2), // 2
            (true, false) => hit(TargetSetBitmap, Rule::JustCreatedSelf, Row::C3), // 3
            (false, true) => hit(SourceSetBitmap, Rule::JustCreatedPeer, Row::C4), // 4
            _ if s.same(p) => equal(f),
            _ => different(f, s, p),
        }
    };
    let mut found =
        found.unwrap_or_else(|| self::found(UnrelatedData, Rule::HistoryBoth, None, Row::C31)); // 31
    if f.pv < 110 {
        let old: Rows = found.rows.iter().filter_map(of_drbd8).collect();
        found.rows.add(&old);
    }
    found
}

/// The row of the table of DRBD 8 that a row of this one stands for (state machine, section 8.4).
fn of_drbd8(row: Row) -> Option<Row> {
    Some(match row {
        Row::C2 => Row::Old10,
        Row::C3 => Row::Old20,
        Row::C4 => Row::Old30,
        Row::FixSourceCorrected | Row::FixSourcePeer => Row::Old34,
        Row::FixTargetCorrected | Row::FixTarget => Row::Old36,
        Row::C20 => Row::Old40None,
        Row::C18b => Row::Old40Self,
        Row::C19 => Row::Old40Peer,
        Row::C18a | Row::C18c => Row::Old40Both,
        Row::C21 => Row::Old50,
        Row::FixTargetStart95 | Row::FixTargetStart => Row::Old51,
        Row::C27 => Row::Old60,
        Row::C24 => Row::Old70,
        Row::FixSourceStart95 | Row::FixSourceStart => Row::Old71,
        Row::C28 => Row::Old80,
        Row::C29 => Row::Old90,
        Row::C30 => Row::Old100,
        Row::C31 => Row::OldUnrelated,
        _ => return None,
    })
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
    if f.pv < 110 {
        return after_a_crash(f);
    }
    if f.source_missed_end {
        return hit(SourceUseBitmap, Rule::SyncSourceMissedFinish, Row::C6); // 6
    }
    if f.peer_missed_end {
        return hit(TargetUseBitmap, Rule::SyncTargetPeerMissedFinish, Row::C7); // 7
    }
    if f.pv >= 120 && both(UuidFlags::RECONNECT) {
        return hit(NoSync, Rule::Reconnected, Row::C8); // 8
    }
    let i_crashed = f.i_have(UuidFlags::CRASHED_PRIMARY);
    let peer_crashed = f.peer_has(UuidFlags::CRASHED_PRIMARY);
    if f.pv >= 121 && f.policies.protocol != WireProtocol::C {
        // What the crashed Primary had completed must survive.
        match (i_crashed, peer_crashed) {
            (true, false) => return hit(SourceUseBitmap, Rule::CrashedPrimary, Row::C9), // 9
            (false, true) => return hit(TargetUseBitmap, Rule::CrashedPrimary, Row::C10), // 10
            _ => {}
        }
    }
    let (i_reconnect, peer_reconnects) = (
        f.i_have(UuidFlags::RECONNECT),
        f.peer_has(UuidFlags::RECONNECT),
    );
    let lost = UuidFlags::PRIMARY_LOST_QUORUM;
    let (i_lost, peer_lost) = (f.i_have(lost), f.peer_has(lost));
    // A Primary that crashed after it had lost quorum has nobody any more who waits for its last writes, and may have
    // lost acknowledged ones from its cache; the other one was there all the time, and somebody may have gone on with
    // its data (a deviation, beside nodes of this kind only: rows 15 and 16 count).
    let witness = f.compare_leftover
        && (peer_crashed && i_reconnect && !i_crashed && !i_lost
            || i_crashed && peer_reconnects && !peer_crashed && !peer_lost);
    match (i_lost, peer_lost) {
        _ if witness => {}
        (false, true) => return hit(TargetIfBothFailed, Rule::LostQuorum, Row::C11), // 11
        (true, false) => return hit(SourceIfBothFailed, Rule::LostQuorum, Row::C12), // 12
        // 13
        (true, true) if f.resolve_conflicts => {
            return hit(SourceIfBothFailed, Rule::LostQuorum, Row::C13a);
        }
        (true, true) => return hit(TargetIfBothFailed, Rule::LostQuorum, Row::C13b),
        (false, false) => {}
    }
    if f.pv < 120 && both(UuidFlags::RECONNECT) {
        return hit(NoSync, Rule::Reconnected, Row::C14); // 14
    }
    let last = if f.pv >= 120 {
        Rule::LostQuorum
    } else {
        Rule::Reconnected
    };
    if peer_crashed && i_reconnect {
        return hit(SourceIfBothFailed, last, Row::C15); // 15
    }
    if i_crashed && peer_reconnects {
        return hit(TargetIfBothFailed, last, Row::C16); // 16
    }
    if i_reconnect || peer_reconnects {
        return hit(NoSync, last, Row::C17); // 17
    }
    after_a_crash(f)
}

/// Rows 18 to 20. A peer of the 8 series gets here at once: it says nothing of RECONNECT or a lost quorum, and hears
/// nothing of them, so that they must not count on this side either (section 8.4). Both would take themselves for the
/// source by rows 15 and 18.
fn after_a_crash(f: &Facts<'_>) -> Option<Compared> {
    let i_crashed = f.i_have(UuidFlags::CRASHED_PRIMARY);
    let peer_crashed = f.peer_has(UuidFlags::CRASHED_PRIMARY);
    match (i_crashed, peer_crashed) {
        // 18
        (true, true) if f.resolve_conflicts => hit(TargetIfBothFailed, Rule::BothOff, Row::C18a),
        (true, true) => hit(SourceIfBothFailed, Rule::BothOff, Row::C18c),
        (true, false) => hit(SourceIfBothFailed, Rule::BothOff, Row::C18b),
        (false, true) => hit(TargetIfBothFailed, Rule::BothOff, Row::C19), // 19
        (false, false) => hit(NoSync, Rule::BothOff, Row::C20),            // 20
    }
}

/// If each node finds the other one ahead of it, both would wait for a bitmap: the peer looks through
/// what is reported to it in the same way as this node does, apart from slots that it is not told of.
fn different(f: &Facts<'_>, s: Uuid, p: Uuid) -> Option<Compared> {
    let (b, q) = (f.b(), f.q());
    let peer_is_ahead = if s.same(q) {
        hit(TargetUseBitmap, Rule::BitmapPeer, Row::C21) // 21
    } else if f.theirs.node_of(s).is_some() {
        hit(TargetClearBitmap, Rule::BitmapPeerOther, Row::C22) // 22
    } else {
        missed_start_at_target(f) // 23
    };
    let i_am_ahead = if b.same(p) {
        hit(SourceUseBitmap, Rule::BitmapSelf, Row::C24) // 24
    } else if let Some(node) = own_slots(f, p).next() {
        hit(SourceCopyOtherBitmap(node), Rule::BitmapSelfOther, Row::C25) // 25
    } else {
        missed_start_at_source(f) // 26
    };
    match (peer_is_ahead, i_am_ahead) {
        (Some(_), Some(_)) if b.same(p) || own_slots(f, p).any(|n| f.reported.contains(n)) => {
            return hit(Contradiction, Rule::Contradiction, Row::Contradiction);
        }
        (Some(_), Some(found)) if found.rule == Rule::SyncSourceMissedStart => {
            return hit(Contradiction, Rule::Contradiction, Row::Contradiction);
        }
        (Some(found), _) | (None, Some(found)) => return Some(found),
        (None, None) => {}
    }
    match (f.theirs.in_history(s), f.mine.in_history(p)) {
        (true, false) => return hit(TargetSetBitmap, Rule::HistoryPeer, Row::C27), // 27
        (false, true) => return hit(SourceSetBitmap, Rule::HistorySelf, Row::C28), // 28
        _ => {}
    }
    if b.same(q) && !b.is_none() {
        return hit(SplitBrainAutoRecover, Rule::BitmapBoth, Row::C29); // 29
    }
    let ancestors = |list: &[Uuid]| list.iter().position(|u| u.is_none()).unwrap_or(list.len());
    let mine = f.mine.history();
    let theirs = f.theirs.history();
    let theirs = theirs.iter().take(ancestors(theirs));
    let common = mine
        .iter()
        .take(ancestors(mine))
        .any(|a| theirs.clone().any(|b| a.same(*b)));
    if common || share_a_slot(f) {
        hit(SplitBrainDisconnect, Rule::HistoryBoth, Row::C30)
    } else {
        None
    } // 30
}

/// Whether a generation since which one of the copies tracks the changes of any node is an ancestor of the other
/// copy: then both come from it (a deviation: to the reference they are unrelated, and only `create-md` helps).
fn share_a_slot(f: &Facts<'_>) -> bool {
    let real = |u: &Uuid| !u.is_none() && !u.is_just_created() && !u.same(Uuid::UNKNOWN);
    let known = |u: Uuid| f.theirs.in_history(u) || f.theirs.node_of(u).is_some();
    let mut mine = NodeId::all().map(|n| f.mine.bitmap(n)).filter(real);
    let mut theirs = NodeId::all()
        .filter_map(|n| f.theirs.bitmap(n))
        .filter(real);
    mine.any(known) || theirs.any(|u| f.mine.in_history(u))
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
    let (strategy, rule, fixup, row) = match (b.is_none(), q.is_none()) {
        (false, true) if b.same(theirs[0]) && mine[0].same(theirs[0]) => (
            SourceUseBitmap,
            Rule::SyncSourceMissedFinish,
            Some(Fixup::ClearBitmapUuid),
            Row::FixSourceCorrected,
        ),
        (false, true) => (
            SourceUseBitmap,
            Rule::SyncSourcePeerMissedFinish,
            None,
            Row::FixSourcePeer,
        ),
        (true, false) if mine[0].same(q) && mine[1].same(theirs[0]) => (
            TargetUseBitmap,
            Rule::SyncTargetPeerMissedFinish,
            Some(Fixup::PeerShiftDown),
            Row::FixTargetCorrected,
        ),
        (true, false) => (
            TargetUseBitmap,
            Rule::SyncTargetMissedFinish,
            None,
            Row::FixTarget,
        ),
        _ => return None,
    };
    if f.pv >= 110 {
        return None;
    }
    Some(needs_91(f, found(strategy, rule, fixup, row)))
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
    let row = if f.pv < 96 {
        Row::FixTargetStart95
    } else {
        Row::FixTargetStart
    };
    let fixup = Some(Fixup::PeerShiftUp);
    missed.then(|| {
        needs_91(
            f,
            found(TargetUseBitmap, Rule::SyncTargetMissedStart, fixup, row),
        )
    })
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
    let row = if f.pv < 96 {
        Row::FixSourceStart95
    } else {
        Row::FixSourceStart
    };
    let fixup = Some(Fixup::PullBack);
    missed.then(|| {
        needs_91(
            f,
            found(SourceUseBitmap, Rule::SyncSourceMissedStart, fixup, row),
        )
    })
}

fn sync_uuid(uuid: Uuid) -> Uuid {
    Uuid(uuid.0.wrapping_add(SYNC_UUID_STEP))
}

/// The corrections are only understood from protocol 91 on.
fn needs_91(f: &Facts<'_>, found: Compared) -> Compared {
    if f.pv < 91 {
        let mut rows = found.rows;
        rows.insert(Row::FixNeeds91);
        Compared {
            strategy: RequiresProto(91),
            fixup: None,
            rows,
            ..found
        }
    } else {
        found
    }
}
