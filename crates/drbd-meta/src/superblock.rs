//! The superblock: sizes, generation UUIDs, flags and an entry per node (metadata, section 3).
//!
//! [`Superblock`] is the decoded form of v08 and v09. Reading is validating: [`Superblock::decode`]
//! checks what the block alone can tell, [`Superblock::parse`] also that it describes the place it
//! was found at. Writing rebuilds the whole block; reserved bytes are written as zero.
//!
//! The block has no checksum; its 4 KiB are written as one unit and the magic number, the offsets
//! and the sizes are what validity rests on.

mod attach;
mod convert;
pub mod raw;
mod v07;

pub use attach::{AttachError, AttachRequest};
pub use convert::ConvertError;
pub use v07::V07Superblock;

use crate::Block;
use crate::bitmap::BitmapLayout;
use crate::flags::{LocalFlags, PeerFlags};
use crate::geometry::{AlStriping, BitmapBlockSize, Geometry, GeometryError, MdIndex, Placement};
use crate::limits::{
    BLOCK_BYTES, DEFAULT_AL_EXTENTS, HISTORY_UUIDS, MAX_NODES, MAX_SLOTS, UUID_JUST_CREATED,
};
use core::fmt;
use zerocopy::{transmute_mut, transmute_ref};

/// The magic numbers at byte 60, which also name the format.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Magic {
    /// v08, activity log clean.
    V08,
    /// v08 as every attached 8.4 driver writes it.
    V08Unclean,
    /// v09.
    V09,
}

impl Magic {
    /// The number on the disk.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::V08 => 0x8374_026B,
            Self::V08Unclean => 0x8374_026C,
            Self::V09 => 0x8374_026D,
        }
    }

    /// The layout that goes with the number.
    #[must_use]
    pub const fn format(self) -> Format {
        match self {
            Self::V08 | Self::V08Unclean => Format::V08,
            Self::V09 => Format::V09,
        }
    }

    const fn from_number(number: u32) -> Option<Self> {
        match number {
            0x8374_026B => Some(Self::V08),
            0x8374_026C => Some(Self::V08Unclean),
            0x8374_026D => Some(Self::V09),
            _ => None,
        }
    }
}

/// The two superblock layouts that can be attached.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Format {
    /// DRBD 8.0 to 8.4: one peer.
    V08,
    /// DRBD 9: up to 31 peers.
    V09,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V08 => "v08",
            Self::V09 => "v09",
        })
    }
}

/// What the superblock knows about one node; entry n belongs to node id n.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PeerEntry {
    /// The data generation since which the slot's bits count; 0 = no divergence recorded.
    pub bitmap_uuid: u64,
    /// The resource's dagtag (sectors written) when the bitmap UUID was set. Meaningless while the
    /// bitmap UUID is 0.
    pub bitmap_dagtag: u64,
    /// The peer's flags, without the in-core bit 31.
    pub flags: PeerFlags,
    /// The bitmap slot that belongs to this node, 0 ..= 31; `None` for no slot.
    pub bitmap_index: Option<u8>,
}

impl PeerEntry {
    /// Whether this is a "day-0" entry: no slot and no flags. Such entries follow the rotation of
    /// UUIDs like absent peers, so a node that joins later can be resynchronised (metadata,
    /// section 3.5).
    #[must_use]
    pub fn is_day0(&self) -> bool {
        self.bitmap_index.is_none() && self.flags.is_empty()
    }
}

/// A decoded v08 or v09 superblock.
///
/// A v08 superblock has one bitmap slot; its bitmap UUID is that of `peers[0]`, and the peer's flags
/// are the v08 bits in `flags`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Superblock {
    /// Magic number, and with it the format.
    pub magic: Magic,
    /// Last agreed size in sectors; 0 = never agreed.
    pub effective_size: u64,
    /// Current data generation.
    pub current_uuid: u64,
    /// Mask of member nodes (v09).
    pub members: u64,
    /// Random id given by the administration tool; 0 = none.
    pub device_uuid: u64,
    /// The node's flags.
    pub flags: LocalFlags,
    /// Sectors of all metadata.
    pub md_size_sect: u32,
    /// Activity log's first sector, relative to the superblock.
    pub al_offset: i32,
    /// The configured `al-extents` of the last writer.
    pub al_nr_extents: u32,
    /// Bitmap's first sector, relative to the superblock.
    pub bm_offset: i32,
    /// Bytes of storage per bitmap bit.
    pub block_size: BitmapBlockSize,
    /// Last agreed maximum request size in bytes.
    pub la_peer_max_bio_size: u32,
    /// Bitmap slots, 1 ..= 32 (`bm_max_peers`); v08: 1.
    pub max_peers: u8,
    /// Own node id, 0 ..= 31; `None` until the first attach, and in v08.
    pub node_id: Option<u8>,
    /// Layout of the activity log.
    pub striping: AlStriping,
    /// One entry per node id.
    pub peers: [PeerEntry; MAX_NODES],
    /// Former generations, youngest first; v08 has the first two.
    pub history: [u64; HISTORY_UUIDS],
}

