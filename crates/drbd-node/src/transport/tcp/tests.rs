//! Two transports on loopback, and one against a hand-made peer.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use drbd_proto::packet::{BlockAck, ConnectionFeatures, Data};
use drbd_proto::{BlockId, Bytes, DigestValue, DpFlags, Features, Sector};

use super::*;
use crate::mailbox::Mailbox;
use crate::pool::Purpose;
use crate::ring::{Completion, Ring};

impl Submit for Ring<Token> {
    fn push(&mut self, token: Token, op: Op) -> OpKey {
        Ring::push(self, token, op)
    }

    fn cancel(&mut self, key: OpKey) {
        Ring::cancel(self, key);
    }
}

struct Node {
    ring: Ring<Token>,
    tcp: Tcp,
    names: Names,
    pool: Pool,
    wake: Arc<dyn Wake>,
    done: Vec<Completion<Token>>,
    peer: NodeId,
    path: Path,
    events: Vec<Event>,
}

fn now() -> Instant {
    crate::clock::now()
}

fn options() -> ConnectOptions {
    ConnectOptions {
        connect_int: Duration::from_secs(3),
        ping_timeout: Duration::from_millis(500),
        sock_check: Duration::from_millis(50),
        timeout: Duration::from_secs(2),
        ko_count: 2,
        sndbuf: 0,
        rcvbuf: 0,
        delay: Duration::ZERO,
    }
}

fn free_port(host: &str) -> SocketAddr {
    TcpListener::bind((host, 0)).unwrap().local_addr().unwrap()
}

impl Node {
    fn new(peer: u32, path: Path) -> Node {
        let mailbox = Mailbox::<()>::new().unwrap();
        Node {
            ring: Ring::new(64).unwrap(),
            tcp: Tcp::new(u64::from(peer) + 5),
            names: Names::new("test".into()),
            pool: Pool::new(16 << 20),
            wake: mailbox.sender().waker(),
            done: Vec::new(),
            peer: NodeId::new(peer).unwrap(),
            path,
            events: Vec::new(),
        }
    }

