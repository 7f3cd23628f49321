//! What is written from the tables of options and commands: the page of options, manual pages and the completion of command lines. The
//! results are kept in the repository; a test compares them.

use std::fmt::Write;

use drbd_config::options::{COMMANDS, Group, Kind, OptionDef, Scale};

use crate::adm;

mod man;

pub use man::{
    configuration as man_configuration, drbdadm as man_drbdadm, drbdmeta as man_drbdmeta,
    drbdsetup as man_drbdsetup,
};

/// The page `docs/options.md`: every option with its values, unit and default.
pub fn options_page() -> String {
    let mut out = String::from(
        "# Options\n\n\
         Written from the table in `crates/drbd-config/src/options`; `UPDATE=1 cargo test -p drbd-tools --test generated` writes it anew.\n\n\
         A number may end in `K`, `M`, `G` (2^10, 2^20, 2^30 bytes) or `s` (512 bytes). Without a letter it counts the unit given\n\
         here. `NAME;` and `no-NAME;` mean yes and no. Options marked *fixed* hold from the creation of their object on.\n",
    );
    let groups = [
        (Group::Resource, "of a resource: `options { }`"),
        (Group::Net, "of a connection: `net { }`"),
        (Group::Disk, "of a backing disk: `disk { }`"),
        (Group::PeerDevice, "of a volume on one peer: `disk { }`"),
        (Group::Device, "of a replicated device: `disk { }`"),
        (Group::Startup, "of the waiting commands: `startup { }`"),
        (Group::Handlers, "programs run on events: `handlers { }`"),
        (Group::Proxy, "of a proxy: `proxy { }`"),
    ];
    for (group, title) in groups {
        let _ = write!(
            out,
            "\n## Options {title}\n\n| Option | Values | Unit | Default | Meaning |\n|---|---|---|---|---|\n"
        );
        for def in group.options().iter().filter(|o| !o.internal) {
            let fixed = if def.fixed { " *(fixed)*" } else { "" };
            let default = match def.default_text() {
                Some(text) if !text.is_empty() => format!("`{text}`"),
                _ => String::new(),
            };
            let _ = writeln!(
                out,
                "| `{}` | {} | {} | {default} | {}{fixed} |",
                def.name,
                values(def),
                unit(def),
                def.help
            );
        }
    }
    out
}

fn values(def: &OptionDef) -> String {
    let list = |words: &[&str]| {
        words
            .iter()
            .map(|w| format!("`{w}`"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    match def.kind {
        Kind::Boolean { .. } => list(&["yes", "no"]),
        Kind::Enum { words, .. } => list(words),
        Kind::Number(n) if n.max == i64::MAX => "a number".to_owned(),
        Kind::Number(n) => format!("{} to {}", n.min, n.max),
        Kind::NumberOrWord { number, words, .. } => {
            format!("{} to {}, {}", number.min, number.max, list(words))
        }
        Kind::Text { limit: Some(limit) } => format!("up to {} bytes", limit - 1),
        Kind::Text { limit: None } => "a shell command".to_owned(),
        Kind::Key => "description of a key".to_owned(),
        Kind::ResyncAfter(_) => "`RESOURCE`, `RESOURCE/VOLUME`, a minor".to_owned(),
    }
}

fn unit(def: &OptionDef) -> String {
    let Kind::Number(number) = def.kind else {
        return String::new();
    };
    match (number.scale, number.unit) {
        (Scale::One, unit) => unit.to_owned(),
        (Scale::Kib, "bytes/second") => "KiB/s".to_owned(),
        (Scale::Kib, _) => "KiB".to_owned(),
        (Scale::Sector, _) => "sectors of 512 bytes".to_owned(),
    }
}

/// The words that complete an option: `--name=` with each value that is a word of a list.
fn option_words(def: &OptionDef) -> Vec<String> {
    let name = def.name;
    match def.kind {
        Kind::Boolean { .. } => vec![format!("--{name}"), format!("--{name}=no")],
        Kind::Enum { words, .. } | Kind::NumberOrWord { words, .. } => {
            words.iter().map(|w| format!("--{name}={w}")).collect()
        }
        _ => vec![format!("--{name}=")],
    }
}

/// The file `completions/drbd.bash`: completion of `drbdadm` and `drbdsetup` for bash.
pub fn completion() -> String {
    let mut out = String::from(
        "# Completion of drbdadm and drbdsetup for bash. Written from the tables of commands and options;\n\
         # `UPDATE=1 cargo test -p drbd-tools --test generated` writes it anew.\n",
    );
    let setup = COMMANDS.iter().map(|c| {
        let mut words: Vec<String> = c
            .options()
            .filter(|o| !o.internal)
            .flat_map(option_words)
            .collect();
        if c.has_set_defaults() {
            words.push("--set-defaults".to_owned());
        }
        (c.name, words)
    });
    let adm = adm::completions(option_words);
    function(
        &mut out,
        "drbdadm",
        &adm,
        &adm::general_options(),
        "drbdadm sh-resources; drbdadm -S sh-resources; echo all",
    );
    let names = r#"drbdsetup show | sed -n 's/^resource "\{0,1\}\([^" ]*\).*/\1/p'; echo all"#;
    function(
        &mut out,
        "drbdsetup",
        &setup.collect::<Vec<_>>(),
        &[],
        names,
    );
    out
}

/// One function of the shell: `names` prints what stands behind a command.
fn function(
    out: &mut String,
    program: &str,
    commands: &[(&str, Vec<String>)],
    general: &[String],
    names: &str,
) {
    let all: Vec<&str> = commands.iter().map(|(name, _)| *name).collect();
    let _ = write!(
        out,
        "\n_{program}() {{\n    local cur=${{COMP_LINE:0:COMP_POINT}} command= word options=\n    cur=${{cur##* }}\n    \
         for word in \"${{COMP_WORDS[@]:1:COMP_CWORD-1}}\"; do\n        case \" {} \" in\n            *\" $word \"*) command=$word; break ;;\n        \
         esac\n    done\n    if [ -z \"$command\" ]; then\n        options=\"{} {}\"\n    elif [[ $cur != -* ]]; then\n        \
         options=$( ({names}) 2>/dev/null)\n    fi\n    [[ $cur != -* ]] || case $command in\n",
        all.join(" "),
        all.join(" "),
        general.join(" "),
    );
    for (name, words) in commands.iter().filter(|(_, words)| !words.is_empty()) {
        let _ = writeln!(out, "        {name}) options=\"{}\" ;;", words.join(" "));
    }
    let _ = write!(
        out,
        "    esac\n    COMPREPLY=($(compgen -W \"$options\" -- \"$cur\"))\n    \
         [[ ${{#COMPREPLY[@]}} != 1 || ${{COMPREPLY[0]}} != *= ]] || compopt -o nospace\n    \
         # Readline replaces only what stands behind a '=' or ':'.\n    case $cur in\n        \
         *[=:]*) COMPREPLY=(\"${{COMPREPLY[@]#\"${{cur%[=:]*}}\"[=:]}}\") ;;\n    esac\n}}\ncomplete -F _{program} {program}\n"
    );
}
