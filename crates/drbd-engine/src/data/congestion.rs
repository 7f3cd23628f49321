//! A peer that cannot keep up: this node goes Ahead of it, which gets marks instead of data then, or leaves it (data
//! path, section 19; state machine, section 9.9).

use alloc::format;
use alloc::vec::Vec;
use core::time::Duration;

use drbd_proto::{ConnState, DiskState, NodeId, ReplState, VolumeNr};

use crate::effect::LogLevel;
use crate::engine::Engine;
use crate::options::OnCongestion;
use crate::state::change::ChangeFlags;
use crate::timer::Timer;

/// How long nothing must be under way before a node that is Ahead lets its peer catch up.
const CALM: Duration = Duration::from_secs(1);
/// How much later it tries again while the peer's requests are being answered.
const LATER: Duration = Duration::from_millis(100);

impl Engine {
    /// A write is about to be given to the peers: looks whether one of them has too much to do already. What
    /// follows from that happens after this write.
    pub(crate) fn check_congestion(&mut self, volume: VolumeNr) {
        if self.state.disk(volume) != DiskState::UpToDate {
            return;
        }
        let used = self
            .volumes
            .get(&volume)
            .and_then(|v| v.data.al.as_ref())
            .map_or(0, |al| u32::from(al.referenced()));
        let mut full = Vec::new();
        for (peer, conn) in &mut self.conns {
            let options = &conn.options;
            let replicates = self
                .state
                .pd(*peer, volume)
                .is_some_and(|pd| pd.replicates());
            if options.on_congestion == OnCongestion::Block
                || !replicates
                || self.state.cstate(*peer) != ConnState::Connected
                || conn.ctx.version < 96
            {
                continue;
            }
            let fill = conn.data.ap_in_flight + conn.data.rs_in_flight;
            let limit = u64::from(options.congestion_fill);
            let what = if limit > 0 && fill >= limit {
                Some(("fill", fill, limit))
            } else if used >= options.congestion_extents {
                Some(("extents", used.into(), options.congestion_extents.into()))
            } else {
                None
            };
            // One volume that is congested counts for the whole connection.
            if what.is_some() || conn.data.congested {
                conn.data.congested = true;
                full.push((*peer, what));
            }
        }
        for (peer, what) in full {
            if let Some((name, is, limit)) = what {
                let text = format!("Congestion-{name} threshold reached ({is} >= {limit})");
                self.log_at(LogLevel::Info, Some(peer), Some(volume), text);
            }
            self.data.congested.insert((peer, volume));
            self.data.recheck = true;
        }
    }

    /// Goes Ahead of peers that were found to be congested, or leaves them.
    pub(crate) fn settle_congestion(&mut self) {
        for (peer, volume) in core::mem::take(&mut self.data.congested) {
            let Some(conn) = self.conns.get(&peer) else {
                continue;
            };
            let replicates = self.state.pd(peer, volume).is_some_and(|p| p.replicates());
            // It may be over.
            if conn.data.ap_in_flight == 0 || !replicates {
                continue;
            }
            match conn.options.on_congestion {
                OnCongestion::Block => {}
                OnCongestion::PullAhead => {
                    let _ = self.change(ChangeFlags::HARD, |s| {
                        if let Some(pd) = s.pd_mut(peer, volume) {
                            pd.repl = ReplState::Ahead;
                        }
                    });
                    self.watch_ahead(peer);
                }
                OnCongestion::Disconnect => {
                    let text = "on-congestion disconnect: leaving the peer";
                    self.log_at(LogLevel::Warn, Some(peer), None, text);
                    self.go_standalone(peer);
                }
            }
        }
    }

    /// Whether this node is Ahead of a peer with some volume.
    fn is_ahead(&self, peer: NodeId) -> bool {
        let conn = self.state.conns.get(&peer);
        conn.is_some_and(|c| c.peers.values().any(|pd| pd.repl == ReplState::Ahead))
    }

    /// Nothing may be under way to a peer any more: a moment later it may catch up. The reference waits for another
    /// write (a deviation).
    pub(crate) fn watch_ahead(&mut self, peer: NodeId) {
        let Some(conn) = self.conns.get_mut(&peer) else {
            return;
        };
        if conn.data.ap_in_flight > 0 {
            return;
        }
        conn.data.congested = false;
        if self.is_ahead(peer) {
            self.timers.set_if_idle(Timer::Ahead(peer), self.now + CALM);
        }
    }

    /// The peer may catch up: all volumes become the source of a resync. Their marks are with the peer already.
    pub(crate) fn leave_ahead(&mut self, peer: NodeId) {
        let Some(conn) = self.conns.get(&peer) else {
            return;
        };
        if self.state.cstate(peer) != ConnState::Connected || conn.data.ap_in_flight > 0 {
            // The next acknowledgement sets the timer again.
            return;
        }
        let volumes: Vec<VolumeNr> = conn.peers.keys().copied().collect();
        for volume in volumes {
            if self.state.repl(peer, volume) != ReplState::Ahead {
                continue;
            }
            if self.serves_resync(peer, volume) {
                self.timers
                    .set_if_idle(Timer::Ahead(peer), self.now + LATER);
            } else {
                self.resync_start(peer, volume);
            }
        }
    }
}
