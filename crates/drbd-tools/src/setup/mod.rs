//! `drbdsetup`: the node's view of DRBD. It talks to the daemon over its control socket; the first command that
//! changes or watches something starts the daemon if none answers.

use std::fs::File;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use drbd_config::options::{Argument, COMMANDS, SetupCommand, command};
use drbd_control::client::{Client, ClientError, Outcome};
use drbd_control::default_path;
use drbd_control::protocol::{Answer, Config, Resource};

use crate::minor_lock::{self, NoLock};
use crate::registration;

mod args;
mod color;
mod compat84;
mod daemon;
mod events;
pub(crate) mod help;
mod metadata;
mod query;
#[cfg(test)]
mod schema;
mod show;
mod status;
mod texts;
mod wait;
mod watch;
mod why;

use args::Parsed;
use status::Detail;

/// Result code of the daemon for success.
const DONE: i32 = 101;
/// A usage error, or no answer.
const USAGE: u8 = 20;
/// An object that is not there.
const NOT_THERE: u8 = 10;
/// A device without disk, or one that cannot be opened.
const NO_DISK: u8 = 1;
/// Said when there is no resource.
const NOTHING: &str = "# No currently configured DRBD found.";

/// Runs a command line without the program's name; gives the exit code.
pub fn main(words: &[String]) -> u8 {
    let Some(name) = words.first() else {
        return usage("no command given");
    };
    match name.as_str() {
        "help" | "--help" | "-h" => {
            return match words.get(1).map(|name| (name, command(name))) {
                None => {
                    print(&help::commands());
                    0
                }
                Some((_, Some(command))) => {
                    print(&help::usage(command));
                    0
                }
                Some((name, None)) => usage(&format!("unknown command: '{name}'")),
            };
        }
        "xml-help" => {
            return match words.get(1).and_then(|name| command(name)) {
                Some(command) => {
                    print(&help::xml(command));
                    0
                }
                None => usage("unknown command"),
            };
        }
        "--version" | "-V" => {
            print(&format!("drbdsetup {}\n", env!("CARGO_PKG_VERSION")));
            return 0;
        }
        _ => {}
    }
    compat84::run(words).unwrap_or_else(|| today(words))
}

/// A command line of today's form.
fn today(words: &[String]) -> u8 {
    let Some((name, rest)) = words.split_first() else {
        return usage("no command given");
    };
    let Some(command) = command(name) else {
        return usage(&format!("unknown command: '{name}'"));
    };
    let parsed = match args::parse(command, rest) {
        Ok(parsed) => parsed,
        Err(text) => {
            eprintln!("{text}");
            return USAGE;
        }
    };
    if parsed.help {
        print(&help::usage(command));
        return 0;
    }
    match check_arguments(command, parsed) {
        Ok(parsed) => run(command, &parsed),
        Err(text) => {
            eprintln!("{text}");
            eprintln!("{}", help::line(command));
            USAGE
        }
    }
}

/// Prints to stdout; whoever closes it early is not told off.
pub(crate) fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
    let _ = std::io::stdout().flush();
}

fn usage(reason: &str) -> u8 {
    print(&help::commands());
    print(&format!("\n{reason}\n"));
    USAGE
}

/// Checks number and kind of the arguments, and resolves paths and host names.
fn check_arguments(command: &SetupCommand, mut parsed: Parsed) -> Result<Parsed, String> {
    let wanted = command.arguments;
    let optional = wanted == [Argument::ResourceOrAll];
    if optional && parsed.arguments.is_empty() {
        parsed.arguments.push("all".to_owned());
    }
    if let Some(missing) = wanted.get(parsed.arguments.len()) {
        return Err(format!("Missing argument '{}'", missing.name()));
    }
    if let Some(excess) = parsed
        .arguments
        .get(wanted.len()..)
        .filter(|e| !e.is_empty())
    {
        return Err(format!("Excess arguments: {}", excess.join(", ")));
    }
    for (kind, text) in wanted.iter().zip(&mut parsed.arguments) {
        match kind {
            Argument::Resource | Argument::ResourceOrAll | Argument::NewName => {
                if text.is_empty() || text.chars().any(char::is_control) {
                    return Err(format!("command does not accept argument '{text}'"));
                }
            }
            Argument::NodeId | Argument::PeerNodeId | Argument::Volume => {
                if text.parse::<u32>().is_err() {
                    return Err(format!("{text} is not a valid number"));
                }
            }
            Argument::Minor => {
                let Some(minor) = query::minor(text) else {
                    return Err(format!(
                        "Cannot determine minor device number of device '{text}'"
                    ));
                };
                *text = minor.to_string();
            }
            Argument::LowerDev | Argument::MetaDataDev => {
                // The daemon has another working directory.
                if let Ok(path) = std::path::absolute(&*text) {
                    *text = path.to_string_lossy().into_owned();
                }
            }
            Argument::MetaDataIndex => {
                let named = matches!(text.as_str(), "internal" | "flexible" | "flex-external");
                if !named && text.parse::<u32>().is_err() {
                    return Err(format!("{text} is not a valid number"));
                }
            }
            Argument::LocalAddr | Argument::RemoteAddr => *text = query::resolve(text)?,
        }
    }
    Ok(parsed)
}

