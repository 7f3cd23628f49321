//! Connections: those of meshes, the implicit one, and which hosts and addresses they join
//! ("Configuration language", sections 4.6, 9.3).

use std::collections::HashSet;

use crate::diagnostic::Diagnostic;
use crate::environment::same_host;
use crate::model::{
    Address, Connection, Endpoint, EndpointKind, Host, HostKind, Origin, Path, PeerDevice,
    Resource, Text,
};
use crate::options::OptionSet;
use crate::source::Span;

use super::Extent;

/// Every path must have two endpoints.
pub(super) fn check_endpoints(resource: &Resource, found: &mut Vec<Diagnostic>) {
    for path in resource.connections.iter().flat_map(|c| &c.paths) {
        if path.endpoints.len() != 2 {
            let what = if path.implicit { "connection" } else { "path" };
            found.push(
                Diagnostic::error(
                    path.span,
                    format!(
                        "Resource {}: {what} needs to have two endpoints",
                        resource.name
                    ),
                )
                .full(),
            );
        }
    }
}

/// The end of a generated connection at a host.
fn generated(host: &Host, index: usize) -> Endpoint {
    let kind = match &host.kind {
        HostKind::Stacked(_) => EndpointKind::Address,
        _ => EndpointKind::Host(host.names.first().cloned().unwrap_or_else(|| "".into())),
    };
    Endpoint {
        host: Some(index),
        resolved: host.address.clone(),
        proxy: host.proxy.clone(),
        ..Endpoint::new(kind, host.address_span, host.address.clone())
    }
}

/// A generated connection counts as written nowhere: line 0 of the resource's file.
fn nowhere(resource: &Resource) -> Span {
    Span {
        line: 0,
        ..resource.span
    }
}

/// Adds the connections of meshes, or the implicit one.
pub(super) fn generate(resource: &mut Resource, extent: Extent, found: &mut Vec<Diagnostic>) {
    let mut new: Vec<Connection> = Vec::new();
    let mut pairs: HashSet<[usize; 2]> = HashSet::new();
    let own_only = matches!(extent, Extent::Written | Extent::Own) && meshes_are_simple(resource);
    for mesh in &resource.meshes {
        let mut members: Vec<(usize, &Host)> = Vec::new();
        for (name, span) in &mesh.hosts {
            let Some(at) = find_host(resource, name) else {
                found.push(
                    Diagnostic::error(
                        *span,
                        format!(
                            "in resource {}:\n\tThere is no 'on' section for hostname '{name}' \
                             named in the connection-mesh",
                            resource.name
                        ),
                    )
                    .full(),
                );
                continue;
            };
            let Some(host) = resource.hosts.get(at) else {
                continue;
            };
            if members.iter().any(|(m, ..)| *m == at) {
                let message = format!(
                    "in resource {}: '{name}' is in this mesh twice",
                    resource.name
                );
                found.push(Diagnostic::error(*span, message));
                break;
            }
            if host.address.is_none() {
                found.push(Diagnostic::error(
                    *span,
                    format!(
                        "\"connection-mesh\" (for \"{}\") with a host (\"{name}\") that has no \
                         \"address\" defined",
                        resource.name
                    ),
                ));
                continue;
            }
            if let Some(proxy) = &host.proxy {
                let message = format!(
                    "in resource {}:\n\tThere is a drbd-8.x proxy config syntax within an 'on' \
                     section; a 'connection-mesh' does not know proxies.",
                    resource.name
                );
                found.push(
                    Diagnostic::error(host.span, message)
                        .full()
                        .show([proxy.span])
                        .help(format!(
                            "write a 'connection' with the proxy and leave '{name}' out of the mesh"
                        )),
                );
                break;
            }
            members.push((at, host));
        }
        let net = mesh.net.inherited();
        // If this host is not a member, one connection stands for all.
        let mine = members.iter().any(|(h, ..)| Some(*h) == resource.me);
        for (i, (a, host_a)) in members.iter().enumerate() {
            for (b, host_b) in members.iter().skip(i + 1) {
                let own = if mine {
                    resource.me.is_some_and(|me| me == *a || me == *b)
                } else {
                    new.is_empty()
                };
                if own_only && !own {
                    continue;
                }
                let pair = [*a.min(b), *a.max(b)];
                if !pairs.insert(pair) {
                    found.push(connected_twice(resource, mesh.span, pair));
                    continue;
                }
                let mut c = Connection::new(
                    Origin::Mesh,
                    Span {
                        line: 0,
                        ..mesh.span
                    },
                );
                c.paths.push(Path {
                    implicit: true,
                    span: c.span,
                    endpoints: vec![generated(host_a, *a), generated(host_b, *b)],
                });
                c.hosts = Some([*a, *b]);
                c.net = net.clone();
                new.push(c);
            }
        }
    }
    // A mesh of one host connects nothing.
    if resource.connections.is_empty() && new.is_empty() {
        if let [a, b] = &resource.hosts[..] {
            if a.address.is_some() && b.address.is_some() {
                let mut c = Connection::new(Origin::Implicit, nowhere(resource));
                c.paths.push(Path {
                    implicit: true,
                    span: c.span,
                    endpoints: vec![generated(a, 0), generated(b, 1)],
                });
                c.hosts = Some([0, 1]);
                new.push(c);
            }
        } else if resource.hosts.len() > 2 {
            found.push(Diagnostic::warning(
                resource.span,
                format!(
                    "Resource {}:\n\tUse explicit 'connection' sections (or a \
                     'connection-mesh' section) with more than two 'on' sections.",
                    resource.name
                ),
            ));
        }
    }
    resource.connections.append(&mut new);
}

