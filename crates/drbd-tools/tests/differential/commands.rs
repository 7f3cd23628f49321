//! Command lines to try on a configuration.

use super::{Random, Run};

const SELECTABLE: &[&str] = &[
    "adjust",
    "apply-al",
    "attach",
    "check-resize",
    "connect",
    "create-md",
    "cstate",
    "del-minor",
    "del-path",
    "del-peer",
    "detach",
    "disconnect",
    "disk-options",
    "down",
    "dstate",
    "dump",
    "dump-md",
    "dump-xml",
    "forget-peer",
    "get-gi",
    "invalidate",
    "invalidate-remote",
    "net-options",
    "new-current-uuid",
    "new-minor",
    "new-path",
    "new-peer",
    "new-resource",
    "pause-sync",
    "peer-device-options",
    "primary",
    "proxy-down",
    "proxy-up",
    "resize",
    "resource-options",
    "resume-io",
    "resume-sync",
    "role",
    "secondary",
    "set-gi",
    "sh-dev",
    "sh-ip",
    "sh-ll-dev",
    "sh-lr-of",
    "sh-md-dev",
    "sh-md-idx",
    "sh-minor",
    "sh-mod-parms",
    "sh-nop",
    "sh-resource",
    "sh-resources",
    "sh-udev",
    "show-gi",
    "status",
    "suspend-io",
    "up",
    "verify",
    "wait-connect",
    "wait-sync",
    "wipe-md",
    "fence-peer",
    "split-brain",
    "before-resync-target",
    "state",
    "outdate-peer",
    "hidden-commands",
    "nonsense",
];

const OPTIONS: &[&str] = &[
    "--force",
    "--discard-my-data",
    "--tentative",
    "--size=1G",
    "--skip-disk",
    "--skip-net",
    "--protocol=A",
    "--timeout=9",
    "--c-max-rate=9M",
    "--start=8",
    "--max-peers=3",
    "--wfc-timeout=3",
    "--on-io-error=detach",
    "--cpu-mask=1",
    "--assume-clean",
    "--set-defaults",
    "--diskless",
    "--max-bio-size=4096",
    "--md-flushes=no",
    "--verbose",
    "-S",
    "-v",
    "--reset-bitmap=no",
    "--effective-size=1G",
    "--nonsense",
    "--al-stripes=4",
    "-W--force",
    "-n",
    "--sh-varname=X",
];

/// One command line without the configuration file; `names` are the resources there are.
pub(super) fn line(r: &mut Random, names: &[String]) -> Vec<String> {
    let mut words = vec!["-d".to_owned()];
    if r.chance(25) {
        let option = *r.pick(OPTIONS);
        words.push(option.to_owned());
        if option == "-n" {
            words.push("VAR".to_owned());
        }
    }
    words.push((*r.pick(SELECTABLE)).to_owned());
    for _ in 0..1 + usize::from(r.chance(15)) {
        let resource = if names.is_empty() || r.chance(5) {
            "nosuch".to_owned()
        } else {
            r.pick(names).clone()
        };
        let peer = *r.pick(&["bravo", "charlie", "alpha", "BRAVO.x", "", "nosuch"]);
        let volume = *r.pick(&["0", "0", "1", "7", "3", "x", "00", ""]);
        match r.below(9) {
            0 | 1 => words.push("all".to_owned()),
            2 => words.push(format!("{resource}/{volume}")),
            3 => words.push(format!("{resource}:{peer}")),
            4 => words.push(format!("{resource}:{peer}/{volume}")),
            5 => words.push(format!("minor-{}", r.below(12))),
            6 if r.chance(20) => {}
            _ => words.push(resource),
        }
    }
    words
}

/// Where newer releases (these commands changed until 9.34) or we behave differently on purpose.
pub(super) fn differs_on_purpose(line: &[String], release: u32, ours: &Run, real: &Run) -> bool {
    // Texts for people.
    let has = |word: &str| line.iter().any(|w| w == word);
    let old = release < 34
        && [
            "adjust",
            "attach",
            "apply-al",
            "check-resize",
            "detach",
            "disk-options",
            "invalidate",
            "resize",
            "dump-md",
            "wipe-md",
            "create-md",
            "show-gi",
            "get-gi",
            "sh-md-dev",
            "sh-md-idx",
            "role",
            "state",
            "status",
            "sh-dev",
            "proxy-up",
            "proxy-down",
            "repair-md",
        ]
        .iter()
        .any(|c| has(c));
    // It does not go on behind a selector that selects nothing.
    let old = old || release < 34 && ours.exit != real.exit && line.len() > 3;
    // It goes on with the peer of the last `RES:PEER` until there is another one.
    let mut peer = false;
    let stale = line.iter().any(|w| {
        let before = peer;
        peer |= w.contains(':');
        before && !w.contains(':')
    });
    let old = old || release < 32 && stale;
    // Dumps of one resource: the real tool adds what it makes up, which `dump all` does not show. `set-gi`: it passes on any
    // option of any command.
    let dump = (has("dump") || has("dump-xml")) && !has("all") && ours.exit == real.exit;
    // It dumps resources alone.
    let part = release < 34 && has("dump") && real.stderr.contains("operates on whole resources");
    old || part
        || has("hidden-commands")
        || dump
        || has("dump-xml")
        // Once for every resource, although the answer is always the same.
        || has("sh-resources") || has("sh-mod-parms")
        // It loses the options of the command line.
        || has("new-minor") && line.iter().any(|w| w.starts_with("--"))
        || has("-W--force")
        || has("set-gi") && ours.stderr.contains("unrecognized option")
}
