//! A few random scenarios with every test run; many more with `cargo sim`.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::cell::RefCell;
use std::rc::Rc;

use drbd_sim::cluster::catch_panics;
use drbd_sim::core;
use drbd_sim::scenario::{Wishes, run};

/// Seeds behind those of CI that found something, newest last.
const FOUND: [u64; 16] = [
    11378, 13355, 22502, 24401, 27769, 30640, 34523, 35030, 37338, 40403, 40912, 42302, 42509,
    13402, 21697, 24319,
];

/// Seeds of runs with policies that found something. Each of them hung: the target of a resync without blocks was done
/// before the handler let its source begin; a peer compared, or its handler ran, when the Primary went Ahead of it;
/// Outdated nodes followed each other up and down while handlers kept them from their resync.
///
/// Newer ones: the target of a resync without blocks stays Inconsistent behind an unstable source, before its source begins
/// (1195); the last two nodes wait for each other after a crash (911); Consistent disks when the last one has come (1661);
/// a Primary begins a generation while its target waits for a handler (137), or before it knows that a disk is good (707);
/// protocol B completes what it sends again (1760).
const FOUND_WITH_POLICIES: [u64; 14] = [
    7, 28, 38, 73, 240, 423, 502, 551, 137, 707, 911, 1195, 1661, 1760,
];

#[test]
fn seeds_with_policies() {
    catch_panics();
    let wishes = Wishes {
        policies: true,
        ..Wishes::default()
    };
    for seed in (0..10).chain(FOUND_WITH_POLICIES) {
        let outcome = run(seed, &wishes, core::engine, None);
        if let Some(f) = outcome.failure {
            panic!(
                "seed {seed}: {f}\n{}cargo sim --seed {seed} --policies --trace",
                outcome.state
            );
        }
    }
}

#[test]
fn twenty_seeds() {
    catch_panics();
    for seed in (0..20).chain(FOUND) {
        let outcome = run(seed, &Wishes::default(), core::engine, None);
        if let Some(f) = outcome.failure {
            panic!(
                "seed {seed}: {f}\n{}cargo sim --seed {seed} --trace",
                outcome.state
            );
        }
    }
}

/// Seeds with nodes of different protocol versions that found something, and what.
const MIXED: [(u64, &str); 9] = [
    (1127, "an attach beside DRBD 8 waits for ever"),
    (909, "DRBD 8 as Primary without disk: no new generation"),
    (
        891,
        "DRBD 8 as crashed Primary: both are the source, or none is",
    ),
    (
        53,
        "DRBD 8 as crashed Primary: what was in its cache is gone",
    ),
    (1001, "a target of protocol 120 waits for an answer"),
    (
        1170,
        "a peer that leaves while its writes wait for their turn",
    ),
    (1853, "the buffer of a packet that is out of place"),
    (
        1068,
        "before protocol 121 discard-my-data turns no decision round",
    ),
    (3935, "P_SYNC_UUID before the consent to the resync"),
];

#[test]
fn different_versions() {
    catch_panics();
    let wishes = Wishes {
        mixed: true,
        ..Wishes::default()
    };
    for (seed, what) in MIXED {
        let outcome = run(seed, &wishes, core::engine, None);
        if let Some(f) = outcome.failure {
            panic!(
                "seed {seed} ({what}): {f}\n{}cargo sim --seed {seed} --mixed --trace",
                outcome.state
            );
        }
    }
}

fn trace(seed: u64) -> Vec<String> {
    let lines = Rc::new(RefCell::new(Vec::new()));
    let sink = Rc::clone(&lines);
    run(
        seed,
        &Wishes::default(),
        core::engine,
        Some(Box::new(move |l| sink.borrow_mut().push(l.to_string()))),
    );
    lines.take()
}

#[test]
fn a_seed_means_one_run() {
    catch_panics();
    for seed in [3, 4] {
        let (a, b) = (trace(seed), trace(seed));
        assert!(a.len() > 100);
        let differ = a.iter().zip(&b).position(|(x, y)| x != y);
        assert_eq!(
            differ,
            None,
            "{:?} {:?}",
            differ.map(|i| &a[i]),
            differ.map(|i| &b[i])
        );
        assert_eq!(a.len(), b.len());
    }
}
