//! Our `drbdadm` beside the real one of the package `drbd-utils`, over generated configurations:
//! valid ones must give the same dump and the same commands, damaged ones the same verdict.

#![allow(clippy::unwrap_used, clippy::panic)] // test code

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

mod commands;
mod damage;
mod forms;
mod generate;
mod options;
mod random;

use random::{Random, Seed, cases, seeds};

/// The real tool.
struct Real {
    path: PathBuf,
    /// Minor number of its release: 22 for 9.22.
    release: u32,
}

/// The real tool if it is there; says so loudly if not. `REFERENCE_DRBDADM` names another one.
fn real_tool() -> Option<Real> {
    let path = std::env::var_os("REFERENCE_DRBDADM");
    let path = path.map_or_else(|| PathBuf::from("/usr/sbin/drbdadm"), PathBuf::from);
    let version = Command::new(&path)
        .arg("--version")
        .stderr(Stdio::null())
        .output();
    let text = version.map_or_else(
        |_| String::new(),
        |v| String::from_utf8_lossy(&v.stdout).into_owned(),
    );
    let release = text
        .lines()
        .find_map(|l| l.strip_prefix("DRBDADM_VERSION=9."))
        .and_then(|v| v.split('.').next()?.parse().ok());
    match release {
        Some(release) if text.contains("GIT-hash") => Some(Real { path, release }),
        _ => {
            eprintln!(
                "NOT TESTED: {} of drbd-utils is not installed",
                path.display()
            );
            None
        }
    }
}

struct Run {
    exit: Option<i32>,
    stdout: String,
    stderr: String,
}

fn run(program: &Path, file: &Path, args: &[impl AsRef<OsStr>]) -> Run {
    let output = Command::new(program)
        .arg0("drbdadm")
        .arg("-c")
        .arg(file)
        .args(args)
        .env("__DRBD_NODE__", "alpha")
        .env("DRBD_DRIVER_VERSION_OVERRIDE", "9.2.14")
        .env("FAKE_DRBDSETUP_SHOW", "/dev/null")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let noise = ["found __DRBD_NODE__", "PRETENDING that"];
    Run {
        exit: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: stderr
            .lines()
            .filter(|l| !l.is_empty() && !noise.iter().any(|n| l.contains(n)))
            .map(|l| format!("{l}\n"))
            .collect(),
    }
}

/// Ours and the real one's.
fn both(real: &Real, file: &Path, args: &[impl AsRef<OsStr>]) -> (Run, Run) {
    let ours = Path::new(env!("CARGO_BIN_EXE_drbdadm"));
    (run(ours, file, args), run(&real.path, file, args))
}

/// The calls whose only option is `bitmap=no`, which releases before 9.26 lose where the connection has an empty section for the
/// volume: the resources and volumes of these.
fn lost_bitmaps(config: &str, release: u32) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    if release >= 26 {
        return found;
    }
    let resources = config.split("resource ").skip(1);
    for text in resources {
        let name = text.split_whitespace().next().unwrap_or("");
        let empty: String = text.split_whitespace().collect();
        for volume in ["0", "1", "2", "7"] {
            if empty.contains(&format!("volume{volume}{{disk{{}}}}")) {
                found.push((name, volume));
            }
        }
    }
    found
}

/// What was printed, without the places where we differ on purpose or releases do.
fn comparable(text: &str, config: &str, release: u32) -> String {
    let lost = lost_bitmaps(config, release);
    let mut out = String::new();
    let mut stacked = false;
    // An `address` endpoint is not followed by a `;` of its own in our dumps.
    for line in text.lines().filter(|l| l.trim() != ";") {
        if release < 24 && line.ends_with(" repair-md") {
            // With what `-n` prints before it.
            let before = out.trim_end().rfind('\n').map_or(0, |at| at + 1);
            if out
                .get(before..)
                .is_some_and(|last| last.starts_with("VAR="))
            {
                out.truncate(before);
            }
            continue;
        }
        if let [
            "drbdsetup",
            "peer-device-options",
            name,
            _,
            volume,
            rest @ ..,
        ] = &line.split(' ').collect::<Vec<_>>()[..]
            && matches!(rest, [] | ["--bitmap=no"])
            && lost.contains(&(*name, *volume))
        {
            continue;
        }
        // We dump the volumes of stacked sections, without which the dump would not read back.
        if line.starts_with("    stacked-on-top-of ") {
            stacked = true;
        } else if line == "    }" {
            stacked = false;
        }
        let kept = ["stacked-on-top-of ", "# on ", "node-id ", "address "];
        if stacked && !kept.iter().any(|k| line.trim_start().starts_with(k)) {
            continue;
        }
        out.push_str(line);
        out.push('\n');
    }
    // Names that would read back as something else are quoted in our dumps.
    for name in ["host", "9.0.1"] {
        let quoted = format!("\"{name}\"");
        out = out.replace(&format!("on {quoted} "), &format!("on {name} "));
        out = out.replace(&format!("host {quoted}"), &format!("host {name}"));
    }
    if release < 23 {
        // Made-up names of floating hosts.
        for (theirs, ours) in [
            ("127.0.0.1:79", "127.0.0.1_79"),
            ("10.77.0.2:79", "10.77.0.2_79"),
        ] {
            for before in ["host ", "--_name=", "# on ", "name=\""] {
                out = out.replace(&format!("{before}{theirs}"), &format!("{before}{ours}"));
            }
        }
    }
    out
}

