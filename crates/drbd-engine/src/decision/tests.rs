use alloc::vec;

use drbd_proto::{Dagtag, units::MAX_NODES};
use proptest::prelude::*;
use proptest::strategy::Strategy as Strategy_;

use super::{Strategy, *};
use crate::uuid::{Compose, Nodes};

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
        other_resync: false,
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

/// A split brain of two nodes with that many changed blocks.
fn split(a_bits: u64, b_bits: u64) -> (Half, Half) {
    let a = Half {
        bits: a_bits,
        ..half(0, 0x30, &[(1, 0x10)], &[0x10])
    };
    let b = Half {
        bits: b_bits,
        ..half(1, 0x40, &[(0, 0x10)], &[0x10])
    };
    (a, b)
}

fn asb(zero: SbPolicy, one: SbPolicy, two: SbPolicy) -> Link {
    Link {
        policies: Policies {
            after_sb: [zero, one, two],
            ..POLICIES
        },
        ..LINK
    }
}

#[test]
fn split_brain_without_primary() {
    use SbPolicy::*;
    let solve = |bits: (u64, u64), policy| {
        let (a, b) = split(bits.0, bits.1);
        let (da, db) = both(&a, &b, asb(policy, Disconnect, Disconnect));
        assert_eq!(da.handlers[0], Handler::InitialSplitBrain);
        (da.strategy, db.strategy)
    };
    let a_wins = (SourceUseBitmap, TargetUseBitmap);
    let b_wins = (TargetUseBitmap, SourceUseBitmap);
    let nobody = (SplitBrainDisconnect, SplitBrainDisconnect);
    assert_eq!(solve((2, 0), Disconnect), nobody);
    assert_eq!(solve((2, 0), DiscardZeroChanges), a_wins);
    assert_eq!(solve((0, 2), DiscardZeroChanges), b_wins);
    assert_eq!(solve((1, 1), DiscardZeroChanges), nobody);
    assert_eq!(
        solve((0, 0), DiscardZeroChanges),
        a_wins,
        "b resolves conflicts"
    );
    assert_eq!(solve((3, 1), DiscardLeastChanges), a_wins);
    assert_eq!(solve((2, 2), DiscardLeastChanges), a_wins);
    assert_eq!(
        solve((1, 2), DiscardYounger),
        b_wins,
        "no marks: least changes"
    );
    assert_eq!(solve((1, 2), Consensus), nobody, "no value of this option");
    let (a, b) = split(1, 1);
    let local = run(&a, &b, asb(DiscardLocal, Disconnect, Disconnect), |_| {});
    let remote = run(&b, &a, asb(DiscardRemote, Disconnect, Disconnect), |_| {});
    assert_eq!((local.strategy, remote.strategy), b_wins);

    // A was Primary when the link broke.
    let a = half(0, 0x30, &[(1, 0x11)], &[]);
    let marked = |policy| {
        let (da, db) = both(&a, &b, asb(policy, Disconnect, Disconnect));
        (da.strategy, db.strategy)
    };
    assert_eq!(marked(DiscardYounger), a_wins);
    assert_eq!(marked(DiscardOlder), b_wins);

    let (da, _) = both(&a, &b, asb(Disconnect, Disconnect, Disconnect));
    assert_eq!(
        da.handlers,
        [Handler::InitialSplitBrain, Handler::SplitBrain]
    );
    assert_eq!(da.outcome, Outcome::Disconnect);
}

