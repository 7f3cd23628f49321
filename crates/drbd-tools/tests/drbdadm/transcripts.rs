//! Commands that were recorded from the real tool.

use super::{Output, data, drbdadm};

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
