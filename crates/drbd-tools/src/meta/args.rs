//! The command line, parsed the way getopt does it: options anywhere, abbreviations, `--opt=value`
//! (metadata, sections 8 and 8.1).

mod numbers;

use super::failure::{BAD, FAILED, Failure, USAGE};
use super::record::Version;
use drbd_meta::geometry::{AlStriping, BitmapBlockSize, MdIndex};
use drbd_meta::limits::{MAX_CREATE_AL_BLOCKS, MIN_AL_BLOCKS};
pub(super) use numbers::parse_c_number;
use numbers::{parse_nodes, parse_size, positive};
use std::path::PathBuf;

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

/// One command of the table.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Command {
    pub(super) name: &'static str,
    /// What the usage text shows after the name; `None` hides the command there.
    usage: Option<&'static str>,
    /// What it does.
    help: &'static str,
    /// Whether it takes an argument of its own.
    pub(super) argument: bool,
    /// Whether it is refused on an attached device.
    pub(super) modifies: bool,
    /// Whether v09 needs `--node-id` for it.
    node_id: bool,
}

const fn command(
    name: &'static str,
    usage: Option<&'static str>,
    help: &'static str,
    argument: bool,
    modifies: bool,
    node_id: bool,
) -> Command {
    Command {
        name,
        usage,
        help,
        argument,
        modifies,
        node_id,
    }
}

/// The commands, in the order of the usage text.
const COMMANDS: &[Command] = &[
    command(
        "get-gi",
        Some("--node-id {val} "),
        "Print the generation identifiers towards a peer in one line.",
        false,
        false,
        true,
    ),
    command(
        "show-gi",
        Some("--node-id {val} "),
        "Print the generation identifiers towards a peer, with words.",
        false,
        false,
        true,
    ),
    command(
        "dump-md",
        Some(""),
        "Print all metadata as text: superblock, peers and bitmap. A log that is not applied is an error.",
        false,
        false,
        false,
    ),
    command(
        "dump-superblock",
        Some("--output-format {val} "),
        "Print the superblock alone.",
        false,
        false,
        false,
    ),
    command(
        "hexdump-superblock",
        Some(""),
        "Print the superblock alone in hexadecimal.",
        false,
        false,
        false,
    ),
    command(
        "restore-md",
        Some("file"),
        "Write the metadata that a dump describes.",
        true,
        true,
        false,
    ),
    command(
        "verify-dump",
        Some("file"),
        "Check a dump; nothing is written.",
        true,
        false,
        false,
    ),
    command(
        "apply-al",
        Some(""),
        "After a crash: mark what the activity log calls hot as out of sync, and clean the log.",
        false,
        true,
        false,
    ),
    command(
        "wipe-md",
        Some(""),
        "Remove the metadata.",
        false,
        true,
        false,
    ),
    command(
        "outdate",
        Some(""),
        "Mark the data as outdated.",
        false,
        true,
        false,
    ),
    command(
        "invalidate",
        Some(""),
        "Mark the data as inconsistent.",
        false,
        true,
        false,
    ),
    command(
        "dstate",
        Some(""),
        "Print the state that the disk would have.",
        false,
        false,
        false,
    ),
    command(
        "check-resize",
        Some(""),
        "Move internal metadata of a device that has grown to its new end.",
        false,
        true,
        false,
    ),
    command(
        "create-md",
        Some(
            "[--peer-max-bio-size {val}] [--al-stripes {val}] [--al-stripe-size-kB {val}] \
             {max_peers}",
        ),
        "Write fresh metadata for so many peers, or convert that of another version; what is there is asked about.",
        true,
        true,
        false,
    ),
    command(
        "forget-peer",
        Some("--node-id {val} "),
        "Give the bitmap slot of a peer back.",
        false,
        true,
        true,
    ),
    command(
        "repair-md",
        Some(""),
        "Make peers and bitmap slots consistent.",
        false,
        true,
        false,
    ),
    command(
        "set-gi",
        None,
        "Set the generation identifiers towards a peer.",
        true,
        true,
        true,
    ),
    command(
        "read-dev-uuid",
        None,
        "Print the identifier of the device.",
        false,
        false,
        false,
    ),
    command(
        "write-dev-uuid",
        None,
        "Set the identifier of the device.",
        true,
        true,
        false,
    ),
];

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

/// One option of the table.
struct OptionDef {
    /// Its long name.
    name: &'static str,
    /// Its short name; NUL: none.
    short: char,
    /// What its value is, if it has one.
    value: Option<&'static str>,
    /// What it means.
    help: &'static str,
}