/// Why a block is not a valid superblock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SuperblockError {
    /// No known magic number: no DRBD metadata here.
    #[error("no DRBD metadata here: magic is {found:#010x}; create it with create-md")]
    Magic {
        /// The number at byte 60.
        found: u32,
    },
    /// A field outside its range.
    #[error("invalid metadata: {field} is {found}, must be {expected}; restore or recreate it")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// Its value.
        found: i64,
        /// The allowed values.
        expected: &'static str,
    },
    /// A field of one peer entry outside its range.
    #[error(
        "invalid metadata: {field} of node {node} is {found}, must be {expected}; \
         restore or recreate it"
    )]
    PeerField {
        /// The entry.
        node: u8,
        /// Name of the field.
        field: &'static str,
        /// Its value.
        found: i64,
        /// The allowed values.
        expected: &'static str,
    },
    /// A field that does not fit the device and layout at which the block was found.
    #[error(
        "metadata does not fit this device: {field} is {found}, expected {expected}; check the \
         meta-disk setting, or run check-resize if the device was resized"
    )]
    Place {
        /// Name of the field.
        field: &'static str,
        /// Its value.
        found: i64,
        /// The value that device and layout demand.
        expected: i64,
    },
    /// The described layout is impossible on the device.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
}

impl Superblock {
    /// Fresh metadata as `create-md` writes it: just-created current UUID, clean activity log,
    /// nothing known about any peer (metadata, sections 7.2 and 9.3).
    #[must_use]
    pub fn create(format: Format, geometry: &Geometry) -> Self {
        Self {
            magic: match format {
                Format::V08 => Magic::V08,
                Format::V09 => Magic::V09,
            },
            effective_size: 0,
            current_uuid: UUID_JUST_CREATED,
            members: 0,
            device_uuid: 0,
            flags: LocalFlags::AL_CLEAN,
            md_size_sect: geometry.md_size_sect(),
            al_offset: geometry.al_offset(),
            al_nr_extents: DEFAULT_AL_EXTENTS,
            bm_offset: geometry.bm_offset(),
            block_size: geometry.block_size(),
            la_peer_max_bio_size: 0,
            max_peers: geometry.slots(),
            node_id: None,
            striping: geometry.striping(),
            peers: [PeerEntry::default(); MAX_NODES],
            history: [0; HISTORY_UUIDS],
        }
    }

    /// Decodes a block and checks every field by itself.
    ///
    /// # Errors
    /// The magic number is unknown, or a field has a value that no valid metadata can have
    /// (metadata, section 2.6).
    pub fn decode(block: &Block) -> Result<Self, SuperblockError> {
        let v09: &raw::V09 = transmute_ref!(block);
        let found = v09.common.magic.get();
        match Magic::from_number(found) {
            Some(Magic::V09) => decode_v09(v09),
            Some(magic) => decode_v08(transmute_ref!(block), magic),
            None => Err(SuperblockError::Magic { found }),
        }
    }

    /// Decodes a block that was read at the superblock position of `placement` and checks that it
    /// describes this place (the tool's validity check, metadata, section 2.6).
    ///
    /// # Errors
    /// Those of [`decode`](Self::decode), or the offsets and sizes are not those of this layout on
    /// a device of this size.
    pub fn parse(block: &Block, placement: Placement) -> Result<Self, SuperblockError> {
        let superblock = Self::decode(block)?;
        superblock.geometry(placement)?;
        Ok(superblock)
    }

