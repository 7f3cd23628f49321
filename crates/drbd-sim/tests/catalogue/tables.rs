//! The table of the comparison of generations, row by row, and that of a DRBD 8; the policies for split brain, and what
//! becomes of a Primary that would have to be the target. Both nodes have to come to mirrored results.

use drbd_engine::options::SbPolicy;
use drbd_engine::rows::Row::*;

use crate::lab::meeting::End::{Back, Nothing, Resync, Whatever};
use crate::lab::meeting::{End, Forged, Meeting, forged};
use crate::words::*;

const W: u64 = 0x1111_0000_0000_1110;
const X: u64 = 0x2222_0000_0000_2220;
const Y: u64 = 0x3333_0000_0000_3330;
const Z: u64 = 0x4444_0000_0000_4440;
/// What a source of DRBD 8 adds to make the identifier of a resync.
const STEP: u64 = 1 << 48;
/// The mark of a Primary in a bitmap UUID.
const PRIMARY: u64 = 1;

const CREATED: Forged = Forged {
    inconsistent: true,
    ..forged(JUST_CREATED)
};
const CRASHED: Forged = forged(X).crashed().marked();

fn meet(disks: [Forged; 2]) -> Meeting {
    Meeting::new(disks)
}

/// Rows for equal and for different generations.
#[test]
pub(crate) fn comparison_of_generations() {
    meet([CREATED, CREATED]).goes(&[C2], Nothing);
    meet([forged(X), CREATED]).goes(&[C3, C4], Resync);
    meet([forged(X), forged(X)]).goes(&[C20], Nothing);
    meet([CRASHED, forged(X)]).goes(&[C18b, C19, FSource, FTarget], Resync);
    meet([CRASHED, CRASHED]).goes(&[C18a, C18c], Whatever);
    let lost = Forged {
        lost_quorum: true,
        ..forged(X).marked()
    };
    let quorum = |m: Meeting| m.with(|c| c.resource.quorum = Quorum::Majority);
    quorum(meet([lost, forged(X)])).goes(&[C11, C12], Resync);
    quorum(meet([lost, lost])).goes(&[C13a, C13b], Whatever);
    meet([forged(Y).tracks(X), forged(X)]).goes(&[C21, C24], Resync);
    meet([forged(Y).after([X, 0]), forged(X)]).goes(&[C27, C28], Resync);
    meet([forged(X).tracks(Z), forged(Y).tracks(Z)]).goes(&[C29, K5, K8], End::StandAlone);
    let (ours, theirs) = (forged(X).after([W, Z]), forged(Y).after([Z, 0]));
    meet([ours, theirs]).goes(&[C30, K5, K8], End::StandAlone);
    meet([forged(X), forged(Y)]).goes(&[C31, K1], End::StandAlone);
    meet([forged(X).tracks(Y), forged(Y).tracks(X)]).goes(&[Contradiction], End::StandAlone);
}

/// A crashed Primary: with protocol A its writes survive, with C a Primary that runs decides.
#[test]
pub(crate) fn crashed_primary() {
    let a = |m: Meeting| m.with(|c| c.net.protocol = WireProtocol::A);
    a(meet([CRASHED, forged(X)])).goes(&[C9, C10], Resync);
    meet([CRASHED, forged(X)])
        .primary([1])
        .goes(&[FSelf, FPeer], Back);
    meet([CRASHED, CRASHED])
        .with(|c| c.net.two_primaries = true)
        .primary([0, 1])
        .goes(&[FBoth], Nothing);
    let outdated = Forged {
        outdated: true,
        ..CRASHED
    };
    a(meet([outdated, forged(X)])).goes(&[D5], Back);
    let unsure = Forged {
        unsure: true,
        ..forged(X)
    };
    meet([CRASHED, unsure]).goes(&[D1a, D1b], Whatever);
    a(meet([CRASHED, forged(X)]))
        .with(|c| c.net.rr_conflict = SbPolicy::AutoDiscard)
        .primary([1])
        .goes(&[K10e, K11], Back);
}

/// The table of a DRBD 8: the newest version of it, and some older ones.
#[test]
pub(crate) fn comparison_of_generations_with_drbd8() {
    for version in [101, 100, 97] {
        let meet = |disks| meet(disks).version(version);
        meet([CREATED, CREATED]).goes(&[C2, Old10], Nothing);
        meet([forged(X), CREATED]).goes(&[Old20, Old30], Resync);
        meet([forged(X), forged(X)]).goes(&[Old40None], Nothing);
        meet([CRASHED, forged(X)]).goes(&[Old40Self, Old40Peer], Resync);
        meet([CRASHED, CRASHED]).goes(&[Old40Both], Whatever);
        meet([forged(Y).tracks(X), forged(X)]).goes(&[Old50, Old70], Resync);
        meet([forged(Y).after([X, 0]), forged(X)]).goes(&[Old60, Old80], Resync);
        meet([forged(X).tracks(Z), forged(Y).tracks(Z)]).goes(&[Old90], End::StandAlone);
        let (ours, theirs) = (forged(X).after([W, Z]), forged(Y).after([Z, 0]));
        meet([ours, theirs]).goes(&[Old100], End::StandAlone);
        meet([forged(X), forged(Y)]).goes(&[OldUnrelated], End::StandAlone);
    }
}

