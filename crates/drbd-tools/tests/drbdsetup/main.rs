//! `drbdsetup` as a program, beside a daemon that has what the reference tool was recorded with. The outputs are those of
//! the recordings, byte for byte.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)] // test code

mod daemon;
mod old_lines;
mod outputs;
mod recorded;
mod waiting;
