//! The daemon's log: lines that people and scripts know from the kernel's driver, one for each change of a state, on stderr or in the
//! journal.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::HashMap;
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use common::{PATIENCE, small, told};
use drbd_testkit::load::Expected;
use drbd_testkit::rng::Rng;
use drbd_testkit::wait::until;
use drbd_testkit::{Cluster, Context, Result, Story};

const RESOURCE: &str = "lines";

/// The text of a line without time and level.
fn without_level(line: &str) -> &str {
    let levels = ["ERROR ", "WARN ", "INFO ", "DEBUG "];
    let found = levels.iter().find_map(|level| line.split_once(level));
    let (time, rest) = found.unwrap_or_else(|| panic!("no level: {line}"));
    assert!(time.trim_end().ends_with('Z'), "{line}");
    rest
}

/// `drbd RES[/VOL drbdMINOR][ PEER]: text`: what stands before the colon, and behind it.
fn check_form(line: &str, minor: u32) -> (&str, &str) {
    let line = line
        .strip_prefix("drbd ")
        .unwrap_or_else(|| panic!("{line}"));
    let (head, text) = line.split_once(": ").unwrap_or_else(|| panic!("{line}"));
    assert!(!text.is_empty(), "{line}");
    let words: Vec<&str> = head.split(' ').collect();
    let device = format!("drbd{minor}");
    let fits = match words.as_slice() {
        [RESOURCE] | [RESOURCE, "node2"] => true,
        ["lines/0", d] | ["lines/0", d, "node2"] => *d == device,
        _ => false,
    };
    assert!(fits, "{line}");
    (head, text)
}

/// States and what became of them: `NAME( OLD -> NEW )`.
fn changes(text: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    text.split(" )").filter_map(|part| {
        let (name, states) = part.split_once("( ")?;
        let (old, new) = states.split_once(" -> ")?;
        Some((name.trim(), old, new))
    })
}

/// Every line of a resource has the form, and each change begins where the one before has ended.
fn check_lines(log: &str, minor: u32) -> usize {
    let (mut states, mut count) = (HashMap::new(), 0);
    for line in log.lines() {
        let line = without_level(line);
        if !line.contains(RESOURCE) || line.starts_with("drbdd: ") {
            continue;
        }
        let (head, text) = check_form(line, minor);
        for (name, old, new) in changes(text) {
            let key = (head.to_owned(), name.to_owned());
            let before = states.insert(key, new.to_owned());
            assert!(
                before.as_deref().is_none_or(|before| before == old),
                "{before:?} before {line}"
            );
            assert_ne!(old, new, "{line}");
            count += 1;
        }
    }
    count
}

#[test]
fn name_things_as_the_kernel_does() -> Result<()> {
    let mut options = small();
    options.net.push("verify-alg crc32c".into());
    told(Cluster::new(RESOURCE, options)?, |c| {
        c.bring_up_in_sync(0)?;
        let mut volume = c.node(0).open(0)?;
        let (mut expected, mut rng) = (Expected::default(), Rng::new(5));
        expected.write(&mut volume, &mut rng, 4 << 20, 16)?;
        drop(volume);
        c.node(0).demote()?;
        // Two blocks rot on the peer's disk.
        c.node(1).adm("down")?;
        let disk = std::fs::OpenOptions::new()
            .write(true)
            .open(c.node(1).disk(0))?;
        disk.write_all_at(&[7; 8192], 1 << 20)?;
        drop(disk);
        c.node(1).adm("up")?;
        c.wait_connected(PATIENCE)?;
        c.node(0).adm("verify")?;
        until("the verify is over", PATIENCE, || {
            Ok(c.node(0).logged("Online verify done").then_some(()))
        })?;
        // The peer dies, and the cable of another one is cut.
        c.node_mut(1).kill();
        c.node(0).wait("alone", PATIENCE, |s| {
            s.peer(1, 0).is_some_and(|p| p.replication == "Off")
        })?;

        let node = c.node(0);
        let (log, minor) = (node.whole_log(), node.minor(0));
        for wanted in [
            format!("drbd lines/0 drbd{minor} node2: Out of sync: start=2048, size=16 (sectors)"),
            "drbd lines node2: connection lost: ".to_owned(),
            format!("drbd lines/0 drbd{minor}: disk( "),
            "drbd lines node2: conn( ".to_owned(),
            "drbd lines: role( ".to_owned(),
        ] {
            assert!(log.contains(&wanted), "'{wanted}' is missing in\n{log}");
        }
        let count = check_lines(&log, minor);
        assert!(count > 20, "{log}");
        check_lines(
            &c.node(1).whole_log().replace("node1", "node2"),
            c.node(1).minor(0),
        );
        Ok(())
    })
}

