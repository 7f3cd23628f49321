//! The size of a device changes while it is in use (state machine, section 15.5).
//!
//! The cluster agrees on the new size in a transaction of its own kind; what it asks and answers is here. What
//! every node then does with its own disk is in [`local`]: the bitmap grows, and metadata at the end of a device that
//! has grown itself moves to the new end (metadata, section 7.4).

mod legacy;
mod local;
#[cfg(test)]
mod tests;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use drbd_meta::flags::PeerFlags;
use drbd_meta::geometry::{AlStriping, Geometry, GeometryError, MdIndex, Placement};
use drbd_meta::limits::MAX_DEVICE_SECTORS;
use drbd_proto::packet::{TwopcPhase2, TwopcPrepResize, TwopcReply, UNLIMITED_SIZE};
use drbd_proto::{ConnState, DdsFlags, DiskState, NodeId, NodeMask, ReplState, Role, VolumeNr};

use crate::command::{Reply, Resize, RetCode};
use crate::control::ControlOp;
use crate::effect::{Effect, LogLevel};
use crate::engine::{Engine, Op};
use crate::event::{OpOutput, OpResult};
use crate::id::CmdId;
use crate::timer::Timer;
use crate::twopc::{Active, ChangeKind, Participation, Requester};
pub(crate) use local::Resizing;

/// Sizes of the backing devices, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Measured {
    pub disk_bytes: u64,
    meta_bytes: u64,
}

/// Who wants to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MeasuredFor {
    /// This node's own resize.
    Command,
    /// The transaction with this number.
    Peer(u32),
    /// A connection that begins: the device may have grown while nobody was there.
    Handshake,
    /// A connected peer of the 8 series has told its sizes, with these flags.
    Sizes(NodeId, DdsFlags),
}

/// A `resize` of this node that the cluster has not decided yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    cmd: CmdId,
    resize: Resize,
    /// Known once the devices are measured.
    place: Option<(Measured, Geometry)>,
    /// The peer of the 8 series whose answer is awaited.
    waits_for: Option<NodeId>,
}

/// What another node asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerAsks {
    /// Size asked for in sectors; 0: as large as possible.
    user_size: u64,
    flags: DdsFlags,
    /// The answer waits for the own devices to be measured.
    pub measuring: bool,
    place: Option<(Measured, Geometry)>,
}

/// A change of size as this node carries it out.
#[derive(Clone, Debug)]
struct Commit {
    /// New size of the device in sectors.
    size: u64,
    /// Size asked for; 0: none.
    user_size: u64,
    flags: DdsFlags,
    /// Primaries with a disk.
    primaries: NodeMask,
    /// Whom it came from; nobody on the node that began it.
    parents: NodeMask,
    /// Whom it went to from here.
    children: NodeMask,
    /// The own devices as they are now.
    place: Option<(Measured, Geometry)>,
    cmd: Option<CmdId>,
}

impl Engine {
    /// `resize`.
    pub(crate) fn resize_command(
        &mut self,
        cmd: CmdId,
        v: VolumeNr,
        resize: Resize,
    ) -> Option<Reply> {
        if !self.volumes.contains_key(&v) {
            return Some(Reply::new(RetCode::ERR_MINOR_INVALID));
        }
        if !self.disk_ref(v).is_some_and(|d| d.loaded)
            || self.state.disk(v) < DiskState::Inconsistent
        {
            return Some(Reply::new(RetCode::ERR_NO_DISK));
        }
        if let Err(code) = self.legacy_may_resize(v, &resize) {
            return Some(Reply::new(code));
        }
        let underway = self.pending.resizes.contains_key(&v);
        match self.may_resize(v) {
            Err(code) => return Some(Reply::new(code)),
            Ok(_) if underway => return Some(Reply::new(RetCode::IN_TRANSIENT_STATE)),
            Ok(_) => {}
        }
        let asked = Asked {
            cmd,
            resize,
            place: None,
            waits_for: None,
        };
        self.pending.resizes.insert(v, asked);
        self.measure(v, MeasuredFor::Command);
        None
    }

