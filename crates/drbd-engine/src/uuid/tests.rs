//! The scenarios of state machine, section 19, as far as they are a matter of identifiers. Nodes A, B,
//! C have ids 0, 1, 2; generations are named u0, u1, … in the order of their creation.

use alloc::vec::Vec;

use drbd_proto::UuidFlags;
use proptest::prelude::*;

use super::*;

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;

fn node(n: usize) -> NodeId {
    NodeId::new(n as u32).unwrap()
}

fn mask(nodes: &[usize]) -> NodeMask {
    nodes.iter().fold(NodeMask::EMPTY, |m, &n| m.with(node(n)))
}

/// Generation un.
fn u(n: u64) -> Uuid {
    Uuid(0x1000 + 0x10 * n)
}

const J: Uuid = Uuid::JUST_CREATED;

/// Three nodes, each with two bitmap slots, and what each knows of the others' disks.
struct Cluster {
    ids: Vec<GenIds>,
    nodes: Vec<Nodes>,
    disks: Vec<[DiskState; 3]>,
    /// Nodes that show the UUID of their sync source, this one.
    targets: [Option<Uuid>; 3],
    created: u64,
    dagtag: u64,
}

impl Cluster {
    /// All nodes have this data, and all disks are in this state.
    fn new(current: Uuid, disk: DiskState, next: u64) -> Self {
        let nodes = (0..3).map(|me| {
            let mut slots = [None; NODES];
            let others = (0..3).filter(|n| *n != me);
            others
                .zip(0..)
                .for_each(|(n, slot): (usize, u8)| slots[n] = Some(Slot(slot)));
            Nodes {
                slots,
                exist: mask(&[A, B, C]),
                max_peers: 2,
            }
        });
        let ids = (0..3).map(|me| {
            let mut ids = GenIds::just_created(node(me));
            ids.current = current;
            ids
        });
        Cluster {
            ids: ids.collect(),
            nodes: nodes.collect(),
            disks: (0..3).map(|_| [disk; 3]).collect(),
            targets: [None; 3],
            created: next,
            dagtag: 0,
        }
    }

    fn peers(&self, me: usize) -> Vec<PeerFacts> {
        (0..3)
            .filter(|n| *n != me)
            .map(|n| PeerFacts {
                node: node(n),
                disk: self.disks[me][n],
                repl: ReplState::Established,
                current: self.targets[n].unwrap_or(self.ids[n].current()),
                sync_target: self.targets[n].is_some(),
            })
            .collect()
    }

    /// What `from` tells `to`.
    fn told(&self, from: usize, to: usize) -> PeerUuids {
        let compose = Compose {
            to: node(to),
            pv: 124,
            resolved: self.ids[from].current(),
            dirty_bits: 0,
            flags: UuidFlags::STABLE,
            node_mask: NodeMask::EMPTY,
        };
        let packet = self.ids[from].compose(&compose, &self.peers(from), &self.nodes[from]);
        PeerUuids::from(&packet)
    }

    /// A Primary begins a new generation.
    fn new_current(&mut self, me: usize, weak: NodeMask) -> Option<NodeMask> {
        self.dagtag += 100;
        let (peers, created) = (self.peers(me), &mut self.created);
        let mut random = || {
            *created += 1;
            u(*created - 1)
        };
        let tag = Dagtag(self.dagtag);
        self.ids[me].new_current(weak, tag, true, &peers, &self.nodes[me], &mut random)
    }

    fn follow(&mut self, me: usize, uuid: Uuid, weak: &[usize]) {
        let peers = self.peers(me);
        let up_to_date = self.disks[me][me] == DiskState::UpToDate;
        let (weak, tag) = (mask(weak), Dagtag(self.dagtag));
        let mut random = || panic!("not needed");
        let nodes = &self.nodes[me];
        self.ids[me].follow(
            uuid,
            weak,
            tag,
            up_to_date,
            false,
            &peers,
            nodes,
            &mut random,
        );
    }

    fn start(&mut self, me: usize, source: usize) -> Uuid {
        let (theirs, peers) = (self.told(source, me), self.peers(me));
        let tag = Dagtag(self.dagtag);
        let nodes = &self.nodes[me];
        self.ids[me].start_resync(&theirs, tag, &peers, nodes, &mut || panic!("not needed"))
    }

