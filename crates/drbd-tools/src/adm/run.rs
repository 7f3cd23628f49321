//! What every command does with its targets ("Command line tools", section 3).

use drbd_config::model::{Connection, Resource, Volume};

use super::Adm;
use super::calls::{self, meta, passed_words, peer_id, setup, words};
use super::cli::Passed;
use super::commands::{Limit, is_handler};
use super::helper::{Call, Program};
use super::load::register;
use super::schedule::{After, Progress, Schedule};
use super::select::Target;

impl Adm {
    /// Runs the command for all targets; the highest exit code.
    pub(super) fn run(&mut self, targets: &[Target]) -> i32 {
        if matches!(
            self.command.name,
            "up" | "adjust" | "adjust-with-progress" | "sh-list-adjustable"
        ) {
            return self.scheduled(targets);
        }
        let mut worst = 0;
        for target in targets {
            let Some(resource) = self.config.resources.get(target.resource) else {
                continue;
            };
            let code = self.one(target, resource);
            worst = worst.max(code);
            if code >= 20 {
                break;
            }
        }
        worst
    }

    fn scheduled(&self, targets: &[Target]) -> i32 {
        let mut schedule = Schedule::default();
        match self.command.name {
            "up" => {
                for target in targets {
                    if let Some(resource) = self.resource(target.resource) {
                        self.schedule_up(&mut schedule, target, resource);
                    }
                }
            }
            name => match self.schedule_adjust(&mut schedule, targets, name) {
                Ok(()) if name == "sh-list-adjustable" => return 0,
                Ok(()) => {}
                Err(code) => return code,
            },
        }
        let display = self.command.name == "adjust-with-progress" && !self.invocation.dry_run;
        let progress = display.then(Progress::new);
        let code = schedule.run(&self.helpers, progress, |after| self.after(after));
        if display {
            Progress::end();
        }
        code
    }

    /// Consequences of a command that was successful.
    pub(super) fn after(&self, after: &After) {
        if self.invocation.dry_run {
            return;
        }
        match after {
            After::Nothing => {}
            After::RegisterResource(name) => {
                register(&self.config, &format!("resource-{name}"));
            }
            After::RegisterMinor(minor) => register(&self.config, &format!("minor-{minor}")),
        }
    }

    /// Options of the command line.
    pub(super) fn given(&self) -> &[Passed] {
        &self.invocation.options
    }

    /// A `drbdsetup` command of these words, followed by the options of the command line that it
    /// knows.
    pub(super) fn plain<const N: usize>(&self, resource: &Resource, first: [&str; N]) -> Call {
        let mut args = words(first);
        let known: Vec<Passed> = self
            .given()
            .iter()
            .filter(|g| self.command.setup_options().any(|o| o.name == g.name))
            .cloned()
            .collect();
        args.extend(passed_words(&known));
        setup(resource, args)
    }

    pub(super) fn call(&self, call: &Call) -> i32 {
        self.helpers.run(call)
    }

    /// Runs calls until one fails.
    pub(super) fn calls(&self, calls: &[Call]) -> i32 {
        calls
            .iter()
            .map(|c| self.call(c))
            .find(|code| *code != 0)
            .unwrap_or(0)
    }

    /// Says that a volume has no disk here.
    pub(super) fn no_disk(&self) -> i32 {
        eprintln!(
            "The {} command requires a local disk, but the configuration gives none.",
            self.command.name
        );
        10
    }

    /// For each selected volume, until one fails. Volumes without a disk are refused where the
    /// command needs one, but skipped with `all`.
    pub(super) fn each_volume(
        &self,
        target: &Target,
        resource: &Resource,
        mut f: impl FnMut(&Volume) -> i32,
    ) -> i32 {
        for volume in target.volumes(resource) {
            if self.command.disk && volume.disk_path().is_none() {
                if target.of_all {
                    continue;
                }
                return self.no_disk();
            }
            let code = f(volume);
            if code != 0 {
                return code;
            }
        }
        0
    }

    /// For each selected connection, until one fails.
    pub(super) fn each_connection(
        &self,
        target: &Target,
        resource: &Resource,
        mut f: impl FnMut(&Connection) -> i32,
    ) -> i32 {
        target
            .connections(resource)
            .into_iter()
            .filter_map(|i| resource.connections.get(i))
            .map(&mut f)
            .find(|code| *code != 0)
            .unwrap_or(0)
    }

    /// For each selected volume and in it each selected connection, until one fails.
    pub(super) fn each_peer_device(
        &self,
        target: &Target,
        resource: &Resource,
        mut f: impl FnMut(&Connection, &Volume) -> i32,
    ) -> i32 {
        self.each_volume(target, resource, |volume| {
            self.each_connection(target, resource, |connection| f(connection, volume))
        })
    }

    /// First `drbdsetup`; if that cannot help, `drbdmeta` with the `--force` of the command line. These exit codes of
    /// `drbdsetup` are final. Dry runs show both.
    pub(super) fn or_meta(&self, first: Call, fallback: Vec<Call>, last: &[i32]) -> i32 {
        let first = Call {
            quiet: !self.invocation.dry_run,
            ..first
        };
        let code = self.call(&first);
        if !self.invocation.dry_run && (code == 0 || last.contains(&code)) {
            return code;
        }
        if fallback.is_empty() {
            return code;
        }
        let mut fallback = fallback;
        for call in &mut fallback {
            if self.invocation.is_set("force") && !call.args.iter().any(|a| a == "--force") {
                call.args.push("--force".to_owned());
            }
        }
        self.calls(&fallback)
    }

