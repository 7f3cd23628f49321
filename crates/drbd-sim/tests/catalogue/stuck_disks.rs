//! A disk that does not answer.

use std::time::Duration;

use crate::words::*;

/// How long a stuck disk takes, in milliseconds.
const STUCK: u64 = 60_000;

fn setup() -> Lab {
    let mut t = Setup::new(2)
        .with(|c| {
            c.disk.disk_timeout = Duration::from_secs(5);
            c.resource.on_no_data = OnNoData::SuspendIo;
        })
        .up();
    t.pass(6);
    t.primary(0);
    t.write(0, [1]);
    t.pass(1);
    t
}

/// The disk of a node is given up, answers at last, and is attached again.
fn given_up(mut t: Lab, n: usize) {
    t.events(n, [Disk(Failed), Disk(Diskless)]);
    t.wait(1 - n, PeerDisk(n, Diskless));
    t.refuses(n, t.c.attach_command(n, 0), RetCode::ERR_DISK_CONFIGURED);
    t.slow_disk(n, 0);
    t.c.nodes[n].slow_meta = None;
    t.pass(2 * STUCK / 1000);
    t.attach(n);
    t.healthy();
    t.write(0, [1, 2, 3]);
    t.pass(1);
    t.same_content([0, 1]);
    t.finish();
}

fn may_fail(t: &mut Lab, n: usize) {
    let p = 1 - n;
    t.errors_expected();
    t.may_see(n, Bad::Failed);
    t.may_see(p, Bad::PeerFailed(n));
    // Epochs that cannot be made durable end the connection.
    t.may_see(n, Bad::Conn(p, NetworkFailure));
    t.may_see(p, Bad::Conn(n, NetworkFailure));
    t.mark();
}

/// A stuck backing disk leads to Failed, Diskless after disk-timeout (resync write, resync read, metadata write, peer
/// write); re-attach resyncs.
#[test]
pub(crate) fn disk_timeout() {
    // A received write.
    let mut t = setup();
    may_fail(&mut t, 1);
    t.slow_disk(1, STUCK);
    let io = t.begin_write(0, 2);
    t.pass(4);
    t.pending(io);
    t.succeeds(io);
    given_up(t, 1);

    // An application's write; the peer has it.
    let mut t = setup();
    may_fail(&mut t, 0);
    t.slow_disk(0, STUCK);
    let io = t.begin_write(0, 2);
    t.pass(4);
    t.pending(io);
    t.succeeds(io);
    t.read(0, [1, 2]);
    given_up(t, 0);

    // An application's read.
    let mut t = setup();
    may_fail(&mut t, 0);
    t.slow_disk(0, STUCK);
    t.read(0, [1]);
    given_up(t, 0);

    // Metadata: a place that is not in the activity log.
    for n in [0, 1] {
        let mut t = setup();
        may_fail(&mut t, n);
        t.c.nodes[n].slow_meta = Some(STUCK * 1_000_000);
        let io = t.begin_write(0, 3000);
        t.succeeds(io);
        given_up(t, n);
    }

    // Resync, at the target and at the source.
    for n in [1, 0] {
        let mut t = setup();
        t.disconnect(0, 1);
        t.write(0, 2000..2020);
        may_fail(&mut t, n);
        t.slow_disk(n, STUCK);
        t.connect_begin(0, 1);
        given_up(t, n);
    }
}

/// Without the option a stuck disk is waited for; a forced detach gives it up.
#[test]
pub(crate) fn a_forced_detach_gives_a_stuck_disk_up() {
    let mut t = Setup::new(2).up();
    t.primary(0);
    t.write(0, [1]);
    t.pass(1);
    t.errors_expected();
    t.slow_disk(0, STUCK);
    t.mark();
    let io = t.begin_write(0, 2);
    t.pass(30);
    t.pending(io);
    let force = Command::Detach {
        volume: vol(0),
        force: true,
        diskless: false,
    };
    t.ok(0, force);
    t.expect(0, Disk(Diskless));
    t.succeeds(io);
    t.slow_disk(0, 0);
    t.pass(2 * STUCK / 1000);
    t.attach(0);
    t.healthy();
    t.same_content([0, 1]);
    t.finish();
}

/// A detach that hangs can be interrupted: whoever asked for it need not wait, and it can be forced then.
#[test]
fn interrupt_detach() {
    for n in [0, 1] {
        let mut t = Setup::new(2).up();
        t.primary(0);
        t.write(0, [1]);
        t.pass(1);
        t.errors_expected();
        may_fail(&mut t, n);
        t.slow_disk(n, STUCK);
        let io = t.begin_write(0, 2);
        let detach = t.begin(n, t.detach_command(0));
        t.pass(20);
        assert!(t.unanswered(n, detach));
        t.pending(io);
        t.never(n, Disk(Diskless));
        // Nobody waits for the answer any more.
        let force = Command::Detach {
            volume: vol(0),
            force: true,
            diskless: false,
        };
        let before = t.c.now();
        t.ok(n, force);
        assert!(t.c.now() - before < 5_000_000_000);
        t.expect(n, Disk(Diskless));
        t.succeeds(io);
        t.reply(n, detach);
        t.slow_disk(n, 0);
        t.pass(2 * STUCK / 1000);
        t.attach(n);
        t.healthy();
        t.same_content([0, 1]);
        t.finish();
    }
}

/// The last disk is forced away while a client's requests wait for it: they go on when it is back.
#[test]
fn requests_outlive_a_forced_detach() {
    let mut t = Setup::new(2)
        .diskless([0])
        .with(|c| c.resource.on_no_data = OnNoData::SuspendIo)
        .up();
    t.primary(0);
    t.write(0, [1]);
    t.may_see(0, Bad::Conn(1, NetworkFailure));
    t.may_see(1, Bad::Conn(0, NetworkFailure));
    // The write waits for the activity log, the read for the disk. What they are answered comes behind the news.
    t.delay(1, 0, Cmd::NegAck, 500);
    t.delay(1, 0, Cmd::NegDreply, 500);
    t.c.nodes[1].slow_meta = Some(200_000_000);
    t.slow_disk(1, 200);
    let write = t.begin_write(0, 3000);
    let read = t.begin_read(0, 1);
    t.pass_ms(50);
    let force = Command::Detach {
        volume: vol(0),
        force: true,
        diskless: false,
    };
    t.ok(1, force);
    t.wait(0, Suspended(true));
    t.pass(5);
    t.pending(write);
    t.c.nodes[1].slow_meta = None;
    t.slow_disk(1, 0);
    t.attach(1);
    t.succeeds(write);
    t.succeeds(read);
    t.healthy();
    t.read(0, [1, 3000]);
    t.finish();
}

/// Power fails while the activity log of a crashed Primary is written anew, at any of its blocks: the next attach
/// finds what it needs.
#[test]
fn power_fails_during_an_attach() {
    for ms in 0..24 {
        let mut t = Setup::new(2)
            .with(|c| c.tearing = drbd_sim::disk::Tearing::Sectors)
            .up();
        t.primary(0);
        t.write(0, [1, 2000, 4000]);
        t.crash(0);
        t.c.nodes[0].slow_meta = Some(4_000_000);
        t.start(0);
        t.pass_ms(ms);
        t.power_off(0);
        t.c.nodes[0].slow_meta = None;
        t.start(0);
        t.healthy();
        t.same_content([0, 1]);
        t.finish();
    }
}
