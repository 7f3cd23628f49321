//! Two nodes with the same generation, and marks of the writes that a Primary made before it was lost: the two were not
//! connected when that happened, and find out when they meet.

use drbd_engine::rows::Row::*;

use crate::words::*;

/// Node 0 is Primary; nodes 1 and 2 are apart. Node 1 lacks nothing.
fn apart() -> Lab {
    let mut t = Setup::new(3).up();
    t.stale_data_expected();
    t.primary(0);
    t.write(0, [1]);
    t.pass(2);
    t.sever(1, 2);
    t
}

/// A write of which only node 1 learns.
fn write_to_one(t: &mut Lab, block: u64) {
    t.delay(0, 2, Cmd::Data, 20_000);
    let _ = t.begin_write(0, block);
    t.pass_ms(30);
}

/// Nodes 1 and 2 meet after the loss, and come to be equal; then the Primary comes back.
fn meet(mut t: Lab, rows: &[drbd_engine::rows::Row]) {
    t.mend(1, 2);
    t.wait(1, Conn(2, Connected));
    t.wait(2, Conn(1, Connected));
    t.wait(1, Repl(2, Established));
    t.pass(2);
    t.met(rows);
    t.same_content([1, 2]);
    t.delay(0, 2, Cmd::Data, 0);
    if !t.c.nodes[0].up() {
        t.start(0);
    }
    t.mend(0, 1);
    t.healthy();
    t.same_content(0..3);
    t.finish();
}

/// Both have marks of writes that both have.
#[test]
pub(crate) fn lost_primary_same_position() {
    let mut t = apart();
    t.write(0, [10]);
    t.crash(0);
    meet(t, &[L2c]);
}

/// Both have marks, and one has more.
#[test]
pub(crate) fn lost_primary_one_is_ahead() {
    let mut t = apart();
    t.write(0, [10]);
    write_to_one(&mut t, 11);
    t.crash(0);
    meet(t, &[L2a, L2b]);
}

/// Only one has marks.
#[test]
pub(crate) fn lost_primary_marks_on_one_side() {
    let mut t = apart();
    t.write(0, [10]);
    t.pass(3);
    write_to_one(&mut t, 11);
    t.crash(0);
    meet(t, &[L1a, L1b]);
}

/// One of them was started anew meanwhile, and does not know any more which Primary was lost.
#[test]
pub(crate) fn lost_primary_forgotten_by_one() {
    let mut t = apart();
    t.write(0, [10]);
    t.crash(0);
    t.pass(1);
    t.crash(2);
    t.start(2);
    t.pass(1);
    meet(t, &[L3a, L3b]);
}

/// One of them still sees the Primary.
#[test]
pub(crate) fn primary_lost_by_one() {
    let mut t = apart();
    t.write(0, [10]);
    // Node 1 lets go of it, which it does not notice.
    t.c.stall(1, 0, 20_000_000_000);
    let peer = node_id(0);
    t.ok(1, Command::Disconnect { peer, force: true });
    t.mend(1, 2);
    t.wait_until("a try", |c| c.rows.contains(L4a));
    t.c.heal();
    t.may_part(0, 1);
    t.connect_begin(0, 1);
    meet(t, &[L4a, L4b]);
}

/// One of them still sees the Primary, which is behind with what it sends there: it has to find out first.
#[test]
pub(crate) fn primary_lost_by_the_one_that_has_more() {
    let mut t = apart();
    t.write(0, [10]);
    t.pass(3);
    write_to_one(&mut t, 11);
    t.sever(0, 1);
    t.may_part(0, 2);
    meet(t, &[L4c]);
}
