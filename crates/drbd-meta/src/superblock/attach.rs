//! Whether a volume with this superblock may be attached: the checks of the kernel side, in its
//! order and with its error codes (metadata, section 2.6, second table).

use super::{Format, Magic, Superblock};
use crate::flags::LocalFlags;
use crate::geometry::{AlStriping, BitmapBlockSize, MdIndex, Placement, bitmap_bytes};
use crate::limits::{INDEXED_SECTORS, MIN_ATTACH_SECTORS};

/// What is to be attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AttachRequest {
    /// Where the metadata is.
    pub placement: Placement,
    /// The node id of the configuration.
    pub node_id: u8,
    /// Whether the resource talks to DRBD 8 peers, which alone may use v08 metadata.
    pub drbd8_compat: bool,
}

/// Why the volume cannot be attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AttachError {
    /// The activity log was not applied.
    #[error("the metadata is unclean: run apply-al first")]
    Unclean,
    /// Metadata of another format than the resource uses.
    #[error("v08 metadata needs a resource in drbd8 compatibility mode: convert it with create-md")]
    Format,
    /// Metadata of another node.
    #[error("the metadata belongs to node {stored}, but this is node {configured}")]
    NodeId {
        /// Node id of the superblock.
        stored: u8,
        /// Node id of the configuration.
        configured: u8,
    },
    /// Our own entry has a bitmap slot.
    #[error("the metadata has a bitmap slot for our own node id {0}")]
    OwnSlot(u8),
    /// A slot number beyond the bitmap.
    #[error("node {node} has bitmap slot {slot}, but there are only {slots} slots")]
    SlotRange {
        /// The entry.
        node: u8,
        /// Its slot.
        slot: u8,
        /// Existing slots.
        slots: u8,
    },
    /// Two nodes with the same slot.
    #[error("nodes {first} and {second} both have bitmap slot {slot}")]
    SlotShared {
        /// An entry.
        first: u8,
        /// Another entry.
        second: u8,
        /// Their slot.
        slot: u8,
    },
    /// A size or offset does not fit.
    #[error("invalid metadata: {field} is {found}, it {rule}")]
    Layout {
        /// Name of the field.
        field: &'static str,
        /// Its value.
        found: i64,
        /// What must hold for it.
        rule: &'static str,
    },
    /// The metadata device is too small.
    #[error("the metadata device has {found} sectors, at least {need} are needed")]
    DeviceTooSmall {
        /// Sectors of the device.
        found: u64,
        /// Sectors needed.
        need: u64,
    },
}

impl AttachError {
    /// The error number of the configuration interface.
    #[must_use]
    pub const fn code(&self) -> u32 {
        match self {
            Self::Unclean => 165,
            Self::DeviceTooSmall { .. } => 112,
            _ => 119,
        }
    }
}

