//! Links that are cut, and split brain.

use std::time::Duration;

use drbd_testkit::{Context, Error, Result};

use super::super::Run;
use super::super::lab::{Lab, Options, SOON};

/// Waits until a node has noticed that it hears nothing any more.
fn noticed(lab: &Lab, id: u8, peer: u8) -> Result<()> {
    lab.side(id)?
        .wait("the cut is noticed", SOON, |s| {
            s.connection(peer) != "Connected"
        })
        .map(drop)
}

/// A link cut in the middle of writes, then in the middle of a resync.
pub(super) fn cut(run: &Run<'_>) -> Result<()> {
    // Slow enough to be interrupted: 32 MiB at 4 MiB/s.
    run.tell(Options::default().disk("resync-rate 4M"), |lab| {
        lab.up_without_sync(0)?;
        let places = lab.places(120, 1);
        // The writes hang until the pings have noticed.
        let writing = lab.start_writing(0, &places)?;
        std::thread::sleep(Duration::from_millis(150));
        lab.cut(0, 1)?;
        noticed(lab, 0, 1)?;
        noticed(lab, 1, 0)?;
        lab.finish(&writing)?;
        let more = lab.places(30, 16);
        lab.write(0, &more)?;
        lab.restore(0, 1)?;
        lab.settle()?;
        // In the middle of a resync of everything.
        lab.side(1)?.adm("invalidate")?;
        lab.side(1)?.wait("the resync runs", SOON, |s| {
            s.peer(0, 0)
                .is_some_and(|p| p.replication == "SyncTarget" && p.out_of_sync < 30 << 20)
        })?;
        lab.cut(0, 1)?;
        noticed(lab, 0, 1)?;
        noticed(lab, 1, 0)?;
        let small = lab.places(10, 1);
        lab.write(0, &small)?;
        lab.restore(0, 1)?;
        lab.wait_connected()?;
        let left = lab
            .side(1)?
            .status()?
            .peer(0, 0)
            .context("no peer")?
            .out_of_sync;
        if left > 31 << 20 {
            return Err(Error::new("the resync began again from the start"));
        }
        lab.settle()
    })
}

/// Both sides write while they are apart.
fn split(lab: &mut Lab) -> Result<()> {
    lab.cut(0, 1)?;
    noticed(lab, 0, 1)?;
    noticed(lab, 1, 0)?;
    let places = lab.places(10, 1);
    // What the loser writes is lost.
    let (script, _) = lab.write_script(1, &places)?;
    lab.side(1)?.adm("primary")?;
    lab.side(1)?.sh(&script)?;
    let places = lab.places(40, 1);
    lab.write(0, &places)
}

fn standalone(lab: &Lab, id: u8, peer: u8) -> Result<()> {
    lab.side(id)?
        .wait("StandAlone", SOON, |s| s.connection(peer) == "StandAlone")
        .map(drop)
}

/// Split brain: refused on both sides, then resolved by hand.
pub(super) fn split_brain(run: &Run<'_>) -> Result<()> {
    run.tell(Options::default(), |lab| {
        lab.up_in_sync(0)?;
        split(lab)?;
        lab.side(1)?.demote()?;
        lab.restore(0, 1)?;
        // One side goes StandAlone, the other one too, or it keeps waiting for a connection.
        for (id, peer) in [(0, 1), (1, 0)] {
            lab.side(id)?
                .wait("refused", SOON, |s| s.connection(peer) != "Connected")?;
        }
        standalone(lab, 0, 1).or_else(|_| standalone(lab, 1, 0))?;
        std::thread::sleep(Duration::from_secs(1));
        for (id, peer) in [(0, 1), (1, 0)] {
            let side = lab.side(id)?;
            if side.status()?.connection(peer) == "Connected" {
                return Err(Error::new(format!("{} accepted a split brain", side.name)));
            }
            // Whatever state it is in.
            side.drbdadm("disconnect r0")?;
        }
        lab.side(1)?.adm("connect --discard-my-data")?;
        lab.side(0)?.adm("connect")?;
        lab.settle()
    })
}

/// Split brain with policies that resolve it: the side without a Primary gives way.
pub(super) fn split_brain_policies(run: &Run<'_>) -> Result<()> {
    let options = Options::default()
        .net("after-sb-0pri discard-least-changes")
        .net("after-sb-1pri discard-secondary")
        .net("after-sb-2pri disconnect");
    run.tell(options, |lab| {
        lab.up_in_sync(0)?;
        // One Primary: the Secondary is discarded.
        split(lab)?;
        lab.side(1)?.demote()?;
        lab.restore(0, 1)?;
        lab.settle()?;
        // No Primary: the one with fewer changes is discarded.
        split(lab)?;
        lab.side(1)?.demote()?;
        lab.side(0)?.demote()?;
        lab.restore(0, 1)?;
        lab.settle()?;
        lab.side(0)?.adm("primary")?;
        lab.check_device(0)?;
        // Two Primaries: nobody gives way.
        split(lab)?;
        lab.restore(0, 1)?;
        standalone(lab, 0, 1).or_else(|_| standalone(lab, 1, 0))
    })
}
