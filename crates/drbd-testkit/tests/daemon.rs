//! The daemon's life: it comes when the first command needs it
//! and ends in order; and what commands say without it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{PATIENCE, small, told};
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
