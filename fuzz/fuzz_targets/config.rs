//! Configurations and running configurations of any content: an answer or an error, never a panic, a hang or
//! memory without bound; every finding can be shown; what is accepted is dumped as what reads back as the same.
//! The last byte selects the dialect and how much is completed, so that plain files are a start for the corpus.
#![no_main]

use drbd_config::{Config, Environment, Input, Parser, dump, dump_xml, expand};
use libfuzzer_sys::fuzz_target;

fn environment() -> Environment {
    Environment {
        addresses: Some(Vec::new()),
        driver_version: Some([9, 2, 14]),
        ..Environment::named("alpha")
    }
}

/// Reads and completes; `None` if there is an error. All findings are rendered.
fn read(text: &[u8], running: bool, extent: expand::Extent) -> Option<Config> {
    let environment = environment();
    let mut parser = Parser::new(&environment);
    if running {
        parser.running();
    }
    parser.read(Input::Text { name: "fuzz".to_owned(), text: text.to_vec() });
    let parsed = parser.finish();
    let (mut config, mut found) = (parsed.config, parsed.diagnostics);
    if !expand::failed(&found) && !running {
        found.extend(expand::expand(&mut config, &environment, extent));
    }
    for finding in &found {
        assert!(finding.render(&config.sources).ends_with('\n'));
    }
    (!expand::failed(&found)).then_some(config)
}

/// A dump without its comments, which name files and lines.
fn plain(config: &Config) -> String {
    let text = dump::config(config, &environment(), false);
    text.lines().filter(|l| !l.trim_start().starts_with('#')).map(|l| format!("{l}\n")).collect()
}

fuzz_target!(|data: &[u8]| {
    let Some((mode, text)) = data.split_last() else { return };
    // Other files are not part of the input.
    let outside = |word: &[u8]| text.windows(word.len()).any(|w| w == word);
    if outside(b"include") || outside(b"template-file") {
        return;
    }
    let extent = match mode % 4 {
        0 => expand::Extent::Written,
        1 => expand::Extent::Structure,
        2 => expand::Extent::Own,
        _ => expand::Extent::All,
    };
    let running = mode & 4 != 0;
    let Some(config) = read(text, running, extent) else { return };
    let environment = environment();
    let _ = dump::config(&config, &environment, true);
    let _ = dump_xml::config(&config);
    for at in 0..config.resources.len().min(4) {
        let mut config = read(text, running, extent).expect("accepted before");
        let _ = expand::resync_after(&mut config, at, &environment);
    }
    if running || extent != expand::Extent::Written {
        return;
    }
    let first = plain(&config);
    let Some(again) = read(first.as_bytes(), false, extent) else {
        panic!("the dump does not read back:\n{first}");
    };
    assert_eq!(plain(&again), first);
});
