//! The drbd.conf language: parse, diagnose, expand, dump.
//!
//! One question: what did the administrator ask for? [`Parser`] reads the files into a [`model`],
//! [`expand`] completes it for one node and checks it, [`dump`] prints it. [`options`] is the one
//! table of options that the tools and the daemon share.
//!
//! What the reference (release 9.34) accepts is accepted and what it refuses is refused, with the
//! same first lines of messages and the same exit codes, except that this crate
//!
//! - compares driver versions in `require-drbd-module-version-*` as numbers;
//! - reports an `address` endpoint that no host has, a pair of hosts that is connected twice, and
//!   node ids that clash in a mesh;
//! - reports a `skip` that is not followed by a block, and a `device` without a name;
//! - takes text in quotes only if it is UTF-8, and files up to 16 MiB;
//! - goes on after a syntax error to report those of further resources;
//! - dumps what reads back: names that are keywords are quoted, `address` endpoints end with one
//!   `;`, volumes of stacked sections are not left out, XML is well-formed.

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
