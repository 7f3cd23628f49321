//! The table of options ("Configuration language", section 6).

use super::{Group, Kind, Number, OptionDef, Scale};

const fn option(name: &'static str, group: Group, kind: Kind, help: &'static str) -> OptionDef {
    OptionDef {
        name,
        group,
        kind,
        fixed: false,
        internal: false,
        help,
    }
}

const fn fixed(def: OptionDef) -> OptionDef {
    OptionDef { fixed: true, ..def }
}

const fn internal(def: OptionDef) -> OptionDef {
    OptionDef {
        internal: true,
        ..def
    }
}

const fn yes_no(default: bool) -> Kind {
    Kind::Boolean { default }
}

const fn one_of(words: &'static [&'static str], default: &'static str) -> Kind {
    Kind::Enum {
        words,
        default,
        ignore_case: false,
    }
}

const fn range(min: i64, max: i64, default: i64) -> Number {
    Number {
        min,
        max,
        default,
        scale: Scale::One,
        unit: "",
        clamped: false,
    }
}

const fn count(min: i64, max: i64, default: i64) -> Kind {
    Kind::Number(range(min, max, default))
}

const fn unit(min: i64, max: i64, default: i64, scale: Scale, unit: &'static str) -> Kind {
    Kind::Number(Number {
        min,
        max,
        default,
        scale,
        unit,
        clamped: false,
    })
}

const fn deciseconds(min: i64, max: i64, default: i64) -> Kind {
    unit(min, max, default, Scale::One, "1/10 seconds")
}

const fn seconds(min: i64, max: i64, default: i64) -> Kind {
    unit(min, max, default, Scale::One, "seconds")
}

const fn bytes(min: i64, max: i64, default: i64) -> Kind {
    unit(min, max, default, Scale::One, "bytes")
}

const fn sectors(min: i64, max: i64, default: i64) -> Kind {
    unit(min, max, default, Scale::Sector, "bytes")
}

const fn rate(min: i64, max: i64, default: i64) -> Kind {
    unit(min, max, default, Scale::Kib, "bytes/second")
}

const fn text(limit: usize) -> Kind {
    Kind::Text { limit: Some(limit) }
}

const QUORUM: Kind = Kind::NumberOrWord {
    number: range(1, 32, 1),
    words: &["off", "majority", "all"],
    default: "off",
};

macro_rules! group {
    ($group:expr, [$($name:literal: $kind:expr, $help:literal $(, $wrap:ident)?;)*]) => {
        &[$(group!(@one option($name, $group, $kind, $help) $(, $wrap)?)),*]
    };
    (@one $def:expr) => { $def };
    (@one $def:expr, $wrap:ident) => { $wrap($def) };
}

/// Options of a resource: `options { }`, `new-resource`, `resource-options`.
pub const RESOURCE: &[OptionDef] = group!(Group::Resource, [
    "cpu-mask": text(256), "processors the resource's threads may use, hexadecimal";
    "on-no-data-accessible": one_of(&["io-error", "suspend-io"], "io-error"),
        "what happens to I/O when no up-to-date copy is reachable";
    "auto-promote": yes_no(true), "become primary when the device is opened for writing";
    "peer-ack-window": sectors(2048, 204_800, 4096),
        "amount written after which a primary tells its peers what is everywhere";
    "peer-ack-delay": unit(1, 10_000, 100, Scale::One, "milliseconds"),
        "idle time after which a primary tells its peers what is everywhere";
    "twopc-timeout": deciseconds(50, 600, 300), "time limit of a cluster wide state change";
    "twopc-retry-timeout": deciseconds(1, 50, 1),
        "longest random pause before a cluster wide state change is retried";
    "auto-promote-timeout": deciseconds(0, 600, 20),
        "how long opening the device waits for a promotion to become possible";
    "max-io-depth": count(4, 4_294_967_295, 8000), "requests in flight before new ones wait";
    "quorum": QUORUM, "nodes with up-to-date data that must be reachable to go on writing";
    "on-no-quorum": one_of(&["io-error", "suspend-io"], "suspend-io"),
        "what happens to I/O when quorum is lost";
    "quorum-minimum-redundancy": QUORUM, "nodes with a disk that must be part of the quorum";
    "on-suspended-primary-outdated": one_of(&["disconnect", "force-secondary"], "disconnect"),
        "what a suspended primary does when it finds its data outdated";
    "drbd8-api-compatibility": yes_no(false), "show the interfaces of version 8";
]);

