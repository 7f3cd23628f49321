//! Effects on their way out, and the rule "durable before visible".
//!
//! While a superblock write is under way nothing that may depend on it leaves the node: packets, completions
//! and writes to the data area wait here, in order, and follow when the superblock is on stable storage
//! (design rule 8). Superblocks change rarely, so the wait is rare; in return no piece of the engine has to
//! know which promise depends on which field. What carries no promise passes: pings, the packets before the
//! connect transaction, reads, metadata I/O, log lines.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use drbd_proto::{NodeId, Packet};

use crate::effect::Effect;

/// The engine's outgoing effects.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// Ready to be carried out.
    ready: Vec<Effect>,
    /// Waiting for metadata to become durable.
    held: VecDeque<Effect>,
    /// Whether metadata is on its way to the disk.
    holding: bool,
}

impl Outbox {
    /// Queues an effect.
    pub(crate) fn push(&mut self, effect: Effect) {
        if self.holding && must_wait(&effect) {
            self.held.push_back(effect);
        } else {
            self.ready.push(effect);
        }
    }

    /// Metadata that promises depend on is not durable: effects of this moment wait as well.
    pub(crate) fn hold(&mut self) {
        if self.holding {
            return;
        }
        self.holding = true;
        // What this event caused may depend on the change that this event made.
        for effect in core::mem::take(&mut self.ready) {
            self.push(effect);
        }
    }

    /// All metadata is durable.
    pub(crate) fn release(&mut self) {
        self.holding = false;
        self.ready.extend(self.held.drain(..));
    }

    /// The streams to a peer are gone: packets to it that wait here go nowhere.
    pub(crate) fn forget_peer(&mut self, peer: NodeId) {
        self.held
            .retain(|e| !matches!(e, Effect::Send { peer: p, .. } if *p == peer));
        self.ready
            .retain(|e| !matches!(e, Effect::Send { peer: p, .. } if *p == peer));
    }

    /// Takes what is ready.
    pub(crate) fn drain_into(&mut self, out: &mut Vec<Effect>) {
        out.append(&mut self.ready);
    }
}

/// Whether an effect has to wait while metadata is being written.
fn must_wait(effect: &Effect) -> bool {
    match effect {
        Effect::Send { packet, .. } => !matches!(
            packet,
            Packet::Ping
                | Packet::PingAck
                | Packet::ConnectionFeatures(_)
                | Packet::AuthChallenge(_)
                | Packet::AuthResponse(_)
        ),
        Effect::CompleteIo { .. }
        | Effect::OpenDone { .. }
        | Effect::DiskWrite { .. }
        | Effect::DiskDiscard { .. }
        | Effect::Release { .. }
        | Effect::Close { .. }
        | Effect::Connect { .. }
        | Effect::Reply { .. }
        | Effect::Limits { .. }
        | Effect::Detach { .. } => true,
        Effect::DiskRead { .. }
        | Effect::DiskFlush { .. }
        | Effect::MetaRead { .. }
        | Effect::MetaWrite { .. }
        | Effect::Measure { .. }
        | Effect::Digest { .. }
        | Effect::IsZero { .. }
        | Effect::Framing { .. }
        | Effect::Upcall { .. }
        | Effect::Changed(_)
        | Effect::ResyncFacts { .. }
        | Effect::Log(_) => false,
    }
}
