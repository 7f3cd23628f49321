//! Both nodes decide on mirrored facts.

use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;
use proptest::strategy::Strategy as Strategy_;

use super::{Strategy, *};

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

    /// The same below protocol 110, where there are two nodes only and the start or the end of a resync
    /// may have got lost on one side.
    #[test]
    fn both_sides_agree_below_110(
        (a, b) in old_halves(),
        pv in 86u32..=101,
    ) {
        let (da, db) = both(&a, &b, Link { pv, ..LINK });
        prop_assert!(mirrored(da.found) == db.found, "{:?} {:?}", da, db);
    }
}

/// Two nodes with identifiers as a 8.x node keeps them.
fn old_halves() -> impl Strategy_<Value = (Half, Half)> {
    const STEP: u64 = crate::uuid::SYNC_UUID_STEP;
    let uuid = || prop::sample::select(vec![0x10u64, 0x20, 0x30, 0x10 + STEP, 0x20 + STEP]);
    let maybe = move || prop_oneof![Just(0u64), uuid()];
    let one = move || {
        let current = prop_oneof![8 => uuid(), 1 => Just(J)];
        let history = prop::collection::vec(uuid(), 0..3);
        (current, maybe(), history, any::<bool>(), 0u64..3)
    };
    (one(), one()).prop_map(|(a, b)| {
        let build = |me: u32, peer: u32, (current, bitmap, history, crashed, bits)| {
            let flags = if crashed { CRASHED } else { UuidFlags::NONE };
            let history: Vec<u64> = history;
            Half {
                bits,
                ..with(&half(me, current, &[(peer, bitmap)], &history), flags)
            }
        };
        (build(0, 1, a), build(1, 0, b))
    })
}
