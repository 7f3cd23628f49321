//! Changes that wait for their turn, because another one is being agreed on, and find things changed when it comes.

use drbd_engine::rows::Row::*;

use crate::words::*;

/// A cluster of three in which node 0 is busy with its promotion until `done`.
fn busy() -> (Lab, u64) {
    let mut t = Setup::new(3).up();
    t.errors_expected();
    t.delay(1, 0, Cmd::TwopcYes, 500);
    let promotion = t.begin(0, Command::Primary { force: false });
    t.packet(1, 0, Cmd::TwopcYes);
    t.pass_ms(20);
    (t, promotion)
}

#[track_caller]
fn done(t: &mut Lab, promotion: u64) {
    t.delay(1, 0, Cmd::TwopcYes, 0);
    let reply = t.reply(0, promotion);
    assert!(reply.is_ok(), "{reply:?}");
}

/// Somebody else disconnects by force meanwhile: there is nothing left to do.
#[test]
pub(crate) fn disconnect_waits_and_is_not_needed() {
    let (mut t, promotion) = busy();
    let waits = t.begin(0, t.disconnect_command(2));
    t.pass_ms(20);
    assert!(t.unanswered(0, waits));
    let (peer, force) = (node_id(2), true);
    t.may_part(0, 2);
    t.ok(0, Command::Disconnect { peer, force });
    t.expect(0, Conn(2, StandAlone));
    done(&mut t, promotion);
    let reply = t.reply(0, waits);
    assert!(reply.is_ok(), "{reply:?}");
    t.met(&[H1]);
    t.expect(0, Conn(2, StandAlone));
    t.links.remove(&(0, 2));
    t.connect(0, 2);
    t.healthy();
    t.finish();
}

/// A disk is detached by force before its detach is asked about: the peers know it is gone.
#[test]
pub(crate) fn detach_waits_and_is_not_needed() {
    let (mut t, promotion) = busy();
    let waits = t.begin(0, t.detach_command(0));
    t.pass_ms(20);
    let (volume, force, diskless) = (vol(0), true, false);
    t.ok(
        0,
        Command::Detach {
            volume,
            force,
            diskless,
        },
    );
    t.expect(0, Disk(Diskless));
    let reply = t.reply(0, waits);
    assert!(reply.is_ok(), "{reply:?}");
    done(&mut t, promotion);
    t.pass(1);
    t.met(&[B1, E6]);
    for p in [1, 2] {
        t.expect(p, PeerDisk(0, Diskless));
    }
    t.attach(0);
    t.healthy();
    t.finish();
}

/// A disk is detached by force while it is attached: at once, or while the attach waits for its turn to ask the peers.
#[test]
fn attach_is_given_up_by_force() {
    for late in [0, 2, 100] {
        let mut t = Setup::new(3).up();
        t.errors_expected();
        t.detach(0);
        t.delay(1, 0, Cmd::TwopcYes, 500);
        let promotion = t.begin(0, Command::Primary { force: false });
        t.packet(1, 0, Cmd::TwopcYes);
        let waits = t.begin(0, t.c.attach_command(0, 0));
        t.wait(0, Disk(Attaching));
        t.pass_ms(late);
        let (volume, force, diskless) = (vol(0), true, false);
        t.mark();
        let command = Command::Detach {
            volume,
            force,
            diskless,
        };
        let given_up = t.begin(0, command);
        done(&mut t, promotion);
        assert!(!t.reply(0, waits).is_ok());
        assert!(t.reply(0, given_up).is_ok());
        t.expect(0, Disk(Diskless));
        t.never(0, Disk(Negotiating));
        t.never(0, Disk(UpToDate));
        t.attach(0);
        t.healthy();
        t.finish();
    }
}

/// A promotion waits for the end of an own connect. That is given up for the connect of a smaller node, which has to come
/// again when the role is settled.
#[test]
pub(crate) fn promotion_waits_and_a_connect_comes() {
    let mut t = Setup::new(3)
        .with(|c| c.net.ping_timeout = core::time::Duration::from_secs(30))
        .links([])
        .up();
    t.delay(2, 1, Cmd::TwopcYes, 3000);
    t.connect_begin(1, 2);
    t.packet(1, 2, Cmd::TwopcPrepare);
    let promotion = t.begin(1, Command::Primary { force: false });
    t.connect_begin(0, 1);
    t.packet(0, 1, Cmd::TwopcPrepare);
    t.delay(2, 1, Cmd::TwopcYes, 0);
    let reply = t.reply(1, promotion);
    assert!(reply.is_ok(), "{reply:?}");
    t.met(&[R3, V3]);
    t.connected();
    t.connect(0, 2);
    t.write(1, [1]);
    t.healthy();
    t.finish();
}

/// A Primary leaves two nodes, of which it was resyncing one. The other one is Outdated then, the target stays what it
/// is.
#[test]
pub(crate) fn outdating_does_not_lift_a_worse_disk() {
    use drbd_engine::options::Fencing;
    let mut t = Setup::new(2)
        .with(|c| {
            c.net.fencing = Fencing::ResourceOnly;
            c.peer_device.c_max_rate = 500;
        })
        .up();
    t.primary(0);
    t.disconnect(0, 1);
    t.wait(1, Disk(Outdated));
    t.write(0, 100..300);
    t.connect_begin(0, 1);
    t.wait(1, Repl(0, SyncTarget));
    t.expect(1, Disk(Inconsistent));
    t.disconnect(0, 1);
    t.met(&[B2]);
    t.pass(1);
    t.expect(1, Disk(Inconsistent));
    t.connect(0, 1);
    t.healthy();
    t.same_content([0, 1]);
    t.finish();
}
