//! `drbdadm`: the configuration file's view of DRBD.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(drbd_tools::adm::main(std::env::args_os()))
}
