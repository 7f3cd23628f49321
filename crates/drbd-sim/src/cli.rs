//! The command line: many seeds in parallel, or one with a trace.

use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use drbd_engine::rows::Row;

use crate::cluster::catch_panics;
use crate::core;
use crate::scenario::{self, Outcome, Wishes};

/// Runs simulated DRBD clusters through bad weather and checks that they keep their promises.
#[derive(Parser, Debug, Clone)]
#[command(name = "drbd-sim", version)]
pub struct Args {
    /// How many seeds to try.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    start: u64,
    /// Threads; 0 means one per processor.
    #[arg(long, default_value_t = 0)]
    jobs: usize,
    /// Runs this one seed.
    #[arg(long)]
    seed: Option<u64>,
    /// With --seed: prints every event and effect.
    #[arg(long)]
    trace: bool,
    /// Goes on with ever new seeds for that many hours.
    #[arg(long)]
    hours: Option<f64>,
    /// Number of nodes, 2 to 7; otherwise the seed decides.
    #[arg(long)]
    nodes: Option<usize>,
    /// No faults, only load and planned changes.
    #[arg(long)]
    calm: bool,
    /// Volumes with metadata of their own grow now and then, all of which have it.
    #[arg(long)]
    grow: bool,
    /// The nodes have different protocol versions, in clusters of two also one of DRBD 8.
    #[arg(long)]
    mixed: bool,
    /// Fencing, congestion, slow disks and split-brain policies, with handlers that take their time and fail.
    #[arg(long)]
    policies: bool,
    /// Goes on after a failing seed, and counts.
    #[arg(long)]
    keep_going: bool,
    /// Lists the rows of the decision tables with the number of seeds that went through each.
    #[arg(long)]
    rows: bool,
    /// File with seeds of open bugs, one a line, then their rule: reported, but no failure of this run. A
    /// seed that passes again is reported, too, so that the list shrinks.
    #[arg(long)]
    known: Option<std::path::PathBuf>,
}

impl Args {
    fn wishes(&self) -> Wishes {
        Wishes {
            nodes: self.nodes,
            calm: self.calm,
            grow: self.grow,
            mixed: self.mixed,
            policies: self.policies,
        }
    }

    /// The command that runs one seed of this call again.
    fn replay(&self, seed: u64) -> String {
        let nodes = self
            .nodes
            .map_or(String::new(), |n| format!(" --nodes {n}"));
        let calm = if self.calm { " --calm" } else { "" };
        let grow = if self.grow { " --grow" } else { "" };
        let mixed = if self.mixed { " --mixed" } else { "" };
        let policies = if self.policies { " --policies" } else { "" };
        format!("cargo sim --seed {seed}{nodes}{calm}{grow}{mixed}{policies} --trace")
    }
}

/// The seeds of a file for `--known`; text behind `#` is for people.
fn read_known(path: &std::path::Path) -> Result<std::collections::BTreeSet<u64>, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut seeds = std::collections::BTreeSet::new();
    for (nr, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let Some(word) = line.split_whitespace().next() else {
            continue;
        };
        let seed = word
            .parse()
            .map_err(|_| format!("{}:{}: {word:?} is no seed", path.display(), nr + 1))?;
        seeds.insert(seed);
    }
    Ok(seeds)
}

/// Runs what the arguments ask for; the result is the exit code.
pub fn main() -> i32 {
    let args = Args::parse();
    match args.seed {
        Some(seed) => one(&args, seed),
        None => many(&args),
    }
}

fn report(out: &mut impl Write, args: &Args, seed: u64, outcome: &Outcome) {
    if let Some(f) = &outcome.failure {
        // Nothing can be done about a closed pipe.
        let _ = writeln!(
            out,
            "seed {seed} failed after {f}\n{}  replay: {}",
            outcome.state,
            args.replay(seed)
        );
    }
}

fn one(args: &Args, seed: u64) -> i32 {
    catch_panics();
    let sink: Option<crate::trace::Sink> = args.trace.then(|| {
        let mut out = std::io::BufWriter::new(std::io::stdout());
        let mut closed = false;
        Box::new(move |line: &str| closed = closed || writeln!(out, "{line}").is_err())
            as crate::trace::Sink
    });
    let begin = Instant::now();
    let outcome = scenario::run(seed, &args.wishes(), core::engine, sink);
    report(&mut std::io::stdout(), args, seed, &outcome);
    println!(
        "seed {seed}: {} after {:.3} s of virtual time, {} events, {:.0} ms; {:?}",
        if outcome.failure.is_some() {
            "FAILED"
        } else {
            "passed"
        },
        outcome.time as f64 / 1e9,
        outcome.events,
        begin.elapsed().as_secs_f64() * 1e3,
        outcome.stats,
    );
    i32::from(outcome.failure.is_some())
}

