//! Files to model: a recursive descent parser of "Configuration language", section 3.
//!
//! The grammar does not nest without bound, and includes are kept on a list of our own, so no
//! input makes the parser recurse deeply.

mod connection;
mod files;
mod options;
mod resource;
mod texts;
mod tokens;
mod volume;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::diagnostic::{Diagnostic, EXIT_INVALID, Severity};
use crate::environment::Environment;
use crate::lexer::{Keyword, Kind, Lexer, Token};
use crate::model::{Config, Host, HostKind, Text, UsageCount};
use crate::source::{FileId, Span, canonical};

use texts::Texts;
pub(crate) use tokens::conflict;
use tokens::{Range, Step, Tokens, unexpected};

const VOLUME: Range = Range {
    name: "volume",
    min: 0,
    max: 65_535,
};
const NODE_ID: Range = Range {
    name: "node-id",
    min: 0,
    max: 32,
};

/// Largest single file.
pub const MAX_FILE: u64 = 16 << 20;
/// Most bytes read for one configuration.
pub const MAX_TOTAL: u64 = 64 << 20;
/// Most files of one configuration.
pub const MAX_FILES: usize = 65_536;
/// Findings after which reading is pointless.
const MAX_FINDINGS: usize = 100;

const TOP_WORDS: &[&str] = &[
    "global",
    "common",
    "resource",
    "skip",
    "include",
    "require-drbd-module-version-eq",
    "require-drbd-module-version-ne",
    "require-drbd-module-version-gt",
    "require-drbd-module-version-ge",
    "require-drbd-module-version-lt",
    "require-drbd-module-version-le",
];

/// What was read, and what is wrong with it.
#[derive(Debug)]
pub struct Parsed {
    /// The model, as far as it could be read.
    pub config: Config,
    /// Errors and warnings in the order they were found.
    pub diagnostics: Vec<Diagnostic>,
}

/// Where the configuration comes from.
#[derive(Debug, Clone)]
pub enum Input {
    /// A file.
    File(PathBuf),
    /// Standard input or another text; relative includes start at the working directory.
    Text {
        /// Name for messages.
        name: String,
        /// Content.
        text: Vec<u8>,
    },
}

/// Reads a configuration.
#[derive(Debug)]
pub struct Parser {
    config: Config,
    diagnostics: Vec<Diagnostic>,
    seen: HashSet<PathBuf>,
    /// The files from the main file to the one that is read now: each includes the next.
    reading: HashSet<PathBuf>,
    names: HashMap<Text, Span>,
    texts: Texts,
    /// Errors about device names; they only matter if the section applies to this host.
    device_errors: Vec<(Span, String)>,
    environment: Environment,
    running: bool,
    verbose: bool,
    total: u64,
}

/// A file that is being read.
struct Frame {
    text: Arc<Vec<u8>>,
    lexer: Lexer,
    /// Canonical name; empty for a text that is no file.
    path: PathBuf,
}

/// How a file to include was named.
struct Pending {
    path: PathBuf,
    name: String,
    span: Span,
    /// Named literally: it must exist.
    literal: bool,
}

enum Work {
    Frame(Frame),
    Pending(Pending),
}

impl Parser {
    /// Prepares to read on behalf of a node.
    pub fn new(environment: &Environment) -> Parser {
        Parser {
            config: Config::default(),
            diagnostics: Vec::new(),
            seen: HashSet::new(),
            reading: HashSet::new(),
            names: HashMap::new(),
            texts: Texts::new(),
            device_errors: Vec::new(),
            environment: environment.clone(),
            running: false,
            verbose: false,
            total: 0,
        }
    }

    /// Treats a file as if it had been included already.
    pub fn exclude(&mut self, path: &Path) {
        self.seen.insert(canonical(path));
    }

    /// Accepts the dialect of a running configuration ("Configuration language", section 12).
    pub fn running(&mut self) {
        self.running = true;
    }

    /// Mentions patterns of `include` that match nothing.
    pub fn verbose(&mut self) {
        self.verbose = true;
    }

    /// Reads a file or text with everything it includes. May be called again for further files;
    /// the first one is the main file.
    pub fn read(&mut self, input: Input) {
        if let Err(stop) = self.run(input) {
            self.diagnostics.push(*stop.0);
        }
    }

    /// Ends reading.
    pub fn finish(mut self) -> Parsed {
        for (span, message) in std::mem::take(&mut self.device_errors) {
            self.diagnostics.push(Diagnostic::error(span, message));
        }
        Parsed {
            config: self.config,
            diagnostics: self.diagnostics,
        }
    }

    fn report(&mut self, diagnostic: Diagnostic) {
        // Some sections can produce one for every statement.
        if self.count(diagnostic.severity) <= MAX_FINDINGS {
            self.diagnostics.push(diagnostic);
        }
    }