    fn end(&mut self, me: usize, source: usize, start: Uuid) -> NodeMask {
        let (theirs, peers) = (self.told(source, me), self.peers(me));
        let tag = Dagtag(self.dagtag);
        self.ids[me].end_resync(&theirs, start, tag, false, &peers, &self.nodes[me])
    }

    /// `me` gets a UUIDs packet.
    fn learn(&mut self, me: usize, from: usize) -> Learned {
        let (theirs, peers) = (self.told(from, me), self.peers(me));
        let equal = theirs.current.same(self.ids[me].current());
        self.ids[me].learn(
            node(from),
            &theirs,
            equal,
            NodeMask::EMPTY,
            &peers,
            &self.nodes[me],
        )
    }

    /// Compares a node's identifiers, towards the three nodes only.
    #[track_caller]
    fn expect(&self, me: usize, current: Uuid, bitmap: [(usize, Uuid); 2], history: &[Uuid]) {
        let ids = &self.ids[me];
        assert!(ids.current().same(current), "current {}", ids.current());
        for (n, uuid) in bitmap {
            assert!(
                ids.bitmap(node(n)).same(uuid),
                "bitmap {n}: {}",
                ids.bitmap(node(n))
            );
        }
        let known: Vec<_> = ids
            .history()
            .iter()
            .take_while(|u| !u.is_none())
            .copied()
            .collect();
        assert_eq!(known, history);
    }
}

const O: Uuid = Uuid::NONE;

#[test]
fn initial_sync() {
    // Section 19.2.
    use DiskState::*;
    let mut c = Cluster::new(J, Inconsistent, 1);
    (0..3).for_each(|n| c.disks[n][A] = UpToDate);
    assert_eq!(c.new_current(A, mask(&[B, C])), Some(mask(&[B, C])));
    c.expect(A, u(2), [(B, u(1)), (C, u(1))], &[]);
    assert!(c.ids[A].current().is_primary());
    let start_b = c.start(B, A);
    let start_c = c.start(C, A);
    c.expect(B, u(1), [(A, O), (C, u(1))], &[]);
    c.expect(C, u(1), [(A, O), (B, u(1))], &[]);
    c.end(B, A, start_b);
    (0..3).for_each(|n| c.disks[n][B] = UpToDate);
    c.expect(B, u(2), [(A, O), (C, u(1))], &[]);
    let learned = c.learn(A, B);
    assert_eq!((learned.ended, learned.clear), (mask(&[B]), mask(&[])));
    c.expect(A, u(2), [(B, O), (C, u(1))], &[u(1)]);
    c.end(C, A, start_c);
    c.expect(C, u(2), [(A, O), (B, O)], &[]);
    c.learn(A, C);
    c.expect(A, u(2), [(B, O), (C, O)], &[u(1)]);
    let learned = c.learn(B, C);
    assert_eq!((learned.ended, learned.clear), (mask(&[C]), mask(&[])));
    c.expect(B, u(2), [(A, O), (C, O)], &[u(1)]);
}

#[test]
fn take_over_after_a_crash() {
    // Section 19.4.
    use DiskState::*;
    let mut c = Cluster::new(u(0), UpToDate, 1);
    (0..3).for_each(|n| c.disks[n][A] = if n == A { UpToDate } else { Unknown });
    assert!(c.new_current(B, NodeMask::EMPTY).is_some());
    c.expect(B, u(1), [(A, u(0)), (C, O)], &[u(0)]);
    c.follow(C, u(1), &[A]);
    c.expect(C, u(1), [(A, u(0)), (B, O)], &[u(0)]);
    // A is back and connects to B.
    c.disks[A][C] = Unknown;
    let start = c.start(A, B);
    c.expect(A, u(0), [(B, O), (C, u(0))], &[]);
    assert_eq!(c.end(A, B, start), NodeMask::EMPTY);
    c.expect(A, u(1), [(B, O), (C, O)], &[]);
    c.learn(B, A);
    c.expect(B, u(1), [(A, O), (C, O)], &[u(0)]);
    let learned = c.learn(C, B);
    assert_eq!(learned.clear, mask(&[A]), "C hears it from B");
    c.expect(C, u(1), [(A, O), (B, O)], &[u(0)]);
}

