//! The engine: one resource of one node. Events in, effects out.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use drbd_proto::{NodeId, NodeMask, Packet, Stream, VolumeNr};

use crate::admin::Pending;
use crate::connection::Connection;
use crate::control::ControlOp;
use crate::data::{DataOp, ResourceData};
use crate::disk::Attaching;
use crate::effect::{Effect, Limits, LogLevel, LogLine};
use crate::event::{Event, OpOutput, OpResult};
use crate::id::{BufId, OpId, OpenId};
use crate::openers::Reader;
use crate::options::ResourceOptions;
use crate::outbox::Outbox;
use crate::reconcile::WaitingDagtag;
use crate::resize::Resizing;
use crate::rng::Rng;
use crate::role::RoleChange;
use crate::rows::{Noted, Row, Rows};
use crate::state::State;
use crate::state::after::Deferred;
use crate::time::Instant;
use crate::timer::{Timer, Timers};
use crate::twopc::TwoPc;
use crate::volume::Volume;

/// What a resource is created with (`new-resource`).
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Name of the resource.
    pub name: String,
    /// Id of this node.
    pub node_id: NodeId,
    /// Options of the resource.
    pub options: ResourceOptions,
    /// Seed of all random numbers of the engine; from the operating system's generator in production.
    pub seed: u64,
    /// There is a program for handlers; without it none is called (state machine, section 18).
    pub helper: bool,
}

/// One resource of one node.
///
/// A plain value owned by one thread: no clock, no I/O, no lock. See [`Event`] and [`Effect`] for the
/// contract.
#[derive(Debug)]
pub struct Engine {
    pub(crate) name: String,
    pub(crate) node_id: NodeId,
    pub(crate) options: ResourceOptions,
    /// Time of the event being handled.
    pub(crate) now: Instant,
    pub(crate) rng: Rng,
    /// Handlers are called.
    pub(crate) helper: bool,
    /// The node may have to be told of other facts about resyncs.
    pub(crate) facts_changed: bool,
    /// All state values; changed by transactions only.
    pub(crate) state: State,
    pub(crate) volumes: BTreeMap<VolumeNr, Volume>,
    pub(crate) conns: BTreeMap<NodeId, Connection>,
    /// Nodes believed to be online (state machine, section 2.7).
    pub(crate) members: NodeMask,
    /// Cluster-wide changes: the one under way and those that wait.
    pub(crate) twopc: TwoPc,
    /// The promotion or demotion under way.
    pub(crate) role_change: Option<RoleChange>,
    /// Primary because of a command, not because somebody opened the device.
    pub(crate) promoted_by_command: bool,
    /// Those who want to read, and cannot yet.
    pub(crate) readers: Vec<Reader>,
    /// Writers that wait for a promotion that is under way already.
    pub(crate) waiting_openers: Vec<OpenId>,
    /// Those who came during a demotion.
    pub(crate) held_openers: Vec<crate::openers::Held>,
    /// Peers that were asked whether they live before a new generation is made.
    pub(crate) new_uuid_pings: NodeMask,
    /// Positions in lost Primaries' streams that wait for our own cleanup.
    pub(crate) waiting_dagtags: Vec<WaitingDagtag>,
    /// Peers with which a reconciliation has just ended.
    pub(crate) debt_paid: BTreeSet<NodeId>,
    /// Commands whose answer waits.
    pub(crate) pending: Pending,
    /// Attaches under way.
    pub(crate) attaching: BTreeMap<VolumeNr, Attaching>,
    /// Changes of sizes under way.
    pub(crate) resizes: BTreeMap<VolumeNr, Resizing>,
    /// Volumes whose detach was forced.
    pub(crate) forced_detach: BTreeSet<VolumeNr>,
    /// Changes whose consequences are still to be drawn.
    pub(crate) deferred: VecDeque<Deferred>,
    /// Limits of the virtual devices as last told to the driver.
    pub(crate) limits: BTreeMap<VolumeNr, Limits>,
    /// What the outstanding operations are for.
    pub(crate) ops: BTreeMap<OpId, Op>,
    pub(crate) next_op: u64,
    /// Operations under way on disks with a time limit: of which volume, since when.
    pub(crate) disk_ops: BTreeMap<OpId, (VolumeNr, Instant)>,
    /// Operations of disks that were given up: what comes of them is of no interest.
    pub(crate) given_up: BTreeMap<OpId, VolumeNr>,
    /// Operations that were asked of such disks.
    pub(crate) stillborn: Vec<OpId>,
    pub(crate) timers: Timers,
    pub(crate) out: Outbox,
    /// Volumes whose superblock has to be written.
    pub(crate) md_dirty: bool,
    /// Requests, transfer log, epochs, dagtags: the data plane.
    pub(crate) data: ResourceData,
    /// The rows of the decision tables that were met.
    pub(crate) rows: Noted,
}

