//! A node with real engines, over a socket.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::client::{Client, ClientError, Outcome};
use super::protocol::{Answer, Event, MAX_REQUEST};
use super::server::{ListenError, Server};
use crate::node::{Node, Settings};
use crate::reactor::{Helper, make_engine};

struct Daemon {
    directory: tempfile::TempDir,
}

impl Daemon {
    fn start() -> Daemon {
        Daemon::with_backlog(1 << 16)
    }

    fn with_backlog(backlog: usize) -> Daemon {
        let directory = tempfile::tempdir().unwrap();
        let node = Arc::new(Node::new(Settings {
            pool: 8 << 20,
            helper: Helper::default(),
            frontends: Vec::new(),
            make_core: Box::new(make_engine),
            max_parallel_resyncs: 0,
            lax_names: false,
        }));
        let daemon = Daemon { directory };
        let server = Server::bind(&daemon.path()).unwrap().with_backlog(backlog);
        std::thread::spawn(move || server.run(&node));
        daemon
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("run/drbdd.sock")
    }

    fn client(&self) -> Client {
        let mut client = Client::connect(&self.path()).unwrap();
        client.set_timeout(Some(Duration::from_secs(20))).unwrap();
        client
    }

    fn run(&self, line: &str) -> Outcome {
        let mut words = line.split_whitespace();
        let command = words.next().unwrap();
        let (options, arguments): (Vec<&str>, Vec<&str>) = words.partition(|w| w.starts_with("--"));
        let options = options
            .iter()
            .map(|o| match o.trim_start_matches("--").split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (o.trim_start_matches("--").to_owned(), None),
            })
            .collect();
        self.client()
            .request(command, &arguments, options, false)
            .unwrap()
    }
}

#[test]
fn a_resource_comes_and_goes() {
    let daemon = Daemon::start();
    for (line, code) in [
        ("new-resource r0 3 --quorum=majority", 101),
        ("new-resource r0 3", 101),
        ("new-minor r0 17 0", 101),
        ("new-minor r0 17 1", 161),
        ("new-minor r0 18 0", 161),
        ("new-minor nosuch 19 0", 158),
        ("new-peer r0 1 --_name=bravo --ko-count=3", 101),
        ("new-peer r0 1", 162),
        ("new-peer r0 2 --transport=rdma", 172),
        ("new-path r0 1 ipv4:127.0.0.1:1 ipv4:127.0.0.1:2", 101),
        ("new-path r0 1 nonsense 127.0.0.1", 102),
        ("net-options r0 9 --ko-count=3", 162),
        ("net-options r0 1 --ping-timeout=7", 101),
        ("net-options r0 1 --no-such-option=7", 162),
        ("net-options r0 1 --ping-timeout=70000", 162),
        ("attach 17 /nonexistent /nonexistent internal", 104),
        ("attach 17 /dev/null /dev/null internal", 107),
        ("attach 99 /dev/null /dev/null internal", 127),
        ("del-resource r0", 159),
        ("primary", 162),
        ("no-such-command r0", 162),
    ] {
        let outcome = daemon.run(line);
        assert_eq!(outcome.code, code, "{line}: {:?}", outcome.info);
        assert!(code == 101 || !outcome.info.is_empty(), "{line} says why");
    }
    let outcome = daemon.run("status all");
    let [Answer::Status(list)] = outcome.answers.as_slice() else {
        panic!("{outcome:?}")
    };
    assert_eq!((list[0].name.as_str(), list[0].node_id), ("r0", 3));
    assert_eq!(list[0].devices[0].state.disk, "Diskless");
    let outcome = daemon.run("show r0");
    let [Answer::Show(list)] = outcome.answers.as_slice() else {
        panic!("{outcome:?}")
    };
    assert_eq!(list[0].options["quorum"], "majority");
    let net = &list[0].connections[0].net;
    assert_eq!(
        (net["ko-count"].as_str(), net["ping-timeout"].as_str()),
        ("3", "7")
    );
    assert_eq!(list[0].connections[0].cstate, "StandAlone");
    assert_eq!(daemon.run("down r0").code, 1);
    assert_eq!(daemon.run("down r0").code, 158);
    assert_eq!(
        daemon.run("status all").answers,
        [Answer::Status(Vec::new())]
    );
}

