//! State machine, sections 19.1 to 19.3 and 19.14: how data begin.

use drbd_engine::command::{Command, RetCode};
use drbd_meta::flags::{LocalFlags, PeerFlags};
use drbd_proto::{DiskState, ReplState, VolumeNr};
use drbd_sim::cluster::node_id;
use drbd_sim::config::Config;

use crate::common::*;
use crate::story::Story;

/// 19.1: fresh disks have no data, with and without a spare bitmap slot.
#[test]
fn connecting_fresh_disks() {
    for spare_slots in [0, 1] {
        let mut s = Story::fresh(Config {
            spare_slots,
            ..Config::new(1, 3)
        });
        s.sees(&[
            "A Inconsistent S J {B:0 C:0 *:0} []",
            "B Inconsistent S J {A:0 C:0 *:0} []",
            "C Inconsistent S J {A:0 B:0 *:0} []",
        ]);
        for n in 0..3 {
            let superblock = s.c.superblock(n, 0).unwrap();
            assert_eq!(superblock.effective_size, 0, "not fixed yet");
            assert_eq!(superblock.flags, LocalFlags::HAVE_QUORUM);
            for peer in (0..3).filter(|p| *p != n) {
                let (repl, disk, _) = s.c.peer_device(n, peer, 0);
                assert_eq!(
                    (repl, disk),
                    (ReplState::Established, DiskState::Inconsistent)
                );
                let flags = superblock.peers[peer].flags;
                let seen = PeerFlags::CONNECTED | PeerFlags::OUTDATED | PeerFlags::DEVICE_SEEN;
                assert!(flags.contains(seen), "{flags:?}");
            }
            let command = Command::Primary { force: false };
            refused(&mut s.c, n, command, RetCode::NO_UP_TO_DATE_DISK);
        }
    }
}

/// 19.2: a forced promotion makes A the source of all; B is done first, while C is paused.
#[test]
fn initial_sync() {
    let mut s = Story::fresh(Config::new(1, 3));
    force_primary(&mut s.c, A);
    s.repl(A, C, ReplState::SyncSource);
    let pause = Command::PauseSync {
        peer: node_id(A),
        volume: VolumeNr::ZERO,
    };
    ok(&mut s.c, C, pause);
    s.sees(&[
        "A UpToDate P u2 {B:u1 C:u1 *:u1} []",
        "B Inconsistent S u1 {A:0 C:u1 *:u1} []",
        "C Inconsistent S u1 {A:0 B:u1 *:u1} []",
    ]);
    s.sees(&[
        "A UpToDate P u2 {B:0 C:u1 *:u1} [u1]",
        "B UpToDate S u2 {A:0 C:u1 *:u1} []",
        "C Inconsistent S u1 {A:0 B:u1 *:u1} []",
    ]);
    let resume = Command::ResumeSync {
        peer: node_id(A),
        volume: VolumeNr::ZERO,
    };
    ok(&mut s.c, C, resume);
    s.ends(&[
        "A UpToDate P u2 {B:0 C:0 *:u1} [u1]",
        "B UpToDate S u2 {A:0 C:0 *:u1} [u1]",
        "C UpToDate S u2 {A:0 B:0 *:u1} []",
    ]);
}

/// 19.3: no initial sync. B and C are in a day-0 state then, A is not.
#[test]
fn skipping_the_initial_sync() {
    let mut s = Story::ready(Config::new(1, 3));
    s.ends(&[
        "A UpToDate S u0 {B:0 C:0 *:x} []",
        "B UpToDate S u0 {A:0 C:0 *:0} []",
        "C UpToDate S u0 {A:0 B:0 *:0} []",
    ]);
    primary(&mut s.c, A);
    write(&mut s.c, A, [3]);
    secondary(&mut s.c, A);
    s.ends(&[
        "A UpToDate S u0 {B:0 C:0 *:x} []",
        "B UpToDate S u0 {A:0 C:0 *:0} []",
        "C UpToDate S u0 {A:0 B:0 *:0} []",
    ]);
    // The first write of a node in a day-0 state begins a generation although everybody is connected.
    primary(&mut s.c, B);
    write(&mut s.c, B, [5]);
    secondary(&mut s.c, B);
    let after = [
        "A UpToDate S u1 {B:0 C:0 *:x} [u0]",
        "B UpToDate S u1 {A:0 C:0 *:u0} [u0]",
        "C UpToDate S u1 {A:0 B:0 *:u0} [u0]",
    ];
    s.ends(&after);
    primary(&mut s.c, C);
    write(&mut s.c, C, [5]);
    secondary(&mut s.c, C);
    s.ends(&after);
}

/// 19.14: all nodes are created with the same generation; C is created again, empty. With a free slot it gets what
/// was written since then, without it everything.
#[test]
fn day0_and_a_node_created_again() {
    for spare_slots in [1, 0] {
        let mut s = Story::off(Config {
            spare_slots,
            ..provisioned(3)
        });
        s.start_all();
        s.ends(&[
            "A UpToDate S d0 {B:0 C:0 *:0} []",
            "B UpToDate S d0 {A:0 C:0 *:0} []",
            "C UpToDate S d0 {A:0 B:0 *:0} []",
        ]);
        let day0 = s.c.superblock(C, 0).unwrap().current_uuid & !1;
        primary(&mut s.c, A);
        write(&mut s.c, A, [10, 11]);
        s.ends(&[
            "A UpToDate P u1 {B:0 C:0 *:d0} [d0]",
            "B UpToDate S u1 {A:0 C:0 *:d0} [d0]",
            "C UpToDate S u1 {A:0 B:0 *:d0} [d0]",
        ]);
        s.down(C);
        write(&mut s.c, A, [40, 41, 42]);
        s.sees(&[
            "A UpToDate P u2 {B:0 C:u1 *:d0} [d0]",
            "B UpToDate S u2 {A:0 C:u1 *:d0} [d0]",
            "C off u1 {A:0 B:0 *:d0} [d0]",
        ]);
        s.c.replace_disk(C, 0, 1).unwrap();
        let created = |sb: &mut drbd_meta::superblock::Superblock| {
            sb.current_uuid = day0;
            sb.flags = LocalFlags::CONSISTENT | LocalFlags::WAS_UP_TO_DATE;
        };
        s.c.edit_superblock(C, 0, created).unwrap();
        let before = sent(&s.c, A, C);
        // One after the other: a node that is a target already counts its own marks, too.
        s.back_with(C, &[A]);
        wait(&mut s.c, "C is done", |c| up_to_date(c, C));
        let blocks = (sent(&s.c, A, C) - before) / 8;
        s.regain(B, C);
        s.ends(&[
            "A UpToDate P u2 {B:0 C:0 *:d0} [u1 d0]",
            "B UpToDate S u2 {A:0 C:0 *:d0} [u1 d0]",
            "C UpToDate S u2 {A:0 B:0 *:d0} [u1]",
        ]);
        assert_eq!(content(&s.c, C, 11), content(&s.c, A, 11));
        match spare_slots {
            1 => assert_eq!(blocks, 5, "written since day 0"),
            _ => assert_eq!(blocks, s.c.size(A, 0).div_ceil(8), "everything"),
        }
    }
}

/// Sectors a node has sent to a peer in this connection's life.
fn sent(c: &drbd_sim::cluster::Cluster, n: usize, peer: usize) -> u64 {
    let status = c.status(n).unwrap();
    let mut connections = status.connections.iter();
    let (_, _, volumes) = connections.find(|x| x.0 == node_id(peer)).unwrap();
    volumes[0].1.sent
}
