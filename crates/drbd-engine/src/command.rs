//! What an administrator may ask of a resource, and the answers (CLI, sections 9 and 10).

use alloc::string::String;
use alloc::vec::Vec;

use drbd_proto::{NodeId, Sector, VolumeNr};

use crate::effect::Path;
use crate::options::{DeviceOptions, DiskOptions, NetOptions, PeerDeviceOptions, ResourceOptions};

/// A command for one resource. `new-resource` is the creation of the engine itself.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // Fields are the commands' own arguments, CLI section 9.
pub enum Command {
    /// `resource-options`.
    ResourceOptions { options: ResourceOptions },
    /// `rename-resource`; that the name is free is checked by the driver.
    RenameResource { name: String },
    /// `new-minor`.
    NewMinor {
        volume: VolumeNr,
        minor: u32,
        options: DeviceOptions,
    },
    /// `del-minor`.
    DelMinor { volume: VolumeNr },
    /// `new-peer`; `name` is the connection's name.
    NewPeer {
        peer: NodeId,
        name: String,
        options: NetOptions,
    },
    /// `del-peer`.
    DelPeer { peer: NodeId, force: bool },
    /// `net-options`.
    NetOptions { peer: NodeId, options: NetOptions },
    /// `peer-device-options`.
    PeerDeviceOptions {
        peer: NodeId,
        volume: VolumeNr,
        options: PeerDeviceOptions,
    },
    /// `new-path`.
    NewPath { peer: NodeId, path: Path },
    /// `del-path`.
    DelPath { peer: NodeId, path: Path },
    /// `attach`; the driver has opened the devices.
    Attach {
        volume: VolumeNr,
        backing: Backing,
        options: DiskOptions,
    },
    /// `disk-options`.
    DiskOptions {
        volume: VolumeNr,
        options: DiskOptions,
    },
    /// `resize`.
    Resize { volume: VolumeNr, resize: Resize },
    /// `detach`.
    Detach {
        volume: VolumeNr,
        force: bool,
        diskless: bool,
    },
    /// `connect`.
    Connect {
        peer: NodeId,
        discard_my_data: bool,
        tentative: bool,
    },
    /// `disconnect`.
    Disconnect { peer: NodeId, force: bool },
    /// `primary`.
    Primary { force: bool },
    /// `secondary`.
    Secondary { force: bool },
    /// `invalidate`.
    Invalidate {
        volume: VolumeNr,
        from: Option<NodeId>,
        reset_bitmap: bool,
    },
    /// `invalidate-remote`.
    InvalidateRemote {
        peer: NodeId,
        volume: VolumeNr,
        reset_bitmap: bool,
    },
    /// `verify`; positions in sectors.
    Verify {
        peer: NodeId,
        volume: VolumeNr,
        start: Option<Sector>,
        stop: Option<Sector>,
    },
    /// `pause-sync`.
    PauseSync { peer: NodeId, volume: VolumeNr },
    /// `resume-sync`.
    ResumeSync { peer: NodeId, volume: VolumeNr },
    /// `suspend-io`.
    SuspendIo,
    /// `resume-io`.
    ResumeIo,
    /// `outdate`.
    Outdate { volume: VolumeNr },
    /// `new-current-uuid`.
    NewCurrentUuid {
        volume: VolumeNr,
        clear_bitmap: bool,
        force_resync: bool,
    },
    /// `forget-peer`.
    ForgetPeer { peer: NodeId },
    /// `down`: demote, disconnect and detach everything, and remove it. After a successful answer the
    /// engine is empty and can be dropped.
    Down,
}

/// What `resize` asks for (CLI, section 9).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Resize {
    /// `--size` in sectors; 0: as large as possible.
    pub size: u64,
    /// `--assume-peer-has-space`: nodes that are not there are no limit.
    pub assume_peer_has_space: bool,
    /// `--assume-clean`: a new area is in sync.
    pub assume_clean: bool,
    /// `--al-stripes`.
    pub al_stripes: Option<u32>,
    /// `--al-stripe-size-kB`.
    pub al_stripe_size_kb: Option<u32>,
}