    /// One target.
    fn one(&self, target: &Target, resource: &Resource) -> i32 {
        if is_handler(&self.command) {
            return self.handler(resource);
        }
        let name = &*resource.name;
        let command = self.command.name;
        let given = self.given();
        let id = |c: &Connection| peer_id(resource, c);
        let minor = |v: &Volume| calls::number(v.minor);
        let vnr = |v: &Volume| v.number.to_string();
        match command {
            "attach" => self.each_volume(target, resource, |v| {
                self.calls(&calls::attach(resource, v, false, given))
            }),
            "disk-options" => self.each_volume(target, resource, |v| {
                self.call(&calls::disk_options(resource, v, false, given))
            }),
            "detach" | "suspend-io" | "resume-io" | "new-current-uuid" | "del-minor" => self
                .each_volume(target, resource, |v| {
                    self.call(&self.plain(resource, [command, &minor(v)]))
                }),
            "new-resource" => {
                let code = self.call(&calls::new_resource(resource, given));
                if code == 0 {
                    self.after(&After::RegisterResource(name.to_owned()));
                }
                code
            }
            "new-minor" => self.each_volume(target, resource, |v| {
                let code = self.call(&calls::new_minor(resource, v, given));
                if let (0, Some(minor)) = (code, v.minor) {
                    self.after(&After::RegisterMinor(minor));
                }
                code
            }),
            "resource-options" | "primary" | "secondary" | "down" => {
                self.call(&self.plain(resource, [command, name]))
            }
            "new-peer" | "net-options" => self.each_connection(target, resource, |c| {
                self.call(&calls::net(command, resource, c, false, given))
            }),
            "new-path" | "del-path" => self.each_connection(target, resource, |c| {
                self.calls(&calls::paths(command, resource, c))
            }),
            "connect" | "disconnect" | "del-peer" | "cstate" | "peer-role" => {
                self.each_connection(target, resource, |c| {
                    self.call(&self.plain(resource, [command, name, &id(c)]))
                })
            }
            "peer-device-options" => self.each_peer_device(target, resource, |c, v| {
                self.call(&calls::peer_device(resource, c, v.number, false, given))
            }),
            "invalidate-remote" | "verify" | "pause-sync" | "resume-sync" => {
                self.each_peer_device(target, resource, |c, v| {
                    self.call(&self.plain(resource, [command, name, &id(c), &vnr(v)]))
                })
            }
            "role" if target.connection.is_some() => self.each_connection(target, resource, |c| {
                self.call(&self.plain(resource, ["peer-role", name, &id(c)]))
            }),
            "role" => self.call(&self.plain(resource, ["role", name])),
            "dstate" => self.each_volume(target, resource, |v| {
                let fallback = meta(resource, v, None, &["dstate"]).into_iter().collect();
                self.or_meta(
                    self.plain(resource, ["dstate", &minor(v)]),
                    fallback,
                    &[11, 17],
                )
            }),
            "status" => self.status(Some(resource)),
            "show-gi" | "get-gi" => self.each_peer_device(target, resource, |c, v| {
                let peer = resource.peer_of(c).and_then(|h| h.node_id);
                let fallback = meta(resource, v, peer, &[command]).into_iter().collect();
                let first = self.plain(resource, [command, name, &id(c), &vnr(v)]);
                self.or_meta(first, fallback, &[11, 17])
            }),
            "forget-peer" => self.each_connection(target, resource, |c| {
                let peer = resource.peer_of(c).and_then(|h| h.node_id);
                let first = self.plain(resource, [command, name, &id(c)]);
                let mut fallback = Vec::new();
                for volume in target.volumes(resource) {
                    match meta(resource, volume, peer, &["forget-peer"]) {
                        Some(call) => fallback.push(call),
                        // Only the node could have done it.
                        None => {
                            return match self.or_meta(first, Vec::new(), &[11, 17]) {
                                code @ (0 | 11 | 17) if !self.invocation.dry_run => code,
                                _ => self.no_disk(),
                            };
                        }
                    }
                }
                self.or_meta(first, fallback, &[11, 17])
            }),
            "wait-connect" | "wait-sync" => self.wait(target, resource),
            "invalidate" => self.invalidate(target, resource),
            "outdate" => self.outdate(target, resource),
            "resize" | "check-resize" => self.each_volume(target, resource, |v| {
                if command == "resize" {
                    self.resize(resource, v, false)
                } else {
                    self.check_resize(resource, v)
                }
            }),
            "create-md" => self.create_md(target, resource),
            "set-gi" => self.set_gi(target, resource),
            "dump-md" | "wipe-md" | "apply-al" | "repair-md" => {
                self.each_volume(target, resource, |v| {
                    self.meta_command(resource, v, &[command])
                })
            }
            "dump-superblock" => self.each_volume(target, resource, |v| {
                self.meta_command(resource, v, &[command, "--output-format=json"])
            }),
            "proxy-up" | "proxy-down" => self.proxy(target, resource),
            _ => self.shell(target, resource),
        }
    }

    /// `status`, of everything or of one resource.
    pub(super) fn status(&self, resource: Option<&Resource>) -> i32 {
        let mut args = words(["status"]);
        args.extend(resource.map(|r| r.name.to_string()));
        args.extend((0..self.invocation.verbose).map(|_| "--verbose".to_owned()));
        args.extend(passed_words(self.given()));
        let name = resource.map_or("", |r| &r.name);
        let call = Call::new(Program::Setup, name, Limit::Short, args);
        self.call(&call)
    }
}
