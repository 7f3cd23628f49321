//! Initial sync, reconnect, and the loss of a Primary.

use drbd_testkit::{Context, Error, Result};

use super::super::Run;
use super::super::lab::{Lab, Options, SOON};

/// Writes on a node: single blocks, longer requests, less than a block.
fn mixed_writes(lab: &mut Lab, id: u8) -> Result<()> {
    let small = lab.places(24, 1);
    lab.write(id, &small)?;
    let large = lab.places(6, 16);
    lab.write(id, &large)?;
    let sectors: Vec<(u64, u64)> = lab.places(3, 1).iter().map(|p| (p.0 + 512, 512)).collect();
    lab.write(id, &sectors)?;
    lab.write(id, &[(1 << 20, 1 << 20)])
}

/// Fresh disks: connect, initial sync, writes of both sides, roles swapped and back.
pub(super) fn sync(run: &Run<'_>) -> Result<()> {
    run.tell(Options::default(), |lab| {
        lab.up_in_sync(0)?;
        lab.check_disks(&[0, 1])?;
        mixed_writes(lab, 0)?;
        lab.settle()?;
        lab.side(0)?.demote()?;
        lab.side(1)?.adm("primary")?;
        lab.check_device(1)?;
        mixed_writes(lab, 1)?;
        lab.settle()?;
        lab.side(1)?.demote()?;
        lab.side(0)?.adm("primary")?;
        lab.check_device(0)?;
        lab.side(0)?.demote()?;
        lab.side(0)?.adm("down")?;
        lab.side(1)?.adm("down")?;
        lab.check_disks(&[0, 1])
    })
}

/// What was moved towards a node.
pub(super) fn received(lab: &Lab, id: u8, from: u8) -> Result<u64> {
    // A DRBD 8 counts from its start on.
    if lab.side(id)?.legacy() {
        let status = lab.side(from)?.status()?;
        Ok(status.peer(id, 0).context("no peer")?.sent)
    } else {
        let status = lab.side(id)?.status()?;
        Ok(status.peer(from, 0).context("no peer")?.received)
    }
}

/// What a resync has moved towards a node is what was written.
pub(super) fn received_about(lab: &Lab, id: u8, from: u8, bytes: u64) -> Result<()> {
    moved_about(received(lab, id, from)?, bytes)
}

/// What a resync has moved is what was written.
pub(super) fn moved_about(got: u64, bytes: u64) -> Result<()> {
    // Places may overlap.
    if got + (64 << 10) >= bytes && got <= bytes + (256 << 10) {
        return Ok(());
    }
    Err(Error::new(format!(
        "the resync should have moved {} KiB and moved {} KiB",
        bytes >> 10,
        got >> 10
    )))
}

/// Disconnect, write, reconnect; the disconnect given on either side.
pub(super) fn reconnect(run: &Run<'_>) -> Result<()> {
    run.tell(Options::default(), |lab| {
        lab.up_in_sync(0)?;
        for leaving in [1, 0] {
            lab.side(leaving)?.adm("disconnect")?;
            let small = lab.places(32, 1);
            lab.write(0, &small)?;
            let large = lab.places(2, 64);
            lab.write(0, &large)?;
            lab.side(leaving)?.adm("connect")?;
            lab.settle()?;
            received_about(lab, 1, 0, 32 * 4096 + 2 * 64 * 4096)?;
        }
        // Nothing written: nothing to be done.
        lab.side(1)?.adm("disconnect")?;
        lab.side(1)?.adm("connect")?;
        lab.settle()?;
        received_about(lab, 1, 0, 0)
    })
}

/// The Primary dies with writes under way; the other one takes over and writes; the old one returns.
pub(super) fn killed_primary(run: &Run<'_>) -> Result<()> {
    run.tell(Options::default(), |lab| {
        lab.up_in_sync(0)?;
        for (old, new) in [(0, 1), (1, 0)] {
            mixed_writes(lab, old)?;
            lab.side_mut(old)?.power_off();
            lab.side(new)?
                .wait("alone", SOON, |s| s.connection(old) != "Connected")?;
            lab.side(new)?.adm("primary")?;
            lab.check_device(new)?;
            mixed_writes(lab, new)?;
            lab.side_mut(old)?.power_on()?;
            lab.side(old)?.adm("up")?;
            lab.settle()?;
        }
        Ok(())
    })
}
