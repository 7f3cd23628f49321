//! Which volumes are resynced when, and what happens to writes meanwhile.

use drbd_engine::options::DiskOptions;

use crate::words::*;

/// So many volumes, of which the first one has much to resync and the others little, about to be connected.
fn behind(volumes: usize, change: impl FnOnce(&mut drbd_sim::config::Config)) -> Lab {
    let mut t = Setup::new(2)
        .volumes(volumes, volumes)
        .with(|c| {
            c.peer_device.c_max_rate = 2000;
            change(c);
        })
        .up();
    t.primary(0);
    for v in 0..volumes {
        t.write_volume(0, v, [1]);
    }
    t.pass(1);
    t.disconnect(0, 1);
    for v in 0..volumes {
        t.write_volume(0, v, 0..500);
    }
    t.mark();
    t.connect_begin(0, 1);
    t
}

/// Volumes that node 1 gets from node 0 now.
fn running(t: &Lab) -> Vec<usize> {
    let syncs = |v: &usize| t.is(1, ReplOf(0, *v, SyncTarget));
    (0..t.volumes).filter(syncs).collect()
}

/// A dependent resource starts when the other one is done.
#[test]
fn resync_after() {
    let mut t = behind(3, |c| c.resync_after = vec![Some(1), Some(2), None]);
    t.wait(1, ReplOf(0, 2, SyncTarget));
    t.pass_ms(50);
    while t.is(1, ReplOf(0, 2, SyncTarget)) {
        assert_eq!(running(&t), [2]);
        t.expect(1, ReplOf(0, 0, PausedSyncT));
        t.expect(0, ReplOf(1, 0, PausedSyncS));
        t.pass_ms(50);
    }
    t.wait(1, ReplOf(0, 1, SyncTarget));
    t.pass_ms(50);
    while t.is(1, ReplOf(0, 1, SyncTarget)) {
        assert_eq!(running(&t), [1]);
        t.pass_ms(50);
    }
    t.wait(1, ReplOf(0, 0, SyncTarget));
    t.healthy();
    t.finish();

    // The administrator changes his mind.
    let mut t = behind(2, |c| c.resync_after = vec![None, Some(0)]);
    t.wait(1, ReplOf(0, 1, PausedSyncT));
    t.pass_ms(100);
    assert_eq!(running(&t), [0]);
    for n in [0, 1] {
        let options = DiskOptions {
            resync_after: None,
            ..t.c.config.disk.clone()
        };
        let volume = vol(1);
        t.ok(n, Command::DiskOptions { volume, options });
    }
    t.wait(1, ReplOf(0, 1, SyncTarget));
    assert_eq!(running(&t), [0, 1]);
    t.healthy();
    t.finish();

    // What is waited for is paused by somebody else: it is waited for all the same, until its disk is gone.
    let mut t = behind(2, |c| c.resync_after = vec![None, Some(0)]);
    t.wait(1, ReplOf(0, 1, PausedSyncT));
    t.pause_sync(1, 0, true);
    t.wait(1, ReplOf(0, 0, PausedSyncT));
    t.pass(5);
    assert_eq!(running(&t), []);
    t.pause_sync(1, 0, false);
    t.healthy();
    t.finish();
}

/// The node-wide limit counts resync and verify; it pauses and releases; interplay with user pause and disconnect.
#[test]
fn max_parallel_resyncs() {
    // One end limits, or both.
    for ends in [vec![1], vec![0], vec![0, 1]] {
        let mut t = behind(3, |_| {});
        t.wait(1, ReplOf(0, 0, SyncTarget));
        for n in &ends {
            t.c.limit_resyncs(*n, 1);
        }
        t.pass_ms(100);
        assert_eq!(running(&t), [0], "{ends:?}");
        // Paused by the administrator it makes room for another one.
        t.pause_sync(1, 0, true);
        t.pass_ms(300);
        assert_eq!(running(&t), [1], "{ends:?}");
        t.pause_sync(1, 0, false);
        t.pass_ms(100);
        assert_eq!(running(&t), [1], "{ends:?}");
        for n in &ends {
            t.c.limit_resyncs(*n, 2);
        }
        t.pass_ms(300);
        assert_eq!(running(&t).len(), 2, "{ends:?}");
        for n in &ends {
            t.c.limit_resyncs(*n, 1);
        }
        while !running(&t).is_empty() {
            assert!(running(&t).len() < 3);
            t.pass_ms(100);
        }
        t.healthy();
        t.finish();
    }

    // From the start, and over a loss of the connection.
    let mut t = behind(3, |c| c.max_parallel_resyncs = 1);
    t.wait(1, Conn(0, Connected));
    t.pass_ms(500);
    assert_eq!(running(&t).len(), 1);
    t.cut(0, 1);
    t.apart(0, 1);
    t.wait(1, Conn(0, Connected));
    t.pass_ms(500);
    assert_eq!(running(&t).len(), 1);
    t.healthy();
    t.finish();
}

/// A resync without replication writes a bounded amount, and has a final pass with replication.
#[test]
fn resync_without_replication() {
    let mut t = behind(1, |c| c.peer_device.resync_without_replication = true);
    t.wait(0, Repl(1, SyncSource));
    t.pass_ms(100);
    let (data, marks) = (t.packets(0, 1, Cmd::Data), t.packets(0, 1, Cmd::OutOfSync));
    let enabled = t.packets(1, 0, Cmd::EnableReplication);
    // The same blocks again and again, and some that were in sync.
    for round in 0..5 {
        t.write(0, 0..20);
        t.write(0, [3000 + round]);
    }
    t.expect(0, Repl(1, SyncSource));
    assert_eq!(t.packets(0, 1, Cmd::Data), data, "no data meanwhile");
    assert!(t.packets(0, 1, Cmd::OutOfSync) > marks, "but marks");
    assert_eq!(t.packets(1, 0, Cmd::EnableReplication), enabled);
    // Until the last pass.
    t.wait_until("replication is enabled", |c| {
        c.sent_packets(1, 0, Cmd::EnableReplication).0 > enabled
    });
    t.expect(1, Disk(Inconsistent));
    t.healthy();
    assert!(t.resynced(0, 1) <= 500 + 2 * 25, "{}", t.resynced(0, 1));
    t.write(0, [7]);
    assert!(t.packets(0, 1, Cmd::Data) > data);
    t.pass(1);
    t.no_bits();
    t.same_content([0, 1]);
    t.finish();

    // With replication every write is data.
    let mut t = behind(1, |c| c.peer_device.resync_without_replication = false);
    t.wait(0, Repl(1, SyncSource));
    t.pass_ms(100);
    let (data, marks) = (t.packets(0, 1, Cmd::Data), t.packets(0, 1, Cmd::OutOfSync));
    t.write(0, 0..20);
    t.expect(0, Repl(1, SyncSource));
    assert_eq!(t.packets(0, 1, Cmd::Data), data + 20);
    assert_eq!(t.packets(0, 1, Cmd::OutOfSync), marks);
    t.healthy();
    assert_eq!(t.packets(1, 0, Cmd::EnableReplication), 0);
    t.finish();
}
