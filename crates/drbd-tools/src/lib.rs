//! Shared parts of the command line tools.

pub mod adm;
pub mod generated;
pub mod meta;
pub mod setup;
