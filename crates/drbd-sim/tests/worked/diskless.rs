//! State machine, sections 19.8 and 19.10: a Primary without a disk.

use drbd_engine::command::Command;
use drbd_engine::options::{OnNoData, OnNoQuorum};
use drbd_meta::flags::LocalFlags;
use drbd_proto::{ConnState, ReplState, VolumeNr};
use drbd_sim::clock::{MS, SEC};
use drbd_sim::config::Config;

use crate::common::*;
use crate::story::Story;

fn detach(force: bool) -> Command {
    Command::Detach {
        volume: VolumeNr::ZERO,
        force,
        diskless: false,
    }
}

/// 19.8: the Primary's disk is gone, and comes back; then it is replaced by an empty one.
#[test]
fn disk_of_the_primary_is_lost() {
    let mut s = Story::ready(Config::new(1, 3));
    primary(&mut s.c, A);
    write(&mut s.c, A, [3]);
    ok(&mut s.c, A, detach(true));
    write(&mut s.c, A, [30]);
    s.sees(&[
        "A Diskless P u0 {B:0 C:0 *:x} []",
        "B UpToDate S u1 {A:u0 C:0 *:u0} [u0]",
        "C UpToDate S u1 {A:u0 B:0 *:u0} [u0]",
    ]);
    let flags = s.c.superblock(A, 0).unwrap().flags;
    assert!(!flags.contains(LocalFlags::WAS_UP_TO_DATE));
    assert!(flags.contains(LocalFlags::CRASHED_PRIMARY));
    write(&mut s.c, A, [60]);
    for n in [B, C] {
        s.slow_source(n, true);
    }
    let attach = s.c.attach_command(A, 0);
    let attaching = s.c.command(A, attach);
    s.sees(&[
        "A Inconsistent P u0 {B:0 C:0 *:x} []",
        "B UpToDate S u1 {A:u0 C:0 *:u0} [u0]",
        "C UpToDate S u1 {A:u0 B:0 *:u0} [u0]",
    ]);
    for n in [B, C] {
        s.slow_source(n, false);
    }
    s.ends(&[
        "A UpToDate P u1 {B:0 C:0 *:x} []",
        "B UpToDate S u1 {A:0 C:0 *:u0} [u0]",
        "C UpToDate S u1 {A:0 B:0 *:u0} [u0]",
    ]);
    assert!(s.c.take_reply(A, attaching).unwrap().is_ok());
    assert_eq!(content(&s.c, A, 60), content(&s.c, B, 60));
    // In order, and then another disk.
    ok(&mut s.c, A, detach(false));
    write(&mut s.c, A, [90]);
    s.sees(&[
        "A Diskless P u1 {B:0 C:0 *:x} []",
        "B UpToDate S u2 {A:u1 C:0 *:u0} [u0]",
        "C UpToDate S u2 {A:u1 B:0 *:u0} [u0]",
    ]);
    s.c.replace_disk(A, 0, 55).unwrap();
    let attach = s.c.attach_command(A, 0);
    ok(&mut s.c, A, attach);
    s.ends(&[
        "A UpToDate P u2 {B:0 C:0 *:u1} [u0]",
        "B UpToDate S u2 {A:0 C:0 *:u0} [u1 u0]",
        "C UpToDate S u2 {A:0 B:0 *:u0} [u1 u0]",
    ]);
    assert_eq!(content(&s.c, A, 4000), content(&s.c, B, 4000));
}

/// Two storage nodes; node D of the chapter is C here.
fn client() -> Config {
    let mut config = Config::new(1, 3);
    config.diskless[C] = true;
    config
}

