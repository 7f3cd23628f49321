//! Tests of the codec and of the handshake.

use proptest::prelude::*;

use super::codec::*;
use super::handshake::*;

fn export() -> ExportInfo {
    ExportInfo {
        name: "r0/0".into(),
        size: 1 << 20,
        flags: tx::SEND_FLUSH | tx::SEND_FUA | tx::SEND_TRIM | tx::SEND_WRITE_ZEROES,
        min_block: 512,
        preferred_block: 4096,
        max_block: 1 << 17,
    }
}

struct One;

impl Exports for One {
    fn list(&self) -> Vec<String> {
        vec!["r0/0".into()]
    }
    fn find(&self, name: &str) -> Option<ExportInfo> {
        ["", "r0", "r0/0"].contains(&name).then(export)
    }
}

fn option(kind: u32, data: &[u8]) -> Vec<u8> {
    let mut v = IHAVEOPT.to_be_bytes().to_vec();
    v.extend(kind.to_be_bytes());
    v.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
    v.extend(data);
    v
}

fn go(name: &str, wanted: &[u16]) -> Vec<u8> {
    let mut v = u32::try_from(name.len()).unwrap().to_be_bytes().to_vec();
    v.extend(name.as_bytes());
    v.extend(u16::try_from(wanted.len()).unwrap().to_be_bytes());
    wanted.iter().for_each(|w| v.extend(w.to_be_bytes()));
    v
}

fn started() -> Handshake {
    let mut out = Vec::new();
    let mut h = Handshake::new(&mut out);
    assert_eq!(out, b"NBDMAGICIHAVEOPT\x00\x03");
    assert_eq!(
        h.input(&mut vec![0, 0, 0, 3], &One, &mut out),
        Ok(Step::More)
    );
    h
}

/// Feeds one option and returns the step and the kinds of replies with their data.
fn ask(h: &mut Handshake, kind: u32, data: &[u8]) -> (Step, Vec<(u32, Vec<u8>)>) {
    let mut out = Vec::new();
    let step = h.input(&mut option(kind, data), &One, &mut out).unwrap();
    (step, replies(kind, &out))
}

fn replies(kind: u32, mut out: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let mut all = Vec::new();
    while !out.is_empty() {
        assert_eq!(out[..8], REP_MAGIC.to_be_bytes());
        assert_eq!(out[8..12], kind.to_be_bytes());
        let code = u32::from_be_bytes(out[12..16].try_into().unwrap());
        let len = u32::from_be_bytes(out[16..20].try_into().unwrap()) as usize;
        all.push((code, out[20..20 + len].to_vec()));
        out = &out[20 + len..];
    }
    all
}

#[test]
fn greeting_list_and_unknown_options() {
    let mut h = started();
    let (step, r) = ask(&mut h, opt::LIST, &[]);
    assert_eq!(step, Step::Send);
    assert_eq!(
        r,
        [
            (rep::SERVER, b"\0\0\0\x04r0/0".to_vec()),
            (rep::ACK, vec![])
        ]
    );
    assert_eq!(ask(&mut h, opt::LIST, b"x").1[0].0, rep::ERR_INVALID);
    assert_eq!(
        ask(&mut h, opt::EXTENDED_HEADERS, &[]).1[0].0,
        rep::ERR_UNSUP
    );
    assert_eq!(ask(&mut h, opt::STARTTLS, &[]).1[0].0, rep::ERR_POLICY);
    assert_eq!(ask(&mut h, 4711, b"what").1[0].0, rep::ERR_UNSUP);
    assert_eq!(
        ask(&mut h, opt::ABORT, &[]),
        (Step::Leave, vec![(rep::ACK, vec![])])
    );
    let mut out = Vec::new();
    assert_eq!(
        h.input(&mut option(opt::LIST, &[]), &One, &mut out),
        Err(HandshakeError::Order)
    );
}

#[test]
fn info_describes_without_opening() {
    let mut h = started();
    let (step, r) = ask(&mut h, opt::INFO, &go("r0", &[info::NAME]));
    assert_eq!(step, Step::Send);
    assert_eq!(r.len(), 4);
    assert_eq!(
        r[0],
        (
            rep::INFO,
            [&[0, 0][..], &(1u64 << 20).to_be_bytes(), &[0, 0x6d]].concat()
        )
    );
    assert_eq!(r[1].1, [0, 3, 0, 0, 2, 0, 0, 0, 16, 0, 0, 2, 0, 0]);
    assert_eq!(r[2].1, b"\0\x01r0/0");
    assert_eq!(r[3], (rep::ACK, vec![]));
    assert_eq!(
        ask(&mut h, opt::INFO, &go("nope", &[])).1[0].0,
        rep::ERR_UNKNOWN
    );
    assert_eq!(
        ask(&mut h, opt::INFO, &[0, 0, 0, 9, b'r']).1[0].0,
        rep::ERR_INVALID
    );
    let mut extra = go("r0", &[]);
    extra.push(0);
    assert_eq!(ask(&mut h, opt::INFO, &extra).1[0].0, rep::ERR_INVALID);
    let long = "x".repeat(MAX_STRING + 1);
    assert_eq!(
        ask(&mut h, opt::INFO, &go(&long, &[])).1[0].0,
        rep::ERR_TOO_BIG
    );
}

