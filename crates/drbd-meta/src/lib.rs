//! DRBD on-disk metadata.
#![no_std]
extern crate alloc;
