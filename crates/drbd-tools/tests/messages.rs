//! The messages about the invalid examples: what the reference prints, with the place in the line and advice added.
//!
//! Where ours differ on purpose, `NAME.ours` has what is printed instead (`NAME.ours-up` if there is a `NAME.err-up`); it must say no less: the
//! words in quotes of the reference's first message, and a line.

#![allow(clippy::unwrap_used, clippy::panic)] // test code

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../drbd-config/tests/data/invalid")
}

/// The messages alone, with file names as they were given: without the quoted line and advice, and without what the
/// reference tells about its own parser.
fn messages(text: &str, directory: &str) -> String {
    let mut out = String::new();
    for line in text.replace(directory, "").lines() {
        let trimmed = line.trim_start();
        let quoted = trimmed.starts_with("--> ")
            || trimmed.starts_with("= help: ")
            || trimmed.starts_with("| ")
            || trimmed
                .trim_start_matches(|c: char| c.is_ascii_digit())
                .starts_with(" | ");
        let pretended = line.contains("__DRBD_NODE__") || line.contains("PRETENDING");
        if quoted && line.starts_with(' ') || pretended || trimmed.is_empty() {
            continue;
        }
        let line = match line.rsplit_once(" (TK ") {
            Some((before, number)) if number.ends_with(')') => before,
            _ => line,
        };
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn run(file: &str, command: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_drbdadm"))
        .args(["-c", file])
        .args(command)
        .arg("all")
        .current_dir(examples())
        .env("LC_ALL", "C")
        .env("__DRBD_NODE__", "alpha")
        .env("DRBD_DRIVER_VERSION_OVERRIDE", "9.2.14")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), text)
}

/// The first message's words in single quotes.
fn quoted(text: &str) -> Vec<&str> {
    let mut first = text.lines();
    let head = first.next().unwrap_or_default();
    let follows = first.take_while(|line| line.starts_with('\t'));
    let pieces = std::iter::once(head).chain(follows).flat_map(|line| {
        let found: Vec<&str> = line.split('\'').skip(1).step_by(2).collect();
        found
    });
    // Lists of what was expected may be longer, and what follows a broken text is no reason.
    let word =
        |piece: &&str| !piece.contains('|') && piece.chars().any(|c| c.is_ascii_alphanumeric());
    pieces.filter(word).collect()
}

#[test]
fn messages_about_invalid_examples() {
    let directory = examples().canonicalize().unwrap();
    let here = format!("{}/", directory.display());
    let mut failures = Vec::new();
    let (mut same, mut different) = (0, 0);
    let mut names: Vec<String> = std::fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".conf"))
        .collect();
    names.sort();
    for name in names {
        let stem = name.strip_suffix(".conf").unwrap();
        let read =
            |suffix: &str| std::fs::read_to_string(directory.join(format!("{stem}{suffix}")));
        let codes = read(".rc").unwrap();
        for (command, suffix) in [(&["dump"][..], ""), (&["-d", "up"], "-up")] {
            // What is the same for both commands is there once.
            let own = read(&format!(".err{suffix}"));
            let (theirs, on_purpose) = match own {
                Ok(text) => (text, read(&format!(".ours{suffix}")).ok()),
                Err(_) => (read(".err").unwrap(), read(".ours").ok()),
            };
            let theirs = messages(&theirs, "/etc/drbd.d/");
            let (code, text) = run(&name, command);
            let ours = messages(&text, &here);
            let expected = on_purpose.as_ref().unwrap_or(&theirs);
            let mut wrong = |what: &str| {
                failures.push(format!(
                    "=== {stem} {command:?}: {what}\n{ours}--- expected\n{expected}"
                ));
            };
            if ours != *expected {
                wrong("another text");
            }
            let last = command.last().unwrap();
            let line = codes.lines().find(|line| line.starts_with(last)).unwrap();
            let wanted: i32 = line.split_whitespace().last().unwrap().parse().unwrap();
            if code != Some(wanted) {
                wrong(&format!("exit {code:?} instead of {wanted}"));
            }
            if on_purpose.is_some() {
                different += 1;
                if ours == theirs {
                    wrong("not different at all");
                }
                for word in quoted(&theirs) {
                    if !ours.contains(word) {
                        wrong(&format!("'{word}' is not named"));
                    }
                }
            } else {
                same += 1;
            }
            // The place is shown, also where the reference names line 0 or none.
            if code != Some(0) && !text.contains(&format!("--> {name}:")) {
                wrong("no place");
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(same > 60 && different < same, "{same} {different}");
}
