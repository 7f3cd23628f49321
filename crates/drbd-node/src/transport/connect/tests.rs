//! Two connect loops against each other on virtual time.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::*;

/// One end of a virtual TCP connection.
#[derive(Debug)]
struct Fake {
    link: Rc<Link>,
    /// The opener's end.
    opener: bool,
}

/// What both ends share.
#[derive(Debug)]
struct Link {
    id: u64,
    first: Cell<Option<StreamKind>>,
    closed: Cell<bool>,
}

impl Socket for Fake {
    fn send_first(&mut self, stream: StreamKind) -> bool {
        assert!(self.opener, "only the opener sends a first packet");
        self.link.first.set(Some(stream));
        true
    }

    fn is_alive(&self) -> bool {
        !self.link.closed.get()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.link.closed.set(true);
    }
}

const TIMING: Timing = Timing {
    connect_int: Duration::from_secs(10),
    sock_check: Duration::from_millis(500),
};

fn at(ms: u64) -> Instant {
    Instant::from_nanos(ms * 1_000_000)
}

struct Node {
    connector: Connector<Fake>,
    /// An attempt: when it is answered, and on which path.
    attempt: Option<(u64, usize)>,
    /// Accepted sockets, and when their first packet is here.
    arriving: Vec<(u64, usize, Fake)>,
    pair: Option<Pair<Fake>>,
    listens: bool,
    attempts: Vec<usize>,
}

impl Node {
    fn new(opens_with: &[StreamKind], seed: u64, start: u64) -> RefCell<Node> {
        RefCell::new(Node {
            connector: Connector::new(opens_with.to_vec(), TIMING, seed, at(start)),
            attempt: None,
            arriving: Vec::new(),
            pair: None,
            listens: false,
            attempts: Vec::new(),
        })
    }

    fn actions(&mut self, now: u64, delay: u64) {
        while let Some(action) = self.connector.next_action() {
            match action {
                Action::Connect(path) => {
                    self.listens = true;
                    self.attempts.push(path);
                    self.attempt = Some((now + delay, path));
                }
                Action::CancelConnect => self.attempt = None,
                Action::Established(pair) => {
                    self.listens = false;
                    self.pair = Some(pair);
                }
            }
        }
    }
}

/// Runs two nodes until both are established; gives the time in milliseconds.
fn run(
    nodes: &[RefCell<Node>; 2],
    works: impl Fn(usize, usize) -> bool,
    delay: u64,
    limit: u64,
) -> Option<u64> {
    let mut id = 0;
    for now in 0..limit {
        for (n, node) in nodes.iter().enumerate() {
            let mut me = node.borrow_mut();
            let mut other = nodes[1 - n].borrow_mut();
            if let Some((when, path)) = me.attempt
                && when <= now
            {
                me.attempt = None;
                if !works(n, path) {
                    // Lost in a firewall: no answer at all.
                    me.attempt = Some((u64::MAX, path));
                } else if other.listens {
                    id += 1;
                    let link = Rc::new(Link {
                        id,
                        first: Cell::new(None),
                        closed: Cell::new(false),
                    });
                    other.arriving.push((
                        now + delay,
                        path,
                        Fake {
                            link: link.clone(),
                            opener: false,
                        },
                    ));
                    me.connector
                        .handle_connected(at(now), Ok(Fake { link, opener: true }));
                } else {
                    me.connector
                        .handle_connected(at(now), Err(Failure::Transient));
                }
            }
            let ready: Vec<_> = me
                .arriving
                .extract_if(.., |(when, ..)| *when <= now)
                .collect();
            for (_, path, socket) in ready {
                let first = socket
                    .link
                    .first
                    .get()
                    .filter(|_| !socket.link.closed.get());
                me.connector
                    .handle_accepted(at(now), path, first.map(|stream| (stream, socket)));
            }
            me.connector.handle_timeout(at(now));
            me.actions(now, delay);
        }
        if nodes.iter().all(|n| n.borrow().pair.is_some()) {
            return Some(now);
        }
        // One side ended alone and the other side's sockets are gone: a reconnect, as a lost connection is.
        for node in nodes {
            let mut node = node.borrow_mut();
            if node
                .pair
                .as_ref()
                .is_some_and(|p| !p.data.is_alive() || !p.control.is_alive())
            {
                node.pair = None;
                let opens_with = node.connector.opens_with.clone();
                let seed = node.connector.random;
                node.connector = Connector::new(opens_with, TIMING, seed, at(now + 1000));
            }
        }
    }
    None
}

