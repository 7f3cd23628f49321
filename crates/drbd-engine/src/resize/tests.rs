//! A disk that has grown: metadata moves to its new end, and a crash on the way costs no more than a resync. What several
//! nodes do together is tested in the simulator.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

use drbd_meta::activity_log::{AlLayout, encode_initialised, replay::replay_area};
use drbd_meta::flags::{LocalFlags, PeerFlags};
use drbd_meta::geometry::{AlStriping, BitmapBlockSize, Geometry, MdIndex, Placement};
use drbd_meta::superblock::{Format, Superblock};
use drbd_proto::{DiskState, NodeId, Sector, VolumeNr};

use crate::command::{Backing, Command, MetaPlace, Reply, Resize, RetCode};
use crate::engine::{Engine, EngineConfig};
use crate::event::{Event, IoRequest, OpOutput};
use crate::id::{BufId, CmdId, IoId, OpId};
use crate::options::{DeviceOptions, DiskOptions, NetOptions, ResourceOptions};
use crate::time::Instant;
use crate::{Effect, bitmap::Slot};

const V: VolumeNr = VolumeNr::ZERO;
const SLOTS: u8 = 2;
const OLD: usize = 24 << 20;

fn node(n: u32) -> NodeId {
    NodeId::new(n).unwrap()
}

fn placement(bytes: usize) -> Placement {
    Placement {
        index: MdIndex::Internal,
        device_size: bytes as u64,
    }
}

fn geometry(bytes: usize) -> Geometry {
    let striping = AlStriping::DEFAULT;
    Geometry::new(placement(bytes), SLOTS, BitmapBlockSize::DEFAULT, striping).unwrap()
}

/// A disk with data in sync with everybody, as `create-md` and a first sync leave it.
fn disk() -> Vec<u8> {
    let geometry = geometry(OLD);
    let mut sb = Superblock::create(Format::V09, &geometry);
    sb.current_uuid = 0xd0d0;
    sb.flags = LocalFlags::AL_CLEAN | LocalFlags::CONSISTENT | LocalFlags::WAS_UP_TO_DATE;
    sb.effective_size = geometry.usable_sectors();
    let mut bytes = vec![0x55; OLD];
    let al = (geometry.al_sector() * 512) as usize;
    for block in bytes[al..al + 8 * 4096].chunks_exact_mut(4096) {
        block.copy_from_slice(&encode_initialised());
    }
    let bitmap = (geometry.bitmap_sector() * 512) as usize;
    bytes[bitmap..al].fill(0);
    let at = (geometry.superblock_sector() * 512) as usize;
    bytes[at..at + 4096].copy_from_slice(&sb.encode());
    bytes
}

/// One node with one disk, all of it in memory.
struct Machine {
    engine: Engine,
    disk: Vec<u8>,
    /// Writes of metadata that are still carried out; then the power fails.
    left: usize,
    replies: Vec<Reply>,
    /// Writes of applications that the disk has not done yet, and those that were refused.
    writing: Vec<OpId>,
    failed: Vec<IoId>,
    next: u64,
}

impl Machine {
    fn new(disk: Vec<u8>) -> Machine {
        let mut machine = Machine {
            engine: Engine::new(EngineConfig {
                name: "r".into(),
                node_id: node(0),
                options: ResourceOptions::default(),
                seed: 1,
                helper: false,
            }),
            disk,
            left: usize::MAX,
            replies: Vec::new(),
            writing: Vec::new(),
            failed: Vec::new(),
            next: 0,
        };
        let options = DeviceOptions::default();
        machine.ok(Command::NewMinor {
            volume: V,
            minor: 0,
            options,
        });
        machine.ok(Command::NewPeer {
            peer: node(1),
            name: "b".into(),
            options: NetOptions::default(),
        });
        machine
    }

    /// Carries everything out that a command causes.
    fn give(&mut self, command: Command) {
        self.next += 1;
        let cmd = CmdId(self.next);
        self.event(Event::Command { cmd, command });
    }

    fn write_done(&mut self, n: usize) {
        let op = self.writing.remove(n);
        let result = Ok(OpOutput::Nothing);
        self.event(Event::Done { op, result });
    }

