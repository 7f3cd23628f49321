//! The recorded examples: dumps must equal what the real tool printed, invalid files must be
//! refused with its exit code.

#![allow(clippy::unwrap_used, clippy::panic)] // test code

use std::path::{Path, PathBuf};

use drbd_config::{Config, Environment, Input, Parser, dump, dump_xml, expand};

fn data(dir: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(dir)
}

fn environment(file: &Path) -> Environment {
    let floating = file.file_stem().is_some_and(|s| s == "16-floating");
    Environment {
        addresses: Some(Vec::new()),
        driver_version: Some([9, 2, 14]),
        ..Environment::named(if floating { "10.1.1.31" } else { "alpha" })
    }
}

fn files(dir: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(data(dir))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "conf"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no examples in {dir}");
    files
}

struct Run {
    config: Config,
    output: String,
    errors: String,
    exit: u8,
}

fn run(file: &Path, verbose: bool) -> Run {
    run_to(
        file,
        verbose,
        if verbose {
            expand::Extent::All
        } else {
            expand::Extent::Written
        },
    )
}

fn run_to(file: &Path, verbose: bool, extent: expand::Extent) -> Run {
    let environment = environment(file);
    let mut parser = Parser::new(&environment);
    parser.read(Input::File(file.to_path_buf()));
    let parsed = parser.finish();
    let mut config = parsed.config;
    let mut found = parsed.diagnostics;
    if !expand::failed(&found) {
        found.extend(expand::expand(&mut config, &environment, extent));
    }
    let first = found
        .iter()
        .find(|d| d.severity == drbd_config::Severity::Error);
    Run {
        exit: first.map_or(0, |d| d.exit),
        errors: found.iter().map(|d| d.render(&config.sources)).collect(),
        output: dump::config(&config, &environment, verbose),
        config,
    }
}

/// The places where the dump differs on purpose: see the module `dump`.
fn as_we_print(file: &Path, expected: &str) -> String {
    let mut out = String::new();
    for line in expected.lines() {
        if line == ";" {
            continue;
        }
        let mut line = line.to_owned();
        if file.ends_with("09-lexical.conf") {
            for (theirs, ours) in [
                ("on host alpha {", "on \"host\" alpha {"),
                ("on on {", "on \"on\" {"),
                ("host host  ", "host \"host\"  "),
                ("host on  ", "host \"on\"  "),
            ] {
                line = line.replace(theirs, ours);
            }
        }
        if file.ends_with("16-floating.conf") {
            // Names of floating hosts since 9.23.
            for word in ["; # on ", "host "] {
                for host in ["10.1.1.31", "10.1.1.32"] {
                    line = line.replace(&format!("{word}{host}:"), &format!("{word}{host}_"));
                }
            }
        }
        out.push_str(&line);
        out.push('\n');
    }
    out
}

