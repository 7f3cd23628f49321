//! What applications do, and how much went over the network.

use drbd_engine::effect::IoError;
use drbd_proto::packet::Cmd;
use drbd_sim::cluster::{IoKind, IoOutcome};

use super::Lab;

impl Lab {
    /// Writes blocks, one after the other, each successfully.
    #[track_caller]
    pub fn write(&mut self, n: usize, blocks: impl IntoIterator<Item = u64>) {
        self.write_volume(n, 0, blocks);
    }

    #[track_caller]
    pub fn write_volume(&mut self, n: usize, v: usize, blocks: impl IntoIterator<Item = u64>) {
        for block in blocks {
            let io = self.c.write(n, v, block);
            let outcome = self.outcome(io);
            if outcome != Ok(()) {
                self.panic(&format!("write of block {block} on node {n}: {outcome:?}"));
            }
        }
    }

    /// Reads blocks; their content is checked by the simulator.
    #[track_caller]
    pub fn read(&mut self, n: usize, blocks: impl IntoIterator<Item = u64>) {
        for block in blocks {
            let io = self.c.read(n, 0, block);
            let outcome = self.outcome(io);
            if outcome != Ok(()) {
                self.panic(&format!("read of block {block} on node {n}: {outcome:?}"));
            }
        }
    }

    /// Submits a write of a block.
    pub fn begin_write(&mut self, n: usize, block: u64) -> u64 {
        self.c.write(n, 0, block)
    }

    /// Submits a write of several blocks at once.
    pub fn begin_large_write(&mut self, n: usize, block: u64, blocks: u64) -> u64 {
        let kind = IoKind::Write { fua: false };
        self.c.submit(n, 0, kind, block * 8, blocks * 8)
    }

    /// Submits a read of a block.
    pub fn begin_read(&mut self, n: usize, block: u64) -> u64 {
        self.c.read(n, 0, block)
    }

    /// How a request ends.
    #[track_caller]
    pub fn outcome(&mut self, io: u64) -> IoOutcome {
        self.wait_until("the end of a request", |c| c.outcome(io).is_some());
        match self.c.outcome(io) {
            Some(outcome) => outcome,
            None => self.panic("the request is gone"),
        }
    }

    /// The request succeeds.
    #[track_caller]
    pub fn succeeds(&mut self, io: u64) {
        let outcome = self.outcome(io);
        if outcome != Ok(()) {
            self.panic(&format!("a request ended with {outcome:?}"));
        }
    }

    /// The request fails.
    #[track_caller]
    pub fn fails(&mut self, io: u64) {
        let outcome = self.outcome(io);
        if outcome != Err(IoError::Io) {
            self.panic(&format!("a request ended with {outcome:?}"));
        }
    }

    /// The request is not over.
    #[track_caller]
    pub fn pending(&self, io: u64) {
        if let Some(outcome) = self.c.outcome(io) {
            self.panic(&format!("a request ended already, with {outcome:?}"));
        }
    }

    /// The same content in all blocks of volume 0 on the disks of these nodes.
    #[track_caller]
    pub fn same_content(&self, nodes: impl IntoIterator<Item = usize>) {
        self.same_content_of(0, nodes);
    }

    #[track_caller]
    pub fn same_content_of(&self, v: usize, nodes: impl IntoIterator<Item = usize>) {
        let nodes: Vec<usize> = nodes.into_iter().collect();
        let size = nodes.iter().map(|n| self.c.size(*n, v)).min().unwrap_or(0);
        for block in 0..size / 8 {
            let first = self.content_of(nodes[0], v, block);
            for n in &nodes[1..] {
                if self.content_of(*n, v, block) != first {
                    self.panic(&format!(
                        "block {block} of volume {v} differs on nodes {} and {n}",
                        nodes[0]
                    ));
                }
            }
        }
    }

    /// What a node's disk holds in a block.
    pub fn content(&self, n: usize, block: u64) -> Option<u64> {
        self.content_of(n, 0, block)
    }

    pub fn content_of(&self, n: usize, v: usize, block: u64) -> Option<u64> {
        self.c.nodes[n].disks[v].as_ref()?.visible().get(block * 8)
    }

    /// Packets of a kind that a node has sent to a peer so far.
    pub fn packets(&self, from: usize, to: usize, kind: Cmd) -> u64 {
        self.c.sent_packets(from, to, kind).0
    }

    /// Blocks that a node has sent to a peer to resync it so far.
    pub fn resynced(&self, from: usize, to: usize) -> u64 {
        self.c.sent_packets(from, to, Cmd::RsDataReply).1 / 4096
    }

    /// Waits until another packet of a kind is sent from a node to a peer.
    #[track_caller]
    pub fn packet(&mut self, from: usize, to: usize, kind: Cmd) {
        let before = self.packets(from, to, kind);
        let what = format!("node {from} sends {} to node {to}", kind.name());
        self.wait_until(&what, |c| c.sent_packets(from, to, kind).0 > before);
    }
}
