//! Nodes that mirror each other: initial sync, loss of a node, restart.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{PATIENCE, small, told};
use drbd_testkit::load::{Expected, Load};
use drbd_testkit::rng::Rng;
use drbd_testkit::wait::until;
use drbd_testkit::{Cluster, Result};

const SPAN: u64 = 8 << 20;

fn wait_for_batches(load: &Load, count: u64) -> Result<()> {
    let from = load.batches();
    until("the load makes progress", PATIENCE, || {
        if load.has_ended() {
            return Ok(Some(false));
        }
        Ok((load.batches() >= from + count).then_some(true))
    })
    .map(|alive| assert!(alive, "the load has ended by itself"))
}

#[test]
fn initial_sync_and_mirrored_writes() -> Result<()> {
    let mut options = small();
    options.nodes = 3;
    options.volumes = 2;
    told(Cluster::new("sync", options)?, |c| {
        c.bring_up_in_sync(0)?;
        let mut expected = [Expected::default(), Expected::default()];
        let mut rng = Rng::new(1);
        for volume in [0, 1] {
            let mut open = c.node(0).open(volume)?;
            let size = open.size();
            for _ in 0..40 {
                expected[usize::from(volume)].write(&mut open, &mut rng, size, 4)?;
            }
            expected[usize::from(volume)].check(&mut open)?;
        }
        c.node(0).demote()?;
        c.wait_in_sync(PATIENCE)?;
        for volume in [0, 1] {
            c.compare(&[0, 1, 2], volume)?;
        }
        // The same is read on another node.
        c.node(2).adm("primary")?;
        for volume in [0, 1] {
            expected[usize::from(volume)].check(&mut c.node(2).open(volume)?)?;
        }
        Ok(())
    })
}

#[test]
fn kill_the_secondary_under_load() -> Result<()> {
    told(Cluster::new("kill2", small())?, |c| {
        c.bring_up_in_sync(0)?;
        let load = Load::start(c.node(0).open(0)?, Expected::default(), 2, SPAN);
        wait_for_batches(&load, 20)?;
        c.node_mut(1).kill();
        // The primary goes on alone.
        wait_for_batches(&load, 40)?;
        c.node_mut(1).start()?;
        c.node(1).adm("up")?;
        // Writes during the resync as well.
        wait_for_batches(&load, 40)?;
        let (mut expected, error) = load.stop();
        assert_eq!(error, None);
        c.wait_in_sync(PATIENCE)?;
        expected.check(&mut c.node(0).open(0)?)?;
        c.compare(&[0, 1], 0)
    })
}

#[test]
fn kill_the_primary_under_load() -> Result<()> {
    told(Cluster::new("kill1", small())?, |c| {
        c.bring_up_in_sync(0)?;
        let mut expected = Expected::default();
        // There and back again.
        for (seed, (old, new)) in [(0, 1), (1, 0)].into_iter().enumerate() {
            let seed = 3 + seed as u64;
            let load = Load::start(c.node(old).open(0)?, expected, seed, SPAN);
            wait_for_batches(&load, 30)?;
            c.node_mut(old).kill();
            let (after, error) = load.stop();
            expected = after;
            assert!(
                error.is_some(),
                "the application must notice that its node is gone"
            );
            c.node(new)
                .wait("alone", PATIENCE, |s| s.connection(old) != "Connected")?;
            c.node(new).adm("primary")?;
            let mut volume = c.node(new).open(0)?;
            assert!(!expected.is_empty());
            expected.check(&mut volume)?;
            // What is written meanwhile is resynced, and what only the dead node had is undone.
            expected.write(&mut volume, &mut Rng::new(seed), SPAN, 64)?;
            drop(volume);
            c.node_mut(old).start()?;
            c.node(old).adm("up")?;
            c.wait_in_sync(PATIENCE)?;
            c.compare(&[0, 1], 0)?;
            expected.check(&mut c.node(new).open(0)?)?;
        }
        Ok(())
    })
}

#[test]
fn restart_of_both_nodes() -> Result<()> {
    told(Cluster::new("restart", small())?, |c| {
        c.bring_up_in_sync(0)?;
        let mut expected = Expected::default();
        expected.write(&mut c.node(0).open(0)?, &mut Rng::new(5), SPAN, 100)?;
        c.node(0).demote()?;
        for id in [0, 1] {
            c.node(id).adm("down")?;
            c.node_mut(id).stop()?;
        }
        c.start()?;
        c.up()?;
        c.wait_in_sync(PATIENCE)?;
        let status = c.node(1).status()?;
        let moved = status.peer(0, 0).map(|p| p.received + p.sent);
        assert_eq!(moved, Some(0), "an orderly restart needs no resync");
        c.node(1).adm("primary")?;
        expected.check(&mut c.node(1).open(0)?)
    })
}

#[test]
fn kill_both_nodes_at_once() -> Result<()> {
    told(Cluster::new("power", small())?, |c| {
        c.bring_up_in_sync(0)?;
        let load = Load::start(c.node(0).open(0)?, Expected::default(), 6, SPAN);
        wait_for_batches(&load, 30)?;
        c.node_mut(1).kill();
        c.node_mut(0).kill();
        let (mut expected, _) = load.stop();
        c.start()?;
        c.up()?;
        c.wait_in_sync(PATIENCE)?;
        c.compare(&[0, 1], 0)?;
        c.node(0).adm("primary")?;
        expected.check(&mut c.node(0).open(0)?)
    })
}
