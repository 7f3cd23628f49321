//! Three nodes.

use std::time::Duration;

use drbd_testkit::{Context, Error, Result};

use super::super::Run;
use super::super::lab::{Lab, Marks, Options, SOON};

fn lost(lab: &Lab, id: u8, peer: u8) -> Result<()> {
    lab.side(id)?
        .wait(&format!("node {peer} is gone"), SOON, |s| {
            s.connection(peer) != "Connected"
        })
        .map(drop)
}

/// Initial sync to two peers, writes and promotion of each node in turn.
pub(super) fn turns(run: &Run<'_>) -> Result<()> {
    run.tell(Options::default(), |lab| {
        lab.up_in_sync(0)?;
        for id in [0, 1, 2] {
            if id > 0 {
                lab.side(id)?.adm_refused("primary")?;
                lab.side(id - 1)?.demote()?;
                lab.side(id)?.adm("primary")?;
                lab.check_device(id)?;
            }
            let small = lab.places(20, 1);
            lab.write(id, &small)?;
            let large = lab.places(4, 32);
            lab.write(id, &large)?;
            lab.settle()?;
        }
        Ok(())
    })
}

/// A Primary without quorum stops writing; what hung is written when quorum is back.
pub(super) fn quorum_suspend(run: &Run<'_>) -> Result<()> {
    let options = Options::default()
        .option("quorum majority")
        .option("on-no-quorum suspend-io");
    run.tell(options, |lab| {
        lab.up_in_sync(0)?;
        let places = lab.places(10, 1);
        lab.write(0, &places)?;
        lab.cut(0, 1)?;
        lab.cut(0, 2)?;
        lost(lab, 0, 1)?;
        lost(lab, 0, 2)?;
        let places = lab.places(5, 1);
        let writing = lab.start_writing(0, &places)?;
        std::thread::sleep(Duration::from_secs(1));
        lab.restore(0, 1)?;
        lab.restore(0, 2)?;
        lab.finish(&writing)?;
        lab.settle()
    })
}

/// A Primary without quorum fails writes; the majority goes on, and the old Primary follows.
pub(super) fn quorum_error(run: &Run<'_>) -> Result<()> {
    let options = Options::default()
        .option("quorum majority")
        .option("on-no-quorum io-error");
    run.tell(options, |lab| {
        lab.up_in_sync(0)?;
        let places = lab.places(10, 1);
        lab.write(0, &places)?;
        lab.settle()?;
        lab.cut(0, 1)?;
        lab.cut(0, 2)?;
        for (id, peer) in [(0, 1), (0, 2), (1, 0), (2, 0)] {
            lost(lab, id, peer)?;
        }
        let places = lab.places(2, 1);
        let (script, _) = lab.write_script(0, &places)?;
        lab.side(0)?.script(&script, SOON)?.refused()?;
        lab.side(1)?.adm("primary")?;
        lab.check_device(1)?;
        let places = lab.places(20, 2);
        lab.write(1, &places)?;
        lab.side(0)?.demote()?;
        lab.restore(0, 1)?;
        lab.restore(0, 2)?;
        lab.settle()
    })
}

/// A node that missed writes gets them from a Secondary first.
pub(super) fn missed(run: &Run<'_>) -> Result<()> {
    run.tell(Options::default(), |lab| {
        lab.up_in_sync(0)?;
        lab.cut(0, 2)?;
        lab.cut(1, 2)?;
        lost(lab, 0, 2)?;
        lost(lab, 1, 2)?;
        lost(lab, 2, 0)?;
        let places = lab.places(40, 1);
        lab.write(0, &places)?;
        lab.restore(1, 2)?;
        // Its data is the Primary's, but it cannot know that it stays so.
        lab.side(2)?.wait("synced from the Secondary", SOON, |s| {
            s.peer(1, 0)
                .is_some_and(|p| p.replication == "Established" && p.out_of_sync == 0)
        })?;
        let places = lab.places(5, 1);
        lab.write(0, &places)?;
        lab.restore(0, 2)?;
        lab.settle()
    })
}

/// The Primary dies; the others agree, one of them takes over, and the old one returns.
pub(super) fn crash(run: &Run<'_>) -> Result<()> {
    run.tell(Options::default(), |lab| {
        lab.up_in_sync(0)?;
        let places = lab.places(60, 1);
        lab.write(0, &places)?;
        lab.side_mut(0)?.power_off();
        lost(lab, 1, 0)?;
        lost(lab, 2, 0)?;
        lab.settle().context("the two that are left")?;
        lab.side(1)?.adm("primary")?;
        lab.check_device(1)?;
        let places = lab.places(20, 2);
        lab.write(1, &places)?;
        lab.side_mut(0)?.power_on()?;
        lab.side(0)?.adm("up")?;
        lab.settle()
    })
}

