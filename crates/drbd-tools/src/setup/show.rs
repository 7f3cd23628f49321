//! `drbdsetup show`: the running configuration (CLI, section 15; configuration, section 12).

use std::fmt::Write as _;
use std::net::SocketAddr;

use drbd_config::options::{DEVICE, DISK, Kind, NET, OptionDef, PEER_DEVICE, RESOURCE};
use drbd_control::address::family;
use drbd_control::protocol::{Config, ConnectionConfig, Options, VolumeConfig};

use super::status::{json_address, quote};

/// The value of an option in the language of the configuration file.
fn spelled(def: &OptionDef, value: &str) -> String {
    match def.kind {
        Kind::Text { .. } | Kind::Key => quote(value),
        _ => value.to_owned(),
    }
}

/// The default as `show` spells it.
fn default_text(def: &OptionDef) -> String {
    match def.kind {
        Kind::Text { .. } | Kind::Key => String::new(),
        _ => def.show(&def.default_value()),
    }
}

fn unit(def: &OptionDef) -> &'static str {
    match def.kind {
        Kind::Number(n) => n.unit,
        _ => "",
    }
}

struct Printer {
    text: String,
    defaults: bool,
}

impl Printer {
    fn line(&mut self, indent: usize, text: &str) {
        let _ = writeln!(self.text, "{:width$}{text}", "", width = indent * 4);
    }