/// An opened backing device and its metadata device, as measured by the driver.
#[derive(Clone, Debug)]
pub struct Backing {
    /// Name of the data device, for status output.
    pub disk: String,
    /// Name of the metadata device, for status output; equal to `disk` for internal metadata.
    pub meta_disk: String,
    /// Where the metadata lies.
    pub meta: MetaPlace,
    /// Size of the data device in bytes.
    pub disk_bytes: u64,
    /// Size of the metadata device in bytes; equal to `disk_bytes` for internal metadata.
    pub meta_bytes: u64,
    /// Logical block size of the data device in bytes (512 or 4096).
    pub logical_block: u32,
    /// Physical block size in bytes.
    pub physical_block: u32,
    /// Discard granularity in bytes; 0: the device cannot discard.
    pub discard_granularity: u32,
    /// Largest discard in bytes.
    pub max_discard: u32,
    /// The device has a volatile write cache.
    pub volatile_cache: bool,
}

/// Where the metadata lies (metadata, section 2.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MetaPlace {
    /// At the end of the data device.
    Internal,
    /// A metadata device of its own, used as a whole.
    FlexExternal,
    /// Slot of an indexed metadata device.
    Indexed(u32),
}

/// Answer to a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// Result code.
    pub code: RetCode,
    /// Further lines for the administrator.
    pub info: Vec<String>,
}

impl Reply {
    /// A bare result code.
    pub fn new(code: RetCode) -> Self {
        Reply {
            code,
            info: Vec::new(),
        }
    }

    /// A result code with one line of explanation.
    pub fn with(code: RetCode, info: impl Into<String>) -> Self {
        Reply {
            code,
            info: alloc::vec![info.into()],
        }
    }

    /// Whether the command did what was asked (CLI, section 10: exit code 0).
    pub fn is_ok(&self) -> bool {
        self.code.0 == RetCode::NO_ERROR.0 || (1..=4).contains(&self.code.0)
    }
}

/// Result code of a command: 101 and up are errors of the configuration interface, 1..=4 successful and
/// negative ones failed state changes (state machine, section 3.3; CLI, section 10).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RetCode(pub i32);

#[allow(missing_docs)] // Names and numbers of CLI section 10.
impl RetCode {
    pub const CW_SUCCESS: RetCode = RetCode(3);
    pub const NOTHING_TO_DO: RetCode = RetCode(2);
    pub const SUCCESS: RetCode = RetCode(1);
    pub const UNKNOWN_ERROR: RetCode = RetCode(0);
    pub const TWO_PRIMARIES: RetCode = RetCode(-1);
    pub const NO_UP_TO_DATE_DISK: RetCode = RetCode(-2);
    pub const NO_LOCAL_DISK: RetCode = RetCode(-4);
    pub const NO_REMOTE_DISK: RetCode = RetCode(-5);
    pub const CONNECTED_OUTDATES: RetCode = RetCode(-6);
    pub const PRIMARY_NOP: RetCode = RetCode(-7);
    pub const RESYNC_RUNNING: RetCode = RetCode(-8);
    pub const ALREADY_STANDALONE: RetCode = RetCode(-9);
    pub const CW_FAILED_BY_PEER: RetCode = RetCode(-10);
    pub const IS_DISKLESS: RetCode = RetCode(-11);
    pub const DEVICE_IN_USE: RetCode = RetCode(-12);
    pub const NO_NET_CONFIG: RetCode = RetCode(-13);
    pub const NO_VERIFY_ALG: RetCode = RetCode(-14);
    pub const NEED_CONNECTION: RetCode = RetCode(-15);
    pub const LOWER_THAN_OUTDATED: RetCode = RetCode(-16);
    pub const NOT_SUPPORTED: RetCode = RetCode(-17);
    pub const IN_TRANSIENT_STATE: RetCode = RetCode(-18);
    pub const CONCURRENT_ST_CHG: RetCode = RetCode(-19);
    pub const INTERRUPTED: RetCode = RetCode(-21);
    pub const PRIMARY_READER: RetCode = RetCode(-22);
    pub const TIMEOUT: RetCode = RetCode(-23);
    pub const WEAKLY_CONNECTED: RetCode = RetCode(-24);
    pub const NO_QUORUM: RetCode = RetCode(-25);
    pub const ATTACH_NO_BITMAP: RetCode = RetCode(-26);
    pub const HANDSHAKE_DISCONNECT: RetCode = RetCode(-27);
    pub const HANDSHAKE_RETRY: RetCode = RetCode(-28);

