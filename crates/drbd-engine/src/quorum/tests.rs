use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

fn votes(v: [u32; 7]) -> Votes {
    let [
        outdated,
        quorumless,
        unknown,
        up_to_date,
        present,
        diskless,
        missing_diskless,
    ] = v;
    Votes {
        outdated,
        quorumless,
        unknown,
        up_to_date,
        present,
        diskless,
        missing_diskless,
        quorate_peers: 0,
    }
}

#[test]
fn vectors() {
    // State machine, section 20: outdated, quorumless, unknown, up to date, present, diskless, missing
    // diskless; held before; voters, needed, quorum.
    let rows = [
        ([0, 0, 0, 3, 0, 0, 0], true, 3, 2, true),
        ([0, 0, 1, 2, 0, 0, 0], true, 3, 2, true),
        ([0, 0, 2, 1, 0, 0, 0], true, 3, 2, false),
        ([2, 0, 0, 1, 0, 0, 0], true, 1, 1, true),
        ([1, 0, 1, 1, 0, 0, 0], true, 3, 2, false),
        ([0, 1, 0, 1, 0, 0, 1], true, 1, 1, true),
        ([0, 2, 0, 1, 0, 0, 0], true, 3, 2, false),
        ([0, 0, 1, 1, 0, 1, 0], true, 2, 2, true),
        ([0, 0, 1, 1, 0, 1, 0], false, 2, 2, false),
        ([0, 0, 1, 1, 0, 1, 1], true, 2, 2, false),
        ([0, 0, 0, 0, 2, 0, 0], true, 2, 2, true),
    ];
    for (v, held, voters, needed, quorum) in rows {
        let verdict = votes(v).verdict(Quorum::Majority, Quorum::Off, held);
        assert_eq!(
            (verdict.voters, verdict.needed, verdict.quorum),
            (voters, needed, quorum),
            "{v:?}"
        );
    }
    let v = votes([0, 0, 0, 0, 2, 0, 0]);
    assert!(!v.verdict(Quorum::Majority, Quorum::Count(1), true).quorum);
    let v = votes([0, 0, 1, 1, 0, 1, 0]);
    assert!(v.verdict(Quorum::Majority, Quorum::Off, true).by_tiebreaker);
}

#[test]
fn settings() {
    let two_of_three = votes([0, 0, 1, 2, 0, 0, 0]);
    let quorum = |q| two_of_three.verdict(q, Quorum::Off, true);
    assert!(!quorum(Quorum::All).quorum);
    assert!(quorum(Quorum::Count(2)).quorum);
    assert!(
        !quorum(Quorum::Count(40)).quorum,
        "a number of voters no cluster has"
    );
    assert_eq!(quorum(Quorum::Count(40)).needed, 40);
    let alone = votes([0, 0, 2, 0, 1, 0, 0]);
    let off = alone.verdict(Quorum::Off, Quorum::Off, false);
    assert!(off.quorum && off.tracked && off.needed == 0);
    assert!(!alone.verdict(Quorum::Off, Quorum::Count(1), false).tracked);
}

const ABSENT: Voter = Voter {
    client: false,
    tiebreaker: true,
    repl: ReplState::Off,
    disk: DiskState::Unknown,
    outdated: false,
    member: true,
    quorate: false,
};

fn connected(disk: DiskState) -> Voter {
    Voter {
        repl: ReplState::Established,
        disk,
        ..ABSENT
    }
}

#[test]
fn classes_with_a_disk() {
    use DiskState::*;
    let count = |held, voter| count_with_disk(UpToDate, held, [voter]);
    let with = |f: fn(&mut Votes)| {
        let mut v = Votes {
            up_to_date: 1,
            ..Votes::default()
        };
        f(&mut v);
        v
    };
    let client = Voter {
        client: true,
        ..ABSENT
    };
    assert_eq!(count(true, ABSENT), with(|v| v.unknown = 1));
    assert_eq!(count(true, client), with(|v| v.missing_diskless = 1));
    assert_eq!(
        count(
            true,
            Voter {
                disk: Outdated,
                ..ABSENT
            }
        ),
        with(|v| v.outdated = 1)
    );
    assert_eq!(
        count(
            true,
            Voter {
                outdated: true,
                ..ABSENT
            }
        ),
        with(|v| v.outdated = 1)
    );
    let stranger = Voter {
        member: false,
        ..ABSENT
    };
    assert_eq!(count(true, stranger), with(|v| v.quorumless = 1));
    assert_eq!(count(false, stranger), with(|v| v.unknown = 1));
    assert_eq!(count(true, connected(UpToDate)), with(|v| v.up_to_date = 2));
    assert_eq!(
        count(true, connected(Inconsistent)),
        with(|v| v.present = 1)
    );
    assert_eq!(count(true, connected(Diskless)), with(|v| v.present = 1));
    let here = Voter {
        client: true,
        ..connected(Diskless)
    };
    assert_eq!(count(true, here), with(|v| v.diskless = 1));
    assert_eq!(
        count(
            true,
            Voter {
                tiebreaker: false,
                ..here
            }
        ),
        with(|_| {})
    );
    assert_eq!(count_with_disk(Negotiating, true, []).present, 1);
}