/// Options of a connection: `net { }`, `new-peer`, `net-options`.
pub const NET: &[OptionDef] = group!(Group::Net, [
    "transport": text(64), "tcp, lb-tcp or rdma", fixed;
    "load-balance-paths": yes_no(false), "use all paths at the same time", fixed;
    "protocol": Kind::Enum { words: &["A", "B", "C"], default: "C", ignore_case: true },
        "when a write is complete: A sent, B received, C on the peer's disk";
    "timeout": deciseconds(1, 600, 60), "how long a request may wait for the peer's answer";
    "max-epoch-size": count(1, 20_000, 2048), "writes between two barriers";
    "connect-int": seconds(1, 120, 10), "pause between two attempts to connect";
    "ping-int": seconds(1, 120, 10), "idle time before the link is probed";
    "sndbuf-size": bytes(0, 134_217_728, 0), "send buffer of the socket, 0 for automatic";
    "rcvbuf-size": bytes(0, 134_217_728, 0), "receive buffer of the socket, 0 for automatic";
    "ko-count": count(0, 200, 7), "timeouts without progress before a peer is given up";
    "allow-two-primaries": yes_no(false), "both nodes may be primary at the same time";
    "cram-hmac-alg": text(64), "digest for the authentication of the peer";
    "shared-secret": text(64), "secret for the authentication of the peer";
    "after-sb-0pri": one_of(&["disconnect", "discard-younger-primary", "discard-older-primary",
        "discard-zero-changes", "discard-least-changes", "discard-local", "discard-remote"],
        "disconnect"), "resolution of a split brain without a primary";
    "after-sb-1pri": one_of(&["disconnect", "consensus", "discard-secondary",
        "call-pri-lost-after-sb", "violently-as0p"], "disconnect"),
        "resolution of a split brain with one primary";
    "after-sb-2pri": one_of(&["disconnect", "call-pri-lost-after-sb", "violently-as0p"],
        "disconnect"), "resolution of a split brain with two primaries";
    "always-asbp": yes_no(false), "apply the policies to data that may be unrelated, too";
    "rr-conflict": one_of(&["disconnect", "call-pri-lost", "violently", "retry-connect",
        "auto-discard"], "disconnect"),
        "what happens when the roles contradict the direction of a resync";
    "ping-timeout": deciseconds(1, 300, 5), "how long a probe may wait for its answer";
    "data-integrity-alg": text(64), "digest sent with every replicated block";
    "tcp-cork": yes_no(true), "gather small packets";
    "on-congestion": one_of(&["block", "pull-ahead", "disconnect"], "block"),
        "what happens when the link is slower than the application";
    "congestion-fill": sectors(0, 20_971_520, 0),
        "amount in flight that counts as congestion, 0 for off";
    "congestion-extents": count(67, 65_534, 1237),
        "active extents of the activity log that count as congestion";
    "csums-alg": text(64), "digest to find blocks a resync can leave out";
    "csums-after-crash-only": yes_no(false), "use csums-alg only after a primary crashed";
    "verify-alg": text(64), "digest for online verification";
    "use-rle": yes_no(true), "compress the bitmap exchange";
    "socket-check-timeout": count(0, 300, 0),
        "1/10 seconds a new socket may take to answer, 0 for ping-timeout";
    "fencing": one_of(&["dont-care", "resource-only", "resource-and-stonith"], "dont-care"),
        "what is done about a peer that is lost";
    "max-buffers": count(32, 131_072, 2048), "pages for writes of the peer and for resync";
    "allow-remote-read": yes_no(true), "read from the peer when the local disk cannot";
    "tls": yes_no(false), "encrypt the connection";
    "tls-keyring": Kind::Key, "key ring with the certificates to trust";
    "tls-privkey": Kind::Key, "private key";
    "tls-certificate": Kind::Key, "own certificate";
    "rdma-ctrl-rcvbuf-size": count(0, 10_485_760, 0), "receive buffer of the control stream";
    "rdma-ctrl-sndbuf-size": count(0, 10_485_760, 0), "send buffer of the control stream";
    "_name": text(64), "name of the connection", internal;
]);

