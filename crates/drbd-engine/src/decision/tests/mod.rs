//! The rows of the comparison table, and what follows them.

use drbd_proto::{Dagtag, units::MAX_NODES};

use super::*;
use crate::uuid::{Compose, Nodes};

mod mirror;
mod outcomes;
mod policies;

fn node(n: u32) -> NodeId {
    NodeId::new(n).unwrap()
}

/// Everything one node brings to the comparison.
#[derive(Clone, Debug)]
struct Half {
    ids: GenIds,
    flags: UuidFlags,
    bits: u64,
    side: Side,
    resolved: Uuid,
    source_missed: bool,
    peer_missed: bool,
    lost: Option<LostPrimary>,
    can_demote: bool,
}

const NONE: [Uuid; MAX_NODES] = [Uuid::NONE; MAX_NODES];

/// A node with these identifiers: current, bitmap UUIDs by node id, history.
fn half(me: u32, current: u64, bitmap: &[(u32, u64)], history: &[u64]) -> Half {
    let mut b = NONE;
    bitmap.iter().for_each(|&(n, u)| b[n as usize] = Uuid(u));
    let mut h = NONE;
    history.iter().zip(&mut h).for_each(|(&u, h)| *h = Uuid(u));
    Half {
        ids: GenIds::new(node(me), Uuid(current), b, [Dagtag::ZERO; MAX_NODES], h),
        flags: UuidFlags::STABLE,
        bits: 0,
        side: Side {
            role: Role::Secondary,
            disk: DiskState::UpToDate,
            quorum: true,
        },
        resolved: Uuid(current),
        source_missed: false,
        peer_missed: false,
        lost: None,
        can_demote: false,
    }
}

/// What both nodes share.
#[derive(Clone, Copy, Debug)]
struct Link {
    pv: u32,
    occasion: Occasion,
    policies: Policies,
    dry_run: bool,
}

const POLICIES: Policies = Policies {
    after_sb: [SbPolicy::Disconnect; 3],
    always_asbp: false,
    rr_conflict: SbPolicy::Disconnect,
    protocol: WireProtocol::C,
    quorum: false,
};
const LINK: Link = Link {
    pv: 124,
    occasion: Occasion::Connect,
    policies: POLICIES,
    dry_run: false,
};

/// Nodes 0 to 3 have slots.
fn nodes() -> Nodes {
    let mut slots = [None; MAX_NODES];
    (0..4).for_each(|n| slots[usize::from(n)] = Some(crate::bitmap::Slot(n)));
    Nodes {
        slots,
        exist: NodeMask::EMPTY,
        max_peers: 4,
    }
}

/// What `them` tells `to`.
fn told(them: &Half, to: &Half, pv: u32) -> PeerUuids {
    let compose = Compose {
        to: to.ids.me(),
        pv,
        resolved: them.resolved,
        dirty_bits: them.bits,
        flags: them.flags,
        node_mask: NodeMask::EMPTY,
    };
    if pv < 110 {
        let packet = them.ids.compose_legacy(to.ids.me(), them.bits, them.flags);
        return PeerUuids::from_legacy(&packet, to.ids.me());
    }
    PeerUuids::from(&them.ids.compose(&compose, &[], &nodes()))
}

