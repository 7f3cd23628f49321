//! Every packet, in every version and with every set of features that has it, survives the wire; and no
//! bytes whatever make the decoder panic or read without bounds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // Helpers of tests fail loudly.

mod fields;
mod packets;
#[path = "../support/mod.rs"]
mod support;

use fields::*;
use packets::*;

use drbd_proto::header::{Format, Header};
use drbd_proto::packet::*;
use drbd_proto::{Ctx, DecodeError, EncodeError, Features, MAX_DISCARD_SIZE, Stream, VolumeNr};
use proptest::prelude::*;
use proptest::sample::select;
use support::take;

fn volume() -> impl Strategy<Value = VolumeNr> {
    any::<u16>().prop_map(VolumeNr::from_wire)
}

/// The context packets before the agreement are decoded with.
fn receiving(cmd: Cmd, ctx: Ctx) -> Ctx {
    if cmd.is_always_v80() {
        Ctx::INITIAL
    } else {
        ctx
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// One packet of every command per case, in a random version with random features.
    #[test]
    fn every_packet_round_trips(
        (ctx, packets) in ctx().prop_flat_map(|ctx| {
            let packets: Vec<_> = Cmd::ALL.iter().map(|cmd| packet(*cmd, ctx)).collect();
            (Just(ctx), packets)
        }),
        volume in volume(),
    ) {
        let mut stream = vec![];
        let mut sent = vec![];
        for packet in packets {
            let cmd = packet.cmd();
            let mut out = vec![];
            let result = packet.encode(&ctx, volume, &mut out);
            if !cmd.is_agreed(&ctx) {
                let version = ctx.version;
                prop_assert_eq!(result, Err(EncodeError::NotAgreed { cmd, version }));
                prop_assert!(out.is_empty());
                continue;
            }
            prop_assert_eq!(result, Ok(()));
            let ctx = receiving(cmd, ctx);
            let got = take(&ctx, cmd.stream(), &out).unwrap().unwrap();
            prop_assert_eq!(&got.packet, &packet);
            prop_assert_eq!(got.len, out.len());
            prop_assert_eq!(got.header.code, cmd.code());
            if out.starts_with(&[0x86]) {
                prop_assert_eq!(got.header.volume, volume);
            }
            // Every shorter prefix asks for more, or says what is wrong, but never makes a packet.
            for cut in [0, 1, 7, 8, 15, out.len() / 2, out.len() - 1] {
                let part = &out[..cut.min(out.len() - 1)];
                prop_assert!(take(&ctx, cmd.stream(), part).unwrap().is_none());
            }
            let other = if cmd.stream() == Stream::Data { Stream::Control } else { Stream::Data };
            if !cmd.allowed_on(other) {
                let header = got.header;
                let error = DecodeError::WrongStream { cmd, stream: other };
                prop_assert_eq!(Packet::fixed_len(&ctx, other, &header), Err(error));
            }
            if !cmd.is_always_v80() && cmd.stream() == Stream::Data && packet.payload_len() == 0 {
                stream.extend(out);
                sent.push(packet);
            }
        }
        // One after the other they make a stream that comes apart again.
        let mut rest = &stream[..];
        for packet in sent {
            let got = take(&ctx, Stream::Data, rest).unwrap().unwrap();
            prop_assert_eq!(got.packet, packet);
            rest = &rest[got.len..];
        }
        prop_assert!(rest.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// A good header in front of arbitrary bytes: an error or a packet, and a packet means the same after
    /// being sent on.
    #[test]
    fn arbitrary_bodies(
        ctx in ctx(),
        cmd in select(Cmd::ALL),
        volume in volume(),
        length in prop_oneof![
            select(&[0u32, 4, 8, 12, 16, 24, 25, 28, 32, 36, 40, 44, 48, 56, 64, 72, 132, 148, 304]),
            0..700u32, 0..5000u32, any::<u32>()],
        body in prop::collection::vec(prop_oneof![3 => Just(0u8), 1 => any::<u8>()], 4088),
    ) {
        let ctx = receiving(cmd, ctx);
        let header = Header { volume, code: cmd.code(), length };
        for stream in [Stream::Data, Stream::Control] {
            let Ok(fixed) = Packet::fixed_len(&ctx, stream, &header) else { continue };
            prop_assert!(fixed <= drbd_proto::MAX_FIXED_LEN && fixed as u32 <= length);
            let Ok(packet) = Packet::decode(&ctx, &header, &body[..fixed]) else { continue };
            prop_assert_eq!(packet.payload_len(), length - fixed as u32);
            prop_assert!(packet.payload_len() <= 1 << 20);
            let mut out = vec![];
            match packet.encode(&ctx, volume, &mut out) {
                Ok(()) => {
                    let again = take(&ctx, stream, &out).unwrap().unwrap();
                    // What is not sent on (padding, flags unknown to the version) is gone after the
                    // first time; then nothing changes any more.
                    let mut twice = vec![];
                    again.packet.encode(&ctx, again.header.volume, &mut twice).unwrap();
                    prop_assert_eq!(&again.packet.cmd(), &cmd);
                    let third = take(&ctx, stream, &twice).unwrap().unwrap();
                    prop_assert_eq!(third.packet, again.packet);
                }
                Err(EncodeError::NotAgreed { .. }) => prop_assert!(!cmd.is_agreed(&ctx)),
                Err(EncodeError::TooLong { .. }) => prop_assert!(ctx.version < 95),
            }
        }
    }

    /// Arbitrary bytes as a stream.
    #[test]
    fn arbitrary_streams(
        ctx in ctx(),
        control: bool,
        magic in select(MAGICS),
        tail in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let stream = if control { Stream::Control } else { Stream::Data };
        let bytes = [magic, &tail].concat();
        let _ = take(&ctx, stream, &bytes);
        let _ = Header::missing(&bytes);
    }

    /// Headers of every format.
    #[test]
    fn headers_round_trip(
        volume in volume(), code: u16, length: u32,
        format in select(&[Format::V80, Format::V95, Format::V100]),
    ) {
        let header = match format {
            Format::V80 => Header { volume: VolumeNr::ZERO, code, length: length & 0xffff },
            Format::V95 => Header { volume: VolumeNr::ZERO, code, length },
            Format::V100 => Header { volume, code, length },
        };
        let mut out = vec![];
        header.encode(format, &mut out).unwrap();
        prop_assert_eq!(out.len(), format.header_len());
        for version in VERSIONS {
            let control = Header::parse(*version, Stream::Control, &out);
            prop_assert_eq!(control, Ok(Some((header, out.len()))));
            let data = Header::parse(*version, Stream::Data, &out);
            if format.allowed_on_data(*version) {
                prop_assert_eq!(data, Ok(Some((header, out.len()))));
            } else {
                let error = DecodeError::HeaderNotAllowed { format, version: *version };
                prop_assert_eq!(data, Err(error));
            }
        }
    }
}

#[test]
fn unknown_commands_are_named() {
    let ctx = Ctx::new(124, Features::ALL);
    let known = |code| Cmd::from_code(code).is_some();
    for code in 0..=u16::MAX {
        let header = Header {
            volume: VolumeNr::ZERO,
            code,
            length: 0,
        };
        if !known(code) {
            let error = Packet::fixed_len(&ctx, Stream::Data, &header).unwrap_err();
            assert_eq!(error, DecodeError::UnknownCommand(code));
            assert_eq!(error.is_may_ignore(), code > 0x100 && code < 0xfff0);
        }
    }
    assert_eq!(Cmd::ALL.len(), (0..=u16::MAX).filter(|c| known(*c)).count());
    for never_sent in [0x05, 0x06, 0x25, 0x26, 0x100] {
        assert!(!known(never_sent));
    }
}

#[test]
fn illegal_lengths_and_fields() {
    let ctx = Ctx::new(124, Features::ALL);
    let check = |cmd: Cmd, length| {
        let header = Header {
            volume: VolumeNr::ZERO,
            code: cmd.code(),
            length,
        };
        Packet::fixed_len(&ctx, cmd.stream(), &header).is_ok()
    };
    for (cmd, good, bad) in [
        (Cmd::Ping, &[0][..], &[1, 16][..]),
        (
            Cmd::Data,
            &[24 + 512, 24 + (1 << 20)],
            &[24, 24 + 513, 24 + 512 + (1 << 20), 0],
        ),
        (Cmd::Sizes, &[56], &[32, 57]),
        (Cmd::Uuids110, &[40, 48, 41, 552, 4080], &[39, 4081]),
        (Cmd::Bitmap, &[0, 8, 4080], &[4, 4088]),
        (Cmd::CompressedBitmap, &[2, 4080], &[0, 1, 4081]),
        (Cmd::Protocol, &[24, 25, 88], &[23, 89]),
        (Cmd::AuthChallenge, &[64], &[63, 65]),
        (Cmd::AuthResponse, &[16, 64], &[0, 65]),
        (Cmd::RsCsumDagtagReq, &[33, 96], &[32, 97]),
        (Cmd::SyncParam89, &[148], &[132, 149]),
    ] {
        assert!(good.iter().all(|length| check(cmd, *length)), "{cmd}");
        assert!(bad.iter().all(|length| !check(cmd, *length)), "{cmd}");
    }

    let decode = |cmd: Cmd, body: &[u8]| {
        let header = Header {
            volume: VolumeNr::ZERO,
            code: cmd.code(),
            length: body.len() as u32,
        };
        Packet::decode(&ctx, &header, body).map_err(|error| match error {
            DecodeError::Field { field, value, .. } => (field, value),
            other => panic!("{other}"),
        })
    };
    let mut trim = [0; 28];
    assert_eq!(decode(Cmd::Trim, &trim), Err(("size", 0)));
    trim[24..].copy_from_slice(&(MAX_DISCARD_SIZE + 512).to_be_bytes());
    assert_eq!(
        decode(Cmd::Trim, &trim),
        Err(("size", u64::from(MAX_DISCARD_SIZE) + 512))
    );
    trim[24..].copy_from_slice(&1024u32.to_be_bytes());
    assert!(decode(Cmd::Trim, &trim).is_ok());
    trim[..8].fill(0xff);
    assert_eq!(decode(Cmd::Trim, &trim), Err(("sector", u64::MAX)));
    let mut uuids = [0; 40];
    uuids[39] = 1;
    assert_eq!(decode(Cmd::Uuids110, &uuids), Err(("bitmap UUID mask", 1)));
    uuids[35] = 1;
    assert_eq!(
        decode(Cmd::Uuids110, &uuids),
        Err(("bitmap UUID mask", 0x1_0000_0001))
    );
    assert_eq!(
        decode(Cmd::CompressedBitmap, &[0x03, 0]),
        Err(("bitmap encoding", 3))
    );
    assert_eq!(decode(Cmd::State, &[0, 0, 0, 3]), Err(("role", 3)));
    let mut prepare = [0; 36];
    prepare[10] = 32;
    assert_eq!(
        decode(Cmd::TwopcPrepare, &prepare),
        Err(("initiator node id", 32))
    );
    let mut protocol = [0; 25];
    assert_eq!(decode(Cmd::Protocol, &protocol), Err(("wire protocol", 0)));
    protocol[3] = 1;
    protocol[7] = 13;
    assert_eq!(decode(Cmd::Protocol, &protocol), Err(("after-sb-0pri", 13)));
}

#[test]
fn packets_are_small() {
    assert!(size_of::<Packet>() <= 128, "{}", size_of::<Packet>());
}
