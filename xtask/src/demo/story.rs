//! The story, step by step.

use std::ops::Range;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use drbd_testkit::{Cluster, Error, Options, Result, Story};

use super::progress::{Speed, bytes, latency, mib, rate};
use super::store::{self, ITEM, Item, Store, Writer};
use super::timeline::{Phase, Timeline};

const VOLUME: u16 = 0;
/// How long a step may take at most.
const PATIENCE: Duration = Duration::from_secs(90);
/// Items per second at most, so that there is something to watch.
const PACE: u32 = 80;

/// Tells it. `size` is that of each disk.
pub(crate) fn tell(story: Story, size: u64, svg: &Path) -> Result<()> {
    let mut options = Options::small()?;
    options.nodes = 3;
    options.size = size;
    options.story = story;
    // The smallest activity log: what a crashed primary has to send again is bounded by it.
    options.disk.push("al-extents 67".to_owned());
    let mut demo = Demo {
        cluster: Cluster::new("demo", options)?,
        timeline: Timeline::new(3),
        step: "start",
        first: Vec::new(),
        second: Vec::new(),
    };
    let told = demo.all(size);
    if let Err(error) = told {
        let logs = demo.cluster.logs(12);
        return Err(Error::new(format!("step '{}': {error}\n{logs}", demo.step)));
    }
    println!("\n{}", demo.timeline.text());
    demo.timeline.write_svg(svg)?;
    println!("Picture of it: {}", svg.display());
    Ok(())
}

struct Demo {
    cluster: Cluster,
    timeline: Timeline,
    step: &'static str,
    /// Items that node 1 wrote.
    first: Vec<Item>,
    /// Items that node 2 wrote.
    second: Vec<Item>,
}

impl Demo {
    fn step(&mut self, name: &'static str) {
        self.step = name;
        println!("{:6.1} s  {name}", self.timeline.elapsed().as_secs_f64());
    }

    fn all(&mut self, size: u64) -> Result<()> {
        // Node 2 writes a quarter as many again; there is room for a journal beside them.
        let items = u32::try_from(size / 2 / ITEM as u64)
            .unwrap_or(400)
            .clamp(32, 400);
        self.step("three daemons, metadata, connections");
        for id in 0..3 {
            self.timeline.phase(id, Phase::Down);
        }
        self.cluster.start()?;
        self.cluster.create_md()?;
        self.cluster.up()?;
        for id in 0..3 {
            self.timeline.phase(id, Phase::Inconsistent);
        }
        self.cluster.wait_connected(PATIENCE)?;
        self.timeline.event(None, "all connected");

        self.step("initial sync from node 1");
        self.cluster.node(0).adm_with("primary", &["--force"])?;
        self.timeline.phase(0, Phase::Primary);
        self.timeline.event(Some(0), "primary --force");
        self.watch_initial_sync()?;

        self.step(match self.cluster.story() {
            Story::BlockDevice => "node 1 makes a file system",
            Story::Nbd => "node 1 offers its volume",
        });
        let store = self.begin_store()?;

        self.step("node 1 writes, and is killed in the middle of it");
        self.write_and_kill(&store, 0..items)?;

        self.step("node 2 takes over");
        let store = self.take_over()?;
        self.check(&store)?;
        self.step("node 2 goes on writing, node 1 is away");
        self.write_more(&store, items..items + items / 4)?;

        self.step("node 1 comes back: resync by bitmap");
        self.come_back(size)?;

        self.step("compare the three disks");
        self.finish(&store)
    }