/// Rounds of consequences within one event; a real chain has three or four.
const MAX_SETTLE_ROUNDS: u32 = 32;

/// What an outstanding operation is for.
#[derive(Debug)]
pub(crate) enum Op {
    /// Superblocks, attach, helpers.
    Control(ControlOp),
    /// Application data, activity log, bitmap, resync.
    Data(DataOp),
}

/// Why a packet ends the connection it came from.
#[derive(Debug)]
pub(crate) struct PacketError(pub String);

impl PacketError {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        PacketError(text.into())
    }
}

impl Engine {
    /// A resource without volumes and connections.
    pub fn new(config: EngineConfig) -> Self {
        let mut state = State::new();
        state.role = drbd_proto::Role::Secondary;
        Engine {
            members: config.node_id.mask(),
            name: config.name,
            node_id: config.node_id,
            options: config.options,
            now: Instant::ZERO,
            rng: Rng::new(config.seed),
            helper: config.helper,
            facts_changed: false,
            state,
            volumes: BTreeMap::new(),
            conns: BTreeMap::new(),
            twopc: TwoPc::default(),
            role_change: None,
            promoted_by_command: false,
            readers: Vec::new(),
            waiting_openers: Vec::new(),
            held_openers: Vec::new(),
            new_uuid_pings: NodeMask::EMPTY,
            waiting_dagtags: Vec::new(),
            debt_paid: BTreeSet::new(),
            pending: Pending::default(),
            attaching: BTreeMap::new(),
            resizes: BTreeMap::new(),
            forced_detach: BTreeSet::new(),
            deferred: VecDeque::new(),
            limits: BTreeMap::new(),
            ops: BTreeMap::new(),
            next_op: 1,
            disk_ops: BTreeMap::new(),
            given_up: BTreeMap::new(),
            stillborn: Vec::new(),
            timers: Timers::default(),
            out: Outbox::default(),
            md_dirty: false,
            data: ResourceData::default(),
            rows: Noted::default(),
        }
    }

    /// Handles one event. What has to be done is appended to `effects`.
    pub fn handle(&mut self, now: Instant, event: Event, effects: &mut Vec<Effect>) {
        self.now = now;
        match event {
            Event::Tick => self.tick(),
            Event::Io {
                io,
                volume,
                request,
            } => self.io_submit(io, volume, request),
            Event::Open {
                open,
                volume,
                write,
                nonblock,
            } => {
                self.opened(open, volume, write, nonblock);
            }
            Event::Close { open } => self.closed(open),
            Event::Done { op, result } => {
                self.disk_ops.remove(&op);
                match self.ops.remove(&op) {
                    Some(what) => self.op_ended(what, result),
                    None if self.given_up.remove(&op).is_some() => {
                        if let Ok(OpOutput::Buf(buf)) = result {
                            self.release(buf);
                        }
                    }
                    None => {
                        self.log_at(LogLevel::Warn, None, None, format!("{op:?} is not known"));
                    }
                }
            }
            Event::Sent { op } => match self.ops.remove(&op) {
                Some(Op::Data(what)) => self.data_sent(what),
                Some(Op::Control(_)) | None => {}
            },
            Event::Established {
                peer,
                path,
                resolve_conflicts,
                challenge,
            } => {
                self.measure_for_handshake();
                self.streams_established(peer, path, resolve_conflicts, challenge);
            }
            Event::Packet {
                peer,
                stream,
                volume,
                packet,
                payload,
            } => {
                self.packet(peer, stream, volume, packet, payload);
            }
            Event::Lost { peer, reason } => self.streams_lost(peer, reason),
            Event::ResyncHold { volume, hold } => self.resync_hold(volume, hold),
            Event::Command { cmd, command } => self.command(cmd, command),
        }
        self.settle();
        self.publish_resync_facts();
        self.out.drain_into(effects);
    }

    /// An operation has ended, or was given up.
    pub(crate) fn op_ended(&mut self, op: Op, result: OpResult) {
        match op {
            Op::Control(what) => self.control_op_done(what, result),
            Op::Data(what) => self.data_op_done(what, result),
        }
    }

    /// The rows of the decision tables that this engine went through so far.
    pub fn rows(&self) -> Rows {
        self.rows.all()
    }

    /// A row of a decision table applied.
    pub(crate) fn note(&self, row: Row) {
        self.rows.note(row);
    }

