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
    /// What it does, in a sentence.
    pub help: &'static str,
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
    ($($name:literal: [$($arg:ident),*] $options:expr, $help:literal;)*) => {
        &[$(SetupCommand {
            name: $name,
            help: $help,
            arguments: &[$(Argument::$arg),*],
            options: $options,
        }),*]
    };
}

use CommandOptions::{All, Changeable, None as Plain, Output};

/// All commands.
pub const COMMANDS: &[SetupCommand] = commands! {
    "primary": [Resource] All(FORCE),
        "Make the resource Primary on this node: its devices can be written here.";
    "secondary": [Resource] All(FORCE),
        "Make the resource Secondary on this node again.";
    "attach": [Minor, LowerDev, MetaDataDev, MetaDataIndex] All(DISK),
        "Attach a backing disk with its metadata to a device.";
    "disk-options": [Minor] Changeable(DISK),
        "Change options of an attached disk.";
    "detach": [Minor] All(DETACH),
        "Take the backing disk away from a device.";
    "connect": [Resource, PeerNodeId] All(CONNECT),
        "Begin to connect with a peer.";
    "new-peer": [Resource, PeerNodeId] All(NET),
        "Create a connection; it stays StandAlone until connect.";
    "del-peer": [Resource, PeerNodeId] All(FORCE),
        "Remove a connection.";
    "new-path": [Resource, PeerNodeId, LocalAddr, RemoteAddr] Plain,
        "Add a pair of addresses to a connection.";
    "del-path": [Resource, PeerNodeId, LocalAddr, RemoteAddr] Plain,
        "Remove a pair of addresses from a connection.";
    "net-options": [Resource, PeerNodeId] Changeable(NET),
        "Change options of a connection.";
    "disconnect": [Resource, PeerNodeId] All(FORCE),
        "End a connection with a peer.";
    "resize": [Minor] All(RESIZE),
        "Let a device follow the size of its backing disks, or give it another size.";
    "resource-options": [Resource] Changeable(RESOURCE),
        "Change options of a resource.";
    "peer-device-options": [Resource, PeerNodeId, Volume] Changeable(PEER_DEVICE),
        "Change options of a volume on one peer.";
    "new-current-uuid": [Minor] All(NEW_CURRENT_UUID),
        "Begin a new data generation.";
    "invalidate": [Minor] All(INVALIDATE),
        "Declare the local data of a volume bad: fetch all of it from a peer.";
    "invalidate-remote": [Resource, PeerNodeId, Volume] All(RESET_BITMAP),
        "Declare a peer's data of a volume bad: send it all of it.";
    "pause-sync": [Resource, PeerNodeId, Volume] Plain,
        "Pause the resync of a volume with a peer.";
    "resume-sync": [Resource, PeerNodeId, Volume] Plain,
        "Let a paused resync go on.";
    "suspend-io": [Minor] All(SUSPEND_IO),
        "Hold back application I/O of a device.";
    "resume-io": [Minor] Plain,
        "Let suspended I/O go on.";
    "outdate": [Minor] Plain,
        "Mark the local data of a device as outdated.";
    "verify": [Resource, PeerNodeId, Volume] All(VERIFY),
        "Compare the data of a volume with a peer's while it is in use.";
    "down": [ResourceOrAll] Plain,
        "Take a resource down, with everything in it.";
    "role": [Resource] Plain,
        "Show the role of this node.";
    "peer-role": [Resource, PeerNodeId] Plain,
        "Show the role of a peer.";
    "cstate": [Resource, PeerNodeId] Plain,
        "Show the state of a connection.";
    "dstate": [Minor] Plain,
        "Show the state of the local disk and of the peers' disks.";
    "show-gi": [Resource, PeerNodeId, Volume] Plain,
        "Show and explain the data generations of a volume towards a peer.";
    "get-gi": [Resource, PeerNodeId, Volume] Plain,
        "Show the data generations of a volume towards a peer.";
    "show": [ResourceOrAll] Output,
        "Show the running configuration.";
    "status": [ResourceOrAll] Output,
        "Show the state of resources.";
    "check-resize": [Minor] Plain,
        "Remember size and name of a backing disk, to find its metadata after a resize.";
    "events2": [ResourceOrAll] Output,
        "Show the state and every change of it, line by line.";
    "wait-sync-volume": [Resource, PeerNodeId, Volume] All(STARTUP),
        "Wait until a volume is in sync with a peer.";
    "wait-sync-connection": [Resource, PeerNodeId] All(STARTUP),
        "Wait until everything is in sync with a peer.";
    "wait-sync-resource": [Resource] All(STARTUP),
        "Wait until a resource is in sync with all peers.";
    "wait-connect-volume": [Resource, PeerNodeId, Volume] All(STARTUP),
        "Wait until a volume is connected with a peer.";
    "wait-connect-connection": [Resource, PeerNodeId] All(STARTUP),
        "Wait until a peer is connected.";
    "wait-connect-resource": [Resource] All(STARTUP),
        "Wait until a resource is connected with all peers.";
    "new-resource": [Resource, NodeId] All(RESOURCE),
        "Create a resource.";
    "new-minor": [Resource, Minor, Volume] All(DEVICE),
        "Create a device for a volume of a resource.";
    "del-minor": [Minor] Plain,
        "Remove a device; it must have no disk.";
    "del-resource": [Resource] Plain,
        "Remove a resource; it must have no connections and no devices.";
    "forget-peer": [Resource, PeerNodeId] Plain,
        "Give up the place of a peer in the metadata.";
    "rename-resource": [Resource, NewName] Plain,
        "Give a resource another name.";
    "udev": [Minor] Plain,
        "Show what udev makes links from.";
    // This one is not in the reference tool.
    "why": [ResourceOrAll] Output,
        "Say in words what devices and connections wait for.";
};
