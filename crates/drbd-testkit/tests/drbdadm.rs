//! A cluster of three nodes through `drbdadm` alone, and through every command of its table: one that is not run here fails the
//! test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use common::{PATIENCE, small, told};
use drbd_testkit::load::Expected;
use drbd_testkit::rng::Rng;
use drbd_testkit::wait::until;
use drbd_testkit::{Cluster, Context, Error, Output, Result, Story, binaries};

const RESOURCE: &str = "every";

/// Runs commands, and remembers which.
struct Admin<'a> {
    c: &'a Cluster,
    /// The commands that there are, and whether they are handlers.
    all: BTreeMap<&'static str, bool>,
    done: RefCell<BTreeSet<&'static str>>,
}

impl Admin<'_> {
    fn output(&self, id: u8, words: &[&str]) -> Result<Output> {
        self.remember(words);
        self.c.node(id).drbdadm(words)
    }

    fn remember(&self, words: &[&str]) {
        let name = self.all.keys().find(|name| words.contains(name));
        let name = name.unwrap_or_else(|| panic!("no command in {words:?}"));
        self.done.borrow_mut().insert(name);
    }

    /// A command that must succeed.
    fn run(&self, id: u8, words: &[&str]) -> Result<String> {
        self.output(id, words)?.ok().context(&self.c.node(id).name)
    }

    /// A command whose output has to contain something.
    fn says(&self, id: u8, words: &[&str], wanted: &str) -> Result<()> {
        let output = self.run(id, words)?;
        match output.contains(wanted) {
            true => Ok(()),
            false => Err(Error::new(format!(
                "{words:?} says '{output}', not '{wanted}'"
            ))),
        }
    }

    fn wait(&self, id: u8, what: &str, is: impl Fn(&drbd_testkit::Status) -> bool) -> Result<()> {
        self.c.node(id).wait(what, PATIENCE, is).map(drop)
    }
}

/// A selector of a connection, and of what is in it.
fn with(peer: u8) -> String {
    format!("{RESOURCE}:node{}", peer + 1)
}

fn metadata(a: &Admin<'_>) -> Result<()> {
    let volume = format!("{RESOURCE}/0");
    for id in 0..3 {
        a.run(id, &["create-md", "--force", "--max-peers=7", RESOURCE])?;
    }
    a.says(2, &["dump-superblock", RESOURCE], "\"current_uuid\"")?;
    a.says(2, &["dump-md", RESOURCE], "version \"v09\";")?;
    a.run(2, &["apply-al", RESOURCE])?;
    a.run(2, &["repair-md", RESOURCE])?;
    let peer = format!("{RESOURCE}:node1/0");
    a.run(
        2,
        &["--", "--force", "1234567890ABCDE0:::", "set-gi", &peer],
    )?;
    a.says(2, &["get-gi", &with(0)], "1234567890ABCDE0:")?;
    a.says(2, &["show-gi", &with(0)], "1234567890ABCDE0")?;
    a.says(2, &["dstate", &volume], "Inconsistent")?;
    // It has no data that could be old.
    let outdate = a.output(2, &["outdate", RESOURCE])?;
    assert_eq!(outdate.code, Some(5), "{outdate:?}");
    a.run(2, &["wipe-md", "--force", RESOURCE])?;
    a.output(2, &["dump-md", RESOURCE])?.refused()?;
    a.run(2, &["create-md", "--force", "--max-peers=7", RESOURCE])?;
    Ok(())
}

fn step_by_step(a: &Admin<'_>) -> Result<()> {
    for command in [
        "sh-nop",
        "new-resource",
        "new-minor",
        "new-peer",
        "new-path",
        "peer-device-options",
        "attach",
        "resource-options",
        "disk-options",
        "net-options",
        "connect",
    ] {
        match command {
            "sh-nop" => a.run(0, &[command])?,
            _ => a.run(0, &[command, RESOURCE])?,
        };
    }
    a.says(0, &["cstate", &with(1)], "nnect")?;
    a.run(1, &["up", RESOURCE])?;
    a.run(2, &["up", RESOURCE])?;
    for id in 0..3 {
        a.run(id, &["wait-connect", RESOURCE])?;
    }
    a.c.wait_connected(PATIENCE)?;
    a.run(
        0,
        &[
            "--clear-bitmap",
            "new-current-uuid",
            &format!("{RESOURCE}/0"),
        ],
    )?;
    a.c.wait_in_sync(PATIENCE)
}

