//! Options to choose from.

use std::fmt::Write;

use super::Random;

pub(super) const NET: &[&str] = &[
    "protocol A",
    "protocol B",
    "protocol C",
    "timeout 61",
    "ping-int 12",
    "max-buffers 8000",
    "verify-alg crc32c",
    "csums-alg md5",
    "sndbuf-size 1M",
    "no-tcp-cork",
    "use-rle no",
    "allow-two-primaries",
    "after-sb-0pri discard-zero-changes",
    "rr-conflict retry-connect",
    "shared-secret \"a b\"",
    "fencing resource-only",
    "congestion-fill 1G",
];
pub(super) const RESOURCE: &[&str] = &[
    "quorum majority",
    "quorum off",
    "on-no-quorum io-error",
    "auto-promote no",
    "cpu-mask 3",
    "peer-ack-window 8M",
    "max-io-depth 4000",
];
pub(super) const DISK: &[&str] = &[
    "on-io-error detach",
    "on-io-error pass_on",
    "disk-flushes no",
    "no-md-flushes",
    "al-extents 257",
    "disk-timeout 60",
    "read-balancing round-robin",
    "rs-discard-granularity 65536",
];
pub(super) const PEER_DEVICE: &[&str] = &[
    "resync-rate 10M",
    "c-max-rate 100M",
    "c-min-rate 4M",
    "c-plan-ahead 30",
    "c-fill-target 1M",
];

pub(super) fn options(r: &mut Random, list: &[&str], most: usize) -> String {
    let mut out = String::new();
    let mut used: Vec<&str> = Vec::new();
    for _ in 0..r.below(most + 1) {
        let option = *r.pick(list);
        let name = option.split(' ').next().unwrap().trim_start_matches("no-");
        if !used.contains(&name) {
            used.push(name);
            let _ = write!(out, "{option}; ");
        }
    }
    out
}
