//! Objects, sizes and requests.

use drbd_sim::app::Profile;
use drbd_sim::cluster::IoKind;

use crate::words::*;

/// Removing peers, paths and resources leaves nothing behind; option changes that fail leave nothing, either.
#[test]
fn ref_count() {
    let mut t = Setup::new(3).up();
    for round in 0..4 {
        let n = round % 3;
        let p = (n + 1) % 3;
        let peer = node_id(p);
        // Two Primaries need protocol C.
        let mut options = t.c.config.net_options(n, p);
        options.protocol = WireProtocol::A;
        options.two_primaries = true;
        let wrong = Command::NetOptions { peer, options };
        for _ in 0..3 {
            assert!(!t.ask(n, wrong.clone()).is_ok());
        }
        t.primary(n);
        t.write(n, [round as u64]);
        t.secondary(n);
        t.disconnect(n, p);
        t.ok(n, Command::DelPeer { peer, force: false });
        t.refuses(n, t.c.connect_command(p), RetCode::ERR_INVALID_REQUEST);
        let commands = t.configure_commands(n);
        for command in commands {
            let about = match &command {
                Command::NewPeer { peer: q, .. }
                | Command::NewPath { peer: q, .. }
                | Command::PeerDeviceOptions { peer: q, .. } => *q == peer,
                _ => false,
            };
            if about {
                t.ok(n, command);
            }
        }
        t.connect(n, p);
        t.healthy();
        t.down(n);
        t.start(n);
        t.healthy();
        t.c.check_quiet();
        t.sound();
    }
    t.same_content(0..3);
    t.finish();
}

/// A resource is renamed repeatedly; all later commands and events use the new name.
#[test]
fn rename() {
    let mut t = Setup::new(2).up();
    t.primary(0);
    for round in 0..3 {
        for n in [0, 1] {
            let name = format!("name{round}{n}");
            t.ok(n, Command::RenameResource { name: name.clone() });
            assert_eq!(t.c.status(n).unwrap().name, name);
        }
        t.write(0, [round]);
        t.disconnect(1, 0);
        t.write(0, [round + 10]);
        t.connect(1, 0);
        t.healthy();
    }
    t.same_content([0, 1]);
    t.finish();
}

const MIB: u64 = 2048;

fn sizes(nodes: usize) -> Setup {
    Setup::new(nodes).with(|c| c.volumes[0].internal = false)
}

fn resize_to(resize: Resize) -> Command {
    Command::Resize {
        volume: vol(0),
        resize,
    }
}

fn all_have(t: &mut Lab, sectors: u64) {
    let nodes = t.running();
    t.wait_until("the new size", |c| {
        nodes.iter().all(|n| c.size(*n, 0) == sectors)
    });
    t.pass(1);
}

/// Resize with and without a size, assume-clean, while disconnected, assume-peer-has-space; a peer too small is
/// rejected; growing on connect; the new area is resynced.
#[test]
fn resize() {
    let mut t = sizes(3).up();
    t.primary(0);
    let old = t.c.size(0, 0);
    t.c.grow_devices(0, 4 << 20);
    t.mark();
    t.ok(0, resize_to(Resize::default()));
    all_have(&mut t, old + 4 * MIB);
    for n in [1, 2] {
        t.wait(n, Disk(UpToDate));
        t.seen(n, Repl(0, SyncTarget));
    }
    t.write(0, [old / 8 + 3]);
    t.secondary(0);
    t.pass(5);
    t.healthy();
    t.same_content(0..3);
    // To a size, and back to all that there is, clean.
    t.ok(
        2,
        resize_to(Resize {
            size: old,
            ..Resize::default()
        }),
    );
    all_have(&mut t, old);
    t.mark();
    let clean = Resize {
        assume_clean: true,
        ..Resize::default()
    };
    t.ok(2, resize_to(clean));
    all_have(&mut t, old + 4 * MIB);
    t.no_resync();
    t.refuses(
        0,
        resize_to(Resize {
            size: old * 3,
            ..Resize::default()
        }),
        RetCode::ERR_DISK_TOO_SMALL,
    );
    t.healthy();
    t.finish();
    // A peer that is away.
    let mut t = sizes(2).up();
    t.primary(0);
    let old = t.c.size(0, 0);
    t.down(1);
    t.c.grow_devices(0, 4 << 20);
    t.ok(0, resize_to(Resize::default()));
    assert_eq!(t.c.size(0, 0), old, "it may have no room");
    let trusting = Resize {
        assume_peer_has_space: true,
        ..Resize::default()
    };
    t.ok(0, resize_to(trusting));
    assert_eq!(t.c.size(0, 0), old + 4 * MIB);
    t.write(0, [old / 8]);
    t.start(1);
    all_have(&mut t, old + 4 * MIB);
    t.healthy();
    t.same_content([0, 1]);
    t.finish();
}

