//! A long random run of real daemons, watched through `events2` by a second opinion: at every quiet moment the events add
//! up to the status and to a fresh snapshot, and in the end to the log, change by change.
//!
//! `DRBD_EVENTS_SECONDS` says how long (60), `DRBD_EVENTS_SEED` which run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
mod second_opinion;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::Child;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use common::{small, told};
use drbd_testkit::rng::Rng;
use drbd_testkit::{Cluster, Error, Node, Result};
use second_opinion::events::{Kind, Observed};
use second_opinion::{Object, Objects, status};

/// How long until everything has come to rest.
const REST: Duration = Duration::from_secs(60);

/// An `events2` that runs.
struct Watch {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    /// How many were taken in.
    read: usize,
    seen: Observed,
}

impl Watch {
    fn start(node: &Node, options: &[&str]) -> Result<Watch> {
        let mut args = vec!["events2", "all", "--timestamps"];
        args.extend(options);
        let mut child = node.spawn("drbdsetup", &args)?;
        let output = child.stdout.take().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let all = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(|l| l.ok()) {
                all.lock().unwrap().push(line);
            }
        });
        let kind = Kind {
            statistics: options.contains(&"--statistics"),
            timestamps: true,
            open: true,
        };
        let (read, seen) = (0, Observed::new(kind));
        Ok(Watch {
            child,
            lines,
            read,
            seen,
        })
    }

    /// Takes in what has come.
    fn follow(&mut self) -> Result<()> {
        let lines = self.lines.lock().unwrap();
        for line in &lines[self.read..] {
            self.seen.line(line).map_err(Error::new)?;
        }
        self.read = lines.len();
        Ok(())
    }

    /// Lines after the initial state, without time stamps.
    fn changes(&self) -> Vec<String> {
        let lines = self.lines.lock().unwrap();
        let plain = lines
            .iter()
            .map(|l| l.split_once(' ').map_or("", |(_, l)| l));
        let after = plain.skip_while(|l| *l != "exists -").skip(1);
        after.map(str::to_owned).collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What is watched of a node while its daemon lives.
struct Session {
    /// From before the first resource on.
    first: Watch,
    /// With `--statistics`.
    statistics: Watch,
    /// Comes later.
    later: Option<Watch>,
    /// Where the daemon's log was when it began.
    log: usize,
}

impl Session {
    fn start(node: &Node) -> Result<Session> {
        Ok(Session {
            log: node.whole_log().len(),
            first: Watch::start(node, &[])?,
            statistics: Watch::start(node, &["--statistics"])?,
            later: None,
        })
    }

    fn watches(&mut self) -> impl Iterator<Item = &mut Watch> {
        [&mut self.first, &mut self.statistics]
            .into_iter()
            .chain(&mut self.later)
    }

    /// Everything that can be compared, once.
    fn compare(&mut self, node: &Node) -> Result<Vec<String>> {
        let wrong = |e: String| Error::new(format!("{}: {e}", node.name));
        let text = node.drbdsetup(&["status", "--verbose"])?.ok()?;
        let json = node.drbdsetup(&["status", "--json"])?.ok()?;
        let now = node.drbdsetup(&["events2", "all", "--now"])?.ok()?;
        // What was on its way.
        std::thread::sleep(Duration::from_millis(300));
        let text = status::text(&text).map_err(wrong)?;
        let json = status::json(&json).map_err(wrong)?;
        let kind = Kind {
            statistics: false,
            timestamps: false,
            open: true,
        };
        let mut snapshot = Observed::new(kind);
        for line in now.lines() {
            snapshot.line(line).map_err(wrong)?;
        }
        if !snapshot.complete {
            return Err(wrong("--now did not end".into()));
        }
        let mut found = Vec::new();
        for watch in self.watches() {
            watch.follow()?;
            let seen = &watch.seen.objects;
            found.extend(status::differences(seen, &text, false));
            found.extend(status::differences(seen, &json, true));
            // Promotion values, too, are those of a fresh start.
            found.extend(status::differences(seen, &snapshot.objects, true));
            if let Err(text) = watch.seen.check_promotion() {
                found.push(text);
            }
        }
        // Who came later heard the same from then on.
        if let Some(later) = &self.later {
            let (all, last) = (self.first.changes(), later.changes());
            if !all.ends_with(&last) {
                found.push(format!(
                    "observers heard different things: {last:?}, {:?}",
                    all.iter().rev().take(last.len()).rev().collect::<Vec<_>>()
                ));
            }
        }
        found.sort();
        found.dedup();
        Ok(found)
    }

    /// The events of a daemon that ended in order are the changes in its log.
    fn compare_with_log(&mut self, node: &Node) -> Result<()> {
        self.first.follow()?;
        let log = node.whole_log();
        let logged = log_changes(log.get(self.log..).unwrap_or(""));
        for ((object, key), changes) in &self.first.seen.changes {
            let word = match (object, key.as_str()) {
                (Object::Resource { .. }, "role") => "role",
                (Object::Connection { .. }, "connection") => "conn",
                (Object::Connection { .. }, "role") => "peer",
                (Object::Device { .. }, "disk") => "disk",
                (Object::PeerDevice { .. }, "replication") => "repl",
                (Object::PeerDevice { .. }, "peer-disk") => "pdsk",
                _ => continue,
            };
            let none = Vec::new();
            let in_log = logged
                .get(&(object.clone(), word.to_owned()))
                .unwrap_or(&none);
            if in_log != changes {
                let text = format!(
                    "{}: {object:?} {word}: events {changes:?}, log {in_log:?}",
                    node.name
                );
                return Err(Error::new(text));
            }
        }
        Ok(())
    }
}

/// State changes in the daemon's log: `drbd RES[/VOL drbdMINOR] [PEER]: word( A -> B ) ...`.
fn log_changes(log: &str) -> BTreeMap<(Object, String), Vec<(String, String)>> {
    let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for line in log.lines() {
        let Some((head, text)) = line
            .split_once(" drbd ")
            .and_then(|(_, l)| l.split_once(": "))
        else {
            continue;
        };
        let mut words = head.split(' ');
        let (name, volume) = match words.next().unwrap_or("").split_once('/') {
            Some((name, volume)) => (name, volume.parse::<u16>().ok()),
            None => (head.split(' ').next().unwrap_or(""), None),
        };
        let name = name.to_owned();
        let peer = words.next_back().and_then(|w| w.strip_prefix("node"));
        let peer = peer.and_then(|n| n.parse::<u8>().ok()).map(|n| n - 1);
        let object = match (peer, volume) {
            (None, None) => Object::Resource { name },
            (Some(peer), None) => Object::Connection { name, peer },
            (None, Some(volume)) => Object::Device { name, volume },
            (Some(peer), Some(volume)) => Object::PeerDevice { name, peer, volume },
        };
        let mut rest = text;
        while let Some((word, after)) = rest.split_once("( ") {
            let Some((change, after)) = after.split_once(" )") else {
                break;
            };
            if let Some((from, to)) = change.split_once(" -> ") {
                let key = (object.clone(), word.trim().to_owned());
                all.entry(key)
                    .or_default()
                    .push((from.to_owned(), to.to_owned()));
            }
            rest = after;
        }
    }
    all
}

/// Does something to somebody. What is refused is refused.
fn act(c: &mut Cluster, sessions: &mut [Option<Session>], rng: &mut Rng) -> Result<String> {
    let id = rng.below(3) as u8;
    let peer = (id + 1 + rng.below(2) as u8) % 3;
    let to_peer = format!("{}:node{}", c.resource, peer + 1);
    let (resource, minor) = (c.resource.clone(), c.node(id).minor(0).to_string());
    let words: Vec<&str> = match rng.below(26) {
        0 | 1 => vec!["primary", &resource],
        2 => vec!["primary", "--force", &resource],
        3..=5 => vec!["secondary", &resource],
        6 => vec!["disconnect", &to_peer],
        7 | 8 => vec!["connect", &to_peer],
        9 => vec!["detach", &resource],
        10 | 11 => vec!["attach", &resource],
        12 => vec!["invalidate", &resource],
        13 => vec!["verify", &to_peer],
        14 => vec!["pause-sync", &to_peer],
        15 => vec!["resume-sync", &to_peer],
        16 => vec!["suspend-io", &resource],
        17 => vec!["resume-io", &resource],
        18 => vec!["down", &resource],
        19 => vec!["adjust", &resource],
        20 => vec!["del-peer", &to_peer],
        21 => {
            c.cut(id, peer)?;
            return Ok(format!("cut {id} {peer}"));
        }
        22 => {
            c.restore(id, peer)?;
            return Ok(format!("restore {id} {peer}"));
        }
        23 => {
            let stop = rng.below(2) == 0;
            if stop {
                c.node(id).drbdadm(&["down", &resource])?;
                std::thread::sleep(Duration::from_millis(500));
                if let Some(session) = sessions[usize::from(id)].as_mut() {
                    session.compare_with_log(c.node(id))?;
                }
                c.node_mut(id).stop()?;
            } else {
                c.node_mut(id).kill();
            }
            sessions[usize::from(id)] = None;
            c.node_mut(id).start()?;
            sessions[usize::from(id)] = Some(Session::start(c.node(id))?);
            let up = c.node(id).drbdadm(&["up", &resource])?;
            return Ok(format!(
                "{} {id}, up: {:?}",
                if stop { "restart" } else { "kill" },
                up.code
            ));
        }
        24 => {
            // There and back again.
            let other = format!("{resource}-2");
            let node = c.node(id);
            node.drbdsetup(&["rename-resource", &resource, &other])?;
            let back = node.drbdsetup(&["rename-resource", &other, &resource])?;
            return Ok(format!("rename {id}: {:?}", back.code));
        }
        _ => {
            let session = sessions[usize::from(id)].as_mut();
            if let Some(session) = session {
                session.later = Some(Watch::start(c.node(id), &[])?);
            }
            return Ok(format!("watch {id}"));
        }
    };
    let output = c.node(id).drbdadm(&words)?;
    let _ = minor;
    Ok(format!("{id}: {} = {:?}", words.join(" "), output.code))
}

/// Waits until nothing moves, and compares.
fn rest(c: &Cluster, sessions: &mut [Option<Session>], done: &[String]) -> Result<()> {
    let end = Instant::now() + REST;
    for (node, session) in c.nodes.iter().zip(sessions) {
        let Some(session) = session else { continue };
        loop {
            let found = session.compare(node)?;
            if found.is_empty() {
                break;
            }
            if Instant::now() > end {
                let events: Vec<String> = session
                    .first
                    .changes()
                    .into_iter()
                    .rev()
                    .take(40)
                    .rev()
                    .collect();
                return Err(Error::new(format!(
                    "{}: after {done:#?}\nthe events do not add up: {found:#?}\nlast events: {events:#?}",
                    node.name
                )));
            }
        }
    }
    Ok(())
}

#[test]
fn events_add_up() -> Result<()> {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let clock = || {
        SystemTime::UNIX_EPOCH
            .elapsed()
            .map_or(0, |t| t.as_nanos() as u64 % 1_000_000)
    };
    let seed = number("DRBD_EVENTS_SEED").unwrap_or_else(clock);
    let seconds = number("DRBD_EVENTS_SECONDS").unwrap_or(60);
    eprintln!("events: {seconds} s with DRBD_EVENTS_SEED={seed}");
    let mut options = small();
    options.nodes = 3;
    options.size = 16 << 20;
    options.net.push("verify-alg crc32c".into());
    options.options.push("quorum majority".into());
    options.options.push("on-no-quorum io-error".into());
    told(Cluster::new("events", options)?, |c| {
        c.start()?;
        let mut sessions = Vec::new();
        for node in &c.nodes {
            sessions.push(Some(Session::start(node)?));
        }
        c.create_md()?;
        c.up()?;
        c.node(0).adm_with("primary", &["--force"])?;
        let mut rng = Rng::new(seed);
        let end = Instant::now() + Duration::from_secs(seconds);
        let (mut done, mut rests, mut lines) = (Vec::new(), 0, 0);
        while Instant::now() < end {
            for _ in 0..1 + rng.below(10) {
                done.push(act(c, &mut sessions, &mut rng)?);
                std::thread::sleep(Duration::from_millis(rng.below(400)));
            }
            rest(c, &mut sessions, &done)?;
            rests += 1;
        }
        for (node, session) in c.nodes.iter().zip(&mut sessions) {
            if let Some(session) = session {
                session.compare_with_log(node)?;
                lines += session.first.read;
            }
        }
        eprintln!(
            "events: {} actions, {rests} comparisons, {lines} lines of the last daemons",
            done.len()
        );
        assert!(rests > 0 && lines > 0);
        Ok(())
    })
}

/// The second opinion is right about what real clusters were recorded with.
#[test]
fn recordings_are_understood() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/events2");
    let (mut files, mut lines) = (0, 0);
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        // Release 9.22 did not tell who has a device open.
        let mut seen = Observed::new(Kind {
            statistics: true,
            timestamps: true,
            open: false,
        });
        // The recorder's own remarks begin with a '#'.
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            seen.line(line)
                .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            lines += 1;
        }
        files += 1;
    }
    assert!(files >= 14 && lines > 500, "{files} files, {lines} lines");
}