/// The fields of an entry in the journal's own form: `NAME=VALUE`, or a name, the length of the value in eight bytes, and the value.
fn fields(mut entry: &[u8]) -> HashMap<String, String> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut found = HashMap::new();
    while !entry.is_empty() {
        let end = entry.iter().position(|b| *b == b'\n').unwrap();
        let (line, rest) = (text(&entry[..end]), &entry[end + 1..]);
        entry = if let Some((name, value)) = line.split_once('=') {
            found.insert(name.to_owned(), value.to_owned());
            rest
        } else {
            let (length, rest) = rest.split_first_chunk().unwrap();
            let (value, rest) =
                rest.split_at(usize::try_from(u64::from_le_bytes(*length)).unwrap());
            found.insert(line, text(value));
            rest.strip_prefix(b"\n").unwrap()
        };
    }
    found
}

#[test]
fn journal() -> Result<()> {
    let cluster = Cluster::new("journal", small())?;
    if cluster.story() != Story::BlockDevice {
        eprintln!("log: NOT tested with a journal: that needs root, for a /run of its own");
        return Ok(());
    }
    told(cluster, |c| {
        let node = c.node(0);
        // The node has a /run of its own.
        let socket = node.place().run(|| {
            let path = Path::new("/run/systemd/journal");
            std::fs::create_dir_all(path)?;
            UnixDatagram::bind(path.join("socket"))
        })?;
        let socket = socket.context("a socket in the place of the journal's")?;
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        let control = node.dir().join("drbdd.sock").display().to_string();
        let mut daemon = node.spawn(
            "drbdd",
            &[
                "--control",
                &control,
                "--frontend",
                "none",
                "--log-to",
                "journal",
            ],
        )?;
        let until_line = |wanted: &str| -> Result<HashMap<String, String>> {
            let mut entry = vec![0; 1 << 16];
            loop {
                let length = socket.recv(&mut entry).context(wanted)?;
                let fields = fields(&entry[..length]);
                // An empty entry asks whether somebody listens.
                if fields.get("MESSAGE").is_some_and(|m| m.contains(wanted)) {
                    return Ok(fields);
                }
            }
        };
        let first = until_line("drbdd: version")?;
        assert_eq!(first["SYSLOG_IDENTIFIER"], "drbdd");
        node.drbdsetup(&["new-resource", "journal", "0"])?.ok()?;
        node.drbdsetup(&["primary", "journal"])?.ok()?;
        let role = until_line("role( ")?;
        assert_eq!(
            role["MESSAGE"],
            "drbd journal: role( Secondary -> Primary )"
        );
        // Priorities are those of syslog.
        assert!(matches!(&*role["PRIORITY"], "5" | "6"), "{role:?}");
        daemon.kill()?;
        daemon.wait()?;

        // Who asks for a journal that is not there gets no silent daemon.
        node.place()
            .run(|| std::fs::remove_file("/run/systemd/journal/socket"))??;
        let mut command = std::process::Command::new(drbd_testkit::binaries::program("drbdd")?);
        command.args(["--frontend", "none", "--log-to", "journal"]);
        let output = node.run(command, PATIENCE)?;
        assert_eq!(output.code, Some(1), "{output:?}");
        assert!(output.stderr.contains("cannot log"), "{output:?}");
        Ok(())
    })
}