/// Options of a backing disk: `disk { }`, `attach`, `disk-options`.
pub const DISK: &[OptionDef] = group!(Group::Disk, [
    "size": sectors(0, 2_199_023_255_552, 0), "use only so much of the disk, 0 for all", fixed;
    "on-io-error": one_of(&["pass_on", "call-local-io-error", "detach"], "detach"),
        "what happens when the backing disk fails";
    "disk-barrier": yes_no(false), "order writes by barriers";
    "disk-flushes": yes_no(true), "order writes by flushing the disk";
    "disk-drain": yes_no(true), "order writes by waiting for the disk";
    "md-flushes": yes_no(true), "flush the disk with the meta data";
    "resync-after": Kind::ResyncAfter(range(-1, 1_048_575, -1)),
        "resync only when this volume is done";
    "al-extents": Kind::Number(Number { clamped: true, ..range(67, 65_534, 1237) }),
        "size of the activity log in extents of 4 MiB";
    "al-updates": yes_no(true), "keep the activity log up to date";
    "discard-zeroes-if-aligned": yes_no(true), "aligned discards are known to read as zeroes";
    "disable-write-same": yes_no(false), "do not offer write-same";
    "disk-timeout": deciseconds(0, 6000, 0), "time limit of the backing disk, 0 for none";
    "read-balancing": one_of(&["prefer-local", "prefer-remote", "round-robin", "least-pending",
        "when-congested-remote", "32K-striping", "64K-striping", "128K-striping",
        "256K-striping", "512K-striping", "1M-striping"], "prefer-local"),
        "which copy is read";
    "rs-discard-granularity": bytes(0, 1_048_576, 0),
        "resync runs of zeroes by discards of this size, 0 for off";
    "bitmap": yes_no(true), "the meta data has a bitmap";
]);

/// Options of a volume on one peer: `disk { }`, `peer-device-options`.
pub const PEER_DEVICE: &[OptionDef] = group!(Group::PeerDevice, [
    "resync-rate": rate(1, 8_388_608, 250), "speed of a resync if c-plan-ahead is 0";
    "c-plan-ahead": deciseconds(0, 300, 20),
        "time the speed controller looks ahead, 0 for a fixed speed";
    "c-delay-target": deciseconds(1, 100, 10), "delay the speed controller aims at";
    "c-fill-target": sectors(0, 1_048_576, 100),
        "amount in flight the speed controller aims at, 0 to use c-delay-target";
    "c-max-rate": rate(0, 4_194_304, 102_400), "upper bound of the speed controller";
    "c-min-rate": rate(0, 4_194_304, 250),
        "speed down to which a resync gives way to the application, 0 for no such limit";
    "bitmap": yes_no(true), "keep a bitmap for this peer";
    "resync-without-replication": yes_no(true), "resync although replication is not possible";
    "peer-tiebreaker": yes_no(true), "the peer counts as tie breaker of the quorum";
]);

/// Options of a replicated device: `disk { }`, `new-minor`.
pub const DEVICE: &[OptionDef] = group!(Group::Device, [
    "max-bio-size": count(512, 1_048_576, 1_048_576), "largest request in bytes", fixed;
    "diskless": yes_no(false), "intentionally without a disk", internal_fixed;
    "block-size": count(512, 4096, 512), "logical block size in bytes", fixed;
    "discard-granularity": count(0, 134_217_728, 4_294_967_295),
        "discard granularity offered, in bytes", fixed;
]);

const fn internal_fixed(def: OptionDef) -> OptionDef {
    fixed(internal(def))
}

/// Options of the waiting commands: `startup { }`.
pub const STARTUP: &[OptionDef] = group!(Group::Startup, [
    "wfc-timeout": seconds(0, 300_000, 0), "how long to wait for a peer, 0 for ever";
    "degr-wfc-timeout": seconds(0, 300_000, 0),
        "how long to wait for a peer that was already lost before the reboot";
    "outdated-wfc-timeout": seconds(0, 300_000, 0),
        "how long to wait for a peer that is known to be outdated";
    "wait-after-sb": yes_no(false), "wait although there was a split brain";
]);

const SHELL: Kind = Kind::Text { limit: None };