/// And about what is wrong.
#[test]
fn mistakes_are_found() {
    let good = [
        "exists resource name:r0 role:Secondary suspended:no force-io-failures:no may_promote:no promotion_score:0",
        "exists device name:r0 volume:0 minor:1 backing_dev:none disk:Diskless client:no open:no quorum:yes",
        "exists -",
        "change resource name:r0 role:Primary",
        "create connection name:r0 peer-node-id:1 conn-name:b connection:StandAlone role:Unknown",
        "create peer-device name:r0 peer-node-id:1 conn-name:b volume:0 replication:Off peer-disk:DUnknown peer-client:no resync-suspended:no",
        "destroy connection name:r0 peer-node-id:1 conn-name:b",
        "destroy device name:r0 volume:0",
        "destroy resource name:r0",
    ];
    let kind = Kind {
        statistics: false,
        timestamps: false,
        open: true,
    };
    let run = |lines: &[&str]| -> std::result::Result<Observed, String> {
        let mut seen = Observed::new(kind);
        lines.iter().try_for_each(|line| seen.line(line))?;
        Ok(seen)
    };
    assert!(run(&good).unwrap().objects.is_empty());
    assert!(run(&good[..4]).unwrap().check_promotion().is_ok());
    for (at, wrong) in [
        (
            1,
            "exists resource name:r0 role:Secondary suspended:no force-io-failures:no may_promote:no promotion_score:0",
        ),
        (3, "change resource name:r0 role:Secondary"),
        (3, "change resource name:r0"),
        (3, "change resource name:r0 role:Master"),
        (3, "change resource name:r0 suspended:quorum,user"),
        (3, "change resource name:r1 role:Primary"),
        (3, "change resource name:r0  role:Primary"),
        (
            3,
            "exists device name:r0 volume:1 minor:2 backing_dev:none disk:Diskless client:no open:no quorum:yes",
        ),
        (3, "destroy resource name:r0"),
        (3, "change device name:r0 volume:0 minor:1 disk:Attaching"),
        (
            3,
            "change device name:r0 volume:0 minor:2 backing_dev:none disk:Attaching client:no open:no quorum:yes",
        ),
        (
            4,
            "create peer-device name:r0 peer-node-id:1 conn-name:b volume:0 replication:Off peer-disk:DUnknown peer-client:no resync-suspended:no",
        ),
        (
            5,
            "create path name:r0 peer-node-id:1 conn-name:c local:ipv4:1.1.1.1:1 peer:ipv4:1.1.1.1:2 established:no",
        ),
        (6, "destroy device name:r0 volume:0"),
        (3, "response helper name:r0 helper:fence-peer status:0"),
    ] {
        let mut lines = good[..at].to_vec();
        lines.push(wrong);
        assert!(run(&lines).is_err(), "{wrong}");
    }
    let scored = "exists resource name:r0 role:Secondary suspended:no force-io-failures:no may_promote:yes promotion_score:10101";
    let lines = [scored, good[1], good[2]];
    assert!(run(&lines).unwrap().check_promotion().is_err());
    let none = Objects::new();
    let differences = status::differences(&run(&good[..3]).unwrap().objects, &none, true);
    assert_eq!(differences.len(), 2);
}
