//! The data plane: what happens to reads and writes, on the node where an application issues them and
//! on the nodes that receive them.
//!
//! | module | its one question |
//! | --- | --- |
//! | [`request`] | When may an application's request start, and what happens to it before it is sent? |
//! | [`completion`] | How does it end? |
//! | [`transfer_log`] | Which writes are not settled everywhere, and in which epochs are they? |
//! | [`sender`] | What does each peer get of a write? |
//! | [`acks`] | What do the peers' answers to writes mean? |
//! | [`read`] | From which disk is read, for us and for peers? |
//! | [`peer_request`] | What happens to a write that a peer sent? |
//! | [`peer_write`] | How does it get to the disk, and when is it answered? |
//! | [`receiver`] | In which order are the packets of the data stream handled? |
//! | [`receiver_epoch`] | When is an epoch of a peer on stable storage? |
//! | [`peer_ack`] | Who has which write, once it is settled? |
//! | [`submitter`] | How do extents get into the activity log? |
//! | [`cache`] | When is written data safe? |
//! | [`bitmap_io`] | When are bitmap pages written? |
//! | [`exchange`] | How do two nodes merge their bitmaps? |
//! | [`congestion`] | What if a peer cannot keep up? |
//! | [`conflicts`] | Which requests have to wait for others at the same place? |
//! | [`lost`] | What becomes of requests when a peer, a disk or permission to write is lost? |
//! | [`stats`] | What is there to be seen of all this? |
//!
//! "Data path, section N" cites the project's description of DRBD's data path.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

use drbd_proto::{BarrierNr, BlockId, Dagtag, NodeId, NodeMask, VolumeNr};

use crate::activity_log::ActivityLog;
use crate::engine::{Engine, Op};
use crate::event::{DiskError, OpResult};
use crate::id::OpId;
use crate::interval::{IntervalId, Intervals};
use crate::resync::{ResyncOp, ResyncState};
use crate::time::Instant;

mod acks;
mod bitmap_io;
pub(crate) mod cache;
mod completion;
mod conflicts;
mod congestion;
mod exchange;
mod lost;
mod peer_ack;
mod peer_request;
mod peer_write;
mod read;
mod receiver;
mod receiver_epoch;
pub(crate) mod request;
mod sender;
mod stats;
mod submitter;
#[cfg(test)]
mod tests;
mod transfer_log;

pub(crate) use conflicts::Owner;
pub(crate) use lost::Consequence;
pub(crate) use peer_ack::PeerAcks;
pub(crate) use peer_request::PeerRequest;
pub(crate) use receiver::Receiver;
pub(crate) use request::Request;
pub(crate) use sender::Sender;
pub(crate) use submitter::AlQueue;

/// Name of an application request, in order of submission. A write's is its block id on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct ReqId(pub u64);

impl ReqId {
    /// The handle that goes over the wire. Counts up from 1 and never reaches the reserved all-ones.
    pub(crate) fn block_id(self) -> BlockId {
        BlockId(self.0)
    }
}

/// Name of a received write, in order of reception.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct PeerReqId(pub u64);

/// The data plane's part of a resource.
#[derive(Debug, Default)]
pub(crate) struct ResourceData {
    /// All application requests that are not settled.
    pub requests: BTreeMap<ReqId, Request>,
    next_req: u64,
    /// The transfer log: writes that were given to peers and the disk, oldest first.
    pub log: VecDeque<ReqId>,
    /// The open epoch, and how many writes it has (data path, section 7.1).
    pub epoch: BarrierNr,
    pub epoch_writes: u32,
    /// Sectors written by applications on this node (data path, section 12.1).
    pub dagtag: Dagtag,
    /// Peer-acks that are due or accumulate (data path, section 12.3).
    pub peer_acks: PeerAcks,
    /// All received writes that are not settled.
    pub peer_requests: BTreeMap<PeerReqId, PeerRequest>,
    next_peer_req: u64,
    /// A cache flush failed: order is kept by draining only (data path, section 8.1).
    pub flush_failed: bool,
    /// Flush requests of this resource (data path, section 12.6).
    pub flush: crate::resync::FlushRequests,
    /// Peers that have too much to do, and the volume that was being written.
    pub congested: BTreeSet<(NodeId, VolumeNr)>,
    /// What committed changes of state ask for, in order.
    pub consequences: Vec<Consequence>,
    /// Something may run that had to wait: look again in `data_settle`.
    pub recheck: bool,
}

