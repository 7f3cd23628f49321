//! Command lines of version 8.4 (CLI, section 19): a command line that is none of today's may be one of then, and becomes
//! the commands that do the same today.
//!
//! A resource of version 8.4 has no node ids. It is made with node id 0, and a directory below `compat-84` beside the control
//! socket remembers that nobody asked for this id: what the metadata or the addresses of a connection want instead, it is
//! made anew with. Options that belonged to the disk then, and belong to the peer now, wait there as well.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use drbd_config::expand::address_hash;
use drbd_config::options::{NET, OptionDef, PEER_DEVICE, command};
use drbd_control::protocol::{Config, Options};

use super::{USAGE, args, configs, query, socket};
use crate::meta::attached;

/// Runs a command line of version 8.4; `None` if it is one of today.
pub(super) fn run(words: &[String]) -> Option<u8> {
    let (name, rest) = words.split_first()?;
    let result = match name.as_str() {
        "new-resource" => new_resource(rest)?,
        "new-minor" => new_minor(words)?,
        "attach" => attach(rest)?,
        "connect" => connect(rest)?,
        "disconnect" => disconnect(rest)?,
        _ => turned(words)?,
    };
    Some(result.unwrap_or_else(|text| {
        eprintln!("{text}");
        USAGE
    }))
}

type Exit = Result<u8, String>;

/// `OBJECT COMMAND` for `COMMAND OBJECT`.
fn turned(words: &[String]) -> Option<Exit> {
    let [object, name, rest @ ..] = words else {
        return None;
    };
    if command(object).is_some() || object.starts_with('-') || command(name).is_none() {
        return None;
    }
    let mut turned = vec![name.clone(), object.clone()];
    turned.extend_from_slice(rest);
    Some(Ok(super::main(&turned)))
}

/// Arguments, and the options among them with their values.
fn split(words: &[String]) -> (Vec<&str>, Vec<(&str, Option<&str>)>) {
    let (mut arguments, mut options) = (Vec::new(), Vec::new());
    let mut words = words.iter().map(String::as_str).peekable();
    while let Some(word) = words.next() {
        let Some(long) = word.strip_prefix("--") else {
            arguments.push(word);
            continue;
        };
        match long.split_once('=') {
            Some((name, value)) => options.push((name, Some(value))),
            None => {
                let def = table(NET, long).or_else(|| table(PEER_DEVICE, long));
                let disk = command("attach").and_then(|c| c.option(long));
                let takes = def.or(disk).is_some_and(|def| !def.is_boolean());
                options.push((long, if takes { words.next() } else { None }));
            }
        }
    }
    (arguments, options)
}

fn table(options: &'static [OptionDef], name: &str) -> Option<&'static OptionDef> {
    options.iter().find(|def| def.name == name)
}

fn spelled((name, value): &(&str, Option<&str>)) -> String {
    match value {
        Some(value) => format!("--{name}={value}"),
        None => format!("--{name}"),
    }
}

/// What is remembered of resources in the manner of version 8.4.
fn directory() -> PathBuf {
    let socket = socket();
    let beside = socket.parent().unwrap_or(Path::new("."));
    beside.join("compat-84")
}

fn of_resource(name: &str) -> PathBuf {
    // A name may have a slash, a directory may not.
    directory().join(format!("res-{}", name.replace('/', "%")))
}

fn said(path: &Path) -> impl Fn(io::Error) -> String + '_ {
    move |e| format!("{}: {e}", path.display())
}

/// Runs commands one after the other, up to the first that fails.
fn all(lines: &[Vec<String>]) -> u8 {
    let mut exits = lines.iter().map(|line| super::main(line));
    exits.find(|exit| *exit != 0).unwrap_or(0)
}

fn line(words: &[&str], options: &[String]) -> Vec<String> {
    let words = words.iter().map(|w| (*w).to_owned());
    words.chain(options.iter().cloned()).collect()
}

/// Without a node id.
fn new_resource(rest: &[String]) -> Option<Exit> {
    let parsed = args::parse(command("new-resource")?, rest).ok()?;
    let [name] = parsed.arguments.as_slice() else {
        return None;
    };
    if parsed.help {
        return None;
    }
    eprintln!("new-resource called without node-id: enabling drbd8 compat mode");
    let mut words = line(&["new-resource", name, "0"], &[]);
    words.extend(rest.iter().filter(|word| *word != name).cloned());
    let exit = super::main(&words);
    if exit != 0 {
        return Some(Ok(exit));
    }
    let path = of_resource(name);
    Some(fs::create_dir_all(&path).map(|()| 0).map_err(said(&path)))
}

