//! The units of the whole project: a bare integer in a signature is a count, everything else has
//! one of these types.

use core::fmt;
use core::ops::{BitAnd, BitAndAssign, BitOr, BitOrAssign, Not};

use crate::wire::Wire;

/// Bytes per sector. DRBD's sector is always 512 bytes, whatever the disk's block size.
pub const SECTOR_SIZE: u32 = 512;
/// log2 of [`SECTOR_SIZE`].
pub const SECTOR_SHIFT: u32 = 9;
/// Number of node ids: valid ones are 0..=31.
pub const MAX_NODES: usize = 32;

/// A position on a volume, in sectors of 512 bytes from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sector(pub u64);

impl Sector {
    /// The position `count` sectors further, or `None` beyond 2^64.
    #[inline]
    pub const fn checked_add(self, count: Sectors) -> Option<Sector> {
        match self.0.checked_add(count.0) {
            Some(s) => Some(Sector(s)),
            None => None,
        }
    }
    /// The end (exclusive) of a request of `size` bytes that starts here; a size that is no
    /// multiple of 512 counts its last, partial sector.
    #[inline]
    pub const fn end(self, size: Bytes) -> Option<Sector> {
        self.checked_add(size.sectors_ceil())
    }
    /// This position in bytes, or `None` beyond 2^64.
    #[inline]
    pub const fn byte_offset(self) -> Option<u64> {
        self.0.checked_mul(SECTOR_SIZE as u64)
    }
}

/// A number of sectors of 512 bytes: the size of a disk, a device, an area.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sectors(pub u64);

impl Sectors {
    /// Nothing; in most packets "not set" or "no disk".
    pub const ZERO: Sectors = Sectors(0);
    /// In bytes, or `None` beyond 2^64.
    #[inline]
    pub const fn bytes(self) -> Option<u64> {
        self.0.checked_mul(SECTOR_SIZE as u64)
    }
}

/// The size of one request, in bytes: at most 128 MiB (a discard), 1 MiB for data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u32);

impl Bytes {
    /// Whole sectors in this size (rounded down).
    #[inline]
    pub const fn sectors(self) -> Sectors {
        Sectors((self.0 >> SECTOR_SHIFT) as u64)
    }
    /// Sectors touched by this size (rounded up).
    #[inline]
    pub const fn sectors_ceil(self) -> Sectors {
        Sectors(self.0.div_ceil(SECTOR_SIZE) as u64)
    }
    /// Is it a multiple of the sector size?
    #[inline]
    pub const fn is_sector_aligned(self) -> bool {
        self.0.is_multiple_of(SECTOR_SIZE)
    }
    /// The content as an index or length in memory.
    #[inline]
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }
}

/// The id of a node in its resource: 0..=31.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u8);

impl NodeId {
    /// The highest valid id.
    pub const MAX: NodeId = NodeId(31);

    /// A checked id; `None` above 31.
    #[inline]
    pub const fn new(id: u32) -> Option<NodeId> {
        if id < MAX_NODES as u32 {
            Some(NodeId(id as u8))
        } else {
            None
        }
    }
    /// The number, 0..=31.
    #[inline]
    pub const fn get(self) -> u8 {
        self.0
    }
    /// The number as an index, 0..=31.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
    /// A mask of just this node.
    #[inline]
    pub const fn mask(self) -> NodeMask {
        NodeMask(1u64 << (self.0 & 63))
    }
    /// All valid ids, ascending.
    pub fn all() -> impl DoubleEndedIterator<Item = NodeId> + ExactSizeIterator {
        (0..MAX_NODES as u8).map(NodeId)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({})", self.0)
    }
}

impl Wire for NodeId {
    const LEN: usize = 4;
    #[inline]
    fn load(bytes: &[u8]) -> Result<Self, u64> {
        let id = u32::load(bytes)?;
        NodeId::new(id).ok_or(u64::from(id))
    }
    #[inline]
    fn store(&self, out: &mut [u8]) {
        u32::from(self.0).store(out);
    }
}

/// A set of nodes: bit *n* is node id *n*. All 64 bits are kept, because complements are sent with
/// the unused upper bits set.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct NodeMask(pub u64);

impl NodeMask {
    /// No node.
    pub const EMPTY: NodeMask = NodeMask(0);
    /// Every bit set.
    pub const ALL: NodeMask = NodeMask(u64::MAX);

