//! Help texts, for people and for programs.

use std::fmt::Write as _;

use drbd_config::options::{Argument, Kind, Number, OptionDef, SetupCommand};

use super::args::{Output, Value, outputs};

/// The list of commands.
pub(super) fn commands() -> String {
    let mut out = String::from("\nUSAGE: drbdsetup command {arguments} [options]\n\nCommands:\n");
    let mut names: Vec<_> = super::names().collect();
    names.sort_unstable();
    for pair in names.chunks(2) {
        let _ = writeln!(
            out,
            " {:<35}{}",
            pair.first().unwrap_or(&""),
            pair.get(1).unwrap_or(&"")
        );
    }
    out.push_str("\nUse 'drbdsetup help command' for command-specific help.\n");
    out
}

/// One line on how a command is called.
pub(crate) fn line(command: &SetupCommand) -> String {
    let mut out = format!("USAGE: drbdsetup {}", command.name);
    for argument in command.arguments {
        match argument {
            Argument::ResourceOrAll => out.push_str(" {resource|all}"),
            other => {
                let _ = write!(out, " {{{}}}", other.name());
            }
        }
    }
    if command.options().next().is_some() || !outputs(command.name).is_empty() {
        out.push_str(" [options]");
    }
    out
}

/// How a command is called, with its options.
pub(super) fn usage(command: &SetupCommand) -> String {
    let mut out = format!("{}\n\n{}\n\n", line(command), command.help);
    for (spelled, help) in options(command) {
        let _ = writeln!(out, "  {spelled:<34} {help}");
    }
    out
}

/// The options of a command as they are spelled, and what they do.
pub(crate) fn options(command: &SetupCommand) -> Vec<(String, &'static str)> {
    let mut all = Vec::new();
    for output in outputs(command.name) {
        let short = match output.short {
            '\0' => String::new(),
            letter => format!("-{letter}, "),
        };
        let value = match output.value {
            Value::None => "",
            Value::Optional => "[=VALUE]",
            Value::Required => "=VALUE",
        };
        all.push((format!("{short}--{}{value}", output.name), output.help));
    }
    all.extend(table(command).map(|def| (format!("--{}", spelled(def)), def.help)));
    if command.has_set_defaults() {
        all.push(("--set-defaults".to_owned(), "reset what is not given"));
    }
    all
}

/// Options of the table that are not among those of the output.
fn table(command: &SetupCommand) -> impl Iterator<Item = &'static OptionDef> {
    let outputs: &'static [Output] = outputs(command.name);
    let is_output = move |def: &&OptionDef| outputs.iter().any(|o| o.name == def.name);
    command.options().filter(move |def| !is_output(def))
}

fn spelled(def: &OptionDef) -> String {
    match def.kind {
        Kind::Boolean { .. } => format!("{}[={{yes|no}}]", def.name),
        Kind::Enum { words, .. } => format!("{}={{{}}}", def.name, words.join("|")),
        Kind::Number(n) => format!("{}={{{}..{}}}", def.name, n.min, n.max),
        Kind::NumberOrWord { number, words, .. } => {
            format!(
                "{}={{{}..{}|{}}}",
                def.name,
                number.min,
                number.max,
                words.join("|")
            )
        }
        Kind::Text { .. } | Kind::Key | Kind::ResyncAfter(_) => format!("{}=VALUE", def.name),
    }
}

/// The machine readable form (CLI, section 8).
pub(super) fn xml(command: &SetupCommand) -> String {
    let mut out = format!("<command name=\"{}\">\n", command.name);
    for argument in command.arguments {
        match argument {
            Argument::ResourceOrAll => {
                out.push_str("\t<group>\n\t\t<argument>resource</argument>\n\t\t<argument>all</argument>\n\t</group>\n");
            }
            other => {
                let _ = writeln!(out, "\t<argument>{}</argument>", other.name());
            }
        }
    }
    if command.has_set_defaults() {
        out.push_str("\t<option name=\"set-defaults\" type=\"flag\">\n\t</option>\n");
    }
    for output in outputs(command.name) {
        let kind = match output.value {
            Value::None => "flag",
            Value::Optional | Value::Required => "string",
        };
        let name = output.name;
        let _ = writeln!(
            out,
            "\t<option name=\"{name}\" type=\"{kind}\">\n\t</option>"
        );
    }
    for def in table(command) {
        option(&mut out, def);
    }
    out.push_str("</command>\n");
    out
}

fn option(out: &mut String, def: &OptionDef) {
    let mut line = |text: String| {
        out.push_str("\t\t");
        out.push_str(&text);
        out.push('\n');
    };
    let default = def.default_text().unwrap_or_default();
    let range = |line: &mut dyn FnMut(String), n: &Number| {
        line(format!("<min>{}</min>", n.min));
        line(format!("<max>{}</max>", n.max));
    };
    let kind = match &def.kind {
        Kind::Boolean { .. } => {
            line(format!("<default>{default}</default>"));
            "boolean"
        }
        Kind::Enum { words, .. } => {
            for word in *words {
                line(format!("<handler>{word}</handler>"));
            }
            "handler"
        }
        Kind::Number(n) | Kind::ResyncAfter(n) => {
            range(&mut line, n);
            line(format!("<default>{default}</default>"));
            line(format!("<unit_prefix>{}</unit_prefix>", n.scale.letter()));
            if !n.unit.is_empty() {
                line(format!("<unit>{}</unit>", n.unit));
            }
            "numeric"
        }
        Kind::NumberOrWord { number, words, .. } => {
            range(&mut line, number);
            line(format!("<default>{default}</default>"));
            for word in *words {
                line(format!("<symbol>{word}</symbol>"));
            }
            "numeric-or-symbol"
        }
        Kind::Text { .. } | Kind::Key => "string",
    };
    // The heading belongs before what was written of this option.
    let marker = format!("\t<option name=\"{}\" type=\"{kind}\">\n", def.name);
    let start = out.rfind("\t</option>\n").map_or_else(
        || out.rfind("</argument>\n").map_or(0, |p| p + 12),
        |p| p + 11,
    );
    out.insert_str(start, &marker);
    out.push_str("\t</option>\n");
}

#[cfg(test)]
mod tests {
    use drbd_config::options::command;

    use super::*;

    #[test]
    fn xml_as_recorded() {
        let dir = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../drbd-config/tests/data/xml-help"
        );
        let mut compared = 0;
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap();
            let recorded = std::fs::read_to_string(&path).unwrap();
            assert_eq!(xml(command(name).unwrap()), recorded, "{name}");
            compared += 1;
        }
        assert!(compared > 40, "{compared}");
    }

    #[test]
    fn usage_has_every_option() {
        let events2 = usage(command("events2").unwrap());
        assert!(events2.contains("-T, --timestamps "), "{events2}");
        assert!(events2.contains("  --rcvbuf=VALUE "), "{events2}");
        let wait = usage(command("wait-sync-resource").unwrap());
        assert_eq!(wait.matches("wfc-timeout").count(), 3, "{wait}");
    }
}
