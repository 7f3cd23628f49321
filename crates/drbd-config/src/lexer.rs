//! Tokens of the language ("Configuration language", section 2).
//!
//! Longest match wins; among equal lengths keyword, version, IPv4, IPv6, integer, string.

use std::borrow::Cow;

use crate::source::{FileId, Span};

/// Longest bare word.
pub const MAX_WORD: usize = 128;
/// Longest text between quotes, an escape pair counting as one.
pub const MAX_QUOTED: usize = 255;

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `{`
    Open,
    /// `}`
    Close,
    /// `;`
    Semicolon,
    /// `[`
    OpenBracket,
    /// `]`
    CloseBracket,
    /// `:`
    Colon,
    /// A bare word that is reserved.
    Keyword(Keyword),
    /// `9.0.16`
    Version,
    /// Four groups of digits.
    Ipv4,
    /// Groups of hexadecimal digits with `::`, optionally a scope.
    Ipv6,
    /// Up to eight digits with an optional letter.
    Integer,
    /// A bare word.
    Word,
    /// Text in double quotes.
    Quoted,
    /// A single byte that belongs to no token.
    Other,
    /// The end of the file.
    Eof,
    /// A bare word that is too long.
    WordTooLong,
    /// A quote that is not closed on its line.
    Unterminated,
    /// Too much text in quotes.
    QuotedTooLong,
    /// Text in quotes that is not UTF-8.
    NotUtf8,
}

macro_rules! keywords {
    ($($variant:ident = $text:literal,)*) => {
        /// A reserved word.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Keyword { $($variant),* }

        impl Keyword {
            /// All keywords.
            pub const ALL: &'static [(&'static str, Keyword)] =
                &[$(($text, Keyword::$variant)),*];

            /// The keyword a word is.
            pub fn of(word: &str) -> Option<Keyword> {
                match word { $($text => Some(Keyword::$variant),)* _ => None }
            }

            /// The word of a keyword.
            pub const fn text(self) -> &'static str {
                match self { $(Keyword::$variant => $text),* }
            }
        }
    };
}

keywords! {
    On = "on", StackedOnTopOf = "stacked-on-top-of", Floating = "floating", No = "no",
    Net = "net", Yes = "yes", Ask = "ask", Via = "via", Skip = "skip", Disk = "disk",
    Host = "host", Hosts = "hosts", Port = "port", Proxy = "proxy", Minor = "minor",
    Inside = "inside", Volume = "volume", CmdTimeoutShort = "cmd-timeout-short",
    CmdTimeoutMedium = "cmd-timeout-medium", CmdTimeoutLong = "cmd-timeout-long",
    Syncer = "syncer", Device = "device", Global = "global", Common = "common",
    Options = "options", Outside = "outside", Address = "address", Startup = "startup",
    Include = "include", Handlers = "handlers", Connection = "connection",
    OutsideAddress = "outside-address", ConnectionMesh = "connection-mesh",
    MinorCount = "minor-count", DisableIpVerification = "disable-ip-verification",
    UdevAlwaysUseVnr = "udev-always-use-vnr", DialogRefresh = "dialog-refresh",
    Resource = "resource", MetaDisk = "meta-disk", FlexibleMetaDisk = "flexible-meta-disk",
    NodeId = "node-id", UsageCount = "usage-count", TemplateFile = "template-file",
    Path = "path", Tiebreaker = "tiebreaker", Sci = "sci", Ssocks = "ssocks", Sdp = "sdp",
    Ipv4 = "ipv4", Ipv6 = "ipv6",
    RequireEq = "require-drbd-module-version-eq", RequireNe = "require-drbd-module-version-ne",
    RequireGt = "require-drbd-module-version-gt", RequireGe = "require-drbd-module-version-ge",
    RequireLt = "require-drbd-module-version-lt", RequireLe = "require-drbd-module-version-le",
    ThisHost = "_this_host", RemoteHost = "_remote_host", PeerNodeId = "_peer_node_id",
    Cstate = "_cstate", Unknown = "_unknown", IsStandalone = "_is_standalone",
}

