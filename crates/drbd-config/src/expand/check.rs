//! Rules that concern more than one object ("Configuration language", section 11).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::net::IpAddr;

use crate::diagnostic::{Diagnostic, EXIT_INVALID, Severity};
use crate::environment::{Environment, same_host};
use crate::model::{
    Address, Config, Disk, Endpoint, Family, HostKind, MetaDisk, Origin, Resource, Text,
    find_volume,
};
use crate::parser::conflict;
use crate::source::{FileId, Sources, Span};

/// First uses of one kind of thing.
struct Uses<K>(HashMap<K, Span>, &'static str);

impl<K: Hash + Eq> Uses<K> {
    fn note(&mut self, key: K, span: Span, found: &mut Vec<Diagnostic>, text: impl Fn() -> String) {
        match self.0.entry(key) {
            Entry::Vacant(free) => {
                free.insert(span);
            }
            Entry::Occupied(first) => found.push(conflict(self.1, &text(), span, *first.get())),
        }
    }
}

/// Minors, devices, disks and meta disks may be used once per host.
pub(super) fn uniqueness(config: &Config, found: &mut Vec<Diagnostic>) {
    let mut hosts: HashMap<Text, u32> = HashMap::new();
    let all = config.resources.iter().flat_map(|r| &r.hosts);
    let volumes = all.map(|h| h.names.len() * h.volumes.len()).sum();
    let mut minors: Uses<(u32, u32)> = Uses(HashMap::with_capacity(volumes), "device-minor");
    let mut devices: Uses<(u32, Text)> = Uses(HashMap::new(), "device");
    let mut disks: Uses<(u32, Text)> = Uses(HashMap::with_capacity(volumes), "disk");
    let mut metas: Uses<(u32, Text, String)> = Uses(HashMap::new(), "meta-disk");
    for resource in &config.resources {
        let plain = |n: u32| find_volume(&resource.volumes, n).and_then(|v| v.disk.as_ref());
        for host in resource
            .hosts
            .iter()
            .filter(|h| h.kind != HostKind::ThisHost)
        {
            for name in &host.names {
                let next = hosts.len() as u32;
                let id = *hosts.entry(name.clone()).or_insert(next);
                for volume in &host.volumes {
                    let mut named = false;
                    if let Some(minor) = volume.minor {
                        let before = found.len();
                        minors.note((id, minor), volume.device_span, found, || {
                            format!("device-minor:{name}:{minor}")
                        });
                        named = found.len() != before;
                    }
                    // A device name that only repeats the minor says nothing more.
                    let device = volume.device.as_ref().filter(|d| {
                        let number = d.strip_prefix("/dev/drbd").unwrap_or("");
                        !named && number.parse().ok() != volume.minor
                    });
                    if let Some(device) = device {
                        devices.note((id, device.clone()), volume.device_span, found, || {
                            format!("device:{name}:{device}")
                        });
                    }
                    if let (Some(Disk::Path(path)), Some(Disk::Path(outer))) =
                        (&volume.disk, plain(volume.number))
                        && path == outer
                    {
                        disks.note((id, path.clone()), volume.disk_span, found, || {
                            format!("disk:{name}:{path}")
                        });
                    }
                    if let Some(MetaDisk::Flexible(path) | MetaDisk::Indexed(path, _)) =
                        &volume.meta_disk
                    {
                        let index = volume.meta_disk.as_ref().map(MetaDisk::index_word);
                        let index = index.unwrap_or_default();
                        let text = format!("{name}:{path}[{index}]");
                        let key = (id, path.clone(), index);
                        metas.note(key, volume.meta_disk_span, found, || text.clone());
                    }
                }
            }
        }
    }
}

/// An address in the form in which it is compared.
#[derive(Debug, PartialEq, Eq, Hash, Clone)]
enum Place {
    Ip(Family, IpAddr, Option<Text>, u16),
    Text(Family, Text, u16),
}

fn place(address: &Address) -> Option<Place> {
    let ip = address.ip();
    // Loopback addresses end at each host anew.
    if ip.is_some_and(|ip| ip.is_loopback()) {
        return None;
    }
    Some(match ip {
        Some(ip) => {
            let scope = address.host.split_once('%').map(|(_, s)| s.into());
            Place::Ip(address.family, ip, scope, address.port)
        }
        None => Place::Text(address.family, address.host.clone(), address.port),
    })
}

/// Which resource uses an address first: two resources must not share one, nor the two ends of a path.
pub(super) struct AddressUses {
    first: HashMap<Place, (usize, Span)>,
    /// The names of the resources so far.
    names: Vec<Text>,
}

impl AddressUses {
    pub(super) fn new(config: &Config) -> AddressUses {
        let hosts = config.resources.iter().map(|r| r.hosts.len()).sum();
        AddressUses {
            first: HashMap::with_capacity(hosts),
            names: Vec::with_capacity(config.resources.len()),
        }
    }

    /// Notes the addresses of the resource at `r`, the next one.
    pub(super) fn note_all(
        &mut self,
        r: usize,
        resource: &Resource,
        sources: &Sources,
        found: &mut Vec<Diagnostic>,
    ) {
        let AddressUses { first: uses, names } = self;
        names.push(resource.name.clone());
        let both = |address: &Address, span: Span| {
            let message = format!(
                "in resource {} {} is used for both endpoints",
                resource.name,
                address.word()
            );
            Diagnostic::error(span, message).full()
        };
        let mut note = |address: &Address, span: Span, found: &mut Vec<Diagnostic>| {
            let Some(key) = place(address) else { return };
            match uses.entry(key) {
                Entry::Vacant(free) => {
                    free.insert((r, span));
                }
                Entry::Occupied(first) if first.get().0 != r => {
                    let (other, first) = *first.get();
                    let other = names.get(other).map_or("", |name| &**name);
                    let message = format!(
                        "in resource {}\n    {} is also used {}:{} (resource {other})",
                        resource.name,
                        address.word(),
                        sources.full_name(first),
                        first.line,
                    );
                    found.push(Diagnostic::error(span, message).full());
                }
                Entry::Occupied(_) => {}
            }
        };
        // The connections of meshes use the addresses of the hosts; not all of them may be there.
        for mesh in &resource.meshes {
            let mut members: Vec<&Address> = Vec::new();
            for host in &resource.hosts {
                let named = |n: &(Text, Span)| host.names.iter().any(|h| same_host(h, &n.0));
                if !mesh.hosts.iter().any(named) {
                    continue;
                }
                let Some(address) = &host.address else {
                    continue;
                };
                let clash = |m: &&&Address| {
                    m.port == address.port && place(address).is_some_and(|p| place(m) == Some(p))
                };
                let span = host.address_span;
                if members.iter().find(clash).is_some() {
                    found.push(both(address, span));
                }
                members.push(address);
                note(address, span, found);
            }
        }
        // Most connections join the addresses of the hosts: these are looked at once.
        let places: Vec<Option<Place>> = resource
            .hosts
            .iter()
            .map(|h| h.address.as_ref().and_then(place))
            .collect();
        let mut noted = vec![false; places.len()];
        let of_host = |e: &Endpoint| e.host.filter(|_| e.address.is_none() && e.port.is_none());
        for connection in resource
            .connections
            .iter()
            .filter(|c| c.origin != Origin::Mesh)
        {
            for path in &connection.paths {
                if let [a, b] = &path.endpoints[..]
                    && let (Some(x), Some(y)) = (&a.resolved, &b.resolved)
                    && x.port == y.port
                    && match (of_host(a), of_host(b)) {
                        (Some(a), Some(b)) => {
                            let (a, b) = (places.get(a), places.get(b));
                            a == b && a.is_some_and(Option::is_some)
                        }
                        _ => place(x).is_some_and(|p| place(y) == Some(p)),
                    }
                {
                    found.push(both(x, b.span));
                    continue;
                }
                for endpoint in &path.endpoints {
                    let seen = of_host(endpoint).and_then(|h| noted.get_mut(h));
                    if seen.is_some_and(|seen| std::mem::replace(seen, true)) {
                        continue;
                    }
                    if let Some(address) = &endpoint.resolved {
                        note(address, endpoint.span, found);
                    }
                }
            }
        }
    }
}

/// The address of this host's section must exist on this host ("Configuration language",
/// section 7). For commands that configure the network.
pub fn check_addresses(
    config: &Config,
    resource: &Resource,
    environment: &Environment,
) -> Option<Diagnostic> {
    let me = resource.my_host()?;
    let address = me.address.as_ref()?;
    if config.global.disable_ip_verification || environment.is_my_address(address) {
        return None;
    }
    Some(
        Diagnostic::error(
            Span {
                line: 0,
                ..resource.span
            },
            format!(
                "in resource {}, on {}:\n\tIP {} not found on this host.",
                resource.name,
                me.name(),
                address.host
            ),
        )
        .full()
        .show([me.address_span])
        .help("'disable-ip-verification' in 'global' turns this check off"),
    )
}

/// Replaces the names in `resync-after` by minor numbers for the volumes of this host
/// ("Configuration language", section 9.6). Targets that are not known here are dropped with a
/// warning unless somebody sits at a terminal.
pub fn resync_after(config: &mut Config, at: usize, environment: &Environment) -> Vec<Diagnostic> {
    enum Change {
        To(String),
        Drop,
    }
    let mut found = Vec::new();
    let mut changes: Vec<(u32, Change)> = Vec::new();
    let Some(resource) = config.resources.get(at) else {
        return found;
    };
    let Some(me) = resource.my_host() else {
        return found;
    };
    let place = Span {
        line: resource.span.line,
        file: FileId(resource.span.file.0),
        ..resource.span
    };
    for volume in &me.volumes {
        let Some(text) = volume.disk_options.text("resync-after") else {
            continue;
        };
        if text.parse::<i64>().is_ok() {
            continue;
        }
        let prefix = format!("in resource {}:\n\t", resource.name);
        match target(config, text) {
            Ok(minor) => changes.push((volume.number, Change::To(minor.to_string()))),
            Err(Target::Ambiguous(n)) => {
                let message = format!(
                    "{prefix}resync-after contains '{text}', which is ambiguous, since it \
                     contains {n} volumes"
                );
                found.push(Diagnostic::error(place, message).full());
            }
            Err(Target::Unknown(elsewhere)) => {
                let here = if elsewhere { " on this host" } else { "" };
                let message = format!(
                    "{prefix}resource '{text}' mentioned in 'resync-after' option is not \
                     known{here}."
                );
                found.push(Diagnostic {
                    severity: if environment.terminal {
                        Severity::Error
                    } else {
                        Severity::Warning
                    },
                    exit: EXIT_INVALID,
                    ..Diagnostic::error(place, message).full()
                });
                changes.push((volume.number, Change::Drop));
            }
        }
    }
    let volumes = config.resources.get_mut(at).and_then(|r| {
        let me = r.me?;
        r.hosts.get_mut(me).map(|h| &mut h.volumes)
    });
    for volume in volumes.into_iter().flatten() {
        for (_, change) in changes.iter().filter(|(n, _)| *n == volume.number) {
            match change {
                Change::To(minor) => volume.disk_options.replace("resync-after", minor),
                Change::Drop => {
                    volume.disk_options.remove("resync-after");
                }
            }
        }
    }
    found
}

enum Target {
    Ambiguous(usize),
    /// True if the resource exists, but not on this host.
    Unknown(bool),
}

fn target(config: &Config, text: &str) -> Result<u32, Target> {
    let (name, number) = match text.rsplit_once('/') {
        Some((name, number)) if config.resource(text).is_none() => (name, number.parse().ok()),
        _ => (text, None),
    };
    let resource = config.resource(name).ok_or(Target::Unknown(false))?;
    let me = resource.my_host().ok_or(Target::Unknown(true))?;
    let volume = match (number, &me.volumes[..]) {
        (Some(number), _) => me.volume(number),
        (None, [only]) => Some(only),
        (None, []) => None,
        (None, many) => return Err(Target::Ambiguous(many.len())),
    };
    volume.and_then(|v| v.minor).ok_or(Target::Unknown(false))
}
