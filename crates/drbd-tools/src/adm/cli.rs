//! The command line of `drbdadm` ("Command line tools", section 2).

use std::path::PathBuf;

use super::commands::{self, Command, Takes};

/// The general options: long name, letter, whether there is a value.
pub(super) const GENERAL: &[(&str, char, bool)] = &[
    ("stacked", 'S', false),
    ("dry-run", 'd', false),
    ("verbose", 'v', false),
    ("config-file", 'c', true),
    ("config-to-test", 't', true),
    ("config-to-exclude", 'E', true),
    ("drbdsetup", 's', true),
    ("drbdmeta", 'm', true),
    ("drbd-proxy-ctl", 'p', true),
    ("sh-varname", 'n', true),
    ("version", 'V', false),
    ("setup-option", 'W', true),
    ("help", 'h', false),
];

/// An option for the helper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Passed {
    pub(super) name: String,
    pub(super) value: Option<String>,
}

impl Passed {
    /// As a word of a command line.
    pub(super) fn word(&self) -> String {
        match &self.value {
            Some(value) => format!("--{}={value}", self.name),
            None => format!("--{}", self.name),
        }
    }

    /// True unless the value says no.
    pub(super) fn is_set(&self) -> bool {
        self.value.as_deref() != Some("no")
    }
}

/// What was asked for.
#[derive(Debug, Default)]
pub(super) struct Invocation {
    pub(super) stacked: bool,
    pub(super) dry_run: bool,
    pub(super) verbose: u32,
    pub(super) config: Option<String>,
    pub(super) to_test: Vec<String>,
    pub(super) to_exclude: Vec<String>,
    pub(super) setup: Option<PathBuf>,
    pub(super) meta: Option<PathBuf>,
    pub(super) proxy: Option<PathBuf>,
    pub(super) varname: Option<String>,
    pub(super) version: bool,
    pub(super) help: bool,
    pub(super) command: Option<Command>,
    /// Options the command accepts, in the order given.
    pub(super) options: Vec<Passed>,
    /// Words for the helper that are no options.
    pub(super) words: Vec<String>,
    pub(super) selectors: Vec<String>,
}

/// A wrong command line: a message and the exit code.
#[derive(Debug)]
pub(super) struct Usage {
    pub(super) message: String,
    pub(super) exit: u8,
}

impl Usage {
    fn new(message: impl Into<String>) -> Usage {
        Usage {
            message: message.into(),
            exit: 1,
        }
    }
}

fn unrecognized(name: &str, command: Option<&Command>) -> Usage {
    let help = command.map_or_else(String::new, |c| format!(" {}", c.name));
    Usage::new(format!(
        "drbdadm: unrecognized option '--{name}'\ntry 'drbdadm help{help}'"
    ))
}

