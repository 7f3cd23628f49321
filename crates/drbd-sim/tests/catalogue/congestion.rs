//! A peer that cannot keep up.

use drbd_engine::options::OnCongestion;

use crate::words::*;

fn setup(nodes: usize, policy: OnCongestion) -> Setup {
    Setup::new(nodes).protocol(WireProtocol::A).with(|c| {
        c.net.on_congestion = policy;
        // Five writes of a block.
        c.net.congestion_fill = 40;
    })
}

/// Writes blocks all at once; they all succeed.
fn burst(t: &mut Lab, blocks: std::ops::Range<u64>) {
    let ios: Vec<u64> = blocks.map(|block| t.begin_write(0, block)).collect();
    ios.into_iter().for_each(|io| t.succeeds(io));
}

/// Ahead and Behind, then the resync, as both sides show it.
fn catches_up(t: &mut Lab) {
    t.events(
        0,
        [Repl(1, Ahead), Repl(1, SyncSource), Repl(1, Established)],
    );
    t.events(
        1,
        [Repl(0, Behind), Repl(0, SyncTarget), Repl(0, Established)],
    );
}

/// Protocol A with pull-ahead: Ahead/Behind visible while still Primary, then SyncSource/SyncTarget, Established,
/// repeatedly.
#[test]
fn ahead_behind() {
    let mut t = setup(2, OnCongestion::PullAhead).up();
    t.primary(0);
    t.write(0, [1]);
    t.pass(1);
    t.slow_disk(1, 30);
    for round in 0..4 {
        t.mark();
        let before = t.current(0);
        // One after the other, some of them twice: most only leave marks.
        for block in (0..60).chain(20..40) {
            t.write(0, [round * 100 + block]);
        }
        t.seen(0, Repl(1, Ahead));
        t.expect(0, Am(Primary));
        t.wait(1, Disk(Outdated));
        catches_up(&mut t);
        t.healthy();
        assert_ne!(t.current(0), before, "round {round}");
        t.one_generation([0, 1]);
        t.same_content([0, 1]);
        t.no_bits();
    }
    assert!(t.packets(0, 1, Cmd::OutOfSync) > 100);
    assert!(t.resynced(0, 1) > 100 && t.resynced(0, 1) <= 240);
    t.finish();
}

/// What was sent before is written and acknowledged; nothing is written after: the peer catches up all the same.
#[test]
fn ahead_without_another_write() {
    let mut t = setup(2, OnCongestion::PullAhead).up();
    t.primary(0);
    t.slow_disk(1, 30);
    t.mark();
    burst(&mut t, 0..6);
    catches_up(&mut t);
    t.healthy();
    t.same_content([0, 1]);
    t.finish();
}

/// The connection is lost while this node is Ahead: what the peer missed comes with the next connect.
#[test]
fn the_connection_is_lost_while_ahead() {
    for wait in [0, 1, 5, 20, 60, 200, 700] {
        let mut t = setup(2, OnCongestion::PullAhead).up();
        t.primary(0);
        t.slow_disk(1, 30);
        for block in 0..12 {
            t.write(0, [block]);
        }
        t.expect(0, Repl(1, Ahead));
        t.pass_ms(wait);
        t.sever(0, 1);
        t.mend(0, 1);
        t.healthy();
        t.same_content([0, 1]);
        t.one_generation([0, 1]);
        t.finish();
    }
}

/// The Primary demotes itself while it is Ahead, and another one takes over afterwards.
#[test]
fn demotion_while_ahead() {
    let mut t = setup(2, OnCongestion::PullAhead).up();
    t.primary(0);
    t.slow_disk(1, 30);
    for block in 0..12 {
        t.write(0, [block]);
    }
    t.expect(0, Repl(1, Ahead));
    t.secondary(0);
    t.healthy();
    t.primary(1);
    t.read(1, 0..12);
    t.finish();
}

/// Congestion during a resync: the target stops asking, and begins again.
#[test]
fn ahead_during_a_resync() {
    let mut t = setup(2, OnCongestion::PullAhead)
        .with(|c| {
            c.peer_device.resync_without_replication = false;
            c.peer_device.c_max_rate = 2000;
        })
        .up();
    t.primary(0);
    t.write(0, [1]);
    t.pass(1);
    t.disconnect(0, 1);
    for block in 1000..3000 {
        t.write(0, [block]);
    }
    t.connect(0, 1);
    t.wait(0, Repl(1, SyncSource));
    t.pass(1);
    t.slow_disk(1, 30);
    t.mark();
    for block in 0..40 {
        t.write(0, [block]);
    }
    t.event(0, Repl(1, Ahead));
    t.event(1, Repl(0, Behind));
    t.slow_disk(1, 0);
    t.event(0, Repl(1, SyncSource));
    t.event(1, Repl(0, SyncTarget));
    t.healthy();
    t.same_content([0, 1]);
    t.no_bits();
    t.finish();
}

