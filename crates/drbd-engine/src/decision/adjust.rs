//! Corrections of the comparison by the states of the disks and by left-over bits (state machine,
//! sections 8.5 and 8.6).

use drbd_proto::{DiskState, NodeId, Role, Uuid, UuidFlags};

use super::{Decision, Facts, LostPrimary, Rule, Strategy, Strategy::*};
use crate::rows::Row;

/// If the identifiers do not tell, the node with the better disk is the source (section 8.5).
pub(super) fn by_disk_states(f: &Facts<'_>, d: &mut Decision) {
    let (own, peer) = (f.me.disk, f.other.disk);
    let one_inconsistent = (own == DiskState::Inconsistent) != (peer == DiskState::Inconsistent);
    let weak_rule = matches!(d.rule, Rule::Reconnected | Rule::LostQuorum | Rule::BothOff);
    let decide = if f.pv >= 119 {
        let usable = own.min(peer) >= DiskState::Inconsistent && peer != DiskState::Unknown;
        own != peer
            && usable
            && ((weak_rule && d.strategy.is_if_both_failed())
                || (d.strategy == NoSync && one_inconsistent)
                || worse_source(f, d))
    } else {
        // Nor is an UpToDate disk of a crashed Primary given up for one that is Inconsistent (a deviation: the reference
        // does that, and may lose the last good copy; such a peer does not get the connection).
        let crashed = weak_rule && d.strategy.is_if_both_failed();
        (d.rule == Rule::BothOff || d.strategy == NoSync || crashed) && one_inconsistent
    };
    if !decide {
        return;
    }
    if weak_rule && d.strategy.is_if_both_failed() && crashed_source(f, own > peer) {
        d.note(Row::D4);
        d.strategy = RetryConnect;
        return;
    }
    if weak_rule && d.strategy.is_if_both_failed() && witness_is_source(f, own > peer) {
        return;
    }
    // Below 119 only Inconsistent counts; the other side's disk may be anything.
    let source = if f.pv >= 119 {
        own > peer
    } else {
        peer == DiskState::Inconsistent
    };
    d.note(match (f.pv >= 119, source) {
        _ if worse_source(f, d) => Row::D5,
        (true, true) if d.strategy == NoSync => Row::D2a,
        (true, false) if d.strategy == NoSync => Row::D2b,
        (true, true) => Row::D1a,
        (true, false) => Row::D1b,
        (false, true) => Row::D3a,
        (false, false) => Row::D3b,
    });
    let (strategy, row) = if source {
        source_form(f)
    } else {
        target_form(f)
    };
    d.note(row);
    d.strategy = strategy;
}

/// A crashed Primary is to follow the nodes that outlived it, but this one is just being resynced by such a
/// node, or finds out from others whether its data is the newest: the disk states alone would make the crashed one
/// the source, and blocks that it lost with its cache would replace newer ones. A deviation from the reference: it
/// has to wait until that is over.
fn crashed_source(f: &Facts<'_>, source: bool) -> bool {
    let [mine, theirs] = f.finds_out;
    let mine = (f.sent.map_or(f.flags, |sent| sent.flags), f.me.disk, mine);
    let theirs = (f.theirs.flags, f.other.disk, theirs);
    let ((source, ..), (target, disk, finds_out)) = if source {
        (mine, theirs)
    } else {
        (theirs, mine)
    };
    let crashed = UuidFlags::CRASHED_PRIMARY;
    let settles =
        target.contains(UuidFlags::SYNC_TARGET) || disk == DiskState::Consistent && finds_out;
    settles && source.contains(crashed) && !target.contains(crashed)
}

/// Nor is it the source for the only one that outlived it, which is Consistent because it has nobody to ask: that one has
/// all acknowledged writes, also those that the crashed one lost with its cache. A deviation, among nodes of this kind.
fn witness_is_source(f: &Facts<'_>, crashed_is_source: bool) -> bool {
    let mine = (f.sent.map_or(f.flags, |sent| sent.flags), f.me.disk);
    let theirs = (f.theirs.flags, f.other.disk);
    let ((crashed, _), (witness, disk)) = if crashed_is_source {
        (mine, theirs)
    } else {
        (theirs, mine)
    };
    f.compare_leftover
        && crashed.contains(UuidFlags::CRASHED_PRIMARY)
        && !witness.contains(UuidFlags::CRASHED_PRIMARY)
        && witness.contains(UuidFlags::RECONNECT)
        && disk == DiskState::Consistent
}

/// A crashed Primary whose disk knows that it missed writes would overwrite an UpToDate disk, or one that was being
/// resynced any disk, and nobody would be UpToDate any more. A deviation from the comparison of the reference: its
/// blocks are compared, but the better disk is the source.
pub(super) fn worse_source(f: &Facts<'_>, d: &Decision) -> bool {
    let (own, peer) = (f.me.disk, f.other.disk);
    let (source, target) = match d.strategy {
        SourceUseBitmap => (own, peer),
        TargetUseBitmap => (peer, own),
        _ => return false,
    };
    let worse = source <= DiskState::Outdated && target == DiskState::UpToDate
        || source <= DiskState::Inconsistent && target > DiskState::Inconsistent;
    d.rule == Rule::CrashedPrimary && worse
}

