//! Running `drbdsetup`, `drbdmeta` and handlers ("Command line tools", section 2.3).

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use drbd_config::model::Global;

use super::commands::Limit;

/// Exit code for "could not be run" and "took too long".
pub(super) const EXIT_EXECUTION: i32 = 20;

/// Which program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Program {
    Setup,
    Meta,
    /// `drbd-proxy-ctl`, wherever it is in `PATH`.
    Proxy,
    Shell,
}

/// One run of a helper.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) program: Program,
    pub(super) args: Vec<String>,
    pub(super) limit: Limit,
    /// Its messages are of no interest, because there is a fallback.
    pub(super) quiet: bool,
    /// Name of the resource, for `DRBD_RESOURCE`.
    pub(super) resource: String,
    /// Further environment; `None` removes a variable.
    pub(super) environment: Vec<(String, Option<String>)>,
    /// Exit code that counts as success.
    pub(super) tolerate: Option<i32>,
}

impl Call {
    /// A call on behalf of a resource.
    pub(super) fn new(program: Program, resource: &str, limit: Limit, args: Vec<String>) -> Call {
        Call {
            program,
            args,
            limit,
            quiet: false,
            resource: resource.to_owned(),
            environment: Vec::new(),
            tolerate: None,
        }
    }
}

/// Where the helpers are and how to run them.
#[derive(Debug)]
pub(super) struct Helpers {
    pub(super) setup: PathBuf,
    pub(super) meta: PathBuf,
    pub(super) proxy: PathBuf,
    /// As printed: like the program itself was called.
    shown: [String; 2],
    pub(super) dry_run: bool,
    pub(super) verbose: u32,
    pub(super) varname: Option<String>,
    limits: [Duration; 3],
}

impl Helpers {
    /// Helpers lie beside the running program, whatever else there is in `PATH`.
    pub(super) fn new(program: &Path, setup: Option<PathBuf>, meta: Option<PathBuf>) -> Helpers {
        let here = std::env::current_exe().ok();
        let dir = here
            .as_deref()
            .and_then(Path::parent)
            .unwrap_or(Path::new("/usr/sbin"));
        let place = |given: Option<PathBuf>, name: &str| match given {
            Some(path) => (path.clone(), path.display().to_string()),
            None => {
                let shown = match program.parent().filter(|p| !p.as_os_str().is_empty()) {
                    Some(parent) => parent.join(name).display().to_string(),
                    None => name.to_owned(),
                };
                (dir.join(name), shown)
            }
        };
        let (setup, shown_setup) = place(setup, "drbdsetup");
        let (meta, shown_meta) = place(meta, "drbdmeta");
        Helpers {
            setup,
            meta,
            proxy: PathBuf::from("drbd-proxy-ctl"),
            shown: [shown_setup, shown_meta],
            dry_run: false,
            verbose: 0,
            varname: None,
            limits: [
                Duration::from_secs(5),
                Duration::from_secs(600),
                Duration::ZERO,
            ],
        }
    }

    /// Takes the time limits of the configuration.
    pub(super) fn limits(&mut self, global: &Global) {
        let [short, medium, long] = &mut self.limits;
        for (slot, given) in [
            (short, global.cmd_timeout_short),
            (medium, global.cmd_timeout_medium),
            (long, global.cmd_timeout_long),
        ] {
            if let Some(seconds) = given {
                *slot = Duration::from_secs(seconds.into());
            }
        }
    }

    fn limit(&self, limit: Limit) -> Option<Duration> {
        let [short, medium, long] = self.limits;
        let duration = match limit {
            Limit::Short => short,
            Limit::Medium => medium,
            Limit::Long => long,
            Limit::None => Duration::ZERO,
        };
        (duration > Duration::ZERO).then_some(duration)
    }

    /// The command line as it is printed.
    pub(super) fn line(&self, call: &Call) -> String {
        let [setup, meta] = &self.shown;
        let program = match call.program {
            Program::Setup => setup,
            Program::Meta => meta,
            Program::Proxy => &self.proxy.display().to_string(),
            Program::Shell => "/bin/sh",
        };
        let mut out = escape(program);
        for arg in &call.args {
            let _ = write!(out, " {}", escape(arg));
        }
        out
    }

