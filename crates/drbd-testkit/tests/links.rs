//! Links that are cut and come back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{PATIENCE, small, told};
use drbd_testkit::load::{Expected, Load};
use drbd_testkit::rng::Rng;
use drbd_testkit::wait::until;
use drbd_testkit::{Cluster, Result, Story};

const SPAN: u64 = 8 << 20;

#[test]
fn cut_in_the_middle_of_a_resync() -> Result<()> {
    let mut options = small();
    options.size = 64 << 20;
    // Slow enough to be caught at it.
    options.disk = vec!["c-plan-ahead 0".to_owned(), "resync-rate 8M".to_owned()];
    told(Cluster::new("cutsync", options)?, |c| {
        c.bring_up()?;
        c.node(0).adm_with("primary", &["--force"])?;
        for round in 0..2 {
            let before = c
                .node(0)
                .wait("in the middle of the resync", PATIENCE, |s| {
                    s.peer(1, 0).is_some_and(|p| {
                        p.replication == "SyncSource"
                            && p.sent > (1 << 20)
                            && p.out_of_sync > (8 << 20)
                    })
                })?;
            c.cut(0, 1)?;
            c.node(0).wait("notices the cut", PATIENCE, |s| {
                s.connection(1) != "Connected"
            })?;
            c.node(1).wait("notices the cut", PATIENCE, |s| {
                s.connection(0) != "Connected"
            })?;
            c.restore(0, 1)?;
            let after = c.node(0).wait("goes on", PATIENCE, |s| {
                s.connection(1) == "Connected"
                    && s.peer(1, 0).is_some_and(|p| p.replication == "SyncSource")
            })?;
            let left = |s: &drbd_testkit::Status| s.peer(1, 0).unwrap().out_of_sync;
            assert!(
                left(&after) <= left(&before),
                "round {round}: it starts over"
            );
        }
        for id in [0, 1] {
            c.node(id).edit_config(|t| t.replace("8M;", "400M;"))?;
            c.node(id).adm("adjust")?;
        }
        c.wait_in_sync(PATIENCE)?;
        c.compare(&[0, 1], 0)
    })
}

#[test]
fn cut_in_a_burst_of_writes() -> Result<()> {
    told(Cluster::new("cutburst", small())?, |c| {
        c.bring_up_in_sync(0)?;
        let mut expected = Expected::default();
        for round in 0..2 {
            let load = Load::start(c.node(0).open(0)?, expected, 10 + round, SPAN);
            let batches = |count: u64| {
                let from = load.batches();
                until("the load makes progress", PATIENCE, || {
                    Ok((load.batches() >= from + count || load.has_ended()).then_some(()))
                })
            };
            batches(20)?;
            c.cut(0, 1)?;
            // Held up until the peer is given up, then it goes on.
            batches(20)?;
            c.node(0).wait("notices the cut", PATIENCE, |s| {
                s.connection(1) != "Connected"
            })?;
            c.restore(0, 1)?;
            batches(40)?;
            let (after, error) = load.stop();
            assert_eq!(error, None);
            expected = after;
            c.wait_in_sync(PATIENCE)?;
            expected.check(&mut c.node(0).open(0)?)?;
            c.compare(&[0, 1], 0)?;
        }
        Ok(())
    })
}

/// The connection breaks in the middle of packets, at any byte.
#[test]
fn broken_at_any_byte() -> Result<()> {
    let mut options = small();
    // Only proxies can do that.
    options.story = Story::Nbd;
    told(Cluster::new("break", options)?, |c| {
        c.bring_up_in_sync(0)?;
        let mut rng = Rng::new(7);
        let mut expected = Expected::default();
        for round in 0..6 {
            let load = Load::start(c.node(0).open(0)?, expected, 20 + round, SPAN);
            c.break_after(0, 1, 20_000 + rng.below(300_000))?;
            c.node(1).wait("the connection breaks", PATIENCE, |s| {
                s.connection(0) != "Connected" || s.peer(0, 0).is_none()
            })?;
            c.node(0).wait("connected again", PATIENCE, |s| {
                s.connection(1) == "Connected"
            })?;
            let (after, error) = load.stop();
            assert_eq!(error, None);
            expected = after;
        }
        c.wait_in_sync(PATIENCE)?;
        expected.check(&mut c.node(0).open(0)?)?;
        c.compare(&[0, 1], 0)
    })
}

#[test]
fn split_brain_is_noticed() -> Result<()> {
    told(Cluster::new("split", small())?, |c| {
        c.bring_up_in_sync(0)?;
        c.node(0).demote()?;
        c.cut(0, 1)?;
        for (id, peer) in [(0, 1), (1, 0)] {
            c.node(id)
                .wait("alone", PATIENCE, |s| s.connection(peer) != "Connected")?;
            c.node(id).adm_with("primary", &["--force"])?;
            Expected::default().write(
                &mut c.node(id).open(0)?,
                &mut Rng::new(id.into()),
                SPAN,
                4,
            )?;
            c.node(id).demote()?;
        }
        c.restore(0, 1)?;
        // At least one side gives up the connection, and says why.
        until("the split brain is noticed", PATIENCE, || {
            let alone = |id: u8, peer: u8| {
                c.node(id)
                    .status()
                    .map(|s| s.connection(peer) == "StandAlone")
            };
            Ok((alone(0, 1)? || alone(1, 0)?).then_some(()))
        })?;
        assert!(
            c.nodes.iter().any(|n| n.logged("split brain")),
            "the log names it"
        );
        // The administrator decides whose data stays.
        for id in [0, 1] {
            let _ = c.node(id).drbdadm(&["disconnect", "split"])?;
        }
        c.node(1).adm_with("connect", &["--discard-my-data"])?;
        c.node(0).adm("connect")?;
        c.wait_in_sync(PATIENCE)?;
        c.compare(&[0, 1], 0)
    })
}