fn questions(a: &Admin<'_>) -> Result<()> {
    a.says(0, &["role", RESOURCE], "Secondary")?;
    a.says(0, &["peer-role", &with(1)], "Secondary")?;
    a.says(0, &["cstate", &with(1)], "Connected")?;
    a.says(0, &["dstate", RESOURCE], "UpToDate/UpToDate/UpToDate")?;
    a.says(0, &["status", RESOURCE], "disk:UpToDate")?;
    a.says(0, &["get-gi", &with(1)], ":1:1:")?;
    a.says(0, &["show-gi", &with(1)], "consistent")?;
    a.says(0, &["dump", RESOURCE], "resource")?;
    a.says(0, &["dump-xml", RESOURCE], "<resource")?;
    a.says(0, &["hidden-commands"], "sh-nop")?;
    a.says(0, &["sh-resources"], RESOURCE)?;
    a.says(0, &["sh-resource", RESOURCE], RESOURCE)?;
    let minor = a.c.node(0).minor(0).to_string();
    let disk = a.c.node(0).disk(0).display().to_string();
    a.says(
        0,
        &["sh-list-config-file", RESOURCE],
        &format!(":{RESOURCE}"),
    )?;
    let adjustable = a.run(0, &["sh-list-adjustable", RESOURCE])?;
    assert_eq!(adjustable, "");
    a.says(0, &["sh-mod-parms"], "minor_count=")?;
    a.says(0, &["sh-dev", RESOURCE], &format!("/dev/drbd{minor}"))?;
    a.says(
        0,
        &["sh-udev", &format!("minor-{minor}")],
        &format!("DEVICE=drbd{minor}"),
    )?;
    a.says(0, &["sh-minor", RESOURCE], &minor)?;
    a.says(0, &["sh-ll-dev", RESOURCE], &disk)?;
    a.says(0, &["sh-md-dev", RESOURCE], &disk)?;
    a.says(0, &["sh-md-idx", RESOURCE], "internal")?;
    for peer in [1, 2] {
        let by = match a.c.story() {
            Story::BlockDevice => peer,
            Story::Nbd => 0,
        };
        let address = a.c.address(0, by).ip().to_string();
        a.says(0, &["sh-ip", &with(peer)], &address)?;
    }
    a.run(0, &["wait-con-int"])?;
    Ok(())
}

fn at_work(a: &Admin<'_>) -> Result<()> {
    a.run(0, &["primary", RESOURCE])?;
    let (mut expected, mut rng) = (Expected::default(), Rng::new(3));
    let mut volume = a.c.node(0).open(0)?;
    let size = volume.size();
    for _ in 0..50 {
        expected.write(&mut volume, &mut rng, size, 16)?;
    }
    drop(volume);
    a.run(0, &["verify", &with(1)])?;
    until("the verify is over", PATIENCE, || {
        Ok(a.c.node(0).logged("Online verify done").then_some(()))
    })?;
    a.run(0, &["pause-sync", &with(2)])?;
    a.run(0, &["invalidate-remote", &with(2)])?;
    a.wait(0, "paused", |s| {
        s.peer(2, 0).is_some_and(|p| p.replication == "PausedSyncS")
    })?;
    a.run(0, &["resume-sync", &with(2)])?;
    a.run(2, &["wait-sync", RESOURCE])?;
    a.c.wait_in_sync(PATIENCE)?;
    a.run(1, &["invalidate", &format!("{RESOURCE}/0")])?;
    a.c.wait_in_sync(PATIENCE)?;
    a.run(0, &["suspend-io", RESOURCE])?;
    a.says(0, &["status", RESOURCE], "suspended:user")?;
    a.run(0, &["resume-io", RESOURCE])?;
    a.run(1, &["detach", RESOURCE])?;
    a.wait(0, "the disk of node 2 is away", |s| {
        s.peer(1, 0).is_some_and(|p| p.disk == "Diskless")
    })?;
    a.run(1, &["attach", RESOURCE])?;
    a.c.wait_in_sync(PATIENCE)?;
    for id in 0..3 {
        let path = a.c.node(id).disk(0);
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(path)
            .context(path.display())?;
        file.set_len(file.metadata()?.len() + (8 << 20))?;
    }
    a.run(0, &["resize", RESOURCE])?;
    a.wait(2, "the new size", |s| s.size(0) > size)?;
    // Not while the new part is resynced.
    a.c.wait_in_sync(PATIENCE)?;
    a.run(0, &["check-resize", RESOURCE])?;
    until("the device is closed", PATIENCE, || {
        let output = a.output(0, &["secondary", RESOURCE])?;
        let open = output.code != Some(0) && output.stderr.contains("held open");
        if open {
            Ok(None)
        } else {
            output.ok().map(Some)
        }
    })?;
    // Alone, a Secondary may be told that its data are old.
    a.run(1, &["disconnect", RESOURCE])?;
    a.run(1, &["outdate", RESOURCE])?;
    a.says(1, &["dstate", RESOURCE], "Outdated/")?;
    a.run(1, &["connect", RESOURCE])?;
    a.c.wait_in_sync(PATIENCE)?;
    a.c.compare(&[0, 1, 2], 0)
}