/// What DRBD 8 repairs when one side has not heard of the end or the start of a resync.
#[test]
pub(crate) fn corrections_with_drbd8() {
    let meet8 = |disks| meet(disks).version(101);
    // The end: the source still has the bitmap UUID.
    let ours = forged(X).tracks(Z).marked();
    let rows = [FixSourcePeer, FixTarget, Old34, Old36];
    meet8([ours, forged(X)]).goes(&rows, Resync);
    let theirs = forged(X).after([Z, 0]);
    meet8([ours.after([Z, 0]), theirs]).goes(&[FixSourceCorrected], Resync);
    let theirs = forged(X).after([Z, W]);
    meet8([ours.after([W, 0]), theirs]).goes(&[FixTargetCorrected], Resync);
    // The start: the source has made an identifier for it that the target never got.
    let ours = forged(Y).tracks(X + STEP).after([X, 0]).marked();
    let rows = [FixTargetStart, FixSourceStart, Old51, Old71];
    meet8([ours, forged(X)]).goes(&rows, Resync);
    let disks = [
        forged(Y).tracks(Z).after([X, W]).marked(),
        forged(X).after([W, 0]),
    ];
    let rows = [FixTargetStart95, FixSourceStart95];
    meet(disks).version(95).goes(&rows, Resync);
    // Before 91 nobody knows these corrections.
    meet(disks)
        .version(90)
        .goes(&[FixNeeds91, K1], End::StandAlone);
}

/// One of two equal disks is Inconsistent: the other one is the source, whatever the protocol version. Two disks of which
/// nobody knows whether they are old are UpToDate for a DRBD 8.
#[test]
pub(crate) fn disk_states_of_the_same_generation() {
    let broken = Forged {
        inconsistent: true,
        ..forged(X).marked()
    };
    meet([forged(X), broken]).goes(&[D2a, D2b], Resync);
    meet([forged(X), broken])
        .version(118)
        .goes(&[D3a, D3b], Resync);
    let unsure = Forged {
        unsure: true,
        ..forged(X)
    };
    meet([unsure, unsure])
        .version(101)
        .goes(&[E4a, E4b], Nothing);
}

/// A split brain with a common bitmap UUID.
fn brain() -> [Forged; 2] {
    [forged(X).tracks(Z), forged(Y).tracks(Z)]
}

/// What was written on node 0 only.
fn changed_here() -> [Forged; 2] {
    [forged(X).tracks(Z).marked(), forged(Y).tracks(Z)]
}

#[test]
pub(crate) fn split_brain_without_primary() {
    let with = |disks, policy| meet(disks).with(|c| c.net.after_sb_0pri = policy);
    with(brain(), SbPolicy::Disconnect).goes(&[S0Disconnect, K8], End::StandAlone);
    // Node 0 was Primary when they parted.
    let parted = [forged(X).tracks(Z | PRIMARY), forged(Y).tracks(Z)];
    let rows = [S0YoungerSource, S0YoungerTarget];
    with(parted, SbPolicy::DiscardYounger).goes(&rows, Resync);
    let rows = [S0OlderSource, S0OlderTarget];
    with(parted, SbPolicy::DiscardOlder).goes(&rows, Back);
    for policy in [SbPolicy::DiscardYounger, SbPolicy::DiscardOlder] {
        with(changed_here(), policy).goes(&[S0NoMark], Resync);
    }
    let rows = [S0ZeroSource, S0ZeroTarget];
    with(changed_here(), SbPolicy::DiscardZeroChanges).goes(&rows, Resync);
    let both = changed_here().map(Forged::marked);
    with(both, SbPolicy::DiscardZeroChanges).goes(&[S0ZeroNo, K8], End::StandAlone);
    let rows = [S0LeastSource, S0LeastTarget];
    with(changed_here(), SbPolicy::DiscardLeastChanges).goes(&rows, Resync);
    with(both, SbPolicy::DiscardLeastChanges).goes(&[S0Equal], Whatever);
    // What is local here is remote there.
    let here_and_there = |n: usize, o: &mut drbd_engine::options::NetOptions| {
        o.after_sb_0pri = match n {
            0 => SbPolicy::DiscardRemote,
            _ => SbPolicy::DiscardLocal,
        };
    };
    let rows = [S0Local, S0Remote];
    meet(brain()).options(here_and_there).goes(&rows, Resync);
    // Two generations with a common ancestor are resynced as a whole, if at all.
    let far = [forged(X).after([W, Z]), forged(Y).after([Z, 0])];
    meet(far)
        .options(here_and_there)
        .with(|c| c.net.always_asbp = true)
        .goes(&[K6c, BSet, BSetUuid], Resync);
}

