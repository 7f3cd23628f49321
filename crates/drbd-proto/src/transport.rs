//! Framing below the packets: chunks of the load-balancing TCP transport and messages of the RDMA
//! transport (wire protocol, chapters 22 and 23).

use crate::ctx::Stream;
use crate::wire::Fault;

wire_struct! {
    /// The header of a chunk when lb-tcp runs with load-balance-paths.
    pub struct ChunkHeader [8] {
        /// Per stream, over all paths: 0 for a socket's first packet, then 1, 2, 3, ... modulo 2^32.
        pub sequence: u32 = 0,
        /// Bytes of the chunk.
        pub bytes: u32 = 4,
    }
}

impl ChunkHeader {
    /// Decode.
    pub fn decode(bytes: &[u8; ChunkHeader::WIRE_LEN]) -> ChunkHeader {
        // Any value of the two numbers is one.
        Self::parse(bytes).unwrap_or(ChunkHeader {
            sequence: 0,
            bytes: 0,
        })
    }
    /// Encode.
    pub fn encode(&self) -> [u8; ChunkHeader::WIRE_LEN] {
        self.bytes()
    }
}

/// First bytes of an RDMA flow-control message.
pub const RDMA_MAGIC: u32 = 0x5257_494E;
/// Largest RDMA message, bytes.
pub const RDMA_MAX_MESSAGE: usize = 4096;

/// The 32-bit immediate of an RDMA message: which stream, and where in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RdmaImmediate {
    /// A message of a stream; the sequence number counts modulo 2^30.
    Stream(Stream, u32),
    /// A flow-control message.
    FlowControl,
}

impl RdmaImmediate {
    const SEQUENCE: u32 = (1 << 30) - 1;

    /// Encode; a sequence number is taken modulo 2^30.
    pub const fn encode(self) -> u32 {
        match self {
            RdmaImmediate::Stream(Stream::Data, sequence) => sequence & Self::SEQUENCE,
            RdmaImmediate::Stream(Stream::Control, sequence) => 1 << 30 | sequence & Self::SEQUENCE,
            RdmaImmediate::FlowControl => 2 << 30,
        }
    }
    /// Decode; `None` for the stream number that does not exist.
    pub const fn decode(immediate: u32) -> Option<RdmaImmediate> {
        let sequence = immediate & Self::SEQUENCE;
        match immediate >> 30 {
            0 => Some(RdmaImmediate::Stream(Stream::Data, sequence)),
            1 => Some(RdmaImmediate::Stream(Stream::Control, sequence)),
            2 => Some(RdmaImmediate::FlowControl),
            _ => None,
        }
    }
}

wire_struct! {
    /// An RDMA flow-control message as it stands on the wire.
    pub struct FlowControlWire [16] {
        /// [`RDMA_MAGIC`].
        pub magic: u32 = 0,
        /// See [`FlowControl::data`].
        pub data: u32 = 4,
        /// See [`FlowControl::control`].
        pub control: u32 = 8,
        /// 0 data, 1 control.
        pub send_from_stream: u32 = 12,
    }
}

/// An RDMA flow-control message: receive buffers posted since the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowControl {
    /// New buffers for the data stream.
    pub data: u32,
    /// New buffers for the control stream.
    pub control: u32,
    /// Whose credit this message used.
    pub sent_from: Stream,
}

/// A flow-control message that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("RDMA flow control: bad {field} {value:#x}")]
pub struct FlowControlError {
    /// The field.
    pub field: &'static str,
    /// What it holds.
    pub value: u32,
}

impl FlowControl {
    /// Decode.
    pub fn decode(
        bytes: &[u8; FlowControlWire::WIRE_LEN],
    ) -> Result<FlowControl, FlowControlError> {
        let wire = FlowControlWire::parse(bytes).map_err(|_: Fault| FlowControlError {
            field: "message",
            value: 0,
        })?;
        if wire.magic != RDMA_MAGIC {
            return Err(FlowControlError {
                field: "magic",
                value: wire.magic,
            });
        }
        let sent_from = match wire.send_from_stream {
            0 => Stream::Data,
            1 => Stream::Control,
            value => {
                return Err(FlowControlError {
                    field: "send_from_stream",
                    value,
                });
            }
        };
        Ok(FlowControl {
            data: wire.data,
            control: wire.control,
            sent_from,
        })
    }
    /// Encode.
    pub fn encode(&self) -> [u8; FlowControlWire::WIRE_LEN] {
        let send_from_stream = match self.sent_from {
            Stream::Data => 0,
            Stream::Control => 1,
        };
        FlowControlWire {
            magic: RDMA_MAGIC,
            data: self.data,
            control: self.control,
            send_from_stream,
        }
        .bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wire protocol, chapter 27, "RDMA" and "lb-tcp".
    #[test]
    fn examples() {
        let first = FlowControl {
            data: 129,
            control: 3,
            sent_from: Stream::Control,
        };
        let bytes = [
            0x52, 0x57, 0x49, 0x4e, 0, 0, 0, 0x81, 0, 0, 0, 3, 0, 0, 0, 1,
        ];
        assert_eq!(first.encode(), bytes);
        assert_eq!(FlowControl::decode(&bytes), Ok(first));
        for (immediate, number) in [
            (RdmaImmediate::FlowControl, 0x8000_0000),
            (RdmaImmediate::Stream(Stream::Data, 1), 1),
            (RdmaImmediate::Stream(Stream::Control, 1), 0x4000_0001),
            (
                RdmaImmediate::Stream(Stream::Control, (1 << 30) - 1),
                0x7fff_ffff,
            ),
        ] {
            assert_eq!(immediate.encode(), number);
            assert_eq!(RdmaImmediate::decode(number), Some(immediate));
        }
        assert_eq!(
            RdmaImmediate::Stream(Stream::Control, 1 << 30).encode(),
            0x4000_0000
        );
        assert_eq!(RdmaImmediate::decode(0xc000_0000), None);
        let chunk = ChunkHeader {
            sequence: 1,
            bytes: 80,
        };
        assert_eq!(chunk.encode(), [0, 0, 0, 1, 0, 0, 0, 0x50]);
        assert_eq!(ChunkHeader::decode(&chunk.encode()), chunk);
    }

    #[test]
    fn broken_flow_control() {
        let good = FlowControl {
            data: 1,
            control: 2,
            sent_from: Stream::Data,
        }
        .encode();
        let mut bad = good;
        bad[3] = 0;
        assert_eq!(FlowControl::decode(&bad).map_err(|e| e.field), Err("magic"));
        bad = good;
        bad[15] = 2;
        assert_eq!(
            FlowControl::decode(&bad).map_err(|e| e.field),
            Err("send_from_stream")
        );
    }
}
