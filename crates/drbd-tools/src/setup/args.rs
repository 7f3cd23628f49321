//! Arguments and options of a command, in the manner of getopt_long: options may stand anywhere, values follow after
//! `=` or as the next word, and any unambiguous prefix of a name is accepted (CLI, section 8).

use drbd_config::options::{Kind, OptionDef, SetupCommand, ValueError};

/// An option that only concerns the output.
pub(super) struct Output {
    pub(super) name: &'static str,
    /// NUL for none.
    pub(super) short: char,
    pub(super) value: Value,
    /// What it does.
    pub(super) help: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    None,
    /// Only with `=`.
    Optional,
    Required,
}

const fn output(name: &'static str, short: char, value: Value, help: &'static str) -> Output {
    Output {
        name,
        short,
        value,
        help,
    }
}

const STATUS: &[Output] = &[
    output(
        "verbose",
        'v',
        Value::None,
        "more fields; given twice, all of them",
    ),
    output(
        "statistics",
        's',
        Value::None,
        "counters and amounts as well",
    ),
    output(
        "color",
        'c',
        Value::Optional,
        "always, never or auto (default): states in colours",
    ),
    output("json", 'j', Value::None, "as JSON"),
];
const SHOW: &[Output] = &[
    output(
        "show-defaults",
        'D',
        Value::None,
        "options that have their defaults as well",
    ),
    output("json", 'j', Value::None, "as JSON"),
];
const EVENTS2: &[Output] = &[
    output(
        "timestamps",
        'T',
        Value::None,
        "a time stamp before each line",
    ),
    output(
        "statistics",
        's',
        Value::None,
        "counters and amounts as well",
    ),
    output("now", 'n', Value::None, "the current state only"),
    output(
        "poll",
        'p',
        Value::None,
        "read n from standard input to show the state again",
    ),
    output("full", 'f', Value::None, "every field in every line"),
    output(
        "color",
        'c',
        Value::Optional,
        "always, never or auto (default): states in colours",
    ),
    output("diff", 'i', Value::Optional, "old and new values"),
    output(
        "rcvbuf",
        '\0',
        Value::Required,
        "accepted for compatibility",
    ),
];
const WAIT: &[Output] = &[
    output(
        "wfc-timeout",
        't',
        Value::Required,
        "seconds to wait for a peer",
    ),
    output(
        "degr-wfc-timeout",
        'd',
        Value::Required,
        "seconds, if this node was without the peer before it was restarted",
    ),
    output(
        "outdated-wfc-timeout",
        'o',
        Value::Required,
        "seconds, if the peer's data are outdated",
    ),
    output(
        "wait-after-sb",
        'w',
        Value::Optional,
        "go on waiting although a connection is StandAlone",
    ),
];
const WHY: &[Output] = &[output("json", 'j', Value::None, "as JSON")];
const NOTHING: &[Output] = &[];

/// Other names of options.
const ALIASES: &[(&str, &str, &str)] = &[
    ("connect", "dry-run", "tentative"),
    ("primary", "overwrite-data-of-peer", "force"),
];

/// A command line taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parsed {
    /// Positional arguments.
    pub(super) arguments: Vec<String>,
    /// Options of the option table, by full name.
    pub(super) options: Vec<(String, Option<String>)>,
    /// Options that concern the output, by full name.
    pub(super) output: Vec<(&'static str, Option<String>)>,
    /// `--set-defaults`.
    pub(super) set_defaults: bool,
    /// `--help`.
    pub(super) help: bool,
}

impl Parsed {
    /// How often an output option was given.
    pub(super) fn count(&self, name: &str) -> usize {
        self.output.iter().filter(|(n, _)| *n == name).count()
    }

    /// The value of an output option.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.output
            .iter()
            .rev()
            .find(|(n, _)| *n == name)
            .and_then(|(_, v)| v.as_deref())
    }
}

