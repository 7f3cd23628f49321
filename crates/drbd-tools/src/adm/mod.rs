//! `drbdadm`: works on the configuration file and calls `drbdsetup` and `drbdmeta` ("Command line
//! tools", sections 2 to 7).
//!
//! The commands it issues, their order and the exit codes are those of the reference, release 9.34; `docs/configuration.md`
//! lists the differences on purpose.

mod adjust;
mod calls;
mod cli;
mod commands;
mod handlers;
mod helper;
mod load;
mod proxy;
mod run;
mod running;
mod schedule;
mod select;
mod shell;
mod up;
mod usage;
mod volumes;
mod wait;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::Path;

use drbd_config::expand::{self, Extent, check_addresses, resync_after};
use drbd_config::model::Resource;
use drbd_config::{Config, Diagnostic, Environment, dump, dump_xml};

use cli::Invocation;
use commands::{Command, Scope};
use helper::Helpers;
use select::Target;

/// Version of the reference tools whose interface this program has.
pub const VERSION: [u8; 3] = [9, 34, 0];
/// Version of the driver whose behaviour the node has.
pub const DRIVER_VERSION: [u32; 3] = [9, 3, 0];

/// Everything one run works with.
struct Adm {
    config: Config,
    environment: Environment,
    invocation: Invocation,
    command: Command,
    helpers: Helpers,
}

/// Runs the program and returns its exit code.
pub fn main(args: impl IntoIterator<Item = OsString>) -> u8 {
    let mut args = args.into_iter();
    let program = args.next().unwrap_or_else(|| "drbdadm".into());
    let mut words = Vec::new();
    for arg in args {
        match arg.into_string() {
            Ok(word) => words.push(word),
            Err(word) => {
                eprintln!("drbdadm: argument is not valid UTF-8: {}", word.display());
                return 1;
            }
        }
    }
    let code = match Invocation::parse(words) {
        Ok(invocation) => start(Path::new(&program), invocation),
        Err(usage) => {
            eprintln!("{}", usage.message);
            usage.exit.into()
        }
    };
    let _ = std::io::stdout().flush();
    u8::try_from(code).unwrap_or(20)
}

fn start(program: &Path, invocation: Invocation) -> i32 {
    if invocation.version {
        usage::version();
        return 0;
    }
    let Some(command) = invocation.command else {
        usage::general();
        if !invocation.help {
            println!("\nNo command specified");
        }
        return 1;
    };
    if invocation.help {
        usage::command(&command);
        return 0;
    }
    if command.name == "hidden-commands" {
        usage::hidden();
        return 0;
    }
    if !invocation.to_test.is_empty() && !matches!(command.name, "dump" | "sh-nop") {
        eprintln!(
            "The --config-to-test (-t) option is only allowed with the dump and sh-nop commands"
        );
        return 1;
    }
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let environment = load::environment(terminal);
    let loaded = match load::load(&invocation, &command, &environment) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let mut helpers = Helpers::new(program, invocation.setup.clone(), invocation.meta.clone());
    if let Some(proxy) = &invocation.proxy {
        helpers.proxy = proxy.clone();
    }
    helpers.dry_run = invocation.dry_run;
    helpers.verbose = invocation.verbose;
    helpers.varname = invocation.varname.clone();
    helpers.limits(&loaded.global);
    let mut adm = Adm {
        config: loaded,
        environment,
        invocation,
        command,
        helpers,
    };
    let code = adm.execute();
    // The process ends: taking a large configuration apart would only cost time.
    std::mem::forget(adm);
    code
}

/// All commands that people call, with the words that complete their options.
pub(crate) fn completions(
    words: impl Fn(&drbd_config::options::OptionDef) -> Vec<String>,
) -> Vec<(&'static str, Vec<String>)> {
    let listed = commands::all().filter(|c| c.level != commands::Level::Handler);
    listed
        .map(|c| {
            let table = c.setup_options().filter(|o| !o.internal).flat_map(&words);
            let extra = c.extra.iter().map(|e| match e.takes {
                commands::Takes::Required => format!("--{}=", e.name),
                _ => format!("--{}", e.name),
            });
            (c.name, extra.chain(table).collect())
        })
        .collect()
}

/// The name of every command, and whether it is that of a handler.
pub fn command_names() -> impl Iterator<Item = (&'static str, bool)> {
    commands::all().map(|c| (c.name, commands::is_handler(&c)))
}

