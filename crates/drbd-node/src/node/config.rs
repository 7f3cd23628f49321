//! What was configured: the daemon's memory of the commands that succeeded, for `show` and for changes of
//! single options.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::options::Values;
use crate::control::protocol as view;
use crate::netns::Netns;

/// Configuration of a resource.
#[derive(Clone, Debug, Default)]
pub(super) struct Config {
    pub(super) options: Values,
    pub(super) volumes: BTreeMap<u16, Volume>,
    pub(super) peers: BTreeMap<u8, Peer>,
}

/// Configuration of a volume.
#[derive(Clone, Debug)]
pub(super) struct Volume {
    pub(super) minor: u32,
    pub(super) device: Values,
    pub(super) backing: Option<view::BackingConfig>,
    pub(super) disk: Values,
    /// Made diskless on purpose by `detach --diskless`.
    pub(super) diskless: bool,
}

/// Configuration of a connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Peer {
    pub(super) net: Values,
    pub(super) paths: Vec<(SocketAddr, SocketAddr)>,
    /// Where it lives if it has paths; `None`: in the daemon's own network namespace.
    pub(super) netns: Option<Arc<Netns>>,
    pub(super) devices: BTreeMap<u16, Values>,
}

impl Config {
    /// As `show` has it. `cstate` gives the state of a connection, `disk_size` the size in sectors that an attached disk
    /// was told to have (`resize` may have come from a peer), `places` where a volume is found.
    pub(super) fn view(
        &self,
        resource: &str,
        node_id: u8,
        cstate: impl Fn(u8) -> String,
        disk_size: impl Fn(u16) -> Option<u64>,
        places: impl Fn(u16) -> Vec<String>,
    ) -> view::Config {
        let volumes = self.volumes.iter().map(|(nr, volume)| {
            // A disk that was lost is not shown, although nobody said detach.
            let size = disk_size(*nr);
            let backing = volume.backing.clone().filter(|_| size.is_some());
            view::VolumeConfig {
                volume: *nr,
                minor: volume.minor,
                diskless: volume.diskless || volume.device.flag("diskless"),
                disk: if backing.is_some() {
                    volume.disk.with_size(size.unwrap_or(0)).shown()
                } else {
                    Default::default()
                },
                backing,
                device: volume.device.shown(),
                places: places(*nr),
            }
        });
        let connections = self
            .peers
            .iter()
            .map(|(peer, config)| view::ConnectionConfig {
                peer: *peer,
                paths: config.paths.clone(),
                cstate: cstate(*peer),
                net: config.net.shown(),
                volumes: config
                    .devices
                    .iter()
                    .map(|(nr, values)| (*nr, values.shown()))
                    .collect(),
            });
        view::Config {
            resource: resource.to_owned(),
            options: self.options.shown(),
            node_id,
            volumes: volumes.collect(),
            connections: connections.collect(),
        }
    }
}
