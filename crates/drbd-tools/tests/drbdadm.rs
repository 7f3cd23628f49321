//! `drbdadm` against recorded transcripts of the real tool.

#![allow(clippy::unwrap_used, clippy::panic)] // test code

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../drbd-config/tests/data")
        .join(path)
}

#[derive(Debug, PartialEq, Eq)]
struct Output {
    stdout: Vec<String>,
    stderr: Vec<String>,
    exit: i32,
}

/// Runs our `drbdadm` as if it had been found in `PATH`.
fn drbdadm(node: &str, args: &[&str], environment: &[(&str, &Path)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drbdadm"));
    command.arg0("drbdadm").args(args).stdin(Stdio::null());
    command
        .env("__DRBD_NODE__", node)
        .env("DRBD_DRIVER_VERSION_OVERRIDE", "9.2.14");
    for (name, value) in environment {
        command.env(name, value);
    }
    let output = command.output().unwrap();
    let lines = |bytes: &[u8]| -> Vec<String> {
        String::from_utf8(bytes.to_vec())
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    };
    let pretending = ["", "   found __DRBD_NODE__ in environment"];
    Output {
        stdout: lines(&output.stdout),
        stderr: lines(&output.stderr)
            .into_iter()
            .filter(|l| !pretending.contains(&&**l) && !l.starts_with("   PRETENDING that I am"))
            .collect(),
        exit: output.status.code().unwrap(),
    }
}

fn conf_files(dir: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(data(dir))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "conf"))
        .collect();
    files.sort();
    files
}

