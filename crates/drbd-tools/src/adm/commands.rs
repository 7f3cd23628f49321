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

const fn new(name: &'static str, scope: Scope) -> Command {
    Command {
        name,
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
    new("attach", Volume).disk().opts(),
    new("disk-options", Volume).disk().opts(),
    new("detach", Volume).disk().opts(),
    new("connect", Connection).ips().opts(),
    new("net-options", Connection).ips().opts(),
    new("disconnect", Connection).opts(),
    new("up", Resource).ips(),
    new("resource-options", Resource).opts(),
    new("peer-device-options", PeerDevice).opts(),
    new("down", Resource),
    new("primary", Resource).opts(),
    new("secondary", Resource).opts(),
    new("invalidate", Any).disk().opts().extra(FORCE),
    new("invalidate-remote", PeerDevice).opts(),
    new("outdate", Volume),
    new("resize", Volume).disk().opts(),
    new("verify", PeerDevice).opts(),
    new("pause-sync", PeerDevice),
    new("resume-sync", PeerDevice),
    new("adjust", Any).ips().extra(ADJUST),
    new("adjust-with-progress", Any).ips(),
    new("wait-connect", Any).ips(),
    new("wait-sync", Any).ips(),
    new("wait-con-int", Nothing),
    new("role", Resource),
    new("cstate", Connection),
    new("dstate", Volume).extra(FORCE),
    new("status", Optional).extra(STATISTICS),
    new("peer-role", Connection).level(Hidden),
    new("dump", Optional).ips(),
    new("dump-xml", Optional).ips(),
    new("create-md", Volume).disk().extra(CREATE_MD),
    new("show-gi", PeerDevice).disk().extra(FORCE),
    new("get-gi", PeerDevice).disk().extra(FORCE),
    new("dump-md", Volume).disk().extra(FORCE),
    new("dump-superblock", Volume).disk().extra(FORCE),
    new("wipe-md", Volume).disk().extra(FORCE),
    new("apply-al", Volume).disk().extra(FORCE),
    new("repair-md", Volume).disk().extra(REPAIR_MD),
    new("forget-peer", Connection).extra(FORCE),
    new("hidden-commands", Nothing),
    new("new-peer", Connection).ips().opts(),
    new("del-peer", Connection).ips().opts(),
    new("new-path", Connection).ips(),
    new("del-path", Connection).ips(),
    new("sh-nop", Nothing).level(Shell),
    new("sh-resources", Nothing).level(Shell),
    new("sh-resource", Any).level(Shell),
    new("sh-list-config-file", Resource).level(Shell),
    new("sh-list-adjustable", Resource).level(Shell),
    new("sh-mod-parms", Nothing).level(Shell),
    new("sh-dev", Volume).level(Shell),
    new("sh-udev", Volume).volume_needed().level(Shell),
    new("sh-minor", Volume).level(Shell),
    new("sh-ll-dev", Volume).level(Shell),
    new("sh-md-dev", Volume).disk().level(Shell),
    new("sh-md-idx", Volume).disk().level(Shell),
    new("sh-ip", PeerDevice).level(Shell),
    new("sh-lr-of", Resource).level(Shell),
    new("proxy-up", Connection).level(Shell),
    new("proxy-down", Connection).level(Shell),
    new("new-resource", Resource).opts().level(Shell),
    new("suspend-io", Volume).opts().level(Expert),
    new("resume-io", Volume).level(Expert),
    new("set-gi", PeerDevice)
        .volume_needed()
        .extra(FORCE)
        .level(Expert),
    new("new-current-uuid", Volume)
        .volume_needed()
        .opts()
        .level(Expert),
    new("check-resize", Volume).level(Expert),
    new("new-minor", Volume).opts().level(Expert),
    new("del-minor", Volume).level(Expert),
];

/// All commands, handlers included.
pub(super) fn all() -> impl Iterator<Item = Command> {
    COMMANDS.iter().copied().chain(
        options::HANDLERS
            .iter()
            .map(|h| new(h.name, Resource).level(Handler)),
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
