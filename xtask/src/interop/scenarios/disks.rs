//! Disks that the other implementation wrote.

use std::time::Duration;

use drbd_testkit::wait::until;
use drbd_testkit::{Context, Error, Result};

use super::super::Run;
use super::super::lab::{Lab, Options, SOON};
use super::super::side::Kind;
use super::basics::{moved_about, received, received_about};

/// Writes on a Primary alone, whose bits for the peer are then set; both go down in good order.
fn leave_bits(lab: &mut Lab, primary: u8, blocks: usize) -> Result<()> {
    lab.side(1 - primary)?.adm("disconnect")?;
    let places = lab.places(blocks, 1);
    lab.write(primary, &places)?;
    lab.side(primary)?.demote()?;
    for id in [0, 1] {
        lab.side(id)?.adm("down")?;
    }
    Ok(())
}

/// Both nodes crash, one of them as Primary with an activity log to apply and bits set for the other;
/// each disk then goes to the other implementation. So it does again in good order, with bits set only.
pub(super) fn moved(run: &Run<'_>) -> Result<()> {
    // What a DRBD of the 8 series can attach.
    let options = Options {
        old_metadata: run.legacy(),
        ..Options::default()
    };
    run.tell(options, |lab| {
        lab.up_in_sync(0)?;
        let places = lab.places(40, 1);
        lab.write(0, &places)?;
        lab.cut(0, 1)?;
        lab.side(0)?.wait("the cut is noticed", SOON, |s| {
            s.connection(1) != "Connected"
        })?;
        let places = lab.places(40, 4);
        lab.write(0, &places)?;
        std::thread::sleep(Duration::from_millis(300));
        lab.swap_kinds()?;
        for id in [0, 1] {
            lab.side(id)?.adm("up")?;
        }
        lab.settle()?;
        // Every extent of 4 MiB was in the log: all of them were resynced, not only what the bitmap had.
        let moved = received(lab, 1, 0)?;
        if moved < 16 << 20 {
            return Err(Error::new(format!(
                "only {} KiB were resynced: the activity log was not applied",
                moved >> 10
            )));
        }
        lab.side(0)?.adm("primary")?;
        lab.check_device(0)?;
        let places = lab.places(20, 1);
        lab.write(0, &places)?;
        lab.settle()?;
        leave_bits(lab, 0, 48)?;
        lab.swap_kinds()?;
        for id in [0, 1] {
            lab.side(id)?.adm("up")?;
        }
        lab.settle()?;
        received_about(lab, 1, 0, 48 * 4096)
    })
}

/// The device grows and shrinks within its disks, by order of the Primary and of the Secondary, under writes.
pub(super) fn resized(run: &Run<'_>) -> Result<()> {
    run.tell(Options::default().disk("size 16M"), |lab| {
        lab.up_in_sync(0)?;
        let mut old = 16_u64 << 20;
        for (step, (id, mib)) in [(0, 20), (1, 24), (0, 18), (1, 16), (0, 28)]
            .into_iter()
            .enumerate()
        {
            let size = mib << 20;
            lab.configure(|options| options.disk(&format!("size {mib}M")))?;
            if size < old {
                lab.resized(0, size)?;
            }
            lab.side(id)?
                .adm("resize")
                .context(format!("step {step}"))?;
            let all: Vec<u8> = vec![0, 1];
            for id in all {
                let side = lab.side(id)?;
                let want = size / 512;
                until(
                    &format!("step {step}: {} has the new size", side.name),
                    SOON,
                    || {
                        let script = match side.kind() {
                            Kind::Ours => format!(
                                "drbdsetup status --json --statistics | grep -c '\"size\": *{}'",
                                size >> 10
                            ),
                            _ => format!("test $(cat /sys/block/drbd0/size) = {want}"),
                        };
                        Ok((side.script(&script, SOON)?.code == Some(0)).then_some(()))
                    },
                )?;
            }
            lab.wait_in_sync().context(format!("step {step}"))?;
            lab.resized(0, size)?;
            lab.settle().context(format!("step {step}"))?;
            // Also where nothing was before.
            let last = size - 4096;
            lab.write(0, &[(last, 4096)])?;
            let places = lab.places(20, 2);
            lab.write(0, &places)?;
            lab.settle().context(format!("step {step}"))?;
            for id in [0, 1] {
                let peer = 1 - id;
                let connected = lab.side(id)?.status()?.connection(peer) == "Connected";
                if !connected {
                    return Err(Error::new(format!("step {step}: the connection was lost")));
                }
            }
            old = size;
        }
        Ok(())
    })
}