#[test]
fn no_new_generation_if_all_follow() {
    let mut c = Cluster::new(u(0), DiskState::UpToDate, 1);
    c.ids[A].history[0] = u(9);
    assert_eq!(c.new_current(A, NodeMask::EMPTY), None);
    c.expect(A, u(0), [(B, O), (C, O)], &[u(9)]);
    // But from a day-0 state there is always one (section 19.14).
    let day0 = u(0);
    assert!(c.ids[B].is_day0() && !c.ids[A].is_day0());
    assert_eq!(c.new_current(B, NodeMask::EMPTY), Some(NodeMask::EMPTY));
    c.expect(B, u(1), [(A, O), (C, O)], &[day0]);
    c.follow(C, u(1), &[]);
    c.expect(C, u(1), [(A, O), (B, O)], &[day0]);
    assert!(
        c.ids[B].bitmap(node(7)).same(day0),
        "nodes never heard of count from day 0"
    );
}

#[test]
fn a_weak_node_does_not_follow() {
    use DiskState::*;
    let mut c = Cluster::new(u(0), UpToDate, 1);
    (0..3).for_each(|n| c.disks[n][C] = if n == C { UpToDate } else { Outdated });
    assert_eq!(c.new_current(A, NodeMask::EMPTY), Some(mask(&[C])));
    c.expect(A, u(1), [(B, O), (C, u(0))], &[u(0)]);
    // C is told, too: it is connected, but gets no writes.
    c.follow(C, u(1), &[C]);
    c.expect(C, u(0), [(A, O), (B, O)], &[]);
    assert!(c.ids[A].bitmap(node(C)).same(c.ids[C].current()));
}

#[test]
fn adding_a_node() {
    // Section 19.11.
    use DiskState::*;
    let mut c = Cluster::new(u(9), UpToDate, 1);
    for n in [A, B] {
        c.ids[n].history[0] = u(8);
        c.disks[n][C] = Unknown;
        // Nodes never heard of count from day 0.
        (3..NODES).for_each(|other| c.ids[n].put(node(other), u(0), Dagtag(1)));
    }
    c.ids[C] = GenIds::just_created(node(C));
    assert_eq!(c.new_current(A, NodeMask::EMPTY), Some(mask(&[C])));
    c.expect(A, u(1), [(B, O), (C, u(9))], &[u(8)]);
    c.follow(B, u(1), &[C]);
    c.expect(B, u(1), [(A, O), (C, u(9))], &[u(8)]);
    c.disks[C] = [UpToDate, Unknown, Inconsistent];
    let start = c.start(C, A);
    c.expect(C, u(9), [(A, O), (B, u(9))], &[]);
    c.disks[C][B] = UpToDate;
    c.end(C, A, start);
    c.expect(C, u(1), [(A, O), (B, O)], &[u(8)]);
    c.learn(A, C);
    c.learn(B, C);
    c.expect(A, u(1), [(B, O), (C, O)], &[u(9), u(8)]);
    c.expect(B, u(1), [(A, O), (C, O)], &[u(9), u(8)]);
}

#[test]
fn stale_data_through_a_middle_node() {
    // Section 19.12.
    use DiskState::*;
    let mut c = Cluster::new(u(0), UpToDate, 1);
    (c.disks[A][C], c.disks[B][C]) = (Outdated, Outdated);
    c.new_current(A, NodeMask::EMPTY);
    c.expect(A, u(1), [(B, O), (C, u(0))], &[u(0)]);
    c.follow(B, u(1), &[C]);
    c.expect(B, u(1), [(A, O), (C, u(0))], &[u(0)]);
    c.disks[A][B] = Outdated;
    c.new_current(A, NodeMask::EMPTY);
    c.expect(A, u(2), [(B, u(1)), (C, u(0))], &[u(0)]);
    // B and C meet.
    c.disks[C] = [Unknown, Outdated, Outdated];
    let start = c.start(C, B);
    c.end(C, B, start);
    c.expect(C, u(1), [(A, O), (B, O)], &[]);
    c.learn(B, C);
    c.expect(B, u(1), [(A, O), (C, O)], &[u(0)]);
    // A and B meet.
    let learned = c.learn(A, B);
    assert_eq!(learned.copy, [(node(B), node(C))]);
    c.expect(A, u(2), [(B, u(1)), (C, u(1))], &[u(0)]);
    c.disks[B] = [UpToDate, Inconsistent, Outdated];
    let start = c.start(B, A);
    c.expect(B, u(1), [(A, O), (C, u(1))], &[u(0)]);
    c.end(B, A, start);
    c.expect(B, u(2), [(A, O), (C, u(1))], &[u(0)]);
    c.learn(A, B);
    c.expect(A, u(2), [(B, O), (C, u(1))], &[u(0)]);
    // B brings C up to date.
    c.disks[C][B] = UpToDate;
    let start = c.start(C, B);
    c.end(C, B, start);
    c.expect(C, u(2), [(A, O), (B, O)], &[u(0)]);
    c.learn(B, C);
    c.expect(B, u(2), [(A, O), (C, O)], &[u(1), u(0)]);
    assert_eq!(c.learn(A, B).clear, mask(&[C]));
    c.expect(A, u(2), [(B, O), (C, O)], &[u(1), u(0)]);
}

