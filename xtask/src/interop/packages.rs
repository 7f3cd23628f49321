//! The Debian packages that guests are made of, unpacked below the target directory.

use std::path::{Path, PathBuf};
use std::process::Command;

use drbd_testkit::{Context, Error, Result};

/// A kernel that is an ordinary process, DRBD's tools, and a shell with `insmod`.
const PACKAGES: [&str; 3] = ["user-mode-linux", "drbd-utils", "busybox"];

/// Where the packages lie unpacked. They are fetched through apt once.
pub(super) fn root(target: &Path) -> Result<PathBuf> {
    fetch(target, &PACKAGES)
}

/// Fetches packages once and unpacks them below a directory.
pub(super) fn fetch(target: &Path, packages: &[&str]) -> Result<PathBuf> {
    let root = target.join("root");
    let done = target.join("packages-done");
    if done.exists() {
        return Ok(root);
    }
    let debs = target.join("deb");
    std::fs::create_dir_all(&debs).context(debs.display())?;
    std::fs::create_dir_all(&root).context(root.display())?;
    eprintln!("fetching {} ...", packages.join(", "));
    if !apt(&debs, "download", packages)? {
        apt(&debs, "update", &[])?;
        if !apt(&debs, "download", packages)? {
            return Err(Error::new(
                "apt-get could not download the packages of the guests; they are Debian's",
            ));
        }
    }
    for entry in std::fs::read_dir(&debs).context(debs.display())?.flatten() {
        let mut unpack = Command::new("dpkg-deb");
        unpack.arg("-x").arg(entry.path()).arg(&root);
        let status = unpack.status().context("dpkg-deb")?;
        if !status.success() {
            let name = entry.path();
            return Err(Error::new(format!("cannot unpack {}", name.display())));
        }
    }
    std::fs::write(&done, "").context(done.display())?;
    Ok(root)
}

fn apt(dir: &Path, verb: &str, packages: &[&str]) -> Result<bool> {
    let mut command = Command::new("apt-get");
    // Downloads are the user's own files, whoever that is.
    command.args(["-q", "-o", "APT::Sandbox::User=root", verb]);
    let status = command.args(packages).current_dir(dir).status();
    Ok(status.context("apt-get")?.success())
}

/// Finds a file by its name below a directory.
pub(super) fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(dir)
        .ok()?
        .flatten()
        .map(|e| e.path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() && !path.is_symlink() {
            if let Some(found) = find(&path, name) {
                return Some(found);
            }
        } else if path.file_name().is_some_and(|n| n == name) {
            return Some(path);
        }
    }
    None
}
