//! What is refused, and with which code, where no other row of the catalogue is about it.

use drbd_engine::rows::Row::*;

use crate::lab::meeting::forged;
use crate::words::*;

fn outdate() -> Command {
    Command::Outdate { volume: vol(0) }
}

fn verify(p: usize) -> Command {
    Command::Verify {
        peer: node_id(p),
        volume: vol(0),
        start: None,
        stop: None,
    }
}

fn invalidate(p: usize, reset_bitmap: bool) -> Command {
    Command::Invalidate {
        volume: vol(0),
        from: Some(node_id(p)),
        reset_bitmap,
    }
}

fn open(t: &mut Lab, n: usize, write: bool) -> u64 {
    let open = t.c.open(n, 0, write);
    t.wait_until("an open", |c| c.open_outcome(open) == Some(Ok(())));
    open
}

/// Disks that may not become Outdated.
#[test]
pub(crate) fn outdate_is_refused() {
    let mut t = Setup::new(2).fresh().up();
    t.refuses(0, outdate(), RetCode::LOWER_THAN_OUTDATED);
    t.met(&[T54]);
    t.finish();
    let mut t = Setup::new(2).up();
    t.primary(0);
    t.wait(1, PeerRole(0, Primary));
    t.refuses(1, outdate(), RetCode::CONNECTED_OUTDATES);
    t.met(&[T58e]);
    t.finish();
}

/// Verify needs an algorithm.
#[test]
pub(crate) fn verify_is_refused() {
    let mut t = Setup::new(2).up();
    t.refuses(0, verify(1), RetCode::NO_VERIFY_ALG);
    t.met(&[T58f]);
    t.finish();
}

/// No resync is begun while one runs.
#[test]
pub(crate) fn second_resync_is_refused() {
    let mut t = Setup::new(2).with(|c| c.peer_device.c_max_rate = 500).up();
    t.primary(0);
    t.disconnect(0, 1);
    t.write(0, 100..300);
    t.connect_begin(0, 1);
    t.wait(1, Repl(0, SyncTarget));
    t.refuses(1, invalidate(0, true), RetCode::RESYNC_RUNNING);
    t.refuses(1, invalidate(0, false), RetCode::RESYNC_RUNNING);
    t.met(&[T58g, T58h]);
    t.healthy();
    t.finish();
}

/// A node that is a client by configuration gets no disk.
#[test]
pub(crate) fn disk_of_a_client_is_refused() {
    let mut t = Setup::new(2).build();
    // Only node 0 is told that node 1 has no disk.
    t.c.config.diskless[1] = true;
    t.start(0);
    t.scripts();
    t.c.config.diskless[1] = false;
    t.start_detached(1);
    t.connect(0, 1);
    let attach = t.c.attach_command(1, 0);
    assert!(!t.ask(1, attach).is_ok());
    t.met(&[T58j]);
    t.abandon();
}

/// Readers keep the data they read, and other Primaries away.
#[test]
pub(crate) fn readers_are_not_disturbed() {
    let mut t = Setup::new(1).up();
    let reader = open(&mut t, 0, false);
    t.refuses(0, t.detach_command(0), RetCode::NO_UP_TO_DATE_DISK);
    t.met(&[T56]);
    t.c.close(0, reader);
    t.pass(1);
    t.finish();
    // Whoever makes the connection finds out.
    for reading in [0, 1] {
        let mut t = Setup::new(2).links([]).up();
        t.primary(1 - reading);
        let reader = open(&mut t, reading, false);
        t.connect_begin(0, 1);
        t.pass(5);
        t.met(&[[I8f], [V5]][usize::from(reading == 1)]);
        t.never(reading, Conn(1 - reading, Connected));
        t.c.close(reading, reader);
        t.abandon();
    }
}

/// After a forced demotion nobody becomes Primary before the device is closed.
#[test]
pub(crate) fn promotion_after_a_forced_demotion() {
    let mut t = Setup::new(2).up();
    let writer = open(&mut t, 0, true);
    t.ok(0, Command::Secondary { force: true });
    t.no_primary(0, RetCode::DEVICE_IN_USE);
    t.met(&[G5, T3]);
    t.c.close(0, writer);
    t.pass(1);
    t.primary(0);
    t.finish();
}