    /// Whether a volume may change its size now.
    pub(crate) fn may_resize(&self, v: VolumeNr) -> Result<RetCode, RetCode> {
        let disk = self.state.disk(v);
        let attaching = matches!(
            disk,
            DiskState::Attaching
                | DiskState::Negotiating
                | DiskState::Detaching
                | DiskState::Failed
        );
        if attaching || self.resizes.contains_key(&v) {
            return Err(RetCode::IN_TRANSIENT_STATE);
        }
        if self
            .state
            .peers_of(v)
            .any(|(_, _, pd)| pd.repl > ReplState::Established)
        {
            return Err(RetCode::ERR_RESIZE_RESYNC);
        }
        Ok(RetCode::SUCCESS)
    }

    /// The devices may have grown since they were attached.
    pub(crate) fn measure(&mut self, v: VolumeNr, whom: MeasuredFor) {
        let op = self.op(Op::Control(ControlOp::Measure(v, whom)));
        self.push(Effect::Measure { op, volume: v });
    }

    /// The devices are measured.
    pub(crate) fn measured(&mut self, v: VolumeNr, whom: MeasuredFor, result: OpResult) {
        let measured = match result {
            Ok(OpOutput::Sizes {
                disk_bytes,
                meta_bytes,
            }) => Ok(Measured {
                disk_bytes,
                meta_bytes,
            }),
            Ok(_) => Err("unexpected answer of the driver".into()),
            Err(error) => Err(format!("cannot measure the disk: {error}")),
        };
        match whom {
            MeasuredFor::Command => self.measured_for_command(v, measured),
            MeasuredFor::Peer(tid) => self.measured_for_peer(v, tid, measured),
            MeasuredFor::Handshake | MeasuredFor::Sizes(..) => {
                let place = measured.map(|m| self.new_place(v, m, &Resize::default()));
                if let (Ok(Ok(place)), Some(disk)) = (place, self.disk_mut(v)) {
                    disk.measured = Some(place);
                }
                if let MeasuredFor::Sizes(peer, flags) = whom {
                    self.measured_for_sizes(peer, v, flags);
                }
            }
        }
    }

    /// Streams to a peer are there: both are about to tell each other what they have room for.
    pub(crate) fn measure_for_handshake(&mut self) {
        let attached: Vec<VolumeNr> = self
            .volumes
            .values()
            .filter(|x| x.disk.as_ref().is_some_and(|d| d.loaded))
            .map(|x| x.nr)
            .collect();
        for v in attached {
            self.measure(v, MeasuredFor::Handshake);
        }
    }

    fn measured_for_command(&mut self, v: VolumeNr, measured: Result<Measured, String>) {
        let Some(asked) = self.pending.resizes.get(&v).copied() else {
            return;
        };
        let place = match measured {
            Ok(measured) => self.new_place(v, measured, &asked.resize),
            Err(text) => Err(Reply::with(RetCode::ERR_IO_MD_DISK, text)),
        };
        let (measured, geometry) = match place {
            Ok(place) => place,
            Err(reply) => {
                self.pending.resizes.remove(&v);
                return self.reply(asked.cmd, reply);
            }
        };
        let local_max = geometry.attach_limit(measured.disk_bytes >> 9);
        let user_size = asked.resize.size;
        if user_size > local_max {
            self.pending.resizes.remove(&v);
            let text = format!(
                "requested {user_size} sectors, backend seems only able to support {local_max}"
            );
            return self.reply(asked.cmd, Reply::with(RetCode::ERR_DISK_TOO_SMALL, text));
        }
        if let Some(asked) = self.pending.resizes.get_mut(&v) {
            asked.place = Some((measured, geometry));
        }
        let mut flags = DdsFlags::NONE;
        if asked.resize.assume_peer_has_space {
            flags |= DdsFlags::FORCED;
        }
        if asked.resize.assume_clean {
            flags |= DdsFlags::NO_RESYNC;
        }
        if !self.legacy_peers().is_empty() {
            let place = (measured, geometry);
            return self.legacy_resize(v, asked.cmd, asked.resize, place, flags);
        }
        let kind = ChangeKind::Resize {
            volume: v,
            user_size,
            flags,
        };
        self.twopc_request(kind, Requester::Command(asked.cmd));
    }

