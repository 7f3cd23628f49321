//! The running configuration, read from `drbdsetup show` ("Configuration language", section 12).

use drbd_config::model::{Connection, EndpointKind, Host, Path, Resource};
use drbd_config::options::{OptionDef, OptionSet};
use drbd_config::{Config, Input, Parser, expand};

use super::calls::words;
use super::commands::Limit;
use super::helper::{Call, Program};
use super::{Adm, report};

impl Adm {
    /// What the node has, of one resource or of all. A node that does not answer has nothing.
    pub(super) fn running(&self, resource: Option<&str>) -> Result<Config, i32> {
        let text = match std::env::var_os("FAKE_DRBDSETUP_SHOW") {
            Some(file) => std::fs::read(&file).map_err(|error| {
                eprintln!("Can not open '{}': {error}", file.display());
                20
            })?,
            None => {
                let mut args = words(["show"]);
                args.extend(resource.map(str::to_owned));
                let call = Call {
                    quiet: self.invocation.dry_run,
                    ..Call::new(Program::Setup, resource.unwrap_or(""), Limit::Short, args)
                };
                self.helpers.ask(&call).unwrap_or_default()
            }
        };
        let mut parser = Parser::new(&self.environment);
        parser.running();
        parser.read(Input::Text {
            name: "drbdsetup show".to_owned(),
            text,
        });
        let parsed = parser.finish();
        let errors: Vec<_> = parsed
            .diagnostics
            .into_iter()
            .filter(|d| d.severity == drbd_config::Severity::Error)
            .collect();
        if expand::failed(&errors) {
            return Err(report(&errors, &parsed.config).unwrap_or(10));
        }
        Ok(parsed.config)
    }
}

/// Own section of a running resource.
pub(super) fn this_host(resource: &Resource) -> Option<&Host> {
    resource.hosts.first()
}

/// The two address words of a running path.
pub(super) fn path_words(path: &Path) -> Option<[String; 2]> {
    let of = |kind: EndpointKind| {
        let endpoint = path.endpoints.iter().find(|e| e.kind == kind)?;
        endpoint.address.as_ref().map(|a| a.word())
    };
    Some([of(EndpointKind::ThisHost)?, of(EndpointKind::RemoteHost)?])
}

/// True for a connection with an established link.
pub(super) fn is_connected(connection: &Connection) -> bool {
    connection.cstate.as_deref() == Some("Connected")
}

/// True for a connection that does not try; also if the node did not say.
pub(super) fn is_standalone(connection: &Connection) -> bool {
    matches!(connection.cstate.as_deref(), None | Some("StandAlone"))
}

/// Wanted options: name and value.
pub(super) type Wanted = Vec<(&'static OptionDef, String)>;

/// The options of a set.
pub(super) fn wanted(set: &OptionSet) -> Wanted {
    set.iter()
        .filter_map(|i| Some((i.def, i.value.as_deref()?.to_owned())))
        .collect()
}

fn same(def: &OptionDef, a: &str, b: &str) -> bool {
    // The transport without a name is TCP.
    let plain = |v: &str| {
        if def.name == "transport" && v == "tcp" {
            String::new()
        } else {
            v.to_owned()
        }
    };
    def.same(&plain(a), &plain(b))
}

fn is_default(def: &OptionDef, value: &str) -> bool {
    def.is_default(value) || (def.name == "transport" && value == "tcp")
}

/// True if the node does not know an option.
pub(super) fn is_unknown(running: &OptionSet, name: &str) -> bool {
    running.get(name).is_some_and(|i| i.value.is_none())
}

/// Names of the options that differ ("Command line tools", section 4.3): a running one must equal
/// the configured one, or the default if none is configured; a configured one that the node did not
/// mention must be the default.
pub(super) fn differing(running: &OptionSet, wanted: &Wanted) -> Vec<&'static str> {
    let mut differ = Vec::new();
    // The last of repeated options is in force.
    let find = |name: &str| wanted.iter().rev().find(|(def, _)| def.name == name);
    for item in running.iter() {
        let Some(value) = &item.value else { continue };
        let equal = match find(item.def.name) {
            Some((def, want)) => same(def, value, want),
            None => is_default(item.def, value),
        };
        if !equal {
            differ.push(item.def.name);
        }
    }
    for (def, want) in wanted {
        if running.get(def.name).is_none() && !is_default(def, want) && !differ.contains(&def.name)
        {
            differ.push(def.name);
        }
    }
    differ
}
