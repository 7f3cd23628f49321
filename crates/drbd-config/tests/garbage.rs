//! Whatever is thrown at the reader: an error or a configuration, never a panic or a hang.

#![allow(clippy::unwrap_used, clippy::panic)] // test code

use std::time::{Duration, Instant};

use drbd_config::{Environment, Input, Parser, dump, expand};
use proptest::prelude::*;

/// How often; `PROPTEST_CASES` asks for more.
fn cases(usual: u32) -> u32 {
    std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(usual)
}

fn read(text: &[u8]) -> bool {
    read_as(text, false)
}

fn read_as(text: &[u8], running: bool) -> bool {
    let environment = Environment {
        addresses: Some(Vec::new()),
        ..Environment::named("alpha")
    };
    let mut parser = Parser::new(&environment);
    if running {
        parser.running();
    }
    parser.read(Input::Text {
        name: "garbage".to_owned(),
        text: text.to_vec(),
    });
    let parsed = parser.finish();
    let mut config = parsed.config;
    let mut found = parsed.diagnostics;
    if !expand::failed(&found) {
        found.extend(expand::expand(
            &mut config,
            &environment,
            expand::Extent::All,
        ));
    }
    for d in &found {
        let text = d.render(&config.sources);
        assert!(text.ends_with('\n'));
        // Nothing that a terminal would obey.
        let wild = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
        assert!(!text.contains(wild), "{text:?}");
    }
    let _ = dump::config(&config, &environment, true);
    !expand::failed(&found)
}

/// Words of the language, so that random sequences get further than the first token.
fn word() -> impl Strategy<Value = String> {
    let keywords: Vec<String> = drbd_config::lexer::Keyword::ALL
        .iter()
        .map(|(text, _)| (*text).to_owned())
        .chain(
            [
                "{",
                "}",
                ";",
                "[",
                "]",
                ":",
                "alpha",
                "bravo",
                "r0",
                "0",
                "1",
                "7000",
                "10.1.1.31",
                "10.1.1.32",
                "fd00::1",
                "::1",
                "internal",
                "none",
                "protocol",
                "C",
                "timeout",
                "resync-rate",
                "al-extents",
                "10M",
                "\"",
                "\\",
                "#",
                "\n",
                "/dev/drbd1",
                "\"x y\"",
                "\"\x1b[31m\"",
                "9.0.16",
            ]
            .map(str::to_owned),
        )
        .collect();
    prop::sample::select(keywords)
}

const VALID: &str = "global { disable-ip-verification; }
resource r0 {
  options { quorum majority; }
  net { protocol C; cram-hmac-alg sha1; }
  volume 0 { device minor 1; disk /dev/sda7; meta-disk /dev/md [0]; disk { size 1G; } }
  on alpha { node-id 0; address 10.1.1.31:7000; }
  on bravo { node-id 1; address ipv6 [fd00::1]:7000; volume 0 { disk none; } }
  connection { path { host alpha; host bravo port 7001; } volume 0 { disk { c-max-rate 7M; } } }
}
";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(400)))]

    #[test]
    fn bytes(text in prop::collection::vec(any::<u8>(), 0..600)) {
        read(&text);
    }

    #[test]
    fn words(words in prop::collection::vec(word(), 0..120)) {
        read(words.join(" ").as_bytes());
    }

    /// A valid file with some words replaced, removed or inserted.
    #[test]
    fn mutations(edits in prop::collection::vec((any::<prop::sample::Index>(), 0u8..3, word()), 1..4)) {
        let mut tokens: Vec<String> = VALID.split_inclusive([' ', '\n']).map(str::to_owned).collect();
        for (at, kind, word) in edits {
            let at = at.index(tokens.len());
            match kind {
                0 => tokens[at] = format!("{word} "),
                1 => { tokens.remove(at); }
                _ => tokens.insert(at, format!(" {word} ")),
            }
        }
        read(tokens.concat().as_bytes());
    }
}