/// Programs to run on events: `handlers { }`.
pub const HANDLERS: &[OptionDef] = group!(Group::Handlers, [
    "pri-on-incon-degr": SHELL, "primary, degraded, and the local data is inconsistent";
    "pri-lost-after-sb": SHELL, "should give up the primary role after a split brain, but cannot";
    "pri-lost": SHELL, "should become the target of a resync, but is primary";
    "initial-split-brain": SHELL, "split brain detected";
    "split-brain": SHELL, "split brain not resolved automatically";
    "outdate-peer": SHELL, "old name of fence-peer";
    "fence-peer": SHELL, "make sure that a lost peer does not go on";
    "unfence-peer": SHELL, "undo fence-peer";
    "local-io-error": SHELL, "the backing disk failed";
    "before-resync-target": SHELL, "about to receive a resync";
    "after-resync-target": SHELL, "received a resync";
    "before-resync-source": SHELL, "about to send a resync";
    "out-of-sync": SHELL, "verification found differences";
    "quorum-lost": SHELL, "quorum lost";
    "disconnected": SHELL, "connection lost";
]);

/// Options of the proxy: `proxy { }`.
pub const PROXY: &[OptionDef] = group!(Group::Proxy, [
    "memlimit": count(0, i64::MAX, 0), "memory in bytes";
    "read-loops": count(0, i64::MAX, 0), "reads in one turn";
    "compression": count(0, i64::MAX, 0), "compress";
    "bwlimit": count(0, i64::MAX, 0), "speed limit";
    "sndbuf-size": bytes(0, 134_217_728, 0), "send buffer of the socket";
    "rcvbuf-size": bytes(0, 134_217_728, 0), "receive buffer of the socket";
    "ping-timeout": deciseconds(1, 300, 5), "how long a probe may wait for its answer";
]);

/// `--force`.
pub const FORCE: &[OptionDef] = group!(Group::Operation, [
    "force": yes_no(false), "although it may lose data";
]);

/// Options of `detach`.
pub const DETACH: &[OptionDef] = group!(Group::Operation, [
    "force": yes_no(false), "do not wait for requests in flight";
    "diskless": yes_no(false), "stay diskless on purpose";
]);

/// Options of `connect`.
pub const CONNECT: &[OptionDef] = group!(Group::Operation, [
    "tentative": yes_no(false), "only find out what would happen";
    "discard-my-data": yes_no(false), "after a split brain, give up the local changes";
]);

/// Options of `resize`.
pub const RESIZE: &[OptionDef] = group!(Group::Operation, [
    "size": sectors(0, 2_199_023_255_552, 0), "new size, 0 for all of the disk";
    "assume-peer-has-space": yes_no(false), "grow although the peer cannot be asked";
    "assume-clean": yes_no(false), "do not resync what is new";
    "al-stripes": count(1, 1024, 1), "stripes of the activity log";
    "al-stripe-size-kB": unit(4, 16_777_216, 32, Scale::Kib, ""), "size of such a stripe";
]);

/// Options of `invalidate`.
pub const INVALIDATE: &[OptionDef] = group!(Group::Operation, [
    "sync-from-peer-node-id": count(-1, 32, -1), "node to resync from, -1 for any";
    "reset-bitmap": yes_no(true), "resync everything, not only what the bitmap has";
]);

/// Options of `invalidate-remote`.
pub const RESET_BITMAP: &[OptionDef] = group!(Group::Operation, [
    "reset-bitmap": yes_no(true), "resync everything, not only what the bitmap has";
]);

/// Options of `verify`.
pub const VERIFY: &[OptionDef] = group!(Group::Operation, [
    "start": sectors(0, 2_199_023_255_552, 0), "first sector";
    "stop": sectors(0, 2_199_023_255_552, 0), "sector to stop before, 0 for the end";
]);

/// Options of `new-current-uuid`.
pub const NEW_CURRENT_UUID: &[OptionDef] = group!(Group::Operation, [
    "clear-bitmap": yes_no(false), "skip the initial resync";
    "force-resync": yes_no(false), "make the peers resync everything";
]);

/// Options of `suspend-io`.
pub const SUSPEND_IO: &[OptionDef] = group!(Group::Operation, [
    "bdev-freeze": yes_no(true), "flush and freeze the file system first";
]);
