//! Shared parts of the command line tools.

pub mod adm;
pub mod generated;
pub mod meta;
mod minor_lock;
mod registration;
pub mod setup;
