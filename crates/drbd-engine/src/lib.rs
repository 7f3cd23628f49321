//! What a DRBD node decides.
#![no_std]
extern crate alloc;

pub mod activity_log;
pub mod bitmap;
pub mod interval;