#[test]
fn discarded_generation_is_forgotten() {
    // Section 19.6: two nodes, B discards its data.
    let mut c = Cluster::new(u(0), DiskState::UpToDate, 1);
    c.disks[A] = [DiskState::UpToDate, DiskState::Unknown, DiskState::UpToDate];
    c.disks[B] = [DiskState::Unknown, DiskState::UpToDate, DiskState::UpToDate];
    c.new_current(A, NodeMask::EMPTY);
    c.new_current(B, NodeMask::EMPTY);
    c.expect(A, u(1), [(B, u(0)), (C, O)], &[u(0)]);
    c.expect(B, u(2), [(A, u(0)), (C, O)], &[u(0)]);
    c.disks[B][A] = DiskState::UpToDate;
    let start = c.start(B, A);
    c.expect(B, u(2), [(A, u(0)), (C, O)], &[u(0)]);
    c.end(B, A, start);
    c.expect(B, u(1), [(A, O), (C, O)], &[u(0)]);
}

#[test]
fn peers_with_the_same_data_are_not_outdated() {
    // The source A still tracks C, which has A's data already; node 1 is the target.
    let mut c = Cluster::new(u(2), DiskState::UpToDate, 3);
    c.ids[A].put(node(C), u(1), Dagtag(1));
    c.ids[B].current = u(1);
    let start = c.start(B, A);
    assert_eq!(c.end(B, A, start), NodeMask::EMPTY);
    c.expect(B, u(2), [(A, O), (C, O)], &[]);
    // One that has not is older than this node now.
    c.ids[B].current = u(1);
    c.ids[C].current = u(0);
    let start = c.start(B, A);
    assert_eq!(c.end(B, A, start), mask(&[C]));
    c.expect(B, u(2), [(A, O), (C, u(1))], &[]);
    // Nor has one that gets it right now: it may stop half-way.
    c.ids[B].current = u(1);
    c.ids[B].put(node(C), O, Dagtag(0));
    c.targets[C] = Some(u(2));
    c.disks[B][C] = DiskState::Inconsistent;
    let start = c.start(B, A);
    c.end(B, A, start);
    c.expect(B, u(2), [(A, O), (C, u(1))], &[]);
    // One that says so for another source, and is UpToDate by now, has arrived.
    c.ids[B].current = u(1);
    c.ids[B].put(node(C), O, Dagtag(0));
    c.disks[B][C] = DiskState::UpToDate;
    let start = c.start(B, A);
    c.end(B, A, start);
    c.expect(B, u(2), [(A, O), (C, O)], &[]);
}

#[test]
fn an_ancestor_that_only_an_unknown_node_has_is_kept() {
    let mut c = Cluster::new(u(3), DiskState::UpToDate, 3);
    c.ids[A].put(node(C), u(2), Dagtag(1));
    // What node C is at has its slot, and that of a node that does not exist.
    c.ids[B].current = u(2);
    c.ids[B].push(u(1));
    c.ids[B].put(node(C), u(0), Dagtag(1));
    c.ids[B].put(node(20), u(0), Dagtag(1));
    c.ids[C].current = u(0);
    let start = c.start(B, A);
    c.end(B, A, start);
    c.expect(B, u(3), [(A, O), (C, u(2))], &[u(0), u(1)]);
}

