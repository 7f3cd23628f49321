//! Disks that the other implementation wrote.

use std::time::Duration;

use drbd_testkit::Result;

use super::super::Run;
use super::super::lab::{Options, SOON};

/// Both nodes crash, one of them as Primary with an activity log to apply and bits set for the other;
/// each disk then goes to the other implementation.
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
        lab.side(0)?.adm("primary")?;
        lab.check_device(0)?;
        let places = lab.places(20, 1);
        lab.write(0, &places)?;
        lab.settle()?;
        // And in good order.
        lab.side(0)?.demote()?;
        for id in [0, 1] {
            lab.side(id)?.adm("down")?;
        }
        lab.swap_kinds()?;
        for id in [0, 1] {
            lab.side(id)?.adm("up")?;
        }
        lab.settle()
    })
}
