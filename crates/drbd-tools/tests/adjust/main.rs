//! `adjust` on a model of a node: from any configuration to any other one the commands are accepted, lead there, and
//! nothing is left to do afterwards. Beside the real tool of 9.34 and later the commands are the same ones.

#![allow(clippy::unwrap_used, clippy::panic)] // test code

use std::fmt::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[path = "../differential/random.rs"]
mod random;

mod node;
#[path = "../differential/options.rs"]
mod options;

use node::Node;
use options::{DISK, NET, PEER_DEVICE, RESOURCE, options};
use random::{Random, Seed, cases, seeds};

/// Two resources of which each draw has other volumes, peers, paths and options.
fn configuration(r: &mut Random) -> String {
    let mut out = "global { usage-count no; disable-ip-verification; }\n".to_owned();
    for n in 1..=2usize {
        let _ = writeln!(
            out,
            "resource r{n} {{\n\toptions {{ {}}}",
            options(r, RESOURCE, 2)
        );
        let transport = *r.pick(&["", "", "", "transport rdma; ", "transport lb-tcp; "]);
        let _ = writeln!(out, "\tnet {{ {transport}{}}}", options(r, NET, 3));
        let volumes: Vec<usize> = (0..4).filter(|_| r.chance(50)).collect();
        let moved = if r.chance(15) { 50 } else { 0 };
        for v in &volumes {
            let meta = *r.pick(&[
                "meta-disk internal;",
                "meta-disk /dev/md [V];",
                "meta-disk /dev/fmV;",
                "",
            ]);
            let disk = if r.chance(20) {
                "none".to_owned()
            } else {
                format!("/dev/d{n}{v}{}", r.pick(&["", "", "x"]))
            };
            let size = *r.pick(&["", "", "size 1G; ", "size 2097152; ", "size 2G; "]);
            let _ = writeln!(
                out,
                "\tvolume {v} {{ device minor {}; disk {disk}; {} disk {{ {size}{}{}}} }}",
                n * 10 + v + moved,
                meta.replace('V', &format!("{}", n * 10 + v)),
                options(r, DISK, 2),
                options(r, PEER_DEVICE, 2)
            );
        }
        let peers: Vec<usize> = (1..4).filter(|_| r.chance(60)).collect();
        let _ = writeln!(out, "\ton alpha {{ node-id 0; address 10.{n}.0.1:7000; }}");
        for p in &peers {
            let none = volumes
                .iter()
                .filter(|_| r.chance(15))
                .map(|v| format!("volume {v} {{ disk none; }} "));
            let none: String = none.collect();
            let _ = writeln!(
                out,
                "\ton h{p} {{ node-id {p}; address 10.{n}.0.{}:7000; {none}}}",
                p + 1
            );
        }
        for p in &peers {
            let _ = write!(out, "\tconnection {{ net {{ {}}} ", options(r, NET, 1));
            match r.below(3) {
                0 => {
                    let _ = write!(out, "host alpha; host h{p}; ");
                }
                _ => {
                    for i in 0..1 + r.below(3) {
                        let port = 7000 + i * 10 + r.below(2);
                        let _ = write!(
                            out,
                            "path {{ host alpha address 10.{n}.{p}.1:{port}; host h{p} address 10.{n}.{p}.2:{port}; }} "
                        );
                    }
                }
            }
            out.push_str("}\n");
        }
        out.push_str("}\n");
    }
    out
}

fn drbdadm(program: &Path, args: &[&str], show: &Path) -> Option<Vec<String>> {
    let output = Command::new(program)
        .arg0("drbdadm")
        .args(args)
        .env("__DRBD_NODE__", "alpha")
        .env("DRBD_DRIVER_VERSION_OVERRIDE", "9.2.14")
        .env("FAKE_DRBDSETUP_SHOW", show)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    // It takes `disk none` of two resources for one disk that is used twice.
    if stderr.contains("conflicting use of disk 'disk:alpha:none'") {
        return None;
    }
    assert!(output.status.success(), "{args:?}: {stderr}");
    let lines = String::from_utf8_lossy(&output.stdout);
    Some(lines.lines().map(str::to_owned).collect())
}

fn ours(args: &[&str], show: &Path) -> Vec<String> {
    drbdadm(Path::new(env!("CARGO_BIN_EXE_drbdadm")), args, show).unwrap()
}

