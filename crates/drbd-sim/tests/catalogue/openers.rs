//! Opening a device promotes the node; closing it demotes it again.

use drbd_engine::effect::OpenError;

use crate::words::*;

/// Opens the device; the name of the opener, or why not.
fn open(t: &mut Lab, n: usize, write: bool) -> Result<u64, OpenError> {
    let open = t.c.open(n, 0, write);
    t.wait_until("the end of an open", |c| c.open_outcome(open).is_some());
    match t.c.open_outcome(open) {
        Some(outcome) => outcome.map(|()| open),
        None => t.panic("the outcome is gone"),
    }
}

/// A write open promotes; a read-only open fails while a peer is Primary and succeeds after an undetected link loss (ping
/// check); demotion on last close.
#[test]
fn autopromote() {
    let mut t = Setup::new(2).up();
    let writer = open(&mut t, 0, true).unwrap();
    t.expect(0, Am(Primary));
    t.write(0, [1]);
    let second = open(&mut t, 0, false).unwrap();
    // Elsewhere nobody gets in; the ping shows at once that this is no mistake.
    let begin = t.c.now();
    assert_eq!(open(&mut t, 1, false), Err(OpenError::ForeignPrimary));
    assert!(t.c.now() - begin < 100_000_000);
    assert_eq!(open(&mut t, 1, true), Err(OpenError::ReadOnly));
    assert!(
        t.c.now() - begin > 1_000_000_000,
        "it waits for the other one to leave"
    );
    t.expect(1, Am(Secondary));
    // Readers do not keep the node Primary.
    t.c.close(0, writer);
    t.wait(0, Am(Secondary));
    t.c.close(0, second);
    t.wait(1, PeerRole(0, Secondary));
    // A reader does not promote, but keeps others from it.
    let reader = open(&mut t, 1, false).unwrap();
    t.expect(1, Am(Secondary));
    assert_eq!(open(&mut t, 0, true), Err(OpenError::ReadOnly));
    t.c.close(1, reader);
    let writer = open(&mut t, 0, true).unwrap();
    t.write(0, [2]);
    t.pass(1);
    // The Primary is gone, and nobody has noticed.
    t.block(0, 1);
    t.expect(1, PeerRole(0, Primary));
    let reader = open(&mut t, 1, false).unwrap();
    t.expect(1, Disk(UpToDate));
    t.c.close(1, reader);
    t.pass(1);
    t.mend(0, 1);
    t.healthy();
    t.c.close(0, writer);
    t.wait(0, Am(Secondary));
    t.finish();
}

/// Who waits for the other Primary to leave gets in when it does.
#[test]
fn an_open_waits_for_the_other_primary() {
    let mut t = Setup::new(2).up();
    let writer = open(&mut t, 0, true).unwrap();
    t.write(0, [1]);
    let waiting = t.c.open(1, 0, true);
    let reading = t.c.open(1, 0, false);
    t.pass_ms(500);
    assert_eq!(t.c.open_outcome(waiting), None);
    t.c.close(0, writer);
    t.wait(1, Am(Primary));
    t.wait_until("both are open", |c| {
        c.open_outcome(waiting).is_some() && c.open_outcome(reading).is_some()
    });
    assert_eq!(t.c.open_outcome(waiting), Some(Ok(())));
    t.read(1, [1]);
    t.c.close(1, waiting);
    t.c.close(1, reading);
    t.finish();
}

/// Without auto-promote a command has to come first.
#[test]
fn no_autopromote() {
    let mut t = Setup::new(2).with(|c| c.resource.auto_promote = false).up();
    assert_eq!(open(&mut t, 0, true), Err(OpenError::ReadOnly));
    assert_eq!(open(&mut t, 0, false), Err(OpenError::ForeignPrimary));
    t.primary(0);
    let writer = open(&mut t, 0, true).unwrap();
    t.refuses(
        0,
        Command::Secondary { force: false },
        RetCode::DEVICE_IN_USE,
    );
    t.c.close(0, writer);
    t.pass(3);
    t.expect(0, Am(Primary));
    t.finish();
}

/// A peer of the 8 series that agreed to a demotion believes that it takes place: who opens the device meanwhile waits, and
/// promotes it again.
#[test]
fn opened_during_a_demotion_beside_drbd8() {
    let mut t = Setup::new(2).with(|c| c.versions = vec![(1, 101)]).up();
    t.primary(0);
    t.delay(1, 0, Cmd::ConnStChgReply, 300);
    let demotion = t.begin(0, Command::Secondary { force: false });
    t.packet(0, 1, Cmd::ConnStChgReq);
    let writer = t.c.open(0, 0, true);
    t.pass_ms(100);
    assert_eq!(t.c.open_outcome(writer), None);
    assert!(t.reply(0, demotion).is_ok());
    t.delay(1, 0, Cmd::ConnStChgReply, 0);
    t.wait_until("the open", |c| c.open_outcome(writer) == Some(Ok(())));
    t.expect(0, Am(Primary));
    t.wait(1, PeerRole(0, Primary));
    t.write(0, [1]);
    t.c.close(0, writer);
    t.wait(0, Am(Secondary));
    t.same_content([0, 1]);
    t.finish();
}
