//! The flag words of the protocol. Unknown bits are kept as received.

use core::fmt;
use core::ops::{BitAnd, BitAndAssign, BitOr, BitOrAssign};

use crate::units::NodeId;

macro_rules! flags {
    ($(#[$m:meta])* pub struct $name:ident($int:ty) {
        $($(#[$fm:meta])* $flag:ident = $value:literal,)*
    }) => {
        $(#[$m])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
        pub struct $name(pub $int);

        impl $name {
            $($(#[$fm])* pub const $flag: $name = $name($value);)*
            /// No flag.
            pub const NONE: $name = $name(0);
            /// Every flag that has a name.
            pub const ALL: $name = $name(0 $(| $value)*);

            /// The names of all flags, with their values.
            pub const NAMES: &'static [(&'static str, $name)] =
                &[$((stringify!($flag), $name($value))),*];

            /// The bits.
            #[inline]
            pub const fn bits(self) -> $int {
                self.0
            }
            /// Are all flags of `other` set?
            #[inline]
            pub const fn contains(self, other: $name) -> bool {
                self.0 & other.0 == other.0
            }
            /// Is any flag of `other` set?
            #[inline]
            pub const fn intersects(self, other: $name) -> bool {
                self.0 & other.0 != 0
            }
            /// Is no bit set?
            #[inline]
            pub const fn is_empty(self) -> bool {
                self.0 == 0
            }
            /// These flags and those of `other`.
            #[inline]
            #[must_use]
            pub const fn union(self, other: $name) -> $name {
                $name(self.0 | other.0)
            }
            /// These flags without those of `other`.
            #[inline]
            #[must_use]
            pub const fn minus(self, other: $name) -> $name {
                $name(self.0 & !other.0)
            }
            /// These flags, with those of `other` added if `on`.
            #[inline]
            #[must_use]
            pub const fn with(self, other: $name, on: bool) -> $name {
                if on { self.union(other) } else { self.minus(other) }
            }
        }

        impl BitOr for $name {
            type Output = $name;
            fn bitor(self, other: $name) -> $name {
                $name(self.0 | other.0)
            }
        }
        impl BitOrAssign for $name {
            fn bitor_assign(&mut self, other: $name) {
                self.0 |= other.0;
            }
        }
        impl BitAnd for $name {
            type Output = $name;
            fn bitand(self, other: $name) -> $name {
                $name(self.0 & other.0)
            }
        }
        impl BitAndAssign for $name {
            fn bitand_assign(&mut self, other: $name) {
                self.0 &= other.0;
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut rest = *self;
                let mut sep = "";
                for (name, flag) in Self::NAMES {
                    if self.contains(*flag) {
                        write!(f, "{sep}{name}")?;
                        rest = rest.minus(*flag);
                        sep = "|";
                    }
                }
                if !rest.is_empty() || sep.is_empty() {
                    write!(f, "{sep}{:#x}", rest.0)?;
                }
                Ok(())
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
        wire_newtype!($name($int));
    };
}

flags! {
    /// Feature flags (wire protocol, section 2.3). Agreed = what both nodes offer.
    pub struct Features(u32) {
        /// P_TRIM may be sent.
        TRIM = 0x001,
        /// Thin resync requests and P_RS_DEALLOCATED(_ID).
        THIN_RESYNC = 0x002,
        /// P_SIZES carries queue limits; discards up to 128 MiB.
        WSAME = 0x004,
        /// P_ZEROES exists and is distinct from P_TRIM.
        WZEROES = 0x008,
        /// Resync and verify requests carry a dagtag dependency.
        RESYNC_DAGTAG = 0x010,
        /// Second layout of the two-phase commit request.
        TWOPC_V2 = 0x020,
        /// Skip-initial-sync also reaches diskless nodes.
        RS_SKIP_UUID = 0x040,
        /// P_ENABLE_REPLICATION(_NEXT) exist.
        RESYNC_WITHOUT_REPLICATION = 0x080,
        /// The bitmap block size is announced in P_SIZES.
        BM_BLOCK_SHIFT = 0x100,
        /// P_PEER_DAGTAG inside the connect handshake.
        RECONCILE_RECONNECT = 0x200,
    }
}

impl Features {
    /// No feature of the reference, which ignores what it does not know: bits at equal generations that nobody
    /// accounts for are compared by both nodes, and not dropped. Not among [`Features::ALL`].
    pub const COMPARE_LEFTOVER: Features = Features(1 << 31);
}

flags! {
    /// Flags of P_PROTOCOL (wire protocol, section 6.3).
    pub struct ConnFlags(u32) {
        /// The sender was told to give up its own changes.
        DISCARD_MY_DATA = 0x1,
        /// Do the handshake, start nothing (protocol 92 and up).
        DRY_RUN = 0x2,
    }
}

flags! {
    /// Flags of a write (wire protocol, section 13.2). Before protocol 95 only RW_SYNC exists on the
    /// wire.
    pub struct DpFlags(u32) {
        /// Never used.
        HARDBARRIER = 0x001,
        /// Synchronous I/O.
        RW_SYNC = 0x002,
        /// The ack of this write may clear bitmap bits.
        MAY_SET_IN_SYNC = 0x004,
        /// Obsolete; ignored.
        UNPLUG = 0x008,
        /// Force unit access.
        FUA = 0x010,
        /// Flush before the write.
        FLUSH = 0x020,
        /// P_TRIM: always set. P_ZEROES: may deallocate.
        DISCARD = 0x040,
        /// Answer with P_RECV_ACK (protocol B); 100 and up.
        SEND_RECEIVE_ACK = 0x080,
        /// Answer with P_WRITE_ACK (protocol C); 100 and up.
        SEND_WRITE_ACK = 0x100,
        /// Forbidden.
        WSAME = 0x200,
        /// P_ZEROES: always set.
        ZEROES = 0x400,
    }
}

flags! {
    /// Flags of the UUID packets (wire protocol, section 10.4). Bits 56..=63 hold a node id, see
    /// [`UuidFlags::unallocated_node`].
    pub struct UuidFlags(u64) {
        /// The sender was started with discard-my-data.
        DISCARD_MY_DATA = 0x0001,
        /// The sender crashed as Primary.
        CRASHED_PRIMARY = 0x0002,
        /// The sender's disk is inconsistent.
        INCONSISTENT = 0x0004,
        /// Accept my UUID, clear the bitmaps, become UpToDate.
        SKIP_INITIAL_SYNC = 0x0008,
        /// The current UUID is new: rotate.
        NEW_DATAGEN = 0x0010,
        /// The sender is not possibly changed by a node the receiver cannot see.
        STABLE = 0x0020,
        /// The sender has just become stable.
        GOT_STABLE = 0x0040,
        /// Compare UUIDs now and resync if needed.
        RESYNC = 0x0080,
        /// The sender considers this a re-connect.
        RECONNECT = 0x0100,
        /// With RESYNC: the reason is a diskless Primary.
        DISKLESS_PRIMARY = 0x0200,
        /// The sender was Primary without quorum.
        PRIMARY_LOST_QUORUM = 0x0400,
        /// The sender is SyncTarget of another node; "current" is that node's UUID.
        SYNC_TARGET = 0x0800,
        /// One of the bitmap UUIDs belongs to an unallocated slot.
        HAS_UNALLOC = 0x1000,
    }
}

impl UuidFlags {
    /// Position of the node id of the unallocated slot.
    const NODE_SHIFT: u32 = 56;
    /// The flags that exist before protocol 110.
    pub const LEGACY: UuidFlags = UuidFlags(0xf);

    /// The node id of the unallocated slot, if there is one and the id is valid.
    pub const fn unallocated_node(self) -> Option<NodeId> {
        if self.contains(Self::HAS_UNALLOC) {
            NodeId::new((self.0 >> Self::NODE_SHIFT) as u32)
        } else {
            None
        }
    }
    /// These flags, announcing an unallocated slot of `node`.
    #[must_use]
    pub const fn with_unallocated_node(self, node: NodeId) -> UuidFlags {
        let flags = self.0 & !(0xff << Self::NODE_SHIFT);
        UuidFlags(flags | (node.get() as u64) << Self::NODE_SHIFT).union(Self::HAS_UNALLOC)
    }
}

flags! {
    /// Flags of a size announcement or resize (wire protocol, section 10.2).
    pub struct DdsFlags(u16) {
        /// Assume unconnected peers have the space.
        FORCED = 0x1,
        /// Do not resync the new area.
        NO_RESYNC = 0x2,
        /// Local only; never on the wire.
        LOCAL_ONLY = 0x8,
    }
}

flags! {
    /// Flags of a two-phase commit request (wire protocol, section 12.1).
    pub struct TwopcFlags(u32) {
        /// Always set in the second layout.
        HAS_FLAGS = 0x8000_0000,
        /// Phase 2 carries the reachable nodes.
        HAS_REACHABLE = 0x4000_0000,
        /// There is a Primary, but none with access to data.
        PRI_INCAPABLE = 0x2000_0000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn display_names_every_bit() {
        assert_eq!(
            (UuidFlags::STABLE | UuidFlags::INCONSISTENT).to_string(),
            "INCONSISTENT|STABLE"
        );
        assert_eq!(DpFlags(0x8102).to_string(), "RW_SYNC|SEND_WRITE_ACK|0x8000");
        assert_eq!(DpFlags::NONE.to_string(), "0x0");
        assert_eq!(Features::ALL.bits(), 0x3ff);
    }

    #[test]
    fn unallocated_node() {
        let flags = UuidFlags(0x0200_0000_0000_1020);
        assert_eq!(flags.unallocated_node(), NodeId::new(2));
        assert_eq!(
            UuidFlags::STABLE.with_unallocated_node(NodeId::new(2).unwrap()),
            flags
        );
        assert_eq!(UuidFlags(0x2000_0000_0000_1000).unallocated_node(), None);
        assert_eq!(UuidFlags(0x0200_0000_0000_0020).unallocated_node(), None);
    }
}
