//! Our `drbdadm` beside the real one of the package `drbd-utils`, over generated configurations:
//! valid ones must give the same dump and the same commands, damaged ones the same verdict.

#![allow(clippy::unwrap_used, clippy::panic)] // test code

use std::fmt::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

const REAL: &str = "/usr/sbin/drbdadm";

/// True if the real tool is there; says so loudly if not.
fn real_tool() -> bool {
    let version = Command::new(REAL)
        .arg("--version")
        .stderr(Stdio::null())
        .output();
    let known = version.is_ok_and(|v| {
        let text = String::from_utf8_lossy(&v.stdout).into_owned();
        text.contains("DRBDADM_API_VERSION=2") && text.contains("GIT-hash")
    });
    if !known {
        eprintln!("NOT TESTED: {REAL} of drbd-utils is not installed");
    }
    known
}

/// Small and reproducible: xorshift.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
    fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

/// Number of cases; `DIFFERENTIAL_CASES` asks for more.
fn cases(usual: usize) -> usize {
    std::env::var("DIFFERENTIAL_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(usual)
}

/// Start of the random numbers; `DIFFERENTIAL_SEED` asks for others.
fn seed(usual: u64) -> Random {
    let given = std::env::var("DIFFERENTIAL_SEED")
        .ok()
        .and_then(|n| n.parse::<u64>().ok());
    Random(usual ^ given.unwrap_or(0).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

const HOSTS: &[&str] = &["alpha", "bravo", "charlie", "delta", "echo"];
const NET: &[&str] = &[
    "protocol A",
    "protocol B",
    "protocol C",
    "timeout 61",
    "ping-int 12",
    "max-buffers 8000",
    "verify-alg crc32c",
    "csums-alg md5",
    "sndbuf-size 1M",
    "no-tcp-cork",
    "use-rle no",
    "allow-two-primaries",
    "after-sb-0pri discard-zero-changes",
    "rr-conflict retry-connect",
    "shared-secret \"a b\"",
    "fencing resource-only",
    "congestion-fill 1G",
];
const RESOURCE: &[&str] = &[
    "quorum majority",
    "quorum off",
    "on-no-quorum io-error",
    "auto-promote no",
    "cpu-mask 3",
    "peer-ack-window 8M",
    "max-io-depth 4000",
];
const DISK: &[&str] = &[
    "on-io-error detach",
    "on-io-error pass_on",
    "disk-flushes no",
    "no-md-flushes",
    "al-extents 257",
    "disk-timeout 60",
    "read-balancing round-robin",
    "rs-discard-granularity 65536",
];
const PEER_DEVICE: &[&str] = &[
    "resync-rate 10M",
    "c-max-rate 100M",
    "c-min-rate 4M",
    "c-plan-ahead 30",
    "c-fill-target 1M",
];

fn options(r: &mut Random, list: &[&str], most: usize) -> String {
    let mut out = String::new();
    let mut used: Vec<&str> = Vec::new();
    for _ in 0..r.below(most + 1) {
        let option = *r.pick(list);
        let name = option.split(' ').next().unwrap().trim_start_matches("no-");
        if !used.contains(&name) {
            used.push(name);
            let _ = write!(out, "{option}; ");
        }
    }
    out
}

fn resource(r: &mut Random, index: usize) -> String {
    let mut out = format!("resource r{index} {{\n");
    let hosts = 2 + r.below(3);
    let first = if r.chance(85) { 0 } else { 1 };
    let hosts: Vec<&str> = HOSTS.iter().copied().skip(first).take(hosts).collect();
    let implicit = r.chance(25);
    let volumes = if implicit { 1 } else { 1 + r.below(3) };
    if r.chance(50) {
        let _ = writeln!(out, "\toptions {{ {}}}", options(r, RESOURCE, 3));
    }
    if r.chance(60) {
        let _ = writeln!(out, "\tnet {{ {}}}", options(r, NET, 5));
    }
    let disk_section = r.chance(40);
    if disk_section {
        let _ = writeln!(out, "\tdisk {{ {}}}", options(r, DISK, 3));
    }
    if r.chance(20) {
        out.push_str("\tstartup { wfc-timeout 10; degr-wfc-timeout 20; }\n");
    }
    if r.chance(20) {
        out.push_str("\thandlers { split-brain \"/bin/true x\"; fence-peer /bin/false; }\n");
    }
    let minor = |v: usize| index * 10 + v;
    for v in 0..volumes {
        let meta = match r.below(4) {
            0 => "meta-disk internal;".to_owned(),
            1 => format!("meta-disk /dev/md{index} [{v}];"),
            2 => format!("flexible-meta-disk /dev/fmd{};", minor(v)),
            _ => String::new(),
        };
        let body = format!(
            "device minor {}; disk /dev/vg/d{}; {meta}",
            minor(v),
            minor(v)
        );
        if implicit {
            let _ = writeln!(out, "\t{body}");
        } else {
            let own = if !disk_section && r.chance(40) {
                format!(
                    " disk {{ {}{}}}",
                    options(r, DISK, 2),
                    options(r, PEER_DEVICE, 1)
                )
            } else {
                String::new()
            };
            let _ = writeln!(out, "\tvolume {v} {{ {body}{own} }}");
        }
    }
    let ids = hosts.len() != 2 || r.chance(70);
    for (i, host) in hosts.iter().enumerate() {
        let id = if ids {
            format!("node-id {i}; ")
        } else {
            String::new()
        };
        let _ = write!(
            out,
            "\ton {host} {{ {id}address 10.{index}.1.{}:7{index:03};",
            i + 1
        );
        if i > 0 && !implicit && r.chance(20) {
            out.push_str(" volume 0 { disk none; }");
        }
        out.push_str(" }\n");
    }
    match r.below(4) {
        0 => {
            let net = options(r, &NET[..6], 2);
            let _ = writeln!(
                out,
                "\tconnection-mesh {{ hosts {}; net {{ {net}}} }}",
                hosts.join(" ")
            );
        }
        1 if ids => {
            for (i, a) in hosts.iter().enumerate() {
                for b in hosts.iter().skip(i + 1) {
                    match r.below(3) {
                        0 => {
                            let _ = writeln!(out, "\tconnection {{ host {a}; host {b}; }}");
                        }
                        1 => {
                            let _ = writeln!(
                                out,
                                "\tconnection {{ net {{ {}}} host {b} port 9{index:03}; host {a}; }}",
                                options(r, NET, 2)
                            );
                        }
                        _ => {
                            let net = r.below(200);
                            let _ = writeln!(
                                out,
                                "\tconnection {{ path {{ host {a} address 10.9.{net}.1:80{index:02}; host {b} address 10.9.{net}.2:80{index:02}; }}\n\
                                 \t\tvolume 0 {{ disk {{ {}}} }} }}",
                                options(r, PEER_DEVICE, 2)
                            );
                        }
                    }
                }
            }
        }
        _ => {}
    }
    out.push_str("}\n");
    out
}

fn configuration(r: &mut Random) -> String {
    let mut out = "global { usage-count no; disable-ip-verification; }\n".to_owned();
    if r.chance(30) {
        let _ = writeln!(
            out,
            "common {{ net {{ {}}} options {{ {}}} }}",
            options(r, NET, 3),
            options(r, RESOURCE, 2)
        );
    }
    for index in 1..=1 + r.below(3) {
        out.push_str(&resource(r, index));
    }
    out
}

/// Damages a text: words are removed, doubled, swapped or replaced.
fn damage(r: &mut Random, text: &str) -> String {
    const WORDS: &[&str] = &[
        "{",
        "}",
        ";",
        "on",
        "alpha",
        "volume",
        "0",
        "1",
        "99",
        "device",
        "disk",
        "net",
        "host",
        "address",
        "10.1.1.1:7000",
        "10.1.1.1",
        "ipv6",
        "minor",
        "yes",
        "no",
        "none",
        "internal",
        "resource",
        "common",
        "connection",
        "path",
        "port",
        "node-id",
        "protocol",
        "1234567890",
        "12k",
        "\"",
        "[",
        "]",
        ":",
        "options",
        "timeout",
        "0",
        "x",
    ];
    let spaced = text
        .replace('{', " { ")
        .replace('}', " } ")
        .replace(';', " ; ");
    let mut words: Vec<&str> = spaced
        .split_inclusive(|c: char| c.is_whitespace())
        .collect();
    for _ in 0..1 + r.below(2) {
        // The global section keeps the run short.
        let at = 8 + r.below(words.len() - 8);
        match r.below(4) {
            0 => {
                words.remove(at);
            }
            1 => words.insert(at, words[at]),
            2 if at + 1 < words.len() => words.swap(at, at + 1),
            _ => {
                words.insert(at, " ");
                words[at + 1] = *r.pick::<&str>(WORDS);
                words.insert(at + 2, " ");
            }
        }
    }
    words.concat()
}

struct Run {
    exit: Option<i32>,
    stdout: String,
    stderr: String,
}

fn run(program: &Path, file: &Path, args: &[&str]) -> Run {
    let output = Command::new(program)
        .arg0("drbdadm")
        .arg("-c")
        .arg(file)
        .args(args)
        .env("__DRBD_NODE__", "alpha")
        .env("DRBD_DRIVER_VERSION_OVERRIDE", "9.2.14")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Run {
        exit: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Commands without what only newer tools print.
fn comparable(text: &str) -> String {
    text.lines()
        .filter(|l| !l.ends_with(" repair-md"))
        .map(|l| format!("{l}\n"))
        .collect()
}

const COMMANDS: [&[&str]; 3] = [
    &["dump", "all"],
    &["-v", "dump", "all"],
    &["-d", "up", "all"],
];

#[test]
fn generated_configurations() {
    if !real_tool() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("generated.conf");
    let ours = Path::new(env!("CARGO_BIN_EXE_drbdadm"));
    let (mut r, cases) = (seed(0x5eed_0001), cases(150));
    let mut accepted = 0;
    let mut failures = Vec::new();
    for case in 0..cases {
        let text = configuration(&mut r);
        std::fs::write(&file, &text).unwrap();
        for args in COMMANDS {
            let (a, b) = (run(ours, &file, args), run(Path::new(REAL), &file, args));
            accepted += usize::from(b.exit == Some(0));
            // An empty disk section in a connection's volume crashes the real tool.
            if b.exit.is_none() {
                continue;
            }
            let same = a.exit == b.exit
                && (a.exit != Some(0) || comparable(&a.stdout) == comparable(&b.stdout));
            if !same && failures.len() < 5 {
                let at = comparable(&a.stdout)
                    .lines()
                    .zip(comparable(&b.stdout).lines())
                    .find(|(x, y)| x != y)
                    .map(|(x, y)| format!("{x}\n{y}"));
                failures.push(format!(
                    "case {case} {args:?}: ours {:?}, real {:?}\n{at:?}\nours: {}\nreal: {}\n{text}",
                    a.exit, b.exit, a.stderr, b.stderr
                ));
            }
        }
    }
    eprintln!("{accepted} of {} runs accepted", cases * 3);
    assert!(
        accepted > cases * 2,
        "too few valid configurations: {accepted}"
    );
    assert!(failures.is_empty(), "{}", failures.join("\n======\n"));
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
    ];
    // A number without a value is passed on as "yes", over which it stumbles only when comparing.
    let stumbles = real.exit == Some(20) && real.stderr.contains("yes is not a valid number");
    stumbles || real.exit == Some(0) && overlooked.iter().any(|o| ours.stderr.contains(o))
}

#[test]
fn damaged_configurations() {
    if !real_tool() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("damaged.conf");
    let ours = Path::new(env!("CARGO_BIN_EXE_drbdadm"));
    let (mut r, cases) = (seed(0x5eed_0002), cases(400));
    let (mut refused, mut crashed) = (0, 0);
    let mut failures = Vec::new();
    for case in 0..cases {
        let whole = configuration(&mut r);
        let text = damage(&mut r, &whole);
        std::fs::write(&file, &text).unwrap();
        let args: &[&str] = &["-d", "up", "all"];
        let (a, b) = (run(ours, &file, args), run(Path::new(REAL), &file, args));
        refused += usize::from(b.exit != Some(0));
        if b.exit.is_none() {
            crashed += 1;
            continue;
        }
        if a.exit != b.exit && !tolerated(&a, &b) && failures.len() < 12 {
            failures.push(format!(
                "case {case}: ours {:?}, real {:?}\nours: {}\nreal: {}\n{text}",
                a.exit, b.exit, a.stderr, b.stderr
            ));
        }
    }
    eprintln!("{refused} of {cases} refused, the real tool crashed {crashed} times");
    assert!(
        refused > cases / 3,
        "too few invalid configurations: {refused}"
    );
    assert!(failures.is_empty(), "{}", failures.join("\n======\n"));
}
