//! A normalised configuration as text ("Configuration language", section 15).
//!
//! Two deliberate differences to the reference, whose output cannot be read back there: names that
//! are keywords are quoted, and an `address` endpoint has no stray `;` on a line of its own.

use std::borrow::Cow;
use std::fmt::Write;

use crate::environment::Environment;
use crate::model::{
    Common, Config, Connection, Disk, Endpoint, EndpointKind, Global, Host, HostKind, MetaDisk,
    Path, Proxy, ProxyOptions, Resource, Sections, UsageCount, Volume,
};
use crate::options::OptionSet;

/// Column at which the values of options start, less one.
const VALUE_COLUMN: usize = 24;
/// Width of keywords before addresses and external meta disks, at any depth.
const ADDRESS_WIDTH: usize = 16;
const STEP: usize = 4;
/// Bytes that are written at once.
const PIECE: usize = 1 << 15;

/// Longest text that is not quoted.
const BARE: usize = 80;

/// Quotes a text if a bare word could not stand for it.
pub fn quote(text: &str) -> Cow<'_, str> {
    let bare = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if !text.is_empty() && text.len() <= BARE && text.chars().all(bare) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    Cow::Owned(out)
}

/// Quotes a name: also if it would be read as something else than a name.
fn name(text: &str) -> Cow<'_, str> {
    let mut lexer = crate::lexer::Lexer::new(crate::source::FileId::default());
    let first = lexer.next(text.as_bytes());
    let plain = first.kind == crate::lexer::Kind::Word;
    if plain && first.text.len() == text.len() && text.len() <= BARE {
        return Cow::Borrowed(text);
    }
    if !plain {
        let quoted = quote(text);
        return match quoted {
            Cow::Borrowed(text) => Cow::Owned(format!("\"{text}\"")),
            quoted => quoted,
        };
    }
    quote(text)
}

/// All of a configuration: `global`, `common` and the resources.
pub fn config(config: &Config, environment: &Environment, verbose: bool) -> String {
    let mut out = String::new();
    write_config(config, environment, verbose, &mut |text| out.push_str(text));
    out
}

/// The same in pieces, for a reader that need not have it all at once.
pub fn write_config(
    config: &Config,
    environment: &Environment,
    verbose: bool,
    write: &mut dyn FnMut(&str),
) {
    let mut d = Dump::new(verbose);
    let main = config.main.and_then(|m| config.sources.get(m));
    let _ = writeln!(
        d.out,
        "# {}",
        main.map_or_else(String::new, |f| f.full_name())
    );
    d.global(&config.global);
    if let Some(common) = &config.common {
        d.common(common);
        d.out.push('\n');
    }
    for r in &config.resources {
        if d.out.len() > PIECE {
            write(&d.out);
            d.out.clear();
        }
        d.resource(config, r, environment);
    }
    write(&d.out);
}

/// A single resource.
pub fn resource(
    config: &Config,
    resource: &Resource,
    environment: &Environment,
    verbose: bool,
) -> String {
    let mut d = Dump::new(verbose);
    d.resource(config, resource, environment);
    d.out
}

struct Dump {
    out: String,
    indent: usize,
    verbose: bool,
}

impl Dump {
    fn new(verbose: bool) -> Dump {
        Dump {
            out: String::with_capacity(2 * PIECE),
            indent: 0,
            verbose,
        }
    }

    fn pad(&mut self) {
        for _ in 0..self.indent {
            self.out.push(' ');
        }
    }

    fn line(&mut self, text: &str) {
        self.pad();
        self.out.push_str(text);
        self.out.push('\n');
    }

    fn open(&mut self, text: &str) {
        self.pad();
        self.out.push_str(text);
        self.out.push_str(" {\n");
        self.indent += STEP;
    }

    fn close(&mut self) {
        self.indent = self.indent.saturating_sub(STEP);
        self.line("}");
    }

    /// A statement with a value that is printed as it is.
    fn statement(&mut self, name: &str, value: &str) {
        let width = VALUE_COLUMN.saturating_sub(self.indent);
        self.pad();
        let _ = writeln!(self.out, "{name:width$} {value:>3};");
    }

    fn address(&mut self, name: &str, value: &str) {
        self.pad();
        let _ = writeln!(self.out, "{name:ADDRESS_WIDTH$} {value};");
    }

    fn option_lines(&mut self, options: &OptionSet) {
        for item in options.iter().filter(|i| !i.def.internal) {
            match &item.value {
                Some(value) => self.statement(item.def.name, &quote(value)),
                None => self.line(&format!("{};", item.def.name)),
            }
        }
    }

    fn options(&mut self, section: &str, sets: &[&OptionSet]) {
        if sets.iter().all(|s| s.is_empty()) {
            return;
        }
        self.open(section);
        for set in sets {
            self.option_lines(set);
        }
        self.close();
    }

