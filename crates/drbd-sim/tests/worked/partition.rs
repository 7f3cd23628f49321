//! State machine, sections 19.6, 19.7, 19.13 and 19.16: links break and come back.

use drbd_engine::command::Command;
use drbd_engine::options::{OnNoQuorum, Quorum};
use drbd_meta::flags::LocalFlags;
use drbd_proto::{ConnState, ReplState, Role};
use drbd_sim::clock::{MS, SEC};
use drbd_sim::config::Config;

use crate::common::*;
use crate::story::Story;

/// 19.6: both write while they do not see each other; B gives in.
#[test]
fn both_primary() {
    let mut s = Story::ready(Config::new(1, 2));
    s.c.lenient = true;
    primary(&mut s.c, A);
    write(&mut s.c, A, [3]);
    pass(&mut s.c, 1);
    s.lose(A, B);
    write(&mut s.c, A, [10]);
    wait(&mut s.c, "B may", |c| up_to_date(c, B));
    primary(&mut s.c, B);
    write(&mut s.c, B, [20, 21]);
    let apart = [
        "A UpToDate P u1 {B:u0 *:x} []",
        "B UpToDate P u2 {A:u0 *:u0} [u0]",
    ];
    s.sees(&apart);
    assert_eq!((out_of_sync(&s.c, A, B), out_of_sync(&s.c, B, A)), (1, 2));
    s.c.open_link(A, B);
    refuses_itself(&mut s);
    s.sees(&apart);
    secondary(&mut s.c, A);
    secondary(&mut s.c, B);
    stand_alone(&mut s);
    s.connect(A, B, false);
    s.connect(B, A, false);
    refuses_itself(&mut s);
    s.sees(&[
        "A UpToDate S u1 {B:u0 *:x} []",
        "B UpToDate S u2 {A:u0 *:u0} [u0]",
    ]);
    stand_alone(&mut s);
    s.slow_source(A, true);
    s.c.accept_content(A, 0);
    s.connect(B, A, true);
    s.connect(A, B, false);
    s.sees(&[
        "A UpToDate S u1 {B:u0 *:x} []",
        "B Inconsistent S u2 {A:u0 *:u0} [u0]",
    ]);
    s.slow_source(A, false);
    s.ends(&[
        "A UpToDate S u1 {B:0 *:x} [u0]",
        "B UpToDate S u1 {A:0 *:u0} [u0]",
    ]);
    for block in [10, 20, 21] {
        assert_eq!(content(&s.c, A, block), content(&s.c, B, block));
    }
}

/// The two meet, and one of them at least gives the connection up.
fn refuses_itself(s: &mut Story) {
    wait(&mut s.c, "split brain", |c| {
        c.connection(A, B) == ConnState::StandAlone || c.connection(B, A) == ConnState::StandAlone
    });
    pass(&mut s.c, 5);
    assert_ne!(s.c.connection(A, B), ConnState::Connected);
    assert_ne!(s.c.connection(B, A), ConnState::Connected);
}

fn stand_alone(s: &mut Story) {
    for n in [A, B] {
        if s.c.connection(n, 1 - n) != ConnState::StandAlone {
            disconnect(&mut s.c, n, 1 - n);
        }
        assert_eq!(s.c.connection(n, 1 - n), ConnState::StandAlone);
    }
}

fn quorum(on_no_quorum: OnNoQuorum) -> Config {
    let mut config = Config::new(1, 3);
    config.resource.quorum = Quorum::Majority;
    config.resource.on_no_quorum = on_no_quorum;
    config
}