/// Where two runs differ.
fn difference(a: &Run, b: &Run, config: &str, release: u32) -> Option<String> {
    let (x, y) = (
        comparable(&a.stdout, config, release),
        comparable(&b.stdout, config, release),
    );
    if a.exit == b.exit && (a.exit != Some(0) || x == y) {
        return None;
    }
    let end = x.lines().count().max(y.lines().count());
    let at = (0..end).find(|i| x.lines().nth(*i) != y.lines().nth(*i));
    let line = |text: &str| text.lines().nth(at.unwrap_or(end)).unwrap_or("").to_owned();
    Some(format!(
        "exit {:?} and {:?}\nours {:?}\nreal {:?}\nours: {}\nreal: {}",
        a.exit,
        b.exit,
        line(&x),
        line(&y),
        a.stderr,
        b.stderr
    ))
}

fn verdict(failures: &[String], seed: &Seed) {
    assert!(
        failures.is_empty(),
        "{}\nagain with: {}",
        failures.join("\n======\n"),
        seed.replay
    );
}

const COMMANDS: [&[&str]; 3] = [
    &["dump", "all"],
    &["-v", "dump", "all"],
    &["-d", "up", "all"],
];

#[test]
fn generated_configurations() {
    let Some(real) = real_tool() else { return };
    for seed in seeds("generated_configurations") {
        generated_with(&real, &seed);
    }
}

fn generated_with(real: &Real, seed: &Seed) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("generated.conf");
    let (mut r, cases) = (seed.random(0x5eed_0001), cases(150));
    let mut accepted = 0;
    let mut failures = Vec::new();
    for case in 0..cases {
        let text = generate::configuration(&mut r);
        std::fs::write(&file, &text).unwrap();
        for args in COMMANDS {
            let (a, b) = both(real, &file, args);
            accepted += usize::from(b.exit == Some(0));
            // An empty disk section in a connection's volume crashes the real tool.
            if b.exit.is_none() {
                continue;
            }
            if let Some(how) = difference(&a, &b, &text, real.release)
                && failures.len() < 5
            {
                failures.push(format!("case {case} {args:?}: {how}\n{text}"));
            }
        }
    }
    eprintln!("{accepted} of {} runs accepted", cases * 3);
    assert!(
        accepted > cases * 2,
        "too few valid configurations: {accepted}"
    );
    verdict(&failures, seed);
}

