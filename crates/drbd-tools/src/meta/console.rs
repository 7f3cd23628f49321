//! What the user reads and is asked (metadata, section 8.4).

use std::cell::{RefCell, RefMut};
use std::io::{self, BufRead, IsTerminal, Write};

/// Where text goes.
pub(super) struct Outputs {
    /// Results.
    pub(super) out: Box<dyn Write>,
    /// Messages.
    pub(super) err: Box<dyn Write>,
}

/// Output, messages, and how prompts are answered.
pub(super) struct Console {
    out: RefCell<Box<dyn Write>>,
    err: RefCell<Box<dyn Write>>,
    /// `--force`: prompts are answered with yes.
    pub(super) force: bool,
    /// `--quiet`: with `--force`, prompts are not shown.
    pub(super) quiet: bool,
    /// How often `--verbose` was given.
    pub(super) verbose: u32,
    suppressed: u32,
}

impl Console {
    pub(super) fn new(outputs: Outputs, force: bool, quiet: bool, verbose: u32) -> Self {
        Self {
            out: RefCell::new(outputs.out),
            err: RefCell::new(outputs.err),
            force,
            quiet,
            verbose,
            suppressed: 0,
        }
    }

    /// Standard output, for more than lines.
    pub(super) fn output(&self) -> RefMut<'_, Box<dyn Write>> {
        self.out.borrow_mut()
    }

    /// A line on standard output. A reader that went away is no failure of the command.
    pub(super) fn out(&self, line: &str) {
        let _ = writeln!(self.out.borrow_mut(), "{line}");
    }

    /// A line on standard error.
    pub(super) fn err(&self, line: &str) {
        let _ = writeln!(self.err.borrow_mut(), "{line}");
    }

    /// Asks `question`; only the line `yes` confirms. Without a terminal the answer is no, with
    /// `--force` it is yes.
    pub(super) fn confirmed(&mut self, question: &str) -> bool {
        if self.force && self.quiet {
            self.suppressed = self.suppressed.saturating_add(1);
            return true;
        }
        self.err(&format!("\n{question}"));
        if self.force {
            self.err("*** confirmation forced via --force option ***");
            return true;
        }
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            self.err("stdin not a TTY, not waiting for confirmation");
            return false;
        }
        let prompt = "[need to type 'yes' to confirm] ";
        let err = self.err.get_mut();
        let _ = write!(err, "{prompt}").and_then(|()| err.flush());
        let mut answer = String::new();
        let read = stdin.lock().read_line(&mut answer).unwrap_or(0);
        self.err("");
        read > 0 && answer.strip_suffix('\n').unwrap_or(&answer) == "yes"
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        if self.suppressed > 0 {
            let n = self.suppressed;
            self.err(&format!(
                "# --force --quiet: {n} confirmation(s) suppressed and auto-confirmed"
            ));
        }
    }
}

/// A size in KiB the way the tool prints sizes: at most four digits and a unit.
pub(super) fn human_size(kib: u64) -> String {
    let mut value = kib;
    let mut units = ["KB", "MB", "GB", "TB", "PB", "EB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    while value >= 10_000 {
        let Some(next) = units.next() else { break };
        value = (value >> 10).saturating_add((value >> 9) & 1);
        unit = next;
    }
    format!("{value} {unit}")
}

#[cfg(test)]
mod tests {
    use super::human_size;

    #[test]
    fn sizes() {
        assert_eq!(human_size(0), "0 KB");
        assert_eq!(human_size(9999), "9999 KB");
        assert_eq!(human_size(10_000), "10 MB");
        assert_eq!(human_size(130_984 / 2), "64 MB");
        assert_eq!(human_size(12 << 10), "12 MB");
        assert_eq!(human_size(u64::MAX), "16384 EB");
    }
}
