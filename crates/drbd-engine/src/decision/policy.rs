//! Split brain, discard-my-data, and conflicts with the role (state machine, section 8.7; the numbers
//! of steps are those given there).

use drbd_proto::{DiskState, Role, UuidFlags};

use super::{Decision, Facts, Fixup, Handler, Rule, Strategy, Strategy::*, adjust};
use crate::options::SbPolicy;
use crate::rows::Row;

/// On a connect: all steps.
pub(super) fn connect(f: &Facts<'_>, d: &mut Decision) {
    // A node that is being resynced shows the generation of its source without the ancestors of that: whether the two
    // are of one line can be said when it is done (a deviation: the reference gives the connection up).
    let mine = f.sent.map_or(f.flags, |sent| sent.flags);
    let settles = (mine | f.theirs.flags).contains(UuidFlags::SYNC_TARGET);
    let discards = (mine | f.theirs.flags).contains(UuidFlags::DISCARD_MY_DATA);
    if settles && !discards && matches!(d.strategy, SplitBrainDisconnect | UnrelatedData) {
        d.note(Row::K0);
        d.strategy = RetryConnect;
        return;
    }
    // 1
    if matches!(
        d.strategy,
        RetryConnect | UnrelatedData | Contradiction | RequiresProto(_)
    ) {
        d.note(Row::K1);
        return;
    }
    // 2: the other side would only log it, and not resync.
    if f.pv < 124 && !f.any_bits() {
        match d.rule {
            Rule::SyncSourceMissedFinish => {
                d.note(Row::K2a);
                d.strategy = RetryConnect;
                return;
            }
            Rule::SyncTargetPeerMissedFinish if f.me.role == Role::Primary => {
                d.note(Row::K2b);
                d.strategy = RequiresProto(124);
                return;
            }
            _ => {}
        }
    }
    // 3
    adjust::by_disk_states(f, d);
    adjust::reconcile(f, d);
    adjust::leftover(f, d);
    solve(f, d, true);
    // Nor when no policy helps.
    if settles && !discards && d.strategy == SplitBrainDisconnect {
        d.strategy = RetryConnect;
        d.handlers.clear();
    }
}

/// On an attach to an established connection (section 8.10): without quorum, discard-my-data,
/// auto-discard, and the step about missed ends.
///
/// A disk that is Inconsistent, because its last resync was interrupted, does not become UpToDate for equal
/// identifiers only: here, too, it is the target (section 8.5; a deviation).
pub(super) fn attach(f: &Facts<'_>, d: &mut Decision) {
    let inconsistent = |side: &super::Side| side.disk == DiskState::Inconsistent;
    if inconsistent(&f.me) != inconsistent(&f.other) {
        adjust::by_disk_states(f, d);
    }
    adjust::missed_while_away(f, d);
    if d.strategy.is_determined() {
        solve(f, d, false);
    }
}

/// Steps 4 to 12.
fn solve(f: &Facts<'_>, d: &mut Decision, connect: bool) {
    // 4: the generations of both belong to a Primary elsewhere.
    let stable = f.i_have(UuidFlags::STABLE) && f.peer_has(UuidFlags::STABLE);
    if d.strategy == SplitBrainAutoRecover && !stable {
        d.note(Row::K4);
        d.strategy = NoSync;
    }
    let discard = match (f.i_have(DISCARD), f.peer_has(DISCARD)) {
        (true, false) if connect => Some(TargetUseBitmap),
        (false, true) if connect => Some(SourceUseBitmap),
        _ => None,
    };
    if d.strategy.is_split_brain() {
        split_brain(f, d, discard);
    }
    if !d.strategy.is_determined() {
        return;
    }
    // 9
    if let Some(wanted) = discard.filter(|_| f.pv >= 121) {
        override_direction(f, d, wanted.is_source());
    }
    rr_conflict(f, d, connect);
    if connect {
        missed_finish(f, d);
    }
}

const DISCARD: UuidFlags = UuidFlags::DISCARD_MY_DATA;

/// Steps 5 to 8; on a connect only, an attach ends without result before.
fn split_brain(f: &Facts<'_>, d: &mut Decision, discard: Option<Strategy>) {
    let found = d.strategy;
    let form = |s: Strategy| {
        if found == SplitBrainDisconnect {
            s.full()
        } else {
            s
        }
    };
    d.note(Row::K5);
    d.handlers.push(Handler::InitialSplitBrain); // 5
    // 6
    let may_recover = found == SplitBrainAutoRecover || f.policies.always_asbp;
    if let Some(strategy) = may_recover.then(|| by_policy(f, d)).flatten() {
        if found == SplitBrainDisconnect {
            d.note(Row::K6c);
        }
        d.strategy = form(strategy);
        return;
    }
    // 7, but not if the peer takes this node, which cannot step down, for the loser.
    let failed_to_give_up = d.handlers.contains(&Handler::PriLostAfterSb);
    d.strategy = match discard.filter(|_| !failed_to_give_up) {
        Some(strategy) => {
            d.note(if strategy.is_source() {
                Row::K7a
            } else {
                Row::K7b
            });
            form(strategy)
        }
        None => {
            d.note(Row::K8);
            d.handlers.push(Handler::SplitBrain); // 8
            SplitBrainDisconnect
        }
    };
}

