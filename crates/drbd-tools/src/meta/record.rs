//! The superblock of any version: what the commands need to know about it, whichever it is
//! (metadata, sections 2.6 and 3).

use drbd_meta::Block;
use drbd_meta::activity_log::encode_initialised;
use drbd_meta::bitmap::BitmapLayout;
use drbd_meta::geometry::{AlStriping, BitmapBlockSize, Geometry, MdIndex, Placement};
use drbd_meta::limits::BLOCK_BYTES;
use drbd_meta::superblock::{Format, Magic, Superblock, SuperblockError, V07Superblock};
use std::fmt;

/// The FORMAT argument.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Version {
    /// DRBD 0.7; cannot be attached any more.
    V07,
    /// DRBD 8.
    V08,
    /// DRBD 9.
    V09,
}

impl Version {
    /// All, the youngest first.
    pub(super) const ALL: [Self; 3] = [Self::V09, Self::V08, Self::V07];

    /// The format of the versions that can be attached.
    pub(super) const fn format(self) -> Option<Format> {
        match self {
            Self::V07 => None,
            Self::V08 => Some(Format::V08),
            Self::V09 => Some(Format::V09),
        }
    }

    /// What an activity log block of fresh metadata holds.
    pub(super) fn fresh_log_block(self) -> Block {
        match self {
            Self::V07 => [0; BLOCK_BYTES],
            Self::V08 | Self::V09 => encode_initialised(),
        }
    }
}

impl From<Format> for Version {
    fn from(format: Format) -> Self {
        match format {
            Format::V08 => Self::V08,
            Format::V09 => Self::V09,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V07 => "v07",
            Self::V08 => "v08",
            Self::V09 => "v09",
        })
    }
}

/// A valid superblock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Record {
    /// With generation counters.
    V07(V07Superblock),
    /// With generation UUIDs: v08 and v09.
    Uuids(Box<Superblock>),
}

/// A superblock that was read, and what is odd about it.
pub(super) struct Found {
    pub(super) record: Record,
    pub(super) geometry: Geometry,
    /// Worth a line, though it does no harm.
    pub(super) warning: Option<String>,
}

impl Record {
    /// Decodes and validates a block that was read at the superblock position of `placement`.
    ///
    /// The error is what `drbdmeta` says about it; [`NotValid::is_other`] tells whether there is
    /// nothing that looks like metadata of this version.
    pub(super) fn parse(
        version: Version,
        block: &Block,
        placement: Placement,
    ) -> Result<Found, NotValid> {
        let not_valid = |error| NotValid {
            version,
            internal: placement.index == MdIndex::Internal,
            error,
        };
        let Some(format) = version.format() else {
            let mut v07 = V07Superblock::parse(block, placement).map_err(not_valid)?;
            let geometry = v07.geometry(placement).map_err(not_valid)?;
            let mut warning = None;
            if placement.index == MdIndex::Internal {
                let (found, expected) = (v07.md_size_sect, geometry.md_size_sect());
                warning = strange_size(found, expected);
                v07.md_size_sect = expected;
            }
            return Ok(Found {
                record: Self::V07(v07),
                geometry,
                warning,
            });
        };
        let mut superblock = Superblock::decode(block).map_err(not_valid)?;
        if superblock.magic.format() != format {
            let found = superblock.magic.number();
            return Err(not_valid(SuperblockError::Magic { found }));
        }
        let mut warning = None;
        let geometry = match superblock.geometry(placement) {
            // Nothing depends on this field of internal v09 metadata: its place tells the size.
            Err(SuperblockError::Place {
                field: "md_size_sect",
                expected,
                ..
            }) if format == Format::V09 => {
                let expected = u32::try_from(expected).unwrap_or(0);
                warning = strange_size(superblock.md_size_sect, expected);
                superblock.md_size_sect = expected;
                superblock.geometry(placement)
            }
            geometry => geometry,
        };
        Ok(Found {
            geometry: geometry.map_err(not_valid)?,
            record: superblock.into(),
            warning,
        })
    }

    pub(super) const fn version(&self) -> Version {
        match self {
            Self::V07(_) => Version::V07,
            Self::Uuids(superblock) => match superblock.magic.format() {
                Format::V08 => Version::V08,
                Format::V09 => Version::V09,
            },
        }
    }

    /// The block for the disk.
    pub(super) fn encode(&self) -> Block {
        match self {
            Self::V07(superblock) => superblock.encode(),
            Self::Uuids(superblock) => superblock.encode(),
        }
    }

    /// Last agreed size in sectors.
    pub(super) fn effective_size(&self) -> u64 {
        match self {
            Self::V07(superblock) => superblock.effective_size,
            Self::Uuids(superblock) => superblock.effective_size,
        }
    }

    pub(super) fn set_effective_size(&mut self, sectors: u64) {
        match self {
            Self::V07(superblock) => superblock.effective_size = sectors,
            Self::Uuids(superblock) => superblock.effective_size = sectors,
        }
    }

    pub(super) fn block_size(&self) -> BitmapBlockSize {
        match self {
            Self::V07(_) => BitmapBlockSize::DEFAULT,
            Self::Uuids(superblock) => superblock.block_size,
        }
    }

    pub(super) fn slots(&self) -> u8 {
        match self {
            Self::V07(_) => 1,
            Self::Uuids(superblock) => superblock.max_peers,
        }
    }

