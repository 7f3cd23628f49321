//! Where the programs under test are.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

use crate::{Context, Error, Result};

/// The programs a cluster consists of.
const PROGRAMS: [&str; 4] = ["drbdd", "drbdsetup", "drbdadm", "drbdmeta"];

/// The workspace.
pub fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().and_then(Path::parent).unwrap_or(here)
}

/// The directory that holds our programs: beside the running one, as the same build left them. They
/// are built if they are missing or older than their sources, which happens when only this crate's
/// tests are run. The variable `DRBD_TEST_PROGRAMS` names another directory.
///
/// # Errors
/// When they cannot be built.
pub fn directory() -> Result<&'static Path> {
    static DIRECTORY: OnceLock<Result<PathBuf>> = OnceLock::new();
    let found = DIRECTORY.get_or_init(|| {
        if let Some(given) = std::env::var_os("DRBD_TEST_PROGRAMS") {
            return Ok(given.into());
        }
        let exe = std::env::current_exe().context("cannot find the running program")?;
        let dir = exe.parent().context("the running program is nowhere")?;
        let dir = if dir.ends_with("deps") || dir.ends_with("examples") {
            dir.parent().unwrap_or(dir)
        } else {
            dir
        };
        if !fresh(dir) {
            build(dir)?;
        }
        Ok(dir.to_owned())
    });
    found.as_deref().map_err(Clone::clone)
}

/// Path of a program.
///
/// # Errors
/// Those of [`directory`].
pub fn program(name: &str) -> Result<PathBuf> {
    Ok(directory()?.join(name))
}

fn fresh(dir: &Path) -> bool {
    let times = PROGRAMS.map(|p| {
        std::fs::metadata(dir.join(p))
            .and_then(|m| m.modified())
            .ok()
    });
    let Some(oldest) = times.into_iter().collect::<Option<Vec<SystemTime>>>() else {
        return false;
    };
    let oldest = oldest.into_iter().min().unwrap_or(SystemTime::UNIX_EPOCH);
    let crates = [
        "proto", "meta", "engine", "config", "control", "node", "tools",
    ];
    crates.iter().all(|name| {
        let sources = workspace().join(format!("crates/drbd-{name}/src"));
        newest(&sources).is_none_or(|newest| newest <= oldest)
    })
}

/// When something below a directory was changed last.
fn newest(dir: &Path) -> Option<SystemTime> {
    std::fs::read_dir(dir)
        .ok()?
        .flatten()
        .filter_map(|entry| {
            let path = entry.path();
            if path.is_dir() {
                newest(&path)
            } else {
                entry.metadata().ok()?.modified().ok()
            }
        })
        .max()
}

/// Builds the programs into the directory of a profile.
fn build(dir: &Path) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let profile = dir.file_name().and_then(|n| n.to_str()).unwrap_or("debug");
    let target = dir
        .parent()
        .context("the running program is in no target directory")?;
    let mut command = Command::new(cargo);
    command
        .args([
            "build",
            "--quiet",
            "-p",
            "drbd-node",
            "-p",
            "drbd-tools",
            "--bins",
        ])
        .args([
            "--profile",
            if profile == "debug" { "dev" } else { profile },
        ])
        .arg("--target-dir")
        .arg(target)
        .current_dir(workspace());
    eprintln!("building drbdd and the tools ({profile}) ...");
    let status = command.status().context("cannot run cargo")?;
    if status.success() {
        Ok(())
    } else {
        Err(Error::new(format!(
            "cargo could not build drbdd and the tools: {status}"
        )))
    }
}
