//! The examples of the configuration language: what `up` does with the valid ones, exit codes of the others.

use super::{conf_files, drbdadm};

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
