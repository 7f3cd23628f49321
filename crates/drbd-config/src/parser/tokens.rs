//! One token of look-ahead over a file, and the errors about unexpected tokens.

use crate::diagnostic::{Diagnostic, nearest};
use crate::lexer::{Keyword, Kind, Lexer, Token};
use crate::options::{Scale, parse_number};
use crate::source::Span;

/// An error that ends parsing.
#[derive(Debug)]
pub(super) struct Stop(pub(super) Box<Diagnostic>);

impl From<Diagnostic> for Stop {
    fn from(diagnostic: Diagnostic) -> Self {
        Stop(Box::new(diagnostic))
    }
}

pub(super) type Step<T> = Result<T, Stop>;

/// Characters of a token that messages show.
const SHOWN: usize = 20;

/// A text cut for messages.
pub(super) fn cut(text: &str) -> String {
    if text.chars().count() <= SHOWN {
        return text.to_owned();
    }
    let mut out: String = text.chars().take(SHOWN).collect();
    out.push_str("...");
    out
}

/// Range of an integer that is a statement's argument.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    pub(super) name: &'static str,
    pub(super) min: u64,
    pub(super) max: u64,
}

pub(super) struct Tokens<'a> {
    text: &'a [u8],
    lexer: Lexer,
    peeked: Option<Token<'a>>,
    /// Blocks that are open.
    depth: u64,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(text: &'a [u8], lexer: Lexer) -> Self {
        Tokens {
            text,
            lexer,
            peeked: None,
            depth: 0,
        }
    }

    /// Where the next token will be read, after everything that was taken.
    pub(super) fn into_lexer(self) -> Lexer {
        debug_assert!(self.peeked.is_none());
        self.lexer
    }

    pub(super) fn next(&mut self) -> Token<'a> {
        let token = match self.peeked.take() {
            Some(token) => token,
            None => self.lexer.next(self.text),
        };
        match token.kind {
            Kind::Open => self.depth += 1,
            Kind::Close => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        token
    }

    /// After an error: goes to the end of the block at the top level, to look for more errors
    /// behind it.
    pub(super) fn recover(&mut self) {
        while self.depth > 0 && self.next().kind != Kind::Eof {}
    }

    pub(super) fn peek(&mut self) -> &Token<'a> {
        let (text, lexer) = (self.text, &mut self.lexer);
        self.peeked.get_or_insert_with(|| lexer.next(text))
    }

    pub(super) fn keyword(&mut self) -> Option<Keyword> {
        match self.peek().kind {
            Kind::Keyword(k) => Some(k),
            _ => None,
        }
    }

    /// Takes the next token if it is of this kind.
    pub(super) fn accept(&mut self, kind: Kind) -> Option<Token<'a>> {
        if self.peek().kind == kind {
            Some(self.next())
        } else {
            None
        }
    }

    /// Takes the next token, which must be of this kind.
    pub(super) fn expect(&mut self, kind: Kind) -> Step<Token<'a>> {
        let token = self.next();
        if token.kind == kind {
            Ok(token)
        } else {
            Err(unexpected(&token, kind_name(kind), &[]))
        }
    }

    /// Takes the next token, which must be a string.
    pub(super) fn string(&mut self, expected: &str) -> Step<Token<'a>> {
        let token = self.next();
        if token.is_string() {
            Ok(token)
        } else {
            Err(unexpected(&token, expected, &[]))
        }
    }

    /// Takes an integer. Out of its range it is recorded as an error and reading goes on.
    pub(super) fn integer(
        &mut self,
        range: Range,
        errors: &mut Vec<Diagnostic>,
    ) -> Step<(Option<u64>, Span)> {
        let token = self.expect(Kind::Integer)?;
        let value = parse_number(&token.text, Scale::One).unwrap_or(u64::MAX);
        if value < range.min || value > range.max {
            errors.push(Diagnostic::error(
                token.span,
                format!(
                    "{} {} => {value} out of range [{}..{}].",
                    range.name, token.text, range.min, range.max
                ),
            ));
            return Ok((None, token.span));
        }
        Ok((Some(value), token.span))
    }
}

const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Open => "{",
        Kind::Close => "}",
        Kind::Semicolon => ";",
        Kind::OpenBracket => "[",
        Kind::CloseBracket => "]",
        Kind::Colon => ":",
        Kind::Keyword(k) => k.text(),
        Kind::Version => "TK_VER",
        Kind::Ipv4 => "TK_IPADDR",
        Kind::Ipv6 => "TK_IPADDR6",
        Kind::Integer => "TK_INTEGER",
        _ => "TK_STRING",
    }
}

/// The error for a token that does not belong here. `words` are the valid keywords, for advice.
pub(super) fn unexpected(token: &Token<'_>, expected: &str, words: &[&str]) -> Stop {
    let shown = cut(&token.text);
    let message = match token.kind {
        Kind::WordTooLong => format!("Token too long >>>{shown}<<<"),
        Kind::Unterminated => format!(
            "Unterminated double quoted string\n  we don't allow embedded newlines\n  >>>{shown}<<<"
        ),
        Kind::QuotedTooLong => format!("Double quoted string too long >>>{shown}<<<"),
        Kind::NotUtf8 => format!("Double quoted string is not valid UTF-8 >>>{shown}<<<"),
        _ => format!("Parse error: '{expected}' expected,\n\tbut got '{shown}'"),
    };
    let is_word = token.is_string() || matches!(token.kind, Kind::Keyword(_));
    let help = if token.kind == Kind::Eof {
        Some("the file ends here; is a '}' missing?".to_owned())
    } else if is_word && let Some(word) = nearest(&token.text, words.iter().copied()) {
        Some(format!("did you mean '{word}'?"))
    } else if matches!(token.kind, Kind::Keyword(_)) && expected.starts_with("TK_STRING") {
        Some(format!(
            "'{shown}' is a keyword; quote it to use it as a name: \"{shown}\""
        ))
    } else if token.kind == Kind::Other && matches!(&*token.text, "*" | "?") {
        Some("quote a pattern: include \"directory/*.res\";".to_owned())
    } else {
        None
    };
    Diagnostic::error(token.span, message)
        .maybe_help(help)
        .into()
}

/// The error for using something a second time ("Configuration language", section 11.2).
pub(crate) fn conflict(what: &str, key: &str, second: Span, first: Span) -> Diagnostic {
    Diagnostic::error(second, format!("conflicting use of {what} '{key}' ..."))
        .related(first, format!("{what} '{key}' first used here."))
}
