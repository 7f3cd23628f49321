//! Resources in every form the language has besides the usual one: 8.3 and 8.4 files, floating and stacked hosts, proxies,
//! other address families, volumes per host, templates, included and skipped files.

use std::fmt::Write;

use super::Random;
use super::options::{DISK, NET, PEER_DEVICE, RESOURCE, options};

/// The files of one configuration; the first one is the main file.
pub(super) struct Files(pub(super) Vec<(String, String)>);

impl Files {
    fn add(&mut self, name: &str, text: String) {
        self.0.push((name.to_owned(), text));
    }

    /// Without what a release does not know yet.
    pub(super) fn for_release(mut self, release: u32) -> Files {
        if release < 29 {
            for (_, text) in &mut self.0 {
                *text = text
                    .replace("syncer { rate 10M;", "syncer {")
                    .replace("syncer { rate 33M;", "syncer {");
            }
        }
        self
    }

    /// Everything in one text, for messages.
    pub(super) fn show(&self) -> String {
        self.0
            .iter()
            .map(|(name, text)| format!("--- {name}\n{text}"))
            .collect()
    }
}

/// `protocol` and `syncer` of 8.3, `device` by name, no node ids, everything in the host sections.
fn legacy(r: &mut Random, n: usize) -> String {
    let mut out = format!(
        "resource old{n} {{\n\tprotocol {};\n",
        r.pick(&["A", "b", "C"])
    );
    let lines = [
        "\tsyncer { rate 10M; al-extents 257; verify-alg crc32c; }\n",
        "\tsyncer { rate 33M; after \"minor-3\"; csums-alg md5; }\n",
        "\tstartup { wfc-timeout 0; degr-wfc-timeout 120; become-primary-on both; }\n",
        "\tdisk { on-io-error detach; no-disk-flushes; no-md-flushes; }\n",
        "\tnet { after-sb-0pri discard-zero-changes; no-tcp-cork; allow-two-primaries; }\n",
        "\thandlers { outdate-peer \"/bin/true\"; pri-on-incon-degr \"echo b > /x\"; }\n",
    ];
    for line in lines {
        if r.chance(40) {
            out.push_str(line);
        }
    }
    let device = match r.below(4) {
        0 => format!("device /dev/drbd{n};"),
        1 => format!("device drbd{n};"),
        2 => format!("device /dev/drbd{n} minor {n};"),
        _ => format!("device minor {n};"),
    };
    for (i, host) in ["alpha", "bravo"].iter().enumerate() {
        let meta = match r.below(4) {
            0 => "meta-disk internal;".to_owned(),
            1 => format!("meta-disk /dev/m{n}[{i}];"),
            2 => format!("flexible-meta-disk /dev/fm{n};"),
            _ => format!("meta-disk \"/dev/m {n}\" [{i}];"),
        };
        let _ = writeln!(
            out,
            "\ton {host} {{\n\t\t{device}\n\t\tdisk /dev/sd{n};\n\t\taddress 10.{n}.2.{}:7788;\n\t\t{meta}\n\t}}",
            i + 1
        );
    }
    out + "}\n"
}

/// Hosts known by their address; the loopback one is this host.
fn floating(r: &mut Random, n: usize) -> String {
    let ids = r.chance(60);
    let volumes = r.chance(50);
    let mut out = format!("resource float{n} {{\n\tdevice minor {n}; meta-disk internal;\n");
    for (i, address) in ["127.0.0.1", "10.77.0.2"].iter().enumerate() {
        let id = if ids {
            format!("node-id {};", i + 3)
        } else {
            String::new()
        };
        let disk = if volumes {
            format!("disk /dev/f{n};")
        } else {
            "disk none;".to_owned()
        };
        let _ = writeln!(out, "\tfloating {address}:79{n:02} {{ {id} {disk} }}");
    }
    out + "}\n"
}

fn proxy_body(r: &mut Random, host: &str, n: usize, i: usize) -> String {
    let extra = *r.pick(&[
        "",
        "options { memlimit 10M; }",
        "options { plugin { zlib level 9; lzma contexts 3; } }",
        // Of two, the last counts; options and plugins for themselves.
        "options { memlimit 1M; plugin { lzma; } plugin { zlib level 3; } } options { read-loops 3; }",
    ]);
    format!(
        "proxy on {host} {{ inside 127.0.0.{}:78{n:02}; outside 192.168.{n}.{}:77{n:02}; {extra} }}",
        i + 1,
        i + 1
    )
}

