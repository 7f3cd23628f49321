//! Features, authentication, connection parameters (wire protocol, chapter 6).

use core::fmt;

use crate::ctx::{AGREEABLE_LEGACY, AGREEABLE_MODERN, AlgName, Ctx, MAX_ALG_NAME};
use crate::digest::DigestValue;
use crate::flags::{ConnFlags, Features};
use crate::wire::{Body, Fault, Put, Wire, exactly, get, set, within};

wire_struct! {
    body
    /// P_CONNECTION_FEATURES: what the sender can speak.
    pub struct ConnectionFeatures [72] {
        /// Lowest protocol version offered.
        pub protocol_min: u32 = 0,
        /// Features offered.
        pub features: Features = 4,
        /// Highest protocol version offered; 0 from ancient peers, which mean `protocol_min`.
        pub protocol_max: u32 = 8,
        /// The sender's node id; not checked, because 8.4 nodes have none.
        pub sender_node_id: u32 = 12,
        /// The node id the sender believes it talks to; not checked either.
        pub receiver_node_id: u32 = 16,
    }
}

/// Two nodes cannot talk. Fatal: the connection goes StandAlone (wire protocol, section 6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Incompatible {
    /// No protocol version is in both ranges.
    #[error(
        "no common protocol version: peer speaks {peer_min}..={peer_max}, this node {min}..={max}"
    )]
    NoCommonVersion {
        /// The peer's lowest.
        peer_min: u32,
        /// The peer's highest.
        peer_max: u32,
        /// This node's lowest.
        min: u32,
        /// This node's highest.
        max: u32,
    },
    /// Of 102..=117, the versions between DRBD 8.4 and 9.0.26.
    #[error("protocol version {0} is not supported; update DRBD on the peer to 9.0.26 or newer")]
    Unsupported(u32),
    /// 121 with RESYNC_DAGTAG: DRBD 9.2.0 to 9.2.2.
    #[error("the peer runs an early DRBD 9.2 with incompatible discards; update it")]
    EarlyResyncDagtag,
}

impl ConnectionFeatures {
    /// What the two offers come to. Node ids are not looked at.
    pub fn agree(&self, peers: &ConnectionFeatures) -> Result<Ctx, Incompatible> {
        let peer_min = peers.protocol_min;
        let peer_max = if peers.protocol_max == 0 {
            peer_min
        } else {
            peers.protocol_max
        };
        let (min, max) = (self.protocol_min, self.protocol_max);
        if peer_min > max || peer_max < min {
            return Err(Incompatible::NoCommonVersion {
                peer_min,
                peer_max,
                min,
                max,
            });
        }
        let agreed = u16::try_from(max.min(peer_max)).unwrap_or(u16::MAX);
        if !AGREEABLE_LEGACY.contains(&agreed) && !AGREEABLE_MODERN.contains(&agreed) {
            return Err(Incompatible::Unsupported(agreed.into()));
        }
        let ctx = Ctx::new(agreed, self.features & peers.features);
        if agreed == 121 && ctx.has(Features::RESYNC_DAGTAG) {
            return Err(Incompatible::EarlyResyncDagtag);
        }
        Ok(ctx)
    }
}

/// Size of an authentication challenge, bytes.
pub const CHALLENGE_LEN: usize = 64;

/// P_AUTH_CHALLENGE: random bytes to be signed by the receiver.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AuthChallenge(pub [u8; CHALLENGE_LEN]);

impl fmt::Debug for AuthChallenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthChallenge(..)")
    }
}

impl Body for AuthChallenge {
    fn fixed_len(_: &Ctx, length: u32) -> Result<u32, Fault> {
        exactly(length, CHALLENGE_LEN as u32)
    }
    fn load(_: &Ctx, bytes: &[u8], length: u32) -> Result<Self, Fault> {
        match bytes.first_chunk() {
            Some(challenge) => Ok(AuthChallenge(*challenge)),
            None => Err(Fault::Field {
                field: "challenge",
                value: length.into(),
            }),
        }
    }
    fn store(&self, _: &Ctx, out: &mut impl Put) {
        out.put(&self.0);
    }
    fn stored_len(&self, _: &Ctx) -> usize {
        CHALLENGE_LEN
    }
}

/// P_AUTH_RESPONSE: the keyed digest of the challenge, see [`crate::auth`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthResponse(pub DigestValue);

