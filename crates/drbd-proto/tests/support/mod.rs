//! What several tests need.
#![allow(dead_code)] // Each test uses its part.

use drbd_proto::{Ctx, DecodeError, Header, Packet, Stream};

/// A packet taken off a stream, with its place there.
pub(crate) struct Framed {
    pub(crate) header: Header,
    pub(crate) packet: Packet,
    /// Size of header and fixed part.
    pub(crate) len: usize,
}

/// Decode the packet at the start of `bytes` as a transport would; `None` if header or fixed part are
/// not complete.
pub(crate) fn take(ctx: &Ctx, stream: Stream, bytes: &[u8]) -> Result<Option<Framed>, DecodeError> {
    let Some((header, used)) = Header::parse(ctx.version, stream, bytes)? else {
        return Ok(None);
    };
    let fixed = Packet::fixed_len(ctx, stream, &header)?;
    assert!(fixed <= drbd_proto::MAX_FIXED_LEN);
    let Some(body) = bytes.get(used..used + fixed) else {
        return Ok(None);
    };
    let packet = Packet::decode(ctx, &header, body)?;
    assert_eq!(
        fixed as u64 + u64::from(packet.payload_len()),
        u64::from(header.length)
    );
    Ok(Some(Framed {
        header,
        packet,
        len: used + fixed,
    }))
}

/// Hex digits to bytes.
pub(crate) fn unhex(hex: &str) -> Vec<u8> {
    assert!(
        hex.len().is_multiple_of(2) && hex.is_ascii(),
        "bad hex: {hex}"
    );
    (0..hex.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap())
        .collect()
}
