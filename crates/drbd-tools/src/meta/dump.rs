//! `dump-md`: the metadata as text (metadata, section 10.1).

mod log;

use super::args::{self, Args};
use super::console::Console;
use super::device::{Device, Page};
use super::failure::{FAILED, Failure, OK};
use super::record::{Record, Version};
use super::store::{self, Store};
use drbd_meta::bitmap::BitmapLayout;
use drbd_meta::geometry::Geometry;
use drbd_meta::superblock::{Format, Superblock, V07Superblock};
use std::io::{self, BufWriter, Write};

/// Words of a line: four 64-bit values.
const LINE_WORDS: u64 = 8;
/// Shortest run of equal words that is written as a repetition.
const RUN_WORDS: u64 = 16;

pub(super) fn dump(args: &Args, mut store: Store, console: &Console) -> Result<u8, Failure> {
    let mut found = store.found.take();
    let moved = match (&found, store.at_last_known.take()) {
        (None, Some((record, geometry))) => {
            found = Some((store::clip(record, &geometry, console), geometry));
            Some(resized(&store, &geometry))
        }
        _ => None,
    };
    let (record, geometry) = found.ok_or_else(args::no_valid_metadata)?;
    if !record.is_clean() {
        console.err("Found meta data is \"unclean\", please apply-al first");
        if !args.force {
            return Err(Failure::Silent(FAILED));
        }
    }
    let mut output = console.output();
    let out = BufWriter::with_capacity(1 << 16, &mut *output);
    let mut dump = Dump {
        out,
        record: &record,
        geometry: &geometry,
        resized: moved.unwrap_or_default(),
    };
    let written = dump
        .head(args)
        .and_then(|()| dump.body())
        .map_err(DumpError::Write);
    let written = written
        .and_then(|()| dump.bitmaps(&store.device))
        .and_then(|()| dump.log(&store.device, console));
    match written {
        Ok(()) => Ok(OK),
        Err(DumpError::Read(failure)) => Err(failure),
        // Nobody reads on; that is the reader's choice.
        Err(DumpError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(OK),
        Err(DumpError::Write(error)) => Err(Failure::io("writing", "standard output", error)),
    }
}

/// Says that the metadata lies where the device once ended.
fn resized(store: &Store, old: &Geometry) -> String {
    let path = &store.device.path;
    format!(
        "#\n\
         ### Device seems to have been resized!\n\
         ### dumping meta data from the last known position\n\
         ### current size of {path}: {} byte\n\
         ### expected position of meta data:\n\
         ## md_offset {}\n\
         ### last known size of {path}: {} byte\n\
         ### adjusted position of meta data:\n",
        store.device.size,
        store.md_offset,
        old.placement().device_size
    )
}

enum DumpError {
    Read(Failure),
    Write(io::Error),
}

impl From<io::Error> for DumpError {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

struct Dump<'a, W> {
    out: W,
    record: &'a Record,
    geometry: &'a Geometry,
    /// Comments on metadata that is not where it belongs.
    resized: String,
}

impl<W: Write> Dump<'_, W> {
    fn head(&mut self, args: &Args) -> io::Result<()> {
        writeln!(self.out, "# DRBD meta data dump")?;
        let now = jiff::Zoned::now();
        let seconds = now.timestamp().as_second();
        writeln!(
            self.out,
            "# {} [{seconds}]",
            now.strftime("%Y-%m-%d %H:%M:%S %z")
        )?;
        let host = rustix::system::uname();
        writeln!(
            self.out,
            "# {}> {}",
            host.nodename().to_string_lossy(),
            args.line
        )?;
        writeln!(self.out, "#\n\nversion \"{}\";\n", self.record.version())?;
        if !self.record.is_clean() {
            writeln!(
                self.out,
                "This_is_an_unclean_meta_data_dump._Don't_trust_the_bitmap.\n\
                 # You should \"apply-al\" first, if you plan to restore this.\n"
            )?;
        }
        Ok(())
    }

    fn body(&mut self) -> io::Result<()> {
        let size = match self.record {
            Record::V07(superblock) => superblock.md_size_sect,
            Record::Uuids(superblock) => superblock.md_size_sect,
        };
        if self.record.version() == Version::V09 {
            writeln!(self.out, "max-peers {};", self.record.slots())?;
        }
        writeln!(self.out, "# md_size_sect {size}")?;
        self.out.write_all(self.resized.as_bytes())?;
        for (name, sector) in [
            ("md_offset", self.geometry.superblock_sector()),
            ("al_offset", self.geometry.al_sector()),
            ("bm_offset", self.geometry.bitmap_sector()),
        ] {
            writeln!(self.out, "# {name} {}", sector.saturating_mul(512))?;
        }
        writeln!(self.out)?;
        match self.record {
            Record::V07(superblock) => self.counters(superblock),
            Record::Uuids(superblock) => self.uuids(superblock),
        }
    }

    fn counters(&mut self, sb: &V07Superblock) -> io::Result<()> {
        let counters = [sb.flags, sb.human, sb.timeout, sb.connected, sb.arbitrary];
        writeln!(self.out, "gc {{")?;
        write!(self.out, "   ")?;
        for counter in counters {
            write!(self.out, " {};", counter.cast_signed())?;
        }
        writeln!(self.out, "\n}}")?;
        writeln!(self.out, "# al-extents {};", sb.al_nr_extents)?;
        writeln!(self.out, "la-size-sect {};", sb.effective_size)
    }

    fn uuids(&mut self, sb: &Superblock) -> io::Result<()> {
        let out = &mut self.out;
        let v09 = sb.magic.format() == Format::V09;
        if v09 {
            writeln!(out, "node-id {};", sb.node_id.map_or(-1, i16::from))?;
            writeln!(out, "current-uuid 0x{:016X};", sb.current_uuid)?;
            writeln!(out, "flags 0x{:08X};", sb.flags.bits())?;
            // A comment, because tools before 9.24 know no such line. Our own restore-md reads it.
            if sb.members != 0 {
                writeln!(out, "# members 0x{:016X};", sb.members)?;
            }
            for (node, peer) in sb.peers.iter().enumerate() {
                writeln!(out, "peer[{node}] {{")?;
                writeln!(
                    out,
                    "    bitmap-index {};",
                    peer.bitmap_index.map_or(-1, i16::from)
                )?;
                writeln!(out, "    bitmap-uuid 0x{:016X};", peer.bitmap_uuid)?;
                writeln!(out, "    bitmap-dagtag 0x{:016X};", peer.bitmap_dagtag)?;
                write!(out, "    flags 0x{:08X};", peer.flags.bits())?;
                if !peer.flags.is_empty() {
                    write!(out, " # {}", peer.flags)?;
                }
                writeln!(out, "\n}}")?;
            }
            writeln!(out, "history-uuids {{")?;
            for four in sb.history.chunks(4) {
                write!(out, "       ")?;
                for uuid in four {
                    write!(out, " 0x{uuid:016X};")?;
                }
                writeln!(out)?;
            }
            writeln!(out, "}}")?;
        } else {
            let [peer, ..] = &sb.peers;
            let [younger, older, ..] = sb.history;
            writeln!(
                out,
                "uuid {{\n    0x{:016X}; 0x{:016X}; 0x{younger:016X}; 0x{older:016X};",
                sb.current_uuid, peer.bitmap_uuid
            )?;
            writeln!(out, "    flags 0x{:08X};\n}}", sb.flags.bits())?;
        }
        writeln!(out, "# al-extents {};", sb.al_nr_extents)?;
        writeln!(out, "la-size-sect {};", sb.effective_size)?;
        writeln!(out, "bm-byte-per-bit {};", sb.block_size.bytes())?;
        writeln!(out, "device-uuid 0x{:016X};", sb.device_uuid)?;
        writeln!(out, "la-peer-max-bio-size {};", sb.la_peer_max_bio_size)?;
        writeln!(out, "al-stripes {};", sb.striping.stripes())?;
        writeln!(out, "al-stripe-size-4k {};", sb.striping.stripe_size_4k())
    }

    /// The activity log, for those who ask for it very often.
    fn log(&mut self, device: &Device, console: &Console) -> Result<(), DumpError> {
        const VERY_OFTEN: u32 = 10;
        if console.verbose >= VERY_OFTEN {
            let text = log::blocks(device, self.geometry).map_err(DumpError::Read)?;
            self.out.write_all(text.as_bytes())?;
            self.out.flush()?;
        }
        Ok(())
    }

    fn bitmaps(&mut self, device: &Device) -> Result<(), DumpError> {
        let layout = store::bitmap(self.record).map_err(DumpError::Read)?;
        writeln!(self.out, "# bm-bytes {};", layout.area_bytes())?;
        let start = self.geometry.bitmap_sector().saturating_mul(512);
        let mut bits_set = 0u64;
        for slot in 0..layout.slots() {
            match self.record.version() {
                Version::V09 => writeln!(self.out, "bitmap[{slot}] {{")?,
                Version::V07 | Version::V08 => writeln!(self.out, "bm {{")?,
            }
            let words = Words::new(device, start, layout, slot);
            bits_set = bits_set.saturating_add(self.words(Runs::new(words), &layout)?);
            writeln!(self.out, "}}")?;
        }
        writeln!(self.out, "# bits-set {bits_set};")?;
        self.out.flush()?;
        Ok(())
    }

    /// Writes one slot; returns the number of bits set in it.
    fn words(
        &mut self,
        mut runs: Runs<impl Iterator<Item = Result<u32, Failure>>>,
        layout: &BitmapLayout,
    ) -> Result<u64, DumpError> {
        let mut bits_set = 0u64;
        // Number of the line's first word in the slot.
        let mut position = 0u64;
        while let Some((value, count)) = runs.next_run()? {
            let interleaved = position.saturating_mul(layout.slots().into());
            if interleaved % 64 == 0 {
                writeln!(self.out, "   # at {}kB", interleaved.saturating_mul(128))?;
            }
            if count >= RUN_WORDS {
                let words = count - count % LINE_WORDS;
                runs.consume(words);
                bits_set = bits_set.saturating_add(u64::from(value.count_ones()) * words);
                writeln!(
                    self.out,
                    "    {} times 0x{value:08X}{value:08X};",
                    words / 2
                )?;
                position = position.saturating_add(words);
                continue;
            }
            write!(self.out, "   ")?;
            for _ in 0..LINE_WORDS / 2 {
                let Some(low) = runs.next_word()? else { break };
                // A final word without a partner to make 64 bits is not shown.
                let Some(high) = runs.next_word()? else { break };
                bits_set = bits_set.saturating_add((low.count_ones() + high.count_ones()).into());
                write!(self.out, " 0x{high:08X}{low:08X};")?;
            }
            writeln!(self.out)?;
            position = position.saturating_add(LINE_WORDS);
        }
        Ok(bits_set)
    }
}

