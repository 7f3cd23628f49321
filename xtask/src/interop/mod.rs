//! `cargo xtask interop`: our node beside the kernel's DRBD.
//!
//! Guests are kernels that run as ordinary processes; our nodes are `drbdd` in network name spaces; a
//! bridge connects them. Each scenario is a function that tells the story once; it is run in both
//! directions, with the kernel as the first Primary and with ours.

mod bench;
mod capture;
mod confine;
mod emulated;
mod guest;
mod lab;
mod legacy;
mod packages;
mod scenarios;
mod side;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use drbd_testkit::{Context, Error, Result, binaries, cleanup};

use guest::{Boot, Image};
use lab::{Lab, Options, Setup};
use scenarios::{SCENARIOS, Scenario};
use side::Kind;

/// Runs scenarios against a kernel's DRBD.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Scenarios to run, by the beginning of their names; all of them otherwise.
    names: Vec<String>,
    /// A folder with the modules of the peer (drbd.ko and what it needs), instead of those of the
    /// kernel in Debian's package.
    #[arg(long)]
    modules: Option<PathBuf>,
    /// A User Mode Linux kernel, instead of the one in Debian's package.
    #[arg(long)]
    kernel: Option<PathBuf>,
    /// Only the direction in which this side is the first Primary.
    #[arg(long, value_parser = ["kernel", "ours"])]
    first: Option<String>,
    /// All nodes are of one kind: what a scenario does among equals.
    #[arg(long, value_parser = ["kernel", "ours"])]
    all: Option<String>,
    /// Records the traffic of each run in a pcap file in this folder.
    #[arg(long)]
    capture: Option<PathBuf>,
    /// Measures DRBD between two kernels, ours over ublk between two guests, and a guest's disk.
    #[arg(long)]
    bench: bool,
    /// How many runs are under way at the same time; by default one more than there are processors, at most 4.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=16))]
    jobs: Option<u8>,
    /// Lists the scenarios.
    #[arg(long)]
    list: bool,
    /// Shows state and logs of all nodes also after a success.
    #[arg(long)]
    report: bool,
}

/// One story in one direction.
struct Job {
    scenario: &'static Scenario,
    kinds: Vec<Kind>,
    setup: Setup,
}

/// What became of it.
struct Outcome {
    seconds: f32,
    result: Result<()>,
}

/// What a scenario is told.
pub(super) struct Run<'a> {
    setup: Setup,
    kinds: &'a [Kind],
    report: bool,
}

impl Run<'_> {
    /// Whether the kernel's DRBD is of the 8 series.
    fn legacy(&self) -> bool {
        self.setup.legacy
    }

    /// Makes the nodes with these options, tells the story, and adds what all nodes have to say if it
    /// ends badly.
    fn tell(&self, options: Options, story: impl FnOnce(&mut Lab) -> Result<()>) -> Result<()> {
        let mut lab = Lab::new(&self.setup, self.kinds, options)?;
        let result = story(&mut lab);
        if self.report && result.is_ok() {
            println!("{}", lab.report());
        }
        result.map_err(|e| {
            lab.stop_capture();
            Error::new(format!("{e}\n{}", lab.report()))
        })
    }
}

fn target() -> PathBuf {
    let target = std::env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.parent()?.to_owned()));
    target.unwrap_or_else(std::env::temp_dir)
}

fn image(args: &Args) -> Result<(Image, bool)> {
    let root = packages::root(&target().join("interop"))?;
    let need =
        |name: &str| packages::find(&root, name).context(format!("{name} is not in the packages"));
    let (kernel, modules) = match (&args.kernel, &args.modules) {
        (kernel, Some(modules)) => (kernel.clone(), modules.clone()),
        (None, None) => (None, root.join("usr/lib/uml/modules")),
        (Some(_), None) => return Err(Error::new("--kernel needs --modules")),
    };
    let kernel = match kernel {
        Some(kernel) => kernel,
        None => need("linux.uml")?,
    };
    let absolute = |p: &Path| std::fs::canonicalize(p).context(p.display());
    let modules = absolute(&modules)?;
    let names = [
        "hmac.ko",
        "libcrc32c.ko",
        "lru_cache.ko",
        "drbd.ko",
        "drbd_transport_tcp.ko",
    ];
    let found: Vec<PathBuf> = names
        .iter()
        .filter_map(|name| packages::find(&modules, name))
        .collect();
    let drbd = found
        .iter()
        .find(|p| p.ends_with("drbd.ko"))
        .context(format!("no drbd.ko in {}", modules.display()))?;
    // Before version 9 there was no separate transport.
    let legacy = !found.iter().any(|p| p.ends_with("drbd_transport_tcp.ko"));
    eprintln!("the peer is {}", drbd.display());
    let path = ["usr/sbin", "sbin", "lib/drbd", "usr/lib/drbd"].map(|d| root.join(d));
    let image = Image {
        kernel: absolute(&kernel)?,
        modules: found,
        busybox: root.join("bin/busybox"),
        path: path.into_iter().filter(|p| p.is_dir()).collect(),
        boot: Boot::Process,
    };
    Ok((image, legacy))
}

/// Runs what was asked for; an error if a scenario failed.
pub(crate) fn run(args: &Args) -> std::result::Result<(), String> {
    if args.list {
        for s in SCENARIOS {
            println!("{:<22} {}", s.name, s.about);
        }
        return Ok(());
    }
    let result = if args.bench {
        check_host().and_then(|()| bench::run())
    } else {
        interop(args)
    };
    result.map_err(|e| e.to_string())
}

