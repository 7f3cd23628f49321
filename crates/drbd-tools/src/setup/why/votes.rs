//! The table of votes of a volume (state machine, section 11). Classes and verdict are the engine's own.

use drbd_control::protocol::Device;
use drbd_engine::options::Quorum;
use drbd_engine::quorum::{Voter, Votes, count_diskless, count_with_disk};
use drbd_proto::{DiskState, ReplState};
use serde::Serialize;

use super::{Seen, name};

/// The votes of a volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Count {
    /// The node has quorum, as it says itself.
    pub(super) held: bool,
    /// The option.
    pub(super) asked: String,
    /// Voters as far as the status tells them.
    pub(super) voters: u32,
    /// How many of them have to be here.
    pub(super) needed: u32,
    /// How many are.
    pub(super) here: u32,
    /// Nodes by id.
    pub(super) votes: Vec<Vote>,
    /// What the table alone does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) note: Option<String>,
}

/// One node in the table.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Vote {
    pub(super) node_id: u8,
    pub(super) name: String,
    /// Class of the vote.
    pub(super) vote: &'static str,
    /// It counts among those that are here.
    pub(super) here: bool,
    pub(super) why: String,
}

fn option(text: Option<&str>) -> Quorum {
    match text {
        None | Some("off") => Quorum::Off,
        Some("majority") => Quorum::Majority,
        Some("all") => Quorum::All,
        Some(number) => number.parse().map_or(Quorum::Off, Quorum::Count),
    }
}

/// The class that a count of one node has.
fn class(votes: &Votes) -> &'static str {
    [
        (votes.up_to_date, "up-to-date"),
        (votes.present, "present"),
        (votes.outdated, "outdated"),
        (votes.unknown, "unknown"),
        (votes.quorumless, "quorumless"),
        (votes.diskless, "tie-breaker"),
        (votes.missing_diskless, "missing tie-breaker"),
    ]
    .iter()
    .find(|(count, _)| *count > 0)
    .map_or("none", |(_, class)| class)
}

fn is_here(class: &str) -> bool {
    matches!(class, "up-to-date" | "present")
}

/// Counts; `None` if no quorum is asked for.
pub(super) fn count(seen: &Seen<'_>, device: &Device) -> Option<Count> {
    let quorum = option(seen.option("quorum"));
    let redundancy = option(seen.option("quorum-minimum-redundancy"));
    if quorum == Quorum::Off && redundancy == Quorum::Off {
        return None;
    }
    let held = device.state.quorum;
    let own = DiskState::from_name(&device.state.disk).unwrap_or(DiskState::Unknown);
    let with_disk = own > DiskState::Attaching;
    let tally = |own: DiskState, client: bool, others: Vec<Voter>| {
        if with_disk {
            count_with_disk(own, held, others)
        } else {
            count_diskless(own, client, held, others)
        }
    };
    let own_class = class(&tally(own, device.state.client, Vec::new()));
    let mut votes = vec![Vote {
        node_id: seen.resource.node_id,
        name: "this node".into(),
        vote: own_class,
        here: is_here(own_class),
        why: match (device.state.client, own) {
            (true, _) => "it has no disk on purpose".into(),
            (_, DiskState::Diskless) => "its disk is not attached".into(),
            _ => format!("its disk is {}", device.state.disk),
        },
    }];
    let mut others = Vec::new();
    for (connection, peer) in seen.peers(device.volume) {
        let id = connection.peer;
        let mut vote = |class, why: String| {
            votes.push(Vote {
                node_id: id,
                name: name(connection),
                vote: class,
                here: is_here(class),
                why,
            });
        };
        if seen.net(id, "allow-remote-read") == Some("no") {
            vote("none", "allow-remote-read is no".into());
            continue;
        }
        let client =
            peer.state.peer_client || seen.peer_device(id, device.volume, "bitmap") == Some("no");
        let voter = Voter {
            client,
            tiebreaker: seen.peer_device(id, device.volume, "peer-tiebreaker") != Some("no"),
            repl: ReplState::from_name(&peer.state.replication).unwrap_or(ReplState::Off),
            disk: DiskState::from_name(&peer.state.peer_disk).unwrap_or(DiskState::Unknown),
            outdated: peer.state.peer_disk == "Outdated",
            // Neither is published.
            member: true,
            quorate: false,
        };
        // What one node alone adds to the count of nobody.
        let nobody = tally(DiskState::Diskless, true, Vec::new());
        let mut one = tally(DiskState::Diskless, true, vec![voter]);
        one.diskless -= nobody.diskless;
        let why = match (class(&one), client) {
            ("none", _) => "it has no disk, and peer-tiebreaker is no".into(),
            ("missing tie-breaker", _) => {
                format!(
                    "it has no disk, and is not connected ({})",
                    connection.state.connection
                )
            }
            ("tie-breaker", _) => "it has no disk".into(),
            ("outdated", _) => {
                format!(
                    "not connected ({}), its disk is known to be old",
                    connection.state.connection
                )
            }
            ("unknown" | "quorumless", _) => {
                format!(
                    "not connected ({}), it may be anywhere",
                    connection.state.connection
                )
            }
            _ => format!("connected, its disk is {}", peer.state.peer_disk),
        };
        vote(class(&one), why);
        others.push(voter);
    }
    votes.sort_by_key(|v| v.node_id);
    let verdict = tally(own, device.state.client, others).verdict(quorum, redundancy, held);
    let note = match (held, verdict.quorum) {
        (true, _) if verdict.by_tiebreaker => {
            Some("quorum is kept with the help of the tie-breaker; it could not be gained so")
        }
        (true, false) if !with_disk => {
            Some("a peer with up-to-date data has quorum, which counts here, too")
        }
        (true, false) => Some(
            "some nodes that are away do not count, because they were left without quorum when this node had it",
        ),
        (false, true) => Some(
            "the votes are there: more nodes are known than are configured here, or the state is just changing",
        ),
        _ => None,
    };
    let mut asked = seen.option("quorum").unwrap_or("off").to_owned();
    if let Some(redundancy) = seen
        .option("quorum-minimum-redundancy")
        .filter(|o| *o != "off")
    {
        asked.push_str(&format!(", with up-to-date data: {redundancy}"));
    }
    Some(Count {
        held,
        asked,
        voters: verdict.voters,
        needed: verdict.needed,
        here: verdict.here,
        votes,
        note: note.map(str::to_owned),
    })
}
