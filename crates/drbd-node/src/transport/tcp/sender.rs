//! From packets to bytes: what waits to be sent on one stream.

use std::collections::VecDeque;

use drbd_engine::OpId;
use drbd_proto::{Ctx, DigestAlg, EncodeError, Packet, VolumeNr};

use super::receiver::digest_of;
use crate::pool::Buf;
use crate::ring::{MAX_PARTS, Memory, Part};

/// Small packets are collected up to this size, in bytes.
const CHUNK: usize = 16 << 10;
/// Memory for small packets that is kept for reuse.
const SPARE: usize = 32;

/// A packet that cannot be sent. The engine would have to ask for it wrongly.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("{0}")]
    Encode(#[from] EncodeError),
    #[error("{packet} needs {wanted} bytes of data and was given {given}")]
    Payload {
        packet: drbd_proto::Cmd,
        wanted: usize,
        given: usize,
    },
}

/// The sending half of a stream.
#[derive(Debug, Default)]
pub(super) struct Sender {
    queue: VecDeque<Part>,
    /// Positions in the stream after which somebody wants to hear, ascending.
    notify: VecDeque<(u64, OpId)>,
    /// Bytes queued and sent so far.
    queued: u64,
    sent: u64,
    sending: bool,
    spare: Vec<Vec<u8>>,
}

impl Sender {
    /// Puts a packet into the queue.
    pub(super) fn push(
        &mut self,
        ctx: &Ctx,
        integrity: Option<DigestAlg>,
        volume: VolumeNr,
        mut packet: Packet,
        payload: Option<Buf>,
        notify: Option<OpId>,
    ) -> Result<(), SendError> {
        let wanted = packet.payload_len() as usize;
        let given = payload.as_deref().map_or(0, <[u8]>::len);
        if wanted > given {
            return Err(SendError::Payload {
                packet: packet.cmd(),
                wanted,
                given,
            });
        }
        if let (Some(alg), Some(payload)) = (integrity, &payload)
            && let Some((digest, _)) = digest_of(&mut packet)
        {
            *digest = alg.digest(payload.get(..wanted).unwrap_or(payload));
        }
        let fits = matches!(self.queue.back(), Some(Part { memory: Memory::Bytes(bytes), .. }) if bytes.len() < CHUNK);
        if !fits {
            let bytes = self.spare.pop().unwrap_or_default();
            self.queue.push_back(Part {
                memory: Memory::Bytes(bytes),
                at: 0,
                len: 0,
            });
        }
        if let Some(Part {
            memory: Memory::Bytes(bytes),
            len,
            at,
        }) = self.queue.back_mut()
        {
            let before = bytes.len();
            packet.encode(ctx, volume, bytes)?;
            self.queued += (bytes.len() - before) as u64;
            *len = bytes.len() - *at;
        }
        if let (Some(buf), true) = (payload, wanted > 0) {
            self.queue.push_back(Part {
                memory: Memory::Shared(buf),
                at: 0,
                len: wanted,
            });
            self.queued += wanted as u64;
        }
        if let Some(op) = notify {
            self.notify.push_back((self.queued, op));
        }
        Ok(())
    }

    /// What to send next; `None` if an operation is under way or there is nothing.
    pub(super) fn parts(&mut self, mut parts: Vec<Part>) -> Option<Vec<Part>> {
        if self.sending || self.queue.is_empty() {
            return None;
        }
        parts.clear();
        let count = self.queue.len().min(MAX_PARTS);
        parts.extend(self.queue.drain(..count));
        self.sending = true;
        Some(parts)
    }

    /// The operation has ended after `sent` bytes; leaves `parts` empty for reuse.
    pub(super) fn sent(&mut self, parts: &mut Vec<Part>, sent: usize) {
        self.sending = false;
        self.sent += sent as u64;
        let mut sent = sent;
        // What was not sent goes back to the front, in order.
        let first = parts
            .iter_mut()
            .position(|part| {
                let here = sent.min(part.len);
                sent -= here;
                part.at += here;
                part.len -= here;
                part.len > 0
            })
            .unwrap_or(parts.len());
        for part in parts.drain(first..).rev() {
            self.queue.push_front(part);
        }
        for part in parts.drain(..) {
            if let Memory::Bytes(mut bytes) = part.memory
                && self.spare.len() < SPARE
            {
                bytes.clear();
                self.spare.push(bytes);
            }
        }
    }