/// 19.7, 1 and 2: A is Primary and alone, with a write in flight.
fn isolated(on_no_quorum: OnNoQuorum, open: bool) -> (Story, u64) {
    let mut s = Story::ready(quorum(on_no_quorum));
    primary(&mut s.c, A);
    write(&mut s.c, A, [3]);
    if open {
        s.c.open(A, 0, true);
    }
    pass(&mut s.c, 1);
    for peer in [B, C] {
        s.c.stall(A, peer, SEC);
    }
    let held = s.c.write(A, 0, 50);
    s.c.run_for(100 * MS);
    s.c.close_link(A, B);
    s.lose(A, C);
    s.sees(&[
        "A UpToDate P u0 {B:0 C:0 *:x} []",
        "B UpToDate S u0 {A:0 C:0 *:0} []",
        "C UpToDate S u0 {A:0 B:0 *:0} []",
    ]);
    let flags = s.c.superblock(A, 0).unwrap().flags;
    assert!(flags.contains(LocalFlags::PRIMARY_LOST_QUORUM));
    assert!(!s.c.status(A).unwrap().devices[0].1.quorum);
    assert!(s.c.status(B).unwrap().devices[0].1.quorum);
    (s, held)
}

/// 19.7, 3a: the links return, nobody was promoted. The first one decides.
#[test]
fn quorum_returns() {
    let (mut s, held) = isolated(OnNoQuorum::SuspendIo, false);
    assert!(s.c.status(A).unwrap().info.susp_quorum);
    pass(&mut s.c, 5);
    assert_eq!(s.c.outcome(held), None);
    s.regain(A, B);
    s.sees(&[
        "A UpToDate P u1 {B:0 C:u0 *:x} []",
        "B UpToDate S u1 {A:0 C:u0 *:u0} [u0]",
        "C Outdated S u0 {A:0 B:0 *:0} []",
    ]);
    assert_eq!(s.c.finish(held).unwrap(), Ok(()));
    assert!(!s.c.status(A).unwrap().info.susp_quorum);
    s.regain(A, C);
    s.ends(&[
        "A UpToDate P u1 {B:0 C:0 *:x} [u0]",
        "B UpToDate S u1 {A:0 C:0 *:u0} [u0]",
        "C UpToDate S u1 {A:0 B:0 *:u0} []",
    ]);
    assert_eq!(content(&s.c, C, 50), content(&s.c, A, 50));
}

/// 19.7, 3b: B was promoted meanwhile and wrote. A learns that its data are old, but stays Primary until told.
#[test]
fn quorum_moved_on() {
    let (mut s, held) = isolated(OnNoQuorum::SuspendIo, true);
    primary(&mut s.c, B);
    write(&mut s.c, B, [200, 201]);
    let moved = [
        "B UpToDate P u1 {A:u0 C:0 *:u0} [u0]",
        "C UpToDate S u1 {A:u0 B:0 *:u0} [u0]",
    ];
    s.sees(&moved);
    s.c.open_link(A, B);
    s.c.open_link(A, C);
    s.sees(&["A Outdated P u0 {B:0 C:0 *:x} []", moved[0], moved[1]]);
    pass(&mut s.c, 5);
    assert_ne!(s.c.connection(A, B), ConnState::Connected);
    assert_eq!(s.c.role(A), Role::Primary);
    s.c.forced_down = true;
    ok(&mut s.c, A, Command::Secondary { force: true });
    assert!(s.c.finish(held).unwrap().is_err());
    for (n, peer) in [(A, B), (B, A), (A, C), (C, A)] {
        if s.c.connection(n, peer) == ConnState::StandAlone {
            s.connect(n, peer, false);
        }
    }
    s.ends(&[
        "A UpToDate S u1 {B:0 C:0 *:x} []",
        "B UpToDate P u1 {A:0 C:0 *:u0} [u0]",
        "C UpToDate S u1 {A:0 B:0 *:u0} [u0]",
    ]);
    assert_eq!(content(&s.c, A, 200), content(&s.c, B, 200));
}