/// Where the daemon listens.
fn socket() -> PathBuf {
    default_path()
}

fn run(command: &'static SetupCommand, parsed: &Parsed) -> u8 {
    let object = parsed.arguments.first().map_or("", String::as_str);
    let result = match command.name {
        "status" => show_status(parsed),
        "show" => show_config(parsed),
        "events2" => watch::events2(parsed),
        "why" => why::run(parsed),
        "role" | "peer-role" | "cstate" | "dstate" | "udev" => query::run(command.name, parsed),
        "get-gi" | "show-gi" => metadata::gi(command.name, parsed),
        "check-resize" => metadata::check_resize(parsed),
        name if name.starts_with("wait-") => wait::run(name, parsed),
        "down" if object == "all" => down_all(),
        "down" | "del-resource" | "del-minor" => lock(command, parsed).and_then(|_locks| {
            let minors = minors(command.name, object);
            let exit = modify(command.name, parsed)?;
            if exit == 0 {
                forget(command.name, object, &minors);
            }
            Ok(exit)
        }),
        _ => lock(command, parsed).and_then(|_locks| modify(command.name, parsed)),
    };
    result.unwrap_or_else(|text| {
        eprintln!("{text}");
        USAGE
    })
}

/// The minors that go with an object.
fn minors(command: &str, object: &str) -> Vec<u32> {
    if command == "del-minor" {
        return object.parse().into_iter().collect();
    }
    let list = configs(object).unwrap_or_default();
    list.iter()
        .flat_map(|c| &c.volumes)
        .map(|v| v.minor)
        .collect()
}

/// What tools have kept of an object goes with it (CLI, section 1.1).
fn forget(command: &str, object: &str, minors: &[u32]) {
    for minor in minors {
        registration::forget_minor(*minor);
    }
    if command != "del-minor" {
        registration::forget_resource(object);
        compat84::forget(object);
    }
}

/// Keeps `drbdmeta` and other tools away from the minor that the command is about.
fn lock(command: &SetupCommand, parsed: &Parsed) -> Result<Vec<File>, String> {
    const UNLOCKED: &str = "check-resize";
    let mut arguments = command.arguments.iter().zip(&parsed.arguments);
    let minor = arguments
        .find(|(kind, _)| **kind == Argument::Minor && command.name != UNLOCKED)
        .and_then(|(_, text)| text.parse().ok());
    match minor.map(minor_lock::take) {
        Some(Ok(locks)) => Ok(locks),
        // Who may not make lock files cannot write metadata either; the node decides what is allowed.
        None | Some(Err(NoLock::NotOpened { .. })) => Ok(Vec::new()),
        Some(Err(error)) => Err(error.to_string()),
    }
}

/// Asks for the state of a resource or of all; without a daemon there is none.
fn resources(which: &str) -> Result<Vec<Resource>, String> {
    match ask("status", which)? {
        None => Ok(Vec::new()),
        Some(outcome) => {
            let mut all: Vec<Resource> = outcome
                .answers
                .into_iter()
                .flat_map(|answer| match answer {
                    Answer::Status(list) => list,
                    _ => Vec::new(),
                })
                .collect();
            status::sort(&mut all);
            Ok(all)
        }
    }
}

