//! Options as the engine uses them: typed, with units. Names, ranges and the text form are the business of
//! `drbd-config`; the defaults here and there are held equal by a test in the daemon.

use alloc::string::String;
use core::time::Duration;

pub use drbd_proto::packet::{AfterSb as SbPolicy, WireProtocol};

/// Options of a resource (configuration, section 6.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResourceOptions {
    /// `auto-promote`.
    pub auto_promote: bool,
    /// `auto-promote-timeout`.
    pub auto_promote_timeout: Duration,
    /// `on-no-data-accessible`.
    pub on_no_data: OnNoData,
    /// `quorum`.
    pub quorum: Quorum,
    /// `quorum-minimum-redundancy`.
    pub quorum_min_redundancy: Quorum,
    /// `on-no-quorum`.
    pub on_no_quorum: OnNoQuorum,
    /// `on-suspended-primary-outdated force-secondary`.
    pub force_secondary_when_outdated: bool,
    /// `peer-ack-window` in sectors.
    pub peer_ack_window: u64,
    /// `peer-ack-delay`.
    pub peer_ack_delay: Duration,
    /// `twopc-timeout`.
    pub twopc_timeout: Duration,
    /// `twopc-retry-timeout`.
    pub twopc_retry_timeout: Duration,
}

impl Default for ResourceOptions {
    fn default() -> Self {
        ResourceOptions {
            auto_promote: true,
            auto_promote_timeout: Duration::from_secs(2),
            on_no_data: OnNoData::IoError,
            quorum: Quorum::Off,
            quorum_min_redundancy: Quorum::Off,
            on_no_quorum: OnNoQuorum::SuspendIo,
            force_secondary_when_outdated: false,
            peer_ack_window: 4096,
            peer_ack_delay: Duration::from_millis(100),
            twopc_timeout: Duration::from_secs(30),
            twopc_retry_timeout: Duration::from_millis(100),
        }
    }
}

/// `on-no-data-accessible`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnNoData {
    /// Requests fail.
    IoError,
    /// Requests wait.
    SuspendIo,
}

/// `on-no-quorum`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnNoQuorum {
    /// Requests fail.
    IoError,
    /// Requests wait.
    SuspendIo,
}

/// A number of votes (state machine, section 11).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Quorum {
    /// No quorum.
    Off,
    /// More than half.
    Majority,
    /// Every voter.
    All,
    /// That many.
    Count(u32),
}

/// Options of a connection (configuration, section 6.2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NetOptions {
    /// `protocol`.
    pub protocol: WireProtocol,
    /// `timeout`.
    pub timeout: Duration,
    /// `ping-timeout`.
    pub ping_timeout: Duration,
    /// `ping-int`.
    pub ping_int: Duration,
    /// `connect-int`.
    pub connect_int: Duration,
    /// `sock-check-timeo`; zero means `ping_timeout`.
    pub sock_check: Duration,
    /// `ko-count`.
    pub ko_count: u32,
    /// `max-epoch-size` in writes.
    pub max_epoch_size: u32,
    /// `max-buffers` in pages of 4 KiB.
    pub max_buffers: u32,
    /// `sndbuf-size` in bytes.
    pub sndbuf_size: u32,
    /// `rcvbuf-size` in bytes.
    pub rcvbuf_size: u32,
    /// `allow-two-primaries`.
    pub two_primaries: bool,
    /// `allow-remote-read`.
    pub allow_remote_read: bool,
    /// `cram-hmac-alg`; empty: no authentication.
    pub cram_hmac_alg: String,
    /// `shared-secret`.
    pub shared_secret: String,
    /// `after-sb-0pri`.
    pub after_sb_0pri: SbPolicy,
    /// `after-sb-1pri`.
    pub after_sb_1pri: SbPolicy,
    /// `after-sb-2pri`.
    pub after_sb_2pri: SbPolicy,
    /// `always-asbp`.
    pub always_asbp: bool,
    /// `rr-conflict`.
    pub rr_conflict: SbPolicy,
    /// `data-integrity-alg`; empty: none.
    pub integrity_alg: String,
    /// `verify-alg`; empty: none.
    pub verify_alg: String,
    /// `csums-alg`; empty: none.
    pub csums_alg: String,
    /// `csums-after-crash-only`.
    pub csums_after_crash_only: bool,
    /// `use-rle`.
    pub use_rle: bool,
    /// `fencing`.
    pub fencing: Fencing,
    /// `on-congestion`.
    pub on_congestion: OnCongestion,
    /// `congestion-fill` in sectors; 0: no limit.
    pub congestion_fill: u32,
    /// `congestion-extents` of the activity log.
    pub congestion_extents: u32,
}

