//! What several tests need.
#![allow(dead_code)] // Each test uses its part.

use drbd_proto::{Ctx, DecodeError, Packet, Received, Stream};

/// Decode the packet at the start of `bytes`; checks what holds for every packet.
pub(crate) fn take(
    ctx: &Ctx,
    stream: Stream,
    bytes: &[u8],
) -> Result<Option<Received>, DecodeError> {
    let received = Packet::parse(ctx, stream, bytes)?;
    if let Some(Received {
        header,
        packet,
        len,
    }) = &received
    {
        let header_len = if bytes[0] == 0x86 { 16 } else { 8 };
        let fixed = len - header_len;
        assert!(fixed <= drbd_proto::MAX_FIXED_LEN);
        assert_eq!(
            fixed as u64 + u64::from(packet.payload_len()),
            u64::from(header.length)
        );
    }
    Ok(received)
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
