//! What is said about the results.

use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::load::{Load, Run};
use super::{Args, Contender, drbd, qemu};

/// Bound of an idle node's memory, in bytes.
const MEMORY: u64 = 30 << 20;

/// The results of one round.
#[derive(Serialize)]
pub(super) struct Report {
    /// Directory of the backing files.
    pub(super) place: String,
    seconds: f64,
    repeats: u32,
    size_mib: u32,
    idle_memory: Vec<Memory>,
    pub(super) loads: Vec<Results>,
}

#[derive(Serialize)]
struct Memory {
    name: &'static str,
    /// VmRSS of the process that serves the client, in bytes, before the first write.
    bytes: u64,
    /// Length of the bitmap that belongs to it, in bytes.
    bitmap: u64,
}

/// Results for one load.
#[derive(Serialize)]
pub(super) struct Results {
    key: &'static str,
    pub(super) name: &'static str,
    block: u32,
    depth: u32,
    /// Which of QEMU's mirrors was the fastest.
    beside: Option<&'static str>,
    /// drbd-rs relative to that one, if both were there.
    pub(super) ratio: Option<f64>,
    /// drbd-rs relative to the fastest of QEMU's mirrors over TCP, which ours is as well.
    over_tcp: Option<f64>,
    /// The same as `ratio` without flushes, which QEMU's mirror does not send either.
    unordered: Option<f64>,
    /// drbd-rs relative to half of what QEMU does without a mirror: a mirror whose halves lie on one disk writes
    /// everything twice, so about 1 is the limit where the disk is the bottleneck.
    limit: Option<f64>,
    /// Two files with nothing between, relative to the fastest of QEMU's mirrors: about the most that any mirror whose
    /// halves share the disk can make.
    possible: Option<f64>,
    /// What the ratio shall be at least.
    pub(super) target: f64,
    pub(super) rows: Vec<Row>,
}

/// Medians of one contender.
#[derive(Serialize)]
pub(super) struct Row {
    pub(super) name: &'static str,
    /// Writes per second: median and the extremes.
    pub(super) iops: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    /// MiB per second, median.
    pub(super) mib: f64,
    /// Microseconds.
    p50_us: f64,
    p99_us: f64,
    flush_us: f64,
    /// Microseconds of processor time per write, all processes of the contender together.
    cpu_us: f64,
    /// Writes per second, turn by turn.
    turns: Vec<f64>,
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let at = |i: usize| values.get(i).copied().unwrap_or(0.0);
    if values.len().is_multiple_of(2) && middle > 0 {
        (at(middle - 1) + at(middle)) / 2.0
    } else {
        at(middle)
    }
}

fn mib(load: &Load, iops: f64) -> f64 {
    iops * f64::from(load.block) / f64::from(1 << 20)
}

/// A single turn in words.
pub(super) fn amount(load: &Load, run: &Run) -> String {
    let (iops, p99) = (run.iops(), run.p99.as_micros());
    if load.block < 1 << 20 {
        format!("{iops:>8.0} IOPS, p99 {p99} us")
    } else {
        format!("{:>8.0} MiB/s, p99 {p99} us", mib(load, iops))
    }
}

fn row(contender: &Contender, load: &Load) -> Row {
    let runs: Vec<&Run> = contender
        .runs
        .iter()
        .filter(|(of, _)| of.key == load.key)
        .map(|(_, run)| run)
        .collect();
    let all = |of: fn(&Run) -> f64| runs.iter().map(|run| of(run)).collect::<Vec<f64>>();
    let turns = all(Run::iops);
    let iops = median(turns.clone());
    Row {
        name: contender.name,
        iops,
        min: turns.iter().copied().fold(f64::INFINITY, f64::min),
        max: turns.iter().copied().fold(0.0, f64::max),
        mib: mib(load, iops),
        p50_us: median(all(|r| r.p50.as_secs_f64() * 1e6)),
        p99_us: median(all(|r| r.p99.as_secs_f64() * 1e6)),
        flush_us: median(all(|r| r.flush.as_secs_f64() * 1e6)),
        cpu_us: median(all(|r| {
            r.cpu.as_secs_f64() * 1e6 / (r.writes.max(1) as f64)
        })),
        turns,
    }
}

