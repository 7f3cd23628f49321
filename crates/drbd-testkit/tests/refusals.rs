//! What does not fit is refused with an error that names it; everything else goes on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::net::TcpListener;
use std::os::unix::fs::FileExt;

use common::{Bystander, PATIENCE, file_hash, small, told};
use drbd_testkit::load::Expected;
use drbd_testkit::loopdev::Loop;
use drbd_testkit::rng::Rng;
use drbd_testkit::{Cluster, Result, Story};

/// Asserts that an error names one of these.
fn names(said: &str, any: &[&str]) {
    let lower = said.to_lowercase();
    assert!(
        any.iter().any(|w| lower.contains(&w.to_lowercase())),
        "none of {any:?} in: {said}"
    );
}

#[test]
fn wrong_shared_secret() -> Result<()> {
    let mut options = small();
    options.net.push("cram-hmac-alg sha256".to_owned());
    options
        .net
        .push("shared-secret \"the right one\"".to_owned());
    told(Cluster::new("secret", options)?, |c| {
        c.node(1)
            .edit_config(|t| t.replace("the right one", "a wrong one"))?;
        c.start()?;
        c.create_md()?;
        let bystander = Bystander::new(c, 0)?;
        c.up()?;
        // Both have data, so that a resync would be possible if they got together.
        c.node(0).adm_with("primary", &["--force"])?;
        let before = file_hash(c.node(1).disk(0));
        c.node(0)
            .wait("gives up", PATIENCE, |s| s.connection(1) == "StandAlone")?;
        assert!(
            c.nodes.iter().any(|n| n.logged("uthentication")),
            "the log names it"
        );
        assert_eq!(file_hash(c.node(1).disk(0)), before, "nothing was written");
        bystander.check(c.node(0))?;
        // With the right one it works.
        c.node(1)
            .edit_config(|t| t.replace("a wrong one", "the right one"))?;
        let _ = c.node(1).drbdadm(&["down", "secret"])?;
        c.node(1).adm("up")?;
        c.node(0).adm("connect")?;
        c.wait_in_sync(PATIENCE)?;
        c.compare(&[0, 1], 0)
    })
}

#[test]
fn metadata_of_another_resource() -> Result<()> {
    told(Cluster::new("foreign", small())?, |c| {
        c.start()?;
        c.create_md()?;
        let bystander = Bystander::new(c, 0)?;
        // Each side becomes a volume of its own history.
        for id in [0, 1] {
            let node = c.node(id);
            node.adm("up")?;
            let peer = (1 - id).to_string();
            node.drbdsetup(&["disconnect", "foreign", &peer])?.ok()?;
            node.adm_with("primary", &["--force"])?;
            let mut expected = Expected::default();
            expected.write(&mut node.open(0)?, &mut Rng::new(id.into()), 1 << 20, 4)?;
            node.demote()?;
        }
        let before = [0, 1].map(|id| data_hash(c, id));
        for id in [0, 1] {
            c.node(id).adm("connect")?;
        }
        c.node(0)
            .wait("gives up", PATIENCE, |s| s.connection(1) == "StandAlone")?;
        assert!(
            c.nodes.iter().any(|n| n.logged("unrelated data")),
            "the log names it"
        );
        assert_eq!(
            [0, 1].map(|id| data_hash(c, id)),
            before,
            "no data was written"
        );
        bystander.check(c.node(0))
    })
}

/// Hash of the data of a node's disk, without its metadata.
fn data_hash(c: &Cluster, id: u8) -> u64 {
    let size = c.node(id).status().unwrap().size(0);
    let mut bytes = std::fs::read(c.node(id).disk(0)).unwrap();
    bytes.truncate(usize::try_from(size).unwrap());
    drbd_testkit::rng::hash(&bytes)
}

