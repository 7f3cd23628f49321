//! The command lines for `drbdsetup` and `drbdmeta` ("Command line tools", sections 3 and 20).

use drbd_config::expand::peer_device_extras;
use std::path::Path;

use drbd_config::model::{self, Connection, Host, Resource, Volume};
use drbd_config::options::OptionSet;

use super::cli::Passed;
use super::commands::{Limit, limit};
use super::helper::{Call, Program};

/// A `drbdsetup` command of a resource.
pub(super) fn setup(resource: &Resource, words: Vec<String>) -> Call {
    let limit = limit(words.first().map_or("", |w| w));
    Call::new(Program::Setup, &resource.name, limit, words)
}

/// Owned words.
pub(super) fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

/// A `drbdmeta` command for a volume; `None` if it has no disk.
pub(super) fn meta(
    resource: &Resource,
    volume: &Volume,
    node_id: Option<u8>,
    command: &[&str],
) -> Option<Call> {
    let mut args = vec![
        volume.minor?.to_string(),
        "v09".to_owned(),
        volume.meta_path()?.to_owned(),
        volume.meta()?.type_word(),
    ];
    args.extend(node_id.map(|id| format!("--node-id={id}")));
    args.extend(command.iter().map(|w| (*w).to_owned()));
    // drbdmeta takes a regular file only when forced. Where that would skip a question about
    // losing data, it is left to the administrator.
    let harmless = command.first().is_some_and(|c| UNASKED.contains(c));
    let is_file = || volume.meta_path().is_some_and(|p| Path::new(p).is_file());
    if harmless && !command.contains(&"--force") && is_file() {
        args.push("--force".to_owned());
    }
    Some(Call::new(Program::Meta, &resource.name, Limit::Long, args))
}

/// Commands of `drbdmeta` that never ask before they do something.
const UNASKED: &[&str] = &[
    "repair-md",
    "apply-al",
    "dump-md",
    "dump-superblock",
    "dstate",
    "get-gi",
    "show-gi",
    "outdate",
    "invalidate",
    "check-resize",
    "read-dev-uuid",
    "write-dev-uuid",
];

/// Configured options as words, without those that were given on the command line.
pub(super) fn option_words(options: &OptionSet, skip: &[&str], given: &[Passed]) -> Vec<String> {
    options
        .iter()
        .filter(|i| !skip.contains(&i.def.name) && !given.iter().any(|g| g.name == i.def.name))
        .map(|i| match &i.value {
            Some(value) => format!("--{}={value}", i.def.name),
            None => format!("--{}", i.def.name),
        })
        .collect()
}

/// Options of the command line as words.
pub(super) fn passed_words(given: &[Passed]) -> impl Iterator<Item = String> {
    given.iter().map(Passed::word)
}

/// A number as a word; objects without one were refused before.
pub(super) fn number<N: ToString>(number: Option<N>) -> String {
    number.map_or_else(|| "?".to_owned(), |n| n.to_string())
}

/// Node id of the peer of a connection.
pub(super) fn peer_id(resource: &Resource, connection: &Connection) -> String {
    number(resource.peer_of(connection).and_then(|h| h.node_id))
}

pub(super) fn new_resource(resource: &Resource, given: &[Passed]) -> Call {
    let own = number(resource.my_host().and_then(|h| h.node_id));
    let mut args = words(["new-resource", &resource.name, &own]);
    args.extend(option_words(&resource.sections.resource, &[], given));
    args.extend(passed_words(given));
    setup(resource, args)
}

pub(super) fn new_minor(resource: &Resource, volume: &Volume, given: &[Passed]) -> Call {
    let mut args = words([
        "new-minor",
        &resource.name,
        &number(volume.minor),
        &volume.number.to_string(),
    ]);
    let diskless = given.iter().any(|g| g.name == "diskless");
    if volume.disk_path().is_none() && !diskless {
        args.push("--diskless".to_owned());
    }
    args.extend(option_words(&volume.device_options, &[], given));
    args.extend(passed_words(given));
    setup(resource, args)
}

/// The options of a connection with its name in front.
pub(super) fn net_words(
    resource: &Resource,
    connection: &Connection,
    changeable: bool,
    given: &[Passed],
) -> Vec<String> {
    let mut args = Vec::new();
    let named = connection.net.get("_name").is_some() || given.iter().any(|g| g.name == "_name");
    if !named {
        args.push(format!("--_name={}", connection_name(resource, connection)));
    }
    let skip: &[&str] = if changeable {
        &["transport", "load-balance-paths"]
    } else {
        &[]
    };
    args.extend(option_words(&connection.net, skip, given));
    args
}

/// What a connection is called: the peer's host names joined with `_`.
pub(super) fn connection_name(resource: &Resource, connection: &Connection) -> String {
    match connection.net.text("_name") {
        Some(name) => name.to_owned(),
        None => resource
            .peer_of(connection)
            .map(Host::joined_name)
            .unwrap_or_default(),
    }
}

