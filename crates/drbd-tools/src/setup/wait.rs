//! Waiting commands (CLI, section 11).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use drbd_node::control::client::{Client, ClientError};
use drbd_node::control::protocol::Event;

use super::args::Parsed;
use super::{USAGE, socket};

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

    fn is_done(&self, replication: &str) -> bool {
        replication == "Established" || (!self.sync && replication != "Off")
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
    let wfc = timeout(parsed, "wfc-timeout")?;
    for other in ["degr-wfc-timeout", "outdated-wfc-timeout"] {
        let value = timeout(parsed, other)?;
        if wfc > 0 && parsed.value(other).is_some() && (value == 0 || value > wfc) {
            eprintln!("{other} has to be shorter than wfc-timeout");
            eprintln!("{other} implicitly set to wfc-timeout ({wfc}s)");
        }
    }
    let after_split_brain = parsed.count("wait-after-sb") > 0
        && parsed.value("wait-after-sb").is_none_or(|v| v == "yes");
    let deadline = (wfc > 0).then(|| Instant::now() + Duration::from_secs(wfc));
    let mut client = match Client::connect(&socket()) {
        Ok(client) => client,
        Err(e) => return Err(format!("{resource}: {e}")),
    };
    client
        .send("events2", &[resource], Vec::new(), false)
        .map_err(|e| format!("{resource}: {e}"))?;
    let mut states: BTreeMap<(u8, u16), String> = BTreeMap::new();
    let mut complete = false;
    loop {
        if let Some(deadline) = deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(EXPIRED);
            }
            client
                .set_timeout(Some(left))
                .map_err(|e| format!("{resource}: {e}"))?;
        }
        let event = match client.next_event() {
            Ok(event) => event,
            Err(ClientError::Lost(e))
                if matches!(
                    e.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) =>
            {
                return Ok(EXPIRED);
            }
            Err(ClientError::Lost(_)) => {
                eprintln!("{resource}: module unloaded");
                return Ok(UNLOADED);
            }
            Err(e) => {
                eprintln!("{resource}: {e}");
                return Ok(USAGE);
            }
        };
        match event {
            Event::Snapshot(snapshot) => {
                for connection in &snapshot.connections {
                    for device in &connection.peer_devices {
                        if scope.has(connection.peer, device.volume) {
                            let replication = device.state.replication.clone();
                            states.insert((connection.peer, device.volume), replication);
                        }
                    }
                }
            }
            Event::SnapshotsEnd => {
                complete = true;
                if states.is_empty() {
                    return Ok(0);
                }
            }
            Event::Connection {
                peer,
                state: Some(state),
                ..
            } if scope.peer.is_none_or(|p| p == peer) => {
                if matches!(state.connection.as_str(), "StandAlone" | "Disconnecting") {
                    if !after_split_brain {
                        return Ok(0);
                    }
                    eprintln!(
                        "{resource}: peer {peer} is {}, still waiting",
                        state.connection
                    );
                }
            }
            Event::PeerDevice {
                peer,
                volume,
                state,
                ..
            } if scope.has(peer, volume) => match state {
                Some(state) => {
                    states.insert((peer, volume), state.replication);
                }
                None => {
                    states.remove(&(peer, volume));
                }
            },
            Event::Gone { .. } => return Ok(0),
            _ => {}
        }
        if complete
            && states
                .values()
                .all(|replication| scope.is_done(replication))
        {
            return Ok(0);
        }
    }
}