    /// The bitmap that belongs to the effective size.
    pub(super) fn bitmap_layout(&self) -> Option<BitmapLayout> {
        BitmapLayout::new(self.slots(), self.block_size(), self.effective_size())
    }

    /// Whether the activity log has nothing to tell. v07 does not say so anywhere.
    pub(super) fn is_clean(&self) -> bool {
        match self {
            Self::V07(_) => false,
            Self::Uuids(superblock) => superblock.is_clean(),
        }
    }

    /// Whether a node may have written to extents that only the activity log names.
    pub(super) fn must_apply_al(&self) -> bool {
        match self {
            Self::V07(superblock) => superblock.flags & V07Superblock::PRIMARY_IND != 0,
            Self::Uuids(superblock) => superblock.must_apply_al(),
        }
    }

    pub(super) fn al_nr_extents(&self) -> u32 {
        match self {
            Self::V07(superblock) => superblock.al_nr_extents,
            Self::Uuids(superblock) => superblock.al_nr_extents,
        }
    }

    /// Whether the activity log may be one of the sectors that DRBD up to 8.3 wrote; `None` if it
    /// certainly is.
    pub(super) fn may_have_sector_log(&self) -> Option<bool> {
        match self {
            Self::V07(_) => None,
            Self::Uuids(superblock) => {
                let default = superblock.striping == AlStriping::DEFAULT;
                Some(superblock.magic == Magic::V08 && default)
            }
        }
    }

    /// 0 if there is none; v07 has no place for it.
    pub(super) fn device_uuid(&self) -> u64 {
        match self {
            Self::V07(_) => 0,
            Self::Uuids(superblock) => superblock.device_uuid,
        }
    }

    /// Takes over the offsets of a layout.
    pub(super) fn place(&mut self, geometry: &Geometry) {
        let (size, al, bm) = (
            geometry.md_size_sect(),
            geometry.al_offset(),
            geometry.bm_offset(),
        );
        match self {
            Self::V07(superblock) => {
                superblock.md_size_sect = size;
                (superblock.al_offset, superblock.bm_offset) = (al, bm);
            }
            Self::Uuids(superblock) => {
                superblock.md_size_sect = size;
                (superblock.al_offset, superblock.bm_offset) = (al, bm);
            }
        }
    }

    /// The same metadata for the time in which activity log and bitmap are being rewritten: all is
    /// to be considered out of sync, and the log tells nothing and must be made clean before use.
    /// Whatever the crash leaves of log and bitmap, it costs a full resync and no data.
    pub(super) fn unfinished(&self) -> Self {
        use drbd_meta::flags::{LocalFlags, PeerFlags};
        match self.clone() {
            Self::V07(mut superblock) => {
                superblock.flags &= !V07Superblock::PRIMARY_IND;
                superblock.flags |= V07Superblock::FULL_SYNC;
                Self::V07(superblock)
            }
            Self::Uuids(mut superblock) => {
                superblock
                    .flags
                    .remove(LocalFlags::PRIMARY_IND | LocalFlags::AL_CLEAN);
                match superblock.magic.format() {
                    Format::V08 => superblock.flags.insert(LocalFlags::FULL_SYNC),
                    Format::V09 => {
                        for peer in &mut superblock.peers {
                            peer.flags.insert(PeerFlags::FULL_SYNC);
                        }
                    }
                }
                Self::Uuids(superblock)
            }
        }
    }
}

impl From<Superblock> for Record {
    fn from(superblock: Superblock) -> Self {
        Self::Uuids(Box::new(superblock))
    }
}

fn strange_size(found: u32, expected: u32) -> Option<String> {
    (found != expected).then(|| format!("strange md_size_sect {found} (expected: {expected})"))
}

/// Why a block is no valid superblock of the wanted version.
#[derive(Debug)]
pub(super) struct NotValid {
    version: Version,
    /// At the end of a device with data.
    internal: bool,
    error: SuperblockError,
}

impl NotValid {
    /// Whether there is not even the magic number.
    pub(super) const fn is_other(&self) -> bool {
        matches!(self.error, SuperblockError::Magic { .. })
    }
}

impl fmt::Display for NotValid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.version;
        match (self.error, self.internal) {
            (SuperblockError::Magic { .. }, _) => write!(f, "{version} Magic number not found"),
            (
                SuperblockError::Place {
                    field: "al_offset",
                    found,
                    expected,
                },
                false,
            ) => write!(
                f,
                "{version} Magic number (al_offset) not found\n\texpected: {expected}, found {found}"
            ),
            (
                SuperblockError::Place {
                    field: field @ ("bm_offset" | "md_size_sect"),
                    found,
                    expected,
                },
                true,
            ) => write!(f, "strange {field} {found} (expected: {expected})"),
            (
                SuperblockError::Place {
                    field,
                    found,
                    expected,
                },
                _,
            ) => write!(f, "{version} {field}: expected {expected}, found {found}"),
            (
                SuperblockError::Field {
                    field: "max-peers",
                    found,
                    ..
                },
                _,
            ) => write!(f, "{version} max-peers value {found} out of bounds"),
            (
                SuperblockError::Field {
                    field: "node-id",
                    found,
                    ..
                },
                _,
            ) => write!(f, "{version} device node-id value {found} out of bounds"),
            (SuperblockError::PeerField { node, found, .. }, _) => write!(
                f,
                "{version} peer device {node} node-id value {found} out of bounds"
            ),
            (error, _) => write!(f, "{version}: {error}"),
        }
    }
}
