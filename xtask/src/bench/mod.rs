//! `cargo bench-mirror`: what a write costs on a two-node mirror, beside QEMU's.
//!
//! The contenders take the same load from the same client through an NBD server on a Unix socket: two
//! `drbdd` with protocol C, once as they come and once without flushes, `qemu-storage-daemon` with a quorum of a
//! local file and the export of another `qemu-storage-daemon`, and `qemu-storage-daemon` with one file and no
//! mirror. All files are written before, lie in one directory, and are opened with O_DIRECT; between the two halves
//! of ours is TCP on loopback, and QEMU's halves are connected in each way that makes sense: what counts is the best
//! of them for each load. All contenders stay up for the whole run and take turns, so that whatever else the machine does hits all of
//! them; what is reported is the median of the turns.
//!
//! All this is done twice: with the files on a disk, and with the files in memory. A mirror whose halves share a
//! disk is at most as fast as that disk is with twice the writes, whatever program does it. How fast that is, is
//! measured, too: two files of two `qemu-storage-daemon` under the load at the same time, neither waiting for the
//! other. In memory the programs are compared alone.

mod drbd;
mod files;
mod load;
mod process;
mod qemu;
mod report;
mod svg;

use std::path::{Path, PathBuf};
use std::time::Duration;

use drbd_node::frontend::nbd::address::Address;

use load::{Load, Run};
use process::Process;

/// Files here are in memory.
const MEMORY: &str = "/dev/shm";

/// Options of `cargo bench-mirror`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long one contender is under one load, in seconds.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// How many turns each contender gets.
    #[arg(long, default_value_t = 5)]
    repeats: u32,
    /// Size of each backing file in MiB.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(64..=1 << 20))]
    size: u32,
    /// Run only contenders whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Run only loads whose name contains this.
    #[arg(long)]
    load: Option<String>,
    /// Take drbdd and drbdmeta as they lie beside this program, without building them.
    #[arg(long)]
    no_build: bool,
    /// Only this directory for the backing files; its file system must know O_DIRECT. By default there are two
    /// rounds: in target/bench, and in /dev/shm if there is room.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Leave backing files and logs where they are.
    #[arg(long)]
    keep: bool,
}

/// Something that takes writes.
struct Contender {
    name: &'static str,
    address: Address,
    export: String,
    /// The node that the client talks to first.
    processes: Vec<Process>,
    /// VmRSS of the first process before the first write, in bytes.
    idle_memory: u64,
    /// Length of the volume in bytes.
    size: u64,
    /// Both halves of a mirror.
    stores: Vec<PathBuf>,
    /// Where the same load goes at the same time: two files that know nothing of each other.
    second: Option<Address>,
    runs: Vec<(&'static Load, Run)>,
}

/// Runs the benchmark.
pub(crate) fn run(args: &Args) -> Result<(), String> {
    if !(0.1..=3600.0).contains(&args.seconds) {
        return Err("--seconds: between 0.1 and 3600".into());
    }
    if args.repeats == 0 {
        return Err("--repeats: at least 1".into());
    }
    let programs = process::programs(!args.no_build)?;
    let results = results_dir()?;
    if let Some(version) = qemu::version() {
        eprintln!("beside {version}");
    } else {
        eprintln!(
            "There is no qemu-storage-daemon here (Debian: package qemu-system-common or qemu-utils), so drbd-rs is \
             measured alone and the table says nothing about its rank."
        );
    }
    let mut reports = Vec::new();
    for place in places(args, &results) {
        let report = round(args, &programs, &place)?;
        print!("{report}");
        println!("After the last flush both copies of each mirror were identical.");
        reports.push(report);
    }
    let (json, picture) = (results.join("mirror.json"), results.join("mirror.svg"));
    let write = |path: &Path, text: String| {
        std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
    };
    write(&json, report::json(&reports))?;
    write(&picture, svg::draw(&reports))?;
    println!("Written: {}, {}", json.display(), picture.display());
    Ok(())
}

/// Where the backing files lie, round by round.
fn places(args: &Args, results: &Path) -> Vec<PathBuf> {
    if let Some(dir) = &args.dir {
        return vec![dir.clone()];
    }
    let memory = Path::new(MEMORY);
    // Thirteen files, and something for the rest of the system.
    let wanted = (u64::from(args.size) << 20) * 14;
    let free = rustix::fs::statvfs(memory).map_or(0, |s| s.f_bavail.saturating_mul(s.f_frsize));
    if free < wanted {
        eprintln!(
            "{MEMORY} has less than {} MiB free: there is only the round with the files on a disk.",
            wanted >> 20
        );
        return vec![results.to_owned()];
    }
    vec![results.to_owned(), memory.to_owned()]
}

/// Measures all contenders with their files in one place.
fn round(
    args: &Args,
    programs: &process::Programs,
    place: &Path,
) -> Result<report::Report, String> {
    let mut dir = files::WorkDir::new(place, args.keep)?;
    let size = u64::from(args.size) << 20;
    let mut contenders = Vec::new();
    let wanted = |name: &str| args.only.as_ref().is_none_or(|only| name.contains(only));

    eprintln!("backing files in {}", place.display());
    for kind in [&drbd::DEFAULT, &drbd::UNORDERED] {
        if wanted(kind.name) {
            contenders.push(drbd::start(programs, &dir, size, kind)?);
        }
    }
    if qemu::version().is_some() {
        for link in qemu::LINKS.iter().filter(|l| wanted(l.name)) {
            contenders.push(qemu::start_mirror(&dir, size, link)?);
        }
        if wanted(qemu::PLAIN) {
            contenders.push(qemu::start_plain(&dir, size)?);
        }
        if wanted(qemu::PAIR) && files::on_a_disk(place) {
            contenders.push(qemu::start_pair(&dir, size)?);
        }
    }
    let named = |load: &&Load| {
        args.load
            .as_ref()
            .is_none_or(|part| load.name.contains(part))
    };
    let loads: Vec<&'static Load> = load::LOADS.iter().filter(named).collect();
    if contenders.is_empty() || loads.is_empty() {
        return Err("no contender or no load has such a name".into());
    }
    for contender in &mut contenders {
        contender.idle_memory = contender.processes.first().map_or(0, Process::memory);
    }
    let span = Duration::from_secs_f64(args.seconds);
    for turn in 1..=args.repeats {
        for load in loads.iter().copied() {
            for contender in &mut contenders {
                let run = load::run(contender, load, span)
                    .map_err(|e| format!("{}: {}: {e}", contender.name, load.name))?;
                eprintln!(
                    "turn {turn}/{}: {:<28} {:<22} {}",
                    args.repeats,
                    contender.name,
                    load.name,
                    report::amount(load, &run)
                );
                contender.runs.push((load, run));
            }
        }
    }
    let report = report::Report::new(args, place, &loads, &contenders);
    for contender in &mut contenders {
        for process in &mut contender.processes {
            process.stop();
        }
        if let [a, b] = contender.stores.as_slice() {
            files::compare(a, b, contender.size)
                .map_err(|e| format!("{}: the copies differ: {e}", contender.name))?;
        }
    }
    dir.done();
    Ok(report)
}

/// `target/bench`.
fn results_dir() -> Result<PathBuf, String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
    std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    dir.canonicalize()
        .map_err(|e| format!("{}: {e}", dir.display()))
}