/// Only the peer that is slow gets behind.
#[test]
fn one_of_two_peers_is_slow() {
    let mut t = setup(3, OnCongestion::PullAhead).up();
    t.primary(0);
    t.slow_disk(1, 40);
    t.mark();
    for block in 0..40 {
        t.write(0, [block]);
        t.pass_ms(15);
    }
    t.event(0, Repl(1, Ahead));
    t.never(0, Repl(2, Ahead));
    t.wait(2, PeerDisk(1, Outdated));
    t.healthy();
    t.one_generation([0, 1, 2]);
    t.same_content([0, 1, 2]);
    t.no_bits();
    t.finish();
}

/// The peer is left, and gets what it missed when it is connected again.
#[test]
fn on_congestion_disconnect() {
    let mut t = setup(2, OnCongestion::Disconnect).up();
    t.primary(0);
    t.slow_disk(1, 30);
    t.may_see(1, Bad::Conn(0, NetworkFailure));
    burst(&mut t, 0..20);
    t.wait(0, Conn(1, StandAlone));
    t.never(0, Repl(1, Ahead));
    t.connect(0, 1);
    t.healthy();
    t.same_content([0, 1]);
    t.finish();
}

/// Too many places are being written at the same time.
#[test]
fn congestion_extents() {
    let mut t = setup(2, OnCongestion::PullAhead)
        .with(|c| {
            c.net.congestion_fill = 0;
            c.net.congestion_extents = 67;
            c.volumes[0].device_bytes = vec![512 << 20; 2];
        })
        .up();
    t.primary(0);
    t.slow_disk(1, 30);
    t.mark();
    let blocks = (0..100).map(|extent| extent * 1024);
    let ios: Vec<u64> = blocks.map(|block| t.begin_write(0, block)).collect();
    ios.into_iter().for_each(|io| t.succeeds(io));
    catches_up(&mut t);
    t.healthy();
    t.finish();
}

/// Only with protocol A, where nobody waits for the peer.
#[test]
fn congestion_needs_protocol_a() {
    for protocol in [WireProtocol::B, WireProtocol::C] {
        let mut t = Setup::new(2).protocol(protocol).up();
        let mut options = t.c.config.net_options(0, 1);
        options.on_congestion = OnCongestion::PullAhead;
        let peer = node_id(1);
        t.refuses(
            0,
            Command::NetOptions { peer, options },
            RetCode::ERR_CONG_NOT_PROTO_A,
        );
        t.finish();
    }
}

/// The peer compares while the Primary goes Ahead of it: that ends the verify, and the peer is Behind.
#[test]
fn ahead_during_a_verify() {
    for asks in [0, 1] {
        let mut t = setup(2, OnCongestion::PullAhead)
            .with(|c| c.net.verify_alg = "md5".into())
            .up();
        t.primary(0);
        t.write(0, [1]);
        t.pass(1);
        t.slow_disk(1, 30);
        let verify = Command::Verify {
            peer: node_id(1 - asks),
            volume: vol(0),
            start: None,
            stop: None,
        };
        t.mark();
        t.ok(asks, verify);
        burst(&mut t, 0..12);
        catches_up(&mut t);
        t.healthy();
        t.same_content([0, 1]);
        t.finish();
    }
}

/// The Primary goes Ahead again while the handler before the resync still runs at the peer: the peer waits for the next one.
#[test]
fn ahead_again_while_the_handler_runs() {
    let mut t = setup(2, OnCongestion::PullAhead)
        .with(|c| c.peer_device.resync_without_replication = false)
        .up();
    t.primary(0);
    t.slow_disk(1, 30);
    t.c.handlers
        .insert((1, "before-resync-target"), (0, 500_000_000));
    burst(&mut t, 0..12);
    t.wait(0, Repl(1, SyncSource));
    t.expect(1, Repl(0, Behind));
    t.mark();
    burst(&mut t, 20..40);
    t.wait(0, Repl(1, Ahead));
    t.expect(1, Repl(0, Behind));
    // One resync, after the handler has run again.
    t.events(1, [Repl(0, SyncTarget), Repl(0, Established)]);
    assert_eq!(t.upcalls(1, "before-resync-target"), 2);
    t.healthy();
    t.same_content([0, 1]);
    t.finish();
}
