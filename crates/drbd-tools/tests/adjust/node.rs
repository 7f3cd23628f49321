//! A node as `drbdsetup` sees it: takes commands, refuses what a real node refuses, shows what it has.

use std::collections::BTreeMap;
use std::fmt::Write;

use drbd_config::options::{Group, OptionDef};

type Options = BTreeMap<String, String>;

#[derive(Debug, Default, Clone)]
pub(super) struct Volume {
    pub(super) minor: u32,
    pub(super) disk: Option<[String; 3]>,
    diskless: bool,
    options: Options,
}

#[derive(Debug, Default, Clone)]
pub(super) struct Peer {
    net: Options,
    paths: Vec<[String; 2]>,
    pub(super) cstate: String,
    volumes: BTreeMap<u32, Options>,
}

#[derive(Debug, Default, Clone)]
pub(super) struct Resource {
    id: u32,
    options: Options,
    pub(super) volumes: BTreeMap<u32, Volume>,
    pub(super) peers: BTreeMap<u32, Peer>,
}

#[derive(Debug, Default, Clone)]
pub(super) struct Node {
    pub(super) resources: BTreeMap<String, Resource>,
}

/// Splits a printed command line.
fn words(line: &str) -> Vec<String> {
    let mut out = vec![String::new()];
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' => out.push(String::new()),
            '\\' => out.last_mut().unwrap().extend(chars.next()),
            c => out.last_mut().unwrap().push(c),
        }
    }
    out
}

/// Takes the options; with `--set-defaults` those in `kept` and no others survive.
fn set(options: &mut Options, given: &[(String, String)], kept: &[&str]) {
    if given.iter().any(|(n, _)| n == "set-defaults") {
        options.retain(|n, _| kept.contains(&&**n));
    }
    for (name, value) in given.iter().filter(|(n, _)| n != "set-defaults") {
        options.insert(name.clone(), value.clone());
    }
}

impl Node {
    fn volume(&mut self, minor: &str) -> Result<&mut Volume, String> {
        let minor: u32 = minor.parse().map_err(|_| format!("bad minor {minor}"))?;
        self.resources
            .values_mut()
            .flat_map(|r| r.volumes.values_mut())
            .find(|v| v.minor == minor)
            .ok_or_else(|| format!("no minor {minor}"))
    }

    /// Runs one printed command line.
    ///
    /// # Errors
    /// What a real node would refuse, and unknown commands.
    pub(super) fn run(&mut self, line: &str) -> Result<(), String> {
        let words = words(line);
        if words[0] == "drbdmeta" {
            return Ok(());
        }
        let (options, args): (Vec<&String>, Vec<&String>) =
            words[1..].iter().partition(|w| w.starts_with("--"));
        let options: Vec<(String, String)> = options
            .iter()
            .map(|w| {
                let (name, value) = w[2..].split_once('=').unwrap_or((&w[2..], "yes"));
                (name.to_owned(), value.to_owned())
            })
            .collect();
        let arg = |i: usize| args.get(i).map_or("", |a| a.as_str());
        let number = |i: usize| arg(i).parse::<u32>().map_err(|_| format!("argument {i}"));
        let command = arg(0);
        match command {
            "new-minor" => {
                let minor = number(2)?;
                if self.volume(arg(2)).is_ok() {
                    return Err("minor exists".to_owned());
                }
                let resource = self.resources.get_mut(arg(1)).ok_or("no resource")?;
                let diskless = options.iter().any(|(n, _)| n == "diskless");
                let volume = Volume {
                    minor,
                    diskless,
                    ..Volume::default()
                };
                if resource.volumes.insert(number(3)?, volume).is_some() {
                    return Err("volume exists".to_owned());
                }
                return Ok(());
            }
            "new-resource" => {
                let mut resource = Resource {
                    id: number(2)?,
                    ..Resource::default()
                };
                set(&mut resource.options, &options, &[]);
                return match self.resources.insert(arg(1).to_owned(), resource) {
                    Some(_) => Err("resource exists".to_owned()),
                    None => Ok(()),
                };
            }
            "del-minor" => {
                if self.volume(arg(1))?.disk.is_some() {
                    return Err("has a disk".to_owned());
                }
                let minor = number(1)?;
                for resource in self.resources.values_mut() {
                    let gone = resource.volumes.iter().find(|(_, v)| v.minor == minor);
                    if let Some(gone) = gone.map(|(n, _)| *n) {
                        resource.volumes.remove(&gone);
                        resource
                            .peers
                            .values_mut()
                            .for_each(|p| drop(p.volumes.remove(&gone)));
                    }
                }
                return Ok(());
            }
            "attach" => {
                let volume = self.volume(arg(1))?;
                set(&mut volume.options, &options, &[]);
                volume.diskless = false;
                let disk = [2, 3, 4].map(|i| arg(i).to_owned());
                return match volume.disk.replace(disk) {
                    Some(_) => Err("has a disk already".to_owned()),
                    None => Ok(()),
                };
            }
            "detach" => {
                let volume = self.volume(arg(1))?;
                volume.options.clear();
                volume.diskless = true;
                return volume
                    .disk
                    .take()
                    .map(|_| ())
                    .ok_or_else(|| "no disk".to_owned());
            }
            "disk-options" => {
                let volume = self.volume(arg(1))?;
                if options.iter().any(|(n, _)| n == "size") {
                    return Err("disk-options takes no size".to_owned());
                }
                set(&mut volume.options, &options, &["size"]);
                return volume
                    .disk
                    .as_ref()
                    .map(|_| ())
                    .ok_or_else(|| "no disk".to_owned());
            }
            "resize" => {
                let volume = self.volume(arg(1))?;
                volume.options.remove("size");
                set(&mut volume.options, &options, &[]);
                return Ok(());
            }
            "check-resize" => return self.volume(arg(1)).map(|_| ()),
            _ => {}
        }
        let resource = self.resources.get_mut(arg(1)).ok_or("no resource")?;
        match command {
            "resource-options" => {
                set(&mut resource.options, &options, &[]);
                return Ok(());
            }
            "new-peer" => {
                let mut peer = Peer {
                    cstate: "StandAlone".to_owned(),
                    ..Peer::default()
                };
                set(&mut peer.net, &options, &[]);
                return match resource.peers.insert(number(2)?, peer) {
                    Some(_) => Err("peer exists".to_owned()),
                    None => Ok(()),
                };
            }
            "del-peer" => {
                return resource
                    .peers
                    .remove(&number(2)?)
                    .map(|_| ())
                    .ok_or_else(|| "no peer".to_owned());
            }
            _ => {}
        }
        let volumes: Vec<u32> = resource.volumes.keys().copied().collect();
        let peer = resource.peers.get_mut(&number(2)?).ok_or("no peer")?;
        match command {
            "net-options" => {
                if options.iter().any(|(n, _)| n == "transport") {
                    return Err("the transport cannot change".to_owned());
                }
                set(
                    &mut peer.net,
                    &options,
                    &["transport", "load-balance-paths"],
                );
            }
            "peer-device-options" => {
                let volume = number(3)?;
                if !volumes.contains(&volume) {
                    return Err("no volume".to_owned());
                }
                set(peer.volumes.entry(volume).or_default(), &options, &[]);
            }
            "new-path" => {
                let path = [arg(3).to_owned(), arg(4).to_owned()];
                if peer.paths.contains(&path) {
                    return Err("path exists".to_owned());
                }
                peer.paths.push(path);
            }
            "del-path" => {
                let path = [arg(3).to_owned(), arg(4).to_owned()];
                let at = peer
                    .paths
                    .iter()
                    .position(|p| *p == path)
                    .ok_or("no path")?;
                if peer.paths.len() == 1 && peer.cstate != "StandAlone" {
                    return Err("last path of a connection".to_owned());
                }
                peer.paths.remove(at);
            }
            "connect" if peer.paths.is_empty() => return Err("no path".to_owned()),
            "connect" if peer.cstate != "StandAlone" => return Err("connects already".to_owned()),
            "connect" => peer.cstate = "Connecting".to_owned(),
            "disconnect" => peer.cstate = "StandAlone".to_owned(),
            "wait-connect-connection" => {}
            other => return Err(format!("unknown command {other}")),
        }
        Ok(())
    }

