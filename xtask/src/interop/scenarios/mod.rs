//! The stories, in the order of the table.

mod basics;
mod links;
mod options;

use drbd_testkit::Result;

use super::Run;
use super::side::Kind;

/// A story.
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    /// Whether it needs a DRBD of the 9 series.
    pub(super) only_nine: bool,
    /// Who plays; node 0 is the first Primary.
    pub(super) casts: &'static [&'static [Kind]],
    pub(super) story: fn(&Run<'_>) -> Result<()>,
}

/// Two nodes, both ways.
const PAIR: &[&[Kind]] = &[&[Kind::Kernel, Kind::Ours], &[Kind::Ours, Kind::Kernel]];

const fn pair(
    name: &'static str,
    about: &'static str,
    story: fn(&Run<'_>) -> Result<()>,
) -> Scenario {
    Scenario {
        name,
        about,
        only_nine: false,
        casts: PAIR,
        story,
    }
}

/// All stories.
pub(super) const SCENARIOS: &[Scenario] = &[
    pair(
        "1-sync",
        "fresh disks, initial sync, protocol C writes from both sides",
        basics::sync,
    ),
    pair(
        "2-reconnect",
        "disconnect, write, reconnect: only what changed is resynced",
        basics::reconnect,
    ),
    pair(
        "3-killed-primary",
        "Primary killed, the other promoted, the old one returns as target",
        basics::killed_primary,
    ),
    pair(
        "4-cut",
        "link cut in the middle of writes and of a resync",
        links::cut,
    ),
    pair(
        "5-split-brain",
        "split brain refused, resolved by discard-my-data",
        links::split_brain,
    ),
    pair(
        "5-policies",
        "split brain resolved by policies",
        links::split_brain_policies,
    ),
    pair("6-protocol-a", "protocol A", options::protocol_a),
    pair("6-protocol-b", "protocol B", options::protocol_b),
    pair(
        "6-checksums",
        "csums-alg, data-integrity-alg and authentication",
        options::checksums,
    ),
    pair(
        "6-verify",
        "verify finds planted mismatches",
        options::verify,
    ),
    pair(
        "6-discard",
        "discards and zeroes reach the peer",
        options::discard,
    ),
    pair("6-secrets", "wrong secrets are refused", options::secrets),
    pair(
        "6-dual-primary",
        "both sides Primary",
        options::dual_primary,
    ),
];
