//! The commands of `drbdadm` ("Command line tools", section 3).

use drbd_config::options::{self, OptionDef, SetupCommand, command};

/// What a command is applied to, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Nothing: it takes no selectors.
    Nothing,
    /// Nothing or whole resources.
    Optional,
    /// Whole resources.
    Resource,
    /// Resources, or what of them is selected.
    Any,
    /// Volumes of this host.
    Volume,
    /// Connections of this host.
    Connection,
    /// Pairs of both.
    PeerDevice,
}

/// Who a command is for; decides where it is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Hidden,
    Normal,
    Shell,
    Handler,
    Expert,
}

/// How long a helper may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    Short,
    Medium,
    Long,
    None,
}

/// A command.
#[derive(Debug, Clone, Copy)]
pub(super) struct Command {
    pub(super) name: &'static str,
    /// What it does, in a sentence.
    pub(super) help: &'static str,
    pub(super) scope: Scope,
    pub(super) level: Level,
    /// The volume must have a disk here.
    pub(super) disk: bool,
    /// A volume must be selected.
    pub(super) volume_needed: bool,
    /// The local address is checked first.
    pub(super) verify_ips: bool,
    /// `drbdsetup` command whose options are accepted.
    pub(super) setup: Option<&'static str>,
    /// Further options.
    pub(super) extra: &'static [Extra],
}

/// An option that is not in the table of `drbdsetup`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extra {
    pub(super) name: &'static str,
    pub(super) takes: Takes,
}

/// Whether an option has a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    Nothing,
    Optional,
    Required,
}

const fn flag(name: &'static str) -> Extra {
    Extra {
        name,
        takes: Takes::Optional,
    }
}

const fn valued(name: &'static str) -> Extra {
    Extra {
        name,
        takes: Takes::Required,
    }
}

const CREATE_MD: &[Extra] = &[
    valued("max-peers"),
    valued("peer-max-bio-size"),
    valued("al-stripes"),
    valued("al-stripe-size-kB"),
    flag("force"),
    valued("effective-size"),
    valued("bitmap-block-size"),
    valued("diskful-peers"),
    valued("initial-current-uuid"),
    flag("consistent"),
    flag("uptodate"),
    flag("peers-outdated"),
    flag("rotate-uuids"),
];
const ADJUST: &[Extra] = &[
    flag("skip-disk"),
    flag("skip-net"),
    flag("discard-my-data"),
    flag("tentative"),
];
const REPAIR_MD: &[Extra] = &[flag("tentative"), flag("force")];
const FORCE: &[Extra] = &[flag("force")];
const STATISTICS: &[Extra] = &[Extra {
    name: "statistics",
    takes: Takes::Nothing,
}];

const fn new(name: &'static str, scope: Scope, help: &'static str) -> Command {
    Command {
        name,
        help,
        scope,
        level: Level::Normal,
        disk: false,
        volume_needed: false,
        verify_ips: false,
        setup: None,
        extra: &[],
    }
}

impl Command {
    const fn disk(self) -> Self {
        Command { disk: true, ..self }
    }
    const fn volume_needed(self) -> Self {
        Command {
            volume_needed: true,
            ..self
        }
    }
    const fn ips(self) -> Self {
        Command {
            verify_ips: true,
            ..self
        }
    }
    const fn level(self, level: Level) -> Self {
        Command { level, ..self }
    }
    /// Takes the options of the `drbdsetup` command of the same name.
    const fn opts(self) -> Self {
        Command {
            setup: Some(self.name),
            ..self
        }
    }
    const fn extra(self, extra: &'static [Extra]) -> Self {
        Command { extra, ..self }
    }

    /// Its options in the table of `drbdsetup`.
    pub(super) fn setup_options(&self) -> impl Iterator<Item = &'static OptionDef> + use<> {
        self.setup
            .and_then(command)
            .into_iter()
            .flat_map(SetupCommand::options)
    }

    /// Whether an option is accepted, by its full name.
    pub(super) fn accepts(&self, name: &str) -> bool {
        self.extra.iter().any(|e| e.name == name) || self.setup_options().any(|o| o.name == name)
    }
}

/// Time limit of a `drbdsetup` command ("Command line tools", section 2.3).
pub(super) fn limit(command: &str) -> Limit {
    match command {
        "attach" | "detach" | "primary" | "secondary" | "down" | "resize" => Limit::Medium,
        wait if wait.starts_with("wait-") => Limit::None,
        _ => Limit::Short,
    }
}

use Level::{Expert, Handler, Hidden, Shell};
use Scope::{Any, Connection, Nothing, Optional, PeerDevice, Resource, Volume};

