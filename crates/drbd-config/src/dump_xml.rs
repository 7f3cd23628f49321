//! A configuration as XML ("Configuration language", section 15).
//!
//! Unlike the reference's, the result is always well-formed: `template` is closed, an address that
//! is not there is left out, and a volume without a disk has no meta disk.

use std::borrow::Cow;
use std::fmt::Write;

use crate::model::{
    Address, Config, Connection, Disk, Endpoint, EndpointKind, Host, HostKind, MetaDisk, Path,
    Proxy, ProxyOptions, Resource, Sections, Volume,
};
use crate::options::OptionSet;

/// A text with the characters that XML reserves replaced.
fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(['&', '<', '>', '"', '\'']) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// All of a configuration.
pub fn config(config: &Config) -> String {
    let mut d = Xml {
        out: String::new(),
        depth: 0,
    };
    let main = config.main.and_then(|m| config.sources.get(m));
    let main = main.map_or_else(String::new, |f| f.full_name());
    d.open(&format!("config file=\"{}\"", escape(&main)));
    let global = &config.global;
    let refresh = global.dialog_refresh.filter(|r| *r != 1);
    if global.disable_ip_verification || global.minor_count.is_some() || refresh.is_some() {
        d.open("global");
        if global.disable_ip_verification {
            d.line("<disable-ip-verification/>");
        }
        if let Some(count) = global.minor_count {
            d.line(&format!("<minor-count count=\"{count}\"/>"));
        }
        if let Some(refresh) = refresh {
            d.line(&format!("<dialog-refresh refresh=\"{refresh}\"/>"));
        }
        d.close("global");
    }
    if let Some(common) = &config.common {
        d.open("common");
        d.sections(&common.sections);
        d.close("common");
    }
    for resource in &config.resources {
        d.resource(config, resource);
    }
    d.close("config");
    d.out
}

/// A single resource.
pub fn resource(config: &Config, resource: &Resource) -> String {
    let mut d = Xml {
        out: String::new(),
        depth: 0,
    };
    d.resource(config, resource);
    d.out
}

struct Xml {
    out: String,
    depth: usize,
}

impl Xml {
    fn line(&mut self, text: &str) {
        let _ = writeln!(self.out, "{:width$}{text}", "", width = self.depth * 4);
    }

    fn open(&mut self, tag: &str) {
        self.line(&format!("<{tag}>"));
        self.depth += 1;
    }

    fn close(&mut self, tag: &str) {
        self.depth = self.depth.saturating_sub(1);
        self.line(&format!("</{tag}>"));
    }

    fn option_lines(&mut self, set: &OptionSet) {
        for item in set.iter().filter(|i| !i.def.internal) {
            match &item.value {
                Some(value) => self.line(&format!(
                    "<option name=\"{}\" value=\"{}\"/>",
                    item.def.name,
                    escape(value)
                )),
                None => self.line(&format!("<option name=\"{}\"/>", item.def.name)),
            }
        }
    }

    fn section(&mut self, name: &str, sets: &[&OptionSet]) {
        if sets.iter().all(|s| s.is_empty()) {
            return;
        }
        self.open(&format!("section name=\"{name}\""));
        for set in sets {
            self.option_lines(set);
        }
        self.close("section");
    }

    fn proxy_options(&mut self, name: &str, proxy: &ProxyOptions) {
        if proxy.is_empty() {
            return;
        }
        self.open(&format!("section name=\"{name}\""));
        self.option_lines(&proxy.options);
        if !proxy.plugins.is_empty() {
            self.open("section name=\"plugin\"");
            for plugin in &proxy.plugins {
                self.line(&format!("<option name=\"{}\"/>", escape(plugin)));
            }
            self.close("section");
        }
        self.close("section");
    }

    fn sections(&mut self, s: &Sections) {
        self.section("options", &[&s.resource]);
        self.section("net", &[&s.net]);
        self.section("disk", &[&s.device, &s.disk, &s.peer_device]);
        if !s.startup.is_empty() || s.stacked_timeouts {
            self.open("section name=\"startup\"");
            self.option_lines(&s.startup);
            if s.stacked_timeouts {
                self.line("<option name=\"stacked-timeouts\"/>");
            }
            self.close("section");
        }
        self.proxy_options("proxy", &s.proxy);
        self.section("handlers", &[&s.handlers]);
    }

