//! A whole DRBD cluster in one process, on virtual time.
//!
//! [`cluster::Cluster`] drives the engines of several nodes with events that come from simulated disks
//! ([`disk`]), a simulated network ([`net`]) and simulated applications ([`app`]) and administrators, and
//! carries out their effects. Everything that can go wrong does: links are cut at any byte, nodes crash and
//! lose power with writes in their caches, metadata blocks tear. Checkers ([`oracle`]) watch the promises
//! that DRBD makes (data path, section 25). Chance comes from one seed, so every run can be repeated.
//!
//! Hand-written scenarios are in the `tests` folder; [`scenario`] makes random ones.
#![allow(clippy::indexing_slicing)]

pub mod app;
pub mod buffer;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod core;
pub mod disk;
pub mod format;
pub mod net;
pub mod oracle;
pub mod ranges;
pub mod rng;
pub mod scenario;
pub mod trace;
pub mod wire;
