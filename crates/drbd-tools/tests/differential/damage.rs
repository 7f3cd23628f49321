//! Configurations that it probably does not take.

use super::Random;

/// Damages a text: words are removed, doubled, swapped or replaced.
pub(super) fn damage(r: &mut Random, text: &str) -> String {
    const WORDS: &[&str] = &[
        "{",
        "}",
        ";",
        "on",
        "alpha",
        "volume",
        "0",
        "1",
        "99",
        "device",
        "disk",
        "net",
        "host",
        "address",
        "10.1.1.1:7000",
        "10.1.1.1",
        "ipv6",
        "minor",
        "yes",
        "no",
        "none",
        "internal",
        "resource",
        "common",
        "connection",
        "path",
        "port",
        "node-id",
        "protocol",
        "1234567890",
        "12k",
        "\"",
        "[",
        "]",
        ":",
        "options",
        "timeout",
        "0",
        "x",
    ];
    let spaced = text
        .replace('{', " { ")
        .replace('}', " } ")
        .replace(';', " ; ");
    let mut words: Vec<&str> = spaced
        .split_inclusive(|c: char| c.is_whitespace())
        .collect();
    for _ in 0..1 + r.below(2) {
        // The global section keeps the run short.
        let at = 8 + r.below(words.len() - 8);
        match r.below(4) {
            0 => {
                words.remove(at);
            }
            1 => words.insert(at, words[at]),
            2 if at + 1 < words.len() => words.swap(at, at + 1),
            _ => {
                words.insert(at, " ");
                words[at + 1] = *r.pick::<&str>(WORDS);
                words.insert(at + 2, " ");
            }
        }
    }
    words.concat()
}