#[test]
fn the_file_that_is_mutated_is_valid() {
    assert!(read(VALID.as_bytes()));
}

#[test]
fn deep_nesting_and_large_files_end_quickly() {
    let start = Instant::now();
    let deep = format!("skip {}", "{".repeat(3_000_000));
    assert!(!read(deep.as_bytes()));
    let closed = format!("skip {}{}", "{".repeat(1_000_000), "}".repeat(1_000_000));
    assert!(read(closed.as_bytes()));
    assert!(!read(&vec![0u8; 5_000_000]));
    assert!(!read(&vec![b'a'; 5_000_000]));
    assert!(!read(&vec![b'"'; 5_000_000]));
    assert!(read(&vec![b'\n'; 5_000_000]));
    assert!(read(&[b"#", &vec![b'x'; 5_000_000][..]].concat()));
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "took {:?}",
        start.elapsed()
    );
}

#[test]
fn include_loops_and_missing_files() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let main = file(
        "main.conf",
        "include \"main.conf\"; include \"b.res\"; include \"*.res\";",
    );
    file("b.res", "include \"c.res\";");
    file(
        "c.res",
        "include \"b.res\"; include \"main.conf\"; include \"*\";",
    );
    let environment = Environment::named("alpha");
    let run = |path: &std::path::Path| {
        let mut parser = Parser::new(&environment);
        parser.read(Input::File(path.to_path_buf()));
        parser.finish()
    };
    let parsed = run(&main);
    assert!(expand::failed(&parsed.diagnostics));
    assert_eq!(parsed.config.sources.len(), 3);
    // Every file that names itself is an error, with the place; what a pattern finds is not.
    let shown: Vec<String> = parsed
        .diagnostics
        .iter()
        .map(|d| d.render(&parsed.config.sources))
        .map(|d| d.lines().next().unwrap().to_owned())
        .collect();
    let at = |file: &str, what: &str| {
        let file = dir.path().canonicalize().unwrap().join(file);
        let file = file.display();
        format!("{file}:1: '{what}' includes itself, directly or through other files.")
    };
    let expected = [
        at("main.conf", "main.conf"),
        at("c.res", "b.res"),
        at("c.res", "main.conf"),
    ];
    assert_eq!(shown, expected);
    assert!(parsed.diagnostics.iter().all(|d| d.exit == 10));
    let itself = file("itself.inc", "include \"*.inc\";");
    assert!(run(&itself).diagnostics.is_empty());
    // Read twice is not in a loop.
    let twice = file(
        "twice.conf",
        "include \"d.res\"; include \"d.res\"; include \"d*.res\";",
    );
    file("d.res", "# nothing");
    assert!(run(&twice).diagnostics.is_empty());

    let missing = file(
        "missing.conf",
        "\ninclude nowhere.res;\ninclude \"no*where\";",
    );
    let parsed = run(&missing);
    let [error] = &parsed.diagnostics[..] else {
        panic!("{:?}", parsed.diagnostics)
    };
    assert_eq!((error.exit, error.span.unwrap().line), (10, 2));
    assert!(
        error
            .message
            .contains("Failed to open include file 'nowhere.res'.")
    );

    let parsed = run(dir.path());
    assert_eq!(parsed.diagnostics[0].exit, 20);
    let parsed = run(&dir.path().join("absent"));
    assert_eq!(parsed.diagnostics[0].exit, 20);

    // A chain of includes far deeper than any stack.
    for i in 0..3000 {
        file(
            &format!("chain{i}"),
            &format!("include \"chain{}\";", i + 1),
        );
    }
    file("chain3000", "resource");
    let parsed = run(&dir.path().join("chain0"));
    assert_eq!(parsed.diagnostics.len(), 1);
    assert_eq!(parsed.config.sources.len(), 3001);
}