/// 19.7, 4: requests fail instead. A returns as Primary and nothing is transferred; later B moves on.
#[test]
fn quorum_lost_with_errors() {
    let (mut s, held) = isolated(OnNoQuorum::IoError, false);
    assert!(s.c.finish(held).unwrap().is_err());
    let io = s.c.write(A, 0, 70);
    assert!(s.c.finish(io).unwrap().is_err());
    s.regain(A, B);
    s.regain(A, C);
    // Kernel nodes drop the bits and leave B and C without the failed write; here they are targets of them.
    s.ends(&[
        "A UpToDate P u0 {B:0 C:0 *:x} []",
        "B UpToDate S u0 {A:0 C:0 *:u0} []",
        "C UpToDate S u0 {A:0 B:0 *:u0} []",
    ]);
    assert_eq!(content(&s.c, A, 50), content(&s.c, B, 50));
    assert_eq!(content(&s.c, A, 50), content(&s.c, C, 50));
    write(&mut s.c, A, [50, 70, 80]);
    s.c.close_link(A, B);
    s.lose(A, C);
    secondary(&mut s.c, A);
    primary(&mut s.c, B);
    write(&mut s.c, B, [200]);
    s.sees(&[
        "B UpToDate P u1 {A:u0 C:0 *:u0} []",
        "C UpToDate S u1 {A:u0 B:0 *:u0} [u0]",
    ]);
    s.regain(A, B);
    s.regain(A, C);
    s.ends(&[
        "A UpToDate S u1 {B:0 C:0 *:x} []",
        "B UpToDate P u1 {A:0 C:0 *:u0} [u0]",
        "C UpToDate S u1 {A:0 B:0 *:u0} [u0]",
    ]);
}

/// 19.13: B is done, but A does not hear of it.
#[test]
fn end_of_the_resync_is_lost() {
    for writes_meanwhile in [false, true] {
        let mut s = Story::ready(Config::new(1, 2));
        primary(&mut s.c, A);
        write(&mut s.c, A, [3]);
        disconnect(&mut s.c, B, A);
        write(&mut s.c, A, 160..180);
        s.sees(&[
            "A UpToDate P u1 {B:u0 *:x} []",
            "B Outdated S u0 {A:0 *:0} []",
        ]);
        s.connect(B, A, false);
        s.repl(B, A, ReplState::SyncTarget);
        wait(&mut s.c, "B is done, and A has no bits", |c| {
            up_to_date(c, B) && out_of_sync(c, A, B) == 0
        });
        s.repl(A, B, ReplState::SyncSource);
        // What it has sent about that stays under way.
        s.c.stall(B, A, 60 * SEC);
        s.c.close_link(A, B);
        wait(&mut s.c, "both notice", |c| {
            c.connection(A, B) != ConnState::Connected && c.connection(B, A) != ConnState::Connected
        });
        s.sees(&[
            "A UpToDate P u1 {B:u0 *:x} []",
            "B UpToDate S u1 {A:0 *:u0} []",
        ]);
        if writes_meanwhile {
            write(&mut s.c, A, [170, 300]);
            // A's slot still counts since u0: no new generation for a peer that has not the last one.
            s.sees(&["A UpToDate P u1 {B:u0 *:x} []"]);
        }
        s.c.heal();
        s.regain(A, B);
        // The end of a second resync brings B the bitmap UUID of A.
        s.ends(&[
            "A UpToDate P u1 {B:0 *:x} [u0]",
            if writes_meanwhile {
                "B UpToDate S u1 {A:0 *:u0} [u0]"
            } else {
                "B UpToDate S u1 {A:0 *:u0} []"
            },
        ]);
        assert_eq!(content(&s.c, A, 300), content(&s.c, B, 300));
        assert_eq!(out_of_sync(&s.c, A, B), 0);
    }
}

/// 19.16: two connect transactions at the same time. Both come about, and nobody waits for a timeout.
#[test]
fn two_concurrent_connects() {
    for round in 0..20 {
        let mut s = Story::ready(Config {
            seed: round,
            ..Config::new(round, 3)
        });
        for (a, b) in [(A, B), (B, C)] {
            disconnect(&mut s.c, a, b);
        }
        let begin = s.c.now();
        for (n, peer) in [(A, B), (B, A), (B, C), (C, B)] {
            if s.c.connection(n, peer) == ConnState::StandAlone {
                let command = s.c.connect_command(peer);
                s.c.command(n, command);
            }
        }
        wait(&mut s.c, "all connected", all_connected);
        assert!(s.c.now() - begin < 10 * SEC, "no timeout of 30 s");
        s.ends(&[
            "A UpToDate S u0 {B:0 C:0 *:x} []",
            "B UpToDate S u0 {A:0 C:0 *:0} []",
            "C UpToDate S u0 {A:0 B:0 *:0} []",
        ]);
    }
}