fn ask(command: &str, which: &str) -> Result<Option<Outcome>, String> {
    match Client::connect(&socket()) {
        Ok(mut client) => {
            let outcome = client.request(command, &[which], Vec::new(), false);
            let outcome = outcome.map_err(|e| format!("{which}: {e}"))?;
            // No answer is not the answer that there is nothing.
            if outcome.code != DONE {
                let info = outcome.info.join("; ");
                return Err(format!(
                    "{which}: the daemon refused: ({}) {info}",
                    outcome.code
                ));
            }
            Ok(Some(outcome))
        }
        Err(ClientError::NoDaemon { .. }) => Ok(None),
        Err(e) => Err(format!("{which}: {e}")),
    }
}

fn show_status(parsed: &Parsed) -> Result<u8, String> {
    let which = parsed.arguments.first().map_or("all", String::as_str);
    let terminal = std::io::stdout().is_terminal();
    let (given, when) = (parsed.count("color") > 0, parsed.value("color"));
    let color = color::wanted(given, when, terminal)?;
    let list = resources(which)?;
    let missing = which != "all" && list.is_empty();
    if missing {
        eprintln!("{which}: No such resource");
    }
    if parsed.count("json") > 0 {
        print(&status::json(&list));
    } else if list.is_empty() && !missing {
        print(&format!("{NOTHING}\n"));
    } else {
        let detail = Detail {
            color,
            verbose: parsed.count("verbose"),
            statistics: parsed.count("statistics") > 0,
            terminal,
            width: query::width(terminal),
        };
        print(&status::text(&list, detail));
    }
    Ok(if missing { NOT_THERE } else { 0 })
}

/// Asks for the configuration of a resource or of all, by name; without a daemon there is none.
fn configs(which: &str) -> Result<Vec<Config>, String> {
    let mut list: Vec<Config> = Vec::new();
    if let Some(outcome) = ask("show", which)? {
        list.extend(outcome.answers.into_iter().flat_map(|answer| match answer {
            Answer::Show(list) => list,
            _ => Vec::new(),
        }));
    }
    list.sort_by(|a, b| a.resource.cmp(&b.resource));
    Ok(list)
}

fn show_config(parsed: &Parsed) -> Result<u8, String> {
    let which = parsed.arguments.first().map_or("all", String::as_str);
    let list = configs(which)?;
    if parsed.count("json") > 0 {
        print(&show::json(&list));
    } else if list.is_empty() && which == "all" {
        print(&format!("{NOTHING}\n"));
    } else {
        print(&show::text(&list, parsed.count("show-defaults") > 0));
    }
    Ok(0)
}

/// A command that changes something.
fn modify(name: &str, parsed: &Parsed) -> Result<u8, String> {
    let object = parsed.arguments.first().map_or("", String::as_str);
    let path = socket();
    let mut client = match Client::connect(&path) {
        Ok(client) => client,
        // Without a daemon this is the state of things already.
        Err(ClientError::NoDaemon { .. })
            if matches!(name, "down" | "secondary" | "disconnect" | "detach") =>
        {
            return Ok(0);
        }
        Err(ClientError::NoDaemon { .. }) => {
            daemon::start(&path).map_err(|e| format!("{object}: {e}"))?
        }
        Err(e) => return Err(format!("{object}: {e}")),
    };
    let arguments: Vec<&str> = parsed.arguments.iter().map(String::as_str).collect();
    let mut pause = Duration::from_millis(1000 / 16);
    loop {
        let outcome = client
            .request(
                name,
                &arguments,
                parsed.options.clone(),
                parsed.set_defaults,
            )
            .map_err(|e| format!("{object}: {e}"))?;
        // A transient state passes by itself.
        if outcome.code == -18 {
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_secs(10));
            continue;
        }
        let (text, exit) = texts::outcome(name, object, outcome.code, &outcome.info);
        if !text.is_empty() {
            eprint!("{text}");
        }
        return Ok(exit);
    }
}

fn down_all() -> Result<u8, String> {
    let mut first = 0;
    for resource in resources("all")? {
        let parsed = Parsed {
            arguments: vec![resource.name],
            ..Parsed::default()
        };
        let name = parsed.arguments.first().map_or("", String::as_str);
        let minors = minors("down", name);
        let exit = modify("down", &parsed)?;
        if exit == 0 {
            forget("down", name, &minors);
        }
        if first == 0 {
            first = exit;
        }
    }
    Ok(first)
}

/// The names of all commands.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    COMMANDS.iter().map(|c| c.name)
}
