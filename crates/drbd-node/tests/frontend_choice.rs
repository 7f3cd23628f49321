//! Which frontend a daemon has, and the links to what it offers.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::Path;

use common::{is_root, volume};
use drbd_node::frontend::Frontend;
use drbd_node::frontend::choose::{Choice, Frontends, Settings};
use drbd_node::frontend::nbd::client::list;

fn settings(choice: &str, dir: &Path) -> Settings {
    Settings {
        choice: choice.parse().unwrap(),
        nbd: Vec::new(),
        run_dir: dir.into(),
        system: false,
    }
}

#[test]
fn names() {
    for name in ["auto", "ublk", "loop", "fuse", "nbd"] {
        assert_eq!(name.parse::<Choice>().unwrap().to_string(), name);
    }
    let error = "floppy".parse::<Choice>().unwrap_err().to_string();
    assert!(
        error.contains("floppy") && error.contains("auto"),
        "{error}"
    );
}

#[test]
fn auto_takes_the_best_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let frontends = Frontends::new(&settings("auto", dir.path())).unwrap();
    let reason = frontends.reason();
    assert!(reason.starts_with(frontends.name()), "{reason}");
    let exists = |p: &str| Path::new(p).exists();
    if exists("/dev/ublk-control") {
        eprintln!("NOT TESTED: what auto takes without ublk, because ublk is here");
        return;
    }
    assert!(reason.contains("not ublk"), "{reason}");
    let expect = match (is_root(), exists("/dev/fuse"), exists("/dev/loop-control")) {
        (true, true, true) => "loop",
        (true, true, false) => "fuse",
        (false, true, _) => {
            eprintln!("NOT TESTED: what auto takes with root");
            return;
        }
        _ => "nbd",
    };
    assert_eq!(frontends.name(), expect, "{reason}");
}

#[test]
fn what_is_asked_for_by_name_is_needed() {
    if Path::new("/dev/ublk-control").exists() {
        eprintln!("NOT TESTED: the error without ublk, because ublk is here");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let error = Frontends::new(&settings("ublk", dir.path()))
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("ublk"), "{error}");
}

#[test]
fn nbd_with_links() {
    let dir = tempfile::tempdir().unwrap();
    let frontends = Frontends::new(&settings("nbd", dir.path())).unwrap();
    let (volume, _back) = volume("r0");
    let attached = frontends.attach(volume.handle().clone()).unwrap();
    let link = dir.path().join("by-res/r0/0");
    assert_eq!(
        std::fs::read_link(&link).unwrap(),
        dir.path().join("nbd.sock")
    );
    let address = format!("unix:{}", link.display()).parse().unwrap();
    assert_eq!(list(&address).unwrap(), ["r0/0"]);
    assert_eq!(attached.device(), None);
    attached.detach();
    assert!(std::fs::symlink_metadata(&link).is_err());
    drop(frontends);
    assert!(!dir.path().join("nbd.sock").exists());
}

#[test]
fn a_device_with_links_and_an_nbd_server_beside_it() {
    if !is_root() {
        eprintln!("NOT TESTED: loop devices need root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("beside.sock");
    let mut settings = settings("loop", dir.path());
    settings.nbd = vec![format!("unix:{}", socket.display()).parse().unwrap()];
    let frontends = Frontends::new(&settings).unwrap();
    let (volume, back) = volume("r1");
    let attached = frontends.attach(volume.handle().clone()).unwrap();
    let device = attached.device().unwrap();
    let link = dir.path().join("by-res/r1/0");
    assert_eq!(std::fs::read_link(&link).unwrap(), device);
    let mut client =
        drbd_node::frontend::nbd::client::Client::connect(&settings.nbd[0], "r1").unwrap();
    client.write(0, &[3; 4096], false).unwrap();
    assert_eq!(
        &std::fs::read(&link).unwrap()[..4096],
        common::content(&back, 0, 4096)
    );
    attached.detach();
    assert!(std::fs::symlink_metadata(&link).is_err());
}
