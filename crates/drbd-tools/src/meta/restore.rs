//! `restore-md` and `verify-dump`: metadata from its dump (metadata, section 9.5).

use super::args::{self, Args};
use super::console::Console;
use super::device::{Device, Page};
use super::dump_text::{BitmapSink, Nowhere, Parser};
use super::existing;
use super::failure::{BAD, FAILED, Failure, OK, USAGE};
use super::store::{self, Store};
use drbd_meta::bitmap::BitmapLayout;
use drbd_meta::geometry::Geometry;
use std::fs::File;
use std::io::{self, Read};
use zerocopy::IntoBytes;

/// The text to read: the file named as argument, else standard input.
pub(super) fn read_dump(args: &Args) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    match args.rest.first() {
        Some(path) => File::open(path)
            .map_err(|_| Failure::new(USAGE, format!("open of '{path}' failed.")))?
            .read_to_end(&mut text)
            .map_err(|error| Failure::io("reading", path.as_str(), error))?,
        None => io::stdin()
            .lock()
            .read_to_end(&mut text)
            .map_err(|error| Failure::io("reading", "standard input", error))?,
    };
    Ok(text)
}

/// Checks the whole text; touches no device.
pub(super) fn verify(args: &Args, text: &[u8]) -> Result<(), Failure> {
    let mut parser = Parser::new(text);
    let header = parser.header(args.format)?;
    parser.bitmaps(args.format, header.max_peers, &mut Nowhere)
}

/// Writes the metadata that the dump describes. The dump is checked completely before anything is
/// written. Metadata that is replaced is first made such that everything counts as out of sync, so
/// that a crash leaves none with a wrong bitmap.
pub(super) fn restore(
    args: &Args,
    text: &[u8],
    mut store: Store,
    console: &mut Console,
) -> Result<u8, Failure> {
    let valid = store.found.is_some() || store.at_last_known.is_some();
    if valid && !console.confirmed("Valid meta-data in place, overwrite?") {
        return Err(Failure::Silent(FAILED));
    }
    let mut parser = Parser::new(text);
    let header = parser.header(args.format)?;
    let striping = match args::striping(args)? {
        Some(striping) if striping != header.striping => {
            console.err("override activity log striping from commandline");
            striping
        }
        _ => header.striping,
    };
    console.err("reinitializing");
    let geometry = Geometry::new(
        store.placement,
        header.max_peers,
        header.block_size,
        striping,
    )
    .map_err(|error| Failure::new(BAD, error.to_string()))?;
    existing::check(args, &store.device, &geometry, console)?;
    let record = header.record(args.format, &geometry);
    let record = store::clip(record, &geometry, console);

    store.device.restrict_to(&geometry);
    if store.has_any()? {
        store.save(&record.unfinished(), &geometry, console)?;
    }
    // A dump is made of clean metadata only: the activity log has nothing to tell.
    store
        .device
        .initialise_log(&geometry, args.format.fresh_log_block())?;
    let layout = store::bitmap(&record)?;
    let start = geometry.bitmap_sector().saturating_mul(512);
    let mut sink = Writer::new(&mut store.device, layout, start);
    parser.bitmaps(args.format, header.max_peers, &mut sink)?;
    if sink.truncated {
        console.err("Bitmap info too large, truncated!");
    }
    store.save(&record, &geometry, console)?;
    console.out("Successfully restored meta data");
    Ok(OK)
}

/// Writes slot after slot into the interleaved bitmap.
struct Writer<'a> {
    device: &'a mut Device,
    layout: BitmapLayout,
    start: u64,
    /// Groups (a word of each slot) per piece; a piece is whole pages.
    groups: u64,
    /// The piece in memory: its number and content.
    piece: Option<(u64, Vec<Page>)>,
    /// The slot's next word.
    word: u64,
    truncated: bool,
}

impl<'a> Writer<'a> {
    const PAGES_PER_SLOT: u64 = 8;

    fn new(device: &'a mut Device, layout: BitmapLayout, start: u64) -> Self {
        let groups = Self::PAGES_PER_SLOT.saturating_mul(1024);
        Self {
            device,
            layout,
            start,
            groups,
            piece: None,
            word: 0,
            truncated: false,
        }
    }

    /// Groups of the area, the last perhaps not of all slots.
    fn all_groups(&self) -> u64 {
        (self.layout.area_bytes() / 4).div_ceil(self.layout.slots().into())
    }

    fn offset(&self, piece: u64) -> u64 {
        let pages = Self::PAGES_PER_SLOT.saturating_mul(self.layout.slots().into());
        self.start
            .saturating_add(piece.saturating_mul(pages).saturating_mul(4096))
    }

    fn flush(&mut self) -> Result<(), Failure> {
        let Some((piece, pages)) = self.piece.take() else {
            return Ok(());
        };
        let offset = self.offset(piece);
        self.device.write("bitmap", offset, &pages)
    }

    /// Makes the piece of the next word the one in memory.
    fn load(&mut self, slot: u8) -> Result<(), Failure> {
        let wanted = self.word.checked_div(self.groups).unwrap_or(0);
        if self
            .piece
            .as_ref()
            .is_some_and(|(piece, _)| *piece == wanted)
        {
            return Ok(());
        }
        self.flush()?;
        let per_piece = Self::PAGES_PER_SLOT.saturating_mul(self.layout.slots().into());
        let before = wanted.saturating_mul(per_piece);
        let count = self.layout.pages().saturating_sub(before).min(per_piece);
        let count = usize::try_from(count).unwrap_or(0);
        let pages = if slot == 0 {
            vec![Page::ZERO; count]
        } else {
            self.device.read("bitmap", self.offset(wanted), count)?
        };
        self.piece = Some((wanted, pages));
        Ok(())
    }
}

impl BitmapSink for Writer<'_> {
    fn words(&mut self, slot: u8, value: u32, mut count: u64) -> Result<bool, Failure> {
        let slots = u64::from(self.layout.slots());
        while count > 0 {
            if self.word >= self.all_groups() {
                // Of a last group that is not complete some slots have no word.
                self.truncated |= value != 0 || self.word > self.all_groups();
                return Ok(false);
            }
            self.load(slot)?;
            let Some((_, pages)) = &mut self.piece else {
                return Ok(false);
            };
            let (words, _) = pages.as_mut_slice().as_mut_bytes().as_chunks_mut::<4>();
            let within = self.word.checked_rem(self.groups).unwrap_or(0);
            let here = self.groups.saturating_sub(within).min(count);
            let first = within.saturating_mul(slots).saturating_add(slot.into());
            let places = words
                .iter_mut()
                .skip(usize::try_from(first).unwrap_or(usize::MAX))
                .step_by(usize::from(self.layout.slots()).max(1));
            for place in places.take(usize::try_from(here).unwrap_or(usize::MAX)) {
                *place = value.to_le_bytes();
            }
            self.word = self.word.saturating_add(here);
            count = count.saturating_sub(here);
        }
        Ok(true)
    }

    fn end(&mut self, slot: u8) -> Result<(), Failure> {
        // What the dump does not show is zero.
        let left = self.all_groups().saturating_sub(self.word);
        self.words(slot, 0, left)?;
        self.flush()?;
        self.word = 0;
        Ok(())
    }
}
