//! Authentication of the peer: HMAC over its challenge with the shared secret (wire protocol,
//! section 6.2).

use core::fmt;

use hmac::{Hmac, Mac};
use md5::Md5;
use sha1::Sha1;
use sha2::{Sha224, Sha256, Sha384, Sha512};

use crate::digest::DigestValue;
use crate::packet::{AuthChallenge, AuthResponse};
use crate::units::NodeId;

macro_rules! algorithms {
    ($($(#[$m:meta])* $variant:ident $name:literal $hash:ty, $len:literal;)*) => {
        /// A cram-hmac-alg this node can compute.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum HmacAlg {
            $($(#[$m])* $variant,)*
        }
        impl HmacAlg {
            /// All of them.
            pub const ALL: &'static [HmacAlg] = &[$(HmacAlg::$variant),*];
            /// The hash's name, as in cram-hmac-alg.
            pub const fn name(self) -> &'static str {
                match self {
                    $(HmacAlg::$variant => $name,)*
                }
            }
            /// By name, with or without "hmac(...)" around it; `None` if it is not known here.
            pub fn from_name(name: &str) -> Option<HmacAlg> {
                let bare = name.strip_prefix("hmac(").and_then(|n| n.strip_suffix(')'));
                match bare.unwrap_or(name) {
                    $($name => Some(HmacAlg::$variant),)*
                    _ => None,
                }
            }
            /// Size of its response, bytes.
            pub const fn digest_len(self) -> usize {
                match self {
                    $(HmacAlg::$variant => $len,)*
                }
            }
            fn sign(self, secret: &[u8], parts: [&[u8]; 2]) -> DigestValue {
                match self {
                    $(HmacAlg::$variant => {
                        // HMAC takes keys of any length: there is no error to come.
                        let Ok(mut mac) = Hmac::<$hash>::new_from_slice(secret) else {
                            return DigestValue::EMPTY;
                        };
                        parts.iter().for_each(|part| mac.update(part));
                        DigestValue::new(&mac.finalize().into_bytes()).unwrap_or_default()
                    })*
                }
            }
        }
    };
}

algorithms! {
    /// HMAC-MD5.
    Md5 "md5" Md5, 16;
    /// HMAC-SHA1.
    Sha1 "sha1" Sha1, 20;
    /// HMAC-SHA224.
    Sha224 "sha224" Sha224, 28;
    /// HMAC-SHA256.
    Sha256 "sha256" Sha256, 32;
    /// HMAC-SHA384.
    Sha384 "sha384" Sha384, 48;
    /// HMAC-SHA512.
    Sha512 "sha512" Sha512, 64;
}

impl fmt::Display for HmacAlg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What `signer` answers to `challenge`. To a peer below protocol 110 there are no node ids: pass
/// `None`.
pub fn response(
    alg: HmacAlg,
    secret: &[u8],
    challenge: &AuthChallenge,
    signer: Option<NodeId>,
) -> AuthResponse {
    let id = signer.map(|node| u32::from(node.get()).to_be_bytes());
    let id = id.as_ref().map_or(&[][..], |id| &id[..]);
    AuthResponse(alg.sign(secret, [&challenge.0, id]))
}

/// Why a peer is not who it should be. Fatal: the connection goes StandAlone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The peer's challenge is a copy of ours.
    #[error("the peer sent back my own challenge; is it connected to itself, or an attacker?")]
    Reflected,
    /// The response is wrong.
    #[error("the peer's response is wrong; is shared-secret the same on both nodes?")]
    Mismatch,
}

/// A challenge from the peer must not be our own: an attacker could have us answer it.
pub fn check_challenge(mine: &AuthChallenge, peers: &AuthChallenge) -> Result<(), AuthError> {
    if mine == peers {
        Err(AuthError::Reflected)
    } else {
        Ok(())
    }
}

/// Check the peer's response to `my_challenge`; `peer` as `signer` of [`response`].
pub fn verify(
    alg: HmacAlg,
    secret: &[u8],
    my_challenge: &AuthChallenge,
    peer: Option<NodeId>,
    received: &AuthResponse,
) -> Result<(), AuthError> {
    let expected = response(alg, secret, my_challenge, peer);
    if expected.0.ct_eq(&received.0) {
        Ok(())
    } else {
        Err(AuthError::Mismatch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    const SECRET: &[u8] = b"correct horse";

    fn challenge(first: u8) -> AuthChallenge {
        AuthChallenge(core::array::from_fn(|i| first + i as u8))
    }

    /// Wire protocol, chapters 26 (4 and 4b) and 27.
    #[test]
    fn examples() {
        let sign = |first, node| {
            response(HmacAlg::Sha256, SECRET, &challenge(first), node)
                .0
                .to_string()
        };
        assert_eq!(
            sign(0x80, NodeId::new(0)),
            "39c93e126afd18e6da7cce25c2b11d6bd3af6ccdf2a6213970d0999119e0b187"
        );
        assert_eq!(
            sign(0, NodeId::new(1)),
            "52b30a8a61c076c36ebf62db043dc58820df0d80091075f98f68fc169a7e7dc5"
        );
        assert_eq!(
            sign(0, None),
            "39cdb7158b88b2ab817894c9f7a8f526c36de0ef752245ea91046a96f2f6debb"
        );
    }

    /// RFC 2202, test case 2.
    #[test]
    fn md5_and_sha1() {
        let data = b"what do ya want for nothing?";
        let sign = |alg: HmacAlg| alg.sign(b"Jefe", [data, b""]).to_string();
        assert_eq!(sign(HmacAlg::Md5), "750c783e6ab0b503eaa86e310a5db738");
        assert_eq!(
            sign(HmacAlg::Sha1),
            "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"
        );
    }

    #[test]
    fn verification() {
        let mine = challenge(1);
        for alg in HmacAlg::ALL {
            assert_eq!(HmacAlg::from_name(alg.name()), Some(*alg));
            let answer = response(*alg, SECRET, &mine, NodeId::new(3));
            assert_eq!(answer.0.len(), alg.digest_len());
            let check = |secret, node, answer| verify(*alg, secret, &mine, node, answer);
            assert_eq!(check(SECRET, NodeId::new(3), &answer), Ok(()));
            assert_eq!(
                check(b"battery", NodeId::new(3), &answer),
                Err(AuthError::Mismatch)
            );
            assert_eq!(
                check(SECRET, NodeId::new(2), &answer),
                Err(AuthError::Mismatch)
            );
            let empty = AuthResponse(DigestValue::EMPTY);
            assert_eq!(
                check(SECRET, NodeId::new(3), &empty),
                Err(AuthError::Mismatch)
            );
        }
        assert_eq!(HmacAlg::from_name("hmac(sha1)"), Some(HmacAlg::Sha1));
        assert_eq!(check_challenge(&mine, &mine), Err(AuthError::Reflected));
        assert_eq!(check_challenge(&mine, &challenge(2)), Ok(()));
    }
}
