//! The text of a dump: any bytes are parsed or refused, quickly and without a panic. What is patched
//! into a good dump reaches the grammar behind its first lines.
#![no_main]

use drbd_tools::meta::run_with;
use libfuzzer_sys::{Corpus, fuzz_target};
use std::sync::LazyLock;

/// Good dumps to start from.
const GOOD: [(&str, &str); 3] = [
    ("v07", include_str!("../seeds/dump/v07")),
    ("v08", include_str!("../seeds/dump/v08")),
    ("v09", include_str!("../seeds/dump/v09")),
];

static FILE: LazyLock<String> = LazyLock::new(|| {
    let name = format!("drbd-fuzz-dump-{}", std::process::id());
    std::env::temp_dir().join(name).display().to_string()
});

fuzz_target!(|data: (u8, Vec<(u16, Vec<u8>)>)| -> Corpus {
    let (base, patches) = data;
    let (version, good) = GOOD[usize::from(base % 3)];
    let mut text = good.as_bytes().to_vec();
    for (at, patch) in patches {
        let at = usize::from(at) % (text.len() + 1);
        // Half of the patches replace, half insert.
        let end = if patch.len() % 2 == 0 { (at + patch.len()).min(text.len()) } else { at };
        text.splice(at..end, patch);
    }
    std::fs::write(&*FILE, &text).unwrap();
    let line = ["-", version, "nowhere", "flex-external", "verify-dump", FILE.as_str()];
    let code = run_with(line.map(str::to_owned), std::io::sink, std::io::sink);
    assert!(code == 0 || code == 10, "exit code {code}");
    Corpus::Keep
});
