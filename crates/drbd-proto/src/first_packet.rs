//! The 8 bytes the opener of a socket sends first, and who opens which stream (wire protocol,
//! section 3.2).

use core::net::SocketAddr;

use crate::ctx::Stream;
use crate::error::DecodeError;
use crate::header::{Format, MAGIC_80};
use crate::packet::Cmd;
use crate::wire::{get, set};

/// Size of the first packet, bytes.
pub const LEN: usize = 8;

/// The first packet of a socket that shall carry `stream`.
pub fn encode(stream: Stream) -> [u8; LEN] {
    let cmd = match stream {
        Stream::Data => Cmd::InitialData,
        Stream::Control => Cmd::InitialMeta,
    };
    let mut out = [0; LEN];
    set(&mut out, 0, &MAGIC_80);
    set(&mut out, 4, &cmd.code());
    out
}

/// What an accepted socket shall carry. The length field is not looked at.
pub fn decode(bytes: &[u8; LEN]) -> Result<Stream, DecodeError> {
    let [a, b, c, d, ..] = *bytes;
    match Format::classify([a, b, c, d]) {
        Ok(Format::V80) => {}
        _ => return Err(DecodeError::BadMagic([a, b, c, d])),
    }
    let code = get(bytes, 4, "command").unwrap_or_default();
    match Cmd::from_code(code) {
        Some(Cmd::InitialData) => Ok(Stream::Data),
        Some(Cmd::InitialMeta) => Ok(Stream::Control),
        _ => Err(DecodeError::UnknownCommand(code)),
    }
}

/// The stream to open first when there is no socket yet: the greater address opens data. Both nodes
/// come to opposite answers, so their first attempts do not cross. The port decides before the
/// address, as it comes first in the structure the comparison is defined on.
pub fn first_to_open(mine: &SocketAddr, peers: &SocketAddr) -> Stream {
    let greater = match (mine, peers) {
        (SocketAddr::V4(a), SocketAddr::V4(b)) => {
            (a.port(), a.ip().octets()) > (b.port(), b.ip().octets())
        }
        (SocketAddr::V6(a), SocketAddr::V6(b)) => {
            // flowinfo is held in network order, the scope id in the machine's.
            let key = |s: &core::net::SocketAddrV6| {
                let scope = s.scope_id().to_ne_bytes();
                (s.port(), s.flowinfo().to_ne_bytes(), s.ip().octets(), scope)
            };
            key(a) > key(b)
        }
        // A path has one family; mixed ones are refused when it is configured.
        (mine, peers) => mine.is_ipv6() && peers.is_ipv4(),
    };
    if greater {
        Stream::Data
    } else {
        Stream::Control
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_packets() {
        assert_eq!(
            encode(Stream::Data),
            [0x83, 0x74, 2, 0x67, 0xff, 0xf2, 0, 0]
        );
        assert_eq!(
            encode(Stream::Control),
            [0x83, 0x74, 2, 0x67, 0xff, 0xf1, 0, 0]
        );
        for stream in [Stream::Data, Stream::Control] {
            let mut bytes = encode(stream);
            bytes[7] = 9;
            assert_eq!(decode(&bytes), Ok(stream));
        }
        assert_eq!(
            decode(&[0x83, 0x74, 2, 0x67, 0xff, 0xf3, 0, 0]),
            Err(DecodeError::UnknownCommand(0xfff3))
        );
        assert!(decode(&[0x83, 0x5a, 0xff, 0xf2, 0, 0, 0, 0]).is_err());
    }

    /// Wire protocol, chapter 27, "Compare rule for the first packet".
    #[test]
    fn greater_address_opens_data() {
        let order = |mine: &str, peers: &str| {
            let (mine, peers) = (mine.parse().unwrap(), peers.parse().unwrap());
            let first = first_to_open(&mine, &peers);
            assert_ne!(first, first_to_open(&peers, &mine));
            first
        };
        assert_eq!(order("10.0.0.2:7789", "10.0.0.1:7789"), Stream::Data);
        assert_eq!(order("10.0.0.1:7790", "10.0.0.2:7789"), Stream::Data);
        assert_eq!(order("10.0.0.1:7789", "10.0.0.2:7789"), Stream::Control);
        assert_eq!(order("[fe80::2]:7789", "[fe80::1]:7789"), Stream::Data);
    }
}