/// 19.10: the generations of a diskless Primary.
#[test]
fn diskless_primary() {
    let mut s = Story::ready(client());
    primary(&mut s.c, C);
    s.sees(&[
        "A UpToDate S u0 {B:0 C:0 *:x} []",
        "B UpToDate S u0 {A:0 C:0 *:0} []",
    ]);
    write(&mut s.c, C, [3]);
    s.sees(&[
        "A UpToDate S u1 {B:0 C:0 *:x} [u0]",
        "B UpToDate S u1 {A:0 C:0 *:u0} [u0]",
    ]);
    secondary(&mut s.c, C);
    primary(&mut s.c, C);
    write(&mut s.c, C, [6]);
    s.sees(&[
        "A UpToDate S u2 {B:0 C:0 *:x} [u1 u0]",
        "B UpToDate S u2 {A:0 C:0 *:u0} [u1 u0]",
    ]);
    for peer in [A, C] {
        disconnect(&mut s.c, B, peer);
    }
    s.sees(&["B Outdated S u2 {A:0 C:0 *:u0} [u1 u0]"]);
    write(&mut s.c, C, [20]);
    s.sees(&["A UpToDate S u3 {B:u2 C:0 *:x} [u1 u0]"]);
    secondary(&mut s.c, C);
    primary(&mut s.c, C);
    write(&mut s.c, C, [40]);
    pass(&mut s.c, 1);
    s.sees(&["A UpToDate S u3 {B:u2 C:0 *:x} [u1 u0]"]);
    secondary(&mut s.c, C);
    s.down(C);
    s.c.start(C);
    wait(&mut s.c, "the client is back", |c| {
        c.connection(C, A) == ConnState::Connected
    });
    primary(&mut s.c, C);
    write(&mut s.c, C, [50]);
    s.sees(&["A UpToDate S u4 {B:u2 C:0 *:x} [u3 u1 u0]"]);
    // B meets the client first.
    s.connect(B, C, false);
    wait(&mut s.c, "B meets the client", |c| {
        c.connection(B, C) == ConnState::Connected
    });
    pass(&mut s.c, 2);
    s.sees(&[
        "A UpToDate S u4 {B:u2 C:0 *:x} [u3 u1 u0]",
        "B Outdated S u2 {A:0 C:0 *:u0} [u1 u0]",
    ]);
    s.connect(B, A, false);
    s.ends(&[
        "A UpToDate S u4 {B:0 C:0 *:x} [u2 u3 u1 u0]",
        "B UpToDate S u4 {A:0 C:0 *:u0} [u3 u1 u0]",
    ]);
    write(&mut s.c, C, [60]);
    for block in [20, 40, 50, 60] {
        assert_eq!(content(&s.c, A, block), content(&s.c, B, block));
    }
}

/// 19.10, the failing variant: both storage nodes are lost while a write is in flight.
fn loses_all(on_no_data: OnNoData) -> (Story, u64) {
    let mut config = client();
    config.resource.on_no_data = on_no_data;
    config.resource.on_no_quorum = OnNoQuorum::SuspendIo;
    let mut s = Story::ready(config);
    primary(&mut s.c, C);
    write(&mut s.c, C, [3]);
    s.sees(&[
        "A UpToDate S u1 {B:0 C:0 *:x} [u0]",
        "B UpToDate S u1 {A:0 C:0 *:u0} [u0]",
    ]);
    pass(&mut s.c, 1);
    for peer in [A, B] {
        s.c.stall(C, peer, SEC);
    }
    let io = s.c.write(C, 0, 70);
    s.c.run_for(100 * MS);
    s.c.close_link(C, A);
    s.lose(C, B);
    pass(&mut s.c, 3);
    s.sees(&[
        "A UpToDate S u1 {B:0 C:0 *:x} [u0]",
        "B UpToDate S u1 {A:0 C:0 *:u0} [u0]",
    ]);
    (s, io)
}

#[test]
fn diskless_primary_loses_all_with_errors() {
    let (mut s, io) = loses_all(OnNoData::IoError);
    assert!(s.c.finish(io).unwrap().is_err());
    s.regain(C, A);
    s.regain(C, B);
    s.ends(&[
        "A UpToDate S u1 {B:0 C:0 *:x} [u0]",
        "B UpToDate S u1 {A:0 C:0 *:u0} [u0]",
    ]);
    write(&mut s.c, C, [90]);
    s.ends(&[
        "A UpToDate S u2 {B:0 C:0 *:x} [u1 u0]",
        "B UpToDate S u2 {A:0 C:0 *:u0} [u1 u0]",
    ]);
}

#[test]
fn diskless_primary_loses_all_and_waits() {
    let (mut s, io) = loses_all(OnNoData::SuspendIo);
    assert_eq!(s.c.outcome(io), None);
    assert!(s.c.status(C).unwrap().info.susp_nod);
    s.c.open_link(C, A);
    s.c.open_link(C, B);
    assert_eq!(s.c.finish(io).unwrap(), Ok(()));
    // The node that is there when I/O resumes begins the generation; the other one may be its target, with a history
    // of its own.
    s.ends(&[
        "A UpToDate S u2 {B:0 C:0 *:x} [u1 u0]",
        "B UpToDate S u2 {A:0 C:0 *:u0} []",
    ]);
    write(&mut s.c, C, [90]);
    s.ends(&["A UpToDate S u2 {B:0 C:0 *:x} [u1 u0]"]);
    assert_eq!(s.c.peer_device(A, B, 0).0, ReplState::Established);
    assert_eq!(content(&s.c, A, 70), content(&s.c, B, 70));
}
