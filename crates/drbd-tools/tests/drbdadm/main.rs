//! `drbdadm`: recorded transcripts of the real tool, its helpers, its command line.

#![allow(clippy::unwrap_used, clippy::panic)] // test code

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

mod adjust;
mod command_line;
mod examples;
mod helpers;
mod metadata;
mod transcripts;

fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../drbd-config/tests/data")
        .join(path)
}

#[derive(Debug, PartialEq, Eq)]
struct Output {
    stdout: Vec<String>,
    stderr: Vec<String>,
    exit: i32,
}

/// Runs our `drbdadm` as if it had been found in `PATH`.
fn drbdadm(node: &str, args: &[&str], environment: &[(&str, &Path)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drbdadm"));
    command.arg0("drbdadm").args(args).stdin(Stdio::null());
    command
        .env("__DRBD_NODE__", node)
        .env("DRBD_DRIVER_VERSION_OVERRIDE", "9.2.14");
    for (name, value) in environment {
        command.env(name, value);
    }
    let output = command.output().unwrap();
    let lines = |bytes: &[u8]| -> Vec<String> {
        String::from_utf8(bytes.to_vec())
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    };
    let pretending = ["", "   found __DRBD_NODE__ in environment"];
    Output {
        stdout: lines(&output.stdout),
        stderr: lines(&output.stderr)
            .into_iter()
            .filter(|l| !pretending.contains(&&**l) && !l.starts_with("   PRETENDING that I am"))
            .collect(),
        exit: output.status.code().unwrap(),
    }
}

fn conf_files(dir: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(data(dir))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "conf"))
        .collect();
    files.sort();
    files
}
