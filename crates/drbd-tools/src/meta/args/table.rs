//! The commands and options there are: what they are called, and what they are for (metadata, section 8).

/// One command of the table.
#[derive(PartialEq, Eq, Debug)]
pub(in crate::meta) struct Command {
    pub(in crate::meta) name: &'static str,
    /// What the usage text shows after the name; `None` hides the command there.
    usage: Option<&'static str>,
    /// What it does.
    help: &'static str,
    /// Whether it takes an argument of its own.
    pub(in crate::meta) argument: bool,
    /// Whether it is refused on an attached device.
    pub(in crate::meta) modifies: bool,
    /// Whether v09 needs `--node-id` for it.
    pub(super) node_id: bool,
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
pub(super) const COMMANDS: &[Command] = &[
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

/// Never used: the table is not empty.
pub(super) static NO_COMMAND: Command = command("", None, "", false, false, false);

/// One option of the table.
pub(super) struct OptionDef {
    /// Its long name.
    pub(super) name: &'static str,
    /// Its short name; NUL: none.
    pub(super) short: char,
    /// What its value is, if it has one.
    pub(super) value: Option<&'static str>,
    /// What it means.
    pub(super) help: &'static str,
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
pub(super) const OPTIONS: &[OptionDef] = &[
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
pub(in crate::meta) fn usage() -> String {
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
