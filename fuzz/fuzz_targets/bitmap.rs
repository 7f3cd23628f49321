//! The run-length code of compressed bitmaps: any run lengths that fit a packet come back, and any bytes
//! decode to runs that, encoded again, are those bytes.
#![no_main]

use drbd_proto::vli::{MAX_RUN, RunEncoder, Runs};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: (bool, u16, Vec<u64>, Vec<u8>)| {
    let (first_set, max_bytes, lens, code) = data;

    let mut encoder = RunEncoder::new(first_set, usize::from(max_bytes % 4080));
    let pushed: Vec<u64> = lens
        .into_iter()
        .take_while(|len| encoder.push(*len))
        .collect();
    assert!(pushed.iter().all(|len| (1..=MAX_RUN).contains(len)));
    if let Some(packet) = encoder.finish() {
        let back = packet
            .runs(0, u64::MAX)
            .map(|run| run.expect("a run that was encoded").len);
        assert!(back.eq(pushed));
    }

    let runs = Runs::new(&code, 0, first_set, 0, u64::MAX);
    let mut encoder = RunEncoder::new(first_set, code.len());
    for run in runs.map_while(Result::ok) {
        assert!(encoder.push(run.len));
    }
    if let Some(mut packet) = encoder.finish() {
        // All but the last byte, of which the packet may not use all bits.
        packet.code.pop();
        assert!(code.starts_with(&packet.code));
    }
});
