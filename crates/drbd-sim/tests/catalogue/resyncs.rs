//! Resyncs beside applications.

use drbd_sim::clock::SEC;

use crate::words::*;

/// A resync does not end before the out-of-sync notices of earlier writes arrived, with two and three nodes.
#[test]
fn brief_resync_oos() {
    for nodes in [2, 3] {
        let mut t = Setup::new(nodes).up();
        t.primary(0);
        t.write(0, 0..5);
        t.pass(1);
        let last = nodes - 1;
        t.isolate(last);
        t.write(0, [10]);
        for n in 0..last {
            t.delay(n, last, Cmd::OutOfSync, 3000);
        }
        t.mark();
        t.rejoin(last);
        t.wait_until("the bitmap exchange", |c| {
            c.peer_device(0, last, 0).0 >= WFBitMapS
        });
        let ios: Vec<u64> = (20..30).map(|b| t.begin_write(0, b)).collect();
        t.event(last, Disk(UpToDate));
        for io in ios {
            t.succeeds(io);
        }
        t.pass_ms(5);
        t.same_content(0..nodes);
        let notices: u64 = (0..last).map(|n| t.packets(n, last, Cmd::OutOfSync)).sum();
        assert!(notices > 0, "no notice was sent");
        for n in 0..last {
            t.delay(n, last, Cmd::OutOfSync, 0);
        }
        t.healthy();
        t.same_content(0..nodes);
        t.finish();
    }
}

/// Resync makes progress under heavy application writes.
#[test]
fn busy_resync() {
    let setup = Setup::new(2).fresh();
    let mut t = setup.with(|c| c.peer_device.c_max_rate = 2048).up();
    t.force_primary(0);
    t.event(1, Repl(0, SyncTarget));
    let end = t.c.now() + 60 * SEC;
    let mut block = 0;
    while t.disk(1) != UpToDate {
        assert!(t.c.now() < end, "not within a minute");
        let ios: Vec<u64> = (0..16)
            .map(|i| t.begin_write(0, (block + i * 251) % 4000))
            .collect();
        block += 1;
        for io in ios {
            t.succeeds(io);
        }
    }
    assert!(block > 100, "only {block} rounds of writes meanwhile");
    t.healthy();
    t.same_content(0..2);
    t.finish();
}

/// Writes pending when the resync starts are not lost, protocol A included.
#[test]
fn busy_resync_start() {
    for protocol in [WireProtocol::A, WireProtocol::B, WireProtocol::C] {
        for slow in [0, 1] {
            let mut t = Setup::new(2).protocol(protocol).up();
            t.primary(0);
            t.write(0, 0..5);
            t.slow_disk(slow, 30);
            t.pass(1);
            for round in 0..4 {
                let mut ios: Vec<u64> =
                    (0..20).map(|b| t.begin_write(0, 100 * round + b)).collect();
                t.pass_ms(5 * round);
                let command = match round % 2 {
                    0 => Command::InvalidateRemote {
                        peer: node_id(1),
                        volume: vol(0),
                        reset_bitmap: true,
                    },
                    _ => Command::Invalidate {
                        volume: vol(0),
                        from: None,
                        reset_bitmap: true,
                    },
                };
                let at = (round % 2) as usize;
                let given = t.begin(at, command);
                ios.extend((0..20).map(|b| t.begin_write(0, 100 * round + 10 + b)));
                let reply = t.reply(at, given);
                assert!(reply.is_ok(), "{reply:?}");
                for io in ios {
                    t.succeeds(io);
                }
                t.healthy();
                t.same_content(0..2);
            }
            t.finish();
        }
    }
}

