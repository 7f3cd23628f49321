//! Our engine in the place of one side of a recorded connection (DRBD 9.3.3 at protocol 124, 8.4.11 at 101):
//! it gets what the recorded peer sent, does what the recorded node was told to do, and says the same,
//! packet by packet. What is a matter of time is not compared: pings, hints to dispatch, and when a
//! peer-ack is due.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // Helpers of tests fail loudly.
#![allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]

#[path = "recorded/fit.rs"]
mod fit;
#[path = "recorded/node.rs"]
mod node;
#[path = "recorded/transcript.rs"]
mod transcript;

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use drbd_engine::{Command, Instant};
use drbd_proto::packet::{Cmd, Packet, PeersInSync, Scope};
use drbd_proto::{
    Bytes, DiskState, NodeId, NodeMask, ReplState, Role, Sector, Stream, UuidFlags, VolumeNr,
};

use fit::Names;
use node::{Sent, Setup, TestNode};
use transcript::{Line, Said};

/// What happens to a node without being said to the peer.
#[derive(Clone, Copy)]
enum Act {
    /// Writes of 4 KiB one after the other, from a sector on.
    Blocks(u64, u64),
    /// A write of this many bytes.
    Write(u64, u32),
    Connect,
}

/// When the recording has this mark, this node does that.
type Marks<'a> = &'a [(&'a str, u64, Act)];

fn is_time(packet: &Packet) -> bool {
    matches!(
        packet,
        Packet::Ping
            | Packet::PingAck
            | Packet::UnplugRemote
            | Packet::PeerAck(_)
            | Packet::PeersInSync(_)
    )
}

struct Replay {
    node: TestNode,
    me: u64,
    names: Names,
    /// What the recorded node said and ours has not, yet.
    due: VecDeque<Said>,
    /// The identifiers and the state that the recorded node told last.
    last: HashMap<Cmd, Packet>,
    /// How many more times our node may tell its identifiers than the recorded one: it does so at the end
    /// of a resync whose source it was.
    more_uuids: usize,
    round: Option<u32>,
    compared: usize,
}

impl Replay {
    /// A node as it was at the beginning of a recording.
    fn new(name: &str, setup: &Setup, more_uuids: usize) -> Replay {
        Replay {
            node: TestNode::new(setup),
            me: setup.id,
            names: Names::with_peer(name.starts_with("mixed")),
            due: VecDeque::new(),
            last: HashMap::new(),
            more_uuids,
            round: None,
            compared: 0,
        }
    }

    /// Compares what our node has said with what is due. The order within one stream counts only where
    /// one follows from the other: what is due at the same time may swap.
    fn compare(&mut self) {
        let mut rest = VecDeque::new();
        let mut last: Option<Packet> = None;
        while let Some(ours) = self.node.sent.pop_front() {
            if is_time(&ours.packet) {
                continue;
            }
            let found = self.due.iter().position(|said| {
                said.stream == ours.stream
                    && volume_fits(said, &ours)
                    && self.names.fits(&said.packet, &ours.packet)
            });
            match found {
                Some(at) => {
                    self.due.remove(at);
                    self.compared += 1;
                    last = Some(ours.packet);
                }
                // The reference says some things twice, and so may we.
                None if last.as_ref() == Some(&ours.packet) => {}
                None => rest.push_back(ours),
            }
        }
        self.node.sent = rest;
    }

    /// Everything that is due has to be said within this time.
    fn demand(&mut self, time: Duration, what: &str) {
        let step = Duration::from_millis(10);
        let mut passed = Duration::ZERO;
        self.compare();
        while !self.due.is_empty() && passed < time {
            self.node.pass(step);
            passed += step;
            self.compare();
        }
        let more = &mut self.more_uuids;
        self.node.sent.retain(|ours| {
            let surplus = *more > 0 && tells_uuids(&ours.packet);
            *more -= usize::from(surplus);
            !surplus
        });
        if self.due.is_empty() && self.node.sent.is_empty() {
            return;
        }
        let show = |p: &Packet| {
            let text = format!("  {p:?}\n");
            let text = text.replace("Uuid(FFFFFFFFFFFFFFFF), ", "");
            text.replace("Uuid(0000000000000000), ", "0, ")
                .replace("0, 0, 0, 0, 0, ", "")
        };
        let due: String = self.due.iter().take(8).map(|s| show(&s.packet)).collect();
        let sent = self.node.sent.iter().take(8);
        let sent: String = sent.map(|s| show(&s.packet)).collect();
        let log = self.node.log.join("\n  ");
        panic!(
            "{what}\nthe recorded node {} said:\n{due}ours said:\n{sent}its log:\n  {log}",
            self.me
        );
    }

    /// What the recorded node did of its own accord ours is told to do.
    fn own_accord(&mut self, said: &Said) -> bool {
        let volume = VolumeNr::ZERO;
        let peer = self.node.peer;
        let change = match &said.packet {
            Packet::TwopcPrepare(p) if u64::from(p.head.initiator.get()) == self.me => {
                Some((p.change.mask.0, p.change.val.0))
            }
            Packet::StateChgReq(p) | Packet::ConnStChgReq(p) => {
                Some((p.change.mask.0, p.change.val.0))
            }
            _ => None,
        };
        let command = match (&said.packet, change) {
            (_, Some((3, 1))) => Command::Primary { force: false },
            (_, Some((0x1e03, _))) => Command::Primary { force: true },
            (_, Some((3, 2))) => Command::Secondary { force: false },
            (_, Some((0x1f0 | 0x1ff0, val))) if val & 0x1f0 == 0x10 => {
                Command::Disconnect { peer, force: false }
            }
            (Packet::Uuids110(p), None) if p.flags.contains(UuidFlags::SKIP_INITIAL_SYNC) => {
                Command::NewCurrentUuid {
                    volume,
                    clear_bitmap: true,
                    force_resync: false,
                }
            }
            (Packet::State(s), None) if self.demoted_by_state(s.role) => {
                Command::Secondary { force: false }
            }
            (Packet::Data(p), _) => {
                self.demand(Duration::from_millis(500), "before a write");
                self.node.write(p.sector, p.size.0);
                return true;
            }
            (Packet::Trim(p) | Packet::Zeroes(p), _) => {
                self.demand(Duration::from_millis(500), "before a discard");
                self.node.discard(p.sector, p.size.0);
                return true;
            }
            _ => return false,
        };
        self.demand(Duration::from_secs(1), "before a command");
        self.node.command(command);
        true
    }

    /// A Primary of the 8 series just says that it is none any more.
    fn demoted_by_state(&self, role: Role) -> bool {
        role == Role::Secondary && self.node.is_primary_of_eight()
    }

    fn begin_round(&mut self, round: u32, marks: Marks<'_>) {
        if self.round == Some(round) {
            return;
        }
        if self.round.is_some() {
            self.demand(Duration::from_secs(1), "at the end of a connection");
            self.node.lose();
            self.acts("reconnect", marks);
        }
        let mut passed = 0;
        while !self.node.connecting && passed < 200 {
            self.node.pass(Duration::from_millis(100));
            passed += 1;
        }
        assert!(self.node.connecting, "{:#?}", self.node.log);
        self.node.sent.clear();
        self.node.establish();
        self.round = Some(round);
    }

    fn acts(&mut self, mark: &str, marks: Marks<'_>) {
        let me = self.me;
        for (_, _, act) in marks.iter().filter(|m| m.0 == mark && m.1 == me) {
            self.act(*act);
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Blocks(sector, count) => {
                for i in 0..count {
                    self.node.write(Sector(sector + i * 8), 4096);
                }
            }
            Act::Write(sector, len) => self.node.write(Sector(sector), len),
            Act::Connect => self.node.connect(),
        }
    }

    /// Replays a line.
    fn line(&mut self, line: &Line, marks: Marks<'_>) {
        match line {
            Line::Mark(at, text) => {
                self.node.until(Instant::from_nanos(at + 2_000_000_000));
                self.acts(text, marks);
            }
            Line::Torn(at) => {
                self.node.until(Instant::from_nanos(at + 2_000_000_000));
                self.demand(Duration::from_secs(1), "before the link broke");
                self.node.lose();
                self.acts("torn", marks);
            }
            Line::Packet(said) => {
                self.begin_round(said.round, marks);
                self.node
                    .until(Instant::from_nanos(said.at + 2_000_000_000));
                if said.from == self.me {
                    if is_time(&said.packet) {
                        return;
                    }
                    self.compare();
                    // It may have been said already: a command led to it.
                    let told = self.own_accord(said);
                    let last = self.last.insert(said.packet.cmd(), said.packet.clone());
                    if told || !last.is_some_and(|last| repeats(&last, &said.packet)) {
                        self.due.push_back((**said).clone());
                    }
                    self.compare();
                } else if said.packet != Packet::PingAck {
                    self.compare();
                    let packet = self.names.translate(&said.packet);
                    self.node.hear(said.stream, said.volume, packet);
                    self.compare();
                }
            }
        }
    }
}

fn tells_uuids(packet: &Packet) -> bool {
    matches!(packet, Packet::Uuids(_) | Packet::Uuids110(_))
}

/// Whether the reference says what it has just said. It tells its identifiers once more when only the mask
/// of weak nodes is another one.
fn repeats(last: &Packet, now: &Packet) -> bool {
    match (last, now) {
        (Packet::Uuids110(a), Packet::Uuids110(b)) => {
            let mut b = b.clone();
            b.node_mask = a.node_mask;
            *a == b
        }
        (Packet::Uuids(_) | Packet::State(_), _) => last == now,
        _ => false,
    }
}

fn volume_fits(said: &Said, ours: &Sent) -> bool {
    // DRBD 8.4 and the first packets have another number where none is meant.
    said.packet.cmd().scope() == Scope::Connection || said.volume == ours.volume
}

fn replay(name: &str, setup: &Setup, marks: Marks<'_>, more_uuids: usize) -> usize {
    replay_until(name, setup, marks, more_uuids, "")
}

/// The same up to a mark.
fn replay_until(
    name: &str,
    setup: &Setup,
    marks: Marks<'_>,
    more_uuids: usize,
    end: &str,
) -> usize {
    let lines = transcript::read(name);
    let mut replay = Replay::new(name, setup, more_uuids);
    for line in &lines {
        if matches!(line, Line::Mark(_, text) if text == end) {
            break;
        }
        replay.line(line, marks);
    }
    replay.demand(Duration::from_secs(1), "at the end");
    replay.compared
}

/// A node of the recordings of 9.3.3.
fn nine(id: u64) -> Setup {
    Setup {
        id,
        disk_bytes: 16 << 20,
        slots: 3,
        resync_rate: 204_800,
        verify_alg: "crc32c",
        discard: true,
    }
}

/// Connect, skip the initial sync, promotion, writes, disconnect, a resync of what changed, a broken link,
/// another resync.
const RECONNECT: Marks<'static> = &[
    ("A wrote 32x4k+2x256k", 0, Act::Blocks(4800, 32)),
    ("A wrote 32x4k+2x256k", 0, Act::Write(2560, 262_144)),
    ("A wrote 32x4k+2x256k", 0, Act::Write(3072, 262_144)),
    ("B connect", 1, Act::Connect),
    ("torn", 0, Act::Blocks(6400, 16)),
];

#[test]
fn reconnect_as_primary() {
    assert!(replay("v124-reconnect", &nine(0), RECONNECT, 2) > 40);
}

#[test]
fn reconnect_as_secondary() {
    assert!(replay("v124-reconnect", &nine(1), RECONNECT, 0) > 40);
}

#[test]
fn initial_sync_as_source() {
    assert!(replay("v124-connect-sync-writes", &nine(0), &[], 1) > 40);
}

/// The target ends the resync on the data stream, and its report of the last step comes behind that, over the other
/// one. It is answered although nothing is marked here any more: the answer tells the target which others have the
/// blocks. Once, or two nodes would answer each other for ever.
#[test]
fn the_last_step_is_answered_behind_the_end() {
    let lines = transcript::read("v124-connect-sync-writes");
    let mut replay = Replay::new("v124-connect-sync-writes", &nine(0), 1);
    let ended = |line: &&Line| {
        matches!(line, Line::Packet(said) if said.from == 1 && matches!(&said.packet,
            Packet::State(s) if s.repl == ReplState::Established && s.disk == DiskState::UpToDate))
    };
    let end = lines.iter().position(|line| ended(&line)).unwrap();
    for line in &lines[..=end] {
        let reports = matches!(line, Line::Packet(said) if said.from == 1
            && matches!(said.packet, Packet::PeersInSync(_)));
        if !reports {
            replay.line(line, &[]);
        }
    }
    let node = &mut replay.node;
    let mut answers = |len: u32| {
        node.sent.clear();
        let report = PeersInSync {
            sector: Sector(0),
            nodes: NodeMask::EMPTY.with(NodeId::new(0).unwrap()),
            size: Bytes(len),
        };
        node.hear(Stream::Control, VolumeNr::ZERO, Packet::PeersInSync(report));
        let answer = |s: &&Sent| matches!(s.packet, Packet::PeersInSync(_));
        node.sent.iter().filter(answer).count()
    };
    assert_eq!(answers(4 << 20), 1);
    assert_eq!(answers(4 << 20), 0);
}

#[test]
fn initial_sync_as_target() {
    assert!(replay("v124-connect-sync-writes", &nine(1), &[], 1) > 40);
}

/// 9.3.3 with an 8.4.11 as its peer: initial sync, writes, a discard, the peer leaves and comes back, a
/// resync of what changed. Then the recording begins a verify and has it in part only.
#[test]
fn beside_eight() {
    let setup = Setup {
        resync_rate: 102_400,
        ..nine(0)
    };
    let marks: Marks<'_> = &[("reconnect", 0, Act::Blocks(4800, 8))];
    let end = "8.4 node disconnect/connect, 8 blocks resynced 9.3 -> 8.4";
    let compared = replay_until("mixed-v101-plain", &setup, marks, 2, end);
    assert!(compared > 40);
}