/// Brings a node up whose disk is not fit, and says what was said.
fn attach_refused(c: &mut Cluster, any: &[&str]) -> Result<()> {
    c.node_mut(0).start()?;
    let bystander = Bystander::new(c, 0)?;
    let disk = c.node(0).disk(0).to_owned();
    let before = disk.is_file().then(|| file_hash(&disk));
    let said = c.node(0).drbdadm(&["up", &c.resource])?.refused()?;
    names(&said, any);
    assert_eq!(
        disk.is_file().then(|| file_hash(&disk)),
        before,
        "nothing was written"
    );
    // The daemon itself says the same, without the tools in front.
    let (minor, text) = (c.node(0).minor(0).to_string(), disk.display().to_string());
    let said = c
        .node(0)
        .drbdsetup(&["attach", &minor, &text, &text, "internal"])?
        .refused()?;
    names(&said, any);
    assert_eq!(
        disk.is_file().then(|| file_hash(&disk)),
        before,
        "nothing was written"
    );
    assert!(c.node_mut(0).is_running());
    bystander.check(c.node(0))
}

#[test]
fn disk_without_metadata() -> Result<()> {
    told(Cluster::new("bare", small())?, |c| {
        let disk = c.node(0).disk(0).to_owned();
        std::fs::write(&disk, vec![0x5a; 8 << 20])?;
        attach_refused(c, &["meta-data", "meta data", "metadata"])
    })
}

#[test]
fn damaged_superblock() -> Result<()> {
    told(Cluster::new("damaged", small())?, |c| {
        c.node(0)
            .adm_with("create-md", &["--force", "--max-peers=1"])?;
        let disk = std::fs::File::options()
            .write(true)
            .open(c.node(0).disk(0))?;
        // The size of the bitmap's place is nonsense now; the magic number is as it was.
        disk.write_all_at(&[0xff; 48], (32 << 20) - 4096 + 64 + 8)?;
        attach_refused(c, &["meta-data", "meta data", "metadata", "superblock"])
    })
}

#[test]
fn disk_that_does_not_exist() -> Result<()> {
    told(Cluster::new("nodisk", small())?, |c| {
        std::fs::remove_file(c.node(0).disk(0))?;
        attach_refused(
            c,
            &[
                "no such file",
                "can not open",
                "cannot open",
                "open backing",
            ],
        )
    })
}

#[test]
fn disk_that_is_too_small() -> Result<()> {
    told(Cluster::new("tiny", small())?, |c| {
        c.start()?;
        c.create_md()?;
        let bystander = Bystander::new(c, 1)?;
        // Too small for any metadata.
        let tiny = c.disk_dir().join("tiny.img");
        std::fs::write(&tiny, vec![7; 16 << 10])?;
        let before = file_hash(&tiny);
        c.use_disk(0, 0, tiny.clone())?;
        let args = ["create-md", "--force", "tiny"];
        let said = c.node(0).drbdadm(&args)?.refused()?;
        names(&said, &["too small", "not enough"]);
        assert_eq!(file_hash(&tiny), before, "nothing was written");
        // Too small for the peer's data.
        let small = c.disk_dir().join("small.img");
        std::fs::File::create(&small)?.set_len(16 << 20)?;
        c.use_disk(0, 0, small)?;
        c.node(0)
            .adm_with("create-md", &["--force", "--max-peers=7"])?;
        c.node(1).adm("up")?;
        c.node(1).adm_with("primary", &["--force"])?;
        let mut expected = Expected::default();
        let mut volume = c.node(1).open(0)?;
        let size = volume.size();
        assert!(size > 31 << 20);
        expected.write(&mut volume, &mut Rng::new(1), size, 32)?;
        c.node(0).adm("up")?;
        c.node(1).wait("refuses", PATIENCE, |s| {
            matches!(s.connection(0), "StandAlone" | "Disconnecting")
        })?;
        assert!(
            c.nodes
                .iter()
                .any(|n| n.logged("too small") || n.logged("smaller")),
            "the log names it"
        );
        assert_eq!(c.node(1).status()?.size(0), size, "the peer keeps its size");
        expected.check(&mut volume)?;
        bystander.check(c.node(1))
    })
}

