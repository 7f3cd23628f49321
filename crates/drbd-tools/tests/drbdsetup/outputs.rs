//! Outputs as recorded: every file of `data/runtime` except those of `events2`, whose changes are replayed in
//! `setup/events`.

use std::collections::BTreeSet;
use std::process::Command;

use crate::daemon::{Daemon, Objects, Output};
use crate::recorded::{configs, recorded, resources};

fn daemon() -> Daemon {
    Daemon::new(Objects {
        resources: resources(),
        configs: configs(),
        ..Objects::default()
    })
}

#[track_caller]
fn same(daemon: &Daemon, line: &str, recorded: &str) {
    let output = daemon.drbdsetup(line);
    assert_eq!((output.exit, output.stderr.as_str()), (0, ""), "{line}");
    for (n, (ours, theirs)) in output.stdout.lines().zip(recorded.lines()).enumerate() {
        assert_eq!(ours, theirs, "{line}: line {}", n + 1);
    }
    assert!(output.stdout == recorded, "{line}: the ends differ");
}

#[test]
fn status() {
    let daemon = daemon();
    for (line, recorded) in [
        ("status", recorded!("status.txt")),
        ("status all", recorded!("status.txt")),
        ("status --statistics", recorded!("status-statistics.txt")),
        ("status --verbose", recorded!("status-verbose.txt")),
        ("status -v -s", recorded!("status-verbose-statistics.txt")),
        ("status r0 -vv -s", recorded!("status-vv-statistics-r0.txt")),
        ("status --json", recorded!("status.json")),
    ] {
        same(&daemon, line, recorded);
    }
    // The recording writes the escape character as two visible ones.
    let color = recorded!("status-color.txt").replace("^[", "\x1b");
    same(&daemon, "status --color=always", &color);
}

#[test]
fn show() {
    let daemon = daemon();
    same(&daemon, "show", recorded!("show.txt"));
    same(&daemon, "show --json", recorded!("show.json"));
    same(
        &daemon,
        "show r2 --show-defaults",
        recorded!("show-defaults-r2.txt"),
    );
}

/// A command of a transcript with what was recorded.
fn transcript(text: &str) -> Vec<(String, Output)> {
    let mut steps: Vec<(String, Output)> = Vec::new();
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("$ drbdsetup ") {
            let nothing = Output {
                stdout: String::new(),
                stderr: String::new(),
                exit: 0,
            };
            steps.push((command.to_owned(), nothing));
            continue;
        }
        let (_, output) = steps.last_mut().unwrap();
        if let Some(line) = line.strip_prefix("  ") {
            output.stdout.push_str(&format!("{line}\n"));
        } else if let Some(line) = line.strip_prefix("! ") {
            output.stderr.push_str(&format!("{line}\n"));
        } else if let Some(code) = line.strip_prefix("= ") {
            output.exit = code.parse().unwrap();
        } else {
            panic!("{line}");
        }
    }
    steps
}

/// Metadata with the recorded generations of `r0/0`, made by `drbdmeta`.
fn metadata(daemon: &Daemon) -> String {
    let path = daemon.dir().join("r0.disk");
    std::fs::File::create(&path)
        .unwrap()
        .set_len(8 << 20)
        .unwrap();
    let path = path.to_str().unwrap().to_owned();
    let drbdmeta = |words: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_drbdmeta"))
            .args(["--var-lib-drbd", daemon.dir().to_str().unwrap()])
            .args(["-", "v09", &path, "internal"])
            .args(words)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {said}");
    };
    drbdmeta(&["create-md", "4", "--force"]);
    for (peer, bitmap) in [("1", "0"), ("2", "AAAAAAAAAAAAAAA0")] {
        let generations = format!(
            "1234567890ABCDEF:{bitmap}:1111111111111110:2222222222222220:1:1:1:0:0:0:0:1:0:0:0:0"
        );
        let node = format!("--node-id={peer}");
        drbdmeta(&[&node, "set-gi", &generations, "--force"]);
    }
    path
}

#[test]
fn queries() {
    let daemon = daemon();
    let disk = metadata(&daemon);
    let steps = transcript(recorded!("queries.txt"));
    assert_eq!(steps.len(), 17);
    for (line, recorded) in steps {
        let generations = line.starts_with("get-gi r0") && recorded.exit == 0;
        // Generations are read where the disk is.
        let with_disk = generations.then(|| {
            let mut configs = configs();
            let backing = configs[0].volumes[0].backing.as_mut().unwrap();
            backing.disk.clone_from(&disk);
            backing.meta_disk.clone_from(&disk);
            Daemon::new(Objects {
                configs,
                ..Objects::default()
            })
        });
        let asked = with_disk.as_ref().unwrap_or(&daemon);
        assert_eq!(asked.drbdsetup(&line), recorded, "{line}");
    }
}

#[test]
fn nothing_is_configured() {
    let daemon = Daemon::new(Objects::default());
    let steps = transcript(recorded!("nothing-configured.txt"));
    assert_eq!(steps.len(), 4);
    for (line, recorded) in steps {
        assert_eq!(daemon.drbdsetup(&line), recorded, "{line}");
    }
}

/// Nothing recorded is left out.
#[test]
fn every_recording_is_used() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/runtime");
    let there: BTreeSet<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let sources = [
        include_str!("outputs.rs"),
        include_str!("../../src/setup/events/replay.rs"),
    ];
    let unused: Vec<_> = there
        .iter()
        .filter(|name| {
            let quoted = [format!("\"{name}\""), format!("/{name}\"")];
            !sources.iter().any(|s| quoted.iter().any(|q| s.contains(q)))
        })
        .collect();
    assert!(unused.is_empty(), "{unused:?}");
    assert!(there.len() >= 16);
}