/// A disk of ours with v09 metadata goes to a DRBD 8.4, which knows v08 only, and the other way round;
/// `drbdmeta create-md` converts them. Then they go back.
pub(super) fn converted(run: &Run<'_>) -> Result<()> {
    let options = Options {
        max_peers: 1,
        ..Options::default()
    };
    run.tell(options, |lab| {
        lab.up_in_sync(0)?;
        lab.side(0)?.demote()?;
        for round in 0..2_u8 {
            let ours = u8::from(lab.side(1)?.kind() == Kind::Ours);
            lab.side(ours)?.adm("primary")?;
            leave_bits(lab, ours, 48)?;
            let tools = lab.side(ours)?;
            let minor = tools.minor();
            let disk = |id: u8| Ok::<_, Error>(lab.side(id)?.disk().display().to_string());
            let (from_nine, from_eight) = (disk(ours)?, disk(1 - ours)?);
            tools.sh(&format!(
                "drbdmeta --force {minor} v08 {from_nine} internal create-md\n\
                 drbdmeta --force {minor} v09 {from_eight} internal create-md 1"
            ))?;
            lab.swap_kinds()?;
            for id in [0, 1] {
                lab.side(id)?.adm("up")?;
            }
            lab.settle().context(format!("round {round}"))?;
            received_about(lab, 1 - ours, ours, 48 * 4096)?;
        }
        lab.side(0)?.adm("primary")?;
        lab.check_device(0)
    })
}

/// Where the Primary writes while a disk is detached.
const WRITTEN: u64 = 16 << 20;

/// Places in that part of the device.
fn near_places(lab: &mut Lab, count: usize, blocks: u64) -> Vec<(u64, u64)> {
    let far = lab.places(count, blocks);
    far.into_iter()
        .map(|(at, len)| (at % WRITTEN, len))
        .collect()
}

/// Disks are detached and attached again, that of the Secondary and that of the Primary, which goes on with its peer's:
/// between writes, when what was written is all that a resync moves, and in the middle of them. Then the roles are
/// swapped.
pub(super) fn detached(run: &Run<'_>) -> Result<()> {
    let options = Options {
        size: 64 << 20,
        ..Options::default()
    };
    run.tell(options, |lab| {
        lab.up_in_sync(0)?;
        for (primary, secondary) in [(0, 1), (1, 0)] {
            for (gone, stays) in [(secondary, primary), (primary, secondary)] {
                detach(lab, gone, stays)?;
                let small = near_places(lab, 32, 1);
                lab.write(primary, &small)?;
                let large = near_places(lab, 2, 64);
                lab.write(primary, &large)?;
                lab.check_disks(&[stays])?;
                lab.check_device(primary)?;
                let moved = attach(lab, gone, stays)?;
                let written = 32 * 4096 + 2 * 64 * 4096;
                // The reference's tools apply the activity log before they attach a disk: that of a node which is,
                // or was, Primary names whole extents.
                if lab.side(gone)?.kind() == Kind::Kernel {
                    moved_about(moved.clamp(written, WRITTEN), moved)?;
                } else {
                    moved_about(moved, written)?;
                    // Nothing written: nothing to be done.
                    detach(lab, gone, stays)?;
                    moved_about(attach(lab, gone, stays)?, 0)?;
                }
                // Both happens under writes.
                let places = near_places(lab, 80, 1);
                let writing = lab.start_writing(primary, &places)?;
                detach(lab, gone, stays)?;
                lab.finish(&writing)?;
                let places = near_places(lab, 80, 1);
                let writing = lab.start_writing(primary, &places)?;
                lab.side(gone)?.adm("attach")?;
                lab.finish(&writing)?;
                lab.settle()?;
                lab.check_device(primary)?;
            }
            lab.side(primary)?.demote()?;
            lab.side(secondary)?.adm("primary")?;
        }
        lab.check_device(0)?;
        lab.settle()
    })
}

/// A disk is attached, and brought up to date; what was moved.
fn attach(lab: &Lab, id: u8, from: u8) -> Result<u64> {
    let before = received(lab, id, from)?;
    lab.side(id)?.adm("attach")?;
    lab.settle()?;
    Ok(received(lab, id, from)?.saturating_sub(before))
}

/// A node lets go of its disk, and its peer knows.
fn detach(lab: &Lab, gone: u8, stays: u8) -> Result<()> {
    lab.side(gone)?.adm("detach")?;
    lab.side(gone)?
        .wait("detached", SOON, |s| s.disk(0) == "Diskless")?;
    lab.side(stays)?
        .wait("the peer is detached", SOON, |s| {
            s.peer(gone, 0).is_some_and(|p| p.disk == "Diskless")
        })
        .map(drop)
}