    /// Who wants to hear that their packets are gone.
    pub(super) fn next_sent(&mut self) -> Option<OpId> {
        self.notify
            .pop_front_if(|(position, _)| *position <= self.sent)
            .map(|(_, op)| op)
    }

    /// Something is queued, and nothing under way.
    pub(super) fn is_ready(&self) -> bool {
        !self.sending && !self.queue.is_empty()
    }

    /// Nothing is queued or under way.
    pub(super) fn is_idle(&self) -> bool {
        !self.sending && self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use drbd_proto::packet::DataReply;
    use drbd_proto::{BlockId, Bytes, DigestValue, Features, Sector};

    use super::*;
    use crate::pool::{Pool, Purpose};

    #[test]
    fn short_sends_lose_nothing() {
        let pool = Pool::new(16 << 20);
        let ctx = Ctx::new(124, Features::ALL);
        for step in [1 << 20, 5000, 333, 16] {
            let mut sender = Sender::default();
            let mut expected = Vec::new();
            for n in 0..40u64 {
                if n % 3 == 0 {
                    let mut payload = pool.alloc(1024, Purpose::Internal).unwrap();
                    payload.fill(n as u8);
                    let digest = DigestAlg::Crc32c.digest(&payload);
                    let reply = |digest| {
                        Packet::DataReply(DataReply {
                            sector: Sector(n),
                            block_id: BlockId(n),
                            size: Bytes(1024),
                            digest,
                        })
                    };
                    reply(digest)
                        .encode(&ctx, VolumeNr::ZERO, &mut expected)
                        .unwrap();
                    expected.extend_from_slice(&payload);
                    let (payload, packet) = (Some(payload.freeze()), reply(DigestValue::EMPTY));
                    sender
                        .push(
                            &ctx,
                            Some(DigestAlg::Crc32c),
                            VolumeNr::ZERO,
                            packet,
                            payload,
                            Some(OpId(n)),
                        )
                        .unwrap();
                } else {
                    Packet::Ping
                        .encode(&ctx, VolumeNr::CONNECTION, &mut expected)
                        .unwrap();
                    sender
                        .push(
                            &ctx,
                            None,
                            VolumeNr::CONNECTION,
                            Packet::Ping,
                            None,
                            Some(OpId(n)),
                        )
                        .unwrap();
                }
            }
            let mut wire = Vec::new();
            let mut heard = 0;
            while !sender.is_idle() {
                let mut parts = sender.parts(Vec::new()).unwrap();
                assert!(
                    sender.parts(Vec::new()).is_none(),
                    "one operation at a time"
                );
                let all: Vec<u8> = parts.iter().flat_map(|p| p.bytes().to_vec()).collect();
                let now = all.len().min(step);
                wire.extend_from_slice(&all[..now]);
                sender.sent(&mut parts, now);
                while let Some(op) = sender.next_sent() {
                    assert_eq!(op, OpId(heard));
                    heard += 1;
                }
            }
            assert!(wire == expected, "steps of {step}");
            assert_eq!(heard, 40);
        }
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn payload_has_to_be_there() {
        let ctx = Ctx::new(124, Features::ALL);
        let packet = Packet::DataReply(DataReply {
            sector: Sector(0),
            block_id: BlockId(0),
            size: Bytes(4096),
            digest: DigestValue::EMPTY,
        });
        let mut sender = Sender::default();
        let error = sender
            .push(&ctx, None, VolumeNr::ZERO, packet, None, None)
            .unwrap_err();
        assert!(matches!(
            error,
            SendError::Payload {
                wanted: 4096,
                given: 0,
                ..
            }
        ));
        assert!(sender.is_idle());
    }
}