#[test]
fn go_waits_for_the_open_and_a_refusal_can_be_retried() {
    let mut h = started();
    assert_eq!(
        ask(&mut h, opt::STRUCTURED_REPLY, &[]).1,
        [(rep::ACK, vec![])]
    );
    assert_eq!(
        ask(&mut h, opt::GO, &go("", &[])).0,
        Step::Open {
            name: "r0/0".into()
        }
    );
    let mut out = Vec::new();
    let no = Refused {
        code: rep::ERR_POLICY,
        text: "another node is Primary".into(),
    };
    assert_eq!(h.opened(Err(no), &mut out), Ok(None));
    let r = replies(opt::GO, &out);
    assert_eq!(r, [(rep::ERR_POLICY, b"another node is Primary".to_vec())]);
    // Bytes behind the option stay in the input: they are requests already.
    let mut input = option(opt::GO, &go("r0/0", &[]));
    input.extend(b"tail");
    let step = h.input(&mut input, &One, &mut out).unwrap();
    assert_eq!(
        (step, &input[..]),
        (
            Step::Open {
                name: "r0/0".into()
            },
            &b"tail"[..]
        )
    );
    out.clear();
    let read_only = ExportInfo {
        flags: tx::READ_ONLY,
        ..export()
    };
    assert_eq!(
        h.opened(Ok(&read_only), &mut out),
        Ok(Some(Agreed { structured: true }))
    );
    let flags = tx::HAS_FLAGS | tx::READ_ONLY | tx::SEND_DF;
    assert_eq!(replies(opt::GO, &out)[0].1[10..], flags.to_be_bytes());
    assert_eq!(
        h.opened(Ok(&export()), &mut out),
        Err(HandshakeError::Order)
    );
}

#[test]
fn export_name_is_answered_without_a_reply_header() {
    for (client, zeroes) in [(1u8, 124), (3, 0)] {
        let mut out = Vec::new();
        let mut h = Handshake::new(&mut out);
        let mut input = vec![0, 0, 0, client];
        input.extend(option(opt::EXPORT_NAME, b"r0"));
        let step = h.input(&mut input, &One, &mut out).unwrap();
        assert_eq!(
            step,
            Step::Open {
                name: "r0/0".into()
            }
        );
        out.clear();
        assert_eq!(
            h.opened(Ok(&export()), &mut out),
            Ok(Some(Agreed::default()))
        );
        assert_eq!(out.len(), 10 + zeroes);
        assert_eq!(out[..8], (1u64 << 20).to_be_bytes());
    }
    let mut out = Vec::new();
    let r = started().input(&mut option(opt::EXPORT_NAME, b"nope"), &One, &mut out);
    assert!(matches!(r, Err(HandshakeError::Export(..))), "{r:?}");
}

#[test]
fn hostile_clients_are_hung_up_on() {
    for flags in [0u32, 2, 4, 7, u32::MAX] {
        let mut out = Vec::new();
        let mut h = Handshake::new(&mut out);
        let r = h.input(&mut flags.to_be_bytes().to_vec(), &One, &mut out);
        assert_eq!(r, Err(HandshakeError::ClientFlags(flags)));
    }
    let mut out = Vec::new();
    let r = started().input(&mut vec![0; 16], &One, &mut out);
    assert_eq!(r, Err(HandshakeError::Magic(0)));
    let mut huge = IHAVEOPT.to_be_bytes().to_vec();
    huge.extend(opt::GO.to_be_bytes());
    huge.extend([0xff; 4]);
    let r = started().input(&mut huge, &One, &mut out);
    assert!(matches!(r, Err(HandshakeError::TooLong { .. })), "{r:?}");
}

#[test]
fn requests_are_checked_against_the_export() {
    let e = export();
    let ask = |command, offset, len| {
        Request {
            command,
            cookie: 7,
            offset,
            len,
            payload: false,
        }
        .check(&e)
    };
    let write = Command::Write { fua: false };
    assert_eq!(ask(Command::Read, 0, 4096), Ok(()));
    assert_eq!(ask(Command::Read, (1 << 20) - 512, 512), Ok(()));
    assert_eq!(ask(Command::Read, 1 << 20, 512), Err(Errno::Invalid));
    assert_eq!(ask(write, 1 << 20, 512), Err(Errno::NoSpace));
    assert_eq!(ask(write, u64::MAX - 511, 512), Err(Errno::NoSpace));
    assert_eq!(ask(Command::Read, 0, 513), Err(Errno::Invalid));
    assert_eq!(ask(Command::Read, 1, 512), Err(Errno::Invalid));
    assert_eq!(ask(Command::Read, 0, 0), Err(Errno::Invalid));
    assert_eq!(
        ask(Command::Trim { fua: false }, 0, 1 << 20),
        Ok(()),
        "no payload, no limit"
    );
    assert_eq!(ask(Command::Unknown, 0, 512), Err(Errno::Invalid));
    assert_eq!(ask(Command::Flush, u64::MAX, 1), Ok(()));
    let large = ExportInfo {
        size: 1 << 40,
        ..export()
    };
    let mut r = Request {
        command: Command::Read,
        cookie: 0,
        offset: 0,
        len: MAX_READ,
        payload: false,
    };
    assert_eq!(r.check(&large), Ok(()));
    r.len += 512;
    assert_eq!(r.check(&large), Err(Errno::Invalid));
    let ro = ExportInfo {
        flags: tx::READ_ONLY | e.flags,
        ..e.clone()
    };
    let r = Request {
        command: write,
        cookie: 0,
        offset: 0,
        len: 512,
        payload: true,
    };
    assert_eq!(r.check(&ro), Err(Errno::Perm));
    let plain = ExportInfo { flags: 0, ..e };
    let r = Request {
        command: Command::Trim { fua: false },
        ..r
    };
    assert_eq!(r.check(&plain), Err(Errno::Invalid));
}

