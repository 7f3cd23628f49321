//! A PREPARE that has overtaken the end of the same initiator's previous transaction (state machine, section 5.4).
//!
//! That end comes over another link, and is on its way: it is waited for, once, before the PREPARE is looked at. On a
//! link that is not a member's yet the PREPARE is followed by the volume exchange, which waits behind it.

use alloc::vec::Vec;

use drbd_proto::packet::TwopcHead;
use drbd_proto::{ConnState, NodeId, Packet, Stream, VolumeNr};

use crate::engine::{Engine, PacketError};
use crate::rows::Row;
use crate::time::Instant;
use crate::timer::Timer;
use crate::twopc::Active;

/// The part of twopc-timeout that an early PREPARE waits.
const WAIT_FRACTION: u32 = 20;

/// Packets that may wait behind a PREPARE: more than the volume exchange has for one volume.
const PER_VOLUME: usize = 8;

/// A PREPARE that waits, with what came behind it.
#[derive(Debug)]
pub(crate) struct Early {
    /// The link.
    from: NodeId,
    /// The transaction.
    head: TwopcHead,
    /// How long it waits.
    until: Instant,
    /// The PREPARE, and what has to be handled after it.
    packets: Vec<(VolumeNr, Packet)>,
}

impl Engine {
    /// A packet arrived: given back if it is to be handled now.
    pub(crate) fn twopc_hold(
        &mut self,
        from: NodeId,
        stream: Stream,
        volume: VolumeNr,
        packet: Packet,
    ) -> Option<Packet> {
        if stream != Stream::Data {
            return Some(packet);
        }
        let ended = match &packet {
            Packet::TwopcCommit(p) | Packet::TwopcAbort(p) => Some(p.head),
            _ => None,
        };
        if let Some(head) = ended {
            self.twopc_early_is_over(head);
        }
        if let Some(at) = self.twopc.early.iter().position(|e| e.from == from) {
            return self.twopc_hold_behind(at, volume, packet);
        }
        let head = match &packet {
            Packet::TwopcPrepare(p) => p.head,
            Packet::TwopcPrepRsz(p) => p.head,
            _ => return Some(packet),
        };
        let overtook = matches!(&self.twopc.active, Some(Active::Participant(p))
            if p.initiator == head.initiator && p.tid != head.tid && !p.parents.contains(from));
        let speaks = (self.conns.get(&from)).is_some_and(|c| c.handshake.done());
        if !overtook || !speaks {
            return Some(packet);
        }
        self.note(Row::R6);
        let mut wait = self.options.twopc_timeout / WAIT_FRACTION;
        if let Some(conn) = self.conns.get(&from) {
            // A handshake that goes on silently lasts ten times that.
            wait = wait.min(conn.options.ping_timeout * 5);
        }
        self.twopc.early.push(Early {
            from,
            head,
            until: self.now + wait,
            packets: Vec::from([(volume, packet)]),
        });
        self.twopc_early_timer();
        None
    }

    /// What follows a PREPARE that waits. Among members nothing depends on the order.
    fn twopc_hold_behind(&mut self, at: usize, volume: VolumeNr, packet: Packet) -> Option<Packet> {
        let most = (self.volumes.len() + 1) * PER_VOLUME;
        let early = self.twopc.early.get_mut(at)?;
        if self.state.cstate(early.from) == ConnState::Connected {
            return Some(packet);
        }
        if early.packets.len() < most {
            early.packets.push((volume, packet));
            return None;
        }
        let early = self.twopc.early.remove(at);
        self.twopc_early_release(early);
        Some(packet)
    }

    /// COMMIT or ABORT for one that waits: its PREPARE is not needed any more.
    fn twopc_early_is_over(&mut self, head: TwopcHead) {
        let over: Vec<Early> = (self.twopc.early)
            .extract_if(.., |e| {
                e.head.initiator == head.initiator && e.head.tid == head.tid
            })
            .collect();
        for mut early in over {
            early.packets.remove(0);
            self.twopc_early_packets(early.from, early.packets);
        }
        self.twopc_early_timer();
    }

    /// The transaction that was in the way is over.
    pub(crate) fn twopc_early_go_on(&mut self) {
        for early in core::mem::take(&mut self.twopc.early) {
            self.twopc_early_release(early);
        }
        self.twopc_early_timer();
    }

    /// Some have waited long enough.
    pub(crate) fn twopc_early_due(&mut self) {
        let now = self.now;
        let due: Vec<Early> = (self.twopc.early)
            .extract_if(.., |e| e.until <= now)
            .collect();
        for early in due {
            self.twopc_early_release(early);
        }
        self.twopc_early_timer();
    }

    /// The link is gone, and what waited with it.
    pub(crate) fn twopc_early_lost(&mut self, peer: NodeId) {
        self.twopc.early.retain(|e| e.from != peer);
        self.twopc_early_timer();
    }

    /// The PREPARE is looked at without another wait, then what is behind it.
    fn twopc_early_release(&mut self, early: Early) {
        let mut packets = early.packets.into_iter();
        if let Some((volume, packet)) = packets.next() {
            let result = self.control_packet(early.from, Stream::Data, volume, &packet);
            self.twopc_early_result(early.from, result.map(drop));
        }
        self.twopc_early_packets(early.from, packets);
    }

    fn twopc_early_packets(
        &mut self,
        from: NodeId,
        packets: impl IntoIterator<Item = (VolumeNr, Packet)>,
    ) {
        for (volume, packet) in packets {
            if !(self.conns.get(&from)).is_some_and(|c| c.handshake.done()) {
                return;
            }
            let result = self.dispatch(from, Stream::Data, volume, packet, None);
            self.twopc_early_result(from, result);
        }
    }

    fn twopc_early_result(&mut self, from: NodeId, result: Result<(), PacketError>) {
        if let Err(PacketError(text)) = result {
            self.fail_connection(from, ConnState::ProtocolError, &text);
        }
    }

    fn twopc_early_timer(&mut self) {
        match self.twopc.early.iter().map(|e| e.until).min() {
            Some(at) => self.timers.set(Timer::TwoPcEarly, at),
            None => self.timers.cancel(Timer::TwoPcEarly),
        }
    }
}
