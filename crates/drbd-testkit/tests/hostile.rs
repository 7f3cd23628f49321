//! Clients of the control socket that are broken or mean: the daemon stays up, serves others meanwhile, lets go of what they held, and the
//! application's writes go on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use common::{PATIENCE, small, told};
use drbd_testkit::load::{Expected, Load};
use drbd_testkit::rng::Rng;
use drbd_testkit::wait::until;
use drbd_testkit::{Cluster, Node, Result};

const STATUS: &[u8] = b"{\"version\":2,\"command\":\"status\",\"arguments\":[\"all\"]}\n";
const EVENTS: &[u8] = b"{\"version\":2,\"command\":\"events2\",\"arguments\":[\"all\"]}\n";
/// What the documentation of the protocol allows for a request.
const LONGEST: usize = 1 << 20;

struct Hostile(PathBuf);

impl Hostile {
    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.0).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Everything that is answered before the daemon hangs up.
    fn until_the_end(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        match stream.write_all(bytes) {
            Err(e) if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {}
            sent => sent.unwrap(),
        }
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answers = Vec::new();
        // What was not read when it hung up resets the connection.
        let _ = stream.read_to_end(&mut answers);
        String::from_utf8(answers).unwrap()
    }

    /// Lines of any bytes: an answer to each.
    fn garbage(&self) {
        let mut rng = Rng::new(9);
        let mut bytes = vec![0; 1 << 18];
        rng.fill(&mut bytes);
        bytes.push(b'\n');
        let lines = bytes.iter().filter(|b| **b == b'\n').count();
        let mut stream = self.connect();
        let mut answers = BufReader::new(stream.try_clone().unwrap()).lines();
        let writer = std::thread::spawn(move || stream.write_all(&bytes).map(|()| stream));
        for _ in 0..lines {
            let answer = answers.next().unwrap().unwrap();
            assert!(answer.contains("cannot be read"), "{answer}");
        }
        drop(writer.join().unwrap().unwrap());
    }

    /// Requests that are JSON, but not what they should be.
    fn nonsense(&self) {
        let deep = [b"[".repeat(LONGEST / 2), b"\n".to_vec()].concat();
        let many = format!(
            "{{\"version\":2,\"command\":\"primary\",\"arguments\":[{}\"r\"]}}\n",
            "\"r\",".repeat(100_000)
        );
        for (text, wanted) in [
            (&deep[..], "cannot be read"),
            (many.as_bytes(), "takes 1 arguments"),
            (b"{\"version\":4294967296,\"command\":\"status\"}\n", "cannot be read"),
            (b"{\"version\":3,\"command\":\"status\"}\n", "speaks version 2"),
            (b"{\"version\":2,\"command\":\"\\u001b[2J\\u0000\"}\n", "unknown command"),
            (
                b"{\"version\":2,\"command\":\"new-resource\",\"arguments\":[\"a\\nERROR drbd b: BUG:\",\"0\"]}\n",
                "invalid name",
            ),
            (
                b"{\"version\":2,\"command\":\"new-resource\",\"arguments\":[\"../../x\",\"0\"]}\n",
                "invalid name",
            ),
            (
                b"{\"version\":2,\"command\":\"resize\",\"arguments\":[\"99999999999999999999\"]}\n",
                "Cannot determine minor",
            ),
        ] {
            let answer = self.until_the_end(text);
            let shown = String::from_utf8_lossy(&text[..text.len().min(100)]);
            assert!(answer.contains(wanted), "{shown}: {answer}");
        }
    }

    /// More than a request may have, with an end and without one.
    fn giants(&self) {
        for end in [&b""[..], b"\n"] {
            let bytes = [&vec![b' '; 16 * LONGEST][..], end].concat();
            let answer = self.until_the_end(&bytes);
            // The answer may be lost with what the daemon did not read.
            assert!(answer.is_empty() || answer.contains("too long"), "{answer}");
        }
    }

    /// Ends in the middle of a request, of an answer, and of events.
    fn leaves(&self) {
        for length in 0..STATUS.len() {
            self.connect().write_all(&STATUS[..length]).unwrap();
        }
        for request in [STATUS, EVENTS] {
            for _ in 0..50 {
                let mut stream = self.connect();
                stream.write_all(request).unwrap();
                let _ = stream.read(&mut [0; 10]).unwrap();
            }
        }
    }

    /// Sends requests until nothing fits any more, and reads nothing.
    fn flood(&self) -> UnixStream {
        let mut stream = self.connect();
        stream.set_nonblocking(true).unwrap();
        let quiet = Duration::from_millis(300);
        for _ in 0..100_000 {
            if let Err(e) = stream.write_all(STATUS) {
                assert_eq!(e.kind(), ErrorKind::WouldBlock);
                std::thread::sleep(quiet);
                if stream.write(b" ").is_err() {
                    return stream;
                }
            }
        }
        panic!("it takes everything");
    }
}