#[test]
fn classes_without_a_disk() {
    use DiskState::*;
    let count = |own, client, voter| count_diskless(own, client, true, [voter]);
    let v = count(Diskless, true, connected(Diskless));
    assert_eq!(
        (v.diskless, v.present),
        (2, 0),
        "whatever the configuration says"
    );
    assert_eq!(count(Diskless, false, ABSENT).unknown, 2);
    assert_eq!(count(Attaching, false, ABSENT).unknown, 1);
    assert_eq!(
        count(
            Diskless,
            true,
            Voter {
                outdated: true,
                ..ABSENT
            }
        )
        .unknown,
        1
    );
    assert_eq!(
        count(
            Diskless,
            true,
            Voter {
                disk: Outdated,
                ..ABSENT
            }
        )
        .outdated,
        1
    );
    let quorate = Voter {
        quorate: true,
        ..connected(UpToDate)
    };
    let v = count_diskless(Diskless, true, false, [quorate, ABSENT, ABSENT, ABSENT]);
    assert!(
        v.verdict(Quorum::Majority, Quorum::Off, false).quorum,
        "its word is enough"
    );
    let v = count_diskless(
        Diskless,
        true,
        false,
        [Voter {
            quorate: true,
            ..connected(Consistent)
        }],
    );
    assert_eq!(v.quorate_peers, 0);
}

#[test]
fn a_tie_breaker_keeps_what_was_held() {
    // Section 11.3: A loses B, then the client D, and goes on alone.
    use DiskState::*;
    let decide = |held, b, d| {
        count_with_disk(UpToDate, held, [b, d]).verdict(Quorum::Majority, Quorum::Off, held)
    };
    let d_here = Voter {
        client: true,
        ..connected(Diskless)
    };
    let d_away = Voter {
        client: true,
        ..ABSENT
    };
    let kept = decide(true, ABSENT, d_here);
    assert!(kept.quorum && kept.by_tiebreaker);
    let b_stranger = Voter {
        member: false,
        ..ABSENT
    };
    let alone = decide(true, b_stranger, d_away);
    assert!(alone.quorum && !alone.by_tiebreaker && alone.voters == 1);
    assert!(!decide(true, ABSENT, d_away).quorum, "both at once");
    assert!(!decide(false, ABSENT, d_here).quorum, "cannot be gained");
}

proptest! {
    /// A cluster that falls apart never has quorum on two sides: every node was in one partition that
    /// had quorum, and each knows nothing about the other side.
    #[test]
    fn never_two_partitions(
        sides in prop::collection::vec(any::<bool>(), 2..9),
        clients in prop::collection::vec(any::<bool>(), 0..4),
    ) {
        let quorum = |side: bool, me: usize| {
            let disks = sides.iter().enumerate().filter(|(n, _)| *n != me).map(|(_, &s)| {
                if s == side { connected(DiskState::UpToDate) } else { ABSENT }
            });
            let clients = clients.iter().map(|&s| Voter {
                client: true,
                ..if s == side { connected(DiskState::Diskless) } else { ABSENT }
            });
            let voters: Vec<_> = disks.chain(clients).collect();
            count_with_disk(DiskState::UpToDate, true, voters)
                .verdict(Quorum::Majority, Quorum::Off, true)
                .quorum
        };
        let on = |side: bool| {
            sides.iter().position(|&s| s == side).is_some_and(|me| quorum(side, me))
        };
        prop_assert!(!(on(true) && on(false)));
    }
}
