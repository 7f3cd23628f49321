//! What a DRBD node decides.
#![no_std]
extern crate alloc;

pub mod activity_log;
#[cfg(any(test, feature = "testkit"))]
pub mod backstops;
pub mod bitmap;
pub mod command;
pub mod decision;
pub mod effect;
pub mod event;
pub mod id;
pub mod interval;
pub mod options;
pub mod quorum;
pub mod resync_after;
pub mod rows;
pub mod status;
pub mod time;
pub mod uuid;

mod admin;
mod connection;
mod control;
mod data;
mod decide;
mod disk;
mod engine;
mod exchange;
mod exposed;
mod fencing;
mod glue;
mod handshake;
mod heal;
mod lifecycle;
mod metadata;
mod openers;
mod outbox;
mod peer8;
mod reconcile;
mod resize;
mod resync;
mod resync_control;
mod rng;
mod role;
mod size;
mod state;
mod status_build;
#[cfg(any(test, feature = "testkit"))]
mod testkit;
mod timer;
mod twopc;
mod unconfirmed;
pub mod upcall;
mod uuids;
mod volume;

pub use command::{Backing, Command, MetaPlace, Reply, RetCode};
pub use effect::{
    CallFacts, ConnectOptions, DiscardKind, Effect, IoError, Limits, LogLevel, LogLine, MetaBlock,
    OpenError, Path,
};
pub use engine::{Engine, EngineConfig};
pub use event::{DiskError, Event, IoRequest, LostReason, OpOutput, OpResult};
pub use id::{BufId, CmdId, IoId, OpId, OpenId};
pub use status::ResourceStatus;
pub use time::Instant;
