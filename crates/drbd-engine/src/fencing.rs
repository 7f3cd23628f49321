//! Fencing: a peer that cannot be reached is kept from using its data before this node goes on with its own
//! (state machine, section 12).

use alloc::format;
use alloc::vec::Vec;

use drbd_proto::{ConnState, DiskState, NodeId, ReplState, Role, VolumeNr};

use crate::effect::LogLevel;
use crate::engine::Engine;
use crate::options::Fencing;
use crate::state::State;
use crate::state::after::Deferred;
use crate::state::change::ChangeFlags;
use crate::upcall::{Handler, Then};

/// Exit codes of `fence-peer` (state machine, section 12.1).
mod exit {
    pub(super) const PEER_INCONSISTENT: i32 = 3;
    pub(super) const PEER_OUTDATED: i32 = 4;
    pub(super) const PEER_DOWN: i32 = 5;
    pub(super) const PEER_PRIMARY: i32 = 6;
    pub(super) const PEER_FENCED: i32 = 7;
}

/// What came of the wish to fence a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fenced {
    /// The handler runs; its end is reported to the role change under way.
    Running,
    /// There is nothing to do, or the peer's disks are known to be harmless.
    Yes,
    /// It cannot be done.
    No,
}

impl Engine {
    /// `fencing` of a connection.
    fn fencing(&self, peer: NodeId) -> Fencing {
        self.conns
            .get(&peer)
            .map_or(Fencing::DontCare, |c| c.options.fencing)
    }

    /// The best disk of a peer.
    pub(crate) fn best_peer_disk(&self, peer: NodeId) -> DiskState {
        let disks = self.state.conns.get(&peer).map(|c| c.peers.values());
        let best = disks.and_then(|d| d.map(|pd| pd.pdisk).max());
        best.unwrap_or(DiskState::Diskless)
    }

    /// The best own disk.
    fn best_own_disk(&self) -> DiskState {
        let disks = self.state.devices.values().map(|d| d.disk);
        disks.max().unwrap_or(DiskState::Diskless)
    }

    /// A connection is lost and cleaned up: a Primary has its peer fenced (section 12.1, a).
    pub(crate) fn fence_lost_peer(&mut self, peer: NodeId) {
        if self.state.role == Role::Primary
            && self.fencing(peer) != Fencing::DontCare
            && self.best_peer_disk(peer) >= DiskState::Unknown
        {
            self.fence(peer);
        }
    }

    /// Has a peer fenced that is not connected.
    pub(crate) fn fence(&mut self, peer: NodeId) -> Fenced {
        if self.state.cstate(peer) >= ConnState::Connected {
            return Fenced::No;
        }
        let best = self.best_own_disk();
        let client = self.volumes.values().all(|v| v.options.diskless);
        if best < DiskState::Consistent && !(best == DiskState::Diskless && client) {
            // Nothing here is worth the peer's death.
            let _ = self.change(ChangeFlags::HARD, |s| {
                if let Some(c) = s.conns.get_mut(&peer) {
                    c.susp_fen = false;
                }
            });
            return Fenced::No;
        }
        if self.fencing(peer) == Fencing::DontCare {
            return Fenced::Yes;
        }
        let Some(conn) = self.conns.get_mut(&peer) else {
            return Fenced::No;
        };
        let connects = conn.connects;
        if conn.fence_call != Some(connects) {
            conn.fence_call = Some(connects);
            let then = Then::Fence { peer, connects };
            if !self.call_then(Handler::FencePeer, Some(peer), None, then) {
                if let Some(conn) = self.conns.get_mut(&peer) {
                    conn.fence_call = None;
                }
                return Fenced::Yes;
            }
        }
        Fenced::Running
    }