/// Threads and open files of a daemon.
fn holds(node: &Node) -> (usize, usize) {
    let pid = node.pid().unwrap();
    let count = |what| {
        std::fs::read_dir(format!("/proc/{pid}/{what}"))
            .unwrap()
            .count()
    };
    (count("task"), count("fd"))
}

#[test]
fn clients() -> Result<()> {
    told(Cluster::new("hostile", small())?, |c| {
        c.bring_up_in_sync(0)?;
        let load = Load::start(c.node(0).open(0)?, Expected::default(), 7, 8 << 20);
        let node = c.node(0);
        let before = holds(node);
        let hostile = Hostile(node.dir().join("drbdd.sock"));
        // After each: others are served, and writes go on.
        let unharmed = |what: &str| -> Result<()> {
            let status = node.drbdsetup(&["status", "hostile"])?.ok()?;
            assert!(status.contains("role:Primary"), "{what}: {status}");
            let batches = load.batches();
            until(what, PATIENCE, || {
                Ok((load.batches() > batches + 2).then_some(()))
            })
        };
        hostile.garbage();
        unharmed("garbage")?;
        hostile.nonsense();
        unharmed("nonsense")?;
        hostile.giants();
        unharmed("giants")?;
        hostile.leaves();
        unharmed("clients that leave")?;

        // These stay: silent ones, half messages, floods, and observers that do not listen.
        let mut there = Vec::new();
        for n in 0..120 {
            let mut stream = hostile.connect();
            match n % 3 {
                0 => {}
                1 => stream.write_all(&STATUS[..n / 3])?,
                _ => stream.write_all(EVENTS)?,
            }
            there.push(stream);
        }
        for _ in 0..8 {
            there.push(hostile.flood());
        }
        unharmed("silent clients and floods")?;

        // More than there may be: the rest is told so, as is drbdsetup, and none of them waits.
        let mut refused = 0;
        while there.len() < 600 {
            let mut stream = hostile.connect();
            let _ = stream.write_all(STATUS);
            let mut answer = String::new();
            let _ = BufReader::new(&stream).read_line(&mut answer);
            refused += usize::from(answer.contains("too many clients"));
            there.push(stream);
        }
        assert!(refused >= 88, "{refused} refused");
        let output = node.drbdsetup(&["status"])?;
        assert!(
            output.code != Some(0) && output.stderr.contains("too many clients"),
            "{output:?}"
        );
        // Nor does drbdmeta take a disk for free because nobody tells whose it is.
        let output = node.drbdmeta(0, &["outdate", "--force"])?;
        assert!(
            output.code == Some(20) && output.stderr.contains("is configured"),
            "{output:?}"
        );
        let batches = load.batches();
        until("writes go on", PATIENCE, || {
            Ok((load.batches() > batches + 2).then_some(()))
        })?;

        // When they are gone nothing of them is left.
        drop(there);
        until("their places are free", PATIENCE, || {
            let (threads, files) = holds(node);
            Ok((threads <= before.0 + 2 && files <= before.1 + 2).then_some(()))
        })?;
        unharmed("600 clients")?;
        let (mut expected, error) = load.stop();
        assert!(error.is_none(), "{error:?}");
        expected.check(&mut c.node(0).open(0)?)?;
        c.wait_in_sync(PATIENCE)?;
        c.node(0).demote()?;
        c.compare(&[0, 1], 0)
    })
}