    /// The geometry of this superblock at `placement`.
    ///
    /// # Errors
    /// Offsets and sizes are not those of this layout on a device of this size.
    pub fn geometry(&self, placement: Placement) -> Result<Geometry, SuperblockError> {
        if placement.index == MdIndex::FixedInternal {
            return Err(SuperblockError::Place {
                field: "md-index",
                found: i64::from(MdIndex::FixedInternal.number()),
                expected: i64::from(MdIndex::Internal.number()),
            });
        }
        let geometry = Geometry::new(placement, self.max_peers, self.block_size, self.striping)?;
        let place = |field, found: i64, expected: i64| {
            if found == expected {
                Ok(())
            } else {
                Err(SuperblockError::Place {
                    field,
                    found,
                    expected,
                })
            }
        };
        place(
            "al_offset",
            self.al_offset.into(),
            geometry.al_offset().into(),
        )?;
        place(
            "bm_offset",
            self.bm_offset.into(),
            geometry.bm_offset().into(),
        )?;
        if placement.index.is_internal() {
            place(
                "md_size_sect",
                self.md_size_sect.into(),
                geometry.md_size_sect().into(),
            )?;
            return Ok(geometry);
        }
        // An external metadata device may have grown since; the stored size counts.
        Ok(geometry.with_md_size_sect(self.md_size_sect)?)
    }

    /// The bitmap that this superblock describes, for a device of its effective size.
    #[must_use]
    pub fn bitmap_layout(&self) -> Option<BitmapLayout> {
        BitmapLayout::new(self.max_peers, self.block_size, self.effective_size)
    }

    /// Whether the activity log is clean, so that the device may be attached: `AL_CLEAN` is set and
    /// the magic is not that of a running 8.4 driver.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.magic != Magic::V08Unclean && self.flags.contains(LocalFlags::AL_CLEAN)
    }

    /// The block for the disk.
    #[must_use]
    pub fn encode(&self) -> Block {
        let mut block = [0; BLOCK_BYTES];
        self.encode_into(&mut block);
        block
    }

    /// Writes the block for the disk into `block`, all 4096 bytes.
    pub fn encode_into(&self, block: &mut Block) {
        block.fill(0);
        match self.magic.format() {
            Format::V09 => self.encode_v09(transmute_mut!(block)),
            Format::V08 => self.encode_v08(transmute_mut!(block)),
        }
    }

    fn encode_common(&self) -> raw::Common {
        raw::Common {
            flags: self.flags.bits().into(),
            magic: self.magic.number().into(),
            md_size_sect: self.md_size_sect.into(),
            al_offset: self.al_offset.into(),
            al_nr_extents: self.al_nr_extents.into(),
            bm_offset: self.bm_offset.into(),
            bm_bytes_per_bit: self.block_size.bytes().into(),
            la_peer_max_bio_size: self.la_peer_max_bio_size.into(),
        }
    }

    fn encode_v09(&self, raw: &mut raw::V09) {
        raw.effective_size = self.effective_size.into();
        raw.current_uuid = self.current_uuid.into();
        raw.members = self.members.into();
        raw.device_uuid = self.device_uuid.into();
        raw.common = self.encode_common();
        raw.bm_max_peers = u32::from(self.max_peers).into();
        raw.node_id = optional_id(self.node_id).into();
        raw.al_stripes = self.striping.stripes().into();
        raw.al_stripe_size_4k = self.striping.stripe_size_4k().into();
        for (to, from) in raw.peers.iter_mut().zip(&self.peers) {
            to.bitmap_uuid = from.bitmap_uuid.into();
            to.bitmap_dagtag = from.bitmap_dagtag.into();
            to.flags = (from.flags & !PeerFlags::IN_CORE).bits().into();
            to.bitmap_index = optional_id(from.bitmap_index).into();
        }
        raw.history_uuids = self.history.map(Into::into);
    }

    fn encode_v08(&self, raw: &mut raw::V08) {
        let [peer, ..] = &self.peers;
        let [younger, older, ..] = self.history;
        raw.effective_size = self.effective_size.into();
        raw.current_uuid = self.current_uuid.into();
        raw.bitmap_uuid = peer.bitmap_uuid.into();
        raw.history_uuids = [younger.into(), older.into()];
        raw.device_uuid = self.device_uuid.into();
        raw.common = self.encode_common();
        raw.al_stripes = self.striping.stripes().into();
        raw.al_stripe_size_4k = self.striping.stripe_size_4k().into();
    }
}

