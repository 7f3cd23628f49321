//! The files that are written from the tables are up to date.

#![allow(clippy::unwrap_used, clippy::panic)] // test code

use std::path::Path;
use std::process::Command;

use drbd_tools::generated;

fn check(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(name);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == text,
        "{name} is not up to date: UPDATE=1 cargo test -p drbd-tools --test generated"
    );
}

#[test]
fn options_page() {
    check("docs/options.md", &generated::options_page());
}

#[test]
fn completion() {
    check("completions/drbd.bash", &generated::completion());
}

#[test]
fn manual_pages() {
    let pages = [
        ("drbdsetup.8", generated::man_drbdsetup()),
        ("drbdadm.8", generated::man_drbdadm()),
        ("drbdmeta.8", generated::man_drbdmeta()),
        ("drbd.conf.5", generated::man_configuration()),
    ];
    for (name, text) in pages {
        check(&format!("docs/man/{name}"), &text);
        // Every line is a request or text, and no entry is without its words.
        assert!(text.starts_with(".\\\""), "{name}");
        assert!(!text.contains("\n\n\n"), "{name}");
    }
}

/// What bash offers for a line that ends at the cursor.
fn complete(program: &str, line: &[&str]) -> Vec<String> {
    let script = generated::completion();
    let words: Vec<String> = line.iter().map(|w| format!("'{w}'")).collect();
    let count = line.len() - 1;
    let text = line.join(" ");
    let shell = format!(
        "{script}\ncompopt() {{ :; }}\ndrbdadm() {{ [ \"$1\" = -S ] || echo r0; }}\nCOMP_WORDS=({}) COMP_CWORD={count} COMP_LINE='{text}' COMP_POINT={}\n\
         _{program}\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"",
        words.join(" "),
        text.len()
    );
    let output = Command::new("bash").arg("-c").arg(shell).output().unwrap();
    assert!(
        output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

#[test]
fn bash_completes() {
    if Command::new("bash").arg("-c").arg(":").status().is_err() {
        eprintln!("NOT TESTED: there is no bash");
        return;
    }
    assert_eq!(
        complete("drbdadm", &["drbdadm", "adjust-"]),
        ["adjust-with-progress"]
    );
    assert_eq!(complete("drbdadm", &["drbdadm", "-d", "up", "r"]), ["r0"]);
    assert!(
        complete("drbdadm", &["drbdadm", "net-options", "--af"])
            .contains(&"--after-sb-2pri=violently-as0p".to_owned())
    );
    assert_eq!(
        complete("drbdadm", &["drbdadm", "net-options", "--protocol=B"]),
        ["B"]
    );
    assert_eq!(
        complete("drbdsetup", &["drbdsetup", "new-pa"]),
        ["new-path"]
    );
    assert!(
        complete("drbdsetup", &["drbdsetup", "attach", "--al-"])
            .contains(&"--al-extents=".to_owned())
    );
}