    fn global(&mut self, global: &Global) {
        let refresh = global.dialog_refresh.filter(|r| *r != 1);
        let any = global.disable_ip_verification
            || global.minor_count.is_some()
            || refresh.is_some()
            || global.usage_count != UsageCount::Ask;
        if !any && !self.verbose {
            return;
        }
        self.open("global");
        if global.disable_ip_verification {
            self.line("disable-ip-verification;");
        }
        if let Some(n) = global.minor_count {
            self.line(&format!("minor-count {n};"));
        }
        if let Some(n) = refresh {
            self.line(&format!("dialog-refresh {n};"));
        }
        match global.usage_count {
            UsageCount::Yes => self.line("usage-count yes;"),
            UsageCount::No => self.line("usage-count no;"),
            UsageCount::Ask => {}
        }
        self.close();
        self.out.push('\n');
    }

    fn common(&mut self, common: &Common) {
        self.open("common");
        self.sections(&common.sections);
        self.close();
    }

    fn sections(&mut self, s: &Sections) {
        self.options("options", &[&s.resource]);
        self.options("net", &[&s.net]);
        self.options("disk", &[&s.device, &s.disk, &s.peer_device]);
        if !s.startup.is_empty() || s.stacked_timeouts {
            self.open("startup");
            self.option_lines(&s.startup);
            if s.stacked_timeouts {
                self.line("stacked-timeouts;");
            }
            self.close();
        }
        self.proxy_options("proxy", &s.proxy);
        self.options("handlers", &[&s.handlers]);
    }

    fn proxy_options(&mut self, section: &str, proxy: &ProxyOptions) {
        if proxy.is_empty() {
            return;
        }
        self.open(section);
        self.option_lines(&proxy.options);
        if !proxy.plugins.is_empty() {
            self.open("plugin");
            for plugin in &proxy.plugins {
                self.line(&format!("{plugin};"));
            }
            self.close();
        }
        self.close();
    }

    fn resource(&mut self, config: &Config, r: &Resource, environment: &Environment) {
        let _ = writeln!(
            self.out,
            "# resource {} on {}: {}ignored, {}stacked",
            quote(&r.name),
            environment.node_name,
            if r.ignored { "" } else { "not " },
            if r.stacked { "" } else { "not " },
        );
        let _ = writeln!(
            self.out,
            "# defined at {}:{}",
            config.sources.full_name(r.span),
            r.span.line
        );
        self.open(&format!("resource {}", name(&r.name)));
        if let Some((file, _)) = &r.template {
            self.line(&format!("template-file {};", quote(file)));
        }
        if !self.verbose {
            for volume in &r.volumes {
                self.volume(volume, false, true);
            }
        }
        for host in &r.hosts {
            self.host(host);
        }
        for connection in &r.connections {
            self.connection(r, connection);
        }
        if !self.verbose {
            for mesh in &r.meshes {
                self.open("connection-mesh");
                let hosts: Vec<_> = mesh.hosts.iter().map(|(n, _)| name(n)).collect();
                self.line(&format!("hosts {};", hosts.join(" ")));
                self.options("net", &[&mesh.net]);
                self.close();
            }
        }
        self.sections(&r.sections);
        self.close();
        self.out.push('\n');
    }

    fn host(&mut self, host: &Host) {
        let names: Vec<_> = host.names.iter().map(|n| name(n)).collect();
        let names = names.join(" ");
        match &host.kind {
            HostKind::On => self.open(&format!("on {names}")),
            HostKind::ThisHost => self.open("_this_host"),
            HostKind::Floating => {
                let address = host
                    .address
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default();
                self.open(&format!("{:ADDRESS_WIDTH$} {address}", "floating"));
            }
            HostKind::Stacked(lower) => {
                self.open(&format!("stacked-on-top-of {}", name(lower)));
                self.line(&format!("# on {names} "));
            }
        }
        if let Some(id) = host.node_id {
            self.line(&format!("node-id {id};"));
        }
        self.options("options", &[&host.options]);
        for volume in &host.volumes {
            self.volume(volume, host.is_stacked(), false);
        }
        if host.kind != HostKind::Floating
            && let Some(address) = &host.address
        {
            self.address("address", &address.to_string());
        }
        if let Some(proxy) = host.proxy.as_ref().filter(|_| !self.verbose) {
            self.pad();
            self.proxy(proxy);
        }
        self.close();
    }

