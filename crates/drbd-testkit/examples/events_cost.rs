//! What do observers cost the data path? Writes to a mirror of two nodes, alone, and while eight `events2 --statistics` and
//! one that reads nothing watch a stream of events.
//!
//!     cargo run --release -p drbd-testkit --example events_cost [SECONDS [ROUNDS]]
#![allow(clippy::expect_used)]

use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use drbd_node::control::client::Client;
use drbd_testkit::{Cluster, Options, Result};

/// 4 KiB writes in a second.
fn writes(c: &Cluster, time: Duration) -> Result<f64> {
    let mut volume = c.node(0).open(0)?;
    let (start, mut count) = (Instant::now(), 0_u64);
    while start.elapsed() < time {
        for _ in 0..32 {
            volume.write(count * 4096 % (16 << 20), &[count as u8; 4096])?;
            count += 1;
        }
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

fn main() -> Result<()> {
    let mut arguments = std::env::args()
        .skip(1)
        .map_while(|a| a.parse::<u64>().ok());
    let time = Duration::from_secs(arguments.next().unwrap_or(5));
    let rounds = arguments.next().unwrap_or(3);
    let mut c = Cluster::new("cost", Options::small()?)?;
    c.bring_up_in_sync(0)?;
    let node = c.node(0);
    // A resource whose name changes all the time: each time is an event for everybody.
    node.drbdsetup(&["new-resource", "x0", "5"])?.ok()?;
    let mut name = 0_u64;
    for round in 0..rounds {
        let alone = writes(&c, time)?;
        let mut observers = Vec::new();
        for _ in 0..8 {
            let mut child = node.spawn("drbdsetup", &["events2", "all", "--statistics"])?;
            let mut output = child.stdout.take().expect("a pipe");
            std::thread::spawn(move || {
                let mut buffer = vec![0; 1 << 16];
                while output.read(&mut buffer).is_ok_and(|n| n > 0) {}
            });
            observers.push(child);
        }
        observers.push(node.spawn("drbdsetup", &["events2", "all"])?);
        let (stop, events) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let socket = node.dir().join("drbdd.sock");
        let (its_stop, its_events) = (stop.clone(), events.clone());
        let first = name;
        let renamer = std::thread::spawn(move || {
            let mut client = Client::connect(&socket).expect("the daemon");
            let mut name = first;
            while !its_stop.load(Ordering::Relaxed) {
                let (old, new) = (format!("x{name}"), format!("x{}", name + 1));
                let done = client.request("rename-resource", &[&old, &new], Vec::new(), false);
                if done.expect("an answer").code == 101 {
                    name += 1;
                    its_events.fetch_add(1, Ordering::Relaxed);
                }
                // Some five thousand a second.
                std::thread::sleep(Duration::from_micros(120));
            }
            name
        });
        let start = Instant::now();
        let watched = writes(&c, time)?;
        stop.store(true, Ordering::Relaxed);
        let rate = events.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64();
        name = renamer.join().expect("the renamer");
        for mut child in observers {
            child.kill()?;
            child.wait()?;
        }
        println!(
            "round {}: {alone:.0} writes/s alone, {watched:.0} with 9 observers of {rate:.0} events/s ({:+.1} %)",
            round + 1,
            100.0 * (watched / alone - 1.0)
        );
    }
    Ok(())
}
