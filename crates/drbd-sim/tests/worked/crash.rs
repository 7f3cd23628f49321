//! State machine, sections 19.4, 19.5 and 19.9: a Primary crashes.

use drbd_engine::options::WireProtocol;
use drbd_proto::{DiskState, ReplState};
use drbd_sim::clock::{MS, SEC};
use drbd_sim::config::Config;

use crate::common::*;
use crate::story::Story;

/// 19.4: another node takes over; A gets what it missed, and meets C meanwhile.
#[test]
fn takeover() {
    let mut s = Story::ready(Config::new(1, 3));
    primary(&mut s.c, A);
    write(&mut s.c, A, [3]);
    s.dies(A);
    s.sees(&[
        "A off u0 {B:0 C:0 *:x} []",
        "B UpToDate S u0 {A:0 C:0 *:0} []",
        "C UpToDate S u0 {A:0 B:0 *:0} []",
    ]);
    primary(&mut s.c, B);
    write(&mut s.c, B, [100, 101]);
    s.sees(&[
        "B UpToDate P u1 {A:u0 C:0 *:u0} [u0]",
        "C UpToDate S u1 {A:u0 B:0 *:u0} [u0]",
    ]);
    s.slow_source(B, true);
    s.back_with(A, &[B]);
    s.sees(&["A Inconsistent S u0 {B:0 C:u0 *:x} []"]);
    s.regain(A, C);
    s.repl(A, C, ReplState::PausedSyncT);
    s.repl(C, A, ReplState::PausedSyncS);
    assert_eq!(s.c.peer_device(A, B, 0).0, ReplState::SyncTarget);
    s.sees(&["A Inconsistent S u0 {B:0 C:u0 *:x} []"]);
    s.slow_source(B, false);
    s.ends(&[
        "A UpToDate S u1 {B:0 C:0 *:x} []",
        "B UpToDate P u1 {A:0 C:0 *:u0} [u0]",
        "C UpToDate S u1 {A:0 B:0 *:u0} [u0]",
    ]);
    assert_eq!(content(&s.c, A, 101), content(&s.c, B, 101));
}

/// 19.5: nobody took over. What reached only A is rolled back.
#[test]
fn no_takeover() {
    let mut s = Story::ready(Config::new(1, 3));
    primary(&mut s.c, A);
    write(&mut s.c, A, [3]);
    let before = content(&s.c, B, 700);
    for peer in [B, C] {
        s.c.stall(A, peer, 60 * SEC);
    }
    s.c.write(A, 0, 700);
    s.c.run_for(50 * MS);
    assert_ne!(content(&s.c, A, 700), before, "only A has it");
    s.dies(A);
    s.c.heal();
    s.slow_source(B, true);
    s.back_with(A, &[B]);
    s.sees(&[
        "A Inconsistent S u0 {B:0 C:u0 *:x} []",
        "B UpToDate S u0 {A:0 C:0 *:0} []",
        "C UpToDate S u0 {A:0 B:0 *:0} []",
    ]);
    s.slow_source(B, false);
    s.sees(&["A UpToDate S u0 {B:0 C:0 *:x} []"]);
    assert_eq!(content(&s.c, A, 700), before);
    s.regain(A, C);
    s.ends(&[
        "A UpToDate S u0 {B:0 C:0 *:x} []",
        "B UpToDate S u0 {A:0 C:0 *:0} []",
        "C UpToDate S u0 {A:0 B:0 *:0} []",
    ]);
}

/// 19.5 with protocol A: what had completed must not be lost, so the crashed node is the source.
#[test]
fn no_takeover_with_protocol_a() {
    let mut config = Config::new(1, 2);
    config.net.protocol = WireProtocol::A;
    let mut s = Story::ready(config);
    primary(&mut s.c, A);
    write(&mut s.c, A, [3]);
    pass(&mut s.c, 1);
    s.c.stall(A, B, SEC);
    write(&mut s.c, A, [700]);
    assert_ne!(content(&s.c, A, 700), content(&s.c, B, 700));
    s.c.crash(A, false);
    pass(&mut s.c, 25);
    s.c.start(A);
    s.repl(A, B, ReplState::SyncSource);
    assert_eq!(s.c.disk_state(B, 0), DiskState::Inconsistent);
    s.ends(&[
        "A UpToDate S u0 {B:0 *:x} []",
        "B UpToDate S u0 {A:0 *:u0} []",
    ]);
    assert_eq!(content(&s.c, A, 700), content(&s.c, B, 700));
}

