//! How large the device is (state machine, section 15; wire protocol, section 10.2).

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use drbd_meta::flags::PeerFlags;
use drbd_meta::limits::MAX_DEVICE_SECTORS;
use drbd_proto::packet::{QueueLimits, Sizes};
use drbd_proto::{
    Bytes, ConnState, DdsFlags, DiskState, Features, MAX_DISCARD_SIZE, MAX_DISCARD_SIZE_LEGACY,
    NodeId, Packet, ReplState, Role, Sectors, Stream, VERSION_MAX, VolumeNr, max_request_size,
};

use crate::bitmap::Fill;
use crate::command::{Backing, RetCode};
use crate::connection::PeerSizes;
use crate::effect::{Effect, Limits, LogLevel};
use crate::engine::{Engine, PacketError};
use crate::options::DeviceOptions;
use crate::state::State;

/// The first version in which nodes tell what all of them have room for.
const PARTITION_CAPACITY: u16 = 112;
/// log2 of the largest bitmap block, 1 MiB, in units of 4 KiB (wire protocol, section 10.2).
const MAX_BLOCK_SHIFT: u8 = 8;

/// The smaller one of two sizes, where 0 means "not known".
pub(crate) fn min_not_zero(a: u64, b: u64) -> u64 {
    match (a, b) {
        (0, x) | (x, 0) => x,
        (a, b) => a.min(b),
    }
}

impl PeerSizes {
    /// Whether a peer whose disk was seen once has said how large that is. One that came without its disk has not
    /// (a deviation): the device must not outgrow a disk that is only detached.
    fn say_all(self, bitmap: bool) -> bool {
        self.known && (self.max_size != 0 || !bitmap)
    }
}

impl Engine {
    /// local max: what the own disk can offer, in sectors; 0 without disk.
    pub(crate) fn local_max(&self, v: VolumeNr) -> u64 {
        self.disk_ref(v)
            .filter(|d| d.loaded)
            .map_or(0, |d| match d.measured {
                Some((measured, geometry)) => geometry.attach_limit(measured.disk_bytes >> 9),
                None => d.meta.geometry.attach_limit(d.backing.disk_bytes >> 9),
            })
    }

    /// partition capacity (section 15.1).
    pub(crate) fn partition_capacity(&self, v: VolumeNr) -> u64 {
        self.conns
            .values()
            .filter_map(|c| c.peers.get(&v))
            .filter(|k| k.sizes.known)
            .fold(self.local_max(v), |m, k| min_not_zero(m, k.sizes.d_size))
    }

    /// new_size (section 15.3).
    pub(crate) fn new_size(&self, v: VolumeNr, user: u64) -> u64 {
        let la_size = self.disk_ref(v).map_or(0, |d| d.meta.sb.effective_size);
        let mut p = 0;
        let mut all_known = true;
        for (n, conn) in &self.conns {
            let Some(k) = conn.peers.get(&v) else {
                continue;
            };
            let seen = self
                .disk_ref(v)
                .is_some_and(|d| d.meta.peer(*n).flags.contains(PeerFlags::DEVICE_SEEN));
            if seen && !k.sizes.say_all(k.options.bitmap) {
                all_known = false;
            }
            p = min_not_zero(p, k.sizes.max_size);
        }
        let m = self.partition_capacity(v);
        p = if all_known {
            min_not_zero(p, m)
        } else {
            min_not_zero(p, la_size)
        };
        let size = min_not_zero(p, m);
        if user != 0 && user <= size {
            user
        } else {
            size
        }
    }

    pub(crate) fn user_size(&self, v: VolumeNr) -> u64 {
        self.disk_ref(v).map_or(0, |d| d.options.size)
    }

    /// The size of the device after an attach. `fresh`: no size was ever agreed.
    pub(crate) fn size_at_attach(&mut self, v: VolumeNr, fresh: bool) -> Result<(), String> {
        let size = self.new_size(v, self.user_size(v));
        let la_size = self.disk_ref(v).map_or(0, |d| d.meta.sb.effective_size);
        if size < la_size {
            return Err(format!(
                "the device would shrink from {la_size} to {size} sectors; resize it explicitly"
            ));
        }
        // A never-used disk starts all out of sync, in memory only (metadata, section 7.1).
        self.apply_size(v, size, Fill::Set)?;
        if let (true, Some(disk)) = (fresh, self.disk_mut(v)) {
            disk.bitmap.unmark_all();
        }
        Ok(())
    }