    pub const NO_ERROR: RetCode = RetCode(101);
    pub const ERR_LOCAL_ADDR: RetCode = RetCode(102);
    pub const ERR_PEER_ADDR: RetCode = RetCode(103);
    pub const ERR_OPEN_DISK: RetCode = RetCode(104);
    pub const ERR_OPEN_MD_DISK: RetCode = RetCode(105);
    pub const ERR_DISK_NOT_BDEV: RetCode = RetCode(107);
    pub const ERR_MD_NOT_BDEV: RetCode = RetCode(108);
    pub const ERR_DISK_TOO_SMALL: RetCode = RetCode(111);
    pub const ERR_MD_DISK_TOO_SMALL: RetCode = RetCode(112);
    pub const ERR_BDCLAIM_DISK: RetCode = RetCode(114);
    pub const ERR_BDCLAIM_MD_DISK: RetCode = RetCode(115);
    pub const ERR_MD_IDX_INVALID: RetCode = RetCode(116);
    pub const ERR_IO_MD_DISK: RetCode = RetCode(118);
    pub const ERR_MD_INVALID: RetCode = RetCode(119);
    pub const ERR_AUTH_ALG: RetCode = RetCode(120);
    pub const ERR_AUTH_ALG_ND: RetCode = RetCode(121);
    pub const ERR_NOMEM: RetCode = RetCode(122);
    pub const ERR_DISCARD_IMPOSSIBLE: RetCode = RetCode(123);
    pub const ERR_DISK_CONFIGURED: RetCode = RetCode(124);
    pub const ERR_NET_CONFIGURED: RetCode = RetCode(125);
    pub const ERR_MANDATORY_TAG: RetCode = RetCode(126);
    pub const ERR_MINOR_INVALID: RetCode = RetCode(127);
    pub const ERR_INTR: RetCode = RetCode(129);
    pub const ERR_RESIZE_RESYNC: RetCode = RetCode(130);
    pub const ERR_NEED_PRIMARY: RetCode = RetCode(131);
    pub const ERR_RESYNC_AFTER: RetCode = RetCode(132);
    pub const ERR_RESYNC_AFTER_CYCLE: RetCode = RetCode(133);
    pub const ERR_PAUSE_IS_SET: RetCode = RetCode(134);
    pub const ERR_PAUSE_IS_CLEAR: RetCode = RetCode(135);
    pub const ERR_NO_DISK: RetCode = RetCode(138);
    pub const ERR_NOT_PROTO_C: RetCode = RetCode(139);
    pub const ERR_INTEGRITY_ALG: RetCode = RetCode(141);
    pub const ERR_CSUMS_ALG: RetCode = RetCode(144);
    pub const ERR_VERIFY_ALG: RetCode = RetCode(146);
    pub const ERR_DATA_NOT_CURRENT: RetCode = RetCode(150);
    pub const ERR_CONNECTED: RetCode = RetCode(151);
    pub const ERR_PERM: RetCode = RetCode(152);
    pub const ERR_NEED_APV_93: RetCode = RetCode(153);
    pub const ERR_STONITH_AND_PROT_A: RetCode = RetCode(154);
    pub const ERR_CONG_NOT_PROTO_A: RetCode = RetCode(155);
    pub const ERR_PIC_AFTER_DEP: RetCode = RetCode(156);
    pub const ERR_PIC_PEER_DEP: RetCode = RetCode(157);
    pub const ERR_RES_NOT_KNOWN: RetCode = RetCode(158);
    pub const ERR_RES_IN_USE: RetCode = RetCode(159);
    pub const ERR_MINOR_CONFIGURED: RetCode = RetCode(160);
    pub const ERR_MINOR_OR_VOLUME_EXISTS: RetCode = RetCode(161);
    pub const ERR_INVALID_REQUEST: RetCode = RetCode(162);
    pub const ERR_MD_UNCLEAN: RetCode = RetCode(165);
    pub const ERR_MD_LAYOUT_CONNECTED: RetCode = RetCode(166);
    pub const ERR_MD_LAYOUT_TOO_BIG: RetCode = RetCode(167);
    pub const ERR_MD_LAYOUT_TOO_SMALL: RetCode = RetCode(168);
    pub const ERR_MD_LAYOUT_NO_FIT: RetCode = RetCode(169);
    pub const ERR_IMPLICIT_SHRINK: RetCode = RetCode(170);
    pub const ERR_INVALID_PEER_NODE_ID: RetCode = RetCode(171);
    pub const ERR_CREATE_TRANSPORT: RetCode = RetCode(172);
    pub const ERR_LOCAL_AND_PEER_ADDR: RetCode = RetCode(173);
    pub const ERR_ALREADY_EXISTS: RetCode = RetCode(174);
    pub const ERR_APV_TOO_LOW: RetCode = RetCode(175);
}