#[test]
fn split_brain_with_primaries() {
    use SbPolicy::*;
    let (mut a, mut b) = split(1, 5);
    a.side.role = Role::Primary;
    let run1 = |a: &Half, policy| {
        let (da, db) = both(a, &b, asb(DiscardLeastChanges, policy, Disconnect));
        (da.strategy, db.strategy)
    };
    let nobody = (SplitBrainDisconnect, SplitBrainDisconnect);
    assert_eq!(run1(&a, Disconnect), nobody);
    assert_eq!(run1(&a, Consensus), nobody, "the Primary would lose");
    assert_eq!(
        run1(&a, DiscardSecondary),
        (SourceUseBitmap, TargetUseBitmap)
    );
    assert_eq!(
        run1(&a, CallPriLost),
        (SplitBrainDisconnect, SourceUseBitmap)
    );
    let d = run(
        &a,
        &b,
        asb(DiscardLeastChanges, CallPriLost, Disconnect),
        |_| {},
    );
    assert!(d.handlers.contains(&Handler::PriLostAfterSb) && !d.demote);
    assert_eq!(
        run1(&a, ViolentlyAs0p),
        (SyncTargetPrimaryDisconnect, SourceUseBitmap)
    );
    a.can_demote = true;
    assert_eq!(run1(&a, CallPriLost), (TargetUseBitmap, SourceUseBitmap));
    assert!(
        run(
            &a,
            &b,
            asb(DiscardLeastChanges, CallPriLost, Disconnect),
            |_| {}
        )
        .demote
    );
    a.bits = 9;
    assert_eq!(run1(&a, Consensus), (SourceUseBitmap, TargetUseBitmap));

    b.side.role = Role::Primary;
    let run2 = |policy, rr| {
        let mut link = asb(DiscardLeastChanges, Disconnect, policy);
        link.policies.rr_conflict = rr;
        let (da, db) = both(&a, &b, link);
        (da.strategy, db.strategy)
    };
    assert_eq!(run2(Disconnect, Disconnect), nobody);
    assert_eq!(run2(DiscardSecondary, Disconnect), nobody);
    assert_eq!(
        run2(ViolentlyAs0p, ViolentlyAs0p),
        (SourceUseBitmap, TargetUseBitmap)
    );
    assert_eq!(
        run2(ViolentlyAs0p, RetryConnect),
        (SourceUseBitmap, SyncTargetPrimaryReconnect)
    );
}

#[test]
fn split_brain_by_hand_and_quorum() {
    let (a, b) = split(1, 5);
    let discard = |h: &Half| with(h, UuidFlags::DISCARD_MY_DATA);
    let (da, db) = both(&a, &discard(&b), LINK);
    assert_eq!(
        (da.strategy, db.strategy),
        (SourceUseBitmap, TargetUseBitmap)
    );
    let (da, _) = both(&discard(&a), &discard(&b), LINK);
    assert_eq!(da.strategy, SplitBrainDisconnect, "not both");
    // Only an ancestor in common: full sync.
    let (x, y) = (half(0, 0x30, &[], &[0x10]), half(1, 0x40, &[], &[0x10]));
    let (dx, dy) = both(&x, &discard(&y), LINK);
    assert_eq!(
        (dx.strategy, dy.strategy),
        (SourceSetBitmap, TargetSetBitmap)
    );
    assert_eq!(
        (dx.bitmap, dx.fixups),
        (BitmapAction::SetAll, vec![Fixup::SetBitmapUuid])
    );
    assert_eq!((dy.bitmap, dy.fixups), (BitmapAction::SetAll, vec![]));
    let mut always = asb(
        SbPolicy::DiscardLeastChanges,
        SbPolicy::Disconnect,
        SbPolicy::Disconnect,
    );
    assert_eq!(run(&x, &y, always, |_| {}).strategy, SplitBrainDisconnect);
    always.policies.always_asbp = true;
    assert_eq!(run(&x, &y, always, |_| {}).strategy, SourceSetBitmap);
    // Quorum tells.
    let mut quorum = LINK;
    quorum.policies.quorum = true;
    let mut lost = a.clone();
    lost.side.quorum = false;
    let (da, db) = both(&lost, &b, quorum);
    assert_eq!(
        (da.strategy, db.strategy),
        (TargetUseBitmap, SourceUseBitmap)
    );
    // Someone else is Primary: no split brain of these two.
    let unstable = Half {
        flags: UuidFlags::NONE,
        ..a.clone()
    };
    assert_eq!(run(&unstable, &b, LINK, |_| {}).strategy, NoSync);
    assert_eq!(run(&b, &unstable, LINK, |_| {}).strategy, NoSync);
}