    /// When the engine wants an `Event::Tick` at the latest.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Runs what became possible through this event, then starts due superblock writes.
    fn settle(&mut self) {
        // What one step causes may make another one possible.
        for _ in 0..MAX_SETTLE_ROUNDS {
            self.end_stillborn();
            self.run_deferred();
            self.data_settle();
            self.hand_over_resync();
            for peer in core::mem::take(&mut self.debt_paid) {
                self.after_reconciliation(peer);
            }
            self.attach_settle();
            self.suspend_settle();
            self.role_change_step();
            self.settle_readers();
            self.twopc_settle();
            let went_on = self.down_step();
            self.full_sync_progress();
            self.write_dirty_superblocks();
            let went_on = self.resize_settle() || went_on;
            self.disk_settle();
            let more =
                !self.deferred.is_empty() || self.md_dirty || went_on || !self.stillborn.is_empty();
            if !more && !self.twopc_startable() {
                break;
            }
        }
    }

    fn tick(&mut self) {
        for timer in self.timers.take_due(self.now) {
            match timer {
                Timer::Ping(peer) => self.ping_timer(peer),
                Timer::PingTimeout(peer) => self.ping_timeout(peer),
                Timer::Handshake(peer) => self.handshake_timeout(peer),
                Timer::BitmapExchange(peer) => self.bitmap_exchange_timeout(peer),
                Timer::ConnectRetry(peer) => self.connect_retry(peer),
                Timer::TwoPcTimeout => self.twopc_timeout(),
                Timer::TwoPcRetry => {}
                Timer::TwoPcEarly => self.twopc_early_due(),
                Timer::Heal => self.heal(),
                Timer::Offer => self.offer(),
                Timer::RoleChange => self.role_change_step(),
                // Looked at after each event.
                Timer::Readers => {}
                Timer::Ahead(peer) => self.leave_ahead(peer),
                Timer::DiskTimeout(volume) => self.disk_timeout(volume),
                Timer::RequestTimeout(_)
                | Timer::PeerAck
                | Timer::ResyncTurn(..)
                | Timer::ResyncSlowed(..)
                | Timer::LazyBitmap(_) => self.data_timer(timer),
            }
        }
    }

    /// Registers an operation.
    pub(crate) fn op(&mut self, what: Op) -> OpId {
        let op = OpId(self.next_op);
        self.next_op += 1;
        self.ops.insert(op, what);
        op
    }

    /// Queues an effect.
    pub(crate) fn push(&mut self, effect: Effect) {
        if self.disk_answers(&effect) {
            self.out.push(effect);
        }
    }

    /// Sends a packet about a volume (or [`VolumeNr::CONNECTION`]) without payload.
    pub(crate) fn send(&mut self, peer: NodeId, stream: Stream, volume: VolumeNr, packet: Packet) {
        if !self.understands(peer, &packet) {
            return;
        }
        self.out.push(Effect::Send {
            peer,
            stream,
            volume,
            packet,
            payload: None,
            notify: None,
        });
    }

    /// Sends a packet with payload.
    pub(crate) fn send_payload(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        packet: Packet,
        payload: BufId,
        notify: Option<OpId>,
    ) {
        self.out.push(Effect::Send {
            peer,
            stream: Stream::Data,
            volume,
            packet,
            payload: Some(payload),
            notify,
        });
    }

    /// Gives a buffer back.
    pub(crate) fn release(&mut self, buf: BufId) {
        self.out.push(Effect::Release { buf });
    }

    /// Writes a line to the log.
    pub(crate) fn log_at(
        &mut self,
        level: LogLevel,
        peer: Option<NodeId>,
        volume: Option<VolumeNr>,
        text: impl Into<String>,
    ) {
        self.out.push(Effect::Log(LogLine {
            level,
            peer,
            volume,
            text: text.into(),
        }));
    }

    fn packet(
        &mut self,
        peer: NodeId,
        stream: Stream,
        volume: VolumeNr,
        packet: Packet,
        payload: Option<BufId>,
    ) {
        let result = self.dispatch(peer, stream, volume, packet, payload);
        if let Err(PacketError(text)) = result {
            self.fail_connection(peer, drbd_proto::ConnState::ProtocolError, &text);
        }
    }

    /// Handles a packet, unless it has to wait behind another one.
    pub(crate) fn dispatch(
        &mut self,
        peer: NodeId,
        stream: Stream,
        volume: VolumeNr,
        packet: Packet,
        payload: Option<BufId>,
    ) -> Result<(), PacketError> {
        if !self.conns.contains_key(&peer) {
            if let Some(buf) = payload {
                self.release(buf);
            }
            return Ok(());
        }
        let packet = match payload {
            None => match self.twopc_hold(peer, stream, volume, packet) {
                Some(packet) => packet,
                None => return Ok(()),
            },
            Some(_) => packet,
        };
        let handled = self.control_packet(peer, stream, volume, &packet);
        if !matches!(handled, Ok(false)) {
            if let Some(buf) = payload {
                self.release(buf);
            }
            return handled.map(|_| ());
        }
        self.data_packet(peer, stream, volume, packet, payload)
    }

    /// Everything that can be seen from outside.
    pub fn status(&self) -> Box<crate::status::ResourceStatus> {
        Box::new(self.build_status())
    }
}
