//! The stories, in the order of the table.

mod basics;

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

/// All stories.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "1-sync",
        about: "fresh disks, initial sync, protocol C writes from both sides",
        only_nine: false,
        casts: PAIR,
        story: basics::sync,
    },
    Scenario {
        name: "2-reconnect",
        about: "disconnect, write, reconnect: only what changed is resynced",
        only_nine: false,
        casts: PAIR,
        story: basics::reconnect,
    },
    Scenario {
        name: "3-killed-primary",
        about: "Primary killed, the other promoted, the old one returns as target",
        only_nine: false,
        casts: PAIR,
        story: basics::killed_primary,
    },
];