/// All commands except the handlers.
const COMMANDS: &[Command] = &[
    new(
        "attach",
        Volume,
        "Attach a backing disk with its metadata to a device.",
    )
    .disk()
    .opts(),
    new(
        "disk-options",
        Volume,
        "Change options of an attached disk.",
    )
    .disk()
    .opts(),
    new(
        "detach",
        Volume,
        "Take the backing disk away from a device.",
    )
    .disk()
    .opts(),
    new("connect", Connection, "Begin to connect with a peer.")
        .ips()
        .opts(),
    new("net-options", Connection, "Change options of a connection.")
        .ips()
        .opts(),
    new("disconnect", Connection, "End a connection with a peer.").opts(),
    new("up", Resource, "Bring resources up as they are configured.").ips(),
    new(
        "resource-options",
        Resource,
        "Change options of a resource.",
    )
    .opts(),
    new(
        "peer-device-options",
        PeerDevice,
        "Change options of a volume on one peer.",
    )
    .opts(),
    new(
        "down",
        Resource,
        "Take a resource down, with everything in it.",
    ),
    new(
        "primary",
        Resource,
        "Make the resource Primary on this node: its devices can be written here.",
    )
    .opts(),
    new(
        "secondary",
        Resource,
        "Make the resource Secondary on this node again.",
    )
    .opts(),
    new(
        "invalidate",
        Any,
        "Declare the local data of a volume bad: fetch all of it from a peer.",
    )
    .disk()
    .opts()
    .extra(FORCE),
    new(
        "invalidate-remote",
        PeerDevice,
        "Declare a peer's data of a volume bad: send it all of it.",
    )
    .opts(),
    new(
        "outdate",
        Volume,
        "Mark the local data of a device as outdated.",
    ),
    new(
        "resize",
        Volume,
        "Let a device follow the size of its backing disks, or give it another size.",
    )
    .disk()
    .opts(),
    new(
        "verify",
        PeerDevice,
        "Compare the data of a volume with a peer's while it is in use.",
    )
    .opts(),
    new(
        "pause-sync",
        PeerDevice,
        "Pause the resync of a volume with a peer.",
    ),
    new("resume-sync", PeerDevice, "Let a paused resync go on."),
    new("adjust", Any, "Change what runs to what is configured.")
        .ips()
        .extra(ADJUST),
    new(
        "adjust-with-progress",
        Any,
        "As adjust, with a short display of what is done.",
    )
    .ips(),
    new(
        "wait-connect",
        Any,
        "Wait until what is selected is connected.",
    )
    .ips(),
    new("wait-sync", Any, "Wait until what is selected is in sync.").ips(),
    new(
        "wait-con-int",
        Nothing,
        "Wait for all connections at boot; somebody at the console can end it.",
    ),
    new("role", Resource, "Show the role of this node."),
    new("cstate", Connection, "Show the state of a connection."),
    new(
        "dstate",
        Volume,
        "Show the state of the local disk and of the peers' disks.",
    )
    .extra(FORCE),
    new("status", Optional, "Show the state of resources.").extra(STATISTICS),
    new("peer-role", Connection, "Show the role of a peer.").level(Hidden),
    new(
        "dump",
        Optional,
        "Show the configuration as it was understood.",
    )
    .ips(),
    new("dump-xml", Optional, "Show the configuration as XML.").ips(),
    new("create-md", Volume, "Create metadata on a backing disk.")
        .disk()
        .extra(CREATE_MD),
    new(
        "show-gi",
        PeerDevice,
        "Show and explain the data generations of a volume towards a peer.",
    )
    .disk()
    .extra(FORCE),
    new(
        "get-gi",
        PeerDevice,
        "Show the data generations of a volume towards a peer.",
    )
    .disk()
    .extra(FORCE),
    new(
        "dump-md",
        Volume,
        "Show the metadata of a backing disk as text.",
    )
    .disk()
    .extra(FORCE),
    new(
        "dump-superblock",
        Volume,
        "Show the superblock of the metadata.",
    )
    .disk()
    .extra(FORCE),
    new(
        "wipe-md",
        Volume,
        "Remove the metadata from a backing disk.",
    )
    .disk()
    .extra(FORCE),
    new(
        "apply-al",
        Volume,
        "Apply the activity log of a backing disk.",
    )
    .disk()
    .extra(FORCE),
    new("repair-md", Volume, "Mend metadata that can be mended.")
        .disk()
        .extra(REPAIR_MD),
    new(
        "forget-peer",
        Connection,
        "Give up the place of a peer in the metadata.",
    )
    .extra(FORCE),
    new(
        "hidden-commands",
        Nothing,
        "List the commands that help does not list.",
    ),
    new(
        "new-peer",
        Connection,
        "Create a connection; it stays StandAlone until connect.",
    )
    .ips()
    .opts(),
    new("del-peer", Connection, "Remove a connection.")
        .ips()
        .opts(),
    new(
        "new-path",
        Connection,
        "Add a pair of addresses to a connection.",
    )
    .ips(),
    new(
        "del-path",
        Connection,
        "Remove a pair of addresses from a connection.",
    )
    .ips(),
    new(
        "sh-nop",
        Nothing,
        "Check the configuration, and do nothing.",
    )
    .level(Shell),
    new("sh-resources", Nothing, "List the resources of this host.").level(Shell),
    new("sh-resource", Any, "Show the name of a selected resource.").level(Shell),
    new(
        "sh-list-config-file",
        Resource,
        "Show where a resource is configured.",
    )
    .level(Shell),
    new(
        "sh-list-adjustable",
        Resource,
        "List the resources that adjust would change.",
    )
    .level(Shell),
    new(
        "sh-mod-parms",
        Nothing,
        "Show parameters for the kernel module.",
    )
    .level(Shell),
    new("sh-dev", Volume, "Show the devices.").level(Shell),
    new("sh-udev", Volume, "Show what udev makes links from.")
        .volume_needed()
        .level(Shell),
    new("sh-minor", Volume, "Show the minor numbers.").level(Shell),
    new("sh-ll-dev", Volume, "Show the backing disks.").level(Shell),
    new("sh-md-dev", Volume, "Show the disks with the metadata.")
        .disk()
        .level(Shell),
    new(
        "sh-md-idx",
        Volume,
        "Show where on its disk the metadata is.",
    )
    .disk()
    .level(Shell),
    new("sh-ip", PeerDevice, "Show the local addresses.").level(Shell),
    new(
        "sh-lr-of",
        Resource,
        "Show the resource below a stacked one.",
    )
    .level(Shell),
    new(
        "proxy-up",
        Connection,
        "Set up the proxies of a connection.",
    )
    .level(Shell),
    new(
        "proxy-down",
        Connection,
        "Remove the proxies of a connection.",
    )
    .level(Shell),
    new("new-resource", Resource, "Create a resource.")
        .opts()
        .level(Shell),
    new(
        "suspend-io",
        Volume,
        "Hold back application I/O of a device.",
    )
    .opts()
    .level(Expert),
    new("resume-io", Volume, "Let suspended I/O go on.").level(Expert),
    new(
        "set-gi",
        PeerDevice,
        "Write data generations into the metadata.",
    )
    .volume_needed()
    .extra(FORCE)
    .level(Expert),
    new("new-current-uuid", Volume, "Begin a new data generation.")
        .volume_needed()
        .opts()
        .level(Expert),
    new(
        "check-resize",
        Volume,
        "Remember size and name of a backing disk, to find its metadata after a resize.",
    )
    .level(Expert),
    new(
        "new-minor",
        Volume,
        "Create a device for a volume of a resource.",
    )
    .opts()
    .level(Expert),
    new(
        "del-minor",
        Volume,
        "Remove a device; it must have no disk.",
    )
    .level(Expert),
];

