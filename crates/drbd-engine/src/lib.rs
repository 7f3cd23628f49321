//! What a DRBD node decides.
#![no_std]
extern crate alloc;
