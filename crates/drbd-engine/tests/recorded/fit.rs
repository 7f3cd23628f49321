//! Whether two packets say the same: numbers that their senders made up may differ, but then always
//! in the same way.

use std::collections::HashMap;

use drbd_proto::packet::Packet;
use drbd_proto::{BarrierNr, BlockId, ConnState, Features, ReplState, TwopcFlags, Uuid};

/// Added to an identifier by whoever begins a resync from it (state machine, section 7.12).
const SYNC_STEP: u64 = 1 << 48;

/// What the recorded node made up, and what ours made up in its place.
#[derive(Default, Debug)]
pub(crate) struct Names {
    uuids: HashMap<u64, u64>,
    blocks: HashMap<u64, u64>,
    transactions: HashMap<u32, u32>,
    barriers: HashMap<u32, u32>,
    /// The peer is a DRBD of the 8 series.
    eight: bool,
}

fn uuids(packet: &mut Packet) -> Vec<&mut Uuid> {
    match packet {
        Packet::Uuids(p) => {
            let mut all = vec![&mut p.current, &mut p.bitmap];
            all.extend(&mut p.history);
            all
        }
        Packet::Uuids110(p) => {
            let mut all = vec![&mut p.current];
            all.extend(&mut p.bitmap_uuids);
            all.extend(p.history.iter_mut());
            all
        }
        Packet::CurrentUuid(p) => vec![&mut p.uuid],
        Packet::SyncUuid(p) => vec![&mut p.uuid],
        _ => Vec::new(),
    }
}

fn block(packet: &mut Packet) -> Option<&mut BlockId> {
    Some(match packet {
        Packet::Data(p) => &mut p.block_id,
        Packet::Trim(p) | Packet::Zeroes(p) => &mut p.block_id,
        Packet::DataReply(p) | Packet::RsDataReply(p) => &mut p.block_id,
        Packet::RecvAck(p)
        | Packet::WriteAck(p)
        | Packet::RsWriteAck(p)
        | Packet::WriteAckInSync(p)
        | Packet::RsDeallocatedId(p) => &mut p.block_id,
        Packet::DataRequest(p) | Packet::RsDataRequest(p) => &mut p.block_id,
        Packet::RsDagtagReq(p) | Packet::RsThinDagtagReq(p) => &mut p.block_id,
        _ => return None,
    })
}

fn transaction(packet: &mut Packet) -> Option<&mut u32> {
    Some(match packet {
        Packet::TwopcPrepare(p) => &mut p.head.tid,
        Packet::TwopcCommit(p) | Packet::TwopcAbort(p) => &mut p.head.tid,
        Packet::TwopcYes(p) | Packet::TwopcNo(p) | Packet::TwopcRetry(p) => &mut p.tid,
        _ => return None,
    })
}

fn barrier(packet: &mut Packet) -> Option<&mut BarrierNr> {
    Some(match packet {
        Packet::Barrier(p) => &mut p.barrier,
        Packet::BarrierAck(p) => &mut p.barrier,
        _ => return None,
    })
}

/// Differences that mean nothing to the peer.
fn same_meaning(a: &mut Packet, b: &mut Packet, eight: bool) {
    match (a, b) {
        // Nobody's position to wait for.
        (Packet::RsDagtagReq(a), Packet::RsDagtagReq(b)) if a.dagtag.0 == 0 && b.dagtag.0 == 0 => {
            a.dagtag_node_id = b.dagtag_node_id;
        }
        // What only we have, and only tell each other.
        (Packet::ConnectionFeatures(_), Packet::ConnectionFeatures(b)) => {
            b.features = b.features.minus(Features::COMPARE_LEFTOVER);
        }
        // A forced promotion: for the reference the Primary has no data yet, for us it has.
        (Packet::TwopcCommit(a), Packet::TwopcCommit(b))
            if a.head.flags.contains(TwopcFlags::PRI_INCAPABLE) =>
        {
            b.head.flags |= TwopcFlags::PRI_INCAPABLE;
        }
        // 9.3 tells an 8.4 about quorum, which it does not know, and that it is connected before it has
        // heard the peer's state; we say what an 8.4 says.
        (Packet::State(a), Packet::State(b)) if eight => {
            a.quorum = b.quorum;
            if a.repl == ReplState::Off && a.conn == ConnState::Connected {
                (a.conn, a.peer) = (b.conn, b.peer);
            }
        }
        _ => {}
    }
}

