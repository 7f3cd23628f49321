//! A node of ours: an engine, a disk in memory, and nothing that takes time.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use drbd_engine::options::{
    DeviceOptions, DiskOptions, NetOptions, PeerDeviceOptions, ResourceOptions,
};
use drbd_engine::{
    Backing, BufId, CmdId, Command, Effect, Engine, EngineConfig, Event, Instant, IoId, IoRequest,
    LostReason, MetaPlace, OpOutput, Path,
};
use drbd_meta::geometry::{AlStriping, BitmapBlockSize, Geometry, MdIndex, Placement};
use drbd_meta::superblock::{Format, Superblock};
use drbd_proto::{Ctx, NodeId, Packet, Role, Sector, Stream, VolumeNr};

/// What a node is like.
pub(crate) struct Setup {
    pub(crate) id: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) slots: u8,
    pub(crate) resync_rate: u32,
    pub(crate) verify_alg: &'static str,
    pub(crate) discard: bool,
}

/// What it has sent.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) stream: Stream,
    pub(crate) volume: VolumeNr,
    pub(crate) packet: Packet,
}

pub(crate) struct TestNode {
    engine: Engine,
    pub(crate) peer: NodeId,
    now: Instant,
    disk: Vec<u8>,
    buffers: BTreeMap<u64, Vec<u8>>,
    next: u64,
    events: VecDeque<Event>,
    pub(crate) sent: VecDeque<Sent>,
    /// It wants streams to its peer.
    pub(crate) connecting: bool,
    pub(crate) connected: bool,
    /// Requests that have not completed.
    pub(crate) writing: usize,
    pub(crate) log: Vec<String>,
    /// What packets look like.
    context: Ctx,
}

impl TestNode {
    /// A node with a fresh disk, attached, and a connection to its peer.
    pub(crate) fn new(setup: &Setup) -> TestNode {
        let id = NodeId::new(setup.id as u32).unwrap();
        let peer = NodeId::new(1 - setup.id as u32).unwrap();
        let place = Placement {
            index: MdIndex::Internal,
            device_size: setup.disk_bytes,
        };
        let (block, ring) = (BitmapBlockSize::DEFAULT, AlStriping::DEFAULT);
        let geometry = Geometry::new(place, setup.slots, block, ring).unwrap();
        let mut disk = vec![0; setup.disk_bytes as usize];
        let at = (geometry.superblock_sector() << 9) as usize;
        let fresh = Superblock::create(Format::V09, &geometry).encode();
        disk[at..at + 4096].copy_from_slice(&fresh);
        let engine = Engine::new(EngineConfig {
            name: "r0".to_owned(),
            node_id: id,
            options: ResourceOptions {
                auto_promote: false,
                ..ResourceOptions::default()
            },
            seed: 4711,
            helper: true,
        });
        let mut node = TestNode {
            engine,
            peer,
            now: Instant::from_nanos(1_000_000_000),
            disk,
            buffers: BTreeMap::new(),
            next: 0,
            events: VecDeque::new(),
            sent: VecDeque::new(),
            connecting: false,
            connected: false,
            writing: 0,
            log: Vec::new(),
            context: Ctx::INITIAL,
        };
        let volume = VolumeNr::ZERO;
        let net = NetOptions {
            max_buffers: 8000,
            verify_alg: setup.verify_alg.to_owned(),
            ..NetOptions::default()
        };
        node.command(Command::NewMinor {
            volume,
            minor: 0,
            options: DeviceOptions::default(),
        });
        node.command(Command::NewPeer {
            peer,
            name: "peer".to_owned(),
            options: net,
        });
        node.command(Command::NewPath {
            peer,
            path: Path {
                local: ([10, 77, 0, 11], 7789).into(),
                remote: ([10, 77, 0, 12], 7789).into(),
            },
        });
        node.command(Command::PeerDeviceOptions {
            peer,
            volume,
            options: PeerDeviceOptions {
                resync_rate: setup.resync_rate,
                c_plan_ahead: 0,
                ..PeerDeviceOptions::default()
            },
        });
        node.command(Command::Attach {
            volume,
            backing: Backing {
                disk: "disk".to_owned(),
                meta_disk: "disk".to_owned(),
                meta: MetaPlace::Internal,
                disk_bytes: setup.disk_bytes,
                meta_bytes: setup.disk_bytes,
                logical_block: 512,
                physical_block: 512,
                discard_granularity: if setup.discard { 512 } else { 0 },
                max_discard: 1 << 30,
                volatile_cache: true,
            },
            options: DiskOptions::default(),
        });
        node.connect();
        node
    }

    /// `connect`.
    pub(crate) fn connect(&mut self) {
        let peer = self.peer;
        self.command(Command::Connect {
            peer,
            discard_my_data: false,
            tentative: false,
        });
    }

    /// Streams exist.
    pub(crate) fn establish(&mut self) {
        self.connected = true;
        self.event(Event::Established {
            peer: self.peer,
            path: 0,
            resolve_conflicts: false,
            challenge: Box::new([7; 64]),
        });
    }

    /// The streams are gone.
    pub(crate) fn lose(&mut self) {
        if std::mem::take(&mut self.connected) {
            self.event(Event::Lost {
                peer: self.peer,
                reason: LostReason::Closed,
            });
        }
    }

    pub(crate) fn command(&mut self, command: Command) {
        self.next += 1;
        let cmd = CmdId(self.next);
        self.log.push(format!("{:?} {command:?}", self.now));
        self.event(Event::Command { cmd, command });
    }

    /// Whether it is Primary and its peer a DRBD of the 8 series.
    pub(crate) fn is_primary_of_eight(&self) -> bool {
        !self.context.is_modern() && self.engine.status().info.role == Role::Primary
    }

