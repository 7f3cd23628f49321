//! Watching: states, events, and the states nobody wants to see.

use drbd_engine::status::{ConnectionInfo, DeviceInfo, Object, PeerDeviceInfo, ResourceInfo};
use drbd_proto::{ConnState, DiskState, ReplState, Role};
use drbd_sim::clock::SEC;
use drbd_sim::cluster::{Cluster, Seen};

use super::{Bad, Lab};

/// Something that can be true of a node. Peers are node numbers; without a volume it is about volume 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Is {
    /// The role.
    Am(Role),
    /// I/O is suspended for whatever reason.
    Suspended(bool),
    /// The own disk.
    Disk(DiskState),
    /// The own disk of a volume.
    DiskOf(usize, DiskState),
    /// Quorum.
    Quorate(bool),
    /// The connection to a peer.
    Conn(usize, ConnState),
    /// The role of a peer.
    PeerRole(usize, Role),
    /// Replication to a peer.
    Repl(usize, ReplState),
    /// Replication to a peer, of a volume.
    ReplOf(usize, usize, ReplState),
    /// The disk of a peer.
    PeerDisk(usize, DiskState),
    /// The disk of a peer, of a volume.
    PeerDiskOf(usize, usize, DiskState),
}

use Is::*;

impl Is {
    fn resource(self, i: &ResourceInfo) -> bool {
        let suspended = i.susp_user || i.susp_nod || i.susp_fen || i.susp_quorum || i.susp_uuid;
        match self {
            Am(role) => i.role == role,
            Suspended(yes) => suspended == yes,
            _ => false,
        }
    }

    fn connection(self, p: usize, i: &ConnectionInfo) -> bool {
        match self {
            Conn(peer, state) => peer == p && i.cstate == state,
            PeerRole(peer, role) => peer == p && i.peer_role == role,
            _ => false,
        }
    }

    fn device(self, v: usize, i: &DeviceInfo) -> bool {
        match self {
            Disk(state) => v == 0 && i.disk == state,
            DiskOf(volume, state) => v == volume && i.disk == state,
            Quorate(yes) => v == 0 && i.quorum == yes,
            _ => false,
        }
    }

    fn peer_device(self, p: usize, v: usize, i: &PeerDeviceInfo) -> bool {
        match self {
            Repl(peer, state) => (peer, 0) == (p, v) && i.repl == state,
            ReplOf(peer, volume, state) => (peer, volume) == (p, v) && i.repl == state,
            PeerDisk(peer, state) => (peer, 0) == (p, v) && i.peer_disk == state,
            PeerDiskOf(peer, volume, state) => (peer, volume) == (p, v) && i.peer_disk == state,
            _ => false,
        }
    }

    /// Whether an event shows it.
    pub fn shown_by(self, seen: &Seen) -> bool {
        match &seen.change.object {
            Object::Resource(Some(i)) => self.resource(i),
            Object::Connection {
                peer,
                info: Some(i),
            } => self.connection(peer.index(), i),
            Object::Device {
                volume,
                info: Some(i),
            } => self.device(volume.to_wire().into(), i),
            Object::PeerDevice {
                peer,
                volume,
                info: Some(i),
            } => self.peer_device(peer.index(), volume.to_wire().into(), i),
            _ => false,
        }
    }

    /// Whether it is true of a node now.
    pub fn holds(self, c: &Cluster, n: usize) -> bool {
        let Some(s) = c.status(n) else {
            return false;
        };
        self.resource(&s.info)
            || s.devices
                .iter()
                .any(|(v, i)| self.device(v.to_wire().into(), i))
            || s.connections.iter().any(|(p, i, pds)| {
                self.connection(p.index(), i)
                    || pds
                        .iter()
                        .any(|(v, i)| self.peer_device(p.index(), v.to_wire().into(), i))
            })
    }
}

/// How long anything may take, in virtual time.
const LIMIT: u64 = 120 * SEC;

impl Lab {
    /// The node is in this state now.
    #[track_caller]
    pub fn expect(&self, n: usize, state: Is) {
        if !state.holds(&self.c, n) {
            self.panic(&format!("node {n} is not {state:?}"));
        }
    }

    /// Whether the node is in this state now.
    pub fn is(&self, n: usize, state: Is) -> bool {
        state.holds(&self.c, n)
    }

    /// The node is in the state, or will be within two minutes.
    #[track_caller]
    pub fn wait(&mut self, n: usize, state: Is) {
        self.wait_until(&format!("node {n} becomes {state:?}"), |c| {
            state.holds(c, n)
        });
    }

    /// Waits for anything else.
    #[track_caller]
    pub fn wait_until(&mut self, what: &str, holds: impl FnMut(&Cluster) -> bool) {
        if let Err(e) = self.c.run_until(LIMIT, holds) {
            panic!("{what}: {e}\n{}", self.c.describe());
        }
    }

    fn all_seen(c: &Cluster) -> &[Seen] {
        c.recorded().map_or(&[], |r| &r.seen)
    }