/// The real tool, if it is one whose `adjust` reads the same dialect.
fn real() -> Option<PathBuf> {
    let path = std::env::var_os("REFERENCE_DRBDADM").map(PathBuf::from);
    if path.is_none() {
        eprintln!(
            "NOT TESTED beside the real tool: REFERENCE_DRBDADM does not name one of release 9.34 or later"
        );
    }
    path
}

#[test]
fn adjust_leads_to_what_is_configured() {
    for seed in seeds("adjust_leads_to_what_is_configured") {
        leads_there(&seed);
    }
}

fn leads_there(seed: &Seed) {
    let dir = tempfile::tempdir().unwrap();
    let (conf, show) = (dir.path().join("x.conf"), dir.path().join("show"));
    let args = ["-d", "-c", conf.to_str().unwrap(), "adjust", "all"];
    let (mut r, cases) = (seed.random(0x5eed_0006), cases(60));
    let real = real();
    let again_with = &seed.replay;
    let mut node = Node::default();
    let mut changes = 0;
    for case in 0..cases {
        if r.chance(10) {
            node = Node::default();
        }
        // What the network does meanwhile.
        for peer in node
            .resources
            .values_mut()
            .flat_map(|r| r.peers.values_mut())
        {
            if r.chance(70) {
                peer.cstate =
                    (*r.pick(&["StandAlone", "Connecting", "Connected", "Connected"])).to_owned();
            }
        }
        let text = configuration(&mut r);
        std::fs::write(&conf, &text).unwrap();
        let before = node.show();
        std::fs::write(&show, &before).unwrap();
        let commands = ours(&args, &show);
        let shown = commands.join("\n");
        // The real tool does not see that it removes all paths of a connection that is not down.
        let all_paths = commands
            .iter()
            .any(|c| c.starts_with("drbdsetup disconnect "));
        if let Some(real) = real.as_ref().filter(|_| !all_paths)
            && let Some(theirs) = drbdadm(real, &args, &show)
        {
            let context = format!("case {case}, {again_with}\n{before}\n{text}");
            compare(&commands, &theirs, &context);
        }
        changes += commands.len();
        let mut once = std::collections::HashSet::new();
        for command in &commands {
            assert!(
                once.insert(command),
                "case {case}, {again_with}: twice: {command}\n{shown}"
            );
            if let Err(error) = node.run(command) {
                panic!(
                    "case {case}, {again_with}: {command}: {error}\n{shown}\n--- from\n{before}\n--- to\n{text}"
                );
            }
        }
        std::fs::write(&show, node.show()).unwrap();
        let again = ours(&args, &show);
        assert!(
            again.is_empty(),
            "case {case}, {again_with}: not done after\n{shown}\nleft to do:\n{}\n--- from\n{before}\n--- to\n{text}",
            again.join("\n")
        );
        let listed = ours(
            &["-c", conf.to_str().unwrap(), "sh-list-adjustable", "all"],
            &show,
        );
        assert!(listed.is_empty(), "{listed:?}");
    }
    assert!(changes > cases * 5, "only {changes} commands");
}

/// The same commands. Their order and the pauses between interruptions are our own: the real tool puts off some removals until
/// links that have nothing to do with them are up.
fn compare(ours: &[String], theirs: &[String], context: &str) {
    let sorted = |commands: &[String]| {
        // It also resets the options of peer devices that were just made, and sets some twice.
        let reset = |c: &str| c.contains(" peer-device-options ") && c.ends_with(" --set-defaults");
        let left = commands
            .iter()
            .filter(|c| !c.contains(" wait-connect-connection ") && !reset(c));
        let mut list: Vec<String> = left.cloned().collect();
        list.sort();
        list.dedup();
        list
    };
    let (a, b) = (sorted(ours), sorted(theirs));
    let only = |x: &[String], y: &[String]| {
        x.iter()
            .filter(|c| !y.contains(c))
            .cloned()
            .collect::<Vec<_>>()
            .join("\n  ")
    };
    assert!(
        a == b,
        "only ours\n  {}\nonly theirs\n  {}\nours\n  {}\ntheirs\n  {}\n{context}",
        only(&a, &b),
        only(&b, &a),
        ours.join("\n  "),
        theirs.join("\n  ")
    );
}
