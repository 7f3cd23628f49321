use alloc::collections::BTreeSet;
use alloc::vec;

use proptest::prelude::*;

use super::*;

fn node(n: u32) -> NodeId {
    NodeId::new(n).unwrap()
}

const SECTOR: Sector = Sector(64);
const LEN: u32 = 4096;

/// One interval `i` with these flags; may one of kind `n` from `peer` pass?
fn passes(i: (Kind, Option<u32>, Flags), n: (Kind, Option<u32>), check: Check) -> (bool, bool) {
    let mut all = Intervals::new();
    let mut old = Interval::new(i.0, i.1.map(node), SECTOR, LEN);
    old.flags = i.2;
    all.insert(IntervalId(1), old);
    all.insert(
        IntervalId(2),
        Interval::new(n.0, n.1.map(node), Sector(SECTOR.0 + 7), LEN),
    );
    let pass = all.conflict(IntervalId(2), check).is_none();
    (
        pass,
        all.get(IntervalId(1)).unwrap().flags.has(Flags::CONFLICT),
    )
}

const SUB: Flags = Flags::SUBMITTED;
const PASS: (bool, bool) = (true, false);
const WAIT: (bool, bool) = (false, false);
const CROSS: (bool, bool) = (true, true);

#[test]
fn rule_1_finished() {
    use Kind::*;
    let backing = SUB.with(Flags::BACKING_COMPLETED);
    let completed = SUB.with(Flags::COMPLETED);
    // A local write waits for the application's completion, all others for the disk.
    assert_eq!(
        passes(
            (LocalWrite, None, backing),
            (LocalWrite, None),
            Check::Submit
        ),
        WAIT
    );
    assert_eq!(
        passes(
            (LocalWrite, None, completed),
            (LocalWrite, None),
            Check::Submit
        ),
        PASS
    );
    assert_eq!(
        passes(
            (LocalWrite, None, backing),
            (PeerWrite, Some(1)),
            Check::Submit
        ),
        PASS
    );
    assert_eq!(
        passes(
            (LocalWrite, None, completed),
            (PeerWrite, Some(1)),
            Check::Submit
        ),
        WAIT
    );
    assert_eq!(
        passes(
            (PeerWrite, Some(1), backing),
            (LocalWrite, None),
            Check::Submit
        ),
        WAIT
    );
    assert_eq!(
        passes(
            (LocalWrite, None, backing),
            (ResyncRead, Some(1)),
            Check::Submit
        ),
        PASS
    );
}

#[test]
fn rule_2_precedence() {
    use Kind::*;
    let none = Flags::NONE;
    assert_eq!(
        passes((LocalWrite, None, none), (LocalWrite, None), Check::Submit),
        PASS
    );
    assert_eq!(
        passes((LocalWrite, None, SUB), (LocalWrite, None), Check::Submit),
        WAIT
    );
    // Applications and resync.
    let (ready, received) = (
        Flags::READY_TO_SEND,
        Flags::READY_TO_SEND.with(Flags::RECEIVED),
    );
    for kind in [ResyncWrite, ResyncRead] {
        assert_eq!(
            passes((kind, Some(1), none), (LocalWrite, None), Check::Submit),
            WAIT
        );
        assert_eq!(
            passes((kind, Some(1), ready), (PeerWrite, Some(2)), Check::Submit),
            WAIT
        );
        assert_eq!(
            passes((kind, Some(1), ready), (PeerWrite, Some(1)), Check::Submit),
            PASS
        );
        assert_eq!(
            passes(
                (kind, Some(1), received),
                (PeerWrite, Some(1)),
                Check::Submit
            ),
            WAIT
        );
    }
    assert_eq!(
        passes(
            (VerifyTarget, Some(1), none),
            (LocalWrite, None),
            Check::Submit
        ),
        PASS
    );
    // Two resyncs.
    let resync = |flags| {
        passes(
            (ResyncWrite, Some(1), flags),
            (ResyncWrite, Some(2)),
            Check::Submit,
        )
    };
    assert_eq!((resync(none), resync(ready)), (PASS, WAIT));
    // Resync does not wait for an application that has not started.
    assert_eq!(
        passes(
            (LocalWrite, None, none),
            (ResyncWrite, Some(1)),
            Check::Submit
        ),
        PASS
    );
}

