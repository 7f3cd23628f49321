//! Shared parts of the command line tools.

pub mod meta;