    fn apply_size(&mut self, v: VolumeNr, size: u64, fill: Fill) -> Result<(), String> {
        if !self.resize_bitmap(v, size, fill) {
            return Err("no memory for the bitmap".into());
        }
        let Some(volume) = self.volumes.get_mut(&v) else {
            return Ok(());
        };
        if volume.size != size {
            let old = volume.size;
            volume.size = size;
            self.log_at(
                LogLevel::Info,
                None,
                Some(v),
                format!("size = {} KB ({size} sectors), was {old}", size / 2),
            );
            self.publish_device(v);
            self.update_limits();
        }
        Ok(())
    }

    /// The size becomes fixed once data exist (section 15.3).
    pub(crate) fn maybe_persist_size(&mut self, v: VolumeNr) {
        let size = self.volumes.get(&v).map_or(0, |x| x.size);
        let any = self.state.disk(v) == DiskState::UpToDate
            || self
                .state
                .peers_of(v)
                .any(|(_, _, pd)| pd.pdisk == DiskState::UpToDate);
        let Some(disk) = self.disk_mut(v) else { return };
        if !disk.loaded || disk.meta.sb.effective_size == size || size == 0 {
            return;
        }
        if disk.meta.sb.effective_size != 0 || any {
            disk.meta.sb.effective_size = size;
            disk.bitmap.mark_all();
            self.data_bitmap_writeout(v);
            self.md_touch();
        }
    }

    /// "send sizes".
    pub(crate) fn send_sizes(&mut self, peer: NodeId, v: VolumeNr, dds_flags: u16) {
        self.send_sizes_as(peer, v, DdsFlags(dds_flags), None);
    }

    /// "send sizes", with another current size than there is.
    pub(crate) fn send_sizes_as(
        &mut self,
        peer: NodeId,
        v: VolumeNr,
        dds_flags: DdsFlags,
        c_size: Option<u64>,
    ) {
        let Some(volume) = self.volumes.get(&v) else {
            return;
        };
        let Some(conn) = self.conns.get(&peer) else {
            return;
        };
        if !conn.handshake.done() {
            return;
        }
        let attached = volume.disk.as_ref().filter(|d| d.loaded);
        let limits = conn.has(Features::WSAME).then(|| QueueLimits {
            physical_block_size: attached.map_or(512, |d| d.backing.physical_block),
            logical_block_size: attached.map_or(512, |d| d.backing.logical_block),
            alignment_offset: 0,
            io_min: attached.map_or(512, |d| d.backing.physical_block),
            io_opt: 0,
            discard_enabled: u8::from(attached.is_some_and(|d| d.backing.discard_granularity != 0)),
            discard_zeroes_data: 0,
            write_same_capable: 0,
            bm_block_shift: attached
                .filter(|_| conn.has(Features::BM_BLOCK_SHIFT))
                .map_or(0, |d| {
                    u8::try_from((d.meta.sb.block_size.bytes() >> 12).trailing_zeros()).unwrap_or(0)
                }),
        });
        let d_size = match attached {
            Some(_) if conn.apv() >= PARTITION_CAPACITY => self.partition_capacity(v),
            Some(_) => self.local_max(v),
            None => 0,
        };
        let sizes = Sizes {
            d_size: Sectors(d_size),
            u_size: Sectors(attached.map_or(0, |d| d.options.size)),
            c_size: Sectors(c_size.unwrap_or(volume.size)),
            max_bio_size: Bytes(volume.options.max_bio_size),
            queue_order_type: 0,
            dds_flags,
            limits,
        };
        self.send(peer, Stream::Data, v, Packet::Sizes(sizes));
    }

