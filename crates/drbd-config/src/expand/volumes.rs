//! Volumes of the resource into its hosts ("Configuration language", sections 9.1 and 9.2).

use crate::diagnostic::Diagnostic;
use crate::model::{Disk, Given, Host, MetaDisk, Resource, Text, Volume};
use crate::options::OptionSet;

/// Copies resource level volumes into every host section and checks that the result is complete.
pub(super) fn distribute(resource: &mut Resource, node: &str, found: &mut Vec<Diagnostic>) {
    let Resource {
        volumes,
        hosts,
        name,
        ..
    } = resource;
    let mut names = DeviceNames::default();
    for host in hosts.iter_mut() {
        let own = host.volumes.len();
        for volume in volumes.iter() {
            take_over(host, own, volume);
        }
        host.volumes.sort_by_key(|v| v.number);
        let stacked = host.is_stacked();
        for volume in &mut host.volumes {
            complete(volume, stacked, name, &host.names, &mut names, found);
        }
    }
    if hosts.is_empty() {
        found.push(
            Diagnostic::error(
                resource.span,
                format!(
                    "in resource {name}:\n\ta host sections ('on {node} {{ ... }}') is missing."
                ),
            )
            .full(),
        );
        return;
    }
    let mixed = |volumes: &[Volume]| {
        volumes.iter().any(|v| v.implicit) && volumes.iter().any(|v| !v.implicit)
    };
    let mixed_at = if mixed(volumes) {
        volumes.iter().find(|v| !v.implicit).map(|v| v.span)
    } else {
        hosts
            .iter()
            .find(|h| mixed(&h.volumes))
            .and_then(|h| h.volumes.iter().find(|v| !v.implicit))
            .map(|v| v.span)
    };
    if let Some(span) = mixed_at {
        found.push(Diagnostic::error(
            span,
            format!("in resource {name}: you must not mix implicit and explicit volumes"),
        ));
        return;
    }
    compare(resource, found);
}

/// The names that follow from minors. A minor has the same name on all hosts.
#[derive(Default)]
struct DeviceNames(Vec<(u32, Text)>);

impl DeviceNames {
    /// As many as are worth looking through.
    const KEPT: usize = 16;

    fn of(&mut self, minor: u32) -> Text {
        if let Some((_, name)) = self.0.iter().find(|(m, _)| *m == minor) {
            return name.clone();
        }
        let name: Text = format!("/dev/drbd{minor}").into();
        if self.0.len() < Self::KEPT {
            self.0.push((minor, name.clone()));
        }
        name
    }
}

/// Completes one of the `own` first volumes of a host, or appends a new one.
fn take_over(host: &mut Host, own: usize, volume: &Volume) {
    let stacked = host.is_stacked();
    let listed = host.volumes.get(..own).unwrap_or(&[]);
    let at = match listed.binary_search_by_key(&volume.number, |v| v.number) {
        Ok(at) => at,
        Err(_) => {
            host.volumes.push(Volume {
                given: Given::default(),
                disk_options: OptionSet::default(),
                peer_device_options: OptionSet::default(),
                device_options: OptionSet::default(),
                tiebreaker: None,
                ..if stacked {
                    Volume {
                        disk: None,
                        meta_disk: None,
                        ..volume.clone()
                    }
                } else {
                    volume.clone()
                }
            });
            return;
        }
    };
    let Some(own) = host.volumes.get_mut(at) else {
        return;
    };
    if own.implicit != volume.implicit {
        // Reported as a mixture when the host's volumes are looked at.
        host.volumes.push(volume.clone());
        return;
    }
    if own.minor.is_none() {
        own.minor = volume.minor;
        own.device_span = volume.device_span;
        if own.device.is_none() {
            own.device = volume.device.clone();
            own.device_named = volume.device_named;
        }
    }
    if stacked {
        return;
    }
    if own.disk.is_none() {
        own.disk = volume.disk.clone();
        own.disk_span = volume.disk_span;
    }
    if own.meta_disk.is_none() {
        own.meta_disk = volume.meta_disk.clone();
        own.meta_disk_span = volume.meta_disk_span;
    }
}

/// Fills in defaults and reports what has none.
fn complete(
    volume: &mut Volume,
    stacked: bool,
    resource: &str,
    host: &[Text],
    names: &mut DeviceNames,
    found: &mut Vec<Diagnostic>,
) {
    let missing = |what: &str| {
        let host = host.first().map_or("", |name| name);
        Diagnostic::error(
            volume.span,
            format!("in resource {resource}, on {host} {{ ... }}: '{what}' keyword missing."),
        )
        .full()
    };
    if volume.minor.is_none() {
        if !volume.given.device && volume.device.is_none() {
            found.push(missing("device"));
        } else {
            let at = volume.device_span;
            let name = volume.device.as_deref().unwrap_or("");
            let mut message = String::new();
            if !name.starts_with("/dev/drbd") {
                message.push_str(
                    "device name must start with /dev/drbd\n\
                     \t(/dev/ is optional, but drbd is required)\n",
                );
            }
            message.push_str("no minor given nor device name contains a minor number");
            if !found
                .iter()
                .any(|d| d.span == Some(at) && d.message == message)
            {
                found.push(
                    Diagnostic::error(at, message)
                        .help(format!("volume {} of resource {resource}", volume.number)),
                );
            }
        }
    }
    if let (None, Some(minor)) = (&volume.device, volume.minor) {
        volume.device = Some(names.of(minor));
    }
    if stacked {
        volume.meta_disk = Some(MetaDisk::Internal);
        return;
    }
    match (&volume.disk, &volume.meta_disk) {
        (Some(Disk::Path(_)), None) => volume.meta_disk = Some(MetaDisk::Internal),
        // A `meta-disk` beside `disk none` is without effect, but it is written and so dumped.
        (Some(Disk::Path(_)), Some(_)) | (Some(Disk::None), _) => {}
        (None, Some(_)) => found.push(missing("disk")),
        (None, None) => volume.disk = Some(Disk::None),
    }
}

/// Beyond what was written: every device has its name, and no meta data without a disk.
pub(super) fn finish(resource: &mut Resource) {
    for volume in resource.hosts.iter_mut().flat_map(|h| &mut h.volumes) {
        volume.device_named |= volume.device.is_some();
        if volume.disk == Some(Disk::None) {
            volume.meta_disk = None;
        }
    }
}

/// All hosts must have the same volumes.
fn compare(resource: &Resource, found: &mut Vec<Diagnostic>) {
    let Some((first, others)) = resource.hosts.split_first() else {
        return;
    };
    let name = &resource.name;
    for other in others {
        for volume in &first.volumes {
            match other.volume(volume.number) {
                None => found.push(Diagnostic::error(
                    volume.span,
                    format!(
                        "in resource {name}, on {} {{ ... }}: volume {} not defined on {}",
                        first.name(),
                        volume.number,
                        other.name()
                    ),
                )),
                Some(same) if same.implicit != volume.implicit => {
                    found.push(Diagnostic::error(
                        same.span,
                        format!(
                            "in resource {name}, on {} resp. {}: volume {} must not be implicit \
                             on one but not the other",
                            first.name(),
                            other.name(),
                            volume.number
                        ),
                    ));
                }
                Some(_) => {}
            }
        }
        for volume in other
            .volumes
            .iter()
            .filter(|v| first.volume(v.number).is_none())
        {
            found.push(Diagnostic::error(
                volume.span,
                format!(
                    "in resource {name}, on {} {{ ... }}: volume {} missing (present on {})",
                    first.name(),
                    volume.number,
                    other.name()
                ),
            ));
        }
    }
}