#[test]
fn discard_my_data_turns_the_direction() {
    let a = with(
        &half(0, 0x30, &[(1, 0x10)], &[]),
        UuidFlags::DISCARD_MY_DATA,
    );
    let b = half(1, 0x10, &[], &[]);
    let (da, db) = both(&a, &b, LINK);
    assert_eq!(
        (da.strategy, db.strategy),
        (TargetUseBitmap, SourceUseBitmap)
    );
    let (da, db) = both(&a, &b, Link { pv: 120, ..LINK });
    assert_eq!(
        (da.strategy, db.strategy),
        (SourceUseBitmap, TargetUseBitmap)
    );
    let mut bad = b.clone();
    bad.side.disk = DiskState::Inconsistent;
    assert_eq!(
        run(&a, &bad, LINK, |_| {}).strategy,
        SourceUseBitmap,
        "it has no data to give"
    );
}

#[test]
fn role_conflicts() {
    use SbPolicy::*;
    let mut a = half(0, 0x10, &[], &[]);
    a.side.role = Role::Primary;
    let b = Half {
        bits: 1,
        ..half(1, 0x30, &[(0, 0x10)], &[])
    };
    let with_rr = |rr| Link {
        policies: Policies {
            rr_conflict: rr,
            ..POLICIES
        },
        ..LINK
    };
    let run_rr = |rr| run(&a, &b, with_rr(rr), |_| {});
    assert_eq!(run_rr(Disconnect).outcome, Outcome::Disconnect);
    assert_eq!(run_rr(RetryConnect).outcome, Outcome::Retry);
    let lost = run_rr(CallPriLost);
    assert_eq!(
        (lost.outcome, lost.handlers),
        (Outcome::Disconnect, vec![Handler::PriLost])
    );
    for rr in [ViolentlyAs0p, AutoDiscard] {
        assert_eq!(run_rr(rr).outcome, Outcome::Repl(ReplState::WFBitMapT));
    }
    let clean = Half {
        bits: 0,
        ..b.clone()
    };
    assert_eq!(
        run(&a, &clean, LINK, |_| {}).strategy,
        TargetUseBitmap,
        "nothing to lose"
    );
    // A crashed Primary in protocol A, which another one has replaced.
    let mut link = with_rr(AutoDiscard);
    link.policies.protocol = WireProtocol::A;
    let crashed = with(
        &Half {
            bits: 1,
            ..half(1, 0x10, &[], &[])
        },
        CRASHED,
    );
    let (da, db) = both(&a, &crashed, link);
    assert_eq!(
        (da.strategy, db.strategy),
        (SourceUseBitmap, TargetUseBitmap)
    );
}

#[test]
fn missed_ends() {
    // State machine, section 19.13.
    let mut a = Half {
        source_missed: true,
        bits: 4,
        ..half(0, 0x30, &[(1, 0x10)], &[])
    };
    let mut b = Half {
        peer_missed: true,
        ..half(1, 0x30, &[], &[])
    };
    let (da, db) = both(&a, &b, LINK);
    assert_eq!(
        (da.strategy, db.strategy),
        (SourceUseBitmap, TargetUseBitmap)
    );
    // Without UpToDate data there is nothing to repeat.
    a.side.disk = DiskState::Outdated;
    let (da, db) = both(&a, &b, LINK);
    assert_eq!((da.strategy, db.strategy), (NoSync, NoSync));
    assert_eq!(db.fixups, [Fixup::ClearBitmapUuid]);
    // Older peers without bits.
    (a.bits, a.side.disk) = (0, DiskState::UpToDate);
    let link = Link { pv: 123, ..LINK };
    assert_eq!(run(&a, &b, link, |_| {}).strategy, RetryConnect);
    b.side.role = Role::Primary;
    let d = run(&b, &a, link, |_| {});
    assert_eq!(
        (d.strategy, d.outcome),
        (RequiresProto(124), Outcome::Disconnect)
    );
}

