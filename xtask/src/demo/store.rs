//! What the application stores: items of known content, as files of ext4 or as blocks.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use drbd_testkit::rng::{Rng, hash};
use drbd_testkit::{Context, Error, Node, Place, Result, Volume};
use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// Size of an item in bytes.
pub(crate) const ITEM: usize = 1 << 20;
/// Bytes at the start of the device that blocks leave alone, so that an item is where it is expected.
const FIRST: u64 = 1 << 20;
const MAKE_FS: &str = "mkfs.ext4";

/// An item whose fsync or flush has returned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Item {
    pub(crate) number: u32,
    pub(crate) hash: u64,
    /// When it was durable.
    pub(crate) at: Instant,
    /// How long fsync took.
    pub(crate) sync: Duration,
}

/// The program that is missing for ext4, if one is.
pub(crate) fn missing_for_ext4() -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/sbin", "/usr/sbin"].map(PathBuf::from));
    let found = dirs.map(|d| d.join(MAKE_FS)).any(|p| p.is_file());
    (!found).then(|| format!("the program {MAKE_FS} (package e2fsprogs)"))
}

/// Content of an item.
fn content(number: u32) -> Vec<u8> {
    let mut bytes = vec![0; ITEM];
    Rng::new(u64::from(number) ^ 0x6465_6d6f).fill(&mut bytes);
    bytes
}

/// Where items are.
#[derive(Debug, Clone)]
pub(crate) enum Store {
    /// Files in a mounted file system.
    Files { place: Arc<Place>, at: PathBuf },
    /// Blocks of an export.
    Blocks,
}

/// Makes an ext4 file system on the device of a node.
pub(crate) fn make_fs(node: &Node) -> Result<()> {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(MAKE_FS);
    command.env("PATH", format!("{path}:/sbin:/usr/sbin"));
    command
        .args(["-q", "-F", "-E", "nodiscard"])
        .arg(node.device(0));
    node.run(command, Duration::from_secs(60))?.ok().map(drop)
}

/// Mounts the file system of a node's device where only this node sees it.
pub(crate) fn mount_fs(node: &Node) -> Result<Store> {
    let at = node.dir().join("mnt");
    std::fs::create_dir_all(&at).context(at.display())?;
    let device = std::fs::canonicalize(node.device(0)).context(node.device(0).display())?;
    let (from, to) = (device.clone(), at.clone());
    let flags = MountFlags::NOATIME;
    node.place()
        .run(move || mount(&from, &to, "ext4", flags, None::<&std::ffi::CStr>))?
        .context(format!("cannot mount {}", device.display()))?;
    Ok(Store::Files {
        place: Arc::clone(node.place()),
        at,
    })
}

/// Unmounts it; lazily if the device under it is gone.
pub(crate) fn unmount_fs(store: &Store, lazily: bool) -> Result<()> {
    let Store::Files { place, at } = store else {
        return Ok(());
    };
    let flags = if lazily {
        UnmountFlags::DETACH
    } else {
        UnmountFlags::empty()
    };
    let what = format!("cannot unmount {}", at.display());
    let at = at.clone();
    place.run(move || unmount(&at, flags))?.context(what)
}

fn file_name(number: u32) -> String {
    format!("file-{number:04}")
}

fn name(dir: &Path, number: u32) -> PathBuf {
    dir.join(file_name(number))
}

fn offset(number: u32) -> u64 {
    FIRST + u64::from(number) * ITEM as u64
}

/// What the application has open.
enum Target {
    /// The root of the file system. Not its path: once that of a killed node is unmounted, the
    /// path names the directory below the mount point, where an fsync proves nothing.
    Files(File),
    Blocks(Volume),
}

impl Target {
    fn open(store: &Store, node: &Node) -> Result<Target> {
        match store {
            Store::Files { place, at } => {
                let path = at.clone();
                let dir = place.run(move || File::open(&path))?;
                Ok(Target::Files(dir.context(at.display())?))
            }
            Store::Blocks => Ok(Target::Blocks(node.open(0)?)),
        }
    }

