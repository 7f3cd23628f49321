//! Disks that fail or fill up.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Bystander, PATIENCE, small, told};
use drbd_testkit::load::Expected;
use drbd_testkit::rng::Rng;
use drbd_testkit::{Cluster, Context, Result, Story};
use rustix::mount::{MountFlags, mount};

/// The file behind a disk cannot grow any more: its file system is full.
#[test]
fn full_backing_disk() -> Result<()> {
    let mut options = small();
    // Internal metadata is written at once by create-md; the data is what finds no space.
    options.disk.push("on-io-error detach".to_owned());
    if options.story != Story::BlockDevice {
        eprintln!(
            "NOT tested: a full backing disk; it needs a small file system of its own, that is root"
        );
        return Ok(());
    }
    told(Cluster::new("full", options)?, |c| {
        // In a file system of 12 MiB the file of 32 MiB has no room.
        let at = c.dir().join("small");
        std::fs::create_dir_all(&at)?;
        for id in [0, 1] {
            let at = at.clone();
            if id == 0 {
                c.node(id).place().run(move || {
                    mount("tmpfs", &at, "tmpfs", MountFlags::NODEV, Some(c"size=12M"))
                        .context(at.display())?;
                    std::fs::File::create(at.join("disk.img"))?.set_len(32 << 20)?;
                    Result::Ok(())
                })??;
            }
        }
        c.use_disk(0, 0, at.join("disk.img"))?;
        c.start()?;
        c.create_md()?;
        let bystander = Bystander::new(c, 0)?;
        c.up()?;
        c.wait_connected(PATIENCE)?;
        // The other node has all the data; nothing is resynced to the small disk.
        let node = c.node(0);
        let minor = node.minor(0).to_string();
        node.drbdsetup(&["new-current-uuid", &minor, "--clear-bitmap"])?
            .ok()?;
        c.wait_in_sync(PATIENCE)?;
        c.node(0).adm("primary")?;
        let mut expected = Expected::default();
        let mut volume = c.node(0).open(0)?;
        let size = volume.size();
        let mut rng = Rng::new(1);
        // The application does not notice: the peer has everything.
        for _ in 0..300 {
            expected.write(&mut volume, &mut rng, size, 16)?;
        }
        c.node(0).wait("gives the disk up", PATIENCE, |s| {
            matches!(s.disk(0), "Failed" | "Diskless")
        })?;
        expected.check(&mut volume)?;
        bystander.check(c.node(0))?;
        drop(volume);
        c.node(0).demote()?;
        c.node(1).adm("primary")?;
        expected.check(&mut c.node(1).open(0)?)
    })
}