fn check(nodes: &[RefCell<Node>; 2]) {
    let [a, b] = nodes
        .each_ref()
        .map(|n| n.borrow_mut().pair.take().unwrap());
    assert_eq!(
        a.data.link.id, b.data.link.id,
        "both ends of the same data stream"
    );
    assert_eq!(
        a.control.link.id, b.control.link.id,
        "both ends of the same control stream"
    );
    assert_ne!(a.data.link.id, a.control.link.id);
    assert_eq!(a.path, b.path);
    assert_ne!(
        a.resolve_conflicts, b.resolve_conflicts,
        "exactly one resolves conflicts"
    );
    assert_eq!(a.resolve_conflicts, !a.control.opener);
}

use StreamKind::{Control, Data};

#[test]
fn simultaneous_start_takes_one_round() {
    let nodes = [Node::new(&[Data], 1, 0), Node::new(&[Control], 2, 0)];
    let took = run(&nodes, |_, _| true, 5, 60_000).unwrap();
    assert!(
        took < 600,
        "no wait besides the check of the sockets: {took} ms"
    );
    check(&nodes);
}

#[test]
fn a_node_that_comes_later() {
    for opens in [[Data, Control], [Control, Data]] {
        let nodes = [
            Node::new(&[opens[0]], 1, 0),
            Node::new(&[opens[1]], 2, 3000),
        ];
        let took = run(&nodes, |_, _| true, 5, 60_000).unwrap();
        assert!(took < 3700, "{took} ms");
        check(&nodes);
    }
}

#[test]
fn one_way_networks() {
    let nodes = [Node::new(&[Data], 1, 0), Node::new(&[Control], 2, 0)];
    assert!(run(&nodes, |n, _| n == 0, 5, 60_000).is_some());
    check(&nodes);
}

/// Both open with DATA, as 8.4 nodes do: every first round collides, and still it converges.
#[test]
fn collisions_converge() {
    for seed in 1..200 {
        let nodes = [
            Node::new(&[Data], seed, 0),
            Node::new(&[Data], seed * 7919, seed % 7),
        ];
        let took = run(&nodes, |_, _| true, 3 + seed % 5, 300_000);
        assert!(took.is_some(), "seed {seed} does not converge");
        check(&nodes);
    }
}

#[test]
fn a_dead_path_is_passed_over() {
    let nodes = [
        Node::new(&[Data, Data], 1, 0),
        Node::new(&[Control, Control], 2, 0),
    ];
    assert!(run(&nodes, |_, path| path == 1, 5, 120_000).is_some());
    assert_eq!(nodes[0].borrow().attempts[..2], [0, 1]);
    check(&nodes);
    assert_eq!(nodes[1].borrow().attempts[..2], [0, 1]);
}

#[test]
fn sockets_that_die_during_the_check_are_not_used() {
    let mut c = Connector::new(vec![Data], TIMING, 1, at(0));
    let socket = |id, opener| {
        let link = Rc::new(Link {
            id,
            first: Cell::new(None),
            closed: Cell::new(false),
        });
        (link.clone(), Fake { link, opener })
    };
    c.handle_timeout(at(0));
    assert!(matches!(c.next_action(), Some(Action::Connect(0))));
    let (data, fake) = socket(1, true);
    c.handle_connected(at(1), Ok(fake));
    assert_eq!(data.first.get(), Some(Data));
    let (control, fake) = socket(2, false);
    c.handle_accepted(at(2), 0, Some((Control, fake)));
    assert_eq!(c.deadline(), Some(at(502)));
    data.closed.set(true);
    c.handle_timeout(at(502));
    assert!(
        matches!(c.next_action(), Some(Action::Connect(0))),
        "the missing one is opened again"
    );
    let (data, fake) = socket(3, true);
    c.handle_connected(at(503), Ok(fake));
    assert_eq!(data.first.get(), Some(Data));
    c.handle_timeout(at(1003));
    let action = c.next_action();
    let Some(Action::Established(pair)) = action else {
        panic!("not established: {action:?} {c:?}")
    };
    assert!(pair.resolve_conflicts && !control.closed.get());
}

#[test]
fn lasting_errors_pause() {
    let mut c = Connector::<Fake>::new(vec![Data], TIMING, 1, at(0));
    c.handle_timeout(at(0));
    c.next_action();
    c.handle_connected(at(5), Err(Failure::Lasting));
    assert_eq!(c.deadline(), Some(at(10_005)));
    assert!(c.next_action().is_none());
}
