//! The command line, parsed the way getopt does it: options anywhere, abbreviations, `--opt=value`
//! (metadata, sections 8 and 8.1).

mod check;
mod numbers;
mod table;

use super::failure::{BAD, FAILED, Failure, USAGE};
use super::record::Version;
use check::check_options;
pub(super) use check::{max_peers, striping};
use drbd_meta::geometry::{BitmapBlockSize, MdIndex};
pub(super) use numbers::parse_c_number;
use numbers::{parse_nodes, parse_size, positive};
use std::path::PathBuf;
pub(super) use table::usage;
use table::{COMMANDS, Command, NO_COMMAND, OPTIONS};
pub(crate) use table::{described_commands, described_options};

/// How `dump-superblock` writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum OutputFormat {
    /// As text on a terminal, else as bytes.
    Auto,
    /// As text.
    Hex,
    /// As bytes.
    Binary,
    /// Decoded.
    Json,
}

/// How `create-md` prepares the bitmap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum InitBitmap {
    /// Let the device write zeros; if it cannot, write them.
    Automatic,
    /// Let the device write zeros or fail.
    ZeroOut,
    /// Write zeros.
    Write,
    /// Leave the area as it is.
    Skip,
    /// Write ones.
    SetAll,
}

/// The current UUID that `create-md` is to begin with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum InitialUuid {
    /// A random one.
    Generate,
    /// This one.
    Given(u64),
}

/// The parsed command line.
#[derive(Debug)]
pub(super) struct Args {
    pub(super) force: bool,
    pub(super) quiet: bool,
    pub(super) verbose: u32,
    pub(super) ignore_sanity_checks: bool,
    pub(super) dry_run: bool,
    pub(super) node_id: Option<u8>,
    pub(super) peer_max_bio_size: Option<u32>,
    pub(super) al_stripes: Option<u32>,
    pub(super) al_stripe_size_4k: Option<u32>,
    pub(super) init_bitmap: InitBitmap,
    pub(super) effective_size: Option<u64>,
    pub(super) diskful_peers: u32,
    pub(super) bitmap_block_size: Option<BitmapBlockSize>,
    pub(super) initial_current_uuid: Option<InitialUuid>,
    pub(super) consistent: bool,
    pub(super) uptodate: bool,
    pub(super) peers_outdated: bool,
    pub(super) rotate_uuids: bool,
    pub(super) output_format: OutputFormat,
    pub(super) var_lib: PathBuf,
    pub(super) device: String,
    pub(super) format: Version,
    /// The minor whose counters of v06 are meant; `format` is v07 then.
    pub(super) v06: Option<u8>,
    pub(super) meta_dev: String,
    pub(super) index: MdIndex,
    pub(super) command: &'static Command,
    /// The command's arguments.
    pub(super) rest: Vec<String>,
    /// The whole command line, for the head of a dump.
    pub(super) line: String,
}

/// Parses the arguments after the program's name.
pub(super) fn parse(arguments: &[String]) -> Result<Args, Failure> {
    let mut given = Vec::new();
    let mut positional = Vec::new();
    split(arguments, &mut given, &mut positional)?;
    let mut args = defaults(arguments);
    for (name, value) in given {
        set_option(&mut args, name, &value)?;
    }
    if positional.len() < 3 {
        return Err(Failure::Usage(String::new()));
    }
    let mut positional = positional.into_iter();
    let mut next = || positional.next().unwrap_or_default();
    args.device = next();
    let format = next();
    args.format = match format.as_str() {
        "v07" => Version::V07,
        "v08" => Version::V08,
        "v09" => Version::V09,
        // Its minor takes the place of a device; what it has in common with v07 are the counters.
        "v06" => Version::V07,
        _ => return Err(Failure::new(USAGE, format!("Unknown format '{format}'."))),
    };
    args.meta_dev = next();
    if format == "v06" {
        let minor = parse_c_number(&args.meta_dev).and_then(|minor| u8::try_from(minor).ok());
        let text = || format!("'{}' is not a valid minor number.", args.meta_dev);
        args.v06 = Some(minor.ok_or_else(|| Failure::new(USAGE, text()))?);
    } else {
        let index = next();
        if index.is_empty() {
            return Err(Failure::new(USAGE, "Too few arguments for format"));
        }
        let text = || format!("'{index}' is not a valid index number.");
        args.index = parse_index(&index, args.format).ok_or_else(|| Failure::new(USAGE, text()))?;
    }
    let name = next();
    args.command = match COMMANDS.iter().find(|c| c.name == name) {
        Some(command) => command,
        None if name.is_empty() => return Err(Failure::new(USAGE, "command missing")),
        None => return Err(Failure::new(USAGE, format!("Unknown command '{name}'."))),
    };
    args.rest = positional.collect();
    check_options(&args)?;
    Ok(args)
}

