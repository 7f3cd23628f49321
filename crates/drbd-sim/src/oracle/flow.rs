//! O3, O5, C3, D5: the order of packets and acknowledgements on each connection.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use drbd_proto::packet::{Data, Discard};
use drbd_proto::{DpFlags, Packet};

use super::Violation;
use crate::buffer::Payload;

/// A write that was received: volume, first sector, content.
pub type Received = (usize, u64, Rc<Payload>);

/// What a node sent to a peer in the present session.
#[derive(Debug, Default)]
struct Sent {
    session: u64,
    last_barrier: Option<u32>,
    writes_since_barrier: u32,
    /// Writes that wait for an acknowledgement, by block id, with the application's request.
    waiting: BTreeMap<(u64, u64), u64>,
}

/// What a node received from a peer in the present session.
#[derive(Debug, Default)]
struct Epochs {
    session: u64,
    /// Closed epochs with their numbers.
    closed: VecDeque<(u32, Epoch)>,
    open: Epoch,
}

#[derive(Debug, Default)]
struct Epoch {
    writes: Vec<(u64, Received)>,
    /// Block ids of everything that counts.
    ids: Vec<u64>,
    count: u32,
    confirmed: u32,
}

/// All connections, by (node, peer).
#[derive(Debug, Default)]
pub struct Flow {
    sent: BTreeMap<(usize, usize), Sent>,
    received: BTreeMap<(usize, usize), Epochs>,
}

fn violation<T>(rule: &'static str, what: String) -> Result<T, Violation> {
    Err(Violation { rule, what })
}

impl Flow {
    /// A node is connected.
    pub fn session_begins(&mut self, node: usize, peer: usize, session: u64) {
        self.sent.insert(
            (node, peer),
            Sent {
                session,
                ..Sent::default()
            },
        );
        self.received.insert(
            (node, peer),
            Epochs {
                session,
                ..Epochs::default()
            },
        );
    }

    /// A node is not connected any more.
    pub fn session_ends(&mut self, node: usize, peer: usize) {
        self.sent.remove(&(node, peer));
        self.received.remove(&(node, peer));
    }

    /// A node is gone.
    pub fn node_gone(&mut self, node: usize) {
        self.sent.retain(|k, _| k.0 != node);
        self.received.retain(|k, _| k.0 != node);
    }

    /// A node sends a packet; `waits` says that writes are not complete before the peer has acknowledged
    /// them. The answer names the writes which it thereby says are on stable storage.
    pub fn sent(
        &mut self,
        node: usize,
        peer: usize,
        packet: &Packet,
        io: Option<u64>,
        waits: bool,
    ) -> Result<Vec<Received>, Violation> {
        let Some(s) = self.sent.get_mut(&(node, peer)) else {
            return Ok(Vec::new());
        };
        match packet {
            Packet::Barrier(b) => {
                let nr = b.barrier.0;
                if s.writes_since_barrier == 0 {
                    return violation(
                        "O3",
                        format!("barrier {nr} to node {peer} without a write before it"),
                    );
                }
                if s.last_barrier
                    .is_some_and(|l| (nr.wrapping_sub(l) as i32) <= 0)
                {
                    return violation(
                        "O3",
                        format!(
                            "barrier {nr} to node {peer} after barrier {:?}",
                            s.last_barrier
                        ),
                    );
                }
                s.last_barrier = Some(nr);
                s.writes_since_barrier = 0;
            }
            Packet::Data(d) => {
                s.writes_since_barrier += 1;
                // With protocol A a write ack may be asked for, but nobody waits for it.
                let wanted = waits
                    && d.dp_flags
                        .intersects(DpFlags::SEND_WRITE_ACK.union(DpFlags::SEND_RECEIVE_ACK));
                if let (true, Some(io)) = (wanted, io) {
                    s.waiting.insert((d.block_id.0, d.sector.0), io);
                }
            }
            Packet::Trim(_) | Packet::Zeroes(_) => s.writes_since_barrier += 1,
            Packet::NegAck(a) => {
                if let Some(r) = self.received.get_mut(&(node, peer)) {
                    let all = r.closed.iter_mut().map(|(_, e)| e).chain([&mut r.open]);
                    all.for_each(|e| {
                        e.writes
                            .retain(|(id, w)| (*id, w.1) != (a.block_id.0, a.sector.0))
                    });
                }
            }
            Packet::ConfirmStable(c) => {
                if let Some(r) = self.received.get_mut(&(node, peer)) {
                    let all = r.closed.iter_mut().map(|(_, e)| e).chain([&mut r.open]);
                    let mut its = all.filter(|e| e.ids.contains(&c.oldest.0));
                    if let Some(epoch) = its.next() {
                        epoch.confirmed += c.set_size;
                    }
                }
            }
            Packet::BarrierAck(a) => return self.barrier_ack(node, peer, a.barrier.0, a.set_size),
            _ => {}
        }
        Ok(Vec::new())
    }