/// Commands, handlers left out: name, what it works on, what it does, its options and what they do.
pub(crate) fn described() -> Vec<Described> {
    let listed = commands::all().filter(|c| c.level != commands::Level::Handler);
    listed
        .map(|c| {
            let extra = c.extra.iter().map(|e| {
                let spelled = match e.takes {
                    commands::Takes::Required => format!("--{}=VALUE", e.name),
                    _ => format!("--{}", e.name),
                };
                (spelled, "")
            });
            let table = c.setup_options().filter(|o| !o.internal).map(|o| {
                let value = if o.is_boolean() { "" } else { "=VALUE" };
                (format!("--{}{value}", o.name), o.help)
            });
            Described {
                name: c.name,
                selectors: match c.scope {
                    commands::Scope::Nothing => "",
                    commands::Scope::Optional => "[RESOURCE...]",
                    commands::Scope::Resource => "{all|RESOURCE...}",
                    commands::Scope::Any => "{all|RESOURCE[:PEER][/VOLUME]...}",
                    commands::Scope::Volume => "{all|RESOURCE[/VOLUME]...}",
                    commands::Scope::Connection => "{all|RESOURCE[:PEER]...}",
                    commands::Scope::PeerDevice => "{all|RESOURCE[:PEER][/VOLUME]...}",
                },
                help: c.help,
                options: extra.chain(table).collect(),
            }
        })
        .collect()
}

/// A command for a manual page.
pub(crate) struct Described {
    pub(crate) name: &'static str,
    pub(crate) selectors: &'static str,
    pub(crate) help: &'static str,
    pub(crate) options: Vec<(String, &'static str)>,
}

/// The options that every command takes.
pub(crate) fn general_options() -> Vec<String> {
    cli::GENERAL
        .iter()
        .map(|(name, _, value)| format!("--{name}{}", if *value { "=" } else { "" }))
        .collect()
}

/// Prints findings; the exit code of the first error.
fn report(found: &[Diagnostic], config: &Config) -> Option<i32> {
    for finding in found {
        eprint!("{}", finding.render(&config.sources));
    }
    found
        .iter()
        .find(|d| d.severity == drbd_config::Severity::Error)
        .map(|d| i32::from(d.exit))
}

impl Adm {
    fn resource(&self, index: usize) -> Option<&Resource> {
        self.config.resources.get(index)
    }

    /// Prints what is wrong with the configuration and says whether to go on.
    fn report(&self, found: &[Diagnostic]) -> Result<(), i32> {
        match report(found, &self.config) {
            Some(code) => Err(code),
            None => Ok(()),
        }
    }

    fn execute(&mut self) -> i32 {
        match self.try_execute() {
            Ok(code) | Err(code) => code,
        }
    }

    fn try_execute(&mut self) -> Result<i32, i32> {
        let dumps = matches!(self.command.name, "dump" | "dump-xml");
        let extent = match dumps {
            true if self.invocation.verbose > 0 => Extent::All,
            true if self.invocation.dry_run => Extent::Own,
            true if self.command.name == "dump-xml" => Extent::Structure,
            true => Extent::Written,
            false => Extent::Own,
        };
        let found = expand::expand(&mut self.config, &self.environment, extent);
        self.report(&found)?;
        if self.command.name.starts_with("proxy-") {
            self.check_proxies()?;
        }
        if dumps {
            return self.dump();
        }
        if self.command.scope == Scope::Nothing {
            if !self.invocation.selectors.is_empty() {
                eprintln!("This command will ignore resource names!");
                match self.targets()? {
                    (_, 0) => {}
                    (_, code) => return Err(code),
                }
            }
            return Ok(self.without_selectors());
        }
        if self.command.scope == Scope::Optional && self.invocation.selectors.is_empty() {
            return Ok(self.status(None));
        }
        let (targets, mut worst) = self.targets()?;
        self.prepare(&targets)?;
        match self.run(&targets) {
            0 => {}
            code => worst = worst.max(code),
        }
        Ok(worst)
    }