#[test]
fn missed_end_of_a_resync() {
    // Section 19.13: A u1 {B:u0}, B u1 {A:0}.
    let mut c = Cluster::new(u(1), DiskState::UpToDate, 2);
    c.ids[A].put(node(B), u(0), Dagtag(7));
    let (a, b) = (c.told(A, B), c.told(B, A));
    let sent = c.ids[A].bitmap(node(B));
    assert_eq!(
        c.ids[B].missed_end(node(A), &a, O, 5, 124),
        MissedEnd::ByPeer { flag: true }
    );
    assert_eq!(
        c.ids[B].missed_end(node(A), &a, O, 0, 124),
        MissedEnd::ByPeer { flag: false }
    );
    assert_eq!(
        c.ids[B].missed_end(node(A), &a, O, 0, 123),
        MissedEnd::ByPeer { flag: true }
    );
    let by_me = |flag, cleared| MissedEnd::ByMe { flag, cleared };
    assert_eq!(
        c.ids[A].missed_end(node(B), &b, sent, 5, 124),
        by_me(true, false)
    );
    c.expect(A, u(1), [(B, u(0)), (C, O)], &[]);
    assert_eq!(
        c.ids[A].missed_end(node(B), &b, sent, 0, 124),
        by_me(false, true)
    );
    c.expect(A, u(1), [(B, O), (C, O)], &[u(0)]);
    assert_eq!(c.ids[A].missed_end(node(B), &b, O, 0, 124), MissedEnd::None);
    // Entries that a peer does not report are no evidence.
    let mut silent = PeerUuids::default();
    silent.current = u(1);
    assert_eq!(
        c.ids[A].missed_end(node(B), &silent, u(0), 5, 124),
        MissedEnd::None
    );
}

#[test]
fn copies_are_detected() {
    // The peer has u5 for two absent nodes; here one has it.
    let mut c = Cluster::new(u(9), DiskState::UpToDate, 10);
    let mut nodes = c.nodes[A].clone();
    (nodes.slots[3], nodes.slots[4], nodes.max_peers) = (Some(Slot(2)), Some(Slot(3)), 4);
    c.ids[A].put(node(3), u(5), Dagtag(5));
    c.ids[A].put(node(4), u(3), Dagtag(3));
    let mut peer = PeerUuids::default();
    peer.current = u(9);
    peer.set_bitmap(node(3), u(5));
    peer.set_bitmap(node(4), u(5));
    let peers = c.peers(A);
    let learned = c.ids[A].learn(node(B), &peer, true, NodeMask::EMPTY, &peers, &nodes);
    assert_eq!(learned.copy, [(node(3), node(4))]);
    assert!(learned.changed());
    assert_eq!(
        (c.ids[A].bitmap(node(4)), c.ids[A].dagtag(node(4))),
        (u(5), Dagtag(5))
    );
    assert_eq!(c.ids[A].history()[0], u(3));
    assert!(
        !c.ids[A]
            .learn(node(B), &peer, true, NodeMask::EMPTY, &peers, &nodes)
            .changed()
    );
}

#[test]
fn packet_contents() {
    // State machine, section 20: UUIDS110 from node 1.
    let mut c = Cluster::new(Uuid(0x1111_1111_1111_1110), DiskState::UpToDate, 1);
    let ids = &mut c.ids[B];
    ids.put(node(C), Uuid(0x2222_2222_2222_2222), Dagtag(1));
    ids.history[0] = Uuid(0x3333_3333_3333_3332);
    let compose = Compose {
        to: node(A),
        pv: 124,
        resolved: c.ids[B].current(),
        dirty_bits: 0,
        flags: UuidFlags::STABLE.union(UuidFlags::RECONNECT),
        node_mask: NodeMask::EMPTY,
    };
    let peers = c.peers(B);
    let packet = c.ids[B].compose(&compose, &peers, &c.nodes[B]);
    assert_eq!(packet.bitmap_mask, NodeMask(7));
    assert_eq!(packet.flags.bits(), 0x120);
    assert_eq!(
        packet.bitmap_uuids[..3],
        [O, O, Uuid(0x2222_2222_2222_2222)]
    );
    assert_eq!(packet.bitmap_uuids[3], Uuid::UNKNOWN);
    assert_eq!(packet.history[..2], [Uuid(0x3333_3333_3333_3332), O]);

    // With a free slot, the lowest id that nobody has stands for day 0.
    let mut nodes = c.nodes[B].clone();
    nodes.max_peers = 3;
    c.ids[B].put(node(9), u(0), Dagtag(1));
    c.ids[B].put(node(8), u(0), Dagtag(1));
    let packet = c.ids[B].compose(&compose, &peers, &nodes);
    assert_eq!(packet.bitmap_mask, NodeMask(7 | 1 << 8));
    assert_eq!(packet.flags.unallocated_node(), Some(node(8)));
    let heard = PeerUuids::from(&packet);
    assert_eq!(heard.existing(), NodeMask(7));
    assert_eq!(
        (heard.bitmap(node(8)), heard.bitmap(node(9))),
        (Some(u(0)), None)
    );
    assert_eq!(heard.node_of(u(0)), Some(node(8)));
    let old = Compose { pv: 115, ..compose };
    assert_eq!(
        c.ids[B].compose(&old, &peers, &nodes).bitmap_mask,
        NodeMask(7)
    );

    // Target of A at another generation: the entry for A says nothing.
    let mut peers = peers;
    peers[0].repl = ReplState::PausedSyncT;
    peers[0].current = u(5);
    let packet = c.ids[B].compose(&compose, &peers, &c.nodes[B]);
    assert_eq!(packet.bitmap_uuids[0], Uuid::UNKNOWN);
    assert_eq!(PeerUuids::from(&packet).bitmap(node(A)), None);
}

