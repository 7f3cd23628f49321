//! From bytes to packets: header, fixed part, payload.
//!
//! Bytes arrive in a staging area, where headers and fixed parts are decoded. Of a payload only what lies in the
//! staging area already is copied; the rest is received straight into the pool buffer, followed by the
//! next staging area in the same operation.

use drbd_proto::header::Header;
use drbd_proto::packet::Scope;
use drbd_proto::{Ctx, DecodeError, DigestAlg, DigestValue, Packet, Stream, VolumeNr};

use crate::pool::{Buf, BufMut, Pool, Purpose};
use crate::ring::{Memory, Part};

/// Size of the staging area in bytes: many small packets come with one operation.
const STAGING: usize = 128 << 10;
/// How much of it is used behind a payload longer than [`LARGE`]: the next one is long, too, and must not be copied.
const STAGING_BEHIND_LARGE: usize = 4 << 10;
/// Length from which a payload counts as large, in bytes.
const LARGE: usize = 64 << 10;
/// Bytes of a large payload that are waited for together at most.
const LOW_WATER: usize = 256 << 10;

/// What can be had from the bytes so far.
#[derive(Debug)]
pub(super) enum Step {
    /// A packet.
    Packet {
        volume: VolumeNr,
        packet: Packet,
        payload: Option<Buf>,
    },
    /// More bytes are needed.
    NeedBytes,
    /// A buffer is needed, and the pool has none.
    NeedBuffer,
}

/// What came in makes no sense.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReceiveError {
    #[error("{0}")]
    Decode(#[from] DecodeError),
    #[error("the integrity digest of {packet} for sector {sector} does not match its data")]
    Integrity {
        packet: drbd_proto::Cmd,
        sector: u64,
    },
    #[error(
        "{packet} with {bytes} bytes of data: no more than {} are possible",
        crate::pool::MAX_LEN
    )]
    TooLong { packet: drbd_proto::Cmd, bytes: u32 },
}

/// A packet whose payload is not complete.
#[derive(Debug)]
struct Partial {
    volume: VolumeNr,
    packet: Packet,
    len: usize,
    filled: usize,
    /// `None` while the pool has none, and while an operation fills it.
    buf: Option<BufMut>,
}

/// The receiving half of a stream.
#[derive(Debug)]
pub(super) struct Receiver {
    stream: Stream,
    /// Empty while an operation fills it.
    staging: Vec<u8>,
    start: usize,
    end: usize,
    partial: Option<Partial>,
    receiving: bool,
    /// Nothing more can be had from what was received.
    hungry: bool,
}

/// The digest a data packet carries, and the sector it is about.
pub(super) fn digest_of(packet: &mut Packet) -> Option<(&mut DigestValue, u64)> {
    match packet {
        Packet::Data(data) => Some((&mut data.digest, data.sector.0)),
        Packet::DataReply(reply) | Packet::RsDataReply(reply) => {
            Some((&mut reply.digest, reply.sector.0))
        }
        _ => None,
    }
}

impl Receiver {
    pub(super) fn new(stream: Stream) -> Receiver {
        Receiver {
            stream,
            staging: vec![0; STAGING],
            start: 0,
            end: 0,
            partial: None,
            receiving: false,
            hungry: true,
        }
    }

    /// Memory for the next receive operation; `None` if one is under way, nothing more is wanted now, or there are
    /// packets in what was received.
    pub(super) fn parts(&mut self, mut parts: Vec<Part>) -> Option<Vec<Part>> {
        if self.receiving || !self.hungry {
            return None;
        }
        parts.clear();
        let mut ahead = STAGING;
        if let Some(partial) = &mut self.partial {
            let (at, len) = (partial.filled, partial.len.saturating_sub(partial.filled));
            let buf = partial.buf.take()?;
            if partial.len > LARGE {
                ahead = STAGING_BEHIND_LARGE;
            }
            parts.push(Part {
                memory: Memory::Fill(buf),
                at,
                len,
            });
        }
        // What is left is less than a header and a fixed part, so there is always room.
        self.staging.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let at = self.end;
        let staging = std::mem::take(&mut self.staging);
        // Nothing is left in front of an incomplete payload.
        let len = staging.len().min(ahead).saturating_sub(at);
        parts.push(Part {
            memory: Memory::Bytes(staging),
            at,
            len,
        });
        self.receiving = true;
        Some(parts)
    }

