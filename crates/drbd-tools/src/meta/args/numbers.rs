//! Numbers on the command line (metadata, section 8.1).

use crate::meta::failure::{BAD, Failure, USAGE};

/// A number in C notation.
pub(in crate::meta) fn parse_c_number(text: &str) -> Option<u64> {
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return digits
            .chars()
            .all(|c| c.is_ascii_hexdigit())
            .then(|| u64::from_str_radix(digits, 16).ok())?;
    }
    if !text.chars().all(|c| c.is_ascii_digit()) {
        return None;
    }
    match text.strip_prefix('0').filter(|digits| !digits.is_empty()) {
        Some(octal) => u64::from_str_radix(octal, 8).ok(),
        None => text.parse().ok(),
    }
}

/// A size in units of `unit` bytes, rounded up; a number without suffix counts units.
pub(super) fn parse_size(text: &str, unit: u64) -> Result<u64, Failure> {
    // What strtoul skips.
    let given = text;
    let text = text.trim_ascii_start();
    let text = text.strip_prefix('+').unwrap_or(text);
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, suffix) = text.split_at_checked(digits).unwrap_or((text, ""));
    let out_of_range = || Failure::new(USAGE, format!("{given}: out of range"));
    if number.is_empty() {
        return Err(Failure::new(
            USAGE,
            format!("{given} is not a valid number"),
        ));
    }
    let number: u64 = number.parse().map_err(|_| out_of_range())?;
    let factor: u64 = match suffix {
        "" => return Ok(number),
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        "s" | "S" => 512,
        _ => {
            return Err(Failure::new(
                USAGE,
                format!("{given} is not a valid number"),
            ));
        }
    };
    let bytes = number.checked_mul(factor).ok_or_else(out_of_range)?;
    Ok(bytes.div_ceil(unit.max(1)))
}

/// [`parse_size`] for what has its own words for a number out of range: `None` for a negative one.
pub(super) fn positive(text: &str, unit: u64) -> Result<Option<u64>, Failure> {
    match text.strip_prefix('-') {
        Some(digits) => parse_size(digits, unit).map(|_| None),
        None => parse_size(text, unit).map(Some),
    }
}

/// A mask `0x...` of nodes, or their ids separated by commas.
pub(super) fn parse_nodes(text: &str) -> Result<u32, Failure> {
    let bad = || {
        Failure::new(
            BAD,
            format!("'{text}' is neither a node mask (0x...) nor a list of node ids"),
        )
    };
    if let Some(mask) = text.strip_prefix("0x") {
        return u32::from_str_radix(mask, 16).map_err(|_| bad());
    }
    text.split(',').try_fold(0u32, |mask, id| {
        let id: u32 = id.parse().map_err(|_| bad())?;
        Ok(mask | 1u32.checked_shl(id).ok_or_else(bad)?)
    })
}