/// Somebody opens the device while its demotion is being agreed on.
#[test]
pub(crate) fn opened_during_a_demotion() {
    let mut t = Setup::new(2).up();
    t.primary(0);
    t.delay(1, 0, Cmd::TwopcYes, 300);
    let id = t.begin(0, Command::Secondary { force: false });
    t.packet(0, 1, Cmd::TwopcPrepare);
    let writer = open(&mut t, 0, true);
    assert_eq!(t.reply(0, id).code, RetCode::DEVICE_IN_USE);
    t.met(&[I11]);
    t.delay(1, 0, Cmd::TwopcYes, 0);
    t.c.close(0, writer);
    t.pass(1);
    t.finish();
}

/// The node a connect is about is lost while the others are still asked.
#[test]
pub(crate) fn target_is_lost_while_others_are_asked() {
    let mut t = Setup::new(3).links([(0, 2)]).up();
    t.may_part(0, 2);
    t.delay(2, 0, Cmd::TwopcYes, 800);
    t.connect_begin(0, 1);
    t.packet(1, 0, Cmd::TwopcYes);
    t.pass_ms(100);
    t.sever(0, 1);
    t.pass_ms(300);
    t.met(&[ILostTarget]);
    t.delay(2, 0, Cmd::TwopcYes, 0);
    t.mend(0, 1);
    t.connected();
    t.healthy();
    t.finish();
}

/// A disk that has nothing to do with those of the cluster is not let in.
#[test]
pub(crate) fn unrelated_disk_is_not_attached() {
    let mut t = Setup::new(2).up();
    t.primary(0);
    t.write(0, [1]);
    t.pass(1);
    t.detach(1);
    forged(0x1111_0000_0000_1110).put(&mut t, 1, 0);
    let attach = t.c.attach_command(1, 0);
    t.refuses(1, attach, RetCode::ERR_DATA_NOT_CURRENT);
    t.met(&[C31, B3b]);
    t.expect(1, Disk(Diskless));
    t.abandon();
}

/// The connection is lost in the middle of an attach: the metadata say what the disk is.
#[test]
pub(crate) fn connection_is_lost_during_an_attach() {
    let mut t = Setup::new(2).up();
    t.primary(0);
    t.write(0, [1]);
    t.pass(1);
    t.detach(1);
    t.delay(0, 1, Cmd::Uuids110, 3000);
    let id = t.begin(1, t.c.attach_command(1, 0));
    t.wait(1, Disk(Negotiating));
    t.sever(0, 1);
    assert!(t.reply(1, id).is_ok());
    t.met(&[B3a, F4]);
    t.delay(0, 1, Cmd::Uuids110, 0);
    t.mend(0, 1);
    t.healthy();
    t.same_content([0, 1]);
    t.finish();
}

/// The size of a volume is not agreed on while a disk is being attached.
#[test]
pub(crate) fn resize_during_an_attach() {
    let mut t = Setup::new(3).up();
    t.detach(1);
    t.may_part(0, 1);
    t.delay(0, 1, Cmd::Uuids110, 800);
    let id = t.begin(1, t.c.attach_command(1, 0));
    t.wait(1, Disk(Negotiating));
    let volume = vol(0);
    let resize = Resize::default();
    let resized = t.begin(2, Command::Resize { volume, resize });
    t.packet(2, 1, Cmd::TwopcPrepRsz);
    t.pass_ms(100);
    t.met(&[Q1]);
    t.delay(0, 1, Cmd::Uuids110, 0);
    assert!(t.reply(1, id).is_ok());
    t.reply(2, resized);
    t.healthy();
    t.finish();
}