#[test]
fn old_packets() {
    let mut c = Cluster::new(u(1), DiskState::UpToDate, 2);
    c.ids[A].put(node(B), u(0), Dagtag(1));
    (
        c.ids[A].history[0],
        c.ids[A].history[1],
        c.ids[A].history[2],
    ) = (u(7), u(6), u(5));
    let flags = UuidFlags::CRASHED_PRIMARY.union(UuidFlags::RECONNECT);
    let packet = c.ids[A].compose_legacy(node(B), 3, flags);
    assert_eq!(packet.flags, UuidFlags::CRASHED_PRIMARY);
    let heard = PeerUuids::from_legacy(&packet, node(B));
    assert_eq!(
        heard.flags,
        UuidFlags::CRASHED_PRIMARY.union(UuidFlags::STABLE)
    );
    assert_eq!(
        (heard.bitmap(node(B)), heard.bitmap(node(A))),
        (Some(u(0)), None)
    );
    assert_eq!(heard.history()[..3], [u(7), u(6), O]);
    // Section 7.12.
    let mut random = || u(9);
    let sync = c.ids[A].sync_uuid(node(B), Dagtag(2), &mut random);
    assert_eq!(sync, Uuid(u(0).0 + SYNC_UUID_STEP));
    assert_eq!(c.ids[B].sync_uuid(node(A), Dagtag(2), &mut random), u(9));
}

#[test]
fn rotation_passes_over_clients_and_copies() {
    use DiskState::*;
    let mut c = Cluster::new(u(1), UpToDate, 2);
    // B has no slot and no disk: a client. C is Negotiating.
    c.nodes[A].slots[B] = None;
    c.disks[A] = [UpToDate, Diskless, Negotiating];
    let mut random = || u(99);
    let (peers, nodes) = (c.peers(A), c.nodes[A].clone());
    let counted = c.ids[A].rotate(NodeMask::EMPTY, Dagtag(1), &peers, &nodes, &mut random);
    assert_eq!((c.ids[A].bitmap(node(B)), c.ids[A].bitmap(node(C))), (O, O));
    // Slot 0 is free: node 3 stands for it, the others for slots that do not exist.
    assert_eq!(counted, mask(&[3]));
    assert!((3..NODES).all(|n| c.ids[A].bitmap(node(n)) == u(1)));
    // A weak one gets it, whatever its disk; one that tracks another generation keeps that.
    c.ids[A].put(node(B), u(0), Dagtag(1));
    c.disks[A] = [UpToDate, Unknown, UpToDate];
    let peers = c.peers(A);
    let counted = c.ids[A].rotate(mask(&[C]), Dagtag(2), &peers, &nodes, &mut random);
    assert!(counted.contains(node(C)) && !counted.contains(node(B)));
    assert_eq!(c.ids[A].bitmap(node(B)), u(0));
}

