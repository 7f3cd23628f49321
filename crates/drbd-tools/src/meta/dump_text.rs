//! The text of a dump, read back: words, grammar, errors (metadata, section 10.3).
//!
//! Everything before the bitmaps becomes a [`Header`]; the words of the bitmaps go to a sink, one
//! run after the other, so that a dump of any size needs no memory for them.

use super::failure::{BAD, Failure};
use drbd_meta::flags::{LocalFlags, PeerFlags};
use drbd_meta::geometry::{AlStriping, BitmapBlockSize};
use drbd_meta::limits::{HISTORY_UUIDS, MAX_CREATE_SLOTS, MAX_NODES};
use drbd_meta::superblock::{Format, PeerEntry, Superblock};

/// What stands before the bitmaps, apart from what follows from the layout.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) max_peers: u8,
    pub(super) striping: AlStriping,
    pub(super) block_size: BitmapBlockSize,
    node_id: Option<u8>,
    current_uuid: u64,
    flags: LocalFlags,
    members: u64,
    peers: [PeerEntry; MAX_NODES],
    history: [u64; HISTORY_UUIDS],
    effective_size: u64,
    device_uuid: u64,
    la_peer_max_bio_size: u32,
}

impl Header {
    /// Puts the values into fresh metadata.
    pub(super) fn apply(&self, superblock: &mut Superblock) {
        superblock.node_id = self.node_id;
        superblock.current_uuid = self.current_uuid;
        superblock.flags = self.flags;
        superblock.members = self.members;
        superblock.peers = self.peers;
        superblock.history = self.history;
        superblock.effective_size = self.effective_size;
        superblock.device_uuid = self.device_uuid;
        superblock.la_peer_max_bio_size = self.la_peer_max_bio_size;
    }
}

/// Where the bitmaps go.
pub(super) trait BitmapSink {
    /// The next `count` words of `slot` are all `value`. Returns whether the slot has room for more.
    fn words(&mut self, slot: u8, value: u32, count: u64) -> Result<bool, Failure>;
    /// The slot is complete.
    fn end(&mut self, slot: u8) -> Result<(), Failure>;
}

/// A sink for those who only want to know whether the text is right.
pub(super) struct Nowhere;

impl BitmapSink for Nowhere {
    fn words(&mut self, _: u8, _: u32, _: u64) -> Result<bool, Failure> {
        Ok(false)
    }

    fn end(&mut self, _: u8) -> Result<(), Failure> {
        Ok(())
    }
}

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
enum Token<'a> {
    Word(&'a str),
    Number(i64),
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

/// Reads a dump; `header_done` makes the sink from the header.
pub(super) struct Parser<'a> {
    text: &'a [u8],
    at: usize,
    line: u64,
    peeked: Option<Token<'a>>,
}

impl<'a> Parser<'a> {
    pub(super) const fn new(text: &'a [u8]) -> Self {
        Self {
            text,
            at: 0,
            line: 1,
            peeked: None,
        }
    }

    /// Everything up to the bitmaps.
    pub(super) fn header(&mut self, format: Format) -> Result<Header, Failure> {
        self.word("version")?;
        let version = match self.next() {
            Token::Text(version) => version,
            other => return Err(self.unexpected("string", other)),
        };
        self.sign(b';')?;
        let wanted = format.to_string();
        if version != wanted.as_bytes() {
            let version = String::from_utf8_lossy(version);
            let text = format!("dump is '{version}' you requested '{wanted}'.");
            return Err(Failure::new(BAD, text));
        }
        let mut header = Header {
            max_peers: 1,
            striping: AlStriping::DEFAULT,
            block_size: BitmapBlockSize::DEFAULT,
            node_id: None,
            current_uuid: 0,
            flags: LocalFlags::NONE,
            members: 0,
            peers: [PeerEntry::default(); MAX_NODES],
            history: [0; HISTORY_UUIDS],
            effective_size: 0,
            device_uuid: 0,
            la_peer_max_bio_size: 0,
        };
        match format {
            Format::V08 => self.v08(&mut header)?,
            Format::V09 => self.v09(&mut header)?,
        }
        self.common(&mut header)?;
        if format == Format::V08 && header.block_size != BitmapBlockSize::DEFAULT {
            return Err(bad_block_size());
        }
        Ok(header)
    }

    fn v08(&mut self, header: &mut Header) -> Result<(), Failure> {
        self.word("uuid")?;
        self.sign(b'{')?;
        header.current_uuid = self.hex64()?;
        let [peer, ..] = &mut header.peers;
        peer.bitmap_uuid = self.hex64()?;
        for uuid in header.history.iter_mut().take(2) {
            *uuid = self.hex64()?;
        }
        header.flags = LocalFlags::from_bits(self.value32("flags")?);
        self.sign(b'}')
    }