/// The data plane's part of a volume.
#[derive(Debug, Default)]
pub(crate) struct VolumeData {
    /// Requests that wait for admission (data path, section 3.1).
    pub waiting: VecDeque<ReqId>,
    /// Requests in progress.
    pub reads: u32,
    pub writes: u32,
    /// The activity log; present while a disk is attached.
    pub al: Option<ActivityLog>,
    /// Who waits for extents, and the transaction under way.
    pub al_queue: AlQueue,
    /// Number for the next activity log transaction; survives re-attaching.
    pub al_tr_number: u32,
    /// Ranges being written or read with protection.
    pub intervals: Intervals,
    /// Whose they are.
    pub owners: BTreeMap<IntervalId, Owner>,
    pub next_interval: u64,
    /// Intervals to be looked at again.
    pub woken: Vec<IntervalId>,
    /// Operations outstanding on the data or metadata device.
    pub disk_ops: u32,
    /// Writes of bitmap pages under way, or about to follow a flush. A page is never written twice at a
    /// time.
    pub bitmap_writes: u32,
    /// What is to be written when the flush before it has ended.
    pub bitmap_held: bitmap_io::HeldPages,
    /// The data device may hold something in its cache that was written after the last flush.
    pub unflushed: bool,
    /// Flushes of the data device under way.
    pub flushes: u32,
    /// Write-outs of all marked pages that were begun, and the last one of them that has ended.
    pub bitmap_round: u64,
    pub bitmap_done: u64,
    /// The source of a resync told of blocks (P_OUT_OF_SYNC) whose bits no write-out was begun for.
    pub told_unsaved: bool,
    /// The write-out that has the bits of all such blocks before.
    pub told_round: u64,
    /// The next one has to be on stable storage when it ends.
    pub bitmap_durable: bool,
    /// A bitmap write-out is wanted when the running one has ended.
    pub bitmap_again: bool,
    /// The metadata is being moved: no page may be written.
    pub bitmap_locked: bool,
    /// The disk must not get further requests: it is being let go.
    pub closing: bool,
    /// The disk does not answer: nothing is asked of it any more.
    pub given_up: bool,
    /// When the disk was attached.
    pub attached_at: Instant,
    /// Round-robin position of reads.
    pub read_turn: u32,
    /// Candidates not used in this round of remote reads.
    pub read_candidates: NodeMask,
    /// Sectors read and written on the local disk.
    pub read: u64,
    pub written: u64,
    /// Of these, what resyncs wrote.
    pub synced: u64,
    /// Transactions and bitmap pages written.
    pub al_writes: u64,
    pub bm_writes: u64,
}

/// The data plane's part of a connection.
#[derive(Debug, Default)]
pub(crate) struct ConnectionData {
    /// Counts the times that streams were established: answers to operations of an earlier time are
    /// worthless.
    pub generation: u64,
    /// Position in the stream of writes to this peer.
    pub sender: Sender,
    /// Writes given to this peer that are not barrier-acked, oldest first.
    pub unconfirmed: VecDeque<ReqId>,
    /// Sectors sent in writes without barrier-ack, and in resync replies without ack.
    pub ap_in_flight: u64,
    pub rs_in_flight: u64,
    /// The peer was found to be congested, and has not answered everything since.
    pub congested: bool,
    /// Packets of the data stream and epochs of this peer.
    pub receiver: Receiver,
    /// Writes received from this peer, in order, until their peer-ack.
    pub received: VecDeque<PeerReqId>,
    /// Reads of this peer that wait for writes of this peer to the same place.
    pub parked_reads: Vec<read::PeerRead>,
    /// When the streams were established, and the last barrier was sent.
    pub since: Instant,
    pub barrier_sent: Instant,
}

/// The data plane's part of a peer device.
#[derive(Debug, Default)]
pub(crate) struct PeerDeviceData {
    /// Sequence number of the last packet sent, and the highest one seen (wire protocol, section 13.4).
    pub packet_seq: u32,
    pub peer_seq: u32,
    /// The last thing said about application writes was P_OUT_OF_SYNC.
    pub told_out_of_sync: bool,
    /// Where the bitmap that is being received has come to.
    pub exchange: exchange::Exchange,
    /// Resync or verify under way.
    pub resync: ResyncState,
    /// Sectors received and sent.
    pub received: u64,
    pub sent: u64,
}

/// What an operation of the data plane is for.
#[derive(Debug)]
pub(crate) struct DataOp {
    /// The volume whose disk it uses.
    pub volume: VolumeNr,
    /// What it is for.
    pub what: DataOpKind,
    /// It is a flush of the data device.
    pub flush: bool,
}

/// What an operation of the data plane is for.
#[derive(Debug)]
pub(crate) enum DataOpKind {
    /// The local part of an application request.
    Local(ReqId),
    /// Data handed to the transport with protocol A.
    Sent(ReqId, NodeId),
    /// A received write.
    PeerWrite(PeerReqId),
    /// A read for a peer.
    PeerRead(read::PeerRead),
    /// Flush at the end of an epoch.
    EpochFlush { peer: NodeId, generation: u64 },
    /// The flush that goes before a transaction.
    AlFlush { attached: u64 },
    /// Bitmap pages of evicted extents.
    AlPages { attached: u64 },
    /// The transaction block.
    AlBlock { attached: u64 },
    /// The flush that goes before bitmap pages.
    BitmapFlush,
    /// The flush that goes before the primary indicator is cleared.
    CacheFlush,
    /// The flush that goes before the end of a resync as target.
    ResyncFlush {
        peer: NodeId,
        generation: u64,
        failed: bool,
    },
    /// Bitmap pages.
    BitmapPages(Vec<crate::bitmap::PageNr>),
    /// Resync and verify.
    Resync(ResyncOp),
}