/// `up -d all` of every valid example.
#[test]
fn up_of_examples() {
    let mut failures = Vec::new();
    let mut compared = 0;
    for (dir, newer) in [("valid", false), ("newer", true)] {
        for file in conf_files(dir) {
            let floating = file.ends_with("16-floating.conf");
            let node = if floating { "10.1.1.31" } else { "alpha" };
            for (extension, stacked) in [("up", false), ("up-stacked", true)] {
                let expected = file.with_extension(extension);
                let Ok(expected) = std::fs::read_to_string(&expected) else {
                    continue;
                };
                let mut args = vec!["-d", "-c", file.to_str().unwrap()];
                args.extend(stacked.then_some("-S"));
                args.extend(["up", "all"]);
                let output = drbdadm(node, &args, &[]);
                let mut ours = output.stdout.clone();
                if !newer {
                    // Recorded with 9.22, which did not repair meta data yet.
                    ours.retain(|l| !l.ends_with(" repair-md"));
                }
                let theirs: Vec<String> = expected
                    .lines()
                    .map(|l| {
                        // Made-up names since 9.23.
                        let l = l.replace("--_name=10.1.1.32:", "--_name=10.1.1.32_");
                        if floating { l } else { l.to_owned() }
                    })
                    .collect();
                compared += 1;
                if ours != theirs || output.exit != 0 {
                    let at = ours.iter().zip(&theirs).position(|(a, b)| a != b);
                    let at = at.unwrap_or(ours.len().min(theirs.len()));
                    failures.push(format!(
                        "{} exit {}\n ours   {:?}\n theirs {:?}\n{:?}",
                        file.display(),
                        output.exit,
                        ours.get(at),
                        theirs.get(at),
                        output.stderr
                    ));
                }
            }
        }
    }
    assert!(compared > 35, "only {compared} examples");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Exit codes of invalid examples.
#[test]
fn invalid_examples() {
    let mut failures = Vec::new();
    for file in conf_files("invalid") {
        let rc = std::fs::read_to_string(file.with_extension("rc")).unwrap();
        let code = |what: &str| -> i32 {
            let line = rc.lines().find(|l| l.starts_with(what)).unwrap();
            line.split_whitespace().last().unwrap().parse().unwrap()
        };
        let name = file.to_str().unwrap();
        for (what, args) in [
            ("dump", vec!["-c", name, "dump", "all"]),
            ("up", vec!["-d", "-c", name, "up", "all"]),
        ] {
            let output = drbdadm("alpha", &args, &[]);
            if output.exit != code(what) {
                failures.push(format!("{name} {what}: {output:?}, not {}", code(what)));
            }
            if output.exit != 0 && output.stderr.is_empty() {
                failures.push(format!("{name} {what}: no message"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// One command of a transcript with what was recorded.
struct Step {
    args: Vec<String>,
    expected: Output,
}

fn transcript(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("$ drbdadm ") {
            steps.push(Step {
                args: command.split_whitespace().map(str::to_owned).collect(),
                expected: Output {
                    stdout: Vec::new(),
                    stderr: Vec::new(),
                    exit: 0,
                },
            });
        } else if let Some(step) = steps.last_mut() {
            if let Some(line) = line.strip_prefix("  ") {
                step.expected.stdout.push(line.to_owned());
            } else if let Some(line) = line.strip_prefix("! ") {
                // A defect of the recorded version adds this line.
                if !line.contains("unexpected ctx_by_") {
                    step.expected.stderr.push(line.to_owned());
                }
            } else if let Some(code) = line.strip_prefix("= ") {
                step.expected.exit = code.parse().unwrap();
            }
        }
    }
    steps
}

/// Where we differ on purpose.
fn adapt(step: &mut Step) {
    let command = step.args.join(" ");
    for line in &mut step.expected.stdout {
        // drbdsetup takes a minor only; the reference's extra word makes it fail.
        *line = line.replace("drbdsetup outdate r0 ", "drbdsetup outdate ");
        // disk-options does not take a size.
        if line.starts_with("drbdsetup disk-options ") {
            *line = line.replace(" --size=10G", "");
        }
        // A warning that lost its line end.
        if let Some(at) = line.find("/dev/consoledrbdsetup ") {
            *line = line.split_off(at + "/dev/console".len());
        }
        if let Some(rest) = line.strip_prefix("/etc/drbd.d/commands.conf:") {
            let here = std::fs::canonicalize(data("commands/commands.conf")).unwrap();
            *line = format!("{}:{rest}", here.display());
        }
    }
    if command.contains("wait-con-int") {
        step.expected.stderr.clear();
    }
    for line in &mut step.expected.stderr {
        // Unknown anywhere or only for this command: we always say where help is.
        if command.contains("--nosuchoption") {
            *line = line.replace("try 'drbdadm help up'", "try 'drbdadm help'");
        }
    }
}

#[test]
fn recorded_commands() {
    let conf = data("commands/commands.conf");
    let text = std::fs::read_to_string(data("commands/commands-9.34.txt")).unwrap();
    let steps = transcript(&text);
    assert!(steps.len() > 150, "only {} commands", steps.len());
    let mut failures = Vec::new();
    for mut step in steps {
        adapt(&mut step);
        // The running state is asked for; there is none.
        let empty = data("adjust/nothing.show");
        let mut args = vec!["-c", conf.to_str().unwrap()];
        args.extend(step.args.iter().map(String::as_str));
        let output = drbdadm("alpha", &args, &[("FAKE_DRBDSETUP_SHOW", &empty)]);
        let usage = step.expected.stdout.iter().any(|l| l.contains("USAGE:"));
        let same = if usage {
            output.exit == step.expected.exit
                && output.stdout.iter().any(|l| l.contains("USAGE:"))
                && output.stdout.last() == step.expected.stdout.last()
        } else {
            output == step.expected
        };
        if !same {
            failures.push(format!(
                "$ drbdadm {}\n ours   {output:?}\n theirs {:?}",
                step.args.join(" "),
                step.expected
            ));
        }
    }
    assert!(
        failures.is_empty(),
        "{} differ\n{}",
        failures.len(),
        failures.join("\n")
    );
}

/// `adjust` from every recorded running state.
#[test]
fn recorded_adjustments() {
    let conf = data("adjust/adjust.conf");
    let text = std::fs::read_to_string(data("adjust/adjust-9.34.txt")).unwrap();
    let mut steps: Vec<(String, Vec<String>)> = Vec::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            steps.push((title.to_owned(), Vec::new()));
        } else if let (Some(command), Some(step)) = (line.strip_prefix("  "), steps.last_mut()) {
            step.1.push(command.to_owned());
        }
    }
    assert!(steps.len() > 30);
    let mut failures = Vec::new();
    for (title, theirs) in steps {
        let (state, option) = title.split_once(':').unwrap();
        let show = data(&format!("adjust/{state}.show"));
        let mut args = vec!["-d", "-c", conf.to_str().unwrap(), "adjust"];
        args.extend(option.split_whitespace());
        args.push("r0");
        let output = drbdadm("alpha", &args, &[("FAKE_DRBDSETUP_SHOW", &show)]);
        let (mut ours, mut theirs) = (output.stdout.clone(), theirs);
        if state == "minor" {
            // The reference creates the new minor before it deletes the old one, which fails.
            ours.sort();
            theirs.sort();
        }
        if ours != theirs || output.exit != 0 {
            failures.push(format!(
                "{title}\n ours\n  {}\n theirs\n  {}\n{:?}",
                ours.join("\n  "),
                theirs.join("\n  "),
                output.stderr
            ));
        }
    }
    assert!(
        failures.is_empty(),
        "{} differ\n{}",
        failures.len(),
        failures.join("\n")
    );
}

/// Helpers that note how they were called and do what a file beside them says.
struct Fakes(tempfile::TempDir);

impl Fakes {
    fn new(exit_codes: &[(&str, i32)]) -> Fakes {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let cases: String = exit_codes
            .iter()
            .map(|(pattern, code)| format!("  *\"{pattern}\"*) exit {code};;\n"))
            .collect();
        for name in ["drbdsetup", "drbdmeta"] {
            let path = dir.path().join(name);
            let log = dir.path().join("log");
            let script = format!(
                "#!/bin/sh\nline=\"{name} $*\"\necho \"$line\" >> {}\ncase \"$line\" in\n{cases}esac\nexit 0\n",
                log.display()
            );
            std::fs::write(&path, script).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        Fakes(dir)
    }

    fn run(&self, args: &[&str]) -> (Output, Vec<String>) {
        let place = |name: &str| self.0.path().join(name).display().to_string();
        let (setup, meta) = (place("drbdsetup"), place("drbdmeta"));
        let conf = data("commands/commands.conf").display().to_string();
        let mut all = vec!["-c", &conf, "-s", &setup, "-m", &meta];
        all.extend(args);
        let output = drbdadm("alpha", &all, &[]);
        let log = std::fs::read_to_string(self.0.path().join("log")).unwrap_or_default();
        (output, log.lines().map(str::to_owned).collect())
    }
}

#[test]
fn commands_are_run_in_order() {
    let (output, log) = Fakes::new(&[]).run(&["up", "low"]);
    assert_eq!(output.exit, 0, "{output:?}");
    assert_eq!(
        log,
        [
            "drbdsetup new-resource low 0",
            "drbdsetup new-minor low 5 0",
            "drbdsetup new-peer low 1 --_name=bravo",
            "drbdsetup new-path low 1 ipv4:10.1.1.31:7003 ipv4:10.1.1.32:7003",
            "drbdmeta 5 v09 /dev/vg0/low internal repair-md",
            "drbdmeta 5 v09 /dev/vg0/low internal apply-al",
            "drbdsetup attach 5 /dev/vg0/low /dev/vg0/low internal",
            "drbdsetup connect low 1",
        ]
    );
}

#[test]
fn a_resource_that_fails_is_left_alone_and_the_run_ends() {
    let (output, log) = Fakes::new(&[("new-minor r0 1", 10)]).run(&["up", "r0", "low"]);
    assert_eq!(output.exit, 1, "{output:?}");
    // The stage is finished for the other resource, then nothing follows.
    assert!(
        log.contains(&"drbdsetup new-minor low 5 0".to_owned()),
        "{log:?}"
    );
    assert!(!log.iter().any(|l| l.contains("new-minor r0 2")), "{log:?}");
    assert!(!log.iter().any(|l| l.contains("new-peer")), "{log:?}");
    assert!(
        output
            .stderr
            .iter()
            .any(|l| l.contains("terminated with exit code 10"))
    );
    assert!(
        output
            .stderr
            .iter()
            .any(|l| l == "drbdadm: new-minor r0: skipped due to earlier error")
    );
}

#[test]
fn exit_codes_and_fallbacks() {
    let (output, _) = Fakes::new(&[("primary", 17)]).run(&["primary", "r0"]);
    assert_eq!(output.exit, 17);
    // The device is not there: the meta data is asked.
    let (output, log) = Fakes::new(&[("dstate 1", 10)]).run(&["dstate", "r0/0"]);
    assert_eq!(output.exit, 0);
    assert_eq!(
        log,
        [
            "drbdsetup dstate 1",
            "drbdmeta 1 v09 /dev/vg0/r0 internal dstate"
        ],
    );
    // A refusal is final.
    let (output, log) = Fakes::new(&[("invalidate 1", 11)]).run(&["invalidate", "r0/0"]);
    assert_eq!((output.exit, log.len()), (11, 1), "{output:?}");
    // Volumes after the first failure are not tried.
    let (output, log) = Fakes::new(&[("detach 1", 11)]).run(&["detach", "r0"]);
    assert_eq!((output.exit, log.len()), (11, 1), "{output:?}");
    // 20 ends everything.
    let (output, log) = Fakes::new(&[("down r0", 20)]).run(&["down", "all"]);
    assert_eq!((output.exit, log.len()), (20, 1), "{output:?}");
    let (output, log) = Fakes::new(&[("down r0", 11)]).run(&["down", "all"]);
    assert_eq!((output.exit, log.len()), (11, 3), "{output:?}");
}

#[test]
fn a_helper_that_hangs_is_stopped() {
    let fakes = Fakes::new(&[]);
    std::fs::write(
        fakes.0.path().join("drbdsetup"),
        "#!/bin/sh\nexec sleep 60\n",
    )
    .unwrap();
    let conf = fakes.0.path().join("x.conf");
    let text = std::fs::read_to_string(data("commands/commands.conf")).unwrap();
    let text = text.replace(
        "disable-ip-verification;",
        "disable-ip-verification; cmd-timeout-short 1;",
    );
    std::fs::write(&conf, text).unwrap();
    let start = std::time::Instant::now();
    let (output, _) = fakes.run(&["-c", conf.to_str().unwrap(), "role", "r0"]);
    assert_eq!(output.exit, 20, "{output:?}");
    assert!(start.elapsed().as_secs() < 20);
    assert!(
        output
            .stderr
            .iter()
            .any(|l| l.contains("did not terminate within 1 seconds"))
    );
}

#[test]
fn helpers_are_those_beside_the_program() {
    let fakes = Fakes::new(&[]);
    let program = fakes.0.path().join("drbdadm");
    std::fs::copy(env!("CARGO_BIN_EXE_drbdadm"), &program).unwrap();
    let output = Command::new(&program)
        .args([
            "-c",
            data("commands/commands.conf").to_str().unwrap(),
            "role",
            "r0",
        ])
        .env("__DRBD_NODE__", "alpha")
        .env("PATH", "/nowhere")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let log = std::fs::read_to_string(fakes.0.path().join("log")).unwrap();
    assert_eq!(log, "drbdsetup role r0\n");
    // Dry runs show where they are if the program was called that way.
    let output = Command::new(&program)
        .args([
            "-d",
            "-c",
            data("commands/commands.conf").to_str().unwrap(),
            "role",
            "r0",
        ])
        .env("__DRBD_NODE__", "alpha")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        shown,
        format!("{}/drbdsetup role r0\n", fakes.0.path().display())
    );
}

/// Two links that must be interrupted: the second one only when the first is back.
#[test]
fn adjust_interrupts_one_link_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let show = dir.path().join("show");
    let text = std::fs::read_to_string(data("adjust/same.show")).unwrap();
    let text = text
        .replace("_cstate Connecting", "_cstate Connected")
        .replace("_remote_host ipv4 10.1.1.", "_remote_host ipv4 10.1.2.");
    std::fs::write(&show, text).unwrap();
    let conf = data("adjust/adjust.conf");
    let args = ["-d", "-c", conf.to_str().unwrap(), "adjust", "r0"];
    let output = drbdadm("alpha", &args, &[("FAKE_DRBDSETUP_SHOW", &show)]);
    assert_eq!(
        output.stdout,
        [
            "drbdsetup disconnect r0 1",
            "drbdsetup del-path r0 1 ipv4:10.1.1.31:7000 ipv4:10.1.2.32:7000",
            "drbdsetup new-path r0 1 ipv4:10.1.1.31:7000 ipv4:10.1.1.32:7000",
            "drbdsetup connect r0 1",
            "drbdsetup wait-connect-connection r0 1 --wfc-timeout 1 --degr-wfc-timeout 1 --outdated-wfc-timeout 1",
            "drbdsetup disconnect r0 2",
            "drbdsetup del-path r0 2 ipv4:10.1.1.31:7000 ipv4:10.1.2.33:7000",
            "drbdsetup new-path r0 2 ipv4:10.1.1.31:7000 ipv4:10.1.1.33:7000",
            "drbdsetup connect r0 2",
        ]
    );
}

/// What a newer node reports as unknown is not sent to it.
#[test]
fn adjust_leaves_out_what_the_node_does_not_know() {
    let dir = tempfile::tempdir().unwrap();
    let show = dir.path().join("show");
    let text = std::fs::read_to_string(data("adjust/net-option.show")).unwrap();
    let text = text.replacen(
        "        net {\n",
        "        net {\n            _unknown verify-alg;\n",
        1,
    );
    let text = text.replacen("            verify-alg      \t\"crc32c\";\n", "", 1);
    std::fs::write(&show, text).unwrap();
    let conf = data("adjust/adjust.conf");
    let args = ["-d", "-c", conf.to_str().unwrap(), "adjust", "r0"];
    let output = drbdadm("alpha", &args, &[("FAKE_DRBDSETUP_SHOW", &show)]);
    assert_eq!(
        output.stdout,
        ["drbdsetup net-options r0 1 --set-defaults --_name=bravo --max-buffers=4000"],
        "{output:?}"
    );
}

#[test]
fn general_options() {
    let conf = data("commands/commands.conf");
    let conf = conf.to_str().unwrap();
    let version = drbdadm("alpha", &["--version"], &[]);
    assert_eq!(version.exit, 0);
    for key in [
        "DRBDADM_BUILDTAG=",
        "DRBDADM_API_VERSION=2",
        "DRBD_KERNEL_VERSION_CODE=0x09020e",
        "DRBD_KERNEL_VERSION=9.2.14",
        "DRBDADM_VERSION_CODE=0x092200",
        "DRBDADM_VERSION=9.34.0",
    ] {
        assert!(
            version.stdout.iter().any(|l| l.starts_with(key)),
            "{key} in {version:?}"
        );
    }
    // The idiom of configuration managers.
    let args = ["-c", conf, "--config-to-test", conf, "sh-nop"];
    assert_eq!(drbdadm("alpha", &args, &[]).exit, 10);
    let low = data("valid/28-not-my-resource.conf");
    let args = ["-c", low.to_str().unwrap(), "-E", conf, "sh-nop"];
    assert_eq!(drbdadm("alpha", &args, &[]).exit, 0);
    assert_eq!(
        drbdadm("alpha", &["-c", conf, "-t", conf, "up", "r0"], &[]).exit,
        1
    );
    // Prefixes of long options, letters together, values in the next word.
    let args = [
        "-dc",
        conf,
        "new-resource",
        "--on-no-data",
        "suspend-io",
        "thin",
    ];
    let output = drbdadm("alpha", &args, &[]);
    assert_eq!(
        output.stdout,
        ["drbdsetup new-resource thin 0 --on-no-data-accessible=suspend-io"]
    );
    let output = drbdadm(
        "alpha",
        &["-d", "-c", conf, "-n", "name", "role", "r0"],
        &[],
    );
    assert_eq!(output.stdout, ["name=r0", "drbdsetup role r0"]);
    assert_eq!(drbdadm("alpha", &["help"], &[]).exit, 1);
    assert_eq!(drbdadm("alpha", &["help", "up"], &[]).exit, 0);
    assert_eq!(drbdadm("alpha", &[], &[]).exit, 1);
    let hidden = drbdadm("alpha", &["hidden-commands"], &[]);
    assert!(hidden.stdout.iter().any(|l| l.contains("split-brain")));
    assert_eq!(
        drbdadm("alpha", &["-c", "/nowhere/x.conf", "sh-nop"], &[]).exit,
        20
    );
    assert_eq!(drbdadm("alpha", &["-c", "/", "sh-nop"], &[]).exit, 20);
}

#[test]
fn selectors_that_select_nothing() {
    let conf = data("commands/commands.conf");
    let conf = conf.to_str().unwrap();
    for (args, message, exit) in [
        (
            vec!["up", "all"],
            "WARN: no normal resources defined for this host (nobody)!?",
            1,
        ),
        (
            vec!["-S", "up", "all"],
            "WARN: nothing stacked for this host (nobody)",
            1,
        ),
        (
            vec!["up", "r0"],
            "'r0' not defined in your config (for this host).",
            1,
        ),
    ] {
        let mut all = vec!["-d", "-c", conf];
        all.extend(args);
        let output = drbdadm("nobody", &all, &[]);
        assert_eq!(output.exit, exit);
        assert!(
            output.stderr.iter().any(|l| l.starts_with(message)),
            "{output:?}"
        );
    }
    let output = drbdadm("alpha", &["-d", "-c", conf, "connect", "r0:alpha"], &[]);
    assert_eq!(output.exit, 1);
    assert_eq!(
        output.stderr,
        ["Host name 'alpha' (from 'r0:alpha') is not a peer, but the local node"]
    );
}

#[test]
fn handlers_get_their_environment() {
    let dir = tempfile::tempdir().unwrap();
    let conf = dir.path().join("h.conf");
    let text = std::fs::read_to_string(data("commands/commands.conf")).unwrap();
    let text = text.replace("\"exit 3\"", "\"env | grep ^DRBD_ | sort; exit 4\"");
    std::fs::write(&conf, text).unwrap();
    let args = ["-c", conf.to_str().unwrap(), "split-brain", "r0"];
    let stale = Path::new("old");
    let output = drbdadm(
        "alpha",
        &args,
        &[("DRBD_NODE_ID_7", stale), ("DRBD_CSTATE", stale)],
    );
    assert_eq!(output.exit, 4, "{output:?}");
    let real = std::fs::canonicalize(&conf).unwrap();
    let conf_line = format!("DRBD_CONF={}", real.display());
    for line in [
        &*conf_line,
        "DRBD_CSTATE=old",
        "DRBD_LL_DISK=/dev/vg0/r0 /dev/vg0/r0b",
        "DRBD_MINOR=1 2",
        "DRBD_MY_NODE_ID=0",
        "DRBD_NODE_ID_0=alpha",
        "DRBD_NODE_ID_2=charlie",
        "DRBD_RESOURCE=r0",
        "DRBD_VOLUME=0 1",
    ] {
        assert!(
            output.stdout.iter().any(|l| l == line),
            "{line} in {output:?}"
        );
    }
    assert!(
        !output.stdout.iter().any(|l| l.contains("NODE_ID_7")),
        "{output:?}"
    );
}

/// A device gets a number when it gets meta data, and keeps it when that is made anew.
#[test]
fn create_md_numbers_the_device() {
    const MINOR: &str = "1048571";
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let disk = dir.path().join("disk");
    std::fs::File::create(&disk)
        .unwrap()
        .set_len(64 << 20)
        .unwrap();
    let conf = dir.path().join("drbd.conf");
    let text = format!(
        "resource r0 {{ device minor {MINOR}; disk {};
         on alpha {{ node-id 0; address 10.0.0.1:7000; }}
         on bravo {{ node-id 1; address 10.0.0.2:7000; }} }}",
        disk.display()
    );
    std::fs::write(&conf, text).unwrap();
    let conf = conf.to_str().unwrap();
    let uuid = || {
        let output = Command::new(env!("CARGO_BIN_EXE_drbdmeta"))
            .args(["--force", "-", "v09", disk.to_str().unwrap(), "internal"])
            .arg("read-dev-uuid")
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let dry = drbdadm("alpha", &["-d", "-c", conf, "create-md", "r0"], &[]);
    assert_eq!(dry.stdout.len(), 1, "{dry:?}");
    let meta = env!("CARGO_BIN_EXE_drbdmeta");
    let create = ["-m", meta, "-c", conf, "--", "--force", "create-md", "r0"];
    let made = drbdadm("alpha", &create, &[]);
    if made
        .stderr
        .iter()
        .any(|line| line.contains("Permission denied"))
    {
        eprintln!("*** NOT TESTED: no lock file can be made, which needs root ***");
        return;
    }
    assert_eq!(made.exit, 0, "{made:?}");
    let first = uuid();
    assert_eq!(first.len(), 17, "{first}");
    assert_ne!(first, "0000000000000000\n");
    assert_eq!(drbdadm("alpha", &create, &[]).exit, 0);
    assert_eq!(uuid(), first);
    for file in ["/var/lock/drbd-147-", "/run/drbd/lock/drbd-147-"] {
        let _ = std::fs::remove_file(format!("{file}{MINOR}"));
    }
    let _ = std::fs::remove_file(format!("/var/lib/drbd/drbd-minor-{MINOR}.lkbd"));
}
