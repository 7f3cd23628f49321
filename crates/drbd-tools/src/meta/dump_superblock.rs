//! `dump-superblock`: the 4 KiB as they are, valid or not (metadata, section 10.4).

mod json;

use super::args::{Args, OutputFormat};
use super::console::Console;
use super::failure::{Failure, OK};
use super::record::{Record, Version};
use super::store::Store;
use drbd_meta::Block;
use drbd_meta::geometry::Geometry;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

/// Valid, but at the last known location.
const AT_LAST_KNOWN: u8 = 2;
/// Not valid; shown all the same.
const NOT_VALID: u8 = 3;
/// No JSON for this format.
const NO_JSON: u8 = 4;

/// What was found where.
struct Shown {
    block: Block,
    offset: u64,
    validity: Validity,
    looks_like: Option<Version>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Validity {
    Valid,
    AtLastKnown,
    NotValid,
}

pub(super) fn dump(args: &Args, store: Store, console: &Console) -> Result<u8, Failure> {
    let (offset, validity) = match (&store.found, &store.at_last_known) {
        (Some((_, geometry)), _) => (superblock_offset(geometry), Validity::Valid),
        (None, Some((_, geometry))) => (superblock_offset(geometry), Validity::AtLastKnown),
        (None, None) => (store.md_offset, Validity::NotValid),
    };
    let block = store.device.read_block("superblock", offset)?;
    let looks_like = Version::ALL.into_iter().find(|version| {
        !matches!(Record::parse(*version, &block, store.placement), Err(reason) if reason.is_other())
    });
    let shown = Shown {
        block,
        offset,
        validity,
        looks_like,
    };
    let hex = args.command.name == "hexdump-superblock";
    let format = match args.output_format {
        OutputFormat::Auto if hex || io::stdout().is_terminal() => OutputFormat::Hex,
        OutputFormat::Auto => OutputFormat::Binary,
        format => format,
    };
    let text = match format {
        OutputFormat::Json => {
            let Some(attachable) = args.format.format() else {
                console.err(&format!("there is no json output of {}", args.format));
                return Ok(NO_JSON);
            };
            json::text(attachable, &shown, &store.device)?.into_bytes()
        }
        OutputFormat::Hex => hexdump(&shown.block, offset).into_bytes(),
        OutputFormat::Binary | OutputFormat::Auto => shown.block.to_vec(),
    };
    let mut out = console.output();
    match out.write_all(&text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(Failure::io("writing", "standard output", error));
        }
        _ => {}
    }
    Ok(match shown.validity {
        Validity::Valid => OK,
        Validity::AtLastKnown => AT_LAST_KNOWN,
        Validity::NotValid => NOT_VALID,
    })
}

fn superblock_offset(geometry: &Geometry) -> u64 {
    geometry.superblock_sector().saturating_mul(512)
}

/// Lines of 16 bytes; equal ones in the middle become one `*`.
fn hexdump(block: &Block, start: u64) -> String {
    let mut text = String::new();
    let (lines, _) = block.as_chunks::<16>();
    let last = lines.len().saturating_sub(1);
    let mut before: Option<&[u8; 16]> = None;
    let mut starred = false;
    let mut offset = start;
    for (n, line) in lines.iter().enumerate() {
        if before == Some(line) && n != last {
            if !std::mem::replace(&mut starred, true) {
                text.push_str("*\n");
            }
        } else {
            starred = false;
            let _ = write!(text, "{offset:08x}");
            for half in line.chunks(8) {
                text.push(' ');
                for byte in half {
                    let _ = write!(text, " {byte:02x}");
                }
            }
            let shown = line.iter().map(|byte| match byte {
                0x20..=0x7e => char::from(*byte),
                _ => '.',
            });
            let _ = writeln!(text, "  |{}|", shown.collect::<String>());
        }
        before = Some(line);
        offset = offset.saturating_add(16);
    }
    let _ = writeln!(text, "{offset:08x}");
    text
}

#[cfg(test)]
mod tests {
    use super::hexdump;

    #[test]
    fn repeated_lines() {
        let mut block = [0; 4096];
        block[..3].copy_from_slice(b"A\x7f\xff");
        let expected = "\
000f0000  41 7f ff 00 00 00 00 00  00 00 00 00 00 00 00 00  |A...............|
000f0010  00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|
*
000f0ff0  00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|
000f1000
";
        assert_eq!(hexdump(&block, 0xf0000), expected);
    }
}