fn proxy84(r: &mut Random, n: usize) -> String {
    let mut out = format!("resource px{n} {{\n\tdevice minor {n}; disk /dev/px{n};\n");
    if r.chance(40) {
        out.push_str("\tproxy { memlimit 512M; plugin { zlib level 6; } }\n");
    }
    for (i, host) in ["alpha", "bravo"].iter().enumerate() {
        let body = if r.chance(93) {
            proxy_body(r, host, n, i)
        } else {
            String::new()
        };
        let _ = writeln!(
            out,
            "\ton {host} {{ node-id {i}; address 127.0.0.1:76{n:02}; {body} }}"
        );
    }
    out + "}\n"
}

fn proxy9(r: &mut Random, n: usize) -> String {
    let mut out = format!("resource py{n} {{\n\tdevice minor {n}; disk /dev/py{n};\n");
    let mut ends = String::new();
    for (i, host) in ["alpha", "bravo"].iter().enumerate() {
        let _ = writeln!(out, "\ton {host} {{ node-id {i}; }}");
        let body = proxy_body(r, host, n, i);
        let _ = writeln!(
            ends,
            "\t\thost {host} address 10.{n}.9.{}:76{n:02} via {body}",
            i + 1
        );
    }
    out + "\tconnection {\n" + &ends + "\t}\n}\n"
}

/// A resource and another one on top of it.
fn stacked(r: &mut Random, n: usize) -> String {
    let mut out =
        format!("resource low{n} {{\n\tvolume 0 {{ device minor {n}; disk /dev/low{n}; }}\n");
    for (i, host) in ["alpha", "bravo"].iter().enumerate() {
        let _ = writeln!(
            out,
            "\ton {host} {{ node-id {i}; address 10.{n}.3.{}:7700; }}",
            i + 1
        );
    }
    out += "}\n";
    let m = n + 100;
    let own = *r.pick(&["node-id 0;", ""]);
    let other = if own.is_empty() && r.chance(80) {
        ""
    } else {
        "node-id 1;"
    };
    let protocol = *r.pick(&[
        "protocol A;",
        "net { protocol A; }",
        "startup { stacked-timeouts; wfc-timeout 7; }",
        "",
    ]);
    let _ = write!(
        out,
        "resource up{n} {{\n\t{protocol}\n\tstacked-on-top-of low{n} {{ {own} volume 0 {{ device minor {m}; }} address 10.{n}.4.1:7701; }}\n\
         \ton charlie {{ {other} volume 0 {{ device minor {m}; disk /dev/c{n}; meta-disk internal; }} address 10.{n}.4.3:7701; }}\n}}\n"
    );
    out
}

/// Endpoints by address, other families, several paths, names that need quotes.
fn endpoints(r: &mut Random, n: usize) -> String {
    let (a, b) = match r.below(4) {
        0 => (format!("10.{n}.5.1:7000"), format!("10.{n}.5.2:7000")),
        1 => (
            format!("ipv6 [fd00:{n}::1]:7000"),
            format!("ipv6 [fd00:{n}::2%eth0]:7000"),
        ),
        2 => (
            format!("ssocks 10.{n}.5.1:7000"),
            format!("sci 10.{n}.5.2:7000"),
        ),
        _ => (
            format!("sdp 10.{n}.5.1:7000"),
            format!("ipv4 10.{n}.5.2:7001"),
        ),
    };
    let peer = *r.pick(&["bravo", "\"host\"", "BRAVO.example.com", "\"9.0.1\""]);
    let connection = match r.below(5) {
        0 => format!("connection {{ address {a}; address {b}; }}"),
        1 => format!(
            "connection \"name\" {{ host alpha; host {peer}; net {{ {} }} }}",
            options(r, NET, 2)
        ),
        2 => format!(
            "connection {{ path {{ host alpha port 17; host {peer} port 18; }} path {{ host alpha address 1.1.1.{n}:1; host {peer} address 1.1.2.{n}:1; }} }}"
        ),
        3 => format!(
            "connection {{ disk {{ {} }} host alpha; host {peer}; volume 7 {{ disk {{ {} }} }} }}",
            options(r, PEER_DEVICE, 2),
            options(r, PEER_DEVICE, 1)
        ),
        _ => String::new(),
    };
    format!(
        "resource \"e {n}\" {{\n\tvolume 7 {{ device minor {n}; disk \"/dev/e \\\"{n}\"; disk {{ {} }} }}\n\
         \ton alpha {{ address {a}; node-id 4; }}\n\ton {peer} {{ node-id 2; address {b}; }}\n\t{connection}\n}}\n",
        options(r, PEER_DEVICE, 2)
    )
}

