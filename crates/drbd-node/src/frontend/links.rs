//! Names under which volumes are found: `<run directory>/by-res/RES/VOL`, and for the system's own daemon also
//! `/dev/drbd/by-res/RES/VOL` and `/dev/drbdMINOR`, as symbolic links to what the frontend offers.
//!
//! A link of an earlier daemon is replaced. Anything else in the way - a real device node of a kernel module - stays, which
//! is logged.

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::Volume;

/// Where links are made.
#[derive(Clone, Debug)]
pub struct Links {
    run_dir: PathBuf,
    dev: Option<PathBuf>,
}

/// The links of one volume. Dropping it removes those that still point where they pointed.
#[derive(Debug)]
pub struct Linked {
    target: PathBuf,
    links: Vec<PathBuf>,
}

impl Links {
    /// Links below `<run_dir>/by-res`, and below `dev` (`/dev`) if this is the daemon of the whole system.
    pub fn new(run_dir: &Path, dev: Option<&Path>) -> Links {
        Links {
            run_dir: run_dir.to_owned(),
            dev: dev.map(Path::to_owned),
        }
    }

    /// Makes the links of a volume. What cannot be made is logged: the volume works without.
    pub fn make(&self, volume: &Volume, target: &Path) -> Linked {
        let mut linked = Linked {
            target: target.to_owned(),
            links: Vec::new(),
        };
        let name = &*volume.resource;
        // Resource names come from the configuration, which has checked them; this must not depend on it.
        if name.is_empty() || name.contains('/') || name == "." || name == ".." {
            tracing::warn!("no links for a resource with the name `{name}`");
            return linked;
        }
        let by_res = Path::new("by-res")
            .join(name)
            .join(volume.volume.to_wire().to_string());
        let mut wanted = vec![self.run_dir.join(&by_res)];
        if let Some(dev) = &self.dev {
            wanted.push(dev.join("drbd").join(&by_res));
            wanted.push(dev.join(format!("drbd{}", volume.minor)));
        }
        for link in wanted {
            match place(&link, target) {
                Ok(()) => linked.links.push(link),
                Err(e) => tracing::warn!("cannot make the link {}: {e}", link.display()),
            }
        }
        linked
    }
}

fn place(link: &Path, target: &Path) -> io::Result<()> {
    if let Some(dir) = link.parent() {
        std::fs::create_dir_all(dir)?;
    }
    if std::fs::symlink_metadata(link).is_ok_and(|m| m.file_type().is_symlink()) {
        std::fs::remove_file(link)?;
    }
    symlink(target, link)
}

impl Linked {
    /// The links that exist.
    pub fn links(&self) -> &[PathBuf] {
        &self.links
    }
}

impl Drop for Linked {
    fn drop(&mut self) {
        for link in &self.links {
            // Another daemon may have replaced it.
            if std::fs::read_link(link).is_ok_and(|t| t == self.target) {
                let _ = std::fs::remove_file(link);
            }
            // The directories of the resource and `by-res`, when nothing is left in them.
            if link.components().any(|c| c.as_os_str() == "by-res") {
                for dir in link.ancestors().skip(1).take(2) {
                    if std::fs::remove_dir(dir).is_err() {
                        break;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doorway::VolumeNr;

    fn volume(name: &str) -> Volume {
        Volume {
            resource: name.into(),
            volume: VolumeNr::ZERO,
            minor: 7,
        }
    }

    #[test]
    fn links_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let (run, dev) = (dir.path().join("run"), dir.path().join("dev"));
        std::fs::create_dir_all(&dev).unwrap();
        let links = Links::new(&run, Some(&dev));
        // One is left over, one is something else.
        std::fs::create_dir_all(run.join("by-res/r0")).unwrap();
        symlink("/nowhere", run.join("by-res/r0/0")).unwrap();
        std::fs::write(dev.join("drbd7"), "a device node").unwrap();
        let linked = links.make(&volume("r0"), Path::new("/dev/loop3"));
        let expect = [run.join("by-res/r0/0"), dev.join("drbd/by-res/r0/0")];
        assert_eq!(linked.links(), expect);
        for link in &expect {
            assert_eq!(std::fs::read_link(link).unwrap(), Path::new("/dev/loop3"));
        }
        // One is taken over.
        std::fs::remove_file(&expect[0]).unwrap();
        symlink("/dev/loop4", &expect[0]).unwrap();
        drop(linked);
        assert!(std::fs::symlink_metadata(&expect[0]).is_ok());
        assert!(!dev.join("drbd/by-res").exists());
        assert_eq!(std::fs::read(dev.join("drbd7")).unwrap(), b"a device node");
        for name in ["", "..", "a/b", "."] {
            assert!(
                links
                    .make(&volume(name), Path::new("/x"))
                    .links()
                    .is_empty()
            );
        }
        let own = Links::new(&run, None).make(&volume("r1"), Path::new("/x"));
        assert_eq!(own.links(), [run.join("by-res/r1/0")]);
    }
}