/// The Primary dies when only one of the others has its last writes.
pub(super) fn partial(run: &Run<'_>) -> Result<()> {
    let options = Options {
        marks: Marks::OfKernels,
        ..Options::default().net("timeout 60").net("ping-int 8")
    };
    run.tell(options, |lab| {
        lab.up_in_sync(0)?;
        let places = lab.places(10, 1);
        lab.write(0, &places)?;
        lab.settle()?;
        lab.cut(0, 2)?;
        let places = lab.places(1, 1);
        let _writing = lab.start_writing(0, &places)?;
        std::thread::sleep(Duration::from_millis(700));
        lab.side_mut(0)?.power_off();
        lost(lab, 1, 0)?;
        lost(lab, 2, 0)?;
        // Whatever the one has more, the other one gets.
        lab.wait_in_sync()?;
        lab.side(2)?.adm("primary")?;
        lab.learn(1)?;
        lab.check_disks(&[1, 2])?;
        let places = lab.places(10, 1);
        lab.write(2, &places)?;
        lab.restore_all();
        lab.side_mut(0)?.power_on()?;
        lab.side(0)?.adm("up")?;
        lab.settle()
    })
}

/// A Primary without a disk, whose reads and writes go to the others.
pub(super) fn diskless(run: &Run<'_>) -> Result<()> {
    let options = Options {
        diskless: vec![2],
        ..Options::default()
    };
    run.tell(options, |lab| {
        lab.up_in_sync(0)?;
        lab.side(0)?.demote()?;
        lab.side(2)?.adm("primary")?;
        lab.check_device(2)?;
        let small = lab.places(30, 1);
        lab.write(2, &small)?;
        let large = lab.places(6, 32);
        lab.write(2, &large)?;
        lab.settle()?;
        lab.check_device(2)?;
        // One of its servers goes and comes back.
        lab.cut(1, 2)?;
        lost(lab, 2, 1)?;
        lost(lab, 1, 2)?;
        let more = lab.places(10, 1);
        lab.write(2, &more)?;
        lab.check_device(2)?;
        lab.restore(1, 2)?;
        lab.settle()?;
        lab.side(2)?.demote()?;
        lab.side(1)?.adm("primary")?;
        lab.check_device(1)
    })
}

/// Random writes, cuts and reconnects.
pub(super) fn long_run(run: &Run<'_>) -> Result<()> {
    let seconds = std::env::var("INTEROP_SECONDS")
        .ok()
        .and_then(|s| s.parse().ok());
    let end = std::time::Instant::now() + Duration::from_secs(seconds.unwrap_or(60));
    // Every now and then three kernels keep marks after such a cut, too.
    let options = Options {
        marks: Marks::OfSecondaries,
        ..Options::default()
    };
    run.tell(options, |lab| {
        lab.up_in_sync(0)?;
        let n = u8::try_from(lab.sides.len()).unwrap_or(2);
        let mut primary = 0;
        let mut round = 0_u64;
        while std::time::Instant::now() < end {
            round += 1;
            let peer = (primary + 1 + lab.random(u64::from(n) - 1)) % n;
            let places = lab.places(60, 1 + round % 7);
            let writing = lab.start_writing(primary, &places)?;
            let pause = 50 + 100 * u64::from(lab.random(4));
            std::thread::sleep(Duration::from_millis(pause));
            match lab.random(4) {
                0 => {
                    lab.side(peer)?.drbdadm("disconnect r0")?;
                    lab.finish(&writing)?;
                    lab.side(peer)?.drbdadm("connect r0")?;
                }
                1 => {
                    lab.cut(primary, peer)?;
                    lost(lab, primary, peer)?;
                    lab.finish(&writing)?;
                    lab.restore(primary, peer)?;
                }
                2 => {
                    lab.side_mut(peer)?.power_off();
                    lab.finish(&writing)?;
                    lab.side_mut(peer)?.power_on()?;
                    lab.side(peer)?.adm("up")?;
                }
                _ => {
                    lab.finish(&writing)?;
                    lab.settle()?;
                    lab.side(primary)?.demote()?;
                    primary = peer;
                    lab.side(primary)?.adm("primary")?;
                }
            }
            lab.settle().context(format!("round {round}"))?;
        }
        if round < 3 {
            return Err(Error::new("too slow to have tested anything"));
        }
        Ok(())
    })
}