#[test]
fn request_bytes() {
    let r = Request {
        command: Command::Write { fua: true },
        cookie: 0x0102_0304_0506_0708,
        offset: 4096,
        len: 512,
        payload: true,
    };
    let b = r.encode();
    let expect = [
        0x25, 0x60, 0x95, 0x13, 0, 1, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0x10, 0, 0,
        0, 2, 0,
    ];
    assert_eq!(b, expect);
    assert_eq!(Request::parse(&b), Ok(r));
    let mut bad = b;
    bad[0] = 0;
    assert_eq!(Request::parse(&bad), Err(ParseError::Magic(0x0060_9513)));
    let mut long = b;
    long[24] = 0xff;
    assert_eq!(Request::parse(&long), Err(ParseError::TooLong(0xff00_0200)));
    // An unknown flag of a write: its payload is taken, then it is refused.
    let mut odd = b;
    odd[4] = 0x80;
    let odd = Request::parse(&odd).unwrap();
    assert!(odd.payload && odd.command == Command::Unknown);
}

#[test]
fn reply_bytes() {
    let head = ReplyHead::status(false, 7, Err(Errno::NoSpace));
    assert_eq!(
        head.as_bytes(),
        [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 28, 0, 0, 0, 0, 0, 0, 0, 7]
    );
    let head = ReplyHead::status(true, 7, Err(Errno::Io));
    let expect = [
        0x66, 0x8e, 0x33, 0xef, 0, 1, 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 6, 0, 0, 0, 5, 0, 0,
    ];
    assert_eq!(head.as_bytes(), expect);
    let head = ReplyHead::read(true, 7, 0x200, 4096);
    let expect = [
        0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0x10, 8, 0, 0, 0, 0, 0,
        0, 2, 0,
    ];
    assert_eq!(head.as_bytes(), expect);
    assert_eq!(
        ReplyHead::read(false, 7, 0, 1).as_bytes(),
        simple_reply(7, Ok(()))
    );
}

proptest! {
    #[test]
    fn any_header_is_parsed_or_refused(b in any::<[u8; REQUEST_LEN]>(), magic in any::<bool>()) {
        let mut b = b;
        if magic {
            b[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        }
        if let Ok(r) = Request::parse(&b) {
            let ok = r.check(&export());
            if ok.is_ok() && matches!(r.command, Command::Read | Command::Write { .. }) {
                prop_assert!(r.offset + u64::from(r.len) <= 1 << 20);
            }
        }
    }

    #[test]
    fn known_requests_round_trip(
        which in 0..6, fua in any::<bool>(), unmap in any::<bool>(),
        cookie in any::<u64>(), offset in any::<u64>(), len in 0..=MAX_PAYLOAD,
    ) {
        let command = match which {
            0 => Command::Read,
            1 => Command::Write { fua },
            2 => Command::Disconnect,
            3 => Command::Flush,
            4 => Command::Trim { fua },
            _ => Command::WriteZeroes { fua, unmap },
        };
        let r = Request { command, cookie, offset, len, payload: which == 1 };
        prop_assert_eq!(Request::parse(&r.encode()), Ok(r));
    }

    /// However the bytes are cut, the same comes out; and noise never breaks anything.
    #[test]
    fn handshake_takes_bytes_in_any_portions(
        noise in proptest::collection::vec(any::<u8>(), 0..64),
        kinds in proptest::collection::vec(0u32..13, 0..6),
        cut in 1usize..40,
    ) {
        let mut bytes = vec![0, 0, 0, 3];
        for k in &kinds {
            bytes.extend(option(*k, if *k == 6 { &noise } else { &[] }));
        }
        bytes.extend(&noise);
        let run = |cut: usize| {
            let mut out = Vec::new();
            let mut h = Handshake::new(&mut out);
            let mut input = Vec::new();
            for portion in bytes.chunks(cut) {
                input.extend(portion);
                loop {
                    match h.input(&mut input, &One, &mut out) {
                        Ok(Step::More) => break,
                        Ok(Step::Send) => {}
                        other => return (out, Some(other)),
                    }
                }
            }
            (out, None)
        };
        prop_assert_eq!(run(cut), run(usize::MAX));
    }
}