/// One disk is Inconsistent and nobody brings it up to date: its source has gone, or became a target itself.
pub(super) fn forsaken(f: &Facts<'_>, d: &Decision) -> bool {
    let alone = |disk, flags: UuidFlags| {
        disk == DiskState::Inconsistent && !flags.contains(UuidFlags::SYNC_TARGET)
    };
    let mine = alone(f.me.disk, f.flags) && f.other.disk == DiskState::UpToDate;
    let theirs = alone(f.other.disk, f.theirs.flags) && f.me.disk == DiskState::UpToDate;
    d.strategy == NoSync && (mine || theirs)
}

/// The blocks to send to a peer that is itself the target of another node: it has that node's current
/// UUID, but its own bitmap UUID says where it really stands.
fn source_form(f: &Facts<'_>) -> (Strategy, Row) {
    let q = f.q();
    let exact = q == f.theirs.current && q == f.resolved;
    if !f.peer_has(UuidFlags::SYNC_TARGET) || exact || q.is_none() {
        return (SourceUseBitmap, Row::DSourceUse);
    }
    match node_with(q, f.peer, |n| (n != f.mine.me()).then(|| f.mine.bitmap(n))) {
        None => (SourceSetBitmap, Row::DSourceSet),
        Some(n) if n == f.peer => (SourceUseBitmap, Row::DSourceExact),
        Some(n) => (SourceCopyOtherBitmap(n), Row::DSourceCopy),
    }
}

/// The mirror image of [`source_form`].
fn target_form(f: &Facts<'_>) -> (Strategy, Row) {
    let flags = f.sent.map_or(f.flags, |sent| sent.flags);
    let b = f.b();
    let exact = b == f.resolved && b == f.theirs.current;
    if !flags.contains(UuidFlags::SYNC_TARGET) || exact || b.is_none() {
        return (TargetUseBitmap, Row::DTargetUse);
    }
    let me = f.mine.me();
    match node_with(b, me, |n| {
        if n == f.peer {
            None
        } else {
            f.theirs.bitmap(n)
        }
    }) {
        None => (TargetSetBitmap, Row::DTargetSet),
        Some(n) if n == me => (TargetUseBitmap, Row::DTargetExact),
        Some(_) => (TargetClearBitmap, Row::DTargetClear),
    }
}

/// The node whose bitmap UUID is this one, `first` if it is among them.
fn node_with(uuid: Uuid, first: NodeId, bitmap: impl Fn(NodeId) -> Option<Uuid>) -> Option<NodeId> {
    core::iter::once(first)
        .chain(NodeId::all())
        .find(|&n| bitmap(n).is_some_and(|u| !u.is_none() && u.same(uuid)))
}

/// Equal identifiers, but bits of writes that a lost Primary has made (section 8.6).
pub(super) fn reconcile(f: &Facts<'_>, d: &mut Decision) {
    let Some(lost) = f.reconcile else { return };
    let spoilt = UuidFlags::CRASHED_PRIMARY.union(UuidFlags::PRIMARY_LOST_QUORUM);
    let up_to_date = f.me.disk == DiskState::UpToDate && f.other.disk == DiskState::UpToDate;
    if d.strategy != NoSync
        || !up_to_date
        || f.sent.is_none()
        || f.flags.intersects(spoilt)
        || f.theirs.flags.intersects(spoilt)
    {
        return;
    }
    if f.bits == 0 && f.theirs.dirty_bits == 0 {
        return;
    }
    if let Some(strategy) = still_seen(f, lost) {
        d.note(match strategy {
            SourceUseBitmap => Row::L4a,
            TargetUseBitmap => Row::L4b,
            _ => Row::L4c,
        });
        d.strategy = strategy;
        d.rule = Rule::ReconcileDagtag;
        d.reconciliation = strategy != RetryConnect;
        return;
    }
    let (source, rule, row) = match (f.bits != 0, f.theirs.dirty_bits != 0, lost.offset) {
        (true, false, offset) if offset.is_some() || lost.named => {
            (true, Rule::ReconcileBitmap, Row::L1a)
        }
        (false, true, offset) if offset.is_some() || lost.named => {
            (false, Rule::ReconcileBitmap, Row::L1b)
        }
        // Only the peer named one: it cannot know the offset, and takes itself for the source.
        (true, true, Some(_))
            if !lost.named && f.sent.is_some_and(|s| s.flags.contains(UuidFlags::STABLE)) =>
        {
            (false, Rule::ReconcileDagtag, Row::L3b)
        }
        (true, true, Some(0)) => (f.mine.me() < f.peer, Rule::ReconcileDagtag, Row::L2c),
        (true, true, Some(offset)) if offset > 0 => (true, Rule::ReconcileDagtag, Row::L2a),
        (true, true, Some(_)) => (false, Rule::ReconcileDagtag, Row::L2b),
        // A peer that restarted, or lost several, names none: it becomes the target.
        (true, true, None) if lost.named && f.theirs.flags.contains(UuidFlags::STABLE) => {
            (true, Rule::ReconcileDagtag, Row::L3a)
        }
        _ => return,
    };
    d.strategy = if source {
        SourceUseBitmap
    } else {
        TargetUseBitmap
    };
    d.note(row);
    d.rule = rule;
    d.reconciliation = true;
}