fn decode_v09(raw: &raw::V09) -> Result<Superblock, SuperblockError> {
    let max_peers = raw.bm_max_peers.get();
    let max_peers = u8::try_from(max_peers)
        .ok()
        .filter(|n| (1..=MAX_SLOTS).contains(n))
        .ok_or(SuperblockError::Field {
            field: "max-peers",
            found: max_peers.into(),
            expected: "1 to 32",
        })?;
    let node_id = raw.node_id.get();
    let node_id = parse_id(node_id).ok_or(SuperblockError::Field {
        field: "node-id",
        found: node_id.into(),
        expected: "-1 to 31",
    })?;
    let mut peers = [PeerEntry::default(); MAX_NODES];
    for ((node, to), from) in (0u8..).zip(&mut peers).zip(&raw.peers) {
        let index = from.bitmap_index.get();
        *to = PeerEntry {
            bitmap_uuid: from.bitmap_uuid.get(),
            bitmap_dagtag: from.bitmap_dagtag.get(),
            flags: PeerFlags::from_bits(from.flags.get()) & !PeerFlags::IN_CORE,
            bitmap_index: parse_id(index).ok_or(SuperblockError::PeerField {
                node,
                field: "bitmap-index",
                found: index.into(),
                expected: "-1 to 31",
            })?,
        };
    }
    let common = decode_common(&raw.common, Magic::V09)?;
    Ok(Superblock {
        effective_size: raw.effective_size.get(),
        current_uuid: raw.current_uuid.get(),
        members: raw.members.get(),
        device_uuid: raw.device_uuid.get(),
        max_peers,
        node_id,
        striping: striping(raw.al_stripes.get(), raw.al_stripe_size_4k.get())?,
        peers,
        history: raw.history_uuids.map(|uuid| uuid.get()),
        ..common
    })
}

fn decode_v08(raw: &raw::V08, magic: Magic) -> Result<Superblock, SuperblockError> {
    let mut superblock = decode_common(&raw.common, magic)?;
    if superblock.block_size != BitmapBlockSize::DEFAULT {
        return Err(SuperblockError::Field {
            field: "bm-byte-per-bit",
            found: superblock.block_size.bytes().into(),
            expected: "4096 in v08 metadata",
        });
    }
    let [peer, ..] = &mut superblock.peers;
    peer.bitmap_uuid = raw.bitmap_uuid.get();
    for (to, from) in superblock.history.iter_mut().zip(raw.history_uuids) {
        *to = from.get();
    }
    Ok(Superblock {
        effective_size: raw.effective_size.get(),
        current_uuid: raw.current_uuid.get(),
        device_uuid: raw.device_uuid.get(),
        striping: striping(raw.al_stripes.get(), raw.al_stripe_size_4k.get())?,
        ..superblock
    })
}

/// A superblock of one peer that has only what both versions have at the same place.
fn decode_common(raw: &raw::Common, magic: Magic) -> Result<Superblock, SuperblockError> {
    Ok(Superblock {
        magic,
        effective_size: 0,
        current_uuid: 0,
        members: 0,
        device_uuid: 0,
        flags: LocalFlags::from_bits(raw.flags.get()),
        md_size_sect: raw.md_size_sect.get(),
        al_offset: raw.al_offset.get(),
        al_nr_extents: raw.al_nr_extents.get(),
        bm_offset: raw.bm_offset.get(),
        block_size: block_size(raw.bm_bytes_per_bit.get())?,
        la_peer_max_bio_size: raw.la_peer_max_bio_size.get(),
        max_peers: 1,
        node_id: None,
        striping: AlStriping::DEFAULT,
        peers: [PeerEntry::default(); MAX_NODES],
        history: [0; HISTORY_UUIDS],
    })
}

/// -1 ..= 31 to an optional id; the outer `None` for any other number.
fn parse_id(number: i32) -> Option<Option<u8>> {
    match number {
        -1 => Some(None),
        0..=31 => u8::try_from(number).ok().map(Some),
        _ => None,
    }
}

fn optional_id(id: Option<u8>) -> i32 {
    id.map_or(-1, i32::from)
}

fn block_size(bytes: u32) -> Result<BitmapBlockSize, SuperblockError> {
    BitmapBlockSize::new(bytes).map_err(|_| SuperblockError::Field {
        field: "bm-byte-per-bit",
        found: bytes.into(),
        expected: "a power of two, 4096 to 1048576",
    })
}

/// Both fields 0 means one stripe of 32 KiB: DRBD up to 8.3 did not store them.
fn striping(stripes: u32, stripe_size_4k: u32) -> Result<AlStriping, SuperblockError> {
    if stripes == 0 && stripe_size_4k == 0 {
        return Ok(AlStriping::DEFAULT);
    }
    Ok(AlStriping::new(stripes, stripe_size_4k)?)
}