    /// How many findings of a kind there are.
    fn count(&self, severity: Severity) -> usize {
        let found = self.diagnostics.iter();
        found.filter(|d| d.severity == severity).count()
    }

    fn is_other_host(&self, host: &Host) -> bool {
        host.kind == HostKind::On && !host.names.iter().any(|n| self.environment.is_my_name(n))
    }

    fn run(&mut self, input: Input) -> Step<()> {
        let mut canon = PathBuf::new();
        let frame = match input {
            Input::Text { name, text } => {
                self.config
                    .sources
                    .add(name, PathBuf::new(), Arc::new(text))
            }
            Input::File(path) => {
                let name = path.display().to_string();
                if path.is_dir() {
                    let message = format!("Cannot parse directory '{name}' as config file.");
                    return Err(Diagnostic::plain(message).exit(20).into());
                }
                canon = canonical(&path);
                self.seen.insert(canon.clone());
                self.open(&path, name.clone()).map_err(|reason| {
                    let message = format!("Can not open '{name}': {reason}.");
                    Diagnostic::plain(message).exit(20)
                })?
            }
        };
        self.config.main.get_or_insert(frame);
        let mut stack = vec![Work::Frame(self.frame(frame, canon))];
        while let Some(work) = stack.pop() {
            match work {
                Work::Frame(frame) => {
                    let path = frame.path.clone();
                    let (rest, pending) = self.toplevel(frame)?;
                    if rest.is_none() {
                        self.reading.remove(&path);
                    }
                    stack.extend(rest.map(Work::Frame));
                    stack.extend(pending.into_iter().rev().map(Work::Pending));
                }
                Work::Pending(pending) => {
                    if let Some(frame) = self.include(pending)? {
                        stack.push(Work::Frame(frame));
                    }
                }
            }
        }
        Ok(())
    }

    fn frame(&mut self, file: FileId, path: PathBuf) -> Frame {
        self.reading.insert(path.clone());
        Frame {
            text: self.config.sources.text(file),
            lexer: Lexer::new(file),
            path,
        }
    }

    /// Statements at the top level, up to an `include` or the end of the file.
    fn toplevel(&mut self, frame: Frame) -> Step<(Option<Frame>, Vec<Pending>)> {
        let Frame { text, lexer, path } = frame;
        let mut t = Tokens::new(&text, lexer);
        loop {
            if self.count(Severity::Error) > MAX_FINDINGS {
                return Err(Diagnostic::plain("Too many errors, giving up.").into());
            }
            let token = t.next();
            let keyword = match token.kind {
                Kind::Eof => return Ok((None, Vec::new())),
                Kind::Keyword(keyword) => keyword,
                _ => return Err(unexpected_top(&token)),
            };
            match keyword {
                Keyword::Global => {
                    let result = self.global(&mut t, token.span);
                    self.or_recover(&mut t, result);
                }
                Keyword::Common => {
                    let open = t.expect(Kind::Open)?;
                    if let Some(first) = &self.config.common {
                        return Err(
                            conflict("resource section", "common", open.span, first.span).into(),
                        );
                    }
                    let result = self.common(&mut t, open.span);
                    self.config.common = self.or_recover(&mut t, result);
                }
                Keyword::Resource => {
                    let result = self.resource(&mut t);
                    let resource = self.or_recover(&mut t, result);
                    self.config.resources.extend(resource);
                }
                Keyword::Include => {
                    let name = t.string("TK_STRING")?;
                    t.expect(Kind::Semicolon)?;
                    let pending = self.included(&name);
                    if !pending.is_empty() {
                        let lexer = t.into_lexer();
                        return Ok((
                            Some(Frame {
                                text: text.clone(),
                                lexer,
                                path,
                            }),
                            pending,
                        ));
                    }
                }
                Keyword::Skip => self.skip(&mut t)?,
                Keyword::RequireEq
                | Keyword::RequireNe
                | Keyword::RequireGt
                | Keyword::RequireGe
                | Keyword::RequireLt
                | Keyword::RequireLe => {
                    let version = t.expect(Kind::Version)?;
                    t.expect(Kind::Semicolon)?;
                    self.require(keyword, &version)?;
                }
                _ => return Err(unexpected_top(&token)),
            }
        }
    }