/// Equal blocks are not transferred; that holds across detach and attach, and across a reconnect in mid-resync.
#[test]
fn checksum_resync() {
    let setup = Setup::new(2).with(|c| {
        c.net.csums_alg = "crc32c".into();
        c.peer_device.c_max_rate = 4096;
    });
    let mut t = setup.up();
    t.primary(0);
    t.write(0, 0..5);
    t.pass(1);
    let all = t.c.size(0, 0) / 8;
    for interruption in ["none", "detach", "cut"] {
        for block in [7, 1000, 4000] {
            t.corrupt(1, block);
        }
        let (blocks, requests) = (t.resynced(0, 1), t.packets(1, 0, Cmd::RsCsumDagtagReq));
        t.mark();
        t.ok(
            1,
            Command::Invalidate {
                volume: vol(0),
                from: None,
                reset_bitmap: true,
            },
        );
        t.event(1, Repl(0, SyncTarget));
        t.pass(1);
        t.expect(1, Repl(0, SyncTarget));
        match interruption {
            "detach" => {
                t.detach(1);
                t.attach(1);
            }
            "cut" => t.cut(0, 1),
            _ => {}
        }
        t.event(1, Disk(UpToDate));
        t.healthy();
        // A request covers up to 1 MiB, and goes over the network if any of its blocks differs.
        let amount = t.resynced(0, 1) - blocks;
        assert!((3..3 * 256).contains(&amount), "{interruption}: {amount}");
        let asked = t.packets(1, 0, Cmd::RsCsumDagtagReq) - requests;
        assert!(asked > 3, "{interruption}: {asked}");
        assert!(t.packets(0, 1, Cmd::RsIsInSync) > 10);
        t.same_content(0..2);
    }
    assert!(all > 4000);
    t.finish();
}

/// An application that writes 16 blocks every 20 ms, for a time.
fn busy_for(t: &mut Lab, seconds: u64) {
    let end = t.c.now() + seconds * SEC;
    let mut round = 0;
    while t.c.now() < end {
        let ios: Vec<u64> = (0..16)
            .map(|i| t.begin_write(0, (round + i * 7) % 1000))
            .collect();
        round += 1;
        t.pass_ms(20);
        ios.iter().for_each(|io| t.succeeds(*io));
    }
}

/// A resync is throttled to c-min-rate under application I/O.
#[test]
fn c_min_rate() {
    // KiB/s on the source and on the target, whether the target gets the application's writes meanwhile, and what a
    // resync may reach beside the application.
    for (source, target, replicated, expected) in [
        (1024, 1024, true, 700..1500),
        (0, 1024, true, 700..1500),
        (4000, 4000, true, 2800..5500),
        // A request a turn is served, however large.
        (1024, 0, true, 700..11_000),
        (1024, 1024, false, 700..11_000),
        (0, 0, true, 20_000..110_000),
    ] {
        let mut t = Setup::new(2)
            .sizes([400, 400])
            .with(|c| {
                c.peer_device.c_min_rate = target;
                c.peer_device.resync_without_replication = !replicated;
            })
            .up();
        let options = drbd_engine::options::PeerDeviceOptions {
            c_min_rate: source,
            ..t.c.config.peer_device.clone()
        };
        let (peer, volume) = (node_id(1), vol(0));
        t.ok(
            0,
            Command::PeerDeviceOptions {
                peer,
                volume,
                options,
            },
        );
        t.primary(0);
        busy_for(&mut t, 1);
        t.ok(
            1,
            Command::Invalidate {
                volume,
                from: None,
                reset_bitmap: true,
            },
        );
        t.wait(1, Repl(0, SyncTarget));
        let before = t.resynced(0, 1);
        busy_for(&mut t, 2);
        let begun = t.resynced(0, 1);
        // Twice the time that the speed is averaged over.
        if expected.end < 20_000 {
            busy_for(&mut t, 12);
            let rate = (t.resynced(0, 1) - begun) * 4 / 12;
            assert!(expected.contains(&rate), "{source}, {target}: {rate} KiB/s");
            t.expect(1, Repl(0, SyncTarget));
            // Nobody is in its way any more.
            t.pass(1);
            let from = t.resynced(0, 1);
            t.pass(2);
            let rate = (t.resynced(0, 1) - from) * 4 / 2;
            assert!(rate > 20_000 || t.is(1, Disk(UpToDate)), "{rate} KiB/s");
        } else {
            let rate = (begun - before) * 4 / 2;
            assert!(expected.contains(&rate), "{source}, {target}: {rate} KiB/s");
        }
        t.healthy();
        t.same_content(0..2);
        t.finish();
    }
}
