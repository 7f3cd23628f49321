//! Every row of the catalogue of required behaviours (state machine, chapter 21) as a test named after the row. The
//! words the tests use are explained in [`lab`]; rows that cannot be tests here stand in `docs/scenarios.md`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod bitmap_blocks;
mod chain;
mod coincidences;
mod congestion;
mod connecting;
mod coverage;
mod day0;
mod disk_states;
mod diskless;
mod disks;
mod failover;
mod fencing;
mod generations;
mod lab;
mod lost_primary;
mod misc;
mod missed_ends;
mod openers;
mod quorum;
mod refusals;
mod resync_chain;
mod resync_ends;
mod resync_order;
mod resyncs;
mod returns;
mod roles;
mod rows;
mod stuck_disks;
mod suspend;
mod tables;
mod thin;
mod twopc;
mod volumes;
mod waiting_turns;

/// What every file of tests needs.
#[allow(unused_imports)]
mod words {
    pub(crate) use crate::lab::uuids::{Generations, JUST_CREATED};
    pub(crate) use crate::lab::{Bad, Is::*, Lab, Setup, vol};
    pub(crate) use drbd_engine::command::{Command, Resize, RetCode};
    pub(crate) use drbd_engine::effect::IoError;
    pub(crate) use drbd_engine::options::{OnNoData, OnNoQuorum, Quorum, WireProtocol};
    pub(crate) use drbd_proto::packet::Cmd;
    pub(crate) use drbd_proto::{ConnState, ConnState::*, DiskState, DiskState::*};
    pub(crate) use drbd_proto::{ReplState, ReplState::*, Role, Role::*};
    pub(crate) use drbd_sim::cluster::node_id;
}