/// The words of one slot, read from the device piece by piece.
struct Words<'a> {
    device: &'a Device,
    start: u64,
    layout: BitmapLayout,
    slot: u8,
    page: u64,
    pages: Vec<Page>,
    /// Which of `pages` is next.
    at: usize,
    /// The words of the current page, last first.
    words: Vec<u32>,
    failed: bool,
}

impl<'a> Words<'a> {
    /// Pages read at a time.
    const PIECE: u64 = 256;

    fn new(device: &'a Device, start: u64, layout: BitmapLayout, slot: u8) -> Self {
        let (pages, words) = (Vec::new(), Vec::new());
        Self {
            device,
            start,
            layout,
            slot,
            page: 0,
            pages,
            at: 0,
            words,
            failed: false,
        }
    }

    fn read_on(&mut self) -> Result<bool, Failure> {
        if self.page >= self.layout.pages() {
            return Ok(false);
        }
        if self.at >= self.pages.len() {
            let left = self
                .layout
                .pages()
                .saturating_sub(self.page)
                .min(Self::PIECE);
            let offset = self.start.saturating_add(self.page.saturating_mul(4096));
            self.pages = self
                .device
                .read("bitmap", offset, usize::try_from(left).unwrap_or(1))?;
            self.at = 0;
        }
        let words = self.layout.slot_words(self.page, self.slot);
        if let (Some(page), Some(words)) = (self.pages.get(self.at), words) {
            self.words.extend(words.words(&page.0));
            self.words.reverse();
        }
        self.at = self.at.saturating_add(1);
        self.page = self.page.saturating_add(1);
        Ok(true)
    }
}