fn check_host() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::new(
            "interop needs root: name spaces, tap devices, loop devices",
        ));
    }
    for device in ["/dev/net/tun", "/dev/fuse", "/dev/loop-control"] {
        std::fs::File::open(device).context(format!("interop needs {device}"))?;
    }
    let found = Command::new("ip").arg("-V").output();
    found.context("interop needs iproute2").map(drop)
}

fn interop(args: &Args) -> Result<()> {
    check_host()?;
    binaries::directory()?;
    let chosen: Vec<&'static Scenario> = SCENARIOS
        .iter()
        .filter(|s| args.names.is_empty() || args.names.iter().any(|n| s.name.starts_with(&**n)))
        .collect();
    if chosen.is_empty() {
        return Err(Error::new("no such scenario; see --list"));
    }
    if let Some(dir) = &args.capture {
        std::fs::create_dir_all(dir).context(dir.display())?;
    }
    let jobs = jobs(args, &chosen)?;
    let start = Instant::now();
    let outcomes = run_all(&jobs, args);
    table(&jobs, &outcomes, start.elapsed().as_secs_f32())
}

/// The runs that were asked for, in the order of the table.
fn jobs(args: &Args, chosen: &[&'static Scenario]) -> Result<Vec<Job>> {
    let (image, legacy) = image(args)?;
    let mut jobs = Vec::new();
    for scenario in chosen.iter().filter(|s| s.with.has(legacy)) {
        // The distribution's kernel has a DRBD of the 8 series.
        let (image, legacy) = if scenario.emulated {
            (emulated::image(&target().join("interop"))?, true)
        } else {
            (image.clone(), legacy)
        };
        for (told, kinds) in scenario.casts.iter().enumerate() {
            let kinds = match args.all.as_deref() {
                Some(_) if told > 0 => break,
                Some("ours") => vec![Kind::Ours; kinds.len()],
                Some(_) => vec![Kind::Kernel; kinds.len()],
                None => kinds.to_vec(),
            };
            let first = match kinds.first() {
                Some(Kind::Kernel) => "kernel",
                Some(Kind::Ours | Kind::Guest) | None => "ours",
            };
            if args.first.as_deref().is_some_and(|f| f != first) {
                continue;
            }
            let capture = args
                .capture
                .as_ref()
                .map(|dir| dir.join(format!("{}-{}.pcap", scenario.name, cast(&kinds))));
            jobs.push(Job {
                scenario,
                kinds,
                setup: Setup {
                    image: image.clone(),
                    legacy,
                    capture,
                },
            });
        }
    }
    Ok(jobs)
}

/// Carries them out, some at the same time.
fn run_all(jobs: &[Job], args: &Args) -> Vec<Option<Outcome>> {
    let parallel = args.jobs.map_or_else(
        // A run waits more than it works: for pings, timeouts, connection attempts.
        || std::thread::available_parallelism().map_or(1, |n| (n.get() + 1).min(4)),
        usize::from,
    );
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    let work = || {
        while !cleanup::ending() {
            let at = next.fetch_add(1, Ordering::SeqCst);
            let Some(job) = jobs.get(at) else { break };
            let outcome = run_one(job, args.report);
            let mut all = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
            all.push((at, outcome));
        }
    };
    // A guest ends with the thread that started it: each thread is there until its runs have ended.
    std::thread::scope(|s| {
        for _ in 0..parallel.min(jobs.len()) {
            s.spawn(work);
        }
    });
    let mut all = outcomes
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    let mut sorted: Vec<Option<Outcome>> = jobs.iter().map(|_| None).collect();
    for (at, outcome) in all.drain(..) {
        if let Some(place) = sorted.get_mut(at) {
            *place = Some(outcome);
        }
    }
    sorted
}

fn run_one(job: &Job, report: bool) -> Outcome {
    let run = Run {
        setup: job.setup.clone(),
        kinds: &job.kinds,
        report,
    };
    let start = Instant::now();
    let result = (job.scenario.story)(&run);
    let seconds = start.elapsed().as_secs_f32();
    let verdict = if result.is_ok() { "ok" } else { "FAILED" };
    let mut text = format!(
        "{:<22} {:<14} {verdict:<7} {seconds:5.1} s",
        job.scenario.name,
        cast(&job.kinds)
    );
    if let Err(error) = &result {
        text.push_str(&format!("\n{error}"));
    }
    println!("{text}");
    Outcome { seconds, result }
}

/// Who plays, the first Primary first.
fn cast(kinds: &[Kind]) -> String {
    let names: Vec<&str> = kinds
        .iter()
        .map(|k| match k {
            Kind::Ours => "ours",
            Kind::Kernel => "kernel",
            Kind::Guest => "guest",
        })
        .collect();
    names.join("-")
}

fn table(jobs: &[Job], outcomes: &[Option<Outcome>], seconds: f32) -> Result<()> {
    println!(
        "\n{:<22} {:<22} {:>8}  result",
        "scenario", "nodes", "seconds"
    );
    let mut failed = 0;
    for (job, outcome) in jobs.iter().zip(outcomes) {
        let (took, result) = match outcome {
            Some(Outcome { seconds, result }) => {
                (*seconds, result.as_ref().map_err(|e| e.to_string()))
            }
            None => (0.0, Err("not run".to_owned())),
        };
        let result = match result {
            Ok(()) => "ok".to_owned(),
            Err(text) => {
                failed += 1;
                format!("FAILED: {}", text.lines().next().unwrap_or(""))
            }
        };
        println!(
            "{:<22} {:<22} {took:8.1}  {result}",
            job.scenario.name,
            cast(&job.kinds)
        );
    }
    println!("{} runs in {seconds:.0} s", jobs.len());
    if failed == 0 {
        return Ok(());
    }
    Err(Error::new(format!(
        "{failed} of {} runs failed",
        jobs.len()
    )))
}