    /// Where the metadata of a disk of this size belongs, with another activity log if one is asked for.
    fn new_place(
        &self,
        v: VolumeNr,
        measured: Measured,
        resize: &Resize,
    ) -> Result<(Measured, Geometry), Reply> {
        let Some(disk) = self.disk_ref(v) else {
            return Err(Reply::new(RetCode::ERR_NO_DISK));
        };
        let old = disk.meta.geometry;
        let mut striping = old.striping();
        if resize.al_stripes.is_some() || resize.al_stripe_size_kb.is_some() {
            let stripes = resize.al_stripes.unwrap_or(striping.stripes());
            let blocks = match resize.al_stripe_size_kb {
                Some(kb) => kb / 4,
                None => striping.stripe_size_4k(),
            };
            let too_big = u64::from(stripes) * u64::from(blocks) > 4 << 20;
            striping = AlStriping::new(stripes, blocks).map_err(|error| {
                let code = match too_big {
                    true => RetCode::ERR_MD_LAYOUT_TOO_BIG,
                    false => RetCode::ERR_MD_LAYOUT_TOO_SMALL,
                };
                Reply::with(code, format!("{error}"))
            })?;
        }
        if striping != old.striping() {
            let known = self
                .state
                .peers_of(v)
                .all(|(_, _, pd)| pd.repl >= ReplState::Established);
            if !known && !resize.assume_peer_has_space {
                return Err(Reply::new(RetCode::ERR_MD_LAYOUT_CONNECTED));
            }
            let slots = drbd_meta::activity_log::AlLayout::new(0, striping).max_slots();
            let used = self.volumes.get(&v).and_then(|x| x.data.al.as_ref());
            if used.is_some_and(|al| al.len() > slots) {
                let text = format!("such an activity log has room for {slots} al-extents");
                return Err(Reply::with(RetCode::ERR_MD_LAYOUT_TOO_SMALL, text));
            }
        }
        let geometry = relocated(old, measured, striping)
            .map_err(|error| Reply::with(RetCode::ERR_MD_LAYOUT_NO_FIT, format!("{error}")))?;
        let agreed = disk.meta.sb.effective_size;
        if geometry.attach_limit(measured.disk_bytes >> 9) < agreed {
            let text = format!("the metadata would lie in the {agreed} sectors of the device");
            return Err(Reply::with(RetCode::ERR_MD_LAYOUT_NO_FIT, text));
        }
        Ok((measured, geometry))
    }

    // ----- the node that begins --------------------------------------------------------------------------

    /// The largest size that is possible here, for an own transaction; no limit for other kinds.
    pub(crate) fn possible_size(&self, kind: ChangeKind) -> u64 {
        let ChangeKind::Resize { volume, .. } = kind else {
            return u64::MAX;
        };
        self.pending
            .resizes
            .get(&volume)
            .and_then(|asked| asked.place)
            .map_or(UNLIMITED_SIZE.0, |(measured, geometry)| {
                geometry.attach_limit(measured.disk_bytes >> 9)
            })
    }