    /// How many bytes shall be there before it is worth waking up, at least 1: a part of the large payload that comes
    /// in. Never more than what is missing of it.
    pub(super) fn low_water(&self) -> usize {
        let missing = self.partial.as_ref().map_or(0, |p| p.len - p.filled);
        if missing > LARGE {
            missing.min(LOW_WATER)
        } else {
            1
        }
    }

    /// The operation has ended after `received` bytes.
    pub(super) fn received(&mut self, parts: &mut Vec<Part>, received: usize) {
        self.receiving = false;
        self.hungry = false;
        let mut received = received;
        for part in parts.drain(..) {
            let here = received.min(part.len);
            received -= here;
            match part.memory {
                Memory::Fill(buf) => {
                    if let Some(partial) = &mut self.partial {
                        partial.filled += here;
                        partial.buf = Some(buf);
                    }
                }
                Memory::Bytes(staging) => {
                    self.staging = staging;
                    self.end += here;
                }
                Memory::Shared(_) => {}
            }
        }
    }

    /// The next packet, if all of it is here.
    pub(super) fn next(
        &mut self,
        ctx: &Ctx,
        integrity: Option<DigestAlg>,
        pool: &Pool,
    ) -> Result<Step, ReceiveError> {
        let step = self.step(ctx, integrity, pool);
        self.hungry = matches!(step, Ok(Step::NeedBytes));
        step
    }

    fn step(
        &mut self,
        ctx: &Ctx,
        integrity: Option<DigestAlg>,
        pool: &Pool,
    ) -> Result<Step, ReceiveError> {
        if self.receiving {
            return Ok(Step::NeedBytes);
        }
        if self.partial.is_none() {
            let bytes = self.staging.get(self.start..self.end).unwrap_or(&[]);
            let Some((header, used)) = Header::parse(ctx.version, self.stream, bytes)? else {
                return Ok(Step::NeedBytes);
            };
            let fixed = Packet::fixed_len(ctx, self.stream, &header)?;
            let Some(body) = bytes.get(used..used + fixed) else {
                return Ok(Step::NeedBytes);
            };
            let packet = Packet::decode(ctx, &header, body)?;
            self.start += used + fixed;
            let volume = match packet.cmd().scope() {
                Scope::Connection => VolumeNr::CONNECTION,
                _ => header.volume,
            };
            let bytes = packet.payload_len();
            if bytes == 0 {
                return Ok(Step::Packet {
                    volume,
                    packet,
                    payload: None,
                });
            }
            let len = bytes as usize;
            if len > crate::pool::MAX_LEN {
                return Err(ReceiveError::TooLong {
                    packet: packet.cmd(),
                    bytes,
                });
            }
            self.partial = Some(Partial {
                volume,
                packet,
                len,
                filled: 0,
                buf: None,
            });
        }
        let Some(partial) = &mut self.partial else {
            return Ok(Step::NeedBytes);
        };
        let buf = match &mut partial.buf {
            Some(buf) => buf,
            empty => match pool.alloc(partial.len, Purpose::Internal) {
                Some(buf) => empty.insert(buf),
                None => return Ok(Step::NeedBuffer),
            },
        };
        let here = self.staging.get(self.start..self.end).unwrap_or(&[]);
        let wanted = buf.get_mut(partial.filled..).unwrap_or(&mut []);
        let count = here.len().min(wanted.len());
        if let (Some(to), Some(from)) = (wanted.get_mut(..count), here.get(..count)) {
            to.copy_from_slice(from);
        }
        self.start += count;
        partial.filled += count;
        if partial.filled < partial.len {
            return Ok(Step::NeedBytes);
        }
        let Some(Partial {
            volume,
            mut packet,
            buf: Some(buf),
            ..
        }) = self.partial.take()
        else {
            return Ok(Step::NeedBytes);
        };
        let cmd = packet.cmd();
        if let (Some(alg), Some((digest, sector))) = (integrity, digest_of(&mut packet))
            && !alg.digest(&buf).ct_eq(digest)
        {
            return Err(ReceiveError::Integrity {
                packet: cmd,
                sector,
            });
        }
        Ok(Step::Packet {
            volume,
            packet,
            payload: Some(buf.freeze()),
        })
    }
}

