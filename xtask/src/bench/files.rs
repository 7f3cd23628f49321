//! Backing files and the directories of a run.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Length of one read or write in bytes.
const CHUNK: usize = 1 << 20;

/// Whether files in this directory are on a disk, and not in memory.
pub(super) fn on_a_disk(dir: &Path) -> bool {
    const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;
    rustix::fs::statfs(dir).is_ok_and(|s| s.f_type != TMPFS_MAGIC)
}

/// Directories that go away with the value.
pub(super) struct WorkDir {
    /// For backing files.
    disks: PathBuf,
    /// For sockets and logs: a short name, since the path of a socket is limited to 107 bytes.
    run: PathBuf,
    keep: bool,
    /// Whether the logs are of no further interest.
    done: bool,
}

impl WorkDir {
    pub(super) fn new(parent: &Path, keep: bool) -> Result<WorkDir, String> {
        let pid = std::process::id();
        let make = |path: PathBuf| {
            std::fs::create_dir_all(&path)
                .map(|()| path.clone())
                .map_err(|e| format!("{}: {e}", path.display()))
        };
        Ok(WorkDir {
            disks: make(parent.join(format!("run-{pid}")))?,
            run: make(std::env::temp_dir().join(format!("drbd-bench-{pid}")))?,
            keep,
            done: false,
        })
    }

    /// Path of a socket or log.
    pub(super) fn run(&self, name: &str) -> PathBuf {
        self.run.join(name)
    }

    /// Makes a backing file in which every block is written already, so that the file system has
    /// nothing left to allocate or convert.
    pub(super) fn disk(&self, name: &str, size: u64) -> Result<PathBuf, String> {
        let path = self.disks.join(name);
        let fill = || {
            let mut file = File::create_new(&path)?;
            let chunk = vec![0x5a; CHUNK];
            let mut left = size;
            while left > 0 {
                let part = left.min(CHUNK as u64);
                file.write_all(chunk.get(..part as usize).unwrap_or(&chunk))?;
                left -= part;
            }
            file.sync_all()?;
            // Pages in the cache would have to be invalidated by each direct write.
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
            Ok::<(), std::io::Error>(())
        };
        fill().map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(path)
    }

    /// The run succeeded.
    pub(super) fn done(&mut self) {
        self.done = true;
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        if self.keep {
            println!("Kept: {}, {}", self.disks.display(), self.run.display());
            return;
        }
        let _ = std::fs::remove_dir_all(&self.disks);
        if self.done {
            let _ = std::fs::remove_dir_all(&self.run);
        } else {
            eprintln!("logs of the processes: {}", self.run.display());
        }
    }
}

/// Whether the first `size` bytes of two files are the same.
pub(super) fn compare(a: &Path, b: &Path, size: u64) -> Result<(), String> {
    let open = |path: &Path| {
        File::open(path)
            .map(|file| file.take(size))
            .map_err(|e| format!("{}: {e}", path.display()))
    };
    let (mut a, mut b) = (open(a)?, open(b)?);
    let (mut x, mut y) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut at = 0u64;
    while at < size {
        let part = (size - at).min(CHUNK as u64) as usize;
        let (Some(x), Some(y)) = (x.get_mut(..part), y.get_mut(..part)) else {
            break;
        };
        a.read_exact(x).map_err(|e| e.to_string())?;
        b.read_exact(y).map_err(|e| e.to_string())?;
        if let Some(first) = x.iter().zip(y.iter()).position(|(x, y)| x != y) {
            return Err(format!("at byte {}", at + first as u64));
        }
        at += part as u64;
    }
    Ok(())
}