    /// P_SIZES (section 15.4).
    pub(crate) fn sizes_packet(
        &mut self,
        peer: NodeId,
        v: VolumeNr,
        sizes: &Sizes,
    ) -> Result<(), PacketError> {
        let conn = self.conns.get(&peer);
        let largest = max_request_size(conn.map_or(VERSION_MAX, |c| c.apv()));
        let knows_blocks = conn.is_some_and(|c| c.has(Features::BM_BLOCK_SHIFT));
        let own_block = self
            .disk_ref(v)
            .map_or(4096, |d| d.meta.sb.block_size.bytes());
        let Some(known) = self.peer_device_mut(peer, v) else {
            self.unknown_volume(peer, v);
            return Ok(());
        };
        let (d, u, c) = (sizes.d_size.0, sizes.u_size.0, sizes.c_size.0);
        known.sizes.known = true;
        known.sizes.d_size = d;
        known.sizes.u_size = u;
        known.sizes.c_size = c;
        if d != 0 {
            known.sizes.max_size = d;
        }
        known.sizes.max_bio = sizes.max_bio_size.0;
        if let Some(l) = sizes.limits {
            if knows_blocks && l.bm_block_shift > MAX_BLOCK_SHIFT {
                let text = format!(
                    "volume {v}: bitmap blocks of 2^{} KiB, the largest have 1024 KiB",
                    u32::from(l.bm_block_shift) + 2
                );
                return self.reject_sizes(peer, &text);
            }
            known.sizes.bm_block = if knows_blocks {
                4096 << l.bm_block_shift
            } else {
                4096
            };
            known.sizes.discard = l.discard_enabled != 0;
            known.sizes.logical_block = l.logical_block_size;
        }
        // What a bit stands for is asked for at once.
        if own_block > largest {
            let text = format!(
                "volume {v}: bitmap blocks of {own_block} bytes here, the peer's protocol has requests of {largest}"
            );
            return self.reject_sizes(peer, &text);
        }
        // No disk is that large: a node without one would believe it, and offer it to its users.
        let impossible = d.max(c) > MAX_DEVICE_SECTORS;
        if impossible || (d != 0 && c > d) || (u != 0 && c > u) {
            let text = format!("volume {v}: bogus sizes d_size={d} u_size={u} c_size={c}");
            return self.reject_sizes(peer, &text);
        }
        if self.disk_ref(v).is_some_and(|d| d.loaded) {
            if self.is_legacy(peer) && self.state.repl(peer, v) >= ReplState::Established {
                return self.legacy_sizes(peer, v, sizes.dds_flags);
            }
            self.sizes_with_disk(peer, v, u, c, sizes.dds_flags)
        } else {
            self.sizes_without_disk(peer, v, d, u, c)
        }
    }

    fn sizes_with_disk(
        &mut self,
        peer: NodeId,
        v: VolumeNr,
        u: u64,
        c: u64,
        dds_flags: DdsFlags,
    ) -> Result<(), PacketError> {
        let handshake = self.state.repl(peer, v) < ReplState::Established;
        let own_user = self.user_size(v);
        let user = min_not_zero(own_user, u);
        let current = self.volumes.get(&v).map_or(0, |x| x.size);
        let local_max = self.local_max(v);
        let la_size = self.disk_ref(v).map_or(0, |d| d.meta.sb.effective_size);
        let fresh = la_size == 0;
        let fits = c <= local_max && (user == 0 || c <= user);
        // A peer that is larger than what was agreed has seen room on all disks, perhaps on one that is not connected
        // here. The reference stays smaller, and the connection breaks when something is written behind its end.
        let size = match self.new_size(v, user) {
            size if size < c && fits && !fresh => c,
            size => size,
        };
        if size < current && self.state.disk(v) >= DiskState::Outdated && handshake {
            let text = format!(
                "volume {v}: the peer's disk size is too small! ({size} < {current} sectors)"
            );
            return self.reject_sizes(peer, &text);
        }
        if !handshake && local_max < c {
            let text =
                format!("volume {v}: the peer's device has {c} sectors, here fit {local_max}");
            return self.reject_sizes(peer, &text);
        }
        if let Some(disk) = self.disk_mut(v) {
            disk.options.size = user;
        }
        if !fresh && c != 0 && handshake {
            self.note_growth(peer, v, current, c, size);
        }
        if size == current {
            return Ok(());
        }
        if !fresh {
            self.resize_for_peer(v, size, dds_flags)?;
        } else {
            self.apply_size(v, size, Fill::Set)
                .map_err(PacketError::new)?;
            if let Some(disk) = self.disk_mut(v) {
                disk.bitmap.unmark_all();
            }
        }
        if current != 0 {
            let mut peers = self.connected_nodes();
            // This peer too, if it is about to connect: it may not see room on all disks.
            if !fresh {
                peers.insert(peer);
            }
            for n in peers.iter().collect::<Vec<_>>() {
                self.send_sizes(n, v, 0);
            }
        }
        Ok(())
    }

    /// The devices grow by what both have room for: what is in the new area is settled once they are connected.
    /// Both ends have to see the same, so the size with which the peer began the handshake counts; it may grow
    /// before this node does.
    fn note_growth(&mut self, peer: NodeId, v: VolumeNr, current: u64, theirs: u64, size: u64) {
        let Some(known) = self.peer_device_mut(peer, v) else {
            return;
        };
        if known.flags.first_size == 0 {
            known.flags.first_size = theirs;
        }
        let first = known.flags.first_size;
        let (own, peers) = (current < size, first < size);
        if (own || peers) && !known.flags.grew && !known.flags.peer_grew {
            known.flags.grew = own;
            known.flags.peer_grew = peers;
            known.flags.grow_from = current.min(first);
        }
    }

