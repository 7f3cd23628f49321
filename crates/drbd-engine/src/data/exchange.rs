//! Two nodes merge their bitmaps before a resync (data path, section 14.6; wire protocol, section 19).
//!
//! The source sends first. The target merges, answers with the merged bitmap and starts; the source merges
//! and starts. A bitmap goes out in one go, because nothing else may be on the stream meanwhile.

use alloc::format;
use alloc::vec::Vec;

use drbd_proto::packet::{BitmapWords, CompressedBitmap};
use drbd_proto::{NodeId, Packet, ReplState, Stream, VolumeNr};

use crate::bitmap::Slot;
use crate::engine::{Engine, PacketError};

/// Progress of the bitmap that is being received.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    /// Wire bits received.
    position: u64,
    /// All of it is here; what follows from it waits for the replication state.
    pub(crate) complete: bool,
}

impl Engine {
    /// Forgets a half received bitmap.
    pub(crate) fn reset_exchange(&mut self, peer: NodeId, volume: VolumeNr) {
        if let Some(pd) = self
            .conns
            .get_mut(&peer)
            .and_then(|c| c.peers.get_mut(&volume))
        {
            pd.data.exchange = Exchange::default();
        }
    }

    /// This node is to be the source: what is under way goes into the bitmap, then the bitmap goes out
    /// (state machine, section 9.1).
    pub(crate) fn start_exchange_as_source(&mut self, peer: NodeId, volume: VolumeNr) {
        self.mark_writes_under_way(peer, volume);
        self.mark_received_writes(volume);
        self.send_bitmap(peer, volume);
        self.exchange_progress(peer, volume);
    }

    /// Marks the writes that a peer may lack (data path, section 7.6).
    fn mark_writes_under_way(&mut self, peer: NodeId, volume: VolumeNr) {
        let Some(slot) = self.slot_of(peer, volume) else {
            return;
        };
        let Some(disk) = self.volumes.get_mut(&volume).and_then(|v| v.disk.as_mut()) else {
            return;
        };
        for id in &self.data.log {
            let Some(req) = self.data.requests.get(id) else {
                continue;
            };
            if req.volume == volume && !req.ok.contains(peer) {
                disk.bitmap.set(slot, req.sector, req.len);
            }
        }
    }

    /// Sends the bitmap of a peer's slot (wire protocol, section 19.2).
    fn send_bitmap(&mut self, peer: NodeId, volume: VolumeNr) {
        let Some(conn) = self.conns.get(&peer) else {
            return;
        };
        let (ctx, rle) = (conn.ctx, conn.options.use_rle && conn.apv() >= 90);
        let slot = self.slot_of(peer, volume);
        let disk = self.volumes.get(&volume).and_then(|v| v.disk.as_ref());
        let (Some(slot), Some(disk)) = (slot, disk) else {
            self.fail_connection(
                peer,
                drbd_proto::ConnState::Disconnecting,
                "a bitmap is wanted, but there is no disk or no slot for this peer",
            );
            return;
        };
        let bitmap = &disk.bitmap;
        // Coarse bitmaps always go compressed: see wire protocol, section 19.3.
        let rle = rle || (bitmap.block_size() > 4096 && ctx.version >= 90);
        let total = bitmap.wire_bits();
        let max_plain = ctx.max_bitmap_payload() as usize / 8;
        let mut packets: Vec<Packet> = Vec::new();
        let mut at = 0;
        let mut plain = true;
        while at < total {
            let runs = if rle {
                compress(bitmap, slot, at, &ctx)
            } else {
                None
            };
            let words_left = bitmap.wire_words() - at / 64;
            let plain_bytes = (words_left as usize).min(max_plain) * 8;
            match runs {
                // Worth it only if it is shorter than the words it stands for.
                Some((packet, covered))
                    if bitmap.block_size() > 4096
                        || (packet.code.len() as u64) * 8 <= covered
                        || packet.code.len() < plain_bytes =>
                {
                    at += covered;
                    packets.push(Packet::CompressedBitmap(packet));
                    plain = false;
                }
                _ => {
                    let first = at / 64;
                    let mut bytes = Vec::with_capacity(plain_bytes);
                    for index in first..first + plain_bytes as u64 / 8 {
                        bytes.extend_from_slice(&bitmap.wire_word(slot, index).to_le_bytes());
                    }
                    at = ((first + plain_bytes as u64 / 8) * 64).min(total);
                    packets.push(Packet::Bitmap(BitmapWords { bytes }));
                    plain = true;
                }
            }
        }
        if plain {
            packets.push(Packet::Bitmap(BitmapWords { bytes: Vec::new() }));
        }
        for packet in packets {
            self.send(peer, Stream::Data, volume, packet);
        }
    }