impl Report {
    pub(super) fn new(
        args: &Args,
        place: &Path,
        loads: &[&'static Load],
        contenders: &[Contender],
    ) -> Report {
        let loads = loads.iter().map(|load| {
            let rows: Vec<Row> = contenders.iter().map(|c| row(c, load)).collect();
            let iops = |name| rows.iter().find(|r| r.name == name).map(|r| r.iops);
            let best = rows
                .iter()
                .filter(|r| qemu::is_mirror(r.name) && r.iops > 0.0)
                .max_by(|a, b| a.iops.total_cmp(&b.iops));
            let to_best = |name| Some(iops(name)? / best?.iops);
            let best_tcp = rows
                .iter()
                .filter(|r| qemu::is_tcp_mirror(r.name) && r.iops > 0.0)
                .map(|r| r.iops)
                .max_by(f64::total_cmp);
            let over_tcp = iops(drbd::DEFAULT.name).zip(best_tcp).map(|(o, t)| o / t);
            let (ratio, unordered) = (to_best(drbd::DEFAULT.name), to_best(drbd::UNORDERED.name));
            let limit = match (iops(drbd::DEFAULT.name), iops(qemu::PLAIN)) {
                (Some(own), Some(plain)) if plain > 0.0 => Some(2.0 * own / plain),
                _ => None,
            };
            Results {
                beside: best.map(|r| r.name),
                over_tcp,
                limit,
                possible: to_best(qemu::PAIR),
                key: load.key,
                name: load.name,
                block: load.block,
                depth: load.depth,
                ratio,
                unordered,
                target: load.target,
                rows,
            }
        });
        let idle_memory = contenders.iter().map(|c| Memory {
            name: c.name,
            bytes: c.idle_memory,
            // One bit for each 4 KiB and peer.
            bitmap: if c.name.starts_with("drbd-rs") {
                c.size.div_ceil(4096 * 8)
            } else {
                0
            },
        });
        Report {
            place: place.display().to_string(),
            seconds: args.seconds,
            repeats: args.repeats,
            size_mib: args.size,
            idle_memory: idle_memory.collect(),
            loads: loads.collect(),
        }
    }
}

/// All rounds for programs.
pub(super) fn json(rounds: &[Report]) -> String {
    let all = serde_json::json!({ "rounds": rounds });
    serde_json::to_string_pretty(&all).unwrap_or_default() + "\n"
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nBacking files in {}\nMedians of {} turns of {} s; files of {} MiB, O_DIRECT; NBD over a Unix socket; \
             between the halves of a mirror TCP on loopback, for QEMU also without Nagle's algorithm and a Unix socket.",
            self.place, self.repeats, self.seconds, self.size_mib
        )?;
        for load in &self.loads {
            let (name, depth) = (load.name, load.depth);
            writeln!(f, "\n{name} writes ({depth} under way)")?;
            writeln!(
                f,
                "  {:<28}{:>9}{:>9}{:>19}{:>10}{:>10}{:>10}",
                "", "IOPS", "MiB/s", "lowest - highest", "p50 us", "p99 us", "CPU us"
            )?;
            for row in &load.rows {
                let span = format!("{:.0} - {:.0}", row.min, row.max);
                writeln!(
                    f,
                    "  {:<28}{:>9.0}{:>9.1}{:>19}{:>10.0}{:>10.0}{:>10.1}",
                    row.name, row.iops, row.mib, span, row.p50_us, row.p99_us, row.cpu_us
                )?;
            }
            let beside = load.beside.unwrap_or("QEMU's mirror");
            match load.ratio {
                Some(ratio) => {
                    let word = if ratio >= load.target {
                        "reached"
                    } else {
                        "MISSED"
                    };
                    writeln!(
                        f,
                        "  {ratio:.2} times QEMU's fastest here ({beside}); target {:.1}: {word}",
                        load.target
                    )?;
                }
                None => writeln!(f, "  Not compared: one of the mirrors was not measured.")?,
            }
            if let Some(ratio) = load.over_tcp {
                writeln!(
                    f,
                    "  {ratio:.2} times QEMU's fastest over TCP, which our halves are connected by."
                )?;
            }
            if let Some(ratio) = load.unordered {
                writeln!(
                    f,
                    "  {ratio:.2} times without flushes: the same promise as QEMU's mirror, which neither flushes nor orders."
                )?;
            }
            if let Some(limit) = load.limit {
                let percent = 100.0 * limit;
                writeln!(f, "  {percent:.0} % of half the rate without a mirror.")?;
            }
            if let Some(possible) = load.possible {
                writeln!(
                    f,
                    "  {possible:.2} times: two files written at once with nothing between, about the most that a mirror whose halves \
                     share this disk can do. Files in memory compare the programs alone."
                )?;
            }
        }
        writeln!(
            f,
            "\nMemory before the first write (VmRSS of the process that serves the client)"
        )?;
        for memory in &self.idle_memory {
            write!(
                f,
                "  {:<28}{:>7.1} MiB",
                memory.name,
                memory.bytes as f64 / 1048576.0
            )?;
            if memory.name == drbd::DEFAULT.name {
                let word = if memory.bytes < MEMORY + memory.bitmap {
                    "reached"
                } else {
                    "MISSED"
                };
                let bitmap = memory.bitmap >> 10;
                write!(f, "; target 30 MiB and the bitmap ({bitmap} KiB): {word}")?;
            }
            writeln!(f)?;
        }
        writeln!(
            f,
            "CPU us: processor time per write, all processes of a contender, without the client's."
        )
    }
}
