//! What a strategy does to bitmaps and states, and the other occasions for a decision.

use alloc::vec;

use super::*;

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
fn an_offer_never_makes_an_up_to_date_disk_the_target_of_an_outdated_one() {
    let at = Link {
        occasion: Occasion::Resync { disk_states: false },
        ..LINK
    };
    let (mut x, y) = (half(0, 0x10, &[], &[]), half(1, 0x10, &[], &[]));
    // By the identifiers alone the crashed one would be the source.
    x.flags = x.flags.union(UuidFlags::CRASHED_PRIMARY);
    assert_eq!(run(&x, &y, at, |_| {}).strategy, SourceIfBothFailed);
    assert_eq!(run(&y, &x, at, |_| {}).strategy, TargetIfBothFailed);
    x.side.disk = DiskState::Outdated;
    assert_eq!(run(&x, &y, at, |_| {}).strategy, TargetUseBitmap);
    assert_eq!(run(&y, &x, at, |_| {}).strategy, SourceUseBitmap);
}

#[test]
fn an_interrupted_resync_goes_on_after_an_attach() {
    let at = Link {
        occasion: Occasion::Attach,
        ..LINK
    };
    let (mut x, y) = (half(0, 0x10, &[], &[]), half(1, 0x10, &[], &[]));
    x.side.disk = DiskState::Inconsistent;
    x.flags = x.flags.union(UuidFlags::RECONNECT);
    assert_eq!(run(&x, &y, at, |_| {}).strategy, TargetUseBitmap);
    assert_eq!(run(&y, &x, at, |_| {}).strategy, SourceUseBitmap);
}