impl Default for NetOptions {
    fn default() -> Self {
        NetOptions {
            protocol: WireProtocol::C,
            timeout: Duration::from_secs(6),
            ping_timeout: Duration::from_millis(500),
            ping_int: Duration::from_secs(10),
            connect_int: Duration::from_secs(10),
            sock_check: Duration::ZERO,
            ko_count: 7,
            max_epoch_size: 2048,
            max_buffers: 2048,
            sndbuf_size: 0,
            rcvbuf_size: 0,
            two_primaries: false,
            allow_remote_read: true,
            cram_hmac_alg: String::new(),
            shared_secret: String::new(),
            after_sb_0pri: SbPolicy::Disconnect,
            after_sb_1pri: SbPolicy::Disconnect,
            after_sb_2pri: SbPolicy::Disconnect,
            always_asbp: false,
            rr_conflict: SbPolicy::Disconnect,
            integrity_alg: String::new(),
            verify_alg: String::new(),
            csums_alg: String::new(),
            csums_after_crash_only: false,
            use_rle: true,
            fencing: Fencing::DontCare,
            on_congestion: OnCongestion::Block,
            congestion_fill: 0,
            congestion_extents: 1237,
        }
    }
}

/// `on-congestion` (data path, section 19).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // The names of the option's values.
pub enum OnCongestion {
    Block,
    PullAhead,
    Disconnect,
}

/// `fencing` (state machine, section 12).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[allow(missing_docs)] // The names of the option's values.
pub enum Fencing {
    DontCare,
    ResourceOnly,
    ResourceAndStonith,
}

/// Options of an attached disk (configuration, section 6.3).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskOptions {
    /// `size` in sectors; 0: as large as possible.
    pub size: u64,
    /// `on-io-error`.
    pub on_io_error: OnIoError,
    /// `disk-barrier`.
    pub disk_barrier: bool,
    /// `disk-flushes`.
    pub disk_flushes: bool,
    /// `disk-drain`.
    pub disk_drain: bool,
    /// `md-flushes`.
    pub md_flushes: bool,
    /// `al-extents`: slots of the activity log.
    pub al_extents: u32,
    /// `al-updates`.
    pub al_updates: bool,
    /// `discard-zeroes-if-aligned`.
    pub discard_zeroes_if_aligned: bool,
    /// `rs-discard-granularity` in bytes; 0: off.
    pub rs_discard_granularity: u32,
    /// `read-balancing`.
    pub read_balancing: ReadBalancing,
    /// `disk-timeout`; zero: off.
    pub disk_timeout: Duration,
    /// `resync-after`: the minor to wait for.
    pub resync_after: Option<u32>,
}

impl Default for DiskOptions {
    fn default() -> Self {
        DiskOptions {
            size: 0,
            on_io_error: OnIoError::Detach,
            disk_barrier: false,
            disk_flushes: true,
            disk_drain: true,
            md_flushes: true,
            al_extents: 1237,
            al_updates: true,
            discard_zeroes_if_aligned: true,
            rs_discard_granularity: 0,
            read_balancing: ReadBalancing::PreferLocal,
            disk_timeout: Duration::ZERO,
            resync_after: None,
        }
    }
}

/// `on-io-error` (state machine, section 14.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // The names of the option's values.
pub enum OnIoError {
    PassOn,
    CallLocalIoError,
    Detach,
}

/// `read-balancing` (data path, section 11.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // The names of the option's values.
pub enum ReadBalancing {
    PreferLocal,
    PreferRemote,
    RoundRobin,
    LeastPending,
    WhenCongestedRemote,
    /// `32K-striping` (15) to `1M-striping` (20): that bit of the byte offset decides.
    Striping(u8),
}

/// Options of a peer device (configuration, section 6.4).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerDeviceOptions {
    /// `resync-rate` in KiB/s.
    pub resync_rate: u32,
    /// `c-plan-ahead` in units of 0.1 s; 0: fixed rate.
    pub c_plan_ahead: u32,
    /// `c-delay-target` in units of 0.1 s.
    pub c_delay_target: u32,
    /// `c-fill-target` in sectors.
    pub c_fill_target: u32,
    /// `c-max-rate` in KiB/s; 0: no limit.
    pub c_max_rate: u32,
    /// `c-min-rate` in KiB/s; 0: never throttled.
    pub c_min_rate: u32,
    /// `bitmap`: whether a bitmap is kept for this peer; `false` means it never has a disk.
    pub bitmap: bool,
    /// `resync-without-replication`.
    pub resync_without_replication: bool,
    /// `peer-tiebreaker`.
    pub peer_tiebreaker: bool,
}

impl Default for PeerDeviceOptions {
    fn default() -> Self {
        PeerDeviceOptions {
            resync_rate: 250,
            c_plan_ahead: 20,
            c_delay_target: 10,
            c_fill_target: 100,
            c_max_rate: 102_400,
            c_min_rate: 250,
            bitmap: true,
            resync_without_replication: true,
            peer_tiebreaker: true,
        }
    }
}

/// Options of a minor (configuration, section 6.5).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceOptions {
    /// `max-bio-size` in bytes.
    pub max_bio_size: u32,
    /// `max-io-depth`: requests of one direction in progress.
    pub max_io_depth: u32,
    /// `diskless`: this node shall have no disk.
    pub diskless: bool,
    /// `block-size` in bytes.
    pub block_size: u32,
    /// `discard-granularity` in bytes; 0: no discards, `None`: what the backing device has.
    pub discard_granularity: Option<u32>,
}

impl Default for DeviceOptions {
    fn default() -> Self {
        DeviceOptions {
            max_bio_size: 1 << 20,
            max_io_depth: 8000,
            diskless: false,
            block_size: 512,
            discard_granularity: None,
        }
    }
}
