//! Damaged dumps: both tools must find the same error in the same place.

use crate::cases::{Random, usize_of};
use crate::number_from;
use crate::pair::{Pair, REFERENCE_IN_USE, masked_messages, reference, words};
use std::path::Path;

/// What is put into a dump in place of, or after, something else.
const NOISE: &[&str] = &[
    "{",
    "}",
    ";",
    "[",
    "]",
    "\"v09\"",
    "\"v08\"",
    "\"\"",
    "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaa\"",
    "0",
    "-1",
    "1",
    "31",
    "99",
    "-5",
    "4096",
    "8192",
    "9999999999999999999",
    "99999999999999999999",
    "0x12",
    "0x0000000000000001",
    "0x00000001",
    "0x0000000g",
    "times",
    "bm",
    "flags",
    "peer",
    "uuid",
    "hash",
    "foo",
    "@",
    "\"",
    "\"a",
    "0x",
    "#",
    "- ",
    "-",
    "version",
];

/// A dump with some content, made by the reference.
fn dump(reference: &Path, format: &'static str) -> String {
    let mut pair = Pair::new(reference, format, "flex-internal", 64 << 20);
    pair.superblock = (64 << 20) - 4096;
    pair.command(if format == "v09" {
        "create-md 2"
    } else {
        "create-md"
    });
    let size: u64 = if format == "v07" { 15_000 } else { 30_000 };
    pair.poke(pair.superblock, &size.to_be_bytes());
    pair.poke(pair.superblock - 36_864 - 4096, &[0x5a; 300]);
    let text = pair.run_side("reference", &words("dump-md")).stdout;
    let text = String::from_utf8(text).unwrap();
    // v07 never says that it is clean.
    text.replace(
        "This_is_an_unclean_meta_data_dump._Don't_trust_the_bitmap.",
        "",
    )
}

/// The words of a text, and what is between them.
fn split(text: &str) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    let kind = |c: char| match c {
        '{' | '}' | ';' | '[' | ']' => 0,
        c if c.is_whitespace() => 1,
        _ => 2,
    };
    let mut last = 0;
    for line in text.split_inclusive('\n') {
        if line.starts_with('#') || line.trim_start().starts_with("# at") {
            parts.push(line.to_owned());
            last = 0;
            continue;
        }
        for c in line.chars() {
            match parts.last_mut() {
                Some(part) if last == kind(c) && last != 0 => part.push(c),
                _ => parts.push(c.to_string()),
            }
            last = kind(c);
        }
    }
    parts
}

fn damage(random: &mut Random, text: &str) -> String {
    let mut parts = split(text);
    let real: Vec<usize> = (0..parts.len())
        .filter(|i| !parts[*i].trim().is_empty() && !parts[*i].contains('#'))
        .collect();
    let near = match random.below(4) {
        0 => &real[..60.min(real.len())],
        1 => &real[real.len().saturating_sub(60)..],
        _ => &real[..],
    };
    for _ in 0..random.below(2) + 1 {
        let at = random.pick(near);
        match random.below(5) {
            0 => parts[at].clear(),
            1 => parts[at] = format!("{0} {0}", parts[at]),
            2 => parts[at] = random.pick(NOISE).to_owned(),
            3 => parts[at].push_str(random.pick(NOISE)),
            _ => parts.swap(at, random.pick(near)),
        }
    }
    let mut text = parts.concat();
    if random.chance(10) {
        text.truncate(usize_of(random.below(u64::try_from(text.len()).unwrap())));
    }
    text
}

#[test]
fn damaged_dumps() {
    let Some(reference) = reference() else { return };
    let _guard = REFERENCE_IN_USE.lock();
    let cases = number_from("DRBDMETA_CASES", 100) * 4;
    let mut random =
        Random(number_from("DRBDMETA_SEED", 1).wrapping_mul(0x5851_F42D_4C95_7F2D) | 1);
    let (mut good, mut messages) = (0, 0);
    for format in ["v07", "v08", "v09"] {
        let whole = dump(&reference, format);
        let pair = Pair::new(&reference, format, "flex-internal", 1 << 20);
        for _ in 0..cases / 3 {
            let text = damage(&mut random, &whole);
            pair.put("dump", text.as_bytes());
            let [theirs, ours] =
                ["reference", "ours"].map(|side| pair.run_side(side, &words("verify-dump dump")));
            // The reference does not survive all of them.
            if theirs.status.code().is_none() {
                continue;
            }
            // A number that does not fit into its field is cut by the reference; an activity log of
            // no blocks it finds later; and 9.22 knows no largest block size.
            let said = String::from_utf8_lossy(&ours.stderr).into_owned();
            if theirs.status.success()
                && [
                    " out of range",
                    "power-of-two",
                    "blocks of 4 KiB",
                    "negative",
                ]
                .iter()
                .any(|part| said.contains(part))
            {
                continue;
            }
            assert_eq!(theirs.status.code(), ours.status.code(), "{said}\n{text}");
            good += u32::from(ours.status.success());
            if !ours.status.success() {
                assert!(said.contains(", column "), "{said}");
            }
            let theirs = masked_messages(&String::from_utf8_lossy(&theirs.stderr));
            let cut_short = [
                // Its word for some keywords and signs.
                "invalid/unexpected token!",
                "this should never happen",
            ];
            let ours = masked_messages(&said);
            // Ours checks a number where it stands, the reference when it has read on; and what is
            // a number or a word that is too long by far has another name.
            let checked_earlier = |line: &String| {
                [
                    "out of range",
                    "multiple times",
                    "unknown token",
                    "too big",
                    "accepted",
                    "Invalid value for bm-byte-per-bit",
                    "blocks of 4 KiB",
                ]
                .iter()
                .any(|part| line.contains(part))
            };
            if theirs
                .iter()
                .any(|line| cut_short.iter().any(|part| line.contains(part)))
                || theirs.iter().chain(&ours).any(checked_earlier)
            {
                continue;
            }
            assert_eq!(theirs, ours, "left: theirs\n{text}");
            messages += 1;
        }
    }
    eprintln!("{cases} damaged dumps: {good} still good, {messages} equal messages");
    assert!(
        messages > cases / 4,
        "too few messages were compared: {messages}"
    );
}
