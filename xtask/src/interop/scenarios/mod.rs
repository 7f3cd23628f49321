//! The stories, in the order of the table.

mod basics;
mod disks;
mod links;
mod options;
mod three;
mod ublk;

use drbd_testkit::Result;

use super::Run;
use super::side::Kind;

/// A story.
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    /// With which kernels it is told.
    pub(super) with: With,
    /// Whether it needs guests with the distribution's own kernel, in QEMU.
    pub(super) emulated: bool,
    /// Who plays; node 0 is the first Primary.
    pub(super) casts: &'static [&'static [Kind]],
    pub(super) story: fn(&Run<'_>) -> Result<()>,
}

/// Which DRBD the kernel has to have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum With {
    /// Any.
    Any,
    /// One of the 8 series.
    Eight,
    /// One of the 9 series.
    Nine,
}

impl With {
    /// Whether that is so with a module that is of the 8 series or not.
    pub(super) fn has(self, legacy: bool) -> bool {
        self == With::Any || legacy == (self == With::Eight)
    }
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
        with: With::Any,
        emulated: false,
        casts: PAIR,
        story,
    }
}

/// Three nodes: two of the kernel and one of ours, and the reverse.
const THREE: &[&[Kind]] = &[
    &[Kind::Kernel, Kind::Kernel, Kind::Ours],
    &[Kind::Ours, Kind::Kernel, Kind::Kernel],
    &[Kind::Kernel, Kind::Ours, Kind::Ours],
    &[Kind::Ours, Kind::Ours, Kind::Kernel],
];

const fn three(
    name: &'static str,
    about: &'static str,
    story: fn(&Run<'_>) -> Result<()>,
) -> Scenario {
    Scenario {
        name,
        about,
        with: With::Nine,
        emulated: false,
        casts: THREE,
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
    pair("6-thin", "thin resyncs: zeroes are not sent", options::thin),
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
    pair(
        "7-moved-disk",
        "disks attached by the other implementation",
        disks::moved,
    ),
    pair(
        "7-detach",
        "disks detached and attached again while the Primary writes, also its own",
        disks::detached,
    ),
    pair(
        "7-resize",
        "the device grows and shrinks, by order of either side",
        disks::resized,
    ),
    Scenario {
        with: With::Eight,
        ..pair(
            "7-converted-disk",
            "v09 metadata converted to v08 for a DRBD 8.4, and back",
            disks::converted,
        )
    },
    three("8-turns", "three nodes, each Primary in turn", three::turns),
    three(
        "8-quorum-suspend",
        "quorum lost, writes hang, quorum regained",
        three::quorum_suspend,
    ),
    three(
        "8-quorum-error",
        "quorum lost, writes fail, the majority goes on",
        three::quorum_error,
    ),
    three(
        "8-missed",
        "a node that missed writes is resynced by a Secondary",
        three::missed,
    ),
    three("8-crash", "the Primary dies and returns", three::crash),
    three(
        "8-partial",
        "the Primary dies with a partially replicated write",
        three::partial,
    ),
    three("8-diskless", "a Primary without a disk", three::diskless),
    pair(
        "9-long-run",
        "random writes, cuts, crashes and changes of role",
        three::long_run,
    ),
    three(
        "9-long-run-three",
        "the same with three nodes",
        three::long_run,
    ),
    Scenario {
        name: "10-ublk",
        about: "a file system on our ublk device in a guest, mirrored to a kernel's DRBD (needs QEMU)",
        with: With::Any,
        emulated: true,
        casts: &[&[Kind::Guest, Kind::Kernel], &[Kind::Kernel, Kind::Guest]],
        story: ublk::file_system,
    },
];
