//! `cargo xtask interop --bench`: what a mirror costs, in guests with the distribution's own kernel.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use drbd_testkit::{Context, Error, Result, binaries};
use serde_json::Value;

use super::lab::{Lab, Options, Setup};
use super::side::Kind;
use super::{emulated, target};

/// What fio is told: name, access, block size, depth.
const JOBS: [(&str, &str, &str, u32); 3] = [
    ("4 KiB random write, depth 1", "randwrite", "4k", 1),
    ("4 KiB random write, depth 16", "randwrite", "4k", 16),
    ("1 MiB sequential write", "write", "1M", 4),
];

/// How long each job runs, in seconds.
const SECONDS: u32 = 10;

/// What a job came to.
#[derive(Clone, Copy)]
struct Measured {
    /// Writes per second.
    iops: f64,
    /// Mean time of a write in microseconds.
    latency: f64,
}

/// Runs all jobs on a device of a node.
fn measure(lab: &Lab, id: u8, device: &str) -> Result<Vec<Measured>> {
    let mut all = Vec::new();
    for (_, access, block, depth) in JOBS {
        let script = format!(
            "fio --name=job --filename={device} --direct=1 --ioengine=libaio --rw={access} --bs={block} --iodepth={depth} \
             --size=64m --time_based --runtime={SECONDS} --ramp_time=2 --output-format=json"
        );
        let limit = Duration::from_secs(240);
        let text = lab.side(id)?.script(&script, limit)?.ok()?;
        let json = text.find('{').and_then(|at| text.get(at..));
        let json = json.and_then(|t| serde_json::Deserializer::from_str(t).into_iter().next());
        let json: Value = json.context("fio said nothing")?.context("fio")?;
        let write = json.pointer("/jobs/0/write").context("fio's result")?;
        let number = |path: &str| write.pointer(path).and_then(Value::as_f64);
        all.push(Measured {
            iops: number("/iops").context("iops")?,
            latency: number("/clat_ns/mean").context("latency")? / 1000.0,
        });
        eprintln!(
            "  {}: {block} depth {depth}: {:.0}/s",
            device,
            all.last().map_or(0.0, |m| m.iops)
        );
    }
    Ok(all)
}

fn options() -> Options {
    Options {
        size: 96 << 20,
        ..Options::default()
    }
}

/// Runs this command anew as a release build: the guests take the programs that lie beside it.
fn again() -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["run", "--quiet", "--release", "--package", "xtask", "--"])
        .args(std::env::args_os().skip(1))
        .current_dir(binaries::workspace())
        .status()
        .context("cannot run cargo")?;
    if status.success() {
        Ok(())
    } else {
        Err(Error::new(format!("the bench failed: {status}")))
    }
}

/// Measures and prints the table.
pub(super) fn run() -> Result<()> {
    if cfg!(debug_assertions) {
        return again();
    }
    if !Path::new("/usr/bin/fio").exists() {
        return Err(Error::new("the bench needs fio: apt-get install fio"));
    }
    let setup = Setup {
        image: emulated::image(&target().join("interop"))?,
        legacy: true,
        capture: None,
    };
    let mut columns = Vec::new();
    for kind in [Kind::Kernel, Kind::Guest] {
        let mut lab = Lab::new(&setup, &[kind, kind], options())?;
        let result = lab.up_in_sync(0).and_then(|()| {
            let device = lab.side(0)?.device();
            let all = measure(&lab, 0, &device)?;
            // A mirror that lost a half meanwhile was not measured as a mirror.
            lab.wait_in_sync()?;
            Ok(all)
        });
        columns.push(result.map_err(|e| Error::new(format!("{e}\n{}", lab.report())))?);
    }
    let lab = Lab::new(&setup, &[Kind::Kernel], options())?;
    let device = lab.side(0)?.backing();
    columns.push(measure(&lab, 0, &device)?);
    table(&columns);
    Ok(())
}

fn table(columns: &[Vec<Measured>]) {
    println!(
        "\nwrites per second (mean time of one); protocol C, two guests on one machine, emulated processors\n\n\
         {:<30} {:>20} {:>20} {:>20} {:>8} {:>8}",
        "", "(a) kernel-kernel", "(b) ours over ublk", "(c) the disk alone", "b/a", "b/c"
    );
    for (i, (name, ..)) in JOBS.iter().enumerate() {
        let row: Vec<Measured> = columns.iter().filter_map(|c| c.get(i).copied()).collect();
        let [a, b, c] = row[..] else { continue };
        let cell = |m: Measured| format!("{:.0} ({:.0} us)", m.iops, m.latency);
        println!(
            "{name:<30} {:>20} {:>20} {:>20} {:>8.2} {:>8.2}",
            cell(a),
            cell(b),
            cell(c),
            b.iops / a.iops.max(1e-9),
            b.iops / c.iops.max(1e-9)
        );
    }
}