/// A node without disk that shows one generation refuses a disk with another one.
#[test]
pub(crate) fn diskless_primary_refuses_unrelated_data() {
    let mut t = Setup::new(3).diskless([2]).links([(0, 2)]).up();
    t.primary(2);
    t.write(2, [1]);
    t.pass(1);
    // A node that has seen other data on its disk would know better.
    t.crash(1);
    forged(0x1111_0000_0000_1110).put(&mut t, 1, 2);
    t.start(1);
    t.pass(1);
    t.may_part(1, 2);
    t.connect_begin(1, 2);
    t.wait(2, Conn(1, StandAlone));
    t.met(&[M9]);
    t.abandon();
}

/// DRBD 8 is asked for state changes one by one, and nothing else is done in the middle of a connect.
#[test]
pub(crate) fn state_changes_with_drbd8() {
    let setup = || Setup::new(2).with(|c| c.versions = vec![(0, 101)]);
    let mut t = setup().up();
    t.primary(0);
    t.met(&[I6e]);
    t.secondary(0);
    let reader = open(&mut t, 1, false);
    assert!(!t.ask(0, Command::Primary { force: false }).is_ok());
    t.met(&[T4e, I6f]);
    t.c.close(1, reader);
    t.pass(1);
    t.finish();

    let mut t = setup().up();
    t.disconnect(0, 1);
    t.delay(1, 0, Cmd::State, 1000);
    t.connect_begin(0, 1);
    t.packet(0, 1, Cmd::State);
    let promote = t.begin(0, Command::Primary { force: false });
    let detach = t.begin(0, t.detach_command(0));
    t.pass_ms(100);
    t.delay(1, 0, Cmd::State, 0);
    t.reply(0, promote);
    t.reply(0, detach);
    t.met(&[T2, T51]);
    t.abandon();
}

/// The same PREPARE comes through several nodes.
#[test]
pub(crate) fn prepares_through_a_ring() {
    let ring = |n: usize| (0..n).map(move |a| (a, (a + 1) % n));
    let mut t = Setup::new(5).links(ring(5)).up();
    t.primary(0);
    t.met(&[R4b]);
    t.finish();
    // Node 2 is asked twice, and waits for node 4.
    let mut t = Setup::new(5).links(ring(4).chain([(2, 4)])).up();
    t.delay(4, 2, Cmd::TwopcYes, 200);
    t.primary(0);
    t.met(&[R4c]);
    t.delay(4, 2, Cmd::TwopcYes, 0);
    t.finish();
}

fn two_primaries(nodes: usize) -> Setup {
    Setup::new(nodes).with(|c| c.net.two_primaries = true)
}

/// Two Primaries that do not see each other write to different copies.
#[test]
pub(crate) fn primaries_that_do_not_see_each_other() {
    let mut t = two_primaries(3).chain().up();
    t.primary(0);
    assert!(!t.ask(2, Command::Primary { force: false }).is_ok());
    t.met(&[V7]);
    t.finish();
    let mut t = two_primaries(4).links([(0, 1), (2, 3)]).up();
    t.stale_data_expected();
    t.primary(0);
    t.primary(3);
    t.may_part(1, 2);
    t.connect_begin(1, 2);
    t.pass(5);
    t.met(&[I8b]);
    t.never(1, Conn(2, Connected));
    t.abandon();
}

/// The node that is Primary does not allow a second one, though the other node would.
#[test]
pub(crate) fn second_primary_is_refused_by_the_first() {
    let mut t = two_primaries(2).up();
    t.primary(0);
    t.net_options(0, 1, |o| o.two_primaries = false);
    t.no_primary(1, RetCode::CW_FAILED_BY_PEER);
    t.met(&[T4d]);
    t.finish();
}

/// Unless they have no disk, and share one that allows it.
#[test]
pub(crate) fn diskless_primaries_at_one_disk() {
    let mut t = two_primaries(3)
        .diskless([0, 1])
        .links([(0, 2), (1, 2)])
        .up();
    t.primary(0);
    t.primary(1);
    t.met(&[I8d]);
    t.secondary(1);
    t.net_options(1, 2, |o| o.two_primaries = false);
    t.no_primary(1, RetCode::TWO_PRIMARIES);
    t.met(&[I8c]);
    t.finish();
}
