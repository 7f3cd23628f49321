//! The engine's types under the names the daemon uses.
//!
//! Until `drbd-engine` and `drbd-proto` export theirs, the few that frontends need are defined here with the same
//! names and fields.
#![allow(missing_docs)]

use std::fmt;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BufId(pub u64);

pub use drbd_proto::{Sector, VolumeNr};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    pub sectors: u64,
    pub logical_block: u32,
    pub physical_block: u32,
    pub max_io: u32,
    pub max_discard: u32,
    pub max_write_zeroes: u32,
    pub volatile_cache: bool,
    pub writable: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoError {
    Io,
    NotPrimary,
    Invalid,
    NoSpace,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenError {
    ReadOnly,
    ForeignPrimary,
    NoData,
    FailIo,
    NoVolume,
}

impl fmt::Display for IoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