/// True if the connections of a mesh among other hosts can only be right or wrong in the same way
/// as our own: then they need not be made.
fn meshes_are_simple(resource: &Resource) -> bool {
    let [mesh] = &resource.meshes[..] else {
        return false;
    };
    let distinct: HashSet<&str> = mesh.hosts.iter().map(|(n, _)| &**n).collect();
    distinct.len() == mesh.hosts.len()
        && resource.connections.is_empty()
        && resource.hosts.iter().all(|h| {
            h.node_id.is_some()
                && h.names.len() == 1
                && h.volumes.iter().all(|v| v.peer_device_options.is_empty())
        })
}

/// Marks the connections that involve this host.
pub(super) fn mark_own(resource: &mut Resource) {
    for connection in &mut resource.connections {
        connection.peer = match (connection.hosts, resource.me) {
            (Some([a, b]), Some(me)) if a == me => Some(b),
            (Some([a, b]), Some(me)) if b == me => Some(a),
            _ => None,
        };
        connection.ignored = connection.peer.is_none();
    }
}

/// The names of all hosts by the place of their text: equal names that were written are one text. What is not found here is
/// looked for by [`find_host`].
struct Places(Vec<(usize, usize)>);

impl Places {
    fn of(resource: &Resource) -> Places {
        let hosts = resource.hosts.iter().enumerate();
        let names = hosts.flat_map(|(i, h)| h.names.iter().map(move |n| (Self::place(n), i)));
        Places(names.collect())
    }

    fn place(text: &Text) -> usize {
        Text::as_ptr(text).cast::<u8>().addr()
    }

    fn find(&self, name: &Text) -> Option<usize> {
        let place = Self::place(name);
        let found = self.0.iter().find(|(p, _)| *p == place);
        found.map(|(_, host)| *host)
    }
}

fn find_host(resource: &Resource, name: &str) -> Option<usize> {
    // An exact name is found first, so that alpha.a and alpha.b can live together.
    let exact = resource
        .hosts
        .iter()
        .position(|h| h.names.iter().any(|n| **n == *name));
    exact.or_else(|| {
        resource
            .hosts
            .iter()
            .position(|h| h.names.iter().any(|n| same_host(n, name)))
    })
}

/// Finds the host section and the address of every endpoint.
pub(super) fn resolve(resource: &mut Resource, found: &mut Vec<Diagnostic>) {
    let mut connections = std::mem::take(&mut resource.connections);
    // Which hosts are connected: a row for each, there are few.
    let width = resource.hosts.len();
    let mut pairs = vec![false; width * width];
    let places = Places::of(resource);
    for connection in &mut connections {
        if connection.origin == Origin::Explicit {
            resolve_one(resource, &places, connection, found);
        }
        let Some([a, b]) = connection.hosts else {
            continue;
        };
        let pair = [a.min(b), a.max(b)];
        let name = |i: usize| resource.hosts.get(i).map_or("", Host::name);
        let span = if connection.span.line == 0 {
            resource.span
        } else {
            connection.span
        };
        if a == b {
            let message = format!(
                "Resource {}: both ends of this connection are host {}",
                resource.name,
                name(a)
            );
            found.push(Diagnostic::error(span, message));
        } else if let Some(seen) = pairs.get_mut(pair[0] * width + pair[1])
            && std::mem::replace(seen, true)
        {
            found.push(connected_twice(resource, span, pair));
        }
    }
    resource.connections = connections;
}

fn connected_twice(resource: &Resource, span: Span, [a, b]: [usize; 2]) -> Diagnostic {
    let name = |i: usize| resource.hosts.get(i).map_or("", Host::name);
    let message = format!(
        "Resource {}: hosts {} and {} are connected more than once",
        resource.name,
        name(a),
        name(b)
    );
    Diagnostic::error(span, message).help("use several 'path' sections in one 'connection'")
}

fn resolve_one(
    resource: &Resource,
    places: &Places,
    connection: &mut Connection,
    found: &mut Vec<Diagnostic>,
) {
    for path in &mut connection.paths {
        for endpoint in &mut path.endpoints {
            match endpoint.kind {
                EndpointKind::ThisHost | EndpointKind::RemoteHost => {
                    endpoint.resolved = endpoint.address.clone();
                }
                EndpointKind::Host(_) | EndpointKind::Address => {
                    resolve_endpoint(resource, places, endpoint, found);
                }
            }
        }
        if let [a, b] = &path.endpoints[..]
            && let (Some(a), Some(b)) = (a.host, b.host)
        {
            match connection.hosts {
                None => connection.hosts = Some([a, b]),
                Some([x, y]) if [x, y] == [a, b] || [y, x] == [a, b] => {}
                Some(_) => found.push(Diagnostic::error(
                    path.span,
                    format!(
                        "Resource {}: all paths of a connection must join the same two hosts",
                        resource.name
                    ),
                )),
            }
        }
    }
}

