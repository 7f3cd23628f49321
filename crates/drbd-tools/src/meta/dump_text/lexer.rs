//! The words of a dump, and where they stand (metadata, section 10.3).

/// The words that the grammar knows.
const KEYWORDS: &[&str] = &[
    "gc",
    "bm",
    "uuid",
    "version",
    "members",
    "la-size-sect",
    "bm-byte-per-bit",
    "device-uuid",
    "times",
    "flags",
    "al-stripes",
    "al-stripe-size-4k",
    "la-peer-max-bio-size",
    "node-id",
    "current-uuid",
    "bitmap",
    "bitmap-uuid",
    "bitmap-dagtag",
    "history-uuids",
    "peer",
    "hash",
    "max-peers",
    "bitmap-index",
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Token<'a> {
    Word(&'a str),
    Number(i128),
    Hex32(u32),
    Hex64(u64),
    Text(&'a [u8]),
    Sign(u8),
    /// A character that nothing begins with.
    Invalid(u8),
    /// Something that began well; the reason and the text.
    Bad(&'static str, &'a [u8]),
    End,
}

/// A token and its first byte.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed<'a> {
    pub(super) token: Token<'a>,
    pub(super) at: usize,
}

/// Splits a text into tokens.
pub(super) struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
}

/// Where something stands in a text; both count from 1.
pub(super) struct Position<'a> {
    pub(super) line: usize,
    /// Bytes, not characters.
    pub(super) column: usize,
    /// The line itself.
    pub(super) content: &'a [u8],
}

impl<'a> Lexer<'a> {
    pub(super) const fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    /// Where byte `at` stands.
    pub(super) fn position(&self, at: usize) -> Position<'a> {
        let before = self.text.get(..at).unwrap_or(self.text);
        let start = before
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |newline| newline.saturating_add(1));
        let line = before.iter().filter(|byte| **byte == b'\n').count();
        let rest = self.text.get(start..).unwrap_or_default();
        let content = rest.split(|byte| *byte == b'\n').next();
        Position {
            line: line.saturating_add(1),
            column: before.len().saturating_sub(start).saturating_add(1),
            content: content.unwrap_or_default(),
        }
    }

    /// The value of a line `# NAME 0x...;` that follows before the next token.
    pub(super) fn commented(&self, name: &str) -> Option<u64> {
        let rest = self.text.get(self.at..)?.trim_ascii_start();
        let rest = rest.strip_prefix(b"# ")?.strip_prefix(name.as_bytes())?;
        let (digits, rest) = rest.strip_prefix(b" 0x")?.split_at_checked(16)?;
        let digits = std::str::from_utf8(digits).ok()?;
        let value = u64::from_str_radix(digits, 16).ok()?;
        rest.starts_with(b";\n").then_some(value)
    }

    pub(super) fn next(&mut self) -> Placed<'a> {
        self.skip_blanks();
        let at = self.at;
        let rest = self.text.get(at..).unwrap_or_default();
        let Some(first) = rest.first() else {
            let token = Token::End;
            return Placed { token, at };
        };
        let (token, length) = match first {
            b'{' | b'}' | b';' | b'[' | b']' => (Token::Sign(*first), 1),
            b'"' => string(rest),
            b if is_word(*b) => {
                let length = rest.iter().take_while(|b| is_word(**b)).count();
                (word(rest.get(..length).unwrap_or_default()), length)
            }
            b => (Token::Invalid(*b), 1),
        };
        self.at = self.at.saturating_add(length);
        Placed { token, at }
    }

    fn skip_blanks(&mut self) {
        let mut comment = false;
        while let Some(byte) = self.text.get(self.at) {
            match byte {
                b'\n' => comment = false,
                b'#' => comment = true,
                b if comment || b.is_ascii_whitespace() => {}
                _ => return,
            }
            self.at = self.at.saturating_add(1);
        }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

/// A string of 1 to 20 characters.
fn string(rest: &[u8]) -> (Token<'_>, usize) {
    const LONGEST: usize = 20;
    let inside = rest.get(1..).unwrap_or_default();
    let length = inside
        .iter()
        .take(LONGEST)
        .take_while(|b| !matches!(b, b'"' | b'\r' | b'\n'))
        .count();
    let text = inside.get(..length).unwrap_or_default();
    let closed = inside.get(length) == Some(&b'"');
    let whole = length.saturating_add(if closed { 2 } else { 1 });
    let token = if closed && length > 0 {
        Token::Text(text)
    } else {
        Token::Bad("invalid string", rest.get(..whole).unwrap_or_default())
    };
    (token, whole)
}

fn word(text: &[u8]) -> Token<'_> {
    let Ok(word) = std::str::from_utf8(text) else {
        return Token::Bad("unknown token", text);
    };
    if let Some(digits) = word.strip_prefix("0x") {
        let value = match digits.len() {
            8 => u32::from_str_radix(digits, 16).ok().map(Token::Hex32),
            16 => u64::from_str_radix(digits, 16).ok().map(Token::Hex64),
            _ => None,
        };
        let reason = if digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            "invalid hex number (only 8 or 16 hex digits accepted)"
        } else {
            "unknown token"
        };
        return value.unwrap_or(Token::Bad(reason, text));
    }
    let digits = word.strip_prefix('-').unwrap_or(word);
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        let number = word.parse().ok().filter(|_| digits.len() <= 19);
        return number.map_or(Token::Bad("number too big", text), Token::Number);
    }
    if KEYWORDS.contains(&word) {
        Token::Word(word)
    } else {
        Token::Bad("unknown token", text)
    }
}