/// After the resync of a resize the target has the right generation: the next resync is bitmap based.
#[test]
fn resize_after_new_current() {
    let mut t = sizes(2).up();
    t.primary(0);
    t.write(0, [1]);
    t.down(1);
    t.write(0, [2]);
    t.start(1);
    t.healthy();
    t.c.grow_devices(0, 4 << 20);
    t.ok(0, resize_to(Resize::default()));
    t.wait(1, Repl(0, SyncTarget));
    t.healthy();
    t.one_generation([0, 1]);
    t.down(1);
    t.write(0, [3, 4]);
    t.pass(1);
    let before = t.resynced(0, 1);
    t.start(1);
    t.healthy();
    let blocks = t.resynced(0, 1) - before;
    assert!((2..=6).contains(&blocks), "{blocks} blocks");
    t.same_content([0, 1]);
    t.finish();
}

/// A diskless Primary is not affected by a peer that is created again, and larger.
#[test]
fn resize_one() {
    let mut t = sizes(3).diskless([2]).up();
    t.primary(2);
    t.write(2, [1]);
    let old = t.c.size(2, 0);
    t.down(1);
    t.write(2, [2]);
    t.pass(1);
    t.c.config.volumes[0].device_bytes[1] += 4 << 20;
    t.c.replace_disk(1, 0, 77).unwrap();
    t.start(1);
    t.healthy();
    assert_eq!(t.c.size(2, 0), old);
    assert_eq!(t.c.size(1, 0), old);
    t.write(2, [3, old / 8 - 1]);
    t.healthy();
    t.same_content([0, 1]);
    t.finish();
}

/// A profile with many requests at once.
fn busy() -> Profile {
    Profile {
        workers: 12,
        think: (0, 500_000),
        reads: 10,
        ..Profile::default()
    }
}

/// Applications run on a node for some time.
fn run_applications(t: &mut Lab, n: usize, ms: u64) {
    t.c.app_start(n);
    t.pass_ms(ms);
    t.c.app_stop();
    t.wait_until("applications stop", |c| c.app_idle());
}

/// Heavy I/O with protocol A.
#[test]
fn protocol_a_io() {
    for nodes in [2, 3] {
        let mut t = Setup::new(nodes).protocol(WireProtocol::A).up();
        t.c.set_profile(busy(), 6000);
        t.primary(0);
        for _ in 0..3 {
            run_applications(&mut t, 0, 2000);
            // The others have a lot to do still.
            t.pass(20);
            t.healthy();
            t.same_content(0..nodes);
        }
        t.no_bits();
        t.finish();
    }
}

/// The activity log under stress, also across crashes: few slots, writes all over the device.
#[test]
fn stress_al() {
    for power in [false, true] {
        let mut t = Setup::new(2).with(|c| c.disk.al_extents = 7).up();
        t.c.set_profile(Profile { hot: 0, ..busy() }, 4000);
        for n in [0, 1, 0] {
            t.primary(n);
            t.c.app_start(n);
            t.pass_ms(700);
            if power {
                t.power_off(n);
                t.pass(25);
            } else {
                t.crash(n);
            }
            t.start(n);
            t.healthy();
            t.same_content([0, 1]);
        }
        t.finish();
    }
}

