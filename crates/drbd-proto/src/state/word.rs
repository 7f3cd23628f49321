//! The packed state word and the mask/value pair that asks for a change.

use core::fmt;

use super::{ConnState, DiskState, FIRST_MODERN, ReplState, Role};

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
    pub(super) const fn disks_from_legacy(self) -> StateWord {
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
    pub(super) const fn disks_to_legacy(self) -> StateWord {
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
