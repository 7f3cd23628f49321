//! Devices grow while they are in use (state machine, section 15.5).
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::*;
use drbd_engine::command::{Command, Resize, RetCode};
use drbd_proto::{DiskState, ReplState, VolumeNr};
use drbd_sim::cluster::Cluster;
use drbd_sim::config::Config;

/// By how much devices grow, in bytes.
const MORE: u64 = 4 << 20;

/// Three nodes whose metadata lies on devices of its own.
fn external(nodes: usize) -> Config {
    let mut config = provisioned(nodes);
    config.volumes[0].internal = false;
    config
}

fn resize(resize: Resize) -> Command {
    Command::Resize {
        volume: VolumeNr::ZERO,
        resize,
    }
}

/// The size is the same everywhere, in memory and on the disks.
fn has_size(c: &mut Cluster, sectors: u64) {
    let nodes: Vec<usize> = (0..c.config.nodes).filter(|n| c.nodes[*n].up()).collect();
    wait(c, "the new size", |c| {
        nodes.iter().all(|n| c.size(*n, 0) == sectors)
    });
    pass(c, 1);
    for n in nodes {
        if let Some(superblock) = c.superblock(n, 0) {
            assert_eq!(superblock.effective_size, sectors, "node {n}");
        }
    }
}

#[test]
fn a_grown_area_is_resynced_from_the_primary() {
    let mut c = connected(external(3));
    primary(&mut c, B);
    let old = c.size(A, 0);
    write(&mut c, B, [0, 1000]);
    let before = generations(&c, B).current;
    c.grow_devices(0, MORE);
    assert_ne!(content(&c, A, old / 8), content(&c, B, old / 8));
    ok(&mut c, B, resize(Resize::default()));
    assert_eq!(c.size(B, 0), old + MORE / 512);
    wait(&mut c, "somebody fetches the new area", |c| {
        c.disk_state(A, 0) == DiskState::Inconsistent
            && c.peer_device(A, B, 0).0 == ReplState::SyncTarget
    });
    // The Primary uses it at once.
    write(&mut c, B, [old / 8, old / 8 + 1]);
    has_size(&mut c, old + MORE / 512);
    rest(&mut c);
    for n in [A, C] {
        assert_eq!(content(&c, n, old / 8 + 5), content(&c, B, old / 8 + 5));
        assert_eq!(generations(&c, n).current, before);
        for peer in (0..3).filter(|p| *p != n) {
            assert_eq!(out_of_sync(&c, n, peer), 0, "node {n} towards {peer}");
        }
    }
}

#[test]
fn a_secondary_begins_and_is_the_source() {
    let mut c = connected(external(2));
    let old = c.size(A, 0);
    c.grow_devices(0, MORE);
    ok(&mut c, B, resize(Resize::default()));
    wait(&mut c, "a resync", |c| {
        c.peer_device(A, B, 0).0 == ReplState::SyncTarget
    });
    has_size(&mut c, old + MORE / 512);
    rest(&mut c);
    assert_eq!(content(&c, A, old / 8), Some(31), "node 1 was the source");
}

#[test]
fn assume_clean_resyncs_nothing() {
    let mut c = connected(external(2));
    primary(&mut c, A);
    let old = c.size(A, 0);
    c.grow_devices(0, MORE);
    let clean = Resize {
        assume_clean: true,
        ..Resize::default()
    };
    ok(&mut c, A, resize(clean));
    has_size(&mut c, old + MORE / 512);
    assert_eq!(out_of_sync(&c, A, B), 0);
    assert_eq!(c.disk_state(B, 0), DiskState::UpToDate);
    assert_ne!(content(&c, A, old / 8), content(&c, B, old / 8));
}

#[test]
fn sizes_up_and_down_by_request() {
    let mut c = connected(external(3));
    primary(&mut c, A);
    let full = c.size(A, 0);
    let to = |size| {
        resize(Resize {
            size,
            ..Resize::default()
        })
    };
    ok(&mut c, A, to(full - 4096));
    has_size(&mut c, full - 4096);
    rest(&mut c);
    refused(&mut c, A, to(full * 2), RetCode::ERR_DISK_TOO_SMALL);
    ok(&mut c, A, to(full - 2048));
    has_size(&mut c, full - 2048);
    rest(&mut c);
    // All that there is.
    ok(&mut c, A, resize(Resize::default()));
    has_size(&mut c, full);
    rest(&mut c);
    // Nothing changes.
    ok(&mut c, A, resize(Resize::default()));
    has_size(&mut c, full);
    sound(&c);
}

