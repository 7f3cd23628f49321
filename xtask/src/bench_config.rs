//! How long `drbdadm` takes to parse, check and dump a large configuration, beside the real tool in the same run.

use std::fmt::Write;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Parser;

/// Parses, checks and dumps a large configuration with ours and with the real tool in turns, and compares CPU time and output.
#[derive(Parser)]
pub(crate) struct Args {
    /// Resources, of two volumes each.
    #[arg(long, default_value_t = 500)]
    resources: u32,
    /// Nodes of every resource.
    #[arg(long, default_value_t = 16)]
    nodes: u32,
    /// Batches of five runs of each tool.
    #[arg(long, default_value_t = 6)]
    batches: u32,
    /// Our tool; built in release mode if not given.
    #[arg(long)]
    drbdadm: Option<PathBuf>,
    /// The real tool, of the package drbd-utils.
    #[arg(long, default_value = "/usr/sbin/drbdadm")]
    reference: PathBuf,
}

const RUNS: u32 = 5;
/// CPU time that one run may take, in milliseconds.
const LIMIT: f64 = 100.0;

/// How the nodes of a resource are connected: in a few words, or with 120 connections for each resource, the harder case.
#[derive(Clone, Copy)]
enum Links {
    Mesh,
    Explicit,
}

fn configuration(args: &Args, links: Links) -> String {
    let mut out = "global { usage-count no; disable-ip-verification; }\n\
                   common { net { protocol C; max-buffers 8000; } options { quorum majority; } }\n"
        .to_owned();
    for r in 0..args.resources {
        let _ = writeln!(
            out,
            "resource r{r} {{\n\tnet {{ verify-alg crc32c; }}\n\tdisk {{ c-max-rate 100M; }}"
        );
        for v in 0..2 {
            let minor = r * 2 + v;
            let _ = writeln!(
                out,
                "\tvolume {v} {{ device minor {minor}; disk /dev/vg0/r{r}_{v}; meta-disk internal; }}"
            );
        }
        for n in 0..args.nodes {
            let _ = writeln!(
                out,
                "\ton node{n} {{ node-id {n}; address 10.0.{n}.1:{}; }}",
                7000 + r
            );
        }
        match links {
            Links::Mesh => {
                let names: Vec<String> = (0..args.nodes).map(|n| format!("node{n}")).collect();
                let _ = writeln!(out, "\tconnection-mesh {{ hosts {}; }}", names.join(" "));
            }
            Links::Explicit => {
                for a in 0..args.nodes {
                    for b in a + 1..args.nodes {
                        let _ = writeln!(out, "\tconnection {{ host node{a}; host node{b}; }}");
                    }
                }
            }
        }
        out.push_str("}\n");
    }
    out
}

/// CPU time of all children that ended, in clock ticks of 10 ms.
fn ticks() -> Result<u64, String> {
    let stat =
        fs::read_to_string("/proc/self/stat").map_err(|e| format!("/proc/self/stat: {e}"))?;
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut times = fields.split_whitespace().skip(13).map(str::parse::<u64>);
    match (times.next(), times.next()) {
        (Some(Ok(user)), Some(Ok(system))) => Ok(user + system),
        _ => Err("/proc/self/stat: no times".to_owned()),
    }
}

fn dump(program: &Path, file: &Path) -> Result<Vec<u8>, String> {
    let output = Command::new(program)
        .arg0("drbdadm")
        .arg("-c")
        .arg(file)
        .args(["dump", "all"])
        .env("__DRBD_NODE__", "node0")
        .env("DRBD_DRIVER_VERSION_OVERRIDE", "9.2.14")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .map_err(|e| format!("{}: {e}", program.display()))?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(format!("{} failed: {}", program.display(), output.status))
    }
}

/// Milliseconds of CPU time that a batch takes for one run.
fn batch(program: &Path, file: &Path) -> Result<f64, String> {
    let before = ticks()?;
    for _ in 0..RUNS {
        dump(program, file)?;
    }
    Ok((ticks()? - before) as f64 * 10.0 / f64::from(RUNS))
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

fn build() -> Result<PathBuf, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args([
            "build",
            "--release",
            "--quiet",
            "--package",
            "drbd-tools",
            "--bin",
            "drbdadm",
        ])
        .status()
        .map_err(|e| format!("cargo: {e}"))?;
    if !status.success() {
        return Err("drbdadm does not build".to_owned());
    }
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    Ok(target.join("release/drbdadm"))
}

pub(crate) fn run(args: &Args) -> Result<(), String> {
    let ours = match &args.drbdadm {
        Some(program) => program.clone(),
        None => build()?,
    };
    let folder = std::env::temp_dir().join(format!("bench-config-{}", std::process::id()));
    fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let result = measure(args, &ours, &folder);
    let _ = fs::remove_dir_all(&folder);
    result
}

fn measure(args: &Args, ours: &Path, folder: &Path) -> Result<(), String> {
    let reference = args.reference.exists().then_some(&args.reference);
    if reference.is_none() {
        eprintln!("{} is not there: no comparison", args.reference.display());
    }
    let mut slow = Vec::new();
    for (name, links) in [("mesh", Links::Mesh), ("explicit", Links::Explicit)] {
        let file = folder.join(format!("{name}.conf"));
        let text = configuration(args, links);
        fs::write(&file, &text).map_err(|e| format!("{}: {e}", file.display()))?;
        let (mut mine, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..args.batches {
            mine.push(batch(ours, &file)?);
            if let Some(reference) = reference {
                theirs.push(batch(reference, &file)?);
            }
        }
        let mine = median(mine);
        print!(
            "{name:<9} {:>5} KiB   ours {mine:>6.1} ms",
            text.len() / 1024
        );
        if mine > LIMIT {
            slow.push(format!("{name}: {mine:.1} ms are more than {LIMIT:.0} ms"));
        }
        if let Some(reference) = reference {
            let theirs = median(theirs);
            println!(
                "   real tool {theirs:>6.1} ms   {:.1} times as fast",
                theirs / mine
            );
            if mine * 3.0 > theirs {
                slow.push(format!(
                    "{name}: more than a third of the real tool's {theirs:.1} ms"
                ));
            }
            if dump(ours, &file)? != dump(reference, &file)? {
                slow.push(format!("{name}: the dumps differ"));
            }
        } else {
            println!();
        }
    }
    if slow.is_empty() {
        Ok(())
    } else {
        Err(slow.join("; "))
    }
}