#[cfg(test)]
mod tests {
    use drbd_proto::packet::{BlockAck, Data};
    use drbd_proto::{BlockId, Bytes, DpFlags, Features, Sector};

    use super::*;

    fn data(len: u32, digest: DigestValue) -> Packet {
        Packet::Data(Data {
            sector: Sector(8),
            block_id: BlockId(77),
            seq_num: 1,
            dp_flags: DpFlags::NONE,
            size: Bytes(len),
            digest,
        })
    }

    fn ack() -> Packet {
        Packet::WriteAck(BlockAck {
            sector: Sector(8),
            block_id: BlockId(77),
            size: Bytes(4096),
            seq_num: 1,
        })
    }

    /// Puts `wire` through a receiver in pieces of `piece` bytes and gives the packets.
    fn feed(
        receiver: &mut Receiver,
        wire: &[u8],
        piece: usize,
        ctx: &Ctx,
        alg: Option<DigestAlg>,
        pool: &Pool,
    ) -> Result<Vec<(Packet, Vec<u8>)>, ReceiveError> {
        let mut wire = wire;
        let mut out = Vec::new();
        loop {
            match receiver.next(ctx, alg, pool)? {
                Step::Packet {
                    packet, payload, ..
                } => {
                    out.push((packet, payload.map(|b| b.to_vec()).unwrap_or_default()));
                    continue;
                }
                Step::NeedBuffer => panic!("the pool is large enough"),
                Step::NeedBytes => {}
            }
            if wire.is_empty() {
                return Ok(out);
            }
            let mut parts = receiver
                .parts(Vec::new())
                .expect("no operation is under way");
            let room: usize = parts.iter().map(|p| p.len).sum();
            let mut now = wire.len().min(piece).min(room);
            let total = now;
            for part in &mut parts {
                let n = now.min(part.len);
                let (from, rest) = wire.split_at(n);
                match &mut part.memory {
                    Memory::Bytes(b) => b[part.at..part.at + n].copy_from_slice(from),
                    Memory::Fill(b) => b[part.at..part.at + n].copy_from_slice(from),
                    Memory::Shared(_) => panic!("shared memory must not be written"),
                }
                wire = rest;
                now -= n;
            }
            assert!(
                receiver.parts(Vec::new()).is_none(),
                "only one operation at a time"
            );
            receiver.received(&mut parts, total);
        }
    }

    #[test]
    fn packets_in_any_pieces() {
        let pool = Pool::new(16 << 20);
        let alg = DigestAlg::Crc32c;
        for integrity in [None, Some(alg)] {
            let ctx = Ctx::new(124, Features::ALL).with_integrity_len(if integrity.is_some() {
                4
            } else {
                0
            });
            let mut wire = Vec::new();
            let mut expected = Vec::new();
            for len in [512u32, 4096, 65536, 1 << 20, 4096] {
                let payload: Vec<u8> = (0..len).map(|n| (n / 3) as u8).collect();
                let digest = if integrity.is_some() {
                    alg.digest(&payload)
                } else {
                    DigestValue::EMPTY
                };
                let packet = data(len, digest);
                packet.encode(&ctx, VolumeNr::ZERO, &mut wire).unwrap();
                wire.extend_from_slice(&payload);
                expected.push((packet, payload));
                Packet::UnplugRemote
                    .encode(&ctx, VolumeNr::CONNECTION, &mut wire)
                    .unwrap();
                expected.push((Packet::UnplugRemote, Vec::new()));
            }
            for piece in [1usize << 30, 100_000, 4096, 1000, 61] {
                let mut receiver = Receiver::new(Stream::Data);
                let got = feed(&mut receiver, &wire, piece, &ctx, integrity, &pool).unwrap();
                assert!(got == expected, "pieces of {piece} bytes");
            }
        }
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn a_wrong_digest_is_noticed() {
        let pool = Pool::new(16 << 20);
        let ctx = Ctx::new(124, Features::ALL).with_integrity_len(4);
        let mut wire = Vec::new();
        data(4096, DigestAlg::Crc32c.digest(&[1; 4096]))
            .encode(&ctx, VolumeNr::ZERO, &mut wire)
            .unwrap();
        wire.extend_from_slice(&[2; 4096]);
        let result = feed(
            &mut Receiver::new(Stream::Data),
            &wire,
            999,
            &ctx,
            Some(DigestAlg::Crc32c),
            &pool,
        );
        assert!(matches!(
            result,
            Err(ReceiveError::Integrity { sector: 8, .. })
        ));
    }

    #[test]
    fn garbage_and_strays_are_refused() {
        let pool = Pool::new(16 << 20);
        let ctx = Ctx::new(124, Features::ALL);
        let mut wrong_stream = Vec::new();
        ack()
            .encode(&ctx, VolumeNr::ZERO, &mut wrong_stream)
            .unwrap();
        let mut too_long = vec![
            0x86, 0x20, 0xec, 0x20, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0,
        ];
        too_long.extend_from_slice(&[0; 64]);
        for wire in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            &wrong_stream,
            &too_long,
            &[
                0x86, 0x20, 0xec, 0x20, 0, 0, 0, 0x13, 0, 0, 0, 0, 0, 0, 0, 1,
            ],
        ] {
            let result = feed(
                &mut Receiver::new(Stream::Data),
                wire,
                1 << 20,
                &ctx,
                None,
                &pool,
            );
            assert!(matches!(result, Err(ReceiveError::Decode(_))), "{result:?}");
        }
        let got = feed(
            &mut Receiver::new(Stream::Control),
            &wrong_stream,
            7,
            &ctx,
            None,
            &pool,
        )
        .unwrap();
        assert_eq!(got.len(), 1, "on its own stream it is welcome");
    }