#[test]
fn attach_and_reevaluation() {
    let (a, b) = policies::split(1, 2);
    let at = |occasion| Link { occasion, ..LINK };
    let d = run(&a, &b, at(Occasion::Attach), |_| {});
    assert_eq!((d.outcome, d.handlers), (Outcome::NoResult, vec![]));
    let (x, y) = (half(0, 0x10, &[], &[]), half(1, 0x30, &[(0, 0x10)], &[]));
    // discard-my-data has no say here.
    let discard = with(&y, UuidFlags::DISCARD_MY_DATA);
    let d = run(&x, &discard, at(Occasion::Attach), |_| {});
    assert_eq!(d.strategy, TargetUseBitmap);
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

#[test]
fn left_over_bits_are_compared() {
    let lost = Some(LostPrimary {
        named: false,
        offset: None,
    });
    let mut a = Half {
        bits: 3,
        lost,
        ..half(0, 0x30, &[], &[])
    };
    let mut b = Half {
        lost,
        ..half(1, 0x30, &[], &[])
    };
    a.side.disk = DiskState::Consistent;
    b.side.disk = DiskState::Consistent;
    let (da, db) = both(&a, &b, LINK);
    assert_eq!(
        (da.strategy, db.strategy),
        (SourceUseBitmap, TargetUseBitmap)
    );
    // A Primary is the source, whoever has the bits.
    b.side.role = Role::Primary;
    let (da, db) = both(&a, &b, LINK);
    assert_eq!(
        (da.strategy, db.strategy),
        (TargetUseBitmap, SourceUseBitmap)
    );
    b.side.role = Role::Secondary;
    a.bits = 0;
    let (da, db) = both(&a, &b, LINK);
    assert_eq!((da.strategy, db.strategy), (NoSync, NoSync));
}

#[test]
fn an_outdated_crashed_primary_is_no_source_for_good_data() {
    let link = Link {
        policies: Policies {
            protocol: WireProtocol::A,
            ..LINK.policies
        },
        ..LINK
    };
    let mut a = with(&half(0, 0x30, &[], &[]), UuidFlags::CRASHED_PRIMARY);
    let b = half(1, 0x30, &[], &[]);
    let (da, db) = both(&a, &b, link);
    assert_eq!(
        (da.strategy, db.strategy),
        (SourceUseBitmap, TargetUseBitmap)
    );
    a.side.disk = DiskState::Outdated;
    let (da, db) = both(&a, &b, link);
    assert_eq!(
        (da.strategy, db.strategy),
        (TargetUseBitmap, SourceUseBitmap)
    );
}

/// A crashed Primary does not become the source for a node that the others are just bringing up to date.
#[test]
fn a_crashed_primary_waits_for_those_who_outlived_it() {
    let crashed = with(&half(1, 0x10, &[], &[]), CRASHED);
    let mut a = with(&half(0, 0x10, &[], &[]), RECONNECT);
    let strategies = |a: &Half| {
        let (a, b) = both(a, &crashed, LINK);
        (a.strategy, b.strategy)
    };
    assert_eq!(strategies(&a), (SourceIfBothFailed, TargetIfBothFailed));
    a.side.disk = DiskState::Consistent;
    assert_eq!(strategies(&a), (RetryConnect, RetryConnect));
    // With nobody else to learn from there is nothing to wait for.
    let alone = |f: &mut Facts<'_>| f.finds_out = [false; 2];
    assert_eq!(run(&a, &crashed, LINK, alone).strategy, TargetUseBitmap);
    assert_eq!(run(&crashed, &a, LINK, alone).strategy, SourceUseBitmap);
    a.side.disk = DiskState::Inconsistent;
    let target = with(&a, UuidFlags::SYNC_TARGET);
    assert_eq!(strategies(&target), (RetryConnect, RetryConnect));
    // Nobody else can help it.
    assert_eq!(strategies(&a), (TargetUseBitmap, SourceUseBitmap));
    a.side.disk = DiskState::Outdated;
    assert_eq!(strategies(&a), (TargetUseBitmap, SourceUseBitmap));
}

/// A node that names a lost Primary meets one that still sees it.
#[test]
fn a_lost_primary_that_the_other_one_still_sees() {
    let lost = |named, offset| Some(LostPrimary { named, offset });
    let mut stale = half(0, 0x10, &[], &[]);
    (stale.bits, stale.lost) = (7, lost(true, None));
    let mut sees = half(1, 0x10, &[], &[]);
    sees.flags = UuidFlags::NONE;

    sees.lost = lost(false, Some(5));
    let (a, b) = both(&stale, &sees, LINK);
    assert_eq!((a.strategy, b.strategy), (TargetUseBitmap, SourceUseBitmap));
    assert_eq!(b.rule, Rule::ReconcileDagtag);

    // It lacks writes of that Primary, too: it has to find out whether they still come.
    sees.lost = lost(false, Some(-5));
    let (_, b) = both(&stale, &sees, LINK);
    assert_eq!(b.outcome, Outcome::Retry);

    // Without bits there is nothing to decide.
    stale.bits = 0;
    let (a, b) = both(&stale, &sees, LINK);
    assert_eq!((a.strategy, b.strategy), (NoSync, NoSync));
}

/// The peer follows a Primary that is none any more: its bits are not there yet.
#[test]
fn a_peer_that_follows_nobody_is_asked_again() {
    let mut me = half(0, 0x10, &[], &[]);
    (me.bits, me.lost) = (7, Some(LostPrimary::default()));
    let mut peer = half(1, 0x10, &[], &[]);
    peer.lost = me.lost;
    assert_eq!(both(&me, &peer, LINK).0.strategy, SourceUseBitmap);
    let asked = |f: &mut Facts<'_>| f.follows_nobody = true;
    assert_eq!(run(&me, &peer, LINK, asked).outcome, Outcome::Retry);
    me.bits = 0;
    assert_eq!(run(&me, &peer, LINK, asked).strategy, NoSync);
}

/// A restarted node has marked everything, and meets one that follows a Primary: nobody named a lost one.
#[test]
fn who_follows_a_primary_is_the_source() {
    let mut back = half(0, 0x10, &[], &[]);
    (back.bits, back.lost) = (7, Some(LostPrimary::default()));
    let mut follows = half(1, 0x10, &[], &[]);
    (follows.flags, follows.lost) = (UuidFlags::NONE, back.lost);
    let (a, b) = both(&back, &follows, LINK);
    assert_eq!((a.strategy, b.strategy), (TargetUseBitmap, SourceUseBitmap));
}

/// A crashed Primary comes back with a generation of its own; what another Primary has meanwhile is not given up.
#[test]
fn what_a_primary_has_is_not_given_up_for_another_line() {
    let mut mine = half(0, 0x10, &[], &[]);
    mine.bits = 3;
    let mut back = half(1, 0x20, &[(0, 0x10)], &[0x10]);
    back.bits = 3;
    assert_eq!(
        both(&mine, &back, LINK).0.strategy,
        TargetUseBitmap,
        "alone it would be the target"
    );
    let served = |f: &mut Facts<'_>| f.served = true;
    assert_eq!(run(&mine, &back, LINK, served).outcome, Outcome::Retry);
    // The other one is Primary itself: this is an ordinary resync.
    back.side.role = Role::Primary;
    let d = run(&mine, &back, LINK, served);
    assert_eq!(d.strategy, TargetUseBitmap);
}

/// Writes were under way when the disk went: it missed them, whoever has the bits.
#[test]
fn a_disk_attached_again_takes_what_it_missed() {
    let link = Link {
        occasion: Occasion::Attach,
        ..LINK
    };
    for (mine, theirs) in [(7, 0), (0, 7), (7, 7)] {
        let mut away = half(0, 0x10, &[], &[]);
        (away.bits, away.lost) = (mine, Some(LostPrimary::default()));
        let mut here = half(1, 0x10, &[], &[]);
        (here.bits, here.lost) = (theirs, away.lost);
        let attaching = |mine: bool| move |f: &mut Facts<'_>| f.attaching = Some(mine);
        assert_eq!(
            run(&away, &here, link, attaching(true)).strategy,
            TargetUseBitmap
        );
        assert_eq!(
            run(&here, &away, link, attaching(false)).strategy,
            SourceUseBitmap
        );
        let both_away = run(&away, &here, link, |_| {});
        assert_eq!(both_away.strategy, NoSync);
    }
}

/// What came from a crashed Primary may lack what was in its cache: the disk that missed nothing of it is better.
#[test]
fn a_disk_attached_again_is_better_than_what_a_crash_left() {
    let link = Link {
        occasion: Occasion::Attach,
        ..LINK
    };
    let mut away = half(0, 0x10, &[], &[]);
    (away.bits, away.lost) = (7, Some(LostPrimary::default()));
    let mut here = with(&half(1, 0x10, &[], &[]), UuidFlags::CRASHED_PRIMARY);
    for flags in [&mut away.flags, &mut here.flags] {
        *flags = flags.union(UuidFlags::RECONNECT);
    }
    here.lost = away.lost;
    let attaching = |mine: bool| move |f: &mut Facts<'_>| f.attaching = Some(mine);
    let strategy = |a: &Half, b: &Half, mine| run(a, b, link, attaching(mine)).strategy;
    assert_eq!(strategy(&away, &here, true), SourceUseBitmap);
    assert_eq!(strategy(&here, &away, false), TargetUseBitmap);
    // The Primary has gone on meanwhile.
    here.side.role = Role::Primary;
    assert_eq!(strategy(&away, &here, true), TargetUseBitmap);
    assert_eq!(strategy(&here, &away, false), SourceUseBitmap);
}

/// A split brain that no policy solves is none while one of the two is being resynced.
#[test]
fn a_target_is_asked_again() {
    let a = half(0, 0x10, &[(1, 0x8)], &[0x8]);
    let b = half(1, 0x20, &[(0, 0x8)], &[0x8]);
    let (found, _) = both(&a, &b, LINK);
    assert_eq!(
        (found.found, found.strategy),
        (SplitBrainAutoRecover, SplitBrainDisconnect)
    );
    let target = |half: &Half| {
        let mut half = with(half, UuidFlags::SYNC_TARGET);
        half.side.disk = DiskState::Inconsistent;
        half
    };
    for (a, b) in [(target(&a), b.clone()), (a.clone(), target(&b))] {
        let (x, y) = both(&a, &b, LINK);
        assert_eq!((x.strategy, y.strategy), (RetryConnect, RetryConnect));
        assert!(x.handlers.is_empty() && y.handlers.is_empty());
    }
}
