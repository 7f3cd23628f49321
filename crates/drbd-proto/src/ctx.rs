//! What the two nodes agreed on, as far as it changes a layout.

use core::fmt;
use core::ops::RangeInclusive;

use crate::flags::Features;
use crate::wire::{Fault, Put};

/// The lowest protocol a node offers.
pub const VERSION_MIN: u16 = 86;
/// The highest protocol a node offers: that of DRBD 9.3.
pub const VERSION_MAX: u16 = 124;
/// The version assumed until the features are exchanged.
pub const INITIAL_VERSION: u16 = VERSION_MIN;
/// Versions spoken with DRBD 8.x nodes. 102..=109 were never released, 110..=117 are refused.
pub const AGREEABLE_LEGACY: RangeInclusive<u16> = 86..=101;
/// Versions spoken with DRBD 9 nodes.
pub const AGREEABLE_MODERN: RangeInclusive<u16> = 118..=VERSION_MAX;

/// Largest write, read or resync request, bytes (protocol 100 and up).
pub const MAX_REQUEST_SIZE: u32 = 1 << 20;
/// Largest discard or write-zeroes request with FF_WSAME, bytes; nothing larger is accepted.
pub const MAX_DISCARD_SIZE: u32 = 128 << 20;
/// Largest discard to send without FF_WSAME, bytes.
pub const MAX_DISCARD_SIZE_LEGACY: u32 = 4 << 20;
/// No fixed part is longer than this, bytes: a bitmap packet with the 8-byte header.
pub const MAX_FIXED_LEN: usize = 4088;
/// Ceiling of a bitmap packet including its header, bytes.
pub(crate) const MAX_SMALL_PACKET: u32 = 4096;
/// Space for an algorithm name including its NUL, bytes.
pub const MAX_ALG_NAME: usize = 64;

/// Largest write, read or resync request at this protocol version, bytes (wire protocol, chapter 1).
pub const fn max_request_size(version: u16) -> u32 {
    match version {
        0..=94 => 32 << 10,
        95..=99 => 128 << 10,
        _ => MAX_REQUEST_SIZE,
    }
}

/// One of the two byte streams of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// Writes, requests, states: everything that is ordered against data.
    Data,
    /// Acknowledgements and pings (the "meta" socket).
    Control,
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stream::Data => "data",
            Stream::Control => "control",
        })
    }
}

/// Everything a packet's layout depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ctx {
    /// The agreed protocol version.
    pub version: u16,
    /// The agreed features.
    pub features: Features,
    /// Size of the integrity digest in *received* data packets, bytes; 0 without data-integrity-alg.
    /// Only decoding looks at it: what is sent carries its digest with it. The two directions can
    /// differ for a while after P_PROTOCOL_UPDATE.
    pub integrity_len: u8,
}

impl Ctx {
    /// Before the features exchange.
    pub const INITIAL: Ctx = Ctx::new(INITIAL_VERSION, Features::NONE);

    /// After the features exchange, without an integrity digest.
    pub const fn new(version: u16, features: Features) -> Ctx {
        Ctx {
            version,
            features,
            integrity_len: 0,
        }
    }
    /// The same with an integrity digest of `len` bytes (at most 64).
    #[must_use]
    pub const fn with_integrity_len(self, len: u8) -> Ctx {
        Ctx {
            integrity_len: len,
            ..self
        }
    }
    /// Is this a DRBD 9 peer (node ids, two-phase commit, dagtags)?
    pub const fn is_modern(&self) -> bool {
        self.version >= 110
    }
    /// Is the feature agreed?
    pub const fn has(&self, feature: Features) -> bool {
        self.features.contains(feature)
    }
    /// Size of a packet header on the data stream, bytes.
    pub const fn header_len(&self) -> usize {
        crate::header::data_header_len(self.version)
    }
    /// Payload ceiling of a bitmap packet, bytes: 4080 or 4088 (wire protocol, section 19.3).
    pub const fn max_bitmap_payload(&self) -> u32 {
        MAX_SMALL_PACKET.saturating_sub(self.header_len() as u32)
    }
}

/// The name of a kernel crypto algorithm, at most 63 bytes; empty means "none".
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct AlgName {
    len: u8,
    bytes: [u8; MAX_ALG_NAME - 1],
}

impl AlgName {
    /// No algorithm.
    pub const NONE: AlgName = AlgName {
        len: 0,
        bytes: [0; MAX_ALG_NAME - 1],
    };

    /// A name; `None` if it is longer than 63 bytes or contains a NUL.
    pub fn new(name: &str) -> Option<AlgName> {
        let name = name.as_bytes();
        if name.len() >= MAX_ALG_NAME || name.contains(&0) {
            return None;
        }
        Some(AlgName::from_nul_terminated(name))
    }
    /// What stands before the first NUL; at most 63 bytes of it.
    pub(crate) fn from_nul_terminated(bytes: &[u8]) -> AlgName {
        let mut name = AlgName::NONE;
        let text = bytes.iter().take_while(|b| **b != 0);
        for (out, byte) in name.bytes.iter_mut().zip(text) {
            *out = *byte;
            name.len = name.len.saturating_add(1);
        }
        name
    }
    /// The bytes of the name. They need not be UTF-8; names are compared byte by byte.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
    /// The name, if it is UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        core::str::from_utf8(self.as_bytes()).ok()
    }
    /// Is it empty?
    pub const fn is_none(&self) -> bool {
        self.len == 0
    }
    /// NUL-terminated, without padding.
    pub(crate) fn put_terminated(&self, out: &mut impl Put) {
        out.put(self.as_bytes());
        out.put(&[0]);
    }
    /// Length of the NUL-terminated form.
    pub(crate) fn terminated_len(&self) -> usize {
        usize::from(self.len).saturating_add(1)
    }
    /// A NUL-terminated name that fills the rest of a packet.
    pub(crate) fn load_rest(bytes: &[u8], field: &'static str) -> Result<AlgName, Fault> {
        if bytes.len() > MAX_ALG_NAME {
            return Err(Fault::Field {
                field,
                value: bytes.len() as u64,
            });
        }
        Ok(AlgName::from_nul_terminated(bytes))
    }
}

impl crate::wire::Wire for AlgName {
    const LEN: usize = MAX_ALG_NAME;
    fn load(bytes: &[u8]) -> Result<Self, u64> {
        Ok(AlgName::from_nul_terminated(bytes))
    }
    fn store(&self, out: &mut [u8]) {
        for (out, byte) in out.iter_mut().zip(self.as_bytes()) {
            *out = *byte;
        }
    }
}

impl Default for AlgName {
    fn default() -> Self {
        AlgName::NONE
    }
}

impl fmt::Display for AlgName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_bytes().escape_ascii())
    }
}

impl fmt::Debug for AlgName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}
