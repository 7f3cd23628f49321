//! Volumes are added to a resource that is connected.

use crate::words::*;

/// Configures one more volume on a node: the minor, and its disk.
fn add(t: &mut Lab, n: usize, v: usize) {
    let commands = t.c.configure_commands(n);
    for command in commands {
        match &command {
            Command::NewMinor { volume, .. } if *volume == vol(v) => t.ok(n, command),
            Command::PeerDeviceOptions { volume, .. } if *volume == vol(v) => t.ok(n, command),
            _ => {}
        }
    }
    if t.c.nodes[n].disks[v].is_some() {
        t.attach_volume(n, v);
    }
}

fn wait_for(t: &mut Lab, v: usize, disk: DiskState) {
    for n in 0..t.nodes() {
        let client = t.c.config.diskless[n];
        t.wait(n, DiskOf(v, if client { Diskless } else { disk }));
        for p in (0..t.nodes()).filter(|p| *p != n) {
            t.wait(n, ReplOf(p, v, Established));
            let client = t.c.config.diskless[p];
            t.wait(n, PeerDiskOf(p, v, if client { Diskless } else { disk }));
        }
    }
    t.pass(1);
}

/// Volumes added to a connected resource of four nodes, a client included, one node at a time or all at once; new volumes
/// end Inconsistent; `--force-resync` gives SyncSource, then Established, `--clear-bitmap` no resync; clients see
/// UpToDate, also as Primary.
#[test]
fn add_disk() {
    for at_once in [false, true] {
        for force_resync in [true, false] {
            for primary in [None, Some(3), Some(0)] {
                let mut t = Setup::new(4).blank().diskless([3]).volumes(2, 1).up();
                t.ok(0, t.new_current_uuid(0, true, false));
                t.healthy();
                if let Some(n) = primary {
                    t.primary(n);
                    t.write(n, [1]);
                }
                t.mark();
                for n in 0..4 {
                    add(&mut t, n, 1);
                    if !at_once {
                        t.pass(1);
                    }
                }
                wait_for(&mut t, 1, Inconsistent);
                t.volumes = 2;
                t.ok(0, t.new_current_uuid(1, !force_resync, force_resync));
                if force_resync {
                    t.wait_until("a source", |c| {
                        (1..3).any(|n| c.peer_device(0, n, 1).0 == SyncSource)
                    });
                    for n in [1, 2] {
                        t.events(n, [DiskOf(1, UpToDate)]);
                        let sources = (0..3).filter(|p| t.was(n, ReplOf(*p, 1, SyncTarget)));
                        assert!(sources.count() > 0);
                    }
                }
                wait_for(&mut t, 1, UpToDate);
                t.seen(3, PeerDiskOf(0, 1, UpToDate));
                if !force_resync {
                    t.no_resync();
                }
                for n in 0..3 {
                    t.never(n, ReplOf((n + 1) % 3, 0, SyncTarget));
                }
                let writer = primary.unwrap_or(3);
                if primary.is_none() {
                    t.primary(writer);
                }
                t.write_volume(writer, 1, [1, 2]);
                t.healthy();
                t.same_content_of(1, 0..3);
                t.finish();
            }
        }
    }
}

/// The same while state packets are delayed; `--force-resync` on one side brings the other side to UpToDate.
#[test]
fn add_disk_concurrent() {
    for (slow, fast) in [(0, 1), (1, 0)] {
        for begins in [0, 1] {
            let mut t = Setup::new(2).blank().volumes(2, 1).up();
            t.ok(0, t.new_current_uuid(0, true, false));
            t.healthy();
            t.delay(slow, fast, Cmd::State, 400);
            for n in [0, 1] {
                add(&mut t, n, 1);
            }
            wait_for(&mut t, 1, Inconsistent);
            t.mark();
            t.ok(begins, t.new_current_uuid(1, false, true));
            t.events(
                begins,
                [
                    ReplOf(1 - begins, 1, SyncSource),
                    ReplOf(1 - begins, 1, Established),
                ],
            );
            t.wait(1 - begins, DiskOf(1, UpToDate));
            t.delay(slow, fast, Cmd::State, 0);
            t.volumes = 2;
            t.healthy();
            t.primary(1 - begins);
            t.write_volume(1 - begins, 1, [5]);
            t.same_content_of(1, 0..2);
            t.finish();
        }
    }
}

/// `--force-resync` really transfers the chosen volumes; others are untouched.
#[test]
fn force_resync() {
    let mut t = Setup::new(3).fresh().volumes(3, 3).up();
    t.mark();
    for v in [0, 2] {
        t.ok(0, t.new_current_uuid(v, false, true));
    }
    for v in [0, 2] {
        for n in [1, 2] {
            t.wait(n, DiskOf(v, UpToDate));
            let sources = (0..3).filter(|p| t.was(n, ReplOf(*p, v, SyncTarget)));
            assert!(sources.count() > 0);
        }
        wait_for(&mut t, v, UpToDate);
        t.same_content_of(v, 0..3);
    }
    for n in 0..3 {
        t.expect(n, DiskOf(1, Inconsistent));
        t.never(n, DiskOf(1, UpToDate));
        for p in 0..3 {
            t.never(n, ReplOf(p, 1, SyncTarget));
        }
    }
    assert_ne!(t.content_of(0, 1, 7), t.content_of(1, 1, 7));
    t.finish();
}