    /// The selected objects, and the exit code for those that do not exist.
    fn targets(&self) -> Result<(Vec<Target>, i32), i32> {
        let selectors = &self.invocation.selectors;
        if selectors.is_empty() {
            usage::command(&self.command);
            println!("\nNo resource names specified");
            return Err(1);
        }
        if self.config.resources.is_empty() && self.command.name != "dump" {
            eprintln!("no resources defined!");
            return Err(1);
        }
        let mut targets: Vec<Target> = Vec::new();
        let mut worst = 0;
        // The proxy's commands see the resources with a proxy on this host, which may have nothing else here, all others those
        // of this host.
        let only_proxy = self.command.name.starts_with("proxy-");
        let visible = |r: &Resource| match only_proxy {
            true => self.has_proxy(r),
            false => !r.ignored,
        };
        // Only the first one; a resource cannot have this name.
        if selectors.first().is_some_and(|s| s == "all") {
            targets = select::every(&self.config, self.invocation.stacked, visible);
            if targets.is_empty() {
                let host = &self.environment.node_name;
                if self.invocation.stacked {
                    eprintln!(
                        "WARN: nothing stacked for this host ({host}), nothing to do in stacked \
                         mode!"
                    );
                } else {
                    eprintln!(
                        "WARN: no normal resources defined for this host ({host})!?\n\
                         Misspelled name of the local machine with the 'on' keyword ?"
                    );
                }
                return Err(1);
            }
        } else {
            let mut before: Vec<Target> = Vec::new();
            for selector in selectors {
                let host = &self.environment.node_name;
                let target = select::one(&self.config, selector, host, visible);
                let added = match target {
                    Ok(mut target) => {
                        // What is not limited to a volume works on connections; each of them once.
                        let same = |t: &Target| {
                            t.resource == target.resource
                                && t.works_on_connections()
                                && (t.connection.is_none()
                                    || target.connection.is_none()
                                    || t.connection == target.connection)
                        };
                        let links = |t: &Target| {
                            let resource = self.resource(t.resource);
                            resource.is_some_and(|r| r.my_connections().next().is_some())
                        };
                        if target.works_on_connections()
                            && links(&target)
                            && before.iter().any(same)
                        {
                            eprintln!(
                                "USAGE_BUG: {selector} would enable an already enabled connection"
                            );
                            return Err(1);
                        }
                        before.push(target.clone());
                        let fits = select::fit(&self.config, &self.command, &mut target);
                        fits.map(|()| targets.push(target))
                    }
                    Err(bad) => Err(bad),
                };
                if let Err(bad) = added {
                    eprintln!("{}", bad.message);
                    worst = worst.max(bad.exit);
                    if bad.exit >= 20 {
                        return Err(bad.exit);
                    }
                }
            }
        }
        // Links are made for one device at a time.
        if self.command.name == "sh-udev" && targets.iter().any(|t| t.volume.is_none()) {
            eprintln!("volume not specified");
            return Err(1);
        }
        Ok((targets, worst))
    }

    /// Last checks of the resources that a command works on.
    fn prepare(&mut self, targets: &[Target]) -> Result<(), i32> {
        let mut all = Vec::new();
        let mut seen = vec![false; self.config.resources.len()];
        for target in targets {
            if let Some(seen) = seen.get_mut(target.resource)
                && !std::mem::replace(seen, true)
            {
                all.extend(resync_after(
                    &mut self.config,
                    target.resource,
                    &self.environment,
                ));
            }
        }
        let skip_net =
            self.command.name.starts_with("adjust") && self.invocation.is_set("skip-net");
        let quiet_dry_run = self.invocation.dry_run && !self.environment.terminal;
        if self.command.verify_ips && !skip_net && !quiet_dry_run {
            for (index, _) in seen.iter().enumerate().filter(|(_, s)| **s) {
                let resource = self.resource(index);
                all.extend(
                    resource.and_then(|r| check_addresses(&self.config, r, &self.environment)),
                );
            }
        }
        self.report(&all)
    }

    fn dump(&self) -> Result<i32, i32> {
        let selectors = &self.invocation.selectors;
        let all = selectors.first().is_none_or(|s| s == "all");
        let verbose = self.invocation.verbose > 0;
        let check = !self.invocation.dry_run || self.environment.terminal;
        let local = |resource: &Resource| {
            let found = check_addresses(&self.config, resource, &self.environment);
            match found.filter(|_| check) {
                Some(found) => self.report(&[found]),
                None => Ok(()),
            }
        };
        let xml = self.command.name == "dump-xml";
        if all {
            self.config.resources.iter().try_for_each(local)?;
            if xml {
                print(&dump_xml::config(&self.config));
            } else {
                dump::write_config(&self.config, &self.environment, verbose, &mut print);
            }
            return Ok(0);
        }
        let (targets, worst) = self.targets()?;
        for target in targets {
            if let Some(resource) = self.resource(target.resource) {
                local(resource)?;
                print(&if xml {
                    dump_xml::resource(&self.config, resource)
                } else {
                    dump::resource(&self.config, resource, &self.environment, verbose)
                });
            }
        }
        Ok(worst)
    }
}

/// Writes to standard output; a reader that went away is not an error worth a panic.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