    /// Is `node` in the set?
    #[inline]
    pub const fn contains(self, node: NodeId) -> bool {
        self.0 & node.mask().0 != 0
    }
    /// Are all nodes of `other` in the set?
    #[inline]
    pub const fn contains_all(self, other: NodeMask) -> bool {
        other.0 & !self.0 == 0
    }
    /// Have the two sets a node in common?
    #[inline]
    pub const fn intersects(self, other: NodeMask) -> bool {
        self.0 & other.0 != 0
    }
    /// Is the set empty?
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// The set with `node`.
    #[inline]
    #[must_use]
    pub const fn with(self, node: NodeId) -> NodeMask {
        NodeMask(self.0 | node.mask().0)
    }
    /// The set without `node`.
    #[inline]
    #[must_use]
    pub const fn without(self, node: NodeId) -> NodeMask {
        NodeMask(self.0 & !node.mask().0)
    }
    /// The set without all of `other`.
    #[inline]
    #[must_use]
    pub const fn minus(self, other: NodeMask) -> NodeMask {
        NodeMask(self.0 & !other.0)
    }
    /// Add `node`.
    #[inline]
    pub const fn insert(&mut self, node: NodeId) {
        *self = self.with(node);
    }
    /// Take `node` out.
    #[inline]
    pub const fn remove(&mut self, node: NodeId) {
        *self = self.without(node);
    }
    /// How many valid node ids (0..=31) are in the set.
    #[inline]
    pub const fn len(self) -> u32 {
        (self.0 as u32).count_ones()
    }
    /// The valid node ids (0..=31) in the set, ascending.
    pub fn iter(self) -> impl Iterator<Item = NodeId> {
        NodeId::all().filter(move |n| self.contains(*n))
    }
}

impl FromIterator<NodeId> for NodeMask {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> Self {
        nodes.into_iter().fold(NodeMask::EMPTY, NodeMask::with)
    }
}

impl BitOr for NodeMask {
    type Output = NodeMask;
    fn bitor(self, other: NodeMask) -> NodeMask {
        NodeMask(self.0 | other.0)
    }
}
impl BitOrAssign for NodeMask {
    fn bitor_assign(&mut self, other: NodeMask) {
        self.0 |= other.0;
    }
}
impl BitAnd for NodeMask {
    type Output = NodeMask;
    fn bitand(self, other: NodeMask) -> NodeMask {
        NodeMask(self.0 & other.0)
    }
}
impl BitAndAssign for NodeMask {
    fn bitand_assign(&mut self, other: NodeMask) {
        self.0 &= other.0;
    }
}
impl Not for NodeMask {
    type Output = NodeMask;
    fn not(self) -> NodeMask {
        NodeMask(!self.0)
    }
}

impl fmt::Debug for NodeMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeMask({:#x})", self.0)
    }
}

/// The number of a volume, or "connection-wide" (-1, 0xffff on the wire).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeNr(u16);

impl VolumeNr {
    /// No volume: the packet concerns the connection or the resource.
    pub const CONNECTION: VolumeNr = VolumeNr(0xffff);
    /// Volume 0, the only one before protocol 100.
    pub const ZERO: VolumeNr = VolumeNr(0);

    /// A real volume, 0..=65534.
    #[inline]
    pub const fn new(nr: u16) -> Option<VolumeNr> {
        if nr == 0xffff {
            None
        } else {
            Some(VolumeNr(nr))
        }
    }
    /// From a header's volume field; 0xffff is [`VolumeNr::CONNECTION`].
    #[inline]
    pub const fn from_wire(nr: u16) -> VolumeNr {
        VolumeNr(nr)
    }
    /// For a header's volume field.
    #[inline]
    pub const fn to_wire(self) -> u16 {
        self.0
    }
    /// The number, or `None` for [`VolumeNr::CONNECTION`].
    #[inline]
    pub const fn get(self) -> Option<u16> {
        if self.0 == 0xffff { None } else { Some(self.0) }
    }
    /// Is it [`VolumeNr::CONNECTION`]?
    #[inline]
    pub const fn is_connection_wide(self) -> bool {
        self.0 == 0xffff
    }
}

impl fmt::Display for VolumeNr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.get() {
            Some(nr) => write!(f, "{nr}"),
            None => f.write_str("-1"),
        }
    }
}

impl fmt::Debug for VolumeNr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VolumeNr({self})")
    }
}

/// A position in a node's stream of writes: the number of sectors it has written as Primary, per
/// resource (wire protocol, section 15.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dagtag(pub u64);

impl Dagtag {
    /// The start of the stream; in requests "no dependency".
    pub const ZERO: Dagtag = Dagtag(0);

    /// The position after a write of `size`. Wraps, as the counter on the wire does.
    #[inline]
    #[must_use]
    pub const fn advance(self, size: Bytes) -> Dagtag {
        Dagtag(self.0.wrapping_add(size.sectors().0))
    }
    /// The position before a write of `size` whose own dagtag is `self`.
    #[inline]
    #[must_use]
    pub const fn before(self, size: Bytes) -> Dagtag {
        Dagtag(self.0.wrapping_sub(size.sectors().0))
    }
}

/// The opaque handle of a request: its originator chooses it, the other side returns it.
/// Held as the big-endian number of its eight wire bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub u64);

impl BlockId {
    /// The legacy id of all resync requests and acks ("ID_SYNCER"); never the id of a write.
    pub const SYNCER: BlockId = BlockId(u64::MAX);
}