    fn sizes_without_disk(
        &mut self,
        peer: NodeId,
        v: VolumeNr,
        d: u64,
        u: u64,
        c: u64,
    ) -> Result<(), PacketError> {
        let size = min_not_zero(c, min_not_zero(u, d));
        let current = self.volumes.get(&v).map_or(0, |x| x.size);
        if size == 0 || size == current || (d == 0 && current != 0) {
            return Ok(());
        }
        if size < current && self.state.role == Role::Primary {
            let text =
                format!("volume {v}: the peer's device is smaller than mine; demote me first");
            return self.reject_sizes(peer, &text);
        }
        let smaller = self.conns.iter().any(|(n, c)| {
            *n != peer
                && c.peers
                    .get(&v)
                    .is_some_and(|k| k.sizes.known && k.sizes.d_size != 0 && k.sizes.d_size < size)
        });
        if smaller {
            return Ok(());
        }
        self.apply_size(v, size, Fill::Set)
            .map_err(PacketError::new)?;
        let peers: Vec<NodeId> = self
            .connected_nodes()
            .iter()
            .filter(|n| *n != peer)
            .collect();
        for n in peers {
            self.send_sizes(n, v, 0);
        }
        Ok(())
    }

    /// During a connect transaction the verdict is "disconnect"; else the connection ends.
    fn reject_sizes(&mut self, peer: NodeId, text: &str) -> Result<(), PacketError> {
        if self.state.cstate(peer) == ConnState::Connecting {
            self.log_at(LogLevel::Error, Some(peer), None, text);
            self.set_verdict(peer, RetCode::HANDSHAKE_DISCONNECT);
            return Ok(());
        }
        Err(PacketError::new(text))
    }

    /// Tells the driver what the virtual devices can take now, where that changed.
    pub(crate) fn update_limits(&mut self) {
        let state: State = self.state.clone();
        let volumes: Vec<VolumeNr> = self.volumes.keys().copied().collect();
        for v in volumes {
            let Some(volume) = self.volumes.get(&v) else {
                continue;
            };
            let known: Vec<_> = self
                .conns
                .iter()
                .filter(|(n, _)| state.cstate(**n) == ConnState::Connected)
                .filter_map(|(_, c)| c.peers.get(&v).map(|k| (c, k)))
                .collect();
            let backing = volume
                .disk
                .as_ref()
                .filter(|d| d.loaded)
                .map(|d| &d.backing);
            let logical = known
                .iter()
                .map(|(_, k)| k.sizes.logical_block)
                .chain(backing.map(|b| b.logical_block))
                .fold(volume.options.block_size.max(512), u32::max);
            let max_io = known
                .iter()
                .map(|(_, k)| k.sizes.max_bio)
                .filter(|m| *m != 0)
                .fold(volume.options.max_bio_size, u32::min)
                .clamp(logical.max(512), 1 << 20);
            let wsame = known.iter().all(|(c, _)| c.has(Features::WSAME));
            let max_discard = match wsame {
                true => MAX_DISCARD_SIZE,
                false => MAX_DISCARD_SIZE_LEGACY,
            };
            let granularity = discard_granularity(&volume.options, backing)
                .filter(|size| *size <= max_discard)
                .filter(|_| known.iter().all(|(c, _)| c.has(Features::TRIM)));
            let zeroes = known.iter().all(|(c, _)| c.has(Features::WZEROES));
            let limits = Limits {
                sectors: self.shown_size(v, volume.size),
                logical_block: logical,
                physical_block: backing.map_or(4096, |b| b.physical_block.max(logical)),
                max_io,
                max_discard: granularity.map_or(0, |_| max_discard),
                discard_granularity: granularity.unwrap_or(0),
                max_write_zeroes: if zeroes { MAX_DISCARD_SIZE } else { 0 },
                volatile_cache: backing.is_none_or(|b| b.volatile_cache),
                writable: state.role == Role::Primary,
            };
            if self.limits.get(&v) != Some(&limits) {
                self.limits.insert(v, limits);
                self.push(Effect::Limits { volume: v, limits });
            }
        }
    }
}

/// Granularity of discards in bytes; `None`: the virtual device takes none (data path, section 23.2). A configured one
/// holds also for a backing device that cannot discard: it writes zeroes.
fn discard_granularity(options: &DeviceOptions, backing: Option<&Backing>) -> Option<u32> {
    let below = backing.map(|b| b.discard_granularity);
    match options.discard_granularity {
        Some(0) => None,
        Some(size) => Some(size.max(below.unwrap_or(0))),
        None if below == Some(0) => None,
        None => Some(below.unwrap_or(0).max(512)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detached_disk_has_an_unknown_size() {
        let absent = PeerSizes::default();
        let detached = PeerSizes {
            known: true,
            ..absent
        };
        let attached = PeerSizes {
            max_size: 8192,
            ..detached
        };
        assert!(!absent.say_all(true) && !detached.say_all(true));
        assert!(attached.say_all(true));
        assert!(detached.say_all(false), "a client has no disk");
    }
}
