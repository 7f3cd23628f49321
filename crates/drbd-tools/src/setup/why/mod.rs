//! `drbdsetup why`: what every device and connection waits for, and what would end the wait.
//!
//! Everything here follows from what `status` and `show` publish; nothing asks the engine for more. What those two do not
//! have (which nodes were there when quorum was held last, for example) is named as not known.

use drbd_control::protocol::{Config, Connection, Device, PeerDevice, Resource};
use serde::Serialize;

use super::args::Parsed;
use super::{NOT_THERE, NOTHING, configs, print, resources};

mod connection;
mod device;
mod promotion;
mod suspension;
mod text;
mod votes;

use votes::Count;

/// Something that is waited for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Reason {
    /// A word for programs; it stays the same between releases.
    code: &'static str,
    /// What it is, for people.
    text: String,
    /// Who can end it, and how.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Reason {
    fn new(code: &'static str, text: impl Into<String>) -> Reason {
        Reason {
            code,
            text: text.into(),
            remedy: None,
        }
    }

    fn remedy(mut self, remedy: impl Into<String>) -> Reason {
        self.remedy = Some(remedy.into());
        self
    }
}

/// The answer for one resource.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Report {
    name: String,
    node_id: u8,
    role: String,
    /// Why I/O does not go on.
    suspended: Vec<Reason>,
    devices: Vec<DeviceReport>,
    connections: Vec<ConnectionReport>,
    promotion: Promotion,
}

/// The answer for one volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct DeviceReport {
    volume: u16,
    minor: u32,
    disk: String,
    waits: Vec<Reason>,
    /// Absent if no quorum is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    quorum: Option<Count>,
}

/// The answer for one connection.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct ConnectionReport {
    peer_node_id: u8,
    name: String,
    connection: String,
    waits: Vec<Reason>,
    volumes: Vec<PeerDeviceReport>,
}

/// The answer for one volume on a peer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct PeerDeviceReport {
    volume: u16,
    replication: String,
    waits: Vec<Reason>,
}

/// Whether `primary` would succeed now.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Promotion {
    /// As far as this node can tell; its peers are asked, too.
    possible: bool,
    /// Why not; if it is possible, what else there is to know.
    reasons: Vec<Reason>,
}

/// A resource and its configuration.
#[derive(Clone, Copy)]
struct Seen<'a> {
    resource: &'a Resource,
    config: Option<&'a Config>,
}

impl<'a> Seen<'a> {
    /// A resource option, if it was given.
    fn option(&self, name: &str) -> Option<&'a str> {
        Some(self.config?.options.get(name)?.as_str())
    }

    fn connection_config(&self, peer: u8) -> Option<&'a drbd_control::protocol::ConnectionConfig> {
        self.config?.connections.iter().find(|c| c.peer == peer)
    }

    /// A net option, if it was given.
    fn net(&self, peer: u8, name: &str) -> Option<&'a str> {
        Some(self.connection_config(peer)?.net.get(name)?.as_str())
    }

    /// A peer device option, if it was given.
    fn peer_device(&self, peer: u8, volume: u16, name: &str) -> Option<&'a str> {
        let config = self.connection_config(peer)?;
        let (_, options) = config.volumes.iter().find(|(nr, _)| *nr == volume)?;
        Some(options.get(name)?.as_str())
    }

    /// A disk option, if it was given.
    fn disk(&self, volume: u16, name: &str) -> Option<&'a str> {
        let config = self.config?.volumes.iter().find(|v| v.volume == volume)?;
        Some(config.disk.get(name)?.as_str())
    }

    /// The same volume on all peers.
    fn peers(&self, volume: u16) -> impl Iterator<Item = (&'a Connection, &'a PeerDevice)> {
        self.resource.connections.iter().filter_map(move |c| {
            let device = c.peer_devices.iter().find(|d| d.volume == volume)?;
            Some((c, device))
        })
    }

    /// Up-to-date data of a volume can be read, here or on a peer.
    fn has_data(&self, device: &Device) -> bool {
        device.state.disk == "UpToDate"
            || self.peers(device.volume).any(|(c, d)| {
                d.state.replication != "Off"
                    && d.state.peer_disk == "UpToDate"
                    && self.net(c.peer, "allow-remote-read") != Some("no")
            })
    }

    /// The peers that are not connected, for a sentence.
    fn absent(&self) -> Option<String> {
        let absent = self.resource.connections.iter();
        let names: Vec<String> = absent
            .filter(|c| c.state.connection != "Connected")
            .map(|c| format!("{} ({})", name(c), c.state.connection))
            .collect();
        (!names.is_empty()).then(|| names.join(", "))
    }
}

/// A name for a peer.
fn name(connection: &Connection) -> String {
    if connection.state.name.is_empty() {
        format!("node {}", connection.peer)
    } else {
        connection.state.name.clone()
    }
}

fn report(resource: &Resource, config: Option<&Config>) -> Report {
    let seen = Seen { resource, config };
    Report {
        name: resource.name.clone(),
        node_id: resource.node_id,
        role: resource.state.role.clone(),
        suspended: suspension::reasons(&seen),
        devices: resource
            .devices
            .iter()
            .map(|d| device::report(&seen, d))
            .collect(),
        connections: resource
            .connections
            .iter()
            .map(|c| connection::report(&seen, c))
            .collect(),
        promotion: promotion::report(&seen),
    }
}

/// `why`.
pub(super) fn run(parsed: &Parsed) -> Result<u8, String> {
    let which = parsed.arguments.first().map_or("all", String::as_str);
    let list = resources(which)?;
    let configs = configs(which)?;
    let missing = which != "all" && list.is_empty();
    if missing {
        eprintln!("{which}: No such resource");
    }
    let reports: Vec<Report> = list
        .iter()
        .map(|r| report(r, configs.iter().find(|c| c.resource == r.name)))
        .collect();
    if parsed.count("json") > 0 {
        let text = serde_json::to_string_pretty(&reports).map_err(|e| e.to_string())?;
        print(&format!("{text}\n"));
    } else if list.is_empty() && !missing {
        print(&format!("{NOTHING}\n"));
    } else {
        print(&reports.iter().map(text::text).collect::<String>());
    }
    Ok(if missing { NOT_THERE } else { 0 })
}

#[cfg(test)]
mod tests;