/// Writes all files of a configuration; the path of the first one.
fn write(dir: &Path, files: &forms::Files) -> PathBuf {
    for (name, text) in &files.0 {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir.join(&files.0[0].0)
}

#[test]
fn forms_of_the_language() {
    let Some(real) = real_tool() else { return };
    for seed in seeds("forms_of_the_language") {
        forms_with(&real, &seed);
    }
}

fn forms_with(real: &Real, seed: &Seed) {
    let (mut r, cases) = (seed.random(0x5eed_0003), cases(150));
    let mut accepted = 0;
    let mut failures = Vec::new();
    for case in 0..cases {
        let dir = tempfile::tempdir().unwrap();
        let files = forms::configuration(&mut r).for_release(real.release);
        let file = write(dir.path(), &files);
        for args in [
            COMMANDS[0],
            COMMANDS[1],
            COMMANDS[2],
            &["-d", "-S", "up", "all"],
        ] {
            let (a, b) = both(real, &file, args);
            accepted += usize::from(b.exit == Some(0));
            // Older releases leave an unknown target out of dumps as well.
            let dropped = real.release < 34 && b.stderr.contains("mentioned in 'resync-after'");
            if b.exit.is_none() || tolerated(&a, &b) || dropped {
                continue;
            }
            if let Some(how) = difference(&a, &b, &files.show(), real.release)
                && failures.len() < 5
            {
                failures.push(format!("case {case} {args:?}: {how}\n{}", files.show()));
            }
        }
    }
    eprintln!("{accepted} of {} runs accepted", cases * 4);
    assert!(accepted > cases, "too few valid configurations: {accepted}");
    verdict(&failures, seed);
}

#[test]
fn command_lines() {
    let Some(real) = real_tool() else { return };
    for seed in seeds("command_lines") {
        command_with(&real, &seed);
    }
}

fn command_with(real: &Real, seed: &Seed) {
    let (mut r, cases) = (seed.random(0x5eed_0004), cases(100));
    let mut failures = Vec::new();
    for case in 0..cases {
        let dir = tempfile::tempdir().unwrap();
        let files = forms::configuration(&mut r).for_release(real.release);
        let file = write(dir.path(), &files);
        let (a, b) = both(real, &file, &["sh-resources"]);
        if a.exit != Some(0) || b.exit != Some(0) {
            continue;
        }
        let mut names: Vec<String> = a.stdout.lines().map(str::to_owned).collect();
        names.extend(
            run(&real.path, &file, &["-S", "sh-resources"])
                .stdout
                .lines()
                .map(str::to_owned),
        );
        names.retain(|n| !n.contains(' '));
        for _ in 0..5 {
            let line = commands::line(&mut r, &names);
            let (a, b) = both(real, &file, &line);
            // Older releases leave an unknown target out of dumps as well.
            let dropped = real.release < 34 && b.stderr.contains("mentioned in 'resync-after'");
            if b.exit.is_none()
                || dropped
                || commands::differs_on_purpose(&line, real.release, &a, &b)
            {
                continue;
            }
            if let Some(how) = difference(&a, &b, &files.show(), real.release)
                && failures.len() < 10
            {
                failures.push(format!("case {case} {line:?}: {how}\n{}", files.show()));
            }
        }
    }
    verdict(&failures, seed);
}

/// Where the real tool overlooks an error that we report.
fn tolerated(ours: &Run, real: &Run) -> bool {
    let overlooked = [
        // `device }`
        "'TK_STRING | minor' expected",
        // A host that is named twice in a mesh.
        "is in this mesh twice",
        "both ends of this connection are",
        "are connected more than once",
        // A value that is a brace or a bracket.
        "'an option value | ;' expected",
    ];
    // A number without a value is passed on as "yes", over which it stumbles only when comparing.
    let stumbles = real.exit == Some(20) && real.stderr.contains("yes is not a valid number");
    // Without a handler's section the rest of the block may make it fail later, by having no resources.
    stumbles || real.exit != Some(10) && overlooked.iter().any(|o| ours.stderr.contains(o))
}

/// Damages the main file of each configuration; verdict and exit code must be the same.
fn compare_damaged(test: &str, part: u64, cases: usize, next: fn(&mut Random) -> forms::Files) {
    let Some(real) = real_tool() else { return };
    for seed in seeds(test) {
        damaged_with(&real, &seed, part, cases, next);
    }
}

fn damaged_with(
    real: &Real,
    seed: &Seed,
    part: u64,
    cases: usize,
    next: fn(&mut Random) -> forms::Files,
) {
    let r = &mut seed.random(part);
    let (mut refused, mut crashed) = (0, 0);
    let mut failures = Vec::new();
    for case in 0..cases {
        let dir = tempfile::tempdir().unwrap();
        let mut files = next(r).for_release(real.release);
        files.0[0].1 = damage::damage(r, &files.0[0].1);
        let file = write(dir.path(), &files);
        for args in [COMMANDS[2], COMMANDS[0]] {
            let (a, b) = both(real, &file, args);
            refused += usize::from(b.exit != Some(0));
            if b.exit.is_none() {
                crashed += 1;
                continue;
            }
            if a.exit != b.exit && !tolerated(&a, &b) && failures.len() < 12 {
                failures.push(format!(
                    "case {case} {args:?}: ours {:?}, real {:?}\nours: {}\nreal: {}\n{}",
                    a.exit,
                    b.exit,
                    a.stderr,
                    b.stderr,
                    files.show()
                ));
            }
        }
    }
    eprintln!(
        "{refused} of {} refused, the real tool crashed {crashed} times",
        cases * 2
    );
    assert!(
        refused > cases / 3,
        "too few invalid configurations: {refused}"
    );
    verdict(&failures, seed);
}

#[test]
fn damaged_configurations() {
    compare_damaged("damaged_configurations", 0x5eed_0002, cases(300), |r| {
        forms::Files(vec![(
            "damaged.conf".to_owned(),
            generate::configuration(r),
        )])
    });
}

#[test]
fn damaged_forms() {
    compare_damaged(
        "damaged_forms",
        0x5eed_0005,
        cases(200),
        forms::configuration,
    );
}
