//! Roles and states, with the numbers they have on the wire and the names the tools print, and the
//! packed state word that carries them (wire protocol, chapter 11; state machine, chapter 2).

use core::fmt;

mod word;

pub use word::{StateChange, StateWord};

/// Protocol versions below this one are spoken with DRBD 8.x: disk states are numbered differently.
const FIRST_MODERN: u16 = 110;

macro_rules! state_enum {
    ($(#[$m:meta])* pub enum $name:ident {
        $($(#[$vm:meta])* $variant:ident = $value:literal $text:literal,)*
    }) => {
        $(#[$m])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name {
            $($(#[$vm])* $variant = $value,)*
        }

        impl $name {
            /// All values, in numeric order.
            pub const ALL: &'static [$name] = &[$($name::$variant),*];

            /// From its number; `None` if there is no such value.
            #[inline]
            pub const fn from_u8(value: u8) -> Option<$name> {
                match value {
                    $($value => Some($name::$variant),)*
                    _ => None,
                }
            }
            /// Its number on the wire (of DRBD 9).
            #[inline]
            pub const fn as_u8(self) -> u8 {
                self as u8
            }
            /// Its name as the tools print it.
            pub const fn name(self) -> &'static str {
                match self {
                    $($name::$variant => $text,)*
                }
            }
            /// From its printed name.
            pub fn from_name(name: &str) -> Option<$name> {
                Self::ALL.iter().copied().find(|v| v.name() == name)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }
    };
}

state_enum! {
    /// What a node does with a resource.
    pub enum Role {
        /// Of a peer that is not connected.
        Unknown = 0 "Unknown",
        /// The resource may be used here.
        Primary = 1 "Primary",
        /// The resource only takes part in replication.
        Secondary = 2 "Secondary",
    }
}

state_enum! {
    /// The state of a disk. The order of the numbers has a meaning and is used in comparisons.
    pub enum DiskState {
        /// No disk attached.
        Diskless = 0 "Diskless",
        /// Meta-data is being read.
        Attaching = 1 "Attaching",
        /// Administrative detach in progress.
        Detaching = 2 "Detaching",
        /// I/O error seen, on the way to Diskless.
        Failed = 3 "Failed",
        /// Attached while connected, waiting for the handshake.
        Negotiating = 4 "Negotiating",
        /// The content is not usable as a whole.
        Inconsistent = 5 "Inconsistent",
        /// Consistent, but known to be old.
        Outdated = 6 "Outdated",
        /// Only ever the state of a peer's disk.
        Unknown = 7 "DUnknown",
        /// Consistent, not known whether current.
        Consistent = 8 "Consistent",
        /// The only state that serves application I/O.
        UpToDate = 9 "UpToDate",
    }
}

state_enum! {
    /// The state of a connection.
    pub enum ConnState {
        /// Not configured to connect.
        StandAlone = 0 "StandAlone",
        /// On the way to StandAlone.
        Disconnecting = 1 "Disconnecting",
        /// Between two attempts.
        Unconnected = 2 "Unconnected",
        /// Lost: no progress in time.
        Timeout = 3 "Timeout",
        /// Lost: the stream broke.
        BrokenPipe = 4 "BrokenPipe",
        /// Lost: the network failed.
        NetworkFailure = 5 "NetworkFailure",
        /// Lost: the peer sent something wrong.
        ProtocolError = 6 "ProtocolError",
        /// Ended in agreement.
        TearDown = 7 "TearDown",
        /// Trying, or in the handshake.
        Connecting = 8 "Connecting",
        /// An agreed member.
        Connected = 9 "Connected",
    }
}

state_enum! {
    /// The state of replication of one volume to one peer. Shares its numbers with [`ConnState`].
    pub enum ReplState {
        /// The connection is not established.
        Off = 9 "Off",
        /// Nothing but application writes.
        Established = 10 "Established",
        /// Full sync as source begins.
        StartingSyncS = 11 "StartingSyncS",
        /// Full sync as target begins.
        StartingSyncT = 12 "StartingSyncT",
        /// Bitmap exchange, will be source.
        WFBitMapS = 13 "WFBitMapS",
        /// Bitmap exchange, will be target.
        WFBitMapT = 14 "WFBitMapT",
        /// Target waits for P_SYNC_UUID (below protocol 110).
        WFSyncUUID = 15 "WFSyncUUID",
        /// Resync, source.
        SyncSource = 16 "SyncSource",
        /// Resync, target.
        SyncTarget = 17 "SyncTarget",
        /// Online verify, asking.
        VerifyS = 18 "VerifyS",
        /// Online verify, answering.
        VerifyT = 19 "VerifyT",
        /// Resync paused, source.
        PausedSyncS = 20 "PausedSyncS",
        /// Resync paused, target.
        PausedSyncT = 21 "PausedSyncT",
        /// Sends marks instead of data.
        Ahead = 22 "Ahead",
        /// Receives marks instead of data.
        Behind = 23 "Behind",
    }
}

impl ReplState {
    /// Source of a resync, running or paused.
    pub const fn is_sync_source(self) -> bool {
        matches!(self, ReplState::SyncSource | ReplState::PausedSyncS)
    }
    /// Target of a resync, running or paused.
    pub const fn is_sync_target(self) -> bool {
        matches!(self, ReplState::SyncTarget | ReplState::PausedSyncT)
    }
    /// Either side of a resync.
    pub const fn is_sync(self) -> bool {
        self.is_sync_source() || self.is_sync_target()
    }
    /// Either side of an online verify.
    pub const fn is_verify(self) -> bool {
        matches!(self, ReplState::VerifyS | ReplState::VerifyT)
    }
}

/// The complete state of a volume as its sender sees it: the content of P_STATE. On a
/// connection-wide P_STATE only `role` has a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The sender's role.
    pub role: Role,
    /// The role of the receiver, as the sender knows it.
    pub peer: Role,
    /// The connection state; Connected whenever `repl` is above Off.
    pub conn: ConnState,
    /// The replication state; Off as long as the field holds a connection state.
    pub repl: ReplState,
    /// The sender's disk.
    pub disk: DiskState,
    /// The receiver's disk, as the sender knows it.
    pub peer_disk: DiskState,
    /// The sender's I/O is suspended by its user.
    pub susp: bool,
    /// Resync paused by a dependency.
    pub aftr_isp: bool,
    /// Resync paused by the peer.
    pub peer_isp: bool,
    /// Resync paused by the sender's user.
    pub user_isp: bool,
    /// The sender's I/O is suspended: no access to data.
    pub susp_nod: bool,
    /// The sender's I/O is suspended: fencing.
    pub susp_fen: bool,
    /// The sender's volume has quorum (protocol 113 and up).
    pub quorum: bool,
}

impl State {
    /// Nothing known, not connected, no disk.
    pub const INITIAL: State = State {
        role: Role::Unknown,
        peer: Role::Unknown,
        conn: ConnState::StandAlone,
        repl: ReplState::Off,
        disk: DiskState::Diskless,
        peer_disk: DiskState::Diskless,
        susp: false,
        aftr_isp: false,
        peer_isp: false,
        user_isp: false,
        susp_nod: false,
        susp_fen: false,
        quorum: false,
    };

    /// The announcement of a demotion, sent connection-wide: all other fields are 0.
    pub const DEMOTED: State = State {
        role: Role::Secondary,
        ..State::INITIAL
    };

    /// The number in the `conn` field: the replication state if above Off, else the connection
    /// state.
    pub const fn conn_number(&self) -> u8 {
        if self.repl as u8 > ReplState::Off as u8 {
            self.repl.as_u8()
        } else {
            self.conn.as_u8()
        }
    }

    /// Pack, with the numbers of DRBD 9.
    pub const fn to_word(&self) -> StateWord {
        StateWord(0)
            .with_role(self.role.as_u8())
            .with_peer(self.peer.as_u8())
            .with_conn(self.conn_number())
            .with_disk(self.disk.as_u8())
            .with_pdsk(self.peer_disk.as_u8())
            .with(StateWord::SUSP, self.susp)
            .with(StateWord::AFTR_ISP, self.aftr_isp)
            .with(StateWord::PEER_ISP, self.peer_isp)
            .with(StateWord::USER_ISP, self.user_isp)
            .with(StateWord::SUSP_NOD, self.susp_nod)
            .with(StateWord::SUSP_FEN, self.susp_fen)
            .with(StateWord::QUORUM, self.quorum)
    }

    /// Unpack, with the numbers of DRBD 9. Bits 24..=31 are ignored; a field without a valid value
    /// is the error: its name and number.
    pub const fn from_word(word: StateWord) -> Result<State, (&'static str, u8)> {
        let Some(role) = Role::from_u8(word.role()) else {
            return Err(("role", word.role()));
        };
        let Some(peer) = Role::from_u8(word.peer()) else {
            return Err(("peer role", word.peer()));
        };
        let Some(disk) = DiskState::from_u8(word.disk()) else {
            return Err(("disk state", word.disk()));
        };
        let Some(peer_disk) = DiskState::from_u8(word.pdsk()) else {
            return Err(("peer disk state", word.pdsk()));
        };
        let number = word.conn();
        let (conn, repl) = match (ConnState::from_u8(number), ReplState::from_u8(number)) {
            (Some(conn), _) => (conn, ReplState::Off),
            (None, Some(repl)) => (ConnState::Connected, repl),
            (None, None) => return Err(("connection state", number)),
        };
        Ok(State {
            role,
            peer,
            conn,
            repl,
            disk,
            peer_disk,
            susp: word.has(StateWord::SUSP),
            aftr_isp: word.has(StateWord::AFTR_ISP),
            peer_isp: word.has(StateWord::PEER_ISP),
            user_isp: word.has(StateWord::USER_ISP),
            susp_nod: word.has(StateWord::SUSP_NOD),
            susp_fen: word.has(StateWord::SUSP_FEN),
            quorum: word.has(StateWord::QUORUM),
        })
    }

    /// The word as it is sent at this protocol version. Below 110 disk numbers are those of DRBD 8
    /// and there is no quorum bit.
    pub const fn to_wire(&self, version: u16) -> StateWord {
        let word = self.to_word();
        if version < FIRST_MODERN {
            word.disks_to_legacy().with(StateWord::QUORUM, false)
        } else {
            word
        }
    }

    /// A received word at this protocol version; errors as [`State::from_word`].
    pub const fn from_wire(word: StateWord, version: u16) -> Result<State, (&'static str, u8)> {
        State::from_word(if version < FIRST_MODERN {
            word.disks_from_legacy()
        } else {
            word
        })
    }
}

#[cfg(test)]
mod tests;
