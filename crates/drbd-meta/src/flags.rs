//! Flag words of the superblock (metadata, section 4).

use core::fmt;
use core::ops::{BitAnd, BitAndAssign, BitOr, BitOrAssign, Not};

macro_rules! flag_word {
    ($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $flag:ident = $value:literal, $text:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
        pub struct $name(u32);

        impl $name {
            $($(#[$fdoc])* pub const $flag: Self = Self($value);)*

            /// The named flags with the names that `dump-md` prints, lowest bit first.
            pub const NAMES: &'static [(Self, &'static str)] = &[$((Self($value), $text)),*];

            /// No flag.
            pub const NONE: Self = Self(0);

            /// The word as it is stored; unknown bits are kept.
            #[must_use]
            pub const fn from_bits(bits: u32) -> Self {
                Self(bits)
            }

            /// The word with all its bits, known or not.
            #[must_use]
            pub const fn bits(self) -> u32 {
                self.0
            }

            /// Whether all flags of `other` are set.
            #[must_use]
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// Whether no bit is set.
            #[must_use]
            pub const fn is_empty(self) -> bool {
                self.0 == 0
            }

            /// Sets the flags of `other`.
            pub fn insert(&mut self, other: Self) {
                self.0 |= other.0;
            }

            /// Clears the flags of `other`.
            pub fn remove(&mut self, other: Self) {
                self.0 &= !other.0;
            }

            /// Sets or clears the flags of `other`.
            pub fn set(&mut self, other: Self, on: bool) {
                if on { self.insert(other) } else { self.remove(other) }
            }
        }

        impl BitOr for $name {
            type Output = Self;
            fn bitor(self, rhs: Self) -> Self {
                Self(self.0 | rhs.0)
            }
        }

        impl BitOrAssign for $name {
            fn bitor_assign(&mut self, rhs: Self) {
                self.0 |= rhs.0;
            }
        }

        impl BitAnd for $name {
            type Output = Self;
            fn bitand(self, rhs: Self) -> Self {
                Self(self.0 & rhs.0)
            }
        }

        impl BitAndAssign for $name {
            fn bitand_assign(&mut self, rhs: Self) {
                self.0 &= rhs.0;
            }
        }

        impl Not for $name {
            type Output = Self;
            fn not(self) -> Self {
                Self(!self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:#x}", stringify!($name), self.0)?;
                let mut separator = ": ";
                for (flag, name) in Self::NAMES {
                    if self.contains(*flag) {
                        write!(f, "{separator}{name}")?;
                        separator = " | ";
                    }
                }
                f.write_str(")")
            }
        }

        impl fmt::Display for $name {
            /// The names joined by ` | `; a bit without a name appears as `0xVALUE=?`.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut separator = "";
                for shift in 0..u32::BITS {
                    let bit = Self(1 << shift);
                    if !self.contains(bit) {
                        continue;
                    }
                    match Self::NAMES.iter().find(|(flag, _)| *flag == bit) {
                        Some((_, name)) => write!(f, "{separator}{name}")?,
                        None => write!(f, "{separator}{:#x}=?", bit.0)?,
                    }
                    separator = " | ";
                }
                Ok(())
            }
        }
    };
}

flag_word! {
    /// The node's own flags, superblock byte 56 (metadata, sections 4.1 and 4.2). Unknown bits are
    /// preserved. The bits marked v08 exist only in v08 superblocks; v09 keeps them per peer.
    LocalFlags {
        /// The data is at least consistent.
        CONSISTENT = 0x001, "consistent";
        /// The backend may have received writes since the activity log was last clean: apply it.
        PRIMARY_IND = 0x002, "primary-ind";
        /// v08: was connected to the peer.
        CONNECTED_IND = 0x004, "connected-ind";
        /// v08: the bitmap counts as all set.
        FULL_SYNC = 0x008, "full-sync";
        /// The disk was UpToDate (or Consistent).
        WAS_UP_TO_DATE = 0x010, "was-up-to-date";
        /// v08: the peer is known to be outdated or inconsistent.
        PEER_OUT_DATED = 0x020, "peer-out-dated";
        /// Crashed as Primary and not in sync with a peer since.
        CRASHED_PRIMARY = 0x040, "crashed-primary";
        /// The activity log was applied or initialised; the device may be attached.
        AL_CLEAN = 0x080, "al-clean";
        /// The activity log was not maintained.
        AL_DISABLED = 0x100, "al-disabled";
        /// Was Primary when quorum was lost.
        PRIMARY_LOST_QUORUM = 0x200, "primary-lost-quorum";
        /// Had quorum at the last update.
        HAVE_QUORUM = 0x400, "have-quorum";
    }
}

impl LocalFlags {
    /// The bits that only a v08 superblock has; in v09 they are flags of the peer entry.
    pub const V08_PEER_BITS: Self = Self(0x004 | 0x008 | 0x020);
}

flag_word! {
    /// The flags of a v09 peer entry (metadata, section 4.3).
    PeerFlags {
        /// Was connected.
        CONNECTED = 0x1, "connected";
        /// The peer's disk is outdated or inconsistent.
        OUTDATED = 0x2, "<=outdated";
        /// A fencing policy other than dont-care applies to this connection.
        FENCING = 0x4, "fencing";
        /// The whole slot counts as out of sync.
        FULL_SYNC = 0x8, "full-sync";
        /// The peer was seen with a disk.
        DEVICE_SEEN = 0x10, "seen";
        /// The node exists, though it may have no slot here.
        NODE_EXISTS = 0x1_0000, "exists";
    }
}

impl PeerFlags {
    /// Bit 31 marks, in memory only, an entry with a bitmap slot. It is never written and ignored
    /// when read; the bitmap index says the same.
    pub const IN_CORE: Self = Self(0x8000_0000);
}

#[cfg(test)]
mod tests {
    use super::{LocalFlags, PeerFlags};
    use std::format;

    #[test]
    fn names() {
        assert_eq!(
            format!("{}", PeerFlags::from_bits(0x1003f)),
            "connected | <=outdated | fencing | full-sync | seen | 0x20=? | exists"
        );
        assert_eq!(format!("{}", PeerFlags::NONE), "");
        assert_eq!(
            format!("{:?}", LocalFlags::CONSISTENT | LocalFlags::AL_CLEAN),
            "LocalFlags(0x81: consistent | al-clean)"
        );
    }

    #[test]
    fn unknown_bits_survive() {
        let mut flags = LocalFlags::from_bits(0x8000_0000);
        flags.set(LocalFlags::PRIMARY_IND, true);
        flags.set(LocalFlags::CONSISTENT, false);
        assert_eq!(flags.bits(), 0x8000_0002);
        assert!(flags.contains(LocalFlags::PRIMARY_IND) && !flags.contains(LocalFlags::AL_CLEAN));
    }
}
