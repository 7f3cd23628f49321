//! Resources stacked on others ("Configuration language", section 4.4).

use std::collections::HashMap;

use crate::diagnostic::Diagnostic;
use crate::environment::Environment;
use crate::model::{Config, Disk, HostKind, Text};
use crate::parser::conflict;
use crate::source::Span;

/// Levels of stacking that are followed.
const LEVELS: usize = 8;

/// Gives stacked host sections the names of the lower resource's hosts.
pub(super) fn resolve(config: &mut Config, found: &mut Vec<Diagnostic>) {
    let mut lower_used: HashMap<Text, Span> = HashMap::new();
    let index: HashMap<Text, usize> = config
        .resources
        .iter()
        .enumerate()
        .map(|(i, r)| (r.name.clone(), i))
        .collect();
    let mut stacked: Vec<(usize, usize, usize)> = Vec::new();
    for (r, resource) in config.resources.iter().enumerate() {
        for (h, host) in resource.hosts.iter().enumerate() {
            let HostKind::Stacked(lower) = &host.kind else {
                continue;
            };
            let Some(at) = index.get(lower) else {
                found.push(
                    Diagnostic::error(
                        host.span,
                        format!(
                            "in resource {}, referenced resource '{lower}' not defined.",
                            resource.name
                        ),
                    )
                    .full(),
                );
                continue;
            };
            if let Some(first) = lower_used.insert(lower.clone(), host.span) {
                let key = format!("stacked:{lower}");
                found.push(conflict("stacked-on-top-of", &key, host.span, first));
            }
            stacked.push((r, h, *at));
        }
    }
    for _ in 0..LEVELS {
        let mut open = false;
        for &(r, h, lower) in &stacked {
            let mut names: Vec<Text> = Vec::new();
            let hosts = config.resources.get(lower).map_or(&[][..], |l| &l.hosts);
            for name in hosts.iter().flat_map(|h| &h.names) {
                if !names.contains(name) {
                    names.push(name.clone());
                }
            }
            let host = config.resources.get_mut(r).and_then(|r| r.hosts.get_mut(h));
            if let Some(host) = host {
                open |= names.is_empty();
                host.names = names;
            }
        }
        if !open {
            break;
        }
    }
}

/// The disk of a stacked volume is the device of the lower resource's volume of the same number.
pub(super) fn disks(config: &mut Config, environment: &Environment) {
    let mut disks: Vec<(usize, usize, usize, Text)> = Vec::new();
    let index: HashMap<&str, usize> = config
        .resources
        .iter()
        .enumerate()
        .map(|(i, r)| (&*r.name, i))
        .collect();
    for (r, resource) in config.resources.iter().enumerate() {
        for (h, host) in resource.hosts.iter().enumerate() {
            let HostKind::Stacked(lower) = &host.kind else {
                continue;
            };
            let lower = index.get(&**lower).and_then(|i| config.resources.get(*i));
            let Some(lower) = lower else { continue };
            let mine = lower
                .hosts
                .iter()
                .find(|h| h.names.iter().any(|n| environment.is_my_name(n)))
                .or_else(|| lower.hosts.first());
            for (v, volume) in host.volumes.iter().enumerate() {
                let below = mine
                    .and_then(|m| m.volume(volume.number))
                    .and_then(|v| v.minor);
                if let Some(minor) = below {
                    disks.push((r, h, v, format!("/dev/drbd{minor}").into()));
                }
            }
        }
    }
    for (r, h, v, disk) in disks {
        let volume = config
            .resources
            .get_mut(r)
            .and_then(|r| r.hosts.get_mut(h))
            .and_then(|h| h.volumes.get_mut(v));
        if let Some(volume) = volume {
            volume.disk = Some(Disk::Path(disk));
        }
    }
}
