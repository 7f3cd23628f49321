//! Which requests have to wait for others at the same place: the engine's side of the interval tree
//! (data path, section 6).

use drbd_proto::{NodeId, Sector, VolumeNr};

use crate::data::{PeerReqId, ReqId};
use crate::engine::Engine;
use crate::interval::{Flags, Interval, IntervalId, Kind};
use crate::resync::ResyncId;

/// Whose an interval is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Owner {
    /// A write of an application here.
    Request(ReqId),
    /// A received write.
    PeerWrite(PeerReqId),
    /// A resync or verify request.
    Resync(NodeId, ResyncId),
}

impl Engine {
    /// Adds an interval; it is not submitted. `None` if there is no such volume.
    pub(crate) fn interval_add(
        &mut self,
        volume: VolumeNr,
        interval: Interval,
        owner: Owner,
    ) -> Option<IntervalId> {
        let data = &mut self.volumes.get_mut(&volume)?.data;
        data.next_interval += 1;
        let id = IntervalId(data.next_interval);
        data.intervals.insert(id, interval);
        data.owners.insert(id, owner);
        Some(id)
    }

    /// Adds an interval and submits it if nothing is in the way; the flag says whether it was.
    pub(crate) fn interval_enter(
        &mut self,
        volume: VolumeNr,
        kind: Kind,
        sector: Sector,
        len: u32,
        peer: Option<NodeId>,
        owner: Owner,
    ) -> (Option<IntervalId>, bool) {
        let id = self.interval_add(volume, Interval::new(kind, peer, sector, len), owner);
        let free = id.is_some_and(|id| self.interval_submit(volume, id));
        (id, free)
    }

    /// Submits an interval if nothing is in the way.
    pub(crate) fn interval_submit(&mut self, volume: VolumeNr, id: IntervalId) -> bool {
        self.volumes
            .get_mut(&volume)
            .is_some_and(|v| v.data.intervals.submit(id).is_ok())
    }

    /// The local disk has finished with an interval.
    pub(crate) fn interval_on_disk(&mut self, volume: VolumeNr, id: IntervalId) {
        self.interval_progress(volume, id, Flags::BACKING_COMPLETED);
    }

    /// The application has its completion.
    pub(crate) fn interval_completed(&mut self, volume: VolumeNr, id: IntervalId) {
        self.interval_progress(volume, id, Flags::COMPLETED);
    }

    fn interval_progress(&mut self, volume: VolumeNr, id: IntervalId, flags: Flags) {
        let Some(v) = self.volumes.get_mut(&volume) else {
            return;
        };
        v.data.intervals.completed(id, flags, &mut v.data.woken);
        self.data.recheck |= !v.data.woken.is_empty();
    }

    /// Removes an interval; who waited for it is looked at again.
    pub(crate) fn interval_leave(&mut self, volume: VolumeNr, id: IntervalId) {
        let Some(v) = self.volumes.get_mut(&volume) else {
            return;
        };
        v.data.owners.remove(&id);
        v.data.intervals.remove(id, &mut v.data.woken);
        self.data.recheck |= !v.data.woken.is_empty();
    }

    /// Looks at the intervals again whose way may be free now.
    pub(crate) fn settle_intervals(&mut self) {
        let volumes: alloc::vec::Vec<VolumeNr> = self
            .volumes
            .iter()
            .filter(|(_, v)| !v.data.woken.is_empty())
            .map(|(nr, _)| *nr)
            .collect();
        for volume in volumes {
            let Some(v) = self.volumes.get_mut(&volume) else {
                continue;
            };
            for id in core::mem::take(&mut v.data.woken) {
                self.interval_woken(volume, id);
            }
        }
    }

    fn interval_woken(&mut self, volume: VolumeNr, id: IntervalId) {
        let Some(v) = self.volumes.get(&volume) else {
            return;
        };
        let submitted = v
            .data
            .intervals
            .get(id)
            .is_none_or(|i| i.flags.has(Flags::SUBMITTED));
        let Some(owner) = v.data.owners.get(&id).copied().filter(|_| !submitted) else {
            return;
        };
        match owner {
            Owner::Request(req) => {
                if self.interval_submit(volume, id) {
                    self.log_write(req);
                }
            }
            Owner::PeerWrite(req) => {
                if self.peer_write_waits(req) && self.interval_submit(volume, id) {
                    self.activate_peer_write(req);
                }
            }
            Owner::Resync(peer, req) => self.resync_woken(peer, volume, req, id),
        }
    }
}