const fn option(
    name: &'static str,
    short: char,
    value: Option<&'static str>,
    help: &'static str,
) -> OptionDef {
    OptionDef {
        name,
        short,
        value,
        help,
    }
}

/// The option table.
const OPTIONS: &[OptionDef] = &[
    option("force", 'f', None, "Answer all questions with yes."),
    option("quiet", 'q', None, "Say less."),
    option("verbose", 'v', None, "Say more; may be repeated."),
    option(
        "ignore-sanity-checks",
        '\0',
        None,
        "Go on where a check would refuse.",
    ),
    option(
        "dry-run",
        '\0',
        None,
        "Write nothing, say what would be written.",
    ),
    option("tentative", '\0', None, "The same as --dry-run."),
    option(
        "node-id",
        'i',
        Some("0...31"),
        "The peer that is meant; needed by the commands that are about one, forbidden for others.",
    ),
    option(
        "peer-max-bio-size",
        'p',
        Some("SIZE"),
        "create-md: the largest request that the peers take, up to 1M.",
    ),
    option(
        "al-stripes",
        's',
        Some("NUMBER"),
        "create-md, restore-md: stripes of the activity log; default: 1.",
    ),
    option(
        "al-stripe-size-kB",
        'z',
        Some("SIZE"),
        "create-md, restore-md: size of each of them in KiB; default: 32.",
    ),
    option(
        "initialize-bitmap",
        'b',
        Some("automatic|zeroout|pwrite|skip|set-all"),
        "create-md: how the bitmap is prepared.",
    ),
    option(
        "effective-size",
        'Z',
        Some("SIZE"),
        "create-md: size of the replicated device, in sectors if no unit is given.",
    ),
    option(
        "diskful-peers",
        'D',
        Some("MASK|ID,..."),
        "create-md: nodes that have a disk.",
    ),
    option(
        "bitmap-block-size",
        'B',
        Some("SIZE"),
        "create-md: what a bit of the bitmap stands for: a power of two from 4k to 1M; default: 4k.",
    ),
    option(
        "initial-current-uuid",
        '\0',
        Some("generate|UUID"),
        "create-md: the generation that the data begins with.",
    ),
    option(
        "consistent",
        '\0',
        None,
        "create-md: the data is consistent.",
    ),
    option("uptodate", '\0', None, "create-md: the data is up to date."),
    option(
        "peers-outdated",
        '\0',
        None,
        "create-md: the data of all peers is outdated.",
    ),
    option(
        "rotate-uuids",
        '\0',
        None,
        "create-md: begin a new generation on top of the one there is.",
    ),
    option(
        "output-format",
        'o',
        Some("auto|hex|bin|json"),
        "dump-superblock: how it is printed; auto: hex on a terminal, else bin.",
    ),
    option(
        "var-lib-drbd",
        '\0',
        Some("DIRECTORY"),
        "Where the last known places of metadata are kept; default: /var/lib/drbd.",
    ),
];

/// The commands as a manual page has them: name with arguments, what each does.
pub(crate) fn described_commands() -> Vec<(String, &'static str)> {
    let line = |c: &Command| match (c.usage, c.node_id) {
        (Some(usage), _) => format!("{} {usage}", c.name),
        (None, true) => format!("{} --node-id {{val}} {{val}}", c.name),
        (None, false) if c.argument => format!("{} {{val}}", c.name),
        (None, false) => c.name.to_owned(),
    };
    let described = COMMANDS
        .iter()
        .map(|c| (line(c).trim_end().to_owned(), c.help));
    described.collect()
}

/// The options as a manual page has them: their spellings, what each means.
pub(crate) fn described_options() -> Vec<(String, &'static str)> {
    let spelled = |o: &OptionDef| {
        let short = match o.short {
            '\0' => String::new(),
            short => format!("-{short}, "),
        };
        let value = o.value.map(|v| format!(" {v}")).unwrap_or_default();
        format!("{short}--{}{value}", o.name)
    };
    OPTIONS.iter().map(|o| (spelled(o), o.help)).collect()
}

