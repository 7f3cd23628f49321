//! Help texts and version ("Command line tools", section 2).

use super::commands::{self, Command, Level, Takes};
use super::{VERSION, cli, helper, load};

fn general_options() {
    println!("GENERAL OPTIONS:");
    for (long, short, value) in cli::GENERAL {
        if *value {
            println!("  --{long}=..., -{short} ...");
        } else {
            println!("  --{long}, -{short}");
        }
    }
}

fn version_line() {
    let [a, b, c] = VERSION;
    println!("\nVersion: {a}.{b}.{c} (api:2)");
}

/// Names in two columns, sorted downwards.
fn columns(level: Level) {
    let mut names: Vec<_> = commands::all()
        .filter(|c| c.level == level)
        .map(|c| c.name)
        .collect();
    names.sort_unstable();
    let rows = names.len().div_ceil(2);
    let (left, right) = names.split_at(rows);
    for (i, name) in left.iter().enumerate() {
        println!(" {name:<35} {:<35}", right.get(i).copied().unwrap_or(""));
    }
}

/// `drbdadm help`
pub(super) fn general() {
    println!("\nUSAGE: drbdadm COMMAND [OPTION...] {{all|RESOURCE...}}\n");
    general_options();
    println!("\nCOMMANDS:");
    columns(Level::Normal);
    version_line();
}

/// `drbdadm help COMMAND`
pub(super) fn command(command: &Command) {
    println!(
        "\nUSAGE: drbdadm {} [OPTION...] {{all|RESOURCE...}}\n",
        command.name
    );
    general_options();
    let table = command.setup_options().filter(|o| !o.internal);
    let mut options: Vec<String> = command
        .extra
        .iter()
        .map(|e| match e.takes {
            Takes::Nothing => format!("  --{}", e.name),
            Takes::Optional => format!("  --{}[={{yes|no}}]", e.name),
            Takes::Required => format!("  --{}=...", e.name),
        })
        .collect();
    options.extend(table.map(|o| {
        let value = if o.is_boolean() {
            "[={yes|no}]"
        } else {
            "=..."
        };
        format!("  --{:<32} {}", format!("{}{value}", o.name), o.help)
    }));
    if !options.is_empty() {
        println!("\nOPTIONS FOR {}:", command.name);
        options.iter().for_each(|o| println!("{o}"));
    }
    version_line();
}

/// `drbdadm hidden-commands`
pub(super) fn hidden() {
    println!("\nThese additional commands might be useful in scripts:\n");
    columns(Level::Shell);
    println!("\nThese commands are run by the node when something happens:\n");
    columns(Level::Handler);
    println!("\nThese commands are for experts and developers:\n");
    columns(Level::Expert);
    println!();
}

/// `drbdadm --version`: variables for a shell.
pub(super) fn version() {
    let [a, b, c] = VERSION;
    let [x, y, z] = load::driver_version();
    let tag = concat!("drbd-rs ", env!("CARGO_PKG_VERSION"));
    println!("DRBDADM_BUILDTAG={}", helper::escape(tag));
    println!("DRBDADM_API_VERSION=2");
    println!(
        "DRBD_KERNEL_VERSION_CODE=0x{:06x}",
        (x << 16) | (y << 8) | z
    );
    println!("DRBD_KERNEL_VERSION={x}.{y}.{z}");
    println!("DRBDADM_VERSION_CODE=0x{a:02x}{b:02x}{c:02x}");
    println!("DRBDADM_VERSION={a}.{b}.{c}");
}
