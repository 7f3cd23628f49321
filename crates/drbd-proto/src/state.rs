//! Roles and states, with the numbers they have on the wire and the names the tools print, and the
//! packed state word that carries them (wire protocol, chapter 11; state machine, chapter 2).

use core::fmt;

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

/// One field of the state word.
#[derive(Clone, Copy)]
struct Field {
    shift: u32,
    mask: u32,
}

impl Field {
    const fn get(self, word: u32) -> u8 {
        (word >> self.shift & self.mask) as u8
    }
    const fn set(self, word: u32, value: u8) -> u32 {
        word & !(self.mask << self.shift) | (value as u32 & self.mask) << self.shift
    }
}

const ROLE: Field = Field { shift: 0, mask: 3 };
const PEER: Field = Field { shift: 2, mask: 3 };
const CONN: Field = Field { shift: 4, mask: 31 };
const DISK: Field = Field { shift: 9, mask: 15 };
const PDSK: Field = Field {
    shift: 13,
    mask: 15,
};

/// The packed state word: a complete state (P_STATE, as [`State`]) or one half of a mask/value pair
/// ([`StateChange`]). Always with the numbers of DRBD 9; the packet codec translates for protocols
/// below 110.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct StateWord(pub u32);

impl StateWord {
    /// I/O is suspended.
    pub const SUSP: StateWord = StateWord(1 << 17);
    /// Resync paused by a dependency.
    pub const AFTR_ISP: StateWord = StateWord(1 << 18);
    /// Resync paused by the peer.
    pub const PEER_ISP: StateWord = StateWord(1 << 19);
    /// Resync paused by the local user.
    pub const USER_ISP: StateWord = StateWord(1 << 20);
    /// I/O suspended: no access to data.
    pub const SUSP_NOD: StateWord = StateWord(1 << 21);
    /// I/O suspended: fencing.
    pub const SUSP_FEN: StateWord = StateWord(1 << 22);
    /// The sender's volume has quorum (protocol 113 and up).
    pub const QUORUM: StateWord = StateWord(1 << 23);
    /// The `conn` field of a mask that names it.
    pub const CONN_MASK: u8 = 31;
    /// The `role` and `peer` field of a mask that names them.
    pub const ROLE_MASK: u8 = 3;
    /// The `disk` and `pdsk` field of a mask that names them.
    pub const DISK_MASK: u8 = 15;

    /// The role field, 0..=3.
    pub const fn role(self) -> u8 {
        ROLE.get(self.0)
    }
    /// The peer's role field, 0..=3.
    pub const fn peer(self) -> u8 {
        PEER.get(self.0)
    }
    /// The connection or replication state field, 0..=31.
    pub const fn conn(self) -> u8 {
        CONN.get(self.0)
    }
    /// The disk field, 0..=15.
    pub const fn disk(self) -> u8 {
        DISK.get(self.0)
    }
    /// The peer's disk field, 0..=15.
    pub const fn pdsk(self) -> u8 {
        PDSK.get(self.0)
    }
    /// With this role field.
    #[must_use]
    pub const fn with_role(self, value: u8) -> StateWord {
        StateWord(ROLE.set(self.0, value))
    }
    /// With this peer's role field.
    #[must_use]
    pub const fn with_peer(self, value: u8) -> StateWord {
        StateWord(PEER.set(self.0, value))
    }
    /// With this connection or replication state field.
    #[must_use]
    pub const fn with_conn(self, value: u8) -> StateWord {
        StateWord(CONN.set(self.0, value))
    }
    /// With this disk field.
    #[must_use]
    pub const fn with_disk(self, value: u8) -> StateWord {
        StateWord(DISK.set(self.0, value))
    }
    /// With this peer's disk field.
    #[must_use]
    pub const fn with_pdsk(self, value: u8) -> StateWord {
        StateWord(PDSK.set(self.0, value))
    }
    /// Are all bits of `flag` set?
    pub const fn has(self, flag: StateWord) -> bool {
        self.0 & flag.0 == flag.0
    }
    /// With the bits of `flag` set or cleared.
    #[must_use]
    pub const fn with(self, flag: StateWord, on: bool) -> StateWord {
        StateWord(if on {
            self.0 | flag.0
        } else {
            self.0 & !flag.0
        })
    }

    /// The word as the other node must read it (wire protocol, section 11.4): own and peer's fields
    /// swapped, asymmetric states mirrored. Applies to masks and values alike.
    #[must_use]
    pub const fn peer_view(self) -> StateWord {
        let conn = match self.conn() {
            1 => 7,
            same @ (8 | 9 | 10 | 31) => same,
            11 => 12,
            12 => 11,
            13 => 14,
            14 => 13,
            18 => 19,
            _ => 0,
        };
        let paused = self.0 & (Self::AFTR_ISP.0 | Self::USER_ISP.0) != 0;
        self.with_role(self.peer())
            .with_peer(self.role())
            .with_disk(self.pdsk())
            .with_pdsk(self.disk())
            .with_conn(conn)
            .with(Self::PEER_ISP, paused)
    }

    /// Disk numbers of DRBD 8 to those of DRBD 9 (wire protocol, section 11.3). 9 does not exist in
    /// DRBD 8; it comes from DRBD 9 nodes, which do not translate it in requests, and means UpToDate.
    pub(crate) const fn disks_from_legacy(self) -> StateWord {
        const fn up(v: u8) -> u8 {
            match v {
                2..=8 => v.saturating_add(1),
                _ => v,
            }
        }
        self.with_disk(up(self.disk())).with_pdsk(up(self.pdsk()))
    }
    /// Disk numbers of DRBD 9 to those of DRBD 8: Detaching becomes Failed. Numbers that are no state
    /// stay what they are, here and in the other direction.
    pub(crate) const fn disks_to_legacy(self) -> StateWord {
        const fn down(v: u8) -> u8 {
            match v {
                3..=9 => v.saturating_sub(1),
                _ => v,
            }
        }
        self.with_disk(down(self.disk()))
            .with_pdsk(down(self.pdsk()))
    }
}

