//! The load: one client that keeps a number of writes under way.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use drbd_node::frontend::nbd::address::Address;
use drbd_node::frontend::nbd::client::{Client, ClientError};
use drbd_node::frontend::nbd::codec::Command;

use super::Contender;
use super::process::Process;

/// Where writes go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Random,
    Sequential,
}

/// A kind of load.
pub(super) struct Load {
    /// For the table.
    pub(super) name: &'static str,
    /// For the file of results.
    pub(super) key: &'static str,
    /// Length of a write in bytes.
    pub(super) block: u32,
    /// Writes under way.
    pub(super) depth: u32,
    order: Order,
    /// What drbd-rs shall reach, as a multiple of QEMU's mirror.
    pub(super) target: f64,
}

/// All of them.
pub(super) const LOADS: &[Load] = &[
    Load {
        name: "4 KiB random, depth 16",
        key: "random-4k",
        block: 4 << 10,
        depth: 16,
        order: Order::Random,
        target: 2.0,
    },
    Load {
        name: "1 MiB sequential",
        key: "sequential-1m",
        block: 1 << 20,
        depth: 4,
        order: Order::Sequential,
        target: 1.3,
    },
];

/// What one turn measured.
#[derive(Clone, Debug)]
pub(super) struct Run {
    /// Writes.
    pub(super) writes: u64,
    /// From the first write to the end of the flush.
    pub(super) time: Duration,
    /// How long the flush at the end took.
    pub(super) flush: Duration,
    /// Half of the writes took at most this.
    pub(super) p50: Duration,
    /// 99 of 100 writes took at most this.
    pub(super) p99: Duration,
    /// Processor time of all processes of the contender.
    pub(super) cpu: Duration,
}

impl Run {
    /// Writes per second.
    pub(super) fn iops(&self) -> f64 {
        self.writes as f64 / self.time.as_secs_f64().max(1e-9)
    }
}

/// Puts a contender under a load.
pub(super) fn run(contender: &Contender, load: &Load, span: Duration) -> Result<Run, ClientError> {
    let cpu = cpu_time(contender);
    let first = || one(contender, &contender.address, load, span);
    let mut run = match &contender.second {
        None => first()?,
        Some(second) => {
            let (a, b) = std::thread::scope(|scope| {
                let b = scope.spawn(|| one(contender, second, load, span));
                (first(), b.join())
            });
            let b = b.map_err(|_| std::io::Error::other("the second client panicked"))?;
            both(&a?, &b?)
        }
    };
    run.cpu = cpu_time(contender).saturating_sub(cpu);
    Ok(run)
}

/// What a mirror of two files would have done that were written at the same time: a write counts when it is in both.
fn both(a: &Run, b: &Run) -> Run {
    Run {
        writes: a.writes.midpoint(b.writes),
        time: a.time.max(b.time),
        flush: a.flush.max(b.flush),
        p50: a.p50.max(b.p50),
        p99: a.p99.max(b.p99),
        cpu: Duration::ZERO,
    }
}

/// One client.
fn one(
    contender: &Contender,
    address: &Address,
    load: &Load,
    span: Duration,
) -> Result<Run, ClientError> {
    let mut client = Client::connect(address, &contender.export)?;
    client.set_timeout(Some(Duration::from_secs(60)))?;
    let blocks = (client.export().size / u64::from(load.block)).max(1);
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ contender.runs.len() as u64);
    // Bytes that no layer can compress or skip; every write takes another piece.
    let mut source = vec![0; load.block as usize + (64 << 10)];
    for word in source.chunks_exact_mut(8) {
        word.copy_from_slice(&random.next().to_le_bytes());
    }
    let mut under_way: HashMap<u64, Instant> = HashMap::new();
    let mut times: Vec<u32> = Vec::with_capacity(1 << 20);
    let mut position = random.next() % blocks;
    let mut submit = |client: &mut Client, under_way: &mut HashMap<u64, Instant>| {
        position = match load.order {
            Order::Random => random.next() % blocks,
            Order::Sequential => (position + 1) % blocks,
        };
        let from = (random.next() % (64 << 10)) as usize;
        let data = source.get(from..from + load.block as usize).unwrap_or(&[]);
        let offset = position * u64::from(load.block);
        let cookie = client.submit(Command::Write { fua: false }, offset, 0, data);
        under_way.insert(cookie, Instant::now());
    };
    let start = Instant::now();
    for _ in 0..load.depth {
        submit(&mut client, &mut under_way);
    }
    while !under_way.is_empty() {
        let done = client.complete()?;
        done.result.map_err(ClientError::Request)?;
        if let Some(at) = under_way.remove(&done.cookie) {
            times.push(u32::try_from(at.elapsed().as_micros()).unwrap_or(u32::MAX));
        }
        if start.elapsed() < span {
            submit(&mut client, &mut under_way);
        }
    }
    let written = start.elapsed();
    client.flush()?;
    let time = start.elapsed();
    client.disconnect()?;
    times.sort_unstable();
    let share = |of: usize| {
        let at = times.len().saturating_mul(of) / 100;
        let micros = times.get(at).or(times.last()).copied().unwrap_or(0);
        Duration::from_micros(u64::from(micros))
    };
    Ok(Run {
        writes: times.len() as u64,
        time,
        flush: time.saturating_sub(written),
        p50: share(50),
        p99: share(99),
        cpu: Duration::ZERO,
    })
}

fn cpu_time(contender: &Contender) -> Duration {
    contender.processes.iter().map(Process::cpu).sum()
}

/// xorshift64*: quick, and the same in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}
