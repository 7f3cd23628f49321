//! `drbdmeta`, the offline tool for metadata.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = std::env::args_os().skip(1);
    drbd_tools::meta::run(arguments.map(|argument| argument.to_string_lossy().into_owned()))
}