fn settings(a: &Admin<'_>) -> Result<()> {
    a.c.node(0)
        .edit_config(|t| t.replace("ping-int 2;", "ping-int 3;"))?;
    a.says(0, &["sh-list-adjustable", RESOURCE], RESOURCE)?;
    a.run(0, &["adjust", RESOURCE])?;
    let adjustable = a.run(0, &["sh-list-adjustable", RESOURCE])?;
    assert_eq!(adjustable, "");
    let nothing = a.run(0, &["-d", "adjust", RESOURCE])?;
    assert_eq!(nothing, "");
    a.run(0, &["adjust-with-progress", RESOURCE])?;
    // A path goes, and comes back.
    a.run(0, &["disconnect", &with(1)])?;
    a.run(0, &["del-path", &with(1)])?;
    a.run(0, &["new-path", &with(1)])?;
    a.run(0, &["connect", &with(1)])?;
    a.run(0, &["wait-connect", &with(1)])?;
    // A peer as well.
    a.run(0, &["disconnect", &with(2)])?;
    a.run(0, &["del-peer", &with(2)])?;
    a.says(0, &["dstate", RESOURCE], "UpToDate/UpToDate")?;
    a.run(0, &["adjust", RESOURCE])?;
    a.run(2, &["adjust", RESOURCE])?;
    a.c.wait_in_sync(PATIENCE)
}

fn handlers(a: &Admin<'_>) -> Result<()> {
    let mark = a.c.dir().join("handled");
    let node = a.c.node(0);
    let handlers = a.all.iter().filter(|(_, is_handler)| **is_handler);
    let names: Vec<&str> = handlers.map(|(name, _)| *name).collect();
    // Each runs what is configured for it; one has two names.
    let runs = |name| match name {
        "outdate-peer" => "fence-peer",
        name => name,
    };
    let empty = "    handlers {\n";
    let mut section = empty.to_owned();
    for name in names.iter().filter(|name| runs(name) == **name) {
        let mark = mark.display();
        section.push_str(&format!(
            "        {name} \"echo {name} $DRBD_RESOURCE >> {mark}; exit 7\";\n"
        ));
    }
    node.edit_config(|t| t.replacen(empty, &section, 1))?;
    for name in &names {
        let output = a.output(0, &[name, RESOURCE])?;
        assert_eq!(output.code, Some(7), "{name}: {output:?}");
        let said = std::fs::read_to_string(&mark).context(mark.display())?;
        let wanted = format!("{} {RESOURCE}\n", runs(name));
        assert!(said.ends_with(&wanted), "{name}: {said}");
    }
    node.edit_config(|t| t.replacen(&section, empty, 1))?;
    assert!(names.len() > 8, "{names:?}");
    Ok(())
}

