//! Connections come and go.

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
