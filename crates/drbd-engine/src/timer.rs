//! Deadlines of the engine. Each wait has exactly one entry here (design rule 10).

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use drbd_proto::{NodeId, VolumeNr};

use crate::time::Instant;

/// What a deadline is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Timer {
    /// Send the next P_PING on the control stream.
    Ping(NodeId),
    /// A P_PING_ACK has to be here by now.
    PingTimeout(NodeId),
    /// The next packet of the handshake has to be here by now.
    Handshake(NodeId),
    /// The bitmap exchange has to get on by now.
    BitmapExchange(NodeId),
    /// Prepare the connect transaction again.
    ConnectRetry(NodeId),
    /// The cluster-wide change under way has to be decided by now.
    TwoPcTimeout,
    /// Start a waiting cluster-wide change.
    TwoPcRetry,
    /// A disk that could be better waits for nothing.
    Heal,
    /// A peer lacks blocks that no comparison brings it.
    Offer,
    /// Next step of a promotion or demotion.
    RoleChange,
    /// A request or barrier towards this peer has to be answered by now (ko-count times timeout).
    RequestTimeout(NodeId),
    /// Somebody who wants to read has waited long enough.
    Readers,
    /// The disk has to answer by now.
    DiskTimeout(VolumeNr),
    /// Let a peer catch up that this node is Ahead of.
    Ahead(NodeId),
    /// Send the accumulated peer-ack.
    PeerAck,
    /// Next turn of the resync request generator.
    ResyncTurn(NodeId, VolumeNr),
    /// Write bitmap pages whose bits were cleared.
    LazyBitmap(VolumeNr),
    /// A PREPARE that came early has waited long enough.
    TwoPcEarly,
    /// Serve the next request of a target that waits in favour of applications.
    ResyncSlowed(NodeId, VolumeNr),
}

/// All deadlines.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    at: BTreeMap<Timer, Instant>,
}

impl Timers {
    /// Sets a deadline; an earlier setting of the same timer is replaced.
    pub(crate) fn set(&mut self, timer: Timer, at: Instant) {
        self.at.insert(timer, at);
    }

    /// Sets a deadline unless the timer runs already.
    pub(crate) fn set_if_idle(&mut self, timer: Timer, at: Instant) {
        self.at.entry(timer).or_insert(at);
    }

    /// Stops a timer.
    pub(crate) fn cancel(&mut self, timer: Timer) {
        self.at.remove(&timer);
    }

    /// Whether a timer runs.
    pub(crate) fn is_set(&self, timer: Timer) -> bool {
        self.at.contains_key(&timer)
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.at.values().min().copied()
    }

    /// Takes the timers that are due, earliest first.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<Timer> {
        let mut due: Vec<(Instant, Timer)> = self
            .at
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(t, at)| (*at, *t))
            .collect();
        due.sort();
        for (_, timer) in &due {
            self.at.remove(timer);
        }
        due.into_iter().map(|(_, t)| t).collect()
    }
}
