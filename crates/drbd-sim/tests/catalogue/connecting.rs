//! Connections come and go.

use drbd_engine::effect::Path;
use drbd_sim::clock::MS;

use crate::words::*;

/// A connection without volumes reaches Connected with peer role Secondary.
#[test]
fn connect() {
    let mut t = Setup::new(2).volumes(1, 0).up();
    for (n, p) in [(0, 1), (1, 0)] {
        t.events(
            n,
            [
                Conn(p, Unconnected),
                Conn(p, Connecting),
                Conn(p, Connected),
            ],
        );
        t.expect(n, PeerRole(p, Secondary));
    }
    t.finish();
}

/// A connection without volumes is stable beyond the handshake timeout; promote and demote are visible; a disconnect
/// shows TearDown at the peer.
#[test]
fn connect_no_volumes() {
    let mut t = Setup::new(2).volumes(1, 0).up();
    t.mark();
    t.pass(60);
    for (n, p) in [(0, 1), (1, 0)] {
        for state in [Unconnected, Connecting, TearDown] {
            t.never(n, Conn(p, state));
        }
    }
    t.primary(0);
    t.event(1, PeerRole(0, Primary));
    t.secondary(0);
    t.event(1, PeerRole(0, Secondary));
    for (n, p) in [(0, 1), (1, 0)] {
        t.disconnect(n, p);
        t.events(n, [Conn(p, Disconnecting), Conn(p, StandAlone)]);
        t.events(
            p,
            [Conn(n, TearDown), Conn(n, Unconnected), Conn(n, Connecting)],
        );
        t.connect(n, p);
        t.event(p, Conn(n, Connected));
    }
    t.finish();
}

fn path(n: u8, p: u8, port: u16) -> Path {
    Path {
        local: ([10, 0, port as u8, n + 1], 7788).into(),
        remote: ([10, 0, port as u8, p + 1], 7788).into(),
    }
}

/// del-path and del-peer are refused while the connection uses them; forced promotion works without any connection;
/// down works afterwards. (del-peer disconnects first: it is refused when that is.)
#[test]
fn add_connect_delete() {
    let mut t = Setup::new(2).fresh().build();
    t.start(0);
    t.wait(0, Conn(1, Connecting));
    let (peer, path) = (node_id(1), path(0, 1, 0));
    t.refuses(
        0,
        Command::DelPath { peer, path },
        RetCode::ERR_INVALID_REQUEST,
    );
    t.force_primary(0);
    t.expect(0, Disk(UpToDate));
    t.pass(30);
    t.expect(0, Conn(1, Connecting));
    let remove = Command::DelPeer { peer, force: false };
    t.start(1);
    t.healthy();
    t.detach(0);
    t.refuses(0, remove.clone(), RetCode::NO_UP_TO_DATE_DISK);
    t.refuses(
        0,
        Command::DelPath { peer, path },
        RetCode::ERR_INVALID_REQUEST,
    );
    t.expect(0, Conn(1, Connected));
    t.secondary(0);
    t.ok(0, remove);
    t.refuses(0, t.c.connect_command(1), RetCode::ERR_INVALID_REQUEST);
    t.finish();
}

/// Duplicate new-path and new-peer return errors and leave everything usable.
#[test]
fn add_path_multiple_times() {
    let mut t = Setup::new(2).build();
    t.start_detached(0);
    t.start_detached(1);
    for (n, p) in [(0, 1), (1, 0)] {
        let peer = node_id(p);
        let again = Command::NewPeer {
            peer,
            name: "again".into(),
            options: t.c.config.net.clone(),
        };
        let same = Command::NewPath {
            peer,
            path: path(n as u8, p as u8, 0),
        };
        for _ in 0..3 {
            t.refuses(n, again.clone(), RetCode::ERR_INVALID_REQUEST);
            t.refuses(n, same.clone(), RetCode::ERR_LOCAL_AND_PEER_ADDR);
        }
        t.attach(n);
    }
    t.connect(0, 1);
    t.primary(0);
    t.write(0, 0..5);
    t.healthy();
    t.finish();
}

/// Removing a path while connecting is safe.
#[test]
fn del_path_during_connect() {
    for moment in [
        Cmd::ConnectionFeatures,
        Cmd::Protocol,
        Cmd::TwopcPrepare,
        Cmd::State,
    ] {
        let mut t = Setup::new(2).build();
        for n in [0, 1] {
            t.start_detached(n);
            t.attach(n);
        }
        let peer = node_id(1);
        let (first, second) = (path(0, 1, 0), path(0, 1, 9));
        t.ok(0, Command::NewPath { peer, path: second });
        t.connect_begin(0, 1);
        t.packet(0, 1, moment);
        t.ok(0, Command::DelPath { peer, path: second });
        t.refuses(
            0,
            Command::DelPath { peer, path: first },
            RetCode::ERR_INVALID_REQUEST,
        );
        t.ok(0, Command::Disconnect { peer, force: true });
        t.ok(0, Command::DelPath { peer, path: first });
        t.refuses(0, t.c.connect_command(1), RetCode::ERR_INVALID_REQUEST);
        for (n, p) in [(0, 1), (1, 0)] {
            t.may_see(n, Bad::Conn(p, NetworkFailure));
            t.may_see(n, Bad::Conn(p, BrokenPipe));
        }
        t.ok(0, Command::NewPath { peer, path: first });
        t.connect(0, 1);
        t.primary(1);
        t.write(1, [3]);
        t.healthy();
        t.finish();
    }
}