#[test]
pub(crate) fn split_brain_with_one_primary() {
    let with = |policy| {
        meet(changed_here()).with(|c| {
            c.net.after_sb_0pri = SbPolicy::DiscardLeastChanges;
            c.net.after_sb_1pri = policy;
        })
    };
    with(SbPolicy::Disconnect)
        .primary([0])
        .goes(&[S1Disconnect, K8], End::StandAlone);
    with(SbPolicy::Consensus)
        .primary([0])
        .goes(&[S1Consensus], Resync);
    with(SbPolicy::Consensus)
        .primary([1])
        .goes(&[S1NoConsensus, K8], End::StandAlone);
    let rows = [S1SecondarySource, S1SecondaryTarget];
    with(SbPolicy::DiscardSecondary)
        .primary([0])
        .goes(&rows, Resync);
    with(SbPolicy::CallPriLost)
        .primary([0])
        .goes(&[S1Call], Resync);
    with(SbPolicy::CallPriLost)
        .primary([1])
        .goes(&[S1Call, SGiveUpDemote], Resync);
    with(SbPolicy::CallPriLost)
        .primary([1])
        .open(1)
        .goes(&[SGiveUpNot, K8], End::StandAlone);
    with(SbPolicy::ViolentlyAs0p)
        .primary([0])
        .goes(&[S1Violently], Resync);
    with(SbPolicy::ViolentlyAs0p)
        .primary([1])
        .goes(&[S1Violently, K10a], End::StandAlone);
}

#[test]
pub(crate) fn split_brain_with_two_primaries() {
    let with = |policy| {
        meet(changed_here()).primary([0, 1]).with(|c| {
            c.net.after_sb_0pri = SbPolicy::DiscardLeastChanges;
            c.net.after_sb_2pri = policy;
            c.net.two_primaries = true;
        })
    };
    with(SbPolicy::Disconnect).goes(&[S2Disconnect, K8], End::StandAlone);
    with(SbPolicy::CallPriLost).goes(&[S2Call, SGiveUpDemote], Resync);
    with(SbPolicy::ViolentlyAs0p)
        .with(|c| c.net.rr_conflict = SbPolicy::ViolentlyAs0p)
        .goes(&[S2Violently, K10d], Resync);
}

/// A Primary would have to be the target: `rr-conflict`.
#[test]
pub(crate) fn a_primary_would_be_target() {
    let with = |policy| {
        meet([forged(Y).tracks(X).marked(), forged(X)])
            .primary([1])
            .with(|c| c.net.rr_conflict = policy)
    };
    with(SbPolicy::Disconnect).goes(&[K10a], End::StandAlone);
    with(SbPolicy::RetryConnect).goes(&[K10b], Whatever);
    with(SbPolicy::CallPriLost).goes(&[K10c], End::StandAlone);
    with(SbPolicy::ViolentlyAs0p).goes(&[K10d], Resync);
    with(SbPolicy::AutoDiscard).goes(&[K10f], Resync);
}

/// `connect --discard-my-data` and `--tentative`.
#[test]
pub(crate) fn connect_in_special_ways() {
    let ahead = [forged(Y).tracks(X).marked(), forged(X)];
    meet(ahead).discard(0).goes(&[K9a, K9b], Back);
    meet(ahead).discard(1).goes(&[C21], Resync);
    let broken = Forged {
        inconsistent: true,
        ..forged(X)
    };
    meet([ahead[0], broken]).discard(0).goes(&[K9c], Resync);
    meet(brain()).discard(0).goes(&[K7a, K7b], Back);
    meet(ahead).tentative().goes(&[K13], End::StandAlone);
}

/// Of two halves of a split brain the one with quorum wins.
#[test]
pub(crate) fn split_brain_and_quorum() {
    let mut t = Setup::new(3)
        .quorum(Quorum::Majority)
        .links([(0, 2)])
        .build();
    t.stale_data_expected();
    t.c.divergence_tolerated = true;
    for (n, current, others) in [(0, X, [1, 2]), (1, Y, [0, 2]), (2, X, [0, 1])] {
        for (slot, other) in others.into_iter().enumerate() {
            let same = n != 1 && other != 1;
            let bitmap = if same { 0 } else { Z };
            forged(current).tracks(bitmap).put(&mut t, n, other);
            t.c.edit_superblock(n, 0, |sb| {
                sb.peers[other].bitmap_index = Some(slot as u8);
            })
            .unwrap();
        }
    }
    t.up();
    t.expect(0, Quorate(true));
    t.expect(1, Quorate(false));
    t.mark();
    t.connect(0, 1);
    t.wait(1, Disk(UpToDate));
    t.seen(1, Repl(0, SyncTarget));
    for row in [K6a, K6b] {
        assert!(t.c.rows.contains(row), "{row:?}");
    }
    t.connect(1, 2);
    t.healthy();
    t.same_content(0..3);
    t.finish();
}
