//! Disks that were provisioned with one day-0 identifier and equal content.

use crate::words::*;

/// The first write from a day-0 UUID makes a new generation even with all peers connected.
#[test]
fn day0_uuid_diskful_primary() {
    for nodes in [2, 3] {
        let mut t = Setup::new(nodes).up();
        let day0 = t.one_generation(0..nodes);
        t.primary(0);
        assert_eq!(t.one_generation(0..nodes), day0, "nothing is written yet");
        t.write(0, [1]);
        let first = t.one_generation(0..nodes);
        assert_ne!(first, day0);
        for n in 0..nodes {
            assert_eq!(t.uuids(n).history, [day0]);
        }
        t.secondary(0);
        t.primary(1);
        t.write(1, [2]);
        assert_eq!(t.one_generation(0..nodes), first, "one is enough");
        t.no_resync();
        t.finish();
    }
}

/// The same with a diskless Primary: the storage nodes move away from the day-0 UUID.
#[test]
fn day0_uuid_diskless_primary() {
    for storage in [1, 2] {
        let mut t = Setup::new(storage + 1).diskless([storage]).up();
        let day0 = t.one_generation(0..storage);
        t.primary(storage);
        assert_eq!(t.one_generation(0..storage), day0);
        t.write(storage, [1]);
        t.pass(1);
        assert_ne!(t.one_generation(0..storage), day0);
        assert_eq!(t.uuids(0).history, [day0]);
        t.healthy();
        t.no_resync();
        t.finish();
    }
}

/// A node re-provisioned with the day-0 UUID must become sync target; it must not be taken as current.
#[test]
pub(crate) fn day0_uuid_three_node() {
    for spare in [0, 1] {
        for (primary, again) in [(0, 2), (0, 0), (2, 1)] {
            let mut t = Setup::new(3).with(|c| c.spare_slots = spare).up();
            t.primary(primary);
            t.write(primary, [1, 2, 3]);
            t.secondary(primary);
            t.down(again);
            let other = (again + 1) % 3;
            t.replace_disk(again);
            t.mark();
            t.start(again);
            t.event(again, Disk(Inconsistent));
            t.event(again, Disk(UpToDate));
            t.healthy();
            t.never(other, Disk(Inconsistent));
            t.same_content(0..3);
            t.one_generation(0..3);
            let sources = (0..3).filter(|n| t.resynced(*n, again) > 0).count();
            assert!(sources > 0, "nobody has resynced node {again}");
            t.primary(again);
            t.read(again, [1, 2, 3]);
            t.finish();
        }
    }
}
