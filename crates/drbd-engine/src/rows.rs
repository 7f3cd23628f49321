//! The rows of the tables that decide, by name: so that it can be said which of them a run went through.
//!
//! Every place where a rule of such a table applies notes its row; a rule that applies without changing anything does
//! not count. Numbers are those of the state machine document, where a rule has one; a letter tells apart what one rule
//! says about several cases. The simulator's tests demand that each row is met by an engine that runs, or stands among
//! the `backstops`, whose tables are asked about states made up for them.

use core::cell::Cell;

macro_rules! rows {
    ($($(#[$about:meta])* $table:literal { $($row:ident $name:literal,)* })*) => {
        /// A row of a table.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[allow(missing_docs)] // Each has a name that says what it is.
        pub enum Row { $($($row,)*)* }

        impl Row {
            /// All of them, table by table.
            pub const ALL: &[Row] = &[$($(Row::$row,)*)*];

            /// The table it belongs to.
            pub fn table(self) -> &'static str {
                match self { $($(Row::$row)|* => $table,)* }
            }

            /// What it says, with its number in the document.
            pub fn name(self) -> &'static str {
                match self { $($(Row::$row => $name,)*)* }
            }
        }
    };
}

rows! {
    "comparison of generations (8.2)" {
        C1 "1 what was sent has changed",
        C2 "2 both just created",
        C3 "3 just created here",
        C4 "4 just created there",
        C6 "6 the source missed the end",
        C7 "7 the peer missed the end",
        C8 "8 both were connected, protocol 120 and up",
        C9 "9 crashed Primary here, protocol A or B",
        C10 "10 crashed Primary there, protocol A or B",
        C11 "11 quorum lost there",
        C12 "12 quorum lost here",
        C13a "13 quorum lost on both sides, this one resolves conflicts",
        C13b "13 quorum lost on both sides, the other one resolves conflicts",
        C14 "14 both were connected, below protocol 120",
        C15 "15 the peer crashed while this node was connected",
        C16 "16 this node crashed while the peer was connected",
        C17 "17 one was connected",
        C18a "18 both crashed, this one resolves conflicts",
        C18b "18 crashed here",
        C18c "18 both crashed, the other one resolves conflicts",
        C19 "19 crashed there",
        C20 "20 nothing has happened",
        C21 "21 the peer tracks changes since this generation",
        C22 "22 the peer tracks them for another node",
        C24 "24 this node tracks changes since the peer's generation",
        C25 "25 this node tracks them for another node",
        C27 "27 an ancestor of the peer's generation",
        C28 "28 the peer has an ancestor of this generation",
        C29 "29 split brain since a common bitmap UUID",
        C30 "30 split brain since a common ancestor",
        C31 "31 nothing in common",
        Contradiction "each is ahead of the other",
    }
    "corrections below protocol 110 (8.3)" {
        FixSourceCorrected "a the source missed the end, and has corrected the peer",
        FixSourcePeer "a the end is missing at the source",
        FixTargetCorrected "a the target was corrected",
        FixTarget "a the end is missing at the target",
        FixTargetStart95 "b the target missed the start, below protocol 96",
        FixTargetStart "b the target missed the start",
        FixSourceStart95 "c the source missed the start, below protocol 96",
        FixSourceStart "c the source missed the start",
        FixNeeds91 "the peer does not know the correction",
    }
    "comparison with a DRBD 8 (8.4)" {
        Old10 "10 both just created",
        Old20 "20 just created here",
        Old30 "30 just created there",
        Old34 "34, 35 the end is missing at the source",
        Old36 "36, 37 the end is missing at the target",
        Old40None "40 nobody crashed",
        Old40Self "40 crashed here",
        Old40Peer "40 crashed there",
        Old40Both "40 both crashed",
        Old50 "50 the peer tracks changes",
        Old51 "51 the target missed the start",
        Old60 "60 an ancestor of the peer's",
        Old70 "70 this node tracks changes",
        Old71 "71 the source missed the start",
        Old80 "80 the peer has an ancestor",
        Old90 "90 split brain since a common bitmap UUID",
        Old100 "100 split brain since a common ancestor",
        OldUnrelated "-1000 nothing in common",
    }
    "disk states (8.5)" {
        D1a "1 weak rule: the better disk is here",
        D1b "1 weak rule: the better disk is there",
        D2a "2 only the peer's disk is Inconsistent",
        D2b "2 only the own disk is Inconsistent",
        D3a "3 below protocol 119: only the peer's disk is Inconsistent",
        D3b "3 below protocol 119: only the own disk is Inconsistent",
        D4 "4 a crashed Primary waits until the other one is settled",
        D5 "5 an outdated crashed Primary is no source",
        D6 "6 an Inconsistent disk was forsaken",
        DSourceUse "source form: the bitmap",
        DSourceExact "source form: the peer is a target with its own bitmap",
        DSourceCopy "source form: the bitmap of another node",
        DSourceSet "source form: all",
        DTargetUse "target form: the bitmap",
        DTargetExact "target form: this node is a target with its own bitmap",
        DTargetClear "target form: the source knows the blocks",
        DTargetSet "target form: all",
    }
    "left-over bits (8.6)" {
        L1a "1 bits here, a lost Primary was named",
        L1b "1 bits there, a lost Primary was named",
        L2a "2 bits on both sides: this node is ahead",
        L2b "2 bits on both sides: the peer is ahead",
        L2c "2 bits on both sides: neither is ahead",
        L3a "3 only this node named it",
        L3b "3 only the peer named it",
        L4a "4 this node still sees a Primary, and is the source",
        L4b "4 the peer still sees a Primary, and is the source",
        L4c "4 this node still sees a Primary, but lacks writes",
        L5a "5 nobody accounts for the bits: this node is the source",
        L5b "5 nobody accounts for the bits: the peer is the source",
        L6 "6 the peer still follows a Primary that is none",
        L7a "7 a disk comes back with bits: the own one",
        L7b "7 a disk comes back with bits: the peer's",
    }
    "split brain and conflicts with the role (8.7)" {
        K0 "0 one of the two is still being resynced",
        K1 "1 no way to go on",
        K2a "2 the peer would not notice the missed end: again",
        K2b "2 the peer cannot tell a Primary that it missed the end",
        K4 "4 both generations belong to a Primary elsewhere",
        K5 "5 split brain",
        K6a "6a quorum here",
        K6b "6a quorum there",
        K6c "6c resolved, all blocks",
        K7a "7 the peer's data are discarded",
        K7b "7 the own data are discarded",
        K8 "8 unresolved",
        K9a "9 reversed to discard the peer's data",
        K9b "9 reversed to discard the own data",
        K9c "9 not reversed for an Inconsistent disk",
        K10a "10 rr-conflict disconnect",
        K10b "10 rr-conflict retry-connect",
        K10c "10 rr-conflict call-pri-lost",
        K10d "10 rr-conflict violently",
        K10e "10 rr-conflict auto-discard, become source",
        K10f "10 rr-conflict auto-discard, go ahead",
        K10g "10 what a Primary has is not given up",
        K11 "11 auto-discard at the other end",
        K12a "12 a missed end of an own resync that is worth nothing",
        K12b "12 a missed end of a peer's resync that is worth nothing",
        K13 "13 tentative",
    }
    "after-sb-0pri (8.7)" {
        S0Disconnect "disconnect",
        S0YoungerSource "discard-younger-primary: source",
        S0YoungerTarget "discard-younger-primary: target",
        S0OlderSource "discard-older-primary: source",
        S0OlderTarget "discard-older-primary: target",
        S0NoMark "no mark of a Primary, or two: by changes",
        S0ZeroSource "discard-zero-changes: source",
        S0ZeroTarget "discard-zero-changes: target",
        S0ZeroNo "discard-zero-changes: unresolved",
        S0LeastSource "discard-least-changes: source",
        S0LeastTarget "discard-least-changes: target",
        S0Equal "as many changes: by the resolver of conflicts",
        S0Local "discard-local",
        S0Remote "discard-remote",
    }
    "after-sb-1pri (8.7)" {
        S1Disconnect "disconnect",
        S1Consensus "consensus",
        S1NoConsensus "consensus: none",
        S1SecondarySource "discard-secondary: source",
        S1SecondaryTarget "discard-secondary: target",
        S1Call "call-pri-lost-after-sb",
        S1Violently "violently-as0p",
    }
    "after-sb-2pri (8.7)" {
        S2Disconnect "disconnect",
        S2Call "call-pri-lost-after-sb",
        S2Violently "violently-as0p",
    }
    "call-pri-lost-after-sb (8.7)" {
        SGiveUpDemote "the loser becomes Secondary",
        SGiveUpNot "the loser is in use",
    }
    "bitmaps before a resync (8.8)" {
        BKeep "use-bitmap: none",
        BClear "target-clear-bitmap",
        BCopy "source-copy-other-bitmap",
        BSetRunning "target-set-bitmap beside another resync: none",
        BSetSlots "set-bitmap of a created disk: all slots",
        BSet "set-bitmap",
        BSetUuid "source-set-bitmap: the bitmap UUID is the peer's generation",
    }
    "both crashed, and roles (8.9)" {
        FBoth "both Primary",
        FSelf "Primary here",
        FPeer "Primary there",
        FSource "Secondary both, source",
        FTarget "Secondary both, target",
    }
    "a node without disk meets one with (8.9)" {
        M0 "the peer is not UpToDate",
        M1 "nothing was seen before",
        M2 "the same generation",
        M3a "1 a successor, met by a Primary",
        M3b "1 a successor, met by a Secondary",
        M4 "2 an ancestor",
        M5a "3 the predecessor to be relabelled: again, now shown",
        M5b "3 the predecessor to be relabelled",
        M6 "4 the own generation is unconfirmed",
        M7 "a created disk",
        M8 "the own generation is lost",
        M9 "5 refused",
        M10 "peer without disk, which has moved on",
    }
    "sanitize: connections (3.4 A)" {
        A1 "1 the role of a peer that is gone",
        A2 "2 a Primary may have crashed",
    }
    "sanitize: own disk (3.4 B)" {
        B1 "1 detach of no disk",
        B2 "2 a worse disk is not Outdated",
        B3a "3b not all peers have answered",
        B3b "3c no result: Detaching",
        B3c "3c target: Inconsistent",
        B3d "3c beside an UpToDate disk: UpToDate",
        B3e "3c as the metadata say",
        B3f "3d a source that is Inconsistent waits",
    }
    "sanitize: peers, first pass (3.4 C)" {
        P2a "2 the peer's pause is forgotten",
        P2b "2 the peer's disk is unknown",
        P3 "3 a connection was lost",
        P4 "4 no dependency without disk",
        P5a "5 a resync ends with the own disk",
        P5b "5 a resync ends with the peer's disk",
        P6 "6 I/O is held until the peer is fenced",
    }
    "sanitize: choice of the source (3.4 D)" {
        X1 "1 no target: nobody waits for another source",
        X2 "2 outdated sources are the last resort",
        X3 "3 a source is chosen",
        X4 "4 the current source stays, with a few more bits",
        X5 "5 the old source still has requests",
        X6 "6 the others wait",
    }
    "sanitize: peers, second pass (3.4 E)" {
        E1 "1 a new source is a target elsewhere",
        E2a "2 a suspended source pauses",
        E2b "2 a source goes on",
        E3 "3 a full resync pauses others",
        E4a "4 below protocol 110 the own disk is UpToDate",
        E4b "4 below protocol 110 the peer's disk is UpToDate",
        E5a "5 limits of a target about to start",
        E5b "5 limits of a target",
        E5c "5 limits of a source about to start",
        E5d "5 limits of a source",
        E6 "6 the peer's disk was none",
        E7a "7 no longer Outdated: met a stable peer",
        E7b "7 no longer Outdated: the peer became stable",
        E7c "7 no longer Outdated: together with the peer",
        E8 "8 an attempted resync is undone",
        E9a "9 connected, and UpToDate",
        E9b "9 connected with a Primary that has the same",
        E10 "10 the peer became UpToDate",
        E12a "12 a diskless Primary shows the own generation",
        E12b "12 a diskless Primary shows another generation: get resynced",
        E12c "12 a diskless Primary shows another generation: Consistent",
        E13a "13 distrust",
        E13b "13 no distrust: the peer gave the old generation up",
        E14a "14 the peer's switch counts from now on",
        E14b "14 the own switch counts from now on",
        E14c "14 replication to a disk that is not Inconsistent any more",
    }
    "sanitize: volumes (3.4 F)" {
        F1a "1 quorum lost",
        F1b "1 quorum gained",
        F2 "2 quorum restored",
        F3a "3 data access lost",
        F3b "3 data access gained",
        F4 "4 connection lost while Negotiating",
        F5a "5 Consistent after the loss of a Primary",
        F5b "5 sole authority",
    }
    "sanitize: resource (3.4 G)" {
        G1 "1 I/O goes on with data",
        G2 "2 I/O waits for data",
        G3a "3 I/O waits for quorum",
        G3b "3 I/O goes on with quorum",
        G4 "4 I/O waits for a new generation",
        G5 "5 I/O fails after a forced demotion",
    }
    "hard checks (3.5)" {
        H1 "-9 disconnect of a StandAlone connection",
        H2 "-15 StandAlone to anything but Unconnected",
        H3 "-18 from a broken connection",
        H4 "-18 from Disconnecting",
        H5 "-11 detach or failure of no disk",
    }
    "soft checks (3.6)" {
        T1 "1 -1 a peer is Primary",
        T2 "2 -18 Primary while handshaking",
        T3 "3 -12 Primary while I/O fails",
        T4c "4 -18 disconnect while Unconnected",
        T4d "4 -1 a peer becomes Primary beside this one",
        T4e "4 -22 a peer becomes Primary beside readers",
        T51 "5.1 -18 attach or detach while handshaking",
        T52 "5.2 -12 demotion of a device in use",
        T53 "5.3 -11 no disk",
        T54 "5.4 -16 worse than Outdated",
        T55 "5.5 -2 Primary without data",
        T56 "5.6 -2 readers without data",
        T57 "5.7 -25 no quorum",
        T58a "5.8 -18 two disks Negotiating",
        T58b "5.8 -7 a Primary without fenced peer",
        T58e "5.8 -6 a disk that is in use is not outdated",
        T58f "5.8 -14 verify without algorithm",
        T58g "5.8 -8 bitmaps during a resync",
        T58h "5.8 -8 start during a resync",
        T58i "5.8 -15 start without connection",
        T58j "5.8 -26 a disk where none may be",
    }
    "two-phase commit, the initiator (5.3)" {
        I2 "2 -15 the target is not there",
        I6a "6 a peer says YES",
        I6b "6 the target says YES",
        I6c "6 a peer says NO",
        I6d "6 a peer says RETRY",
        I6e "6 a DRBD 8 agrees",
        I6f "6 a DRBD 8 refuses",
        I7a "7 -19 again",
        I7b "7 -28 the handshake wants another try",
        I7c "7 -27 the handshake failed",
        I7d "7 -10 refused",
        I7e "7 -23 timeout",
        I8a "8 -1 two Primaries, nowhere allowed",
        I8b "8 -24 Primaries that do not see each other",
        I8c "8 -1 two Primaries at a common server that does not allow them",
        I8d "8 two Primaries at a common server",
        I8e "8 two Primaries, connected with each other",
        I8f "8 -22 readers beside a Primary",
        I8g "8 the cluster splits",
        I11 "11 the own state changed meanwhile",
        ILost "5.5 a link is lost on whose answer this node waits",
        ILostTarget "5.5 the link to the target is lost",
    }
    "two-phase commit, a PREPARE arrives (5.4)" {
        R1 "none in progress",
        R2 "the own transaction came back",
        R3 "a smaller initiator than this one",
        R4a "the same again, already answered",
        R4b "the same again, through a node that was asked",
        R4c "the same again",
        R5a "another one, while this one coordinates",
        R5b "another one, while this one takes part",
        R6 "the next of the same initiator, over another link: it waits",
    }
    "two-phase commit, the participant (5.4)" {
        Q1 "-18 RETRY at once",
        Q2 "refused here",
        Q3 "passed on",
        Q4a "a child says YES",
        Q4b "a child says NO",
        Q4c "a child says RETRY",
        Q5a "answer YES",
        Q5b "answer NO",
        Q5c "answer RETRY",
        Q5d "answer RETRY: handshake",
        Q5e "answer NO: handshake",
        Q6a "COMMIT",
        Q6b "ABORT",
        Q6c "ABORT of what is not known",
        Q6d "COMMIT of what is not known",
        Q7a "5.5 the last parent is lost",
        Q7b "5.5 a child is lost",
        Q7c "timeout",
    }
    "two-phase commit, checks of a participant (5.4, 5.6)" {
        V2 "-18 connect with a connection that is not waiting",
        V3 "-18 connect during a change of role",
        V4 "-1 connect with a second Primary",
        V5 "-22 connect with a Primary beside readers",
        V6 "-1 a second Primary far away",
        V7 "-24 a second Primary far away, beside a disk",
    }
    "quorum: who counts (11.1, 11.2)" {
        N1 "UpToDate",
        N2 "present",
        N3 "outdated",
        N4 "in a partition without quorum",
        N5 "unknown",
        N6 "without disk",
        N7 "without disk, and gone",
        N8 "UpToDate and quorate, seen from a node without disk",
    }
    "quorum: result (11.3)" {
        Z1 "1 a partition without quorum might have one by now",
        Z2 "2 nobody is missing",
        Z4a "4 by a quorate peer",
        Z4b "4 by count",
        Z4c "4 too few",
        Z4d "4 too few that are UpToDate",
        Z5 "5 by a tie-breaker",
    }
}