/// All commands, handlers included.
pub(super) fn all() -> impl Iterator<Item = Command> {
    COMMANDS.iter().copied().chain(
        options::HANDLERS
            .iter()
            .map(|h| new(h.name, Resource, h.help).level(Handler)),
    )
}

/// The command of a name. Old names are replaced with a message on stderr.
pub(super) fn find(name: &str) -> Option<Command> {
    let current = match name {
        "state" => "role",
        "outdate-peer" => "fence-peer",
        name => name,
    };
    let found = all().find(|c| c.name == current)?;
    if current != name {
        eprintln!("'drbdadm {name}' is deprecated, use 'drbdadm {current}' instead.");
    }
    Some(found)
}

/// True for the names of handlers.
pub(super) fn is_handler(command: &Command) -> bool {
    command.level == Handler
}

/// Every long option of every command, and whether it has a value.
pub(super) fn all_options() -> impl Iterator<Item = (&'static str, Takes)> {
    let own = COMMANDS
        .iter()
        .flat_map(|c| c.extra)
        .map(|e| (e.name, e.takes));
    let setup = options::COMMANDS.iter().flat_map(SetupCommand::options);
    let setup = setup.map(|o| {
        (
            o.name,
            if o.is_boolean() {
                Takes::Optional
            } else {
                Takes::Required
            },
        )
    });
    own.chain(setup)
}
