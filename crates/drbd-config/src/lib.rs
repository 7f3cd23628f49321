//! The drbd.conf language: parse, diagnose, expand, dump.
//!
//! One question: what did the administrator ask for? [`Parser`] reads the files into a [`model`],
//! [`expand`] completes it for one node and checks it, [`dump`] prints it. [`options`] is the one
//! table of options that the tools and the daemon share.
//!
//! What the reference (release 9.34) accepts is accepted and what it refuses is refused, with the
//! same first lines of messages and the same exit codes, except for the differences on purpose in
//! `docs/configuration.md`.

pub mod diagnostic;
pub mod dump;
pub mod dump_xml;
pub mod environment;
pub mod expand;
pub mod lexer;
pub mod model;
pub mod options;
pub mod parser;
pub mod source;

pub use diagnostic::{Diagnostic, Severity};
pub use environment::Environment;
pub use model::Config;
pub use parser::{Input, Parsed, Parser};
