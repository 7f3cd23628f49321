//! Inheritance of options ("Configuration language", section 10).

use crate::diagnostic::Diagnostic;
use crate::model::{Config, Connection, Disk, ProxyOptions, Resource, Sections};
use crate::options::OptionSet;
use crate::source::Span;

struct Report<'f> {
    found: &'f mut Vec<Diagnostic>,
    resource: String,
    span: Span,
}

impl Report<'_> {
    fn into(&mut self, target: &mut OptionSet, source: &OptionSet) {
        if source.is_empty() {
            return;
        }
        target.inherit(source, |a| {
            let message = format!(
                "in resource {}, ambiguous inheritance for option \"{}\".\n\
                 should be \"{}\" and \"{}\" at the same time.",
                self.resource, a.name, a.old, a.new
            );
            let again = |d: &Diagnostic| d.span == Some(self.span) && d.message == message;
            if !self.found.iter().any(again) {
                self.found.push(
                    Diagnostic::error(self.span, message.clone())
                        .full()
                        .show(a.spans)
                        .help("an option may come from one of the sections around only"),
                );
            }
        });
    }
}

/// Merges all options down to where they are used.
pub(super) fn merge(config: &mut Config, found: &mut Vec<Diagnostic>) {
    let common = config.common.take();
    for resource in &mut config.resources {
        let mut report = Report {
            found,
            resource: resource.name.to_string(),
            span: resource.span,
        };
        let template = resource.template.take();
        let outer = template
            .as_ref()
            .map(|(_, common)| common)
            .or(common.as_ref());
        if let Some(outer) = outer {
            sections(&mut resource.sections, &outer.sections, &mut report);
        }
        resource.template = template;
        one(resource, &mut report);
    }
    config.common = common;
}

fn sections(target: &mut Sections, outer: &Sections, report: &mut Report<'_>) {
    report.into(&mut target.net, &outer.net);
    report.into(&mut target.device, &outer.device);
    report.into(&mut target.disk, &outer.disk);
    report.into(&mut target.peer_device, &outer.peer_device);
    report.into(&mut target.startup, &outer.startup);
    proxy(&mut target.proxy, &outer.proxy, report);
    report.into(&mut target.handlers, &outer.handlers);
    report.into(&mut target.resource, &outer.resource);
    target.stacked_timeouts |= outer.stacked_timeouts;
}

fn proxy(target: &mut ProxyOptions, outer: &ProxyOptions, report: &mut Report<'_>) {
    report.into(&mut target.options, &outer.options);
    // Like options: what is missing goes to the front, one by one.
    let missing = |p: &&String| !target.plugins.contains(p);
    let mut plugins: Vec<String> = outer.plugins.iter().filter(missing).cloned().collect();
    plugins.reverse();
    plugins.append(&mut target.plugins);
    target.plugins = plugins;
}

fn one(resource: &mut Resource, report: &mut Report<'_>) {
    let Resource {
        volumes,
        hosts,
        connections,
        sections,
        ..
    } = resource;
    for host in hosts.iter_mut() {
        if let Some(p) = &mut host.proxy {
            proxy(&mut p.options, &sections.proxy, report);
        }
        for volume in &mut host.volumes {
            report.into(&mut volume.device_options, &sections.device);
            report.into(&mut volume.disk_options, &sections.disk);
            report.into(&mut volume.peer_device_options, &sections.peer_device);
        }
        for outer in volumes.iter() {
            let at = host.volumes.partition_point(|v| v.number < outer.number);
            let inner = host
                .volumes
                .get_mut(at)
                .filter(|v| v.number == outer.number);
            let Some(inner) = inner else { continue };
            report.into(&mut inner.device_options, &outer.device_options);
            report.into(&mut inner.disk_options, &outer.disk_options);
            report.into(&mut inner.peer_device_options, &outer.peer_device_options);
        }
    }
    for connection in connections.iter_mut() {
        report.into(&mut connection.net, &sections.net);
        for path in &mut connection.paths {
            for endpoint in &mut path.endpoints {
                if let Some(p) = &mut endpoint.proxy {
                    proxy(&mut p.options, &sections.proxy, report);
                }
            }
        }
        let ends = connection.hosts.unwrap_or([usize::MAX; 2]);
        let Connection {
            peer_devices,
            peer_device_options,
            ..
        } = connection;
        for device in peer_devices {
            report.into(&mut device.options, peer_device_options);
            for host in ends.iter().filter_map(|e| hosts.get(*e)) {
                if let Some(volume) = host.volume(device.volume) {
                    report.into(&mut device.options, &volume.peer_device_options);
                }
            }
        }
    }
}

/// Peer device options the tools add by themselves ("Configuration language", section 9.7).
pub fn peer_device_extras(
    resource: &Resource,
    connection: &Connection,
    volume: u32,
) -> Vec<(&'static str, &'static str)> {
    let Some(peer) = resource.peer_of(connection).and_then(|h| h.volume(volume)) else {
        return Vec::new();
    };
    let given = connection.peer_devices.iter().find(|d| d.volume == volume);
    let has = |name| given.is_some_and(|d| d.options.get(name).is_some());
    let mut extras = Vec::new();
    if peer.disk == Some(Disk::None) {
        extras.push(("bitmap", "no"));
    }
    if peer.tiebreaker == Some(false) && !has("peer-tiebreaker") {
        extras.push(("peer-tiebreaker", "no"));
    }
    extras
}
