//! Finding and reading the configuration ("Configuration language", section 1; "Command line
//! tools", sections 1.1 and 1.2).

use std::io::Read;
use std::path::{Path, PathBuf};

use drbd_config::parser::MAX_FILE;
use drbd_config::{Config, Environment, Input, Parser, expand};

use super::cli::Invocation;
use super::commands::{Command, is_handler};
use super::{DRIVER_VERSION, report};
use crate::registration::{self, RUN_DIRECTORY};

/// Configuration files in the order in which they are looked for.
const DEFAULT_FILES: [&str; 6] = [
    "/etc/drbd-90.conf",
    "/etc/drbd-84.conf",
    "/etc/drbd-83.conf",
    "/etc/drbd-82.conf",
    "/etc/drbd-08.conf",
    "/etc/drbd.conf",
];

/// The local host, or the one `__DRBD_NODE__` names.
pub(super) fn environment(terminal: bool) -> Environment {
    let pretended = std::env::var("__DRBD_NODE__")
        .ok()
        .filter(|n| !n.is_empty());
    if let Some(name) = &pretended {
        eprintln!("\n   found __DRBD_NODE__ in environment\n   PRETENDING that I am >>{name}<<\n");
    }
    let node_name = pretended.unwrap_or_else(|| {
        rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned()
    });
    Environment {
        node_name,
        addresses: None,
        driver_version: Some(driver_version()),
        terminal,
    }
}

/// Version of the driver: overridden, of the loaded kernel module, or of our own node.
pub(super) fn driver_version() -> [u32; 3] {
    std::env::var("DRBD_DRIVER_VERSION_OVERRIDE")
        .ok()
        .and_then(|v| version(&v))
        .or_else(|| {
            let text = std::fs::read_to_string("/proc/drbd").ok()?;
            version(text.lines().next()?.strip_prefix("version: ")?)
        })
        .unwrap_or(DRIVER_VERSION)
}

fn version(text: &str) -> Option<[u32; 3]> {
    let text = text
        .split(|c: char| !c.is_ascii_digit() && c != '.')
        .next()?;
    let mut parts = text.split('.').map(|p| p.parse().ok());
    Some([
        parts.next()??,
        parts.next()??,
        parts.next().flatten().unwrap_or(0),
    ])
}

/// The link to the configuration with which an object was created.
fn registered(selector: &str) -> Option<PathBuf> {
    let link = if selector.starts_with("minor-") {
        registration::link(selector)?
    } else {
        registration::link(&format!("resource-{selector}"))?
    };
    std::fs::canonicalize(link).ok()
}

fn input(invocation: &Invocation, command: &Command) -> Result<Input, i32> {
    if let Some(file) = &invocation.config {
        if file != "-" {
            return Ok(Input::File(file.into()));
        }
        let mut text = Vec::new();
        let read = std::io::stdin()
            .lock()
            .take(MAX_FILE + 1)
            .read_to_end(&mut text);
        return match read {
            Ok(n) if n as u64 <= MAX_FILE => Ok(Input::Text {
                name: "STDIN".to_owned(),
                text,
            }),
            Ok(_) => {
                eprintln!("Standard input is too large for a configuration.");
                Err(20)
            }
            Err(error) => {
                eprintln!("Can not read standard input: {error}.");
                Err(20)
            }
        };
    }
    // Called back by the node or udev: the configuration may be somewhere else.
    if (is_handler(command) || command.name == "sh-udev")
        && let Some(file) = invocation.selectors.first().and_then(|s| registered(s))
    {
        return Ok(Input::File(file));
    }
    match DEFAULT_FILES.iter().map(Path::new).find(|p| p.exists()) {
        Some(file) => Ok(Input::File(file.to_path_buf())),
        None => {
            eprintln!("Can not open '/etc/drbd.conf': No such file or directory");
            Err(10)
        }
    }
}

/// Reads the configuration and what is to be tested with it.
pub(super) fn load(
    invocation: &Invocation,
    command: &Command,
    environment: &Environment,
) -> Result<Config, i32> {
    let mut parser = Parser::new(environment);
    if invocation.verbose > 0 {
        parser.verbose();
    }
    for file in &invocation.to_exclude {
        parser.exclude(Path::new(file));
    }
    parser.read(input(invocation, command)?);
    for file in &invocation.to_test {
        parser.read(Input::File(file.into()));
    }
    let parsed = parser.finish();
    let code = report(&parsed.diagnostics, &parsed.config);
    match code {
        Some(code) => Err(code),
        None => {
            debug_assert!(!expand::failed(&parsed.diagnostics));
            Ok(parsed.config)
        }
    }
}

/// Remembers which configuration an object was created with. `what` is `resource-NAME` or
/// `minor-N`.
pub(super) fn register(config: &Config, what: &str) {
    let main = config.main.and_then(|m| config.sources.get(m));
    let Some(path) = main.map(|f| &f.path).filter(|p| !p.as_os_str().is_empty()) else {
        return;
    };
    if path.starts_with(RUN_DIRECTORY) || path.starts_with("/run/drbd") {
        return;
    }
    let Some(link) = registration::link(what) else {
        return;
    };
    // Without the directory nobody will look there either.
    let _ = std::fs::remove_file(&link);
    let _ = std::os::unix::fs::symlink(path, &link);
}