    /// `outer`: at resource level, where everything was written there.
    fn volume(&mut self, volume: &Volume, stacked: bool, outer: bool) {
        let given = volume.given;
        let all = self.verbose;
        // The reference leaves out what is written in stacked sections; that would not read back.
        if !(all || outer || given.any()) {
            return;
        }
        if !volume.implicit {
            self.open(&format!("volume {}", volume.number));
        }
        self.options(
            "disk",
            &[
                &volume.device_options,
                &volume.disk_options,
                &volume.peer_device_options,
            ],
        );
        if (all || given.device)
            && let Some(minor) = volume.minor
        {
            match &volume.device {
                Some(device) if all || volume.device_named => {
                    self.statement("device", &format!("{} minor {minor}", quote(device)));
                }
                _ => self.statement("device", &format!("minor {minor}")),
            }
        }
        if !stacked && (all || given.disk) {
            match &volume.disk {
                Some(Disk::Path(path)) => self.statement("disk", &quote(path)),
                Some(Disk::None) => self.statement("disk", "none"),
                None => {}
            }
        }
        if !stacked && (all || given.meta_disk) {
            let used = if all {
                volume.meta()
            } else {
                volume.meta_disk.as_ref()
            };
            match used {
                None => {}
                Some(MetaDisk::Internal) => self.statement("meta-disk", "internal"),
                Some(MetaDisk::Flexible(path)) => self.address("meta-disk", &quote(path)),
                Some(MetaDisk::Indexed(path, index)) => {
                    self.address("meta-disk", &format!("{} [{index}]", quote(path)));
                }
            }
        }
        if let Some(tiebreaker) = volume.tiebreaker {
            self.statement("tiebreaker", if tiebreaker { "yes" } else { "no" });
        }
        if !volume.implicit {
            self.close();
        }
    }

    fn connection(&mut self, resource: &Resource, c: &Connection) {
        if c.origin != crate::model::Origin::Explicit && !self.verbose {
            return;
        }
        self.open("connection");
        for path in &c.paths {
            self.path(resource, path);
        }
        self.options("net", &[&c.net]);
        self.options("disk", &[&c.peer_device_options]);
        let all = self.verbose;
        for device in c.peer_devices.iter().filter(|d| all || !d.implicit) {
            self.open(&format!("volume {}", device.volume));
            self.options("disk", &[&device.options]);
            self.close();
        }
        self.close();
    }

    fn path(&mut self, resource: &Resource, path: &Path) {
        let block = self.verbose || !path.implicit;
        if block {
            self.open("path");
        }
        for endpoint in &path.endpoints {
            self.endpoint(resource, endpoint);
        }
        if block {
            self.close();
        }
    }

    fn endpoint(&mut self, resource: &Resource, e: &Endpoint) {
        let host = e.host.and_then(|h| resource.hosts.get(h));
        let address = if self.verbose {
            e.resolved.as_ref()
        } else {
            e.address.as_ref()
        };
        self.pad();
        match &e.kind {
            EndpointKind::Host(host) => {
                self.out.push_str("host ");
                self.out.push_str(&name(host));
                match (address, e.port) {
                    (Some(address), _) => {
                        self.pad();
                        let _ = write!(self.out, "{:ADDRESS_WIDTH$} {address}", " address");
                    }
                    (None, Some(port)) => {
                        let _ = write!(self.out, " port {port}");
                    }
                    (None, None) => {}
                }
            }
            EndpointKind::Address | EndpointKind::ThisHost | EndpointKind::RemoteHost => {
                let keyword = match e.kind {
                    EndpointKind::ThisHost => "_this_host",
                    EndpointKind::RemoteHost => "_remote_host",
                    _ => "address",
                };
                let address = address.map(ToString::to_string).unwrap_or_default();
                let _ = write!(self.out, "{keyword:ADDRESS_WIDTH$} {address}");
                if e.proxy.is_none() && e.outside_address.is_none() {
                    let on = host.map(|h| format!(" # on {}", h.joined_name()));
                    let _ = writeln!(self.out, ";{}", on.unwrap_or_default());
                    return;
                }
            }
        }
        if let Some(proxy) = &e.proxy {
            self.pad();
            self.out.push_str(" via ");
            self.proxy(proxy);
        } else if let Some(outside) = &e.outside_address {
            self.pad();
            let _ = writeln!(self.out, " via outside-address {outside};");
        } else {
            self.out.push_str(";\n");
        }
    }

    /// A proxy section; the indentation of its first line is already there.
    fn proxy(&mut self, proxy: &Proxy) {
        let hosts: Vec<_> = proxy.hosts.iter().map(|n| name(n)).collect();
        let _ = writeln!(self.out, "proxy on {} {{", hosts.join(" "));
        self.indent += STEP;
        if let Some(inside) = &proxy.inside {
            self.address("inside", &inside.to_string());
        }
        if let Some(outside) = &proxy.outside {
            self.address("outside", &outside.to_string());
        }
        self.proxy_options("options", &proxy.options);
        self.close();
    }
}
