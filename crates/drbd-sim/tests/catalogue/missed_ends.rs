//! The end of a resync that only one side has heard of, when that makes a difference; a connect beside a resync.

use drbd_engine::rows::Row::*;

use crate::lab::meeting::forged;
use crate::resync_ends::end_is_lost;
use crate::words::*;

/// Below protocol 124 a source of which nothing is missing is not noticed: it tries again, until the target notices; a
/// Primary cannot be told at all.
#[test]
pub(crate) fn missed_end_below_protocol_124() {
    let mut t = end_is_lost(123);
    t.c.heal();
    t.mend(0, 1);
    t.pass(5);
    t.met(&[C6, K2a]);
    t.abandon();

    let mut t = end_is_lost(123);
    t.stale_data_expected();
    t.secondary(0);
    t.primary(1);
    t.c.heal();
    t.mend(0, 1);
    t.pass(5);
    t.met(&[C7, K2b]);
    t.abandon();
}

/// The source of a resync whose end was missed is not UpToDate any more: it is not repeated.
#[test]
pub(crate) fn missed_end_of_an_outdated_source() {
    let mut t = end_is_lost(124);
    t.stale_data_expected();
    t.write(0, [105]);
    t.secondary(0);
    t.ok(0, Command::Outdate { volume: vol(0) });
    t.c.heal();
    t.mend(0, 1);
    t.pass(5);
    t.met(&[C6, C7, K12a, K12b]);
    t.accept(1);
    t.healthy();
    t.same_content([0, 1]);
    t.finish();
}

/// A node that is being resynced meets one that has nothing in common with its source: it is told so only when the resync
/// is over.
#[test]
pub(crate) fn unrelated_peer_beside_a_resync() {
    let mut t = Setup::new(3)
        .links([(0, 1)])
        .with(|c| c.peer_device.c_max_rate = 500)
        .up();
    t.stale_data_expected();
    t.c.divergence_tolerated = true;
    t.detach(2);
    forged(0x1111_0000_0000_1110).put(&mut t, 2, 1);
    t.attach(2);
    t.primary(0);
    t.write(0, [1]);
    t.disconnect(0, 1);
    t.write(0, 100..300);
    t.connect_begin(0, 1);
    t.wait(1, Repl(0, SyncTarget));
    t.may_part(1, 2);
    t.connect_begin(1, 2);
    t.wait_until("a try", |c| c.rows.contains(K0));
    t.wait(1, Disk(UpToDate));
    t.wait(1, Conn(2, StandAlone));
    t.wait(2, Conn(1, StandAlone));
    t.met(&[C31]);
    t.abandon();
}

/// A crashed Primary meets a node that is just being resynced by one that outlived it: it has to wait for the end.
#[test]
pub(crate) fn crashed_primary_beside_a_resync() {
    let mut t = Setup::new(3).with(|c| c.peer_device.c_max_rate = 500).up();
    t.stale_data_expected();
    t.primary(2);
    t.write(2, [1]);
    t.crash(2);
    t.wait(0, Disk(UpToDate));
    t.apart(0, 2);
    let invalidate = Command::Invalidate {
        volume: vol(0),
        from: Some(node_id(0)),
        reset_bitmap: true,
    };
    t.begin(1, invalidate);
    t.wait(1, Repl(0, SyncTarget));
    t.start(2);
    t.wait_until("a try", |c| c.rows.contains(D4));
    t.expect(1, Repl(0, SyncTarget));
    t.wait(1, Conn(2, Connected));
    t.seen(1, Disk(UpToDate));
    t.abandon();
}

/// What a Primary has is not given up for an older line of writes that comes back.
#[test]
pub(crate) fn older_line_of_writes_comes_back() {
    let mut t = Setup::new(3).up();
    t.stale_data_expected();
    t.c.divergence_tolerated = true;
    t.primary(2);
    t.write(2, [1]);
    t.pass(1);
    t.isolate(2);
    t.write(2, [5]);
    t.secondary(2);
    t.wait(0, Disk(UpToDate));
    t.primary(0);
    t.wait(1, Disk(UpToDate));
    t.mend(1, 2);
    t.wait_until("a try", |c| c.rows.contains(K10g));
    t.pass(2);
    t.expect(1, Disk(UpToDate));
    t.expect(1, PeerRole(0, Primary));
    t.abandon();
}

/// A resync that was about to begin does not take place: the disk is not Outdated for it, if a neighbour has the same.
#[test]
pub(crate) fn attempted_resync_is_undone() {
    for kind in [Cmd::CompressedBitmap, Cmd::Bitmap] {
        let mut t = Setup::new(3)
            .with(|c| c.net.use_rle = kind == Cmd::CompressedBitmap)
            .up();
        t.stale_data_expected();
        t.primary(0);
        t.write(0, [1]);
        t.pass(1);
        t.isolate(0);
        t.write(0, [5]);
        t.secondary(0);
        t.wait(1, Disk(UpToDate));
        t.wait(2, Disk(UpToDate));
        t.delay(0, 1, kind, 5_000);
        t.mend(0, 1);
        t.wait(1, Repl(0, WFBitMapT));
        t.wait(1, Disk(Outdated));
        t.sever(0, 1);
        t.wait(1, Disk(UpToDate));
        t.met(&[E8]);
        t.delay(0, 1, kind, 0);
        t.accept(0);
        t.rejoin(0);
        t.healthy();
        t.same_content(0..3);
        t.finish();
    }
}
