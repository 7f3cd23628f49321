//! Who else uses a network namespace: the system does not tell, so `/proc` is searched.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::Id;

/// A user.
#[derive(Debug)]
pub(super) enum User {
    /// A thread inside, or a descriptor: a link in `/proc` that leads there.
    Link(PathBuf),
    /// It is mounted, as this list has it.
    Mount(PathBuf),
    /// Something that this process may not look at.
    Hidden(PathBuf),
}

impl User {
    /// Whether that is so now.
    pub(super) fn is_still(&self, id: Id) -> bool {
        match self {
            User::Link(path) => leads_to(path, id).unwrap_or(false),
            User::Mount(list) => mounted(list, id).unwrap_or(false),
            User::Hidden(path) => match fs::metadata(path) {
                Ok(_) => false,
                Err(e) => e.kind() == io::ErrorKind::PermissionDenied,
            },
        }
    }
}

/// Looks for a user. Threads first, which are most likely; then mounts; then descriptors.
pub(super) fn find(id: Id) -> Option<User> {
    let own = std::process::id().to_string();
    let processes: Vec<PathBuf> = entries(Path::new("/proc"))
        .filter(|path| {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
            name.bytes().all(|b| b.is_ascii_digit()) && name != own
        })
        .collect();
    let tasks = processes.iter().flat_map(|p| entries(&p.join("task")));
    let mut hidden = None;
    for link in tasks.map(|task| task.join("ns/net")) {
        match leads_to(&link, id) {
            Ok(true) => return Some(User::Link(link)),
            // The first process of the system may have more rights than this one. It has its own network.
            Err(e)
                if e.kind() == io::ErrorKind::PermissionDenied && !link.starts_with("/proc/1") =>
            {
                hidden = Some(User::Hidden(link));
            }
            _ => {}
        }
    }
    let mut seen = BTreeSet::new();
    for process in std::iter::once(Path::new("/proc/self")).chain(processes.iter().map(|p| &**p)) {
        let space = fs::metadata(process.join("ns/mnt")).map(|m| m.ino());
        let list = process.join("mountinfo");
        if space.is_ok_and(|ino| seen.insert(ino)) && mounted(&list, id).unwrap_or(false) {
            return Some(User::Mount(list));
        }
    }
    let descriptors = processes.iter().flat_map(|p| entries(&p.join("fd")));
    descriptors
        .filter(|link| fs::read_link(link).is_ok_and(|to| to.as_os_str() == &*text(id)))
        .find(|link| leads_to(link, id).unwrap_or(false))
        .map(User::Link)
        .or(hidden)
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let list = fs::read_dir(directory).into_iter();
    list.flat_map(|entries| entries.flatten().map(|e| e.path()))
}

fn leads_to(link: &Path, id: Id) -> io::Result<bool> {
    let meta = fs::metadata(link)?;
    Ok(meta.dev() == id.dev && meta.ino() == id.ino)
}

/// As links and lists of mounts name it.
fn text(id: Id) -> String {
    format!("net:[{}]", id.ino)
}

fn mounted(list: &Path, id: Id) -> io::Result<bool> {
    Ok(lists(&fs::read_to_string(list)?, id))
}

fn lists(mountinfo: &str, id: Id) -> bool {
    let name = text(id);
    mountinfo
        .lines()
        .any(|line| line.split(' ').nth(3) == Some(&*name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_mounts() {
        let list = "24 1 0:22 / /run rw shared:2 - tmpfs tmpfs rw\n\
                    95 24 0:4 net:[4026532201] /run/netns/x rw shared:50 - nsfs nsfs rw\n";
        let id = |ino| Id { dev: 4, ino };
        assert!(lists(list, id(4_026_532_201)));
        assert!(!lists(list, id(402_653_220)) && !lists("", id(4_026_532_201)));
    }

    #[test]
    fn the_own_namespace_has_other_users() {
        // At least the program that started this one, or something that may not be looked at.
        let meta = fs::metadata("/proc/self/ns/net").unwrap();
        let id = Id {
            dev: meta.dev(),
            ino: meta.ino(),
        };
        let user = find(id).unwrap();
        assert!(user.is_still(id));
        let other = Id {
            dev: id.dev,
            ino: 1,
        };
        assert!(!User::Link("/proc/self/ns/net".into()).is_still(other));
        assert!(!User::Mount("/proc/self/mountinfo".into()).is_still(other));
    }
}