/// 19.9: the last write reached only one Secondary, which is then the source of the other one; promotion waits.
#[test]
fn reconciliation() {
    for (ahead, behind) in [(B, C), (C, B)] {
        let mut s = Story::ready(Config::new(1, 3));
        primary(&mut s.c, A);
        write(&mut s.c, A, [3]);
        pass(&mut s.c, 1);
        s.c.stall(A, behind, 60 * SEC);
        for block in 40..56 {
            s.c.write(A, 0, block);
        }
        s.c.run_for(300 * MS);
        assert_ne!(content(&s.c, B, 41), content(&s.c, C, 41));
        s.c.nodes[ahead].slow_disk = Some(5 * SEC);
        s.dies(A);
        let told = match ahead {
            B => [
                "B Consistent S u0 {A:0 C:0 *:0} []",
                "C Inconsistent S u0 {A:u0 B:0 *:u0} []",
            ],
            _ => [
                "B Inconsistent S u0 {A:u0 C:0 *:u0} []",
                "C Consistent S u0 {A:0 B:0 *:0} []",
            ],
        };
        s.sees(&told);
        s.repl(ahead, behind, ReplState::SyncSource);
        let promotion = s.c.command(
            ahead,
            drbd_engine::command::Command::Primary { force: false },
        );
        s.c.run_for(SEC);
        assert!(s.c.take_reply(ahead, promotion).is_none(), "it waits");
        s.c.nodes[ahead].slow_disk = None;
        wait(&mut s.c, "promotion", |c| {
            !c.nodes[ahead].commands_waiting(promotion)
        });
        secondary(&mut s.c, ahead);
        let told = match ahead {
            B => [
                "B UpToDate S u0 {A:0 C:0 *:0} []",
                "C UpToDate S u0 {A:0 B:0 *:u0} []",
            ],
            _ => [
                "B UpToDate S u0 {A:0 C:0 *:u0} []",
                "C UpToDate S u0 {A:0 B:0 *:0} []",
            ],
        };
        s.ends(&told);
        assert_eq!(content(&s.c, B, 41), content(&s.c, C, 41));
        s.c.heal();
        s.c.start(A);
        s.ends(&["A UpToDate S u0 {B:0 C:0 *:x} []", told[0], told[1]]);
    }
}

/// 19.9, the other story: A loses C, writes, and dies later. That is no reconciliation; C follows B.
#[test]
fn crash_after_the_loss_of_a_link() {
    let mut s = Story::ready(Config::new(1, 3));
    primary(&mut s.c, A);
    write(&mut s.c, A, [3]);
    s.lose(A, C);
    write(&mut s.c, A, 40..60);
    s.sees(&[
        "A UpToDate P u1 {B:0 C:u0 *:x} []",
        "B UpToDate S u1 {A:0 C:u0 *:u0} [u0]",
        "C Outdated S u0 {A:0 B:0 *:0} []",
    ]);
    s.slow_source(B, true);
    s.dies(A);
    s.sees(&[
        "B UpToDate S u1 {A:0 C:u0 *:u0} [u0]",
        "C Inconsistent S u0 {A:u0 B:0 *:u0} []",
    ]);
    s.slow_source(B, false);
    s.ends(&[
        "B UpToDate S u1 {A:0 C:0 *:u0} [u0]",
        "C UpToDate S u1 {A:0 B:0 *:u0} []",
    ]);
    assert_eq!(content(&s.c, B, 41), content(&s.c, C, 41));
}