#[test]
fn rotation_serves_a_slot_once() {
    // Two nodes without configured peer share a slot number: only the first one gets the UUID.
    let mut c = Cluster::new(u(1), DiskState::UpToDate, 2);
    let mut nodes = c.nodes[A].clone();
    (nodes.slots[3], nodes.slots[4], nodes.max_peers) = (Some(Slot(2)), Some(Slot(2)), 3);
    let peers = c.peers(A);
    c.ids[A].rotate(NodeMask::EMPTY, Dagtag(1), &peers, &nodes, &mut || u(99));
    assert_eq!(
        (c.ids[A].bitmap(node(3)), c.ids[A].bitmap(node(4))),
        (u(1), O)
    );
}

#[test]
fn only_a_newer_slot_is_copied() {
    // B is at u1, which A tracks for it; B says 0 for C, which A tracks since u0.
    let mut c = Cluster::new(u(2), DiskState::UpToDate, 3);
    c.ids[B].current = u(1);
    c.ids[A].put(node(B), u(1), Dagtag(5));
    c.ids[A].put(node(C), u(0), Dagtag(5));
    assert!(!c.learn(A, B).changed());
    c.ids[A].put(node(B), u(1), Dagtag(6));
    assert_eq!(c.learn(A, B).copy, [(node(B), node(C))]);
}

#[test]
fn moved_on() {
    let mut c = Cluster::new(u(1), DiskState::UpToDate, 2);
    let a = &mut c.ids[A];
    a.put(node(B), u(3), Dagtag(1));
    a.history[0] = u(4);
    assert!(a.moved_on(u(1), u(2)));
    assert!(!a.moved_on(u(1), O));
    assert!(!a.moved_on(u(1), Uuid(u(1).0 | 1)));
    assert!(!a.moved_on(u(0), u(2)), "it was not on our generation");
    assert!(a.moved_on(O, u(2)), "heard of for the first time");
    assert!(
        !a.moved_on(u(1), u(3)) && !a.moved_on(u(1), u(4)),
        "we were there"
    );
}

#[test]
fn forgotten_and_cleared() {
    let mut c = Cluster::new(u(1), DiskState::UpToDate, 2);
    let nodes = c.nodes[A].clone();
    let a = &mut c.ids[A];
    a.put(node(B), u(3), Dagtag(1));
    a.put(node(9), u(0), Dagtag(5));
    let mut without = nodes.clone();
    without.slots[B] = None;
    without.exist = mask(&[A, C]);
    a.forget(node(B), &without);
    assert_eq!((a.bitmap(node(B)), a.dagtag(node(B))), (u(0), Dagtag(5)));
    a.clear_bitmap_uuids();
    assert!(NodeId::all().all(|n| a.bitmap(n).is_none()));
    assert_eq!(a.history()[..2], [u(0), O], "once");
    a.forget(node(C), &without);
    assert_eq!(a.bitmap(node(C)), O);
}

#[test]
fn mark_of_a_primary() {
    let mut c = Cluster::new(u(1), DiskState::UpToDate, 2);
    c.ids[A].mark_primary(true);
    assert_eq!(c.ids[A].current(), Uuid(u(1).0 | 1));
    let mut fresh = GenIds::just_created(node(A));
    fresh.mark_primary(true);
    assert_eq!(fresh.current(), J);
}

proptest! {
    /// Nothing twice in the history, no mark, no current one; nothing is lost unless it is known
    /// elsewhere or the list is full.
    #[test]
    fn push_keeps_a_set(values in prop::collection::vec(0u64..80, 0..100), current in 0u64..80) {
        let mut ids = GenIds::just_created(node(A));
        ids.current = Uuid(current);
        ids.put(node(B), Uuid(20), Dagtag(1));
        for (i, &v) in values.iter().enumerate() {
            let before = ids.history;
            ids.push(Uuid(v));
            let known = Uuid(v).is_none() || Uuid(v).is_just_created() || Uuid(v).same(ids.current)
                || before.iter().any(|u| u.same(Uuid(v)) && !u.is_none());
            if known || (Uuid(v).same(Uuid(20)) && !before[0].is_none()) {
                prop_assert_eq!(before, ids.history);
            } else {
                prop_assert_eq!(ids.history[0], Uuid(v & !1), "push {}", i);
                prop_assert!(before[0].is_none() || ids.history[1..] == before[..NODES - 1]);
            }
        }
        let known: Vec<_> = ids.history.iter().filter(|u| !u.is_none()).collect();
        prop_assert!(known.iter().enumerate().all(|(i, a)| known[..i].iter().all(|b| !a.same(**b))));
    }
}
