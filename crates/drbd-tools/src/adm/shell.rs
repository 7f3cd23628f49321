//! Commands that answer scripts ("Command line tools", section 6).

use drbd_config::model::{HostKind, Resource};

use super::Adm;
use super::select::{Target, every};

impl Adm {
    /// Commands without selectors.
    pub(super) fn without_selectors(&self) -> i32 {
        match self.command.name {
            "sh-resources" => {
                for target in every(&self.config, self.invocation.stacked, |r| !r.ignored) {
                    if let Some(resource) = self.resource(target.resource) {
                        println!("{}", resource.name);
                    }
                }
            }
            "sh-mod-parms" => println!("minor_count={}", self.minor_count()),
            "wait-con-int" => return self.wait_for_all(),
            _ => {}
        }
        0
    }

    fn minor_count(&self) -> usize {
        if let Some(count) = self.config.global.minor_count {
            return count.into();
        }
        let mine = self.config.resources.iter().filter_map(Resource::my_host);
        let minors: usize = mine.map(|h| h.volumes.len()).sum();
        (minors + 3).clamp(32, 255)
    }

    /// Commands that print something about a target.
    pub(super) fn shell(&self, target: &Target, resource: &Resource) -> i32 {
        match self.command.name {
            "sh-resource" => println!("{}", resource.name),
            "sh-list-config-file" => println!(
                "{}:{}:{}",
                self.config.sources.full_name(resource.span),
                resource.span.line,
                resource.name
            ),
            "sh-lr-of" => return Self::lower_resource(resource),
            "sh-ip" => {
                return self.each_peer_device(target, resource, |connection, _| {
                    let own = connection
                        .paths
                        .iter()
                        .filter_map(|p| resource.me.and_then(|me| p.endpoint_of(me)))
                        .filter_map(|e| e.resolved.as_ref());
                    own.for_each(|address| println!("{}", address.host));
                    0
                });
            }
            name => {
                return self.each_volume(target, resource, |volume| {
                    let minor = volume.minor.unwrap_or(0);
                    match name {
                        "sh-dev" => println!("/dev/drbd{minor}"),
                        "sh-minor" => println!("{minor}"),
                        "sh-ll-dev" => println!("{}", volume.disk_path().unwrap_or("none")),
                        "sh-md-dev" => println!("{}", volume.meta_path().unwrap_or("none")),
                        "sh-md-idx" => println!(
                            "{}",
                            volume
                                .meta()
                                .map_or_else(|| "none".to_owned(), |m| m.index_word())
                        ),
                        "sh-udev" => {
                            let mut link = format!("drbd/by-res/{}", resource.name);
                            if !volume.implicit || self.config.global.udev_always_use_vnr {
                                link.push_str(&format!("/{}", volume.number));
                            }
                            println!("DEVICE=drbd{minor}");
                            println!("SYMLINK={link}");
                            println!("SYMLINK_BY_RES={link}");
                            if let Some(disk) = volume.disk_path() {
                                let disk = disk.strip_prefix("/dev/").unwrap_or(disk);
                                println!("SYMLINK_BY_DISK=drbd/by-disk/{disk}");
                            }
                        }
                        _ => {}
                    }
                    0
                });
            }
        }
        0
    }

    fn lower_resource(resource: &Resource) -> i32 {
        match resource.my_host().map(|h| &h.kind) {
            Some(HostKind::Stacked(lower)) => {
                println!("{lower}");
                0
            }
            _ => {
                eprintln!("sh-lower-resource only available in stacked mode");
                1
            }
        }
    }
}