#[test]
fn rules_3_to_6() {
    use Kind::*;
    // 3
    assert_eq!(
        passes(
            (PeerWrite, Some(1), SUB),
            (ResyncWrite, Some(1)),
            Check::Send
        ),
        PASS
    );
    assert_eq!(
        passes(
            (PeerWrite, Some(2), SUB),
            (ResyncWrite, Some(1)),
            Check::Send
        ),
        WAIT
    );
    assert_eq!(
        passes(
            (PeerWrite, Some(1), SUB),
            (ResyncWrite, Some(1)),
            Check::Submit
        ),
        WAIT
    );
    // 4, and data path, section 6.3
    assert_eq!(
        passes(
            (LocalWrite, None, SUB),
            (PeerWrite, Some(1)),
            Check::TwoPrimaries
        ),
        WAIT
    );
    assert_eq!(
        passes(
            (PeerWrite, Some(2), SUB),
            (PeerWrite, Some(1)),
            Check::TwoPrimaries
        ),
        WAIT
    );
    assert_eq!(
        passes(
            (PeerWrite, Some(1), SUB),
            (PeerWrite, Some(1)),
            Check::TwoPrimaries
        ),
        PASS
    );
    let received = SUB.with(Flags::RECEIVED);
    assert_eq!(
        passes(
            (ResyncWrite, Some(2), received),
            (PeerWrite, Some(1)),
            Check::TwoPrimaries
        ),
        PASS
    );
    let done = SUB.with(Flags::COMPLETED);
    assert_eq!(
        passes(
            (LocalWrite, None, done),
            (PeerWrite, Some(1)),
            Check::TwoPrimaries
        ),
        PASS
    );
    let unstarted = Flags::NONE;
    assert_eq!(
        passes(
            (LocalWrite, None, unstarted),
            (PeerWrite, Some(1)),
            Check::TwoPrimaries
        ),
        PASS
    );
    // 5
    for write in [LocalWrite, PeerWrite, ResyncWrite] {
        let peer = (write != LocalWrite).then_some(2);
        for verify in [VerifySource, VerifyTarget] {
            assert_eq!(
                passes((verify, Some(1), SUB), (write, peer), Check::Submit),
                CROSS
            );
        }
        assert_eq!(
            passes((PeersInSync, Some(1), SUB), (write, peer), Check::Submit),
            WAIT
        );
    }
    // 6
    for reader in [ResyncRead, VerifySource, VerifyTarget, PeersInSync] {
        for other in [ResyncRead, VerifySource, VerifyTarget, PeersInSync] {
            assert_eq!(
                passes((other, Some(1), SUB), (reader, Some(2)), Check::Submit),
                PASS
            );
        }
        for write in [LocalWrite, PeerWrite, ResyncWrite] {
            let peer = (write != LocalWrite).then_some(1);
            assert_eq!(
                passes((write, peer, SUB), (reader, Some(2)), Check::Submit),
                WAIT
            );
        }
    }
}

#[test]
fn writes_of_one_peer_keep_their_order() {
    let mut all = Intervals::new();
    let write = |sector| Interval::new(Kind::PeerWrite, Some(node(1)), Sector(sector), LEN);
    all.insert(IntervalId(1), write(0));
    all.insert(IntervalId(2), write(4));
    all.insert(IntervalId(3), write(8));
    assert_eq!(all.submit(IntervalId(1)), Ok(()));
    assert_eq!(all.submit(IntervalId(2)), Err(IntervalId(1)));
    assert_eq!(
        all.submit(IntervalId(3)),
        Err(IntervalId(2)),
        "it does not overlap the first"
    );
    let mut waiting = vec![];
    all.completed(IntervalId(1), Flags::BACKING_COMPLETED, &mut waiting);
    assert_eq!(waiting, [IntervalId(2)]);
    assert_eq!(all.submit(IntervalId(2)), Ok(()));
}

#[test]
fn who_is_checked_again() {
    let mut all = Intervals::new();
    let at = |kind, peer: Option<u32>, flags| {
        let mut i = Interval::new(kind, peer.map(node), SECTOR, LEN);
        i.flags = flags;
        i
    };
    all.insert(IntervalId(9), at(Kind::LocalWrite, None, SUB));
    all.insert(IntervalId(7), at(Kind::LocalWrite, None, Flags::NONE));
    all.insert(
        IntervalId(5),
        at(Kind::ResyncWrite, Some(1), Flags::READY_TO_SEND),
    );
    all.insert(
        IntervalId(4),
        at(
            Kind::ResyncWrite,
            Some(2),
            Flags::READY_TO_SEND.with(Flags::RECEIVED),
        ),
    );
    all.insert(IntervalId(3), at(Kind::ResyncWrite, Some(3), Flags::NONE));
    all.insert(IntervalId(2), at(Kind::VerifyTarget, Some(3), SUB));
    all.insert(
        IntervalId(1),
        Interval::new(Kind::LocalWrite, None, Sector(72), LEN),
    );
    let mut waiting = vec![IntervalId(77)];
    let gone = all.remove(IntervalId(9), &mut waiting).unwrap();
    assert_eq!(gone.flags, SUB);
    assert_eq!(waiting, [77, 3, 4, 7].map(IntervalId));
    assert_eq!(all.remove(IntervalId(9), &mut waiting), None);
}

