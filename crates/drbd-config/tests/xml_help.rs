//! The table of options against the machine readable help of the real `drbdsetup`: commands,
//! arguments, and every option's type, range, default and unit.

#![allow(clippy::unwrap_used, clippy::panic)] // test code

use std::path::Path;

use drbd_config::options::{COMMANDS, Kind, Number, OptionDef, command};

/// The texts of all elements of a name.
fn elements<'a>(xml: &'a str, name: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    xml.split(&open)
        .skip(1)
        .map(|rest| rest.split(&close).next().unwrap())
        .collect()
}

fn attribute<'a>(text: &'a str, name: &str) -> &'a str {
    let start = text.split(&format!("{name}=\"")).nth(1).unwrap();
    start.split('"').next().unwrap()
}

fn number(n: Number, xml: &str) -> Result<(), String> {
    let one = |name: &str| {
        elements(xml, name)
            .first()
            .copied()
            .unwrap_or("")
            .to_owned()
    };
    let same = one("min") == n.min.to_string()
        && one("max") == n.max.to_string()
        && [n.scale.letter(), ""].contains(&&*one("unit_prefix"))
        && one("unit") == n.unit;
    if same {
        Ok(())
    } else {
        Err(format!("{n:?} is not {xml}"))
    }
}

fn check(def: &OptionDef, kind: &str, xml: &str) -> Result<(), String> {
    let default = elements(xml, "default").first().map(|d| (*d).to_owned());
    let wrong = || Err(format!("{}: {:?} is not {kind} {xml}", def.name, def.kind));
    match (def.kind, kind) {
        (Kind::Boolean { .. }, "boolean") if default == def.default_text() => Ok(()),
        (Kind::Enum { words, .. }, "handler") if elements(xml, "handler") == words => Ok(()),
        (Kind::Number(n) | Kind::ResyncAfter(n), "numeric") if default == def.default_text() => {
            number(n, xml)
        }
        (
            Kind::NumberOrWord {
                number: n, words, ..
            },
            "numeric-or-symbol",
        ) => {
            let symbols = elements(xml, "symbol") == words && default == def.default_text();
            if symbols { number(n, xml) } else { wrong() }
        }
        (Kind::Text { .. } | Kind::Key, "string") => Ok(()),
        _ => wrong(),
    }
}

#[test]
fn the_table_is_that_of_the_real_tool() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/xml-help");
    let mut commands = 0;
    let mut options = 0;
    let mut failures: Vec<String> = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let xml = std::fs::read_to_string(&path).unwrap();
        let Some(known) = command(&name) else {
            failures.push(format!("no command {name}"));
            continue;
        };
        commands += 1;
        let arguments = elements(&xml, "argument");
        if !matches!(&*name, "down" | "show" | "status" | "events2") {
            let ours: Vec<&str> = known.arguments.iter().map(|a| a.name()).collect();
            // The real tool gives addresses and devices names of their own.
            if ours.len() != arguments.len() {
                failures.push(format!("{name}: arguments {ours:?} are not {arguments:?}"));
            }
        }
        // Options that only concern the output, or take texts there.
        if matches!(&*name, "show" | "status" | "events2") || name.starts_with("wait-") {
            continue;
        }
        let mut ours = known.options();
        for part in xml.split("<option ").skip(1) {
            let (head, body) = part.split_once('>').unwrap();
            let (option, kind) = (attribute(head, "name"), attribute(head, "type"));
            if option == "set-defaults" {
                assert!(known.has_set_defaults(), "{name}");
                continue;
            }
            options += 1;
            match ours.next() {
                Some(def) if def.name == option => {
                    let body = body.split("</option>").next().unwrap();
                    failures.extend(check(def, kind, body).err().map(|e| format!("{name}: {e}")));
                }
                other => failures.push(format!(
                    "{name}: {option} is {:?} in the table",
                    other.map(|d| d.name)
                )),
            }
        }
        failures.extend(ours.map(|d| format!("{name}: {} is not in the real tool", d.name)));
    }
    let ours_alone = COMMANDS.iter().filter(|c| c.name == "why").count();
    assert_eq!(
        commands + ours_alone,
        COMMANDS.len(),
        "every command of the real tool is compared"
    );
    assert!(options > 130, "only {options} options compared");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