    /// P_BITMAP: plain words, or the end.
    ///
    /// # Errors
    /// There is no slot for this peer, or the length does not fit.
    pub(crate) fn got_bitmap(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        words: BitmapWords,
    ) -> Result<(), PacketError> {
        let slot = self.bitmap_slot(peer, volume)?;
        let conn = self.conns.get(&peer);
        let max = conn.map_or(0, |c| u64::from(c.ctx.max_bitmap_payload())) / 8;
        let position = self.exchange_position(peer, volume);
        let Some(disk) = self.volumes.get_mut(&volume).and_then(|v| v.disk.as_mut()) else {
            return Ok(());
        };
        let total = disk.bitmap.wire_bits();
        let first = position / 64;
        // At the end all words are received, whatever the position within the last one is.
        let left = if position >= total {
            0
        } else {
            disk.bitmap.wire_words() - first
        };
        let due = left.min(max);
        if words.bytes.len() as u64 != due * 8 {
            return Err(PacketError::new(format!(
                "bitmap: {} bytes where {} are due",
                words.bytes.len(),
                due * 8
            )));
        }
        if due == 0 {
            return self.bitmap_complete(peer, volume);
        }
        let content = words
            .bytes
            .chunks_exact(8)
            .map(|word| word.try_into().map_or(0, u64::from_le_bytes));
        disk.bitmap
            .merge_words(slot, first, content)
            .map_err(|error| PacketError::new(format!("{error}")))?;
        self.set_exchange_position(peer, volume, ((first + due) * 64).min(total));
        Ok(())
    }

    /// P_COMPRESSED_BITMAP.
    ///
    /// # Errors
    /// There is no slot for this peer, or the runs do not fit.
    pub(crate) fn got_compressed_bitmap(
        &mut self,
        peer: NodeId,
        volume: VolumeNr,
        packet: CompressedBitmap,
    ) -> Result<(), PacketError> {
        let slot = self.bitmap_slot(peer, volume)?;
        let position = self.exchange_position(peer, volume);
        let Some(disk) = self.volumes.get_mut(&volume).and_then(|v| v.disk.as_mut()) else {
            return Ok(());
        };
        let total = disk.bitmap.wire_bits();
        let mut runs = packet.runs(position, total);
        for run in runs.by_ref() {
            let run = run.map_err(|error| PacketError::new(format!("bitmap: {error}")))?;
            if run.set {
                disk.bitmap
                    .merge_run(slot, run.start, run.len)
                    .map_err(|error| PacketError::new(format!("{error}")))?;
            }
        }
        let end = runs.position();
        self.set_exchange_position(peer, volume, end);
        if end >= total {
            return self.bitmap_complete(peer, volume);
        }
        Ok(())
    }

    fn bitmap_slot(&self, peer: NodeId, volume: VolumeNr) -> Result<Slot, PacketError> {
        self.slot_of(peer, volume).ok_or_else(|| {
            PacketError::new(format!(
                "bitmap for volume {volume}, which has no slot for this peer"
            ))
        })
    }

    fn exchange_position(&self, peer: NodeId, volume: VolumeNr) -> u64 {
        let pd = self.conns.get(&peer).and_then(|c| c.peers.get(&volume));
        pd.map_or(0, |pd| pd.data.exchange.position)
    }

    fn set_exchange_position(&mut self, peer: NodeId, volume: VolumeNr, position: u64) {
        if let Some(pd) = self
            .conns
            .get_mut(&peer)
            .and_then(|c| c.peers.get_mut(&volume))
        {
            pd.data.exchange.position = position;
        }
    }

    /// The whole bitmap of the peer is merged.
    fn bitmap_complete(&mut self, peer: NodeId, volume: VolumeNr) -> Result<(), PacketError> {
        if let Some(pd) = self
            .conns
            .get_mut(&peer)
            .and_then(|c| c.peers.get_mut(&volume))
        {
            pd.data.exchange = Exchange {
                position: 0,
                complete: true,
            };
        }
        self.resync_bits_changed(volume);
        self.exchange_progress(peer, volume);
        Ok(())
    }

    /// Goes on with the exchange if both the peer's bitmap and the replication state are there.
    pub(crate) fn exchange_progress(&mut self, peer: NodeId, volume: VolumeNr) {
        let repl = self.state.repl(peer, volume);
        let Some(pd) = self
            .conns
            .get_mut(&peer)
            .and_then(|c| c.peers.get_mut(&volume))
        else {
            return;
        };
        if !pd.data.exchange.complete {
            return;
        }
        match repl {
            ReplState::WFBitMapT => {
                pd.data.exchange.complete = false;
                self.send_bitmap(peer, volume);
                self.resync_start(peer, volume);
            }
            ReplState::WFBitMapS => {
                pd.data.exchange.complete = false;
                self.resync_start(peer, volume);
            }
            // A second bitmap after the resync was started is ignored.
            repl if repl > ReplState::WFBitMapT => pd.data.exchange.complete = false,
            _ => {}
        }
    }
}

/// A packet of runs from wire bit `at` on, and how many bits it covers.
pub(super) fn compress(
    bitmap: &crate::bitmap::Bitmap,
    slot: Slot,
    at: u64,
    ctx: &drbd_proto::Ctx,
) -> Option<(CompressedBitmap, u64)> {
    let mut runs = bitmap.wire_runs(slot, at).peekable();
    let first_set = runs.peek()?.set;
    let mut encoder = CompressedBitmap::encoder(ctx, first_set);
    for run in runs {
        if !encoder.push(run.len) {
            break;
        }
    }
    let covered = encoder.covered();
    Some((encoder.finish()?, covered))
}