fn defaults(arguments: &[String]) -> Args {
    let mut line = String::from("drbdmeta");
    for argument in arguments {
        line.push(' ');
        line.push_str(argument);
    }
    Args {
        force: false,
        quiet: false,
        verbose: 0,
        ignore_sanity_checks: false,
        dry_run: false,
        node_id: None,
        peer_max_bio_size: None,
        al_stripes: None,
        al_stripe_size_4k: None,
        init_bitmap: InitBitmap::Automatic,
        effective_size: None,
        diskful_peers: 0,
        bitmap_block_size: None,
        initial_current_uuid: None,
        consistent: false,
        uptodate: false,
        peers_outdated: false,
        rotate_uuids: false,
        output_format: OutputFormat::Auto,
        var_lib: PathBuf::from("/var/lib/drbd"),
        device: String::new(),
        format: Version::V09,
        v06: None,
        meta_dev: String::new(),
        index: MdIndex::Internal,
        command: COMMANDS.first().unwrap_or(&NO_COMMAND),
        rest: Vec::new(),
        line,
    }
}

/// Separates options from the other arguments.
fn split(
    arguments: &[String],
    given: &mut Vec<(&'static str, String)>,
    positional: &mut Vec<String>,
) -> Result<(), Failure> {
    let bad = |text: String| Failure::Usage(format!("drbdmeta: {text}"));
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        if argument == "--" {
            positional.extend(arguments.cloned());
            break;
        }
        if let Some(long) = argument.strip_prefix("--") {
            let (name, value) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (long, None),
            };
            let exact = OPTIONS.iter().find(|option| option.name == name);
            let mut similar = OPTIONS
                .iter()
                .filter(|option| option.name.starts_with(name));
            let found = match (exact, similar.next(), similar.next()) {
                (Some(option), ..) | (None, Some(option), None) => option,
                (None, None, _) => {
                    return Err(bad(format!("unrecognized option '--{name}'")));
                }
                _ => return Err(bad(format!("option '--{name}' is ambiguous"))),
            };
            let (option, has_value) = (found.name, found.value.is_some());
            let value = match (has_value, value) {
                (true, Some(value)) => value,
                (true, None) => arguments
                    .next()
                    .cloned()
                    .ok_or_else(|| bad(format!("option '--{option}' requires an argument")))?,
                (false, None) => String::new(),
                (false, Some(_)) => {
                    return Err(bad(format!(
                        "option '--{option}' doesn't allow an argument"
                    )));
                }
            };
            given.push((option, value));
        } else if let Some(cluster) = argument.strip_prefix('-').filter(|c| !c.is_empty()) {
            let mut letters = cluster.chars();
            while let Some(letter) = letters.next() {
                let found = OPTIONS.iter().find(|option| option.short == letter);
                let Some(option) = found.filter(|_| letter != '\0') else {
                    return Err(bad(format!("invalid option -- '{letter}'")));
                };
                let mut value = String::new();
                if option.value.is_some() {
                    value = letters.by_ref().collect();
                    if value.is_empty() {
                        value = arguments.next().cloned().ok_or_else(|| {
                            bad(format!("option requires an argument -- '{letter}'"))
                        })?;
                    }
                }
                given.push((option.name, value));
            }
        } else {
            positional.push(argument.clone());
        }
    }
    Ok(())
}