/// A token with its text: quotes removed, escapes resolved.
#[derive(Debug, Clone)]
pub struct Token<'a> {
    /// What it is.
    pub kind: Kind,
    /// Where it is.
    pub span: Span,
    /// Its text.
    pub text: Cow<'a, str>,
}

impl Token<'_> {
    /// True for what can be the value of an option: any word, whatever else it means.
    pub fn is_value(&self) -> bool {
        let other = [Kind::Integer, Kind::Version, Kind::Ipv4, Kind::Ipv6];
        self.is_string() || matches!(self.kind, Kind::Keyword(_)) || other.contains(&self.kind)
    }

    /// True for what the grammar calls a string: a bare word that is nothing else, or quoted text.
    pub fn is_string(&self) -> bool {
        matches!(self.kind, Kind::Word | Kind::Quoted)
    }
}

/// Splits one file into tokens. Never fails: what cannot be a token becomes one of the error kinds.
#[derive(Debug, Clone)]
pub struct Lexer {
    file: FileId,
    at: usize,
    line: u32,
}

const fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'_' | b'-')
}

impl Lexer {
    /// Starts at the beginning of a file.
    pub fn new(file: FileId) -> Lexer {
        Lexer {
            file,
            at: 0,
            line: 1,
        }
    }

    /// Line the next token is searched from.
    pub fn line(&self) -> u32 {
        self.line
    }

    /// The next token. `text` must be the same at every call.
    pub fn next<'a>(&mut self, text: &'a [u8]) -> Token<'a> {
        self.skip_blanks(text);
        let rest = text.get(self.at..).unwrap_or(&[]);
        let Some(first) = rest.first() else {
            return self.token(Kind::Eof, 0, Cow::Borrowed(""));
        };
        let single = match first {
            b'{' => Some((Kind::Open, "{")),
            b'}' => Some((Kind::Close, "}")),
            b';' => Some((Kind::Semicolon, ";")),
            b'[' => Some((Kind::OpenBracket, "[")),
            b']' => Some((Kind::CloseBracket, "]")),
            _ => None,
        };
        if let Some((kind, text)) = single {
            return self.token(kind, 1, Cow::Borrowed(text));
        }
        if *first == b'"' {
            return self.quoted(rest);
        }
        let word = rest.iter().take_while(|b| is_word(**b)).count();
        let ipv6 = ipv6(rest);
        if ipv6 > word {
            let address = rest.get(..ipv6).and_then(|b| std::str::from_utf8(b).ok());
            return self.token(Kind::Ipv6, ipv6, Cow::Borrowed(address.unwrap_or("")));
        }
        if word > MAX_WORD {
            let text = rest.get(..word).and_then(|b| std::str::from_utf8(b).ok());
            return self.token(Kind::WordTooLong, word, Cow::Borrowed(text.unwrap_or("")));
        }
        if let Some(text) = rest.get(..word).and_then(|b| std::str::from_utf8(b).ok())
            && !text.is_empty()
        {
            return self.token(classify(text), word, Cow::Borrowed(text));
        }
        if *first == b':' {
            return self.token(Kind::Colon, 1, Cow::Borrowed(":"));
        }
        // One byte, or one whole character so that messages can show it.
        let length = rest
            .get(..4)
            .unwrap_or(rest)
            .utf8_chunks()
            .next()
            .and_then(|c| c.valid().chars().next())
            .map_or(1, char::len_utf8);
        let text = rest
            .get(..length)
            .map(String::from_utf8_lossy)
            .unwrap_or_default();
        self.token(Kind::Other, length, text)
    }

    fn token<'a>(&mut self, kind: Kind, len: usize, text: Cow<'a, str>) -> Token<'a> {
        let span = Span {
            file: self.file,
            line: self.line,
            start: self.at as u32,
            len: len as u32,
        };
        self.at += len;
        Token { kind, span, text }
    }

    fn skip_blanks(&mut self, text: &[u8]) {
        let mut comment = false;
        while let Some(b) = text.get(self.at) {
            match b {
                b'\n' => {
                    comment = false;
                    self.line = self.line.saturating_add(1);
                }
                _ if comment => {}
                b' ' | b'\t' | b'\r' => {}
                b'#' => comment = true,
                _ => return,
            }
            self.at += 1;
        }
    }

    fn quoted<'a>(&mut self, rest: &'a [u8]) -> Token<'a> {
        let body = rest.get(1..).unwrap_or(&[]);
        let mut escaped = false;
        let mut units = 0usize;
        let mut bytes = body.iter().enumerate();
        let end = loop {
            match bytes.next() {
                None => return self.bad_quote(Kind::Unterminated, rest, rest.len()),
                Some((i, b'\n')) => return self.bad_quote(Kind::Unterminated, rest, i + 1),
                Some((i, b'"')) => break i,
                Some((i, b'\\')) => {
                    escaped = true;
                    if matches!(body.get(i + 1), None | Some(b'\n')) {
                        return self.bad_quote(Kind::Unterminated, rest, i + 2);
                    }
                    bytes.next();
                }
                Some(_) => {}
            }
            units += 1;
        };
        let length = end + 2;
        if units > MAX_QUOTED {
            return self.bad_quote(Kind::QuotedTooLong, rest, length);
        }
        let Some(inner) = body.get(..end).and_then(|b| std::str::from_utf8(b).ok()) else {
            return self.bad_quote(Kind::NotUtf8, rest, length);
        };
        let text = if escaped {
            let mut out = String::with_capacity(inner.len());
            let mut chars = inner.chars();
            while let Some(c) = chars.next() {
                out.push(if c == '\\' {
                    chars.next().unwrap_or(c)
                } else {
                    c
                });
            }
            Cow::Owned(out)
        } else {
            Cow::Borrowed(inner)
        };
        self.token(Kind::Quoted, length, text)
    }

    fn bad_quote<'a>(&mut self, kind: Kind, rest: &'a [u8], len: usize) -> Token<'a> {
        let len = len.min(rest.len());
        let shown = rest.get(..len.min(MAX_QUOTED)).unwrap_or(&[]);
        self.token(kind, len, String::from_utf8_lossy(shown))
    }
}

