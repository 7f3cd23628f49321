//! The daemon's life: it comes when the first command needs it
//! and ends in order; and what commands say without it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{PATIENCE, small, told};
use drbd_node::control::client::Client;
use drbd_testkit::wait::until;
use drbd_testkit::{Cluster, Context, Error, Node, Result, Story, binaries};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// Process id of the daemon that listens on the control socket of a node.
fn listener(node: &Node) -> Result<Pid> {
    let path = node.dir().join("drbdd.sock");
    let stream = UnixStream::connect(&path).context(path.display())?;
    let peer = rustix::net::sockopt::socket_peercred(&stream).map_err(std::io::Error::from)?;
    Ok(peer.pid)
}

/// A daemon that a command started ends with the test.
struct Ends(Pid);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::KILL);
    }
}

fn ended(pid: Pid) -> bool {
    // Nobody waits for it but this program, whose child it may be.
    let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG);
    test_kill_process(pid).is_err()
}

#[test]
fn on_demand() -> Result<()> {
    told(Cluster::new("demand", small())?, |c| {
        let node = c.node(0);
        // Questions and what is so already need none.
        let status = node.drbdsetup(&["status"])?;
        assert_eq!(status.stdout, "# No currently configured DRBD found.\n");
        for (words, code) in [
            (&["status", "demand"][..], 10),
            (&["status", "--json"], 0),
            (&["show"], 0),
            (&["role", "demand"], 10),
            (&["dstate", "7"], 10),
            (&["down", "demand"], 0),
            (&["down", "all"], 0),
            (&["secondary", "demand"], 0),
            (&["disconnect", "demand", "1"], 0),
            (&["detach", "7"], 0),
            (&["events2", "--now"], 0),
            (&["wait-connect-resource", "demand"], 0),
        ] {
            let output = node.drbdsetup(words)?;
            assert_eq!(output.code, Some(code), "{output:?}");
        }
        assert!(listener(node).is_err(), "nobody was started");
        // Any command that wants to change something gets one, and its answer.
        let output = node.drbdsetup(&["primary", "demand"])?;
        assert_eq!(output.code, Some(10), "{output:?}");
        assert!(
            output.stderr.contains("(158) Unknown resource"),
            "{output:?}"
        );
        let pid = listener(node)?;
        let _ends = Ends(pid);
        node.drbdsetup(&["new-resource", "demand", "0"])?.ok()?;
        assert_eq!(listener(node)?, pid, "one is enough");

        // It lives in the network of its caller.
        let mut own = Command::new("readlink");
        own.arg("/proc/self/ns/net");
        let own = node.run(own, PATIENCE)?.ok()?;
        let its = std::fs::read_link(format!("/proc/{}/ns/net", pid.as_raw_nonzero()))?;
        assert_eq!(own.trim(), its.to_string_lossy());

        // A second one for the same socket is refused, and does no harm.
        let mut second = Command::new(binaries::program("drbdd")?);
        second.arg("--control").arg(node.dir().join("drbdd.sock"));
        let output = node.run(second, PATIENCE)?;
        assert!(output.code.is_some_and(|code| code != 0), "{output:?}");
        assert!(
            output.stderr.contains("another daemon listens"),
            "{output:?}"
        );
        assert_eq!(node.drbdsetup(&["role", "demand"])?.ok()?, "Secondary\n");

        // Who watches learns of the end; who comes later finds no trace.
        let watcher = node.spawn("drbdsetup", &["events2", "all"])?;
        until("events2 watches", PATIENCE, || {
            let pid = i32::try_from(watcher.id()).ok().and_then(Pid::from_raw);
            Ok(pid.filter(|_| node.drbdsetup(&["status"]).is_ok()))
        })?;
        std::thread::sleep(Duration::from_millis(500));
        kill_process(pid, Signal::TERM).map_err(std::io::Error::from)?;
        let start = Instant::now();
        until("it ends", Duration::from_secs(10), || {
            Ok(ended(pid).then_some(()))
        })?;
        assert!(start.elapsed() < Duration::from_secs(10));
        assert!(!node.dir().join("drbdd.sock").exists());
        let output = watcher.wait_with_output()?;
        assert_eq!(output.status.code(), Some(121));
        Ok(())
    })
}