fn resolve_endpoint(
    resource: &Resource,
    places: &Places,
    endpoint: &mut Endpoint,
    found: &mut Vec<Diagnostic>,
) {
    let name: &str = match &endpoint.kind {
        EndpointKind::Host(name) => {
            endpoint.host = places.find(name).or_else(|| find_host(resource, name));
            if endpoint.host.is_none() {
                let message = format!(
                    "in resource {} a hostname (\"{name}\") is given\n\
                     with a \"host\" keyword, has no \"address\" keyword, and no matching\n\
                     host section (\"on\" keyword)",
                    resource.name
                );
                let names = resource.hosts.iter().flat_map(|h| &h.names).map(|n| &**n);
                let help =
                    crate::diagnostic::nearest(name, names).map(|n| format!("did you mean '{n}'?"));
                found.push(Diagnostic::error(endpoint.span, message).maybe_help(help));
                return;
            }
            name
        }
        _ => {
            let same = |h: &Host| h.address.is_some() && h.address == endpoint.address;
            endpoint.host = resource.hosts.iter().position(same);
            if endpoint.host.is_none() {
                let address = endpoint.address.as_ref().map(Address::to_string);
                found.push(Diagnostic::error(
                    endpoint.span,
                    format!(
                        "in resource {}: no host section has the address {}",
                        resource.name,
                        address.unwrap_or_default()
                    ),
                ));
                return;
            }
            ""
        }
    };
    let host = endpoint.host.and_then(|h| resource.hosts.get(h));
    let fallback = host.and_then(|h| h.address.clone());
    endpoint.resolved = match (&endpoint.address, endpoint.port, fallback) {
        (Some(address), _, _) => Some(address.clone()),
        (None, Some(port), Some(address)) => Some(Address { port, ..address }),
        (None, None, Some(address)) => Some(address),
        (None, port, None) => {
            let what = if port.is_some() {
                "address"
            } else {
                "address and port"
            };
            found.push(
                Diagnostic::error(
                    endpoint.span,
                    format!(
                        "Resource {}, host {name}: cannot determine which {what} to use",
                        resource.name
                    ),
                )
                .help(format!("give the host section of {name} an 'address'")),
            );
            None
        }
    };
}

/// With a proxy at one end of a connection there must be one at the other end, too. Resources that this host has no part in are
/// not looked at ("Configuration language", section 11).
pub fn check_proxies(resource: &Resource) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let hosts = resource.hosts.iter().filter(|h| h.proxy.is_some()).count();
    if hosts != 0 && hosts != resource.hosts.len() {
        let message = format!(
            "in resource {}:\n\tEither all 'on' sections must contain a proxy subsection, or none.",
            resource.name
        );
        found.push(Diagnostic::error(resource.span, message).full());
    }
    for connection in &resource.connections {
        let mixed = |path: &Path| {
            let with = path.endpoints.iter().filter(|e| e.proxy.is_some()).count();
            with != 0 && with != path.endpoints.len()
        };
        if connection.paths.iter().any(mixed) {
            let message = format!(
                "in connection in resource {}:\n\
                 Either all 'host' statements must have a proxy subsection, or none.",
                resource.name
            );
            found.push(Diagnostic::error(connection.span, message).full());
        }
    }
    found
}

/// Completes the peer devices of every connection, one for each volume, unless only what was written is wanted.
pub(super) fn peer_devices(resource: &mut Resource, extent: Extent, found: &mut Vec<Diagnostic>) {
    let Resource {
        connections,
        hosts,
        name,
        ..
    } = resource;
    for connection in connections {
        let Some(ends) = connection.hosts else {
            continue;
        };
        for device in &connection.peer_devices {
            for host in ends.iter().filter_map(|e| hosts.get(*e)) {
                if host.volume(device.volume).is_none() {
                    found.push(
                        Diagnostic::error(
                            device.span,
                            format!(
                                "Resource {name}: There is a reference to a volume {} that is \
                                 not known in this resource on host {}",
                                device.volume,
                                host.name()
                            ),
                        )
                        .full(),
                    );
                }
            }
        }
        let Some(first) = ends.first().and_then(|e| hosts.get(*e)) else {
            continue;
        };
        if extent == Extent::Written {
            continue;
        }
        let given: HashSet<u32> = connection.peer_devices.iter().map(|d| d.volume).collect();
        connection.peer_devices.reserve_exact(first.volumes.len());
        for volume in &first.volumes {
            if !given.contains(&volume.number) {
                connection.peer_devices.push(PeerDevice {
                    volume: volume.number,
                    span: volume.span,
                    implicit: true,
                    options: OptionSet::default(),
                });
            }
        }
    }
}
