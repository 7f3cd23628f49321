//! What a developer runs: `cargo xtask COMMAND`.

mod bench;
mod bench_config;
mod decode;
mod demo;
mod interop;
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
    /// A mirrored volume that survives the loss of a node, in under two minutes.
    Demo(demo::Arguments),
    /// Prove that drbd-proto, drbd-meta and drbd-engine use no std.
    NoStd,
    /// Measure the mirror beside QEMU's.
    BenchMirror(bench::Args),
    /// Measure drbdadm on a large configuration beside the real tool.
    BenchConfig(bench_config::Args),
    /// Print a recorded connection packet by packet.
    Decode(decode::Args),
    /// Our node beside the DRBD of a kernel: all scenarios, in both directions.
    Interop(interop::Args),
}

fn main() -> ExitCode {
    let result = match Args::parse().task {
        Task::Demo(arguments) => demo::run(&arguments),
        Task::NoStd => no_std::run(),
        Task::BenchMirror(args) => bench::run(&args),
        Task::BenchConfig(args) => bench_config::run(&args),
        Task::Decode(args) => decode::run(&args),
        Task::Interop(args) => interop::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