impl DataOpKind {
    /// Whether the operation may have changed the data area.
    fn writes_data(&self) -> bool {
        match self {
            DataOpKind::Local(_) | DataOpKind::PeerWrite(_) => true,
            DataOpKind::Resync(op) => op.writes_data(),
            _ => false,
        }
    }

    /// Whether the operation keeps the disk of its volume busy.
    pub(crate) fn uses_disk(&self) -> bool {
        match self {
            DataOpKind::Sent(..) => false,
            DataOpKind::Resync(op) => op.uses_disk(),
            _ => true,
        }
    }
}

impl VolumeData {
    /// The size changes: no extent is activated; if the metadata moves, no page of the bitmap is written, as its old place may
    /// be too small for the pages there are now.
    pub(crate) fn close_for_resize(&mut self, moves: bool) {
        self.bitmap_locked = moves;
        if let Some(al) = self.al.as_mut() {
            al.freeze();
        }
    }
}

impl ResourceData {
    /// A fresh name for an application request.
    fn new_req(&mut self) -> ReqId {
        self.next_req += 1;
        ReqId(self.next_req)
    }

    /// A fresh name for a received write.
    fn new_peer_req(&mut self) -> PeerReqId {
        self.next_peer_req += 1;
        PeerReqId(self.next_peer_req)
    }
}

impl Engine {
    /// Registers an operation of the data plane.
    pub(crate) fn data_op(&mut self, volume: VolumeNr, what: DataOpKind) -> OpId {
        if what.uses_disk()
            && let Some(v) = self.volumes.get_mut(&volume)
        {
            v.data.disk_ops += 1;
        }
        self.op(Op::Data(DataOp {
            volume,
            what,
            flush: false,
        }))
    }

    /// An operation of the data plane has ended.
    pub(crate) fn data_op_done(&mut self, op: DataOp, result: OpResult) {
        let DataOp {
            volume,
            what,
            flush,
        } = op;
        if what.uses_disk()
            && let Some(v) = self.volumes.get_mut(&volume)
        {
            v.data.disk_ops = v.data.disk_ops.saturating_sub(1);
        }
        if flush {
            let good = matches!(result, Ok(_) | Err(DiskError::NotSupported));
            self.cache_flushed(volume, good);
        } else if what.writes_data()
            && let Some(v) = self.volumes.get_mut(&volume)
        {
            v.data.unflushed = true;
        }
        match what {
            DataOpKind::Local(req) => self.local_done(volume, req, result),
            DataOpKind::Sent(..) => {}
            DataOpKind::PeerWrite(id) => self.peer_write_done(id, result),
            DataOpKind::PeerRead(read) => self.peer_read_done(read, result),
            DataOpKind::EpochFlush { peer, generation } => {
                self.epoch_flush_done(peer, volume, generation, result);
            }
            DataOpKind::AlFlush { attached } => self.al_flushed(volume, attached, result),
            DataOpKind::AlPages { attached } => self.al_pages_written(volume, attached, result),
            DataOpKind::BitmapFlush => self.bitmap_flushed(volume, result),
            DataOpKind::CacheFlush => {
                self.flush_succeeded(volume, &result);
                self.md_touch();
            }
            DataOpKind::ResyncFlush {
                peer,
                generation,
                failed,
            } => self.resync_flushed(peer, volume, generation, failed, result),
            DataOpKind::AlBlock { attached } => self.al_block_written(volume, attached, result),
            DataOpKind::BitmapPages(pages) => self.bitmap_pages_written(volume, pages, result),
            DataOpKind::Resync(op) => self.resync_op_done(volume, op, result),
        }
        self.flush_idle_disk(volume);
    }

    /// Data was handed to the transport (protocol A: data path, section 4.1).
    pub(crate) fn data_sent(&mut self, op: DataOp) {
        if let DataOpKind::Sent(req, peer) = op.what {
            self.handed_over(req, peer);
        }
    }

    /// Runs what this event has made possible: woken intervals, activity log turns, admission.
    pub(crate) fn data_settle(&mut self) {
        // Admission, and who is told of a generation, depend on much that is decided elsewhere.
        self.data.recheck |= self
            .volumes
            .values()
            .any(|v| !v.data.waiting.is_empty() || v.unconfirmed.is_some());
        while core::mem::take(&mut self.data.recheck) {
            self.settle_congestion();
            self.settle_consequences();
            self.settle_generations();
            self.settle_intervals();
            self.settle_activity_logs();
            self.settle_admission();
            self.settle_receivers();
            self.settle_resync();
        }
    }

    /// A disk that is on its way out and idle: nothing may stay in its cache. `disk_settle` lets go of it.
    fn flush_idle_disk(&mut self, volume: VolumeNr) {
        let idle = self
            .volumes
            .get(&volume)
            .is_some_and(|v| v.data.closing && v.data.disk_ops == 0);
        if idle && self.owes_flush(volume) {
            self.flush_cache(volume, DataOpKind::CacheFlush);
        }
    }
}