    fn resource(&mut self, config: &Config, r: &Resource) {
        self.open(&format!(
            "resource name=\"{}\" conf-file-line=\"{}:{}\"",
            escape(&r.name),
            escape(&config.sources.full_name(r.span)),
            r.span.line
        ));
        if let Some((file, _)) = &r.template {
            self.line(&format!("<template file=\"{}\"/>", escape(file)));
        }
        for host in &r.hosts {
            self.host(host);
        }
        for connection in &r.connections {
            self.connection(r, connection);
        }
        self.sections(&r.sections);
        self.close("resource");
    }

    fn host(&mut self, host: &Host) {
        match host.kind {
            HostKind::Floating => self.open("host floating=\"1\""),
            _ => self.open(&format!("host name=\"{}\"", escape(&host.names.join(" ")))),
        }
        self.section("options", &[&host.options]);
        for volume in &host.volumes {
            self.volume(volume);
        }
        if let Some(address) = &host.address {
            let element = element("address", address);
            self.line(&element);
        }
        self.close("host");
    }

    fn volume(&mut self, volume: &Volume) {
        self.open(&format!("volume vnr=\"{}\"", volume.number));
        self.section(
            "disk",
            &[
                &volume.device_options,
                &volume.disk_options,
                &volume.peer_device_options,
            ],
        );
        if let Some(minor) = volume.minor {
            let name = volume
                .device
                .as_deref()
                .filter(|_| volume.device_named)
                .unwrap_or("");
            self.line(&format!(
                "<device minor=\"{minor}\">{}</device>",
                escape(name)
            ));
        }
        match &volume.disk {
            Some(Disk::Path(path)) => self.line(&format!("<disk>{}</disk>", escape(path))),
            _ => self.line("<disk>none</disk>"),
        }
        match &volume.meta_disk {
            None => {}
            Some(MetaDisk::Internal) => self.line("<meta-disk>internal</meta-disk>"),
            Some(MetaDisk::Flexible(path)) => {
                self.line(&format!("<meta-disk>{}</meta-disk>", escape(path)));
            }
            Some(MetaDisk::Indexed(path, index)) => {
                let path = escape(path);
                self.line(&format!("<meta-disk index=\"{index}\">{path}</meta-disk>"));
            }
        }
        self.close("volume");
    }

    fn connection(&mut self, r: &Resource, c: &Connection) {
        self.open("connection");
        for path in &c.paths {
            self.path(r, path);
        }
        self.section("net", &[&c.net]);
        self.section("disk", &[&c.peer_device_options]);
        for device in c.peer_devices.iter().filter(|d| !d.implicit) {
            self.open(&format!("volume vnr=\"{}\"", device.volume));
            self.section("disk", &[&device.options]);
            self.close("volume");
        }
        self.close("connection");
    }

    fn path(&mut self, r: &Resource, path: &Path) {
        if !path.implicit {
            self.open("path");
        }
        for endpoint in &path.endpoints {
            self.endpoint(r, endpoint);
        }
        if !path.implicit {
            self.close("path");
        }
    }

    fn endpoint(&mut self, r: &Resource, e: &Endpoint) {
        let host = e.host.and_then(|h| r.hosts.get(h));
        let name = match &e.kind {
            EndpointKind::Host(name) => name.to_string(),
            _ => host.map(Host::joined_name).unwrap_or_default(),
        };
        let open = format!("host name=\"{}\"", escape(&name));
        let address = e.resolved.as_ref().map(|a| element("address", a));
        match &e.proxy {
            None => self.line(&format!("<{open}>{}</host>", address.unwrap_or_default())),
            Some(proxy) => {
                self.open(&open);
                if let Some(address) = address {
                    self.line(&address);
                }
                self.proxy(proxy);
                self.close("host");
            }
        }
    }

    fn proxy(&mut self, proxy: &Proxy) {
        self.open(&format!(
            "proxy hostname=\"{}\"",
            escape(&proxy.hosts.join(" "))
        ));
        for (name, address) in [("inside", &proxy.inside), ("outside", &proxy.outside)] {
            if let Some(address) = address {
                let element = element(name, address);
                self.line(&element);
            }
        }
        self.proxy_options("options", &proxy.options);
        self.close("proxy");
    }
}

fn element(tag: &str, address: &Address) -> String {
    format!(
        "<{tag} family=\"{}\" port=\"{}\">{}</{tag}>",
        address.family.name(),
        address.port,
        escape(&address.host)
    )
}