impl Body for AuthResponse {
    fn fixed_len(_: &Ctx, length: u32) -> Result<u32, Fault> {
        within(length, 1, DigestValue::MAX_LEN as u32)
    }
    fn load(_: &Ctx, bytes: &[u8], _: u32) -> Result<Self, Fault> {
        DigestValue::load(bytes).map(AuthResponse)
    }
    fn store(&self, _: &Ctx, out: &mut impl Put) {
        out.put(self.0.as_bytes());
    }
    fn stored_len(&self, _: &Ctx) -> usize {
        self.0.len()
    }
}

/// When a write counts as done: the wire protocol A, B or C of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum WireProtocol {
    /// Locally written and sent.
    A = 1,
    /// Reached the peer's memory.
    B = 2,
    /// Written by the peer.
    C = 3,
}

impl fmt::Display for WireProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WireProtocol::A => "A",
            WireProtocol::B => "B",
            WireProtocol::C => "C",
        })
    }
}

impl Wire for WireProtocol {
    const LEN: usize = 4;
    fn load(bytes: &[u8]) -> Result<Self, u64> {
        match u32::load(bytes)? {
            1 => Ok(WireProtocol::A),
            2 => Ok(WireProtocol::B),
            3 => Ok(WireProtocol::C),
            other => Err(other.into()),
        }
    }
    fn store(&self, out: &mut [u8]) {
        (*self as u32).store(out);
    }
}

macro_rules! after_sb {
    ($($(#[$m:meta])* $variant:ident = $value:literal $name:literal,)*) => {
        /// What to do after a split brain (after-sb-0pri, -1pri, -2pri). Not every value is legal in
        /// each of the three places; that is for the configuration to check.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum AfterSb {
            $($(#[$m])* $variant = $value,)*
        }
        impl AfterSb {
            /// The configuration's word for it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(AfterSb::$variant => $name,)*
                }
            }
            /// From the configuration's word.
            pub fn from_name(name: &str) -> Option<AfterSb> {
                match name {
                    $($name => Some(AfterSb::$variant),)*
                    _ => None,
                }
            }
        }
        impl Wire for AfterSb {
            const LEN: usize = 4;
            fn load(bytes: &[u8]) -> Result<Self, u64> {
                match u32::load(bytes)? {
                    $($value => Ok(AfterSb::$variant),)*
                    other => Err(other.into()),
                }
            }
            fn store(&self, out: &mut [u8]) {
                (*self as u32).store(out);
            }
        }
    };
}

after_sb! {
    /// Drop the connection.
    Disconnect = 0 "disconnect",
    /// Discard the changes of the node that became Primary last.
    DiscardYounger = 1 "discard-younger-primary",
    /// Discard the changes of the node that became Primary first.
    DiscardOlder = 2 "discard-older-primary",
    /// If one node has no changes, take the other's.
    DiscardZeroChanges = 3 "discard-zero-changes",
    /// Discard the changes of the node with fewer of them.
    DiscardLeastChanges = 4 "discard-least-changes",
    /// Discard the sender's changes.
    DiscardLocal = 5 "discard-local",
    /// Discard the receiver's changes.
    DiscardRemote = 6 "discard-remote",
    /// The verdict of after-sb-0pri, if it discards the Secondary's changes.
    Consensus = 7 "consensus",
    /// Discard the Secondary's changes.
    DiscardSecondary = 8 "discard-secondary",
    /// Call the pri-lost-after-sb handler on the loser.
    CallPriLost = 9 "call-pri-lost-after-sb",
    /// The verdict of after-sb-0pri, even if it changes data under a Primary.
    ViolentlyAs0p = 10 "violently-as0p",
    /// Connect again (rr-conflict).
    RetryConnect = 11 "retry-connect",
    /// Discard automatically (rr-conflict).
    AutoDiscard = 12 "auto-discard",
}

impl AfterSb {
    /// The same as the other node must read it: local and remote swapped.
    #[must_use]
    pub const fn peer_view(self) -> AfterSb {
        match self {
            AfterSb::DiscardLocal => AfterSb::DiscardRemote,
            AfterSb::DiscardRemote => AfterSb::DiscardLocal,
            same => same,
        }
    }
}

/// P_PROTOCOL (to be compared with one's own) and P_PROTOCOL_UPDATE (to be adopted).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// A, B or C.
    pub wire_protocol: WireProtocol,
    /// After a split brain without Primary.
    pub after_sb_0p: AfterSb,
    /// After a split brain with one Primary.
    pub after_sb_1p: AfterSb,
    /// After a split brain with two Primaries.
    pub after_sb_2p: AfterSb,
    /// Discard my data, dry run.
    pub conn_flags: ConnFlags,
    /// Are two Primaries allowed?
    pub two_primaries: bool,
    /// data-integrity-alg of the sender; not on the wire below protocol 87.
    pub integrity_alg: AlgName,
}