/// Of a resource without a node id: where its disk options wait.
fn new_minor(words: &[String]) -> Option<Exit> {
    let parsed = args::parse(command("new-minor")?, words.get(1..)?).ok()?;
    let [resource, minor, volume] = parsed.arguments.as_slice() else {
        return None;
    };
    let path = of_resource(resource);
    if !path.is_dir() {
        return None;
    }
    let exit = super::today(words);
    if exit == 0 {
        let (place, number) = (path.join(format!("vol-{volume}")), query::minor(minor)?);
        let link = directory().join(format!("minor-{number}"));
        let _ = fs::remove_file(&link);
        let to = place.strip_prefix(directory()).unwrap_or(&place);
        let linked = || std::os::unix::fs::symlink(to, &link).map_err(said(&link));
        let done = fs::create_dir_all(&place).map_err(said(&place));
        return Some(done.and_then(|()| linked()).map(|()| 0));
    }
    Some(Ok(exit))
}

/// Options of the disk that are those of the peer now; and the node id that the metadata has.
fn attach(rest: &[String]) -> Option<Exit> {
    let (arguments, options) = split(rest);
    let (minor, lower) = (query::minor(arguments.first()?)?, arguments.get(1)?);
    let list = configs("all").ok()?;
    let config = list
        .iter()
        .find(|c| c.volumes.iter().any(|v| v.minor == minor))?;
    let own = |option: &(&str, Option<&str>)| {
        command("attach").is_some_and(|c| c.option(option.0).is_some())
    };
    let (kept, moved): (Vec<_>, Vec<_>) = options.into_iter().partition(own);
    let compat = of_resource(&config.resource).is_dir();
    if moved.is_empty() && !compat {
        return None;
    }
    let of_peer_device = |o: &&(&str, Option<&str>)| table(PEER_DEVICE, o.0).is_some();
    let of_peer = |o: &&(&str, Option<&str>)| o.0 == "fencing";
    if !moved.iter().all(|o| of_peer_device(&o) || of_peer(&o)) {
        return None;
    }
    let volume = config.volumes.iter().find(|v| v.minor == minor)?.volume;
    let texts =
        |list: Vec<&(&str, Option<&str>)>| list.into_iter().map(spelled).collect::<Vec<_>>();
    let place = of_resource(&config.resource).join(format!("vol-{volume}"));
    let saved = save(
        &place.join("peer-device-options-opts"),
        &texts(moved.iter().filter(of_peer_device).collect()),
    )
    .and_then(|()| {
        save(
            &of_resource(&config.resource).join("new-peer-opts"),
            &texts(moved.iter().filter(of_peer).collect()),
        )
    });
    if let Err(text) = saved {
        return Some(Err(text));
    }
    let wanted = match (arguments.get(2), arguments.get(3)) {
        (Some(meta), Some(index)) => attached::node_id(meta, index),
        _ => attached::node_id(lower, "internal"),
    };
    if let Some(wanted) = wanted.filter(|_| compat && config.connections.is_empty()) {
        let exit = renumber(config, wanted);
        if exit != 0 {
            return Some(Ok(exit));
        }
    }
    let kept: Vec<String> = kept.iter().map(spelled).collect();
    let mut words = vec!["attach".to_owned()];
    words.extend(arguments.into_iter().map(str::to_owned));
    words.extend(kept);
    Some(Ok(super::today(&words)))
}

