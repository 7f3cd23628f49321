//! Nodes that come back, or change, at a moment when the others have to draw conclusions about their disks.

use drbd_engine::options::Fencing;
use drbd_engine::rows::Row::*;
use drbd_meta::flags::PeerFlags;

use crate::words::*;

/// A connection that was interrupted for a moment, with an older protocol version, too.
#[test]
pub(crate) fn reconnect_with_older_versions() {
    for (version, row) in [(118, C14), (119, C14), (120, C8), (121, C8), (122, C8)] {
        let mut t = Setup::new(2).with(|c| c.versions = vec![(1, version)]).up();
        t.primary(0);
        t.write(0, [1, 2]);
        t.pass(1);
        t.cut(0, 1);
        t.pass(2);
        t.healthy();
        t.met(&[row]);
        t.write(0, [3]);
        t.same_content([0, 1]);
        t.finish();
    }
}

/// The last node that had quorum has it again when it is started alone.
#[test]
pub(crate) fn restart_of_the_last_node_with_quorum() {
    let mut t = Setup::new(3).diskless([2]).quorum(Quorum::Majority).up();
    t.primary(0);
    t.write(0, [1]);
    t.pass(1);
    t.crash(1);
    t.pass(1);
    t.expect(0, Quorate(true));
    t.down(2);
    t.pass(1);
    t.expect(0, Quorate(true));
    t.write(0, [2]);
    t.crash(0);
    assert_eq!(t.c.superblock(0, 0).unwrap().members, 1);
    t.start(0);
    t.wait(0, Disk(UpToDate));
    t.wait(0, Quorate(true));
    t.met(&[F2]);
    t.start(1);
    t.start(2);
    t.healthy();
    t.finish();
}

/// A disk that does not know whether it is old meets a client that is Primary, and shows the same generation.
#[test]
pub(crate) fn diskless_primary_shows_the_own_generation() {
    let mut t = Setup::new(3).diskless([2]).up();
    t.primary(2);
    t.write(2, [1]);
    t.pass(2);
    for n in [0, 1] {
        t.crash(n);
        t.pass(1);
    }
    t.c.edit_superblock(1, 0, |sb| {
        sb.peers[0].flags |= PeerFlags::FENCING;
        sb.peers[0].flags.set(PeerFlags::OUTDATED, false);
    })
    .unwrap();
    t.start(1);
    t.wait(1, Disk(UpToDate));
    t.met(&[E12a]);
    t.start(0);
    t.healthy();
    t.write(2, [2]);
    t.pass(1);
    t.same_content([0, 1]);
    t.finish();
}

/// Two nodes that do not know whether they are old: one is promoted by force, and the other one has the same.
#[test]
pub(crate) fn forced_promotion_beside_a_consistent_disk() {
    let mut t = Setup::new(3)
        .with(|c| c.net.fencing = Fencing::ResourceOnly)
        .up();
    t.primary(0);
    t.write(0, [1]);
    t.pass(2);
    t.crash(0);
    for n in [1, 2] {
        t.wait(n, Disk(Consistent));
    }
    t.force_primary(1);
    t.wait(2, Disk(UpToDate));
    t.met(&[E10]);
    t.start(0);
    t.healthy();
    t.same_content(0..3);
    t.finish();
}

/// A client that has seen later data does not believe an older disk that is declared good by force.
#[test]
pub(crate) fn client_distrusts_older_data() {
    let mut t = Setup::new(3).diskless([2]).up();
    t.stale_data_expected();
    t.c.divergence_tolerated = true;
    t.primary(0);
    t.write(0, [1]);
    t.pass(1);
    t.isolate(1);
    t.write(0, [2]);
    t.pass(1);
    t.secondary(0);
    t.mend(1, 2);
    t.wait(2, Conn(1, Connected));
    t.pass(1);
    t.ask(1, Command::Primary { force: true });
    t.pass(2);
    t.met(&[E13a]);
    t.abandon();
}

/// A disk that is new is resynced from one node, which is paused, and meets another one.
#[test]
pub(crate) fn new_disk_meets_a_second_source() {
    let mut t = Setup::new(3)
        .with(|c| c.peer_device.c_max_rate = 500)
        .links([(0, 1), (0, 2)])
        .up();
    t.primary(0);
    t.write(0, [1]);
    t.pass(1);
    t.detach(2);
    t.fresh_disk(2);
    t.attach(2);
    t.wait(2, Repl(0, SyncTarget));
    t.pause_sync(2, 0, true);
    t.wait(2, Repl(0, PausedSyncT));
    t.connect_begin(1, 2);
    t.wait(2, Conn(1, Connected));
    t.pass(1);
    t.pause_sync(2, 0, false);
    t.met(&[BSetRunning]);
    t.healthy();
    t.same_content(0..3);
    t.finish();
}

/// A Primary without disk has begun a generation of which no disk has heard: one that comes back at the generation before
/// is as good as ever.
#[test]
pub(crate) fn generation_that_nobody_has_heard_of() {
    let mut t = Setup::new(3)
        .diskless([2])
        .with(|c| c.resource.on_no_data = OnNoData::SuspendIo)
        .up();
    t.primary(2);
    t.write(2, [1]);
    t.pass(2);
    t.sever(1, 2);
    t.delay(2, 0, Cmd::CurrentUuid, 3_600_000);
    let io = t.begin_write(2, 5);
    t.packet(2, 0, Cmd::CurrentUuid);
    t.sever(0, 2);
    t.delay(2, 0, Cmd::CurrentUuid, 0);
    t.expect(2, Suspended(true));
    t.c.heal();
    t.mend(0, 2);
    t.succeeds(io);
    t.met(&[M5a, M5b]);
    t.mend(1, 2);
    t.healthy();
    t.same_content([0, 1]);
    t.finish();
}

/// The same, and nobody needs that generation any more.
#[test]
pub(crate) fn generation_that_nobody_needs() {
    let mut t = Setup::new(3)
        .diskless([2])
        .with(|c| c.resource.on_no_data = OnNoData::SuspendIo)
        .up();
    t.errors_expected();
    t.primary(2);
    t.write(2, [1]);
    t.pass(2);
    t.sever(1, 2);
    t.delay(2, 0, Cmd::CurrentUuid, 3_600_000);
    let io = t.begin_write(2, 5);
    t.packet(2, 0, Cmd::CurrentUuid);
    t.sever(0, 2);
    t.delay(2, 0, Cmd::CurrentUuid, 0);
    t.ok(2, Command::Secondary { force: true });
    t.fails(io);
    t.mend(0, 2);
    t.mend(1, 2);
    t.pass(5);
    t.met(&[M8]);
    for n in [0, 1] {
        t.connect_begin(n, 2);
    }
    t.healthy();
    t.finish();
}