    /// The handler has ended.
    pub(crate) fn fence_called(&mut self, peer: NodeId, connects: u64, exit: i32) {
        let fencing = self.fencing(peer);
        let best = self.best_own_disk();
        let Some(conn) = self.conns.get_mut(&peer) else {
            return self.role_change_fenced(peer, false);
        };
        if conn.fence_call == Some(connects) {
            conn.fence_call = None;
        }
        let now = conn.connects;
        let limit = match exit {
            exit::PEER_INCONSISTENT => Some(DiskState::Inconsistent),
            exit::PEER_OUTDATED | exit::PEER_FENCED => Some(DiskState::Outdated),
            exit::PEER_DOWN if best == DiskState::UpToDate => Some(DiskState::Outdated),
            _ => None,
        };
        let (level, what) = match exit {
            exit::PEER_INCONSISTENT => (LogLevel::Info, "peer is inconsistent or worse"),
            exit::PEER_OUTDATED => (LogLevel::Info, "peer is outdated"),
            exit::PEER_DOWN if limit.is_some() => (LogLevel::Info, "peer is taken for dead"),
            exit::PEER_DOWN => (
                LogLevel::Info,
                "peer is unreachable, which counts for nothing without UpToDate data here",
            ),
            exit::PEER_PRIMARY => (LogLevel::Warn, "peer is Primary, so own data is old"),
            exit::PEER_FENCED if fencing == Fencing::ResourceAndStonith => {
                (LogLevel::Info, "peer was switched off")
            }
            exit::PEER_FENCED => (
                LogLevel::Error,
                "peer was switched off, although fencing is not resource-and-stonith",
            ),
            _ => (
                LogLevel::Error,
                "broken handler: I/O that waits for it goes on after resume-io only",
            ),
        };
        let text = format!("fence-peer handler returned {exit} ({what})");
        self.log_at(level, Some(peer), None, text);
        let back = self.state.cstate(peer) >= ConnState::Connected
            || self.handshaking() == Some(peer)
            || now != connects;
        if back {
            // Its answer was about a peer that could not be reached.
            self.log_at(
                LogLevel::Info,
                Some(peer),
                None,
                "the peer came back meanwhile: the exit code of fence-peer does not count",
            );
        } else if exit == exit::PEER_PRIMARY {
            let _ = self.change(ChangeFlags::SOFT, crate::twopc::outdate_disks);
        } else if let Some(limit) = limit {
            let _ = self.change(ChangeFlags::SOFT, |s| {
                let conn = s.conns.get_mut(&peer);
                for pd in conn.into_iter().flat_map(|c| c.peers.values_mut()) {
                    if pd.pdisk > limit {
                        pd.pdisk = limit;
                    }
                }
            });
        }
        let known = (exit::PEER_INCONSISTENT..=exit::PEER_FENCED).contains(&exit);
        let harmless = known && self.best_peer_disk(peer) <= DiskState::Outdated;
        self.role_change_fenced(peer, harmless);
    }

    /// A change was committed: I/O that waits for fencing may go on (section 12.3), and peers that have all data
    /// again are let in again (section 12.4).
    pub(crate) fn after_fencing(&mut self, done: &Deferred) {
        let peers: Vec<NodeId> = done.new.conns.keys().copied().collect();
        for peer in peers {
            if done.new.conns.get(&peer).is_some_and(|c| c.susp_fen) {
                self.thaw_fenced(&done.new, peer);
            }
            if self.fencing(peer) != Fencing::DontCare && became_complete(done, peer) {
                self.call(Handler::UnfencePeer, Some(peer), None);
            }
        }
    }

    fn thaw_fenced(&mut self, new: &State, peer: NodeId) {
        let Some(conn) = new.conns.get(&peer) else {
            return;
        };
        let harmless = conn
            .peers
            .values()
            .all(|pd| pd.pdisk <= DiskState::Outdated);
        let back = conn
            .peers
            .values()
            .all(|pd| pd.repl >= ReplState::Established);
        if !harmless && !back {
            return;
        }
        let volumes: Vec<VolumeNr> = self.volumes.keys().copied().collect();
        for v in volumes {
            // As long as another one is away the generation stays due (a deviation).
            let complete = self.state.peers_of(v).all(|(n, _, pd)| {
                pd.repl >= ReplState::Established
                    || self.peer_device(n, v).is_some_and(|k| !k.options.bitmap)
            });
            if harmless {
                self.new_uuid_now_if_due(v);
            } else if let Some(volume) = self.volumes.get_mut(&v).filter(|_| complete) {
                // Nothing was completed without the peer.
                volume.flags.new_cur_uuid = false;
            }
        }
        let _ = self.change(ChangeFlags::HARD, |s| {
            if let Some(c) = s.conns.get_mut(&peer) {
                c.susp_fen = false;
            }
        });
    }
}

/// Whether all volumes of a connection have their data on both sides, and one of the peer's has it since this change.
fn became_complete(done: &Deferred, peer: NodeId) -> bool {
    let Some(conn) = done.new.conns.get(&peer) else {
        return false;
    };
    let complete = !conn.peers.is_empty()
        && conn.peers.iter().all(|(v, pd)| {
            pd.pdisk == DiskState::UpToDate && done.new.disk(*v) == DiskState::UpToDate
        });
    complete
        && conn
            .peers
            .keys()
            .any(|v| done.old.pdisk(peer, *v) != DiskState::UpToDate)
}
