//! The DRBD wire protocol.
#![no_std]
