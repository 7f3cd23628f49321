//! Split brain, discard-my-data, conflicts with the role.

use alloc::vec;

use super::*;

/// A split brain of two nodes with that many changed blocks.
pub(super) fn split(a_bits: u64, b_bits: u64) -> (Half, Half) {
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
    // What a Primary works with is an ancestor that this node knows of a third node.
    let mut a = with(
        &half(0, 0x30, &[(2, 0x10)], &[]),
        UuidFlags::DISCARD_MY_DATA,
    );
    a.bits = 1;
    let mut b = b;
    let (da, db) = both(&a, &b, LINK);
    assert_eq!(da.strategy, SourceCopyOtherBitmap(node(2)));
    assert_eq!(db.strategy, TargetClearBitmap);
    b.side.role = Role::Primary;
    let (da, db) = both(&a, &b, LINK);
    assert_eq!(
        (da.strategy, db.strategy),
        (TargetSetBitmap, SourceSetBitmap)
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
