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