    /// The next event of the node that shows the state, now or within two minutes.
    #[track_caller]
    pub fn event(&mut self, n: usize, state: Is) {
        let mut at = self.cursors[n];
        let what = format!("node {n} reports {state:?}");
        self.wait_until(&what, |c| {
            let events = Self::all_seen(c);
            while at < events.len() {
                at += 1;
                if events[at - 1].node == n && state.shown_by(&events[at - 1]) {
                    return true;
                }
            }
            false
        });
        self.cursors[n] = at;
    }

    /// Several events of one node, one after the other.
    #[track_caller]
    pub fn events(&mut self, n: usize, states: impl IntoIterator<Item = Is>) {
        for state in states {
            self.event(n, state);
        }
    }

    /// Events before now do not count any more.
    pub fn mark(&mut self) {
        self.mark = Self::all_seen(&self.c).len();
        self.cursors.fill(self.mark);
    }

    /// Whether a node has shown a state since the mark.
    pub fn was(&self, n: usize, state: Is) -> bool {
        Self::all_seen(&self.c)[self.mark..]
            .iter()
            .any(|s| s.node == n && state.shown_by(s))
    }

    /// The node has shown the state since the mark.
    #[track_caller]
    pub fn seen(&self, n: usize, state: Is) {
        if !self.was(n, state) {
            self.panic(&format!("node {n} has not been {state:?}"));
        }
    }

    /// The node has not shown the state since the mark.
    #[track_caller]
    pub fn never(&self, n: usize, state: Is) {
        if self.was(n, state) {
            self.panic(&format!("node {n} has been {state:?}"));
        }
    }

    /// No node has shown a resync since the mark.
    #[track_caller]
    pub fn no_resync(&self) {
        for n in 0..self.nodes() {
            for p in 0..self.nodes() {
                for v in 0..self.c.config.volumes.len() {
                    self.never(n, ReplOf(p, v, ReplState::SyncTarget));
                    self.never(n, ReplOf(p, v, ReplState::SyncSource));
                }
            }
        }
    }

    /// Every running node is connected as it is meant to be and Established, and its disks are UpToDate.
    #[track_caller]
    pub fn healthy(&mut self) {
        self.connected();
        let volumes = self.volumes;
        for n in self.running() {
            for v in 0..volumes {
                let clients = self.c.config.diskless[n];
                if !clients {
                    self.wait(n, DiskOf(v, DiskState::UpToDate));
                }
                for p in self.running() {
                    if n != p && self.linked(n, p) {
                        self.wait(n, ReplOf(p, v, ReplState::Established));
                        if !self.c.config.diskless[p] {
                            self.wait(n, PeerDiskOf(p, v, DiskState::UpToDate));
                        }
                    }
                }
            }
        }
        self.pass(1);
    }

    /// The disk of volume 0.
    pub fn disk(&self, n: usize) -> DiskState {
        self.c.disk_state(n, 0)
    }

    /// The disk of a peer as a node sees it.
    pub fn peer_disk(&self, n: usize, p: usize) -> DiskState {
        self.c.peer_device(n, p, 0).1
    }

    /// Blocks out of sync of volume 0, on a node towards a peer.
    pub fn out_of_sync(&self, n: usize, p: usize) -> u64 {
        self.c.peer_device(n, p, 0).2 / 8
    }

    /// No running node has marked anything towards another one.
    #[track_caller]
    pub fn no_bits(&self) {
        for n in self.running() {
            for p in self.running() {
                for v in 0..self.volumes {
                    if n != p && self.c.peer_device(n, p, v).2 != 0 {
                        self.panic(&format!("node {n} has bits towards node {p} in volume {v}"));
                    }
                }
            }
        }
    }

    /// Whether a log line of the node contains the text.
    pub fn logged(&self, n: usize, text: &str) -> bool {
        let lines = self.c.recorded().map_or(&[][..], |r| &r.log);
        lines
            .iter()
            .any(|(_, m, line)| *m == n && line.contains(text))
    }

    /// How often a node called a handler.
    pub fn upcalls(&self, n: usize, handler: &str) -> usize {
        let calls = self.c.recorded().map_or(&[][..], |r| &r.upcalls);
        calls
            .iter()
            .filter(|c| c.node == n && c.handler == handler)
            .count()
    }

    /// The general rule about states that were not announced.
    #[track_caller]
    pub(super) fn no_bad_states(&self) {
        for seen in Self::all_seen(&self.c) {
            let bad = match &seen.change.object {
                Object::Connection {
                    peer,
                    info: Some(i),
                } if (ConnState::Timeout..=ConnState::ProtocolError).contains(&i.cstate) => {
                    Bad::Conn(peer.index(), i.cstate)
                }
                Object::Device { info: Some(i), .. } if i.disk == DiskState::Failed => Bad::Failed,
                Object::PeerDevice {
                    peer,
                    info: Some(i),
                    ..
                } if i.peer_disk == DiskState::Failed => Bad::PeerFailed(peer.index()),
                _ => continue,
            };
            if !self.excused.contains(&(seen.node, bad)) {
                let at = seen.at as f64 / 1e9;
                self.panic(&format!("node {} reported {bad:?} at {at:.3} s", seen.node));
            }
        }
    }
}