    fn barrier_ack(
        &mut self,
        node: usize,
        peer: usize,
        nr: u32,
        set_size: u32,
    ) -> Result<Vec<Received>, Violation> {
        let Some(r) = self.received.get_mut(&(node, peer)) else {
            return Ok(Vec::new());
        };
        match r.closed.pop_front() {
            Some((n, e)) if n == nr => {
                if e.count - e.confirmed.min(e.count) != set_size {
                    let what = format!(
                        "barrier ack {nr} to node {peer} for {set_size} writes, {} were received, {} confirmed",
                        e.count, e.confirmed
                    );
                    return violation("O5", what);
                }
                Ok(e.writes.into_iter().map(|(_, w)| w).collect())
            }
            other => violation(
                "O4",
                format!(
                    "barrier ack {nr} to node {peer}, the oldest open barrier is {:?}",
                    other.map(|o| o.0)
                ),
            ),
        }
    }

    /// A packet arrives at a node, before the engine sees it.
    pub fn received(
        &mut self,
        node: usize,
        peer: usize,
        session: u64,
        packet: &Packet,
    ) -> Result<(), Violation> {
        if let Some(r) = self
            .received
            .get_mut(&(node, peer))
            .filter(|r| r.session == session)
        {
            match packet {
                Packet::Data(Data { block_id, .. })
                | Packet::Trim(Discard { block_id, .. })
                | Packet::Zeroes(Discard { block_id, .. }) => {
                    r.open.count += 1;
                    r.open.ids.push(block_id.0);
                }
                Packet::Barrier(b) => {
                    let epoch = std::mem::take(&mut r.open);
                    r.closed.push_back((b.barrier.0, epoch));
                }
                _ => {}
            }
        }
        if let Some(s) = self
            .sent
            .get_mut(&(node, peer))
            .filter(|s| s.session == session)
            && let Packet::RecvAck(a)
            | Packet::WriteAck(a)
            | Packet::WriteAckInSync(a)
            | Packet::NegAck(a)
            | Packet::RsWriteAck(a) = packet
        {
            s.waiting.remove(&(a.block_id.0, a.sector.0));
        }
        Ok(())
    }

    /// The content of a write that was just received.
    pub fn received_data(&mut self, node: usize, peer: usize, block_id: u64, write: Received) {
        if let Some(r) = self.received.get_mut(&(node, peer)) {
            r.open.writes.push((block_id, write));
        }
    }

    /// C3: a request completes successfully; no connected peer may still owe an acknowledgement.
    pub fn completes(&mut self, node: usize, io: u64) -> Result<(), Violation> {
        for ((_, peer), s) in self.sent.iter_mut().filter(|(k, _)| k.0 == node) {
            if let Some((id, _)) = s.waiting.iter().find(|(_, i)| **i == io) {
                return violation(
                    "C3",
                    format!(
                        "request {io} completes while node {peer} has not acknowledged block {id:?}"
                    ),
                );
            }
        }
        Ok(())
    }
}