/// Step 6: what the policies say, if anything.
fn by_policy(f: &Facts<'_>, d: &mut Decision) -> Option<Strategy> {
    if f.policies.quorum && f.pv >= 113 {
        match (f.me.quorum, f.other.quorum) {
            (true, false) => {
                d.note(Row::K6a);
                return Some(SourceUseBitmap);
            }
            (false, true) => {
                d.note(Row::K6b);
                return Some(TargetUseBitmap);
            }
            _ => {}
        }
    }
    let me_primary = f.me.role == Role::Primary;
    let peer_primary = f.other.role == Role::Primary;
    let [no_primary, one_primary, two_primaries] = f.policies.after_sb;
    let primaries = usize::from(me_primary) + usize::from(peer_primary);
    let (policy, row) = match primaries {
        0 => return no_primary_policy(f, d, no_primary),
        1 => match one_primary {
            SbPolicy::DiscardSecondary if me_primary => {
                d.note(Row::S1SecondarySource);
                return Some(SourceUseBitmap);
            }
            SbPolicy::DiscardSecondary => {
                d.note(Row::S1SecondaryTarget);
                return Some(TargetUseBitmap);
            }
            SbPolicy::Consensus => (one_primary, Row::S1Consensus),
            SbPolicy::CallPriLost => (one_primary, Row::S1Call),
            SbPolicy::ViolentlyAs0p => (one_primary, Row::S1Violently),
            _ => {
                d.note(Row::S1Disconnect);
                return None;
            }
        },
        _ => match two_primaries {
            SbPolicy::CallPriLost => (two_primaries, Row::S2Call),
            SbPolicy::ViolentlyAs0p => (two_primaries, Row::S2Violently),
            _ => {
                d.note(Row::S2Disconnect);
                return None;
            }
        },
    };
    let as_without = no_primary_policy(f, d, no_primary);
    match policy {
        SbPolicy::Consensus => {
            let agreed = as_without.filter(|s| s.is_source() == me_primary);
            d.note(agreed.map_or(Row::S1NoConsensus, |_| row));
            agreed
        }
        SbPolicy::CallPriLost => {
            d.note(row);
            as_without.filter(|s| give_up(f, d, *s))
        }
        _ => {
            d.note(row);
            as_without
        }
    }
}

/// `after-sb-0pri`.
fn no_primary_policy(f: &Facts<'_>, d: &mut Decision, policy: SbPolicy) -> Option<Strategy> {
    let (mine, theirs) = (f.bits, f.theirs.dirty_bits);
    let least_changes = if mine == theirs {
        !f.resolve_conflicts
    } else {
        mine > theirs
    };
    // The mark in the UUID says who was Primary when the ways parted.
    let was_primary = match (f.b().is_primary(), f.q().is_primary()) {
        (true, false) => Some(true),
        (false, true) => Some(false),
        _ => None,
    };
    // The result, and the rows for a source and a target.
    let (source, as_source, as_target) = match (policy, was_primary) {
        (SbPolicy::DiscardYounger, Some(was)) => (was, Row::S0YoungerSource, Row::S0YoungerTarget),
        (SbPolicy::DiscardOlder, Some(was)) => (!was, Row::S0OlderSource, Row::S0OlderTarget),
        (SbPolicy::DiscardYounger | SbPolicy::DiscardOlder, None) => {
            (least_changes, Row::S0NoMark, Row::S0NoMark)
        }
        (SbPolicy::DiscardZeroChanges, _) if mine == 0 || theirs == 0 => {
            (least_changes, Row::S0ZeroSource, Row::S0ZeroTarget)
        }
        (SbPolicy::DiscardLeastChanges, _) => {
            (least_changes, Row::S0LeastSource, Row::S0LeastTarget)
        }
        (SbPolicy::DiscardLocal, _) => (false, Row::S0Local, Row::S0Local),
        (SbPolicy::DiscardRemote, _) => (true, Row::S0Remote, Row::S0Remote),
        (SbPolicy::DiscardZeroChanges, _) => {
            d.note(Row::S0ZeroNo);
            return None;
        }
        _ => {
            d.note(Row::S0Disconnect);
            return None;
        }
    };
    d.note(if source { as_source } else { as_target });
    let by_changes = matches!(
        as_source,
        Row::S0NoMark | Row::S0ZeroSource | Row::S0LeastSource
    );
    if by_changes && mine == theirs {
        d.note(Row::S0Equal);
    }
    Some(if source {
        SourceUseBitmap
    } else {
        TargetUseBitmap
    })
}

/// `call-pri-lost-after-sb`: a Primary that lost has to step down first, or there is no solution. It
/// does so alone: a change agreed on by the cluster is not possible in the middle of the handshake.
fn give_up(f: &Facts<'_>, d: &mut Decision, strategy: Strategy) -> bool {
    if !strategy.is_target() || f.me.role != Role::Primary {
        return true;
    }
    d.demote = f.can_demote;
    d.note(if f.can_demote {
        Row::SGiveUpDemote
    } else {
        Row::SGiveUpNot
    });
    if !f.can_demote {
        d.handlers.push(Handler::PriLostAfterSb);
    }
    f.can_demote
}

