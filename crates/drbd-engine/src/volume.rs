//! A volume (device): what the engine keeps beyond its state values.

use alloc::collections::BTreeMap;

use drbd_meta::geometry::Geometry;
use drbd_proto::{Uuid, VolumeNr};

use crate::bitmap::Bitmap;
use crate::command::Backing;
use crate::data::VolumeData;
use crate::id::OpenId;
use crate::metadata::MetaWriter;
use crate::options::{DeviceOptions, DiskOptions};
use crate::resize::Measured;
use crate::resync_after::{ResyncFacts, ResyncHold};
use crate::unconfirmed::Unconfirmed;
use crate::uuid::GenIds;

/// A volume of the resource.
#[derive(Debug)]
pub(crate) struct Volume {
    /// Number of the volume.
    pub nr: VolumeNr,
    /// Minor number of the virtual device.
    pub minor: u32,
    /// Options of the minor.
    pub options: DeviceOptions,
    /// The attached disk; present from Attaching on until it is let go.
    pub disk: Option<Disk>,
    /// Size of the virtual device in sectors; 0 while unknown.
    pub size: u64,
    /// Sticky flags (state machine, section 2.6).
    pub flags: DeviceFlags,
    /// The generation shown to applications and clients (state machine, section 7.11).
    pub exposed: Uuid,
    /// Generations that this node began without data, until its peers have them (EXPOSED_GEN_UNCONFIRMED).
    pub unconfirmed: Option<Unconfirmed>,
    /// Who has the virtual device open; true: for writing.
    pub openers: BTreeMap<OpenId, bool>,
    /// What the node says about its resyncs.
    pub resync_hold: ResyncHold,
    /// What the node was told about them.
    pub told_facts: Option<ResyncFacts>,
    /// Requests, activity log users, statistics: the data plane's.
    pub data: VolumeData,
}

/// An attached disk.
#[derive(Debug)]
pub(crate) struct Disk {
    /// The opened devices.
    pub backing: Backing,
    /// Options of the disk.
    pub options: DiskOptions,
    /// The superblock as it was read, and the geometry that follows from it.
    pub meta: MetaWriter,
    /// Generation identifiers.
    pub gen_ids: GenIds,
    /// The bitmap of all slots.
    pub bitmap: Bitmap,
    /// The devices as they were measured last, if they were since the attach, and where the metadata belongs then.
    pub measured: Option<(Measured, Geometry)>,
    /// The metadata is read; superblocks may be written.
    pub loaded: bool,
    /// Peers have the full-sync flag until the bitmap is written.
    pub full_sync: FullSync,
}

/// Where the writing of all-ones slots stands (metadata, section 4.3): flags, bitmap, flags again.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) enum FullSync {
    /// No flag is set.
    #[default]
    No,
    /// The flags are on their way to the disk.
    Flagged,
    /// The bitmap is on its way to the disk.
    Writing,
}

/// Sticky flags of a volume (state machine, section 2.6).
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct DeviceFlags {
    /// CRASHED_PRIMARY.
    pub crashed_primary: bool,
    /// PRIMARY_LOST_QUORUM.
    pub primary_lost_quorum: bool,
    /// NEW_CUR_UUID: a new data generation is due before the next request.
    pub new_cur_uuid: bool,
    /// RESTORE_QUORUM.
    pub restore_quorum: bool,
    /// STABLE_RESYNC: a resync towards us finished stable.
    pub stable_resync: bool,
    /// The last agreed size was never set; new bits stay clear.
    pub fresh_size: bool,
    /// OUTDATE_ON_2PC_COMMIT.
    pub outdate_on_commit: bool,
    /// The generation shown was begun without disk: the detached disk does not have it.
    pub exposed_without_disk: bool,
}