    fn options(&mut self, indent: usize, tables: &[(&'static [OptionDef], &Options)]) -> usize {
        let mut count = 0;
        for (table, given) in tables {
            for def in *table {
                let default = default_text(def);
                let value = given.get(def.name).unwrap_or(&default);
                let is_default = *value == default;
                // The name of a connection is no setting: it is there or not.
                if is_default && (!self.defaults || def.name == "_name") {
                    continue;
                }
                let mut comment = Vec::new();
                if !unit(def).is_empty() {
                    comment.push(unit(def));
                }
                if is_default {
                    comment.push("default");
                }
                let comment = match comment.is_empty() {
                    true => String::new(),
                    false => format!(" # {}", comment.join(", ")),
                };
                let text = format!("{:<16}\t{};{comment}", def.name, spelled(def, value));
                self.line(indent, &text);
                count += 1;
            }
        }
        count
    }

    /// A section that is left out when it is empty.
    fn section(&mut self, indent: usize, name: &str, tables: &[(&'static [OptionDef], &Options)]) {
        let before = self.text.len();
        self.line(indent, &format!("{name} {{"));
        if self.options(indent + 1, tables) == 0 {
            self.text.truncate(before);
        } else {
            self.line(indent, "}");
        }
    }

    fn resource(&mut self, config: &Config) {
        self.line(0, &format!("resource {} {{", quote(&config.resource)));
        self.section(1, "options", &[(RESOURCE, &config.options)]);
        self.line(1, "_this_host {");
        self.line(2, &format!("node-id\t\t\t{};", config.node_id));
        for volume in &config.volumes {
            self.volume(volume);
        }
        self.line(1, "}");
        for connection in sorted(config) {
            self.connection(connection);
        }
        self.line(0, "}");
        self.text.push('\n');
    }

    fn volume(&mut self, volume: &VolumeConfig) {
        self.line(2, &format!("volume {} {{", volume.volume));
        self.line(3, &format!("device\t\t\tminor {};", volume.minor));
        let none = Options::new();
        match &volume.backing {
            Some(backing) => {
                self.line(3, &format!("disk\t\t\t{};", quote(&backing.disk)));
                let place = quote(&backing.meta_disk);
                let place = match backing.index.as_str() {
                    "internal" => "internal".to_owned(),
                    "flexible" | "flex-external" => place,
                    index => format!("{place} [ {index} ]"),
                };
                self.line(3, &format!("meta-disk\t\t\t{place};"));
                self.section(3, "disk", &[(DISK, &volume.disk), (DEVICE, &volume.device)]);
            }
            None => {
                if volume.diskless {
                    self.line(3, "disk\t\t\tnone;");
                }
                let mut device = volume.device.clone();
                if volume.diskless {
                    device.insert("diskless".into(), "yes".into());
                }
                let disk: (&'static [OptionDef], &Options) = (&[], &none);
                self.section(3, "disk", &[disk, (DEVICE, &device)]);
            }
        }
        self.line(2, "}");
    }

    fn connection(&mut self, connection: &ConnectionConfig) {
        self.line(1, "connection {");
        self.line(2, &format!("_peer_node_id {};", connection.peer));
        for (local, remote) in &connection.paths {
            self.line(2, "path {");
            self.line(3, &format!("_this_host {} {local};", family(local)));
            self.line(3, &format!("_remote_host {} {remote};", family(remote)));
            self.line(2, "}");
        }
        self.line(2, &format!("_cstate {};", connection.cstate));
        self.section(2, "net", &[(NET, &connection.net)]);
        for (volume, options) in &connection.volumes {
            let before = self.text.len();
            self.line(2, &format!("volume {volume} {{"));
            let start = self.text.len();
            self.section(3, "disk", &[(PEER_DEVICE, options)]);
            if self.text.len() == start {
                self.text.truncate(before);
            } else {
                self.line(2, "}");
            }
        }
        self.line(1, "}");
    }
}

/// Connections by name, nameless ones last.
fn sorted(config: &Config) -> Vec<&ConnectionConfig> {
    let mut list: Vec<_> = config.connections.iter().collect();
    let name = |c: &ConnectionConfig| c.net.get("_name").cloned().unwrap_or_default();
    list.sort_by_key(|c| (name(c).is_empty(), name(c), c.peer));
    list
}

/// The text form.
pub(super) fn text(configs: &[Config], defaults: bool) -> String {
    let mut printer = Printer {
        text: String::new(),
        defaults,
    };
    for config in configs {
        printer.resource(config);
    }
    printer.text
}

/// The JSON form; always with defaults.
pub(super) fn json(configs: &[Config]) -> String {
    let mut out = String::from("[");
    for (n, config) in configs.iter().enumerate() {
        out.push_str(if n > 0 { ",\n" } else { "\n" });
        json_resource(&mut out, config);
    }
    out.push_str("\n]\n");
    out
}

fn json_options(tables: &[(&'static [OptionDef], &Options)], pad: usize) -> String {
    let mut lines = Vec::new();
    for (table, given) in tables {
        for def in *table {
            let default = default_text(def);
            let value = given.get(def.name).unwrap_or(&default);
            // The flag is text in the reference.
            let plain = matches!(def.kind, Kind::Boolean { .. }) && def.name != "diskless";
            let value = match (plain, value.as_str()) {
                (true, "yes") => "true".to_owned(),
                (true, _) => "false".to_owned(),
                (false, text) => quote(text),
            };
            lines.push(format!(
                "{:pad$}{}: {value}",
                "",
                quote(def.name),
                pad = pad + 4
            ));
        }
    }
    if lines.is_empty() {
        return "{}".into();
    }
    format!("{{\n{}\n{:pad$}}}", lines.join(",\n"), "")
}

fn json_resource(out: &mut String, config: &Config) {
    let options = json_options(&[(RESOURCE, &config.options)], 8);
    let _ = write!(
        out,
        "    {{\n        \"resource\": {},\n        \"options\": {options},\n        \"_this_host\": {{\n            \
         \"node-id\": {},\n            \"volumes\": [",
        quote(&config.resource),
        config.node_id
    );
    for (n, volume) in config.volumes.iter().enumerate() {
        out.push_str(if n > 0 { ",\n" } else { "\n" });
        json_volume(out, volume);
    }
    out.push_str("\n            ]\n        }");
    if !config.connections.is_empty() {
        out.push_str(",\n        \"connections\": [");
        for (n, connection) in sorted(config).into_iter().enumerate() {
            out.push_str(if n > 0 { ",\n" } else { "\n" });
            json_connection(out, connection);
        }
        out.push_str("\n        ]");
    }
    out.push_str("\n    }");
}

fn json_volume(out: &mut String, volume: &VolumeConfig) {
    let _ = write!(
        out,
        "                {{\n                    \"volume_nr\": {},\n                    \"device_minor\": {}",
        volume.volume, volume.minor
    );
    let mut key = |name: &str, value: &str| {
        let _ = write!(out, ",\n                    \"{name}\": {value}");
    };
    match &volume.backing {
        Some(backing) => {
            key("backing-disk", &quote(&backing.disk));
            match backing.index.as_str() {
                "internal" => key("meta-disk", "\"internal\""),
                "flexible" | "flex-external" => key("meta-disk", &quote(&backing.meta_disk)),
                index => {
                    key("meta-disk", &quote(&backing.meta_disk));
                    // The line end behind it is the reference's.
                    key("meta-disk-index", &format!("{index}\n"));
                }
            }
            key(
                "disk",
                &json_options(&[(DISK, &volume.disk), (DEVICE, &volume.device)], 20),
            );
        }
        None => {
            let mut device = volume.device.clone();
            if volume.diskless {
                key("disk", "\"none\"");
                device.insert("diskless".into(), "yes".into());
            }
            key("disk", &json_options(&[(DEVICE, &device)], 20));
        }
    }
    out.push_str("\n                }");
}

fn json_connection(out: &mut String, connection: &ConnectionConfig) {
    out.push_str("            {\n                \"paths\": [");
    for (n, (local, remote)) in connection.paths.iter().enumerate() {
        out.push_str(if n > 0 { ",\n" } else { "\n" });
        let address = |a: &SocketAddr| {
            let mut text = String::new();
            json_address(&mut text, a, 24, 4);
            text
        };
        let _ = write!(
            out,
            "                    {{\n                        \"this_host\": {},\n                        \
             \"remote_host\": {}\n                    }}",
            address(local),
            address(remote)
        );
    }
    out.push_str("\n                ]");
    let mut key = |name: &str, value: &str| {
        let _ = write!(out, ",\n                \"{name}\": {value}");
    };
    if connection.cstate == "StandAlone" {
        key("_is_standalone", "true");
    }
    key("_cstate", &quote(&connection.cstate));
    key("net", &json_options(&[(NET, &connection.net)], 16));
    let volumes: Vec<String> = connection
        .volumes
        .iter()
        .map(|(nr, options)| {
            let disk = json_options(&[(PEER_DEVICE, options)], 24);
            format!(
                "                    {{\n                        \"volume_nr\": {nr},\n                        \
                 \"disk\": {disk}\n                    }}"
            )
        })
        .collect();
    key(
        "volumes",
        &format!("[\n{}\n                ]", volumes.join(",\n")),
    );
    key("_peer_node_id", &connection.peer.to_string());
    out.push_str("\n            }");
}
