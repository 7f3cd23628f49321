//! Manual pages, in the language of man(7).

use std::fmt::Write;

use drbd_config::options::{COMMANDS, Group};

use super::{unit, values};
use crate::{adm, meta, setup};

/// Text that man takes as it is.
fn plain(text: &str) -> String {
    let text = text
        .replace('\\', "\\e")
        .replace('-', "\\-")
        .replace('`', "");
    // A line that begins with one of these would be a request.
    match text.starts_with(['.', '\'']) {
        true => format!("\\&{text}"),
        false => text,
    }
}

fn head(name: &str, section: u8, about: &str) -> String {
    format!(
        ".\\\" Written from the tables of commands and options; UPDATE=1 cargo test -p drbd-tools --test generated writes it anew.\n\
         .TH {} {section} \"\" \"drbd\\-rs {}\" \"System Administration\"\n.SH NAME\n{name} \\- {}\n",
        name.to_uppercase(),
        env!("CARGO_PKG_VERSION"),
        plain(about)
    )
}

fn entry(out: &mut String, heading: &str, help: &str) {
    let _ = writeln!(out, ".TP\n\\fB{}\\fR\n{}", plain(heading), plain(help));
}

fn options(out: &mut String, list: &[(String, &str)]) {
    if list.is_empty() {
        return;
    }
    out.push_str(".RS\n");
    for (spelled, help) in list {
        entry(out, spelled, help);
    }
    out.push_str(".RE\n");
}

/// `drbdsetup.8`
pub fn drbdsetup() -> String {
    let mut out = head("drbdsetup", 8, "Talk to the DRBD node");
    out.push_str(
        ".SH SYNOPSIS\n\\fBdrbdsetup\\fR COMMAND ARGUMENT... [OPTION...]\n.SH DESCRIPTION\n\
         drbdsetup gives commands to drbdd, the node daemon, over its control socket. The first command that needs it starts it. An option\n\
         may be given by any unambiguous beginning of its name, before or behind the arguments.\n.SH COMMANDS\n",
    );
    let mut commands: Vec<_> = COMMANDS.iter().collect();
    commands.sort_by_key(|c| c.name);
    for command in commands {
        let line = setup::help::line(command);
        let line = line.trim_start_matches("USAGE: drbdsetup ");
        entry(&mut out, line, command.help);
        options(&mut out, &setup::help::options(command));
    }
    out.push_str(
        ".SH EXIT STATUS\n0: done. 5: a wait has expired, or the disk is lower than Outdated. 10: refused. 11, 16, 17: the state \
         does not allow it. 20: wrong use, or no answer. 121: the daemon ended.\n\
         .SH SEE ALSO\n\\fBdrbdadm\\fR(8), \\fBdrbdmeta\\fR(8), \\fBdrbd.conf\\fR(5)\n",
    );
    out
}

/// `drbdadm.8`
pub fn drbdadm() -> String {
    let mut out = head(
        "drbdadm",
        8,
        "Administer DRBD resources as they are configured",
    );
    out.push_str(
        ".SH SYNOPSIS\n\\fBdrbdadm\\fR [OPTION...] COMMAND [OPTION...] {all|SELECTOR...}\n.SH DESCRIPTION\n\
         drbdadm reads the configuration, drbd.conf(5), and calls drbdsetup(8) and drbdmeta(8).\n.SH OPTIONS\n",
    );
    for option in adm::general_options() {
        entry(&mut out, &option, "");
    }
    out.push_str(".SH COMMANDS\n");
    let mut commands = adm::described();
    commands.sort_by_key(|c| c.name);
    for command in commands {
        let line = format!("{} {}", command.name, command.selectors);
        entry(&mut out, line.trim_end(), command.help);
        options(&mut out, &command.options);
    }
    out.push_str(".SH SEE ALSO\n\\fBdrbdsetup\\fR(8), \\fBdrbdmeta\\fR(8), \\fBdrbd.conf\\fR(5)\n");
    out
}

/// `drbdmeta.8`
pub fn drbdmeta() -> String {
    let mut out = head(
        "drbdmeta",
        8,
        "Create and look after the metadata of a disk",
    );
    out.push_str(
        ".SH SYNOPSIS\n\\fBdrbdmeta\\fR [OPTION...] DEVICE FORMAT [META_DEV INDEX] COMMAND [ARGUMENT]\n.SH DESCRIPTION\n\
         drbdmeta creates, shows, repairs and removes metadata while no node uses it. drbdadm(8) calls it with what the configuration\n\
         says.\n\
         .TP\nDEVICE\na minor number or \\fI/dev/drbdN\\fR; \\fB\\-\\fR: no lock, and no check whether the device is in use.\n\
         .TP\nFORMAT\n\\fBv07\\fR, \\fBv08\\fR, \\fBv09\\fR with META_DEV, the device or file that holds the metadata, and INDEX: \\fBinternal\\fR,\n\
         \\fBflex\\-internal\\fR, \\fBflex\\-external\\fR or a number. Or \\fBv06\\fR with a minor number, only to look at.\n.SH OPTIONS\n",
    );
    for (spelled, help) in meta::described_options() {
        entry(&mut out, &spelled, help);
    }
    out.push_str(".SH COMMANDS\n");
    let mut commands = meta::described_commands();
    commands.sort();
    for (line, help) in commands {
        entry(&mut out, &line, help);
    }
    out.push_str(
        ".SH EXIT STATUS\n0: done. 1: a failure, or a question that was answered with no. 5: outdate on inconsistent data. 10: wrong \
         values, an error of the device, or metadata that the command cannot work on. 20: wrong use, or the device cannot be opened or\n\
         is in use. 30: not implemented. 40: data would be destroyed.\n\
         .SH SEE ALSO\n\\fBdrbdadm\\fR(8), \\fBdrbdsetup\\fR(8), \\fBdrbd.conf\\fR(5)\n",
    );
    out
}

/// `drbd.conf.5`
pub fn configuration() -> String {
    let mut out = head("drbd.conf", 5, "Options of DRBD resources");
    out.push_str(
        ".SH DESCRIPTION\nThe options that the sections of the configuration take. A number may end in K, M, G (2^10, 2^20, 2^30 \
         bytes) or s (512 bytes).\n",
    );
    for (group, title) in [
        (Group::Resource, "options"),
        (Group::Net, "net"),
        (Group::Disk, "disk, of a backing disk"),
        (Group::PeerDevice, "disk, of a volume on one peer"),
        (Group::Device, "disk, of a replicated device"),
        (Group::Startup, "startup"),
        (Group::Handlers, "handlers"),
        (Group::Proxy, "proxy"),
    ] {
        let _ = writeln!(out, ".SH SECTION {}", plain(&title.to_uppercase()));
        for def in group.options().iter().filter(|o| !o.internal) {
            let mut text = format!("{} Values: {}", def.help, values(def));
            let unit = unit(def);
            if !unit.is_empty() {
                let _ = write!(text, " ({unit})");
            }
            match def.default_text() {
                Some(default) if !default.is_empty() => {
                    let _ = write!(text, "; default: {default}.");
                }
                _ => text.push('.'),
            }
            entry(&mut out, def.name, &text);
        }
    }
    out.push_str(".SH SEE ALSO\n\\fBdrbdadm\\fR(8), \\fBdrbdsetup\\fR(8)\n");
    out
}
