//! Scenarios of the state machine document, chapter 19, and other stories worth telling.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::*;
use drbd_engine::command::{Command, RetCode};
use drbd_engine::options::{OnNoQuorum, Quorum, WireProtocol};
use drbd_proto::{ConnState, DiskState, ReplState, Role};
use drbd_sim::clock::{MS, SEC};
use drbd_sim::cluster::node_id;
use drbd_sim::config::Config;

/// State machine, section 19.1.
#[test]
fn fresh_disks_connect_and_nobody_has_data() {
    let mut c = connected(Config::new(1, 3));
    for n in 0..3 {
        assert_eq!(c.disk_state(n, 0), DiskState::Inconsistent);
        assert_eq!(generations(&c, n).current, 4, "just created");
        for peer in (0..3).filter(|p| *p != n) {
            assert_eq!(c.peer_device(n, peer, 0).0, ReplState::Established);
            assert_eq!(c.peer_device(n, peer, 0).1, DiskState::Inconsistent);
        }
    }
    refused(
        &mut c,
        A,
        Command::Primary { force: false },
        RetCode::NO_UP_TO_DATE_DISK,
    );
    sound(&c);
}

/// State machine, section 19.2.
#[test]
fn forced_promotion_starts_the_initial_sync() {
    let mut c = connected(Config::new(1, 3));
    let old = content(&c, B, 100);
    force_primary(&mut c, A);
    assert_ne!(content(&c, A, 100), old);
    rest(&mut c);
    let (a, b, d) = (generations(&c, A), generations(&c, B), generations(&c, C));
    assert_eq!((a.current, a.current), (b.current, d.current));
    for g in [&a, &b, &d] {
        assert_eq!([g.bitmap(A), g.bitmap(B), g.bitmap(C)], [0; 3]);
    }
    assert_eq!(
        a.history.len(),
        1,
        "the generation in which the first sync was started"
    );
    assert_eq!(content(&c, A, 100), content(&c, B, 100));
    assert_eq!(content(&c, A, 100), content(&c, C, 100));
}

#[test]
fn writes_reach_all_three_nodes() {
    let mut c = connected(provisioned(3));
    primary(&mut c, B);
    write(&mut c, B, [0, 7, 1000, 7]);
    read(&mut c, B, [7, 8]);
    rest(&mut c);
    for block in [0, 7, 1000] {
        assert!(
            content(&c, B, block) > Some(1000),
            "a write, not what was there before"
        );
        assert_eq!(content(&c, A, block), content(&c, B, block));
        assert_eq!(content(&c, C, block), content(&c, B, block));
    }
    secondary(&mut c, B);
    primary(&mut c, C);
    read(&mut c, C, [0, 7, 1000]);
    rest(&mut c);
}

#[test]
fn after_an_interruption_only_what_changed_is_transferred() {
    let mut c = connected(provisioned(2));
    primary(&mut c, A);
    write(&mut c, A, [1]);
    pass(&mut c, 2);
    disconnect(&mut c, A, B);
    write(&mut c, A, [10, 11, 12, 2000]);
    pass(&mut c, 2);
    assert_eq!(out_of_sync(&c, A, B), 4);
    assert_ne!(content(&c, A, 11), content(&c, B, 11));
    let sent_before = sent(&c, A, B);
    connect(&mut c, A, B);
    if c.connection(B, A) == ConnState::StandAlone {
        connect(&mut c, B, A);
    }
    rest(&mut c);
    assert_eq!(content(&c, A, 11), content(&c, B, 11));
    assert_eq!(sent(&c, A, B) - sent_before, 4 * 8, "sectors");
    assert_eq!(generations(&c, A).current, generations(&c, B).current);
}

/// Sectors a node has sent to a peer.
fn sent(c: &drbd_sim::cluster::Cluster, n: usize, peer: usize) -> u64 {
    let status = c.status(n).unwrap();
    let (_, _, pds) = status
        .connections
        .iter()
        .find(|x| x.0 == node_id(peer))
        .unwrap();
    pds[0].1.sent
}