/// The recorded examples with bytes changed, removed, inserted and pieces moved.
#[test]
fn damaged_examples() {
    let data = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let mut files = Vec::new();
    for dir in ["valid", "invalid", "newer", "adjust"] {
        for entry in std::fs::read_dir(data.join(dir)).unwrap() {
            let path = entry.unwrap().path();
            let kind = path.extension().and_then(|e| e.to_str()).unwrap_or("");
            if matches!(kind, "conf" | "show") {
                files.push((std::fs::read(&path).unwrap(), kind == "show"));
            }
        }
    }
    assert!(files.len() > 100);
    let mut state = 0x5eed_u64;
    let mut random = move |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % n.max(1) as u64) as usize
    };
    let interesting = b"{};[]:\"\\#\n \t0-9azAZ/._\xff\0";
    let mut valid = 0;
    for round in 0..cases(20) {
        for (text, running) in &files {
            let mut text = [&text[..], b" "].concat();
            for _ in 0..=random(4) {
                let at = random(text.len());
                match random(5) {
                    0 => text[at] = interesting[random(interesting.len())],
                    1 => {
                        text.remove(at);
                    }
                    2 => text.insert(at, interesting[random(interesting.len())]),
                    3 => {
                        let end = (at + random(40)).min(text.len());
                        let piece: Vec<u8> = text.drain(at..end).collect();
                        let to = random(text.len());
                        text.splice(to..to, piece);
                    }
                    _ => {
                        let end = (at + random(60)).min(text.len());
                        let piece = text[at..end].to_vec();
                        text.splice(at..at, piece);
                    }
                }
                if text.is_empty() {
                    text.push(b' ');
                }
            }
            valid += u32::from(read_as(&text, *running && round % 2 == 0));
        }
    }
    assert!(valid > 0, "nothing got through to the later stages");
}

/// Inputs that would explode if something were done once for each pair of something.
#[test]
fn large_numbers_end_quickly() {
    use std::fmt::Write;
    let start = Instant::now();
    let hosts = "on alpha { node-id 0; address 10.0.0.1:7000; } \
                 on bravo { node-id 1; address 10.0.0.2:7000; }";
    // Volumes, in the worst order, at both levels, and in a connection.
    let mut text = "resource r {\n".to_owned();
    for v in (0..60_000).rev() {
        let _ = writeln!(text, "volume {v} {{ device minor {v}; disk /dev/x{v}; }}");
    }
    text.push_str(hosts);
    text.push_str("connection { host alpha; host bravo;\n");
    for v in 0..60_000 {
        let _ = writeln!(text, "volume {v} {{ disk {{ bitmap no; }} }}");
    }
    text.push_str("} }\n");
    assert!(read(text.as_bytes()));
    // Hosts and their names, members of a mesh, meshes.
    let many = |n: usize, f: &dyn Fn(usize) -> String| (0..n).map(f).collect::<String>();
    let names = many(100_000, &|i| format!(" h{i}"));
    assert!(!read(
        format!("resource r {{ on{names} {{ node-id 0; }} }}").as_bytes()
    ));
    let sections = many(20_000, &|i| format!("on h{i} {{ node-id {}; }}\n", i % 32));
    assert!(!read(format!("resource r {{ {sections} }}").as_bytes()));
    let mesh = many(300_000, &|i| {
        if i % 2 == 0 { " alpha" } else { " bravo" }.to_owned()
    });
    let text = format!("resource r {{ {hosts} connection-mesh {{ hosts{mesh}; }} }}");
    assert!(!read(text.as_bytes()));
    let meshes = "connection-mesh { hosts alpha bravo; }\n".repeat(50_000);
    assert!(!read(
        format!("resource r {{ {hosts} {meshes} }}").as_bytes()
    ));
    // One finding for every statement.
    let wrong = "net { timeout 0; ".to_owned() + &"timeout 0; ".repeat(300_000) + "}";
    assert!(!read(
        format!("resource r {{ {wrong} {hosts} }}").as_bytes()
    ));
    let mixed = "disk /dev/x; ".repeat(200_000);
    assert!(!read(
        format!("resource r {{ volume 1 {{ }} {mixed} }}").as_bytes()
    ));
    let same = "volume 0 { disk /dev/x; }\n".repeat(100_000);
    assert!(!read(format!("resource r {{ {same} {hosts} }}").as_bytes()));
    assert!(
        start.elapsed() < Duration::from_secs(30),
        "took {:?}",
        start.elapsed()
    );
}

