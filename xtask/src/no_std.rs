//! The core is linked into a library that has its own panic handler: with `std` anywhere below it there
//! would be two, which is an error.

use std::path::Path;
use std::process::Command;

/// Builds `xtask/no-std-check`.
pub(crate) fn run() -> Result<(), String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = root.join("no-std-check/Cargo.toml");
    let target = root.join("../target/no-std-check");
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--manifest-path"])
        .arg(&manifest)
        .arg("--target-dir")
        .arg(&target)
        .env_remove("CARGO_TARGET_DIR")
        .status()
        .map_err(|e| format!("cargo cannot be started: {e}"))?;
    if !status.success() {
        return Err(
            "drbd-proto, drbd-meta, drbd-engine or something below them needs std; see the \
                    compiler's message above"
                .into(),
        );
    }
    println!("drbd-proto, drbd-meta and drbd-engine need no std.");
    Ok(())
}