/// State machine, section 19.4.
#[test]
fn crashed_primary_returns_as_sync_target_of_its_successor() {
    let mut c = connected(provisioned(3));
    // Out of the day-0 state.
    primary(&mut c, A);
    write(&mut c, A, [5]);
    pass(&mut c, 1);
    let u0 = generations(&c, A).current;
    c.crash(A, false);
    wait(&mut c, "survivors are UpToDate", |c| {
        up_to_date(c, B) && up_to_date(c, C) && c.connection(B, A) != ConnState::Connected
    });
    wait(&mut c, "C knows, too", |c| {
        c.connection(C, A) != ConnState::Connected
    });
    pass(&mut c, 2);
    primary(&mut c, B);
    write(&mut c, B, [5, 6]);
    pass(&mut c, 1);
    let (b, d) = (generations(&c, B), generations(&c, C));
    assert_ne!(b.current, u0, "a new generation");
    assert_eq!(b.current, d.current);
    assert_eq!((b.bitmap(A), d.bitmap(A)), (u0, u0));
    assert_eq!((b.bitmap(C), d.bitmap(B)), (0, 0));
    c.start(A);
    rest(&mut c);
    let a = generations(&c, A);
    assert_eq!(a.current, b.current);
    assert_eq!((a.bitmap(B), a.bitmap(C)), (0, 0));
    assert_eq!(
        (generations(&c, B).bitmap(A), generations(&c, C).bitmap(A)),
        (0, 0)
    );
    assert_eq!(content(&c, A, 6), content(&c, B, 6));
}

/// State machine, section 19.5: what reached only the crashed node is rolled back, the rest stays.
#[test]
fn crashed_primary_returns_and_nobody_took_over() {
    let mut c = connected(provisioned(2));
    primary(&mut c, A);
    write(&mut c, A, 0..20);
    for block in 30..40 {
        c.write(A, 0, block);
    }
    c.run_for(MS / 2);
    c.crash(A, true);
    pass(&mut c, 25);
    c.start(A);
    rest(&mut c);
    primary(&mut c, A);
    read(&mut c, A, 0..40);
    rest(&mut c);
}

#[test]
fn diskless_client_reads_and_writes() {
    let mut config = provisioned(3);
    config.diskless[C] = true;
    let mut c = connected(config);
    primary(&mut c, C);
    write(&mut c, C, [3, 4, 5]);
    read(&mut c, C, [3, 4, 5, 6]);
    pass(&mut c, 2);
    assert_eq!(content(&c, A, 4), content(&c, B, 4));
    // One storage node goes; the client goes on, and the node gets what it missed from the other one.
    c.crash(A, false);
    write(&mut c, C, [4, 8]);
    read(&mut c, C, [4, 8, 9]);
    c.start(A);
    rest(&mut c);
    assert_eq!(content(&c, A, 8), content(&c, B, 8));
}

/// Whether a write completes while nothing comes back from the peer.
fn completes_without_acks(protocol: WireProtocol, stall_data: bool) -> bool {
    let mut config = provisioned(2);
    config.net.protocol = protocol;
    let mut c = connected(config);
    primary(&mut c, A);
    write(&mut c, A, [1]);
    pass(&mut c, 1);
    c.stall(B, A, 200 * MS);
    if stall_data {
        c.stall(A, B, 200 * MS);
    }
    let io = c.write(A, 0, 2);
    c.run_for(100 * MS);
    let completed = c.outcome(io).is_some();
    rest(&mut c);
    assert_eq!(c.outcome(io), Some(Ok(())));
    completed
}

#[test]
fn protocol_a_waits_for_nobody_and_c_for_the_disk() {
    assert!(completes_without_acks(WireProtocol::A, true));
    assert!(!completes_without_acks(WireProtocol::B, false));
    assert!(!completes_without_acks(WireProtocol::C, false));
}

#[test]
fn protocol_b_waits_for_receipt_only() {
    for (protocol, expected) in [(WireProtocol::B, true), (WireProtocol::C, false)] {
        let mut config = provisioned(2);
        config.net.protocol = protocol;
        config.disk_speed = (40 * MS, 50 * MS);
        let mut c = connected(config);
        primary(&mut c, A);
        write(&mut c, A, [1]);
        pass(&mut c, 2);
        // The local disk needs its time, too: let the peer's be slower by far.
        c.nodes[B].slow_disk = Some(SEC);
        let io = c.write(A, 0, 2);
        c.run_for(500 * MS);
        assert_eq!(c.outcome(io).is_some(), expected, "{protocol:?}");
        c.nodes[B].slow_disk = None;
        rest(&mut c);
    }
}

