//! Arbitrary bytes as one stream of a connection, in every framing: the first four bytes choose what was
//! agreed, the rest is the stream. Nothing may panic or ask for unbounded memory, and what decodes must
//! mean the same after being sent on.
#![no_main]

use drbd_proto::packet::Cmd;
use drbd_proto::{Ctx, EncodeError, Features, Header, MAX_FIXED_LEN, Packet, Stream};
use libfuzzer_sys::fuzz_target;

const VERSIONS: [u16; 16] = [
    86, 87, 88, 89, 90, 94, 95, 99, 100, 101, 110, 118, 121, 122, 123, 124,
];

fn take(ctx: &Ctx, stream: Stream, bytes: &[u8]) -> Option<(Header, Packet, usize)> {
    let (header, used) = Header::parse(ctx.version, stream, bytes).ok()??;
    let fixed = Packet::fixed_len(ctx, stream, &header).ok()?;
    assert!(fixed <= MAX_FIXED_LEN);
    let body = bytes.get(used..used + fixed)?;
    let packet = Packet::decode(ctx, &header, body).ok()?;
    assert_eq!(
        fixed as u64 + u64::from(packet.payload_len()),
        u64::from(header.length)
    );
    Some((header, packet, used + fixed))
}

fuzz_target!(|data: &[u8]| {
    let Some(([version, low, high, len], mut rest)) = data.split_first_chunk::<4>() else {
        return;
    };
    let features = Features(u32::from(*low) | u32::from(*high & 3) << 8);
    let ctx = Ctx::new(VERSIONS[usize::from(version & 15)], features).with_integrity_len(len & 63);
    let stream = if version & 16 == 0 {
        Stream::Data
    } else {
        Stream::Control
    };
    let _ = Header::missing(rest);
    while let Some((header, packet, used)) = take(&ctx, stream, rest) {
        let mut out = Vec::new();
        match packet.encode(&ctx, header.volume, &mut out) {
            Ok(()) => {
                let ctx = if packet.cmd().is_always_v80() {
                    Ctx::INITIAL
                } else {
                    ctx
                };
                let (_, again, _) = take(&ctx, stream, &out).expect("what was encoded decodes");
                let mut twice = Vec::new();
                again
                    .encode(&ctx, header.volume, &mut twice)
                    .expect("and encodes again");
                assert_eq!(take(&ctx, stream, &twice).map(|t| t.1), Some(again));
            }
            Err(EncodeError::NotAgreed { cmd, .. }) => assert_eq!(cmd, Cmd::EnableReplication),
            Err(EncodeError::TooLong { .. }) => assert!(ctx.version < 95),
        }
        if let Packet::CompressedBitmap(bitmap) = &packet {
            let mut runs = bitmap.runs(0, 1 << 40);
            let count = runs.by_ref().take_while(Result::is_ok).count();
            assert!(count <= bitmap.code.len() * 4);
        }
        let skip = used.saturating_add(packet.payload_len() as usize);
        rest = rest.get(skip..).unwrap_or_default();
    }
});