/// Whether this side is a Primary with data of its own.
fn works(side: &super::Side) -> bool {
    side.role == Role::Primary
        && side.disk >= DiskState::Consistent
        && side.disk != DiskState::Unknown
}

/// Step 9: one administrator said discard-my-data, and the direction is the other one.
fn override_direction(f: &Facts<'_>, d: &mut Decision, i_am_source: bool) {
    let opposite = if i_am_source {
        d.strategy.is_target()
    } else {
        d.strategy.is_source()
    };
    let source_disk = if i_am_source { f.me.disk } else { f.other.disk };
    if !opposite {
        return;
    }
    if source_disk <= DiskState::Inconsistent {
        d.note(Row::K9c);
        return;
    }
    d.note(if i_am_source { Row::K9a } else { Row::K9b });
    d.strategy = match d.strategy {
        // The peer is not told of that node: it decides for a full sync, and reverses that (a deviation: the
        // reference would have two sources).
        SourceCopyOtherBitmap(node) if !f.reported.contains(node) => TargetSetBitmap,
        // A Primary would refuse to be the target, and the request were without effect (a deviation).
        SourceCopyOtherBitmap(_) if works(&f.other) => TargetSetBitmap,
        TargetClearBitmap if works(&f.me) => SourceSetBitmap,
        strategy => strategy.reversed().unwrap_or(strategy),
    };
}

/// Steps 10 and 11: a Primary would lose its data under the eyes of its users.
fn rr_conflict(f: &Facts<'_>, d: &mut Decision, connect: bool) {
    let in_use = |side: &super::Side, demoted: bool| {
        side.role == Role::Primary && !demoted && side.disk >= DiskState::Consistent
    };
    let auto_discard = connect && f.policies.rr_conflict == SbPolicy::AutoDiscard;
    let by_crash = d.rule == Rule::CrashedPrimary;
    let target = d.strategy.is_target() && !d.strategy.is_if_both_failed();
    if !f.any_bits() {
        // The mirror image of this has to hold for step 11, too, or both would be target.
        return;
    }
    // A disk that is being attached is not in use yet.
    if target && in_use(&f.me, d.demote) && f.attaching != Some(true) {
        match f.policies.rr_conflict {
            SbPolicy::ViolentlyAs0p => d.note(Row::K10d),
            SbPolicy::AutoDiscard => {
                if auto_discard && d.strategy == TargetUseBitmap && by_crash {
                    d.note(Row::K10e);
                    d.strategy = SourceUseBitmap;
                } else {
                    d.note(Row::K10f);
                }
            }
            SbPolicy::RetryConnect => {
                d.note(Row::K10b);
                d.strategy = SyncTargetPrimaryReconnect;
            }
            SbPolicy::CallPriLost => {
                d.note(Row::K10c);
                d.handlers.push(Handler::PriLost);
                d.strategy = SyncTargetPrimaryDisconnect;
            }
            _ => {
                d.note(Row::K10a);
                d.strategy = SyncTargetPrimaryDisconnect;
            }
        }
    } else if target
        && f.served
        && !in_use(&f.other, false)
        && !f.theirs.current.same(f.mine.current())
    {
        // What a Primary has that others are connected to is not given up for an older line of writes that comes
        // back, be it a crashed Primary's: the Primary itself refuses it above. A deviation: the reference makes
        // its Secondaries targets, and they end Outdated beside it.
        d.note(Row::K10g);
        d.strategy = SyncTargetPrimaryReconnect;
    } else if d.strategy == SourceUseBitmap && by_crash && in_use(&f.other, false) && auto_discard {
        d.note(Row::K11);
        d.strategy = TargetUseBitmap;
    }
}

/// Step 12: a resync that has ended is not worth another one if its result is not UpToDate.
fn missed_finish(f: &Facts<'_>, d: &mut Decision) {
    let missed = matches!(
        d.rule,
        Rule::SyncSourceMissedFinish | Rule::SyncTargetPeerMissedFinish
    );
    // But blocks that were written since must not stay different, with both UpToDate in the end (a deviation: the
    // reference leaves them): the UpToDate disk is the source.
    let differ = f.compare_leftover && f.any_bits();
    if missed && d.strategy.is_source() && f.me.disk != DiskState::UpToDate {
        d.note(Row::K12a);
        d.strategy = if differ && f.other.disk == DiskState::UpToDate {
            TargetUseBitmap
        } else {
            NoSync
        };
    } else if missed && d.strategy.is_target() && f.other.disk != DiskState::UpToDate {
        d.note(Row::K12b);
        if differ && f.me.disk == DiskState::UpToDate {
            d.strategy = SourceUseBitmap;
            return;
        }
        d.strategy = NoSync;
        d.fixups.push(Fixup::ClearBitmapUuid);
    }
}
