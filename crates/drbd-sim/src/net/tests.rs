use super::*;
use crate::clock::{Queue, SEC};

/// A network of two nodes with its queue, and what arrived.
struct Bench {
    net: Network,
    queue: Queue<NetEvent>,
    session: u64,
    arrived: [[Vec<u8>; 2]; 2],
    fins: [u32; 2],
}

impl Bench {
    fn new(seed: u64) -> Bench {
        let speed = NetSpeed {
            split_percent: 50,
            ..NetSpeed::default()
        };
        let net = Network::new(2, speed, Rng::new(seed));
        let mut b = Bench {
            net,
            queue: Queue::default(),
            session: 0,
            arrived: Default::default(),
            fins: [0; 2],
        };
        let later = b.net.want(0, 1, 0, 0);
        assert!(later.is_empty(), "one side alone gets nowhere");
        let later = b.net.want(1, 0, 0, 0);
        b.later(later);
        b.run(10 * SEC);
        assert_ne!(b.session, 0);
        b
    }

    fn later(&mut self, later: Later) {
        for (delay, event) in later {
            self.queue.after(delay, event);
        }
    }

    fn run(&mut self, duration: Time) {
        let end = self.queue.now() + duration;
        while self.queue.next_at().is_some_and(|t| t <= end) {
            let event = self.queue.pop().unwrap();
            let now = self.queue.now();
            match event {
                NetEvent::Attempt { a, b } => match self.net.attempt(a, b, now) {
                    Ok((id, _)) => self.session = id,
                    Err(later) => self.later(later),
                },
                NetEvent::Unstall { from, to } => {
                    let later = self.net.unstall(from, to, now);
                    self.later(later);
                }
                NetEvent::Arrive {
                    session,
                    from,
                    stream,
                } => match self.net.arrive(session, from, stream, now) {
                    Some((node, _, Chunk::Bytes(bytes))) => {
                        self.arrived[node][stream].extend(bytes)
                    }
                    Some((node, peer, Chunk::Fin(_))) => {
                        self.fins[node] += 1;
                        self.net.ended(node, peer);
                    }
                    _ => {}
                },
            }
        }
        self.queue.advance(end);
    }

    fn send(&mut self, from: usize, stream: usize, bytes: &[u8]) {
        let now = self.queue.now();
        let later = self
            .net
            .send(from, 1 - from, stream, (bytes.to_vec(), None), now, 0);
        self.later(later);
    }
}

#[test]
fn streams_keep_their_order() {
    for seed in 0..50 {
        let mut b = Bench::new(seed);
        let mut expected: [Vec<u8>; 2] = Default::default();
        for i in 0..100u8 {
            let stream = usize::from(i % 3 == 0);
            let bytes = [i, i ^ 0xff, 7, i];
            expected[stream].extend(bytes);
            b.send(0, stream, &bytes);
            if i % 10 == 0 {
                let now = b.queue.now();
                let later = b.net.stall(0, 1, 40 * MS, now);
                b.later(later);
            }
            b.run(10 * MS);
        }
        b.run(SEC);
        assert_eq!(b.arrived[1], expected);
        assert_eq!(b.fins, [0, 0]);
    }
}

#[test]
fn a_cut_leaves_a_prefix_at_any_byte() {
    let mut lengths = std::collections::BTreeSet::new();
    for seed in 0..300 {
        let mut b = Bench::new(seed);
        let sent: Vec<u8> = (0..24).collect();
        for piece in sent.chunks(8) {
            b.send(0, 0, piece);
        }
        b.send(1, 1, &[1, 2, 3]);
        let now = b.queue.now();
        let later = b.net.cut(0, 1, now);
        b.later(later);
        b.run(5 * SEC);
        let got = &b.arrived[1][0];
        assert_eq!(got[..], sent[..got.len()]);
        lengths.insert(got.len());
        assert_eq!(b.fins, [1, 1], "each side hears of it once");
        assert_eq!(b.net.session_of(0, 1), None);
    }
    assert!(lengths.len() > 15, "{lengths:?}");
}

#[test]
fn what_was_sent_before_a_close_arrives_and_nothing_the_other_way() {
    let mut b = Bench::new(1);
    b.send(0, 0, b"last words");
    b.send(1, 0, b"too late");
    let now = b.queue.now();
    let later = b.net.leave(0, 1, FinReason::Closed, now);
    b.later(later);
    b.run(SEC);
    assert_eq!(b.fins, [0, 1]);
    // The Fin of the control stream may overtake the data.
    assert!(b.arrived[0][0].is_empty());
    assert!(b"last words".starts_with(&b.arrived[1][0]));
    // Both may try again.
    let now = b.queue.now();
    let later = b.net.want(0, 1, now, 0);
    b.later(later);
    let later = b.net.want(1, 0, now, SEC);
    b.later(later);
    let old = b.session;
    b.run(10 * SEC);
    assert_ne!(b.session, old);
}