/// Options, one a line, for a command to come.
fn save(path: &Path, options: &[String]) -> Result<(), String> {
    if options.is_empty() {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(said(parent))?;
    fs::write(path, options.join("\n") + "\n").map_err(said(path))
}

/// Options that were saved; they are used once.
fn take(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let _ = fs::remove_file(path);
    text.lines().map(str::to_owned).collect()
}

/// Makes a resource anew with another node id, if it has another one.
fn renumber(config: &Config, id: u8) -> u8 {
    if config.node_id == id {
        return 0;
    }
    let name = config.resource.as_str();
    let spell = |options: &Options| {
        let one = |(name, value): (&String, &String)| format!("--{name}={value}");
        options.iter().map(one).collect::<Vec<_>>()
    };
    let mut lines = Vec::new();
    for volume in &config.volumes {
        let minor = volume.minor.to_string();
        if volume.backing.is_some() {
            lines.push(line(&["detach", &minor], &[]));
        }
        lines.push(line(&["del-minor", &minor], &[]));
    }
    lines.push(line(&["del-resource", name], &[]));
    let new = line(
        &["new-resource", name, &id.to_string()],
        &spell(&config.options),
    );
    lines.push(new);
    for volume in &config.volumes {
        let minor = volume.minor.to_string();
        let number = volume.volume.to_string();
        let mut device = spell(&volume.device);
        if volume.diskless {
            device.push("--diskless".to_owned());
        }
        lines.push(line(&["new-minor", name, &minor, &number], &device));
        if let Some(backing) = &volume.backing {
            let words = [
                "attach",
                &minor,
                &backing.disk,
                &backing.meta_disk,
                &backing.index,
            ];
            lines.push(line(&words, &spell(&volume.disk)));
        }
    }
    // What is remembered is for the new one.
    let (path, kept) = (of_resource(name), directory().join("kept"));
    let _ = fs::rename(&path, &kept);
    let mut exits = lines.iter().map(|line| super::today(line));
    let exit = exits.find(|exit| *exit != 0).unwrap_or(0);
    let _ = fs::rename(&kept, &path);
    exit
}

/// Own address, the peer's, and the own node id that follows from them.
fn addresses(arguments: &[&str]) -> Option<(String, String, u8)> {
    let [_, local, remote] = arguments else {
        return None;
    };
    if local.parse::<u32>().is_ok() {
        return None;
    }
    let local = local.strip_prefix("local:").unwrap_or(local).to_owned();
    let remote = remote.strip_prefix("peer:").unwrap_or(remote).to_owned();
    let own = u8::from(address_hash(&local) <= address_hash(&remote));
    Some((local, remote, own))
}

/// With addresses in place of a node id.
fn connect(rest: &[String]) -> Option<Exit> {
    let (arguments, options) = split(rest);
    let (local, remote, own) = addresses(&arguments)?;
    let resource = *arguments.first()?;
    if address_hash(&local) == address_hash(&remote) {
        return Some(Err("my and peer addr produce the same hash!".to_owned()));
    }
    let list = match configs(resource) {
        Ok(list) => list,
        Err(text) => return Some(Err(text)),
    };
    let path = of_resource(resource);
    if let Some(config) = list.first().filter(|_| path.is_dir()) {
        let exit = renumber(config, own);
        if exit != 0 {
            return Some(Ok(exit));
        }
    }
    let peer = (1 - own).to_string();
    let of_connect =
        |o: &(&str, Option<&str>)| matches!(o.0, "discard-my-data" | "tentative" | "dry-run");
    let (of_connect, of_peer): (Vec<_>, Vec<_>) = options.into_iter().partition(of_connect);
    let mut net = vec!["--_name=remote".to_owned()];
    net.extend(of_peer.iter().map(spelled));
    net.extend(take(&path.join("new-peer-opts")));
    let mut lines = vec![line(&["new-peer", resource, &peer], &net)];
    for volume in list.iter().flat_map(|c| &c.volumes) {
        let number = volume.volume.to_string();
        let place = path.join(format!("vol-{number}/peer-device-options-opts"));
        let options = take(&place);
        if !options.is_empty() {
            lines.push(line(
                &["peer-device-options", resource, &peer, &number],
                &options,
            ));
        }
    }
    lines.push(line(&["new-path", resource, &peer, &local, &remote], &[]));
    let options: Vec<String> = of_connect.iter().map(spelled).collect();
    lines.push(line(&["connect", resource, &peer], &options));
    Some(Ok(all(&lines)))
}

/// With addresses in place of a node id.
fn disconnect(rest: &[String]) -> Option<Exit> {
    let (arguments, options) = split(rest);
    let (_, _, own) = addresses(&arguments)?;
    let resource = *arguments.first()?;
    let peer = (1 - own).to_string();
    let options: Vec<String> = options.iter().map(spelled).collect();
    // The path goes with the peer.
    Some(Ok(all(&[
        line(&["disconnect", resource, &peer], &options),
        line(&["del-peer", resource, &peer], &options),
    ])))
}

/// What was remembered goes with the resource.
pub(super) fn forget(resource: &str) {
    let path = of_resource(resource);
    if !path.is_dir() {
        return;
    }
    let links = fs::read_dir(directory()).into_iter().flatten().flatten();
    for link in links.filter(|l| l.file_name().to_string_lossy().starts_with("minor-")) {
        let to = fs::read_link(link.path()).unwrap_or_default();
        if directory().join(to).starts_with(&path) {
            let _ = fs::remove_file(link.path());
        }
    }
    let _ = fs::remove_dir_all(&path);
}