impl Iterator for Words<'_> {
    type Item = Result<u32, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.words.is_empty() && !self.failed {
            match self.read_on() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(failure) => {
                    self.failed = true;
                    return Some(Err(failure));
                }
            }
        }
        self.words.pop().map(Ok)
    }
}

/// Groups words into runs of equal ones.
struct Runs<I> {
    words: I,
    run: Option<(u32, u64)>,
    next: Option<u32>,
}

impl<I: Iterator<Item = Result<u32, Failure>>> Runs<I> {
    fn new(words: I) -> Self {
        Self {
            words,
            run: None,
            next: None,
        }
    }

    /// The value of the next words and how many of them are equal.
    fn next_run(&mut self) -> Result<Option<(u32, u64)>, DumpError> {
        let (value, mut count) = match self.run {
            Some((value, count)) if count > 0 => (value, count),
            _ => {
                let first = match self.next.take() {
                    Some(word) => Some(word),
                    None => self.words.next().transpose().map_err(DumpError::Read)?,
                };
                let Some(first) = first else { return Ok(None) };
                (first, 1)
            }
        };
        while self.next.is_none() {
            match self.words.next().transpose().map_err(DumpError::Read)? {
                Some(word) if word == value => count = count.saturating_add(1),
                Some(word) => self.next = Some(word),
                None => break,
            }
        }
        self.run = Some((value, count));
        Ok(Some((value, count)))
    }

    fn consume(&mut self, words: u64) {
        if let Some((_, count)) = &mut self.run {
            *count = count.saturating_sub(words);
        }
    }

    fn next_word(&mut self) -> Result<Option<u32>, DumpError> {
        let Some((value, _)) = self.next_run()? else {
            return Ok(None);
        };
        self.consume(1);
        Ok(Some(value))
    }
}