impl fmt::Debug for StateWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StateWord({:#010x})", self.0)
    }
}

impl fmt::Display for StateWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}", self.0)
    }
}

wire_newtype!(StateWord(u32));

/// A change somebody asks for: the fields set in `mask` shall become what `val` says. Fields of a
/// mask are all ones or all zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct StateChange {
    /// Which fields.
    pub mask: StateWord,
    /// Their new values.
    pub val: StateWord,
}

impl StateChange {
    /// The empty change, used to learn who is Primary.
    pub const EMPTY: StateChange = StateChange {
        mask: StateWord(0),
        val: StateWord(0),
    };

    /// Also set the role.
    #[must_use]
    pub const fn role(self, role: Role) -> StateChange {
        StateChange {
            mask: self.mask.with_role(StateWord::ROLE_MASK),
            val: self.val.with_role(role.as_u8()),
        }
    }
    /// Also set the connection state.
    #[must_use]
    pub const fn conn(self, conn: ConnState) -> StateChange {
        StateChange {
            mask: self.mask.with_conn(StateWord::CONN_MASK),
            val: self.val.with_conn(conn.as_u8()),
        }
    }
    /// Also set the replication state (in the same field as the connection state).
    #[must_use]
    pub const fn repl(self, repl: ReplState) -> StateChange {
        StateChange {
            mask: self.mask.with_conn(StateWord::CONN_MASK),
            val: self.val.with_conn(repl.as_u8()),
        }
    }
    /// Also set the disk state.
    #[must_use]
    pub const fn disk(self, disk: DiskState) -> StateChange {
        StateChange {
            mask: self.mask.with_disk(StateWord::DISK_MASK),
            val: self.val.with_disk(disk.as_u8()),
        }
    }
    /// Also set the peer's disk state.
    #[must_use]
    pub const fn peer_disk(self, disk: DiskState) -> StateChange {
        StateChange {
            mask: self.mask.with_pdsk(StateWord::DISK_MASK),
            val: self.val.with_pdsk(disk.as_u8()),
        }
    }
    /// Is no field named?
    pub const fn is_empty(self) -> bool {
        self.mask.0 == 0
    }
    /// The role asked for, if the mask names it and the value is one.
    pub const fn get_role(self) -> Option<Role> {
        if self.mask.role() == 0 {
            None
        } else {
            Role::from_u8(self.val.role())
        }
    }
    /// The peer's role asked for, if the mask names it and the value is one.
    pub const fn get_peer(self) -> Option<Role> {
        if self.mask.peer() == 0 {
            None
        } else {
            Role::from_u8(self.val.peer())
        }
    }
    /// The connection state asked for, if the mask names the field and the value is 0..=9.
    pub const fn get_conn(self) -> Option<ConnState> {
        if self.mask.conn() == 0 {
            None
        } else {
            ConnState::from_u8(self.val.conn())
        }
    }
    /// The replication state asked for, if the mask names the field and the value is 9..=23.
    pub const fn get_repl(self) -> Option<ReplState> {
        if self.mask.conn() == 0 {
            None
        } else {
            ReplState::from_u8(self.val.conn())
        }
    }
    /// The disk state asked for, if the mask names it and the value is one.
    pub const fn get_disk(self) -> Option<DiskState> {
        if self.mask.disk() == 0 {
            None
        } else {
            DiskState::from_u8(self.val.disk())
        }
    }
    /// The peer's disk state asked for, if the mask names it and the value is one.
    pub const fn get_peer_disk(self) -> Option<DiskState> {
        if self.mask.pdsk() == 0 {
            None
        } else {
            DiskState::from_u8(self.val.pdsk())
        }
    }
    /// The change as the other node must read it (wire protocol, section 11.4).
    #[must_use]
    pub const fn peer_view(self) -> StateChange {
        StateChange {
            mask: self.mask.peer_view(),
            val: self.val.peer_view(),
        }
    }

    pub(crate) const fn translate_received(self, version: u16) -> StateChange {
        if version >= FIRST_MODERN {
            return self;
        }
        self.map_disks(self.val.disks_from_legacy())
    }
    pub(crate) const fn translate_sent(self, version: u16) -> StateChange {
        if version >= FIRST_MODERN {
            return self;
        }
        self.map_disks(self.val.disks_to_legacy())
    }
    /// Take the disk fields of `val` where the mask names them.
    const fn map_disks(self, val: StateWord) -> StateChange {
        let mut out = self;
        if self.mask.disk() != 0 {
            out.val = out.val.with_disk(val.disk());
        }
        if self.mask.pdsk() != 0 {
            out.val = out.val.with_pdsk(val.pdsk());
        }
        out
    }
}

impl crate::wire::Wire for StateChange {
    const LEN: usize = 8;
    fn load(bytes: &[u8]) -> Result<Self, u64> {
        let pair = u64::load(bytes)?;
        Ok(StateChange {
            mask: StateWord((pair >> 32) as u32),
            val: StateWord(pair as u32),
        })
    }
    fn store(&self, out: &mut [u8]) {
        (u64::from(self.mask.0) << 32 | u64::from(self.val.0)).store(out);
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