impl fmt::Debug for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockId({:#x})", self.0)
    }
}

/// The opaque number of an epoch. The reference sends a native integer, on all common machines
/// little-endian; so the four wire bytes are held as a little-endian number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BarrierNr(pub u32);

impl BarrierNr {
    /// The number of the following epoch; wraps.
    #[inline]
    #[must_use]
    pub const fn next(self) -> BarrierNr {
        BarrierNr(self.0.wrapping_add(1))
    }
}

impl Wire for BarrierNr {
    const LEN: usize = 4;
    #[inline]
    fn load(bytes: &[u8]) -> Result<Self, u64> {
        u32::load(bytes).map(|n| BarrierNr(n.swap_bytes()))
    }
    #[inline]
    fn store(&self, out: &mut [u8]) {
        self.0.swap_bytes().store(out);
    }
}

/// A data generation identifier. `==` compares all 64 bits; two UUIDs name the same generation iff
/// [`Uuid::same`], which leaves bit 0 out.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Uuid(pub u64);

impl Uuid {
    /// "None": an empty slot.
    pub const NONE: Uuid = Uuid(0);
    /// Fresh metadata that never held data.
    pub const JUST_CREATED: Uuid = Uuid(4);
    /// "Unknown, do not interpret".
    pub const UNKNOWN: Uuid = Uuid(u64::MAX);
    /// Bit 0: "current UUID of a Primary". Not part of the identity.
    pub const PRIMARY: u64 = 1;

    /// Do the two name the same data generation?
    #[inline]
    pub const fn same(self, other: Uuid) -> bool {
        (self.0 ^ other.0) & !Self::PRIMARY == 0
    }
    /// Bit 0.
    #[inline]
    pub const fn is_primary(self) -> bool {
        self.0 & Self::PRIMARY != 0
    }
    /// The same generation with bit 0 as given.
    #[inline]
    #[must_use]
    pub const fn with_primary(self, primary: bool) -> Uuid {
        Uuid(self.0 & !Self::PRIMARY | primary as u64)
    }
    /// The identity: bit 0 cleared.
    #[inline]
    #[must_use]
    pub const fn identity(self) -> Uuid {
        self.with_primary(false)
    }
    /// Is it [`Uuid::NONE`] (bit 0 ignored)?
    #[inline]
    pub const fn is_none(self) -> bool {
        self.same(Self::NONE)
    }
    /// Is it [`Uuid::JUST_CREATED`] (bit 0 ignored)?
    #[inline]
    pub const fn is_just_created(self) -> bool {
        self.same(Self::JUST_CREATED)
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", self.0)
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Uuid({self})")
    }
}

macro_rules! display_number {
    ($($t:ident $format:literal),* $(,)?) => {$(
        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
    )*};
}
display_number!(
    Sector "{}s", Sectors "{}s", Bytes "{}B", NodeId "{}", NodeMask "{:016X}", Dagtag "{}",
    BlockId "{:016x}", BarrierNr "{}",
);

wire_newtype!(
    Sector(u64),
    Sectors(u64),
    Bytes(u32),
    NodeMask(u64),
    Dagtag(u64),
    BlockId(u64),
    Uuid(u64)
);

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn uuids_compare_without_bit_0() {
        let a = Uuid(0xa1b2_c3d4_e5f6_0708);
        assert!(a.same(a.with_primary(true)));
        assert_ne!(a, a.with_primary(true));
        assert!(Uuid(5).is_just_created() && Uuid(1).is_none());
        assert!(!a.same(Uuid(a.0 ^ 2)));
        assert_eq!(a.to_string(), "A1B2C3D4E5F60708");
    }

    #[test]
    fn node_ids_are_checked() {
        assert_eq!(NodeId::new(31), Some(NodeId::MAX));
        assert_eq!(NodeId::new(32), None);
        assert_eq!(NodeId::all().count(), 32);
        let two: NodeMask = [0, 5].into_iter().filter_map(NodeId::new).collect();
        assert_eq!(two, NodeMask(0x21));
        assert_eq!((!two).len(), 30);
        assert_eq!(
            two.iter().map(NodeId::get).collect::<std::vec::Vec<_>>(),
            [0, 5]
        );
    }

    #[test]
    fn sectors_and_bytes() {
        assert_eq!(Sector(8).end(Bytes(4096)), Some(Sector(16)));
        assert_eq!(Sector(8).end(Bytes(1)), Some(Sector(9)));
        assert_eq!(Sector(u64::MAX).end(Bytes(512)), None);
        assert_eq!(
            Dagtag(8).advance(Bytes(4096)).before(Bytes(4096)),
            Dagtag(8)
        );
        assert_eq!(VolumeNr::CONNECTION.to_string(), "-1");
        assert_eq!(VolumeNr::new(0xffff), None);
    }
}
