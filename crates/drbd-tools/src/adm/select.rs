//! Selectors: `all`, `RES`, `RES/VNR`, `RES:PEER`, `RES:PEER/VNR`, `minor-N` ("Command line
//! tools", section 2.2).

use drbd_config::environment::same_host;
use drbd_config::model::{Config, Resource, Volume};

use super::calls::connection_name;
use super::commands::{Command, Scope};

/// What a selector selects.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// Index of the resource.
    pub(super) resource: usize,
    /// Number of the volume, if one is selected.
    pub(super) volume: Option<u32>,
    /// Index of the connection, if a peer is selected.
    pub(super) connection: Option<usize>,
    /// One of `all`.
    pub(super) of_all: bool,
}

/// Why a selector selects nothing.
#[derive(Debug)]
pub(super) struct Bad {
    pub(super) message: String,
    pub(super) exit: i32,
}

fn bad(exit: i32, message: impl Into<String>) -> Bad {
    Bad {
        message: message.into(),
        exit,
    }
}

/// Nothing of this name.
pub(super) fn undefined(text: &str) -> Bad {
    bad(
        1,
        format!("'{text}' not defined in your config (for this host)."),
    )
}

/// All resources that are visible, stacked ones or the others.
pub(super) fn every(
    config: &Config,
    stacked: bool,
    visible: impl Fn(&Resource) -> bool,
) -> Vec<Target> {
    config
        .resources
        .iter()
        .enumerate()
        .filter(|(_, r)| visible(r) && r.stacked == stacked)
        .map(|(resource, _)| Target {
            resource,
            volume: None,
            connection: None,
            of_all: true,
        })
        .collect()
}

/// Reads one selector of something visible.
pub(super) fn one(
    config: &Config,
    text: &str,
    node_name: &str,
    visible: impl Fn(&Resource) -> bool,
) -> Result<Target, Bad> {
    let undefined = || undefined(text);
    if let Some(minor) = text.strip_prefix("minor-") {
        let minor: u32 = minor.parse().map_err(|_| undefined())?;
        let seen = config.resources.iter().enumerate();
        for (index, resource) in seen.filter(|(_, r)| visible(r)) {
            let volume = resource
                .my_host()
                .and_then(|h| h.volumes.iter().find(|v| v.minor == Some(minor)));
            if let Some(volume) = volume {
                return Ok(Target {
                    resource: index,
                    volume: Some(volume.number),
                    connection: None,
                    of_all: false,
                });
            }
        }
        return Err(undefined());
    }
    let (name, volume) = match text.rsplit_once('/') {
        Some((name, volume)) if config.resource(text).is_none() => (name, Some(volume)),
        _ => (text, None),
    };
    let (name, peer) = match name.split_once(':') {
        Some((name, peer)) => (name, Some(peer)),
        None => (name, None),
    };
    let volume = volume.map(number).transpose()?;
    let index = config
        .resources
        .iter()
        .position(|r| &*r.name == name && visible(r));
    let resource = index.and_then(|i| config.resources.get(i));
    let (Some(index), Some(resource)) = (index, resource) else {
        return Err(undefined());
    };
    if let Some(number) = volume
        && resource.my_host().and_then(|h| h.volume(number)).is_none()
    {
        return Err(bad(
            1,
            format!("Resource '{}' has no volume {number}", resource.name),
        ));
    }
    let connection = peer
        .map(|p| self::peer(resource, p, text, node_name))
        .transpose()?;
    Ok(Target {
        resource: index,
        volume,
        connection,
        of_all: false,
    })
}

fn number(text: &str) -> Result<u32, Bad> {
    if text.is_empty() {
        return Err(bad(100, "missing number argument"));
    }
    text.parse()
        .map_err(|_| bad(20, format!("{text} is not a valid number")))
}

fn peer(resource: &Resource, peer: &str, text: &str, node_name: &str) -> Result<usize, Bad> {
    // Releases before 9.23 put a `:` between address and port where the names of floating hosts have a `_`.
    let older = peer
        .rsplit_once(':')
        .map(|(address, port)| format!("{address}_{port}"));
    let found = (!peer.is_empty())
        .then(|| {
            resource.connections.iter().position(|c| {
                !c.ignored
                    && (connection_name(resource, c) == peer
                        || older.as_deref() == Some(&*connection_name(resource, c))
                        || resource
                            .peer_of(c)
                            .is_some_and(|h| h.names.iter().any(|n| same_host(n, peer))))
            })
        })
        .flatten();
    found.ok_or_else(|| {
        if !peer.is_empty() && same_host(node_name, peer) {
            return bad(
                1,
                format!("Host name '{peer}' (from '{text}') is not a peer, but the local node"),
            );
        }
        bad(1, format!("Not a valid connection ({text}) for this host"))
    })
}

/// Checks that a target fits a command; completes a volume that is needed and obvious.
pub(super) fn fit(config: &Config, command: &Command, target: &mut Target) -> Result<(), Bad> {
    let Some(resource) = config.resources.get(target.resource) else {
        return Ok(());
    };
    let volumes = resource.my_host().map_or(&[][..], |h| &h.volumes);
    if command.volume_needed && target.volume.is_none() {
        if let [only] = volumes
            && only.implicit
        {
            target.volume = Some(only.number);
            return Ok(());
        }
        return Err(bad(
            1,
            format!(
                "{name} requires a specific volume id, but none is specified.\n\
                 Try '{name} minor-<minor_number>' or '{name} {res}/<vnr>'",
                name = command.name,
                res = resource.name
            ),
        ));
    }
    let whole = matches!(
        command.scope,
        Scope::Nothing | Scope::Resource | Scope::Optional | Scope::Connection
    );
    if whole
        && !matches!(command.name, "dump" | "sh-lr-of")
        && let Some(number) = target.volume
        && !volumes.iter().any(|v| v.number == number && v.implicit)
    {
        return Err(bad(
            1,
            format!(
                "{} operates on whole resources, but you specified a specific volume!",
                command.name
            ),
        ));
    }
    Ok(())
}

impl Target {
    /// True unless only a volume is selected.
    pub(super) fn works_on_connections(&self) -> bool {
        self.volume.is_none() || self.connection.is_some()
    }

    /// The volumes of this host that are selected, ascending.
    pub(super) fn volumes<'c>(&self, resource: &'c Resource) -> Vec<&'c Volume> {
        resource
            .my_host()
            .into_iter()
            .flat_map(|h| &h.volumes)
            .filter(|v| self.volume.is_none_or(|n| n == v.number))
            .collect()
    }

    /// The connections of this host that are selected, as indexes.
    pub(super) fn connections(&self, resource: &Resource) -> Vec<usize> {
        resource
            .connections
            .iter()
            .enumerate()
            .filter(|(i, c)| !c.ignored && self.connection.is_none_or(|s| s == *i))
            .map(|(i, _)| i)
            .collect()
    }
}
