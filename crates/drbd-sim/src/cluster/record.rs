//! What hand-written scenarios want to know about a run, and the packets they hold back.

use std::collections::BTreeMap;

use drbd_engine::status::Change;
use drbd_proto::packet::Cmd;

use super::Cluster;
use crate::clock::Time;

/// A change that a node published.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When.
    pub at: Time,
    /// By which node.
    pub node: usize,
    /// Which life of that node, counted from 0.
    pub life: u32,
    /// What it said.
    pub change: Change,
}

/// A handler that was called.
#[derive(Clone, Debug)]
pub struct HandlerCall {
    /// When.
    pub at: Time,
    /// By which node.
    pub node: usize,
    /// Its name.
    pub handler: &'static str,
    /// Peer and volume it is about.
    pub about: (Option<usize>, Option<usize>),
    /// What else it was told.
    pub facts: drbd_engine::CallFacts,
}

/// Everything that observers saw, and how much was sent.
#[derive(Debug, Default)]
pub struct Record {
    /// All changes published, in order.
    pub seen: Vec<Seen>,
    /// Handlers called, in order.
    pub upcalls: Vec<HandlerCall>,
    /// Lines of the logs: when, node, text.
    pub log: Vec<(Time, usize, String)>,
    /// Packets sent and bytes of their payload, by sender, receiver and kind.
    sent: BTreeMap<(usize, usize, Cmd), (u64, u64)>,
    /// Packets that take longer: sender, receiver, kind, by how much.
    delays: Vec<(usize, usize, Cmd, Time)>,
}

impl Cluster {
    /// Begins to record.
    pub fn record(&mut self) {
        self.record = Some(Box::default());
    }

    /// What was recorded; nothing unless [`Cluster::record`] was called before.
    pub fn recorded(&self) -> Option<&Record> {
        self.record.as_deref()
    }

    /// Packets of a kind that a node has sent to a peer, and the bytes of their payload.
    pub fn sent_packets(&self, from: usize, to: usize, kind: Cmd) -> (u64, u64) {
        let record = self.record.as_ref();
        record
            .and_then(|r| r.sent.get(&(from, to, kind)).copied())
            .unwrap_or_default()
    }

    /// From now on packets of a kind arrive that much later, and what is behind them on the same stream with them;
    /// zero ends it.
    pub fn delay_packets(&mut self, from: usize, to: usize, kind: Cmd, by: Time) {
        let Some(record) = self.record.as_mut() else {
            return;
        };
        record
            .delays
            .retain(|d| (d.0, d.1, d.2) != (from, to, kind));
        if by > 0 {
            record.delays.push((from, to, kind, by));
        }
    }

    /// A packet is sent: counts it, and says how much longer it takes.
    pub(super) fn count_packet(&mut self, from: usize, to: usize, kind: Cmd, bytes: u64) -> Time {
        let Some(record) = self.record.as_mut() else {
            return 0;
        };
        let count = record.sent.entry((from, to, kind)).or_default();
        count.0 += 1;
        count.1 += bytes;
        let held = record
            .delays
            .iter()
            .find(|d| (d.0, d.1, d.2) == (from, to, kind));
        held.map_or(0, |d| d.3)
    }
}