    /// Everybody has agreed: commit, unless the size would stay.
    pub(crate) fn resize_agreed(&mut self) {
        let Some(Active::Initiator(i)) = &self.twopc.active else {
            return;
        };
        let ChangeKind::Resize {
            volume: v,
            user_size,
            flags,
        } = i.request.kind
        else {
            return;
        };
        let (possible, reachable) = (i.size, i.reachable | i.target_reachable);
        let place = self.pending.resizes.get(&v).and_then(|asked| asked.place);
        if let Err(code) = self.may_resize(v) {
            return self.initiator_end(Err(code));
        }
        let (size, doubt) = self.agreed_size(v, possible, user_size, flags, reachable);
        let current = self.volumes.get(&v).map_or(0, |x| x.size);
        let agreed = self.disk_ref(v).map_or(0, |d| d.meta.sb.effective_size);
        // A peer with less room than the device has now would take what is on it, whatever was asked for.
        if size == 0 || (size < agreed && size != user_size) {
            return self.initiator_end(Err(RetCode::ERR_IMPLICIT_SHRINK));
        }
        let Some(Active::Initiator(mut i)) = self.twopc.active.take() else {
            return;
        };
        self.timers.cancel(Timer::TwoPcTimeout);
        i.size = size;
        if self.state.role == Role::Primary {
            i.primary_nodes.insert(self.node_id);
        }
        let changes = size != current;
        self.send_second_phase(&i, changes);
        if let Some(text) = doubt {
            self.log_at(LogLevel::Warn, None, Some(v), text);
        }
        self.initiator_report(&i.request, Ok(RetCode::CW_SUCCESS));
        let cmd = self.pending.resizes.remove(&v).map(|asked| asked.cmd);
        self.resize_commit(
            v,
            Commit {
                size,
                user_size: if changes {
                    user_size
                } else {
                    self.disk_ref(v).map_or(0, |d| d.options.size)
                },
                flags,
                primaries: i.primary_nodes,
                parents: NodeMask::EMPTY,
                children: i.prepared,
                place,
                cmd,
            },
        );
    }

    /// The size that follows from what the nodes have room for (section 15.3), and what is to be said about it.
    fn agreed_size(
        &self,
        v: VolumeNr,
        possible: u64,
        user_size: u64,
        flags: DdsFlags,
        reachable: NodeMask,
    ) -> (u64, Option<String>) {
        let agreed = self.disk_ref(v).map_or(0, |d| d.meta.sb.effective_size);
        let mut most = possible;
        let mut missing = Vec::new();
        for (n, conn) in &self.conns {
            if reachable.contains(*n) || !conn.peers.contains_key(&v) {
                continue;
            }
            let seen = self
                .disk_ref(v)
                .is_some_and(|d| d.meta.peer(*n).flags.contains(PeerFlags::DEVICE_SEEN));
            if seen {
                missing.push(*n);
            }
        }
        let limited = !missing.is_empty() && !flags.contains(DdsFlags::FORCED) && agreed != 0;
        if limited {
            most = most.min(agreed);
        }
        let size = if user_size != 0 && user_size <= most {
            user_size
        } else {
            most
        };
        let names: Vec<String> = missing.iter().map(|n| format!("{n}")).collect();
        let doubt = (limited && possible > agreed).then(|| {
            format!(
                "node {} is not connected, and may have no room for more than {agreed} sectors",
                names.join(", ")
            )
        });
        (size, doubt)
    }

    /// The transaction was given up. If it was decided, [`resize_commit`](Self::resize_commit) answers.
    pub(crate) fn resize_decided(&mut self, v: VolumeNr, result: Result<RetCode, RetCode>) {
        if let Err(code) = result
            && let Some(asked) = self.pending.resizes.remove(&v)
        {
            self.reply(asked.cmd, Reply::new(code));
        }
    }

    // ----- the nodes that are asked ----------------------------------------------------------------------