    fn v09(&mut self, header: &mut Header) -> Result<(), Failure> {
        let peers = self.value("max-peers")?;
        header.max_peers = u8::try_from(peers)
            .ok()
            .filter(|n| (1..=MAX_CREATE_SLOTS).contains(n))
            .ok_or_else(|| self.error(&format!("max-peers {peers} out of range")))?;
        header.node_id = self
            .value("node-id")
            .and_then(|id| self.id("node-id", id))?;
        header.current_uuid = self.value64("current-uuid")?;
        header.flags = LocalFlags::from_bits(self.value32("flags")?);
        if self.peek() == Token::Word("members") {
            header.members = self.value64("members")?;
        }
        let mut seen = [false; MAX_NODES];
        for _ in 0..MAX_NODES {
            self.word("peer")?;
            self.sign(b'[')?;
            let number = self.number()?;
            let place = usize::try_from(number).ok();
            let (Some(known), Some(peer)) = (
                place.and_then(|n| seen.get_mut(n)),
                place.and_then(|n| header.peers.get_mut(n)),
            ) else {
                return Err(self.error(&format!("Slot {number} out of range")));
            };
            if std::mem::replace(known, true) {
                return Err(self.error(&format!("Peer slot {number} defined multiple times")));
            }
            self.sign(b']')?;
            self.sign(b'{')?;
            let index = self.value("bitmap-index")?;
            peer.bitmap_index = self.id("bitmap-index", index)?;
            peer.bitmap_uuid = self.value64("bitmap-uuid")?;
            peer.bitmap_dagtag = self.value64("bitmap-dagtag")?;
            peer.flags = PeerFlags::from_bits(self.value32("flags")?) & !PeerFlags::IN_CORE;
            self.sign(b'}')?;
        }
        self.word("history-uuids")?;
        self.sign(b'{')?;
        for uuid in &mut header.history {
            *uuid = self.hex64()?;
        }
        self.sign(b'}')
    }

