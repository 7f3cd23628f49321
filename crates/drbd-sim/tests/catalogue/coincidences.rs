//! Several things that go wrong at once: rows of the tables that nothing simpler leads to.

use drbd_engine::rows::Row::*;

use crate::lab::meeting::forged;
use crate::words::*;

const X: u64 = 0x1111_0000_0000_1110;
const Y: u64 = 0x2222_0000_0000_2220;

/// A connect waits for its turn, and its connection is given up meanwhile.
#[test]
pub(crate) fn connect_waits_and_is_given_up() {
    let mut t = Setup::new(3)
        .with(|c| c.net.ping_timeout = core::time::Duration::from_secs(30))
        .links([])
        .up();
    t.delay(2, 0, Cmd::TwopcYes, 10_000);
    t.connect_begin(0, 2);
    t.packet(2, 0, Cmd::TwopcYes);
    t.connect_begin(0, 1);
    t.pass(5);
    t.expect(0, Conn(1, Connecting));
    t.may_part(0, 1);
    t.disconnect(0, 1);
    t.expect(0, Conn(1, StandAlone));
    t.delay(2, 0, Cmd::TwopcYes, 0);
    t.wait(0, Conn(2, Connected));
    t.met(&[H2]);
    t.expect(0, Conn(1, StandAlone));
    t.connect(0, 1);
    t.connect(1, 2);
    t.healthy();
    t.finish();
}

/// A disk is resynced from one whose Primary it does not see, and stays Inconsistent: that Primary changes the data behind
/// its back. When it is Secondary, the source offers its data again.
#[test]
pub(crate) fn source_was_not_stable_and_is() {
    let mut t = Setup::new(3).diskless([0]).links([(0, 2), (1, 2)]).up();
    t.primary(0);
    let command = Command::Invalidate {
        volume: vol(0),
        from: Some(node_id(2)),
        reset_bitmap: true,
    };
    t.mark();
    t.ok(1, command);
    t.wait(1, Repl(2, SyncTarget));
    t.wait(1, Repl(2, Established));
    t.expect(1, Disk(Inconsistent));
    t.secondary(0);
    t.wait(1, Disk(UpToDate));
    t.met(&[D6]);
    t.healthy();
    t.same_content([1, 2]);
    t.finish();
}

/// A client shows the generation of the only disk it sees. That disk gives it up for a later one, of which the client has
/// not heard: nobody looks at the old data any more.
#[test]
pub(crate) fn client_follows_the_disk_it_knows() {
    let mut t = Setup::new(3).diskless([2]).links([(1, 2)]).build();
    forged(Y).after([X, 0]).put(&mut t, 0, 1);
    forged(X).put(&mut t, 1, 0);
    t.up();
    t.wait(2, PeerDisk(1, UpToDate));
    t.connect_begin(0, 1);
    t.wait(2, PeerDisk(1, Inconsistent));
    t.wait(1, Disk(UpToDate));
    t.wait(2, PeerDisk(1, UpToDate));
    t.met(&[E13b]);
    t.connect(0, 2);
    t.healthy();
    t.finish();
}

/// A Primary and its peer are Outdated both. The only good disk is connected with the peer again: both go on together,
/// for only this Primary keeps the peer from being stable.
#[test]
pub(crate) fn primary_goes_on_together_with_its_peer() {
    let mut t = Setup::new(3)
        .with(|c| c.resource.on_no_data = OnNoData::SuspendIo)
        .up();
    t.primary(0);
    t.write(0, [1, 2]);
    t.secondary(0);
    t.pass(2);
    for n in [0, 1] {
        t.ok(n, Command::Outdate { volume: vol(0) });
    }
    t.primary(1);
    t.expect(1, Disk(Outdated));
    t.sever(1, 2);
    t.sever(0, 2);
    t.pass(1);
    t.expect(1, Suspended(true));
    t.mend(0, 2);
    t.wait(0, Disk(UpToDate));
    t.wait(1, Disk(UpToDate));
    t.met(&[E7c]);
    t.mend(1, 2);
    t.healthy();
    t.write(1, [3]);
    t.pass(1);
    t.same_content(0..3);
    t.finish();
}

/// A client was Primary and crashed in the middle of a write. One disk has seen it come back as a Secondary, the other one
/// has not even noticed that it was lost: they wait for that, since only the loss shows which blocks differ.
#[test]
pub(crate) fn peer_follows_a_primary_that_is_none() {
    let mut t = Setup::new(3).diskless([0]).up();
    t.errors_expected();
    t.primary(0);
    t.write(0, [1]);
    t.pass(2);
    t.sever(1, 2);
    t.block(0, 1);
    t.begin_write(0, 5);
    t.packet(2, 0, Cmd::WriteAck);
    t.c.crash(0, false);
    t.may_part(0, 2);
    t.wait(2, Disk(UpToDate));
    t.wait_until("the loss", |c| c.connection(2, 0) < Connected);
    t.start(0);
    t.wait(2, PeerRole(0, Secondary));
    t.expect(1, PeerRole(0, Primary));
    t.ok(2, Command::Outdate { volume: vol(0) });
    t.mend(1, 2);
    t.wait_until("a try", |c| c.rows.contains(L6));
    t.c.heal();
    t.healthy();
    t.same_content([1, 2]);
    t.finish();
}

/// A client that is Primary has begun a generation which nobody has confirmed, and meets data that have nothing to do with
/// it: they are no reason to leave, but are not used.
#[test]
pub(crate) fn unconfirmed_generation_meets_unrelated_data() {
    let mut t = Setup::new(3)
        .diskless([2])
        .links([(0, 2), (1, 2)])
        .with(|c| c.resource.on_no_data = OnNoData::SuspendIo)
        .up();
    t.errors_expected();
    t.primary(2);
    t.write(2, [1]);
    t.pass(2);
    t.crash(1);
    t.delay(2, 0, Cmd::CurrentUuid, 3_600_000);
    let io = t.begin_write(2, 5);
    t.packet(2, 0, Cmd::CurrentUuid);
    t.sever(0, 2);
    t.delay(2, 0, Cmd::CurrentUuid, 0);
    t.expect(2, Suspended(true));
    forged(X).put(&mut t, 1, 2);
    t.start(1);
    t.wait(2, Conn(1, Connected));
    t.met(&[M6]);
    t.expect(2, PeerDisk(1, Outdated));
    t.pending(io);
    t.abandon();
}

/// A disk that never had a generation, though its metadata call it UpToDate, meets a client that shows one.
#[test]
pub(crate) fn created_disk_meets_a_client() {
    let mut t = Setup::new(3).diskless([2]).links([(0, 2)]).up();
    t.primary(2);
    t.write(2, [1]);
    t.pass(1);
    t.crash(1);
    forged(JUST_CREATED).put(&mut t, 1, 2);
    t.start(1);
    t.pass(1);
    t.connect(1, 2);
    t.met(&[M7]);
    t.expect(2, PeerDisk(1, Outdated));
    t.abandon();
}