/// The link dies during the handshake: the transaction is aborted everywhere, and a third node can promote at once.
#[test]
fn connect_abort() {
    for moment in [Cmd::TwopcPrepare, Cmd::Sizes, Cmd::Uuids110, Cmd::State] {
        for initiator_sends in [true, false] {
            let mut t = Setup::new(3).up();
            t.disconnect(0, 1);
            t.healthy();
            t.mark();
            t.connect_begin(0, 1);
            let (from, to) = if initiator_sends || moment == Cmd::TwopcPrepare {
                (0, 1)
            } else {
                (1, 0)
            };
            t.delay(from, to, moment, 3_600_000);
            t.packet(from, to, moment);
            t.sever(0, 1);
            let before = t.c.now();
            t.primary(2);
            let took = (t.c.now() - before) / MS;
            assert!(
                took < 2000,
                "{took} ms after the loss during {}",
                moment.name()
            );
            t.never(0, Conn(1, Connected));
            t.never(1, Conn(0, Connected));
            t.write(2, [1, 2]);
            t.delay(from, to, moment, 0);
            t.mend(0, 1);
            t.healthy();
            t.finish();
        }
    }
}

/// The smaller size propagates in triangle and chain; a disk too small that meets a larger UpToDate Primary: both
/// StandAlone.
#[test]
fn connect_differing_sizes() {
    const MIB: u64 = 2048;
    for sizes in [[16, 12, 8], [8, 16, 12]] {
        for chain in [false, true] {
            let setup = Setup::new(3).fresh().sizes(sizes);
            let mut t = if chain { setup.chain() } else { setup }.up();
            for n in 0..3 {
                assert_eq!(
                    t.c.size(n, 0),
                    8 * MIB,
                    "node {n} of {sizes:?}, chain {chain}"
                );
                t.expect(n, Disk(Inconsistent));
            }
            t.force_primary(1);
            t.healthy();
            t.same_content(0..3);
            t.finish();
        }
    }
    let mut t = Setup::new(2).fresh().sizes([16, 8]).build();
    t.start(0);
    t.wait(0, Disk(Inconsistent));
    t.force_primary(0);
    t.write(0, [0, 10 * MIB / 8]);
    t.start(1);
    t.scripts();
    t.wait(0, Conn(1, StandAlone));
    t.wait(1, Conn(0, StandAlone));
    t.never(1, Conn(0, Connected));
    assert_eq!(t.c.size(0, 0), 16 * MIB);
    t.read(0, [10 * MIB / 8]);
    t.finish();
}

/// Simultaneous disconnects in a triangle terminate, without deadlock.
#[test]
fn concurrent_disconnect() {
    let rounds: [&[(usize, usize)]; 4] = [
        &[(0, 1), (1, 2), (2, 0)],
        &[(0, 2), (2, 1), (1, 0)],
        &[(0, 1), (1, 0)],
        &[(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)],
    ];
    for primary in [None, Some(1)] {
        for pairs in rounds {
            let mut t = Setup::new(3).up();
            if let Some(n) = primary {
                t.primary(n);
                t.write(n, [5]);
                t.pass(1);
            }
            let before = t.c.now();
            let commands: Vec<_> = pairs
                .iter()
                .map(|(n, p)| (*n, t.disconnect_command(*p)))
                .collect();
            for reply in t.at_once(commands) {
                assert!(reply.is_ok(), "{reply:?}");
            }
            assert!(t.c.now() - before < 10_000 * MS);
            for (n, p) in pairs {
                t.wait(*n, Conn(*p, StandAlone));
                t.links.remove(&(*n.min(p), *n.max(p)));
            }
            for (a, b) in [(0, 1), (0, 2), (1, 2)] {
                t.connect_begin(a, b);
            }
            t.healthy();
            t.finish();
        }
    }
}

/// B is UpToDate and initial-syncs A and C; A and C, connecting then, reach Established and do not both claim to be the
/// source.
#[test]
fn initial_uuid_uptodate() {
    for demoted in [true, false] {
        let mut t = Setup::new(3).fresh().chain().up();
        t.force_primary(1);
        if demoted {
            t.secondary(1);
        }
        t.healthy();
        t.same_content(0..3);
        t.mark();
        t.connect(0, 2);
        t.healthy();
        t.no_resync();
        t.no_bits();
        t.one_generation(0..3);
        t.finish();
    }
}

/// Too few bitmap slots: the connection is refused on that node; a sync through a chain works nevertheless.
#[test]
fn max_peers_differ() {
    let mut t = Setup::new(3)
        .fresh()
        .chain()
        .with(|c| c.slots = vec![(0, 1), (2, 1)])
        .build();
    for n in 0..3 {
        t.boot_only(n);
        for v in t.configure_commands(n) {
            if matches!(v, Command::NewMinor { .. }) {
                t.ok(n, v);
            }
        }
        t.attach(n);
        for command in t.configure_commands(n) {
            let far = |p: usize| n != 1 && p != 1;
            match &command {
                Command::NewPeer { peer, .. } if far(peer.index()) => {}
                Command::NewPeer { .. } => t.ok(n, command),
                Command::NewPath { peer, .. } if !far(peer.index()) => t.ok(n, command),
                _ => {}
            }
        }
    }
    t.connect(0, 1);
    t.connect(1, 2);
    let far = |p| Command::NewPeer {
        peer: node_id(p),
        name: "far".into(),
        options: Default::default(),
    };
    t.refuses(0, far(2), RetCode::ERR_INVALID_REQUEST);
    t.refuses(2, far(0), RetCode::ERR_INVALID_REQUEST);
    t.force_primary(0);
    t.write(0, [7]);
    t.secondary(0);
    t.healthy();
    t.same_content(0..3);
    t.finish();
}
