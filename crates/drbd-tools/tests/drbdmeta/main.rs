//! `drbdmeta` by itself: what the reference does not do, or does wrong.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

mod create;
mod devices;
mod disk;
mod dumps;
mod images;
mod moves;
