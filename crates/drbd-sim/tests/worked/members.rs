//! State machine, sections 19.11, 19.12 and 19.15: nodes that join, and nodes in the middle.

use drbd_engine::command::{Command, RetCode};
use drbd_proto::{ConnState, ReplState, VolumeNr};
use drbd_sim::config::Config;

use crate::common::*;
use crate::story::Story;

/// 19.11: C is added to A and B.
#[test]
fn adding_a_node() {
    let mut s = Story::equal(Config::new(1, 3));
    s.start_with(A, &[B]);
    s.start_with(B, &[A]);
    wait(&mut s.c, "A and B", |c| {
        c.connection(A, B) == ConnState::Connected && c.connection(B, A) == ConnState::Connected
    });
    let skip = Command::NewCurrentUuid {
        volume: VolumeNr::ZERO,
        clear_bitmap: true,
        force_resync: false,
    };
    ok(&mut s.c, A, skip);
    primary(&mut s.c, A);
    write(&mut s.c, A, [3, 5]);
    s.sees(&[
        "A UpToDate P u8 {B:0 C:u7 *:u7} []",
        "B UpToDate S u8 {A:0 C:0 *:0} []",
    ]);
    s.new_peer(A, C);
    s.new_peer(B, C);
    write(&mut s.c, A, [300]);
    pass(&mut s.c, 1);
    s.sees(&[
        "A UpToDate P u8 {B:0 C:u7 *:u7} []",
        "B UpToDate S u8 {A:0 C:0 *:0} []",
    ]);
    secondary(&mut s.c, A);
    primary(&mut s.c, A);
    write(&mut s.c, A, [310]);
    s.sees(&[
        "A UpToDate P u9 {B:0 C:u8 *:u7} [u7]",
        "B UpToDate S u9 {A:0 C:u8 *:u8} [u8]",
    ]);
    s.c.close_link(B, C);
    s.slow_source(A, true);
    s.c.start(C);
    s.sees(&[
        "A UpToDate P u9 {B:0 C:u8 *:u7} [u7]",
        "B UpToDate S u9 {A:0 C:u8 *:u8} [u8]",
        "C Inconsistent S u8 {A:0 B:u8 *:u8} []",
    ]);
    s.regain(B, C);
    s.repl(C, B, ReplState::PausedSyncT);
    s.repl(B, C, ReplState::PausedSyncS);
    s.slow_source(A, false);
    s.ends(&[
        "A UpToDate P u9 {B:0 C:0 *:u7} [u8 u7]",
        "B UpToDate S u9 {A:0 C:0 *:u8} [u8]",
        "C UpToDate S u9 {A:0 B:0 *:u8} [u7]",
    ]);
    assert_eq!(content(&s.c, C, 300), content(&s.c, A, 300));
}

/// 19.12: C gets from B what B has; then B gets the rest from A, and C from B.
#[test]
fn stale_data_through_a_middle_node() {
    let mut s = Story::ready(Config::new(1, 3));
    primary(&mut s.c, A);
    write(&mut s.c, A, [3]);
    s.down(C);
    write(&mut s.c, A, [10]);
    s.sees(&[
        "A UpToDate P u1 {B:0 C:u0 *:x} []",
        "B UpToDate S u1 {A:0 C:u0 *:u0} [u0]",
        "C off u0 {A:0 B:0 *:0} []",
    ]);
    s.down(B);
    write(&mut s.c, A, [20]);
    s.sees(&[
        "A UpToDate P u2 {B:u1 C:u0 *:x} []",
        "B off u1 {A:0 C:u0 *:u0} [u0]",
    ]);
    secondary(&mut s.c, A);
    for peer in [B, C] {
        s.c.close_link(A, peer);
    }
    s.c.start(B);
    s.c.start(C);
    s.sees(&[
        "A UpToDate S u2 {B:u1 C:u0 *:x} []",
        "B Outdated S u1 {A:0 C:0 *:u0} [u0]",
        "C Outdated S u1 {A:0 B:0 *:u0} []",
    ]);
    assert_eq!(content(&s.c, C, 10), content(&s.c, A, 10));
    s.slow_source(A, true);
    s.regain(A, B);
    s.sees(&[
        "A UpToDate S u2 {B:u1 C:u1 *:x} [u0]",
        "B Inconsistent S u1 {A:0 C:u1 *:u0} [u0]",
    ]);
    s.slow_source(B, true);
    s.slow_source(A, false);
    s.sees(&[
        "A UpToDate S u2 {B:0 C:u1 *:x} [u0]",
        "B UpToDate S u2 {A:0 C:u1 *:u0} [u0]",
        "C Inconsistent S u1 {A:u1 B:0 *:u0} []",
    ]);
    s.slow_source(B, false);
    s.sees(&[
        "A UpToDate S u2 {B:0 C:0 *:x} [u1 u0]",
        "B UpToDate S u2 {A:0 C:0 *:u0} [u1 u0]",
        "C UpToDate S u2 {A:0 B:0 *:u0} [u0]",
    ]);
    s.regain(A, C);
    s.ends(&[
        "A UpToDate S u2 {B:0 C:0 *:x} [u1 u0]",
        "B UpToDate S u2 {A:0 C:0 *:u0} [u1 u0]",
        "C UpToDate S u2 {A:0 B:0 *:u0} [u0]",
    ]);
}

