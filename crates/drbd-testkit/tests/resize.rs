//! Disks that grow below a device in use, and resources that get another name.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs::OpenOptions;

use common::{PATIENCE, small, told};
use drbd_testkit::load::Expected;
use drbd_testkit::rng::Rng;
use drbd_testkit::{Cluster, Context, Result};

/// Makes the file of a disk longer, as `lvextend` does with a logical volume.
fn grow(c: &Cluster, id: u8, bytes: u64) -> Result<()> {
    let path = c.node(id).disk(0);
    let file = OpenOptions::new()
        .write(true)
        .open(path)
        .context(path.display())?;
    file.set_len(file.metadata()?.len() + bytes)?;
    Ok(())
}

#[test]
fn disks_grow_and_the_device_follows() -> Result<()> {
    told(Cluster::new("grow", small())?, |c| {
        c.bring_up_in_sync(0)?;
        let mut expected = Expected::default();
        let mut rng = Rng::new(1);
        let mut volume = c.node(0).open(0)?;
        let old = volume.size();
        for _ in 0..50 {
            expected.write(&mut volume, &mut rng, old, 16)?;
        }
        drop(volume);
        for id in [0, 1] {
            grow(c, id, 8 << 20)?;
        }
        c.node(0).adm("resize")?;
        c.node(1)
            .wait("the new size", PATIENCE, |s| s.size(0) > old)?;
        c.wait_in_sync(PATIENCE)?;
        let mut volume = c.node(0).open(0)?;
        let new = volume.size();
        assert!(new >= old + (7 << 20), "{old} -> {new}");
        for _ in 0..100 {
            expected.write(&mut volume, &mut rng, new, 16)?;
        }
        expected.check(&mut volume)?;
        drop(volume);
        c.compare(&[0, 1], 0)?;

        // A smaller one by request; `show` says so on both nodes.
        let minor = c.node(0).minor(0).to_string();
        let half = new / 512 / 16 * 8;
        let size = format!("--size={half}s");
        let node = c.node(0);
        node.drbdsetup(&["resize", &minor, &size])?.ok()?;
        for id in [0, 1] {
            c.node(id)
                .wait("the smaller size", PATIENCE, |s| s.size(0) == half * 512)?;
            let shown = c.node(id).drbdsetup(&["show", "grow"])?.ok()?;
            assert!(shown.contains("size"), "{shown}");
        }
        // More than there is.
        let refusal = node
            .drbdsetup(&["resize", &minor, "--size=1024G"])?
            .refused()?;
        assert!(refusal.contains("(111)"), "{refusal}");

        // The metadata is where it belongs: everything comes up again.
        node.drbdsetup(&["resize", &minor])?.ok()?;
        c.wait_in_sync(PATIENCE)?;
        c.node(0).demote()?;
        for id in [0, 1] {
            c.node(id).adm("down")?;
        }
        c.up()?;
        c.wait_in_sync(PATIENCE)?;
        for id in [0, 1] {
            c.node(id)
                .wait("the size", PATIENCE, |s| s.size(0) == new)?;
        }
        Ok(())
    })
}

#[test]
fn a_resource_gets_another_name() -> Result<()> {
    told(Cluster::new("before", small())?, |c| {
        c.bring_up_in_sync(0)?;
        let node = c.node(0);
        node.drbdsetup(&["rename-resource", "before", "after"])?
            .ok()?;
        let role = node.drbdsetup(&["role", "after"])?.ok()?;
        assert_eq!(role.trim(), "Primary");
        node.drbdsetup(&["role", "before"])?.refused()?;
        let status = node.drbdsetup(&["status"])?.ok()?;
        assert!(status.starts_with("after role:Primary"), "{status}");
        let refusal = node
            .drbdsetup(&["rename-resource", "before", "after"])?
            .refused()?;
        assert!(refusal.contains("(158)"), "{refusal}");
        let refusal = node
            .drbdsetup(&["rename-resource", "after", "after"])?
            .refused()?;
        assert!(refusal.contains("(174)"), "{refusal}");
        // The peers do not care, and `down` finds it.
        node.drbdsetup(&["rename-resource", "after", "before"])?
            .ok()?;
        c.node(0).demote()?;
        c.node(0).adm("down").map(drop)
    })
}
