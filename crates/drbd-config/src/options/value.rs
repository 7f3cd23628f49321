//! Values of options: numbers with units, words, texts ("Configuration language", section 5).

use std::fmt;

use thiserror::Error;

use super::{Kind, Number, OptionDef, Scale};

/// A unit letter behind a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// `K`: 2^10 bytes.
    Kib,
    /// `M`: 2^20 bytes.
    Mib,
    /// `G`: 2^30 bytes.
    Gib,
    /// `s`: 512 bytes.
    Sector,
}

impl Unit {
    const fn of(letter: u8) -> Option<Unit> {
        match letter {
            b'k' | b'K' => Some(Unit::Kib),
            b'm' | b'M' => Some(Unit::Mib),
            b'g' | b'G' => Some(Unit::Gib),
            b's' => Some(Unit::Sector),
            _ => None,
        }
    }

    /// Bytes in one unit.
    pub const fn factor(self) -> u64 {
        match self {
            Unit::Kib => 1 << 10,
            Unit::Mib => 1 << 20,
            Unit::Gib => 1 << 30,
            Unit::Sector => 512,
        }
    }
}

/// Why a text is no number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NumberParseError {
    /// Not `DIGITS` with an optional unit letter.
    #[error("not a number")]
    NotANumber,
    /// More than 63 bits, or negative.
    #[error("too big")]
    TooBig,
}

/// Reads `DIGITS[UNIT]` and converts to units of `scale`, rounding up.
///
/// Without a unit letter the number already counts scale units. A leading `-` is accepted as in
/// the reference and reads as a number that is too big for any range.
///
/// # Errors
/// The text is no number, or does not fit into 63 bits.
pub fn parse_number(text: &str, scale: Scale) -> Result<u64, NumberParseError> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let end = digits.bytes().take_while(u8::is_ascii_digit).count();
    let (number, suffix) = digits.split_at(end);
    let unit = match suffix.as_bytes() {
        [] => None,
        [letter] => Some(Unit::of(*letter).ok_or(NumberParseError::NotANumber)?),
        _ => return Err(NumberParseError::NotANumber),
    };
    if number.is_empty() {
        return Err(NumberParseError::NotANumber);
    }
    let number: u64 = number.parse().map_err(|_| NumberParseError::TooBig)?;
    if negative && number != 0 {
        return Err(NumberParseError::TooBig);
    }
    let value = match unit {
        None => number,
        Some(unit) => number
            .checked_mul(unit.factor())
            .map(|bytes| bytes.div_ceil(scale.factor()))
            .ok_or(NumberParseError::TooBig)?,
    };
    if value > i64::MAX as u64 {
        Err(NumberParseError::TooBig)
    } else {
        Ok(value)
    }
}

/// A checked value of an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OptionValue {
    /// yes or no.
    Bool(bool),
    /// A number in units of the option's scale.
    Number(i64),
    /// One of the listed words, with its position in the list.
    Word(usize, &'static str),
    /// Free text.
    Text(String),
}

impl OptionValue {
    pub(super) fn word(words: &'static [&'static str], word: &'static str) -> OptionValue {
        let index = words.iter().position(|w| *w == word).unwrap_or(0);
        OptionValue::Word(index, word)
    }

    /// The boolean, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            OptionValue::Bool(b) => Some(*b),
            _ => None,
        }
    }

    /// The number in units of the option's scale, if it is one.
    pub fn as_number(&self) -> Option<i64> {
        match self {
            OptionValue::Number(n) => Some(*n),
            _ => None,
        }
    }

    /// The word or text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            OptionValue::Word(_, w) => Some(w),
            OptionValue::Text(t) => Some(t),
            _ => None,
        }
    }
}

impl fmt::Display for OptionValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OptionValue::Bool(true) => f.write_str("yes"),
            OptionValue::Bool(false) => f.write_str("no"),
            OptionValue::Number(n) => write!(f, "{n}"),
            OptionValue::Word(_, w) => f.write_str(w),
            OptionValue::Text(t) => f.write_str(t),
        }
    }
}