fn run(us: &Half, them: &Half, link: Link, f: impl Fn(&mut Facts<'_>)) -> Decision {
    let theirs = told(them, us, link.pv);
    let mut facts = Facts {
        occasion: link.occasion,
        peer: them.ids.me(),
        pv: link.pv,
        resolve_conflicts: us.ids.me() > them.ids.me(),
        mine: &us.ids,
        resolved: us.resolved,
        flags: us.flags,
        sent: (link.occasion == Occasion::Connect).then(|| Sent {
            current: us.resolved,
            bitmap: us.ids.bitmap(them.ids.me()),
            flags: us.flags,
            bits: us.bits,
        }),
        with_slot: nodes().with_slot(),
        reported: nodes().reported(),
        bits: us.bits,
        theirs: &theirs,
        me: us.side,
        other: them.side,
        source_missed_end: us.source_missed,
        peer_missed_end: us.peer_missed,
        reconcile: us.lost,
        compare_leftover: us.lost.is_some(),
        other_resync: false,
        follows_nobody: false,
        finds_out: [true; 2],
        served: false,
        attaching: None,
        can_demote: us.can_demote,
        dry_run: link.dry_run,
        policies: link.policies,
    };
    f(&mut facts);
    decide(&facts)
}

/// Both nodes decide.
fn both(a: &Half, b: &Half, link: Link) -> (Decision, Decision) {
    (run(a, b, link, |_| {}), run(b, a, link, |_| {}))
}

fn found(a: &Half, b: &Half, link: Link) -> (Strategy, Rule) {
    let d = run(a, b, link, |_| {});
    (d.found, d.rule)
}

fn with(half: &Half, flags: UuidFlags) -> Half {
    Half {
        flags: half.flags.union(flags),
        ..half.clone()
    }
}

const J: u64 = 4;
const CRASHED: UuidFlags = UuidFlags::CRASHED_PRIMARY;
const RECONNECT: UuidFlags = UuidFlags::RECONNECT;
const LOST: UuidFlags = UuidFlags::PRIMARY_LOST_QUORUM;

#[test]
fn rows_1_to_4() {
    let (a, b) = (half(0, 0x10, &[], &[]), half(1, 0x10, &[], &[]));
    for change in [
        |s: &mut Sent| s.current = Uuid(0x20),
        |s: &mut Sent| s.bitmap = Uuid(0x20),
        |s: &mut Sent| s.flags = UuidFlags::NONE,
    ] {
        let d = run(&a, &b, LINK, |f| f.sent.iter_mut().for_each(change));
        assert_eq!(
            (d.strategy, d.rule),
            (RetryConnect, Rule::InitialHandshakeChanged)
        );
        assert_eq!(d.outcome, Outcome::Retry);
    }
    let d = run(&a, &b, LINK, |f| {
        f.sent
            .iter_mut()
            .for_each(|s| s.flags = s.flags.union(UuidFlags::INCONSISTENT));
    });
    assert_eq!(d.strategy, NoSync, "this flag may change");
    let d = run(&a, &b, LINK, |f| {
        f.sent
            .iter_mut()
            .for_each(|s| s.flags = s.flags.with_unallocated_node(node(9)));
    });
    assert_eq!(d.strategy, NoSync, "so may this one");

    let (new_a, new_b) = (half(0, J, &[], &[]), half(1, J, &[], &[]));
    assert_eq!(found(&new_a, &new_b, LINK), (NoSync, Rule::JustCreatedBoth));
    assert_eq!(
        found(&new_a, &half(1, 0, &[], &[]), LINK),
        (NoSync, Rule::JustCreatedBoth)
    );
    assert_eq!(
        found(&new_a, &b, LINK),
        (TargetSetBitmap, Rule::JustCreatedSelf)
    );
    assert_eq!(
        found(&b, &new_a, LINK),
        (SourceSetBitmap, Rule::JustCreatedPeer)
    );
}

#[test]
fn rows_5_to_20_equal_uuids() {
    let (a, b) = (half(0, 0x10, &[], &[]), half(1, 0x11, &[], &[]));
    let old = Link { pv: 118, ..LINK };
    let legacy = Link { pv: 101, ..LINK };
    // 6, 7
    let missed = Half {
        source_missed: true,
        ..a.clone()
    };
    assert_eq!(
        found(&missed, &b, LINK),
        (SourceUseBitmap, Rule::SyncSourceMissedFinish)
    );
    let missed = Half {
        peer_missed: true,
        ..a.clone()
    };
    assert_eq!(
        found(&missed, &b, LINK),
        (TargetUseBitmap, Rule::SyncTargetPeerMissedFinish)
    );
    // 8, 14
    let (ra, rb) = (with(&a, RECONNECT), with(&b, RECONNECT));
    assert_eq!(
        found(&ra, &with(&rb, LOST), LINK),
        (NoSync, Rule::Reconnected)
    );
    assert_eq!(found(&ra, &rb, old), (NoSync, Rule::Reconnected));
    assert_eq!(
        found(&ra, &with(&rb, LOST), old),
        (TargetIfBothFailed, Rule::LostQuorum)
    );
    // 9, 10
    let async_link = Link {
        policies: Policies {
            protocol: WireProtocol::A,
            ..POLICIES
        },
        ..LINK
    };
    let (ca, cb) = (with(&a, CRASHED), with(&b, CRASHED));
    assert_eq!(
        found(&ca, &b, async_link),
        (SourceUseBitmap, Rule::CrashedPrimary)
    );
    assert_eq!(
        found(&a, &cb, async_link),
        (TargetUseBitmap, Rule::CrashedPrimary)
    );
    let older = Link {
        pv: 120,
        ..async_link
    };
    assert_eq!(found(&ca, &b, older), (SourceIfBothFailed, Rule::BothOff));
    // 11, 12, 13
    let (la, lb) = (with(&a, LOST), with(&b, LOST));
    assert_eq!(found(&a, &lb, LINK), (TargetIfBothFailed, Rule::LostQuorum));
    assert_eq!(found(&la, &b, LINK), (SourceIfBothFailed, Rule::LostQuorum));
    assert_eq!(
        found(&la, &lb, LINK),
        (TargetIfBothFailed, Rule::LostQuorum)
    );
    assert_eq!(
        found(&lb, &la, LINK),
        (SourceIfBothFailed, Rule::LostQuorum)
    );
    // 15, 16, 17
    assert_eq!(
        found(&ra, &cb, LINK),
        (SourceIfBothFailed, Rule::LostQuorum)
    );
    assert_eq!(
        found(&ca, &rb, LINK),
        (TargetIfBothFailed, Rule::LostQuorum)
    );
    assert_eq!(found(&ra, &b, LINK), (NoSync, Rule::LostQuorum));
    assert_eq!(found(&a, &rb, LINK), (NoSync, Rule::LostQuorum));
    assert_eq!(
        found(&ra, &cb, old),
        (SourceIfBothFailed, Rule::Reconnected)
    );
    // 18, 19, 20; the node with the greater id resolves conflicts here
    assert_eq!(found(&ca, &cb, LINK), (SourceIfBothFailed, Rule::BothOff));
    assert_eq!(found(&cb, &ca, LINK), (TargetIfBothFailed, Rule::BothOff));
    assert_eq!(found(&ca, &b, LINK), (SourceIfBothFailed, Rule::BothOff));
    assert_eq!(found(&a, &cb, LINK), (TargetIfBothFailed, Rule::BothOff));
    assert_eq!(found(&a, &b, LINK), (NoSync, Rule::BothOff));
    assert_eq!(found(&a, &b, legacy), (NoSync, Rule::BothOff));
}

#[test]
fn rows_21_to_31_different_uuids() {
    let base = half(1, 0x20, &[], &[]);
    // 21, 24
    let ahead = half(0, 0x30, &[(1, 0x20)], &[]);
    assert_eq!(
        found(&base, &ahead, LINK),
        (TargetUseBitmap, Rule::BitmapPeer)
    );
    assert_eq!(
        found(&ahead, &base, LINK),
        (SourceUseBitmap, Rule::BitmapSelf)
    );
    // 22, 25
    let ahead = half(0, 0x30, &[(2, 0x21)], &[]);
    assert_eq!(
        found(&base, &ahead, LINK),
        (TargetClearBitmap, Rule::BitmapPeerOther)
    );
    assert_eq!(
        found(&ahead, &base, LINK),
        (SourceCopyOtherBitmap(node(2)), Rule::BitmapSelfOther)
    );
    // 27, 28
    let ahead = half(0, 0x30, &[], &[0x40, 0x20]);
    assert_eq!(
        found(&base, &ahead, LINK),
        (TargetSetBitmap, Rule::HistoryPeer)
    );
    assert_eq!(
        found(&ahead, &base, LINK),
        (SourceSetBitmap, Rule::HistorySelf)
    );
    // 29
    let (a, b) = (
        half(0, 0x30, &[(1, 0x10)], &[]),
        half(1, 0x40, &[(0, 0x11)], &[]),
    );
    assert_eq!(
        found(&a, &b, LINK),
        (SplitBrainAutoRecover, Rule::BitmapBoth)
    );
    // 30: also if each is in the other's history
    let (a, b) = (
        half(0, 0x30, &[], &[0x50, 0x10]),
        half(1, 0x40, &[], &[0x10]),
    );
    assert_eq!(
        found(&a, &b, LINK),
        (SplitBrainDisconnect, Rule::HistoryBoth)
    );
    let (a, b) = (
        half(0, 0x30, &[], &[0x40, 0x10]),
        half(1, 0x40, &[], &[0x30, 0x10]),
    );
    assert_eq!(
        found(&a, &b, LINK),
        (SplitBrainDisconnect, Rule::HistoryBoth)
    );
    // It stops at the first hole.
    let (a, b) = (half(0, 0x30, &[], &[0, 0x10]), half(1, 0x40, &[], &[0x10]));
    assert_eq!(found(&a, &b, LINK), (UnrelatedData, Rule::HistoryBoth));
    // Each has the other's current one.
    let (a, b) = (
        half(0, 0x30, &[(2, 0x40)], &[]),
        half(1, 0x40, &[(0, 0x30)], &[]),
    );
    let (da, db) = both(&a, &b, LINK);
    assert_eq!((da.strategy, db.strategy), (Contradiction, Contradiction));
    assert_eq!(
        (da.outcome, db.outcome),
        (Outcome::Disconnect, Outcome::Disconnect)
    );
}

#[test]
fn below_protocol_110() {
    let link = Link { pv: 101, ..LINK };
    let old = Link { pv: 90, ..LINK };
    // 8.3 a: the source has not heard of the end, and knows that the peer has.
    let source = half(0, 0x30, &[(1, 0x20)], &[0x10]);
    let target = half(1, 0x30, &[], &[0x20, 0x10]);
    assert_eq!(
        found(&source, &target, link),
        (SourceUseBitmap, Rule::SyncSourcePeerMissedFinish)
    );
    assert_eq!(found(&source, &target, old).0, RequiresProto(91));
    let corrected = half(0, 0x30, &[(1, 0x20)], &[0x20]);
    let d = run(&corrected, &target, link, |f| f.bits = 1);
    assert_eq!(
        (d.strategy, d.rule),
        (SourceUseBitmap, Rule::SyncSourceMissedFinish)
    );
    assert_eq!(d.fixups, [Fixup::ClearBitmapUuid]);
    let target = half(1, 0x30, &[], &[0x20, 0x10]);
    let d = run(&target, &source, link, |f| f.bits = 1);
    assert_eq!(
        (d.strategy, d.rule),
        (TargetUseBitmap, Rule::SyncTargetPeerMissedFinish)
    );
    assert_eq!(d.fixups, [Fixup::PeerShiftDown]);
    let mut theirs = told(&source, &target, 101);
    Fixup::PeerShiftDown.apply(node(0), &mut target.ids.clone(), &mut theirs, Dagtag::ZERO);
    assert_eq!(theirs.bitmap(node(1)), Some(Uuid::NONE));
    assert_eq!(theirs.history()[..3], [Uuid(0x20), Uuid(0x10), Uuid::NONE]);
    let other = half(1, 0x30, &[], &[0x60]);
    assert_eq!(
        found(&other, &source, link),
        (TargetUseBitmap, Rule::SyncTargetMissedFinish)
    );

    // 8.3 b and c: the start of a resync was lost.
    const STEP: u64 = crate::uuid::SYNC_UUID_STEP;
    let source = half(0, 0x30, &[(1, 0x20 + STEP)], &[0x20, 0x10]);
    let target = half(1, 0x20, &[], &[0x10]);
    let d = run(&target, &source, link, |f| f.bits = 1);
    assert_eq!(
        (d.strategy, d.rule),
        (TargetUseBitmap, Rule::SyncTargetMissedStart)
    );
    assert_eq!(d.fixups, [Fixup::PeerShiftUp]);
    let d = run(&source, &target, link, |f| f.bits = 1);
    assert_eq!(
        (d.strategy, d.rule),
        (SourceUseBitmap, Rule::SyncSourceMissedStart)
    );
    assert_eq!(d.fixups, [Fixup::PullBack]);
    let mut ids = source.ids.clone();
    Fixup::PullBack.apply(
        node(1),
        &mut ids,
        &mut told(&target, &source, 101),
        Dagtag::ZERO,
    );
    assert_eq!(
        (ids.bitmap(node(1)), ids.history()[0]),
        (Uuid(0x20), Uuid(0x10))
    );
}

#[test]
fn disk_states_decide_when_identifiers_do_not() {
    let at = |me, disk| {
        let h = half(me, 0x10, &[], &[]);
        Half {
            side: Side { disk, ..h.side },
            ..h
        }
    };
    use DiskState::*;
    let strategies = |a: &Half, b: &Half, pv| {
        let (a, b) = both(a, b, Link { pv, ..LINK });
        (a.strategy, b.strategy)
    };
    let good = at(0, UpToDate);
    let bad = at(1, Inconsistent);
    for pv in [118, 119, 124] {
        assert_eq!(
            strategies(&good, &bad, pv),
            (SourceUseBitmap, TargetUseBitmap)
        );
    }
    assert_eq!(strategies(&good, &at(1, Outdated), 124), (NoSync, NoSync));
    // A crashed Primary with a worse disk becomes target all the same.
    let crashed = with(&at(1, Outdated), CRASHED);
    assert_eq!(
        strategies(&good, &crashed, 124),
        (SourceUseBitmap, TargetUseBitmap)
    );
    assert_eq!(
        strategies(&good, &crashed, 118),
        (TargetIfBothFailed, SourceIfBothFailed)
    );

    // State machine, section 19.11: C, target of A, connects to B.
    let mut b = half(1, 0x10, &[(2, 0x90)], &[]);
    b.side.disk = UpToDate;
    let mut c = half(2, 0x90, &[(1, 0x90)], &[]);
    c.resolved = Uuid(0x10);
    c.side.disk = Inconsistent;
    c = with(&c, UuidFlags::SYNC_TARGET);
    assert_eq!(strategies(&b, &c, 124), (SourceUseBitmap, TargetUseBitmap));
    // Tracked in another slot.
    b = half(1, 0x10, &[(3, 0x90)], &[]);
    assert_eq!(
        strategies(&b, &c, 124),
        (SourceCopyOtherBitmap(node(3)), TargetClearBitmap)
    );
    // Tracked in none.
    b = half(1, 0x10, &[], &[]);
    assert_eq!(strategies(&b, &c, 124), (SourceSetBitmap, TargetSetBitmap));
}

#[test]
fn reconciliation() {
    let named = Some(LostPrimary {
        named: true,
        offset: Some(128),
    });
    let counter = Some(LostPrimary {
        named: true,
        offset: Some(-128),
    });
    let mut a = Half {
        lost: named,
        bits: 3,
        ..half(0, 0x10, &[], &[])
    };
    let mut b = Half {
        lost: counter,
        bits: 1,
        ..half(1, 0x10, &[], &[])
    };
    let (da, db) = both(&a, &b, LINK);
    assert_eq!(
        (da.strategy, da.rule, da.reconciliation),
        (SourceUseBitmap, Rule::ReconcileDagtag, true)
    );
    assert_eq!(
        (db.strategy, db.rule),
        (TargetUseBitmap, Rule::ReconcileDagtag)
    );
    // Equally far: the smaller id is the source.
    let even = Some(LostPrimary {
        named: true,
        offset: Some(0),
    });
    (a.lost, b.lost) = (even, even);
    let (da, db) = both(&a, &b, LINK);
    assert_eq!(
        (da.strategy, db.strategy),
        (SourceUseBitmap, TargetUseBitmap)
    );
    // Only one side has bits.
    (a.bits, b.bits) = (0, 1);
    b.lost = Some(LostPrimary {
        named: true,
        offset: None,
    });
    a.lost = Some(LostPrimary {
        named: false,
        offset: Some(5),
    });
    let (da, db) = both(&a, &b, LINK);
    assert_eq!(
        (da.strategy, db.strategy),
        (TargetUseBitmap, SourceUseBitmap)
    );
    assert_eq!(da.rule, Rule::ReconcileBitmap);
    // Not agreed on, or one of them has lost quorum as Primary.
    b.lost = None;
    assert_eq!(run(&b, &a, LINK, |_| {}).strategy, NoSync);
    let d = run(
        &with(&a, LOST),
        &with(&b, RECONNECT),
        Link { pv: 118, ..LINK },
        |_| {},
    );
    assert!(!d.reconciliation);
}

#[test]
fn who_was_started_anew_is_not_the_source_of_leftover_bits() {
    let unnamed = Some(LostPrimary {
        named: false,
        offset: None,
    });
    let a = Half {
        lost: unnamed,
        bits: 3,
        ..half(0, 0x10, &[], &[])
    };
    let b = Half {
        lost: unnamed,
        ..half(1, 0x10, &[], &[])
    };
    let expected = (SourceUseBitmap, TargetUseBitmap);
    let (da, db) = both(&a, &b, LINK);
    assert_eq!((da.strategy, db.strategy), expected, "who has bits");
    // A kernel's DRBD drops them: so do we, or one side waits for a bitmap that never comes.
    let plain = |f: &mut Facts<'_>| f.compare_leftover = false;
    assert_eq!(run(&a, &b, LINK, plain).strategy, NoSync);
    assert_eq!(run(&b, &a, LINK, plain).strategy, NoSync);
    let (da, db) = both(&a, &with(&b, RECONNECT), LINK);
    assert_eq!((db.strategy, da.strategy), expected, "who remembers");
}