#[test]
fn find_wants_the_exact_range() {
    let mut all = Intervals::new();
    all.insert(
        IntervalId(1),
        Interval::new(Kind::ResyncWrite, Some(node(1)), Sector(8), 8192),
    );
    let find =
        |kind, peer, sector, len| all.find(kind, node(peer), Sector(sector), len).map(|f| f.0);
    assert_eq!(find(Kind::ResyncWrite, 1, 8, 8192), Some(IntervalId(1)));
    assert_eq!(find(Kind::ResyncWrite, 2, 8, 8192), None);
    assert_eq!(find(Kind::ResyncWrite, 1, 8, 4096), None);
    assert_eq!(find(Kind::ResyncWrite, 1, 16, 4096), None);
    assert_eq!(find(Kind::ResyncRead, 1, 8, 8192), None);
}

fn kinds() -> impl Strategy<Value = Kind> {
    use Kind::*;
    prop::sample::select(vec![
        LocalWrite,
        PeerWrite,
        ResyncWrite,
        ResyncRead,
        VerifySource,
        VerifyTarget,
        PeersInSync,
    ])
}

#[derive(Clone, Debug)]
enum Step {
    Insert(Kind, u32, u64, u32),
    Submit(usize),
    BackingCompleted(usize),
    Remove(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Mostly short ones, some as long as a discard.
    let len = prop_oneof![9 => 1u32..20, 1 => 1u32..4000].prop_map(|n| n * 512);
    let step = prop_oneof![
        4 => (kinds(), 0u32..3, 0u64..400, len).prop_map(|(k, p, s, l)| Step::Insert(k, p, s, l)),
        3 => any::<usize>().prop_map(Step::Submit),
        2 => any::<usize>().prop_map(Step::BackingCompleted),
        1 => any::<usize>().prop_map(Step::Remove),
    ];
    prop::collection::vec(step, 0..300)
}

proptest! {
    /// The search finds what a search through everything finds; no two writes that overlap run at
    /// once on the disk, no two local ones at once on the wire (O7); who waits is woken.
    #[test]
    fn like_brute_force(steps in steps(), probe in (0u64..400, 1u32..64)) {
        let mut all = Intervals::new();
        let mut next = 0;
        // Those that were refused, with whom they wait for.
        let mut waits: BTreeMap<IntervalId, IntervalId> = BTreeMap::new();
        for step in steps {
            let ids: Vec<_> = all.iter().map(|(id, _)| id).collect();
            let pick = |n: usize| ids.get(n % ids.len().max(1)).copied();
            let mut woken = vec![];
            match step {
                Step::Insert(kind, peer, sector, len) => {
                    let peer = (kind != Kind::LocalWrite).then(|| node(peer));
                    all.insert(IntervalId(next), Interval::new(kind, peer, Sector(sector), len));
                    next += 1;
                }
                Step::Submit(n) => {
                    let Some(id) = pick(n) else { continue };
                    if all.get(id).unwrap().flags.has(SUB) {
                        continue;
                    }
                    match all.submit(id) {
                        Ok(()) => waits.remove(&id),
                        Err(other) => waits.insert(id, other),
                    };
                }
                Step::BackingCompleted(n) => {
                    let Some(id) = pick(n) else { continue };
                    let i = *all.get(id).unwrap();
                    if !i.flags.has(SUB) {
                        continue;
                    }
                    // The application hears of it once the disk is done.
                    let flags = if i.flags.has(Flags::BACKING_COMPLETED) {
                        Flags::COMPLETED
                    } else {
                        Flags::BACKING_COMPLETED
                    };
                    all.completed(id, flags, &mut woken);
                }
                Step::Remove(n) => {
                    let Some(id) = pick(n) else { continue };
                    all.remove(id, &mut woken);
                    waits.remove(&id);
                    prop_assert!(waits.iter().all(|(w, on)| *on != id || woken.contains(w)));
                }
            }
            prop_assert!(woken.is_sorted());
            waits.retain(|id, _| !woken.contains(id));

            let running: Vec<_> = all.iter().map(|(_, i)| *i).filter(|i| {
                i.kind.is_write() && i.flags.has(SUB)
            }).collect();
            for (n, a) in running.iter().enumerate() {
                for b in running.iter().skip(n + 1) {
                    if a.sector.0 < b.end() && b.sector.0 < a.end() {
                        let done = |i: &Interval, f| i.flags.has(f);
                        prop_assert!(
                            done(a, Flags::BACKING_COMPLETED) || done(b, Flags::BACKING_COMPLETED)
                        );
                        if a.kind == Kind::LocalWrite && b.kind == Kind::LocalWrite {
                            prop_assert!(done(a, Flags::COMPLETED) || done(b, Flags::COMPLETED));
                        }
                    }
                }
            }
        }
        let (sector, sectors) = probe;
        let found: BTreeSet<_> =
            all.overlapping(Sector(sector), sectors * 512).map(|(id, _)| id).collect();
        let expected: BTreeSet<_> = all.iter()
            .filter(|(_, i)| i.sector.0 < sector + u64::from(sectors) && sector < i.end())
            .map(|(id, _)| id)
            .collect();
        prop_assert_eq!(found, expected);
    }
}