const PROTOCOL_LEN: usize = 24;
const FIRST_WITH_INTEGRITY_ALG: u16 = 87;

impl Body for Protocol {
    fn fixed_len(ctx: &Ctx, length: u32) -> Result<u32, Fault> {
        let fixed = PROTOCOL_LEN as u32;
        let name = if ctx.version >= FIRST_WITH_INTEGRITY_ALG {
            MAX_ALG_NAME as u32
        } else {
            0
        };
        within(length, fixed, fixed.saturating_add(name))
    }
    fn load(_: &Ctx, bytes: &[u8], _: u32) -> Result<Self, Fault> {
        let name = bytes.get(PROTOCOL_LEN..).unwrap_or_default();
        Ok(Protocol {
            wire_protocol: get(bytes, 0, "wire protocol")?,
            after_sb_0p: get(bytes, 4, "after-sb-0pri")?,
            after_sb_1p: get(bytes, 8, "after-sb-1pri")?,
            after_sb_2p: get(bytes, 12, "after-sb-2pri")?,
            conn_flags: get(bytes, 16, "connection flags")?,
            two_primaries: get::<u32>(bytes, 20, "two primaries")? != 0,
            integrity_alg: AlgName::load_rest(name, "integrity algorithm length")?,
        })
    }
    fn store(&self, ctx: &Ctx, out: &mut impl Put) {
        let mut fixed = [0; PROTOCOL_LEN];
        set(&mut fixed, 0, &self.wire_protocol);
        set(&mut fixed, 4, &self.after_sb_0p);
        set(&mut fixed, 8, &self.after_sb_1p);
        set(&mut fixed, 12, &self.after_sb_2p);
        set(&mut fixed, 16, &self.conn_flags);
        set(&mut fixed, 20, &u32::from(self.two_primaries));
        out.put(&fixed);
        if ctx.version >= FIRST_WITH_INTEGRITY_ALG {
            self.integrity_alg.put_terminated(out);
        }
    }
    fn stored_len(&self, ctx: &Ctx) -> usize {
        if ctx.version >= FIRST_WITH_INTEGRITY_ALG {
            PROTOCOL_LEN.saturating_add(self.integrity_alg.terminated_len())
        } else {
            PROTOCOL_LEN
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(protocol_min: u32, protocol_max: u32, features: u32) -> ConnectionFeatures {
        ConnectionFeatures {
            protocol_min,
            features: Features(features),
            protocol_max,
            sender_node_id: 0,
            receiver_node_id: 1,
        }
    }

    /// Wire protocol, section 2.1.
    #[test]
    fn versions_agreed() {
        let agree = |min, max, features| {
            offer(86, 124, 0x3ff)
                .agree(&offer(min, max, features))
                .map(|c| (c.version, c.features.0))
        };
        assert_eq!(agree(86, 124, 0x3ff), Ok((124, 0x3ff)));
        assert_eq!(agree(86, 101, 0xf), Ok((101, 0xf)));
        assert_eq!(agree(86, 120, 0x1f), Ok((120, 0x1f)));
        assert_eq!(agree(118, 130, 0xffff), Ok((124, 0x3ff)));
        assert_eq!(agree(90, 0, 0), Ok((90, 0)));
        assert_eq!(agree(121, 121, 0xf), Ok((121, 0xf)));
        assert_eq!(agree(121, 121, 0x1f), Err(Incompatible::EarlyResyncDagtag));
        for refused in [102, 109, 110, 117] {
            assert_eq!(
                agree(86, refused, 0),
                Err(Incompatible::Unsupported(refused))
            );
        }
        for (min, max) in [(125, 200), (0, 85), (80, 0)] {
            assert!(matches!(
                agree(min, max, 0),
                Err(Incompatible::NoCommonVersion { .. })
            ));
        }
    }

    #[test]
    fn local_and_remote_are_swapped() {
        assert_eq!(AfterSb::DiscardLocal.peer_view(), AfterSb::DiscardRemote);
        assert_eq!(AfterSb::DiscardRemote.peer_view(), AfterSb::DiscardLocal);
        assert_eq!(AfterSb::Consensus.peer_view(), AfterSb::Consensus);
        assert_eq!(
            AfterSb::from_name("violently-as0p"),
            Some(AfterSb::ViolentlyAs0p)
        );
    }
}
