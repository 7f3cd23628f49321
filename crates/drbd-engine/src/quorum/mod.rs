//! Quorum: may this partition of the cluster go on by itself? (state machine, section 11)
//!
//! First the other nodes are sorted into classes, [`count_with_disk`] or [`count_diskless`]; then
//! [`Votes::verdict`] decides. Effects of gaining and losing quorum are not here.

use drbd_proto::{DiskState, ReplState};

use crate::options::Quorum;
use crate::rows::{Row, Rows};

#[cfg(test)]
mod tests;

/// What is known about another node, as a voter. Nodes never heard of, and peers that may not be read
/// from (`allow-remote-read no`), are no voters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Voter {
    /// It has no disk on purpose: a peer with `bitmap no`, or a node without configured peer whose disk
    /// was never seen.
    pub client: bool,
    /// `peer-tiebreaker`.
    pub tiebreaker: bool,
    /// State of the replication; `Off` if no peer is configured.
    pub repl: ReplState,
    /// State of its disk; `Unknown` if no peer is configured.
    pub disk: DiskState,
    /// The metadata has it as outdated.
    pub outdated: bool,
    /// It was there when this node had quorum last.
    pub member: bool,
    /// Its state word says that it has quorum.
    pub quorate: bool,
}

/// The nodes by class, this one included.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[allow(missing_docs)] // The names of the classes.
pub struct Votes {
    pub outdated: u32,
    pub quorumless: u32,
    pub unknown: u32,
    pub up_to_date: u32,
    pub present: u32,
    pub diskless: u32,
    pub missing_diskless: u32,
    /// UpToDate peers that have quorum; counted only by a node without disk.
    pub quorate_peers: u32,
}

/// Whether there is quorum, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// There is quorum.
    pub quorum: bool,
    /// There would be quorum, whether or not the option asks for it.
    pub tracked: bool,
    /// It is kept by a majority of the diskless nodes only.
    pub by_tiebreaker: bool,
    /// Number of voters.
    pub voters: u32,
    /// How many of them have to be here.
    pub needed: u32,
    /// How many are here.
    pub here: u32,
    /// The rules that led to it.
    pub rows: Rows,
}

/// Counts on a node with a disk, beyond Attaching (section 11.1). `held` says whether it has quorum
/// now.
pub fn count_with_disk(
    own: DiskState,
    held: bool,
    others: impl IntoIterator<Item = Voter>,
) -> Votes {
    let mut votes = Votes::default();
    match own {
        DiskState::UpToDate => votes.up_to_date = 1,
        DiskState::Diskless => {}
        _ => votes.present = 1,
    }
    for voter in others {
        votes.add(&voter, held, false);
    }
    votes
}

/// Counts on a node without disk (section 11.2). `client` says that it has none on purpose; the voters
/// are the configured peers.
pub fn count_diskless(
    own: DiskState,
    client: bool,
    held: bool,
    others: impl IntoIterator<Item = Voter>,
) -> Votes {
    let mut votes = Votes::default();
    if client {
        votes.diskless = 1;
    } else if own == DiskState::Diskless {
        votes.unknown = 1;
    }
    for voter in others {
        votes.add(&voter, held, true);
        if voter.disk == DiskState::UpToDate && voter.quorate && voter.repl > ReplState::Off {
            votes.quorate_peers += 1;
        }
    }
    votes
}

impl Votes {
    /// The classes that have members.
    pub fn rows(&self) -> Rows {
        [
            (self.up_to_date, Row::N1),
            (self.present, Row::N2),
            (self.outdated, Row::N3),
            (self.quorumless, Row::N4),
            (self.unknown, Row::N5),
            (self.diskless, Row::N6),
            (self.missing_diskless, Row::N7),
            (self.quorate_peers, Row::N8),
        ]
        .into_iter()
        .filter(|(n, _)| *n > 0)
        .map(|(_, row)| row)
        .collect()
    }

    fn add(&mut self, voter: &Voter, held: bool, i_am_diskless: bool) {
        if voter.client && !voter.tiebreaker {
            return;
        }
        let outdated = voter.disk <= DiskState::Outdated || voter.outdated && !i_am_diskless;
        let client = voter.client || i_am_diskless;
        let class = if voter.repl == ReplState::Off {
            match (voter.client, outdated, held && !voter.member) {
                (true, _, _) => &mut self.missing_diskless,
                (_, true, _) => &mut self.outdated,
                (_, _, true) => &mut self.quorumless,
                _ => &mut self.unknown,
            }
        } else {
            match voter.disk {
                DiskState::Diskless if client => &mut self.diskless,
                DiskState::UpToDate => &mut self.up_to_date,
                _ => &mut self.present,
            }
        };
        *class += 1;
    }

    /// Decides (section 11.3). `held` says whether there was quorum before: a tie-breaker can keep it,
    /// but never gain it.
    pub fn verdict(mut self, quorum: Quorum, min_redundancy: Quorum, held: bool) -> Verdict {
        // Nodes from a partition without quorum only count if they could have made a majority since.
        let here = self.up_to_date + self.present;
        let away = self.outdated + self.quorumless + self.unknown;
        let mut rows = Rows::default();
        if away >= at(quorum, away + here) {
            if self.quorumless > 0 {
                rows.insert(Row::Z1);
            }
            self.unknown += self.quorumless;
            self.quorumless = 0;
        }
        // If nobody's whereabouts are unknown, the absent ones cannot form another partition.
        let voters = if self.unknown > 0 {
            self.outdated + self.quorumless + self.unknown + here
        } else {
            if away > 0 {
                rows.insert(Row::Z2);
            }
            here
        };
        let needed = at(quorum, voters);
        let by_count = self.quorate_peers > 0
            || here >= needed && self.up_to_date >= at(min_redundancy, voters);
        let clients = self.diskless + self.missing_diskless;
        let by_tiebreaker = !by_count
            && held
            && voters != 0
            && voters.is_multiple_of(2)
            && here + 1 == needed
            && self.diskless > clients / 2;
        let tracked = by_count || by_tiebreaker;
        rows.insert(match (by_tiebreaker, self.quorate_peers > 0, by_count) {
            (true, _, _) => Row::Z5,
            (_, true, _) => Row::Z4a,
            (_, _, true) => Row::Z4b,
            _ if here < needed => Row::Z4c,
            _ => Row::Z4d,
        });
        let quorum = quorum == Quorum::Off || tracked;
        Verdict {
            quorum,
            tracked,
            by_tiebreaker,
            voters,
            needed,
            here,
            rows,
        }
    }
}

/// How many of that many voters an option asks for.
fn at(option: Quorum, voters: u32) -> u32 {
    match option {
        Quorum::Off => 0,
        Quorum::Majority => voters / 2 + 1,
        Quorum::All => voters,
        Quorum::Count(n) => n,
    }
}