/// One node names a lost Primary, and the other one still sees it, or another one: the bits do not tell, because
/// only the loss sets them there. A deviation from the reference, where the other one may become the target of a
/// copy that lacks writes which it has. It is the source, or finds out first that the Primary is gone.
fn still_seen(f: &Facts<'_>, lost: LostPrimary) -> Option<Strategy> {
    let sees = |flags: UuidFlags| !flags.contains(UuidFlags::STABLE);
    let mine = f.sent.is_some_and(|sent| sees(sent.flags));
    match (mine, sees(f.theirs.flags), lost.offset) {
        (true, false, Some(offset)) if offset < 0 => Some(RetryConnect),
        (true, false, _) => Some(SourceUseBitmap),
        (false, true, _) => Some(TargetUseBitmap),
        _ => None,
    }
}

/// A disk that is attached again at the same generation, and bits: writes that were under way when it went, of a
/// Primary that began no new generation after that. The disk that was there all the time has them (a deviation,
/// the reference drops the bits), unless it has only what is left of a crashed Primary's.
pub(super) fn missed_while_away(f: &Facts<'_>, d: &mut Decision) {
    let quiet_rule = matches!(d.rule, Rule::Reconnected | Rule::LostQuorum | Rule::BothOff);
    let usable = |disk| disk >= DiskState::Outdated && disk != DiskState::Unknown;
    let Some(mine) = f.attaching else { return };
    if d.strategy == NoSync
        && quiet_rule
        && f.compare_leftover
        && usable(f.me.disk)
        && usable(f.other.disk)
        && f.any_bits()
    {
        d.note(if mine { Row::L7a } else { Row::L7b });
        let crashed = |flags: UuidFlags| flags.contains(UuidFlags::CRASHED_PRIMARY);
        let (own, other) = (crashed(f.flags), crashed(f.theirs.flags));
        let (lossy, whole, role) = if mine {
            (other, !own, f.other.role)
        } else {
            (own, !other, f.me.role)
        };
        let returns = lossy && whole && role != Role::Primary;
        d.strategy = if mine != returns {
            TargetUseBitmap
        } else {
            SourceUseBitmap
        };
        d.rule = Rule::ReconcileBitmap;
    }
}

/// Equal identifiers, and bits that nobody accounts for: a lost Primary that was not named, or a disk that is
/// Consistent because of it. The reference drops them on connect, and the copies stay different where they
/// were. A deviation: they are compared. Both copies have every completed write, so either may be the
/// source; but one that lost its memory may have lost writes from its cache as well.
pub(super) fn leftover(f: &Facts<'_>, d: &mut Decision) {
    let quiet_rule = matches!(d.rule, Rule::Reconnected | Rule::LostQuorum | Rule::BothOff);
    let Some(sent) = f.sent else { return };
    let usable = |disk| disk >= DiskState::Outdated && disk != DiskState::Unknown;
    if d.strategy != NoSync
        || !quiet_rule
        || f.reconcile.is_none()
        || !usable(f.me.disk)
        || !usable(f.other.disk)
        || (sent.bits == 0 && f.theirs.dirty_bits == 0)
    {
        return;
    }
    // Only the loss of that Primary shows which blocks the peer has and this node has not.
    if f.follows_nobody && f.me.role == Role::Secondary {
        d.note(Row::L6);
        d.strategy = RetryConnect;
        return;
    }
    if !f.compare_leftover {
        return;
    }
    // Who was started anew may have lost what was in its cache, though nobody knows it for a crashed Primary, or it
    // was connected without its disk meanwhile.
    let remembers = |flags: UuidFlags| {
        flags.contains(UuidFlags::RECONNECT) && !flags.contains(UuidFlags::CRASHED_PRIMARY)
    };
    // Consistent for the loss of the very Primary that comes back, which was started anew.
    let rank = |disk, own: UuidFlags, other: UuidFlags| match disk {
        DiskState::Consistent if remembers(own) && !remembers(other) => DiskState::UpToDate,
        disk => disk,
    };
    let mine = (
        f.me.role == Role::Primary,
        rank(f.me.disk, sent.flags, f.theirs.flags),
        remembers(sent.flags),
        sent.bits != 0,
    );
    let theirs = (
        f.other.role == Role::Primary,
        rank(f.other.disk, f.theirs.flags, sent.flags),
        remembers(f.theirs.flags),
        f.theirs.dirty_bits != 0,
    );
    if mine.0 && theirs.0 {
        return;
    }
    let source = mine > theirs || (mine == theirs && f.mine.me() < f.peer);
    d.note(if source { Row::L5a } else { Row::L5b });
    d.strategy = if source {
        SourceUseBitmap
    } else {
        TargetUseBitmap
    };
    d.rule = Rule::ReconcileBitmap;
    d.reconciliation = true;
}