impl Names {
    /// No names yet; whether the peer is a DRBD of the 8 series.
    pub(crate) fn with_peer(eight: bool) -> Names {
        Names {
            eight,
            ..Names::default()
        }
    }

    fn uuid(&self, recorded: Uuid) -> Option<Uuid> {
        let primary = recorded.0 & 1;
        let (name, step) = (recorded.0 & !1, SYNC_STEP);
        let ours = self.uuids.get(&name).copied();
        let ours = ours.or_else(|| {
            let base = self.uuids.get(&name.wrapping_sub(step))?;
            Some(base.wrapping_add(step))
        });
        ours.map(|uuid| Uuid(uuid | primary))
    }

    /// What a packet of the recorded peer would have been to our node.
    pub(crate) fn translate(&self, packet: &Packet) -> Packet {
        let mut packet = packet.clone();
        for uuid in uuids(&mut packet) {
            *uuid = self.uuid(*uuid).unwrap_or(*uuid);
        }
        if let Some(id) = block(&mut packet) {
            id.0 = self.blocks.get(&id.0).copied().unwrap_or(id.0);
        }
        if let Some(tid) = transaction(&mut packet) {
            *tid = self.transactions.get(tid).copied().unwrap_or(*tid);
        }
        if let Some(nr) = barrier(&mut packet) {
            nr.0 = self.barriers.get(&nr.0).copied().unwrap_or(nr.0);
        }
        packet
    }

    /// Whether our packet is what the recorded one is; if so, what both made up belongs together.
    pub(crate) fn fits(&mut self, recorded: &Packet, ours: &Packet) -> bool {
        let (mut a, mut b) = (recorded.clone(), ours.clone());
        let mut new = Vec::new();
        for (i, (a, b)) in uuids(&mut a).into_iter().zip(uuids(&mut b)).enumerate() {
            let (mut theirs, mut mine) = (*a, *b);
            (*a, *b) = (Uuid(0), Uuid(0));
            let current = i == 0 && !matches!(recorded, Packet::SyncUuid(_));
            if !current && theirs.0 > 0xff && mine.0 > 0xff && theirs.0 != u64::MAX {
                // Only with the current one, the lowest bit says something.
                (theirs.0, mine.0) = (theirs.0 & !1, mine.0 & !1);
            }
            if theirs == mine {
                continue;
            }
            match self.uuid(theirs) {
                Some(known) if known == mine => {}
                // Small ones have a meaning.
                None if theirs.0 > 0xff && mine.0 > 0xff && theirs.0 & 1 == mine.0 & 1 => {
                    new.push((theirs.0 & !1, mine.0 & !1));
                }
                _ => return false,
            }
        }
        let mut id = None;
        if let (Some(a), Some(b)) = (block(&mut a), block(&mut b)) {
            // Acks give back what they were given.
            let given = matches!(
                recorded,
                Packet::Data(_)
                    | Packet::Trim(_)
                    | Packet::Zeroes(_)
                    | Packet::RsDataRequest(_)
                    | Packet::RsDagtagReq(_)
                    | Packet::RsThinDagtagReq(_)
            );
            if given {
                id = Some((a.0, b.0));
            } else if *a != *b && self.blocks.get(&a.0) != Some(&b.0) {
                return false;
            }
            (*a, *b) = (BlockId(0), BlockId(0));
        }
        let mut tid = None;
        if let (Some(a), Some(b)) = (transaction(&mut a), transaction(&mut b)) {
            match self.transactions.get(a) {
                Some(known) if known != b => return false,
                _ if a == b => {}
                _ => tid = Some((*a, *b)),
            }
            (*a, *b) = (0, 0);
        }
        let mut nr = None;
        if let (Some(a), Some(b)) = (barrier(&mut a), barrier(&mut b)) {
            if matches!(recorded, Packet::Barrier(_)) {
                nr = Some((a.0, b.0));
            } else if a != b {
                return false;
            }
            (*a, *b) = (BarrierNr(0), BarrierNr(0));
        }
        same_meaning(&mut a, &mut b, self.eight);
        if a != b {
            return false;
        }
        self.uuids.extend(new);
        self.blocks.extend(id);
        self.transactions.extend(tid);
        self.barriers.extend(nr);
        true
    }
}