/// A flood of clients finds an end, and leaves nothing behind.
#[test]
fn there_are_not_more_clients_than_that() {
    let daemon = Daemon::start();
    let mut clients = Vec::new();
    let refused = loop {
        let mut client = daemon.client();
        match client.request("status", &["all"], Vec::new(), false) {
            Ok(outcome) if outcome.code == 101 => clients.push(client),
            Ok(outcome) => break outcome,
            // The answer may be there before the request is.
            Err(error) => panic!("{error} after {}", clients.len()),
        }
        assert!(clients.len() < 2000);
    };
    assert!(refused.info[0].contains("too many clients"), "{refused:?}");
    assert!(clients.len() > 100);
    clients.clear();
    // Their threads need a moment.
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while daemon.run("status all").code != 101 {
        assert!(std::time::Instant::now() < end);
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Commands go on whatever observers do, and one that reads nothing learns in the end that it missed something: not later
/// than after what fits into the backlog and the buffers of its socket.
#[test]
fn who_does_not_listen_is_told_and_blocks_nobody() {
    const EVENTS: usize = 20_000;
    let daemon = Daemon::with_backlog(1000);
    daemon.run("new-resource r0 0");
    let (mut slow, mut fast) = (daemon.client(), daemon.client());
    slow.send("events2", &["all"], Vec::new(), false).unwrap();
    fast.send("events2", &["all"], Vec::new(), false).unwrap();
    // Both have their place.
    for client in [&mut slow, &mut fast] {
        while !matches!(client.next_event().unwrap(), Event::SnapshotsEnd) {}
    }
    let listener = std::thread::spawn(move || {
        let mut names = vec!["r0".to_owned()];
        while names.len() <= EVENTS {
            match fast.next_event().unwrap() {
                Event::Renamed { resource, new } => {
                    assert_eq!(Some(&resource), names.last());
                    names.push(new);
                }
                other => panic!("{other:?}"),
            }
        }
        names.len()
    });
    let mut client = daemon.client();
    let mut rename = |n: usize| {
        let (old, new) = (format!("r{n}"), format!("r{}", n + 1));
        let outcome = client.request("rename-resource", &[&old, &new], Vec::new(), false);
        assert_eq!(outcome.unwrap().code, 101, "{n}");
    };
    (0..EVENTS).for_each(&mut rename);
    assert_eq!(
        listener.join().unwrap(),
        EVENTS + 1,
        "who listens hears everything"
    );
    let mut heard = 0;
    let end = loop {
        match slow.next_event() {
            Ok(Event::Renamed { resource, .. }) => {
                assert_eq!(resource, format!("r{heard}"), "in order until then");
                heard += 1;
            }
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(&end, ClientError::Behind(text) if text.contains("fell behind")),
        "{end}"
    );
    assert!(heard < EVENTS);
}

#[test]
fn observers_see_everything_in_order() {
    let daemon = Daemon::start();
    daemon.run("new-resource r1 0");
    let mut client = daemon.client();
    client.send("events2", &["all"], Vec::new(), false).unwrap();
    assert!(matches!(client.next_event().unwrap(), Event::Snapshot(r) if r.name == "r1"));
    assert_eq!(client.next_event().unwrap(), Event::SnapshotsEnd);
    daemon.run("new-minor r1 5 0");
    assert!(
        matches!(client.next_event().unwrap(), Event::Device { volume: 0, state: Some(s), .. } if s.minor == 5)
    );
    daemon.run("new-resource r2 1");
    loop {
        if matches!(client.next_event().unwrap(), Event::Snapshot(r) if r.name == "r2") {
            break;
        }
    }
    daemon.run("down r1");
    loop {
        if matches!(client.next_event().unwrap(), Event::Gone { resource } if resource == "r1") {
            break;
        }
    }
    // Of one resource only, and of one that does not exist.
    let mut other = daemon.client();
    other.send("events2", &["r2"], Vec::new(), false).unwrap();
    assert!(matches!(other.next_event().unwrap(), Event::Snapshot(r) if r.name == "r2"));
    let mut nobody = daemon.client();
    nobody.send("events2", &["r9"], Vec::new(), false).unwrap();
    assert_eq!(nobody.next_event().unwrap(), Event::SnapshotsEnd);
}

#[test]
fn bad_requests_are_answered() {
    let daemon = Daemon::start();
    let mut stream = UnixStream::connect(daemon.path()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut answers = BufReader::new(stream.try_clone().unwrap());
    let mut ask = |line: &str| {
        stream.write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        answers.read_line(&mut answer).unwrap();
        answer
    };
    assert!(ask("GET / HTTP/1.1\n").contains("cannot be read"));
    assert!(ask("{\"version\":99,\"command\":\"status\"}\n").contains("version"));
    assert!(ask("{\"version\":1,\"command\":\"primary\"}\n").contains("162"));
    let long = format!("{}\n", " ".repeat(MAX_REQUEST + 1));
    assert!(ask(&long).contains("too long"));
    assert_eq!(daemon.run("status all").code, 101, "the daemon goes on");
}

#[test]
fn one_daemon_for_one_socket() {
    let daemon = Daemon::start();
    assert!(matches!(
        Server::bind(&daemon.path()),
        Err(ListenError::Busy(_))
    ));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.sock");
    assert!(matches!(
        Client::connect(&path),
        Err(ClientError::NoDaemon { .. })
    ));
    // What a killed daemon leaves behind is no obstacle.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let server = Server::bind(&path).unwrap();
    drop(server);
    assert!(!path.exists(), "the socket goes with the server");
}