    /// Runs a helper to its end. Dry runs only print.
    pub(super) fn run(&self, call: &Call) -> i32 {
        if self.dry_run || self.verbose > 0 {
            if let Some(name) = &self.varname {
                println!("{name}={}", escape(&call.resource));
            }
            println!("{}", self.line(call));
            let _ = std::io::stdout().flush();
            if self.dry_run {
                return 0;
            }
        }
        let mut child = match self.spawn(call, false) {
            Ok(child) => child,
            Err(code) => return code,
        };
        let code = self.wait(&mut child, call);
        if Some(code) == call.tolerate {
            return 0;
        }
        if code >= 10 && !call.quiet {
            eprintln!(
                "Command '{}' terminated with exit code {code}",
                self.line(call)
            );
        }
        code
    }

    /// Runs a helper and returns what it printed. Also in dry runs: only for questions.
    pub(super) fn ask(&self, call: &Call) -> Result<Vec<u8>, i32> {
        let child = self.spawn(call, true)?;
        let output = child.wait_with_output().map_err(|error| {
            eprintln!("Can not read from '{}': {error}", self.line(call));
            EXIT_EXECUTION
        })?;
        match output.status.code() {
            Some(0) => Ok(output.stdout),
            code => Err(code.unwrap_or(EXIT_EXECUTION)),
        }
    }

    /// Starts a helper.
    pub(super) fn spawn(&self, call: &Call, capture: bool) -> Result<Child, i32> {
        let program = match call.program {
            Program::Setup => &self.setup,
            Program::Meta => &self.meta,
            Program::Proxy => &self.proxy,
            Program::Shell => Path::new("/bin/sh"),
        };
        let mut command = std::process::Command::new(program);
        command
            .args(&call.args)
            .env("DRBD_RESOURCE", &call.resource);
        for (name, value) in &call.environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if call.quiet {
            command.stderr(Stdio::null());
        }
        if capture {
            command.stdout(Stdio::piped());
        }
        command.spawn().map_err(|error| {
            if call.quiet {
                return EXIT_EXECUTION;
            }
            if error.kind() == std::io::ErrorKind::NotFound {
                eprintln!("Can not find command ({}): {error}", program.display());
            } else {
                eprintln!("Can not exec {}: {error}", program.display());
            }
            EXIT_EXECUTION
        })
    }

    /// Waits for a helper no longer than its time limit.
    fn wait(&self, child: &mut Child, call: &Call) -> i32 {
        if let Some(limit) = self.limit(call.limit)
            && !ends_within(child, limit)
        {
            let _ = child.kill();
            let _ = child.wait();
            eprintln!(
                "Command '{}' did not terminate within {} seconds",
                self.line(call),
                limit.as_secs()
            );
            return EXIT_EXECUTION;
        }
        match child.wait() {
            Ok(status) => match (status.code(), status.signal()) {
                (Some(code), _) => code,
                (None, signal) => {
                    eprintln!(
                        "Command '{}' was killed by signal {}",
                        self.line(call),
                        signal.unwrap_or(0)
                    );
                    EXIT_EXECUTION
                }
            },
            Err(error) => {
                eprintln!("Can not wait for '{}': {error}", self.line(call));
                EXIT_EXECUTION
            }
        }
    }
}

/// True if the child ends in time. Short helpers are noticed at once, long ones within 20 ms.
fn ends_within(child: &mut Child, limit: Duration) -> bool {
    let end = Instant::now() + limit;
    let mut pause = Duration::from_micros(200);
    loop {
        match child.try_wait() {
            Ok(None) => {}
            // Ended, or an error that the caller's wait reports.
            _ => return true,
        }
        let now = Instant::now();
        if now >= end {
            return false;
        }
        std::thread::sleep(pause.min(end - now));
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// A word as a shell would have to be given it.
pub(super) fn escape(word: &str) -> String {
    let mut out = String::with_capacity(word.len());
    for c in word.chars() {
        let plain = c.is_ascii_alphanumeric() || "%+-./:=@_".contains(c) || !c.is_ascii();
        if !plain {
            out.push('\\');
        }
        out.push(c);
    }
    out
}