    /// Stores an item; how long it took to make it durable.
    fn write(&mut self, number: u32, bytes: &[u8]) -> Result<Duration> {
        match self {
            Target::Files(dir) => write_file(dir, number, bytes).context(file_name(number)),
            Target::Blocks(volume) => write_blocks(volume, number, bytes),
        }
    }
}

fn write_file(dir: &File, number: u32, bytes: &[u8]) -> std::io::Result<Duration> {
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC;
    let file = openat(dir, file_name(number), flags, Mode::from_raw_mode(0o644))?;
    let mut file = File::from(file);
    file.write_all(bytes)?;
    let start = Instant::now();
    file.sync_all()?;
    // The name is durable as well.
    dir.sync_all()?;
    Ok(start.elapsed())
}

fn write_blocks(volume: &mut Volume, number: u32, bytes: &[u8]) -> Result<Duration> {
    let mut at = offset(number);
    for piece in bytes.chunks(256 << 10) {
        volume.write(at, piece)?;
        at += piece.len() as u64;
    }
    let start = Instant::now();
    volume.flush()?;
    Ok(start.elapsed())
}

/// A thread that writes items; each is told of when it is durable.
pub(crate) struct Writer {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Option<Error>>,
}

impl Writer {
    /// Writes these items, at most `rate` of them in a second.
    pub(crate) fn start(
        store: &Store,
        node: &Node,
        numbers: std::ops::Range<u32>,
        rate: u32,
        done: Sender<Item>,
    ) -> Result<Writer> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let pace = Duration::from_secs(1) / rate.max(1);
        let mut target = Target::open(store, node)?;
        let thread = node.place().thread(move || {
            let mut next = Instant::now();
            for number in numbers {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let bytes = content(number);
                let sync = match target.write(number, &bytes) {
                    Ok(sync) => sync,
                    Err(error) => return Some(error),
                };
                let item = Item {
                    number,
                    hash: hash(&bytes),
                    at: Instant::now(),
                    sync,
                };
                let _ = done.send(item);
                next = (next + pace).max(Instant::now().checked_sub(pace).unwrap_or(next));
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            None
        })?;
        Ok(Writer { stop, thread })
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for its end; the error that was in its way.
    pub(crate) fn stop(self, limit: Duration) -> Result<Option<Error>> {
        self.stop.store(true, Ordering::Relaxed);
        drbd_testkit::wait::until("the application notices", limit, || {
            Ok(self.thread.is_finished().then_some(()))
        })?;
        self.thread
            .join()
            .map_err(|_| Error::new("the application panicked"))
    }
}

/// Reads items back and compares.
pub(crate) fn check(store: &Store, node: &Node, items: &[Item]) -> Result<()> {
    let mut lost = VecDeque::new();
    let mut volume = match store {
        Store::Files { .. } => None,
        Store::Blocks => Some(node.open(0)?),
    };
    for item in items {
        let found = match (store, &mut volume) {
            (Store::Files { place, at }, _) => {
                let path = name(at, item.number);
                place.run(move || {
                    let mut bytes = Vec::new();
                    let read = File::open(&path).and_then(|mut f| f.read_to_end(&mut bytes));
                    read.map(|_| hash(&bytes)).context(path.display())
                })?
            }
            (Store::Blocks, Some(volume)) => {
                volume.read(offset(item.number), ITEM).map(|b| hash(&b))
            }
            (Store::Blocks, None) => Err(Error::new("not open")),
        };
        match found {
            Ok(found) if found == item.hash => {}
            Ok(_) => lost.push_back(format!("item {} has other content", item.number)),
            Err(error) => lost.push_back(error.to_string()),
        }
    }
    if lost.is_empty() {
        return Ok(());
    }
    let some = lost.iter().take(4).cloned().collect::<Vec<_>>().join("; ");
    Err(Error::new(format!(
        "{} of {} items are lost: {some}",
        lost.len(),
        items.len()
    )))
}