struct Shared {
    next: AtomicU64,
    done: AtomicU64,
    events: AtomicU64,
    failed: Mutex<std::collections::BTreeMap<String, Vec<u64>>>,
    /// Seeds of open bugs, and those of them that failed here.
    known: std::collections::BTreeSet<u64>,
    known_failed: Mutex<std::collections::BTreeSet<u64>>,
    rows: Mutex<std::collections::BTreeMap<Row, (u64, u64)>>,
    stop: AtomicBool,
    slowest: Mutex<(Duration, u64)>,
}

fn many(args: &Args) -> i32 {
    let begin = Instant::now();
    let known = match args.known.as_deref().map(read_known).transpose() {
        Ok(known) => known.unwrap_or_default(),
        Err(error) => {
            eprintln!("error: {error}");
            return 2;
        }
    };
    let deadline = args
        .hours
        .map(|h| Duration::from_secs_f64(h.max(0.0) * 3600.0));
    let jobs = match args.jobs {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let shared = Shared {
        next: AtomicU64::new(args.start),
        done: AtomicU64::new(0),
        events: AtomicU64::new(0),
        failed: Mutex::default(),
        known,
        known_failed: Mutex::default(),
        rows: Mutex::default(),
        stop: AtomicBool::new(false),
        slowest: Mutex::new((Duration::ZERO, 0)),
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| worker(args, &shared, begin, deadline));
        }
    });
    let done = shared.done.load(Ordering::Relaxed);
    let seconds = begin.elapsed().as_secs_f64();
    let failed = shared.failed.lock().unwrap_or_else(|e| e.into_inner());
    let count: usize = failed.values().map(Vec::len).sum();
    for (rule, seeds) in failed.iter() {
        println!(
            "{:>5} x {rule}: seeds {:?}",
            seeds.len(),
            &seeds[..seeds.len().min(12)]
        );
    }
    let known_failed = shared
        .known_failed
        .lock()
        .unwrap_or_else(|e| e.into_inner());
    let ran = args.start..args.start.saturating_add(args.seeds);
    let mended: Vec<u64> = shared
        .known
        .iter()
        .copied()
        .filter(|s| args.hours.is_none() && count == 0 && ran.contains(s))
        .filter(|s| !known_failed.contains(s))
        .collect();
    if !known_failed.is_empty() {
        println!(
            "{:>5} x known, open bugs: seeds {known_failed:?}",
            known_failed.len()
        );
    }
    if !mended.is_empty() {
        println!("these known failures pass now; take them off the list: {mended:?}");
    }
    if args.rows {
        let rows = shared.rows.lock().unwrap_or_else(|e| e.into_inner());
        for row in Row::ALL {
            let (seeds, one) = rows.get(row).copied().unwrap_or_default();
            let (table, name) = (row.table(), row.name());
            println!("{seeds:>6} {row:?} (seed {one}): {table}, {name}");
        }
    }
    let (slowest, seed) = *shared.slowest.lock().unwrap_or_else(|e| e.into_inner());
    println!(
        "{done} seeds from {} on, {count} failed, {:.1} seeds/s, {:.0} events each, {seconds:.1} s, slowest {seed} with {:.0} ms",
        args.start,
        done as f64 / seconds.max(1e-9),
        shared.events.load(Ordering::Relaxed) as f64 / done.max(1) as f64,
        slowest.as_secs_f64() * 1e3,
    );
    i32::from(count > 0)
}

fn worker(args: &Args, shared: &Shared, begin: Instant, deadline: Option<Duration>) {
    catch_panics();
    while !shared.stop.load(Ordering::Relaxed) {
        let seed = shared.next.fetch_add(1, Ordering::Relaxed);
        let over = match deadline {
            Some(d) => begin.elapsed() > d,
            None => seed >= args.start.saturating_add(args.seeds),
        };
        if over {
            return;
        }
        let started = Instant::now();
        let outcome = scenario::run(seed, &args.wishes(), core::engine, None);
        let took = started.elapsed();
        shared.done.fetch_add(1, Ordering::Relaxed);
        shared.events.fetch_add(outcome.events, Ordering::Relaxed);
        if args.rows {
            let mut rows = shared.rows.lock().unwrap_or_else(|e| e.into_inner());
            for row in outcome.rows.iter() {
                rows.entry(row).or_insert((0, seed)).0 += 1;
            }
        }
        let mut slowest = shared.slowest.lock().unwrap_or_else(|e| e.into_inner());
        *slowest = (*slowest).max((took, seed));
        drop(slowest);
        let Some(f) = &outcome.failure else { continue };
        if shared.known.contains(&seed) {
            let mut known = shared
                .known_failed
                .lock()
                .unwrap_or_else(|e| e.into_inner());
            known.insert(seed);
            continue;
        }
        report(&mut std::io::stdout().lock(), args, seed, &outcome);
        let mut failed = shared.failed.lock().unwrap_or_else(|e| e.into_inner());
        let what = if f.violation.rule == "panic" {
            format!("panic {}", f.violation.what)
        } else {
            f.violation.rule.to_string()
        };
        failed.entry(what).or_default().push(seed);
        if !args.keep_going {
            shared.stop.store(true, Ordering::Relaxed);
        }
    }
}