    /// Notes the error that ended a block and goes on behind it: there may be more to report.
    fn or_recover<T>(&mut self, t: &mut Tokens<'_>, result: Step<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(stop) => {
                self.report(*stop.0);
                t.recover();
                None
            }
        }
    }

    /// `skip`: everything up to the end of the next block.
    fn skip(&mut self, t: &mut Tokens<'_>) -> Step<()> {
        let start = t.peek().span;
        let mut depth = 0u64;
        loop {
            let token = t.next();
            match token.kind {
                Kind::Open => depth += 1,
                // The surrounding block ends before there was one to skip.
                Kind::Close if depth == 0 => return Err(unexpected(&token, "{", &[])),
                Kind::Close => {
                    depth -= 1;
                    if depth == 0 {
                        return Ok(());
                    }
                }
                Kind::Eof => {
                    let message = "reached eof while parsing this skip block.";
                    return Err(Diagnostic::error(start, message).into());
                }
                _ => {}
            }
        }
    }

    fn global(&mut self, t: &mut Tokens<'_>, span: Span) -> Step<()> {
        t.expect(Kind::Open)?;
        if let Some(first) = self.config.global.span {
            return Err(conflict("global section", "global", span, first).into());
        }
        if !self.config.resources.is_empty() {
            self.report(Diagnostic::warning(
                span,
                "You should put the global {} section\n\tin front of any resource {} section",
            ));
        }
        self.config.global.span = Some(span);
        let words = &[
            "usage-count",
            "minor-count",
            "dialog-refresh",
            "cmd-timeout-short",
            "cmd-timeout-medium",
            "cmd-timeout-long",
            "disable-ip-verification",
            "udev-always-use-vnr",
        ];
        loop {
            let token = t.next();
            let mut number = |t: &mut Tokens<'_>, name, min, max| -> Step<Option<u16>> {
                let (value, _) = t.integer(Range { name, min, max }, &mut self.diagnostics)?;
                t.expect(Kind::Semicolon)?;
                Ok(value.and_then(|v| u16::try_from(v).ok()))
            };
            let global = &mut self.config.global;
            match token.kind {
                Kind::Close => return Ok(()),
                Kind::Keyword(Keyword::MinorCount) => {
                    global.minor_count = number(t, "minor-count", 1, 255)?;
                }
                Kind::Keyword(Keyword::DialogRefresh) => {
                    global.dialog_refresh = number(t, "dialog-refresh", 0, 600)?;
                }
                Kind::Keyword(Keyword::CmdTimeoutShort) => {
                    global.cmd_timeout_short = number(t, "cmd-timeout-short", 0, 900)?;
                }
                Kind::Keyword(Keyword::CmdTimeoutMedium) => {
                    global.cmd_timeout_medium = number(t, "cmd-timeout-medium", 0, 900)?;
                }
                Kind::Keyword(Keyword::CmdTimeoutLong) => {
                    global.cmd_timeout_long = number(t, "cmd-timeout-long", 0, 900)?;
                }
                Kind::Keyword(Keyword::DisableIpVerification) => {
                    t.expect(Kind::Semicolon)?;
                    global.disable_ip_verification = true;
                }
                Kind::Keyword(Keyword::UdevAlwaysUseVnr) => {
                    t.expect(Kind::Semicolon)?;
                    global.udev_always_use_vnr = true;
                }
                Kind::Keyword(Keyword::UsageCount) => {
                    let value = t.next();
                    global.usage_count = match value.kind {
                        Kind::Keyword(Keyword::Yes) => UsageCount::Yes,
                        Kind::Keyword(Keyword::No) => UsageCount::No,
                        Kind::Keyword(Keyword::Ask) => UsageCount::Ask,
                        _ => {
                            return Err(unexpected(
                                &value,
                                "yes | no | ask",
                                &["yes", "no", "ask"],
                            ));
                        }
                    };
                    t.expect(Kind::Semicolon)?;
                }
                _ => return Err(unexpected(&token, &words.join(" | "), words)),
            }
        }
    }

    /// `require-drbd-module-version-*` ("Configuration language", section 11.5); compared as
    /// numbers, unlike the reference.
    fn require(&mut self, keyword: Keyword, version: &Token<'_>) -> Step<()> {
        let Some(running) = self.environment.driver_version else {
            let message = "Could not get drbd-module-version, Module not loaded?";
            return Err(Diagnostic::error(version.span, message).into());
        };
        let mut wanted = [0u32; 3];
        for (slot, part) in wanted.iter_mut().zip(version.text.split('.')) {
            *slot = part.parse().unwrap_or(u32::MAX);
        }
        let (holds, sign) = match keyword {
            Keyword::RequireEq => (running == wanted, "=="),
            Keyword::RequireNe => (running != wanted, "!="),
            Keyword::RequireGt => (running > wanted, ">"),
            Keyword::RequireGe => (running >= wanted, ">="),
            Keyword::RequireLt => (running < wanted, "<"),
            _ => (running <= wanted, "<="),
        };
        if holds {
            return Ok(());
        }
        let [a, b, c] = running;
        Err(Diagnostic::error(
            version.span,
            format!(
                "Validation error: drbd-module-version {a}.{b}.{c} {sign} {} not true",
                version.text
            ),
        )
        .exit(EXIT_INVALID)
        .into())
    }
}

fn unexpected_top(token: &Token<'_>) -> tokens::Stop {
    unexpected(
        token,
        "global | common | resource | skip | include |\n\
         \trequire-drbd-module-version-{eq,ne,gt,ge,lt,le}",
        TOP_WORDS,
    )
}
