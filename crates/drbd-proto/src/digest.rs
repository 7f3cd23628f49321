//! Digests over data: data-integrity-alg, csums-alg, verify-alg. Names are those of the kernel's
//! crypto API (wire protocol, section 6.4).

use core::fmt;

use md5::Md5;
use sha1::Sha1;
use sha2::{Digest as _, Sha224, Sha256, Sha384, Sha512};

use crate::wire::Fault;

mod crc32c;

/// A digest as it stands on the wire: 0..=64 bytes, inline.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct DigestValue {
    len: u8,
    bytes: [u8; Self::MAX_LEN],
}

impl DigestValue {
    /// The longest digest there is, bytes.
    pub const MAX_LEN: usize = 64;
    /// No digest.
    pub const EMPTY: DigestValue = DigestValue {
        len: 0,
        bytes: [0; Self::MAX_LEN],
    };

    /// From its bytes; `None` if there are more than 64.
    pub fn new(bytes: &[u8]) -> Option<DigestValue> {
        let mut value = DigestValue::EMPTY;
        value.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        value.len = bytes.len() as u8;
        Some(value)
    }
    /// `len` zero bytes: what verify sends for a block that could not be read.
    pub fn zeroes(len: usize) -> Option<DigestValue> {
        (len <= Self::MAX_LEN).then_some(DigestValue {
            len: len as u8,
            ..DigestValue::EMPTY
        })
    }
    pub(crate) fn load(bytes: &[u8]) -> Result<DigestValue, Fault> {
        DigestValue::new(bytes).ok_or(Fault::Field {
            field: "digest length",
            value: bytes.len() as u64,
        })
    }
    /// The bytes.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len()).unwrap_or_default()
    }
    /// How many bytes.
    #[inline]
    pub const fn len(&self) -> usize {
        self.len as usize
    }
    /// Is there none?
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Compare without telling by the time taken where the first difference is.
    pub fn ct_eq(&self, other: &DigestValue) -> bool {
        let diff = self
            .bytes
            .iter()
            .zip(&other.bytes)
            .fold(0, |diff, (a, b)| diff | (a ^ b));
        diff | (self.len ^ other.len) == 0
    }
}

impl Default for DigestValue {
    fn default() -> Self {
        DigestValue::EMPTY
    }
}

impl fmt::Display for DigestValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes()
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for DigestValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DigestValue({self})")
    }
}

macro_rules! algorithms {
    ($($(#[$m:meta])* $variant:ident $name:literal $len:literal,)*) => {
        /// An algorithm this node can compute.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DigestAlg {
            $($(#[$m])* $variant,)*
        }
        impl DigestAlg {
            /// All of them.
            pub const ALL: &'static [DigestAlg] = &[$(DigestAlg::$variant),*];
            /// The kernel's name for it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(DigestAlg::$variant => $name,)*
                }
            }
            /// By name; `None` if it is not known here.
            pub fn from_name(name: &str) -> Option<DigestAlg> {
                match name {
                    $($name => Some(DigestAlg::$variant),)*
                    _ => None,
                }
            }
            /// Size of its digests, bytes.
            pub const fn digest_len(self) -> usize {
                match self {
                    $(DigestAlg::$variant => $len,)*
                }
            }
        }
    };
}

algorithms! {
    /// CRC-32C; little-endian on the wire.
    Crc32c "crc32c" 4,
    /// MD5.
    Md5 "md5" 16,
    /// SHA-1.
    Sha1 "sha1" 20,
    /// SHA-224.
    Sha224 "sha224" 28,
    /// SHA-256.
    Sha256 "sha256" 32,
    /// SHA-384.
    Sha384 "sha384" 48,
    /// SHA-512.
    Sha512 "sha512" 64,
}

impl DigestAlg {
    /// Begin a digest.
    pub fn start(self) -> Digest {
        Digest(match self {
            DigestAlg::Crc32c => State::Crc32c(0),
            DigestAlg::Md5 => State::Md5(Md5::new()),
            DigestAlg::Sha1 => State::Sha1(Sha1::new()),
            DigestAlg::Sha224 => State::Sha224(Sha224::new()),
            DigestAlg::Sha256 => State::Sha256(Sha256::new()),
            DigestAlg::Sha384 => State::Sha384(Sha384::new()),
            DigestAlg::Sha512 => State::Sha512(Sha512::new()),
        })
    }
    /// The digest of one piece of data.
    pub fn digest(self, data: &[u8]) -> DigestValue {
        let mut digest = self.start();
        digest.update(data);
        digest.finish()
    }
}

impl fmt::Display for DigestAlg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A digest being computed, piece by piece.
#[derive(Clone)]
pub struct Digest(State);

#[derive(Clone)]
enum State {
    Crc32c(u32),
    Md5(Md5),
    Sha1(Sha1),
    Sha224(Sha224),
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl Digest {
    /// Add data.
    pub fn update(&mut self, data: &[u8]) {
        match &mut self.0 {
            State::Crc32c(crc) => *crc = crc32c::append(*crc, data),
            State::Md5(d) => d.update(data),
            State::Sha1(d) => d.update(data),
            State::Sha224(d) => d.update(data),
            State::Sha256(d) => d.update(data),
            State::Sha384(d) => d.update(data),
            State::Sha512(d) => d.update(data),
        }
    }
    /// The digest of everything added.
    pub fn finish(self) -> DigestValue {
        let value = match self.0 {
            State::Crc32c(crc) => DigestValue::new(&crc.to_le_bytes()),
            State::Md5(d) => DigestValue::new(&d.finalize()),
            State::Sha1(d) => DigestValue::new(&d.finalize()),
            State::Sha224(d) => DigestValue::new(&d.finalize()),
            State::Sha256(d) => DigestValue::new(&d.finalize()),
            State::Sha384(d) => DigestValue::new(&d.finalize()),
            State::Sha512(d) => DigestValue::new(&d.finalize()),
        };
        value.unwrap_or_default()
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn check_values() {
        let check = b"123456789";
        for (alg, hex) in [
            (DigestAlg::Crc32c, "839206e3"),
            (DigestAlg::Md5, "25f9e794323b453885f5181f1b624d0b"),
            (DigestAlg::Sha1, "f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
            (
                DigestAlg::Sha256,
                "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
            ),
        ] {
            assert_eq!(alg.digest(check).to_string(), hex);
        }
    }

    #[test]
    fn lengths_names_and_pieces() {
        for alg in DigestAlg::ALL {
            assert_eq!(DigestAlg::from_name(alg.name()), Some(*alg));
            let mut digest = alg.start();
            digest.update(b"1234");
            digest.update(b"");
            digest.update(b"56789");
            let value = digest.finish();
            assert_eq!(value.len(), alg.digest_len());
            assert!(value.ct_eq(&alg.digest(b"123456789")));
            assert!(!value.ct_eq(&alg.digest(b"123456780")));
            assert!(!value.ct_eq(&DigestValue::EMPTY));
        }
        assert_eq!(DigestAlg::from_name("sha3-256"), None);
        assert_eq!(DigestValue::new(&[0; 65]), None);
    }
}
