//! `drbdsetup events2`: the current state and every change of it as lines (CLI, section 16).
//!
//! | Module | Its question |
//! |---|---|
//! | `known` | Which objects are there, in which state? |
//! | `promotion` | May the resource be promoted here? |
//! | `fields` | Which keys of an object are printed? |

use std::collections::BTreeMap;

use drbd_control::protocol::Event;

mod fields;
mod known;
mod promotion;
#[cfg(test)]
mod replay;
#[cfg(test)]
mod tests;

use fields::fields;
use known::{Key, Known};

/// What is wanted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted {
    /// `--statistics`.
    pub(super) statistics: bool,
    /// `--full`.
    pub(super) full: bool,
    /// `--diff`.
    pub(super) diff: bool,
    /// States have colours. With `--diff` they have none.
    pub(super) color: bool,
}

/// Turns events into lines.
pub(super) struct Printer {
    wanted: Wanted,
    known: BTreeMap<String, Known>,
    initial: bool,
}

impl Printer {
    pub(super) fn new(wanted: Wanted) -> Printer {
        Printer {
            wanted,
            known: BTreeMap::new(),
            initial: true,
        }
    }

    /// The lines that an event gives, without time stamps. Changes that continue give theirs with the last.
    pub(super) fn lines(&mut self, event: Event) -> Vec<String> {
        let (resource, continues) = match event {
            Event::SnapshotsEnd => {
                self.initial = false;
                return vec!["exists -".to_owned()];
            }
            Event::Helper {
                resource,
                helper,
                peer,
                volume,
                status,
            } => {
                return vec![self.helper(&resource, &helper, peer, volume, status)];
            }
            Event::Snapshot(snapshot) => {
                let name = snapshot.name.clone();
                self.known.entry(name.clone()).or_default().learn(*snapshot);
                (name, false)
            }
            Event::Renamed { resource, new } => {
                if let Some(known) = self.known.remove(&resource) {
                    self.known.insert(new.clone(), known);
                }
                let line = format!("rename resource name:{resource} new_name:{new}");
                // What the objects are called now is no change of theirs.
                let mut lines = vec![line];
                lines.extend(self.batch(&new));
                return lines;
            }
            Event::Gone { resource } => {
                let known = self.known.entry(resource.clone()).or_default();
                let shown = std::mem::take(&mut known.shown);
                *known = Known {
                    shown,
                    ..Known::default()
                };
                (resource, false)
            }
            Event::Resource {
                resource,
                state,
                continues,
            } => {
                self.known.entry(resource.clone()).or_default().state = state;
                (resource, continues)
            }
            Event::Connection {
                resource,
                peer,
                state,
                continues,
            } => {
                let known = self.known.entry(resource.clone()).or_default();
                match state {
                    Some(state) => known.learn_connection(peer, state),
                    None => {
                        known.connections.remove(&peer);
                        known.peer_devices.retain(|(p, _), _| *p != peer);
                        known.paths.retain(|(p, _), _| *p != peer);
                    }
                }
                (resource, continues)
            }
            Event::Device {
                resource,
                volume,
                state,
                continues,
            } => {
                set(
                    &mut self.known.entry(resource.clone()).or_default().devices,
                    volume,
                    state,
                );
                (resource, continues)
            }
            Event::PeerDevice {
                resource,
                peer,
                volume,
                state,
                continues,
            } => {
                let known = self.known.entry(resource.clone()).or_default();
                set(&mut known.peer_devices, (peer, volume), state);
                (resource, continues)
            }
            Event::Path {
                resource,
                peer,
                local,
                remote,
                established,
                continues,
            } => {
                let known = self.known.entry(resource.clone()).or_default();
                set(&mut known.paths, (peer, (local, remote)), established);
                (resource, continues)
            }
        };
        if continues {
            Vec::new()
        } else {
            self.batch(&resource)
        }
    }

    /// What differs from what was shown of a resource.
    fn batch(&mut self, name: &str) -> Vec<String> {
        let statistics = self.wanted.statistics || self.wanted.full;
        let Some(known) = self.known.get_mut(name) else {
            return Vec::new();
        };
        let now = known.objects(name, statistics);
        let before = std::mem::replace(&mut known.shown, now);
        let mut lines = Vec::new();
        for (key, shown) in &known.shown {
            let old = before.get(key).map(|old| old.groups.as_slice());
            let kind = match (old, self.initial) {
                (None, true) => "exists",
                (None, false) => "create",
                (Some(_), _) => "change",
            };
            let fields = fields(old, &shown.groups, self.wanted, key.side());
            if old.is_none() || !fields.is_empty() {
                lines.push(format!("{kind} {} {}{fields}", key.kind(), shown.identity));
            }
        }
        let mut gone: Vec<_> = before
            .iter()
            .filter(|(key, _)| !known.shown.contains_key(key))
            .collect();
        gone.sort_by_key(|(key, _)| (key.end_rank(), **key));
        for (key, shown) in gone {
            // With a connection everything in it goes without saying.
            if key
                .peer()
                .is_some_and(|peer| !known.connections.contains_key(&peer))
            {
                continue;
            }
            let mut identity = shown.identity.as_str();
            if let (Key::Device(_), Some((short, _))) = (key, identity.split_once(" minor:")) {
                identity = short;
            }
            lines.push(format!("destroy {} {identity}", key.kind()));
        }
        if known.state.is_none() && known.shown.is_empty() {
            self.known.remove(name);
        }
        lines
    }

    fn helper(
        &self,
        resource: &str,
        helper: &str,
        peer: Option<u8>,
        volume: Option<u16>,
        status: Option<i32>,
    ) -> String {
        let kind = if status.is_some() { "response" } else { "call" };
        let mut line = format!("{kind} helper name:{resource}");
        let known = self.known.get(resource);
        if let Some(peer) = peer {
            let connection = known.and_then(|k| k.connections.get(&peer));
            let name = connection.map_or("", |c| c.name.as_str());
            line.push_str(&format!(" peer-node-id:{peer} conn-name:{name}"));
        }
        if let Some(volume) = volume {
            line.push_str(&format!(" volume:{volume}"));
            if let Some(device) = known.and_then(|k| k.devices.get(&volume)) {
                line.push_str(&format!(" minor:{}", device.minor));
            }
        }
        line.push_str(&format!(" helper:{helper}"));
        if let Some(status) = status {
            line.push_str(&format!(" status:{status}"));
        }
        line
    }
}

fn set<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => {
            map.insert(key, value);
        }
        None => {
            map.remove(&key);
        }
    }
}