#[test]
fn bitmaps_and_outcomes() {
    let new = half(0, J, &[], &[]);
    let old = half(1, 0x10, &[], &[]);
    let d = run(&new, &old, LINK, |_| {});
    assert_eq!(
        (d.outcome, d.bitmap),
        (
            Outcome::Repl(ReplState::WFBitMapT),
            BitmapAction::SetAllSlots
        )
    );
    let d = run(&new, &old, LINK, |f| f.other_resync = true);
    assert_eq!(d.bitmap, BitmapAction::Keep);
    let d = run(&old, &new, LINK, |_| {});
    assert_eq!(
        (d.outcome, d.bitmap),
        (Outcome::Repl(ReplState::WFBitMapS), BitmapAction::SetAll)
    );
    assert_eq!(d.fixups, []);
    // Section 19.14: day-0 slot.
    let grown = half(1, 0x30, &[(2, 0xd0)], &[0xd0]);
    let again = half(0, 0xd0, &[], &[]);
    let (dg, da) = both(&grown, &again, LINK);
    assert_eq!(
        (dg.bitmap, da.bitmap),
        (BitmapAction::CopyFrom(node(2)), BitmapAction::Clear)
    );
    let dry = Link {
        dry_run: true,
        ..LINK
    };
    let d = run(&grown, &again, dry, |_| {});
    assert_eq!(
        (d.outcome, d.bitmap),
        (Outcome::Disconnect, BitmapAction::Keep)
    );
    // if-both-failed: a Primary is the source.
    let mut p = with(&half(0, 0x10, &[], &[]), LOST);
    let mut s = half(1, 0x10, &[], &[]);
    let states = |p: &Half, s: &Half| {
        let (a, b) = both(p, s, LINK);
        (a.outcome, b.outcome)
    };
    use {Outcome::Repl, ReplState::*};
    assert_eq!(states(&p, &s), (Repl(WFBitMapS), Repl(WFBitMapT)));
    s.side.role = Role::Primary;
    assert_eq!(states(&p, &s), (Repl(WFBitMapT), Repl(WFBitMapS)));
    p.side.role = Role::Primary;
    assert_eq!(states(&p, &s), (Repl(Established), Repl(Established)));
}

#[test]
fn attach_and_reevaluation() {
    let (a, b) = split(1, 2);
    let at = |occasion| Link { occasion, ..LINK };
    let d = run(&a, &b, at(Occasion::Attach), |_| {});
    assert_eq!((d.outcome, d.handlers), (Outcome::NoResult, vec![]));
    let (x, y) = (half(0, 0x10, &[], &[]), half(1, 0x30, &[(0, 0x10)], &[]));
    let d = run(&x, &y, at(Occasion::Attach), |_| {});
    assert_eq!(d.outcome, Outcome::Repl(ReplState::WFBitMapT));
    let unrelated = half(1, 0x70, &[], &[]);
    assert_eq!(
        run(&x, &unrelated, at(Occasion::Attach), |_| {}).outcome,
        Outcome::NoResult
    );
    // A resync offered: a split brain is decided by the disks.
    let mut old = a.clone();
    old.side.disk = DiskState::Outdated;
    let (da, db) = both(&old, &b, at(Occasion::Resync { disk_states: false }));
    assert_eq!(
        (da.strategy, db.strategy),
        (TargetUseBitmap, SourceUseBitmap)
    );
    let d = run(
        &x,
        &unrelated,
        at(Occasion::Resync { disk_states: true }),
        |_| {},
    );
    assert_eq!(d.outcome, Outcome::NoResult);
}

fn mirrored(strategy: Strategy) -> Strategy {
    match strategy {
        SourceCopyOtherBitmap(_) => TargetClearBitmap,
        other => other.reversed().unwrap_or(other),
    }
}

