//! Completing what was written: volumes, connections, node ids, the local host, inheritance
//! ("Configuration language", sections 7 to 11).

mod check;
mod connections;
mod inherit;
mod node_ids;
mod stacked;
mod volumes;

pub use check::{check_addresses, resync_after};
pub use connections::check_proxies;
pub use inherit::peer_device_extras;
pub use node_ids::address_hash;

use crate::diagnostic::{Diagnostic, Severity};
use crate::environment::Environment;
use crate::model::{Config, HostKind, Resource};

/// How much of a configuration is completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Structure only, without inheritance of options: for plain dumps.
    Written,
    /// The same with all connections.
    Structure,
    /// What this host needs to work with. The connections of a mesh among other hosts may be
    /// left out; whatever could be wrong with them is checked all the same.
    Own,
    /// Everything, for all hosts.
    All,
}

/// Completes a configuration in place for one node and checks it.
///
/// Returns errors and warnings; with errors the model is only good for more messages.
pub fn expand(config: &mut Config, environment: &Environment, extent: Extent) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    complete(config, environment, extent, &mut found);
    cap(&mut found);
    found
}

fn complete(
    config: &mut Config,
    environment: &Environment,
    extent: Extent,
    found: &mut Vec<Diagnostic>,
) {
    for resource in &mut config.resources {
        volumes::distribute(resource, &environment.node_name, found);
    }
    stacked::resolve(config, found);
    check::uniqueness(config, found);
    if failed(found) {
        return;
    }
    // One resource after the other, as long as its connections are at hand; the findings come in the order of the rules.
    let (mut resolving, mut clashes, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
    let mut uses = check::AddressUses::new(config);
    for (at, resource) in config.resources.iter_mut().enumerate() {
        connections::check_endpoints(resource, found);
        find_me(resource, environment, &mut resolving);
        connections::generate(resource, extent, &mut resolving);
        connections::resolve(resource, &mut resolving);
        node_ids::assign(resource, &mut resolving);
        uses.note_all(at, resource, &config.sources, &mut clashes);
        connections::mark_own(resource);
        connections::peer_devices(resource, extent, &mut unknown);
    }
    if failed(found) {
        return;
    }
    found.append(&mut resolving);
    found.append(&mut clashes);
    found.append(&mut unknown);
    for resource in config.resources.iter().filter(|r| !r.ignored) {
        found.append(&mut check_proxies(resource));
    }
    stacked::disks(config, environment);
    if matches!(extent, Extent::Own | Extent::All) && !failed(found) {
        config.resources.iter_mut().for_each(volumes::finish);
        inherit::merge(config, found);
    }
}

/// Errors and warnings that are kept at most, of each.
const MAX_FINDINGS: usize = 200;

/// Leaves out what nobody would read.
fn cap(found: &mut Vec<Diagnostic>) {
    let (mut errors, mut warnings) = (0, 0);
    found.retain(|d| {
        let count = match d.severity {
            Severity::Error => &mut errors,
            Severity::Warning => &mut warnings,
        };
        *count += 1;
        *count <= MAX_FINDINGS
    });
}

/// True if there is an error among the findings.
pub fn failed(found: &[Diagnostic]) -> bool {
    found.iter().any(|d| d.severity == Severity::Error)
}

/// Which host section is this node's ("Configuration language", section 7).
fn find_me(resource: &mut Resource, environment: &Environment, found: &mut Vec<Diagnostic>) {
    let mine = |stacked: bool| {
        let matches = resource
            .hosts
            .iter()
            .enumerate()
            .filter(move |(_, h)| match &h.kind {
                HostKind::ThisHost => !stacked,
                HostKind::On => !stacked && h.names.iter().any(|n| environment.is_my_name(n)),
                HostKind::Floating => {
                    !stacked
                        && h.address.as_ref().is_some_and(|a| {
                            *a.host == *environment.node_name || environment.is_my_address(a)
                        })
                }
                HostKind::Stacked(_) => {
                    stacked && h.names.iter().any(|n| environment.is_my_name(n))
                }
            });
        matches.map(|(i, _)| i).collect::<Vec<_>>()
    };
    let plain = mine(false);
    if let [first, second, ..] = plain[..]
        && let (Some(a), Some(b)) = (resource.hosts.get(first), resource.hosts.get(second))
    {
        found.push(
            Diagnostic::error(
                b.span,
                format!(
                    "in resource {}, on {} {{ ... }} ... on {} {{ ... }}:\n\
                     \tThere are multiple host sections for this node.",
                    resource.name,
                    a.name(),
                    b.name()
                ),
            )
            .full(),
        );
    }
    resource.me = plain
        .first()
        .copied()
        .or_else(|| mine(true).first().copied());
    resource.ignored = resource.me.is_none();
    resource.stacked = resource
        .me
        .and_then(|m| resource.hosts.get(m))
        .is_some_and(|h| h.is_stacked());
}
