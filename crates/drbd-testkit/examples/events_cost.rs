//! What do observers cost the data path? Writes to a mirror of two nodes: alone; with another resource that is renamed all
//! the time, each of which is an event; and with eight `events2 --statistics` and one that reads nothing, which watch.
//!
//!     cargo run --release -p drbd-testkit --example events_cost [SECONDS [ROUNDS]]
#![allow(clippy::expect_used)]

use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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

/// Renames a resource all the time, from `x<name>` to `x<name + 1>`: some thousand events a second.
struct Renamer {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<u64>,
}

impl Renamer {
    fn start(socket: PathBuf, first: u64) -> Renamer {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut client = Client::connect(&socket).expect("the daemon");
            let mut name = first;
            while !stopped.load(Ordering::Relaxed) {
                let (old, new) = (format!("x{name}"), format!("x{}", name + 1));
                let done = client.request("rename-resource", &[&old, &new], Vec::new(), false);
                if done.expect("an answer").code == 101 {
                    name += 1;
                }
                std::thread::sleep(Duration::from_micros(120));
            }
            name
        });
        Renamer { stop, thread }
    }

    /// The number of the last name.
    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the renamer")
    }
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
    let socket = node.dir().join("drbdd.sock");
    node.drbdsetup(&["new-resource", "x0", "5"])?.ok()?;
    let mut name = 0_u64;
    let mut costs = Vec::new();
    for round in 1..=rounds {
        let alone = writes(&c, time)?;
        let renamer = Renamer::start(socket.clone(), name);
        let changing = writes(&c, time)?;
        name = renamer.stop();

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
        let (first, start) = (name, Instant::now());
        let renamer = Renamer::start(socket.clone(), name);
        let watched = writes(&c, time)?;
        name = renamer.stop();
        let rate = (name - first) as f64 / start.elapsed().as_secs_f64();
        for mut child in observers {
            child.kill()?;
            child.wait()?;
        }
        let percent = 100.0 * (watched / changing - 1.0);
        costs.push(percent);
        println!(
            "round {round}: {alone:.0} writes/s alone, {changing:.0} while a resource is renamed, {watched:.0} with 9 \
             observers of {rate:.0} events/s ({percent:+.1} % by observers)"
        );
    }
    costs.sort_by(f64::total_cmp);
    if let Some(median) = costs.get(costs.len() / 2) {
        println!("median: {median:+.1} % by observers");
    }
    Ok(())
}