fn halves() -> impl Strategy_<Value = (Half, Half)> {
    let uuid = || prop::sample::select(vec![0u64, 0, 0, 0x10, 0x11, 0x20, 0x30, 0x31, 0x40, 0x50]);
    let current = || prop::sample::select(vec![J, 0x10, 0x11, 0x20, 0x30, 0x31, 0x40, 0x50]);
    let history = || {
        prop::collection::vec(uuid(), 0..4).prop_map(|h| {
            h.into_iter()
                .filter(|u| *u != 0)
                .map(|u| u & !1)
                .collect::<Vec<_>>()
        })
    };
    let flags = || {
        prop::collection::vec(any::<bool>(), 5).prop_map(|on| {
            [
                CRASHED,
                RECONNECT,
                LOST,
                UuidFlags::DISCARD_MY_DATA,
                UuidFlags::SYNC_TARGET,
            ]
            .iter()
            .zip(on)
            .filter(|(_, on)| *on)
            .fold(UuidFlags::STABLE, |all, (f, _)| all.union(*f))
        })
    };
    let side = || {
        use DiskState::*;
        let disk = prop::sample::select(vec![Inconsistent, Outdated, Consistent, UpToDate]);
        let role = prop::sample::select(vec![Role::Primary, Role::Secondary]);
        (disk, role, any::<bool>()).prop_map(|(disk, role, quorum)| Side { role, disk, quorum })
    };
    let one = move || {
        (
            current(),
            prop::collection::vec(uuid(), 4),
            history(),
            flags(),
            0u64..3,
            side(),
        )
    };
    let offset = -1i64..=1;
    (one(), one(), offset, any::<bool>(), 0u8..6).prop_map(|(a, b, offset, lost, missed)| {
        let build = |me: u32,
                     (current, bitmap, history, flags, bits, side): (
            u64,
            Vec<u64>,
            Vec<u64>,
            _,
            _,
            _,
        )| {
            let bitmap: Vec<_> = (0..).zip(bitmap).filter(|(n, _)| *n != me).collect();
            Half {
                flags,
                bits,
                side,
                ..half(me, current, &bitmap, &history)
            }
        };
        let (mut a, mut b) = (build(0, a), build(1, b));
        if lost {
            a.lost = Some(LostPrimary {
                named: true,
                offset: Some(offset),
            });
            b.lost = Some(LostPrimary {
                named: true,
                offset: Some(-offset),
            });
        }
        (a.source_missed, b.peer_missed) = (missed == 0, missed == 0);
        (b.source_missed, a.peer_missed) = (missed == 1, missed == 1);
        (a, b)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100_000))]

    /// Both nodes evaluate the same facts and come to mirrored results; or one of them, at least, drops
    /// the connection.
    #[test]
    fn both_sides_agree(
        (a, b) in halves(),
        pv in 118u32..=124,
        protocol in prop::sample::select(vec![WireProtocol::A, WireProtocol::C]),
        after_sb in prop::sample::select(vec![
            SbPolicy::Disconnect, SbPolicy::DiscardYounger, SbPolicy::DiscardOlder,
            SbPolicy::DiscardZeroChanges, SbPolicy::DiscardLeastChanges,
        ]),
        with_primaries in prop::sample::select(vec![
            SbPolicy::Disconnect, SbPolicy::Consensus, SbPolicy::DiscardSecondary,
            SbPolicy::CallPriLost, SbPolicy::ViolentlyAs0p,
        ]),
        rr_conflict in prop::sample::select(vec![
            SbPolicy::Disconnect, SbPolicy::RetryConnect, SbPolicy::CallPriLost,
            SbPolicy::ViolentlyAs0p, SbPolicy::AutoDiscard,
        ]),
        always_asbp in any::<bool>(),
        quorum in any::<bool>(),
    ) {
        let after_sb = [after_sb, with_primaries, with_primaries];
        let policies = Policies { after_sb, always_asbp, rr_conflict, protocol, quorum };
        let link = Link { pv, policies, ..LINK };
        let (da, db) = both(&a, &b, link);
        let agree = mirrored(da.found) == db.found || da.found == mirrored(db.found);
        prop_assert!(agree, "{:?} {:?}", da, db);
        if let (Outcome::Repl(ra), Outcome::Repl(rb)) = (da.outcome, db.outcome) {
            use ReplState::*;
            let mirror = match ra { WFBitMapS => WFBitMapT, WFBitMapT => WFBitMapS, other => other };
            prop_assert_eq!(mirror, rb, "{:?} {:?}", da, db);
        }
    }
}
