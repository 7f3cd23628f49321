//! Errors and warnings, and how an administrator sees them.

use std::fmt::Write;

use crate::source::{Sources, Span};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The configuration is not usable.
    Error,
    /// Worth a message, but usable.
    Warning,
}

/// Exit code of the tools for an invalid configuration ("Command line tools", section 1.3).
pub const EXIT_INVALID: u8 = 10;

/// One finding.
#[derive(Debug, Clone)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Where; a line of 0 with a file means the file as a whole.
    pub span: Option<Span>,
    /// Print the absolute name of the file instead of the name as given.
    pub full_name: bool,
    /// What is wrong, in the reference's words; may have several lines.
    pub message: String,
    /// Advice, such as the nearest valid keyword.
    pub help: Option<String>,
    /// Exit code of a program that stops because of it.
    pub exit: u8,
    /// A second place that matters, with its own message.
    pub related: Option<(Span, String)>,
    /// Places to show instead of `span`.
    pub shown: Vec<Span>,
}

impl Diagnostic {
    /// An error at a place.
    pub fn error(span: Span, message: impl Into<String>) -> Self {
        Diagnostic {
            severity: Severity::Error,
            span: Some(span),
            full_name: false,
            message: message.into(),
            help: None,
            exit: EXIT_INVALID,
            related: None,
            shown: Vec::new(),
        }
    }

    /// An error without a place.
    pub fn plain(message: impl Into<String>) -> Self {
        Diagnostic {
            span: None,
            ..Diagnostic::error(Span::default(), message)
        }
    }

    /// A warning at a place.
    pub fn warning(span: Span, message: impl Into<String>) -> Self {
        Diagnostic {
            severity: Severity::Warning,
            ..Diagnostic::error(span, message)
        }
    }

    /// Adds advice.
    #[must_use]
    pub fn help(self, help: impl Into<String>) -> Self {
        Diagnostic {
            help: Some(help.into()),
            ..self
        }
    }

    /// Adds advice if there is any.
    #[must_use]
    pub fn maybe_help(self, help: Option<String>) -> Self {
        Diagnostic { help, ..self }
    }

    /// Another exit code.
    #[must_use]
    pub fn exit(self, exit: u8) -> Self {
        Diagnostic { exit, ..self }
    }

    /// Shows the absolute file name.
    #[must_use]
    pub fn full(self) -> Self {
        Diagnostic {
            full_name: true,
            ..self
        }
    }

    /// Adds a second place.
    #[must_use]
    pub fn related(self, span: Span, message: impl Into<String>) -> Self {
        Diagnostic {
            related: Some((span, message.into())),
            ..self
        }
    }

    /// Shows other places than the one named.
    #[must_use]
    pub fn show(self, shown: impl IntoIterator<Item = Span>) -> Self {
        Diagnostic {
            shown: shown.into_iter().collect(),
            ..self
        }
    }

    /// The first line as the reference prints it (`FILE:LINE: MESSAGE`), then the source line with
    /// the offending text underlined, then advice. Ends with a newline.
    pub fn render(&self, sources: &Sources) -> String {
        let mut out = String::new();
        let location = |span: Span| {
            let name = if self.full_name {
                sources.full_name(span)
            } else {
                sources.name(span).to_owned()
            };
            if span.line == 0 {
                name
            } else {
                format!("{name}:{}", span.line)
            }
        };
        match self.span {
            Some(span) => {
                let _ = writeln!(out, "{}: {}", location(span), self.message);
            }
            None => {
                let _ = writeln!(out, "{}", self.message);
            }
        }
        if let Some((span, message)) = &self.related {
            let _ = writeln!(out, "{}: {message}", location(*span));
        }
        let own = self.span.filter(|_| self.shown.is_empty());
        for span in own.iter().chain(&self.shown) {
            excerpt(&mut out, sources, *span);
        }
        if let Some(help) = &self.help {
            let _ = writeln!(out, "  = help: {help}");
        }
        tame(&mut out);
        out
    }
}

/// Takes out of a text from outside what a terminal would obey.
fn tame(text: &mut String) {
    let wild = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if text.contains(wild) {
        *text = text.replace(wild, "\u{fffd}");
    }
}

/// Bytes of a source line that are shown at most.
const EXCERPT: usize = 120;

fn excerpt(out: &mut String, sources: &Sources, span: Span) {
    let Some((line, column)) = sources.line(span) else {
        return;
    };
    // A long line is cut so that the place stays visible.
    let from = if column > EXCERPT - 20 {
        column.saturating_sub(40)
    } else {
        0
    };
    let shown = line.get(from..).unwrap_or(&[]);
    let shown = shown.get(..EXCERPT).unwrap_or(shown);
    let visible = |bytes: &[u8]| -> String {
        String::from_utf8_lossy(bytes)
            .chars()
            .map(|c| if c == '\t' { ' ' } else { c })
            .map(|c| if c.is_control() { '\u{fffd}' } else { c })
            .collect()
    };
    let at = column.saturating_sub(from).min(shown.len());
    let (before, after) = shown.split_at(at);
    let marked = after.get(..span.len as usize).unwrap_or(after);
    let before = visible(before);
    let carets = visible(marked).chars().count().max(1);
    let number = span.line.to_string();
    let pad = " ".repeat(number.len());
    let _ = writeln!(
        out,
        " {pad}--> {}:{}:{}",
        sources.name(span),
        span.line,
        column + 1
    );
    let _ = writeln!(out, " {number} | {before}{}", visible(after));
    let _ = writeln!(
        out,
        " {pad} | {}{}",
        " ".repeat(before.chars().count()),
        "^".repeat(carets)
    );
}

/// The candidate closest to a misspelt word, if any is close enough to be meant.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > 64 {
        return None;
    }
    let limit = (word.chars().count() / 3).max(1);
    // The beginning or a longer form of a word counts as close.
    let extends = |a: &str, b: &str| b.len() >= 4 && a.starts_with(b);
    candidates
        .into_iter()
        .map(|c| {
            let near = extends(word, c) || extends(c, word);
            (
                if near {
                    limit.min(distance(word, c))
                } else {
                    distance(word, c)
                },
                c,
            )
        })
        .filter(|(d, _)| *d <= limit)
        .min_by_key(|(d, _)| *d)
        .map(|(_, c)| c)
}

/// Number of single character edits (insert, delete, replace, swap of neighbours).
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, cb) in b.iter().enumerate() {
            let at = |row: &[usize], k: usize| row.get(k).copied().unwrap_or(usize::MAX / 2);
            let mut best = (at(&last, j) + usize::from(ca != cb))
                .min(at(&last, j + 1) + 1)
                .min(at(&row, j) + 1);
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(cb) && b.get(j - 1) == Some(ca);
            if swapped {
                best = best.min(at(&before_last, j - 1) + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(0)
}