#[test]
fn a_node_that_is_away_may_have_no_room() {
    let mut c = connected(external(3));
    primary(&mut c, A);
    let old = c.size(A, 0);
    disconnect(&mut c, A, C);
    disconnect(&mut c, B, C);
    c.grow_devices(0, MORE);
    ok(&mut c, A, resize(Resize::default()));
    has_size_on(&c, &[A, B], old);
    let trusting = Resize {
        assume_peer_has_space: true,
        ..Resize::default()
    };
    ok(&mut c, A, resize(trusting));
    wait(&mut c, "the new size", |c| c.size(B, 0) == old + MORE / 512);
    has_size_on(&c, &[A, B], old + MORE / 512);
    write(&mut c, A, [old / 8]);
    connect(&mut c, A, C);
    connect(&mut c, B, C);
    has_size(&mut c, old + MORE / 512);
    rest(&mut c);
    assert_eq!(content(&c, C, old / 8), content(&c, A, old / 8));
}

fn has_size_on(c: &Cluster, nodes: &[usize], sectors: u64) {
    for n in nodes {
        assert_eq!(c.size(*n, 0), sectors, "node {n}");
    }
}

#[test]
fn not_while_a_resync_runs() {
    let mut c = connected(external(2));
    primary(&mut c, A);
    c.grow_devices(0, MORE);
    ok(&mut c, A, resize(Resize::default()));
    wait(&mut c, "a resync", |c| {
        c.peer_device(A, B, 0).0 == ReplState::SyncSource
    });
    refused(
        &mut c,
        A,
        resize(Resize::default()),
        RetCode::ERR_RESIZE_RESYNC,
    );
    rest(&mut c);
}

#[test]
fn a_diskless_primary_sees_the_new_size() {
    let mut config = external(3);
    config.diskless[C] = true;
    let mut c = connected(config);
    primary(&mut c, C);
    let old = c.size(C, 0);
    c.grow_devices(0, MORE);
    refused(&mut c, C, resize(Resize::default()), RetCode::ERR_NO_DISK);
    ok(&mut c, A, resize(Resize::default()));
    has_size(&mut c, old + MORE / 512);
    rest(&mut c);
    write(&mut c, C, [old / 8]);
    rest(&mut c);
    assert_eq!(content(&c, A, old / 8), content(&c, B, old / 8));
}

#[test]
fn the_activity_log_gets_another_layout() {
    let mut c = connected(external(2));
    primary(&mut c, A);
    write(&mut c, A, [0, 1000, 2000]);
    let striped = Resize {
        al_stripes: Some(2),
        al_stripe_size_kb: Some(64),
        ..Resize::default()
    };
    ok(&mut c, A, resize(striped));
    pass(&mut c, 1);
    let striping = c.superblock(A, 0).unwrap().striping;
    assert_eq!((striping.stripes(), striping.stripe_size_4k()), (2, 16));
    write(&mut c, A, [1, 1001]);
    rest(&mut c);
    // What it says is found again.
    c.crash(A, true);
    pass(&mut c, 1);
    c.start(A);
    rest(&mut c);
    let huge = Resize {
        al_stripes: Some(1024),
        al_stripe_size_kb: Some(1 << 20),
        ..Resize::default()
    };
    refused(&mut c, A, resize(huge), RetCode::ERR_MD_LAYOUT_TOO_BIG);
}

#[test]
fn the_target_crashes_while_it_fetches_the_new_area() {
    let mut c = connected(external(2));
    primary(&mut c, A);
    let old = c.size(A, 0);
    c.grow_devices(0, MORE);
    ok(&mut c, A, resize(Resize::default()));
    wait(&mut c, "a resync", |c| {
        c.peer_device(A, B, 0).0 == ReplState::SyncSource
    });
    c.crash(B, true);
    write(&mut c, A, [old / 8 + 3]);
    c.start(B);
    rest(&mut c);
    for block in [old / 8, old / 8 + 3, old / 8 + 500] {
        assert_eq!(content(&c, A, block), content(&c, B, block));
    }
}