/// Odd shapes of requests; the detach of the last data is refused; what goes to disk and peer is the same.
#[test]
fn unusual_bios() {
    let mut t = Setup::new(2).up();
    t.primary(0);
    let size = t.c.size(0, 0);
    let write = IoKind::Write { fua: false };
    for (kind, sector, sectors) in [
        (write, 0, 1),
        (write, 7, 2),
        (write, 1, 255),
        (write, 8191, 3),
        (write, size - 1, 1),
        (write, size - 2048, 2048),
        (IoKind::Write { fua: true }, 15, 17),
        (IoKind::Discard, 64, 8),
        (IoKind::Flush, 0, 0),
        (IoKind::Read, 3, 9),
        (IoKind::Read, size - 7, 7),
    ] {
        let io = t.c.submit(0, 0, kind, sector, sectors);
        t.succeeds(io);
    }
    let at_once: Vec<u64> = (0..50).map(|i| t.c.submit(0, 0, write, i * 3, 7)).collect();
    at_once.into_iter().for_each(|io| t.succeeds(io));
    t.healthy();
    t.same_content([0, 1]);
    t.detach(1);
    t.refuses(0, t.detach_command(0), RetCode::NO_UP_TO_DATE_DISK);
    t.write(0, [5]);
    t.attach(1);
    t.healthy();
    t.same_content([0, 1]);
    t.finish();
}

fn verify_command(p: usize) -> Command {
    Command::Verify {
        peer: node_id(p),
        volume: vol(0),
        start: None,
        stop: None,
    }
}

/// Two nodes, of which the second one's disk differs in all blocks without anybody knowing it.
fn differing() -> Lab {
    let mut t = Setup::new(2)
        .with(|c| c.net.verify_alg = "crc32c".into())
        .build();
    let disk = drbd_sim::format::create(&t.c.config, 1, 0, 77).unwrap();
    t.c.nodes[1].disks[0] = Some(disk);
    t.up();
    assert_ne!(t.content(0, 5), t.content(1, 5));
    t
}

/// Differences are found and logged; a reconnect resyncs them.
#[test]
fn verify() {
    for (n, p) in [(0, 1), (1, 0)] {
        let mut t = differing();
        t.mark();
        t.ok(n, verify_command(p));
        t.events(n, [Repl(p, VerifyS), Repl(p, Established)]);
        t.seen(p, Repl(n, VerifyT));
        let blocks = t.c.size(0, 0).div_ceil(8);
        assert_eq!(t.out_of_sync(n, p), blocks);
        assert!(t.logged(n, "ut of sync"), "it is logged");
        for m in [0, 1] {
            t.expect(m, Disk(UpToDate));
        }
        t.disconnect(n, p);
        t.primary(0);
        t.write(0, [1]);
        t.connect(n, p);
        t.healthy();
        t.same_content([0, 1]);
        t.mark();
        t.ok(n, verify_command(p));
        t.events(n, [Repl(p, VerifyS), Repl(p, Established)]);
        assert_eq!(t.out_of_sync(n, p), 0);
        t.finish();
    }
}

/// A verify ends although its target becomes Inconsistent.
#[test]
fn verify_target_becomes_inconsistent() {
    let mut t = Setup::new(3)
        .with(|c| c.net.verify_alg = "crc32c".into())
        .up();
    t.slow_disk(0, 20);
    t.ok(0, verify_command(1));
    t.wait(1, Repl(0, VerifyT));
    t.mark();
    let invalidate = Command::Invalidate {
        volume: vol(0),
        from: Some(node_id(2)),
        reset_bitmap: true,
    };
    t.ok(1, invalidate);
    t.wait(1, Disk(Inconsistent));
    t.slow_disk(0, 0);
    t.wait_until("the verify ends", |c| c.peer_device(0, 1, 0).0 != VerifyS);
    t.healthy();
    t.same_content(0..3);
    t.finish();
}

/// Writes to a third node with a slow link during a resync: no deadlock.
#[test]
fn write_during_resync() {
    for slow in [1, 2] {
        let mut t = Setup::new(3).up();
        t.primary(0);
        t.write(0, [1]);
        t.pass(1);
        t.down(2);
        t.write(0, 100..300);
        t.delay(0, slow, Cmd::Data, 150);
        t.slow_disk(0, 20);
        t.start(2);
        t.wait_until("a resync", |c| {
            [0, 1]
                .iter()
                .any(|s| c.peer_device(2, *s, 0).0 == SyncTarget)
        });
        let ios: Vec<u64> = (0..60).map(|i| t.begin_write(0, 100 + i * 3)).collect();
        ios.into_iter().for_each(|io| t.succeeds(io));
        t.slow_disk(0, 0);
        t.healthy();
        t.delay(0, slow, Cmd::Data, 0);
        t.same_content(0..3);
        t.finish();
    }
}