    fn common(&mut self, header: &mut Header) -> Result<(), Failure> {
        let size = self.value("la-size-sect")?;
        header.effective_size =
            u64::try_from(size).map_err(|_| self.error("la-size-sect out of range"))?;
        let block_size = self.value("bm-byte-per-bit")?;
        let block_size = u32::try_from(block_size).ok();
        header.block_size = block_size
            .and_then(|bytes| BitmapBlockSize::new(bytes).ok())
            .ok_or_else(bad_block_size)?;
        header.device_uuid = self.value64("device-uuid")?;
        let mut small = |name: &'static str| {
            let value = self.value(name)?;
            u32::try_from(value).map_err(|_| self.error(&format!("{name} {value} out of range")))
        };
        header.la_peer_max_bio_size = small("la-peer-max-bio-size")?;
        let (stripes, size) = (small("al-stripes")?, small("al-stripe-size-4k")?);
        header.striping =
            AlStriping::new(stripes, size).map_err(|error| self.error(&error.to_string()))?;
        Ok(())
    }

    /// The bitmaps, and that nothing follows them.
    pub(super) fn bitmaps(
        &mut self,
        format: Format,
        slots: u8,
        sink: &mut impl BitmapSink,
    ) -> Result<(), Failure> {
        for slot in 0..slots {
            match format {
                Format::V08 => self.word("bm")?,
                Format::V09 => {
                    self.word("bitmap")?;
                    self.sign(b'[')?;
                    let number = self.number()?;
                    if number != i64::from(slot) {
                        let text = format!("Expected peer slot {slot} but found {number}");
                        return Err(self.error(&text));
                    }
                    self.sign(b']')?;
                }
            }
            self.sign(b'{')?;
            loop {
                let (value, count) = match self.next() {
                    Token::Sign(b'}') => break,
                    Token::Hex64(value) => (value, 1),
                    Token::Number(count) => {
                        self.word("times")?;
                        let value = match self.next() {
                            Token::Hex64(value) => value,
                            other => return Err(self.unexpected(HEX64, other)),
                        };
                        let count = u64::try_from(count)
                            .map_err(|_| self.error("negative number of repetitions"))?;
                        (value, count)
                    }
                    other => {
                        return Err(self.unexpected(
                            "repeat count, 16-digit hex number, or closing brace (})",
                            other,
                        ));
                    }
                };
                self.sign(b';')?;
                let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
                let low = u32::from_le_bytes([a, b, c, d]);
                let high = u32::from_le_bytes([e, f, g, h]);
                if low == high {
                    sink.words(slot, low, count.saturating_mul(2))?;
                } else {
                    // A sink that is full ends the run, however long its text says it is.
                    let mut left = count;
                    while left > 0 && sink.words(slot, low, 1)? && sink.words(slot, high, 1)? {
                        left = left.saturating_sub(1);
                    }
                }
            }
            sink.end(slot)?;
        }
        match self.next() {
            Token::End => Ok(()),
            other => Err(self.unexpected("end of file", other)),
        }
    }

    /// `NAME NUMBER ;`
    fn value(&mut self, name: &'static str) -> Result<i64, Failure> {
        self.word(name)?;
        let number = self.number()?;
        self.sign(b';')?;
        Ok(number)
    }

    /// `NAME 0x... ;` with 16 digits.
    fn value64(&mut self, name: &'static str) -> Result<u64, Failure> {
        self.word(name)?;
        self.hex64()
    }

    /// `NAME 0x... ;` with 8 digits.
    fn value32(&mut self, name: &'static str) -> Result<u32, Failure> {
        self.word(name)?;
        let value = match self.next() {
            Token::Hex32(value) => value,
            other => return Err(self.unexpected("an 8-digit hex number", other)),
        };
        self.sign(b';')?;
        Ok(value)
    }

    fn hex64(&mut self) -> Result<u64, Failure> {
        let value = match self.next() {
            Token::Hex64(value) => value,
            other => return Err(self.unexpected(HEX64, other)),
        };
        self.sign(b';')?;
        Ok(value)
    }

    fn number(&mut self) -> Result<i64, Failure> {
        match self.next() {
            Token::Number(number) => Ok(number),
            other => Err(self.unexpected("number", other)),
        }
    }

    fn word(&mut self, word: &'static str) -> Result<(), Failure> {
        match self.next() {
            Token::Word(found) if found == word => Ok(()),
            other => Err(self.unexpected(&format!("keyword '{word}'"), other)),
        }
    }

    fn sign(&mut self, sign: u8) -> Result<(), Failure> {
        match self.next() {
            Token::Sign(found) if found == sign => Ok(()),
            other => Err(self.unexpected(&format!("'{}'", char::from(sign)), other)),
        }
    }

    fn id(&self, name: &str, number: i64) -> Result<Option<u8>, Failure> {
        match number {
            -1 => Ok(None),
            0..=31 => Ok(u8::try_from(number).ok()),
            _ => Err(self.error(&format!("{name} {number} out of range"))),
        }
    }

    fn error(&self, text: &str) -> Failure {
        Failure::new(BAD, format!("Parse error in line {}: {text}", self.line))
    }

    fn unexpected(&self, wanted: &str, found: Token<'_>) -> Failure {
        let line = self.line;
        let (before, after) = match found {
            Token::Word(word) => (String::new(), format!(", not '{word}'")),
            Token::Number(_) | Token::Hex32(_) | Token::Hex64(_) => {
                (String::new(), ", not some number".to_owned())
            }
            Token::Text(text) => (
                String::new(),
                format!(", not '{}'", String::from_utf8_lossy(text)),
            ),
            Token::Sign(sign) => (String::new(), format!(", not '{}'", char::from(sign))),
            Token::Invalid(byte) => {
                let shown = if byte.is_ascii_graphic() {
                    char::from(byte)
                } else {
                    '.'
                };
                let text = format!("; got invalid input character '\\x{byte:02x}' [{shown}]");
                (String::new(), text)
            }
            Token::Bad(reason, text) => {
                let text = String::from_utf8_lossy(text);
                (
                    format!("line {line}: {reason}: {text} ...\n"),
                    String::new(),
                )
            }
            Token::End => (String::new(), ", but end of file encountered".to_owned()),
        };
        let text = format!("{before}Parse error in line {line}: {wanted} expected{after}");
        Failure::new(BAD, text)
    }

    fn peek(&mut self) -> Token<'a> {
        let token = self.next();
        self.peeked = Some(token);
        token
    }

    fn next(&mut self) -> Token<'a> {
        if let Some(token) = self.peeked.take() {
            return token;
        }
        self.skip_blanks();
        let rest = self.text.get(self.at..).unwrap_or_default();
        let Some(first) = rest.first() else {
            return Token::End;
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
        token
    }

    fn skip_blanks(&mut self) {
        let mut comment = false;
        while let Some(byte) = self.text.get(self.at) {
            match byte {
                b'\n' => {
                    comment = false;
                    self.line = self.line.saturating_add(1);
                }
                b'#' => comment = true,
                b if comment || b.is_ascii_whitespace() => {}
                _ => return,
            }
            self.at = self.at.saturating_add(1);
        }
    }
}

const HEX64: &str = "a 16-digit hex number";

fn bad_block_size() -> Failure {
    let text = "Invalid value for bm-byte-per-bit: value must be a power-of-two in [4k .. 1M]";
    Failure::new(BAD, text)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

/// A string of 1 to 20 characters.
fn string(rest: &[u8]) -> (Token<'_>, usize) {
    let inside = rest.get(1..).unwrap_or_default();
    let length = inside
        .iter()
        .take_while(|b| !matches!(b, b'"' | b'\r' | b'\n'))
        .count();
    let text = inside.get(..length).unwrap_or_default();
    let closed = inside.get(length) == Some(&b'"');
    let whole = length.saturating_add(if closed { 2 } else { 1 });
    if closed && (1..=20).contains(&length) {
        (Token::Text(text), whole)
    } else {
        (Token::Bad("invalid string", text), whole)
    }
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
        let reason = "invalid hex number (only 8 or 16 hex digits accepted)";
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

#[cfg(test)]
mod tests;