/// The usage text.
pub(super) fn usage() -> String {
    let mut text = String::from(
        "\nUSAGE: drbdmeta [--force] DEVICE FORMAT [FORMAT ARGS...] COMMAND [CMD ARGS...]\n\n\
         FORMATS:\n  v06 minor\n  v07 device index\n  v08 device index\n  v09 device index\n\n\
         COMMANDS:\n",
    );
    for (name, usage) in COMMANDS.iter().filter_map(|c| Some((c.name, c.usage?))) {
        text.push_str(&format!("  {name} {usage}\n"));
    }
    text
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

/// Never used: the table is not empty.
static NO_COMMAND: Command = command("", None, "", false, false, false);

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

/// Which options go with which command and format.
fn check_options(args: &Args) -> Result<(), Failure> {
    let bad = |text: String| Err(Failure::new(BAD, text));
    let name = args.command.name;
    let blocks = args
        .al_stripes
        .unwrap_or(1)
        .checked_mul(args.al_stripe_size_4k.unwrap_or(MIN_AL_BLOCKS));
    if blocks.is_some_and(|blocks| blocks < MIN_AL_BLOCKS) {
        return bad("invalid (too small) al-stripe* settings".into());
    }
    if blocks.is_none_or(|blocks| blocks > MAX_CREATE_AL_BLOCKS) {
        return bad("invalid (too large) al-stripe* settings".into());
    }
    let striped = args.al_stripes.is_some() || args.al_stripe_size_4k.is_some();
    let creates = name == "create-md";
    if striped && !creates && name != "restore-md" {
        return bad(
            "The --al-stripe* options are only allowed with create-md and restore-md".into(),
        );
    }
    // The last column: whether v08 has it.
    for (option, given, v08) in [
        ("peer-max-bio-size", args.peer_max_bio_size.is_some(), true),
        ("effective-size", args.effective_size.is_some(), true),
        ("diskful-peers", args.diskful_peers != 0, false),
        ("bitmap-block-size", args.bitmap_block_size.is_some(), true),
        (
            "initial-current-uuid",
            args.initial_current_uuid.is_some(),
            false,
        ),
        ("consistent", args.consistent, false),
        ("uptodate", args.uptodate, false),
        ("peers-outdated", args.peers_outdated, false),
        ("rotate-uuids", args.rotate_uuids, false),
    ] {
        if given && !creates {
            return bad(format!(
                "The --{option} option is only allowed with create-md"
            ));
        }
        if given && !v08 && args.format != Version::V09 {
            return bad(format!(
                "--{option} is not supported with '{}'",
                args.format
            ));
        }
    }
    if args
        .bitmap_block_size
        .is_some_and(|size| size != BitmapBlockSize::DEFAULT)
    {
        if args.format != Version::V09 {
            return bad(format!(
                "bitmap-block-size not supported with '{}'",
                args.format
            ));
        }
        if matches!(args.index, MdIndex::Indexed(_)) {
            return bad("bitmap-block-size not supported with a numeric index".into());
        }
    }
    if args.output_format != OutputFormat::Auto && name != "dump-superblock" {
        return bad("The --output-format option is only allowed with dump-superblock".into());
    }
    match (args.command.node_id, args.node_id) {
        (true, None) if args.format == Version::V09 => {
            bad(format!("The {name} command requires the --node-id option"))
        }
        (false, Some(_)) => bad(format!(
            "The {name} command does not accept the --node-id option"
        )),
        _ => Ok(()),
    }
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

/// The striping that the options ask for, if they do.
pub(super) fn striping(args: &Args) -> Result<Option<AlStriping>, Failure> {
    // v07 has one layout.
    let given = args.al_stripes.is_some() || args.al_stripe_size_4k.is_some();
    if !given || args.format == Version::V07 {
        return Ok(None);
    }
    let stripes = args.al_stripes.unwrap_or(1);
    let size = args.al_stripe_size_4k.unwrap_or(MIN_AL_BLOCKS);
    AlStriping::new(stripes, size)
        .map(Some)
        .map_err(|error| Failure::new(BAD, error.to_string()))
}

/// The number of peers, `create-md`'s argument.
pub(super) fn max_peers(args: &Args) -> Result<u8, Failure> {
    if args.format != Version::V09 {
        return Ok(1);
    }
    let Some(text) = args.rest.first() else {
        let text =
            "USAGE: drbdmeta MINOR v09 ... create-md MAX_PEERS\n\n  MAX_PEERS argument missing";
        return Err(Failure::new(USAGE, text));
    };
    let peers = parse_size(text, 1)?;
    u8::try_from(peers)
        .ok()
        .filter(|peers| (1..=31).contains(peers))
        .ok_or_else(|| Failure::new(USAGE, "MAX_PEERS argument not in allowed range 1 .. 31."))
}

/// The generic failure.
pub(super) fn no_valid_metadata() -> Failure {
    Failure::new(FAILED, "No valid meta data found")
}

#[cfg(test)]
mod tests;
