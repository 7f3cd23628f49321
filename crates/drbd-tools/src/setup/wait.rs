//! Waiting commands (CLI, section 11).

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use drbd_control::client::{Client, ClientError};
use drbd_control::protocol::{ConnectionState, Event, PeerDeviceState, WaitTimeout};

use super::args::Parsed;
use super::socket;

/// All timeouts have expired.
const EXPIRED: u8 = 5;
/// The daemon ended.
const UNLOADED: u8 = 121;
/// Largest timeout in seconds.
const MAX: u64 = 300_000;

fn timeout(parsed: &Parsed, name: &str) -> Result<u64, String> {
    let Some(text) = parsed.value(name) else {
        return Ok(0);
    };
    let seconds: u64 = text
        .parse()
        .map_err(|_| format!("Option --{name}: invalid argument '{text}'"))?;
    if seconds > MAX {
        return Err(format!(
            "{} => {seconds} out of range [0..{MAX}]",
            name.replace('-', "_")
        ));
    }
    Ok(seconds)
}

/// The timeouts in seconds; 0: for ever.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Timeouts {
    normal: u64,
    degraded: u64,
    outdated: u64,
}

impl Timeouts {
    /// Those of the command line, none longer than the one before. Whoever asked for longer ones is told.
    fn read(parsed: &Parsed) -> Result<Timeouts, String> {
        let normal = timeout(parsed, "wfc-timeout")?;
        let mut longest = ("wfc-timeout", normal);
        let mut shorter = |name| {
            let value = timeout(parsed, name)?;
            let (than, limit) = longest;
            let fits = limit == 0 || (value > 0 && value <= limit);
            if !fits && parsed.value(name).is_some() {
                eprintln!("{name} has to be shorter than {than}");
                eprintln!("{name} implicitly set to {than} ({limit}s)");
            }
            let value = if fits { value } else { limit };
            longest = (name, value);
            Ok::<u64, String>(value)
        };
        Ok(Timeouts {
            normal,
            degraded: shorter("degr-wfc-timeout")?,
            outdated: shorter("outdated-wfc-timeout")?,
        })
    }

    /// How long to wait for a peer.
    fn of(self, which: WaitTimeout) -> Option<Duration> {
        let seconds = match which {
            WaitTimeout::Normal => self.normal,
            WaitTimeout::Degraded => self.degraded,
            WaitTimeout::Outdated => self.outdated,
        };
        (seconds > 0).then(|| Duration::from_secs(seconds))
    }
}

/// A volume of a peer.
struct Waited {
    replication: String,
    /// None: for ever.
    until: Option<Instant>,
}

/// What is waited for.
struct Scope {
    peer: Option<u8>,
    volume: Option<u16>,
    /// The replication has to be just Established, not anything beyond.
    sync: bool,
}

impl Scope {
    fn has(&self, peer: u8, volume: u16) -> bool {
        self.peer.is_none_or(|p| p == peer) && self.volume.is_none_or(|v| v == volume)
    }

    fn is_done(&self, waited: &Waited) -> bool {
        let replication = waited.replication.as_str();
        replication == "Established" || (!self.sync && replication != "Off")
    }

    /// The exit code, if there is nothing more to wait for.
    fn outcome(&self, all: &BTreeMap<(u8, u16), Waited>, now: Instant) -> Option<u8> {
        let expired = |w: &Waited| w.until.is_some_and(|until| until <= now);
        if all.values().all(|w| self.is_done(w)) {
            Some(0)
        } else if all.values().all(expired) {
            Some(EXPIRED)
        } else {
            let over = all.values().all(|w| self.is_done(w) || expired(w));
            over.then_some(0)
        }
    }
}

/// Runs a `wait-*` command.
pub(super) fn run(name: &str, parsed: &Parsed) -> Result<u8, String> {
    let mut arguments = parsed.arguments.iter();
    let resource = arguments.next().map_or("", String::as_str);
    let mut number = || arguments.next().and_then(|n| n.parse::<u16>().ok());
    let peer = number().and_then(|n| u8::try_from(n).ok());
    let scope = Scope {
        peer,
        volume: number(),
        sync: name.starts_with("wait-sync"),
    };
    let timeouts = Timeouts::read(parsed)?;
    let after_split_brain = parsed.count("wait-after-sb") > 0
        && parsed.value("wait-after-sb").is_none_or(|v| v == "yes");
    let start = Instant::now();
    let failed = |e: ClientError| format!("{resource}: {e}");
    let mut client = match Client::connect(&socket()) {
        Ok(client) => client,
        // No daemon, no peers to wait for.
        Err(ClientError::NoDaemon { .. }) => return Ok(0),
        Err(error) => return Err(failed(error)),
    };
    client
        .send("events2", &[resource], Vec::new(), false)
        .map_err(failed)?;
    let mut all: BTreeMap<(u8, u16), Waited> = BTreeMap::new();
    // What applies to a peer is decided when it is seen for the first time.
    let waited = |state: PeerDeviceState| Waited {
        until: timeouts.of(state.wait).map(|t| start + t),
        replication: state.replication,
    };
    // A peer that is not tried any more ends the wait.
    let given_up = |peer: u8, state: &ConnectionState| {
        let not_tried = matches!(state.connection.as_str(), "StandAlone" | "Disconnecting");
        if !not_tried || scope.peer.is_some_and(|p| p != peer) {
            return false;
        }
        if after_split_brain {
            let state = &state.connection;
            eprintln!("{resource}: peer {peer} is {state}, still waiting");
        }
        !after_split_brain
    };
    let mut complete = false;
    loop {
        let now = Instant::now();
        if complete && let Some(exit) = scope.outcome(&all, now) {
            return Ok(exit);
        }
        let next = all.values().filter_map(|w| w.until).filter(|t| *t > now);
        let left = next.min().map(|t| t.saturating_duration_since(now));
        client.set_timeout(left).map_err(failed)?;
        let event = match client.next_event() {
            Ok(event) => event,
            Err(ClientError::Lost(e))
                if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
            {
                continue;
            }
            Err(ClientError::Lost(_)) => {
                eprintln!("{resource}: module unloaded");
                return Ok(UNLOADED);
            }
            Err(e) => return Err(failed(e)),
        };
        match event {
            Event::Snapshot(snapshot) => {
                for connection in snapshot.connections {
                    if given_up(connection.peer, &connection.state) {
                        return Ok(0);
                    }
                    for device in connection.peer_devices {
                        if scope.has(connection.peer, device.volume) {
                            all.insert((connection.peer, device.volume), waited(device.state));
                        }
                    }
                }
            }
            Event::SnapshotsEnd => complete = true,
            Event::Connection {
                peer,
                state: Some(state),
                ..
            } if given_up(peer, &state) => return Ok(0),
            Event::PeerDevice {
                peer,
                volume,
                state,
                ..
            } if scope.has(peer, volume) => match state {
                Some(state) => match all.get_mut(&(peer, volume)) {
                    Some(known) => known.replication = state.replication,
                    None => drop(all.insert((peer, volume), waited(state))),
                },
                None => drop(all.remove(&(peer, volume))),
            },
            Event::Gone { .. } => return Ok(0),
            _ => {}
        }
    }
}
