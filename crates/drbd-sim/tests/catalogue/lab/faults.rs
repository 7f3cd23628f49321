//! What fate does. Each mishap announces the states that it causes.

use drbd_proto::ConnState;
use drbd_proto::packet::Cmd;
use drbd_sim::clock::MS;
use drbd_sim::config::Initial;

use super::Is::*;
use super::{Bad, Lab};

/// Longer than any test.
const FOR_EVER: u64 = 100_000_000 * MS;

impl Lab {
    /// The nodes may lose each other, and find out by a broken connection.
    pub fn may_part(&mut self, a: usize, b: usize) {
        self.link_may_break(a, b);
    }

    fn link_may_break(&mut self, a: usize, b: usize) {
        for (n, p) in [(a, b), (b, a)] {
            self.may_see(n, Bad::Conn(p, ConnState::NetworkFailure));
            self.may_see(n, Bad::Conn(p, ConnState::BrokenPipe));
        }
    }

    /// The connection is reset; the nodes try again at once.
    pub fn cut(&mut self, a: usize, b: usize) {
        self.link_may_break(a, b);
        self.c.cut(a, b);
    }

    /// The connection is reset and cannot be made again until [`Lab::mend`]; waits until both have noticed.
    #[track_caller]
    pub fn sever(&mut self, a: usize, b: usize) {
        self.link_may_break(a, b);
        self.c.close_link(a, b);
        self.apart(a, b);
    }

    /// Both nodes, if they run, have noticed that they are not connected.
    #[track_caller]
    pub fn apart(&mut self, a: usize, b: usize) {
        self.wait_until(&format!("{a} and {b} notice that they are apart"), |c| {
            let away = |n: usize, p| !c.nodes[n].up() || c.connection(n, p) < ConnState::Connected;
            away(a, b) && away(b, a)
        });
    }

    /// Nothing gets through between the nodes any more; they have to find out themselves.
    pub fn block(&mut self, a: usize, b: usize) {
        self.block_one_way(a, b);
        self.block_one_way(b, a);
    }

    /// Nothing gets from a node to a peer any more.
    pub fn block_one_way(&mut self, from: usize, to: usize) {
        self.link_may_break(from, to);
        self.c.stall(from, to, FOR_EVER);
    }

    /// The nodes reach each other again.
    pub fn mend(&mut self, a: usize, b: usize) {
        self.c.open_link(a, b);
    }

    /// All connections of a node are reset, and nobody reaches it until [`Lab::rejoin`].
    #[track_caller]
    pub fn isolate(&mut self, n: usize) {
        let others: Vec<usize> = (0..self.nodes()).filter(|p| *p != n).collect();
        for &p in &others {
            self.link_may_break(n, p);
            self.c.close_link(n, p);
        }
        for &p in &others {
            self.apart(n, p);
        }
    }

    /// Everybody can reach the node again.
    pub fn rejoin(&mut self, n: usize) {
        for p in (0..self.nodes()).filter(|p| *p != n) {
            self.mend(n, p);
        }
    }

    /// Packets of a kind take that much longer from a node to a peer, and what is behind them, too; 0 ends it.
    pub fn delay(&mut self, from: usize, to: usize, kind: Cmd, ms: u64) {
        self.c.delay_packets(from, to, kind, ms * MS);
    }

    /// The node's software is gone at once; its peers notice.
    pub fn crash(&mut self, n: usize) {
        self.gone(n);
        self.c.crash(n, false);
        for p in self.running() {
            self.apart(n, p);
        }
    }

    /// The node loses power: caches of its disks are lost, and nobody tells its peers.
    pub fn power_off(&mut self, n: usize) {
        self.gone(n);
        self.c.crash(n, true);
    }

    fn gone(&mut self, n: usize) {
        for p in (0..self.nodes()).filter(|p| *p != n) {
            self.link_may_break(n, p);
        }
    }

    /// Operations on the data of volume 0 fail from now on.
    pub fn break_disk(&mut self, n: usize) {
        self.c.forced_down = true;
        self.may_see(n, Bad::Failed);
        for p in (0..self.nodes()).filter(|p| *p != n) {
            self.may_see(p, Bad::PeerFailed(n));
        }
        if let Some(disk) = self.c.nodes[n].disks[0].as_mut() {
            disk.broken = true;
            disk.was_broken = true;
        }
    }

    /// The disk works again, with what it had.
    pub fn mend_disk(&mut self, n: usize) {
        if let Some(disk) = self.c.nodes[n].disks[0].as_mut() {
            disk.broken = false;
        }
    }

    /// Another disk is put in, with the content and the metadata of the beginning.
    pub fn replace_disk(&mut self, n: usize) {
        let content = match self.c.config.initial {
            Initial::Fresh => 10 + n as u64,
            _ => 1,
        };
        let disk = drbd_sim::format::create(&self.c.config, n, 0, content);
        match disk {
            Ok(disk) => self.c.nodes[n].disks[0] = Some(disk),
            Err(e) => self.panic(&e),
        }
    }

    /// Another disk is put in, with fresh metadata over garbage.
    pub fn fresh_disk(&mut self, n: usize) {
        let config = drbd_sim::config::Config {
            initial: Initial::Fresh,
            ..self.c.config.clone()
        };
        match drbd_sim::format::create(&config, n, 0, 10 + n as u64) {
            Ok(disk) => self.c.nodes[n].disks[0] = Some(disk),
            Err(e) => self.panic(&e),
        }
    }

    /// A block on a node's disk changes by itself.
    pub fn corrupt(&mut self, n: usize, block: u64) {
        if let Some(disk) = self.c.nodes[n].disks[0].as_mut() {
            disk.corrupt(block * 8, 8, 999);
        }
    }

    /// Operations on the data of this node take that long; 0 ends it.
    pub fn slow_disk(&mut self, n: usize, ms: u64) {
        self.c.nodes[n].slow_disk = (ms > 0).then_some(ms * MS);
    }

    /// Requests may fail without anybody having promised otherwise.
    pub fn errors_expected(&mut self) {
        self.c.forced_down = true;
    }

    /// What the disk of a node shows is what counts from now on: the administrator chose it.
    pub fn accept(&mut self, n: usize) {
        self.c.accept_content(n, 0);
    }

    /// A promotion may show data without the latest acknowledged writes.
    pub fn stale_data_expected(&mut self) {
        self.c.lenient = true;
    }

    /// The node is connected with nobody.
    #[track_caller]
    pub fn alone(&self, n: usize) {
        for p in (0..self.nodes()).filter(|p| *p != n) {
            if self.is(n, Conn(p, ConnState::Connected)) {
                self.panic(&format!("node {n} is connected with node {p}"));
            }
        }
    }
}
