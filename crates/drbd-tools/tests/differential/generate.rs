//! Configurations that the real tool takes.

use std::fmt::Write;

use super::Random;
use super::options::{DISK, NET, PEER_DEVICE, RESOURCE, options};

const HOSTS: &[&str] = &["alpha", "bravo", "charlie", "delta", "echo"];
pub(super) fn resource(r: &mut Random, index: usize) -> String {
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

pub(super) fn configuration(r: &mut Random) -> String {
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