/// 19.15: C never meets the Primary.
#[test]
fn chain() {
    let mut s = Story::equal(Config::new(1, 3));
    s.c.close_link(A, C);
    for n in [A, B, C] {
        s.c.start(n);
    }
    for (a, b) in [(A, B), (B, C)] {
        s.regain(a, b);
    }
    let skip = Command::NewCurrentUuid {
        volume: VolumeNr::ZERO,
        clear_bitmap: true,
        force_resync: false,
    };
    ok(&mut s.c, B, skip);
    s.sees(&[
        "A UpToDate S u0 {B:0 C:0 *:0} []",
        "B UpToDate S u0 {A:0 C:0 *:x} []",
        "C UpToDate S u0 {A:0 B:0 *:0} []",
    ]);
    primary(&mut s.c, A);
    s.sees(&[
        "A UpToDate P u0 {B:0 C:0 *:0} []",
        "B UpToDate S u0 {A:0 C:0 *:x} []",
        "C Outdated S u0 {A:0 B:0 *:0} []",
    ]);
    write(&mut s.c, A, [10]);
    s.sees(&[
        "A UpToDate P u1 {B:0 C:u0 *:u0} [u0]",
        "B UpToDate S u1 {A:0 C:u0 *:x} [u0]",
        "C Outdated S u0 {A:0 B:0 *:0} []",
    ]);
    let promote = Command::Primary { force: false };
    refused(&mut s.c, C, promote, RetCode::CW_FAILED_BY_PEER);
    s.slow_source(B, true);
    secondary(&mut s.c, A);
    s.sees(&["C Inconsistent S u0 {A:u0 B:0 *:u0} []"]);
    s.slow_source(B, false);
    // Kernel nodes keep C's {A:u0} until B speaks of its generations again; here it goes with the end of the resync.
    s.sees(&[
        "A UpToDate S u1 {B:0 C:0 *:u0} [u0]",
        "B UpToDate S u1 {A:0 C:0 *:x} [u0]",
        "C UpToDate S u1 {A:0 B:0 *:u0} []",
    ]);
    assert_eq!(content(&s.c, C, 10), content(&s.c, A, 10));
    // Without a write in between C is Outdated, and UpToDate again.
    primary(&mut s.c, A);
    s.sees(&["C Outdated S u1 {A:0 B:0 *:u0} []"]);
    secondary(&mut s.c, A);
    s.sees(&["C UpToDate S u1 {A:0 B:0 *:u0} []"]);
    // The Primary is lost.
    primary(&mut s.c, A);
    write(&mut s.c, A, [20]);
    pass(&mut s.c, 1);
    s.lose(A, B);
    s.sees(&[
        "A UpToDate P u2 {B:0 C:u1 *:u0} [u0]",
        "B UpToDate S u2 {A:0 C:0 *:x} [u1 u0]",
        "C UpToDate S u2 {A:0 B:0 *:u0} [u0]",
    ]);
    assert_eq!(content(&s.c, C, 20), content(&s.c, A, 20));
}
