//! One simulated machine.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use drbd_engine::command::{Command, Reply};
use drbd_engine::effect::Limits;
use drbd_engine::resync_after::Schedule;
use drbd_proto::Ctx;

use crate::clock::Time;
use crate::core::Core;
use crate::disk::{Disk, DiskOp};
use crate::format::Decoded;
use crate::wire::Decoder;

/// A disk operation under way.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) volume: usize,
    pub(crate) op: DiskOp,
    /// Range of sectors of a write to the data area.
    pub(crate) writes: Option<(u64, u64)>,
}

/// A session as seen from this node.
#[derive(Debug)]
pub(crate) struct PeerStream {
    pub(crate) session: u64,
    pub(crate) ctx: Ctx,
    pub(crate) decoders: [Decoder; 2],
    /// Streams that the peer has closed.
    pub(crate) ended: [bool; 2],
}

/// One simulated machine: its disks outlive the engine that runs on it.
pub struct Node {
    /// Its number, which is also its node id.
    pub id: usize,
    pub(crate) core: Option<Box<dyn Core>>,
    /// Counts starts: what was scheduled for an earlier life is void.
    pub(crate) life: u32,
    /// Disk of each volume, if it has one.
    pub disks: Vec<Option<Disk>>,
    /// If set, every operation on the data area takes that long.
    pub slow_disk: Option<Time>,
    /// If set, every operation on the metadata takes that long.
    pub slow_meta: Option<Time>,
    pub(crate) attached: Vec<bool>,
    pub(crate) pending: BTreeMap<u64, Pending>,
    pub(crate) used_ops: BTreeSet<u64>,
    pub(crate) tick_at: Option<Time>,
    /// Which volumes may be resynced.
    pub(crate) schedule: Schedule<()>,
    pub(crate) peers: BTreeMap<usize, PeerStream>,
    /// Limits of the virtual devices, as announced.
    pub limits: Vec<Limits>,
    /// Commands to be given one after the other.
    pub(crate) script: VecDeque<Command>,
    pub(crate) commands: BTreeMap<u64, Command>,
    pub(crate) script_waits_for: Option<u64>,
    /// Commands of scripts with their replies.
    pub script_replies: Vec<(Command, Reply)>,
    /// Replies that nobody has asked for yet.
    pub replies: BTreeMap<u64, Reply>,
    /// Openers that were admitted, with their volume.
    pub(crate) openers: BTreeMap<u64, usize>,
    /// Decoded durable metadata by volume, with the generation it was read at.
    pub(crate) decoded: BTreeMap<usize, (u64, Decoded)>,
}

impl Node {
    pub(crate) fn new(id: usize, disks: Vec<Option<Disk>>) -> Node {
        let volumes = disks.len();
        Node {
            id,
            core: None,
            life: 0,
            disks,
            slow_disk: None,
            slow_meta: None,
            attached: vec![false; volumes],
            pending: BTreeMap::new(),
            used_ops: BTreeSet::new(),
            tick_at: None,
            schedule: Schedule::default(),
            peers: BTreeMap::new(),
            limits: vec![Limits::default(); volumes],
            script: VecDeque::new(),
            commands: BTreeMap::new(),
            script_waits_for: None,
            script_replies: Vec::new(),
            replies: BTreeMap::new(),
            openers: BTreeMap::new(),
            decoded: BTreeMap::new(),
        }
    }

    /// Whether an engine runs here.
    pub fn up(&self) -> bool {
        self.core.is_some()
    }

    /// Whether a command is still to be answered.
    pub fn commands_waiting(&self, command: u64) -> bool {
        self.commands.contains_key(&command)
    }

    /// Everything volatile is gone.
    pub(crate) fn wipe(&mut self) {
        let disks = std::mem::take(&mut self.disks);
        let life = self.life + 1;
        *self = Node {
            life,
            ..Node::new(self.id, disks)
        };
    }
}