    fn io(&mut self, request: IoRequest) {
        self.next += 1;
        self.writing += 1;
        self.event(Event::Io {
            io: IoId(self.next),
            volume: VolumeNr::ZERO,
            request,
        });
    }

    pub(crate) fn write(&mut self, sector: Sector, len: u32) {
        let buf = self.buffer(len);
        self.io(IoRequest::Write {
            sector,
            len,
            buf,
            fua: false,
        });
    }

    pub(crate) fn discard(&mut self, sector: Sector, len: u32) {
        self.io(IoRequest::Discard { sector, len });
    }

    fn buffer(&mut self, len: u32) -> BufId {
        self.next += 1;
        self.buffers.insert(self.next, vec![0x5a; len as usize]);
        BufId(self.next)
    }

    /// A packet has arrived.
    pub(crate) fn hear(&mut self, stream: Stream, volume: VolumeNr, packet: Packet) {
        let payload = match packet.payload_len() {
            0 => None,
            len => Some(self.buffer(len)),
        };
        self.event(Event::Packet {
            peer: self.peer,
            stream,
            volume,
            packet,
            payload,
        });
    }

    /// Lets time pass.
    pub(crate) fn until(&mut self, at: Instant) {
        while let Some(due) = self.engine.next_deadline().filter(|due| *due <= at) {
            self.now = self.now.max(due);
            self.event(Event::Tick);
        }
        self.now = self.now.max(at);
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.until(self.now + time);
    }

    fn event(&mut self, event: Event) {
        self.events.push_back(event);
        let mut effects = Vec::new();
        while let Some(event) = self.events.pop_front() {
            self.engine.handle(self.now, event, &mut effects);
            for effect in effects.drain(..) {
                self.carry_out(effect);
            }
        }
    }

    fn done(&mut self, op: drbd_engine::OpId, output: OpOutput) {
        let result = Ok(output);
        self.events.push_back(Event::Done { op, result });
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::CompleteIo { result, .. } => {
                assert_eq!(result, Ok(()), "{:#?}", self.log);
                self.writing -= 1;
            }
            Effect::OpenDone { result, .. } => assert_eq!(result, Ok(())),
            Effect::DiskRead {
                op, sector, len, ..
            } => {
                let buf = self.buffer(len);
                let at = (sector.0 << 9) as usize;
                let bytes = self.disk[at..at + len as usize].to_vec();
                self.buffers.insert(buf.0, bytes);
                self.done(op, OpOutput::Buf(buf));
            }
            Effect::DiskWrite {
                op, sector, buf, ..
            } => {
                let at = (sector.0 << 9) as usize;
                let bytes = &self.buffers[&buf.0];
                self.disk[at..at + bytes.len()].copy_from_slice(bytes);
                self.done(op, OpOutput::Nothing);
            }
            Effect::DiskFlush { op, .. } => self.done(op, OpOutput::Nothing),
            Effect::DiskDiscard {
                op, sector, len, ..
            } => {
                let at = (sector.0 << 9) as usize;
                self.disk[at..at + len as usize].fill(0);
                self.done(op, OpOutput::Nothing);
            }
            Effect::MetaRead {
                op, offset, len, ..
            } => {
                let bytes = self.disk[offset as usize..][..len as usize].to_vec();
                self.done(op, OpOutput::Bytes(bytes));
            }
            Effect::MetaWrite { op, blocks, .. } => {
                for block in blocks {
                    self.disk[block.offset as usize..][..4096].copy_from_slice(&*block.data);
                }
                self.done(op, OpOutput::Nothing);
            }
            Effect::Measure { op, .. } => {
                let bytes = self.disk.len() as u64;
                let sizes = OpOutput::Sizes {
                    disk_bytes: bytes,
                    meta_bytes: bytes,
                };
                self.done(op, sizes);
            }
            Effect::Digest { .. } => panic!("no digests in these recordings"),
            Effect::IsZero { op, buf } => {
                let zero = self.buffers[&buf.0].iter().all(|b| *b == 0);
                self.done(op, OpOutput::Zero(zero));
            }
            Effect::Release { buf } => {
                self.buffers.remove(&buf.0);
            }
            Effect::Connect { .. } => self.connecting = true,
            Effect::Close { .. } => {
                self.connecting = false;
                self.connected = false;
            }
            Effect::Send {
                stream,
                volume,
                packet,
                notify,
                ..
            } => {
                if packet == Packet::Ping {
                    // At once: how long it takes to answer is a matter of time.
                    self.events.push_back(Event::Packet {
                        peer: self.peer,
                        stream: Stream::Control,
                        volume: VolumeNr::CONNECTION,
                        packet: Packet::PingAck,
                        payload: None,
                    });
                }
                // As it is on the wire.
                let mut bytes = Vec::new();
                packet.encode(&self.context, volume, &mut bytes).unwrap();
                let received = Packet::parse(&self.context, stream, &bytes);
                let packet = received.unwrap().unwrap().packet;
                self.sent.push_back(Sent {
                    stream,
                    volume,
                    packet,
                });
                if let Some(op) = notify {
                    self.events.push_back(Event::Sent { op });
                }
            }
            Effect::Upcall { op, .. } => self.done(op, OpOutput::Exit(0)),
            Effect::Reply { reply, .. } => {
                self.log.push(format!("{:?} {reply:?}", self.now));
                assert!(reply.is_ok(), "{:#?}", self.log);
            }
            Effect::Log(line) => self.log.push(format!("{:?} {}", self.now, line.text)),
            Effect::Framing { context, .. } => self.context = context,
            Effect::Detach { .. }
            | Effect::Changed(_)
            | Effect::Limits { .. }
            | Effect::ResyncFacts { .. } => {}
        }
    }
}
