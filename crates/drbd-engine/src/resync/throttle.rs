//! Applications come first: while they use the disk, a resync or verify is no faster than `c-min-rate` (data path,
//! section 15.6).

use drbd_proto::{NodeId, Role, VolumeNr};

use crate::engine::Engine;
use crate::resync::rate::TURN;
use crate::time::Instant;
use crate::timer::Timer;

/// Sectors that applications may move between two looks without being busy.
const IDLE: u64 = 64;

/// What applications moved on a disk when a resync or verify last looked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Applications {
    moved: u64,
    /// They count as busy until then, so that a turn that comes early finds them so, too.
    busy_until: Option<Instant>,
}

impl Applications {
    /// Whether they were seen to use the disk, and not long ago.
    pub(super) fn are_busy(&self, now: Instant) -> bool {
        self.busy_until.is_some_and(|until| now < until)
    }
}

impl Engine {
    /// How many sectors a resync or verify may ask for while applications use the disk: nothing if it is faster than
    /// `c-min-rate`, otherwise what that allows in a turn; `None`: applications are in nobody's way.
    pub(super) fn beside_applications(&mut self, peer: NodeId, volume: VolumeNr) -> Option<u64> {
        let v = self.volumes.get(&volume)?;
        let moved = (v.data.read + v.data.written).saturating_sub(v.data.synced);
        let waits = !v.data.al_queue.local.is_empty();
        let block = v.disk.as_ref().map_or(4096, |d| d.bitmap.block_size());
        let (now, weight) = (self.now, self.bits_towards(peer, volume));
        let pd = self.conns.get_mut(&peer)?.peers.get_mut(&volume)?;
        let least = u64::from(pd.options.c_min_rate);
        let state = &mut pd.data.resync;
        if least == 0 {
            return None;
        }
        if waits || moved.saturating_sub(state.applications.moved) > IDLE {
            state.applications = Applications {
                moved,
                busy_until: Some(now + TURN),
            };
        }
        if !state.applications.are_busy(now) {
            return None;
        }
        let (marks, left) = match (&state.run, &state.verify, &state.source) {
            (Some(run), ..) => (&run.marks, weight),
            (_, Some(verify), _) => (&verify.marks, verify.left),
            (_, _, Some(source)) => (&source.marks, weight),
            _ => return None,
        };
        let [_, (ms, bits)] = marks.windows(now, left);
        let kib = bits.saturating_mul(u64::from(block / 1024));
        if kib.saturating_mul(1000) > least.saturating_mul(ms.max(1)) {
            return Some(0);
        }
        Some((least / 5).max(1))
    }

    /// Whether the next request of a target has to wait: another one does, or applications come first. A target that is
    /// Primary gets what it needs at once.
    pub(super) fn slows_down(&mut self, peer: NodeId, volume: VolumeNr) -> bool {
        let timer = Timer::ResyncSlowed(peer, volume);
        if self.timers.is_set(timer) {
            return true;
        }
        let role = self.state.conns.get(&peer).map(|c| c.peer_role);
        let slow = role != Some(Role::Primary) && self.beside_applications(peer, volume) == Some(0);
        if slow {
            self.timers.set(timer, self.now + TURN);
        }
        slow
    }
}