/// State machine, section 19.13: the target is done, but the source does not hear of it.
#[test]
fn end_of_a_resync_is_lost() {
    let mut c = connected(provisioned(2));
    primary(&mut c, A);
    write(&mut c, A, [1]);
    pass(&mut c, 1);
    c.crash(B, false);
    write(&mut c, A, [2, 3]);
    c.start(B);
    wait(&mut c, "resync begins", |c| {
        c.disk_state(B, 0) == DiskState::Inconsistent
    });
    wait(&mut c, "target is done", |c| up_to_date(c, B));
    // What it has sent about that is still under way.
    c.stall(B, A, 10 * SEC);
    c.cut(A, B);
    rest(&mut c);
    assert_eq!(out_of_sync(&c, A, B), 0);
    assert_eq!(generations(&c, A).bitmap(B), 0);
    assert_eq!(generations(&c, A).current, generations(&c, B).current);
}

/// State machine, section 19.6.
#[test]
fn split_brain_is_refused_until_somebody_gives_in() {
    let mut c = connected(provisioned(2));
    c.lenient = true;
    primary(&mut c, A);
    write(&mut c, A, [1]);
    pass(&mut c, 1);
    let u0 = generations(&c, A).current;
    c.stall(A, B, 30 * SEC);
    c.stall(B, A, 30 * SEC);
    wait(&mut c, "both alone", |c| {
        c.connection(A, B) != ConnState::Connected && c.connection(B, A) != ConnState::Connected
    });
    write(&mut c, A, [10]);
    wait(&mut c, "B may", |c| up_to_date(c, B));
    primary(&mut c, B);
    let io = c.write(B, 0, 11);
    c.finish(io).unwrap().unwrap();
    assert_eq!(generations(&c, A).bitmap(B), u0);
    assert_eq!(generations(&c, B).bitmap(A), u0);
    assert_ne!(generations(&c, A).current, generations(&c, B).current);
    c.heal();
    c.run_for(60 * SEC);
    sound(&c);
    assert!(
        c.connection(A, B) == ConnState::StandAlone || c.connection(B, A) == ConnState::StandAlone,
        "{}",
        c.describe()
    );
    assert_ne!(c.connection(A, B), ConnState::Connected);
    secondary(&mut c, B);
    for n in [A, B] {
        if c.connection(n, 1 - n) == ConnState::StandAlone {
            let command = Command::Connect {
                peer: node_id(1 - n),
                discard_my_data: n == B,
                tentative: false,
            };
            ok(&mut c, n, command);
        } else if n == B {
            disconnect(&mut c, B, A);
            ok(
                &mut c,
                B,
                Command::Connect {
                    peer: node_id(A),
                    discard_my_data: true,
                    tentative: false,
                },
            );
        }
    }
    c.accept_content(A, 0);
    rest(&mut c);
    assert_eq!(content(&c, A, 10), content(&c, B, 10));
    assert_eq!(content(&c, A, 11), content(&c, B, 11));
    assert_eq!(c.role(A), Role::Primary);
}

/// State machine, section 19.7: an isolated Primary waits; what its write reached decides nothing.
#[test]
fn isolated_primary_is_suspended_until_quorum_returns() {
    let mut config = provisioned(3);
    config.resource.quorum = Quorum::Majority;
    config.resource.on_no_quorum = OnNoQuorum::SuspendIo;
    let mut c = connected(config);
    primary(&mut c, A);
    write(&mut c, A, [1]);
    pass(&mut c, 1);
    c.partition(0b001, 25 * SEC);
    wait(&mut c, "A is alone", |c| {
        c.connection(A, B) != ConnState::Connected && c.connection(A, C) != ConnState::Connected
    });
    assert!(c.status(A).unwrap().info.susp_quorum, "{}", c.describe());
    let io = c.write(A, 0, 2);
    c.run_for(2 * SEC);
    assert_eq!(c.outcome(io), None);
    c.heal();
    assert_eq!(c.finish(io).unwrap(), Ok(()));
    rest(&mut c);
    assert_eq!(content(&c, A, 2), content(&c, B, 2));
}

#[test]
fn chain_of_outages() {
    let mut c = connected(provisioned(3));
    primary(&mut c, A);
    for round in 0..6u64 {
        let victim = 1 + (round as usize) % 2;
        write(&mut c, A, [round, 100 + round]);
        c.crash(victim, round % 2 == 0);
        write(&mut c, A, [200 + round, round]);
        c.cut(A, 3 - victim);
        write(&mut c, A, [300 + round]);
        c.start(victim);
        if round % 3 == 0 {
            pass(&mut c, 1);
        } else {
            rest(&mut c);
        }
        read(&mut c, A, [round, 100 + round, 200 + round, 300 + round]);
    }
    rest(&mut c);
    for block in [0, 5, 105, 205, 305] {
        assert_eq!(content(&c, A, block), content(&c, B, block));
        assert_eq!(content(&c, A, block), content(&c, C, block));
    }
}
