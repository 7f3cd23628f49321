//! Carrying out what the engine wants.

use std::sync::Arc;

use drbd_engine::status::Object;
use drbd_engine::{DiskError, Effect, Event, LogLevel, LogLine, OpId, OpOutput, Reply};
use drbd_proto::{NodeId, VolumeNr};

use super::{Observed, Reactor, WaitingRead};
use crate::backing::{Backing, Device, Finished, Output, plan};
use crate::frontend::Notice;
use crate::pool::Purpose;

/// A finished disk operation as the engine hears of it.
pub(super) fn done(finished: Finished) -> Event {
    let result = finished.result.map(|output| match output {
        Output::Nothing => OpOutput::Nothing,
        Output::Data(buf) => OpOutput::Buf(buf.into_id()),
        Output::Bytes(bytes) => OpOutput::Bytes(bytes),
    });
    Event::Done {
        op: finished.op,
        result,
    }
}

impl Reactor {
    pub(super) fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::DiskWrite {
                op,
                volume,
                sector,
                len,
                buf,
                preflush,
                fua,
            } => {
                let place = self.data_device(volume).zip(sector.byte_offset());
                match (place, self.pool.get(buf)) {
                    (Some((device, offset)), Some(buf)) if buf.len() >= len as usize => {
                        self.disks
                            .write(op, &device, offset, buf, len as usize, preflush, fua);
                    }
                    _ => self.fail(op, DiskError::Io),
                }
            }
            Effect::Send {
                peer,
                stream,
                volume,
                packet,
                payload,
                notify,
            } => {
                let payload = payload.and_then(|id| self.pool.get(id));
                self.with_tcp(|tcp, cx| {
                    tcp.send(cx, peer, stream, volume, packet, payload, notify)
                });
            }
            Effect::CompleteIo { io, result, data } => {
                let data = data.and_then(|id| self.pool.get(id));
                self.complete_io(io, result, data);
            }
            Effect::Release { buf } => {
                if self.pool.reclaim(buf).is_none() {
                    tracing::error!(
                        "{}: buffer {:#x} released twice",
                        self.head(None, None),
                        buf.0
                    );
                }
            }
            Effect::DiskRead {
                op,
                volume,
                sector,
                len,
            } => match sector.byte_offset() {
                Some(offset) => {
                    let read = WaitingRead {
                        op,
                        volume,
                        offset,
                        len,
                    };
                    if !self.waiting_reads.is_empty() || !self.start_read(&read) {
                        self.waiting_reads.push_back(read);
                    }
                }
                None => self.fail(op, DiskError::Io),
            },
            Effect::DiskFlush { op, volume } => match self.data_device(volume) {
                Some(device) => self.disks.flush(op, &device),
                None => self.fail(op, DiskError::Io),
            },
            Effect::DiskDiscard {
                op,
                volume,
                sector,
                len,
                kind,
            } => match self.data_device(volume).zip(sector.byte_offset()) {
                Some((device, offset)) => {
                    let pieces = plan(&device, offset, u64::from(len), kind.trim, kind.zero);
                    self.disks.discard(op, &device, pieces);
                }
                None => self.fail(op, DiskError::Io),
            },
            Effect::MetaRead {
                op,
                volume,
                offset,
                len,
            } => match self.meta_device(volume) {
                Some(device) => self.disks.meta_read(op, &device, offset, len),
                None => self.fail(op, DiskError::Io),
            },
            Effect::MetaWrite {
                op,
                volume,
                blocks,
                barrier,
            } => match self.meta_device(volume) {
                Some(device) => self.disks.meta_write(op, &device, blocks, barrier),
                None => self.fail(op, DiskError::Io),
            },
            Effect::Measure { op, volume } => {
                let backing = self.volumes.get(&volume).and_then(|v| v.backing.as_ref());
                let result = match backing.map(Backing::sizes) {
                    Some(Ok((disk_bytes, meta_bytes))) => Ok(OpOutput::Sizes {
                        disk_bytes,
                        meta_bytes,
                    }),
                    _ => Err(DiskError::Io),
                };
                self.events.push_back(Event::Done { op, result });
            }
            Effect::Digest { op, buf, algorithm } => {
                let result = match self.pool.get(buf) {
                    Some(buf) => Ok(OpOutput::Digest(algorithm.digest(&buf).as_bytes().to_vec())),
                    None => Err(DiskError::Io),
                };
                self.events.push_back(Event::Done { op, result });
            }
            Effect::IsZero { op, buf } => {
                let result = match self.pool.get(buf) {
                    Some(buf) => Ok(OpOutput::Zero(is_zero(&buf))),
                    None => Err(DiskError::Io),
                };
                self.events.push_back(Event::Done { op, result });
            }
            Effect::OpenDone { open, result } => self.open_done(open, result),
            Effect::Detach { volume } => {
                if let Some(slot) = self.volumes.get_mut(&volume) {
                    slot.backing = None;
                }
            }
            Effect::Connect {
                peer,
                paths,
                options,
            } => {
                if let Some(path) = paths.first() {
                    self.paths.insert(peer, *path);
                }
                self.with_tcp(|tcp, cx| tcp.connect(cx, peer, paths, options));
            }
            Effect::Close { peer } => self.with_tcp(|tcp, cx| tcp.close(cx, peer)),
            Effect::Framing {
                peer,
                context,
                integrity,
            } => self.tcp.framing(peer, context, integrity),
            Effect::Upcall {
                op,
                handler,
                about,
                facts,
            } => self.call(op, handler, about, facts),
            Effect::Reply { cmd, reply } => self.answer(cmd, reply),
            Effect::Changed(mut change) => {
                if let Object::Connection {
                    peer,
                    info: Some(info),
                } = &mut change.object
                {
                    info.congested = self.tcp.is_congested(*peer);
                }
                self.observe(&Observed::Change {
                    resource: self.names.resource().clone(),
                    change,
                });
            }
            Effect::Limits { volume, limits } => {
                if let Some(slot) = self.volumes.get_mut(&volume) {
                    slot.limits = limits;
                    slot.handle.set_limits(limits);
                    self.notify_volume(volume, || Notice::Limits(limits));
                }
            }
            Effect::ResyncFacts { volume, facts } => self.resyncs.update(volume, facts),
            Effect::Log(line) => self.log(&line),
        }
    }

    fn answer(&mut self, cmd: drbd_engine::CmdId, reply: Reply) {
        let Some(pending) = self.commands.remove(&cmd) else {
            return;
        };
        if let (Some(volume), false) = (pending.attach, reply.is_ok())
            && let Some(slot) = self.volumes.get_mut(&volume)
        {
            slot.backing = None;
        }
        let _ = pending.reply.send(reply);
    }

    /// Starts a read; `false`: there is no buffer.
    pub(super) fn start_read(&mut self, read: &WaitingRead) -> bool {
        let Some(device) = self.data_device(read.volume) else {
            self.fail(read.op, DiskError::Io);
            return true;
        };
        let mut buf = self.pool.alloc(read.len as usize, Purpose::Internal);
        if buf.is_none() && read.len as usize <= crate::pool::MAX_LEN {
            // A buffer released between the two attempts wakes nobody.
            self.pool.wake_on_release(self.wake.clone());
            buf = self.pool.alloc(read.len as usize, Purpose::Internal);
        } else if buf.is_none() {
            self.fail(read.op, DiskError::Io);
            return true;
        }
        let Some(buf) = buf else { return false };
        self.disks.read(read.op, &device, read.offset, buf);
        true
    }

    fn data_device(&self, volume: VolumeNr) -> Option<Arc<Device>> {
        Some(self.volumes.get(&volume)?.backing.as_ref()?.data.clone())
    }

    fn meta_device(&self, volume: VolumeNr) -> Option<Arc<Device>> {
        Some(self.volumes.get(&volume)?.backing.as_ref()?.meta.clone())
    }

    fn fail(&mut self, op: OpId, error: DiskError) {
        self.events.push_back(Event::Done {
            op,
            result: Err(error),
        });
    }

    /// What a log line about a volume, a peer, or both begins with.
    pub(super) fn head(&self, volume: Option<VolumeNr>, peer: Option<NodeId>) -> String {
        let minor = |volume| {
            let slot = self.volumes.get(&volume)?;
            Some(slot.handle.volume().minor)
        };
        let volume = volume.map(|volume| (volume, minor(volume)));
        self.names.head(volume, peer)
    }

    fn log(&self, line: &LogLine) {
        let head = self.head(line.volume, line.peer);
        let text = &line.text;
        match line.level {
            LogLevel::Debug => tracing::debug!("{head}: {text}"),
            LogLevel::Info => tracing::info!("{head}: {text}"),
            LogLevel::Warn => tracing::warn!("{head}: {text}"),
            LogLevel::Error => tracing::error!("{head}: {text}"),
        }
    }
}

/// Whether all bytes are zero. Reads no further than the first page that is not.
fn is_zero(data: &[u8]) -> bool {
    let zero = |page: &[u8]| page.iter().fold(0, |all, byte| all | byte) == 0;
    data.chunks(4096).all(zero)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroes_are_told_from_data() {
        assert!(is_zero(&[]));
        let mut data = vec![0; 3 * 4096 + 512];
        assert!(is_zero(&data));
        for at in [0, 511, 4095, 4096, 2 * 4096 + 7, data.len() - 1] {
            data[at] = 1;
            assert!(!is_zero(&data), "{at}");
            data[at] = 0;
        }
    }
}