/// `new-peer`, or `net-options` with an optional `--set-defaults`.
pub(super) fn net(
    command: &str,
    resource: &Resource,
    connection: &Connection,
    defaults: bool,
    given: &[Passed],
) -> Call {
    let mut args = words([command, &resource.name, &peer_id(resource, connection)]);
    if defaults {
        args.push("--set-defaults".to_owned());
    }
    args.extend(net_words(
        resource,
        connection,
        command == "net-options",
        given,
    ));
    args.extend(passed_words(given));
    setup(resource, args)
}

/// The two address words of a path: own, peer. `None` if an address is missing.
pub(super) fn path_words(resource: &Resource, path: &model::Path) -> Option<[String; 2]> {
    let me = resource.me?;
    let own = path.endpoint_of(me)?;
    let peer = path.endpoint_not_of(me)?;
    let peer_address = match (&own.proxy, &peer.outside_address) {
        // With a proxy, what we talk to is its near side.
        (Some(proxy), _) => proxy.inside.as_ref()?,
        (None, Some(outside)) => outside,
        (None, None) => peer.resolved.as_ref()?,
    };
    Some([own.resolved.as_ref()?.word(), peer_address.word()])
}

/// `new-path` or `del-path` for every path of a connection.
pub(super) fn paths(command: &str, resource: &Resource, connection: &Connection) -> Vec<Call> {
    connection
        .paths
        .iter()
        .filter_map(|path| path_words(resource, path))
        .map(|[own, peer]| {
            let id = peer_id(resource, connection);
            setup(resource, words([command, &resource.name, &id, &own, &peer]))
        })
        .collect()
}

/// The configured options of a peer device, those the tools add included.
pub(super) fn peer_device_words(
    resource: &Resource,
    connection: &Connection,
    volume: u32,
    given: &[Passed],
) -> Vec<String> {
    let mut args = Vec::new();
    if let Some(device) = connection.peer_devices.iter().find(|d| d.volume == volume) {
        args.extend(option_words(&device.options, &[], given));
    }
    for (name, value) in peer_device_extras(resource, connection, volume) {
        if !given.iter().any(|g| g.name == name) {
            args.push(format!("--{name}={value}"));
        }
    }
    args
}

/// `peer-device-options`.
pub(super) fn peer_device(
    resource: &Resource,
    connection: &Connection,
    volume: u32,
    defaults: bool,
    given: &[Passed],
) -> Call {
    let mut args = words([
        "peer-device-options",
        &resource.name,
        &peer_id(resource, connection),
        &volume.to_string(),
    ]);
    if defaults {
        args.push("--set-defaults".to_owned());
    }
    args.extend(peer_device_words(resource, connection, volume, given));
    args.extend(passed_words(given));
    setup(resource, args)
}

/// Exit code of a `drbdmeta` that knows of a command but does not have it. Repairing is a
/// precaution; without it, attaching finds out by itself what is wrong.
const NO_SUCH_COMMAND: i32 = 30;

/// `repair-md`, `apply-al` and `attach`, to be run until one fails. Empty without a disk.
pub(super) fn attach(
    resource: &Resource,
    volume: &Volume,
    tentative: bool,
    given: &[Passed],
) -> Vec<Call> {
    let (Some(disk), Some(md), Some(meta_disk)) =
        (volume.disk_path(), volume.meta_path(), &volume.meta_disk)
    else {
        return Vec::new();
    };
    let mut args = words([
        "attach",
        &number(volume.minor),
        disk,
        md,
        &meta_disk.index_word(),
    ]);
    args.extend(option_words(&volume.disk_options, &[], given));
    args.extend(passed_words(given));
    let repair: &[&str] = if tentative {
        &["repair-md", "--tentative"]
    } else {
        &["repair-md"]
    };
    let repair = meta(resource, volume, None, repair).map(|call| Call {
        tolerate: Some(NO_SUCH_COMMAND),
        ..call
    });
    [repair, meta(resource, volume, None, &["apply-al"])]
        .into_iter()
        .flatten()
        .chain([setup(resource, args)])
        .collect()
}

/// `disk-options`. The size of a disk is not changed this way.
pub(super) fn disk_options(
    resource: &Resource,
    volume: &Volume,
    defaults: bool,
    given: &[Passed],
) -> Call {
    let mut args = words(["disk-options", &number(volume.minor)]);
    if defaults {
        args.push("--set-defaults".to_owned());
    }
    args.extend(option_words(&volume.disk_options, &["size"], given));
    args.extend(passed_words(given));
    setup(resource, args)
}

/// `connect`.
pub(super) fn connect(resource: &Resource, connection: &Connection, given: &[Passed]) -> Call {
    let mut args = words(["connect", &resource.name, &peer_id(resource, connection)]);
    args.extend(passed_words(given));
    setup(resource, args)
}
