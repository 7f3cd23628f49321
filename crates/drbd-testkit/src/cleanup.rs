//! Taking everything away again.
//!
//! Whoever makes something that outlives a process records it here first: child processes and
//! directories. They are taken away by their owners in the ordinary way, and by [`now`] when a
//! signal ends the program. A program that was killed leaves its directories and, under a daemon
//! that died with it, loop devices; [`stale`] finds both by the process id in their names.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::{Context, Result, loopdev};

/// What every directory of ours is called, followed by the process id and a number.
const PREFIX: &str = "drbd-kit-";

/// Whether the program is being ended by a signal.
static ENDING: AtomicBool = AtomicBool::new(false);
static NUMBER: AtomicU64 = AtomicU64::new(0);

#[derive(Debug, Default)]
struct Made {
    processes: Vec<Pid>,
    groups: Vec<Pid>,
    directories: Vec<PathBuf>,
}

fn made() -> MutexGuard<'static, Made> {
    static MADE: OnceLock<Mutex<Made>> = OnceLock::new();
    MADE.get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

/// Records a child process.
pub(crate) fn add_process(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        made().processes.push(pid);
    }
}

/// Forgets a child process, which has ended. Call it before the number can be used again: before
/// waiting for the child.
pub(crate) fn remove_process(pid: u32) {
    made()
        .processes
        .retain(|p| p.as_raw_nonzero().get().cast_unsigned() != pid);
}

/// Records a child that is the first of a process group, which [`now`] kills as a whole.
pub fn add_group(pid: u32) {
    once();
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        made().groups.push(pid);
    }
}

/// Forgets a process group that has been killed; before its first process is waited for.
pub fn remove_group(pid: u32) {
    made()
        .groups
        .retain(|p| p.as_raw_nonzero().get().cast_unsigned() != pid);
}

/// A directory that is removed with everything in it.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Makes a new directory below `base`, which is made as well.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(base: &Path) -> Result<Directory> {
        once();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = base.join(format!("{PREFIX}{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).context(path.display())?;
        made().directories.push(path.clone());
        Ok(Directory { path })
    }

    /// A directory with a short name, for sockets.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn short() -> Result<Directory> {
        Directory::new(Path::new("/tmp"))
    }

    /// A directory for files that stand for disks: not in memory, if there is another place.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn for_disks() -> Result<Directory> {
        Directory::new(&disks())
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        made().directories.retain(|p| *p != self.path);
        remove(&self.path);
    }
}

fn disks() -> PathBuf {
    if let Some(given) = std::env::var_os("DRBD_TEST_DIR") {
        return given.into();
    }
    // The build's directory: programs lie in PROFILE, tests in PROFILE/deps.
    let target = std::env::current_exe().ok().and_then(|exe| {
        let dir = exe.parent()?;
        let profile = if dir.ends_with("deps") {
            dir.parent()?
        } else {
            dir
        };
        Some(profile.parent()?.join("kit"))
    });
    target.unwrap_or_else(std::env::temp_dir)
}

fn remove(path: &Path) {
    loopdev::detach_below(path);
    if std::fs::remove_dir_all(path).is_err() {
        // A file system is still mounted on something below.
        unmount_below(path);
        let _ = std::fs::remove_dir_all(path);
    }
    // The common directory goes with the last of ours.
    if let Some(parent) = path.parent().filter(|p| p.ends_with("kit")) {
        let _ = std::fs::remove_dir(parent);
    }
}

/// Unmounts everything below a directory, in the name space of the program.
fn unmount_below(path: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for line in mounts.lines().rev() {
        let at = line.split(' ').nth(4).map(Path::new);
        if let Some(at) = at.filter(|at| at.starts_with(path)) {
            let _ = rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// Removes what killed programs have left. Done once, before the first thing is made.
pub fn stale() {
    for base in [PathBuf::from("/tmp"), disks()] {
        let Ok(entries) = std::fs::read_dir(&base) else {
            continue;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let owner = name.to_str().and_then(|n| {
                n.strip_prefix(PREFIX)?
                    .split_once('-')?
                    .0
                    .parse::<u32>()
                    .ok()
            });
            if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                remove(&entry.path());
            }
        }
    }
}

/// Takes everything away that is recorded: kills processes, removes directories.
pub fn now() {
    let (mut processes, groups, directories) = {
        let mut made = made();
        (
            std::mem::take(&mut made.processes),
            std::mem::take(&mut made.groups),
            std::mem::take(&mut made.directories),
        )
    };
    // Known by the names of their files, which are gone with the name spaces.
    let loops: Vec<_> = directories
        .iter()
        .flat_map(|dir| loopdev::below(dir))
        .collect();
    for pid in &processes {
        let _ = kill_process(*pid, Signal::KILL);
    }
    for pid in &groups {
        let _ = kill_process_group(*pid, Signal::KILL);
    }
    processes.extend(groups);
    for pid in processes {
        // Until it has let go of its files; its parent's thread may be the one that reaps it.
        for _ in 0..100 {
            match std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())) {
                Ok(stat) if !stat.contains(") Z ") => {}
                _ => break,
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
    for (device, _) in loops {
        loopdev::detach(&device);
    }
    for path in directories.iter().rev() {
        remove(path);
    }
}

/// Whether a signal is ending the program: errors are then of no interest.
pub fn ending() -> bool {
    ENDING.load(Ordering::Relaxed)
}

fn once() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        stale();
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        match signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM]) {
            Ok(mut signals) => {
                std::thread::spawn(move || {
                    if let Some(signal) = signals.forever().next() {
                        ENDING.store(true, Ordering::Relaxed);
                        eprintln!("\ninterrupted: cleaning up");
                        now();
                        std::process::exit(128_i32.saturating_add(signal));
                    }
                });
            }
            Err(error) => eprintln!("signals will not be noticed: {error}"),
        }
    });
}