    fn event(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let mut effects = Vec::new();
            self.engine.handle(Instant::ZERO, event, &mut effects);
            for effect in effects {
                let (op, output) = match effect {
                    Effect::MetaRead {
                        op, offset, len, ..
                    } => {
                        let at = offset as usize;
                        let bytes = self.disk[at..at + len as usize].to_vec();
                        (op, OpOutput::Bytes(bytes))
                    }
                    Effect::MetaWrite { op, blocks, .. } => {
                        for block in blocks {
                            if self.left > 0 {
                                self.left -= 1;
                                let at = block.offset as usize;
                                self.disk[at..at + 4096].copy_from_slice(&block.data[..]);
                            }
                        }
                        (op, OpOutput::Nothing)
                    }
                    Effect::DiskFlush { op, .. } => (op, OpOutput::Nothing),
                    Effect::Measure { op, .. } => {
                        let bytes = self.disk.len() as u64;
                        let sizes = OpOutput::Sizes {
                            disk_bytes: bytes,
                            meta_bytes: bytes,
                        };
                        (op, sizes)
                    }
                    Effect::DiskWrite { op, .. } => {
                        self.writing.push(op);
                        continue;
                    }
                    Effect::CompleteIo {
                        io, result: Err(_), ..
                    } => {
                        self.failed.push(io);
                        continue;
                    }
                    Effect::Reply { reply, .. } => {
                        self.replies.push(reply);
                        continue;
                    }
                    _ => continue,
                };
                let result = Ok(output);
                events.push_back(Event::Done { op, result });
            }
        }
    }

    fn ask(&mut self, command: Command) -> Reply {
        self.give(command);
        let text = alloc::format!("no answer: {:?}", self.engine.resizes);
        self.replies.pop().expect(&text)
    }

    fn ok(&mut self, command: Command) {
        let reply = self.ask(command);
        assert!(reply.is_ok(), "{reply:?}");
    }

    fn attach(&mut self) -> Reply {
        let bytes = self.disk.len() as u64;
        self.ask(Command::Attach {
            volume: V,
            backing: Backing {
                disk: "/dev/x".into(),
                meta_disk: "/dev/x".into(),
                meta: MetaPlace::Internal,
                disk_bytes: bytes,
                meta_bytes: bytes,
                logical_block: 512,
                physical_block: 4096,
                discard_granularity: 4096,
                max_discard: 1 << 20,
                volatile_cache: false,
            },
            options: DiskOptions::default(),
        })
    }

    fn resize(&mut self, size: u64) -> Reply {
        let resize = Resize {
            size,
            assume_peer_has_space: true,
            ..Resize::default()
        };
        self.ask(Command::Resize { volume: V, resize })
    }

    fn size(&self) -> u64 {
        self.engine.status().devices[0].1.size
    }

    /// Bits out of sync towards the peer.
    fn marked(&self) -> u64 {
        let disk = self.engine.disk_ref(V).unwrap();
        disk.bitmap.weight(Slot(0))
    }
}

fn superblock(disk: &[u8]) -> Option<Superblock> {
    let place = placement(disk.len());
    let at = place.superblock_offset().unwrap() as usize;
    let sb = Superblock::decode(disk[at..].first_chunk().unwrap()).ok()?;
    sb.geometry(place).ok().map(|_| sb)
}

#[test]
fn metadata_moves_to_the_new_end() {
    for grown in [4096, 64 << 10, 1 << 20, 40 << 20] {
        let mut m = Machine::new(disk());
        assert!(m.attach().is_ok());
        let old = m.size();
        assert_eq!(m.marked(), 0);
        m.disk.resize(OLD + grown, 0xaa);
        assert_eq!(m.resize(0).code, RetCode::NO_ERROR);
        let geometry = geometry(OLD + grown);
        let new = geometry.usable_sectors();
        assert!(new > old, "{new} {old}");
        assert_eq!(m.size(), new);
        let sb = superblock(&m.disk).expect("metadata at the new end");
        assert_eq!(sb.effective_size, new);
        assert!(!sb.flags.contains(LocalFlags::AL_DISABLED));
        assert!(
            sb.peers
                .iter()
                .all(|p| !p.flags.contains(PeerFlags::FULL_SYNC))
        );
        assert_eq!(sb.current_uuid & !1, 0xd0d0);
        let al = (geometry.al_sector() * 512) as usize;
        let layout = AlLayout::from(&geometry);
        let replay = replay_area(&layout, &m.disk[al..al + 8 * 4096]).unwrap();
        assert!(replay.hot.is_empty());
        // What is new is out of sync, in memory and on the disk.
        assert_eq!(m.marked(), new.div_ceil(8) - old / 8);
        let mut again = Machine::new(m.disk.clone());
        assert!(again.attach().is_ok());
        assert_eq!((again.size(), again.marked()), (new, m.marked()));
    }
}