fn set_option(args: &mut Args, name: &str, value: &str) -> Result<(), Failure> {
    let too_large = || Failure::new(BAD, format!("{name}: {value} is out of range"));
    let small = |number: u64| u32::try_from(number).map_err(|_| too_large());
    match name {
        "force" => args.force = true,
        "quiet" => args.quiet = true,
        "verbose" => args.verbose = args.verbose.saturating_add(1),
        "ignore-sanity-checks" => args.ignore_sanity_checks = true,
        "dry-run" | "tentative" => args.dry_run = true,
        "node-id" => {
            let id = positive(value, 1)?
                .and_then(|id| u8::try_from(id).ok())
                .filter(|id| *id < 32);
            args.node_id =
                Some(id.ok_or_else(|| Failure::new(BAD, "node-id out of range (0...31)"))?);
        }
        "peer-max-bio-size" => {
            let size = positive(value, 1)?
                .and_then(|size| u32::try_from(size).ok())
                .filter(|size| *size <= 1 << 20);
            let text = "peer-max-bio-size out of range (0...1M)";
            args.peer_max_bio_size = Some(size.ok_or_else(|| Failure::new(BAD, text))?);
        }
        "al-stripes" => args.al_stripes = Some(small(parse_size(value, 1)?)?),
        "al-stripe-size-kB" => {
            args.al_stripe_size_4k = Some(small(parse_size(value, 1024)?)? / 4);
        }
        "initialize-bitmap" => {
            args.init_bitmap = match value {
                "automatic" => InitBitmap::Automatic,
                "zeroout" => InitBitmap::ZeroOut,
                "pwrite" => InitBitmap::Write,
                "skip" => InitBitmap::Skip,
                "set-all" => InitBitmap::SetAll,
                _ => {
                    return Err(Failure::new(
                        BAD,
                        format!(
                            "invalid initialize-bitmap-mode \"{value}\", should be one of \
                             automatic|zeroout|pwrite|skip|set-all"
                        ),
                    ));
                }
            }
        }
        "effective-size" => args.effective_size = Some(parse_size(value, 512)?),
        "diskful-peers" => args.diskful_peers = parse_nodes(value)?,
        "bitmap-block-size" => {
            let size = small(parse_size(value, 1)?)?;
            let size = BitmapBlockSize::new(size);
            args.bitmap_block_size = Some(size.map_err(|e| Failure::new(BAD, e.to_string()))?);
        }
        "initial-current-uuid" => {
            args.initial_current_uuid = Some(if value == "generate" {
                InitialUuid::Generate
            } else {
                let digits = value.strip_prefix("0x").unwrap_or(value);
                let uuid = u64::from_str_radix(digits, 16)
                    .ok()
                    .filter(|uuid| *uuid != 0);
                InitialUuid::Given(uuid.ok_or_else(|| {
                    let text = format!(
                        "'{value}' is no UUID: give 'generate' or up to 16 hexadecimal digits, \
                         not 0"
                    );
                    Failure::new(BAD, text)
                })?)
            });
        }
        "consistent" => args.consistent = true,
        "uptodate" => args.uptodate = true,
        "peers-outdated" => args.peers_outdated = true,
        "rotate-uuids" => args.rotate_uuids = true,
        "output-format" => {
            args.output_format = match value {
                "auto" => OutputFormat::Auto,
                "hex" => OutputFormat::Hex,
                "bin" | "binary" => OutputFormat::Binary,
                "json" => OutputFormat::Json,
                _ => {
                    let text = format!("'{value}' is no output format: use auto, hex, bin or json");
                    return Err(Failure::new(BAD, text));
                }
            }
        }
        "var-lib-drbd" => args.var_lib = PathBuf::from(value),
        _ => return Err(Failure::Usage(String::new())),
    }
    Ok(())
}

fn parse_index(text: &str, version: Version) -> Option<MdIndex> {
    match text {
        "internal" if version == Version::V07 => Some(MdIndex::FixedInternal),
        "internal" | "flex-internal" => Some(MdIndex::Internal),
        "flex-external" => Some(MdIndex::FlexExternal),
        _ => u8::try_from(parse_c_number(text)?)
            .ok()
            .map(MdIndex::Indexed),
    }
}

/// The generic failure.
pub(super) fn no_valid_metadata() -> Failure {
    Failure::new(FAILED, "No valid meta data found")
}

#[cfg(test)]
mod tests;
