//! Requests that wait.

use crate::words::*;

/// Writers blocked by a suspension wake up after resume-io.
#[test]
fn process_wakeup() {
    for (nodes, n) in [(2, 0), (3, 2)] {
        let mut t = Setup::new(nodes).up();
        t.primary(n);
        t.write(n, [1]);
        for round in 0..3 {
            t.ok(n, Command::SuspendIo);
            t.expect(n, Suspended(true));
            let mut ios: Vec<u64> = (0..20).map(|b| t.begin_write(n, 100 * round + b)).collect();
            ios.push(t.begin_read(n, 1));
            t.pass(10);
            ios.iter().for_each(|io| t.pending(*io));
            t.ok(n, Command::ResumeIo);
            ios.iter().for_each(|io| t.succeeds(*io));
            t.expect(n, Suspended(false));
        }
        t.healthy();
        t.same_content(0..nodes);
        t.finish();
    }
}

/// Writes that were suspended are sent again, or given up, as it has to be: quorum 2, minimum redundancy 2.
#[test]
fn suspend_resume_io() {
    let setup = |protocol| {
        Setup::new(3)
            .protocol(protocol)
            .quorum(Quorum::Count(2))
            .with(|c| c.resource.quorum_min_redundancy = Quorum::Count(2))
    };
    for protocol in [WireProtocol::C, WireProtocol::B] {
        // What comes back: both, one after the other in both orders, after an interruption or a restart.
        for (order, restart) in [
            ([1, 2], false),
            ([2, 1], false),
            ([1, 2], true),
            ([2, 1], true),
        ] {
            let mut t = setup(protocol).up();
            t.primary(0);
            t.write(0, [1]);
            t.pass(1);
            for p in [1, 2] {
                t.c.stall(0, p, 50_000_000);
            }
            let mut ios = vec![t.begin_write(0, 2), t.begin_write(0, 3)];
            t.c.run_for(10_000_000);
            for p in [1, 2] {
                if restart {
                    t.crash(p);
                } else {
                    t.sever(0, p);
                }
            }
            t.expect(0, Suspended(true));
            ios.push(t.begin_write(0, 2));
            t.pass(3);
            ios.iter().for_each(|io| t.pending(*io));
            for p in order {
                if restart {
                    t.start(p);
                } else {
                    t.mend(0, p);
                }
                t.wait(0, Conn(p, Connected));
                t.wait(0, Suspended(false));
                ios.iter().for_each(|io| t.succeeds(*io));
            }
            t.write(0, [4]);
            t.healthy();
            t.same_content(0..3);
            t.finish();
        }
        // Too few replicas: a disk less, and another one.
        let mut t = setup(protocol).up();
        t.primary(0);
        t.write(0, [1]);
        for n in [1, 2] {
            // An epoch that cannot be made durable ends the connection.
            t.may_see(n, Bad::Conn(0, NetworkFailure));
            t.may_see(0, Bad::Conn(n, NetworkFailure));
        }
        t.break_disk(1);
        let first = t.begin_write(0, 2);
        t.wait(0, PeerDisk(1, Diskless));
        t.succeeds(first);
        t.break_disk(2);
        let second = t.begin_write(0, 3);
        t.wait(0, PeerDisk(2, Diskless));
        t.wait(0, Suspended(true));
        let third = t.begin_write(0, 4);
        t.pass(5);
        t.pending(third);
        t.mend_disk(2);
        t.attach(2);
        t.succeeds(third);
        t.succeeds(second);
        t.mend_disk(1);
        t.attach(1);
        t.healthy();
        t.same_content(0..3);
        t.finish();
    }
}