fn classify(word: &str) -> Kind {
    if let Some(keyword) = Keyword::of(word) {
        return Kind::Keyword(keyword);
    }
    let bytes = word.as_bytes();
    if !bytes.first().is_some_and(u8::is_ascii_digit) {
        return Kind::Word;
    }
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let number = word.strip_suffix(['M', 'K', 'G', 's']).unwrap_or(word);
    if digits(number) && number.len() <= 8 {
        return Kind::Integer;
    }
    let groups = word.bytes().filter(|b| *b == b'.').count() + 1;
    if groups == 4 && word.split('.').all(|g| digits(g) && g.len() <= 3) {
        return Kind::Ipv4;
    }
    if groups == 3 && word.split('.').all(digits) {
        return Kind::Version;
    }
    Kind::Word
}

/// Length of the IPv6 address at the start of the text, 0 if there is none.
fn ipv6(text: &[u8]) -> usize {
    let hex = |b: &u8| b.is_ascii_hexdigit() || *b == b':';
    let mut len = text.iter().take(46).take_while(|b| hex(b)).count();
    let groups = text.get(..len).unwrap_or(&[]);
    let colons = groups.iter().filter(|b| **b == b':').count();
    let double = groups.windows(2).any(|w| w == b"::");
    if colons < 2 || !(double || colons == 7) {
        return 0;
    }
    // ::ffff:1.2.3.4 goes on after the hexadecimal part.
    if text.get(len) == Some(&b'.') {
        let dotted = text.iter().skip(len).take(16);
        len += dotted
            .take_while(|b| b.is_ascii_digit() || **b == b'.')
            .count();
    }
    let valid = text
        .get(..len)
        .and_then(|b| std::str::from_utf8(b).ok())
        .is_some_and(|s| s.parse::<std::net::Ipv6Addr>().is_ok());
    if !valid {
        return 0;
    }
    if text.get(len) == Some(&b'%') {
        let scope = text
            .iter()
            .skip(len + 1)
            .take(MAX_WORD)
            .take_while(|b| is_word(**b))
            .count();
        if scope > 0 {
            len += 1 + scope;
        }
    }
    len
}