    fn watch_initial_sync(&mut self) -> Result<()> {
        let lacking = |cluster: &Cluster| -> Result<(u64, bool)> {
            let status = cluster.node(0).status()?;
            let peers: Vec<_> = [1, 2]
                .iter()
                .filter_map(|p| status.peer(*p, VOLUME))
                .collect();
            let done = peers.len() == 2
                && peers
                    .iter()
                    .all(|p| p.disk == "UpToDate" && p.out_of_sync == 0);
            Ok((peers.iter().map(|p| p.out_of_sync).sum(), done))
        };
        let start = Instant::now();
        let total = lacking(&self.cluster)?
            .0
            .max(2 * self.cluster.node(0).status()?.size(VOLUME));
        for id in [1, 2] {
            self.timeline.phase(id, Phase::Sync);
        }
        let bar = bytes(total, "initial sync");
        let mut speed = Speed::new();
        let mut best = (total, Instant::now());
        loop {
            let (left, done) = lacking(&self.cluster)?;
            let moved = total.saturating_sub(left);
            bar.set_position(moved);
            if speed.update(moved) {
                bar.set_message(format!("{:.0} MiB/s", speed.now));
                self.timeline.sample(speed.now);
            }
            if done {
                break;
            }
            if left < best.0 {
                best = (left, Instant::now());
            } else if best.1.elapsed() > Duration::from_secs(20) {
                bar.abandon();
                return Err(Error::new(format!(
                    "the initial sync stands still at {}",
                    mib(moved)
                )));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bar.finish_and_clear();
        self.timeline.sample(0.0);
        for id in [1, 2] {
            self.timeline.phase(id, Phase::Secondary);
        }
        let fast = rate(total, start.elapsed());
        println!("          {} to two nodes at {fast:.0} MiB/s", mib(total));
        self.timeline.event(None, "initial sync done");
        self.cluster.wait_in_sync(PATIENCE)
    }

    fn begin_store(&mut self) -> Result<Store> {
        let node = self.cluster.node(0);
        if self.cluster.story() == Story::Nbd {
            println!("          blocks over {}", node.nbd());
            return Ok(Store::Blocks);
        }
        store::make_fs(node)?;
        let store = store::mount_fs(node)?;
        let device = std::fs::canonicalize(node.device(VOLUME)).unwrap_or_default();
        println!("          ext4 on {}", device.display());
        self.timeline.event(Some(0), "mkfs.ext4, mount");
        Ok(store)
    }

    /// Shows what a writer does until a number of items is durable or it ends.
    fn watch(
        &mut self,
        writer: &Writer,
        done: &Receiver<Item>,
        until: usize,
        total: usize,
        what: &str,
    ) -> Vec<Item> {
        let bar = bytes((total * ITEM) as u64, what);
        let mut items: Vec<Item> = Vec::new();
        let mut speed = Speed::new();
        let mut recent = 0;
        let mut last = Instant::now();
        while items.len() < until {
            match done.recv_timeout(Duration::from_millis(50)) {
                Ok(item) => {
                    items.push(item);
                    last = item.at;
                }
                Err(_) if writer.has_ended() || last.elapsed() > PATIENCE => break,
                Err(_) => {}
            }
            let moved = (items.len() * ITEM) as u64;
            bar.set_position(moved);
            if speed.update(moved) {
                let times: Vec<_> = items.iter().skip(recent).map(|i| i.sync).collect();
                recent = items.len();
                let (median, worst) = latency(&times);
                self.timeline.sample(speed.now);
                bar.set_message(format!(
                    "{:.0} MiB/s, fsync {median:.1} ms, at most {worst:.1} ms",
                    speed.now
                ));
            }
        }
        bar.finish_and_clear();
        items
    }

    fn report(&self, items: &[Item]) {
        let times: Vec<_> = items.iter().map(|i| i.sync).collect();
        let (median, worst) = latency(&times);
        println!(
            "          {} durable in {} items; fsync: median {median:.1} ms, at most {worst:.1} ms",
            mib((items.len() * ITEM) as u64),
            items.len()
        );
    }

    fn write_and_kill(&mut self, store: &Store, numbers: Range<u32>) -> Result<()> {
        let total = numbers.len();
        let (tell, done) = channel();
        let writer = Writer::start(store, self.cluster.node(0), numbers, PACE, tell)?;
        self.timeline.event(Some(0), "writing");
        let enough = total * 2 / 3;
        let mut items = self.watch(&writer, &done, enough, total, "node 1 writes");
        if items.len() < enough {
            let error = writer.stop(PATIENCE)?;
            let why = error.map_or_else(|| "no progress".to_owned(), |e| e.to_string());
            return Err(Error::new(format!(
                "writing ended after {} items: {why}",
                items.len()
            )));
        }
        self.cluster.node_mut(0).kill();
        self.timeline.phase(0, Phase::Dead);
        self.timeline.event(Some(0), "SIGKILL");
        self.timeline.sample(0.0);
        store::unmount_fs(store, true)?;
        let error = writer.stop(PATIENCE)?;
        items.extend(done.try_iter());
        println!(
            "          SIGKILL; the application: {}",
            error.map_or_else(|| "was between two writes".to_owned(), |e| e.to_string())
        );
        self.report(&items);
        self.first = items;
        Ok(())
    }

    fn take_over(&mut self) -> Result<Store> {
        let start = Instant::now();
        let node = self.cluster.node(1);
        node.wait("notices that node 1 is gone", PATIENCE, |s| {
            !matches!(s.connection(0), "Connected" | "")
        })?;
        node.adm("primary")?;
        let store = match self.cluster.story() {
            Story::BlockDevice => store::mount_fs(node)?,
            Story::Nbd => Store::Blocks,
        };
        let what = match store {
            Store::Files { .. } => "primary, mounted (journal replayed)",
            Store::Blocks => "primary",
        };
        println!(
            "          {what} {:.2} s after the kill",
            start.elapsed().as_secs_f64()
        );
        self.timeline.phase(1, Phase::Primary);
        self.timeline.event(Some(1), what);
        Ok(store)
    }

    fn check(&mut self, store: &Store) -> Result<()> {
        store::check(store, self.cluster.node(1), &self.first)?;
        let text = format!("all {} fsynced items intact", self.first.len());
        println!("          {text}");
        self.timeline.event(Some(1), &text);
        Ok(())
    }

    fn write_more(&mut self, store: &Store, numbers: Range<u32>) -> Result<()> {
        let total = numbers.len();
        let (tell, done) = channel();
        let writer = Writer::start(store, self.cluster.node(1), numbers, PACE, tell)?;
        let mut items = self.watch(&writer, &done, total, total, "node 2 writes");
        if let Some(error) = writer.stop(PATIENCE)? {
            return Err(error);
        }
        items.extend(done.try_iter());
        if items.len() < total {
            return Err(Error::new(format!(
                "only {} of {total} items were written",
                items.len()
            )));
        }
        self.report(&items);
        self.second = items;
        Ok(())
    }

    fn come_back(&mut self, size: u64) -> Result<()> {
        self.timeline.sample(0.0);
        let missed = self
            .cluster
            .node(1)
            .status()?
            .peer(0, VOLUME)
            .map_or(0, |p| p.out_of_sync);
        self.cluster.node_mut(0).start()?;
        self.cluster.node(0).adm("up")?;
        self.timeline.phase(0, Phase::Sync);
        self.timeline.event(Some(0), "back again");
        let start = Instant::now();
        let bar = bytes(missed, "resync");
        let mut speed = Speed::new();
        let mut most = missed;
        let moved = loop {
            let status = self.cluster.node(0).status()?;
            let peers: Vec<_> = [1, 2]
                .iter()
                .filter_map(|p| status.peer(*p, VOLUME))
                .collect();
            let moved: u64 = peers.iter().map(|p| p.received).sum();
            let left = peers.iter().map(|p| p.out_of_sync).max().unwrap_or(0);
            if left > most {
                // The activity log of the crashed primary adds to what node 2 knows.
                most = left;
                bar.set_length(most);
            }
            bar.set_position(moved);
            if speed.update(moved) {
                self.timeline.sample(speed.now);
                bar.set_message(format!("{:.0} MiB/s", speed.now));
            }
            let done = peers.len() == 2
                && status.disk(VOLUME) == "UpToDate"
                && peers
                    .iter()
                    .all(|p| p.replication == "Established" && p.disk == "UpToDate");
            if done {
                break moved;
            }
            if start.elapsed() > PATIENCE {
                bar.abandon();
                return Err(Error::new(format!(
                    "node 1 is not in sync: {} left",
                    mib(left)
                )));
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        bar.finish_and_clear();
        self.timeline.sample(0.0);
        self.timeline.phase(0, Phase::Secondary);
        let device = self.cluster.node(1).status()?.size(VOLUME);
        let text = format!("resync moved {} of {}", mib(moved), mib(device));
        println!(
            "          {text} in {:.1} s; {} had changed on node 2, the rest is the crashed \
             node's activity log",
            start.elapsed().as_secs_f64(),
            mib(missed)
        );
        self.timeline.event(Some(0), &text);
        if moved >= size / 10 * 9 {
            return Err(Error::new(
                "the resync moved everything instead of what changed",
            ));
        }
        Ok(())
    }

    /// Blocks that are equal may still be marked as different: they would be compared once more at
    /// the next resync. Not nice, but no harm.
    fn tell_of_marks(&self) -> Result<()> {
        for node in &self.cluster.nodes {
            let status = node.status()?;
            for peer in 0..3 {
                let marked = status.peer(peer, VOLUME).map_or(0, |p| p.out_of_sync);
                if marked > 0 {
                    let (name, marked) = (&node.name, mib(marked));
                    println!(
                        "          ({name} still has {marked} marked for node{})",
                        peer + 1
                    );
                }
            }
        }
        Ok(())
    }

    fn finish(&mut self, store: &Store) -> Result<()> {
        let node = self.cluster.node(1);
        store::check(store, node, &self.second)?;
        store::unmount_fs(store, false)?;
        // The node sees after a moment that the file system has let go of the device.
        drbd_testkit::wait::until("node 2 becomes secondary", Duration::from_secs(10), || {
            Ok(node.drbdadm(&["secondary", "demo"])?.ok().ok())
        })?;
        self.timeline.phase(1, Phase::Secondary);
        self.cluster.compare(&[0, 1, 2], VOLUME)?;
        println!("          identical on all three nodes");
        self.tell_of_marks()?;
        self.timeline.event(None, "three identical disks");
        for node in &self.cluster.nodes {
            node.adm("down")?;
        }
        self.cluster
            .nodes
            .iter_mut()
            .try_for_each(drbd_testkit::Node::stop)
    }
}