impl Superblock {
    /// Checks that a volume with this metadata may be attached.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check_attach(&self, request: &AttachRequest) -> Result<(), AttachError> {
        if !self.is_clean() {
            return Err(AttachError::Unclean);
        }
        if self.magic.format() == Format::V08 && !request.drbd8_compat {
            return Err(AttachError::Format);
        }
        self.check_layout(request.placement)?;
        self.check_nodes(request.node_id)
    }

    fn check_layout(&self, placement: Placement) -> Result<(), AttachError> {
        let layout = |field, found: i64, rule| AttachError::Layout { field, found, rule };
        let al = i64::from(self.al_offset);
        let bm = i64::from(self.bm_offset);
        let size = i64::from(self.md_size_sect);
        let al_sectors = i64::from(self.striping.sectors());
        let internal = placement.index.is_internal();
        let capacity = placement.device_size >> 9;
        let (al_size, bm_sectors);
        if internal {
            if al >= 0 {
                return Err(layout(
                    "al_offset",
                    al,
                    "must be negative for internal metadata",
                ));
            }
            if bm > al {
                return Err(layout(
                    "bm_offset",
                    bm,
                    "must not be behind the activity log",
                ));
            }
            al_size = al.saturating_neg();
            bm_sectors = al.saturating_sub(bm);
            let first = placement
                .superblock_offset()
                .ok()
                .and_then(|offset| (offset >> 9).checked_add_signed(bm));
            let Some(first) = first else {
                return Err(layout("bm_offset", bm, "must not lie before the device"));
            };
            if first.saturating_add(u64::from(self.md_size_sect)) > capacity {
                return Err(layout("md_size_sect", size, "must fit on the device"));
            }
        } else {
            if al != 8 {
                return Err(layout("al_offset", al, "must be 8 for external metadata"));
            }
            if bm < al_sectors.saturating_add(8) {
                return Err(layout("bm_offset", bm, "must be behind the activity log"));
            }
            al_size = bm.saturating_sub(al);
            bm_sectors = size.saturating_sub(bm);
            let offset = placement.superblock_offset().ok().map(|offset| offset >> 9);
            let end = offset.and_then(|o| o.checked_add(u64::from(self.md_size_sect)));
            if end.is_none_or(|end| end > capacity) {
                return Err(layout("md_size_sect", size, "must fit on the device"));
            }
        }
        if matches!(placement.index, MdIndex::Indexed(_)) {
            let fixed = self.block_size == BitmapBlockSize::DEFAULT
                && self.md_size_sect == INDEXED_SECTORS
                && bm == 72
                && self.striping == AlStriping::DEFAULT;
            if !fixed {
                return Err(layout(
                    "md_size_sect",
                    size,
                    "and the layout are fixed for an index",
                ));
            }
        }
        if al_size != al_sectors {
            return Err(layout(
                "al_offset",
                al,
                "must leave exactly the striping's room",
            ));
        }
        if bm.checked_rem(8) != Some(0) {
            return Err(layout("bm_offset", bm, "must be a multiple of 8 sectors"));
        }
        let need = bitmap_bytes(self.effective_size, self.block_size, self.max_peers);
        let have = u64::try_from(bm_sectors).unwrap_or(0).saturating_mul(512);
        if need.is_none_or(|need| need > have) {
            return Err(layout("bm_offset", bm, "must leave room for the bitmap"));
        }
        let need = match placement.index {
            MdIndex::Indexed(i) => {
                u64::from(INDEXED_SECTORS).saturating_mul(u64::from(i).saturating_add(1))
            }
            _ => MIN_ATTACH_SECTORS,
        };
        if capacity < need {
            return Err(AttachError::DeviceTooSmall {
                found: capacity,
                need,
            });
        }
        Ok(())
    }

    fn check_nodes(&self, own: u8) -> Result<(), AttachError> {
        if self.magic != Magic::V09 {
            return Ok(());
        }
        if let Some(stored) = self.node_id.filter(|stored| *stored != own) {
            return Err(AttachError::NodeId {
                stored,
                configured: own,
            });
        }
        let mut users = [None; 32];
        for (node, entry) in (0u8..).zip(&self.peers) {
            let Some(slot) = entry.bitmap_index else {
                continue;
            };
            if node == own {
                return Err(AttachError::OwnSlot(own));
            }
            let user = users
                .get_mut(usize::from(slot))
                .filter(|_| slot < self.max_peers);
            let Some(user) = user else {
                return Err(AttachError::SlotRange {
                    node,
                    slot,
                    slots: self.max_peers,
                });
            };
            if let Some(first) = user.replace(node) {
                return Err(AttachError::SlotShared {
                    first,
                    second: node,
                    slot,
                });
            }
        }
        Ok(())
    }

    /// Whether the activity log has to be applied before the device may be used: the backend may
    /// have had writes since it was last clean (metadata, section 5.6).
    #[must_use]
    pub fn must_apply_al(&self) -> bool {
        self.flags.contains(LocalFlags::PRIMARY_IND)
    }
}
