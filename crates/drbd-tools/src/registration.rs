//! Which configuration was an object created with? Links in the run directory tell it (CLI, section 1.1): `drbdadm` makes
//! them, handlers and udev follow them, and `drbdsetup` removes them with the object.

use std::path::{Path, PathBuf};

/// Where the links lie.
pub(crate) const RUN_DIRECTORY: &str = "/var/run/drbd";

/// The link of an object, `resource-NAME` or `minor-N`.
pub(crate) fn link(what: &str) -> Option<PathBuf> {
    let lies_inside = !what.contains('/');
    lies_inside.then(|| Path::new(RUN_DIRECTORY).join(format!("drbd-{what}.conf")))
}

/// A minor is gone.
pub(crate) fn forget_minor(minor: u32) {
    remove(&format!("minor-{minor}"));
}

/// A resource is gone.
pub(crate) fn forget_resource(name: &str) {
    remove(&format!("resource-{name}"));
}

fn remove(what: &str) {
    if let Some(link) = link(what).filter(|link| link.is_symlink()) {
        // Whoever may not remove it did not make it either.
        let _ = std::fs::remove_file(link);
    }
}