#[test]
fn a_crash_on_the_way_costs_a_resync_at_most() {
    for (grown, written) in [(64 << 10, 1), (1 << 20, 2), (1 << 20, 12)] {
        let mut writes = 0;
        loop {
            let mut m = Machine::new(disk());
            assert!(m.attach().is_ok());
            m.give(Command::Primary { force: false });
            let old = m.size();
            m.disk.resize(OLD + grown, 0xaa);
            m.left = writes * written;
            m.give(Command::Resize {
                volume: V,
                resize: Resize {
                    assume_peer_has_space: true,
                    ..Resize::default()
                },
            });
            let all = m.left > 0;
            let Some(sb) = superblock(&m.disk) else {
                // Nothing is at the new place: the old metadata is found where the device used to end.
                assert_eq!(writes, 0, "{grown}: after {} writes", writes * written);
                m.disk.truncate(OLD);
                let mut again = Machine::new(m.disk);
                assert!(again.attach().is_ok());
                assert_eq!(again.size(), old);
                writes += 1;
                continue;
            };
            let incomplete = sb.flags.contains(LocalFlags::AL_DISABLED);
            let mut again = Machine::new(m.disk);
            let reply = again.attach();
            assert!(
                reply.is_ok(),
                "after {} writes: {reply:?}",
                writes * written
            );
            let new = geometry(OLD + grown).usable_sectors();
            assert_eq!(again.size(), new);
            let everything = new.div_ceil(8);
            if incomplete {
                assert_eq!(again.marked(), everything);
            } else {
                assert!(all || again.marked() >= everything - old / 8);
            }
            if all {
                break;
            }
            writes += 1;
        }
    }
}

#[test]
fn a_disk_that_did_not_grow_has_no_room() {
    let mut m = Machine::new(disk());
    let before = m.disk.clone();
    assert!(m.attach().is_ok());
    let old = m.size();
    assert_eq!(m.resize(old + 8).code, RetCode::ERR_DISK_TOO_SMALL);
    assert_eq!(m.resize(0).code, RetCode::NO_ERROR);
    assert_eq!(m.size(), old);
    assert_eq!(m.resize(old - 8).code, RetCode::NO_ERROR);
    assert_eq!(m.size(), old - 8);
    assert_eq!(superblock(&m.disk).unwrap().effective_size, old - 8);
    assert_eq!(m.disk[..1 << 20], before[..1 << 20], "no data was touched");
    assert_eq!(m.engine.status().devices[0].1.disk, DiskState::UpToDate);
}

/// The area behind the new end is somebody else's when the command has ended.
#[test]
fn a_shrink_waits_for_writes_behind_the_new_end() {
    let mut m = Machine::new(disk());
    assert!(m.attach().is_ok());
    m.give(Command::Primary { force: false });
    m.replies.clear();
    let old = m.size();
    let write = |m: &mut Machine, io: u64, sector: u64| {
        m.event(Event::Io {
            io: IoId(io),
            volume: V,
            request: IoRequest::Write {
                sector: Sector(sector),
                len: 4096,
                buf: BufId(io),
                fua: false,
            },
        });
    };
    write(&mut m, 1, 0);
    write(&mut m, 2, old - 8);
    assert_eq!(m.writing.len(), 2, "both are on their way to the disk");
    let resize = Resize {
        size: old - 64,
        assume_peer_has_space: true,
        ..Resize::default()
    };
    m.give(Command::Resize { volume: V, resize });
    assert!(m.replies.is_empty(), "{:?}", m.replies);
    // Nothing new behind the new end; what is before goes on.
    write(&mut m, 3, old - 8);
    assert_eq!(m.failed, [IoId(3)]);
    write(&mut m, 4, 64);
    assert_eq!(m.writing.len(), 3);
    // The one before the new end does not count.
    m.write_done(0);
    assert!(m.replies.is_empty());
    m.write_done(0);
    assert_eq!(m.replies.pop().map(|r| r.code), Some(RetCode::NO_ERROR));
    assert_eq!(m.size(), old - 64);
    assert_eq!(superblock(&m.disk).unwrap().effective_size, old - 64);
    assert_eq!(m.failed, [IoId(3)]);
}

#[test]
fn without_a_disk_there_is_nothing_to_resize() {
    let mut m = Machine::new(disk());
    assert_eq!(m.resize(0).code, RetCode::ERR_NO_DISK);
    let resize = Resize::default();
    let volume = VolumeNr::from_wire(7);
    let reply = m.ask(Command::Resize { volume, resize });
    assert_eq!(reply.code, RetCode::ERR_MINOR_INVALID);
}