    /// Another node asks: begins the answer.
    pub(crate) fn peer_asks_resize(
        &self,
        v: VolumeNr,
        prepare: &TwopcPrepResize,
        reply: &mut TwopcReply,
    ) -> PeerAsks {
        let attached = self.disk_ref(v).is_some_and(|d| d.loaded);
        if attached && self.state.role == Role::Primary {
            reply.primary_nodes = self.node_id.mask();
        }
        reply.tail = UNLIMITED_SIZE.0;
        PeerAsks {
            user_size: prepare.user_size.0,
            flags: prepare.dds_flags,
            measuring: attached,
            place: None,
        }
    }

    fn measured_for_peer(&mut self, v: VolumeNr, tid: u32, measured: Result<Measured, String>) {
        let place = measured.map_err(|text| Reply::with(RetCode::ERR_IO_MD_DISK, text));
        let place = place.and_then(|m| self.new_place(v, m, &Resize::default()));
        let Some(Active::Participant(p)) = &mut self.twopc.active else {
            return;
        };
        if p.tid != tid || p.volume != v {
            return;
        }
        let initiator = p.initiator;
        let Some(asks) = &mut p.resize else { return };
        asks.measuring = false;
        match place {
            Ok((measured, geometry)) => {
                asks.place = Some((measured, geometry));
                let most = geometry.attach_limit(measured.disk_bytes >> 9);
                p.reply.tail = p.reply.tail.min(most);
            }
            Err(reply) => {
                p.no = true;
                let text = format!("cannot change the size: {}", reply.info.join(", "));
                self.log_at(LogLevel::Error, Some(initiator), Some(v), text);
            }
        }
        self.participant_check();
    }

    /// The cluster has agreed on a size.
    pub(crate) fn resize_committed(
        &mut self,
        p: &Participation,
        asks: PeerAsks,
        phase2: &TwopcPhase2,
    ) {
        let size = phase2.size().0;
        let attached = self.disk_ref(p.volume).is_some_and(|d| d.loaded);
        let most = match asks.place {
            Some((measured, geometry)) => geometry.attach_limit(measured.disk_bytes >> 9),
            // A commit before this node has said what it has room for.
            None if attached => 0,
            None => MAX_DEVICE_SECTORS,
        };
        if size == 0 || size > most {
            let text = format!(
                "volume {}: a change of size to {size} sectors was committed, {most} are possible here",
                p.volume
            );
            for parent in p.parents.iter() {
                self.fail_connection(parent, ConnState::ProtocolError, &text);
            }
            return;
        }
        self.resize_commit(
            p.volume,
            Commit {
                size,
                user_size: asks.user_size,
                flags: asks.flags,
                primaries: phase2.primary_nodes,
                parents: p.parents,
                children: p.children,
                place: asks.place,
                cmd: None,
            },
        );
    }

    /// What this node and a peer are to each other when the device has grown; true: the peer fetches the new area
    /// from here (section 15.5).
    fn grows_as_source(&self, peer: NodeId, commit: &Commit) -> Option<bool> {
        let me = self.node_id;
        if commit.primaries.is_empty() {
            return if commit.parents.contains(peer) {
                Some(false)
            } else if commit.children.contains(peer) {
                Some(true)
            } else {
                None
            };
        }
        match (
            commit.primaries.contains(me),
            commit.primaries.contains(peer),
        ) {
            (true, true) => Some(me < peer),
            (true, false) => Some(true),
            (false, true) => Some(false),
            (false, false) => None,
        }
    }
}

/// The geometry of the same metadata on devices of another size, with this activity log.
fn relocated(
    old: Geometry,
    measured: Measured,
    striping: AlStriping,
) -> Result<Geometry, GeometryError> {
    let index = old.placement().index;
    let device_size = match index {
        MdIndex::Internal | MdIndex::FixedInternal => measured.disk_bytes,
        MdIndex::FlexExternal | MdIndex::Indexed(_) => measured.meta_bytes,
    };
    let unchanged = device_size == old.placement().device_size && striping == old.striping();
    if unchanged {
        return Ok(old);
    }
    let placement = Placement { index, device_size };
    Geometry::new(placement, old.slots(), old.block_size(), striping)
}