    /// What `drbdsetup show` prints.
    pub(super) fn show(&self) -> String {
        let mut out = String::new();
        for (name, resource) in &self.resources {
            let _ = writeln!(out, "resource \"{name}\" {{");
            section(&mut out, "options", Group::Resource, &resource.options);
            let _ = writeln!(
                out,
                "    _this_host {{\n        node-id\t\t\t{};",
                resource.id
            );
            for (number, volume) in &resource.volumes {
                let _ = writeln!(
                    out,
                    "        volume {number} {{\n            device\t\t\tminor {};",
                    volume.minor
                );
                match &volume.disk {
                    Some([disk, meta, index]) => {
                        let meta = match &**index {
                            "internal" => "internal".to_owned(),
                            "flexible" => format!("\"{meta}\""),
                            index => format!("\"{meta}\" [ {index} ]"),
                        };
                        let _ = writeln!(
                            out,
                            "            disk\t\t\t\"{disk}\";\n            meta-disk\t\t\t{meta};"
                        );
                        section(&mut out, "disk", Group::Disk, &volume.options);
                    }
                    None if volume.diskless => out.push_str("            disk none;\n"),
                    None => {}
                }
                out.push_str("        }\n");
            }
            out.push_str("    }\n");
            for (id, peer) in &resource.peers {
                let _ = writeln!(out, "    connection {{\n        _peer_node_id {id};");
                for [own, other] in &peer.paths {
                    let plain = |word: &str| word.replacen(':', " ", 1);
                    let (own, other) = (plain(own), plain(other));
                    let _ = writeln!(
                        out,
                        "        path {{\n            _this_host {own};\n            _remote_host {other};\n        }}"
                    );
                }
                let _ = writeln!(out, "        _cstate {};", peer.cstate);
                section(&mut out, "net", Group::Net, &peer.net);
                for (number, options) in &peer.volumes {
                    let mut inner = String::new();
                    section(&mut inner, "disk", Group::PeerDevice, options);
                    if !inner.is_empty() {
                        let _ = writeln!(out, "        volume {number} {{\n{inner}        }}");
                    }
                }
                out.push_str("    }\n");
            }
            out.push_str("}\n\n");
        }
        out
    }
}

/// Options that are not at their default, numbers in the unit the node counts.
fn section(out: &mut String, name: &str, group: Group, options: &Options) {
    let shown: Vec<(&OptionDef, String)> = options
        .iter()
        .filter_map(|(name, value)| {
            let def = group
                .find(name)
                .unwrap_or_else(|| panic!("{name} is no option of {group:?}"));
            let parsed = def
                .parse(value)
                .unwrap_or_else(|e| panic!("{name}={value}: {e}"));
            (!def.is_default(value)).then(|| (def, def.show(&parsed)))
        })
        .collect();
    if shown.is_empty() {
        return;
    }
    let _ = writeln!(out, "    {name} {{");
    for (def, value) in shown {
        let _ = writeln!(out, "        {}\t\"{value}\";", def.name);
    }
    out.push_str("    }\n");
}
