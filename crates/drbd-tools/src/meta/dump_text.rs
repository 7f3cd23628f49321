//! The text of a dump, read back: grammar and errors (metadata, section 10.3).
//!
//! Everything before the bitmaps becomes a [`Header`]; the words of the bitmaps go to a sink, one
//! run after the other, so that a dump of any size needs no memory for them.

mod header;
mod lexer;

use super::failure::{BAD, Failure};
use super::record::Version;
use drbd_meta::flags::{LocalFlags, PeerFlags};
use drbd_meta::geometry::{AlStriping, BitmapBlockSize};
use drbd_meta::limits::{MAX_CREATE_SLOTS, MAX_NODES};
pub(super) use header::Header;
use lexer::{Lexer, Placed, Position, Token};
use std::fmt;

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

/// Reads a dump: first the header, then the bitmaps.
pub(super) struct Parser<'a> {
    lexer: Lexer<'a>,
    current: Placed<'a>,
    /// Whether the current token is to be read again.
    peeked: bool,
}

impl<'a> Parser<'a> {
    pub(super) const fn new(text: &'a [u8]) -> Self {
        let (token, at) = (Token::End, 0);
        Self {
            lexer: Lexer::new(text),
            current: Placed { token, at },
            peeked: false,
        }
    }

    /// Everything up to the bitmaps.
    pub(super) fn header(&mut self, format: Version) -> Result<Header, Failure> {
        self.word("version")?;
        let version = match self.next() {
            Token::Text(version) => version,
            other => return Err(self.unexpected(STRING, other)),
        };
        let wanted = format.to_string();
        if version != wanted.as_bytes() {
            let version = String::from_utf8_lossy(version);
            let place = self.lexer.position(self.current.at);
            let text = format!("dump is '{version}' you requested '{wanted}'.\n{place}");
            return Err(Failure::new(BAD, text));
        }
        self.sign(b';')?;
        let mut header = Header::default();
        match format {
            Version::V07 => {
                self.v07(&mut header)?;
                return Ok(header);
            }
            Version::V08 => self.v08(&mut header)?,
            Version::V09 => self.v09(&mut header)?,
        }
        self.common(&mut header)?;
        if format == Version::V08 && header.block_size != BitmapBlockSize::DEFAULT {
            return Err(self.bad_block_size());
        }
        Ok(header)
    }

    fn v07(&mut self, header: &mut Header) -> Result<(), Failure> {
        self.word("gc")?;
        self.sign(b'{')?;
        for counter in &mut header.counters {
            let number = self.number()?;
            // Written with a sign.
            *counter = u32::try_from(number)
                .or_else(|_| i32::try_from(number).map(i32::cast_unsigned))
                .map_err(|_| self.error(&format!("counter {number} out of range")))?;
            self.sign(b';')?;
        }
        self.sign(b'}')?;
        self.size(header)
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
        if let Some(members) = self.lexer.commented("members") {
            header.members = members;
        } else if self.peek() == Token::Word("members") {
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

    fn size(&mut self, header: &mut Header) -> Result<(), Failure> {
        let size = self.value("la-size-sect")?;
        header.effective_size =
            u64::try_from(size).map_err(|_| self.error("la-size-sect out of range"))?;
        Ok(())
    }

    fn common(&mut self, header: &mut Header) -> Result<(), Failure> {
        self.size(header)?;
        let block_size = self.value("bm-byte-per-bit")?;
        let block_size = u32::try_from(block_size).ok();
        header.block_size = block_size
            .and_then(|bytes| BitmapBlockSize::new(bytes).ok())
            .ok_or_else(|| self.bad_block_size())?;
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
        format: Version,
        slots: u8,
        sink: &mut impl BitmapSink,
    ) -> Result<(), Failure> {
        for slot in 0..slots {
            match format {
                Version::V07 | Version::V08 => self.word("bm")?,
                Version::V09 => {
                    self.word("bitmap")?;
                    self.sign(b'[')?;
                    let number = self.number()?;
                    self.sign(b']')?;
                    if number != i128::from(slot) {
                        let text = format!("Expected peer slot {slot} but found {number}");
                        return Err(self.error(&text));
                    }
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
    fn value(&mut self, name: &'static str) -> Result<i128, Failure> {
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

    fn number(&mut self) -> Result<i128, Failure> {
        match self.next() {
            Token::Number(number) => Ok(number),
            other => Err(self.unexpected(NUMBER, other)),
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
            other => Err(self.unexpected(
                &format!("{} ({})", sign_name(sign), char::from(sign)),
                other,
            )),
        }
    }

    fn id(&self, name: &str, number: i128) -> Result<Option<u8>, Failure> {
        match number {
            -1 => Ok(None),
            0..=31 => Ok(u8::try_from(number).ok()),
            _ => Err(self.error(&format!("{name} {number} out of range"))),
        }
    }

    fn bad_block_size(&self) -> Failure {
        let position = self.lexer.position(self.current.at);
        let text = "Invalid value for bm-byte-per-bit: value must be a power-of-two in [4k .. 1M]";
        Failure::new(BAD, format!("{text}\n{position}"))
    }

    fn error(&self, text: &str) -> Failure {
        let position = self.lexer.position(self.current.at);
        let line = position.line;
        Failure::new(
            BAD,
            format!("Parse error in line {line}: {text}\n{position}"),
        )
    }

    fn unexpected(&self, wanted: &str, found: Token<'_>) -> Failure {
        let position = self.lexer.position(self.current.at);
        let line = position.line;
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
        let text =
            format!("{before}Parse error in line {line}: {wanted} expected{after}\n{position}");
        Failure::new(BAD, text)
    }

    fn peek(&mut self) -> Token<'a> {
        let token = self.next();
        self.peeked = true;
        token
    }

    fn next(&mut self) -> Token<'a> {
        if !std::mem::take(&mut self.peeked) {
            self.current = self.lexer.next();
        }
        self.current.token
    }
}

const HEX64: &str = "a 16-digit hex number";
const NUMBER: &str = "number ([0-9], up to 20 digits)";
const STRING: &str = "short quoted string (\"..up to 20 characters, no newline..\")";

const fn sign_name(sign: u8) -> &'static str {
    match sign {
        b'{' => "opening brace",
        b'}' => "closing brace",
        b'[' => "opening bracket",
        b']' => "closing bracket",
        _ => "semicolon",
    }
}

impl fmt::Display for Position<'_> {
    /// The place and what stands there, in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 100;
        let shown: String = String::from_utf8_lossy(self.content)
            .chars()
            .take(LONGEST)
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let (line, column) = (self.line, self.column);
        write!(f, "line {line}, column {column}: {}", shown.trim_end())
    }
}

#[cfg(test)]
mod tests;
