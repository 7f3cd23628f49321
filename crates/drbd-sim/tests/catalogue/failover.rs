//! A suspended Primary that comes back when the others have gone on without it.

use drbd_engine::options::SbPolicy;

use crate::words::*;

fn setup(force: bool) -> Setup {
    Setup::new(3).quorum(Quorum::Majority).with(move |c| {
        c.resource.force_secondary_when_outdated = force;
        c.resource.on_no_data = OnNoData::SuspendIo;
        c.net.rr_conflict = if force {
            SbPolicy::RetryConnect
        } else {
            SbPolicy::Disconnect
        };
    })
}

/// An application opens the device for writing, which promotes the node.
fn open(t: &mut Lab, n: usize) -> u64 {
    let open = t.c.open(n, 0, true);
    t.wait_until("the device is open", |c| c.open_outcome(open).is_some());
    assert_eq!(t.c.open_outcome(open), Some(Ok(())));
    open
}

/// Node 0 is isolated under load; meanwhile `other` becomes Primary and writes. Node 0 comes back.
fn failover(t: &mut Lab, other: usize) {
    let opener = open(t, 0);
    t.write(0, [1, 2]);
    t.pass(1);
    t.isolate(0);
    t.wait(0, Suspended(true));
    let frozen: Vec<u64> = (10..30).map(|block| t.begin_write(0, block)).collect();
    t.pass(2);
    frozen.iter().for_each(|io| t.pending(*io));
    t.primary(other);
    t.write(other, [2, 12, 40]);
    let generation = t.current(1);
    t.errors_expected();
    t.mark();
    t.rejoin(0);
    t.event(0, Am(Secondary));
    frozen.iter().for_each(|io| t.fails(*io));
    t.wait(0, Suspended(false));
    t.c.close(0, opener);
    t.healthy();
    t.seen(0, Repl(1, SyncTarget));
    assert_eq!(t.current(0), generation);
    t.same_content([0, 1]);
    t.expect(other, Am(Primary));
    // It can be Primary again.
    t.secondary(other);
    let opener = open(t, 0);
    t.write(0, [3]);
    t.c.close(0, opener);
}

/// A suspended Primary that finds newer data on return is forced Secondary, its I/O fails, then it resyncs.
#[test]
fn quorum_suspend_failover_busy() {
    let mut t = setup(true).up();
    failover(&mut t, 1);
    t.finish();
}

/// Fail-over to a diskless node; the suspended ex-Primary learns it from the storage node, is forced Secondary, then
/// connects to both.
#[test]
fn quorum_suspend_failover_dless() {
    let mut t = setup(true).diskless([2]).up();
    failover(&mut t, 2);
    t.finish();
}

/// The suspended Primary itself has no disk.
#[test]
pub(crate) fn a_suspended_client_is_forced_secondary() {
    let mut t = setup(true).diskless([2]).up();
    let opener = open(&mut t, 2);
    t.write(2, [1]);
    t.pass(1);
    t.isolate(2);
    t.wait(2, Suspended(true));
    let frozen = t.begin_write(2, 5);
    t.primary(0);
    t.write(0, [2, 5]);
    t.errors_expected();
    t.rejoin(2);
    t.wait(2, Am(Secondary));
    t.fails(frozen);
    t.c.close(2, opener);
    t.healthy();
    t.finish();
}

/// Without the option it stays as it is: Primary, suspended, and alone.
#[test]
pub(crate) fn a_suspended_primary_stays_and_is_disconnected() {
    let mut t = setup(false).up();
    t.primary(0);
    t.write(0, [1]);
    t.pass(1);
    t.isolate(0);
    let frozen = t.begin_write(0, 10);
    t.primary(1);
    t.write(1, [2]);
    t.rejoin(0);
    t.wait(0, Conn(1, StandAlone));
    t.pass(10);
    t.expect(0, Am(Primary));
    t.expect(0, Suspended(true));
    t.pending(frozen);
    t.errors_expected();
    t.ok(0, Command::Secondary { force: true });
    for p in [1, 2] {
        t.connect_begin(0, p);
    }
    t.healthy();
    t.same_content([0, 1, 2]);
    t.finish();
}
