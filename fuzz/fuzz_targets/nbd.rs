//! NBD clients of any kind: the handshake answers or hangs up, however the bytes are cut; a request that passes
//! the checks lies within the export. FUSE requests go along: any bytes are parsed or refused.
#![no_main]

use drbd_node::frontend::fuse::codec::Request as FuseRequest;
use drbd_node::frontend::nbd::codec::{Command, IHAVEOPT, MAX_READ, REQUEST_LEN, Request};
use drbd_node::frontend::nbd::handshake::{ExportInfo, Exports, Handshake, Refused, Step};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input {
    export: (u32, u16),
    options: Vec<(u8, Vec<u8>)>,
    tail: Vec<u8>,
    cut: u8,
    refuse: bool,
}

struct One(ExportInfo);

impl Exports for One {
    fn list(&self) -> Vec<String> {
        vec![self.0.name.clone()]
    }
    fn find(&self, name: &str) -> Option<ExportInfo> {
        ["", "r", "r/0"].contains(&name).then(|| self.0.clone())
    }
}

fuzz_target!(|input: Input| {
    let export = ExportInfo {
        name: "r/0".into(),
        size: u64::from(input.export.0) * 512,
        flags: input.export.1,
        min_block: 512,
        preferred_block: 4096,
        max_block: 1 << 20,
    };
    let exports = One(export.clone());
    let mut bytes = vec![0, 0, 0, 3];
    for (kind, data) in &input.options {
        bytes.extend(IHAVEOPT.to_be_bytes());
        bytes.extend(u32::from(*kind).to_be_bytes());
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(data);
    }
    bytes.extend(&input.tail);

    let (mut out, mut pending) = (Vec::new(), Vec::new());
    let mut handshake = Handshake::new(&mut out);
    'session: for portion in bytes.chunks(usize::from(input.cut).max(1)) {
        pending.extend_from_slice(portion);
        loop {
            match handshake.input(&mut pending, &exports, &mut out) {
                Ok(Step::Send) => {}
                Ok(Step::More) => break,
                Ok(Step::Leave) | Err(_) => break 'session,
                Ok(Step::Open { name }) => {
                    assert_eq!(name, "r/0");
                    let refused = Refused { code: 2, text: "no".into() };
                    let result = if input.refuse { Err(refused) } else { Ok(&export) };
                    match handshake.opened(result, &mut out) {
                        Ok(None) => assert!(input.refuse),
                        Ok(Some(_)) | Err(_) => break 'session,
                    }
                }
            }
        }
        out.clear();
    }

    for header in input.tail.chunks_exact(REQUEST_LEN) {
        let mut header: [u8; REQUEST_LEN] = header.try_into().expect("that long");
        header[..4].copy_from_slice(&0x2560_9513u32.to_be_bytes());
        if let Ok(request) = Request::parse(&header)
            && request.check(&export).is_ok()
            && !matches!(request.command, Command::Flush | Command::Disconnect)
        {
            assert!(request.offset + u64::from(request.len) <= export.size);
            assert!(request.command != Command::Read || request.len <= MAX_READ);
        }
    }
    let _ = FuseRequest::parse(&input.tail, input.tail.len());
});