#[test]
fn a_dead_daemon() -> Result<()> {
    told(Cluster::new("dead", small())?, |c| {
        c.node_mut(0).start()?;
        c.node(0).drbdsetup(&["new-resource", "dead", "0"])?.ok()?;
        let wait = c.node(0).spawn("drbdsetup", &["events2", "dead"])?;
        std::thread::sleep(Duration::from_millis(500));
        c.node_mut(0).kill();
        assert!(
            c.node(0).dir().join("drbdd.sock").exists(),
            "as after a crash"
        );
        assert_eq!(wait.wait_with_output()?.status.code(), Some(121));
        let node = c.node(0);
        let status = node.drbdsetup(&["status"])?;
        assert_eq!(status.stdout, "# No currently configured DRBD found.\n");
        assert_eq!(node.drbdsetup(&["down", "dead"])?.code, Some(0));
        // The next one takes its place.
        node.drbdsetup(&["new-resource", "dead", "0"])?.ok()?;
        let pid = listener(node)?;
        let _ends = Ends(pid);
        if rustix::process::geteuid().is_root() {
            no_right(node)?;
        } else {
            eprintln!("daemon: NOT tested as another user: that needs root");
        }
        kill_process(pid, Signal::TERM).map_err(std::io::Error::from)?;
        until("it ends", Duration::from_secs(10), || {
            Ok(ended(pid).then_some(()))
        })
    })
}

/// Another user gets an exit code and a word, not a daemon.
fn no_right(node: &Node) -> Result<()> {
    // Programs and sockets are below directories that others may not read.
    let readable = std::env::temp_dir().join(format!("drbd-right-{}", std::process::id()));
    std::fs::create_dir_all(&readable)?;
    let program = readable.join("drbdsetup");
    std::fs::copy(binaries::program("drbdsetup")?, &program)?;
    let mut failures = Vec::new();
    for words in [&["status"][..], &["primary", "dead"], &["events2", "--now"]] {
        let mut command = Command::new(&program);
        command.args(words).uid(65534).gid(65534).current_dir("/");
        let output = node.run(command, PATIENCE)?;
        let told = output.stderr.to_lowercase().contains("permission denied");
        if output.code != Some(20) || !told {
            failures.push(format!("{output:?}"));
        }
    }
    std::fs::remove_dir_all(&readable)?;
    match failures.is_empty() {
        true => Ok(()),
        false => Err(Error::new(failures.join("\n"))),
    }
}

/// The row `invalid-names`: of resources, new ones and those renamed, and of connections.
#[test]
fn invalid_names() -> Result<()> {
    told(Cluster::new("names", small())?, |c| {
        c.node_mut(0).start()?;
        let node = c.node(0);
        let refused = |words: &[&str], code: &str| {
            let output = node.drbdsetup(words)?;
            assert_eq!(output.code, Some(10), "{output:?}");
            assert!(output.stderr.contains(code), "{output:?}");
            Ok::<(), Error>(())
        };
        node.drbdsetup(&["new-resource", "plain", "0"])?.ok()?;
        node.drbdsetup(&["new-peer", "plain", "1", "--_name=one"])?
            .ok()?;
        let long = "n".repeat(128);
        for name in ["a/b", "/", "a b", " ", "a\u{a0}/", ".", "..", &long] {
            refused(&["new-resource", name, "0"], "(162)")?;
            refused(&["rename-resource", "plain", name], "(162)")?;
            let option = format!("--_name={name}");
            refused(&["new-peer", "plain", "2", &option], "(162)")?;
        }
        refused(&["new-resource", "all", "0"], "(162)")?;
        refused(&["new-peer", "plain", "2", "--_name="], "(126)")?;
        refused(&["new-peer", "plain", "2", "--_name=one"], "(174)")?;
        // The tool has an opinion of its own about these.
        for name in ["", "a\nb", "a\tb", "\u{7f}", "\u{1}"] {
            let output = node.drbdsetup(&["new-resource", name, "0"])?;
            assert!(matches!(output.code, Some(10 | 20)), "{output:?}");
        }
        // So does the daemon, whoever asks it.
        for (name, code) in [("", 126), ("a\nb", 162), ("\u{7f}", 162)] {
            let mut client = Client::connect(&node.dir().join("drbdd.sock"))
                .map_err(|e| Error::new(e.to_string()))?;
            let outcome = client
                .request("new-resource", &[name, "0"], Vec::new(), false)
                .map_err(|e| Error::new(e.to_string()))?;
            assert_eq!(outcome.code, code, "{name:?}");
        }
        let mut status: Vec<String> = node
            .drbdsetup(&["status"])?
            .ok()?
            .lines()
            .filter(|l| !l.starts_with(' ') && !l.is_empty())
            .map(str::to_owned)
            .collect();
        status.sort();
        assert_eq!(status, ["plain role:Secondary"]);
        // What looks odd and is not.
        let longest = &long[..127];
        for name in ["a.b", "...", "a+-_b", "allx", longest] {
            node.drbdsetup(&["new-resource", name, "0"])?.ok()?;
            node.drbdsetup(&["down", name])?.ok()?;
        }
        // What is allowed only if the daemon is told so.
        let odd = ["a:b", "r\u{e4}tsel", "a@b", "a%b"];
        for name in odd {
            refused(&["new-resource", name, "0"], "strict_names=1 allows only")?;
        }
        c.node_mut(0).stop()?;
        c.node_mut(0).set_arguments(&["--lax-names"]);
        c.node_mut(0).start()?;
        for name in odd {
            c.node(0).drbdsetup(&["new-resource", name, "0"])?.ok()?;
            c.node(0).drbdsetup(&["down", name])?.ok()?;
        }
        Ok(())
    })
}