enum Long {
    General(char, bool),
    Passed(&'static str, Takes),
}

/// Finds a long option by its name or an unambiguous beginning of it.
fn long(name: &str) -> Result<Option<Long>, Usage> {
    let mut partial: Option<(&'static str, Long)> = None;
    let candidates = GENERAL
        .iter()
        .map(|(n, c, v)| (*n, Long::General(*c, *v)))
        .chain(commands::all_options().map(|(n, t)| (n, Long::Passed(n, t))));
    for (candidate, option) in candidates {
        if candidate == name {
            return Ok(Some(option));
        }
        if candidate.starts_with(name) {
            match &partial {
                Some((other, _)) if *other != candidate => {
                    return Err(Usage::new(format!(
                        "drbdadm: option '--{name}' is ambiguous; possibilities: '--{other}' \
                         '--{candidate}'\ntry 'drbdadm help'"
                    )));
                }
                _ => partial = Some((candidate, option)),
            }
        }
    }
    Ok(partial.map(|(_, option)| option))
}

impl Invocation {
    fn general(&mut self, letter: char, value: String, backend: &mut Vec<String>) {
        match letter {
            'S' => self.stacked = true,
            'd' => self.dry_run = true,
            'v' => self.verbose = self.verbose.saturating_add(1),
            'c' => self.config = Some(value),
            't' => self.to_test.push(value),
            'E' => self.to_exclude.push(value),
            's' => self.setup = Some(value.into()),
            'm' => self.meta = Some(value.into()),
            'p' => self.proxy = Some(value.into()),
            'n' => self.varname = Some(value),
            'V' => self.version = true,
            'W' => backend.push(value),
            'h' => self.help = true,
            _ => {}
        }
    }

    /// The value of an option for the helper, if it was given.
    pub(super) fn option(&self, name: &str) -> Option<&Passed> {
        self.options.iter().rev().find(|o| o.name == name)
    }

    /// True if a yes/no option was given and does not say no.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.option(name).is_some_and(Passed::is_set)
    }

    /// Reads the words after the program's name.
    ///
    /// # Errors
    /// Unknown or ambiguous options, missing values, unknown commands.
    pub(super) fn parse(args: impl IntoIterator<Item = String>) -> Result<Invocation, Usage> {
        let mut this = Invocation::default();
        let mut free: Vec<String> = Vec::new();
        let mut backend: Vec<String> = Vec::new();
        let mut options: Vec<(Passed, &'static str)> = Vec::new();
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            if arg == "--" {
                free.extend(args);
                break;
            }
            if let Some(body) = arg.strip_prefix("--") {
                let (name, value) = match body.split_once('=') {
                    Some((name, value)) => (name, Some(value.to_owned())),
                    None => (body, None),
                };
                let mut required = |value: Option<String>, full: &str| {
                    value.or_else(|| args.next()).ok_or_else(|| {
                        Usage::new(format!(
                            "drbdadm: option '--{full}' requires an argument\ntry 'drbdadm help'"
                        ))
                    })
                };
                match long(name)? {
                    None => return Err(unrecognized(name, None)),
                    Some(Long::General(letter, true)) => {
                        let value = required(value, name)?;
                        this.general(letter, value, &mut backend);
                    }
                    Some(Long::General(letter, false)) => {
                        this.general(letter, String::new(), &mut backend);
                    }
                    Some(Long::Passed(full, takes)) => {
                        let value = match takes {
                            Takes::Required => Some(required(value, full)?),
                            Takes::Optional => value,
                            Takes::Nothing if value.is_some() => {
                                return Err(Usage::new(format!(
                                    "drbdadm: option '--{full}' doesn't allow an argument\n\
                                     try 'drbdadm help'"
                                )));
                            }
                            Takes::Nothing => None,
                        };
                        options.push((
                            Passed {
                                name: full.to_owned(),
                                value,
                            },
                            full,
                        ));
                    }
                }
            } else if let Some(letters) = arg.strip_prefix('-').filter(|l| !l.is_empty()) {
                let mut rest = letters.chars();
                while let Some(letter) = rest.next() {
                    let Some((_, _, valued)) = GENERAL.iter().find(|(_, c, _)| *c == letter) else {
                        return Err(Usage::new(format!(
                            "drbdadm: invalid option -- '{letter}'\ntry 'drbdadm help'"
                        )));
                    };
                    if !valued {
                        this.general(letter, String::new(), &mut backend);
                        continue;
                    }
                    let value = rest.as_str().to_owned();
                    let value = if value.is_empty() {
                        args.next()
                    } else {
                        Some(value)
                    };
                    let value = value.ok_or_else(|| {
                        Usage::new(format!(
                            "drbdadm: option requires an argument -- '{letter}'\n\
                             try 'drbdadm help'"
                        ))
                    })?;
                    this.general(letter, value, &mut backend);
                    break;
                }
            } else {
                free.push(arg);
            }
        }
        if this.version {
            return Ok(this);
        }
        this.assign(free, backend, options)?;
        Ok(this)
    }

    /// Splits the free words into those for the helper, the command, and the selectors.
    fn assign(
        &mut self,
        free: Vec<String>,
        mut backend: Vec<String>,
        options: Vec<(Passed, &'static str)>,
    ) -> Result<(), Usage> {
        let mut free = free.into_iter().peekable();
        if free.peek().is_some_and(|w| w == "help") {
            self.help = true;
            free.next();
        }
        let mut first_unknown = None;
        for word in free.by_ref() {
            if let Some(command) = commands::find(&word) {
                self.command = Some(command);
                break;
            }
            first_unknown.get_or_insert_with(|| word.clone());
            backend.push(word);
        }
        self.selectors = free.collect();
        let Some(command) = self.command else {
            return match first_unknown {
                Some(word) => Err(Usage::new(format!("drbdadm: Unknown command '{word}'"))),
                None => Ok(()),
            };
        };
        // What stands before the command is passed on if the command knows it.
        for word in backend {
            match word.strip_prefix("--") {
                None => self.words.push(word),
                Some(body) => {
                    let (name, value) = match body.split_once('=') {
                        Some((name, value)) => (name, Some(value.to_owned())),
                        None => (body, None),
                    };
                    let full = if command.accepts(name) {
                        Some(name)
                    } else {
                        match long(name) {
                            Ok(Some(Long::Passed(full, _))) if command.accepts(full) => Some(full),
                            _ => None,
                        }
                    };
                    if let Some(full) = full {
                        self.options.push(Passed {
                            name: full.to_owned(),
                            value,
                        });
                    }
                }
            }
        }
        for (option, _) in options {
            if !command.accepts(&option.name) {
                return Err(unrecognized(&option.name, Some(&command)));
            }
            self.options.push(option);
        }
        Ok(())
    }
}