/// We print the volumes of stacked sections in plain dumps as well: without them the result could
/// not be read back.
fn without_stacked_volumes(text: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for line in text.lines() {
        if line.starts_with("    stacked-on-top-of ") {
            inside = true;
        } else if line == "    }" {
            inside = false;
        }
        let kept = [
            "    stacked-on-top-of ",
            "        # on ",
            "        node-id ",
            "        address ",
        ];
        if !inside || kept.iter().any(|k| line.starts_with(k)) {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

/// With the place that the examples were recorded at. Words of more than 80 bytes are quoted, and here a path may be one.
fn as_below_etc(output: &str, here: &Path) -> String {
    let output = output.replace(&*here.to_string_lossy(), "/etc/drbd.d");
    let mut parts = output.split("\"/etc/drbd.d");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str("/etc/drbd.d");
        out.push_str(&part.replacen('"', "", 1));
    }
    out
}

fn first_difference(ours: &str, theirs: &str) -> String {
    for (i, pair) in ours.lines().zip(theirs.lines()).enumerate() {
        if pair.0 != pair.1 {
            return format!(
                "line {}:\n ours   {:?}\n theirs {:?}",
                i + 1,
                pair.0,
                pair.1
            );
        }
    }
    format!(
        "lengths: {} and {} lines",
        ours.lines().count(),
        theirs.lines().count()
    )
}

fn compare(dir: &str, extension: &str, verbose: bool) {
    let mut failures = Vec::new();
    let mut compared = 0;
    for file in files(dir) {
        let expected = file.with_extension(extension);
        if !expected.exists() {
            continue;
        }
        compared += 1;
        let expected = std::fs::read_to_string(expected).unwrap();
        let run = run(&file, verbose);
        let here = std::fs::canonicalize(data(dir)).unwrap();
        let mut ours = as_below_etc(&run.output, &here);
        if !verbose {
            ours = without_stacked_volumes(&ours);
        }
        let theirs = as_we_print(&file, &expected);
        if run.exit != 0 || ours != theirs {
            failures.push(format!(
                "{}: exit {}, {}\n{}",
                file.display(),
                run.exit,
                first_difference(&ours, &theirs),
                run.errors
            ));
        }
    }
    assert!(compared > 5, "only {compared} examples in {dir}");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn dumps_of_valid_files() {
    compare("valid", "dump", false);
}

#[test]
fn expanded_dumps_of_valid_files() {
    compare("valid", "expanded", true);
}

#[test]
fn dumps_of_newer_files() {
    compare("newer", "dump", false);
}

#[test]
fn expanded_dumps_of_newer_files() {
    compare("newer", "expanded", true);
}

#[test]
fn invalid_files() {
    let mut failures = Vec::new();
    for file in files("invalid") {
        let rc = std::fs::read_to_string(file.with_extension("rc")).unwrap();
        let code = |what: &str| -> u8 {
            let line = rc.lines().find(|l| l.starts_with(what)).unwrap();
            line.split_whitespace().last().unwrap().parse().unwrap()
        };
        let stem = file.file_stem().unwrap().to_string_lossy().into_owned();
        for (command, verbose) in [("dump", false), ("up", true)] {
            let run = run(&file, verbose);
            eprintln!("=== {stem} {command}\n{}", run.errors);
            let mut wanted = code(command);
            // These are found by checks that the tool makes later.
            if stem.starts_with("e42") || (stem.starts_with("e43") && verbose) {
                wanted = 0;
            }
            // Every error names the file and a line, and shows it; a bad name only says so.
            let named =
                run.errors.contains(&format!("{stem}.conf:")) && run.errors.contains(" --> ");
            if run.exit != 0 && !named && !stem.starts_with("e50") {
                failures.push(format!("{stem} {command}: no place in {}", run.errors));
            }
            if run.exit != wanted {
                failures.push(format!(
                    "{stem} {command}: exit {} instead of {wanted}",
                    run.exit
                ));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// What was dumped reads back as the same configuration.
#[test]
fn round_trip() {
    for dir in ["valid", "newer"] {
        for file in files(dir) {
            // `NAME;` of an option that a running node does not know means yes in a file.
            if file.ends_with("n08-unknown-form.conf") {
                continue;
            }
            let environment = environment(&file);
            let first = run(&file, false).output;
            let mut parser = Parser::new(&environment);
            parser.read(Input::Text {
                name: "again".to_owned(),
                text: first.clone().into_bytes(),
            });
            let parsed = parser.finish();
            let errors: String = parsed
                .diagnostics
                .iter()
                .map(|d| d.render(&parsed.config.sources))
                .collect();
            assert!(
                !expand::failed(&parsed.diagnostics),
                "{}\n{errors}\n{first}",
                file.display()
            );
            let mut config = parsed.config;
            let found = expand::expand(&mut config, &environment, expand::Extent::Written);
            let errors: String = found.iter().map(|d| d.render(&config.sources)).collect();
            assert!(!expand::failed(&found), "{}\n{errors}", file.display());
            let second = dump::config(&config, &environment, false);
            let strip = |s: &str| -> String {
                s.lines()
                    .filter(|l| !l.starts_with("# "))
                    .map(|l| format!("{l}\n"))
                    .collect()
            };
            assert_eq!(strip(&first), strip(&second), "{}", file.display());
        }
    }
}

/// The reference's message, the line with the place underlined, and advice.
#[test]
fn a_diagnostic_as_it_is_printed() {
    let text = "resource r0 {\n\tnet { ping-intervall 10; protocol D; }\n}\n";
    let environment = Environment::named("alpha");
    let show = |text: &str| {
        let mut parser = Parser::new(&environment);
        let text = text.as_bytes().to_vec();
        parser.read(Input::Text {
            name: "x.conf".to_owned(),
            text,
        });
        let parsed = parser.finish();
        parsed
            .diagnostics
            .iter()
            .map(|d| d.render(&parsed.config.sources))
            .collect::<String>()
    };
    assert_eq!(
        show(text),
        "x.conf:2: Parse error: 'an option keyword' expected,\n\
         \tbut got 'ping-intervall'\n  \
         --> x.conf:2:8\n \
         2 |  net { ping-intervall 10; protocol D; }\n   \
         |        ^^^^^^^^^^^^^^\n  \
         = help: did you mean 'ping-int'?\n"
    );
    assert!(show("resource on { }").contains("quote it to use it as a name: \"on\""));
    assert!(show("resource r {\nnet { timeout 0; }\n}").contains("timeout takes 1 to 600"));
    let twice = "resource a { }\nresource b { }\nresource a { }";
    let shown = show(twice);
    assert!(shown.starts_with("x.conf:3: conflicting use of resource section 'a' ...\n"));
    assert!(
        shown.contains("x.conf:1: resource section 'a' first used here.\n"),
        "{shown}"
    );
}

#[test]
fn xml_of_valid_files() {
    let mut failures = Vec::new();
    let mut compared = 0;
    for file in files("valid") {
        let Ok(expected) = std::fs::read_to_string(file.with_extension("xml")) else {
            continue;
        };
        compared += 1;
        // Recorded without inheritance, but with all connections.
        let config = run_to(&file, false, expand::Extent::Structure).config;
        let here = std::fs::canonicalize(data("valid")).unwrap();
        let ours = dump_xml::config(&config).replace(&*here.to_string_lossy(), "/etc/drbd.d");
        // What would not be well-formed or makes no sense is different: see the module.
        let mut theirs = String::new();
        for line in expected.lines() {
            let mut line = line.to_owned();
            if line.contains("family=\"(null)\"") {
                continue;
            }
            if line.trim_start().starts_with("<disk>") {
                line = line.replace("<disk></disk>", "<disk>none</disk>");
            }
            if line.trim_start().starts_with("<template ") {
                line = line.replace("\">", "\"/>");
            }
            if file.ends_with("16-floating.conf") {
                line = line.replace("host name=\"10.1.1.31:", "host name=\"10.1.1.31_");
                line = line.replace("host name=\"10.1.1.32:", "host name=\"10.1.1.32_");
            }
            theirs.push_str(&line);
            theirs.push('\n');
        }
        if ours != theirs {
            failures.push(format!(
                "{}: {}",
                file.display(),
                first_difference(&ours, &theirs)
            ));
        }
    }
    assert!(compared > 20, "only {compared} examples");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// One run reports the errors of several resources; the first one decides about the exit code.
#[test]
fn several_errors_in_one_run() {
    let text = "resource a {\n net { tiemout 3; }\n}\n\
                resource b {\n on alpha { node-id 0 }\n}\n\
                resource c {\n volume 0 { device minor 1; } net { timeout 0; }\n}\n\
                ressource d { }\n";
    let mut parser = Parser::new(&Environment::named("alpha"));
    parser.read(Input::Text {
        name: "x".to_owned(),
        text: text.as_bytes().to_vec(),
    });
    let found = parser.finish().diagnostics;
    let lines: Vec<u32> = found.iter().map(|d| d.span.unwrap().line).collect();
    assert_eq!(lines, [2, 5, 8, 10], "{found:?}");
    assert_eq!(found[0].help.as_deref(), Some("did you mean 'timeout'?"));
}

/// Running configurations as `drbdsetup show` prints them.
#[test]
fn running_configurations() {
    let read = |path: PathBuf| {
        let text = std::fs::read(&path).unwrap();
        let mut parser = Parser::new(&Environment::named("alpha"));
        parser.running();
        parser.read(Input::Text {
            name: "show".to_owned(),
            text,
        });
        let parsed = parser.finish();
        let errors: String = parsed
            .diagnostics
            .iter()
            .map(|d| d.render(&parsed.config.sources))
            .collect();
        assert!(errors.is_empty(), "{}: {errors}", path.display());
        parsed.config
    };
    let config = read(data("running/show.show"));
    let names: Vec<&str> = config.resources.iter().map(|r| &*r.name).collect();
    assert_eq!(names, ["r0", "r1", "r2"]);
    let r0 = config.resource("r0").unwrap();
    assert_eq!(r0.hosts[0].node_id, Some(0));
    assert_eq!(r0.hosts[0].volumes.len(), 2);
    assert_eq!(
        r0.hosts[0].volumes[1].disk_options.text("size"),
        Some("20971520s")
    );
    assert_eq!(r0.connections[0].peer_node_id, Some(1));
    assert_eq!(r0.connections[0].paths.len(), 2);
    assert_eq!(r0.connections[0].cstate.as_deref(), Some("Connected"));
    assert_eq!(r0.connections[0].net.text("_name"), Some("bravo"));
    let defaults = read(data("running/show-defaults.show"));
    assert!(defaults.resources[0].sections.resource.len() > 10);
    let mut states = 0;
    for entry in std::fs::read_dir(data("adjust")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "show") {
            read(path);
            states += 1;
        }
    }
    assert!(states > 20);
}
