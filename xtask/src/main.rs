//! What a developer runs: `cargo xtask COMMAND`.

mod no_std;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Developer tasks of drbd-rs.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Prove that drbd-proto, drbd-meta and drbd-engine use no std.
    NoStd,
}

fn main() -> ExitCode {
    let result = match Args::parse().task {
        Task::NoStd => no_std::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
