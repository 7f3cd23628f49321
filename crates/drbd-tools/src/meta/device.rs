//! The metadata device: opened exclusively, read and written in whole 4 KiB blocks (metadata,
//! sections 2.7, 8.3 and 11.1).

#[cfg(test)]
pub(super) mod journal;

use super::args::Args;
use super::console::Console;
use super::failure::{BAD, Failure, USAGE};
use super::mounts;
use drbd_meta::geometry::MdIndex;
use drbd_meta::limits::{BLOCK_BYTES, BLOCK_BYTES_U64, SECTOR_BYTES};
use drbd_meta::{Block, geometry::Geometry};
use rustix::fs::{FallocateFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A block at an address that direct I/O accepts.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
pub(super) struct Page(pub(super) Block);

impl Page {
    pub(super) const ZERO: Self = Self([0; BLOCK_BYTES]);
}

/// An opened metadata device.
pub(super) struct Device {
    file: File,
    pub(super) path: String,
    /// Bytes.
    pub(super) size: u64,
    dry_run: bool,
    verbose: bool,
    /// Where writes are allowed; `None` for anywhere.
    range: Option<Range<u64>>,
    wrote: bool,
}

impl Device {
    /// Opens the device for exclusive use, or with the user's consent for shared use.
    pub(super) fn open(args: &Args, console: &mut Console) -> Result<Self, Failure> {
        let path = &args.meta_dev;
        let shared = matches!(args.index, MdIndex::Indexed(_));
        let failed = |errno: Errno| Failure::new(USAGE, not_opened(path, &errno.into()));
        let mut flags = OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
        if !shared {
            flags |= OFlags::EXCL;
        }
        let mut opened = rustix::fs::open(path.as_str(), flags, Mode::empty());
        if matches!(opened, Err(Errno::BUSY)) && flags.contains(OFlags::EXCL) {
            console.err(&failed(Errno::BUSY).to_string());
            if let Some(point) = fs::metadata(path).ok().as_ref().and_then(mounts::point) {
                console.err(&format!("{path} is mounted on {}", point.display()));
            }
            if args.command.name == "apply-al" && !args.force {
                console.out("Operation canceled.");
                return Err(Failure::Silent(USAGE));
            }
            if !console.confirmed("Exclusive open failed. Do it anyways?") {
                console.out("Operation canceled.");
                return Err(Failure::Silent(USAGE));
            }
            flags.remove(OFlags::EXCL);
            opened = rustix::fs::open(path.as_str(), flags, Mode::empty());
        }
        if matches!(opened, Err(Errno::INVAL)) {
            console.err("could not open with O_DIRECT, retrying without");
            flags.remove(OFlags::DIRECT);
            opened = rustix::fs::open(path.as_str(), flags, Mode::empty());
        }
        let mut file = File::from(opened.map_err(failed)?);
        let kind = rustix::fs::fstat(&file).map_err(failed)?.st_mode;
        match FileType::from_raw_mode(kind) {
            FileType::BlockDevice => {}
            FileType::RegularFile if args.force => claim_file(&file, args)?,
            _ => {
                return Err(Failure::new(
                    USAGE,
                    format!("'{path}' is not a block device!"),
                ));
            }
        }
        // What cannot be opened exclusively is not refused by the kernel.
        let unsure = shared || FileType::from_raw_mode(kind) == FileType::RegularFile;
        let metadata = (unsure && args.command.modifies).then(|| file.metadata());
        if let Some(point) = metadata
            .and_then(Result::ok)
            .as_ref()
            .and_then(mounts::point)
        {
            let text = format!("{path} is mounted on {}: unmount it first", point.display());
            return Err(Failure::new(USAGE, text));
        }
        let size = file
            .seek(SeekFrom::End(0))
            .map_err(|error| Failure::new(USAGE, format!("size of {path} unknown: {error}")))?;
        Ok(Self {
            file,
            path: path.clone(),
            size,
            dry_run: args.dry_run,
            verbose: console.verbose >= 2,
            range: None,
            wrote: false,
        })
    }

    /// Allows writes only inside the metadata of this geometry.
    pub(super) fn restrict_to(&mut self, geometry: &Geometry) {
        let start = geometry.first_sector().saturating_mul(512);
        let length = u64::from(geometry.md_size_sect()).saturating_mul(512);
        self.range = Some(start..start.saturating_add(length));
    }

    /// Allows writes anywhere again, for what lies outside the new metadata.
    pub(super) fn unrestrict(&mut self) {
        self.range = None;
    }

    /// Reads `count` blocks at byte `offset`.
    pub(super) fn read(&self, tag: &str, offset: u64, count: usize) -> Result<Vec<Page>, Failure> {
        let mut pages = vec![Page::ZERO; count];
        let bytes = pages.as_mut_slice().as_mut_bytes();
        if self.verbose {
            let length = bytes.len();
            eprintln!(
                " {tag:<26}: pread({}, ...,{length:>6},{offset:>12})",
                self.path
            );
        }
        let mut done = 0usize;
        while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = offset.saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
            match self.file.read_at(rest, at) {
                Ok(0) => {
                    let text = format!(
                        "confused in {tag}: expected to read {} bytes, actually read {done}",
                        count.saturating_mul(BLOCK_BYTES)
                    );
                    return Err(Failure::new(BAD, text));
                }
                Ok(n) => done = done.saturating_add(n),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Failure::io("reading", self.path.as_str(), error)),
            }
        }
        Ok(pages)
    }

    /// Reads one block.
    pub(super) fn read_block(&self, tag: &str, offset: u64) -> Result<Block, Failure> {
        Ok(self.read(tag, offset, 1)?.first().unwrap_or(&Page::ZERO).0)
    }

    /// Writes blocks at byte `offset`.
    pub(super) fn write(&mut self, tag: &str, offset: u64, pages: &[Page]) -> Result<(), Failure> {
        let bytes = pages.as_bytes();
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.check_range(tag, offset, length)?;
        if self.dry_run || self.verbose {
            let skipped = if self.dry_run {
                " SKIPPED DUE TO DRY-RUN"
            } else {
                ""
            };
            eprintln!(
                " {tag:<26}: pwrite({}, ...,{length:>6},{offset:>12}){skipped}",
                self.path
            );
        }
        if self.dry_run {
            return Ok(());
        }
        self.wrote = true;
        #[cfg(test)]
        journal::wrote(offset, bytes);
        self.file
            .write_all_at(bytes, offset)
            .map_err(|error| Failure::io("writing", self.path.as_str(), error))
    }

    /// Has the device itself write zeros; `false` if it cannot do that.
    pub(super) fn zero_out(&mut self, range: Range<u64>) -> Result<bool, Failure> {
        const PIECE: u64 = 1 << 30;
        self.check_range(
            "zero_out",
            range.start,
            range.end.saturating_sub(range.start),
        )?;
        if self.dry_run {
            return Ok(true);
        }
        // Not every file system knows the first.
        let mut ways = [FallocateFlags::ZERO_RANGE, FallocateFlags::PUNCH_HOLE].into_iter();
        let mut way = ways.next();
        let mut at = range.start;
        while at < range.end {
            let length = range.end.saturating_sub(at).min(PIECE);
            let Some(flags) = way else { return Ok(false) };
            let flags = flags | FallocateFlags::KEEP_SIZE;
            match rustix::fs::fallocate(&self.file, flags, at, length) {
                Ok(()) => {
                    self.wrote = true;
                    #[cfg(test)]
                    journal::zeroed(at, length);
                }
                Err(Errno::INTR) => continue,
                Err(_) => {
                    way = ways.next();
                    continue;
                }
            }
            at = at.saturating_add(length);
        }
        Ok(true)
    }

    /// Fills a range of whole blocks with one byte.
    pub(super) fn fill(&mut self, tag: &str, range: Range<u64>, byte: u8) -> Result<(), Failure> {
        self.repeat(tag, range, [byte; BLOCK_BYTES])
    }

    /// Writes the same block to all of a range.
    fn repeat(&mut self, tag: &str, range: Range<u64>, block: Block) -> Result<(), Failure> {
        const PAGES: u64 = 256;
        let pages = vec![Page(block); 256];
        let mut at = range.start;
        while at < range.end {
            let count = (range.end.saturating_sub(at) / BLOCK_BYTES_U64).min(PAGES);
            let count = usize::try_from(count).unwrap_or(0);
            let Some(piece) = pages.get(..count).filter(|piece| !piece.is_empty()) else {
                break;
            };
            self.write(tag, at, piece)?;
            at = at.saturating_add(u64::try_from(piece.as_bytes().len()).unwrap_or(u64::MAX));
        }
        Ok(())
    }

    /// Writes `block` to every place of the activity log, and makes that durable.
    ///
    /// The first block comes last, by itself: a crash that tears a block leaves either an older
    /// transaction in the first block, or all others fresh, and replay copes with both.
    pub(super) fn initialise_log(
        &mut self,
        geometry: &Geometry,
        block: Block,
    ) -> Result<(), Failure> {
        const TAG: &str = "activity log";
        let start = geometry.al_sector().saturating_mul(SECTOR_BYTES);
        let blocks = u64::from(geometry.striping().blocks());
        let end = start.saturating_add(blocks.saturating_mul(BLOCK_BYTES_U64));
        self.repeat(TAG, start.saturating_add(BLOCK_BYTES_U64)..end, block)?;
        self.sync()?;
        self.write(TAG, start, &[Page(block)])?;
        self.sync()
    }

    /// Makes everything written so far durable.
    pub(super) fn sync(&mut self) -> Result<(), Failure> {
        if !self.wrote {
            return Ok(());
        }
        self.wrote = false;
        #[cfg(test)]
        journal::synced();
        self.file
            .sync_data()
            .map_err(|error| Failure::io("fsync of", self.path.as_str(), error))
    }

    fn check_range(&self, tag: &str, offset: u64, length: u64) -> Result<(), Failure> {
        let Some(range) = &self.range else {
            return Ok(());
        };
        let end = offset.checked_add(length);
        if offset >= range.start && end.is_some_and(|end| end <= range.end) {
            return Ok(());
        }
        let text = format!(
            "{tag}: offset+count ({offset}+{length}) not in meta data area range [{}; {}], aborted",
            range.start, range.end
        );
        Err(Failure::new(BAD, text))
    }
}

/// What is said about a file that cannot be opened: the system's words, without its number.
pub(super) fn not_opened(path: impl fmt::Display, error: &io::Error) -> String {
    let text = error.to_string();
    let reason = text.split(" (os error").next().unwrap_or_default();
    format!("open({path}) failed: {reason}")
}

/// A regular file has no exclusive open. Whoever uses one as a backing or metadata device holds an
/// exclusive `flock` on it, and so does this tool; with an index the file is shared like a device.
fn claim_file(file: &File, args: &Args) -> Result<(), Failure> {
    if matches!(args.index, MdIndex::Indexed(_)) {
        return Ok(());
    }
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(Failure::new(
            USAGE,
            format!(
                "'{}' is in use: a node or another tool holds its lock",
                args.meta_dev
            ),
        )),
        Err(errno) => Err(Failure::io(
            "locking",
            args.meta_dev.as_str(),
            std::io::Error::from(errno),
        )),
    }
}