#[test]
fn disk_in_use() -> Result<()> {
    told(Cluster::new("inuse", small())?, |c| {
        c.node(0)
            .adm_with("create-md", &["--force", "--max-peers=1"])?;
        c.node_mut(0).start()?;
        c.node(0).adm("up")?;
        let bystander = Bystander::new(c, 0)?;
        // By another volume of the same daemon.
        let (minor, disk) = (
            (c.node(0).minor(0) + 9).to_string(),
            c.node(0).disk(0).to_owned(),
        );
        let text = disk.display().to_string();
        c.node(0).drbdsetup(&["new-resource", "thief", "0"])?.ok()?;
        c.node(0)
            .drbdsetup(&["new-minor", "thief", &minor, "0"])?
            .ok()?;
        let attach = ["attach", &minor, &text, &text, "internal"];
        names(
            &c.node(0).drbdsetup(&attach)?.refused()?,
            &["claim", "in use", "busy"],
        );
        // By the daemon of somebody else.
        c.node_mut(1).start()?;
        c.node(1).drbdsetup(&["new-resource", "thief", "1"])?.ok()?;
        c.node(1)
            .drbdsetup(&["new-minor", "thief", &minor, "0"])?
            .ok()?;
        names(
            &c.node(1).drbdsetup(&attach)?.refused()?,
            &["claim", "in use", "busy"],
        );
        assert_eq!(
            c.node(0).status()?.disk(0),
            "Inconsistent",
            "the owner keeps it"
        );
        bystander.check(c.node(0))?;
        if c.story() != Story::BlockDevice {
            eprintln!("NOT tested: a block device that is mounted or claimed; it needs root");
            return Ok(());
        }
        // A block device that the kernel has claimed.
        let file = c.disk_dir().join("claimed.img");
        std::fs::File::create(&file)?.set_len(16 << 20)?;
        let device = Loop::new(&file)?;
        let claim = std::fs::OpenOptions::new();
        let claimed = exclusive(claim, device.path())?;
        let text = device.path().display().to_string();
        let attach = ["attach", &minor, &text, &text, "internal"];
        names(
            &c.node(1).drbdsetup(&attach)?.refused()?,
            &["claim", "in use", "busy"],
        );
        drop(claimed);
        Ok(())
    })
}

/// Opens a block device for nobody else.
fn exclusive(mut options: std::fs::OpenOptions, path: &std::path::Path) -> Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = rustix::fs::OFlags::EXCL.bits().cast_signed();
    Ok(options
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(path)?)
}

#[test]
fn address_in_use() -> Result<()> {
    told(Cluster::new("taken", small())?, |c| {
        let address = match c.story() {
            Story::BlockDevice => c.address(0, 1),
            Story::Nbd => c.address(0, 0),
        };
        let thief = c
            .node(0)
            .place()
            .run(move || TcpListener::bind(address))??;
        c.start()?;
        c.create_md()?;
        let bystander = Bystander::new(c, 0)?;
        let up = c.node(0).drbdadm(&["up", "taken"])?;
        let said = format!("{}{}", up.stdout, up.stderr);
        if up.code == Some(0) {
            // Taken for something that may pass: the log says so, and it is tried again.
            drbd_testkit::wait::until("the log names the address", PATIENCE, || {
                Ok(c.node(0).logged(&address.to_string()).then_some(()))
            })?;
        } else {
            names(&said, &[&address.to_string(), "address"]);
        }
        assert!(c.node_mut(0).is_running());
        bystander.check(c.node(0))?;
        drop(thief);
        if up.code != Some(0) {
            let _ = c.node(0).drbdadm(&["down", "taken"])?;
            c.node(0).adm("up")?;
        }
        c.node(1).adm("up")?;
        c.wait_connected(PATIENCE)
    })
}