    /// Otherwise the rest would wait for bytes that nobody sends.
    #[test]
    fn what_is_here_comes_before_more_is_received() {
        let pool = Pool::new(4 << 20);
        let ctx = Ctx::new(124, Features::ALL);
        let mut wire = Vec::new();
        for _ in 0..2 {
            ack().encode(&ctx, VolumeNr::ZERO, &mut wire).unwrap();
        }
        let mut receiver = Receiver::new(Stream::Control);
        let mut parts = receiver.parts(Vec::new()).unwrap();
        let Memory::Bytes(staging) = &mut parts[0].memory else {
            panic!()
        };
        staging[..wire.len()].copy_from_slice(&wire);
        receiver.received(&mut parts, wire.len());
        for _ in 0..2 {
            assert!(receiver.parts(Vec::new()).is_none());
            let step = receiver.next(&ctx, None, &pool).unwrap();
            assert!(matches!(step, Step::Packet { .. }), "{step:?}");
        }
        assert!(receiver.parts(Vec::new()).is_none());
        let step = receiver.next(&ctx, None, &pool).unwrap();
        assert!(matches!(step, Step::NeedBytes), "{step:?}");
        assert!(receiver.parts(Vec::new()).is_some());
    }

    #[test]
    fn an_exhausted_pool_only_delays() {
        let pool = Pool::new(4 << 20);
        let held: Vec<_> = std::iter::from_fn(|| pool.alloc(1 << 20, Purpose::Internal)).collect();
        let ctx = Ctx::new(124, Features::ALL);
        let mut wire = Vec::new();
        data(4096, DigestValue::EMPTY)
            .encode(&ctx, VolumeNr::ZERO, &mut wire)
            .unwrap();
        wire.extend_from_slice(&[9; 4096]);
        let mut receiver = Receiver::new(Stream::Data);
        let mut parts = receiver.parts(Vec::new()).unwrap();
        let Memory::Bytes(staging) = &mut parts[0].memory else {
            panic!()
        };
        staging[..wire.len()].copy_from_slice(&wire);
        receiver.received(&mut parts, wire.len());
        assert!(matches!(
            receiver.next(&ctx, None, &pool),
            Ok(Step::NeedBuffer)
        ));
        assert!(
            receiver.parts(Vec::new()).is_none(),
            "nothing is received while there is no buffer"
        );
        drop(held);
        let Ok(Step::Packet {
            payload: Some(buf), ..
        }) = receiver.next(&ctx, None, &pool)
        else {
            panic!()
        };
        assert_eq!(&buf[..], &[9; 4096][..]);
    }
}
