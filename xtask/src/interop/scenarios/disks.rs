//! Disks that the other implementation wrote.

use std::time::Duration;

use drbd_testkit::wait::until;
use drbd_testkit::{Context, Error, Result};

use super::super::Run;
use super::super::lab::{Lab, Options, SOON};
use super::super::side::Kind;
use super::basics::{received, received_about};

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