/// Only what is named on the command line may be a pipe; a terminal or a pipe that is included would be read for ever.
#[test]
fn what_is_included_is_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe.res");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    if !made.is_ok_and(|s| s.success()) {
        eprintln!("NOT TESTED: mkfifo does not work");
        return;
    }
    std::fs::create_dir(dir.path().join("folder.res")).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket.res"));
    assert!(socket.is_ok());
    let run = |text: &str| {
        let main = dir.path().join("main.conf");
        std::fs::write(&main, text).unwrap();
        let mut parser = Parser::new(&Environment::named("alpha"));
        parser.read(Input::File(main));
        let parsed = parser.finish();
        let errors = expand::failed(&parsed.diagnostics);
        let shown = parsed.diagnostics.iter();
        let shown: String = shown.map(|d| d.render(&parsed.config.sources)).collect();
        (errors, shown)
    };
    for literal in [
        "include \"pipe.res\";",
        "include \"folder.res\";",
        "include \"socket.res\";",
        "resource r { template-file \"pipe.res\"; }",
    ] {
        let (failed, shown) = run(literal);
        assert!(failed, "{literal}: {shown}");
        assert!(shown.contains("main.conf:1: Failed to open "), "{shown}");
    }
    // Found by a pattern, too; only what is gone by now is left out.
    let (failed, shown) = run("include \"*.res\";");
    for name in ["pipe.res", "folder.res", "socket.res"] {
        let message = format!("Failed to open include file '{name}'.");
        assert!(failed && shown.contains(&message), "{shown}");
    }
    std::os::unix::fs::symlink("nowhere", dir.path().join("gone.conf")).unwrap();
    let (failed, shown) = run("include \"gone.*\";");
    assert!(!failed && shown.contains("'gone.conf'"), "{shown}");
    assert_eq!(run("include \"/dev/null\";"), (false, String::new()));
}

/// 100 MB: a file, an endless device, a line, a comment. Refused at once, without reading them into memory.
#[test]
fn huge_files_are_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let huge = dir.path().join("huge.conf");
    std::fs::File::create(&huge)
        .unwrap()
        .set_len(100 << 20)
        .unwrap();
    let main = dir.path().join("main.conf");
    std::fs::write(&main, "include \"huge.conf\";\n").unwrap();
    let start = Instant::now();
    for (file, exit) in [(&huge, 20), (&main, 10), (&"/dev/zero".into(), 20)] {
        let mut parser = Parser::new(&Environment::named("alpha"));
        parser.read(Input::File(file.clone()));
        let parsed = parser.finish();
        let error = parsed.diagnostics.first().unwrap();
        assert_eq!(error.exit, exit, "{error:?}");
        assert!(
            error
                .render(&parsed.config.sources)
                .contains("larger than 16 MiB"),
            "{error:?}"
        );
    }
    assert!(start.elapsed() < Duration::from_secs(10));
}

/// A file that may not be read, and what its directory hides.
#[test]
fn unreadable_files() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret.res");
    std::fs::write(&secret, "resource r { }").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::read(&secret).is_ok() {
        eprintln!("NOT TESTED: this user may read everything");
        return;
    }
    let mut parser = Parser::new(&Environment::named("alpha"));
    parser.read(Input::File(secret));
    let parsed = parser.finish();
    let error = parsed.diagnostics.first().unwrap();
    assert_eq!(error.exit, 20);
    assert!(error.message.contains("Permission denied"), "{error:?}");
}