    fn with(&mut self, f: impl FnOnce(&mut Tcp, &mut Context<'_>, NodeId)) {
        let mut cx = Context {
            ring: &mut self.ring,
            now: now(),
            pool: &self.pool,
            wake: &self.wake,
            names: &self.names,
        };
        f(&mut self.tcp, &mut cx, self.peer);
    }

    fn connect(&mut self) {
        self.connect_with(options());
    }

    fn connect_with(&mut self, options: ConnectOptions) {
        let path = self.path;
        self.with(|tcp, cx, peer| tcp.connect(cx, peer, vec![path], options));
    }

    fn send(&mut self, stream: Stream, packet: Packet, payload: Option<Buf>, notify: Option<OpId>) {
        self.with(|tcp, cx, peer| {
            tcp.send(cx, peer, stream, VolumeNr::ZERO, packet, payload, notify)
        });
    }

    /// One turn of a reactor.
    fn turn(&mut self) {
        let mut done = std::mem::take(&mut self.done);
        let mut events = std::mem::take(&mut self.events);
        self.with(|tcp, cx, _| {
            for c in done.drain(..) {
                tcp.complete(cx, c.token, c.result, c.op);
            }
            tcp.handle_timeouts(cx);
            while let Some(event) = tcp.next_event(cx) {
                events.push(event);
            }
            tcp.flush(cx);
        });
        self.events = events;
        self.done = done;
        self.ring.wait(Some(Duration::from_millis(2))).unwrap();
        self.ring.completions(&mut self.done);
    }

    fn until(
        &mut self,
        other: &mut Option<&mut Node>,
        what: &str,
        f: impl Fn(&[Event]) -> bool,
    ) -> Vec<Event> {
        let start = now();
        while !f(&self.events) {
            assert!(
                now().since(start) < Duration::from_secs(20),
                "no {what}: {:?}",
                self.events
            );
            self.turn();
            if let Some(other) = other {
                other.turn();
            }
        }
        std::mem::take(&mut self.events)
    }
}

fn pair(host: &str) -> [Node; 2] {
    let (a, b) = (free_port(host), free_port(host));
    let mut nodes = [
        Node::new(
            1,
            Path {
                local: a,
                remote: b,
            },
        ),
        Node::new(
            0,
            Path {
                local: b,
                remote: a,
            },
        ),
    ];
    nodes.iter_mut().for_each(Node::connect);
    nodes
}

fn established(nodes: &mut [Node; 2]) {
    let [a, b] = nodes;
    let is = |events: &[Event]| {
        events
            .iter()
            .any(|e| matches!(e, Event::Established { .. }))
    };
    let of_a = a.until(&mut Some(b), "connection", is);
    let of_b = b.until(&mut Some(a), "connection", is);
    let resolve = |events: &[Event]| match events {
        [
            Event::Established {
                path: 0,
                resolve_conflicts,
                challenge,
                ..
            },
        ] => {
            assert!(challenge.iter().any(|byte| *byte != 0));
            *resolve_conflicts
        }
        other => panic!("{other:?}"),
    };
    assert_ne!(resolve(&of_a), resolve(&of_b));
}

fn data(len: u32) -> Packet {
    Packet::Data(Data {
        sector: Sector(8),
        block_id: BlockId(77),
        seq_num: 1,
        dp_flags: DpFlags::NONE,
        size: Bytes(len),
        digest: DigestValue::EMPTY,
    })
}

fn features() -> Packet {
    Packet::ConnectionFeatures(ConnectionFeatures {
        protocol_min: 86,
        features: Features::ALL,
        protocol_max: 124,
        sender_node_id: 0,
        receiver_node_id: 1,
    })
}

#[test]
fn congestion_comes_and_goes() {
    let mut nodes = pair("127.0.0.1");
    for node in &mut nodes {
        let small = ConnectOptions {
            sndbuf: 64 << 10,
            rcvbuf: 64 << 10,
            ..options()
        };
        node.connect_with(small);
    }
    established(&mut nodes);
    let [a, b] = &mut nodes;
    a.send(Stream::Data, features(), None, None);
    b.until(&mut Some(a), "features", |events| events.len() == 1);
    let ctx = Ctx::new(124, Features::ALL);
    for node in [&mut *a, &mut *b] {
        node.with(|tcp, _, peer| tcp.framing(peer, ctx, None));
    }
    let (us, them) = (a.peer, b.peer);
    assert!(!a.tcp.is_congested(us) && !b.tcp.is_congested(them));
    assert!(!a.tcp.is_congested(NodeId::new(9).unwrap()));
    const COUNT: usize = 8;
    for _ in 0..COUNT {
        let payload = a.pool.alloc(1 << 20, Purpose::Application).unwrap();
        a.send(Stream::Data, data(1 << 20), Some(payload.freeze()), None);
    }
    // The other one does not read.
    let start = now();
    while !a.tcp.is_congested(us) {
        assert!(
            now().since(start) < Duration::from_secs(10),
            "no congestion"
        );
        a.turn();
    }
    a.turn();
    assert!(a.tcp.is_congested(us), "it lasts");
    assert!(!b.tcp.is_congested(them), "only one direction");
    for event in b.until(&mut Some(a), "all data", |events| events.len() == COUNT) {
        let Event::Packet {
            payload: Some(id), ..
        } = event
        else {
            panic!("{event:?}");
        };
        drop(b.pool.reclaim(id).unwrap());
    }
    assert!(!a.tcp.is_congested(us));
}

#[test]
fn packets_travel_both_ways() {
    for host in ["127.0.0.1", "::1"] {
        let mut nodes = pair(host);
        established(&mut nodes);
        let [a, b] = &mut nodes;
        // A ping may overtake the features exchange.
        a.send(Stream::Data, features(), None, None);
        a.send(Stream::Control, Packet::Ping, None, None);
        b.until(&mut Some(a), "two packets", |events| events.len() == 2);

        let ctx = Ctx::new(124, Features::ALL).with_integrity_len(4);
        for node in [&mut *a, &mut *b] {
            node.with(|tcp, _, peer| tcp.framing(peer, ctx, Some(DigestAlg::Crc32c)));
        }
        for n in 0..100u32 {
            let len = if n % 10 == 0 { 1 << 20 } else { 4096 };
            let payload = loop {
                match a.pool.alloc(len, Purpose::Application) {
                    Some(mut buf) => {
                        buf.fill(n as u8);
                        break buf.freeze();
                    }
                    None => {
                        a.turn();
                        b.turn();
                    }
                }
            };
            a.send(
                Stream::Data,
                data(len as u32),
                Some(payload),
                (n == 99).then_some(OpId(4711)),
            );
        }
        let got = b.until(&mut Some(a), "all data", |events| events.len() == 100);
        for (n, event) in got.into_iter().enumerate() {
            let Event::Packet {
                stream: Stream::Data,
                packet: Packet::Data(data),
                payload: Some(id),
                ..
            } = event
            else {
                panic!("{event:?}");
            };
            let buf = b.pool.reclaim(id).unwrap();
            assert_eq!(buf.len(), data.size.as_usize());
            assert!(buf.iter().all(|byte| *byte == n as u8));
            let ack = BlockAck {
                sector: data.sector,
                block_id: data.block_id,
                size: data.size,
                seq_num: 1,
            };
            b.send(Stream::Control, Packet::WriteAck(ack), None, None);
        }
        let got = a.until(&mut Some(b), "acknowledgements", |events| {
            events.len() == 101
        });
        assert_eq!(
            got.iter()
                .filter(|e| matches!(e, Event::Sent { op: OpId(4711) }))
                .count(),
            1
        );
        assert_eq!(
            (a.pool.in_use(), b.pool.in_use()),
            (0, 0),
            "no buffer is left behind"
        );
    }
}

/// More data in flight than the receiver's pool holds: it stops reading and goes on when there is room.
#[test]
fn an_exhausted_pool_holds_the_sender_back() {
    let mut nodes = pair("127.0.0.1");
    established(&mut nodes);
    let [a, b] = &mut nodes;
    b.pool = Pool::new(4 << 20);
    let ctx = Ctx::new(124, Features::ALL);
    for node in [&mut *a, &mut *b] {
        node.with(|tcp, _, peer| tcp.framing(peer, ctx, None));
    }
    for _ in 0..12 {
        let payload = a.pool.alloc(1 << 20, Purpose::Internal).unwrap().freeze();
        a.send(Stream::Data, data(1 << 20), Some(payload), None);
    }
    let mut held = b.until(&mut Some(a), "four packets", |events| events.len() == 4);
    for _ in 0..50 {
        b.turn();
        a.turn();
    }
    assert!(b.events.is_empty(), "there is no buffer for a fifth");
    // Acknowledgements need none.
    a.send(Stream::Control, Packet::Ping, None, None);
    b.until(&mut Some(a), "the ping", |events| events.len() == 1);
    let mut count = 4;
    while count < 12 {
        let Some(Event::Packet {
            payload: Some(id), ..
        }) = held.pop()
        else {
            panic!()
        };
        drop(b.pool.reclaim(id));
        held.extend(b.until(&mut Some(a), "one more", |events| events.len() == 1));
        count += 1;
    }
}

#[test]
fn close_delivers_what_is_queued() {
    let mut nodes = pair("127.0.0.1");
    established(&mut nodes);
    let [a, b] = &mut nodes;
    let ctx = Ctx::new(124, Features::ALL);
    for node in [&mut *a, &mut *b] {
        node.with(|tcp, _, peer| tcp.framing(peer, ctx, None));
    }
    a.send(Stream::Data, Packet::Disconnect, None, None);
    a.with(|tcp, cx, peer| tcp.close(cx, peer));
    let got = b.until(&mut Some(a), "the end", |events| events.len() == 2);
    assert!(
        matches!(
            got[0],
            Event::Packet {
                packet: Packet::Disconnect,
                ..
            }
        ),
        "{got:?}"
    );
    assert!(
        matches!(
            got[1],
            Event::Lost {
                reason: LostReason::Closed,
                ..
            }
        ),
        "{got:?}"
    );
    let start = now();
    while a.tcp.is_closing() {
        a.turn();
        b.turn();
        assert!(now().since(start) < Duration::from_secs(3));
    }
    assert!(
        a.events.is_empty(),
        "no event about a closed peer: {:?}",
        a.events
    );
    // And again over the same addresses.
    a.connect();
    b.connect();
    established(&mut nodes);
}

/// A peer made of plain sockets: gives the data and control streams.
fn by_hand(node: &mut Node) -> (TcpStream, TcpStream) {
    node.connect();
    call_by_hand(node, node.path)
}

/// The calls of a peer made of plain sockets.
fn call_by_hand(node: &mut Node, path: Path) -> (TcpStream, TcpStream) {
    node.turn();
    let mut open = |stream| {
        let mut socket = TcpStream::connect(path.local).unwrap();
        socket.write_all(&first_packet::encode(stream)).unwrap();
        for _ in 0..5 {
            node.turn();
        }
        socket
    };
    let streams = (open(Stream::Data), open(Stream::Control));
    node.until(&mut None, "connection", |events| {
        matches!(events, [Event::Established { .. }])
    });
    streams
}

/// A node whose peer never answers by itself. A port that was free a moment ago will not do: another test may listen
/// there by now.
fn alone() -> Node {
    let refuses = SocketAddr::from(([127, 0, 0, 1], 1));
    Node::new(
        1,
        Path {
            local: free_port("127.0.0.1"),
            remote: refuses,
        },
    )
}

/// A peer with much to say does not keep another one waiting.
#[test]
fn peers_take_turns() {
    let mut node = alone();
    let talker = node.peer;
    let (mut data, _control) = by_hand(&mut node);
    let path = Path {
        local: free_port("127.0.0.1"),
        ..node.path
    };
    let second = NodeId::new(2).unwrap();
    node.with(|tcp, cx, _| tcp.connect(cx, second, vec![path], options()));
    node.turn();
    let (mut other, _control) = call_by_hand(&mut node, path);

    let mut packet = Vec::new();
    features()
        .encode(&Ctx::INITIAL, VolumeNr::CONNECTION, &mut packet)
        .unwrap();
    data.write_all(&packet.repeat(50)).unwrap();
    other.write_all(&packet.repeat(3)).unwrap();
    // Take in what has come, without asking for events.
    std::thread::sleep(Duration::from_millis(20));
    for _ in 0..5 {
        let mut done = std::mem::take(&mut node.done);
        node.with(|tcp, cx, _| {
            for c in done.drain(..) {
                tcp.complete(cx, c.token, c.result, c.op);
            }
            tcp.flush(cx);
        });
        node.ring.wait(Some(Duration::from_millis(2))).unwrap();
        node.ring.completions(&mut node.done);
    }
    let mut from = Vec::new();
    node.with(|tcp, cx, _| {
        while let Some(Event::Packet { peer, .. }) = tcp.next_event(cx) {
            from.push(peer);
        }
    });
    assert_eq!(from.len(), 53);
    assert_eq!(from.iter().filter(|p| **p == talker).count(), 50);
    let of_second = from.iter().rposition(|p| *p == second);
    assert!(of_second < Some(6), "{from:?}");
}

#[test]
fn garbage_ends_the_connection() {
    for on_control in [false, true] {
        let mut node = alone();
        let (mut data, mut control) = by_hand(&mut node);
        let bad = if on_control { &mut control } else { &mut data };
        bad.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let got = node.until(&mut None, "the end", |events| !events.is_empty());
        assert!(
            matches!(
                got[..],
                [Event::Lost {
                    reason: LostReason::Protocol,
                    ..
                }]
            ),
            "{got:?}"
        );
        assert_eq!(
            data.read(&mut [0; 16]).unwrap_or(0),
            0,
            "the other end sees it"
        );
    }
}

#[test]
fn a_stranger_or_a_silent_caller_does_no_harm() {
    let mut node = alone();
    node.connect();
    node.turn();
    let mut stranger = TcpStream::connect(node.path.local).unwrap();
    stranger.write_all(b"\x16\x03\x01\x02\x00hello").unwrap();
    let silent = TcpStream::connect(node.path.local).unwrap();
    for _ in 0..20 {
        node.turn();
    }
    assert!(node.events.is_empty());
    drop((stranger, silent));
    by_hand(&mut node);
}

#[test]
fn a_peer_that_does_not_read_is_given_up() {
    let mut node = alone();
    let (_data, _control) = by_hand(&mut node);
    let ctx = Ctx::new(124, Features::ALL);
    node.with(|tcp, _, peer| tcp.framing(peer, ctx, None));
    let start = now();
    for _ in 0..12 {
        let payload = node
            .pool
            .alloc(1 << 20, Purpose::Internal)
            .unwrap()
            .freeze();
        node.send(Stream::Data, data(1 << 20), Some(payload), None);
    }
    let got = node.until(&mut None, "the timeout", |events| !events.is_empty());
    assert!(
        matches!(
            got[..],
            [Event::Lost {
                reason: LostReason::SendTimeout,
                ..
            }]
        ),
        "{got:?}"
    );
    assert!(
        now().since(start) >= Duration::from_secs(4),
        "ko-count times timeout"
    );
    for _ in 0..5 {
        node.turn();
    }
    assert_eq!(node.pool.in_use(), 0);
}

#[test]
fn the_end_of_a_peer_is_noticed() {
    let mut node = alone();
    let (data, control) = by_hand(&mut node);
    drop(control);
    let got = node.until(&mut None, "the end", |events| !events.is_empty());
    assert!(
        matches!(
            got[..],
            [Event::Lost {
                reason: LostReason::Closed,
                ..
            }]
        ),
        "{got:?}"
    );
    drop(data);
}