/// Why a value is not accepted. The text completes "Value is ...".
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ValueError {
    /// A boolean that is neither yes nor no.
    #[error("not 'yes' or 'no'")]
    NotYesNo,
    /// Not one of the words.
    #[error("not valid")]
    NotValid(&'static [&'static str]),
    /// Not a number.
    #[error("not a number")]
    NotANumber,
    /// Below the minimum, which is given.
    #[error("too small")]
    TooSmall(Number),
    /// Above the maximum, which is given.
    #[error("too big")]
    TooBig(Number),
    /// A text with more bytes than the limit given.
    #[error("too long")]
    TooLong(usize),
}

impl From<(NumberParseError, Number)> for ValueError {
    fn from((error, number): (NumberParseError, Number)) -> Self {
        match error {
            NumberParseError::NotANumber => ValueError::NotANumber,
            NumberParseError::TooBig => ValueError::TooBig(number),
        }
    }
}

fn number(text: &str, n: Number) -> Result<OptionValue, ValueError> {
    let value = match parse_number(text, n.scale) {
        Ok(value) => value as i64,
        // Only where the range itself is signed does a sign mean what it says.
        Err(_) if n.min < 0 && text == "-1" => -1,
        Err(NumberParseError::TooBig) if n.clamped => i64::MAX,
        Err(error) => return Err((error, n).into()),
    };
    if n.clamped {
        return Ok(OptionValue::Number(value.clamp(n.min, n.max)));
    }
    if value < n.min {
        Err(ValueError::TooSmall(n))
    } else if value > n.max {
        Err(ValueError::TooBig(n))
    } else {
        Ok(OptionValue::Number(value))
    }
}

impl OptionDef {
    /// Checks a text against type and range and converts it ("Configuration language", section 5).
    ///
    /// # Errors
    /// Says in the reference's words what is wrong with the value.
    pub fn parse(&self, text: &str) -> Result<OptionValue, ValueError> {
        match self.kind {
            Kind::Boolean { .. } => match text {
                "yes" => Ok(OptionValue::Bool(true)),
                "no" => Ok(OptionValue::Bool(false)),
                _ => Err(ValueError::NotYesNo),
            },
            Kind::Enum {
                words, ignore_case, ..
            } => words
                .iter()
                .position(|w| {
                    if ignore_case {
                        w.eq_ignore_ascii_case(text)
                    } else {
                        *w == text
                    }
                })
                .and_then(|i| words.get(i).map(|w| OptionValue::Word(i, w)))
                .ok_or(ValueError::NotValid(words)),
            Kind::Number(n) => number(text, n),
            Kind::NumberOrWord {
                number: n, words, ..
            } => {
                if let Some(i) = words.iter().position(|w| *w == text) {
                    return Ok(words
                        .get(i)
                        .map_or(OptionValue::Number(0), |w| OptionValue::Word(i, w)));
                }
                number(text, n).map_err(|e| match e {
                    ValueError::NotANumber => ValueError::NotValid(words),
                    e => e,
                })
            }
            Kind::Text { limit: Some(limit) } if text.len() >= limit => {
                Err(ValueError::TooLong(limit.saturating_sub(1)))
            }
            Kind::Text { .. } | Kind::Key => Ok(OptionValue::Text(text.to_owned())),
            Kind::ResyncAfter(n) => match number(text, n) {
                Ok(value) => Ok(value),
                // A resource name; resolved when the whole configuration is known.
                Err(_) => Ok(OptionValue::Text(text.to_owned())),
            },
        }
    }

    /// True if both texts mean the same value (`1M` and `1024k`).
    pub fn same(&self, a: &str, b: &str) -> bool {
        a == b || matches!((self.parse(a), self.parse(b)), (Ok(a), Ok(b)) if a == b)
    }

    /// True if the text means the default.
    pub fn is_default(&self, text: &str) -> bool {
        match self.kind {
            Kind::Text { .. } | Kind::Key => text.is_empty(),
            _ => self.parse(text).is_ok_and(|v| v == self.default_value()),
        }
    }

    /// A number in the spelling of the running configuration: with the letter of its scale.
    pub fn show(&self, value: &OptionValue) -> String {
        match (self.kind, value) {
            (Kind::Number(Number { scale, .. }), OptionValue::Number(n)) if scale != Scale::One => {
                format!("{n}{}", scale.letter())
            }
            _ => value.to_string(),
        }
    }
}