/// What the daemon serves itself it never reads: that could wait for itself.
#[test]
fn its_own_devices_are_not_read() -> Result<()> {
    let options = small();
    if options.story != Story::BlockDevice {
        eprintln!("daemon: NOT tested that it does not read its own devices: that needs root");
        return Ok(());
    }
    told(Cluster::new("own", options)?, |c| {
        c.bring_up_in_sync(0)?;
        let node = c.node(0);
        let device = std::fs::canonicalize(node.device(0)).context("device")?;
        let name = device.file_name().unwrap().to_string_lossy().into_owned();
        let read = || {
            let stat = format!("/sys/block/{name}/stat");
            let stat = std::fs::read_to_string(&stat).context(stat)?;
            let sectors = stat.split_whitespace().nth(2).and_then(|n| n.parse().ok());
            sectors.context("sectors read")
        };
        // Somebody may look at a new device; the daemon does not count then.
        let before: u64 = read()?;
        let minor = node.minor(0).to_string();
        node.demote()?;
        for words in [
            &["status"][..],
            &["show"],
            &["events2", "--now"],
            &["get-gi", "own", "1", "0"],
            &["disk-options", &minor, "--al-extents=67"],
            &["resize", &minor],
            &["detach", &minor],
        ] {
            node.drbdsetup(words)?.ok()?;
        }
        node.adm("attach")?;
        node.wait("attached", PATIENCE, |s| s.disk(0) == "UpToDate")?;
        node.adm("primary")?;
        node.demote()?;
        assert_eq!(read()?, before);
        if !name.starts_with("loop") {
            eprintln!("daemon: NOT tested that a loop device of its own is no disk: there is none");
            return Ok(());
        }
        // Not as a disk either, by whatever name.
        node.drbdsetup(&["new-resource", "upper", "0"])?.ok()?;
        let upper = (node.minor(0) + 8).to_string();
        node.drbdsetup(&["new-minor", "upper", &upper, "0"])?.ok()?;
        let link = c.dir().join("link");
        std::os::unix::fs::symlink(&device, &link)?;
        for path in [&device, &node.device(0), &link] {
            let path = path.display().to_string();
            let output = node.drbdsetup(&["attach", &upper, &path, &path, "internal"])?;
            assert_eq!(output.code, Some(10), "{output:?}");
            assert!(output.stderr.contains("(104)"), "{output:?}");
            assert!(
                output.stderr.contains("served by this daemon"),
                "{output:?}"
            );
        }
        assert_eq!(read()?, before);
        node.drbdsetup(&["down", "upper"])?.ok().map(drop)
    })
}

/// With an application that holds the device, and a peer.
#[test]
fn ends_within_ten_seconds() -> Result<()> {
    told(Cluster::new("ends", small())?, |c| {
        c.bring_up_in_sync(0)?;
        let mut volume = c.node(0).open(0)?;
        volume.write(0, &[1; 4096])?;
        let pid = i32::try_from(c.node(0).pid().unwrap())
            .ok()
            .and_then(Pid::from_raw)
            .unwrap();
        kill_process(pid, Signal::TERM).map_err(std::io::Error::from)?;
        let node = c.node_mut(0);
        until("it ends", Duration::from_secs(10), || {
            Ok((!node.is_running()).then_some(()))
        })?;
        let story = c.story();
        if story == Story::BlockDevice {
            // Its device is gone, or fails; nothing hangs.
            let _ = volume.read(0, 4096);
        }
        drop(volume);
        c.node_mut(0).kill();
        Ok(())
    })
}