/// Volumes written out for every host, with options of their own.
fn per_host(r: &mut Random, n: usize) -> String {
    let mut out = format!(
        "resource ph{n} {{\n\toptions {{ {}}}\n",
        options(r, RESOURCE, 2)
    );
    let volumes: Vec<usize> = (0..1 + r.below(3)).map(|v| v * 3).collect();
    for (i, host) in ["alpha.example.com second", "bravo", "charlie"]
        .iter()
        .enumerate()
    {
        let _ = writeln!(
            out,
            "\ton {host} {{\n\t\tnode-id {i}; address 10.{n}.6.{}:7000; options {{ {}}}",
            i + 1,
            options(r, RESOURCE, 1)
        );
        let mut order = volumes.clone();
        if r.chance(30) {
            order.reverse();
        }
        for v in order {
            let disk = if i > 0 && r.chance(25) {
                "none".to_owned()
            } else {
                format!("/dev/ph{n}.{v}")
            };
            let more = if r.chance(30) {
                format!("disk {{ {}}}", options(r, DISK, 2))
            } else {
                String::new()
            };
            let after = if i == 0 && v > 0 && r.chance(30) {
                format!("disk {{ resync-after ph{n}/0; }}")
            } else {
                more
            };
            let _ = writeln!(
                out,
                "\t\tvolume {v} {{ device /dev/drbd{} minor {}; disk {disk}; meta-disk internal; {after} }}",
                n * 10 + v,
                n * 10 + v
            );
        }
        out.push_str("\t}\n");
    }
    let mesh = r.chance(60);
    if mesh {
        out.push_str("\tconnection-mesh { hosts alpha bravo charlie; }\n");
    }
    out + "}\n"
}

/// A configuration with some of these, perhaps spread over files.
pub(super) fn configuration(r: &mut Random) -> Files {
    let mut files = Files(Vec::new());
    let mut main = "global { usage-count no; disable-ip-verification; ".to_owned();
    for line in [
        "minor-count 64; ",
        "dialog-refresh 5; ",
        "udev-always-use-vnr; ",
        "cmd-timeout-short 7; ",
        "cmd-timeout-medium 200; ",
    ] {
        if r.chance(15) {
            main.push_str(line);
        }
    }
    main += "}\n";
    if r.chance(40) {
        let _ = writeln!(
            main,
            "common {{ net {{ {}}} disk {{ {}}} options {{ {}}} startup {{ wfc-timeout 3; }} handlers {{ split-brain /bin/x; }} }}",
            options(r, NET, 2),
            options(r, DISK, 1),
            options(r, RESOURCE, 1)
        );
    }
    let mut included = String::new();
    for n in 1..=1 + r.below(4) {
        let text = match r.below(8) {
            0 => legacy(r, n),
            1 => floating(r, n),
            2 => proxy84(r, n),
            3 => proxy9(r, n),
            4 => stacked(r, n),
            5 => endpoints(r, n),
            6 => per_host(r, n),
            _ => super::generate::resource(r, n),
        };
        match r.below(6) {
            0 => included.push_str(&text),
            1 => {
                files.add(&format!("inc/one{n}.res"), text);
                let _ = writeln!(main, "include \"inc/one{n}.res\";");
            }
            2 if r.chance(50) => {
                main.push_str("skip ");
                main.push_str(&text);
            }
            3 if text.starts_with("resource old") => {
                files.add(
                    &format!("t{n}.inc"),
                    format!("common {{ net {{ {}}} }}\n", options(r, NET, 3)),
                );
                main.push_str(&text.replacen('{', &format!("{{ template-file \"t{n}.inc\";"), 1));
            }
            _ => main.push_str(&text),
        }
    }
    if !included.is_empty() {
        files.add("all.d/b.res", included);
        files.add("all.d/a.res", "# nothing\n".to_owned());
        files.add("all.d/.hidden.res", "rubbish\n".to_owned());
        main.push_str(
            "include \"all.d/*.res\";\ninclude \"all.d/[ab].res\";\ninclude \"none.d/*\";\n",
        );
    }
    files.0.insert(0, ("generated.conf".to_owned(), main));
    files
}
