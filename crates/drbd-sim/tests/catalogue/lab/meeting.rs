//! Two disks whose metadata say what a test wants, and their nodes, which meet.

use drbd_engine::command::Command;
use drbd_engine::options::NetOptions;
use drbd_engine::rows::Row;
use drbd_meta::flags::{LocalFlags, PeerFlags};
use drbd_proto::{ConnState, DiskState, ReplState};
use drbd_sim::cluster::node_id;
use drbd_sim::config::Config;

use super::Is::*;
use super::{Lab, Setup};

/// What the metadata of one of two disks say.
#[derive(Clone, Copy, Default)]
pub struct Forged {
    pub current: u64,
    /// Towards the other node.
    pub bitmap: u64,
    pub history: [u64; 2],
    /// It was Primary when it went down.
    pub crashed: bool,
    pub lost_quorum: bool,
    pub inconsistent: bool,
    pub outdated: bool,
    /// It does not know what became of the other node, which it would have to fence.
    pub unsure: bool,
    /// All blocks are marked.
    pub marked: bool,
}

/// A disk of a generation.
pub const fn forged(current: u64) -> Forged {
    Forged {
        current,
        bitmap: 0,
        history: [0; 2],
        crashed: false,
        lost_quorum: false,
        inconsistent: false,
        outdated: false,
        unsure: false,
        marked: false,
    }
}

impl Forged {
    pub const fn tracks(self, bitmap: u64) -> Forged {
        Forged { bitmap, ..self }
    }

    pub const fn after(self, history: [u64; 2]) -> Forged {
        Forged { history, ..self }
    }

    pub const fn crashed(self) -> Forged {
        Forged {
            crashed: true,
            ..self
        }
    }

    pub const fn marked(self) -> Forged {
        Forged {
            marked: true,
            ..self
        }
    }

    /// Writes it, and that the node knows the other one.
    pub fn put(self, t: &mut Lab, n: usize, other: usize) {
        let size = (t.c.superblock(n, 0)).map_or(0, |sb| sb.effective_size);
        let written = t.c.edit_superblock(n, 0, |sb| {
            sb.current_uuid = self.current;
            sb.effective_size = size;
            sb.flags.set(LocalFlags::PRIMARY_IND, self.crashed);
            sb.flags.set(LocalFlags::CRASHED_PRIMARY, self.crashed);
            sb.flags.set(LocalFlags::CONSISTENT, !self.inconsistent);
            sb.flags.set(LocalFlags::WAS_UP_TO_DATE, !self.outdated);
            sb.flags
                .set(LocalFlags::PRIMARY_LOST_QUORUM, self.lost_quorum);
            sb.node_id = Some(n as u8);
            sb.history[..2].copy_from_slice(&self.history);
            let taken = |slot| sb.peers.iter().any(|p| p.bitmap_index == Some(slot));
            let free = (0..sb.max_peers).find(|slot| !taken(*slot));
            let entry = &mut sb.peers[other];
            entry.bitmap_index = entry.bitmap_index.or(free);
            entry.bitmap_uuid = self.bitmap;
            entry.flags |= PeerFlags::NODE_EXISTS | PeerFlags::DEVICE_SEEN;
            entry.flags.set(PeerFlags::FULL_SYNC, self.marked);
            entry.flags.set(PeerFlags::FENCING, self.unsure);
        });
        written.unwrap();
    }
}

/// What becomes of two nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Node 0 is the source of a resync.
    Resync,
    /// Node 1 is the source of a resync.
    Back,
    /// Connected without a resync.
    Nothing,
    /// StandAlone both.
    StandAlone,
    /// Anything.
    Whatever,
}

/// Nodes 0 and 1, which run on their own before they meet.
pub struct Meeting {
    setup: Setup,
    disks: [Forged; 2],
    primary: Vec<usize>,
    open: Vec<usize>,
    discard: Vec<usize>,
    tentative: bool,
    options: Option<fn(usize, &mut NetOptions)>,
}

impl Meeting {
    pub fn new(disks: [Forged; 2]) -> Meeting {
        Meeting {
            setup: Setup::new(2),
            disks,
            primary: Vec::new(),
            open: Vec::new(),
            discard: Vec::new(),
            tentative: false,
            options: None,
        }
    }

    pub fn with(mut self, change: impl FnOnce(&mut Config)) -> Meeting {
        change(&mut self.setup.config);
        self
    }

    /// The highest protocol version of one of them.
    pub fn version(self, version: u16) -> Meeting {
        self.with(|c| {
            c.versions = vec![(0, version)];
            c.device.max_bio_size = drbd_proto::max_request_size(version);
        })
    }

    /// These are Primary when they meet.
    pub fn primary(mut self, nodes: impl IntoIterator<Item = usize>) -> Meeting {
        self.primary.extend(nodes);
        self
    }

    /// The device is in use there.
    pub fn open(mut self, n: usize) -> Meeting {
        self.open.push(n);
        self
    }

    /// Its own data may be discarded.
    pub fn discard(mut self, n: usize) -> Meeting {
        self.discard.push(n);
        self
    }

    pub fn tentative(mut self) -> Meeting {
        self.tentative = true;
        self
    }

    /// Options that are not the same on both nodes.
    pub fn options(mut self, change: fn(usize, &mut NetOptions)) -> Meeting {
        self.options = Some(change);
        self
    }

    /// They meet, and go through these rows.
    #[track_caller]
    pub fn goes(self, rows: &[Row], end: End) {
        let version = (self.setup.config.versions.first()).map_or(0, |v| v.1);
        let mut t = self.setup.build();
        t.stale_data_expected();
        t.errors_expected();
        t.c.divergence_tolerated = true;
        t.may_part(0, 1);
        for (n, disk) in self.disks.into_iter().enumerate() {
            disk.put(&mut t, n, 1 - n);
            t.start_detached(n);
            t.attach(n);
            if self.primary.contains(&n) {
                t.wait(n, Disk(DiskState::UpToDate));
                t.primary(n);
            }
            if self.open.contains(&n) {
                let open = t.c.open(n, 0, true);
                t.wait_until("an open", |c| c.open_outcome(open) == Some(Ok(())));
            }
        }
        t.mark();
        for n in [0, 1] {
            if let Some(change) = self.options {
                t.net_options(n, 1 - n, |o| change(n, o));
            }
            let command = Command::Connect {
                peer: node_id(1 - n),
                discard_my_data: self.discard.contains(&n),
                tentative: self.tentative,
            };
            t.ok(n, command);
        }
        t.pass(8);
        for row in rows {
            if !t.c.rows.contains(*row) {
                let met: Vec<Row> = t.c.rows.iter().collect();
                t.panic(&format!("protocol {version}: not {row:?}, but {met:?}"));
            }
        }
        let is = |n: usize, target: ReplState| t.was(n, Repl(1 - n, target));
        let found = if is(0, ReplState::SyncSource) && is(1, ReplState::SyncTarget) {
            End::Resync
        } else if is(1, ReplState::SyncSource) && is(0, ReplState::SyncTarget) {
            End::Back
        } else if t.is(0, Conn(1, ConnState::Connected)) {
            End::Nothing
        } else if t.is(0, Conn(1, ConnState::StandAlone)) && t.is(1, Conn(0, ConnState::StandAlone))
        {
            End::StandAlone
        } else {
            End::Whatever
        };
        if end != End::Whatever && found != end {
            t.panic(&format!(
                "protocol {version}, {rows:?}: {found:?}, not {end:?}"
            ));
        }
        t.abandon();
    }
}