/// What a name stands for.
#[derive(Clone, Copy)]
enum Meaning {
    Table(&'static OptionDef),
    Output(&'static str, Value),
    SetDefaults,
    Help,
}

/// The options of a command that only concern its output.
pub(super) fn outputs(command: &str) -> &'static [Output] {
    match command {
        "status" => STATUS,
        "show" => SHOW,
        "events2" => EVENTS2,
        "why" => WHY,
        name if name.starts_with("wait-") => WAIT,
        _ => NOTHING,
    }
}

fn meanings(command: &'static SetupCommand) -> Vec<(&'static str, Meaning)> {
    let mut all: Vec<(&'static str, Meaning)> = outputs(command.name)
        .iter()
        .map(|o| (o.name, Meaning::Output(o.name, o.value)))
        .collect();
    if !command.name.starts_with("wait-") {
        all.extend(command.options().map(|def| (def.name, Meaning::Table(def))));
    }
    for (_, alias, name) in ALIASES.iter().filter(|(of, ..)| *of == command.name) {
        if let Some(def) = command.option(name) {
            all.push((alias, Meaning::Table(def)));
        }
    }
    if command.has_set_defaults() {
        all.push(("set-defaults", Meaning::SetDefaults));
    }
    all.push(("help", Meaning::Help));
    all
}

fn find(all: &[(&'static str, Meaning)], name: &str, program: &str) -> Result<Meaning, String> {
    if let Some((_, exact)) = all.iter().find(|(n, _)| *n == name) {
        return Ok(*exact);
    }
    let fitting: Vec<_> = all.iter().filter(|(n, _)| n.starts_with(name)).collect();
    match fitting.as_slice() {
        [(_, meaning)] => Ok(*meaning),
        [] => Err(format!("{program}: unrecognized option '--{name}'")),
        several => {
            let names: Vec<String> = several.iter().map(|(n, _)| format!("'--{n}'")).collect();
            let names = names.join(" ");
            Err(format!(
                "{program}: option '--{name}' is ambiguous; possibilities: {names}"
            ))
        }
    }
}

/// Takes a command line apart.
///
/// # Errors
/// A text that says what is wrong.
pub(super) fn parse(command: &'static SetupCommand, words: &[String]) -> Result<Parsed, String> {
    let program = "drbdsetup";
    let all = meanings(command);
    let mut parsed = Parsed::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--" {
            parsed.arguments.extend(words.cloned());
            break;
        }
        if let Some(long) = word.strip_prefix("--") {
            let (name, value) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (long, None),
            };
            let meaning = find(&all, name, program)?;
            let required = match meaning {
                Meaning::Table(def) => !def.is_boolean(),
                Meaning::Output(_, value) => value == Value::Required,
                Meaning::SetDefaults | Meaning::Help => false,
            };
            let value = match (value, required) {
                (None, true) => match words.next() {
                    Some(next) => Some(next.clone()),
                    None => {
                        return Err(format!("{program}: option '--{name}' requires an argument"));
                    }
                },
                (value, _) => value,
            };
            take(&mut parsed, meaning, value)?;
        } else if let Some(letters) = word.strip_prefix('-').filter(|l| !l.is_empty()) {
            for (at, letter) in letters.char_indices() {
                if letter == 'h' {
                    parsed.help = true;
                    continue;
                }
                let Some(option) = outputs(command.name)
                    .iter()
                    .find(|o| o.short == letter && letter != '\0')
                else {
                    return Err(format!("{program}: invalid option -- '{letter}'"));
                };
                let rest = word.get(at + 1 + letter.len_utf8()..).unwrap_or("");
                let value = match option.value {
                    Value::None => None,
                    Value::Optional => Some(rest.to_owned()).filter(|r| !r.is_empty()),
                    Value::Required if rest.is_empty() => match words.next() {
                        Some(next) => Some(next.clone()),
                        None => {
                            return Err(format!(
                                "{program}: option requires an argument -- '{letter}'"
                            ));
                        }
                    },
                    Value::Required => Some(rest.to_owned()),
                };
                parsed.output.push((option.name, value));
                if option.value != Value::None {
                    break;
                }
            }
        } else {
            parsed.arguments.push(word.clone());
        }
    }
    Ok(parsed)
}

fn take(parsed: &mut Parsed, meaning: Meaning, value: Option<String>) -> Result<(), String> {
    match meaning {
        Meaning::Help => parsed.help = true,
        Meaning::SetDefaults => parsed.set_defaults = true,
        Meaning::Output(name, _) => parsed.output.push((name, value)),
        Meaning::Table(def) => {
            if let Some(text) = &value {
                // Ranges are the daemon's business.
                match def.parse(text) {
                    Ok(_)
                    | Err(
                        ValueError::TooSmall(_) | ValueError::TooBig(_) | ValueError::TooLong(_),
                    ) => {}
                    Err(_) => {
                        return Err(format!("Option --{}: invalid argument '{text}'", def.name));
                    }
                }
            }
            // A key of the key store is a number for the daemon.
            let value = if matches!(def.kind, Kind::Boolean { .. }) {
                Some(value.unwrap_or_else(|| "yes".into()))
            } else {
                value
            };
            parsed.options.push((def.name.to_owned(), value));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use drbd_config::options::command;

    use super::*;

    fn run(line: &str) -> Result<Parsed, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(command(&words[0]).unwrap(), &words[1..])
    }

    fn pair(name: &str, value: &str) -> (String, Option<String>) {
        (name.to_owned(), Some(value.to_owned()))
    }

    #[test]
    fn options_stand_anywhere() {
        let p = run("new-peer --_name=bravo r0 --protocol A 1 --ping-timeout=7").unwrap();
        assert_eq!(p.arguments, ["r0", "1"]);
        assert_eq!(
            p.options,
            [
                pair("_name", "bravo"),
                pair("protocol", "A"),
                pair("ping-timeout", "7")
            ]
        );
    }

    #[test]
    fn prefixes_aliases_and_flags() {
        let p = run("new-resource r0 0 --on-no-data io-error --auto-promote=no").unwrap();
        assert_eq!(
            p.options,
            [
                pair("on-no-data-accessible", "io-error"),
                pair("auto-promote", "no")
            ]
        );
        assert!(
            run("new-resource r0 0 --on-no x")
                .unwrap_err()
                .contains("ambiguous")
        );
        assert_eq!(
            run("primary r0 --overwrite-data-of-peer").unwrap().options,
            [pair("force", "yes")]
        );
        assert_eq!(
            run("connect r0 1 --dry-run").unwrap().options,
            [pair("tentative", "yes")]
        );
        assert!(run("net-options r0 1 --set-defaults").unwrap().set_defaults);
        assert!(
            run("net-options r0 1 --transport=tcp").is_err(),
            "cannot be changed"
        );
        assert!(run("new-peer r0 1 --set-defaults").is_err());
    }

    #[test]
    fn short_options_and_errors() {
        let p = run("status r0 -vv --statistics -c").unwrap();
        assert_eq!(
            (p.count("verbose"), p.count("statistics"), p.value("color")),
            (2, 1, None)
        );
        assert_eq!(
            run("wait-connect-resource r0 -t 5 -wyes")
                .unwrap()
                .value("wfc-timeout"),
            Some("5")
        );
        assert_eq!(
            run("status --color=never").unwrap().value("color"),
            Some("never")
        );
        assert!(run("status -x").is_err());
        assert_eq!(
            run("new-peer r0 1 --timeout=x").unwrap_err(),
            "Option --timeout: invalid argument 'x'"
        );
        assert!(
            run("new-peer r0 1 --timeout=100000").is_ok(),
            "ranges are checked elsewhere"
        );
        assert!(
            run("new-peer r0 1 --timeout")
                .unwrap_err()
                .contains("requires an argument")
        );
        assert_eq!(run("status -- -v").unwrap().arguments, ["-v"]);
    }
}