/// Stacked resources and proxies have a configuration of their own.
fn elsewhere(a: &Admin<'_>) -> Result<()> {
    let node = a.c.node(0);
    let (dir, name) = (a.c.dir(), &node.name);
    let stacked = dir.join("stacked.conf");
    let other = "\n        disk /dev/null; meta-disk internal; address 10.1.1.2:7001; }\n";
    std::fs::write(
        &stacked,
        format!(
            "global {{ usage-count no; disable-ip-verification; }}\nresource lower {{\n  device minor 900;\n    on {name} {{ node-id 0;\n        disk /dev/null; \
             meta-disk internal; address 10.1.1.1:7001; }}\n    on other {{ node-id 1;{other}}}\nresource upper {{\n    device minor 901;\n    stacked-on-top-of lower {{ node-id 0; address 10.1.1.3:7002; }}\n    \
             on far {{ node-id 1; disk /dev/null; meta-disk internal; address 10.1.1.4:7002; }}\n}}\n"
        ),
    )
    .context(stacked.display())?;
    let proxied = dir.join("proxied.conf");
    let side = |own: &str, id: u8| {
        format!(
            "    on {own} {{ node-id {id}; disk /dev/null; address 127.0.0.1:{port};\n        proxy on {own} {{ inside 127.0.0.1:{inside}; outside 10.2.2.{id}:7005; }} }}\n",
            port = 7100 + u16::from(id),
            inside = 7110 + u16::from(id)
        )
    };
    std::fs::write(
        &proxied,
        format!(
            "global {{ usage-count no; disable-ip-verification; }}\nresource far {{\n    net {{ protocol A; }}\n    device minor 902;\n    meta-disk internal;\n{}{}}}\n",
            side(name, 0),
            side("other", 1)
        ),
    )
    .context(proxied.display())?;
    let control = dir.join("drbd-proxy-ctl");
    let calls = dir.join("proxy-calls");
    std::fs::write(
        &control,
        format!("#!/bin/sh\necho \"$@\" >> {}\n", calls.display()),
    )
    .context(control.display())?;
    std::fs::set_permissions(&control, std::fs::Permissions::from_mode(0o755))
        .context(control.display())?;
    let run = |file: &std::path::Path, words: &[&str]| -> Result<String> {
        let mut command = Command::new(binaries::program("drbdadm")?);
        command
            .arg("-c")
            .arg(file)
            .arg("-p")
            .arg(&control)
            .args(words);
        a.remember(words);
        node.run(command, PATIENCE)?.ok()
    };
    assert_eq!(run(&stacked, &["-S", "sh-lr-of", "upper"])?.trim(), "lower");
    run(&proxied, &["proxy-up", "far"])?;
    run(&proxied, &["proxy-down", "far"])?;
    let said = std::fs::read_to_string(&calls).context(calls.display())?;
    assert!(
        said.contains("add connection") && said.contains("del connection"),
        "{said}"
    );
    Ok(())
}

fn end(a: &Admin<'_>) -> Result<()> {
    a.run(2, &["down", RESOURCE])?;
    a.says(2, &["dump-md", "--force", RESOURCE], "bitmap-index 1;")?;
    a.run(2, &["forget-peer", "--force", &with(1)])?;
    let dump = a.run(2, &["dump-md", "--force", RESOURCE])?;
    let taken = dump.matches("bitmap-index ").count() - dump.matches("bitmap-index -1;").count();
    assert_eq!(taken, 1, "only one of two peers has a place: {dump}");
    a.run(0, &["disconnect", RESOURCE])?;
    a.run(0, &["del-peer", RESOURCE])?;
    a.run(0, &["detach", RESOURCE])?;
    a.run(0, &["del-minor", RESOURCE])?;
    for id in [0, 1] {
        a.run(id, &["down", RESOURCE])?;
        a.says(id, &["status"], "# No currently configured DRBD found.")?;
    }
    Ok(())
}

#[test]
fn every_command() -> Result<()> {
    let mut options = small();
    options.nodes = 3;
    options.net.push("verify-alg crc32c".into());
    told(Cluster::new(RESOURCE, options)?, |c| {
        c.start()?;
        let all: BTreeMap<_, _> = drbd_tools::adm::command_names().collect();
        assert!(all.len() > 70, "{all:?}");
        let a = Admin {
            c,
            all,
            done: RefCell::default(),
        };
        metadata(&a)?;
        step_by_step(&a)?;
        questions(&a)?;
        at_work(&a)?;
        settings(&a)?;
        handlers(&a)?;
        elsewhere(&a)?;
        end(&a)?;
        let done = a.done.borrow();
        let left: Vec<_> = a.all.keys().filter(|name| !done.contains(*name)).collect();
        assert!(left.is_empty(), "not run: {left:?}");
        Ok(())
    })
}
