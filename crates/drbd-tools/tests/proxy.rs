//! The proxy's commands: on hosts of a resource and on hosts that run nothing but a proxy, and how `adjust` changes what a
//! proxy already knows. Compared with the real tool where it is installed.

#![allow(clippy::unwrap_used, clippy::panic)] // test code

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

const REFERENCE: &str = "/usr/sbin/drbdadm";

const RUNNING: &str = "resource r0 {
    _this_host { node-id 1; volume 0 { device minor 1; disk \"/dev/sda1\"; meta-disk internal; } }
    connection {
        _peer_node_id 0;
        path { _this_host ipv4 127.0.0.1:7000; _remote_host ipv4 127.0.0.1:7001; }
        net { _name \"alpha\"; }
    }
}
";

fn configuration(options: &str) -> String {
    let end = |host: &str, id: u8, on: &str| {
        format!(
            "on {host} {{ node-id {id}; address 127.0.0.1:7000; \
             proxy on {on} {{ inside 127.0.0.1:7001; outside 10.0.0.{id}:7002; }} }}"
        )
    };
    format!(
        "global {{ usage-count no; disable-ip-verification; }}
         resource r0 {{
            device minor 1; disk /dev/sda1; proxy {{ {options} }}
            {}
            {}
         }}
         resource r1 {{
            device minor 2; disk /dev/sda2;
            on alpha {{ node-id 0; address 10.1.0.1:7100; }}
            on bravo {{ node-id 1; address 10.1.0.2:7100; }}
            connection {{
                host alpha via proxy on pa {{ inside 10.1.0.9:7101; outside 10.2.0.1:7102; }}
                host bravo via proxy on pb {{ inside 10.1.0.8:7101; outside 10.2.0.2:7102; }}
            }}
         }}",
        end("alpha", 0, "pa"),
        end("bravo", 1, "pb bravo")
    )
}

/// What the proxy is told; `answer` is what it says about a connection.
fn told(program: &str, directory: &Path, host: &str, words: &str) -> Vec<String> {
    let output = Command::new(program)
        .arg0("drbdadm")
        .args(["-c", "drbd.conf", "-d", "-p", "./proxy"])
        .args(words.split(' '))
        .current_dir(directory)
        .env("__DRBD_NODE__", host)
        .env("DRBD_DRIVER_VERSION_OVERRIDE", "9.2.14")
        .env("FAKE_DRBDSETUP_SHOW", "running")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().filter(|line| line.starts_with("./proxy "));
    let mut told: Vec<String> = lines.map(str::to_owned).collect();
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let known = ["no normal resources", "not defined in your config"];
        told.extend(
            known
                .iter()
                .filter(|k| text.contains(**k))
                .map(ToString::to_string),
        );
        told.push(format!("exit {:?}", output.status.code()));
    }
    told
}

/// The options stand behind `add`, too, as newer releases have it.
fn without_options(line: &str) -> String {
    let (line, _) = line.split_once("\\ --").unwrap_or((line, ""));
    line.to_owned()
}

/// 9.22 forgets the `-c` before the last command.
fn complete(line: &str) -> String {
    match line.rsplit_once(" set\\ plugin") {
        Some((before, rest)) if rest.ends_with("\\ END") && !before.ends_with(" -c") => {
            format!("{before} -c set\\ plugin{rest}")
        }
        _ => line.to_owned(),
    }
}

#[test]
fn as_the_real_tool() {
    if !Path::new(REFERENCE).exists() {
        eprintln!("*** NOT TESTED: {REFERENCE} is not installed ***");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(
        path("proxy"),
        "#!/bin/sh\ncase \"$*\" in *show*) cat answer;; esac\n",
    )
    .unwrap();
    fs::set_permissions(path("proxy"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(path("running"), RUNNING).unwrap();
    let one = "memlimit 100M; plugin { zlib level 9; }";
    // Inherited in the opposite order.
    let two = "memlimit 100M; bwlimit 5; plugin { zlib level 9; lzma contexts 3; }";
    let (mut compared, mut busy) = (0, 0);
    for (options, answer) in [
        (one, ""),
        (one, "proxy { memlimit 100M; plugin { zlib level 9; } }"),
        (one, "proxy { memlimit 102M; plugin { zlib level 8; } }"),
        (one, "proxy { memlimit 103M; plugin { zlib level 8; } }"),
        (one, "proxy { memlimit 98M; plugin { zlib level 8; } }"),
        (
            one,
            "proxy { memlimit 100M; plugin { lzma; zlib level 9; } }",
        ),
        (one, "proxy { plugin { zlib level 9; } }"),
        (one, "proxy { }"),
        (one, "no such connection"),
        (
            two,
            "proxy { memlimit 100M; bwlimit 6; plugin { zlib level 9; lzma contexts 3; } }",
        ),
        (
            two,
            "proxy { memlimit 100M; plugin { lzma contexts 3; zlib level 9; } }",
        ),
        (two, "proxy { memlimit 100M; plugin { lzma contexts 3; } }"),
        (two, "proxy { memlimit 100M; plugin { zlib level 9; } }"),
        (two, "proxy { memlimit 100M; plugin { a; b; c; d; } }"),
        ("", "proxy { memlimit 100M; plugin { zlib level 9; } }"),
        ("", "proxy { }"),
    ] {
        fs::write(path("drbd.conf"), configuration(options)).unwrap();
        fs::write(path("answer"), answer).unwrap();
        for host in ["alpha", "bravo", "pa", "pb", "elsewhere"] {
            for words in [
                "adjust r0",
                "proxy-up all",
                "proxy-up r0",
                "proxy-up r1",
                "proxy-down all",
                "proxy-down r1",
                "up all",
                "connect r0",
            ] {
                let run = |program: &str| told(program, directory.path(), host, words);
                let theirs: Vec<String> = run(REFERENCE).iter().map(|l| complete(l)).collect();
                let ours = run(env!("CARGO_BIN_EXE_drbdadm"));
                let ours: Vec<String> = ours.iter().map(|l| without_options(l)).collect();
                assert_eq!(ours, theirs, "{host}: {words}, {options}, {answer}");
                compared += 1;
                busy += usize::from(ours.iter().any(|line| line.starts_with("./proxy ")));
            }
        }
    }
    assert!(compared == 640 && busy > 150, "{compared} {busy}");
}

/// The same without the real tool.
#[test]
fn nothing_but_a_proxy() {
    let directory = tempfile::tempdir().unwrap();
    let options = "memlimit 100M; plugin { zlib level 9; }";
    fs::write(directory.path().join("drbd.conf"), configuration(options)).unwrap();
    fs::write(directory.path().join("proxy"), "#!/bin/sh\nexit 1\n").unwrap();
    let run = |host, words| told(env!("CARGO_BIN_EXE_drbdadm"), directory.path(), host, words);
    assert_eq!(
        run("pa", "proxy-down all"),
        [
            "./proxy -c del\\ connection\\ r0-pb_bravo-pa",
            "./proxy -c del\\ connection\\ r1-pb-pa"
        ]
    );
    assert_eq!(
        run("pb", "proxy-up r1"),
        [
            "./proxy -c add\\ connection\\ r1-pa-pb\\ 10.1.0.8:7101\\ 10.2.0.1:7102\\ \
          10.2.0.2:7102\\ 10.1.0.2:7100"
        ]
    );
    assert_eq!(
        run("pa", "connect r0"),
        ["not defined in your config", "exit Some(1)"]
    );
}