const WORDS: usize = Row::ALL.len().div_ceil(64);

/// A set of rows.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Rows([u64; WORDS]);

impl Rows {
    /// Adds one.
    pub fn insert(&mut self, row: Row) {
        let nr = row as usize;
        if let Some(word) = self.0.get_mut(nr / 64) {
            *word |= 1 << (nr % 64);
        }
    }

    /// Whether it is among them.
    pub fn contains(&self, row: Row) -> bool {
        let nr = row as usize;
        self.0
            .get(nr / 64)
            .is_some_and(|word| word & (1 << (nr % 64)) != 0)
    }

    /// Whether all of another set are among them.
    pub fn contains_all(&self, other: &Rows) -> bool {
        (self.0.iter().zip(other.0)).all(|(word, others)| others & !word == 0)
    }

    /// Adds all of another set.
    pub fn add(&mut self, other: &Rows) {
        for (word, more) in self.0.iter_mut().zip(other.0) {
            *word |= more;
        }
    }

    /// The rows, table by table.
    pub fn iter(&self) -> impl Iterator<Item = Row> + '_ {
        Row::ALL.iter().copied().filter(|row| self.contains(*row))
    }
}

impl FromIterator<Row> for Rows {
    fn from_iter<I: IntoIterator<Item = Row>>(rows: I) -> Rows {
        let mut set = Rows::default();
        rows.into_iter().for_each(|row| set.insert(row));
        set
    }
}

/// The rows that an engine went through.
#[derive(Default, Debug)]
pub(crate) struct Noted(Cell<Rows>);

impl Noted {
    /// One more. Changes are tried without being made, so this has to do with a shared reference.
    pub(crate) fn note(&self, row: Row) {
        let mut rows = self.0.get();
        rows.insert(row);
        self.0.set(rows);
    }

    /// Several more.
    pub(crate) fn add(&self, more: &Rows) {
        let mut rows = self.0.get();
        rows.add(more);
        self.0.set(rows);
    }

    /// All so far.
    pub(crate) fn all(&self) -> Rows {
        self.0.get()
    }
}
