//! From packets to chunks of a stream and back, with the same two-step decoder a daemon uses.

use std::collections::VecDeque;
use std::rc::Rc;

use drbd_proto::header::Header;
use drbd_proto::{Ctx, Packet, Stream, VolumeNr};

use crate::buffer::Payload;
use crate::net::{Chunk, FinReason};

/// The stream with this index.
pub fn stream(index: usize) -> Stream {
    if index == 0 {
        Stream::Data
    } else {
        Stream::Control
    }
}

/// The index of a stream.
pub fn index(stream: Stream) -> usize {
    match stream {
        Stream::Data => 0,
        Stream::Control => 1,
    }
}

/// The bytes of a packet without its payload.
pub fn encode(ctx: &Ctx, volume: VolumeNr, packet: &Packet) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    packet
        .encode(ctx, volume, &mut bytes)
        .map_err(|e| e.to_string())?;
    Ok(bytes)
}

/// A complete packet.
pub type Received = (VolumeNr, Packet, Option<Rc<Payload>>);

/// What a decoder has to say.
#[derive(Debug)]
pub enum Step {
    /// It needs more.
    Wait,
    /// A packet.
    Packet(Box<Received>),
    /// The stream has ended.
    End(FinReason),
    /// The bytes make no sense.
    Garbage(String),
}

/// The receiving end of one stream.
#[derive(Debug, Default)]
pub struct Decoder {
    chunks: VecDeque<Chunk>,
    bytes: Vec<u8>,
    header: Option<(Header, usize)>,
    waiting: Option<(VolumeNr, Packet, u32)>,
}

impl Decoder {
    /// More has arrived.
    pub fn feed(&mut self, chunk: Chunk) {
        self.chunks.push_back(chunk);
    }

    /// Goes on by one packet. The context is that of the moment: an earlier packet may have changed it.
    pub fn step(&mut self, ctx: &Ctx, stream: Stream) -> Step {
        loop {
            match self.try_step(ctx, stream) {
                Ok(Some(received)) => return Step::Packet(Box::new(received)),
                Ok(None) => {}
                Err(what) => return Step::Garbage(what),
            }
            match self.chunks.pop_front() {
                None => return Step::Wait,
                Some(Chunk::Bytes(b)) if self.waiting.is_none() => self.bytes.extend(b),
                Some(Chunk::Fin(reason)) => return Step::End(reason),
                Some(Chunk::Bytes(_)) => {
                    return Step::Garbage("packet shorter than its payload".into());
                }
                Some(Chunk::Part {
                    payload,
                    bytes,
                    last,
                }) => {
                    let Some((volume, packet, left)) = self.waiting.take() else {
                        return Step::Garbage("payload where a packet should begin".into());
                    };
                    match (left.checked_sub(bytes), last) {
                        (Some(0), true) => {
                            return Step::Packet(Box::new((volume, packet, Some(payload))));
                        }
                        (Some(left), false) => self.waiting = Some((volume, packet, left)),
                        _ => {
                            return Step::Garbage(format!(
                                "payload of {packet:?} does not have its length"
                            ));
                        }
                    }
                }
            }
        }
    }

    fn try_step(&mut self, ctx: &Ctx, stream: Stream) -> Result<Option<Received>, String> {
        if self.waiting.is_some() {
            return Ok(None);
        }
        if self.header.is_none() {
            self.header =
                Header::parse(ctx.version, stream, &self.bytes).map_err(|e| e.to_string())?;
        }
        let Some((header, used)) = self.header else {
            return Ok(None);
        };
        let fixed = Packet::fixed_len(ctx, stream, &header).map_err(|e| e.to_string())?;
        if self.bytes.len() < used + fixed {
            return Ok(None);
        }
        let packet = Packet::decode(ctx, &header, &self.bytes[used..used + fixed])
            .map_err(|e| e.to_string())?;
        self.bytes.drain(..used + fixed);
        self.header = None;
        let len = packet.payload_len();
        if len == 0 {
            return Ok(Some((header.volume, packet, None)));
        }
        self.waiting = Some((header.volume, packet, len));
        Ok(None)
    }
}
