//! What `drbdsetup` understands: commands, their arguments, and which options they take
//! ("Command line tools", sections 8 and 9).

use super::{
    CONNECT, DETACH, DEVICE, DISK, FORCE, INVALIDATE, NET, NEW_CURRENT_UUID, OptionDef,
    PEER_DEVICE, RESET_BITMAP, RESIZE, RESOURCE, STARTUP, SUSPEND_IO, VERIFY,
};

/// A positional argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Argument {
    /// Name of a resource.
    Resource,
    /// Name of a resource, or `all`, which is also the default.
    ResourceOrAll,
    /// New name of a resource.
    NewName,
    /// Own node id.
    NodeId,
    /// Node id of the peer.
    PeerNodeId,
    /// Minor number, `/dev/drbdN` or a device node.
    Minor,
    /// Volume number.
    Volume,
    /// Backing disk.
    LowerDev,
    /// Disk with the meta data.
    MetaDataDev,
    /// `internal`, `flexible`, or a number.
    MetaDataIndex,
    /// Own address.
    LocalAddr,
    /// The peer's address.
    RemoteAddr,
}

impl Argument {
    /// Name as it appears in messages and help.
    pub const fn name(self) -> &'static str {
        match self {
            Argument::Resource => "resource",
            Argument::ResourceOrAll => "{resource|all}",
            Argument::NewName => "new_name",
            Argument::NodeId => "node_id",
            Argument::PeerNodeId => "peer_node_id",
            Argument::Minor => "minor",
            Argument::Volume => "volume",
            Argument::LowerDev => "lower_dev",
            Argument::MetaDataDev => "meta_data_dev",
            Argument::MetaDataIndex => "meta_data_index",
            Argument::LocalAddr => "local-addr",
            Argument::RemoteAddr => "remote-addr",
        }
    }
}

/// Which options a command takes.
#[derive(Debug, Clone, Copy)]
pub enum CommandOptions {
    /// None.
    None,
    /// All of these.
    All(&'static [OptionDef]),
    /// Those that can change while the object exists, and `--set-defaults`.
    Changeable(&'static [OptionDef]),
    /// Presentation only (`--json`, `--verbose`, ...); the command itself knows which.
    Output,
}

/// A command of `drbdsetup`.
#[derive(Debug, Clone, Copy)]
pub struct SetupCommand {
    /// Name.
    pub name: &'static str,
    /// Positional arguments.
    pub arguments: &'static [Argument],
    /// Options.
    pub options: CommandOptions,
}

impl SetupCommand {
    /// The options from the table that the command takes, in the order of the table.
    pub fn options(&self) -> impl Iterator<Item = &'static OptionDef> + use<> {
        let (list, changeable): (&'static [OptionDef], bool) = match self.options {
            CommandOptions::None | CommandOptions::Output => (&[], false),
            CommandOptions::All(list) => (list, false),
            CommandOptions::Changeable(list) => (list, true),
        };
        list.iter().filter(move |o| !(changeable && o.fixed))
    }

    /// The option of this exact name, if the command takes it.
    pub fn option(&self, name: &str) -> Option<&'static OptionDef> {
        self.options().find(|o| o.name == name)
    }

    /// True if the command takes `--set-defaults`.
    pub const fn has_set_defaults(&self) -> bool {
        matches!(self.options, CommandOptions::Changeable(_))
    }
}

/// Looks a command up by its exact name.
pub fn command(name: &str) -> Option<&'static SetupCommand> {
    COMMANDS.iter().find(|c| c.name == name)
}

macro_rules! commands {
    ($($name:literal: [$($arg:ident),*] $options:expr;)*) => {
        &[$(SetupCommand {
            name: $name,
            arguments: &[$(Argument::$arg),*],
            options: $options,
        }),*]
    };
}

use CommandOptions::{All, Changeable, None as Plain, Output};

/// All commands.
pub const COMMANDS: &[SetupCommand] = commands! {
    "primary": [Resource] All(FORCE);
    "secondary": [Resource] All(FORCE);
    "attach": [Minor, LowerDev, MetaDataDev, MetaDataIndex] All(DISK);
    "disk-options": [Minor] Changeable(DISK);
    "detach": [Minor] All(DETACH);
    "connect": [Resource, PeerNodeId] All(CONNECT);
    "new-peer": [Resource, PeerNodeId] All(NET);
    "del-peer": [Resource, PeerNodeId] All(FORCE);
    "new-path": [Resource, PeerNodeId, LocalAddr, RemoteAddr] Plain;
    "del-path": [Resource, PeerNodeId, LocalAddr, RemoteAddr] Plain;
    "net-options": [Resource, PeerNodeId] Changeable(NET);
    "disconnect": [Resource, PeerNodeId] All(FORCE);
    "resize": [Minor] All(RESIZE);
    "resource-options": [Resource] Changeable(RESOURCE);
    "peer-device-options": [Resource, PeerNodeId, Volume] Changeable(PEER_DEVICE);
    "new-current-uuid": [Minor] All(NEW_CURRENT_UUID);
    "invalidate": [Minor] All(INVALIDATE);
    "invalidate-remote": [Resource, PeerNodeId, Volume] All(RESET_BITMAP);
    "pause-sync": [Resource, PeerNodeId, Volume] Plain;
    "resume-sync": [Resource, PeerNodeId, Volume] Plain;
    "suspend-io": [Minor] All(SUSPEND_IO);
    "resume-io": [Minor] Plain;
    "outdate": [Minor] Plain;
    "verify": [Resource, PeerNodeId, Volume] All(VERIFY);
    "down": [ResourceOrAll] Plain;
    "role": [Resource] Plain;
    "peer-role": [Resource, PeerNodeId] Plain;
    "cstate": [Resource, PeerNodeId] Plain;
    "dstate": [Minor] Plain;
    "show-gi": [Resource, PeerNodeId, Volume] Plain;
    "get-gi": [Resource, PeerNodeId, Volume] Plain;
    "show": [ResourceOrAll] Output;
    "status": [ResourceOrAll] Output;
    "check-resize": [Minor] Plain;
    "events2": [ResourceOrAll] Output;
    "wait-sync-volume": [Resource, PeerNodeId, Volume] All(STARTUP);
    "wait-sync-connection": [Resource, PeerNodeId] All(STARTUP);
    "wait-sync-resource": [Resource] All(STARTUP);
    "wait-connect-volume": [Resource, PeerNodeId, Volume] All(STARTUP);
    "wait-connect-connection": [Resource, PeerNodeId] All(STARTUP);
    "wait-connect-resource": [Resource] All(STARTUP);
    "new-resource": [Resource, NodeId] All(RESOURCE);
    "new-minor": [Resource, Minor, Volume] All(DEVICE);
    "del-minor": [Minor] Plain;
    "del-resource": [Resource] Plain;
    "forget-peer": [Resource, PeerNodeId] Plain;
    "rename-resource": [Resource, NewName] Plain;
    "udev": [Minor] Plain;
    // This one is not in the reference tool.
    "why": [ResourceOrAll] Output;
};
